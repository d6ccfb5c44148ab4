#include "io/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/check.h"

enum { DISCARD_READS = 16, DISCARD_BYTES = 4096 };

static _Atomic uint64_t next_serial = 1;

int links_init(struct io *io)
{
	io->slots = io->cfg.max_links + SPARE_SLOTS;
	io->conns = calloc(io->slots, sizeof io->conns[0]);
	if (io->conns == NULL)
		return -ENOMEM;
	list_init(&io->free_slots);
	list_init(&io->closing);
	list_init(&io->flushing);
	list_init(&io->ended);
	list_init(&io->resumed);
	list_init(&io->todo[LINK_CLIENT]);
	list_init(&io->todo[LINK_PEER]);
	for (unsigned i = 0; i < io->slots; i++) {
		struct conn *c = &io->conns[i];
		c->fd = -1;
		list_init(&c->todo);
		list_init(&c->resumed);
		list_add_tail(&io->free_slots, &c->life);
	}
	return 0;
}

static uint32_t slot_of(const struct io *io, const struct conn *c)
{
	return (uint32_t)(c - io->conns);
}

struct conn *conn_of(struct io *io, uint64_t ud)
{
	uint32_t slot = (uint32_t)ud;
	CHECK(slot < io->slots);
	struct conn *c = &io->conns[slot];
	bool same = c->state != CONN_FREE && c->generation == user_data_generation(ud);
	return same ? c : NULL;
}

static size_t output_max(const struct io *io, enum link_kind kind)
{
	return kind == LINK_PEER ? io->cfg.peer_output_max_bytes : io->cfg.output_max_bytes;
}

/* What the kernel received before it heard of the stop still arrives on top of what is kept: one
 * stream may have filled all buffers of its group, and again while the stop was under way. */
static size_t input_hard_max(const struct io *io, enum link_kind kind)
{
	size_t soft = kind == LINK_PEER ? io->cfg.peer_input_max_bytes : io->cfg.input_max_bytes;
	const struct buffer_shape *s = &io->buffers.group[kind].shape;
	return soft + 2 * (size_t)s->entries * s->bytes;
}

struct conn *conn_new(struct io *io, int fd, enum link_kind kind, const char *addr)
{
	bool full = kind == LINK_CLIENT && io->clients >= io->cfg.max_links;
	if (full || list_empty(&io->free_slots))
		return NULL;
	struct conn *c = container_of(io->free_slots.next, struct conn, life);
	list_remove(&c->life);
	c->link = (struct link){
		.kind = kind,
		.serial = atomic_fetch_add_explicit(&next_serial, 1, memory_order_relaxed),
	};
	(void)snprintf(c->link.addr, sizeof c->link.addr, "%s", addr);
	buf_init(&c->link.out, output_max(io, kind));
	buf_init(&c->sending, output_max(io, kind));
	buf_init(&c->input, input_hard_max(io, kind));
	c->fd = fd;
	c->state = CONN_OPEN;
	c->sent_bytes = 0;
	c->input_used = 0;
	c->recv_armed = c->recv_armed_before = c->recv_cancelled = false;
	c->send_busy = c->cancelled = c->drain_input = false;
	CHECK(c->in_flight == 0);
	if (kind == LINK_CLIENT)
		io->clients++;
	io->in_use++;
	stat_add(&io->stats.links, 1);
	conn_todo(io, c);
	return c;
}

/* With unread input close(2) resets the stream, which can destroy our last reply on its way
 * (RFC 1122 4.2.2.13); so read away what is there, within reason. */
void close_politely(int fd)
{
	uint8_t scratch[DISCARD_BYTES];
	for (int i = 0; i < DISCARD_READS; i++)
		if (recv(fd, scratch, sizeof scratch, MSG_DONTWAIT) <= 0)
			break;
	(void)close(fd);
}

static void conn_free(struct io *io, struct conn *c)
{
	CHECK(c->state == CONN_DEAD);
	if (c->drain_input)
		close_politely(c->fd);
	else
		(void)close(c->fd);
	c->fd = -1;
	buf_fini(&c->link.out);
	buf_fini(&c->sending);
	c->generation = (c->generation + 1) & GENERATION_MASK;
	c->state = CONN_FREE;
	io->in_use--;
	list_add_tail(&io->free_slots, &c->life);
}

void links_fini(struct io *io)
{
	if (io->conns == NULL)
		return;
	for (unsigned i = 0; i < io->slots; i++) {
		struct conn *c = &io->conns[i];
		if (c->fd >= 0)
			(void)close(c->fd);
		buf_fini(&c->link.out);
		buf_fini(&c->sending);
		buf_fini(&c->input);
	}
	free(io->conns);
	io->conns = NULL;
}

void conn_todo(struct io *io, struct conn *c)
{
	if (list_empty(&c->todo))
		list_add_tail(&io->todo[c->link.kind], &c->todo);
}

bool conn_has_output(const struct conn *c)
{
	return c->send_busy || c->sending.len > c->sent_bytes || c->link.out.len > 0;
}

void conn_end(struct io *io, struct conn *c)
{
	CHECK(c->state == CONN_OPEN || c->state == CONN_FLUSHING);
	if (c->state == CONN_FLUSHING)
		list_remove(&c->life);
	c->link.closing = true;
	c->state = CONN_ENDED;
	list_remove(&c->resumed);
	list_add_tail(&io->ended, &c->life);
}

void conn_close(struct io *io, struct conn *c, bool flush)
{
	c->link.closing = true;
	if (c->state == CONN_OPEN && flush) {
		/* Whether there is anything to send is looked at later: the handler may append its
		 * last words after this call. */
		c->state = CONN_FLUSHING;
		c->drain_input = true;
		list_remove(&c->resumed);
		list_add_tail(&io->closing, &c->life);
		conn_todo(io, c);
	} else if (!flush && (c->state == CONN_OPEN || c->state == CONN_FLUSHING)) {
		conn_end(io, c);
	}
}

static void sort_closing(struct io *io)
{
	while (!list_empty(&io->closing)) {
		struct conn *c = container_of(io->closing.next, struct conn, life);
		if (conn_has_output(c)) {
			list_remove(&c->life);
			c->flush_by_ns = io->now.mclk + FLUSH_MAX_NS;
			list_add_tail(&io->flushing, &c->life);
		} else {
			conn_end(io, c);
		}
	}
}

static void give_up_flushing(struct io *io)
{
	while (!list_empty(&io->flushing)) {
		struct conn *c = container_of(io->flushing.next, struct conn, life);
		if (c->flush_by_ns > io->now.mclk)
			return;
		conn_end(io, c);
	}
}

void links_reap(struct io *io)
{
	give_up_flushing(io);
	sort_closing(io);
	while (!list_empty(&io->ended)) {
		struct conn *c = container_of(io->ended.next, struct conn, life);
		list_remove(&c->life);
		c->state = CONN_DEAD;
		if (c->link.kind == LINK_CLIENT)
			io->clients--;
		stat_add(&io->stats.links, (uint64_t)-1);
		stream_release_input(io, c);
		io->handler->close(io->handler->self, &c->link);
		conn_todo(io, c);
		/* The handler may have closed others. */
		sort_closing(io);
	}
}

/* close(2) does not cancel what is armed: cancel, wait for the last completion, then close. */
static bool bury(struct io *io, struct conn *c)
{
	if (c->in_flight == 0) {
		conn_free(io, c);
		return true;
	}
	if (c->cancelled)
		return true;
	struct io_uring_sqe *sqe = ring_sqe(&io->ring);
	if (sqe == NULL)
		return false;
	io_uring_prep_cancel_fd(sqe, c->fd, IORING_ASYNC_CANCEL_ALL);
	sqe->user_data = user_data(OP_CANCEL, c->generation, slot_of(io, c));
	c->cancelled = true;
	c->in_flight++;
	io->in_flight++;
	return true;
}

static bool wants_receive(const struct io *io, const struct conn *c)
{
	if (c->state != CONN_OPEN)
		return false;
	return !c->link.paused || conn_kept(c) < conn_input_max(io, c);
}

static bool cancel_receive(struct io *io, struct conn *c)
{
	if (c->recv_cancelled)
		return true;
	struct io_uring_sqe *sqe = ring_sqe(&io->ring);
	if (sqe == NULL)
		return false;
	enum operation recv = (enum operation)c->link.kind;
	io_uring_prep_cancel64(sqe, user_data(recv, c->generation, slot_of(io, c)), 0);
	sqe->user_data = user_data(OP_CANCEL_RECV, c->generation, slot_of(io, c));
	c->recv_cancelled = true;
	c->in_flight++;
	io->in_flight++;
	return true;
}

/* False: the kernel takes no more entries now. */
static bool submit_one(struct io *io, struct conn *c)
{
	c->link.dirty = false;
	if (c->state == CONN_DEAD)
		return bury(io, c);
	if (c->state == CONN_ENDED)
		return true;
	if (!stream_send(io, c))
		return false;
	bool want = wants_receive(io, c);
	if (want && !c->recv_armed)
		return stream_receive(io, c);
	if (!want && c->recv_armed)
		return cancel_receive(io, c);
	return true;
}

void links_submit(struct io *io)
{
	/* Peers first: their sends are on the path of every quorum. */
	for (int kind = LINK_PEER; kind >= LINK_CLIENT; kind--) {
		struct list *todo = &io->todo[kind];
		while (!list_empty(todo)) {
			struct conn *c = container_of(todo->next, struct conn, todo);
			if (!submit_one(io, c))
				return;
			list_remove(&c->todo);
		}
	}
}
