#include "shard/client.h"

#include <stdlib.h>

#include "base/check.h"

/* Replies in the order of requests: a ring of slots per connection. The reply of the head slot goes
 * straight to the output, others are kept in their slot until it is their turn.
 *
 * busy[] counts unfinished commands by hash of their key, so that the ring is searched only when a
 * key is probably in use. */
enum {
	RING_FIRST = 8,
	RING_KEEP = 256, /* larger ones are given back when empty */
};

static uint16_t *busy_at(const struct client_conn *conn, uint32_t key_hash)
{
	return &conn->busy[key_hash & (2 * conn->slots_cap - 1)];
}

static bool pending_grow(struct client_conn *conn)
{
	uint32_t cap = conn->slots_cap == 0 ? RING_FIRST : 2 * conn->slots_cap;
	CHECK(cap <= PENDING_MAX);
	struct slot *slots = calloc(cap, sizeof *slots);
	uint16_t *busy = calloc((size_t)2 * cap, sizeof *busy);
	if (slots == NULL || busy == NULL) {
		free(slots);
		free(busy);
		return false;
	}
	for (uint32_t n = conn->head; n != conn->tail; n++) {
		slots[n & (cap - 1)] = *pending_at(conn, n);
		const struct slot *slot = &slots[n & (cap - 1)];
		if (slot->has_key && !slot->done)
			busy[slot->key_hash & (2 * cap - 1)]++;
	}
	free(conn->slots);
	free(conn->busy);
	conn->slots = slots;
	conn->busy = busy;
	conn->slots_cap = cap;
	return true;
}

bool pending_push(struct client_conn *conn, uint32_t *ret_slot)
{
	CHECK(!pending_full(conn));
	if (conn->tail - conn->head == conn->slots_cap && !pending_grow(conn))
		return false;
	*ret_slot = conn->tail++;
	*pending_at(conn, *ret_slot) = (struct slot){.done = false};
	conn->unfinished++;
	return true;
}

void pending_set_key(struct client_conn *conn, uint32_t slot, uint32_t key_hash)
{
	struct slot *at = pending_at(conn, slot);
	at->has_key = true;
	at->key_hash = key_hash;
	++*busy_at(conn, key_hash);
}

void pending_set_barrier(struct client_conn *conn, uint32_t slot)
{
	pending_at(conn, slot)->barrier = true;
	conn->barrier = true;
}

bool pending_busy(const struct client_conn *conn, uint32_t key_hash)
{
	if (conn->unfinished == 0 || *busy_at(conn, key_hash) == 0)
		return false;
	for (uint32_t n = conn->head; n != conn->tail; n++) {
		const struct slot *slot = pending_at(conn, n);
		if (!slot->done && slot->has_key && slot->key_hash == key_hash)
			return true;
	}
	return false;
}

void pending_fini(struct client_conn *conn)
{
	for (uint32_t n = conn->head; n != conn->tail; n++)
		free(pending_at(conn, n)->data);
	free(conn->slots);
	free(conn->busy);
	conn->slots = NULL;
	conn->busy = NULL;
	conn->slots_cap = 0;
	conn->head = conn->tail;
}

static bool within_budget(const struct shard *s, const struct client_conn *conn, size_t bytes)
{
	return bytes <= s->cfg.output_max_bytes &&
	       client_unsent_bytes(conn) <= s->cfg.output_max_bytes - bytes;
}

static void too_slow(struct shard *s, struct client_conn *conn)
{
	s->clients->closed_slow++;
	log_warn("client %s reads too slowly: %.1f MiB unsent, closed", conn->link->addr,
		(double)client_unsent_bytes(conn) / (1024 * 1024));
	client_drop(s, conn, false);
}

bool reply_room(struct shard *s, struct client_conn *conn, size_t bytes)
{
	if (!within_budget(s, conn, bytes)) {
		too_slow(s, conn);
		return false;
	}
	if (buf_reserve(&conn->link->out, bytes) == NULL) {
		client_out_of_memory(s, conn);
		return false;
	}
	return true;
}

struct buf *reply_open(struct shard *s, struct client_conn *conn, uint32_t slot, size_t bound_bytes)
{
	struct buf *out = &conn->link->out;
	if (slot == conn->head && within_budget(s, conn, bound_bytes) &&
		buf_reserve(out, bound_bytes) != NULL)
		return out;
	/* Short of the budget by the bound only, the real reply may still fit. */
	struct buf *scratch = &s->clients->scratch;
	scratch->len = 0;
	if (buf_reserve(scratch, bound_bytes) == NULL) {
		client_out_of_memory(s, conn);
		return NULL;
	}
	return scratch;
}

static void pop_head(struct client_conn *conn)
{
	struct slot *slot = pending_at(conn, conn->head);
	conn->held_bytes -= slot->data_bytes;
	free(slot->data);
	slot->data = NULL;
	conn->head++;
	if (pending_empty(conn) && conn->slots_cap > RING_KEEP)
		pending_fini(conn);
}

static void flush_done(struct shard *s, struct client_conn *conn)
{
	while (!pending_empty(conn) && pending_at(conn, conn->head)->done) {
		const struct slot *slot = pending_at(conn, conn->head);
		if (buf_append(&conn->link->out, slot->data, slot->data_bytes) != 0) {
			client_out_of_memory(s, conn);
			return;
		}
		pop_head(conn);
	}
}

static void hold(struct shard *s, struct client_conn *conn, struct slot *slot, const struct buf *b)
{
	if (!within_budget(s, conn, b->len)) {
		too_slow(s, conn);
		return;
	}
	slot->data = malloc(b->len);
	if (slot->data == NULL) {
		client_out_of_memory(s, conn);
		return;
	}
	memcpy(slot->data, b->data, b->len);
	slot->data_bytes = (uint32_t)b->len;
	conn->held_bytes += b->len;
}

static void finish(struct client_conn *conn, struct slot *slot)
{
	CHECK(!slot->done);
	slot->done = true;
	conn->unfinished--;
	if (slot->has_key)
		--*busy_at(conn, slot->key_hash);
	if (slot->barrier)
		conn->barrier = false;
}

void reply_close(struct shard *s, struct client_conn *conn, uint32_t n, struct buf *b)
{
	struct slot *slot = pending_at(conn, n);
	finish(conn, slot);
	if (b == NULL || conn->closing)
		return;
	CHECK(b->len > 0);
	struct buf *out = &conn->link->out;
	if (n != conn->head) {
		hold(s, conn, slot, b);
	} else {
		if (b != out) {
			if (!reply_room(s, conn, b->len))
				return;
			(void)!buf_append(out, b->data, b->len);
		}
		pop_head(conn);
		flush_done(s, conn);
		if (!conn->closing)
			env_dirty(s->env, conn->link);
	}
	if (!conn->closing)
		client_progress(s, conn);
}
