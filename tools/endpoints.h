/* The nodes of --node, names looked up once: a name server that hangs would use up a lease. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

enum { ENDPOINTS_MAX = 32 };

struct endpoints {
	size_t n;
	char address[ENDPOINTS_MAX][128]; /* "1.2.3.4:7401", "[::1]:7401"; as given where no
					   * address was found */
};

/* Is it "HOST:PORT,HOST:PORT..."? */
bool endpoints_valid(const char *list);
/* From a valid list, in its order, at least one; what exceeds a bound is left out. */
void endpoints_resolve(struct endpoints *ret, const char *list);
