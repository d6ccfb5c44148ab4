/* OBSERVE: who looks on is told of each thing that happens to a key, in order. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "cluster_fixture.h"

static uint64_t observe(struct fixture *f, unsigned id, const char *key)
{
	return fixture_op(f, id, (struct op_request){.kind = OP_OBSERVE, .key = bytes_str(key)});
}

/* "Gx Uy R": what @tag was told, in order; values behind the letters. */
static const char *told(const struct fixture *f, uint64_t tag)
{
	static char text[512];
	size_t n = 0;
	text[0] = '\0';
	for (unsigned i = 0; i < f->n_results; i++) {
		const struct fixture_result *r = &f->results[i];
		if (r->r.tag != tag)
			continue;
		if (r->r.outcome != OUT_OK)
			n += (size_t)snprintf(
				text + n, sizeof text - n, " outcome%d", r->r.outcome);
		else
			n += (size_t)snprintf(text + n, sizeof text - n, "%s%c%s", n > 0 ? " " : "",
				"GUREL"[r->r.event], r -> value);
	}
	return text;
}

static uint64_t token_told(const struct fixture *f, uint64_t tag, enum observed event)
{
	uint64_t token = 0;
	for (unsigned i = 0; i < f->n_results; i++)
		if (f->results[i].r.tag == tag && f->results[i].r.event == event)
			token = f->results[i].r.token;
	return token;
}

static void test_observe_a_life(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, NULL);
	uint64_t tag[4];
	for (unsigned id = 1; id <= 3; id++) {
		tag[id] = observe(f, id, "k");
		assert_string_equal(told(f, tag[id]), "R");
		assert_int_equal(fixture_stats(f, id).observers, 1);
		assert_int_equal(fixture_stats(f, id).waiters, 0);
	}
	uint64_t lock = fixture_lock(f, 1, "k", "a", 1000);
	assert_int_equal(fixture_outcome(f, fixture_update(f, 2, "k", "a", "b")), OUT_OK);
	assert_int_equal(fixture_outcome(f, fixture_extend(f, 3, "k", "b", 2000)), OUT_OK);
	assert_int_equal(fixture_outcome(f, fixture_update(f, 2, "k", "b", "c")), OUT_OK);
	assert_int_equal(fixture_outcome(f, fixture_release(f, 3, "k", "x")), OUT_NOTOWNER);
	fixture_run_ms(f, 1100); /* as long as it was to last at first */
	assert_int_equal(fixture_outcome(f, fixture_release(f, 3, "k", "c")), OUT_OK);
	uint64_t next = fixture_lock(f, 2, "k", "d", 500);
	fixture_run_ms(f, 1000);
	for (unsigned id = 1; id <= 3; id++) {
		assert_string_equal(told(f, tag[id]), "R Ga Ub Uc R Gd E");
		assert_int_equal(token_told(f, tag[id], OBSERVED_RELEASED),
			fixture_result(f, lock)->r.token);
		assert_int_equal(
			token_told(f, tag[id], OBSERVED_EXPIRED), fixture_result(f, next)->r.token);
		assert_string_equal(told(f, observe(f, id, "other")), "R");
		engine_validate(f->node[id].engine);
	}
	fixture_free(f);
}

static void test_observe_tells_the_present_at_once(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, NULL);
	fixture_lock(f, 1, "k", "a", 60000);
	fixture_update(f, 2, "k", "a", "b");
	uint64_t late = observe(f, 3, "k");
	assert_string_equal(told(f, late), "Gb");
	fixture_run_ms(f, 3000);
	assert_string_equal(told(f, late), "Gb");
	fixture_free(f);
}

/* Released and taken again, as the next in line does. */
static void test_observe_sees_the_lock_handed_on(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, NULL);
	fixture_lock(f, 1, "k", "a", 60000);
	uint64_t tag = observe(f, 2, "k");
	uint64_t first = fixture_lock_wait(f, 2, "k", "b", 60000, 20000);
	uint64_t second = fixture_lock_wait(f, 3, "k", "c", 60000, 20000);
	fixture_release(f, 1, "k", "a");
	fixture_run_ms(f, 2000);
	bool b_first = fixture_result(f, first) != NULL;
	assert_true(b_first != (fixture_result(f, second) != NULL));
	assert_string_equal(told(f, tag), b_first ? "Ga R Gb" : "Ga R Gc");
	fixture_free(f);
}

static void test_observe_ends_with_its_client(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, NULL);
	uint64_t gone = observe(f, 1, "k");
	uint64_t stays = observe(f, 1, "k");
	fixture_cancel(f, 1, gone);
	fixture_lock(f, 1, "k", "a", 1000);
	assert_string_equal(told(f, gone), "R");
	assert_string_equal(told(f, stays), "R Ga");
	fixture_cancel(f, 1, stays);
	assert_int_equal(fixture_stats(f, 1).observers, 0);
	assert_int_equal(fixture_stats(f, 1).ops, 0);
	fixture_run_ms(f, 2000);
	assert_string_equal(told(f, stays), "R Ga");
	engine_validate(f->node[1].engine);
	fixture_free(f);
}

/* A master that starts again cannot tell, until it votes. */
static void test_observe_tells_when_it_cannot_tell(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, NULL);
	fixture_lock(f, 1, "k", "a", 60000);
	fixture_crash(f, 3);
	fixture_restart(f, 3);
	assert_string_equal(told(f, observe(f, 3, "k")), "L");
	fixture_resync(f, 3);
	uint64_t held = observe(f, 3, "k");
	uint64_t other = observe(f, 3, "other");
	fixture_run_ms(f, 2000);
	const char *present = strrchr(told(f, held), ' ');
	assert_string_equal(present == NULL ? told(f, held) : present + 1, "Ga");
	held = observe(f, 3, "k");
	other = observe(f, 3, "other");
	fixture_status(f, 3, NODE_QUARANTINE);
	assert_string_equal(told(f, held), "Ga L");
	assert_string_equal(told(f, other), "R L");
	fixture_status(f, 3, NODE_RESYNC);
	fixture_run_ms(f, 2000);
	assert_string_equal(told(f, held), "Ga L Ga");
	assert_string_equal(told(f, other), "R L R");
	fixture_free(f);
}

static void few_operations(struct engine_config *cfg)
{
	cfg->max_ops = 16;
}

static void test_observers_are_limited(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, few_operations);
	for (unsigned i = 0; i < 4; i++)
		assert_string_equal(told(f, observe(f, 1, "k")), "R");
	assert_string_equal(told(f, observe(f, 1, "k")), " outcome10");
	assert_int_equal(fixture_stats(f, 1).observers, 4);
	assert_int_equal(fixture_outcome(f, fixture_lock(f, 1, "k", "a", 1000)), OUT_OK);
	fixture_free(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_observe_a_life),
		cmocka_unit_test(test_observe_tells_the_present_at_once),
		cmocka_unit_test(test_observe_sees_the_lock_handed_on),
		cmocka_unit_test(test_observe_ends_with_its_client),
		cmocka_unit_test(test_observe_tells_when_it_cannot_tell),
		cmocka_unit_test(test_observers_are_limited),
	};
	return cmocka_run_group_tests_name("engine_observe", tests, NULL, NULL);
}
