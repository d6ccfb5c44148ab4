#include "base/hash.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

uint64_t hash_bytes(struct bytes b)
{
	return XXH3_64bits(b.p, b.len);
}

uint64_t hash_mix(uint64_t a, uint64_t b)
{
	uint64_t words[2] = {a, b};
	return XXH3_64bits(words, sizeof words);
}
