/* A line over all nodes: who waits for a key at other nodes stands at its home and is called. */
#include "cluster_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

enum { WAIT_MS = 60000, KEYS = 16, FAR = 4, FARTHER = 5 };

/* 4 and 5 coordinate and are no masters: nothing ends at them. */
static void three_of_five(struct engine_config *c)
{
	c->n_masters = 3;
	c->masters_epoch = 1;
	c->max_waiters_per_key = 8;
}

static unsigned count_of[MSG_TYPE_MAX + 1];

static bool count(struct fixture *f, uint8_t from, uint8_t to, const struct msg *m)
{
	(void)f;
	(void)from;
	(void)to;
	count_of[m->type]++;
	return false;
}

static void begin_to_count(struct fixture *f)
{
	memset(count_of, 0, sizeof count_of);
	f->lose = count;
}

static bool granted(struct fixture *f, uint64_t tag)
{
	const struct fixture_result *r = fixture_result(f, tag);
	return r != NULL && r->r.outcome == OUT_OK;
}

/* Whatever key, so whatever home: a waiter at each node, released one by one. */
static void first_come_first_served(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(5, three_of_five);
	static const uint8_t order[] = {4, 1, 5, 3, 2};
	for (unsigned k = 0; k < KEYS; k++) {
		char key[16], value[2] = "0";
		uint64_t tags[5];
		(void)snprintf(key, sizeof key, "key%u", k);
		assert_int_equal(
			fixture_outcome(f, fixture_lock(f, 1, key, "first", 60000)), OUT_OK);
		for (unsigned i = 0; i < 5; i++) {
			value[0] = (char)('0' + i);
			tags[i] = fixture_lock_wait(f, order[i], key, value, 60000, WAIT_MS);
			fixture_run_ms(f, 2);
		}
		assert_int_equal(fixture_outcome(f, fixture_release(f, 2, key, "first")), OUT_OK);
		for (unsigned i = 0; i < 5; i++) {
			fixture_settle(f);
			for (unsigned other = 0; other < 5; other++)
				assert_int_equal(granted(f, tags[other]), other <= i);
			value[0] = (char)('0' + i);
			assert_int_equal(
				fixture_outcome(f, fixture_release(f, 1, key, value)), OUT_OK);
		}
	}
	fixture_free(f);
}

/* An expiry is told as a release is. */
static void called_when_a_lease_ends(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(5, three_of_five);
	assert_int_equal(fixture_outcome(f, fixture_lock(f, 1, "k", "x", 3000)), OUT_OK);
	uint64_t tag = fixture_lock_wait(f, FAR, "k", "y", 60000, WAIT_MS);
	fixture_run_ms(f, 2950);
	assert_null(fixture_result(f, tag));
	fixture_run_ms(f, 100);
	assert_true(granted(f, tag));
	fixture_free(f);
}

/* One waiter is called, nobody else asks for the lock; and while nothing ends nothing is sent. */
static void nobody_asks_in_vain(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(5, three_of_five);
	assert_int_equal(fixture_outcome(f, fixture_lock(f, 1, "k", "x", 60000)), OUT_OK);
	uint64_t tags[6];
	for (unsigned id = 1; id <= 5; id++) {
		tags[id] = fixture_lock_wait(f, id, "k", "y", 60000, WAIT_MS);
		fixture_run_ms(f, 2);
	}
	begin_to_count(f);
	fixture_run_ms(f, 9000);
	assert_int_equal(count_of[MSG_TRYLOCK] + count_of[MSG_STAND] + count_of[MSG_TURN], 0);
	assert_int_equal(fixture_outcome(f, fixture_release(f, 1, "k", "x")), OUT_OK);
	assert_true(granted(f, tags[1]));
	assert_true(count_of[MSG_TRYLOCK] <= 2);
	/* Nor is anybody called in vain: who has had the lock does not stand there any more. */
	for (unsigned id = 1; id <= 5; id++)
		assert_int_equal(fixture_outcome(f, fixture_release(f, 1, "k", "y")), OUT_OK);
	assert_true(count_of[MSG_TURN] <= 4);
	assert_true(granted(f, tags[5]));
	fixture_free(f);
}

/* A waiter that went away, a node that is dead, one that stands still, a call that is lost: the
 * line goes on. */
static void who_does_not_come_is_passed_over(void **state)
{
	(void)state;
	for (unsigned fault = 0; fault < 4; fault++) {
		struct fixture *f = fixture_new(5, three_of_five);
		assert_int_equal(fixture_outcome(f, fixture_lock(f, 1, "k", "x", 60000)), OUT_OK);
		uint64_t gone = fixture_lock_wait(f, FAR, "k", "y", 60000, WAIT_MS);
		fixture_run_ms(f, 2);
		uint64_t next = fixture_lock_wait(f, FARTHER, "k", "z", 60000, WAIT_MS);
		fixture_run_ms(f, 2);
		if (fault == 0)
			fixture_cancel(f, FAR, gone);
		else if (fault == 1)
			fixture_crash(f, FAR);
		else if (fault == 2)
			fixture_pause(f, FAR, true);
		else
			fixture_lose(f, 0, FAR, MSG_TURN);
		assert_int_equal(fixture_outcome(f, fixture_release(f, 1, "k", "x")), OUT_OK);
		/* Who answers for a waiter that is gone, or is gone with it, is not waited for. */
		fixture_run_ms(f, fault < 2 ? 5 : 250);
		assert_true(granted(f, next));
		if (fault == 2)
			fixture_pause(f, FAR, false);
		fixture_free(f);
	}
}

/* The home crashes: who stood there stands at the next one. */
static void the_home_dies(void **state)
{
	(void)state;
	for (unsigned dead = 1; dead <= 3; dead++) {
		struct fixture *f = fixture_new(5, three_of_five);
		unsigned alive = dead == 1 ? 2 : 1;
		assert_int_equal(
			fixture_outcome(f, fixture_lock(f, alive, "k", "x", 60000)), OUT_OK);
		uint64_t tag = fixture_lock_wait(f, FAR, "k", "y", 60000, WAIT_MS);
		fixture_run_ms(f, 2);
		fixture_crash(f, dead);
		fixture_run_ms(f, 2);
		assert_int_equal(fixture_outcome(f, fixture_release(f, alive, "k", "x")), OUT_OK);
		fixture_run_ms(f, 50);
		assert_true(granted(f, tag));
		fixture_free(f);
	}
}

/* What stands in the way is a promise that comes to nothing: it wakes nobody, so it is looked at.
 */
static void behind_a_promise(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(5, three_of_five);
	fixture_lose_reply(f, 0, FAR, MSG_TRYLOCK);
	(void)fixture_lock(f, FAR, "k", "x", 60000);
	fixture_run_ms(f, 2);
	uint64_t tag = fixture_lock_wait(f, FARTHER, "k", "y", 60000, WAIT_MS);
	fixture_run_ms(f, 4500);
	assert_true(granted(f, tag));
	fixture_free(f);
}

/* A home that missed the lock takes the key for free. It calls less and less often. */
static void the_home_does_not_know(void **state)
{
	(void)state;
	for (unsigned home = 1; home <= 3; home++) {
		struct fixture *f = fixture_new(5, three_of_five);
		unsigned other = home == 1 ? 2 : 1;
		fixture_lose(f, 0, home, MSG_TRYLOCK);
		fixture_lose(f, 0, home, MSG_CONFIRM);
		assert_int_equal(
			fixture_outcome(f, fixture_lock(f, other, "k", "x", 60000)), OUT_OK);
		begin_to_count(f);
		uint64_t tag = fixture_lock_wait(f, FAR, "k", "y", 60000, WAIT_MS);
		fixture_run_ms(f, 10000);
		assert_null(fixture_result(f, tag));
		assert_true(count_of[MSG_TURN] < 30);
		fixture_let_go(f);
		assert_int_equal(fixture_outcome(f, fixture_release(f, other, "k", "x")), OUT_OK);
		fixture_run_ms(f, 2500);
		assert_true(granted(f, tag));
		fixture_free(f);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(first_come_first_served),
		cmocka_unit_test(called_when_a_lease_ends),
		cmocka_unit_test(nobody_asks_in_vain),
		cmocka_unit_test(who_does_not_come_is_passed_over),
		cmocka_unit_test(the_home_dies),
		cmocka_unit_test(behind_a_promise),
		cmocka_unit_test(the_home_does_not_know),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
