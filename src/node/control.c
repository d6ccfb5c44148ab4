/* The control thread: signals, peer handshakes, the state file, when this node may vote, the end.
 */
#include "node/internal.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/check.h"
#include "base/log.h"

#define MS  UINT64_C(1000000)
#define SEC UINT64_C(1000000000)

enum {
	DRAIN_MS = 1500, /* then threads end whatever is left; the whole stop takes at most 2 s */
	STOP_MS = 1900,
	RETRY_MS = 1000, /* after a failed write of the state file */
	REPORT_MS = 10000,
	RESYNC_REPORT_MS = 1000,
	SPREAD_MS = 100,
	/* A first boot votes as soon as it has heard all other masters, or those that are there
	 * have had time to dial it: one that knows better says so then. */
	OBJECTIONS_MS = PEERING_BACKOFF_MAX_MS + 500,
	MAIL_PER_TURN = 1024,
	POLL_SIGNALS = 0,
	POLL_WAKE = 1,
	POLL_PEERING = 2,
	POLL_MAX = POLL_PEERING + PEERING_POLL_MAX,
};

static struct clocks clocks(struct node *n)
{
	struct clocks now;
	io_clock_read(&n->clock, &now);
	return now;
}

static void tell_all(struct node *n, uint16_t type, const void *body, size_t bytes)
{
	for (unsigned i = 0; i < n->cfg.threads; i++) {
		void *to = mailbox_put(n->mail, i, type, bytes);
		if (bytes != 0)
			memcpy(to, body, bytes);
	}
}

static void tell_status(struct node *n, enum node_status status, uint64_t floor_n,
	uint64_t until_mclk, uint16_t slots)
{
	struct mail_status m = {.status = (uint8_t)status,
		.floor_n = floor_n,
		.until_mclk = until_mclk,
		.slots_voting = slots};
	n->self.status = (uint8_t)status;
	tell_all(n, MAIL_STATUS, &m, sizeof m);
}

/* ---- the ballot ceiling ---- */

/* Make @ceiling_n durable and tell the shards; false: not now, retry_at says when again. The
 * shards hear of nothing that is not on disk. */
static bool raise_ceiling(struct node *n, uint64_t ceiling_n, uint64_t now_mclk)
{
	if (n->has_file && ceiling_n > n->durable_n) {
		if (now_mclk < n->retry_at)
			return false;
		struct state s = n->state;
		s.ceiling_n = ceiling_n;
		int r = state_file_write(&n->file, &s);
		if (r != 0) {
			n->retry_at = now_mclk + RETRY_MS * MS;
			if (n->failure_said_at == 0 ||
				now_mclk - n->failure_said_at >= REPORT_MS * MS) {
				n->failure_said_at = now_mclk;
				log_error("cannot write %s: %s; trying every second, new locks "
					  "wait for it",
					n->file.path, strerror(-r));
			}
			return false;
		}
		if (n->failure_said_at != 0)
			log_info("%s is written again", n->file.path);
		n->failure_said_at = 0;
		n->state = s;
		n->durable_n = ceiling_n;
	}
	tell_all(n, MAIL_CEILING, &n->durable_n, sizeof n->durable_n);
	return true;
}

static void serve_ceiling(struct node *n, uint64_t now_mclk)
{
	/* Ahead of the wall clock also while nothing is locked: the first lock after an idle hour
	 * is not to wait for a disk. */
	bool voting = n->has_file && n->self.status == NODE_ACTIVE;
	if (voting && n->asked_n == 0 && n->durable_n < node_wall_n() + CEILING_STEP_N / 2)
		n->asked_n = node_wall_n();
	if (n->asked_n == 0)
		return;
	uint64_t want = ceiling_above(node_wall_n());
	if (want < n->asked_n)
		want = n->asked_n;
	if (raise_ceiling(n, want < BALLOT_MAX ? want : BALLOT_MAX, now_mclk))
		n->asked_n = 0;
}

/* ---- when to vote ---- */

static bool all_masters_heard(const struct node *n)
{
	for (unsigned i = 0; i < n->self.n_masters; i++)
		if (n->self.masters[i] != n->self.node && !n->heard[n->self.masters[i]])
			return false;
	return true;
}

static uint16_t slots_voting(const struct node *n)
{
	unsigned sum = 0;
	for (unsigned i = 0; i < n->cfg.threads; i++)
		sum += n->progress[i].slots_voting;
	return (uint16_t)sum;
}

static bool in_sync(const struct node *n)
{
	bool all = true;
	for (unsigned i = 0; i < n->cfg.threads; i++)
		all = all && n->progress[i].in_sync;
	return all;
}

static struct mail_progress progress_sum(const struct node *n)
{
	struct mail_progress sum = {0};
	for (unsigned i = 0; i < n->cfg.threads; i++) {
		const struct mail_progress *p = &n->progress[i];
		sum.leases += p->leases;
		sum.shadows += p->shadows;
		sum.staged += p->staged;
		sum.full += p->full;
	}
	return sum;
}

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

static uint64_t vote_by_mclk(const struct node *n, const struct clocks *now)
{
	uint64_t at = n->restart.vote_ns;
	return now->mclk + (at > now->slow ? at - now->slow : 0);
}

static void begin_to_vote(struct node *n, uint64_t floor_n, const struct clocks *now)
{
	tell_status(n, NODE_ACTIVE, floor_n, 0, n->self.slots);
	n->self.after_inc = 0;
	log_active(n, floor_n, now);
}

static void begin_to_ask(struct node *n, const struct clocks *now)
{
	n->asked_at = now->mclk;
	n->report_at = now->mclk + RESYNC_REPORT_MS * MS;
	tell_status(n, NODE_RESYNC, 0, vote_by_mclk(n, now), 0);
	log_info("resync: asking the other masters what this node may have forgotten%s",
		n->restart.kind == RESTART_CLEAN
			? ", for not all of them are there to confirm that it is nothing"
			: "");
}

static void report_quarantine(struct node *n, const struct clocks *now)
{
	uint64_t due_ns = restart_due_ns(&n->restart);
	uint64_t left = due_ns > now->slow ? due_ns - now->slow : 0;
	n->report_at = now->mclk + REPORT_MS * MS;
	tell_status(n, NODE_QUARANTINE, 0, now->mclk + left, 0);
	if (n->restart.kind == RESTART_EMPTY)
		log_info("quarantine: this node coordinates, and %s in %.1f s",
			n->restart.alone ? "votes" : "asks the other masters for their leases",
			(double)left / (double)SEC);
}

static void report_resync(struct node *n, const struct clocks *now)
{
	struct mail_progress p = progress_sum(n);
	n->report_at = now->mclk + RESYNC_REPORT_MS * MS;
	log_info("resync: %u of %u slots vote, %llu leases here, %llu being taken over%s; at the "
		 "latest in %.0f s all vote",
		slots_voting(n), n->self.slots, (unsigned long long)p.leases,
		(unsigned long long)p.staged,
		p.full != 0 ? ", NO ROOM for more (raise --max-leases)" : "",
		(double)(vote_by_mclk(n, now) - now->mclk) / (double)SEC);
}

/* The other nodes show how far it is. */
static void spread_progress(struct node *n, const struct clocks *now)
{
	uint16_t slots = slots_voting(n);
	if (slots == n->slots_told || now->mclk < n->spread_at)
		return;
	n->slots_told = slots;
	n->spread_at = now->mclk + SPREAD_MS * MS;
	tell_status(n, NODE_RESYNC, 0, vote_by_mclk(n, now), slots);
}

static void serve_status(struct node *n, const struct clocks *now)
{
	/* Whoever remembers another life of this node need not any more. */
	if (now->slow >= n->restart.vote_ns)
		n->self.first_boot = false;
	if (!n->cfg.is_master || n->restart.status == NODE_ACTIVE)
		return;
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
		if (!raise_ceiling(n, arg_n, now->mclk))
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
	if (n->restart.status == NODE_RESYNC)
		spread_progress(n, now);
}

void control_init(struct node *n)
{
	struct clocks now = clocks(n);
	const struct restart_config cfg = {
		.kind = n->self.first_boot       ? RESTART_FIRST_BOOT
			: n->self.after_inc != 0 ? RESTART_CLEAN
						 : RESTART_EMPTY,
		.now_slow_ns = now.slow,
		.objections_ns = OBJECTIONS_MS * MS,
		.max_lease_ms = n->cfg.max_lease_ms,
		.attempt_ms = n->cfg.attempt_ms,
		.drift_ppm = n->cfg.drift_ppm,
		.n_masters = n->cfg.n_masters,
		.loaded_n = n->loaded_ceiling_n,
	};
	restart_init(&n->restart, &cfg);
	n->self.status = NODE_QUARANTINE;
	if (!n->cfg.is_master) {
		log_info("not one of the masters: this node coordinates and does not vote");
		tell_status(n, NODE_NONMEMBER, 0, 0, 0);
	}
}

/* ---- mail ---- */

static void adopt(void *arg, const struct mail_adopt *link)
{
	struct node *n = arg;
	CHECK(link->link_index < n->cfg.threads);
	memcpy(mailbox_put(n->mail, link->link_index, MAIL_ADOPT, sizeof *link), link,
		sizeof *link);
}

static void fatal(void *arg, const char *reason)
{
	struct node *n = arg;
	if (n->done)
		return;
	log_error("stopping: %s", reason);
	n->done = true;
	n->exit_status = 1;
}

static void outdated(void *arg, const char *reason)
{
	struct node *n = arg;
	if (n->restart.kind != RESTART_CLEAN || n->restart.status == NODE_ACTIVE)
		return;
	log_warn("%s: waiting as after a loss of memory", reason);
	restart_distrust(&n->restart);
}

struct peering_hooks control_hooks(struct node *n)
{
	return (struct peering_hooks){
		.arg = n, .adopt = adopt, .fatal = fatal, .outdated = outdated};
}

static void take_mail(struct node *n)
{
	unsigned from = 0;
	uint16_t type = 0;
	size_t bytes = 0;
	const void *body = NULL;
	for (unsigned i = 0; i < MAIL_PER_TURN; i++) {
		body = mailbox_next(n->mail, &from, &type, &bytes);
		if (body == NULL)
			return;
		if (type == MAIL_RAISE_CEILING) {
			uint64_t asked = 0;
			CHECK(bytes == sizeof asked);
			memcpy(&asked, body, sizeof asked);
			if (asked > n->asked_n)
				n->asked_n = asked;
		} else if (type == MAIL_LINK_DOWN) {
			struct mail_link link;
			CHECK(bytes == sizeof link);
			memcpy(&link, body, sizeof link);
			peering_link_down(n->peering, &link);
		} else if (type == MAIL_LINK_HEARD) {
			struct mail_link link;
			CHECK(bytes == sizeof link);
			memcpy(&link, body, sizeof link);
			n->heard[link.node] = true;
		} else if (type == MAIL_PROGRESS) {
			CHECK(bytes == sizeof n->progress[from]);
			CHECK(from < n->cfg.threads);
			memcpy(&n->progress[from], body, sizeof n->progress[from]);
		} else if (type == MAIL_DRAINED) {
			n->drained++;
		}
	}
}

/* ---- the end ---- */

static void take_signals(struct node *n)
{
	struct signalfd_siginfo info;
	while (read(n->signal_fd, &info, sizeof info) == sizeof info) {
		if (n->draining) {
			log_warn("second signal: leaving at once");
			_exit(130);
		}
		log_info("%s: draining", info.ssi_signo == SIGINT ? "SIGINT" : "SIGTERM");
		n->draining = true;
		n->drain_until = clocks(n).mclk + DRAIN_MS * MS;
		tell_all(n, MAIL_DRAIN, NULL, 0);
	}
}

static void check_end(struct node *n, const struct clocks *now)
{
	for (unsigned i = 0; i < n->cfg.threads; i++) {
		struct shard_thread *t = &n->threads[i];
		if (!atomic_load_explicit(&t->ended, memory_order_acquire))
			continue;
		log_error("thread %u ended: %s", i,
			t->result == 0 ? "unasked" : strerror(-t->result));
		n->done = true;
		n->exit_status = 1;
	}
	if (n->draining && n->drained >= n->cfg.threads)
		n->done = true;
	if (n->draining && now->mclk >= n->drain_until && !n->done) {
		log_warn("not everything was answered within %d ms", DRAIN_MS);
		n->done = true;
	}
}

static int wait_ms(struct node *n)
{
	struct clocks now = clocks(n);
	uint64_t wait = n->draining ? UINT64_MAX : peering_wait_ns(n->peering);
	uint64_t at[4];
	unsigned k = 0;
	if (n->draining)
		at[k++] = n->drain_until;
	if (n->asked_n != 0)
		at[k++] = n->retry_at;
	for (unsigned i = 0; i < k; i++) {
		uint64_t left = at[i] > now.mclk ? at[i] - now.mclk : 0;
		if (left < wait)
			wait = left;
	}
	if (n->cfg.is_master && n->restart.status != NODE_ACTIVE) {
		uint64_t due = restart_due_ns(&n->restart);
		uint64_t left = due > now.slow ? due - now.slow : RETRY_MS * MS;
		if (left < wait)
			wait = left;
		left = n->report_at > now.mclk ? n->report_at - now.mclk : RETRY_MS * MS;
		if (left < wait)
			wait = left;
	}
	/* Rounded up: a timer that is not yet due must not make us spin. The cap turns a bug in the
	 * wake-ups into a delay. */
	uint64_t ms = wait / MS + 1;
	return ms < 1000 ? (int)ms : 1000;
}

static void turn(struct node *n)
{
	struct pollfd set[POLL_MAX];
	set[POLL_SIGNALS] = (struct pollfd){.fd = n->signal_fd, .events = POLLIN};
	set[POLL_WAKE] = (struct pollfd){.fd = n->wake_fds[n->cfg.threads], .events = POLLIN};
	peering_poll_set(n->peering, &set[POLL_PEERING]);
	int timeout = wait_ms(n);
	bool asleep = mailbox_sleep(n->mail);
	int r = poll(set, n->draining ? POLL_PEERING : POLL_MAX, asleep ? timeout : 0);
	if (asleep)
		mailbox_awake(n->mail);
	if (r < 0) {
		CHECK(errno == EINTR || errno == EAGAIN || errno == ENOMEM);
		return;
	}
	uint64_t wakes = 0;
	(void)!read(n->wake_fds[n->cfg.threads], &wakes, sizeof wakes);
	mailbox_collect(n->mail);
	struct clocks now = clocks(n);
	take_mail(n);
	if (!n->draining)
		peering_work(n->peering, &set[POLL_PEERING]);
	if (!n->done) {
		serve_ceiling(n, now.mclk);
		serve_status(n, &now);
	}
	take_signals(n);
	mailbox_publish(n->mail, node_wake, n);
	check_end(n, &now);
}

/* Nothing votes any more. A node that holds nothing may say so, and vote at once the next time: all
 * that it has to remember is one number (protocol.md 2.8). */
static void keep_good_order(struct node *n)
{
	bool nothing = n->has_file && n->exit_status == 0 && n->self.status == NODE_ACTIVE;
	uint64_t top_n = 0;
	for (unsigned i = 0; i < n->cfg.threads; i++) {
		nothing = nothing && n->threads[i].held_nothing;
		top_n = n->threads[i].top_n > top_n ? n->threads[i].top_n : top_n;
	}
	if (!nothing || top_n == 0 || top_n > n->state.ceiling_n)
		return;
	struct state s = n->state;
	s.clean = true;
	s.ceiling_n = top_n;
	int r = state_file_write(&n->file, &s);
	if (r != 0)
		log_warn("cannot note in %s that nothing is held: %s; the next start waits a while",
			n->file.path, strerror(-r));
	else
		log_info("nothing is held: the next start votes at once");
}

int node_run(struct node *n)
{
	struct clocks now = clocks(n);
	serve_status(n, &now);
	mailbox_publish(n->mail, node_wake, n);
	while (!n->done)
		turn(n);
	uint64_t until = clocks(n).mclk + (STOP_MS - DRAIN_MS) * MS;
	if (threads_stop(n, until) != 0) {
		/* Their memory is ours: there is no tidy way out left. */
		log_error("a thread did not end in time");
		_exit(1);
	}
	keep_good_order(n);
	log_info("stopped");
	return n->exit_status;
}
