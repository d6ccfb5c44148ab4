/* The shard engine: lease table, votes, rounds, waiters of one shard.
 *
 * One event and the time in, effects out, in the order to carry them out. No clock, no socket, no
 * allocation: memory is handed over once at engine_init().
 * Owner  one shard thread.
 * Source protocol.md (the law), commands.md (the outcomes). The story: README.md beside. */
#pragma once

#include "base/bytes.h"
#include "base/limits.h"
#include "wire/frame.h"
#include "wire/msg.h"

/* What the engine wants to know of time (protocol.md 2.1). */
struct engine_time {
	uint64_t slow_ns; /* expiry, quarantine */
	uint64_t fast_ns; /* attempt windows */
	uint64_t wall_us; /* since 1970; ballots only */
};

struct engine_config {
	uint8_t self;                 /* node id */
	uint8_t n_masters;            /* 1..MASTERS_MAX */
	uint8_t masters[MASTERS_MAX]; /* ids, ascending */
	/* Which change made them so (struct membership). 0, 0, 0: none, as in a first boot. */
	uint64_t masters_epoch;
	uint8_t joined, departed;
	bool replica;                 /* copies, and follows a master's log */
	uint32_t replica_interval_ms; /* master: between two batches to a replica; 0: 5 */
	uint32_t replica_batch_bytes; /* of one batch and slot; 0: as large as they get */
	uint16_t slots;               /* cluster-wide */
	uint16_t threads;             /* of this node */
	uint16_t shard;               /* 0..threads-1; owns slots with slot % threads == shard */
	uint32_t max_lease_ms;
	uint32_t attempt_ms; /* T_att */
	uint32_t drift_ppm;  /* rho */
	uint32_t op_timeout_ms;
	uint32_t max_leases; /* of this shard */
	uint32_t max_ops;    /* operations and waiters in flight in this shard */
	uint32_t max_waiters_per_key;
	uint64_t cid;       /* random, fresh per process start and shard */
	uint64_t seed;      /* for jitter */
	uint64_t ceiling_n; /* durable ballot ceiling; BALLOT_MAX: no state file */
	uint64_t start_n;   /* hybrid clock starts above this */
};

/* Bytes of address space the engine wants (reserve, do not commit: pages are touched as needed).
 * 0: a limit in @cfg is out of range. */
size_t engine_memory_bytes(const struct engine_config *cfg);

/* W_ceil of protocol.md 2.1, in ballot units: how far ahead the ceiling is reserved. */
#define CEILING_STEP_N UINT64_C(60000000)
static inline uint64_t ceiling_above(uint64_t n)
{
	return n < BALLOT_MAX - CEILING_STEP_N ? n + CEILING_STEP_N : BALLOT_MAX;
}

/* T_wait and D_Q of protocol.md 2.1: how long after its start a master that lost its memory waits
 * before it asks the others, and before it votes without them. */
uint64_t engine_restart_wait_ns(uint32_t attempt_ms, uint32_t drift_ppm);
uint64_t engine_quarantine_ns(uint32_t max_lease_ms, uint32_t attempt_ms, uint32_t drift_ppm);

struct engine;

/* Build an engine inside [mem, mem+bytes): zeroed, 64-byte aligned, at least
 * engine_memory_bytes(). It starts in NODE_QUARANTINE. */
struct engine *engine_init(
	const struct engine_config *cfg, const struct engine_time *now, void *mem, size_t bytes);

/* A slot is a range of hashes, so that its entries lie side by side in the table (map.h) and can be
 * handed over without looking at those of other slots. */
static inline uint16_t engine_slot_of(uint64_t hash, uint16_t slots)
{
	return (uint16_t)((hash >> 32) * slots >> 32);
}

/* ---- events ---- */

enum op_kind {
	OP_LOCK,
	OP_UPDATE, /* value -> new_value; has_ttl: extend in the same step */
	OP_EXTEND,
	OP_RELEASE,
	OP_READ,        /* this node's copy */
	OP_READ_QUORUM, /* also HOLDER QUORUM and CHECK: result has everything */
	OP_WAITFOR,
	OP_WAITRELEASE,
	OP_LAG,     /* key: the probe key; value: anything; locks and releases it */
	OP_OBSERVE, /* a result for each thing that happens, the state at the start first */
};

struct op_request {
	enum op_kind kind;
	uint64_t tag;  /* the caller's name for it; comes back in the result; unique while in flight
			*/
	uint64_t hash; /* hash_bytes(key) */
	struct bytes key;
	struct bytes value;
	struct bytes new_value;
	struct bytes client; /* name or address, for HOLDER; truncated to CLIENT_NAME_MAX_BYTES */
	uint64_t token;
	uint64_t wait_ms;       /* LOCK with wait, WAITFOR, WAITRELEASE */
	uint64_t asked_fast_ns; /* when the request reached this node, fast clock of this thread:
				   LAG */
	uint32_t ttl_ms;
	bool has_token;
	bool any_value; /* RELEASE with a token, which alone names the grant */
	bool has_ttl;
	bool wait;
	bool idempotent;
};

enum event_type {
	EV_OP,     /* a client operation: exactly one FX_REPLY will come, now or later; of an
		    * OP_OBSERVE any number, until EV_CANCEL or one that is not OUT_OK */
	EV_CANCEL, /* the client of @tag is gone: no reply is wanted, a waiter leaves its line. Only
		    * for LOCK with wait, WAITFOR, WAITRELEASE and OBSERVE; others end by
		    * themselves. */
	EV_MSG,    /* a message of a peer */
	EV_LINK,   /* a link to a peer is up with this incarnation, or down */
	EV_MISSED, /* nothing was heard of a peer for a while: look for what was missed */
	EV_STATUS, /* NODE_RESYNC: T_wait is over, ask the others; NODE_ACTIVE: vote in every slot;
		    * NODE_QUARANTINE: in none, unless others are just telling what they hold */
	EV_CONFIG, /* another configuration: rounds that run begin again (protocol.md 2.10) */
	EV_SETTLED, /* every master is in sync with the last change of the masters: what a node that
		     * is none any more has kept for them may go */
	EV_CEILING, /* ballots up to n are durable */
	EV_TICK,    /* time passes: expiry, timeouts, answers that wait in line. Bounded work. */
};

struct engine_members {
	uint64_t masters_epoch; /* the change, if it has not been seen yet */
	uint8_t n_masters;
	uint8_t masters[MASTERS_MAX];
	uint8_t joined, departed;
	bool replica;
	uint64_t since; /* this node is a master since that masters_epoch; 0: the first, or it is
			   none */
};

struct event {
	enum event_type type;
	union {
		struct op_request op;
		uint64_t cancel_tag;
		struct {
			uint8_t from; /* node id */
			const struct msg *msg;
		} msg;
		struct {
			uint8_t node;
			bool up;
		} link;
		struct {
			enum node_status status;
			/* NODE_ACTIVE: slots that do not vote yet begin to, and accept no ballot
			 * <= floor_n. */
			uint64_t floor_n;
		} status;
		uint64_t ceiling_n;
		struct engine_members members; /* EV_CONFIG */
	};
};

/* ---- effects ---- */

/* Outcomes of commands.md. */
enum outcome {
	OUT_OK,        /* granted, done, found */
	OUT_HELD,      /* LOCK: null; READ*: never */
	OUT_NULL,      /* READ*: not held; WAIT*: the time ran out */
	OUT_NOTLOCKED, /* WAITRELEASE: not held at the start */
	OUT_NOTOWNER,
	OUT_NOTFOUND,
	OUT_NOQUORUM,
	OUT_UNKNOWN,
	OUT_BUSY,
	OUT_NOTREADY,
	OUT_LIMIT,
};

/* What happened to a key. */
enum observed {
	OBSERVED_GRANTED,
	OBSERVED_UPDATED,
	OBSERVED_RELEASED, /* token 0: it was not held when this was first looked at */
	OBSERVED_EXPIRED,
	OBSERVED_LOST, /* this node can no longer tell */
};

struct result {
	uint64_t tag;
	enum op_kind kind;
	enum outcome outcome;
	uint64_t token;
	uint64_t valid_ms; /* counted from when the client sent the request */
	uint8_t quorum;    /* masters needed */
	uint8_t votes;
	uint8_t commits;
	uint8_t masters;    /* all of them: "1 of 3" */
	uint8_t answered;   /* NOQUORUM, UNKNOWN: reachable (nothing sent) or answering masters */
	uint8_t node;       /* HOLDER: coordinator */
	bool sent;          /* NOQUORUM: something was sent */
	uint8_t event;      /* OBSERVE: enum observed */
	struct bytes value; /* READ*, WAITFOR, OBSERVE */
	struct bytes client;
	uint64_t remaining_ns;
	uint64_t held_ns;
	uint64_t elapsed_ns; /* LAG */
	const char *limit;   /* OUT_LIMIT: which */
};

enum effect_type {
	FX_SEND, /* msg to each node of to[] */
	FX_REPLY,
	FX_CEILING, /* make ceiling_n durable, then EV_CEILING */
};

struct effect {
	enum effect_type type;
	union {
		struct {
			uint8_t to_count;
			uint8_t to[MASTERS_MAX];
			struct msg msg;
		} send;
		struct result reply;
		uint64_t ceiling_n;
	};
};

enum { EFFECTS_MAX = 64 };

/* Views in effects stay valid until the next step. */
struct effects {
	unsigned n;
	struct effect v[EFFECTS_MAX];
};

/* One step. @fx is emptied first. EV_TICK stops early when @fx fills up: engine_wait_ns() is 0
 * then. */
void engine_step(struct engine *e, const struct engine_time *now, const struct event *ev,
	struct effects *fx);

/* Nanoseconds until the next EV_TICK is due: 0 now, UINT64_MAX none. */
uint64_t engine_wait_ns(const struct engine *e, const struct engine_time *now);

/* Warm the cache lines an operation on @hash will touch; two stages, a batch apart. */
void engine_prefetch_index(const struct engine *e, uint64_t hash);
void engine_prefetch_lease(const struct engine *e, uint64_t hash);

/* Highest ballot n known here, and learning one from elsewhere (frame headers carry it). */
uint64_t engine_hlc(const struct engine *e);
void engine_hlc_merge(struct engine *e, uint64_t n);

/* ---- looking ---- */

/* Nothing is held here that a restart would forget: it votes in all its slots and has no entry of
 * any kind. *ret_top_n: the highest ballot that it has ever accepted, refused, sealed or heard of.
 */
bool engine_holds_nothing(const struct engine *e, uint64_t *ret_top_n);

struct engine_stats {
	enum node_status status;
	uint16_t slots, slots_voting; /* of this shard */
	uint16_t slots_in_sync; /* of them: with the configuration; of a replica: has a copy */
	uint64_t synced_epoch;  /* masters_epoch with which all are in sync; 0: not all are */
	uint64_t lag_ns; /* replica: age of the copy of the slot where it is oldest, as of the last
			  * step; UINT64_MAX: a slot has none */
	uint64_t followers; /* replicas that have asked for the log lately, added up over slots */
	uint64_t log_records, log_sent, log_gaps; /* master: appended; told; asked for too late */
	uint64_t copied, snapshots;               /* replica: entries taken in; slots begun anew */
	bool healing;      /* looking through all slots for keys that were missed */
	uint64_t leases;   /* confirmed live entries, probe keys left out */
	uint64_t promises; /* unconfirmed ones */
	uint64_t waiters;  /* LOCK WAIT, WAITFOR, WAITRELEASE */
	uint64_t observers;
	uint64_t ops; /* rounds in flight, background ones included */
	uint64_t ops_max;
	uint64_t tombstones;
	uint64_t shadows;      /* keys that somebody may hold: refused until the lease ends */
	uint64_t staged;       /* told of by others, in slots that do not vote yet */
	uint64_t resync;       /* single keys without a vote */
	uint64_t memory_bytes; /* touched so far, approximately */
	uint64_t granted, refused, released, extended, updated, expired;
	uint64_t stale, retries, aborts, queries, dissolved, no_quorum, unknown, limit;
	uint64_t healed;    /* entries got back from others, slots after a restart not counted */
	uint64_t sync_full; /* slots that could not be taken in for want of room */
	uint64_t msgs_in, msgs_out;
};
void engine_stats(const struct engine *e, struct engine_stats *ret);

struct scan_item {
	struct bytes key, value, client;
	uint64_t token, remaining_ns, held_ns;
	uint8_t node;
};

/* Walk confirmed live entries in hash order from @cursor (0: start) calling @each; returns the
 * next cursor, 0 when done. Visits whole segments until at least @count entries were seen. An
 * entry there during the whole walk is seen at least once. Cursors fit 32 bits. */
uint64_t engine_scan(const struct engine *e, const struct engine_time *now, uint64_t cursor,
	unsigned count, void (*each)(void *arg, const struct scan_item *item), void *arg);
/* Clients of this node that stand in line for the key. */
uint32_t engine_waiters(const struct engine *e, struct bytes key);

/* Keys with this prefix are hidden from counts and walks (LAG probes). */
#define PROBE_PREFIX "\0locker:probe:"
enum { PROBE_PREFIX_BYTES = sizeof PROBE_PREFIX - 1 };

/* Walks everything; aborts on a broken invariant. For tests. */
void engine_validate(const struct engine *e);
