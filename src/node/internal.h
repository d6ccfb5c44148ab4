/* What the files of this room share. */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "io/io.h"
#include "node/config.h"
#include "node/handshake.h"
#include "node/node.h"
#include "node/peering.h"
#include "node/restart.h"
#include "node/state_file.h"
#include "shard/shard.h"

enum { ADDR_TEXT_BYTES = 64 };

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

	/* control.c */
	struct restart restart;
	bool heard[NODE_ID_MAX + 1];                /* it has accepted what we claim to be */
	struct mail_progress progress[THREADS_MAX]; /* with NODE_RESYNC, from the shards */
	uint64_t asked_at;                          /* mclk; when NODE_RESYNC began */
	uint64_t report_at;                         /* mclk; 0: at once */
	uint64_t spread_at; /* mclk; not before, tell the shards of progress */
	uint16_t slots_told;
	uint64_t asked_n; /* highest ceiling a shard has asked for */
	uint64_t durable_n;
	uint64_t retry_at; /* mclk; a write of the file failed */
	uint64_t failure_said_at;
	bool draining;
	unsigned drained;
	uint64_t drain_until; /* mclk */
	bool done;
	int exit_status;
};

/* ---- node.c ---- */
uint64_t node_wall_n(void);
void node_wake(void *node, unsigned thread);

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
