/* The holes of the first version in values, answers, waiting and resources (protocol.md 1.2, 1.3),
 * each scripted. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>

#include "cluster_fixture.h"

static void assert_value(struct fixture *f, unsigned id, const char *value)
{
	uint64_t tag = fixture_read(f, id, "k", true);
	fixture_run_ms(f, 200); /* healing takes a few rounds */
	assert_int_equal(fixture_outcome(f, tag), OUT_OK);
	assert_string_equal(fixture_result(f, tag)->value, value);
}

static uint64_t watch(struct fixture *f, unsigned id, enum op_kind kind, uint64_t wait_ms)
{
	return fixture_op(f, id,
		(struct op_request){.kind = kind, .key = bytes_str("k"), .wait_ms = wait_ms});
}

/* The lease ends between the two rounds of an update. */
static void test_s17_update_of_an_ended_lease_fails(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, NULL);
	fixture_lock(f, 1, "k", "v", 1000);
	fixture_run_ms(f, 900);
	fixture_delay(f, 2, 0, MSG_ACCEPT);
	uint64_t update = fixture_update(f, 2, "k", "v", "v1");
	assert_null(fixture_result(f, update));
	fixture_run_ms(f, 150);
	fixture_let_go(f);
	fixture_run_ms(f, 100);
	/* Its own copy had taken the value; the lease is gone before anybody else did. */
	assert_int_equal(fixture_outcome(f, update), OUT_UNKNOWN);
	assert_int_equal(fixture_outcome(f, fixture_read(f, 1, "k", true)), OUT_NULL);
	assert_int_equal(fixture_outcome(f, fixture_update(f, 2, "k", "v", "v1")), OUT_NOTFOUND);
	assert_int_equal(fixture_outcome(f, fixture_lock(f, 3, "k", "w", 1000)), OUT_OK);
	fixture_free(f);
}

/* An update acknowledged by one master and another from the same base through the other two. */
static void test_s18_two_updates_from_one_base(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, NULL);
	fixture_lock(f, 1, "k", "v", 60000);
	fixture_lose(f, 1, 0, MSG_ACCEPT);
	uint64_t a = fixture_update(f, 1, "k", "v", "v1"); /* in node 1 only */
	assert_null(fixture_result(f, a));
	fixture_cut(f, 1, 2, true);
	fixture_cut(f, 1, 3, true);
	uint64_t b = fixture_update(f, 2, "k", "v", "v2");
	assert_int_equal(fixture_outcome(f, b), OUT_OK);
	fixture_run_ms(f, 2100);
	assert_int_equal(fixture_outcome(f, a), OUT_UNKNOWN);
	fixture_cut(f, 1, 2, false);
	fixture_cut(f, 1, 3, false);
	fixture_let_go(f);
	for (unsigned id = 1; id <= 3; id++)
		assert_value(f, id, "v2");
	fixture_free(f);
}

/* Two updates at once through every pair of nodes: never two OK. */
static void test_s18_racing_updates_have_one_winner(void **state)
{
	(void)state;
	for (unsigned pair = 0; pair < 9; pair++) {
		struct fixture *f = fixture_new(3, NULL);
		fixture_lock(f, 1, "k", "v", 60000);
		f->hold = true;
		uint64_t a = fixture_update(f, 1 + pair / 3, "k", "v", "a");
		uint64_t b = fixture_update(f, 1 + pair % 3, "k", "v", "b");
		f->hold = false;
		fixture_settle(f);
		fixture_run_ms(f, 2100);
		bool a_ok = fixture_outcome(f, a) == OUT_OK;
		bool b_ok = fixture_outcome(f, b) == OUT_OK;
		assert_true(a_ok != b_ok);
		assert_value(f, 1, a_ok ? "a" : "b");
		fixture_free(f);
	}
}

/* A rival that saw the vote but not the grant prepares in between: the holder's node must not
 * write under the rival's ballot. */
static void test_s18_prepare_between_vote_and_grant(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, NULL);
	fixture_delay_reply(f, 0, 1, MSG_TRYLOCK);
	uint64_t x = fixture_lock(f, 1, "k", "v", 60000);
	fixture_delay(f, 2, 1, MSG_ACCEPT);
	uint64_t a = fixture_update(f, 2, "k", "v", "a"); /* at 2 and 3; on its way to 1 */
	assert_int_equal(fixture_outcome(f, a), OUT_OK);
	for (unsigned i = f->mail_head; i != f->mail_tail; i++)
		if (f->mail[i % MAIL_MAX].from == 3)
			f->mail[i % MAIL_MAX].delayed = false;
	fixture_settle(f);
	assert_int_equal(fixture_outcome(f, x), OUT_OK);
	uint64_t b = fixture_update(f, 1, "k", "v", "b");
	fixture_run_ms(f, 10);
	assert_int_equal(fixture_outcome(f, b), OUT_NOTOWNER);
	fixture_let_go(f);
	assert_value(f, 3, "a");
	fixture_free(f);
}

/* Every reason has its own word, and a lock whose answer was lost can be asked for again. */
static void test_s25_outcomes_are_not_confused(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, NULL);
	uint64_t x = fixture_lock(f, 1, "k", "x", 10000);
	assert_int_equal(fixture_outcome(f, fixture_lock(f, 2, "k", "x", 10000)), OUT_HELD);
	uint64_t again = fixture_op(f, 2,
		(struct op_request){.kind = OP_LOCK,
			.key = bytes_str("k"),
			.value = bytes_str("x"),
			.ttl_ms = 10000,
			.has_ttl = true,
			.idempotent = true});
	assert_int_equal(fixture_outcome(f, again), OUT_OK);
	assert_int_equal(fixture_result(f, again)->r.token, fixture_result(f, x)->r.token);
	assert_int_equal(fixture_outcome(f, fixture_extend(f, 3, "k", "y", 10000)), OUT_NOTOWNER);
	assert_int_equal(fixture_outcome(f, fixture_extend(f, 3, "q", "y", 10000)), OUT_NOTFOUND);
	fixture_link(f, 1, 2, false);
	fixture_link(f, 1, 3, false);
	assert_int_equal(fixture_outcome(f, fixture_extend(f, 1, "k", "x", 10000)), OUT_NOQUORUM);
	fixture_link(f, 1, 2, true);
	fixture_lose_reply(f, 2, 1, MSG_EXTEND);
	uint64_t extend = fixture_extend(f, 1, "k", "x", 10000);
	fixture_run_ms(f, 1100);
	assert_int_equal(fixture_outcome(f, extend), OUT_UNKNOWN);
	fixture_free(f);
}

/* Asking and registering are one step, and a master wakes its own waiters. */
static void test_s29_waitfor_is_always_woken(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, NULL);
	uint64_t w[4];
	w[1] = watch(f, 1, OP_WAITFOR, 5000);
	w[2] = watch(f, 2, OP_WAITFOR, 5000);
	fixture_delay(f, 1, 3, MSG_CONFIRM);
	assert_int_equal(fixture_outcome(f, fixture_lock(f, 1, "k", "x", 10000)), OUT_OK);
	/* Node 3 has a promise and no lock yet. */
	w[3] = watch(f, 3, OP_WAITFOR, 5000);
	assert_null(fixture_result(f, w[3]));
	for (unsigned id = 1; id <= 2; id++)
		assert_int_equal(fixture_outcome(f, w[id]), OUT_OK);
	fixture_let_go(f);
	assert_int_equal(fixture_outcome(f, w[3]), OUT_OK);
	for (unsigned id = 1; id <= 3; id++) {
		assert_string_equal(fixture_result(f, w[id])->value, "x");
		/* Held already: at once. */
		uint64_t again = watch(f, id, OP_WAITFOR, 5000);
		assert_non_null(fixture_result(f, again));
		assert_int_equal(fixture_outcome(f, again), OUT_OK);
		assert_int_equal(fixture_stats(f, id).waiters, 0);
	}
	fixture_free(f);
}

static void test_s30_waitrelease_hears_of_ends_only(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, NULL);
	assert_int_equal(fixture_outcome(f, watch(f, 1, OP_WAITRELEASE, 5000)), OUT_NOTLOCKED);
	fixture_lock(f, 1, "k", "x", 1000);
	uint64_t w[4];
	for (unsigned id = 1; id <= 3; id++)
		w[id] = watch(f, id, OP_WAITRELEASE, 5000);
	assert_int_equal(fixture_outcome(f, fixture_release(f, 2, "k", "y")), OUT_NOTOWNER);
	assert_int_equal(fixture_outcome(f, fixture_update(f, 2, "k", "x", "z")), OUT_OK);
	for (unsigned id = 1; id <= 3; id++)
		assert_null(
			fixture_result(f, w[id])); /* neither a refusal nor a new value ends it */
	assert_int_equal(fixture_outcome(f, fixture_release(f, 3, "k", "z")), OUT_OK);
	for (unsigned id = 1; id <= 3; id++)
		assert_int_equal(fixture_outcome(f, w[id]), OUT_OK);

	fixture_lock(f, 1, "k", "x", 1000);
	for (unsigned id = 1; id <= 3; id++)
		w[id] = watch(f, id, OP_WAITRELEASE, 5000);
	fixture_run_ms(f, 1000);
	for (unsigned id = 1; id <= 3; id++)
		assert_null(fixture_result(f, w[id]));
	fixture_run_ms(f, 2);
	for (unsigned id = 1; id <= 3; id++)
		assert_int_equal(fixture_outcome(f, w[id]), OUT_OK);
	fixture_free(f);
}

/* Nothing stays behind: neither waiters of keys that never move nor entries written over. */
static void test_s31_nothing_leaks(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, NULL);
	for (unsigned i = 0; i < 200; i++) {
		char key[16];
		(void)snprintf(key, sizeof key, "key%u", i);
		fixture_lock(f, 1 + i % 3, key, "x", 100 + i);
		fixture_lock(f, 1 + i % 3, key, "x", 100 + i);
		fixture_extend(f, 1 + i % 2, key, "x", 200);
		fixture_update(f, 1 + i % 2, key, "x", "y");
		fixture_op(f, 1 + i % 3,
			(struct op_request){
				.kind = OP_WAITFOR, .key = bytes_str("never"), .wait_ms = 10 + i});
		fixture_op(f, 1 + i % 3,
			(struct op_request){
				.kind = OP_WAITRELEASE, .key = bytes_str(key), .wait_ms = 10 + i});
		if (i % 4 == 0)
			fixture_lock_wait(f, 2, key, "w", 50, 20 + i);
		if (i % 8 == 0)
			fixture_release(f, 3, key, "y");
	}
	fixture_run_ms(f, 20000);
	for (unsigned id = 1; id <= 3; id++) {
		struct engine_stats s = fixture_stats(f, id);
		assert_int_equal(s.leases, 0);
		assert_int_equal(s.promises, 0);
		assert_int_equal(s.waiters, 0);
		assert_int_equal(s.ops, 0);
		assert_int_equal(s.tombstones, 0);
		engine_validate(f->node[id].engine);
	}
	for (uint64_t tag = 1; tag < f->next_tag; tag++)
		assert_non_null(fixture_result(f, tag));
	fixture_free(f);
}

/* One operation that waits for a hung master holds nothing else up. */
static void test_s32_no_head_of_line_blocking(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, NULL);
	fixture_pause(f, 3, true);
	fixture_delay(f, 1, 2, MSG_TRYLOCK);
	uint64_t stuck = fixture_lock(f, 1, "stuck", "x", 10000);
	f->n_rules = 0;
	assert_null(fixture_result(f, stuck));
	uint64_t at_ns = f->now_ns;
	for (unsigned i = 0; i < 50; i++) {
		assert_int_equal(fixture_outcome(f, fixture_lock(f, 1, "k", "x", 10000)), OUT_OK);
		assert_int_equal(fixture_outcome(f, fixture_release(f, 1, "k", "x")), OUT_OK);
	}
	assert_int_equal(f->now_ns, at_ns);
	assert_null(fixture_result(f, stuck));
	fixture_run_ms(f, 2100);
	assert_non_null(fixture_result(f, stuck));
	fixture_free(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_s17_update_of_an_ended_lease_fails),
		cmocka_unit_test(test_s18_two_updates_from_one_base),
		cmocka_unit_test(test_s18_racing_updates_have_one_winner),
		cmocka_unit_test(test_s18_prepare_between_vote_and_grant),
		cmocka_unit_test(test_s25_outcomes_are_not_confused),
		cmocka_unit_test(test_s29_waitfor_is_always_woken),
		cmocka_unit_test(test_s30_waitrelease_hears_of_ends_only),
		cmocka_unit_test(test_s31_nothing_leaks),
		cmocka_unit_test(test_s32_no_head_of_line_blocking),
	};
	return cmocka_run_group_tests_name("scenarios_values", tests, NULL, NULL);
}
