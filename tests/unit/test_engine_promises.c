/* Promises (protocol.md 2.11), quorum reads (2.6) and restarts (2.8) of the engine. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "cluster_fixture.h"

static uint64_t promises(const struct fixture *f, unsigned id)
{
	return fixture_stats(f, id).promises;
}

static const struct result *result_of(struct fixture *f, uint64_t tag)
{
	const struct fixture_result *r = fixture_result(f, tag);
	assert_non_null(r);
	return &r->r;
}

/* The coordinator dies with a promise at one other master, or at both. */
static void orphan(struct fixture *f, unsigned votes, uint32_t ttl_ms)
{
	if (votes == 1)
		fixture_lose(f, 1, 3, MSG_TRYLOCK);
	fixture_delay_reply(f, 0, 1, MSG_TRYLOCK);
	(void)fixture_lock(f, 1, "k", "x", ttl_ms);
	fixture_crash(f, 1);
	fixture_let_go(f);
	assert_int_equal(promises(f, 2), 1);
	assert_int_equal(promises(f, 3), votes - 1);
}

static void test_promise_of_a_minority_dissolves(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(5, NULL);
	fixture_lose(f, 1, 3, MSG_TRYLOCK);
	fixture_lose(f, 1, 4, MSG_TRYLOCK);
	fixture_lose(f, 1, 5, MSG_TRYLOCK);
	fixture_delay_reply(f, 0, 1, MSG_TRYLOCK);
	(void)fixture_lock(f, 1, "k", "x", 60000);
	fixture_crash(f, 1);
	fixture_let_go(f);
	assert_int_equal(promises(f, 2), 1);
	fixture_run_ms(f, 1900);
	assert_int_equal(promises(f, 2), 1); /* a running attempt is left alone */
	fixture_run_ms(f, 4200);
	assert_int_equal(promises(f, 2), 0);
	assert_int_equal(fixture_stats(f, 2).dissolved, 1);
	uint64_t y = fixture_lock(f, 2, "k", "y", 1000);
	assert_int_equal(fixture_outcome(f, y), OUT_OK);
	assert_int_equal(result_of(f, y)->votes, 3);
	fixture_free(f);
}

/* With three masters both others are needed to say so: the dead one back, after its quarantine. */
static void test_promise_waits_for_the_restarted_master(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, NULL);
	orphan(f, 1, 60000);
	fixture_run_ms(f, 10000);
	assert_int_equal(promises(f, 2), 1);
	fixture_restart(f, 1);
	fixture_run_ms(f, 10000);
	assert_int_equal(promises(f, 2), 1); /* quarantine is no answer */
	fixture_activate(f, 1, 0);
	fixture_run_ms(f, 5000);
	assert_int_equal(promises(f, 2), 0);
	assert_int_equal(fixture_outcome(f, fixture_lock(f, 3, "k", "y", 1000)), OUT_OK);
	fixture_free(f);
}

static void test_promise_of_a_majority_ends_with_its_lease(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, NULL);
	orphan(f, 2, 12000);
	uint64_t y = fixture_lock(f, 3, "k", "y", 1000);
	fixture_run_ms(f, 11500);
	assert_int_equal(result_of(f, y)->outcome, OUT_BUSY);
	assert_int_equal(promises(f, 2) + promises(f, 3), 2);
	fixture_run_ms(f, 600);
	assert_int_equal(promises(f, 2) + promises(f, 3), 0);
	assert_int_equal(fixture_outcome(f, fixture_lock(f, 3, "k", "y", 1000)), OUT_OK);
	fixture_free(f);
}

static void test_lost_confirm_is_repaired_by_query(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, NULL);
	fixture_lose(f, 1, 0, MSG_CONFIRM);
	assert_int_equal(fixture_outcome(f, fixture_lock(f, 1, "k", "x", 60000)), OUT_OK);
	f->n_rules = 0;
	assert_int_equal(promises(f, 2) + promises(f, 3), 2);
	assert_int_equal(fixture_outcome(f, fixture_read(f, 2, "k", false)), OUT_NULL);
	fixture_run_ms(f, 2100);
	assert_int_equal(promises(f, 2) + promises(f, 3), 0);
	assert_int_equal(fixture_stats(f, 1).queries, 2);
	for (unsigned id = 2; id <= 3; id++)
		assert_int_equal(fixture_outcome(f, fixture_read(f, id, "k", false)), OUT_OK);
	fixture_free(f);
}

static void test_lost_abort_is_repaired_by_query(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, NULL);
	fixture_lose_reply(f, 0, 1, MSG_TRYLOCK);
	fixture_lose(f, 1, 0, MSG_ABORT);
	uint64_t x = fixture_lock(f, 1, "k", "x", 60000);
	fixture_run_ms(f, 2001);
	assert_int_equal(result_of(f, x)->outcome, OUT_NOQUORUM);
	f->n_rules = 0;
	fixture_run_ms(f, 2500);
	assert_int_equal(promises(f, 2) + promises(f, 3), 0);
	assert_int_equal(fixture_outcome(f, fixture_lock(f, 2, "k", "y", 1000)), OUT_OK);
	fixture_free(f);
}

/* Somebody extends an attempt by its value while its coordinator is about to give it up. */
static void test_abort_spares_what_was_adopted(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, NULL);
	fixture_lose_reply(f, 0, 1, MSG_TRYLOCK);
	uint64_t x = fixture_lock(f, 1, "k", "x", 60000);
	uint64_t adopted = fixture_extend(f, 2, "k", "x", 60000);
	assert_int_equal(fixture_outcome(f, adopted), OUT_OK);
	fixture_run_ms(f, 2001);
	assert_int_not_equal(result_of(f, x)->outcome, OUT_OK);
	for (unsigned id = 1; id <= 3; id++) {
		uint64_t tag = fixture_read(f, id, "k", true);
		assert_int_equal(fixture_outcome(f, tag), OUT_OK);
		assert_int_equal(result_of(f, tag)->token, result_of(f, adopted)->token);
	}
	fixture_free(f);
}

/* Answers collected against a promise are void once an EXTEND has made a lock of it. */
static void test_extend_drops_the_answers_against_a_promise(void **state)
{
	(void)state;
	for (unsigned twist = 0; twist < 2; twist++) {
		struct fixture *f = fixture_new(3, NULL);
		fixture_status(f, 1, NODE_QUARANTINE); /* coordinates only */
		fixture_lose(f, 1, 3, MSG_TRYLOCK);
		fixture_lose(f, 1, 0, MSG_ABORT);
		fixture_lose(f, 2, 1, MSG_QUERY);
		(void)fixture_lock(f, 1, "k", "x", 60000);
		fixture_status(f, 1, NODE_ACTIVE);
		fixture_delay_reply(f, 1, 2, MSG_READ);
		fixture_run_ms(f, 4500);
		assert_int_equal(
			promises(f, 2), 1); /* 3 has answered, the answer of 1 is under way */
		if (twist == 1)
			(void)fixture_extend(f, 2, "k", "x", 60000);
		fixture_let_go(f);
		fixture_run_ms(f, 5);
		struct engine_stats s = fixture_stats(f, 2);
		assert_int_equal(s.leases, twist);
		assert_int_equal(s.promises, 0);
		assert_int_equal(s.dissolved, 1 - twist);
		fixture_free(f);
	}
}

/* ---- quorum reads ---- */

/* A ghost on one master is not there, for every reader and every majority. */
static void test_read_ignores_a_ghost_of_a_minority(void **state)
{
	(void)state;
	for (unsigned n = 3; n <= 5; n += 2) {
		for (unsigned reader = 1; reader <= n; reader++) {
			struct fixture *f = fixture_new(n, NULL);
			fixture_lose(f, 1, n, MSG_RELEASE);
			fixture_lock(f, 1, "k", "x", 60000);
			assert_int_equal(
				fixture_outcome(f, fixture_release(f, 1, "k", "x")), OUT_OK);
			f->n_rules = 0;
			assert_int_equal(fixture_stats(f, n).leases, 1);
			uint64_t tag = fixture_read(f, reader, "k", true);
			assert_int_equal(fixture_outcome(f, tag), OUT_NULL);
			/* The sealed ghost cannot be extended either. */
			tag = fixture_extend(f, reader, "k", "x", 60000);
			assert_int_equal(fixture_outcome(f, tag), OUT_NOTFOUND);
			fixture_free(f);
		}
	}
}

/* A read that has said "free" stays right: the vote it did not see comes too late. */
static void test_read_seals_against_late_votes(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, NULL);
	/* The free ones must not agree at first sight: an older lock that 3 knows nothing of. */
	fixture_cut(f, 1, 3, true);
	fixture_lock(f, 1, "k", "old", 1000);
	assert_int_equal(fixture_outcome(f, fixture_release(f, 1, "k", "old")), OUT_OK);
	fixture_cut(f, 1, 3, false);
	fixture_delay(f, 1, 2, MSG_TRYLOCK);
	fixture_delay(f, 1, 3, MSG_TRYLOCK);
	uint64_t x = fixture_lock(f, 1, "k", "x", 60000); /* promise at 1 only */
	uint64_t tag = fixture_read(f, 2, "k", true);
	assert_int_equal(fixture_outcome(f, tag), OUT_NULL);
	for (unsigned i = f->mail_head; i != f->mail_tail; i++)
		f->mail[i % MAIL_MAX].delayed = false;
	/* Every new attempt is lost: were x granted now, it would be the old one. */
	f->n_rules = 0;
	fixture_lose(f, 1, 0, MSG_TRYLOCK);
	fixture_settle(f);
	fixture_run_ms(f, 100);
	const struct fixture_result *r = fixture_result(f, x);
	assert_true(r == NULL || r->r.outcome != OUT_OK);
	assert_int_equal(promises(f, 2) + promises(f, 3), 0);
	fixture_free(f);
}

/* A master without the key and one with it: the third decides, or nobody. */
static void test_read_of_a_minority_copy_needs_the_third(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, NULL);
	fixture_lose(f, 1, 3, MSG_TRYLOCK);
	assert_int_equal(fixture_outcome(f, fixture_lock(f, 1, "k", "x", 60000)), OUT_OK);
	f->n_rules = 0;
	uint64_t tag = fixture_read(f, 3, "k", true);
	assert_int_equal(fixture_outcome(f, tag), OUT_OK);
	fixture_crash(f, 1);
	tag = fixture_read(f, 3, "k", true); /* 2 has it, 3 has not */
	fixture_run_ms(f, 2001);
	assert_int_equal(result_of(f, tag)->outcome, OUT_NOQUORUM);
	fixture_free(f);
}

/* An update that reached one master of its majority is finished or undone by whoever comes next. */
static void test_half_done_update_is_healed(void **state)
{
	(void)state;
	for (unsigned healer = 0; healer < 6; healer++) {
		struct fixture *f = fixture_new(3, NULL);
		fixture_lock(f, 1, "k", "x", 60000);
		/* The new value is at 1 alone, or at 1 and 2 without anybody knowing. */
		fixture_lose(f, 1, 3, MSG_ACCEPT);
		if (healer % 2 == 0)
			fixture_lose(f, 1, 2, MSG_ACCEPT);
		else
			fixture_lose_reply(f, 2, 1, MSG_ACCEPT);
		uint64_t tag = fixture_update(f, 1, "k", "x", "new");
		fixture_run_ms(f, 2001);
		assert_int_equal(result_of(f, tag)->outcome, OUT_UNKNOWN);
		f->n_rules = 0;
		fixture_link(f, 1, 3, healer < 2); /* different pairs answer */
		fixture_link(f, 2, 3, healer < 4);
		unsigned at = healer < 4 ? 2 : 1;
		tag = fixture_read(f, at, "k", true);
		fixture_run_ms(f, 200);
		assert_int_equal(result_of(f, tag)->outcome, OUT_OK);
		bool done = fixture_result(f, tag)->value[0] == 'n';
		assert_true(done || healer % 2 == 0);
		tag = fixture_extend(f, at, "k", done ? "new" : "x", 60000);
		fixture_run_ms(f, 200);
		assert_int_equal(result_of(f, tag)->outcome, OUT_OK);
		tag = fixture_read(f, at, "k", true);
		fixture_run_ms(f, 200);
		assert_string_equal(fixture_result(f, tag)->value, done ? "new" : "x");
		fixture_free(f);
	}
}

/* EXTEND by value meets the old and the new value: it settles first which it is. */
static void test_extend_heals_a_half_done_update(void **state)
{
	(void)state;
	for (unsigned id = 1; id <= 3; id++) {
		struct fixture *f = fixture_new(3, NULL);
		fixture_lock(f, 1, "k", "x", 60000);
		fixture_lose(f, 1, 3, MSG_ACCEPT);
		fixture_lose_reply(f, 2, 1, MSG_ACCEPT);
		(void)fixture_update(f, 1, "k", "x", "new"); /* at 1 and 2 */
		fixture_run_ms(f, 2001);
		f->n_rules = 0;
		uint64_t tag = fixture_extend(f, id, "k", "new", 60000);
		fixture_run_ms(f, 200);
		assert_int_equal(result_of(f, tag)->outcome, OUT_OK);
		assert_int_equal(
			fixture_outcome(f, fixture_extend(f, id, "k", "x", 1000)), OUT_NOTOWNER);
		fixture_free(f);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_promise_of_a_minority_dissolves),
		cmocka_unit_test(test_promise_waits_for_the_restarted_master),
		cmocka_unit_test(test_promise_of_a_majority_ends_with_its_lease),
		cmocka_unit_test(test_lost_confirm_is_repaired_by_query),
		cmocka_unit_test(test_lost_abort_is_repaired_by_query),
		cmocka_unit_test(test_abort_spares_what_was_adopted),
		cmocka_unit_test(test_extend_drops_the_answers_against_a_promise),
		cmocka_unit_test(test_read_ignores_a_ghost_of_a_minority),
		cmocka_unit_test(test_read_seals_against_late_votes),
		cmocka_unit_test(test_read_of_a_minority_copy_needs_the_third),
		cmocka_unit_test(test_half_done_update_is_healed),
		cmocka_unit_test(test_extend_heals_a_half_done_update),
	};
	return cmocka_run_group_tests_name("engine_promises", tests, NULL, NULL);
}
