/* Scripts of the lock libraries, recognised by their digest or their form (script_form.h) and
 * answered by operations. No Lua runs here.
 *
 * What is found out about a text stays true, so digests of texts that were recognised are kept for
 * the life of the process, for all threads: a client loads a script by one connection and runs it
 * by another. Bounded; a text for which there is no room is recognised anew each time.
 *
 * Source: users' libraries as published; see commands.md, *Lock libraries*. */
#pragma once

#include "base/sha1.h"
#include "core/engine.h"

enum script_verb {
	SCRIPT_RELEASE,        /* key; value */
	SCRIPT_EXTEND,         /* key; value, ms */
	SCRIPT_ADD,            /* key; value, ms to add to what is left */
	SCRIPT_ADD_OR_EXTEND,  /* key; value, ms, "0": add */
	SCRIPT_LOCK,           /* key; value, ms */
	SCRIPT_TAKE,           /* key; value, ms: lock, or extend one's own */
	SCRIPT_TAKE_OR_EXTEND, /* key; value, ms, "yes": lock, or extend one's own; else only that
				*/
	SCRIPT_PTTL,           /* key: value and ms left */
};

struct script {
	enum script_verb verb;
	uint8_t args; /* of ARGV, at least */
	/* Replies; NULL: null. @theirs: held with another value. */
	const char *done, *theirs, *not_held;
};

extern const struct script scripts[];
extern const unsigned scripts_count;

void script_digest(struct bytes text, uint8_t ret[SHA1_BYTES]);
/* Index into scripts[], or -1: not known. */
int script_by_digest(const uint8_t digest[SHA1_BYTES]);
/* Likewise, by digest or form. One that is recognised by its form is remembered under @digest, if
 * there is room: *ret_kept. @ret_form: its form, all zero if it has none. */
int script_by_text(struct bytes text, uint8_t ret_digest[SHA1_BYTES], uint8_t ret_form[SHA1_BYTES],
	bool *ret_kept);
/* The reply (NULL: null) to an outcome; false: it is an error. */
bool script_reply(unsigned index, enum outcome outcome, const char **ret);
