/* RELEASE by token alone (BREAK): it takes exactly the grant that it names, whatever its value has
 * become meanwhile, and never a later one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "cluster_fixture.h"

static uint64_t break_grant(struct fixture *f, unsigned id, uint64_t token)
{
	return fixture_op(f, id,
		(struct op_request){.kind = OP_RELEASE,
			.key = bytes_str("k"),
			.has_token = true,
			.token = token,
			.any_value = true});
}

static uint64_t lock_token(struct fixture *f, unsigned id, const char *value)
{
	uint64_t tag = fixture_lock(f, id, "k", value, 30000);
	assert_int_equal(fixture_outcome(f, tag), OUT_OK);
	return fixture_result(f, tag)->r.token;
}

static void assert_held(struct fixture *f, uint64_t token)
{
	for (unsigned id = 1; id <= 3; id++) {
		uint64_t tag = fixture_read(f, id, "k", true);
		fixture_run_ms(f, 200);
		assert_int_equal(fixture_outcome(f, tag), OUT_OK);
		assert_int_equal(fixture_result(f, tag)->r.token, token);
	}
}

static void assert_free(struct fixture *f)
{
	uint64_t tag = fixture_read(f, 3, "k", true);
	fixture_run_ms(f, 200);
	assert_int_equal(fixture_outcome(f, tag), OUT_NULL);
}

static void test_break_takes_the_grant_that_it_names(void **state)
{
	(void)state;
	for (unsigned id = 1; id <= 3; id++) {
		struct fixture *f = fixture_new(3, NULL);
		assert_int_equal(fixture_outcome(f, break_grant(f, id, 1)), OUT_NOTFOUND);
		uint64_t token = lock_token(f, 1, "x");
		assert_int_equal(fixture_outcome(f, break_grant(f, id, token + 1)), OUT_NOTOWNER);
		assert_int_equal(fixture_outcome(f, break_grant(f, id, token - 1)), OUT_NOTOWNER);
		assert_int_equal(fixture_outcome(f, fixture_update(f, 2, "k", "x", "y")), OUT_OK);
		uint64_t tag = break_grant(f, id, token);
		assert_int_equal(fixture_outcome(f, tag), OUT_OK);
		assert_int_equal(fixture_result(f, tag)->r.token, token);
		assert_int_equal(fixture_outcome(f, break_grant(f, id, token)), OUT_NOTFOUND);
		assert_free(f);
		fixture_free(f);
	}
}

static void test_break_with_an_old_token_spares_the_next_grant(void **state)
{
	(void)state;
	for (unsigned id = 1; id <= 3; id++) {
		struct fixture *f = fixture_new(3, NULL);
		uint64_t old = lock_token(f, 1, "same");
		assert_int_equal(fixture_outcome(f, fixture_release(f, 1, "k", "same")), OUT_OK);
		uint64_t next = lock_token(f, 2, "same");
		assert_int_equal(fixture_outcome(f, break_grant(f, id, old)), OUT_NOTOWNER);
		assert_held(f, next);
		fixture_free(f);
	}
}

/* What it has sent arrives when the key is another's: after it was compared, and before. */
static void test_break_that_is_late_spares_the_next_grant(void **state)
{
	(void)state;
	static const enum msg_type late[] = {MSG_RELEASE, MSG_PREPARE};
	for (unsigned i = 0; i < 2; i++) {
		for (unsigned id = 1; id <= 3; id++) {
			struct fixture *f = fixture_new(3, NULL);
			uint64_t old = lock_token(f, 1, "same");
			fixture_delay(f, id, 0, late[i]);
			uint64_t tag = break_grant(f, id, old);
			/* Where only one round is needed there is nothing to be late. */
			bool done = fixture_result(f, tag) != NULL;
			if (!done)
				fixture_run_ms(f, 60); /* promises are no longer respected */
			uint64_t other = fixture_release(f, 1 + id % 3, "k", "same");
			fixture_run_ms(f, 100);
			if (!done)
				assert_int_equal(fixture_outcome(f, other), OUT_OK);
			uint64_t next = lock_token(f, 1 + id % 3, "same");
			fixture_let_go(f);
			fixture_run_ms(f, 2100);
			assert_non_null(fixture_result(f, tag));
			assert_held(f, next);
			fixture_free(f);
		}
	}
}

/* Whoever writes the value meanwhile: the grant is gone, or nobody knows. */
static void test_break_beside_an_update(void **state)
{
	(void)state;
	for (unsigned pair = 0; pair < 9; pair++) {
		struct fixture *f = fixture_new(3, NULL);
		uint64_t token = lock_token(f, 1, "v");
		f->hold = true;
		uint64_t update = fixture_update(f, 1 + pair / 3, "k", "v", "w");
		uint64_t tag = break_grant(f, 1 + pair % 3, token);
		f->hold = false;
		fixture_settle(f);
		fixture_run_ms(f, 2100);
		assert_int_equal(fixture_outcome(f, tag), OUT_OK);
		assert_non_null(fixture_result(f, update));
		assert_free(f);
		uint64_t next = lock_token(f, 2, "w");
		fixture_run_ms(f, 3000);
		assert_held(f, next);
		fixture_free(f);
	}
}

static void test_break_when_everything_comes_twice(void **state)
{
	(void)state;
	for (unsigned id = 1; id <= 3; id++) {
		struct fixture *f = fixture_new(3, NULL);
		f->twice = true;
		uint64_t token = lock_token(f, 1, "v");
		fixture_delay(f, id, 1 + id % 3, MSG_RELEASE);
		assert_int_equal(fixture_outcome(f, break_grant(f, id, token)), OUT_OK);
		uint64_t next = lock_token(f, 2, "v");
		fixture_let_go(f);
		fixture_run_ms(f, 3000);
		assert_held(f, next);
		fixture_free(f);
	}
}

/* Answers that are lost leave it unknown; asked again it says what is. */
static void test_break_unheard_is_unknown_and_may_be_repeated(void **state)
{
	(void)state;
	for (unsigned id = 1; id <= 3; id++) {
		struct fixture *f = fixture_new(3, NULL);
		uint64_t token = lock_token(f, 1, "v");
		fixture_lose_reply(f, 0, id, MSG_RELEASE);
		uint64_t tag = break_grant(f, id, token);
		fixture_run_ms(f, 2100);
		assert_int_equal(fixture_outcome(f, tag), OUT_UNKNOWN);
		f->n_rules = 0;
		assert_int_equal(fixture_outcome(f, break_grant(f, id, token)), OUT_NOTFOUND);
		assert_free(f);
		fixture_free(f);
	}
}

static void test_break_without_a_quorum_sends_nothing(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, NULL);
	uint64_t token = lock_token(f, 1, "v");
	fixture_link(f, 1, 2, false);
	fixture_link(f, 1, 3, false);
	uint64_t tag = break_grant(f, 1, token);
	assert_int_equal(fixture_outcome(f, tag), OUT_NOQUORUM);
	assert_false(fixture_result(f, tag)->r.sent);
	fixture_free(f);
}

static void test_break_hands_the_lock_to_who_waits(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, NULL);
	uint64_t token = lock_token(f, 1, "v");
	uint64_t first = fixture_lock_wait(f, 2, "k", "a", 10000, 20000);
	uint64_t second = fixture_lock_wait(f, 2, "k", "b", 10000, 20000);
	fixture_op(f, 2,
		(struct op_request){
			.kind = OP_WAITRELEASE, .key = bytes_str("k"), .wait_ms = 20000});
	/* Who only looks on stands in no line. */
	assert_int_equal(engine_waiters(f->node[2].engine, bytes_str("k")), 2);
	assert_int_equal(engine_waiters(f->node[1].engine, bytes_str("k")), 0);
	assert_int_equal(fixture_outcome(f, break_grant(f, 3, token)), OUT_OK);
	assert_int_equal(fixture_outcome(f, first), OUT_OK);
	assert_null(fixture_result(f, second));
	assert_int_equal(engine_waiters(f->node[2].engine, bytes_str("k")), 1);
	fixture_free(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_break_takes_the_grant_that_it_names),
		cmocka_unit_test(test_break_with_an_old_token_spares_the_next_grant),
		cmocka_unit_test(test_break_that_is_late_spares_the_next_grant),
		cmocka_unit_test(test_break_beside_an_update),
		cmocka_unit_test(test_break_when_everything_comes_twice),
		cmocka_unit_test(test_break_unheard_is_unknown_and_may_be_repeated),
		cmocka_unit_test(test_break_without_a_quorum_sends_nothing),
		cmocka_unit_test(test_break_hands_the_lock_to_who_waits),
	};
	return cmocka_run_group_tests_name("engine_break", tests, NULL, NULL);
}
