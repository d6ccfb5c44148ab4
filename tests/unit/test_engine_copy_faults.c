/* Replicas where messages get lost, masters come and go, and the log does not reach back
 * (protocol.md 2.9). The S numbers are those of protocol.md 1.2. */
#include "copy_fixture.h"

/* ---- what gets lost, comes late, or twice ---- */

/* S24 */
static void test_copy_asks_again_for_what_gets_lost(void **state)
{
	(void)state;
	struct fixture *f = following(one_slot);
	fixture_lose_reply(f, 1, REPLICA, MSG_FOLLOW);
	lock_ok(f, 1, "k", "v");
	fixture_run_ms(f, 200);
	assert_free(f, "k");
	fixture_let_go(f);
	fixture_run_ms(f, 500);
	assert_copy(f, "k", "v");
	struct engine_stats s = fixture_stats(f, REPLICA);
	assert_int_equal(s.snapshots, 1);
	assert_int_equal(fixture_stats(f, 1).log_gaps, 0);
	fixture_free(f);
}

/* S20 */
static void test_copy_ignores_old_answers(void **state)
{
	(void)state;
	struct fixture *f = following(one_slot);
	fixture_delay_reply(f, 1, REPLICA, MSG_FOLLOW);
	lock_ok(f, 1, "k", "v");
	fixture_run_ms(f, 10);
	f->n_rules = 0; /* that answer stays under way */
	assert_int_equal(fixture_outcome(f, fixture_release(f, 1, "k", "v")), OUT_OK);
	fixture_run_ms(f, 700);
	lock_ok(f, 1, "k2", "v");
	fixture_run_ms(f, INTERVAL_MS + 1);
	assert_copy(f, "k2", "v"); /* it has gone on */
	assert_free(f, "k");
	uint64_t before = fixture_stats(f, REPLICA).copied;
	fixture_let_go(f);
	assert_free(f, "k");
	assert_int_equal(fixture_stats(f, REPLICA).copied, before);
	fixture_free(f);
}

static void test_copy_everything_arrives_twice(void **state)
{
	(void)state;
	struct fixture *f = following(three_and_one);
	f->twice = true;
	for (unsigned i = 0; i < 40; i++) {
		char key[32];
		(void)snprintf(key, sizeof key, "key%u", i);
		lock_ok(f, 1 + i % 3, key, "v");
		fixture_run_ms(f, 3);
		if (i % 2 == 0)
			assert_int_equal(
				fixture_outcome(f, fixture_release(f, 1 + i % 3, key, "v")),
				OUT_OK);
	}
	fixture_run_ms(f, 200);
	assert_int_equal(fixture_stats(f, REPLICA).leases, 20);
	assert_int_equal(fixture_stats(f, REPLICA).snapshots, 64);
	fixture_free(f);
}

/* An answer to the question that is out, with these entries, that goes on so many records later.
 */
static void answer_with(struct fixture *f, const struct spy *spy, const struct sync_entry *s,
	unsigned n, uint64_t records)
{
	struct buf body;
	buf_init(&body, 0);
	for (unsigned i = 0; i < n; i++)
		assert_int_equal(sync_entry_encode(&body, &s[i]), 0);
	struct msg m = {.type = MSG_REPLY,
		.req_type = MSG_FOLLOW,
		.verdict = VERDICT_LOG,
		.flags = MSG_LOG_END,
		.req = spy->question.req,
		.op_id = f->node[1].cfg.cid,
		.cursor = spy->question.cursor + records,
		.value = bytes_of(body.data, body.len)};
	fixture_msg(f, 1, REPLICA, m);
	buf_fini(&body);
}

static struct sync_entry lock_of(const char *key, const char *value, struct ballot uid, uint64_t n)
{
	return (struct sync_entry){.flags = SYNC_WRITTEN,
		.key = bytes_str(key),
		.value = bytes_str(value),
		.uid = uid,
		.vb = {n, 7, 0},
		.pb = {n, 7, 0},
		.op_id = 1,
		.maxn = n > uid.n ? n : uid.n,
		.remaining_ns = UINT64_C(20000000000),
		.node = 1};
}

/* S21, S22 */
static void test_copy_applies_only_what_fits(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(4, one_slot);
	struct spy spy = {0};
	f->lose = spy_on;
	f->lose_arg = &spy;
	fixture_run_ms(f, 300);
	struct ballot older = {1000, 7}, newer = {2000, 7};
	uint8_t hash[SYNC_GONE_KEY_BYTES];
	put_u64(hash, hash_bytes(bytes_str("k")));
	struct sync_entry gone = {
		.flags = SYNC_GONE, .uid = older, .key = bytes_of(hash, sizeof hash)};
	/* The release of an older lock does not touch the newer one. */
	struct sync_entry story[] = {
		lock_of("k", "a", older, 1000), lock_of("k", "b", newer, 2000), gone};
	answer_with(f, &spy, story, 3, 0);
	assert_copy(f, "k", "b");
	assert_int_equal(local_read(f, REPLICA, "k")->r.token, newer.n);
	/* Nor does a value that was written before the one that is here. */
	struct sync_entry writes[] = {
		lock_of("k", "d", newer, 4000), lock_of("k", "c", newer, 3000)};
	answer_with(f, &spy, writes, 2, 0);
	assert_copy(f, "k", "d");
	/* The lock itself does. */
	gone.uid = newer;
	answer_with(f, &spy, &gone, 1, 0);
	assert_free(f, "k");
	assert_int_equal(fixture_stats(f, REPLICA).snapshots, 1);
	fixture_free(f);
}

/* An answer that no master gives is not believed; all is taken in anew, and is as it was. */
static void test_copy_begins_anew_after_nonsense(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(4, one_slot);
	struct spy spy = {0};
	f->lose = spy_on;
	f->lose_arg = &spy;
	lock_ok(f, 1, "k", "v");
	fixture_run_ms(f, 300);
	struct sync_entry promise = lock_of("p", "v", (struct ballot){1000, 7}, 1000);
	promise.flags |= SYNC_UNCONFIRMED;
	answer_with(f, &spy, &promise, 1, 0);
	assert_false(is_whole(f));
	fixture_run_ms(f, 100);
	assert_true(is_whole(f));
	struct sync_entry shadow = {.flags = SYNC_SHADOW,
		.key = bytes_str("s"),
		.maxn = 1,
		.remaining_ns = UINT64_C(20000000000)};
	answer_with(f, &spy, &shadow, 1, 0);
	fixture_run_ms(f, 100);
	assert_true(is_whole(f));
	assert_int_equal(fixture_stats(f, REPLICA).snapshots, 3);
	assert_int_equal(fixture_stats(f, REPLICA).leases, 1);
	assert_copy(f, "k", "v");
	/* Back to a record that was told: not the log it has followed. */
	answer_with(f, &spy, NULL, 0, (uint64_t)-1);
	fixture_run_ms(f, 300);
	assert_true(is_whole(f));
	assert_copy(f, "k", "v");
	fixture_free(f);
}

/* ---- gaps ---- */

static void test_copy_log_too_short(void **state)
{
	(void)state;
	struct fixture *f = following(one_slot);
	lock_ok(f, 1, "gone", "v");
	lock_ok(f, 1, "k", "v");
	fixture_run_ms(f, INTERVAL_MS + 1);
	uint64_t waits = watch(f, OP_WAITRELEASE, "gone", 10000);
	uint64_t stays = watch(f, OP_WAITRELEASE, "k", 10000);
	fixture_cut(f, 1, REPLICA, true);
	assert_int_equal(fixture_outcome(f, fixture_release(f, 1, "gone", "v")), OUT_OK);
	struct msg extend = {.type = MSG_EXTEND,
		.key = bytes_str("k"),
		.lease_ms = 30000,
		.n = local_read(f, 1, "k")->r.token};
	for (unsigned i = 0; i < 4200; i++)
		fixture_msg(f, 2, 1, extend);
	assert_int_equal(fixture_stats(f, 1).log_gaps, 0);
	fixture_cut(f, 1, REPLICA, false);
	/* While the pages come, things go on. */
	fixture_delay_reply(f, 1, REPLICA, MSG_SYNC);
	fixture_run_ms(f, 700);
	assert_int_equal(fixture_stats(f, 1).log_gaps, 1);
	assert_int_equal(fixture_stats(f, REPLICA).snapshots, 2);
	assert_int_equal(local_read(f, REPLICA, "k")->r.outcome, OUT_NOTREADY);
	assert_int_equal(fixture_outcome(f, fixture_update(f, 1, "k", "v", "w")), OUT_OK);
	lock_ok(f, 2, "new", "v");
	assert_null(fixture_result(f, waits)); /* thrown away is not released */
	fixture_let_go(f);
	fixture_run_ms(f, 10);
	assert_true(is_whole(f));
	assert_copy(f, "k", "w");
	assert_copy(f, "new", "v");
	assert_free(f, "gone");
	assert_int_equal(fixture_outcome(f, waits), OUT_OK);
	assert_null(fixture_result(f, stays));
	fixture_free(f);
}

static bool lose_ends(struct fixture *f, uint8_t from, uint8_t to, const struct msg *m)
{
	(void)f;
	(void)from;
	return to == REPLICA && m->type == MSG_REPLY && m->verdict == VERDICT_LOG &&
	       (m->flags & MSG_LOG_END);
}

static void small_batches(struct engine_config *cfg)
{
	one_slot(cfg);
	cfg->replica_batch_bytes = 400;
}

/* Pages are as old as the gap: what came since then belongs to them. */
static void test_copy_is_whole_at_the_end_of_the_log(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(4, small_batches);
	fixture_crash(f, REPLICA);
	fixture_delay_reply(f, 1, REPLICA, MSG_SYNC);
	fixture_restart(f, REPLICA);
	fixture_run_ms(f, 5);
	char key[32];
	for (unsigned i = 0; i < 30; i++) {
		(void)snprintf(key, sizeof key, "key%u", i);
		lock_ok(f, 1, key, "v");
	}
	f->lose = lose_ends;
	fixture_let_go(f);
	fixture_run_ms(f, 100);
	assert_in_range(fixture_stats(f, REPLICA).leases, 10, 29);
	assert_int_equal(local_read(f, REPLICA, "key1")->r.outcome, OUT_NOTREADY);
	f->lose = NULL;
	fixture_run_ms(f, 700);
	assert_true(is_whole(f));
	assert_int_equal(fixture_stats(f, REPLICA).leases, 30);
	fixture_free(f);
}

/* Nobody else to turn to. */
static void only_one_master(struct engine_config *cfg)
{
	one_slot(cfg);
	cfg->n_masters = 1;
}

/* Who has not asked for long finds that nothing was recorded meanwhile. */
static void test_copy_nobody_asked_for_long(void **state)
{
	(void)state;
	struct fixture *f = following(only_one_master);
	lock_ok(f, 1, "k", "v");
	fixture_run_ms(f, INTERVAL_MS + 1);
	uint64_t other = watch(f, OP_WAITRELEASE, "k", 60000);
	uint64_t arrives = watch(f, OP_WAITFOR, "new", 60000);
	fixture_cut(f, 1, REPLICA, true);
	fixture_run_ms(f, 6000);
	assert_int_equal(fixture_stats(f, 1).followers, 0);
	uint64_t before = fixture_stats(f, 1).log_records;
	assert_int_equal(fixture_outcome(f, fixture_release(f, 1, "k", "v")), OUT_OK);
	lock_ok(f, 2, "k", "w");
	lock_ok(f, 2, "new", "v");
	assert_int_equal(fixture_stats(f, 1).log_records, before);
	fixture_cut(f, 1, REPLICA, false);
	fixture_run_ms(f, 1000);
	assert_true(is_whole(f));
	assert_copy(f, "k", "w");
	assert_int_equal(fixture_outcome(f, other), OUT_OK);
	assert_int_equal(fixture_outcome(f, arrives), OUT_OK);
	fixture_free(f);
}

static void one_master(struct engine_config *cfg)
{
	cfg->n_masters = 1;
	cfg->replica = cfg->self == 2;
	cfg->slots = 1;
}

/* A master that has forgotten everything has another log, though it begins where the old one did.
 */
static void test_copy_of_another_incarnation(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(2, one_master);
	lock_ok(f, 1, "k", "v");
	fixture_run_ms(f, 200);
	assert_int_equal(local_read(f, 2, "k")->r.outcome, OUT_OK);
	fixture_crash(f, 1);
	fixture_run_ms(f, 1000);
	/* With nobody to follow, the old copy is better than none. */
	assert_int_equal(local_read(f, 2, "k")->r.outcome, OUT_OK);
	assert_true(fixture_stats(f, 2).lag_ns > 1000000000);
	fixture_restart(f, 1);
	fixture_run_ms(f, 500);
	assert_int_equal(local_read(f, 2, "k")->r.outcome, OUT_OK);
	fixture_activate(f, 1, 0);
	fixture_run_ms(f, 300);
	assert_int_equal(local_read(f, 2, "k")->r.outcome, OUT_NULL);
	assert_int_equal(fixture_stats(f, 2).snapshots, 2);
	assert_int_equal(fixture_stats(f, 2).slots_in_sync, 1);
	lock_ok(f, 1, "k", "w");
	fixture_run_ms(f, 10);
	assert_int_equal(local_read(f, 2, "k")->r.outcome, OUT_OK);
	fixture_free(f);
}

/* A master that begins to vote again knows things that no record tells of. */
static void test_copy_of_a_slot_that_votes_again(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(2, one_master);
	lock_ok(f, 1, "k", "v");
	fixture_run_ms(f, 200);
	fixture_status(f, 1, NODE_QUARANTINE);
	fixture_run_ms(f, 500);
	assert_int_equal(local_read(f, 2, "k")->r.outcome, OUT_OK);
	fixture_activate(f, 1, 0);
	fixture_run_ms(f, 300);
	assert_int_equal(fixture_stats(f, 2).snapshots, 2);
	assert_int_equal(local_read(f, 2, "k")->r.outcome, OUT_OK);
	fixture_free(f);
}

static void test_copy_follows_the_next_master(void **state)
{
	(void)state;
	struct fixture *f = following(one_slot);
	lock_ok(f, 2, "k", "v");
	fixture_run_ms(f, INTERVAL_MS + 1);
	assert_int_equal(fixture_stats(f, 1).followers, 1);
	fixture_crash(f, 1);
	fixture_run_ms(f, 100);
	assert_copy(f, "k", "v"); /* it may come back */
	fixture_run_ms(f, 500);
	assert_true(is_whole(f));
	assert_int_equal(fixture_stats(f, 2).followers, 1);
	assert_copy(f, "k", "v");
	lock_ok(f, 3, "k2", "v");
	fixture_run_ms(f, INTERVAL_MS + 1);
	assert_copy(f, "k2", "v");
	/* One that is silent, and whose link does not go down. */
	fixture_pause(f, 2, true);
	fixture_run_ms(f, 1500);
	assert_int_equal(fixture_stats(f, 3).followers, 1);
	assert_true(is_whole(f));
	fixture_pause(f, 2, false);
	fixture_free(f);
}

/* What came meanwhile is in its log. */
static void test_copy_link_comes_back(void **state)
{
	(void)state;
	struct fixture *f = following(three_and_one);
	for (unsigned id = 1; id <= 3; id++)
		fixture_link(f, id, REPLICA, false);
	lock_ok(f, 2, "k", "v");
	fixture_run_ms(f, 300);
	for (unsigned id = 1; id <= 3; id++)
		fixture_link(f, id, REPLICA, true);
	fixture_run_ms(f, INTERVAL_MS + 1);
	assert_copy(f, "k", "v");
	assert_int_equal(fixture_stats(f, REPLICA).snapshots, 64);
	fixture_free(f);
}

/* In the middle of its pages: those of two masters do not go together. */
static void test_copy_master_dies_between_pages(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(4, one_slot);
	struct spy spy = {0};
	fixture_crash(f, REPLICA);
	for (unsigned i = 0; i < 1000; i++) {
		char key[32];
		(void)snprintf(key, sizeof key, "key%u", i);
		lock_ok(f, 2, key, "v");
	}
	f->lose = spy_on;
	f->lose_arg = &spy;
	fixture_restart(f, REPLICA);
	f->hold = true;
	fixture_run_ms(f, 2);
	for (unsigned i = 0; i < 10000 && spy.pages < 3; i++) {
		if (!fixture_deliver_one(f))
			fixture_run_ms(f, 1);
	}
	assert_int_equal(spy.pages, 3);
	f->hold = false;
	fixture_crash(f, 1);
	fixture_run_ms(f, 100);
	assert_true(is_whole(f));
	assert_int_equal(fixture_stats(f, REPLICA).snapshots, 2);
	assert_int_equal(fixture_stats(f, REPLICA).leases, 1000);
	fixture_free(f);
}

/* ---- other masters ---- */

/* All nodes act by @m; @replica copies. */
static void change(struct fixture *f, struct engine_members *m, uint8_t joined, uint8_t departed,
	unsigned replica)
{
	*m = fixture_next(m, joined, departed);
	for (unsigned id = 1; id <= f->n; id++) {
		struct engine_members one = *m;
		one.replica = id == replica;
		fixture_config(f, id, &one);
	}
	if (joined != 0)
		fixture_status(f, joined, NODE_RESYNC);
}

static bool votes_everywhere(const struct fixture *f, unsigned id)
{
	struct engine_stats s = fixture_stats(f, id);
	return s.slots > 0 && s.slots_voting == s.slots && s.synced_epoch != 0;
}

static void lock_many(struct fixture *f, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		char key[32];
		(void)snprintf(key, sizeof key, "key%u", i);
		lock_ok(f, 1, key, "v");
	}
}

/* What it had as a replica is no vote: it asks the masters. */
static void test_copy_promoted(void **state)
{
	(void)state;
	struct fixture *f = following(three_and_one);
	struct engine_members m = fixture_members(f, 1);
	lock_many(f, 100);
	fixture_run_ms(f, INTERVAL_MS + 1);
	/* The copy is wrong by a lock that is held and one that is not. */
	fixture_lose_reply(f, 0, REPLICA, MSG_FOLLOW);
	lock_ok(f, 2, "new", "v");
	assert_int_equal(fixture_outcome(f, fixture_release(f, 1, "key1", "v")), OUT_OK);
	fixture_run_ms(f, 100);
	f->n_rules = 0;
	change(f, &m, REPLICA, 0, 0);
	fixture_run_ms(f, 3000);
	assert_true(votes_everywhere(f, REPLICA));
	assert_int_equal(fixture_stats(f, REPLICA).leases, 100);
	assert_copy(f, "new", "v");
	assert_free(f, "key1");
	for (unsigned id = 1; id <= 3; id++)
		assert_int_equal(fixture_stats(f, id).followers, 0);
	fixture_free(f);
}

/* A master that was tells those who merge; then it copies, and its readers have answers again. */
static void test_copy_demoted(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(4, NULL);
	struct engine_members m = fixture_members(f, 1);
	lock_many(f, 100);
	change(f, &m, 0, REPLICA, REPLICA);
	fixture_run_ms(f, 3000);
	for (unsigned id = 1; id <= 3; id++)
		assert_true(votes_everywhere(f, id));
	assert_int_equal(fixture_stats(f, REPLICA).status, NODE_REPLICA);
	assert_int_equal(fixture_stats(f, REPLICA).slots_in_sync, 0);
	assert_int_equal(fixture_outcome(f, fixture_release(f, 1, "key1", "v")), OUT_OK);
	fixture_settled(f, REPLICA);
	fixture_run_ms(f, 500);
	assert_true(is_whole(f));
	assert_int_equal(fixture_stats(f, REPLICA).leases, 99);
	assert_copy(f, "key2", "v");
	assert_free(f, "key1");
	lock_ok(f, 2, "key1", "w");
	fixture_run_ms(f, 10);
	assert_copy(f, "key1", "w");
	fixture_free(f);
}

/* Whom it follows is a master no more. */
static void test_copy_master_departs(void **state)
{
	(void)state;
	struct fixture *f = following(three_and_one);
	struct engine_members m = fixture_members(f, 1);
	lock_many(f, 100);
	change(f, &m, 0, 1, REPLICA);
	fixture_run_ms(f, 3000);
	assert_true(is_whole(f));
	assert_int_equal(fixture_stats(f, REPLICA).leases, 100);
	assert_int_equal(fixture_stats(f, 1).followers, 0);
	assert_int_equal(fixture_stats(f, 2).followers + fixture_stats(f, 3).followers, 64);
	lock_ok(f, 2, "new", "v");
	fixture_run_ms(f, INTERVAL_MS + 1);
	assert_copy(f, "new", "v");
	/* It is told to be none any more. */
	change(f, &m, 1, 0, 0);
	assert_int_equal(local_read(f, REPLICA, "new")->r.outcome, OUT_NOTREADY);
	assert_int_equal(fixture_stats(f, REPLICA).status, NODE_NONMEMBER);
	uint64_t messages = fixture_stats(f, REPLICA).msgs_out;
	fixture_run_ms(f, 1000);
	assert_int_equal(fixture_stats(f, REPLICA).msgs_out, messages);
	/* And to be one again. */
	fixture_run_ms(f, 2000);
	change(f, &m, 0, 1, REPLICA);
	fixture_run_ms(f, 1000);
	assert_true(is_whole(f));
	assert_int_equal(fixture_stats(f, REPLICA).leases, 101);
	fixture_free(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_copy_asks_again_for_what_gets_lost),
		cmocka_unit_test(test_copy_ignores_old_answers),
		cmocka_unit_test(test_copy_everything_arrives_twice),
		cmocka_unit_test(test_copy_applies_only_what_fits),
		cmocka_unit_test(test_copy_begins_anew_after_nonsense),
		cmocka_unit_test(test_copy_log_too_short),
		cmocka_unit_test(test_copy_is_whole_at_the_end_of_the_log),
		cmocka_unit_test(test_copy_nobody_asked_for_long),
		cmocka_unit_test(test_copy_of_another_incarnation),
		cmocka_unit_test(test_copy_of_a_slot_that_votes_again),
		cmocka_unit_test(test_copy_follows_the_next_master),
		cmocka_unit_test(test_copy_link_comes_back),
		cmocka_unit_test(test_copy_master_dies_between_pages),
		cmocka_unit_test(test_copy_promoted),
		cmocka_unit_test(test_copy_demoted),
		cmocka_unit_test(test_copy_master_departs),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
