/* SHA-1, to name texts as Redis names scripts. Nothing here relies on its being hard to collide.
 * Source: FIPS 180-4, 6.1. */
#pragma once

#include "base/bytes.h"

enum {
	SHA1_BYTES = 20,
	SHA1_BLOCK_BYTES = 64,
};

struct sha1 {
	uint32_t h[5];
	uint64_t bytes;
	uint8_t block[SHA1_BLOCK_BYTES];
};

void sha1_init(struct sha1 *s);
void sha1_add(struct sha1 *s, struct bytes b);
void sha1_end(struct sha1 *s, uint8_t ret[SHA1_BYTES]);
