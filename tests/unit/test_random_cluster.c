/* Engines under a seeded storm: loss, duplication, reordering, pauses, crashes, links that flap,
 * and clocks that run at different rates. A judge with the true time in its hand checks the
 * promises of protocol.md 3 after every step. Arguments: number of runs, first seed. A failure
 * prints its seed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "cluster_fixture.h"
#include "core/internal.h"

enum {
	NODES = 5,
	KEYS = 3,
	CLIENTS = 8,
	MAILS = 8192,
	RELEASED = 64,
	RHO_PPM = 20000, /* far beyond real clocks, so that a forgotten margin shows */
	LEASE_MS = 1000,
	ATTEMPT_MS = 100,
	OP_MS = 200,
	STORM_MS = 4000,
	VALUE_BYTES = 24,
};

struct mail {
	uint64_t due_ns, sent_ns;
	uint8_t from, to;
	bool used, is_reply;
	unsigned to_life; /* of the receiver; a dead one gets nothing */
	uint8_t *bytes;
	size_t len;
};

struct node {
	struct engine *engine;
	void *memory;
	size_t memory_bytes;
	struct engine_config cfg;
	struct engine_time time;
	int rate_ppm;
	int64_t wall_skew_us;
	unsigned life;
	bool up, linked[NODES + 1];
	uint64_t paused_until_ns, down_until_ns;
	uint64_t active_at_ns; /* own clock; 0: votes */
	uint64_t ceiling_n, ceiling_wanted, ceiling_due_ns;
};

struct client {
	int rate_ppm;
	bool busy, idempotent, lost_answer;
	enum op_kind kind;
	unsigned key, node, life;
	uint64_t tag, sent_ns, start_ns,
		deadline_ns; /* true time; the node's clock for the deadline */
	bool started;
	struct op_request r;
	char value[VALUE_BYTES], new_value[VALUE_BYTES];
	uint64_t token, cid,
		seen_token;         /* ours; the highest of the key when this operation was sent */
	uint64_t believes_until_ns; /* true time; 0: does not */
	enum outcome outcome;
	bool covered; /* READ: somebody believes since before it was sent */
	uint64_t covered_token;
};

struct update {
	uint64_t token;
	char from[VALUE_BYTES];
};

struct key {
	char name[8];
	uint64_t top_token;
	struct ballot released[RELEASED]; /* two coordinators may have made one n: cid tells */
	unsigned n_released;
	struct update updates[RELEASED];
	unsigned n_updates;
	char value[VALUE_BYTES]; /* last one seen, for rivals to guess */
};

struct world {
	unsigned n;
	uint64_t seed, now_ns, next_tag, next_value;
	struct prng rng;
	struct node node[NODES + 1];
	struct client client[CLIENTS];
	struct key key[KEYS];
	struct mail mail[MAILS];
	unsigned mails;
	unsigned loss_ppm, dup_ppm, fault_ppm, slow_ppm;
	bool storm, state_files;
	uint64_t granted, answered;
};

static uint64_t total_granted, total_answered;

static _Noreturn void violation(const struct world *w, const char *what, uint64_t a, uint64_t b)
{
	(void)fprintf(stderr, "seed %llu, %u masters, at %llu us: %s (%llu, %llu)\n",
		(unsigned long long)w->seed, w->n, (unsigned long long)(w->now_ns / 1000), what,
		(unsigned long long)a, (unsigned long long)b);
	fail();
	abort();
}

static uint64_t below(struct world *w, uint64_t bound)
{
	return prng_below(&w->rng, bound);
}

static bool chance(struct world *w, unsigned ppm)
{
	return below(w, 1000000) < ppm;
}

/* True time for @ns of a clock that runs at @rate_ppm. */
static uint64_t true_ns(uint64_t ns, int rate_ppm)
{
	return (uint64_t)((double)ns * 1e6 / (1e6 + rate_ppm));
}

static const struct lease *live_at(const struct node *n, const struct key *k)
{
	struct bytes name = bytes_str(k->name);
	uint64_t hash = hash_bytes(name);
	const struct map_slot *s = map_find(&n->engine->leases, hash);
	if (s == NULL)
		return NULL;
	const struct lease *l = lease_at(n->engine, (uint32_t)s->value);
	return l->end_ns > n->time.slow_ns ? l : NULL;
}

/* ---- the judge ---- */

static void judge_belief(struct world *w, const struct client *c)
{
	const struct key *k = &w->key[c->key];
	for (unsigned i = 0; i < CLIENTS; i++) {
		const struct client *o = &w->client[i];
		if (o != c && o->key == c->key && o->believes_until_ns > w->now_ns)
			violation(w, "two believers", c->token, o->token);
	}
	/* Who does not hold it must not be enough to grant it anew (protocol.md 3, Lemma 1). */
	unsigned free = 0;
	for (unsigned id = 1; id <= w->n; id++) {
		const struct node *n = &w->node[id];
		if (!n->up || n->active_at_ns != 0)
			continue;
		const struct lease *l = live_at(n, k);
		free += l == NULL || l->token != c->token || l->cid != c->cid;
	}
	if (free >= w->n / 2 + 1)
		violation(w, "a majority is free under a believer", c->token, free);
}

static void judge(struct world *w)
{
	for (unsigned i = 0; i < CLIENTS; i++)
		if (w->client[i].believes_until_ns > w->now_ns)
			judge_belief(w, &w->client[i]);
	for (unsigned i = 0; i < KEYS; i++) {
		const struct key *k = &w->key[i];
		struct ballot held[NODES + 1] = {0};
		for (unsigned id = 1; id <= w->n; id++) {
			const struct lease *l = w->node[id].up ? live_at(&w->node[id], k) : NULL;
			held[id] = l == NULL ? (struct ballot){0} : lease_uid(l);
		}
		for (unsigned r = 0; r < k->n_released; r++) {
			unsigned live = 0;
			for (unsigned id = 1; id <= w->n; id++)
				live += ballot_eq(held[id], k->released[r]);
			if (live >= w->n / 2 + 1)
				violation(w, "a released lock is back", k->released[r].n, live);
		}
	}
}

static void judge_granted(struct world *w, struct client *c, const struct result *r)
{
	struct key *k = &w->key[c->key];
	bool adopted = c->idempotent && r->token <= k->top_token;
	/* A grant that nobody may believe (valid-ms 0) can be told after a later one; it still
	 * comes after whatever was granted before it was asked for. */
	uint64_t before = r->valid_ms == 0 ? c->seen_token : k->top_token;
	if (adopted ? r->token < c->seen_token : r->token <= before)
		violation(w, "a token that does not rise", r->token, k->top_token);
	if (r->votes < w->n / 2 + 1)
		violation(w, "too few votes", r->votes, r->token);
	if (r->token > k->top_token)
		k->top_token = r->token;
	w->granted++;
}

static void judge_update(struct world *w, struct client *c, const struct result *r)
{
	struct key *k = &w->key[c->key];
	if (r->token < c->seen_token)
		violation(w, "update of a lock that was over", r->token, c->seen_token);
	for (unsigned i = 0; i < k->n_updates; i++)
		if (k->updates[i].token == r->token && strcmp(k->updates[i].from, c->value) == 0)
			violation(w, "two updates from one value", r->token, i);
	struct update *u = &k->updates[k->n_updates++ % RELEASED];
	if (k->n_updates > RELEASED)
		k->n_updates = RELEASED;
	u->token = r->token;
	memcpy(u->from, c->value, VALUE_BYTES);
}

static void judge_read(struct world *w, const struct client *c, const struct result *r)
{
	if (r->outcome == OUT_OK && r->token < c->seen_token)
		violation(w, "read of a lock that was over", r->token, c->seen_token);
	if (!c->covered)
		return;
	/* Somebody believed all the time that the read ran. */
	bool still = false;
	for (unsigned i = 0; i < CLIENTS; i++)
		still = still ||
			(w->client[i].key == c->key && w->client[i].token == c->covered_token &&
				w->client[i].believes_until_ns > w->now_ns);
	if (!still)
		return;
	if (r->outcome == OUT_NULL)
		violation(w, "a held lock reads as free", c->covered_token, 0);
	if (r->outcome == OUT_OK && r->token != c->covered_token)
		violation(w, "a held lock reads as another", c->covered_token, r->token);
}

/* ---- clients ---- */

static void new_value(struct world *w, char *value)
{
	(void)snprintf(value, VALUE_BYTES, "v%llu", (unsigned long long)w->next_value++);
}

/* The incarnation that made the grant: its own, or whose attempt an idempotent lock found. */
static uint64_t adopted_cid(const struct world *w, const struct client *c, uint64_t token)
{
	if (!c->idempotent)
		return w->node[c->node].cfg.cid;
	for (unsigned id = 1; id <= w->n; id++) {
		unsigned same = 0;
		const struct lease *a =
			w->node[id].up ? live_at(&w->node[id], &w->key[c->key]) : NULL;
		for (unsigned k = 1; a != NULL && k <= w->n; k++) {
			const struct lease *b =
				w->node[k].up ? live_at(&w->node[k], &w->key[c->key]) : NULL;
			same += b != NULL && ballot_eq(lease_uid(a), lease_uid(b));
		}
		if (same >= w->n / 2 + 1 && a->token == token)
			return a->cid;
	}
	return w->node[c->node].cfg.cid;
}

static void believe(struct world *w, struct client *c, const struct result *r)
{
	uint64_t until_ns = c->sent_ns + true_ns(r->valid_ms * NS_PER_MS, c->rate_ppm);
	if (c->kind == OP_LOCK && (!c->idempotent || c->token != r->token))
		c->cid = adopted_cid(w, c, r->token);
	c->token = r->token;
	if (until_ns > c->believes_until_ns)
		c->believes_until_ns = until_ns;
	if (c->believes_until_ns > w->now_ns)
		judge_belief(w, c);
}

static void released(struct world *w, struct client *c, const struct result *r)
{
	struct key *k = &w->key[c->key];
	if (r->token < c->seen_token)
		violation(w, "release of a lock that was over", r->token, c->seen_token);
	if (c->token != r->token)
		return;
	unsigned at = k->n_released < RELEASED ? k->n_released++ : (unsigned)below(w, RELEASED);
	k->released[at] = (struct ballot){r->token, c->cid};
}

static void on_reply(struct world *w, unsigned id, const struct result *r)
{
	struct client *c = NULL;
	for (unsigned i = 0; i < CLIENTS; i++)
		if (w->client[i].busy && w->client[i].tag == r->tag)
			c = &w->client[i];
	if (c == NULL || c->node != id || !c->started)
		violation(w, "an answer that nobody waits for", r->tag, id);
	c->busy = false;
	c->outcome = r->outcome;
	w->answered++;
	bool ok = r->outcome == OUT_OK;
	c->lost_answer = c->kind == OP_LOCK && r->outcome == OUT_NOQUORUM && r->sent;
	if (c->kind == OP_LOCK && ok) {
		judge_granted(w, c, r);
		memcpy(w->key[c->key].value, c->value, VALUE_BYTES);
		believe(w, c, r);
	} else if (c->kind == OP_EXTEND && ok) {
		if (r->token < c->seen_token)
			violation(w, "extension of a lock that was over", r->token, c->seen_token);
		believe(w, c, r);
	} else if (c->kind == OP_UPDATE && ok) {
		judge_update(w, c, r);
		memcpy(w->key[c->key].value, c->new_value, VALUE_BYTES);
		if (c->token == r->token)
			memcpy(c->value, c->new_value, VALUE_BYTES);
	} else if (c->kind == OP_RELEASE && ok) {
		released(w, c, r);
	} else if (c->kind == OP_READ_QUORUM) {
		judge_read(w, c, r);
		if (ok && r->value.len < VALUE_BYTES && r->value.len > 0)
			(void)snprintf(w->key[c->key].value, VALUE_BYTES, "%.*s", (int)r->value.len,
				(const char *)r->value.p);
	}
}

static void choose_op(struct world *w, struct client *c, struct op_request *r)
{
	bool believes = c->believes_until_ns > w->now_ns;
	unsigned dice = (unsigned)below(w, 100);
	if (believes && dice < 85) {
		r->kind = dice < 35   ? OP_RELEASE
			  : dice < 60 ? OP_EXTEND
			  : dice < 80 ? OP_UPDATE
				      : OP_READ_QUORUM;
		if (dice % 3 == 0) {
			r->has_token = true;
			r->token = c->token;
		}
		return;
	}
	if (believes || dice < 50) {
		if (believes) /* gives its lock up in silence */
			c->believes_until_ns = 0;
		r->kind = OP_LOCK;
		r->idempotent = c->lost_answer && dice % 2 == 0;
		r->wait = dice < 25;
		r->wait_ms = r->wait ? below(w, 600) : 0;
		if (!r->idempotent) {
			c->key = (unsigned)below(w, KEYS);
			new_value(w, c->value);
		}
		return;
	}
	c->key = (unsigned)below(w, KEYS);
	r->kind = dice < 80   ? OP_READ_QUORUM
		  : dice < 84 ? OP_READ
		  : dice < 88 ? OP_WAITFOR
		  : dice < 92 ? OP_WAITRELEASE
			      : OP_UPDATE;
	if (r->kind == OP_UPDATE) /* a rival that guesses */
		memcpy(c->value, w->key[c->key].value, VALUE_BYTES);
	r->wait_ms = r->kind == OP_WAITFOR || r->kind == OP_WAITRELEASE ? below(w, 300) : 0;
	c->token = 0;
}

static void send_op(struct world *w, struct client *c)
{
	unsigned id = 1 + (unsigned)below(w, w->n);
	if (!w->node[id].up)
		return;
	struct op_request r = {.ttl_ms = 1 + (uint32_t)below(w, chance(w, 300000) ? 1000 : 300)};
	choose_op(w, c, &r);
	r.has_ttl =
		r.kind == OP_LOCK || r.kind == OP_EXTEND || (r.kind == OP_UPDATE && r.ttl_ms & 1);
	new_value(w, c->new_value);
	struct key *k = &w->key[c->key];
	c->busy = true;
	c->started = false;
	c->kind = r.kind;
	c->idempotent = r.idempotent;
	c->node = id;
	c->life = w->node[id].life;
	c->tag = r.tag = w->next_tag++;
	c->sent_ns = w->now_ns;
	c->start_ns = w->now_ns + below(w, 2 * NS_PER_MS);
	c->seen_token = k->top_token;
	c->covered = false;
	for (unsigned i = 0; i < CLIENTS; i++) {
		if (w->client[i].key == c->key && w->client[i].believes_until_ns > w->now_ns) {
			c->covered = true;
			c->covered_token = w->client[i].token;
		}
	}
	if (r.kind == OP_RELEASE)
		c->believes_until_ns = 0; /* before it is sent (protocol.md 2.6) */
	c->r = r;
}

static void step(struct world *w, unsigned id, const struct event *ev);

static void start_op(struct world *w, struct client *c)
{
	struct node *n = &w->node[c->node];
	const struct key *k = &w->key[c->key];
	c->started = true;
	c->r.key = bytes_str(k->name);
	c->r.hash = hash_bytes(c->r.key);
	c->r.value = bytes_str(c->value);
	c->r.new_value = c->kind == OP_UPDATE ? bytes_str(c->new_value) : (struct bytes){0};
	c->r.client = bytes_str("c");
	c->r.asked_fast_ns = n->time.fast_ns;
	c->deadline_ns = n->time.fast_ns + (OP_MS + c->r.wait_ms) * NS_PER_MS;
	struct op_request r = c->r;
	step(w, c->node, &(struct event){.type = EV_OP, .op = r});
}

static void run_clients(struct world *w)
{
	for (unsigned i = 0; i < CLIENTS; i++) {
		struct client *c = &w->client[i];
		const struct node *n = &w->node[c->node];
		if (!c->busy) {
			if (w->storm && chance(w, 60000))
				send_op(w, c);
			continue;
		}
		if (!n->up || n->life != c->life) {
			c->busy = false; /* its coordinator died */
			c->lost_answer = c->kind == OP_LOCK;
		} else if (n->paused_until_ns > w->now_ns) {
			continue;
		} else if (!c->started && c->start_ns <= w->now_ns) {
			start_op(w, c);
		} else if (c->started && n->time.fast_ns > c->deadline_ns + 2 * NS_PER_MS) {
			violation(w, "no answer in time", c->kind, c->tag);
		} else if (c->started && w->storm && c->r.wait && chance(w, 300)) {
			c->busy = false;
			c->lost_answer = c->kind == OP_LOCK;
			step(w, c->node, &(struct event){.type = EV_CANCEL, .cancel_tag = c->tag});
		}
	}
}

/* ---- the network ---- */

static void post(struct world *w, unsigned from, unsigned to, const struct msg *m)
{
	unsigned copies = 1 + chance(w, w->dup_ppm);
	if (!w->node[to].up || chance(w, w->loss_ppm))
		return;
	while (copies-- > 0) {
		struct buf b;
		buf_init(&b, 0);
		assert_int_equal(msg_encode(&b, m), 0);
		unsigned at = w->mails;
		assert_true(at < MAILS);
		uint64_t delay_ns = 50000 + below(w, NS_PER_MS);
		if (chance(w, w->slow_ppm))
			delay_ns += below(w, 2 * ATTEMPT_MS * NS_PER_MS);
		w->mail[w->mails++] = (struct mail){.due_ns = w->now_ns + delay_ns,
			.sent_ns = w->now_ns,
			.from = (uint8_t)from,
			.to = (uint8_t)to,
			.used = true,
			.is_reply = m->type == MSG_REPLY,
			.to_life = w->node[to].life,
			.bytes = b.data,
			.len = b.len};
	}
}

static void deliver_one(struct world *w, const struct mail *m)
{
	const struct node *n = &w->node[m->to];
	struct msg msg;
	size_t used;
	/* Requests have a lifetime (protocol.md 2.4); the shard drops older ones. */
	bool too_old = !m->is_reply && w->now_ns - m->sent_ns > ATTEMPT_MS * NS_PER_MS;
	if (n->up && n->life == m->to_life && n->linked[m->from] && !too_old) {
		assert_int_equal(msg_decode(m->bytes, m->len, &msg, &used), 0);
		step(w, m->to, &(struct event){.type = EV_MSG, .msg = {m->from, &msg}});
	}
	free(m->bytes);
}

static void deliver(struct world *w)
{
	unsigned kept = 0, end = w->mails;
	for (unsigned i = 0; i < end; i++) {
		struct mail m = w->mail[i];
		if (m.due_ns > w->now_ns || w->node[m.to].paused_until_ns > w->now_ns)
			w->mail[kept++] = m;
		else
			deliver_one(w, &m);
	}
	/* What the deliveries sent lies behind the old end. */
	memmove(&w->mail[kept], &w->mail[end], (w->mails - end) * sizeof w->mail[0]);
	w->mails -= end - kept;
}

/* ---- nodes ---- */

static void set_time(const struct world *w, struct node *n, uint64_t passed_ns)
{
	uint64_t own_ns = (uint64_t)((double)passed_ns * (1e6 + n->rate_ppm) / 1e6);
	n->time.slow_ns += own_ns;
	n->time.fast_ns += own_ns;
	n->time.wall_us = UINT64_C(1800000000000000) + w->now_ns / 1000 + (uint64_t)n->wall_skew_us;
}

static void step(struct world *w, unsigned id, const struct event *ev)
{
	static struct effects fx; /* not used again while it is read: replies start nothing */
	struct node *n = &w->node[id];
	engine_step(n->engine, &n->time, ev, &fx);
	for (unsigned i = 0; i < fx.n; i++) {
		const struct effect *f = &fx.v[i];
		if (f->type == FX_REPLY) {
			on_reply(w, id, &f->reply);
		} else if (f->type == FX_SEND) {
			for (unsigned k = 0; k < f->send.to_count; k++)
				post(w, id, f->send.to[k], &f->send.msg);
		} else {
			n->ceiling_wanted = f->ceiling_n;
			n->ceiling_due_ns = w->now_ns + below(w, 20 * NS_PER_MS);
		}
	}
}

static void set_link(struct world *w, unsigned a, unsigned b, bool up)
{
	if (a == b || !w->node[a].up || !w->node[b].up || w->node[a].linked[b] == up)
		return;
	w->node[a].linked[b] = w->node[b].linked[a] = up;
	step(w, a, &(struct event){.type = EV_LINK, .link = {(uint8_t)b, up}});
	step(w, b, &(struct event){.type = EV_LINK, .link = {(uint8_t)a, up}});
}

static void start_node(struct world *w, unsigned id)
{
	struct node *n = &w->node[id];
	n->cfg.cid = prng_next(&w->rng) | 1;
	n->cfg.seed = prng_next(&w->rng);
	n->cfg.ceiling_n = w->state_files ? n->ceiling_n : BALLOT_MAX;
	n->cfg.start_n = w->state_files ? n->ceiling_n : 0;
	n->memory_bytes = engine_memory_bytes(&n->cfg);
	n->memory = fixture_memory(n->memory_bytes);
	n->engine = engine_init(&n->cfg, &n->time, n->memory, n->memory_bytes);
	n->up = true;
	n->life++;
	n->ceiling_due_ns = 0;
	/* D_Q of protocol.md 2.1, which is more than T_tomb here. */
	double kappa = (1e6 + RHO_PPM) / (1e6 - RHO_PPM);
	uint64_t quarantine_ns =
		(uint64_t)(kappa * (LEASE_MS + ATTEMPT_MS) * (double)NS_PER_MS) + 10 * NS_PER_MS;
	n->active_at_ns = n->time.slow_ns + quarantine_ns;
	for (unsigned k = 1; k <= w->n; k++)
		set_link(w, id, k, true);
}

static void activate(struct world *w, unsigned id)
{
	struct node *n = &w->node[id];
	n->active_at_ns = 0;
	uint64_t floor_n = w->state_files ? n->ceiling_n : n->time.wall_us - EPOCH_US;
	step(w, id, &(struct event){.type = EV_STATUS, .status = {NODE_ACTIVE, floor_n}});
}

static void crash(struct world *w, unsigned id)
{
	for (unsigned k = 1; k <= w->n; k++)
		set_link(w, id, k, false);
	w->node[id].up = false;
	fixture_memory_free(w->node[id].memory, w->node[id].memory_bytes);
	w->node[id].down_until_ns = w->now_ns + below(w, 800 * NS_PER_MS);
}

static void run_node(struct world *w, unsigned id)
{
	struct node *n = &w->node[id];
	if (!n->up) {
		if (n->down_until_ns <= w->now_ns)
			start_node(w, id);
		return;
	}
	if (n->paused_until_ns > w->now_ns)
		return;
	if (n->ceiling_due_ns != 0 && n->ceiling_due_ns <= w->now_ns) {
		n->ceiling_due_ns = 0;
		n->ceiling_n = n->ceiling_wanted;
		step(w, id, &(struct event){.type = EV_CEILING, .ceiling_n = n->ceiling_n});
	}
	if (n->active_at_ns != 0 && n->active_at_ns <= n->time.slow_ns)
		activate(w, id);
	for (unsigned i = 0; engine_wait_ns(n->engine, &n->time) == 0; i++) {
		if (i == 1000)
			violation(w, "an engine that never rests", id, 0);
		step(w, id, &(struct event){.type = EV_TICK});
	}
}

static void make_faults(struct world *w)
{
	if (!w->storm || !chance(w, w->fault_ppm))
		return;
	unsigned id = 1 + (unsigned)below(w, w->n);
	unsigned other = 1 + (unsigned)below(w, w->n);
	unsigned dice = (unsigned)below(w, 100);
	struct node *n = &w->node[id];
	if (dice < 40 && other != id)
		set_link(w, id, other, dice < 8); /* mended by and by, see advance() */
	else if (dice < 65)
		n->paused_until_ns = w->now_ns + below(w, chance(w, 300000) ? 1500 * NS_PER_MS
									    : 150 * NS_PER_MS);
	else if (dice < 69 && n->up)
		crash(w, id);
	else if (dice < 90)
		n->rate_ppm = (int)below(w, 2 * RHO_PPM + 1) - RHO_PPM;
	else if (w->state_files)
		n->wall_skew_us = (int64_t)below(w, 20000000) - 10000000;
}

static void advance(struct world *w, uint64_t ns)
{
	w->now_ns += ns;
	for (unsigned id = 1; id <= w->n; id++)
		set_time(w, &w->node[id], ns);
	make_faults(w);
	if (chance(w, 30000))
		set_link(w, 1 + (unsigned)below(w, w->n), 1 + (unsigned)below(w, w->n), true);
	deliver(w);
	for (unsigned id = 1; id <= w->n; id++)
		run_node(w, id);
	run_clients(w);
	judge(w);
}

/* ---- a run ---- */

static void build(struct world *w, uint64_t seed)
{
	w->seed = seed;
	prng_seed(&w->rng, seed);
	w->n = below(w, 3) == 0 ? 5 : 3;
	w->now_ns = NS_PER_MS;
	w->next_tag = 1;
	w->storm = true;
	w->state_files = chance(w, 500000);
	w->loss_ppm = chance(w, 500000) ? (unsigned)below(w, 200000) : 0;
	w->dup_ppm = (unsigned)below(w, 200000);
	w->slow_ppm = (unsigned)below(w, 150000);
	w->fault_ppm = (unsigned)below(w, 20000);
	for (unsigned i = 0; i < KEYS; i++)
		(void)snprintf(w->key[i].name, sizeof w->key[i].name, "k%u", i);
	for (unsigned i = 0; i < CLIENTS; i++)
		w->client[i].rate_ppm = (int)below(w, 2 * RHO_PPM + 1) - RHO_PPM;
	for (unsigned id = 1; id <= w->n; id++) {
		struct node *n = &w->node[id];
		n->cfg = (struct engine_config){.self = (uint8_t)id,
			.n_masters = (uint8_t)w->n,
			.slots = 16,
			.threads = 1,
			.max_lease_ms = LEASE_MS,
			.attempt_ms = ATTEMPT_MS,
			.drift_ppm = RHO_PPM,
			.op_timeout_ms = OP_MS,
			.max_leases = 64,
			.max_ops = 64,
			.max_waiters_per_key = 16};
		for (unsigned k = 0; k < w->n; k++)
			n->cfg.masters[k] = (uint8_t)(k + 1);
		n->rate_ppm = (int)below(w, 2 * RHO_PPM + 1) - RHO_PPM;
		n->wall_skew_us = (int64_t)below(w, 200000) - 100000;
		n->time = (struct engine_time){NS_PER_MS, NS_PER_MS, 0};
		set_time(w, n, 0);
		n->ceiling_n = n->time.wall_us - EPOCH_US;
		start_node(w, id);
		activate(w, id);
	}
}

/* Everything works again: every operation ends, and every key is free after the longest lease. */
static void heal_and_check(struct world *w)
{
	w->storm = false;
	w->loss_ppm = w->dup_ppm = w->slow_ppm = 0;
	for (unsigned id = 1; id <= w->n; id++)
		w->node[id].paused_until_ns = w->node[id].down_until_ns = 0;
	advance(w, NS_PER_MS);
	for (unsigned a = 1; a <= w->n; a++)
		for (unsigned b = a + 1; b <= w->n; b++)
			set_link(w, a, b, true);
	for (unsigned i = 0; i < 3000; i++)
		advance(w, NS_PER_MS);
	for (unsigned i = 0; i < CLIENTS; i++)
		if (w->client[i].busy)
			violation(w, "an operation without answer", w->client[i].kind, i);
	for (unsigned i = 0; i < KEYS * w->n; i++) {
		struct client *c = &w->client[0];
		c->believes_until_ns = 0;
		c->busy = true;
		c->started = false;
		c->kind = OP_LOCK;
		c->key = i % KEYS;
		c->node = 1 + i / KEYS;
		c->life = w->node[c->node].life;
		c->tag = w->next_tag++;
		c->sent_ns = c->start_ns = w->now_ns;
		c->idempotent = false;
		c->r = (struct op_request){
			.kind = OP_LOCK, .tag = c->tag, .ttl_ms = 20, .has_ttl = true};
		new_value(w, c->value);
		uint64_t before = w->granted;
		for (unsigned ms = 0; ms < 100 && c->busy; ms++)
			advance(w, NS_PER_MS);
		if (w->granted != before + 1)
			violation(w, "a free key cannot be locked", c->node,
				c->busy ? 99 : c->outcome);
		for (unsigned ms = 0; ms < 25; ms++)
			advance(w, NS_PER_MS);
	}
}

static void run(uint64_t seed)
{
	struct world *w = calloc(1, sizeof *w);
	assert_non_null(w);
	build(w, seed);
	for (unsigned i = 0; w->now_ns < STORM_MS * NS_PER_MS; i++) {
		advance(w, 200000 + below(w, 600000));
		for (unsigned id = 1; i % 500 == 0 && id <= w->n; id++)
			if (w->node[id].up)
				engine_validate(w->node[id].engine);
	}
	heal_and_check(w);
	for (unsigned i = 0; i < w->mails; i++)
		free(w->mail[i].bytes);
	for (unsigned id = 1; id <= w->n; id++) {
		engine_validate(w->node[id].engine);
		fixture_memory_free(w->node[id].memory, w->node[id].memory_bytes);
	}
	total_granted += w->granted;
	total_answered += w->answered;
	free(w);
}

static uint64_t runs = 400, first_seed = 1;

static void test_random_cluster_keeps_its_promises(void **state)
{
	(void)state;
	for (uint64_t i = 0; i < runs; i++)
		run(first_seed + i);
	(void)fprintf(stderr, "%llu runs, %llu answers, %llu grants\n", (unsigned long long)runs,
		(unsigned long long)total_answered, (unsigned long long)total_granted);
	assert_true(total_granted > runs * 10); /* the storm lets something through */
}

int main(int argc, char **argv)
{
	if (argc > 1)
		runs = strtoull(argv[1], NULL, 10);
	if (argc > 2)
		first_seed = strtoull(argv[2], NULL, 10);
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_random_cluster_keeps_its_promises),
	};
	return cmocka_run_group_tests_name("random_cluster", tests, NULL, NULL);
}
