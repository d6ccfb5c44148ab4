/* What a master takes over from others after a change of the masters, while it votes (protocol.md
 * 2.10, step 4): who else may hold a key, and what nobody can hold any more. The walk over the
 * slots is in resync.c. */
#include "core/internal.h"

enum { MAY_HOLD = 16 /* in lease.reports */ };

/* Could it grant before the masters changed? */
static bool granted_before(const struct engine *e)
{
	return (e->masters_before & (1u << e->self_index)) != 0;
}

/* A blocking set of those that could grant before, this one among them if it could: it meets every
 * majority of them, and none is left that has not moved on (protocol.md 2.10, step 4). Who else
 * is there gets a moment. */
bool merge_enough(const struct engine *e, const struct sync *s)
{
	unsigned knows = count_bits(s->finished);
	bool all = (peers_before(e) & ~s->finished) == 0;
	knows += granted_before(e);
	if (MUTANT(MERGE_ONE) && knows > 0)
		return true;
	return knows >= e->blocking_before && (all || e->now.slow_ns >= s->due_ns);
}

static void add_report(struct lease *l, unsigned by)
{
	if (l->reports <= UINT8_MAX - by)
		l->reports += (uint8_t)by;
}

/* The same instance is known here: for how long, which value, and whether it is a lock. That it is
 * one its coordinator need not know, if somebody has adopted it (simulator, seed 20001495: its
 * ABORT took away what the masters of before had confirmed). */
static uint32_t merge_same(
	struct engine *e, uint64_t hash, uint32_t ref, const struct sync_entry *s)
{
	const struct lease *l = lease_at(e, ref);
	uint64_t long_ns = l->end_ns + e->attempt_ns; /* less is not worth a record */
	struct version vb = lease_vb(e, l);
	if (s->flags & SYNC_SHADOW)
		lease_outlast(e, lease_at(e, ref), s->remaining_ns);
	else
		ref = lease_catch_up(e, hash, ref, s);
	if (ref == 0)
		return 0;
	l = lease_at(e, ref);
	bool seen = lease_is_visible(l);
	if ((l->flags & LEASE_UNCONFIRMED) && !(s->flags & (SYNC_SHADOW | SYNC_UNCONFIRMED)))
		lease_confirm(e, hash, ref);
	if (seen && (l->end_ns > long_ns || version_cmp(lease_vb(e, l), vb) != 0))
		log_changed(e, hash, l);
	return ref;
}

/* What another master says of one key, in a slot that votes: nothing is granted on its word, only
 * refused. False: no room. */
bool merge_refusals(struct engine *e, uint64_t hash, const struct sync_entry *s)
{
	uint32_t ref = lease_find(e, hash, s->key);
	const struct lease *l = ref == 0 ? NULL : lease_at(e, ref);
	bool shadow = (s->flags & SYNC_SHADOW) != 0;
	bool same = l != NULL && lease_is_live(l) && ballot_eq(lease_uid(l), s->uid);
	ref = same ? merge_same(e, hash, ref, s) : lease_shadow(e, hash, s);
	if (ref == 0)
		return false;
	l = lease_at(e, ref);
	/* A SHADOW of nobody knows whom may be of this instance as well. */
	bool counts = ballot_eq(lease_uid(l), s->uid) || (shadow && s->uid.n == 0);
	if (counts && !(l->flags & LEASE_RESYNC)) /* there a heal counts */
		add_report(lease_at(e, ref), shadow ? MAY_HOLD : 1);
	if (!same && !shadow && !(s->flags & SYNC_UNCONFIRMED))
		heal_merged(e, hash, s->key);
	return true;
}

/* A blocking set of those that could grant before do not hold it, and this master has not voted for
 * it since: nobody believes in it (protocol.md 2.10; simulator, seed 3103317: what another master
 * had released on its own was written over by its heir in the new configuration). Only a SHADOW
 * that these reports have made says that this master does not hold it. */
static bool is_ruled_out(const struct engine *e, const struct sync *s, const struct lease *l)
{
	bool of_one = lease_is_live(l) || (l->flags & LEASE_NOT_LIVE) == LEASE_SHADOW;
	bool made = granted_before(e) && !lease_is_live(l) &&
		    l->since_ns >= (int64_t)s->due_ns - (int64_t)e->attempt_ns;
	unsigned holders = l->reports % MAY_HOLD + l->reports / MAY_HOLD;
	unsigned told = count_bits(s->finished) + made;
	if (!of_one || holders > told || (!lease_is_live(l) && !(l->flags & LEASE_DOUBTED)))
		return false;
	return told - holders >= e->blocking_before;
}

/* After a change that makes the blocking set smaller, a lock that a majority had released before
 * might be live on one. What is not live on a blocking set of before is no vote any more
 * (protocol.md 2.10); what was granted since then is, unless another one stands behind it: when the
 * next change makes the majority smaller, it could be one by itself (simulator, seed 714). */
void merge_settle(struct engine *e, const struct sync *s, struct gathered g)
{
	struct lease *l = lease_at(e, g.ref);
	if (l->flags & LEASE_RESYNC)
		return; /* its heal ends it */
	bool old = !lease_is_live(l) || l->since_ns < e->changed_slow_ns;
	bool smaller = e->blocking < e->blocking_before && !MUTANT(MERGE_KEEPS_LIVE);
	bool vouched = (l->flags & LEASE_VOUCHED) != 0;
	l->flags &= (uint16_t)~LEASE_VOUCHED;
	if (old && !vouched && is_ruled_out(e, s, l) && !MUTANT(MERGE_KEEPS_LIVE)) {
		lease_end(e, g.hash, g.ref);
		return;
	}
	bool doubtful = (smaller && old) || (lease_is_live(l) && lease_has_behind(e, l));
	if (lease_is_live(l) && doubtful && l->reports % MAY_HOLD + 1U < e->blocking_before) {
		promise_drop_answers(e, l);
		lease_flags(e, l, LEASE_SHADOW | LEASE_DOUBTED,
			LEASE_UNCONFIRMED | LEASE_ASKED | LEASE_STICKY | LEASE_HEARSAY);
		lease_rearm(e, g.ref);
	}
	l->reports = 0;
}
