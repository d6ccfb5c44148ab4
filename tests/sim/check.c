/* The judges: what protocol.md 3 promises, looked at after every event with the true time in hand.
 */
#include "sim.h"

#include <inttypes.h>

const struct lease *lease_of(const struct world *w, unsigned id, unsigned k)
{
	const struct engine *e = w->node[id].engine;
	const struct map_slot *s = map_find(&e->leases, w->key[k].hash);
	return s == NULL ? NULL : lease_at(e, (uint32_t)s->value);
}

static bool live(const struct world *w, unsigned id, const struct lease *l)
{
	return l != NULL &&
	       (clock_read(&w->node[id].slow, w->now) < l->end_ns || (l->flags & LEASE_RESYNC));
}

/* On this node nobody else can be granted it now. */
static bool refuses(const struct world *w, unsigned id, unsigned k, const struct lease *l)
{
	return !node_votes(w, id, w->key[k].hash) ||
	       (l != NULL && (l->flags & (LEASE_SHADOW | LEASE_RESYNC)));
}

static bool is_held(struct ballot held, const struct belief *b)
{
	return held.n == b->token && (b->cid == 0 || held.cid == b->cid);
}

/* Who acts by a configuration, votes in it and does not hold it must not be enough to grant it
 * anew. */
static void check_holders_of(struct world *w, unsigned k, const struct ballot *held,
	const bool *refused, const struct force *f, unsigned client)
{
	const struct belief *b = &w->client[client].belief;
	unsigned without = 0;
	for (unsigned id = 1; id <= w->nodes; id++)
		without += (f->there >> id & 1) && !refused[id] && !is_held(held[id], b);
	if (without >= shape_majority(&f->config))
		violation(w, RUN_UNSAFE,
			"holders: client %u believes in token %" PRIu64
			" of key %u, and %u voters of epoch %" PRIu64 " do not hold it",
			client, b->token, k, without, f->config.epoch);
}

/* Lemma 1 and H, in each configuration that is in force somewhere. */
static void check_holders(struct world *w, unsigned k, const struct ballot *held,
	const bool *refused, const struct force *forces, unsigned n_forces)
{
	for (unsigned i = 0; i < w->clients; i++) {
		const struct client *c = &w->client[i];
		if (c->belief.token == 0 || c->belief.key != k || c->belief.passed_on ||
			!client_believes(w, c))
			continue;
		w->sums.leases_judged++;
		for (unsigned f = 0; f < n_forces; f++)
			check_holders_of(w, k, held, refused, &forces[f], i);
	}
}

static bool was_released(const struct key *key, struct ballot uid)
{
	for (unsigned i = 0; i < key->n_released && i < RELEASED_MAX; i++)
		if (ballot_eq(key->released[i], uid))
			return true;
	return false;
}

/* What a majority of a configuration holds; {0, 0}: nothing. */
static struct ballot held_by_most(
	const struct world *w, const struct ballot *held, const struct force *f)
{
	unsigned majority = shape_majority(&f->config);
	if (count_bits(f->there) < majority)
		return (struct ballot){0};
	for (unsigned id = 1; id <= w->nodes; id++) {
		unsigned same = 0;
		for (unsigned o = id; o <= w->nodes && held[id].n != 0; o++)
			same += (f->there >> o & 1) && ballot_eq(held[o], held[id]);
		if ((f->there >> id & 1) && same >= majority)
			return held[id];
	}
	return (struct ballot){0};
}

/* No two configurations have a majority at a time (epochs.c). */
static void check_majority(struct world *w, unsigned k, const struct ballot *held,
	const struct force *forces, unsigned n_forces)
{
	struct key *key = &w->key[k];
	struct ballot majority = {0};
	for (unsigned f = 0; f < n_forces && majority.n == 0; f++)
		majority = held_by_most(w, held, &forces[f]);
	if (ballot_eq(majority, key->majority))
		return;
	key->majority = majority;
	if (majority.n == 0)
		return;
	key->granted[key->n_granted++ % RELEASED_MAX] = majority;
	if (was_released(key, majority))
		violation(w, RUN_UNSAFE,
			"resurrection: token %" PRIu64
			" of key %u was released and is live on a majority",
			majority.n, k);
}

uint64_t check_cid(const struct world *w, unsigned k, uint64_t token)
{
	const struct key *key = &w->key[k];
	for (unsigned i = key->n_granted; i > 0 && i + RELEASED_MAX > key->n_granted; i--)
		if (key->granted[(i - 1) % RELEASED_MAX].n == token)
			return key->granted[(i - 1) % RELEASED_MAX].cid;
	return 0;
}

void check_release(struct world *w, unsigned k, uint64_t token)
{
	struct key *key = &w->key[k];
	uint64_t cid = check_cid(w, k, token);
	if (cid == 0)
		return;
	key->released[key->n_released++ % RELEASED_MAX] = (struct ballot){token, cid};
	key->majority = (struct ballot){0}; /* look again */
	check_key(w, k);
}

/* Shard level: which attempts go out is not seen, but what becomes live of them. */
static void see_attempt(struct world *w, unsigned k, const struct lease *l)
{
	const struct history *h = &w->history;
	for (uint32_t i = h->attempts; i > 0 && i + 64 > h->attempts; i--)
		if (h->attempt[i - 1].n == l->token && h->attempt[i - 1].cid == l->cid &&
			h->attempt[i - 1].key == k)
			return;
	if (l->value_bytes == 4)
		history_attempt(w, k, lease_uid(l), get_u32(lease_value(l).p));
}

void check_key(struct world *w, unsigned k)
{
	struct ballot held[NODES_MAX + 1] = {0};
	bool refused[NODES_MAX + 1] = {0};
	struct force forces[NODES_MAX];
	for (unsigned id = 1; id <= w->nodes; id++) {
		struct node *n = &w->node[id];
		if (!n->up || !is_master(w, id))
			continue;
		const struct lease *l = lease_of(w, id, k);
		refused[id] = refuses(w, id, k, live(w, id, l) ? l : NULL);
		if (!live(w, id, l) || !lease_is_live(l) || !node_votes(w, id, w->key[k].hash))
			continue;
		held[id] = lease_uid(l);
		if (w->shard_level)
			see_attempt(w, k, l);
		if (l->token > n->durable_n)
			violation(w, RUN_UNSAFE,
				"ceiling: node %u accepted %" PRIu64 " above its durable %" PRIu64,
				id, l->token, n->durable_n);
		if (l->token > n->accepted_n)
			n->accepted_n = l->token;
	}
	unsigned n_forces = epochs_in_force(w, forces);
	check_holders(w, k, held, refused, forces, n_forces);
	check_majority(w, k, held, forces, n_forces);
}

/* A refusal, a release or a seal that was answered has to outlive a crash as well. */
void check_answered(struct world *w, const struct msg *request, unsigned id)
{
	const struct node *n = &w->node[id];
	if (w->fx.n == 0 || w->fx.v[0].type != FX_SEND || w->fx.v[0].send.msg.type != MSG_REPLY)
		return;
	const struct msg *reply = &w->fx.v[0].send.msg;
	if (reply->req != request->req || reply->req_type != request->type)
		return;
	bool binds = reply->verdict == VERDICT_ACK || reply->verdict == VERDICT_HELD ||
		     reply->verdict == VERDICT_FREE || reply->verdict == VERDICT_LIVE;
	uint64_t sealed = request->type == MSG_READ ? request->n : request->uid.n;
	if (request->type == MSG_EXTEND || request->type == MSG_ACCEPT || !binds)
		return;
	if (sealed > n->durable_n)
		violation(w, RUN_UNSAFE,
			"ceiling: node %u answered for %" PRIu64 " above its durable %" PRIu64, id,
			sealed, n->durable_n);
}

static void check_maxn(struct world *w, unsigned id)
{
	struct node *n = &w->node[id];
	if (!is_master(w, id)) /* it may forget */
		memset(n->maxn, 0, sizeof n->maxn);
	for (unsigned k = 0; k < w->keys; k++) {
		const struct lease *l = lease_of(w, id, k);
		uint64_t maxn = free_maxn(n->engine, w->key[k].hash);
		if (l != NULL && l->maxn > maxn)
			maxn = l->maxn;
		if (maxn < n->maxn[k])
			violation(w, RUN_UNSAFE,
				"maxn: node %u went from %" PRIu64 " to %" PRIu64 " for key %u", id,
				n->maxn[k], maxn, k);
		n->maxn[k] = maxn;
		if (l != NULL && !(l->flags & LEASE_RESYNC) &&
			engine_wait_ns(n->engine, &n->time) > 0 &&
			n->time.slow_ns > l->end_ns + 2 * WHEEL_TICK_NS)
			violation(w, RUN_UNSAFE,
				"expiry: node %u keeps key %u for %" PRIu64
				" ns after its end, flags %x",
				id, k, n->time.slow_ns - l->end_ns, l->flags);
	}
}

/* After a tick: everything of this node. */
void check_node(struct world *w, unsigned id)
{
	const struct engine *e = w->node[id].engine;
	if (w->opt->observers)
		engine_validate(e);
	check_maxn(w, id);
	if (e->leases.count > w->keys)
		violation(w, RUN_UNSAFE, "bounds: %" PRIu64 " entries for %u keys on node %u",
			e->leases.count, w->keys, id);
	for (unsigned k = 0; k < w->keys && !w->over; k++)
		check_key(w, k);
}

void check_all(struct world *w)
{
	for (unsigned id = 1; id <= w->nodes && !w->over; id++) {
		if (!w->node[id].up)
			continue;
		node_clocks(w, id);
		engine_validate(w->node[id].engine);
		check_node(w, id);
	}
}

/* I1: as each client's own clock sees it. */
void check_belief(struct world *w, unsigned client)
{
	const struct client *c = &w->client[client];
	for (unsigned i = 0; i < w->clients; i++) {
		const struct client *o = &w->client[i];
		if (i == client || o->belief.token == c->belief.token ||
			o->belief.key != c->belief.key || c->belief.passed_on ||
			o->belief.passed_on || !client_believes(w, o))
			continue;
		violation(w, RUN_UNSAFE,
			"two holders of key %u: client %u with token %" PRIu64
			", client %u with %" PRIu64,
			c->belief.key, client, c->belief.token, i, o->belief.token);
	}
	check_key(w, c->belief.key);
}

static void check_granted(struct world *w, const struct call *call, const struct result *r)
{
	struct key *key = &w->key[call->key];
	bool adopted = call->idempotent && r->token <= key->top;
	bool rises = adopted ? r->token >= call->seen_top : r->token > key->top;
	rises = rises || (r->token == key->top && key->top_adopted);
	/* Told of after the next one may be a lease too short to be believed at all, and one that
	 * somebody else had released by its value. */
	bool early = r->valid_ms == 0 || client_shared(w, call->value);
	/* Or one that was written over, and released by who did that. */
	early = early || (w->swarm.heirs && r->token <= key->told_token);
	/* Or one that its client, tired of waiting, took up and released elsewhere. */
	early = early || (call->client >= CLIENTS_MAX && r->token > call->seen_top);
	if (!rises && !early && !w->tokens_exempt)
		violation(w, RUN_UNSAFE, "tokens: key %u got %" PRIu64 " after %" PRIu64, call->key,
			r->token, key->top);
	if (r->votes < shape_majority(&w->node[call->node].config))
		violation(w, RUN_UNSAFE, "votes: key %u granted with %u", call->key, r->votes);
	if (r->token > key->top) {
		key->top = r->token;
		key->top_adopted = call->idempotent;
	}
	w->sums.grants++;
}

/* A holder who is told that there is nothing to hold. */
static void check_denied(struct world *w, const struct call *call, const struct result *r)
{
	if (call->client >= CLIENTS_MAX || !call->own_value || r->outcome != OUT_NOTFOUND)
		return;
	const struct client *c = &w->client[call->client];
	if (c->belief.key == call->key && !c->belief.passed_on && client_believes(w, c))
		violation(w, RUN_UNSAFE,
			"denied: client %u holds token %" PRIu64 " of key %u and is told NOTFOUND",
			call->client, c->belief.token, call->key);
}

/* Whoever waits for a release is told of one. To a replica a lease ends that was extended and of
 * which it has not heard yet. */
static void check_ended(struct world *w, const struct call *call)
{
	const struct lease *l = lease_of(w, call->node, call->key);
	if (is_master(w, call->node) && live(w, call->node, l) && lease_is_live(l) &&
		ballot_eq(lease_uid(l), call->waits_for))
		violation(w, RUN_UNSAFE,
			"spurious: node %u says that key %u was released, and holds token %" PRIu64
			" as before",
			call->node, call->key, l->token);
}

void check_reply(struct world *w, const struct call *call, const struct result *r)
{
	/* Not RELEASE: a copy that outlived its instance on a minority may still be released. */
	bool names_lock =
		call->kind == OP_EXTEND || call->kind == OP_UPDATE || call->kind == OP_READ_QUORUM;
	if (r->outcome == OUT_OK && call->kind == OP_LOCK)
		check_granted(w, call, r);
	else if (r->outcome == OUT_OK && names_lock && r->token < call->seen_top &&
		 !w->tokens_exempt)
		violation(w, RUN_UNSAFE,
			"old lock: kind %u of key %u done to token %" PRIu64 ", but %" PRIu64
			" was granted before it began",
			call->kind, call->key, r->token, call->seen_top);
	if (r->outcome == OUT_OK && call->kind == OP_WAITRELEASE)
		check_ended(w, call);
	if (r->outcome == OUT_OK && call->kind == OP_RELEASE)
		check_release(w, call->key, r->token);
	check_denied(w, call, r);
}
