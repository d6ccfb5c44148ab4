#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "base/log.h"

static int ends[2];
static int old_stderr;

static int capture(void **state)
{
	(void)fflush(stderr);
	old_stderr = dup(STDERR_FILENO);
	if (old_stderr < 0 || pipe(ends) != 0)
		return -1;
	return dup2(ends[1], STDERR_FILENO) < 0 ? -1 : 0;
}

static int restore(void **state)
{
	(void)dup2(old_stderr, STDERR_FILENO);
	(void)close(old_stderr);
	(void)close(ends[0]);
	(void)close(ends[1]);
	return 0;
}

/* What was logged so far, as far as it fits. */
static const char *logged(void)
{
	static char text[4096];
	ssize_t n = read(ends[0], text, sizeof text - 1);
	text[n < 0 ? 0 : n] = '\0';
	return text;
}

static void test_log_shows_no_control_bytes(void **state)
{
	log_warn("peer said \"%s\"", "a\033[2Jb\r\nc\x7f");
	assert_string_equal(logged(), "warn  peer said \"a?[2Jb??c?\"\n");
}

static void test_log_cuts_what_is_too_long(void **state)
{
	char text[3000];
	memset(text, 'x', sizeof text - 1);
	text[sizeof text - 1] = '\0';
	log_warn("%s", text);
	const char *line = logged();
	assert_int_equal(strlen(line), 1023);
	assert_int_equal(line[1022], '\n');
}

/* In blocking mode, as a server inherits it: this test hangs when the log waits for its reader. */
static void test_log_does_not_wait_for_its_reader(void **state)
{
	for (int i = 0; i < 10000; i++)
		log_error("nobody reads this: %d", i);
	char drop[65536];
	assert_int_equal(fcntl(ends[0], F_SETFL, O_NONBLOCK), 0);
	while (read(ends[0], drop, sizeof drop) > 0)
		;
	log_error("read again");
	const char *text = logged();
	assert_non_null(strstr(text, " log lines lost)\nerror read again\n"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_log_shows_no_control_bytes, capture, restore),
		cmocka_unit_test_setup_teardown(test_log_cuts_what_is_too_long, capture, restore),
		cmocka_unit_test_setup_teardown(
			test_log_does_not_wait_for_its_reader, capture, restore),
	};
	return cmocka_run_group_tests_name("log", tests, NULL, NULL);
}
