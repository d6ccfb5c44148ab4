#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

#include <cmocka.h>

#include "fake_node.h"

static struct fake_world world;
static struct heard heard;

static int setup(void **state)
{
	heard = (struct heard){0};
	world_open(&world, (struct locker_client_options){.client_name = "tester"});
	return 0;
}

static int teardown(void **state)
{
	world_close(&world);
	return 0;
}

static struct locker_command make(enum locker_verb verb)
{
	return (struct locker_command){.verb = verb,
		.key = locker_text("k"),
		.value = locker_text("v"),
		.new_value = locker_text("w"),
		.ttl_ms = 1000};
}

static void submit(struct locker_command command)
{
	heard.calls = 0;
	assert_int_equal(locker_submit(world.client, &command, heard_fn, &heard), LOCKER_OK);
}

/* @command goes out as @text, and the answer @raw means @outcome. */
static void assert_exchange(struct locker_command command, const char *text, const char *raw,
	enum locker_outcome outcome)
{
	submit(command);
	world_answer(&world, world_expect(&world, 0, text), raw);
	assert_int_equal(world_await(&world, &heard), outcome);
	assert_int_equal(heard.reply.attempts, 1);
}

static void test_locker_words_are_different(void **state)
{
	for (int a = 0; a <= LOCKER_CLOSED; a++) {
		const char *word = locker_outcome_word((enum locker_outcome)a);
		if (strcmp(word, "?") == 0)
			continue;
		assert_true(strlen(locker_outcome_sentence((enum locker_outcome)a)) > 3);
		for (int b = 0; b < a; b++)
			assert_string_not_equal(word, locker_outcome_word((enum locker_outcome)b));
	}
	assert_non_null(locker_outcome_sentence((enum locker_outcome)999));
}

static void test_locker_grants(void **state)
{
	struct locker_command k = make(LOCKER_LOCK);

	assert_exchange(k, "LOCK k v 1000", GRANT("7", "990"), LOCKER_OK);
	assert_int_equal(heard.reply.token, 7);
	assert_int_equal(heard.reply.valid_ms, 990);
	assert_int_equal(heard.reply.left_ms, 990);
	assert_int_equal(heard.reply.quorum, 2);
	assert_int_equal(heard.reply.votes, 3);
	assert_int_equal(heard.reply.commits, 2);
	k.idempotent = true;
	assert_exchange(k, "LOCK k v 1000 IDEMPOTENT", "_\r\n", LOCKER_HELD);
	k = make(LOCKER_UPDATE);
	assert_exchange(k, "UPDATE k v w", GRANT("7", "90"), LOCKER_OK);
	k = make(LOCKER_EXTEND);
	k.token = 7;
	assert_exchange(k, "EXTEND k v 1000 TOKEN 7", GRANT("7", "90"), LOCKER_OK);
	k = make(LOCKER_RELEASE);
	assert_exchange(k, "RELEASE k v", RELEASED, LOCKER_OK);
}

static void test_locker_reads(void **state)
{
	struct locker_command k = make(LOCKER_READ);

	assert_exchange(k, "READ k", "$2\r\nab\r\n", LOCKER_OK);
	assert_int_equal(heard.reply.value_bytes, 2);
	assert_string_equal(heard.reply.value, "ab");
	k.quorum = true;
	assert_exchange(k, "READ k QUORUM", "_\r\n", LOCKER_NONE);
	k = make(LOCKER_HOLDER);
	assert_exchange(k, "HOLDER k",
		"%6\r\n$5\r\nvalue\r\n$1\r\nv\r\n$5\r\ntoken\r\n:9\r\n$12\r\nremaining-ms\r\n:5\r\n"
		"$7\r\nheld-ms\r\n:6\r\n$4\r\nnode\r\n:3\r\n$6\r\nclient\r\n$2\r\nme\r\n",
		LOCKER_OK);
	assert_string_equal(heard.reply.value, "v");
	assert_string_equal(heard.reply.client, "me");
	assert_int_equal(heard.reply.remaining_ms, 5);
	assert_int_equal(heard.reply.held_ms, 6);
	assert_int_equal(heard.reply.node, 3);
	k = make(LOCKER_CHECK);
	k.token = 9;
	assert_exchange(k, "CHECK k 9", ":1\r\n", LOCKER_OK);
	assert_exchange(k, "CHECK k 9", ":0\r\n", LOCKER_NOTOWNER);
	k = make(LOCKER_LAG);
	assert_exchange(k, "LAG",
		"%4\r\n$2\r\nms\r\n,1.5\r\n$6\r\nquorum\r\n:2\r\n$5\r\nvotes\r\n:3\r\n$7\r\n"
		"commits\r\n:3\r\n",
		LOCKER_OK);
	assert_true(heard.reply.lag_ms > 1.4 && heard.reply.lag_ms < 1.6);
}

static void test_locker_waits(void **state)
{
	struct locker_command k = make(LOCKER_WAITFOR);

	k.wait_ms = 50;
	assert_exchange(k, "WAITFOR k 50", "$1\r\nv\r\n", LOCKER_OK);
	assert_exchange(k, "WAITFOR k 50", "_\r\n", LOCKER_NONE);
	k.verb = LOCKER_WAITRELEASE;
	assert_exchange(k, "WAITRELEASE k 50", "+RELEASED\r\n", LOCKER_OK);
	assert_exchange(k, "WAITRELEASE k 50", "+NOTLOCKED\r\n", LOCKER_NOTLOCKED);
	assert_exchange(k, "WAITRELEASE k 50", "_\r\n", LOCKER_HELD);
	k.verb = LOCKER_LOCK;
	assert_exchange(k, "LOCK k v 1000 WAIT 50", "_\r\n", LOCKER_HELD);
}

static void test_locker_errors_keep_their_words(void **state)
{
	static const struct {
		const char *raw;
		enum locker_outcome outcome;
		const char *message;
	} rows[] = {
		{"-NOTOWNER of old\r\n", LOCKER_NOTOWNER, "of old"},
		{"-NOTFOUND x\r\n", LOCKER_NOTFOUND, "x"},
		{"-BUSY x\r\n", LOCKER_BUSY, "x"},
		{"-LIMIT x\r\n", LOCKER_LIMIT, "x"},
		{"-ERR syntax error\r\n", LOCKER_REFUSED, "ERR syntax error"},
		{"-NOQUORUMS x\r\n", LOCKER_REFUSED, "NOQUORUMS x"},
		{"-\r\n", LOCKER_REFUSED, ""},
	};

	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		assert_exchange(make(LOCKER_RELEASE), "RELEASE k v", rows[i].raw, rows[i].outcome);
		assert_string_equal(heard.reply.message, rows[i].message);
	}
}

static void test_locker_goes_to_the_next_node_and_stays(void **state)
{
	char address[32], wanted[32];

	fake_refuse(&world.nodes[0]);
	(void)snprintf(wanted, sizeof wanted, "127.0.0.1:%d", world.nodes[1].port);
	for (int i = 0; i < 2; i++) {
		submit(make(LOCKER_READ));
		world_answer(&world, world_expect(&world, 1, "READ k"), "_\r\n");
		assert_int_equal(world_await(&world, &heard), LOCKER_NONE);
		locker_client_node(world.client, address, sizeof address);
		assert_string_equal(address, wanted);
	}
}

static void test_locker_tries_every_address_of_a_name(void **state)
{
	char nodes[64];
	struct locker_client_options options = {.nodes = nodes, .own_loop = true};

	assert_int_equal(locker_client_free(world.client), LOCKER_OK);
	/* Often ::1 comes first, where nobody listens. */
	(void)snprintf(nodes, sizeof nodes, "localhost:%d", world.nodes[1].port);
	assert_int_equal(locker_client_new(&options, &world.client), LOCKER_OK);
	submit(make(LOCKER_READ));
	world_answer(&world, world_expect(&world, 1, "READ k"), "_\r\n");
	assert_int_equal(world_await(&world, &heard), LOCKER_NONE);
}

static void test_locker_nobody_there(void **state)
{
	fake_refuse(&world.nodes[0]);
	fake_refuse(&world.nodes[1]);
	submit(make(LOCKER_LOCK));
	assert_int_equal(world_await(&world, &heard), LOCKER_CONNECT);
	assert_non_null(strstr(heard.reply.message, "Connection refused; 127.0.0.1:"));
	assert_int_equal(heard.reply.attempts, 0);
}

static void test_locker_silent_node_is_given_up(void **state)
{
	world.nodes[0].silent = true;
	submit(make(LOCKER_READ));
	world_settle(&world);
	world_pass(&world, 1001);
	world_answer(&world, world_expect(&world, 1, "READ k"), "_\r\n");
	assert_int_equal(world_await(&world, &heard), LOCKER_NONE);
}

static void test_locker_lost_lock_is_repeated_idempotent(void **state)
{
	struct locker_command k = make(LOCKER_LOCK);

	k.wait_ms = 500;
	submit(k);
	world_expect(&world, 0, "LOCK k v 1000 WAIT 500");
	world_pass(&world, 200);
	fake_hang_up(&world.nodes[0]);
	struct fake_command *again = world_expect(&world, 1, "LOCK k v 1000 WAIT 300 IDEMPOTENT");
	world_pass(&world, 100);
	world_answer(&world, again, GRANT("8", "900"));
	assert_int_equal(world_await(&world, &heard), LOCKER_OK);
	assert_int_equal(heard.reply.attempts, 2);
	/* It counts from when it was sent for the second time. */
	assert_int_equal(heard.reply.left_ms, 800);
}

static void assert_repeated(struct locker_command command, const char *text)
{
	submit(command);
	world_expect(&world, 0, text);
	world_pass(&world, 3001);
	world_answer(&world, world_expect(&world, 1, text), "-NOTFOUND x\r\n");
	assert_int_equal(world_await(&world, &heard), LOCKER_NOTFOUND);
	assert_int_equal(heard.reply.attempts, 2);
	fake_hang_up(&world.nodes[1]);
	world_settle(&world);
}

static void test_locker_lost_answers_are_asked_for_again(void **state)
{
	struct locker_command k = make(LOCKER_EXTEND);

	k.token = 3;
	assert_repeated(k, "EXTEND k v 1000 TOKEN 3");
	assert_repeated(make(LOCKER_RELEASE), "RELEASE k v");
	k.verb = LOCKER_UPDATE;
	assert_repeated(k, "UPDATE k v w TOKEN 3");
}

static void test_locker_lost_update_without_token_is_unknown(void **state)
{
	submit(make(LOCKER_UPDATE));
	world_expect(&world, 0, "UPDATE k v w");
	fake_hang_up(&world.nodes[0]);
	assert_int_equal(world_await(&world, &heard), LOCKER_UNKNOWN);
	assert_int_equal(heard.reply.attempts, 1);
}

static void assert_lost_everywhere(enum locker_verb verb, enum locker_outcome outcome)
{
	submit(make(verb));
	world_expect_start(&world, 0, "");
	fake_refuse(&world.nodes[0]);
	world_expect_start(&world, 1, "");
	fake_refuse(&world.nodes[1]);
	assert_int_equal(world_await(&world, &heard), outcome);
	teardown(NULL);
	setup(NULL);
}

static void test_locker_lost_everywhere(void **state)
{
	assert_lost_everywhere(LOCKER_LOCK, LOCKER_TIMEOUT);
	assert_lost_everywhere(LOCKER_READ, LOCKER_TIMEOUT);
	assert_lost_everywhere(LOCKER_EXTEND, LOCKER_UNKNOWN);
	assert_lost_everywhere(LOCKER_RELEASE, LOCKER_UNKNOWN);
}

static void test_locker_call_timeout(void **state)
{
	submit(make(LOCKER_READ));
	for (size_t i = 0; i < 4; i++) {
		world_expect(&world, i % 2, "READ k");
		world_pass(&world, 3000);
	}
	assert_int_equal(world_await(&world, &heard), LOCKER_TIMEOUT);
}

static void test_locker_passes_over_who_is_not_ready(void **state)
{
	submit(make(LOCKER_READ));
	world_answer(&world, world_expect(&world, 0, "READ k"), "-NOTREADY no copy\r\n");
	world_answer(&world, world_expect(&world, 1, "READ k"), "$1\r\nv\r\n");
	assert_int_equal(world_await(&world, &heard), LOCKER_OK);
	submit(make(LOCKER_READ));
	world_answer(&world, world_expect(&world, 1, "READ k"), "-NOTREADY no copy\r\n");
	world_answer(&world, world_expect(&world, 0, "READ k"), "-NOTREADY no copy\r\n");
	assert_int_equal(world_await(&world, &heard), LOCKER_NOTREADY);
}

/* Node 0 says @first to it, node 1 @second: that means @outcome. */
static void assert_asked_twice(struct locker_command command, const char *text, const char *again,
	const char *first, const char *second, enum locker_outcome outcome)
{
	submit(command);
	world_answer(&world, world_expect(&world, 0, text), first);
	world_answer(&world, world_expect(&world, 1, again), second);
	assert_int_equal(world_await(&world, &heard), outcome);
	assert_int_equal(heard.reply.attempts, 2);
	teardown(NULL);
	setup(NULL);
}

static void test_locker_asks_another_where_there_is_no_quorum(void **state)
{
	static const char unknown[] = "-UNKNOWN x\r\n", noquorum[] = "-NOQUORUM 1 of 3\r\n";
	struct locker_command lock = make(LOCKER_LOCK), extend = make(LOCKER_EXTEND),
			      release = make(LOCKER_RELEASE);

	assert_asked_twice(release, "RELEASE k v", "RELEASE k v", noquorum, RELEASED, LOCKER_OK);
	assert_asked_twice(
		release, "RELEASE k v", "RELEASE k v", noquorum, noquorum, LOCKER_NOQUORUM);
	assert_asked_twice(
		release, "RELEASE k v", "RELEASE k v", noquorum, unknown, LOCKER_UNKNOWN);
	/* The second did nothing, but who knows what the first did. */
	assert_asked_twice(
		release, "RELEASE k v", "RELEASE k v", unknown, noquorum, LOCKER_UNKNOWN);
	assert_asked_twice(extend, "EXTEND k v 1000", "EXTEND k v 1000", unknown, "-NOTFOUND x\r\n",
		LOCKER_NOTFOUND);
	assert_asked_twice(lock, "LOCK k v 1000", "LOCK k v 1000 IDEMPOTENT", noquorum,
		GRANT("7", "5"), LOCKER_OK);
	assert_asked_twice(lock, "LOCK k v 1000", "LOCK k v 1000 IDEMPOTENT", noquorum, noquorum,
		LOCKER_NOQUORUM);
	assert_asked_twice(lock, "LOCK k v 1000", "LOCK k v 1000 IDEMPOTENT", noquorum,
		"-BUSY x\r\n", LOCKER_TIMEOUT);
	assert_exchange(make(LOCKER_UPDATE), "UPDATE k v w", unknown, LOCKER_UNKNOWN);
}

static void test_locker_refused_by_one_and_none_else_there(void **state)
{
	submit(make(LOCKER_RELEASE));
	struct fake_command *release = world_expect(&world, 0, "RELEASE k v");
	fake_refuse(&world.nodes[1]);
	world_answer(&world, release, "-NOQUORUM 1 of 3\r\n");
	world_step(&world);
	fake_refuse(&world.nodes[0]);
	assert_int_equal(world_await(&world, &heard), LOCKER_NOQUORUM);
}

static void test_locker_nothing_done_after_a_lost_answer(void **state)
{
	static const char *const answers[] = {
		"-NOQUORUM x\r\n", "-BUSY x\r\n", "-LIMIT x\r\n", "-ERR x\r\n", "-NOTREADY x\r\n"};

	for (size_t i = 0; i < sizeof answers / sizeof *answers; i++) {
		submit(make(LOCKER_RELEASE));
		world_expect(&world, 0, "RELEASE k v");
		fake_refuse(&world.nodes[0]);
		world_answer(&world, world_expect(&world, 1, "RELEASE k v"), answers[i]);
		if (strstr(answers[i], "NOQ") || strstr(answers[i], "NOTR"))
			world_answer(&world, world_expect(&world, 1, "RELEASE k v"), answers[i]);
		assert_int_equal(world_await(&world, &heard), LOCKER_UNKNOWN);
		teardown(NULL);
		setup(NULL);
	}
}

static void test_locker_a_wait_holds_nothing_up(void **state)
{
	struct heard waited = {0};
	struct locker_command k = make(LOCKER_LOCK);

	k.wait_ms = 60000;
	assert_int_equal(locker_submit(world.client, &k, heard_fn, &waited), LOCKER_OK);
	struct fake_command *lock = world_expect(&world, 0, "LOCK k v 1000 WAIT 60000");
	submit(make(LOCKER_READ));
	struct fake_command *read = world_expect(&world, 0, "READ k");
	assert_int_not_equal(lock->fd, read->fd);
	world_answer(&world, read, "_\r\n");
	assert_int_equal(world_await(&world, &heard), LOCKER_NONE);
	world_pass(&world, 59000);
	world_settle(&world);
	assert_int_equal(waited.calls, 0);
	world_answer(&world, lock, GRANT("7", "59900"));
	assert_int_equal(world_await(&world, &waited), LOCKER_OK);
}

static void test_locker_who_is_not_ours(void **state)
{
	static const char *const greetings[] = {"HTTP/1.1 400 Bad Request\r\n\r\n",
		"SSH-2.0-OpenSSH_9.2p1\r\n", "220 mail.example.org ESMTP\r\n",
		"%1\r\n$6\r\nserver\r\n$5\r\nredis\r\n", "+OK\r\n", "%99999999\r\n"};

	for (size_t i = 0; i < sizeof greetings / sizeof *greetings; i++) {
		world.nodes[0].greeting = world.nodes[1].greeting = greetings[i];
		submit(make(LOCKER_LOCK));
		assert_int_equal(world_await(&world, &heard), LOCKER_PROTOCOL);
		assert_int_equal(heard.reply.attempts, 0);
	}
	world.nodes[0].greeting = "-ERR max number of clients reached\r\n";
	submit(make(LOCKER_LOCK));
	assert_int_equal(world_await(&world, &heard), LOCKER_CONNECT);
	assert_non_null(strstr(heard.reply.message, "max number of clients"));
}

static void test_locker_nonsense_is_no_answer(void **state)
{
	static const char *const answers[] = {":1\r\n", "+OK\r\n", "%0\r\n", GRANT("0", "5"),
		GRANT("7", "-5"), GRANT("x", "5"), "*1\r\n:1\r\n", "$5\r\nab", "nonsense\r\n"};

	for (size_t i = 0; i < sizeof answers / sizeof *answers; i++) {
		submit(make(LOCKER_EXTEND));
		world_answer(&world, world_expect(&world, 0, "EXTEND k v 1000"), answers[i]);
		if (strchr(answers[i], 'a') && answers[i][0] == '$') {
			world_settle(&world);
			fake_hang_up(&world.nodes[0]);
		}
		world_answer(&world, world_expect(&world, 1, "EXTEND k v 1000"), GRANT("7", "5"));
		assert_int_equal(world_await(&world, &heard), LOCKER_OK);
		teardown(NULL);
		setup(NULL);
	}
}

static void test_locker_huge_answer_is_refused_early(void **state)
{
	char chunk[4096];

	memset(chunk, 'x', sizeof chunk);
	submit(make(LOCKER_READ));
	struct fake_command *read = world_expect(&world, 0, "READ k");
	world_answer(&world, read, "$400000000\r\n");
	for (int i = 0; i < 8; i++) {
		(void)!send(read->fd, chunk, sizeof chunk, MSG_NOSIGNAL | MSG_DONTWAIT);
		world_step(&world);
	}
	world_answer(&world, world_expect(&world, 1, "READ k"), "_\r\n");
	assert_int_equal(world_await(&world, &heard), LOCKER_NONE);
}

static void test_locker_answer_that_nobody_asked_for(void **state)
{
	assert_exchange(make(LOCKER_READ), "READ k", "_\r\n:5\r\n", LOCKER_NONE);
	world_settle(&world);
	submit(make(LOCKER_READ));
	world_answer(&world, world_expect(&world, 1, "READ k"), ">1\r\n:1\r\n_\r\n");
	assert_int_equal(world_await(&world, &heard), LOCKER_NONE);
}

static void assert_bad(struct locker_command command, enum locker_outcome outcome)
{
	struct locker_reply reply;

	assert_int_equal(locker_submit(world.client, &command, heard_fn, &heard), outcome);
	assert_int_equal(locker_call(world.client, &command, &reply), outcome);
	assert_int_equal(reply.outcome, outcome);
	assert_true(reply.message[0] != '\0');
	assert_int_equal(locker_call(world.client, &command, NULL), outcome);
}

static void test_locker_misuse(void **state)
{
	static char large[LOCKER_VALUE_MAX_BYTES + 1];
	struct locker_command k = make(LOCKER_LOCK);

	assert_int_equal(locker_submit(world.client, &k, NULL, NULL), LOCKER_USAGE);
	k.ttl_ms = 0;
	assert_bad(k, LOCKER_USAGE);
	k = make(LOCKER_LOCK);
	k.wait_ms = -1;
	assert_bad(k, LOCKER_USAGE);
	k = make(LOCKER_LOCK);
	k.key.bytes = 0;
	assert_bad(k, LOCKER_USAGE);
	k.key = (struct locker_bytes){.data = large, .bytes = LOCKER_KEY_MAX_BYTES + 1};
	assert_bad(k, LOCKER_LIMIT);
	k = make(LOCKER_LOCK);
	k.value = (struct locker_bytes){.data = large, .bytes = sizeof large};
	assert_bad(k, LOCKER_LIMIT);
	k.value.data = NULL;
	assert_bad(k, LOCKER_USAGE);
	assert_bad(make(LOCKER_CHECK), LOCKER_USAGE);
	k = make(LOCKER_EXTEND);
	k.token = UINT64_MAX;
	assert_bad(k, LOCKER_USAGE);
	k.verb = (enum locker_verb)77;
	assert_bad(k, LOCKER_USAGE);
	world_expect_nothing(&world);
	assert_int_equal(heard.calls, 0);
}

static void test_locker_bad_options(void **state)
{
	static const struct locker_client_options bad[] = {{.nodes = NULL}, {.nodes = ""},
		{.nodes = "localhost"}, {.nodes = "a:1,b"}, {.nodes = "a:0"}, {.nodes = "a:70000"},
		{.nodes = "a:1", .client_name = "two words"}, {.nodes = "a:1", .client_name = ""},
		{.nodes = "a:1", .call_timeout_ms = -1}};
	struct locker_client *client;

	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
		assert_int_equal(locker_client_new(&bad[i], &client), LOCKER_USAGE);
	assert_int_equal(locker_client_new(NULL, &client), LOCKER_USAGE);
	assert_int_equal(locker_client_free(NULL), LOCKER_OK);
}

struct blocker {
	enum locker_outcome call, process, free;
};

static void block_fn(void *context, const struct locker_reply *reply)
{
	struct blocker *b = context;
	struct locker_command k = make(LOCKER_READ);

	b->call = locker_call(world.client, &k, NULL);
	b->process = locker_process(world.client);
	b->free = locker_client_free(world.client);
}

static void test_locker_blocking_inside_a_callback(void **state)
{
	struct blocker b = {0};
	struct locker_command k = make(LOCKER_READ);

	assert_int_equal(locker_submit(world.client, &k, block_fn, &b), LOCKER_OK);
	world_answer(&world, world_expect(&world, 0, "READ k"), "_\r\n");
	world_settle(&world);
	assert_int_equal(b.call, LOCKER_USAGE);
	assert_int_equal(b.process, LOCKER_USAGE);
	assert_int_equal(b.free, LOCKER_USAGE);
}

static void test_locker_free_calls_back(void **state)
{
	submit(make(LOCKER_READ));
	world_expect(&world, 0, "READ k");
	teardown(NULL);
	assert_int_equal(heard.calls, 1);
	assert_int_equal(heard.reply.outcome, LOCKER_CLOSED);
	setup(NULL);
}

static void test_locker_guard(void **state)
{
	struct locker_guard guard = {0};

	assert_false(locker_guard_accept(&guard, 0));
	assert_true(locker_guard_accept(&guard, 5));
	assert_true(locker_guard_accept(&guard, 5));
	assert_true(locker_guard_accept(&guard, 9));
	assert_false(locker_guard_accept(&guard, 5));
	assert_int_equal(guard.highest, 9);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_locker_words_are_different),
		TEST(test_locker_grants),
		TEST(test_locker_reads),
		TEST(test_locker_waits),
		TEST(test_locker_errors_keep_their_words),
		TEST(test_locker_goes_to_the_next_node_and_stays),
		TEST(test_locker_tries_every_address_of_a_name),
		TEST(test_locker_nobody_there),
		TEST(test_locker_silent_node_is_given_up),
		TEST(test_locker_lost_lock_is_repeated_idempotent),
		TEST(test_locker_lost_answers_are_asked_for_again),
		TEST(test_locker_lost_update_without_token_is_unknown),
		TEST(test_locker_lost_everywhere),
		TEST(test_locker_call_timeout),
		TEST(test_locker_passes_over_who_is_not_ready),
		TEST(test_locker_asks_another_where_there_is_no_quorum),
		TEST(test_locker_refused_by_one_and_none_else_there),
		TEST(test_locker_nothing_done_after_a_lost_answer),
		TEST(test_locker_a_wait_holds_nothing_up),
		TEST(test_locker_who_is_not_ours),
		TEST(test_locker_nonsense_is_no_answer),
		TEST(test_locker_huge_answer_is_refused_early),
		TEST(test_locker_answer_that_nobody_asked_for),
		TEST(test_locker_misuse),
		TEST(test_locker_bad_options),
		TEST(test_locker_blocking_inside_a_callback),
		TEST(test_locker_free_calls_back),
		TEST(test_locker_guard),
	};
	return cmocka_run_group_tests_name("locker", tests, NULL, NULL);
}
