/* Hierarchical timer wheel without cascades: 8 levels of 64 slots, 1 ms at the finest, each level
 * 8 times coarser. An entry sits in the slot first chosen, rounded down, so it comes out at its
 * deadline (rounded up to a tick) or early; the owner compares the real deadline and puts it back
 * (lazy re-arm: extending a deadline needs no move at all).
 *
 * Entries are named by 32-bit references below 2^31 and hold a struct wheel_link at a fixed offset:
 * link of ref = base + ref * unit + offset. O(1) add and remove; no allocation.
 * Time   ns on whatever clock the owner passes; it may repeat but not go back.
 * Owner  the shard thread.
 * Source Varghese & Lauck 1987; Linux kernel/time/timer.c (no cascades). */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { WHEEL_LEVELS = 8, WHEEL_SLOTS = 64 };
#define WHEEL_TICK_NS UINT64_C(1000000)
#define WHEEL_HEAD    UINT32_C(0x80000000)

struct wheel_link {
	uint32_t next; /* 0: end of list */
	uint32_t prev; /* reference; WHEEL_HEAD | slot number: first; 0: not in the wheel */
};

struct wheel {
	uint8_t *base;
	size_t unit, offset;
	uint64_t tick; /* being looked at: new entries come out after it */
	uint64_t count;
	uint64_t busy[WHEEL_LEVELS]; /* a bit per non-empty slot */
	uint32_t head[WHEEL_LEVELS][WHEEL_SLOTS];
};

void wheel_init(struct wheel *w, void *base, size_t unit, size_t offset, uint64_t now_ns);
/* @ref must not be in the wheel. A deadline in the past comes out at the next tick. Deadlines
 * beyond the reach of the wheel (63 * 8^7 ms, over 36 hours) come out early, like all. */
void wheel_add(struct wheel *w, uint32_t ref, uint64_t deadline_ns);
/* Take @ref out; nothing happens when it is not in. */
void wheel_remove(struct wheel *w, uint32_t ref);
bool wheel_has(const struct wheel *w, uint32_t ref);
/* Take out and return one entry whose slot has come by @now_ns; 0 when there is none. */
uint32_t wheel_pop(struct wheel *w, uint64_t now_ns);
/* When wheel_pop() may next have something: <= now_ns: at once; UINT64_MAX: never. */
uint64_t wheel_next_ns(const struct wheel *w);
/* Aborts on a broken invariant. */
void wheel_validate(const struct wheel *w);
