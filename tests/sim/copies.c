/* The judge of replicas (protocol.md 2.9): what one shows was held, is shown no longer than it was
 * held there, and the age that it claims for its copy is true: what masters have given up before is
 * gone, and what all of them have held since then is there. */
#include "sim.h"

#include <inttypes.h>

static bool visible(const struct world *w, unsigned id, const struct lease *l)
{
	return l != NULL && lease_is_visible(l) &&
	       clock_read(&w->node[id].slow, w->now) < l->end_ns;
}

static struct showing *showing_of(struct key *key, struct ballot uid)
{
	for (unsigned i = key->n_showings; i > 0 && i + SHOWINGS_MAX > key->n_showings; i--)
		if (ballot_eq(key->showing[(i - 1) % SHOWINGS_MAX].uid, uid))
			return &key->showing[(i - 1) % SHOWINGS_MAX];
	return NULL;
}

static struct showing *showing_new(struct key *key, struct ballot uid)
{
	struct showing *i = &key->showing[key->n_showings++ % SHOWINGS_MAX];
	*i = (struct showing){.uid = uid};
	return i;
}

/* The node shows this instance no more. */
static void hide(struct world *w, unsigned id, unsigned k)
{
	struct node *n = &w->node[id];
	struct showing *i = showing_of(&w->key[k], n->shown[k]);
	n->shown[k] = (struct ballot){0};
	if (i == NULL)
		return;
	i->on &= (uint16_t) ~(1u << id);
	bool given_up =
		n->up && is_master(w, id) && clock_read(&n->slow, w->now) < n->shown_end_ns[k];
	i->doubtful = i->doubtful || !given_up;
	i->gone_at = w->now;
}

static void look_at_master(struct world *w, unsigned id, unsigned k)
{
	struct node *n = &w->node[id];
	const struct lease *l = n->up ? lease_of(w, id, k) : NULL;
	bool shows =
		n->up && is_master(w, id) && node_votes(w, id, w->key[k].hash) && visible(w, id, l);
	if (n->shown[k].n != 0 && (!shows || !ballot_eq(lease_uid(l), n->shown[k])))
		hide(w, id, k);
	if (!shows)
		return;
	struct showing *i = showing_of(&w->key[k], lease_uid(l));
	if (i == NULL)
		i = showing_new(&w->key[k], lease_uid(l));
	uint64_t left = l->end_ns - clock_read(&n->slow, w->now);
	uint64_t until = w->now + clock_true_ns(&n->slow, left);
	i->until = until > i->until ? until : i->until;
	i->on |= (uint16_t)(1u << id);
	n->shown[k] = lease_uid(l);
	if (l->end_ns != n->shown_end_ns[k])
		n->shown_since[k] = w->now;
	n->shown_end_ns[k] = l->end_ns;
}

/* What every master that acts by this epoch shows; {0, 0}: nothing. */
static struct ballot shown_by_all(struct world *w, unsigned k, uint64_t epoch)
{
	struct ballot all = {0};
	for (unsigned id = 1; id <= w->nodes; id++) {
		const struct node *n = &w->node[id];
		if (!n->up || !is_master(w, id) || n->config.epoch != epoch)
			continue;
		if (n->shown[k].n == 0 || (all.n != 0 && !ballot_eq(all, n->shown[k])))
			return (struct ballot){0};
		all = n->shown[k];
	}
	return all;
}

static void look_at_all(struct world *w, unsigned k)
{
	struct key *key = &w->key[k];
	struct ballot all = shown_by_all(w, k, w->top_epoch);
	if (ballot_eq(all, key->all) && key->all_epoch == w->top_epoch)
		return;
	key->all = all;
	key->all_epoch = w->top_epoch;
	key->all_since = w->now;
}

static uint64_t margin_ns(const struct world *w)
{
	const struct engine_config *c = &w->node[1].cfg;
	uint64_t rho = (uint64_t)w->swarm.drift_ppm;
	return c->max_lease_ms * MS * 4 * rho / 1000000 + c->attempt_ms * MS + 300 * MS;
}

static void check_shown(
	struct world *w, unsigned id, unsigned k, const struct lease *l, uint64_t whole_at)
{
	const struct showing *i = showing_of(&w->key[k], lease_uid(l));
	if (i == NULL && w->key[k].n_showings < SHOWINGS_MAX)
		violation(w, RUN_UNSAFE,
			"copy: replica %u shows token %" PRIu64 " of key %u, which no master did",
			id, l->token, k);
	else if (i != NULL && !w->swarm.late_replies && w->now > i->until + margin_ns(w))
		violation(w, RUN_UNSAFE,
			"copy: replica %u shows token %" PRIu64 " of key %u %" PRIu64
			" us after its end",
			id, l->token, k, (w->now - i->until) / 1000);
	else if (i != NULL && i->on == 0 && !i->doubtful && i->gone_at < whole_at)
		violation(w, RUN_UNSAFE,
			"copy: replica %u shows token %" PRIu64 " of key %u, given up %" PRIu64
			" us ago, though its copy is %" PRIu64 " us old",
			id, l->token, k, (w->now - i->gone_at) / 1000, (w->now - whole_at) / 1000);
}

/* Everywhere it goes on for a while, as was known then. A master that is down since counts: the
 * copy may be of what it told, before an EXTEND that the others have (seed 61001598, churn). */
static bool goes_on(const struct world *w, unsigned k, uint64_t epoch, uint64_t then)
{
	for (unsigned id = 1; id <= w->nodes; id++) {
		const struct node *n = &w->node[id];
		bool knew = n->up || n->fell_at >= then;
		bool counts = knew && is_master(w, id) && n->config.epoch == epoch;
		uint64_t soon = clock_read(&n->slow, w->now) + margin_ns(w);
		if (counts && (soon > n->shown_end_ns[k] || n->shown_since[k] >= then))
			return false;
	}
	return true;
}

static void check_missing(struct world *w, unsigned id, unsigned k, uint64_t whole_at)
{
	const struct key *key = &w->key[k];
	/* It may have followed a master that knew nothing of this configuration either. */
	if (w->node[id].moved_at >= whole_at || key->all.n == 0 ||
		key->all_epoch != w->node[id].config.epoch || key->all_since >= whole_at ||
		!goes_on(w, k, key->all_epoch, whole_at))
		return;
	violation(w, RUN_UNSAFE,
		"copy: replica %u lacks token %" PRIu64
		" of key %u, held by all masters for %" PRIu64 " us, though its copy is %" PRIu64
		" us old",
		id, key->all.n, k, (w->now - key->all_since) / 1000, (w->now - whole_at) / 1000);
}

static void look_at_replica(struct world *w, unsigned id)
{
	const struct engine *e = w->node[id].engine;
	struct engine_stats s;
	engine_stats(e, &s);
	if (s.lag_ns == UINT64_MAX || w->swarm.slews || w->swarm.weight[FAULT_SUSPEND] != 0)
		return;
	uint64_t age = s.lag_ns + s.lag_ns / 16 + MS;
	uint64_t whole_at = w->now > age ? w->now - age : 0;
	for (unsigned k = 0; k < w->keys && !w->over; k++) {
		const struct lease *l = lease_of(w, id, k);
		if (visible(w, id, l))
			check_shown(w, id, k, l, whole_at);
		else
			check_missing(w, id, k, whole_at);
	}
}

void copies_look(struct world *w, unsigned id)
{
	CHECK(id <= NODES_MAX);
	if (!w->churn)
		return;
	for (unsigned k = 0; k < w->keys; k++) {
		look_at_master(w, id, k);
		look_at_all(w, k);
	}
	if (w->node[id].up && is_replica(w, id))
		look_at_replica(w, id);
}
