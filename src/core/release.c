/* RELEASE: by instance in one round where this node is the sticky coordinator, after a PREPARE
 * elsewhere; the guard keeps a concurrent update from being released with the old value. */
#include "core/internal.h"

void release_start(struct engine *e, struct op *op)
{
	uint32_t ref = lease_find(e, op->hash, op_key(e, op));
	const struct lease *l = ref == 0 ? NULL : lease_at(e, ref);
	bool sticky = l != NULL && (l->flags & LEASE_STICKY) &&
		(!op->has_token || op->token == l->token) &&
		bytes_eq(lease_value(l), op_value(e, op)) &&
		count_bits(masters_reachable(e)) >= e->majority;
	if (sticky)
		release_send(e, op, lease_uid(l), lease_pb(e, l));
	else
		prepare_start(e, op, GOAL_RELEASE);
}

static void send_round(struct engine *e, struct op *op)
{
	struct msg m = {.type = MSG_RELEASE, .uid = op->uid, .b = op->b};
	op->t0_ns = e->now.fast_ns;
	round_begin(e, op, &m, masters_reachable(e));
	round_self(e, op, &m, op->t0_ns + e->attempt_ns);
}

void release_send(struct engine *e, struct op *op, struct ballot uid, struct version guard)
{
	op->state = OPS_RELEASE;
	op->uid = uid;
	op->b = guard;
	send_round(e, op);
}

void release_done(struct engine *e, struct op *op, unsigned acks)
{
	round_rtt(e, op);
	enum outcome outcome = op->was_live || op->kind == OP_LAG ? OUT_OK : OUT_NOTFOUND;
	e->stats.released += outcome == OUT_OK && op->kind != OP_LAG;
	struct result *r = op_reply(e, op, outcome);
	r->token = op->uid.n;
	r->votes = op->kind == OP_LAG ? op->quorum_seen : (uint8_t)acks;
	r->commits = (uint8_t)acks;
	r->elapsed_ns = e->now.fast_ns - op->asked_fast_ns;
	op_free(e, op);
}

/* The client hears UNKNOWN now; what is left of the lock on silent masters is hunted until the
 * lease is over anyway. */
static void unknown(struct engine *e, struct op *op)
{
	if (op->kind == OP_LAG) {
		op_finish(e, op, OUT_NOQUORUM);
		return;
	}
	if (e->zombies >= e->cfg.max_ops / 4) {
		op_finish(e, op, OUT_UNKNOWN);
		return;
	}
	(void)op_reply(e, op, OUT_UNKNOWN);
	op->orphan = true;
	op->state = OPS_RELEASE_AGAIN;
	op->deadline_ns = e->now.fast_ns + more_drift(e, e->cfg.max_lease_ms * NS_PER_MS);
	e->zombies++;
	op_timer(e, op, e->now.fast_ns + e->attempt_ns);
}

void release_answered(struct engine *e, struct op *op)
{
	unsigned acks = round_count(e, op, VERDICT_ACK);
	for (unsigned i = 0; i < e->cfg.n_masters; i++)
		if (op->answers[i].verdict == VERDICT_ACK && (op->answers[i].flags & MSG_WAS_LIVE))
			op->was_live = true;
	if (op->state == OPS_RELEASE_AGAIN) {
		if (acks >= e->majority)
			op_free(e, op);
		return;
	}
	if (acks >= e->majority && round_in_window(e, op)) {
		release_done(e, op, acks);
		return;
	}
	if (acks + round_outstanding(op) >= e->majority)
		return;
	if (round_count(e, op, VERDICT_PROMISED) == 0) {
		if (round_outstanding(op) == 0)
			unknown(e, op);
	} else if (e->now.fast_ns < op->deadline_ns) {
		op_retry_later(e, op); /* a writer was faster: look again what the value is */
	} else if (op->was_live) {
		unknown(e, op);
	} else {
		op_finish(e, op, OUT_BUSY);
	}
}

void release_timer(struct engine *e, struct op *op)
{
	if (op->state == OPS_RELEASE)
		unknown(e, op);
	else if (e->now.fast_ns >= op->deadline_ns)
		op_free(e, op);
	else if (count_bits(masters_reachable(e)) == 0)
		op_timer(e, op, e->now.fast_ns + e->attempt_ns);
	else
		send_round(e, op);
}
