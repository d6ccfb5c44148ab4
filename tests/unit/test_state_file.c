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
#include "node/state_file.h"

enum { SECOND_SLOT = 4096, SLOT = 512 };

static char root[] = "/tmp/test_state.XXXXXX";
static char dir[64];
static char path[128];
static char why[1024];
static struct state_file file;
static struct state found;

static const struct state sample = {
	.cluster = "orders",
	.node = 2,
	.n_masters = 3,
	.masters = {1, 2, 3},
	.slots = 64,
	.max_lease_ms = 60000,
	.attempt_ms = 1000,
	.drift_ppm = 1000,
	.epoch = 1,
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

static void assert_same(const struct state *a, const struct state *b)
{
	assert_int_equal(state_check(a, b, path, why, sizeof why), 0);
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

static void test_state_file_extremes_round_trip(void **state)
{
	struct state s = sample;
	memset(s.cluster, 'x', CLUSTER_NAME_MAX_BYTES);
	s.n_masters = MASTERS_MAX;
	memset(s.masters, 255, sizeof s.masters);
	s.slots = SLOTS_MAX;
	s.ceiling_n = BALLOT_MAX;
	s.epoch = UINT64_MAX;
	assert_int_equal(open_it(), STATE_FRESH);
	assert_int_equal(state_file_write(&file, &s), 0);
	state_file_close(&file);
	assert_int_equal(open_it(), STATE_LOADED);
	assert_same(&found, &s);
	state_file_close(&file);
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

static void to_version_1(uint8_t *slot)
{
	slot[8] = 1;
	memset(slot + 144, 0, 9);
}

static void to_unknown_flag(uint8_t *slot)
{
	slot[152] = 2;
}

static void to_clean_of_nobody(uint8_t *slot)
{
	memset(slot + 144, 0, 8);
	slot[152] = 1;
}

/* Files of the first version have no incarnation, and told nothing of good order. */
static void test_state_file_of_version_1_is_read(void **state)
{
	write_times(1);
	rewrite(to_version_1);
	assert_int_equal(open_it(), STATE_LOADED);
	assert_true(found.ceiling_n == 1 && found.inc == 0 && !found.clean);
	state_file_close(&file);
}

static void test_state_file_flags_are_checked(void **state)
{
	write_times(1);
	rewrite(to_unknown_flag);
	assert_int_equal(open_it(), -EBADMSG);
	rewrite(to_clean_of_nobody);
	assert_int_equal(open_it(), -EBADMSG);
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
	/* Writes 1 and 3 are in the first slot, 2 in the second; every byte counts. */
	for (off_t at = 0; at < SLOT; at += 7) {
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
	s.masters[2] = 4;
	assert_differs(&s, "other --masters");
	s = sample;
	s.n_masters = 1;
	assert_differs(&s, "other --masters");
	s = sample;
	s.slots = 65;
	assert_differs(&s, "--slots 65, this start has 64");
	s = sample;
	s.max_lease_ms = 1;
	assert_differs(&s, "--max-lease 1, this start has 60000");
	s = sample;
	s.attempt_ms = 1;
	assert_differs(&s, "--attempt-time 1,");
	s = sample;
	s.drift_ppm = 1;
	assert_differs(&s, "--drift-ppm 1,");
	s = sample;
	s.epoch = 2;
	assert_differs(&s, "epoch 2,");
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
		cmocka_unit_test_setup(test_state_file_good_order_is_told_once, setup),
		cmocka_unit_test_setup(test_state_file_of_version_1_is_read, setup),
		cmocka_unit_test_setup(test_state_file_flags_are_checked, setup),
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
	};
	if (mkdtemp(root) == NULL)
		return 1;
	int failed = cmocka_run_group_tests_name("state_file", tests, NULL, NULL);
	(void)setup(NULL);
	(void)rmdir(root);
	return failed;
}
