#include "node/restart.h"

#include "base/mutant.h"
#include "core/engine.h"

void restart_init(struct restart *r, const struct restart_config *cfg)
{
	*r = (struct restart){
		.kind = cfg->kind,
		.status = NODE_QUARANTINE,
		.alone = cfg->n_masters == 1,
		.heard_ns = cfg->now_slow_ns + cfg->objections_ns,
		.ask_ns =
			cfg->now_slow_ns + engine_restart_wait_ns(cfg->attempt_ms, cfg->drift_ppm),
		.vote_ns = cfg->now_slow_ns +
			   engine_quarantine_ns(cfg->max_lease_ms, cfg->attempt_ms, cfg->drift_ppm),
		.loaded_n = cfg->loaded_n,
	};
	/* Who becomes a master has no votes of an earlier life about. But those who could tell may
	 * forget it before they do, so there is an end to its waiting, too (simulator, seed 2036).
	 */
	if (cfg->kind == RESTART_JOINED)
		r->ask_ns = cfg->now_slow_ns;
	if (MUTANT(RESTART_NO_WAIT))
		r->ask_ns = cfg->now_slow_ns;
	if (MUTANT(QUARANTINE_NONE))
		r->vote_ns = r->ask_ns;
	if (MUTANT(QUARANTINE_SHORT))
		r->vote_ns -= (r->vote_ns - r->ask_ns) / 2;
}

void restart_distrust(struct restart *r)
{
	if (r->kind == RESTART_CLEAN && !MUTANT(CLEAN_OUTDATED))
		r->kind = RESTART_EMPTY;
}

bool restart_changed(struct restart *r)
{
	bool first = r->kind == RESTART_FIRST_BOOT && r->status != NODE_ACTIVE;
	if (r->status != NODE_ACTIVE)
		restart_distrust(r);
	if (first)
		r->kind = RESTART_EMPTY;
	return first;
}

/* Nothing at or below the floor is granted, and the ceiling is durable above it before the first
 * vote. Writing it also takes back that the node stopped in good order. */
static enum restart_action vote_above(
	struct restart *r, const struct restart_news *news, uint64_t floor_n, uint64_t *ret_n)
{
	if (news->durable_n <= floor_n) {
		*ret_n = ceiling_above(floor_n > news->wall_n ? floor_n : news->wall_n);
		return RESTART_COVER;
	}
	*ret_n = MUTANT(QUARANTINE_FLOORLESS) ? 0 : floor_n;
	r->status = NODE_ACTIVE;
	return RESTART_VOTE;
}

static enum restart_action next_forgetful(
	struct restart *r, const struct restart_news *news, uint64_t *ret_n)
{
	if ((r->status == NODE_RESYNC && news->in_sync) || MUTANT(RESTART_VOTES)) {
		*ret_n = 0;
		r->status = NODE_ACTIVE;
		return RESTART_VOTE;
	}
	if (news->slow_ns >= r->vote_ns)
		return vote_above(r, news, r->loaded_n != 0 ? r->loaded_n : news->wall_n, ret_n);
	if (r->status == NODE_QUARANTINE && !r->alone && news->slow_ns >= r->ask_ns) {
		r->status = NODE_RESYNC;
		return RESTART_ASK;
	}
	return RESTART_WAIT;
}

enum restart_action restart_next(
	struct restart *r, const struct restart_news *news, uint64_t *ret_n)
{
	if (r->status == NODE_ACTIVE)
		return RESTART_WAIT;
	if (r->kind == RESTART_FIRST_BOOT) {
		if (!news->all_heard && news->slow_ns < r->heard_ns)
			return RESTART_WAIT;
		return vote_above(r, news, 0, ret_n);
	}
	/* A file may be an old copy. Any other master may be the one that knows, so all are asked;
	 * while one is away, this node goes on as if it had forgotten everything. */
	if (r->kind == RESTART_CLEAN && news->all_heard)
		return vote_above(r, news, MUTANT(CLEAN_FLOORLESS) ? 0 : r->loaded_n, ret_n);
	return next_forgetful(r, news, ret_n);
}

uint64_t restart_due_ns(const struct restart *r)
{
	if (r->status == NODE_ACTIVE)
		return UINT64_MAX;
	if (r->kind == RESTART_FIRST_BOOT)
		return r->heard_ns;
	return r->status == NODE_QUARANTINE && !r->alone ? r->ask_ns : r->vote_ns;
}
