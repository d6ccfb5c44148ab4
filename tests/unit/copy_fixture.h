/* A cluster with a replica: nodes 1 to 3 are masters, 4 copies. */
#pragma once

#include "cluster_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/hash.h"
#include "wire/sync.h"

enum { REPLICA = 4, INTERVAL_MS = 20 };

static inline void three_and_one(struct engine_config *cfg)
{
	cfg->n_masters = 3;
	cfg->replica = cfg->self == REPLICA;
	cfg->replica_interval_ms = INTERVAL_MS;
}

/* One slot: it follows master 1 as long as that is linked. */
static inline void one_slot(struct engine_config *cfg)
{
	three_and_one(cfg);
	cfg->slots = 1;
}

static inline void lock_ok(struct fixture *f, unsigned id, const char *key, const char *value)
{
	assert_int_equal(fixture_outcome(f, fixture_lock(f, id, key, value, 30000)), OUT_OK);
}

static inline const struct fixture_result *local_read(
	struct fixture *f, unsigned id, const char *key)
{
	return fixture_result(f, fixture_read(f, id, key, false));
}

static inline void assert_copy(struct fixture *f, const char *key, const char *value)
{
	const struct fixture_result *r = local_read(f, REPLICA, key);
	assert_int_equal(r->r.outcome, OUT_OK);
	assert_string_equal(r->value, value);
}

static inline void assert_free(struct fixture *f, const char *key)
{
	assert_int_equal(local_read(f, REPLICA, key)->r.outcome, OUT_NULL);
}

static inline bool is_whole(const struct fixture *f)
{
	struct engine_stats s = fixture_stats(f, REPLICA);
	return s.slots > 0 && s.slots_in_sync == s.slots;
}

/* It has a whole copy, and its question waits at the master, which has told nothing for long. */
static inline struct fixture *following(void (*change)(struct engine_config *cfg))
{
	struct fixture *f = fixture_new(4, change);
	fixture_run_ms(f, 300);
	assert_true(is_whole(f));
	return f;
}

static inline uint64_t watch(
	struct fixture *f, enum op_kind kind, const char *key, uint64_t wait_ms)
{
	return fixture_op(f, REPLICA,
		(struct op_request){.kind = kind, .key = bytes_str(key), .wait_ms = wait_ms});
}

/* The last question of the replica to node 1, and how large the answers are. */
struct spy {
	struct msg question;
	size_t largest;
	unsigned answers, pages, entries;
};

static inline bool spy_on(struct fixture *f, uint8_t from, uint8_t to, const struct msg *m)
{
	struct spy *spy = f->lose_arg;
	if (from == REPLICA && m->type == MSG_FOLLOW)
		spy->question = *m;
	if (to == REPLICA && m->type == MSG_REPLY && m->req_type == MSG_SYNC)
		spy->pages++;
	if (to != REPLICA || m->type != MSG_REPLY || m->req_type != MSG_FOLLOW || m->value.len == 0)
		return false;
	spy->answers++;
	spy->largest = m->value.len > spy->largest ? m->value.len : spy->largest;
	struct bytes rest = m->value;
	struct sync_entry s;
	while (sync_entry_decode(&rest, &s) == 0)
		spy->entries++;
	return false;
}
