#include "cluster_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "base/hash.h"

#define NS_PER_MS UINT64_C(1000000)

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_UNPOISON_MEMORY_REGION(p, bytes) ((void)(p), (void)(bytes))
#endif

void *fixture_memory(size_t bytes)
{
	void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	assert_true(memory != MAP_FAILED);
	return memory;
}

void fixture_memory_free(void *memory, size_t bytes)
{
	/* The engine's arena poisons what it does not use; the next mapping may lie here again. */
	ASAN_UNPOISON_MEMORY_REGION(memory, bytes);
	munmap(memory, bytes);
}

/* The first rule that matches, or NULL. */
static const struct fixture_rule *rule_for(
	const struct fixture *f, unsigned from, unsigned to, const struct msg *m)
{
	bool reply = m->type == MSG_REPLY;
	uint8_t type = reply ? m->req_type : m->type;
	for (unsigned i = 0; i < f->n_rules; i++) {
		const struct fixture_rule *r = &f->rules[i];
		if ((r->from == 0 || r->from == from) && (r->to == 0 || r->to == to) &&
			(r->type == 0 || r->type == type) && r->reply == reply)
			return r;
	}
	return NULL;
}

static void post(struct fixture *f, unsigned from, unsigned to, const struct msg *m)
{
	const struct fixture_rule *rule = rule_for(f, from, to, m);
	if (f->node[to].down || f->cut[from][to] || (rule != NULL && !rule->delay) ||
		(f->lose != NULL && f->lose(f, (uint8_t)from, (uint8_t)to, m)))
		return;
	for (int copies = f->twice ? 2 : 1; copies > 0; copies--) {
		struct buf b;
		buf_init(&b, 0);
		assert_int_equal(msg_encode(&b, m), 0);
		struct fixture_mail *mail = &f->mail[f->mail_tail++ % MAIL_MAX];
		assert_false(mail->used);
		*mail = (struct fixture_mail){.from = (uint8_t)from,
			.to = (uint8_t)to,
			.used = true,
			.delayed = rule != NULL,
			.moves = f->node[from].moves,
			.bytes = b.data,
			.len = b.len};
	}
}

static void carry_out(struct fixture *f, unsigned id, const struct effects *fx)
{
	for (unsigned i = 0; i < fx->n; i++) {
		const struct effect *e = &fx->v[i];
		if (e->type == FX_REPLY) {
			assert_true(f->n_results < RESULTS_MAX);
			struct fixture_result *r = &f->results[f->n_results++];
			r->r = e->reply;
			r->at_fast_ns = f->now_ns;
			memset(r->value, 0, sizeof r->value);
			memset(r->client, 0, sizeof r->client);
			if (e->reply.value.len > 0 && e->reply.value.len < sizeof r->value)
				memcpy(r->value, e->reply.value.p, e->reply.value.len);
			if (e->reply.client.len > 0)
				memcpy(r->client, e->reply.client.p, e->reply.client.len);
		} else if (e->type == FX_SEND) {
			for (unsigned k = 0; k < e->send.to_count; k++)
				post(f, id, e->send.to[k], &e->send.msg);
		} else {
			f->node[id].ceilings++;
			f->node[id].ceiling_n = e->ceiling_n;
		}
	}
}

static void step(struct fixture *f, unsigned id, const struct event *ev)
{
	static struct effects fx;
	struct fixture_node *n = &f->node[id];
	n->time.slow_ns = f->now_ns - n->booted_ns;
	n->time.fast_ns = n->time.slow_ns + n->suspended_ns;
	n->time.wall_us = f->wall_us + f->now_ns / 1000;
	engine_step(n->engine, &n->time, ev, &fx);
	carry_out(f, id, &fx);
}

static void start_node(struct fixture *f, unsigned id)
{
	struct fixture_node *n = &f->node[id];
	n->memory_bytes = engine_memory_bytes(&n->cfg);
	assert_true(n->memory_bytes > 0);
	n->memory = fixture_memory(n->memory_bytes);
	n->time.slow_ns = f->now_ns - n->booted_ns;
	n->time.fast_ns = n->time.slow_ns + n->suspended_ns;
	n->time.wall_us = f->wall_us + f->now_ns / 1000;
	n->engine = engine_init(&n->cfg, &n->time, n->memory, n->memory_bytes);
	n->down = n->paused = false;
}

struct fixture *fixture_new(unsigned n, void (*change)(struct engine_config *cfg))
{
	struct fixture *f = calloc(1, sizeof *f);
	assert_non_null(f);
	f->n = n;
	f->now_ns = 1000 * NS_PER_MS;
	f->next_tag = 1;
	f->wall_us = UINT64_C(1800000000000000);
	for (unsigned id = 1; id <= n; id++) {
		struct engine_config *c = &f->node[id].cfg;
		*c = (struct engine_config){.self = (uint8_t)id,
			.n_masters = (uint8_t)n,
			.slots = 64,
			.threads = 1,
			.max_lease_ms = 60000,
			.attempt_ms = 1000,
			.drift_ppm = 1000,
			.op_timeout_ms = 2000,
			.max_leases = 4096,
			.max_ops = 1024,
			.max_waiters_per_key = 512,
			.cid = 0x1000 + id,
			.seed = id,
			.ceiling_n = BALLOT_MAX};
		for (unsigned k = 0; k < n; k++)
			c->masters[k] = (uint8_t)(k + 1);
		if (change != NULL)
			change(c);
		start_node(f, id);
		fixture_activate(f, id, 0);
	}
	for (unsigned a = 1; a <= n; a++)
		for (unsigned b = a + 1; b <= n; b++)
			fixture_link(f, a, b, true);
	return f;
}

void fixture_free(struct fixture *f)
{
	f->hold = false;
	for (; f->mail_head != f->mail_tail; f->mail_head++) {
		if (f->mail[f->mail_head % MAIL_MAX].used)
			free(f->mail[f->mail_head % MAIL_MAX].bytes);
		f->mail[f->mail_head % MAIL_MAX].used = false;
	}
	for (unsigned id = 1; id <= f->n; id++) {
		if (f->node[id].down)
			continue;
		engine_validate(f->node[id].engine);
		fixture_memory_free(f->node[id].memory, f->node[id].memory_bytes);
	}
	free(f);
}

bool fixture_deliver_one(struct fixture *f)
{
	unsigned end = f->mail_tail;
	for (unsigned i = f->mail_head; i != end; i++) {
		struct fixture_mail *m = &f->mail[i % MAIL_MAX];
		if (!m->used || m->delayed || f->node[m->to].paused)
			continue;
		struct msg msg;
		size_t used;
		m->used = false;
		if (!f->node[m->to].down && !f->cut[m->from][m->to] &&
			f->node[m->to].moves == m->moves) {
			assert_int_equal(msg_decode(m->bytes, m->len, &msg, &used), 0);
			assert_int_equal(used, m->len);
			f->messages++;
			step(f, m->to, &(struct event){.type = EV_MSG, .msg = {m->from, &msg}});
		}
		free(m->bytes);
		while (f->mail_head != f->mail_tail && !f->mail[f->mail_head % MAIL_MAX].used)
			f->mail_head++;
		return true;
	}
	return false;
}

void fixture_settle(struct fixture *f)
{
	if (f->hold)
		return;
	while (fixture_deliver_one(f))
		;
}

static void tick_all(struct fixture *f)
{
	for (unsigned id = 1; id <= f->n; id++) {
		struct fixture_node *n = &f->node[id];
		if (n->down || n->paused)
			continue;
		for (int i = 0; i < 1000; i++) {
			step(f, id, &(struct event){.type = EV_TICK});
			if (engine_wait_ns(n->engine, &n->time) > 0)
				break;
		}
	}
}

void fixture_run_ms(struct fixture *f, uint64_t ms)
{
	for (uint64_t i = 0; i < ms; i++) {
		f->now_ns += NS_PER_MS;
		tick_all(f);
		fixture_settle(f);
	}
}

void fixture_crash(struct fixture *f, unsigned id)
{
	for (unsigned k = 1; k <= f->n; k++)
		if (k != id && !f->node[k].down)
			fixture_link(f, id, k, false);
	f->node[id].down = true;
	/* What is under way to the dead incarnation reaches no later one (protocol.md 2.4). */
	for (unsigned i = f->mail_head; i != f->mail_tail; i++) {
		struct fixture_mail *m = &f->mail[i % MAIL_MAX];
		if (!m->used || m->to != id)
			continue;
		free(m->bytes);
		m->used = false;
	}
	fixture_memory_free(f->node[id].memory, f->node[id].memory_bytes);
	f->node[id].memory = NULL;
}

void fixture_restart(struct fixture *f, unsigned id)
{
	f->node[id].cfg.cid += 0x100;
	start_node(f, id);
	for (unsigned k = 1; k <= f->n; k++)
		if (k != id && !f->node[k].down)
			fixture_link(f, id, k, true);
}

void fixture_activate(struct fixture *f, unsigned id, uint64_t floor_n)
{
	step(f, id, &(struct event){.type = EV_STATUS, .status = {NODE_ACTIVE, floor_n}});
}

static void come_back(struct fixture *f, unsigned id)
{
	const struct engine_config *c = &f->node[id].cfg;
	fixture_restart(f, id);
	fixture_run_ms(f, engine_restart_wait_ns(c->attempt_ms, c->drift_ppm) / NS_PER_MS + 1);
	fixture_status(f, id, NODE_RESYNC);
}

void fixture_resync(struct fixture *f, unsigned id)
{
	fixture_crash(f, id);
	come_back(f, id);
}

void fixture_reboot(struct fixture *f, unsigned id)
{
	fixture_crash(f, id);
	f->node[id].booted_ns = f->now_ns;
	come_back(f, id);
}

struct engine_members fixture_members(const struct fixture *f, unsigned id)
{
	const struct engine_config *c = &f->node[id].cfg;
	struct engine_members m = {.masters_epoch = c->masters_epoch,
		.n_masters = c->n_masters,
		.joined = c->joined,
		.departed = c->departed};
	memcpy(m.masters, c->masters, sizeof m.masters);
	return m;
}

struct engine_members fixture_next(const struct engine_members *m, uint8_t joined, uint8_t departed)
{
	struct engine_members next = {
		.masters_epoch = m->masters_epoch + 1, .joined = joined, .departed = departed};
	for (unsigned node = 1; node <= NODES_MAX; node++) {
		bool is_one = node == joined;
		for (unsigned i = 0; i < m->n_masters; i++)
			is_one = is_one || (m->masters[i] == node && node != departed);
		if (is_one)
			next.masters[next.n_masters++] = (uint8_t)node;
	}
	return next;
}

static bool all_in_sync(const struct fixture *f, const struct engine_members *m)
{
	for (unsigned i = 0; i < m->n_masters; i++)
		if (!f->node[m->masters[i]].down &&
			fixture_stats(f, m->masters[i]).synced_epoch != m->masters_epoch)
			return false;
	return true;
}

void fixture_until_in_sync(struct fixture *f, const struct engine_members *m)
{
	for (unsigned i = 0; i < 5000 && !all_in_sync(f, m); i++)
		fixture_run_ms(f, 1);
	assert_true(all_in_sync(f, m));
}

void fixture_config(struct fixture *f, unsigned id, const struct engine_members *m)
{
	struct engine_config *c = &f->node[id].cfg;
	c->n_masters = m->n_masters;
	memcpy(c->masters, m->masters, sizeof c->masters);
	c->masters_epoch = m->masters_epoch;
	c->joined = m->joined;
	c->departed = m->departed;
	c->replica = m->replica;
	for (unsigned k = 1; k <= f->n; k++)
		if (k != id && !f->node[k].down && f->node[k].moves == f->node[id].moves)
			fixture_link(f, id, k, false);
	f->node[id].moves++;
	step(f, id, &(struct event){.type = EV_CONFIG, .members = *m});
	for (unsigned k = 1; k <= f->n; k++)
		if (k != id && !f->node[k].down && f->node[k].moves == f->node[id].moves)
			fixture_link(f, id, k, true);
}

void fixture_config_all(struct fixture *f, const struct engine_members *m)
{
	for (unsigned id = 1; id <= f->n; id++)
		if (!f->node[id].down)
			fixture_config(f, id, m);
	if (m->joined != 0 && !f->node[m->joined].down)
		fixture_status(f, m->joined, NODE_RESYNC);
}

void fixture_settled(struct fixture *f, unsigned id)
{
	step(f, id, &(struct event){.type = EV_SETTLED});
}

void fixture_missed(struct fixture *f, unsigned id)
{
	step(f, id, &(struct event){.type = EV_MISSED});
	fixture_settle(f);
}

void fixture_cut(struct fixture *f, unsigned a, unsigned b, bool cut)
{
	f->cut[a][b] = f->cut[b][a] = cut;
}

void fixture_link(struct fixture *f, unsigned a, unsigned b, bool up)
{
	step(f, a, &(struct event){.type = EV_LINK, .link = {(uint8_t)b, up}});
	step(f, b, &(struct event){.type = EV_LINK, .link = {(uint8_t)a, up}});
}

void fixture_pause(struct fixture *f, unsigned id, bool paused)
{
	f->node[id].paused = paused;
}

static void add_rule(
	struct fixture *f, unsigned from, unsigned to, enum msg_type type, bool reply, bool delay)
{
	assert_true(f->n_rules < RULES_MAX);
	f->rules[f->n_rules++] =
		(struct fixture_rule){(uint8_t)from, (uint8_t)to, (uint8_t)type, reply, delay};
}

void fixture_lose(struct fixture *f, unsigned from, unsigned to, enum msg_type type)
{
	add_rule(f, from, to, type, false, false);
}

void fixture_lose_reply(struct fixture *f, unsigned from, unsigned to, enum msg_type type)
{
	add_rule(f, from, to, type, true, false);
}

void fixture_delay(struct fixture *f, unsigned from, unsigned to, enum msg_type type)
{
	add_rule(f, from, to, type, false, true);
}

void fixture_delay_reply(struct fixture *f, unsigned from, unsigned to, enum msg_type type)
{
	add_rule(f, from, to, type, true, true);
}

void fixture_let_go_of(struct fixture *f, enum msg_type type)
{
	for (unsigned i = f->mail_head; i != f->mail_tail; i++) {
		struct fixture_mail *m = &f->mail[i % MAIL_MAX];
		struct msg msg;
		size_t used;
		if (!m->used || !m->delayed)
			continue;
		assert_int_equal(msg_decode(m->bytes, m->len, &msg, &used), 0);
		if (msg.type == type || (msg.type == MSG_REPLY && msg.req_type == type))
			m->delayed = false;
	}
	fixture_settle(f);
}

void fixture_let_go(struct fixture *f)
{
	f->n_rules = 0;
	for (unsigned i = f->mail_head; i != f->mail_tail; i++)
		f->mail[i % MAIL_MAX].delayed = false;
	fixture_settle(f);
}

void fixture_status(struct fixture *f, unsigned id, enum node_status status)
{
	step(f, id, &(struct event){.type = EV_STATUS, .status = {status, 0}});
	fixture_settle(f);
}

void fixture_ceiling(struct fixture *f, unsigned id, uint64_t n)
{
	step(f, id, &(struct event){.type = EV_CEILING, .ceiling_n = n});
	fixture_settle(f);
}

void fixture_cancel(struct fixture *f, unsigned id, uint64_t tag)
{
	step(f, id, &(struct event){.type = EV_CANCEL, .cancel_tag = tag});
	fixture_settle(f);
}

void fixture_msg(struct fixture *f, unsigned from, unsigned to, struct msg m)
{
	m.slot = engine_slot_of(hash_bytes(m.key), f->node[to].cfg.slots);
	post(f, from, to, &m);
	fixture_settle(f);
}

struct engine_stats fixture_stats(const struct fixture *f, unsigned id)
{
	struct engine_stats s;
	engine_stats(f->node[id].engine, &s);
	return s;
}

uint64_t fixture_op(struct fixture *f, unsigned id, struct op_request r)
{
	r.tag = f->next_tag++;
	r.hash = hash_bytes(r.key);
	r.asked_fast_ns = f->now_ns - f->node[id].booted_ns;
	if (r.client.len == 0)
		r.client = bytes_str("tester");
	step(f, id, &(struct event){.type = EV_OP, .op = r});
	fixture_settle(f);
	return r.tag;
}

uint64_t fixture_lock(
	struct fixture *f, unsigned id, const char *key, const char *value, uint32_t ttl_ms)
{
	return fixture_op(f, id,
		(struct op_request){.kind = OP_LOCK,
			.key = bytes_str(key),
			.value = bytes_str(value),
			.ttl_ms = ttl_ms,
			.has_ttl = true});
}

uint64_t fixture_lock_wait(struct fixture *f, unsigned id, const char *key, const char *value,
	uint32_t ttl_ms, uint64_t wait_ms)
{
	return fixture_op(f, id,
		(struct op_request){.kind = OP_LOCK,
			.key = bytes_str(key),
			.value = bytes_str(value),
			.ttl_ms = ttl_ms,
			.has_ttl = true,
			.wait = true,
			.wait_ms = wait_ms});
}

uint64_t fixture_release(struct fixture *f, unsigned id, const char *key, const char *value)
{
	return fixture_op(f, id,
		(struct op_request){
			.kind = OP_RELEASE, .key = bytes_str(key), .value = bytes_str(value)});
}

uint64_t fixture_extend(
	struct fixture *f, unsigned id, const char *key, const char *value, uint32_t ttl_ms)
{
	return fixture_op(f, id,
		(struct op_request){.kind = OP_EXTEND,
			.key = bytes_str(key),
			.value = bytes_str(value),
			.ttl_ms = ttl_ms,
			.has_ttl = true});
}

uint64_t fixture_update(
	struct fixture *f, unsigned id, const char *key, const char *value, const char *new_value)
{
	return fixture_op(f, id,
		(struct op_request){.kind = OP_UPDATE,
			.key = bytes_str(key),
			.value = bytes_str(value),
			.new_value = bytes_str(new_value)});
}

uint64_t fixture_read(struct fixture *f, unsigned id, const char *key, bool quorum)
{
	return fixture_op(f, id,
		(struct op_request){
			.kind = quorum ? OP_READ_QUORUM : OP_READ, .key = bytes_str(key)});
}

const struct fixture_result *fixture_result(const struct fixture *f, uint64_t tag)
{
	for (unsigned i = 0; i < f->n_results; i++)
		if (f->results[i].r.tag == tag)
			return &f->results[i];
	return NULL;
}

enum outcome fixture_outcome(struct fixture *f, uint64_t tag)
{
	fixture_settle(f);
	/* Rivals back off for moments. */
	for (unsigned ms = 0; ms < 100 && fixture_result(f, tag) == NULL; ms++)
		fixture_run_ms(f, 1);
	const struct fixture_result *r = fixture_result(f, tag);
	assert_non_null(r);
	return r->r.outcome;
}
