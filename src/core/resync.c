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

/* Who cannot tell yet is asked again after T_att over this. */
enum { RESYNC_AGAIN_PARTS = 4 };

static bool is_mine(const struct engine *e, unsigned slot)
{
	return slot % e->cfg.threads == e->cfg.shard;
}

void resync_init(struct engine *e)
{
	for (unsigned i = 0; i < e->cfg.slots; i++)
		e->slots_mine += is_mine(e, i);
	e->resync_due_ns = UINT64_MAX;
	e->merge_first = NO_SLOT;
}

static void look_at(struct engine *e, uint64_t at_slow_ns)
{
	if (at_slow_ns < e->resync_due_ns)
		e->resync_due_ns = at_slow_ns;
}

/* This master knows what was granted in the slot before the masters changed. */
static void merged(struct engine *e, uint16_t slot)
{
	CHECK(slot_votes(e, slot) && !e->slot_merged[slot]);
	e->slot_merged[slot] = true;
	e->slots_merged++;
	if (e->slots_merged == e->slots_mine)
		e->merging = false;
}

/* @knows: what others told of it came from masters that are in sync, or nothing has changed. */
static void vote(struct engine *e, uint16_t slot, bool knows)
{
	CHECK(!slot_votes(e, slot));
	e->slot_state[slot] = SLOT_VOTES;
	e->slots_voting++;
	observers_wake_all(e);
	log_break(e, slot);
	/* A pass that was wanted meanwhile waits for all slots (simulator, seed 75000053). */
	if (e->heal_wanted)
		look_at(e, e->now.slow_ns);
	if (MUTANT(MERGE_NONE))
		knows = true;
	if (knows || !e->changed || MUTANT(JOINER_VOTES)) {
		merged(e, slot);
		return;
	}
	e->merging = true;
	e->next_merge = 0;
	look_at(e, e->now.slow_ns);
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
		if (e->syncs[i].state != SYNC_NONE && e->syncs[i].why == SYNC_RESTART)
			return;
	memset(e->slot_state, SLOT_SILENT, sizeof e->slot_state);
	memset(e->slot_merged, 0, sizeof e->slot_merged);
	memset(e->syncs, 0, sizeof e->syncs);
	e->slots_voting = e->slots_merged = 0;
	e->merging = false;
	e->restarted = e->heal_wanted = e->healing = false;
	e->resync_due_ns = UINT64_MAX;
}

/* Also what has become LIVE since it was told: it is no memory of this master, and may have been
 * released while the ceiling was on its way. */
static void throw_away_all(struct sync *s)
{
	bool settled = s->state == SYNC_SETTLING || s->state == SYNC_COVERING;
	s->purge_all |= settled && s->why == SYNC_RESTART;
	s->state = SYNC_PURGING;
}

void resync_give_up(struct engine *e, uint64_t floor_n)
{
	e->restarted = false;
	for (unsigned i = 0; i < SYNC_SLOTS; i++) {
		struct sync *s = &e->syncs[i];
		if (s->state == SYNC_NONE || s->why != SYNC_RESTART)
			continue;
		throw_away_all(s);
		s->after = AFTER_VOTE;
		s->floor_n = floor_n;
		s->cursor = slot_first_hash(e, s->slot);
		look_at(e, e->now.slow_ns);
	}
	for (uint16_t i = 0; i < e->cfg.slots; i++) {
		if (!is_mine(e, i) || e->slot_state[i] != SLOT_SILENT)
			continue;
		if (floor_n != 0)
			raise_floor(e, i, floor_n);
		vote(e, i, false);
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
	return s->why == SYNC_HEAL ? e->cfg.n_masters - e->blocking : e->blocking;
}

static bool all_slots_vote(const struct engine *e)
{
	return e->slots_voting == e->slots_mine;
}

/* After a change of the masters those who vote go on voting, and one that has joined is not needed
 * yet: what they have to learn must not hold up clients. After a restart it is as fast as can be.
 */
static bool at_leisure(const struct engine *e, const struct sync *s)
{
	return s->why == SYNC_MERGE || e->at_leisure;
}

static bool has_place(const struct engine *e)
{
	unsigned used = 0;
	for (unsigned i = 0; i < SYNC_SLOTS; i++)
		used += e->syncs[i].state != SYNC_NONE;
	return used == 0 || !(e->merging || e->at_leisure);
}

static uint64_t rest_ns(uint64_t took_ns)
{
	uint64_t most_ns = LEISURE_MAX_MS * NS_PER_MS;
	return took_ns < most_ns / LEISURE_PARTS ? LEISURE_PARTS * took_ns : most_ns;
}

static bool is_taken(const struct engine *e, uint16_t slot)
{
	for (unsigned i = 0; i < SYNC_SLOTS; i++)
		if (e->syncs[i].state != SYNC_NONE && e->syncs[i].why == SYNC_MERGE &&
			e->syncs[i].slot == slot)
			return true;
	return false;
}

static bool wants_merge(const struct engine *e, uint16_t slot)
{
	return is_mine(e, slot) && slot_votes(e, slot) && !e->slot_merged[slot] &&
	       !is_taken(e, slot);
}

void resync_merge_first(struct engine *e, uint16_t slot)
{
	if (e->merging && wants_merge(e, slot))
		e->merge_first = slot;
}

static void begin_merge(struct engine *e, struct sync *s, uint16_t slot)
{
	*s = (struct sync){.state = SYNC_ASKING,
		.why = SYNC_MERGE,
		.slot = slot,
		.due_ns = e->now.slow_ns + e->attempt_ns};
}

static bool take_merge(struct engine *e, struct sync *s)
{
	uint16_t first = e->merge_first;
	e->merge_first = NO_SLOT;
	if (first != NO_SLOT && wants_merge(e, first)) {
		begin_merge(e, s, first);
		return true;
	}
	while (e->next_merge < e->cfg.slots) {
		uint16_t slot = e->next_merge++;
		if (!wants_merge(e, slot))
			continue;
		begin_merge(e, s, slot);
		return true;
	}
	return false;
}

/* The next slot that a free place can take up. */
static bool take_slot(struct engine *e, struct sync *s)
{
	/* Single keys that are being asked about, from a time as a master, end by themselves. */
	if (e->restarted && e->discard && e->heals_used > 0) {
		look_at(e, e->now.slow_ns + e->attempt_ns / RESYNC_AGAIN_PARTS);
		return false;
	}
	while (e->restarted && e->next_sync < e->cfg.slots) {
		uint16_t slot = e->next_sync++;
		if (!is_mine(e, slot) || e->slot_state[slot] != SLOT_SILENT)
			continue;
		e->slot_state[slot] = SLOT_SYNC;
		*s = (struct sync){.state = SYNC_ASKING, .slot = slot};
		if (e->discard) {
			s->state = SYNC_PURGING;
			s->purge_all = true;
			s->cursor = slot_first_hash(e, slot);
		}
		return true;
	}
	if (e->merging && take_merge(e, s))
		return true;
	while (e->forgetting && e->next_forget < e->cfg.slots) {
		uint16_t slot = e->next_forget++;
		if (!is_mine(e, slot))
			continue;
		*s = (struct sync){.state = SYNC_PURGING,
			.slot = slot,
			.purge_all = true,
			.after = AFTER_NOTHING,
			.cursor = slot_first_hash(e, slot)};
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
		*s = (struct sync){.state = SYNC_ASKING, .slot = slot, .why = SYNC_HEAL};
		return true;
	}
	return false;
}

static void check_healed(struct engine *e)
{
	bool busy = e->next_heal < e->cfg.slots;
	for (unsigned i = 0; i < SYNC_SLOTS && !busy; i++)
		busy = e->syncs[i].state != SYNC_NONE && e->syncs[i].why == SYNC_HEAL;
	if (busy || e->heals_of_pass > 0)
		return;
	e->healing = false;
	e->at_leisure = e->at_leisure && e->heal_wanted;
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
		.flags = s->why == SYNC_MERGE ? MSG_MERGE : 0,
		.slot = s->slot,
		.req = p->req,
		.cursor = p->cursor,
		.key = bytes_of(p->key, p->key_bytes),
	};
	send_node(e, peer_at(e, master), &m);
}

/* A heal pass asks no more masters at a time than it needs; they take turns over the slots, and who
 * could not tell comes last. */
static void ask_for_heal(struct engine *e, struct sync *s)
{
	unsigned n = e->cfg.n_masters, wanted = reports_needed(e, s) - count_bits(s->finished);
	CHECK(n > 0);
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

static void ask_all(struct engine *e, struct sync *s, uint16_t mask)
{
	for (unsigned i = 0; i < PEERS_MAX; i++) {
		struct pull *p = &s->pulls[i];
		if (!(mask & (1u << i)) || (s->finished & (1u << i)))
			continue;
		if (e->now.slow_ns >= p->due_ns && effects_room(e))
			ask(e, s, i);
		look_at(e, p->due_ns);
	}
}

static void settle(struct engine *e, struct sync *s)
{
	s->state = SYNC_SETTLING;
	s->cursor = slot_first_hash(e, s->slot);
	look_at(e, e->now.slow_ns);
}

static void ask_on(struct engine *e, struct sync *s)
{
	if (s->why == SYNC_HEAL) {
		ask_for_heal(e, s);
	} else if (s->why == SYNC_RESTART) {
		ask_all(e, s, e->links_up);
	} else if (merge_enough(e, s)) {
		settle(e, s);
	} else {
		ask_all(e, s, peers_before(e));
		look_at(e, s->due_ns > e->now.slow_ns ? s->due_ns
						      : e->now.slow_ns + e->attempt_ns / 16);
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
		if (slot_of(e, hash) != s->slot || (entry.flags & SYNC_GONE))
			return false;
		if (entry.maxn > s->cover_n)
			s->cover_n = entry.maxn;
		if (s->why == SYNC_HEAL)
			heal_found(e, hash, &entry);
		else if (!(s->why == SYNC_MERGE ? merge_refusals(e, hash, &entry)
						: merge(e, &entry)))
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
	if (s->why == SYNC_MERGE) {
		ask_on(e, s);
		return;
	}
	if (count_bits(s->finished) < reports_needed(e, s))
		return;
	if (s->why == SYNC_HEAL)
		s->state = SYNC_NONE;
	else
		settle(e, s);
	look_at(e, e->now.slow_ns);
}

/* No report may be counted twice, so a slot that cannot take one begins again with nothing. */
static void refuse_report(struct engine *e, struct sync *s)
{
	e->stats.sync_full += s->why != SYNC_HEAL;
	s->due_ns = e->now.slow_ns + e->attempt_ns;
	s->state = s->why == SYNC_HEAL ? SYNC_NONE : SYNC_PURGING;
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
	uint64_t took_ns = e->now.slow_ns + e->attempt_ns / 2 - p->due_ns;
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
		p->due_ns = at_leisure(e, s) ? e->now.slow_ns + rest_ns(took_ns) : 0;
		ask_on(e, s);
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
		l->reports = 0;
		lease_flags(e, l, LEASE_SHADOW, LEASE_STAGED | LEASE_UNCONFIRMED | LEASE_STICKY);
	}
	if (l->flags & LEASE_UNCONFIRMED)
		lease_rearm(e, ref);
}

static void throw_away(struct engine *e, const struct sync *s, struct gathered g)
{
	struct lease *l = lease_at(e, g.ref);
	bool copied = s->after == AFTER_NOTHING && (l->flags & LEASE_COPY);
	/* What a replica has copied since it was a master is not what it has to forget. */
	if ((l->flags & LEASE_RESYNC) || copied)
		return;
	if (s->why == SYNC_MERGE)
		l->reports = 0;
	else if ((l->flags & LEASE_STAGED) || s->purge_all)
		lease_withdraw(e, g.hash, g.ref);
}

/* One segment of a slot, settled or thrown away. False: there is more of it. */
static bool work_off(struct engine *e, struct sync *s)
{
	struct gathered v[MAP_SEGMENT_SLOTS];
	unsigned n;
	uint64_t next = slot_gather(e, s->slot, s->cursor, v, &n);
	for (unsigned i = 0; i < n; i++) {
		if (s->state == SYNC_SETTLING && s->why == SYNC_RESTART) {
			settle_entry(e, v[i].hash, v[i].ref);
		} else if (!effects_room(e)) {
			s->cursor = v[i].hash;
			return false;
		} else if (s->state == SYNC_SETTLING) {
			merge_settle(e, s, v[i]);
		} else {
			throw_away(e, s, v[i]);
		}
	}
	s->cursor = next;
	return next == 0;
}

static void begin_to_vote(struct engine *e, struct sync *s, bool knows)
{
	if (!MUTANT(SYNC_FLOORLESS))
		raise_floor(e, s->slot, s->floor_n);
	ballot_merge(e, s->floor_n);
	s->state = SYNC_NONE;
	look_at(e, e->now.slow_ns);
	if (s->why == SYNC_MERGE) {
		merged(e, s->slot);
		return;
	}
	vote(e, s->slot, knows);
	if (all_slots_vote(e))
		e->discard = false;
	if (e->restarted && all_slots_vote(e)) {
		e->restarted = false;
		resync_heal(e); /* what was locked while this went on */
	}
}

static void begin_again(struct engine *e, struct sync *s)
{
	*s = (struct sync){.state = SYNC_ASKING,
		.why = s->why,
		.slot = s->slot,
		.due_ns = e->now.slow_ns + e->attempt_ns};
}

/* What was to be thrown away is. */
static void purged(struct engine *e, struct sync *s)
{
	if (s->after == AFTER_VOTE)
		begin_to_vote(e, s, false);
	else if (s->after == AFTER_NOTHING)
		s->state = SYNC_NONE;
	else if (e->now.slow_ns >= s->due_ns)
		begin_again(e, s);
	else
		s->cursor = slot_first_hash(e, s->slot);
}

static void work_slices(struct engine *e, struct sync *s)
{
	unsigned slice = at_leisure(e, s) ? LEISURE_SEGMENTS : SYNC_SEGMENTS;
	for (unsigned i = 0; i < slice && effects_room(e); i++) {
		if (!work_off(e, s))
			continue;
		if (s->state == SYNC_SETTLING)
			s->state = SYNC_COVERING;
		else
			purged(e, s);
		if (s->state == SYNC_PURGING)
			look_at(e, s->due_ns);
		else
			look_at(e, e->now.slow_ns);
		return;
	}
	look_at(e, e->now.slow_ns + (at_leisure(e, s) ? WHEEL_TICK_NS : 0));
}

static void cover(struct engine *e, struct sync *s)
{
	/* protocol.md 2.8, step 4: a floor learnt and forgotten in the next crash would let old
	 * ballots in (m_nocover). */
	uint64_t highest = s->cover_n > s->floor_n ? s->cover_n : s->floor_n;
	if (ballot_cover(e, highest) || MUTANT(SYNC_UNCOVERED))
		begin_to_vote(e, s, true);
}

static void work_on(struct engine *e, struct sync *s)
{
	switch ((enum sync_state)s->state) {
	case SYNC_NONE:
		if (has_place(e) && take_slot(e, s))
			work_on(e, s);
		break;
	case SYNC_ASKING:
		ask_on(e, s);
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

/* ---- another configuration ---- */

/* A master it stays: whoever is asked about something else now is asked anew. */
static void go_on_as_master(struct engine *e, bool changed)
{
	for (unsigned i = 0; i < SYNC_SLOTS; i++) {
		struct sync *s = &e->syncs[i];
		if (s->state == SYNC_NONE || s->after != AFTER_AGAIN || !changed)
			continue;
		if (s->why == SYNC_HEAL)
			s->state = SYNC_NONE;
		else
			throw_away_all(s);
		s->due_ns = e->now.slow_ns;
		s->cursor = slot_first_hash(e, s->slot);
	}
	if (!changed)
		return;
	e->heal_wanted |= e->healing;
	e->healing = false;
	if (MUTANT(MERGE_NONE))
		return;
	memset(e->slot_merged, 0, sizeof e->slot_merged);
	e->slots_merged = 0;
	e->merging = e->slots_voting > 0;
	e->next_merge = 0;
}

void resync_retire(struct engine *e)
{
	for (unsigned i = 0; i < SYNC_SLOTS; i++) {
		struct sync *s = &e->syncs[i];
		if (s->state == SYNC_NONE)
			continue;
		s->state = s->why == SYNC_RESTART ? SYNC_PURGING : SYNC_NONE;
		s->after = AFTER_NOTHING;
		s->cursor = slot_first_hash(e, s->slot);
	}
	for (unsigned i = 0; i < e->cfg.slots; i++) {
		uint8_t was = e->slot_state[i];
		e->slot_state[i] = was == SLOT_VOTES ? SLOT_RETIRED : SLOT_SILENT;
	}
	memset(e->slot_merged, 0, sizeof e->slot_merged);
	e->slots_voting = e->slots_merged = 0;
	e->restarted = e->merging = e->heal_wanted = e->healing = false;
}

/* A slot is emptied before it is copied: whatever else empties it would take the copies. */
static void leave_to_copies(struct engine *e)
{
	e->forgetting = false;
	for (unsigned i = 0; i < SYNC_SLOTS; i++)
		e->syncs[i].purge_all = false;
}

void resync_config(struct engine *e, bool voted, bool changed)
{
	bool votes = e->self_index != NO_MASTER;
	if (voted && votes) {
		go_on_as_master(e, changed);
	} else if (voted) {
		if (!MUTANT(REMOVED_VOTES))
			resync_retire(e);
	} else if (votes) {
		/* It votes when NODE_RESYNC has brought it what the others know. */
		memset(e->slot_state, SLOT_SILENT, sizeof e->slot_state);
		memset(e->syncs, 0, sizeof e->syncs); /* what is being emptied: all of it will be */
		e->discard = e->at_leisure = true;
		e->forgetting = false;
		if (MUTANT(JOINER_VOTES))
			resync_give_up(e, 0);
	}
	if (e->cfg.replica)
		leave_to_copies(e);
	look_at(e, e->now.slow_ns);
}

void resync_settled(struct engine *e)
{
	if (e->self_index != NO_MASTER)
		return;
	for (unsigned i = 0; i < e->cfg.slots; i++) {
		if (e->slot_state[i] != SLOT_RETIRED)
			continue;
		e->slot_state[i] = SLOT_SILENT;
		e->forgetting = !e->cfg.replica;
	}
	copy_begin(e); /* throws away what is here */
	e->next_forget = 0;
	look_at(e, e->now.slow_ns);
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
	bool busy = e->restarted || e->merging || e->healing || e->heal_wanted;
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
