/* Who waits for a key at other nodes (protocol.md 2.9). The head of the line of each node stands at
 * the key's home, a master, with the place it took when it came; when the key ends there, the first
 * of them is called. All of this is soft: whoever is lost, or not called, looks for itself. */
#include <string.h>

#include "core/internal.h"

enum {
	CALL_RTTS = 4, /* so long who was called has to come, or the next one is */
	CALL_LEAST_MS = 100,
	AGAIN_MS = 1, /* the key is free here and not yet elsewhere: so long at first, then twice */
	AGAIN_SHIFT_MAX = 10,
	SWEEP = 64,       /* looked at in one step */
	STOOD_MS = 10000, /* who stands at a home looks for itself that seldom */
};

static struct turn *turn_at(const struct engine *e, uint32_t ref)
{
	return &e->turns.pool[ref - 1];
}

static uint32_t ref_of(const struct engine *e, const struct turn *t)
{
	return (uint32_t)(t - e->turns.pool) + 1;
}

static struct bytes turn_key(const struct engine *e, const struct turn *t)
{
	return bytes_of(arena_at(&e->arena, t->block), t->key_bytes);
}

void turns_init(struct engine *e)
{
	wheel_init(&e->turns.wheel, e->turns.pool - 1, sizeof(struct turn), 0, e->now.slow_ns);
}

static void due_at(struct engine *e, struct turn *t, uint64_t due_ns)
{
	t->due_ns = due_ns < t->end_ns ? due_ns : t->end_ns;
	wheel_remove(&e->turns.wheel, ref_of(e, t));
	wheel_add(&e->turns.wheel, ref_of(e, t), t->due_ns);
}

/* ---- at the home ---- */

static struct turn *turn_find(const struct engine *e, uint64_t hash, struct bytes key, uint8_t node)
{
	if (e->turns.used == 0)
		return NULL;
	const struct map_slot *s = map_find(&e->turns.map, hash);
	for (; s != NULL; s = map_next(&e->turns.map, hash, s)) {
		struct turn *t = turn_at(e, (uint32_t)s->value);
		if (t->node == node && bytes_eq(turn_key(e, t), key))
			return t;
	}
	return NULL;
}

static struct turn *turn_new(struct engine *e, uint64_t hash, struct bytes key, uint8_t node)
{
	bool full = e->turns.free == 0 && e->turns.touched == e->cfg.max_ops;
	uint32_t block = full ? 0 : arena_alloc(&e->arena, key.len);
	if (block == 0)
		return NULL;
	uint32_t ref = e->turns.free != 0 ? e->turns.free : e->turns.touched + 1;
	if (map_insert(&e->turns.map, hash, ref) != 0) {
		arena_free(&e->arena, block, key.len);
		return NULL;
	}
	if (ref == e->turns.free)
		e->turns.free = turn_at(e, ref)->next;
	else
		e->turns.touched = ref;
	if (e->turns.used == 0) /* nobody has turned the wheel meanwhile */
		CHECK(wheel_pop(&e->turns.wheel, e->now.slow_ns) == 0);
	e->turns.used++;
	struct turn *t = turn_at(e, ref);
	*t = (struct turn){.hash = hash,
		.block = block,
		.key_bytes = (uint16_t)key.len,
		.node = node,
		.state = TURN_STANDS};
	memcpy(arena_at(&e->arena, block), key.p, key.len);
	return t;
}

static void turn_free(struct engine *e, struct turn *t)
{
	struct map_slot *s = map_find(&e->turns.map, t->hash);
	while (s != NULL && s->value != ref_of(e, t))
		s = map_next(&e->turns.map, t->hash, s);
	CHECK(s != NULL);
	map_erase(&e->turns.map, t->hash, s);
	wheel_remove(&e->turns.wheel, ref_of(e, t));
	block_dispose(e, t->block, t->key_bytes);
	e->turns.used--;
	t->state = TURN_FREE;
	if (t->listed) /* goes to the free list when it comes up there */
		return;
	t->next = e->turns.free;
	e->turns.free = ref_of(e, t);
}

/* Effects may be many already: it is called at the end of the step. */
static void call_later(struct engine *e, struct turn *t)
{
	uint64_t wait_ns = CALL_RTTS * e->rtt_ns, least_ns = CALL_LEAST_MS * NS_PER_MS;
	t->state = TURN_CALLED;
	due_at(e, t, e->now.slow_ns + (wait_ns > least_ns ? wait_ns : least_ns));
	if (t->listed)
		return;
	t->listed = true;
	t->next = 0;
	if (e->turns.head == 0)
		e->turns.head = ref_of(e, t);
	else
		turn_at(e, e->turns.tail)->next = ref_of(e, t);
	e->turns.tail = ref_of(e, t);
}

bool turn_call_first(struct engine *e, uint64_t hash, struct bytes key, uint64_t before, bool ended)
{
	struct turn *first = NULL;
	if (e->turns.used == 0)
		return false;
	const struct map_slot *s = map_find(&e->turns.map, hash);
	for (; s != NULL; s = map_next(&e->turns.map, hash, s)) {
		struct turn *t = turn_at(e, (uint32_t)s->value);
		bool counts = e->linked[t->node] && (ended || t->state != TURN_PASSED);
		if (counts && t->place < before && bytes_eq(turn_key(e, t), key)) {
			before = t->place;
			first = t;
		}
	}
	if (first != NULL)
		call_later(e, first);
	return first != NULL;
}

void turn_taken(struct engine *e, uint64_t hash, struct bytes key, uint8_t node)
{
	struct turn *t = turn_find(e, hash, key, node);
	/* Another one may stand for its node already, whose message was faster (simulator, seed
	 * 73000218). */
	if (t != NULL && t->state == TURN_CALLED)
		turn_free(e, t);
}

static void call_next(struct engine *e, uint64_t hash, struct bytes key)
{
	if (lease_find(e, hash, key) == 0)
		line_call_first(e, hash, key, false);
}

/* Nobody waits there any more. */
static void leave(struct engine *e, struct turn *t)
{
	uint64_t hash = t->hash;
	bool was_called = t->state == TURN_CALLED;
	uint8_t copy[KEY_MAX_BYTES];
	struct bytes key = bytes_of(copy, t->key_bytes);
	memcpy(copy, arena_at(&e->arena, t->block), t->key_bytes);
	turn_free(e, t);
	if (was_called)
		call_next(e, hash, key);
}

/* Only what is a lock says when it ends: a promise that is given up wakes nobody. */
static bool tells_its_end(struct engine *e, uint64_t hash, struct bytes key)
{
	uint32_t ref = lease_find(e, hash, key);
	return ref != 0 && lease_is_visible(lease_at(e, ref));
}

static void look_again(struct engine *e, struct turn *t)
{
	uint64_t due_ns = e->now.slow_ns + e->attempt_ns;
	if (tells_its_end(e, t->hash, turn_key(e, t)))
		due_ns = t->end_ns;
	due_at(e, t, due_ns);
}

void turn_stand(struct engine *e, uint8_t from, const struct msg *m)
{
	uint64_t hash = hash_bytes(m->key);
	struct turn *t = turn_find(e, hash, m->key, from);
	if (m->n == 0) {
		if (t != NULL)
			leave(e, t);
		return;
	}
	if (t == NULL && slot_votes(e, slot_of(e, hash)))
		t = turn_new(e, hash, m->key, from);
	struct msg reply = {.type = MSG_REPLY,
		.req_type = MSG_STAND,
		.slot = m->slot,
		.req = m->req,
		.verdict = t != NULL ? VERDICT_ACK : VERDICT_RESYNC};
	if (m->req != 0)
		send_node(e, from, &reply);
	if (t == NULL)
		return;
	t->place = m->n;
	t->end_ns = e->now.slow_ns + m->remaining_ns;
	if (!t->listed)
		t->state = TURN_STANDS;
	if (lease_find(e, hash, m->key) != 0) {
		t->tries = 0;
		look_again(e, t);
	} else {
		t->tries = (uint8_t)(t->tries + (t->tries < AGAIN_SHIFT_MAX));
		due_at(e, t, e->now.slow_ns + (AGAIN_MS * NS_PER_MS << t->tries));
	}
}

static void turn_due(struct engine *e, struct turn *t)
{
	if (e->now.slow_ns >= t->end_ns) {
		leave(e, t);
	} else if (t->state == TURN_CALLED) {
		/* It does not come: the next one may. */
		t->state = TURN_PASSED;
		due_at(e, t, t->end_ns);
		call_next(e, t->hash, turn_key(e, t));
	} else {
		/* Who is before it is called first, and it when that one does not come. */
		look_again(e, t);
		call_next(e, t->hash, turn_key(e, t));
	}
}

void turns_link_down(struct engine *e)
{
	e->turns.swept = 0;
}

/* Of nodes that are gone. */
static void sweep(struct engine *e)
{
	for (unsigned i = 0; i < SWEEP && e->turns.swept < e->turns.touched; i++) {
		if (!effects_room(e))
			return;
		struct turn *t = turn_at(e, ++e->turns.swept);
		if (t->state != TURN_FREE && !e->linked[t->node])
			leave(e, t);
	}
}

void turns_tick(struct engine *e)
{
	uint32_t ref;
	if (e->turns.used == 0)
		return;
	sweep(e);
	while (effects_room(e) && (ref = wheel_pop(&e->turns.wheel, e->now.slow_ns)) != 0) {
		struct turn *t = turn_at(e, ref);
		if (e->now.slow_ns < t->due_ns)
			wheel_add(&e->turns.wheel, ref, t->due_ns);
		else
			turn_due(e, t);
	}
}

void turns_run(struct engine *e)
{
	while (e->turns.head != 0 && effects_room(e)) {
		struct turn *t = turn_at(e, e->turns.head);
		e->turns.head = t->next;
		t->listed = false;
		if (t->state == TURN_FREE) {
			t->next = e->turns.free;
			e->turns.free = ref_of(e, t);
			continue;
		}
		struct msg m = {
			.type = MSG_TURN, .slot = slot_of(e, t->hash), .key = turn_key(e, t)};
		send_node(e, t->node, &m);
	}
}

void turns_validate(const struct engine *e)
{
	uint32_t used = 0;
	wheel_validate(&e->turns.wheel);
	for (uint32_t ref = 1; ref <= e->turns.touched; ref++) {
		const struct turn *t = turn_at(e, ref);
		if (t->state == TURN_FREE)
			continue;
		used++;
		CHECK(wheel_has(&e->turns.wheel, ref));
		CHECK(turn_find(e, t->hash, turn_key(e, t), t->node) == t);
	}
	CHECK(used == e->turns.used && used == e->turns.map.count);
}

/* ---- at the node of the waiter ---- */

static void look_at_last(struct engine *e, struct op *op)
{
	uint64_t due_ns = e->now.fast_ns + STOOD_MS * NS_PER_MS;
	due_ns += prng_below(&e->prng, STOOD_MS * NS_PER_MS / 4);
	uint64_t until_ns = lock_wait_until_ns(e, op);
	op_timer(e, op, due_ns < until_ns ? due_ns : until_ns);
}

void turn_wait(struct engine *e, struct op *op)
{
	uint64_t until_ns = lock_wait_until_ns(e, op);
	unsigned home = lock_home(e, op);
	op->home = 0;
	if (e->now.fast_ns >= until_ns || masters_reachable(e, op->slot) == 0)
		return;
	if (home == e->self_index) {
		op->home = e->cfg.self;
		if (tells_its_end(e, op->hash, op_key(e, op)))
			look_at_last(e, op);
		return;
	}
	op->home = e->cfg.masters[home];
	struct msg m = {.type = MSG_STAND,
		.slot = op->slot,
		.key = op_key(e, op),
		.n = op->place,
		.remaining_ns = until_ns - e->now.fast_ns,
		.req = (uint64_t)op->round << 32 | (op->index + 1)};
	send_node(e, op->home, &m);
}

void turn_stood(struct engine *e, const struct msg *m)
{
	uint32_t index = (uint32_t)m->req;
	if (index == 0 || index > e->ops_touched)
		return;
	struct op *op = op_at(e, index - 1);
	if (op->state != OPS_LOCK_PARKED || op->round != (uint32_t)(m->req >> 32))
		return; /* it went on meanwhile */
	/* Who finds no room there is called where it is, or looks for itself. */
	if (m->verdict == VERDICT_ACK)
		look_at_last(e, op);
	else
		op->home = 0;
}

void turn_called(struct engine *e, uint8_t from, const struct msg *m)
{
	struct op *head = line_head(e, hash_bytes(m->key), m->key);
	if (head != NULL) {
		if (head->state == OPS_LOCK_PARKED)
			op_run_later(e, head);
		return;
	}
	struct msg nobody = {.type = MSG_STAND, .slot = m->slot, .key = m->key};
	send_node(e, from, &nobody);
}

void turn_check_home(struct engine *e, struct op *op)
{
	if (op->state != OPS_LOCK_PARKED || op->home == 0 || op->in_run)
		return;
	unsigned home = lock_home(e, op);
	if (masters_reachable(e, op->slot) == 0 || e->cfg.masters[home] != op->home)
		lock_park(e, op, e->attempt_ns);
}
