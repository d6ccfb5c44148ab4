/* The one hash of keys: XXH3, 64 bits. Cluster-wide constant: slots are computed from it. */
#pragma once

#include "base/bytes.h"

uint64_t hash_bytes(struct bytes b);

/* Mix of two words, for incarnation-derived ids and digests. */
uint64_t hash_mix(uint64_t a, uint64_t b);
