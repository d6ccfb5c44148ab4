#include "client/sync.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "client/address.h"

static int64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static void explain(struct sync *s, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void explain(struct sync *s, const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	(void)vsnprintf(s->why, sizeof s->why, format, ap);
	va_end(ap);
}

static void drop(struct sync *s)
{
	if (s->fd >= 0)
		close(s->fd);
	s->fd = -1;
}

/* 0: ready; -ETIMEDOUT; -errno. */
static int wait_ready(int fd, short events, int64_t deadline_ms)
{
	for (;;) {
		int64_t left_ms = deadline_ms - now_ms();
		struct pollfd p = {.fd = fd, .events = events};

		if (left_ms <= 0)
			return -ETIMEDOUT;
		int n = poll(&p, 1, left_ms > 60000 ? 60000 : (int)left_ms);
		if (n > 0)
			return 0;
		if (n < 0 && errno != EINTR)
			return -errno;
	}
}

/* A connected socket or -errno. */
static int connect_one(const struct addrinfo *a, int64_t deadline_ms)
{
	int on = 1, err = 0;
	socklen_t len = sizeof err;
	int fd =
		socket(a->ai_family, a->ai_socktype | SOCK_NONBLOCK | SOCK_CLOEXEC, a->ai_protocol);

	if (fd < 0)
		return -errno;
	(void)!setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
	if (connect(fd, a->ai_addr, a->ai_addrlen) < 0) {
		err = errno == EINPROGRESS ? -wait_ready(fd, POLLOUT, deadline_ms) : errno;
		if (err == 0 && getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &len) < 0)
			err = errno;
	}
	if (err) {
		close(fd);
		return -err;
	}
	return fd;
}

static int connect_address(struct sync *s, char *address, int64_t deadline_ms)
{
	struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM}, *list;
	char *host, *port;
	int fd = -ECONNREFUSED;

	(void)snprintf(s->address, sizeof s->address, "%s", address);
	if (!address_split(address, &host, &port)) {
		explain(s, "not HOST:PORT with a port of 1 to 65535");
		return -EINVAL;
	}
	int r = getaddrinfo(host, port, &hints, &list);
	if (r) {
		explain(s, "%s", gai_strerror(r));
		return -ECONNREFUSED;
	}
	for (struct addrinfo *a = list; a && fd < 0; a = a->ai_next)
		fd = connect_one(a, deadline_ms);
	freeaddrinfo(list);
	if (fd < 0) {
		explain(s, "%s", strerror(-fd));
		return fd;
	}
	s->fd = fd;
	return 0;
}

/* Ask for RESP3: a server that cannot speak it is none of ours. */
static int greet(struct sync *s, int64_t timeout_ms)
{
	const struct bytes hello[] = {bytes_str("HELLO"), bytes_str("3")};
	const struct resp_value *reply = NULL;
	int r = sync_command(s, 2, hello, timeout_ms, &reply);

	if (r != 0)
		return r;
	if (reply->type == RESP_ERR) {
		explain(s, "refused: %.*s", (int)reply->str.len, (const char *)reply->str.p);
		drop(s);
		return -ECONNREFUSED;
	}
	return 0;
}

int sync_open(struct sync *s, const char *addresses, int64_t timeout_ms)
{
	char address[sizeof s->address], whys[sizeof s->why] = "no address given";
	size_t used = 0;
	bool fits, any_valid = false;

	*s = (struct sync){.fd = -1};
	buf_init(&s->out, 0);
	buf_init(&s->in, SYNC_REPLY_MAX_BYTES);
	s->nodes = calloc(SYNC_NODES_MAX, sizeof *s->nodes);
	if (!s->nodes) {
		explain(s, "out of memory");
		return -ENOMEM;
	}
	while (address_next(&addresses, address, sizeof address, &fits)) {
		int r = -EINVAL;

		if (fits)
			r = connect_address(s, address, now_ms() + timeout_ms);
		else
			explain(s, "not HOST:PORT with a port of 1 to 65535");
		if (r == 0)
			r = greet(s, timeout_ms);
		if (r == 0)
			return 0;
		any_valid |= r != -EINVAL;
		if (used < sizeof whys) {
			int n = snprintf(whys + used, sizeof whys - used, "%s%.64s: %.128s",
				used ? "; " : "", s->address, s->why);
			used += n > 0 ? (size_t)n : 0;
		}
	}
	explain(s, "%s", whys);
	return any_valid ? -ECONNREFUSED : -EINVAL;
}

static int send_all(struct sync *s, int64_t deadline_ms)
{
	size_t sent = 0;

	while (sent < s->out.len) {
		ssize_t n = send(s->fd, s->out.data + sent, s->out.len - sent, MSG_NOSIGNAL);

		if (n >= 0) {
			sent += (size_t)n;
			continue;
		}
		if (errno == EINTR)
			continue;
		int r = errno == EAGAIN ? wait_ready(s->fd, POLLOUT, deadline_ms) : -errno;
		if (r < 0)
			return r;
	}
	return 0;
}

static int receive_more(struct sync *s, int64_t deadline_ms)
{
	uint8_t *room = buf_reserve(&s->in, 16384);

	if (!room)
		return -EPROTO;
	for (;;) {
		ssize_t n = recv(s->fd, room, 16384, 0);

		if (n > 0) {
			s->in.len += (size_t)n;
			return 0;
		}
		if (n == 0)
			return -ECONNRESET;
		if (errno == EINTR)
			continue;
		int r = errno == EAGAIN ? wait_ready(s->fd, POLLIN, deadline_ms) : -errno;
		if (r < 0)
			return r;
	}
}

static int receive_reply(struct sync *s, int64_t deadline_ms)
{
	for (;;) {
		size_t nodes = 0, used = 0;
		enum resp_status status = RESP_MORE;

		if (s->in.len > 0)
			status = resp_reply_parse(
				s->in.data, s->in.len, s->nodes, SYNC_NODES_MAX, &nodes, &used);
		if (status == RESP_ERROR)
			return -EPROTO;
		if (status == RESP_OK && s->nodes[0].type == RESP_PUSH) {
			buf_drop_front(&s->in, used);
			continue;
		}
		if (status == RESP_OK) {
			s->done_bytes = used;
			return 0;
		}
		int r = receive_more(s, deadline_ms);
		if (r < 0)
			return r;
	}
}

/* Say what became of a wait that ended with @r, and give the connection up. */
static void give_up(struct sync *s, int r, int64_t timeout_ms)
{
	if (r == -ETIMEDOUT)
		explain(s, "no answer within %lld ms", (long long)timeout_ms);
	else if (r == -EPROTO)
		explain(s, "what answers there does not speak the Redis protocol");
	else if (r == -ECONNRESET)
		explain(s, "the connection was closed");
	else
		explain(s, "%s", strerror(-r));
	drop(s);
}

int sync_send(struct sync *s, size_t argc, const struct bytes *argv, int64_t timeout_ms)
{
	if (s->fd < 0) {
		explain(s, "not connected");
		return -ENOTCONN;
	}
	buf_drop_front(&s->in, s->done_bytes);
	s->done_bytes = 0;
	s->out.len = 0;
	if (argc == 0 || argc > ARGS_MAX || resp_command(&s->out, argc, argv) < 0) {
		explain(s, "the command is too large");
		return -EMSGSIZE;
	}
	int r = send_all(s, now_ms() + timeout_ms);
	if (r < 0)
		give_up(s, r, timeout_ms);
	return r;
}

int sync_receive(struct sync *s, int64_t timeout_ms, const struct resp_value **ret)
{
	if (s->fd < 0) {
		explain(s, "not connected");
		return -ENOTCONN;
	}
	int r = receive_reply(s, now_ms() + timeout_ms);
	if (r == -ETIMEDOUT)
		return -EAGAIN;
	if (r == 0)
		*ret = s->nodes;
	else
		give_up(s, r, timeout_ms);
	return r;
}

int sync_command(struct sync *s, size_t argc, const struct bytes *argv, int64_t timeout_ms,
	const struct resp_value **ret)
{
	int64_t deadline_ms = now_ms() + timeout_ms;
	int r = sync_send(s, argc, argv, timeout_ms);

	if (r == 0)
		r = sync_receive(s, deadline_ms - now_ms(), ret);
	if (r != -EAGAIN)
		return r;
	give_up(s, -ETIMEDOUT, timeout_ms);
	return -ETIMEDOUT;
}

void sync_close(struct sync *s)
{
	drop(s);
	buf_fini(&s->out);
	buf_fini(&s->in);
	free(s->nodes);
	s->nodes = NULL;
}

const struct resp_value *sync_map_get(const struct resp_value *map, const char *name)
{
	struct bytes wanted = bytes_str(name);

	if (map->type != RESP_MAP)
		return NULL;
	const struct resp_value *v = map + 1;
	for (int64_t i = 0; i < map->num; i++) {
		const struct resp_value *key = v;

		v += key->size;
		if ((key->type == RESP_BULK || key->type == RESP_SIMPLE) &&
			bytes_eq(key->str, wanted))
			return v;
		v += v->size;
	}
	return NULL;
}
