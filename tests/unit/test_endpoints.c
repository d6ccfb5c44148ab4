#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "../../tools/endpoints.h"

static void test_endpoints_valid_lists(void **state)
{
	static const char *const lists[] = {"127.0.0.1:7401", "a:1,b:65535", "[::1]:7401",
		"some.host:7401,[fe80::1]:7402,10.0.0.1:7403"};

	for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) {
		if (!endpoints_valid(lists[i]))
			fail_msg("%s", lists[i]);
	}
}

static void test_endpoints_invalid_lists(void **state)
{
	static const char *const lists[] = {"", "a", ":7401", "a:", "a:x", "a:0", "a:65536", "a:+1",
		"a:1x", "a:1,", "a:1,,b:2", ",a:1", "a:1,b", "[::1:7401", "[]:7401"};

	for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) {
		/* One comma at the end is nothing missing. */
		if (endpoints_valid(lists[i]) != (strcmp(lists[i], "a:1,") == 0))
			fail_msg("%s", lists[i]);
	}
	char huge[400];
	memset(huge, 'a', sizeof huge);
	memcpy(huge + sizeof huge - 3, ":1", 3);
	assert_false(endpoints_valid(huge));
}

static void test_endpoints_resolve_keeps_order_and_numbers(void **state)
{
	static struct endpoints e;

	endpoints_resolve(&e, "127.0.0.2:7402,[::1]:7403,127.0.0.1:7401");
	assert_int_equal(e.n, 3);
	assert_string_equal(e.address[0], "127.0.0.2:7402");
	assert_string_equal(e.address[1], "[::1]:7403");
	assert_string_equal(e.address[2], "127.0.0.1:7401");
}

static void test_endpoints_resolve_looks_names_up(void **state)
{
	static struct endpoints e;

	endpoints_resolve(&e, "localhost:7401");
	assert_true(e.n >= 1);
	for (size_t i = 0; i < e.n; i++)
		assert_true(strcmp(e.address[i], "127.0.0.1:7401") == 0 ||
			    strcmp(e.address[i], "[::1]:7401") == 0);
}

static void test_endpoints_resolve_keeps_a_name_without_address(void **state)
{
	static struct endpoints e;
	/* Longer than a label may be, so that nobody is asked. */
	char list[] = "no-such-host-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa:7401,"
		      "127.0.0.1:7402";

	endpoints_resolve(&e, list);
	assert_int_equal(e.n, 2);
	*strchr(list, ',') = '\0';
	assert_string_equal(e.address[0], list);
}

static void test_endpoints_resolve_stops_at_its_bound(void **state)
{
	static struct endpoints e;
	char list[(ENDPOINTS_MAX + 5) * 12] = "127.0.0.1:1";

	for (int i = 0; i < ENDPOINTS_MAX + 3; i++)
		strcat(list, ",127.0.0.1:1");
	endpoints_resolve(&e, list);
	assert_int_equal(e.n, ENDPOINTS_MAX);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_endpoints_valid_lists),
		cmocka_unit_test(test_endpoints_invalid_lists),
		cmocka_unit_test(test_endpoints_resolve_keeps_order_and_numbers),
		cmocka_unit_test(test_endpoints_resolve_looks_names_up),
		cmocka_unit_test(test_endpoints_resolve_keeps_a_name_without_address),
		cmocka_unit_test(test_endpoints_resolve_stops_at_its_bound),
	};
	return cmocka_run_group_tests_name("endpoints", tests, NULL, NULL);
}
