/* What the files of this room share. Owner: the thread of io_new, for everything. */
#pragma once

#include "base/list.h"
#include "io/buffers.h"
#include "io/io.h"
#include "io/ring.h"

enum {
	BATCH_MAX = 256, /* completions handled in one loop */
	/* Slots beyond max_links: peers, and clients whose kernel requests have yet to end. */
	SPARE_SLOTS = 256,
	CLIENT_BUFFERS = 1024,
	CLIENT_BUFFER_BYTES = 4096,
	PEER_BUFFERS = 256,
	PEER_BUFFER_BYTES = 32768,
	OUTPUT_KEEP_BYTES = 16 * 1024, /* memory an idle output buffer may hold */
	/* Unparsed input of all links of a thread together; beyond it, links over their own
	 * input_max_bytes are closed. */
	KEPT_TOTAL_MAX_BYTES = 64 * 1024 * 1024,
};

#define SECOND_NS       UINT64_C(1000000000)
#define FLUSH_MAX_NS    SECOND_NS
#define SLEEP_MAX_NS    SECOND_NS /* a lost wake-up costs latency, never a hang */
#define ACCEPT_AGAIN_NS (SECOND_NS / 10)

/* user_data = operation:8 | generation:24 | slot:32. A receive names the kind of its link, so that
 * its buffer finds home even when the link is gone. */
enum operation {
	OP_RECV_CLIENT = LINK_CLIENT,
	OP_RECV_PEER = LINK_PEER,
	OP_SEND,
	OP_CANCEL,      /* everything of a link */
	OP_CANCEL_RECV, /* back-pressure */
	OP_ACCEPT,
	OP_WAKE,
	OP_CANCEL_ALL, /* of the ring, or the accept, when stopping */
};

#define GENERATION_MASK UINT32_C(0xffffff)

static inline uint64_t user_data(enum operation op, uint32_t generation, uint32_t slot)
{
	return (uint64_t)op << 56 | (uint64_t)(generation & GENERATION_MASK) << 32 | slot;
}

static inline enum operation user_data_op(uint64_t ud)
{
	return (enum operation)(ud >> 56);
}

static inline uint32_t user_data_generation(uint64_t ud)
{
	return (uint32_t)(ud >> 32) & GENERATION_MASK;
}

/* The life of a slot, in this order; ENDED may follow OPEN directly. */
enum conn_state {
	CONN_FREE,
	CONN_OPEN,
	CONN_FLUSHING, /* reads no more, sends the rest */
	CONN_ENDED,    /* the handler has yet to be told */
	CONN_DEAD,     /* waits for the kernel to let go */
};

struct conn {
	struct link link;
	struct buf sending; /* the kernel reads it while send_busy; link.out is filled meanwhile */
	size_t sent_bytes;  /* of sending */
	struct buf input;   /* kept: not yet used by the handler */
	size_t input_used;
	struct list todo;    /* on io->todo: needs a submission entry, or to be freed */
	struct list resumed; /* on io->resumed: kept input wants to be fed */
	struct list life;    /* on io->free_slots, closing, flushing or ended, by state */
	uint64_t flush_by_ns;
	int fd;
	uint32_t generation;
	uint8_t state;     /* enum conn_state */
	uint8_t in_flight; /* requests in the kernel */
	bool recv_armed, recv_armed_before, recv_cancelled, send_busy, cancelled;
	bool drain_input; /* unread bytes at close would reset the connection under our last reply
			   */
};

struct io {
	struct env env;
	struct io_config cfg;
	const struct env_handler *handler;
	struct ring ring;
	struct buffers buffers;
	struct io_clock clock;
	struct clocks now;
	struct io_stats stats;

	struct conn *conns;
	unsigned slots;
	unsigned clients;  /* open, of max_links */
	unsigned in_use;   /* slots not free */
	size_t kept_bytes; /* input of all links */
	struct list free_slots;
	struct list closing;  /* to be flushed, not yet looked at */
	struct list flushing; /* oldest first */
	struct list ended;
	struct list resumed;
	struct list todo[BUFFER_GROUPS];

	unsigned in_flight; /* requests in the kernel, of links and our own */
	bool accept_armed, wake_armed, stopping;
	uint64_t accept_at_ns;    /* mclk; not before */
	uint64_t last_work_ns;    /* CLOCK_MONOTONIC */
	uint64_t loop_started_ns; /* CLOCK_MONOTONIC */

	unsigned batch_n;
	struct ring_cqe batch[BATCH_MAX];
};

static inline void stat_add(_Atomic uint64_t *stat, uint64_t n)
{
	/* One writer: no locked instruction needed. */
	uint64_t v = atomic_load_explicit(stat, memory_order_relaxed);
	atomic_store_explicit(stat, v + n, memory_order_relaxed);
}

static inline void stat_set(_Atomic uint64_t *stat, uint64_t v)
{
	atomic_store_explicit(stat, v, memory_order_relaxed);
}

static inline size_t conn_kept(const struct conn *c)
{
	return c->input.len - c->input_used;
}

static inline size_t conn_input_max(const struct io *io, const struct conn *c)
{
	bool peer = c->link.kind == LINK_PEER;
	return peer ? io->cfg.peer_input_max_bytes : io->cfg.input_max_bytes;
}

/* ---- links.c: slots, and what a slot needs from the kernel ---- */
int links_init(struct io *io);
void links_fini(struct io *io);
/* NULL: no slot; @fd stays the caller's then. */
struct conn *conn_new(struct io *io, int fd, enum link_kind kind, const char *addr);
void conn_close(struct io *io, struct conn *c, bool flush);
/* The stream is over: the handler will be told. */
void conn_end(struct io *io, struct conn *c);
void conn_todo(struct io *io, struct conn *c);
/* Tell the handler of streams that ended. */
void links_reap(struct io *io);
/* Submission entries for what every link on the todo lists needs. */
void links_submit(struct io *io);
/* The link of a completion; NULL when it has gone. */
struct conn *conn_of(struct io *io, uint64_t ud);
bool conn_has_output(const struct conn *c);
/* Close a socket whose last words must arrive. */
void close_politely(int fd);

/* ---- stream.c: bytes in and out ---- */
void stream_received(struct io *io, const struct ring_cqe *cqe);
void stream_sent(struct io *io, struct conn *c, int32_t res);
void stream_feed_resumed(struct io *io);
void stream_release_input(struct io *io, struct conn *c);
/* False: no submission entry to be had. */
bool stream_send(struct io *io, struct conn *c);
bool stream_receive(struct io *io, struct conn *c);

/* ---- accept.c ---- */
void accept_arm(struct io *io);
void accept_done(struct io *io, const struct ring_cqe *cqe);

/* ---- clock.c ---- */
uint64_t clock_monotonic_ns(void);
/* io_clock_read with the clocks' values given. */
void clock_advance(struct io_clock *c, uint64_t boot, uint64_t raw, struct clocks *ret);
