#include "node/restart.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#include "core/engine.h"

#define MS  UINT64_C(1000000)
#define SEC UINT64_C(1000000000)

static const struct restart_config sample = {
	.kind = RESTART_EMPTY,
	.now_slow_ns = 5 * SEC,
	.objections_ns = 2500 * MS,
	.max_lease_ms = 60000,
	.attempt_ms = 1000,
	.drift_ppm = 1000,
	.n_masters = 3,
	.loaded_n = 7000,
};

static struct restart start(enum restart_kind kind)
{
	struct restart_config cfg = sample;
	struct restart r;
	cfg.kind = kind;
	restart_init(&r, &cfg);
	return r;
}

static struct restart_news at(uint64_t slow_ns)
{
	return (struct restart_news){
		.slow_ns = slow_ns, .wall_n = 9000, .durable_n = 7000 + CEILING_STEP_N};
}

/* protocol.md 2.1 with its defaults: T_wait = kappa * 1 s + 10 ms, D_Q = kappa * 60 s + T_wait; at
 * most a microsecond and a millisecond more for rounding. */
static void test_restart_times_are_those_of_the_protocol(void **state)
{
	(void)state;
	uint64_t wait = engine_restart_wait_ns(1000, 1000);
	assert_in_range(wait, UINT64_C(1012002002), UINT64_C(1013002002));
	assert_in_range(engine_quarantine_ns(60000, 1000, 1000), UINT64_C(61132122121),
		UINT64_C(61135000000));
	assert_in_range(engine_restart_wait_ns(1000, 0), 1010 * MS, 1011 * MS);
	/* T_tomb is longer than that of a short lease: 4 s times kappa. */
	assert_in_range(
		engine_quarantine_ns(100, 1000, 1000), UINT64_C(4008008008), UINT64_C(4013000000));
	/* The largest that the options allow do not wrap. */
	assert_in_range(engine_quarantine_ns(86400000, 60000, 99999), UINT64_C(86400000) * MS,
		UINT64_C(86400000) * MS * 5 / 4 + 100 * SEC);
}

/* The masters that are left cannot vouch for what one that has departed had to. */
static void test_restart_claims_nothing_when_the_masters_change(void **state)
{
	(void)state;
	struct restart clean = start(RESTART_CLEAN), first = start(RESTART_FIRST_BOOT);
	struct restart_news news = at(6 * SEC);
	uint64_t n = 1;
	news.all_heard = true;
	assert_false(restart_changed(&clean));
	assert_int_equal(restart_next(&clean, &news, &n), RESTART_WAIT);
	assert_true(restart_changed(&first));
	assert_int_equal(restart_next(&first, &news, &n), RESTART_WAIT);
	assert_false(restart_changed(&first));
	/* Who votes has settled it. */
	clean = start(RESTART_CLEAN);
	assert_int_equal(restart_next(&clean, &news, &n), RESTART_VOTE);
	assert_false(restart_changed(&clean));
	assert_int_equal(clean.status, NODE_ACTIVE);
	first = start(RESTART_FIRST_BOOT);
	assert_int_equal(restart_next(&first, &news, &n), RESTART_VOTE);
	assert_false(restart_changed(&first));
}

static void test_restart_asks_after_t_wait_and_votes_when_in_sync(void **state)
{
	(void)state;
	struct restart r = start(RESTART_EMPTY);
	uint64_t n = 1, wait = 5 * SEC + engine_restart_wait_ns(1000, 1000);
	struct restart_news news = at(5 * SEC);
	assert_int_equal(restart_next(&r, &news, &n), RESTART_WAIT);
	assert_int_equal(restart_due_ns(&r), wait);
	news = at(wait - 1);
	news.in_sync = news.all_heard = true; /* nothing shortens T_wait */
	assert_int_equal(restart_next(&r, &news, &n), RESTART_WAIT);
	news = at(wait);
	assert_int_equal(restart_next(&r, &news, &n), RESTART_ASK);
	assert_int_equal(r.status, NODE_RESYNC);
	news = at(wait + SEC);
	assert_int_equal(restart_next(&r, &news, &n), RESTART_WAIT);
	news.in_sync = true;
	assert_int_equal(restart_next(&r, &news, &n), RESTART_VOTE);
	assert_int_equal(n, 0); /* slots have floors of their own */
	assert_int_equal(restart_due_ns(&r), UINT64_MAX);
	assert_int_equal(restart_next(&r, &news, &n), RESTART_WAIT);
}

static void test_restart_votes_without_the_others_after_the_quarantine(void **state)
{
	(void)state;
	struct restart r = start(RESTART_EMPTY);
	uint64_t n = 1, end = 5 * SEC + engine_quarantine_ns(60000, 1000, 1000);
	struct restart_news news = at(5 * SEC + 2 * SEC);
	assert_int_equal(restart_next(&r, &news, &n), RESTART_ASK);
	assert_int_equal(restart_due_ns(&r), end);
	news = at(end - 1);
	assert_int_equal(restart_next(&r, &news, &n), RESTART_WAIT);
	news = at(end);
	news.durable_n = 7000; /* nothing above the floor is durable yet */
	assert_int_equal(restart_next(&r, &news, &n), RESTART_COVER);
	assert_int_equal(n, 9000 + CEILING_STEP_N);
	assert_int_equal(r.status, NODE_RESYNC);
	news.durable_n = n;
	assert_int_equal(restart_next(&r, &news, &n), RESTART_VOTE);
	assert_int_equal(n, 7000);
}

static void test_restart_without_a_file_has_the_wall_clock_for_a_floor(void **state)
{
	(void)state;
	struct restart_config cfg = sample;
	struct restart r;
	cfg.loaded_n = 0;
	restart_init(&r, &cfg);
	uint64_t n = 1;
	struct restart_news news = at(UINT64_MAX / 2);
	news.durable_n = BALLOT_MAX;
	assert_int_equal(restart_next(&r, &news, &n), RESTART_VOTE);
	assert_int_equal(n, 9000);
}

static void test_restart_of_the_only_master_has_nobody_to_ask(void **state)
{
	(void)state;
	struct restart_config cfg = sample;
	struct restart r;
	cfg.n_masters = 1;
	restart_init(&r, &cfg);
	uint64_t n = 1, end = 5 * SEC + engine_quarantine_ns(60000, 1000, 1000);
	struct restart_news news = at(end - 1);
	news.in_sync = true; /* of nobody */
	assert_int_equal(restart_next(&r, &news, &n), RESTART_WAIT);
	assert_int_equal(restart_due_ns(&r), end);
	news.slow_ns = end;
	assert_int_equal(restart_next(&r, &news, &n), RESTART_VOTE);
}

static void test_restart_first_boot_votes_when_nobody_objects(void **state)
{
	(void)state;
	struct restart r = start(RESTART_FIRST_BOOT);
	uint64_t n = 1;
	struct restart_news news = at(5 * SEC);
	assert_int_equal(restart_next(&r, &news, &n), RESTART_WAIT);
	assert_int_equal(restart_due_ns(&r), 7500 * MS);
	news.all_heard = true;
	assert_int_equal(restart_next(&r, &news, &n), RESTART_VOTE);
	assert_int_equal(n, 0);
	r = start(RESTART_FIRST_BOOT);
	news = at(7500 * MS);
	assert_int_equal(restart_next(&r, &news, &n), RESTART_VOTE);
}

static void test_restart_after_a_stop_in_good_order_votes_above_what_it_knew(void **state)
{
	(void)state;
	struct restart r = start(RESTART_CLEAN);
	uint64_t n = 1;
	struct restart_news news = at(5 * SEC);
	news.durable_n = 7000;
	assert_int_equal(restart_next(&r, &news, &n), RESTART_WAIT);
	news.all_heard = true;
	assert_int_equal(restart_next(&r, &news, &n), RESTART_COVER);
	news.durable_n = n;
	assert_int_equal(restart_next(&r, &news, &n), RESTART_VOTE);
	assert_int_equal(n, 7000);
	assert_int_equal(restart_next(&r, &news, &n), RESTART_WAIT);
}

/* The one that is away may be the one that knows of a later life. */
static void test_restart_after_a_stop_in_good_order_needs_everybodys_word(void **state)
{
	(void)state;
	struct restart r = start(RESTART_CLEAN);
	uint64_t n = 1, wait = 5 * SEC + engine_restart_wait_ns(1000, 1000);
	struct restart_news news = at(wait - 1);
	assert_int_equal(restart_next(&r, &news, &n), RESTART_WAIT);
	assert_int_equal(restart_due_ns(&r), wait);
	news.slow_ns = wait;
	assert_int_equal(restart_next(&r, &news, &n), RESTART_ASK);
	struct restart asking = r;
	news.all_heard = true; /* late, and still good */
	assert_int_equal(restart_next(&r, &news, &n), RESTART_VOTE);
	assert_int_equal(n, 7000);
	news.all_heard = false;
	news.in_sync = true;
	assert_int_equal(restart_next(&asking, &news, &n), RESTART_VOTE);
	assert_int_equal(n, 0);
}

static void test_restart_with_an_old_copy_of_the_file_waits_like_any_other(void **state)
{
	(void)state;
	struct restart r = start(RESTART_CLEAN);
	uint64_t n = 1, wait = 5 * SEC + engine_restart_wait_ns(1000, 1000);
	restart_distrust(&r);
	struct restart_news news = at(wait - 1);
	news.all_heard = true;
	assert_int_equal(restart_next(&r, &news, &n), RESTART_WAIT);
	news.slow_ns = wait;
	assert_int_equal(restart_next(&r, &news, &n), RESTART_ASK);
	r = start(RESTART_FIRST_BOOT);
	restart_distrust(&r);
	assert_int_equal(r.kind, RESTART_FIRST_BOOT);
}

/* Its votes of another life are none: it asks at once. */
static void test_restart_of_a_joined_master_asks_at_once(void **state)
{
	(void)state;
	struct restart r = start(RESTART_JOINED);
	uint64_t n = 1;
	struct restart_news news = at(5 * SEC);
	news.in_sync = news.all_heard = true; /* of an earlier time */
	assert_int_equal(restart_due_ns(&r), 5 * SEC);
	assert_int_equal(restart_next(&r, &news, &n), RESTART_ASK);
	assert_int_equal(r.status, NODE_RESYNC);
	assert_int_equal(restart_due_ns(&r), r.vote_ns);
	news = at(r.vote_ns - 1);
	news.all_heard = true;
	assert_int_equal(restart_next(&r, &news, &n), RESTART_WAIT);
	restart_distrust(&r);
	assert_int_equal(restart_next(&r, &news, &n), RESTART_WAIT);
	news.in_sync = true;
	assert_int_equal(restart_next(&r, &news, &n), RESTART_VOTE);
	assert_int_equal(n, 0); /* slots have floors of their own */
	assert_int_equal(restart_due_ns(&r), UINT64_MAX);
	assert_int_equal(restart_next(&r, &news, &n), RESTART_WAIT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_restart_times_are_those_of_the_protocol),
		cmocka_unit_test(test_restart_claims_nothing_when_the_masters_change),
		cmocka_unit_test(test_restart_asks_after_t_wait_and_votes_when_in_sync),
		cmocka_unit_test(test_restart_votes_without_the_others_after_the_quarantine),
		cmocka_unit_test(test_restart_without_a_file_has_the_wall_clock_for_a_floor),
		cmocka_unit_test(test_restart_of_the_only_master_has_nobody_to_ask),
		cmocka_unit_test(test_restart_first_boot_votes_when_nobody_objects),
		cmocka_unit_test(test_restart_after_a_stop_in_good_order_votes_above_what_it_knew),
		cmocka_unit_test(test_restart_after_a_stop_in_good_order_needs_everybodys_word),
		cmocka_unit_test(test_restart_with_an_old_copy_of_the_file_waits_like_any_other),
		cmocka_unit_test(test_restart_of_a_joined_master_asks_at_once),
	};
	return cmocka_run_group_tests_name("restart", tests, NULL, NULL);
}
