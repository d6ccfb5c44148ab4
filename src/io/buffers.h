/* Receive buffers the kernel picks from when bytes arrive: one group for clients, one for peers,
 * so that a flood of clients never takes a buffer from the quorum.
 * Owner   the ring's thread. A buffer is ours from its completion until buffers_put.
 * Bound   all memory is mapped at start; an idle connection holds none of it. */
#pragma once

#include "io/ring.h"

enum { BUFFER_GROUPS = 2 }; /* indexed by enum link_kind */

struct buffer_shape {
	uint32_t entries; /* power of two, at most 32768 */
	uint32_t bytes;   /* of one buffer */
};

struct buffer_group {
	struct io_uring_buf_ring *ring;
	uint8_t *base;
	bool *ours; /* taken from the kernel, by buffer */
	struct buffer_shape shape;
	unsigned unpublished;
};

struct buffers {
	void *map;
	size_t map_bytes;
	bool *ours;
	struct buffer_group group[BUFFER_GROUPS];
};

/* Map, register and hand all buffers to the kernel. 0; or -errno, and the ring is down then. */
int buffers_init(
	struct buffers *b, struct ring *ring, const struct buffer_shape shapes[BUFFER_GROUPS]);
/* Only after ring_fini: the kernel may write until then. */
void buffers_fini(struct buffers *b);

/* The buffer a completion with these flags brought. */
const uint8_t *buffers_take(struct buffer_group *g, uint32_t cqe_flags);
/* Give it back, and show all given back so far to the kernel. */
void buffers_put(struct buffer_group *g, uint32_t cqe_flags);
void buffers_publish(struct buffer_group *g);
