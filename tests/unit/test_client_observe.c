/* OBSERVE and UNOBSERVE: pushes, the order of pushes and replies, limits, ends. */
#include "client_world.h"

static struct result seen(enum observed event, const char *value, uint64_t token)
{
	return (struct result){.outcome = OUT_OK,
		.event = (uint8_t)event,
		.value = bytes_str(value),
		.token = token};
}

/* Another thing that happened to a key that is observed. */
static void happen(const char *key, struct result r)
{
	for (unsigned i = w.n_ops; i-- > 0;) {
		if (w.ops[i].op.kind != OP_OBSERVE || strcmp(w.ops[i].key, key) != 0)
			continue;
		r.tag = w.ops[i].op.tag;
		r.kind = OP_OBSERVE;
		client_result(w.ops[i].s, &r);
		return;
	}
	fail_msg("nobody observes %s", key);
}

static struct wire *dial3(unsigned thread)
{
	struct wire *x = dial(thread);
	say(x, "HELLO 3");
	forget(x);
	return x;
}

#define PUSH(key, event, value, token)                                                             \
	">5\r\n$7\r\nobserve\r\n$" key "\r\n$" event "\r\n" value "\r\n" token "\r\n"

static void test_observe_needs_pushes_and_keys(void **state)
{
	(void)state;
	struct wire *x = dial(0);
	say(x, "OBSERVE");
	expect(x, "-ERR wrong number of arguments for 'observe' command\r\n");
	say(x, "OBSERVE k");
	expect(x, "-ERR OBSERVE answers with pushes: say HELLO 3 first\r\n");
	say(x, "HELLO 3");
	forget(x);
	say(x, "OBSERVE k @");
	expect_start(x, "-ERR the key is empty");
	say(x, "UNOBSERVE");
	say(x, "UNOBSERVE k");
	expect(x, "+OK\r\n+OK\r\n");
	assert_int_equal(w.n_ops, 0);
}

static void test_observe_tells_the_present_and_then_all(void **state)
{
	(void)state;
	struct wire *x = dial3(0);
	char text[128];
	const char *here = key_of(0, "h"), *there = key_of(1, "t");
	w.defer = true;
	snprintf(text, sizeof text, "OBSERVE %s %s %s", here, there, here);
	queue(x, text);
	queue(x, "PING");
	feed(x);
	turn();
	assert_int_equal(w.n_ops, 2);
	happen(here, seen(OBSERVED_RELEASED, "", 0));
	turns(2);
	expect(x, PUSH("2\r\nh0", "8\r\nreleased", "_", "_"));
	happen(here, seen(OBSERVED_GRANTED, "v", 7));
	happen(here, seen(OBSERVED_UPDATED, "", 7));
	happen(there, seen(OBSERVED_GRANTED, "w", 9));
	turns(2);
	char expected[1024];
	snprintf(expected, sizeof expected,
		PUSH("2\r\nh0", "7\r\ngranted", "$1\r\nv", ":7")
			PUSH("2\r\nh0", "7\r\nupdated", "$0\r\n", ":7") PUSH(
				"%zu\r\n%s", "7\r\ngranted", "$1\r\nw", ":9") "+OK\r\n+PONG\r\n",
		strlen(there), there);
	expect(x, expected);
	happen(there, seen(OBSERVED_EXPIRED, "", 9));
	happen(here, seen(OBSERVED_LOST, "", 0));
	turns(2);
	snprintf(expected, sizeof expected,
		PUSH("2\r\nh0", "4\r\nlost", "_", "_") PUSH("%zu\r\n%s", "7\r\nexpired", "_", ":9"),
		strlen(there), there);
	expect(x, expected);
	/* What is observed already is not begun again. */
	say(x, with("OBSERVE $", there));
	expect(x, "+OK\r\n");
	assert_int_equal(w.n_ops, 2);
}

static void test_observe_between_other_replies(void **state)
{
	(void)state;
	struct wire *x = dial3(0);
	const char *key = key_of(0, "k");
	w.next = seen(OBSERVED_RELEASED, "", 0);
	say(x, with("OBSERVE $", key));
	forget(x);
	w.defer = true;
	queue(x, with("READ $ QUORUM", key));
	queue(x, "PING");
	feed(x);
	happen(key, seen(OBSERVED_GRANTED, "v", 7));
	expect(x, PUSH("2\r\nk0", "7\r\ngranted", "$1\r\nv", ":7"));
	complete(key, (struct result){.outcome = OUT_NULL});
	expect(x, "_\r\n+PONG\r\n");
}

static void test_unobserve_ends_them(void **state)
{
	(void)state;
	struct wire *x = dial3(0);
	struct clients *c = w.sh[0].clients;
	char text[128];
	const char *a = key_of(0, "a"), *b = key_of(0, "b"), *far = key_of(1, "far");
	w.next = seen(OBSERVED_RELEASED, "", 0);
	snprintf(text, sizeof text, "OBSERVE %s %s %s", a, b, far);
	say(x, text);
	turns(3);
	forget(x);
	assert_int_equal(c->observers, 3);
	say(x, with("UNOBSERVE $", a));
	expect(x, "+OK\r\n");
	assert_int_equal(w.cancelled, 1);
	happen(a, seen(OBSERVED_GRANTED, "v", 7)); /* on its way when it was told */
	expect(x, "");
	happen(b, seen(OBSERVED_GRANTED, "v", 7));
	expect_start(x, PUSH("2\r\nb0", "7\r\ngranted", "$1\r\nv", ":7"));
	say(x, "UNOBSERVE");
	turns(2);
	expect(x, "+OK\r\n");
	assert_int_equal(w.cancelled, 3);
	assert_int_equal(c->observers + c->calls_used, 0);
	for (unsigned i = 0; i < 2; i++) {
		say(x, with("OBSERVE $", a));
		say(x, i == 0 ? "RESET" : "HELLO 2");
		assert_int_equal(w.cancelled, 4 + i);
		say(x, "HELLO 3");
		forget(x);
	}
	say(x, with("OBSERVE $", far));
	turns(2);
	hang_up(x);
	turns(2);
	assert_int_equal(w.cancelled, 6);
	assert_int_equal(c->observers + c->calls_used, 0);
}

static void test_observers_are_limited(void **state)
{
	(void)state;
	struct wire *x = dial3(0);
	char text[16];
	w.next = seen(OBSERVED_RELEASED, "", 0);
	for (unsigned i = 0; i < OBSERVERS_MAX; i++) {
		snprintf(text, sizeof text, "OBSERVE k%u", i);
		say(x, text);
		turns(2);
		expect_start(x, ">5");
	}
	say(x, "OBSERVE more");
	expect(x, "-LIMIT 1024 observed keys on this connection; use another one\r\n");
	w.next = (struct result){.outcome = OUT_LIMIT, .limit = "observers"};
	struct wire *y = dial3(1);
	say(y, with("OBSERVE $", key_of(0, "k")));
	turns(3);
	expect_start(y, "-LIMIT too many observers on this node");
	assert_int_equal(w.sh[1].clients->observers + w.sh[1].clients->calls_used, 0);
}

static void test_observe_a_slow_reader_is_closed(void **state)
{
	(void)state;
	struct wire *x = dial3(0);
	const char *key = key_of(0, "k");
	static char value[VALUE_MAX_BYTES + 1];
	memset(value, 'v', VALUE_MAX_BYTES);
	w.next = seen(OBSERVED_RELEASED, "", 0);
	say(x, with("OBSERVE $", key));
	for (unsigned i = 0; i < 3000 && !x->close_wanted; i++)
		happen(key, seen(OBSERVED_UPDATED, value, i + 1));
	assert_true(x->close_wanted && !x->flushed);
	assert_int_equal(w.sh[0].clients->closed_slow, 1);
	turns(2);
	assert_int_equal(w.sh[0].clients->observers + w.sh[0].clients->calls_used, 0);
}

static void test_observe_while_the_node_shuts_down(void **state)
{
	(void)state;
	struct wire *x = dial3(0), *y = dial3(0);
	w.next = seen(OBSERVED_RELEASED, "", 0);
	say(x, with("OBSERVE $", key_of(0, "k")));
	forget(x);
	w.defer = true;
	say(y, with("OBSERVE $", key_of(1, "k")));
	w.sh[0].draining = true;
	clients_drain(&w.sh[0]);
	turns(3);
	assert_false(x->open);
	assert_false(y->open);
	assert_int_equal(w.cancelled, 2);
	assert_int_equal(w.sh[0].clients->observers + w.sh[0].clients->calls_used, 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, world_setup, world_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_observe_needs_pushes_and_keys),
		TEST(test_observe_tells_the_present_and_then_all),
		TEST(test_observe_between_other_replies),
		TEST(test_unobserve_ends_them),
		TEST(test_observers_are_limited),
		TEST(test_observe_a_slow_reader_is_closed),
		TEST(test_observe_while_the_node_shuts_down),
	};
	return cmocka_run_group_tests_name("client_observe", tests, NULL, NULL);
}
