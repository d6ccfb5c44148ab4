/* A world of two shards for tests of the RESP side: connections in memory, real mailboxes, and an
 * engine that answers as it is told. */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/hash.h"
#include "shard/client.h"

enum { LINKS = 4, OPS = 20000, THREADS = 2 };

struct wire {
	struct link link;
	struct buf in;
	struct shard *s;
	bool open, close_wanted, flushed;
};

/* An operation that reached the engine and is not answered yet. */
struct pending {
	struct shard *s;
	struct op_request op;
	char key[KEY_MAX_BYTES + 1];
	bool used;
};

struct world {
	struct env env;
	struct mailbox_mesh *mesh;
	struct shard sh[THREADS];
	struct wire wires[LINKS];
	struct pending *ops;
	unsigned n_ops; /* ever started */
	unsigned cancelled;
	uint64_t cancel_tag;
	unsigned prefetched;           /* keys */
	bool defer;                    /* leave operations unanswered */
	struct result next;            /* the answer otherwise */
	struct mail_setnodes setnodes; /* the last one that the control thread got */
	unsigned n_setnodes, setnodes_from;
	struct engine_stats stats[THREADS];
	unsigned scan_count;
	struct peer_info peers[THREADS][NODE_ID_MAX + 1]; /* all zero: never heard of */
};

extern struct world w;
extern const struct result granted;

/* One loop of every thread; connections that are to be closed get closed. */
void turn(void);
void turns(unsigned n);
void pass_ms(uint64_t ms);
/* A new connection to @thread. */
struct wire *dial(unsigned thread);
void hang_up(struct wire *x);
void send_bytes(struct wire *x, const char *p, size_t n);
void type_line(struct wire *x, const char *text);
/* Hand over what the connection has in its input. */
void feed(struct wire *x);
/* Words between blanks as a request, not fed yet; '@' stands for an empty word. */
void queue(struct wire *x, const char *text);
void say(struct wire *x, const char *text);
/* The output is exactly this (starts with, has this); it is forgotten (but by _has). */
void expect(struct wire *x, const char *text);
void expect_start(struct wire *x, const char *text);
void expect_has(struct wire *x, const char *text);
void forget(struct wire *x);
/* The last unanswered operation on @key, or NULL. */
struct pending *op_on(const char *key);
/* Answer it. */
void complete(const char *key, struct result r);
/* The control thread's answer to the last SETNODES; "": done. */
void setnodes_done(const char *error);
/* A key with this prefix that belongs to @thread. */
const char *key_of(unsigned thread, const char *prefix);
/* @format with its '$' replaced. */
const char *with(const char *format, const char *key);
int world_setup(void **state);
int world_teardown(void **state);
