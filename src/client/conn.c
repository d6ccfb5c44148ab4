#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "client/internal.h"

enum {
	READ_BYTES = 16384,
	REPLY_MAX_BYTES = 16384, /* larger than any answer that is due here */
	REPLY_NODES_MAX = 64,
	OUT_HIGH_BYTES = 65536, /* no more is encoded while so much waits to be sent */
	IN_MAX_BYTES = 1 << 20,
};

static void conn_fail(struct conn *conn, enum locker_outcome failure, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
static void dispatch_again(struct locker_client *c, struct request *r);

/* ---- beginning and end ---- */

static void close_socket(struct conn *conn)
{
	if (conn->fd >= 0)
		close(conn->fd); /* which takes it out of the epoll set too */
	conn->fd = -1;
	conn->out.len = conn->in.len = 0;
	conn->wants_write = false;
}

static void conn_timeout(struct locker_client *c, struct timer *t)
{
	struct conn *conn = container_of(t, struct conn, timer);

	conn_fail(conn, LOCKER_CONNECT, "no %s within %lld ms",
		conn->state == CONN_CONNECTING ? "connection" : "greeting",
		(long long)(c->connect_ns / NS_PER_MS));
}

static struct conn *conn_new(struct locker_client *c, enum lane lane)
{
	struct conn *conn = calloc(1, sizeof *conn);

	if (!conn)
		return NULL;
	if (timer_reserve(&c->timers) < 0) {
		free(conn);
		return NULL;
	}
	conn->client = c;
	conn->fd = -1;
	conn->lane = lane;
	conn->node = c->preferred;
	conn->timer.fire = conn_timeout;
	buf_init(&conn->out, 0);
	buf_init(&conn->in, IN_MAX_BYTES);
	list_init(&conn->queued);
	list_init(&conn->sent);
	list_add_tail(&c->conns, &conn->link);
	return conn;
}

/* Freed later: an event for it may be on its way. */
static void bury(struct conn *conn)
{
	struct locker_client *c = conn->client;

	close_socket(conn);
	timer_cancel(&c->timers, &conn->timer);
	timer_unreserve(&c->timers);
	conn->state = CONN_DEAD;
	list_remove(&conn->link);
	conn->next_dead = c->dead;
	c->dead = conn;
}

void conn_free_dead(struct locker_client *c)
{
	struct conn *conn;

	while ((conn = c->dead) != NULL) {
		c->dead = conn->next_dead;
		buf_fini(&conn->out);
		buf_fini(&conn->in);
		free(conn);
	}
}

/* Take the requests off, those that were sent first. */
static void take_requests(struct conn *conn, struct list *ret)
{
	struct list *from[] = {&conn->sent, &conn->queued};

	list_init(ret);
	for (size_t i = 0; i < 2; i++) {
		while (!list_empty(from[i])) {
			struct list *l = from[i]->next;
			struct request *r = container_of(l, struct request, link);

			list_remove(l);
			list_add_tail(ret, l);
			r->conn = NULL;
			r->unsure |= r->on_wire;
			r->on_wire = false;
		}
	}
}

static struct request *take_first(struct list *requests)
{
	struct request *r = container_of(requests->next, struct request, link);

	list_remove(&r->link);
	return r;
}

void conn_end(struct conn *conn)
{
	struct list requests;

	take_requests(conn, &requests);
	bury(conn);
	while (!list_empty(&requests))
		request_fail(conn->client, take_first(&requests), LOCKER_CLOSED, "");
}

/* ---- connecting ---- */

/* 0 or -errno. The address behind the one tried is conn->next. */
static int look_up(struct conn *conn)
{
	struct node *node = &conn->client->nodes[conn->node];
	struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
	char address[ADDRESS_MAX_BYTES], *host, *port;

	if (!node->found) {
		memcpy(address, node->address, sizeof address);
		if (!address_split(address, &host, &port) ||
			getaddrinfo(host, port, &hints, &node->found) != 0) {
			node->found = NULL;
			return -EHOSTUNREACH;
		}
	}
	conn->next = node->found;
	return 0;
}

/* A machine that vanished says nothing: without this a command that waits in line there would wait
 * to its end. */
static void notice_silence(int fd, int64_t answer_ns)
{
	int on = 1, probes = 3, every_s = 1;
	int patience_ms = (int)(answer_ns / NS_PER_MS);
	int idle_s = patience_ms / 1000 + 1;

	(void)!setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
	(void)!setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof idle_s);
	(void)!setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &every_s, sizeof every_s);
	(void)!setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof probes);
	(void)!setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &patience_ms, sizeof patience_ms);
}

/* 0: under way; or -errno. */
static int try_address(struct conn *conn, const struct addrinfo *a)
{
	struct epoll_event want = {.events = EPOLLOUT, .data.ptr = conn};
	int on = 1;

	close_socket(conn);
	conn->fd =
		socket(a->ai_family, a->ai_socktype | SOCK_NONBLOCK | SOCK_CLOEXEC, a->ai_protocol);
	if (conn->fd < 0)
		return -errno;
	(void)!setsockopt(conn->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
	notice_silence(conn->fd, conn->client->answer_ns);
	if (connect(conn->fd, a->ai_addr, a->ai_addrlen) < 0 && errno != EINPROGRESS)
		return -errno;
	if (epoll_ctl(conn->client->epoll_fd, EPOLL_CTL_ADD, conn->fd, &want) < 0)
		return -errno;
	conn->wants_write = true;
	conn->state = CONN_CONNECTING;
	return 0;
}

static int try_node(struct conn *conn)
{
	int r = -EHOSTUNREACH;

	while (conn->next) {
		const struct addrinfo *a = conn->next;
		conn->next = a->ai_next;
		r = try_address(conn, a);
		if (r == 0)
			return 0;
	}
	return r;
}

static void note_failure(struct conn *conn, enum locker_outcome failure, const char *what)
{
	size_t used = strlen(conn->why);

	(void)snprintf(conn->why + used, sizeof conn->why - used, "%s%.64s: %.120s",
		used > 0 ? "; " : "", conn->client->nodes[conn->node].address, what);
	if (conn->failures == 0 || conn->failure == LOCKER_PROTOCOL)
		conn->failure = failure;
	conn->failures++;
	conn->node = (conn->node + 1) % conn->client->n_nodes;
	conn->next = NULL;
}

/* Connect to this node or the next that can be had; with none of them its requests have failed and
 * it is buried. */
static void conn_connect(struct conn *conn)
{
	struct locker_client *c = conn->client;

	while (conn->failures < c->n_nodes) {
		int r = conn->next ? 0 : look_up(conn);
		if (r == 0)
			r = try_node(conn);
		if (r == 0) {
			timer_set(&c->timers, &conn->timer, c->now_ns + c->connect_ns);
			return;
		}
		if (r == -EMFILE || r == -ENFILE || r == -ENOMEM || r == -ENOBUFS) {
			note_failure(conn, LOCKER_MEMORY, strerror(-r));
			conn->failure = LOCKER_MEMORY;
			break;
		}
		note_failure(conn, LOCKER_CONNECT, strerror(-r));
	}
	struct list requests;
	take_requests(conn, &requests);
	c->preferred = conn->node;
	bury(conn);
	while (!list_empty(&requests))
		request_fail(c, take_first(&requests), conn->failure, conn->why);
}

static void move_requests(struct conn *conn, struct list *requests, const char *why)
{
	struct locker_client *c = conn->client;

	while (!list_empty(requests)) {
		struct request *r = take_first(requests);

		if (request_may_repeat(c, r))
			dispatch_again(c, r);
		else
			request_fail(c, r, LOCKER_TIMEOUT, why);
	}
}

static void conn_fail(struct conn *conn, enum locker_outcome failure, const char *format, ...)
{
	struct locker_client *c = conn->client;
	struct list requests;
	char what[128], why[256];
	va_list ap;

	va_start(ap, format);
	(void)vsnprintf(what, sizeof what, format, ap);
	va_end(ap);
	close_socket(conn);
	timer_cancel(&c->timers, &conn->timer);
	if (conn->state != CONN_READY) {
		if (!conn->next)
			note_failure(conn, failure, what);
		conn_connect(conn);
		return;
	}
	(void)snprintf(why, sizeof why, "%.64s: %.120s", c->nodes[conn->node].address, what);
	if (c->preferred == conn->node)
		c->preferred = (conn->node + 1) % c->n_nodes;
	take_requests(conn, &requests);
	bury(conn);
	move_requests(conn, &requests, why);
}

void conn_give_up(struct conn *conn, const char *why)
{
	conn_fail(conn, LOCKER_CONNECT, "%s", why);
}

static void greet(struct conn *conn)
{
	struct bytes hello[] = {bytes_str("HELLO"), bytes_str("3"), bytes_str("SETNAME"),
		bytes_str(conn->client->name)};

	conn->state = CONN_GREETING;
	if (resp_command(&conn->out, 4, hello) < 0)
		conn_fail(conn, LOCKER_MEMORY, "out of memory");
}

static void connected(struct conn *conn)
{
	int err = 0;
	socklen_t bytes = sizeof err;

	if (getsockopt(conn->fd, SOL_SOCKET, SO_ERROR, &err, &bytes) < 0)
		err = errno;
	if (err != 0)
		conn_fail(conn, LOCKER_CONNECT, "%s", strerror(err));
	else
		greet(conn);
}

static bool is_locker(const struct resp_value *map)
{
	const struct resp_value *v = map + 1;

	for (int64_t i = 0; map->type == RESP_MAP && i < map->num; i++) {
		const struct resp_value *value = v + v->size;
		if (bytes_eq(v->str, bytes_str("server")))
			return bytes_eq(value->str, bytes_str("locker"));
		v = value + value->size;
	}
	return false;
}

/* False: it has failed. */
static bool greeted(struct conn *conn, const struct resp_value *v)
{
	struct locker_client *c = conn->client;

	if (v->type == RESP_ERR) {
		conn_fail(conn, LOCKER_CONNECT, "refused: %.*s", (int)v->str.len,
			(const char *)v->str.p);
		return false;
	}
	if (!is_locker(v)) {
		conn_fail(conn, LOCKER_PROTOCOL, "is no node of locker");
		return false;
	}
	timer_cancel(&c->timers, &conn->timer);
	conn->state = CONN_READY;
	conn->failures = 0;
	conn->why[0] = '\0';
	c->preferred = conn->node;
	return true;
}

/* ---- requests ---- */

static struct conn *conn_for(struct locker_client *c, enum lane lane)
{
	for (struct list *l = c->conns.next; l != &c->conns; l = l->next) {
		struct conn *conn = container_of(l, struct conn, link);
		bool idle = list_empty(&conn->queued) && list_empty(&conn->sent);

		if (conn->lane == lane && !conn->retired && (lane != LANE_WAIT || idle))
			return conn;
	}
	return conn_new(c, lane);
}

int conn_dispatch(struct locker_client *c, struct request *r)
{
	struct conn *conn = conn_for(c, request_lane(r));

	if (!conn)
		return -ENOMEM;
	list_add_tail(&conn->queued, &r->link);
	r->conn = conn;
	timer_set(&c->timers, &r->timer, r->end_ns);
	return 0;
}

static void dispatch_again(struct locker_client *c, struct request *r)
{
	if (conn_dispatch(c, r) < 0)
		request_fail(c, r, LOCKER_MEMORY, "out of memory");
}

/* The node cannot serve this: later requests go elsewhere too, while this connection
 * serves what it has. */
static void pass_over(struct conn *conn, struct request *r)
{
	struct locker_client *c = conn->client;

	conn->retired = true;
	if (c->preferred == conn->node)
		c->preferred = (conn->node + 1) % c->n_nodes;
	dispatch_again(c, r);
}

/* False: the connection has failed. */
static bool answer(struct conn *conn, const struct resp_value *v)
{
	struct locker_client *c = conn->client;

	if (v->type == RESP_PUSH)
		return true;
	if (conn->state == CONN_GREETING)
		return greeted(conn, v);
	if (list_empty(&conn->sent)) {
		conn_fail(conn, LOCKER_PROTOCOL, "an answer that nobody asked for");
		return false;
	}
	struct request *r = container_of(conn->sent.next, struct request, link);
	list_remove(&r->link);
	int result = request_answer(c, r, v);
	if (result == -EAGAIN) {
		r->conn = NULL;
		r->on_wire = false;
		pass_over(conn, r);
	} else if (result == -EPROTO) {
		list_add_tail(&conn->queued, &r->link);
		conn_fail(conn, LOCKER_PROTOCOL, "an answer that makes no sense");
		return false;
	}
	return true;
}

/* ---- bytes ---- */

/* False: the connection has failed. */
static bool parse_all(struct conn *conn)
{
	struct resp_value nodes[REPLY_NODES_MAX];
	size_t done = 0;

	while (done < conn->in.len) {
		size_t n, used;
		enum resp_status status = resp_reply_parse(conn->in.data + done,
			conn->in.len - done, nodes, REPLY_NODES_MAX, &n, &used);
		if (status == RESP_ERROR ||
			(status == RESP_MORE && conn->in.len - done >= REPLY_MAX_BYTES)) {
			conn_fail(conn, LOCKER_PROTOCOL,
				status == RESP_MORE ? "an answer that is too large"
						    : "does not speak the Redis protocol");
			return false;
		}
		if (status == RESP_MORE)
			break;
		if (!answer(conn, nodes))
			return false;
		done += used;
	}
	buf_drop_front(&conn->in, done);
	return true;
}

static void receive(struct conn *conn)
{
	for (;;) {
		uint8_t *room = buf_reserve(&conn->in, READ_BYTES);
		if (!room) {
			conn_fail(conn, LOCKER_MEMORY, "out of memory");
			return;
		}
		ssize_t n = recv(conn->fd, room, READ_BYTES, 0);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			return;
		if (n <= 0) {
			conn_fail(conn, LOCKER_CONNECT, "%s",
				n < 0 ? strerror(errno) : "the connection was closed");
			return;
		}
		conn->in.len += (size_t)n;
		if (!parse_all(conn))
			return;
		if (conn->retired && list_empty(&conn->sent) && list_empty(&conn->queued)) {
			bury(conn);
			return;
		}
		if (n < READ_BYTES)
			return;
	}
}

static void encode_queued(struct conn *conn)
{
	struct locker_client *c = conn->client;

	if (list_empty(&conn->queued))
		return;
	/* The time that counts for their leases is read before they are sent. */
	client_tick(c);
	while (!list_empty(&conn->queued) && conn->out.len < OUT_HIGH_BYTES) {
		struct request *r = container_of(conn->queued.next, struct request, link);
		if (request_encode(r, c, &conn->out) < 0)
			return;
		list_remove(&r->link);
		list_add_tail(&conn->sent, &r->link);
	}
}

static void want_write(struct conn *conn, bool wanted)
{
	struct epoll_event want = {.events = EPOLLIN | (wanted ? EPOLLOUT : 0U), .data.ptr = conn};

	if (conn->wants_write == wanted)
		return;
	conn->wants_write = wanted;
	(void)!epoll_ctl(conn->client->epoll_fd, EPOLL_CTL_MOD, conn->fd, &want);
}

void conn_flush(struct conn *conn)
{
	if (conn->state == CONN_NEW)
		conn_connect(conn);
	if (conn->state != CONN_GREETING && conn->state != CONN_READY)
		return;
	for (;;) {
		if (conn->state == CONN_READY)
			encode_queued(conn);
		if (conn->out.len == 0)
			break;
		ssize_t n = send(conn->fd, conn->out.data, conn->out.len, MSG_NOSIGNAL);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			break;
		if (n < 0) {
			conn_fail(conn, LOCKER_CONNECT, "%s", strerror(errno));
			return;
		}
		buf_drop_front(&conn->out, (size_t)n);
	}
	want_write(conn, conn->out.len > 0);
}

void conn_events(struct conn *conn, uint32_t events)
{
	if (conn->fd < 0)
		return;
	if (conn->state == CONN_CONNECTING) {
		connected(conn);
		return;
	}
	if (events & (EPOLLIN | EPOLLHUP | EPOLLERR))
		receive(conn);
}
