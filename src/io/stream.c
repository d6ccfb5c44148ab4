#include "io/internal.h"

#include <errno.h>
#include <sys/socket.h>

#include "base/check.h"

/* One send must fit an int: its result is one. */
enum { SEND_MAX_BYTES = 1 << 30 };

/* ---- in ---- */

void stream_release_input(struct io *io, struct conn *c)
{
	io->kept_bytes -= conn_kept(c);
	c->input_used = 0;
	buf_fini(&c->input);
}

static void keep(struct io *io, struct conn *c, const uint8_t *p, size_t n)
{
	if (n == 0)
		return;
	/* Move the rest down only when that at least halves it, so that feeding a large buffer in
	 * small steps stays linear. */
	if (c->input_used > 0 && c->input_used >= c->input.len / 2) {
		buf_drop_front(&c->input, c->input_used);
		c->input_used = 0;
	}
	size_t kept = conn_kept(c) + n;
	bool crowded = io->kept_bytes + n > KEPT_TOTAL_MAX_BYTES && kept > conn_input_max(io, c);
	if (crowded || buf_append(&c->input, p, n) != 0) {
		conn_close(io, c, true);
		return;
	}
	io->kept_bytes += n;
}

static size_t offer(struct io *io, struct conn *c, const uint8_t *p, size_t n)
{
	ssize_t used = io->handler->data(io->handler->self, &c->link, p, n);
	if (used < 0) {
		conn_close(io, c, true);
		return n;
	}
	CHECK((size_t)used <= n);
	return (size_t)used;
}

static void offer_kept(struct io *io, struct conn *c)
{
	size_t n = conn_kept(c);
	if (n == 0)
		return;
	size_t used = offer(io, c, c->input.data + c->input_used, n);
	c->input_used += used;
	io->kept_bytes -= used;
}

/* After feeding: no memory for nothing, and no growth of what will never be used. */
static void settle_input(struct io *io, struct conn *c)
{
	size_t kept = conn_kept(c);
	if (kept == 0 && c->input.data != NULL)
		stream_release_input(io, c);
	if (c->state != CONN_OPEN)
		return;
	if (!c->link.paused && kept > conn_input_max(io, c))
		conn_close(io, c, true);
	else if (c->link.paused && kept >= conn_input_max(io, c))
		conn_todo(io, c); /* to stop receiving */
}

static void feed(struct io *io, struct conn *c, const uint8_t *p, size_t n)
{
	if (c->link.paused || conn_kept(c) > 0) {
		keep(io, c, p, n);
		if (c->state == CONN_OPEN && !c->link.paused)
			offer_kept(io, c);
	} else {
		size_t used = offer(io, c, p, n);
		if (c->state == CONN_OPEN)
			keep(io, c, p + used, n - used);
	}
	settle_input(io, c);
}

void stream_feed_resumed(struct io *io)
{
	/* Those that are resumed from here on have their turn in the next round. */
	struct list now;
	list_init(&now);
	while (!list_empty(&io->resumed)) {
		struct list *n = io->resumed.next;
		list_remove(n);
		list_add_tail(&now, n);
	}
	while (!list_empty(&now)) {
		struct conn *c = container_of(now.next, struct conn, resumed);
		list_remove(&c->resumed);
		if (!c->link.paused) {
			offer_kept(io, c);
			settle_input(io, c);
		}
		conn_todo(io, c); /* receiving may have been stopped */
	}
}

static void receive_ended(struct io *io, struct conn *c)
{
	c->recv_armed = false;
	c->recv_cancelled = false;
	c->in_flight--;
	conn_todo(io, c);
}

static void receive_failed(struct io *io, struct conn *c, int32_t res)
{
	switch (-res) {
	case ENOBUFS: /* no byte is lost; armed again when this loop has given its buffers back */
		stat_add(&io->stats.no_buffers, 1);
		break;
	case ECANCELED:
	case EAGAIN: /* completion queue full: armed again */
	case EINTR:
		break;
	default:
		conn_close(io, c, false);
	}
}

void stream_received(struct io *io, const struct ring_cqe *cqe)
{
	enum link_kind kind = (enum link_kind)user_data_op(cqe->user_data);
	struct buffer_group *g = &io->buffers.group[kind];
	bool buffer = (cqe->flags & IORING_CQE_F_BUFFER) != 0;
	const uint8_t *p = buffer ? buffers_take(g, cqe->flags) : NULL;
	struct conn *c = conn_of(io, cqe->user_data);

	if (c != NULL) {
		if ((cqe->flags & IORING_CQE_F_MORE) == 0) {
			io->in_flight--;
			receive_ended(io, c);
		}
		if (cqe->res > 0 && c->state == CONN_OPEN) {
			CHECK(buffer && (uint32_t)cqe->res <= g->shape.bytes);
			stat_add(&io->stats.recv_bytes, (uint64_t)cqe->res);
			feed(io, c, p, (size_t)cqe->res);
		} else if (cqe->res == 0) {
			/* A client that half-closes still reads the answers we have; a peer that
			 * closes is gone. */
			conn_close(io, c, kind == LINK_CLIENT);
			c->drain_input = false;
		} else if (cqe->res < 0) {
			receive_failed(io, c, cqe->res);
		}
	}
	if (buffer)
		buffers_put(g, cqe->flags);
}

bool stream_receive(struct io *io, struct conn *c)
{
	struct io_uring_sqe *sqe = ring_sqe(&io->ring);
	if (sqe == NULL)
		return false;
	/* Length 0: older kernels refuse anything else with multishot. */
	io_uring_prep_recv_multishot(sqe, c->fd, NULL, 0, 0);
	sqe->flags |= IOSQE_BUFFER_SELECT;
	sqe->buf_group = (uint16_t)c->link.kind;
	enum operation op = (enum operation)c->link.kind;
	sqe->user_data = user_data(op, c->generation, (uint32_t)(c - io->conns));
	if (c->recv_armed_before)
		stat_add(&io->stats.rearms, 1);
	c->recv_armed = c->recv_armed_before = true;
	c->in_flight++;
	io->in_flight++;
	return true;
}

/* ---- out ---- */

bool stream_send(struct io *io, struct conn *c)
{
	/* One at a time: overlapping sends on a stream may overtake each other in the kernel. */
	if (c->send_busy)
		return true;
	if (c->sending.len == c->sent_bytes) {
		if (c->link.out.len == 0)
			return true;
		struct buf full = c->link.out;
		c->link.out = c->sending;
		c->link.out.len = 0;
		c->sending = full;
		c->sent_bytes = 0;
		c->link.in_flight_bytes = full.len;
	}
	struct io_uring_sqe *sqe = ring_sqe(&io->ring);
	if (sqe == NULL)
		return false;
	size_t n = c->sending.len - c->sent_bytes;
	if (n > SEND_MAX_BYTES)
		n = SEND_MAX_BYTES;
	io_uring_prep_send(
		sqe, c->fd, c->sending.data + c->sent_bytes, n, MSG_WAITALL | MSG_NOSIGNAL);
	sqe->user_data = user_data(OP_SEND, c->generation, (uint32_t)(c - io->conns));
	c->send_busy = true;
	c->in_flight++;
	io->in_flight++;
	stat_add(&io->stats.sends, 1);
	return true;
}

void stream_sent(struct io *io, struct conn *c, int32_t res)
{
	c->send_busy = false;
	c->in_flight--;
	conn_todo(io, c);
	if (res > 0) {
		stat_add(&io->stats.send_bytes, (uint64_t)res);
		c->sent_bytes += (size_t)res;
		CHECK(c->sent_bytes <= c->sending.len);
		c->link.in_flight_bytes = c->sending.len - c->sent_bytes;
		if (c->link.in_flight_bytes == 0) {
			c->sending.len = c->sent_bytes = 0;
			if (c->link.out.len == 0) {
				buf_shrink(&c->sending, OUTPUT_KEEP_BYTES);
				buf_shrink(&c->link.out, OUTPUT_KEEP_BYTES);
			}
		}
	} else if (res != -EAGAIN && res != -EINTR && res != -ENOBUFS) {
		conn_close(io, c, false);
	}
	if (c->state == CONN_FLUSHING && !conn_has_output(c))
		conn_end(io, c);
}
