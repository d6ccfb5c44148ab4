#include <errno.h>
#include <netdb.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "client/internal.h"

enum {
	EVENTS_PER_WAIT = 64,
	CONNECT_DEFAULT_MS = 1000,
	ANSWER_DEFAULT_MS = 3000,
	CALL_DEFAULT_MS = 10000,
	TIMEOUT_MAX_MS = 24 * 3600 * 1000,
};

/* ---- time ---- */

void client_clock_read(void *context, struct instant *ret)
{
	struct timespec boot, raw;

	clock_gettime(CLOCK_BOOTTIME, &boot);
	clock_gettime(CLOCK_MONOTONIC_RAW, &raw);
	ret->boot_ns = (int64_t)boot.tv_sec * 1000000000 + boot.tv_nsec;
	ret->raw_ns = (int64_t)raw.tv_sec * 1000000000 + raw.tv_nsec;
}

void client_tick(struct locker_client *c)
{
	struct instant now;

	c->clock.read(c->clock.context, &now);
	int64_t boot_ns = now.boot_ns - c->now.boot_ns, raw_ns = now.raw_ns - c->now.raw_ns;
	int64_t passed_ns = boot_ns > raw_ns ? boot_ns : raw_ns;
	if (passed_ns > 0)
		c->now_ns += passed_ns;
	c->now = now;
}

static int64_t next_time(const struct locker_client *c)
{
	if (!list_empty(&c->callbacks))
		return c->now_ns;
	return c->timers.n > 0 ? c->timers.at[1]->at_ns : NEVER_NS;
}

/* -1: never. Rounded up, so that nobody spins until the time has come. */
static int timeout_ms(const struct locker_client *c, int64_t at_ns)
{
	if (at_ns == NEVER_NS)
		return -1;
	int64_t left_ns = at_ns - c->now_ns;
	if (left_ns <= 0)
		return 0;
	int64_t ms = (left_ns + NS_PER_MS - 1) / NS_PER_MS;
	return ms > 60000 ? 60000 : (int)ms;
}

/* ---- the mutex ---- */

void client_lock(struct locker_client *c)
{
	pthread_mutex_lock(&c->mutex);
	client_tick(c);
}

static void wake(struct locker_client *c)
{
	uint64_t one = 1;

	(void)!write(c->wake_fd, &one, sizeof one);
}

static void flush_all(struct locker_client *c)
{
	for (struct list *l = c->conns.next; l != &c->conns;) {
		struct conn *conn = container_of(l, struct conn, link);
		conn_flush(conn);
		/* One that has failed has left the list, and its requests are with others. */
		l = conn->state == CONN_DEAD ? c->conns.next : conn->link.next;
	}
}

void client_unlock(struct locker_client *c)
{
	flush_all(c);
	bool someone_sleeps = c->driving ? c->asleep : !c->has_thread;
	if (someone_sleeps && next_time(c) < c->sleep_until_ns) {
		c->sleep_until_ns = 0; /* once is enough */
		wake(c);
	}
	pthread_mutex_unlock(&c->mutex);
}

/* ---- callbacks ---- */

void client_callback(struct locker_client *c, struct callback *cb)
{
	list_add_tail(&c->callbacks, &cb->link);
}

void client_wait_callback(struct locker_client *c, struct callback *cb)
{
	while (c->called == cb && !client_in_callback(c))
		pthread_cond_wait(&c->changed, &c->mutex);
	list_remove(&cb->link);
}

bool client_in_callback(const struct locker_client *c)
{
	return c->calling && pthread_equal(c->caller, pthread_self());
}

/* Those that are waiting now: one that always brings another must not keep the locks from being
 * extended. */
static void run_callbacks(struct locker_client *c)
{
	struct list batch;

	list_init(&batch);
	while (!list_empty(&c->callbacks)) {
		struct list *l = c->callbacks.next;
		list_remove(l);
		list_add_tail(&batch, l);
	}
	while (!list_empty(&batch)) {
		struct callback *cb = container_of(batch.next, struct callback, link);

		list_remove(&cb->link);
		c->calling = true;
		c->caller = pthread_self();
		c->called = cb;
		client_unlock(c);
		cb->run(cb);
		client_lock(c);
		c->calling = false;
		c->called = NULL;
		pthread_cond_broadcast(&c->changed);
	}
}

/* ---- driving ---- */

static void handle_events(struct locker_client *c, const struct epoll_event *events, int n)
{
	for (int i = 0; i < n; i++) {
		struct conn *conn = events[i].data.ptr;
		uint64_t count;

		if (conn)
			conn_events(conn, events[i].events);
		else
			(void)!read(c->wake_fd, &count, sizeof count);
	}
}

static void fire_timers(struct locker_client *c)
{
	/* Timers set meanwhile for now or earlier wait for the next round. */
	int64_t now_ns = c->now_ns;

	for (size_t budget = c->timers.n; budget > 0 && c->timers.n > 0; budget--) {
		struct timer *t = c->timers.at[1];
		if (t->at_ns > now_ns)
			break;
		timer_cancel(&c->timers, t);
		t->fire(c, t);
	}
}

static int wait_events(struct locker_client *c, int ms, struct epoll_event *events)
{
	c->asleep = ms != 0;
	pthread_mutex_unlock(&c->mutex);
	int n = epoll_wait(c->epoll_fd, events, EVENTS_PER_WAIT, ms);
	client_lock(c);
	c->asleep = false;
	return n;
}

/* One round; waits for at most @max_ms (-1: no bound). @c->driving is set by the caller. */
static void drive(struct locker_client *c, int max_ms)
{
	struct epoll_event events[EVENTS_PER_WAIT];

	flush_all(c);
	c->sleep_until_ns = next_time(c);
	int ms = timeout_ms(c, c->sleep_until_ns);
	if (max_ms >= 0 && (ms < 0 || ms > max_ms))
		ms = max_ms;
	handle_events(c, events, wait_events(c, ms, events));
	/* A process that was stopped finds answers and times that are over: answers count first.
	 */
	if (c->timers.n > 0 && c->timers.at[1]->at_ns <= c->now_ns) {
		handle_events(c, events, wait_events(c, 0, events));
		fire_timers(c);
	}
	flush_all(c);
	run_callbacks(c);
	conn_free_dead(c);
}

static void stop_driving(struct locker_client *c)
{
	c->driving = false;
	c->sleep_until_ns = NEVER_NS;
	pthread_cond_broadcast(&c->changed);
}

void client_wait(struct locker_client *c, const bool *done)
{
	while (!*done) {
		if (c->driving || c->has_thread) {
			flush_all(c);
			if (*done)
				break;
			if (c->asleep && next_time(c) < c->sleep_until_ns)
				wake(c);
			pthread_cond_wait(&c->changed, &c->mutex);
			client_tick(c);
			continue;
		}
		c->driving = true;
		drive(c, -1);
		stop_driving(c);
	}
}

static void *thread_main(void *context)
{
	struct locker_client *c = context;

	client_lock(c);
	c->driving = true;
	while (!c->closing)
		drive(c, -1);
	stop_driving(c);
	pthread_mutex_unlock(&c->mutex);
	return NULL;
}

int locker_fd(struct locker_client *client)
{
	return client->epoll_fd;
}

enum locker_outcome locker_process(struct locker_client *client)
{
	enum locker_outcome outcome = LOCKER_USAGE;

	client_lock(client);
	if (!client->has_thread && !client->driving) {
		client->driving = true;
		drive(client, 0);
		stop_driving(client);
		/* The caller asks for it; only what is due before that is worth a wake-up. */
		client->sleep_until_ns = next_time(client);
		outcome = LOCKER_OK;
	}
	client_unlock(client);
	return outcome;
}

int locker_next_timeout_ms(struct locker_client *client)
{
	client_lock(client);
	int ms = timeout_ms(client, next_time(client));
	if (!client->driving)
		client->sleep_until_ns = next_time(client);
	client_unlock(client);
	return ms;
}

/* ---- making and freeing ---- */

static bool is_printable(const char *text, size_t max)
{
	size_t n = strlen(text);

	for (size_t i = 0; i < n; i++)
		if (text[i] < '!' || text[i] > '~')
			return false;
	return n > 0 && n <= max;
}

static bool take_timeout(int64_t ms, int64_t default_ms, int64_t *ret_ns)
{
	*ret_ns = (ms == 0 ? default_ms : ms) * NS_PER_MS;
	return ms >= 0 && ms <= TIMEOUT_MAX_MS;
}

static bool take_options(struct locker_client *c, const struct locker_client_options *o)
{
	const char *name = o->client_name ? o->client_name : "liblocker";

	if (!is_printable(name, CLIENT_NAME_MAX_BYTES))
		return false;
	(void)snprintf(c->name, sizeof c->name, "%s", name);
	if (o->value_prefix && strlen(o->value_prefix) > LOCKER_VALUE_PREFIX_MAX_BYTES)
		return false;
	(void)snprintf(c->prefix, sizeof c->prefix, "%s%s",
		o->value_prefix ? o->value_prefix : c->name, o->value_prefix ? "" : ":");
	return take_timeout(o->connect_timeout_ms, CONNECT_DEFAULT_MS, &c->connect_ns) &&
	       take_timeout(o->answer_timeout_ms, ANSWER_DEFAULT_MS, &c->answer_ns) &&
	       take_timeout(o->call_timeout_ms, CALL_DEFAULT_MS, &c->call_ns);
}

/* LOCKER_OK; LOCKER_USAGE: no such list. */
static enum locker_outcome take_nodes(struct locker_client *c, const char *list)
{
	char address[ADDRESS_MAX_BYTES], *host, *port;
	bool fits;

	c->nodes = calloc(LOCKER_NODES_MAX, sizeof *c->nodes);
	if (!c->nodes)
		return LOCKER_MEMORY;
	while (address_next(&list, address, sizeof address, &fits)) {
		if (!fits || c->n_nodes == LOCKER_NODES_MAX)
			return LOCKER_USAGE;
		memcpy(c->nodes[c->n_nodes++].address, address, sizeof address);
		if (!address_split(address, &host, &port))
			return LOCKER_USAGE;
	}
	return c->n_nodes > 0 ? LOCKER_OK : LOCKER_USAGE;
}

static void destroy(struct locker_client *c)
{
	conn_free_dead(c);
	for (size_t i = 0; i < c->n_nodes; i++)
		if (c->nodes[i].found)
			freeaddrinfo(c->nodes[i].found);
	free(c->nodes);
	free(c->timers.at);
	if (c->epoll_fd >= 0)
		close(c->epoll_fd);
	if (c->wake_fd >= 0)
		close(c->wake_fd);
	pthread_cond_destroy(&c->changed);
	pthread_mutex_destroy(&c->mutex);
	free(c);
}

/* With all signals blocked: they are the program's, and its threads' to handle. */
static int start_thread(struct locker_client *c)
{
	sigset_t all, before;

	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, &before);
	c->has_thread = true;
	int r = pthread_create(&c->thread, NULL, thread_main, c);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (r != 0)
		c->has_thread = false;
	return -r;
}

static bool open_descriptors(struct locker_client *c)
{
	struct epoll_event wake_event = {.events = EPOLLIN};

	c->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	c->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	return c->epoll_fd >= 0 && c->wake_fd >= 0 &&
	       epoll_ctl(c->epoll_fd, EPOLL_CTL_ADD, c->wake_fd, &wake_event) == 0;
}

static void linger_over(struct locker_client *c, struct timer *t)
{
	c->given_back = true;
	pthread_cond_broadcast(&c->changed);
}

/* To close a connection with answers unread would take back what was sent. */
static void linger(struct locker_client *c)
{
	c->given_back = c->background == 0;
	timer_set(&c->timers, &c->linger, c->now_ns + c->connect_ns);
	client_wait(c, &c->given_back);
	timer_cancel(&c->timers, &c->linger);
}

enum locker_outcome client_new(const struct locker_client_options *options,
	struct client_clock clock, struct locker_client **ret)
{
	struct locker_client *c = calloc(1, sizeof *c);

	if (!c)
		return LOCKER_MEMORY;
	pthread_mutex_init(&c->mutex, NULL);
	pthread_cond_init(&c->changed, NULL);
	list_init(&c->conns);
	list_init(&c->callbacks);
	c->epoll_fd = c->wake_fd = -1;
	c->clock = clock;
	c->clock.read(c->clock.context, &c->now);
	c->sleep_until_ns = NEVER_NS;
	c->linger.fire = linger_over;
	enum locker_outcome outcome =
		take_options(c, options) ? take_nodes(c, options->nodes) : LOCKER_USAGE;
	if (outcome == LOCKER_OK && !open_descriptors(c))
		outcome = LOCKER_MEMORY;
	if (outcome == LOCKER_OK && timer_reserve(&c->timers) < 0)
		outcome = LOCKER_MEMORY;
	if (outcome == LOCKER_OK && !options->own_loop && start_thread(c) < 0)
		outcome = LOCKER_MEMORY;
	if (outcome == LOCKER_OK)
		*ret = c;
	else
		destroy(c);
	return outcome;
}

enum locker_outcome locker_client_new(
	const struct locker_client_options *options, struct locker_client **ret)
{
	if (!options || !options->nodes || !ret)
		return LOCKER_USAGE;
	return client_new(options, (struct client_clock){.read = client_clock_read}, ret);
}

enum locker_outcome locker_client_free(struct locker_client *client)
{
	if (!client)
		return LOCKER_OK;
	client_lock(client);
	if (client->owned > 0 || client_in_callback(client)) {
		client_unlock(client);
		return LOCKER_USAGE;
	}
	linger(client);
	client->closing = true;
	wake(client);
	client_unlock(client);
	if (client->has_thread)
		pthread_join(client->thread, NULL);
	client_lock(client);
	client->has_thread = false;
	while (!list_empty(&client->conns))
		conn_end(container_of(client->conns.next, struct conn, link));
	while (!list_empty(&client->callbacks))
		run_callbacks(client);
	pthread_mutex_unlock(&client->mutex);
	destroy(client);
	return LOCKER_OK;
}

void locker_client_node(struct locker_client *client, char *ret, size_t bytes)
{
	client_lock(client);
	(void)snprintf(ret, bytes, "%s", client->nodes[client->preferred].address);
	client_unlock(client);
}
