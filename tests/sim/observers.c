/* Somebody observes every key at every node, if that is asked for. What he is told must be a life
 * that a key can have, and when nothing is on its way to him, what is there (engine_validate()). */
#include "sim.h"

#include <inttypes.h>

#define OBSERVER_TAG (UINT64_C(1) << 60)

void observers_start(struct world *w, unsigned id)
{
	struct node *n = &w->node[id];
	if (w->shard_level || !w->opt->observers)
		return;
	for (unsigned k = 0; k < w->keys; k++) {
		struct event ev = {.type = EV_OP,
			.op = {.kind = OP_OBSERVE,
				.tag = OBSERVER_TAG | k,
				.hash = w->key[k].hash,
				.key = bytes_of(w->key[k].name, 2)}};
		n->observed[k] = (struct observed_key){.fresh = true};
		engine_step(n->engine, &n->time, &ev, &w->fx);
		observers_hear(w, id);
	}
}

static bool is_life(const struct observed_key *o, const struct result *r)
{
	bool ends = r->event == OBSERVED_RELEASED || r->event == OBSERVED_EXPIRED;
	if (ends && r->token == 0)
		return o->fresh && r->event == OBSERVED_RELEASED;
	if (ends || r->event == OBSERVED_UPDATED)
		return o->token != 0 && r->token == o->token;
	if (r->event == OBSERVED_GRANTED)
		return o->token == 0 && r->token != 0;
	return !o->lost;
}

static void hear(struct world *w, unsigned id, const struct result *r)
{
	unsigned k = (unsigned)(r->tag - OBSERVER_TAG);
	struct observed_key *o = &w->node[id].observed[k];
	if (r->outcome != OUT_OK || !is_life(o, r))
		violation(w, RUN_UNSAFE,
			"observer: node %u tells of key %u event %u token %" PRIu64
			" outcome %d after token %" PRIu64,
			id, k, r->event, r->token, r->outcome, o->token);
	w->sums.observed++;
	bool held = r->event == OBSERVED_GRANTED || r->event == OBSERVED_UPDATED;
	*o = (struct observed_key){
		.token = held ? r->token : 0,
		.lost = r->event == OBSERVED_LOST,
		.fresh = r->event == OBSERVED_LOST,
	};
}

void observers_hear(struct world *w, unsigned id)
{
	unsigned kept = 0;
	for (unsigned i = 0; i < w->fx.n; i++) {
		const struct effect *f = &w->fx.v[i];
		if (f->type == FX_REPLY && f->reply.kind == OP_OBSERVE)
			hear(w, id, &f->reply);
		else if (kept++ != i)
			w->fx.v[kept - 1] = *f;
	}
	w->fx.n = kept;
}
