#include "shard/client.h"

#include <stdatomic.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/hash.h"

enum {
	OUT_KEEP_BYTES = 16 * 1024, /* scratch buffers larger than this are given back */
	CALLS_SPARE = 1024,
};

/* ---- all clients ---- */

struct clients *clients_new(struct shard *s)
{
	struct clients *c = calloc(1, sizeof *c);
	if (c == NULL)
		return NULL;
	list_init(&c->conns);
	list_init(&c->ready);
	list_init(&c->slow);
	list_init(&c->partial);
	uint64_t max = (uint64_t)s->cfg.engine.max_ops + CALLS_SPARE;
	uint64_t most = (UINT64_C(1) << CALL_INDEX_BITS) - CALLS_CHUNK;
	c->calls_max = (uint32_t)(max < most ? max : most);
	c->chunks_max = (c->calls_max + CALLS_CHUNK - 1) / CALLS_CHUNK;
	c->free_call = UINT32_MAX;
	c->chunks = calloc(c->chunks_max, sizeof(struct call *));
	if (c->chunks == NULL) {
		free(c);
		return NULL;
	}
	buf_init(&c->scratch, 0);
	buf_init(&c->answer, 0);
	commands_index(c);
	return c;
}

static void conn_free(struct clients *c, struct client_conn *conn)
{
	list_remove(&conn->all);
	list_remove(&conn->waiting);
	list_remove(&conn->partial);
	c->n_conns--;
	pending_fini(conn);
	free(conn);
}

void clients_free(struct shard *s)
{
	struct clients *c = s->clients;
	if (c == NULL)
		return;
	struct list *next;
	for (struct list *at = c->conns.next; at != &c->conns; at = next) {
		next = at->next;
		struct client_conn *conn = container_of(at, struct client_conn, all);
		list_clear(&conn->calls);
		list_clear(&conn->in_line);
		list_clear(&conn->observing);
		conn_free(c, conn);
	}
	calls_free(c);
	buf_fini(&c->scratch);
	buf_fini(&c->answer);
	free(c);
	s->clients = NULL;
}

/* ---- one connection ---- */

/* One more connection of this node; false: there are as many as may be. */
static bool house_enter(const struct shard *s)
{
	if (s->cfg.n_clients == NULL)
		return s->clients->n_conns < s->cfg.max_clients;
	if (atomic_fetch_add_explicit(s->cfg.n_clients, 1, memory_order_relaxed) <
		s->cfg.max_clients)
		return true;
	(void)atomic_fetch_sub_explicit(s->cfg.n_clients, 1, memory_order_relaxed);
	return false;
}

static void house_leave(const struct shard *s)
{
	if (s->cfg.n_clients != NULL)
		(void)atomic_fetch_sub_explicit(s->cfg.n_clients, 1, memory_order_relaxed);
}

int client_open(struct shard *s, struct link *link)
{
	struct clients *c = s->clients;
	link->user = NULL;
	if (s->draining) {
		reply_draining(&link->out);
		return -1;
	}
	if (!house_enter(s)) {
		resp_error(&link->out, "ERR max number of clients reached");
		return -1;
	}
	struct client_conn *conn = calloc(1, sizeof *conn);
	if (conn == NULL) {
		house_leave(s);
		return -1;
	}
	conn->link = link;
	conn->opened_mclk = conn->active_mclk = s->now.mclk;
	list_init(&conn->waiting);
	list_init(&conn->partial);
	list_init(&conn->calls);
	list_init(&conn->in_line);
	list_init(&conn->observing);
	list_add_tail(&c->conns, &conn->all);
	c->n_conns++;
	c->connections++;
	link->user = conn;
	return 0;
}

void client_close(struct shard *s, struct link *link)
{
	struct client_conn *conn = link->user;
	if (conn == NULL)
		return;
	conn->closing = true;
	calls_abandon(s, conn);
	link->user = NULL;
	conn_free(s->clients, conn);
	house_leave(s);
}

static void conn_block(struct shard *s, struct client_conn *conn, enum block why)
{
	list_remove(&conn->waiting);
	conn->blocked = why;
	if (why == BLOCK_TURN)
		list_add_tail(&s->clients->ready, &conn->waiting);
	else if (why == BLOCK_OUTPUT)
		list_add_tail(&s->clients->slow, &conn->waiting);
	conn->link->paused = why != BLOCK_NONE;
}

void client_drop(struct shard *s, struct client_conn *conn, bool flush)
{
	if (conn->closing)
		return;
	conn->closing = true;
	list_remove(&conn->waiting);
	list_remove(&conn->partial);
	s->env->ops->close(s->env, conn->link, flush);
}

void client_out_of_memory(struct shard *s, struct client_conn *conn)
{
	if (!conn->closing)
		log_error("out of memory for client %s, closed", conn->link->addr);
	client_drop(s, conn, false);
}

size_t client_unsent_bytes(const struct client_conn *conn)
{
	return conn->link->out.len + conn->link->in_flight_bytes + conn->held_bytes;
}

void client_progress(struct shard *s, struct client_conn *conn)
{
	if (conn->quit && pending_empty(conn))
		client_drop(s, conn, true);
	else if (conn->blocked == BLOCK_CALL)
		conn_block(s, conn, BLOCK_TURN);
}

/* ---- input ---- */

static bool any_crowded(const struct shard *s)
{
	for (unsigned i = 0; i < s->cfg.threads; i++)
		if (i != s->cfg.index && mailbox_crowded(s->mail, i))
			return true;
	return false;
}

/* May the next request be parsed? */
static enum block why_not(const struct shard *s, const struct client_conn *conn, uint8_t first)
{
	if (client_unsent_bytes(conn) > s->cfg.output_soft_bytes)
		return BLOCK_OUTPUT;
	if (pending_full(conn) || conn->barrier)
		return BLOCK_CALL;
	/* Deep pipelines wait for themselves before they use up what all need. */
	if (conn->unfinished >= FAIR_UNFINISHED &&
		s->clients->calls_used > s->clients->calls_max / 2)
		return BLOCK_CALL;
	/* An inline request may be unescaped in place and so cannot be parsed twice: only begin
	 * when nothing can stop it. */
	if (first != '*') {
		if (conn->unfinished > 0)
			return BLOCK_CALL;
		if (any_crowded(s))
			return BLOCK_TURN;
	}
	return BLOCK_NONE;
}

static void last_reply_queued(struct shard *s, struct client_conn *conn)
{
	conn->quit = true;
	client_progress(s, conn);
}

static void protocol_error(struct shard *s, struct client_conn *conn, const char *why)
{
	log_debug("client %s: protocol error: %s", conn->link->addr, why);
	uint32_t slot;
	if (!pending_push(conn, &slot)) {
		client_out_of_memory(s, conn);
		return;
	}
	struct buf *b = reply_open(s, conn, slot, ERROR_MAX_BYTES);
	if (b != NULL)
		resp_error(b, "ERR Protocol error: %s", why);
	reply_close(s, conn, slot, b);
	if (!conn->closing)
		last_reply_queued(s, conn);
}

enum step {
	STEP_ON,   /* *ret_used bytes are done */
	STEP_STOP, /* nothing was used: blocked, or more bytes are needed */
	STEP_END,  /* the connection takes no more input */
};

static enum step run_parsed(
	struct shard *s, struct client_conn *conn, const struct resp_request *parsed, bool inlined)
{
	if (parsed->argc == 0)
		return STEP_ON;
	struct request rq = {.s = s,
		.c = s->clients,
		.conn = conn,
		.inlined = inlined,
		.argc = parsed->argc,
		.argv = parsed->argv};
	switch (command_run(&rq)) {
	case RUN_WAIT:
		conn_block(s, conn, BLOCK_CALL);
		return STEP_STOP;
	case RUN_CROWDED:
		conn_block(s, conn, BLOCK_TURN);
		return STEP_STOP;
	case RUN_CLOSE:
		if (!conn->closing)
			last_reply_queued(s, conn);
		return STEP_END;
	default:
		return conn->closing || conn->quit ? STEP_END : STEP_ON;
	}
}

static enum step run_one(
	struct shard *s, struct client_conn *conn, uint8_t *p, size_t len, size_t *ret_used)
{
	struct resp_request parsed;
	const char *why = NULL;
	bool inlined = p[0] != '*';
	switch (resp_parse(p, len, &parsed, ret_used, &why)) {
	case RESP_ERROR:
		protocol_error(s, conn, why);
		return STEP_END;
	case RESP_MORE:
		if (len >= s->cfg.input_max_bytes) {
			protocol_error(s, conn, "too big request");
			return STEP_END;
		}
		return STEP_STOP;
	default:
		return run_parsed(s, conn, &parsed, inlined);
	}
}

/* Parse whole requests ahead and ask for the cache lines of their keys, for all of them before the
 * first one runs: a table far larger than the caches answers several misses in the time of one.
 * Inline requests are parsed once only, just before they run. */
static unsigned look_ahead(struct shard *s, uint8_t *p, size_t len)
{
	struct ahead *ahead = s->clients->ahead;
	const char *why = NULL;
	unsigned n = 0;
	for (size_t at = 0; n < AHEAD_MAX && at < len && p[at] == '*'; at += ahead[n++].bytes)
		if (resp_parse(p + at, len - at, &ahead[n].request, &ahead[n].bytes, &why) !=
			RESP_OK)
			break;
	if (n < 2)
		return n;
	uint64_t hash[AHEAD_MAX];
	unsigned keys = 0;
	for (unsigned i = 0; i < n; i++) {
		const struct resp_request *rq = &ahead[i].request;
		if (rq->argc < 2 || rq->argv[1].len > KEY_MAX_BYTES)
			continue;
		hash[keys] = hash_bytes(rq->argv[1]);
		if (shard_of_hash(s, hash[keys]) == s->cfg.index)
			engine_prefetch_index(s->engine, hash[keys++]);
	}
	for (unsigned i = 0; i < keys; i++)
		engine_prefetch_lease(s->engine, hash[i]);
	return n;
}

/* A request that is begun has to be whole some time; silence between requests is fine. */
static void note_partial(struct shard *s, struct client_conn *conn, size_t used, size_t left)
{
	bool begun = left > 0 && conn->blocked == BLOCK_NONE;
	if (begun && used == 0 && !list_empty(&conn->partial))
		return;
	list_remove(&conn->partial);
	if (!begun)
		return;
	conn->partial_mclk = s->now.mclk;
	list_add_tail(&s->clients->partial, &conn->partial);
}

ssize_t client_data(struct shard *s, struct link *link, const uint8_t *data, size_t len)
{
	struct client_conn *conn = link->user;
	if (conn == NULL || conn->closing || conn->quit)
		return (ssize_t)len;
	size_t used = 0;
	unsigned commands_run = 0;
	unsigned ahead = 0;
	unsigned ahead_n = 0;
	conn->active_mclk = s->now.mclk;
	conn_block(s, conn, BLOCK_NONE);
	while (used < len) {
		enum block why = why_not(s, conn, data[used]);
		if (commands_run == TURN_COMMANDS_MAX || used >= TURN_BYTES_MAX)
			why = BLOCK_TURN;
		if (why != BLOCK_NONE) {
			conn_block(s, conn, why);
			break;
		}
		size_t n = 0;
		enum step step;
		/* The world's buffer is writable; only the shard's view of it is const. */
		uint8_t *p = (uint8_t *)data + used;
		if (ahead == ahead_n) {
			ahead_n = look_ahead(s, p, len - used);
			ahead = 0;
		}
		if (ahead < ahead_n) {
			n = s->clients->ahead[ahead].bytes;
			step = run_parsed(s, conn, &s->clients->ahead[ahead++].request, false);
		} else {
			step = run_one(s, conn, p, len - used, &n);
		}
		if (step == STEP_END)
			return (ssize_t)len;
		if (step == STEP_STOP)
			break;
		used += n;
		commands_run++;
	}
	note_partial(s, conn, used, len - used);
	return (ssize_t)used;
}

/* ---- housekeeping ---- */

static void close_stale_partials(struct shard *s)
{
	struct list *partial = &s->clients->partial;
	while (!list_empty(partial)) {
		struct client_conn *conn = container_of(partial->next, struct client_conn, partial);
		uint64_t age_ns = s->now.mclk - conn->partial_mclk;
		if (age_ns < (uint64_t)PARTIAL_MAX_MS * 1000000)
			break;
		log_info("client %s: request not complete after %d s, closed", conn->link->addr,
			PARTIAL_MAX_MS / 1000);
		client_drop(s, conn, false);
	}
}

static void wake_read_outs(struct shard *s)
{
	struct list *slow = &s->clients->slow;
	struct list *next;
	for (struct list *at = slow->next; at != slow; at = next) {
		next = at->next;
		struct client_conn *conn = container_of(at, struct client_conn, waiting);
		if (client_unsent_bytes(conn) <= s->cfg.output_soft_bytes / 2)
			conn_block(s, conn, BLOCK_TURN);
	}
}

void clients_work(struct shard *s)
{
	struct clients *c = s->clients;
	struct list turn;
	close_stale_partials(s);
	wake_read_outs(s);
	/* Those that become ready meanwhile have their turn in the next loop. */
	list_init(&turn);
	if (!list_empty(&c->ready)) {
		list_add_tail(&c->ready, &turn);
		list_remove(&c->ready);
	}
	while (!list_empty(&turn)) {
		struct client_conn *conn = container_of(turn.next, struct client_conn, waiting);
		list_remove(&conn->waiting);
		conn->blocked = BLOCK_NONE;
		s->env->ops->resume(s->env, conn->link);
	}
	c->scratch.len = 0;
	c->answer.len = 0;
	buf_shrink(&c->scratch, OUT_KEEP_BYTES);
	buf_shrink(&c->answer, OUT_KEEP_BYTES);
}

uint64_t clients_wait_ns(const struct shard *s)
{
	const struct clients *c = s->clients;
	if (!list_empty(&c->ready))
		return 0;
	if (list_empty(&c->partial))
		return UINT64_MAX;
	const struct client_conn *conn = container_of(c->partial.next, struct client_conn, partial);
	uint64_t due = conn->partial_mclk + (uint64_t)PARTIAL_MAX_MS * 1000000;
	return due > s->now.mclk ? due - s->now.mclk : 0;
}

bool clients_drain(struct shard *s)
{
	struct clients *c = s->clients;
	struct list *next;
	for (struct list *at = c->conns.next; at != &c->conns; at = next) {
		next = at->next;
		struct client_conn *conn = container_of(at, struct client_conn, all);
		calls_end_waits(s, conn);
		/* One that does not read is not waited for: it gets what fits its socket. */
		if (pending_empty(conn) && conn->blocked != BLOCK_TURN && conn->look != LOOK_ASKED)
			client_drop(s, conn, true);
	}
	return list_empty(&c->conns);
}

void client_describe(const struct shard *s, const struct client_conn *conn, struct buf *b)
{
	uint64_t second = 1000000000;
	char command[16] = "NULL";
	if (conn->last_command != NULL) {
		size_t i = 0;
		for (; conn->last_command[i] != '\0' && i + 1 < sizeof command; i++) {
			char ch = conn->last_command[i];
			command[i] = (char)(ch >= 'A' && ch <= 'Z' ? ch - 'A' + 'a' : ch);
		}
		command[i] = '\0';
	}
	text_add(b,
		"id=%llu addr=%s laddr=%s fd=-1 name=%s age=%llu idle=%llu flags=%s db=0 sub=0 "
		"psub=0 "
		"ssub=0 multi=-1 qbuf=0 qbuf-free=0 obl=%zu oll=%u omem=%zu cmd=%s user=default "
		"redir=-1 resp=%d lib-name=%s lib-ver=%s\n",
		(unsigned long long)conn->link->serial, conn->link->addr, s->cfg.client_addr,
		conn->name, (unsigned long long)((s->now.mclk - conn->opened_mclk) / second),
		(unsigned long long)((s->now.mclk - conn->active_mclk) / second),
		conn->waits > 0 ? "b" : "N", conn->link->out.len, conn->tail - conn->head,
		client_unsent_bytes(conn), command, conn->resp3 ? 3 : 2, conn->lib_name,
		conn->lib_ver);
}
