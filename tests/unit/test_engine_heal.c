/* A master that kept its memory and missed something gets it from the others (protocol.md 2.8, key
 * RESYNC), and nothing that was released comes back by it. */
#include "cluster_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/hash.h"

enum { HEAL_MS = 2500 }; /* a moment, T_wait, two questions; T_att is 1 s here */

static void lock_ok(struct fixture *f, unsigned id, const char *key, const char *value)
{
	assert_int_equal(fixture_outcome(f, fixture_lock(f, id, key, value, 30000)), OUT_OK);
}

static void assert_copy(struct fixture *f, unsigned id, const char *key, const char *value)
{
	const struct fixture_result *r = fixture_result(f, fixture_read(f, id, key, false));
	assert_int_equal(r->r.outcome, OUT_OK);
	assert_string_equal(r->value, value);
}

static void assert_no_copy(struct fixture *f, unsigned id, const char *key)
{
	const struct fixture_result *r = fixture_result(f, fixture_read(f, id, key, false));
	assert_int_equal(r->r.outcome, OUT_NULL);
}

static void with_file(struct engine_config *cfg)
{
	if (cfg->self == 3)
		cfg->ceiling_n = 1000000;
}

/* Its TRYLOCK was lost; the CONFIRM tells that there is something. */
static void test_heal_after_a_confirm(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, NULL);
	fixture_lose(f, 1, 3, MSG_TRYLOCK);
	lock_ok(f, 1, "k", "v");
	fixture_let_go(f);
	assert_no_copy(f, 3, "k");
	fixture_run_ms(f, HEAL_MS);
	assert_copy(f, 3, "k", "v");
	assert_int_equal(fixture_stats(f, 3).healed, 1);
	assert_int_equal(fixture_stats(f, 3).resync, 0);
	/* Now one of the others may fail, and its holder loses nothing. */
	fixture_crash(f, 2);
	assert_int_equal(fixture_outcome(f, fixture_extend(f, 1, "k", "v", 30000)), OUT_OK);
	assert_int_equal(fixture_outcome(f, fixture_release(f, 1, "k", "v")), OUT_OK);
	fixture_free(f);
}

/* A coordinator whose own vote was not among those that granted it (its ceiling was being raised).
 */
static void test_heal_of_the_coordinator_itself(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, with_file);
	lock_ok(f, 3, "k", "v");
	assert_no_copy(f, 3, "k");
	fixture_ceiling(f, 3, BALLOT_MAX);
	fixture_run_ms(f, HEAL_MS);
	assert_copy(f, 3, "k", "v");
	fixture_free(f);
}

/* S34 of protocol.md: extensions heal. */
static void test_heal_after_an_extend(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, NULL);
	fixture_lose(f, 1, 3, MSG_TRYLOCK);
	fixture_lose(f, 1, 3, MSG_CONFIRM);
	lock_ok(f, 1, "k", "v");
	fixture_let_go(f);
	fixture_run_ms(f, 9000); /* by now its ballot is below the floor of 3 */
	assert_no_copy(f, 3, "k");
	assert_int_equal(fixture_outcome(f, fixture_extend(f, 2, "k", "v", 30000)), OUT_OK);
	fixture_run_ms(f, HEAL_MS);
	assert_copy(f, 3, "k", "v");
	fixture_free(f);
}

/* A rival's promise stood in the way here while others granted it. */
static void test_heal_after_a_rival_gave_up(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, NULL);
	struct msg rival = {.type = MSG_TRYLOCK,
		.req = 1,
		.key = bytes_str("k"),
		.uid = {1000000, 0x1002},
		.node = 2,
		.lease_ms = 20000,
		.flags = MSG_HAS_VALUE};
	fixture_msg(f, 2, 3, rival);
	lock_ok(f, 1, "k", "v");
	struct msg abort_it = {.type = MSG_ABORT, .key = bytes_str("k"), .uid = rival.uid};
	fixture_msg(f, 2, 3, abort_it);
	assert_no_copy(f, 3, "k");
	fixture_run_ms(f, HEAL_MS);
	assert_copy(f, 3, "k", "v");
	fixture_free(f);
}

/* The shadow of a lock that its holder goes on extending becomes its copy. */
static void test_heal_turns_a_shadow_into_a_copy(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, NULL);
	fixture_lose(f, 1, 2, MSG_TRYLOCK);
	fixture_lose(f, 1, 2, MSG_CONFIRM);
	lock_ok(f, 1, "k", "v");
	fixture_lose(f, 2, 3, MSG_SYNC);
	fixture_resync(f, 3);
	fixture_run_ms(f, 10);
	assert_int_equal(fixture_stats(f, 3).shadows, 1);
	fixture_free(f);

	f = fixture_new(5, NULL);
	fixture_lose(f, 1, 4, MSG_TRYLOCK);
	fixture_lose(f, 1, 4, MSG_CONFIRM);
	lock_ok(f, 1, "k", "v"); /* 1, 2, 3 and 5 have it */
	fixture_lose_reply(f, 2, 5, MSG_SYNC);
	fixture_lose_reply(f, 4, 0, MSG_READ);
	fixture_resync(f, 5); /* hears 1, 3, 4 */
	fixture_run_ms(f, 10);
	assert_int_equal(fixture_stats(f, 5).shadows, 1);
	fixture_let_go(f);
	assert_int_equal(fixture_outcome(f, fixture_extend(f, 1, "k", "v", 30000)), OUT_OK);
	fixture_run_ms(f, HEAL_MS);
	assert_copy(f, 5, "k", "v");
	assert_copy(f, 4, "k", "v");
	assert_int_equal(fixture_stats(f, 5).shadows, 0);
	fixture_free(f);
}

/* Nobody holds it: no vote is withheld, and whoever wants it gets it at once. */
static void test_heal_does_not_block_a_key_that_is_free(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, NULL);
	assert_int_equal(fixture_outcome(f, fixture_lock(f, 1, "k", "v", 20)), OUT_OK);
	fixture_run_ms(f, 50);
	uint64_t extend = fixture_extend(f, 1, "k", "v", 1000);
	assert_int_equal(fixture_outcome(f, extend), OUT_NOTFOUND);
	for (unsigned i = 0; i < 30; i++) {
		fixture_run_ms(f, 50);
		for (unsigned id = 1; id <= 3; id++)
			assert_int_equal(fixture_stats(f, id).resync, 0);
	}
	fixture_crash(f, 3); /* every vote is needed */
	lock_ok(f, 1, "k", "w");
	fixture_free(f);
}

/* While it does not vote on a key, it neither grants nor tells; its answers count as silence. */
static void test_heal_keeps_silent_while_it_asks(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, NULL);
	fixture_lose(f, 1, 3, MSG_TRYLOCK);
	lock_ok(f, 1, "k", "v");
	fixture_let_go(f);
	fixture_run_ms(f, 700);
	assert_int_equal(fixture_stats(f, 3).resync, 1);
	assert_no_copy(f, 3, "k");
	fixture_cut(f, 1, 2, true);
	uint64_t read = fixture_read(f, 1, "k", true);
	uint64_t lock = fixture_lock(f, 2, "k", "w", 1000);
	fixture_run_ms(f, 5);
	f->cut[1][2] = f->cut[2][1] = false;
	fixture_run_ms(f, 2100);
	assert_true(fixture_result(f, read)->r.outcome == OUT_NOQUORUM ||
		    fixture_result(f, read)->r.outcome == OUT_OK);
	assert_int_not_equal(fixture_outcome(f, lock), OUT_OK);
	fixture_free(f);
}

/* A release that this master acknowledged while it was asking: whatever the others still say, the
 * lock does not come back here (I4). */
static void test_heal_does_not_bring_back_what_is_released_meanwhile(void **state)
{
	(void)state;
	for (unsigned late = 0; late < 2; late++) {
		struct fixture *f = fixture_new(3, NULL);
		fixture_lose(f, 1, 3, MSG_TRYLOCK);
		lock_ok(f, 1, "k", "v");
		fixture_let_go(f);
		fixture_run_ms(f, 700);
		assert_int_equal(fixture_stats(f, 3).resync, 1);
		if (late) /* both have told that they hold it, and 3 has not heard it yet */
			fixture_delay_reply(f, 0, 3, MSG_SYNC);
		if (late)
			fixture_run_ms(f, 700);
		fixture_lose(f, 1, 2, MSG_RELEASE);
		assert_int_equal(fixture_outcome(f, fixture_release(f, 1, "k", "v")), OUT_OK);
		fixture_let_go(f);
		fixture_run_ms(f, HEAL_MS);
		assert_no_copy(f, 3, "k");
		assert_int_equal(fixture_stats(f, 3).resync, 0);
		assert_int_equal(fixture_stats(f, 3).healed, 0);
		lock_ok(f, 3, "k", "w");
		fixture_free(f);
	}
}

/* The release came just before: T_wait is there so that what 3 acknowledged then is settled with
 * the others before they are asked again. */
static void test_heal_waits_for_a_release_that_is_under_way(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, NULL);
	fixture_lose(f, 1, 3, MSG_TRYLOCK);
	fixture_lose(f, 1, 3, MSG_CONFIRM);
	lock_ok(f, 1, "k", "v");
	fixture_let_go(f);
	assert_int_equal(fixture_outcome(f, fixture_extend(f, 1, "k", "v", 30000)), OUT_OK);
	fixture_run_ms(f, 245); /* 3 is about to look whether the others hold it */
	fixture_lose(f, 1, 2, MSG_RELEASE);
	fixture_delay(f, 1, 1, MSG_RELEASE);
	struct msg release = {.type = MSG_RELEASE,
		.req = 1,
		.key = bytes_str("k"),
		.uid = {fixture_result(f, fixture_read(f, 1, "k", false))->r.token, 0x1001}};
	fixture_msg(f, 1, 3, release); /* 3 acknowledges it first */
	fixture_run_ms(f, 300);
	assert_int_equal(fixture_stats(f, 3).resync, 1);
	fixture_let_go(f);
	assert_int_equal(fixture_outcome(f, fixture_release(f, 1, "k", "v")), OUT_OK);
	fixture_run_ms(f, HEAL_MS);
	assert_no_copy(f, 3, "k");
	fixture_free(f);
}

/* One of two witnesses is not enough. */
static void test_heal_takes_a_blocking_set_of_witnesses(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, NULL);
	fixture_lose(f, 1, 3, MSG_TRYLOCK);
	fixture_lose(f, 1, 2, MSG_TRYLOCK);
	(void)fixture_lock(f, 1, "k", "v", 30000);
	struct msg confirm = {.type = MSG_CONFIRM,
		.key = bytes_str("k"),
		.uid = {engine_hlc(f->node[1].engine), 0x1001}};
	fixture_msg(f, 1, 3, confirm);
	fixture_run_ms(f, 700);
	assert_int_equal(fixture_stats(f, 3).resync, 0);
	fixture_run_ms(f, HEAL_MS);
	assert_no_copy(f, 3, "k");
	fixture_free(f);
}

/* Nothing comes in above the durable ceiling (sim seed 12 of the first version). */
static void test_heal_stays_below_the_ceiling(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, with_file);
	fixture_lose(f, 1, 3, MSG_TRYLOCK);
	lock_ok(f, 1, "k", "v");
	fixture_let_go(f);
	fixture_run_ms(f, HEAL_MS);
	assert_no_copy(f, 3, "k");
	assert_true(f->node[3].ceilings > 0);
	fixture_ceiling(f, 3, f->node[3].ceiling_n);
	assert_int_equal(fixture_outcome(f, fixture_extend(f, 1, "k", "v", 30000)), OUT_OK);
	fixture_run_ms(f, HEAL_MS);
	assert_copy(f, 3, "k", "v");
	fixture_free(f);
}

/* Cut off for a while: all that was locked meanwhile, and nothing that was not. */
static void test_heal_pass_after_a_partition(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, NULL);
	char key[32];
	for (unsigned i = 0; i < 100; i++) {
		(void)snprintf(key, sizeof key, "old%u", i);
		lock_ok(f, 1, key, "v");
	}
	fixture_link(f, 1, 3, false);
	fixture_link(f, 2, 3, false);
	for (unsigned i = 0; i < 400; i++) {
		(void)snprintf(key, sizeof key, "new%u", i);
		lock_ok(f, 1 + i % 2, key, "v");
	}
	assert_int_equal(fixture_outcome(f, fixture_lock(f, 1, "short", "v", 2000)), OUT_OK);
	fixture_run_ms(f, 1500);
	fixture_link(f, 1, 3, true);
	fixture_link(f, 2, 3, true);
	assert_int_equal(fixture_stats(f, 3).leases, 100);
	fixture_missed(f, 3);
	fixture_run_ms(f, HEAL_MS);
	struct engine_stats s = fixture_stats(f, 3);
	assert_false(s.healing);
	assert_int_equal(s.leases, 500);
	assert_int_equal(s.healed, 400);
	assert_int_equal(s.resync + s.shadows + s.staged, 0);
	assert_copy(f, 3, "new17", "v");
	fixture_free(f);
}

/* Twice in a row is twice done, and the last one sees what came last. */
static void test_heal_pass_begins_again_when_told_so_meanwhile(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, NULL);
	fixture_lose(f, 1, 3, MSG_TRYLOCK);
	fixture_lose(f, 1, 3, MSG_CONFIRM);
	lock_ok(f, 1, "one", "v");
	fixture_missed(f, 3);
	fixture_run_ms(f, 100);
	lock_ok(f, 1, "two", "v");
	fixture_missed(f, 3);
	fixture_run_ms(f, 2 * HEAL_MS);
	assert_copy(f, 3, "one", "v");
	assert_copy(f, 3, "two", "v");
	assert_false(fixture_stats(f, 3).healing);
	fixture_free(f);
}

static void few_ops(struct engine_config *cfg)
{
	cfg->max_ops = 64;
}

/* More than can be asked about at one time: a pass waits for room. */
static void test_heal_pass_of_more_keys_than_places(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, few_ops);
	char key[32];
	fixture_lose(f, 1, 3, MSG_TRYLOCK);
	fixture_lose(f, 1, 3, MSG_CONFIRM);
	for (unsigned i = 0; i < 200; i++) {
		(void)snprintf(key, sizeof key, "key%u", i);
		assert_int_equal(fixture_outcome(f, fixture_lock(f, 1, key, "v", 60000)), OUT_OK);
	}
	fixture_let_go(f);
	for (unsigned i = 0; i < 10; i++) {
		fixture_missed(f, 3);
		fixture_run_ms(f, HEAL_MS);
	}
	assert_int_equal(fixture_stats(f, 3).leases, 200);
	assert_false(fixture_stats(f, 3).healing);
	fixture_free(f);
}

/* An even number of masters: a copy on half of them may spread, so it may not be read as free. */
static void test_heal_and_reads_agree_with_four_masters(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(4, NULL);
	lock_ok(f, 1, "k", "v");
	fixture_lose(f, 1, 3, MSG_RELEASE);
	fixture_lose(f, 1, 4, MSG_RELEASE);
	uint64_t release = fixture_release(f, 1, "k", "v");
	fixture_run_ms(f, 1100);
	assert_int_equal(fixture_outcome(f, release), OUT_UNKNOWN);
	fixture_let_go(f);
	uint64_t read = fixture_read(f, 2, "k", true);
	fixture_run_ms(f, 2100);
	enum outcome before = fixture_outcome(f, read);
	assert_int_not_equal(before, OUT_NULL);
	uint64_t extend = fixture_extend(f, 3, "k", "v", 30000);
	fixture_run_ms(f, HEAL_MS);
	assert_int_not_equal(fixture_outcome(f, extend), OUT_OK);
	read = fixture_read(f, 2, "k", true);
	fixture_run_ms(f, 100);
	assert_int_equal(fixture_outcome(f, read), OUT_OK); /* 1 and 2 have it again */
	fixture_free(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_heal_after_a_confirm),
		cmocka_unit_test(test_heal_of_the_coordinator_itself),
		cmocka_unit_test(test_heal_after_an_extend),
		cmocka_unit_test(test_heal_after_a_rival_gave_up),
		cmocka_unit_test(test_heal_turns_a_shadow_into_a_copy),
		cmocka_unit_test(test_heal_does_not_block_a_key_that_is_free),
		cmocka_unit_test(test_heal_keeps_silent_while_it_asks),
		cmocka_unit_test(test_heal_does_not_bring_back_what_is_released_meanwhile),
		cmocka_unit_test(test_heal_waits_for_a_release_that_is_under_way),
		cmocka_unit_test(test_heal_takes_a_blocking_set_of_witnesses),
		cmocka_unit_test(test_heal_stays_below_the_ceiling),
		cmocka_unit_test(test_heal_pass_after_a_partition),
		cmocka_unit_test(test_heal_pass_begins_again_when_told_so_meanwhile),
		cmocka_unit_test(test_heal_pass_of_more_keys_than_places),
		cmocka_unit_test(test_heal_and_reads_agree_with_four_masters),
	};
	return cmocka_run_group_tests_name("heal", tests, NULL, NULL);
}
