#include "io_world.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

/* ---- the server under test, on a thread of its own ---- */

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

struct server *server_prepare(enum mode mode)
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

void server_start(struct server *s)
{
	assert_int_equal(pthread_create(&s->thread, NULL, serve, s), 0);
	assert_int_equal(sem_wait(&s->ready), 0);
	if (atomic_load(&s->io) == NULL)
		fail_msg("%s", s->why);
}

struct server *server_new(enum mode mode)
{
	struct server *s = server_prepare(mode);
	server_start(s);
	return s;
}

void wake(const struct server *s)
{
	const uint64_t one = 1;
	assert_int_equal(write(s->wake_fds[0], &one, sizeof one), sizeof one);
}

void server_end(struct server *s)
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

int client_new(const struct server *s)
{
	int fd;
	char why[256];
	assert_int_equal(io_connect(s->addr, &fd, why, sizeof why), 0);
	struct pollfd p = {.fd = fd, .events = POLLOUT};
	assert_int_equal(poll(&p, 1, PATIENCE_S * 1000), 1);
	return fd;
}

bool wait_for(int fd, short events)
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

bool send_some(int fd, size_t *sent, size_t total, size_t step)
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

bool receive_some(int fd, size_t *got)
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

void pump(int fd, size_t sent, size_t total, size_t step)
{
	size_t got = 0;
	while (got < total) {
		assert_true(wait_for(fd, (short)(POLLIN | (sent < total ? POLLOUT : 0))));
		assert_true(send_some(fd, &sent, total, step));
		assert_true(receive_some(fd, &got));
	}
}

size_t read_to_end(int fd, uint8_t *ret, size_t bytes)
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

void wait_for_count(_Atomic unsigned *n, unsigned want)
{
	for (int tries = 0; atomic_load(n) != want; tries++) {
		assert_true(tries < PATIENCE_S * 1000);
		(void)usleep(1000);
	}
}

bool has_io_uring(void)
{
	char why[256];
	int err = io_probe(why, sizeof why);
	if (err != -EPERM && err != -ENOSYS)
		return true;
	(void)fprintf(stderr, "skipped: %s\n", why);
	return false;
}
