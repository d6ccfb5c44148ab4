/* Client names, interned: a client that holds many leases has its name stored once. A name that no
 * entry refers to is kept for the next lock of that client, and swept when such names pile up. */
#include <string.h>

#include "core/internal.h"

struct name {
	uint32_t refs;
	uint8_t bytes;
	uint8_t data[];
};

static struct name *at(const struct engine *e, uint32_t ref)
{
	return arena_at(&e->arena, ref);
}

struct bytes name_at(const struct engine *e, uint32_t ref)
{
	return ref == 0 ? (struct bytes){0} : bytes_of(at(e, ref)->data, at(e, ref)->bytes);
}

uint32_t name_take(struct engine *e, struct bytes name)
{
	if (name.len == 0)
		return 0;
	uint64_t hash = hash_bytes(name);
	struct map_slot *s = map_find(&e->names, hash);
	while (s != NULL && !bytes_eq(name_at(e, (uint32_t)s->value), name))
		s = map_next(&e->names, hash, s);
	if (s != NULL) {
		struct name *n = at(e, (uint32_t)s->value);
		e->names_idle -= n->refs == 0;
		n->refs++;
		return (uint32_t)s->value;
	}
	size_t bytes = sizeof(struct name) + name.len;
	uint32_t ref = arena_alloc(&e->arena, bytes);
	if (ref == 0)
		return 0; /* a lock without its client's name is better than none */
	if (map_insert(&e->names, hash, ref) != 0) {
		arena_free(&e->arena, ref, bytes);
		return 0;
	}
	*at(e, ref) = (struct name){.refs = 1, .bytes = (uint8_t)name.len};
	memcpy(at(e, ref)->data, name.p, name.len);
	return ref;
}

void name_drop(struct engine *e, uint32_t ref)
{
	if (ref == 0)
		return;
	CHECK(at(e, ref)->refs > 0);
	at(e, ref)->refs--;
	e->names_idle += at(e, ref)->refs == 0;
}

struct sweep {
	struct engine *e;
	uint32_t refs[NAMES_SWEEP];
	unsigned n;
};

static void pick_idle(void *arg, struct map_slot slot)
{
	struct sweep *w = arg;
	if (w->n < NAMES_SWEEP && at(w->e, (uint32_t)slot.value)->refs == 0)
		w->refs[w->n++] = (uint32_t)slot.value;
}

void names_tick(struct engine *e)
{
	if (e->names_idle <= NAMES_IDLE_MAX)
		return;
	struct sweep w = {.e = e};
	e->names_cursor = map_scan(&e->names, e->names_cursor, pick_idle, &w);
	for (unsigned i = 0; i < w.n; i++) {
		struct bytes name = name_at(e, w.refs[i]);
		uint64_t hash = hash_bytes(name);
		struct map_slot *s = map_find(&e->names, hash);
		while (s != NULL && s->value != w.refs[i])
			s = map_next(&e->names, hash, s);
		CHECK(s != NULL);
		map_erase(&e->names, hash, s);
		e->names_idle--;
		block_dispose(e, w.refs[i], sizeof(struct name) + name.len);
	}
}
