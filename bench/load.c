#include "load.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/limits.h"
#include "base/prng.h"
#include "wire/resp.h"

enum {
	READ_BYTES = 64 * 1024,
	REPLY_NODES = 64,
	EVENTS = 256,
};

/* One place in a connection's pipeline: a client of its own. */
struct place {
	uint64_t sent_ns;
	uint64_t key;
	enum kind kind;
};

struct conn {
	int fd; /* -1: gone */
	unsigned number;
	struct buf in, out;
	size_t out_done;
	bool wants_write;
	/* Replies come in the order of requests, and a place has one request at a time: the ring of
	 * places in flight. */
	struct place *places;
	unsigned *ring;
	unsigned head, in_flight;
	unsigned *idle;
	unsigned n_idle;
};

struct worker {
	struct load *load;
	int epoll;
	struct conn *conns;
	unsigned n_conns, n_live;
	struct prng prng;
	uint64_t now_ns;
	bool draining;
	char ttl[16];
	uint8_t key[KEY_MAX_BYTES];
	uint8_t value[VALUE_MAX_BYTES];
};

uint64_t load_now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

void load_count_error(struct error_count *errors, struct bytes word, uint64_t n)
{
	size_t len = 0;

	while (len < word.len && len < ERROR_WORD_BYTES - 1 && word.p[len] != ' ')
		len++;
	for (unsigned i = 0; i < ERROR_WORDS_MAX; i++) {
		struct error_count *e = &errors[i];

		/* A server with more words than that has its others counted together. */
		bool last = i == ERROR_WORDS_MAX - 1;
		if (e->count == 0) {
			memcpy(e->word, last ? "others" : (const char *)word.p, last ? 6 : len);
			e->word[last ? 6 : len] = '\0';
		} else if (!last && (strlen(e->word) != len || memcmp(e->word, word.p, len) != 0)) {
			continue;
		}
		e->count += n;
		return;
	}
}

/* A connected socket, or -1 with the reason in @why. */
static int dial(const char *address, char *why, size_t why_bytes)
{
	struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM}, *list;
	char host[256];
	const char *colon = strrchr(address, ':');
	int fd = -1, on = 1, err = 0;

	if (!colon || (size_t)(colon - address) >= sizeof host) {
		snprintf(why, why_bytes, "%s: not HOST:PORT", address);
		return -1;
	}
	snprintf(host, sizeof host, "%.*s", (int)(colon - address), address);
	int r = getaddrinfo(host, colon + 1, &hints, &list);
	if (r) {
		snprintf(why, why_bytes, "%s: %s", address, gai_strerror(r));
		return -1;
	}
	for (struct addrinfo *a = list; a && fd < 0; a = a->ai_next) {
		fd = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC, a->ai_protocol);
		if (fd >= 0 && connect(fd, a->ai_addr, a->ai_addrlen) == 0)
			break;
		err = errno;
		if (fd >= 0)
			close(fd);
		fd = -1;
	}
	freeaddrinfo(list);
	if (fd < 0) {
		snprintf(why, why_bytes, "%s: %s", address, strerror(err));
		return -1;
	}
	(void)!setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
	(void)!fcntl(fd, F_SETFL, O_NONBLOCK);
	return fd;
}

static void watch(struct worker *w, struct conn *c, int op)
{
	struct epoll_event e = {.events = EPOLLIN | (c->wants_write ? EPOLLOUT : 0), .data.ptr = c};

	(void)!epoll_ctl(w->epoll, op, c->fd, &e);
}

static bool conn_open(struct worker *w, struct conn *c)
{
	const struct load_config *cfg = w->load->config;
	const char *address = cfg->addresses[c->number % cfg->n_addresses];

	c->places = calloc(cfg->pipeline, sizeof *c->places);
	c->ring = calloc(cfg->pipeline, sizeof *c->ring);
	c->idle = calloc(cfg->pipeline, sizeof *c->idle);
	if (!c->places || !c->ring || !c->idle) {
		snprintf(w->load->why, sizeof w->load->why, "out of memory");
		return false;
	}
	for (unsigned i = 0; i < cfg->pipeline; i++)
		c->idle[c->n_idle++] = cfg->pipeline - 1 - i;
	c->fd = dial(address, w->load->why, sizeof w->load->why);
	if (c->fd < 0)
		return false;
	w->n_live++;
	watch(w, c, EPOLL_CTL_ADD);
	return true;
}

static void conn_free(struct conn *c)
{
	if (c->fd >= 0)
		close(c->fd);
	buf_fini(&c->in);
	buf_fini(&c->out);
	free(c->places);
	free(c->ring);
	free(c->idle);
}

static void conn_lose(struct worker *w, struct conn *c)
{
	close(c->fd);
	c->fd = -1;
	w->n_live--;
	w->load->stats.lost++;
}

/* Decimal, padded with zeros to the wanted length, so that every key has the same. */
static struct bytes key_text(struct worker *w, uint64_t key)
{
	uint32_t len = w->load->config->key_bytes;

	memset(w->key, '0', len);
	w->key[0] = 'k';
	for (uint32_t i = len; key && i > 1; key /= 10)
		w->key[--i] = (uint8_t)('0' + key % 10);
	return bytes_of(w->key, len);
}

/* Different for every place of every connection: a value is the holder's name. */
static struct bytes value_text(struct worker *w, const struct conn *c, unsigned place)
{
	uint32_t len = w->load->config->value_bytes;
	char text[32];
	int n = snprintf(text, sizeof text, "%u.%u.", c->number, place);

	memset(w->value, 'v', len);
	memcpy(w->value, text, (uint32_t)n < len ? (uint32_t)n : len);
	return bytes_of(w->value, len);
}

static void request(struct worker *w, struct conn *c, unsigned number, enum kind kind)
{
	struct place *p = &c->places[number];
	struct bytes key = key_text(w, p->key), value = value_text(w, c, number);
	struct bytes ttl = bytes_str(w->ttl);
	int r;

	p->kind = kind;
	p->sent_ns = w->now_ns;
	if (kind == KIND_RELEASE) {
		const struct bytes argv[] = {bytes_str("RELEASE"), key, value};
		r = resp_command(&c->out, 3, argv);
	} else if (w->load->config->workload == WORKLOAD_SET) {
		const struct bytes argv[] = {
			bytes_str("SET"), key, value, bytes_str("NX"), bytes_str("PX"), ttl};
		r = resp_command(&c->out, 6, argv);
	} else {
		const struct bytes argv[] = {bytes_str("LOCK"), key, value, ttl};
		r = resp_command(&c->out, 4, argv);
	}
	if (r < 0) {
		conn_lose(w, c);
		return;
	}
	c->ring[(c->head + c->in_flight++) % w->load->config->pipeline] = number;
}

/* Let an idle place begin anew; false: there is nothing left to begin. */
static bool begin(struct worker *w, struct place *p)
{
	const struct load_config *cfg = w->load->config;

	if (w->draining)
		return false;
	if (cfg->workload != WORKLOAD_HOLD) {
		p->key = prng_below(&w->prng, cfg->keys);
		return true;
	}
	p->key = atomic_fetch_add_explicit(w->load->next_key, 1, memory_order_relaxed);
	return p->key < cfg->keys;
}

static void fill(struct worker *w, struct conn *c)
{
	while (c->fd >= 0 && c->n_idle > 0) {
		unsigned number = c->idle[c->n_idle - 1];

		if (!begin(w, &c->places[number]))
			return;
		c->n_idle--;
		request(w, c, number, KIND_LOCK);
	}
}

static bool is_word(struct bytes s, const char *word)
{
	return bytes_eq(s, bytes_str(word));
}

static void reply(struct worker *w, struct conn *c, const struct resp_value *v)
{
	struct load_stats *stats = &w->load->stats;
	unsigned number = c->ring[c->head];
	struct place *p = &c->places[number];
	bool counts = p->sent_ns >= w->load->start_ns + w->load->config->warmup_ns;
	bool granted = v->type == RESP_ARRAY || v->type == RESP_MAP ||
		       (v->type == RESP_SIMPLE && is_word(v->str, "OK"));

	c->head = (c->head + 1) % w->load->config->pipeline;
	c->in_flight--;
	atomic_fetch_add_explicit(&w->load->done, 1, memory_order_relaxed);
	if (p->kind == KIND_LOCK && granted)
		w->load->all_granted++;
	if (counts) {
		histogram_add(&stats->latency[p->kind], w->now_ns - p->sent_ns);
		if (v->type == RESP_ERR)
			load_count_error(stats->errors, v->str, 1);
		else if (v->type == RESP_NULL)
			stats->refused++;
		else if (!granted)
			load_count_error(stats->errors, bytes_str("odd-reply"), 1);
		else if (p->kind == KIND_LOCK)
			stats->granted++;
		else
			stats->released++;
	}
	if (p->kind == KIND_LOCK && granted && w->load->config->workload == WORKLOAD_CYCLE)
		request(w, c, number, KIND_RELEASE);
	else
		c->idle[c->n_idle++] = number;
}

static void flush(struct worker *w, struct conn *c)
{
	while (c->out_done < c->out.len) {
		ssize_t n = send(
			c->fd, c->out.data + c->out_done, c->out.len - c->out_done, MSG_NOSIGNAL);

		if (n < 0 && errno == EAGAIN)
			break;
		if (n < 0) {
			conn_lose(w, c);
			return;
		}
		c->out_done += (size_t)n;
	}
	bool left = c->out_done < c->out.len;
	if (!left)
		c->out.len = c->out_done = 0;
	if (left != c->wants_write) {
		c->wants_write = left;
		watch(w, c, EPOLL_CTL_MOD);
	}
}

static void receive(struct worker *w, struct conn *c)
{
	struct resp_value nodes[REPLY_NODES];
	size_t used = 0, n_nodes, bytes;
	uint8_t *room = buf_reserve(&c->in, READ_BYTES);
	ssize_t n = room ? recv(c->fd, room, READ_BYTES, 0) : 0;

	if (n < 0 && errno == EAGAIN)
		return;
	if (n <= 0) {
		conn_lose(w, c);
		return;
	}
	c->in.len += (size_t)n;
	while (c->fd >= 0 && used < c->in.len) {
		enum resp_status s = resp_reply_parse(
			c->in.data + used, c->in.len - used, nodes, REPLY_NODES, &n_nodes, &bytes);

		if (s == RESP_MORE)
			break;
		if (s == RESP_ERROR || c->in_flight == 0) {
			if (s == RESP_OK && nodes[0].type == RESP_ERR)
				load_count_error(w->load->stats.errors, nodes[0].str, 1);
			conn_lose(w, c);
			return;
		}
		reply(w, c, nodes);
		used += bytes;
	}
	buf_drop_front(&c->in, used);
}

static bool setup(struct worker *w)
{
	const struct load_config *cfg = w->load->config;
	unsigned i = w->load->index;

	snprintf(w->ttl, sizeof w->ttl, "%" PRIu32, cfg->ttl_ms);
	prng_seed(&w->prng, cfg->seed + i);
	w->n_conns = cfg->connections / cfg->threads + (i < cfg->connections % cfg->threads);
	w->epoll = epoll_create1(EPOLL_CLOEXEC);
	w->conns = calloc(w->n_conns ? w->n_conns : 1, sizeof *w->conns);
	if (w->epoll < 0 || !w->conns) {
		snprintf(w->load->why, sizeof w->load->why, "%s", strerror(errno));
		return false;
	}
	for (unsigned k = 0; k < w->n_conns; k++) {
		w->conns[k].fd = -1;
		w->conns[k].number = i + k * cfg->threads;
	}
	for (unsigned k = 0; k < w->n_conns; k++) {
		if (!conn_open(w, &w->conns[k]))
			return false;
	}
	return true;
}

/* How many places still wait for a reply. */
static uint64_t in_flight(const struct worker *w)
{
	uint64_t n = 0;

	for (unsigned i = 0; i < w->n_conns; i++)
		n += w->conns[i].fd >= 0 ? w->conns[i].in_flight : 0;
	return n;
}

static void loop(struct worker *w)
{
	const struct load_config *cfg = w->load->config;
	uint64_t end_ns = w->load->start_ns + cfg->warmup_ns + cfg->measure_ns;
	uint64_t give_up_ns = UINT64_MAX;
	struct epoll_event events[EVENTS];

	w->now_ns = load_now_ns();
	for (unsigned i = 0; i < w->n_conns; i++) {
		fill(w, &w->conns[i]);
		if (w->conns[i].fd >= 0)
			flush(w, &w->conns[i]);
	}
	while (w->n_live > 0 && w->now_ns < give_up_ns) {
		int n = epoll_wait(w->epoll, events, EVENTS, 100);

		w->now_ns = load_now_ns();
		bool over = cfg->workload == WORKLOAD_HOLD
				    ? atomic_load(w->load->next_key) >= cfg->keys
				    : w->now_ns >= end_ns;
		if (!w->draining && (over || atomic_load(w->load->stop))) {
			w->draining = true;
			give_up_ns = w->now_ns + UINT64_C(5000000000);
		}
		for (int i = 0; i < n; i++) {
			struct conn *c = events[i].data.ptr;

			if (c->fd >= 0 && events[i].events & ~(unsigned)EPOLLOUT)
				receive(w, c);
			if (c->fd >= 0)
				fill(w, c);
			if (c->fd >= 0)
				flush(w, c);
		}
		if (w->draining && in_flight(w) == 0)
			return;
	}
	if (w->n_live > 0 && w->now_ns >= give_up_ns)
		load_count_error(w->load->stats.errors, bytes_str("no-answer"), in_flight(w));
}

void *load_run(void *arg)
{
	struct worker w = {.load = arg, .epoll = -1};

	if (setup(&w))
		loop(&w);
	for (unsigned i = 0; w.conns && i < w.n_conns; i++)
		conn_free(&w.conns[i]);
	free(w.conns);
	if (w.epoll >= 0)
		close(w.epoll);
	return NULL;
}
