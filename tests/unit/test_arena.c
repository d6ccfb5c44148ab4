#include "core/arena.h"

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

enum { RANGE_BYTES = 1 << 20, RANGE_UNITS = RANGE_BYTES / ARENA_UNIT };

static int setup(void **state)
{
	struct arena *a = malloc(sizeof *a);
	void *mem = aligned_alloc(64, RANGE_BYTES);
	if (a == NULL || mem == NULL)
		return -1;
	arena_init(a, mem, RANGE_BYTES);
	*state = a;
	return 0;
}

static int teardown(void **state)
{
	struct arena *a = *state;
	free(a->base);
	free(a);
	return 0;
}

static void test_arena_block_sizes_waste_little(void **state)
{
	(void)state;
	size_t last = 0;
	unsigned classes = 0;
	for (size_t bytes = 1; bytes <= ARENA_BLOCK_MAX; bytes++) {
		size_t block = arena_block_bytes(bytes);
		assert_true(block >= bytes && block >= last);
		assert_int_equal(block % ARENA_UNIT, 0);
		if (bytes <= 512)
			assert_true(block - bytes < ARENA_UNIT);
		else
			assert_true(block - bytes < bytes / 4);
		assert_int_equal(arena_block_bytes(block), block);
		classes += block != last;
		last = block;
	}
	assert_int_equal(last, ARENA_BLOCK_MAX);
	assert_int_equal(classes, ARENA_CLASSES);
}

static void test_arena_refuses_impossible_sizes(void **state)
{
	struct arena *a = *state;
	expect_assert_failure(arena_alloc(a, 0));
	expect_assert_failure(arena_alloc(a, ARENA_BLOCK_MAX + 1));
	expect_assert_failure(arena_block_bytes(SIZE_MAX));
	expect_assert_failure(arena_free(a, 0, 32));
	expect_assert_failure(arena_free(a, 2, 32));
	const uint32_t ref = arena_alloc(a, 64);
	expect_assert_failure(arena_free(a, ref + 2, 64));
	assert_true(arena_alloc(a, 16384) > ref);
	const uint32_t last = arena_alloc(a, 64);
	expect_assert_failure(arena_free(a, last, 16384)); /* reaches past what was handed out */
	expect_assert_failure(arena_init(a, a->base + 1, 4096));
}

static void test_arena_empty_range_gives_nothing(void **state)
{
	(void)state;
	_Alignas(64) uint8_t mem[3 * ARENA_UNIT];
	struct arena a;
	for (size_t bytes = 0; bytes < 3 * ARENA_UNIT; bytes++) {
		arena_init(&a, mem, bytes);
		assert_int_equal(arena_alloc(&a, 1), 0);
		arena_validate(&a);
	}
	arena_init(&a, mem, sizeof mem);
	assert_int_equal(arena_alloc(&a, 33), 0);
	assert_int_equal(arena_alloc(&a, 32), 2);
	assert_int_equal(arena_alloc(&a, 32), 0);
	arena_validate(&a);
}

static void test_arena_line_blocks_are_aligned(void **state)
{
	struct arena *a = *state;
	struct prng r;
	prng_seed(&r, 7);
	for (unsigned i = 0; i < 1000; i++) {
		size_t bytes = 1 + prng_below(&r, 700);
		uint32_t ref = arena_alloc(a, bytes);
		if (ref != 0 && arena_block_bytes(bytes) % 64 == 0)
			assert_int_equal((uintptr_t)arena_at(a, ref) % 64, 0);
	}
	arena_validate(a);
}

/* One class uses up the range, all but the two units kept back and less than one block. */
static void test_arena_fills_to_the_end_and_again(void **state)
{
	struct arena *a = *state;
	static const size_t sizes[] = {1, 64, 96, 480, 512, 513, 4096, 4097, ARENA_BLOCK_MAX};
	for (unsigned s = 0; s < sizeof sizes / sizeof *sizes; s++) {
		arena_init(a, a->base, RANGE_BYTES);
		size_t units = arena_block_bytes(sizes[s]) / ARENA_UNIT;
		uint32_t expected = (uint32_t)((RANGE_UNITS - 2) / units);
		uint32_t *refs = calloc(expected, sizeof *refs);
		assert_non_null(refs);
		for (unsigned round = 0; round < 3; round++) {
			for (uint32_t i = 0; i < expected; i++) {
				refs[i] = arena_alloc(a, sizes[s]);
				assert_true(refs[i] >= 2 && refs[i] + units <= RANGE_UNITS);
			}
			assert_int_equal(arena_alloc(a, sizes[s]), 0);
			assert_int_equal(a->used_bytes, (uint64_t)expected * units * ARENA_UNIT);
			arena_validate(a);
			for (uint32_t i = 0; i < expected; i++)
				arena_free(a, refs[i], sizes[s]);
			assert_int_equal(a->used_bytes, 0);
			arena_validate(a);
		}
		free(refs);
	}
}

struct block {
	uint32_t ref;
	uint32_t bytes;
	uint8_t fill;
};

static void check_block(const struct arena *a, const struct block *b)
{
	const uint8_t *p = arena_at(a, b->ref);
	for (uint32_t i = 0; i < b->bytes; i++)
		assert_int_equal(p[i], b->fill);
}

/* Blocks keep what was written to them, so no two overlap. */
static void test_arena_random_blocks_keep_their_content(void **state)
{
	struct arena *a = *state;
	struct prng r;
	prng_seed(&r, 42);
	enum { BLOCKS = 1500 };
	static struct block blocks[BLOCKS];
	memset(blocks, 0, sizeof blocks);
	uint64_t used = 0;
	unsigned refused = 0;
	for (unsigned step = 0; step < 30000; step++) {
		struct block *b = &blocks[prng_below(&r, BLOCKS)];
		if (b->ref != 0) {
			check_block(a, b);
			size_t block = arena_block_bytes(b->bytes);
			/* Any size of the same class names the block. */
			arena_free(a, b->ref, prng_below(&r, 2) ? b->bytes : block);
			used -= block;
			b->ref = 0;
		} else {
			uint64_t below = prng_below(&r, 4) ? 300 : ARENA_BLOCK_MAX;
			b->bytes = (uint32_t)(1 + prng_below(&r, below));
			b->fill = (uint8_t)prng_next(&r);
			b->ref = arena_alloc(a, b->bytes);
			refused += b->ref == 0;
			if (b->ref == 0)
				continue;
			memset(arena_at(a, b->ref), b->fill, arena_block_bytes(b->bytes));
			used += arena_block_bytes(b->bytes);
		}
		assert_int_equal(a->used_bytes, used);
		if (step % 512 == 0)
			arena_validate(a);
	}
	assert_true(refused > 0);
	for (unsigned i = 0; i < BLOCKS; i++) {
		if (blocks[i].ref != 0)
			check_block(a, &blocks[i]);
	}
	arena_validate(a);
}

static void test_arena_validate_sees_a_broken_list(void **state)
{
	struct arena *a = *state;
	uint32_t one = arena_alloc(a, 64), two = arena_alloc(a, 64);
	arena_free(a, one, 64);
	arena_validate(a);
	a->free[1] = a->next;
	expect_assert_failure(arena_validate(a));
	a->free[1] = two; /* in use: its first word is taken for a link */
	*(uint32_t *)arena_at(a, two) = two;
	expect_assert_failure(arena_validate(a));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_arena_block_sizes_waste_little),
		cmocka_unit_test_setup_teardown(
			test_arena_refuses_impossible_sizes, setup, teardown),
		cmocka_unit_test(test_arena_empty_range_gives_nothing),
		cmocka_unit_test_setup_teardown(
			test_arena_line_blocks_are_aligned, setup, teardown),
		cmocka_unit_test_setup_teardown(
			test_arena_fills_to_the_end_and_again, setup, teardown),
		cmocka_unit_test_setup_teardown(
			test_arena_random_blocks_keep_their_content, setup, teardown),
		cmocka_unit_test_setup_teardown(
			test_arena_validate_sees_a_broken_list, setup, teardown),
	};
	return cmocka_run_group_tests_name("arena", tests, NULL, NULL);
}
