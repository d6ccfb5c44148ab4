/* Configurations: what a change does to one, and their bytes. */
#include "wire/membership.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

#include "base/buf.h"
#include "base/check.h"
#include "base/prng.h"

/* In place of the weak one of src/base, so that expect_assert_failure() sees a failed CHECK. */
_Noreturn void check_fail(const char *condition, const char *file, int line)
{
	mock_assert(0, condition, file, line);
	abort();
}

static const struct membership first = {
	.epoch = 1,
	.masters_epoch = 1,
	.n_masters = 3,
	.slots = 64,
	.max_lease_ms = 60000,
	.attempt_ms = 1000,
	.drift_ppm = 1000,
	.masters = {{1, "a:1"}, {3, "c:3"}, {5, "e:5"}},
};

/* Epoch 3: two replicas, added after the first. */
static struct membership with_replicas(void)
{
	struct membership m = first;
	assert_int_equal(membership_add(&m, ROLE_REPLICA, 4, "d:4"), 0);
	assert_int_equal(membership_add(&m, ROLE_REPLICA, 2, "b:2"), 0);
	return m;
}

static struct membership largest(void)
{
	struct membership m = {
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
		m.masters[i].id = (uint8_t)(255 - MASTERS_MAX + 1 + i);
		memset(m.masters[i].addr, '~', MEMBER_ADDR_MAX_BYTES);
	}
	for (unsigned i = 0; i < REPLICAS_MAX; i++) {
		m.replicas[i].id = (uint8_t)(1 + i);
		memset(m.replicas[i].addr, '!', MEMBER_ADDR_MAX_BYTES);
	}
	return m;
}

static void assert_list(const struct member *list, unsigned n, const char *expected)
{
	char text[400] = "";
	for (unsigned i = 0; i < n; i++) {
		char one[120];
		(void)snprintf(one, sizeof one, "%u=%s ", list[i].id, list[i].addr);
		(void)strcat(text, one);
	}
	assert_string_equal(text, expected);
}

static void assert_is(const struct membership *m, const char *masters, const char *replicas)
{
	assert_list(m->masters, m->n_masters, masters);
	assert_list(m->replicas, m->n_replicas, replicas);
}

static void assert_last_change(
	const struct membership *m, uint64_t masters_epoch, unsigned joined, unsigned departed)
{
	assert_int_equal(m->masters_epoch, masters_epoch);
	assert_int_equal(m->joined, joined);
	assert_int_equal(m->departed, departed);
}

static void assert_equal(const struct membership *a, const struct membership *b)
{
	assert_true(membership_same(a, b));
	assert_int_equal(a->epoch, b->epoch);
	assert_last_change(a, b->masters_epoch, b->joined, b->departed);
}

/* From memory of exactly that size; every shorter piece is refused, and what is behind it stays. */
static void assert_survives(const struct membership *m)
{
	struct buf b;
	struct membership got;
	buf_init(&b, 0);
	assert_int_equal(membership_encode(&b, m), 0);
	assert_true(b.len <= MEMBERSHIP_MAX_BYTES);
	for (size_t len = 0; len <= b.len; len++) {
		uint8_t *p = malloc(len + (len == 0));
		assert_non_null(p);
		memcpy(p, b.data, len);
		struct bytes rest = bytes_of(p, len);
		got.n_masters = 99;
		int rc = membership_decode(&rest, &got);
		assert_int_equal(rc, len < b.len ? -EBADMSG : 0);
		assert_int_equal(rest.len, len < b.len ? len : 0);
		if (rc == 0)
			assert_equal(&got, m);
		else
			assert_int_equal(got.n_masters, 99);
		free(p);
	}
	size_t bytes = b.len;
	assert_int_equal(buf_append(&b, "more", 4), 0);
	struct bytes rest = bytes_of(b.data, b.len);
	assert_int_equal(membership_decode(&rest, &got), 0);
	assert_int_equal(rest.len, 4);
	assert_ptr_equal(rest.p, b.data + bytes);
	buf_fini(&b);
}

/* ---- changes ---- */

static void test_membership_roles(void **state)
{
	(void)state;
	struct membership m = with_replicas();
	assert_int_equal(membership_role(&m, 3), ROLE_MASTER);
	assert_int_equal(membership_role(&m, 2), ROLE_REPLICA);
	assert_int_equal(membership_role(&m, 6), ROLE_NONE);
	assert_int_equal(membership_role(&m, 0), ROLE_NONE);
	assert_string_equal(membership_find(&m, 5)->addr, "e:5");
	assert_string_equal(membership_find(&m, 4)->addr, "d:4");
	assert_null(membership_find(&m, 6));
	assert_null(membership_find(&m, 0));
}

static void test_membership_replicas_leave_the_masters_alone(void **state)
{
	(void)state;
	struct membership m = with_replicas();
	assert_is(&m, "1=a:1 3=c:3 5=e:5 ", "2=b:2 4=d:4 ");
	assert_int_equal(m.epoch, 3);
	assert_last_change(&m, 1, 0, 0);
	assert_int_equal(membership_remove(&m, 1), 0);
	assert_last_change(&m, 4, 0, 1);
	assert_int_equal(membership_remove(&m, 2), 0);
	assert_int_equal(membership_add(&m, ROLE_REPLICA, 9, "i:9"), 0);
	assert_is(&m, "3=c:3 5=e:5 ", "4=d:4 9=i:9 ");
	assert_int_equal(m.epoch, 6);
	assert_last_change(&m, 4, 0, 1);
	assert_survives(&m);
}

static void test_membership_a_master_joins_and_departs(void **state)
{
	(void)state;
	struct membership m = with_replicas();
	assert_int_equal(membership_add(&m, ROLE_MASTER, 9, "i:9"), 0);
	assert_is(&m, "1=a:1 3=c:3 5=e:5 9=i:9 ", "2=b:2 4=d:4 ");
	assert_int_equal(m.epoch, 4);
	assert_last_change(&m, 4, 9, 0);
	assert_survives(&m);
	assert_int_equal(membership_remove(&m, 3), 0);
	assert_is(&m, "1=a:1 5=e:5 9=i:9 ", "2=b:2 4=d:4 ");
	assert_int_equal(m.epoch, 5);
	assert_last_change(&m, 5, 0, 3);
	assert_survives(&m);
}

static void test_membership_promotion_moves_the_replica(void **state)
{
	(void)state;
	struct membership m = with_replicas();
	assert_int_equal(membership_add(&m, ROLE_MASTER, 2, membership_find(&m, 2)->addr), 0);
	assert_is(&m, "1=a:1 2=b:2 3=c:3 5=e:5 ", "4=d:4 ");
	assert_int_equal(m.epoch, 4);
	assert_last_change(&m, 4, 2, 0);
	assert_survives(&m);
}

static void test_membership_demotion_moves_the_master(void **state)
{
	(void)state;
	struct membership m = with_replicas();
	assert_int_equal(membership_add(&m, ROLE_REPLICA, 1, membership_find(&m, 1)->addr), 0);
	assert_is(&m, "3=c:3 5=e:5 ", "1=a:1 2=b:2 4=d:4 ");
	assert_int_equal(m.epoch, 4);
	assert_last_change(&m, 4, 0, 1);
	assert_survives(&m);
}

static void test_membership_the_last_master_stays(void **state)
{
	(void)state;
	struct membership m = with_replicas();
	assert_int_equal(membership_remove(&m, 1), 0);
	assert_int_equal(membership_remove(&m, 3), 0);
	struct membership before = m;
	assert_int_equal(membership_remove(&m, 5), -EINVAL);
	assert_equal(&m, &before);
	assert_int_equal(membership_add(&m, ROLE_REPLICA, 5, "e:5"), -EINVAL);
	assert_equal(&m, &before);
	assert_survives(&m);
}

static void test_membership_full_lists_take_nobody(void **state)
{
	(void)state;
	struct membership full = largest();
	full.epoch = full.masters_epoch = 7;
	struct membership m = full;
	assert_int_equal(membership_add(&m, ROLE_MASTER, 100, "x:1"), -ENOSPC);
	assert_int_equal(membership_add(&m, ROLE_MASTER, 1, "x:1"), -ENOSPC);
	assert_int_equal(membership_add(&m, ROLE_REPLICA, 100, "x:1"), -ENOSPC);
	assert_int_equal(membership_add(&m, ROLE_REPLICA, 255, "x:1"), -ENOSPC);
	assert_equal(&m, &full);
	/* The last free place in each list is one. */
	assert_int_equal(membership_remove(&m, 16), 0);
	assert_int_equal(membership_add(&m, ROLE_REPLICA, 255, "x:1"), 0);
	assert_int_equal(m.n_replicas, REPLICAS_MAX);
	assert_int_equal(m.replicas[REPLICAS_MAX - 1].id, 255);
	assert_int_equal(membership_add(&m, ROLE_MASTER, 1, "x:1"), 0);
	assert_int_equal(m.n_masters, MASTERS_MAX);
	assert_int_equal(m.masters[0].id, 1);
	assert_last_change(&m, 10, 1, 0);
	assert_survives(&m);
}

static void test_membership_changes_that_make_no_sense_are_checked(void **state)
{
	(void)state;
	struct membership m = with_replicas();
	static char longer[MEMBER_ADDR_MAX_BYTES + 2];
	memset(longer, 'x', sizeof longer - 1);
	expect_assert_failure(membership_add(&m, ROLE_MASTER, 1, "a:1"));
	expect_assert_failure(membership_add(&m, ROLE_REPLICA, 2, "b:2"));
	expect_assert_failure(membership_add(&m, ROLE_NONE, 2, "b:2"));
	expect_assert_failure(membership_add(&m, ROLE_MASTER, 0, "b:2"));
	expect_assert_failure(membership_add(&m, ROLE_MASTER, 9, ""));
	expect_assert_failure(membership_add(&m, ROLE_MASTER, 9, "i :9"));
	expect_assert_failure(membership_add(&m, ROLE_MASTER, 9, longer));
	expect_assert_failure(membership_remove(&m, 9));
	struct membership again = with_replicas();
	assert_equal(&m, &again);
}

/* Random changes, against a plain array of roles. */
static void test_membership_any_sequence_of_changes(void **state)
{
	(void)state;
	struct prng r;
	prng_seed(&r, 4);
	struct membership m = first;
	enum role roles[24] = {[1] = ROLE_MASTER, [3] = ROLE_MASTER, [5] = ROLE_MASTER};
	for (unsigned i = 0; i < 3000; i++) {
		uint8_t node = (uint8_t)(1 + prng_below(&r, 23));
		enum role role = (enum role)prng_below(&r, 3);
		if (role == roles[node])
			continue;
		struct membership before = m;
		int rc = role == ROLE_NONE ? membership_remove(&m, node)
					   : membership_add(&m, role, node, "h:1");
		bool masters_change = role == ROLE_MASTER || roles[node] == ROLE_MASTER;
		if (rc != 0) {
			assert_equal(&m, &before);
			continue;
		}
		roles[node] = role;
		assert_int_equal(m.epoch, before.epoch + 1);
		if (masters_change)
			assert_last_change(&m, m.epoch, role == ROLE_MASTER ? node : 0,
				role == ROLE_MASTER ? 0 : node);
		else
			assert_last_change(
				&m, before.masters_epoch, before.joined, before.departed);
		for (uint8_t n = 1; n < 24; n++)
			assert_int_equal(membership_role(&m, n), roles[n]);
		struct buf b;
		struct membership got;
		buf_init(&b, 0);
		assert_int_equal(membership_encode(&b, &m), 0);
		struct bytes rest = bytes_of(b.data, b.len);
		assert_int_equal(membership_decode(&rest, &got), 0);
		assert_equal(&got, &m);
		buf_fini(&b);
	}
	assert_true(m.epoch > 1000);
}

static void test_membership_same_looks_at_everything_but_epochs_and_names(void **state)
{
	(void)state;
	struct membership a = with_replicas();
	struct membership b = a;
	b.epoch = b.masters_epoch = 9;
	b.departed = 8;
	assert_true(membership_same(&a, &b));
	b = a;
	b.masters[1].id = 4;
	assert_false(membership_same(&a, &b));
	b = a;
	b.masters[1].addr[0] = b.replicas[0].addr[0] = 'x';
	assert_true(membership_same(&a, &b));
	b = a;
	b.masters[1].since = 1;
	assert_false(membership_same(&a, &b));
	b = a;
	b.n_masters--;
	assert_false(membership_same(&a, &b));
	b = a;
	b.replicas[1].id = 9;
	assert_false(membership_same(&a, &b));
	b = a;
	b.n_replicas--;
	assert_false(membership_same(&a, &b));
	b = a;
	b.slots++;
	assert_false(membership_same(&a, &b));
	b = a;
	b.max_lease_ms++;
	assert_false(membership_same(&a, &b));
	b = a;
	b.attempt_ms++;
	assert_false(membership_same(&a, &b));
	b = a;
	b.drift_ppm++;
	assert_false(membership_same(&a, &b));
}

static void test_membership_addresses(void **state)
{
	(void)state;
	static char longest[MEMBER_ADDR_MAX_BYTES + 2];
	memset(longest, 'x', sizeof longest - 1);
	assert_true(member_addr_valid(bytes_str("[fe80::1]:7501")));
	assert_true(member_addr_valid(bytes_of(longest, MEMBER_ADDR_MAX_BYTES)));
	assert_false(member_addr_valid(bytes_of(longest, MEMBER_ADDR_MAX_BYTES + 1)));
	assert_false(member_addr_valid(bytes_str("")));
	assert_false(member_addr_valid(bytes_str("a b:1")));
	assert_false(member_addr_valid(bytes_str("a:1\n")));
	assert_false(member_addr_valid(bytes_str("a\x7f:1")));
	assert_false(member_addr_valid(bytes_str("\xc3\xa4:1")));
	assert_false(member_addr_valid(bytes_of("a\0b:1", 5)));
}

/* ---- bytes ---- */

static void test_membership_survives_the_wire(void **state)
{
	(void)state;
	struct membership m = first;
	assert_survives(&m);
	m = with_replicas();
	assert_survives(&m);
	m = largest();
	assert_survives(&m);
	m = (struct membership){0};
	assert_survives(&m);
	m = first;
	m.n_masters = 1;
	m.slots = 1;
	m.max_lease_ms = m.attempt_ms = 1;
	m.drift_ppm = 0;
	assert_survives(&m);
}

static void test_membership_encode_leaves_a_full_buffer_alone(void **state)
{
	(void)state;
	struct membership m = with_replicas();
	struct buf b;
	buf_init(&b, 0);
	assert_int_equal(membership_encode(&b, &m), 0);
	size_t bytes = b.len;
	buf_fini(&b);
	buf_init(&b, bytes);
	assert_int_equal(buf_append(&b, "x", 1), 0);
	assert_int_equal(membership_encode(&b, &m), -ENOBUFS);
	assert_int_equal(b.len, 1);
	buf_drop_front(&b, 1);
	assert_int_equal(membership_encode(&b, &m), 0);
	assert_int_equal(b.len, bytes);
	buf_fini(&b);
}

/* Offsets in the encoded with_replicas(), whose addresses have three bytes; see membership.c. */
enum { AT_MASTERS = 36, MEMBER = 13, AT_REPLICAS = AT_MASTERS + 3 * MEMBER };

static void assert_refused(const struct membership *m, size_t at, unsigned bytes, uint64_t v)
{
	struct buf b;
	struct membership got = {.n_masters = 99};
	buf_init(&b, 0);
	assert_int_equal(membership_encode(&b, m), 0);
	assert_true(at + bytes <= b.len);
	memcpy(b.data + at, &v, bytes);
	/* and bytes behind it, lest a count that grew be refused for want of them */
	for (unsigned i = 0; i < 2048; i++)
		assert_int_equal(buf_append(&b, "x", 1), 0);
	struct bytes rest = bytes_of(b.data, b.len);
	if (membership_decode(&rest, &got) != -EBADMSG)
		fail_msg("taken with %u bytes at %zu = %llu", bytes, at, (unsigned long long)v);
	assert_int_equal(got.n_masters, 99);
	assert_int_equal(rest.len, b.len);
	buf_fini(&b);
}

/* Each a configuration that is right but for one thing. */
static void test_membership_decode_keeps_every_bound(void **state)
{
	(void)state;
	static const struct {
		size_t at;
		unsigned bytes;
		uint64_t v;
	} wrong[] = {
		{0, 8, UINT64_MAX},
		{0, 8, EPOCH_MAX + 1}, /* epoch */
		{8, 8, 0},
		{8, 8, 4},
		{8, 8, UINT64_MAX}, /* masters_epoch */
		{8, 8, 2},          /* a change that nobody made */
		{16, 1, 1},
		{17, 1, 9}, /* joined, departed in the first one */
		{18, 1, 0},
		{18, 1, MASTERS_MAX + 1},
		{18, 1, 255},
		{18, 1, 2},
		{18, 1, 4},
		{19, 1, REPLICAS_MAX + 1},
		{19, 1, 255},
		{19, 1, 3}, /* counts */
		{20, 2, 0},
		{20, 2, SLOTS_MAX + 1},
		{20, 2, UINT16_MAX}, /* slots */
		{22, 2, 1},
		{22, 2, 0x8000}, /* zero */
		{24, 4, 0},
		{24, 4, LEASE_MAX_MS + 1},
		{24, 4, UINT32_MAX},
		{28, 4, 0},
		{28, 4, ATTEMPT_MAX_MS + 1},
		{28, 4, UINT32_MAX},
		{32, 4, DRIFT_MAX_PPM + 1},
		{32, 4, UINT32_MAX},
		{AT_MASTERS, 1, 0},
		{AT_MASTERS, 1, 3},
		{AT_MASTERS, 1, 4}, /* order, twice */
		{AT_MASTERS, 1, 255},
		{AT_MASTERS + MEMBER, 1, 2}, /* 2 is a replica */
		{AT_MASTERS + 2 * MEMBER, 1, 3},
		{AT_REPLICAS, 1, 0},
		{AT_REPLICAS, 1, 4},
		{AT_REPLICAS, 1, 1},
		{AT_REPLICAS, 1, 3},
		{AT_REPLICAS + MEMBER, 1, 5},
		{AT_REPLICAS + MEMBER, 1, 1},
		{AT_MASTERS + 2, 8, 2}, /* since after the last change */
		{AT_REPLICAS + 2, 1, 1},
		{AT_MASTERS + 1, 1, 0},
		{AT_MASTERS + 1, 1, 2},
		{AT_MASTERS + 1, 1, 4},
		{AT_MASTERS + 1, 1, MEMBER_ADDR_MAX_BYTES + 1},
		{AT_MASTERS + 1, 1, 255},
		{AT_REPLICAS + MEMBER + 1, 1, 0}, /* address lengths */
		{AT_REPLICAS + MEMBER + 1, 1, MEMBER_ADDR_MAX_BYTES + 1},
		{AT_MASTERS + 10, 1, 0},
		{AT_MASTERS + 12, 1, 0},
		{AT_MASTERS + 11, 1, ' '},
		{AT_MASTERS + 11, 1, '\n'},
		{AT_MASTERS + 11, 1, 0x7f},
		{AT_MASTERS + 11, 1, 0xc3},
	};
	struct membership m = with_replicas();
	for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
		assert_refused(&m, wrong[i].at, wrong[i].bytes, wrong[i].v);
}

/* Who joined or departed must leave a set of masters that was possible before. */
static void test_membership_decode_refuses_changes_that_cannot_be(void **state)
{
	(void)state;
	struct membership joined = with_replicas();
	assert_int_equal(membership_add(&joined, ROLE_MASTER, 9, "i:9"), 0);
	assert_refused(&joined, 16, 1, 0);  /* nobody */
	assert_refused(&joined, 16, 1, 2);  /* a replica */
	assert_refused(&joined, 16, 1, 77); /* a stranger */
	assert_refused(&joined, 17, 1, 77); /* and one that departed */
	assert_refused(&joined, 8, 8, 1);   /* in the first epoch */
	struct membership departed = with_replicas();
	assert_int_equal(membership_remove(&departed, 3), 0);
	assert_refused(&departed, 17, 1, 0); /* nobody */
	assert_refused(&departed, 17, 1, 1); /* who is a master still */
	assert_refused(&departed, 16, 1, 1); /* and one that joined */
	/* A node that became a replica, and a master that nobody was before. */
	struct membership demoted = with_replicas();
	assert_int_equal(membership_add(&demoted, ROLE_REPLICA, 3, "c:3"), 0);
	assert_survives(&demoted);
	struct membership m = first;
	m.epoch = m.masters_epoch = 2;
	m.n_masters = 1;
	m.departed = 3;
	assert_survives(&m);
	assert_refused(&m, 16, 2, 1); /* joined: before it there was none */
	m = largest();
	assert_refused(&m, 16, 2, 77 << 8); /* departed: before it there was one too many */
}

static void test_membership_encode_checks_what_it_sends(void **state)
{
	(void)state;
	struct buf b;
	buf_init(&b, 0);
	struct membership m = first;
	m.n_masters = 0;
	expect_assert_failure(membership_encode(&b, &m));
	m = first;
	m.n_masters = MASTERS_MAX + 1;
	expect_assert_failure(membership_encode(&b, &m));
	m = first;
	m.n_replicas = REPLICAS_MAX + 1;
	expect_assert_failure(membership_encode(&b, &m));
	m = first;
	m.masters[1].id = 1;
	expect_assert_failure(membership_encode(&b, &m));
	m = first;
	memset(m.masters[1].addr, 'x', sizeof m.masters[1].addr);
	expect_assert_failure(membership_encode(&b, &m));
	m = first;
	m.masters_epoch = 0;
	expect_assert_failure(membership_encode(&b, &m));
	m = first;
	m.joined = 1;
	expect_assert_failure(membership_encode(&b, &m));
	assert_int_equal(b.len, 0);
	buf_fini(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_membership_roles),
		cmocka_unit_test(test_membership_replicas_leave_the_masters_alone),
		cmocka_unit_test(test_membership_a_master_joins_and_departs),
		cmocka_unit_test(test_membership_promotion_moves_the_replica),
		cmocka_unit_test(test_membership_demotion_moves_the_master),
		cmocka_unit_test(test_membership_the_last_master_stays),
		cmocka_unit_test(test_membership_full_lists_take_nobody),
		cmocka_unit_test(test_membership_changes_that_make_no_sense_are_checked),
		cmocka_unit_test(test_membership_any_sequence_of_changes),
		cmocka_unit_test(test_membership_same_looks_at_everything_but_epochs_and_names),
		cmocka_unit_test(test_membership_addresses),
		cmocka_unit_test(test_membership_survives_the_wire),
		cmocka_unit_test(test_membership_encode_leaves_a_full_buffer_alone),
		cmocka_unit_test(test_membership_decode_keeps_every_bound),
		cmocka_unit_test(test_membership_decode_refuses_changes_that_cannot_be),
		cmocka_unit_test(test_membership_encode_checks_what_it_sends),
	};
	return cmocka_run_group_tests_name("membership_codec", tests, NULL, NULL);
}
