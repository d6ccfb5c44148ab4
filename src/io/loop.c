#include "io/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/check.h"

enum {
	SQ_ENTRIES = 1024,
	CQ_PER_SQ = 16,
	DRAIN_ENTERS_MAX = 64,
	SPINS_PER_CLOCK = 64,
};

/* The shard has flushed by then whom it wanted to; the node ends its threads within 400 ms. */
#define STOP_FLUSH_NS (SECOND_NS / 8)
#define STOP_MAX_NS   SECOND_NS

/* ---- env_ops ---- */

static struct io *io_of(struct env *env)
{
	return container_of(env, struct io, env);
}

static void op_dirty(struct env *env, struct link *link)
{
	link->dirty = true;
	conn_todo(io_of(env), container_of(link, struct conn, link));
}

static void op_close(struct env *env, struct link *link, bool flush)
{
	conn_close(io_of(env), container_of(link, struct conn, link), flush);
}

static void op_resume(struct env *env, struct link *link)
{
	struct conn *c = container_of(link, struct conn, link);
	link->paused = false;
	if (c->state == CONN_OPEN && list_empty(&c->resumed))
		list_add_tail(&io_of(env)->resumed, &c->resumed);
}

static struct link *op_adopt(struct env *env, int fd, enum link_kind kind, const char *addr)
{
	/* On a non-blocking file io_uring answers -EAGAIN instead of waiting. */
	int flags = fcntl(fd, F_GETFL);
	if (flags >= 0)
		(void)!fcntl(fd, F_SETFL, flags & ~O_NONBLOCK);
	struct conn *c = conn_new(io_of(env), fd, kind, addr);
	if (c == NULL) {
		(void)close(fd);
		return NULL;
	}
	return &c->link;
}

static void op_wake(struct env *env, unsigned thread)
{
	struct io *io = io_of(env);
	const uint64_t one = 1;
	/* It can only fail with a full counter, and then the sleeper is awake. */
	(void)!write(io->cfg.wake_fds[thread], &one, sizeof one);
	stat_add(&io->stats.wakes, 1);
}

static const struct env_ops ops = {
	.dirty = op_dirty,
	.close = op_close,
	.resume = op_resume,
	.adopt = op_adopt,
	.wake = op_wake,
};

/* ---- life ---- */

int io_new(const struct io_config *cfg, struct io **ret, char *why, size_t why_bytes)
{
	CHECK(cfg->wake_fds != NULL);
	struct io *io = calloc(1, sizeof *io);
	if (io == NULL) {
		(void)snprintf(why, why_bytes, "out of memory");
		return -ENOMEM;
	}
	io->env.ops = &ops;
	io->cfg = *cfg;
	io_clock_init(&io->clock);
	io_clock_read(&io->clock, &io->now);

	unsigned entries = cfg->entries != 0 ? cfg->entries : SQ_ENTRIES;
	unsigned cq_entries = cfg->cq_entries != 0 ? cfg->cq_entries : entries * CQ_PER_SQ;
	int err = ring_init(&io->ring, entries, cq_entries, why, why_bytes);
	if (err != 0) {
		io_free(io);
		return err;
	}
	const struct buffer_shape shapes[BUFFER_GROUPS] = {
		[LINK_CLIENT] = {cfg->client_buffers != 0 ? cfg->client_buffers : CLIENT_BUFFERS,
			CLIENT_BUFFER_BYTES},
		[LINK_PEER] = {cfg->peer_buffers != 0 ? cfg->peer_buffers : PEER_BUFFERS,
			PEER_BUFFER_BYTES},
	};
	err = buffers_init(&io->buffers, &io->ring, shapes);
	if (err == 0)
		err = links_init(io);
	if (err != 0) {
		(void)snprintf(why, why_bytes,
			"no memory for receive buffers and %u links: %s (RLIMIT_MEMLOCK too "
			"small?)",
			cfg->max_links, strerror(-err));
		io_free(io);
		return err;
	}
	*ret = io;
	return 0;
}

void io_free(struct io *io)
{
	if (io == NULL)
		return;
	/* The ring first: the kernel may write to buffers until it is gone. */
	ring_fini(&io->ring);
	buffers_fini(&io->buffers);
	links_fini(io);
	free(io);
}

struct env *io_env(struct io *io)
{
	return &io->env;
}

const char *io_describe(const struct io *io)
{
	return io->ring.description;
}

const struct io_stats *io_stats(const struct io *io)
{
	return &io->stats;
}

void io_stop(struct io *io)
{
	io->stopping = true;
}

/* ---- completions ---- */

/* A multishot poll is edge-triggered, so the counter need not be read back: saves a system call
 * per wake-up. */
static void wake_arm(struct io *io)
{
	if (io->wake_armed)
		return;
	struct io_uring_sqe *sqe = ring_sqe(&io->ring);
	if (sqe == NULL)
		return;
	io_uring_prep_poll_multishot(sqe, io->cfg.wake_fds[io->cfg.thread], POLLIN);
	sqe->user_data = user_data(OP_WAKE, 0, 0);
	io->wake_armed = true;
	io->in_flight++;
}

static void wake_done(struct io *io, const struct ring_cqe *cqe)
{
	if ((cqe->flags & IORING_CQE_F_MORE) == 0) {
		io->wake_armed = false;
		io->in_flight--;
	}
}

static void cancel_done(struct io *io, const struct ring_cqe *cqe)
{
	io->in_flight--;
	struct conn *c = conn_of(io, cqe->user_data);
	if (c == NULL)
		return;
	c->in_flight--;
	conn_todo(io, c);
	if (user_data_op(cqe->user_data) == OP_CANCEL_RECV) {
		/* The receive may have been between two states: then it is tried again. */
		if (cqe->res < 0)
			c->recv_cancelled = false;
	} else if (cqe->res <= 0 && c->in_flight > 0) {
		/* Found nothing although something is armed: this makes it end by itself. */
		(void)shutdown(c->fd, SHUT_RDWR);
	}
}

static void send_done(struct io *io, const struct ring_cqe *cqe)
{
	io->in_flight--;
	struct conn *c = conn_of(io, cqe->user_data);
	if (c != NULL)
		stream_sent(io, c, cqe->res);
}

static void complete(struct io *io, const struct ring_cqe *cqe)
{
	switch (user_data_op(cqe->user_data)) {
	case OP_RECV_CLIENT:
	case OP_RECV_PEER:
		stream_received(io, cqe);
		break;
	case OP_SEND:
		send_done(io, cqe);
		break;
	case OP_CANCEL:
	case OP_CANCEL_RECV:
		cancel_done(io, cqe);
		break;
	case OP_ACCEPT:
		accept_done(io, cqe);
		break;
	case OP_WAKE:
		wake_done(io, cqe);
		break;
	case OP_CANCEL_ALL:
		io->in_flight--;
		break;
	}
}

static bool of_peer(const struct io *io, const struct ring_cqe *cqe)
{
	enum operation op = user_data_op(cqe->user_data);
	if (op == OP_SEND || op == OP_CANCEL || op == OP_CANCEL_RECV)
		return io->conns[(uint32_t)cqe->user_data].link.kind == LINK_PEER;
	return op == OP_RECV_PEER;
}

/* Peers before clients; the order within a stream stays. */
static void complete_batch(struct io *io)
{
	uint16_t later[BATCH_MAX];
	unsigned n = 0;
	for (unsigned i = 0; i < io->batch_n; i++) {
		if (of_peer(io, &io->batch[i]))
			complete(io, &io->batch[i]);
		else
			later[n++] = (uint16_t)i;
	}
	for (unsigned i = 0; i < n; i++)
		complete(io, &io->batch[later[i]]);
	io->batch_n = 0;
	for (unsigned i = 0; i < BUFFER_GROUPS; i++)
		buffers_publish(&io->buffers.group[i]);
}

/* With DEFER_TASKRUN one enter brings at most 20 completions; take what is ready, up to a batch. */
static int drain(struct io *io)
{
	for (unsigned i = 0; i < DRAIN_ENTERS_MAX; i++) {
		if (ring_overflown(&io->ring))
			stat_add(&io->stats.overflows, 1);
		io->batch_n +=
			ring_harvest(&io->ring, io->batch + io->batch_n, BATCH_MAX - io->batch_n);
		if (io->batch_n == BATCH_MAX || !ring_wants_enter(&io->ring))
			break;
		int err = ring_enter(&io->ring, 0);
		if (err != 0)
			return err;
	}
	stat_add(&io->stats.cqes, io->batch_n);
	return 0;
}

/* ---- the loop ---- */

static uint64_t min_u64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static uint64_t until(const struct io *io, uint64_t at_ns)
{
	return at_ns > io->now.mclk ? at_ns - io->now.mclk : 0;
}

/* How long nothing of our own needs to be done. */
static uint64_t own_wait_ns(const struct io *io)
{
	if (!list_empty(&io->resumed) || !list_empty(&io->closing) || !list_empty(&io->ended) ||
		!list_empty(&io->todo[LINK_CLIENT]) || !list_empty(&io->todo[LINK_PEER]))
		return 0;
	if (ring_has_news(&io->ring))
		return 0;
	uint64_t wait = UINT64_MAX;
	if (!list_empty(&io->flushing)) {
		const struct conn *c = container_of(io->flushing.next, struct conn, life);
		wait = until(io, c->flush_by_ns);
	}
	if (io->cfg.listen_fd >= 0 && !io->accept_armed)
		wait = min_u64(wait, until(io, io->accept_at_ns));
	return io->wake_armed ? wait : 0;
}

static inline void relax(void)
{
#if defined(__x86_64__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("yield");
#endif
}

/* Look for news without entering the kernel. True: there is some. */
static bool spin(struct io *io, uint64_t wait_ns)
{
	uint64_t now = clock_monotonic_ns();
	uint64_t end = io->last_work_ns + io->cfg.spin_us * UINT64_C(1000);
	if (wait_ns < SLEEP_MAX_NS)
		end = min_u64(end, now + wait_ns);
	if (now >= end)
		return false;
	stat_add(&io->stats.spins, 1);
	while (now < end) {
		for (int i = 0; i < SPINS_PER_CLOCK; i++) {
			if (ring_has_news(&io->ring))
				return true;
			if (io->handler->has_mail(io->handler->self)) {
				io->last_work_ns = now;
				return true;
			}
			relax();
		}
		now = clock_monotonic_ns();
	}
	return false;
}

static int sleep_in_kernel(struct io *io, uint64_t wait_ns)
{
	const struct env_handler *h = io->handler;
	stat_add(&io->stats.sleeps, 1);
	int err = ring_enter(&io->ring, min_u64(wait_ns, SLEEP_MAX_NS));
	bool silent = !ring_has_news(&io->ring);
	if (silent && wait_ns >= SLEEP_MAX_NS && h->has_mail(h->self))
		stat_add(&io->stats.wake_timeouts, 1);
	h->awake(h->self);
	return err;
}

static int look(struct io *io)
{
	/* Without the flag the kernel does not tell, so it has to be asked. */
	if (ring_unsubmitted(&io->ring) > 0 || ring_wants_enter(&io->ring) || !io->ring.task_flag)
		return ring_enter(&io->ring, 0);
	return 0;
}

static void note_loop_end(struct io *io)
{
	uint64_t now = clock_monotonic_ns();
	uint64_t took = now - io->loop_started_ns;
	if (took > atomic_load_explicit(&io->stats.loop_max_ns, memory_order_relaxed))
		stat_set(&io->stats.loop_max_ns, took);
	stat_add(&io->stats.loops, 1);
}

static int submit_and_wait(struct io *io)
{
	const struct env_handler *h = io->handler;
	uint64_t wait = own_wait_ns(io);
	if (wait > 0)
		wait = min_u64(wait, h->wait_ns(h->self));
	int err = 0;
	if (wait > 0 && io->cfg.spin_us > 0) {
		/* What is to be sent must not wait for the end of the spin. */
		err = look(io);
		if (err == 0 && (ring_has_news(&io->ring) || spin(io, wait)))
			wait = 0;
	}
	if (err == 0) {
		if (wait > 0 && h->sleep(h->self))
			err = sleep_in_kernel(io, wait);
		else
			err = look(io);
	}
	if (err == 0)
		err = drain(io);
	stat_set(&io->stats.enters, io->ring.enters);
	stat_set(&io->stats.sqes, io->ring.sqes);
	return err;
}

static void turn(struct io *io)
{
	const struct env_handler *h = io->handler;
	io->loop_started_ns = clock_monotonic_ns();
	if (io->batch_n > 0)
		io->last_work_ns = io->loop_started_ns;

	h->collect(h->self);
	/* After everything of this loop is in hand: no event is older than its time says
	 * (protocol.md 2.1). */
	io_clock_read(&io->clock, &io->now);
	h->begin(h->self, &io->now);
	complete_batch(io);
	stream_feed_resumed(io);
	links_reap(io);
	h->work(h->self);
	stream_feed_resumed(io);
	links_reap(io);
	accept_arm(io);
	wake_arm(io);
	links_submit(io);
	h->publish(h->self);
	note_loop_end(io);
}

/* ---- the end ---- */

static void close_all(struct io *io, bool flush)
{
	for (unsigned i = 0; i < io->slots; i++)
		if (io->conns[i].state != CONN_FREE)
			conn_close(io, &io->conns[i], flush);
}

/* Turn without a handler until @done or the time is over. */
static int wind_down(struct io *io, bool (*done)(const struct io *io), uint64_t most_ns)
{
	io_clock_read(&io->clock, &io->now);
	uint64_t end_ns = io->now.mclk + most_ns;
	for (;;) {
		complete_batch(io);
		links_reap(io);
		links_submit(io);
		if (done(io) || io->now.mclk >= end_ns)
			return 0;
		bool more =
			!list_empty(&io->todo[LINK_CLIENT]) || !list_empty(&io->todo[LINK_PEER]);
		int err = ring_enter(&io->ring, more ? 0 : end_ns - io->now.mclk);
		if (err == 0)
			err = drain(io);
		if (err != 0)
			return err;
		io_clock_read(&io->clock, &io->now);
	}
}

static bool all_closed(const struct io *io)
{
	return io->in_use == 0;
}

static bool nothing_in_flight(const struct io *io)
{
	return io->in_flight == 0;
}

static void cancel(struct io *io, uint64_t what, unsigned flags)
{
	struct io_uring_sqe *sqe = ring_sqe(&io->ring);
	if (sqe == NULL)
		return;
	io_uring_prep_cancel64(sqe, what, (int)flags);
	sqe->user_data = user_data(OP_CANCEL_ALL, 0, 0);
	io->in_flight++;
}

static int stop(struct io *io)
{
	if (io->accept_armed)
		cancel(io, user_data(OP_ACCEPT, 0, 0), 0);
	close_all(io, true);
	int err = wind_down(io, all_closed, STOP_FLUSH_NS);
	if (err != 0)
		return err;
	close_all(io, false);
	links_reap(io);
	cancel(io, 0, IORING_ASYNC_CANCEL_ANY | IORING_ASYNC_CANCEL_ALL);
	err = wind_down(io, nothing_in_flight, STOP_MAX_NS);
	/* Else a request was lost from our books. */
	CHECK_SLOW(err != 0 || nothing_in_flight(io));
	return err;
}

int io_run(struct io *io, const struct env_handler *handler)
{
	io->handler = handler;
	int err = 0;
	turn(io);
	while (!io->stopping && err == 0) {
		err = submit_and_wait(io);
		if (err == 0)
			turn(io);
	}
	if (err == 0)
		err = stop(io);
	if (err != 0) {
		/* The ring is dead; the handler is told all the same. */
		io->stopping = true;
		close_all(io, false);
		links_reap(io);
	}
	/* What close() had to tell other threads. */
	handler->publish(handler->self);
	return err;
}
