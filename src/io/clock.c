#include "io/internal.h"

#include <stdlib.h>
#include <time.h>

enum { RATE_MAX_PPM = 900000 };

#define ANCHOR_NS     SECOND_NS
#define OFFSET_MAX_MS INT64_C(1000000000000)

/* Test-only; set by io_clock_init, the same for all threads. */
static _Atomic int64_t wall_offset_us;

static uint64_t read_clock(clockid_t id)
{
	struct timespec ts;
	(void)clock_gettime(id, &ts);
	return (uint64_t)ts.tv_sec * SECOND_NS + (uint64_t)ts.tv_nsec;
}

uint64_t clock_monotonic_ns(void)
{
	return read_clock(CLOCK_MONOTONIC);
}

uint64_t io_wall_us(void)
{
	int64_t now = (int64_t)(read_clock(CLOCK_REALTIME) / 1000);
	now += atomic_load_explicit(&wall_offset_us, memory_order_relaxed);
	return now > 0 ? (uint64_t)now : 0;
}

/* A number from the environment within +-@max; 0 when it is missing or none. */
static int64_t number_from(const char *name, int64_t max)
{
	const char *text = getenv(name);
	if (text == NULL || *text == '\0')
		return 0;
	char *end;
	long long v = strtoll(text, &end, 10);
	return *end == '\0' && v >= -max && v <= max ? v : 0;
}

/* Bend a reading itself and not its deltas: all threads of a process agree on the result. */
static uint64_t bend(const struct io_clock *c, uint64_t ns)
{
	if (c->rate_ppm == 0)
		return ns;
	int64_t millions = (int64_t)(ns / 1000000);
	int64_t rest = (int64_t)(ns % 1000000);
	return ns + (uint64_t)(millions * c->rate_ppm + rest * c->rate_ppm / 1000000);
}

void io_clock_init(struct io_clock *c)
{
	*c = (struct io_clock){.rate_ppm = number_from("LOCKER_TEST_CLOCK_RATE_PPM", RATE_MAX_PPM)};
	atomic_store_explicit(&wall_offset_us,
		number_from("LOCKER_TEST_WALL_OFFSET_MS", OFFSET_MAX_MS) * 1000,
		memory_order_relaxed);
	c->boot_anchor = bend(c, read_clock(CLOCK_BOOTTIME));
	c->raw_anchor = bend(c, read_clock(CLOCK_MONOTONIC_RAW));
	c->slow = c->fast = c->boot_anchor;
}

/* Two clocks cannot be read at one instant, and min and max always take that jitter to their own
 * side. Measured from an anchor it counts once per anchor; added up per loop it would amount to
 * thousands of ppm, more than the drift bound allows (protocol.md 2.1). Without any anchor a
 * suspend long ago would hide all differences since. */
void clock_advance(struct io_clock *c, uint64_t boot, uint64_t raw, struct clocks *ret)
{
	uint64_t by_boot = boot > c->boot_anchor ? boot - c->boot_anchor : 0;
	uint64_t by_raw = raw > c->raw_anchor ? raw - c->raw_anchor : 0;
	uint64_t least = by_boot < by_raw ? by_boot : by_raw;
	uint64_t most = by_boot < by_raw ? by_raw : by_boot;
	ret->slow = c->slow + least;
	ret->fast = c->fast + most;
	ret->mclk = boot;
	if (most >= ANCHOR_NS) {
		c->slow = ret->slow;
		c->fast = ret->fast;
		c->boot_anchor = boot;
		c->raw_anchor = raw;
	}
}

void io_clock_read(struct io_clock *c, struct clocks *ret)
{
	uint64_t boot = bend(c, read_clock(CLOCK_BOOTTIME));
	uint64_t raw = bend(c, read_clock(CLOCK_MONOTONIC_RAW));
	clock_advance(c, boot, raw, ret);
	ret->wall_us = io_wall_us();
}
