/* Links to other nodes up to the moment they are handed to a shard thread: the peer listener,
 * dialling with back-off, handshakes.
 *
 * Who dials: a member (master or replica) every member with a lower id, a node that is none every
 * member; one link per pair of threads, min(threads here, threads there). A handshake has 5 s; at
 * most 128 are unfinished, and of those that came in the oldest makes room.
 * Owner: the control thread. */
#pragma once

#include <poll.h>

#include "io/io.h"
#include "node/config.h"
#include "node/handshake.h"
#include "shard/shard.h"

enum {
	PEERING_IN_MAX = 96,
	PEERING_OUT_MAX = 32,
	PEERING_TARGETS_MAX = MASTERS_MAX + REPLICAS_MAX,
	PEERING_BACKOFF_MAX_MS = 2000,
	PEERING_POLL_MAX = PEERING_IN_MAX + PEERING_OUT_MAX + 1,
};
_Static_assert((int)PEERING_OUT_MAX >= (int)PEERING_TARGETS_MAX,
	"those that do not answer leave room for the others");

struct peering_hooks {
	void *arg;
	/* A link is ready; the fd is the hook's. */
	void (*adopt)(void *arg, const struct mail_adopt *link);
	/* A peer knows better than our --new-cluster: this node must not vote. */
	void (*fatal)(void *arg, const char *reason);
	/* A peer knows a later life of this node than its state file: it may have forgotten
	 * something after all. */
	void (*outdated)(void *arg, const char *reason);
	/* A peer acts by a newer configuration. */
	void (*learn)(void *arg, const struct membership *config);
};

struct peering;

/* @listen_fd stays the caller's; @self, whose configuration tells whom to dial, and @clock outlive
 * the peering. NULL: out of memory. */
struct peering *peering_new(struct identity *self, struct io_clock *clock, int listen_fd,
	const struct peering_hooks *hooks, uint64_t seed);
void peering_free(struct peering *p);
/* The configuration has changed. Links that are up stay, whoever is at the other end. */
void peering_retarget(struct peering *p);
/* Fill @set of PEERING_POLL_MAX. */
void peering_poll_set(const struct peering *p, struct pollfd *set);
/* Carry on with what poll found and with what time has brought. */
void peering_work(struct peering *p, const struct pollfd *set);
uint64_t peering_wait_ns(const struct peering *p);
void peering_link_down(struct peering *p, const struct mail_link *link);
