#include "base/buf.h"

#include <errno.h>
#include <stdlib.h>

#include "base/check.h"

enum { BUF_FIRST_BYTES = 512 };

void buf_init(struct buf *b, size_t max)
{
	*b = (struct buf){.max = max};
}

void buf_fini(struct buf *b)
{
	free(b->data);
	*b = (struct buf){.max = b->max};
}

uint8_t *buf_reserve_slow(struct buf *b, size_t n)
{
	if (n > SIZE_MAX / 4 - b->len)
		return NULL;
	size_t need = b->len + n;
	if (b->max != 0 && need > b->max)
		return NULL;
	size_t cap = b->cap == 0 ? BUF_FIRST_BYTES : b->cap;
	while (cap < need)
		cap *= 2;
	if (b->max != 0 && cap > b->max)
		cap = b->max;
	uint8_t *data = realloc(b->data, cap);
	if (data == NULL)
		return NULL;
	b->data = data;
	b->cap = cap;
	return b->data + b->len;
}

int buf_append(struct buf *b, const void *p, size_t n)
{
	if (n == 0)
		return 0;
	uint8_t *to = buf_reserve(b, n);
	if (to == NULL)
		return -ENOBUFS;
	memcpy(to, p, n);
	b->len += n;
	return 0;
}

void buf_drop_front(struct buf *b, size_t n)
{
	CHECK(n <= b->len);
	if (n < b->len)
		memmove(b->data, b->data + n, b->len - n);
	b->len -= n;
}

void buf_shrink(struct buf *b, size_t keep)
{
	if (b->len == 0 && b->cap > keep)
		buf_fini(b);
}
