/* Time: what is due next, clocks that go wrong, and the course of one run. */
#include "shard_node.h"

/* ---- a heap of what is due: by time, then by age ---- */

static bool earlier(const struct item *a, const struct item *b)
{
	return a->at != b->at ? a->at < b->at : a->seq < b->seq;
}

void world_push(struct world *w, uint64_t at, enum item_kind kind, unsigned node, unsigned idx,
	uint32_t gen)
{
	CHECK(w->items < ITEMS_MAX);
	struct item it = {.at = at > w->now ? at : w->now,
		.seq = w->next_seq++,
		.gen = gen,
		.idx = (uint16_t)idx,
		.kind = (uint8_t)kind,
		.node = (uint8_t)node};
	uint32_t i = w->items++;
	while (i > 0) {
		uint32_t up = (i - 1) / 4;
		if (!earlier(&it, &w->item[up]))
			break;
		w->item[i] = w->item[up];
		i = up;
	}
	w->item[i] = it;
}

static struct item pop(struct world *w)
{
	struct item top = w->item[0];
	struct item last = w->item[--w->items];
	uint32_t i = 0;
	for (;;) {
		uint32_t first = 4 * i + 1, best = first;
		if (first >= w->items)
			break;
		uint32_t end = first + 4 < w->items ? first + 4 : w->items;
		for (uint32_t k = first + 1; k < end; k++)
			if (earlier(&w->item[k], &w->item[best]))
				best = k;
		if (!earlier(&w->item[best], &last))
			break;
		w->item[i] = w->item[best];
		i = best;
	}
	w->item[i] = last;
	return top;
}

/* ---- clocks ---- */

void clock_set_rate(struct clock *c, uint64_t now, int rate_ppm)
{
	c->own = clock_read(c, now);
	c->at = now > c->at ? now : c->at;
	c->rate_ppm = rate_ppm;
}

uint64_t clock_true_ns(const struct clock *c, uint64_t own_ns)
{
	uint64_t rate = (uint64_t)(1000000 + c->rate_ppm);
	/* Beyond an hour nothing has to be exact: whoever wakes early looks again. */
	if (own_ns > 3600 * SEC)
		own_ns = 3600 * SEC;
	return own_ns / rate * 1000000 + own_ns % rate * 1000000 / rate + 1;
}

/* ---- the course of things ---- */

/* A stopped node takes notice of nothing until it goes on. */
static bool put_off(struct world *w, const struct item *it, unsigned id)
{
	const struct node *n = &w->node[id];
	if (!n->up || n->paused_until <= w->now)
		return false;
	world_push(w, n->paused_until + below(w, 200000), (enum item_kind)it->kind, it->node,
		it->idx, it->gen);
	return true;
}

/* A cut ends; or (gen 1) the control thread dials again, in vain while there is a cut. */
static void mend(struct world *w, const struct item *it)
{
	unsigned a = it->node, b = it->idx;
	if (it->gen == 1 && (w->cut[a][b] || w->cut[b][a])) {
		world_push(w, w->now + 500 * MS, ITEM_MEND, a, b, 1);
		return;
	}
	w->cut[a][b] = w->cut[b][a] = false;
	net_link(w, a, b, true);
}

static void dispatch(struct world *w, const struct item *it)
{
	switch ((enum item_kind)it->kind) {
	case ITEM_MSG:
		net_deliver(w, it);
		break;
	case ITEM_TIMER:
		if (!put_off(w, it, it->node))
			node_timer(w, it);
		break;
	case ITEM_ARRIVE:
		if (!put_off(w, it, w->call[it->idx].node))
			client_arrive(w, it);
		break;
	case ITEM_ANSWER:
		client_answer(w, it);
		break;
	case ITEM_WAKE:
		if (w->client[it->idx].gen == it->gen)
			client_wake(w, it->idx);
		break;
	case ITEM_GIVE_UP:
		client_give_up(w, it);
		break;
	case ITEM_FAULT:
		fault_make(w);
		break;
	case ITEM_DISK:
		disk_done(w, it);
		break;
	case ITEM_VOTE:
		if (!put_off(w, it, it->node))
			node_may_vote(w, it);
		break;
	case ITEM_START:
		if (w->node[it->node].life == it->gen && !w->node[it->node].up)
			node_start(w, it->node);
		break;
	case ITEM_CUT:
		if (w->stream[it->node][it->idx] == it->gen)
			net_link(w, it->node, it->idx, false);
		if (w->calm)
			net_link(w, it->node, it->idx, true);
		break;
	case ITEM_MEND:
		mend(w, it);
		break;
	case ITEM_STREAM:
		shard_stream(w, it);
		break;
	case ITEM_LETTER:
		change_deliver(w, it);
		break;
	case ITEM_TURN:
		if (!put_off(w, it, it->node))
			change_turn(w, it);
		break;
	}
}

void world_run(struct world *w, uint64_t until, uint64_t max_events)
{
	while (!w->over && w->items > 0 && w->item[0].at <= until && w->events < max_events) {
		struct item it = pop(w);
		w->now = it.at;
		dispatch(w, &it);
	}
	if (!w->over && w->now < until && until != UINT64_MAX)
		w->now = until;
}

static void engine_configs(struct world *w)
{
	static const uint32_t attempts_ms[] = {20, 50, 100, 250, 1000};
	uint32_t attempt_ms = attempts_ms[w->drill == DRILL_NONE ? below(w, 5) : 1 + below(w, 4)];
	uint32_t max_lease_ms =
		2 * attempt_ms + 50 + (uint32_t)below(w, chance(w, 200000) ? 10000 : 1000);
	uint32_t drift_ppm = chance(w, 500000) ? 1000 : 20000;
	w->swarm.drift_ppm = w->opt->lie_ppm != 0 ? (int)w->opt->lie_ppm : (int)drift_ppm;
	w->swarm.ttl_ms = max_lease_ms;
	w->swarm.tail_ns = below(w, 10 * attempt_ms * MS);
	for (unsigned id = 1; id <= w->nodes; id++) {
		struct engine_config *c = &w->node[id].cfg;
		*c = (struct engine_config){.self = (uint8_t)id,
			.n_masters = (uint8_t)w->n,
			.slots = (uint16_t)(1 + below(w, 16)),
			.threads = 1,
			.max_lease_ms = max_lease_ms,
			.attempt_ms = attempt_ms,
			.drift_ppm = drift_ppm,
			.op_timeout_ms = 2 * attempt_ms,
			.max_leases = 256,
			.max_ops = 64,
			.max_waiters_per_key = 16};
		c->slots = w->node[1].cfg.slots;
		for (unsigned k = 0; k < w->n; k++)
			c->masters[k] = w->master[k];
	}
}

/* One run of three; without a draw, so that the others are what they were. */
static bool churn_chosen(const struct world *w)
{
	uint64_t h = w->seed * UINT64_C(0x9e3779b97f4a7c15);
	bool by_seed = (h >> 32) % 3 == 0;
	if (w->shard_level || w->opt->churn == CHURN_NEVER)
		return false;
	return by_seed || w->opt->churn == CHURN_ALWAYS || w->opt->drill == DRILL_MEMBERS;
}

static void build(struct world *w)
{
	w->churn = churn_chosen(w);
	w->n = w->opt->nodes != 0 ? w->opt->nodes : below(w, 3) != 0 ? 3 : below(w, 4) == 0 ? 4 : 5;
	for (unsigned i = 0; i < w->n; i++)
		w->master[i] = (uint8_t)(i + 1);
	drill_choose(w);
	w->nodes = w->n + (!w->shard_level && chance(w, w->drill == DRILL_NONE ? 300000 : 700000));
	if (w->churn)
		w->nodes = w->n + 1 + (unsigned)below(w, NODES_MAX - w->n);
	w->keys = 1 + (unsigned)below(w, chance(w, 500000) ? 2 : KEYS_MAX);
	w->clients = 2 + (unsigned)below(w, CLIENTS_MAX - 1);
	for (unsigned k = 0; k < w->keys; k++) {
		w->key[k].name[0] = 'k';
		w->key[k].name[1] = (uint8_t)k;
		w->key[k].hash = hash_bytes(bytes_of(w->key[k].name, 2));
	}
	engine_configs(w);
	swarm_choose(w);
	net_init(w);
	epochs_first(w);
	change_init(w);
	w->sums.churned += w->churn;
	for (unsigned id = 1; id <= w->nodes; id++)
		node_first_boot(w, id);
	for (unsigned a = 1; a <= w->nodes; a++)
		for (unsigned b = a + 1; b <= w->nodes; b++)
			net_link(w, a, b, true);
	clients_init(w);
	faults_start(w);
}

/* Everything but the memory of the engines and what is summed up over the runs. */
static void wipe(struct world *w)
{
	struct sums sums = w->sums;
	void *memory[NODES_MAX + 1];
	size_t bytes[NODES_MAX + 1];
	struct members *members[NODES_MAX + 1];
	for (unsigned id = 1; id <= NODES_MAX; id++) {
		memory[id] = w->node[id].memory;
		members[id] = w->node[id].members;
		bytes[id] = w->node[id].memory_bytes;
	}
	memset(w, 0, offsetof(struct world, mail));
	memset(&w->mail_free, 0, sizeof *w - offsetof(struct world, mail_free));
	w->sums = sums;
	for (unsigned id = 1; id <= NODES_MAX; id++) {
		w->node[id].memory = memory[id];
		w->node[id].members = members[id];
		w->node[id].memory_bytes = bytes[id];
	}
}

enum verdict_of_run world_simulate(struct world *w, const struct options *opt, uint64_t seed)
{
	wipe(w);
	w->opt = opt;
	w->seed = seed;
	prng_seed(&w->rng, seed);
	w->now = 1000 * MS;
	w->shard_level = opt->level == LEVEL_SHARD ||
			 (opt->level == LEVEL_BY_SEED && opt->drill != DRILL_MEMBERS &&
				 opt->churn != CHURN_ALWAYS && seed % 8 == 0);
	build(w);
	world_run(w, UINT64_MAX, opt->events);
	if (!w->over)
		liveness_check(w);
	w->history.closed = true;
	if (!w->over)
		linear_check(w);
	for (unsigned id = 1; id <= w->nodes; id++)
		shard_end(w, id);
	w->sums.runs++;
	w->sums.events += w->events;
	w->sums.sim_ns += w->now;
	return w->verdict;
}
