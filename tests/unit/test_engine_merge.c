/* What a master takes over after a change of the masters (core/merge.c, resync.c), where something
 * else is under way for the key. */
#include "cluster_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

#include "base/hash.h"

enum { LATE_SLOT = 2, KEY_BYTES = 16 };

static void one(struct engine_config *c)
{
	c->n_masters = 1;
	c->masters_epoch = 1;
	c->attempt_ms = 100;
	c->op_timeout_ms = 400;
	c->max_lease_ms = 2000;
}

static void three(struct engine_config *c)
{
	one(c);
	c->n_masters = 3;
	c->max_lease_ms = 60000;
}

static void five(struct engine_config *c)
{
	three(c);
	c->n_masters = 5;
}

static enum outcome lock(
	struct fixture *f, unsigned id, const char *key, const char *value, uint32_t ttl_ms)
{
	uint64_t tag = fixture_lock(f, id, key, value, ttl_ms);
	fixture_run_ms(f, f->node[id].cfg.op_timeout_ms + 1);
	return fixture_outcome(f, tag);
}

/* A joined master that could not be told in time votes with nothing (node/restart.c). Its own word
 * is not one of those that rule a lock out, for it could grant nothing before. */
static void joiner_that_votes_with_nothing(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(2, one);
	struct engine_members m = fixture_members(f, 1), with_2 = fixture_next(&m, 2, 0);
	fixture_config(f, 2, &with_2);
	fixture_status(f, 2, NODE_RESYNC);
	fixture_run_ms(f, engine_quarantine_ns(2000, 100, f->node[2].cfg.drift_ppm) / 1000000 + 1);
	fixture_activate(f, 2, f->node[2].cfg.start_n + 1);
	/* 1 has not heard of it yet. */
	assert_int_equal(fixture_outcome(f, fixture_lock(f, 1, "a", "x", 300)), OUT_OK);
	uint64_t until_ns = f->now_ns + 290 * UINT64_C(1000000);
	fixture_config(f, 1, &with_2);
	fixture_until_in_sync(f, &with_2);
	struct engine_members without_1 = fixture_next(&with_2, 0, 1);
	fixture_config_all(f, &without_1);
	fixture_until_in_sync(f, &without_1);
	uint64_t tag = fixture_lock(f, 2, "a", "y", 300);
	assert_true(f->now_ns < until_ns);
	assert_null(fixture_result(f, tag));
	fixture_free(f);
}

/* What a slot was told of after a restart is LIVE, but its ceiling is not durable yet: it has no
 * vote, so the lock is released and taken by others without it. Then the masters change, and it is
 * told anew. */
static void settled_and_not_voting(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, three);
	struct engine_members m = fixture_members(f, 1);
	assert_int_equal(lock(f, 1, "a", "x", 1600), OUT_OK);
	f->node[3].cfg.ceiling_n = f->node[3].cfg.start_n = 1;
	fixture_resync(f, 3);
	fixture_run_ms(f, 10);
	assert_int_equal(fixture_stats(f, 3).leases, 1);
	assert_int_equal(fixture_stats(f, 3).slots_voting, fixture_stats(f, 3).slots - 1);
	assert_int_equal(fixture_outcome(f, fixture_release(f, 1, "a", "x")), OUT_OK);
	assert_int_equal(lock(f, 1, "a", "y", 60000), OUT_OK);
	m = fixture_next(&m, 0, 2);
	fixture_config_all(f, &m);
	fixture_run_ms(f, 100);
	fixture_ceiling(f, 3, f->node[3].ceiling_n);
	fixture_until_in_sync(f, &m);
	fixture_run_ms(f, 1000);
	fixture_resync(f, 1); /* of y, 3 has to know by now */
	fixture_run_ms(f, 300);
	assert_int_equal(fixture_stats(f, 1).slots_voting, fixture_stats(f, 1).slots);
	assert_int_equal(lock(f, 3, "a", "z", 1000), OUT_HELD);
	fixture_free(f);
}

static bool lose_what_4_tells(struct fixture *f, uint8_t from, uint8_t to, const struct msg *m)
{
	(void)f;
	return from == 4 && (to == 3 || to == 5) && m->type == MSG_REPLY &&
	       m->req_type == MSG_SYNC && m->slot == LATE_SLOT;
}

static void key_of_slot(const struct fixture *f, unsigned slot, char key[KEY_BYTES])
{
	unsigned i = 0;
	do {
		(void)snprintf(key, KEY_BYTES, "k%u", i++);
	} while (engine_slot_of(hash_bytes(bytes_str(key)), f->node[1].cfg.slots) != slot);
}

/* Two of five have missed a lock and stop voting on the key; while they do, the masters change and
 * most of those who hold it tell so. Then the heal has the lock again, and the merge, for which
 * those reports did not count, must not rule it out. */
static void healed_in_the_middle_of_a_merge(void **state)
{
	(void)state;
	char key[KEY_BYTES];
	struct fixture *f = fixture_new(5, five);
	struct engine_members m = fixture_members(f, 1);
	key_of_slot(f, LATE_SLOT, key);
	fixture_lose(f, 1, 3, MSG_TRYLOCK);
	fixture_lose(f, 1, 5, MSG_TRYLOCK);
	assert_int_equal(fixture_outcome(f, fixture_lock(f, 1, key, "x", 60000)), OUT_OK);
	fixture_let_go(f);
	fixture_run_ms(f, 60);
	assert_int_equal(fixture_stats(f, 3).resync, 1);
	f->lose = lose_what_4_tells;
	m = fixture_next(&m, 0, 4);
	fixture_config_all(f, &m);
	fixture_until_in_sync(f, &m);
	assert_int_equal(fixture_stats(f, 3).leases, 1);
	assert_int_equal(fixture_stats(f, 5).leases, 1);
	fixture_cut(f, 1, 2, true);
	fixture_resync(f, 2);
	fixture_run_ms(f, 300);
	fixture_cut(f, 1, 2, false);
	assert_int_equal(lock(f, 3, key, "y", 1000), OUT_HELD);
	fixture_free(f);
}

static void four(struct engine_config *c)
{
	three(c);
	c->n_masters = 4;
}

static void cut_off(struct fixture *f, unsigned id, bool cut)
{
	for (unsigned other = 1; other <= f->n; other++)
		if (other != id)
			fixture_cut(f, id, other, cut);
}

static void go(struct fixture *f, struct engine_members *m, uint8_t departed)
{
	*m = fixture_next(m, 0, departed);
	fixture_config_all(f, m);
	fixture_until_in_sync(f, m);
}

/* The clock of a machine that is booted begins anew, so what it is told of was granted at a time
 * before zero: before every change all the same. Three of four release the lock; it does not come
 * back from the fourth. */
static void lock_older_than_the_machine(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(4, four);
	struct engine_members m = fixture_members(f, 1);
	assert_int_equal(lock(f, 1, "a", "x", 60000), OUT_OK);
	fixture_run_ms(f, 20000);
	fixture_reboot(f, 4);
	fixture_run_ms(f, 300);
	assert_int_equal(fixture_stats(f, 4).leases, 1);
	uint64_t tag = fixture_read(f, 4, "a", false);
	assert_true(fixture_result(f, tag)->r.held_ns >= 20000 * UINT64_C(1000000));
	cut_off(f, 4, true);
	assert_int_equal(fixture_outcome(f, fixture_release(f, 1, "a", "x")), OUT_OK);
	assert_int_equal(lock(f, 2, "a", "y", 60000), OUT_OK);
	assert_int_equal(fixture_outcome(f, fixture_release(f, 2, "a", "y")), OUT_OK);
	cut_off(f, 4, false);
	go(f, &m, 1);
	go(f, &m, 2);
	fixture_missed(f, 3);
	fixture_run_ms(f, 3000);
	assert_int_equal(fixture_stats(f, 3).leases, 0);
	assert_int_equal(fixture_stats(f, 4).leases, 0);
	fixture_free(f);
}

/* i is held by 1, 2 and 4; 4, rebooted, is told of a rival, so that its i is a SHADOW, and when the
 * masters change once more it must not take that for something which these reports have made. */
static void shadow_older_than_the_machine(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(5, five);
	struct engine_members m = fixture_members(f, 1);
	fixture_lose(f, 1, 3, MSG_TRYLOCK);
	fixture_lose(f, 1, 3, MSG_CONFIRM);
	assert_int_equal(fixture_outcome(f, fixture_lock(f, 1, "a", "i", 10000)), OUT_OK);
	fixture_let_go(f);
	fixture_run_ms(f, 5000);
	fixture_lose_reply(f, 3, 4, MSG_SYNC);
	fixture_reboot(f, 4);
	fixture_run_ms(f, 300);
	fixture_lose(f, 1, 3, MSG_EXTEND);
	fixture_lose(f, 1, 5, MSG_EXTEND);
	assert_int_equal(fixture_outcome(f, fixture_extend(f, 1, "a", "i", 60000)), OUT_OK);
	fixture_let_go(f);
	fixture_run_ms(f, 6000);
	assert_int_equal(fixture_stats(f, 5).leases, 0);
	fixture_lose(f, 3, 0, MSG_TRYLOCK);
	(void)fixture_lock(f, 3, "a", "j", 2000);
	m = fixture_next(&m, 0, 3); /* 5 is late, 4 has no link with 2 */
	for (unsigned id = 1; id <= 4; id++)
		fixture_config(f, id, &m);
	fixture_link(f, 4, 2, false);
	fixture_run_ms(f, 2500);
	assert_int_equal(fixture_stats(f, 4).synced_epoch, 2);
	assert_int_equal(fixture_stats(f, 4).shadows, 1);
	fixture_let_go(f);
	m = fixture_next(&m, 0, 1);
	for (unsigned id = 1; id <= 5; id++)
		if (id != 3)
			fixture_config(f, id, &m);
	f->node[5].moves = f->node[4].moves;
	for (unsigned id = 1; id <= 2; id++)
		for (unsigned other = 4; other <= 5; other++) {
			fixture_link(f, id, other, false);
			fixture_cut(f, id, other, true);
		}
	fixture_link(f, 4, 5, true);
	fixture_lose(f, 5, 4, MSG_SYNC);
	fixture_run_ms(f, 1000);
	fixture_let_go(f);
	fixture_run_ms(f, 1000);
	assert_int_equal(fixture_stats(f, 4).shadows, 1);
	assert_int_not_equal(lock(f, 4, "a", "k", 1000), OUT_OK);
	fixture_free(f);
}

static bool lose_what_ends_at_4(struct fixture *f, uint8_t from, uint8_t to, const struct msg *m)
{
	(void)f;
	(void)from;
	return to == 4 && (m->type == MSG_RELEASE || m->type == MSG_CONFIRM);
}

/* A thread that stood still votes for a lock that is over, and hears of two changes, all at one
 * reading of its clock: the vote is one of before. */
static void vote_and_two_changes_at_once(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(4, four);
	struct engine_members one_less = fixture_members(f, 1), two_less;
	fixture_delay(f, 1, 4, MSG_TRYLOCK);
	f->lose = lose_what_ends_at_4;
	assert_int_equal(fixture_outcome(f, fixture_lock(f, 1, "a", "x", 60000)), OUT_OK);
	assert_int_equal(fixture_outcome(f, fixture_release(f, 1, "a", "x")), OUT_OK);
	one_less = fixture_next(&one_less, 0, 1);
	two_less = fixture_next(&one_less, 0, 2);
	for (unsigned id = 1; id <= 3; id++)
		fixture_config(f, id, &one_less);
	for (unsigned id = 1; id <= 3; id++)
		fixture_config(f, id, &two_less);
	f->lose = NULL;
	fixture_let_go(f);
	assert_int_equal(fixture_stats(f, 4).promises, 1);
	fixture_config(f, 4, &one_less);
	fixture_config(f, 4, &two_less);
	fixture_link(f, 3, 4, true);
	fixture_run_ms(f, 1500);
	fixture_resync(f, 3);
	fixture_run_ms(f, 300);
	assert_int_equal(fixture_outcome(f, fixture_extend(f, 3, "a", "x", 60000)), OUT_NOTFOUND);
	fixture_free(f);
}

/* An attempt that its coordinator gave up, on all three; somebody adopts it on two of them. The
 * third hears so when the masters change, and its coordinator has no say any more. */
static void adopted_before_the_change(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(4, three);
	struct engine_members m = fixture_members(f, 1);
	fixture_lose_reply(f, 0, 4, MSG_TRYLOCK);
	fixture_lose(f, 4, 0, MSG_ABORT);
	fixture_lose(f, 0, 4, MSG_QUERY);
	assert_int_not_equal(lock(f, 4, "a", "x", 60000), OUT_OK);
	assert_int_equal(fixture_stats(f, 3).promises, 1);
	fixture_lose(f, 1, 3, MSG_EXTEND);
	fixture_lose(f, 1, 3, MSG_CONFIRM);
	uint64_t tag = fixture_op(f, 1,
		(struct op_request){.kind = OP_LOCK,
			.key = bytes_str("a"),
			.value = bytes_str("x"),
			.ttl_ms = 60000,
			.has_ttl = true,
			.idempotent = true});
	fixture_run_ms(f, 10);
	assert_int_equal(fixture_outcome(f, tag), OUT_OK);
	fixture_let_go(f);
	assert_int_equal(fixture_stats(f, 2).promises, 0);
	assert_int_equal(fixture_stats(f, 3).promises, 1);
	go(f, &m, 1);
	go(f, &m, 2);
	fixture_run_ms(f, 5000); /* it is an old promise now: it asks its coordinator */
	assert_int_equal(fixture_stats(f, 3).promises, 0);
	assert_int_equal(lock(f, 4, "a", "y", 1000), OUT_HELD);
	fixture_free(f);
}

static bool lose_first_of_each_slot(
	struct fixture *f, uint8_t from, uint8_t to, const struct msg *m)
{
	static bool asked[4][4][64];
	(void)f;
	if (m->type != MSG_SYNC || !(m->flags & MSG_MERGE) || asked[from][to][m->slot])
		return false;
	asked[from][to][m->slot] = true;
	return true;
}

/* Two of three hold a lock when a fourth master is added that takes its time: without the third
 * there is no majority any more. It need not wait for its turn among the slots. */
static void missed_by_one_of_three(void **state)
{
	(void)state;
	char key[KEY_BYTES];
	struct fixture *f = fixture_new(4, three);
	struct engine_members m = fixture_members(f, 1);
	key_of_slot(f, f->node[1].cfg.slots - 1U, key);
	fixture_lose(f, 1, 3, MSG_TRYLOCK);
	fixture_lose(f, 1, 3, MSG_CONFIRM);
	assert_int_equal(fixture_outcome(f, fixture_lock(f, 1, key, "x", 60000)), OUT_OK);
	fixture_let_go(f);
	cut_off(f, 4, true);
	f->lose = lose_first_of_each_slot;
	m = fixture_next(&m, 4, 0);
	for (unsigned id = 1; id <= 3; id++)
		fixture_config(f, id, &m);
	(void)fixture_extend(f, 1, key, "x", 60000);
	fixture_run_ms(f, 500);
	assert_true(fixture_stats(f, 3).slots_in_sync < fixture_stats(f, 3).slots / 2);
	assert_int_equal(fixture_outcome(f, fixture_extend(f, 1, key, "x", 60000)), OUT_OK);
	assert_int_equal(fixture_outcome(f, fixture_release(f, 1, key, "x")), OUT_OK);
	fixture_free(f);
}

/* The coordinator that granted a lock needs one round to release it, also where it is the first to
 * hear of a change and has to wait for the others: for two rounds the third of them would have to
 * know the lock. */
static void released_while_the_masters_change(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(4, three);
	struct engine_members m = fixture_members(f, 1);
	fixture_lose(f, 1, 3, MSG_TRYLOCK);
	fixture_lose(f, 1, 3, MSG_CONFIRM);
	assert_int_equal(fixture_outcome(f, fixture_lock(f, 1, "a", "x", 60000)), OUT_OK);
	fixture_let_go(f);
	cut_off(f, 4, true);
	m = fixture_next(&m, 4, 0);
	fixture_config(f, 1, &m);
	uint64_t tag = fixture_release(f, 1, "a", "x");
	assert_null(fixture_result(f, tag));
	fixture_config(f, 2, &m);
	fixture_config(f, 3, &m);
	assert_int_equal(fixture_outcome(f, tag), OUT_OK);
	fixture_free(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(joiner_that_votes_with_nothing),
		cmocka_unit_test(settled_and_not_voting),
		cmocka_unit_test(healed_in_the_middle_of_a_merge),
		cmocka_unit_test(lock_older_than_the_machine),
		cmocka_unit_test(shadow_older_than_the_machine),
		cmocka_unit_test(vote_and_two_changes_at_once),
		cmocka_unit_test(adopted_before_the_change),
		cmocka_unit_test(missed_by_one_of_three),
		cmocka_unit_test(released_while_the_masters_change),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
