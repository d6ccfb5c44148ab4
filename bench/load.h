/* One thread of the load generator: connections with pipelines, and what they met. */
#pragma once

#include <stdatomic.h>

#include "base/bytes.h"
#include "histogram.h"

enum {
	ERROR_WORDS_MAX = 16,
	ERROR_WORD_BYTES = 24,
	KEY_BYTES_MIN = 8,
};

enum workload {
	WORKLOAD_CYCLE, /* LOCK, then RELEASE when granted */
	WORKLOAD_SET,   /* SET key value NX PX ttl, never released */
	WORKLOAD_HOLD,  /* LOCK every key once */
};

enum kind { KIND_LOCK, KIND_RELEASE, KINDS };

struct load_config {
	const char *const *addresses;
	unsigned n_addresses;
	unsigned connections; /* of all threads */
	unsigned threads;
	unsigned pipeline;
	enum workload workload;
	uint64_t keys; /* key space; HOLD: how many to take */
	uint32_t key_bytes;
	uint32_t value_bytes;
	uint32_t ttl_ms;
	uint64_t warmup_ns;
	uint64_t measure_ns;
	uint64_t seed;
};

struct error_count {
	char word[ERROR_WORD_BYTES];
	uint64_t count;
};

/* What was met after the warm-up. */
struct load_stats {
	struct histogram latency[KINDS];
	uint64_t granted; /* locks */
	uint64_t refused; /* locks answered with null */
	uint64_t released;
	uint64_t lost; /* connections that ended by themselves */
	struct error_count errors[ERROR_WORDS_MAX];
};

struct load {
	const struct load_config *config;
	unsigned index; /* of the thread */
	struct load_stats stats;
	_Atomic uint64_t done; /* replies, for the progress line */
	_Atomic bool *stop;
	_Atomic uint64_t *next_key; /* HOLD: shared by all threads */
	uint64_t start_ns;          /* set before the threads start */
	uint64_t all_granted;       /* of the warm-up too */
	char why[256];              /* why it could not run, or "" */
};

uint64_t load_now_ns(void);
/* Body of a thread; @arg: struct load. Returns NULL; load->why tells of failure. */
void *load_run(void *arg);
void load_count_error(struct error_count *errors, struct bytes word, uint64_t n);
