/* Standing in line, leaving it, asking again for one's own lock, and coming back after a restart.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "cluster_fixture.h"

static const struct result *result_of(struct fixture *f, uint64_t tag)
{
	const struct fixture_result *r = fixture_result(f, tag);
	assert_non_null(r);
	return &r->r;
}

static uint64_t idempotent(
	struct fixture *f, unsigned id, const char *value, bool wait, uint64_t wait_ms)
{
	return fixture_op(f, id,
		(struct op_request){.kind = OP_LOCK,
			.key = bytes_str("k"),
			.value = bytes_str(value),
			.ttl_ms = 10000,
			.has_ttl = true,
			.idempotent = true,
			.wait = wait,
			.wait_ms = wait_ms});
}

static void test_wait_zero_answers_at_once(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, NULL);
	uint64_t tag = fixture_lock_wait(f, 1, "k", "x", 1000, 0);
	assert_int_equal(fixture_outcome(f, tag), OUT_OK);
	tag = fixture_lock_wait(f, 2, "k", "y", 1000, 0);
	assert_non_null(fixture_result(f, tag));
	assert_int_equal(fixture_outcome(f, tag), OUT_HELD);
	for (unsigned i = 0; i < 2; i++) {
		tag = fixture_op(f, 1,
			(struct op_request){.kind = i == 0 ? OP_WAITFOR : OP_WAITRELEASE,
				.key = bytes_str(i == 0 ? "other" : "k"),
				.wait_ms = 0});
		fixture_run_ms(f, 2);
		assert_int_equal(result_of(f, tag)->outcome, OUT_NULL);
	}
	fixture_free(f);
}

/* The second in line becomes the head when the first gets the lock; its time may end right then. */
static void test_waiter_behind_a_granted_one_gets_null(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, NULL);
	fixture_lock(f, 1, "k", "x", 100);
	uint64_t first = fixture_lock_wait(f, 1, "k", "a", 10000, 5000);
	uint64_t second = fixture_lock_wait(f, 1, "k", "b", 10000, 300);
	uint64_t third = fixture_lock_wait(f, 1, "k", "c", 10000, 300);
	fixture_run_ms(f, 320);
	assert_int_equal(result_of(f, first)->outcome, OUT_OK);
	assert_int_equal(result_of(f, second)->outcome, OUT_HELD);
	assert_int_equal(result_of(f, third)->outcome, OUT_HELD);
	fixture_free(f);
}

static void test_cancelled_waiter_leaves_the_line(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, NULL);
	fixture_lock(f, 1, "k", "x", 60000);
	uint64_t w[4];
	for (unsigned i = 0; i < 4; i++)
		w[i] = fixture_lock_wait(f, 1, "k", "w", 10000, 30000);
	uint64_t watch = fixture_op(f, 1,
		(struct op_request){
			.kind = OP_WAITRELEASE, .key = bytes_str("k"), .wait_ms = 30000});
	assert_int_equal(fixture_stats(f, 1).waiters, 5);
	fixture_cancel(f, 1, w[0]); /* the head */
	fixture_cancel(f, 1, w[2]);
	fixture_cancel(f, 1, watch);
	fixture_cancel(f, 1, 999999);
	assert_int_equal(fixture_stats(f, 1).waiters, 2);
	fixture_release(f, 1, "k", "x");
	assert_int_equal(fixture_outcome(f, w[1]), OUT_OK);
	fixture_release(f, 1, "k", "w");
	assert_int_equal(fixture_outcome(f, w[3]), OUT_OK);
	assert_null(fixture_result(f, w[0]));
	assert_null(fixture_result(f, w[2]));
	assert_null(fixture_result(f, watch));
	assert_int_equal(fixture_stats(f, 1).waiters, 0);
	fixture_free(f);
}

/* Its client goes while its attempt is under way: refused, it does not go on waiting for nobody. */
static void test_waiter_cancelled_in_its_attempt_stops(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, NULL);
	fixture_lock(f, 2, "k", "x", 3000);
	fixture_delay_reply(f, 0, 1, MSG_TRYLOCK);
	uint64_t gone = fixture_lock_wait(f, 1, "k", "gone", 60000, 30000);
	fixture_cancel(f, 1, gone);
	fixture_let_go(f);
	fixture_run_ms(f, 5);
	assert_int_equal(fixture_stats(f, 1).waiters, 0);
	fixture_run_ms(f, 6000);
	assert_int_equal(fixture_outcome(f, fixture_read(f, 2, "k", true)), OUT_NULL);
	fixture_free(f);
}

/* Its client goes while its attempt is under way: granted, the lock goes to the next in line. */
static void test_waiter_cancelled_in_its_attempt_holds_nothing(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, NULL);
	fixture_delay_reply(f, 0, 1, MSG_TRYLOCK);
	uint64_t gone = fixture_lock_wait(f, 1, "k", "gone", 60000, 30000);
	uint64_t next = fixture_lock_wait(f, 1, "k", "next", 1000, 30000);
	fixture_cancel(f, 1, gone);
	fixture_let_go(f);
	assert_int_equal(fixture_outcome(f, next), OUT_OK);
	assert_null(fixture_result(f, gone));
	fixture_free(f);
}

static void test_idempotent_lock_finds_its_own(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, NULL);
	uint64_t token = result_of(f, fixture_lock(f, 1, "k", "x", 1000))->token;
	for (unsigned id = 1; id <= 3; id++) {
		fixture_run_ms(f, 500);
		uint64_t tag = idempotent(f, id, "x", id == 2, 1000);
		assert_int_equal(fixture_outcome(f, tag), OUT_OK);
		assert_int_equal(result_of(f, tag)->token, token);
		assert_in_range(result_of(f, tag)->valid_ms, 9900, 9999);
		assert_int_equal(fixture_outcome(f, idempotent(f, id, "y", false, 0)), OUT_HELD);
	}
	assert_int_equal(fixture_outcome(f, fixture_release(f, 1, "k", "x")), OUT_OK);
	uint64_t tag = idempotent(f, 1, "x", false, 0);
	assert_int_equal(fixture_outcome(f, tag), OUT_OK);
	assert_true(result_of(f, tag)->token > token);
	fixture_free(f);
}

/* Its own lock is not a place at the end of the line. */
static void test_idempotent_lock_passes_the_line(void **state)
{
	(void)state;
	for (unsigned wait = 0; wait < 2; wait++) {
		struct fixture *f = fixture_new(3, NULL);
		uint64_t token = result_of(f, fixture_lock(f, 1, "k", "x", 60000))->token;
		uint64_t w = fixture_lock_wait(f, 1, "k", "w", 10000, 30000);
		uint64_t tag = idempotent(f, 1, "x", wait == 1, 20000);
		fixture_run_ms(f, 10);
		assert_int_equal(result_of(f, tag)->outcome, OUT_OK);
		assert_int_equal(result_of(f, tag)->token, token);
		/* Somebody else's value stands in line like everybody. */
		tag = idempotent(f, 1, "z", true, 20000);
		fixture_run_ms(f, 10);
		assert_null(fixture_result(f, w));
		fixture_release(f, 1, "k", "x");
		assert_int_equal(fixture_outcome(f, w), OUT_OK);
		assert_null(fixture_result(f, tag));
		fixture_release(f, 1, "k", "w");
		assert_int_equal(fixture_outcome(f, tag), OUT_OK);
		fixture_free(f);
	}
}

/* The attempt whose answer was lost is still a promise: it becomes the lock, under its token. */
static void test_idempotent_lock_adopts_a_promise(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, NULL);
	fixture_lose_reply(f, 0, 1, MSG_TRYLOCK);
	uint64_t first = fixture_lock(f, 1, "k", "x", 10000);
	fixture_crash(f, 1);
	f->n_rules = 0;
	uint64_t tag = idempotent(f, 2, "x", false, 0);
	fixture_run_ms(f, 2001);
	assert_null(fixture_result(f, first));
	/* Busy behind its own promise, or the owner of it: never anything else. */
	enum outcome o = result_of(f, tag)->outcome;
	assert_true(o == OUT_OK || o == OUT_BUSY);
	if (o == OUT_OK) {
		tag = fixture_extend(f, 3, "k", "x", 1000);
		assert_int_equal(fixture_outcome(f, tag), OUT_OK);
	}
	fixture_free(f);
}

/* A client loses its connection in the middle of LOCK and asks again at another node: the first
 * node, which has nobody to grant to, must not take the lock away from the second. */
static void test_idempotent_lock_survives_its_first_attempt(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, NULL);
	fixture_delay_reply(f, 0, 1, MSG_TRYLOCK);
	uint64_t gone = fixture_lock_wait(f, 1, "k", "x", 60000, 0);
	fixture_cancel(f, 1, gone);
	uint64_t tag = idempotent(f, 2, "x", false, 0);
	assert_int_equal(fixture_outcome(f, tag), OUT_OK);
	fixture_let_go(f);
	assert_null(fixture_result(f, gone));
	for (unsigned id = 1; id <= 3; id++) {
		uint64_t read = fixture_read(f, id, "k", true);
		assert_int_equal(fixture_outcome(f, read), OUT_OK);
		assert_int_equal(result_of(f, read)->token, result_of(f, tag)->token);
	}
	fixture_free(f);
}

static void test_idempotent_lock_gone_meanwhile_is_a_new_one(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, NULL);
	uint64_t token = result_of(f, fixture_lock(f, 1, "k", "x", 60000))->token;
	fixture_status(f, 2, NODE_QUARANTINE); /* so that 2 asks and does not know */
	fixture_delay(f, 2, 0, MSG_EXTEND);
	uint64_t tag = idempotent(f, 2, "x", false, 0);
	fixture_status(f, 2, NODE_ACTIVE);
	assert_int_equal(fixture_outcome(f, fixture_release(f, 1, "k", "x")), OUT_OK);
	fixture_let_go(f);
	assert_int_equal(fixture_outcome(f, tag), OUT_OK);
	assert_true(result_of(f, tag)->token > token);
	fixture_free(f);
}

/* ---- restart ---- */

static void test_quarantine_votes_nothing(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, NULL);
	fixture_crash(f, 2);
	fixture_restart(f, 2);
	fixture_cut(f, 1, 3, true);
	static const enum op_kind kinds[] = {
		OP_LOCK, OP_EXTEND, OP_RELEASE, OP_UPDATE, OP_READ_QUORUM};
	uint64_t tag[5];
	for (unsigned i = 0; i < 5; i++)
		tag[i] = fixture_op(f, 1,
			(struct op_request){.kind = kinds[i],
				.key = bytes_str("k"),
				.value = bytes_str("x"),
				.ttl_ms = 1000,
				.has_ttl = i < 2});
	fixture_run_ms(f, 2001);
	for (unsigned i = 0; i < 5; i++)
		assert_int_not_equal(result_of(f, tag[i])->outcome, OUT_OK);
	struct engine_stats s = fixture_stats(f, 2);
	assert_int_equal(s.leases + s.promises + s.tombstones, 0);
	fixture_activate(f, 2, 0);
	assert_int_equal(fixture_outcome(f, fixture_lock(f, 1, "k", "y", 1000)), OUT_OK);
	fixture_free(f);
}

/* Everybody restarts and the wall clock has stepped back an hour: the floor keeps tokens rising. */
static void test_tokens_rise_over_a_full_restart(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, NULL);
	uint64_t token = result_of(f, fixture_lock(f, 1, "k", "x", 1000))->token;
	uint64_t floor = token + 60000000;
	for (unsigned id = 1; id <= 3; id++)
		fixture_crash(f, id);
	f->wall_us -= UINT64_C(3600000000);
	for (unsigned id = 1; id <= 3; id++)
		fixture_restart(f, id);
	for (unsigned id = 1; id <= 3; id++)
		fixture_activate(f, id, floor);
	for (unsigned i = 0; i < 6; i++) {
		uint64_t tag = fixture_lock(f, 1 + i % 3, i < 3 ? "k" : "other", "x", 1000);
		assert_int_equal(fixture_outcome(f, tag), OUT_OK);
		assert_true(result_of(f, tag)->token > floor);
		assert_int_equal(
			fixture_outcome(f, fixture_release(f, 2, i < 3 ? "k" : "other", "x")),
			OUT_OK);
	}
	fixture_free(f);
}

/* A coordinator that was not there learns the floor from the refusal. */
static void test_floor_refuses_an_ignorant_coordinator(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, NULL);
	uint64_t floor = result_of(f, fixture_lock(f, 1, "k", "x", 1000))->token + 60000000;
	for (unsigned id = 1; id <= 3; id++)
		fixture_crash(f, id);
	for (unsigned id = 1; id <= 3; id++)
		fixture_restart(f, id);
	fixture_activate(f, 2, floor);
	fixture_activate(f, 3, floor);
	uint64_t tag = fixture_lock(f, 1, "k", "x", 1000);
	assert_int_equal(fixture_outcome(f, tag), OUT_OK);
	assert_true(result_of(f, tag)->token > floor);
	fixture_free(f);
}

static void low_ceiling(struct engine_config *cfg)
{
	cfg->ceiling_n = 1;
}

/* No vote above what is durable, and one request to raise it however many votes wait. */
static void test_ceiling_comes_before_the_vote(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, low_ceiling);
	uint64_t tag = fixture_lock(f, 1, "k", "x", 60000);
	for (unsigned i = 0; i < 5; i++)
		(void)fixture_lock(f, 2, "q", "x", 60000);
	fixture_run_ms(f, 100);
	assert_null(fixture_result(f, tag));
	for (unsigned id = 1; id <= 3; id++) {
		assert_int_equal(f->node[id].ceilings, 1);
		assert_int_equal(fixture_stats(f, id).promises, 0);
	}
	for (unsigned id = 1; id <= 2; id++)
		fixture_ceiling(f, id, f->node[id].ceiling_n);
	assert_int_equal(fixture_outcome(f, tag), OUT_OK);
	assert_true(result_of(f, tag)->token <= f->node[1].ceiling_n);
	for (unsigned id = 1; id <= 2; id++)
		assert_int_equal(f->node[id].ceilings, 1);
	/* Half the window later it is raised ahead, and nobody waits. */
	fixture_ceiling(f, 3, f->node[3].ceiling_n);
	f->wall_us += 31000000;
	assert_int_equal(fixture_outcome(f, fixture_lock(f, 1, "z", "x", 1000)), OUT_OK);
	for (unsigned id = 1; id <= 3; id++)
		assert_int_equal(f->node[id].ceilings, 2);
	fixture_free(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_wait_zero_answers_at_once),
		cmocka_unit_test(test_waiter_behind_a_granted_one_gets_null),
		cmocka_unit_test(test_cancelled_waiter_leaves_the_line),
		cmocka_unit_test(test_waiter_cancelled_in_its_attempt_stops),
		cmocka_unit_test(test_waiter_cancelled_in_its_attempt_holds_nothing),
		cmocka_unit_test(test_idempotent_lock_finds_its_own),
		cmocka_unit_test(test_idempotent_lock_passes_the_line),
		cmocka_unit_test(test_idempotent_lock_adopts_a_promise),
		cmocka_unit_test(test_idempotent_lock_survives_its_first_attempt),
		cmocka_unit_test(test_idempotent_lock_gone_meanwhile_is_a_new_one),
		cmocka_unit_test(test_quarantine_votes_nothing),
		cmocka_unit_test(test_tokens_rise_over_a_full_restart),
		cmocka_unit_test(test_floor_refuses_an_ignorant_coordinator),
		cmocka_unit_test(test_ceiling_comes_before_the_vote),
	};
	return cmocka_run_group_tests_name("engine_waiters", tests, NULL, NULL);
}
