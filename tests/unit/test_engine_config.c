/* The masters change while the engine runs (protocol.md 2.10). */
#include "cluster_fixture.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static void three_of_five(struct engine_config *c)
{
	c->n_masters = 3;
	c->masters_epoch = 1;
	c->attempt_ms = 100;
	c->op_timeout_ms = 400;
}

static void two_of_five(struct engine_config *c)
{
	three_of_five(c);
	c->n_masters = 2;
}

static void five(struct engine_config *c)
{
	three_of_five(c);
	c->n_masters = 5;
}

static void change(struct fixture *f, struct engine_members *m, uint8_t joined, uint8_t departed)
{
	*m = fixture_next(m, joined, departed);
	fixture_config_all(f, m);
	fixture_until_in_sync(f, m);
}

static enum outcome lock(struct fixture *f, unsigned id, const char *key, const char *value)
{
	return fixture_outcome(f, fixture_lock(f, id, key, value, 60000));
}

/* Where masters are away it takes the whole time of an operation. */
static enum outcome lock_at_last(struct fixture *f, unsigned id, const char *key, const char *value)
{
	uint64_t tag = fixture_lock(f, id, key, value, 60000);
	fixture_run_ms(f, f->node[id].cfg.op_timeout_ms + 1);
	return fixture_outcome(f, tag);
}

static void first_configuration_is_in_sync(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(5, three_of_five);
	assert_int_equal(fixture_stats(f, 1).synced_epoch, 1);
	assert_int_equal(fixture_stats(f, 4).synced_epoch, 0);
	fixture_free(f);
}

/* 3 -> 5 -> 3: what was locked before stays locked, is extended and released after. */
static void grows_and_shrinks(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(5, three_of_five);
	struct engine_members m = fixture_members(f, 1);
	assert_int_equal(lock(f, 1, "a", "x"), OUT_OK);
	assert_int_equal(lock(f, 4, "b", "y"), OUT_OK);
	change(f, &m, 4, 0);
	assert_int_equal(lock(f, 2, "a", "z"), OUT_HELD);
	change(f, &m, 5, 0);
	assert_int_equal(lock(f, 5, "b", "z"), OUT_HELD);
	assert_int_equal(fixture_outcome(f, fixture_extend(f, 5, "a", "x", 60000)), OUT_OK);
	change(f, &m, 0, 1);
	change(f, &m, 0, 2);
	assert_int_equal(m.n_masters, 3);
	for (unsigned id = 1; id <= 5; id++)
		assert_int_equal(lock(f, id, "a", "z"), OUT_HELD);
	assert_int_equal(fixture_outcome(f, fixture_extend(f, 3, "b", "y", 60000)), OUT_OK);
	assert_int_equal(fixture_outcome(f, fixture_release(f, 2, "a", "x")), OUT_OK);
	assert_int_equal(lock(f, 4, "a", "z"), OUT_OK);
	fixture_free(f);
}

static void quorum_follows(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(5, three_of_five);
	struct engine_members m = fixture_members(f, 1);
	uint64_t tag = fixture_lock(f, 1, "a", "x", 1000);
	assert_int_equal(fixture_outcome(f, tag), OUT_OK);
	assert_int_equal(fixture_result(f, tag)->r.quorum, 2);
	change(f, &m, 4, 0);
	fixture_run_ms(f, 10);
	tag = fixture_lock(f, 1, "b", "x", 1000);
	assert_int_equal(fixture_outcome(f, tag), OUT_OK);
	assert_int_equal(fixture_result(f, tag)->r.quorum, 3);
	assert_int_equal(fixture_result(f, tag)->r.masters, 4);
	assert_true(fixture_result(f, tag)->r.votes >= 3);
	fixture_free(f);
}

/* tests/model/membership.py: remove a holder and add it again, empty. */
static void two_changes_lose_nothing(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, three_of_five);
	struct engine_members m = fixture_members(f, 1);
	fixture_lose(f, 0, 3, MSG_TRYLOCK);
	fixture_lose(f, 0, 3, MSG_CONFIRM);
	assert_int_equal(lock(f, 1, "a", "x"), OUT_OK); /* on 1 and 2 */
	fixture_let_go(f);
	change(f, &m, 0, 1);
	fixture_settled(f, 1);
	fixture_run_ms(f, 50);
	assert_int_equal(fixture_stats(f, 1).leases, 0);
	change(f, &m, 1, 0);
	fixture_pause(f, 2, true);
	assert_int_not_equal(lock_at_last(f, 3, "a", "y"), OUT_OK);
	fixture_pause(f, 2, false);
	fixture_free(f);
}

/* A round that a change cuts off begins again, and counts no answer of before. */
static void lock_in_flight_begins_again(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(5, three_of_five);
	struct engine_members m = fixture_members(f, 1);
	f->hold = true;
	uint64_t tag = fixture_lock(f, 1, "a", "x", 10000);
	for (unsigned i = 0; i < 2; i++) /* both others vote; their answers are under way */
		assert_true(fixture_deliver_one(f));
	m = fixture_next(&m, 4, 0);
	fixture_config_all(f, &m);
	f->hold = false;
	fixture_settle(f);
	assert_null(fixture_result(f, tag));
	fixture_run_ms(f, 60);
	assert_int_equal(fixture_outcome(f, tag), OUT_OK);
	assert_int_equal(fixture_result(f, tag)->r.quorum, 3);
	fixture_free(f);
}

static void operations_wait_for_the_others_to_move(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(5, three_of_five);
	struct engine_members m = fixture_members(f, 1);
	assert_int_equal(lock(f, 1, "a", "x"), OUT_OK);
	m = fixture_next(&m, 4, 0);
	fixture_config(f, 1, &m);
	uint64_t tags[] = {fixture_lock(f, 1, "b", "x", 1000), fixture_extend(f, 1, "a", "x", 1000),
		fixture_read(f, 1, "a", true), fixture_update(f, 1, "a", "x", "y")};
	fixture_run_ms(f, 20);
	for (unsigned i = 0; i < 4; i++)
		assert_null(fixture_result(f, tags[i]));
	for (unsigned id = 2; id <= 5; id++)
		fixture_config(f, id, &m);
	fixture_status(f, 4, NODE_RESYNC);
	fixture_run_ms(f, 100);
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(fixture_outcome(f, tags[i]), OUT_OK);
	assert_int_equal(fixture_outcome(f, tags[3]), OUT_OK);
	fixture_free(f);
}

/* If they do not, an operation ends as it does without enough masters. */
static void operations_do_not_wait_for_ever(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(5, three_of_five);
	struct engine_members m = fixture_members(f, 1);
	m = fixture_next(&m, 4, 0);
	fixture_config(f, 1, &m);
	uint64_t tag = fixture_lock(f, 1, "b", "x", 1000);
	fixture_run_ms(f, 200);
	assert_int_equal(fixture_outcome(f, tag), OUT_NOQUORUM);
	fixture_free(f);
}

static void release_in_flight(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(5, three_of_five);
	struct engine_members m = fixture_members(f, 1);
	assert_int_equal(lock(f, 1, "a", "x"), OUT_OK);
	f->hold = true;
	uint64_t tag = fixture_release(f, 1, "a", "x");
	m = fixture_next(&m, 4, 0);
	fixture_config_all(f, &m);
	f->hold = false;
	fixture_settle(f);
	fixture_run_ms(f, 60);
	assert_int_equal(fixture_outcome(f, tag), OUT_OK);
	assert_int_equal(lock(f, 2, "a", "y"), OUT_OK);
	fixture_free(f);
}

/* The round that was cut off took the lock away, and nobody has heard that: it is not NOTFOUND. */
static void release_that_nobody_heard_of_is_unknown(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, three_of_five);
	struct engine_members m = fixture_members(f, 1);
	assert_int_equal(lock(f, 1, "a", "x"), OUT_OK);
	fixture_lose_reply(f, 2, 3, MSG_RELEASE);
	fixture_lose_reply(f, 1, 3, MSG_RELEASE);
	uint64_t tag = fixture_release(f, 3, "a", "x");
	fixture_let_go(f);
	m = fixture_next(&m, 0, 1);
	fixture_config_all(f, &m);
	fixture_run_ms(f, 400);
	enum outcome o = fixture_outcome(f, tag);
	assert_true(o == OUT_OK || o == OUT_UNKNOWN);
	fixture_free(f);
}

/* 3 was away while it was removed, added again, and 4 as well: what it holds is of no use to
 * anybody, a lock released meanwhile least of all. */
static void missed_removal_is_not_survived(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(5, three_of_five);
	struct engine_members m = fixture_members(f, 1);
	assert_int_equal(lock(f, 1, "a", "x"), OUT_OK);
	assert_int_equal(fixture_stats(f, 3).leases, 1);
	m.masters_epoch = 4;
	m.joined = 4;
	m.masters[m.n_masters++] = 4;
	m.since = 3;
	fixture_config(f, 3, &m);
	assert_int_equal(fixture_stats(f, 3).slots_voting, 0);
	m.since = 0;
	fixture_config(f, 1, &m);
	assert_int_equal(fixture_stats(f, 1).slots_voting, 64);
	fixture_free(f);
}

/* S12: some act by the masters of before, some by the next ones. However the nodes are split, the
 * two sides together grant a lock once. */
static void split_configurations_grant_once(void **state)
{
	(void)state;
	static const char *const values[] = {"w", "x", "y", "z"};
	for (unsigned moved = 0; moved < 16; moved++) {
		struct fixture *f = fixture_new(4, three_of_five);
		struct engine_members m = fixture_members(f, 1);
		m = fixture_next(&m, 4, 0);
		for (unsigned id = 1; id <= 4; id++)
			if (moved >> (id - 1) & 1)
				fixture_config(f, id, &m);
		if (moved & 8)
			fixture_status(f, 4, NODE_RESYNC);
		fixture_run_ms(f, 200);
		uint64_t tags[4];
		for (unsigned id = 1; id <= 4; id++)
			tags[id - 1] = fixture_lock(f, id, "k", values[id - 1], 60000);
		fixture_run_ms(f, f->node[1].cfg.op_timeout_ms + 1);
		unsigned granted = 0;
		for (unsigned i = 0; i < 4; i++)
			granted += fixture_outcome(f, tags[i]) == OUT_OK;
		unsigned left = 3 - (unsigned)__builtin_popcount(moved & 7);
		bool joined = moved & 8;
		bool quorum = left >= 2 || 3 - left + joined >= 3;
		assert_int_equal(granted, quorum);
		fixture_free(f);
	}
}

/* S11: two halves with the quorum of before. */
static void departed_master_does_not_vote(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, three_of_five);
	struct engine_members m = fixture_members(f, 1);
	m = fixture_next(&m, 0, 3);
	fixture_config_all(f, &m);
	assert_int_equal(fixture_stats(f, 3).slots_voting, 0);
	assert_int_equal(fixture_stats(f, 3).status, NODE_NONMEMBER);
	fixture_msg(f, 1, 3,
		(struct msg){.type = MSG_TRYLOCK,
			.req = 1,
			.slot = 0,
			.key = bytes_str("k"),
			.uid = {1, 1},
			.lease_ms = 10,
			.node = 1});
	assert_int_equal(fixture_stats(f, 3).promises, 0);
	fixture_until_in_sync(f, &m);
	fixture_free(f);
}

/* A lock that a majority of five has released is live on the two others. When one of the three
 * goes, those two are a blocking set: nothing may bring the lock back. */
static void released_lock_does_not_come_back(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(5, five);
	struct engine_members m = fixture_members(f, 1);
	assert_int_equal(lock(f, 1, "a", "x"), OUT_OK);
	fixture_cut(f, 1, 4, true);
	fixture_cut(f, 1, 5, true);
	assert_int_equal(fixture_outcome(f, fixture_release(f, 1, "a", "x")), OUT_OK);
	fixture_cut(f, 1, 4, false);
	fixture_cut(f, 1, 5, false);
	assert_int_equal(fixture_stats(f, 4).leases, 1);
	change(f, &m, 0, 3);
	assert_int_equal(fixture_stats(f, 4).leases, 0);
	assert_int_equal(fixture_stats(f, 5).leases, 0);
	change(f, &m, 0, 2);
	fixture_resync(f, 1);
	fixture_until_in_sync(f, &m);
	assert_int_equal(fixture_stats(f, 1).leases, 0);
	assert_int_not_equal(fixture_outcome(f, fixture_extend(f, 4, "a", "x", 1000)), OUT_OK);
	fixture_run_ms(f, 1000); /* the shadows are ruled out */
	assert_int_equal(lock(f, 1, "a", "y"), OUT_OK);
	fixture_free(f);
}

/* Held by a majority of those before, on fewer than a majority of those after. */
static void held_lock_is_refused_after_removals(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(5, five);
	struct engine_members m = fixture_members(f, 1);
	fixture_lose(f, 0, 4, MSG_TRYLOCK);
	fixture_lose(f, 0, 5, MSG_TRYLOCK);
	fixture_lose(f, 0, 4, MSG_CONFIRM);
	fixture_lose(f, 0, 5, MSG_CONFIRM);
	assert_int_equal(lock(f, 1, "a", "x"), OUT_OK);
	fixture_let_go(f);
	change(f, &m, 0, 1);
	change(f, &m, 0, 2);
	for (unsigned id = 3; id <= 5; id++)
		assert_int_not_equal(lock_at_last(f, id, "a", "y"), OUT_OK);
	fixture_run_ms(f, 1000); /* healed */
	assert_int_equal(fixture_outcome(f, fixture_extend(f, 4, "a", "x", 1000)), OUT_OK);
	fixture_free(f);
}

/* An update that a majority of before has accepted is not lost when two of them are gone. */
static void update_is_not_lost(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(5, five);
	struct engine_members m = fixture_members(f, 1);
	assert_int_equal(lock(f, 1, "a", "x"), OUT_OK);
	fixture_cut(f, 1, 4, true);
	fixture_cut(f, 1, 5, true);
	assert_int_equal(fixture_outcome(f, fixture_update(f, 1, "a", "x", "y")), OUT_OK);
	fixture_cut(f, 1, 4, false);
	fixture_cut(f, 1, 5, false);
	change(f, &m, 0, 1);
	change(f, &m, 0, 2);
	fixture_pause(f, 3, true);
	assert_int_not_equal(fixture_outcome(f, fixture_update(f, 4, "a", "x", "z")), OUT_OK);
	fixture_pause(f, 3, false);
	fixture_run_ms(f, 500);
	assert_int_equal(fixture_outcome(f, fixture_update(f, 4, "a", "y", "z")), OUT_OK);
	fixture_free(f);
}

/* Nobody who is not in sync is a witness for one that has lost its memory. */
static void restart_waits_for_those_in_sync(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, three_of_five);
	struct engine_members m = fixture_members(f, 1);
	assert_int_equal(lock(f, 1, "a", "x"), OUT_OK);
	m = fixture_next(&m, 0, 3);
	fixture_lose_reply(f, 1, 2, MSG_SYNC);
	fixture_lose_reply(f, 3, 2, MSG_SYNC);
	fixture_config_all(f, &m);
	fixture_resync(f, 1);
	fixture_run_ms(f, 300);
	assert_int_equal(fixture_stats(f, 1).slots_voting, 0);
	fixture_free(f);
}

/* n is 2: one that left at once after the change is not needed. */
static void last_but_one_leaves(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(2, two_of_five);
	struct engine_members m = fixture_members(f, 1);
	assert_int_equal(lock(f, 1, "a", "x"), OUT_OK);
	m = fixture_next(&m, 0, 2);
	fixture_config(f, 1, &m);
	fixture_until_in_sync(f, &m);
	assert_int_equal(lock(f, 1, "a", "y"), OUT_HELD);
	assert_int_equal(lock(f, 1, "b", "y"), OUT_OK);
	m = fixture_next(&m, 2, 0);
	fixture_config(f, 1, &m);
	fixture_config(f, 2, &m);
	fixture_config(f, 2, &m); /* it missed one */
	f->node[2].moves = f->node[1].moves;
	fixture_link(f, 1, 2, true);
	fixture_status(f, 2, NODE_RESYNC);
	fixture_until_in_sync(f, &m);
	assert_int_equal(lock(f, 2, "b", "z"), OUT_HELD);
	assert_int_equal(fixture_stats(f, 2).leases, 2);
	fixture_free(f);
}

/* Locks released while the others are being asked are not refused for the rest of their lease. */
static void shadow_of_a_released_lock_goes(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(5, three_of_five);
	struct engine_members m = fixture_members(f, 1);
	assert_int_equal(lock(f, 1, "a", "x"), OUT_OK);
	fixture_delay(f, 1, 3, MSG_RELEASE);
	fixture_delay(f, 1, 2, MSG_RELEASE);
	m = fixture_next(&m, 4, 0);
	fixture_config_all(f, &m);
	uint64_t tag = fixture_release(f, 1, "a", "x"); /* here it is gone; 2 and 3 tell of it */
	fixture_run_ms(f, 5);
	fixture_let_go(f);
	fixture_until_in_sync(f, &m);
	fixture_run_ms(f, 300);
	assert_non_null(fixture_result(f, tag));
	assert_int_equal(lock(f, 2, "a", "y"), OUT_OK);
	fixture_free(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(first_configuration_is_in_sync),
		cmocka_unit_test(grows_and_shrinks),
		cmocka_unit_test(quorum_follows),
		cmocka_unit_test(two_changes_lose_nothing),
		cmocka_unit_test(lock_in_flight_begins_again),
		cmocka_unit_test(operations_wait_for_the_others_to_move),
		cmocka_unit_test(operations_do_not_wait_for_ever),
		cmocka_unit_test(release_in_flight),
		cmocka_unit_test(release_that_nobody_heard_of_is_unknown),
		cmocka_unit_test(missed_removal_is_not_survived),
		cmocka_unit_test(split_configurations_grant_once),
		cmocka_unit_test(departed_master_does_not_vote),
		cmocka_unit_test(released_lock_does_not_come_back),
		cmocka_unit_test(held_lock_is_refused_after_removals),
		cmocka_unit_test(update_is_not_lost),
		cmocka_unit_test(restart_waits_for_those_in_sync),
		cmocka_unit_test(last_but_one_leaves),
		cmocka_unit_test(shadow_of_a_released_lock_goes),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
