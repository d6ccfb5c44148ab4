#include "peers_world.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

/* ---- the engine ---- */

size_t engine_memory_bytes(const struct engine_config *cfg)
{
	return sizeof(struct engine);
}

struct engine *engine_init(
	const struct engine_config *cfg, const struct engine_time *now, void *mem, size_t bytes)
{
	struct engine *e = mem;
	e->hlc = cfg->start_n;
	e->stats.status = NODE_QUARANTINE;
	return e;
}

void engine_step(
	struct engine *e, const struct engine_time *now, const struct event *ev, struct effects *fx)
{
	fx->n = 0;
	if (ev->type == EV_MSG) {
		e->msgs++;
		e->last = *ev->msg.msg;
		e->last_from = ev->msg.from;
		memcpy(e->last_key, e->last.key.p, e->last.key.len);
		e->last_key[e->last.key.len] = '\0';
	} else if (ev->type != EV_TICK) {
		assert_true(e->seen_n < SEEN_MAX);
		e->seen[e->seen_n++] = *ev;
	}
	if (ev->type == EV_STATUS)
		e->stats.status = ev->status.status;
	if (ev->type == EV_TICK || (ev->type == EV_MSG && e->chatty) ||
		(ev->type == EV_CONFIG && e->eager))
		while (fx->n < EFFECTS_MAX && e->queue_n > 0)
			fx->v[fx->n++] = e->queue[--e->queue_n];
}

uint64_t engine_wait_ns(const struct engine *e, const struct engine_time *now)
{
	return e->queue_n != 0 ? 0 : UINT64_MAX;
}

uint64_t engine_hlc(const struct engine *e)
{
	return e->hlc;
}

void engine_stats(const struct engine *e, struct engine_stats *ret)
{
	*ret = e->stats;
	ret->ops = e->rounds;
}

bool engine_holds_nothing(const struct engine *e, uint64_t *ret_top_n)
{
	*ret_top_n = e->hlc;
	return true;
}

void engine_hlc_merge(struct engine *e, uint64_t n)
{
	e->hlc = n > e->hlc ? n : e->hlc;
}

/* ---- the clients ---- */

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

void client_setnodes_done(struct shard *s, const struct mail_setnodes_done *done)
{
	s->clients->setnodes_done++;
}

void gather_mail(struct shard *s, unsigned from, uint16_t type, const void *body, size_t bytes)
{
}

/* ---- the world ---- */

struct end ends[ENDS_MAX];
unsigned ends_n;
uint64_t world_ns;

uint64_t node_ns(const struct node *n)
{
	return world_ns + n->clock_ahead_ns;
}

static void world_dirty(struct env *env, struct link *link)
{
	link->dirty = true;
}

void world_close(struct env *env, struct link *link, bool flush)
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

void thread_loop(struct thread *t)
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

void node_loops(struct node *n, unsigned times)
{
	while (times-- > 0)
		for (unsigned i = 0; i < n->threads; i++)
			thread_loop(&n->thread[i]);
}

struct membership members_of_epoch(uint64_t epoch)
{
	return (struct membership){
		.epoch = epoch,
		.masters_epoch = epoch,
		.joined = 3,
		.n_masters = 3,
		.n_replicas = 1,
		.masters = {{.id = 1}, {.id = 2}, {.id = 3}},
		.replicas = {{.id = 4}},
	};
}

void node_init(struct node *n, uint8_t id, unsigned threads)
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
			.members = members_of_epoch(EPOCH),
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

void node_fini(struct node *n)
{
	for (unsigned i = 0; i < n->threads; i++) {
		shard_free(n->thread[i].shard);
		free(n->thread[i].memory);
	}
	mailbox_mesh_free(n->mesh);
}

void control_mail(struct node *n, unsigned to, uint16_t type, const void *body, size_t bytes)
{
	struct mailbox *m = mailbox_of(n->mesh, n->threads);
	memcpy(mailbox_put(m, to, type, bytes), body, bytes);
	mailbox_publish(m, (void (*)(void *, unsigned))world_wake, &n->thread[0].env);
}

bool control_reads(struct node *n, uint16_t type, void *body, size_t bytes)
{
	struct mailbox *m = mailbox_of(n->mesh, n->threads);
	unsigned from;
	uint16_t t;
	size_t len;

	mailbox_collect(m);
	const void *p = NULL;
	do
		p = mailbox_next(m, &from, &t, &len);
	while (p != NULL && t != type);
	if (p == NULL)
		return false;
	assert_int_equal(len, bytes);
	memcpy(body, p, bytes);
	return true;
}

void tell_peer_epoch(struct node *n, uint8_t peer, uint64_t inc, uint64_t epoch)
{
	struct mail_peer_epoch told = {.node = peer, .inc = inc, .epoch = epoch};
	for (unsigned i = 0; i < n->threads; i++)
		control_mail(n, i, MAIL_PEER_EPOCH, &told, sizeof told);
}

int new_stream(void)
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

void adopt(struct node *n, int fd, uint8_t peer, uint64_t inc, uint16_t index, uint16_t links)
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
		.peer_addr = "peer:1",
	};
	control_mail(n, index, MAIL_ADOPT, &a, sizeof a);
	tell_peer_epoch(n, peer, inc, EPOCH);
	node_loops(n, 2);
}

void connect_nodes(struct node *a, struct node *b, uint16_t index, uint16_t links)
{
	int fd = new_stream();
	adopt(a, fd, b->id, b->inc, index, links);
	adopt(b, fd + 1, a->id, a->inc, index, links);
}

void world_reset(void)
{
	for (unsigned i = 0; i < ends_n; i++) {
		buf_fini(&ends[i].inbox);
		buf_fini(&ends[i].link.out);
	}
	ends_n = 0;
}

struct engine *engine_of(struct node *n, unsigned thread)
{
	return n->thread[thread].shard->engine;
}

struct peer_info info_of(struct node *n, unsigned thread, uint8_t peer)
{
	struct peer_info info;
	peers_info(n->thread[thread].shard, peer, &info);
	return info;
}

void queue_msg(struct node *n, unsigned thread, uint8_t to, const char *key, uint16_t slot)
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

void raw_connect(struct raw *r, struct node *n, uint16_t index, uint16_t links)
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

void raw_msg(struct raw *r, const char *key, uint16_t slot)
{
	struct msg m = {.type = MSG_READ, .slot = slot, .req = 5, .key = bytes_str(key)};
	assert_int_equal(msg_encode(&r->body, &m), 0);
	r->h.count++;
}

void raw_send(struct raw *r)
{
	uint8_t header[FRAME_HEADER_BYTES];
	r->h.frame_bytes = FRAME_HEADER_BYTES + (uint32_t)r->body.len;
	frame_header_encode(header, &r->h);
	assert_int_equal(buf_append(&r->end->inbox, header, sizeof header), 0);
	assert_int_equal(buf_append(&r->end->inbox, r->body.data, r->body.len), 0);
	buf_fini(&r->body);
	r->h.count = 0;
}

bool raw_receive(struct raw *r, struct frame_header *ret)
{
	struct buf *in = &r->end->other->inbox;
	if (frame_header_decode(in->data, in->len, ret) != 0)
		return false;
	buf_drop_front(in, ret->frame_bytes);
	return true;
}
