/* Log-linear histogram of nanoseconds: 64 buckets for every power of two, so a value is off by at
 * most 1.6 %. Source: Gil Tene's HdrHistogram. */
#pragma once

#include <stdint.h>

enum {
	HISTOGRAM_SUB = 64,
	HISTOGRAM_BUCKETS =
		36 * HISTOGRAM_SUB, /* up to 2^41 ns, 36 minutes; what is longer counts so */
};

struct histogram {
	uint64_t count;
	uint64_t sum_ns;
	uint64_t max_ns;
	uint64_t buckets[HISTOGRAM_BUCKETS];
};

void histogram_add(struct histogram *h, uint64_t ns);
void histogram_merge(struct histogram *into, const struct histogram *from);
/* The value that @share (0..1) of all do not exceed; 0 when there are none. */
uint64_t histogram_quantile(const struct histogram *h, double share);
