/* Client names are stored once, told by HOLDER, and do not pile up. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>

#include "cluster_fixture.h"
#include "core/internal.h"

static void lock_as(struct fixture *f, const char *client, const char *key)
{
	uint64_t tag = fixture_op(f, 1,
		(struct op_request){.kind = OP_LOCK,
			.key = bytes_str(key),
			.value = bytes_str("v"),
			.ttl_ms = 60000,
			.has_ttl = true,
			.client = bytes_str(client)});
	assert_int_equal(fixture_outcome(f, tag), OUT_OK);
}

static void test_names_one_client_is_stored_once(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, NULL);
	char key[16];
	for (int i = 0; i < 100; i++) {
		(void)snprintf(key, sizeof key, "k%d", i);
		lock_as(f, i % 2 == 0 ? "even" : "odd", key);
	}
	assert_int_equal(f->node[2].engine->names.count, 2);
	uint64_t tag = fixture_read(f, 3, "k7", true);
	assert_int_equal(fixture_outcome(f, tag), OUT_OK);
	assert_string_equal(fixture_result(f, tag)->client, "odd");
	fixture_free(f);
}

static void test_names_survive_a_change_of_value(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, NULL);
	lock_as(f, "writer", "k");
	assert_int_equal(
		fixture_outcome(f, fixture_update(f, 2, "k", "v", "a longer value")), OUT_OK);
	uint64_t tag = fixture_read(f, 1, "k", false);
	assert_int_equal(fixture_outcome(f, tag), OUT_OK);
	assert_string_equal(fixture_result(f, tag)->client, "writer");
	fixture_free(f);
}

static void test_names_without_a_lease_are_swept(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(1, NULL);
	struct engine *e = f->node[1].engine;
	char client[32];
	for (int i = 0; i < 3 * NAMES_IDLE_MAX; i++) {
		(void)snprintf(client, sizeof client, "client-%d", i);
		lock_as(f, client, "k");
		f->n_results = 0;
		assert_int_equal(fixture_outcome(f, fixture_release(f, 1, "k", "v")), OUT_OK);
		f->n_results = 0;
	}
	fixture_run_ms(f, 1000);
	assert_in_range(e->names_idle, 1, NAMES_IDLE_MAX);
	assert_int_equal(e->names.count, e->names_idle);
	fixture_free(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_names_one_client_is_stored_once),
		cmocka_unit_test(test_names_survive_a_change_of_value),
		cmocka_unit_test(test_names_without_a_lease_are_swept),
	};
	return cmocka_run_group_tests_name("engine_names", tests, NULL, NULL);
}
