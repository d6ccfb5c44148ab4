#include "shard/client.h"

#include <stdio.h>

/* The lock commands of commands.md: arguments to operations. */

bool arg_token(struct request *rq, unsigned i, struct op_request *op)
{
	if (i == rq->argc)
		return true;
	if (i + 2 != rq->argc || !arg_is(rq->argv[i], "TOKEN")) {
		fail_syntax(rq);
		return false;
	}
	int64_t token;
	if (!arg_number(rq, i + 1, 1, (int64_t)BALLOT_MAX, &token))
		return false;
	op->has_token = true;
	op->token = (uint64_t)token;
	return true;
}

static bool take_wait(struct request *rq, unsigned i, uint64_t *ret_ms)
{
	int64_t ms;
	if (!arg_number(rq, i, 0, INT64_MAX, &ms))
		return false;
	if (ms > WAIT_MAX_MS) {
		resp_error(rq->out, "LIMIT wait of %lld ms is above the limit of %d ms",
			(long long)ms, WAIT_MAX_MS);
		return false;
	}
	*ret_ms = (uint64_t)ms;
	return true;
}

enum run lock_command(struct request *rq)
{
	struct event ev = {.type = EV_OP};
	struct op_request *op = &ev.op;
	bool waits = false, async = false;
	if (!arg_key(rq, 1) || !arg_value(rq, 2) || !arg_ttl(rq, 3, 1, &op->ttl_ms))
		return RUN_DONE;
	op->kind = OP_LOCK;
	op->key = rq->argv[1];
	op->value = rq->argv[2];
	op->has_ttl = true;
	for (unsigned i = 4; i < rq->argc; i++) {
		if (arg_is(rq->argv[i], "WAIT") && !waits && i + 1 < rq->argc) {
			if (!take_wait(rq, ++i, &op->wait_ms))
				return RUN_DONE;
			waits = true;
		} else if (arg_is(rq->argv[i], "IDEMPOTENT") && !op->idempotent) {
			op->idempotent = true;
		} else if (arg_is(rq->argv[i], "ASYNC") && !async) {
			async = true;
		} else {
			return fail_syntax(rq);
		}
	}
	if (async && (!waits || !rq->conn->resp3)) {
		resp_error(
			rq->out, "ERR ASYNC goes with WAIT, and needs RESP3: send HELLO 3 first");
		return RUN_DONE;
	}
	op->wait = op->wait_ms > 0 || async;
	return op_start(rq, &ev, (struct op_options){.reply = REPLY_LOCK, .async = async});
}

enum run cancel_command(struct request *rq)
{
	int64_t id;
	if (!arg_number(rq, 1, 0, INT64_MAX, &id))
		return RUN_DONE;
	/* A push that was on its way is in the output before this answer. */
	resp_int(rq->out, async_cancel(rq->s, rq->conn, (uint64_t)id));
	return RUN_DONE;
}

enum run update_command(struct request *rq)
{
	struct event ev = {.type = EV_OP};
	struct op_request *op = &ev.op;
	if (!arg_key(rq, 1) || !arg_value(rq, 2) || !arg_value(rq, 3) || !arg_token(rq, 4, op))
		return RUN_DONE;
	op->kind = OP_UPDATE;
	op->key = rq->argv[1];
	op->value = rq->argv[2];
	op->new_value = rq->argv[3];
	return op_start(rq, &ev, (struct op_options){.reply = REPLY_GRANT});
}

enum run extend_command(struct request *rq)
{
	struct event ev = {.type = EV_OP};
	struct op_request *op = &ev.op;
	if (!arg_key(rq, 1) || !arg_value(rq, 2) || !arg_ttl(rq, 3, 1, &op->ttl_ms) ||
		!arg_token(rq, 4, op))
		return RUN_DONE;
	op->kind = OP_EXTEND;
	op->key = rq->argv[1];
	op->value = rq->argv[2];
	op->has_ttl = true;
	return op_start(rq, &ev, (struct op_options){.reply = REPLY_GRANT});
}

enum run release_command(struct request *rq)
{
	struct event ev = {.type = EV_OP};
	struct op_request *op = &ev.op;
	if (!arg_key(rq, 1) || !arg_value(rq, 2) || !arg_token(rq, 3, op))
		return RUN_DONE;
	op->kind = OP_RELEASE;
	op->key = rq->argv[1];
	op->value = rq->argv[2];
	return op_start(rq, &ev, (struct op_options){.reply = REPLY_RELEASE});
}

/* key [QUORUM] */
static enum run look(struct request *rq, enum reply_kind reply)
{
	struct event ev = {.type = EV_OP};
	if (!arg_key(rq, 1))
		return RUN_DONE;
	if (rq->argc == 3 && !arg_is(rq->argv[2], "QUORUM"))
		return fail_syntax(rq);
	ev.op.kind = rq->argc == 3 ? OP_READ_QUORUM : OP_READ;
	ev.op.key = rq->argv[1];
	return op_start(rq, &ev, (struct op_options){.reply = reply});
}

enum run read_command(struct request *rq)
{
	return look(rq, REPLY_VALUE);
}

enum run holder_command(struct request *rq)
{
	return look(rq, REPLY_HOLDER);
}

enum run check_command(struct request *rq)
{
	struct event ev = {.type = EV_OP};
	int64_t token;
	if (!arg_key(rq, 1) || !arg_number(rq, 2, 0, INT64_MAX, &token))
		return RUN_DONE;
	ev.op.kind = OP_READ_QUORUM;
	ev.op.key = rq->argv[1];
	return op_start(
		rq, &ev, (struct op_options){.reply = REPLY_CHECK, .token = (uint64_t)token});
}

static enum run wait_here(struct request *rq, enum op_kind kind, enum reply_kind reply)
{
	struct event ev = {.type = EV_OP};
	if (!arg_key(rq, 1) || !take_wait(rq, 2, &ev.op.wait_ms))
		return RUN_DONE;
	ev.op.kind = kind;
	ev.op.key = rq->argv[1];
	ev.op.wait = true;
	return op_start(rq, &ev, (struct op_options){.reply = reply});
}

enum run waitfor_command(struct request *rq)
{
	return wait_here(rq, OP_WAITFOR, REPLY_VALUE);
}

enum run waitrelease_command(struct request *rq)
{
	return wait_here(rq, OP_WAITRELEASE, REPLY_WAITRELEASE);
}

enum run lag_command(struct request *rq)
{
	struct shard *s = rq->s;
	struct event ev = {.type = EV_OP};
	uint8_t key[KEY_MAX_BYTES];
	memcpy(key, PROBE_PREFIX, PROBE_PREFIX_BYTES);
	/* A key of its own each time: probes never meet. */
	int n = snprintf((char *)key + PROBE_PREFIX_BYTES, sizeof key - PROBE_PREFIX_BYTES,
		"%u:%u:%llx:%llu", s->cfg.engine.self, s->cfg.index, (unsigned long long)s->cfg.inc,
		(unsigned long long)++rq->c->probes);
	ev.op.kind = OP_LAG;
	ev.op.key = bytes_of(key, PROBE_PREFIX_BYTES + (size_t)n);
	ev.op.value = bytes_str("lag");
	ev.op.ttl_ms = s->cfg.engine.max_lease_ms < 1000 ? s->cfg.engine.max_lease_ms : 1000;
	ev.op.has_ttl = true;
	return op_start(rq, &ev, (struct op_options){.reply = REPLY_LAG});
}
