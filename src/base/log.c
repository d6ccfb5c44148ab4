#include "base/log.h"

#include <poll.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { LINE_MAX_BYTES = 1024 };

static const char *const level_names[] = {"error", "warn", "info", "debug"};

static _Atomic int current_level = LOG_INFO;
static uint64_t (*clock_us)(void);
static char prefix[32];
static _Atomic unsigned lost;

void log_set_clock(uint64_t (*wall_us)(void))
{
	clock_us = wall_us;
}

void log_set_level(enum log_level level)
{
	atomic_store_explicit(&current_level, (int)level, memory_order_relaxed);
}

void log_set_prefix(const char *text)
{
	(void)snprintf(prefix, sizeof prefix, "%s", text);
}

int log_level_parse(const char *name)
{
	for (int i = 0; i <= LOG_DEBUG; i++)
		if (strcmp(name, level_names[i]) == 0)
			return i;
	return -1;
}

static size_t put_time(char *line, size_t size)
{
	if (clock_us == NULL)
		return 0;
	uint64_t now = clock_us();
	time_t seconds = (time_t)(now / 1000000);
	struct tm tm;
	if (gmtime_r(&seconds, &tm) == NULL)
		return 0;
	size_t n = strftime(line, size, "%Y-%m-%dT%H:%M:%S", &tm);
	int more = snprintf(line + n, size - n, ".%03uZ ", (unsigned)(now / 1000 % 1000));
	return more < 0 ? n : n + (size_t)more;
}

void text_make_printable(char *text, size_t bytes)
{
	for (size_t i = 0; i < bytes; i++)
		if ((unsigned char)text[i] < ' ' || text[i] == 0x7f)
			text[i] = '?';
}

void log_at(enum log_level level, const char *format, ...)
{
	if ((int)level > atomic_load_explicit(&current_level, memory_order_relaxed))
		return;
	char line[LINE_MAX_BYTES];
	size_t n = put_time(line, sizeof line);
	int k = snprintf(line + n, sizeof line - n, "%-5s %s%s", level_names[level], prefix,
		prefix[0] == '\0' ? "" : ": ");
	n += k < 0 ? 0 : (size_t)k;
	va_list args;
	va_start(args, format);
	k = vsnprintf(line + n, sizeof line - n - 1, format, args);
	va_end(args);
	size_t text = n;
	if (k > 0)
		n += (size_t)k < sizeof line - n - 1 ? (size_t)k : sizeof line - n - 2;
	text_make_printable(line + text, n - text);
	line[n++] = '\n';
	/* One write per line keeps lines of several threads whole. A reader that has stopped must
	 * not stop us: what does not fit its pipe is lost, and said so when there is room again. */
	struct pollfd out = {.fd = STDERR_FILENO, .events = POLLOUT};
	if (poll(&out, 1, 0) != 1 || (out.revents & POLLOUT) == 0) {
		(void)atomic_fetch_add_explicit(&lost, 1, memory_order_relaxed);
		return;
	}
	unsigned missing = atomic_exchange_explicit(&lost, 0, memory_order_relaxed);
	if (missing > 0) {
		char note[64];
		k = snprintf(note, sizeof note, "(%u log lines lost)\n", missing);
		(void)!write(STDERR_FILENO, note, (size_t)k);
	}
	(void)!write(STDERR_FILENO, line, n);
}
