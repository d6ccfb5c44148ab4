/* Shards with links in memory, for test_peers*.c: shard.c, peers*.c and mailbox.c are real;
 * the engine and the clients are stubs that write down what they are told. */
#pragma once

#include "shard/internal.h"

enum {
	SLOTS = 8,
	ATTEMPT_MS = 1000,
	DRIFT_PPM = 1000,
	EPOCH = 3,
	RING = 4 * MAIL_MAX_BYTES,
	ENDS_MAX = 16,
	SEEN_MAX = 64,
	QUEUE_MAX = 4096,
};
#define CLUSTER UINT64_C(0xc1)
#define MS      UINT64_C(1000000)

struct engine {
	struct event seen[SEEN_MAX]; /* without EV_MSG and EV_TICK */
	unsigned seen_n;
	unsigned msgs;
	struct msg last;
	uint8_t last_from;
	char last_key[KEY_MAX_BYTES + 1];
	uint64_t hlc;
	uint64_t rounds; /* in flight, as engine_stats() tells */
	struct engine_stats stats;
	bool chatty; /* EV_MSG has the effects of a tick */
	bool eager;  /* EV_CONFIG has them */
	/* What the next ticks ask for. */
	struct effect queue[QUEUE_MAX];
	unsigned queue_n;
};

struct clients {
	unsigned results, setnodes_done;
	bool gone;
};

struct thread {
	struct env env;
	struct node *node;
	struct shard *shard;
	struct env_handler handler;
	void *memory;
	unsigned wakes;
};

struct node {
	unsigned threads;
	uint8_t id;
	uint64_t inc, clock_ahead_ns;
	struct mailbox_mesh *mesh;
	struct thread thread[3];
};

/* One end of a stream; an end without an owner is the test itself. */
struct end {
	struct link link;
	struct end *other;
	struct thread *owner;
	struct buf inbox;
	bool close_wanted, flush, closed;
	bool blocked; /* what it sends stays in flight */
};

extern struct end ends[ENDS_MAX];
extern unsigned ends_n;
extern uint64_t world_ns;

uint64_t node_ns(const struct node *n);
void world_close(struct env *env, struct link *link, bool flush);
void thread_loop(struct thread *t);
void node_loops(struct node *n, unsigned times);
void node_init(struct node *n, uint8_t id, unsigned threads);
void node_fini(struct node *n);
void control_mail(struct node *n, unsigned to, uint16_t type, const void *body, size_t bytes);
bool control_reads(struct node *n, uint16_t type, void *body, size_t bytes);
/* All shards of @n hear by which epoch @peer acts. */
void tell_peer_epoch(struct node *n, uint8_t peer, uint64_t inc, uint64_t epoch);
/* Masters 1, 2 and 3 (which joined), replica 4. */
struct membership members_of_epoch(uint64_t epoch);
int new_stream(void);
void adopt(struct node *n, int fd, uint8_t peer, uint64_t inc, uint16_t index, uint16_t links);
void connect_nodes(struct node *a, struct node *b, uint16_t index, uint16_t links);
void world_reset(void);
struct engine *engine_of(struct node *n, unsigned thread);
struct peer_info info_of(struct node *n, unsigned thread, uint8_t peer);
void queue_msg(struct node *n, unsigned thread, uint8_t to, const char *key, uint16_t slot);

/* ---- a peer made by hand ---- */

enum { RAW_ID = 2, RAW_INC = 102 };

struct raw {
	struct node *n;
	struct end *end;       /* the node's; what is put in its inbox arrives */
	struct frame_header h; /* of the next frame */
	struct buf body;
};

void raw_connect(struct raw *r, struct node *n, uint16_t index, uint16_t links);
void raw_msg(struct raw *r, const char *key, uint16_t slot);
void raw_send(struct raw *r);
/* The next frame that the node sent; false: none. */
bool raw_receive(struct raw *r, struct frame_header *ret);
