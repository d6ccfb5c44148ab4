/* The engine on a healthy cluster: every operation, over every node, with its exact outcome. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "cluster_fixture.h"

static void test_engine_lock_release_over_every_node(void **state)
{
	(void)state;
	for (unsigned n = 1; n <= 5; n++) {
		struct fixture *f = fixture_new(n, NULL);
		for (unsigned id = 1; id <= n; id++) {
			uint64_t a = fixture_lock(f, id, "k", "x", 10000);
			assert_int_equal(fixture_outcome(f, a), OUT_OK);
			const struct fixture_result *r = fixture_result(f, a);
			assert_int_equal(r->r.quorum, n / 2 + 1);
			assert_true(r->r.votes >= n / 2 + 1);
			assert_in_range(r->r.valid_ms, 9970, 9990);
			for (unsigned k = 1; k <= n; k++) {
				uint64_t b = fixture_read(f, k, "k", false);
				assert_int_equal(fixture_outcome(f, b), OUT_OK);
				assert_string_equal(fixture_result(f, b)->value, "x");
				b = fixture_read(f, k, "k", true);
				assert_int_equal(fixture_outcome(f, b), OUT_OK);
				assert_int_equal(fixture_result(f, b)->r.token, r->r.token);
				assert_string_equal(fixture_result(f, b)->client, "tester");
			}
			unsigned other = id % n + 1;
			assert_int_equal(fixture_outcome(f, fixture_lock(f, other, "k", "y", 500)),
				OUT_HELD);
			assert_int_equal(fixture_outcome(f, fixture_release(f, other, "k", "y")),
				OUT_NOTOWNER);
			assert_int_equal(
				fixture_outcome(f, fixture_release(f, other, "k", "x")), OUT_OK);
			assert_int_equal(
				fixture_outcome(f, fixture_release(f, id, "k", "x")), OUT_NOTFOUND);
			assert_int_equal(
				fixture_outcome(f, fixture_read(f, other, "k", true)), OUT_NULL);
		}
		fixture_free(f);
	}
}

static void test_engine_update_by_holder_and_by_others(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, NULL);
	uint64_t a = fixture_lock(f, 1, "k", "v0", 10000);
	assert_int_equal(fixture_outcome(f, a), OUT_OK);
	uint64_t before = f->messages;
	assert_int_equal(fixture_outcome(f, fixture_update(f, 1, "k", "v0", "v1")), OUT_OK);
	assert_int_equal(f->messages - before, 4); /* sticky: one round to two peers */
	assert_int_equal(fixture_outcome(f, fixture_update(f, 1, "k", "v0", "v2")), OUT_NOTOWNER);
	assert_int_equal(fixture_outcome(f, fixture_update(f, 2, "k", "v1", "v3")), OUT_OK);
	assert_int_equal(fixture_outcome(f, fixture_update(f, 1, "k", "v1", "v4")), OUT_NOTOWNER);
	assert_int_equal(fixture_outcome(f, fixture_update(f, 3, "k", "v3", "v5")), OUT_OK);
	for (unsigned id = 1; id <= 3; id++)
		assert_string_equal(
			fixture_result(f, fixture_read(f, id, "k", false))->value, "v5");
	assert_int_equal(fixture_outcome(f, fixture_release(f, 2, "k", "v5")), OUT_OK);
	assert_int_equal(fixture_outcome(f, fixture_update(f, 2, "k", "v5", "v6")), OUT_NOTFOUND);
	fixture_free(f);
}

static void test_engine_lease_ends_on_time_and_extends(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, NULL);
	fixture_lock(f, 1, "k", "x", 1000);
	fixture_run_ms(f, 600);
	uint64_t a = fixture_extend(f, 2, "k", "x", 1000);
	assert_int_equal(fixture_outcome(f, a), OUT_OK);
	assert_int_equal(fixture_result(f, a)->r.valid_ms, 997);
	fixture_run_ms(f, 999);
	assert_int_equal(fixture_outcome(f, fixture_lock(f, 3, "k", "y", 1000)), OUT_HELD);
	fixture_run_ms(f, 3);
	assert_int_equal(fixture_outcome(f, fixture_extend(f, 2, "k", "x", 1000)), OUT_NOTFOUND);
	assert_int_equal(fixture_outcome(f, fixture_lock(f, 3, "k", "y", 1000)), OUT_OK);
	assert_int_equal(fixture_outcome(f, fixture_extend(f, 2, "k", "x", 1000)), OUT_NOTOWNER);
	fixture_free(f);
}

static void test_engine_waiters_are_served_in_order(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, NULL);
	fixture_lock(f, 1, "k", "x", 10000);
	uint64_t w[5];
	char value[] = "w0";
	for (unsigned i = 0; i < 5; i++) {
		value[1] = (char)('0' + i);
		w[i] = fixture_lock_wait(f, 1, "k", value, 10000, 5000);
		assert_null(fixture_result(f, w[i]));
	}
	fixture_release(f, 2, "k", "x");
	for (unsigned i = 0; i < 5; i++) {
		fixture_run_ms(f, 1);
		assert_int_equal(fixture_outcome(f, w[i]), OUT_OK);
		for (unsigned k = i + 1; k < 5; k++)
			assert_null(fixture_result(f, w[k]));
		value[1] = (char)('0' + i);
		fixture_release(f, 1, "k", value);
	}
	fixture_free(f);
}

static void test_engine_waiter_gets_null_when_time_runs_out(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, NULL);
	fixture_lock(f, 1, "k", "x", 10000);
	uint64_t a = fixture_lock_wait(f, 2, "k", "y", 1000, 300);
	fixture_run_ms(f, 299);
	assert_null(fixture_result(f, a));
	fixture_run_ms(f, 3);
	assert_int_equal(fixture_outcome(f, a), OUT_HELD);
	fixture_free(f);
}

static void test_engine_lag_leaves_nothing(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, NULL);
	uint64_t a = fixture_op(f, 1,
		(struct op_request){.kind = OP_LAG,
			.key = bytes_of(PROBE_PREFIX "1", PROBE_PREFIX_BYTES + 1),
			.value = bytes_str("lag")});
	assert_int_equal(fixture_outcome(f, a), OUT_OK);
	assert_int_equal(fixture_result(f, a)->r.votes, 2);
	struct engine_stats s;
	engine_stats(f->node[1].engine, &s);
	assert_int_equal(s.leases + s.promises + s.ops, 0);
	fixture_free(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_engine_lock_release_over_every_node),
		cmocka_unit_test(test_engine_update_by_holder_and_by_others),
		cmocka_unit_test(test_engine_lease_ends_on_time_and_extends),
		cmocka_unit_test(test_engine_waiters_are_served_in_order),
		cmocka_unit_test(test_engine_waiter_gets_null_when_time_runs_out),
		cmocka_unit_test(test_engine_lag_leaves_nothing),
	};
	return cmocka_run_group_tests_name("engine", tests, NULL, NULL);
}
