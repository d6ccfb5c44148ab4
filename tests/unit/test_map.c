#include "core/map.h"

#include "base/check.h"
#include "base/prng.h"

#include <errno.h>
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

static void *map_new_of(struct map *m, uint64_t max_entries, unsigned parts)
{
	size_t bytes = (map_memory_bytes(max_entries, parts) + 63) / 64 * 64;
	void *mem = aligned_alloc(64, bytes);
	assert_non_null(mem);
	memset(mem, 0, bytes);
	map_init(m, mem, max_entries, parts);
	return mem;
}

static void *map_new(struct map *m, uint64_t max_entries)
{
	return map_new_of(m, max_entries, 1);
}

static uint64_t value_of(const struct map *m, uint64_t hash)
{
	const struct map_slot *slot = map_find(m, hash);
	return slot != NULL ? slot->value : UINT64_MAX;
}

static void test_map_finds_what_was_inserted(void **state)
{
	(void)state;
	struct map m;
	void *mem = map_new(&m, 100);
	assert_null(map_find(&m, 0));
	assert_int_equal(map_insert(&m, 5, 50), 0);
	assert_int_equal(map_insert(&m, 0, 10), 0);
	assert_int_equal(map_insert(&m, UINT64_MAX, 30), 0);
	assert_int_equal(value_of(&m, 5), 50);
	assert_int_equal(value_of(&m, 0), 10);
	assert_int_equal(value_of(&m, UINT64_MAX), 30);
	assert_null(map_find(&m, 6));
	map_prefetch(&m, 5);
	map_find(&m, 5)->value = 51;
	assert_int_equal(value_of(&m, 5), 51);
	assert_int_equal(m.count, 3);
	map_validate(&m);

	map_erase(&m, 0, map_find(&m, 0));
	assert_null(map_find(&m, 0));
	assert_null(map_find(&m, 1));
	expect_assert_failure(map_erase(&m, 6, map_find(&m, 5)));
	expect_assert_failure(map_erase(&m, 6, NULL));
	map_validate(&m);
	free(mem);
}

static void test_map_duplicates_come_one_after_the_other(void **state)
{
	(void)state;
	struct map m;
	void *mem = map_new(&m, 1000);
	/* Homes at the end of the segment: the probe wraps. */
	const uint64_t hash = UINT64_C(0xabcdef01ff000003), neighbour = hash + 1;
	for (uint64_t i = 0; i < 20; i++) {
		assert_int_equal(map_insert(&m, hash, i), 0);
		assert_int_equal(map_insert(&m, neighbour, 100 + i), 0);
	}
	uint64_t seen = 0;
	struct map_slot *slot = map_find(&m, hash);
	for (; slot != NULL; slot = map_next(&m, hash, slot)) {
		assert_true(slot->value < 20);
		seen |= UINT64_C(1) << slot->value;
	}
	assert_int_equal(seen, (UINT64_C(1) << 20) - 1);
	for (unsigned left = 20; left > 0; left--) {
		map_erase(&m, hash, map_find(&m, hash));
		map_validate(&m);
	}
	assert_null(map_find(&m, hash));
	assert_non_null(map_find(&m, neighbour));
	assert_int_equal(m.count, 20);
	free(mem);
}

static void test_map_one_hash_fills_one_segment_only(void **state)
{
	(void)state;
	struct map m;
	void *mem = map_new(&m, 10000);
	for (unsigned i = 0; i < MAP_SEGMENT_SLOTS - 1; i++)
		assert_int_equal(map_insert(&m, 77, i), 0);
	struct map before = m;
	assert_int_equal(map_insert(&m, 77, 1), -ENOSPC);
	assert_memory_equal(&before, &m, sizeof m);
	assert_int_equal(m.n_segments, 1);
	map_validate(&m);
	assert_null(map_find(&m, 78)); /* ends, though all but one slot are full */
	assert_int_equal(map_insert(&m, 77 | UINT64_C(1) << 63, 5), 0);
	assert_int_equal(value_of(&m, 77 | UINT64_C(1) << 63), 5);
	assert_int_equal(map_insert(&m, 77, 1), -ENOSPC);
	map_erase(&m, 77, map_find(&m, 77));
	assert_int_equal(map_insert(&m, 77, 1), 0);
	map_validate(&m);
	free(mem);
}

/* Hashes that differ in their last directory bit only: split all the way down, once. */
static void test_map_splits_to_the_deepest_bit(void **state)
{
	(void)state;
	struct map m;
	void *mem = map_new(&m, 10000);
	uint64_t bit = UINT64_C(1) << (64 - m.depth_max);
	for (unsigned i = 0; i < 150; i++) {
		assert_int_equal(map_insert(&m, (uint64_t)i << 24, i), 0);
		assert_int_equal(map_insert(&m, bit | (uint64_t)i << 24, i), 0);
	}
	assert_int_equal(m.depth, m.depth_max);
	map_validate(&m);
	for (unsigned i = 0; i < 150; i++) {
		assert_int_equal(value_of(&m, (uint64_t)i << 24), i);
		assert_int_equal(value_of(&m, bit | (uint64_t)i << 24), i);
	}
	free(mem);
}

static void test_map_holds_what_it_was_sized_for(void **state)
{
	(void)state;
	static const uint64_t sizes[] = {0, 1, 191, 192, 193, 1000, 30000};
	for (unsigned s = 0; s < sizeof sizes / sizeof *sizes; s++) {
		struct map m;
		void *mem = map_new(&m, sizes[s]);
		struct prng r;
		prng_seed(&r, sizes[s]);
		for (uint64_t i = 0; i < sizes[s]; i++)
			assert_int_equal(map_insert(&m, prng_next(&r), i), 0);
		map_validate(&m);
		assert_true(map_used_bytes(&m) <= map_memory_bytes(sizes[s], 1));
		prng_seed(&r, sizes[s]);
		for (uint64_t i = 0; i < sizes[s]; i++)
			assert_int_equal(value_of(&m, prng_next(&r)), i);
		free(mem);
	}
	expect_assert_failure(map_memory_bytes(MAP_ENTRIES_MAX + 1, 1));
	assert_true(
		map_memory_bytes(MAP_ENTRIES_MAX, 1) > MAP_ENTRIES_MAX * sizeof(struct map_slot));
}

/* A shard of 64 has each 64th of the range of hashes, and they have to find room all the same. */
static void test_map_holds_a_part_of_the_range(void **state)
{
	(void)state;
	enum { ENTRIES = 30000, PARTS = 64, SLOTS = 128 };
	struct map m;
	void *mem = map_new_of(&m, ENTRIES, PARTS);
	struct prng r;
	prng_seed(&r, 5);
	for (uint64_t i = 0; i < ENTRIES; i++) {
		uint64_t slot = 3 + prng_below(&r, SLOTS / PARTS) * PARTS;
		uint64_t hash = slot << 57 | prng_next(&r) >> 7;
		assert_int_equal(map_insert(&m, hash, i), 0);
	}
	map_validate(&m);
	assert_true(m.n_segments < m.max_segments);
	/* As well filled as hashes from the whole range would be. */
	assert_true(m.n_segments < ENTRIES / 90);
	free(mem);
}

/* Without a segment left the others fill up; what is inside stays reachable after the refusal. */
static void test_map_overfull_refuses_and_stays_whole(void **state)
{
	(void)state;
	struct map m;
	void *mem = map_new(&m, 1000);
	struct prng r;
	prng_seed(&r, 3);
	uint64_t taken = 0;
	int rc = 0;
	while (rc == 0) {
		rc = map_insert(&m, prng_next(&r), taken);
		taken += rc == 0;
		assert_true(taken < 100000);
	}
	assert_int_equal(rc, -ENOSPC);
	assert_true(taken >= 1000);
	assert_int_equal(m.count, taken);
	assert_int_equal(m.n_segments, m.max_segments);
	map_validate(&m);
	prng_seed(&r, 3);
	for (uint64_t i = 0; i < taken; i++)
		assert_int_equal(value_of(&m, prng_next(&r)), i);
	free(mem);
}

struct pair {
	uint64_t hash, value;
};

enum { PAIRS = 4000 };

struct model {
	struct pair v[PAIRS];
	unsigned n;
};

static unsigned model_count(const struct model *model, uint64_t hash)
{
	unsigned n = 0;
	for (unsigned i = 0; i < model->n; i++)
		n += model->v[i].hash == hash;
	return n;
}

/* The entry with this hash and this value. */
static struct map_slot *find_pair(const struct map *m, struct pair p)
{
	struct map_slot *slot = map_find(m, p.hash);
	while (slot != NULL && slot->value != p.value)
		slot = map_next(m, p.hash, slot);
	return slot;
}

static uint64_t crowded_hash(struct prng *r)
{
	/* Few homes and few prefixes: long probes, duplicates, wrapped clusters. */
	static const uint8_t homes[] = {0, 1, 100, 254, 255};
	uint64_t hash = (uint64_t)homes[prng_below(r, sizeof homes)] << 24;
	return hash | prng_below(r, 256) << 56 | prng_below(r, 4);
}

static void run_model(uint64_t seed, bool crowded, unsigned steps)
{
	struct map m;
	void *mem = map_new(&m, PAIRS);
	static struct model model;
	model.n = 0;
	struct prng r;
	prng_seed(&r, seed);
	for (unsigned step = 0; step < steps; step++) {
		bool growing = step / 6000 % 2 == 0;
		if (model.n < PAIRS && prng_below(&r, 10) < (growing ? 7U : 3U)) {
			struct pair p = {crowded ? crowded_hash(&r) : prng_next(&r), step};
			if (map_insert(&m, p.hash, p.value) == 0)
				model.v[model.n++] = p;
		} else if (model.n > 0) {
			unsigned victim = (unsigned)prng_below(&r, model.n);
			struct map_slot *slot = find_pair(&m, model.v[victim]);
			assert_non_null(slot);
			map_erase(&m, model.v[victim].hash, slot);
			assert_null(find_pair(&m, model.v[victim]));
			model.v[victim] = model.v[--model.n];
		}
		assert_int_equal(m.count, model.n);
		if (step % 997 != 0)
			continue;
		map_validate(&m);
		for (unsigned i = 0; i < model.n; i++)
			assert_non_null(find_pair(&m, model.v[i]));
		uint64_t hash = crowded ? crowded_hash(&r) : prng_next(&r);
		unsigned n = 0;
		struct map_slot *slot = map_find(&m, hash);
		for (; slot != NULL; slot = map_next(&m, hash, slot))
			n++;
		assert_int_equal(n, model_count(&model, hash));
	}
	assert_true(m.n_segments > 1);
	free(mem);
}

static void test_map_agrees_with_a_list(void **state)
{
	(void)state;
	run_model(1, false, 30000);
	run_model(2, true, 30000);
}

static void test_map_clear_keeps_memory_and_forgets(void **state)
{
	(void)state;
	struct map m;
	void *mem = map_new(&m, 5000);
	struct prng r;
	size_t used = 0;
	for (unsigned round = 0; round < 4; round++) {
		prng_seed(&r, round);
		for (uint64_t i = 0; i < 5000; i++)
			assert_int_equal(map_insert(&m, prng_next(&r), i), 0);
		map_validate(&m);
		assert_true(map_used_bytes(&m) >= used);
		used = map_used_bytes(&m);
		map_clear(&m);
		map_validate(&m);
		assert_int_equal(m.count, 0);
		assert_true(map_used_bytes(&m) > 5000 * sizeof(struct map_slot));
		prng_seed(&r, round);
		for (uint64_t i = 0; i < 5000; i++)
			assert_null(map_find(&m, prng_next(&r)));
	}
	free(mem);
}

enum { SCANNED = 3000 };

struct scan {
	unsigned seen[2 * SCANNED];
	unsigned calls;
};

static void note(void *arg, struct map_slot slot)
{
	struct scan *s = arg;
	assert_true(slot.value < 2 * SCANNED);
	s->seen[slot.value]++;
}

static void test_map_scan_sees_everything_once(void **state)
{
	(void)state;
	struct map m;
	void *mem = map_new(&m, SCANNED);
	static struct scan s;
	memset(&s, 0, sizeof s);
	assert_int_equal(map_scan(&m, 0, note, &s), 0);
	struct prng r;
	prng_seed(&r, 11);
	for (uint64_t i = 0; i < SCANNED; i++)
		assert_int_equal(map_insert(&m, prng_next(&r), i), 0);
	uint64_t cursor = 0;
	do {
		uint64_t next = map_scan(&m, cursor, note, &s);
		assert_true(next <= UINT32_MAX && (next == 0 || next > cursor));
		cursor = next;
		s.calls++;
	} while (cursor != 0);
	for (unsigned i = 0; i < SCANNED; i++)
		assert_int_equal(s.seen[i], 1);
	assert_int_equal(s.calls, m.n_segments);
	free(mem);
}

/* What stays is seen, though the table grows tenfold under the scan. */
static void test_map_scan_misses_nothing_while_splitting(void **state)
{
	(void)state;
	struct map m;
	void *mem = map_new(&m, 2 * SCANNED);
	static struct scan s;
	memset(&s, 0, sizeof s);
	struct prng r;
	prng_seed(&r, 12);
	uint64_t n = 0;
	for (; n < 500; n++)
		assert_int_equal(map_insert(&m, prng_next(&r), n), 0);
	uint64_t cursor = 0;
	do {
		cursor = map_scan(&m, cursor, note, &s);
		for (unsigned i = 0; i < 300 && n < 2 * SCANNED; i++, n++)
			assert_int_equal(map_insert(&m, prng_next(&r), n), 0);
	} while (cursor != 0);
	assert_true(n > SCANNED);
	for (unsigned i = 0; i < 500; i++)
		assert_true(s.seen[i] >= 1);
	free(mem);
}

static void test_map_scan_takes_any_cursor(void **state)
{
	(void)state;
	struct map m;
	void *mem = map_new(&m, SCANNED);
	static struct scan s;
	struct prng r;
	prng_seed(&r, 13);
	for (uint64_t i = 0; i < SCANNED; i++)
		assert_int_equal(map_insert(&m, prng_next(&r), i), 0);
	assert_int_equal(map_scan(&m, UINT64_C(1) << 32, note, &s), 0);
	assert_int_equal(map_scan(&m, UINT64_MAX, note, &s), 0);
	for (unsigned i = 0; i < SCANNED; i++)
		assert_int_equal(s.seen[i], 0);
	assert_int_equal(map_scan(&m, UINT32_MAX, note, &s), 0);
	for (unsigned i = 0; i < 1000; i++) {
		uint64_t cursor = prng_next(&r) >> 32, next = map_scan(&m, cursor, note, &s);
		assert_true(next == 0 || (next > cursor && next <= UINT32_MAX));
	}
	free(mem);
}

static void test_map_validate_sees_damage(void **state)
{
	(void)state;
	struct map m;
	void *mem = map_new(&m, 1000);
	for (uint64_t i = 0; i < 1000; i++)
		assert_int_equal(map_insert(&m, (i << 54) | (i % 7 << 24), i), 0);
	map_validate(&m);
	m.count++;
	expect_assert_failure(map_validate(&m));
	m.count--;
	uint64_t hash = m.segments[0].hash;
	m.segments[0].hash = ~hash;
	expect_assert_failure(map_validate(&m));
	m.segments[0].hash = 0; /* others were probed past it */
	m.seg_count[0]--;
	m.count--;
	expect_assert_failure(map_validate(&m));
	m.segments[0].hash = hash;
	m.seg_count[0]++;
	m.count++;
	map_validate(&m);
	m.dir[0] = m.dir[((size_t)1 << m.depth) - 1];
	expect_assert_failure(map_validate(&m));
	free(mem);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_map_finds_what_was_inserted),
		cmocka_unit_test(test_map_duplicates_come_one_after_the_other),
		cmocka_unit_test(test_map_one_hash_fills_one_segment_only),
		cmocka_unit_test(test_map_splits_to_the_deepest_bit),
		cmocka_unit_test(test_map_holds_what_it_was_sized_for),
		cmocka_unit_test(test_map_holds_a_part_of_the_range),
		cmocka_unit_test(test_map_overfull_refuses_and_stays_whole),
		cmocka_unit_test(test_map_agrees_with_a_list),
		cmocka_unit_test(test_map_clear_keeps_memory_and_forgets),
		cmocka_unit_test(test_map_scan_sees_everything_once),
		cmocka_unit_test(test_map_scan_misses_nothing_while_splitting),
		cmocka_unit_test(test_map_scan_takes_any_cursor),
		cmocka_unit_test(test_map_validate_sees_damage),
	};
	return cmocka_run_group_tests_name("map", tests, NULL, NULL);
}
