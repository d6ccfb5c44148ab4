/* `locker list`: the locks of one node's copy, page by page. */
#pragma once

#include "report.h"

/* @words: what follows "list". */
enum status list_run(const struct options *o, int n, char **words);
