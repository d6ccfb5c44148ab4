/* A command in a process group of its own, that cannot outlive its time or its parent.
 *
 * Two look after its end: whoever started it, and a guard, a process of a few lines that kills the
 * group at the time it was last told, or when its parent is gone. So a parent that is stopped or
 * killed leaves nothing behind. What leaves the group (setsid) is out of reach.
 * Owner  the thread that called child_start() has to live as long as the child: to the kernel it
 *        is the parent whose death kills it. */
#pragma once

#include <signal.h>
#include <stdbool.h>
#include <sys/types.h>

#include "elapsed.h"

struct child {
	pid_t pid; /* and its process group */
	pid_t guard;
	int guard_fd;    /* tells the guard until when */
	int failure_fd;  /* errno, when the command could not be run */
	int terminal_fd; /* -1: there is none */
	bool ended;      /* the command itself: status is known */
	bool gone;       /* and all of its group */
	int status;      /* as waitpid() */
};

/* Run @argv with @envp and the signal mask @mask until @since + @run_ns at most. SIGTTOU has to be
 * blocked. 0 or -errno. */
int child_start(struct child *c, char *const *argv, char *const *envp, const sigset_t *mask,
	struct instant since, int64_t run_ns);
void child_run_until(struct child *c, struct instant since, int64_t run_ns);

/* To the whole group. */
void child_signal(const struct child *c, int number);
/* Take notice of what SIGCHLD tells. Returns the signal that has stopped the command, or 0. */
int child_reap(struct child *c);
/* It was stopped by the terminal. Give it the terminal if that is what it wants; else stop as well,
 * for the shell to notice, and go on together. */
void child_follow_stop(struct child *c, int number);

/* For one that is gone: the exit status as a shell has it. *ret_errno: 0, or why it could not be
 * run. */
int child_finish(struct child *c, int *ret_errno);
