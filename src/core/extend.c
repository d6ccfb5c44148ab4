/* EXTEND: one round from any node, matched on the instance (protocol.md 2.6). */
#include "core/internal.h"

static void refused(struct engine *e, struct op *op, enum outcome outcome)
{
	if (op->adopting)
		lock_adopted(e, op, outcome);
	else
		op_finish(e, op, outcome);
}

void extend_start(struct engine *e, struct op *op)
{
	uint16_t mask = masters_reachable(e, op->slot);
	op->state = OPS_RETRY;
	if (round_put_off(e, op, mask))
		return;
	if (count_bits(mask) < e->majority) {
		refused(e, op, op->voided ? OUT_UNKNOWN : OUT_NOQUORUM);
		return;
	}
	op->state = OPS_EXTEND;
	op->t0_ns = e->now.fast_ns;
	op->t0_slow_ns = e->now.slow_ns;
	struct msg m = {
		.type = MSG_EXTEND,
		.lease_ms = op->ttl_ms,
		.n = op->has_token ? op->token : 0,
		.flags = MSG_HAS_VALUE,
		.value = op_value(e, op),
	};
	uint32_t ref = MUTANT(EXTEND_INSTALLS) ? lease_find(e, op->hash, op_key(e, op)) : 0;
	if (ref != 0 && bytes_eq(lease_value(lease_at(e, ref)), m.value)) {
		m.uid = lease_uid(lease_at(e, ref));
		m.node = e->cfg.self;
	}
	round_begin(e, op, &m, mask);
	round_self(e, op, &m, op->t0_ns + e->attempt_ns * (MUTANT(EXTEND_LATE) ? 100 : 1));
}

static void extended(struct engine *e, struct op *op, struct ballot uid, unsigned acks)
{
	round_rtt(e, op);
	e->stats.extended++;
	struct result *r = op_reply(e, op, OUT_OK);
	r->token = uid.n;
	/* Counted from the request; an adoption may have waited in line before this round began. */
	uint64_t belief_ns = lease_holder_ns(e, op->ttl_ms * NS_PER_MS);
	uint64_t waited_ns = less_drift(e, op->t0_slow_ns - op->asked_slow_ns);
	r->valid_ms = belief_ns == 0 ? 0 : (waited_ns + belief_ns) / NS_PER_MS;
	r->votes = r->commits = (uint8_t)acks;
	op_free(e, op);
}

/* Another value that is decided, or only seen in passing? A write that is half done must not make
 * its own holder hear NOTOWNER. */
static bool mismatch_decided(const struct engine *e, const struct op *op)
{
	for (unsigned i = 0; i < e->cfg.n_masters; i++) {
		const struct answer *a = &op->answers[i];
		if (a->verdict == VERDICT_MISMATCH &&
			round_count_version(e, op, VERDICT_MISMATCH, a) >= e->majority)
			return true;
	}
	return false;
}

/* An update half done stands in the way: to be finished first. */
static bool is_half_written(
	const struct engine *e, const struct op *op, struct ballot uid, unsigned acks)
{
	return acks > 0 && e->now.fast_ns < op->deadline_ns &&
	       acks + round_count_uid(e, op, VERDICT_MISMATCH, uid) >= e->majority;
}

/* A majority has to say so, not only a blocking set, which is smaller where their number is even: a
 * majority of the next configuration might do without it, and have granted the lock already
 * (protocol.md 2.10; simulator, seed 3001877, drill members). */
static void not_extended(struct engine *e, struct op *op, struct ballot uid, unsigned acks)
{
	unsigned absent = round_count(e, op, VERDICT_ABSENT);
	unsigned mismatch = round_count(e, op, VERDICT_MISMATCH);
	unsigned other = round_count(e, op, VERDICT_OTHER) + mismatch;
	bool all_in = round_outstanding(op) == 0;
	unsigned enough = op->adopting ? e->blocking : e->majority; /* HELD claims less */
	if (round_count(e, op, VERDICT_LIMIT) >= e->blocking)
		refused(e, op, OUT_LIMIT);
	else if (absent >= enough)
		refused(e, op, OUT_NOTFOUND);
	else if (mismatch_decided(e, op) || other - mismatch >= enough)
		refused(e, op, OUT_NOTOWNER);
	else if (!all_in && mismatch > 0)
		return; /* the rest decides whether there is something to heal */
	else if (is_half_written(e, op, uid, acks))
		prepare_start(e, op, GOAL_EXTEND);
	else if (absent + other >= enough)
		refused(e, op, OUT_NOTOWNER);
	else if (all_in && config_is_fresh(e) && e->now.fast_ns < op->deadline_ns)
		op_retry_later(e, op); /* those who were not asked may be there in a moment */
	else if (all_in)
		refused(e, op, OUT_UNKNOWN);
}

/* Two writes of the same value prove nothing together. */
static unsigned of_one_version(const struct engine *e, const struct op *op)
{
	unsigned best = 0;
	for (unsigned i = 0; i < e->cfg.n_masters && best < e->majority; i++) {
		if (op->answers[i].verdict != VERDICT_ACK)
			continue;
		unsigned n = round_count_version(e, op, VERDICT_ACK, &op->answers[i]);
		best = n > best ? n : best;
	}
	return best;
}

void extend_answered(struct engine *e, struct op *op)
{
	struct ballot uid = {0};
	unsigned acks = round_best_uid(e, op, VERDICT_ACK, &uid);
	unsigned same = MUTANT(EXTEND_VERSIONS) ? acks : of_one_version(e, op);
	if (same >= (MUTANT(EXTEND_MINORITY) ? 1U : e->majority)) {
		uint64_t belief_ns = lease_holder_ns(e, op->ttl_ms * NS_PER_MS);
		bool ended = belief_ns != 0 && e->now.fast_ns - op->t0_ns >= belief_ns;
		if ((round_in_window(e, op) && !ended) || MUTANT(EXTEND_LATE))
			extended(e, op, uid, acks);
		else
			refused(e, op, OUT_UNKNOWN);
	} else if (same + round_outstanding(op) < e->majority) {
		not_extended(e, op, uid, acks);
	} else if (acks >= e->majority) {
		round_wait(e, op); /* the others may settle which version it is */
	}
}

void extend_timeout(struct engine *e, struct op *op)
{
	struct ballot uid = {0};
	unsigned acks = round_best_uid(e, op, VERDICT_ACK, &uid);
	if (is_half_written(e, op, uid, acks))
		prepare_start(e, op, GOAL_EXTEND);
	else
		refused(e, op, OUT_UNKNOWN);
}
