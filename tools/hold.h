/* A command runs while a lock is held, and not a moment longer: `locker run` and `locker elect`. */
#pragma once

#include "keeper.h"
#include "report.h"

/* commands.md, Programs. The status of the command itself otherwise. */
enum {
	STATUS_LOST = 123,
	STATUS_NOT_ACQUIRED = 124,
	STATUS_RUN_USAGE = 125,
};

struct hold_wish {
	struct lock_wish lock;
	int64_t grace_ms; /* between asking the command to end and killing it */
	char **argv;
};

/* Take the lock, run the command, give the lock back. An exit status; with a signal while it still
 * waits for the lock it does not return. *ret_again: the lock was lost, and nobody has asked for
 * the end. */
int hold_run(const struct hold_wish *w, bool *ret_again);
