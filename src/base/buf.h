/* A growable byte buffer with a ceiling: what is waiting to be sent, or not yet parsed.
 * Owner: one thread. Memory grows by doubling and is given back by buf_fini or buf_shrink. */
#pragma once

#include "base/bytes.h"

struct buf {
	uint8_t *data;
	size_t len; /* bytes in use */
	size_t cap; /* bytes allocated */
	size_t max; /* never grows beyond; 0: no ceiling */
};

void buf_init(struct buf *b, size_t max);
void buf_fini(struct buf *b);

/* Room for @n more bytes behind the ones in use; NULL when that would pass the ceiling or memory
 * is out (nothing changed then). The caller writes and adds to b->len. */
uint8_t *buf_reserve_slow(struct buf *b, size_t n);

static inline uint8_t *buf_reserve(struct buf *b, size_t n)
{
	if (b->cap - b->len >= n)
		return b->data + b->len;
	return buf_reserve_slow(b, n);
}

/* Append; 0, or -ENOBUFS with nothing changed. */
int buf_append(struct buf *b, const void *p, size_t n);

/* Drop the first @n bytes (moves the rest down). */
void buf_drop_front(struct buf *b, size_t n);

/* Give memory back when the buffer is empty and larger than @keep bytes. */
void buf_shrink(struct buf *b, size_t keep);
