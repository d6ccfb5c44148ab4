/* Who waits for a key, or looks on: at this node (waiters.c, observe.c), and over all nodes
 * (turns.c, protocol.md 2.9): a node where somebody waits for a key stands at the key's home, a
 * master, and is called when it is its turn. Part of internal.h.
 *
 * Owner  the shard thread.
 * Bounds one entry a key and node, max_ops of them; who finds no room looks for itself. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/bytes.h"
#include "core/map.h"
#include "core/wheel.h"

struct engine;
struct lease;
struct msg;
struct op;

struct line {
	uint64_t hash;
	uint32_t lock_head, lock_tail; /* op index + 1 */
	uint32_t watch_head, watch_tail;
	uint32_t count, watchers; /* of all, those in the watch list */
	uint32_t next_free;
};

enum turn_state {
	TURN_FREE,
	TURN_STANDS,
	TURN_CALLED,
	TURN_PASSED, /* it was called and did not come: not again before the key ends once more */
};

struct turn {
	struct wheel_link wheel; /* must be first */
	uint64_t due_ns, end_ns; /* slow clock: look at it; it waits until then */
	uint64_t hash;
	uint64_t place; /* who came first has the least */
	uint32_t block; /* the key, arena */
	uint32_t next;  /* to be called, or free */
	uint16_t key_bytes;
	uint8_t node;
	uint8_t state;
	uint8_t tries; /* it stood again while the key was free here */
	bool listed;   /* to be called when this step ends */
};

struct turns {
	struct turn *pool;
	struct map map;      /* by hash, one a key and node */
	struct wheel wheel;  /* slow clock */
	uint32_t head, tail; /* to be called */
	uint32_t free, touched, used;
	uint32_t swept; /* of those touched, since a link went down */
};

void turns_init(struct engine *e);
void turn_stand(struct engine *e, uint8_t from, const struct msg *m);
void turn_stood(struct engine *e, const struct msg *m);
void turn_called(struct engine *e, uint8_t from, const struct msg *m);
/* Call the node with the least place below @before that stands here for the key, which has @ended
 * just now. False: none. */
bool turn_call_first(
	struct engine *e, uint64_t hash, struct bytes key, uint64_t before, bool ended);
void turns_link_down(struct engine *e);
/* The waiter of that node has the promise of this master. */
void turn_taken(struct engine *e, uint64_t hash, struct bytes key, uint8_t node);
/* Stand at the home of the key. */
void turn_wait(struct engine *e, struct op *op);
/* Another node may be that now. */
void turn_check_home(struct engine *e, struct op *op);
void turns_tick(struct engine *e);
void turns_run(struct engine *e);
void turns_validate(const struct engine *e);

/* ---- waiters.c ---- */
void lines_init(struct engine *e);
struct line *line_find(const struct engine *e, uint64_t hash, struct bytes key);
/* Join the lock line (or the watch list) of its key. False: full. */
bool line_join(struct engine *e, struct op *op, bool watch);
void line_leave(struct engine *e, struct op *op);
bool line_is_head(const struct engine *e, const struct op *op);
/* The key has ended here: wake the head of the line and whoever waits for the release. */
void line_wake_ended(struct engine *e, uint64_t hash, struct bytes key);
/* The key is held here now, visibly: wake WAITFOR. */
void line_wake_held(struct engine *e, uint64_t hash, struct bytes key);
/* The copy of this slot is whole again: who waits for one of its keys may have missed something. */
void lines_look_again(struct engine *e, uint16_t slot);
void watch_start(struct engine *e, struct op *op);
void watch_run(struct engine *e, struct op *op);

/* Of this node's line, of those who want the lock; or NULL. */
struct op *line_head(const struct engine *e, uint64_t hash, struct bytes key);
/* Whoever of all nodes is the first that is known of here. */
void line_call_first(struct engine *e, uint64_t hash, struct bytes key, bool ended);

/* ---- observe.c ---- */
void observe_start(struct engine *e, struct op *op);
void observe_look(struct engine *e, struct op *op);
/* Something of this key is changing; what this node can tell at all may have changed. */
void observers_wake(struct engine *e, struct bytes key);
void observers_wake_all(struct engine *e);
void observers_note_end(struct engine *e, const struct lease *l);
void observe_validate(const struct engine *e, const struct op *op);
