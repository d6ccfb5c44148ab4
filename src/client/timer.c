#include <errno.h>
#include <stdlib.h>

#include "client/internal.h"

enum { TIMERS_FIRST = 16 };

/* A binary heap, the earliest at 1. at[] has room for every timer that was reserved. */

int timer_reserve(struct timer_heap *h)
{
	if (h->room + 1 >= h->allocated) {
		size_t n = h->allocated > 0 ? 2 * h->allocated : TIMERS_FIRST;
		struct timer **at = realloc(h->at, n * sizeof(struct timer *));
		if (!at)
			return -ENOMEM;
		h->at = at;
		h->allocated = n;
	}
	h->room++;
	return 0;
}

void timer_unreserve(struct timer_heap *h)
{
	h->room--;
}

static void place(struct timer_heap *h, size_t slot, struct timer *t)
{
	h->at[slot] = t;
	t->slot = slot;
}

static void sift_up(struct timer_heap *h, size_t slot, struct timer *t)
{
	for (; slot > 1 && h->at[slot / 2]->at_ns > t->at_ns; slot /= 2)
		place(h, slot, h->at[slot / 2]);
	place(h, slot, t);
}

static void sift_down(struct timer_heap *h, size_t slot, struct timer *t)
{
	for (size_t child; (child = 2 * slot) <= h->n; slot = child) {
		if (child < h->n && h->at[child + 1]->at_ns < h->at[child]->at_ns)
			child++;
		if (h->at[child]->at_ns >= t->at_ns)
			break;
		place(h, slot, h->at[child]);
	}
	place(h, slot, t);
}

void timer_cancel(struct timer_heap *h, struct timer *t)
{
	size_t slot = t->slot;

	if (slot == 0)
		return;
	struct timer *last = h->at[h->n--];
	t->slot = 0;
	if (last == t)
		return;
	if (slot > 1 && h->at[slot / 2]->at_ns > last->at_ns)
		sift_up(h, slot, last);
	else
		sift_down(h, slot, last);
}

void timer_set(struct timer_heap *h, struct timer *t, int64_t at_ns)
{
	timer_cancel(h, t);
	t->at_ns = at_ns;
	sift_up(h, ++h->n, t);
}
