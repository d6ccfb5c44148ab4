/* What a resync and a heal meet while they go on: writes, confirmations, crowds, masters that
 * cannot tell, and words of somebody who repeats himself. */
#include "cluster_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { HEAL_MS = 2500 }; /* a moment, T_wait, two questions; T_att is 1 s here */

static void one_slot(struct engine_config *cfg)
{
	cfg->slots = 1;
}

static void lock_ok(struct fixture *f, unsigned id, const char *key, const char *value)
{
	assert_int_equal(fixture_outcome(f, fixture_lock(f, id, key, value, 60000)), OUT_OK);
}

static enum outcome local_read(struct fixture *f, unsigned id, const char *key)
{
	return fixture_outcome(f, fixture_read(f, id, key, false));
}

/* A write whose coordinator knows its key only from a report, and is told of by half. Taken for one
 * that it may build on, it was written over without a word of the extension that came between, and
 * the lease ended 26 s before its holder had been told. */
static void test_races_write_in_a_slot_that_does_not_vote(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, one_slot);
	assert_int_equal(fixture_outcome(f, fixture_lock(f, 2, "k", "v0", 5000)), OUT_OK);
	fixture_lose(f, 1, 0, MSG_SYNC);
	fixture_resync(f, 1);
	fixture_run_ms(f, 2);
	fixture_delay_reply(f, 3, 1, MSG_ACCEPT);
	uint64_t wrote = fixture_update(f, 1, "k", "v0", "v");
	fixture_run_ms(f, 1);
	f->n_rules = 0;
	fixture_delay_reply(f, 3, 1, MSG_SYNC);
	fixture_run_ms(f, 520);
	assert_int_equal(fixture_stats(f, 1).staged, 1); /* 2 has told of v */
	fixture_let_go_of(f, MSG_ACCEPT);
	assert_int_equal(fixture_outcome(f, wrote), OUT_OK);
	uint64_t extended = fixture_extend(f, 2, "k", "v", 30000);
	assert_int_equal(fixture_outcome(f, extended), OUT_OK);
	uint64_t until_ns = f->now_ns + fixture_result(f, extended)->r.valid_ms * 1000000;

	f->n_rules = 0;
	fixture_delay(f, 1, 3, MSG_RELEASE);
	(void)fixture_release(f, 1, "k", "v");
	fixture_let_go_of(f, MSG_SYNC);
	fixture_run_ms(f, 5);
	assert_int_equal(fixture_stats(f, 1).slots_voting, 1);
	uint64_t again = fixture_update(f, 1, "k", "v", "v2");
	(void)fixture_outcome(f, again);
	fixture_let_go(f);
	bool written = fixture_result(f, again)->r.outcome == OUT_OK;
	while (written && f->now_ns < until_ns) {
		uint64_t rival = fixture_lock(f, 2, "k", "other", 1000);
		fixture_run_ms(f, 2500);
		assert_int_not_equal(fixture_result(f, rival)->r.outcome, OUT_OK);
	}
	fixture_free(f);
}

/* Its own lock comes back to the coordinator from reports older than the CONFIRM. */
static void test_races_a_promise_of_its_own_is_confirmed(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, one_slot);
	fixture_delay(f, 3, 0, MSG_SYNC);
	fixture_resync(f, 3);
	fixture_run_ms(f, 5);
	fixture_delay(f, 3, 0, MSG_CONFIRM);
	lock_ok(f, 3, "k", "v");
	fixture_let_go(f);
	fixture_run_ms(f, 10);
	assert_int_equal(fixture_stats(f, 3).slots_voting, 1);
	assert_int_equal(fixture_stats(f, 3).promises, 1);
	fixture_run_ms(f, 2100);
	assert_int_equal(fixture_stats(f, 3).promises, 0);
	assert_int_equal(local_read(f, 3, "k"), OUT_OK);
	fixture_free(f);
}

/* More than there is room for at once: what found none is found again. */
static void test_races_a_heal_pass_leaves_nothing_out(void **state)
{
	(void)state;
	enum { KEYS = 3000 };
	struct fixture *f = fixture_new(3, NULL);
	char key[32];
	fixture_cut(f, 1, 3, true);
	fixture_cut(f, 2, 3, true);
	for (unsigned i = 0; i < KEYS; i++) {
		(void)snprintf(key, sizeof key, "key%u", i);
		lock_ok(f, 1, key, "v");
	}
	fixture_cut(f, 1, 3, false);
	fixture_cut(f, 2, 3, false);
	fixture_missed(f, 3);
	for (unsigned s = 0; s < 20 && fixture_stats(f, 3).healing; s++)
		fixture_run_ms(f, 1000);
	assert_false(fixture_stats(f, 3).healing);
	assert_int_equal(fixture_stats(f, 3).leases, KEYS);
	fixture_free(f);
}

/* Clients who extend what is not there: no storm, and no master that forgets to heal. */
static void test_races_hints_leave_room(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, NULL);
	char key[32];
	for (unsigned i = 0; i < 1000; i++)
		(void)fixture_extend(f, 1, "nothing", "v", 30000);
	uint64_t before = f->messages;
	fixture_run_ms(f, 600);
	assert_in_range(f->messages - before, 1, 12); /* two others, at three masters, and back */
	for (unsigned i = 0; i < 1000; i++) {
		(void)snprintf(key, sizeof key, "nothing%u", i);
		(void)fixture_extend(f, 1, key, "v", 30000);
	}
	fixture_lose(f, 1, 3, MSG_TRYLOCK);
	lock_ok(f, 1, "k", "v");
	fixture_let_go(f);
	fixture_run_ms(f, HEAL_MS);
	assert_int_equal(local_read(f, 3, "k"), OUT_OK);
	fixture_free(f);
}

/* A master in quarantine is linked and can tell nothing. */
static void test_races_a_heal_pass_asks_who_can_tell(void **state)
{
	(void)state;
	for (unsigned n = 3; n <= 5; n += 2) {
		struct fixture *f = fixture_new(n, NULL);
		fixture_crash(f, n);
		fixture_restart(f, n);
		fixture_missed(f, 1);
		fixture_run_ms(f, 3000);
		assert_false(fixture_stats(f, 1).healing);
		fixture_free(f);
	}
}

/* While it heals one lock that is released, the next one passes by. */
static void test_races_a_confirm_while_it_heals(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, NULL);
	fixture_lose(f, 1, 3, MSG_TRYLOCK);
	lock_ok(f, 1, "k", "v");
	fixture_let_go(f);
	fixture_run_ms(f, 400);
	assert_int_equal(fixture_stats(f, 3).resync, 1);
	assert_int_equal(fixture_outcome(f, fixture_release(f, 1, "k", "v")), OUT_OK);
	lock_ok(f, 1, "k", "w");
	fixture_run_ms(f, 2 * HEAL_MS);
	assert_int_equal(local_read(f, 3, "k"), OUT_OK);
	fixture_free(f);
}

/* Told to stop in the middle of a resync and to begin again, it counts no witness twice. */
static void test_races_one_witness_stays_one(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, one_slot);
	struct msg m = {.type = MSG_TRYLOCK,
		.req = 1,
		.key = bytes_str("k"),
		.uid = {1000001, 77},
		.node = 3,
		.lease_ms = 20000,
		.flags = MSG_HAS_VALUE};
	fixture_msg(f, 3, 1, m);
	fixture_lose_reply(f, 2, 3, MSG_SYNC);
	fixture_resync(f, 3);
	fixture_run_ms(f, 10);
	assert_int_equal(fixture_stats(f, 3).staged, 1);
	fixture_status(f, 3, NODE_QUARANTINE);
	fixture_let_go(f);
	fixture_status(f, 3, NODE_RESYNC);
	fixture_run_ms(f, 700);
	struct engine_stats s = fixture_stats(f, 3);
	assert_int_equal(s.slots_voting, 1);
	assert_int_equal(s.leases + s.promises, 0);
	assert_int_equal(s.shadows, 1);
	fixture_free(f);
}

/* A shadow is nothing to knock at all the time. */
static void test_races_a_waiter_parks_on_a_shadow(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, NULL);
	fixture_lose(f, 1, 2, MSG_TRYLOCK);
	fixture_lose(f, 0, 0, MSG_CONFIRM);
	lock_ok(f, 1, "k", "v");
	fixture_let_go(f);
	fixture_resync(f, 3);
	fixture_run_ms(f, 100);
	assert_int_equal(fixture_stats(f, 3).shadows, 1);
	fixture_lose(f, 0, 0, MSG_SYNC); /* and it stays one */
	(void)fixture_lock_wait(f, 2, "k", "w", 1000, 20000);
	uint64_t before = f->messages;
	fixture_run_ms(f, 10000);
	assert_in_range(f->messages - before, 10, 400);
	fixture_free(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_races_write_in_a_slot_that_does_not_vote),
		cmocka_unit_test(test_races_a_promise_of_its_own_is_confirmed),
		cmocka_unit_test(test_races_a_heal_pass_leaves_nothing_out),
		cmocka_unit_test(test_races_hints_leave_room),
		cmocka_unit_test(test_races_a_heal_pass_asks_who_can_tell),
		cmocka_unit_test(test_races_a_confirm_while_it_heals),
		cmocka_unit_test(test_races_one_witness_stays_one),
		cmocka_unit_test(test_races_a_waiter_parks_on_a_shadow),
	};
	return cmocka_run_group_tests_name("sync_races", tests, NULL, NULL);
}
