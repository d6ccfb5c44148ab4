#include "shard/client.h"

#include <stdio.h>

/* For those who look on, and for the one who takes a lock away from its holder. */

enum {
	LOCKS_COUNT = 100,
	LOCKS_COUNT_MAX = 256, /* with one segment of the table, and longest values, 2.5 MB */
	KEY_SHOWN_BYTES = 64,  /* in the log */
};

/* LOCKS CURSOR n [PREFIX p] [COUNT n] */
enum run locks_command(struct request *rq)
{
	struct ask ask = {.question = ASK_LOCKS, .count = LOCKS_COUNT, .resp3 = rq->conn->resp3};
	bool counted = false;
	if (!arg_is(rq->argv[1], "CURSOR"))
		return fail_syntax(rq);
	if (!arg_cursor(rq, 2, &ask))
		return RUN_DONE;
	for (unsigned i = 3; i < rq->argc; i += 2) {
		if (i + 1 == rq->argc)
			return fail_syntax(rq);
		if (arg_is(rq->argv[i], "PREFIX") && !ask.has_text) {
			if (!arg_text(rq, i + 1, "prefix", KEY_MAX_BYTES, &ask))
				return RUN_DONE;
		} else if (arg_is(rq->argv[i], "COUNT") && !counted) {
			counted = true;
			if (!arg_count(rq, i + 1, LOCKS_COUNT_MAX, &ask))
				return RUN_DONE;
		} else {
			return fail_syntax(rq);
		}
	}
	return gather_start_one(rq, &ask);
}

/* Printable, and no longer than a line of a log may be. */
static void show_key(struct bytes key, char ret[4 * KEY_SHOWN_BYTES + 4])
{
	char *to = ret;
	for (uint32_t i = 0; i < key.len && i < KEY_SHOWN_BYTES; i++) {
		uint8_t c = key.p[i];
		if (c > ' ' && c < 0x7F && c != '\\')
			*to++ = (char)c;
		else
			to += sprintf(to, "\\x%02x", c);
	}
	strcpy(to, key.len > KEY_SHOWN_BYTES ? "..." : "");
}

/* BREAK key TOKEN n */
enum run break_command(struct request *rq)
{
	const struct client_conn *conn = rq->conn;
	struct event ev = {.type = EV_OP};
	struct op_request *op = &ev.op;
	char key[4 * KEY_SHOWN_BYTES + 4], said[CALL_NOTE_MAX_BYTES];
	if (!arg_key(rq, 1) || !arg_token(rq, 2, op))
		return RUN_DONE;
	op->kind = OP_RELEASE;
	op->key = rq->argv[1];
	op->any_value = true;
	show_key(op->key, key);
	(void)snprintf(said, sizeof said, "client %s%s%s breaks lock %s, token %llu", conn->name,
		conn->name_bytes > 0 ? " at " : "", conn->link->addr, key,
		(unsigned long long)op->token);
	return op_start(rq, &ev, (struct op_options){.reply = REPLY_BREAK, .note = said});
}

enum run stats_command(struct request *rq)
{
	struct ask ask = {.question = ASK_STATS};
	return gather_start(rq, &ask);
}

/* All threads listen at one address, and the kernel chooses which of them serves a connection:
 * none can be reached by an address of its own. */
enum run shardinfo_command(struct request *rq)
{
	const struct shard_config *cfg = &rq->s->cfg;
	resp_map(rq->out, rq->conn->resp3, 5);
	resp_bulk_str(rq->out, "slots");
	resp_int(rq->out, cfg->engine.slots);
	resp_bulk_str(rq->out, "shards");
	resp_int(rq->out, cfg->threads);
	resp_bulk_str(rq->out, "shard");
	resp_int(rq->out, cfg->index);
	resp_bulk_str(rq->out, "address");
	resp_bulk_str(rq->out, cfg->client_addr);
	resp_bulk_str(rq->out, "direct");
	resp_array(rq->out, 0);
	return RUN_DONE;
}
