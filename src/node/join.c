/* How a node that knows no configuration gets one, before anything else of it runs (--join). */
#include "node/internal.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/log.h"
#include "node/sock.h"

enum {
	ANSWER_MS = 5000, /* for one try, from the connect on */
	PAUSE_MS = 1000,  /* between two tries */
};

struct
try {
	const struct node *node;
	int fd;
	uint64_t until_ms;
	char *why;
	size_t why_bytes;
};

static __attribute__((format(printf, 3, 4))) int fail(int r, struct try *t, const char *format, ...)
{
	va_list args;
	va_start(args, format);
	(void)vsnprintf(t->why, t->why_bytes, format, args);
	va_end(args);
	return r;
}

static uint64_t now_ms(const struct node *n)
{
	struct io_clock clock = n->clock;
	struct clocks now;
	io_clock_read(&clock, &now);
	return now.mclk / 1000000;
}

/* 0: @fd (-1: none) is ready; -ETIMEDOUT; -EINTR: we are told to end. */
static int await(const struct node *n, int fd, short events, uint64_t until_ms)
{
	struct pollfd set[] = {
		{.fd = n->signal_fd, .events = POLLIN}, {.fd = fd, .events = events}};
	for (;;) {
		uint64_t now = now_ms(n);
		if (now >= until_ms)
			return -ETIMEDOUT;
		int r = poll(set, 2, (int)(until_ms - now));
		if (r > 0 && set[0].revents != 0)
			return -EINTR;
		if (r > 0)
			return 0;
	}
}

static int await_peer(struct try *t, short events)
{
	int r = await(t->node, t->fd, events, t->until_ms);
	return r == -ETIMEDOUT ? fail(r, t, "no answer within %d s", ANSWER_MS / 1000) : r;
}

static int ask(struct try *t, const struct hello *h)
{
	uint8_t out[HELLO_MAX_BYTES];
	size_t len = hello_encode(out, h);
	size_t done = 0;
	int r = await_peer(t, POLLOUT);
	if (r != 0)
		return r;
	r = sock_connected(t->fd);
	if (r != 0)
		return fail(r, t, "%s", strerror(-r));
	while (done < len) {
		ssize_t n = sock_send(t->fd, out + done, len - done);
		if (n < 0 && n != -EAGAIN)
			return fail((int)n, t, "%s", strerror((int)-n));
		done += n > 0 ? (size_t)n : 0;
		if (n == -EAGAIN && (r = await_peer(t, POLLOUT)) != 0)
			return r;
	}
	return 0;
}

static int hear(struct try *t, struct hello *ret)
{
	uint8_t in[HELLO_MAX_BYTES];
	size_t len = 0;
	for (;;) {
		size_t want = HELLO_PREFIX_BYTES;
		int r = hello_decode(in, len, ret, &want);
		if (r == 0)
			return 0;
		if (r == -EAGAIN && len < HELLO_PREFIX_BYTES)
			want = HELLO_PREFIX_BYTES;
		if (r != -EAGAIN || want <= len || want > sizeof in)
			return fail(-EPROTO, t,
				"does not speak the peer protocol (name the peer "
				"port of a member)");
		r = await_peer(t, POLLIN);
		if (r != 0)
			return r;
		ssize_t n = sock_recv(t->fd, in + len, want - len);
		if (n == 0 || (n < 0 && n != -EAGAIN))
			return fail(n == 0 ? -ECONNRESET : (int)n, t, "%s",
				n == 0 ? "closed the connection" : strerror((int)-n));
		len += n > 0 ? (size_t)n : 0;
	}
}

static int talk(struct try *t, struct membership *ret)
{
	const struct identity *self = &t->node->self;
	struct hello h;
	handshake_offer(self, 0, now_ms(t->node) * 1000000, &h);
	int r = ask(t, &h);
	if (r == 0)
		r = hear(t, &h);
	if (r != 0)
		return r;
	if (h.refused)
		return fail(-EPROTO, t, "refused by node %u: %.199s", h.node, h.reason);
	char why[200] = "";
	if (handshake_check(self, &h, 0, why, sizeof why) != 0)
		return fail(-EPROTO, t, "%s", why);
	if (handshake_asks(&h))
		return fail(-EPROTO, t, "node %u is waiting for a configuration itself", h.node);
	*ret = h.config;
	return 0;
}

static int try_once(struct node *n, struct membership *ret, char *why, size_t why_bytes)
{
	struct try t = {.node = n,
		.fd = -1,
		.until_ms = now_ms(n) + ANSWER_MS,
		.why = why,
		.why_bytes = why_bytes};
	int r = io_connect(n->cfg.join, &t.fd, why, why_bytes);
	if (r != 0)
		return r;
	sock_set_nonblocking(t.fd);
	r = talk(&t, ret);
	(void)close(t.fd);
	return r;
}

int join_fetch(struct node *n, struct membership *ret, char *why, size_t why_bytes)
{
	char problem[320] = "";
	log_info("asking %s who the members are", n->cfg.join);
	for (;;) {
		int r = try_once(n, ret, problem, sizeof problem);
		if (r == 0)
			return 0;
		if (r != -EINTR) {
			log_info("no configuration from %s: %s; trying on", n->cfg.join, problem);
			r = await(n, -1, 0, now_ms(n) + PAUSE_MS);
		}
		if (r == -EINTR) {
			(void)snprintf(why, why_bytes,
				"stopped by a signal while it asked %s who the members are",
				n->cfg.join);
			return -EINTR;
		}
	}
}
