/* Connections of a shard: order of replies, limits, ends. */
#include "client_world.h"

/* ---- order ---- */

static void test_client_replies_in_request_order(void **state)
{
	(void)state;
	struct wire *x = dial(0);
	const char *a = key_of(0, "a");
	const char *b = key_of(0, "b");
	w.defer = true;
	queue(x, with("LOCK $ v 1000", a));
	queue(x, with("SET $ v NX PX 1000", b));
	queue(x, "PING");
	queue(x, "NOSUCH x");
	feed(x);
	assert_int_equal(w.n_ops, 2);
	complete(b, granted);
	expect(x, "");
	complete(a, granted);
	expect(x, "*10\r\n$5\r\ntoken\r\n:77\r\n$8\r\nvalid-ms\r\n:990\r\n$6\r\nquorum\r\n:2\r\n"
		  "$5\r\nvotes\r\n:3\r\n$7\r\ncommits\r\n:2\r\n+OK\r\n+PONG\r\n"
		  "-ERR unknown command 'NOSUCH', with args beginning with: 'x' \r\n");
	say(x, "PING");
	expect(x, "+PONG\r\n");
}

static void test_client_same_key_waits_for_the_first(void **state)
{
	(void)state;
	struct wire *x = dial(0);
	const char *a = key_of(0, "a");
	const char *b = key_of(0, "b");
	w.defer = true;
	queue(x, with("SET $ v NX PX 1000", b));
	queue(x, with("SET $ v NX PX 1000", a));
	queue(x, with("DELIFEQ $ v", a));
	queue(x, with("GET $", b));
	feed(x);
	assert_int_equal(w.n_ops, 2);
	assert_true(x->link.paused);
	turn();
	assert_int_equal(w.n_ops, 2);
	complete(a, granted);
	assert_int_equal(w.n_ops, 2); /* not from inside a result */
	assert_true(clients_wait_ns(x->s) == 0);
	turn();
	assert_int_equal(w.n_ops, 3);
	assert_int_equal(op_on(a)->op.kind, OP_RELEASE);
	complete(a, granted);
	complete(b, granted);
	turn();
	complete(b, (struct result){.outcome = OUT_OK, .value = bytes_str("v")});
	expect(x, "+OK\r\n+OK\r\n:1\r\n$1\r\nv\r\n");
}

static void test_client_key_of_other_thread(void **state)
{
	(void)state;
	struct wire *x = dial(0);
	const char *key = key_of(1, "far");
	say(x, "CLIENT SETNAME me");
	forget(x);
	w.sh[1].now.fast = 900000;
	w.next.value = bytes_str("value");
	w.next.client = bytes_str("cli");
	queue(x, with("LOCK $ value 1000 WAIT 50 IDEMPOTENT", key));
	queue(x, with("UPDATE $ value new TOKEN 9", key_of(1, "other")));
	queue(x, with("GET $", key_of(1, "third")));
	feed(x);
	assert_int_equal(w.n_ops, 0);
	turns(2);
	assert_int_equal(w.n_ops, 3);
	const struct op_request *op = &w.ops[0].op;
	assert_ptr_equal(w.ops[0].s, &w.sh[1]);
	assert_true(op->wait && op->idempotent && op->wait_ms == 50 && op->ttl_ms == 1000);
	assert_int_equal(op->asked_fast_ns, 900000);
	assert_int_equal(op->client.len, 2);
	assert_int_equal(w.ops[1].op.new_value.len, 3);
	assert_true(w.ops[1].op.has_token && w.ops[1].op.token == 9);
	turns(2);
	expect_has(x, "*10\r\n$5\r\ntoken\r\n:77");
	expect_has(x, ":2\r\n$5\r\nvalue\r\n");
}

static void test_client_pending_replies_are_bounded(void **state)
{
	(void)state;
	struct wire *x = dial(0);
	char text[64];
	enum { N = PENDING_MAX + 50 };
	x->s->clients->calls_max = 4 * PENDING_MAX;
	w.defer = true;
	for (unsigned i = 0; i < N; i++) {
		snprintf(text, sizeof text, "SET %s%u v NX PX 1000", "key", i);
		queue(x, text);
	}
	queue(x, "PING");
	feed(x);
	turns(2 * N / TURN_COMMANDS_MAX);
	assert_int_equal(w.n_ops, PENDING_MAX);
	for (unsigned round = 0; round < 2; round++) {
		for (unsigned i = w.n_ops; i-- > 0;)
			if (w.ops[i].used)
				complete(w.ops[i].key, granted);
		turns(8);
	}
	assert_int_equal(w.n_ops, N);
	turns(4);
	assert_int_equal(x->link.out.len, N * 5 + 7);
}

static void test_client_gives_a_long_ring_back(void **state)
{
	(void)state;
	struct wire *x = dial(0);
	struct client_conn *conn = x->link.user;
	char text[64];
	w.defer = true;
	for (unsigned i = 0; i < 600; i++) {
		snprintf(text, sizeof text, "SET key%u v NX PX 1000", i);
		queue(x, text);
	}
	feed(x);
	turns(40);
	assert_int_equal(conn->slots_cap, 1024);
	for (unsigned i = w.n_ops; i-- > 0;)
		complete(w.ops[i].key, granted);
	turns(4);
	assert_int_equal(x->link.out.len, 600 * 5);
	assert_int_equal(conn->slots_cap, 0);
	w.defer = false;
	forget(x);
	say(x, "SET again v NX PX 1000");
	turns(2);
	expect(x, "+OK\r\n");
}

static void test_client_deep_pipeline_leaves_room_for_others(void **state)
{
	(void)state;
	struct wire *x = dial(0);
	struct wire *y = dial(0);
	char text[64];
	enum { MANY = 400, CALLS = 300 };
	x->s->clients->calls_max = CALLS;
	w.defer = true;
	for (unsigned i = 0; i < MANY; i++) {
		snprintf(text, sizeof text, "SET key%u v NX PX 1000", i);
		queue(x, text);
	}
	feed(x);
	turns(40);
	assert_int_equal(x->s->clients->calls_used, CALLS / 2 + 1);
	w.defer = false;
	say(y, with("SET $ v NX PX 1000", key_of(0, "other")));
	expect(y, "+OK\r\n");
	for (unsigned i = 0; i < CALLS / 2 + 1; i++)
		complete(w.ops[i].key, granted);
	turns(40);
	assert_int_equal(x->link.out.len, MANY * 5);
}

static void test_client_in_flight_limit_is_told(void **state)
{
	(void)state;
	struct wire *x = dial(0);
	x->s->clients->calls_max = 1;
	w.defer = true;
	const char *a = key_of(0, "a");
	queue(x, with("GET $", a));
	queue(x, with("GET $", key_of(0, "b")));
	queue(x, "EXISTS a b");
	feed(x);
	complete(a, (struct result){.outcome = OUT_NULL});
	turn();
	expect_start(x, "$-1\r\n-LIMIT 1 commands in flight");
}

static void test_client_crowded_mailbox_holds_input(void **state)
{
	(void)state;
	struct wire *x = dial(0);
	char value[4001];
	memset(value, 'v', 4000);
	value[4000] = '\0';
	enum { N = 60 };
	char name[16];
	for (unsigned i = 0; i < N; i++) {
		snprintf(name, sizeof name, "%c%u-", 'a' + (int)(i % 20), i);
		const char *key = key_of(1, name);
		struct bytes argv[] = {bytes_str("SET"), bytes_str(key), bytes_str(value),
			bytes_str("NX"), bytes_str("PX"), bytes_str("1000")};
		assert_int_equal(resp_command(&x->in, 6, argv), 0);
	}
	/* Only the mailbox may stop it, not the turn's bytes. */
	while (x->in.len > 0 && !mailbox_crowded(x->s->mail, 1)) {
		feed(x);
		clients_work(x->s);
	}
	size_t left = x->in.len;
	assert_true(left > 4000);
	clients_work(x->s);
	assert_int_equal(x->in.len, left);
	assert_true(clients_wait_ns(x->s) == 0);
	turns(20);
	assert_int_equal(x->link.out.len, N * 5);
}

/* ---- limits and ends ---- */

static void test_client_gone_cancels_what_waits(void **state)
{
	(void)state;
	struct wire *x = dial(0);
	const char *here = key_of(0, "here");
	const char *there = key_of(1, "there");
	const char *plain = key_of(0, "plain");
	w.defer = true;
	queue(x, with("LOCK $ v 10 WAIT 1000", here));
	queue(x, with("WAITFOR $ 1000", there));
	queue(x, with("LOCK $ v 10", plain));
	feed(x);
	turn();
	assert_int_equal(w.n_ops, 3);
	hang_up(x);
	assert_int_equal(w.cancelled, 1);
	turns(2);
	assert_int_equal(w.cancelled, 2);
	assert_true(w.cancel_tag == op_on(there)->op.tag);
	assert_int_equal(w.sh[0].clients->calls_used, 1);
	/* Late results of the cancelled and of the orphan. */
	struct wire *y = dial(0);
	complete(here, granted);
	complete(there, granted);
	turns(2);
	complete(plain, granted);
	assert_int_equal(w.sh[0].clients->calls_used, 0);
	expect(y, "");
}

static void test_client_late_result_meets_no_newer_call(void **state)
{
	(void)state;
	struct wire *x = dial(0);
	const char *key = key_of(0, "k");
	w.defer = true;
	say(x, with("WAITFOR $ 1000", key));
	uint64_t old = op_on(key)->op.tag;
	hang_up(x);
	struct wire *y = dial(0);
	say(y, with("WAITFOR $ 1000", key));
	assert_true(op_on(key)->op.tag != old);
	struct result late = {.tag = old, .outcome = OUT_OK};
	client_result(&w.sh[0], &late);
	expect(y, "");
	complete(key, (struct result){.outcome = OUT_NULL});
	expect(y, "$-1\r\n");
}

static void test_client_waits_per_connection_are_limited(void **state)
{
	(void)state;
	struct wire *x = dial(0);
	char text[64];
	w.defer = true;
	for (unsigned i = 0; i < WAITS_MAX + 1; i++) {
		snprintf(text, sizeof text, "WAITFOR key%u 1000", i);
		queue(x, text);
	}
	feed(x);
	turns(2 * WAITS_MAX / TURN_COMMANDS_MAX);
	assert_int_equal(w.n_ops, WAITS_MAX);
	assert_int_equal(x->in.len, 0);
}

static void test_client_turns_are_bounded(void **state)
{
	(void)state;
	struct wire *x = dial(0);
	for (unsigned i = 0; i < 2 * TURN_COMMANDS_MAX + 1; i++)
		queue(x, "PING");
	feed(x);
	assert_int_equal(x->link.out.len, TURN_COMMANDS_MAX * 7);
	assert_true(x->link.paused && clients_wait_ns(x->s) == 0);
	turn();
	assert_int_equal(x->link.out.len, 2 * TURN_COMMANDS_MAX * 7);
	turn();
	assert_int_equal(x->link.out.len, (2 * TURN_COMMANDS_MAX + 1) * 7);
	assert_true(clients_wait_ns(x->s) == UINT64_MAX);
}

static void test_client_unread_output_pauses_input(void **state)
{
	(void)state;
	struct wire *x = dial(0);
	x->s->cfg.output_soft_bytes = 1000;
	x->link.in_flight_bytes = 1001;
	say(x, "PING");
	expect(x, "");
	assert_true(x->link.paused);
	x->link.in_flight_bytes = 501;
	turns(2);
	expect(x, "");
	x->link.in_flight_bytes = 500;
	turns(2);
	expect(x, "+PONG\r\n");
}

static void test_client_slow_reader_is_closed(void **state)
{
	(void)state;
	log_set_level(LOG_ERROR);
	struct wire *x = dial(0);
	const char *a = key_of(0, "a");
	const char *b = key_of(0, "b");
	x->s->cfg.output_max_bytes = 8000;
	w.defer = true;
	queue(x, with("GET $", a));
	queue(x, with("GET $", b));
	feed(x);
	/* The real length counts, not the bound. */
	x->link.in_flight_bytes = 7900;
	complete(b, (struct result){.outcome = OUT_NULL});
	assert_false(x->close_wanted);
	char value[200] = {0};
	complete(a, (struct result){.outcome = OUT_OK, .value = bytes_of(value, sizeof value)});
	assert_true(x->close_wanted && !x->flushed);
	expect(x, "");
	turn();
	assert_false(x->open);
}

static void test_client_protocol_error_ends_after_replies(void **state)
{
	(void)state;
	struct wire *x = dial(0);
	const char *key = key_of(0, "k");
	w.defer = true;
	queue(x, with("GET $", key));
	resp_command(&x->in, 1, &(struct bytes){(const uint8_t *)"PING", 4});
	buf_append(&x->in, "*1\r\n$x\r\n", 8);
	feed(x);
	assert_false(x->close_wanted);
	say(x, "PING");
	complete(key, (struct result){.outcome = OUT_NULL});
	expect(x, "$-1\r\n+PONG\r\n-ERR Protocol error: invalid bulk length\r\n");
	assert_true(x->close_wanted && x->flushed);
	struct wire *y = dial(0);
	type_line(y, "*65\r\n");
	expect_start(y, "-ERR Protocol error: ");
	assert_true(y->close_wanted);
}

static void test_client_input_beyond_limit_is_closed(void **state)
{
	(void)state;
	struct wire *x = dial(0);
	x->s->cfg.input_max_bytes = 64;
	type_line(x, "*2\r\n$4\r\nECHO\r\n$1000\r\n");
	assert_false(x->close_wanted);
	type_line(x, "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx");
	expect(x, "-ERR Protocol error: too big request\r\n");
	assert_true(x->close_wanted);
}

static void test_client_unfinished_request_times_out(void **state)
{
	(void)state;
	struct wire *x = dial(0);
	struct wire *idle = dial(0);
	log_set_level(LOG_ERROR);
	say(idle, "PING");
	type_line(x, "*1\r\n$4\r\nPI");
	pass_ms(9000);
	type_line(x, "N");
	turn();
	assert_true(x->open);
	assert_true(clients_wait_ns(x->s) == 1000000000);
	type_line(x, "G\r\n*1\r\n");
	expect(x, "+PONG\r\n");
	pass_ms(9999);
	turn();
	assert_true(x->open);
	pass_ms(1);
	turn();
	assert_false(x->open);
	assert_true(idle->open);
}

static void test_client_inline_is_parsed_once(void **state)
{
	(void)state;
	struct wire *x = dial(0);
	char text[64];
	const char *key = key_of(0, "k");
	w.defer = true;
	snprintf(text, sizeof text, "SET %s v NX PX 10\r\nDELIFEQ \"%s\" \"\\x76\"\r\n", key, key);
	type_line(x, text);
	assert_int_equal(w.n_ops, 1);
	complete(key, granted);
	turn();
	assert_int_equal(w.n_ops, 2);
	assert_int_equal(w.ops[1].op.value.len, 1);
	complete(key, granted);
	expect(x, "+OK\r\n:1\r\n");
}

/* Requests are parsed ahead of their turn: whatever ends or interrupts the row, none is lost, run
 * twice or overtaken. */
static void test_client_looks_ahead_without_overtaking(void **state)
{
	(void)state;
	struct wire *x = dial(0);
	const char *lock = key_of(0, "lock");
	for (unsigned i = 0; i < AHEAD_MAX + 3; i++)
		queue(x, "PING");
	type_line(x, "ECHO \"a\\x41b\"\r\n*0\r\n*2\r\n$4\r\nECHO\r\n$1\r\nx\r\n*2\r\n$4\r\nEC");
	assert_int_equal(x->link.out.len, (AHEAD_MAX + 3) * 7 + 9 + 7);
	forget(x);
	type_line(x, "HO\r\n$1\r\ny\r\n");
	expect(x, "$1\r\ny\r\n");
	w.defer = true;
	queue(x, with("SET $ v NX PX 10", lock));
	queue(x, with("GET $", lock));
	queue(x, "PING");
	feed(x);
	assert_int_equal(w.n_ops, 1);
	complete(lock, granted);
	turns(2);
	assert_int_equal(w.n_ops, 2);
	complete(lock, (struct result){.outcome = OUT_NULL});
	turns(2);
	expect(x, "+OK\r\n$-1\r\n+PONG\r\n");
	/* Keys of other threads are not looked for here. */
	unsigned before = w.prefetched;
	queue(x, with("GET $", key_of(0, "near")));
	queue(x, with("GET $", key_of(1, "far")));
	feed(x);
	assert_int_equal(w.prefetched, before + 1);
	turns(2);
	complete(key_of(0, "near"), (struct result){.outcome = OUT_NULL});
	complete(key_of(1, "far"), (struct result){.outcome = OUT_NULL});
	turns(2);
	expect(x, "$-1\r\n$-1\r\n");
	/* A broken one behind good ones is told after their replies. */
	queue(x, "PING");
	queue(x, "PING");
	type_line(x, "*1\r\n!4\r\n");
	expect(x, "+PONG\r\n+PONG\r\n-ERR Protocol error: expected '$', got '!'\r\n");
	assert_true(x->close_wanted);
}

static void test_client_full_house_is_refused(void **state)
{
	(void)state;
	dial(0);
	dial(0);
	dial(0);
	struct link one_more = {.serial = 9};
	buf_init(&one_more.out, 0);
	assert_int_equal(client_open(&w.sh[0], &one_more), -1);
	assert_memory_equal(one_more.out.data, "-ERR max number of clients reached\r\n", 36);
	client_close(&w.sh[0], &one_more);
	buf_fini(&one_more.out);
}

static void test_client_limit_is_of_the_node(void **state)
{
	(void)state;
	_Atomic uint32_t n = 0;
	w.sh[0].cfg.n_clients = w.sh[1].cfg.n_clients = &n;
	struct wire *x = dial(0);
	dial(0);
	dial(1);
	struct link one_more = {.serial = 9};
	buf_init(&one_more.out, 0);
	assert_int_equal(client_open(&w.sh[1], &one_more), -1);
	client_close(&w.sh[1], &one_more);
	assert_int_equal(n, 3);
	hang_up(x);
	turn();
	assert_int_equal(n, 2);
	dial(1);
	buf_fini(&one_more.out);
	hang_up(&w.wires[1]);
	hang_up(&w.wires[2]);
	hang_up(&w.wires[3]);
	turn();
	assert_int_equal(n, 0);
}

static void test_client_drain_answers_and_closes(void **state)
{
	(void)state;
	struct wire *x = dial(0);
	struct wire *idle = dial(0);
	const char *lock = key_of(0, "lock");
	w.defer = true;
	queue(x, with("WAITFOR $ 1000", key_of(0, "wait")));
	queue(x, with("LOCK $ v 10 WAIT 1000", key_of(0, "line")));
	queue(x, with("LOCK $ v 10", lock));
	feed(x);
	w.sh[0].draining = true;
	assert_false(clients_drain(&w.sh[0]));
	assert_true(idle->close_wanted && idle->flushed);
	assert_int_equal(w.cancelled, 2);
	expect(x, "-NOTREADY this node is shutting down; use another\r\n"
		  "-NOTREADY this node is shutting down; use another\r\n");
	say(x, "PING");
	complete(lock, granted);
	expect_has(x, "valid-ms");
	expect_has(x, ":2\r\n-NOTREADY this node is shutting down; use another\r\n");
	assert_false(clients_drain(&w.sh[0]));
	assert_true(x->close_wanted);
	turn();
	assert_true(clients_drain(&w.sh[0]));
}

static void test_client_drain_waits_for_no_slow_reader(void **state)
{
	(void)state;
	struct wire *x = dial(0);
	w.sh[0].cfg.output_soft_bytes = 10;
	say(x, "PING");
	say(x, "PING");
	say(x, "PING");
	assert_true(x->link.paused);
	w.sh[0].draining = true;
	assert_false(clients_drain(&w.sh[0]));
	assert_true(x->close_wanted && x->flushed);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, world_setup, world_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_client_replies_in_request_order),
		TEST(test_client_same_key_waits_for_the_first),
		TEST(test_client_key_of_other_thread),
		TEST(test_client_pending_replies_are_bounded),
		TEST(test_client_gives_a_long_ring_back),
		TEST(test_client_deep_pipeline_leaves_room_for_others),
		TEST(test_client_in_flight_limit_is_told),
		TEST(test_client_crowded_mailbox_holds_input),
		TEST(test_client_gone_cancels_what_waits),
		TEST(test_client_late_result_meets_no_newer_call),
		TEST(test_client_waits_per_connection_are_limited),
		TEST(test_client_turns_are_bounded),
		TEST(test_client_unread_output_pauses_input),
		TEST(test_client_slow_reader_is_closed),
		TEST(test_client_protocol_error_ends_after_replies),
		TEST(test_client_input_beyond_limit_is_closed),
		TEST(test_client_unfinished_request_times_out),
		TEST(test_client_inline_is_parsed_once),
		TEST(test_client_looks_ahead_without_overtaking),
		TEST(test_client_full_house_is_refused),
		TEST(test_client_limit_is_of_the_node),
		TEST(test_client_drain_answers_and_closes),
		TEST(test_client_drain_waits_for_no_slow_reader),
	};
	return cmocka_run_group_tests_name("client", tests, NULL, NULL);
}
