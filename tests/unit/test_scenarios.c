/* The holes of the first version in mutual exclusion (protocol.md 1.1), each scripted: what went
 * wrong there must go right here. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "cluster_fixture.h"

static bool answered_ok(const struct fixture *f, uint64_t tag)
{
	const struct fixture_result *r = fixture_result(f, tag);
	return r != NULL && r->r.outcome == OUT_OK;
}

static void assert_holder(struct fixture *f, unsigned id, const char *value)
{
	uint64_t tag = fixture_read(f, id, "k", true);
	assert_int_equal(fixture_outcome(f, tag), OUT_OK);
	assert_string_equal(fixture_result(f, tag)->value, value);
}

/* The coordinator stops between its votes and its answer for longer than a promise may last. */
static void test_s1_stopped_coordinator_is_not_granted_late(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, NULL);
	fixture_delay_reply(f, 0, 1, MSG_TRYLOCK);
	uint64_t x = fixture_lock(f, 1, "k", "x", 10000);
	fixture_pause(f, 1, true);
	fixture_run_ms(f, 3000);
	uint64_t y = fixture_lock(f, 2, "k", "y", 30000);
	fixture_run_ms(f, 2100);
	assert_false(answered_ok(f, y)); /* x's promises stand for the whole lease */
	fixture_run_ms(f, 5000);
	y = fixture_lock(f, 2, "k", "y", 30000);
	assert_int_equal(fixture_outcome(f, y), OUT_OK);
	fixture_pause(f, 1, false);
	fixture_let_go(f);
	fixture_run_ms(f, 10);
	assert_int_equal(fixture_outcome(f, x), OUT_NOQUORUM);
	for (unsigned id = 1; id <= 3; id++)
		assert_holder(f, id, "y");
	fixture_free(f);
}

/* OK means a majority of votes, counted; what was lost afterwards changes nothing. */
static void test_s2_no_grant_without_counted_votes(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, NULL);
	fixture_lose_reply(f, 0, 1, MSG_TRYLOCK);
	uint64_t x = fixture_lock(f, 1, "k", "x", 60000);
	fixture_run_ms(f, 2100);
	assert_int_equal(fixture_outcome(f, x), OUT_NOQUORUM);
	fixture_let_go(f);
	assert_int_equal(fixture_outcome(f, fixture_lock(f, 2, "k", "y", 1000)), OUT_OK);
	assert_int_equal(fixture_outcome(f, fixture_release(f, 2, "k", "y")), OUT_OK);

	fixture_lose(f, 1, 0, MSG_CONFIRM);
	x = fixture_lock(f, 1, "k", "x", 10000);
	assert_int_equal(fixture_outcome(f, x), OUT_OK);
	fixture_cut(f, 1, 2, true);
	fixture_cut(f, 1, 3, true);
	for (unsigned i = 0; i < 9; i++) {
		uint64_t y = fixture_lock(f, 2 + i % 2, "k", "y", 1000);
		fixture_run_ms(f, 1000);
		assert_false(answered_ok(f, y));
	}
	fixture_free(f);
}

/* No second is truncated: the next grant never comes before the holder's belief has ended. */
static void test_s5_next_grant_waits_for_the_belief_to_end(void **state)
{
	(void)state;
	static const uint32_t leases_ms[] = {1, 2, 3, 50, 900, 999, 1000, 1001, 2000};
	for (unsigned i = 0; i < sizeof leases_ms / sizeof leases_ms[0]; i++) {
		struct fixture *f = fixture_new(3, NULL);
		fixture_run_ms(f, 950 + i);
		uint64_t begin_ns = f->now_ns;
		uint64_t x = fixture_lock(f, 1, "k", "x", leases_ms[i]);
		assert_int_equal(fixture_outcome(f, x), OUT_OK);
		uint64_t valid_ms = fixture_result(f, x)->r.valid_ms;
		assert_true(valid_ms < leases_ms[i]);
		uint64_t y = fixture_lock_wait(f, 2, "k", "y", 1000, 5000);
		while (fixture_result(f, y) == NULL)
			fixture_run_ms(f, 1);
		assert_int_equal(fixture_outcome(f, y), OUT_OK);
		uint64_t grant_ns = fixture_result(f, y)->at_fast_ns;
		assert_true(grant_ns >= begin_ns + valid_ms * 1000000);
		assert_true(grant_ns > begin_ns + leases_ms[i] * UINT64_C(1000000));
		fixture_free(f);
	}
}

/* A lease that ends while it is being granted is not granted. */
static void test_s6_no_grant_after_its_own_end(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, NULL);
	fixture_pause(f, 3, true);
	uint64_t x = fixture_lock(f, 1, "k", "x", 2000);
	assert_int_equal(fixture_outcome(f, x), OUT_OK); /* the third is not waited for */
	assert_in_range(fixture_result(f, x)->r.valid_ms, 1, 1999);
	assert_int_equal(fixture_outcome(f, fixture_release(f, 1, "k", "x")), OUT_OK);

	fixture_delay_reply(f, 2, 1, MSG_TRYLOCK);
	fixture_lose(f, 1, 2, MSG_ABORT);
	x = fixture_lock(f, 1, "k", "x", 300);
	fixture_run_ms(f, 320);
	assert_false(answered_ok(f, x));
	fixture_let_go(f); /* the vote of a lease that is over */
	fixture_pause(f, 3, false);
	fixture_settle(f);
	/* If it is granted at all, then by a new attempt with a new token. */
	fixture_run_ms(f, 100);
	if (answered_ok(f, x))
		assert_in_range(fixture_result(f, x)->r.valid_ms, 300 + 1, 300 + 420);
	fixture_free(f);
}

/* The slowest master is not waited for, however slow. */
static void test_s7_slow_third_master_delays_nothing(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, NULL);
	fixture_pause(f, 3, true);
	for (unsigned i = 0; i < 20; i++) {
		uint64_t at_ns = f->now_ns;
		uint64_t x = fixture_lock(f, 1 + i % 2, "k", "x", 5000);
		assert_int_equal(fixture_outcome(f, x), OUT_OK);
		assert_int_equal(fixture_outcome(f, fixture_extend(f, 2, "k", "x", 5000)), OUT_OK);
		assert_int_equal(fixture_outcome(f, fixture_update(f, 1, "k", "x", "z")), OUT_OK);
		assert_holder(f, 1, "z");
		assert_int_equal(fixture_outcome(f, fixture_release(f, 2, "k", "z")), OUT_OK);
		assert_true(f->now_ns - at_ns < 20000000); /* nothing but back-off moved time */
	}
	fixture_free(f);
}

/* A late EXTEND finds another lease and leaves it alone. */
static void test_s8_extend_never_overwrites(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, NULL);
	assert_int_equal(fixture_outcome(f, fixture_lock(f, 1, "k", "x", 1000)), OUT_OK);
	fixture_run_ms(f, 500);
	fixture_delay(f, 2, 0, MSG_EXTEND);
	fixture_delay(f, 0, 2, MSG_EXTEND);
	fixture_status(f, 2, NODE_QUARANTINE); /* its own copy takes no part */
	uint64_t extend = fixture_extend(f, 2, "k", "x", 20000);
	fixture_status(f, 2, NODE_ACTIVE);
	fixture_run_ms(f, 502);
	uint64_t y = fixture_lock(f, 3, "k", "y", 30000);
	assert_int_equal(fixture_outcome(f, y), OUT_OK);
	fixture_let_go(f);
	fixture_run_ms(f, 1000);
	assert_int_not_equal(fixture_outcome(f, extend), OUT_OK);
	for (unsigned id = 1; id <= 3; id++) {
		assert_holder(f, id, "y");
		uint64_t local = fixture_read(f, id, "k", false);
		assert_string_equal(fixture_result(f, local)->value, "y");
	}
	fixture_free(f);
}

/* Without a majority of acknowledgements nothing was extended. */
static void test_s9_extend_without_acks_is_unknown(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, NULL);
	fixture_lock(f, 1, "k", "x", 3000);
	fixture_lose(f, 1, 0, MSG_EXTEND);
	uint64_t extend = fixture_extend(f, 1, "k", "x", 60000);
	fixture_run_ms(f, 2100);
	assert_int_equal(fixture_outcome(f, extend), OUT_UNKNOWN);
	assert_int_equal(fixture_result(f, extend)->r.answered, 1);
	fixture_let_go(f);
	fixture_run_ms(f, 1000);
	/* Node 1 alone may keep it; the other two are a majority. */
	uint64_t y = fixture_lock(f, 2, "k", "y", 1000);
	assert_int_equal(fixture_outcome(f, y), OUT_OK);
	fixture_free(f);
}

static void late_message_scene(struct fixture *f, enum msg_type type, bool held_by_other)
{
	bool extend = type == MSG_EXTEND;
	if (!extend)
		fixture_delay(f, 1, 3, type);
	assert_int_equal(fixture_outcome(f, fixture_lock(f, 1, "k", "x", 10000)), OUT_OK);
	if (extend) {
		fixture_delay(f, 1, 3, type);
		assert_int_equal(fixture_outcome(f, fixture_extend(f, 1, "k", "x", 10000)), OUT_OK);
	}
	assert_int_equal(fixture_outcome(f, fixture_release(f, 1, "k", "x")), OUT_OK);
	if (held_by_other)
		assert_int_equal(fixture_outcome(f, fixture_lock(f, 2, "k", "y", 10000)), OUT_OK);
	fixture_let_go(f);
	uint64_t local = fixture_read(f, 3, "k", false);
	assert_int_equal(fixture_outcome(f, local), held_by_other ? OUT_OK : OUT_NULL);
	struct engine_stats s = fixture_stats(f, 3);
	assert_int_equal(s.leases + s.promises, held_by_other);
	if (held_by_other)
		assert_string_equal(fixture_result(f, local)->value, "y");
}

/* A vote or extension that arrives after the release installs nothing. How old a message may be at
 * all is the shard's part. */
static void test_s10_late_message_installs_nothing(void **state)
{
	(void)state;
	static const enum msg_type types[] = {MSG_TRYLOCK, MSG_EXTEND};
	for (unsigned i = 0; i < 4; i++) {
		struct fixture *f = fixture_new(3, NULL);
		late_message_scene(f, types[i / 2], i % 2);
		fixture_free(f);
	}
}

/* A paused master that resumes with an old vote in its mailbox, after the tombstone was folded:
 * the floor refuses it. */
static void test_s10_floor_refuses_what_was_forgotten(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, NULL);
	fixture_delay(f, 1, 3, MSG_TRYLOCK);
	fixture_lock(f, 1, "k", "x", 5000);
	fixture_release(f, 1, "k", "x");
	fixture_run_ms(f, 20000); /* several T_tomb */
	assert_int_equal(fixture_stats(f, 3).tombstones, 0);
	fixture_let_go(f);
	struct engine_stats s = fixture_stats(f, 3);
	assert_int_equal(s.leases + s.promises, 0);
	fixture_free(f);
}

/* Any byte string is a value; none means "not found". */
static void test_s15_no_value_is_a_sentinel(void **state)
{
	(void)state;
	static const char *const values[] = {"", "not_found", "null", "nil", "0", "undefined"};
	for (unsigned i = 0; i < sizeof values / sizeof values[0]; i++) {
		struct fixture *f = fixture_new(3, NULL);
		assert_int_equal(
			fixture_outcome(f, fixture_lock(f, 1, "k", values[i], 10000)), OUT_OK);
		for (unsigned k = 0; k < 6; k++) {
			uint64_t y = fixture_lock(f, 1 + k % 3, "k", values[k], 10000);
			assert_int_equal(fixture_outcome(f, y), OUT_HELD);
		}
		assert_holder(f, 2, values[i]);
		assert_int_equal(fixture_outcome(f, fixture_release(f, 3, "k", values[i])), OUT_OK);
		fixture_free(f);
	}
}

static uint64_t token_op(struct fixture *f, enum op_kind kind, const char *value, uint64_t token)
{
	return fixture_op(f, 3,
		(struct op_request){.kind = kind,
			.key = bytes_str("k"),
			.value = bytes_str(value),
			.new_value = bytes_str("new"),
			.ttl_ms = 10000,
			.has_ttl = kind == OP_EXTEND,
			.has_token = true,
			.token = token});
}

/* Two holders with one value: the token tells them apart; without it the value is the holder. */
static void test_s16_token_tells_equal_values_apart(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, NULL);
	uint64_t a = fixture_lock(f, 1, "k", "foo", 1000);
	uint64_t old = fixture_result(f, a)->r.token;
	fixture_run_ms(f, 1002);
	uint64_t b = fixture_lock(f, 2, "k", "foo", 10000);
	uint64_t now = fixture_result(f, b)->r.token;
	assert_true(now > old);
	static const enum op_kind kinds[] = {OP_RELEASE, OP_EXTEND, OP_UPDATE};
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(
			fixture_outcome(f, token_op(f, kinds[i], "foo", old)), OUT_NOTOWNER);
		assert_int_equal(fixture_outcome(f, token_op(f, kinds[i], "foo", 1)), OUT_NOTOWNER);
		assert_holder(f, 1, "foo");
	}
	assert_int_equal(fixture_outcome(f, token_op(f, OP_EXTEND, "foo", now)), OUT_OK);
	assert_int_equal(fixture_outcome(f, fixture_extend(f, 1, "k", "foo", 10000)), OUT_OK);
	assert_int_equal(fixture_outcome(f, fixture_release(f, 1, "k", "foo")), OUT_OK);
	fixture_free(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_s1_stopped_coordinator_is_not_granted_late),
		cmocka_unit_test(test_s2_no_grant_without_counted_votes),
		cmocka_unit_test(test_s5_next_grant_waits_for_the_belief_to_end),
		cmocka_unit_test(test_s6_no_grant_after_its_own_end),
		cmocka_unit_test(test_s7_slow_third_master_delays_nothing),
		cmocka_unit_test(test_s8_extend_never_overwrites),
		cmocka_unit_test(test_s9_extend_without_acks_is_unknown),
		cmocka_unit_test(test_s10_late_message_installs_nothing),
		cmocka_unit_test(test_s10_floor_refuses_what_was_forgotten),
		cmocka_unit_test(test_s15_no_value_is_a_sentinel),
		cmocka_unit_test(test_s16_token_tells_equal_values_apart),
	};
	return cmocka_run_group_tests_name("scenarios", tests, NULL, NULL);
}
