#include "base/buf.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

_Noreturn void check_fail(const char *condition, const char *file, int line);

/* In place of the weak one of src/base, so that expect_assert_failure() sees a failed CHECK. */
_Noreturn void check_fail(const char *condition, const char *file, int line)
{
	mock_assert(0, condition, file, line);
	abort();
}

static void test_buf_appends_and_grows(void **state)
{
	(void)state;
	struct buf b;
	buf_init(&b, 0);
	for (unsigned i = 0; i < 5000; i++) {
		uint8_t byte = (uint8_t)i;
		assert_int_equal(buf_append(&b, &byte, 1), 0);
	}
	assert_int_equal(b.len, 5000);
	for (unsigned i = 0; i < 5000; i++)
		assert_int_equal(b.data[i], (uint8_t)i);
	buf_fini(&b);
	assert_null(b.data);
	assert_int_equal(b.len, 0);
}

static void test_buf_keeps_its_ceiling(void **state)
{
	(void)state;
	struct buf b;
	buf_init(&b, 1000);
	uint8_t block[600] = {1};
	assert_int_equal(buf_append(&b, block, 600), 0);
	assert_int_equal(buf_append(&b, block, 401), -ENOBUFS);
	assert_int_equal(b.len, 600);
	assert_int_equal(buf_append(&b, block, 400), 0);
	assert_int_equal(b.len, 1000);
	assert_true(b.cap <= 1000);
	assert_int_equal(buf_append(&b, block, 1), -ENOBUFS);
	assert_int_equal(buf_append(&b, block, 0), 0);
	assert_null(buf_reserve(&b, 1));
	buf_fini(&b);
	assert_int_equal(b.max, 1000);
}

static void test_buf_refuses_sizes_that_wrap(void **state)
{
	(void)state;
	struct buf b;
	buf_init(&b, 0);
	assert_int_equal(buf_append(&b, "x", 1), 0);
	assert_null(buf_reserve(&b, SIZE_MAX));
	assert_null(buf_reserve(&b, SIZE_MAX - 1));
	assert_int_equal(b.len, 1);
	assert_memory_equal(b.data, "x", 1);
	buf_fini(&b);
}

static void test_buf_reserve_gives_room_without_using_it(void **state)
{
	(void)state;
	struct buf b;
	buf_init(&b, 0);
	uint8_t *p = buf_reserve(&b, 700);
	assert_non_null(p);
	assert_int_equal(b.len, 0);
	memset(p, 7, 700);
	b.len += 700;
	assert_ptr_equal(buf_reserve(&b, 0), b.data + 700);
	buf_fini(&b);
}

static void test_buf_drop_front_moves_the_rest(void **state)
{
	(void)state;
	struct buf b;
	buf_init(&b, 0);
	assert_int_equal(buf_append(&b, "abcdef", 6), 0);
	buf_drop_front(&b, 0);
	assert_int_equal(b.len, 6);
	buf_drop_front(&b, 4);
	assert_int_equal(b.len, 2);
	assert_memory_equal(b.data, "ef", 2);
	buf_drop_front(&b, 2);
	assert_int_equal(b.len, 0);
	expect_assert_failure(buf_drop_front(&b, 1));
	buf_fini(&b);
}

static void test_buf_shrink_gives_back_only_empty_large_ones(void **state)
{
	(void)state;
	struct buf b;
	buf_init(&b, 0);
	uint8_t block[4000] = {0};
	assert_int_equal(buf_append(&b, block, sizeof block), 0);
	buf_shrink(&b, 512);
	assert_int_equal(b.len, sizeof block);
	buf_drop_front(&b, sizeof block);
	buf_shrink(&b, 1 << 20);
	assert_non_null(b.data);
	buf_shrink(&b, 512);
	assert_null(b.data);
	assert_int_equal(b.cap, 0);
	assert_int_equal(buf_append(&b, "again", 5), 0);
	buf_fini(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_buf_appends_and_grows),
		cmocka_unit_test(test_buf_keeps_its_ceiling),
		cmocka_unit_test(test_buf_refuses_sizes_that_wrap),
		cmocka_unit_test(test_buf_reserve_gives_room_without_using_it),
		cmocka_unit_test(test_buf_drop_front_moves_the_rest),
		cmocka_unit_test(test_buf_shrink_gives_back_only_empty_large_ones),
	};
	return cmocka_run_group_tests_name("buf", tests, NULL, NULL);
}
