/* The commands of a shard: arguments, shapes of replies, questions to all shards. */
#include "client_world.h"

/* ---- words and shapes ---- */

static void test_client_commands_argument_errors(void **state)
{
	(void)state;
	static const struct {
		const char *say, *start;
	} cases[] = {
		{"LOCK k v", "-ERR wrong number of arguments for 'lock' command\r\n"},
		{"LOCK k v 10 WAIT", "-ERR syntax error\r\n"},
		{"LOCK k v 10 WAIT x", "-ERR value is not an integer or out of range\r\n"},
		{"LOCK k v 10 WAIT -1", "-ERR value is not an integer or out of range\r\n"},
		{"LOCK k v 10 WAIT 86400001", "-LIMIT wait of 86400001 ms"},
		{"LOCK k v 10 WAIT 1 WAIT 1", "-ERR syntax error\r\n"},
		{"LOCK k v 10 IDEMPOTENT IDEMPOTENT", "-ERR syntax error\r\n"},
		{"LOCK k v 10 WAIT 1 ASYNC", "-ERR ASYNC goes with WAIT, and needs RESP3"},
		{"LOCK k v 10 ASYNC", "-ERR ASYNC goes with WAIT, and needs RESP3"},
		{"LOCK k v 10 WAIT 1 ASYNC ASYNC", "-ERR syntax error\r\n"},
		{"CANCEL", "-ERR wrong number of arguments for 'cancel' command\r\n"},
		{"CANCEL x", "-ERR value is not an integer"},
		{"CANCEL -1", "-ERR value is not an integer"},
		{"LOCK k v 0", "-LIMIT lease 0 ms is below 1 ms\r\n"},
		{"LOCK k v 70000", "-LIMIT lease 70000 ms is above max-lease 60000 ms\r\n"},
		{"LOCK k v 010", "-ERR value is not an integer"},
		{"LOCK k v +10", "-ERR value is not an integer"},
		{"LOCK k v 99999999999999999999", "-ERR value is not an integer"},
		{"LOCK @ v 10", "-ERR the key is empty"},
		{"UPDATE k v", "-ERR wrong number of arguments for 'update' command\r\n"},
		{"UPDATE k v w TOKEN", "-ERR syntax error\r\n"},
		{"UPDATE k v w TOKEN 0", "-ERR value is not an integer"},
		{"EXTEND k v 10 TOKEN 9007199254740992", "-ERR value is not an integer"},
		{"EXTEND k v x", "-ERR value is not an integer"},
		{"RELEASE k", "-ERR wrong number of arguments for 'release' command\r\n"},
		{"RELEASE k v TOKEN x", "-ERR value is not an integer"},
		{"RELEASE k v NOKEN 1", "-ERR syntax error\r\n"},
		{"READ k MAYBE", "-ERR syntax error\r\n"},
		{"READ k QUORUM x", "-ERR wrong number of arguments for 'read' command\r\n"},
		{"HOLDER", "-ERR wrong number of arguments for 'holder' command\r\n"},
		{"CHECK k", "-ERR wrong number of arguments for 'check' command\r\n"},
		{"CHECK k x", "-ERR value is not an integer"},
		{"WAITFOR k x", "-ERR value is not an integer"},
		{"WAITRELEASE k", "-ERR wrong number of arguments for 'waitrelease' command\r\n"},
		{"LAG x", "-ERR wrong number of arguments for 'lag' command\r\n"},
		{"UNSETNODES MASTERS 1",
			"-ERR unknown command 'UNSETNODES', with args beginning with: "
			"'MASTERS' '1' \r\n"},
		{"ASYNC", "-ERR unknown command 'ASYNC'"},
		{"MULTI", "-ERR unknown command 'MULTI'"},
		{"GET", "-ERR wrong number of arguments for 'get' command\r\n"},
		{"EXISTS a @", "-ERR the key is empty"},
		{"SELECT 1", "-ERR DB index is out of range\r\n"},
		{"SELECT x", "-ERR value is not an integer"},
		{"HELLO 4", "-NOPROTO unsupported protocol version\r\n"},
		{"HELLO x", "-ERR Protocol version is not an integer"},
		{"HELLO 3 BAD", "-ERR Syntax error in HELLO option 'BAD'\r\n"},
		{"HELLO 3 AUTH u p", "-ERR AUTH <password> called without any password"},
		{"AUTH x", "-ERR AUTH <password> called without any password configured for the "
			   "default "
			   "user. Are you sure your configuration is correct?\r\n"},
		{"CLIENT NOSUCH", "-ERR unknown subcommand 'NOSUCH'. Try CLIENT HELP.\r\n"},
		{"CLIENT SETNAME",
			"-ERR wrong number of arguments for 'client|setname' command\r\n"},
		{"CLIENT SETINFO colour red", "-ERR Unrecognized option 'colour'\r\n"},
		{"CLIENT KILL ID 0", "-ERR client-id should be greater than 0\r\n"},
		{"CLIENT KILL SKIPME yes", "-ERR syntax error\r\n"},
		{"CLIENT NO-EVICT maybe", "-ERR syntax error\r\n"},
		{"SCAN x", "-ERR invalid cursor\r\n"},
		{"SCAN -1", "-ERR invalid cursor\r\n"},
		{"SCAN 99999999999999", "-ERR invalid cursor\r\n"},
		{"SCAN 0 COUNT 0", "-ERR syntax error\r\n"},
		{"SCAN 0 COUNT x", "-ERR value is not an integer"},
		{"SCAN 0 MATCH", "-ERR syntax error\r\n"},
		{"DEL k", "-ERR DEL does not say whose lock it means"},
		{"UNLINK k", "-ERR UNLINK does not say"},
		{"EXPIRE k 1", "-ERR EXPIRE does not say whose lock"},
		{"PEXPIRE k 1", "-ERR PEXPIRE does not say whose lock"},
		{"SETNX k v", "-ERR this is a lock server"},
		{"DELEX k", "-ERR DELEX does not say whose"},
		{"DELEX k IFNE v", "-ERR DELEX does not say whose"},
		{"DELEX k IFXX v", "-ERR syntax error\r\n"},
		{"EVAL return 0", "-ERR script not recognised"},
		{"EVALSHA aa 0", "-NOSCRIPT No matching script. Please use EVAL.\r\n"},
		{"SCRIPT LOAD x", "-ERR script not recognised"},
		{"SCRIPT EXISTS a b", "*2\r\n:0\r\n:0\r\n"},
		{"CLUSTER NODES", "-ERR This instance has cluster support disabled\r\n"},
		{"READONLY", "-ERR This instance has cluster support disabled\r\n"},
		{"CONFIG SET a b", "-ERR settings change"},
	};
	struct wire *x = dial(0);
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		say(x, cases[i].say);
		expect_start(x, cases[i].start);
	}
	assert_int_equal(w.n_ops, 0);
}

static void test_client_commands_sizes_are_limited(void **state)
{
	(void)state;
	struct wire *x = dial(0);
	char big[VALUE_MAX_BYTES + 2];
	memset(big, 'b', sizeof big);
	struct bytes argv[] = {bytes_str("LOCK"), bytes_of(big, KEY_MAX_BYTES + 1), bytes_str("v"),
		bytes_str("10")};
	resp_command(&x->in, 4, argv);
	argv[1] = bytes_str("k");
	argv[2] = bytes_of(big, VALUE_MAX_BYTES + 1);
	resp_command(&x->in, 4, argv);
	argv[1] = bytes_of(PROBE_PREFIX "x", PROBE_PREFIX_BYTES + 1);
	argv[2] = bytes_str("v");
	resp_command(&x->in, 4, argv);
	feed(x);
	expect(x, "-LIMIT key of 513 bytes is above the limit of 512\r\n"
		  "-LIMIT value of 4097 bytes is above the limit of 4096\r\n"
		  "-ERR this key's prefix is reserved for LAG; choose another key\r\n");
	const char *far = key_of(1, "far");
	argv[1] = bytes_of(big, KEY_MAX_BYTES);
	argv[2] = bytes_of(big, VALUE_MAX_BYTES);
	resp_command(&x->in, 4, argv);
	argv[1] = bytes_str(far);
	resp_command(&x->in, 4, argv);
	feed(x);
	turns(3);
	assert_int_equal(w.n_ops, 2);
}

static void test_client_commands_set_forms(void **state)
{
	(void)state;
	static const char *const refused[] = {"SET k v", "SET k v NX", "SET k v XX PX 10",
		"SET k v PX 10", "SET k v NX GET PX 10", "SET k v IFEQ o KEEPTTL",
		"SET k v NX EXAT 10", "SET k v IFNE o PX 10"};
	static const char *const syntax[] = {"SET k v NX PX", "SET k v NX PX 1 EX 1",
		"SET k v NX NX PX 1", "SET k v NX IFEQ o PX 1", "SET k v IFEQ", "SET k v BAD",
		"SET k v NX KEEPTTL PX 1"};
	static const char *const lease[] = {"SET k v NX PX 0", "SET k v NX EX -1"};
	struct wire *x = dial(0);
	for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
		say(x, refused[i]);
		expect_start(x, "-ERR this is a lock server: SET key value NX PX ms|EX s");
	}
	for (size_t i = 0; i < sizeof syntax / sizeof syntax[0]; i++) {
		say(x, syntax[i]);
		expect(x, "-ERR syntax error\r\n");
	}
	for (size_t i = 0; i < sizeof lease / sizeof lease[0]; i++) {
		say(x, lease[i]);
		expect(x, "-ERR invalid expire time in 'set' command\r\n");
	}
	say(x, "SET k v NX EX 61");
	expect(x, "-LIMIT lease 61000 ms is above max-lease 60000 ms\r\n");
	assert_int_equal(w.n_ops, 0);
	const char *k = key_of(0, "k");
	say(x, with("set $ v ex 8 nx", k));
	assert_int_equal(w.ops[0].op.kind, OP_LOCK);
	assert_int_equal(w.ops[0].op.ttl_ms, 8000);
	say(x, with("SET $ new PX 20 IFEQ old", k));
	assert_int_equal(w.ops[1].op.kind, OP_UPDATE);
	assert_true(w.ops[1].op.has_ttl && w.ops[1].op.ttl_ms == 20);
	say(x, with("SET $ new IFEQ old", k));
	assert_false(w.ops[2].op.has_ttl);
	expect(x, "+OK\r\n+OK\r\n+OK\r\n");
	w.next = (struct result){.outcome = OUT_HELD};
	say(x, with("SET $ v NX PX 10", k));
	w.next.outcome = OUT_NOTOWNER;
	say(x, with("SET $ new IFEQ old", k));
	expect(x, "$-1\r\n$-1\r\n");
	w.next.outcome = OUT_UNKNOWN;
	say(x, with("SET $ new IFEQ old", k));
	expect_start(x, "-UNKNOWN ");
}

struct shape {
	const char *say;
	struct result r;
	const char *resp2, *resp3; /* NULL: the same */
};

static void test_client_commands_reply_shapes(void **state)
{
	(void)state;
	struct result live = {.outcome = OUT_OK,
		.token = 5,
		.value = bytes_str("val"),
		.client = bytes_str("c"),
		.remaining_ns = 1000000001,
		.held_ns = 2999999,
		.node = 3};
	struct result null = {.outcome = OUT_NULL};
	struct result no = {.outcome = OUT_NOTOWNER};
	struct result lag = granted;
	lag.elapsed_ns = 1234567;
	const struct shape shapes[] = {
		{"RELEASE $ v", granted,
			"*8\r\n$5\r\ntoken\r\n:77\r\n$6\r\nquorum\r\n:2\r\n$5\r\nvotes\r\n:3\r\n"
			"$7\r\ncommits\r\n:2\r\n",
			"%4\r\n$5\r\ntoken\r\n:77\r\n$6\r\nquorum\r\n:2\r\n$5\r\nvotes\r\n:3\r\n"
			"$7\r\ncommits\r\n:2\r\n"},
		{"LOCK $ v 10", {.outcome = OUT_HELD}, "$-1\r\n", "_\r\n"},
		{"READ $", live, "$3\r\nval\r\n", NULL},
		{"READ $ QUORUM", null, "$-1\r\n", "_\r\n"},
		{"HOLDER $", live,
			"*12\r\n$5\r\nvalue\r\n$3\r\nval\r\n$5\r\ntoken\r\n:5\r\n$12\r\nremaining-"
			"ms\r\n"
			":1001\r\n$7\r\nheld-ms\r\n:2\r\n$4\r\nnode\r\n:3\r\n$6\r\nclient\r\n$"
			"1\r\nc\r\n",
			"%6\r\n$5\r\nvalue\r\n$3\r\nval\r\n$5\r\ntoken\r\n:5\r\n$12\r\nremaining-"
			"ms\r\n"
			":1001\r\n$7\r\nheld-ms\r\n:2\r\n$4\r\nnode\r\n:3\r\n$6\r\nclient\r\n$"
			"1\r\nc\r\n"},
		{"HOLDER $ QUORUM", null, "$-1\r\n", "_\r\n"},
		{"CHECK $ 5", live, ":1\r\n", NULL},
		{"CHECK $ 6", live, ":0\r\n", NULL},
		{"CHECK $ 5", null, ":0\r\n", NULL},
		{"WAITFOR $ 10", live, "$3\r\nval\r\n", NULL},
		{"WAITFOR $ 10", null, "$-1\r\n", "_\r\n"},
		{"WAITRELEASE $ 10", live, "+RELEASED\r\n", NULL},
		{"WAITRELEASE $ 10", {.outcome = OUT_NOTLOCKED}, "+NOTLOCKED\r\n", NULL},
		{"WAITRELEASE $ 10", null, "$-1\r\n", "_\r\n"},
		{"GET $", null, "$-1\r\n", "_\r\n"},
		{"TTL $", live, ":2\r\n", NULL},
		{"PTTL $", live, ":1001\r\n", NULL},
		{"TTL $", null, ":-2\r\n", NULL},
		{"PTTL $", null, ":-2\r\n", NULL},
		{"EXISTS $", live, ":1\r\n", NULL},
		{"EXISTS $", null, ":0\r\n", NULL},
		{"DELIFEQ $ v", granted, ":1\r\n", NULL},
		{"DELIFEQ $ v", no, ":0\r\n", NULL},
		{"DELEX $ IFEQ v", {.outcome = OUT_NOTFOUND}, ":0\r\n", NULL},
	};
	struct wire *x = dial(0);
	const char *key = key_of(0, "k");
	for (unsigned resp3 = 0; resp3 < 2; resp3++) {
		say(x, resp3 != 0 ? "HELLO 3" : "HELLO 2");
		forget(x);
		for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
			w.next = shapes[i].r;
			say(x, with(shapes[i].say, key));
			bool third = resp3 != 0 && shapes[i].resp3 != NULL;
			expect(x, third ? shapes[i].resp3 : shapes[i].resp2);
		}
	}
	w.next = lag;
	w.n_ops = 0;
	say(x, "LAG");
	turns(3);
	expect(x, "%4\r\n$2\r\nms\r\n,1.235\r\n$6\r\nquorum\r\n:2\r\n$5\r\nvotes\r\n:3\r\n"
		  "$7\r\ncommits\r\n:2\r\n");
	assert_memory_equal(w.ops[0].key, PROBE_PREFIX, PROBE_PREFIX_BYTES);
}

static void test_client_commands_outcomes_are_told_apart(void **state)
{
	(void)state;
	static const struct {
		const char *say;
		struct result r;
		const char *start;
	} cases[] = {
		{"RELEASE $ v", {.outcome = OUT_NOTOWNER}, "-NOTOWNER "},
		{"EXTEND $ v 10", {.outcome = OUT_NOTFOUND}, "-NOTFOUND "},
		{"LOCK $ v 10", {.outcome = OUT_NOQUORUM, .answered = 1, .masters = 3, .quorum = 2},
			"-NOQUORUM 1 of 3 masters reachable, 2 needed; you do not hold the lock; "
			"nothing "
			"was sent"},
		{"LOCK $ v 10",
			{.outcome = OUT_NOQUORUM,
				.answered = 1,
				.masters = 3,
				.quorum = 2,
				.sent = true},
			"-NOQUORUM 1 of 3 masters answered, 2 needed; you do not hold the lock, "
			"but the "
			"key may stay blocked"},
		{"EXTEND $ v 10", {.outcome = OUT_NOQUORUM, .masters = 3, .quorum = 2},
			"-NOQUORUM 0 of 3 masters reachable, 2 needed; nothing was sent"},
		{"CHECK $ 1", {.outcome = OUT_NOQUORUM, .masters = 3, .quorum = 2},
			"-NOQUORUM 0 of 3 masters reachable, 2 needed; nothing is known"},
		{"DELIFEQ $ v", {.outcome = OUT_UNKNOWN, .answered = 1, .masters = 3, .quorum = 2},
			"-UNKNOWN 1 of 3 masters confirmed in time, 2 needed"},
		{"DELEX $ IFEQ v", {.outcome = OUT_BUSY}, "-BUSY "},
		{"GET $", {.outcome = OUT_NOTREADY}, "-NOTREADY this node has no copy"},
		{"EXISTS $", {.outcome = OUT_NOTREADY}, "-NOTREADY this node has no copy"},
		{"LOCK $ v 10", {.outcome = OUT_NOTREADY}, "-NOTREADY this node cannot serve"},
		{"LOCK $ v 10", {.outcome = OUT_LIMIT, .limit = "leases"},
			"-LIMIT too many leases;"},
	};
	struct wire *x = dial(0);
	const char *key = key_of(0, "k");
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		w.next = cases[i].r;
		say(x, with(cases[i].say, key));
		expect_start(x, cases[i].start);
	}
}

static void test_client_commands_connection_commands(void **state)
{
	(void)state;
	struct wire *x = dial(0);
	type_line(x, "ping\r\n\r\nPING \"a \\\"b\"\r\necho hi\r\n");
	expect(x, "+PONG\r\n$4\r\na \"b\r\n$2\r\nhi\r\n");
	say(x, "HELLO");
	expect_start(x,
		"*14\r\n$6\r\nserver\r\n$6\r\nlocker\r\n$7\r\nversion\r\n$5\r\n8.4.0\r\n$5\r\n"
		"proto\r\n:2\r\n$2\r\nid\r\n:100\r\n");
	say(x, "hello 3 setname joe");
	expect_start(x, "%7\r\n");
	say(x, "CLIENT GETNAME");
	expect(x, "$3\r\njoe\r\n");
	say(x, "CLIENT SETNAME a\tb");
	expect_start(x, "-ERR Client names cannot contain spaces");
	say(x, "CLIENT SETINFO lib-name redis-py");
	say(x, "CLIENT ID");
	expect(x, "+OK\r\n:100\r\n");
	say(x, "CLIENT INFO");
	expect_has(x, "id=100 addr=127.0.0.1:50000 laddr=127.0.0.1:7401 ");
	expect_has(x, " name=joe ");
	expect_has(x, " cmd=client user=default redir=-1 resp=3 lib-name=redis-py lib-ver=\n");
	forget(x);
	say(x, "RESET");
	say(x, "CLIENT GETNAME");
	expect(x, "+RESET\r\n$-1\r\n");
	say(x, "TIME");
	expect(x, "*2\r\n$10\r\n1700000000\r\n$6\r\n123456\r\n");
	say(x, "CONFIG GET max-* save");
	expect(x, "*4\r\n$4\r\nsave\r\n$0\r\n\r\n$9\r\nmax-lease\r\n$5\r\n60000\r\n");
	say(x, "COMMAND COUNT");
	expect_start(x, ":");
	say(x, "COMMAND INFO get nosuch");
	expect(x,
		"*2\r\n*10\r\n$3\r\nget\r\n:2\r\n*1\r\n+readonly\r\n:1\r\n:1\r\n:1\r\n*0\r\n*0\r\n"
		"*0\r\n*0\r\n$-1\r\n");
	char count[16];
	snprintf(count, sizeof count, "*%u\r\n*10\r\n", commands_count);
	say(x, "COMMAND");
	expect_start(x, count);
	say(x, "COMMAND DOCS");
	say(x, "SELECT 0");
	expect(x, "*0\r\n+OK\r\n");
	queue(x, "QUIT");
	queue(x, "PING");
	feed(x);
	expect(x, "+OK\r\n");
	assert_true(x->close_wanted && x->flushed);
	assert_int_equal(x->in.len, 0);
}

static void test_client_commands_every_command_is_found(void **state)
{
	(void)state;
	struct clients *c = w.sh[0].clients;
	for (unsigned i = 0; i < commands_count; i++)
		assert_ptr_equal(command_find(c, bytes_str(commands[i].name)), &commands[i]);
	assert_ptr_equal(command_find(c, bytes_str("GeT")), command_find(c, bytes_str("GET")));
	assert_null(command_find(c, bytes_str("GETX")));
	assert_null(command_find(c, bytes_str("")));
}

static void test_client_commands_glob_matches_as_redis(void **state)
{
	(void)state;
	static const struct {
		const char *pattern, *text;
		bool match;
	} cases[] = {
		{"*", "", true},
		{"", "", true},
		{"", "a", false},
		{"a*c", "abbc", true},
		{"a*c", "abcd", false},
		{"a?c", "abc", true},
		{"a?c", "ac", false},
		{"h[ae]llo", "hello", true},
		{"h[^e]llo", "hello", false},
		{"h[a-f]llo", "hello", true},
		{"h[f-a]llo", "hello", true},
		{"h[a-", "h-", true},
		{"a\\*", "a*", true},
		{"a\\*", "ab", false},
		{"*a*b", "xaxxbxb", true},
		{"[", "[", false},
		{"a\\", "a\\", true},
		{"**b**", "abc", true},
		{"[\\]]", "]", true},
	};
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		bool match =
			glob_match(bytes_str(cases[i].pattern), bytes_str(cases[i].text), false);
		if (match != cases[i].match)
			fail_msg("%s on %s: %d", cases[i].pattern, cases[i].text, match);
	}
	assert_true(glob_match(bytes_str("MAX-*"), bytes_str("max-lease"), true));
}

/* ---- several shards at once ---- */

static void test_client_commands_exists_counts_over_threads(void **state)
{
	(void)state;
	struct wire *x = dial(0);
	char text[128];
	const char *here = key_of(0, "here");
	const char *there = key_of(1, "there");
	snprintf(text, sizeof text, "EXISTS %s %s %s", here, there, here);
	w.defer = true;
	queue(x, text);
	queue(x, "PING");
	feed(x);
	turn();
	assert_int_equal(w.n_ops, 3);
	complete(there, (struct result){.outcome = OUT_OK});
	complete(here, (struct result){.outcome = OUT_NULL});
	turns(2);
	expect(x, "");
	complete(here, (struct result){.outcome = OUT_OK});
	turns(2);
	expect(x, ":2\r\n+PONG\r\n");
	say(x, text);
	turn();
	complete(there, (struct result){.outcome = OUT_NOTREADY});
	complete(here, (struct result){.outcome = OUT_OK});
	complete(here, (struct result){.outcome = OUT_OK});
	turns(2);
	expect_start(x, "-NOTREADY this node has no copy");
}

static void test_client_commands_gathers_from_all_threads(void **state)
{
	(void)state;
	struct wire *x = dial(0);
	w.stats[1].waiters = 4;
	queue(x, "DBSIZE");
	queue(x, "SUMMARY");
	queue(x, "PING");
	feed(x);
	turns(6);
	expect(x, ":21\r\n*8\r\n$6\r\nleases\r\n:21\r\n$8\r\npromises\r\n:0\r\n$7\r\nwaiters\r\n:"
		  "4\r\n"
		  "$4\r\nnode\r\n:1\r\n+PONG\r\n");
	say(x, "INFO");
	turns(2);
	static const char *const lines[] = {"redis_version:8.4.0\r\n", "locker_version:0.1\r\n",
		"redis_mode:standalone\r\n", "role:master\r\n", "connected_slaves:0\r\n",
		"loading:0\r\n", "aof_enabled:0\r\n", "tcp_port:7401\r\n",
		"connected_clients:1\r\n", "used_memory:0\r\n", "# Locker\r\n", "state:active\r\n",
		"leases:21\r\n", "# Peers\r\n", "peer2:state=active,", "peer3:state=down,"};
	for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++)
		expect_has(x, lines[i]);
	forget(x);
	say(x, "INFO Replication");
	turns(2);
	expect(x, "$50\r\n# Replication\r\nrole:master\r\nconnected_slaves:0\r\n\r\n\r\n");
	w.stats[1].slots_voting = 31; /* one is being synchronised */
	say(x, "DBSIZE");
	turns(2);
	expect_start(x, "-NOTREADY this node has no copy");
	say(x, "SCAN 1");
	turns(2);
	expect_start(x, "-NOTREADY this node has no copy");
}

static void test_client_commands_question_waits_for_earlier_commands(void **state)
{
	(void)state;
	struct wire *x = dial(0);
	const char *key = key_of(0, "k");
	w.defer = true;
	queue(x, with("SET $ v NX PX 10", key));
	queue(x, "DBSIZE");
	feed(x);
	w.stats[0].leases = 30;
	complete(key, granted);
	turns(3);
	expect(x, "+OK\r\n:41\r\n");
}

static void test_client_commands_scan_visits_every_thread(void **state)
{
	(void)state;
	struct wire *x = dial(0);
	static const char *const steps[][2] = {
		{"SCAN 0", "*2\r\n$1\r\n4\r\n*2\r\n$3\r\nk00\r\n$3\r\nk01\r\n"},
		{"SCAN 4 COUNT 5", "*2\r\n$1\r\n8\r\n*2\r\n$3\r\nk02\r\n$3\r\nk03\r\n"},
		{"SCAN 8", "*2\r\n$1\r\n1\r\n*1\r\n$3\r\nk04\r\n"},
		{"SCAN 1 MATCH k?0", "*2\r\n$1\r\n5\r\n*1\r\n$3\r\nk10\r\n"},
		{"SCAN 5 MATCH none", "*2\r\n$1\r\n9\r\n*0\r\n"},
		{"SCAN 9", "*2\r\n$1\r\n0\r\n*1\r\n$3\r\nk14\r\n"},
	};
	for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++) {
		say(x, steps[i][0]);
		turns(2);
		expect(x, steps[i][1]);
	}
}

static void test_client_commands_list_and_kill(void **state)
{
	(void)state;
	struct wire *a = dial(0);
	struct wire *b = dial(1);
	say(a, "CLIENT LIST");
	turns(2);
	expect_has(a, "id=100 addr=127.0.0.1:50000 ");
	expect_has(a, "id=101 addr=127.0.0.1:50001 ");
	forget(a);
	say(a, "CLIENT KILL 127.0.0.1:9");
	turns(2);
	expect(a, "-ERR No such client\r\n");
	say(a, "CLIENT KILL ADDR 127.0.0.1:50000");
	turns(2);
	expect(a, ":0\r\n");
	say(a, "CLIENT KILL ID 101");
	turns(3);
	expect(a, ":1\r\n");
	assert_false(b->open);
	say(a, "CLIENT KILL 127.0.0.1:50000");
	turns(2);
	assert_true(a->flushed);
	expect(a, "+OK\r\n");
	assert_false(a->open);
}

static void test_client_commands_gone_during_question(void **state)
{
	(void)state;
	struct wire *x = dial(0);
	say(x, "DBSIZE");
	hang_up(x);
	assert_int_equal(w.sh[0].clients->calls_used, 1);
	turns(3);
	assert_int_equal(w.sh[0].clients->calls_used, 0);
}

static void test_command_http_ends_the_connection(void **state)
{
	(void)state;
	struct wire *x = dial(0);
	type_line(x, "POST / HTTP/1.1\r\nHost: a\r\nSET k v NX PX 1000\r\n");
	assert_true(x->close_wanted && !x->flushed);
	assert_int_equal(x->link.out.len, 0);
	assert_int_equal(w.n_ops, 0);
	struct wire *y = dial(0);
	type_line(y, "GET / HTTP/1.1\r\nHost: a\r\nSET k v NX PX 1000\r\n");
	assert_true(y->close_wanted);
	assert_int_equal(w.n_ops, 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, world_setup, world_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_command_http_ends_the_connection),
		TEST(test_client_commands_argument_errors),
		TEST(test_client_commands_sizes_are_limited),
		TEST(test_client_commands_set_forms),
		TEST(test_client_commands_reply_shapes),
		TEST(test_client_commands_outcomes_are_told_apart),
		TEST(test_client_commands_connection_commands),
		TEST(test_client_commands_every_command_is_found),
		TEST(test_client_commands_glob_matches_as_redis),
		TEST(test_client_commands_exists_counts_over_threads),
		TEST(test_client_commands_gathers_from_all_threads),
		TEST(test_client_commands_question_waits_for_earlier_commands),
		TEST(test_client_commands_scan_visits_every_thread),
		TEST(test_client_commands_list_and_kill),
		TEST(test_client_commands_gone_during_question),
	};
	return cmocka_run_group_tests_name("client_commands", tests, NULL, NULL);
}
