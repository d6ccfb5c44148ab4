#include "io/internal.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

enum { LOOPS = 100000 };

static struct io_clock anchored(uint64_t slow, uint64_t fast, uint64_t boot, uint64_t raw)
{
	return (struct io_clock){
		.slow = slow, .fast = fast, .boot_anchor = boot, .raw_anchor = raw};
}

static void test_clock_takes_the_smaller_and_the_larger_delta(void **state)
{
	(void)state;
	struct io_clock c = anchored(1000, 2000, 50, 70);
	struct clocks now;
	clock_advance(&c, 50 + 10, 70 + 7, &now);
	assert_int_equal(now.slow, 1007);
	assert_int_equal(now.fast, 2010);
	assert_int_equal(now.mclk, 60);
	clock_advance(&c, 50 + 20, 70 + 33, &now);
	assert_int_equal(now.slow, 1020);
	assert_int_equal(now.fast, 2033);
}

static void test_clock_counts_a_suspend_as_fast_only(void **state)
{
	(void)state;
	struct io_clock c = anchored(0, 0, 0, 0);
	struct clocks now;
	clock_advance(&c, 10 * SECOND_NS, 5, &now);
	assert_int_equal(now.slow, 5);
	assert_int_equal(now.fast, 10 * SECOND_NS);
	/* Anchored anew: what came before does not hide what comes now. */
	clock_advance(&c, 10 * SECOND_NS + 100, 5 + 90, &now);
	assert_int_equal(now.slow, 5 + 90);
	assert_int_equal(now.fast, 10 * SECOND_NS + 100);
}

/* Between two anchors the jitter of reading counts once, not once per reading. */
static void test_clock_does_not_add_up_jitter(void **state)
{
	(void)state;
	enum { STEP_NS = 1000, JITTER_NS = 100 };
	struct io_clock c = anchored(0, 0, 0, 0);
	struct clocks now;
	uint64_t t = 0;
	for (unsigned i = 0; i < LOOPS; i++) {
		t += STEP_NS;
		clock_advance(&c, t, t + (i % 2 == 0 ? JITTER_NS : 0), &now);
	}
	assert_true(now.slow <= t && now.slow >= t - JITTER_NS);
	assert_true(now.fast >= t && now.fast <= t + JITTER_NS);
}

static void test_clock_survives_a_step_back(void **state)
{
	(void)state;
	struct io_clock c = anchored(100, 100, 1000, 1000);
	struct clocks now;
	clock_advance(&c, 990, 995, &now);
	assert_int_equal(now.slow, 100);
	assert_int_equal(now.fast, 100);
}

static void test_clock_never_goes_back(void **state)
{
	(void)state;
	struct io_clock c;
	struct clocks last, now;
	io_clock_init(&c);
	io_clock_read(&c, &last);
	for (unsigned i = 0; i < LOOPS; i++) {
		io_clock_read(&c, &now);
		assert_true(now.slow >= last.slow && now.fast >= last.fast);
		assert_true(now.mclk >= last.mclk);
		assert_true(now.slow <= now.fast);
		last = now;
	}
}

static void test_clock_bends_all_durations_alike(void **state)
{
	(void)state;
	struct io_clock straight, bent;
	struct clocks before, middle, after;
	io_clock_init(&straight);
	assert_int_equal(setenv("LOCKER_TEST_CLOCK_RATE_PPM", "500000", 1), 0);
	io_clock_init(&bent);
	assert_int_equal(unsetenv("LOCKER_TEST_CLOCK_RATE_PPM"), 0);
	io_clock_read(&straight, &before);
	io_clock_read(&bent, &middle);
	io_clock_read(&straight, &after);
	assert_true(middle.mclk + 1 >= before.mclk + before.mclk / 2);
	assert_true(middle.mclk <= after.mclk + after.mclk / 2 + 1);

	struct clocks now = {0};
	struct io_clock fresh = anchored(0, 0, middle.mclk, middle.mclk);
	clock_advance(&fresh, middle.mclk + 3, middle.mclk + 3, &now);
	assert_int_equal(now.slow, 3);
	assert_int_equal(now.fast, 3);
}

static void test_clock_moves_wall_by_the_offset(void **state)
{
	(void)state;
	const uint64_t hour_us = UINT64_C(3600) * 1000 * 1000;
	struct io_clock c;
	struct clocks now;
	io_clock_init(&c);
	uint64_t before = io_wall_us();
	assert_int_equal(setenv("LOCKER_TEST_WALL_OFFSET_MS", "3600000", 1), 0);
	io_clock_init(&c);
	assert_int_equal(unsetenv("LOCKER_TEST_WALL_OFFSET_MS"), 0);
	io_clock_read(&c, &now);
	/* Wall clocks may be set while this runs: half of the offset is proof enough. */
	assert_true(now.wall_us > before + hour_us / 2);
	io_clock_init(&c);
	assert_true(io_wall_us() < before + hour_us / 2);
}

static void test_clock_ignores_nonsense_from_the_environment(void **state)
{
	static const char *const bad[] = {"", "fast", "12x", "-900001", "99999999999999999999"};
	(void)state;
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		struct io_clock c;
		assert_int_equal(setenv("LOCKER_TEST_CLOCK_RATE_PPM", bad[i], 1), 0);
		io_clock_init(&c);
		assert_int_equal(c.rate_ppm, 0);
	}
	assert_int_equal(unsetenv("LOCKER_TEST_CLOCK_RATE_PPM"), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_clock_takes_the_smaller_and_the_larger_delta),
		cmocka_unit_test(test_clock_counts_a_suspend_as_fast_only),
		cmocka_unit_test(test_clock_does_not_add_up_jitter),
		cmocka_unit_test(test_clock_survives_a_step_back),
		cmocka_unit_test(test_clock_never_goes_back),
		cmocka_unit_test(test_clock_bends_all_durations_alike),
		cmocka_unit_test(test_clock_moves_wall_by_the_offset),
		cmocka_unit_test(test_clock_ignores_nonsense_from_the_environment),
	};
	return cmocka_run_group_tests_name("clock", tests, NULL, NULL);
}
