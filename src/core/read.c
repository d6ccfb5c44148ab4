/* READ: this node's copy, or linearizable by quorum (protocol.md 2.6). */
#include "core/internal.h"

void read_local(struct engine *e, const struct op_request *r)
{
	struct result *out = &effect_new(e, FX_REPLY)->reply;
	*out = (struct result){.tag = r->tag, .kind = r->kind, .outcome = OUT_NOTREADY};
	if (!slot_readable(e, slot_of(e, r->hash)))
		return;
	out->outcome = OUT_NULL;
	uint32_t ref = lease_find(e, r->hash, r->key);
	if (ref == 0 || (lease_at(e, ref)->flags & LEASE_UNSEEN))
		return;
	const struct lease *l = lease_at(e, ref);
	out->outcome = OUT_OK;
	out->value = lease_value(l);
	out->client = name_at(e, l->name);
	out->token = l->token;
	out->node = l->node;
	out->remaining_ns = l->end_ns - e->now.slow_ns;
	out->held_ns = lease_held_ns(l, &e->now);
}

void read_start(struct engine *e, struct op *op)
{
	uint16_t mask = masters_reachable(e, op->slot);
	op->state = OPS_RETRY;
	if (round_put_off(e, op, mask))
		return;
	if (count_bits(mask) < e->majority) {
		op_finish(e, op, OUT_NOQUORUM);
		return;
	}
	op->state = OPS_READ;
	op->t0_ns = e->now.fast_ns;
	struct msg m = {.type = MSG_READ, .n = op->seal_n};
	round_begin(e, op, &m, mask);
	round_self(e, op, &m, op->t0_ns + e->attempt_ns);
}

void read_done(struct engine *e, struct op *op, const struct answer *a)
{
	round_rtt(e, op);
	struct result *r = op_reply(e, op, a == NULL ? OUT_NULL : OUT_OK);
	if (a != NULL) {
		const uint8_t *data = a->block == 0 ? NULL : arena_at(&e->arena, a->block);
		r->value = bytes_of(data, a->value_bytes);
		r->client = bytes_of(data == NULL ? NULL : data + a->value_bytes, a->name_bytes);
		r->token = a->uid.n;
		r->node = a->node;
		r->remaining_ns = a->remaining_ns;
		r->held_ns = a->held_ns;
	}
	op_free(e, op);
}

static const struct answer *held_by_majority(const struct engine *e, const struct op *op)
{
	for (unsigned i = 0; i < e->cfg.n_masters; i++) {
		const struct answer *a = &op->answers[i];
		unsigned same = 0;
		if (a->verdict != VERDICT_LIVE)
			continue;
		same = round_count_version(e, op, VERDICT_LIVE, a);
		if (same >= (MUTANT(READ_MINORITY) ? 1U : e->majority))
			return a;
	}
	return NULL;
}

/* A majority that agrees on the highest ballot it has refused for ever. */
static bool free_by_majority(const struct engine *e, const struct op *op)
{
	for (unsigned i = 0; i < e->cfg.n_masters; i++) {
		unsigned same = 0;
		if (op->answers[i].verdict != VERDICT_FREE)
			continue;
		for (unsigned k = 0; k < e->cfg.n_masters; k++)
			same += op->answers[k].verdict == VERDICT_FREE &&
				(op->answers[k].n == op->answers[i].n || MUTANT(READ_ANY_ABSENT));
		if (same >= e->majority)
			return true;
	}
	return false;
}

/* So many masters do not hold it and are sealed that it is live on fewer than blk of them, and a
 * RESYNC cannot bring it back (protocol.md 2.8). With an even number of masters blk sealed ones
 * would not be enough for that. */
static bool can_reach_majority(const struct engine *e, const struct op *op, struct ballot uid)
{
	unsigned sealed = 0;
	for (unsigned i = 0; i < e->cfg.n_masters; i++) {
		const struct answer *a = &op->answers[i];
		bool without = a->verdict == VERDICT_FREE ||
			       (a->verdict == VERDICT_LIVE && !ballot_eq(a->uid, uid));
		sealed += without && a->n >= uid.n;
	}
	return sealed < e->majority;
}

/* Every instance seen is a ghost, now and for ever. An instance granted before this read began
 * would be live at one of the majority that answered. */
static bool only_ghosts(const struct engine *e, const struct op *op)
{
	for (unsigned i = 0; i < e->cfg.n_masters; i++)
		if (op->answers[i].verdict == VERDICT_LIVE &&
			can_reach_majority(e, op, op->answers[i].uid))
			return false;
	return true;
}

static unsigned informative(const struct engine *e, const struct op *op)
{
	return round_count(e, op, VERDICT_LIVE) + round_count(e, op, VERDICT_FREE);
}

static void read_again(struct engine *e, struct op *op)
{
	uint64_t highest = op->seal_n;
	if (e->now.fast_ns >= op->deadline_ns) {
		op_finish(e, op, OUT_NOQUORUM);
		return;
	}
	for (unsigned i = 0; i < e->cfg.n_masters; i++) {
		highest = op->answers[i].n > highest ? op->answers[i].n : highest;
		highest = op->answers[i].uid.n > highest ? op->answers[i].uid.n : highest;
	}
	if (op->polled)
		op->seal_n = highest;
	op->polled = true;
	op_retry_later(e, op);
}

/* No more answers are waited for. */
static void undecided(struct engine *e, struct op *op)
{
	struct ballot uid = {0};
	if (round_best_uid(e, op, VERDICT_LIVE, &uid) >= e->majority)
		prepare_start(e, op, GOAL_READ); /* an update is half done: finish it */
	else if (informative(e, op) >= e->majority)
		read_again(e, op);
	else
		op_finish(e, op, OUT_NOQUORUM);
}

void read_answered(struct engine *e, struct op *op)
{
	const struct answer *a = held_by_majority(e, op);
	unsigned told = informative(e, op);
	if (!round_in_window(e, op)) {
		op_finish(e, op, OUT_NOQUORUM);
	} else if (a != NULL) {
		read_done(e, op, a);
	} else if (free_by_majority(e, op) ||
		   (op->seal_n != 0 && told >= e->majority && only_ghosts(e, op))) {
		read_done(e, op, NULL);
	} else if (round_outstanding(op) == 0) {
		undecided(e, op);
	} else if (told >= e->majority) {
		round_wait(e, op); /* the rest may settle it */
	}
}

void read_timer(struct engine *e, struct op *op)
{
	undecided(e, op);
}
