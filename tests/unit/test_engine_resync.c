/* A master that lost its memory gets it back from the others (protocol.md 2.8), slot by slot. */
#include "cluster_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/hash.h"

static bool votes_everywhere(const struct fixture *f, unsigned id)
{
	struct engine_stats s = fixture_stats(f, id);
	return s.slots > 0 && s.slots_voting == s.slots;
}

static void lock_ok(struct fixture *f, unsigned id, const char *key, const char *value)
{
	assert_int_equal(fixture_outcome(f, fixture_lock(f, id, key, value, 30000)), OUT_OK);
}

static const struct fixture_result *local_read(struct fixture *f, unsigned id, const char *key)
{
	return fixture_result(f, fixture_read(f, id, key, false));
}

static void assert_copy(struct fixture *f, unsigned id, const char *key, const char *value)
{
	const struct fixture_result *r = local_read(f, id, key);
	assert_int_equal(r->r.outcome, OUT_OK);
	assert_string_equal(r->value, value);
}

static unsigned commits(struct fixture *f, unsigned id, const char *key, const char *value)
{
	uint64_t tag = fixture_extend(f, id, key, value, 30000);
	assert_int_equal(fixture_outcome(f, tag), OUT_OK);
	return fixture_result(f, tag)->r.commits;
}

/* What the others agree on is LIVE again, with all that belongs to it. */
static void test_resync_brings_leases_back(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, NULL);
	char key[32];
	for (unsigned i = 0; i < 300; i++) {
		(void)snprintf(key, sizeof key, "key%u", i);
		lock_ok(f, 1 + i % 3, key, "v");
	}
	assert_int_equal(fixture_outcome(f, fixture_update(f, 2, "key7", "v", "w")), OUT_OK);
	uint64_t token = local_read(f, 1, "key7")->r.token;
	fixture_run_ms(f, 50);
	fixture_resync(f, 3);
	fixture_run_ms(f, 10);
	assert_true(votes_everywhere(f, 3));
	struct engine_stats s = fixture_stats(f, 3);
	assert_int_equal(s.leases, 300);
	assert_int_equal(s.shadows + s.staged + s.promises, 0);
	assert_copy(f, 3, "key7", "w");
	const struct fixture_result *r = local_read(f, 3, "key7");
	assert_int_equal(r->r.token, token);
	assert_in_range(r->r.held_ns, 1050000000, 1200000000);
	assert_string_equal(r->client, local_read(f, 1, "key7")->client);
	/* Longer than the others have it, by the drift allowed, and no shorter. */
	uint64_t theirs = local_read(f, 1, "key7")->r.remaining_ns;
	assert_in_range(r->r.remaining_ns, theirs, theirs + theirs / 400);
	/* It votes: with 2 away the quorum needs it. */
	fixture_crash(f, 2);
	assert_int_equal(commits(f, 1, "key7", "w"), 2);
	assert_int_equal(fixture_outcome(f, fixture_lock(f, 1, "key8", "x", 1000)), OUT_HELD);
	fixture_free(f);
}

/* Before it has heard the others it neither grants nor tells. */
static void test_resync_does_not_vote_before_it_knows(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, NULL);
	lock_ok(f, 1, "k", "v");
	fixture_lose_reply(f, 2, 3, MSG_SYNC); /* one of two is no blocking set */
	fixture_resync(f, 3);
	fixture_run_ms(f, 3000);
	struct engine_stats s = fixture_stats(f, 3);
	assert_int_equal(s.slots_voting, 0);
	assert_int_equal(s.leases, 0);
	assert_int_equal(local_read(f, 3, "k")->r.outcome, OUT_NOTREADY);
	fixture_crash(f, 2);
	uint64_t tag = fixture_lock(f, 1, "new", "v", 1000);
	fixture_run_ms(f, 2100);
	assert_int_equal(fixture_outcome(f, tag), OUT_NOQUORUM);
	fixture_free(f);
}

static void test_resync_asks_again_for_what_gets_lost(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, NULL);
	lock_ok(f, 1, "k", "v");
	fixture_lose(f, 3, 0, MSG_SYNC);
	fixture_resync(f, 3);
	fixture_run_ms(f, 400);
	fixture_let_go(f);
	assert_false(votes_everywhere(f, 3));
	fixture_run_ms(f, 700);
	assert_true(votes_everywhere(f, 3));
	assert_copy(f, 3, "k", "v");
	fixture_free(f);
}

/* A lock that one of the others has missed may be held all the same: nobody else gets it here, and
 * nobody is told that it is free. */
static void test_resync_what_only_some_hold_is_a_shadow(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, NULL);
	fixture_lose(f, 1, 2, MSG_TRYLOCK);
	fixture_lose(f, 0, 0, MSG_SYNC); /* nor does anything heal it */
	assert_int_equal(fixture_outcome(f, fixture_lock(f, 1, "k", "v", 5000)), OUT_OK);
	fixture_let_go(f);
	fixture_resync(f, 3);
	fixture_run_ms(f, 10);
	assert_true(votes_everywhere(f, 3));
	struct engine_stats s = fixture_stats(f, 3);
	assert_int_equal(s.shadows, 1);
	assert_int_equal(s.leases, 0);
	assert_int_equal(local_read(f, 3, "k")->r.outcome, OUT_NULL);
	/* Held by 1 and perhaps by the vote that 3 has forgotten: 2 and 3 do not grant it. */
	fixture_cut(f, 1, 2, true);
	fixture_cut(f, 1, 3, true);
	uint64_t tag = fixture_lock(f, 2, "k", "w", 1000);
	fixture_run_ms(f, 2100);
	assert_int_not_equal(fixture_outcome(f, tag), OUT_OK);
	fixture_cut(f, 1, 2, false);
	fixture_cut(f, 1, 3, false);
	/* Its holder can give it up, and it ends with the lease at the latest. */
	assert_int_equal(fixture_outcome(f, fixture_release(f, 1, "k", "v")), OUT_OK);
	fixture_run_ms(f, 5200);
	assert_int_equal(fixture_stats(f, 3).shadows, 0);
	lock_ok(f, 2, "k", "w");
	assert_copy(f, 3, "k", "w");
	fixture_free(f);
}

static void test_resync_two_stories_of_one_key_are_a_shadow(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, NULL);
	for (unsigned to = 1; to <= 2; to++) {
		struct msg m = {.type = MSG_TRYLOCK,
			.req = 1,
			.key = bytes_str("k"),
			.uid = {1000000 + to, 77 + to},
			.node = 3,
			.lease_ms = 20000,
			.flags = MSG_HAS_VALUE};
		fixture_msg(f, 3, to, m);
	}
	fixture_resync(f, 3);
	fixture_run_ms(f, 10);
	assert_int_equal(fixture_stats(f, 3).shadows, 1);
	fixture_free(f);
}

/* Ballots that were refused or released before the restart stay refused (I2, I4). */
static void test_resync_takes_over_what_was_sealed(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, NULL);
	lock_ok(f, 1, "k", "v");
	uint64_t token = local_read(f, 2, "k")->r.token;
	assert_int_equal(fixture_outcome(f, fixture_release(f, 1, "k", "v")), OUT_OK);
	fixture_resync(f, 3);
	fixture_run_ms(f, 10);
	assert_true(votes_everywhere(f, 3));
	struct msg late = {.type = MSG_TRYLOCK,
		.req = 1,
		.key = bytes_str("k"),
		.uid = {token, 0x1001},
		.node = 1,
		.lease_ms = 20000,
		.flags = MSG_HAS_VALUE};
	fixture_msg(f, 1, 3, late);
	struct engine_stats s = fixture_stats(f, 3);
	assert_int_equal(s.promises + s.leases, 0);
	assert_int_equal(s.stale, 1);
	fixture_free(f);
}

/* A read that 3 helps to decide may not take "never seen" from a master that forgot. */
static void test_resync_a_key_is_not_called_never_seen_for_a_while(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, NULL);
	lock_ok(f, 1, "k", "v");
	assert_int_equal(fixture_outcome(f, fixture_release(f, 1, "k", "v")), OUT_OK);
	fixture_resync(f, 3);
	fixture_run_ms(f, 10);
	f->hold = true;
	uint64_t tag = fixture_read(f, 3, "k", true);
	/* Its own answer is a floor; the two that say what they know are not equal to it. */
	f->hold = false;
	fixture_settle(f);
	assert_int_equal(fixture_outcome(f, tag), OUT_NULL);
	fixture_crash(f, 2);
	tag = fixture_read(f, 1, "k", true);
	fixture_run_ms(f, 100);
	assert_int_equal(fixture_outcome(f, tag), OUT_NULL); /* sealed on the second round */
	fixture_free(f);
}

/* The attempt of a lock released meanwhile may still be under way: "free" must not be taken back.
 */
static void test_resync_nor_is_it_after_a_stop_in_good_order(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, NULL);
	fixture_run_ms(f, 10000);
	fixture_delay(f, 1, 2, MSG_TRYLOCK);
	fixture_lose(f, 1, 0, MSG_RELEASE);
	lock_ok(f, 1, "k", "v");
	uint64_t floor_n = local_read(f, 1, "k")->r.token;
	(void)fixture_release(f, 1, "k", "v"); /* 1 holds nothing now, and stops */
	fixture_crash(f, 1);
	fixture_restart(f, 1);
	fixture_activate(f, 1, floor_n);
	enum outcome first = fixture_outcome(f, fixture_read(f, 3, "k", true));
	fixture_let_go(f); /* 2 hears of the attempt */
	enum outcome second = fixture_outcome(f, fixture_read(f, 3, "k", true));
	assert_int_equal(first, OUT_NULL);
	assert_int_equal(second, OUT_NULL);
	fixture_free(f);
}

static void with_file(struct engine_config *cfg)
{
	if (cfg->self == 3)
		cfg->ceiling_n = 1000000;
}

/* The "cover" rule: what it has learnt must survive its next crash (m_nocover). */
static void test_resync_votes_when_the_ceiling_is_durable(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, with_file);
	lock_ok(f, 1, "k", "v");
	fixture_resync(f, 3);
	fixture_run_ms(f, 100);
	struct engine_stats s = fixture_stats(f, 3);
	assert_true(s.slots_voting < s.slots);
	assert_true(f->node[3].ceilings > 0);
	assert_true(f->node[3].ceiling_n > local_read(f, 1, "k")->r.token);
	fixture_ceiling(f, 3, f->node[3].ceiling_n);
	fixture_run_ms(f, 10);
	assert_true(votes_everywhere(f, 3));
	assert_copy(f, 3, "k", "v");
	fixture_free(f);
}

/* One vote is all a restarted master had of it, and the two others: not enough for a resurrection.
 */
static void test_resync_does_not_bring_back_what_was_released(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, NULL);
	lock_ok(f, 1, "k", "v");
	fixture_lose(f, 1, 2, MSG_RELEASE);
	assert_int_equal(fixture_outcome(f, fixture_release(f, 1, "k", "v")), OUT_OK);
	fixture_let_go(f);
	fixture_resync(f, 3);
	fixture_run_ms(f, 10);
	assert_int_equal(fixture_stats(f, 3).leases, 0);
	assert_int_equal(fixture_stats(f, 3).shadows, 1);
	assert_int_equal(fixture_outcome(f, fixture_extend(f, 2, "k", "v", 1000)), OUT_UNKNOWN);
	fixture_free(f);
}

/* The highest version is the value and the highest promise binds, whoever tells of them. */
static void test_resync_takes_the_highest_version_and_promise(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, NULL);
	lock_ok(f, 1, "k", "v");
	fixture_lose(f, 1, 2, MSG_ACCEPT); /* 1 and 3 have the new value */
	assert_int_equal(fixture_outcome(f, fixture_update(f, 1, "k", "v", "new")), OUT_OK);
	fixture_let_go(f);
	/* 2 has promised a ballot that nobody used. */
	struct msg prepare = {.type = MSG_PREPARE,
		.req = 1,
		.key = bytes_str("k"),
		.b = {BALLOT_MAX - 5, 0x1001, 0}};
	fixture_msg(f, 1, 2, prepare);
	fixture_resync(f, 3);
	fixture_run_ms(f, 10);
	assert_copy(f, 3, "k", "new");
	/* An ACCEPT below that promise is refused by 3 too. */
	struct msg accept = {.type = MSG_ACCEPT,
		.req = 1,
		.key = bytes_str("k"),
		.uid = {local_read(f, 3, "k")->r.token, 0x1001},
		.b = {BALLOT_MAX - 6, 0x1001, 0},
		.flags = MSG_HAS_VALUE,
		.value = bytes_str("late")};
	fixture_msg(f, 1, 3, accept);
	assert_copy(f, 3, "k", "new");
	accept.b.n = BALLOT_MAX - 4;
	fixture_msg(f, 1, 3, accept);
	assert_copy(f, 3, "k", "late");
	fixture_free(f);
}

/* A promise stays one until somebody knows better, and is asked about. */
static void test_resync_a_promise_is_a_promise_again(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, NULL);
	fixture_lose(f, 1, 0, MSG_CONFIRM);
	fixture_lose(f, 0, 1, MSG_QUERY);
	lock_ok(f, 1, "k", "v");
	fixture_resync(f, 3);
	fixture_run_ms(f, 10);
	/* 1 has confirmed it for itself. */
	assert_int_equal(fixture_stats(f, 3).leases, 1);
	fixture_free(f);

	f = fixture_new(3, NULL);
	struct msg m = {.type = MSG_TRYLOCK,
		.req = 1,
		.key = bytes_str("k"),
		.uid = {1000000, 0x1003},
		.node = 3,
		.lease_ms = 20000,
		.flags = MSG_HAS_VALUE};
	fixture_msg(f, 3, 1, m);
	fixture_msg(f, 3, 2, m);
	fixture_resync(f, 3);
	fixture_run_ms(f, 10);
	assert_int_equal(fixture_stats(f, 3).promises, 1);
	fixture_free(f);
}

/* All at once: nobody is active, so nobody can tell. */
static void test_resync_of_everybody_is_in_vain(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, NULL);
	lock_ok(f, 1, "k", "v");
	for (unsigned id = 1; id <= 3; id++)
		fixture_crash(f, id);
	for (unsigned id = 1; id <= 3; id++)
		fixture_restart(f, id);
	for (unsigned id = 1; id <= 3; id++)
		fixture_status(f, id, NODE_RESYNC);
	fixture_run_ms(f, 5000);
	for (unsigned id = 1; id <= 3; id++)
		assert_int_equal(fixture_stats(f, id).slots_voting, 0);
	/* Their quarantines end one by one: nothing at or below the floor is granted. */
	uint64_t floor_n = engine_hlc(f->node[1].engine) + 1000;
	for (unsigned id = 1; id <= 3; id++)
		fixture_activate(f, id, floor_n);
	fixture_run_ms(f, 10);
	assert_true(votes_everywhere(f, 3));
	lock_ok(f, 1, "k", "w");
	assert_true(local_read(f, 2, "k")->r.token > floor_n);
	fixture_free(f);
}

/* Half done when the quarantine ends: what was heard of and not settled is thrown away. */
static void test_resync_given_up_leaves_nothing_behind(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, NULL);
	char key[32];
	for (unsigned i = 0; i < 200; i++) {
		(void)snprintf(key, sizeof key, "key%u", i);
		lock_ok(f, 1, key, "v");
	}
	fixture_lose_reply(f, 2, 3, MSG_SYNC);
	fixture_resync(f, 3);
	fixture_run_ms(f, 100);
	assert_true(fixture_stats(f, 3).staged > 0);
	fixture_activate(f, 3, engine_hlc(f->node[1].engine));
	fixture_run_ms(f, 10);
	struct engine_stats s = fixture_stats(f, 3);
	assert_true(votes_everywhere(f, 3));
	assert_int_equal(s.staged + s.leases + s.shadows, 0);
	fixture_free(f);
}

static void small(struct engine_config *cfg)
{
	if (cfg->self == 3)
		cfg->max_leases = 100;
}

/* A smaller node cannot take all of it in: it says so, and votes when there is room. */
static void test_resync_without_room_waits_for_it(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, small);
	char key[32];
	for (unsigned i = 0; i < 300; i++) {
		(void)snprintf(key, sizeof key, "key%u", i);
		assert_int_equal(fixture_outcome(f, fixture_lock(f, 1, key, "v", 6000)), OUT_OK);
	}
	fixture_resync(f, 3);
	fixture_run_ms(f, 2000);
	struct engine_stats s = fixture_stats(f, 3);
	assert_true(s.slots_voting < s.slots);
	assert_true(s.sync_full > 0);
	engine_validate(f->node[3].engine);
	fixture_run_ms(f, 6000);
	assert_true(votes_everywhere(f, 3));
	assert_int_equal(fixture_stats(f, 3).staged, 0);
	fixture_free(f);
}

static void one_slot(struct engine_config *cfg)
{
	cfg->slots = 1;
}

/* A slot of many pages, each reported once: long values fill a report with two entries. */
static void test_resync_long_reports_come_in_pieces(void **state)
{
	(void)state;
	static char value[3001];
	memset(value, 'x', sizeof value - 1);
	struct fixture *f = fixture_new(3, one_slot);
	char key[32];
	for (unsigned i = 0; i < 1500; i++) {
		(void)snprintf(key, sizeof key, "key%u", i);
		lock_ok(f, 1, key, i % 10 == 0 ? value : "v");
	}
	fixture_resync(f, 3);
	fixture_run_ms(f, 50);
	assert_true(votes_everywhere(f, 3));
	assert_int_equal(fixture_stats(f, 3).leases, 1500);
	assert_int_equal(fixture_stats(f, 3).shadows, 0);
	engine_validate(f->node[3].engine);
	fixture_free(f);
}

static uint64_t reported, reported_floor; /* entries of one answer, and what covers the rest */
static bool count_entries(struct fixture *f, uint8_t from, uint8_t to, const struct msg *m)
{
	(void)f;
	(void)from;
	(void)to;
	if (m->type == MSG_REPLY && m->req_type == MSG_SYNC) {
		reported = m->value.len;
		reported_floor = m->n;
	}
	return false;
}

/* The wheel turns in ticks, so a lease may be over that is not a tombstone yet. It is not told,
 * its token is: else it could be granted again (simulator, seed 112638). */
static void test_resync_a_lease_just_over_is_covered_by_the_floor(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, one_slot);
	f->lose = count_entries;
	uint64_t tag = fixture_lock(f, 1, "k", "v", 1000);
	assert_int_equal(fixture_outcome(f, tag), OUT_OK);
	uint64_t token = fixture_result(f, tag)->r.token;
	f->now_ns += UINT64_C(1500000000); /* no tick comes in between */
	fixture_msg(f, 3, 1, (struct msg){.type = MSG_SYNC, .req = 1});
	assert_int_equal(reported, 0);
	assert_true(reported_floor >= token);
	fixture_free(f);
}

/* Keys may share a hash, so a report that was cut goes on behind a key, not behind a hash. */
static void test_resync_a_report_goes_on_behind_the_key_told(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, one_slot);
	f->lose = count_entries;
	lock_ok(f, 1, "k", "v");
	uint64_t hash = hash_bytes(bytes_str("k"));
	struct msg m = {.type = MSG_SYNC, .req = 1, .cursor = hash};
	fixture_msg(f, 3, 1, m);
	assert_true(reported > 0); /* at the hash, no key known */
	m.key = bytes_str("k");
	fixture_msg(f, 3, 1, m);
	assert_int_equal(reported, 0); /* this one is known */
	m.key = bytes_str("a");
	fixture_msg(f, 3, 1, m);
	assert_true(reported > 0); /* another key of that hash, and smaller */
	m.cursor = hash + 1;
	fixture_msg(f, 3, 1, m);
	assert_int_equal(reported, 0);
	fixture_free(f);
}

/* Reports that are none change nothing, and a report is taken once. */
static void test_resync_bad_reports_are_not_believed(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, one_slot);
	lock_ok(f, 1, "k", "v");
	fixture_lose(f, 3, 0, MSG_SYNC);
	fixture_resync(f, 3);
	for (uint64_t seq = 1; seq < 4; seq++) {
		for (unsigned from = 1; from <= 2; from++) {
			struct msg m = {.type = MSG_REPLY,
				.req_type = MSG_SYNC,
				.verdict = VERDICT_SYNC,
				.req = seq << 16 | (from - 1),
				.value = bytes_str("this is no entry, whatever it may be")};
			fixture_msg(f, from, 3, m);
		}
		fixture_run_ms(f, 5);
	}
	struct engine_stats s = fixture_stats(f, 3);
	assert_int_equal(s.slots_voting, 0);
	assert_int_equal(s.staged, 0);
	assert_true(s.sync_full > 0);
	fixture_let_go(f);
	fixture_run_ms(f, 2000);
	assert_true(votes_everywhere(f, 3));
	assert_copy(f, 3, "k", "v");
	fixture_free(f);
}

/* A second crash in the middle of it is a first one again. */
static void test_resync_starts_anew_after_another_crash(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(5, NULL);
	char key[32];
	for (unsigned i = 0; i < 100; i++) {
		(void)snprintf(key, sizeof key, "key%u", i);
		lock_ok(f, 1 + i % 5, key, "v");
	}
	fixture_lose_reply(f, 2, 5, MSG_SYNC);
	fixture_lose_reply(f, 3, 5, MSG_SYNC);
	fixture_resync(f, 5);
	fixture_run_ms(f, 20);
	assert_true(fixture_stats(f, 5).staged > 0);
	fixture_let_go(f);
	fixture_resync(f, 5);
	fixture_run_ms(f, 20);
	assert_true(votes_everywhere(f, 5));
	assert_int_equal(fixture_stats(f, 5).leases, 100);
	/* A peer that is not active itself is no witness. */
	fixture_crash(f, 1);
	fixture_crash(f, 2);
	fixture_restart(f, 1);
	fixture_resync(f, 5);
	fixture_run_ms(f, 3000);
	assert_int_equal(fixture_stats(f, 5).slots_voting, 0);
	fixture_free(f);
}

/* Locked while it asked, slot by slot: it gets those as well, and only then says that it is done.
 */
static void test_resync_ends_with_a_look_for_what_was_missed(void **state)
{
	(void)state;
	struct fixture *f = fixture_new(3, one_slot);
	fixture_crash(f, 3);
	fixture_restart(f, 3);
	fixture_run_ms(f, 1100);
	fixture_lose_reply(f, 2, 3, MSG_SYNC);
	fixture_status(f, 3, NODE_RESYNC);
	fixture_run_ms(f, 20); /* 1 has told everything */
	lock_ok(f, 1, "k", "v");
	fixture_let_go(f);
	fixture_run_ms(f, 1000);
	assert_true(votes_everywhere(f, 3));
	assert_true(fixture_stats(f, 3).healing);
	fixture_run_ms(f, 2500);
	assert_false(fixture_stats(f, 3).healing);
	assert_copy(f, 3, "k", "v");
	assert_int_equal(fixture_stats(f, 3).healed, 1);
	fixture_free(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_resync_brings_leases_back),
		cmocka_unit_test(test_resync_does_not_vote_before_it_knows),
		cmocka_unit_test(test_resync_asks_again_for_what_gets_lost),
		cmocka_unit_test(test_resync_what_only_some_hold_is_a_shadow),
		cmocka_unit_test(test_resync_two_stories_of_one_key_are_a_shadow),
		cmocka_unit_test(test_resync_takes_over_what_was_sealed),
		cmocka_unit_test(test_resync_a_key_is_not_called_never_seen_for_a_while),
		cmocka_unit_test(test_resync_nor_is_it_after_a_stop_in_good_order),
		cmocka_unit_test(test_resync_votes_when_the_ceiling_is_durable),
		cmocka_unit_test(test_resync_does_not_bring_back_what_was_released),
		cmocka_unit_test(test_resync_takes_the_highest_version_and_promise),
		cmocka_unit_test(test_resync_a_promise_is_a_promise_again),
		cmocka_unit_test(test_resync_of_everybody_is_in_vain),
		cmocka_unit_test(test_resync_given_up_leaves_nothing_behind),
		cmocka_unit_test(test_resync_without_room_waits_for_it),
		cmocka_unit_test(test_resync_long_reports_come_in_pieces),
		cmocka_unit_test(test_resync_a_report_goes_on_behind_the_key_told),
		cmocka_unit_test(test_resync_a_lease_just_over_is_covered_by_the_floor),
		cmocka_unit_test(test_resync_bad_reports_are_not_believed),
		cmocka_unit_test(test_resync_starts_anew_after_another_crash),
		cmocka_unit_test(test_resync_ends_with_a_look_for_what_was_missed),
	};
	return cmocka_run_group_tests_name("resync", tests, NULL, NULL);
}
