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
	.inc = 0x1234567890abcdef,
	.mclk = 6,
	.echo_mclk = 7,
	.held_ns = 8,
	.after_inc = 0xfedcba0987654321,
	.config =
		{
			.epoch = 5,
			.masters_epoch = 4,
			.departed = 7,
			.n_masters = 3,
			.n_replicas = 1,
			.slots = 64,
			.max_lease_ms = 60000,
			.attempt_ms = 500,
			.drift_ppm = 1000,
			.masters = {{1, "a:1"}, {2, "b:2"}, {255, "c:3"}},
			.replicas = {{7, "d:4"}},
		},
	.peer_addr = "b:2",
	.cluster = "test",
};

/* Offsets in the encoded sample, which has no reason; see hello.c. */
enum {
	AT_BODY = 12,
	AT_FIXED = AT_BODY + 5,
	AT_ADDR = AT_FIXED + 48,
	AT_CLUSTER = AT_ADDR + 3,
	AT_CONFIG = AT_CLUSTER + 4,
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
	assert_int_equal(a->inc, b->inc);
	assert_int_equal(a->after_inc, b->after_inc);
	assert_int_equal(a->mclk, b->mclk);
	assert_int_equal(a->echo_mclk, b->echo_mclk);
	assert_int_equal(a->held_ns, b->held_ns);
	assert_true(membership_same(&a->config, &b->config));
	assert_int_equal(a->config.epoch, b->config.epoch);
	assert_int_equal(a->config.masters_epoch, b->config.masters_epoch);
	assert_int_equal(a->config.joined, b->config.joined);
	assert_int_equal(a->config.departed, b->config.departed);
	assert_string_equal(a->peer_addr, b->peer_addr);
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
	struct membership *m = &largest.config;
	*m = (struct membership){
		.epoch = EPOCH_MAX,
		.masters_epoch = EPOCH_MAX,
		.joined = 255,
		.n_masters = MASTERS_MAX,
		.n_replicas = REPLICAS_MAX,
		.slots = SLOTS_MAX,
		.max_lease_ms = LEASE_MAX_MS,
		.attempt_ms = ATTEMPT_MAX_MS,
		.drift_ppm = DRIFT_MAX_PPM,
	};
	for (unsigned i = 0; i < MASTERS_MAX; i++) {
		m->masters[i].id = (uint8_t)(241 + i);
		memset(m->masters[i].addr, 'm', MEMBER_ADDR_MAX_BYTES);
	}
	for (unsigned i = 0; i < REPLICAS_MAX; i++) {
		m->replicas[i].id = (uint8_t)(1 + i);
		memset(m->replicas[i].addr, 'r', MEMBER_ADDR_MAX_BYTES);
	}
	memset(largest.peer_addr, 'p', MEMBER_ADDR_MAX_BYTES);
	memset(largest.cluster, 'c', CLUSTER_NAME_MAX_BYTES);
	memset(largest.reason, 'r', sizeof largest.reason - 1);
	largest.threads = THREADS_MAX;
	largest.link_index = THREADS_MAX - 1;
	largest.held_ns = SPAN_MAX_NS;
	largest.status = NODE_STATUS_MAX;
	assert_survives(&largest);
}

/* One that was started to join asks for the configuration, and need not be reachable. */
static void test_hello_without_a_configuration(void **state)
{
	(void)state;
	struct hello h = sample;
	h.status = NODE_NONMEMBER;
	h.config = (struct membership){0};
	assert_survives(&h);
	h.peer_addr[0] = '\0';
	assert_survives(&h);
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
		{AT_FIXED, 1, 0}, {AT_FIXED, 1, NODE_STATUS_MAX + 1},              /* status */
		{AT_FIXED + 1, 1, 2}, {AT_FIXED + 1, 1, 4},
		{AT_FIXED + 1, 1, MEMBER_ADDR_MAX_BYTES + 1}, {AT_FIXED + 1, 1, 255}, /* address */
		{AT_FIXED + 2, 1, 0}, {AT_FIXED + 2, 1, 3}, {AT_FIXED + 2, 1, 5},
		{AT_FIXED + 2, 1, CLUSTER_NAME_MAX_BYTES + 1},            /* cluster length */
		{AT_FIXED + 3, 1, 1},                                     /* reserved */
		{AT_FIXED + 4, 2, THREADS_MAX},                           /* link_index */
		{AT_FIXED + 6, 2, 0}, {AT_FIXED + 6, 2, THREADS_MAX + 1}, /* threads */
		{AT_FIXED + 32, 8, SPAN_MAX_NS + 1},                      /* held_ns */
		{AT_ADDR + 1, 1, 0}, {AT_ADDR + 1, 1, ' '}, {AT_ADDR + 1, 1, 0x7f},
		{AT_CONFIG, 8, 0}, /* no configuration, and more behind it */
		{AT_CONFIG, 8, 3}, /* its masters are newer */
		{AT_CONFIG + 16, 1, 1}, {AT_CONFIG + 17, 1, 1}, /* joined, departed */
		{AT_CONFIG + 18, 1, 0}, {AT_CONFIG + 18, 1, 2},
		{AT_CONFIG + 18, 1, 4}, /* masters */
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
	h.config.n_masters = MASTERS_MAX + 1;
	expect_assert_failure(hello_encode(bytes, &h));
	h = sample;
	h.config.masters[1].id = 1;
	expect_assert_failure(hello_encode(bytes, &h));
	h = sample;
	h.peer_addr[0] = ' ';
	expect_assert_failure(hello_encode(bytes, &h));
	h = sample;
	memset(h.peer_addr, 'x', sizeof h.peer_addr);
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
		cmocka_unit_test(test_hello_without_a_configuration),
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
