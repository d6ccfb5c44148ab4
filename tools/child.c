#include "child.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

enum { EXIT_CANNOT_RUN = 126, EXIT_NOT_FOUND = 127, EXIT_SIGNALLED = 128 };

/* What the guard is told. Smaller than PIPE_BUF: it comes whole. */
struct term {
	struct instant since;
	int64_t run_ns;
};

/* ---- the guard ---- */

static _Noreturn void guard(pid_t group, int fd)
{
	struct term term;

	(void)setpgid(0, 0);
	(void)prctl(PR_SET_NAME, "locker-guard");
	/* Nothing else stays open: a pipe that our parent has left is at its end. */
	if (dup2(fd, 0) < 0 || close_range(1, ~0U, 0) < 0)
		_exit(1);
	int alarm_fd = alarm_open();
	if (alarm_fd < 0)
		_exit(1);
	while (read(0, &term, sizeof term) == (ssize_t)sizeof term) {
		struct pollfd p[] = {
			{.fd = 0, .events = POLLIN}, {.fd = alarm_fd, .events = POLLIN}};
		int64_t left_ns;

		do {
			left_ns = term.run_ns - elapsed_ns(term.since);
			alarm_set(alarm_fd, left_ns);
			p[0].revents = 0;
		} while (left_ns > 0 && (poll(p, 2, -1) < 0 || p[0].revents == 0));
		if (left_ns <= 0)
			break;
	}
	(void)kill(-group, SIGKILL);
	_exit(0);
}

void child_run_until(struct child *c, struct instant since, int64_t run_ns)
{
	struct term term = {.since = since, .run_ns = run_ns};

	/* A guard that does not read keeps to the earlier end. */
	(void)!write(c->guard_fd, &term, sizeof term);
}

/* ---- start ---- */

static _Noreturn void run_command(char *const *argv, char *const *envp, const sigset_t *mask,
	pid_t parent, int go_fd, int failure_fd)
{
	char go;

	(void)setpgid(0, 0);
	/* The parent may have died before this counts. */
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || getppid() != parent)
		_exit(EXIT_CANNOT_RUN);
	/* Not before the guard is there. */
	if (read(go_fd, &go, 1) != 1)
		_exit(EXIT_CANNOT_RUN);
	(void)sigprocmask(SIG_SETMASK, mask, NULL);
	execvpe(argv[0], argv, envp);
	int err = errno;
	(void)!write(failure_fd, &err, sizeof err);
	_exit(err == ENOENT ? EXIT_NOT_FOUND : EXIT_CANNOT_RUN);
}

static void close_pipe(const int *pipe)
{
	for (int i = 0; i < 2; i++) {
		if (pipe[i] >= 0)
			close(pipe[i]);
	}
}

/* 0 or -errno; then what was started waits for a word through @go. */
static int fork_both(struct child *c, char *const *argv, char *const *envp, const sigset_t *mask,
	const int *go, const int *failure, const int *term)
{
	pid_t parent = getpid();

	c->pid = fork();
	if (c->pid == 0) {
		close(go[1]);
		run_command(argv, envp, mask, parent, go[0], failure[1]);
	}
	if (c->pid < 0)
		return -errno;
	/* Both sides do it: neither knows who comes first. */
	(void)setpgid(c->pid, c->pid);
	c->guard = fork();
	if (c->guard == 0)
		guard(c->pid, term[0]);
	if (c->guard > 0)
		return 0;
	int err = errno;
	(void)kill(c->pid, SIGKILL);
	(void)waitpid(c->pid, NULL, 0);
	return -err;
}

int child_start(struct child *c, char *const *argv, char *const *envp, const sigset_t *mask,
	struct instant since, int64_t run_ns)
{
	int go[2] = {-1, -1}, failure[2] = {-1, -1}, term[2] = {-1, -1};
	int r = 0;

	*c = (struct child){.terminal_fd = open("/dev/tty", O_RDWR | O_CLOEXEC)};
	/* Orphans of the group become ours: its end is known when all of them are waited for. */
	(void)prctl(PR_SET_CHILD_SUBREAPER, 1);
	if (pipe2(go, O_CLOEXEC) < 0 || pipe2(failure, O_CLOEXEC | O_NONBLOCK) < 0 ||
		pipe2(term, O_CLOEXEC) < 0 || fcntl(term[1], F_SETFL, O_NONBLOCK) < 0)
		r = -errno;
	if (r == 0)
		r = fork_both(c, argv, envp, mask, go, failure, term);
	if (r < 0) {
		close_pipe(go);
		close_pipe(failure);
		close_pipe(term);
		if (c->terminal_fd >= 0)
			close(c->terminal_fd);
		return r;
	}
	c->guard_fd = term[1];
	c->failure_fd = failure[0];
	child_run_until(c, since, run_ns);
	(void)!write(go[1], "", 1);
	close_pipe(go);
	close(failure[1]);
	close(term[0]);
	return 0;
}

/* ---- while it runs ---- */

void child_signal(const struct child *c, int number)
{
	/* As long as one of the group is not waited for, its number is nobody else's. */
	if (!c->gone)
		(void)kill(-c->pid, number);
}

int child_reap(struct child *c)
{
	int status, stopped_by = 0;
	pid_t pid;

	while ((pid = waitpid(-c->pid, &status, WNOHANG | WUNTRACED)) > 0) {
		if (pid != c->pid)
			continue;
		if (WIFSTOPPED(status)) {
			stopped_by = WSTOPSIG(status);
		} else {
			c->status = status;
			c->ended = true;
		}
	}
	c->gone = pid < 0 && errno == ECHILD;
	return stopped_by;
}

void child_follow_stop(struct child *c, int number)
{
	pid_t foreground = c->terminal_fd < 0 ? -1 : tcgetpgrp(c->terminal_fd);

	if (c->terminal_fd < 0 || (number != SIGTSTP && number != SIGTTIN && number != SIGTTOU))
		return;
	if (number == SIGTSTP || foreground != getpgrp()) {
		if (foreground == c->pid)
			(void)tcsetpgrp(c->terminal_fd, getpgrp());
		(void)raise(SIGSTOP);
	}
	bool wants_it = number != SIGTSTP || foreground == c->pid;
	if (wants_it && tcgetpgrp(c->terminal_fd) == getpgrp())
		(void)tcsetpgrp(c->terminal_fd, c->pid);
	child_signal(c, SIGCONT);
}

int child_finish(struct child *c, int *ret_errno)
{
	if (c->terminal_fd >= 0) {
		if (tcgetpgrp(c->terminal_fd) == c->pid)
			(void)tcsetpgrp(c->terminal_fd, getpgrp());
		close(c->terminal_fd);
	}
	(void)kill(c->guard, SIGKILL);
	(void)waitpid(c->guard, NULL, 0);
	close(c->guard_fd);
	if (read(c->failure_fd, ret_errno, sizeof *ret_errno) != (ssize_t)sizeof *ret_errno)
		*ret_errno = 0;
	close(c->failure_fd);
	return WIFSIGNALED(c->status) ? EXIT_SIGNALLED + WTERMSIG(c->status)
				      : WEXITSTATUS(c->status);
}
