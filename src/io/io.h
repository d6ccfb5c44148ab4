/* env on io_uring: one object per thread. The only home of <liburing.h> and of clocks. */
#pragma once

#include <stdatomic.h>

#include "env/env.h"

struct io;

struct io_config {
	unsigned thread;        /* index; names it in messages */
	unsigned entries;       /* submission queue, power of two; 0: 1024 */
	unsigned max_links;     /* clients and peers; sockets beyond are answered and closed */
	const char *full_reply; /* what a client beyond that reads, e.g. "-ERR max number of clients
				   reached\r\n" */
	int listen_fd;          /* listening socket of this thread (SO_REUSEPORT), or -1 */
	const int *wake_fds;    /* eventfds of all threads of the node, [thread] is ours */
	size_t input_max_bytes; /* unparsed input kept per client link */
	size_t peer_input_max_bytes;
	size_t output_max_bytes; /* max of link->out for clients */
	size_t peer_output_max_bytes;
	unsigned spin_us; /* spin this long after the last work before sleeping; 0: none */
	/* For tests; 0: the usual. Powers of two. */
	unsigned cq_entries;     /* completion queue */
	unsigned client_buffers; /* receive buffers, shared by all clients */
	unsigned peer_buffers;
};

/* Create on the owning thread, after pinning. 0 or -errno; @why (at least 256 bytes) then says what
 * is missing and what to do about it (seccomp, kernel.io_uring_disabled, RLIMIT_MEMLOCK...). */
int io_new(const struct io_config *cfg, struct io **ret, char *why, size_t why_bytes);
struct env *io_env(struct io *io);
/* Run the loop with this handler until io_stop(). 0, or -errno when the ring died. */
int io_run(struct io *io, const struct env_handler *handler);
/* Ask the loop to end after this turn: open links are closed (handler.close is called for each;
 * what they have to send goes out, for at most an eighth of a second). From a handler of this
 * thread. */
void io_stop(struct io *io);
/* On the thread of io_new. */
void io_free(struct io *io);
/* One line on flags and features that won, for the log. */
const char *io_describe(const struct io *io);

/* Test at start whether this kernel lets us do what we need: sets up a throw-away ring, arms a
 * multishot receive on a socket pair. 0 or -errno and @why as above. */
int io_probe(char *why, size_t why_bytes);

/* Counters, written by the owner, readable from any thread (relaxed). */
struct io_stats {
	_Atomic uint64_t loops, enters, sqes, cqes, accepts, recv_bytes, send_bytes, sends;
	_Atomic uint64_t no_buffers, rearms, overflows, sleeps, spins, wakes;
	_Atomic uint64_t loop_max_ns, links, refused;
	_Atomic uint64_t wake_timeouts; /* slept to the cap with mail waiting: a lost wake-up */
};
const struct io_stats *io_stats(const struct io *io);

/* ---- clock.c ---- */
struct io_clock {
	uint64_t slow, fast; /* as of the anchor */
	uint64_t boot_anchor, raw_anchor;
	int64_t rate_ppm; /* test-only, 0 otherwise */
};
void io_clock_init(struct io_clock *c);
/* Read the clocks. Test-only: the environment variables LOCKER_TEST_CLOCK_RATE_PPM (signed, bends
 * the rate of all durations) and LOCKER_TEST_WALL_OFFSET_MS are honoured when set at io_clock_init.
 */
void io_clock_read(struct io_clock *c, struct clocks *ret);
uint64_t io_wall_us(void);

/* ---- listen.c ---- */
/* "HOST:PORT", "[::1]:PORT" or ":PORT" (all addresses) -> a listening TCP socket; TCP_NODELAY,
 * keepalive and user timeout are inherited by accepted sockets. @reuse_port: one of a group of this
 * process; the first of a group makes sure that no other process has the port, the others join it.
 * 0 or -errno with a sentence in @why that names the address ("127.0.0.1:7401 is in use..."). */
int io_listen(const char *address, bool reuse_port, int *ret_fd, char *why, size_t why_bytes);
/* Non-blocking connect to "HOST:PORT": *ret_fd may still be connecting. */
int io_connect(const char *address, int *ret_fd, char *why, size_t why_bytes);
/* Address the socket is bound to, "127.0.0.1:7401"; for port 0. */
void io_local_address(int fd, char *ret, size_t bytes);
void io_peer_address(int fd, char *ret, size_t bytes);
