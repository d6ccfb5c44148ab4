#include "histogram.h"

static unsigned bucket_of(uint64_t ns)
{
	if (ns < UINT64_C(2) * HISTOGRAM_SUB)
		return (unsigned)ns;
	unsigned shift = 63 - (unsigned)__builtin_clzll(ns) - 6;
	unsigned bucket = shift * HISTOGRAM_SUB + (unsigned)(ns >> shift);
	return bucket < HISTOGRAM_BUCKETS ? bucket : HISTOGRAM_BUCKETS - 1;
}

/* The largest value that falls into @bucket. */
static uint64_t upper_end(unsigned bucket)
{
	if (bucket < 2 * HISTOGRAM_SUB)
		return bucket;
	unsigned shift = bucket / HISTOGRAM_SUB - 1;
	return ((uint64_t)(bucket % HISTOGRAM_SUB + HISTOGRAM_SUB + 1) << shift) - 1;
}

void histogram_add(struct histogram *h, uint64_t ns)
{
	h->buckets[bucket_of(ns)]++;
	h->count++;
	h->sum_ns += ns;
	if (ns > h->max_ns)
		h->max_ns = ns;
}

void histogram_merge(struct histogram *into, const struct histogram *from)
{
	for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++)
		into->buckets[i] += from->buckets[i];
	into->count += from->count;
	into->sum_ns += from->sum_ns;
	if (from->max_ns > into->max_ns)
		into->max_ns = from->max_ns;
}

uint64_t histogram_quantile(const struct histogram *h, double share)
{
	uint64_t seen = 0;
	uint64_t wanted = (uint64_t)((double)h->count * share);

	if (wanted >= h->count)
		return h->max_ns;
	for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++) {
		seen += h->buckets[i];
		if (seen > wanted)
			return upper_end(i) < h->max_ns ? upper_end(i) : h->max_ns;
	}
	return h->max_ns;
}
