/* The commands of the command line client, and from words to a request. */
#pragma once

#include "base/bytes.h"
#include "base/limits.h"

enum word_kind {
	WORD_NONE,  /* an option without a value */
	WORD_BYTES, /* key or value: as it stands */
	WORD_TIME,  /* a lease: milliseconds, or 500ms, 10s, 1m, 1h */
	WORD_WAIT,  /* a time the answer may take longer by */
	WORD_TOKEN,
};

enum {
	COMMAND_WORDS_MAX = 4,
	COMMAND_OPTIONS_MAX = 2,
};

struct command {
	const char *name;
	const char *verb; /* what the server calls it; NULL: more than one request (programs.h) */
	const char *usage;
	const char *null_means; /* what a null says, for people */
	const char *null_word;  /* and for machines */
	const char *help;
	enum word_kind words[COMMAND_WORDS_MAX];
	struct {
		const char *flag;
		const char *verb;
		enum word_kind kind;
		bool needed;
	} options[COMMAND_OPTIONS_MAX];
	bool zero_is_refusal; /* CHECK */
};

struct request {
	const struct command *command;
	size_t argc;
	struct bytes argv[ARGS_MAX];
	int64_t wait_ms; /* the answer may take this much longer */
	size_t n_numbers;
	char numbers[COMMAND_WORDS_MAX + COMMAND_OPTIONS_MAX][24]; /* times, in milliseconds */
};

/* All commands, ended by one without a name. */
extern const struct command commands[];

const struct command *command_find(const char *name);

/* "1500", "1500ms", "10s", "5m", "1h" in milliseconds; false: none of them, or too large. */
bool duration_parse(const char *text, int64_t *ret_ms);

/* Build the request for words[0..n) (after the command's name). 0, or -1 with a sentence in @why.
 */
int request_build(struct request *ret, const struct command *command, size_t n, char **words,
	char *why, size_t why_bytes);
