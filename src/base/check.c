#include "base/check.h"

#include <stdio.h>
#include <stdlib.h>

__attribute__((weak)) _Noreturn void check_fail(const char *condition, const char *file, int line)
{
	(void)fprintf(stderr, "check failed: %s (%s:%d)\n", condition, file, line);
	abort();
}
