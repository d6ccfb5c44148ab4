/* Orders of events that are rare and once went wrong: late answers, clients that go away in the
 * middle, masters that missed something, even numbers of masters. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>

#include "cluster_fixture.h"

static uint64_t lock_idempotent(struct fixture *f, unsigned id, const char *value, uint64_t wait_ms)
{
	return fixture_op(f, id,
		(struct op_request){.kind = OP_LOCK,
			.key = bytes_str("k"),
			.value = bytes_str(value),
			.ttl_ms = 10000,
			.has_ttl = true,
			.idempotent = true,
			.wait = wait_ms != 0,
			.wait_ms = wait_ms});
}

static void assert_no_copy(struct fixture *f, unsigned n)
{
	for (unsigned id = 1; id <= n; id++) {
		struct engine_stats s = fixture_stats(f, id);
		assert_int_equal(s.leases + s.promises, 0);
	}
}

/* A master that missed the last update refuses the RELEASE: its copy is asked after, and goes. */
static void test_release_reaches_a_master_that_missed_an_update(void **state)
{
	(void)state;
	for (unsigned by = 1; by <= 2; by++) {
		struct fixture *f = fixture_new(3, NULL);
		assert_int_equal(fixture_outcome(f, fixture_lock(f, 1, "k", "V", 30000)), OUT_OK);
		fixture_lose(f, 0, 3, MSG_ACCEPT);
		fixture_lose(f, 0, 3, MSG_PREPARE);
		assert_int_equal(fixture_outcome(f, fixture_update(f, 1, "k", "V", "W")), OUT_OK);
		assert_int_equal(fixture_outcome(f, fixture_release(f, by, "k", "W")), OUT_OK);
		fixture_let_go(f);
		fixture_run_ms(f, 2100);
		assert_no_copy(f, 3);
		fixture_free(f);
	}
}

/* Refused by two, and the third did release but is not heard: no definite answer may be given. */
static void test_release_unheard_is_unknown(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, NULL);
	assert_int_equal(fixture_outcome(f, fixture_lock(f, 3, "k", "V", 30000)), OUT_OK);
	fixture_delay_reply(f, 0, 2, MSG_PREPARE);
	uint64_t release = fixture_release(f, 2, "k", "V");
	fixture_run_ms(f, 60); /* its promises are no longer respected */
	fixture_lose(f, 1, 3, MSG_PREPARE);
	fixture_lose(f, 1, 3, MSG_ACCEPT);
	assert_int_equal(fixture_outcome(f, fixture_update(f, 1, "k", "V", "W")), OUT_OK);
	f->hold = true;
	fixture_let_go(f);
	fixture_lose_reply(f, 3, 2, MSG_RELEASE);
	f->hold = false;
	fixture_settle(f);
	fixture_run_ms(f, 900);
	assert_int_equal(fixture_stats(f, 3).leases, 0);
	assert_null(fixture_result(f, release)); /* not before nothing of it can land */
	fixture_run_ms(f, 200);
	assert_int_equal(fixture_outcome(f, release), OUT_UNKNOWN);
	fixture_free(f);
}

/* The refusal of the promised master comes after the RELEASE has its majority. */
static void test_release_refused_late_leaves_no_copy_behind(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, NULL);
	assert_int_equal(fixture_outcome(f, fixture_lock(f, 1, "k", "V", 30000)), OUT_OK);
	fixture_lose(f, 3, 0, MSG_PREPARE);
	fixture_delay_reply(f, 3, 1, MSG_RELEASE);
	(void)fixture_update(f, 3, "k", "wrong", "z");
	assert_int_equal(fixture_outcome(f, fixture_release(f, 1, "k", "V")), OUT_OK);
	fixture_let_go(f);
	fixture_run_ms(f, 2100);
	assert_no_copy(f, 3);
	fixture_free(f);
}

/* The same refusal, but the lock is still held by a majority: nothing is taken away. */
static void test_release_refused_by_all_takes_nothing_away(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, NULL);
	assert_int_equal(fixture_outcome(f, fixture_lock(f, 1, "k", "V", 30000)), OUT_OK);
	fixture_lose_reply(f, 0, 1, MSG_RELEASE);
	fixture_delay(f, 1, 0, MSG_RELEASE);
	uint64_t release = fixture_release(f, 1, "k", "V");
	assert_int_equal(fixture_outcome(f, fixture_update(f, 2, "k", "V", "W")), OUT_OK);
	fixture_let_go(f); /* refused by 2 and 3 */
	fixture_run_ms(f, 2100);
	assert_int_equal(fixture_outcome(f, release), OUT_UNKNOWN);
	fixture_run_ms(f, 10000);
	assert_int_equal(fixture_stats(f, 2).leases, 1);
	assert_int_equal(fixture_stats(f, 3).leases, 1);
	assert_int_equal(fixture_outcome(f, fixture_lock(f, 3, "k", "Y", 1000)), OUT_HELD);
	fixture_free(f);
}

/* The client goes away late in the operation, and then its attempt wins. */
static void test_cancel_late_hands_the_lock_back(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, NULL);
	fixture_lose_reply(f, 0, 1, MSG_TRYLOCK);
	uint64_t w = fixture_lock_wait(f, 1, "k", "W", 60000, 0);
	fixture_run_ms(f, 990);
	f->n_rules = 0;
	fixture_delay_reply(f, 0, 1, MSG_TRYLOCK);
	fixture_run_ms(f, 210); /* the second attempt: its votes are under way */
	fixture_cancel(f, 1, w);
	fixture_let_go(f);
	fixture_run_ms(f, 50);
	assert_null(fixture_result(f, w));
	assert_no_copy(f, 3);
	fixture_free(f);
}

/* An adoption after a long wait is valid from its own round on, not from the request. */
static void test_idempotent_adoption_after_waiting_is_valid(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, NULL);
	assert_int_equal(fixture_outcome(f, fixture_lock(f, 1, "k", "X", 15000)), OUT_OK);
	uint64_t begin_ns = f->now_ns;
	uint64_t w = lock_idempotent(f, 2, "W", 40000);
	fixture_run_ms(f, 14000);
	/* The same client has meanwhile asked elsewhere, and is first. */
	fixture_pause(f, 2, true);
	assert_int_equal(fixture_outcome(f, fixture_release(f, 1, "k", "X")), OUT_OK);
	assert_int_equal(fixture_outcome(f, fixture_lock(f, 1, "k", "W", 10000)), OUT_OK);
	fixture_pause(f, 2, false);
	fixture_run_ms(f, 2600);
	assert_int_equal(fixture_outcome(f, w), OUT_OK);
	uint64_t until_ns = begin_ns + fixture_result(f, w)->r.valid_ms * 1000000;
	assert_true(until_ns > f->now_ns);
	/* And no master may forget it earlier. */
	fixture_run_ms(f, (until_ns - f->now_ns) / 1000000);
	uint64_t y = fixture_lock(f, 3, "k", "Y", 1000);
	assert_int_equal(fixture_outcome(f, y), OUT_HELD);
	fixture_free(f);
}

/* Second in its node's line behind a lock of its own value: adopted as soon as that is granted. */
static void test_idempotent_second_in_line_adopts_at_once(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, NULL);
	assert_int_equal(fixture_outcome(f, fixture_lock(f, 1, "k", "X", 30000)), OUT_OK);
	uint64_t first = fixture_lock_wait(f, 2, "k", "W", 30000, 20000);
	uint64_t second = lock_idempotent(f, 2, "W", 20000);
	fixture_run_ms(f, 100);
	assert_int_equal(fixture_outcome(f, fixture_release(f, 1, "k", "X")), OUT_OK);
	assert_int_equal(fixture_outcome(f, first), OUT_OK);
	assert_int_equal(fixture_outcome(f, second), OUT_OK);
	assert_int_equal(fixture_result(f, second)->r.token, fixture_result(f, first)->r.token);
	fixture_free(f);
}

/* Two of four have a ghost that stands in the way; the answer is in time, and HELD. */
static void test_idempotent_answers_in_time_behind_a_ghost(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(4, NULL);
	assert_int_equal(fixture_outcome(f, fixture_lock(f, 1, "k", "X", 30000)), OUT_OK);
	fixture_lose(f, 1, 3, MSG_RELEASE);
	fixture_lose(f, 1, 4, MSG_RELEASE);
	uint64_t release = fixture_release(f, 1, "k", "X");
	fixture_run_ms(f, 1100);
	assert_int_equal(fixture_outcome(f, release), OUT_UNKNOWN);
	fixture_let_go(f);
	fixture_lose(f, 0, 0, MSG_SYNC); /* and nothing heals it */
	uint64_t begin_ns = f->now_ns;
	uint64_t y = lock_idempotent(f, 2, "X", 0);
	fixture_run_ms(f, 2100);
	assert_int_equal(fixture_outcome(f, y), OUT_HELD);
	assert_in_range(fixture_result(f, y)->at_fast_ns - begin_ns, 0, 2005000000);
	fixture_free(f);
}

/* Two masters of five missed the vote; the waiters there must not wake each other for ever. */
static void test_wait_at_two_masters_without_the_lease_does_not_spin(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(5, NULL);
	fixture_lose(f, 1, 4, MSG_TRYLOCK);
	fixture_lose(f, 1, 5, MSG_TRYLOCK);
	assert_int_equal(fixture_outcome(f, fixture_lock(f, 1, "k", "X", 30000)), OUT_OK);
	fixture_let_go(f);
	f->hold = true; /* so that a spin ends the test, not the machine */
	uint64_t a = fixture_lock_wait(f, 4, "k", "A", 20000, 20000);
	uint64_t b = fixture_lock_wait(f, 5, "k", "B", 20000, 20000);
	uint64_t before = f->messages;
	for (unsigned i = 0; i < 10000 && f->messages - before < 5000; i++) {
		fixture_run_ms(f, 1);
		for (unsigned k = 0; k < 100 && fixture_deliver_one(f); k++)
			;
	}
	f->hold = false;
	assert_in_range(f->messages - before, 1, 800);
	assert_null(fixture_result(f, a));
	assert_int_equal(fixture_outcome(f, fixture_release(f, 1, "k", "X")), OUT_OK);
	fixture_run_ms(f, 1260);
	assert_true((fixture_result(f, a) != NULL) != (fixture_result(f, b) != NULL));
	fixture_free(f);
}

/* One master is away, one keeps a ghost: there is no majority to run for. */
static void test_wait_behind_a_ghost_does_not_spin(void **state)
{
	(void)state;
	for (unsigned id = 1; id <= 2; id++) {
		struct fixture *f = fixture_new(3, NULL);
		assert_int_equal(fixture_outcome(f, fixture_lock(f, 1, "k", "X", 5000)), OUT_OK);
		fixture_lose(f, 1, 2, MSG_RELEASE);
		assert_int_equal(fixture_outcome(f, fixture_release(f, 1, "k", "X")), OUT_OK);
		fixture_let_go(f);
		fixture_crash(f, 3);
		uint64_t before = f->messages;
		uint64_t w = fixture_lock_wait(f, id, "k", "W", 20000, 20000);
		fixture_run_ms(f, 4900);
		assert_in_range(f->messages - before, 1, 150);
		assert_null(fixture_result(f, w));
		fixture_run_ms(f, 1500);
		assert_int_equal(fixture_outcome(f, w), OUT_OK);
		fixture_free(f);
	}
}

/* The waiter hears of the end before its fellow masters do. */
static void test_wait_woken_before_the_others_are_free(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(5, NULL);
	assert_int_equal(fixture_outcome(f, fixture_lock(f, 1, "k", "X", 30000)), OUT_OK);
	uint64_t w = fixture_lock_wait(f, 2, "k", "W", 20000, 20000);
	fixture_run_ms(f, 10);
	for (unsigned id = 3; id <= 5; id++)
		fixture_delay(f, 1, id, MSG_RELEASE);
	uint64_t release = fixture_release(f, 1, "k", "X");
	fixture_settle(f);
	fixture_let_go(f);
	assert_int_equal(fixture_outcome(f, release), OUT_OK);
	fixture_run_ms(f, 100);
	assert_int_equal(fixture_outcome(f, w), OUT_OK);
	fixture_free(f);
}

/* UNKNOWN is not said while the RELEASE is on its way: the holder may take the lock up again. */
static void test_release_is_not_given_up_while_it_can_land(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(5, NULL);
	assert_int_equal(fixture_outcome(f, fixture_lock(f, 1, "k", "V", 3000)), OUT_OK);
	fixture_lose(f, 2, 1, MSG_PREPARE);
	fixture_lose(f, 2, 5, MSG_PREPARE);
	/* 2, 3 and 4 are promised to node 2 afterwards. */
	assert_int_equal(fixture_outcome(f, fixture_update(f, 2, "k", "wrong", "z")), OUT_NOTOWNER);
	f->n_rules = 0;
	fixture_delay(f, 1, 5, MSG_RELEASE);
	uint64_t release = fixture_release(f, 1, "k", "V");
	for (unsigned id = 2; id <= 4; id++)
		fixture_link(f, 1, id, false);
	fixture_run_ms(f, 1000);
	assert_null(fixture_result(f, release));
	fixture_run_ms(f, 10);
	assert_int_equal(fixture_outcome(f, release), OUT_UNKNOWN);
	fixture_free(f);
}

/* A RELEASE that has begun with one instance leaves the next one alone. */
static void test_release_retried_spares_the_next_instance(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, NULL);
	assert_int_equal(fixture_outcome(f, fixture_lock(f, 1, "k", "V", 30000)), OUT_OK);
	fixture_delay(f, 1, 0, MSG_RELEASE);
	uint64_t first = fixture_release(f, 1, "k", "V");
	fixture_delay_reply(f, 3, 2, MSG_PREPARE);
	uint64_t second = fixture_release(f, 2, "k", "V");
	fixture_let_go(f);
	fixture_settle(f);
	assert_int_equal(fixture_outcome(f, second), OUT_OK);
	uint64_t again = fixture_lock(f, 2, "k", "V", 30000);
	assert_int_equal(fixture_outcome(f, again), OUT_OK);
	fixture_run_ms(f, 2100);
	assert_int_equal(fixture_outcome(f, first), OUT_UNKNOWN);
	uint64_t read = fixture_read(f, 3, "k", true);
	assert_int_equal(fixture_outcome(f, read), OUT_OK);
	assert_int_equal(fixture_result(f, read)->r.token, fixture_result(f, again)->r.token);
	fixture_free(f);
}

static uint64_t idempotent_wait(struct fixture *f, unsigned id, const char *value)
{
	return fixture_op(f, id,
		(struct op_request){.kind = OP_LOCK,
			.key = bytes_str("k"),
			.value = bytes_str(value),
			.ttl_ms = 30000,
			.has_ttl = true,
			.idempotent = true,
			.wait = true,
			.wait_ms = 500});
}

/* A second request of the same value confirms no promise that the first may have to give back. */
static void test_idempotent_second_in_line_makes_no_ghost(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, NULL);
	for (unsigned id = 1; id <= 2; id++) {
		fixture_cut(f, id, 3, true);
		fixture_link(f, id, 3, false);
	}
	fixture_delay(f, 1, 2, MSG_TRYLOCK);
	fixture_delay(f, 2, 1, MSG_TRYLOCK);
	(void)idempotent_wait(f, 1, "V");
	(void)fixture_lock(f, 2, "k", "W", 30000);
	(void)idempotent_wait(f, 1, "V");
	assert_int_equal(fixture_stats(f, 1).leases, 0);
	fixture_let_go(f);
	fixture_settle(f);
	f->n_rules = 0;
	fixture_free(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_release_reaches_a_master_that_missed_an_update),
		cmocka_unit_test(test_release_unheard_is_unknown),
		cmocka_unit_test(test_release_refused_late_leaves_no_copy_behind),
		cmocka_unit_test(test_release_refused_by_all_takes_nothing_away),
		cmocka_unit_test(test_cancel_late_hands_the_lock_back),
		cmocka_unit_test(test_idempotent_adoption_after_waiting_is_valid),
		cmocka_unit_test(test_idempotent_second_in_line_adopts_at_once),
		cmocka_unit_test(test_idempotent_answers_in_time_behind_a_ghost),
		cmocka_unit_test(test_wait_at_two_masters_without_the_lease_does_not_spin),
		cmocka_unit_test(test_wait_behind_a_ghost_does_not_spin),
		cmocka_unit_test(test_wait_woken_before_the_others_are_free),
		cmocka_unit_test(test_release_is_not_given_up_while_it_can_land),
		cmocka_unit_test(test_release_retried_spares_the_next_instance),
		cmocka_unit_test(test_idempotent_second_in_line_makes_no_ghost),
	};
	return cmocka_run_group_tests_name("engine_interleavings", tests, NULL, NULL);
}
