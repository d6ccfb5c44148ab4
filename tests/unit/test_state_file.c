#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "base/hash.h"
#include "base/prng.h"
#include "node/state_file.h"

enum {
	SECOND_SLOT = 16384,
	SLOT = 12288,
	AT_SEQ = 16,
	AT_INC = 32,
	AT_FLAGS = 59,
	AT_CONFIGS = 128
};

static char root[] = "/tmp/test_state.XXXXXX";
static char dir[64];
static char path[128];
static char why[1024];
static struct state_file file;
static struct state found;

static const struct state sample = {
	.cluster = "orders",
	.node = 2,
	.reg.committed =
		{
			.epoch = 1,
			.masters_epoch = 1,
			.n_masters = 3,
			.masters = {{1, "a:1"}, {2, "b:2"}, {3, "c:3"}},
			.slots = 64,
			.max_lease_ms = 60000,
			.attempt_ms = 1000,
			.drift_ppm = 1000,
		},
	.ceiling_n = 1000,
	.inc = 77,
};

static int setup(void **state)
{
	(void)snprintf(dir, sizeof dir, "%s/state", root);
	(void)snprintf(path, sizeof path, "%s/node-2.state", dir);
	(void)unlink(path);
	(void)rmdir(dir);
	why[0] = '\0';
	return 0;
}

static int open_it(void)
{
	return state_file_open(&file, dir, 2, &found, why, sizeof why);
}

/* A file that was written @n times, with ceilings 1, 2, ... */
static void write_times(unsigned n)
{
	assert_int_equal(open_it(), STATE_FRESH);
	for (unsigned i = 1; i <= n; i++) {
		struct state s = sample;
		s.ceiling_n = i;
		assert_int_equal(state_file_write(&file, &s), 0);
	}
	state_file_close(&file);
}

static void damage(off_t at)
{
	int fd = open(path, O_RDWR);
	uint8_t byte = 0;
	assert_true(fd >= 0);
	assert_int_equal(pread(fd, &byte, 1, at), 1);
	byte ^= 0x10;
	assert_int_equal(pwrite(fd, &byte, 1, at), 1);
	assert_int_equal(close(fd), 0);
}

static void assert_config_same(const struct membership *a, const struct membership *b)
{
	assert_true(membership_same(a, b));
	assert_true(a->epoch == b->epoch && a->masters_epoch == b->masters_epoch);
	assert_int_equal(a->joined, b->joined);
	assert_int_equal(a->departed, b->departed);
}

static void assert_ballot_same(struct change_ballot a, struct change_ballot b)
{
	assert_true(a.n == b.n);
	assert_int_equal(a.node, b.node);
}

static void assert_same(const struct state *a, const struct state *b)
{
	assert_string_equal(a->cluster, b->cluster);
	assert_int_equal(a->node, b->node);
	assert_config_same(&a->reg.committed, &b->reg.committed);
	assert_config_same(&a->reg.accepted, &b->reg.accepted);
	assert_ballot_same(a->reg.promised, b->reg.promised);
	assert_ballot_same(a->reg.accepted_at, b->reg.accepted_at);
	assert_true(a->ceiling_n == b->ceiling_n);
	assert_true(a->inc == b->inc);
	assert_int_equal(a->clean, b->clean);
}

static void test_state_file_round_trip(void **state)
{
	assert_int_equal(open_it(), STATE_FRESH);
	assert_int_equal(state_file_write(&file, &sample), 0);
	state_file_close(&file);
	assert_int_equal(open_it(), STATE_LOADED);
	assert_same(&found, &sample);
	state_file_close(&file);
}

static void assert_round_trip(const struct state *s)
{
	(void)setup(NULL);
	assert_int_equal(open_it(), STATE_FRESH);
	assert_int_equal(state_file_write(&file, s), 0);
	state_file_close(&file);
	assert_int_equal(open_it(), STATE_LOADED);
	assert_same(&found, s);
	state_file_close(&file);
}

/* The largest configuration there is. */
static struct membership largest(uint64_t epoch)
{
	struct membership m = {
		.epoch = epoch,
		.masters_epoch = epoch,
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
		memset(m.masters[i].addr, 'm', MEMBER_ADDR_MAX_BYTES);
	}
	for (unsigned i = 0; i < REPLICAS_MAX; i++) {
		m.replicas[i].id = (uint8_t)(1 + i);
		memset(m.replicas[i].addr, 'r', MEMBER_ADDR_MAX_BYTES);
	}
	return m;
}

static void test_state_file_extremes_round_trip(void **state)
{
	(void)state;
	struct state s = {
		.node = 255,
		.reg = {.committed = largest(EPOCH_MAX - 1),
			.promised = {BALLOT_MAX, 255},
			.accepted_at = {BALLOT_MAX, 255},
			.accepted = largest(EPOCH_MAX)},
		.ceiling_n = BALLOT_MAX,
		.inc = UINT64_MAX,
		.clean = true,
	};
	memset(s.cluster, 'x', CLUSTER_NAME_MAX_BYTES);
	assert_round_trip(&s);
	/* and the least */
	s = (struct state){.node = 1};
	assert_round_trip(&s);
}

/* A vote about the next configuration survives, and so does its absence. */
static void test_state_file_votes_round_trip(void **state)
{
	(void)state;
	struct state s = sample;
	s.reg.promised = (struct change_ballot){7, 3};
	assert_round_trip(&s);
	s.reg.accepted_at = (struct change_ballot){6, 2};
	s.reg.accepted = s.reg.committed;
	assert_int_equal(membership_add(&s.reg.accepted, ROLE_REPLICA, 3, "c:3"), 0);
	assert_round_trip(&s);
	s.reg.committed = s.reg.accepted;
	s.reg.accepted = (struct membership){0};
	s.reg.promised = s.reg.accepted_at = (struct change_ballot){0};
	assert_round_trip(&s);
}

/* Good order is noted in one slot; the start after it writes both, so that no damage to the newer
 * one brings the note back. */
static void test_state_file_good_order_is_told_once(void **state)
{
	struct state s = sample;
	write_times(2);
	assert_int_equal(open_it(), STATE_LOADED);
	s.clean = true;
	assert_int_equal(state_file_write(&file, &s), 0);
	state_file_close(&file);
	assert_int_equal(open_it(), STATE_LOADED);
	assert_same(&found, &s);
	s.clean = false;
	assert_int_equal(state_file_write(&file, &s), 0);
	assert_int_equal(state_file_write(&file, &s), 0);
	state_file_close(&file);
	for (off_t slot = 0; slot < 2; slot++) {
		damage(slot * SECOND_SLOT + 40);
		assert_int_equal(open_it(), STATE_LOADED);
		assert_false(found.clean);
		state_file_close(&file);
		damage(slot * SECOND_SLOT + 40); /* and whole again */
	}
}

static void rewrite(void (*change)(uint8_t *slot))
{
	uint8_t slot[SLOT];
	int fd = open(path, O_RDWR);
	assert_true(fd >= 0);
	assert_int_equal(pread(fd, slot, SLOT, 0), SLOT);
	change(slot);
	uint64_t sum = hash_bytes(bytes_of(slot, SLOT - 8));
	memcpy(slot + SLOT - 8, &sum, sizeof sum);
	assert_int_equal(pwrite(fd, slot, SLOT, 0), SLOT);
	assert_int_equal(close(fd), 0);
}

static void to_unknown_flag(uint8_t *slot)
{
	slot[AT_FLAGS] = 2;
}

static void to_clean_of_nobody(uint8_t *slot)
{
	memset(slot + AT_INC, 0, 8);
	slot[AT_FLAGS] = 1;
}

static void to_unterminated_cluster(uint8_t *slot)
{
	memset(slot + AT_CONFIGS - 64, 'x', 64);
}

static void to_ceiling_beyond_ballots(uint8_t *slot)
{
	slot[24 + 7] = 1;
}

static void to_ballot_of_nobody(uint8_t *slot)
{
	slot[40] = 1;
}

static void to_vote_for_nothing(uint8_t *slot)
{
	slot[48] = 1;
	slot[57] = 1;
}

static void to_node_0(uint8_t *slot)
{
	slot[58] = 0;
}

static void to_no_master(uint8_t *slot)
{
	slot[AT_CONFIGS + 18] = 0;
}

static void to_newer_format(uint8_t *slot)
{
	slot[8] = 4;
}

/* Sound by its checksum, and still not believed. */
static void test_state_file_contents_are_checked(void **state)
{
	(void)state;
	static void (*const wrong[])(uint8_t * slot) = {to_unknown_flag, to_clean_of_nobody,
		to_unterminated_cluster, to_ceiling_beyond_ballots, to_ballot_of_nobody,
		to_vote_for_nothing, to_node_0, to_no_master};
	for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
		(void)setup(NULL);
		write_times(1);
		rewrite(wrong[i]);
		assert_int_equal(open_it(), -EBADMSG);
	}
}

static struct prng dice;

static void to_anything(uint8_t *slot)
{
	for (uint64_t n = 1 + prng_below(&dice, 4); n > 0; n--)
		slot[AT_SEQ + prng_below(&dice, 250)] = (uint8_t)prng_next(&dice);
}

/* Whatever the bytes are: refused, or something that may be written again. */
static void test_state_file_of_any_contents_is_survived(void **state)
{
	(void)state;
	unsigned loaded = 0;
	struct state s = sample;
	s.reg.accepted = s.reg.committed;
	assert_int_equal(membership_add(&s.reg.accepted, ROLE_MASTER, 9, "i:9"), 0);
	s.reg.promised = s.reg.accepted_at = (struct change_ballot){7, 3};
	prng_seed(&dice, 2010);
	for (unsigned i = 0; i < 300; i++) {
		(void)setup(NULL);
		assert_int_equal(open_it(), STATE_FRESH);
		assert_int_equal(state_file_write(&file, &s), 0);
		state_file_close(&file);
		rewrite(to_anything);
		int rc = open_it();
		if (rc != STATE_LOADED) {
			assert_int_equal(rc, -EBADMSG);
			continue;
		}
		loaded++;
		struct state again = found;
		assert_int_equal(state_file_write(&file, &again), 0);
		state_file_close(&file);
		assert_int_equal(open_it(), STATE_LOADED);
		assert_same(&found, &again);
		state_file_close(&file);
	}
	assert_in_range(loaded, 20, 280);
}

static void assert_other_version(void)
{
	assert_int_equal(open_it(), -EPROTONOSUPPORT);
	assert_non_null(strstr(why, path));
	assert_non_null(strstr(why, "another version of lockerd"));
	assert_int_equal(file.fd, -1);
}

/* A file of format 1 or 2: two slots of 512 bytes, 4096 apart, of which the first may be torn. */
static void write_old(uint32_t version, off_t at)
{
	uint8_t slot[512] = "lkstate1";
	(void)setup(NULL);
	assert_int_equal(open_it(), STATE_FRESH);
	state_file_close(&file);
	memcpy(slot + 8, &version, sizeof version);
	slot[16] = 1;
	uint64_t sum = hash_bytes(bytes_of(slot, sizeof slot - 8));
	memcpy(slot + sizeof slot - 8, &sum, sizeof sum);
	int fd = open(path, O_RDWR);
	assert_true(fd >= 0);
	assert_int_equal(pwrite(fd, slot, sizeof slot, at), sizeof slot);
	assert_int_equal(close(fd), 0);
}

static void test_state_file_of_another_format_is_refused(void **state)
{
	(void)state;
	for (uint32_t version = 1; version <= 2; version++) {
		write_old(version, 0);
		assert_other_version();
		write_old(version, 4096);
		assert_other_version();
	}
	/* torn, it says nothing */
	write_old(2, 0);
	damage(100);
	assert_int_equal(open_it(), -EBADMSG);
	/* A newer one, even with one of ours beside it: what it promised is not known here. */
	(void)setup(NULL);
	write_times(2);
	rewrite(to_newer_format);
	assert_other_version();
}

static void test_state_file_empty_is_fresh_again(void **state)
{
	assert_int_equal(open_it(), STATE_FRESH);
	state_file_close(&file);
	assert_int_equal(open_it(), STATE_FRESH);
	state_file_close(&file);
}

static void test_state_file_newest_wins(void **state)
{
	for (unsigned n = 1; n <= 4; n++) {
		(void)setup(NULL);
		write_times(n);
		assert_int_equal(open_it(), STATE_LOADED);
		assert_int_equal(found.ceiling_n, n);
		state_file_close(&file);
	}
}

static void test_state_file_writes_go_on_after_reopening(void **state)
{
	write_times(2);
	for (unsigned n = 3; n <= 5; n++) {
		assert_int_equal(open_it(), STATE_LOADED);
		struct state s = sample;
		s.ceiling_n = n;
		assert_int_equal(state_file_write(&file, &s), 0);
		state_file_close(&file);
		assert_int_equal(open_it(), STATE_LOADED);
		assert_int_equal(found.ceiling_n, n);
		state_file_close(&file);
	}
}

static void test_state_file_torn_slot_leaves_the_other(void **state)
{
	/* Writes 1 and 3 are in the first slot, 2 in the second; every byte counts, zeros too. */
	for (off_t at = 0; at < SLOT; at += 97) {
		(void)setup(NULL);
		write_times(3);
		damage(at);
		assert_int_equal(open_it(), STATE_LOADED);
		assert_int_equal(found.ceiling_n, 2);
		/* The next write must spare the slot that is left. */
		struct state s = sample;
		s.ceiling_n = 9;
		assert_int_equal(state_file_write(&file, &s), 0);
		state_file_close(&file);
		damage(0);
		assert_int_equal(open_it(), STATE_LOADED);
		assert_int_equal(found.ceiling_n, 2);
		state_file_close(&file);
	}
	(void)setup(NULL);
	write_times(2);
	assert_int_equal(truncate(path, SECOND_SLOT + SLOT / 2), 0);
	assert_int_equal(open_it(), STATE_LOADED);
	assert_int_equal(found.ceiling_n, 1);
	state_file_close(&file);
}

static void assert_both_bad(void)
{
	assert_int_equal(open_it(), -EBADMSG);
	assert_non_null(strstr(why, "both copies of the state are damaged"));
	assert_non_null(strstr(why, path));
	assert_int_equal(file.fd, -1);
}

static void test_state_file_both_damaged_is_refused(void **state)
{
	write_times(2);
	damage(100);
	damage(SECOND_SLOT + 100);
	assert_both_bad();
	(void)setup(NULL);
	write_times(1);
	damage(8 + SLOT / 2);
	assert_both_bad();
	(void)setup(NULL);
	write_times(1);
	assert_int_equal(truncate(path, 10), 0);
	assert_both_bad();
}

static void test_state_file_second_process_is_refused(void **state)
{
	assert_int_equal(open_it(), STATE_FRESH);
	struct state_file other;
	assert_int_equal(state_file_open(&other, dir, 2, &found, why, sizeof why), -EBUSY);
	assert_non_null(strstr(why, "is in use"));
	/* Another node of the same machine may share the directory. */
	assert_int_equal(state_file_open(&other, dir, 3, &found, why, sizeof why), STATE_FRESH);
	state_file_close(&other);
	state_file_close(&file);
	assert_int_equal(open_it(), STATE_FRESH);
	state_file_close(&file);
	char third[128];
	(void)snprintf(third, sizeof third, "%s/node-3.state", dir);
	(void)unlink(third);
}

static void test_state_file_unusable_directory_names_both_ways_out(void **state)
{
	assert_int_equal(
		state_file_open(&file, "/proc/nowhere/deep", 2, &found, why, sizeof why), -ENOENT);
	assert_non_null(strstr(why, "--state-dir"));
	assert_non_null(strstr(why, "--ephemeral"));
	assert_int_equal(state_file_open(&file, "/dev/null", 2, &found, why, sizeof why), -ENOTDIR);
	assert_non_null(strstr(why, "--ephemeral"));
	static char deep[600];
	memset(deep, 'x', sizeof deep - 1);
	assert_int_equal(state_file_open(&file, deep, 2, &found, why, sizeof why), -ENAMETOOLONG);
}

static void test_state_file_failed_write_changes_nothing(void **state)
{
	write_times(1);
	assert_int_equal(open_it(), STATE_LOADED);
	int writable = file.fd;
	file.fd = open(path, O_RDONLY);
	struct state s = sample;
	s.ceiling_n = 7;
	assert_int_equal(state_file_write(&file, &s), -EBADF);
	assert_int_equal(close(file.fd), 0);
	file.fd = writable;
	assert_int_equal(state_file_write(&file, &s), 0);
	state_file_close(&file);
	assert_int_equal(open_it(), STATE_LOADED);
	assert_int_equal(found.ceiling_n, 7);
	state_file_close(&file);
}

static void assert_differs(const struct state *other, const char *part)
{
	assert_int_equal(state_check(&sample, other, "F", why, sizeof why), -EINVAL);
	if (strstr(why, part) == NULL)
		fail_msg("\"%s\" lacks \"%s\"", why, part);
}

static void test_state_file_other_configuration_is_refused(void **state)
{
	struct state s = sample;
	s.ceiling_n = 5;
	assert_int_equal(state_check(&sample, &s, "F", why, sizeof why), 0);
	s = sample;
	(void)snprintf(s.cluster, sizeof s.cluster, "other");
	assert_differs(&s, "F belongs to cluster \"other\", this start is for \"orders\"");
	s = sample;
	s.node = 3;
	assert_differs(&s, "F belongs to node 3, this start is for node 2");
	s = sample;
	s.reg.committed.masters[2].id = 4;
	assert_differs(&s, "other --masters");
	s = sample;
	s.reg.committed.n_masters = 1;
	assert_differs(&s, "other --masters (1 of them, this start has 3,");
	s = sample;
	(void)strcpy(s.reg.committed.masters[2].addr, "c:4"); /* it has moved */
	assert_int_equal(state_check(&sample, &s, "F", why, sizeof why), 0);
	s = sample;
	s.reg.committed.slots = 65;
	assert_differs(&s, "--slots 65, this start has 64");
	s = sample;
	s.reg.committed.max_lease_ms = 1;
	assert_differs(&s, "--max-lease 1, this start has 60000");
	s = sample;
	s.reg.committed.attempt_ms = 1;
	assert_differs(&s, "--attempt-time 1,");
	s = sample;
	s.reg.committed.drift_ppm = 1;
	assert_differs(&s, "--drift-ppm 1,");
}

static void assert_agrees(const struct state *want, const struct state *other)
{
	if (state_check(want, other, "F", why, sizeof why) != 0)
		fail_msg("%s", why);
}

/* The flags count where they were given, and the masters until the first change of them. */
static void test_state_file_what_was_not_said_is_not_compared(void **state)
{
	(void)state;
	struct state want = sample, s = sample;
	want.reg = (struct members_register){0};
	assert_agrees(&want, &s);
	want.reg.committed.slots = 65;
	assert_int_equal(state_check(&want, &s, "F", why, sizeof why), -EINVAL);
	assert_int_equal(membership_remove(&s.reg.committed, 3), 0);
	assert_agrees(&sample, &s);
	s.reg.committed.slots = 65;
	assert_differs(&s, "--slots 65, this start has 64");
	s = sample;
	s.reg = (struct members_register){0};
	assert_agrees(&sample, &s);
	s = sample;
	s.reg.promised = (struct change_ballot){5, 1};
	assert_agrees(&sample, &s);
}

/* Removed or replaced while it is in use: nobody would find what is written. */
static void test_state_file_that_is_gone_is_not_written(void **state)
{
	(void)state;
	assert_int_equal(open_it(), STATE_FRESH);
	assert_int_equal(state_file_write(&file, &sample), 0);
	assert_int_equal(unlink(path), 0);
	assert_int_equal(state_file_write(&file, &sample), -ENOENT);
	state_file_close(&file);
}

static void test_state_file_undone_is_fresh(void **state)
{
	(void)state;
	assert_int_equal(open_it(), STATE_FRESH);
	assert_int_equal(state_file_write(&file, &sample), 0);
	state_file_undo(&file);
	state_file_close(&file);
	assert_int_equal(open_it(), STATE_FRESH);
	state_file_close(&file);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(test_state_file_round_trip, setup),
		cmocka_unit_test_setup(test_state_file_extremes_round_trip, setup),
		cmocka_unit_test_setup(test_state_file_votes_round_trip, setup),
		cmocka_unit_test_setup(test_state_file_good_order_is_told_once, setup),
		cmocka_unit_test_setup(test_state_file_contents_are_checked, setup),
		cmocka_unit_test_setup(test_state_file_of_any_contents_is_survived, setup),
		cmocka_unit_test_setup(test_state_file_of_another_format_is_refused, setup),
		cmocka_unit_test_setup(test_state_file_empty_is_fresh_again, setup),
		cmocka_unit_test_setup(test_state_file_newest_wins, setup),
		cmocka_unit_test_setup(test_state_file_writes_go_on_after_reopening, setup),
		cmocka_unit_test_setup(test_state_file_torn_slot_leaves_the_other, setup),
		cmocka_unit_test_setup(test_state_file_both_damaged_is_refused, setup),
		cmocka_unit_test_setup(test_state_file_second_process_is_refused, setup),
		cmocka_unit_test_setup(
			test_state_file_unusable_directory_names_both_ways_out, setup),
		cmocka_unit_test_setup(test_state_file_failed_write_changes_nothing, setup),
		cmocka_unit_test_setup(test_state_file_that_is_gone_is_not_written, setup),
		cmocka_unit_test_setup(test_state_file_undone_is_fresh, setup),
		cmocka_unit_test_setup(test_state_file_other_configuration_is_refused, setup),
		cmocka_unit_test_setup(test_state_file_what_was_not_said_is_not_compared, setup),
	};
	if (mkdtemp(root) == NULL)
		return 1;
	int failed = cmocka_run_group_tests_name("state_file", tests, NULL, NULL);
	(void)setup(NULL);
	(void)rmdir(root);
	return failed;
}
