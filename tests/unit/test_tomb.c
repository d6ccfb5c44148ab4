#include "core/tomb.h"

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

enum { KEEP = 1000, SLOTS = 16, SLOT = 2 };

static void *tombs_new(struct tombs *t, uint64_t max_entries, uint64_t now_ns)
{
	size_t bytes = (tombs_memory_bytes(max_entries, SLOTS, 1) + 63) / 64 * 64;
	void *mem = aligned_alloc(64, bytes);
	assert_non_null(mem);
	memset(mem, 0, bytes);
	tombs_init(t, mem, max_entries, SLOTS, 1, KEEP, now_ns);
	return mem;
}

static void test_tomb_lives_one_to_two_keeps(void **state)
{
	(void)state;
	struct tombs t;
	void *mem = tombs_new(&t, 100, 5000);
	assert_int_equal(tombs_get(&t, 7), 0);
	assert_int_equal(tombs_next_ns(&t), UINT64_MAX);
	tombs_put(&t, 7, 3, 40, 5999);
	assert_int_equal(tombs_get(&t, 7), 40);
	assert_int_equal(tombs_next_ns(&t), 6000);
	tombs_tick(&t, 5999);
	assert_int_equal(t.rotate_ns, 5000);
	tombs_tick(&t, 6000);
	assert_int_equal(tombs_get(&t, 7), 40);
	assert_int_equal(tombs_next_ns(&t), 7000);
	tombs_tick(&t, 6999); /* just 1000 old */
	assert_int_equal(tombs_get(&t, 7), 40);
	assert_int_equal(tombs_floor(&t, 3), 0);
	tombs_tick(&t, 7000);
	assert_int_equal(tombs_get(&t, 7), 0);
	assert_int_equal(tombs_floor(&t, 3), 40);
	assert_int_equal(tombs_floor(&t, 2), 0);
	assert_int_equal(tombs_count(&t), 0);
	assert_int_equal(tombs_next_ns(&t), UINT64_MAX);
	assert_false(tombs_forgot_early(&t, SLOT, 7000));
	tombs_validate(&t);
	free(mem);
}

static void test_tomb_is_raised_never_lowered(void **state)
{
	(void)state;
	struct tombs t;
	void *mem = tombs_new(&t, 100, 0);
	tombs_put(&t, 7, 1, 40, 1);
	tombs_put(&t, 7, 1, 30, 2);
	assert_int_equal(tombs_get(&t, 7), 40);
	tombs_put(&t, 7, 1, 50, 3);
	assert_int_equal(tombs_get(&t, 7), 50);
	tombs_put(&t, 8, 1, 0, 3);
	assert_int_equal(tombs_count(&t), 1);
	/* The older one's larger value moves on and so does its floor. */
	tombs_tick(&t, 1000);
	tombs_put(&t, 7, 1, 20, 1500);
	assert_int_equal(tombs_count(&t), 2);
	tombs_tick(&t, 2000);
	assert_int_equal(tombs_get(&t, 7), 50);
	assert_int_equal(tombs_floor(&t, 1), 50);
	tombs_put(&t, 9, 1, 5, 2500);
	tombs_tick(&t, 3000);
	assert_int_equal(tombs_get(&t, 7), 0);
	tombs_tick(&t, 4000);
	assert_int_equal(tombs_floor(&t, 1), 50);
	tombs_validate(&t);
	free(mem);
}

/* A put long after the last tick must not end up in a generation about to be folded. */
static void test_tomb_put_after_a_pause_lives_a_keep(void **state)
{
	(void)state;
	struct tombs t;
	void *mem = tombs_new(&t, 100, 0);
	tombs_put(&t, 1, 0, 10, 999);
	tombs_put(&t, 2, 0, 20, 1999);
	assert_int_equal(tombs_get(&t, 1), 10);
	tombs_put(&t, 3, 0, 30, 50000);
	tombs_tick(&t, 50999);
	assert_int_equal(tombs_get(&t, 3), 30);
	assert_int_equal(tombs_get(&t, 1), 0);
	tombs_tick(&t, 51000);
	assert_int_equal(tombs_get(&t, 3), 30);
	assert_int_equal(tombs_floor(&t, 0), 20);
	free(mem);
}

static void test_tomb_full_folds_early_and_says_so(void **state)
{
	(void)state;
	struct tombs t;
	void *mem = tombs_new(&t, 10, 0);
	for (uint64_t i = 1; i <= 10; i++)
		tombs_put(&t, i, 2, 100 + i, 5);
	assert_int_equal(tombs_count(&t), 10);
	/* The older generation is empty: nothing is forgotten yet. */
	tombs_put(&t, 11, 2, 111, 6);
	assert_false(tombs_forgot_early(&t, SLOT, 6));
	assert_int_equal(tombs_count(&t), 11);
	assert_int_equal(tombs_get(&t, 1), 101);
	for (uint64_t i = 12; i <= 20; i++)
		tombs_put(&t, i, 2, 100 + i, 7);
	tombs_put(&t, 20, 2, 125, 7); /* no new entry: needs no room */
	assert_false(tombs_forgot_early(&t, SLOT, 7));
	tombs_validate(&t);

	tombs_put(&t, 3, 2, 1, 8);
	assert_true(tombs_forgot_early(&t, SLOT, 8));
	assert_true(tombs_forgot_early(&t, SLOT, 1007));
	assert_false(tombs_forgot_early(&t, SLOT, 1008));
	assert_int_equal(tombs_get(&t, 1), 0);
	assert_int_equal(tombs_get(&t, 3), 103); /* what it had moved on */
	assert_int_equal(tombs_get(&t, 20), 125);
	assert_int_equal(tombs_floor(&t, 2), 110);
	assert_int_equal(tombs_floor(&t, 1), 0);
	assert_int_equal(tombs_next_ns(&t), 1008);
	tombs_validate(&t);
	free(mem);
}

/* One hash prefix for all: the map refuses before max_entries is reached. */
static void test_tomb_crowded_segment_folds_early(void **state)
{
	(void)state;
	struct tombs t;
	void *mem = tombs_new(&t, 100000, 0);
	for (uint64_t i = 1; i <= 1000; i++) {
		tombs_put(&t, i, 0, i, 5);
		assert_int_equal(tombs_get(&t, i), i);
	}
	assert_true(tombs_forgot_early(&t, SLOT, 5));
	assert_true(tombs_floor(&t, 0) > 0);
	tombs_validate(&t);
	free(mem);
}

static void test_tomb_floors_are_raised_for_a_restart(void **state)
{
	(void)state;
	struct tombs t;
	void *mem = tombs_new(&t, 10, 0);
	tombs_put(&t, 1, 0, 500, 0);
	tombs_tick(&t, 1000);
	tombs_tick(&t, 2000);
	for (uint16_t slot = 0; slot < SLOTS; slot++)
		tombs_raise_floor(&t, slot, 300, 2000);
	assert_int_equal(tombs_floor(&t, 0), 500);
	assert_int_equal(tombs_floor(&t, SLOTS - 1), 300);
	tombs_raise_floor(&t, 1, 200, 2000);
	assert_int_equal(tombs_floor(&t, 1), 300);
	free(mem);
}

/* What it stands for may be young: until it would be old, no key is called never seen. */
static void test_tomb_a_floor_of_a_restart_is_no_forgetting(void **state)
{
	(void)state;
	struct tombs t;
	void *mem = tombs_new(&t, 10, 0);
	tombs_raise_floor(&t, 3, 300, 50);
	assert_int_equal(tombs_floor(&t, 3), 300);
	assert_true(tombs_forgot_early(&t, 3, 50));
	assert_true(tombs_forgot_early(&t, 3, 50 + KEEP - 1));
	assert_false(tombs_forgot_early(&t, 3, 50 + KEEP));
	assert_false(tombs_forgot_early(&t, 4, 50));
	free(mem);
}

static void test_tomb_top_covers_graves_and_floor(void **state)
{
	(void)state;
	struct tombs t;
	void *mem = tombs_new(&t, 10, 0);
	assert_int_equal(tombs_top(&t, 3), 0);
	tombs_put(&t, 1, 3, 40, 0);
	assert_int_equal(tombs_top(&t, 3), 40);
	tombs_put(&t, 2, 3, 30, 1000); /* the next generation */
	assert_int_equal(tombs_top(&t, 3), 40);
	tombs_tick(&t, 2000);
	assert_int_equal(tombs_floor(&t, 3), 40);
	assert_int_equal(tombs_top(&t, 3), 40);
	tombs_raise_floor(&t, 3, 90, 2000);
	assert_int_equal(tombs_top(&t, 3), 90);
	assert_int_equal(tombs_top(&t, 4), 0);
	free(mem);
}

static void test_tomb_refuses_misuse(void **state)
{
	(void)state;
	struct tombs t;
	void *mem = tombs_new(&t, 10, 0);
	expect_assert_failure(tombs_put(&t, 1, SLOTS, 1, 0));
	expect_assert_failure(tombs_floor(&t, SLOTS));
	expect_assert_failure(tombs_init(&t, mem, 0, SLOTS, 1, KEEP, 0));
	expect_assert_failure(tombs_init(&t, mem, 1, 0, 1, KEEP, 0));
	free(mem);
}

enum { KEYS = 500 };

struct grave {
	uint64_t n, at_ns;
};

/* Against what was really put: a tombstone younger than keep_ns is there unless early folding was
 * announced; n is never below what the key had, by tombstone or by floor; floors only rise. */
static void run_model(uint64_t seed, uint64_t max_entries, bool expect_early)
{
	struct tombs t;
	void *mem = tombs_new(&t, max_entries, 0);
	static struct grave graves[KEYS];
	memset(graves, 0, sizeof graves);
	uint64_t floors[SLOTS] = {0}, largest[SLOTS] = {0};
	struct prng r;
	prng_seed(&r, seed);
	uint64_t now = 0, announced = 0;
	for (unsigned step = 0; step < 20000; step++) {
		now += prng_below(&r, 30) == 0 ? prng_below(&r, 200) : 0;
		uint64_t key = prng_below(&r, KEYS), hash = key * UINT64_C(0x9e3779b97f4a7c15);
		uint16_t slot = (uint16_t)(key % SLOTS);
		struct grave *g = &graves[key];
		uint64_t n = 1 + now + prng_below(&r, 100);
		tombs_prefetch(&t, hash);
		tombs_put(&t, hash, slot, n, now);
		g->n = n > g->n ? n : g->n;
		g->at_ns = now;
		largest[slot] = g->n > largest[slot] ? g->n : largest[slot];
		assert_true(tombs_get(&t, hash) >= n);
		if (prng_below(&r, 4) == 0)
			tombs_tick(&t, now);
		announced += tombs_forgot_early(&t, SLOT, now);
		if (step % 50 != 0)
			continue;
		tombs_validate(&t);
		tombs_tick(&t, now);
		assert_true(tombs_next_ns(&t) > now);
		for (uint64_t k = 0; k < KEYS; k++) {
			uint64_t got = tombs_get(&t, k * UINT64_C(0x9e3779b97f4a7c15));
			assert_true(got <= graves[k].n);
			assert_true(
				got >= graves[k].n || tombs_floor(&t, k % SLOTS) >= graves[k].n);
			if (graves[k].n != 0 && now - graves[k].at_ns < KEEP &&
				!tombs_forgot_early(&t, SLOT, now))
				assert_int_not_equal(got, 0);
		}
		for (uint16_t i = 0; i < SLOTS; i++) {
			assert_true(tombs_floor(&t, i) >= floors[i]);
			assert_true(tombs_floor(&t, i) <= largest[i]);
			floors[i] = tombs_floor(&t, i);
		}
	}
	assert_true(floors[0] > 0);
	assert_int_equal(announced != 0, expect_early);
	free(mem);
}

static void test_tomb_agrees_with_a_list(void **state)
{
	(void)state;
	run_model(1, 10000, false);
	run_model(2, 60, true);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_tomb_lives_one_to_two_keeps),
		cmocka_unit_test(test_tomb_is_raised_never_lowered),
		cmocka_unit_test(test_tomb_put_after_a_pause_lives_a_keep),
		cmocka_unit_test(test_tomb_full_folds_early_and_says_so),
		cmocka_unit_test(test_tomb_crowded_segment_folds_early),
		cmocka_unit_test(test_tomb_floors_are_raised_for_a_restart),
		cmocka_unit_test(test_tomb_a_floor_of_a_restart_is_no_forgetting),
		cmocka_unit_test(test_tomb_top_covers_graves_and_floor),
		cmocka_unit_test(test_tomb_refuses_misuse),
		cmocka_unit_test(test_tomb_agrees_with_a_list),
	};
	return cmocka_run_group_tests_name("tomb", tests, NULL, NULL);
}
