/* Hash map from a 64-bit hash to a 64-bit value, growing segment by segment: extendible hashing
 * (Fagin et al. 1979) over segments of 4 KiB with linear probing inside, so that growth never
 * moves more than one segment (256 slots). Several entries may have the same hash.
 *
 * The directory is indexed by the top bits of the hash, the home slot inside a segment by bits
 * 24..31. So entries lie in the order of their hashes, and a range of hashes can be walked.
 * Stored hash 0 is mapped to 1 inside. No malloc: everything lives in the range given at init.
 * Owner: the shard thread. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct map_slot {
	uint64_t hash; /* 0: empty */
	uint64_t value;
};

enum { MAP_SEGMENT_SLOTS = 256 };
#define MAP_ENTRIES_MAX (UINT64_C(1) << 32) /* largest max_entries */

struct map {
	uint32_t *dir; /* 2^depth segment numbers */
	struct map_slot *segments;
	uint16_t *seg_count; /* entries per segment */
	uint8_t *seg_depth;
	uint8_t depth, depth_max;
	uint32_t n_segments, max_segments;
	uint32_t touched_segments; /* high-water mark of n_segments: those beyond are still zero */
	uint64_t count;
};

/* Bytes of address space for @max_entries at the worst fill; touched as needed. @parts: the hashes
 * lie in one of so many parts of their range (a shard's do), which takes a deeper directory. */
size_t map_memory_bytes(uint64_t max_entries, unsigned parts);
/* @mem: zeroed, 64-byte aligned, map_memory_bytes(max_entries, parts) long. */
void map_init(struct map *m, void *mem, uint64_t max_entries, unsigned parts);
/* Empty it in O(directory), keeping the memory for reuse (segments are zeroed when taken again). */
void map_clear(struct map *m);

/* 0 marks an empty slot, hence the substitute. */
static inline uint64_t map_stored_hash(uint64_t hash)
{
	return hash | (hash == 0);
}

/* Two shifts, since one by 64 - 0 is undefined. */
static inline size_t map_dir_index(const struct map *m, uint64_t hash)
{
	return (size_t)((hash >> 1) >> (63 - m->depth));
}

static inline struct map_slot *map_segment(const struct map *m, uint64_t hash)
{
	return m->segments + (size_t)m->dir[map_dir_index(m, hash)] * MAP_SEGMENT_SLOTS;
}

static inline unsigned map_home(uint64_t hash)
{
	return (unsigned)(hash >> 24) % MAP_SEGMENT_SLOTS;
}

/* Ends because a segment always keeps an empty slot. */
static inline struct map_slot *map_probe(struct map_slot *seg, unsigned i, uint64_t stored)
{
	for (;; i = (i + 1) % MAP_SEGMENT_SLOTS) {
		if (seg[i].hash == stored)
			return seg + i;
		if (seg[i].hash == 0)
			return NULL;
	}
}

/* Prefetch the home slot of @hash. */
static inline void map_prefetch(const struct map *m, uint64_t hash)
{
	__builtin_prefetch(map_segment(m, hash) + map_home(hash));
}

/* First slot with this hash, or NULL; map_next() goes on from a slot found. The pointer is valid
 * until the next insert or erase; its value may be overwritten in place. */
static inline struct map_slot *map_find(const struct map *m, uint64_t hash)
{
	return map_probe(map_segment(m, hash), map_home(hash), map_stored_hash(hash));
}

struct map_slot *map_next(const struct map *m, uint64_t hash, const struct map_slot *after);

/* Insert without looking for an equal entry. 0, or -ENOSPC with nothing changed. */
int map_insert(struct map *m, uint64_t hash, uint64_t value);
/* Erase the slot found (backward shift: other slots of its segment may move). */
void map_erase(struct map *m, uint64_t hash, struct map_slot *slot);

/* Visit every entry whose hash's top bits put it in the segment(s) at @cursor; returns the next
 * cursor, 0 when done. @cursor holds the top 32 bits of a hash; starting at 0 and following the
 * returned cursors visits every entry that stays put in between at least once, also when segments
 * split meanwhile. One segment a call. @each must not change the map. */
uint64_t map_scan(const struct map *m, uint64_t cursor,
	void (*each)(void *arg, struct map_slot slot), void *arg);

/* Bytes touched so far. */
size_t map_used_bytes(const struct map *m);
/* Aborts on a broken invariant. */
void map_validate(const struct map *m);
