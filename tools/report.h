/* How a run of the command line client is asked for, and how it ends. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/bytes.h"

/* commands.md, Programs. */
enum status {
	STATUS_DONE,
	STATUS_REFUSED,
	STATUS_USAGE,
	STATUS_UNSURE, /* no quorum or unknown, and what may pass: busy, not ready, a limit */
	STATUS_UNREACHABLE,
};

/* The options that every command takes. */
struct options {
	const char *nodes;
	int64_t timeout_ms;
	bool json;
	bool help;
	bool version;
};

/* One line of JSON, or a sentence on stderr. Returns @status. */
enum status report_failure(
	const struct options *o, enum status status, const char *outcome, struct bytes text);
/* The same for an error reply, by its first word. */
enum status report_error(const struct options *o, struct bytes text);
/* The same for a connection that could not be made: sync_open() gave @err and the sentence @why. */
enum status report_unreachable(const struct options *o, int err, const char *why);
/* Wrong usage is a sentence for people always: scripts do not get that far. */
enum status usage_error(const char *why);
