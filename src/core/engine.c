#include "core/engine.h"

#include <string.h>

#include "core/internal.h"

/* Where each part lies inside the memory handed over. */
struct layout {
	size_t ops, lines, line_map, waiting, aborted_map, leases, names, tombs, heals, heal_map;
	size_t turns, turn_map, sync_body, logs, records, followers, bodies, copies, arena, end;
	size_t op_stride;
};

static size_t take(size_t *at, size_t bytes)
{
	size_t begin = (*at + 4095) & ~(size_t)4095;
	*at = begin + bytes;
	return begin;
}

static uint64_t tombs_max(const struct engine_config *cfg)
{
	return 2 * (uint64_t)cfg->max_leases + 65536;
}

static void lay_out(const struct engine_config *cfg, struct layout *l)
{
	size_t at = sizeof(struct engine);
	/* There may be more masters later. */
	l->op_stride = sizeof(struct op) + MASTERS_MAX * sizeof(struct answer);
	l->op_stride = (l->op_stride + 63) & ~(size_t)63;
	l->ops = take(&at, l->op_stride * cfg->max_ops);
	l->lines = take(&at, sizeof(struct line) * cfg->max_ops);
	l->line_map = take(&at, map_memory_bytes(cfg->max_ops, cfg->threads));
	l->waiting = take(&at, map_memory_bytes(cfg->max_ops, 1));
	l->aborted_map = take(&at, map_memory_bytes(ABORTED_MAX, 1));
	l->leases = take(&at, map_memory_bytes(cfg->max_leases, cfg->threads));
	l->names = take(&at, map_memory_bytes(cfg->max_leases + NAMES_IDLE_MAX, 1));
	l->tombs = take(&at, tombs_memory_bytes(tombs_max(cfg), cfg->slots, cfg->threads));
	l->heals = take(&at, sizeof(struct heal) * cfg->max_ops);
	l->heal_map = take(&at, map_memory_bytes(cfg->max_ops, cfg->threads));
	l->turns = take(&at, sizeof(struct turn) * cfg->max_ops);
	l->turn_map = take(&at, map_memory_bytes(cfg->max_ops, cfg->threads));
	l->sync_body = take(&at, SYNC_BODY_MAX_BYTES);
	size_t slots = shard_slots(cfg);
	l->logs = take(&at, slots * sizeof(struct slot_log));
	l->records = take(&at, slots * LOG_RECORDS * sizeof(struct log_record));
	l->followers = take(&at, slots * REPLICAS_MAX * sizeof(struct follower));
	l->bodies = take(&at, (size_t)LOG_BODIES * SYNC_BODY_MAX_BYTES);
	l->copies = take(&at, slots * sizeof(struct copy));
	/* Address space, not memory: room for leases of 1 KiB, and for operations with the longest
	 * key and values; who uses more meets LIMIT. */
	l->arena = take(&at, (size_t)cfg->max_leases * 1024 + (size_t)cfg->max_ops * 10240);
	l->end = at;
}

static bool config_in_range(const struct engine_config *cfg)
{
	if (cfg->n_masters < 1 || cfg->n_masters > MASTERS_MAX || cfg->self == 0)
		return false;
	if (cfg->slots < 1 || cfg->slots > SLOTS_MAX || cfg->threads < 1 ||
		cfg->threads > THREADS_MAX || cfg->shard >= cfg->threads)
		return false;
	if (cfg->max_lease_ms < 1 || cfg->max_lease_ms > LEASE_MAX_MS || cfg->attempt_ms < 1 ||
		cfg->attempt_ms > 60000 || cfg->drift_ppm >= 100000 || cfg->op_timeout_ms < 1)
		return false;
	return cfg->max_leases >= 1 && cfg->max_leases <= 1u << 30 && cfg->max_ops >= 16 &&
	       cfg->max_ops <= 1u << 22 && cfg->max_waiters_per_key >= 1;
}

size_t engine_memory_bytes(const struct engine_config *cfg)
{
	if (!config_in_range(cfg))
		return 0;
	struct layout l;
	lay_out(cfg, &l);
	return l.end;
}

/* ns * kappa, rounded up. */
static uint64_t times_kappa(uint64_t ns, uint32_t drift_ppm)
{
	uint64_t up = 1000000 + drift_ppm, down = 1000000 - drift_ppm;
	return (ns / down + 1) * up;
}

uint64_t engine_restart_wait_ns(uint32_t attempt_ms, uint32_t drift_ppm)
{
	return times_kappa(attempt_ms * NS_PER_MS, drift_ppm) + 10 * NS_PER_MS;
}

uint64_t engine_quarantine_ns(uint32_t max_lease_ms, uint32_t attempt_ms, uint32_t drift_ppm)
{
	uint64_t tomb_ns = 2 * times_kappa(UINT64_C(2) * attempt_ms * NS_PER_MS, drift_ppm);
	uint64_t lease_ns = times_kappa(max_lease_ms * NS_PER_MS, drift_ppm);
	uint64_t wait_ns = lease_ns + engine_restart_wait_ns(attempt_ms, drift_ppm);
	return wait_ns > tomb_ns ? wait_ns : tomb_ns;
}

struct engine *engine_init(
	const struct engine_config *cfg, const struct engine_time *now, void *mem, size_t bytes)
{
	CHECK(config_in_range(cfg));
	CHECK(bytes >= engine_memory_bytes(cfg));
	struct layout l;
	lay_out(cfg, &l);
	uint8_t *base = mem;
	struct engine *e = mem;
	e->cfg = *cfg;
	e->now = *now;
	config_init(e);
	e->attempt_ns = cfg->attempt_ms * NS_PER_MS;
	e->drift_ppm = cfg->drift_ppm;
	/* T_promise > T_att, so that asking does not disturb a running attempt (protocol.md 2.11).
	 */
	e->promise_ns = MUTANT(QUERY_UNSEALED) ? e->attempt_ns / 8 : 2 * e->attempt_ns;
	e->landed_ns = more_drift(e, e->attempt_ns) + NS_PER_MS; /* T_msg = T_att */
	e->wait_ns = engine_restart_wait_ns(cfg->attempt_ms, cfg->drift_ppm);
	e->hlc = cfg->start_n;
	e->ceiling = e->ceiling_asked = cfg->ceiling_n;
	e->rtt_ns = RTT_START_NS;
	prng_seed(&e->prng, cfg->seed);

	e->op_stride = l.op_stride;
	e->ops = base + l.ops;
	arena_init(&e->arena, base + l.arena, l.end - l.arena);
	map_init(&e->leases, base + l.leases, cfg->max_leases, cfg->threads);
	map_init(&e->names, base + l.names, cfg->max_leases + NAMES_IDLE_MAX, 1);
	wheel_init(&e->lease_wheel, e->arena.base, ARENA_UNIT, offsetof(struct lease, wheel),
		now->slow_ns);
	wheel_init(&e->op_wheel, e->ops - e->op_stride, e->op_stride, 0, now->fast_ns);
	/* T_tomb, with T_msg = T_att. */
	uint64_t tomb_ns = MUTANT(TOMB_SHORT) ? 1 : 2 * more_drift(e, 2 * e->attempt_ns);
	tombs_init(&e->tombs, base + l.tombs, tombs_max(cfg), cfg->slots, cfg->threads, tomb_ns,
		now->slow_ns);
	map_init(&e->lines, base + l.line_map, cfg->max_ops, cfg->threads);
	map_init(&e->heal_map, base + l.heal_map, cfg->max_ops, cfg->threads);
	map_init(&e->turns.map, base + l.turn_map, cfg->max_ops, cfg->threads);
	map_init(&e->waiting, base + l.waiting, cfg->max_ops, 1);
	map_init(&e->aborted_map, base + l.aborted_map, ABORTED_MAX, 1);
	e->line_pool = (struct line *)(void *)(base + l.lines);
	e->sync_body = base + l.sync_body;
	e->heals = base + l.heals;
	e->turns.pool = (struct turn *)(void *)(base + l.turns);
	e->logs.slots = (struct slot_log *)(void *)(base + l.logs);
	e->logs.records = (struct log_record *)(void *)(base + l.records);
	e->logs.followers = base + l.followers;
	e->logs.bodies = base + l.bodies;
	e->copies.slots = base + l.copies;
	lines_init(e);
	promises_init(e);
	resync_init(e);
	heals_init(e);
	turns_init(e);
	logs_init(e);
	copies_init(e);
	return e;
}

struct effect *effect_new(struct engine *e, enum effect_type type)
{
	CHECK(e->fx->n < EFFECTS_MAX);
	struct effect *f = &e->fx->v[e->fx->n++];
	f->type = type;
	return f;
}

bool effects_room(const struct engine *e)
{
	return e->fx->n + STEP_EFFECTS <= EFFECTS_MAX && e->limbo_n + STEP_BLOCKS <= LIMBO_MAX;
}

void block_dispose(struct engine *e, uint32_t ref, size_t bytes)
{
	CHECK(e->limbo_n < LIMBO_MAX);
	e->limbo[e->limbo_n++] = (struct block){ref, (uint32_t)bytes};
}

static void empty_limbo(struct engine *e)
{
	for (uint32_t i = 0; i < e->limbo_n; i++)
		arena_free(&e->arena, e->limbo[i].ref, e->limbo[i].bytes);
	e->limbo_n = 0;
}

void send_masters(struct engine *e, uint16_t mask, const struct msg *m)
{
	mask &= e->links_up;
	if (mask == 0)
		return;
	struct effect *f = effect_new(e, FX_SEND);
	f->send.to_count = 0;
	for (uint8_t i = 0; i < e->cfg.n_masters; i++)
		if (mask & (1u << i))
			f->send.to[f->send.to_count++] = e->cfg.masters[i];
	f->send.msg = *m;
	e->stats.msgs_out += f->send.to_count;
}

void send_node(struct engine *e, uint8_t node, const struct msg *m)
{
	struct effect *f = effect_new(e, FX_SEND);
	f->send.to_count = 1;
	f->send.to[0] = node;
	f->send.msg = *m;
	e->stats.msgs_out++;
}

static void reply_now(
	struct engine *e, const struct op_request *r, enum outcome outcome, const char *limit)
{
	struct effect *f = effect_new(e, FX_REPLY);
	f->reply =
		(struct result){.tag = r->tag, .kind = r->kind, .outcome = outcome, .limit = limit};
}

static void on_op(struct engine *e, const struct op_request *r)
{
	if (r->kind == OP_READ) {
		read_local(e, r);
		return;
	}
	struct op *op = op_new(e, r);
	if (op == NULL) {
		e->stats.limit++;
		reply_now(e, r, OUT_LIMIT, "operations in flight");
		return;
	}
	switch (r->kind) {
	case OP_LOCK:
	case OP_LAG:
		lock_start(e, op);
		break;
	case OP_UPDATE:
		update_start(e, op);
		break;
	case OP_EXTEND:
		extend_start(e, op);
		break;
	case OP_RELEASE:
		release_start(e, op);
		break;
	case OP_READ_QUORUM:
		read_start(e, op);
		break;
	case OP_WAITFOR:
	case OP_WAITRELEASE:
		watch_start(e, op);
		break;
	case OP_OBSERVE:
		observe_start(e, op);
		break;
	case OP_READ:
		break;
	}
}

static void on_cancel(struct engine *e, uint64_t tag)
{
	struct op *op = op_waiting(e, tag);
	if (op == NULL || op->orphan)
		return;
	op->orphan = true;
	if (op->state == OPS_WATCH)
		op_free(e, op);
	else
		lock_cancel(e, op);
}

static void on_msg(struct engine *e, uint8_t from, const struct msg *m)
{
	e->stats.msgs_in++;
	if (m->type == MSG_FOLLOW) {
		log_follow(e, from, m);
		return;
	}
	if (m->type == MSG_STAND) {
		turn_stand(e, from, m);
		return;
	}
	if (m->type == MSG_TURN) {
		turn_called(e, from, m);
		return;
	}
	if (m->type == MSG_REPLY) {
		uint8_t index = e->index_of[from];
		if (index == NO_MASTER)
			return;
		bool departed = index == e->cfg.n_masters;
		if (departed && m->req_type != MSG_SYNC)
			return;
		ballot_merge(e, m->n);
		ballot_merge(e, m->uid.n);
		bool of_copy = m->req_type == MSG_SYNC && (m->flags & MSG_COPY);
		bool of_key = m->req_type == MSG_SYNC && (m->flags & MSG_ONE_KEY);
		if (m->req_type == MSG_FOLLOW || of_copy)
			copy_answer(e, from, m);
		else if (of_key && !departed)
			heal_answer(e, index, m);
		else if (m->req_type == MSG_SYNC && !of_key)
			resync_answer(e, index, m);
		else if (m->req_type == MSG_STAND)
			turn_stood(e, m);
		else if (m->req & PROBE_REQ)
			promise_answer(e, index, m);
		else
			round_answer(e, index, m);
		return;
	}
	if (m->type == MSG_CONFIRM) {
		master_confirm(e, m);
		return;
	}
	if (m->type == MSG_QUERY) {
		promise_query(e, from, m);
		return;
	}
	struct msg reply;
	bool answers = m->type == MSG_SYNC ? report_handle(e, m, &reply)
					   : master_handle(e, hash_bytes(m->key), m, &reply);
	if (answers && m->req != 0)
		send_node(e, from, &reply);
}

static void on_status(struct engine *e, enum node_status status, uint64_t floor_n)
{
	if (e->self_index == NO_MASTER)
		return;
	if (status == NODE_ACTIVE) {
		/* After a restart whatever has been heard of meanwhile counts too: without its
		 * state file a node knows only the wall clock, and tokens may be ahead of that (sim
		 * seed 3). */
		if (floor_n != 0 && floor_n < e->hlc)
			floor_n = e->hlc;
		ballot_merge(e, floor_n);
		resync_give_up(e, floor_n);
		if (floor_n != 0)
			resync_heal(e);
	} else if (status == NODE_RESYNC) {
		resync_begin(e);
	} else {
		resync_stop(e);
	}
	e->status = status;
}

void engine_step(
	struct engine *e, const struct engine_time *now, const struct event *ev, struct effects *fx)
{
	fx->n = 0;
	e->fx = fx;
	CHECK(now->slow_ns >= e->now.slow_ns && now->fast_ns >= e->now.fast_ns);
	e->now = *now;
	e->logs.bodies_used = 0;
	empty_limbo(e);
	switch (ev->type) {
	case EV_OP:
		on_op(e, &ev->op);
		break;
	case EV_CANCEL:
		on_cancel(e, ev->cancel_tag);
		break;
	case EV_MSG:
		on_msg(e, ev->msg.from, ev->msg.msg);
		break;
	case EV_LINK:
		config_link(e, ev->link.node, ev->link.up);
		break;
	case EV_MISSED:
		resync_heal(e);
		break;
	case EV_STATUS:
		on_status(e, ev->status.status, ev->status.floor_n);
		observers_wake_all(e);
		break;
	case EV_CONFIG:
		config_change(e, &ev->members);
		observers_wake_all(e);
		break;
	case EV_SETTLED:
		resync_settled(e);
		observers_wake_all(e);
		break;
	case EV_CEILING:
		if (ev->ceiling_n > e->ceiling)
			e->ceiling = ev->ceiling_n;
		resync_ceiling(e);
		break;
	case EV_TICK:
		tombs_tick(&e->tombs, now->slow_ns);
		aborted_tick(e);
		names_tick(e);
		config_tick(e);
		ops_tick(e);
		leases_tick(e);
		resync_tick(e);
		heals_tick(e);
		turns_tick(e);
		logs_tick(e);
		copies_tick(e);
		break;
	}
	ops_run(e);
	if (e->turns.head != 0)
		turns_run(e);
}

uint64_t engine_wait_ns(const struct engine *e, const struct engine_time *now)
{
	if (e->run_head != 0 || e->turns.head != 0 || config_tick_due(e))
		return 0;
	uint64_t wait_ns = UINT64_MAX;
	const uint64_t slow_due[] = {wheel_next_ns(&e->lease_wheel), tombs_next_ns(&e->tombs),
		e->heals_used == 0 ? UINT64_MAX : wheel_next_ns(&e->heal_wheel),
		e->turns.used == 0 ? UINT64_MAX : wheel_next_ns(&e->turns.wheel), e->resync_due_ns,
		wheel_next_ns(&e->logs.wheel), copies_next_ns(e)};
	for (unsigned i = 0; i < sizeof slow_due / sizeof slow_due[0]; i++) {
		uint64_t d = slow_due[i] == UINT64_MAX     ? UINT64_MAX
			     : slow_due[i] <= now->slow_ns ? 0
							   : slow_due[i] - now->slow_ns;
		wait_ns = d < wait_ns ? d : wait_ns;
	}
	uint64_t op_due = wheel_next_ns(&e->op_wheel);
	if (op_due != UINT64_MAX) {
		uint64_t d = op_due <= now->fast_ns ? 0 : op_due - now->fast_ns;
		wait_ns = d < wait_ns ? d : wait_ns;
	}
	return wait_ns;
}

void engine_prefetch_index(const struct engine *e, uint64_t hash)
{
	map_prefetch(&e->leases, hash);
	tombs_prefetch(&e->tombs, hash);
}

void engine_prefetch_lease(const struct engine *e, uint64_t hash)
{
	const struct map_slot *s = map_find(&e->leases, hash);
	if (s == NULL)
		return;
	const char *l = arena_at(&e->arena, (uint32_t)s->value);
	__builtin_prefetch(l);
	__builtin_prefetch(l + 64);
}

uint64_t engine_hlc(const struct engine *e)
{
	return e->hlc;
}

void engine_hlc_merge(struct engine *e, uint64_t n)
{
	ballot_merge(e, n);
}

bool engine_holds_nothing(const struct engine *e, uint64_t *ret_top_n)
{
	*ret_top_n = e->hlc;
	for (uint16_t i = 0; i < e->cfg.slots; i++) {
		uint64_t top = tombs_top(&e->tombs, i);
		*ret_top_n = top > *ret_top_n ? top : *ret_top_n;
	}
	return e->self_index != NO_MASTER && e->slots_voting == e->slots_mine &&
	       (e->leases.count == 0 || MUTANT(CLEAN_ALWAYS));
}

void engine_stats(const struct engine *e, struct engine_stats *ret)
{
	*ret = e->stats;
	ret->status = e->status;
	ret->leases = e->n_leases;
	ret->promises = e->n_promises;
	ret->waiters = e->n_waiters;
	ret->observers = e->n_observers;
	ret->ops = e->ops_used;
	ret->ops_max = e->cfg.max_ops;
	ret->tombstones = tombs_count(&e->tombs);
	ret->slots = e->slots_mine;
	ret->slots_voting = e->slots_voting;
	ret->slots_in_sync = e->slots_merged;
	bool merged = e->slots_merged == e->slots_mine && e->heals_of_merge == 0;
	bool copied = e->cfg.replica && e->copies.whole == e->slots_mine;
	bool in_sync = e->self_index != NO_MASTER ? merged : copied;
	ret->synced_epoch = in_sync ? e->cfg.masters_epoch : 0;
	/* Who looks at leisure votes meanwhile. */
	ret->healing = (e->heal_wanted || e->healing) && !e->at_leisure;
	ret->shadows = e->n_shadows;
	ret->staged = e->n_staged;
	ret->resync = e->n_resync;
	logs_stats(e, ret);
	copies_stats(e, ret);
	ret->memory_bytes = (uint64_t)e->arena.next * ARENA_UNIT + map_used_bytes(&e->leases) +
			    map_used_bytes(&e->tombs.gen[0]) + map_used_bytes(&e->tombs.gen[1]) +
			    (uint64_t)e->ops_touched * e->op_stride;
}
