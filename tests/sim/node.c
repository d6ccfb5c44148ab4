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

#define WALL_US          UINT64_C(1800000000000000)
#define WALL_SKEW_MAX_US UINT64_C(3600000000)

/* One range per node for all runs; only what was touched costs anything. */
void node_memory(struct world *w, unsigned id)
{
	struct node *n = &w->node[id];
	size_t bytes = engine_memory_bytes(&n->cfg);
	CHECK(bytes > 0);
	if (n->memory != NULL && n->memory_bytes >= bytes) {
		ASAN_UNPOISON_MEMORY_REGION(n->memory, n->memory_bytes);
		CHECK(madvise(n->memory, n->memory_bytes, MADV_DONTNEED) == 0);
		/* What every start touches, at one go; a kernel before 5.14 does it page by page.
		 */
		(void)madvise(n->memory, offsetof(struct engine, probe_free), MADV_POPULATE_WRITE);
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
	uint64_t before = n->time.slow_ns;
	n->time.slow_ns = clock_read(&n->slow, w->now);
	n->time.fast_ns = clock_read(&n->fast, w->now);
	n->time.wall_us = node_wall_n(w, id) + EPOCH_US;
	if (MUTANT(CLOCK_WALL)) {
		uint64_t wall_ns = (n->time.wall_us + WALL_SKEW_MAX_US - WALL_US) * 1000;
		n->time.slow_ns = n->time.fast_ns = wall_ns > before ? wall_ns : before;
	}
	if (MUTANT(CLOCK_FAST))
		n->time.slow_ns = n->time.fast_ns;
	if (MUTANT(CLOCK_SLOW))
		n->time.fast_ns = n->time.slow_ns;
}

static bool node_in_sync(const struct node *n)
{
	const struct engine *e = n->engine;
	return e->slots_voting == e->slots_mine && !e->healing && !e->heal_wanted;
}

static void attempt_made(struct world *w, const struct msg *m)
{
	history_attempt(w, m->key.p[1], m->uid, get_u32(m->value.p));
}

/* Some rounds reach just as many as they need. */
static void send_round(struct world *w, unsigned id, const struct effect *f)
{
	const struct shape *c = &w->node[id].config;
	unsigned n = f->send.to_count, spare = shape_masters(c) - shape_majority(c);
	bool narrow = n > spare && !w->calm && chance(w, w->swarm.narrow_ppm);
	unsigned first = narrow ? (unsigned)below(w, n) : 0;
	for (unsigned k = 0; k < n; k++)
		if (!narrow || (k + n - first) % n >= spare)
			net_post(w, id, f->send.to[k], &f->send.msg);
}

/* What it has voted for; a coordinator votes itself as it asks. 0: nothing. */
static uint8_t vote_of(const struct world *w, unsigned id, const struct effect *f)
{
	static const uint32_t asks = 1u << MSG_TRYLOCK | 1u << MSG_RELEASE | 1u << MSG_EXTEND |
				     1u << MSG_PREPARE | 1u << MSG_ACCEPT;
	const struct msg *m = &f->send.msg;
	if (f->type != FX_SEND)
		return 0;
	if (m->type != MSG_REPLY)
		return is_master(w, id) && (asks >> m->type & 1) ? m->type : 0;
	return m->verdict == VERDICT_ACK || m->verdict == VERDICT_PROMISE ? m->req_type : 0;
}

/* The worst moments to die: right after a vote, and right after a client was told. */
static bool dies_now(struct world *w, unsigned id)
{
	bool voted = false, told = false;
	for (unsigned i = 0; i < w->fx.n; i++) {
		const struct effect *f = &w->fx.v[i];
		told |= f->type == FX_REPLY && f->reply.outcome == OUT_OK;
		uint8_t vote = vote_of(w, id, f);
		voted |= vote != 0 && (w->swarm.vote_type == 0 || w->swarm.vote_type == vote);
	}
	return !w->calm && (chance(w, voted ? w->swarm.vote_crash_ppm : 0) ||
				   chance(w, told ? w->swarm.told_crash_ppm : 0));
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
			send_round(w, id, f);
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
	observers_hear(w, id);
	if (!w->calm && w->fx.n > 0 && chance(w, w->swarm.midcrash_ppm))
		cut = (unsigned)below(w, w->fx.n); /* the batch is only half out when it dies */
	if (w->opt->trace)
		trace_entries(w, id);
	carry_out(w, id, w->fx.n < cut ? w->fx.n : cut);
	if (w->over)
		return;
	copies_look(w, id);
	if (w->over)
		return;
	if (key >= 0)
		check_key(w, (unsigned)key);
	else if (ev->type == EV_TICK)
		check_node(w, id);
	if (w->over)
		return;
	bool ends = cut == UINT32_MAX && dies_now(w, id);
	if (ends && chance(w, w->swarm.orderly_ppm))
		node_stop(w, id);
	else if (ends || cut != UINT32_MAX)
		node_crash(w, id);
	if (!n->up)
		return;
	if (n->restart.status == NODE_RESYNC && node_in_sync(n))
		world_push(w, w->now, ITEM_VOTE, id, 0, n->life);
	change_stepped(w, id);
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

static void begin(struct world *w, unsigned id)
{
	struct node *n = &w->node[id];
	n->cfg.cid = prng_next(&w->rng) | 1;
	n->cfg.seed = prng_next(&w->rng);
	n->cfg.ceiling_n = n->has_file ? n->durable_n : BALLOT_MAX;
	n->cfg.start_n = n->loaded_n;
	change_config(w, id, &n->cfg);
	node_memory(w, id);
	node_clocks(w, id);
	if (w->shard_level)
		shard_start(w, id);
	else
		n->engine = engine_init(&n->cfg, &n->time, n->memory, n->memory_bytes);
	n->up = true;
	n->life++;
	n->forgotten_n = n->accepted_n;
	n->timer_at = UINT64_MAX;
	n->timer_gen++;
	memset(n->linked, 0, sizeof n->linked);
	memset(n->heard, 0, sizeof n->heard);
	memset(n->seen, 0, sizeof n->seen);
	memset(n->maxn, 0, sizeof n->maxn);
}

static void set_out(struct world *w, unsigned id, enum restart_kind kind)
{
	struct node *n = &w->node[id];
	const struct restart_config cfg = {
		.kind = kind,
		.now_slow_ns = n->time.slow_ns,
		.objections_ns = kind == RESTART_FIRST_BOOT ? 0 : 200 * MS,
		.max_lease_ms = n->cfg.max_lease_ms,
		.attempt_ms = n->cfg.attempt_ms,
		.drift_ppm = n->cfg.drift_ppm,
		.n_masters = n->cfg.n_masters,
		.loaded_n = kind == RESTART_JOINED && n->has_file ? n->durable_n : n->loaded_n,
	};
	restart_init(&n->restart, &cfg);
	if (!is_master(w, id))
		n->restart.status = NODE_NONMEMBER;
}

void node_joins(struct world *w, unsigned id)
{
	TRACE(w, "%u joins", id);
	set_out(w, id, RESTART_JOINED);
	node_control(w, id);
}

void node_wake(struct world *w, unsigned id)
{
	struct node *n = &w->node[id];
	n->paused_until = 0;
	if (n->slow.at > w->now)
		n->slow.at = w->now;
}

void node_first_boot(struct world *w, unsigned id)
{
	struct node *n = &w->node[id];
	n->has_file = w->swarm.files && (is_master(w, id) || w->churn);
	if (n->has_file) {
		n->durable_n = ceiling_above(node_wall_n(w, id));
		n->disk.slot[0] = (struct record_on_disk){
			.valid = true, .seq = 1, .ceiling_n = n->durable_n, .reg = n->reg};
	} else {
		n->durable_n = BALLOT_MAX;
	}
	begin(w, id);
	change_start(w, id);
	set_out(w, id, RESTART_FIRST_BOOT);
	node_control(w, id);
}

static void boot(struct world *w, struct node *n)
{
	n->slow.at = n->fast.at = n->mclk.at = w->now;
	n->slow.own = n->fast.own = n->mclk.own = 1 + below(w, SEC);
}

void node_start(struct world *w, unsigned id)
{
	struct node *n = &w->node[id];
	disk_before_start(w, id);
	const struct record_on_disk *file = n->has_file ? disk_load(&n->disk) : NULL;
	n->loaded_n = file != NULL ? file->ceiling_n : 0;
	n->after_life = file != NULL ? file->clean : 0;
	disk_forget_clean(&n->disk);
	if (n->has_file)
		n->durable_n = n->loaded_n;
	node_wake(w, id);
	if (chance(w, w->swarm.boot_ppm))
		boot(w, n);
	change_load(w, id, file);
	begin(w, id);
	change_start(w, id);
	if (w->over)
		return;
	set_out(w, id, n->after_life != 0 ? RESTART_CLEAN : RESTART_EMPTY);
	n->old_file = n->after_life != 0 && n->after_life != n->life - 1;
	w->sums.clean_starts += n->after_life != 0;
	TRACE(w, "%u starts, life %u, ceiling %llu%s", id, n->life, (unsigned long long)n->loaded_n,
		n->after_life != 0 ? ", clean" : "");
	w->events++;
	observers_start(w, id);
	net_link_all(w, id);
	node_control(w, id);
}

static bool all_heard(const struct world *w, unsigned id)
{
	for (unsigned k = 1; k <= w->nodes; k++)
		if (k != id && (w->node[id].config.masters >> k & 1) && w->node[id].linked[k] == 0)
			return false;
	return true;
}

/* Only masters have to confirm what a file claims (seed 41012614: a replica knew better). */
static bool knows_better(const struct world *w, unsigned k, unsigned id)
{
	const struct node *n = &w->node[id];
	uint32_t seen = w->node[k].seen[id];
	return w->node[k].up && (n->config.masters >> k & 1) && seen > n->after_life &&
	       seen != n->life;
}

/* Of an old copy that nobody left can tell from the true file there is no judging (README.md of the
 * project): that node is distrusted all the same. */
static void distrust_in_vain(struct world *w, unsigned id)
{
	struct node *n = &w->node[id];
	bool known = n->after_life == 0 || !n->old_file;
	for (unsigned k = 1; k <= w->nodes; k++)
		known = known || knows_better(w, k, id);
	if (!known)
		restart_distrust(&n->restart);
}

static void look_again(struct world *w, unsigned id)
{
	const struct node *n = &w->node[id];
	uint64_t due = restart_due_ns(&n->restart), slow = n->time.slow_ns;
	if (due == UINT64_MAX)
		return;
	uint64_t left = due > slow ? due - slow : 10 * MS;
	world_push(w, w->now + clock_true_ns(&n->slow, left), ITEM_VOTE, id, 0, n->life);
}

static void check_floor(struct world *w, unsigned id, uint64_t floor_n)
{
	const struct node *n = &w->node[id];
	if (floor_n != 0 && floor_n < n->forgotten_n && !w->tokens_exempt)
		violation(w, RUN_UNSAFE, "floor: node %u votes above %llu, but had accepted %llu",
			id, (unsigned long long)floor_n, (unsigned long long)n->forgotten_n);
}

static void begin_to_vote(struct world *w, unsigned id, uint64_t floor_n)
{
	struct node *n = &w->node[id];
	struct engine_stats s;
	engine_stats(n->engine, &s);
	w->sums.fallbacks += floor_n != 0 && n->restart.kind == RESTART_EMPTY;
	w->sums.syncs += floor_n == 0 && n->restart.kind == RESTART_EMPTY;
	w->sums.shadows += s.shadows;
	bool at_once = n->restart.kind == RESTART_CLEAN && floor_n != 0 &&
		       n->time.slow_ns < n->restart.vote_ns;
	if (at_once && n->old_file)
		violation(w, RUN_UNSAFE, "clean: node %u votes by an old copy of its file", id);
	n->after_life = 0;
	TRACE(w, "%u is active, floor %llu", id, (unsigned long long)floor_n);
	check_floor(w, id, floor_n);
	if (!w->over)
		node_step(w, id,
			&(struct event){.type = EV_STATUS, .status = {NODE_ACTIVE, floor_n}}, -1);
}

void node_control(struct world *w, unsigned id)
{
	struct node *n = &w->node[id];
	if (!n->up || n->restart.status == NODE_ACTIVE || !is_master(w, id))
		return;
	node_clocks(w, id);
	distrust_in_vain(w, id);
	struct restart_news news = {.slow_ns = n->time.slow_ns,
		.wall_n = node_wall_n(w, id),
		.durable_n = n->durable_n,
		.all_heard = all_heard(w, id),
		.in_sync = node_in_sync(n)};
	uint64_t arg_n = 0;
	enum restart_action action = restart_next(&n->restart, &news, &arg_n);
	w->events += action != RESTART_WAIT;
	switch (action) {
	case RESTART_WAIT:
		break;
	case RESTART_COVER:
		n->asked_n = arg_n > n->asked_n ? arg_n : n->asked_n;
		disk_want(w, id);
		break;
	case RESTART_ASK:
		TRACE(w, "%u asks the others", id);
		node_step(
			w, id, &(struct event){.type = EV_STATUS, .status = {NODE_RESYNC, 0}}, -1);
		break;
	case RESTART_VOTE:
		begin_to_vote(w, id, arg_n);
		return;
	}
	if (!w->over && n->up)
		look_again(w, id);
}

void node_may_vote(struct world *w, const struct item *it)
{
	if (w->node[it->node].up && w->node[it->node].life == it->gen)
		node_control(w, it->node);
}

static void fall(struct world *w, unsigned id, uint64_t away_ns)
{
	struct node *n = &w->node[id];
	struct engine_stats s;
	w->events++;
	engine_stats(n->engine, &s);
	w->sums.healed += s.healed;
	n->up = false;
	n->fell_at = w->now;
	copies_look(w, id);
	n->timer_gen++;
	shard_end(w, id);
	disk_crash(w, id);
	client_node_died(w, id);
	for (unsigned k = 1; k <= w->nodes; k++) {
		w->stream[id][k]++;
		w->stream[k][id]++;
		if (w->node[k].linked[id] == 0)
			continue;
		/* A stream of a dead process ends at once, or after a while when its host died too.
		 */
		uint64_t notice = chance(w, 800000) ? below(w, MS) : below(w, SEC);
		world_push(w, w->now + notice, ITEM_CUT, k, id, w->stream[k][id]);
	}
	world_push(w, w->now + away_ns, ITEM_START, id, 0, n->life);
}

static uint64_t some_absence(struct world *w)
{
	uint64_t away = chance(w, 500000) ? 20 * MS : 2 * SEC;
	return below(w, w->swarm.quick_starts ? MS : away);
}

void node_crash_for(struct world *w, unsigned id, uint64_t away_ns)
{
	if (!w->node[id].up)
		return;
	TRACE(w, "%u crashes", id);
	w->sums.crashes++;
	fall(w, id, away_ns);
}

void node_crash(struct world *w, unsigned id)
{
	node_crash_for(w, id, some_absence(w));
}

void node_stop(struct world *w, unsigned id)
{
	struct node *n = &w->node[id];
	uint64_t top_n = 0;
	if (!n->up || n->paused_until > w->now)
		return;
	bool clean = engine_holds_nothing(n->engine, &top_n) && n->restart.status == NODE_ACTIVE &&
		     n->has_file && top_n <= n->durable_n;
	TRACE(w, "%u stops%s", id, clean ? ", holding nothing" : "");
	w->sums.stops++;
	disk_drop(n); /* what is being written is done before */
	fall(w, id, some_absence(w));
	if (clean)
		disk_keep_clean(n, top_n);
}
