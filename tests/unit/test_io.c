#include "io/io.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <dirent.h>
#include <unistd.h>

#include <cmocka.h>

#include "io/internal.h"

#define KB         ((size_t)1024)
#define FULL_REPLY "-ERR max number of clients reached\r\n"

enum {
	FRAME_BYTES = 100,
	INPUT_MAX_BYTES = 16 * 1024,
	OUTPUT_MAX_BYTES = 64 * 1024 * 1024,
	BUFFER_BYTES = 4096, /* of one client receive buffer */
	PATIENCE_S = 20,
	EXIT_SKIP = 77,
};

/* ---- the server under test, on a thread of its own ---- */

enum mode {
	ECHO,
	ECHO_FRAMES, /* uses whole frames only */
	ECHO_SLOWLY, /* a frame at a time, paused after each and resumed from work() */
	HOLD,        /* pauses at the first byte until told by mail */
	HOARD,       /* uses nothing, ever */
	TAGGED,      /* all bytes of a stream must be the same */
	CUT,         /* closes without flush after some bytes */
	LAST_WORDS,  /* answers a lot and closes with flush */
	REFUSE,      /* says so in open() */
};

struct visitor {
	struct link *link;
	struct list all;
	struct list resting;
	size_t got_bytes;
	uint8_t tag;
};

struct server {
	struct io_config cfg;
	enum mode mode;
	int wake_fds[2]; /* ours, and that of another thread */
	int adopt_fd;
	char addr[64];
	pthread_t thread;
	sem_t ready;
	_Atomic bool stop;
	_Atomic unsigned mail, mail_seen;
	_Atomic unsigned opens, closes, faults;
	_Atomic size_t longest_data;
	_Atomic(struct io *) io;
	struct list visitors, resting;
	int err;
	char why[256];
};

static struct env *env_of(struct server *s)
{
	return io_env(atomic_load(&s->io));
}

static void visitor_new(struct server *s, struct link *link)
{
	struct visitor *v = calloc(1, sizeof *v);
	if (v == NULL)
		abort();
	v->link = link;
	list_init(&v->resting);
	list_add_tail(&s->visitors, &v->all);
	link->user = v;
	atomic_fetch_add(&s->opens, 1);
}

static bool has_mail(void *self)
{
	struct server *s = self;
	return atomic_load(&s->stop) || atomic_load(&s->mail) != atomic_load(&s->mail_seen);
}

static void collect(void *self)
{
	struct server *s = self;
	if (atomic_load(&s->stop))
		io_stop(atomic_load(&s->io));
}

static void begin(void *self, const struct clocks *now)
{
	struct server *s = self;
	if (now->slow > now->fast)
		atomic_fetch_add(&s->faults, 1);
}

static int on_open(void *self, struct link *link)
{
	struct server *s = self;
	visitor_new(s, link);
	if (s->mode != REFUSE)
		return 0;
	(void)buf_append(&link->out, "no\n", 3);
	return -1;
}

static ssize_t echo(struct server *s, struct link *link, const uint8_t *data, size_t len)
{
	if (buf_append(&link->out, data, len) != 0)
		return -1;
	env_dirty(env_of(s), link);
	return (ssize_t)len;
}

static ssize_t last_words(struct server *s, struct link *link)
{
	static const uint8_t words[200000] = {'w'};
	env_of(s)->ops->close(env_of(s), link, true);
	/* Also what is appended after the call goes out. */
	return echo(s, link, words, sizeof words) < 0 ? -1 : 0;
}

static ssize_t echo_slowly(struct server *s, struct visitor *v, const uint8_t *data, size_t len)
{
	if (v->link->paused)
		atomic_fetch_add(&s->faults, 1);
	v->link->paused = true;
	list_remove(&v->resting);
	list_add_tail(&s->resting, &v->resting);
	return echo(s, v->link, data, len < FRAME_BYTES ? len : FRAME_BYTES);
}

static void check_tag(struct server *s, struct visitor *v, const uint8_t *data, size_t len)
{
	if (v->got_bytes == len)
		v->tag = data[0];
	for (size_t i = 0; i < len; i++)
		if (data[i] != v->tag)
			atomic_fetch_add(&s->faults, 1);
}

static ssize_t on_data(void *self, struct link *link, const uint8_t *data, size_t len)
{
	struct server *s = self;
	struct visitor *v = link->user;
	if (v == NULL || link->closing) {
		atomic_fetch_add(&s->faults, 1);
		return (ssize_t)len;
	}
	v->got_bytes += len;
	if (len > atomic_load(&s->longest_data))
		atomic_store(&s->longest_data, len);
	switch (s->mode) {
	case ECHO_FRAMES:
		return echo(s, link, data, len - len % FRAME_BYTES);
	case ECHO_SLOWLY:
		return echo_slowly(s, v, data, len);
	case HOLD:
		if (atomic_load(&s->mail_seen) > 0)
			return echo(s, link, data, len);
		link->paused = true;
		return 0;
	case HOARD:
		return 0;
	case TAGGED:
		check_tag(s, v, data, len);
		return echo(s, link, data, len);
	case CUT:
		if (v->got_bytes > BUFFER_BYTES)
			env_of(s)->ops->close(env_of(s), link, false);
		return echo(s, link, data, len);
	case LAST_WORDS:
		return last_words(s, link);
	default:
		return echo(s, link, data, len);
	}
}

static void on_close(void *self, struct link *link)
{
	struct server *s = self;
	struct visitor *v = link->user;
	atomic_fetch_add(&s->closes, 1);
	if (v == NULL) {
		atomic_fetch_add(&s->faults, 1);
		return;
	}
	list_remove(&v->all);
	list_remove(&v->resting);
	link->user = NULL;
	free(v);
}

static void resume_resting(struct server *s)
{
	struct list *end = &s->resting;
	while (!list_empty(end)) {
		struct visitor *v = container_of(end->next, struct visitor, resting);
		list_remove(&v->resting);
		env_of(s)->ops->resume(env_of(s), v->link);
	}
}

static void work(void *self)
{
	struct server *s = self;
	if (s->adopt_fd >= 0) {
		struct env *env = env_of(s);
		struct link *link = env->ops->adopt(env, s->adopt_fd, LINK_PEER, "peer");
		s->adopt_fd = -1;
		if (link != NULL)
			visitor_new(s, link);
	}
	if (s->mode == ECHO_SLOWLY)
		resume_resting(s);
	if (atomic_load(&s->mail) == atomic_load(&s->mail_seen))
		return;
	atomic_store(&s->mail_seen, atomic_load(&s->mail));
	env_of(s)->ops->wake(env_of(s), 1);
	if (s->mode == HOLD)
		for (struct list *n = s->visitors.next; n != &s->visitors; n = n->next)
			env_of(s)->ops->resume(
				env_of(s), container_of(n, struct visitor, all)->link);
}

static void nothing(void *self)
{
	(void)self;
}

static uint64_t wait_ns(void *self)
{
	struct server *s = self;
	return list_empty(&s->resting) ? UINT64_MAX : 0;
}

static bool may_sleep(void *self)
{
	return !has_mail(self);
}

static void *serve(void *arg)
{
	struct server *s = arg;
	const struct env_handler handler = {
		.self = s,
		.collect = collect,
		.begin = begin,
		.open = on_open,
		.data = on_data,
		.close = on_close,
		.work = work,
		.publish = nothing,
		.wait_ns = wait_ns,
		.sleep = may_sleep,
		.awake = nothing,
		.has_mail = has_mail,
	};
	struct io *io = NULL;
	s->err = io_new(&s->cfg, &io, s->why, sizeof s->why);
	atomic_store(&s->io, io);
	(void)sem_post(&s->ready);
	if (s->err != 0)
		return NULL;
	s->err = io_run(io, &handler);
	return NULL;
}

static struct server *server_prepare(enum mode mode)
{
	struct server *s = calloc(1, sizeof *s);
	assert_non_null(s);
	s->mode = mode;
	s->adopt_fd = -1;
	list_init(&s->visitors);
	list_init(&s->resting);
	for (int i = 0; i < 2; i++) {
		s->wake_fds[i] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
		assert_true(s->wake_fds[i] >= 0);
	}
	s->cfg = (struct io_config){
		.max_links = 200,
		.full_reply = FULL_REPLY,
		.wake_fds = s->wake_fds,
		.input_max_bytes = INPUT_MAX_BYTES,
		.peer_input_max_bytes = INPUT_MAX_BYTES,
		.output_max_bytes = OUTPUT_MAX_BYTES,
		.peer_output_max_bytes = OUTPUT_MAX_BYTES,
	};
	assert_int_equal(
		io_listen("127.0.0.1:0", true, &s->cfg.listen_fd, s->why, sizeof s->why), 0);
	io_local_address(s->cfg.listen_fd, s->addr, sizeof s->addr);
	assert_int_equal(sem_init(&s->ready, 0, 0), 0);
	return s;
}

static void server_start(struct server *s)
{
	assert_int_equal(pthread_create(&s->thread, NULL, serve, s), 0);
	assert_int_equal(sem_wait(&s->ready), 0);
	if (atomic_load(&s->io) == NULL)
		fail_msg("%s", s->why);
}

static struct server *server_new(enum mode mode)
{
	struct server *s = server_prepare(mode);
	server_start(s);
	return s;
}

static void wake(const struct server *s)
{
	const uint64_t one = 1;
	assert_int_equal(write(s->wake_fds[0], &one, sizeof one), sizeof one);
}

/* Stops it and checks what holds for every server. */
static void server_end(struct server *s)
{
	atomic_store(&s->stop, true);
	wake(s);
	assert_int_equal(pthread_join(s->thread, NULL), 0);
	assert_int_equal(s->err, 0);
	struct io *io = atomic_load(&s->io);
	assert_int_equal(atomic_load(&s->faults), 0);
	assert_int_equal(atomic_load(&s->opens), atomic_load(&s->closes));
	assert_true(list_empty(&s->visitors));
	assert_int_equal(io_stats(io)->links, 0);
	assert_int_equal(io_stats(io)->wake_timeouts, 0);
	io_free(io);
	(void)close(s->cfg.listen_fd);
	(void)close(s->wake_fds[0]);
	(void)close(s->wake_fds[1]);
	(void)sem_destroy(&s->ready);
	free(s);
}

/* ---- clients, on the thread of the test ---- */

static int client_new(const struct server *s)
{
	int fd;
	char why[256];
	assert_int_equal(io_connect(s->addr, &fd, why, sizeof why), 0);
	struct pollfd p = {.fd = fd, .events = POLLOUT};
	assert_int_equal(poll(&p, 1, PATIENCE_S * 1000), 1);
	return fd;
}

static bool wait_for(int fd, short events)
{
	struct pollfd p = {.fd = fd, .events = events};
	return poll(&p, 1, PATIENCE_S * 1000) == 1;
}

static uint8_t pattern(size_t at)
{
	return (uint8_t)(at * 7 + (at >> 8) * 13 + (at >> 16));
}

static void fill(uint8_t *to, size_t from, size_t n)
{
	for (size_t i = 0; i < n; i++)
		to[i] = pattern(from + i);
}

/* Send some of [*sent, total), as much as goes at once but at most @step. False: stream broken. */
static bool send_some(int fd, size_t *sent, size_t total, size_t step)
{
	uint8_t chunk[16384];
	size_t n = total - *sent < step ? total - *sent : step;
	if (n > sizeof chunk)
		n = sizeof chunk;
	if (n == 0)
		return true;
	fill(chunk, *sent, n);
	ssize_t done = send(fd, chunk, n, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (done < 0)
		return errno == EAGAIN;
	*sent += (size_t)done;
	return true;
}

/* Receive what is there and compare. False: stream over or wrong. */
static bool receive_some(int fd, size_t *got)
{
	uint8_t chunk[16384];
	ssize_t n = recv(fd, chunk, sizeof chunk, MSG_DONTWAIT);
	if (n < 0)
		return errno == EAGAIN;
	for (ssize_t i = 0; i < n; i++)
		if (chunk[i] != pattern(*got + (size_t)i))
			return false;
	*got += (size_t)n;
	return n > 0;
}

/* Both ways at once: @total bytes out in pieces of @step, and the same back. */
static void pump(int fd, size_t sent, size_t total, size_t step)
{
	size_t got = 0;
	while (got < total) {
		assert_true(wait_for(fd, (short)(POLLIN | (sent < total ? POLLOUT : 0))));
		assert_true(send_some(fd, &sent, total, step));
		assert_true(receive_some(fd, &got));
	}
}

/* Read to the end of the stream; how many bytes came. */
static size_t read_to_end(int fd, uint8_t *ret, size_t bytes)
{
	size_t got = 0;
	for (;;) {
		uint8_t chunk[4096];
		assert_true(wait_for(fd, POLLIN));
		ssize_t n = recv(fd, chunk, sizeof chunk, MSG_DONTWAIT);
		assert_true(n >= 0); /* a clean end, no reset */
		if (n == 0)
			return got;
		for (ssize_t i = 0; i < n && got + (size_t)i < bytes; i++)
			ret[got + (size_t)i] = chunk[i];
		got += (size_t)n;
	}
}

static void wait_for_count(_Atomic unsigned *n, unsigned want)
{
	for (int tries = 0; atomic_load(n) != want; tries++) {
		assert_true(tries < PATIENCE_S * 1000);
		(void)usleep(1000);
	}
}

/* ---- bytes in and out ---- */

static void test_io_joins_fragments_of_one_byte(void **state)
{
	(void)state;
	struct server *s = server_new(ECHO_FRAMES);
	int fd = client_new(s);
	int one = 1;
	assert_int_equal(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one), 0);
	pump(fd, 0, 20 * (size_t)FRAME_BYTES, 1);
	(void)close(fd);
	server_end(s);
}

static void test_io_carries_200_kb_both_ways(void **state)
{
	(void)state;
	struct server *s = server_new(ECHO);
	int fd = client_new(s);
	pump(fd, 0, 200 * KB, SIZE_MAX);
	struct io *io = atomic_load(&s->io);
	assert_int_equal(io_stats(io)->recv_bytes, 200 * KB);
	(void)close(fd);
	server_end(s);
}

static void test_io_resends_the_rest_with_tiny_socket_buffers(void **state)
{
	(void)state;
	struct server *s = server_prepare(ECHO);
	int tiny = 1;
	assert_int_equal(
		setsockopt(s->cfg.listen_fd, SOL_SOCKET, SO_SNDBUF, &tiny, sizeof tiny), 0);
	server_start(s);
	int fd = client_new(s);
	pump(fd, 0, 300 * KB, SIZE_MAX);
	(void)close(fd);
	server_end(s);
}

static void test_io_serves_many_connections(void **state)
{
	(void)state;
	enum { CLIENTS = 150, BYTES = 3000 };
	struct server *s = server_new(ECHO);
	int fds[CLIENTS];
	size_t sent[CLIENTS] = {0};
	for (int i = 0; i < CLIENTS; i++)
		fds[i] = client_new(s);
	for (int i = 0; i < CLIENTS; i++)
		while (sent[i] < BYTES)
			assert_true(send_some(fds[i], &sent[i], BYTES, 1000));
	for (int i = 0; i < CLIENTS; i++) {
		pump(fds[i], sent[i], BYTES, 1);
		(void)close(fds[i]);
	}
	wait_for_count(&s->closes, CLIENTS);
	server_end(s);
}

/* All at once through a pool much smaller than what arrives. */
static void storm(struct server *s, unsigned clients, size_t bytes)
{
	int fds[64];
	size_t sent[64] = {0}, got[64] = {0};
	unsigned done = 0;
	assert_true(clients <= 64);
	for (unsigned i = 0; i < clients; i++)
		fds[i] = client_new(s);
	for (unsigned idle = 0; done < clients;) {
		size_t before = 0, after = 0;
		done = 0;
		for (unsigned i = 0; i < clients; i++) {
			before += sent[i] + got[i];
			assert_true(send_some(fds[i], &sent[i], bytes, SIZE_MAX));
			assert_true(receive_some(fds[i], &got[i]));
			after += sent[i] + got[i];
			done += got[i] == bytes;
		}
		idle = after > before ? 0 : idle + 1;
		assert_true(idle < PATIENCE_S * 1000);
		if (idle > 0)
			(void)usleep(1000);
	}
	for (unsigned i = 0; i < clients; i++)
		(void)close(fds[i]);
}

static void test_io_survives_a_storm_on_four_buffers(void **state)
{
	(void)state;
	struct server *s = server_prepare(ECHO);
	s->cfg.client_buffers = 4;
	server_start(s);
	storm(s, 40, 64 * KB);
	assert_true(io_stats(atomic_load(&s->io))->no_buffers > 0);
	server_end(s);
}

static void test_io_survives_a_completion_queue_of_eight(void **state)
{
	(void)state;
	struct server *s = server_prepare(ECHO);
	s->cfg.entries = 4;
	s->cfg.cq_entries = 8;
	server_start(s);
	storm(s, 40, 64 * KB);
	assert_true(io_stats(atomic_load(&s->io))->rearms > 0);
	server_end(s);
}

static void test_io_spins_and_still_serves(void **state)
{
	(void)state;
	struct server *s = server_prepare(ECHO);
	s->cfg.spin_us = 1000000;
	server_start(s);
	int fd = client_new(s);
	for (unsigned i = 0; i < 100; i++)
		pump(fd, 0, 10, SIZE_MAX);
	const struct io_stats *stats = io_stats(atomic_load(&s->io));
	/* Nothing else happens, so it has to. */
	for (int tries = 0; stats->spins == 0; tries++) {
		assert_true(tries < PATIENCE_S * 1000);
		(void)usleep(1000);
	}
	pump(fd, 0, 10, SIZE_MAX);
	(void)close(fd);
	server_end(s);
}

/* MSG_WAITALL leaves short sends to errors and cancellations, so this one is made up. */
static void test_io_keeps_the_rest_of_a_short_send(void **state)
{
	(void)state;
	struct io *io = calloc(1, sizeof *io);
	struct conn *c = calloc(1, sizeof *c);
	assert_non_null(io);
	assert_non_null(c);
	list_init(&io->todo[LINK_CLIENT]);
	list_init(&c->todo);
	c->state = CONN_OPEN;
	assert_int_equal(buf_append(&c->sending, "0123456789", 10), 0);
	c->in_flight = 1;
	c->send_busy = true;
	stream_sent(io, c, 4);
	assert_int_equal(c->link.in_flight_bytes, 6);
	assert_int_equal(c->sent_bytes, 4);
	assert_false(c->send_busy);
	assert_false(list_empty(&c->todo));
	c->in_flight = 1;
	stream_sent(io, c, 6);
	assert_int_equal(c->link.in_flight_bytes, 0);
	assert_int_equal(c->sending.len, 0);
	buf_fini(&c->sending);
	free(c);
	free(io);
}

/* ---- bounds ---- */

static void test_io_lets_the_handler_drop_a_slow_reader(void **state)
{
	(void)state;
	struct server *s = server_prepare(ECHO);
	int small = 4096;
	s->cfg.output_max_bytes = 256 * KB;
	assert_int_equal(
		setsockopt(s->cfg.listen_fd, SOL_SOCKET, SO_SNDBUF, &small, sizeof small), 0);
	server_start(s);
	int fd = client_new(s);
	size_t sent = 0;
	while (send_some(fd, &sent, SIZE_MAX, SIZE_MAX) && atomic_load(&s->closes) == 0)
		(void)usleep(10);
	wait_for_count(&s->closes, 1);
	(void)close(fd);
	server_end(s);
}

static void test_io_closes_a_link_whose_input_is_never_used(void **state)
{
	(void)state;
	struct server *s = server_new(HOARD);
	int fd = client_new(s);
	size_t sent = 0;
	while (send_some(fd, &sent, SIZE_MAX, SIZE_MAX) && atomic_load(&s->closes) == 0)
		(void)usleep(10);
	wait_for_count(&s->closes, 1);
	assert_true(atomic_load(&s->longest_data) <= INPUT_MAX_BYTES + BUFFER_BYTES);
	(void)close(fd);
	server_end(s);
}

static void test_io_keeps_order_over_pause_and_resume(void **state)
{
	(void)state;
	struct server *s = server_new(ECHO_SLOWLY);
	int fd = client_new(s);
	pump(fd, 0, 300 * KB, SIZE_MAX);
	(void)close(fd);
	server_end(s);
}

static void test_io_stops_receiving_while_paused(void **state)
{
	(void)state;
	enum { BUFFERS = 16, STILL_MS = 200 };
	struct server *s = server_prepare(HOLD);
	s->cfg.client_buffers = BUFFERS;
	server_start(s);
	int fd = client_new(s);
	size_t sent = 0;
	struct pollfd p = {.fd = fd, .events = POLLOUT};
	/* Until the sockets' buffers are full on both sides. */
	while (poll(&p, 1, STILL_MS) == 1)
		assert_true(send_some(fd, &sent, SIZE_MAX, SIZE_MAX));
	struct io *io = atomic_load(&s->io);
	size_t taken = io_stats(io)->recv_bytes;
	assert_true(taken >= INPUT_MAX_BYTES);
	assert_true(taken <= INPUT_MAX_BYTES + 2 * (size_t)BUFFERS * BUFFER_BYTES);
	assert_true(sent > taken);
	/* Resumed, everything comes, in order. */
	atomic_fetch_add(&s->mail, 1);
	wake(s);
	pump(fd, sent, sent, 0);
	(void)close(fd);
	server_end(s);
}

static void test_io_answers_clients_beyond_the_limit(void **state)
{
	(void)state;
	struct server *s = server_prepare(ECHO);
	s->cfg.max_links = 2;
	server_start(s);
	int a = client_new(s), b = client_new(s);
	pump(a, 0, 100, SIZE_MAX);
	pump(b, 0, 100, SIZE_MAX);
	int c = client_new(s);
	uint8_t reply[64];
	size_t n = read_to_end(c, reply, sizeof reply);
	assert_int_equal(n, strlen(FULL_REPLY));
	assert_memory_equal(reply, FULL_REPLY, n);
	assert_int_equal(io_stats(atomic_load(&s->io))->refused, 1);
	(void)close(c);
	/* A place that became free is given away again. */
	(void)close(a);
	wait_for_count(&s->closes, 1);
	a = client_new(s);
	pump(a, 0, 100, SIZE_MAX);
	(void)close(a);
	(void)close(b);
	server_end(s);
}

static void test_io_accepts_again_when_descriptors_are_back(void **state)
{
	(void)state;
	enum { FILES = 256, STILL_MS = 50 };
	struct rlimit usual;
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &usual), 0);
	/* The kernel notes the limit when the accept is armed: lower it before. */
	const struct rlimit few = {.rlim_cur = FILES, .rlim_max = usual.rlim_max};
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
	struct server *s = server_new(ECHO);
	int clients[2] = {socket(AF_INET, SOCK_STREAM, 0), socket(AF_INET, SOCK_STREAM, 0)};
	struct sockaddr_in in;
	socklen_t len = sizeof in;
	assert_int_equal(getsockname(s->cfg.listen_fd, (struct sockaddr *)&in, &len), 0);
	int spare[FILES];
	unsigned n = 0;
	while (n < FILES && (spare[n] = dup(s->wake_fds[0])) >= 0)
		n++;
	assert_true(n > 0 && n < FILES);
	for (int i = 0; i < 2; i++)
		assert_int_equal(connect(clients[i], (struct sockaddr *)&in, len), 0);
	(void)usleep(STILL_MS * 1000);
	assert_int_equal(atomic_load(&s->opens), 0);
	while (n > 0)
		(void)close(spare[--n]);
	for (int i = 0; i < 2; i++) {
		pump(clients[i], 0, 1000, SIZE_MAX);
		(void)close(clients[i]);
	}
	server_end(s);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &usual), 0);
}

/* ---- closing ---- */

static void test_io_sends_what_a_refusing_handler_said(void **state)
{
	(void)state;
	struct server *s = server_new(REFUSE);
	int fd = client_new(s);
	uint8_t reply[64];
	assert_int_equal(read_to_end(fd, reply, sizeof reply), 3);
	assert_memory_equal(reply, "no\n", 3);
	(void)close(fd);
	wait_for_count(&s->closes, 1);
	server_end(s);
}

static void test_io_flushes_before_it_closes(void **state)
{
	(void)state;
	struct server *s = server_prepare(LAST_WORDS);
	s->cfg.client_buffers = 4;
	server_start(s);
	int fd = client_new(s);
	/* More than the server receives, which must not cost us its answer. */
	static const uint8_t question[10 * BUFFER_BYTES];
	assert_int_equal(send(fd, question, sizeof question, MSG_NOSIGNAL), sizeof question);
	assert_int_equal(read_to_end(fd, NULL, 0), 200000);
	(void)close(fd);
	server_end(s);
}

static void test_io_answers_a_client_that_half_closes(void **state)
{
	(void)state;
	struct server *s = server_new(ECHO);
	int fd = client_new(s);
	uint8_t reply[16];
	assert_int_equal(send(fd, "hello", 5, MSG_NOSIGNAL), 5);
	assert_int_equal(shutdown(fd, SHUT_WR), 0);
	assert_int_equal(read_to_end(fd, reply, sizeof reply), 5);
	assert_memory_equal(reply, "hello", 5);
	(void)close(fd);
	wait_for_count(&s->closes, 1);
	server_end(s);
}

static void test_io_closes_while_data_is_in_flight(void **state)
{
	(void)state;
	/* More lives than slots, so that slots with cut requests are used again. */
	enum { CLIENTS = 30, STEPS = 20, ROUNDS = 15 };
	struct server *s = server_prepare(CUT);
	s->cfg.max_links = CLIENTS;
	server_start(s);
	for (unsigned round = 1; round <= ROUNDS; round++) {
		int fds[CLIENTS];
		size_t sent[CLIENTS] = {0};
		for (int i = 0; i < CLIENTS; i++)
			fds[i] = client_new(s);
		for (int k = 0; k < STEPS; k++)
			for (int i = 0; i < CLIENTS; i++)
				(void)send_some(fds[i], &sent[i], SIZE_MAX, SIZE_MAX);
		wait_for_count(&s->closes, round * CLIENTS);
		for (int i = 0; i < CLIENTS; i++)
			(void)close(fds[i]);
	}
	server_end(s);
}

/* Few slots, many short lives that end abruptly with bytes in both directions under way: no stream
 * may see a byte of another. */
static void test_io_reuses_slots_without_mixing_streams(void **state)
{
	(void)state;
	enum { LIVES = 300 };
	struct server *s = server_prepare(TAGGED);
	s->cfg.max_links = 4;
	server_start(s);
	for (int i = 0; i < LIVES; i++) {
		uint8_t mine[8000];
		memset(mine, i, sizeof mine);
		int fd = client_new(s);
		(void)!send(fd, mine, sizeof mine, MSG_NOSIGNAL);
		if (i % 3 == 0) {
			uint8_t back;
			assert_true(wait_for(fd, POLLIN));
			if (recv(fd, &back, 1, 0) == 1)
				assert_true(back == (uint8_t)i || back == '-');
		}
		struct linger reset = {.l_onoff = i % 2, .l_linger = 0};
		assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset), 0);
		(void)close(fd);
	}
	server_end(s);
}

static unsigned open_files(void)
{
	unsigned n = 0;
	DIR *d = opendir("/proc/self/fd");
	assert_non_null(d);
	while (readdir(d) != NULL)
		n++;
	(void)closedir(d);
	return n;
}

static void test_io_stop_with_100_connections_leaks_nothing(void **state)
{
	(void)state;
	enum { CLIENTS = 100 };
	unsigned before = open_files();
	struct server *s = server_new(ECHO);
	int fds[CLIENTS];
	for (int i = 0; i < CLIENTS; i++) {
		fds[i] = client_new(s);
		size_t sent = 0;
		assert_true(send_some(fds[i], &sent, 5000, SIZE_MAX));
	}
	wait_for_count(&s->opens, CLIENTS);
	server_end(s);
	for (int i = 0; i < CLIENTS; i++)
		(void)close(fds[i]);
	assert_int_equal(open_files(), before);
}

/* ---- the rest ---- */

static void test_io_adopts_a_peer(void **state)
{
	(void)state;
	struct server *s = server_prepare(ECHO);
	int fds[2];
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
	s->adopt_fd = fds[1];
	server_start(s);
	pump(fds[0], 0, 300 * KB, SIZE_MAX);
	(void)close(fds[0]);
	wait_for_count(&s->closes, 1);
	server_end(s);
}

static void test_io_wakes_from_another_thread(void **state)
{
	(void)state;
	enum { TIMES = 50 };
	struct server *s = server_new(ECHO);
	for (unsigned i = 1; i <= TIMES; i++) {
		atomic_store(&s->mail, i);
		wake(s);
		wait_for_count(&s->mail_seen, i);
		/* And it wakes others. */
		uint64_t wakes;
		assert_true(wait_for(s->wake_fds[1], POLLIN));
		assert_int_equal(read(s->wake_fds[1], &wakes, sizeof wakes), sizeof wakes);
		assert_int_equal(wakes, 1);
	}
	server_end(s);
}

static void test_io_describes_itself(void **state)
{
	(void)state;
	struct server *s = server_new(ECHO);
	assert_non_null(strstr(io_describe(atomic_load(&s->io)), "io_uring sq 1024 cq 16384"));
	server_end(s);
}

/* ---- addresses ---- */

static void test_io_listen_names_a_port_in_use(void **state)
{
	(void)state;
	/* Somebody else, who would share. */
	int other = socket(AF_INET, SOCK_STREAM, 0);
	int one = 1;
	struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	assert_int_equal(setsockopt(other, SOL_SOCKET, SO_REUSEPORT, &one, sizeof one), 0);
	assert_int_equal(bind(other, (struct sockaddr *)&in, sizeof in), 0);
	assert_int_equal(listen(other, 1), 0);
	char addr[64], why[256];
	io_local_address(other, addr, sizeof addr);
	for (int reuse = 0; reuse < 2; reuse++) {
		int fd = -1;
		why[0] = '\0';
		assert_int_equal(io_listen(addr, reuse == 1, &fd, why, sizeof why), -EADDRINUSE);
		assert_int_equal(fd, -1);
		assert_non_null(strstr(why, addr));
		assert_non_null(strstr(why, "in use"));
	}
	(void)close(other);
}

static void test_io_listen_lets_threads_share_a_port(void **state)
{
	(void)state;
	char addr[64], why[256];
	int a, b, c;
	/* A port that was free a moment ago. */
	assert_int_equal(io_listen("127.0.0.1:0", false, &a, why, sizeof why), 0);
	io_local_address(a, addr, sizeof addr);
	(void)close(a);
	assert_int_equal(io_listen(addr, true, &a, why, sizeof why), 0);
	assert_int_equal(io_listen(addr, true, &b, why, sizeof why), 0);
	assert_int_equal(io_listen(addr, false, &c, why, sizeof why), -EADDRINUSE);
	(void)close(a);
	(void)close(b);
}

static void test_io_listen_refuses_bad_addresses(void **state)
{
	static const struct {
		const char *address;
		int err;
	} bad[] = {
		{"", -EINVAL}, {"nonsense", -EINVAL}, {"127.0.0.1", -EINVAL},
		{"127.0.0.1:", -EINVAL}, {"127.0.0.1:65536", -EINVAL},
		{"127.0.0.1:99999999999", -EINVAL}, {"127.0.0.1:-1", -EINVAL},
		{"127.0.0.1:7x", -EINVAL}, {"::1:80", -EINVAL}, {"[::1:80", -EINVAL},
		{"[]:80", -EINVAL}, {"no such host:80", -ENOENT},
		{"192.0.2.1:80", -EADDRNOTAVAIL}, /* RFC 5737: nobody's */
	};
	(void)state;
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		int fd = -1;
		char why[256] = "";
		int err = io_listen(bad[i].address, true, &fd, why, sizeof why);
		if (err != bad[i].err)
			fail_msg("%s: %d (%s)", bad[i].address, err, why);
		assert_int_equal(fd, -1);
		assert_non_null(strstr(why, bad[i].address));
	}
	char host[400];
	memset(host, 'h', sizeof host);
	(void)snprintf(host + 300, sizeof host - 300, ":1");
	int fd;
	char why[256];
	assert_int_equal(io_connect(host, &fd, why, sizeof why), -EINVAL);
}

static void test_io_listen_knows_names_and_ipv6(void **state)
{
	static const char *const good[] = {"localhost:0", ":0", "[::1]:0"};
	(void)state;
	int probe = socket(AF_INET6, SOCK_STREAM, 0);
	struct sockaddr_in6 in6 = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
	bool ipv6 = probe >= 0 && bind(probe, (struct sockaddr *)&in6, sizeof in6) == 0;
	if (probe >= 0)
		(void)close(probe);
	for (size_t i = 0; i < sizeof good / sizeof good[0] - (ipv6 ? 0 : 1); i++) {
		int fd;
		char why[256] = "", addr[64];
		if (io_listen(good[i], true, &fd, why, sizeof why) != 0)
			fail_msg("%s", why);
		io_local_address(fd, addr, sizeof addr);
		const char *colon = strrchr(addr, ':');
		assert_non_null(colon);
		assert_true(atoi(colon + 1) > 0);
		(void)close(fd);
	}
}

/* ---- what is said when io_uring is not to be had; in a child that gives it up ---- */

static int deny_io_uring(unsigned answer)
{
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | answer),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	const struct sock_fprog program = {
		.len = sizeof filter / sizeof filter[0], .filter = filter};
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
		return -1;
	return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}

static int give_up_locked_memory(unsigned unused)
{
	(void)unused;
	const struct rlimit none = {0};
	const uid_t nobody = 65534;
	if (setrlimit(RLIMIT_MEMLOCK, &none) != 0)
		return -1;
	/* Root's memory is not counted. */
	return geteuid() == 0 ? setresuid(nobody, nobody, nobody) : 0;
}

/* 0: as expected, EXIT_SKIP: not possible here, else wrong. */
static int probe_in_child(int (*give_up)(unsigned), unsigned arg, int want, const char *text)
{
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		char why[256] = "";
		if (give_up(arg) != 0)
			_exit(EXIT_SKIP);
		int err = io_probe(why, sizeof why);
		if (err == 0)
			_exit(EXIT_SKIP);
		_exit(err == want && strstr(why, text) != NULL ? 0 : 1);
	}
	int status = 0;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

static void check_child(int (*give_up)(unsigned), unsigned arg, int want, const char *text)
{
	int code = probe_in_child(give_up, arg, want, text);
	if (code == EXIT_SKIP) {
		print_message("skipped: this system does not let us give it up\n");
		skip();
	}
	assert_int_equal(code, 0);
}

static void test_io_probe_names_seccomp_on_eperm(void **state)
{
	(void)state;
	check_child(deny_io_uring, EPERM, -EPERM, "425");
}

static void test_io_probe_names_the_kernel_on_enosys(void **state)
{
	(void)state;
	check_child(deny_io_uring, ENOSYS, -ENOSYS, "Linux 6.1");
}

static void test_io_probe_steps_down_and_gives_up_on_einval(void **state)
{
	(void)state;
	check_child(deny_io_uring, EINVAL, -EINVAL, "too old");
}

static void test_io_probe_names_the_limit_on_emfile(void **state)
{
	(void)state;
	check_child(deny_io_uring, EMFILE, -EMFILE, "RLIMIT_NOFILE");
}

static void test_io_probe_names_the_limit_on_enomem(void **state)
{
	(void)state;
	check_child(give_up_locked_memory, 0, -ENOMEM, "RLIMIT_MEMLOCK is 0 KiB");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_io_joins_fragments_of_one_byte),
		cmocka_unit_test(test_io_carries_200_kb_both_ways),
		cmocka_unit_test(test_io_resends_the_rest_with_tiny_socket_buffers),
		cmocka_unit_test(test_io_serves_many_connections),
		cmocka_unit_test(test_io_survives_a_storm_on_four_buffers),
		cmocka_unit_test(test_io_survives_a_completion_queue_of_eight),
		cmocka_unit_test(test_io_spins_and_still_serves),
		cmocka_unit_test(test_io_keeps_the_rest_of_a_short_send),
		cmocka_unit_test(test_io_lets_the_handler_drop_a_slow_reader),
		cmocka_unit_test(test_io_closes_a_link_whose_input_is_never_used),
		cmocka_unit_test(test_io_keeps_order_over_pause_and_resume),
		cmocka_unit_test(test_io_stops_receiving_while_paused),
		cmocka_unit_test(test_io_answers_clients_beyond_the_limit),
		cmocka_unit_test(test_io_accepts_again_when_descriptors_are_back),
		cmocka_unit_test(test_io_sends_what_a_refusing_handler_said),
		cmocka_unit_test(test_io_flushes_before_it_closes),
		cmocka_unit_test(test_io_answers_a_client_that_half_closes),
		cmocka_unit_test(test_io_closes_while_data_is_in_flight),
		cmocka_unit_test(test_io_reuses_slots_without_mixing_streams),
		cmocka_unit_test(test_io_stop_with_100_connections_leaks_nothing),
		cmocka_unit_test(test_io_adopts_a_peer),
		cmocka_unit_test(test_io_wakes_from_another_thread),
		cmocka_unit_test(test_io_describes_itself),
		cmocka_unit_test(test_io_listen_names_a_port_in_use),
		cmocka_unit_test(test_io_listen_lets_threads_share_a_port),
		cmocka_unit_test(test_io_listen_refuses_bad_addresses),
		cmocka_unit_test(test_io_listen_knows_names_and_ipv6),
		cmocka_unit_test(test_io_probe_names_seccomp_on_eperm),
		cmocka_unit_test(test_io_probe_names_the_kernel_on_enosys),
		cmocka_unit_test(test_io_probe_steps_down_and_gives_up_on_einval),
		cmocka_unit_test(test_io_probe_names_the_limit_on_emfile),
		cmocka_unit_test(test_io_probe_names_the_limit_on_enomem),
	};
	char why[256];
	int err = io_probe(why, sizeof why);
	if (err == -EPERM || err == -ENOSYS) {
		(void)fprintf(stderr, "skipped: %s\n", why);
		return EXIT_SKIP;
	}
	return cmocka_run_group_tests_name("io", tests, NULL, NULL);
}
