/* Replicas copy what a master holds and follow its log (protocol.md 2.9). The S numbers are those
 * of protocol.md 1.2. */
#include "copy_fixture.h"

/* ---- beginning ---- */

static void test_copy_takes_in_what_is_there(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(4, three_and_one);
	char key[32];
	fixture_crash(f, REPLICA);
	for (unsigned i = 0; i < 300; i++) {
		(void)snprintf(key, sizeof key, "key%u", i);
		lock_ok(f, 1 + i % 3, key, "v");
	}
	assert_int_equal(fixture_outcome(f, fixture_update(f, 2, "key7", "v", "w")), OUT_OK);
	fixture_restart(f, REPLICA);
	struct engine_stats s = fixture_stats(f, REPLICA);
	assert_int_equal(s.status, NODE_REPLICA);
	assert_int_equal(s.slots, 64);
	assert_int_equal(s.slots_in_sync, 0);
	assert_true(s.lag_ns == UINT64_MAX);
	assert_int_equal(local_read(f, REPLICA, "key7")->r.outcome, OUT_NOTREADY);
	uint64_t tag = watch(f, OP_WAITFOR, "key7", 1000);
	assert_int_equal(fixture_outcome(f, tag), OUT_NOTREADY);
	fixture_run_ms(f, 100);
	assert_true(is_whole(f));
	s = fixture_stats(f, REPLICA);
	assert_int_equal(s.leases, 300);
	assert_int_equal(s.promises + s.shadows + s.staged + s.resync, 0);
	assert_int_equal(s.copied, 300);
	assert_int_equal(s.snapshots, 64);
	assert_int_equal(s.slots_voting, 0);
	for (unsigned i = 0; i < 300; i++) {
		(void)snprintf(key, sizeof key, "key%u", i);
		assert_copy(f, key, i == 7 ? "w" : "v");
	}
	const struct fixture_result *theirs = local_read(f, 1, "key7");
	const struct fixture_result *ours = local_read(f, REPLICA, "key7");
	assert_int_equal(ours->r.token, theirs->r.token);
	assert_int_equal(ours->r.node, theirs->r.node);
	assert_string_equal(ours->client, "tester");
	assert_free(f, "another");
	fixture_free(f);
}

/* What may be held, and what hides from everybody, is not told. */
static void test_copy_leaves_out_what_is_no_lock(void **state)
{
	(void)state;
	struct fixture *f = following(one_slot);
	uint64_t before = fixture_stats(f, 1).log_records;
	uint64_t tag = fixture_op(f, 2,
		(struct op_request){
			.kind = OP_LAG, .key = bytes_of(PROBE_PREFIX "1", PROBE_PREFIX_BYTES + 1)});
	assert_int_equal(fixture_outcome(f, tag), OUT_OK);
	assert_int_equal(fixture_stats(f, 1).log_records, before);
	fixture_lose(f, 2, 1, MSG_CONFIRM);
	lock_ok(f, 2, "k", "v");
	fixture_run_ms(f, 200);
	assert_int_equal(fixture_stats(f, 1).promises, 1);
	assert_free(f, "k");
	fixture_crash(f, REPLICA);
	fixture_restart(f, REPLICA);
	fixture_run_ms(f, 100);
	assert_free(f, "k"); /* nor in a page */
	/* Its master finds out by and by that it was granted. */
	fixture_let_go(f);
	fixture_run_ms(f, 2500);
	assert_copy(f, "k", "v");
	fixture_free(f);
}

static void test_copy_slots_take_turns(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(4, three_and_one);
	fixture_crash(f, REPLICA);
	for (unsigned i = 0; i < 200; i++) {
		char key[32];
		(void)snprintf(key, sizeof key, "key%u", i);
		lock_ok(f, 1, key, "v");
	}
	fixture_delay_reply(f, 0, REPLICA, MSG_SYNC);
	fixture_restart(f, REPLICA);
	fixture_run_ms(f, 50);
	assert_int_equal(fixture_stats(f, REPLICA).snapshots, 2);
	fixture_let_go(f);
	fixture_run_ms(f, 1000);
	assert_true(is_whole(f));
	assert_int_equal(fixture_stats(f, REPLICA).leases, 200);
	fixture_free(f);
}

/* ---- following ---- */

static void test_copy_sees_a_write_with_the_next_batch(void **state)
{
	(void)state;
	struct fixture *f = following(one_slot);
	lock_ok(f, 1, "k", "v");
	fixture_run_ms(f, 2); /* the last batch was long ago */
	assert_copy(f, "k", "v");
	assert_int_equal(fixture_outcome(f, fixture_update(f, 1, "k", "v", "w")), OUT_OK);
	lock_ok(f, 2, "k2", "v");
	fixture_run_ms(f, INTERVAL_MS - 5);
	assert_copy(f, "k", "v");
	assert_free(f, "k2");
	fixture_run_ms(f, 6);
	assert_copy(f, "k", "w");
	assert_copy(f, "k2", "v");
	assert_int_equal(fixture_outcome(f, fixture_release(f, 1, "k", "w")), OUT_OK);
	fixture_run_ms(f, INTERVAL_MS + 1);
	assert_free(f, "k");
	assert_int_equal(fixture_stats(f, REPLICA).snapshots, 1);
	fixture_free(f);
}

static void test_copy_values_arrive_in_order(void **state)
{
	(void)state;
	struct fixture *f = following(one_slot);
	lock_ok(f, 1, "k", "0");
	char last[16] = "0", next[16];
	for (unsigned i = 1; i <= 50; i++) {
		(void)snprintf(next, sizeof next, "%u", i);
		uint64_t tag = fixture_update(f, 1 + i % 3, "k", last, next);
		assert_int_equal(fixture_outcome(f, tag), OUT_OK);
		memcpy(last, next, sizeof last);
		int seen = -1;
		for (unsigned ms = 0; ms < 7; ms++) {
			fixture_run_ms(f, 1);
			const struct fixture_result *r = local_read(f, REPLICA, "k");
			if (r->r.outcome != OUT_OK)
				continue;
			assert_true(atoi(r->value) >= seen);
			seen = atoi(r->value);
		}
	}
	fixture_run_ms(f, INTERVAL_MS + 1);
	assert_copy(f, "k", "50");
	fixture_free(f);
}

static void test_copy_waitfor(void **state)
{
	(void)state;
	struct fixture *f = following(three_and_one);
	uint64_t tag = watch(f, OP_WAITFOR, "k", 10000);
	fixture_run_ms(f, 500);
	assert_null(fixture_result(f, tag));
	lock_ok(f, 2, "k", "v");
	fixture_run_ms(f, INTERVAL_MS + 1);
	assert_int_equal(fixture_outcome(f, tag), OUT_OK);
	assert_string_equal(fixture_result(f, tag)->value, "v");
	fixture_free(f);
}

static void test_copy_waitrelease(void **state)
{
	(void)state;
	struct fixture *f = following(three_and_one);
	assert_int_equal(fixture_outcome(f, watch(f, OP_WAITRELEASE, "k", 10000)), OUT_NOTLOCKED);
	lock_ok(f, 2, "k", "v");
	assert_int_equal(fixture_outcome(f, fixture_lock(f, 2, "short", "v", 1000)), OUT_OK);
	fixture_run_ms(f, INTERVAL_MS + 1);
	uint64_t released = watch(f, OP_WAITRELEASE, "k", 10000);
	uint64_t expired = watch(f, OP_WAITRELEASE, "short", 10000);
	fixture_run_ms(f, 900);
	assert_null(fixture_result(f, released));
	assert_null(fixture_result(f, expired));
	fixture_run_ms(f, 110); /* the end of a lease is nobody's to tell */
	assert_int_equal(fixture_outcome(f, expired), OUT_OK);
	assert_int_equal(fixture_outcome(f, fixture_release(f, 3, "k", "v")), OUT_OK);
	fixture_run_ms(f, INTERVAL_MS + 1);
	assert_int_equal(fixture_outcome(f, released), OUT_OK);
	fixture_free(f);
}

/* Released and locked again between two batches: that was a release. */
static void test_copy_another_lock_ends_the_one_before(void **state)
{
	(void)state;
	struct fixture *f = following(one_slot);
	lock_ok(f, 2, "k", "v");
	fixture_run_ms(f, 2);
	uint64_t tag = watch(f, OP_WAITRELEASE, "k", 10000);
	assert_int_equal(fixture_outcome(f, fixture_release(f, 2, "k", "v")), OUT_OK);
	lock_ok(f, 3, "k", "w");
	assert_null(fixture_result(f, tag));
	fixture_run_ms(f, INTERVAL_MS + 1);
	assert_int_equal(fixture_outcome(f, tag), OUT_OK);
	assert_copy(f, "k", "w");
	fixture_free(f);
}

/* S23: a lease ends when its master says so, however late that is heard of, and however often. */
static void test_copy_tells_what_remains(void **state)
{
	(void)state;
	struct fixture *f = following(one_slot);
	assert_int_equal(fixture_outcome(f, fixture_lock(f, 1, "k", "v", 1000)), OUT_OK);
	fixture_run_ms(f, 2);
	uint64_t ours = local_read(f, REPLICA, "k")->r.remaining_ns;
	assert_in_range(ours, 998000000, 1000000000);
	fixture_run_ms(f, 598);
	fixture_crash(f, REPLICA);
	fixture_restart(f, REPLICA);
	fixture_run_ms(f, 100);
	ours = local_read(f, REPLICA, "k")->r.remaining_ns;
	uint64_t theirs = local_read(f, 1, "k")->r.remaining_ns;
	assert_in_range(ours, theirs, theirs + 2000000);
	/* An answer on its way for 100 ms makes it that much longer and no more. */
	uint64_t token = local_read(f, 1, "k")->r.token;
	fixture_delay_reply(f, 0, REPLICA, MSG_FOLLOW);
	assert_int_equal(fixture_outcome(f, fixture_extend(f, 1, "k", "v", 500)), OUT_OK);
	fixture_run_ms(f, 2);
	fixture_run_ms(f, 98);
	fixture_let_go(f);
	ours = local_read(f, REPLICA, "k")->r.remaining_ns;
	theirs = local_read(f, 1, "k")->r.remaining_ns;
	assert_in_range(ours, theirs, theirs + 100000000);
	assert_int_equal(local_read(f, REPLICA, "k")->r.token, token);
	fixture_run_ms(f, 510);
	assert_free(f, "k");
	fixture_free(f);
}

/* A key that its master has missed, and heals. */
static void test_copy_hears_of_what_is_healed(void **state)
{
	(void)state;
	struct fixture *f = following(one_slot);
	fixture_lose(f, 2, 1, MSG_TRYLOCK);
	lock_ok(f, 2, "k", "v");
	fixture_let_go(f);
	fixture_run_ms(f, 100);
	assert_free(f, "k");
	fixture_run_ms(f, 2000);
	assert_int_equal(fixture_stats(f, 1).healed, 1);
	assert_copy(f, "k", "v");
	assert_int_equal(fixture_stats(f, REPLICA).snapshots, 1);
	fixture_free(f);
}

static void test_copy_knows_its_age(void **state)
{
	(void)state;
	struct fixture *f = following(three_and_one);
	for (unsigned i = 0; i < 200; i++) {
		fixture_run_ms(f, 1);
		assert_in_range(fixture_stats(f, REPLICA).lag_ns, 0, 130000000);
	}
	for (unsigned id = 1; id <= 3; id++)
		fixture_cut(f, id, REPLICA, true);
	fixture_run_ms(f, 1000);
	assert_in_range(fixture_stats(f, REPLICA).lag_ns, 1000000000, 1130000000);
	assert_true(is_whole(f)); /* old, but all of it */
	for (unsigned id = 1; id <= 3; id++)
		fixture_cut(f, id, REPLICA, false);
	fixture_run_ms(f, 1000);
	assert_in_range(fixture_stats(f, REPLICA).lag_ns, 0, 130000000);
	fixture_free(f);
}

/* An answer that was long on its way is as old as when it was sent. */
static void test_copy_counts_the_way(void **state)
{
	(void)state;
	struct fixture *f = following(one_slot);
	fixture_delay_reply(f, 0, REPLICA, MSG_FOLLOW);
	fixture_run_ms(f, 400);
	fixture_let_go(f);
	fixture_run_ms(f, 30);
	assert_in_range(fixture_stats(f, REPLICA).lag_ns, 300000000, 450000000);
	fixture_run_ms(f, 100);
	assert_in_range(fixture_stats(f, REPLICA).lag_ns, 0, 130000000);
	fixture_free(f);
}

static void long_interval(struct engine_config *cfg)
{
	one_slot(cfg);
	cfg->replica_interval_ms = 1000;
	cfg->attempt_ms = 200;
}

/* Batches may be rarer than a question waits: it is answered all the same. */
static void test_copy_long_interval(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(4, long_interval);
	fixture_run_ms(f, 1200);
	assert_true(is_whole(f));
	lock_ok(f, 1, "k", "v");
	for (unsigned ms = 0; ms < 1100 && fixture_stats(f, REPLICA).leases == 0; ms++)
		fixture_run_ms(f, 1);
	lock_ok(f, 1, "k2", "v");
	fixture_run_ms(f, 980);
	assert_copy(f, "k", "v");
	assert_free(f, "k2");
	fixture_run_ms(f, 130);
	assert_copy(f, "k2", "v");
	assert_int_equal(fixture_stats(f, REPLICA).snapshots, 1);
	fixture_free(f);
}

/* ---- batches ---- */

static void small_batches(struct engine_config *cfg)
{
	one_slot(cfg);
	cfg->replica_batch_bytes = 400;
}

static void test_copy_batches_have_a_size(void **state)
{
	(void)state;
	struct fixture *f = following(small_batches);
	struct spy spy = {0};
	f->lose = spy_on;
	f->lose_arg = &spy;
	char key[32];
	for (unsigned i = 0; i < 60; i++) {
		(void)snprintf(key, sizeof key, "key%u", i);
		lock_ok(f, 1, key, "v");
	}
	fixture_run_ms(f, INTERVAL_MS + 1);
	assert_int_equal(fixture_stats(f, REPLICA).leases, 60);
	assert_in_range(spy.largest, 200, 400);
	assert_in_range(spy.answers, 10, 59);
	/* An entry that is larger than that goes alone. */
	char large[3001];
	memset(large, 'x', sizeof large - 1);
	large[sizeof large - 1] = 0;
	lock_ok(f, 1, "before", "v");
	lock_ok(f, 1, "large", large);
	lock_ok(f, 1, "after", "v");
	fixture_run_ms(f, INTERVAL_MS + 1);
	assert_copy(f, "before", "v");
	assert_copy(f, "after", "v");
	assert_int_equal(local_read(f, REPLICA, "large")->r.outcome, OUT_OK);
	assert_in_range(spy.largest, 3000, 3200);
	assert_int_equal(spy.entries, 63);
	fixture_free(f);
}

/* More than fits a batch is told as fast as it is taken in. */
static void test_copy_catches_up_at_once(void **state)
{
	(void)state;
	struct fixture *f = following(one_slot);
	for (unsigned id = 1; id <= 3; id++)
		fixture_cut(f, id, REPLICA, true);
	for (unsigned i = 0; i < 2000; i++) {
		char key[32];
		(void)snprintf(key, sizeof key, "key%u", i);
		lock_ok(f, 1, key, "v");
	}
	fixture_run_ms(f, 500);
	for (unsigned id = 1; id <= 3; id++)
		fixture_cut(f, id, REPLICA, false);
	fixture_run_ms(f, 150);
	assert_int_equal(fixture_stats(f, REPLICA).leases, 2000);
	assert_int_equal(fixture_stats(f, REPLICA).snapshots, 1);
	fixture_free(f);
}

/* ---- ends of it ---- */

static void test_copy_dead_replica_leaves_nothing(void **state)
{
	(void)state;
	struct fixture *f = following(three_and_one);
	uint64_t followers = 0;
	for (unsigned id = 1; id <= 3; id++)
		followers += fixture_stats(f, id).followers;
	assert_int_equal(followers, 64);
	fixture_crash(f, REPLICA);
	for (unsigned id = 1; id <= 3; id++)
		assert_int_equal(fixture_stats(f, id).followers, 0);
	uint64_t sent = fixture_stats(f, 1).log_sent;
	lock_ok(f, 1, "k", "v");
	fixture_run_ms(f, 6000);
	uint64_t records = fixture_stats(f, 1).log_records;
	assert_int_equal(fixture_outcome(f, fixture_release(f, 1, "k", "v")), OUT_OK);
	lock_ok(f, 1, "k", "v");
	assert_int_equal(fixture_stats(f, 1).log_records, records);
	assert_int_equal(fixture_stats(f, 1).log_sent, sent);
	assert_true(f->mail_head == f->mail_tail);
	/* And it may come back. */
	fixture_restart(f, REPLICA);
	fixture_run_ms(f, 100);
	assert_true(is_whole(f));
	assert_copy(f, "k", "v");
	fixture_free(f);
}

static void little_room(struct engine_config *cfg)
{
	one_slot(cfg);
	if (cfg->self == REPLICA)
		cfg->max_leases = 20;
}

/* A copy that does not fit is none. */
static void test_copy_without_room(void **state)
{
	(void)state;
	struct fixture *f = following(little_room);
	char key[32];
	for (unsigned i = 0; i < 30; i++) {
		(void)snprintf(key, sizeof key, "key%u", i);
		lock_ok(f, 1, key, "v");
	}
	fixture_run_ms(f, 300);
	assert_false(is_whole(f));
	assert_int_equal(local_read(f, REPLICA, "key1")->r.outcome, OUT_NOTREADY);
	assert_in_range(fixture_stats(f, REPLICA).sync_full, 1, 3);
	for (unsigned i = 0; i < 15; i++) {
		(void)snprintf(key, sizeof key, "key%u", i);
		assert_int_equal(fixture_outcome(f, fixture_release(f, 1, key, "v")), OUT_OK);
	}
	fixture_run_ms(f, 1500);
	assert_true(is_whole(f));
	assert_int_equal(fixture_stats(f, REPLICA).leases, 15);
	fixture_free(f);
}

static unsigned scanned;

static void count_item(void *arg, const struct scan_item *item)
{
	(void)arg;
	(void)item;
	scanned++;
}

/* Half a copy is not walked through; a whole one is. */
static void test_copy_scan(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(4, one_slot);
	fixture_crash(f, REPLICA);
	for (unsigned i = 0; i < 500; i++) {
		char key[32];
		(void)snprintf(key, sizeof key, "key%u", i);
		lock_ok(f, 2, key, "v");
	}
	fixture_delay_reply(f, 1, REPLICA, MSG_FOLLOW);
	fixture_restart(f, REPLICA);
	fixture_run_ms(f, 5);
	fixture_let_go_of(f, MSG_FOLLOW); /* the gap; what follows the pages waits */
	fixture_run_ms(f, 5);
	assert_int_equal(fixture_stats(f, REPLICA).leases, 500);
	scanned = 0;
	const struct fixture_node *n = &f->node[REPLICA];
	assert_int_equal(engine_scan(n->engine, &n->time, 0, 10000, count_item, NULL), 0);
	assert_int_equal(scanned, 0);
	fixture_let_go(f);
	fixture_run_ms(f, 5);
	assert_int_equal(engine_scan(n->engine, &n->time, 0, 10000, count_item, NULL), 0);
	assert_int_equal(scanned, 500);
	fixture_free(f);
}

/* What a replica coordinates itself comes back as a copy, which gives it no right to write in one
 * round: others may have prepared meanwhile. */
static void test_copy_of_own_locks(void **state)
{
	(void)state;
	struct fixture *f = following(one_slot);
	lock_ok(f, REPLICA, "k", "v");
	fixture_run_ms(f, INTERVAL_MS + 1);
	assert_copy(f, "k", "v");
	assert_int_equal(fixture_outcome(f, fixture_update(f, REPLICA, "k", "v", "w")), OUT_OK);
	assert_int_equal(fixture_outcome(f, fixture_update(f, 2, "k", "w", "x")), OUT_OK);
	assert_int_equal(fixture_outcome(f, fixture_update(f, REPLICA, "k", "x", "y")), OUT_OK);
	fixture_run_ms(f, INTERVAL_MS + 1);
	assert_copy(f, "k", "y");
	/* Who stands in line here hears of the release elsewhere. */
	uint64_t tag = fixture_lock_wait(f, REPLICA, "k", "z", 30000, 10000);
	fixture_run_ms(f, 5);
	assert_int_equal(fixture_outcome(f, fixture_release(f, 3, "k", "y")), OUT_OK);
	fixture_run_ms(f, INTERVAL_MS + 5);
	assert_int_equal(fixture_outcome(f, tag), OUT_OK);
	assert_int_equal(fixture_outcome(f, fixture_release(f, REPLICA, "k", "z")), OUT_OK);
	fixture_free(f);
}

/* The copy of a write of its own comes before the masters' answers. */
static void test_copy_is_not_sticky(void **state)
{
	(void)state;
	struct fixture *f = following(one_slot);
	lock_ok(f, REPLICA, "k", "v");
	fixture_run_ms(f, INTERVAL_MS + 1);
	fixture_delay_reply(f, 0, REPLICA, MSG_ACCEPT);
	uint64_t tag = fixture_update(f, REPLICA, "k", "v", "w");
	fixture_run_ms(f, INTERVAL_MS + 1);
	assert_copy(f, "k", "w");
	fixture_let_go(f);
	assert_int_equal(fixture_outcome(f, tag), OUT_OK);
	fixture_delay_reply(f, 0, REPLICA, MSG_FOLLOW);
	assert_int_equal(fixture_outcome(f, fixture_update(f, 2, "k", "w", "x")), OUT_OK);
	assert_copy(f, "k", "w");
	tag = fixture_update(f, REPLICA, "k", "w", "y");
	assert_int_equal(fixture_outcome(f, tag), OUT_NOTOWNER);
	fixture_let_go(f);
	fixture_free(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_copy_takes_in_what_is_there),
		cmocka_unit_test(test_copy_leaves_out_what_is_no_lock),
		cmocka_unit_test(test_copy_slots_take_turns),
		cmocka_unit_test(test_copy_sees_a_write_with_the_next_batch),
		cmocka_unit_test(test_copy_values_arrive_in_order),
		cmocka_unit_test(test_copy_waitfor),
		cmocka_unit_test(test_copy_waitrelease),
		cmocka_unit_test(test_copy_another_lock_ends_the_one_before),
		cmocka_unit_test(test_copy_tells_what_remains),
		cmocka_unit_test(test_copy_hears_of_what_is_healed),
		cmocka_unit_test(test_copy_knows_its_age),
		cmocka_unit_test(test_copy_counts_the_way),
		cmocka_unit_test(test_copy_long_interval),
		cmocka_unit_test(test_copy_batches_have_a_size),
		cmocka_unit_test(test_copy_catches_up_at_once),
		cmocka_unit_test(test_copy_dead_replica_leaves_nothing),
		cmocka_unit_test(test_copy_without_room),
		cmocka_unit_test(test_copy_scan),
		cmocka_unit_test(test_copy_of_own_locks),
		cmocka_unit_test(test_copy_is_not_sticky),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
