#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "fake_node.h"

static struct fake_world world;
static struct locker_lock *lock;
static struct heard heard;
static struct {
	unsigned at_risk, gone;
	enum locker_outcome reason;
	bool valid; /* as locker_lock_valid() said inside the callback */
} events;

static void event_fn(
	void *context, struct locker_lock *l, enum locker_event event, enum locker_outcome reason)
{
	events.at_risk += event == LOCKER_AT_RISK;
	events.gone += event == LOCKER_GONE;
	events.reason = reason;
	events.valid = locker_lock_valid(l);
}

static void make_lock(bool extend, const char *value)
{
	struct locker_lock_options options = {.key = locker_text("k"),
		.value = locker_text(value),
		.ttl_ms = 900,
		.extend = extend,
		.on_event = event_fn};

	assert_int_equal(locker_lock_new(world.client, &options, &lock), LOCKER_OK);
}

static int setup(void **state)
{
	memset(&events, 0, sizeof events);
	heard = (struct heard){0};
	world_open(&world, (struct locker_client_options){.value_prefix = "p-"});
	make_lock(true, "v");
	return 0;
}

static int teardown(void **state)
{
	locker_lock_free(lock);
	world_close(&world);
	return 0;
}

static void remake(bool extend, const char *value)
{
	locker_lock_free(lock);
	make_lock(extend, value);
}

static void acquire(void)
{
	heard.calls = 0;
	assert_int_equal(locker_acquire_async(lock, 0, heard_fn, &heard), LOCKER_OK);
	world_answer(&world, world_expect(&world, 0, "LOCK k v 900"), GRANT("7", "899"));
	assert_int_equal(world_await(&world, &heard), LOCKER_OK);
	assert_true(locker_lock_valid(lock));
	assert_int_equal(locker_lock_token(lock), 7);
}

static void test_lock_is_valid_as_long_as_promised(void **state)
{
	remake(false, "v");
	assert_false(locker_lock_valid(lock));
	assert_int_equal(locker_lock_remaining_ms(lock), 0);
	assert_int_equal(locker_lock_token(lock), 0);
	acquire();
	assert_int_equal(locker_lock_remaining_ms(lock), 899);
	world_pass(&world, 898);
	assert_int_equal(locker_lock_remaining_ms(lock), 1);
	assert_true(locker_lock_valid(lock));
	world_pass(&world, 1);
	assert_false(locker_lock_valid(lock));
}

static void test_lock_counts_from_before_the_request(void **state)
{
	assert_int_equal(locker_acquire_async(lock, 0, heard_fn, &heard), LOCKER_OK);
	struct fake_command *command = world_expect(&world, 0, "LOCK k v 900");
	world_pass(&world, 400);
	world_answer(&world, command, GRANT("7", "899"));
	assert_int_equal(world_await(&world, &heard), LOCKER_OK);
	assert_int_equal(heard.reply.left_ms, 499);
	assert_int_equal(locker_lock_remaining_ms(lock), 499);
}

static void test_lock_the_clock_that_ran_more_counts(void **state)
{
	remake(false, "v");
	acquire();
	world.now.boot_ns += 600 * NS_PER_MS; /* a suspended machine */
	assert_int_equal(locker_lock_remaining_ms(lock), 299);
	world.now.raw_ns += 700 * NS_PER_MS;
	assert_int_equal(locker_lock_remaining_ms(lock), 199);
	world.now.boot_ns += 299 * NS_PER_MS;
	assert_false(locker_lock_valid(lock));
}

static void test_lock_granted_too_late_is_given_back(void **state)
{
	assert_int_equal(locker_acquire_async(lock, 0, heard_fn, &heard), LOCKER_OK);
	struct fake_command *command = world_expect(&world, 0, "LOCK k v 900");
	world_pass(&world, 950);
	world_answer(&world, command, GRANT("7", "899"));
	assert_int_equal(world_await(&world, &heard), LOCKER_LOST);
	assert_false(locker_lock_valid(lock));
	world_expect(&world, 0, "RELEASE k v TOKEN 7");
	assert_int_equal(events.gone, 0);
}

static void test_lock_values_are_unique(void **state)
{
	char first[sizeof world.nodes[0].commands[0].text], *second;

	remake(true, NULL);
	assert_int_equal(locker_acquire_async(lock, 0, heard_fn, &heard), LOCKER_OK);
	struct fake_command *command = world_expect_start(&world, 0, "LOCK k p-");
	(void)snprintf(first, sizeof first, "%s", command->text);
	assert_int_equal(strlen(first), strlen("LOCK k p- 900") + 32);
	world_answer(&world, command, "_\r\n");
	assert_int_equal(world_await(&world, &heard), LOCKER_HELD);
	heard.calls = 0;
	assert_int_equal(locker_acquire_async(lock, 0, heard_fn, &heard), LOCKER_OK);
	command = world_expect_start(&world, 0, "LOCK k p-");
	second = command->text;
	assert_string_not_equal(first, second);
	world_answer(&world, command, "_\r\n");
	assert_int_equal(world_await(&world, &heard), LOCKER_HELD);
}

static void test_lock_whose_answers_are_lost_is_given_back(void **state)
{
	char released[FAKE_COMMANDS_MAX] = "RELEASE k ";

	remake(true, NULL);
	assert_int_equal(locker_acquire_async(lock, 0, heard_fn, &heard), LOCKER_OK);
	for (size_t i = 0; i < 4; i++) {
		struct fake_command *command = world_expect_start(&world, i % 2, "LOCK k p-");
		memcpy(released + 10, command->text + 7, 34);
		world_pass(&world, 3000);
	}
	assert_int_equal(world_await(&world, &heard), LOCKER_TIMEOUT);
	assert_false(locker_lock_valid(lock));
	world_expect(&world, 0, released);
}

static void test_lock_is_extended_every_third(void **state)
{
	acquire();
	for (int i = 0; i < 5; i++) {
		world_pass(&world, 240);
		world_expect_nothing(&world);
		world_pass(&world, 60);
		world_answer(&world, world_expect(&world, 0, "EXTEND k v 900 TOKEN 7"),
			GRANT("7", "899"));
		world_settle(&world);
		assert_int_equal(locker_lock_remaining_ms(lock), 899);
	}
	assert_int_equal(events.at_risk + events.gone, 0);
}

static void test_lock_at_risk_then_gone(void **state)
{
	acquire();
	fake_refuse(&world.nodes[0]);
	fake_refuse(&world.nodes[1]);
	world_pass(&world, 300);
	world_settle(&world);
	assert_int_equal(events.at_risk, 0);
	world_pass(&world, 300);
	world_settle(&world);
	assert_int_equal(events.at_risk, 1);
	assert_int_equal(events.gone, 0);
	assert_int_equal(events.reason, LOCKER_CONNECT);
	assert_true(events.valid);
	world_pass(&world, 298);
	world_settle(&world);
	assert_int_equal(events.gone, 0);
	world_pass(&world, 1);
	world_settle(&world);
	assert_int_equal(events.gone, 1);
	assert_int_equal(events.reason, LOCKER_CONNECT);
	assert_false(events.valid);
	assert_int_equal(events.at_risk, 1);
}

static void test_lock_of_a_silent_node_is_extended_by_another(void **state)
{
	acquire();
	world_pass(&world, 300);
	world_expect(&world, 0, "EXTEND k v 900 TOKEN 7");
	world_pass(&world, 225);
	world_answer(&world, world_expect(&world, 1, "EXTEND k v 900 TOKEN 7"), GRANT("7", "899"));
	world_settle(&world);
	assert_int_equal(locker_lock_remaining_ms(lock), 899);
	assert_int_equal(events.at_risk + events.gone, 0);
}

static void test_lock_of_another_is_gone_at_once(void **state)
{
	static const char *const answers[] = {"-NOTFOUND x\r\n", "-NOTOWNER x\r\n"};
	static const enum locker_outcome reasons[] = {LOCKER_NOTFOUND, LOCKER_NOTOWNER};

	for (size_t i = 0; i < 2; i++) {
		acquire();
		world_pass(&world, 300);
		world_answer(&world, world_expect(&world, 0, "EXTEND k v 900 TOKEN 7"), answers[i]);
		world_settle(&world);
		assert_int_equal(events.gone, i + 1);
		assert_int_equal(events.reason, reasons[i]);
		assert_false(locker_lock_valid(lock));
		world_pass(&world, 2000);
		world_expect_nothing(&world);
	}
}

static void test_lock_unsure_answers_are_tried_again(void **state)
{
	static const char *const answers[] = {"-UNKNOWN x\r\n", "-NOQUORUM x\r\n"};

	acquire();
	world_pass(&world, 300);
	for (size_t i = 0; i < 3; i++) {
		for (size_t k = 0; k < 2; k++)
			world_answer(&world,
				world_expect(&world, (i + k) % 2, "EXTEND k v 900 TOKEN 7"),
				answers[(i + k) % 2]);
		world_settle(&world);
		world_pass(&world, 75);
		assert_true(locker_lock_valid(lock));
	}
	world_answer(&world, world_expect(&world, 1, "EXTEND k v 900 TOKEN 7"), GRANT("7", "899"));
	world_settle(&world);
	assert_int_equal(locker_lock_remaining_ms(lock), 899);
}

static void test_lock_extension_waits_for_nothing_else(void **state)
{
	struct locker_command slow = {.verb = LOCKER_READ, .key = locker_text("k"), .quorum = true};

	acquire();
	heard.calls = 0;
	assert_int_equal(locker_submit(world.client, &slow, heard_fn, &heard), LOCKER_OK);
	struct fake_command *read = world_expect(&world, 0, "READ k QUORUM");
	for (int i = 0; i < 5; i++) {
		world_pass(&world, 300);
		world_answer(&world, world_expect(&world, 0, "EXTEND k v 900 TOKEN 7"),
			GRANT("7", "899"));
		world_settle(&world);
	}
	assert_true(locker_lock_valid(lock));
	world_answer(&world, read, "_\r\n");
	assert_int_equal(world_await(&world, &heard), LOCKER_NONE);
}

static void test_lock_once_over_is_never_revived(void **state)
{
	acquire();
	world_pass(&world, 300);
	struct fake_command *extend = world_expect(&world, 0, "EXTEND k v 900 TOKEN 7");
	/* The process is stopped; when it runs again, the answer is there and so are all times. */
	world_answer(&world, extend, GRANT("7", "899"));
	world_pass(&world, 650);
	assert_false(locker_lock_valid(lock));
	world_settle(&world);
	assert_int_equal(events.gone, 1);
	assert_int_equal(events.reason, LOCKER_LOST);
	assert_int_equal(events.at_risk, 0);
	assert_false(locker_lock_valid(lock));
	world_expect(&world, 0, "RELEASE k v TOKEN 7");
}

static void test_lock_late_answer_revives_nothing_unasked(void **state)
{
	acquire();
	world_pass(&world, 300);
	struct fake_command *extend = world_expect(&world, 0, "EXTEND k v 900 TOKEN 7");
	world_answer(&world, extend, GRANT("7", "899"));
	world_pass(&world, 650);
	world_settle(&world);
	assert_int_equal(events.gone, 1);
	assert_false(locker_lock_valid(lock));
	world_expect(&world, 0, "RELEASE k v TOKEN 7");
}

static void test_lock_release_waits_for_an_extension(void **state)
{
	acquire();
	world_pass(&world, 300);
	struct fake_command *extend = world_expect(&world, 0, "EXTEND k v 900 TOKEN 7");
	heard.calls = 0;
	assert_int_equal(locker_release_async(lock, heard_fn, &heard), LOCKER_OK);
	assert_false(locker_lock_valid(lock));
	world_expect_nothing(&world);
	assert_int_equal(locker_release_async(lock, heard_fn, &heard), LOCKER_USAGE);
	world_answer(&world, extend, GRANT("7", "899"));
	struct fake_command *release = world_expect(&world, 0, "RELEASE k v TOKEN 7");
	assert_false(locker_lock_valid(lock));
	world_answer(&world, release, RELEASED);
	assert_int_equal(world_await(&world, &heard), LOCKER_OK);
	world_pass(&world, 5000);
	world_expect_nothing(&world);
	assert_int_equal(events.at_risk + events.gone, 0);
	acquire();
}

static void test_lock_released_is_extended_no_more(void **state)
{
	acquire();
	heard.calls = 0;
	assert_int_equal(locker_release_async(lock, heard_fn, &heard), LOCKER_OK);
	struct fake_command *release = world_expect(&world, 0, "RELEASE k v TOKEN 7");
	world_pass(&world, 1000);
	world_expect_nothing(&world);
	world_answer(&world, release, RELEASED);
	assert_int_equal(world_await(&world, &heard), LOCKER_OK);
}

static void test_lock_extended_by_hand(void **state)
{
	remake(false, "v");
	acquire();
	heard.calls = 0;
	assert_int_equal(locker_extend_async(lock, 5000, heard_fn, &heard), LOCKER_OK);
	assert_int_equal(locker_extend_async(lock, 5000, heard_fn, &heard), LOCKER_USAGE);
	world_answer(
		&world, world_expect(&world, 0, "EXTEND k v 5000 TOKEN 7"), GRANT("7", "4990"));
	assert_int_equal(world_await(&world, &heard), LOCKER_OK);
	assert_int_equal(locker_lock_remaining_ms(lock), 4990);
	heard.calls = 0;
	assert_int_equal(locker_extend_async(lock, 1, heard_fn, &heard), LOCKER_OK);
	world_answer(&world, world_expect(&world, 0, "EXTEND k v 1 TOKEN 7"), GRANT("7", "0"));
	assert_int_equal(world_await(&world, &heard), LOCKER_OK);
	assert_int_equal(locker_lock_remaining_ms(lock), 4990);
}

static void test_lock_over_while_extended_by_hand(void **state)
{
	remake(false, "v");
	acquire();
	heard.calls = 0;
	assert_int_equal(locker_extend_async(lock, 900, heard_fn, &heard), LOCKER_OK);
	struct fake_command *extend = world_expect(&world, 0, "EXTEND k v 900 TOKEN 7");
	world_pass(&world, 900);
	assert_int_equal(world_await(&world, &heard), LOCKER_LOST);
	assert_int_equal(events.gone, 1);
	world_answer(&world, extend, GRANT("7", "899"));
	world_expect(&world, 0, "RELEASE k v TOKEN 7");
	assert_false(locker_lock_valid(lock));
}

static void test_lock_freed_is_given_up(void **state)
{
	acquire();
	locker_lock_free(lock);
	world_answer(&world, world_expect(&world, 0, "RELEASE k v TOKEN 7"), RELEASED);
	make_lock(true, "v");
	acquire();
	world_pass(&world, 300);
	struct fake_command *extend = world_expect(&world, 0, "EXTEND k v 900 TOKEN 7");
	locker_lock_free(lock);
	world_expect_nothing(&world);
	world_answer(&world, extend, GRANT("7", "899"));
	world_expect(&world, 0, "RELEASE k v TOKEN 7");
	make_lock(true, "v");
}

static void test_lock_freed_while_it_is_taken(void **state)
{
	assert_int_equal(locker_acquire_async(lock, 0, heard_fn, &heard), LOCKER_OK);
	struct fake_command *command = world_expect(&world, 0, "LOCK k v 900");
	locker_lock_free(lock);
	assert_int_equal(world_await(&world, &heard), LOCKER_CLOSED);
	world_answer(&world, command, GRANT("9", "899"));
	world_expect(&world, 0, "RELEASE k v TOKEN 9");
	make_lock(true, "v");
}

static void free_fn(
	void *context, struct locker_lock *l, enum locker_event event, enum locker_outcome reason)
{
	events.gone++;
	locker_lock_free(l);
}

static void test_lock_freed_in_its_own_callback(void **state)
{
	struct locker_lock_options options = {.key = locker_text("k"),
		.value = locker_text("v"),
		.ttl_ms = 900,
		.on_event = free_fn};

	locker_lock_free(lock);
	assert_int_equal(locker_lock_new(world.client, &options, &lock), LOCKER_OK);
	acquire();
	options.risk_ms = 0;
	world_pass(&world, 900);
	world_settle(&world);
	assert_int_equal(events.gone, 1);
	make_lock(true, "v");
}

static int loop_wakes(void)
{
	struct pollfd p = {.fd = locker_fd(world.client), .events = POLLIN};

	return poll(&p, 1, 0);
}

static void test_lock_leaves_an_idle_loop_alone(void **state)
{
	acquire();
	for (int i = 0; i < 3; i++) {
		world_settle(&world);
		assert_int_equal(loop_wakes(), 0);
		assert_true(locker_next_timeout_ms(world.client) > 100);
		assert_int_equal(loop_wakes(), 0);
		assert_true(locker_lock_valid(lock));
		assert_int_equal(loop_wakes(), 0);
	}
	world_pass(&world, 900);
	assert_int_equal(locker_next_timeout_ms(world.client), 0);
	world_settle(&world);
	assert_int_equal(events.gone, 1);
	assert_int_equal(locker_acquire_async(lock, 0, heard_fn, &heard), LOCKER_OK);
	assert_int_equal(loop_wakes(), 1);
}

static void test_lock_misuse(void **state)
{
	struct locker_lock_options options = {.key = locker_text("k"), .ttl_ms = 0};
	struct locker_lock *none;

	assert_int_equal(locker_lock_new(world.client, &options, &none), LOCKER_USAGE);
	options.ttl_ms = 5;
	options.risk_ms = 6;
	assert_int_equal(locker_lock_new(world.client, &options, &none), LOCKER_USAGE);
	assert_int_equal(locker_lock_new(world.client, NULL, &none), LOCKER_USAGE);
	options.key.bytes = 0;
	assert_int_equal(locker_lock_new(world.client, &options, &none), LOCKER_USAGE);
	assert_int_equal(locker_acquire_async(lock, 0, NULL, NULL), LOCKER_USAGE);
	assert_int_equal(locker_acquire_async(lock, -1, heard_fn, &heard), LOCKER_USAGE);
	assert_int_equal(locker_release(lock, NULL), LOCKER_LOST);
	assert_int_equal(locker_extend(lock, 100, NULL), LOCKER_LOST);
	assert_int_equal(locker_extend(lock, 0, NULL), LOCKER_USAGE);
	acquire();
	assert_int_equal(locker_acquire_async(lock, 0, heard_fn, &heard), LOCKER_USAGE);
	assert_int_equal(locker_client_free(world.client), LOCKER_USAGE);
	locker_lock_free(NULL);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_lock_is_valid_as_long_as_promised),
		TEST(test_lock_counts_from_before_the_request),
		TEST(test_lock_the_clock_that_ran_more_counts),
		TEST(test_lock_granted_too_late_is_given_back),
		TEST(test_lock_values_are_unique),
		TEST(test_lock_whose_answers_are_lost_is_given_back),
		TEST(test_lock_is_extended_every_third),
		TEST(test_lock_at_risk_then_gone),
		TEST(test_lock_of_a_silent_node_is_extended_by_another),
		TEST(test_lock_of_another_is_gone_at_once),
		TEST(test_lock_unsure_answers_are_tried_again),
		TEST(test_lock_extension_waits_for_nothing_else),
		TEST(test_lock_once_over_is_never_revived),
		TEST(test_lock_late_answer_revives_nothing_unasked),
		TEST(test_lock_release_waits_for_an_extension),
		TEST(test_lock_released_is_extended_no_more),
		TEST(test_lock_extended_by_hand),
		TEST(test_lock_over_while_extended_by_hand),
		TEST(test_lock_freed_is_given_up),
		TEST(test_lock_freed_while_it_is_taken),
		TEST(test_lock_freed_in_its_own_callback),
		TEST(test_lock_leaves_an_idle_loop_alone),
		TEST(test_lock_misuse),
	};
	return cmocka_run_group_tests_name("locker_lock", tests, NULL, NULL);
}
