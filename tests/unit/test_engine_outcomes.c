/* Every cell of the outcome tables of commands.md, and the options of the commands. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>

#include "cluster_fixture.h"

static struct op_request request(enum op_kind kind, const char *value)
{
	return (struct op_request){.kind = kind,
		.key = bytes_str("k"),
		.value = bytes_str(value),
		.new_value = bytes_str("new"),
		.ttl_ms = 10000,
		.has_ttl = kind == OP_LOCK || kind == OP_EXTEND};
}

static const struct result *result_of(struct fixture *f, uint64_t tag)
{
	const struct fixture_result *r = fixture_result(f, tag);
	assert_non_null(r);
	return &r->r;
}

static const enum op_kind holder_kinds[] = {OP_EXTEND, OP_RELEASE, OP_UPDATE};

/* Column one: fewer than a quorum of links up. */
static void test_outcome_noquorum_when_nothing_can_be_sent(void **state)
{
	(void)state;
	static const enum op_kind kinds[] = {
		OP_LOCK, OP_EXTEND, OP_RELEASE, OP_UPDATE, OP_READ_QUORUM, OP_LAG};
	for (unsigned n = 3; n <= 5; n += 2) {
		struct fixture *f = fixture_new(n, NULL);
		for (unsigned id = 2; id <= n; id++)
			if (id > n / 2)
				fixture_link(f, 1, id, false);
		for (unsigned i = 0; i < 6; i++) {
			uint64_t sent = fixture_stats(f, 1).msgs_out;
			uint64_t tag = fixture_op(f, 1, request(kinds[i], "x"));
			const struct result *r = result_of(f, tag);
			assert_int_equal(r->outcome, OUT_NOQUORUM);
			assert_false(r->sent);
			assert_int_equal(r->answered, n / 2);
			assert_int_equal(r->masters, n);
			assert_int_equal(r->quorum, n / 2 + 1);
			assert_int_equal(fixture_stats(f, 1).msgs_out, sent);
		}
		assert_int_equal(fixture_stats(f, 1).ops, 0);
		assert_int_equal(fixture_stats(f, 1).promises, 0);
		fixture_free(f);
	}
}

/* Column two: sent, and no majority answered in time. */
static void test_outcome_of_silence(void **state)
{
	(void)state;
	static const struct {
		enum op_kind kind;
		enum outcome outcome;
	} rows[] = {{OP_LOCK, OUT_NOQUORUM}, {OP_EXTEND, OUT_UNKNOWN}, {OP_RELEASE, OUT_UNKNOWN},
		{OP_UPDATE, OUT_UNKNOWN}, {OP_READ_QUORUM, OUT_NOQUORUM}, {OP_LAG, OUT_NOQUORUM}};
	for (unsigned i = 0; i < 6; i++) {
		for (unsigned id = 1; id <= 2; id++) {
			struct fixture *f = fixture_new(3, NULL);
			if (rows[i].kind != OP_LOCK && rows[i].kind != OP_LAG)
				fixture_lock(f, 1, "k", "x", 60000);
			for (unsigned k = 1; k <= 3; k++)
				for (unsigned m = k + 1; m <= 3; m++)
					fixture_cut(f, k, m, true);
			uint64_t tag = fixture_op(f, id, request(rows[i].kind, "x"));
			assert_null(fixture_result(f, tag));
			fixture_run_ms(f, 2001); /* op-timeout */
			const struct result *r = result_of(f, tag);
			assert_int_equal(r->outcome, rows[i].outcome);
			assert_true(r->sent);
			assert_int_equal(r->answered, 1);
			fixture_free(f);
		}
	}
}

/* The abort after silence frees the key at once for those who hear it. */
static void test_outcome_lock_noquorum_sends_abort(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, NULL);
	fixture_lose_reply(f, 2, 1, MSG_TRYLOCK);
	fixture_lose_reply(f, 3, 1, MSG_TRYLOCK);
	uint64_t tag = fixture_lock(f, 1, "k", "x", 60000);
	fixture_run_ms(f, 2001);
	assert_int_equal(result_of(f, tag)->outcome, OUT_NOQUORUM);
	for (unsigned id = 1; id <= 3; id++)
		assert_int_equal(fixture_stats(f, id).promises, 0);
	fixture_free(f);
}

/* Column three: refused by a blocking set. */
static void test_outcome_of_refusals(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, NULL);
	for (unsigned id = 1; id <= 3; id++)
		for (unsigned i = 0; i < 3; i++) {
			uint64_t tag = fixture_op(f, id, request(holder_kinds[i], "x"));
			assert_int_equal(fixture_outcome(f, tag), OUT_NOTFOUND);
		}
	fixture_lock(f, 2, "k", "x", 60000);
	for (unsigned id = 1; id <= 3; id++) {
		for (unsigned i = 0; i < 3; i++) {
			uint64_t tag = fixture_op(f, id, request(holder_kinds[i], "y"));
			assert_int_equal(fixture_outcome(f, tag), OUT_NOTOWNER);
		}
		uint64_t tag = fixture_op(f, id, request(OP_LOCK, "y"));
		assert_int_equal(fixture_outcome(f, tag), OUT_HELD);
	}
	assert_int_equal(fixture_outcome(f, fixture_release(f, 2, "k", "x")), OUT_OK);
	fixture_free(f);
}

/* Nothing but promises of rivals in the way, until the time is out. */
static void test_outcome_busy_behind_rival_promises(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, NULL);
	fixture_delay_reply(f, 0, 1, MSG_TRYLOCK);
	fixture_lose(f, 1, 0, MSG_ABORT);
	fixture_lose(f, 1, 0, MSG_CONFIRM);
	(void)fixture_lock(f, 1, "k", "x", 60000);
	fixture_crash(f, 1);
	fixture_run_ms(f, 1);
	uint64_t y = fixture_lock(f, 2, "k", "y", 1000);
	fixture_run_ms(f, 2001);
	assert_int_equal(result_of(f, y)->outcome, OUT_BUSY);
	/* WAIT 0 is no less persistent against rivals than no WAIT. */
	y = fixture_lock_wait(f, 2, "k", "y", 1000, 0);
	fixture_run_ms(f, 2001);
	assert_int_equal(result_of(f, y)->outcome, OUT_BUSY);
	fixture_free(f);
}

static void few_leases(struct engine_config *cfg)
{
	cfg->max_leases = 4;
	cfg->max_ops = 16;
	cfg->max_waiters_per_key = 3;
}

/* A quorum is there, and the key is not to be had: one of the two that are left has the promise of
 * a dead coordinator, or the lease that it granted. Neither is a missing quorum; while the
 * coordinator is only silent, it is one: it may have voted for y. */
/* One master has kept another lock than the others: the first two answers do not tell which of them
 * is held. A LOCK that did not hear the third asked again and again, until its time was over. */
static void test_outcome_where_one_master_holds_another_lock(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, NULL);
	struct ballot orphan = {engine_hlc(f->node[2].engine) + 1, f->node[2].cfg.cid};
	fixture_msg(f, 2, 1,
		(struct msg){.type = MSG_TRYLOCK,
			.key = bytes_str("k"),
			.uid = orphan,
			.lease_ms = 60000,
			.node = 2,
			.value = bytes_str("orphan"),
			.flags = MSG_HAS_VALUE});
	fixture_msg(
		f, 2, 1, (struct msg){.type = MSG_CONFIRM, .key = bytes_str("k"), .uid = orphan});
	uint64_t tag = fixture_lock(f, 2, "k", "x", 60000);
	assert_int_equal(fixture_outcome(f, tag), OUT_OK);
	uint64_t token = result_of(f, tag)->token;
	assert_int_equal(fixture_outcome(f, fixture_lock(f, 1, "k", "y", 60000)), OUT_HELD);
	struct op_request again = request(OP_LOCK, "x");
	again.idempotent = true;
	tag = fixture_op(f, 1, again);
	assert_int_equal(fixture_outcome(f, tag), OUT_OK);
	assert_int_equal(result_of(f, tag)->token, token);
	fixture_free(f);
}

static void test_outcome_with_a_master_away(void **state)
{
	(void)state;
	static const struct {
		bool granted, silent;
		enum outcome outcome;
	} rows[] = {{false, false, OUT_BUSY}, {true, false, OUT_HELD}, {false, true, OUT_NOQUORUM},
		{true, true, OUT_NOQUORUM}};
	for (unsigned i = 0; i < 4; i++) {
		struct fixture *f = fixture_new(3, NULL);
		fixture_lose(f, 1, 3, 0);
		if (!rows[i].granted)
			fixture_lose_reply(f, 2, 1, MSG_TRYLOCK);
		(void)fixture_lock(f, 1, "k", "x", 60000);
		if (rows[i].silent)
			fixture_pause(f, 1, true);
		else
			fixture_crash(f, 1);
		fixture_run_ms(f, 1);
		uint64_t tag = fixture_lock(f, 3, "k", "y", 1000);
		fixture_run_ms(f, 2001);
		assert_int_equal(result_of(f, tag)->outcome, rows[i].outcome);
		assert_int_equal(result_of(f, tag)->answered, 2);
		fixture_free(f);
	}
}

static void test_outcome_limit_of_leases(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, few_leases);
	const char *keys[] = {"a", "b", "c", "d", "e"};
	for (unsigned i = 0; i < 5; i++) {
		uint64_t tag = fixture_lock(f, 1 + i % 3, keys[i], "x", 1000);
		assert_int_equal(fixture_outcome(f, tag), i < 4 ? OUT_OK : OUT_LIMIT);
		if (i == 4)
			assert_non_null(result_of(f, tag)->limit);
	}
	assert_int_equal(fixture_outcome(f, fixture_release(f, 1, "a", "x")), OUT_OK);
	assert_int_equal(fixture_outcome(f, fixture_lock(f, 2, "e", "x", 1000)), OUT_OK);
	assert_int_equal(fixture_outcome(f, fixture_lock(f, 2, "f", "x", 1000)), OUT_LIMIT);
	fixture_free(f);
}

static void test_outcome_limit_of_waiters_and_operations(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, few_leases);
	fixture_lock(f, 1, "k", "x", 60000);
	uint64_t tag = 0;
	for (unsigned i = 0; i < 4; i++) {
		tag = fixture_lock_wait(f, 1, "k", "w", 1000, 1000);
		assert_true((fixture_result(f, tag) != NULL) == (i == 3));
	}
	assert_int_equal(result_of(f, tag)->outcome, OUT_LIMIT);
	assert_non_null(result_of(f, tag)->limit);
	tag = fixture_op(f, 1,
		(struct op_request){.kind = OP_WAITRELEASE, .key = bytes_str("k"), .wait_ms = 100});
	assert_int_equal(result_of(f, tag)->outcome, OUT_LIMIT);
	for (unsigned i = 0; i < 13; i++) {
		char key[8];
		(void)snprintf(key, sizeof key, "w%u", i);
		tag = fixture_op(f, 1,
			(struct op_request){
				.kind = OP_WAITFOR, .key = bytes_str(key), .wait_ms = 100});
		assert_null(fixture_result(f, tag));
	}
	for (unsigned i = 0; i < 4; i++) {
		tag = fixture_op(f, 1, request(i == 3 ? OP_LOCK : holder_kinds[i], "x"));
		assert_int_equal(result_of(f, tag)->outcome, OUT_LIMIT);
		assert_non_null(result_of(f, tag)->limit);
	}
	/* Looking at the own copy needs no place. */
	assert_int_equal(fixture_outcome(f, fixture_read(f, 1, "k", false)), OUT_OK);
	fixture_run_ms(f, 200);
	assert_int_equal(fixture_outcome(f, fixture_release(f, 1, "k", "x")), OUT_OK);
	fixture_free(f);
}

/* A node without a copy says so, and coordinates all the same. */
static void test_outcome_notready_in_quarantine(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, NULL);
	fixture_lock(f, 1, "k", "x", 60000);
	fixture_crash(f, 3);
	fixture_restart(f, 3);
	static const enum op_kind local[] = {OP_READ, OP_WAITFOR, OP_WAITRELEASE};
	for (unsigned i = 0; i < 3; i++) {
		uint64_t tag = fixture_op(f, 3, request(local[i], ""));
		assert_int_equal(result_of(f, tag)->outcome, OUT_NOTREADY);
	}
	uint64_t tag = fixture_read(f, 3, "k", true);
	assert_int_equal(fixture_outcome(f, tag), OUT_OK);
	assert_int_equal(fixture_outcome(f, fixture_extend(f, 3, "k", "x", 10000)), OUT_OK);
	assert_int_equal(fixture_outcome(f, fixture_lock(f, 3, "k", "y", 10000)), OUT_HELD);
	assert_int_equal(fixture_outcome(f, fixture_update(f, 3, "k", "x", "z")), OUT_OK);
	assert_int_equal(fixture_outcome(f, fixture_release(f, 3, "k", "z")), OUT_OK);
	tag = fixture_lock(f, 3, "k", "y", 10000);
	assert_int_equal(fixture_outcome(f, tag), OUT_OK);
	assert_int_equal(result_of(f, tag)->votes, 2);
	fixture_free(f);
}

static uint64_t with_token(struct fixture *f, unsigned id, struct op_request r, uint64_t token)
{
	r.has_token = true;
	r.token = token;
	return fixture_op(f, id, r);
}

static void test_token_names_exactly_that_grant(void **state)
{
	(void)state;
	for (unsigned id = 1; id <= 3; id++) {
		struct fixture *f = fixture_new(3, NULL);
		uint64_t token = result_of(f, fixture_lock(f, 1, "k", "x", 60000))->token;
		for (unsigned i = 0; i < 3; i++) {
			struct op_request r = request(holder_kinds[i], "x");
			assert_int_equal(
				fixture_outcome(f, with_token(f, id, r, token + 1)), OUT_NOTOWNER);
			assert_int_equal(
				fixture_outcome(f, with_token(f, id, r, token - 1)), OUT_NOTOWNER);
			r.value = bytes_str("y");
			assert_int_equal(
				fixture_outcome(f, with_token(f, id, r, token)), OUT_NOTOWNER);
		}
		uint64_t tag = with_token(f, id, request(OP_EXTEND, "x"), token);
		assert_int_equal(fixture_outcome(f, tag), OUT_OK);
		assert_int_equal(result_of(f, tag)->token, token);
		tag = with_token(f, id, request(OP_UPDATE, "x"), token);
		assert_int_equal(fixture_outcome(f, tag), OUT_OK);
		assert_int_equal(result_of(f, tag)->token, token);
		tag = with_token(f, id, request(OP_RELEASE, "new"), token);
		assert_int_equal(fixture_outcome(f, tag), OUT_OK);
		assert_int_equal(result_of(f, tag)->token, token);
		fixture_free(f);
	}
}

/* A client's token is its own word: it moves no clock of ours. */
static void test_token_of_a_client_moves_no_clock(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, NULL);
	uint64_t before = result_of(f, fixture_lock(f, 1, "k", "x", 60000))->token;
	uint64_t year_us = UINT64_C(31536000000000);
	for (unsigned i = 0; i < 6; i++) {
		uint64_t token = i < 3 ? before + year_us : BALLOT_MAX;
		uint64_t tag = with_token(f, 2, request(holder_kinds[i % 3], "x"), token);
		assert_int_equal(fixture_outcome(f, tag), OUT_NOTOWNER);
	}
	uint64_t after = result_of(f, fixture_lock(f, 1, "q", "x", 60000))->token;
	assert_in_range(after, before + 1, before + year_us / 2);
	fixture_free(f);
}

/* After UNKNOWN the same UPDATE with TOKEN is the same success, done or not. */
static void test_update_repeated_after_unknown(void **state)
{
	(void)state;
	for (unsigned lost = 0; lost < 2; lost++) {
		for (unsigned again = 1; again <= 3; again++) {
			struct fixture *f = fixture_new(3, NULL);
			uint64_t token = result_of(f, fixture_lock(f, 1, "k", "x", 60000))->token;
			if (lost)
				fixture_lose(f, 2, 0, MSG_ACCEPT);
			else
				fixture_lose_reply(f, 0, 2, MSG_ACCEPT);
			uint64_t tag = with_token(f, 2, request(OP_UPDATE, "x"), token);
			fixture_run_ms(f, 2001);
			assert_int_equal(result_of(f, tag)->outcome, OUT_UNKNOWN);
			fixture_let_go(f);
			for (unsigned i = 0; i < 2; i++) {
				tag = with_token(f, again, request(OP_UPDATE, "x"), token);
				assert_int_equal(fixture_outcome(f, tag), OUT_OK);
				assert_int_equal(result_of(f, tag)->token, token);
			}
			tag = fixture_read(f, 1, "k", true);
			assert_string_equal(fixture_result(f, tag)->value, "new");
			/* Without the token nobody can tell whose it is. */
			tag = fixture_op(f, again, request(OP_UPDATE, "x"));
			assert_int_equal(fixture_outcome(f, tag), OUT_NOTOWNER);
			fixture_free(f);
		}
	}
}

/* The value and the lease move in one step; without has_ttl the end stays. */
static void test_update_with_and_without_ttl(void **state)
{
	(void)state;
	for (unsigned id = 1; id <= 3; id++) {
		struct fixture *f = fixture_new(3, NULL);
		fixture_lock(f, 1, "k", "x", 1000);
		fixture_run_ms(f, 400);
		uint64_t tag = fixture_update(f, id, "k", "x", "y");
		assert_int_equal(fixture_outcome(f, tag), OUT_OK);
		assert_in_range(result_of(f, tag)->valid_ms, 500, 600);
		struct op_request r = request(OP_UPDATE, "y");
		r.has_ttl = true;
		r.ttl_ms = 5000;
		tag = fixture_op(f, id, r);
		assert_int_equal(fixture_outcome(f, tag), OUT_OK);
		assert_in_range(result_of(f, tag)->valid_ms, 4980, 4999);
		fixture_run_ms(f, 4900);
		tag = fixture_read(f, id, "k", true);
		assert_string_equal(fixture_result(f, tag)->value, "new");
		/* A shorter one takes nothing away. */
		r = request(OP_UPDATE, "new");
		r.has_ttl = true;
		r.ttl_ms = 1;
		tag = fixture_op(f, id, r);
		assert_int_equal(fixture_outcome(f, tag), OUT_OK);
		assert_true(result_of(f, tag)->valid_ms > 50);
		fixture_run_ms(f, 102);
		assert_int_equal(fixture_outcome(f, fixture_read(f, id, "k", true)), OUT_NULL);
		fixture_free(f);
	}
}

static void test_lock_of_one_millisecond(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, NULL);
	uint64_t last = 0;
	for (unsigned i = 0; i < 10; i++) {
		uint64_t tag = fixture_lock(f, 1 + i % 3, "k", "x", 1);
		assert_int_equal(fixture_outcome(f, tag), OUT_OK);
		assert_int_equal(result_of(f, tag)->valid_ms, 0); /* too short to be believed */
		assert_true(result_of(f, tag)->token > last);
		last = result_of(f, tag)->token;
		fixture_run_ms(f, 3);
	}
	fixture_free(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_outcome_noquorum_when_nothing_can_be_sent),
		cmocka_unit_test(test_outcome_of_silence),
		cmocka_unit_test(test_outcome_lock_noquorum_sends_abort),
		cmocka_unit_test(test_outcome_of_refusals),
		cmocka_unit_test(test_outcome_busy_behind_rival_promises),
		cmocka_unit_test(test_outcome_where_one_master_holds_another_lock),
		cmocka_unit_test(test_outcome_with_a_master_away),
		cmocka_unit_test(test_outcome_limit_of_leases),
		cmocka_unit_test(test_outcome_limit_of_waiters_and_operations),
		cmocka_unit_test(test_outcome_notready_in_quarantine),
		cmocka_unit_test(test_token_names_exactly_that_grant),
		cmocka_unit_test(test_token_of_a_client_moves_no_clock),
		cmocka_unit_test(test_update_repeated_after_unknown),
		cmocka_unit_test(test_update_with_and_without_ttl),
		cmocka_unit_test(test_lock_of_one_millisecond),
	};
	return cmocka_run_group_tests_name("engine_outcomes", tests, NULL, NULL);
}
