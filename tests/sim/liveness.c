/* After the storm: everything works again, so every operation ends, no waiter is forgotten, no key
 * stays blocked, and nothing is left behind. */
#include "sim.h"

#include <inttypes.h>

static void run_for(struct world *w, uint64_t ns)
{
	world_run(w, w->now + ns, UINT64_MAX);
}

static struct call *ask(struct world *w, unsigned i, unsigned node, enum op_kind kind, unsigned k)
{
	struct call *call = ask_new(w, i, node, kind);
	if (call == NULL) {
		violation(w, RUN_STUCK, "calls that never end fill the table");
		return NULL;
	}
	w->client[i].outcome = OUT_LIMIT;
	call->key = (uint8_t)k;
	call->own_value = true;
	return call;
}

static bool all_ended(struct world *w)
{
	for (unsigned i = 0; i < CALLS_MAX; i++) {
		const struct call *call = &w->call[i];
		if (call->state == CALL_FREE)
			continue;
		violation(w, RUN_STUCK, "never answered: kind %u key %u node %u", call->kind,
			call->key, call->node);
		return false;
	}
	return true;
}

/* A lease that outlives two rounds. */
static uint32_t short_ttl_ms(const struct world *w)
{
	return (uint32_t)(4 * (w->swarm.delay_ns + w->swarm.jitter_ns) / MS) + 15;
}

static void lock_for(
	struct world *w, unsigned i, unsigned node, unsigned k, uint64_t wait_ms, uint32_t ttl_ms)
{
	struct client *c = &w->client[i];
	struct call *call = ask(w, i, node, OP_LOCK, k);
	if (call == NULL)
		return;
	c->belief.token = 0;
	c->gone_release = false;
	c->value = client_new_value(w, 0);
	call->value = c->value;
	call->has_ttl = true;
	call->ttl_ms = ttl_ms;
	call->wait = wait_ms != 0;
	call->wait_ms = wait_ms;
	call_send(w, call);
}

static void lock(struct world *w, unsigned i, unsigned node, unsigned k, uint64_t wait_ms)
{
	lock_for(w, i, node, k, wait_ms, short_ttl_ms(w));
}

static bool raises_a_ceiling(const struct world *w)
{
	bool raises = false;
	for (unsigned id = 1; id <= w->nodes; id++)
		raises = raises || w->node[id].writing_n != 0 || w->node[id].asked_n != 0;
	return raises;
}

/* An answer may take its round, or the time of an operation where a ceiling has to be raised first,
 * and what it tells lasts from then on. */
static void run_round(struct world *w, unsigned i, uint64_t round_ns)
{
	const struct client *c = &w->client[i];
	uint64_t until = w->now + round_ns, slow = until + w->node[1].cfg.op_timeout_ms * MS;
	while (!w->over && w->now < until) {
		run_for(w, MS);
		if (raises_a_ceiling(w))
			until = slow;
		if (until == slow && c->call >= CALLS_MAX)
			break;
	}
	while (!w->over && client_believes(w, c))
		run_for(w, MS);
}

/* Every node can lock every key. */
static void lock_everything(struct world *w, uint64_t round_ns)
{
	for (unsigned i = 0; i < w->keys * w->nodes && !w->over; i++) {
		unsigned node = 1 + i / w->keys, k = i % w->keys;
		lock(w, 0, node, k, 0);
		run_round(w, 0, round_ns);
		run_for(w, short_ttl_ms(w) * 5 / 4 * MS + 20 * MS);
		if (!w->over && w->client[0].outcome != OUT_OK)
			violation(w, RUN_STUCK,
				"blocked: key %u is free and node %u cannot lock it: "
				"outcome %u",
				k, node, w->client[0].outcome);
	}
}

static uint32_t long_ttl_ms(const struct world *w)
{
	return w->node[1].cfg.max_lease_ms;
}

static void keep(struct world *w, unsigned i, unsigned node, unsigned k)
{
	struct call *call = ask(w, i, node, OP_EXTEND, k);
	if (call == NULL)
		return;
	call->value = w->client[i].value;
	call->has_ttl = true;
	call->ttl_ms = long_ttl_ms(w);
	call_send(w, call);
}

/* Held, with waiters at several nodes: each gets its turn, and who waits for news hears it. */
static void wait_in_line(struct world *w, uint64_t round_ns)
{
	unsigned waiters = w->clients < 6 ? w->clients - 1 : 5, k = (unsigned)below(w, w->keys);
	unsigned home = w->master[0];
	uint64_t wait_ms = 20000;
	lock(w, 0, home, k, 0);
	run_for(w, round_ns + 5 * MS);
	for (unsigned i = 1; i <= waiters && !w->over; i++) {
		if (i == 2 || (i == 3 && w->keys > 1)) {
			/* The release is seen at the holder's node, another lock at every node.
			 */
			bool held = i == 3;
			unsigned other = (k + 1) % w->keys;
			struct call *call = ask(w, i, held ? w->master[below(w, w->n)] : home,
				held ? OP_WAITFOR : OP_WAITRELEASE, held ? other : k);
			if (call == NULL)
				return;
			call->wait_ms = wait_ms;
			call_send(w, call);
		} else {
			lock(w, i, 1 + (unsigned)below(w, w->nodes), k, wait_ms);
		}
	}
	run_for(w, round_ns);
	if (w->keys > 1 && !w->over) {
		/* Extended once: messages overtake one another here, and a CONFIRM that comes first
		 * is lost. */
		lock_for(w, 0, home, (k + 1) % w->keys, 0, long_ttl_ms(w));
		run_for(w, w->node[1].cfg.attempt_ms * MS / 2);
		keep(w, 0, home, (k + 1) % w->keys);
	}
	/* A lease each, and at worst a look a second for those whose hint comes from nobody. */
	run_for(w, waiters * (1300 * MS + short_ttl_ms(w) * MS + round_ns) + 60 * MS);
	for (unsigned i = 1; i <= waiters && !w->over; i++) {
		enum outcome o = w->client[i].outcome;
		bool late_watch = i == 2 && o == OUT_NOTLOCKED;
		if (o != OUT_OK && !late_watch)
			violation(w, RUN_STUCK, "lost waiter: client %u for key %u: outcome %u", i,
				k, o);
	}
}

/* Names without an entry, and who stood here for as long as it would have waited. */
static uint64_t kept_bytes(const struct engine *e)
{
	return (e->names.count + e->turns.used + e->n_observers) * ARENA_UNIT;
}

static void nothing_left(struct world *w)
{
	for (unsigned id = 1; id <= w->nodes && !w->over; id++) {
		struct engine *e = w->node[id].engine;
		struct engine_stats s;
		/* What the last step disposed of goes back with the next. */
		node_step(w, id, &(struct event){.type = EV_TICK}, -1);
		engine_stats(e, &s);
		if (s.ops != s.observers || s.waiters != 0 || s.leases != 0 || s.promises != 0 ||
			s.tombstones != 0 || s.shadows + s.staged + s.resync != 0 || s.healing ||
			e->heals_used != 0 ||
			(!w->shard_level && e->arena.used_bytes > kept_bytes(e)))
			violation(w, RUN_STUCK,
				"left behind on node %u: %" PRIu64 " operations, %" PRIu64
				" waiters, %" PRIu64 " leases, %" PRIu64 " promises, %" PRIu64
				" tombstones, %" PRIu64 " shadows, %" PRIu64 " staged, %" PRIu64
				" resync, %u heals, healing %d, %" PRIu64 " bytes",
				id, s.ops, s.waiters, s.leases, s.promises, s.tombstones, s.shadows,
				s.staged, s.resync, e->heals_used, s.healing, e->arena.used_bytes);
	}
}

static void give_up_lock(struct world *w, unsigned i, unsigned node, unsigned k)
{
	struct call *call = ask(w, i, node, OP_RELEASE, k);
	if (call == NULL)
		return;
	call->value = w->client[i].value;
	call_send(w, call);
}

/* Every master has it, and votes. */
static void all_hold(struct world *w, unsigned k, const char *when)
{
	for (unsigned i = 0; i < w->n && !w->over; i++) {
		unsigned id = w->master[i];
		const struct lease *l = lease_of(w, id, k);
		if (!node_votes(w, id, w->key[k].hash))
			violation(w, RUN_STUCK, "resync: node %u does not vote, %s", id, when);
		else if (l == NULL || !lease_is_live(l) || l->token != w->client[0].token)
			violation(w, RUN_STUCK, "resync: node %u lacks key %u, %s", id, k, when);
	}
	for (unsigned id = 1; id <= w->nodes && !w->over; id++) {
		const struct lease *l = is_replica(w, id) ? lease_of(w, id, k) : NULL;
		bool shows = l != NULL && lease_is_visible(l) && l->token == w->client[0].token;
		if (is_replica(w, id) && !shows)
			violation(w, RUN_STUCK, "copy: replica %u lacks key %u, %s", id, k, when);
	}
}

/* Locked while one master was away, or forgotten by one: it has it again soon, and votes. */
static void nothing_is_missed(struct world *w, uint64_t round_ns)
{
	const struct engine_config *c = &w->node[1].cfg;
	uint64_t step_ns = c->max_lease_ms * MS / 3;
	unsigned k = (unsigned)below(w, w->keys), home = w->master[0];
	unsigned away = w->master[1 + below(w, w->n - 1)];
	bool crash = chance(w, 500000);
	if (crash) {
		lock_for(w, 0, home, k, 0, long_ttl_ms(w));
		run_for(w, step_ns);
		node_crash(w, away);
		run_for(w, MS);
		if (!w->node[away].up)
			node_start(w, away);
	} else {
		for (unsigned id = 1; id <= w->nodes; id++)
			w->cut[away][id] = w->cut[id][away] = !w->shard_level;
		/* A ceiling that is being raised just then, while one is away, is no quorum. */
		w->client[0].outcome = OUT_NOQUORUM;
		for (unsigned i = 0; i < 3 && !w->over && w->client[0].outcome != OUT_OK; i++) {
			run_for(w, i * 3 * c->attempt_ms * MS);
			lock_for(w, 0, home, k, 0, long_ttl_ms(w));
			run_for(w, step_ns);
		}
		memset(w->cut, 0, sizeof w->cut);
	}
	uint64_t until = w->now + 3 * c->attempt_ms * MS + 8 * round_ns + SEC;
	while (w->now < until && !w->over) {
		keep(w, 0, home, k);
		run_for(w, step_ns);
	}
	if (!w->over)
		all_hold(w, k, crash ? "after a crash" : "after a partition");
	if (!w->over)
		give_up_lock(w, 0, home, k);
	run_for(w, round_ns);
}

/* Rivals whose attempts came to nothing leave no promise standing. */
static void no_promise_stays(struct world *w, uint64_t round_ns)
{
	unsigned k = (unsigned)below(w, w->keys), rivals = w->clients < 6 ? w->clients : 6;
	for (unsigned i = 0; i < rivals && !w->over; i++)
		lock_for(w, i, 1 + i % w->nodes, k, 0, long_ttl_ms(w));
	run_for(w, round_ns + 12 * w->node[1].cfg.attempt_ms * MS);
	for (unsigned id = 1; id <= w->nodes && !w->over; id++) {
		struct engine_stats s;
		engine_stats(w->node[id].engine, &s);
		if (s.promises != 0)
			violation(w, RUN_STUCK, "promise: node %u keeps one that nobody wants", id);
	}
	run_for(w, long_ttl_ms(w) * MS * 5 / 4 + 50 * MS);
}

/* Enough masters, whoever they are. */
static struct members_target last_target(struct world *w)
{
	uint16_t masters = 0, replicas = 0;
	unsigned n = 3 + (unsigned)below(w, 3);
	for (unsigned i = 0; i < 200 && count_bits(masters) < n && n <= w->nodes; i++)
		masters |= (uint16_t)(1u << (1 + below(w, w->nodes)));
	for (unsigned id = 1; id <= w->nodes; id++)
		if (count_bits(masters) < 3 || (!(masters >> id & 1) && chance(w, 400000)))
			*(count_bits(masters) < 3 ? &masters : &replicas) |= (uint16_t)(1u << id);
	replicas &= (uint16_t)~masters;
	return change_target(masters, replicas, true);
}

/* Every node knows the last configuration and acts by it; its masters are in sync. */
static void all_agree(struct world *w, const struct members_target *t)
{
	struct engine_stats s;
	for (unsigned id = 1; id <= w->nodes && !w->over; id++) {
		const struct node *n = &w->node[id];
		bool master = false, replica = false;
		engine_stats(n->engine, &s);
		for (unsigned i = 0; i < t->n_masters; i++)
			master = master || t->masters[i] == id;
		for (unsigned i = 0; i < t->n_replicas; i++)
			replica = replica || t->replicas[i] == id;
		if (n->config.epoch != w->top_epoch)
			violation(w, RUN_STUCK,
				"members: node %u is left in epoch %" PRIu64
				", the last is %" PRIu64,
				id, n->config.epoch, w->top_epoch);
		else if (master != is_master(w, id) || replica != is_replica(w, id))
			violation(w, RUN_STUCK, "members: node %u is not what it was to be", id);
		else if (master && n->synced_epoch != n->config.masters_epoch)
			violation(w, RUN_STUCK, "members: master %u is not in sync", id);
		else if (replica && s.lag_ns > SEC)
			violation(w, RUN_STUCK,
				"copy: replica %u has no whole copy, or %" PRIu64 " us old", id,
				s.lag_ns / 1000);
	}
}

enum { SETS_MAX = 8, SET_MAX_S = 60 };

/* Repeated, as its contract says, SETNODES comes to its end. False: nobody can change anything any
 * more, for too many have lost their files. Who joined last is active when it has looked through
 * its slots for what was granted meanwhile, one after the other (seed 901766). */
static bool settle_members(struct world *w, uint64_t round)
{
	struct members_target t = last_target(w);
	bool done = false;
	for (unsigned i = 0; i < SETS_MAX && !done && !w->over; i++) {
		unsigned id = 1 + (unsigned)below(w, w->nodes);
		bool begun = change_ask(w, id, &t);
		for (unsigned s = 0; s < SET_MAX_S * 10 && !w->over; s++) {
			run_for(w, 100 * MS);
			if (!w->node[id].asked)
				break;
		}
		done = begun && w->node[id].done; /* not what it was told before (seed 21003528) */
	}
	if (!w->over && !done && epochs_stuck(w, 0))
		return false;
	if (!w->over && !done)
		violation(w, RUN_STUCK, "members: SETNODES never succeeds");
	run_for(w, 2 * SEC + w->node[1].cfg.slots * round / 4);
	if (!w->over)
		all_agree(w, &t);
	w->n = t.n_masters;
	memcpy(w->master, t.masters, t.n_masters);
	return true;
}

void liveness_check(struct world *w)
{
	const struct engine_config *c = &w->node[1].cfg;
	uint64_t attempt = c->attempt_ms * MS, lease = c->max_lease_ms * MS;
	uint64_t tomb = 5 * attempt; /* T_tomb = 4 kappa T_att */
	uint64_t round = 20 * (w->swarm.delay_ns + w->swarm.jitter_ns) + 50 * MS;
	faults_heal(w);
	for (unsigned i = 0; i < w->clients; i++)
		w->client[i].probe = true;
	/* What was put off to the end of a pause or a clog, then quarantines, slow clocks, writes
	 * of state files that had just failed. */
	run_for(w, 3 * lease + (lease > tomb ? lease : tomb) * 5 / 4 + 8 * SEC);
	if (w->over || !all_ended(w))
		return;
	if (w->churn && !settle_members(w, round))
		return;
	for (unsigned i = 0; i < w->n; i++)
		if (w->node[w->master[i]].restart.status != NODE_ACTIVE)
			violation(w, RUN_STUCK, "node %u never votes again", w->master[i]);
	run_for(w, lease * 5 / 4 + 4 * attempt);
	for (unsigned i = 0; i < w->clients; i++)
		w->client[i].belief.token = 0;
	check_all(w);
	lock_everything(w, round);
	if (!w->over)
		wait_in_line(w, round);
	if (w->over || !all_ended(w))
		return;
	run_for(w, long_ttl_ms(w) * MS * 5 / 4);
	if (!w->over)
		nothing_is_missed(w, round);
	if (!w->over && w->clients > 1)
		no_promise_stays(w, round);
	if (w->over || !all_ended(w))
		return;
	run_for(w, 2 * SEC + 6 * tomb);
	check_all(w);
	nothing_left(w);
}
