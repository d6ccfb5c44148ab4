/* UPDATE, and the two rounds PREPARE/ACCEPT that it shares with RELEASE by value and with the
 * healing of half-done updates: CASPaxos within one lock instance (protocol.md 2.6, 2.7). */
#include "core/internal.h"

static void goal_failed(struct engine *e, struct op *op, enum outcome outcome)
{
	if (op->adopting)
		lock_adopted(e, op, outcome);
	else if (op->kind == OP_READ_QUORUM)
		op_finish(e, op, OUT_NOQUORUM);
	else /* something of ours may have changed: then nothing else may be claimed */
		op_finish(e, op, op->maybe || op->was_live ? OUT_UNKNOWN : outcome);
}

static bool token_matches(const struct op *op, uint64_t token)
{
	return !op->has_token || op->token == token;
}

static struct bytes answer_value(const struct engine *e, const struct answer *a)
{
	return a->block == 0 ? (struct bytes){0}
			     : bytes_of(arena_at(&e->arena, a->block), a->value_bytes);
}

/* The writers of a value are a majority that a RELEASE of the value before cannot touch, so they
 * have to keep the lease for as long as any of those who were promised it under that value: the
 * copies of others may be taken away (protocol.md 2.6; simulator, seed 5143). */
static uint64_t longest_promise(const struct engine *e, const struct op *op)
{
	uint64_t longest_ns = 0;
	for (unsigned i = 0; i < e->cfg.n_masters; i++) {
		const struct answer *a = &op->answers[i];
		if (a->verdict == VERDICT_PROMISE && ballot_eq(a->uid, op->uid) &&
			a->remaining_ns > longest_ns)
			longest_ns = a->remaining_ns;
	}
	return MUTANT(UPDATE_SHORT) ? 0 : longest_ns;
}

/* The masters whose promise was counted: nobody else is asked to be a witness (protocol.md 3,
 * Lemma 1). */
static uint16_t promised_by(const struct engine *e, const struct op *op)
{
	uint16_t mask = 0;
	for (unsigned i = 0; i < e->cfg.n_masters; i++)
		if (op->answers[i].verdict == VERDICT_PROMISE &&
			ballot_eq(op->answers[i].uid, op->uid))
			mask |= (uint16_t)(1u << i);
	return mask;
}

static void accept_start(struct engine *e, struct op *op, enum accept_kind kind, struct bytes value,
	uint64_t op_id, uint64_t base_op)
{
	bool sticky = op->state != OPS_PREPARE;
	uint64_t remaining_ns = sticky ? 0 : longest_promise(e, op);
	uint16_t reachable = masters_reachable(e, op->slot);
	uint16_t witnesses = sticky ? reachable : promised_by(e, op) & reachable;
	if (count_bits(witnesses) < e->majority) { /* links are gone since they promised */
		op_retry_later(e, op);
		return;
	}
	op->state = OPS_ACCEPT;
	op->accept = (uint8_t)kind;
	if (kind == ACCEPT_NEW && !op->maybe) {
		op->base_op = base_op;
		op->base_uid = op->uid;
	}
	if (kind != ACCEPT_IDENTITY)
		op->maybe = true;
	struct msg m = {
		.type = MSG_ACCEPT,
		.uid = op->uid,
		.b = op->b,
		.op_id = op_id,
		.flags = MSG_HAS_VALUE,
		.value = value,
		.remaining_ns = remaining_ns,
		.lease_ms = kind != ACCEPT_IDENTITY && op->has_ttl ? op->ttl_ms : 0,
	};
	round_begin(e, op, &m, witnesses);
	struct msg told = m;
	told.req = 0;
	told.flags |= MSG_HEARSAY;
	send_masters(e, reachable & (uint16_t)~witnesses, &told);
	/* PREPARE and ACCEPT together live in one window (protocol.md 2.1, T_att). */
	round_self(e, op, &m, op->t0_ns + e->attempt_ns);
}

void update_start(struct engine *e, struct op *op)
{
	op->op_id = prng_next(&e->prng) | 1;
	uint32_t ref = lease_find(e, op->hash, op_key(e, op));
	struct lease *l = ref == 0 ? NULL : lease_at(e, ref);
	bool sticky = l != NULL && lease_is_sticky(e, l) && token_matches(op, l->token) &&
		      bytes_eq(lease_value(l), op_value(e, op)) &&
		      count_bits(masters_reachable(e, op->slot)) >= e->majority;
	if (!sticky && MUTANT(UPDATE_UNPREPARED) && l != NULL &&
		bytes_eq(lease_value(l), op_value(e, op)) && token_matches(op, l->token)) {
		op->uid = lease_uid(l);
		op->b = (struct version){ballot_next(e), e->cfg.cid, 0};
		op->t0_ns = e->now.fast_ns;
		accept_start(e, op, ACCEPT_NEW, op_new_value(e, op), op->op_id, 0);
		return;
	}
	if (!sticky) {
		prepare_start(e, op, GOAL_UPDATE);
		return;
	}
	/* Until the outcome is known nobody else may build on this ballot. */
	l->flags &= (uint16_t)~LEASE_STICKY;
	op->goal = GOAL_UPDATE;
	op->uid = lease_uid(l);
	op->b = lease_pb(e, l);
	op->b.seq++;
	op->t0_ns = e->now.fast_ns;
	accept_start(e, op, ACCEPT_NEW, op_new_value(e, op), op->op_id, lease_last_op(e, l));
}

void prepare_start(struct engine *e, struct op *op, enum prepare_goal goal)
{
	uint16_t mask = masters_reachable(e, op->slot);
	op->goal = (uint8_t)goal;
	op->state = OPS_RETRY;
	if (round_put_off(e, op, mask))
		return;
	if (count_bits(mask) < e->majority) {
		goal_failed(e, op, OUT_NOQUORUM);
		return;
	}
	/* Rounds that find one another's work half done may go on like that. */
	if (e->now.fast_ns >= op->deadline_ns) {
		goal_failed(e, op, goal == GOAL_EXTEND ? OUT_UNKNOWN : OUT_BUSY);
		return;
	}
	op->state = OPS_PREPARE;
	op->t0_ns = e->now.fast_ns;
	op->b = (struct version){ballot_next(e), e->cfg.cid, 0};
	struct msg m = {.type = MSG_PREPARE, .b = op->b};
	round_begin(e, op, &m, mask);
	round_self(e, op, &m, op->t0_ns + e->attempt_ns);
}

static const struct answer *highest_promise(
	const struct engine *e, const struct op *op, unsigned *ret_same)
{
	const struct answer *best = NULL;
	*ret_same = 0;
	for (unsigned i = 0; i < e->cfg.n_masters; i++) {
		const struct answer *a = &op->answers[i];
		if (a->verdict != VERDICT_PROMISE || !ballot_eq(a->uid, op->uid))
			continue;
		int order = best == NULL ? 1 : version_cmp(a->b, best->b);
		if (best != NULL && MUTANT(UPDATE_FIRST_REPLY))
			order = 0;
		if (order > 0) {
			best = a;
			*ret_same = 0;
		}
		*ret_same += order >= 0 && !(a->flags & MSG_HEARSAY);
	}
	return best;
}

/* What is there is not what the caller expects. It may only be said of a decided value. */
static void mismatch(struct engine *e, struct op *op, const struct answer *a, unsigned same)
{
	if (same < e->majority)
		accept_start(e, op, ACCEPT_IDENTITY, answer_value(e, a), a->op_id, 0);
	else
		goal_failed(e, op, OUT_NOTOWNER);
}

static void prepared_update(struct engine *e, struct op *op, const struct answer *a, unsigned same)
{
	struct bytes value = answer_value(e, a);
	bool token_ok = token_matches(op, a->uid.n);
	bool mine = op->maybe && a->op_id == op->op_id;
	bool repeated = op->has_token && token_ok && bytes_eq(value, op_new_value(e, op));
	/* Once an ACCEPT of ours was out, it may have taken effect and been overwritten, with the
	 * very value it began from: only the unchanged record says that it has not. */
	bool unchanged = a->op_id == op->base_op && ballot_eq(a->uid, op->base_uid);
	if (mine || (repeated && !bytes_eq(value, op_value(e, op))))
		accept_start(e, op, ACCEPT_OWN, value, a->op_id, 0);
	else if (op->maybe && !unchanged)
		goal_failed(e, op, OUT_UNKNOWN);
	else if (token_ok && bytes_eq(value, op_value(e, op)))
		accept_start(e, op, ACCEPT_NEW, op_new_value(e, op), op->op_id, a->op_id);
	else
		mismatch(e, op, a, same);
}

static void prepared(struct engine *e, struct op *op, struct ballot uid)
{
	unsigned same;
	/* A RELEASE that has begun to take one instance away must not go on with the next one. */
	if (op->goal == GOAL_RELEASE && op->was_live && !ballot_eq(uid, op->uid)) {
		goal_failed(e, op, OUT_UNKNOWN);
		return;
	}
	op->uid = uid;
	const struct answer *a = highest_promise(e, op, &same);
	switch ((enum prepare_goal)op->goal) {
	case GOAL_UPDATE:
		prepared_update(e, op, a, same);
		break;
	case GOAL_RELEASE:
		if (!release_is_of(e, op, uid.n, answer_value(e, a)))
			mismatch(e, op, a, same);
		else if (same < e->majority)
			accept_start(e, op, ACCEPT_IDENTITY, answer_value(e, a), a->op_id, 0);
		else
			release_send(e, op, uid, op->b, a->op_id);
		break;
	case GOAL_EXTEND:
	case GOAL_READ:
		accept_start(e, op, ACCEPT_IDENTITY, answer_value(e, a), a->op_id, 0);
		break;
	}
}

static void merge_higher(struct engine *e, const struct op *op)
{
	for (unsigned i = 0; i < e->cfg.n_masters; i++)
		if (op->answers[i].verdict == VERDICT_HIGHER)
			ballot_merge(e, op->answers[i].b.n);
}

/* A RELEASE has taken some copies away and finds the rest gone. Has nobody written over the value
 * meanwhile? A write needs a majority, and none of it is among those whose copy this RELEASE took
 * nor among those that still have the record it was compared with. The others may have accepted one
 * and then seen the lease end (sim seed 925, 5 nodes, 20,000 events). */
static bool is_unchanged(const struct engine *e, const struct op *op)
{
	unsigned others = 0;
	for (unsigned i = 0; i < e->cfg.n_masters; i++) {
		const struct answer *a = &op->answers[i];
		bool same = a->verdict == VERDICT_PROMISE && ballot_eq(a->uid, op->uid) &&
			    a->op_id == op->base_op && !(a->flags & MSG_HEARSAY);
		others += !same && !(op->removed & (1u << i));
	}
	return others < e->majority;
}

static void absent(struct engine *e, struct op *op)
{
	if (op->goal == GOAL_READ)
		op_retry_later(e, op);
	else if (op->goal == GOAL_RELEASE && op->was_live && !op->voided && is_unchanged(e, op))
		release_send(
			e, op, op->uid, op->b, op->base_op); /* a majority has to be sealed too */
	else
		goal_failed(e, op, OUT_NOTFOUND);
}

/* A majority cannot be had in this round any more. */
static void round_lost(struct engine *e, struct op *op)
{
	merge_higher(e, op);
	bool contended =
		round_count(e, op, VERDICT_HIGHER) + round_count(e, op, VERDICT_BUSY) > 0 ||
		(round_count(e, op, VERDICT_PROMISE) > 0 &&
			count_bits(op->answered) == e->cfg.n_masters);
	if (round_count(e, op, VERDICT_ABSENT) >= e->majority) /* as in extend.c */
		absent(e, op);
	else if (round_count(e, op, VERDICT_LIMIT) >= e->blocking)
		goal_failed(e, op, OUT_LIMIT);
	else if (e->now.fast_ns < op->deadline_ns && contended)
		op_retry_later(e, op);
	else if (round_outstanding(op) == 0 && config_is_fresh(e) &&
		 e->now.fast_ns < op->deadline_ns)
		op_retry_later(e, op); /* those who were not asked may be there in a moment */
	else if (round_outstanding(op) == 0)
		goal_failed(e, op, contended ? OUT_BUSY : OUT_UNKNOWN);
}

void prepare_answered(struct engine *e, struct op *op)
{
	struct ballot uid = {0};
	unsigned promises = round_best_uid(e, op, VERDICT_PROMISE, &uid);
	if (promises + round_outstanding(op) < e->majority) {
		round_lost(e, op);
	} else if (promises >= e->majority && round_in_window(e, op)) {
		/* The wait that follows is no part of the round trip. */
		if (promises == e->majority)
			round_rtt(e, op);
		/* Only who is counted can be a witness, so the others get a moment. */
		if (round_outstanding(op) == 0)
			prepared(e, op, uid);
		else
			round_wait(e, op);
	}
}

static bool is_witness_ack(const struct answer *a)
{
	return a->verdict == VERDICT_ACK && !(a->flags & MSG_HEARSAY);
}

static void accepted(struct engine *e, struct op *op, unsigned acks)
{
	uint64_t remaining_ns = UINT64_MAX;
	for (unsigned i = 0; i < e->cfg.n_masters; i++)
		if (is_witness_ack(&op->answers[i]) && op->answers[i].remaining_ns < remaining_ns)
			remaining_ns = op->answers[i].remaining_ns;
	uint32_t ref = lease_find(e, op->hash, op_key(e, op));
	/* What is only told of by others, so far, is not ours to write under: the promise may have
	 * been forgotten (test_races_write_in_a_slot_that_does_not_vote). */
	if (ref != 0 && lease_is_live(lease_at(e, ref)) &&
		version_cmp(lease_vb(e, lease_at(e, ref)), op->b) == 0 &&
		version_cmp(lease_pb(e, lease_at(e, ref)), op->b) == 0)
		lease_at(e, ref)->flags |= LEASE_STICKY;
	if (op->accept == ACCEPT_IDENTITY) {
		if (op->goal == GOAL_EXTEND)
			extend_start(e, op);
		else if (op->goal == GOAL_READ)
			read_start(e, op);
		else
			prepare_start(e, op, (enum prepare_goal)op->goal); /* now it is decided */
		return;
	}
	e->stats.updated++;
	struct result *r = op_reply(e, op, OUT_OK);
	r->token = op->uid.n;
	r->valid_ms = lease_holder_ns(e, remaining_ns) / NS_PER_MS;
	r->votes = r->commits = (uint8_t)acks;
	op_free(e, op);
}

void accept_answered(struct engine *e, struct op *op)
{
	unsigned acks = 0;
	for (unsigned i = 0; i < e->cfg.n_masters; i++)
		acks += is_witness_ack(&op->answers[i]);
	if (acks >= (MUTANT(UPDATE_MINORITY) ? 1U : e->majority) && round_in_window(e, op))
		accepted(e, op, acks);
	else if (acks + round_outstanding(op) < e->majority)
		round_lost(e, op);
}

void prepare_timeout(struct engine *e, struct op *op)
{
	struct ballot uid = {0};
	bool in_time = round_in_window(e, op) && e->now.fast_ns < op->deadline_ns;
	if (in_time && round_best_uid(e, op, VERDICT_PROMISE, &uid) >= e->majority)
		prepared(e, op, uid);
	else
		goal_failed(e, op, OUT_UNKNOWN);
}
