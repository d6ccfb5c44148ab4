/* Nodes of real shards: byte streams instead of messages. Peers talk in frames over streams that
 * are late, cut into pieces and broken in the middle of a frame; clients speak RESP. One shard a
 * node. */
#include "shard_node.h"

#include <stdlib.h>

#include "base/list.h"
#include "shard/internal.h"
#include "wire/resp.h"

enum { RING_BYTES = 128 * 1024, PIECE_GAP_NS = 50000, NODES_OF_REPLY_MAX = 64 };

/* One end of a stream, at a shard. */
struct end {
	struct link link;
	struct buf in;     /* arrived, not yet taken */
	struct buf on_way; /* peers: to the other node, not yet there */
	bool open, fresh, gone, close_wanted;
	uint8_t node;
	uint8_t other;   /* peer: node id */
	uint16_t client; /* or CLIENTS_MAX */
};

struct shard_node {
	struct env env;
	struct env_handler h;
	struct shard *shard;
	struct mailbox_mesh *mesh;
	struct mailbox *control;
	struct world *world;
	uint64_t inc;
	unsigned id;
};

enum { ENDS_PER_NODE = NODES_MAX + 1 + CLIENTS_MAX };
static struct end ends[NODES_MAX + 1][ENDS_PER_NODE];
static struct shard_node shards[NODES_MAX + 1];
static uint64_t next_serial;

static struct end *peer_end(unsigned id, unsigned other)
{
	return &ends[id][other];
}

static struct end *client_end(unsigned id, unsigned client)
{
	return &ends[id][NODES_MAX + 1 + client];
}

/* ---- what a shard asks of the world ---- */

static void on_dirty(struct env *env, struct link *link)
{
	(void)env;
	link->dirty = true;
}

static void on_close(struct env *env, struct link *link, bool flush)
{
	(void)env;
	(void)flush;
	struct end *e = container_of(link, struct end, link);
	e->close_wanted = link->closing = true;
}

static void on_resume(struct env *env, struct link *link)
{
	(void)env;
	link->paused = false;
}

static struct link *on_adopt(struct env *env, int fd, enum link_kind kind, const char *addr)
{
	struct shard_node *sn = container_of(env, struct shard_node, env);
	struct end *e = peer_end(sn->id, (unsigned)fd);
	(void)kind;
	(void)addr;
	return e->open ? &e->link : NULL;
}

static void on_wake(struct env *env, unsigned thread)
{
	(void)env;
	(void)thread;
}

static const struct env_ops ops = {.dirty = on_dirty,
	.close = on_close,
	.resume = on_resume,
	.adopt = on_adopt,
	.wake = on_wake};

/* ---- streams ---- */

static void end_open(
	struct end *e, enum link_kind kind, unsigned id, unsigned other, unsigned client)
{
	*e = (struct end){.open = true,
		.fresh = kind == LINK_CLIENT,
		.node = (uint8_t)id,
		.other = (uint8_t)other,
		.client = (uint16_t)client};
	e->link.kind = kind;
	e->link.serial = ++next_serial;
	(void)snprintf(e->link.addr, sizeof e->link.addr, "%s%u",
		kind == LINK_PEER ? "node" : "client", kind == LINK_PEER ? other : client);
	buf_init(&e->link.out, 16 << 20);
	buf_init(&e->in, 16 << 20);
	buf_init(&e->on_way, 16 << 20);
}

static void end_free(struct end *e)
{
	buf_fini(&e->link.out);
	buf_fini(&e->in);
	buf_fini(&e->on_way);
	*e = (struct end){0};
}

static void end_finish(struct shard_node *sn, struct end *e)
{
	sn->h.close(sn->h.self, &e->link);
	end_free(e);
}

static void ship(struct world *w, struct end *e)
{
	bool waits = e->on_way.len > 0;
	CHECK(buf_append(&e->on_way, e->link.out.data, e->link.out.len) == 0);
	e->link.out.len = 0;
	if (!waits)
		world_push(w, w->now + net_delay(w, e->other), ITEM_STREAM, e->other, e->node,
			w->stream[e->node][e->other]);
}

void shard_stream(struct world *w, const struct item *it)
{
	unsigned from = it->idx, to = it->node;
	struct end *e = peer_end(from, to), *dest = peer_end(to, from);
	if (w->stream[from][to] != it->gen || !w->node[to].up || !e->open || !dest->open ||
		e->on_way.len == 0)
		return;
	uint64_t until = w->node[to].paused_until > w->clogged_until[from][to]
				 ? w->node[to].paused_until
				 : w->clogged_until[from][to];
	if (w->cut[from][to] || until > w->now) {
		/* The kernel tries again by and by. */
		uint64_t at = w->cut[from][to] ? w->now + 10 * MS : until;
		world_push(w, at + below(w, MS), ITEM_STREAM, to, from, it->gen);
		return;
	}
	size_t n = e->on_way.len;
	if (!w->calm && chance(w, 200000))
		n = 1 + below(w, n);
	CHECK(buf_append(&dest->in, e->on_way.data, n) == 0);
	buf_drop_front(&e->on_way, n);
	if (e->on_way.len > 0)
		world_push(w, w->now + PIECE_GAP_NS + below(w, MS), ITEM_STREAM, to, from, it->gen);
	w->events++;
	trace_fold(w, w->now, (uint64_t)from << 40 ^ (uint64_t)to << 32 ^ n);
	TRACE(w, "%u -> %u %zu bytes", from, to, n);
	shard_loop(w, to);
}

/* ---- replies to clients ---- */

static enum outcome outcome_of(struct bytes error)
{
	static const struct {
		const char *word;
		enum outcome outcome;
	} words[] = {{"NOTOWNER", OUT_NOTOWNER}, {"NOTFOUND", OUT_NOTFOUND},
		{"NOQUORUM", OUT_NOQUORUM}, {"UNKNOWN", OUT_UNKNOWN}, {"BUSY", OUT_BUSY},
		{"NOTREADY", OUT_NOTREADY}, {"LIMIT", OUT_LIMIT}};
	for (unsigned i = 0; i < sizeof words / sizeof words[0]; i++) {
		size_t n = strlen(words[i].word);
		if (error.len >= n && memcmp(error.p, words[i].word, n) == 0)
			return words[i].outcome;
	}
	CHECK(!"an error that the contract knows");
	return OUT_UNKNOWN;
}

static bool named(const struct resp_value *v, const char *name)
{
	return v->type == RESP_BULK && bytes_eq(v->str, bytes_str(name));
}

/* A flat array of names and values. */
static void read_map(const struct resp_value *v, size_t n, struct result *r)
{
	for (size_t i = 1; i + 1 < n; i += 2) {
		if (named(&v[i], "token"))
			r->token = (uint64_t)v[i + 1].num;
		else if (named(&v[i], "valid-ms"))
			r->valid_ms = (uint64_t)v[i + 1].num;
		else if (named(&v[i], "votes"))
			r->votes = (uint8_t)v[i + 1].num;
		else if (named(&v[i], "value"))
			r->value = v[i + 1].str;
	}
}

static struct result result_of(const struct call *call, const struct resp_value *v, size_t n)
{
	struct result r = {.kind = (enum op_kind)call->kind, .outcome = OUT_OK, .sent = true};
	if (v[0].type == RESP_ERR) {
		r.outcome = outcome_of(v[0].str);
	} else if (v[0].type == RESP_NULL) {
		r.outcome = call->kind == OP_LOCK ? OUT_HELD : OUT_NULL;
	} else if (v[0].type == RESP_ARRAY) {
		read_map(v, n, &r);
	} else if (v[0].type == RESP_BULK) {
		r.value = v[0].str;
	} else if (bytes_eq(v[0].str, bytes_str("NOTLOCKED"))) {
		r.outcome = OUT_NOTLOCKED;
	}
	return r;
}

/* Replies come in the order of the requests. */
static struct call *call_on(struct world *w, const struct end *e)
{
	struct call *first = NULL;
	for (unsigned i = 0; i < CALLS_MAX; i++)
		if (w->call[i].state == CALL_RUNS && w->call[i].node == e->node &&
			w->call[i].stream == e->link.serial &&
			(first == NULL || w->call[i].sent < first->sent))
			first = &w->call[i];
	return first;
}

static void hear(struct world *w, struct end *e)
{
	struct resp_value v[NODES_OF_REPLY_MAX];
	size_t n, used;
	while (e->link.out.len > 0 && !w->over) {
		enum resp_status s = resp_reply_parse(
			e->link.out.data, e->link.out.len, v, NODES_OF_REPLY_MAX, &n, &used);
		CHECK(s == RESP_OK);
		struct call *call = call_on(w, e);
		if (call == NULL) {
			violation(
				w, RUN_UNSAFE, "a reply that nobody waits for at node %u", e->node);
			return;
		}
		struct result r = result_of(call, v, n);
		r.tag = (uint64_t)call->gen << 16 | (uint64_t)(call - w->call);
		client_reply(w, e->node, &r);
		buf_drop_front(&e->link.out, used);
	}
}

/* ---- one loop of a shard ---- */

static void feed(struct shard_node *sn, struct end *e)
{
	if (e->fresh) {
		e->fresh = false;
		if (sn->h.open(sn->h.self, &e->link) != 0)
			e->close_wanted = true;
	}
	while (e->in.len > 0 && !e->close_wanted && !e->link.paused) {
		ssize_t n = sn->h.data(sn->h.self, &e->link, e->in.data, e->in.len);
		if (n < 0)
			e->close_wanted = true;
		if (n <= 0)
			break;
		buf_drop_front(&e->in, (size_t)n);
	}
}

static void flush(struct world *w, struct shard_node *sn, struct end *e)
{
	bool broken = e->gone || e->close_wanted;
	e->link.dirty = false;
	if (e->link.out.len > 0 && e->link.kind == LINK_CLIENT && !e->gone)
		hear(w, e);
	else if (e->link.out.len > 0 && !broken)
		ship(w, e);
	if (!broken)
		return;
	if (e->link.kind == LINK_PEER && !e->gone)
		/* The shard dropped it: its other end notices. */
		world_push(w, w->now + below(w, MS), ITEM_CUT, e->node, e->other,
			w->stream[e->node][e->other]);
	else if (e->link.kind == LINK_CLIENT)
		client_stream_ended(w, e->node, e->link.serial);
	end_finish(sn, e);
}

static void control(struct world *w, struct shard_node *sn)
{
	unsigned from;
	uint16_t type;
	size_t bytes;
	const void *body;
	mailbox_collect(sn->control);
	while ((body = mailbox_next(sn->control, &from, &type, &bytes)) != NULL) {
		if (type == MAIL_RAISE_CEILING) {
			struct node *n = &w->node[sn->id];
			uint64_t asked = get_u64(body);
			n->asked_n = asked > n->asked_n ? asked : n->asked_n;
			disk_want(w, sn->id);
		} else if (type == MAIL_LINK_DOWN) {
			struct mail_link down;
			memcpy(&down, body, sizeof down);
			world_push(w, w->now + 2 * MS + below(w, 500 * MS), ITEM_MEND, sn->id,
				down.node, 1);
		}
	}
}

void shard_loop(struct world *w, unsigned id)
{
	struct node *n = &w->node[id];
	struct shard_node *sn = n->shard;
	node_clocks(w, id);
	struct clocks now = {.slow = n->time.slow_ns,
		.fast = n->time.fast_ns,
		.mclk = clock_read(&n->mclk, w->now),
		.wall_us = n->time.wall_us};
	sn->h.collect(sn->h.self);
	sn->h.begin(sn->h.self, &now);
	for (unsigned i = 0; i < ENDS_PER_NODE; i++)
		if (ends[id][i].open)
			feed(sn, &ends[id][i]);
	sn->h.work(sn->h.self);
	for (unsigned i = 0; i < ENDS_PER_NODE && !w->over; i++)
		if (ends[id][i].open)
			flush(w, sn, &ends[id][i]);
	sn->h.publish(sn->h.self);
	if (w->over)
		return;
	control(w, sn);
	check_node(w, id);
	shard_arm(w, id);
}

void shard_arm(struct world *w, unsigned id)
{
	struct node *n = &w->node[id];
	uint64_t wait = n->shard->h.wait_ns(n->shard->h.self);
	if (wait == UINT64_MAX)
		return;
	uint64_t at = w->now + clock_true_ns(&n->fast, wait);
	if (at >= n->timer_at)
		return;
	n->timer_at = at;
	world_push(w, at + below(w, 100000), ITEM_TIMER, id, 0, ++n->timer_gen);
}

/* ---- events as a shard hears of them ---- */

static void tell(struct shard_node *sn, uint16_t type, const void *body, size_t bytes)
{
	memcpy(mailbox_put(sn->control, 0, type, bytes), body, bytes);
	mailbox_publish(sn->control, NULL, NULL);
}

static void link_event(struct world *w, unsigned id, unsigned other, bool up)
{
	struct shard_node *sn = w->node[id].shard;
	struct end *e = peer_end(id, other);
	if (!up) {
		e->gone = e->open;
		return;
	}
	if (e->open)
		end_finish(sn, e);
	end_open(e, LINK_PEER, id, other, CLIENTS_MAX);
	struct node *n = &w->node[id], *peer = &w->node[other];
	struct mail_adopt a = {.fd = (int)other,
		.node = (uint8_t)other,
		.links = 1,
		.status = (uint8_t)peer->restart.status,
		.peer_inc = peer->shard->inc,
		.peer_mclk = clock_read(&peer->mclk, w->now),
		.peer_mclk_at = clock_read(&n->mclk, w->now)};
	tell(sn, MAIL_ADOPT, &a, sizeof a);
	/* The configuration never changes at this level. */
	struct mail_peer_epoch told = {.inc = a.peer_inc, .epoch = 1, .node = a.node};
	tell(sn, MAIL_PEER_EPOCH, &told, sizeof told);
}

static void add_number(struct bytes *arg, char *text, size_t bytes, uint64_t n)
{
	*arg = bytes_of(text, (size_t)snprintf(text, bytes, "%llu", (unsigned long long)n));
}

static void request(struct world *w, unsigned id, const struct op_request *r)
{
	static const char *const names[] = {"LOCK", "UPDATE", "EXTEND", "RELEASE", "READ", "HOLDER",
		"WAITFOR", "WAITRELEASE", "LAG"};
	struct call *call = &w->call[r->tag & 0xffff];
	unsigned client = r->client.p[1];
	struct end *e = client_end(id, client);
	char ttl[24], token[24], wait[24];
	struct bytes argv[10] = {bytes_str(names[r->kind]), r->key};
	size_t argc = 2;
	if (!e->open)
		end_open(e, LINK_CLIENT, id, 0, client);
	call->stream = e->link.serial;
	if (r->any_value)
		argv[0] = bytes_str("BREAK");
	else if (r->kind <= OP_RELEASE)
		argv[argc++] = r->value;
	if (r->kind == OP_UPDATE)
		argv[argc++] = r->new_value;
	if (r->kind == OP_LOCK || r->kind == OP_EXTEND)
		add_number(&argv[argc++], ttl, sizeof ttl, r->ttl_ms);
	if (r->kind <= OP_RELEASE && r->kind != OP_LOCK && r->has_token) {
		argv[argc++] = bytes_str("TOKEN");
		add_number(&argv[argc++], token, sizeof token, r->token);
	}
	if (r->kind == OP_LOCK && r->wait)
		argv[argc++] = bytes_str("WAIT");
	if (r->wait || r->kind == OP_WAITFOR || r->kind == OP_WAITRELEASE)
		add_number(&argv[argc++], wait, sizeof wait, r->wait_ms);
	if (r->idempotent)
		argv[argc++] = bytes_str("IDEMPOTENT");
	if (r->kind == OP_READ_QUORUM)
		argv[argc++] = bytes_str("QUORUM");
	CHECK(resp_command(&e->in, argc, argv) == 0);
}

/* The connection of the client that asked for this is closed. */
static void cancel(struct world *w, unsigned id, uint64_t tag)
{
	uint64_t serial = w->call[tag & 0xffff].stream;
	for (unsigned i = 0; i < CLIENTS_MAX; i++)
		if (client_end(id, i)->open && client_end(id, i)->link.serial == serial)
			client_end(id, i)->gone = true;
}

void shard_event(struct world *w, unsigned id, const struct event *ev)
{
	struct shard_node *sn = w->node[id].shard;
	struct mail_status status;
	switch (ev->type) {
	case EV_OP:
		request(w, id, &ev->op);
		break;
	case EV_CANCEL:
		cancel(w, id, ev->cancel_tag);
		break;
	case EV_LINK:
		link_event(w, id, ev->link.node, ev->link.up);
		break;
	case EV_STATUS:
		status = (struct mail_status){
			.status = (uint8_t)ev->status.status, .floor_n = ev->status.floor_n};
		tell(sn, MAIL_STATUS, &status, sizeof status);
		break;
	case EV_CEILING:
		tell(sn, MAIL_CEILING, &ev->ceiling_n, sizeof ev->ceiling_n);
		break;
	case EV_MSG:
	case EV_TICK:
	case EV_MISSED:
	case EV_CONFIG:
	case EV_SETTLED:
		break;
	}
	shard_loop(w, id);
}

/* ---- life ---- */

void shard_start(struct world *w, unsigned id)
{
	struct node *n = &w->node[id];
	struct shard_node *sn = &shards[id];
	*sn = (struct shard_node){
		.env = {&ops}, .world = w, .id = id, .inc = prng_next(&w->rng) | 1};
	sn->mesh = mailbox_mesh_new(2, RING_BYTES);
	CHECK(sn->mesh != NULL);
	sn->control = mailbox_of(sn->mesh, 1);
	struct shard_config cfg = {.engine = n->cfg,
		.threads = 1,
		.inc = sn->inc,
		.cluster = 1,
		.max_clients = 64,
		.input_max_bytes = 65536,
		.output_max_bytes = 1 << 20,
		.output_soft_bytes = 1 << 18,
		.version = "sim",
		.cluster_name = "sim",
		.client_addr = "client",
		.peer_addr = "peer"};
	cfg.members = (struct membership){.epoch = 1,
		.masters_epoch = 1,
		.n_masters = n->cfg.n_masters,
		.slots = n->cfg.slots,
		.max_lease_ms = n->cfg.max_lease_ms,
		.attempt_ms = n->cfg.attempt_ms,
		.drift_ppm = n->cfg.drift_ppm};
	for (unsigned i = 0; i < n->cfg.n_masters; i++)
		cfg.members.masters[i] = (struct member){.id = n->cfg.masters[i], .addr = "peer"};
	struct clocks now = {.slow = n->time.slow_ns,
		.fast = n->time.fast_ns,
		.mclk = clock_read(&n->mclk, w->now),
		.wall_us = n->time.wall_us};
	sn->shard = shard_new(
		&cfg, &sn->env, mailbox_of(sn->mesh, 0), &now, n->memory, n->memory_bytes);
	CHECK(sn->shard != NULL);
	sn->h = shard_handler(sn->shard);
	n->shard = sn;
	n->engine = sn->shard->engine;
}

void shard_end(struct world *w, unsigned id)
{
	struct shard_node *sn = w->node[id].shard;
	if (sn == NULL)
		return;
	shard_free(sn->shard);
	mailbox_mesh_free(sn->mesh);
	for (unsigned i = 0; i < ENDS_PER_NODE; i++)
		if (ends[id][i].open)
			end_free(&ends[id][i]);
	w->node[id].shard = NULL;
}
