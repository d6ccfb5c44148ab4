/* A Redlock client over independent Redis servers, as its published description has it: SET NX PX
 * to all of them at once, held with a majority within the time the lease leaves, then the
 * compare-and-delete script to all of them.
 * Source: https://redis.io/docs/latest/develop/use/patterns/distributed-locks/
 *
 * Every logical client has a connection of its own to each server and waits for all answers. */
#include <errno.h>
#include <fcntl.h>
#include <hiredis/hiredis.h>
#include <inttypes.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#include "base/prng.h"
#include "histogram.h"

enum {
	SERVERS_MAX = 9,
	EVENTS = 256,
	/* Redlock: what clocks may drift apart is taken off the lease, 1 % and 2 ms. */
	DRIFT_DIVISOR = 100,
	DRIFT_MS = 2,
};

static const char unlock_script[] = "if redis.call(\"get\",KEYS[1]) == ARGV[1] then "
				    "return redis.call(\"del\",KEYS[1]) else return 0 end";

enum phase { PHASE_LOCK, PHASE_UNLOCK };

struct client;

struct link {
	redisContext *redis;
	struct client *client;
	bool wants_write;
};

struct client {
	unsigned number;
	enum phase phase;
	unsigned waiting; /* answers due */
	unsigned yes;
	uint64_t started_ns;
	char key[32];
	char value[32];
	struct link links[SERVERS_MAX];
};

struct bench {
	unsigned n_servers;
	char *servers[SERVERS_MAX];
	char digest[48];
	unsigned n_clients;
	uint64_t keys;
	uint32_t ttl_ms;
	double seconds;
	int epoll;
	struct prng prng;
	struct client *clients;
	uint64_t granted, refused, unlocked, errors;
	struct histogram lock, unlock;
	bool draining;
	unsigned busy;
};

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static _Noreturn void die(const char *what, const char *why)
{
	fprintf(stderr, "redlock-bench: %s: %s\n", what, why);
	exit(1);
}

static void link_flush(struct bench *b, struct link *l)
{
	int done = 0;

	if (redisBufferWrite(l->redis, &done) == REDIS_ERR)
		die("write", l->redis->errstr);
	if (l->wants_write == !done)
		return;
	l->wants_write = !done;
	struct epoll_event e = {.events = EPOLLIN | (done ? 0 : EPOLLOUT), .data.ptr = l};
	if (epoll_ctl(b->epoll, EPOLL_CTL_MOD, l->redis->fd, &e) < 0)
		die("epoll_ctl", strerror(errno));
}

static void ask_all(struct bench *b, struct client *c, enum phase phase)
{
	char ttl[16];
	const char *lock[] = {"SET", c->key, c->value, "NX", "PX", ttl};
	const char *unlock[] = {"EVALSHA", b->digest, "1", c->key, c->value};

	snprintf(ttl, sizeof ttl, "%" PRIu32, b->ttl_ms);
	c->phase = phase;
	c->waiting = b->n_servers;
	c->yes = 0;
	c->started_ns = now_ns();
	for (unsigned i = 0; i < b->n_servers; i++) {
		int r = phase == PHASE_LOCK
				? redisAppendCommandArgv(c->links[i].redis, 6, lock, NULL)
				: redisAppendCommandArgv(c->links[i].redis, 5, unlock, NULL);
		if (r != REDIS_OK)
			die("command", c->links[i].redis->errstr);
		link_flush(b, &c->links[i]);
	}
}

static void begin(struct bench *b, struct client *c)
{
	if (b->draining) {
		b->busy--;
		return;
	}
	snprintf(c->key, sizeof c->key, "k%015" PRIu64, prng_below(&b->prng, b->keys));
	snprintf(c->value, sizeof c->value, "%04x%012" PRIx64, c->number & 0xFFFF,
		prng_next(&b->prng) >> 16);
	ask_all(b, c, PHASE_LOCK);
}

/* All servers have answered. */
static void step(struct bench *b, struct client *c)
{
	uint64_t took_ns = now_ns() - c->started_ns;
	uint64_t drift_ms = b->ttl_ms / DRIFT_DIVISOR + DRIFT_MS;

	if (c->phase == PHASE_UNLOCK) {
		histogram_add(&b->unlock, took_ns);
		b->unlocked += c->yes > b->n_servers / 2;
		begin(b, c);
		return;
	}
	histogram_add(&b->lock, took_ns);
	if (c->yes > b->n_servers / 2 && took_ns / 1000000 + drift_ms < b->ttl_ms)
		b->granted++;
	else
		b->refused++;
	/* Not granted: what was taken has to be given back as well. */
	ask_all(b, c, PHASE_UNLOCK);
}

static void on_reply(struct bench *b, struct client *c, const redisReply *r)
{
	if (r->type == REDIS_REPLY_ERROR)
		b->errors++;
	else if (c->phase == PHASE_LOCK)
		c->yes += r->type == REDIS_REPLY_STATUS;
	else
		c->yes += r->type == REDIS_REPLY_INTEGER && r->integer == 1;
	if (--c->waiting == 0)
		step(b, c);
}

static void on_event(struct bench *b, struct link *l, uint32_t events)
{
	void *reply;

	if (events & EPOLLOUT)
		link_flush(b, l);
	if (!(events & ~(uint32_t)EPOLLOUT))
		return;
	if (redisBufferRead(l->redis) != REDIS_OK)
		die("read", l->redis->errstr);
	while (redisGetReplyFromReader(l->redis, &reply) == REDIS_OK && reply) {
		on_reply(b, l->client, reply);
		freeReplyObject(reply);
	}
	if (l->redis->err)
		die("reply", l->redis->errstr);
}

static void open_links(struct bench *b)
{
	b->clients = calloc(b->n_clients, sizeof *b->clients);
	if (!b->clients)
		die("start", "out of memory");
	for (unsigned i = 0; i < b->n_clients * b->n_servers; i++) {
		struct client *c = &b->clients[i / b->n_servers];
		struct link *l = &c->links[i % b->n_servers];
		char host[128];
		const char *colon = strrchr(b->servers[i % b->n_servers], ':');

		if (!colon)
			die(b->servers[i % b->n_servers], "not HOST:PORT");
		snprintf(host, sizeof host, "%.*s", (int)(colon - b->servers[i % b->n_servers]),
			b->servers[i % b->n_servers]);
		c->number = i / b->n_servers;
		l->client = c;
		l->redis = redisConnect(host, atoi(colon + 1));
		if (!l->redis || l->redis->err)
			die(b->servers[i % b->n_servers],
				l->redis ? l->redis->errstr : "out of memory");
		if (c->number == 0) {
			redisReply *r = redisCommand(l->redis, "SCRIPT LOAD %s", unlock_script);
			if (!r || r->type != REDIS_REPLY_STRING)
				die("SCRIPT LOAD", r && r->str ? r->str : l->redis->errstr);
			snprintf(b->digest, sizeof b->digest, "%s", r->str);
			freeReplyObject(r);
		}
		/* From here on non-blocking; hiredis looks at this flag when it reads and writes.
		 */
		l->redis->flags &= ~REDIS_BLOCK;
		(void)!fcntl(l->redis->fd, F_SETFL, fcntl(l->redis->fd, F_GETFL) | O_NONBLOCK);
		struct epoll_event e = {.events = EPOLLIN, .data.ptr = l};
		if (epoll_ctl(b->epoll, EPOLL_CTL_ADD, l->redis->fd, &e) < 0)
			die("epoll_ctl", strerror(errno));
	}
}

static void run(struct bench *b)
{
	struct epoll_event events[EVENTS];
	uint64_t end_ns = now_ns() + (uint64_t)(b->seconds * 1e9);

	b->busy = b->n_clients;
	for (unsigned i = 0; i < b->n_clients; i++)
		begin(b, &b->clients[i]);
	while (b->busy > 0) {
		int n = epoll_wait(b->epoll, events, EVENTS, 1000);

		if (n == 0)
			die("servers", "no answer for a second");
		b->draining = now_ns() >= end_ns;
		for (int i = 0; i < n; i++)
			on_event(b, events[i].data.ptr, events[i].events);
	}
}

static void close_links(struct bench *b)
{
	for (unsigned i = 0; i < b->n_clients * b->n_servers; i++)
		redisFree(b->clients[i / b->n_servers].links[i % b->n_servers].redis);
	free(b->clients);
	close(b->epoll);
}

static void print(const struct bench *b)
{
	printf("{\"seconds\":%.3f,\"granted\":%" PRIu64 ",\"refused\":%" PRIu64
	       ",\"unlocked\":%" PRIu64 ",\"errors\":%" PRIu64
	       ",\"lock_us\":{\"p50\":%.1f,\"p99\":%.1f},"
	       "\"release_us\":{\"p50\":%.1f,\"p99\":%.1f}}\n",
		b->seconds, b->granted, b->refused, b->unlocked, b->errors,
		(double)histogram_quantile(&b->lock, 0.5) / 1e3,
		(double)histogram_quantile(&b->lock, 0.99) / 1e3,
		(double)histogram_quantile(&b->unlock, 0.5) / 1e3,
		(double)histogram_quantile(&b->unlock, 0.99) / 1e3);
}

int main(int argc, char **argv)
{
	static struct bench b = {
		.n_clients = 64, .keys = 1000000000, .ttl_ms = 30000, .seconds = 10};
	char *save;

	if (argc < 2 || argc > 4) {
		fputs("usage: redlock-bench HOST:PORT,HOST:PORT,... [SECONDS [CLIENTS]]\n", stderr);
		return 2;
	}
	for (char *a = strtok_r(argv[1], ",", &save); a; a = strtok_r(NULL, ",", &save)) {
		if (b.n_servers == SERVERS_MAX)
			die(a, "too many servers");
		b.servers[b.n_servers++] = a;
	}
	if (argc > 2)
		b.seconds = atof(argv[2]);
	if (argc > 3)
		b.n_clients = (unsigned)atoi(argv[3]);
	if (b.n_servers == 0 || !(b.seconds > 0) || b.n_clients == 0 || b.n_clients > 100000) {
		fputs("redlock-bench: servers, seconds or clients make no sense\n", stderr);
		return 2;
	}
	signal(SIGPIPE, SIG_IGN);
	b.epoll = epoll_create1(EPOLL_CLOEXEC);
	if (b.epoll < 0)
		die("epoll", strerror(errno));
	prng_seed(&b.prng, now_ns());
	open_links(&b);
	run(&b);
	print(&b);
	close_links(&b);
	return 0;
}
