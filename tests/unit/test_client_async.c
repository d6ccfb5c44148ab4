/* LOCK WAIT ASYNC: many lines on one connection, and their answers as pushes. */
#include "client_world.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define GRANT                                                                                      \
	"%5\r\n$5\r\ntoken\r\n:77\r\n$8\r\nvalid-ms\r\n:990\r\n$6\r\nquorum\r\n:2\r\n"             \
	"$5\r\nvotes\r\n:3\r\n$7\r\ncommits\r\n:2\r\n"

static struct wire *dial_resp3(unsigned thread)
{
	struct wire *x = dial(thread);
	say(x, "HELLO 3");
	forget(x);
	return x;
}

/* As a string: nothing ends the bytes of the output. */
static const char *output_of(const struct wire *x)
{
	static char text[4096];
	size_t n = x->link.out.len < sizeof text ? x->link.out.len : sizeof text - 1;
	memcpy(text, x->link.out.data, n);
	text[n] = '\0';
	return text;
}

/* Say it; the id that QUEUED told. */
static long long stand(struct wire *x, const char *text)
{
	say(x, text);
	turns(2);
	char *end;
	const char *out = output_of(x);
	assert_memory_equal(out, "*2\r\n+QUEUED\r\n:", 14);
	long long id = strtoll(out + 14, &end, 10);
	assert_memory_equal(end, "\r\n", 2);
	return id;
}

static const char *push(long long id, const char *what)
{
	static char text[256];
	snprintf(text, sizeof text, ">3\r\n$4\r\nlock\r\n:%lld\r\n%s", id, what);
	return text;
}

/* Here and on another thread, in whatever order they end, and other commands go on meanwhile. */
static void test_async_answers_come_as_pushes(void **state)
{
	(void)state;
	struct wire *x = dial_resp3(0);
	const char *here = key_of(0, "here");
	const char *there = key_of(1, "there");
	w.defer = true;
	long long first = stand(x, with("LOCK $ v 100 WAIT 1000 ASYNC", here));
	forget(x);
	long long second = stand(x, with("LOCK $ v 100 WAIT 1000 ASYNC", there));
	forget(x);
	assert_true(first != second);
	assert_int_equal(x->link.user != NULL, true);
	say(x, "PING");
	expect(x, "+PONG\r\n");
	complete(there, granted);
	turns(2);
	expect(x, push(second, GRANT));
	complete(here, (struct result){.outcome = OUT_HELD});
	expect(x, push(first, "_\r\n"));
	assert_int_equal(w.sh[0].clients->calls_used, 0);
}

/* It may be granted before the answer to the command is out: that one comes first all the same. */
static void test_async_queued_comes_before_its_push(void **state)
{
	(void)state;
	struct wire *x = dial_resp3(0);
	const char *slow = key_of(0, "slow");
	const char *fast = key_of(0, "fast");
	w.defer = true;
	queue(x, with("LOCK $ v 100", slow));
	queue(x, with("LOCK $ v 100 WAIT 1000 ASYNC", fast));
	feed(x);
	turn();
	expect(x, "");
	w.defer = false;
	w.next = granted;
	complete(slow, (struct result){.outcome = OUT_HELD});
	turn();
	const char *out = output_of(x);
	assert_memory_equal(out, "_\r\n*2\r\n+QUEUED\r\n:", 17);
	expect_has(x, push(strtoll(out + 17, NULL, 10), GRANT));
}

static void test_async_errors_are_pushed_too(void **state)
{
	(void)state;
	struct wire *x = dial_resp3(0);
	const char *key = key_of(0, "k");
	w.defer = true;
	long long id = stand(x, with("LOCK $ v 100 WAIT 1000 ASYNC", key));
	forget(x);
	complete(key, (struct result){.outcome = OUT_NOQUORUM, .quorum = 2, .masters = 3});
	expect_start(x, push(id, "-NOQUORUM "));
}

static void test_async_cancel(void **state)
{
	(void)state;
	struct wire *x = dial_resp3(0);
	struct wire *y = dial_resp3(0);
	char text[64];
	const char *key = key_of(1, "k");
	w.defer = true;
	long long id = stand(x, with("LOCK $ v 100 WAIT 1000 ASYNC", key));
	forget(x);
	uint64_t tag = op_on(key)->op.tag;
	snprintf(text, sizeof text, "CANCEL %lld", id);
	say(y, text); /* not its own */
	expect(y, ":0\r\n");
	say(x, text);
	expect(x, ":1\r\n");
	turns(2);
	assert_int_equal(w.cancelled, 1);
	assert_true(w.cancel_tag == tag);
	say(x, text);
	expect(x, ":0\r\n");
	complete(key, granted); /* it was on its way */
	turns(2);
	expect(x, "");
	say(x, "CANCEL 9223372036854775807");
	expect(x, ":0\r\n");
	assert_int_equal(w.sh[0].clients->calls_used, 0);
}

/* Whatever a cancelled wait sets going is told of before, and by itself: its answer is not built up
 * meanwhile. */
static void test_async_cancel_waits_for_what_is_before_it(void **state)
{
	(void)state;
	static const char *const cancels[] = {"CANCEL", "RESET", "HELLO 2"};
	for (unsigned i = 0; i < 3; i++) {
		struct wire *x = dial_resp3(0);
		char text[64], slow[32];
		w.defer = true;
		w.cancelled = 0;
		snprintf(text, sizeof text, "LOCK line%u v 100 WAIT 1000 ASYNC", i);
		long long id = stand(x, text);
		forget(x);
		snprintf(slow, sizeof slow, "%s", key_of(0, "slow"));
		queue(x, with("LOCK $ v 100", slow));
		if (i == 0)
			snprintf(text, sizeof text, "CANCEL %lld", id);
		else
			snprintf(text, sizeof text, "%s", cancels[i]);
		queue(x, text);
		feed(x);
		turns(2);
		assert_int_equal(w.cancelled, 0);
		complete(slow, (struct result){.outcome = OUT_HELD});
		turns(2);
		assert_int_equal(w.cancelled, 1);
		expect_start(x, "_\r\n");
	}
}

/* Who hangs up, goes back to RESP2 or resets leaves all lines. */
static void test_async_ends_with_the_connection(void **state)
{
	(void)state;
	static const char *const ends[] = {NULL, "RESET", "HELLO 2"};
	for (unsigned i = 0; i < 3; i++) {
		struct wire *x = dial_resp3(0);
		w.defer = true;
		w.cancelled = 0;
		for (unsigned k = 0; k < 3; k++) {
			char text[64];
			snprintf(text, sizeof text, "LOCK key%u.%u v 100 WAIT 1000 ASYNC", i, k);
			stand(x, text);
			forget(x);
		}
		if (ends[i] != NULL)
			say(x, ends[i]);
		else
			hang_up(x);
		turns(2);
		assert_int_equal(w.cancelled, 3);
		assert_int_equal(w.sh[0].clients->calls_used, 0);
	}
}

static void test_async_lines_per_connection_are_limited(void **state)
{
	(void)state;
	struct wire *x = dial_resp3(0);
	char text[64];
	w.defer = true;
	struct client_conn *conn = x->link.user;
	stand(x, "LOCK key v 100 WAIT 1000 ASYNC");
	forget(x);
	conn->lines = LINES_MAX;
	snprintf(text, sizeof text, "-LIMIT %d locks waited for", LINES_MAX);
	say(x, "LOCK other v 100 WAIT 1000 ASYNC");
	expect_start(x, text);
	conn->lines = 1;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(
			test_async_answers_come_as_pushes, world_setup, world_teardown),
		cmocka_unit_test_setup_teardown(
			test_async_queued_comes_before_its_push, world_setup, world_teardown),
		cmocka_unit_test_setup_teardown(
			test_async_errors_are_pushed_too, world_setup, world_teardown),
		cmocka_unit_test_setup_teardown(test_async_cancel, world_setup, world_teardown),
		cmocka_unit_test_setup_teardown(
			test_async_cancel_waits_for_what_is_before_it, world_setup, world_teardown),
		cmocka_unit_test_setup_teardown(
			test_async_ends_with_the_connection, world_setup, world_teardown),
		cmocka_unit_test_setup_teardown(
			test_async_lines_per_connection_are_limited, world_setup, world_teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
