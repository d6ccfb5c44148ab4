/* Another configuration (protocol.md 2.10): who the masters are, and what becomes of rounds that
 * were begun with others. What a master has to learn then is in resync.c. */
#include <string.h>

#include "core/internal.h"

enum { VOID_SLICE = 256 /* operations looked at in one step */ };

uint8_t peer_at(const struct engine *e, unsigned index)
{
	return index < e->cfg.n_masters ? e->cfg.masters[index] : e->cfg.departed;
}

static bool is_linked(const struct engine *e, uint8_t node)
{
	return node != e->cfg.self && e->linked[node];
}

uint16_t peers_before(const struct engine *e)
{
	uint16_t mask = e->links_up & e->masters_before;
	if (e->departed_up)
		mask |= (uint16_t)(1u << e->cfg.n_masters);
	return mask;
}

/* Indices, quorums and links for the masters of e->cfg. */
static void take_over(struct engine *e)
{
	unsigned n = e->cfg.n_masters, before = n;
	memset(e->index_of, NO_MASTER, sizeof e->index_of);
	e->links_up = e->masters_before = 0;
	for (unsigned i = 0; i < n; i++) {
		uint8_t node = e->cfg.masters[i];
		uint16_t bit = (uint16_t)(1u << i);
		e->index_of[node] = (uint8_t)i;
		e->links_up |= is_linked(e, node) ? bit : 0;
		e->masters_before |= node != e->cfg.joined ? bit : 0;
		before -= node == e->cfg.joined;
	}
	e->self_index = e->index_of[e->cfg.self];
	if (e->cfg.departed != 0) {
		e->index_of[e->cfg.departed] = (uint8_t)n;
		before++;
	}
	e->departed_up = e->cfg.departed != 0 && is_linked(e, e->cfg.departed);
	if (e->majority == 0 || !MUTANT(QUORUM_FIXED))
		e->majority = (uint8_t)(n / 2 + 1);
	e->blocking = (uint8_t)(n - e->majority + 1);
	e->blocking_before = (uint8_t)(before - (before / 2 + 1) + 1);
	e->changed = e->cfg.joined != 0 || e->cfg.departed != 0;
}

/* Before the control thread has spoken. */
static void begin_status(struct engine *e)
{
	if (e->self_index != NO_MASTER)
		e->status = NODE_QUARANTINE;
	else
		e->status = e->cfg.replica ? NODE_REPLICA : NODE_NONMEMBER;
}

void config_init(struct engine *e)
{
	take_over(e);
	e->void_next = UINT32_MAX;
	begin_status(e);
}

void config_link(struct engine *e, uint8_t node, bool up)
{
	e->linked[node] = up;
	if (!up) {
		log_link_down(e, node);
		turns_link_down(e);
	}
	uint8_t index = e->index_of[node];
	if (index == NO_MASTER || index == e->self_index || node == e->cfg.self)
		return;
	if (index == e->cfg.n_masters)
		e->departed_up = up;
	else if (up)
		e->links_up |= (uint16_t)(1u << index);
	else
		e->links_up &= (uint16_t) ~(1u << index);
	resync_link(e, index, up);
	copy_link(e, node, up);
	e->void_next = 0; /* keys may have another home */
}

bool config_is_fresh(const struct engine *e)
{
	return e->configs != 0 && e->now.fast_ns - e->changed_fast_ns < e->attempt_ns;
}

void config_change(struct engine *e, const struct engine_members *m)
{
	bool voted = e->self_index != NO_MASTER;
	bool changed = m->masters_epoch != e->cfg.masters_epoch;
	/* It missed that it was removed before: what it holds is of no use to anybody. */
	bool again =
		voted && (m->since > e->cfg.masters_epoch || (changed && m->joined == e->cfg.self));
	e->cfg.n_masters = m->n_masters;
	memcpy(e->cfg.masters, m->masters, sizeof e->cfg.masters);
	e->cfg.masters_epoch = m->masters_epoch;
	e->cfg.joined = m->joined;
	e->cfg.departed = m->departed;
	e->cfg.replica = m->replica;
	take_over(e);
	if (!voted || again || e->self_index == NO_MASTER)
		begin_status(e);
	if (!m->replica)
		copy_stop(e);
	e->void_next = 0;
	e->configs++;
	e->changed_fast_ns = e->now.fast_ns;
	if (changed) { /* a merge is about the masters, not about replicas (simulator, 55648) */
		/* Several of them, and votes in between, may come at one reading of the clock. */
		int64_t now_ns = (int64_t)e->now.slow_ns;
		e->changed_slow_ns =
			1 + (now_ns > e->changed_slow_ns ? now_ns : e->changed_slow_ns);
	}
	promises_forget_answers(e);
	if (again)
		resync_retire(e);
	resync_config(e, voted && !again, changed);
	copy_begin(e);
}

/* No certificate is made of answers in two configurations. */
static void begin_again(struct engine *e, struct op *op)
{
	op->voided |= op->state == OPS_EXTEND || op->state == OPS_RELEASE || op->removed != 0;
	op->config = e->configs; /* also where nothing is sent and only time has to pass */
	switch (op->state) {
	case OPS_LOCK_TRY:
		lock_voided(e, op);
		break;
	case OPS_EXTEND:
		extend_start(e, op);
		break;
	case OPS_PREPARE:
	case OPS_ACCEPT:
		prepare_start(e, op, (enum prepare_goal)op->goal);
		break;
	case OPS_RELEASE:
		release_voided(e, op);
		break;
	case OPS_READ:
		read_start(e, op);
		break;
	default:
		break;
	}
}

static bool runs_a_round(const struct op *op)
{
	return op->state == OPS_LOCK_TRY || op->state == OPS_EXTEND || op->state == OPS_PREPARE ||
	       op->state == OPS_ACCEPT || op->state == OPS_RELEASE || op->state == OPS_READ;
}

bool config_renew(struct engine *e, struct op *op)
{
	if (op->config == e->configs || MUTANT(EPOCH_IGNORED))
		return false;
	if (!runs_a_round(op)) {
		op->voided |= op->removed != 0;
		return false;
	}
	begin_again(e, op);
	return true;
}

bool config_tick_due(const struct engine *e)
{
	return e->void_next != UINT32_MAX;
}

void config_tick(struct engine *e)
{
	for (unsigned i = 0; i < VOID_SLICE && e->void_next < e->ops_touched; i++) {
		if (!effects_room(e))
			return;
		struct op *op = op_at(e, e->void_next++);
		(void)config_renew(e, op);
		turn_check_home(e, op);
	}
	if (e->void_next >= e->ops_touched)
		e->void_next = UINT32_MAX;
}
