#include "request.h"

#include <stdio.h>
#include <string.h>

#include "base/check.h"
#include "programs.h"

const struct command commands[] = {
	{.name = "lock",
		.verb = "LOCK",
		.usage = "KEY VALUE TTL [--wait TIME] [--idempotent]",
		.null_means = "held by another",
		.null_word = "held",
		.help = "Take the lock KEY for TTL. VALUE tells holders apart: choose a different "
			"one\n"
			"for each. With --wait, stand in line for at most TIME. With --idempotent, "
			"a\n"
			"lock that is held with this very VALUE is extended and counts as taken: "
			"for\n"
			"repeating a request whose answer was lost.\n"
			"Count on the lock for valid-ms from when you started this command, not\n"
			"longer. The token grows with every grant: hand it to what you protect.",
		.words = {WORD_BYTES, WORD_BYTES, WORD_TIME},
		.options = {{"--wait", "WAIT", WORD_WAIT, false},
			{"--idempotent", "IDEMPOTENT", WORD_NONE, false}}},
	{.name = "update",
		.verb = "UPDATE",
		.usage = "KEY VALUE NEW-VALUE [--token N]",
		.help = "Replace the VALUE of a held lock. The lease keeps its end.",
		.words = {WORD_BYTES, WORD_BYTES, WORD_BYTES},
		.options = {{"--token", "TOKEN", WORD_TOKEN, false}}},
	{.name = "extend",
		.verb = "EXTEND",
		.usage = "KEY VALUE TTL [--token N]",
		.help = "Let the lease end TTL from now, never earlier than before.",
		.words = {WORD_BYTES, WORD_BYTES, WORD_TIME},
		.options = {{"--token", "TOKEN", WORD_TOKEN, false}}},
	{.name = "release",
		.verb = "RELEASE",
		.usage = "KEY VALUE [--token N]",
		.help = "Give the lock up. With --token exactly that grant.",
		.words = {WORD_BYTES, WORD_BYTES},
		.options = {{"--token", "TOKEN", WORD_TOKEN, false}}},
	{.name = "read",
		.verb = "READ",
		.usage = "KEY [--quorum]",
		.null_means = "not held",
		.null_word = "none",
		.help = "Print the value: this node's copy, which may be stale; with --quorum, "
			"what a\n"
			"majority says now.",
		.words = {WORD_BYTES},
		.options = {{"--quorum", "QUORUM", WORD_NONE, false}}},
	{.name = "holder",
		.verb = "HOLDER",
		.usage = "KEY [--quorum]",
		.null_means = "not held",
		.null_word = "none",
		.help = "Print value, token, times, node and client of the holder.",
		.words = {WORD_BYTES},
		.options = {{"--quorum", "QUORUM", WORD_NONE, false}}},
	{.name = "check",
		.verb = "CHECK",
		.usage = "KEY TOKEN",
		.help = "Does the lock belong to the grant TOKEN, by quorum? Exit status 0 or 1.",
		.words = {WORD_BYTES, WORD_TOKEN},
		.zero_is_refusal = true},
	{.name = "wait-for",
		.verb = "WAITFOR",
		.usage = "KEY TIMEOUT",
		.null_means = "not held within that time",
		.null_word = "timeout",
		.help = "Wait until the key is held, and print its value.",
		.words = {WORD_BYTES, WORD_WAIT}},
	{.name = "wait-release",
		.verb = "WAITRELEASE",
		.usage = "KEY TIMEOUT",
		.null_means = "still held",
		.null_word = "timeout",
		.help = "Wait until the key is released or its lease ends.",
		.words = {WORD_BYTES, WORD_WAIT}},
	{.name = "list",
		.verb = "LOCKS",
		.usage = "[PREFIX]",
		.help = "A table of the locks whose key begins with PREFIX (of all), as the node's "
			"own\n"
			"copy has them: key, value, token, how long it has been held and will be, "
			"the\n"
			"node that took it for its client, and how many stand in line for it at "
			"the node\n"
			"that is asked. What ends and begins meanwhile may be missing; the rest is "
			"whole."},
	{.name = "break",
		.verb = "BREAK",
		.usage = "KEY --token N",
		.help = "Take the lock away from whoever holds it: exactly the grant with this "
			"token, as\n"
			"list or holder show it, and no later one. Its holder is not asked, and "
			"finds out\n"
			"when it extends or releases, or by the token. The node's log keeps who "
			"did it.",
		.words = {WORD_BYTES},
		.options = {{"--token", "TOKEN", WORD_TOKEN, .needed = true}}},
	{.name = "lag",
		.verb = "LAG",
		.usage = "",
		.help = "Take and release a probe lock, and print how long it took."},
	{.name = "summary",
		.verb = "SUMMARY",
		.usage = "",
		.help = "Leases, promises and waiters of this node."},
	{.name = "nodes",
		.verb = "NODES",
		.usage = "[set --masters ID,... [--replicas ID,...] [--yes]]",
		.help = "Epoch, quorum, and a table of the nodes: role, state, the epoch that each "
			"acts "
			"by,\n"
			"slots in sync, how old a replica's copy is, and since when it is so.\n"
			"With set, make exactly these nodes the masters and these the replicas, "
			"one\n"
			"change after another, each safe by itself. Shows the steps and asks first "
			"(--yes:\n"
			"does not ask), then how far it is, and ends when all are in sync. "
			"Without\n"
			"--replicas they stay, less those that become masters. A new node has to "
			"run\n"
			"already (lockerd --id N --join HOST:PORT). Ended before its time for "
			"whatever\n"
			"reason: the same command again goes on where it was."},
	{.name = "stats",
		.verb = "STATS",
		.usage = "",
		.help = "Counters and gauges of the node, and of each of its threads."},
	{.name = "info", .verb = "INFO", .usage = "", .help = "What the node says of itself."},
	{.name = "run",
		.usage = RUN_USAGE,
		.help = "Take the lock KEY, run COMMAND while it is held, give it back, and exit "
			"with the\n"
			"status of COMMAND (128 + the signal that killed it). The lease (--ttl, "
			"default 15s)\n"
			"is extended at a third of it, at whichever node answers. When that fails, "
			"COMMAND\n"
			"and its process group get SIGTERM --kill-grace (default a third of --ttl) "
			"before\n"
			"they would outlive the lease, and SIGKILL in time. With --wait, stand in "
			"line for at\n"
			"most TIME; else a lock that is held is refused. --value tells holders "
			"apart; by\n"
			"default it is made of host, process id and a random number.\n"
			"COMMAND finds LOCKER_KEY, LOCKER_VALUE and LOCKER_TOKEN in its "
			"environment. What is\n"
			"left of its process group when it ends is stopped too.\n"
			"Exit status of its own: 123 lock lost, COMMAND stopped; 124 not acquired; "
			"125 wrong\n"
			"usage; 126 COMMAND cannot be run; 127 it was not found."},
	{.name = "elect",
		.usage = ELECT_USAGE,
		.help = "Wait, as long as it takes, to be the leader NAME; run COMMAND while being "
			"it.\n"
			"When leadership is lost COMMAND is stopped as with `run`, and the wait "
			"begins\n"
			"again. Ends when COMMAND ends by itself, with its status. --id is the "
			"value that\n"
			"others see (default: host, process id and a random number); for the rest "
			"see\n"
			"`locker help run`."},
	{.name = "observe",
		.usage = "NAME",
		.help = "Print a line for the present holder of NAME and for each change: time, "
			"token,\n"
			"value; with --json an object a line, value and token null when nobody "
			"holds it.\n"
			"Goes on until it is interrupted, at another node when one fails."},
	{0},
};

const struct command *command_find(const char *name)
{
	for (const struct command *c = commands; c->name; c++) {
		if (strcmp(c->name, name) == 0)
			return c;
	}
	return NULL;
}

/* Decimal digits only, at most BALLOT_MAX; *ret_rest is what follows them. */
static bool number_parse(const char *text, uint64_t *ret, const char **ret_rest)
{
	uint64_t n = 0;
	const char *p = text;

	for (; *p >= '0' && *p <= '9'; p++) {
		n = n * 10 + (uint64_t)(*p - '0');
		if (n > BALLOT_MAX)
			return false;
	}
	*ret = n;
	*ret_rest = p;
	return p != text;
}

bool duration_parse(const char *text, int64_t *ret_ms)
{
	static const struct {
		const char *name;
		uint64_t ms;
	} units[] = {{"", 1}, {"ms", 1}, {"s", 1000}, {"m", 60000}, {"h", 3600000}};
	uint64_t n;
	const char *unit;

	if (!number_parse(text, &n, &unit))
		return false;
	for (size_t i = 0; i < sizeof units / sizeof *units; i++) {
		if (strcmp(unit, units[i].name) == 0 && n <= BALLOT_MAX / units[i].ms) {
			*ret_ms = (int64_t)(n * units[i].ms);
			return true;
		}
	}
	return false;
}

static bool is_key(const char *word, char *why, size_t why_bytes)
{
	size_t bytes = strlen(word);

	if (bytes > 0 && bytes <= KEY_MAX_BYTES)
		return true;
	snprintf(why, why_bytes, "a key has 1 to %d bytes, not %zu", KEY_MAX_BYTES, bytes);
	return false;
}

/* What goes to the server for @word; the text of a time is kept in @r. 0, or -1. */
static int encode_word(struct request *r, enum word_kind kind, const char *word, struct bytes *ret,
	char *why, size_t why_bytes)
{
	int64_t ms;
	uint64_t token;
	const char *rest;

	switch (kind) {
	case WORD_NONE:
		break;
	case WORD_BYTES:
		if (strlen(word) > VALUE_MAX_BYTES) {
			snprintf(why, why_bytes, "'%.20s...' has %zu bytes; a value has at most %d",
				word, strlen(word), VALUE_MAX_BYTES);
			return -1;
		}
		break;
	case WORD_TIME:
	case WORD_WAIT:
		if (!duration_parse(word, &ms)) {
			snprintf(why, why_bytes,
				"'%s' is no time: milliseconds, or 500ms, 10s, 1m, 1h", word);
			return -1;
		}
		if (kind == WORD_TIME && (ms == 0 || ms > LEASE_MAX_MS)) {
			snprintf(why, why_bytes, "'%s' is no lease: 1ms to %dh", word,
				LEASE_MAX_MS / 3600000);
			return -1;
		}
		if (kind == WORD_WAIT)
			r->wait_ms = ms;
		CHECK(r->n_numbers < sizeof r->numbers / sizeof *r->numbers);
		char *text = r->numbers[r->n_numbers++];
		snprintf(text, sizeof r->numbers[0], "%lld", (long long)ms);
		*ret = bytes_str(text);
		return 0;
	case WORD_TOKEN:
		if (!number_parse(word, &token, &rest) || *rest != '\0') {
			snprintf(why, why_bytes, "'%s' is no token", word);
			return -1;
		}
		break;
	}
	*ret = bytes_str(word);
	return 0;
}

/* The options given so far; they go behind the words, wherever people wrote them. */
struct tail {
	size_t argc;
	struct bytes argv[2 * COMMAND_OPTIONS_MAX];
	bool seen[COMMAND_OPTIONS_MAX];
};

/* Take the option at words[*i] and its value. 0, or -1. */
static int add_option(struct request *r, struct tail *tail, size_t n, char **words, size_t *i,
	char *why, size_t why_bytes)
{
	const struct command *c = r->command;
	size_t k = 0;

	while (k < COMMAND_OPTIONS_MAX && c->options[k].flag &&
		strcmp(words[*i], c->options[k].flag) != 0)
		k++;
	if (k == COMMAND_OPTIONS_MAX || !c->options[k].flag) {
		snprintf(why, why_bytes,
			"%s knows no option '%s' (write -- before words that begin with --)",
			c->name, words[*i]);
		return -1;
	}
	if (tail->seen[k]) {
		snprintf(why, why_bytes, "%s is there twice", words[*i]);
		return -1;
	}
	tail->seen[k] = true;
	tail->argv[tail->argc++] = bytes_str(c->options[k].verb);
	if (c->options[k].kind == WORD_NONE)
		return 0;
	if (*i + 1 >= n) {
		snprintf(why, why_bytes, "%s needs a value", words[*i]);
		return -1;
	}
	return encode_word(
		r, c->options[k].kind, words[++*i], &tail->argv[tail->argc++], why, why_bytes);
}

int request_build(struct request *ret, const struct command *command, size_t n, char **words,
	char *why, size_t why_bytes)
{
	size_t wanted = 0, found = 0;
	bool plain = false, complete = true;
	struct tail tail = {0};

	*ret = (struct request){.command = command, .argc = 1};
	ret->argv[0] = bytes_str(command->verb);
	while (wanted < COMMAND_WORDS_MAX && command->words[wanted] != WORD_NONE)
		wanted++;
	for (size_t i = 0; i < n; i++) {
		if (!plain && strcmp(words[i], "--") == 0) {
			plain = true;
		} else if (!plain && strncmp(words[i], "--", 2) == 0) {
			if (add_option(ret, &tail, n, words, &i, why, why_bytes) < 0)
				return -1;
		} else if (found++ < wanted) {
			if (found == 1 && !is_key(words[i], why, why_bytes))
				return -1;
			if (encode_word(ret, command->words[found - 1], words[i],
				    &ret->argv[ret->argc++], why, why_bytes) < 0)
				return -1;
		}
	}
	for (size_t k = 0; k < COMMAND_OPTIONS_MAX; k++)
		complete &= tail.seen[k] || !command->options[k].needed;
	if (found != wanted || !complete) {
		snprintf(why, why_bytes, "usage: locker %s%s%s", command->name,
			*command->usage ? " " : "", command->usage);
		return -1;
	}
	for (size_t i = 0; i < tail.argc; i++)
		ret->argv[ret->argc++] = tail.argv[i];
	return 0;
}
