#include "core/wheel.h"

#include "base/check.h"

#include <string.h>

enum {
	LEVEL_SHIFT = 3, /* each level is 8 times coarser */
	SLOT_MASK = WHEEL_SLOTS - 1,
};
_Static_assert(WHEEL_SLOTS == 64, "a busy bit per slot");

static struct wheel_link *link_of(const struct wheel *w, uint32_t ref)
{
	return (void *)(w->base + (size_t)ref * w->unit + w->offset);
}

static uint32_t *head_of(struct wheel *w, uint32_t slot)
{
	return &w->head[slot / WHEEL_SLOTS][slot % WHEEL_SLOTS];
}

void wheel_init(struct wheel *w, void *base, size_t unit, size_t offset, uint64_t now_ns)
{
	memset(w, 0, sizeof *w);
	w->base = base;
	w->unit = unit;
	w->offset = offset;
	w->tick = now_ns / WHEEL_TICK_NS;
}

/* The finest level that reaches the deadline. Its slot begins after w->tick: whatever the finer
 * level did not reach is at least 7 slots away on this one. So an entry put back from a pop never
 * comes out again at the same tick, and each time it is put back it gets to a finer level. */
static uint32_t choose_slot(const struct wheel *w, uint64_t deadline_ns)
{
	uint64_t due = deadline_ns / WHEEL_TICK_NS + (deadline_ns % WHEEL_TICK_NS != 0);
	if (due <= w->tick)
		due = w->tick + 1;
	unsigned level = 0, shift = 0;
	while ((due >> shift) - (w->tick >> shift) > SLOT_MASK) {
		if (level == WHEEL_LEVELS - 1) {
			due = ((w->tick >> shift) + SLOT_MASK) << shift;
			break;
		}
		level++;
		shift += LEVEL_SHIFT;
	}
	return level * WHEEL_SLOTS + (uint32_t)((due >> shift) & SLOT_MASK);
}

void wheel_add(struct wheel *w, uint32_t ref, uint64_t deadline_ns)
{
	CHECK(ref != 0 && ref < WHEEL_HEAD);
	struct wheel_link *link = link_of(w, ref);
	CHECK(link->prev == 0);
	uint32_t slot = choose_slot(w, deadline_ns);
	uint32_t *head = head_of(w, slot);
	link->next = *head;
	link->prev = WHEEL_HEAD | slot;
	if (link->next != 0)
		link_of(w, link->next)->prev = ref;
	*head = ref;
	w->busy[slot / WHEEL_SLOTS] |= UINT64_C(1) << slot % WHEEL_SLOTS;
	w->count++;
}

void wheel_remove(struct wheel *w, uint32_t ref)
{
	struct wheel_link *link = link_of(w, ref);
	if (link->prev == 0)
		return;
	if (link->next != 0)
		link_of(w, link->next)->prev = link->prev;
	if (link->prev & WHEEL_HEAD) {
		uint32_t slot = link->prev & ~WHEEL_HEAD;
		*head_of(w, slot) = link->next;
		if (link->next == 0)
			w->busy[slot / WHEEL_SLOTS] &= ~(UINT64_C(1) << slot % WHEEL_SLOTS);
	} else {
		link_of(w, link->prev)->next = link->next;
	}
	*link = (struct wheel_link){0};
	w->count--;
}

bool wheel_has(const struct wheel *w, uint32_t ref)
{
	return link_of(w, ref)->prev != 0;
}

struct nearest {
	uint64_t tick; /* start of the slot; UINT64_MAX: all are empty */
	uint32_t slot;
};

/* Busy slots of a level lie at most 63 behind that of w->tick, so turning the bits makes the
 * lowest one the nearest. */
static struct nearest find_nearest(const struct wheel *w)
{
	struct nearest found = {.tick = UINT64_MAX};
	for (unsigned level = 0, shift = 0; level < WHEEL_LEVELS; level++, shift += LEVEL_SHIFT) {
		uint64_t busy = w->busy[level];
		if (busy == 0)
			continue;
		uint64_t here = w->tick >> shift;
		unsigned turn = here & SLOT_MASK;
		uint64_t turned = busy >> turn | busy << (-turn & SLOT_MASK);
		uint64_t number = here + (unsigned)__builtin_ctzll(turned);
		if (number << shift < found.tick) {
			found.tick = number << shift;
			found.slot = level * WHEEL_SLOTS + (uint32_t)(number & SLOT_MASK);
		}
	}
	return found;
}

uint32_t wheel_pop(struct wheel *w, uint64_t now_ns)
{
	uint64_t now = now_ns / WHEEL_TICK_NS;
	struct nearest found = find_nearest(w);
	if (found.tick > now) {
		if (now > w->tick)
			w->tick = now;
		return 0;
	}
	w->tick = found.tick;
	uint32_t ref = *head_of(w, found.slot);
	wheel_remove(w, ref);
	return ref;
}

uint64_t wheel_next_ns(const struct wheel *w)
{
	uint64_t tick = find_nearest(w).tick;
	return tick > UINT64_MAX / WHEEL_TICK_NS ? UINT64_MAX : tick * WHEEL_TICK_NS;
}

void wheel_validate(const struct wheel *w)
{
	uint64_t count = 0;
	for (uint32_t slot = 0; slot < WHEEL_LEVELS * WHEEL_SLOTS; slot++) {
		unsigned level = slot / WHEEL_SLOTS, shift = level * LEVEL_SHIFT;
		uint32_t ref = w->head[level][slot % WHEEL_SLOTS];
		CHECK((w->busy[level] >> slot % WHEEL_SLOTS & 1) == (ref != 0));
		/* A slot already begun holds something only while it is being emptied. */
		bool begun = ((w->tick >> shift) & SLOT_MASK) == slot % WHEEL_SLOTS;
		CHECK(ref == 0 || !begun || w->tick >> shift << shift == w->tick);
		uint32_t prev = WHEEL_HEAD | slot;
		for (; ref != 0; ref = link_of(w, ref)->next) {
			CHECK(ref < WHEEL_HEAD);
			CHECK(link_of(w, ref)->prev == prev);
			CHECK(++count <= w->count);
			prev = ref;
		}
	}
	CHECK(count == w->count);
}
