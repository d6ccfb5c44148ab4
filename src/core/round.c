/* Operations in flight and the rounds they run: who was asked, who answered, in time or not. */
#include <string.h>

#include "core/internal.h"

static size_t op_block_bytes(const struct op *op)
{
	return (size_t)op->key_bytes + op->value_bytes + op->new_bytes + op->client_bytes;
}

static void copy_in(uint8_t **to, struct bytes from)
{
	if (from.len > 0)
		memcpy(*to, from.p, from.len);
	*to += from.len;
}

static uint32_t take_index(struct engine *e)
{
	uint32_t index = e->op_free;
	if (index != 0) {
		e->op_free = op_at(e, index - 1)->q_next;
		return index;
	}
	if (e->ops_touched == e->cfg.max_ops)
		return 0;
	return ++e->ops_touched;
}

static uint64_t tag_hash(const struct engine *e, uint64_t tag)
{
	return hash_mix(tag, e->cfg.cid);
}

struct op *op_waiting(const struct engine *e, uint64_t tag)
{
	struct map_slot *s = map_find(&e->waiting, tag_hash(e, tag));
	while (s != NULL && op_at(e, (uint32_t)s->value)->tag != tag)
		s = map_next(&e->waiting, tag_hash(e, tag), s);
	return s == NULL ? NULL : op_at(e, (uint32_t)s->value);
}

static void waiting_forget(struct engine *e, const struct op *op)
{
	struct map_slot *s = map_find(&e->waiting, tag_hash(e, op->tag));
	while (s != NULL && s->value != op->index)
		s = map_next(&e->waiting, tag_hash(e, op->tag), s);
	CHECK(s != NULL);
	map_erase(&e->waiting, tag_hash(e, op->tag), s);
}

/* Only what may wait long can be cancelled; the rest ends by itself. */
static bool may_wait_long(enum op_kind kind, bool wait)
{
	return wait || kind == OP_WAITFOR || kind == OP_WAITRELEASE || kind == OP_OBSERVE;
}

struct op *op_new(struct engine *e, const struct op_request *r)
{
	struct bytes client = r->client;
	if (client.len > CLIENT_NAME_MAX_BYTES)
		client.len = CLIENT_NAME_MAX_BYTES;
	size_t bytes = (size_t)r->key.len + r->value.len + r->new_value.len + client.len;
	uint32_t block = arena_alloc(&e->arena, bytes);
	if (block == 0)
		return NULL;
	uint32_t index = take_index(e);
	if (index == 0) {
		arena_free(&e->arena, block, bytes);
		return NULL;
	}
	struct op *op = op_at(e, index - 1);
	bool waits = may_wait_long(r->kind, r->wait);
	if (waits && map_insert(&e->waiting, tag_hash(e, r->tag), index - 1) != 0) {
		op->q_next = e->op_free;
		e->op_free = index;
		arena_free(&e->arena, block, bytes);
		return NULL;
	}
	uint32_t round = op->round;
	*op = (struct op){
		.index = index - 1,
		.round = round,
		.kind = (uint8_t)r->kind,
		.state = OPS_RETRY,
		.slot = slot_of(e, r->hash),
		.wait = r->wait,
		.idempotent = r->idempotent,
		.has_token = r->has_token,
		.any_value = r->any_value,
		.has_ttl = r->has_ttl,
		.block = block,
		.key_bytes = (uint16_t)r->key.len,
		.value_bytes = (uint16_t)r->value.len,
		.new_bytes = (uint16_t)r->new_value.len,
		.client_bytes = (uint16_t)client.len,
		.ttl_ms = r->ttl_ms,
		.hash = r->hash,
		.tag = r->tag,
		.token = r->token,
		.asked_slow_ns = e->now.slow_ns,
		.asked_fast_ns = r->asked_fast_ns,
		.deadline_ns = e->now.fast_ns + (e->cfg.op_timeout_ms + r->wait_ms) * NS_PER_MS,
		.refusal = OUT_NOQUORUM,
	};
	uint8_t *data = op_data(e, op);
	copy_in(&data, r->key);
	copy_in(&data, r->value);
	copy_in(&data, r->new_value);
	copy_in(&data, client);
	e->ops_used++;
	return op;
}

void op_free(struct engine *e, struct op *op)
{
	CHECK(op->state != OPS_FREE);
	if (may_wait_long((enum op_kind)op->kind, op->wait))
		waiting_forget(e, op);
	e->n_observers -= op->kind == OP_OBSERVE;
	round_reset(e, op);
	try_list_remove(e, op);
	line_leave(e, op);
	wheel_remove(&e->op_wheel, op->index + 1);
	block_dispose(e, op->block, op_block_bytes(op));
	op->state = OPS_FREE;
	op->round = (op->round + 1) & ROUND_MASK;
	e->ops_used--;
	/* One that is still in the run list goes to the free list when it comes up there. */
	if (op->in_run)
		return;
	op->q_next = e->op_free;
	e->op_free = op->index + 1;
}

struct result *op_reply(struct engine *e, struct op *op, enum outcome outcome)
{
	/* The result for a client that has gone away goes nowhere. */
	struct result *r = op->orphan ? &e->nobody : &effect_new(e, FX_REPLY)->reply;
	*r = (struct result){
		.tag = op->tag,
		.kind = (enum op_kind)op->kind,
		.outcome = outcome,
		.quorum = e->majority,
		.masters = e->cfg.n_masters,
		.sent = op->sent,
		.answered = (uint8_t)(!op->sent        ? count_bits(masters_reachable(e, op->slot))
				      : op->heard != 0 ? op->heard
						       : count_bits(op->answered)),
	};
	if (outcome == OUT_NOQUORUM)
		e->stats.no_quorum++;
	else if (outcome == OUT_UNKNOWN)
		e->stats.unknown++;
	else if (outcome == OUT_LIMIT)
		e->stats.limit++;
	return r;
}

void op_finish(struct engine *e, struct op *op, enum outcome outcome)
{
	struct result *r = op_reply(e, op, outcome);
	if (outcome == OUT_LIMIT)
		r->limit = "leases of a master";
	op_free(e, op);
}

void op_timer(struct engine *e, struct op *op, uint64_t due_fast_ns)
{
	op->timer_ns = due_fast_ns;
	wheel_remove(&e->op_wheel, op->index + 1);
	wheel_add(&e->op_wheel, op->index + 1, due_fast_ns);
}

void op_run_later(struct engine *e, struct op *op)
{
	if (op->in_run)
		return;
	op->in_run = true;
	op->run_next = 0;
	if (e->run_head == 0)
		e->run_head = op->index + 1;
	else
		op_at(e, e->run_tail - 1)->run_next = op->index + 1;
	e->run_tail = op->index + 1;
}

/* Decorrelated jitter over the round-trip time (protocol.md 2.6). */
void op_retry_later(struct engine *e, struct op *op)
{
	uint64_t base = e->rtt_ns;
	uint64_t cap = BACKOFF_CAP_MS * NS_PER_MS;
	uint64_t last = op->backoff_ns < base ? base : op->backoff_ns;
	uint64_t sleep = base / 2 + prng_below(&e->prng, 3 * last - base / 2 + 1);
	/* Never the cap itself: rivals that all sit at it would retry in step for ever (sim seed
	 * 6189). */
	op->backoff_ns = sleep < cap ? sleep : cap / 2 + prng_below(&e->prng, cap);
	e->stats.retries++;
	if (op->state != OPS_LOCK_BACKOFF)
		op->state = OPS_RETRY;
	if (op->kind == OP_READ_QUORUM)
		op->heard = (uint8_t)count_bits(op->answered);
	round_reset(e, op);
	op->round = (op->round + 1) & ROUND_MASK;
	uint64_t due_ns = e->now.fast_ns + op->backoff_ns;
	op_timer(e, op, due_ns < op->deadline_ns ? due_ns : op->deadline_ns);
}

void round_wait(struct engine *e, struct op *op)
{
	/* Short of T_prom together with what follows, or rivals take turns in vain. */
	uint64_t most_ns = PROMISE_CAP_MS * NS_PER_MS / 2;
	uint64_t due_ns = e->now.fast_ns + (2 * e->rtt_ns < most_ns ? 2 * e->rtt_ns : most_ns);
	op_timer(e, op, due_ns < op->deadline_ns ? due_ns : op->deadline_ns);
}

uint16_t masters_reachable(const struct engine *e, uint16_t slot)
{
	uint16_t mask = e->links_up;
	if (slot_votes(e, slot))
		mask |= (uint16_t)(1u << e->self_index);
	return mask;
}

bool round_put_off(struct engine *e, struct op *op, uint16_t mask)
{
	if (count_bits(mask) >= e->majority || !config_is_fresh(e) ||
		e->now.fast_ns >= op->deadline_ns)
		return false;
	op_retry_later(e, op);
	return true;
}

void round_reset(struct engine *e, struct op *op)
{
	for (uint16_t left = op->answered; left != 0; left &= (uint16_t)(left - 1)) {
		struct answer *a = &op->answers[__builtin_ctz(left)];
		if (a->block != 0)
			block_dispose(e, a->block, (size_t)a->value_bytes + a->name_bytes);
		*a = (struct answer){0};
	}
	op->asked = op->answered = 0;
}

void round_begin(struct engine *e, struct op *op, struct msg *m, uint16_t mask)
{
	round_reset(e, op);
	op->round = (op->round + 1) & ROUND_MASK;
	op->config = e->configs;
	op->asked = mask;
	op->sent = true;
	m->slot = op->slot;
	m->key = op_key(e, op);
	m->req = (uint64_t)op->round << 32 | (op->index + 1); /* 0 would mean: no reply wanted */
	send_masters(e, mask, m);
}

void round_self(struct engine *e, struct op *op, const struct msg *m, uint64_t due_fast_ns)
{
	uint32_t round = op->round;
	struct msg reply;
	if (e->self_index != NO_MASTER && (op->asked & (1u << e->self_index)) &&
		master_handle(e, op->hash, m, &reply))
		round_answer(e, e->self_index, &reply);
	/* The local answer may have decided it: every end or new beginning counts the round up. */
	if (op->round == round)
		op_timer(e, op, due_fast_ns < op->deadline_ns ? due_fast_ns : op->deadline_ns);
}

static bool keep_answer(struct engine *e, struct answer *a, const struct msg *m)
{
	*a = (struct answer){
		.verdict = m->verdict,
		.flags = m->flags,
		.node = m->node,
		.uid = m->uid,
		.b = m->b,
		.n = m->n,
		.op_id = m->op_id,
		.remaining_ns = m->remaining_ns,
		.held_ns = m->held_ns,
	};
	size_t bytes = (size_t)m->value.len + m->name.len;
	if (bytes == 0)
		return true;
	a->block = arena_alloc(&e->arena, bytes);
	if (a->block == 0) {
		*a = (struct answer){0};
		return false;
	}
	a->value_bytes = (uint16_t)m->value.len;
	a->name_bytes = (uint8_t)m->name.len;
	uint8_t *data = arena_at(&e->arena, a->block);
	copy_in(&data, m->value);
	copy_in(&data, m->name);
	return true;
}

void round_answer(struct engine *e, unsigned from_index, const struct msg *m)
{
	uint32_t index = (uint32_t)m->req;
	if (index == 0 || index > e->ops_touched)
		return;
	struct op *op = op_at(e, index - 1);
	uint16_t bit = (uint16_t)(1u << from_index);
	if (MUTANT(VOTE_TWICE) && (op->answered & bit)) {
		from_index = (from_index + 1) % e->cfg.n_masters;
		bit = (uint16_t)(1u << from_index);
	}
	if (op->state == OPS_FREE || op->round != (uint32_t)(m->req >> 32) || !(op->asked & bit) ||
		(op->answered & bit))
		return; /* of an older round, or twice */
	if (m->verdict == VERDICT_PROMISE && m->uid.n == 0)
		return; /* of nothing: no master says so */
	if (config_renew(e, op))
		return;
	if (!keep_answer(e, &op->answers[from_index], m))
		return;
	op->answered |= bit;
	switch (op->state) {
	case OPS_LOCK_TRY:
		lock_answered(e, op);
		break;
	case OPS_EXTEND:
		extend_answered(e, op);
		break;
	case OPS_PREPARE:
		prepare_answered(e, op);
		break;
	case OPS_ACCEPT:
		accept_answered(e, op);
		break;
	case OPS_RELEASE:
		release_answered(e, op);
		break;
	case OPS_READ:
		read_answered(e, op);
		break;
	default:
		break;
	}
}

/* How many may still answer in this round. A master that cannot vote counts as silent. */
unsigned round_outstanding(const struct op *op)
{
	return count_bits((uint16_t)(op->asked & ~op->answered));
}

unsigned round_count(const struct engine *e, const struct op *op, uint8_t verdict)
{
	unsigned n = 0;
	for (unsigned i = 0; i < e->cfg.n_masters; i++)
		n += op->answers[i].verdict == verdict;
	return n;
}

unsigned round_count_uid(
	const struct engine *e, const struct op *op, uint8_t verdict, struct ballot uid)
{
	unsigned n = 0;
	for (unsigned i = 0; i < e->cfg.n_masters; i++)
		n += op->answers[i].verdict == verdict && ballot_eq(op->answers[i].uid, uid);
	return n;
}

unsigned round_count_version(
	const struct engine *e, const struct op *op, uint8_t verdict, const struct answer *like)
{
	unsigned n = 0;
	for (unsigned i = 0; i < e->cfg.n_masters; i++) {
		const struct answer *a = &op->answers[i];
		n += a->verdict == verdict && !(a->flags & MSG_HEARSAY) &&
		     ballot_eq(a->uid, like->uid) && version_cmp(a->b, like->b) == 0;
	}
	return n;
}

unsigned round_best_uid(
	const struct engine *e, const struct op *op, uint8_t verdict, struct ballot *ret_uid)
{
	unsigned best = 0;
	for (unsigned i = 0; i < e->cfg.n_masters; i++) {
		if (op->answers[i].verdict != verdict)
			continue;
		unsigned n = round_count_uid(e, op, verdict, op->answers[i].uid);
		if (n > best) {
			best = n;
			*ret_uid = op->answers[i].uid;
		}
	}
	return best;
}

bool round_in_window(const struct engine *e, const struct op *op)
{
	return e->now.fast_ns - op->t0_ns < e->attempt_ns;
}

void round_rtt(struct engine *e, const struct op *op)
{
	uint64_t sample = e->now.fast_ns - op->t0_ns;
	e->rtt_ns += sample / 8;
	e->rtt_ns -= e->rtt_ns / 8;
	if (e->rtt_ns < 50000)
		e->rtt_ns = 50000;
}

static void retry(struct engine *e, struct op *op)
{
	bool late = e->now.fast_ns >= op->deadline_ns;
	if (op->kind == OP_UPDATE || op->kind == OP_RELEASE) {
		if (late)
			op_finish(e, op, op->maybe || op->was_live ? OUT_UNKNOWN : OUT_BUSY);
		else if (!op->sent && op->kind == OP_UPDATE) /* put off: one round may do */
			update_start(e, op);
		else if (!op->sent)
			release_start(e, op);
		else
			prepare_start(e, op, op->kind == OP_UPDATE ? GOAL_UPDATE : GOAL_RELEASE);
	} else if (op->kind == OP_READ_QUORUM) {
		if (late)
			op_finish(e, op, OUT_NOQUORUM);
		else
			read_start(e, op);
	} else if (!late) {
		extend_start(e, op);
	} else if (op->adopting) {
		lock_adopted(e, op, OUT_UNKNOWN);
	} else {
		op_finish(e, op, op->voided ? OUT_UNKNOWN : OUT_BUSY);
	}
}

static void timer_due(struct engine *e, struct op *op)
{
	switch (op->state) {
	case OPS_LOCK_TRY:
	case OPS_LOCK_BACKOFF:
	case OPS_LOCK_PARKED:
	case OPS_LOCK_QUEUED:
		lock_timer(e, op);
		break;
	case OPS_EXTEND:
		extend_timeout(e, op);
		break;
	case OPS_PREPARE:
	case OPS_ACCEPT:
		prepare_timeout(e, op);
		break;
	case OPS_RELEASE:
		release_timer(e, op);
		break;
	case OPS_READ:
		read_timer(e, op);
		break;
	case OPS_WATCH:
		op_finish(e, op, OUT_NULL);
		break;
	case OPS_RETRY:
		retry(e, op);
		break;
	default:
		CHECK(false);
	}
}

void ops_tick(struct engine *e)
{
	uint32_t ref;
	while (effects_room(e) && (ref = wheel_pop(&e->op_wheel, e->now.fast_ns)) != 0) {
		struct op *op = op_at(e, ref - 1);
		if (e->now.fast_ns < op->timer_ns)
			wheel_add(&e->op_wheel, ref, op->timer_ns);
		else if (!config_renew(e, op))
			timer_due(e, op);
	}
}

void ops_run(struct engine *e)
{
	while (e->run_head != 0 && effects_room(e)) {
		struct op *op = op_at(e, e->run_head - 1);
		e->run_head = op->run_next;
		op->in_run = false;
		if (op->state == OPS_LOCK_PARKED) {
			lock_attempt(e, op);
		} else if (op->state == OPS_WATCH) {
			watch_run(e, op);
		} else if (op->state == OPS_FREE) {
			op->q_next = e->op_free;
			e->op_free = op->index + 1;
		}
	}
}
