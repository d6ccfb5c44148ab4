#include "wire/sync.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <cmocka.h>

#include "base/check.h"
#include "wire/frame.h"

_Noreturn void check_fail(const char *condition, const char *file, int line)
{
	mock_assert(0, condition, file, line);
	abort();
}

static const struct sync_entry plain = {
	.uid = {1000, 77},
	.vb = {1000, 77, 0},
	.pb = {1000, 77, 0},
	.maxn = 1000,
	.remaining_ns = 5,
	.held_ns = 6,
	.node = 3,
};

static struct sync_entry with_text(struct sync_entry e)
{
	e.key = bytes_str("some/key");
	e.value = bytes_str("owner");
	e.name = bytes_str("client");
	return e;
}

static struct sync_entry shadow(void)
{
	return (struct sync_entry){
		.flags = SYNC_SHADOW, .key = bytes_str("some/key"), .maxn = 9, .remaining_ns = 5};
}

static struct sync_entry gone(void)
{
	return (struct sync_entry){
		.flags = SYNC_GONE, .key = bytes_str("the hash"), .uid = {1000, 77}};
}

static void assert_bytes_equal(struct bytes a, struct bytes b)
{
	assert_int_equal(a.len, b.len);
	if (a.len != 0)
		assert_memory_equal(a.p, b.p, a.len);
}

static void assert_entry_equal(const struct sync_entry *a, const struct sync_entry *b)
{
	assert_bytes_equal(a->key, b->key);
	assert_bytes_equal(a->value, b->value);
	assert_bytes_equal(a->name, b->name);
	assert_true(ballot_eq(a->uid, b->uid));
	assert_int_equal(version_cmp(a->vb, b->vb), 0);
	assert_int_equal(version_cmp(a->pb, b->pb), 0);
	assert_int_equal(a->op_id, b->op_id);
	assert_int_equal(a->maxn, b->maxn);
	assert_int_equal(a->remaining_ns, b->remaining_ns);
	assert_int_equal(a->held_ns, b->held_ns);
	assert_int_equal(a->flags, b->flags);
	assert_int_equal(a->node, b->node);
}

/* From memory of exactly that size; every shorter piece is refused. */
static void assert_survives(const struct sync_entry *e)
{
	struct buf b;
	struct sync_entry got;
	buf_init(&b, 0);
	assert_int_equal(sync_entry_encode(&b, e), 0);
	for (size_t len = 1; len <= b.len; len++) {
		uint8_t *p = malloc(len);
		assert_non_null(p);
		memcpy(p, b.data, len);
		struct bytes rest = bytes_of(p, len);
		int rc = sync_entry_decode(&rest, &got);
		assert_int_equal(rc, len < b.len ? -EBADMSG : 0);
		assert_int_equal(rest.len, len < b.len ? len : 0);
		if (rc == 0)
			assert_entry_equal(&got, e);
		free(p);
	}
	buf_fini(&b);
}

static void test_sync_entries_of_every_kind_survive(void **state)
{
	(void)state;
	struct sync_entry e = with_text(plain);
	assert_survives(&e);
	e.flags = SYNC_UNCONFIRMED;
	assert_survives(&e);
	e.flags = SYNC_WRITTEN;
	e.vb = (struct version){2000, 78, 3};
	e.pb = (struct version){BALLOT_MAX, UINT64_MAX, UINT64_MAX};
	e.op_id = UINT64_MAX;
	assert_survives(&e);
	e = shadow();
	assert_survives(&e);
	e = gone();
	assert_survives(&e);
	e.uid = (struct ballot){BALLOT_MAX, UINT64_MAX};
	assert_survives(&e);
	e = with_text(plain);
	e.value.len = e.name.len = 0;
	assert_survives(&e);
}

static void test_sync_the_largest_entry_fits_a_report(void **state)
{
	(void)state;
	static uint8_t blob[VALUE_MAX_BYTES], body[SYNC_BODY_MAX_BYTES];
	struct sync_entry e = plain, got;
	e.flags = SYNC_WRITTEN | SYNC_UNCONFIRMED;
	e.key = bytes_of(blob, KEY_MAX_BYTES);
	e.value = bytes_of(blob, VALUE_MAX_BYTES);
	e.name = bytes_of(blob, CLIENT_NAME_MAX_BYTES);
	e.maxn = BALLOT_MAX;
	e.remaining_ns = e.held_ns = SPAN_MAX_NS;
	struct buf b = {.data = body, .cap = sizeof body, .max = sizeof body};
	assert_int_equal(sync_entry_encode(&b, &e), 0);
	size_t one = b.len;
	assert_int_equal(sync_entry_encode(&b, &e), -ENOBUFS);
	assert_int_equal(b.len, one);
	struct bytes rest = bytes_of(body, b.len);
	assert_int_equal(sync_entry_decode(&rest, &got), 0);
	assert_entry_equal(&got, &e);
}

static void test_sync_entries_follow_one_another(void **state)
{
	(void)state;
	struct buf b;
	buf_init(&b, 0);
	struct sync_entry one = with_text(plain), two = shadow(), three = gone(), got;
	assert_int_equal(sync_entry_encode(&b, &one), 0);
	assert_int_equal(sync_entry_encode(&b, &two), 0);
	assert_int_equal(sync_entry_encode(&b, &three), 0);
	assert_int_equal(sync_entry_encode(&b, &one), 0);
	struct bytes rest = bytes_of(b.data, b.len);
	assert_int_equal(sync_entry_decode(&rest, &got), 0);
	assert_entry_equal(&got, &one);
	assert_int_equal(sync_entry_decode(&rest, &got), 0);
	assert_entry_equal(&got, &two);
	assert_int_equal(sync_entry_decode(&rest, &got), 0);
	assert_entry_equal(&got, &three);
	assert_int_equal(sync_entry_decode(&rest, &got), 0);
	assert_int_equal(sync_entry_decode(&rest, &got), -ENODATA);
	buf_fini(&b);
}

static void assert_refused(const struct sync_entry *e, size_t at, unsigned bytes, uint64_t v)
{
	struct buf b;
	struct sync_entry got = {.node = 99};
	buf_init(&b, 0);
	assert_int_equal(sync_entry_encode(&b, e), 0);
	memcpy(b.data + at, &v, bytes);
	/* and bytes behind it, lest a length that grew be refused for want of them */
	static const uint8_t more[KEY_MAX_BYTES + VALUE_MAX_BYTES + 256];
	assert_int_equal(buf_append(&b, more, sizeof more), 0);
	struct bytes rest = bytes_of(b.data, b.len);
	assert_int_equal(sync_entry_decode(&rest, &got), -EBADMSG);
	assert_int_equal(got.node, 99);
	assert_int_equal(rest.len, b.len);
	buf_fini(&b);
}

/* Each an entry that is right but for one thing. */
static void test_sync_refuses_what_is_no_entry(void **state)
{
	(void)state;
	static const struct {
		size_t at;
		unsigned bytes;
		uint64_t v;
	} wrong[] = {
		{0, 1, SYNC_SHADOW}, {0, 1, SYNC_FLAGS_ALL + 1}, {0, 1, 255}, /* flags */
		{0, 1, SYNC_GONE}, {1, 1, 0},                                 /* node */
		{2, 1, CLIENT_NAME_MAX_BYTES + 1}, {2, 1, 255},               /* name length */
		{3, 1, 1},                                                    /* zero */
		{4, 2, 0}, {4, 2, KEY_MAX_BYTES + 1}, {4, 2, UINT16_MAX},     /* key length */
		{6, 2, VALUE_MAX_BYTES + 1}, {6, 2, UINT16_MAX},              /* value length */
		{8, 8, 999}, {8, 8, BALLOT_MAX + 1},                          /* maxn */
		{16, 8, SPAN_MAX_NS + 1}, {24, 8, UINT64_MAX},                /* remaining, held */
		{32, 8, 0}, {32, 8, BALLOT_MAX + 1},                          /* uid */
	};
	struct sync_entry e = with_text(plain);
	for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
		assert_refused(&e, wrong[i].at, wrong[i].bytes, wrong[i].v);
}

/* What is gone has a uid and the hash of its key, and nothing else. */
static void test_sync_refuses_what_is_gone_and_more(void **state)
{
	(void)state;
	static const struct {
		size_t at;
		unsigned bytes;
		uint64_t v;
	} wrong[] = {
		{0, 1, SYNC_GONE | SYNC_SHADOW}, {0, 1, SYNC_GONE | SYNC_UNCONFIRMED},
		{0, 1, SYNC_GONE | SYNC_WRITTEN}, {0, 1, SYNC_GONE | SYNC_HEARSAY},
		{0, 1, 0},                            /* flags */
		{1, 1, 1},                            /* node */
		{2, 1, 1},                            /* name length */
		{4, 2, 0}, {4, 2, 7}, {4, 2, 9},      /* key length */
		{6, 2, 1},                            /* value length */
		{8, 8, 1000}, {16, 8, 1}, {24, 8, 1}, /* maxn, remaining, held */
		{32, 8, 0}, {32, 8, BALLOT_MAX + 1},  /* uid */
	};
	struct sync_entry e = gone();
	for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
		assert_refused(&e, wrong[i].at, wrong[i].bytes, wrong[i].v);
}

static void test_sync_encode_checks_what_it_sends(void **state)
{
	(void)state;
	struct buf b;
	buf_init(&b, 0);
	struct sync_entry e = with_text(plain);
	e.key.len = 0;
	expect_assert_failure(sync_entry_encode(&b, &e));
	e = with_text(plain);
	e.uid.n = 0;
	expect_assert_failure(sync_entry_encode(&b, &e));
	e = shadow();
	e.uid.n = e.maxn + 1;
	expect_assert_failure(sync_entry_encode(&b, &e));
	e = shadow();
	e.flags |= SYNC_UNCONFIRMED;
	expect_assert_failure(sync_entry_encode(&b, &e));
	e = gone();
	e.key.len--;
	expect_assert_failure(sync_entry_encode(&b, &e));
	e = gone();
	e.value = bytes_str("owner");
	expect_assert_failure(sync_entry_encode(&b, &e));
	assert_int_equal(b.len, 0);
	buf_fini(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_sync_entries_of_every_kind_survive),
		cmocka_unit_test(test_sync_the_largest_entry_fits_a_report),
		cmocka_unit_test(test_sync_entries_follow_one_another),
		cmocka_unit_test(test_sync_refuses_what_is_no_entry),
		cmocka_unit_test(test_sync_refuses_what_is_gone_and_more),
		cmocka_unit_test(test_sync_encode_checks_what_it_sends),
	};
	return cmocka_run_group_tests_name("sync", tests, NULL, NULL);
}
