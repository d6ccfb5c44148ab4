#include "shard/client.h"

#include <stdlib.h>

#include "base/hash.h"

/* OBSERVE, UNOBSERVE. An observer is a call that stays: the shard of its key sends a result for
 * each thing that happens there, which becomes a push. The command itself is answered when every
 * shard has told what is there at present. */

static struct call *observer_of(const struct client_conn *conn, struct bytes key)
{
	const struct list *all = &conn->observing;
	for (const struct list *at = all->next; at != all; at = at->next) {
		struct call *call = container_of(at, struct call, in_conn);
		if (bytes_eq(bytes_of(call->key, call->key_bytes), key))
			return call;
	}
	return NULL;
}

/* One shard has answered, or need not be asked. */
static void part_done(struct shard *s, struct client_conn *conn, uint32_t n, const struct result *r)
{
	struct slot *slot = pending_at(conn, n);
	if (r != NULL && r->outcome != OUT_OK)
		slot->failed = (uint8_t)r->outcome;
	if (--slot->parts_left > 0)
		return;
	struct buf *b = reply_open(s, conn, n, ERROR_MAX_BYTES);
	if (b != NULL && slot->failed != 0)
		resp_error(b, "LIMIT too many observers on this node; keys named last may not be "
			      "observed, UNOBSERVE those you can do without");
	else if (b != NULL)
		resp_simple(b, "OK");
	reply_close(s, conn, n, b);
}

static void observer_end(struct shard *s, struct call *call)
{
	call->conn->observers--;
	s->clients->observers--;
	call_free(s->clients, call);
}

static void push(struct shard *s, const struct call *call, const struct result *r)
{
	static const char *const events[] = {"granted", "updated", "released", "expired", "lost"};
	static const char head[] = ">5\r\n$7\r\nobserve\r\n";
	struct client_conn *conn = call->conn;
	bool has_value = r->event == OBSERVED_GRANTED || r->event == OBSERVED_UPDATED;
	if (!reply_room(s, conn, ERROR_MAX_BYTES + call->key_bytes + r->value.len))
		return;
	struct buf *b = &conn->link->out;
	(void)!buf_append(b, head, sizeof head - 1);
	resp_bulk(b, bytes_of(call->key, call->key_bytes));
	resp_bulk_str(b, events[r->event]);
	if (has_value)
		resp_bulk(b, r->value);
	else
		resp_null(b, true);
	if (r->token != 0)
		resp_int(b, (int64_t)r->token);
	else
		resp_null(b, true);
	env_dirty(s->env, conn->link);
}

void observer_result(struct shard *s, struct call *call, const struct result *r)
{
	struct client_conn *conn = call->conn;
	bool first = call->part;
	uint32_t slot = call->slot;
	call->part = false;
	if (conn->closing)
		return;
	if (r->outcome == OUT_OK)
		push(s, call, r);
	else
		observer_end(s, call);
	if (first && !conn->closing)
		part_done(s, conn, slot, r);
}

/* False: out of memory. */
static bool observer_new(struct shard *s, struct client_conn *conn, uint32_t slot, struct bytes key)
{
	struct event ev = {.type = EV_OP};
	struct call *call = call_new(s, conn);
	uint8_t *copy = call != NULL ? malloc(key.len) : NULL;
	if (copy == NULL) {
		if (call != NULL)
			call_free(s->clients, call);
		return false;
	}
	memcpy(copy, key.p, key.len);
	ev.op.kind = OP_OBSERVE;
	ev.op.key = key;
	ev.op.hash = hash_bytes(key);
	call->key = copy;
	call->key_bytes = (uint16_t)key.len;
	call->slot = slot;
	call->part = true;
	call->shard = (uint16_t)shard_of_hash(s, ev.op.hash);
	list_move_tail(&conn->observing, &call->in_conn);
	conn->observers++;
	s->clients->observers++;
	op_launch(s, call, &ev);
	return true;
}

static bool fail_limit(struct request *rq)
{
	const struct clients *c = rq->c;
	unsigned n = rq->argc - 1;
	if (rq->conn->observers + n > OBSERVERS_MAX)
		resp_error(rq->out, "LIMIT %d observed keys on this connection; use another one",
			OBSERVERS_MAX);
	else if (c->observers + n > c->calls_max / 4)
		resp_error(rq->out, "LIMIT %u observers on this thread; retry later",
			c->calls_max / 4);
	else
		return false;
	return true;
}

enum run observe_command(struct request *rq)
{
	struct shard *s = rq->s;
	struct client_conn *conn = rq->conn;
	if (!conn->resp3) {
		resp_error(rq->out, "ERR OBSERVE answers with pushes: say HELLO 3 first");
		return RUN_DONE;
	}
	for (unsigned i = 1; i < rq->argc; i++)
		if (!arg_key(rq, i))
			return RUN_DONE;
	for (unsigned i = 1; i < rq->argc; i++) {
		unsigned shard = shard_of_hash(s, hash_bytes(rq->argv[i]));
		if (shard != s->cfg.index && mailbox_crowded(s->mail, shard))
			return RUN_CROWDED;
	}
	if (fail_limit(rq))
		return RUN_DONE;
	uint32_t slot;
	if (!pending_push(conn, &slot)) {
		client_out_of_memory(s, conn);
		return RUN_PENDING;
	}
	pending_set_barrier(conn, slot);
	pending_at(conn, slot)->parts_left = rq->argc - 1;
	for (unsigned i = 1; i < rq->argc && !conn->closing; i++) {
		if (observer_of(conn, rq->argv[i]) != NULL)
			part_done(s, conn, slot, NULL);
		else if (!observer_new(s, conn, slot, rq->argv[i]))
			client_out_of_memory(s, conn);
	}
	return RUN_PENDING;
}

/* No result comes any more; one under way finds the call gone. */
static void observer_stop(struct shard *s, struct call *call)
{
	uint64_t tag = call_tag(s, call);
	unsigned shard = call->shard;
	observer_end(s, call);
	op_cancel(s, shard, tag);
}

void observers_stop(struct shard *s, struct client_conn *conn)
{
	while (!list_empty(&conn->observing)) {
		struct call *call = container_of(conn->observing.next, struct call, in_conn);
		bool unanswered = call->part;
		uint32_t slot = call->slot;
		observer_stop(s, call);
		if (unanswered && !conn->closing)
			part_done(s, conn, slot, NULL);
	}
}

enum run unobserve_command(struct request *rq)
{
	if (rq->argc == 1)
		observers_stop(rq->s, rq->conn);
	for (unsigned i = 1; i < rq->argc; i++) {
		struct call *call = observer_of(rq->conn, rq->argv[i]);
		if (call != NULL)
			observer_stop(rq->s, call);
	}
	return reply_ok(rq);
}
