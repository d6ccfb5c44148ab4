/* Size-class blocks in one reserved range of memory, named by 32-bit references.
 *
 * A reference counts units of ARENA_UNIT bytes from the base; 0 is none. Blocks are taken from a
 * per-class free list or from the untouched end of the range, so memory is committed as needed and
 * never moved. No malloc; O(1). Blocks of an even number of units are aligned to two units, so that
 * in a cache-line aligned range a 64-byte block is one line; the first two units are never used.
 * Classes: every multiple of 32 up to 512, then 8 steps per doubling up to 4096, then 4.
 * Owner: the shard thread. */
#pragma once

#include <stddef.h>
#include <stdint.h>

enum {
	ARENA_UNIT = 32,
	ARENA_CLASSES = 48,
	ARENA_BLOCK_MAX = 16384, /* largest block */
};

struct arena {
	uint8_t *base;
	uint32_t units; /* size of the range */
	uint32_t next;  /* first untouched unit */
	uint32_t free[ARENA_CLASSES];
	uint64_t used_bytes; /* in blocks handed out */
};

/* @mem: ARENA_UNIT-aligned. At most 2^31 units are used. */
void arena_init(struct arena *a, void *mem, size_t bytes);

/* A block of at least @bytes (1..ARENA_BLOCK_MAX); 0 when the range is used up. */
uint32_t arena_alloc(struct arena *a, size_t bytes);
/* @bytes as given to arena_alloc, or any size of the same class. */
void arena_free(struct arena *a, uint32_t ref, size_t bytes);

/* What a block asked for with @bytes really takes. */
size_t arena_block_bytes(size_t bytes);
/* Walks the free lists; aborts on a broken invariant. */
void arena_validate(const struct arena *a);

static inline void *arena_at(const struct arena *a, uint32_t ref)
{
	return a->base + (size_t)ref * ARENA_UNIT;
}
