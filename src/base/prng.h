/* xoshiro256** (Blackman & Vigna 2018), seeded by splitmix64: fast, repeatable from a seed.
 * Not for secrets. */
#pragma once

#include <stdint.h>

struct prng {
	uint64_t s[4];
};

void prng_seed(struct prng *r, uint64_t seed);
uint64_t prng_next(struct prng *r);

/* Uniform in [0, bound); 0 for bound 0. */
uint64_t prng_below(struct prng *r, uint64_t bound);
