#include "shard/client.h"

/* SCAN and LOCKS: walks through this node's copy, a few segments of one shard's table a call. The
 * shard that was asked writes its part of the reply itself, in the dialect of who asks. */

enum { LOCK_FRAME_BYTES = 256 }; /* of an entry without its key, value and client */

bool arg_cursor(struct request *rq, unsigned i, struct ask *ask)
{
	unsigned threads = rq->s->cfg.threads;
	int64_t cursor;
	if (!arg_int(rq->argv[i], &cursor) || cursor < 0 ||
		(uint64_t)cursor / threads > UINT32_MAX) {
		resp_error(rq->out, "ERR invalid cursor");
		return false;
	}
	ask->cursor = (uint64_t)cursor / threads;
	ask->shard = (uint16_t)((uint64_t)cursor % threads);
	return true;
}

bool arg_count(struct request *rq, unsigned i, unsigned max, struct ask *ask)
{
	int64_t count;
	if (!arg_number(rq, i, INT64_MIN, INT64_MAX, &count))
		return false;
	if (count < 1) {
		fail_syntax(rq);
		return false;
	}
	ask->count = (uint32_t)(count < max ? count : max);
	return true;
}

bool arg_text(struct request *rq, unsigned i, const char *what, unsigned max, struct ask *ask)
{
	struct bytes text = rq->argv[i];
	if (text.len > max) {
		resp_error(rq->out, "LIMIT %s of %u bytes is above the limit of %u", what, text.len,
			max);
		return false;
	}
	ask->has_text = true;
	ask->text_bytes = (uint16_t)text.len;
	if (text.len > 0)
		memcpy(ask->text, text.p, text.len);
	return true;
}

/* ---- the shard that was asked ---- */

struct walk {
	const struct shard *s;
	const struct ask *ask;
	struct buf *text;
	struct tally *tally;
};

static bool room(struct walk *w, size_t bytes)
{
	bool ok = buf_reserve(w->text, bytes) != NULL;
	w->tally->failed |= !ok;
	w->tally->keys += ok;
	return ok;
}

static void scan_each(void *arg, const struct scan_item *item)
{
	struct walk *w = arg;
	struct bytes pattern = bytes_of(w->ask->text, w->ask->text_bytes);
	bool wanted = !w->ask->has_text || glob_match(pattern, item->key, false);
	if (wanted && room(w, LOCK_FRAME_BYTES + item->key.len))
		resp_bulk(w->text, item->key);
}

/* What is left of a live lease is never told as 0. */
static int64_t ms_up(uint64_t ns)
{
	return (int64_t)(ns / 1000000 + (ns % 1000000 != 0));
}

static void locks_each(void *arg, const struct scan_item *item)
{
	struct walk *w = arg;
	struct buf *b = w->text;
	uint16_t n = w->ask->text_bytes;
	if (item->key.len < n || memcmp(item->key.p, w->ask->text, n) != 0)
		return;
	if (!room(w, LOCK_FRAME_BYTES + item->key.len + item->value.len + item->client.len))
		return;
	resp_map(b, w->ask->resp3, 8);
	resp_bulk_str(b, "key");
	resp_bulk(b, item->key);
	resp_bulk_str(b, "value");
	resp_bulk(b, item->value);
	resp_bulk_str(b, "token");
	resp_int(b, (int64_t)item->token);
	resp_bulk_str(b, "remaining-ms");
	resp_int(b, ms_up(item->remaining_ns));
	resp_bulk_str(b, "held-ms");
	resp_int(b, (int64_t)(item->held_ns / 1000000));
	resp_bulk_str(b, "node");
	resp_int(b, item->node);
	resp_bulk_str(b, "client");
	resp_bulk(b, item->client);
	resp_bulk_str(b, "waiters");
	resp_int(b, engine_waiters(w->s->engine, item->key));
}

void walk_answer(struct shard *s, const struct ask *ask, struct tally *t, struct buf *text)
{
	struct walk w = {.s = s, .ask = ask, .text = text, .tally = t};
	if (!t->no_copy)
		t->cursor = engine_scan(s->engine, &s->time, ask->cursor, ask->count,
			ask->question == ASK_SCAN ? scan_each : locks_each, &w);
}

/* ---- who asked ---- */

static uint64_t next_cursor(const struct shard *s, const struct ask *ask, const struct tally *t)
{
	unsigned threads = s->cfg.threads;
	if (t->cursor != 0)
		return t->cursor * threads + ask->shard;
	return ask->shard + 1U < threads ? ask->shard + 1U : 0;
}

/* Redis' clients want a cursor that is a string. */
static void bulk_number(struct buf *b, uint64_t n)
{
	char digits[24];
	uint8_t *end = (uint8_t *)digits + sizeof digits;
	uint8_t *p = end;
	do {
		*--p = (uint8_t)('0' + n % 10);
		n /= 10;
	} while (n != 0);
	resp_bulk(b, bytes_of(p, (size_t)(end - p)));
}

void walk_reply(const struct shard *s, const struct ask *ask, const struct tally *t,
	const struct buf *text, struct buf *b)
{
	if (t->no_copy) {
		reply_no_copy(b);
		return;
	}
	if (text->len + ERROR_MAX_BYTES > s->cfg.output_max_bytes) {
		resp_error(b,
			"LIMIT %zu bytes of entries are above the limit of a connection's "
			"output; ask with a smaller COUNT, or with a PREFIX",
			text->len);
		return;
	}
	uint64_t cursor = next_cursor(s, ask, t);
	resp_array(b, 2);
	if (ask->question == ASK_SCAN)
		bulk_number(b, cursor);
	else
		resp_int(b, (int64_t)cursor);
	resp_array(b, t->keys);
	if (text->len > 0 && buf_append(b, text->data, text->len) != 0)
		b->len = 0; /* out of memory */
}
