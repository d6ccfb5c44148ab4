/* Addresses, and what is said when io_uring is not to be had. */
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "io_world.h"

/* ---- addresses ---- */

static void test_io_listen_names_a_port_in_use(void **state)
{
	(void)state;
	/* Somebody else, who would share. */
	int other = socket(AF_INET, SOCK_STREAM, 0);
	int one = 1;
	struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	assert_int_equal(setsockopt(other, SOL_SOCKET, SO_REUSEPORT, &one, sizeof one), 0);
	assert_int_equal(bind(other, (struct sockaddr *)&in, sizeof in), 0);
	assert_int_equal(listen(other, 1), 0);
	char addr[64], why[256];
	io_local_address(other, addr, sizeof addr);
	for (int reuse = 0; reuse < 2; reuse++) {
		int fd = -1;
		why[0] = '\0';
		assert_int_equal(io_listen(addr, reuse == 1, &fd, why, sizeof why), -EADDRINUSE);
		assert_int_equal(fd, -1);
		assert_non_null(strstr(why, addr));
		assert_non_null(strstr(why, "in use"));
	}
	(void)close(other);
}

static void test_io_listen_lets_threads_share_a_port(void **state)
{
	(void)state;
	char addr[64], why[256];
	int a, b, c;
	/* A port that was free a moment ago. */
	assert_int_equal(io_listen("127.0.0.1:0", false, &a, why, sizeof why), 0);
	io_local_address(a, addr, sizeof addr);
	(void)close(a);
	assert_int_equal(io_listen(addr, true, &a, why, sizeof why), 0);
	assert_int_equal(io_listen(addr, true, &b, why, sizeof why), 0);
	assert_int_equal(io_listen(addr, false, &c, why, sizeof why), -EADDRINUSE);
	(void)close(a);
	(void)close(b);
}

static void test_io_listen_refuses_bad_addresses(void **state)
{
	static const struct {
		const char *address;
		int err;
	} bad[] = {
		{"", -EINVAL}, {"nonsense", -EINVAL}, {"127.0.0.1", -EINVAL},
		{"127.0.0.1:", -EINVAL}, {"127.0.0.1:65536", -EINVAL},
		{"127.0.0.1:99999999999", -EINVAL}, {"127.0.0.1:-1", -EINVAL},
		{"127.0.0.1:7x", -EINVAL}, {"::1:80", -EINVAL}, {"[::1:80", -EINVAL},
		{"[]:80", -EINVAL}, {"no such host:80", -ENOENT},
		{"192.0.2.1:80", -EADDRNOTAVAIL}, /* RFC 5737: nobody's */
	};
	(void)state;
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		int fd = -1;
		char why[256] = "";
		int err = io_listen(bad[i].address, true, &fd, why, sizeof why);
		if (err != bad[i].err)
			fail_msg("%s: %d (%s)", bad[i].address, err, why);
		assert_int_equal(fd, -1);
		assert_non_null(strstr(why, bad[i].address));
	}
	char host[400];
	memset(host, 'h', sizeof host);
	(void)snprintf(host + 300, sizeof host - 300, ":1");
	int fd;
	char why[256];
	assert_int_equal(io_connect(host, &fd, why, sizeof why), -EINVAL);
}

static void test_io_listen_knows_names_and_ipv6(void **state)
{
	static const char *const good[] = {"localhost:0", ":0", "[::1]:0"};
	(void)state;
	int probe = socket(AF_INET6, SOCK_STREAM, 0);
	struct sockaddr_in6 in6 = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
	bool ipv6 = probe >= 0 && bind(probe, (struct sockaddr *)&in6, sizeof in6) == 0;
	if (probe >= 0)
		(void)close(probe);
	for (size_t i = 0; i < sizeof good / sizeof good[0] - (ipv6 ? 0 : 1); i++) {
		int fd;
		char why[256] = "", addr[64];
		if (io_listen(good[i], true, &fd, why, sizeof why) != 0)
			fail_msg("%s", why);
		io_local_address(fd, addr, sizeof addr);
		const char *colon = strrchr(addr, ':');
		assert_non_null(colon);
		assert_true(atoi(colon + 1) > 0);
		(void)close(fd);
	}
}

/* ---- what is said when io_uring is not to be had; in a child that gives it up ---- */

static int deny_io_uring(unsigned answer)
{
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | answer),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	const struct sock_fprog program = {
		.len = sizeof filter / sizeof filter[0], .filter = filter};
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
		return -1;
	return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}

static int give_up_locked_memory(unsigned unused)
{
	(void)unused;
	const struct rlimit none = {0};
	const uid_t nobody = 65534;
	if (setrlimit(RLIMIT_MEMLOCK, &none) != 0)
		return -1;
	/* Root's memory is not counted. */
	return geteuid() == 0 ? setresuid(nobody, nobody, nobody) : 0;
}

/* 0: as expected, EXIT_SKIP: not possible here, else wrong. */
static int probe_in_child(int (*give_up)(unsigned), unsigned arg, int want, const char *text)
{
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		char why[256] = "";
		if (give_up(arg) != 0)
			_exit(EXIT_SKIP);
		int err = io_probe(why, sizeof why);
		if (err == 0)
			_exit(EXIT_SKIP);
		_exit(err == want && strstr(why, text) != NULL ? 0 : 1);
	}
	int status = 0;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

static void check_child(int (*give_up)(unsigned), unsigned arg, int want, const char *text)
{
	int code = probe_in_child(give_up, arg, want, text);
	if (code == EXIT_SKIP) {
		print_message("skipped: this system does not let us give it up\n");
		skip();
	}
	assert_int_equal(code, 0);
}

static void test_io_probe_names_seccomp_on_eperm(void **state)
{
	(void)state;
	check_child(deny_io_uring, EPERM, -EPERM, "425");
}

static void test_io_probe_names_the_kernel_on_enosys(void **state)
{
	(void)state;
	check_child(deny_io_uring, ENOSYS, -ENOSYS, "Linux 6.1");
}

static void test_io_probe_steps_down_and_gives_up_on_einval(void **state)
{
	(void)state;
	check_child(deny_io_uring, EINVAL, -EINVAL, "too old");
}

static void test_io_probe_names_the_limit_on_emfile(void **state)
{
	(void)state;
	check_child(deny_io_uring, EMFILE, -EMFILE, "RLIMIT_NOFILE");
}

static void test_io_probe_names_the_limit_on_enomem(void **state)
{
	(void)state;
	check_child(give_up_locked_memory, 0, -ENOMEM, "RLIMIT_MEMLOCK is 0 KiB");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_io_listen_names_a_port_in_use),
		cmocka_unit_test(test_io_listen_lets_threads_share_a_port),
		cmocka_unit_test(test_io_listen_refuses_bad_addresses),
		cmocka_unit_test(test_io_listen_knows_names_and_ipv6),
		cmocka_unit_test(test_io_probe_names_seccomp_on_eperm),
		cmocka_unit_test(test_io_probe_names_the_kernel_on_enosys),
		cmocka_unit_test(test_io_probe_steps_down_and_gives_up_on_einval),
		cmocka_unit_test(test_io_probe_names_the_limit_on_emfile),
		cmocka_unit_test(test_io_probe_names_the_limit_on_enomem),
	};
	if (!has_io_uring())
		return EXIT_SKIP;
	return cmocka_run_group_tests_name("io_setup", tests, NULL, NULL);
}
