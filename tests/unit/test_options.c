#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "node/config.h"
#include "node/options.h"

enum { ARGV_MAX = 24 };

static char why[1024];
static struct config cfg;

/* Load from words separated by blanks. */
static int load(const char *words)
{
	static char line[8192];
	char *argv[ARGV_MAX] = {"lockerd"};
	int argc = 1;
	(void)snprintf(line, sizeof line, "%s", words);
	char *save = NULL;
	for (char *w = strtok_r(line, " ", &save); w != NULL; w = strtok_r(NULL, " ", &save)) {
		assert_true(argc < ARGV_MAX);
		argv[argc++] = w;
	}
	why[0] = '\0';
	memset(&cfg, 0, sizeof cfg);
	return config_load(&cfg, argc, argv, why, sizeof why);
}

static void assert_refused(const char *words, const char *part)
{
	assert_int_equal(load(words), -EINVAL);
	if (strstr(why, part) == NULL)
		fail_msg("\"%s\" says \"%s\", which lacks \"%s\"", words, why, part);
}

static char file_path[] = "/tmp/test_options.XXXXXX";

static int load_file(const char *text, const char *flags)
{
	FILE *f = fopen(file_path, "w");
	assert_non_null(f);
	assert_true(fputs(text, f) >= 0);
	assert_int_equal(fclose(f), 0);
	char words[1024];
	(void)snprintf(words, sizeof words, "--config %s %s", file_path, flags);
	return load(words);
}

static void assert_file_refused(const char *text, const char *part)
{
	assert_int_equal(load_file(text, ""), -EINVAL);
	if (strstr(why, part) == NULL)
		fail_msg("file \"%s\" says \"%s\", which lacks \"%s\"", text, why, part);
}

static void test_options_defaults(void **state)
{
	assert_int_equal(load(""), 0);
	assert_int_equal(cfg.id, 1);
	assert_string_equal(cfg.cluster, "locker");
	assert_string_equal(cfg.listen, "127.0.0.1:7401");
	assert_string_equal(cfg.peer_listen, "127.0.0.1:7501");
	assert_string_equal(cfg.peer_advertise, "");
	assert_string_equal(cfg.join, "");
	assert_int_equal(cfg.n_masters, 0);
	assert_int_equal(cfg.replica_interval_ms, 5);
	assert_int_equal(cfg.replica_batch_bytes, 7424);
	assert_int_equal(cfg.slots, 64);
	assert_in_range(cfg.threads, 1, THREADS_MAX);
	assert_int_equal(cfg.pin, PIN_AUTO);
	assert_true(cfg.pin_cpus.n >= 1);
	assert_int_equal(cfg.max_lease_ms, 60000);
	assert_int_equal(cfg.attempt_ms, 1000);
	assert_int_equal(cfg.op_timeout_ms, 2000);
	assert_int_equal(cfg.drift_ppm, 1000);
	assert_int_equal(cfg.max_leases, 4000000);
	assert_int_equal(cfg.max_clients, 10000);
	assert_int_equal(cfg.input_limit_bytes, 64 << 10);
	assert_int_equal(cfg.output_limit_bytes, 8 << 20);
	assert_string_equal(cfg.redlock_idempotent, "");
	assert_string_equal(cfg.state_dir, "/var/lib/locker");
	assert_false(cfg.new_cluster);
	assert_false(cfg.ephemeral);
	assert_int_equal(cfg.log_level, LOG_INFO);
}

static void test_options_both_flag_forms(void **state)
{
	assert_int_equal(
		load("--slots=128 --threads 2 --ephemeral --cluster=a.b-c --log-level debug"), 0);
	assert_int_equal(cfg.slots, 128);
	assert_int_equal(cfg.threads, 2);
	assert_true(cfg.ephemeral);
	assert_string_equal(cfg.cluster, "a.b-c");
	assert_int_equal(cfg.log_level, LOG_DEBUG);
	assert_int_equal(load("--ephemeral=no --new-cluster=yes"), 0);
	assert_false(cfg.ephemeral);
	assert_true(cfg.new_cluster);
	assert_refused("--ephemeral=perhaps", "--ephemeral perhaps: is a switch");
	assert_refused("--slots", "--slots needs a value: --slots N");
	assert_refused("slots 3", "options look like --name value");
	assert_refused("--", "options look like --name value");
}

static void test_options_redlock_prefixes(void **state)
{
	assert_int_equal(load("--redlock-idempotent dlm:,redlock/"), 0);
	assert_string_equal(cfg.redlock_idempotent, "dlm:,redlock/");
	assert_int_equal(load_file("redlock-idempotent *\n", ""), 0);
	assert_string_equal(cfg.redlock_idempotent, "*");
	assert_refused("--redlock-idempotent=", "none of them empty");
	assert_refused("--redlock-idempotent ,a", "none of them empty");
	assert_refused("--redlock-idempotent a,", "none of them empty");
	assert_refused("--redlock-idempotent a,,b", "none of them empty");
}

static void test_options_numbers_have_bounds(void **state)
{
	assert_int_equal(load("--slots 1 --threads 1"), 0);
	assert_int_equal(load("--slots 4096"), 0);
	assert_refused("--slots 0", "--slots 0: must be between 1 and 4096");
	assert_refused("--slots 4097", "must be between 1 and 4096");
	assert_refused("--slots -1", "is not a number");
	assert_refused("--slots 1x", "is not a number");
	assert_refused("--slots=", "is not a number");
	assert_refused("--slots 18446744073709551617", "must be between 1 and 4096");
	assert_refused("--id 256", "must be between 1 and 255");
	assert_refused("--threads 65", "must be between 1 and 64");
	assert_refused("--threads 8 --slots 4", "must not be more than --slots 4");
}

static void test_options_times_take_units(void **state)
{
	assert_int_equal(load("--max-lease 1500 --attempt-time 250ms --op-timeout 3s"), 0);
	assert_int_equal(cfg.max_lease_ms, 1500);
	assert_int_equal(cfg.attempt_ms, 250);
	assert_int_equal(cfg.op_timeout_ms, 3000);
	assert_int_not_equal(load("--attempt-time 1500 --op-timeout 2999"), 0);
	assert_int_equal(load("--attempt-time 250"), 0);
	assert_int_equal(cfg.op_timeout_ms, 500);
	assert_refused("--max-lease 0", "must be between 1 and 86400000 ms");
	assert_refused("--max-lease 86401s", "must be between 1 and 86400000 ms");
	assert_refused("--max-lease 5m", "is not a number");
	assert_refused("--max-lease 18446744073709551615s", "must be between");
}

static void test_options_bytes_take_units(void **state)
{
	assert_int_equal(load("--input-limit 32k --output-limit 1GiB"), 0);
	assert_int_equal(cfg.input_limit_bytes, 32768);
	assert_int_equal(cfg.output_limit_bytes, 1 << 30);
	assert_refused("--input-limit 1", "must be between 16384 and");
	assert_refused("--input-limit 1T", "is not a number");
}

static void test_options_addresses_default_to_this_machine(void **state)
{
	assert_int_equal(load("--listen 6000 --peer-listen :6001"), 0);
	assert_string_equal(cfg.listen, "127.0.0.1:6000");
	assert_string_equal(cfg.peer_listen, "127.0.0.1:6001");
	assert_int_equal(load("--listen [::1]:0"), 0);
	assert_string_equal(cfg.listen, "[::1]:0");
	assert_refused("--listen host", "is not HOST:PORT");
	assert_refused("--listen host:99999", "port must be between 0 and 65535");
	assert_refused("--listen ::1:80", "write an IPv6 address as [ADDRESS]:PORT");
}

static void test_options_masters(void **state)
{
	assert_int_equal(load("--id 2 --masters 3=c:3,1=a:1,2=b:2"), 0);
	assert_int_equal(cfg.n_masters, 3);
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(cfg.masters[i].id, i + 1);
	assert_string_equal(cfg.masters[2].addr, "c:3");
	assert_string_equal(cfg.peer_listen, "b:2");
	assert_string_equal(cfg.peer_advertise, "b:2");
	assert_int_equal(load("--id 9 --masters 1=a:1"), 0);
	assert_string_equal(cfg.peer_listen, "127.0.0.1:7501");
	assert_string_equal(cfg.peer_advertise, "");
	assert_int_equal(load("--id 1 --masters 1=a:1 --peer-listen 0.0.0.0:5"), 0);
	assert_string_equal(cfg.peer_listen, "0.0.0.0:5");
	assert_string_equal(cfg.peer_advertise, "a:1");
	assert_string_equal(cfg.masters[0].addr, "a:1");
	assert_int_equal(load("--id 1 --masters 1=a:1 --peer-advertise b:2"), 0);
	assert_string_equal(cfg.peer_listen, "a:1");
	assert_string_equal(cfg.peer_advertise, "b:2");
	assert_refused("--masters 1=a:1", "--masters needs --id");
	assert_refused("--id 1 --masters 1=a:1,1=b:2", "is there twice");
	assert_refused("--id 1 --masters 1=a:1,2=a:1", "is there twice");
	assert_refused("--id 1 --masters 1=a:1,", "is not ID=HOST:PORT");
	assert_refused("--id 1 --masters 0=a:1", "is not ID=HOST:PORT");
	assert_refused("--id 1 --masters 1=a:0", "port must be between 1");
	assert_refused(
		"--id 1 --masters 1=1:1,2=2:1,3=3:1,4=4:1,5=5:1,6=6:1,7=7:1,8=8:1,9=9:1,10=a:1,"
		"11=b:1,12=c:1,13=d:1,14=e:1,15=f:1,16=g:1",
		"more than 15 masters");
}

static void test_options_join(void **state)
{
	assert_int_equal(load("--id 4 --join a:1"), 0);
	assert_string_equal(cfg.join, "a:1");
	assert_string_equal(cfg.peer_listen, "127.0.0.1:7501");
	assert_refused("--join a:1", "--join needs --id");
	assert_refused("--id 4 --join a:0", "port must be between 1");
	assert_refused("--id 4 --join a:1 --masters 1=a:1", "--masters is for one that is new");
	assert_refused("--id 4 --join a:1 --new-cluster", "--new-cluster is for one that is new");
	assert_refused("--peer-advertise 0.0.0.0:7", "nobody can dial that");
	assert_refused("--peer-advertise [::]:7", "nobody can dial that");
	assert_refused("--peer-advertise a:0", "port must be between 1");
	char words[512];
	(void)snprintf(
		words, sizeof words, "--peer-advertise %0*d:1", MEMBER_ADDR_MAX_BYTES - 1, 1);
	assert_refused(words, "is longer than 95 characters");
	(void)snprintf(
		words, sizeof words, "--peer-advertise %0*d:1", MEMBER_ADDR_MAX_BYTES - 2, 1);
	assert_int_equal(load(words), 0);
	assert_refused("--peer-listen a\x7f:1", "is not HOST:PORT");
}

static void test_options_replica_bounds(void **state)
{
	assert_int_equal(load("--replica-interval 1s --replica-batch 256"), 0);
	assert_int_equal(cfg.replica_interval_ms, 1000);
	assert_int_equal(cfg.replica_batch_bytes, 256);
	assert_refused("--replica-interval 0", "must be between 1 and 1000 ms");
	assert_refused("--replica-interval 1001", "must be between 1 and 1000 ms");
	assert_refused("--replica-batch 255", "must be between 256 and 7424 bytes");
	assert_refused("--replica-batch 7425", "must be between 256 and 7424 bytes");
}

static void test_options_first_configuration(void **state)
{
	struct membership m;
	assert_int_equal(load("--id 2 --masters 3=c:3,2=b:2 --slots 32 --max-lease 2s "
			      "--attempt-time 100 --drift-ppm 7"),
		0);
	config_first(&cfg, "ignored:1", &m);
	const struct membership want = {.epoch = 1,
		.masters_epoch = 1,
		.n_masters = 2,
		.masters = {{2, "b:2"}, {3, "c:3"}},
		.slots = 32,
		.max_lease_ms = 2000,
		.attempt_ms = 100,
		.drift_ppm = 7};
	assert_memory_equal(&m, &want, sizeof m);
	assert_int_equal(load("--id 9"), 0);
	config_first(&cfg, "here:1", &m);
	assert_int_equal(m.n_masters, 1);
	assert_int_equal(m.masters[0].id, 9);
	assert_string_equal(m.masters[0].addr, "here:1");
}

static const struct membership force = {
	.epoch = 5, .slots = 8, .max_lease_ms = 3000, .attempt_ms = 200, .drift_ppm = 500};

static void assert_disagrees(const char *words, const char *sentence)
{
	assert_int_equal(load(words), 0);
	assert_int_equal(config_adopt(&cfg, &force, "the cluster", why, sizeof why), -EINVAL);
	assert_string_equal(why, sentence);
}

/* What was not said is taken from the configuration; what was said has to agree. */
static void test_options_constants_of_the_configuration_in_force(void **state)
{
	assert_int_equal(load("--threads 1"), 0);
	assert_int_equal(config_adopt(&cfg, &force, "the cluster", why, sizeof why), 0);
	assert_int_equal(cfg.slots, 8);
	assert_int_equal(cfg.max_lease_ms, 3000);
	assert_int_equal(cfg.attempt_ms, 200);
	assert_int_equal(cfg.drift_ppm, 500);
	assert_int_equal(cfg.op_timeout_ms, 400);
	assert_int_equal(load("--slots 8 --max-lease 3s --attempt-time 200 --drift-ppm 500"), 0);
	assert_int_equal(config_adopt(&cfg, &force, "the cluster", why, sizeof why), 0);
	assert_in_range(cfg.threads, 1, 8);
	assert_int_equal(load_file("slots 9\n", ""), 0);
	assert_int_equal(config_adopt(&cfg, &force, "the cluster", why, sizeof why), -EINVAL);
	assert_disagrees(
		"--slots 64", "--slots 64: the cluster has 8; say the same or leave it out");
	assert_disagrees("--max-lease 60000",
		"--max-lease 60000: the cluster has 3000; say the same or leave it out");
	assert_disagrees("--attempt-time 1000",
		"--attempt-time 1000: the cluster has 200; say the same or leave it out");
	assert_disagrees("--drift-ppm 0",
		"--drift-ppm 0: the cluster has 500; say the same or leave it out");
}

/* Bounds that hang on a constant are judged when it is known. */
static void test_options_bounds_of_the_configuration_in_force(void **state)
{
	assert_int_equal(load("--op-timeout 500"), 0);
	assert_int_equal(config_adopt(&cfg, &force, "the cluster", why, sizeof why), 0);
	assert_int_equal(cfg.op_timeout_ms, 500);
	assert_disagrees("--op-timeout 399", "--op-timeout 399 ms is below twice --attempt-time "
					     "200 ms: raise it to 400 or more");
	assert_disagrees("--threads 9",
		"--threads 9: must not be more than --slots 8, which are shared out among them");
}

static void test_options_pin(void **state)
{
	assert_int_equal(load("--pin off"), 0);
	assert_int_equal(cfg.pin, PIN_OFF);
	assert_int_equal(load("--pin auto"), 0);
	unsigned first = cfg.pin_cpus.v[0];
	char words[64];
	(void)snprintf(words, sizeof words, "--threads 1 --pin %u-%u", first, first);
	assert_int_equal(load(words), 0);
	assert_int_equal(cfg.pin, PIN_LIST);
	assert_int_equal(cfg.pin_cpus.n, 1);
	assert_int_equal(cfg.pin_cpus.v[0], first);
	(void)snprintf(words, sizeof words, "--threads 2 --pin %u", first);
	assert_refused(words, "--pin names 1 CPUs, --threads is 2");
	assert_refused("--threads 1 --pin 1023", "CPU 1023 is not there");
	assert_refused("--pin 4-2", "is auto, off, or CPUs");
	assert_refused("--pin 1,", "is auto, off, or CPUs");
	assert_refused("--pin 1024", "is auto, off, or CPUs");
}

static void test_options_texts(void **state)
{
	char words[1024];
	(void)snprintf(words, sizeof words, "--cluster %063d", 1);
	assert_int_equal(load(words), 0);
	(void)snprintf(words, sizeof words, "--cluster %064d", 1);
	assert_refused(words, "must have 1 to 63 characters");
	assert_refused("--cluster a/b", "letters, digits");
	assert_refused("--cluster=", "must have 1 to 63 characters");
	assert_refused("--log-level loud", "is one of error, warn, info, debug");
}

static void test_options_unknown_suggests(void **state)
{
	assert_refused("--slot 3", "unknown option --slot; did you mean --slots?");
	assert_refused("--theards=3", "did you mean --threads?");
	assert_refused("--ephemral", "did you mean --ephemeral?");
	assert_refused("--xyzzyxyzzy", "unknown option --xyzzyxyzzy; --help lists them");
	assert_refused("--aaaaaaaaaabbbbbbbbbbccccccccccddddddddddeeeeeeeeee=1", "unknown option");
}

static void test_options_file_forms(void **state)
{
	int r = load_file("# a comment\n\nid 2\n slots = 32 # why\nlisten=:6000\nephemeral\r\n"
			  "new-cluster = no\nmasters 1=a:1,2=b:2\nmax-lease\t2s",
		"");
	if (r != 0)
		fail_msg("%s", why);
	assert_int_equal(cfg.id, 2);
	assert_int_equal(cfg.slots, 32);
	assert_string_equal(cfg.listen, "127.0.0.1:6000");
	assert_true(cfg.ephemeral);
	assert_false(cfg.new_cluster);
	assert_int_equal(cfg.n_masters, 2);
	assert_int_equal(cfg.max_lease_ms, 2000);
}

static void test_options_flags_win_over_file(void **state)
{
	assert_int_equal(load_file("slots 32\nthreads 1\nephemeral yes\nid 1\nmasters 1=a:1,2=b:2",
				 "--slots 16 --ephemeral=no --masters 1=c:3"),
		0);
	assert_int_equal(cfg.slots, 16);
	assert_int_equal(cfg.threads, 1);
	assert_false(cfg.ephemeral);
	assert_int_equal(cfg.n_masters, 1);
	assert_string_equal(cfg.masters[0].addr, "c:3");
}

static void test_options_file_errors_name_the_line(void **state)
{
	assert_file_refused(
		"slots 1\n\nslotz 2\n", ":3: unknown option slotz; did you mean slots?");
	assert_file_refused("slots 0\n", ":1: slots 0: must be between 1 and 4096");
	assert_file_refused("slots 1\nslots 2\n", ":2: slots was given in line 1 already");
	assert_file_refused("slots\n", ":1: slots needs a value");
	assert_file_refused("slots =\n", ":1: slots needs a value");
	assert_file_refused("= 3\n", ":1: unknown option");
	assert_file_refused("config x\n", "works on the command line only");
	assert_file_refused("\nmasters 1=a:1,1=b:1\n", ":2: masters");
	char text[6000];
	memset(text, 'x', sizeof text - 1);
	text[sizeof text - 1] = '\0';
	assert_file_refused(text, ":1: the line is longer than");
	assert_int_equal(load("--config /nonexistent/lockerd.conf"), -ENOENT);
	assert_non_null(strstr(why, "--config /nonexistent/lockerd.conf: No such file"));
	assert_int_equal(load("--config /"), -EISDIR);
}

static void test_options_bad_file_value_is_not_hidden_by_a_flag(void **state)
{
	assert_int_equal(load_file("slots 0\n", "--slots 3"), -EINVAL);
}

static void test_options_help_wins_and_fits(void **state)
{
	assert_int_equal(load("--help"), 0);
	assert_true(cfg.help);
	assert_int_equal(load("--version --config /nonexistent"), 0);
	assert_true(cfg.version);
	char *text = NULL;
	size_t bytes = 0;
	FILE *f = open_memstream(&text, &bytes);
	assert_non_null(f);
	config_help(f);
	assert_int_equal(fclose(f), 0);
	unsigned lines = 0;
	for (char *p = text, *end = NULL; (end = strchr(p, '\n')) != NULL; p = end + 1) {
		lines++;
		if (end - p > 100)
			fail_msg("too wide: %.*s", (int)(end - p), p);
	}
	assert_in_range(lines, 20, 48);
	static const char *const names[] = {"id", "listen", "peer-listen", "cluster", "masters",
		"slots", "threads", "pin", "spin-us", "max-lease", "max-leases", "op-timeout",
		"state-dir", "new-cluster", "ephemeral", "config", "log-level", "version", "help",
		"attempt-time", "drift-ppm", "max-clients", "output-limit", "input-limit", "join",
		"peer-advertise", "replica-interval", "replica-batch", "redlock-idempotent"};
	for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
		char flag[40];
		(void)snprintf(flag, sizeof flag, "  --%s ", names[i]);
		if (strstr(text, flag) == NULL)
			fail_msg("--help lacks %s", flag);
	}
	free(text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_options_defaults),
		cmocka_unit_test(test_options_both_flag_forms),
		cmocka_unit_test(test_options_redlock_prefixes),
		cmocka_unit_test(test_options_numbers_have_bounds),
		cmocka_unit_test(test_options_times_take_units),
		cmocka_unit_test(test_options_bytes_take_units),
		cmocka_unit_test(test_options_addresses_default_to_this_machine),
		cmocka_unit_test(test_options_masters),
		cmocka_unit_test(test_options_join),
		cmocka_unit_test(test_options_replica_bounds),
		cmocka_unit_test(test_options_first_configuration),
		cmocka_unit_test(test_options_constants_of_the_configuration_in_force),
		cmocka_unit_test(test_options_bounds_of_the_configuration_in_force),
		cmocka_unit_test(test_options_pin),
		cmocka_unit_test(test_options_texts),
		cmocka_unit_test(test_options_unknown_suggests),
		cmocka_unit_test(test_options_file_forms),
		cmocka_unit_test(test_options_flags_win_over_file),
		cmocka_unit_test(test_options_file_errors_name_the_line),
		cmocka_unit_test(test_options_bad_file_value_is_not_hidden_by_a_flag),
		cmocka_unit_test(test_options_help_wins_and_fits),
	};
	int fd = mkstemp(file_path);
	if (fd < 0)
		return 1;
	(void)close(fd);
	int failed = cmocka_run_group_tests_name("options", tests, NULL, NULL);
	(void)unlink(file_path);
	return failed;
}
