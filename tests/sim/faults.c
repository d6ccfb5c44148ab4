/* The swarm: each seed draws which faults there are and how often, so that every combination comes
 * by (Groce et al., Swarm Testing, 2012), and this makes them. */
#include "sim.h"

void swarm_choose(struct world *w)
{
	static const unsigned weight_max[FAULTS] = {
		20, 20, 10, 4, 2, 1, 20, 5, 20, 5, 20, 2, 4, 4, 5, 20, 5, 5, 5};
	struct swarm *s = &w->swarm;
	uint64_t attempt_ns = w->node[1].cfg.attempt_ms * MS;
	s->loss_ppm = some(w, chance(w, 200000) ? 300000 : 50000);
	s->dup_ppm = some(w, 300000);
	s->tail_ppm = some(w, 200000);
	s->midcrash_ppm = some(w, chance(w, 200000) ? 5000 : 300);
	s->quick_starts = chance(w, 500000);
	s->orderly_ppm = some(w, 1000000);
	s->boot_ppm = some(w, 1000000);
	s->narrow_ppm = some(w, chance(w, 300000) ? 1000000 : 100000);
	s->vote_type = chance(w, 500000) ? (uint8_t)(1 + below(w, MSG_TYPE_MAX - 1)) : 0;
	s->vote_crash_ppm = some(w, chance(w, 200000) ? 50000 : 1000);
	s->told_crash_ppm = some(w, chance(w, 200000) ? 200000 : 5000);
	s->lost_type = (uint8_t)(1 + below(w, MSG_TYPE_MAX - 1));
	s->lost_reply = chance(w, 500000);
	s->lost_type_ppm = chance(w, 400000) ? (unsigned)below(w, 1000000) : 0;
	bool slow = chance(w, 500000);
	for (unsigned to = 1; slow && to <= w->nodes; to++)
		s->slow_types[to] = some_types(w);
	s->slow_type_ppm = (unsigned)below(w, 1000000);
	s->slow_most_ppm = 1000000;
	s->old_stream_ppm = some(w, 1000000);
	s->late_replies = chance(w, 500000);
	s->delay_ns = 20000 + below(w, attempt_ns / 20);
	s->jitter_ns = 1 + below(w, chance(w, 500000) ? 100000 : attempt_ns / 8);
	s->slow_ns = below(w, attempt_ns);
	s->think_ns = 10000 + below(w, chance(w, 300000) ? 200 * MS : 5 * MS);
	s->fault_ns = 5 * MS + below(w, chance(w, 500000) ? SEC : 100 * MS);
	for (unsigned i = 0; i < FAULTS; i++)
		s->weight[i] = i < FAULT_CHANGE || w->churn ? some(w, weight_max[i] + 1) : 0;
	s->files = chance(w, 700000) || w->churn;
	s->bad_disks = chance(w, 300000);
	s->lossy_files = s->files && chance(w, 300000);
	/* Without the file only a wall clock that does not step keeps tokens rising (protocol.md
	 * 0). */
	s->wild_walls = s->files && !s->lossy_files && chance(w, 500000);
	s->slews = chance(w, 300000);
	s->give_up_ppm = some(w, 200000);
	s->cancel_ppm = some(w, 1000000);
	s->crash_client_ppm = some(w, 1000000);
	s->mistake_ppm = some(w, 100000);
	s->idempotent_ppm = some(w, 1000000);
	s->read_percent = 10 + (unsigned)below(w, chance(w, 300000) ? 90 : 50);
	s->registers = chance(w, 200000);
	s->writers = s->registers || chance(w, 300000) ? (unsigned)below(w, w->clients) : 0;
	s->heirs = s->writers > 0 && chance(w, 500000);
	s->back_ppm = s->heirs ? 0 : some(w, 300000);
	s->homes = chance(w, 300000);
	if (w->churn) {
		s->weight[FAULT_CHANGE] += 5;
		s->change_crash_ppm = some(w, chance(w, 300000) ? 100000 : 5000);
		s->change_masters_most = 1 + (unsigned)below(w, 6);
		s->move_ns = 1 + below(w, 10 * MS);
	}
	drill_shape(w);
	if (w->churn && w->drill != DRILL_NONE && w->drill != DRILL_MEMBERS)
		s->weight[FAULT_CHANGE] = some(w, 10);
	for (unsigned i = 0; i < FAULTS; i++)
		s->weights += s->weight[i];
}

/* slow <= RAW <= fast, RAW within rho; slewing moves BOOTTIME only (protocol.md 2.1). */
static void new_rate(struct world *w, unsigned id)
{
	struct node *n = &w->node[id];
	int rho = w->swarm.drift_ppm;
	int raw = (int)below(w, (uint64_t)(2 * rho + 1)) - rho;
	if (chance(w, 300000))
		raw = chance(w, 500000) ? rho : -rho;
	int boot = w->swarm.slews && !w->calm && chance(w, 500000)
			   ? raw + (int)below(w, 160000) - 80000
			   : raw;
	clock_set_rate(&n->slow, w->now, boot < raw ? boot : raw);
	clock_set_rate(&n->fast, w->now, boot > raw ? boot : raw);
	clock_set_rate(&n->mclk, w->now, boot);
}

static void next_fault(struct world *w)
{
	world_push(w, w->now + 1 + below(w, 2 * w->swarm.fault_ns), ITEM_FAULT, 0, 0, 0);
}

void faults_start(struct world *w)
{
	for (unsigned id = 1; id <= w->nodes; id++) {
		struct node *n = &w->node[id];
		n->slow = n->fast = n->mclk = (struct clock){.at = w->now, .own = n->time.slow_ns};
		n->fast.own = n->time.fast_ns;
		new_rate(w, id);
		n->wall_skew_us = (int64_t)below(w, 100000) - 50000;
	}
	if (w->swarm.weights > 0)
		next_fault(w);
}

static uint64_t some_time(struct world *w)
{
	uint64_t lease = w->node[1].cfg.max_lease_ms * MS;
	return MS + below(w, 3 * lease >> below(w, 8));
}

static unsigned some_node(struct world *w)
{
	return 1 + (unsigned)below(w, w->nodes);
}

static void cut(struct world *w, unsigned a, unsigned b)
{
	bool one_way = chance(w, 400000);
	uint64_t until = w->now + some_time(w);
	if (a == b)
		return;
	w->cut[a][b] = true;
	w->cut[b][a] = w->cut[b][a] || !one_way;
	if (chance(w, 600000)) /* silence is noticed */
		world_push(w, w->now + below(w, SEC), ITEM_CUT, a, b, w->stream[a][b]);
	world_push(w, until, ITEM_MEND, a, b, 0);
}

static void cut_some(struct world *w, unsigned a)
{
	if (chance(w, 400000)) {
		for (unsigned b = 1; b <= w->nodes; b++)
			cut(w, a, b);
	} else {
		cut(w, a, some_node(w));
	}
}

static void pause_node(struct world *w, unsigned id)
{
	struct node *n = &w->node[id];
	if (!n->up || n->slow.at > w->now)
		return;
	n->paused_until = w->now + some_time(w);
	TRACE(w, "%u stands still for %llu us", id,
		(unsigned long long)((n->paused_until - w->now) / 1000));
}

static void suspend_host(struct world *w, unsigned id)
{
	struct node *n = &w->node[id];
	if (!n->up || n->paused_until > w->now)
		return;
	pause_node(w, id);
	n->slow.own = clock_read(&n->slow, w->now);
	n->slow.at = n->paused_until;
	clients_suspended(w, id, n->paused_until - w->now);
}

static void crash_all(struct world *w)
{
	bool majority_only = chance(w, 300000);
	for (unsigned id = 1; id <= (majority_only ? w->n / 2 + 1 : w->nodes); id++)
		node_crash(w, id);
}

static void break_link(struct world *w, unsigned a, unsigned b)
{
	if (a == b)
		return;
	net_link(w, a, b, false);
	world_push(w, w->now + below(w, chance(w, 500000) ? MS : SEC), ITEM_MEND, a, b, 0);
}

/* SETNODES at a node, or at two. */
static void change(struct world *w, unsigned id)
{
	struct members_target t = change_some(w, id);
	(void)change_ask(w, id, &t);
}

/* A master crashes and is to be done without; it comes back when that has been done, or not. */
static void replace(struct world *w, unsigned teller)
{
	const struct shape c = w->node[teller].config;
	unsigned id = change_pick(w, c.masters);
	if (shape_masters(&c) == 1 || id == teller || !w->node[teller].up)
		return;
	node_crash_for(w, id, some_time(w) + below(w, 3 * SEC));
	uint16_t masters = c.masters & (uint16_t) ~(1u << id), spare = 0;
	for (unsigned o = 1; o <= w->nodes; o++)
		spare |= c.masters >> o & 1 ? 0 : (uint16_t)(1u << o);
	if (spare != 0 && chance(w, 500000))
		masters |= (uint16_t)(1u << change_pick(w, spare));
	struct members_target t = change_target(masters, 0, false);
	(void)change_ask(w, teller, &t);
}

/* It hears of nothing for so long that the others make several changes. */
static void leave_behind(struct world *w, unsigned id)
{
	uint64_t ns = 2 * some_time(w) + below(w, 5 * SEC);
	if (chance(w, 400000)) {
		node_crash_for(w, id, ns);
		return;
	}
	unsigned friend = chance(w, 300000) ? some_node(w) : 0;
	for (unsigned o = 1; o <= w->nodes; o++) {
		if (o == id || o == friend)
			continue;
		w->cut[id][o] = w->cut[o][id] = true;
		world_push(w, w->now + below(w, SEC), ITEM_CUT, id, o, w->stream[id][o]);
		world_push(w, w->now + below(w, SEC), ITEM_CUT, o, id, w->stream[id][o]);
		world_push(w, w->now + ns + below(w, 100 * MS), ITEM_MEND, id, o, 0);
	}
}

static void make(struct world *w, enum fault kind)
{
	unsigned id = some_node(w), other = some_node(w);
	struct node *n = &w->node[id];
	struct client *c = &w->client[below(w, w->clients)];
	int rho = w->swarm.drift_ppm;
	switch (kind) {
	case FAULT_RESET:
		break_link(w, id, other);
		break;
	case FAULT_CUT:
		cut_some(w, id);
		break;
	case FAULT_CLOG:
		w->clogged_until[id][other] = w->now + some_time(w);
		break;
	case FAULT_CRASH:
		node_crash(w, id);
		break;
	case FAULT_STORM:
		for (unsigned i = 0; i < w->nodes; i++)
			if (chance(w, 500000))
				node_crash(w, 1 + i);
		break;
	case FAULT_ALL_CRASH:
		crash_all(w);
		break;
	case FAULT_PAUSE:
		pause_node(w, id);
		break;
	case FAULT_SLOW:
		n->slow_ns = chance(w, 500000) ? below(w, w->swarm.slow_ns) : 0;
		break;
	case FAULT_RATE:
		new_rate(w, id);
		break;
	case FAULT_WALL:
		if (w->swarm.wild_walls)
			n->wall_skew_us =
				(int64_t)below(w, UINT64_C(7200000000)) - INT64_C(3600000000);
		break;
	case FAULT_CLIENT:
		clock_set_rate(&c->clock, w->now, (int)below(w, (uint64_t)(2 * rho + 1)) - rho);
		break;
	case FAULT_STALL:
		for (unsigned i = 1; i <= w->nodes; i++)
			pause_node(w, i);
		break;
	case FAULT_STOP:
		node_stop(w, id);
		break;
	case FAULT_MISSED:
		if (n->up && n->paused_until <= w->now && !w->shard_level)
			node_step(w, id, &(struct event){.type = EV_MISSED}, -1);
		break;
	case FAULT_SUSPEND:
		suspend_host(w, id);
		break;
	case FAULT_CHANGE:
		change(w, id);
		break;
	case FAULT_RIVALS:
		change(w, id);
		change(w, other);
		break;
	case FAULT_REPLACE:
		replace(w, id);
		break;
	case FAULT_STALE:
		leave_behind(w, id);
		break;
	case FAULTS:
		break;
	}
}

void fault_make(struct world *w)
{
	if (w->calm)
		return;
	unsigned dice = (unsigned)below(w, w->swarm.weights), kind = 0;
	while (dice >= w->swarm.weight[kind])
		dice -= w->swarm.weight[kind++];
	w->events++;
	w->sums.faults[kind]++;
	trace_fold(w, w->now, kind);
	next_fault(w);
	make(w, (enum fault)kind);
}

/* From here on nothing goes wrong. */
void faults_heal(struct world *w)
{
	w->calm = true;
	memset(w->cut, 0, sizeof w->cut);
	memset(w->clogged_until, 0, sizeof w->clogged_until);
	for (unsigned id = 1; id <= w->nodes; id++) {
		node_wake(w, id);
		w->node[id].slow_ns = 0;
		new_rate(w, id);
		if (!w->node[id].up)
			node_start(w, id);
	}
	for (unsigned id = 1; id <= w->nodes; id++)
		net_link_all(w, id);
}
