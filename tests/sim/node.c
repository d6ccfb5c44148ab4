/* A node: its engine, its clocks, and what its control thread would do (src/node/control.c):
 * restart, quarantine, the ceiling. */
#include "shard_node.h"

#include <sys/mman.h>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_UNPOISON_MEMORY_REGION(p, bytes) ((void)(p), (void)(bytes))
#endif

enum { TICKS_MAX = 64 };

#define WALL_US UINT64_C(1800000000000000)

/* One range per node for all runs; only what was touched costs anything. */
void node_memory(struct world *w, unsigned id)
{
	struct node *n = &w->node[id];
	size_t bytes = engine_memory_bytes(&n->cfg);
	CHECK(bytes > 0);
	if (n->memory != NULL && n->memory_bytes >= bytes) {
		ASAN_UNPOISON_MEMORY_REGION(n->memory, n->memory_bytes);
		CHECK(madvise(n->memory, n->memory_bytes, MADV_DONTNEED) == 0);
		return;
	}
	if (n->memory != NULL) {
		ASAN_UNPOISON_MEMORY_REGION(n->memory, n->memory_bytes);
		CHECK(munmap(n->memory, n->memory_bytes) == 0);
	}
	n->memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	CHECK(n->memory != MAP_FAILED);
	n->memory_bytes = bytes;
}

uint64_t node_wall_n(const struct world *w, unsigned id)
{
	return WALL_US + w->now / 1000 + (uint64_t)w->node[id].wall_skew_us - EPOCH_US;
}

void node_clocks(struct world *w, unsigned id)
{
	struct node *n = &w->node[id];
	n->time.slow_ns = clock_read(&n->slow, w->now);
	n->time.fast_ns = clock_read(&n->fast, w->now);
	n->time.wall_us = node_wall_n(w, id) + EPOCH_US;
}

static void attempt_made(struct world *w, const struct msg *m)
{
	history_attempt(w, m->key.p[1], m->uid, get_u32(m->value.p));
}

static void carry_out(struct world *w, unsigned id, unsigned n_effects)
{
	for (unsigned i = 0; i < n_effects && !w->over; i++) {
		const struct effect *f = &w->fx.v[i];
		if (f->type == FX_REPLY) {
			client_reply(w, id, &f->reply);
		} else if (f->type == FX_SEND) {
			if (f->send.msg.type == MSG_TRYLOCK)
				attempt_made(w, &f->send.msg);
			for (unsigned k = 0; k < f->send.to_count; k++)
				net_post(w, id, f->send.to[k], &f->send.msg);
		} else {
			struct node *n = &w->node[id];
			n->asked_n = f->ceiling_n > n->asked_n ? f->ceiling_n : n->asked_n;
			disk_want(w, id);
		}
	}
}

static void arm_timer(struct world *w, unsigned id)
{
	struct node *n = &w->node[id];
	if (w->shard_level) {
		shard_arm(w, id);
		return;
	}
	uint64_t wait = engine_wait_ns(n->engine, &n->time);
	if (wait == UINT64_MAX)
		return;
	uint64_t at = w->now + clock_true_ns(&n->fast, wait);
	if (at >= n->timer_at)
		return;
	n->timer_at = at;
	world_push(w, at + below(w, 100000), ITEM_TIMER, id, 0, ++n->timer_gen);
}

void node_step(struct world *w, unsigned id, const struct event *ev, int key)
{
	struct node *n = &w->node[id];
	unsigned cut = UINT32_MAX;
	if (w->shard_level) {
		shard_event(w, id, ev);
		return;
	}
	node_clocks(w, id);
	engine_step(n->engine, &n->time, ev, &w->fx);
	if (!w->calm && w->fx.n > 0 && chance(w, w->swarm.midcrash_ppm))
		cut = (unsigned)below(w, w->fx.n); /* the batch is only half out when it dies */
	carry_out(w, id, w->fx.n < cut ? w->fx.n : cut);
	if (w->over)
		return;
	if (key >= 0)
		check_key(w, (unsigned)key);
	else if (ev->type == EV_TICK)
		check_node(w, id);
	if (w->over)
		return;
	if (cut != UINT32_MAX)
		node_crash(w, id);
	else
		arm_timer(w, id);
}

void node_timer(struct world *w, const struct item *it)
{
	struct node *n = &w->node[it->node];
	if (!n->up || n->timer_gen != it->gen)
		return;
	n->timer_at = UINT64_MAX;
	node_clocks(w, it->node);
	uint32_t life = n->life;
	unsigned ticks = 0;
	if (w->shard_level) {
		w->events++;
		trace_fold(w, w->now, it->node);
		shard_loop(w, it->node);
		clients_overdue(w, it->node);
		return;
	}
	while (!w->over && n->up && n->life == life && engine_wait_ns(n->engine, &n->time) == 0) {
		if (++ticks > TICKS_MAX) {
			violation(w, RUN_STUCK, "engine of node %u never rests", it->node);
			return;
		}
		w->events++;
		trace_fold(w, w->now, it->node);
		node_step(w, it->node, &(struct event){.type = EV_TICK}, -1);
	}
	if (w->over || !n->up || n->life != life)
		return;
	clients_overdue(w, it->node);
	arm_timer(w, it->node);
}

/* ---- life ---- */

/* D_Q of protocol.md 2.1, at least T_tomb, as src/node/config.c computes it. */
static uint64_t quarantine_ns(const struct engine_config *c)
{
	uint64_t up = 1000000 + c->drift_ppm, down = 1000000 - c->drift_ppm;
	uint64_t attempt = c->attempt_ms * MS;
	uint64_t lease = (c->max_lease_ms * MS / down + 1) * up;
	uint64_t wait = (attempt / down + 1) * up + 10 * MS;
	uint64_t tomb = 2 * ((2 * attempt / down + 1) * up);
	return lease + wait > tomb ? lease + wait : tomb;
}

static void begin(struct world *w, unsigned id)
{
	struct node *n = &w->node[id];
	n->cfg.cid = prng_next(&w->rng) | 1;
	n->cfg.seed = prng_next(&w->rng);
	n->cfg.ceiling_n = n->has_file ? n->durable_n : BALLOT_MAX;
	n->cfg.start_n = n->loaded_n;
	node_memory(w, id);
	node_clocks(w, id);
	if (w->shard_level)
		shard_start(w, id);
	else
		n->engine = engine_init(&n->cfg, &n->time, n->memory, n->memory_bytes);
	n->up = true;
	n->voting = n->wants_vote = false;
	n->life++;
	n->timer_at = UINT64_MAX;
	n->timer_gen++;
	memset(n->linked, 0, sizeof n->linked);
	memset(n->maxn, 0, sizeof n->maxn);
}

void node_first_boot(struct world *w, unsigned id)
{
	struct node *n = &w->node[id];
	n->has_file = w->swarm.files;
	if (n->has_file) {
		n->durable_n = node_wall_n(w, id) + CEILING_US;
		n->disk = (struct disk){
			.valid = {true, false}, .seq = {1, 0}, .ceiling_n = {n->durable_n, 0}};
	} else {
		n->durable_n = BALLOT_MAX;
	}
	begin(w, id);
	node_vote(w, id);
}

void node_start(struct world *w, unsigned id)
{
	struct node *n = &w->node[id];
	disk_before_start(w, id);
	n->loaded_n = 0;
	n->file_loaded = n->has_file && disk_load(&n->disk, &n->loaded_n);
	if (n->has_file)
		n->durable_n = n->loaded_n;
	begin(w, id);
	n->paused_until = 0;
	n->vote_at_slow = n->time.slow_ns + quarantine_ns(&n->cfg);
	TRACE(w, "%u starts, life %u, ceiling %llu", id, n->life, (unsigned long long)n->loaded_n);
	w->events++;
	world_push(w, w->now + clock_true_ns(&n->fast, quarantine_ns(&n->cfg)), ITEM_VOTE, id, 0,
		n->life);
	net_link_all(w, id);
}

void node_may_vote(struct world *w, const struct item *it)
{
	struct node *n = &w->node[it->node];
	if (!n->up || n->life != it->gen || n->voting)
		return;
	uint64_t slow = clock_read(&n->slow, w->now);
	if (slow < n->vote_at_slow) {
		world_push(w, w->now + clock_true_ns(&n->fast, n->vote_at_slow - slow), ITEM_VOTE,
			it->node, 0, n->life);
		return;
	}
	n->floor_n = n->file_loaded ? n->loaded_n : node_wall_n(w, it->node);
	n->wants_vote = true;
	if (n->has_file)
		disk_want(w, it->node);
	else
		node_vote(w, it->node);
}

/* protocol.md 2.8, fallback: the ceiling is durable above the floor before the first vote. */
void node_vote(struct world *w, unsigned id)
{
	struct node *n = &w->node[id];
	if (n->has_file && n->durable_n <= n->floor_n)
		return;
	n->voting = true;
	n->wants_vote = false;
	TRACE(w, "%u votes, floor %llu", id, (unsigned long long)n->floor_n);
	w->events++;
	if (n->floor_n != 0 && n->floor_n < n->accepted_n && !w->tokens_exempt) {
		violation(w, RUN_UNSAFE, "floor: node %u votes above %llu, but had accepted %llu",
			id, (unsigned long long)n->floor_n, (unsigned long long)n->accepted_n);
		return;
	}
	node_step(
		w, id, &(struct event){.type = EV_STATUS, .status = {NODE_ACTIVE, n->floor_n}}, -1);
}

void node_crash(struct world *w, unsigned id)
{
	struct node *n = &w->node[id];
	if (!n->up)
		return;
	TRACE(w, "%u crashes", id);
	w->events++;
	w->sums.crashes++;
	n->up = n->voting = n->wants_vote = false;
	n->timer_gen++;
	shard_end(w, id);
	disk_crash(w, id);
	client_node_died(w, id);
	for (unsigned k = 1; k <= w->n; k++) {
		w->stream[id][k]++;
		w->stream[k][id]++;
		if (w->node[k].linked[id] == 0)
			continue;
		/* A stream of a dead process ends at once, or after a while when its host died too.
		 */
		uint64_t notice = chance(w, 800000) ? below(w, MS) : below(w, SEC);
		world_push(w, w->now + notice, ITEM_CUT, k, id, w->stream[k][id]);
	}
	world_push(w, w->now + below(w, chance(w, 500000) ? 20 * MS : 2 * SEC), ITEM_START, id, 0,
		n->life);
}
