#include "core/arena.h"

#include "base/check.h"

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define ARENA_ASAN 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(ARENA_ASAN)
#include <sanitizer/asan_interface.h>
static void poison(const void *p, size_t bytes)
{
	__asan_poison_memory_region(p, bytes);
}
static void unpoison(const void *p, size_t bytes)
{
	__asan_unpoison_memory_region(p, bytes);
}
#else
static void poison(const void *p, size_t bytes)
{
	(void)p;
	(void)bytes;
}
static void unpoison(const void *p, size_t bytes)
{
	(void)p;
	(void)bytes;
}
#endif

enum {
	FINE_MAX = 512,    /* every multiple of a unit up to here */
	MIDDLE_MAX = 4096, /* 8 classes per doubling up to here, then 4 */
	MIDDLE_FIRST = FINE_MAX / ARENA_UNIT,
	COARSE_FIRST = MIDDLE_FIRST + 3 * 8,
};
_Static_assert(COARSE_FIRST + 2 * 4 == ARENA_CLASSES, "classes fill the table");
_Static_assert(FINE_MAX << 3 == MIDDLE_MAX && MIDDLE_MAX << 2 == ARENA_BLOCK_MAX, "doublings");

struct size_class {
	uint32_t index;
	uint32_t units;
};

static struct size_class class_of(size_t bytes)
{
	CHECK(bytes >= 1 && bytes <= ARENA_BLOCK_MAX);
	uint32_t top = (uint32_t)bytes - 1;
	if (bytes <= FINE_MAX)
		return (struct size_class){top / ARENA_UNIT, top / ARENA_UNIT + 1};
	uint32_t log2 = 31 - (uint32_t)__builtin_clz(top);
	uint32_t steps_log2 = bytes <= MIDDLE_MAX ? 3 : 2;
	uint32_t shift = log2 - steps_log2;
	uint32_t first = bytes <= MIDDLE_MAX ? MIDDLE_FIRST + (log2 - 9) * 8
					     : COARSE_FIRST + (log2 - 12) * 4;
	uint32_t step = (top >> shift) & ((1U << steps_log2) - 1);
	return (struct size_class){first + step, (((top >> shift) + 1) << shift) / ARENA_UNIT};
}

void arena_init(struct arena *a, void *mem, size_t bytes)
{
	CHECK(mem != NULL && (uintptr_t)mem % ARENA_UNIT == 0);
	size_t units = bytes / ARENA_UNIT;
	if (units > UINT32_C(1) << 31)
		units = UINT32_C(1) << 31;
	*a = (struct arena){.base = mem, .units = (uint32_t)units, .next = 2};
}

static void push_free(struct arena *a, uint32_t ref, struct size_class c)
{
	uint32_t *block = arena_at(a, ref);
	*block = a->free[c.index];
	a->free[c.index] = ref;
	poison(block, (size_t)c.units * ARENA_UNIT);
}

/* One block of class @c from the untouched end, onto the free list. */
static void carve_free(struct arena *a, struct size_class c)
{
	uint32_t ref = a->next;
	a->next += c.units;
	unpoison(arena_at(a, ref), ARENA_UNIT);
	push_free(a, ref, c);
}

/* From the untouched end. Blocks of odd size are carved in pairs, which keeps the end even. */
static uint32_t carve(struct arena *a, struct size_class c)
{
	if (a->units < a->next || a->units - a->next < c.units)
		return 0;
	uint32_t ref = a->next;
	a->next += c.units;
	uint32_t left = a->units - a->next;
	if (c.units % 2 != 0 && left >= c.units)
		carve_free(a, c);
	else if (c.units % 2 != 0 && left >= 1)
		carve_free(a, (struct size_class){.index = 0, .units = 1});
	return ref;
}

uint32_t arena_alloc(struct arena *a, size_t bytes)
{
	struct size_class c = class_of(bytes);
	uint32_t ref = a->free[c.index];
	if (ref == 0) {
		ref = carve(a, c);
		if (ref == 0)
			return 0;
		/* The range may have been somebody's before, poison included. */
		unpoison(arena_at(a, ref), (size_t)c.units * ARENA_UNIT);
	} else {
		const uint32_t *block = arena_at(a, ref);
		unpoison(block, (size_t)c.units * ARENA_UNIT);
		a->free[c.index] = *block;
	}
	a->used_bytes += (uint64_t)c.units * ARENA_UNIT;
	return ref;
}

void arena_free(struct arena *a, uint32_t ref, size_t bytes)
{
	struct size_class c = class_of(bytes);
	CHECK(ref >= 2 && ref < a->next && c.units <= a->next - ref);
	CHECK(a->used_bytes >= (uint64_t)c.units * ARENA_UNIT);
	a->used_bytes -= (uint64_t)c.units * ARENA_UNIT;
	push_free(a, ref, c);
}

size_t arena_block_bytes(size_t bytes)
{
	return (size_t)class_of(bytes).units * ARENA_UNIT;
}

static uint32_t class_units(uint32_t index)
{
	if (index < MIDDLE_FIRST)
		return index + 1;
	uint32_t per_doubling = index < COARSE_FIRST ? 8 : 4;
	uint32_t nth = index < COARSE_FIRST ? index - MIDDLE_FIRST : index - COARSE_FIRST;
	uint32_t base = index < COARSE_FIRST ? FINE_MAX : MIDDLE_MAX;
	base <<= nth / per_doubling;
	return (base + base / per_doubling * (nth % per_doubling + 1)) / ARENA_UNIT;
}

void arena_validate(const struct arena *a)
{
	CHECK(a->next == 2 || a->next <= a->units);
	uint64_t touched_bytes = (uint64_t)(a->next - 2) * ARENA_UNIT;
	uint64_t free_bytes = 0;
	for (uint32_t i = 0; i < ARENA_CLASSES; i++) {
		uint32_t units = class_units(i);
		for (uint32_t ref = a->free[i]; ref != 0;) {
			CHECK(ref >= 2 && ref < a->next && units <= a->next - ref);
			CHECK(units % 2 != 0 || ref % 2 == 0);
			free_bytes += (uint64_t)units * ARENA_UNIT;
			CHECK(free_bytes + a->used_bytes <=
				touched_bytes); /* ends on a cycle too */
			const uint32_t *block = arena_at(a, ref);
			unpoison(block, sizeof *block);
			ref = *block;
			poison(block, ARENA_UNIT);
		}
	}
	CHECK(free_bytes + a->used_bytes == touched_bytes);
}
