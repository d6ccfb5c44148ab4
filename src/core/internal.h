/* What the files of the engine share. The story is in README.md; the law in protocol.md. */
#pragma once

#include "base/check.h"
#include "base/hash.h"
#include "base/mutant.h"
#include "base/prng.h"
#include "core/arena.h"
#include "core/engine.h"
#include "core/lines.h"
#include "core/map.h"
#include "core/replica.h"
#include "core/tomb.h"
#include "core/wheel.h"
#include "wire/sync.h"

#define NS_PER_MS UINT64_C(1000000)
#define EPOCH_US  UINT64_C(1577836800000000) /* 2020-01-01 UTC: ballots count from there */
#define PROBE_REQ (UINT64_C(1) << 63)        /* marks `req` of a promise's own questions */

enum {
	PROBES_MAX = 1024,     /* promises asking their fellow masters at one time */
	ABORTED_MAX = 65536,   /* aborted attempts remembered for QUERY */
	LIMBO_MAX = 512,       /* blocks whose views may still be in effects */
	STEP_BLOCKS = 96,      /* room kept for the blocks a batch of actions disposes of */
	NAMES_IDLE_MAX = 1024, /* names without an entry that are kept */
	NAMES_SWEEP = 16,      /* and how many of the others go at a time */
	EXPIRY_BATCH = 16,     /* entries whose end is looked at together */
	STEP_EFFECTS = 40,     /* room kept for the effects of a batch of actions */
	BACKOFF_CAP_MS = 50,
	SYNC_SLOTS = 8,     /* slots asked about at one time */
	SYNC_SEGMENTS = 16, /* of the table, looked at for one report or one slice of settling */
	DOUBT_PARTS = 8,    /* a SHADOW is asked about after T_att over this */
	LEISURE_PARTS = 2,  /* who asks at leisure rests so many times as long as an answer took */
	LEISURE_MAX_MS = 5,
	OBSERVERS_PART = 4,   /* of all operations at most so many are observers */
	LEISURE_SEGMENTS = 2, /* settled in one go at leisure */
	HEALS_SPARE = 16,     /* a heal pass asks for no more when a 16th of its room is left */
	HEALS_HINTED = 4,     /* clients who extend what is not there get a quarter of it */
	POLL_MS = 1000,       /* a parked waiter looks again at least this often */
	PROMISE_CAP_MS = 50,  /* T_prom */
	RTT_START_NS = 1000000,
	PEERS_MAX = MASTERS_MAX + 1, /* the masters, and one that was until the last change */
};
_Static_assert(2 * COPY_ENTRIES + STEP_BLOCKS <= LIMBO_MAX, "one answer is one step");

/* ---- lease.c: the lease table ---- */

enum lease_flag {
	LEASE_UNCONFIRMED = 1 << 0, /* a promise: granted here, not yet known to have a majority */
	LEASE_STICKY = 1 << 1,      /* this coordinator's ballot is promised by a majority, its last
				     * write is known: update and release by value take one round */
	LEASE_ASKED = 1 << 2,       /* promise: its coordinator was asked once already */
	LEASE_HIDDEN = 1 << 3,      /* a probe key of LAG */
	LEASE_DOUBTED = 1 << 4,     /* a RELEASE was refused here: is it still held elsewhere? */
	LEASE_MISSED = 1 << 5, /* a later one was granted by others while this stood in the way */
	/* What is not LIVE (protocol.md 2.3, 2.8). */
	LEASE_STAGED = 1 << 6, /* told of by others, in a slot that does not vote yet */
	LEASE_SHADOW = 1 << 7, /* somebody may hold the key: refuses, and knows nothing else */
	LEASE_RESYNC = 1 << 8, /* no vote on this key until others have said what they hold; has one
				* heal, which alone ends it */
	LEASE_SEALED =
		1 << 9, /* RESYNC: a release was acknowledged meanwhile, nothing comes back */
	LEASE_HEARSAY = 1 << 10, /* the value is here, but this master is no witness that it was
				  * written (protocol.md 2.6): not to be counted */
	LEASE_COPY = 1 << 11,    /* of a replica: what a master's log tells */
	LEASE_VOUCHED = 1 << 12, /* extended or written since the masters changed, in a slot that
				  * has not merged: a certificate may rest on it */
	LEASE_NOT_LIVE = LEASE_STAGED | LEASE_SHADOW | LEASE_RESYNC,
	LEASE_UNSEEN = LEASE_NOT_LIVE | LEASE_UNCONFIRMED, /* hidden from this node's readers */
};

enum {
	/* In lease.reports of a slot that has not merged: not all were counted, no merge rules the
	 * entry out. */
	REPORTS_UNCOUNTED = UINT8_MAX,
};

/* A live entry: one cache line, then key and value. */
struct lease {
	uint64_t token; /* uid.n */
	uint64_t cid;   /* uid.cid */
	uint64_t maxn;
	uint64_t end_ns;  /* slow clock */
	int64_t since_ns; /* slow clock; negative: before this machine was booted */
	struct wheel_link wheel;
	uint32_t side; /* struct side, or 0: vb = pb = (token, cid, 0), no probe */
	uint32_t name; /* of the client: names.c, or 0 */
	uint16_t key_bytes;
	uint16_t value_bytes;
	uint16_t flags; /* enum lease_flag */
	uint8_t node;
	uint8_t reports; /* STAGED, RESYNC: how many masters told of it with this uid. MERGE: the
			  * same, and in the upper half how many may hold it (SHADOW) */
	uint8_t data[];  /* key value */
};
_Static_assert(sizeof(struct lease) == 64, "one cache line");

/* What only an update, or a promise that grows old, needs. */
struct side {
	struct version vb; /* version of the value */
	struct version pb; /* promised ballot */
	uint64_t pb_ns;    /* when promised, slow clock; 0: not by this incarnation */
	uint64_t last_op;
	/* Another instance that somebody may hold: when this one ends, a SHADOW of it stays. */
	uint64_t behind_ns;   /* slow clock: until then; 0: none */
	struct ballot behind; /* {0, 0}: more than one */
	uint32_t probe;       /* index + 1 of a running probe of a promise, or 0 */
};

/* ---- round.c: operations in flight ---- */

enum op_state {
	OPS_FREE,
	OPS_LOCK_TRY,     /* TRYLOCK out */
	OPS_LOCK_BACKOFF, /* until the timer */
	OPS_LOCK_PARKED,  /* head of its line: held by another; woken, or looks again by timer */
	OPS_LOCK_QUEUED,  /* behind the head */
	OPS_EXTEND,
	OPS_PREPARE,
	OPS_ACCEPT,
	OPS_RELEASE,
	OPS_READ,
	OPS_RETRY, /* waits for its timer, then begins its kind's round again */
	OPS_WATCH, /* WAITFOR, WAITRELEASE, OBSERVE */
};

/* Why an operation prepares a ballot. */
enum prepare_goal {
	GOAL_UPDATE,
	GOAL_RELEASE,
	GOAL_EXTEND, /* identity write, then EXTEND again */
	GOAL_READ,   /* identity write, then the value is the answer */
};

/* What an ACCEPT round writes. */
enum accept_kind {
	ACCEPT_NEW,      /* the new value of UPDATE */
	ACCEPT_OWN,      /* write back: it is this operation's own value already */
	ACCEPT_IDENTITY, /* write back somebody else's value, then go on with the goal */
};

/* One master's answer in the running round. */
struct answer {
	uint8_t verdict; /* 0: none yet */
	uint8_t flags;
	uint8_t node;
	uint8_t name_bytes;
	uint16_t value_bytes;
	uint32_t block; /* value and name, arena, or 0 */
	struct ballot uid;
	struct version b;
	uint64_t n;
	uint64_t op_id;
	uint64_t remaining_ns;
	uint64_t held_ns;
};

struct op {
	struct wheel_link wheel; /* must be first: offset 0 of the op stride */
	uint32_t index;
	uint32_t round;  /* counts rounds: answers to older ones are not ours */
	uint32_t config; /* engine.configs when the round began */
	uint8_t state;
	uint8_t kind; /* enum op_kind */
	uint8_t goal;
	uint8_t accept;
	uint16_t slot;
	bool wait, idempotent, has_token, any_value, has_ttl;
	bool orphan;   /* no reply is wanted any more */
	bool maybe;    /* an ACCEPT of an UPDATE may have taken effect somewhere */
	bool was_live; /* RELEASE: ours removed something; WAIT*: what it waits for has happened */
	bool sent;
	bool voided; /* a round was cut off by a change of the masters: what it did is not known */
	bool resend; /* RELEASE: again when enough masters are there */
	bool in_queue; /* member of a line's lock or watch list */
	bool in_run;
	bool adopting; /* LOCK IDEMPOTENT in its EXTEND */
	bool sealed_read, polled;
	uint8_t attempts;    /* LOCK: in a row without parking */
	uint8_t heard;       /* LOCK, READ: how many masters answered the round that failed last */
	uint8_t quorum_seen; /* votes of the round that counted */
	uint16_t asked, answered; /* bit per master index */
	uint16_t removed;         /* RELEASE: masters that took their copy away for it, if it is not
				   * voided */
	uint32_t block;           /* key value new_value client, arena */
	uint16_t key_bytes, value_bytes, new_bytes, client_bytes;
	uint32_t ttl_ms;
	uint32_t line;               /* struct line index + 1 when in_queue */
	uint32_t q_next, q_prev;     /* op index + 1 */
	uint32_t run_next;           /* op index + 1 */
	uint32_t try_next, try_prev; /* op index + 1: attempts in flight, for QUERY */
	uint64_t hash;
	uint64_t tag;
	uint64_t token;
	uint64_t timer_ns;    /* fast clock: when the state's timer is due */
	uint64_t deadline_ns; /* fast clock: end of the operation */
	uint64_t t0_ns;       /* fast clock: start of the certificate window */
	uint64_t t0_slow_ns;
	uint64_t asked_slow_ns, asked_fast_ns;
	uint64_t seal_n;
	uint64_t op_id;
	uint64_t base_op;       /* the record that was compared: by UPDATE for its first ACCEPT, by
				 * RELEASE for the last round of it; and ... */
	struct ballot base_uid; /* ... UPDATE: the instance */
	uint64_t backoff_ns;
	uint64_t place;     /* LOCK WAIT: in line, over all nodes */
	struct ballot uid;  /* LOCK: this attempt; others: the instance acted on */
	struct ballot prev; /* LOCK: attempt to be removed in the same message */
	struct version b;   /* running PREPARE/ACCEPT ballot, or guard */
	uint8_t refusal;    /* LOCK: best explanation so far, enum outcome */
	uint8_t home;       /* LOCK, parked: where it stands, or is about to; 0: nowhere */
	uint8_t seen;       /* OBSERVE: what it was told last; of a lease uid, and b of the value */
	uint64_t end_ns;    /* OBSERVE: when that lease was to end, once it is over; slow clock */
	struct answer answers[];
};

/* ---- promise.c ---- */

struct probe {
	struct ballot uid;
	uint32_t lease; /* arena reference, 0: free */
	uint32_t round;
	uint16_t good; /* masters that are sealed and do not hold it */
	uint32_t next_free;
};

/* ---- resync.c, heal.c: what others hold (protocol.md 2.8) ---- */

/* What this master does with the keys of a slot. */
enum slot_state {
	SLOT_SILENT, /* nothing: quarantine, not ours, or its turn to ask has not come */
	SLOT_SYNC,   /* asks, or takes in what it has heard; one of engine.syncs */
	SLOT_VOTES,
	SLOT_RETIRED, /* voted until a change took this node's vote: still told of to those who
			 merge */
	SLOT_COPIES,  /* a replica has a whole copy, and follows the log */
};

enum sync_state {
	SYNC_NONE,
	SYNC_ASKING,
	SYNC_PURGING,  /* what was staged is thrown away: asked in vain, or no room */
	SYNC_SETTLING, /* what was staged becomes LIVE or SHADOW */
	SYNC_COVERING, /* waits until the ceiling is durable above all that was heard of */
};

/* What a slot is being asked about for. */
enum sync_why {
	SYNC_RESTART, /* to vote, after a restart or as a new master: 2.8 */
	SYNC_MERGE,   /* it votes; to know what was granted before the masters changed: 2.10 */
	SYNC_HEAL,    /* it votes; to find keys that were missed */
};

enum sync_after { AFTER_AGAIN, AFTER_VOTE, AFTER_NOTHING };

/* One master's report on a slot, as far as it has come. */
struct pull {
	uint64_t req;    /* of the question out; 0: none */
	uint64_t due_ns; /* ask, or ask again; slow clock */
	uint64_t cursor;
	uint16_t key_bytes;
	bool silent;                /* it said that it cannot tell */
	uint8_t key[KEY_MAX_BYTES]; /* last key heard of, when the report was cut at its hash */
};

/* A slot that is being asked about. */
struct sync {
	uint8_t state;
	uint8_t why;    /* enum sync_why */
	uint8_t after;  /* PURGING: enum sync_after */
	bool purge_all; /* PURGING: not only what is staged */
	uint16_t slot;
	uint16_t finished; /* bit per master index: its report is complete */
	uint64_t floor_n;  /* of the slot, the highest told */
	uint64_t cover_n;  /* highest n of any entry told */
	uint64_t cursor;   /* PURGING, SETTLING: hash to go on from */
	uint64_t due_ns;   /* PURGING for want of room: begin again. MERGE: not waiting for more */
	struct pull pulls[PEERS_MAX];
};

enum heal_state {
	HEAL_FREE,
	HEAL_LATER, /* something was missed, a moment ago */
	HEAL_CHECK, /* do enough others hold it? Nothing is changed yet */
	HEAL_WAIT,  /* RESYNC: until no answer of ours counts in a running certificate */
	HEAL_ASK,   /* RESYNC: what do they hold now? */
};

/* A key that others hold and this master does not. */
struct heal {
	struct wheel_link wheel; /* must be first */
	uint64_t due_ns;         /* slow clock */
	uint64_t hash;
	struct ballot uid;
	uint32_t block; /* the key, arena */
	uint32_t round; /* counts questions: answers to older ones are not ours */
	uint32_t next_free;
	uint16_t key_bytes;
	uint16_t asked, answered;
	uint8_t state;
	uint8_t reports; /* CHECK */
	uint8_t tries;   /* CHECK */
	bool unsaid;     /* CHECK: somebody could not tell */
	bool of_pass;
	bool of_merge;
};

struct aborted {
	uint64_t n;
	uint64_t until_ns; /* fast clock */
};

struct block {
	uint32_t ref;
	uint32_t bytes;
};

struct engine {
	struct engine_config cfg;
	struct engine_time now;
	struct effects *fx;
	enum node_status status;

	uint8_t majority, blocking;
	uint8_t self_index; /* among the masters, or NO_MASTER */
	uint8_t index_of[NODE_ID_MAX + 1];
	uint16_t links_up; /* bit per master index */
	bool linked[NODE_ID_MAX + 1];
	/* config.c: the masters before the last change of them. */
	bool changed;             /* there was one: what is in sync with it has been merged */
	bool departed_up;         /* cfg.departed, at index cfg.n_masters, is linked */
	uint16_t masters_before;  /* bit per index, the departed one included */
	uint8_t blocking_before;  /* their blocking set */
	uint32_t configs;         /* counts configurations */
	uint32_t void_next;       /* op index: rounds from here on may be of an older one */
	uint64_t changed_fast_ns; /* when the last configuration came */
	int64_t changed_slow_ns;  /* the masters changed last: since_ns of what was there is less */
	uint64_t attempt_ns, drift_ppm;
	uint64_t promise_ns; /* T_promise */
	uint64_t wait_ns;    /* T_wait */
	uint64_t landed_ns;  /* after that nothing of a message sent now can land */
	uint64_t hlc;
	uint64_t ceiling, ceiling_asked;
	uint64_t rtt_ns;
	struct prng prng;

	struct arena arena;
	struct map leases;
	struct wheel lease_wheel; /* slow clock */
	struct tombs tombs;
	uint64_t n_leases, n_promises, n_hidden, n_staged, n_shadows, n_resync;

	uint8_t slot_state[SLOTS_MAX];
	bool slot_merged[SLOTS_MAX]; /* in sync with the masters' last change, once it votes */
	uint16_t slots_mine, slots_voting, slots_merged;
	uint16_t next_merge, next_forget, next_sync, next_heal; /* slots to be taken up next */
	uint16_t merge_first;                                   /* before next_merge, or NO_SLOT */
	bool at_leisure;        /* nobody waits for what is being asked about: others come first */
	bool discard;           /* what slots hold that do not vote is no word of a master */
	bool merging;           /* slots that vote and are not merged are to be asked about */
	bool forgetting;        /* no master any more: slots are emptied */
	bool restarted;         /* NODE_RESYNC: slots that do not vote are to be asked about */
	bool heal_wanted;       /* look through all slots for keys that were missed */
	bool healing;           /* that is being done */
	uint64_t heal_after_ns; /* slow clock; not before: the last pass left something out */
	uint64_t resync_due_ns; /* slow clock; UINT64_MAX: nothing to do */
	uint64_t sync_seq;
	struct sync syncs[SYNC_SLOTS];
	uint8_t *sync_body; /* of the report in this step's effects */

	struct logs logs;
	struct copies copies;

	uint8_t *heals;
	struct map heal_map;     /* one a hash */
	struct wheel heal_wheel; /* slow clock */
	uint32_t heal_free, heals_touched, heals_used;
	uint32_t heals_of_pass;  /* begun by the heal pass that runs */
	uint32_t heals_of_merge; /* begun by reports after a change of the masters */

	struct map names;
	uint64_t names_idle, names_cursor;

	uint8_t *ops;
	size_t op_stride;
	uint32_t op_free, ops_used, ops_touched;
	uint32_t try_head;
	struct wheel op_wheel;       /* fast clock */
	uint32_t run_head, run_tail; /* op index + 1: work to go on with */

	struct map waiting; /* by tag: operations that EV_CANCEL may name */
	struct map lines;
	struct line *line_pool;
	uint32_t line_free, lines_touched;
	uint64_t n_waiters, n_observers;
	struct turns turns;

	struct probe probes[PROBES_MAX];
	uint32_t probe_free;
	struct map aborted_map;
	struct aborted aborted[ABORTED_MAX];
	uint32_t aborted_head, aborted_n;

	struct block limbo[LIMBO_MAX];
	uint32_t limbo_n;
	struct result nobody;
	struct engine_stats stats;
};

enum {
	NO_MASTER = 0xff,
	NO_SLOT = 0xffff,
	ROUND_MASK = 0x7fffffff /* the top bit of `req` marks probes */
};

/* ---- engine.c ---- */
struct effect *effect_new(struct engine *e, enum effect_type type);
bool effects_room(const struct engine *e);
/* Give a block back once nothing of this step can refer to it any more. */
void block_dispose(struct engine *e, uint32_t ref, size_t bytes);
/* Send to the masters of @mask (self left out), or to one node. */
void send_masters(struct engine *e, uint16_t mask, const struct msg *m);
void send_node(struct engine *e, uint8_t node, const struct msg *m);
static inline unsigned count_bits(uint16_t mask)
{
	unsigned n = 0;
	for (; mask != 0; mask &= (uint16_t)(mask - 1))
		n++; /* few bits; popcount is a call into libgcc on the oldest x86-64 */
	return n;
}

/* ---- config.c: another configuration (protocol.md 2.10) ---- */
void config_init(struct engine *e);
void config_change(struct engine *e, const struct engine_members *m);
void config_tick(struct engine *e);
bool config_tick_due(const struct engine *e);
/* A round begun before the last change begins again. False: it is of this configuration, or there
 * is none. */
bool config_renew(struct engine *e, struct op *op);
void config_link(struct engine *e, uint8_t node, bool up);
/* A change came a moment ago: the others may not act by it yet. */
bool config_is_fresh(const struct engine *e);
uint8_t peer_at(const struct engine *e, unsigned index);
/* Bit per index, of those before the last change: linked now, this node left out. */
uint16_t peers_before(const struct engine *e);

/* ---- ballot.c: hybrid clock, ceiling, drift margins ---- */
uint64_t ballot_next(struct engine *e);
void ballot_merge(struct engine *e, uint64_t n);
/* Keep the durable ceiling ahead of @n. False: not durable yet, do not answer. */
bool ballot_cover(struct engine *e, uint64_t n);
uint64_t less_drift(const struct engine *e, uint64_t ns); /* ns * (1 - 2 rho), rounded down */
uint64_t more_drift(const struct engine *e, uint64_t ns); /* ns * kappa, rounded up */
uint64_t lease_holder_ns(
	const struct engine *e, uint64_t lease_ns); /* L_eff; 0 when none is left */

/* ---- names.c: client names, stored once ---- */
uint32_t name_take(struct engine *e, struct bytes name); /* 0: none, or no room */
void name_drop(struct engine *e, uint32_t ref);
struct bytes name_at(const struct engine *e, uint32_t ref);
void names_tick(struct engine *e);

/* ---- lease.c ---- */
static inline struct lease *lease_at(const struct engine *e, uint32_t ref)
{
	return arena_at(&e->arena, ref);
}
static inline struct bytes lease_key(const struct lease *l)
{
	return bytes_of(l->data, l->key_bytes);
}
static inline struct bytes lease_value(const struct lease *l)
{
	return bytes_of(l->data + l->key_bytes, l->value_bytes);
}
static inline struct ballot lease_uid(const struct lease *l)
{
	return (struct ballot){l->token, l->cid};
}
/* Reference of the live entry of the key, or 0. One that has ended is removed on the way. */
uint32_t lease_find(struct engine *e, uint64_t hash, struct bytes key);
/* Make a live, unconfirmed entry from a TRYLOCK; 0: no room. */
uint32_t lease_new(struct engine *e, uint64_t hash, const struct msg *m);
/* The entry is over (released, aborted, expired): tombstone, wake whoever waits. */
void lease_end(struct engine *e, uint64_t hash, uint32_t ref);
/* A promise is given up by who asked for it. Nobody is woken: those in line did not wait for it,
 * and two who woke each other with their own failures would never rest. */
void lease_withdraw(struct engine *e, uint64_t hash, uint32_t ref);
void lease_confirm(struct engine *e, uint64_t hash, uint32_t ref);
/* Ask the fellow masters after T_promise, as of a promise, whether anybody can still hold it. */
void lease_doubt(struct engine *e, uint32_t ref);
/* Put another value; returns the entry's (possibly new) reference, 0: no room, nothing changed. */
uint32_t lease_set_value(struct engine *e, uint64_t hash, uint32_t ref, struct bytes value);
struct version lease_vb(const struct engine *e, const struct lease *l);
struct version lease_pb(const struct engine *e, const struct lease *l);
/* May this coordinator write or release in one round, without asking first? */
bool lease_is_sticky(const struct engine *e, const struct lease *l);
/* The side record, made on demand; NULL: no room. */
struct side *lease_side(struct engine *e, struct lease *l);
uint64_t lease_last_op(const struct engine *e, const struct lease *l);
void lease_raise_maxn(struct engine *e, uint32_t ref, uint64_t n);
/* maxn of a key without entry: its tombstone's or the floor of its slot. */
uint64_t free_maxn(const struct engine *e, uint64_t hash);
uint16_t slot_of(const struct engine *e, uint64_t hash);
/* Entries whose time has come; bounded. */
void leases_tick(struct engine *e);
static inline uint64_t lease_held_ns(const struct lease *l, const struct engine_time *now)
{
	int64_t held_ns = (int64_t)now->slow_ns - l->since_ns;
	return held_ns > 0 ? (uint64_t)held_ns : 0; /* lease_new() */
}
static inline bool lease_is_live(const struct lease *l)
{
	return (l->flags & LEASE_NOT_LIVE) == 0;
}
/* Set and clear flags, and keep the counts. */
void lease_flags(struct engine *e, struct lease *l, uint16_t set, uint16_t clear);
/* Make an entry of what another master told; 0: no room. */
uint32_t lease_stage(struct engine *e, uint64_t hash, const struct sync_entry *s);
/* All that others tell of it is here: it becomes LIVE. */
void lease_told(struct engine *e, struct lease *l);
/* The same in the place of @ref, which knew nothing but its key; 0: no room, nothing changed. */
uint32_t lease_replace(
	struct engine *e, uint64_t hash, uint32_t ref, const struct sync_entry *s, uint16_t flags);
/* Add what one more master tells of the same uid; the entry's new reference, 0: no room. */
uint32_t lease_add_report(
	struct engine *e, uint64_t hash, uint32_t ref, const struct sync_entry *s);
/* Somebody may hold the key, says another master: the entry stays for so long, or a SHADOW is made
 * or comes after it. The entry's reference, 0: no room. */
uint32_t lease_shadow(struct engine *e, uint64_t hash, const struct sync_entry *s);
/* Somebody may hold another instance than this one. */
bool lease_has_behind(const struct engine *e, const struct lease *l);
/* The same instance, told of by another master while this one votes: a later version is taken over
 * as hearsay. The entry's new reference, 0: no room. */
uint32_t lease_catch_up(struct engine *e, uint64_t hash, uint32_t ref, const struct sync_entry *s);
/* An entry that only says: no vote on this key; 0: no room. */
uint32_t lease_block(struct engine *e, uint64_t hash, struct bytes key);
/* The entry is to stay at least for what another master has left of it, @remaining_ns. */
void lease_outlast(struct engine *e, struct lease *l, uint64_t remaining_ns);
/* Look at the entry again in T_promise, or at its end. */
void lease_rearm(struct engine *e, uint32_t ref);
/* What a replica's readers may see: confirmed and not in doubt. */
static inline bool lease_is_visible(const struct lease *l)
{
	return (l->flags & LEASE_UNSEEN) == 0;
}
/* Make an entry of a replica from what its master tells; 0: no room. */
uint32_t lease_copy(struct engine *e, uint64_t hash, const struct sync_entry *s);
/* The same instance, told of again: the value, unless it is older, and the end. False: no room. */
bool lease_copy_again(struct engine *e, uint64_t hash, uint32_t ref, const struct sync_entry *s);

/* ---- master.c: the voter ---- */
/* Handle a request (any type but REPLY, CONFIRM, QUERY) whose key has this hash; true: *reply is
 * the answer. */
bool master_handle(struct engine *e, uint64_t hash, const struct msg *m, struct msg *reply);
void master_confirm(struct engine *e, const struct msg *m);

/* ---- report.c: what this master holds, for others ---- */
bool report_handle(struct engine *e, const struct msg *m, struct msg *reply);
uint64_t slot_first_hash(const struct engine *e, uint16_t slot);
/* False: it is over, or says nothing (a key in RESYNC). */
bool lease_describe(const struct engine *e, const struct lease *l, struct sync_entry *ret);
/* Collect the entries of one segment of @slot from hash @from on, ascending by hash and key;
 * returns where the next segment begins, 0: the slot has no more. At most MAP_SEGMENT_SLOTS. */
struct gathered {
	uint64_t hash;
	uint32_t ref;
};
uint64_t slot_gather(const struct engine *e, uint16_t slot, uint64_t from,
	struct gathered ret[MAP_SEGMENT_SLOTS], unsigned *ret_n);

/* ---- resync.c: slots after a restart ---- */
void resync_init(struct engine *e);
static inline bool slot_votes(const struct engine *e, uint16_t slot)
{
	return e->slot_state[slot] == SLOT_VOTES;
}
/* Its word counts for those who restart, heal, or doubt a promise. */
static inline bool slot_in_sync(const struct engine *e, uint16_t slot)
{
	return slot_votes(e, slot) && (e->slot_merged[slot] || MUTANT(SYNC_UNMERGED));
}
/* This node's readers get answers. */
static inline bool slot_readable(const struct engine *e, uint16_t slot)
{
	return slot_votes(e, slot) || e->slot_state[slot] == SLOT_COPIES;
}
void resync_begin(struct engine *e);
/* No master any more. */
void resync_retire(struct engine *e);
/* The masters have changed; @voted: this node was one. */
void resync_config(struct engine *e, bool voted, bool changed);
/* Every master is in sync: what was kept for them may go. */
void resync_settled(struct engine *e);
/* Vote in every slot of ours, from @floor_n on; what was heard of is thrown away. */
void resync_give_up(struct engine *e, uint64_t floor_n);
void resync_stop(struct engine *e);
void resync_heal(struct engine *e);
/* A heal pass could not deal with a key that was missed: another one, a while later. */
void resync_heal_again(struct engine *e);
/* Somebody asks for a key of this slot that cannot be told of before it has been merged. */
void resync_merge_first(struct engine *e, uint16_t slot);
void resync_answer(struct engine *e, unsigned from_index, const struct msg *m);
void resync_link(struct engine *e, unsigned index, bool up);
void resync_ceiling(struct engine *e);
/* A heal that a pass began is over. */
void resync_heal_ended(struct engine *e);
void resync_tick(struct engine *e);

/* ---- merge.c: after a change of the masters ---- */
/* Enough of those who could grant before have told. */
bool merge_enough(const struct engine *e, const struct sync *s);
/* Nothing is granted on what another master says of a key, only refused. False: no room. */
bool merge_refusals(struct engine *e, uint64_t hash, const struct sync_entry *s);
/* All have told: what becomes of the entry. */
void merge_settle(struct engine *e, const struct sync *s, struct gathered g);

/* ---- heal.c: single keys ---- */
void heals_init(struct engine *e);
/* For as many as a few reports can bring. */
bool heals_have_room(const struct engine *e);
/* Others may hold this key, and this master does not: look into it in a moment. */
void heal_later(struct engine *e, uint64_t hash, struct bytes key);
/* The same of what was granted before the masters changed: until that is settled this master is not
 * in sync, for who holds it could not extend it after another change. */
void heal_merged(struct engine *e, uint64_t hash, struct bytes key);
/* The same on the word of a client, which may be wrong as often as it likes. */
void heal_hinted(struct engine *e, uint64_t hash, struct bytes key);
/* Another master holds this instance, and this one does not. */
void heal_found(struct engine *e, uint64_t hash, const struct sync_entry *s);
void heal_answer(struct engine *e, unsigned from_index, const struct msg *m);
void heals_tick(struct engine *e);

/* ---- log.c: the log that replicas follow (protocol.md 2.9) ---- */
static inline uint16_t shard_slots(const struct engine_config *cfg)
{
	return (uint16_t)((cfg->slots + cfg->threads - 1) / cfg->threads);
}
void log_append(struct engine *e, uint64_t hash, const struct lease *l);
/* Something that replicas see of this entry has changed, or is about to. */
static inline void log_changed(struct engine *e, uint64_t hash, const struct lease *l)
{
	if (e->now.slow_ns < e->logs.until_ns)
		log_append(e, hash, l);
}
/* ---- promise.c ---- */
void promises_init(struct engine *e);
/* An unconfirmed entry has become old: ask. */
void promise_due(struct engine *e, uint32_t ref);
void promise_drop_answers(struct engine *e, struct lease *l);
/* Answers of other masters than those of now say nothing. */
void promises_forget_answers(struct engine *e);
void promise_answer(struct engine *e, unsigned from_index, const struct msg *m);
void promise_query(struct engine *e, uint8_t from, const struct msg *m);
void aborted_remember(struct engine *e, uint64_t n, uint32_t lease_ms);
void aborted_tick(struct engine *e);

/* ---- round.c ---- */
static inline struct op *op_at(const struct engine *e, uint32_t index)
{
	return (struct op *)(void *)(e->ops + (size_t)index * e->op_stride);
}
static inline uint8_t *op_data(const struct engine *e, const struct op *op)
{
	return arena_at(&e->arena, op->block);
}
static inline struct bytes op_key(const struct engine *e, const struct op *op)
{
	return bytes_of(op_data(e, op), op->key_bytes);
}
static inline struct bytes op_value(const struct engine *e, const struct op *op)
{
	return bytes_of(op_data(e, op) + op->key_bytes, op->value_bytes);
}
static inline struct bytes op_new_value(const struct engine *e, const struct op *op)
{
	return bytes_of(op_data(e, op) + op->key_bytes + op->value_bytes, op->new_bytes);
}
static inline struct bytes op_client(const struct engine *e, const struct op *op)
{
	return bytes_of(
		op_data(e, op) + op->key_bytes + op->value_bytes + op->new_bytes, op->client_bytes);
}
struct op *op_new(struct engine *e, const struct op_request *r); /* NULL: full */
void op_free(struct engine *e, struct op *op);
/* The waiting operation of this tag, or NULL. */
struct op *op_waiting(const struct engine *e, uint64_t tag);
/* Answer the client; the operation lives on until op_free(). */
struct result *op_reply(struct engine *e, struct op *op, enum outcome outcome);
void op_finish(struct engine *e, struct op *op, enum outcome outcome);
void op_timer(struct engine *e, struct op *op, uint64_t due_fast_ns);
void op_run_later(struct engine *e, struct op *op);
/* A majority has answered; the others get a moment before the timer of the round runs. */
void round_wait(struct engine *e, struct op *op);
void op_retry_later(struct engine *e, struct op *op);
/* Mask; self only while it votes in this slot. */
uint16_t masters_reachable(const struct engine *e, uint16_t slot);
/* Too few are, but a change came a moment ago: the operation begins again in a moment. False: that
 * is how it is. */
bool round_put_off(struct engine *e, struct op *op, uint16_t mask);
/* Fill in key, slot and req and send to @mask. The caller's last act is then round_self(): it asks
 * the local master, whose answer may finish and free the operation, and arms the timer if not. */
void round_begin(struct engine *e, struct op *op, struct msg *m, uint16_t mask);
void round_self(struct engine *e, struct op *op, const struct msg *m, uint64_t due_fast_ns);
void round_reset(struct engine *e, struct op *op);
void round_answer(struct engine *e, unsigned from_index, const struct msg *m);
unsigned round_outstanding(const struct op *op);
unsigned round_count(const struct engine *e, const struct op *op, uint8_t verdict);
bool round_in_window(const struct engine *e, const struct op *op);
void round_rtt(struct engine *e, const struct op *op);
void ops_tick(struct engine *e);
void ops_run(struct engine *e);
/* The instance with most answers of @verdict; its count. */
/* How many witnesses there are of the instance and version of @like. */
unsigned round_count_version(
	const struct engine *e, const struct op *op, uint8_t verdict, const struct answer *like);
unsigned round_best_uid(
	const struct engine *e, const struct op *op, uint8_t verdict, struct ballot *ret_uid);
unsigned round_count_uid(
	const struct engine *e, const struct op *op, uint8_t verdict, struct ballot uid);

/* ---- lock.c ---- */
void lock_start(struct engine *e, struct op *op);
void lock_attempt(struct engine *e, struct op *op);
void lock_answered(struct engine *e, struct op *op);
void lock_timer(struct engine *e, struct op *op);
void lock_cancel(struct engine *e, struct op *op);
void lock_voided(struct engine *e, struct op *op);
void lock_adopted(struct engine *e, struct op *op, enum outcome outcome);
void lock_next_in_line(struct engine *e, struct op *next, const struct op *left);
/* Wait for the key, and look again after that time at most. */
void lock_park(struct engine *e, struct op *op, uint64_t look_again_ns);
uint64_t lock_wait_until_ns(const struct engine *e, const struct op *op);
/* Index of the master where those who wait for the key stand, and which breaks ties: the first
 * reachable one in rendezvous order. Safety never depends on it. */
unsigned lock_home(const struct engine *e, const struct op *op);
void try_list_remove(struct engine *e, struct op *op);

/* ---- extend.c ---- */
void extend_start(struct engine *e, struct op *op);
void extend_answered(struct engine *e, struct op *op);
void extend_timeout(struct engine *e, struct op *op);

/* ---- update.c: PREPARE/ACCEPT and UPDATE ---- */
void update_start(struct engine *e, struct op *op);
void prepare_start(struct engine *e, struct op *op, enum prepare_goal goal);
void prepare_answered(struct engine *e, struct op *op);
void accept_answered(struct engine *e, struct op *op);
void prepare_timeout(struct engine *e, struct op *op); /* also of ACCEPT */

/* ---- release.c ---- */
void release_start(struct engine *e, struct op *op);
/* Is it this grant, with this value, that is to be released? */
bool release_is_of(const struct engine *e, const struct op *op, uint64_t token, struct bytes value);
/* @base_op: the record that was compared. */
void release_send(
	struct engine *e, struct op *op, struct ballot uid, struct version guard, uint64_t base_op);
/* @acks masters are known not to hold it any more: that is the answer. */
void release_answered(struct engine *e, struct op *op);
/* The masters have changed in the middle of its round. */
void release_voided(struct engine *e, struct op *op);
void release_timer(struct engine *e, struct op *op);

/* ---- read.c ---- */
void read_local(struct engine *e, const struct op_request *r);
void read_start(struct engine *e, struct op *op);
void read_answered(struct engine *e, struct op *op);
void read_timer(struct engine *e, struct op *op);
void read_done(struct engine *e, struct op *op, const struct answer *a);

/* ---- waiters.c, turns.c, observe.c: see lines.h ---- */
static inline struct line *op_line(const struct engine *e, const struct op *op)
{
	return &e->line_pool[op->line - 1];
}
