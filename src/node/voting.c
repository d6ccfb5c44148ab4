/* What this node is, and when it votes: restart.h carried out, and what people and the other nodes
 * are told of it. */
#include "node/internal.h"

#include <string.h>

#include "base/log.h"

enum {
	RESYNC_REPORT_MS = 1000,
	SPREAD_MS = 100,
	/* A first boot votes as soon as it has heard all other masters, or those that are there
	 * have had time to dial it: one that knows better says so then. */
	OBJECTIONS_MS = PEERING_BACKOFF_MAX_MS + 500,
};

/* ---- what the shards report, added up ---- */

static struct mail_progress progress_sum(const struct node *n)
{
	struct mail_progress sum = {0};
	for (unsigned i = 0; i < n->cfg.threads; i++) {
		const struct mail_progress *p = &n->progress[i];
		sum.slots_voting = (uint16_t)(sum.slots_voting + p->slots_voting);
		sum.slots_in_sync = (uint16_t)(sum.slots_in_sync + p->slots_in_sync);
		sum.lag_ns = p->lag_ns > sum.lag_ns ? p->lag_ns : sum.lag_ns;
		sum.leases += p->leases;
		sum.shadows += p->shadows;
		sum.staged += p->staged;
		sum.full += p->full;
	}
	return sum;
}

uint16_t voting_slots_in_sync(const struct node *n)
{
	return progress_sum(n).slots_in_sync;
}

uint64_t voting_synced_epoch(const struct node *n)
{
	uint64_t epoch = n->progress[0].synced_epoch;
	for (unsigned i = 1; i < n->cfg.threads; i++)
		if (n->progress[i].synced_epoch != epoch)
			return 0;
	return epoch;
}

/* What a shard told before it acted by the configuration was about another one. */
static bool in_sync(const struct node *n)
{
	for (unsigned i = 0; i < n->cfg.threads; i++)
		if (n->moved[i] != n->self.config.epoch || !n->progress[i].in_sync)
			return false;
	return true;
}

static bool all_masters_heard(const struct node *n)
{
	const struct membership *m = &n->self.config;
	for (unsigned i = 0; i < m->n_masters; i++)
		if (m->masters[i].id != n->self.node && !n->heard[m->masters[i].id])
			return false;
	return true;
}

/* ---- what the shards are told ---- */

static uint32_t lag_ms(uint64_t lag_ns)
{
	return lag_ns / MS < UINT32_MAX ? (uint32_t)(lag_ns / MS) : UINT32_MAX;
}

static void fill_progress(const struct node *n, struct mail_status *m)
{
	struct mail_progress p = progress_sum(n);
	bool replica = m->status == NODE_REPLICA;
	bool syncs = replica || m->status == NODE_ACTIVE || m->status == NODE_RESYNC;
	m->slots_voting = m->status == NODE_ACTIVE   ? (uint16_t)n->cfg.slots
			  : m->status == NODE_RESYNC ? p.slots_voting
						     : 0;
	m->slots_in_sync = syncs ? p.slots_in_sync : 0;
	m->lag_ms = replica ? lag_ms(p.lag_ns) : 0;
}

static void tell_status(
	struct node *n, enum node_status status, uint64_t floor_n, uint64_t until_mclk)
{
	n->status_told = (struct mail_status){
		.status = (uint8_t)status, .floor_n = floor_n, .until_mclk = until_mclk};
	fill_progress(n, &n->status_told);
	n->self.status = (uint8_t)status;
	control_tell_all(n, MAIL_STATUS, &n->status_told, sizeof n->status_told);
}

static bool to_spread(const struct node *n)
{
	struct mail_status m = n->status_told;
	if (m.status == 0)
		return false;
	fill_progress(n, &m);
	return m.slots_voting != n->status_told.slots_voting ||
	       m.slots_in_sync != n->status_told.slots_in_sync || m.lag_ms != n->status_told.lag_ms;
}

/* The other nodes show how far it is; that it has come to its end is not kept waiting. */
static void spread_progress(struct node *n, const struct clocks *now)
{
	bool whole = voting_slots_in_sync(n) == n->cfg.slots &&
		     n->status_told.slots_in_sync != n->cfg.slots;
	if ((now->mclk < n->spread_at && !whole) || !to_spread(n))
		return;
	n->spread_at = now->mclk + SPREAD_MS * MS;
	fill_progress(n, &n->status_told);
	control_tell_all(n, MAIL_STATUS, &n->status_told, sizeof n->status_told);
}

/* ---- a master ---- */

static void log_active(const struct node *n, uint64_t floor_n, const struct clocks *now)
{
	static const char *const reasons[] = {[RESTART_FIRST_BOOT] = "first boot",
		[RESTART_CLEAN] = "it had stopped in good order and held nothing"};
	struct mail_progress p = progress_sum(n);
	bool waited = now->slow >= n->restart.vote_ns;
	if (n->restart.kind == RESTART_FIRST_BOOT ||
		(n->restart.kind == RESTART_CLEAN && floor_n != 0 && !waited)) {
		log_info("active: this node votes (%s)", reasons[n->restart.kind]);
	} else if (floor_n == 0) {
		log_info("active: this node votes and is in sync, %.1f s after it began to ask: "
			 "%llu leases, %llu keys that somebody may hold",
			(double)(now->mclk - n->asked_at) / (double)SEC,
			(unsigned long long)p.leases, (unsigned long long)p.shadows);
	} else {
		log_info("active: this node votes; whatever it may have forgotten has ended");
		if (!n->file_loaded)
			log_warn("no state file tells the last ballot: tokens go on from the wall "
				 "clock, %llu",
				(unsigned long long)floor_n);
	}
}

/* 0: not before it is in sync. */
static uint64_t vote_by_mclk(const struct node *n, const struct clocks *now)
{
	uint64_t at = n->restart.vote_ns;
	if (n->restart.kind == RESTART_JOINED)
		return 0;
	return now->mclk + (at > now->slow ? at - now->slow : 0);
}

static void begin_to_vote(struct node *n, uint64_t floor_n, const struct clocks *now)
{
	tell_status(n, NODE_ACTIVE, floor_n, 0);
	n->self.after_inc = 0;
	log_active(n, floor_n, now);
}

static void begin_to_ask(struct node *n, const struct clocks *now)
{
	n->asked_at = now->mclk;
	n->report_at = now->mclk + RESYNC_REPORT_MS * MS;
	tell_status(n, NODE_RESYNC, 0, vote_by_mclk(n, now));
	log_info("resync: asking the other masters what %s%s",
		n->restart.kind == RESTART_JOINED ? "they hold" : "this node may have forgotten",
		n->restart.kind == RESTART_CLEAN
			? ", for not all of them are there to confirm that it is nothing"
			: "");
}

static void report_quarantine(struct node *n, const struct clocks *now)
{
	uint64_t due_ns = restart_due_ns(&n->restart);
	uint64_t left = due_ns > now->slow ? due_ns - now->slow : 0;
	n->report_at = now->mclk + REPORT_MS * MS;
	tell_status(n, NODE_QUARANTINE, 0, now->mclk + left);
	if (n->restart.kind == RESTART_EMPTY)
		log_info("quarantine: this node coordinates, and %s in %.1f s",
			n->restart.alone ? "votes" : "asks the other masters for their leases",
			(double)left / (double)SEC);
}

static void report_resync(struct node *n, const struct clocks *now)
{
	struct mail_progress p = progress_sum(n);
	char latest[64] = "";
	if (n->restart.kind != RESTART_JOINED)
		(void)snprintf(latest, sizeof latest, "; at the latest in %.0f s all vote",
			(double)(vote_by_mclk(n, now) - now->mclk) / (double)SEC);
	n->report_at = now->mclk + RESYNC_REPORT_MS * MS;
	log_info("resync: %u of %u slots vote, %llu leases here, %llu being taken over%s%s",
		p.slots_voting, n->cfg.slots, (unsigned long long)p.leases,
		(unsigned long long)p.staged,
		p.full != 0 ? ", NO ROOM for more (raise --max-leases)" : "", latest);
}

static void serve_restart(struct node *n, const struct clocks *now)
{
	struct restart_news news = {
		.slow_ns = now->slow,
		.wall_n = node_wall_n(),
		.durable_n = n->durable_n,
		.all_heard = all_masters_heard(n),
		.in_sync = in_sync(n),
	};
	uint64_t arg_n = 0;
	enum restart_action action = restart_next(&n->restart, &news, &arg_n);
	if (action == RESTART_COVER) {
		if (!durable_ceiling(n, arg_n, now->mclk))
			return;
		news.durable_n = n->durable_n;
		action = restart_next(&n->restart, &news, &arg_n);
	}
	if (action == RESTART_VOTE)
		begin_to_vote(n, arg_n, now);
	else if (action == RESTART_ASK)
		begin_to_ask(n, now);
	else if (n->restart.status == NODE_RESYNC && now->mclk >= n->report_at)
		report_resync(n, now);
	else if (n->restart.status == NODE_QUARANTINE && now->mclk >= n->report_at)
		report_quarantine(n, now);
}

void voting_serve(struct node *n, const struct clocks *now)
{
	bool restarting = n->role == ROLE_MASTER && n->restart.status != NODE_ACTIVE;
	/* Whoever remembers another life of this node need not any more. */
	if (n->role == ROLE_MASTER && now->slow >= n->restart.vote_ns)
		n->self.first_boot = false;
	if (restarting && !configuration_pending(n))
		serve_restart(n, now);
	spread_progress(n, now);
}

uint64_t voting_wait_ns(const struct node *n, const struct clocks *now)
{
	uint64_t wait = UINT64_MAX;
	if (to_spread(n))
		wait = n->spread_at > now->mclk ? n->spread_at - now->mclk : 0;
	if (n->role != ROLE_MASTER || n->restart.status == NODE_ACTIVE)
		return wait;
	uint64_t due = restart_due_ns(&n->restart);
	uint64_t left = due > now->slow ? due - now->slow : RETRY_MS * MS;
	wait = left < wait ? left : wait;
	left = n->report_at > now->mclk ? n->report_at - now->mclk : RETRY_MS * MS;
	return left < wait ? left : wait;
}

/* ---- roles ---- */

static void begin_restart(struct node *n, enum restart_kind kind, const struct clocks *now)
{
	const struct restart_config cfg = {
		.kind = kind,
		.now_slow_ns = now->slow,
		.objections_ns = OBJECTIONS_MS * MS,
		.max_lease_ms = n->cfg.max_lease_ms,
		.attempt_ms = n->cfg.attempt_ms,
		.drift_ppm = n->cfg.drift_ppm,
		.n_masters = n->self.config.n_masters,
		.loaded_n =
			kind == RESTART_JOINED && n->has_file ? n->durable_n : n->loaded_ceiling_n,
	};
	restart_init(&n->restart, &cfg);
	n->self.status = NODE_QUARANTINE;
}

static void tell_no_master(struct node *n)
{
	n->self.first_boot = false;
	n->self.after_inc = 0;
	tell_status(n, n->role == ROLE_REPLICA ? NODE_REPLICA : NODE_NONMEMBER, 0, 0);
}

void voting_init(struct node *n, const struct clocks *now)
{
	n->role = membership_role(&n->self.config, n->self.node);
	if (n->role == ROLE_MASTER) {
		begin_restart(n,
			n->self.first_boot       ? RESTART_FIRST_BOOT
			: n->self.after_inc != 0 ? RESTART_CLEAN
						 : RESTART_EMPTY,
			now);
		return;
	}
	tell_no_master(n);
	log_info("not one of the masters: this node coordinates%s and does not vote",
		n->role == ROLE_REPLICA ? ", copies what they hold," : "");
}

static void become_master(struct node *n, const struct clocks *now)
{
	n->self.first_boot = false;
	begin_restart(n, RESTART_JOINED, now);
	/* What the shards were told before is no news any more. */
	tell_status(n, NODE_QUARANTINE, 0, 0);
	log_info(
		"this node is a master from configuration %llu on: it votes when it knows what the "
		"others hold",
		(unsigned long long)n->self.config.epoch);
}

static void stay_master(struct node *n)
{
	n->restart.alone = n->self.config.n_masters == 1;
	if (!restart_changed(&n->restart))
		return;
	n->self.first_boot = false;
	log_warn("not the first boot: this cluster has changed since; waiting as after a loss of "
		 "memory");
}

void voting_role(struct node *n, const struct membership *was, const struct clocks *now)
{
	enum role before = n->role;
	const struct membership *m = &n->self.config;
	n->role = membership_role(m, n->self.node);
	if (n->role == ROLE_MASTER) {
		/* It may have been away from the masters in epochs that it has not seen. */
		bool again = membership_since(m, n->self.node) > was->epoch;
		if (before != ROLE_MASTER || again)
			become_master(n, now);
		else
			stay_master(n);
		return;
	}
	if (before == n->role)
		return;
	tell_no_master(n);
	const char *what = n->role == ROLE_REPLICA ? "copies what the masters hold"
						   : "coordinates for its clients and nothing else";
	if (before == ROLE_MASTER)
		log_info("this node is a master no more: it has stopped voting, and %s", what);
	else
		log_info("this node %s from now on", what);
}

void voting_outdated(struct node *n, const char *reason, const struct clocks *now)
{
	if (n->role != ROLE_MASTER || n->restart.status == NODE_ACTIVE)
		return;
	log_warn("%s: waiting as after a loss of memory", reason);
	restart_distrust(&n->restart);
	members_forget(n->members, now->mclk); /* it is an old copy in this, too */
}
