/* What remains of a freed key: the highest ballot n it had, under the 64-bit hash of the key
 * (protocol.md 2.3, 2.12). Two generations of a map; when the current one has collected for keep_ns
 * the older is folded into a floor per slot and becomes the new current one, so a tombstone lives
 * between one and two keep_ns and nothing is ever searched for age.
 *
 * Keys with one hash share the larger n: conservative, hence safe. A key that lives again leaves
 * its tombstone where it is: n only rises. No malloc. Time   ns, passed in; it may repeat but not
 * go back. Bound  max_entries in each generation; then the older one is folded early. Owner  the
 * shard thread. */
#pragma once

#include "core/map.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct tombs {
	struct map gen[2];
	unsigned current;
	uint64_t rotate_ns;       /* when the current generation was begun */
	uint64_t keep_ns;         /* T_tomb */
	uint64_t *floors;         /* [slots] */
	uint64_t *gen_max[2];     /* [slots] highest n in each generation */
	uint64_t *early_until_ns; /* [slots] something younger than keep_ns may be missing until
				   * then */
	uint16_t slots;
	uint64_t max_entries;
};

/* Bytes of address space; touched as needed. */
size_t tombs_memory_bytes(uint64_t max_entries, uint16_t slots, unsigned parts);
/* @mem: zeroed, 64-byte aligned, tombs_memory_bytes() long. @max_entries >= 1; @parts as in map.h.
 */
void tombs_init(struct tombs *t, void *mem, uint64_t max_entries, uint16_t slots, unsigned parts,
	uint64_t keep_ns, uint64_t now_ns);

static inline void tombs_prefetch(const struct tombs *t, uint64_t hash)
{
	map_prefetch(&t->gen[0], hash);
	map_prefetch(&t->gen[1], hash);
}

/* Highest n buried under @hash; 0: none. */
static inline uint64_t tombs_get(const struct tombs *t, uint64_t hash)
{
	const struct map_slot *young = map_find(&t->gen[t->current], hash);
	const struct map_slot *old = map_find(&t->gen[!t->current], hash);
	uint64_t n = young != NULL ? young->value : 0;
	return old != NULL && old->value > n ? old->value : n;
}

/* What a key of @slot without tombstone may have had at most. */
uint64_t tombs_floor(const struct tombs *t, uint16_t slot);
/* What a key of @slot may have had at most, with a tombstone or without. Never falls. */
uint64_t tombs_top(const struct tombs *t, uint16_t slot);

/* Raise, never lower, the n under @hash and keep it for keep_ns from now. n 0 says nothing and is
 * ignored. */
void tombs_put(struct tombs *t, uint64_t hash, uint16_t slot, uint64_t n, uint64_t now_ns);

/* Tombstones of @slot were folded before their time, here or elsewhere: a key without one may not
 * be called never seen. */
bool tombs_forgot_early(const struct tombs *t, uint16_t slot, uint64_t now_ns);

/* Fold what is old. */
void tombs_tick(struct tombs *t, uint64_t now_ns);
/* When tombs_tick() has something to do; UINT64_MAX: nothing. */
uint64_t tombs_next_ns(const struct tombs *t);

/* A hash in both generations counts twice. */
uint64_t tombs_count(const struct tombs *t);

/* The floor of @slot is not below @n from here on: after a restart, whatever was forgotten was
 * below. That may have been young, so it counts as forgotten early. */
void tombs_raise_floor(struct tombs *t, uint16_t slot, uint64_t n, uint64_t now_ns);

/* Aborts on a broken invariant. */
void tombs_validate(const struct tombs *t);
