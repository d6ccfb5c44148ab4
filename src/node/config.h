/* What a node was told to be: parsed, checked, with every default filled in. */
#pragma once

#include <sched.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "base/limits.h"
#include "base/log.h"
#include "wire/membership.h"

enum {
	ADDRESS_MAX_BYTES = 255, /* "HOST:PORT" */
	PATH_MAX_BYTES = 511,
	PREFIXES_MAX_BYTES = 255,
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
	char peer_advertise[MEMBER_ADDR_MAX_BYTES + 1]; /* "": own entry, or peer_listen */
	char join[ADDRESS_MAX_BYTES + 1];               /* "": not said */
	unsigned n_masters;                             /* as --masters has them; 0: not said */
	struct member masters[MASTERS_MAX];             /* by id, ascending */
	/* Constants of the configuration. The one in force tells those that were not said. */
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
	bool said_slots, said_max_lease, said_attempt, said_drift;
	bool said_threads, said_op_timeout;
	uint32_t replica_interval_ms;
	size_t replica_batch_bytes;
	uint32_t max_clients;
	size_t input_limit_bytes;
	size_t output_limit_bytes;
	char redlock_idempotent[PREFIXES_MAX_BYTES + 1];
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
/* The configuration of a first boot: --masters, or this node alone at @addr. */
void config_first(const struct config *c, const char *addr, struct membership *ret);
/* @m is in force: take over its constants. 0, or -EINVAL: what was said differs from one of them,
 * or does not go with it; @why says which. @source: who has it so ("the cluster"). */
int config_adopt(struct config *c, const struct membership *m, const char *source, char *why,
	size_t why_bytes);
/* Is the host of "HOST:PORT" one that names all addresses of a machine and can be dialled by
 * nobody? */
bool config_wildcard(const char *addr);
void config_help(FILE *out);
