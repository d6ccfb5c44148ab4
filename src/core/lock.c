/* LOCK: vote and commit in one round (protocol.md 2.6, 2.7), waiting in line, and giving up. */
#include "core/internal.h"

static void try_list_add(struct engine *e, struct op *op)
{
	op->try_next = e->try_head;
	op->try_prev = 0;
	if (e->try_head != 0)
		op_at(e, e->try_head - 1)->try_prev = op->index + 1;
	e->try_head = op->index + 1;
}

void try_list_remove(struct engine *e, struct op *op)
{
	if (e->try_head != op->index + 1 && op->try_prev == 0)
		return;
	if (op->try_prev != 0)
		op_at(e, op->try_prev - 1)->try_next = op->try_next;
	else
		e->try_head = op->try_next;
	if (op->try_next != 0)
		op_at(e, op->try_next - 1)->try_prev = op->try_prev;
	op->try_next = op->try_prev = 0;
}

uint64_t lock_wait_until_ns(const struct engine *e, const struct op *op)
{
	return op->deadline_ns - e->cfg.op_timeout_ms * NS_PER_MS;
}

/* How long a majority's promises may take to arrive and still be a lock. A lease too short to be
 * believed at all is granted with a validity of nothing. */
static uint64_t lock_window_ns(const struct engine *e, const struct op *op)
{
	uint64_t belief_ns = lease_holder_ns(e, op->ttl_ms * NS_PER_MS);
	if (MUTANT(LOCK_LATE))
		return 100 * e->attempt_ns;
	return belief_ns == 0 || belief_ns > e->attempt_ns ? e->attempt_ns : belief_ns;
}

static void queue(struct engine *e, struct op *op)
{
	round_reset(e, op);
	op->round = (op->round + 1) & ROUND_MASK;
	op->state = OPS_LOCK_QUEUED;
	op->refusal = OUT_HELD; /* by whoever is ahead, whatever becomes of its own attempt */
	op_timer(e, op, lock_wait_until_ns(e, op));
}

static bool head_is_parked(const struct engine *e, const struct line *l)
{
	return op_at(e, l->lock_head - 1)->state == OPS_LOCK_PARKED;
}

void lock_start(struct engine *e, struct op *op)
{
	if (op->kind == OP_LAG)
		op->ttl_ms = 2 * e->cfg.attempt_ms < e->cfg.max_lease_ms ? 2 * e->cfg.attempt_ms
									 : e->cfg.max_lease_ms;
	const struct line *l = line_find(e, op->hash, op_key(e, op));
	bool behind = l != NULL && l->lock_head != 0;
	if (count_bits(masters_reachable(e, op->slot)) < e->majority && !config_is_fresh(e)) {
		op_finish(e, op, OUT_NOQUORUM);
		return;
	}
	if (behind && !op->wait && !op->idempotent) {
		/* Held, or about to be handed to those in line: nobody overtakes them here. */
		e->stats.refused++;
		op_finish(e, op, OUT_HELD);
		return;
	}
	if (op->wait)
		op->place = ballot_next(e);
	if (op->wait && !line_join(e, op, false)) {
		op_reply(e, op, OUT_LIMIT)->limit = "waiters of this key";
		op_free(e, op);
		return;
	}
	if (behind && op->wait && op->idempotent && head_is_parked(e, l)) {
		/* It may be in line behind its own lock. While the head's own attempt runs, an
		 * EXTEND by value would confirm what that may yet have to abort. */
		op->adopting = true;
		extend_start(e, op);
	} else if (behind && op->wait) {
		queue(e, op);
	} else {
		lock_attempt(e, op);
	}
}

void lock_park(struct engine *e, struct op *op, uint64_t look_again_ns)
{
	round_reset(e, op);
	op->round = (op->round + 1) & ROUND_MASK;
	op->state = OPS_LOCK_PARKED;
	op->attempts = 0;
	if (look_again_ns > POLL_MS * NS_PER_MS)
		look_again_ns = POLL_MS * NS_PER_MS;
	look_again_ns += prng_below(&e->prng, look_again_ns / 4 + NS_PER_MS);
	uint64_t due_ns = e->now.fast_ns + look_again_ns, until_ns = lock_wait_until_ns(e, op);
	op_timer(e, op, due_ns < until_ns ? due_ns : until_ns);
	turn_wait(e, op);
}

void lock_next_in_line(struct engine *e, struct op *next, const struct op *left)
{
	next->state = OPS_LOCK_PARKED;
	if (left->quorum_seen != 0 && !next->idempotent) {
		next->refusal = OUT_HELD; /* known without trying */
		lock_park(e, next, left->ttl_ms * NS_PER_MS);
	} else {
		op_run_later(e, next);
	}
}

void lock_attempt(struct engine *e, struct op *op)
{
	uint16_t mask = masters_reachable(e, op->slot);
	op->state = OPS_LOCK_BACKOFF;
	if (round_put_off(e, op, mask))
		return;
	if (count_bits(mask) < e->majority) {
		op->refusal = OUT_NOQUORUM;
		if (op->in_queue && op->sent)
			lock_park(e, op, POLL_MS * NS_PER_MS);
		else
			op_finish(e, op, OUT_NOQUORUM);
		return;
	}
	op->state = OPS_LOCK_TRY;
	op->attempts += op->attempts < UINT8_MAX;
	op->t0_ns = e->now.fast_ns;
	op->t0_slow_ns = e->now.slow_ns;
	op->uid = (struct ballot){ballot_next(e), e->cfg.cid};
	struct msg m = {
		.type = MSG_TRYLOCK,
		.uid = op->uid,
		.prev = op->prev,
		.lease_ms = op->ttl_ms,
		.node = e->cfg.self,
		.flags = MSG_HAS_VALUE,
		.value = op_value(e, op),
		.name = op_client(e, op),
	};
	try_list_add(e, op);
	round_begin(e, op, &m, mask);
	round_self(e, op, &m, op->t0_ns + lock_window_ns(e, op));
}

static void tell_confirm(struct engine *e, const struct op *op)
{
	struct msg m = {
		.type = MSG_CONFIRM, .slot = op->slot, .key = op_key(e, op), .uid = op->uid};
	send_masters(e, e->links_up, &m);
	uint32_t ref = lease_find(e, op->hash, m.key);
	if (ref == 0 || !lease_is_live(lease_at(e, ref)) ||
		!ballot_eq(lease_uid(lease_at(e, ref)), op->uid)) {
		if (e->self_index != NO_MASTER)
			master_confirm(e, &m); /* granted without us: to be healed */
		return;
	}
	lease_confirm(e, op->hash, ref);
	/* A rival may have prepared a ballot between the vote and the grant: then its ballot is the
	 * promised one, and nobody else may write under it. */
	struct version first = {op->uid.n, op->uid.cid, 0};
	if (version_cmp(lease_pb(e, lease_at(e, ref)), first) == 0)
		lease_at(e, ref)->flags |= LEASE_STICKY;
}

/* Tell the masters that may have granted @uid that it is not wanted. */
static void abort_attempt(struct engine *e, struct op *op, struct ballot uid, uint16_t mask)
{
	if (mask == 0 || MUTANT(QUERY_NEVER))
		return;
	e->stats.aborts++;
	aborted_remember(e, uid.n, op->ttl_ms);
	struct msg m = {.type = MSG_ABORT, .slot = op->slot, .key = op_key(e, op), .uid = uid};
	send_masters(e, mask, &m);
	struct msg reply;
	if (e->self_index != NO_MASTER && (mask & (1u << e->self_index)))
		(void)master_handle(e, op->hash, &m, &reply);
}

/* Masters that acknowledged or are silent. */
static uint16_t may_hold(const struct engine *e, const struct op *op)
{
	uint16_t mask = op->asked;
	for (unsigned i = 0; i < e->cfg.n_masters; i++)
		if (op->answers[i].verdict != 0 && op->answers[i].verdict != VERDICT_ACK)
			mask &= (uint16_t) ~(1u << i);
	return mask;
}

static void grant(struct engine *e, struct op *op, unsigned votes)
{
	try_list_remove(e, op);
	round_rtt(e, op);
	if (op->orphan) {
		/* Nobody is there to hold it. No RELEASE: its client may be asking for this very
		 * attempt at another node (IDEMPOTENT), and what an EXTEND has adopted an ABORT
		 * spares. */
		abort_attempt(e, op, op->uid, may_hold(e, op));
		op_free(e, op);
		return;
	}
	tell_confirm(e, op);
	op->quorum_seen = (uint8_t)votes;
	if (op->kind == OP_LAG) {
		release_send(e, op, op->uid, (struct version){0}, 0);
		return;
	}
	e->stats.granted++;
	struct result *r = op_reply(e, op, OUT_OK);
	uint64_t belief_ns = lease_holder_ns(e, op->ttl_ms * NS_PER_MS);
	/* Belief counts from the client's request; the wait here is a lower bound of that. */
	uint64_t t0_ns = MUTANT(BELIEF_LATE) ? e->now.slow_ns : op->t0_slow_ns;
	uint64_t waited_ns = less_drift(e, t0_ns - op->asked_slow_ns);
	r->token = op->uid.n;
	r->valid_ms = belief_ns == 0 ? 0 : (waited_ns + belief_ns) / NS_PER_MS;
	r->votes = r->commits = (uint8_t)votes;
	op_free(e, op);
}

static bool is_refusal(uint8_t verdict)
{
	return verdict == VERDICT_HELD || verdict == VERDICT_STALE || verdict == VERDICT_SHADOW;
}

struct failure {
	unsigned refused, held_confirmed, limit;
	bool stale;
	bool promised_to_one; /* one instance, confirmed or not, on a majority */
	bool in_the_way;  /* one instance, and what may be it, leaves no majority of the asked */
	bool held_by_one; /* one confirmed instance on a blocking set */
	uint64_t remaining_ns;
};

static struct failure explain(struct engine *e, const struct op *op)
{
	struct failure f = {.limit = round_count(e, op, VERDICT_LIMIT)};
	struct ballot uid;
	unsigned best = round_best_uid(e, op, VERDICT_HELD, &uid);
	unsigned shadows = 0;
	bool confirmed = false;
	for (unsigned i = 0; i < e->cfg.n_masters; i++) {
		const struct answer *a = &op->answers[i];
		f.refused += is_refusal(a->verdict);
		if (a->verdict == VERDICT_STALE) {
			f.stale = true;
			ballot_merge(e, a->n);
		}
		shadows += a->verdict == VERDICT_SHADOW;
		if (a->verdict == VERDICT_SHADOW && a->remaining_ns > f.remaining_ns)
			f.remaining_ns = a->remaining_ns;
		if (a->verdict != VERDICT_HELD)
			continue;
		if (!(a->flags & MSG_UNCONFIRMED)) {
			f.held_confirmed++;
			confirmed = confirmed || ballot_eq(a->uid, uid);
		}
		if (ballot_eq(a->uid, uid) && a->remaining_ns > f.remaining_ns)
			f.remaining_ns = a->remaining_ns;
	}
	f.held_by_one = confirmed && best >= e->blocking;
	f.promised_to_one = best >= e->majority;
	f.in_the_way = best + shadows > 0 && count_bits(op->asked) - best - shadows < e->majority;
	return f;
}

unsigned lock_home(const struct engine *e, const struct op *op)
{
	unsigned best = 0;
	uint64_t best_score = 0;
	uint16_t mask = masters_reachable(e, op->slot);
	for (unsigned i = 0; i < e->cfg.n_masters; i++) {
		uint64_t score = hash_mix(op->hash, e->cfg.masters[i]);
		if ((mask & (1u << i)) && score >= best_score) {
			best = i;
			best_score = score;
		}
	}
	return best;
}

static void give_up(struct engine *e, struct op *op, enum outcome outcome)
{
	if (outcome == OUT_HELD || outcome == OUT_BUSY)
		e->stats.refused++;
	op_finish(e, op, outcome);
}

/* The key was held here when this attempt was refused, and is not any more: its end has passed, and
 * there will be no other wake-up. */
static bool ended_meanwhile(struct engine *e, const struct op *op)
{
	return e->self_index != NO_MASTER && op->answers[e->self_index].verdict == VERDICT_HELD &&
	       lease_find(e, op->hash, op_key(e, op)) == 0;
}

/* The end may have come here before it came to the others. */
static bool free_here(const struct engine *e, const struct op *op)
{
	return e->self_index != NO_MASTER && op->answers[e->self_index].verdict == VERDICT_ACK;
}

static void held(struct engine *e, struct op *op, const struct failure *f)
{
	if (op->idempotent && e->now.fast_ns < op->deadline_ns) {
		op->adopting = true;
		extend_start(e, op);
	} else if (!op->wait || e->now.fast_ns >= lock_wait_until_ns(e, op)) {
		give_up(e, op, OUT_HELD);
	} else if (ended_meanwhile(e, op) || (free_here(e, op) && op->attempts < 3)) {
		op->state = OPS_LOCK_BACKOFF;
		op_retry_later(e, op);
	} else {
		lock_park(e, op, f->remaining_ns);
	}
}

static void try_again(struct engine *e, struct op *op, const struct failure *f)
{
	bool keeps_seat = op->answers[lock_home(e, op)].verdict == VERDICT_ACK;
	if (f->stale || keeps_seat) {
		op->prev = op->uid;
		aborted_remember(e, op->uid.n, op->ttl_ms);
	} else {
		abort_attempt(e, op, op->uid, may_hold(e, op));
		op->prev = (struct ballot){0};
	}
	if (f->stale && op->attempts < 8) {
		e->stats.retries++;
		lock_attempt(e, op); /* the clock has learnt: nothing to wait for */
		return;
	}
	op->state = OPS_LOCK_BACKOFF;
	op_retry_later(e, op);
}

/* The key is taken, and the cluster is there: so many refuse, or, where masters are away, so many
 * of those that could be asked, that this attempt is not granted and will not be. */
static bool is_taken(const struct engine *e, const struct op *op, const struct failure *f)
{
	unsigned votes = round_count(e, op, VERDICT_ACK);
	bool hopeless = votes + round_outstanding(op) < e->majority;
	return f->refused >= e->blocking ||
	       (f->refused > 0 && hopeless && votes + f->refused >= e->majority);
}

static void failed(struct engine *e, struct op *op)
{
	try_list_remove(e, op);
	if (op->orphan) {
		abort_attempt(e, op, op->uid, may_hold(e, op));
		op_free(e, op);
		return;
	}
	struct failure f = explain(e, op);
	op->heard = (uint8_t)count_bits(op->answered);
	bool cut_short =
		e->now.fast_ns - op->t0_ns < lock_window_ns(e, op) && round_outstanding(op) > 0;
	bool taken = is_taken(e, op, &f);
	if (f.held_confirmed >= e->blocking || (taken && f.held_confirmed == f.refused))
		op->refusal = OUT_HELD;
	else if (taken)
		op->refusal = OUT_BUSY;
	else if (!cut_short) /* by the end of the operation: then the attempt before knows better */
		op->refusal = OUT_NOQUORUM;

	/* A promise on a majority is as good as held for who would adopt it, and for who has time.
	 */
	bool has_time = op->wait && op->attempts > 3 && e->now.fast_ns < lock_wait_until_ns(e, op);
	bool settled = f.held_by_one || (f.promised_to_one && op->idempotent) ||
		       (f.in_the_way && has_time);
	if (f.limit >= e->blocking || settled || e->now.fast_ns >= op->deadline_ns) {
		abort_attempt(e, op, op->uid, may_hold(e, op));
		op->prev = (struct ballot){0};
		if (f.limit >= e->blocking)
			give_up(e, op, OUT_LIMIT);
		else if (settled)
			held(e, op, &f);
		else
			give_up(e, op, (enum outcome)op->refusal);
		return;
	}
	try_again(e, op, &f);
}

/* Not of one instance, so an answer that is missing may say which one is held. */
static bool refusals_differ(const struct engine *e, const struct op *op)
{
	struct ballot uid;
	return round_best_uid(e, op, VERDICT_HELD, &uid) < round_count(e, op, VERDICT_HELD);
}

void lock_answered(struct engine *e, struct op *op)
{
	unsigned votes = round_count(e, op, VERDICT_ACK);
	unsigned outstanding = round_outstanding(op);
	unsigned refused = count_bits(op->answered) - votes;
	bool in_window = e->now.fast_ns - op->t0_ns < lock_window_ns(e, op);
	/* Where masters are unreachable, one refusal makes a majority impossible: the others are
	 * still heard, for it takes a blocking set to say why. */
	if (votes >= (MUTANT(LOCK_MINORITY) ? 1U : e->majority) && in_window)
		grant(e, op, votes);
	else if (!in_window || outstanding == 0)
		failed(e, op);
	else if (refused >= e->blocking && refusals_differ(e, op))
		round_wait(e, op);
	else if (refused >= e->blocking)
		failed(e, op);
}

static void stop_waiting(struct engine *e, struct op *op)
{
	if (op->prev.n != 0)
		abort_attempt(e, op, op->prev, masters_reachable(e, op->slot));
	give_up(e, op, (enum outcome)op->refusal);
}

void lock_timer(struct engine *e, struct op *op)
{
	bool waits = op->state == OPS_LOCK_PARKED || op->state == OPS_LOCK_QUEUED;
	uint64_t end_ns = waits ? lock_wait_until_ns(e, op) : op->deadline_ns;
	if (op->state == OPS_LOCK_TRY)
		failed(e, op);
	else if (e->now.fast_ns >= end_ns)
		stop_waiting(e, op);
	else
		lock_attempt(e, op);
}

/* What was granted to this attempt the next one removes; who cannot be told of that one asks. */
void lock_voided(struct engine *e, struct op *op)
{
	try_list_remove(e, op);
	if (op->orphan) {
		abort_attempt(e, op, op->uid, masters_reachable(e, op->slot));
		op_free(e, op);
		return;
	}
	op->prev = op->uid;
	aborted_remember(e, op->uid.n, op->ttl_ms);
	op->state = OPS_LOCK_BACKOFF;
	op_retry_later(e, op);
}

/* The client has gone away: leave the line; an attempt that runs is dealt with when it ends. */
void lock_cancel(struct engine *e, struct op *op)
{
	bool idle = op->state == OPS_LOCK_PARKED || op->state == OPS_LOCK_QUEUED ||
		    op->state == OPS_LOCK_BACKOFF;
	if (!idle)
		return;
	if (op->prev.n != 0)
		abort_attempt(e, op, op->prev, masters_reachable(e, op->slot));
	op_free(e, op);
}

void lock_adopted(struct engine *e, struct op *op, enum outcome outcome)
{
	op->adopting = false;
	if (op->orphan) {
		op_free(e, op);
		return;
	}
	bool refused = outcome == OUT_NOTOWNER || outcome == OUT_NOTFOUND;
	if (refused && op->in_queue && !line_is_head(e, op)) {
		queue(e, op);
	} else if (outcome == OUT_NOTFOUND && e->now.fast_ns < op->deadline_ns) {
		op->state = OPS_LOCK_BACKOFF; /* it ended meanwhile */
		op_retry_later(e, op);
	} else if (refused) {
		if (op->wait && e->now.fast_ns < lock_wait_until_ns(e, op))
			lock_park(e, op, POLL_MS * NS_PER_MS);
		else
			give_up(e, op, OUT_HELD);
	} else {
		give_up(e, op,
			outcome); /* UNKNOWN: the lock of that value may have been extended */
	}
}
