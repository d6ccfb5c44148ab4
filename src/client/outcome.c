#include <stdio.h>

#include "client/internal.h"

static const struct {
	enum locker_outcome outcome;
	const char *word, *sentence;
} outcomes[] = {
	{LOCKER_OK, "OK", "done"},
	{LOCKER_HELD, "HELD", "held by another"},
	{LOCKER_NOTOWNER, "NOTOWNER",
		"the key is held, and not with this value or token; stop using what it protects"},
	{LOCKER_NOTFOUND, "NOTFOUND", "the key is not held"},
	{LOCKER_NOQUORUM, "NOQUORUM", "too few masters are reachable or answer; try again later"},
	{LOCKER_UNKNOWN, "UNKNOWN",
		"it may or may not have taken effect; what was promised before still stands"},
	{LOCKER_BUSY, "BUSY", "rival requests held one another up; try again after a short pause"},
	{LOCKER_NOTREADY, "NOTREADY", "no node has a copy of the locks to answer from yet"},
	{LOCKER_LIMIT, "LIMIT", "a limit was exceeded"},
	{LOCKER_NONE, "NONE", "the key is not held"},
	{LOCKER_NOTLOCKED, "NOTLOCKED", "the key was not held at the start"},
	{LOCKER_REFUSED, "REFUSED", "the node refused the command"},
	{LOCKER_CONNECT, "CONNECT", "no node could be reached; nothing was sent"},
	{LOCKER_PROTOCOL, "PROTOCOL", "what answers there is no node of locker"},
	{LOCKER_TIMEOUT, "TIMEOUT",
		"no answer came in time; a lock is not yours, and may stay blocked for its lease"},
	{LOCKER_USAGE, "USAGE", "this call makes no sense; nothing was sent"},
	{LOCKER_LOST, "LOST", "the lock is not held, or not any more"},
	{LOCKER_MEMORY, "MEMORY", "out of memory or file descriptors"},
	{LOCKER_CLOSED, "CLOSED", "the client or the lock was freed before an answer came"},
};

enum { OUTCOMES = sizeof outcomes / sizeof *outcomes };

const char *locker_outcome_word(enum locker_outcome outcome)
{
	for (size_t i = 0; i < OUTCOMES; i++)
		if (outcomes[i].outcome == outcome)
			return outcomes[i].word;
	return "?";
}

const char *locker_outcome_sentence(enum locker_outcome outcome)
{
	for (size_t i = 0; i < OUTCOMES; i++)
		if (outcomes[i].outcome == outcome)
			return outcomes[i].sentence;
	return "no outcome of this library";
}

/* Words that nodes say, the first of an error. */
static enum locker_outcome outcome_of(struct bytes word)
{
	static const enum locker_outcome said[] = {LOCKER_NOTOWNER, LOCKER_NOTFOUND,
		LOCKER_NOQUORUM, LOCKER_UNKNOWN, LOCKER_BUSY, LOCKER_NOTREADY, LOCKER_LIMIT};

	for (size_t i = 0; i < sizeof said / sizeof *said; i++)
		if (bytes_eq(word, bytes_str(locker_outcome_word(said[i]))))
			return said[i];
	return LOCKER_REFUSED;
}

static void parse_error(struct bytes text, struct locker_reply *reply)
{
	const uint8_t *space = text.len > 0 ? memchr(text.p, ' ', text.len) : NULL;
	struct bytes word = text;

	if (space)
		word.len = (uint32_t)(space - text.p);
	reply->outcome = outcome_of(word);
	if (reply->outcome != LOCKER_REFUSED && space)
		text = bytes_of(space + 1, text.len - word.len - 1);
	(void)snprintf(
		reply->message, sizeof reply->message, "%.*s", (int)text.len, (const char *)text.p);
}

static bool take_value(struct bytes v, struct locker_reply *reply)
{
	if (v.len > LOCKER_VALUE_MAX_BYTES)
		return false;
	if (v.len > 0)
		memcpy(reply->value, v.p, v.len);
	reply->value[v.len] = '\0';
	reply->value_bytes = v.len;
	return true;
}

enum {
	HAS_TOKEN = 1,
	HAS_VALID = 2,
	HAS_QUORUM = 4,
	HAS_VALUE = 8,
	HAS_REMAINING = 16,
	HAS_LAG = 32,
};

/* The bit of the field taken, 0: an unknown one; -1: not as it should be. */
static int take_field(struct bytes name, const struct resp_value *v, struct locker_reply *reply)
{
	bool number = v->type == RESP_INT && v->num >= 0;

	if (bytes_eq(name, bytes_str("token"))) {
		reply->token = (uint64_t)v->num;
		return number && v->num > 0 ? HAS_TOKEN : -1;
	}
	if (bytes_eq(name, bytes_str("valid-ms"))) {
		reply->valid_ms = v->num;
		return number && v->num <= LEASE_MAX_MS * INT64_C(1000) ? HAS_VALID : -1;
	}
	if (bytes_eq(name, bytes_str("quorum"))) {
		reply->quorum = (unsigned)v->num;
		return number ? HAS_QUORUM : -1;
	}
	if (bytes_eq(name, bytes_str("votes")))
		reply->votes = (unsigned)v->num;
	else if (bytes_eq(name, bytes_str("commits")))
		reply->commits = (unsigned)v->num;
	else if (bytes_eq(name, bytes_str("held-ms")))
		reply->held_ms = v->num;
	else if (bytes_eq(name, bytes_str("node")))
		reply->node = (unsigned)v->num;
	else if (bytes_eq(name, bytes_str("client")))
		(void)snprintf(reply->client, sizeof reply->client, "%.*s", (int)v->str.len,
			v->str.len > 0 ? (const char *)v->str.p : "");
	if (bytes_eq(name, bytes_str("remaining-ms"))) {
		reply->remaining_ms = v->num;
		return number ? HAS_REMAINING : -1;
	}
	if (bytes_eq(name, bytes_str("value")))
		return v->type == RESP_BULK && take_value(v->str, reply) ? HAS_VALUE : -1;
	if (bytes_eq(name, bytes_str("ms"))) {
		reply->lag_ms = v->dbl;
		return v->type == RESP_DOUBLE ? HAS_LAG : -1;
	}
	return 0;
}

static bool parse_map(const struct resp_value *map, int wanted, struct locker_reply *reply)
{
	const struct resp_value *v = map + 1;
	int seen = 0;

	if (map->type != RESP_MAP)
		return false;
	for (int64_t i = 0; i < map->num; i++) {
		const struct resp_value *value = v + v->size;
		int bit = take_field(v->str, value, reply);
		if (bit < 0)
			return false;
		seen |= bit;
		v = value + value->size;
	}
	return (seen & wanted) == wanted;
}

static bool parse_word(const struct resp_value *v, const char *word)
{
	return v->type == RESP_SIMPLE && bytes_eq(v->str, bytes_str(word));
}

static enum locker_outcome null_means(enum locker_verb verb)
{
	return verb == LOCKER_LOCK || verb == LOCKER_WAITRELEASE ? LOCKER_HELD : LOCKER_NONE;
}

static bool may_be_null(enum locker_verb verb)
{
	return verb == LOCKER_LOCK || verb == LOCKER_READ || verb == LOCKER_HOLDER ||
	       verb == LOCKER_WAITFOR || verb == LOCKER_WAITRELEASE;
}

static bool parse_good(
	enum locker_verb verb, const struct resp_value *v, struct locker_reply *reply)
{
	switch (verb) {
	case LOCKER_LOCK:
	case LOCKER_UPDATE:
	case LOCKER_EXTEND:
		return parse_map(v, HAS_TOKEN | HAS_VALID | HAS_QUORUM, reply);
	case LOCKER_RELEASE:
		return parse_map(v, HAS_QUORUM, reply);
	case LOCKER_READ:
	case LOCKER_WAITFOR:
		return v->type == RESP_BULK && take_value(v->str, reply);
	case LOCKER_HOLDER:
		return parse_map(v, HAS_VALUE | HAS_TOKEN | HAS_REMAINING, reply);
	case LOCKER_CHECK:
		reply->outcome = v->num == 1 ? LOCKER_OK : LOCKER_NOTOWNER;
		return v->type == RESP_INT && (v->num == 0 || v->num == 1);
	case LOCKER_WAITRELEASE:
		reply->outcome = parse_word(v, "RELEASED") ? LOCKER_OK : LOCKER_NOTLOCKED;
		return parse_word(v, "RELEASED") || parse_word(v, "NOTLOCKED");
	case LOCKER_LAG:
		return parse_map(v, HAS_LAG | HAS_QUORUM, reply);
	}
	return false;
}

bool reply_parse(enum locker_verb verb, const struct resp_value *v, struct locker_reply *reply)
{
	if (v->type == RESP_ERR) {
		parse_error(v->str, reply);
		return true;
	}
	if (v->type == RESP_NULL && may_be_null(verb)) {
		reply->outcome = null_means(verb);
		return true;
	}
	reply->outcome = LOCKER_OK;
	return parse_good(verb, v, reply);
}
