#include "shard/client.h"

/* Locks in the words of Redis. */

static enum run refuse_set(struct request *rq)
{
	resp_error(rq->out,
		"ERR this is a lock server: SET key value NX PX ms|EX s takes a lock and SET key "
		"new-value IFEQ value [PX ms|EX s] changes one you hold. Without NX or IFEQ it "
		"would "
		"overwrite somebody's lock, and a lock without PX or EX would never end");
	return RUN_DONE;
}

/* A Redlock client that is given several of our nodes asks each of them for the same lock, with the
 * same value. */
bool is_redlock_key(const struct shard *s, struct bytes key)
{
	const char *at = s->cfg.redlock_idempotent;
	while (at != NULL && *at != '\0') {
		size_t n = strcspn(at, ",");
		bool all = n == 1 && *at == '*';
		if (all || (n > 0 && n <= key.len && memcmp(key.p, at, n) == 0))
			return true;
		at += n + (at[n] == ',');
	}
	return false;
}

struct set_options {
	bool nx, ifeq, other;
	bool lease; /* PX, EX or a form that is not served */
	unsigned old;
	unsigned ttl;
	int64_t ttl_unit_ms;
};

/* False: a syntax error. What Redis has and we refuse sets o->other. */
static bool set_parse(const struct request *rq, struct set_options *o)
{
	bool condition = false;
	for (unsigned i = 3; i < rq->argc; i++) {
		struct bytes word = rq->argv[i];
		bool more = i + 1 < rq->argc;
		bool px = arg_is(word, "PX");
		if (arg_is(word, "NX") && !condition) {
			o->nx = condition = true;
		} else if (arg_is(word, "IFEQ") && !condition && more) {
			o->ifeq = condition = true;
			o->old = ++i;
		} else if (arg_is(word, "XX") && !condition) {
			o->other = condition = true;
		} else if ((arg_is(word, "IFNE") || arg_is(word, "IFDEQ") ||
				   arg_is(word, "IFDNE")) &&
			   !condition && more) {
			o->other = condition = true;
			i++;
		} else if ((px || arg_is(word, "EX")) && !o->lease && more) {
			o->lease = true;
			o->ttl = ++i;
			o->ttl_unit_ms = px ? 1 : 1000;
		} else if ((arg_is(word, "EXAT") || arg_is(word, "PXAT")) && !o->lease && more) {
			o->lease = o->other = true;
			i++;
		} else if (arg_is(word, "KEEPTTL") && !o->lease) {
			o->lease = o->other = true;
		} else if (arg_is(word, "GET")) {
			o->other = true;
		} else {
			return false;
		}
	}
	return true;
}

enum run set_command(struct request *rq)
{
	struct set_options o = {.nx = false};
	struct event ev = {.type = EV_OP};
	struct op_request *op = &ev.op;
	if (!set_parse(rq, &o))
		return fail_syntax(rq);
	if (o.other || (!o.nx && !o.ifeq) || (o.nx && o.ttl == 0))
		return refuse_set(rq);
	if (!arg_key(rq, 1) || !arg_value(rq, 2))
		return RUN_DONE;
	if (o.ttl != 0 && !arg_ttl(rq, o.ttl, o.ttl_unit_ms, &op->ttl_ms))
		return RUN_DONE;
	op->has_ttl = o.ttl != 0;
	op->key = rq->argv[1];
	if (o.nx) {
		op->kind = OP_LOCK;
		op->value = rq->argv[2];
		op->idempotent = is_redlock_key(rq->s, op->key);
		return op_start(rq, &ev, (struct op_options){.reply = REPLY_SET});
	}
	if (!arg_value(rq, o.old))
		return RUN_DONE;
	op->kind = OP_UPDATE;
	op->value = rq->argv[o.old];
	op->new_value = rq->argv[2];
	return op_start(rq, &ev, (struct op_options){.reply = REPLY_SET_IFEQ});
}

static enum run read_as(struct request *rq, enum reply_kind reply)
{
	struct event ev = {.type = EV_OP};
	if (!arg_key(rq, 1))
		return RUN_DONE;
	ev.op.kind = OP_READ;
	ev.op.key = rq->argv[1];
	return op_start(rq, &ev, (struct op_options){.reply = reply});
}

enum run get_command(struct request *rq)
{
	return read_as(rq, REPLY_VALUE);
}

enum run ttl_command(struct request *rq)
{
	return read_as(rq, REPLY_TTL);
}

enum run pttl_command(struct request *rq)
{
	return read_as(rq, REPLY_PTTL);
}

enum run exists_command(struct request *rq)
{
	for (unsigned i = 1; i < rq->argc; i++)
		if (!arg_key(rq, i))
			return RUN_DONE;
	return rq->argc == 2 ? read_as(rq, REPLY_EXISTS) : op_start_exists(rq);
}

static enum run delete_if(struct request *rq, unsigned value)
{
	struct event ev = {.type = EV_OP};
	if (!arg_key(rq, 1) || !arg_value(rq, value))
		return RUN_DONE;
	ev.op.kind = OP_RELEASE;
	ev.op.key = rq->argv[1];
	ev.op.value = rq->argv[value];
	return op_start(rq, &ev, (struct op_options){.reply = REPLY_DELETED});
}

enum run delifeq_command(struct request *rq)
{
	return delete_if(rq, 2);
}

enum run delex_command(struct request *rq)
{
	if (rq->argc == 4 && arg_is(rq->argv[2], "IFEQ"))
		return delete_if(rq, 3);
	bool known =
		rq->argc == 4 && (arg_is(rq->argv[2], "IFNE") || arg_is(rq->argv[2], "IFDEQ") ||
					 arg_is(rq->argv[2], "IFDNE"));
	return rq->argc == 2 || known ? refused_delete_command(rq) : fail_syntax(rq);
}

enum run refused_delete_command(struct request *rq)
{
	resp_error(rq->out,
		"ERR %s does not say whose lock it means: use RELEASE key value, DELIFEQ key value "
		"or DELEX key IFEQ value",
		rq->command->name);
	return RUN_DONE;
}

enum run refused_expire_command(struct request *rq)
{
	resp_error(rq->out,
		"ERR %s does not say whose lock it means: use EXTEND key value ttl-ms or SET key "
		"value IFEQ value PX ms",
		rq->command->name);
	return RUN_DONE;
}

enum run refused_set_command(struct request *rq)
{
	return refuse_set(rq);
}

enum run refused_cluster_command(struct request *rq)
{
	resp_error(rq->out, "ERR This instance has cluster support disabled");
	return RUN_DONE;
}

/* ---- SCAN ---- */

enum run scan_command(struct request *rq)
{
	enum { COUNT_DEFAULT = 10, COUNT_MAX = 1000 };
	struct ask ask = {.question = ASK_SCAN, .count = COUNT_DEFAULT};
	bool counted = false;
	if (!arg_cursor(rq, 1, &ask))
		return RUN_DONE;
	for (unsigned i = 2; i < rq->argc; i += 2) {
		if (i + 1 == rq->argc)
			return fail_syntax(rq);
		if (arg_is(rq->argv[i], "MATCH") && !ask.has_text) {
			if (!arg_text(rq, i + 1, "pattern", PATTERN_MAX_BYTES, &ask))
				return RUN_DONE;
		} else if (arg_is(rq->argv[i], "COUNT") && !counted) {
			counted = true;
			if (!arg_count(rq, i + 1, COUNT_MAX, &ask))
				return RUN_DONE;
		} else {
			return fail_syntax(rq);
		}
	}
	return gather_start_one(rq, &ask);
}
