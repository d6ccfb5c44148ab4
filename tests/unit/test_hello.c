#include "wire/frame.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <cmocka.h>

_Noreturn void check_fail(const char *condition, const char *file, int line);

/* In place of the weak one of src/base, so that expect_assert_failure() sees a failed CHECK. */
_Noreturn void check_fail(const char *condition, const char *file, int line)
{
	mock_assert(0, condition, file, line);
	abort();
}

static const struct hello sample = {
	.version = PROTOCOL_VERSION,
	.node = 2,
	.status = NODE_RESYNC,
	.first_boot = true,
	.link_index = 3,
	.threads = 4,
	.slots = 64,
	.inc = 0x1234567890abcdef,
	.epoch = 5,
	.mclk = 6,
	.echo_mclk = 7,
	.held_ns = 8,
	.after_inc = 0xfedcba0987654321,
	.max_lease_ms = 60000,
	.attempt_ms = 500,
	.drift_ppm = 1000,
	.n_masters = 3,
	.masters = {1, 2, 255},
	.cluster = "test",
};

/* Offsets in the encoded sample, which has no reason; see hello.c. */
enum {
	AT_BODY = 12,
	AT_FIXED = AT_BODY + 5,
	AT_MASTERS = AT_FIXED + 72,
	AT_CLUSTER = AT_MASTERS + 3
};

static void assert_hello_equal(const struct hello *a, const struct hello *b)
{
	assert_int_equal(a->version, b->version);
	assert_int_equal(a->node, b->node);
	assert_int_equal(a->status, b->status);
	assert_int_equal(a->first_boot, b->first_boot);
	assert_int_equal(a->refused, b->refused);
	assert_int_equal(a->link_index, b->link_index);
	assert_int_equal(a->threads, b->threads);
	assert_int_equal(a->slots, b->slots);
	assert_int_equal(a->inc, b->inc);
	assert_int_equal(a->after_inc, b->after_inc);
	assert_int_equal(a->epoch, b->epoch);
	assert_int_equal(a->mclk, b->mclk);
	assert_int_equal(a->echo_mclk, b->echo_mclk);
	assert_int_equal(a->held_ns, b->held_ns);
	assert_int_equal(a->max_lease_ms, b->max_lease_ms);
	assert_int_equal(a->attempt_ms, b->attempt_ms);
	assert_int_equal(a->drift_ppm, b->drift_ppm);
	assert_int_equal(a->n_masters, b->n_masters);
	assert_memory_equal(a->masters, b->masters, sizeof a->masters);
	assert_string_equal(a->cluster, b->cluster);
	assert_string_equal(a->reason, b->reason);
}

static void assert_survives(const struct hello *h)
{
	uint8_t bytes[HELLO_MAX_BYTES];
	size_t len = hello_encode(bytes, h);
	assert_true(len <= sizeof bytes);
	uint8_t *exact = malloc(len);
	memcpy(exact, bytes, len);
	struct hello got = {.node = 99};
	size_t need;
	for (size_t n = 0; n < len; n++) {
		need = 0;
		assert_int_equal(hello_decode(exact, n, &got, &need), -EAGAIN);
		assert_int_equal(need, n < HELLO_PREFIX_BYTES ? HELLO_PREFIX_BYTES : len);
	}
	assert_int_equal(got.node, 99);
	assert_int_equal(hello_decode(exact, len, &got, &need), 0);
	assert_int_equal(need, len);
	assert_hello_equal(&got, h);
	free(exact);
}

static void test_hello_survives_the_wire(void **state)
{
	(void)state;
	assert_survives(&sample);
	struct hello largest = sample;
	largest.n_masters = MASTERS_MAX;
	for (unsigned i = 0; i < MASTERS_MAX; i++)
		largest.masters[i] = (uint8_t)(241 + i);
	memset(largest.cluster, 'c', CLUSTER_NAME_MAX_BYTES);
	memset(largest.reason, 'r', sizeof largest.reason - 1);
	largest.threads = THREADS_MAX;
	largest.link_index = THREADS_MAX - 1;
	largest.slots = SLOTS_MAX;
	largest.held_ns = SPAN_MAX_NS;
	largest.max_lease_ms = LEASE_MAX_MS;
	assert_survives(&largest);
}

static void test_hello_refusal_needs_little(void **state)
{
	(void)state;
	struct hello h = {
		.version = PROTOCOL_VERSION, .node = 1, .refused = true, .reason = "other slots"};
	assert_survives(&h);
	h = sample;
	h.refused = true;
	(void)strcpy(h.reason, "max-lease differs");
	assert_survives(&h);
}

static void test_hello_takes_its_length_and_no_more(void **state)
{
	(void)state;
	uint8_t bytes[HELLO_MAX_BYTES];
	struct hello got;
	size_t need;
	size_t len = hello_encode(bytes, &sample);
	memset(bytes + len, 0xff, sizeof bytes - len);
	assert_int_equal(hello_decode(bytes, sizeof bytes, &got, &need), 0);
	assert_int_equal(need, len);
}

static void test_hello_tells_strangers_at_once(void **state)
{
	(void)state;
	struct hello got;
	size_t need;
	assert_int_equal(hello_decode((const uint8_t *)"PING\r\n", 6, &got, &need), -EPROTO);
	assert_int_equal(hello_decode((const uint8_t *)"*", 1, &got, &need), -EPROTO);
	assert_int_equal(hello_decode((const uint8_t *)"locker\n\n....", 12, &got, &need), -EPROTO);
	assert_int_equal(hello_decode((const uint8_t *)"loc", 3, &got, &need), -EAGAIN);
	assert_int_equal(hello_decode(NULL, 0, &got, &need), -EAGAIN);
	assert_int_equal(need, HELLO_PREFIX_BYTES);
}

static void test_hello_of_another_version_says_little(void **state)
{
	(void)state;
	uint8_t bytes[HELLO_MAX_BYTES];
	struct hello h = sample;
	struct hello got;
	size_t need;
	h.version = PROTOCOL_VERSION + 1;
	h.refused = true;
	(void)strcpy(h.reason, "version 1?");
	size_t len = hello_encode(bytes, &h);
	/* what follows the common part may look like anything, and flags may mean anything */
	memset(bytes + AT_FIXED + strlen(h.reason), 0xee, len - AT_FIXED - strlen(h.reason));
	bytes[AT_BODY + 3] |= 0xf0;
	assert_int_equal(hello_decode(bytes, len, &got, &need), 0);
	assert_int_equal(need, len);
	struct hello common = {.version = PROTOCOL_VERSION + 1,
		.node = sample.node,
		.refused = true,
		.reason = "version 1?"};
	assert_hello_equal(&got, &common);
}

static void test_hello_refuses_wrong_bytes(void **state)
{
	(void)state;
	static const struct {
		size_t at;
		unsigned bytes;
		uint64_t v;
	} wrong[] = {
		{8, 4, 0}, {8, 4, 4}, {8, 4, HELLO_MAX_BYTES - HELLO_PREFIX_BYTES + 1},
		{8, 4, UINT32_MAX},                                                /* length */
		{AT_BODY + 2, 1, 0},                                               /* node */
		{AT_BODY + 3, 1, 1 << 2},                                          /* flags */
		{AT_BODY + 4, 1, 1}, {AT_BODY + 4, 1, 200}, {AT_BODY + 4, 1, 255}, /* reason */
		{AT_FIXED, 1, 0}, {AT_FIXED, 1, NODE_NONMEMBER + 1},               /* status */
		{AT_FIXED + 1, 1, 0}, {AT_FIXED + 1, 1, 2}, {AT_FIXED + 1, 1, MASTERS_MAX + 1},
		{AT_FIXED + 1, 1, 255}, /* masters */
		{AT_FIXED + 2, 1, 0}, {AT_FIXED + 2, 1, 3}, {AT_FIXED + 2, 1, 5},
		{AT_FIXED + 2, 1, CLUSTER_NAME_MAX_BYTES + 1},               /* cluster length */
		{AT_FIXED + 3, 1, 1}, {AT_FIXED + 10, 2, 1},                 /* reserved */
		{AT_FIXED + 4, 2, THREADS_MAX},                              /* link_index */
		{AT_FIXED + 6, 2, 0}, {AT_FIXED + 6, 2, THREADS_MAX + 1},    /* threads */
		{AT_FIXED + 8, 2, 0}, {AT_FIXED + 8, 2, SLOTS_MAX + 1},      /* slots */
		{AT_FIXED + 12, 4, 0}, {AT_FIXED + 12, 4, LEASE_MAX_MS + 1}, /* max_lease_ms */
		{AT_FIXED + 56, 8, SPAN_MAX_NS + 1},                         /* held_ns */
		{AT_MASTERS, 1, 0}, {AT_MASTERS, 1, 2}, {AT_MASTERS + 1, 1, 1},
		{AT_MASTERS + 2, 1, 2}, /* ascending ids */
	};
	for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
		uint8_t bytes[HELLO_MAX_BYTES] = {0};
		struct hello got = {.node = 99};
		size_t need;
		(void)hello_encode(bytes, &sample);
		memcpy(bytes + wrong[i].at, &wrong[i].v, wrong[i].bytes);
		assert_int_equal(hello_decode(bytes, sizeof bytes, &got, &need), -EBADMSG);
		assert_int_equal(got.node, 99);
	}
}

static void test_hello_cleans_names(void **state)
{
	(void)state;
	uint8_t bytes[HELLO_MAX_BYTES];
	struct hello h = sample;
	struct hello got;
	size_t need;
	(void)strcpy(h.cluster, "a\x1b[2J\n\x7f\xc3\xa4");
	(void)strcpy(h.reason, "why\tnot");
	size_t len = hello_encode(bytes, &h);
	assert_int_equal(hello_decode(bytes, len, &got, &need), 0);
	assert_string_equal(got.cluster, "a?[2J??\xc3\xa4");
	assert_string_equal(got.reason, "why?not");
	/* a NUL inside a name must not hide its end */
	len = hello_encode(bytes, &sample);
	bytes[AT_CLUSTER + 1] = 0;
	assert_int_equal(hello_decode(bytes, len, &got, &need), 0);
	assert_string_equal(got.cluster, "t?st");
}

static void test_hello_encode_checks_what_it_sends(void **state)
{
	(void)state;
	uint8_t bytes[HELLO_MAX_BYTES];
	struct hello h = sample;
	h.node = 0;
	expect_assert_failure(hello_encode(bytes, &h));
	h = sample;
	h.n_masters = MASTERS_MAX + 1;
	expect_assert_failure(hello_encode(bytes, &h));
	h = sample;
	h.masters[1] = 1;
	expect_assert_failure(hello_encode(bytes, &h));
	h = sample;
	memset(h.cluster, 'x', sizeof h.cluster);
	expect_assert_failure(hello_encode(bytes, &h));
	h = sample;
	memset(h.reason, 'x', sizeof h.reason);
	expect_assert_failure(hello_encode(bytes, &h));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_hello_survives_the_wire),
		cmocka_unit_test(test_hello_refusal_needs_little),
		cmocka_unit_test(test_hello_takes_its_length_and_no_more),
		cmocka_unit_test(test_hello_tells_strangers_at_once),
		cmocka_unit_test(test_hello_of_another_version_says_little),
		cmocka_unit_test(test_hello_refuses_wrong_bytes),
		cmocka_unit_test(test_hello_cleans_names),
		cmocka_unit_test(test_hello_encode_checks_what_it_sends),
	};
	return cmocka_run_group_tests_name("hello", tests, NULL, NULL);
}
