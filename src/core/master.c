/* The voter: one handler per request of protocol.md 2.5. Nothing here looks at what this node
 * coordinates itself; a local request comes through the same door as a remote one. */
#include "core/internal.h"

/* Raise what is known of the key without granting anything: refusals and releases bind. */
static void seal(struct engine *e, uint64_t hash, uint32_t ref, uint64_t n)
{
	if (MUTANT(RELEASE_UNSEALED))
		return;
	if (ref != 0)
		lease_raise_maxn(e, ref, n);
	else if (n > free_maxn(e, hash))
		tombs_put(&e->tombs, hash, slot_of(e, hash), n, e->now.slow_ns);
}

static void tell_instance(const struct engine *e, const struct lease *l, struct msg *reply)
{
	reply->uid = lease_uid(l);
	reply->remaining_ns = l->end_ns - e->now.slow_ns;
	reply->flags |= l->flags & LEASE_UNCONFIRMED ? MSG_UNCONFIRMED : 0;
	reply->flags |= l->flags & LEASE_HEARSAY && !MUTANT(HEARSAY_COUNTS) ? MSG_HEARSAY : 0;
}

static void tell_value(const struct engine *e, const struct lease *l, struct msg *reply)
{
	tell_instance(e, l, reply);
	reply->b = lease_vb(e, l);
	reply->value = lease_value(l);
	reply->name = name_at(e, l->name);
	reply->node = l->node;
	reply->held_ns = lease_held_ns(l, &e->now);
	reply->flags |= MSG_HAS_VALUE;
}

/* Remove the attempt that @m replaces, if it is still only a promise. */
static uint32_t remove_previous(
	struct engine *e, uint64_t hash, uint32_t ref, const struct msg *m, struct msg *reply)
{
	struct lease *l = lease_at(e, ref);
	if (m->prev.n == 0 || !ballot_eq(lease_uid(l), m->prev))
		return ref;
	bool granted = !(l->flags & LEASE_UNCONFIRMED) && !MUTANT(PREV_CONFIRMED);
	if (granted && !(m->flags & MSG_PREV_RELEASED))
		return ref;
	if (l->flags & LEASE_UNCONFIRMED)
		lease_withdraw(e, hash, ref);
	else
		lease_end(e, hash, ref);
	reply->flags |= MSG_PREV_REMOVED;
	return lease_find(e, hash, m->key); /* a shadow may stand behind it */
}

/* SHADOW and RESYNC: nothing is granted and nothing told; a release is sealed all the same. */
static bool on_blocked(
	struct engine *e, uint64_t hash, uint32_t ref, const struct msg *m, struct msg *reply)
{
	struct lease *l = lease_at(e, ref);
	if (m->type == MSG_RELEASE || m->type == MSG_ABORT) {
		lease_raise_maxn(e, ref, m->uid.n);
		/* A shadow does not know which version a guarded release is of. */
		bool blind = (l->flags & LEASE_SHADOW) && m->b.n != 0 && !MUTANT(RELEASE_SHADOWED);
		if ((l->flags & LEASE_RESYNC) && !blind && !MUTANT(HEAL_RELEASED))
			l->flags |= LEASE_SEALED;
		reply->verdict = blind ? VERDICT_SHADOW : VERDICT_ACK;
		return ballot_cover(e, m->uid.n);
	}
	if (MUTANT(HEAL_ANSWERS) && m->type == MSG_TRYLOCK && (l->flags & LEASE_RESYNC)) {
		reply->verdict = VERDICT_ACK;
		return ballot_cover(e, m->uid.n);
	}
	if (m->type == MSG_EXTEND && !(l->flags & LEASE_RESYNC))
		heal_hinted(e, hash, m->key);
	reply->verdict = l->flags & LEASE_RESYNC ? VERDICT_RESYNC : VERDICT_SHADOW;
	reply->remaining_ns = l->end_ns > e->now.slow_ns ? l->end_ns - e->now.slow_ns : 0;
	return true;
}

static bool on_trylock(
	struct engine *e, uint64_t hash, uint32_t ref, const struct msg *m, struct msg *reply)
{
	if (ref != 0 && ballot_eq(lease_uid(lease_at(e, ref)), m->uid)) {
		reply->verdict = VERDICT_ACK; /* a duplicate; its end stays what it was */
		return true;
	}
	if (m->lease_ms > e->cfg.max_lease_ms) {
		reply->verdict = VERDICT_LIMIT;
		return true;
	}
	if (ref != 0)
		ref = remove_previous(e, hash, ref, m, reply);
	if (ref != 0 && !lease_is_live(lease_at(e, ref)))
		return on_blocked(e, hash, ref, m, reply);
	if (ref != 0 && MUTANT(TRYLOCK_OVERWRITES)) {
		lease_end(e, hash, ref);
		ref = 0;
	}
	if (ref != 0) {
		lease_raise_maxn(e, ref, m->uid.n);
		reply->verdict = VERDICT_HELD;
		tell_instance(e, lease_at(e, ref), reply);
		return ballot_cover(e, m->uid.n);
	}
	uint64_t maxn = free_maxn(e, hash);
	if (m->uid.n <= maxn && !MUTANT(TRYLOCK_ANY_BALLOT)) {
		reply->verdict = VERDICT_STALE;
		reply->n = maxn;
		e->stats.stale++;
		return true;
	}
	if (!ballot_cover(e, m->uid.n)) {
		reply->verdict = VERDICT_CEIL;
		return true;
	}
	reply->verdict = lease_new(e, hash, m) != 0 ? VERDICT_ACK : VERDICT_LIMIT;
	if (e->turns.used > 0 && reply->verdict == VERDICT_ACK)
		turn_taken(e, hash, m->key, m->node);
	return true;
}

static bool on_release(
	struct engine *e, uint64_t hash, uint32_t ref, const struct msg *m, struct msg *reply)
{
	reply->verdict = VERDICT_ACK;
	if (ref != 0 && (ballot_eq(lease_uid(lease_at(e, ref)), m->uid) || MUTANT(RELEASE_ANY))) {
		const struct lease *l = lease_at(e, ref);
		if (m->b.n != 0 && version_cmp(lease_pb(e, l), m->b) != 0 &&
			!MUTANT(RELEASE_UNGUARDED)) {
			reply->verdict = VERDICT_PROMISED;
			lease_doubt(e, ref);
			if (MUTANT(WAKE_ENDED_SPURIOUS))
				line_wake_ended(e, hash, m->key);
			return true;
		}
		lease_end(e, hash, ref);
		reply->flags |= MSG_WAS_LIVE;
		ref = 0;
	}
	seal(e, hash, ref, m->uid.n);
	return ballot_cover(e, m->uid.n);
}

static bool on_abort(
	struct engine *e, uint64_t hash, uint32_t ref, const struct msg *m, struct msg *reply)
{
	reply->verdict = VERDICT_ACK;
	if (ref != 0 && ballot_eq(lease_uid(lease_at(e, ref)), m->uid)) {
		/* An EXTEND by value may have adopted the attempt: then it is somebody's lock. */
		if ((lease_at(e, ref)->flags & LEASE_UNCONFIRMED) || MUTANT(ABORT_CONFIRMED)) {
			lease_withdraw(e, hash, ref);
			reply->flags |= MSG_WAS_LIVE;
			ref = 0;
		} else {
			reply->verdict = VERDICT_CONFIRMED;
		}
	}
	seal(e, hash, ref, m->uid.n);
	return ballot_cover(e, m->uid.n);
}

static bool extend_matches(const struct lease *l, const struct msg *m, struct msg *reply)
{
	if (MUTANT(EXTEND_ANY))
		return true;
	if ((m->uid.n != 0 && !ballot_eq(m->uid, lease_uid(l))) ||
		(m->n != 0 && m->n != l->token)) {
		reply->verdict = VERDICT_OTHER;
		return false;
	}
	if ((m->flags & MSG_HAS_VALUE) && !bytes_eq(m->value, lease_value(l))) {
		reply->verdict = VERDICT_MISMATCH;
		return false;
	}
	return true;
}

static void last_until(struct lease *l, uint64_t end_ns)
{
	if (end_ns > l->end_ns)
		l->end_ns = end_ns; /* the wheel finds out when it comes by */
}

static void prolong(struct engine *e, struct lease *l, uint32_t lease_ms)
{
	uint64_t end_ns = e->now.slow_ns + (lease_ms + 1) * NS_PER_MS;
	if (MUTANT(EXPIRY_EARLY))
		end_ns -= lease_ms * NS_PER_MS / 4;
	last_until(l, end_ns);
}

/* What a certificate may rest on is not ruled out by what others held before. */
static void vouch(const struct engine *e, uint64_t hash, struct lease *l)
{
	if (!e->slot_merged[slot_of(e, hash)])
		l->flags |= LEASE_VOUCHED;
}

static bool on_extend(
	struct engine *e, uint64_t hash, uint32_t ref, const struct msg *m, struct msg *reply)
{
	if (m->lease_ms > e->cfg.max_lease_ms) {
		reply->verdict = VERDICT_LIMIT;
		return true;
	}
	if (ref == 0 && MUTANT(EXTEND_INSTALLS) && m->uid.n != 0)
		ref = lease_new(e, hash, m);
	if (ref == 0) {
		reply->verdict = VERDICT_ABSENT; /* an EXTEND never installs (protocol.md 0) */
		heal_hinted(e, hash, m->key);
		return true;
	}
	struct lease *l = lease_at(e, ref);
	if (extend_matches(l, m, reply)) {
		prolong(e, l, m->lease_ms);
		vouch(e, hash, l);
		if (lease_is_visible(l))
			log_changed(e, hash, l);
		if (!MUTANT(EXTEND_UNCONFIRMING))
			lease_confirm(e, hash, ref);
		reply->verdict = VERDICT_ACK;
	}
	tell_instance(e, l, reply);
	reply->b = lease_vb(e, l);
	return true;
}

static bool on_prepare(struct engine *e, uint32_t ref, const struct msg *m, struct msg *reply)
{
	if (ref == 0) {
		reply->verdict = VERDICT_ABSENT;
		return true;
	}
	struct lease *l = lease_at(e, ref);
	struct version pb = lease_pb(e, l);
	if (version_cmp(m->b, pb) <= 0) {
		reply->verdict = VERDICT_HIGHER;
		reply->b = pb;
		reply->n = pb.n;
		return true;
	}
	struct side *side = lease_side(e, l);
	if (side == NULL) {
		reply->verdict = VERDICT_LIMIT;
		return true;
	}
	uint64_t patience_ns = 3 * e->rtt_ns;
	if (patience_ns > PROMISE_CAP_MS * NS_PER_MS)
		patience_ns = PROMISE_CAP_MS * NS_PER_MS;
	if (pb.cid != m->b.cid && version_cmp(pb, side->vb) > 0 &&
		e->now.slow_ns - side->pb_ns < patience_ns) {
		reply->verdict = VERDICT_BUSY; /* contention control only */
		return true;
	}
	side->pb = m->b;
	side->pb_ns = e->now.slow_ns;
	if (!MUTANT(UPDATE_STICKY))
		l->flags &= (uint16_t)~LEASE_STICKY;
	reply->verdict = VERDICT_PROMISE;
	reply->op_id = side->last_op;
	tell_value(e, l, reply);
	return true;
}

/* Did this master promise what the ACCEPT rests on, and was that counted? A sticky one (nothing
 * remaining) rests on what a majority promised before. */
static bool is_witness(const struct engine *e, const struct lease *l, const struct msg *m)
{
	if (m->remaining_ns == 0)
		return true;
	const struct side *side = l->side == 0 ? NULL : arena_at(&e->arena, l->side);
	return !(m->flags & MSG_HEARSAY) && side != NULL && side->pb_ns != 0 &&
	       version_cmp(side->pb, m->b) == 0;
}

/* Extended since it promised, beyond what the coordinator was told then: the promises have to be
 * asked for anew (protocol.md 3, Lemma 1). Counted from the promise: the ACCEPT may be late. */
static bool outlasts(const struct engine *e, const struct lease *l, const struct msg *m)
{
	if (m->remaining_ns == 0 || !is_witness(e, l, m))
		return false;
	const struct side *side = arena_at(&e->arena, l->side);
	uint64_t since_ns = MUTANT(UPDATE_LATE) ? e->now.slow_ns : side->pb_ns;
	return l->end_ns > since_ns + m->remaining_ns;
}

static bool on_accept(
	struct engine *e, uint64_t hash, uint32_t ref, const struct msg *m, struct msg *reply)
{
	if (ref == 0 || !ballot_eq(lease_uid(lease_at(e, ref)), m->uid)) {
		reply->verdict = VERDICT_ABSENT;
		return true;
	}
	struct lease *l = lease_at(e, ref);
	struct version pb = lease_pb(e, l), vb = lease_vb(e, l);
	/* The sticky coordinator writes under the ballot it was promised with: only seq moves. */
	bool promised = version_cmp(m->b, pb) < 0 && !MUTANT(ACCEPT_LOWER);
	if (promised || version_cmp(m->b, vb) <= 0 || outlasts(e, l, m)) {
		reply->verdict = VERDICT_HIGHER;
		reply->b = pb;
		reply->n = pb.n;
		return true;
	}
	uint64_t longest_ns = UINT64_C(2) * e->cfg.max_lease_ms * NS_PER_MS;
	bool witness = is_witness(e, l, m);
	bool bounded = m->lease_ms <= e->cfg.max_lease_ms && m->remaining_ns <= longest_ns;
	struct side *side = bounded ? lease_side(e, l) : NULL;
	uint32_t moved = side == NULL ? 0 : lease_set_value(e, hash, ref, m->value);
	if (moved == 0) {
		reply->verdict = VERDICT_LIMIT;
		return true;
	}
	l = lease_at(e, moved);
	/* Whoever wrote this owns the ballot now; if that was us, accepted() says so. */
	l->flags &= (uint16_t) ~(LEASE_STICKY | LEASE_HEARSAY);
	l->flags |= witness ? 0 : LEASE_HEARSAY;
	side->vb = side->pb = m->b;
	side->last_op = m->op_id;
	vouch(e, hash, l);
	if (m->remaining_ns != 0)
		last_until(l, e->now.slow_ns + m->remaining_ns);
	if (m->lease_ms != 0)
		prolong(e, l, m->lease_ms);
	lease_confirm(e, hash, moved);
	reply->verdict = VERDICT_ACK;
	tell_instance(e, l, reply);
	return true;
}

static bool on_read(
	struct engine *e, uint64_t hash, uint32_t ref, const struct msg *m, struct msg *reply)
{
	if ((m->flags & MSG_PROBE) && !slot_in_sync(e, slot_of(e, hash)) &&
		!MUTANT(PROBE_UNMERGED)) {
		reply->verdict = VERDICT_RESYNC;
		return true;
	}
	/* The one asked about may be the one that stands behind. */
	if ((m->flags & MSG_PROBE) && ref != 0 && lease_has_behind(e, lease_at(e, ref))) {
		reply->verdict = VERDICT_SHADOW;
		return true;
	}
	if (m->n != 0) {
		seal(e, hash, ref, m->n);
		if (!ballot_cover(e, m->n))
			return false;
	}
	if (ref != 0) {
		reply->verdict = VERDICT_LIVE;
		tell_value(e, lease_at(e, ref), reply);
		reply->n = lease_at(e, ref)->maxn;
		return true;
	}
	reply->verdict = VERDICT_FREE;
	/* Without a tombstone the answer is "none": nothing of it for T_tomb at least. After an
	 * early fold nobody can say that, so the floor is told, and the reader has to seal. */
	bool whole = m->n == 0 && !tombs_forgot_early(&e->tombs, slot_of(e, hash), e->now.slow_ns);
	reply->n = whole ? tombs_get(&e->tombs, hash) : free_maxn(e, hash);
	return true;
}

/* Until this master has merged, a lock that a majority of the masters before the change holds may
 * be one that it does not know, and that fewer than a majority holds now: its word denies nothing
 * (simulator, seed 3035: {1,2} of {1,2,3} held, 1 was removed, 3 alone said NOTFOUND). */
static bool deny_nothing(struct engine *e, uint64_t hash, const struct msg *m, struct msg *reply)
{
	bool denies = reply->verdict == VERDICT_ABSENT || reply->verdict == VERDICT_OTHER ||
		      reply->verdict == VERDICT_MISMATCH;
	if (!denies || e->slot_merged[slot_of(e, hash)])
		return true;
	if (reply->verdict == VERDICT_ABSENT)
		heal_hinted(e, hash, m->key);
	reply->verdict = VERDICT_RESYNC;
	return true;
}

bool master_handle(struct engine *e, uint64_t hash, const struct msg *m, struct msg *reply)
{
	*reply = (struct msg){
		.type = MSG_REPLY, .req_type = m->type, .slot = m->slot, .req = m->req};
	ballot_merge(e, m->uid.n);
	ballot_merge(e, m->b.n);
	/* The n of EXTEND is what a client calls its token: no ballot that anybody made. */
	if (m->type == MSG_READ)
		ballot_merge(e, m->n);
	/* The slot that a message is addressed to is only for finding its way. */
	if (!slot_votes(e, slot_of(e, hash))) {
		reply->verdict = VERDICT_RESYNC;
		return true;
	}
	uint32_t ref = lease_find(e, hash, m->key);
	if (ref != 0 && !lease_is_live(lease_at(e, ref)))
		return on_blocked(e, hash, ref, m, reply);
	switch (m->type) {
	case MSG_TRYLOCK:
		return on_trylock(e, hash, ref, m, reply);
	case MSG_RELEASE:
		return on_release(e, hash, ref, m, reply);
	case MSG_ABORT:
		return on_abort(e, hash, ref, m, reply);
	case MSG_EXTEND:
		return on_extend(e, hash, ref, m, reply) && deny_nothing(e, hash, m, reply);
	case MSG_PREPARE:
		return on_prepare(e, ref, m, reply) && deny_nothing(e, hash, m, reply);
	case MSG_ACCEPT:
		return on_accept(e, hash, ref, m, reply);
	case MSG_READ:
		return on_read(e, hash, ref, m, reply);
	default:
		return false;
	}
}

void master_confirm(struct engine *e, const struct msg *m)
{
	uint64_t hash = hash_bytes(m->key);
	if (!slot_votes(e, slot_of(e, hash)))
		return;
	uint32_t ref = lease_find(e, hash, m->key);
	struct lease *l = ref == 0 ? NULL : lease_at(e, ref);
	if (l != NULL && lease_is_live(l) && ballot_eq(lease_uid(l), m->uid))
		lease_confirm(e, hash, ref);
	else if (l == NULL || (l->flags & LEASE_NOT_LIVE) == LEASE_SHADOW)
		heal_later(e, hash, m->key);
	else if (m->uid.n > l->token) /* or being healed, perhaps in vain */
		l->flags |= LEASE_MISSED;
}
