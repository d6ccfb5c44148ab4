#include "io/buffers.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "base/check.h"

/* The kernel wants rings aligned to its pages: 64 KiB is the largest in use. */
enum { PAGE_BYTES = 65536, HUGE_BYTES = 2 * 1024 * 1024, ENTRIES_MAX = 32768 };

static size_t round_up(size_t n, size_t to)
{
	return (n + to - 1) / to * to;
}

static size_t ring_bytes(const struct buffer_shape *s)
{
	return round_up(s->entries * sizeof(struct io_uring_buf), PAGE_BYTES);
}

static size_t data_bytes(const struct buffer_shape *s)
{
	return round_up((size_t)s->entries * s->bytes, PAGE_BYTES);
}

static int group_register(struct buffer_group *g, struct ring *ring, unsigned id)
{
	/* The raw call: liburing 2.3 and later disagree on names of struct io_uring_buf_reg. */
	struct ring_buf_reg reg = {
		.ring_addr = (uintptr_t)g->ring,
		.ring_entries = g->shape.entries,
		.group = (uint16_t)id,
	};
	int err =
		io_uring_register((unsigned)ring->uring.ring_fd, RING_REGISTER_PBUF_RING, &reg, 1);
	if (err < 0)
		return err;
	io_uring_buf_ring_init(g->ring);
	for (uint32_t i = 0; i < g->shape.entries; i++) {
		g->ours[i] = true;
		buffers_put(g, i << RING_CQE_BUFFER_SHIFT);
	}
	buffers_publish(g);
	return 0;
}

int buffers_init(
	struct buffers *b, struct ring *ring, const struct buffer_shape shapes[BUFFER_GROUPS])
{
	*b = (struct buffers){0};
	size_t bytes = HUGE_BYTES;
	size_t entries = 0;
	for (unsigned i = 0; i < BUFFER_GROUPS; i++) {
		uint32_t n = shapes[i].entries;
		CHECK(n > 0 && n <= ENTRIES_MAX && (n & (n - 1)) == 0);
		bytes += ring_bytes(&shapes[i]) + data_bytes(&shapes[i]);
		entries += n;
	}
	b->ours = calloc(entries, sizeof b->ours[0]);
	if (b->ours == NULL)
		return -ENOMEM;
	b->map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (b->map == MAP_FAILED) {
		free(b->ours);
		*b = (struct buffers){0};
		return -ENOMEM;
	}
	b->map_bytes = bytes;

	size_t start = round_up((uintptr_t)b->map, HUGE_BYTES) - (uintptr_t)b->map;
	uint8_t *at = (uint8_t *)b->map + start;
	(void)madvise(at, bytes - HUGE_BYTES, MADV_HUGEPAGE);
	bool *ours = b->ours;
	for (unsigned i = 0; i < BUFFER_GROUPS; i++) {
		b->group[i] = (struct buffer_group){.base = at, .ours = ours, .shape = shapes[i]};
		at += data_bytes(&shapes[i]);
		ours += shapes[i].entries;
	}
	for (unsigned i = 0; i < BUFFER_GROUPS; i++) {
		b->group[i].ring = (struct io_uring_buf_ring *)(void *)at;
		at += ring_bytes(&shapes[i]);
		int err = group_register(&b->group[i], ring, i);
		if (err != 0) {
			/* A group that was registered goes with the ring. */
			ring_fini(ring);
			buffers_fini(b);
			return err;
		}
	}
	return 0;
}

void buffers_fini(struct buffers *b)
{
	if (b->map != NULL)
		(void)munmap(b->map, b->map_bytes);
	free(b->ours);
	*b = (struct buffers){0};
}

const uint8_t *buffers_take(struct buffer_group *g, uint32_t cqe_flags)
{
	uint32_t id = cqe_flags >> RING_CQE_BUFFER_SHIFT;
	CHECK(id < g->shape.entries);
	CHECK(!g->ours[id]);
	g->ours[id] = true;
	return g->base + (size_t)id * g->shape.bytes;
}

void buffers_put(struct buffer_group *g, uint32_t cqe_flags)
{
	uint32_t id = cqe_flags >> RING_CQE_BUFFER_SHIFT;
	CHECK(id < g->shape.entries);
	CHECK(g->ours[id]);
	g->ours[id] = false;
	io_uring_buf_ring_add(g->ring, g->base + (size_t)id * g->shape.bytes, g->shape.bytes,
		(unsigned short)id, io_uring_buf_ring_mask(g->shape.entries), (int)g->unpublished);
	g->unpublished++;
}

void buffers_publish(struct buffer_group *g)
{
	if (g->unpublished == 0)
		return;
	io_uring_buf_ring_advance(g->ring, (int)g->unpublished);
	g->unpublished = 0;
}
