/* EVAL, EVALSHA and SCRIPT: recognised scripts become operations, all others are refused. */
#include "client_world.h"

/* As the libraries send them, by digest; users' own ways to write them, by form. */
#define PY_RELEASE   "c3f8721cbb97f72bc19e972846bd7aaf91901658"
#define PY_EXTEND    "a4e8783852e6b949f9ef3a97212805108459a890"
#define PY_REACQUIRE "1cac51482acf5858da00f6d685d68f886cd6b6b2"
#define SYNC_RELEASE "e950836ed1e694540c503ef9972b8de518044d3b"
#define NODE_LOCK    "96da70f7716f27d278a5218544df37fd8b0a5e4c"
#define RUBY_LOCK    "ceb2b2062e40c51a2b3963fd078bc71f11bdc65c"
#define RUBY_PTTL    "78d2ca48a6dc9ef6892059792a3a0c5237733d64"
#define SPRING_TAKE  "175897a4e379e99e79a54937be09226f76cdcfe5"
#define NET_TAKE     "9f614a785a5f9ae8c6396c6b4bf94d2087342603"
#define DAPR_RELEASE "08741c111900b6318ee3f60cb3c2fa1f6c74d859"

static void run_words(struct wire *x, unsigned n, const char *const *words)
{
	struct bytes argv[8];
	assert_true(n <= 8);
	for (unsigned i = 0; i < n; i++)
		argv[i] = bytes_str(words[i]);
	resp_command(&x->in, n, argv);
	feed(x);
	turns(3);
}

static void eval(struct wire *x, const char *text)
{
	const char *const words[] = {"EVAL", text, "1", "k", "v", "1000"};
	run_words(x, 6, words);
}

static void answer(enum op_kind kind, enum outcome outcome)
{
	w.next = (struct result){.kind = kind, .outcome = outcome, .token = 7, .quorum = 2};
}

static void test_client_scripts_results_of_each_library(void **state)
{
	(void)state;
	static const struct {
		const char *say;
		enum op_kind kind;
		enum outcome outcome;
		const char *reply;
	} cases[] = {
		{"EVALSHA " PY_RELEASE " 1 k v", OP_RELEASE, OUT_OK, ":1\r\n"},
		{"EVALSHA " PY_RELEASE " 1 k v", OP_RELEASE, OUT_NOTOWNER, ":0\r\n"},
		{"EVALSHA " PY_RELEASE " 1 k v", OP_RELEASE, OUT_NOTFOUND, ":0\r\n"},
		{"EVALSHA C3F8721CBB97F72BC19E972846BD7AAF91901658 1 k v more", OP_RELEASE, OUT_OK,
			":1\r\n"},
		{"EVALSHA " SYNC_RELEASE " 1 k v", OP_RELEASE, OUT_NOTOWNER, ":0\r\n"},
		{"EVALSHA " SYNC_RELEASE " 1 k v", OP_RELEASE, OUT_NOTFOUND, ":-1\r\n"},
		{"EVALSHA " DAPR_RELEASE " 1 k v", OP_RELEASE, OUT_NOTOWNER, ":-2\r\n"},
		{"EVALSHA " DAPR_RELEASE " 1 k v", OP_RELEASE, OUT_NOTFOUND, ":-1\r\n"},
		{"EVALSHA " PY_REACQUIRE " 1 k v 1000", OP_EXTEND, OUT_OK, ":1\r\n"},
		{"EVALSHA " PY_REACQUIRE " 1 k v 1000", OP_EXTEND, OUT_NOTOWNER, ":0\r\n"},
		{"EVALSHA " PY_EXTEND " 1 k v 1000 1", OP_EXTEND, OUT_OK, ":1\r\n"},
		{"EVALSHA " NODE_LOCK " 1 k v 1000", OP_LOCK, OUT_OK, ":1\r\n"},
		{"EVALSHA " NODE_LOCK " 1 k v 1000", OP_LOCK, OUT_HELD, ":0\r\n"},
		{"EVALSHA " RUBY_LOCK " 1 k v 1000 yes", OP_LOCK, OUT_OK, "+OK\r\n"},
		{"EVALSHA " RUBY_LOCK " 1 k v 1000 yes", OP_LOCK, OUT_HELD, "$-1\r\n"},
		{"EVALSHA " RUBY_LOCK " 1 k v 1000 @", OP_EXTEND, OUT_OK, "+OK\r\n"},
		{"EVALSHA " RUBY_LOCK " 1 k v 1000 @", OP_EXTEND, OUT_NOTFOUND, "$-1\r\n"},
		{"EVALSHA " RUBY_PTTL " 1 k", OP_READ_QUORUM, OUT_NULL, "*2\r\n$-1\r\n:-2\r\n"},
		{"EVALSHA " SPRING_TAKE " 1 k v 1000", OP_LOCK, OUT_OK, ":1\r\n"},
		{"EVALSHA " SPRING_TAKE " 1 k v 1000", OP_LOCK, OUT_HELD, "$-1\r\n"},
		{"EVALSHA " NET_TAKE " 1 k v 1000", OP_LOCK, OUT_HELD, ":-1\r\n"},
		{"EVALSHA " PY_RELEASE " 1 k v", OP_RELEASE, OUT_UNKNOWN, "-UNKNOWN "},
		{"EVALSHA " PY_RELEASE " 1 k v", OP_RELEASE, OUT_NOQUORUM, "-NOQUORUM "},
		{"EVALSHA " SPRING_TAKE " 1 k v 1000", OP_LOCK, OUT_BUSY, "-BUSY "},
		{"EVALSHA " PY_REACQUIRE " 1 k v 1000", OP_EXTEND, OUT_NOTREADY, "-NOTREADY "},
	};
	struct wire *x = dial(0);
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		unsigned before = w.n_ops;
		answer(cases[i].kind, cases[i].outcome);
		say(x, cases[i].say);
		turns(3);
		assert_int_equal(w.n_ops, before + 1);
		assert_int_equal(w.ops[before].op.kind, cases[i].kind);
		expect_start(x, cases[i].reply);
	}
}

static void test_client_scripts_take_is_idempotent_and_lock_is_not(void **state)
{
	(void)state;
	struct wire *x = dial(0);
	w.defer = true;
	say(x, "EVALSHA " SPRING_TAKE " 1 a v 1000");
	say(x, "EVALSHA " NODE_LOCK " 1 b v 1000");
	turns(3);
	assert_true(op_on("a")->op.idempotent);
	assert_int_equal(op_on("a")->op.ttl_ms, 1000);
	assert_false(op_on("b")->op.idempotent);
}

static void test_client_scripts_bad_arguments(void **state)
{
	(void)state;
	static const struct {
		const char *say, *start;
	} cases[] = {
		{"EVALSHA " PY_RELEASE " x k v", "-ERR value is not an integer"},
		{"EVALSHA " PY_RELEASE " -1 k v", "-ERR Number of keys can't be negative"},
		{"EVALSHA " PY_RELEASE " 3 k v", "-ERR Number of keys can't be greater"},
		{"EVALSHA " PY_RELEASE " 0", "-ERR this script is answered for one key, not for 0"},
		{"EVALSHA " PY_RELEASE " 2 k v", "-ERR this script is answered for one key"},
		{"EVALSHA " PY_RELEASE " 1 k", "-ERR this script needs 1 arguments"},
		{"EVALSHA " PY_REACQUIRE " 1 k v", "-ERR this script needs 2 arguments"},
		{"EVALSHA " PY_EXTEND " 1 k v 1000", "-ERR this script needs 3 arguments"},
		{"EVALSHA " PY_REACQUIRE " 1 k v 0", "-LIMIT lease 0 ms is below 1 ms"},
		{"EVALSHA " PY_REACQUIRE " 1 k v -5", "-LIMIT lease -5 ms is below 1 ms"},
		{"EVALSHA " PY_REACQUIRE " 1 k v 1.5", "-ERR value is not an integer"},
		{"EVALSHA " PY_REACQUIRE " 1 k v 70000",
			"-LIMIT lease 70000 ms is above max-lease"},
		{"EVALSHA " PY_EXTEND " 1 k v 0 0", "-LIMIT lease 0 ms is below 1 ms"},
		{"EVALSHA " PY_RELEASE " 1 @ v", "-ERR the key is empty"},
		{"EVALSHA " PY_RELEASE "0 1 k v",
			"-NOSCRIPT No matching script. Please use EVAL.\r\n"},
		{"EVALSHA g3f8721cbb97f72bc19e972846bd7aaf91901658 1 k v", "-NOSCRIPT No matching"},
		{"EVALSHA_RO " PY_RELEASE " 1 k v", "-ERR Write commands are not allowed"},
		{"EVALSHA_RO aa 1 k v", "-NOSCRIPT No matching"},
		{"SCRIPT EXISTS " PY_RELEASE " aa " NET_TAKE, "*3\r\n:1\r\n:0\r\n:1\r\n"},
		{"SCRIPT FLUSH", "+OK\r\n"},
		{"SCRIPT FLUSH ASYNC", "+OK\r\n"},
		{"SCRIPT FLUSH NOW", "-ERR syntax error\r\n"},
		{"SCRIPT LOAD", "-ERR wrong number of arguments for 'script|load' command\r\n"},
		{"SCRIPT KILL", "-ERR unknown subcommand 'KILL'"},
	};
	struct wire *x = dial(0);
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		say(x, cases[i].say);
		expect_start(x, cases[i].start);
	}
	char big[VALUE_MAX_BYTES + 2];
	memset(big, 'b', sizeof big - 1);
	big[sizeof big - 1] = '\0';
	const char *const words[] = {"EVALSHA", PY_RELEASE, "1", "k", big};
	run_words(x, 5, words);
	expect_start(x, "-LIMIT value of 4097 bytes");
	const char *const keys[] = {"EVALSHA", PY_RELEASE, "1", big, "v"};
	run_words(x, 5, keys);
	expect_start(x, "-LIMIT key of 4097 bytes");
	assert_int_equal(w.n_ops, 0);
}

static void test_client_scripts_texts_are_recognised(void **state)
{
	(void)state;
	static const struct {
		const char *text;
		enum op_kind kind;
	} cases[] = {
		{"local held = redis.call(\"GET\", KEYS[1]);\r\nif held == ARGV[1] then\r\n"
		 "return redis.call(\"DEL\", KEYS[1]) elseif held == false then return -1 "
		 "else return 0 end",
			OP_RELEASE},
		{"if server.call('get',KEYS[1])==ARGV[1] then return server.call('pexpire',KEYS[1],"
		 "ARGV[2]) else return 0 end",
			OP_EXTEND},
		{"local x=redis.call('get',KEYS[1]) if not x or x~=ARGV[1] then return 0 end "
		 "redis.call('del',KEYS[1]) return 1 -- ours",
			OP_RELEASE},
		{"for n,name in ipairs(KEYS) do if redis.call('EXISTS',name)==1 then return 0 end "
		 "end "
		 "for n,name in ipairs(KEYS) do redis.call('SET',name,ARGV[1],'px',ARGV[2]) end "
		 "return #KEYS",
			OP_LOCK},
	};
	struct wire *x = dial(0);
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		answer(cases[i].kind, OUT_OK);
		eval(x, cases[i].text);
		assert_int_equal(w.n_ops, i + 1);
		assert_int_equal(w.ops[i].op.kind, cases[i].kind);
		expect(x, ":1\r\n");
	}
}

static void test_client_scripts_near_misses_are_not(void **state)
{
	(void)state;
	static const char *const texts[] = {
		"if redis.call('get',KEYS[1])~=ARGV[1] then return redis.call('del',KEYS[1]) else "
		"return 0 end",
		"if redis.call('get',KEYS[1])==ARGV[1] then return redis.call('del',KEYS[2]) else "
		"return 0 end",
		"if redis.call('get',KEYS[1])==ARGV[2] then return redis.call('del',KEYS[1]) else "
		"return 0 end",
		"if redis.call('get',KEYS[1])==ARGV[1] then return redis.call('del',KEYS[1]) else "
		"return 1 end",
		"if redis.call('get',KEYS[1])==ARGV[1] then return redis.call('del',KEYS[1]) end "
		"return redis.call('del',KEYS[1])",
		"redis.call('incr','n') if redis.call('get',KEYS[1])==ARGV[1] then return "
		"redis.call('del',KEYS[1]) else return 0 end",
		"if redis.call('get',KEYS[1])==ARGV[1] then return "
		"redis.call('expire',KEYS[1],ARGV[2]) "
		"else return 0 end",
		"if redis.call('get',KEYS[1])==ARGV[1] then return "
		"redis.call('pexpire',KEYS[1],ARGV[3]) else return 0 end",
		"return redis.call('del',KEYS[1])",
		"local KEYS = ARGV if redis.call('get',KEYS[1])==ARGV[1] then return "
		"redis.call('del',KEYS[1]) else return 0 end",
		"local redis = other if redis.call('get',KEYS[1])==ARGV[1] then return "
		"redis.call('del',KEYS[1]) else return 0 end",
		"--\rredis.call('flushall') if redis.call('get',KEYS[1])==ARGV[1] then return "
		"redis.call('del',KEYS[1]) else return 0 end",
		"return redis.call('set',KEYS[1],ARGV[1],'EX',ARGV[2],'NX')",
		"return redis.call('set',KEYS[1],ARGV[1],'PX',ARGV[2],'XX')",
		"return redis.call('set',KEYS[1],ARGV[1],'PX',ARGV[2])",
		"",
	};
	struct wire *x = dial(0);
	for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
		eval(x, texts[i]);
		expect_start(x, "-ERR script not recognised (form ");
		const char *const words[] = {"SCRIPT", "LOAD", texts[i]};
		run_words(x, 3, words);
		expect_start(x, "-ERR script not recognised (form ");
	}
	assert_int_equal(w.n_ops, 0);
}

static void test_client_scripts_loaded_on_one_thread_run_on_another(void **state)
{
	(void)state;
	static const char text[] = "if redis.call('get',KEYS[1])==ARGV[1] then return "
				   "redis.call('unlink',KEYS[1]) else "
				   "return 0 end -- loaded";
	struct wire *a = dial(0);
	struct wire *b = dial(1);
	const char *const words[] = {"SCRIPT", "LOAD", text};
	run_words(a, 3, words);
	char digest[41] = "";
	struct bytes out = bytes_of(a->link.out.data, a->link.out.len);
	assert_int_equal(out.len, 5 + 40 + 2);
	memcpy(digest, out.p + 5, 40);
	forget(a);
	const char *const exists[] = {"SCRIPT", "EXISTS", digest};
	run_words(b, 3, exists);
	expect(b, "*1\r\n:1\r\n");
	answer(OP_RELEASE, OUT_OK);
	const char *const evalsha[] = {"EVALSHA", digest, "1", "k", "v"};
	run_words(b, 5, evalsha);
	expect(b, ":1\r\n");
}

static void test_client_scripts_kept_texts_are_bounded(void **state)
{
	(void)state;
	struct wire *x = dial(0);
	char text[200];
	unsigned loaded = 0;
	for (unsigned i = 0; i < 300; i++) {
		(void)snprintf(text, sizeof text,
			"if redis.call('get',KEYS[1])==ARGV[1] then return "
			"redis.call('unlink',KEYS[1]) else return 0 end -- %u",
			i);
		const char *const words[] = {"SCRIPT", "LOAD", text};
		run_words(x, 3, words);
		loaded += x->link.out.data[0] == '$';
		if (x->link.out.data[0] != '$')
			expect_start(x, "-LIMIT too many ways to write this script are kept");
		forget(x);
	}
	assert_in_range(loaded, 200, 256);
	answer(OP_RELEASE, OUT_OK);
	eval(x, text);
	expect(x, ":1\r\n");
}

/* ---- adding to what is left of a lease ---- */

static void test_client_scripts_add_asks_first(void **state)
{
	(void)state;
	for (unsigned thread = 0; thread < THREADS; thread++) {
		struct wire *x = dial(0);
		const char *key = key_of(thread, "add");
		w.defer = true;
		say(x, with("EVALSHA " PY_EXTEND " 1 $ v 1000 0", key));
		say(x, "PING");
		turns(3);
		assert_int_equal(op_on(key)->op.kind, OP_READ_QUORUM);
		expect(x, "");
		struct result left = {.kind = OP_READ_QUORUM,
			.outcome = OUT_OK,
			.token = 9,
			.remaining_ns = 2500000001,
			.value = bytes_str("v")};
		complete(key, left);
		turns(3);
		struct pending *p = op_on(key);
		assert_non_null(p);
		assert_int_equal(p->op.kind, OP_EXTEND);
		assert_int_equal(p->op.ttl_ms, 3501);
		assert_int_equal(p->op.token, 9);
		assert_true(p->op.has_token);
		complete(key, (struct result){.kind = OP_EXTEND, .outcome = OUT_OK});
		turns(3);
		expect(x, ":1\r\n+PONG\r\n");
		hang_up(x);
	}
}

static void test_client_scripts_add_to_what_is_not_there(void **state)
{
	(void)state;
	static const struct {
		struct result left;
		const char *reply;
	} cases[] = {
		{{.kind = OP_READ_QUORUM, .outcome = OUT_NULL}, ":0\r\n"},
		{{.kind = OP_READ_QUORUM, .outcome = OUT_NOQUORUM, .masters = 3, .quorum = 2},
			"-NOQUORUM "},
		{{.kind = OP_READ_QUORUM, .outcome = OUT_OK, .remaining_ns = 59001000000},
			"-LIMIT lease 60001 ms, with what is left"},
	};
	struct wire *x = dial(0);
	w.defer = true;
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		say(x, "EVALSHA " PY_EXTEND " 1 k v 1000 0");
		turns(3);
		complete("k", cases[i].left);
		turns(3);
		expect_start(x, cases[i].reply);
	}
	assert_int_equal(w.n_ops, 3);
}

static void test_client_scripts_add_and_the_client_goes(void **state)
{
	(void)state;
	struct wire *x = dial(0);
	w.defer = true;
	say(x, "EVALSHA " PY_EXTEND " 1 k v 1000 0");
	turns(3);
	hang_up(x);
	complete("k", (struct result){.kind = OP_READ_QUORUM, .outcome = OUT_OK});
	turns(3);
	assert_int_equal(w.n_ops, 1);
}

static void test_client_scripts_add_is_no_plain_line(void **state)
{
	(void)state;
	struct wire *x = dial(0);
	type_line(x, "EVALSHA " PY_EXTEND " 1 k v 1000 0\r\n");
	turns(3);
	expect_start(x, "-ERR this is not answered as a plain line");
	type_line(x, "EVALSHA " PY_EXTEND " 1 k v 1000 1\r\n");
	turns(3);
	assert_int_equal(w.n_ops, 1);
}

/* ---- keys of Redlock ---- */

static void test_client_scripts_redlock_keys_are_idempotent(void **state)
{
	(void)state;
	static const struct {
		const char *prefixes;
		bool dlm, other;
	} cases[] = {{NULL, false, false}, {"", false, false}, {"dlm:", true, false},
		{"x,dlm:,y", true, false}, {"*", true, true}, {"dlm:key-and-more", false, false},
		{"*x", false, false}};
	struct wire *x = dial(0);
	w.defer = true;
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		char say_it[100];
		w.sh[0].cfg.redlock_idempotent = cases[i].prefixes;
		(void)snprintf(say_it, sizeof say_it, "SET dlm:%zu v NX PX 1000", i);
		say(x, say_it);
		(void)snprintf(say_it, sizeof say_it, "EVALSHA " NODE_LOCK " 1 o%zu v 1000", i);
		say(x, say_it);
		turns(3);
		(void)snprintf(say_it, sizeof say_it, "dlm:%zu", i);
		assert_int_equal(op_on(say_it)->op.idempotent, cases[i].dlm);
		(void)snprintf(say_it, sizeof say_it, "o%zu", i);
		assert_int_equal(op_on(say_it)->op.idempotent, cases[i].other);
	}
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, world_setup, world_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_client_scripts_results_of_each_library),
		TEST(test_client_scripts_take_is_idempotent_and_lock_is_not),
		TEST(test_client_scripts_bad_arguments),
		TEST(test_client_scripts_texts_are_recognised),
		TEST(test_client_scripts_near_misses_are_not),
		TEST(test_client_scripts_loaded_on_one_thread_run_on_another),
		TEST(test_client_scripts_kept_texts_are_bounded),
		TEST(test_client_scripts_add_asks_first),
		TEST(test_client_scripts_add_to_what_is_not_there),
		TEST(test_client_scripts_add_and_the_client_goes),
		TEST(test_client_scripts_add_is_no_plain_line),
		TEST(test_client_scripts_redlock_keys_are_idempotent),
	};
	return cmocka_run_group_tests_name("client_scripts", tests, NULL, NULL);
}
