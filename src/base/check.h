/* Checks for programmer errors, compiled into every build.
 * Bytes from outside never meet a CHECK: they get an `if` and an error. */
#pragma once

/* Report a failed check and abort. Weak: tests may replace it. */
_Noreturn void check_fail(const char *condition, const char *file, int line);

#define CHECK(x) ((x) ? (void)0 : check_fail(#x, __FILE__, __LINE__))

/* Checks that walk whole structures: on in test builds (-Ddebug_checks=true) only. */
#ifdef LOCKER_DEBUG_CHECKS
#define CHECK_SLOW(x) CHECK(x)
#else
#define CHECK_SLOW(x) ((void)0)
#endif
