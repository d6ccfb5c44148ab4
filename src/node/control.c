/* The control thread: signals, peer handshakes, mail of the shards, the end. What it tells the
 * shards is decided beside: voting.c, configuration.c, durable.c. */
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

enum {
	DRAIN_MS = 1500, /* then threads end whatever is left; the whole stop takes at most 2 s */
	STOP_MS = 1900,
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

void control_tell_all(struct node *n, uint16_t type, const void *body, size_t bytes)
{
	for (unsigned i = 0; i < n->cfg.threads; i++) {
		void *to = mailbox_put(n->mail, i, type, bytes);
		if (bytes != 0)
			memcpy(to, body, bytes);
	}
}

void control_init(struct node *n)
{
	struct clocks now = clocks(n);
	voting_init(n, &now);
}

/* ---- mail ---- */

static void adopt(void *arg, const struct mail_adopt *link)
{
	struct node *n = arg;
	CHECK(link->link_index < n->cfg.threads);
	memcpy(mailbox_put(n->mail, link->link_index, MAIL_ADOPT, sizeof *link), link,
		sizeof *link);
	if (link->link_index == 0)
		configuration_address(n, link->node, link->peer_addr, link->misnamed);
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
	struct clocks now = clocks(n);
	voting_outdated(n, reason, &now);
}

static void learn(void *arg, const struct membership *config)
{
	struct node *n = arg;
	struct clocks now = clocks(n);
	configuration_learn(n, config, &now);
}

struct peering_hooks control_hooks(struct node *n)
{
	return (struct peering_hooks){
		.arg = n, .adopt = adopt, .fatal = fatal, .outdated = outdated, .learn = learn};
}

static void take_link(
	struct node *n, const void *body, size_t bytes, bool up, const struct clocks *now)
{
	struct mail_link link;
	CHECK(bytes == sizeof link);
	memcpy(&link, body, sizeof link);
	if (up)
		n->heard[link.node] = true;
	else
		peering_link_down(n->peering, &link);
	configuration_link(n, &link, up, now);
}

static void take_mail(struct node *n, const struct clocks *now)
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
		} else if (type == MAIL_LINK_DOWN || type == MAIL_LINK_HEARD) {
			take_link(n, body, bytes, type == MAIL_LINK_HEARD, now);
		} else if (type == MAIL_PROGRESS) {
			CHECK(bytes == sizeof n->progress[from]);
			CHECK(from < n->cfg.threads);
			memcpy(&n->progress[from], body, sizeof n->progress[from]);
		} else if (type == MAIL_DRAINED) {
			n->drained++;
		} else {
			bool known = configuration_mail(n, from, type, body, bytes, now);
			CHECK(known);
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
		control_tell_all(n, MAIL_DRAIN, NULL, 0);
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

static uint64_t min_u64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static uint64_t until(uint64_t at_mclk, const struct clocks *now)
{
	return at_mclk > now->mclk ? at_mclk - now->mclk : 0;
}

static int wait_ms(struct node *n)
{
	struct clocks now = clocks(n);
	uint64_t wait = n->draining ? until(n->drain_until, &now) : peering_wait_ns(n->peering);
	if (n->asked_n != 0)
		wait = min_u64(wait, until(n->retry_at, &now));
	wait = min_u64(wait, voting_wait_ns(n, &now));
	wait = min_u64(wait, configuration_wait_ns(n, &now));
	/* Rounded up: a timer that is not yet due must not make us spin. The cap turns a bug in the
	 * wake-ups into a delay. */
	uint64_t ms = min_u64(wait, SEC) / MS + 1;
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
	take_mail(n, &now);
	if (!n->draining)
		peering_work(n->peering, &set[POLL_PEERING]);
	if (!n->done) {
		durable_serve(n, now.mclk);
		voting_serve(n, &now);
		configuration_serve(n, &now);
	}
	take_signals(n);
	mailbox_publish(n->mail, node_wake, n);
	check_end(n, &now);
}

int node_run(struct node *n)
{
	struct clocks now = clocks(n);
	voting_serve(n, &now);
	configuration_serve(n, &now);
	mailbox_publish(n->mail, node_wake, n);
	while (!n->done)
		turn(n);
	uint64_t end_by = clocks(n).mclk + (STOP_MS - DRAIN_MS) * MS;
	if (threads_stop(n, end_by) != 0) {
		/* Their memory is ours: there is no tidy way out left. */
		log_error("a thread did not end in time");
		_exit(1);
	}
	durable_good_order(n);
	log_info("stopped");
	return n->exit_status;
}
