/* One line per event on stderr: time, level, message. Thread-safe (one write(2) a line). */
#pragma once

#include <stddef.h>
#include <stdint.h>

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };

/* Wall clock in microseconds since 1970, injected since clocks live in src/io; NULL: no time. */
void log_set_clock(uint64_t (*wall_us)(void));
void log_set_level(enum log_level level);
/* Put in front of every message, e.g. "node 1"; copied, at most 31 bytes. */
void log_set_prefix(const char *text);
/* "error", "warn", "info", "debug": the level, or -1. */
int log_level_parse(const char *name);

/* Control bytes become '?': a log is read on terminals. log_at() does it to every message. */
void text_make_printable(char *text, size_t bytes);

void log_at(enum log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

#define log_error(...) log_at(LOG_ERROR, __VA_ARGS__)
#define log_warn(...)  log_at(LOG_WARN, __VA_ARGS__)
#define log_info(...)  log_at(LOG_INFO, __VA_ARGS__)
#define log_debug(...) log_at(LOG_DEBUG, __VA_ARGS__)
