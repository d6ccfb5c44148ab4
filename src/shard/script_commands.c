#include "shard/client.h"
#include "shard/scripts.h"

/* EVAL, EVALSHA and SCRIPT: arguments to operations. */

enum { HEX_BYTES = 2 * SHA1_BYTES };

/* Symfony compares the whole message, redsync and node-redlock its beginning. */
static enum run no_script(struct request *rq)
{
	resp_error(rq->out, "NOSCRIPT No matching script. Please use EVAL.");
	return RUN_DONE;
}

static void put_hex(const uint8_t digest[SHA1_BYTES], char ret[HEX_BYTES])
{
	static const char digits[] = "0123456789abcdef";
	for (unsigned i = 0; i < SHA1_BYTES; i++) {
		ret[2 * i] = digits[digest[i] >> 4];
		ret[2 * i + 1] = digits[digest[i] & 15];
	}
}

static bool take_hex(struct bytes hex, uint8_t ret[SHA1_BYTES])
{
	if (hex.len != HEX_BYTES)
		return false;
	for (unsigned i = 0; i < HEX_BYTES; i++) {
		uint8_t ch = hex.p[i];
		unsigned v;
		if (ch >= '0' && ch <= '9')
			v = ch - '0';
		else if ((ch | 0x20) >= 'a' && (ch | 0x20) <= 'f')
			v = (ch | 0x20) - 'a' + 10U;
		else
			return false;
		ret[i / 2] = (uint8_t)(i % 2 == 0 ? v << 4 : ret[i / 2] | v);
	}
	return true;
}

static int find_digest(struct bytes hex)
{
	uint8_t digest[SHA1_BYTES];
	return take_hex(hex, digest) ? script_by_digest(digest) : -1;
}

/* The form is told so that it can be reported and, if it is a lock's, be added. */
static enum run not_recognised(struct request *rq, const uint8_t form[SHA1_BYTES])
{
	char hex[HEX_BYTES];
	put_hex(form, hex);
	resp_error(rq->out,
		"ERR script not recognised (form %.*s): no Lua runs in this lock server, it "
		"answers "
		"the scripts that compare a value and delete, extend or take that lock. Use "
		"RELEASE "
		"key value (or DELEX key IFEQ value) and EXTEND key value ttl-ms (or SET key value "
		"IFEQ value PX ms)",
		HEX_BYTES, hex);
	return RUN_DONE;
}

/* script numkeys key arg ...: one key, and at least as many arguments as it uses. */
static bool take_counts(struct request *rq, const struct script *script)
{
	int64_t keys;
	if (!arg_number(rq, 2, INT64_MIN, INT64_MAX, &keys))
		return false;
	if (keys < 0)
		resp_error(rq->out, "ERR Number of keys can't be negative");
	else if (keys > (int64_t)rq->argc - 3)
		resp_error(rq->out, "ERR Number of keys can't be greater than number of args");
	else if (keys != 1)
		resp_error(rq->out,
			"ERR this script is answered for one key, not for %lld: locks of several "
			"keys are not taken or given back in one step here",
			(long long)keys);
	else if (rq->argc - 4 < script->args)
		resp_error(rq->out, "ERR this script needs %u arguments behind its key, not %u",
			script->args, rq->argc - 4);
	else
		return true;
	return false;
}

enum { KEY = 3, VALUE = 4, TTL = 5, MODE = 6 };

static enum run start(struct request *rq, unsigned index, struct event *ev)
{
	ev->op.key = rq->argv[KEY];
	if (scripts[index].args > 0)
		ev->op.value = rq->argv[VALUE];
	return op_start(rq, ev, (struct op_options){.reply = (uint8_t)(REPLY_SCRIPT + index)});
}

static enum run release(struct request *rq, unsigned index)
{
	struct event ev = {.type = EV_OP};
	ev.op.kind = OP_RELEASE;
	return start(rq, index, &ev);
}

static enum run lease(struct request *rq, unsigned index, enum op_kind kind, bool idempotent)
{
	struct event ev = {.type = EV_OP};
	if (!arg_ttl(rq, TTL, 1, &ev.op.ttl_ms))
		return RUN_DONE;
	ev.op.kind = kind;
	ev.op.has_ttl = true;
	ev.op.idempotent = idempotent;
	return start(rq, index, &ev);
}

static enum run answer(struct request *rq, unsigned index, const struct result *r)
{
	reply_result(rq->out, rq->conn->resp3, (enum reply_kind)(REPLY_SCRIPT + index), 0, r);
	return RUN_DONE;
}

/* What is left is asked for first, by quorum. The time from that answer to the extension comes on
 * top: longer, not shorter, than the sum. By its token it is the lease that was asked for, or none.
 */
static enum run add(struct request *rq, unsigned index)
{
	struct event ev = {.type = EV_OP};
	struct result left;
	enum run run;
	uint32_t add_ms;
	uint32_t max_ms = rq->s->cfg.engine.max_lease_ms;
	if (!arg_ttl(rq, TTL, 1, &add_ms))
		return RUN_DONE;
	if (!op_look_first(rq, rq->argv[KEY], &left, &run))
		return run;
	if (left.outcome == OUT_NULL)
		left.outcome = OUT_NOTFOUND;
	if (left.outcome != OUT_OK)
		return answer(rq, index, &left);
	uint64_t ms = add_ms + (left.remaining_ns + 999999) / 1000000;
	if (ms > max_ms) {
		resp_error(rq->out,
			"LIMIT lease %llu ms, with what is left of it, is above max-lease %u ms",
			(unsigned long long)ms, max_ms);
		return RUN_DONE;
	}
	ev.op.kind = OP_EXTEND;
	ev.op.has_ttl = ev.op.has_token = true;
	ev.op.ttl_ms = (uint32_t)ms;
	ev.op.token = left.token;
	return start(rq, index, &ev);
}

static enum run pttl(struct request *rq)
{
	struct event ev = {.type = EV_OP};
	ev.op.kind = OP_READ_QUORUM;
	ev.op.key = rq->argv[KEY];
	return op_start(rq, &ev, (struct op_options){.reply = REPLY_VALUE_PTTL});
}

static enum run run_script(struct request *rq, unsigned index)
{
	const struct script *script = &scripts[index];
	if (!take_counts(rq, script) || !arg_key(rq, KEY) ||
		(script->args > 0 && !arg_value(rq, VALUE)))
		return RUN_DONE;
	switch (script->verb) {
	case SCRIPT_RELEASE:
		return release(rq, index);
	case SCRIPT_EXTEND:
		return lease(rq, index, OP_EXTEND, false);
	case SCRIPT_ADD:
		return add(rq, index);
	case SCRIPT_ADD_OR_EXTEND:
		if (bytes_eq(rq->argv[MODE], bytes_str("0")))
			return add(rq, index);
		return lease(rq, index, OP_EXTEND, false);
	case SCRIPT_LOCK:
		return lease(rq, index, OP_LOCK, is_redlock_key(rq->s, rq->argv[KEY]));
	case SCRIPT_TAKE:
		return lease(rq, index, OP_LOCK, true);
	case SCRIPT_TAKE_OR_EXTEND: {
		bool take = bytes_eq(rq->argv[MODE], bytes_str("yes"));
		return lease(rq, index, take ? OP_LOCK : OP_EXTEND, take);
	}
	case SCRIPT_PTTL:
		return pttl(rq);
	}
	return no_script(rq);
}

/* All but one of them write, and a library that reads by script does not ask for that one so. */
static enum run refuse_read_only(struct request *rq)
{
	resp_error(rq->out, "ERR Write commands are not allowed from read-only scripts.");
	return RUN_DONE;
}

enum run eval_command(struct request *rq)
{
	uint8_t digest[SHA1_BYTES];
	uint8_t form[SHA1_BYTES];
	bool kept;
	int script = script_by_text(rq->argv[1], digest, form, &kept);
	return script < 0 ? not_recognised(rq, form) : run_script(rq, (unsigned)script);
}

enum run evalsha_command(struct request *rq)
{
	int script = find_digest(rq->argv[1]);
	return script < 0 ? no_script(rq) : run_script(rq, (unsigned)script);
}

enum run eval_ro_command(struct request *rq)
{
	uint8_t digest[SHA1_BYTES];
	uint8_t form[SHA1_BYTES];
	bool kept;
	if (script_by_text(rq->argv[1], digest, form, &kept) < 0)
		return not_recognised(rq, form);
	return refuse_read_only(rq);
}

enum run evalsha_ro_command(struct request *rq)
{
	return find_digest(rq->argv[1]) < 0 ? no_script(rq) : refuse_read_only(rq);
}

static enum run load(struct request *rq)
{
	uint8_t digest[SHA1_BYTES];
	uint8_t form[SHA1_BYTES];
	char hex[HEX_BYTES];
	bool kept;
	if (script_by_text(rq->argv[2], digest, form, &kept) < 0)
		return not_recognised(rq, form);
	if (!kept) {
		resp_error(rq->out, "LIMIT too many ways to write this script are kept; use EVAL");
		return RUN_DONE;
	}
	put_hex(digest, hex);
	resp_bulk(rq->out, bytes_of(hex, sizeof hex));
	return RUN_DONE;
}

enum run script_command(struct request *rq)
{
	if (arg_is(rq->argv[1], "LOAD"))
		return rq->argc == 3 ? load(rq) : fail_arguments(rq, "load");
	if (arg_is(rq->argv[1], "FLUSH")) {
		bool mode = rq->argc == 3 &&
			    (arg_is(rq->argv[2], "SYNC") || arg_is(rq->argv[2], "ASYNC"));
		return rq->argc == 2 || mode ? reply_ok(rq) : fail_syntax(rq);
	}
	if (!arg_is(rq->argv[1], "EXISTS"))
		return fail_subcommand(rq);
	if (rq->argc < 3)
		return fail_arguments(rq, "exists");
	resp_array(rq->out, rq->argc - 2);
	for (unsigned i = 2; i < rq->argc; i++)
		resp_int(rq->out, find_digest(rq->argv[i]) >= 0);
	return RUN_DONE;
}
