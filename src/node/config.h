/* What a node was told to be: parsed, checked, with every default filled in. */
#pragma once

#include <sched.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "base/limits.h"
#include "base/log.h"

enum {
	ADDRESS_MAX_BYTES = 255, /* "HOST:PORT" */
	PATH_MAX_BYTES = 511,
};

struct master {
	uint8_t id;
	char addr[ADDRESS_MAX_BYTES + 1]; /* of its peer port */
};

struct cpu_list {
	unsigned n;
	uint16_t v[CPU_SETSIZE];
};

enum pin_mode { PIN_AUTO, PIN_OFF, PIN_LIST };

struct config {
	uint32_t id;
	char cluster[CLUSTER_NAME_MAX_BYTES + 1];
	char listen[ADDRESS_MAX_BYTES + 1];
	char peer_listen[ADDRESS_MAX_BYTES + 1];
	unsigned n_masters;
	struct master masters[MASTERS_MAX]; /* by id, ascending */
	bool is_master;                     /* this node is one of them */
	uint64_t epoch;
	uint32_t slots;
	uint32_t threads;
	enum pin_mode pin;
	struct cpu_list
		pin_cpus; /* thread i runs on v[i]; with PIN_LIST as given, PIN_AUTO allowed ones */
	uint32_t spin_us;
	uint32_t max_lease_ms;
	uint32_t max_leases;
	uint32_t op_timeout_ms;
	uint32_t attempt_ms;
	uint32_t drift_ppm;
	uint32_t max_clients;
	size_t input_limit_bytes;
	size_t output_limit_bytes;
	char state_dir[PATH_MAX_BYTES + 1];
	bool new_cluster;
	bool ephemeral;
	char config_file[PATH_MAX_BYTES + 1];
	enum log_level log_level;
	bool help;
	bool version;
};

/* Defaults, then the file that --config names, then the flags. With --help or --version nothing
 * further is looked at. 0; -EINVAL or -errno with a whole sentence in @why. */
int config_load(struct config *ret, int argc, char *const *argv, char *why, size_t why_bytes);
void config_help(FILE *out);
