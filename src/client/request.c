#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "client/internal.h"

enum { WORDS_MAX = 8 };

#define WAIT_MAX_MS INT64_C(31536000000) /* a year; longer ones would be a mistake */

/* ---- what makes sense ---- */

static enum locker_outcome check_bytes(
	struct locker_bytes b, size_t max, const char **ret_why, const char *limit)
{
	if (b.bytes > 0 && !b.data) {
		*ret_why = "bytes without data";
		return LOCKER_USAGE;
	}
	*ret_why = limit;
	return b.bytes > max ? LOCKER_LIMIT : LOCKER_OK;
}

static bool has_key(enum locker_verb verb)
{
	return verb != LOCKER_LAG;
}

static bool has_ttl(enum locker_verb verb)
{
	return verb == LOCKER_LOCK || verb == LOCKER_EXTEND;
}

static bool has_value(enum locker_verb verb)
{
	return has_ttl(verb) || verb == LOCKER_UPDATE || verb == LOCKER_RELEASE;
}

static bool has_wait(enum locker_verb verb)
{
	return verb == LOCKER_LOCK || verb == LOCKER_WAITFOR || verb == LOCKER_WAITRELEASE;
}

static bool has_token(enum locker_verb verb)
{
	return verb == LOCKER_UPDATE || verb == LOCKER_EXTEND || verb == LOCKER_RELEASE ||
	       verb == LOCKER_CHECK;
}

static enum locker_outcome check_numbers(const struct locker_command *k, const char **ret_why)
{
	enum locker_outcome bad = LOCKER_USAGE;

	if (has_ttl(k->verb) && (k->ttl_ms < 1 || k->ttl_ms > LEASE_MAX_MS))
		*ret_why = "a lease is 1 ms to 24 h";
	else if (has_wait(k->verb) && (k->wait_ms < 0 || k->wait_ms > WAIT_MAX_MS))
		*ret_why = "a wait is 0 ms to a year";
	else if (has_token(k->verb) && k->token > BALLOT_MAX)
		*ret_why = "a token has at most 53 bits";
	else if (k->verb == LOCKER_CHECK && k->token == 0)
		*ret_why = "no token to check";
	else
		bad = LOCKER_OK;
	return bad;
}

enum locker_outcome command_check(const struct locker_command *command, const char **ret_why)
{
	enum locker_outcome bad = LOCKER_OK;

	if ((unsigned)command->verb > LOCKER_LAG) {
		*ret_why = "no such command";
		return LOCKER_USAGE;
	}
	if (has_key(command->verb)) {
		if (command->key.bytes == 0) {
			*ret_why = "a key has at least 1 byte";
			return LOCKER_USAGE;
		}
		bad = check_bytes(
			command->key, LOCKER_KEY_MAX_BYTES, ret_why, "a key has at most 512 bytes");
	}
	if (bad == LOCKER_OK && has_value(command->verb))
		bad = check_bytes(command->value, LOCKER_VALUE_MAX_BYTES, ret_why,
			"a value has at most 4096 bytes");
	if (bad == LOCKER_OK && command->verb == LOCKER_UPDATE)
		bad = check_bytes(command->new_value, LOCKER_VALUE_MAX_BYTES, ret_why,
			"a value has at most 4096 bytes");
	return bad == LOCKER_OK ? check_numbers(command, ret_why) : bad;
}

/* ---- making ---- */

static int64_t later(int64_t ns, int64_t more_ns)
{
	return ns > NEVER_NS - more_ns ? NEVER_NS : ns + more_ns;
}

static void request_timeout(struct locker_client *c, struct timer *t)
{
	struct request *r = container_of(t, struct request, timer);
	bool over = c->now_ns >= r->end_ns;
	struct conn *conn = r->conn;
	bool was_sent = r->on_wire;

	if (over) {
		list_remove(&r->link);
		r->unsure |= was_sent;
	}
	/* Answers come in order: without this one there are none behind it. */
	if (was_sent)
		conn_give_up(conn, "no answer in time");
	if (over)
		request_fail(c, r, LOCKER_CONNECT, "no answer in time");
	else if (!was_sent)
		timer_set(&c->timers, &r->timer, r->end_ns);
}

static struct locker_bytes keep(uint8_t **to, struct locker_bytes from)
{
	struct locker_bytes kept = {.data = *to, .bytes = from.bytes};

	if (from.bytes > 0)
		memcpy(*to, from.data, from.bytes);
	*to += from.bytes;
	return kept;
}

struct request *request_submit(struct locker_client *c, const struct locker_command *command,
	int64_t timeout_ns, int64_t answer_ns, request_fn done, void *context)
{
	struct locker_command k = *command;

	if (c->closing)
		return NULL;
	if (!has_key(k.verb))
		k.key.bytes = 0;
	if (!has_value(k.verb))
		k.value.bytes = 0;
	if (k.verb != LOCKER_UPDATE)
		k.new_value.bytes = 0;
	if (!has_wait(k.verb))
		k.wait_ms = 0;
	struct request *r = malloc(sizeof *r + k.key.bytes + k.value.bytes + k.new_value.bytes);
	if (!r)
		return NULL;
	if (timer_reserve(&c->timers) < 0) {
		free(r);
		return NULL;
	}
	*r = (struct request){.command = k,
		.timer.fire = request_timeout,
		.done = done,
		.context = context,
		.answer_ns = answer_ns,
		.wait_end_ns = later(c->now_ns, k.wait_ms * NS_PER_MS)};
	r->end_ns = later(r->wait_end_ns, timeout_ns);
	uint8_t *to = r->text;
	r->command.key = keep(&to, k.key);
	r->command.value = keep(&to, k.value);
	r->command.new_value = keep(&to, k.new_value);
	list_init(&r->link);
	if (conn_dispatch(c, r) == 0)
		return r;
	timer_unreserve(&c->timers);
	free(r);
	return NULL;
}

void request_release(struct locker_client *c, const struct locker_command *of, uint64_t token)
{
	struct locker_command release = {
		.verb = LOCKER_RELEASE, .key = of->key, .value = of->value, .token = token};

	struct request *r = request_submit(c, &release, c->call_ns, c->answer_ns, NULL, NULL);
	if (r)
		request_to_background(c, r);
}

void request_to_background(struct locker_client *c, struct request *r)
{
	r->background = true;
	c->background++;
}

bool request_waits(const struct request *r)
{
	return r->command.wait_ms > 0;
}

enum lane request_lane(const struct request *r)
{
	if (request_waits(r))
		return LANE_WAIT;
	return r->command.verb == LOCKER_EXTEND || r->command.verb == LOCKER_RELEASE ? LANE_KEEP
										     : LANE_ASK;
}

/* ---- the words of a command ---- */

struct words {
	struct bytes at[WORDS_MAX];
	size_t n;
	char numbers[3][24];
	size_t n_numbers;
};

static void add_text(struct words *w, const char *text)
{
	w->at[w->n++] = bytes_str(text);
}

static void add_bytes(struct words *w, struct locker_bytes b)
{
	w->at[w->n++] = bytes_of(b.data, b.bytes);
}

static void add_number(struct words *w, int64_t v)
{
	char *text = w->numbers[w->n_numbers++];

	(void)snprintf(text, sizeof w->numbers[0], "%" PRId64, v);
	add_text(w, text);
}

static void add_options(struct words *w, const struct request *r, int64_t wait_ms)
{
	const struct locker_command *k = &r->command;

	if (k->verb == LOCKER_CHECK) {
		add_number(w, (int64_t)k->token);
	} else if (has_token(k->verb) && k->token > 0) {
		add_text(w, "TOKEN");
		add_number(w, (int64_t)k->token);
	}
	if (k->verb == LOCKER_WAITFOR || k->verb == LOCKER_WAITRELEASE)
		add_number(w, wait_ms);
	if (k->verb != LOCKER_LOCK) {
		if (k->quorum && (k->verb == LOCKER_READ || k->verb == LOCKER_HOLDER))
			add_text(w, "QUORUM");
		return;
	}
	if (wait_ms > 0) {
		add_text(w, "WAIT");
		add_number(w, wait_ms);
	}
	if (k->idempotent || r->unsure)
		add_text(w, "IDEMPOTENT");
}

int request_encode(struct request *r, struct locker_client *c, struct buf *out)
{
	static const char *const verbs[] = {[LOCKER_LOCK] = "LOCK",
		[LOCKER_UPDATE] = "UPDATE",
		[LOCKER_EXTEND] = "EXTEND",
		[LOCKER_RELEASE] = "RELEASE",
		[LOCKER_READ] = "READ",
		[LOCKER_HOLDER] = "HOLDER",
		[LOCKER_CHECK] = "CHECK",
		[LOCKER_WAITFOR] = "WAITFOR",
		[LOCKER_WAITRELEASE] = "WAITRELEASE",
		[LOCKER_LAG] = "LAG"};
	const struct locker_command *k = &r->command;
	int64_t wait_left_ns = r->wait_end_ns > c->now_ns ? r->wait_end_ns - c->now_ns : 0;
	struct words w = {0};

	if (!has_wait(k->verb))
		wait_left_ns = 0;
	add_text(&w, verbs[k->verb]);
	if (has_key(k->verb))
		add_bytes(&w, k->key);
	if (has_value(k->verb))
		add_bytes(&w, k->value);
	if (k->verb == LOCKER_UPDATE)
		add_bytes(&w, k->new_value);
	if (has_ttl(k->verb))
		add_number(&w, k->ttl_ms);
	add_options(&w, r, (wait_left_ns + NS_PER_MS - 1) / NS_PER_MS);
	if (resp_command(out, w.n, w.at) < 0)
		return -ENOBUFS;
	r->sent_at = c->now;
	r->on_wire = true;
	r->attempts++;
	int64_t patience_ns = later(c->now_ns, later(wait_left_ns, r->answer_ns));
	timer_set(&c->timers, &r->timer, patience_ns < r->end_ns ? patience_ns : r->end_ns);
	return 0;
}

/* ---- ends ---- */

static void finish(struct locker_client *c, struct request *r, struct locker_reply *reply)
{
	timer_cancel(&c->timers, &r->timer);
	timer_unreserve(&c->timers);
	reply->attempts = r->attempts;
	if (r->done)
		r->done(c, r, reply);
	if (r->background && --c->background == 0) {
		c->given_back = true;
		pthread_cond_broadcast(&c->changed);
	}
	free(r);
}

static void reply_clear(struct locker_reply *reply)
{
	/* The value is large and rarely there. */
	memset(reply, 0, offsetof(struct locker_reply, value));
	reply->value[0] = '\0';
}

static int64_t left_ms(const struct locker_client *c, const struct request *r, int64_t valid_ms)
{
	int64_t boot_ns = c->now.boot_ns - r->sent_at.boot_ns;
	int64_t raw_ns = c->now.raw_ns - r->sent_at.raw_ns;
	int64_t left_ns = valid_ms * NS_PER_MS - (boot_ns > raw_ns ? boot_ns : raw_ns);

	return left_ns > 0 ? left_ns / NS_PER_MS : 0;
}

static bool changes(enum locker_verb verb)
{
	return verb == LOCKER_EXTEND || verb == LOCKER_RELEASE || verb == LOCKER_UPDATE;
}

/* What this node cannot say another one may, for it may have a copy, or links to a majority. */
static bool asks_another(const struct request *r, enum locker_outcome said)
{
	if (said == LOCKER_UNKNOWN)
		return r->command.verb != LOCKER_UPDATE || r->command.token > 0;
	return said == LOCKER_NOTREADY || said == LOCKER_NOQUORUM;
}

/* "Nothing changed" is true of the last try alone where an earlier one may have got through. */
static enum locker_outcome of_all_tries(const struct request *r, enum locker_outcome last)
{
	bool did_nothing = last == LOCKER_NOQUORUM || last == LOCKER_NOTREADY ||
			   last == LOCKER_BUSY || last == LOCKER_LIMIT || last == LOCKER_REFUSED;

	if (!r->unsure || !did_nothing)
		return last;
	if (changes(r->command.verb))
		return LOCKER_UNKNOWN;
	/* NOQUORUM promises no more of a LOCK than this does. */
	return r->command.verb == LOCKER_LOCK && last != LOCKER_NOQUORUM ? LOCKER_TIMEOUT : last;
}

int request_answer(struct locker_client *c, struct request *r, const struct resp_value *v)
{
	struct locker_reply reply;

	reply_clear(&reply);
	if (!reply_parse(r->command.verb, v, &reply))
		return -EPROTO;
	if (asks_another(r, reply.outcome) && ++r->refusals < c->n_nodes && c->now_ns < r->end_ns) {
		r->unsure |= reply.outcome == LOCKER_UNKNOWN ||
			     (reply.outcome == LOCKER_NOQUORUM && r->command.verb == LOCKER_LOCK);
		r->refusal = reply.outcome;
		return -EAGAIN;
	}
	reply.outcome = of_all_tries(r, reply.outcome);
	reply.left_ms = left_ms(c, r, reply.valid_ms);
	finish(c, r, &reply);
	return 0;
}

void request_fail(
	struct locker_client *c, struct request *r, enum locker_outcome failure, const char *why)
{
	struct locker_reply reply;

	reply_clear(&reply);
	reply.outcome = failure;
	if (failure != LOCKER_CLOSED) {
		if (r->unsure)
			reply.outcome = changes(r->command.verb) ? LOCKER_UNKNOWN : LOCKER_TIMEOUT;
		else if (r->refusal != LOCKER_OK)
			reply.outcome = r->refusal;
	}
	(void)snprintf(reply.message, sizeof reply.message, "%s", why);
	finish(c, r, &reply);
}

bool request_may_repeat(const struct locker_client *c, const struct request *r)
{
	if (!r->unsure)
		return true;
	if (r->command.verb == LOCKER_UPDATE && r->command.token == 0)
		return false;
	/* Nodes that break down over this command: it stops somewhere. */
	return c->now_ns < r->end_ns && r->attempts <= 2 * c->n_nodes;
}

/* ---- for those who wait, and those who are called ---- */

void reply_copy(struct locker_reply *ret, const struct locker_reply *reply)
{
	if (ret)
		memcpy(ret, reply, offsetof(struct locker_reply, value) + reply->value_bytes + 1);
}

enum locker_outcome reply_usage(
	struct locker_reply *ret, enum locker_outcome outcome, const char *why)
{
	if (ret) {
		reply_clear(ret);
		ret->outcome = outcome;
		(void)snprintf(ret->message, sizeof ret->message, "%s", why);
	}
	return outcome;
}
