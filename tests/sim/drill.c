/* Drills: mixes of faults that are not drawn but made for one part of the protocol, where four or
 * five things have to come together within one attempt. One key, few clients, messages that are
 * fast, slow or lost by kind and receiver. */
#include <string.h>

#include "sim.h"

enum {
	WRITES = 1u << MSG_PREPARE | 1u << MSG_ACCEPT,
};

static unsigned some_master(struct world *w)
{
	return 1 + (unsigned)below(w, w->n);
}

static void common(struct world *w)
{
	struct swarm *s = &w->swarm;
	uint64_t attempt_ns = w->node[1].cfg.attempt_ms * MS;
	w->keys = 1;
	w->clients = 2 + (unsigned)below(w, 6);
	memset(s->weight, 0, sizeof s->weight);
	memset(s->slow_types, 0, sizeof s->slow_types);
	s->slow_type_ppm = 300000 + (unsigned)below(w, 700000);
	s->slow_from_ppm = some(w, 800000);
	s->loss_ppm = s->lost_type_ppm = s->tail_ppm = 0;
	s->midcrash_ppm = s->vote_crash_ppm = s->told_crash_ppm = 0;
	s->delay_ns = 20000 + below(w, attempt_ns / 100);
	s->jitter_ns = s->delay_ns;
	s->think_ns = attempt_ns / 100 + below(w, (2 * attempt_ns) >> below(w, 5));
	s->narrow_ppm = some(w, 1000000);
	s->homes = chance(w, 500000);
	s->even_ttl = chance(w, 500000);
	s->ttl_ms = w->node[1].cfg.attempt_ms * (1 + (uint32_t)below(w, 4));
	if (s->ttl_ms > w->node[1].cfg.max_lease_ms)
		s->ttl_ms = w->node[1].cfg.max_lease_ms;
	s->old_stream_ppm = chance(w, 500000) ? 1000000 : 0;
	s->files = true;
	s->bad_disks = s->lossy_files = false;
	s->mistake_ppm = s->back_ppm = 0;
	s->registers = false;
	s->quick_starts = true;
	s->writers = (unsigned)below(w, w->clients);
	s->heirs = chance(w, 500000);
}

/* Writers and holders of one lock, with leases of a few attempts. */
static void values(struct world *w)
{
	struct swarm *s = &w->swarm;
	for (unsigned to = 1; to <= w->nodes; to++)
		s->slow_types[to] = some_types(w);
	s->writers = 1 + (unsigned)below(w, w->clients - 1);
	s->read_percent = (unsigned)below(w, 100);
	s->weight[FAULT_CRASH] = (unsigned)below(w, 2);
	s->fault_ns = w->node[1].cfg.attempt_ms * MS * (2 + below(w, 20));
	s->slow_most_ppm = chance(w, 300000) ? 4000000 : 1000000;
}

/* Nodes that end right after they have said something, and are back at once. */
static void restarts(struct world *w)
{
	struct swarm *s = &w->swarm;
	for (unsigned to = 1; to <= w->nodes; to++)
		s->slow_types[to] = some_types(w);
	s->vote_crash_ppm = 1000 + (unsigned)below(w, 50000);
	s->told_crash_ppm = some(w, 50000);
	s->orderly_ppm = some(w, 1000000);
	s->read_percent = 20 + (unsigned)below(w, 80);
}

/* Answers are quick enough to be heard of a node that ended right after it had given them. */
static void quick_answers(struct world *w)
{
	w->swarm.delay_ns = 20000 + below(w, 200000);
	w->swarm.jitter_ns = w->swarm.delay_ns;
	w->swarm.old_stream_ppm = 1000000;
}

static uint32_t maybe(struct world *w, enum msg_type type)
{
	return chance(w, 500000) ? 1u << type : 0;
}

/* The holder's node hears of no write; who wrote may be late, or forget it again. */
static void aside(struct world *w)
{
	struct swarm *s = &w->swarm;
	quick_answers(w);
	s->lockers_home = some_master(w);
	for (unsigned to = 1; to <= w->n; to++)
		s->slow_types[to] = maybe(w, MSG_ACCEPT) | maybe(w, MSG_RELEASE);
	s->lost_types[s->lockers_home] = WRITES;
	s->lost_types_ppm = 800000 + (unsigned)below(w, 200001);
	s->writers = 1 + (unsigned)below(w, 2);
	w->clients = s->writers + 1;
	s->heirs = true;
	s->even_ttl = chance(w, 800000);
	s->read_percent = (unsigned)below(w, 20);
	s->vote_type = MSG_ACCEPT;
	s->vote_crash_ppm = some(w, 300000);
	s->orderly_ppm = 0;
}

/* Each write reaches some masters and not the others, and values come back. */
static void scattered(struct world *w)
{
	struct swarm *s = &w->swarm;
	for (unsigned to = 1; to <= w->n; to++) {
		s->slow_types[to] = some_types(w);
		s->lost_types[to] = WRITES;
	}
	s->lost_types_ppm = 100000 + (unsigned)below(w, 600000);
	s->writers = 1 + (unsigned)below(w, 3);
	w->clients = s->writers + 1 + (unsigned)below(w, 2);
	s->heirs = false;
	s->back_ppm = 200000 + (unsigned)below(w, 800000);
	s->read_percent = (unsigned)below(w, 30);
}

/* Who has promised a write ends, and has resynchronised before the write arrives anywhere. The
 * holder's node hears of no write, and goes on with its own. */
static void forgetful(struct world *w)
{
	struct swarm *s = &w->swarm;
	quick_answers(w);
	s->lockers_home = some_master(w);
	s->writers_home = w->nodes > w->n ? w->nodes : 0;
	for (unsigned to = 1; to <= w->n; to++)
		s->slow_types[to] = 1u << MSG_ACCEPT | maybe(w, MSG_PREPARE);
	s->slow_type_ppm = 700000 + (unsigned)below(w, 300001);
	s->slow_from_ppm = 300000 + (unsigned)below(w, 400000);
	s->lost_types[s->lockers_home] = WRITES;
	s->lost_types_ppm = 700000 + (unsigned)below(w, 300001);
	s->writers = 1;
	w->clients = 2 + (unsigned)below(w, 2);
	s->registers = true;
	s->ttl_ms = w->node[1].cfg.max_lease_ms;
	s->vote_type = MSG_PREPARE;
	s->vote_crash_ppm = 50000 + (unsigned)below(w, 400000);
	s->orderly_ppm = 0;
	s->read_percent = (unsigned)below(w, 100);
}

/* Who has taken a release and holds nothing stops in good order, while votes for the lock are on
 * their way to others. */
/* One change after another, while leases are long and few. */
static void members(struct world *w)
{
	struct swarm *s = &w->swarm;
	uint64_t attempt_ns = w->node[1].cfg.attempt_ms * MS;
	quick_answers(w);
	/* In some, who merges has to wait, and promises stay promises. */
	for (unsigned to = 1; to <= w->nodes; to++) {
		s->slow_types[to] = maybe(w, MSG_SYNC);
		s->lost_types[to] = 1u << MSG_CONFIRM | maybe(w, MSG_SYNC);
	}
	s->slow_type_ppm = some(w, 1000000);
	s->lost_types_ppm = some(w, 900000);
	s->homes = false;
	s->ttl_ms = w->node[1].cfg.max_lease_ms;
	s->even_ttl = chance(w, 700000);
	s->writers = chance(w, 700000) ? 0 : s->writers;
	s->read_percent = (unsigned)below(w, 50);
	s->fault_ns = attempt_ns / 4 + below(w, 2 * attempt_ns);
	s->weight[FAULT_CHANGE] = 20;
	s->weight[FAULT_RIVALS] = some(w, 5);
	s->weight[FAULT_REPLACE] = some(w, 10);
	s->weight[FAULT_STALE] = some(w, 10);
	s->weight[FAULT_CRASH] = some(w, 3);
	s->weight[FAULT_CUT] = some(w, 10);
	s->change_crash_ppm = some(w, 50000);
	s->change_masters_most = 2 + (unsigned)below(w, 4);
	s->move_ns = below(w, attempt_ns);
	s->loss_ppm = some(w, 50000);
	s->narrow_ppm = some(w, 1000000);
}

static void early_end(struct world *w)
{
	struct swarm *s = &w->swarm;
	for (unsigned to = 1; to <= w->n; to++)
		s->slow_types[to] =
			some_types(w) & (1u << MSG_TRYLOCK | 1u << MSG_RELEASE | 1u << MSG_READ);
	s->slow_types[some_master(w)] |= 1u << MSG_TRYLOCK;
	s->slow_types[some_master(w)] |= 1u << MSG_RELEASE;
	s->slow_type_ppm = 500000 + (unsigned)below(w, 500001);
	s->think_ns = w->node[1].cfg.attempt_ms * MS / (10 + below(w, 90));
	s->writers = 0;
	w->clients = 2 + (unsigned)below(w, 2);
	s->vote_type = MSG_RELEASE;
	s->vote_crash_ppm = 50000 + (unsigned)below(w, 400000);
	s->orderly_ppm = 1000000;
	s->read_percent = 50 + (unsigned)below(w, 50);
}

static const struct {
	const char *name;
	void (*shape)(struct world *w);
} drills[] = {
	[DRILL_VALUES] = {"values", values},
	[DRILL_RESTARTS] = {"restarts", restarts},
	[DRILL_ASIDE] = {"aside", aside},
	[DRILL_SCATTERED] = {"scattered", scattered},
	[DRILL_FORGETFUL] = {"forgetful", forgetful},
	[DRILL_EARLY_END] = {"early-end", early_end},
	[DRILL_MEMBERS] = {"members", members},
};

void drill_choose(struct world *w)
{
	unsigned drawn = DRILL_MEMBERS - DRILL_VALUES, dice = (unsigned)below(w, 5 * drawn);
	w->drill = dice < drawn ? (enum drill)(DRILL_VALUES + dice) : DRILL_NONE;
	if (w->drill == DRILL_NONE && w->churn && chance(w, 400000))
		w->drill = DRILL_MEMBERS;
	if (w->opt->drill != DRILL_BY_SEED)
		w->drill = w->opt->drill;
}

void drill_shape(struct world *w)
{
	if (w->drill == DRILL_NONE)
		return;
	common(w);
	drills[w->drill].shape(w);
}

enum drill drill_named(const char *name)
{
	for (unsigned i = DRILL_VALUES; i < DRILL_NONE; i++)
		if (strcmp(drills[i].name, name) == 0)
			return (enum drill)i;
	return DRILL_NONE;
}
