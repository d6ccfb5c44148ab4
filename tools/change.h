/* `locker nodes set`: make these nodes the masters and those the replicas, before people's eyes. */
#pragma once

#include "report.h"

/* @words: what follows "set". */
enum status change_run(const struct options *o, int n, char **words);
