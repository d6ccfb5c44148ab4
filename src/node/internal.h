/* What the files of this room share. */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "io/io.h"
#include "node/config.h"
#include "node/handshake.h"
#include "node/members.h"
#include "node/node.h"
#include "node/peering.h"
#include "node/restart.h"
#include "node/state_file.h"
#include "shard/shard.h"

enum { ADDR_TEXT_BYTES = 64 };

#define MS  UINT64_C(1000000)
#define SEC UINT64_C(1000000000)

enum {
	RETRY_MS = 1000, /* after a failed write of the state file */
	REPORT_MS = 10000,
};

/* One shard thread. What is not atomic belongs to it from its start to its end. */
struct shard_thread {
	struct node *node;
	unsigned index;
	pthread_t id;
	bool created;
	int listen_fd; /* node.c opens and closes it */
	struct io *io;
	struct shard *shard;
	void *map;
	size_t map_bytes;
	void (*shard_work)(void *self);
	bool stopping;
	_Atomic bool stop;  /* set by the control thread, with a wake */
	_Atomic bool ended; /* io_run() has returned; what follows is read after it */
	int result;         /* of io_run() */
	bool held_nothing;  /* engine_holds_nothing() at the end */
	uint64_t top_n;
	char why[256]; /* why it could not start */
};

enum gate { GATE_SHUT, GATE_OPEN, GATE_ABORT };

struct node {
	struct config cfg;
	char client_addr[ADDR_TEXT_BYTES]; /* as bound, for port 0 */
	char peer_addr[ADDR_TEXT_BYTES];
	struct identity self;
	uint64_t seed;
	uint64_t cid; /* random: what ballots of all its shards are made unique by */

	struct io_clock clock; /* of the control thread */
	struct state_file file;
	bool has_file;
	bool file_loaded;   /* it had a state */
	struct state state; /* as it is, or will be, in the file */
	uint64_t start_n;
	uint64_t loaded_ceiling_n; /* 0: none */

	struct mailbox_mesh *mesh;
	struct mailbox *mail; /* the control thread's */
	int wake_fds[THREADS_MAX + 1];
	_Atomic uint32_t n_clients; /* counted by the shards */
	int signal_fd;
	int peer_listen_fd;
	struct peering *peering;

	pthread_mutex_t gate_lock; /* over the next three */
	pthread_cond_t gate_moved;
	enum gate gate;
	unsigned started; /* threads that are ready or have failed */
	unsigned failed;
	struct shard_thread threads[THREADS_MAX];

	/* durable.c */
	uint64_t asked_n; /* highest ceiling a shard has asked for */
	uint64_t durable_n;
	uint64_t retry_at; /* mclk; a write of the file failed */
	uint64_t failure_said_at;

	/* voting.c */
	enum role role;                             /* in self.config */
	struct restart restart;                     /* of a master */
	bool heard[NODE_ID_MAX + 1];                /* it has accepted what we claim to be */
	struct mail_progress progress[THREADS_MAX]; /* from the shards */
	uint64_t asked_at;                          /* mclk; when NODE_RESYNC began */
	uint64_t report_at;                         /* mclk; 0: at once */
	uint64_t spread_at;             /* mclk; not before, tell the shards of progress */
	struct mail_status status_told; /* status 0: nothing yet */

	/* configuration.c */
	struct members *members;
	bool forgetful;
	uint64_t config_at;          /* mclk; when self.config came into force here */
	uint64_t moved[THREADS_MAX]; /* epoch that a shard acts by */
	uint64_t moved_told, synced_told;
	uint64_t in_sync_said; /* masters_epoch of the line in the log */
	uint64_t settled_told; /* masters_epoch that the shards were told of */
	struct mail_change change_told;
	uint64_t bad_said_at; /* mclk */
	struct {
		char addr[MEMBER_ADDR_MAX_BYTES + 1]; /* as it said last; "": never */
		uint64_t inc;                         /* of link 0; 0: none */
		uint8_t misnamed;                     /* mail_adopt */
		struct mail_peer_epoch told;          /* to the shards */
	} peers[NODE_ID_MAX + 1];
	struct {
		uint64_t tag;
		unsigned shard;
	} change_of; /* who asked for SETNODES */

	/* control.c */
	bool draining;
	unsigned drained;
	uint64_t drain_until; /* mclk */
	bool done;
	int exit_status;
};

/* ---- node.c ---- */
uint64_t node_wall_n(void);
void node_wake(void *node, unsigned thread);

/* ---- join.c ---- */
/* Ask --join until it tells its configuration. 0; -EINTR: a signal came first. */
int join_fetch(struct node *n, struct membership *ret, char *why, size_t why_bytes);

/* ---- thread.c ---- */
/* Start all shard threads and wait until each is ready. 0, or -errno with @why. */
int threads_start(struct node *n, char *why, size_t why_bytes);
/* Let them run. */
void threads_open(struct node *n);
/* Ask all of them to end and wait until @until_mclk at most. 0; -ETIMEDOUT: some are still there,
 * and the node's memory with them. */
int threads_stop(struct node *n, uint64_t until_mclk);

/* ---- control.c ---- */
void control_init(struct node *n);
struct peering_hooks control_hooks(struct node *n);
/* The same mail to all shards. */
void control_tell_all(struct node *n, uint16_t type, const void *body, size_t bytes);

/* ---- durable.c: what has to be on disk first ---- */
/* Make @ceiling_n durable and tell the shards; false: not now, retry_at says when again. The
 * shards hear of nothing that is not on disk. */
bool durable_ceiling(struct node *n, uint64_t ceiling_n, uint64_t now_mclk);
/* Likewise the register of the configuration. */
bool durable_register(struct node *n, const struct members_register *reg, uint64_t now_mclk);
/* Raise the ceiling where a shard has asked for it, or soon will. */
void durable_serve(struct node *n, uint64_t now_mclk);
/* Nothing votes any more: note a stop in good order. */
void durable_good_order(struct node *n);

/* ---- voting.c: what this node is, and when it votes ---- */
void voting_init(struct node *n, const struct clocks *now);
/* self.config has changed from @was, and the shards have been told. */
void voting_role(struct node *n, const struct membership *was, const struct clocks *now);
void voting_serve(struct node *n, const struct clocks *now);
/* A peer knows a later life of this node than its state file. */
void voting_outdated(struct node *n, const char *reason, const struct clocks *now);
uint64_t voting_wait_ns(const struct node *n, const struct clocks *now);
/* All slots of all shards are in sync with the masters of this epoch; 0: not all are. */
uint64_t voting_synced_epoch(const struct node *n);
uint16_t voting_slots_in_sync(const struct node *n);

/* ---- configuration.c: the register of the configuration, carried out ---- */
/* 0 or -ENOMEM. The identity and the state are whole. */
int configuration_init(struct node *n, const struct clocks *now);
void configuration_log(const struct membership *m, const char *what);
/* Write, adopt, send: whatever has become due. */
void configuration_serve(struct node *n, const struct clocks *now);
uint64_t configuration_wait_ns(const struct node *n, const struct clocks *now);
/* Another one, or a vote about it, waits for the disk: nobody is to begin to vote meanwhile. */
bool configuration_pending(const struct node *n);
/* Mail of shard @from; false: not of these. */
bool configuration_mail(struct node *n, unsigned from, uint16_t type, const void *body,
	size_t bytes, const struct clocks *now);
void configuration_learn(struct node *n, const struct membership *m, const struct clocks *now);
/* Where @node says that it is reached. */
void configuration_address(struct node *n, uint8_t node, const char *addr, uint8_t misnamed);
void configuration_link(
	struct node *n, const struct mail_link *link, bool up, const struct clocks *now);
