/* shard.c, peers.c and mailbox.c with links in memory; the engine and the clients are stubs that
 * write down what they are told. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/check.h"
#include "base/log.h"
#include "base/prng.h"
#include "shard/internal.h"

enum {
	SLOTS = 8,
	ATTEMPT_MS = 1000,
	DRIFT_PPM = 1000,
	EPOCH = 3,
	RING = 4 * MAIL_MAX_BYTES,
	ENDS_MAX = 16,
	SEEN_MAX = 64,
	QUEUE_MAX = 4096,
};
#define CLUSTER UINT64_C(0xc1)
#define MS      UINT64_C(1000000)

/* ---- the engine ---- */

struct engine {
	struct event seen[SEEN_MAX]; /* without EV_MSG and EV_TICK */
	unsigned seen_n;
	unsigned msgs;
	struct msg last;
	uint8_t last_from;
	char last_key[KEY_MAX_BYTES + 1];
	uint64_t hlc;
	/* What the next ticks ask for. */
	struct effect queue[QUEUE_MAX];
	unsigned queue_n;
};

size_t engine_memory_bytes(const struct engine_config *cfg)
{
	return sizeof(struct engine);
}

struct engine *engine_init(
	const struct engine_config *cfg, const struct engine_time *now, void *mem, size_t bytes)
{
	struct engine *e = mem;
	e->hlc = cfg->start_n;
	return e;
}

void engine_step(struct engine *e, const struct engine_time *now, const struct event *ev,
	struct effects *fx)
{
	fx->n = 0;
	if (ev->type == EV_MSG) {
		e->msgs++;
		e->last = *ev->msg.msg;
		e->last_from = ev->msg.from;
		memcpy(e->last_key, e->last.key.p, e->last.key.len);
		e->last_key[e->last.key.len] = '\0';
	} else if (ev->type == EV_TICK) {
		while (fx->n < EFFECTS_MAX && e->queue_n > 0)
			fx->v[fx->n++] = e->queue[--e->queue_n];
	} else {
		assert_true(e->seen_n < SEEN_MAX);
		e->seen[e->seen_n++] = *ev;
	}
}

uint64_t engine_wait_ns(const struct engine *e, const struct engine_time *now)
{
	return e->queue_n != 0 ? 0 : UINT64_MAX;
}

uint64_t engine_hlc(const struct engine *e)
{
	return e->hlc;
}

void engine_hlc_merge(struct engine *e, uint64_t n)
{
	e->hlc = n > e->hlc ? n : e->hlc;
}

/* ---- the clients ---- */

struct clients {
	unsigned results;
	bool gone;
};

struct clients *clients_new(struct shard *s)
{
	return calloc(1, sizeof(struct clients));
}

void clients_free(struct shard *s)
{
	free(s->clients);
}

int client_open(struct shard *s, struct link *link)
{
	return -1;
}

ssize_t client_data(struct shard *s, struct link *link, const uint8_t *data, size_t len)
{
	return -1;
}

void client_close(struct shard *s, struct link *link)
{
}

void client_result(struct shard *s, const struct result *r)
{
	s->clients->results++;
}

void client_mail(struct shard *s, unsigned from, uint16_t type, const void *body, size_t bytes)
{
}

void clients_work(struct shard *s)
{
}

uint64_t clients_wait_ns(const struct shard *s)
{
	return UINT64_MAX;
}

bool clients_drain(struct shard *s)
{
	return s->clients->gone;
}

void gather_mail(struct shard *s, unsigned from, uint16_t type, const void *body, size_t bytes)
{
}

/* ---- the world ---- */

struct thread {
	struct env env;
	struct node *node;
	struct shard *shard;
	struct env_handler handler;
	void *memory;
	unsigned wakes;
};

struct node {
	unsigned threads;
	uint8_t id;
	uint64_t inc, clock_ahead_ns;
	struct mailbox_mesh *mesh;
	struct thread thread[3];
};

/* One end of a stream; an end without an owner is the test itself. */
struct end {
	struct link link;
	struct end *other;
	struct thread *owner;
	struct buf inbox;
	bool close_wanted, flush, closed;
	bool blocked; /* what it sends stays in flight */
};

static struct end ends[ENDS_MAX];
static unsigned ends_n;
static uint64_t world_ns;

static uint64_t node_ns(const struct node *n)
{
	return world_ns + n->clock_ahead_ns;
}

static void world_dirty(struct env *env, struct link *link)
{
	link->dirty = true;
}

static void world_close(struct env *env, struct link *link, bool flush)
{
	struct end *e = container_of(link, struct end, link);
	e->flush = e->close_wanted ? e->flush : flush;
	e->close_wanted = link->closing = true;
}

static void world_resume(struct env *env, struct link *link)
{
	link->paused = false;
}

static struct link *world_adopt(struct env *env, int fd, enum link_kind kind, const char *addr)
{
	if (fd < 0)
		return NULL;
	ends[fd].owner = container_of(env, struct thread, env);
	ends[fd].link.kind = kind;
	return &ends[fd].link;
}

static void world_wake(struct env *env, unsigned thread)
{
	struct thread *t = container_of(env, struct thread, env);
	if (thread < t->node->threads)
		t->node->thread[thread].wakes++;
}

static const struct env_ops world_ops = {
	.dirty = world_dirty,
	.close = world_close,
	.resume = world_resume,
	.adopt = world_adopt,
	.wake = world_wake,
};

static void end_flush(struct end *e)
{
	struct buf *out = &e->link.out;
	e->link.dirty = false;
	if (e->blocked)
		e->link.in_flight_bytes += out->len;
	else
		assert_int_equal(buf_append(&e->other->inbox, out->data, out->len), 0);
	out->len = 0;
}

static void end_news(struct end *e)
{
	struct thread *t = e->owner;
	if (!e->close_wanted && e->inbox.len != 0) {
		/* A copy of its own size: reading past it is caught. */
		size_t len = e->inbox.len;
		uint8_t *data = malloc(len);
		memcpy(data, e->inbox.data, len);
		ssize_t used = t->handler.data(t->shard, &e->link, data, len);
		free(data);
		assert_true(used <= (ssize_t)len);
		if (used >= 0)
			buf_drop_front(&e->inbox, (size_t)used);
		else
			world_close(&t->env, &e->link, true);
	}
	if (e->close_wanted || e->other->closed) {
		if (e->flush)
			end_flush(e);
		t->handler.close(t->shard, &e->link);
		e->closed = true;
	}
}

static void thread_loop(struct thread *t)
{
	uint64_t ns = node_ns(t->node);
	struct clocks now = {.slow = ns, .fast = ns, .mclk = ns, .wall_us = ns / 1000};

	t->handler.collect(t->shard);
	t->handler.begin(t->shard, &now);
	for (unsigned i = 0; i < ends_n; i++)
		if (ends[i].owner == t && !ends[i].closed)
			end_news(&ends[i]);
	t->handler.work(t->shard);
	for (unsigned i = 0; i < ends_n; i++)
		if (ends[i].owner == t && ends[i].link.dirty && !ends[i].closed)
			end_flush(&ends[i]);
	t->handler.publish(t->shard);
}

static void node_loops(struct node *n, unsigned times)
{
	while (times-- > 0)
		for (unsigned i = 0; i < n->threads; i++)
			thread_loop(&n->thread[i]);
}

static void node_init(struct node *n, uint8_t id, unsigned threads)
{
	*n = (struct node){.threads = threads, .id = id, .inc = 100 + id};
	n->clock_ahead_ns = id * 1000000 * MS;
	n->mesh = mailbox_mesh_new(threads + 1, RING);
	for (unsigned i = 0; i < threads; i++) {
		struct thread *t = &n->thread[i];
		struct clocks now = {.mclk = node_ns(n)};
		struct shard_config cfg = {
			.engine = {.self = id,
				.slots = SLOTS,
				.threads = (uint16_t)threads,
				.shard = (uint16_t)i,
				.attempt_ms = ATTEMPT_MS,
				.drift_ppm = DRIFT_PPM,
				.start_n = id},
			.index = i,
			.threads = threads,
			.inc = n->inc,
			.cluster = CLUSTER,
			.epoch = EPOCH,
		};
		t->env.ops = &world_ops;
		t->node = n;
		t->memory = calloc(1, engine_memory_bytes(&cfg.engine));
		t->shard = shard_new(&cfg, &t->env, mailbox_of(n->mesh, i), &now, t->memory,
			engine_memory_bytes(&cfg.engine));
		assert_non_null(t->shard);
		t->handler = shard_handler(t->shard);
	}
}

static void node_fini(struct node *n)
{
	for (unsigned i = 0; i < n->threads; i++) {
		shard_free(n->thread[i].shard);
		free(n->thread[i].memory);
	}
	mailbox_mesh_free(n->mesh);
}

static void control_mail(struct node *n, unsigned to, uint16_t type, const void *body, size_t bytes)
{
	struct mailbox *m = mailbox_of(n->mesh, n->threads);
	memcpy(mailbox_put(m, to, type, bytes), body, bytes);
	mailbox_publish(m, (void (*)(void *, unsigned))world_wake, &n->thread[0].env);
}

static bool control_reads(struct node *n, uint16_t type, void *body, size_t bytes)
{
	struct mailbox *m = mailbox_of(n->mesh, n->threads);
	unsigned from;
	uint16_t t;
	size_t len;

	mailbox_collect(m);
	const void *p = mailbox_next(m, &from, &t, &len);
	if (p == NULL)
		return false;
	assert_int_equal(t, type);
	assert_int_equal(len, bytes);
	memcpy(body, p, bytes);
	return true;
}

static int new_stream(void)
{
	assert_true(ends_n + 2 <= ENDS_MAX);
	int fd = (int)ends_n;
	ends_n += 2;
	for (int i = fd; i < fd + 2; i++) {
		ends[i] = (struct end){.other = &ends[fd == i ? fd + 1 : fd]};
		buf_init(&ends[i].inbox, 0);
		buf_init(&ends[i].link.out, 32 << 20);
	}
	return fd;
}

static void adopt(struct node *n, int fd, uint8_t peer, uint64_t inc, uint16_t index, uint16_t links)
{
	struct mail_adopt a = {
		.fd = fd,
		.node = peer,
		.status = NODE_QUARANTINE,
		.link_index = index,
		.links = links,
		.peer_inc = inc,
		.peer_mclk = world_ns + peer * 1000000 * MS,
		.peer_mclk_at = node_ns(n),
		.addr = "memory",
	};
	control_mail(n, index, MAIL_ADOPT, &a, sizeof a);
	node_loops(n, 2);
}

static void connect_nodes(struct node *a, struct node *b, uint16_t index, uint16_t links)
{
	int fd = new_stream();
	adopt(a, fd, b->id, b->inc, index, links);
	adopt(b, fd + 1, a->id, a->inc, index, links);
}

static void world_reset(void)
{
	for (unsigned i = 0; i < ends_n; i++) {
		buf_fini(&ends[i].inbox);
		buf_fini(&ends[i].link.out);
	}
	ends_n = 0;
}

static struct engine *engine_of(struct node *n, unsigned thread)
{
	return n->thread[thread].shard->engine;
}

static struct peer_info info_of(struct node *n, unsigned thread, uint8_t peer)
{
	struct peer_info info;
	peers_info(n->thread[thread].shard, peer, &info);
	return info;
}

static void queue_msg(struct node *n, unsigned thread, uint8_t to, const char *key, uint16_t slot)
{
	struct engine *e = engine_of(n, thread);
	assert_true(e->queue_n < QUEUE_MAX);
	e->queue[e->queue_n++] = (struct effect){
		.type = FX_SEND,
		.send = {.to_count = 2,
			.to = {9, to}, /* nobody ever heard of 9 */
			.msg = {.type = MSG_READ, .slot = slot, .req = 5, .key = bytes_str(key)}},
	};
}

/* ---- a peer made by hand ---- */

enum { RAW_ID = 2, RAW_INC = 102 };

struct raw {
	struct node *n;
	struct end *end; /* the node's; what is put in its inbox arrives */
	struct frame_header h; /* of the next frame */
	struct buf body;
};

static void raw_connect(struct raw *r, struct node *n, uint16_t index, uint16_t links)
{
	int fd = new_stream();
	*r = (struct raw){.n = n, .end = &ends[fd]};
	r->h = (struct frame_header){
		.cluster = CLUSTER,
		.epoch = EPOCH,
		.src_inc = RAW_INC,
		.dst_inc = n->inc,
		.mclk = world_ns + RAW_ID * 1000000 * MS,
		.echo_mclk = node_ns(n),
		.src_node = RAW_ID,
		.status = NODE_ACTIVE,
	};
	adopt(n, fd, RAW_ID, RAW_INC, index, links);
}

static void raw_msg(struct raw *r, const char *key, uint16_t slot)
{
	struct msg m = {.type = MSG_READ, .slot = slot, .req = 5, .key = bytes_str(key)};
	assert_int_equal(msg_encode(&r->body, &m), 0);
	r->h.count++;
}

static void raw_send(struct raw *r)
{
	uint8_t header[FRAME_HEADER_BYTES];
	r->h.frame_bytes = FRAME_HEADER_BYTES + (uint32_t)r->body.len;
	frame_header_encode(header, &r->h);
	assert_int_equal(buf_append(&r->end->inbox, header, sizeof header), 0);
	assert_int_equal(buf_append(&r->end->inbox, r->body.data, r->body.len), 0);
	buf_fini(&r->body);
	r->h.count = 0;
}

/* The next frame that the node sent; false: none. */
static bool raw_receive(struct raw *r, struct frame_header *ret)
{
	struct buf *in = &r->end->other->inbox;
	if (frame_header_decode(in->data, in->len, ret) != 0)
		return false;
	buf_drop_front(in, ret->frame_bytes);
	return true;
}

static void expect_link_event(struct engine *e, unsigned at, bool up)
{
	assert_true(at < e->seen_n);
	assert_int_equal(e->seen[at].type, EV_LINK);
	assert_int_equal(e->seen[at].link.node, RAW_ID);
	assert_int_equal(e->seen[at].link.up, up);
}

static void expect_dropped(struct raw *r)
{
	struct mail_link down = {0};
	node_loops(r->n, 2);
	assert_true(r->end->closed);
	expect_link_event(engine_of(r->n, 0), engine_of(r->n, 0)->seen_n - 1, false);
	assert_true(control_reads(r->n, MAIL_LINK_DOWN, &down, sizeof down));
	assert_int_equal(down.node, RAW_ID);
	assert_int_equal(down.peer_inc, RAW_INC);
	assert_false(info_of(r->n, 0, RAW_ID).linked);
}

/* ---- tests ---- */

static int setup(void **state)
{
	world_ns = 50000 * MS;
	return 0;
}

static int teardown(void **state)
{
	world_reset();
	return 0;
}

static void test_peers_carry_messages_both_ways(void **state)
{
	struct node a, b;
	node_init(&a, 1, 1);
	node_init(&b, 2, 1);
	struct mail_status active = {.status = NODE_ACTIVE, .floor_n = 44};
	control_mail(&b, 0, MAIL_STATUS, &active, sizeof active);
	connect_nodes(&a, &b, 0, 1);
	expect_link_event(engine_of(&a, 0), 0, true);

	for (unsigned i = 0; i < 40; i++) {
		queue_msg(&a, 0, 2, "there", 3);
		node_loops(&a, 1);
		world_ns += 70 * MS;
		node_loops(&b, 1);
		queue_msg(&b, 0, 1, "back", 4);
		node_loops(&b, 1);
		node_loops(&a, 1);
	}
	assert_int_equal(engine_of(&b, 0)->msgs, 40);
	assert_string_equal(engine_of(&b, 0)->last_key, "there");
	assert_int_equal(engine_of(&b, 0)->last.slot, 3);
	assert_int_equal(engine_of(&b, 0)->last_from, 1);
	assert_int_equal(engine_of(&a, 0)->msgs, 40);
	assert_string_equal(engine_of(&a, 0)->last_key, "back");
	assert_int_equal(engine_of(&a, 0)->hlc, 2);
	struct peer_info info = info_of(&a, 0, 2);
	assert_true(info.linked);
	assert_int_equal(info.links, 1);
	assert_int_equal(info.status, NODE_ACTIVE);
	assert_int_equal(info.msgs_in, 40);
	assert_int_equal(info.msgs_out, 40);
	assert_int_equal(info.bytes_in, info_of(&b, 0, 1).bytes_out);
	assert_int_equal(info.stale_frames + info.msgs_dropped, 0);
	assert_int_equal(info_of(&b, 0, 1).status, NODE_QUARANTINE);
	assert_false(info_of(&a, 0, 77).linked);
	node_fini(&a);
	node_fini(&b);
}

static void test_peers_drop_what_may_be_too_old(void **state)
{
	struct node n;
	struct raw r;
	/* Age is (now - echo) - held / 1.002, at most 1 s. */
	static const struct {
		uint64_t since_echo_ms, held_ms;
		bool taken;
	} cases[] = {
		{0, 0, true},
		{1000, 0, true},
		{1001, 0, false},
		{2000, 1000, false}, /* the clocks may differ by 2 ms over 1 s */
		{2000, 1003, true},
		{30000, 29000, false},
		{30000, 29100, true},
		{900, 5000, true}, /* more than passed: not believed, the rest is a bound still */
		{1100, 5000, false},
	};

	node_init(&n, 1, 1);
	raw_connect(&r, &n, 0, 1);
	struct engine *e = engine_of(&n, 0);
	unsigned taken = 0;
	for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
		r.h.echo_mclk = node_ns(&n) - cases[i].since_echo_ms * MS;
		r.h.held_ns = cases[i].held_ms * MS;
		raw_msg(&r, "k", 0);
		raw_send(&r);
		node_loops(&n, 1);
		taken += cases[i].taken;
		assert_int_equal(e->msgs, taken);
		assert_int_equal(info_of(&n, 0, RAW_ID).stale_frames, i + 1 - taken);
	}
	/* No echo at all is no proof either; the header counts all the same. */
	r.h.echo_mclk = r.h.held_ns = 0;
	r.h.hlc_n = 77;
	r.h.status = NODE_RESYNC;
	r.h.mclk += 3;
	raw_msg(&r, "k", 0);
	raw_send(&r);
	node_loops(&n, 1);
	assert_int_equal(e->msgs, taken);
	assert_int_equal(e->hlc, 77);
	assert_int_equal(info_of(&n, 0, RAW_ID).status, NODE_RESYNC);
	struct frame_header h = {0};
	world_ns += 100 * MS;
	node_loops(&n, 1);
	while (raw_receive(&r, &h))
		;
	assert_int_equal(h.echo_mclk, r.h.mclk);
	assert_int_equal(h.held_ns, 100 * MS);
	node_fini(&n);
}

static void test_peers_drop_a_link_that_is_not_what_it_says(void **state)
{
	for (unsigned i = 0; i < 6; i++) {
		struct node n;
		struct raw r;
		node_init(&n, 1, 1);
		raw_connect(&r, &n, 0, 1);
		r.h.cluster += i == 0;
		r.h.epoch += i == 1;
		r.h.src_node += i == 2;
		r.h.src_inc += i == 3;
		r.h.dst_inc += i == 4;
		r.h.echo_mclk += i == 5;
		raw_msg(&r, "k", 0);
		raw_send(&r);
		expect_dropped(&r);
		assert_int_equal(engine_of(&n, 0)->msgs, 0);
		node_fini(&n);
		world_reset();
	}
}

static void test_peers_drop_garbage(void **state)
{
	static const char noise[] = "GET / HTTP/1.1\r\nHost: somebody-else.example.org\r\n"
				    "Accept: everything\r\nThis: is not a frame\r\n\r\n";
	enum { NOISE, BAD_SLOT, BAD_TYPE, LEFT_OVER, TRUNCATED, CASES };
	for (unsigned i = 0; i < CASES; i++) {
		struct node n;
		struct raw r;
		node_init(&n, 1, 1);
		raw_connect(&r, &n, 0, 1);
		raw_msg(&r, "good", 1);
		size_t good = r.body.len;
		if (i == NOISE)
			assert_int_equal(buf_append(&r.end->inbox, noise, sizeof noise), 0);
		raw_msg(&r, "more", i == BAD_SLOT ? SLOTS : 2);
		if (i == BAD_TYPE)
			r.body.data[good + 2] = 99;
		if (i == LEFT_OVER)
			r.h.count--;
		if (i == TRUNCATED)
			r.body.len -= 3;
		raw_send(&r);
		expect_dropped(&r);
		/* What came whole before was good. */
		assert_int_equal(engine_of(&n, 0)->msgs, i != NOISE);
		node_fini(&n);
		world_reset();
	}
}

static void test_peers_survive_noise_in_frames(void **state)
{
	struct node n;
	struct prng rnd;
	prng_seed(&rnd, 4);
	node_init(&n, 1, 2);
	for (unsigned i = 0; i < 2000; i++) {
		struct raw r;
		raw_connect(&r, &n, 0, 1);
		for (unsigned k = 0; k < 4; k++)
			raw_msg(&r, "some key", (uint16_t)k);
		raw_send(&r);
		for (unsigned k = 0; k < 3; k++)
			r.end->inbox.data[prng_below(&rnd, r.end->inbox.len)] = (uint8_t)prng_next(&rnd);
		r.end->inbox.len -= (size_t)prng_below(&rnd, 2) * (size_t)prng_below(&rnd, 100);
		node_loops(&n, 2);
		r.end->other->closed = true;
		node_loops(&n, 2);
		assert_true(r.end->closed);
		engine_of(&n, 0)->seen_n = engine_of(&n, 1)->seen_n = 0;
		world_reset();
	}
	assert_true(info_of(&n, 0, RAW_ID).msgs_in > 0);
	node_fini(&n);
}

static void test_peers_take_frames_in_pieces(void **state)
{
	struct node n;
	struct raw r;
	node_init(&n, 1, 1);
	raw_connect(&r, &n, 0, 1);
	raw_msg(&r, "one", 1);
	raw_msg(&r, "two", 2);
	raw_send(&r);
	raw_send(&r);
	struct buf whole = r.end->inbox;
	buf_init(&r.end->inbox, 0);
	for (size_t i = 0; i < whole.len; i++) {
		assert_int_equal(buf_append(&r.end->inbox, whole.data + i, 1), 0);
		node_loops(&n, 1);
		assert_int_equal(engine_of(&n, 0)->msgs, i + 1 >= whole.len - FRAME_HEADER_BYTES ? 2 : 0);
	}
	assert_int_equal(info_of(&n, 0, RAW_ID).frames_in, 2);
	buf_fini(&whole);
	node_fini(&n);
}

static void test_peers_beat_when_quiet_and_drop_the_silent(void **state)
{
	struct node n;
	struct raw r;
	struct frame_header h = {0};
	node_init(&n, 1, 1);
	raw_connect(&r, &n, 0, 1);
	assert_true(raw_receive(&r, &h)); /* at once, for a fresh echo */
	assert_int_equal(h.count, 0);
	assert_int_equal(h.src_node, 1);
	assert_int_equal(h.dst_inc, RAW_INC);
	assert_false(raw_receive(&r, &h));
	assert_int_equal(n.thread[0].handler.wait_ns(n.thread[0].shard), 100 * MS);
	for (unsigned i = 1; i <= 50; i++) {
		world_ns += 99 * MS;
		node_loops(&n, 1);
		assert_false(raw_receive(&r, &h));
		world_ns += MS;
		node_loops(&n, 3);
		assert_true(raw_receive(&r, &h));
		assert_int_equal(h.mclk, node_ns(&n));
		assert_int_equal(h.held_ns, i * 100 * MS);
		assert_false(raw_receive(&r, &h));
	}
	assert_false(r.end->closed);
	world_ns += 1;
	expect_dropped(&r);
	node_fini(&n);
}

static void test_peers_replace_a_link(void **state)
{
	struct node n;
	struct raw old, same, other;
	struct mail_link down;
	node_init(&n, 1, 1);
	struct engine *e = engine_of(&n, 0);
	raw_connect(&old, &n, 0, 1);
	raw_connect(&same, &n, 0, 1);
	node_loops(&n, 1);
	assert_true(old.end->closed);
	assert_int_equal(e->seen_n, 1);
	expect_link_event(e, 0, true);
	raw_msg(&same, "k", 0);
	raw_send(&same);
	node_loops(&n, 1);
	assert_int_equal(e->msgs, 1);

	int fd = new_stream();
	other = (struct raw){.n = &n, .end = &ends[fd], .h = same.h};
	other.h.src_inc = RAW_INC + 1;
	adopt(&n, fd, RAW_ID, RAW_INC + 1, 0, 1);
	node_loops(&n, 1);
	assert_true(same.end->closed);
	assert_int_equal(e->seen_n, 3);
	expect_link_event(e, 1, false);
	expect_link_event(e, 2, true);
	raw_msg(&other, "k", 0);
	raw_send(&other);
	node_loops(&n, 1);
	assert_int_equal(e->msgs, 2);
	assert_true(info_of(&n, 0, RAW_ID).linked);
	/* Its place is taken: nothing to be mended. */
	assert_false(control_reads(&n, MAIL_LINK_DOWN, &down, sizeof down));
	node_fini(&n);
}

static void test_peers_refuse_a_link_of_another_thread(void **state)
{
	struct node n;
	struct mail_link down = {0};
	node_init(&n, 1, 2);
	int fd = new_stream();
	struct mail_adopt a = {
		.fd = fd, .node = 2, .status = NODE_ACTIVE, .link_index = 1, .links = 2, .peer_inc = 9};
	control_mail(&n, 0, MAIL_ADOPT, &a, sizeof a);
	node_loops(&n, 2);
	assert_true(ends[fd].closed);
	assert_true(control_reads(&n, MAIL_LINK_DOWN, &down, sizeof down));
	assert_int_equal(down.peer_inc, 9);
	a.fd = -1;
	a.link_index = 0;
	control_mail(&n, 0, MAIL_ADOPT, &a, sizeof a);
	node_loops(&n, 2);
	assert_true(control_reads(&n, MAIL_LINK_DOWN, &down, sizeof down));
	assert_int_equal(engine_of(&n, 0)->seen_n + engine_of(&n, 1)->seen_n, 0);
	node_fini(&n);
}

static void test_peers_reach_each_shard_over_one_link(void **state)
{
	struct node a, b;
	node_init(&a, 1, 2);
	node_init(&b, 2, 1);
	connect_nodes(&a, &b, 0, 1);
	expect_link_event(engine_of(&a, 0), 0, true);
	expect_link_event(engine_of(&a, 1), 0, true);
	/* Odd slots are shard 1's at a. */
	queue_msg(&b, 0, 1, "odd", 5);
	node_loops(&b, 1);
	node_loops(&a, 2);
	assert_int_equal(engine_of(&a, 0)->msgs, 0);
	assert_int_equal(engine_of(&a, 1)->msgs, 1);
	assert_string_equal(engine_of(&a, 1)->last_key, "odd");
	assert_int_equal(engine_of(&a, 1)->last_from, 2);
	queue_msg(&a, 1, 2, "answer", 5);
	node_loops(&a, 2);
	node_loops(&b, 1);
	assert_int_equal(engine_of(&b, 0)->msgs, 1);
	assert_string_equal(engine_of(&b, 0)->last_key, "answer");
	assert_false(info_of(&a, 1, 2).linked);
	assert_true(info_of(&a, 0, 2).linked);

	world_close(&b.thread[0].env, &ends[1].link, false);
	node_loops(&b, 1);
	node_loops(&a, 2);
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(engine_of(&a, i)->seen_n, 2);
		expect_link_event(engine_of(&a, i), 1, false);
	}
	queue_msg(&a, 1, 2, "nobody there", 5);
	node_loops(&a, 2);
	node_fini(&a);
	node_fini(&b);
}

static void test_peers_use_the_link_of_their_index(void **state)
{
	struct node n;
	struct raw zero, one;
	struct frame_header h = {0};
	node_init(&n, 1, 3);
	raw_connect(&zero, &n, 0, 2);
	/* Shard 2 shares link 0, shard 1 waits for link 1. */
	assert_int_equal(engine_of(&n, 0)->seen_n, 1);
	assert_int_equal(engine_of(&n, 1)->seen_n, 0);
	assert_int_equal(engine_of(&n, 2)->seen_n, 1);
	raw_connect(&one, &n, 1, 2);
	assert_int_equal(engine_of(&n, 1)->seen_n, 1);
	while (raw_receive(&zero, &h) || raw_receive(&one, &h))
		;
	queue_msg(&n, 2, RAW_ID, "k", 2);
	node_loops(&n, 2);
	assert_true(raw_receive(&zero, &h));
	assert_int_equal(h.count, 1);
	assert_false(raw_receive(&one, &h));
	node_fini(&n);
}

static void test_peers_count_time_in_a_mailbox_as_age(void **state)
{
	struct node n;
	struct raw r;
	struct frame_header h = {0};
	node_init(&n, 1, 2);
	raw_connect(&r, &n, 0, 1);
	while (raw_receive(&r, &h))
		;
	queue_msg(&n, 1, RAW_ID, "slow", 1);
	thread_loop(&n.thread[1]);
	uint64_t birth_ns = world_ns;
	/* The link's thread has a younger echo when it comes to the message. */
	world_ns += 400 * MS;
	r.h.mclk = world_ns + RAW_ID * 1000000 * MS;
	r.h.echo_mclk = node_ns(&n);
	raw_send(&r);
	thread_loop(&n.thread[0]);
	assert_true(raw_receive(&r, &h));
	assert_int_equal(h.count, 1);
	uint64_t peer_now = world_ns + RAW_ID * 1000000 * MS;
	assert_true(peer_now - h.echo_mclk - h.held_ns >= world_ns - birth_ns);
	assert_true(peer_now - h.echo_mclk - h.held_ns <= world_ns - birth_ns + MS);

	queue_msg(&n, 1, RAW_ID, "too slow", 1);
	thread_loop(&n.thread[1]);
	world_ns += 1001 * MS;
	thread_loop(&n.thread[0]);
	assert_true(raw_receive(&r, &h));
	assert_int_equal(h.count, 0);
	assert_int_equal(info_of(&n, 0, RAW_ID).msgs_dropped, 1);

	r.h.echo_mclk = node_ns(&n) - 500 * MS;
	raw_msg(&r, "old when it came", 1);
	raw_send(&r);
	thread_loop(&n.thread[0]);
	world_ns += 501 * MS;
	thread_loop(&n.thread[1]);
	assert_int_equal(engine_of(&n, 1)->msgs, 0);
	assert_int_equal(info_of(&n, 1, RAW_ID).msgs_dropped, 1);
	node_fini(&n);
}

static void test_peers_drop_a_link_for_what_another_shard_finds(void **state)
{
	struct node n;
	struct raw r;
	node_init(&n, 1, 2);
	raw_connect(&r, &n, 0, 1);
	raw_msg(&r, "odd", 1);
	r.body.data[2] = 99;
	raw_send(&r);
	node_loops(&n, 2);
	expect_dropped(&r);
	assert_int_equal(engine_of(&n, 1)->msgs, 0);
	node_fini(&n);
}

static void queue_large(struct node *n, unsigned count)
{
	static uint8_t value[VALUE_MAX_BYTES];
	struct engine *e = engine_of(n, 0);
	for (unsigned i = 0; i < count; i++) {
		queue_msg(n, 0, RAW_ID, "k", 0);
		struct msg *m = &e->queue[e->queue_n - 1].send.msg;
		m->type = MSG_ACCEPT;
		m->uid = (struct ballot){1, 1};
		m->b = (struct version){1, 1, 1};
		m->value = bytes_of(value, sizeof value);
	}
}

static void test_peers_split_what_is_too_long_for_a_frame(void **state)
{
	struct node a, b;
	node_init(&a, 1, 1);
	node_init(&b, 2, 1);
	connect_nodes(&a, &b, 0, 1);
	uint64_t before = info_of(&a, 0, 2).frames_out;
	queue_large(&a, 500);
	node_loops(&a, 1);
	assert_int_equal(info_of(&a, 0, 2).frames_out, before + 2);
	node_loops(&b, 1);
	assert_int_equal(engine_of(&b, 0)->msgs, 500);
	node_fini(&a);
	node_fini(&b);
}

static void test_peers_drop_a_link_that_takes_nothing(void **state)
{
	struct node n;
	struct raw r;
	node_init(&n, 1, 1);
	raw_connect(&r, &n, 0, 1);
	r.end->blocked = true;
	for (unsigned i = 0; i < 3; i++) {
		queue_large(&n, 500);
		node_loops(&n, 1);
	}
	assert_false(r.end->close_wanted);
	assert_true(r.end->link.in_flight_bytes > 6 << 20);
	assert_int_equal(info_of(&n, 0, RAW_ID).msgs_dropped, 0);
	for (unsigned i = 0; i < 3; i++) {
		queue_large(&n, 500);
		node_loops(&n, 1);
		assert_true(r.end->link.in_flight_bytes + r.end->link.out.len <= 9 << 20);
	}
	assert_true(info_of(&n, 0, RAW_ID).msgs_dropped > 0);
	expect_dropped(&r);
	node_fini(&n);
}

/* ---- shard.c ---- */

static void test_shard_passes_control_mail_to_the_engine(void **state)
{
	struct node n;
	struct raw r;
	struct frame_header h = {0};
	node_init(&n, 1, 1);
	raw_connect(&r, &n, 0, 1);
	struct engine *e = engine_of(&n, 0);
	assert_true(raw_receive(&r, &h));
	assert_int_equal(h.status, NODE_QUARANTINE);
	struct mail_status active = {.status = NODE_ACTIVE, .floor_n = 44};
	uint64_t ceiling = 55, asked = 0;
	control_mail(&n, 0, MAIL_STATUS, &active, sizeof active);
	control_mail(&n, 0, MAIL_CEILING, &ceiling, sizeof ceiling);
	world_ns += 100 * MS;
	node_loops(&n, 1);
	assert_int_equal(e->seen_n, 3);
	assert_int_equal(e->seen[1].type, EV_STATUS);
	assert_int_equal(e->seen[1].status.status, NODE_ACTIVE);
	assert_int_equal(e->seen[1].status.floor_n, 44);
	assert_int_equal(e->seen[2].type, EV_CEILING);
	assert_int_equal(e->seen[2].ceiling_n, 55);
	assert_true(raw_receive(&r, &h));
	assert_int_equal(h.status, NODE_ACTIVE);

	e->queue[e->queue_n++] = (struct effect){.type = FX_CEILING, .ceiling_n = 66};
	e->queue[e->queue_n++] = (struct effect){.type = FX_REPLY};
	assert_int_equal(n.thread[0].handler.wait_ns(n.thread[0].shard), 0);
	node_loops(&n, 1);
	assert_true(control_reads(&n, MAIL_RAISE_CEILING, &asked, sizeof asked));
	assert_int_equal(asked, 66);
	assert_int_equal(n.thread[0].shard->clients->results, 1);
	node_fini(&n);
}

static void test_shard_says_once_that_it_is_drained(void **state)
{
	struct node n;
	struct raw r;
	char none;
	node_init(&n, 1, 1);
	raw_connect(&r, &n, 0, 1);
	control_mail(&n, 0, MAIL_DRAIN, "", 0);
	node_loops(&n, 2);
	assert_false(control_reads(&n, MAIL_DRAINED, &none, 0));
	n.thread[0].shard->clients->gone = true;
	r.end->link.in_flight_bytes = 1;
	node_loops(&n, 2);
	assert_false(control_reads(&n, MAIL_DRAINED, &none, 0));
	r.end->link.in_flight_bytes = 0;
	node_loops(&n, 3);
	assert_true(control_reads(&n, MAIL_DRAINED, &none, 0));
	assert_false(control_reads(&n, MAIL_DRAINED, &none, 0));
	node_fini(&n);
}

static void test_shard_bounds_ticks_and_wakes_sleepers(void **state)
{
	struct node n;
	struct raw r;
	node_init(&n, 1, 2);
	raw_connect(&r, &n, 0, 1);
	for (unsigned i = 0; i < 9 * EFFECTS_MAX; i++)
		queue_msg(&n, 1, RAW_ID, "k", 1);
	assert_true(n.thread[0].handler.sleep(n.thread[0].shard));
	thread_loop(&n.thread[1]);
	assert_int_equal(engine_of(&n, 1)->queue_n, EFFECTS_MAX);
	assert_int_equal(n.thread[0].wakes, 1);
	assert_true(n.thread[0].handler.has_mail(n.thread[0].shard));
	n.thread[0].handler.awake(n.thread[0].shard);
	assert_false(n.thread[0].handler.sleep(n.thread[0].shard));
	assert_int_equal(n.thread[0].handler.wait_ns(n.thread[0].shard), 0);
	node_fini(&n);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_peers_carry_messages_both_ways),
		T(test_peers_drop_what_may_be_too_old),
		T(test_peers_drop_a_link_that_is_not_what_it_says),
		T(test_peers_drop_garbage),
		T(test_peers_survive_noise_in_frames),
		T(test_peers_take_frames_in_pieces),
		T(test_peers_beat_when_quiet_and_drop_the_silent),
		T(test_peers_replace_a_link),
		T(test_peers_refuse_a_link_of_another_thread),
		T(test_peers_reach_each_shard_over_one_link),
		T(test_peers_use_the_link_of_their_index),
		T(test_peers_count_time_in_a_mailbox_as_age),
		T(test_peers_drop_a_link_for_what_another_shard_finds),
		T(test_peers_split_what_is_too_long_for_a_frame),
		T(test_peers_drop_a_link_that_takes_nothing),
		T(test_shard_passes_control_mail_to_the_engine),
		T(test_shard_says_once_that_it_is_drained),
		T(test_shard_bounds_ticks_and_wakes_sleepers),
	};
	log_set_level(LOG_ERROR);
	return cmocka_run_group_tests_name("peers", tests, NULL, NULL);
}
