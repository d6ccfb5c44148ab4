#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "fake_node.h"

static struct fake_world world;
static struct locker_election *election;
static struct {
	unsigned n[4];
	enum locker_outcome reason;
	bool campaign_again;
} told;

static void event_fn(void *context, struct locker_election *e, enum locker_election_event event,
	enum locker_outcome reason)
{
	told.n[event]++;
	if (reason != LOCKER_OK)
		told.reason = reason;
	if (event == LOCKER_DEPOSED && told.campaign_again)
		assert_int_equal(locker_election_campaign(e), LOCKER_OK);
}

static void make_election(bool observe)
{
	struct locker_election_options options = {.key = locker_text("k"),
		.name = locker_text("me"),
		.ttl_ms = 1200,
		.observe = observe,
		.on_event = event_fn};

	assert_int_equal(locker_election_new(world.client, &options, &election), LOCKER_OK);
}

static int setup(void **state)
{
	memset(&told, 0, sizeof told);
	world_open(&world, (struct locker_client_options){.client_name = "tester"});
	make_election(false);
	return 0;
}

static int teardown(void **state)
{
	locker_election_free(election);
	world_close(&world);
	return 0;
}

static void assert_told(unsigned elected, unsigned at_risk, unsigned deposed, unsigned changed)
{
	assert_int_equal(told.n[LOCKER_ELECTED], elected);
	assert_int_equal(told.n[LOCKER_LEAD_AT_RISK], at_risk);
	assert_int_equal(told.n[LOCKER_DEPOSED], deposed);
	assert_int_equal(told.n[LOCKER_LEADER_CHANGED], changed);
}

static void elect(void)
{
	world_answer(&world, world_expect_start(&world, 0, "LOCK k me:"), GRANT("7", "1199"));
	world_settle(&world);
	assert_true(locker_election_valid(election));
	assert_int_equal(locker_election_token(election), 7);
}

static void test_election_campaign_and_resign(void **state)
{
	assert_false(locker_election_valid(election));
	assert_int_equal(locker_election_resign(election), LOCKER_LOST);
	assert_int_equal(locker_election_campaign(election), LOCKER_OK);
	assert_int_equal(locker_election_campaign(election), LOCKER_USAGE);
	elect();
	assert_told(1, 0, 0, 0);
	assert_int_equal(locker_election_campaign(election), LOCKER_USAGE);
	assert_int_equal(locker_election_resign(election), LOCKER_OK);
	assert_false(locker_election_valid(election));
	world_answer(&world, world_expect_start(&world, 0, "RELEASE k me:"), RELEASED);
	world_pass(&world, 5000);
	world_expect_nothing(&world);
	assert_told(1, 0, 0, 0);
}

static void test_election_stands_over_all_failures(void **state)
{
	static const struct {
		size_t node;
		const char *answer;
	} rows[] = {{0, "_\r\n"}, {0, "-BUSY x\r\n"}, {0, "-NOQUORUM x\r\n"},
		{1, "-NOQUORUM x\r\n"}, {1, "-NOQUORUM x\r\n"}, {0, "-NOQUORUM x\r\n"},
		{0, "-LIMIT x\r\n"}, {0, "_\r\n"}};

	assert_int_equal(locker_election_campaign(election), LOCKER_OK);
	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		world_answer(&world, world_expect_start(&world, rows[i].node, "LOCK k me:"),
			rows[i].answer);
		world_settle(&world);
		world_pass(&world, 250);
	}
	elect();
	assert_told(1, 0, 0, 0);
}

static void test_election_deposed_stands_again_when_told(void **state)
{
	for (unsigned i = 0; i < 2; i++) {
		told.campaign_again = i == 1;
		assert_int_equal(locker_election_campaign(election), LOCKER_OK);
		elect();
		world_pass(&world, 400);
		world_answer(
			&world, world_expect_start(&world, 0, "EXTEND k me:"), "-NOTOWNER x\r\n");
		world_settle(&world);
		assert_told(i + 1, 0, i + 1, 0);
		assert_int_equal(told.reason, LOCKER_NOTOWNER);
		assert_false(locker_election_valid(election));
		if (i == 0)
			world_expect_nothing(&world);
	}
	elect();
	assert_told(3, 0, 2, 0);
}

static void test_election_at_risk_then_deposed(void **state)
{
	assert_int_equal(locker_election_campaign(election), LOCKER_OK);
	elect();
	fake_refuse(&world.nodes[0]);
	fake_refuse(&world.nodes[1]);
	world_pass(&world, 900);
	world_settle(&world);
	assert_told(1, 1, 0, 0);
	world_pass(&world, 300);
	world_settle(&world);
	assert_told(1, 1, 1, 0);
	assert_int_equal(told.reason, LOCKER_CONNECT);
}

static void test_election_withdrawn_leaves_the_line(void **state)
{
	assert_int_equal(locker_election_campaign(election), LOCKER_OK);
	world_expect_start(&world, 0, "LOCK k me:");
	assert_int_equal(world.nodes[0].n_conns, 1);
	assert_int_equal(locker_election_resign(election), LOCKER_OK);
	/* It might have been granted on the way. */
	world_answer(&world, world_expect_start(&world, 0, "RELEASE k me:"), "-NOTFOUND x\r\n");
	assert_int_equal(world.nodes[0].n_conns, 1);
	world_expect_nothing(&world);
	assert_told(0, 0, 0, 0);
}

#define HOLDER(value_bytes, value, token)                                                          \
	"%3\r\n$5\r\nvalue\r\n$" value_bytes "\r\n" value "\r\n$5\r\ntoken\r\n:" token             \
	"\r\n$12\r\nremaining-ms\r\n:500\r\n"
#define DIGITS "0123456789abcdef0123456789abcdef"

static void test_election_observes(void **state)
{
	struct locker_reply leader;

	assert_int_equal(locker_election_leader(election, &leader), LOCKER_UNKNOWN);
	locker_election_free(election);
	make_election(true);
	world_answer(&world, world_expect(&world, 0, "HOLDER k QUORUM"), "_\r\n");
	struct fake_command *wait = world_expect(&world, 0, "WAITFOR k 10000");
	assert_told(0, 0, 0, 1);
	assert_int_equal(locker_election_leader(election, &leader), LOCKER_NONE);
	world_answer(&world, wait, "$1\r\nv\r\n");
	world_settle(&world);
	world_pass(&world, 10);
	world_answer(&world, world_expect(&world, 0, "HOLDER k QUORUM"),
		HOLDER("36", "you:" DIGITS, "9"));
	wait = world_expect(&world, 0, "WAITRELEASE k 10000");
	assert_told(0, 0, 0, 2);
	assert_int_equal(locker_election_leader(election, &leader), LOCKER_OK);
	assert_string_equal(leader.value, "you");
	assert_int_equal(leader.token, 9);
	world_answer(&world, wait, "+NOTLOCKED\r\n");
	world_settle(&world);
	world_expect_nothing(&world);
	world_pass(&world, 250);
	world_answer(&world, world_expect(&world, 0, "HOLDER k QUORUM"),
		HOLDER("36", "you:" DIGITS, "9"));
	world_expect(&world, 0, "WAITRELEASE k 10000");
	assert_told(0, 0, 0, 2);
}

static void test_election_names_of_others_stay_whole(void **state)
{
	struct locker_reply leader;

	locker_election_free(election);
	make_election(true);
	world_answer(&world, world_expect(&world, 0, "HOLDER k QUORUM"),
		HOLDER("36", "you:0123456789abcdef0123456789abcdeg", "9"));
	world_settle(&world);
	assert_int_equal(locker_election_leader(election, &leader), LOCKER_OK);
	assert_string_equal(leader.value, "you:0123456789abcdef0123456789abcdeg");
}

static void free_fn(void *context, struct locker_election *e, enum locker_election_event event,
	enum locker_outcome reason)
{
	told.n[event]++;
	locker_election_free(e);
}

static void test_election_freed_in_its_own_callback(void **state)
{
	struct locker_election_options options = {.key = locker_text("k"),
		.name = locker_text("me"),
		.ttl_ms = 1200,
		.on_event = free_fn};

	locker_election_free(election);
	assert_int_equal(locker_election_new(world.client, &options, &election), LOCKER_OK);
	assert_int_equal(locker_election_campaign(election), LOCKER_OK);
	world_answer(&world, world_expect_start(&world, 0, "LOCK k me:"), GRANT("7", "1199"));
	world_answer(&world, world_expect_start(&world, 0, "RELEASE k me:"), RELEASED);
	assert_told(1, 0, 0, 0);
	make_election(false);
}

static void test_election_misuse(void **state)
{
	struct locker_election_options options = {.key = locker_text("k"), .ttl_ms = 1200};
	struct locker_election *none;

	assert_int_equal(locker_election_new(world.client, &options, &none), LOCKER_USAGE);
	options.on_event = event_fn;
	assert_int_equal(locker_election_new(world.client, &options, &none), LOCKER_USAGE);
	options.name = locker_text("me");
	options.ttl_ms = 0;
	assert_int_equal(locker_election_new(world.client, &options, &none), LOCKER_USAGE);
	locker_election_free(NULL);
	assert_int_equal(locker_client_free(world.client), LOCKER_USAGE);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_election_campaign_and_resign),
		TEST(test_election_stands_over_all_failures),
		TEST(test_election_deposed_stands_again_when_told),
		TEST(test_election_at_risk_then_deposed),
		TEST(test_election_withdrawn_leaves_the_line),
		TEST(test_election_observes),
		TEST(test_election_names_of_others_stay_whole),
		TEST(test_election_freed_in_its_own_callback),
		TEST(test_election_misuse),
	};
	return cmocka_run_group_tests_name("locker_election", tests, NULL, NULL);
}
