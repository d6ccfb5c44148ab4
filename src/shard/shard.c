#include "shard/shard.h"

#include <stdlib.h>

#include "base/check.h"
#include "base/log.h"
#include "shard/internal.h"

enum {
	MAILS_PER_LOOP = 4096,
	TICKS_PER_LOOP = 8,
	/* How soon a full ring is tried again: its reader tells nobody that it made room. */
	RING_FULL_RETRY_NS = 100 * 1000,
	/* How long rounds may take to end once no client waits for them: what was refused to a
	 * waiting LOCK should not stay behind as a lock of nobody. */
	DRAIN_ROUNDS_NS = 200 * 1000 * 1000,
	PROGRESS_NS = 50 * 1000 * 1000, /* between two reports on how far it is */
};

static unsigned control_thread(const struct shard *s)
{
	return s->cfg.threads;
}

static void carry_out(struct shard *s, const struct effect *fx)
{
	switch (fx->type) {
	case FX_SEND:
		peers_send(s, fx->send.to, fx->send.to_count, &fx->send.msg);
		break;
	case FX_REPLY:
		client_result(s, &fx->reply);
		break;
	case FX_CEILING:
		put_u64(mailbox_put(
				s->mail, control_thread(s), MAIL_RAISE_CEILING, sizeof(uint64_t)),
			fx->ceiling_n);
		break;
	}
}

void shard_step(struct shard *s, const struct event *ev)
{
	CHECK(!s->stepping);
	s->stepping = true;
	engine_step(s->engine, &s->time, ev, &s->fx);
	for (unsigned i = 0; i < s->fx.n; i++)
		carry_out(s, &s->fx.v[i]);
	s->stepping = false;
}

/* ---- mail ---- */

static void set_status(struct shard *s, const struct mail_status *to)
{
	uint8_t state = shard_state(s);
	s->status = *to;
	if (shard_state(s) != state)
		s->state_at = s->now.mclk;
}

static void status_told(struct shard *s, const struct mail_status *told)
{
	/* The same again brings news of progress, or of time. */
	bool change = told->status != s->status.status || told->floor_n != s->status.floor_n;
	set_status(s, told);
	if (!change)
		return;
	s->progress_told = false;
	struct event ev = {
		.type = EV_STATUS,
		.status = {.status = (enum node_status)told->status, .floor_n = told->floor_n},
	};
	shard_step(s, &ev);
}

static struct engine_members members_of(const struct shard *s)
{
	const struct membership *m = &s->cfg.members;
	struct engine_members ret = {
		.masters_epoch = m->masters_epoch,
		.n_masters = m->n_masters,
		.joined = m->joined,
		.departed = m->departed,
		.replica = membership_role(m, s->cfg.engine.self) == ROLE_REPLICA,
		.since = membership_since(m, s->cfg.engine.self),
	};
	for (unsigned i = 0; i < m->n_masters; i++)
		ret.masters[i] = m->masters[i].id;
	return ret;
}

/* The engine hears of the change before it hears of links that are none any more in the new epoch:
 * then it knows why its rounds have to begin again. */
static void config_told(struct shard *s, const struct membership *told)
{
	peers_close_frames(s);
	s->cfg.members = *told;
	s->progress_told = false;
	struct event ev = {.type = EV_CONFIG, .members = members_of(s)};
	shard_step(s, &ev);
	peers_config_changed(s);
	/* A master that begins anew does so by itself; it is told how to go on. */
	struct engine_stats stats;
	engine_stats(s->engine, &stats);
	if (stats.status != s->status.status)
		set_status(s, &(struct mail_status){.status = (uint8_t)stats.status});
	put_u64(mailbox_put(s->mail, control_thread(s), MAIL_CONFIG_DONE, sizeof(uint64_t)),
		told->epoch);
}

/* About the configuration and who follows it; false: about something else. */
static bool control_told_members(struct shard *s, uint16_t type, const void *body, size_t bytes)
{
	switch (type) {
	case MAIL_CONFIG:
		CHECK(bytes == sizeof(struct membership));
		config_told(s, body);
		return true;
	case MAIL_PEER_EPOCH:
		CHECK(bytes == sizeof(struct mail_peer_epoch));
		peers_epoch_told(s, body);
		return true;
	case MAIL_SETTLED:
		CHECK(bytes == sizeof(uint64_t));
		if (get_u64(body) == s->cfg.members.masters_epoch)
			shard_step(s, &(struct event){.type = EV_SETTLED});
		return true;
	case MAIL_CHANGE:
		CHECK(bytes == sizeof s->change);
		memcpy(&s->change, body, sizeof s->change);
		s->change.text[sizeof s->change.text - 1] = '\0';
		return true;
	case MAIL_CONFIG_OUT:
		peers_config_out(s, body, bytes);
		return true;
	case MAIL_SETNODES_DONE:
		CHECK(bytes == sizeof(struct mail_setnodes_done));
		client_setnodes_done(s, body);
		return true;
	default:
		return false;
	}
}

static void control_told(struct shard *s, uint16_t type, const void *body, size_t bytes)
{
	if (control_told_members(s, type, body, bytes))
		return;
	switch (type) {
	case MAIL_ADOPT:
		CHECK(bytes == sizeof(struct mail_adopt));
		peers_adopt(s, body);
		break;
	case MAIL_STATUS:
		CHECK(bytes == sizeof(struct mail_status));
		status_told(s, body);
		break;
	case MAIL_CEILING:
		CHECK(bytes == sizeof(uint64_t));
		shard_step(s, &(struct event){.type = EV_CEILING, .ceiling_n = get_u64(body)});
		break;
	case MAIL_DRAIN:
		s->draining = true;
		break;
	default:
		CHECK(!"mail of a known type");
	}
}

static void deliver(struct shard *s, unsigned from, uint16_t type, const void *body, size_t bytes)
{
	switch (type) {
	case MAIL_OP:
	case MAIL_RESULT:
	case MAIL_CANCEL:
		client_mail(s, from, type, body, bytes);
		break;
	case MAIL_GATHER:
	case MAIL_GATHERED:
		gather_mail(s, from, type, body, bytes);
		break;
	case MAIL_PEER_OUT:
	case MAIL_PEER_IN:
	case MAIL_PEER_LINK:
		peers_mail(s, from, type, body, bytes);
		break;
	default:
		control_told(s, type, body, bytes);
	}
}

static void read_mail(struct shard *s)
{
	const void *body;
	unsigned from;
	uint16_t type;
	size_t bytes;

	for (unsigned i = 0; i < MAILS_PER_LOOP; i++) {
		body = mailbox_next(s->mail, &from, &type, &bytes);
		if (body == NULL)
			break;
		deliver(s, from, type, body, bytes);
	}
}

static bool same_progress(const struct mail_progress *a, const struct mail_progress *b)
{
	return a->slots_voting == b->slots_voting && a->in_sync == b->in_sync &&
	       a->slots_in_sync == b->slots_in_sync && a->synced_epoch == b->synced_epoch &&
	       a->lag_ns == b->lag_ns && a->leases == b->leases && a->shadows == b->shadows &&
	       a->staged == b->staged && a->full == b->full;
}

/* A master that is active and in sync has nothing to tell until something changes: the control
 * thread, which is behind such changes, is told at once. */
static bool progress_wanted(const struct shard *s)
{
	return s->status.status != NODE_ACTIVE || !s->progress_told ||
	       s->progress.synced_epoch != s->cfg.members.masters_epoch;
}

/* How far a resynchronisation, a sync after a change or a copy has come; the control thread adds
 * up. */
static void report_progress(struct shard *s)
{
	struct engine_stats e;
	engine_stats(s->engine, &e);
	struct mail_progress p = {
		.slots_voting = e.slots_voting,
		.in_sync = e.slots_voting == e.slots && !e.healing,
		.slots_in_sync = e.slots_in_sync,
		.synced_epoch = e.synced_epoch,
		.lag_ns = e.lag_ns,
		.leases = e.leases,
		.shadows = e.shadows,
		.staged = e.staged,
		.full = e.sync_full,
	};
	bool soon = s->now.mclk < s->progress_at && p.in_sync == s->progress.in_sync &&
		    p.synced_epoch == s->progress.synced_epoch;
	if (s->progress_told && (soon || same_progress(&p, &s->progress)))
		return;
	s->progress_told = true;
	s->progress = p;
	s->progress_at = s->now.mclk + PROGRESS_NS;
	memcpy(mailbox_put(s->mail, control_thread(s), MAIL_PROGRESS, sizeof p), &p, sizeof p);
}

/* ---- what the world calls ---- */

static void on_collect(void *self)
{
	struct shard *s = self;
	mailbox_collect(s->mail);
}

static void take_clocks(struct shard *s, const struct clocks *now)
{
	s->now = *now;
	s->time = (struct engine_time){
		.slow_ns = now->slow, .fast_ns = now->fast, .wall_us = now->wall_us};
}

static void on_begin(void *self, const struct clocks *now)
{
	struct shard *s = self;
	s->worked = false;
	take_clocks(s, now);
}

/* The world flushes after work(): a frame begun later in the same loop would go out half. */
static void after_event(struct shard *s)
{
	if (s->worked)
		peers_finish_loop(s);
}

static int on_open(void *self, struct link *link)
{
	struct shard *s = self;
	int r = link->kind == LINK_CLIENT ? client_open(s, link) : 0;
	after_event(s);
	return r;
}

static ssize_t on_data(void *self, struct link *link, const uint8_t *data, size_t len)
{
	struct shard *s = self;
	ssize_t used = link->kind == LINK_CLIENT ? client_data(s, link, data, len)
						 : peers_data(s, link, data, len);
	after_event(s);
	return used;
}

static void on_close(void *self, struct link *link)
{
	struct shard *s = self;
	if (link->kind == LINK_CLIENT)
		client_close(s, link);
	else
		peers_close(s, link);
	after_event(s);
}

static bool rounds_ended(struct shard *s)
{
	struct engine_stats stats;
	engine_stats(s->engine, &stats);
	if (stats.ops == 0)
		return true;
	if (s->drain_until_mclk == 0)
		s->drain_until_mclk = s->now.mclk + DRAIN_ROUNDS_NS;
	return s->now.mclk >= s->drain_until_mclk;
}

static void drain(struct shard *s)
{
	if (!clients_drain(s) || s->drained || !rounds_ended(s))
		return;
	if (mailbox_has_mail(s->mail) || mailbox_unsent(s->mail) || !peers_flushed(s))
		return;
	(void)mailbox_put(s->mail, control_thread(s), MAIL_DRAINED, 0);
	s->drained = true;
}

static void on_work(void *self)
{
	struct shard *s = self;

	read_mail(s);
	for (unsigned i = 0; i < TICKS_PER_LOOP && engine_wait_ns(s->engine, &s->time) == 0; i++)
		shard_step(s, &(struct event){.type = EV_TICK});
	clients_work(s);
	if (progress_wanted(s))
		report_progress(s);
	if (s->draining)
		drain(s);
	peers_finish_loop(s);
	s->worked = true;
}

static void wake(void *arg, unsigned thread)
{
	struct shard *s = arg;
	s->env->ops->wake(s->env, thread);
}

static void on_publish(void *self)
{
	struct shard *s = self;
	mailbox_publish(s->mail, wake, s);
}

static uint64_t min_u64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static uint64_t on_wait_ns(void *self)
{
	const struct shard *s = self;

	if (mailbox_has_mail(s->mail))
		return 0;
	uint64_t wait = engine_wait_ns(s->engine, &s->time);
	wait = min_u64(wait, peers_wait_ns(s));
	wait = min_u64(wait, clients_wait_ns(s));
	if (s->drain_until_mclk > s->now.mclk)
		wait = min_u64(wait, s->drain_until_mclk - s->now.mclk);
	return mailbox_unsent(s->mail) ? min_u64(wait, RING_FULL_RETRY_NS) : wait;
}

static bool on_sleep(void *self)
{
	struct shard *s = self;
	return mailbox_sleep(s->mail);
}

static void on_awake(void *self)
{
	struct shard *s = self;
	mailbox_awake(s->mail);
}

static bool on_has_mail(void *self)
{
	const struct shard *s = self;
	return mailbox_has_mail(s->mail);
}

struct env_handler shard_handler(struct shard *s)
{
	return (struct env_handler){
		.self = s,
		.collect = on_collect,
		.begin = on_begin,
		.open = on_open,
		.data = on_data,
		.close = on_close,
		.work = on_work,
		.publish = on_publish,
		.wait_ns = on_wait_ns,
		.sleep = on_sleep,
		.awake = on_awake,
		.has_mail = on_has_mail,
	};
}

bool shard_holds_nothing(const struct shard *s, uint64_t *ret_top_n)
{
	return engine_holds_nothing(s->engine, ret_top_n);
}

/* ---- life ---- */

struct shard *shard_new(const struct shard_config *cfg, struct env *env, struct mailbox *mail,
	const struct clocks *now, void *memory, size_t memory_bytes)
{
	CHECK(cfg->index < cfg->threads && cfg->threads <= THREADS_MAX);
	CHECK(cfg->engine.threads == cfg->threads && cfg->engine.shard == cfg->index);
	struct shard *s = calloc(1, sizeof *s);
	if (s == NULL)
		return NULL;
	s->cfg = *cfg;
	s->env = env;
	s->mail = mail;
	s->started_mclk = now->mclk;
	/* As the engine begins; the control thread tells what follows. */
	s->status.status = NODE_QUARANTINE;
	s->state_at = now->mclk;
	take_clocks(s, now);
	s->engine = engine_init(&s->cfg.engine, &s->time, memory, memory_bytes);
	s->peers = peers_new(s);
	s->clients = clients_new(s);
	if (s->engine == NULL || s->peers == NULL || s->clients == NULL) {
		shard_free(s);
		return NULL;
	}
	return s;
}

void shard_free(struct shard *s)
{
	if (s == NULL)
		return;
	if (s->clients != NULL)
		clients_free(s);
	if (s->peers != NULL)
		peers_free(s);
	free(s);
}
