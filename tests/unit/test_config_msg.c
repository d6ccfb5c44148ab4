#include "wire/config_msg.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <cmocka.h>

#include "base/buf.h"
#include "base/check.h"

/* In place of the weak one of src/base, so that expect_assert_failure() sees a failed CHECK. */
_Noreturn void check_fail(const char *condition, const char *file, int line)
{
	mock_assert(0, condition, file, line);
	abort();
}

static const struct membership config = {
	.epoch = 6,
	.masters_epoch = 6,
	.joined = 3,
	.n_masters = 3,
	.n_replicas = 1,
	.slots = 64,
	.max_lease_ms = 60000,
	.attempt_ms = 1000,
	.drift_ppm = 1000,
	.masters = {{1, "a:1"}, {2, "b:2"}, {3, "c:3"}},
	.replicas = {{9, "i:9"}},
};

/* With all that its kind needs. */
static struct config_msg msg_of(enum config_msg_kind kind)
{
	struct config_msg m = {
		.kind = (uint8_t)kind, .epoch = 5, .moved_epoch = 4, .synced_epoch = 3};
	if (kind == CONFIG_NEWS) {
		m.epoch = 6;
		m.config = config;
		return m;
	}
	m.b = (struct change_ballot){70, 2};
	if (kind == CONFIG_ACCEPT)
		m.config = config;
	return m;
}

static struct config_msg promise_with_a_vote(void)
{
	struct config_msg m = msg_of(CONFIG_PROMISE);
	m.accepted_at = (struct change_ballot){69, 255};
	m.config = config;
	return m;
}

static void assert_ballot_equal(struct change_ballot a, struct change_ballot b)
{
	assert_int_equal(a.n, b.n);
	assert_int_equal(a.node, b.node);
}

/* From memory of exactly that size; every shorter piece, and every longer one, is refused. */
static void assert_survives(const struct config_msg *m)
{
	struct buf b;
	struct config_msg got;
	buf_init(&b, CONFIG_MSG_MAX_BYTES + 1);
	assert_int_equal(config_msg_encode(&b, m), 0);
	assert_true(b.len <= CONFIG_MSG_MAX_BYTES);
	size_t bytes = b.len;
	assert_int_equal(buf_append(&b, "x", 1), 0);
	for (size_t len = 0; len <= b.len; len++) {
		uint8_t *p = malloc(len + (len == 0));
		assert_non_null(p);
		memcpy(p, b.data, len);
		got.kind = 99;
		int rc = config_msg_decode(bytes_of(p, len), &got);
		assert_int_equal(rc, len == bytes ? 0 : -EBADMSG);
		assert_int_equal(got.kind, len == bytes ? m->kind : 99);
		free(p);
		if (rc != 0)
			continue;
		assert_int_equal(got.epoch, m->epoch);
		assert_int_equal(got.moved_epoch, m->moved_epoch);
		assert_int_equal(got.synced_epoch, m->synced_epoch);
		assert_ballot_equal(got.b, m->b);
		assert_ballot_equal(got.accepted_at, m->accepted_at);
		assert_true(membership_same(&got.config, &m->config));
		assert_int_equal(got.config.epoch, m->config.epoch);
		assert_int_equal(got.config.masters_epoch, m->config.masters_epoch);
		assert_int_equal(got.config.joined, m->config.joined);
		assert_int_equal(got.config.departed, m->config.departed);
	}
	buf_fini(&b);
}

static void test_config_msg_of_every_kind_survives(void **state)
{
	(void)state;
	for (int kind = CONFIG_NEWS; kind <= CONFIG_KIND_MAX; kind++) {
		struct config_msg m = msg_of((enum config_msg_kind)kind);
		assert_survives(&m);
	}
	struct config_msg m = promise_with_a_vote();
	assert_survives(&m);
	/* It abstains, and has promised nothing. */
	m = msg_of(CONFIG_REFUSE);
	m.b = (struct change_ballot){0};
	assert_survives(&m);
}

static void test_config_msg_at_its_limits_survives(void **state)
{
	(void)state;
	struct config_msg m = {
		.kind = CONFIG_PROMISE,
		.epoch = UINT64_MAX,
		.moved_epoch = UINT64_MAX,
		.synced_epoch = UINT64_MAX,
		.b = {BALLOT_MAX, 255},
		.accepted_at = {BALLOT_MAX, 255},
		.config = config,
	};
	m.config.epoch = m.config.masters_epoch = EPOCH_MAX;
	m.config.n_masters = MASTERS_MAX;
	m.config.n_replicas = REPLICAS_MAX;
	for (unsigned i = 0; i < MASTERS_MAX; i++) {
		m.config.masters[i].id = (uint8_t)(1 + i);
		memset(m.config.masters[i].addr, 'm', MEMBER_ADDR_MAX_BYTES);
	}
	for (unsigned i = 0; i < REPLICAS_MAX; i++) {
		m.config.replicas[i].id = (uint8_t)(240 + i);
		memset(m.config.replicas[i].addr, 'r', MEMBER_ADDR_MAX_BYTES);
	}
	assert_survives(&m);
}

static void test_config_msg_encode_leaves_a_full_buffer_alone(void **state)
{
	(void)state;
	struct config_msg m = msg_of(CONFIG_NEWS);
	struct buf b;
	buf_init(&b, 0);
	assert_int_equal(config_msg_encode(&b, &m), 0);
	size_t bytes = b.len;
	buf_fini(&b);
	/* no room for its head, none for the configuration */
	for (size_t room = 0; room < bytes; room++) {
		buf_init(&b, 1 + room);
		assert_int_equal(buf_append(&b, "x", 1), 0);
		assert_int_equal(config_msg_encode(&b, &m), -ENOBUFS);
		assert_int_equal(b.len, 1);
		buf_fini(&b);
	}
}

static void assert_refused(const struct config_msg *m, size_t at, unsigned bytes, uint64_t v)
{
	struct buf b;
	struct config_msg got = {.kind = 99};
	buf_init(&b, 0);
	assert_int_equal(config_msg_encode(&b, m), 0);
	memcpy(b.data + at, &v, bytes);
	assert_int_equal(config_msg_decode(bytes_of(b.data, b.len), &got), -EBADMSG);
	assert_int_equal(got.kind, 99);
	buf_fini(&b);
}

/* Offsets: see config_msg.c. */
static void test_config_msg_decode_refuses_what_is_none(void **state)
{
	(void)state;
	for (int kind = CONFIG_NEWS; kind <= CONFIG_KIND_MAX; kind++) {
		struct config_msg m = msg_of((enum config_msg_kind)kind);
		assert_refused(&m, 0, 1, 0); /* kind */
		assert_refused(&m, 0, 1, CONFIG_KIND_MAX + 1);
		assert_refused(&m, 0, 1, 255);
		assert_refused(&m, 3, 1, 1); /* zeros */
		assert_refused(&m, 7, 1, 0x80);
		assert_refused(&m, 2, 1, 1); /* accepted_at: a node without n, n without a node */
		assert_refused(&m, 40, 8, 1);
		assert_refused(&m, 40, 8, BALLOT_MAX + 1);
	}
	struct config_msg m = msg_of(CONFIG_ACCEPT);
	assert_refused(&m, 1, 1, 0); /* b */
	assert_refused(&m, 32, 8, 0);
	assert_refused(&m, 32, 8, BALLOT_MAX + 1);
	assert_refused(&m, 32, 8, UINT64_MAX);
	assert_refused(&m, 48, 8, 0);      /* none, and bytes left over */
	assert_refused(&m, 48 + 18, 1, 0); /* no master */
	m = promise_with_a_vote();
	assert_refused(&m, 2, 1, 0);
	assert_refused(&m, 40, 8, 0);
}

/* Turning one kind into another, whose needs it does not meet. */
static void test_config_msg_decode_refuses_what_lacks_something(void **state)
{
	(void)state;
	struct config_msg prepare = msg_of(CONFIG_PREPARE), news = msg_of(CONFIG_NEWS);
	assert_refused(&prepare, 0, 1, CONFIG_NEWS);
	assert_refused(&prepare, 0, 1, CONFIG_ACCEPT);
	assert_refused(&news, 0, 1, CONFIG_PREPARE);
	assert_refused(&news, 0, 1, CONFIG_PROMISE);
	assert_refused(&news, 0, 1, CONFIG_ACCEPT);
	assert_refused(&news, 0, 1, CONFIG_ACCEPTED);
	/* a vote for what, and a vote when */
	struct config_msg accept = msg_of(CONFIG_ACCEPT);
	assert_refused(&accept, 0, 1, CONFIG_PROMISE);
	struct config_msg m = promise_with_a_vote();
	m.config = (struct membership){0};
	struct buf b;
	buf_init(&b, 0);
	expect_assert_failure(config_msg_encode(&b, &m));
	buf_fini(&b);
}

static void test_config_msg_encode_checks_what_it_sends(void **state)
{
	(void)state;
	struct buf b;
	buf_init(&b, 0);
	struct config_msg m = msg_of(CONFIG_NEWS);
	m.kind = CONFIG_KIND_MAX + 1;
	expect_assert_failure(config_msg_encode(&b, &m));
	m = msg_of(CONFIG_NEWS);
	m.config.epoch = 0;
	expect_assert_failure(config_msg_encode(&b, &m));
	m = msg_of(CONFIG_PREPARE);
	m.b.node = 0;
	expect_assert_failure(config_msg_encode(&b, &m));
	m = msg_of(CONFIG_PREPARE);
	m.b.n = BALLOT_MAX + 1;
	expect_assert_failure(config_msg_encode(&b, &m));
	assert_int_equal(b.len, 0);
	buf_fini(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_config_msg_of_every_kind_survives),
		cmocka_unit_test(test_config_msg_at_its_limits_survives),
		cmocka_unit_test(test_config_msg_encode_leaves_a_full_buffer_alone),
		cmocka_unit_test(test_config_msg_decode_refuses_what_is_none),
		cmocka_unit_test(test_config_msg_decode_refuses_what_lacks_something),
		cmocka_unit_test(test_config_msg_encode_checks_what_it_sends),
	};
	return cmocka_run_group_tests_name("config_msg", tests, NULL, NULL);
}
