/* Looking at the lease table from outside: walks and self-checks. */
#include "core/internal.h"

struct walk {
	const struct engine *e;
	const struct engine_time *now;
	void (*each)(void *arg, const struct scan_item *item);
	void *arg;
	unsigned seen;
};

static void walk_slot(void *arg, struct map_slot slot)
{
	struct walk *w = arg;
	const struct lease *l = lease_at(w->e, (uint32_t)slot.value);
	w->seen++;
	if ((l->flags & (LEASE_UNSEEN | LEASE_HIDDEN)) || w->now->slow_ns >= l->end_ns)
		return;
	if ((l->flags & LEASE_COPY) && !slot_readable(w->e, slot_of(w->e, slot.hash)))
		return; /* not all of it is here yet, or it is copied no more */
	struct scan_item item = {
		.key = lease_key(l),
		.value = lease_value(l),
		.client = name_at(w->e, l->name),
		.token = l->token,
		.remaining_ns = l->end_ns - w->now->slow_ns,
		.held_ns = lease_held_ns(l, w->now),
		.node = l->node,
	};
	w->each(w->arg, &item);
}

uint64_t engine_scan(const struct engine *e, const struct engine_time *now, uint64_t cursor,
	unsigned count, void (*each)(void *arg, const struct scan_item *item), void *arg)
{
	struct walk w = {.e = e, .now = now, .each = each, .arg = arg};
	do
		cursor = map_scan(&e->leases, cursor, walk_slot, &w);
	while (cursor != 0 && w.seen < count);
	return cursor;
}

uint32_t engine_waiters(const struct engine *e, struct bytes key)
{
	const struct line *l = line_find(e, hash_bytes(key), key);
	return l == NULL ? 0 : l->count - l->watchers;
}

struct validation {
	const struct engine *e;
	uint64_t leases, promises, hidden, staged, shadows, resync;
};

static void validate_slot(void *arg, struct map_slot slot)
{
	struct validation *v = arg;
	const struct lease *l = lease_at(v->e, (uint32_t)slot.value);
	CHECK(l->token != 0 || !lease_is_live(l));
	CHECK(l->maxn >= l->token);
	/* Nothing staged outlives the synchronisation of its slot. */
	CHECK(!(l->flags & LEASE_STAGED) || !slot_votes(v->e, slot_of(v->e, slot.hash)));
	bool votes = slot_votes(v->e, slot_of(v->e, slot.hash));
	CHECK(!(l->flags & LEASE_COPY) || (lease_is_visible(l) && !votes));
	CHECK(l->key_bytes >= 1 && l->key_bytes <= KEY_MAX_BYTES);
	CHECK(l->value_bytes <= VALUE_MAX_BYTES);
	CHECK(wheel_has(&v->e->lease_wheel, (uint32_t)slot.value));
	if (l->flags & LEASE_STAGED)
		v->staged++;
	else if (l->flags & LEASE_SHADOW)
		v->shadows++;
	else if (l->flags & LEASE_RESYNC)
		v->resync++;
	else if (l->flags & LEASE_HIDDEN)
		v->hidden++;
	else if (l->flags & LEASE_UNCONFIRMED)
		v->promises++;
	else
		v->leases++;
	const struct side *side = l->side == 0 ? NULL : arena_at(&v->e->arena, l->side);
	if (side != NULL && side->probe != 0)
		CHECK(v->e->probes[side->probe - 1].lease == (uint32_t)slot.value);
}

static void validate_ops(const struct engine *e)
{
	uint32_t used = 0, waiters = 0, observers = 0;
	for (uint32_t i = 0; i < e->ops_touched; i++) {
		const struct op *op = op_at(e, i);
		if (op->state == OPS_FREE)
			continue;
		used++;
		waiters += op->in_queue && op->kind != OP_OBSERVE;
		observers += op->kind == OP_OBSERVE;
		if (op->kind == OP_OBSERVE)
			observe_validate(e, op);
		CHECK(op->index == i);
	}
	CHECK(used == e->ops_used);
	CHECK(waiters == e->n_waiters && observers == e->n_observers);
}

void engine_validate(const struct engine *e)
{
	struct validation v = {.e = e};
	map_validate(&e->leases);
	wheel_validate(&e->lease_wheel);
	wheel_validate(&e->op_wheel);
	uint64_t cursor = 0;
	do
		cursor = map_scan(&e->leases, cursor, validate_slot, &v);
	while (cursor != 0);
	CHECK(v.leases == e->n_leases && v.promises == e->n_promises && v.hidden == e->n_hidden);
	CHECK(v.staged == e->n_staged && v.shadows == e->n_shadows && v.resync == e->n_resync);
	wheel_validate(&e->heal_wheel);
	CHECK(e->heal_wheel.count == e->heals_used);
	CHECK(e->lease_wheel.count == e->leases.count);
	turns_validate(e);
	validate_ops(e);
	logs_validate(e);
	copies_validate(e);
}
