/* The log of a master's slots and the copies of a replica (protocol.md 2.9): log.c, copy.c. */
#pragma once

#include "core/engine.h"
#include "core/wheel.h"

struct engine;

enum {
	LOG_RECORDS = 4096, /* of a slot */
	LOG_BODIES = 4,     /* batches of the log in one step */
	LOG_HOLD_MS = 100,  /* with nothing to tell, a follower waits so long for its answer */
	COPY_PLACES = 2,    /* slots copied anew at one time */
	COPY_ENTRIES = 192, /* of one answer; each may dispose of two blocks */
};

/* ---- log.c: what changed in a slot, for replicas ---- */

struct log_record {
	uint64_t hash;
	struct ballot uid;
};

struct slot_log {
	uint64_t first, next; /* numbers of the oldest record and of the one to come */
	uint64_t until_ns; /* slow clock: nothing is recorded from then on unless somebody asks */
	bool idle;         /* a follower waits who has had everything */
};

/* One replica in one slot. */
struct follower {
	struct wheel_link wheel; /* must be first */
	uint64_t due_ns;         /* slow clock: to be answered; without a question: forgotten */
	uint64_t asked_ns, told_ns;
	uint64_t req; /* of the question that waits; 0: none */
	uint64_t cursor;
	uint8_t node; /* 0: free */
	bool at_once; /* its next question is answered without waiting for company */
};

struct logs {
	struct slot_log *slots; /* of this shard */
	struct log_record *records;
	uint8_t *followers;
	uint8_t *bodies;
	struct wheel wheel; /* slow clock; of followers */
	unsigned bodies_used;
	uint64_t until_ns; /* the latest of the slots' */
	uint64_t n_followers;
};

/* ---- copy.c: a replica's slots ---- */

enum copy_state {
	COPY_NONE,    /* not ours, voted on, or this node is no replica */
	COPY_QUEUED,  /* to be copied anew when a place is free */
	COPY_ASKING,  /* follows the log */
	COPY_PURGING, /* what is here is thrown away */
	COPY_PAGING,  /* takes the whole slot in, page by page */
};

struct copy {
	struct wheel_link wheel; /* must be first */
	uint64_t due_ns;         /* slow clock: ask, or ask again */
	uint64_t asked_ns;
	uint64_t req; /* of the question out; 0: none */
	uint64_t log; /* whose log cursor counts in: the cid; 0: none */
	uint64_t cursor;
	uint64_t whole_ns;   /* slow clock, SLOT_COPIES: up to then nothing is missing */
	uint32_t queue_next; /* place in copies.slots + 1 */
	uint16_t tries;
	uint8_t state;
	uint8_t node;   /* asked last */
	uint8_t misses; /* questions in a row that were not answered */
	uint8_t place;  /* in copies.places + 1; 0: none */
};

/* A slot that is copied anew. */
struct copy_place {
	bool used;
	uint16_t key_bytes;
	uint64_t cursor;            /* hash to go on from */
	uint8_t key[KEY_MAX_BYTES]; /* last key heard of, when a page was cut at its hash */
};

struct copies {
	uint8_t *slots;     /* of this shard */
	struct wheel wheel; /* slow clock; of slots with something due */
	uint32_t queue_head, queue_tail;
	struct copy_place places[COPY_PLACES];
	uint16_t active, whole;
	uint64_t seq;
	uint64_t oldest_ns; /* whole_ns of the slot where it is oldest; of a moment ago */
	uint64_t look_ns;   /* when that is looked for again */
};

void logs_init(struct engine *e);
/* What the slot holds has changed without a record: whoever follows it has to begin anew. */
void log_break(struct engine *e, uint16_t slot);
/* A replica is copying the slot: it will ask for what came meanwhile. */
void log_keep(struct engine *e, uint16_t slot);
void log_follow(struct engine *e, uint8_t from, const struct msg *m);
void log_link_down(struct engine *e, uint8_t node);
void logs_tick(struct engine *e);
void logs_stats(const struct engine *e, struct engine_stats *ret);
void logs_validate(const struct engine *e);

/* ---- copy.c: a replica follows (protocol.md 2.9) ---- */
void copies_init(struct engine *e);
/* Copy every slot of this shard with which this node does nothing else (SLOT_SILENT, and no key of
 * it is being healed), if it is a replica. Also after every change of the masters: whom it follows
 * may be none any more. */
void copy_begin(struct engine *e);
/* No replica any more. Entries stay until they end, or are purged. */
void copy_stop(struct engine *e);
void copy_link(struct engine *e, uint8_t node, bool up);
/* An answer to FOLLOW, or to SYNC with MSG_COPY. */
void copy_answer(struct engine *e, uint8_t from, const struct msg *m);
void copies_tick(struct engine *e);
uint64_t copies_next_ns(const struct engine *e);
void copies_stats(const struct engine *e, struct engine_stats *ret);
void copies_validate(const struct engine *e);
