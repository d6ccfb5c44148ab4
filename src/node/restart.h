/* When a node votes after its start, or after it was made a master (protocol.md 2.8, 2.10). Pure:
 * told the time and what has happened, it says what is to be done; the control thread does it, and
 * so does the simulator's. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "wire/frame.h"

/* What it may have forgotten. */
enum restart_kind {
	RESTART_FIRST_BOOT, /* nothing: this cluster has never run */
	RESTART_CLEAN,      /* nothing, says its file: it stopped in good order and held nothing */
	RESTART_EMPTY,      /* everything above its ceiling */
	RESTART_JOINED, /* nothing: it becomes a master now, and has to learn what the others hold
			 */
};

struct restart {
	enum restart_kind kind;
	enum node_status status;
	bool alone;        /* no other master to ask */
	uint64_t heard_ns; /* FIRST_BOOT: not waiting for objections any longer */
	uint64_t ask_ns;   /* end of T_wait */
	uint64_t vote_ns;  /* end of D_Q. All on the slow clock */
	uint64_t loaded_n; /* ceiling of the state file; 0: it tells none */
};

struct restart_config {
	enum restart_kind kind;
	uint64_t now_slow_ns;
	uint64_t objections_ns; /* how long to wait for objections at most */
	uint32_t max_lease_ms, attempt_ms, drift_ppm;
	unsigned n_masters;
	uint64_t loaded_n;
};

struct restart_news {
	uint64_t slow_ns;
	uint64_t wall_n;    /* wall clock as a ballot */
	uint64_t durable_n; /* ceiling on disk; BALLOT_MAX: no file */
	bool all_heard;     /* all other masters have accepted what this node claims to be */
	bool in_sync;       /* every slot votes, and what was missed meanwhile is here too */
};

enum restart_action {
	RESTART_WAIT,  /* nothing to be done before restart_due() */
	RESTART_COVER, /* make the ceiling durable up to n, then ask again */
	RESTART_ASK,   /* tell the shards NODE_RESYNC */
	RESTART_VOTE,  /* tell the shards NODE_ACTIVE with floor n */
};

void restart_init(struct restart *r, const struct restart_config *cfg);
enum restart_action restart_next(
	struct restart *r, const struct restart_news *news, uint64_t *ret_n);
/* A peer knows a later life of this node than the one that its state file tells of. */
void restart_distrust(struct restart *r);
/* The masters are others now. What this start claims to be they all had to confirm, and who knew
 * better may have departed. True: it was to be a first boot. */
bool restart_changed(struct restart *r);
/* On the slow clock: when restart_next() may say something else, if nothing happens before. */
uint64_t restart_due_ns(const struct restart *r);
