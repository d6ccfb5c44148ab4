#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "io/buffers.h"
#include "io/io.h"

enum { PROBE_ENTRIES = 8, PROBE_BUFFERS = 2, PROBE_BUFFER_BYTES = 4096, PROBE_TRIES = 10 };

#define PROBE_WAIT_NS UINT64_C(100000000)

static const struct {
	int code;
	const char *name;
} needed_ops[] = {
	{IORING_OP_ACCEPT, "accept"},
	{IORING_OP_RECV, "recv"},
	{IORING_OP_SEND, "send"},
	{IORING_OP_POLL_ADD, "poll"},
	{IORING_OP_ASYNC_CANCEL, "cancel"},
};

static int check_ops(struct ring *ring, char *why, size_t why_bytes)
{
	struct io_uring_probe *probe = io_uring_get_probe_ring(&ring->uring);
	if (probe == NULL) {
		(void)snprintf(why, why_bytes,
			"this kernel's io_uring cannot list its operations: "
			"use Linux 6.1 or later");
		return -EOPNOTSUPP;
	}
	int err = 0;
	for (size_t i = 0; i < sizeof needed_ops / sizeof needed_ops[0] && err == 0; i++) {
		if (io_uring_opcode_supported(probe, needed_ops[i].code))
			continue;
		(void)snprintf(why, why_bytes,
			"this kernel's io_uring has no \"%s\": use Linux 6.1 "
			"or later",
			needed_ops[i].name);
		err = -EOPNOTSUPP;
	}
	io_uring_free_probe(probe);
	return err;
}

/* Multishot receive and buffer rings have no feature bit, and distributors port back halves of
 * them: only a try tells. */
static int try_receive(struct ring *ring, int to, int from)
{
	struct io_uring_sqe *sqe = ring_sqe(ring);
	if (sqe == NULL)
		return -EOPNOTSUPP;
	io_uring_prep_recv_multishot(sqe, from, NULL, 0, 0);
	sqe->flags |= IOSQE_BUFFER_SELECT;
	if (send(to, "x", 1, MSG_NOSIGNAL) != 1)
		return -errno;
	struct ring_cqe cqe = {0};
	unsigned n = 0;
	for (unsigned i = 0; i < PROBE_TRIES && n == 0; i++) {
		int err = ring_enter(ring, PROBE_WAIT_NS);
		if (err != 0)
			return err;
		n = ring_harvest(ring, &cqe, 1);
	}
	const uint32_t want = IORING_CQE_F_BUFFER | IORING_CQE_F_MORE;
	return n == 1 && cqe.res == 1 && (cqe.flags & want) == want ? 0 : -EOPNOTSUPP;
}

static int self_test(struct ring *ring, char *why, size_t why_bytes)
{
	const struct buffer_shape shape = {PROBE_BUFFERS, PROBE_BUFFER_BYTES};
	struct buffers buffers;
	int fds[2] = {-1, -1};
	int err = buffers_init(&buffers, ring, (const struct buffer_shape[]){shape, shape});
	if (err == 0) {
		if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) != 0)
			err = -errno;
		else
			err = try_receive(ring, fds[0], fds[1]);
		ring_fini(ring);
		buffers_fini(&buffers);
	}
	if (err != 0) {
		(void)snprintf(why, why_bytes,
			"this kernel's io_uring cannot receive into provided "
			"buffers (%s): use Linux 6.1 or later",
			strerror(-err));
	}
	for (int i = 0; i < 2; i++)
		if (fds[i] >= 0)
			(void)close(fds[i]);
	return err;
}

int io_probe(char *why, size_t why_bytes)
{
	struct ring ring;
	int err = ring_init(&ring, PROBE_ENTRIES, 2 * PROBE_ENTRIES, why, why_bytes);
	if (err != 0)
		return err;
	err = check_ops(&ring, why, why_bytes);
	if (err == 0)
		err = self_test(&ring, why, why_bytes);
	ring_fini(&ring);
	return err;
}
