/* From the words of `locker run` and `locker elect` to what they are to do. */
#pragma once

#include "hold.h"

struct hold_syntax {
	const char *name;
	const char *value_flag;
	bool waits_forever; /* and knows no --wait */
	const char *usage;
};

/* 0, or STATUS_RUN_USAGE and it has been said why. Parts of @ret point into @words, or to memory
 * that stays. */
int hold_words_take(struct hold_wish *ret, const struct hold_syntax *syntax,
	const struct options *o, int n, char **words);
