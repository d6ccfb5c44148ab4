/* The voter by itself: requests out of nowhere, late, twice or with the wrong name (protocol.md
 * 2.5), and answers that come when their round is over. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "cluster_fixture.h"

static const struct result *result_of(struct fixture *f, uint64_t tag)
{
	const struct fixture_result *r = fixture_result(f, tag);
	assert_non_null(r);
	return &r->r;
}

static struct ballot ballot_after(struct fixture *f, uint64_t more)
{
	return (struct ballot){engine_hlc(f->node[1].engine) + more, 77};
}

static void trylock(
	struct fixture *f, struct ballot uid, struct ballot prev, uint8_t flags, uint32_t lease_ms)
{
	fixture_msg(f, 2, 1,
		(struct msg){.type = MSG_TRYLOCK,
			.key = bytes_str("k"),
			.uid = uid,
			.prev = prev,
			.lease_ms = lease_ms,
			.node = 2,
			.value = bytes_str("v"),
			.flags = flags | MSG_HAS_VALUE,
			.req = 1});
}

static void send_uid(struct fixture *f, enum msg_type type, struct ballot uid)
{
	fixture_msg(
		f, 2, 1, (struct msg){.type = (uint8_t)type, .key = bytes_str("k"), .uid = uid});
}

static uint64_t held_token(struct fixture *f)
{
	uint64_t tag = fixture_read(f, 1, "k", false);
	return result_of(f, tag)->outcome == OUT_OK ? result_of(f, tag)->token : 0;
}

static void test_master_replaces_only_abandoned_attempts(void **state)
{
	(void)state;
	struct ballot none = {0};
	for (unsigned i = 0; i < 4; i++) {
		struct fixture *f = fixture_new(3, NULL);
		struct ballot a = ballot_after(f, 10), b = ballot_after(f, 20);
		bool confirmed = i & 1, released = i & 2;
		trylock(f, a, none, 0, 10000);
		if (confirmed)
			send_uid(f, MSG_CONFIRM, a);
		trylock(f, b, a, released ? MSG_PREV_RELEASED : 0, 10000);
		send_uid(f, MSG_CONFIRM, b);
		assert_int_equal(held_token(f), confirmed && !released ? a.n : b.n);
		/* Another prev than the one that is there removes nothing. */
		struct ballot c = ballot_after(f, 30);
		trylock(f, c, (struct ballot){a.n, 78}, MSG_PREV_RELEASED, 10000);
		send_uid(f, MSG_CONFIRM, c);
		assert_int_equal(held_token(f), confirmed && !released ? a.n : b.n);
		fixture_free(f);
	}
}

static void test_master_keeps_the_end_of_a_repeated_vote(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, NULL);
	struct ballot a = ballot_after(f, 10);
	trylock(f, a, (struct ballot){0}, 0, 1000);
	fixture_run_ms(f, 900);
	trylock(f, a, (struct ballot){0}, 0, 60000);
	send_uid(f, MSG_CONFIRM, a);
	assert_int_equal(held_token(f), a.n);
	fixture_run_ms(f, 102);
	assert_int_equal(held_token(f), 0);
	trylock(f, a, (struct ballot){0}, 0, 60000); /* once more, after its end */
	send_uid(f, MSG_CONFIRM, a);
	assert_int_equal(held_token(f), 0);
	fixture_free(f);
}

static void test_master_obeys_names_exactly(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, NULL);
	struct ballot a = ballot_after(f, 10), other = {a.n, 78};
	trylock(f, a, (struct ballot){0}, 0, 60000);
	send_uid(f, MSG_CONFIRM, other);
	assert_int_equal(fixture_stats(f, 1).promises, 1);
	send_uid(f, MSG_CONFIRM, a);
	send_uid(f, MSG_ABORT, a); /* confirmed: spared */
	send_uid(f, MSG_RELEASE, other);
	send_uid(f, MSG_ABORT, other);
	struct msg guarded = {
		.type = MSG_RELEASE, .key = bytes_str("k"), .uid = a, .b = {a.n + 1, a.cid, 0}};
	fixture_msg(f, 2, 1, guarded);
	assert_int_equal(held_token(f), a.n);
	guarded.b.n = a.n;
	fixture_msg(f, 2, 1, guarded);
	assert_int_equal(held_token(f), 0);
	send_uid(f, MSG_CONFIRM, a); /* installs nothing */
	assert_int_equal(held_token(f), 0);
	fixture_free(f);
}

static void test_master_seals_what_it_has_not_seen(void **state)
{
	(void)state;
	static const enum msg_type types[] = {MSG_RELEASE, MSG_ABORT};
	for (unsigned i = 0; i < 2; i++) {
		struct fixture *f = fixture_new(3, NULL);
		struct ballot a = ballot_after(f, 10), b = ballot_after(f, 5),
			      c = ballot_after(f, 20);
		send_uid(f, types[i], a);
		trylock(f, a, (struct ballot){0}, 0, 60000);
		trylock(f, b, (struct ballot){0}, 0, 60000);
		assert_int_equal(fixture_stats(f, 1).promises, 0);
		trylock(f, c, (struct ballot){0}, 0, 60000);
		assert_int_equal(fixture_stats(f, 1).promises, 1);
		fixture_free(f);
	}
}

/* An ACCEPT below the promised ballot, or for another instance, writes nothing. */
static void test_master_accepts_only_what_it_promised(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, NULL);
	struct ballot a = ballot_after(f, 10);
	trylock(f, a, (struct ballot){0}, 0, 60000);
	send_uid(f, MSG_CONFIRM, a);
	fixture_msg(f, 2, 1,
		(struct msg){.type = MSG_PREPARE, .key = bytes_str("k"), .b = {a.n + 10, 77, 0}});
	struct msg accept = {.type = MSG_ACCEPT,
		.key = bytes_str("k"),
		.uid = a,
		.b = {a.n + 9, 99, 9},
		.value = bytes_str("w"),
		.flags = MSG_HAS_VALUE,
		.op_id = 1};
	fixture_msg(f, 2, 1, accept);
	accept.b = (struct version){a.n + 10, 77, 0};
	accept.uid.cid++;
	fixture_msg(f, 2, 1, accept);
	uint64_t tag = fixture_read(f, 1, "k", false);
	assert_string_equal(fixture_result(f, tag)->value, "v");
	accept.uid.cid--;
	fixture_msg(f, 2, 1, accept);
	accept.value = bytes_str("z"); /* the same ballot a second time */
	fixture_msg(f, 2, 1, accept);
	tag = fixture_read(f, 1, "k", false);
	assert_string_equal(fixture_result(f, tag)->value, "w");
	fixture_free(f);
}

/* A question about an attempt that still runs is not answered: its end will tell. */
static void test_coordinator_is_silent_about_running_attempts(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, NULL);
	fixture_delay_reply(f, 0, 1, MSG_TRYLOCK);
	uint64_t tag = fixture_lock(f, 1, "k", "x", 60000);
	struct ballot uid = {engine_hlc(f->node[1].engine), f->node[1].cfg.cid};
	fixture_msg(f, 2, 1, (struct msg){.type = MSG_QUERY, .key = bytes_str("k"), .uid = uid});
	assert_int_equal(fixture_stats(f, 2).promises, 1);
	fixture_let_go(f);
	assert_int_equal(fixture_outcome(f, tag), OUT_OK);
	assert_int_equal(result_of(f, tag)->token, uid.n);
	fixture_free(f);
}

/* The coordinator stood still for longer than T_att: answers that wait in its mailbox count no
 * more, whichever comes first, they or the timer. */
static void test_late_answers_do_not_count(void **state)
{
	(void)state;
	static const struct {
		enum op_kind kind;
		enum msg_type type;
		unsigned node;
	} rows[] = {{OP_EXTEND, MSG_EXTEND, 1}, {OP_RELEASE, MSG_RELEASE, 1},
		{OP_RELEASE, MSG_PREPARE, 2}, {OP_UPDATE, MSG_ACCEPT, 1},
		{OP_UPDATE, MSG_PREPARE, 2}, {OP_READ_QUORUM, MSG_READ, 1},
		{OP_LOCK, MSG_TRYLOCK, 1}};
	for (unsigned i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		struct fixture *f = fixture_new(3, NULL);
		if (rows[i].kind != OP_LOCK)
			fixture_lock(f, 1, "k", "x", 60000);
		fixture_delay_reply(f, 0, rows[i].node, rows[i].type);
		uint64_t tag = fixture_op(f, rows[i].node,
			(struct op_request){.kind = rows[i].kind,
				.key = bytes_str("k"),
				.value = bytes_str("x"),
				.new_value = bytes_str("y"),
				.ttl_ms = 60000,
				.has_ttl = rows[i].kind == OP_EXTEND});
		assert_null(fixture_result(f, tag));
		fixture_pause(f, rows[i].node, true);
		fixture_run_ms(f, 1500);
		uint64_t first_try = engine_hlc(f->node[1].engine);
		fixture_pause(f, rows[i].node, false);
		fixture_let_go(f); /* before the timer */
		const struct fixture_result *r = fixture_result(f, tag);
		assert_true(r == NULL || r->r.outcome != OUT_OK || r->r.token > first_try);
		fixture_run_ms(f, 1000);
		assert_non_null(fixture_result(f, tag));
		fixture_free(f);
	}
}

/* A peer gone mad may spoil its own key, not the clock of this node. */
static void test_master_survives_the_end_of_the_ballot_range(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, NULL);
	for (uint64_t back = 0; back < 3; back++) {
		fixture_msg(f, 2, 1,
			(struct msg){
				.type = MSG_READ, .key = bytes_str("k"), .n = BALLOT_MAX - back});
		send_uid(f, MSG_RELEASE, (struct ballot){BALLOT_MAX - back, 77});
		fixture_msg(f, 2, 1,
			(struct msg){.type = MSG_PREPARE,
				.key = bytes_str("k"),
				.b = {BALLOT_MAX - back, 77, 0}});
	}
	for (unsigned i = 0; i < 5; i++) {
		assert_int_equal(fixture_outcome(f, fixture_lock(f, 1, "q", "x", 1000)), OUT_OK);
		assert_int_equal(fixture_outcome(f, fixture_release(f, 1, "q", "x")), OUT_OK);
	}
	fixture_free(f);
}

/* Everything arrives two times: nothing is counted, done or undone twice. */
static void test_everything_twice_changes_nothing(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(5, NULL);
	f->twice = true;
	for (unsigned id = 1; id <= 5; id++) {
		unsigned other = id % 5 + 1;
		uint64_t tag = fixture_lock(f, id, "k", "x", 10000);
		assert_int_equal(fixture_outcome(f, tag), OUT_OK);
		assert_int_equal(
			fixture_outcome(f, fixture_lock(f, other, "k", "y", 500)), OUT_HELD);
		assert_int_equal(
			fixture_outcome(f, fixture_extend(f, other, "k", "x", 500)), OUT_OK);
		assert_int_equal(
			fixture_outcome(f, fixture_update(f, other, "k", "x", "y")), OUT_OK);
		assert_int_equal(fixture_outcome(f, fixture_update(f, id, "k", "y", "z")), OUT_OK);
		uint64_t read = fixture_read(f, other, "k", true);
		assert_string_equal(fixture_result(f, read)->value, "z");
		assert_int_equal(result_of(f, read)->token, result_of(f, tag)->token);
		assert_int_equal(fixture_outcome(f, fixture_release(f, other, "k", "z")), OUT_OK);
		assert_int_equal(
			fixture_outcome(f, fixture_release(f, id, "k", "z")), OUT_NOTFOUND);
	}
	/* Two masters that speak twice are not three. */
	for (unsigned id = 3; id <= 5; id++)
		fixture_cut(f, 1, id, true);
	uint64_t tag = fixture_lock(f, 1, "k", "x", 10000);
	fixture_run_ms(f, 2001);
	assert_int_equal(result_of(f, tag)->outcome, OUT_NOQUORUM);
	fixture_free(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_master_replaces_only_abandoned_attempts),
		cmocka_unit_test(test_master_keeps_the_end_of_a_repeated_vote),
		cmocka_unit_test(test_master_obeys_names_exactly),
		cmocka_unit_test(test_master_seals_what_it_has_not_seen),
		cmocka_unit_test(test_master_accepts_only_what_it_promised),
		cmocka_unit_test(test_coordinator_is_silent_about_running_attempts),
		cmocka_unit_test(test_master_survives_the_end_of_the_ballot_range),
		cmocka_unit_test(test_everything_twice_changes_nothing),
		cmocka_unit_test(test_late_answers_do_not_count),
	};
	return cmocka_run_group_tests_name("engine_master", tests, NULL, NULL);
}
