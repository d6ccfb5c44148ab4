/* The form of a script: what is left of a Lua text when its layout and its choice of names are
 * taken away. Two texts of one form do the same. No Lua runs here, and not every text that differs
 * only in layout has the same form: a form that is not found is only a script that is not
 * recognised.
 *
 * Taken away: blanks, comments, `;`, the kind of quotes, the case of the words of a command and of
 * its options PX, EX, NX and XX, `server.` for `redis.`, `pcall` for `call`, names of locals (they
 * are numbered in the order of their declarations), redundant parentheses. */
#pragma once

#include "base/sha1.h"

enum {
	SCRIPT_TOKENS_MAX = 256,
	SCRIPT_TOKEN_MAX_BYTES = 64,
	SCRIPT_LOCALS_MAX = 16,
	SCRIPT_PARENS_MAX = 32, /* one inside the other */
};

/* False: something that no script of a lock library has (an escape in a string, a long bracket,
 * ...), or more than the limits allow. Reads @text once; its time is linear. */
bool script_form(struct bytes text, uint8_t ret[SHA1_BYTES]);
