#include "shard/client.h"

#include <stdlib.h>

#include "base/check.h"

/* Questions that one thread cannot answer alone. The asking thread keeps a struct gather in its
 * call record; each shard answers with counters and a text, the text in as many records as it
 * takes. One question a connection at a time (CMD_BARRIER) bounds how many there are. */
struct gather {
	struct ask ask;
	unsigned left; /* shards */
	struct tally tally;
	struct buf text;
};

/* Followed by text_bytes of text; the tally counts in the last one of a shard. */
struct mail_answer {
	uint64_t tag;
	uint32_t text_bytes;
	uint32_t last;
	struct tally tally;
};

enum {
	ANSWER_TEXT_BYTES = MAIL_MAX_BYTES - (int)sizeof(struct mail_answer),
	LIST_MAX_BYTES = 2 * 1024 * 1024, /* CLIENT LIST, all shards */
};
_Static_assert(sizeof(struct ask) <= MAIL_MAX_BYTES, "a question fits one record");
_Static_assert(sizeof(struct mail_answer) <= MAIL_MAX_BYTES / 2, "room for text is left");

void gather_free(struct gather *g)
{
	buf_fini(&g->text);
	free(g);
}

/* ---- what a shard answers ---- */

static void tally_peer(const struct shard *s, struct tally *t, uint8_t node)
{
	if (node == s->cfg.engine.self || t->n_peers == TALLY_PEERS_MAX)
		return;
	struct tally_peer *peer = &t->peers[t->n_peers];
	peers_info(s, node, &peer->info);
	/* Who is no member is shown while it is there. */
	/* One that has joined is known to the control thread when it has said its epoch. */
	if (membership_role(&s->cfg.members, node) == ROLE_NONE &&
		(!peer->info.linked || peer->info.epoch == 0))
		return;
	peer->node = node;
	t->n_peers++;
}

static void tally_peers(const struct shard *s, struct tally *t)
{
	const struct membership *m = &s->cfg.members;
	for (unsigned i = 0; i < m->n_masters; i++)
		tally_peer(s, t, m->masters[i].id);
	for (unsigned i = 0; i < m->n_replicas; i++)
		tally_peer(s, t, m->replicas[i].id);
	for (unsigned node = 1; node <= NODE_ID_MAX; node++)
		if (membership_role(m, (uint8_t)node) == ROLE_NONE)
			tally_peer(s, t, (uint8_t)node);
}

/* No local answers: they would be those of a table with holes. */
static bool no_copy(const struct shard *s, const struct engine_stats *e)
{
	if (membership_role(&s->cfg.members, s->cfg.engine.self) == ROLE_REPLICA)
		return e->slots_in_sync < e->slots;
	return e->slots_voting < e->slots || e->status == NODE_NONMEMBER;
}

static void list_clients(const struct shard *s, struct buf *text)
{
	const struct clients *c = s->clients;
	uint32_t left = c->n_conns;
	for (const struct list *at = c->conns.next; at != &c->conns; at = at->next, left--) {
		if (text->len > LIST_MAX_BYTES / s->cfg.threads) {
			text_add(
				text, "# %u more on thread %u are not shown\n", left, s->cfg.index);
			return;
		}
		client_describe(s, container_of(at, struct client_conn, all), text);
	}
}

static uint64_t kill_clients(struct shard *s, const struct ask *ask)
{
	struct clients *c = s->clients;
	struct bytes addr = bytes_of(ask->text, ask->text_bytes);
	uint64_t killed = 0;
	for (struct list *at = c->conns.next; at != &c->conns; at = at->next) {
		struct client_conn *conn = container_of(at, struct client_conn, all);
		uint64_t id = conn->link->serial;
		bool asker = id == ask->asker_id;
		if (conn->closing || (ask->id != 0 && id != ask->id) ||
			(ask->has_text && !bytes_eq(addr, bytes_str(conn->link->addr))) ||
			(asker && ask->skip_me))
			continue;
		killed++;
		/* The asker reads its reply first. */
		if (asker)
			conn->quit = true;
		else
			client_drop(s, conn, false);
	}
	return killed;
}

static void answer(struct shard *s, const struct ask *ask, struct tally *t, struct buf *text)
{
	const struct clients *c = s->clients;
	*t = (struct tally){
		.clients = c->n_conns,
		.commands = c->commands,
		.connections = c->connections,
		.calls = c->calls_used,
		.closed_slow = c->closed_slow,
	};
	engine_stats(s->engine, &t->stats);
	t->no_copy = no_copy(s, &t->stats);
	switch (ask->question) {
	case ASK_INFO:
	case ASK_NODES:
		tally_peers(s, t);
		break;
	case ASK_CLIENT_LIST:
		list_clients(s, text);
		break;
	case ASK_CLIENT_KILL:
		t->killed = kill_clients(s, ask);
		break;
	case ASK_SCAN:
	case ASK_LOCKS:
		walk_answer(s, ask, t, text);
		break;
	case ASK_STATS:
		tally_peers(s, t);
		stats_answer(s, t, text);
		break;
	default:
		break;
	}
}

/* ---- adding up ---- */

static void add_stats(struct engine_stats *to, const struct engine_stats *from)
{
	to->slots = (uint16_t)(to->slots + from->slots);
	to->slots_voting = (uint16_t)(to->slots_voting + from->slots_voting);
	to->slots_in_sync = (uint16_t)(to->slots_in_sync + from->slots_in_sync);
	to->lag_ns = from->lag_ns > to->lag_ns ? from->lag_ns : to->lag_ns;
	to->followers += from->followers;
	to->log_records += from->log_records;
	to->log_sent += from->log_sent;
	to->log_gaps += from->log_gaps;
	to->copied += from->copied;
	to->snapshots += from->snapshots;
	to->healing |= from->healing;
	to->leases += from->leases;
	to->promises += from->promises;
	to->waiters += from->waiters;
	to->observers += from->observers;
	to->ops += from->ops;
	to->ops_max += from->ops_max;
	to->tombstones += from->tombstones;
	to->shadows += from->shadows;
	to->staged += from->staged;
	to->resync += from->resync;
	to->healed += from->healed;
	to->sync_full += from->sync_full;
	to->memory_bytes += from->memory_bytes;
	to->granted += from->granted;
	to->refused += from->refused;
	to->released += from->released;
	to->extended += from->extended;
	to->updated += from->updated;
	to->expired += from->expired;
	to->stale += from->stale;
	to->retries += from->retries;
	to->aborts += from->aborts;
	to->queries += from->queries;
	to->dissolved += from->dissolved;
	to->no_quorum += from->no_quorum;
	to->unknown += from->unknown;
	to->limit += from->limit;
	to->msgs_in += from->msgs_in;
	to->msgs_out += from->msgs_out;
}

/* In this state since: no thread saw another one later. */
static uint64_t since_ns(const struct peer_info *a, const struct peer_info *b)
{
	if (a->since_ns == UINT64_MAX || b->since_ns == UINT64_MAX)
		return a->since_ns < b->since_ns ? a->since_ns : b->since_ns;
	bool up = a->state != 0;
	return (a->since_ns > b->since_ns) == up ? a->since_ns : b->since_ns;
}

static void add_peer_info(struct peer_info *t, const struct peer_info *f)
{
	/* The link heard last knows best how the node is; one link is enough to be up. */
	if (f->state == t->state) {
		t->since_ns = since_ns(t, f);
	} else if (f->linked && (!t->linked || f->heard_ago_ns < t->heard_ago_ns)) {
		t->state = f->state;
		t->since_ns = f->since_ns;
	}
	if (f->linked && (!t->linked || f->heard_ago_ns < t->heard_ago_ns)) {
		t->slots_voting = f->slots_voting;
		t->slots_in_sync = f->slots_in_sync;
		t->lag_ms = f->lag_ms;
	}
	if (f->heard_ago_ns < t->heard_ago_ns)
		t->heard_ago_ns = f->heard_ago_ns;
	if (t->addr[0] == '\0')
		memcpy(t->addr, f->addr, sizeof t->addr);
	t->epoch = f->epoch > t->epoch ? f->epoch : t->epoch;
	t->linked |= f->linked;
	t->links = (uint16_t)(t->links + f->links);
	t->frames_in += f->frames_in;
	t->frames_out += f->frames_out;
	t->msgs_in += f->msgs_in;
	t->msgs_out += f->msgs_out;
	t->stale_frames += f->stale_frames;
	t->bytes_in += f->bytes_in;
	t->bytes_out += f->bytes_out;
	t->msgs_dropped += f->msgs_dropped;
	t->msgs_other_epoch += f->msgs_other_epoch;
}

const struct tally_peer *tally_find(const struct tally *t, uint8_t node)
{
	for (unsigned i = 0; i < t->n_peers; i++)
		if (t->peers[i].node == node)
			return &t->peers[i];
	return NULL;
}

/* Shards act by another configuration one after the other, and not each has a link to every node:
 * they do not tell of the same ones. */
static void add_peer(struct tally *to, const struct tally_peer *from)
{
	for (unsigned i = 0; i < to->n_peers; i++) {
		if (to->peers[i].node == from->node) {
			add_peer_info(&to->peers[i].info, &from->info);
			return;
		}
	}
	if (to->n_peers < TALLY_PEERS_MAX)
		to->peers[to->n_peers++] = *from;
}

static void gather_add(struct gather *g, const struct tally *t)
{
	add_stats(&g->tally.stats, &t->stats);
	g->tally.clients += t->clients;
	g->tally.commands += t->commands;
	g->tally.connections += t->connections;
	g->tally.calls += t->calls;
	g->tally.closed_slow += t->closed_slow;
	g->tally.killed += t->killed;
	g->tally.cursor = t->cursor;
	g->tally.keys += t->keys;
	g->tally.no_copy |= t->no_copy;
	g->tally.failed |= t->failed;
	for (unsigned i = 0; i < t->n_peers; i++)
		add_peer(&g->tally, &t->peers[i]);
	g->left--;
}

/* ---- the reply ---- */

static void reply_summary(const struct shard *s, const struct gather *g, bool resp3, struct buf *b)
{
	resp_map(b, resp3, 4);
	resp_bulk_str(b, "leases");
	resp_int(b, (int64_t)g->tally.stats.leases);
	resp_bulk_str(b, "promises");
	resp_int(b, (int64_t)g->tally.stats.promises);
	resp_bulk_str(b, "waiters");
	resp_int(b, (int64_t)g->tally.stats.waiters);
	resp_bulk_str(b, "node");
	resp_int(b, s->cfg.engine.self);
}

static void write_reply(struct shard *s, const struct gather *g, bool resp3, struct buf *b)
{
	struct buf *text = &s->clients->answer;
	switch (g->ask.question) {
	case ASK_SUMMARY:
		reply_summary(s, g, resp3, b);
		break;
	case ASK_DBSIZE:
		if (g->tally.no_copy)
			reply_no_copy(b);
		else
			resp_int(b, (int64_t)g->tally.stats.leases);
		break;
	case ASK_INFO:
		text->len = 0;
		info_text(s, &g->tally, g->ask.sections, text);
		resp_verbatim(b, resp3, bytes_of(text->data, text->len));
		break;
	case ASK_NODES:
		nodes_reply(s, &g->tally, resp3, b);
		break;
	case ASK_CLIENT_LIST:
		resp_verbatim(b, resp3, bytes_of(g->text.data, g->text.len));
		break;
	case ASK_CLIENT_KILL:
		if (!g->ask.old_form)
			resp_int(b, (int64_t)g->tally.killed);
		else if (g->tally.killed > 0)
			resp_simple(b, "OK");
		else
			resp_error(b, "ERR No such client");
		break;
	case ASK_SCAN:
	case ASK_LOCKS:
		walk_reply(s, &g->ask, &g->tally, &g->text, b);
		break;
	case ASK_STATS:
		stats_reply(s, &g->tally, &g->text, resp3, b);
		break;
	default:
		CHECK(!"a question");
	}
}

static void gather_finish(struct shard *s, struct call *call)
{
	struct gather *g = call->gather;
	struct client_conn *conn = call->conn;
	uint32_t slot = call->slot;
	bool resp3 = call->resp3;
	call_free(s->clients, call);
	if (conn != NULL && !conn->closing) {
		/* Always by way of scratch: how long it gets is known afterwards. */
		struct buf *b = &s->clients->scratch;
		b->len = 0;
		if (g->tally.failed)
			client_out_of_memory(s, conn);
		else
			write_reply(s, g, resp3, b);
		if (b->len == 0)
			client_out_of_memory(s, conn);
		reply_close(s, conn, slot, b);
	}
	gather_free(g);
}

/* ---- asking ---- */

static void ask_shard(struct shard *s, struct call *call, unsigned shard)
{
	struct gather *g = call->gather;
	if (shard != s->cfg.index) {
		struct ask *to = mailbox_put(s->mail, shard, MAIL_GATHER, sizeof *to);
		*to = g->ask;
		return;
	}
	struct tally t;
	answer(s, &g->ask, &t, &g->text);
	gather_add(g, &t);
}

static enum run start(struct request *rq, struct ask *ask, unsigned first, unsigned end)
{
	struct shard *s = rq->s;
	struct client_conn *conn = rq->conn;
	for (unsigned i = first; i < end; i++)
		if (i != s->cfg.index && mailbox_crowded(s->mail, i))
			return RUN_CROWDED;
	struct call *call = call_new(s, conn);
	struct gather *g = calloc(1, sizeof *g);
	if (call == NULL || g == NULL || !pending_push(conn, &call->slot)) {
		if (call != NULL)
			call_free(rq->c, call);
		free(g);
		resp_error(rq->out, "LIMIT too many commands in flight; retry later");
		return RUN_DONE;
	}
	pending_set_barrier(conn, call->slot);
	ask->tag = call_tag(s, call);
	g->ask = *ask;
	g->left = end - first;
	buf_init(&g->text, 0);
	call->gather = g;
	for (unsigned i = first; i < end; i++)
		ask_shard(s, call, i);
	if (g->left == 0)
		gather_finish(s, call);
	return RUN_PENDING;
}

enum run gather_start(struct request *rq, struct ask *ask)
{
	return start(rq, ask, 0, rq->s->cfg.threads);
}

enum run gather_start_one(struct request *rq, struct ask *ask)
{
	return start(rq, ask, ask->shard, ask->shard + 1U);
}

/* ---- mail ---- */

static void send_answer(struct shard *s, unsigned to, const struct ask *ask)
{
	struct tally t;
	struct buf *text = &s->clients->answer;
	text->len = 0;
	answer(s, ask, &t, text);
	size_t at = 0;
	bool last;
	do {
		size_t n = text->len - at;
		last = n <= ANSWER_TEXT_BYTES;
		if (!last)
			n = ANSWER_TEXT_BYTES;
		struct mail_answer *m = mailbox_put(s->mail, to, MAIL_GATHERED, sizeof *m + n);
		m->tag = ask->tag;
		m->text_bytes = (uint32_t)n;
		m->last = last;
		m->tally = t;
		if (n > 0)
			memcpy(m + 1, text->data + at, n);
		at += n;
	} while (!last);
}

static void take_answer(struct shard *s, const void *body, size_t bytes)
{
	const struct mail_answer *m = body;
	CHECK(bytes >= sizeof *m && bytes == sizeof *m + m->text_bytes);
	struct call *call = call_of_tag(s, m->tag);
	CHECK(call != NULL && call->gather != NULL);
	struct gather *g = call->gather;
	if (buf_append(&g->text, m + 1, m->text_bytes) != 0)
		g->tally.failed = true;
	if (m->last == 0)
		return;
	gather_add(g, &m->tally);
	if (g->left == 0)
		gather_finish(s, call);
}

void gather_mail(struct shard *s, unsigned from, uint16_t type, const void *body, size_t bytes)
{
	CHECK(from < s->cfg.threads);
	if (type == MAIL_GATHER) {
		CHECK(bytes == sizeof(struct ask));
		send_answer(s, from, body);
	} else {
		CHECK(type == MAIL_GATHERED);
		take_answer(s, body, bytes);
	}
}
