/* RELEASE: by instance in one round where this node is the sticky coordinator, after a PREPARE
 * elsewhere; the guard keeps a concurrent update from being released with the old value. */
#include "core/internal.h"

bool release_is_of(const struct engine *e, const struct op *op, uint64_t token, struct bytes value)
{
	if (op->has_token && op->token != token && !(op->any_value && MUTANT(BREAK_ANY)))
		return false;
	return op->any_value || bytes_eq(value, op_value(e, op));
}

void release_start(struct engine *e, struct op *op)
{
	CHECK(op->has_token || !op->any_value);
	uint32_t ref = lease_find(e, op->hash, op_key(e, op));
	const struct lease *l = ref == 0 ? NULL : lease_at(e, ref);
	bool sticky = l != NULL && lease_is_sticky(e, l) &&
		      release_is_of(e, op, l->token, lease_value(l)) &&
		      count_bits(masters_reachable(e, op->slot)) >= e->majority;
	if (sticky)
		release_send(e, op, lease_uid(l), lease_pb(e, l), lease_last_op(e, l));
	else
		prepare_start(e, op, GOAL_RELEASE);
}

static uint64_t landed_ns(const struct engine *e)
{
	return MUTANT(RELEASE_UNKNOWN_EARLY) ? e->attempt_ns / 8 : e->landed_ns;
}

void release_send(
	struct engine *e, struct op *op, struct ballot uid, struct version guard, uint64_t base_op)
{
	/* Once UNKNOWN is said, the holder may take its lock up again by value (EXTEND,
	 * IDEMPOTENT), so nothing of this may land later: a message lives for T_msg = T_att, and
	 * the answer waits for that. */
	if (e->now.fast_ns + landed_ns(e) + landed_ns(e) / 4 > op->deadline_ns) {
		if (op->kind == OP_LAG)
			op_finish(e, op, OUT_NOQUORUM);
		else
			op_finish(e, op, op->was_live ? OUT_UNKNOWN : OUT_BUSY);
		return;
	}
	op->state = OPS_RELEASE;
	op->uid = uid;
	op->b = guard;
	op->base_op = base_op;
	op->t0_ns = e->now.fast_ns;
	op->t0_slow_ns = e->now.slow_ns;
	struct msg m = {.type = MSG_RELEASE, .uid = uid, .b = guard};
	round_begin(e, op, &m, masters_reachable(e, op->slot));
	round_self(e, op, &m, op->t0_ns + landed_ns(e));
}

/* The guard of a master that is promised to a rival stands against the RELEASE, but with a majority
 * sealed nothing can be done with its copy any more. */
static void release_leftovers(struct engine *e, struct op *op)
{
	uint16_t mask = 0;
	for (unsigned i = 0; i < e->cfg.n_masters; i++)
		if (op->answers[i].verdict == VERDICT_PROMISED)
			mask |= (uint16_t)(1u << i);
	if (mask == 0)
		return;
	struct msg m = {
		.type = MSG_RELEASE, .slot = op->slot, .key = op_key(e, op), .uid = op->uid};
	struct msg reply;
	send_masters(e, mask, &m);
	if (e->self_index != NO_MASTER && (mask & (1u << e->self_index)))
		(void)master_handle(e, op->hash, &m, &reply);
}

static void released(struct engine *e, struct op *op, unsigned acks)
{
	round_rtt(e, op);
	release_leftovers(e, op);
	enum outcome outcome = op->was_live || op->kind == OP_LAG ? OUT_OK : OUT_NOTFOUND;
	e->stats.released += outcome == OUT_OK && op->kind != OP_LAG;
	struct result *r = op_reply(e, op, outcome);
	r->token = op->uid.n;
	r->votes = op->kind == OP_LAG ? op->quorum_seen : (uint8_t)acks;
	r->commits = (uint8_t)acks;
	r->elapsed_ns = e->now.fast_ns - op->asked_fast_ns;
	op_free(e, op);
}

static void unknown(struct engine *e, struct op *op)
{
	op_finish(e, op, op->kind == OP_LAG ? OUT_NOQUORUM : OUT_UNKNOWN);
}

/* Nothing of what was sent can land any more when the time of the round is over. */
static void unknown_later(struct engine *e, struct op *op)
{
	round_reset(e, op);
	op_timer(e, op, op->t0_ns + landed_ns(e));
}

void release_voided(struct engine *e, struct op *op)
{
	bool in_time = e->now.fast_ns + landed_ns(e) + landed_ns(e) / 4 <= op->deadline_ns;
	bool enough = count_bits(masters_reachable(e, op->slot)) >= e->majority;
	op->resend = in_time && !enough && config_is_fresh(e);
	if (in_time && enough) {
		release_send(e, op, op->uid, op->b, op->base_op);
	} else if (op->resend) {
		round_reset(e, op);
		op_timer(e, op, e->now.fast_ns + e->rtt_ns);
	} else {
		unknown_later(e, op);
	}
}

void release_answered(struct engine *e, struct op *op)
{
	unsigned acks = round_count(e, op, VERDICT_ACK);
	for (unsigned i = 0; i < e->cfg.n_masters; i++)
		if (op->answers[i].verdict == VERDICT_ACK && (op->answers[i].flags & MSG_WAS_LIVE))
			op->removed |= (uint16_t)(1u << i);
	op->was_live |= op->removed != 0;
	if (acks >= (MUTANT(RELEASE_MINORITY) ? 1U : e->majority) && round_in_window(e, op)) {
		/* The round before, cut off, may have been the one that removed it. */
		if (op->voided && !op->was_live)
			unknown_later(e, op);
		else
			released(e, op, acks);
		return;
	}
	/* Who is silent may still release. Whatever is said before that can no longer happen,
	 * UNKNOWN too, would let the holder take up again what this round then takes away. */
	if (round_outstanding(op) > 0)
		return;
	if (op->voided)
		unknown_later(e, op);
	else if (round_count(e, op, VERDICT_PROMISED) == 0)
		unknown(e, op);
	else if (e->now.fast_ns < op->deadline_ns)
		op_retry_later(e, op); /* a writer was faster: look again what the value is */
	else if (op->was_live)
		unknown(e, op);
	else
		op_finish(e, op, OUT_BUSY);
}

void release_timer(struct engine *e, struct op *op)
{
	/* Not before: on the clock that is surely not ahead (simulator, seed 4680: while NTP
	 * slewed, a RELEASE landed after UNKNOWN was said). */
	if (op->resend) {
		release_voided(e, op);
		return;
	}
	uint64_t passed_ns = e->now.slow_ns - op->t0_slow_ns;
	if (passed_ns < landed_ns(e))
		op_timer(e, op, e->now.fast_ns + landed_ns(e) - passed_ns);
	else
		unknown(e, op);
}
