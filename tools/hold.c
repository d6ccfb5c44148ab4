#include "hold.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "child.h"
#include "output.h"

extern char **environ;

enum phase {
	PHASE_SEEKS,  /* the lock */
	PHASE_RUNS,   /* the command */
	PHASE_STOPS,  /* it has been asked to end */
	PHASE_KILLED, /* it has been killed, and is not gone yet */
};

struct hold {
	const struct hold_wish *wish;
	struct keeper keeper;
	struct keeper_view view;
	struct child child;
	enum phase phase;
	bool lost;
	bool told_to_end; /* by a signal from outside */
	int64_t margin_ns, grace_ns;
	struct instant stops_since;
	int signal_fd, alarm_fd;
	sigset_t mask_before;
	char why_shown[384];
};

static const int forwarded[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGTSTP};

static void say(const struct hold *h, const char *what, const char *why)
{
	fputs("locker: ", stderr);
	plain_string(stderr, bytes_str(h->wish->lock.key));
	fprintf(stderr, ": %s", what);
	if (*why) {
		fputs(": ", stderr);
		plain_string(stderr, bytes_str(why));
	}
	fputc('\n', stderr);
}

/* ---- the environment of the command ---- */

static bool is_ours(const char *variable)
{
	static const char *const names[] = {"LOCKER_KEY=", "LOCKER_TOKEN=", "LOCKER_VALUE="};

	for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
		if (strncmp(variable, names[i], strlen(names[i])) == 0)
			return true;
	}
	return false;
}

/* NULL: out of memory. environment_free() takes it back. */
static char **environment_new(const struct hold *h)
{
	size_t n = 0, kept = 3;

	while (environ[n])
		n++;
	char **ret = calloc(n + 4, sizeof *ret);
	if (!ret)
		return NULL;
	if (asprintf(&ret[0], "LOCKER_KEY=%s", h->wish->lock.key) < 0 ||
		asprintf(&ret[1], "LOCKER_VALUE=%s", h->wish->lock.value) < 0 ||
		asprintf(&ret[2], "LOCKER_TOKEN=%" PRIu64, h->view.lease.token) < 0) {
		free(ret);
		return NULL;
	}
	for (size_t i = 0; i < n; i++) {
		if (!is_ours(environ[i]))
			ret[kept++] = environ[i];
	}
	return ret;
}

static void environment_free(char **e)
{
	for (int i = 0; i < 3; i++)
		free(e[i]);
	free(e);
}

/* ---- signals ---- */

static void unblock_all(struct hold *h)
{
	(void)sigprocmask(SIG_SETMASK, &h->mask_before, NULL);
}

/* One that is ignored (nohup) stays so, for us and for the command. */
static int open_signals(struct hold *h)
{
	sigset_t watched, blocked;
	struct sigaction now;

	/* Ignored by whoever started us, it would take the statuses of our children away. */
	(void)signal(SIGCHLD, SIG_DFL);
	sigemptyset(&watched);
	sigaddset(&watched, SIGCHLD);
	for (size_t i = 0; i < sizeof forwarded / sizeof *forwarded; i++) {
		if (sigaction(forwarded[i], NULL, &now) == 0 && now.sa_handler != SIG_IGN)
			sigaddset(&watched, forwarded[i]);
	}
	blocked = watched;
	/* Neither a terminal that is another's nor a closed stderr may end us before the command.
	 */
	sigaddset(&blocked, SIGTTOU);
	sigaddset(&blocked, SIGPIPE);
	(void)sigprocmask(SIG_BLOCK, &blocked, &h->mask_before);
	h->signal_fd = signalfd(-1, &watched, SFD_CLOEXEC | SFD_NONBLOCK);
	return h->signal_fd < 0 ? -errno : 0;
}

static _Noreturn void die_of(struct hold *h, int number)
{
	keeper_end(&h->keeper);
	unblock_all(h);
	(void)signal(number, SIG_DFL);
	(void)raise(number);
	_exit(128 + number);
}

static void take_signals(struct hold *h)
{
	struct signalfd_siginfo info;

	while (read(h->signal_fd, &info, sizeof info) == (ssize_t)sizeof info) {
		int number = (int)info.ssi_signo;

		if (number == SIGCHLD)
			continue;
		h->told_to_end |= number == SIGTERM || number == SIGINT || number == SIGQUIT;
		if (h->phase != PHASE_SEEKS)
			child_signal(&h->child, number);
		else if (number == SIGTSTP)
			(void)raise(SIGSTOP);
		else
			die_of(h, number);
	}
}

/* ---- phases ---- */

static void ask_to_end(struct hold *h)
{
	h->phase = PHASE_STOPS;
	h->stops_since = instant_now();
	child_signal(&h->child, SIGTERM);
	child_signal(&h->child, SIGCONT);
}

static void kill_it(struct hold *h)
{
	h->phase = PHASE_KILLED;
	child_signal(&h->child, SIGKILL);
}

static int start_child(struct hold *h)
{
	char **env = environment_new(h);

	if (!env)
		return -ENOMEM;
	int r = child_start(&h->child, h->wish->argv, env, &h->mask_before, h->view.lease.since,
		h->view.lease.valid_ns - h->margin_ns);
	environment_free(env);
	if (r == 0)
		h->phase = PHASE_RUNS;
	return r;
}

/* Once that is done: nobody may be reading what is said, and then it takes as long as they like. */
static void lose(struct hold *h)
{
	if (!h->lost)
		say(h,
			h->view.state == KEEPER_LOST ? "the lock is lost; the command is killed"
						     : "the lock cannot be extended; the command "
						       "is stopped",
			h->view.why);
	h->lost = true;
}

/* What the state of the lock asks for. Returns when to look again. */
static int64_t watch_lease(struct hold *h)
{
	int64_t left_ns = lease_left_ns(&h->view.lease) - h->margin_ns;

	if (h->view.state == KEEPER_LOST || left_ns <= 0) {
		if (h->phase != PHASE_KILLED)
			kill_it(h);
		if (!h->child.ended)
			lose(h);
	} else if (h->phase == PHASE_RUNS && left_ns <= h->grace_ns) {
		ask_to_end(h);
		lose(h);
	}
	if (h->phase == PHASE_RUNS)
		return left_ns - h->grace_ns;
	if (h->phase == PHASE_KILLED)
		return INT64_MAX;
	int64_t grace_left_ns = h->grace_ns - elapsed_ns(h->stops_since);
	if (grace_left_ns <= 0)
		kill_it(h);
	return grace_left_ns < left_ns ? grace_left_ns : left_ns;
}

/* 0; or a status to end with. */
static int seek(struct hold *h)
{
	if (h->view.state == KEEPER_REFUSED || h->view.state == KEEPER_LOST) {
		say(h, "not acquired", h->view.why);
		return STATUS_NOT_ACQUIRED;
	}
	if (h->view.state == KEEPER_SEEKS) {
		if (*h->view.why && strcmp(h->view.why, h->why_shown) != 0)
			say(h, "still waiting", h->view.why);
		memcpy(h->why_shown, h->view.why, sizeof h->why_shown);
		return 0;
	}
	/* After a long wait little may be left: the first extension is on its way then. */
	if (lease_left_ns(&h->view.lease) <= h->margin_ns + h->grace_ns)
		return 0;
	int r = start_child(h);
	if (r == 0)
		return 0;
	say(h, "cannot start a process", strerror(-r));
	return STATUS_NOT_ACQUIRED;
}

static int finish(struct hold *h)
{
	int err;
	int status = child_finish(&h->child, &err);

	if (err) {
		fputs("locker: ", stderr);
		plain_string(stderr, bytes_str(h->wish->argv[0]));
		fprintf(stderr, ": %s\n", err == ENOENT ? "command not found" : strerror(err));
	}
	return h->lost ? STATUS_LOST : status;
}

static void wait_for_news(struct hold *h, int64_t at_most_ns)
{
	struct pollfd p[] = {{.fd = h->signal_fd, .events = POLLIN},
		{.fd = h->keeper.news_fd, .events = POLLIN}, {.fd = h->alarm_fd, .events = POLLIN}};

	alarm_set(h->alarm_fd, at_most_ns);
	(void)poll(p, sizeof p / sizeof *p, -1);
}

static int serve(struct hold *h)
{
	for (;;) {
		int64_t at_most_ns = INT64_MAX;
		struct instant since = h->view.lease.since;

		h->view = keeper_look(&h->keeper);
		if (h->phase == PHASE_SEEKS) {
			int status = seek(h);

			if (status)
				return status;
		} else if (memcmp(&since, &h->view.lease.since, sizeof since) != 0) {
			child_run_until(&h->child, h->view.lease.since,
				h->view.lease.valid_ns - h->margin_ns);
		}
		if (h->phase != PHASE_SEEKS) {
			int stopped_by;

			at_most_ns = watch_lease(h);
			stopped_by = child_reap(&h->child);
			if (h->child.gone)
				return finish(h);
			if (h->child.ended && h->phase == PHASE_RUNS) {
				ask_to_end(h);
				continue;
			}
			if (stopped_by && h->phase == PHASE_RUNS)
				child_follow_stop(&h->child, stopped_by);
		}
		wait_for_news(h, at_most_ns);
		take_signals(h);
	}
}

int hold_run(const struct hold_wish *w, bool *ret_again)
{
	static struct hold h;

	h = (struct hold){
		.wish = w, .margin_ns = w->lock.margin_ns, .grace_ns = w->grace_ms * NS_PER_MS};
	*ret_again = false;
	h.alarm_fd = alarm_open();
	int r = h.alarm_fd < 0 ? h.alarm_fd : open_signals(&h);
	if (r == 0)
		r = keeper_start(&h.keeper, &w->lock);
	if (r < 0) {
		say(&h, "not acquired", strerror(-r));
		return STATUS_NOT_ACQUIRED;
	}
	int status = serve(&h);
	keeper_end(&h.keeper);
	unblock_all(&h);
	close(h.signal_fd);
	close(h.alarm_fd);
	*ret_again = h.lost && !h.told_to_end;
	return status;
}
