#include "core/wheel.h"

#include "base/check.h"
#include "base/prng.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

_Noreturn void check_fail(const char *condition, const char *file, int line)
{
	mock_assert(0, condition, file, line);
	abort();
}

enum { TIMERS = 600 };

#define MS   WHEEL_TICK_NS
#define HOUR (3600 * 1000 * MS)

struct timer {
	uint64_t deadline_ns;
	struct wheel_link link;
	bool armed;
};

static struct timer timers[TIMERS];
static struct wheel w;

static void start(uint64_t now_ns)
{
	memset(timers, 0, sizeof timers);
	wheel_init(&w, timers, sizeof *timers, offsetof(struct timer, link), now_ns);
}

static void arm(uint32_t ref, uint64_t deadline_ns)
{
	timers[ref].deadline_ns = deadline_ns;
	timers[ref].armed = true;
	wheel_add(&w, ref, deadline_ns);
}

/* As the owner does: what came early goes back. Returns what is due, 0 when nothing more is. */
static uint32_t next_due(uint64_t now_ns, unsigned *pops)
{
	for (;;) {
		uint32_t ref = wheel_pop(&w, now_ns);
		if (ref == 0)
			return 0;
		assert_true(timers[ref].armed);
		assert_false(wheel_has(&w, ref));
		assert_true(++*pops < 100000);
		if (timers[ref].deadline_ns <= now_ns) {
			timers[ref].armed = false;
			return ref;
		}
		wheel_add(&w, ref, timers[ref].deadline_ns);
	}
}

static void test_wheel_empty_has_nothing(void **state)
{
	(void)state;
	start(5 * MS);
	assert_int_equal(wheel_pop(&w, 5 * MS), 0);
	assert_int_equal(wheel_next_ns(&w), UINT64_MAX);
	assert_int_equal(wheel_pop(&w, UINT64_MAX), 0);
	wheel_remove(&w, 3);
	assert_false(wheel_has(&w, 3));
	wheel_validate(&w);
}

static void test_wheel_never_early_at_the_finest_level(void **state)
{
	(void)state;
	start(1000 * MS + 1);
	arm(1, 1010 * MS);
	arm(2, 1010 * MS + 1); /* rounded up */
	assert_int_equal(wheel_next_ns(&w), 1010 * MS);
	assert_int_equal(wheel_pop(&w, 1010 * MS - 1), 0);
	assert_int_equal(wheel_pop(&w, 1010 * MS), 1);
	assert_int_equal(wheel_pop(&w, 1010 * MS), 0);
	assert_int_equal(wheel_next_ns(&w), 1011 * MS);
	assert_int_equal(wheel_pop(&w, 1010 * MS + 1), 0);
	assert_int_equal(wheel_pop(&w, 1011 * MS), 2);
	assert_int_equal(w.count, 0);
	wheel_validate(&w);
}

static void test_wheel_past_deadlines_come_at_the_next_tick(void **state)
{
	(void)state;
	start(1000 * MS);
	arm(1, 0);
	arm(2, 999 * MS);
	arm(3, 1000 * MS);
	assert_int_equal(wheel_pop(&w, 1000 * MS), 0);
	assert_int_equal(wheel_next_ns(&w), 1001 * MS);
	unsigned pops = 0;
	for (unsigned i = 0; i < 3; i++)
		assert_int_not_equal(next_due(1001 * MS, &pops), 0);
	assert_int_equal(next_due(1001 * MS, &pops), 0);
	assert_int_equal(pops, 3);
}

/* Putting a popped entry back with a past deadline does not loop at one tick. */
static void test_wheel_put_back_waits_for_a_tick(void **state)
{
	(void)state;
	start(0);
	arm(1, 10 * MS);
	arm(2, 10 * MS);
	unsigned pops = 0;
	for (uint32_t ref; (ref = wheel_pop(&w, 20 * MS)) != 0; pops++) {
		assert_true(pops < 100);
		wheel_add(&w, ref, 5 * MS);
		wheel_validate(&w);
	}
	assert_int_equal(w.count, 2);
	assert_int_equal(wheel_next_ns(&w), 21 * MS);
}

static void test_wheel_rounds_distant_deadlines_down(void **state)
{
	(void)state;
	struct prng r;
	prng_seed(&r, 5);
	for (unsigned i = 0; i < 20000; i++) {
		uint64_t now = prng_below(&r, 1000 * HOUR);
		uint64_t ahead = prng_next(&r) >> (10 + prng_below(&r, 44));
		start(now);
		arm(1, now + ahead);
		uint64_t next = wheel_next_ns(&w);
		uint64_t tick = now / MS * MS, up = (now + ahead + MS - 1) / MS * MS;
		assert_true(next > tick);
		assert_true(next <= up || next == tick + MS);
		if (ahead < 36 * HOUR) /* early by a seventh at most */
			assert_true(up - tick - (next - tick) <= (up - tick) / 7 || next > up);
		assert_int_equal(wheel_pop(&w, next - 1), 0);
		assert_int_equal(wheel_pop(&w, next), 1);
	}
}

static void test_wheel_few_pops_to_a_distant_deadline(void **state)
{
	(void)state;
	struct prng r;
	prng_seed(&r, 6);
	for (unsigned i = 0; i < 3000; i++) {
		uint64_t now = prng_below(&r, 1000 * HOUR);
		uint64_t deadline = now + prng_below(&r, 24 * HOUR);
		start(now);
		arm(1, deadline);
		unsigned pops = 0;
		while (timers[1].armed) {
			assert_true(wheel_next_ns(&w) > now / MS * MS);
			now = wheel_next_ns(&w);
			(void)next_due(now, &pops);
			wheel_validate(&w);
		}
		assert_true(now >= deadline && now - deadline <= MS);
		assert_true(pops <= WHEEL_LEVELS);
	}
}

static void test_wheel_beyond_its_reach_comes_early(void **state)
{
	(void)state;
	start(7 * MS);
	arm(1, UINT64_MAX);
	wheel_validate(&w);
	uint64_t next = wheel_next_ns(&w);
	assert_true(next > 36 * HOUR && next < 37 * HOUR);
	assert_int_equal(wheel_pop(&w, next - 1), 0);
	unsigned pops = 0;
	assert_int_equal(next_due(next, &pops), 0);
	assert_true(pops >= 1 && w.count == 1 && wheel_next_ns(&w) > next);
	assert_int_equal(next_due(UINT64_MAX, &pops), 1);
}

static void test_wheel_pause_of_hours_loses_nothing(void **state)
{
	(void)state;
	struct prng r;
	for (unsigned round = 0; round < 50; round++) {
		prng_seed(&r, round);
		uint64_t now = prng_below(&r, 100 * HOUR), pause = prng_below(&r, 30 * HOUR);
		start(now);
		unsigned expected = 0, pops = 0;
		for (uint32_t ref = 1; ref < TIMERS; ref++) {
			uint64_t deadline = now + prng_below(&r, 60 * HOUR >> prng_below(&r, 30));
			expected += deadline <= now + pause;
			arm(ref, deadline);
		}
		now += pause;
		while (next_due(now, &pops) != 0)
			expected--;
		/* Deadlines within the last tick are rounded up to the next. */
		for (uint32_t ref = 1; ref < TIMERS; ref++) {
			assert_int_equal(wheel_has(&w, ref), timers[ref].armed);
			if (timers[ref].armed && timers[ref].deadline_ns <= now) {
				assert_true(timers[ref].deadline_ns > now / MS * MS);
				expected--;
			}
		}
		assert_int_equal(expected, 0);
		assert_true(w.count == 0 || wheel_next_ns(&w) > now);
		wheel_validate(&w);
	}
}

static void test_wheel_remove_anywhere_in_a_slot(void **state)
{
	(void)state;
	for (uint32_t first = 1; first <= 4; first++) {
		start(0);
		for (uint32_t ref = 1; ref <= 4; ref++)
			arm(ref, 30 * MS);
		wheel_remove(&w, first);
		wheel_validate(&w);
		wheel_remove(&w, first);
		assert_false(wheel_has(&w, first));
		/* The head goes while the slot is being emptied. */
		uint32_t popped = wheel_pop(&w, 30 * MS);
		uint32_t head = w.head[0][30];
		assert_true(popped != 0 && head != 0);
		wheel_remove(&w, head);
		wheel_validate(&w);
		uint32_t last = wheel_pop(&w, 30 * MS);
		assert_int_equal(popped + head + last + first, 10);
		assert_int_equal(wheel_pop(&w, 30 * MS), 0);
		assert_int_equal(w.count, 0);
		wheel_validate(&w);
	}
}

static void test_wheel_refuses_misuse(void **state)
{
	(void)state;
	start(0);
	arm(1, MS);
	expect_assert_failure(wheel_add(&w, 1, MS));
	expect_assert_failure(wheel_add(&w, 0, MS));
	expect_assert_failure(wheel_add(&w, WHEEL_HEAD, MS));
	wheel_validate(&w);
}

static void test_wheel_time_going_back_loses_nothing(void **state)
{
	(void)state;
	start(100 * MS);
	arm(1, 200 * MS);
	arm(2, 200 * MS);
	unsigned pops = 0;
	assert_int_not_equal(next_due(200 * MS, &pops), 0);
	arm(3, 263 * MS); /* as far as the finest level reaches from 200 */
	assert_int_equal(next_due(100 * MS, &pops), 0);
	wheel_validate(&w);
	assert_int_equal(wheel_next_ns(&w), 200 * MS);
	assert_int_not_equal(next_due(200 * MS, &pops), 0);
	assert_int_equal(next_due(263 * MS - 1, &pops), 0);
	assert_int_equal(next_due(263 * MS, &pops), 3);
	assert_int_equal(pops, 3);
	assert_int_equal(w.count, 0);
}

static uint64_t random_ahead(struct prng *r)
{
	return prng_below(r, HOUR * 48 >> prng_below(r, 40));
}

/* Every armed timer fires within a tick of its deadline when the owner sleeps by wheel_next_ns(),
 * none before, and lazily extended ones at the extended time. */
static void test_wheel_agrees_with_a_list(void **state)
{
	(void)state;
	struct prng r;
	prng_seed(&r, 99);
	uint64_t now = 123456789;
	start(now);
	unsigned pops = 0, fired = 0;
	for (unsigned step = 0; step < 20000; step++) {
		uint32_t ref = (uint32_t)(1 + prng_below(&r, TIMERS - 1));
		uint64_t what = prng_below(&r, 10);
		if (!timers[ref].armed) {
			arm(ref, now + random_ahead(&r));
		} else if (what < 2) {
			wheel_remove(&w, ref);
			timers[ref].armed = false;
		} else if (what < 4) {
			timers[ref].deadline_ns += random_ahead(&r);
		}
		if (what == 9) {
			uint64_t next = wheel_next_ns(&w), jump = now + random_ahead(&r);
			now = next > now && next < jump ? next : jump;
			while (next_due(now, &pops) != 0)
				fired++;
			assert_true(wheel_next_ns(&w) > now / MS * MS);
		}
		if (step % 64 != 0)
			continue;
		wheel_validate(&w);
		uint64_t count = 0, tick = w.tick * MS;
		for (ref = 1; ref < TIMERS; ref++) {
			assert_int_equal(wheel_has(&w, ref), timers[ref].armed);
			count += timers[ref].armed;
			/* Due is only what came after the wheel was last looked at. */
			assert_true(!timers[ref].armed || timers[ref].deadline_ns >= tick);
		}
		assert_int_equal(w.count, count);
		pops = 0;
	}
	assert_true(fired > 1000);
}

static void test_wheel_validate_sees_damage(void **state)
{
	(void)state;
	start(0);
	arm(1, 30 * MS);
	arm(2, 30 * MS);
	w.count++;
	expect_assert_failure(wheel_validate(&w));
	w.count--;
	w.busy[0] = 0;
	expect_assert_failure(wheel_validate(&w));
	w.busy[0] = UINT64_C(1) << 30;
	wheel_validate(&w);
	timers[1].link.prev = 3;
	expect_assert_failure(wheel_validate(&w));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_wheel_empty_has_nothing),
		cmocka_unit_test(test_wheel_never_early_at_the_finest_level),
		cmocka_unit_test(test_wheel_past_deadlines_come_at_the_next_tick),
		cmocka_unit_test(test_wheel_put_back_waits_for_a_tick),
		cmocka_unit_test(test_wheel_rounds_distant_deadlines_down),
		cmocka_unit_test(test_wheel_few_pops_to_a_distant_deadline),
		cmocka_unit_test(test_wheel_beyond_its_reach_comes_early),
		cmocka_unit_test(test_wheel_pause_of_hours_loses_nothing),
		cmocka_unit_test(test_wheel_remove_anywhere_in_a_slot),
		cmocka_unit_test(test_wheel_refuses_misuse),
		cmocka_unit_test(test_wheel_time_going_back_loses_nothing),
		cmocka_unit_test(test_wheel_agrees_with_a_list),
		cmocka_unit_test(test_wheel_validate_sees_damage),
	};
	return cmocka_run_group_tests_name("wheel", tests, NULL, NULL);
}
