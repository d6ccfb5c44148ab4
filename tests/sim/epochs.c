/* Configurations, as somebody sees them who sees all nodes: one for each epoch, and never two of
 * which a majority could act at the same time (protocol.md 2.10). */
#include "sim.h"

#include <inttypes.h>

static uint16_t bits_of(const struct member *v, unsigned n)
{
	uint16_t bits = 0;
	for (unsigned i = 0; i < n; i++) {
		CHECK(v[i].id <= NODES_MAX);
		bits |= (uint16_t)(1u << v[i].id);
	}
	return bits;
}

struct shape shape_of(const struct membership *m)
{
	return (struct shape){.epoch = m->epoch,
		.masters_epoch = m->masters_epoch,
		.masters = bits_of(m->masters, m->n_masters),
		.replicas = bits_of(m->replicas, m->n_replicas),
		.joined = m->joined,
		.departed = m->departed};
}

static bool same(const struct shape *a, const struct shape *b)
{
	return a->epoch == b->epoch && a->masters_epoch == b->masters_epoch &&
	       a->masters == b->masters && a->replicas == b->replicas && a->joined == b->joined &&
	       a->departed == b->departed;
}

unsigned epochs_in_force(const struct world *w, struct force ret[NODES_MAX])
{
	unsigned n = 0;
	for (unsigned id = 1; id <= w->nodes; id++) {
		const struct shape *c = &w->node[id].config;
		if (!w->node[id].up || !is_master(w, id))
			continue;
		unsigned i = 0;
		while (i < n && ret[i].config.epoch != c->epoch)
			i++;
		if (i == n)
			ret[n++] = (struct force){.config = *c};
		ret[i].there |= (uint16_t)(1u << id);
	}
	return n;
}

bool epochs_stuck(const struct world *w, unsigned more)
{
	/* One that only nodes knew which have lost their files has to be decided again (31001928).
	 */
	uint64_t known = 0;
	for (unsigned id = 1; id <= w->nodes; id++)
		if (w->node[id].reg.committed.epoch > known)
			known = w->node[id].reg.committed.epoch;
	const struct shape *c = &w->epoch[known];
	unsigned lost = 0;
	for (unsigned id = 1; id <= w->nodes; id++) {
		const struct node *n = &w->node[id];
		bool abstains = n->lost || n->reg.promised.n == BALLOT_MAX || id == more;
		lost += abstains && (c->masters >> id & 1);
	}
	return w->churn && lost > shape_masters(c) - shape_majority(c);
}

/* Two quorums at a time know nothing of one another. */
static void check_quorums(struct world *w)
{
	struct force v[NODES_MAX];
	unsigned n = epochs_in_force(w, v);
	const struct force *one = NULL;
	for (unsigned i = 0; i < n; i++) {
		if (count_bits(v[i].there) < shape_majority(&v[i].config))
			continue;
		if (one != NULL)
			violation(w, RUN_UNSAFE,
				"quorums: majorities of epoch %" PRIu64 " and of epoch %" PRIu64
				" are at work",
				one->config.epoch, v[i].config.epoch);
		one = &v[i];
	}
}

/* One step away from the configuration before it. */
static bool follows(const struct shape *old, const struct shape *new)
{
	uint16_t joined = new->masters &(uint16_t)~old->masters;
	uint16_t departed = old->masters & (uint16_t) ~new->masters;
	uint16_t replicas = new->replicas ^ old->replicas;
	if (joined == 0 && departed == 0)
		return new->masters_epoch == old->masters_epoch &&new->joined ==
		       old->joined &&new->departed == old->departed &&count_bits(replicas) == 1;
	return count_bits(joined | departed) == 1 && new->masters_epoch == new->epoch &&
	       (joined == 0 ? new->joined == 0 : joined == 1u << new->joined) &&
	       (departed == 0 ? new->departed == 0 : departed == 1u << new->departed) &&
	       (replicas & (uint16_t) ~(joined | departed)) == 0;
}

void epochs_see(struct world *w, unsigned id, const struct membership *m)
{
	struct node *n = &w->node[id];
	struct shape s = shape_of(m), *known = &w->epoch[m->epoch % EPOCHS_MAX];
	if (s.epoch >= EPOCHS_MAX) {
		violation(w, RUN_STUCK, "%" PRIu64 " changes in one run", s.epoch);
		return;
	}
	n->config = s;
	n->moved_at = w->now;
	if (known->epoch == 0) {
		*known = s;
		w->sums.changes++;
		TRACE(w, "epoch %" PRIu64 " (%" PRIu64 "): masters %x replicas %x", s.epoch,
			s.masters_epoch, s.masters, s.replicas);
		const struct shape *before = &w->epoch[s.epoch - 1];
		if (before->epoch != 0 && !follows(before, &s))
			violation(w, RUN_UNSAFE, "step: epoch %" PRIu64 " is not one step away",
				s.epoch);
	} else if (!same(known, &s)) {
		violation(w, RUN_UNSAFE,
			"decision: epoch %" PRIu64 " is masters %x for node %u, and %x", s.epoch,
			s.masters, id, known->masters);
	}
	w->top_epoch = s.epoch > w->top_epoch ? s.epoch : w->top_epoch;
	if (n->up)
		check_quorums(w);
}

void epochs_first(struct world *w)
{
	struct shape first = {.epoch = 1, .masters_epoch = 1};
	for (unsigned i = 0; i < w->n; i++)
		first.masters |= (uint16_t)(1u << w->master[i]);
	w->epoch[1] = first;
	w->top_epoch = 1;
	for (unsigned id = 1; id <= w->nodes; id++)
		w->node[id].config = first;
}
