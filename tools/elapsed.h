/* Time that has passed on this machine, for deadlines that must not be missed.
 * Source protocol.md 2.1: the larger of two clocks, so that neither a suspend (which RAW does not
 * count) nor a slewed rate (which BOOTTIME has) makes a lease look longer than it is. */
#pragma once

#include <stdint.h>

#define NS_PER_MS INT64_C(1000000)

struct instant {
	int64_t boot_ns, raw_ns;
};

struct instant instant_now(void);
int64_t elapsed_ns(struct instant since);

/* A timer to poll for; it goes on counting while the machine is suspended. -errno. */
int alarm_open(void);
/* Readable after @after_ns, or a little earlier: look at elapsed_ns() and set it again. */
void alarm_set(int fd, int64_t after_ns);
