/* A replica copies what masters hold, slot by slot, and follows the log of one of them (protocol.md
 * 2.9). One question is out at a time for each slot and only its answer counts, so what is told
 * arrives in order, once, or is asked for again.
 *
 * Where the log does not reach back to what is here, all of it is thrown away and the slot is
 * copied anew: the log says from which record on it has to be followed, then come the pages, then
 * that record. An entry that is in a page and changes meanwhile is in the log too. */
#include <string.h>

#include "core/internal.h"

enum {
	REST_MS = 5, /* between two pages, at most */
	MISSES = 2,  /* questions without an answer, then another master is asked */
	REFUSED_PARTS =
		8, /* who cannot tell is asked again, or the next one, after T_att over this */
};
#define LOOK_NS   (20 * NS_PER_MS) /* how old the knowledge may be which slot is the oldest */
#define REQ_SHIFT 16

static struct copy *copy_at(const struct engine *e, uint32_t ref)
{
	return (struct copy *)(void *)e->copies.slots + (ref - 1);
}

static uint32_t ref_of(const struct engine *e, uint16_t slot)
{
	return (uint32_t)(slot / e->cfg.threads) + 1;
}

static uint16_t slot_of_ref(const struct engine *e, uint32_t ref)
{
	return (uint16_t)((ref - 1) * e->cfg.threads + e->cfg.shard);
}

/* How many slots this shard has: the last place may be one beyond. */
static uint32_t refs(const struct engine *e)
{
	uint32_t whole = e->cfg.slots / e->cfg.threads;
	return whole + (e->cfg.shard < e->cfg.slots % e->cfg.threads);
}

static struct copy_place *place_of(struct engine *e, const struct copy *c)
{
	CHECK(c->place != 0);
	return &e->copies.places[c->place - 1];
}

static void due_at(struct engine *e, uint32_t ref, uint64_t due_ns)
{
	copy_at(e, ref)->due_ns = due_ns;
	wheel_remove(&e->copies.wheel, ref);
	wheel_add(&e->copies.wheel, ref, due_ns);
}

/* ---- places ---- */

static void enqueue(struct engine *e, uint32_t ref)
{
	struct copy *c = copy_at(e, ref);
	wheel_remove(&e->copies.wheel, ref);
	c->state = COPY_QUEUED;
	c->log = c->cursor = c->req = 0;
	c->queue_next = 0;
	if (e->copies.queue_head == 0)
		e->copies.queue_head = ref;
	else
		copy_at(e, e->copies.queue_tail)->queue_next = ref;
	e->copies.queue_tail = ref;
}

/* Slots in line get the places that are free. */
static void fill_places(struct engine *e)
{
	/* Single keys that are being asked about, from a time as a master, end by themselves. */
	if (e->heals_used > 0)
		return;
	for (uint8_t i = 0; i < COPY_PLACES && e->copies.queue_head != 0; i++) {
		if (e->copies.places[i].used)
			continue;
		uint32_t ref = e->copies.queue_head;
		struct copy *c = copy_at(e, ref);
		e->copies.queue_head = c->queue_next;
		e->copies.places[i].used = true;
		c->place = (uint8_t)(i + 1);
		c->state = COPY_ASKING;
		due_at(e, ref, e->now.slow_ns);
	}
}

static void leave_place(struct engine *e, struct copy *c)
{
	place_of(e, c)->used = false;
	c->place = 0;
}

/* ---- asking ---- */

/* Slots are spread over the masters; who failed comes last. 0: none is linked. */
static uint8_t choose_master(const struct engine *e, uint16_t slot, struct copy *c)
{
	for (unsigned k = 0; k < e->cfg.n_masters; k++, c->tries++) {
		unsigned i = (slot + c->tries) % e->cfg.n_masters;
		if (e->links_up & (1u << i))
			return e->cfg.masters[i];
	}
	return 0;
}

static void ask(struct engine *e, uint32_t ref)
{
	struct copy *c = copy_at(e, ref);
	uint16_t slot = slot_of_ref(e, ref);
	uint64_t patience_ns = e->attempt_ns / 2;
	c->req = 0;
	wheel_remove(&e->copies.wheel, ref);
	c->node = choose_master(e, slot, c);
	if (c->node == 0)
		return; /* until a link comes up */
	c->req = ++e->copies.seq << REQ_SHIFT | slot;
	c->asked_ns = e->now.slow_ns;
	struct msg m = {.slot = slot, .req = c->req};
	if (c->state == COPY_PAGING) {
		const struct copy_place *p = place_of(e, c);
		m.type = MSG_SYNC;
		m.flags = MSG_COPY;
		m.cursor = p->cursor;
		m.key = bytes_of(p->key, p->key_bytes);
	} else {
		m.type = MSG_FOLLOW;
		m.op_id = c->log;
		m.cursor = c->cursor;
		patience_ns += LOG_HOLD_MS * NS_PER_MS;
	}
	due_at(e, ref, e->now.slow_ns + patience_ns);
	send_node(e, c->node, &m);
}

/* Another master, which has another log. Pages of two masters do not go together. */
static void next_master(struct engine *e, uint32_t ref, uint64_t due_ns)
{
	struct copy *c = copy_at(e, ref);
	c->tries++;
	c->misses = 0;
	c->req = 0;
	if (c->state == COPY_PAGING) {
		c->state = COPY_ASKING;
		c->log = c->cursor = 0;
	}
	due_at(e, ref, due_ns);
}

/* ---- taking in ---- */

static void not_whole(struct engine *e, uint32_t ref)
{
	uint16_t slot = slot_of_ref(e, ref);
	if (e->slot_state[slot] != SLOT_COPIES)
		return;
	e->slot_state[slot] = SLOT_SILENT;
	e->copies.whole--;
	observers_wake_all(e);
}

static void purge(struct engine *e, uint32_t ref)
{
	struct copy *c = copy_at(e, ref);
	struct copy_place *p = place_of(e, c);
	not_whole(e, ref);
	c->state = COPY_PURGING;
	c->req = 0;
	*p = (struct copy_place){.used = true, .cursor = slot_first_hash(e, slot_of_ref(e, ref))};
	due_at(e, ref, e->now.slow_ns);
}

/* What is here is no copy of that log, or ends before it begins. */
static void gap(struct engine *e, uint32_t ref, const struct msg *m)
{
	struct copy *c = copy_at(e, ref);
	if (c->place == 0) {
		enqueue(e, ref);
		fill_places(e);
		return;
	}
	c->log = m->op_id;
	c->cursor = m->cursor;
	e->stats.snapshots++;
	purge(e, ref);
}

static void take_gone(struct engine *e, uint64_t hash, struct ballot uid)
{
	struct map_slot *s = map_find(&e->leases, hash);
	for (; s != NULL; s = map_next(&e->leases, hash, s)) {
		const struct lease *l = lease_at(e, (uint32_t)s->value);
		if (!(l->flags & LEASE_COPY) || !ballot_eq(lease_uid(l), uid))
			continue;
		lease_end(e, hash, (uint32_t)s->value);
		return;
	}
}

/* False: no room. */
static bool take_set(struct engine *e, uint64_t hash, const struct sync_entry *s)
{
	uint32_t ref = lease_find(e, hash, s->key);
	struct lease *l = ref == 0 ? NULL : lease_at(e, ref);
	e->stats.copied++;
	if (l != NULL && (l->flags & LEASE_COPY) && ballot_eq(lease_uid(l), s->uid))
		return lease_copy_again(e, hash, ref, s);
	/* Left from a time as a master, it says nothing of a release. */
	if (l != NULL && !(l->flags & LEASE_COPY))
		lease_withdraw(e, hash, ref);
	else if (l != NULL)
		lease_end(e, hash, ref);
	if (lease_copy(e, hash, s) == 0)
		return false;
	line_wake_held(e, hash, s->key);
	return true;
}

enum taken { TAKEN, TAKEN_NO_ROOM, TAKEN_MALFORMED };

static enum taken take_entries(
	struct engine *e, uint16_t slot, const struct msg *m, struct sync_entry *ret_last)
{
	struct bytes rest = m->value;
	bool log = m->req_type == MSG_FOLLOW;
	*ret_last = (struct sync_entry){0};
	for (unsigned n = 0; rest.len > 0; n++) {
		if (n == COPY_ENTRIES || sync_entry_decode(&rest, ret_last) != 0)
			return TAKEN_MALFORMED;
		const struct sync_entry *s = ret_last;
		bool gone = (s->flags & SYNC_GONE) != 0;
		uint64_t hash = gone ? get_u64(s->key.p) : hash_bytes(s->key);
		if ((s->flags & (SYNC_SHADOW | SYNC_UNCONFIRMED)) || (gone && !log) ||
			slot_of(e, hash) != slot)
			return TAKEN_MALFORMED;
		if (gone)
			take_gone(e, hash, s->uid);
		else if (!take_set(e, hash, s))
			return TAKEN_NO_ROOM;
	}
	return TAKEN;
}

/* Something is missing from here on: not even the same log may be gone on with. */
static void spoilt(struct engine *e, uint32_t ref)
{
	struct copy *c = copy_at(e, ref);
	not_whole(e, ref);
	if (c->place == 0) {
		enqueue(e, ref);
		fill_places(e);
		return;
	}
	c->state = COPY_ASKING;
	c->log = c->cursor = 0;
	next_master(e, ref, e->now.slow_ns + e->attempt_ns);
}

/* False: it could not be taken in, and the slot begins anew. */
static bool take(struct engine *e, uint32_t ref, const struct msg *m, struct sync_entry *ret_last)
{
	enum taken taken = take_entries(e, slot_of_ref(e, ref), m, ret_last);
	e->stats.sync_full += taken == TAKEN_NO_ROOM;
	if (taken != TAKEN)
		spoilt(e, ref);
	return taken == TAKEN;
}

/* Which slot is the oldest changes with every answer: it is looked for now and then. */
static void look_for_oldest(struct engine *e)
{
	e->copies.oldest_ns = UINT64_MAX;
	for (uint32_t ref = 1; ref <= refs(e); ref++) {
		const struct copy *c = copy_at(e, ref);
		if (e->slot_state[slot_of_ref(e, ref)] == SLOT_COPIES &&
			c->whole_ns < e->copies.oldest_ns)
			e->copies.oldest_ns = c->whole_ns;
	}
	e->copies.look_ns = e->now.slow_ns + LOOK_NS;
}

static void whole(struct engine *e, uint32_t ref, uint64_t held_ns)
{
	struct copy *c = copy_at(e, ref);
	uint16_t slot = slot_of_ref(e, ref);
	uint64_t whole_ns = c->asked_ns + less_drift(e, held_ns);
	c->whole_ns = whole_ns < e->now.slow_ns ? whole_ns : e->now.slow_ns;
	if (c->place != 0) {
		leave_place(e, c);
		fill_places(e);
	}
	if (e->slot_state[slot] == SLOT_COPIES) {
		/* While all goes well nothing but answers comes. */
		if (e->now.slow_ns >= e->copies.look_ns)
			look_for_oldest(e);
		return;
	}
	e->slot_state[slot] = SLOT_COPIES;
	e->copies.whole++;
	e->copies.look_ns = e->now.slow_ns;
	if (c->whole_ns < e->copies.oldest_ns)
		e->copies.oldest_ns = c->whole_ns;
	lines_look_again(e, slot);
}

static void log_answer(struct engine *e, uint32_t ref, const struct msg *m)
{
	struct copy *c = copy_at(e, ref);
	struct sync_entry last;
	bool another = m->op_id != c->log || m->cursor < c->cursor;
	if (c->log == 0 || (another && !MUTANT(COPY_GAP_IGNORED))) {
		next_master(e, ref, e->now.slow_ns + e->attempt_ns / REFUSED_PARTS);
		return;
	}
	if (!take(e, ref, m, &last))
		return;
	c->cursor = m->cursor;
	if (m->flags & MSG_LOG_END)
		whole(e, ref, m->held_ns);
	ask(e, ref);
}

static void page_answer(struct engine *e, uint32_t ref, const struct msg *m)
{
	struct copy *c = copy_at(e, ref);
	struct copy_place *p = place_of(e, c);
	struct sync_entry last;
	if (!take(e, ref, m, &last))
		return;
	/* Keys of one hash may be cut apart: the last one says where. */
	bool cut = last.key.len > 0 && map_stored_hash(hash_bytes(last.key)) == m->cursor;
	p->key_bytes = (uint16_t)(cut ? last.key.len : 0);
	if (cut)
		memcpy(p->key, last.key.p, last.key.len);
	p->cursor = m->cursor;
	/* A master is asked for no more than it has time for. */
	uint64_t rest_ns = 2 * (e->now.slow_ns - c->asked_ns), most_ns = REST_MS * NS_PER_MS;
	if (m->cursor == 0)
		c->state = COPY_ASKING;
	due_at(e, ref, e->now.slow_ns + (rest_ns < most_ns ? rest_ns : most_ns));
}

void copy_answer(struct engine *e, uint8_t from, const struct msg *m)
{
	if (m->slot >= e->cfg.slots || m->slot % e->cfg.threads != e->cfg.shard)
		return;
	uint32_t ref = ref_of(e, m->slot);
	struct copy *c = copy_at(e, ref);
	if ((c->req == 0 || m->req != c->req || from != c->node) && !MUTANT(COPY_OLD))
		return; /* to an older question */
	bool paging = c->state == COPY_PAGING;
	c->req = 0;
	c->misses = 0;
	if (paging && m->req_type == MSG_SYNC && m->verdict == VERDICT_SYNC)
		page_answer(e, ref, m);
	else if (!paging && m->req_type == MSG_FOLLOW && m->verdict == VERDICT_LOG)
		log_answer(e, ref, m);
	else if (!paging && m->verdict == VERDICT_GAP && m->op_id != 0)
		gap(e, ref, m);
	else
		next_master(e, ref, e->now.slow_ns + e->attempt_ns / REFUSED_PARTS);
}

/* ---- time ---- */

/* Nobody is woken: what goes away here may be held all the same, and comes back. False: there is
 * more of it, or a key that was being healed when this node was a master, and soon is no more. */
static bool purge_segment(struct engine *e, uint16_t slot, struct copy_place *p)
{
	struct gathered v[MAP_SEGMENT_SLOTS];
	unsigned n;
	uint64_t next = slot_gather(e, slot, p->cursor, v, &n);
	for (unsigned i = 0; i < n; i++) {
		if (!effects_room(e) || (lease_at(e, v[i].ref)->flags & LEASE_RESYNC)) {
			p->cursor = v[i].hash;
			return false;
		}
		lease_withdraw(e, v[i].hash, v[i].ref);
	}
	p->cursor = next;
	return next == 0;
}

static void purge_slice(struct engine *e, uint32_t ref)
{
	struct copy *c = copy_at(e, ref);
	struct copy_place *p = place_of(e, c);
	for (unsigned i = 0; i < SYNC_SEGMENTS && effects_room(e); i++) {
		if (!purge_segment(e, slot_of_ref(e, ref), p))
			continue;
		c->state = COPY_PAGING;
		ask(e, ref);
		return;
	}
	due_at(e, ref, e->now.slow_ns);
}

static void copy_due(struct engine *e, uint32_t ref)
{
	struct copy *c = copy_at(e, ref);
	if (c->state == COPY_PURGING)
		purge_slice(e, ref);
	else if (c->req != 0 && ++c->misses >= MISSES)
		next_master(e, ref, e->now.slow_ns);
	else
		ask(e, ref);
}

void copies_tick(struct engine *e)
{
	uint32_t ref;
	if (e->copies.active == 0)
		return;
	fill_places(e);
	while (effects_room(e) && (ref = wheel_pop(&e->copies.wheel, e->now.slow_ns)) != 0) {
		const struct copy *c = copy_at(e, ref);
		if (e->now.slow_ns < c->due_ns)
			wheel_add(&e->copies.wheel, ref, c->due_ns);
		else
			copy_due(e, ref);
	}
	if (e->now.slow_ns >= e->copies.look_ns)
		look_for_oldest(e);
}

uint64_t copies_next_ns(const struct engine *e)
{
	return e->copies.active == 0 ? UINT64_MAX : wheel_next_ns(&e->copies.wheel);
}

/* ---- beginning and ending ---- */

void copies_init(struct engine *e)
{
	wheel_init(&e->copies.wheel, e->copies.slots - sizeof(struct copy), sizeof(struct copy), 0,
		e->now.slow_ns);
	copy_begin(e);
}

/* Whom this slot follows is gone: the next one, now. */
static void lose_master(struct engine *e, uint32_t ref)
{
	struct copy *c = copy_at(e, ref);
	c->node = 0;
	if (c->state == COPY_ASKING || c->state == COPY_PAGING)
		next_master(e, ref, e->now.slow_ns);
}

/* Its link is down. When it comes up again soon, as after a change of the configuration, a whole
 * copy is gone on with; with another master it would have to be made anew. */
static void lose_link(struct engine *e, uint32_t ref)
{
	struct copy *c = copy_at(e, ref);
	if (e->slot_state[slot_of_ref(e, ref)] != SLOT_COPIES || c->state != COPY_ASKING) {
		lose_master(e, ref);
		return;
	}
	c->req = 0;
	due_at(e, ref, e->now.slow_ns + e->attempt_ns / 2);
}

void copy_begin(struct engine *e)
{
	if (!e->cfg.replica)
		return;
	for (uint32_t ref = 1; ref <= refs(e); ref++) {
		struct copy *c = copy_at(e, ref);
		if (c->node != 0 && e->index_of[c->node] >= e->cfg.n_masters)
			lose_master(e, ref);
		if (c->state != COPY_NONE || e->slot_state[slot_of_ref(e, ref)] != SLOT_SILENT)
			continue;
		e->copies.active++;
		enqueue(e, ref);
	}
	fill_places(e);
}

void copy_stop(struct engine *e)
{
	for (uint32_t ref = 1; ref <= refs(e); ref++) {
		not_whole(e, ref);
		wheel_remove(&e->copies.wheel, ref);
		*copy_at(e, ref) = (struct copy){0};
	}
	memset(e->copies.places, 0, sizeof e->copies.places);
	e->copies.queue_head = e->copies.queue_tail = 0;
	e->copies.active = 0;
}

void copy_link(struct engine *e, uint8_t node, bool up)
{
	if (e->copies.active == 0)
		return;
	for (uint32_t ref = 1; ref <= refs(e); ref++) {
		const struct copy *c = copy_at(e, ref);
		bool asks = c->state == COPY_ASKING || c->state == COPY_PAGING;
		bool idle = c->node == node ? c->req == 0 : !wheel_has(&e->copies.wheel, ref);
		if (!up && c->node == node)
			lose_link(e, ref);
		else if (up && asks && idle)
			due_at(e, ref, e->now.slow_ns);
	}
}

void copies_stats(const struct engine *e, struct engine_stats *ret)
{
	if (!e->cfg.replica)
		return;
	ret->slots = (uint16_t)refs(e);
	ret->slots_in_sync = e->copies.whole;
	ret->lag_ns =
		e->copies.whole < ret->slots ? UINT64_MAX : e->now.slow_ns - e->copies.oldest_ns;
}

void copies_validate(const struct engine *e)
{
	uint32_t active = 0, whole = 0, queued = 0, places = 0, used = 0;
	wheel_validate(&e->copies.wheel);
	for (uint32_t ref = 1; ref <= refs(e); ref++) {
		const struct copy *c = copy_at(e, ref);
		bool readable = e->slot_state[slot_of_ref(e, ref)] == SLOT_COPIES;
		active += c->state != COPY_NONE;
		whole += readable;
		queued += c->state == COPY_QUEUED;
		places += c->place != 0;
		CHECK(!readable || c->state == COPY_ASKING || c->state == COPY_QUEUED);
		/* To be copied anew it takes a place, and keeps it until it is whole. */
		CHECK(c->state != COPY_ASKING || readable || c->place != 0);
		CHECK((c->state != COPY_PURGING && c->state != COPY_PAGING) || c->place != 0);
		CHECK(c->place == 0 || e->copies.places[c->place - 1].used);
		CHECK(c->req == 0 || wheel_has(&e->copies.wheel, ref));
	}
	for (uint32_t ref = e->copies.queue_head; ref != 0; ref = copy_at(e, ref)->queue_next)
		CHECK(copy_at(e, ref)->state == COPY_QUEUED && queued-- > 0);
	for (unsigned i = 0; i < COPY_PLACES; i++)
		used += e->copies.places[i].used;
	CHECK(active == e->copies.active && whole == e->copies.whole && queued == 0);
	CHECK(places == used);
}
