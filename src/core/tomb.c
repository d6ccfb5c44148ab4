#include "core/tomb.h"

#include "base/check.h"

#include <string.h>

enum { LINE_BYTES = 64 };

static size_t round_up(size_t n)
{
	return (n + LINE_BYTES - 1) / LINE_BYTES * LINE_BYTES;
}

static size_t slot_array_bytes(uint16_t slots)
{
	return round_up(slots * sizeof(uint64_t));
}

size_t tombs_memory_bytes(uint64_t max_entries, uint16_t slots, unsigned parts)
{
	return 4 * slot_array_bytes(slots) + 2 * round_up(map_memory_bytes(max_entries, parts));
}

void tombs_init(struct tombs *t, void *mem, uint64_t max_entries, uint16_t slots, unsigned parts,
	uint64_t keep_ns, uint64_t now_ns)
{
	CHECK(max_entries >= 1 && slots >= 1);
	*t = (struct tombs){
		.rotate_ns = now_ns,
		.keep_ns = keep_ns,
		.slots = slots,
		.max_entries = max_entries,
	};
	uint8_t *p = mem;
	t->floors = (void *)p;
	p += slot_array_bytes(slots);
	t->early_until_ns = (void *)p;
	p += slot_array_bytes(slots);
	for (unsigned g = 0; g < 2; g++) {
		t->gen_max[g] = (void *)p;
		p += slot_array_bytes(slots);
	}
	for (unsigned g = 0; g < 2; g++) {
		map_init(&t->gen[g], p, max_entries, parts);
		p += round_up(map_memory_bytes(max_entries, parts));
	}
}

uint64_t tombs_floor(const struct tombs *t, uint16_t slot)
{
	CHECK(slot < t->slots);
	return t->floors[slot];
}

uint64_t tombs_top(const struct tombs *t, uint16_t slot)
{
	uint64_t top = tombs_floor(t, slot);
	for (unsigned g = 0; g < 2; g++)
		top = t->gen_max[g][slot] > top ? t->gen_max[g][slot] : top;
	return top;
}

/* The older generation sinks into the floors and begins anew as the current one. */
static void rotate(struct tombs *t, uint64_t now_ns)
{
	unsigned old = !t->current;
	if (t->gen[old].count != 0) {
		uint64_t *max = t->gen_max[old];
		for (unsigned i = 0; i < t->slots; i++)
			t->floors[i] = max[i] > t->floors[i] ? max[i] : t->floors[i];
		memset(max, 0, t->slots * sizeof *max);
		map_clear(&t->gen[old]);
	}
	t->current = old;
	t->rotate_ns = now_ns;
}

static bool is_time(const struct tombs *t, uint64_t now_ns)
{
	return now_ns >= t->rotate_ns && now_ns - t->rotate_ns >= t->keep_ns;
}

void tombs_tick(struct tombs *t, uint64_t now_ns)
{
	if (is_time(t, now_ns))
		rotate(t, now_ns);
}

static void rotate_early(struct tombs *t, uint64_t now_ns)
{
	for (unsigned i = 0; t->gen[!t->current].count != 0 && i < t->slots; i++)
		t->early_until_ns[i] = now_ns + t->keep_ns;
	rotate(t, now_ns);
}

static int insert(struct tombs *t, uint64_t hash, uint64_t n)
{
	struct map *m = &t->gen[t->current];
	return m->count < t->max_entries ? map_insert(m, hash, n) : -1;
}

void tombs_put(struct tombs *t, uint64_t hash, uint16_t slot, uint64_t n, uint64_t now_ns)
{
	CHECK(slot < t->slots);
	if (n == 0)
		return;
	/* A generation collects for keep_ns and no longer, however late the owner ticks. */
	tombs_tick(t, now_ns);

	const struct map_slot *old = map_find(&t->gen[!t->current], hash);
	if (old != NULL && old->value > n)
		n = old->value;
	struct map_slot *young = map_find(&t->gen[t->current], hash);
	if (young != NULL) {
		if (n > young->value)
			young->value = n;
	} else if (insert(t, hash, n) != 0) {
		rotate_early(t, now_ns);
		CHECK(insert(t, hash, n) == 0);
	}
	uint64_t *max = &t->gen_max[t->current][slot];
	if (n > *max)
		*max = n;
}

bool tombs_forgot_early(const struct tombs *t, uint16_t slot, uint64_t now_ns)
{
	return now_ns < t->early_until_ns[slot];
}

uint64_t tombs_next_ns(const struct tombs *t)
{
	return tombs_count(t) == 0 ? UINT64_MAX : t->rotate_ns + t->keep_ns;
}

uint64_t tombs_count(const struct tombs *t)
{
	return t->gen[0].count + t->gen[1].count;
}

void tombs_raise_floor(struct tombs *t, uint16_t slot, uint64_t n, uint64_t now_ns)
{
	CHECK(slot < t->slots);
	if (n > t->floors[slot])
		t->floors[slot] = n;
	t->early_until_ns[slot] = now_ns + t->keep_ns;
}

static void find_largest(void *arg, struct map_slot slot)
{
	uint64_t *largest = arg;
	CHECK(slot.value != 0);
	if (slot.value > *largest)
		*largest = slot.value;
}

void tombs_validate(const struct tombs *t)
{
	CHECK(t->current < 2);
	for (unsigned g = 0; g < 2; g++) {
		map_validate(&t->gen[g]);
		CHECK(t->gen[g].count <= t->max_entries);
		uint64_t in_map = 0, in_slots = 0, cursor = 0;
		do {
			cursor = map_scan(&t->gen[g], cursor, find_largest, &in_map);
		} while (cursor != 0);
		for (unsigned i = 0; i < t->slots; i++) {
			if (t->gen_max[g][i] > in_slots)
				in_slots = t->gen_max[g][i];
		}
		CHECK(in_map == in_slots);
	}
}
