#include "shard/client.h"

#include <stdlib.h>

#include "base/check.h"
#include "base/hash.h"

/* Operations in flight. A key belongs to one thread of the node; its engine may run here or there.
 *
 *   here:   op_start -> shard_step ... client_result -> reply
 *   there:  op_start -> MAIL_OP -> shard_step ... client_result -> MAIL_RESULT -> reply
 *
 * The tag names the call at home. A call that was given up gets a new generation, so a result that
 * comes late finds nothing. */

enum {
	TAG_THREAD_SHIFT = 56,
	TAG_INDEX_SHIFT = 32,
};
#define CALL_NONE UINT32_MAX

/* Followed by key, value, new value and client name. */
struct mail_op {
	struct op_request op;
	uint64_t asked_mclk;
};

/* Followed by value and client name. */
struct mail_result {
	struct result result;
};

_Static_assert(
	sizeof(struct mail_op) + KEY_MAX_BYTES + 2UL * VALUE_MAX_BYTES + CLIENT_NAME_MAX_BYTES <=
		MAIL_MAX_BYTES,
	"an operation fits one record");

/* ---- the pool ---- */

static struct call *call_at(const struct clients *c, uint32_t index)
{
	return &c->chunks[index / CALLS_CHUNK][index % CALLS_CHUNK];
}

static bool add_chunk(struct clients *c)
{
	if (c->n_chunks == c->chunks_max)
		return false;
	struct call *chunk = calloc(CALLS_CHUNK, sizeof *chunk);
	if (chunk == NULL)
		return false;
	uint32_t first = c->n_chunks * CALLS_CHUNK;
	for (uint32_t i = 0; i < CALLS_CHUNK; i++) {
		chunk[i].index = first + i;
		chunk[i].next_free = i + 1 < CALLS_CHUNK ? first + i + 1 : c->free_call;
	}
	c->chunks[c->n_chunks++] = chunk;
	c->free_call = first;
	return true;
}

static bool calls_available(struct clients *c, uint32_t n)
{
	return c->calls_max - c->calls_used >= n;
}

struct call *call_new(struct shard *s, struct client_conn *conn)
{
	struct clients *c = s->clients;
	if (!calls_available(c, 1) || (c->free_call == CALL_NONE && !add_chunk(c)))
		return NULL;
	struct call *call = call_at(c, c->free_call);
	c->free_call = call->next_free;
	c->calls_used++;
	*call = (struct call){
		.conn = conn,
		.index = call->index,
		.generation = call->generation + 1,
		.used = true,
		.resp3 = conn->resp3,
		.shard = (uint16_t)s->cfg.index,
	};
	list_add_tail(&conn->calls, &call->in_conn);
	return call;
}

void call_free(struct clients *c, struct call *call)
{
	CHECK(call->used);
	free(call->note);
	free(call->key);
	call->note = NULL;
	call->key = NULL;
	list_remove(&call->in_conn);
	call->used = false;
	call->next_free = c->free_call;
	c->free_call = call->index;
	c->calls_used--;
}

uint64_t call_tag(const struct shard *s, const struct call *call)
{
	return (uint64_t)s->cfg.index << TAG_THREAD_SHIFT |
	       (uint64_t)call->index << TAG_INDEX_SHIFT | call->generation;
}

static unsigned thread_of_tag(uint64_t tag)
{
	return (unsigned)(tag >> TAG_THREAD_SHIFT);
}

struct call *call_of_tag(struct shard *s, uint64_t tag)
{
	struct clients *c = s->clients;
	uint32_t index = (uint32_t)(tag >> TAG_INDEX_SHIFT) & ((1U << CALL_INDEX_BITS) - 1);
	CHECK(thread_of_tag(tag) == s->cfg.index);
	CHECK(index < c->n_chunks * CALLS_CHUNK);
	struct call *call = call_at(c, index);
	return call->used && call->generation == (uint32_t)tag ? call : NULL;
}

void calls_free(struct clients *c)
{
	for (uint32_t i = 0; i < c->n_chunks; i++) {
		for (uint32_t k = 0; k < CALLS_CHUNK; k++) {
			struct call *call = &c->chunks[i][k];
			if (call->used && call->gather != NULL)
				gather_free(call->gather);
			free(call->note);
			free(call->key);
		}
		free(c->chunks[i]);
	}
	free(c->chunks);
}

/* ---- start ---- */

static struct bytes client_label(const struct client_conn *conn)
{
	if (conn->name_bytes > 0)
		return bytes_of(conn->name, conn->name_bytes);
	struct bytes addr = bytes_str(conn->link->addr);
	if (addr.len > CLIENT_NAME_MAX_BYTES)
		addr.len = CLIENT_NAME_MAX_BYTES;
	return addr;
}

static uint8_t *put_view(uint8_t *p, struct bytes b)
{
	if (b.len > 0)
		memcpy(p, b.p, b.len);
	return p + b.len;
}

static struct bytes take_view(const uint8_t **p, uint32_t len)
{
	struct bytes b = bytes_of(*p, len);
	*p += len;
	return b;
}

static void mail_op_send(struct shard *s, unsigned to, const struct op_request *op)
{
	size_t bytes = sizeof(struct mail_op) + op->key.len + op->value.len + op->new_value.len +
		       op->client.len;
	struct mail_op *m = mailbox_put(s->mail, to, MAIL_OP, bytes);
	m->op = *op;
	m->asked_mclk = s->now.mclk;
	uint8_t *p = put_view((uint8_t *)(m + 1), op->key);
	p = put_view(p, op->value);
	p = put_view(p, op->new_value);
	put_view(p, op->client);
}

void op_launch(struct shard *s, struct call *call, struct event *ev)
{
	struct op_request *op = &ev->op;
	op->tag = call_tag(s, call);
	op->asked_fast_ns = s->now.fast;
	op->client = client_label(call->conn);
	if (call->shard == s->cfg.index)
		shard_step(s, ev);
	else
		mail_op_send(s, call->shard, op);
}

static bool may_wait_long(const struct op_request *op)
{
	return (op->kind == OP_LOCK && op->wait) || op->kind == OP_WAITFOR ||
	       op->kind == OP_WAITRELEASE;
}

static enum run fail_in_flight(struct request *rq)
{
	resp_error(rq->out,
		"LIMIT %u commands in flight on this thread; nothing changed, retry later",
		rq->c->calls_max);
	return RUN_DONE;
}

/* What a client calls a wait of its connection: never used twice while a call is remembered. */
static uint64_t async_id(const struct call *call)
{
	return (uint64_t)(call->generation & INT32_MAX) << CALL_INDEX_BITS | call->index;
}

static struct call *call_of_id(const struct clients *c, const struct client_conn *conn, uint64_t id)
{
	uint32_t index = (uint32_t)(id & ((1U << CALL_INDEX_BITS) - 1));
	struct call *call = index < c->n_chunks * CALLS_CHUNK ? call_at(c, index) : NULL;
	bool is_it = call != NULL && call->used && call->async && call->conn == conn &&
		     async_id(call) == id;
	return is_it ? call : NULL;
}

/* QUEUED goes out before the operation begins, which may end at once. */
static enum run op_start_async(
	struct request *rq, struct event *ev, struct op_options options, unsigned shard)
{
	struct client_conn *conn = rq->conn;
	if (!pending_empty(conn))
		return RUN_WAIT;
	if (conn->lines == LINES_MAX) {
		resp_error(rq->out,
			"LIMIT %d locks waited for on this connection; nothing changed, "
			"use another connection",
			LINES_MAX);
		return RUN_DONE;
	}
	struct call *call = call_new(rq->s, conn);
	if (call == NULL)
		return fail_in_flight(rq);
	call->shard = (uint16_t)shard;
	call->reply = options.reply;
	call->async = true;
	list_move_tail(&conn->in_line, &call->in_conn);
	conn->lines++;
	resp_array(rq->out, 2);
	resp_simple(rq->out, "QUEUED");
	resp_int(rq->out, (int64_t)async_id(call));
	op_launch(rq->s, call, ev);
	return RUN_DONE;
}

enum run op_start(struct request *rq, struct event *ev, struct op_options options)
{
	struct shard *s = rq->s;
	struct client_conn *conn = rq->conn;
	struct op_request *op = &ev->op;
	ev->type = EV_OP;
	op->hash = hash_bytes(op->key);
	uint32_t key_hash = (uint32_t)(op->hash >> 32);
	if (pending_busy(conn, key_hash))
		return RUN_WAIT;
	unsigned shard = shard_of_hash(s, op->hash);
	if (shard != s->cfg.index && mailbox_crowded(s->mail, shard))
		return RUN_CROWDED;
	if (options.async)
		return op_start_async(rq, ev, options, shard);
	bool waits = may_wait_long(op);
	if (waits && conn->waits == WAITS_MAX) {
		resp_error(rq->out,
			"LIMIT %d waiting commands on this connection; nothing changed, "
			"use another connection",
			WAITS_MAX);
		return RUN_DONE;
	}
	struct call *call = call_new(s, conn);
	if (call == NULL)
		return fail_in_flight(rq);
	call->note = options.note != NULL ? strdup(options.note) : NULL;
	if ((options.note != NULL && call->note == NULL) || !pending_push(conn, &call->slot)) {
		call_free(rq->c, call);
		client_out_of_memory(s, conn);
		return RUN_PENDING;
	}
	pending_set_key(conn, call->slot, key_hash);
	call->shard = (uint16_t)shard;
	call->reply = options.reply;
	call->token = options.token;
	call->waits = waits;
	conn->waits += waits;
	op_launch(s, call, ev);
	return RUN_PENDING;
}

static bool look_end(struct request *rq, enum run run, enum run *ret_run)
{
	rq->conn->look = LOOK_NONE;
	*ret_run = run;
	return false;
}

bool op_look_first(struct request *rq, struct bytes key, struct result *ret, enum run *ret_run)
{
	struct shard *s = rq->s;
	struct client_conn *conn = rq->conn;
	struct event ev = {.type = EV_OP};
	ev.op.kind = OP_READ_QUORUM;
	ev.op.key = key;
	ev.op.hash = hash_bytes(key);
	*ret_run = RUN_WAIT;
	if (conn->look == LOOK_NONE) {
		unsigned shard = shard_of_hash(s, ev.op.hash);
		if (rq->inlined) {
			resp_error(
				rq->out, "ERR this is not answered as a plain line: send an array");
			return look_end(rq, RUN_DONE, ret_run);
		}
		if (pending_busy(conn, (uint32_t)(ev.op.hash >> 32)))
			return false;
		if (shard != s->cfg.index && mailbox_crowded(s->mail, shard))
			return look_end(rq, RUN_CROWDED, ret_run);
		struct call *call = call_new(s, conn);
		if (call == NULL)
			return look_end(rq, fail_in_flight(rq), ret_run);
		call->shard = (uint16_t)shard;
		call->look = true;
		conn->look = LOOK_ASKED;
		op_launch(s, call, &ev);
	}
	if (conn->look == LOOK_ASKED)
		return false;
	conn->look = LOOK_NONE;
	*ret = conn->looked;
	return true;
}

static void look_finish(struct shard *s, struct client_conn *conn, const struct result *r)
{
	conn->looked = *r;
	conn->looked.value = conn->looked.client = (struct bytes){0};
	conn->look = LOOK_DONE;
	client_progress(s, conn);
}

enum run op_start_exists(struct request *rq)
{
	struct shard *s = rq->s;
	struct client_conn *conn = rq->conn;
	uint32_t parts = rq->argc - 1;
	uint64_t hash[ARGS_MAX];
	if (conn->unfinished > 0)
		return RUN_WAIT;
	for (uint32_t i = 0; i < parts; i++) {
		hash[i] = hash_bytes(rq->argv[i + 1]);
		unsigned shard = shard_of_hash(s, hash[i]);
		if (shard != s->cfg.index && mailbox_crowded(s->mail, shard))
			return RUN_CROWDED;
	}
	if (!calls_available(rq->c, parts))
		return fail_in_flight(rq);
	uint32_t slot;
	if (!pending_push(conn, &slot)) {
		client_out_of_memory(s, conn);
		return RUN_PENDING;
	}
	pending_set_barrier(conn, slot);
	pending_at(conn, slot)->parts_left = parts;
	for (uint32_t i = 0; i < parts; i++) {
		struct call *call = call_new(s, conn);
		if (call == NULL) {
			client_out_of_memory(s, conn);
			break;
		}
		call->slot = slot;
		call->part = true;
		call->reply = REPLY_EXISTS;
		call->shard = (uint16_t)shard_of_hash(s, hash[i]);
		struct event ev = {.type = EV_OP};
		ev.op.kind = OP_READ;
		ev.op.key = rq->argv[i + 1];
		ev.op.hash = hash[i];
		op_launch(s, call, &ev);
	}
	return RUN_PENDING;
}

/* ---- end ---- */

static void part_finish(
	struct shard *s, struct client_conn *conn, uint32_t n, bool resp3, const struct result *r)
{
	struct slot *slot = pending_at(conn, n);
	if (r->outcome == OUT_OK)
		slot->sum++;
	else if (r->outcome != OUT_NULL && slot->failed == 0)
		slot->failed = (uint8_t)r->outcome;
	if (--slot->parts_left > 0)
		return;
	struct buf *b = reply_open(s, conn, n, ERROR_MAX_BYTES);
	if (b != NULL && slot->failed != 0) {
		struct result failed = {
			.kind = OP_READ, .outcome = slot->failed, .limit = r->limit};
		reply_result(b, resp3, REPLY_EXISTS, 0, &failed);
	} else if (b != NULL) {
		resp_int(b, slot->sum);
	}
	reply_close(s, conn, n, b);
}

/* NULL: the node stops. */
static void push_result(struct shard *s, const struct call *was, const struct result *r)
{
	struct client_conn *conn = was->conn;
	size_t bound_bytes = ERROR_MAX_BYTES + (r == NULL ? ERROR_MAX_BYTES : reply_bound_bytes(r));
	if (conn->closing || !reply_room(s, conn, bound_bytes))
		return;
	struct buf *out = &conn->link->out;
	resp_push(out, 3);
	resp_bulk_str(out, "lock");
	resp_int(out, (int64_t)async_id(was));
	if (r != NULL)
		reply_result(out, true, was->reply, was->token, r);
	else
		reply_draining(out);
	env_dirty(s->env, conn->link);
}

/* Its client may be gone: what has been done is told all the same. */
static void tell_log(const struct call *call, const struct result *r)
{
	if (call->note == NULL)
		return;
	if (r->outcome == OUT_OK)
		log_warn("%s: done", call->note);
	else if (r->outcome == OUT_UNKNOWN)
		log_warn("%s: not known whether that took effect", call->note);
}

static void call_finish(struct shard *s, struct call *call, const struct result *r)
{
	struct client_conn *conn = call->conn;
	tell_log(call, r);
	struct call was = *call;
	call_free(s->clients, call);
	if (conn == NULL)
		return;
	if (was.async) {
		conn->lines--;
		push_result(s, &was, r);
		return;
	}
	conn->waits -= was.waits;
	if (conn->closing)
		return;
	if (was.look) {
		look_finish(s, conn, r);
		return;
	}
	if (was.part) {
		part_finish(s, conn, was.slot, was.resp3, r);
		return;
	}
	struct buf *b = reply_open(s, conn, was.slot, reply_bound_bytes(r));
	if (b != NULL)
		reply_result(b, was.resp3, was.reply, was.token, r);
	reply_close(s, conn, was.slot, b);
}

static void mail_result_send(struct shard *s, unsigned to, const struct result *r)
{
	size_t bytes = sizeof(struct mail_result) + r->value.len + r->client.len;
	CHECK(bytes <= MAIL_MAX_BYTES);
	struct mail_result *m = mailbox_put(s->mail, to, MAIL_RESULT, bytes);
	m->result = *r;
	put_view(put_view((uint8_t *)(m + 1), r->value), r->client);
}

void client_result(struct shard *s, const struct result *r)
{
	unsigned home = thread_of_tag(r->tag);
	CHECK(home < s->cfg.threads);
	if (home != s->cfg.index) {
		mail_result_send(s, home, r);
		return;
	}
	struct call *call = call_of_tag(s, r->tag);
	if (call != NULL && call->key != NULL)
		observer_result(s, call, r);
	else if (call != NULL)
		call_finish(s, call, r);
}

static void mail_op_run(struct shard *s, const void *body, size_t bytes)
{
	CHECK(bytes >= sizeof(struct mail_op));
	const struct mail_op *m = body;
	struct event ev = {.type = EV_OP, .op = m->op};
	const uint8_t *p = (const uint8_t *)(m + 1);
	ev.op.key = take_view(&p, m->op.key.len);
	ev.op.value = take_view(&p, m->op.value.len);
	ev.op.new_value = take_view(&p, m->op.new_value.len);
	ev.op.client = take_view(&p, m->op.client.len);
	CHECK((size_t)(p - (const uint8_t *)body) == bytes);
	/* The fast clocks of two threads differ, BOOTTIME does not. It runs no faster than the fast
	 * clock, so this is never earlier than the true time: a wait is told shorter, if anything
	 * (protocol.md 2.5). */
	uint64_t elapsed = s->now.mclk > m->asked_mclk ? s->now.mclk - m->asked_mclk : 0;
	ev.op.asked_fast_ns = s->now.fast > elapsed ? s->now.fast - elapsed : 0;
	shard_step(s, &ev);
}

static void mail_result_take(struct shard *s, const void *body, size_t bytes)
{
	CHECK(bytes >= sizeof(struct mail_result));
	const struct mail_result *m = body;
	struct result r = m->result;
	const uint8_t *p = (const uint8_t *)(m + 1);
	r.value = take_view(&p, r.value.len);
	r.client = take_view(&p, r.client.len);
	CHECK((size_t)(p - (const uint8_t *)body) == bytes);
	client_result(s, &r);
}

void client_mail(struct shard *s, unsigned from, uint16_t type, const void *body, size_t bytes)
{
	CHECK(from < s->cfg.threads);
	switch (type) {
	case MAIL_OP:
		mail_op_run(s, body, bytes);
		break;
	case MAIL_RESULT:
		mail_result_take(s, body, bytes);
		break;
	case MAIL_CANCEL: {
		CHECK(bytes == sizeof(uint64_t));
		struct event ev = {.type = EV_CANCEL, .cancel_tag = get_u64(body)};
		shard_step(s, &ev);
		break;
	}
	default:
		CHECK(!"mail of another file");
	}
}

/* ---- SETNODES ---- */

/* It counts as waiting: it may take minutes, and its client need not stay for it. What has begun
 * goes on without the client; a second SETNODES says how far it is. */
enum run setnodes_start(struct request *rq, const struct mail_setnodes *wanted)
{
	struct shard *s = rq->s;
	struct client_conn *conn = rq->conn;
	struct call *call = call_new(s, conn);
	if (call == NULL)
		return fail_in_flight(rq);
	if (!pending_push(conn, &call->slot)) {
		call_free(rq->c, call);
		client_out_of_memory(s, conn);
		return RUN_PENDING;
	}
	pending_set_barrier(conn, call->slot);
	call->setnodes = true;
	call->waits = true;
	conn->waits++;
	struct mail_setnodes *to = mailbox_put(s->mail, s->cfg.threads, MAIL_SETNODES, sizeof *to);
	*to = *wanted;
	to->tag = call_tag(s, call);
	return RUN_PENDING;
}

void client_setnodes_done(struct shard *s, const struct mail_setnodes_done *done)
{
	struct call *call = call_of_tag(s, done->tag);
	if (call == NULL)
		return;
	struct client_conn *conn = call->conn;
	uint32_t slot = call->slot;
	call_free(s->clients, call);
	conn->waits--;
	if (conn->closing)
		return;
	struct buf *b = reply_open(s, conn, slot, ERROR_MAX_BYTES);
	if (b != NULL && done->error[0] == '\0')
		resp_simple(b, "OK");
	else if (b != NULL)
		resp_error(b, "%.*s", (int)sizeof done->error, done->error);
	reply_close(s, conn, slot, b);
}

/* ---- given up ---- */

void op_cancel(struct shard *s, unsigned shard, uint64_t tag)
{
	if (shard == s->cfg.index) {
		struct event ev = {.type = EV_CANCEL, .cancel_tag = tag};
		shard_step(s, &ev);
		return;
	}
	put_u64(mailbox_put(s->mail, shard, MAIL_CANCEL, sizeof tag), tag);
}

static void leave_line(struct shard *s, struct call *call)
{
	uint64_t tag = call_tag(s, call);
	unsigned shard = call->shard;
	call->conn->lines--;
	call_free(s->clients, call);
	op_cancel(s, shard, tag);
}

bool async_cancel(struct shard *s, struct client_conn *conn, uint64_t id)
{
	struct call *call = call_of_id(s->clients, conn, id);
	if (call != NULL)
		leave_line(s, call);
	return call != NULL;
}

void async_cancel_all(struct shard *s, struct client_conn *conn)
{
	/* Who leaves a line may give the lock to another wait of this connection. */
	while (!list_empty(&conn->in_line))
		leave_line(s, container_of(conn->in_line.next, struct call, in_conn));
}

void calls_abandon(struct shard *s, struct client_conn *conn)
{
	async_cancel_all(s, conn);
	observers_stop(s, conn);
	while (!list_empty(&conn->calls)) {
		struct call *call = container_of(conn->calls.next, struct call, in_conn);
		uint64_t tag = call_tag(s, call);
		unsigned shard = call->shard;
		if (call->waits) {
			/* No result will come; one under way finds the generation gone. */
			bool engine = !call->setnodes;
			call_free(s->clients, call);
			if (engine)
				op_cancel(s, shard, tag);
		} else {
			list_remove(&call->in_conn);
			call->conn = NULL;
		}
	}
}

static struct call *first_wait(struct client_conn *conn)
{
	for (struct list *at = conn->calls.next; at != &conn->calls; at = at->next) {
		struct call *call = container_of(at, struct call, in_conn);
		if (call->waits)
			return call;
	}
	return list_empty(&conn->in_line) ? NULL
					  : container_of(conn->in_line.next, struct call, in_conn);
}

void calls_end_waits(struct shard *s, struct client_conn *conn)
{
	struct call *call;
	observers_stop(s, conn);
	while (!conn->closing && (call = first_wait(conn)) != NULL) {
		uint64_t tag = call_tag(s, call);
		unsigned shard = call->shard;
		struct call was = *call;
		call_free(s->clients, call);
		conn->waits -= was.waits;
		conn->lines -= was.async;
		if (!was.setnodes)
			op_cancel(s, shard, tag);
		if (conn->closing)
			return;
		if (was.async) {
			push_result(s, &was, NULL);
			continue;
		}
		struct buf *b = reply_open(s, conn, was.slot, ERROR_MAX_BYTES);
		if (b != NULL)
			reply_draining(b);
		reply_close(s, conn, was.slot, b);
	}
}
