/* Limits of the contract (commands.md) that more than one room must agree on. */
#pragma once

enum {
	KEY_MAX_BYTES = 512,
	VALUE_MAX_BYTES = 4096,
	CLIENT_NAME_MAX_BYTES = 63,
	ARGS_MAX = 64,
	MASTERS_MAX = 15,
	REPLICAS_MAX = 16,
	NODE_ID_MAX = 255, /* node ids are 1..255 */
	SLOTS_MAX = 4096,
	THREADS_MAX = 64,
	CLUSTER_NAME_MAX_BYTES = 63,
	LEASE_MAX_MS = 24 * 3600 * 1000,
	ATTEMPT_MAX_MS = 60000,
	DRIFT_MAX_PPM = 100000,
};

/* Ballots and tokens fit 53 bits, so that JSON readers keep them exact (protocol.md 2.2). */
#define BALLOT_MAX ((UINT64_C(1) << 53) - 1)
