#include "wire/frame.h"
#include "wire/sync.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <cmocka.h>

#include "base/prng.h"

_Noreturn void check_fail(const char *condition, const char *file, int line);

/* In place of the weak one of src/base, so that expect_assert_failure() sees a failed CHECK. */
_Noreturn void check_fail(const char *condition, const char *file, int line)
{
	mock_assert(0, condition, file, line);
	abort();
}

static const struct frame_header header_sample = {
	.frame_bytes = FRAME_HEADER_BYTES + 100,
	.count = 3,
	.cluster = 0x1122334455667788,
	.epoch = 9,
	.src_inc = UINT64_MAX,
	.dst_inc = UINT64_MAX - 1,
	.mclk = 123456789,
	.echo_mclk = 987654321,
	.held_ns = 55,
	.hlc_n = BALLOT_MAX,
	.slots_voting = SLOTS_MAX,
	.src_node = 255,
	.slots_in_sync = SLOTS_MAX,
	.lag_ms = UINT32_MAX,
	.status = NODE_STATUS_MAX,
};

static void assert_header_equal(const struct frame_header *a, const struct frame_header *b)
{
	assert_int_equal(a->frame_bytes, b->frame_bytes);
	assert_int_equal(a->count, b->count);
	assert_int_equal(a->cluster, b->cluster);
	assert_int_equal(a->epoch, b->epoch);
	assert_int_equal(a->src_inc, b->src_inc);
	assert_int_equal(a->dst_inc, b->dst_inc);
	assert_int_equal(a->mclk, b->mclk);
	assert_int_equal(a->echo_mclk, b->echo_mclk);
	assert_int_equal(a->held_ns, b->held_ns);
	assert_int_equal(a->hlc_n, b->hlc_n);
	assert_int_equal(a->slots_voting, b->slots_voting);
	assert_int_equal(a->slots_in_sync, b->slots_in_sync);
	assert_int_equal(a->lag_ms, b->lag_ms);
	assert_int_equal(a->src_node, b->src_node);
	assert_int_equal(a->status, b->status);
}

static void test_frame_header_survives_the_wire(void **state)
{
	(void)state;
	uint8_t bytes[FRAME_HEADER_BYTES + 100] = {0};
	struct frame_header got;
	frame_header_encode(bytes, &header_sample);
	assert_int_equal(frame_header_decode(bytes, sizeof bytes, &got), 0);
	assert_header_equal(&got, &header_sample);
	struct frame_header heartbeat = header_sample;
	heartbeat.frame_bytes = FRAME_HEADER_BYTES;
	heartbeat.count = 0;
	heartbeat.slots_in_sync = 0;
	heartbeat.lag_ms = 7;
	frame_header_encode(bytes, &heartbeat);
	assert_int_equal(frame_header_decode(bytes, FRAME_HEADER_BYTES, &got), 0);
	assert_header_equal(&got, &heartbeat);
}

static void test_frame_header_waits_for_the_whole_frame(void **state)
{
	(void)state;
	uint8_t bytes[FRAME_HEADER_BYTES + 100] = {0};
	struct frame_header got = {.count = 77};
	frame_header_encode(bytes, &header_sample);
	for (size_t len = 0; len < sizeof bytes; len++)
		assert_int_equal(frame_header_decode(bytes, len, &got), -EAGAIN);
	assert_int_equal(got.count, 77);
}

/* Each a header that is right but for one thing, known before the whole frame is there. */
static void test_frame_header_refuses_what_is_no_frame(void **state)
{
	(void)state;
	static const struct {
		size_t at;
		unsigned bytes;
		uint64_t v;
	} wrong[] = {
		{0, 4, 0}, {0, 4, 0x464b434d}, /* magic */
		{4, 4, 0}, {4, 4, FRAME_HEADER_BYTES - 1}, {4, 4, FRAME_MAX_BYTES + 1},
		{4, 4, UINT32_MAX}, {4, 4, FRAME_HEADER_BYTES}, /* length */
		{8, 4, 0}, {8, 4, 5}, {8, 4, UINT32_MAX},       /* count for 100 bytes */
		{12, 1, 0},                                     /* node */
		{13, 1, 0}, {13, 1, NODE_STATUS_MAX + 1},       /* status */
		{14, 2, SLOTS_MAX + 1},                         /* slots_voting */
		{80, 2, SLOTS_MAX + 1}, {80, 2, UINT16_MAX},    /* slots_in_sync */
		{82, 2, 1}, {88, 8, UINT64_C(1) << 63},         /* reserved */
		{64, 8, UINT64_C(1) << 62},                     /* held_ns */
		{72, 8, BALLOT_MAX + 1}, {72, 8, UINT64_MAX},   /* hlc_n */
	};
	for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
		uint8_t bytes[FRAME_HEADER_BYTES + 100] = {0};
		struct frame_header got;
		frame_header_encode(bytes, &header_sample);
		memcpy(bytes + wrong[i].at, &wrong[i].v, wrong[i].bytes);
		assert_int_equal(frame_header_decode(bytes, sizeof bytes, &got), -EBADMSG);
		assert_int_equal(frame_header_decode(bytes, FRAME_HEADER_BYTES, &got), -EBADMSG);
	}
}

static void test_frame_header_largest_frame_is_taken(void **state)
{
	(void)state;
	uint8_t *bytes = calloc(1, FRAME_MAX_BYTES);
	struct frame_header h = header_sample;
	struct frame_header got;
	h.frame_bytes = FRAME_MAX_BYTES;
	frame_header_encode(bytes, &h);
	assert_int_equal(frame_header_decode(bytes, FRAME_MAX_BYTES - 1, &got), -EAGAIN);
	assert_int_equal(frame_header_decode(bytes, FRAME_MAX_BYTES, &got), 0);
	free(bytes);
	uint8_t small[FRAME_HEADER_BYTES];
	h.frame_bytes++;
	expect_assert_failure(frame_header_encode(small, &h));
}

/* ---- messages ---- */

static const struct ballot uid = {1000, 0xabcdef};

static struct msg msg_of(enum msg_type type)
{
	struct msg m = {.type = (uint8_t)type, .slot = 17, .req = 99};
	if (type != MSG_REPLY && type != MSG_FOLLOW && type != MSG_CONFIG)
		m.key = bytes_str("some/key");
	switch (type) {
	case MSG_TRYLOCK:
		m.uid = uid;
		m.lease_ms = 5000;
		m.node = 3;
		m.value = bytes_str("owner");
		m.name = bytes_str("client");
		break;
	case MSG_EXTEND:
		m.lease_ms = 1;
		m.n = 1000;
		break;
	case MSG_PREPARE:
		m.b = (struct version){5, 6, 7};
		break;
	case MSG_ACCEPT:
		m.uid = uid;
		m.b = (struct version){5, 6, 0};
		break;
	case MSG_READ:
		break;
	case MSG_SYNC:
		m.flags = MSG_ONE_KEY;
		m.cursor = UINT64_MAX;
		break;
	case MSG_REPLY:
		m.req_type = MSG_READ;
		m.verdict = VERDICT_FREE;
		break;
	case MSG_FOLLOW:
		m.cursor = 1;
		m.op_id = UINT64_MAX;
		break;
	case MSG_CONFIG:
		m.value = bytes_str("a configuration");
		break;
	default:
		m.uid = uid;
	}
	return m;
}

static void assert_bytes_equal(struct bytes a, struct bytes b)
{
	assert_int_equal(a.len, b.len);
	if (a.len != 0)
		assert_memory_equal(a.p, b.p, a.len);
}

static void assert_msg_equal(const struct msg *a, const struct msg *b)
{
	assert_int_equal(a->type, b->type);
	assert_int_equal(a->verdict, b->verdict);
	assert_int_equal(a->flags, b->flags);
	assert_int_equal(a->node, b->node);
	assert_int_equal(a->slot, b->slot);
	assert_int_equal(a->req_type, b->req_type);
	assert_int_equal(a->req, b->req);
	assert_true(ballot_eq(a->uid, b->uid));
	assert_true(ballot_eq(a->prev, b->prev));
	assert_int_equal(version_cmp(a->b, b->b), 0);
	assert_int_equal(a->n, b->n);
	assert_int_equal(a->op_id, b->op_id);
	assert_int_equal(a->remaining_ns, b->remaining_ns);
	assert_int_equal(a->held_ns, b->held_ns);
	assert_int_equal(a->lease_ms, b->lease_ms);
	assert_int_equal(a->cursor, b->cursor);
	assert_bytes_equal(a->key, b->key);
	assert_bytes_equal(a->value, b->value);
	assert_bytes_equal(a->name, b->name);
}

/* Encode, look, decode from memory of exactly that size (ASan sees a byte too many), compare; then
 * every shorter piece is refused. */
static void assert_survives(const struct msg *m)
{
	struct buf b;
	buf_init(&b, 0);
	assert_int_equal(msg_encode(&b, m), 0);
	uint8_t *exact = malloc(b.len);
	memcpy(exact, b.data, b.len);
	uint16_t slot;
	size_t used;
	struct msg got;
	assert_int_equal(msg_peek(exact, b.len, &slot, &used), 0);
	assert_int_equal(slot, m->slot);
	assert_int_equal(used, b.len);
	used = 0;
	assert_int_equal(msg_decode(exact, b.len, &got, &used), 0);
	assert_int_equal(used, b.len);
	assert_msg_equal(&got, m);
	for (size_t len = 0; len < b.len; len++) {
		assert_int_equal(msg_decode(exact, len, &got, &used), -EBADMSG);
		assert_int_equal(msg_peek(exact, len, &slot, &used), -EBADMSG);
	}
	free(exact);
	buf_fini(&b);
}

static void test_frame_msg_of_every_type_survives_the_wire(void **state)
{
	(void)state;
	for (int type = MSG_TRYLOCK; type <= MSG_TYPE_MAX; type++) {
		struct msg m = msg_of((enum msg_type)type);
		assert_survives(&m);
	}
	for (int verdict = VERDICT_ACK; verdict <= VERDICT_MAX; verdict++) {
		struct msg m = msg_of(MSG_REPLY);
		m.verdict = (uint8_t)verdict;
		assert_survives(&m);
	}
}

/* A replica that has nothing yet asks for any log, from its beginning. */
static void test_frame_msg_follow_needs_no_cursor(void **state)
{
	(void)state;
	struct msg m = {.type = MSG_FOLLOW, .slot = 17, .req = 99};
	assert_survives(&m);
	m.op_id = 5;
	assert_survives(&m);
	m.req_type = MSG_FOLLOW;
	m.type = MSG_REPLY;
	m.verdict = VERDICT_GAP;
	assert_survives(&m);
	m.verdict = VERDICT_LOG;
	m.flags = MSG_LOG_END;
	assert_survives(&m);
}

static uint8_t blob[SYNC_BODY_MAX_BYTES + 1];

static void assert_not_sent(const struct msg *m)
{
	struct buf b;
	buf_init(&b, 0);
	expect_assert_failure(msg_encode(&b, m));
	assert_int_equal(b.len, 0);
	buf_fini(&b);
}

static void test_frame_msg_with_every_field_at_its_limit_survives(void **state)
{
	(void)state;
	memset(blob, 0xa5, sizeof blob);
	struct msg m = {
		.type = MSG_REPLY,
		.verdict = VERDICT_MAX,
		.flags = MSG_FLAGS_ALL,
		.node = 255,
		.slot = SLOTS_MAX - 1,
		.req_type = MSG_READ,
		.req = UINT64_MAX,
		.key = bytes_of(blob, KEY_MAX_BYTES),
		.uid = {BALLOT_MAX, UINT64_MAX},
		.prev = {BALLOT_MAX, UINT64_MAX},
		.b = {BALLOT_MAX, UINT64_MAX, UINT64_MAX},
		.n = BALLOT_MAX,
		.op_id = UINT64_MAX,
		.remaining_ns = SPAN_MAX_NS,
		.held_ns = SPAN_MAX_NS,
		.lease_ms = LEASE_MAX_MS,
		.cursor = UINT64_MAX,
		.value = bytes_of(blob, VALUE_MAX_BYTES),
		.name = bytes_of(blob, CLIENT_NAME_MAX_BYTES),
	};
	assert_survives(&m);
	/* Only entries and configurations may be longer than a value. */
	m.value = bytes_of(blob, SYNC_BODY_MAX_BYTES);
	m.req_type = MSG_SYNC;
	assert_survives(&m);
	m.req_type = MSG_FOLLOW;
	assert_survives(&m);
	m.req_type = MSG_READ;
	assert_not_sent(&m);
	m.value.len = VALUE_MAX_BYTES + 1;
	assert_not_sent(&m);
	m.value.len = SYNC_BODY_MAX_BYTES + 1;
	m.req_type = MSG_SYNC;
	assert_not_sent(&m);
	m.req_type = MSG_FOLLOW;
	assert_not_sent(&m);
	m.verdict = m.req_type = 0;
	m.type = MSG_CONFIG;
	assert_not_sent(&m);
	m.value.len--;
	assert_survives(&m);
	m.type = MSG_FOLLOW;
	assert_not_sent(&m);
}

/* Every subset of the optional fields, with values from a fixed seed. */
static void test_frame_msg_with_any_set_of_fields_survives(void **state)
{
	(void)state;
	struct prng r;
	prng_seed(&r, 20201);
	for (unsigned set = 0; set < 1 << 12; set++) {
		struct msg m = msg_of(MSG_REPLY);
		if (set & 1)
			m.uid = (struct ballot){prng_below(&r, BALLOT_MAX), 1 + prng_next(&r) / 2};
		if (set & 2)
			m.prev = (struct ballot){0, 1 + prng_next(&r) / 2};
		if (set & 4)
			m.b = (struct version){0, 0, 1 + prng_next(&r) / 2};
		if (set & 8)
			m.n = 1 + prng_below(&r, BALLOT_MAX);
		if (set & 16)
			m.op_id = 1 + prng_next(&r) / 2;
		if (set & 32)
			m.remaining_ns = 1 + prng_below(&r, SPAN_MAX_NS);
		if (set & 64)
			m.held_ns = 1 + prng_below(&r, SPAN_MAX_NS);
		if (set & 128)
			m.lease_ms = 1 + (uint32_t)prng_below(&r, LEASE_MAX_MS);
		if (set & 256)
			m.key = bytes_of(blob, 1 + prng_below(&r, 20));
		if (set & 512)
			m.value = bytes_of(blob, 1 + prng_below(&r, 20));
		if (set & 1024)
			m.name = bytes_of(blob, 1 + prng_below(&r, CLIENT_NAME_MAX_BYTES));
		if (set & 2048)
			m.cursor = 1 + prng_next(&r) / 2;
		m.flags = (uint8_t)prng_below(&r, MSG_FLAGS_ALL + 1);
		assert_survives(&m);
	}
}

static void test_frame_msg_empty_value_is_told_from_none(void **state)
{
	(void)state;
	struct msg m = msg_of(MSG_EXTEND);
	m.n = 0;
	m.flags = MSG_HAS_VALUE;
	assert_survives(&m);
}

static void test_frame_msgs_follow_one_another(void **state)
{
	(void)state;
	struct buf b;
	buf_init(&b, 0);
	for (int type = MSG_TRYLOCK; type <= MSG_TYPE_MAX; type++) {
		struct msg m = msg_of((enum msg_type)type);
		assert_int_equal(msg_encode(&b, &m), 0);
	}
	size_t at = 0;
	for (int type = MSG_TRYLOCK; type <= MSG_TYPE_MAX; type++) {
		struct msg m = msg_of((enum msg_type)type);
		struct msg got;
		size_t used;
		assert_int_equal(msg_decode(b.data + at, b.len - at, &got, &used), 0);
		assert_msg_equal(&got, &m);
		at += used;
	}
	assert_int_equal(at, b.len);
	buf_fini(&b);
}

static void test_frame_msg_encode_leaves_a_full_buffer_alone(void **state)
{
	(void)state;
	struct msg m = msg_of(MSG_TRYLOCK);
	struct buf b;
	buf_init(&b, 0);
	assert_int_equal(msg_encode(&b, &m), 0);
	size_t bytes = b.len;
	buf_fini(&b);
	buf_init(&b, bytes + 1);
	assert_int_equal(buf_append(&b, "xy", 2), 0);
	assert_int_equal(msg_encode(&b, &m), -ENOBUFS);
	assert_int_equal(b.len, 2);
	buf_drop_front(&b, 1);
	assert_int_equal(msg_encode(&b, &m), 0);
	assert_int_equal(b.len, 1 + bytes);
	assert_int_equal(b.data[0], 'y');
	buf_fini(&b);
}

/* Offsets of the head, see frame.c. */
enum {
	AT_LENGTH = 0,
	AT_TYPE = 2,
	AT_VERDICT = 3,
	AT_FLAGS = 4,
	AT_REQ_TYPE = 5,
	AT_SLOT = 6,
	AT_HAS = 8,
	AT_KEY = 10,
	AT_NODE = 12,
	AT_NAME = 13,
	AT_VALUE = 14,
	AT_FIELDS = 24,
};

/* The message with @bytes at @at replaced by @v. */
static void assert_refused(const struct msg *m, size_t at, unsigned bytes, uint64_t v)
{
	struct buf b;
	struct msg got = {.slot = 4242};
	size_t used = 4242;
	buf_init(&b, 0);
	assert_int_equal(msg_encode(&b, m), 0);
	assert_true(at + bytes <= b.len);
	memcpy(b.data + at, &v, bytes);
	assert_int_equal(msg_decode(b.data, b.len, &got, &used), -EBADMSG);
	assert_int_equal(got.slot, 4242);
	assert_int_equal(used, 4242);
	buf_fini(&b);
}

static void test_frame_msg_decode_refuses_unknown_words(void **state)
{
	(void)state;
	struct msg read = msg_of(MSG_READ);
	struct msg reply = msg_of(MSG_REPLY);
	assert_refused(&read, AT_TYPE, 1, 0);
	assert_refused(&read, AT_TYPE, 1, MSG_TYPE_MAX + 1);
	assert_refused(&read, AT_TYPE, 1, 255);
	assert_refused(&read, AT_VERDICT, 1, VERDICT_ACK);
	assert_refused(&read, AT_REQ_TYPE, 1, MSG_READ);
	assert_refused(&read, AT_SLOT, 2, SLOTS_MAX);
	assert_refused(&read, AT_HAS, 2, 1 << 8);
	assert_refused(&read, AT_HAS, 2, 1 << 15);
	assert_refused(&reply, AT_VERDICT, 1, 0);
	assert_refused(&reply, AT_VERDICT, 1, VERDICT_MAX + 1);
	assert_refused(&reply, AT_REQ_TYPE, 1, 0);
	assert_refused(&reply, AT_REQ_TYPE, 1, MSG_REPLY);
	assert_refused(&reply, AT_REQ_TYPE, 1, MSG_CONFIRM);
	assert_refused(&reply, AT_REQ_TYPE, 1, MSG_QUERY);
	assert_refused(&reply, AT_REQ_TYPE, 1, MSG_CONFIG);
	assert_refused(&reply, AT_REQ_TYPE, 1, MSG_TYPE_MAX + 1);
	assert_refused(&reply, AT_REQ_TYPE, 1, 200);
}

static void test_frame_msg_decode_refuses_wrong_lengths(void **state)
{
	(void)state;
	struct msg read = msg_of(MSG_READ);
	size_t whole = AT_FIELDS + read.key.len;
	assert_refused(&read, AT_LENGTH, 2, 0);
	assert_refused(&read, AT_LENGTH, 2, AT_FIELDS - 1);
	assert_refused(&read, AT_LENGTH, 2, whole - 1);
	assert_refused(&read, AT_LENGTH, 2, whole + 1);
	assert_refused(&read, AT_LENGTH, 2, UINT16_MAX);
	assert_refused(&read, AT_KEY, 2, read.key.len - 1);
	assert_refused(&read, AT_KEY, 2, read.key.len + 1);
	assert_refused(&read, AT_KEY, 2, UINT16_MAX);
	assert_refused(&read, AT_NAME, 1, 1);
	assert_refused(&read, AT_VALUE, 2, 1);
	assert_refused(&read, AT_VALUE, 2, UINT16_MAX);
	/* `has` names 8 more bytes than there are */
	assert_refused(&read, AT_HAS, 2, 1 << 3);
}

/* A whole message that is sound but for @key, @value or @name bytes more than allowed. */
static int decode_with_lengths(unsigned key, unsigned value, unsigned name)
{
	static uint8_t bytes[1 << 16];
	struct msg got;
	size_t used;
	memset(bytes, 0, sizeof bytes);
	put_u16(bytes + AT_LENGTH, (uint16_t)(AT_FIELDS + key + value + name));
	bytes[AT_TYPE] = MSG_READ;
	put_u16(bytes + AT_KEY, (uint16_t)key);
	put_u16(bytes + AT_VALUE, (uint16_t)value);
	bytes[AT_NAME] = (uint8_t)name;
	return msg_decode(bytes, sizeof bytes, &got, &used);
}

static void test_frame_msg_decode_keeps_limits_of_views(void **state)
{
	(void)state;
	assert_int_equal(
		decode_with_lengths(KEY_MAX_BYTES, VALUE_MAX_BYTES, CLIENT_NAME_MAX_BYTES), 0);
	assert_int_equal(decode_with_lengths(KEY_MAX_BYTES + 1, 0, 0), -EBADMSG);
	assert_int_equal(decode_with_lengths(1, VALUE_MAX_BYTES + 1, 0), -EBADMSG);
	assert_int_equal(decode_with_lengths(1, 0, CLIENT_NAME_MAX_BYTES + 1), -EBADMSG);
	assert_int_equal(decode_with_lengths(0, 0, 0), -EBADMSG);
}

static void test_frame_msg_decode_keeps_limits_of_numbers(void **state)
{
	(void)state;
	struct msg m = msg_of(MSG_REPLY);
	m.uid = uid;
	assert_refused(&m, AT_FIELDS, 8, BALLOT_MAX + 1);
	m.uid = (struct ballot){0};
	m.prev = uid;
	assert_refused(&m, AT_FIELDS, 8, UINT64_MAX);
	m.prev = (struct ballot){0};
	m.b = (struct version){1, 2, 3};
	assert_refused(&m, AT_FIELDS, 8, BALLOT_MAX + 1);
	m.b = (struct version){0};
	m.n = 1;
	assert_refused(&m, AT_FIELDS, 8, BALLOT_MAX + 1);
	m.n = 0;
	m.remaining_ns = 1;
	assert_refused(&m, AT_FIELDS, 8, SPAN_MAX_NS + 1);
	m.remaining_ns = 0;
	m.held_ns = 1;
	assert_refused(&m, AT_FIELDS, 8, UINT64_MAX);
	m.held_ns = 0;
	m.lease_ms = 1;
	assert_refused(&m, AT_FIELDS, 4, LEASE_MAX_MS + 1);
	assert_refused(&m, AT_FIELDS, 4, UINT32_MAX);
}

static void test_frame_msg_decode_refuses_fields_sent_as_zero(void **state)
{
	(void)state;
	struct msg m = msg_of(MSG_REPLY);
	m.n = 1;
	assert_refused(&m, AT_FIELDS, 8, 0);
	m.n = 0;
	m.lease_ms = 1;
	assert_refused(&m, AT_FIELDS, 4, 0);
}

/* Turning one message into another type, whose needs it does not meet. */
static void test_frame_msg_decode_refuses_missing_fields(void **state)
{
	(void)state;
	struct msg read = msg_of(MSG_READ);
	for (uint64_t type = MSG_TRYLOCK; type < MSG_READ; type++)
		assert_refused(&read, AT_TYPE, 1, type);
	struct msg lock = msg_of(MSG_TRYLOCK);
	assert_refused(&lock, AT_NODE, 1, 0);
	assert_refused(&lock, AT_TYPE, 1, MSG_PREPARE);
	assert_refused(&lock, AT_TYPE, 1, MSG_ACCEPT);
	struct msg release = msg_of(MSG_RELEASE);
	assert_refused(&release, AT_TYPE, 1, MSG_TRYLOCK);
	assert_refused(&release, AT_TYPE, 1, MSG_EXTEND);
	/* no configuration in it */
	struct msg follow = msg_of(MSG_FOLLOW);
	assert_refused(&follow, AT_TYPE, 1, MSG_CONFIG);
	/* an EXTEND of nobody's lease */
	struct msg extend = msg_of(MSG_EXTEND);
	extend.n = 0;
	extend.flags = MSG_HAS_VALUE;
	assert_refused(&extend, AT_FLAGS, 1, 0);
}

static void test_frame_msg_encode_checks_what_it_sends(void **state)
{
	(void)state;
	struct buf b;
	struct msg m;
	buf_init(&b, 0);
	m = msg_of(MSG_READ);
	m.key.len = 0;
	expect_assert_failure(msg_encode(&b, &m));
	m.key = bytes_of(blob, KEY_MAX_BYTES + 1);
	expect_assert_failure(msg_encode(&b, &m));
	m = msg_of(MSG_TRYLOCK);
	m.uid.n = BALLOT_MAX + 1;
	expect_assert_failure(msg_encode(&b, &m));
	m = msg_of(MSG_TRYLOCK);
	m.lease_ms = 0;
	expect_assert_failure(msg_encode(&b, &m));
	m = msg_of(MSG_REPLY);
	m.verdict = 0;
	expect_assert_failure(msg_encode(&b, &m));
	m = msg_of(MSG_REPLY);
	m.type = 0;
	expect_assert_failure(msg_encode(&b, &m));
	assert_int_equal(b.len, 0);
	buf_fini(&b);
}

static void test_frame_msg_peek_refuses_wrong_heads(void **state)
{
	(void)state;
	uint8_t bytes[100] = {0};
	uint16_t slot = 7;
	size_t len = 7;
	put_u16(bytes + AT_SLOT, SLOTS_MAX - 1);
	put_u16(bytes, AT_FIELDS - 1);
	assert_int_equal(msg_peek(bytes, sizeof bytes, &slot, &len), -EBADMSG);
	put_u16(bytes, sizeof bytes + 1);
	assert_int_equal(msg_peek(bytes, sizeof bytes, &slot, &len), -EBADMSG);
	assert_int_equal(slot, 7);
	assert_int_equal(len, 7);
	put_u16(bytes, sizeof bytes);
	assert_int_equal(msg_peek(bytes, sizeof bytes, &slot, &len), 0);
	assert_int_equal(slot, SLOTS_MAX - 1);
	assert_int_equal(len, sizeof bytes);
	put_u16(bytes + AT_SLOT, SLOTS_MAX);
	assert_int_equal(msg_peek(bytes, sizeof bytes, &slot, &len), -EBADMSG);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_frame_header_survives_the_wire),
		cmocka_unit_test(test_frame_header_waits_for_the_whole_frame),
		cmocka_unit_test(test_frame_header_refuses_what_is_no_frame),
		cmocka_unit_test(test_frame_header_largest_frame_is_taken),
		cmocka_unit_test(test_frame_msg_of_every_type_survives_the_wire),
		cmocka_unit_test(test_frame_msg_follow_needs_no_cursor),
		cmocka_unit_test(test_frame_msg_with_every_field_at_its_limit_survives),
		cmocka_unit_test(test_frame_msg_with_any_set_of_fields_survives),
		cmocka_unit_test(test_frame_msg_empty_value_is_told_from_none),
		cmocka_unit_test(test_frame_msgs_follow_one_another),
		cmocka_unit_test(test_frame_msg_encode_leaves_a_full_buffer_alone),
		cmocka_unit_test(test_frame_msg_decode_refuses_unknown_words),
		cmocka_unit_test(test_frame_msg_decode_refuses_wrong_lengths),
		cmocka_unit_test(test_frame_msg_decode_keeps_limits_of_views),
		cmocka_unit_test(test_frame_msg_decode_keeps_limits_of_numbers),
		cmocka_unit_test(test_frame_msg_decode_refuses_fields_sent_as_zero),
		cmocka_unit_test(test_frame_msg_decode_refuses_missing_fields),
		cmocka_unit_test(test_frame_msg_encode_checks_what_it_sends),
		cmocka_unit_test(test_frame_msg_peek_refuses_wrong_heads),
	};
	return cmocka_run_group_tests_name("frame", tests, NULL, NULL);
}
