/* Voting again after a restart (protocol.md 2.8). Slot by slot this master asks the others what
 * they hold; when a blocking set has told everything, what they agree on becomes LIVE and the rest
 * a SHADOW, and when the ceiling is durable above all of it the slot votes.
 *
 * A heal pass walks the slots in the same way while they vote, to find keys that were missed:
 * heal.c deals with each. */
#include <string.h>

#include "core/internal.h"

/* The order in which a round of questions uses the bits of `req`: number, place in syncs, master.
 */
#define REQ_SYNC_SHIFT 8
#define REQ_SEQ_SHIFT  16

enum { RESYNC_AGAIN_PARTS = 4 }; /* who cannot tell yet is asked again after T_att over this */

static bool is_mine(const struct engine *e, unsigned slot)
{
	return e->self_index != NO_MASTER && slot % e->cfg.threads == e->cfg.shard;
}

void resync_init(struct engine *e)
{
	for (unsigned i = 0; i < e->cfg.slots; i++)
		e->slots_mine += is_mine(e, i);
	e->resync_due_ns = UINT64_MAX;
}

static void look_at(struct engine *e, uint64_t at_slow_ns)
{
	if (at_slow_ns < e->resync_due_ns)
		e->resync_due_ns = at_slow_ns;
}

static void vote(struct engine *e, uint16_t slot)
{
	CHECK(!slot_votes(e, slot));
	e->slot_state[slot] = SLOT_VOTES;
	e->slots_voting++;
}

/* What was forgotten may be of the last moment. */
static void raise_floor(struct engine *e, uint16_t slot, uint64_t floor_n)
{
	tombs_raise_floor(&e->tombs, slot, floor_n, MUTANT(NEVER_SEEN) ? 0 : e->now.slow_ns);
}

void resync_begin(struct engine *e)
{
	e->restarted = true;
	e->next_sync = 0;
	look_at(e, e->now.slow_ns);
}

/* Entries of slots that vote no more keep what they know; nothing is told of it, or changed. What
 * is being told goes on: nobody's word may count twice. */
void resync_stop(struct engine *e)
{
	for (unsigned i = 0; i < SYNC_SLOTS; i++)
		if (e->syncs[i].state != SYNC_NONE && !e->syncs[i].heal)
			return;
	memset(e->slot_state, SLOT_SILENT, sizeof e->slot_state);
	memset(e->syncs, 0, sizeof e->syncs);
	e->slots_voting = 0;
	e->restarted = e->heal_wanted = e->healing = false;
	e->resync_due_ns = UINT64_MAX;
}

void resync_give_up(struct engine *e, uint64_t floor_n)
{
	e->restarted = false;
	for (unsigned i = 0; i < SYNC_SLOTS; i++) {
		struct sync *s = &e->syncs[i];
		bool complete = s->state == SYNC_SETTLING || s->state == SYNC_COVERING;
		if (s->state == SYNC_NONE || s->heal || complete)
			continue;
		s->state = SYNC_PURGING;
		s->fallback = true;
		s->floor_n = floor_n;
		s->cursor = slot_first_hash(e, s->slot);
		look_at(e, e->now.slow_ns);
	}
	for (uint16_t i = 0; i < e->cfg.slots; i++) {
		if (!is_mine(e, i) || e->slot_state[i] != SLOT_SILENT)
			continue;
		if (floor_n != 0)
			raise_floor(e, i, floor_n);
		vote(e, i);
	}
}

void resync_heal(struct engine *e)
{
	if (e->self_index == NO_MASTER || e->cfg.n_masters == 1)
		return;
	e->heal_wanted = true;
	look_at(e, e->now.slow_ns);
}

void resync_heal_again(struct engine *e)
{
	e->heal_wanted = true;
	e->heal_after_ns = e->now.slow_ns + e->wait_ns;
	look_at(e, e->heal_after_ns);
}

/* ---- asking ---- */

/* How many reports it takes: a restart needs a blocking set of the others; a key worth healing is
 * held by a blocking set of them, so one master more than those who may lack it sees it. */
static unsigned reports_needed(const struct engine *e, const struct sync *s)
{
	if (MUTANT(SYNC_ONE))
		return 1;
	return s->heal ? e->cfg.n_masters - e->blocking : e->blocking;
}

static bool all_slots_vote(const struct engine *e)
{
	return e->slots_voting == e->slots_mine;
}

/* The next slot that a free place can take up. */
static bool take_slot(struct engine *e, struct sync *s)
{
	while (e->restarted && e->next_sync < e->cfg.slots) {
		uint16_t slot = e->next_sync++;
		if (!is_mine(e, slot) || e->slot_state[slot] != SLOT_SILENT)
			continue;
		e->slot_state[slot] = SLOT_SYNC;
		*s = (struct sync){.state = SYNC_ASKING, .slot = slot};
		return true;
	}
	bool begins = e->heal_wanted && !e->healing && all_slots_vote(e);
	if (begins && e->now.slow_ns < e->heal_after_ns) {
		look_at(e, e->heal_after_ns);
	} else if (begins) {
		e->heal_wanted = false;
		e->healing = true;
		e->next_heal = 0;
	}
	while (e->healing && e->next_heal < e->cfg.slots) {
		uint16_t slot = e->next_heal++;
		if (!is_mine(e, slot))
			continue;
		*s = (struct sync){.state = SYNC_ASKING, .slot = slot, .heal = true};
		return true;
	}
	return false;
}

static void check_healed(struct engine *e)
{
	bool busy = e->next_heal < e->cfg.slots;
	for (unsigned i = 0; i < SYNC_SLOTS && !busy; i++)
		busy = e->syncs[i].state != SYNC_NONE && e->syncs[i].heal;
	if (busy || e->heals_of_pass > 0)
		return;
	e->healing = false;
	if (e->heal_wanted) /* again: something was missed since it began */
		look_at(e, e->now.slow_ns);
}

void resync_heal_ended(struct engine *e)
{
	if (--e->heals_of_pass == 0)
		look_at(e, e->now.slow_ns);
}

static void ask(struct engine *e, struct sync *s, unsigned master)
{
	struct pull *p = &s->pulls[master];
	unsigned place = (unsigned)(s - e->syncs);
	p->req = ++e->sync_seq << REQ_SEQ_SHIFT | (uint64_t)place << REQ_SYNC_SHIFT | master;
	p->due_ns = e->now.slow_ns + e->attempt_ns / 2;
	struct msg m = {
		.type = MSG_SYNC,
		.slot = s->slot,
		.req = p->req,
		.cursor = p->cursor,
		.key = bytes_of(p->key, p->key_bytes),
	};
	send_node(e, e->cfg.masters[master], &m);
}

/* A heal pass asks no more masters at a time than it needs; they take turns over the slots, and who
 * could not tell comes last. */
static void ask_for_heal(struct engine *e, struct sync *s)
{
	unsigned n = e->cfg.n_masters, wanted = reports_needed(e, s) - count_bits(s->finished);
	for (unsigned k = 0; k < 2 * n && wanted > 0 && effects_room(e); k++) {
		unsigned i = (s->slot + k) % n;
		struct pull *p = &s->pulls[i];
		if (!(e->links_up & (1u << i)) || (s->finished & (1u << i)) ||
			p->silent != (k >= n))
			continue;
		wanted--;
		if (e->now.slow_ns >= p->due_ns && heals_have_room(e))
			ask(e, s, i);
		look_at(e, p->due_ns > e->now.slow_ns ? p->due_ns
						      : e->now.slow_ns + e->attempt_ns / 16);
	}
}

static void ask_for_restart(struct engine *e, struct sync *s)
{
	for (unsigned i = 0; i < e->cfg.n_masters; i++) {
		struct pull *p = &s->pulls[i];
		if (!(e->links_up & (1u << i)) || (s->finished & (1u << i)))
			continue;
		if (e->now.slow_ns >= p->due_ns && effects_room(e))
			ask(e, s, i);
		look_at(e, p->due_ns);
	}
}

/* ---- taking in ---- */

/* What one master says of one key, in a slot that does not vote. False: no room. */
static bool merge(struct engine *e, const struct sync_entry *s)
{
	uint64_t hash = hash_bytes(s->key);
	uint32_t ref = lease_find(e, hash, s->key);
	if (ref == 0)
		return lease_stage(e, hash, s) != 0;
	struct lease *l = lease_at(e, ref);
	if (!(l->flags & LEASE_STAGED)) {
		/* It stopped voting and kept its memory: what it knows itself stays. */
		lease_raise_maxn(e, ref, s->maxn);
		return true;
	}
	bool same = !(l->flags & LEASE_SHADOW) && !(s->flags & SYNC_SHADOW) &&
		    ballot_eq(s->uid, lease_uid(l));
	if (same)
		return lease_add_report(e, hash, ref, s) != 0;
	l->flags |= LEASE_SHADOW; /* counted as staged until it settles */
	lease_outlast(e, l, s->remaining_ns);
	lease_raise_maxn(e, ref, s->maxn);
	return true;
}

/* All entries of a report. False: no room, or one is malformed. */
static bool take_entries(struct engine *e, struct sync *s, struct pull *p, const struct msg *m)
{
	struct bytes rest = m->value;
	struct sync_entry entry = {0};
	while (rest.len > 0) {
		if (sync_entry_decode(&rest, &entry) != 0)
			return false;
		uint64_t hash = hash_bytes(entry.key);
		if (slot_of(e, hash) != s->slot)
			return false;
		if (entry.maxn > s->cover_n)
			s->cover_n = entry.maxn;
		if (s->heal)
			heal_found(e, hash, &entry);
		else if (!merge(e, &entry))
			return false;
	}
	/* Keys of one hash may be cut apart: the last one says where. */
	bool cut = entry.key.len > 0 && map_stored_hash(hash_bytes(entry.key)) == m->cursor;
	p->key_bytes = (uint16_t)(cut ? entry.key.len : 0);
	if (cut)
		memcpy(p->key, entry.key.p, entry.key.len);
	p->cursor = m->cursor;
	return true;
}

static void finish_report(struct engine *e, struct sync *s, unsigned master)
{
	s->finished |= (uint16_t)(1u << master);
	if (count_bits(s->finished) < reports_needed(e, s))
		return;
	if (s->heal) {
		s->state = SYNC_NONE;
	} else {
		s->state = SYNC_SETTLING;
		s->cursor = slot_first_hash(e, s->slot);
	}
	look_at(e, e->now.slow_ns);
}

/* No report may be counted twice, so a slot that cannot take one begins again with nothing. */
static void refuse_report(struct engine *e, struct sync *s)
{
	e->stats.sync_full += !s->heal;
	s->due_ns = e->now.slow_ns + e->attempt_ns;
	s->state = s->heal ? SYNC_NONE : SYNC_PURGING;
	s->cursor = slot_first_hash(e, s->slot);
	look_at(e, e->now.slow_ns);
}

void resync_answer(struct engine *e, unsigned from_index, const struct msg *m)
{
	unsigned place = (m->req >> REQ_SYNC_SHIFT) & 0xff;
	if (place >= SYNC_SLOTS || e->syncs[place].state != SYNC_ASKING)
		return;
	struct sync *s = &e->syncs[place];
	struct pull *p = &s->pulls[from_index];
	if (p->req == 0 || p->req != m->req || m->slot != s->slot)
		return; /* to an older question */
	p->req = 0;
	p->silent = m->verdict != VERDICT_SYNC;
	if (p->silent) {
		p->due_ns = e->now.slow_ns + e->attempt_ns / RESYNC_AGAIN_PARTS;
		look_at(e, p->due_ns);
		return;
	}
	if (m->n > s->floor_n)
		s->floor_n = m->n;
	if (!take_entries(e, s, p, m)) {
		refuse_report(e, s);
	} else if (m->cursor == 0) {
		finish_report(e, s, from_index);
	} else {
		p->due_ns = 0;
		if (s->heal)
			ask_for_heal(e, s);
		else
			ask_for_restart(e, s);
	}
}

/* ---- settling ---- */

static void settle_entry(struct engine *e, uint64_t hash, uint32_t ref)
{
	struct lease *l = lease_at(e, ref);
	if (!(l->flags & LEASE_STAGED))
		return;
	/* Live with blk others, so it cannot have been released (protocol.md 3, I4). */
	unsigned enough = MUTANT(SYNC_UNION) ? 1U : e->blocking;
	bool live = !(l->flags & LEASE_SHADOW) && l->reports >= enough;
	if (!live && MUTANT(SYNC_SHADOWLESS)) {
		lease_withdraw(e, hash, ref);
		return;
	}
	if (live) {
		lease_flags(e, l, 0, LEASE_STAGED);
		lease_told(e, l);
	} else {
		lease_flags(e, l, LEASE_SHADOW, LEASE_STAGED | LEASE_UNCONFIRMED | LEASE_STICKY);
	}
	if (l->flags & LEASE_UNCONFIRMED)
		lease_rearm(e, ref);
}

/* One segment of a slot, settled or thrown away. False: there is more of it. */
static bool work_off(struct engine *e, struct sync *s)
{
	struct gathered v[MAP_SEGMENT_SLOTS];
	unsigned n;
	uint64_t next = slot_gather(e, s->slot, s->cursor, v, &n);
	for (unsigned i = 0; i < n; i++) {
		if (s->state == SYNC_SETTLING) {
			settle_entry(e, v[i].hash, v[i].ref);
		} else if (!effects_room(e)) {
			s->cursor = v[i].hash;
			return false;
		} else if (lease_at(e, v[i].ref)->flags & LEASE_STAGED) {
			lease_withdraw(e, v[i].hash, v[i].ref);
		}
	}
	s->cursor = next;
	return next == 0;
}

static void begin_to_vote(struct engine *e, struct sync *s)
{
	if (!MUTANT(SYNC_FLOORLESS))
		raise_floor(e, s->slot, s->floor_n);
	ballot_merge(e, s->floor_n);
	vote(e, s->slot);
	s->state = SYNC_NONE;
	look_at(e, e->now.slow_ns);
	if (e->restarted && all_slots_vote(e)) {
		e->restarted = false;
		resync_heal(e); /* what was locked while this went on */
	}
}

static void begin_again(struct sync *s)
{
	*s = (struct sync){.state = SYNC_ASKING, .slot = s->slot};
}

static void work_slices(struct engine *e, struct sync *s)
{
	for (unsigned i = 0; i < SYNC_SEGMENTS && effects_room(e); i++) {
		if (!work_off(e, s))
			continue;
		if (s->state == SYNC_SETTLING)
			s->state = SYNC_COVERING;
		else if (s->fallback)
			begin_to_vote(e, s);
		else if (e->now.slow_ns >= s->due_ns)
			begin_again(s);
		else
			s->cursor = slot_first_hash(e, s->slot);
		if (s->state == SYNC_PURGING)
			look_at(e, s->due_ns);
		else
			look_at(e, e->now.slow_ns);
		return;
	}
	look_at(e, e->now.slow_ns);
}

static void cover(struct engine *e, struct sync *s)
{
	/* protocol.md 2.8, step 4: a floor learnt and forgotten in the next crash would let old
	 * ballots in (m_nocover). */
	uint64_t highest = s->cover_n > s->floor_n ? s->cover_n : s->floor_n;
	if (ballot_cover(e, highest) || MUTANT(SYNC_UNCOVERED))
		begin_to_vote(e, s);
}

static void work_on(struct engine *e, struct sync *s)
{
	switch ((enum sync_state)s->state) {
	case SYNC_NONE:
		if (take_slot(e, s))
			work_on(e, s);
		break;
	case SYNC_ASKING:
		if (s->heal)
			ask_for_heal(e, s);
		else
			ask_for_restart(e, s);
		break;
	case SYNC_PURGING:
	case SYNC_SETTLING:
		work_slices(e, s);
		break;
	case SYNC_COVERING:
		cover(e, s);
		break;
	}
}

void resync_ceiling(struct engine *e)
{
	for (unsigned i = 0; i < SYNC_SLOTS; i++)
		if (e->syncs[i].state == SYNC_COVERING)
			look_at(e, e->now.slow_ns);
}

void resync_link(struct engine *e, unsigned index, bool up)
{
	for (unsigned i = 0; i < SYNC_SLOTS; i++)
		e->syncs[i].pulls[index].due_ns = 0;
	bool busy = e->restarted || e->healing || e->heal_wanted;
	if (up && busy)
		look_at(e, e->now.slow_ns);
}

void resync_tick(struct engine *e)
{
	if (e->now.slow_ns < e->resync_due_ns)
		return;
	e->resync_due_ns = UINT64_MAX;
	for (unsigned i = 0; i < SYNC_SLOTS; i++) {
		if (!effects_room(e)) {
			look_at(e, e->now.slow_ns);
			return;
		}
		work_on(e, &e->syncs[i]);
	}
	if (e->healing)
		check_healed(e);
}
