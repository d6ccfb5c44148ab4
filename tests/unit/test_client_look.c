/* LOCKS, BREAK, STATS and SHARDINFO: arguments, shapes, bounds. */
#include "client_world.h"

static void test_look_argument_errors(void **state)
{
	(void)state;
	static const struct {
		const char *say, *start;
	} cases[] = {
		{"LOCKS", "-ERR wrong number of arguments for 'locks' command\r\n"},
		{"LOCKS CURSOR", "-ERR wrong number of arguments for 'locks' command\r\n"},
		{"LOCKS CURSOR 0 PREFIX a COUNT 1 COUNT 1",
			"-ERR wrong number of arguments for 'locks' command\r\n"},
		{"LOCKS FROM 0", "-ERR syntax error\r\n"},
		{"LOCKS CURSOR x", "-ERR invalid cursor\r\n"},
		{"LOCKS CURSOR -1", "-ERR invalid cursor\r\n"},
		{"LOCKS CURSOR 99999999999999", "-ERR invalid cursor\r\n"},
		{"LOCKS CURSOR 99999999999999999999", "-ERR invalid cursor\r\n"},
		{"LOCKS CURSOR 0 PREFIX", "-ERR syntax error\r\n"},
		{"LOCKS CURSOR 0 PREFIX a PREFIX b", "-ERR syntax error\r\n"},
		{"LOCKS CURSOR 0 COUNT 1 COUNT 1", "-ERR syntax error\r\n"},
		{"LOCKS CURSOR 0 COUNT 0", "-ERR syntax error\r\n"},
		{"LOCKS CURSOR 0 COUNT -5", "-ERR syntax error\r\n"},
		{"LOCKS CURSOR 0 COUNT x", "-ERR value is not an integer"},
		{"LOCKS CURSOR 0 MATCH a", "-ERR syntax error\r\n"},
		{"BREAK k", "-ERR wrong number of arguments for 'break' command\r\n"},
		{"BREAK k TOKEN", "-ERR wrong number of arguments for 'break' command\r\n"},
		{"BREAK k v TOKEN 1", "-ERR wrong number of arguments for 'break' command\r\n"},
		{"BREAK k VALUE v", "-ERR syntax error\r\n"},
		{"BREAK k TOKEN x", "-ERR value is not an integer"},
		{"BREAK k TOKEN 0", "-ERR value is not an integer"},
		{"BREAK k TOKEN 9007199254740992", "-ERR value is not an integer"},
		{"BREAK @ TOKEN 1", "-ERR the key is empty"},
		{"STATS x", "-ERR wrong number of arguments for 'stats' command\r\n"},
		{"SHARDINFO x", "-ERR wrong number of arguments for 'shardinfo' command\r\n"},
	};
	struct wire *x = dial(0);
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		say(x, cases[i].say);
		expect_start(x, cases[i].start);
	}
	assert_int_equal(w.n_ops, 0);
}

static void say_prefix(struct wire *x, size_t bytes)
{
	char prefix[KEY_MAX_BYTES + 1];
	memset(prefix, 'p', sizeof prefix);
	struct bytes argv[] = {bytes_str("LOCKS"), bytes_str("CURSOR"), bytes_str("0"),
		bytes_str("PREFIX"), bytes_of(prefix, bytes)};
	resp_command(&x->in, 5, argv);
	feed(x);
	turns(2);
}

static void test_look_prefix_is_as_long_as_a_key_at_most(void **state)
{
	(void)state;
	struct wire *x = dial(0);
	say_prefix(x, KEY_MAX_BYTES + 1);
	expect(x, "-LIMIT prefix of 513 bytes is above the limit of 512\r\n");
	say_prefix(x, KEY_MAX_BYTES);
	expect(x, "*2\r\n:4\r\n*0\r\n");
	say_prefix(x, 0);
	expect_start(x, "*2\r\n:4\r\n*2\r\n");
}

static void test_look_count_is_bounded(void **state)
{
	(void)state;
	static const struct {
		const char *say;
		unsigned count;
	} cases[] = {{"LOCKS CURSOR 0", 100}, {"LOCKS CURSOR 0 COUNT 7", 7},
		{"LOCKS CURSOR 0 COUNT 257", 256},
		{"locks cursor 0 prefix a count 9223372036854775807", 256}};
	struct wire *x = dial(0);
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		say(x, cases[i].say);
		turns(2);
		assert_int_equal(w.scan_count, cases[i].count);
		forget(x);
	}
}

#define ENTRY(map, key, token, waiters)                                                            \
	map "$3\r\nkey\r\n$3\r\n" key "\r\n$5\r\nvalue\r\n$1\r\nv\r\n$5\r\ntoken\r\n:" token       \
	    "\r\n$12\r\nremaining-ms\r\n:2\r\n$7\r\nheld-ms\r\n:2\r\n$4\r\nnode\r\n:2\r\n"         \
	    "$6\r\nclient\r\n$1\r\nc\r\n$7\r\nwaiters\r\n:" waiters "\r\n"

static void test_look_locks_visits_every_thread(void **state)
{
	(void)state;
	static const char *const steps[][2] = {
		{"LOCKS CURSOR 0", "*2\r\n:4\r\n*2\r\n" ENTRY("*16\r\n", "k00", "70", "0")
					   ENTRY("*16\r\n", "k01", "71", "0")},
		{"LOCKS CURSOR 4 PREFIX k03",
			"*2\r\n:8\r\n*1\r\n" ENTRY("*16\r\n", "k03", "73", "0")},
		{"LOCKS CURSOR 8", "*2\r\n:1\r\n*1\r\n" ENTRY("*16\r\n", "k04", "74", "1")},
		{"LOCKS CURSOR 1 PREFIX k9", "*2\r\n:5\r\n*0\r\n"},
		{"LOCKS CURSOR 5 PREFIX k120", "*2\r\n:9\r\n*0\r\n"},
		{"LOCKS CURSOR 9", "*2\r\n:0\r\n*1\r\n" ENTRY("*16\r\n", "k14", "74", "2")},
	};
	struct wire *x = dial(0);
	for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++) {
		say(x, steps[i][0]);
		turns(2);
		expect(x, steps[i][1]);
	}
	say(x, "HELLO 3");
	forget(x);
	say(x, "LOCKS CURSOR 9");
	turns(2);
	expect(x, "*2\r\n:0\r\n*1\r\n" ENTRY("%8\r\n", "k14", "74", "2"));
}

static void test_look_locks_need_a_copy(void **state)
{
	(void)state;
	struct wire *x = dial(0);
	w.stats[1].slots_voting = 31;
	say(x, "LOCKS CURSOR 1");
	turns(2);
	expect_start(x, "-NOTREADY this node has no copy");
	say(x, "LOCKS CURSOR 0");
	turns(2);
	expect_start(x, "*2\r\n:4\r\n*2\r\n");
}

static void test_look_a_page_above_the_output_limit_is_refused(void **state)
{
	(void)state;
	struct wire *x = dial(0);
	w.sh[0].cfg.output_max_bytes = ERROR_MAX_BYTES + 200;
	say(x, "LOCKS CURSOR 0");
	turns(2);
	expect_start(x, "-LIMIT ");
	say(x, "LOCKS CURSOR 0 PREFIX k01");
	turns(2);
	expect_start(x, "*2\r\n:4\r\n*1\r\n");
	assert_true(x->open);
}

static void test_look_break_releases_by_token_alone(void **state)
{
	(void)state;
	struct wire *x = dial(0);
	const char *key = key_of(1, "there");
	say(x, with("break $ token 9007199254740991", key));
	turns(3);
	expect(x, "*8\r\n$5\r\ntoken\r\n:77\r\n$6\r\nquorum\r\n:2\r\n$5\r\nvotes\r\n:3\r\n"
		  "$7\r\ncommits\r\n:2\r\n");
	const struct op_request *op = &w.ops[0].op;
	assert_int_equal(op->kind, OP_RELEASE);
	assert_true(op->any_value && op->has_token);
	assert_int_equal(op->token, BALLOT_MAX);
	assert_int_equal(op->value.len, 0);
	static const struct {
		enum outcome outcome;
		const char *start;
	} cases[] = {{OUT_NOTOWNER, "-NOTOWNER the key is held by another grant"},
		{OUT_NOTFOUND, "-NOTFOUND the key is not held; nothing changed\r\n"},
		{OUT_UNKNOWN, "-UNKNOWN "}, {OUT_NOQUORUM, "-NOQUORUM "}, {OUT_BUSY, "-BUSY "}};
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		w.next = (struct result){.outcome = cases[i].outcome, .masters = 3, .quorum = 2};
		say(x, with("BREAK $ TOKEN 5", key));
		turns(3);
		expect_start(x, cases[i].start);
	}
}

static void test_look_break_of_a_client_that_is_gone(void **state)
{
	(void)state;
	struct wire *x = dial(0);
	const char *key = key_of(0, "k");
	w.defer = true;
	say(x, with("BREAK $ TOKEN 5", key));
	say(x, with("BREAK $ TOKEN 5", key_of(0, "never")));
	hang_up(x);
	complete(key, granted);
	assert_int_equal(w.sh[0].clients->calls_used, 1);
}

static void test_look_stats_of_node_and_shards(void **state)
{
	(void)state;
	struct wire *x = dial(0);
	w.stats[0].waiters = 3;
	w.stats[1].waiters = 4;
	w.stats[1].granted = 1000;
	say(x, "STATS");
	turns(2);
	static const char *const parts[] = {"$7\r\ncluster\r\n$4\r\ntest\r\n",
		"$4\r\nnode\r\n:1\r\n", "$5\r\nstate\r\n$6\r\nactive\r\n",
		"$6\r\nleases\r\n:21\r\n", "$7\r\nwaiters\r\n:7\r\n", "$7\r\ngranted\r\n:1000\r\n",
		"$20\r\nmessages_other_epoch\r\n:3\r\n", "$17\r\nconnected_clients\r\n:1\r\n",
		"$6\r\nshards\r\n*2\r\n*34\r\n$5\r\nshard\r\n:0\r\n$5\r\nslots\r\n:32\r\n",
		"*34\r\n$5\r\nshard\r\n:1\r\n", "$6\r\nleases\r\n:10\r\n",
		"$6\r\nleases\r\n:11\r\n", "$7\r\nwaiters\r\n:3\r\n", "$7\r\nwaiters\r\n:4\r\n"};
	for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++)
		expect_has(x, parts[i]);
	forget(x);
	say(x, "HELLO 3");
	forget(x);
	say(x, "STATS");
	turns(2);
	expect_has(x, "$6\r\nshards\r\n*2\r\n%17\r\n$5\r\nshard\r\n:0\r\n");
	struct resp_value values[512];
	size_t n, used;
	struct buf *out = &x->link.out;
	assert_int_equal(resp_reply_parse(out->data, out->len, values, 512, &n, &used), RESP_OK);
	assert_int_equal(used, out->len);
}

static void test_look_shardinfo(void **state)
{
	(void)state;
	struct wire *x = dial(1);
	say(x, "SHARDINFO");
	expect(x, "*10\r\n$5\r\nslots\r\n:64\r\n$6\r\nshards\r\n:2\r\n$5\r\nshard\r\n:1\r\n"
		  "$7\r\naddress\r\n$14\r\n127.0.0.1:7401\r\n$6\r\ndirect\r\n*0\r\n");
	say(x, "HELLO 3");
	forget(x);
	say(x, "SHARDINFO");
	expect_start(x, "%5\r\n$5\r\nslots\r\n:64\r\n");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, world_setup, world_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_look_argument_errors),
		TEST(test_look_prefix_is_as_long_as_a_key_at_most),
		TEST(test_look_count_is_bounded),
		TEST(test_look_locks_visits_every_thread),
		TEST(test_look_locks_need_a_copy),
		TEST(test_look_a_page_above_the_output_limit_is_refused),
		TEST(test_look_break_releases_by_token_alone),
		TEST(test_look_break_of_a_client_that_is_gone),
		TEST(test_look_stats_of_node_and_shards),
		TEST(test_look_shardinfo),
	};
	return cmocka_run_group_tests_name("client_look", tests, NULL, NULL);
}
