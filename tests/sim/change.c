/* What a control thread does about the configuration (src/node/control.c): it carries the
 * register's messages, writes what must outlive a crash before anything else comes out, has the
 * engine act by what was decided, and tells it which peers act by the same (protocol.md 2.10). */
#include "sim.h"

#include <stdlib.h>

static void address(char *ret, unsigned id)
{
	(void)snprintf(ret, MEMBER_ADDR_MAX_BYTES + 1, "10.0.0.%u:7402", id);
}

static struct membership first(const struct world *w)
{
	const struct engine_config *c = &w->node[1].cfg;
	struct membership m = {.epoch = 1,
		.masters_epoch = 1,
		.slots = c->slots,
		.max_lease_ms = c->max_lease_ms,
		.attempt_ms = c->attempt_ms,
		.drift_ppm = c->drift_ppm};
	for (unsigned i = 0; i < w->n; i++) {
		struct member *to = &m.masters[m.n_masters++];
		to->id = w->master[i];
		address(to->addr, to->id);
	}
	return m;
}

static uint64_t now_ns(const struct world *w, unsigned id)
{
	return w->node[id].time.slow_ns;
}

void change_init(struct world *w)
{
	w->letter_free = 0;
	for (unsigned i = 0; i < LETTERS_MAX; i++)
		w->letter[i].next_free = (uint16_t)(i + 1);
	for (unsigned id = 1; id <= w->nodes && w->churn; id++)
		w->node[id].reg = (struct members_register){.committed = first(w)};
}

/* Who has lost its file is told by its operator, who has to know what is in force: with the word of
 * a node that has been left behind it might vote in a configuration that is no more. */
static void learn_anew(struct world *w, unsigned id)
{
	const struct members_register *newest = &w->node[id].reg;
	for (unsigned o = 1; o <= w->nodes; o++)
		if (w->node[o].reg.committed.epoch > newest->committed.epoch)
			newest = &w->node[o].reg;
	w->node[id].reg = (struct members_register){.committed = newest->committed};
}

void change_load(struct world *w, unsigned id, const struct record_on_disk *file)
{
	struct node *n = &w->node[id];
	n->forgetful = w->churn && file == NULL;
	if (!w->churn)
		return;
	if (file != NULL) {
		n->reg = file->reg;
		return;
	}
	learn_anew(w, id);
	TRACE(w, "%u has lost its file, and is told of epoch %llu", id,
		(unsigned long long)n->reg.committed.epoch);
	n->lost = true;
}

void change_start(struct world *w, unsigned id)
{
	struct node *n = &w->node[id];
	if (!w->churn)
		return;
	if (n->members == NULL)
		n->members = calloc(1, members_bytes());
	CHECK(n->members != NULL);
	const struct members_config cfg = {.self = (uint8_t)id,
		.forgetful = n->forgetful,
		.reg = n->reg,
		.attempt_ms = n->cfg.attempt_ms,
		.seed = prng_next(&w->rng)};
	char addr[MEMBER_ADDR_MAX_BYTES + 1];
	address(addr, id);
	members_init(n->members, &cfg, now_ns(w, id));
	members_link(n->members, now_ns(w, id), (uint8_t)id, true, addr);
	n->moving_epoch = n->settled_epoch = n->synced_epoch = n->told_moved = n->told_synced = 0;
	n->turn_at = UINT64_MAX;
	n->turn_gen++;
	n->asked = n->done = false;
	epochs_see(w, id, &n->reg.committed);
	change_soon(w, id);
}

void change_config(const struct world *w, unsigned id, struct engine_config *cfg)
{
	const struct node *n = &w->node[id];
	if (!w->churn)
		return;
	const struct membership *m = &n->reg.committed;
	cfg->n_masters = m->n_masters;
	for (unsigned i = 0; i < m->n_masters; i++)
		cfg->masters[i] = m->masters[i].id;
	cfg->masters_epoch = m->masters_epoch;
	cfg->joined = m->joined;
	cfg->departed = m->departed;
	cfg->replica = membership_role(m, (uint8_t)id) == ROLE_REPLICA;
}

/* ---- turns ---- */

static void turn_at(struct world *w, unsigned id, uint64_t at)
{
	struct node *n = &w->node[id];
	if (at >= n->turn_at)
		return;
	n->turn_at = at;
	world_push(w, at, ITEM_TURN, id, 0, ++n->turn_gen);
}

void change_soon(struct world *w, unsigned id)
{
	if (w->churn && w->node[id].up)
		turn_at(w, id, w->now);
}

void change_stepped(struct world *w, unsigned id)
{
	struct node *n = &w->node[id];
	struct engine_stats s;
	if (!w->churn || !n->up)
		return;
	engine_stats(n->engine, &s);
	if (s.synced_epoch == n->synced_epoch)
		return;
	n->synced_epoch = s.synced_epoch;
	change_soon(w, id);
}

static void post(struct world *w, unsigned from, unsigned to, const struct config_msg *m)
{
	struct node *n = &w->node[from];
	if (n->linked[to] == 0 || w->cut[from][to] || w->letter_free == LETTERS_MAX ||
		(!w->calm && chance(w, w->swarm.loss_ppm))) {
		w->sums.lost++;
		return;
	}
	unsigned copies = !w->calm && chance(w, w->swarm.dup_ppm) ? 2 : 1;
	for (unsigned i = 0; i < copies && w->letter_free < LETTERS_MAX; i++) {
		uint16_t at = w->letter_free;
		struct letter *l = &w->letter[at];
		w->letter_free = l->next_free;
		*l = (struct letter){.msg = *m,
			.from_life = n->life,
			.to_life = w->node[to].life,
			.stream = w->stream[from][to],
			.from = (uint8_t)from,
			.to = (uint8_t)to};
		world_push(w, w->now + net_delay(w, to), ITEM_LETTER, to, at, 0);
	}
}

static bool passes(struct world *w, const struct letter *l)
{
	const struct node *n = &w->node[l->to];
	if (!n->up || n->life != l->to_life || n->linked[l->from] != l->from_life ||
		w->cut[l->from][l->to])
		return false;
	return l->stream == w->stream[l->from][l->to] || chance(w, w->swarm.old_stream_ppm);
}

void change_deliver(struct world *w, const struct item *it)
{
	static const char *const names[] = {
		"?", "NEWS", "PREPARE", "PROMISE", "ACCEPT", "ACCEPTED", "REFUSE"};
	struct letter *l = &w->letter[it->idx];
	struct node *n = &w->node[l->to];
	uint64_t until = n->up && n->life == l->to_life ? n->paused_until : 0;
	uint64_t clogged = w->clogged_until[l->from][l->to];
	until = clogged > until ? clogged : until;
	if (until > w->now) {
		world_push(w, until + below(w, MS), ITEM_LETTER, it->node, it->idx, 0);
		return;
	}
	if (passes(w, l)) {
		const struct config_msg *m = &l->msg;
		w->events++;
		trace_fold(w, w->now ^ (uint64_t)m->kind << 56, m->epoch << 8 ^ l->from ^ m->b.n);
		if (m->kind != CONFIG_NEWS)
			TRACE(w, "%u -> %u CONFIG %s epoch %llu ballot %llu.%u config %llu",
				l->from, l->to, names[m->kind], (unsigned long long)m->epoch,
				(unsigned long long)m->b.n, m->b.node,
				(unsigned long long)m->config.epoch);
		node_clocks(w, l->to);
		members_receive(n->members, now_ns(w, l->to), l->from, m);
		change_soon(w, l->to);
	}
	l->next_free = w->letter_free;
	w->letter_free = it->idx;
}

/* ---- links ---- */

void change_link(struct world *w, unsigned id, unsigned peer, bool up)
{
	struct node *n = &w->node[id];
	char addr[MEMBER_ADDR_MAX_BYTES + 1];
	if (!w->churn)
		return;
	node_clocks(w, id);
	address(addr, peer);
	members_link(n->members, now_ns(w, id), (uint8_t)peer, up, up ? addr : NULL);
	if (up) /* the hello */
		members_learn(n->members, now_ns(w, id), members_current(w->node[peer].members));
	change_soon(w, id);
}

/* A peer that acts by another configuration is as good as not linked. */
static void match_links(struct world *w, unsigned id)
{
	struct node *n = &w->node[id];
	for (unsigned peer = 1; peer <= w->nodes && !w->over && n->up; peer++) {
		const struct members_peer *p = members_peer(n->members, (uint8_t)peer);
		bool up = peer != id && n->linked[peer] != 0 && p != NULL &&
			  (p->moved_epoch == n->config.epoch || MUTANT(EPOCH_IGNORED));
		if (up != n->heard[peer])
			net_hear(w, id, peer, up);
	}
}

/* ---- acting by a configuration ---- */

static struct event config_event(const struct membership *m, unsigned id)
{
	struct event ev = {.type = EV_CONFIG,
		.members = {.masters_epoch = m->masters_epoch,
			.n_masters = m->n_masters,
			.joined = m->joined,
			.departed = m->departed,
			.replica = membership_role(m, (uint8_t)id) == ROLE_REPLICA,
			.since = membership_since(m, (uint8_t)id)}};
	for (unsigned i = 0; i < m->n_masters; i++)
		ev.members.masters[i] = m->masters[i].id;
	return ev;
}

static void move(struct world *w, unsigned id)
{
	struct node *n = &w->node[id];
	const struct membership m = *members_current(n->members);
	bool was = is_master(w, id);
	uint64_t old = n->config.masters_epoch;
	TRACE(w, "%u acts by epoch %llu", id, (unsigned long long)m.epoch);
	epochs_see(w, id, &m);
	if (w->over)
		return;
	struct event ev = config_event(&m, id);
	node_step(w, id, &ev, -1);
	if (w->over || !n->up)
		return;
	if (!is_master(w, id)) {
		n->restart.status = NODE_NONMEMBER;
	} else if (!was || membership_since(&m, (uint8_t)id) > old) {
		memset(n->maxn, 0, sizeof n->maxn); /* what it had is thrown away */
		node_joins(w, id);
	} else {
		n->after_life = 0;
		(void)restart_changed(&n->restart);
	}
}

static void carry_out(struct world *w, unsigned id)
{
	struct node *n = &w->node[id];
	const struct membership *m = members_current(n->members);
	if (m->epoch != n->config.epoch && n->moving_epoch != m->epoch) {
		n->moving_epoch = m->epoch;
		n->move_at = w->now + (chance(w, 500000) ? 0 : below(w, w->swarm.move_ns));
	}
	if (m->epoch != n->config.epoch && w->now < n->move_at)
		turn_at(w, id, n->move_at);
	else if (m->epoch != n->config.epoch)
		move(w, id);
	if (w->over || !n->up)
		return;
	bool settled = members_current(n->members)->epoch == n->config.epoch &&
		       members_settled(n->members);
	if (settled && n->settled_epoch != n->config.masters_epoch) {
		n->settled_epoch = n->config.masters_epoch;
		TRACE(w, "%u: all are in sync with epoch %llu", id,
			(unsigned long long)n->settled_epoch);
		node_step(w, id, &(struct event){.type = EV_SETTLED}, -1);
	}
}

static void answer(struct world *w, unsigned id)
{
	struct node *n = &w->node[id];
	char error[MEMBERS_ERROR_MAX_BYTES];
	if (!members_take_result(n->members, error))
		return;
	TRACE(w, "%u SETNODES: %s", id, error[0] == '\0' ? "OK" : error);
	n->asked = false;
	n->done = error[0] == '\0';
	w->sums.sets_done += n->done;
	w->sums.sets_failed += !n->done;
}

void change_turn(struct world *w, const struct item *it)
{
	unsigned id = it->node;
	struct node *n = &w->node[id];
	struct config_msg m;
	uint8_t to;
	if (!n->up || n->turn_gen != it->gen)
		return;
	n->turn_at = UINT64_MAX;
	node_clocks(w, id);
	if (members_due_ns(n->members) <= now_ns(w, id))
		members_tick(n->members, now_ns(w, id));
	carry_out(w, id);
	if (!w->over && n->up)
		match_links(w, id);
	if (w->over || !n->up)
		return;
	if (n->told_moved != n->config.epoch || n->told_synced != n->synced_epoch) {
		n->told_moved = n->config.epoch;
		n->told_synced = n->synced_epoch;
		members_progress(n->members, now_ns(w, id), n->config.epoch, n->synced_epoch);
	}
	disk_want(w, id);
	bool said = false;
	while (members_take_message(n->members, &to, &m)) {
		said |= m.kind != CONFIG_NEWS || n->asked;
		post(w, id, to, &m);
	}
	answer(w, id);
	if (said && !w->calm && chance(w, w->swarm.change_crash_ppm)) {
		node_crash(w, id);
		return;
	}
	uint64_t due = members_due_ns(n->members), now = now_ns(w, id);
	if (due != UINT64_MAX)
		turn_at(w, id, w->now + (due > now ? clock_true_ns(&n->slow, due - now) : 100000));
}

void change_written(struct world *w, unsigned id)
{
	struct node *n = &w->node[id];
	n->lost = n->lost && n->reg.promised.n == BALLOT_MAX;
	node_clocks(w, id);
	members_written(n->members, now_ns(w, id));
	change_soon(w, id);
}

/* ---- SETNODES ---- */

bool change_ask(struct world *w, unsigned id, const struct members_target *t)
{
	struct node *n = &w->node[id];
	char why[MEMBERS_ERROR_MAX_BYTES];
	if (!n->up)
		return false;
	node_clocks(w, id);
	n->done = false;
	int rc = members_set(n->members, now_ns(w, id), t, why, sizeof why);
	TRACE(w, "%u is told SETNODES: %u masters, %u replicas%s: %s", id, t->n_masters,
		t->n_replicas, t->has_replicas ? "" : " (as before)", rc == 0 ? "begins" : why);
	n->asked = n->asked || rc == 0;
	change_soon(w, id);
	return rc == 0;
}

unsigned change_pick(struct world *w, uint16_t bits)
{
	unsigned n = (unsigned)below(w, count_bits(bits)), id = 1;
	for (;; id++)
		if ((bits >> id & 1) && n-- == 0)
			return id;
}

struct members_target change_target(uint16_t masters, uint16_t replicas, bool has_replicas)
{
	struct members_target t = {.has_replicas = has_replicas};
	for (uint8_t id = 1; id <= NODES_MAX; id++) {
		if (masters >> id & 1)
			t.masters[t.n_masters++] = id;
		else if (has_replicas && (replicas >> id & 1))
			t.replicas[t.n_replicas++] = id;
	}
	return t;
}

static void flip_some(struct world *w, uint16_t all, uint16_t *masters, uint16_t *replicas)
{
	uint16_t spare = all & (uint16_t) ~*masters;
	unsigned dice = (unsigned)below(w, 100);
	bool add = dice < 35 || (dice >= 60 && dice < 75), remove = dice >= 35 && dice < 75;
	uint16_t gone = 0;
	if (remove && count_bits(*masters) > 1)
		gone = (uint16_t)(1u << change_pick(w, *masters));
	if (add && spare != 0)
		*masters |= (uint16_t)(1u << change_pick(w, spare));
	*masters &= (uint16_t)~gone;
	if (gone != 0 && chance(w, 400000))
		*replicas |= gone;
	if (dice >= 75)
		*replicas ^= (uint16_t)(1u << change_pick(w, all));
}

struct members_target change_some(struct world *w, unsigned id)
{
	const struct shape *c = &w->node[id].config;
	uint16_t all = (uint16_t)((1u << (w->nodes + 1)) - 2);
	uint16_t masters = c->masters, replicas = c->replicas;
	unsigned flips = chance(w, 700000) ? 1 : 1 + (unsigned)below(w, 4);
	for (unsigned i = 0; i < flips; i++)
		flip_some(w, all, &masters, &replicas);
	while (count_bits(masters) > w->swarm.change_masters_most)
		masters &= (uint16_t) ~(1u << change_pick(w, masters));
	replicas &= (uint16_t)~masters;
	return change_target(masters, replicas, chance(w, 600000));
}
