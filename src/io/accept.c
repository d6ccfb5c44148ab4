#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "io/internal.h"

void accept_arm(struct io *io)
{
	if (io->cfg.listen_fd < 0 || io->accept_armed || io->stopping ||
		io->now.mclk < io->accept_at_ns)
		return;
	struct io_uring_sqe *sqe = ring_sqe(&io->ring);
	if (sqe == NULL)
		return;
	io_uring_prep_multishot_accept(sqe, io->cfg.listen_fd, NULL, NULL, SOCK_CLOEXEC);
	sqe->user_data = user_data(OP_ACCEPT, 0, 0);
	io->accept_armed = true;
	io->in_flight++;
}

static void refuse(struct io *io, int fd)
{
	stat_add(&io->stats.refused, 1);
	if (io->cfg.full_reply != NULL)
		(void)!send(fd, io->cfg.full_reply, strlen(io->cfg.full_reply),
			MSG_DONTWAIT | MSG_NOSIGNAL);
	close_politely(fd);
}

static void accepted(struct io *io, int fd)
{
	if (io->stopping) {
		(void)close(fd);
		return;
	}
	struct conn *c;
	char addr[sizeof c->link.addr];
	io_peer_address(fd, addr, sizeof addr);
	c = conn_new(io, fd, LINK_CLIENT, addr);
	if (c == NULL) {
		refuse(io, fd);
		return;
	}
	stat_add(&io->stats.accepts, 1);
	if (io->handler->open(io->handler->self, &c->link) != 0)
		conn_close(io, c, true);
}

void accept_done(struct io *io, const struct ring_cqe *cqe)
{
	if ((cqe->flags & IORING_CQE_F_MORE) == 0) {
		io->accept_armed = false;
		io->in_flight--;
	}
	if (cqe->res >= 0)
		accepted(io, cqe->res);
	else if (cqe->res != -ECONNABORTED && cqe->res != -EAGAIN && cqe->res != -EINTR)
		/* No descriptor or memory left: trying at once would only burn the processor. */
		io->accept_at_ns = io->now.mclk + ACCEPT_AGAIN_NS;
}
