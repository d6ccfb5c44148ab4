/* The commands that are more than one request and its answer. @words: what follows their name.
 * They return an exit status. */
#pragma once

#include "report.h"

#define RUN_USAGE                                                                                  \
	"KEY [--ttl TIME] [--wait TIME] [--value VALUE] [--kill-grace TIME]\n"                     \
	"                -- COMMAND [ARGUMENT...]"
#define ELECT_USAGE "NAME [--ttl TIME] [--id VALUE] [--kill-grace TIME] -- COMMAND [ARGUMENT...]"

/* Run a command while a lock is held. */
int run_program(const struct options *o, int n, char **words);
/* Run a command while being the leader, again and again until it ends by itself. */
int elect_program(const struct options *o, int n, char **words);
/* Tell of each change of a leader. */
int observe_program(const struct options *o, int n, char **words);
/* The locks of one node's copy, page by page. */
int list_program(const struct options *o, int n, char **words);
