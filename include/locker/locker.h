/* liblocker: the client library of locker, a distributed lock service.
 *
 *	struct locker_client_options options = {.nodes = "10.0.0.1:7401,10.0.0.2:7401"};
 *	struct locker_client *client;
 *	struct locker_lock *lock;
 *	struct locker_lock_options wish = {
 *		.key = locker_text("report"), .ttl_ms = 10000, .extend = true};
 *
 *	if (locker_client_new(&options, &client) != LOCKER_OK ||
 *		locker_lock_new(client, &wish, &lock) != LOCKER_OK)
 *		return 1;
 *	if (locker_acquire(lock, 5000, NULL) == LOCKER_OK) {
 *		while (work_left() && locker_lock_valid(lock))
 *			work_a_little(locker_lock_token(lock));
 *		locker_release(lock, NULL);
 *	}
 *	locker_lock_free(lock);
 *	locker_client_free(client);
 *
 * WHAT A LOCK PROMISES. While locker_lock_valid() says true nobody else has reason to believe that
 * he holds the lock. It is asked before each protected action, for it cannot stop an action that is
 * under way: a process that is stopped between asking and acting acts late. Against that only the
 * token helps, which grows with every grant of a key: hand it to what you protect, and let that
 * refuse a token smaller than the largest it has seen (struct locker_guard does).
 *
 * THREADS. Every function may be called from every thread at any time, also on the same client or
 * lock, with one exception: what is being freed must not be in use elsewhere. Of two operations on
 * one lock at the same time the later one waits for an automatic extension and is else refused with
 * LOCKER_USAGE. A client has one thread of its own, which keeps locks extended and calls back; or
 * none, where the caller's loop does that (own_loop). After fork() the child must not use a client
 * of its parent.
 *
 * CALLBACKS come one at a time, on the client's thread, or inside locker_process() and the blocking
 * functions where the client has none. Inside one, everything may be called but the functions that
 * block (locker_call, locker_acquire, locker_extend, locker_release, locker_client_free): those
 * answer LOCKER_USAGE. A callback that takes long delays the extension of all locks of
 * its client.
 *
 * The library writes to no stream, ends no process, raises no signal and has no global state.
 * Times are milliseconds. Keys and values are bytes, and are copied. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__GNUC__)
#define LOCKER_API __attribute__((visibility("default")))
#else
#define LOCKER_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

enum {
	LOCKER_KEY_MAX_BYTES = 512,
	LOCKER_VALUE_MAX_BYTES = 4096,
	LOCKER_VALUE_PREFIX_MAX_BYTES = 64,
	LOCKER_NODES_MAX = 64,
};

struct locker_bytes {
	const void *data;
	size_t bytes;
};

static inline struct locker_bytes locker_text(const char *text)
{
	struct locker_bytes b;

	b.data = text;
	b.bytes = text ? strlen(text) : 0;
	return b;
}

/* ---- Outcomes ----
 * None of them stands for another. The numbers do not change; later versions may add some. */

enum locker_outcome {
	LOCKER_OK = 0,

	/* Said by a node: */
	LOCKER_HELD = 1,     /* LOCK: by another; WAITRELEASE: still held when the time was over */
	LOCKER_NOTOWNER = 2, /* held, and not with this value or token; nothing changed */
	LOCKER_NOTFOUND = 3, /* not held; nothing changed */
	LOCKER_NOQUORUM = 4, /* too few masters. LOCK: not yours, and the key may stay blocked for
			      * up to its ttl. Else nothing happened */
	LOCKER_UNKNOWN = 5,  /* EXTEND, RELEASE, UPDATE: may or may not have taken effect. What was
			      * promised before still stands; it may be repeated. LOCK with
			      * IDEMPOTENT: as LOCKER_TIMEOUT */
	LOCKER_BUSY = 6,     /* rivals held one another up; nothing changed */
	LOCKER_NOTREADY = 7, /* no node has a copy to answer from yet */
	LOCKER_LIMIT = 8,    /* a limit was exceeded; nothing changed */
	LOCKER_NONE = 9,     /* READ, HOLDER: not held. WAITFOR: not held within the time */
	LOCKER_NOTLOCKED = 10, /* WAITRELEASE: was not held at the start */
	LOCKER_REFUSED = 11,   /* refused for another reason; see the message */

	/* Found by the library: */
	LOCKER_CONNECT = 32,  /* no node could be reached; nothing was sent */
	LOCKER_PROTOCOL = 33, /* what answers there is no node of locker; nothing was sent */
	LOCKER_TIMEOUT = 34,  /* sent, and no answer came. LOCK: not yours, and the key may stay
			       * blocked for up to its ttl. Never of EXTEND, RELEASE, UPDATE */
	LOCKER_USAGE = 35,    /* this call makes no sense; nothing was sent */
	LOCKER_LOST = 36,     /* the lock is not held any more, or never was */
	LOCKER_MEMORY = 37,   /* out of memory or file descriptors; nothing was sent */
	LOCKER_CLOSED = 38,   /* the client was freed meanwhile; may or may not have taken effect */
};

/* "HELD", and a sentence for people. Never NULL. */
LOCKER_API const char *locker_outcome_word(enum locker_outcome outcome);
LOCKER_API const char *locker_outcome_sentence(enum locker_outcome outcome);

/* ---- A client: the nodes of one cluster ----
 * It keeps two connections at most, over which commands are sent one behind the other without
 * waiting (one for what keeps locks, one for all else), and one more for each command that waits in
 * line. When the node does not answer, has no quorum or no copy, that goes on at the next node, and
 * stays there. */

struct locker_client;

/* Zero stands for the default everywhere. */
struct locker_client_options {
	const char *nodes; /* "HOST:PORT,[v6]:PORT,..."; tried in this order. Numbers are best:
			    * a name is looked up at its first use, and that waits */
	const char *client_name;    /* shown to operators, printable; default "liblocker" */
	const char *value_prefix;   /* in front of the 128 random bits that make the value of each
				     * lock unique; default: the client's name and ":" */
	int64_t connect_timeout_ms; /* for each node, greeting included; default 1000 */
	int64_t answer_timeout_ms;  /* then the next node is tried; keep it above the nodes'
				     * --op-timeout; default 3000 */
	int64_t call_timeout_ms;    /* for all tries together, beside what a command waits by
				     * itself; default 10000 */
	bool own_loop;              /* start no thread: the caller drives, see locker_fd() */
};

/* LOCKER_OK and *@ret; LOCKER_USAGE: the options make no sense; LOCKER_MEMORY. Connects to nobody:
 * the first command does. */
LOCKER_API enum locker_outcome locker_client_new(
	const struct locker_client_options *options, struct locker_client **ret);

/* Waits until what was freed before is given back to the nodes (for one connect timeout at most),
 * calls back what is on its way with LOCKER_CLOSED, and frees the client. LOCKER_USAGE, and nothing
 * happens: locks or elections of it are not freed yet, or this is one of its callbacks. NULL is
 * fine. */
LOCKER_API enum locker_outcome locker_client_free(struct locker_client *client);

/* The address of the node in use (or to be tried next), as it was given: at most @bytes with the
 * NUL, cut where that is too few. */
LOCKER_API void locker_client_node(struct locker_client *client, char *ret, size_t bytes);

/* ---- Commands ----
 * For all that is not about a lock of one's own: those are better served by struct locker_lock. */

enum locker_verb {
	LOCKER_LOCK,    /* key value ttl_ms [wait_ms] [idempotent] */
	LOCKER_UPDATE,  /* key value new_value [token] */
	LOCKER_EXTEND,  /* key value ttl_ms [token] */
	LOCKER_RELEASE, /* key value [token] */
	LOCKER_READ,    /* key [quorum] */
	LOCKER_HOLDER,  /* key [quorum] */
	LOCKER_CHECK,   /* key token: LOCKER_OK, or LOCKER_NOTOWNER when it is not the holder's */
	LOCKER_WAITFOR, /* key wait_ms */
	LOCKER_WAITRELEASE, /* key wait_ms */
	LOCKER_LAG,
};

struct locker_command {
	enum locker_verb verb;
	struct locker_bytes key;
	struct locker_bytes value;
	struct locker_bytes new_value;
	int64_t ttl_ms;
	int64_t wait_ms;
	uint64_t token;  /* 0: none */
	bool idempotent; /* a lock that is held with this very value counts as taken */
	bool quorum;     /* ask a majority; else the node's own copy, which may be stale */
};

struct locker_reply {
	enum locker_outcome outcome;
	unsigned attempts; /* how often it was sent. LOCKER_NOTFOUND of a RELEASE that was sent more
			    * than once: one whose answer was lost may have done it */
	char message[256]; /* of the node, or what failed at which; "" where all is said */
	uint64_t token;
	int64_t valid_ms;     /* LOCK, UPDATE, EXTEND: surely ours that long after sending */
	int64_t left_ms;      /* of it, when the answer was read, by our own clocks */
	int64_t remaining_ms; /* HOLDER: until the lease ends */
	int64_t held_ms;      /* HOLDER */
	double lag_ms;        /* LAG */
	unsigned quorum, votes, commits;
	unsigned node;      /* HOLDER: id of the node that coordinated the grant */
	char client[64];    /* HOLDER: name or address of the client */
	size_t value_bytes; /* READ, HOLDER, WAITFOR */
	char value[LOCKER_VALUE_MAX_BYTES + 1]; /* with a NUL behind it */
};

/* Send and wait for the answer. A command whose answer is lost is sent again to another node where
 * that is safe: LOCK with IDEMPOTENT, UPDATE only with a token (else LOCKER_UNKNOWN), all others as
 * they are. A node that answers NOTREADY, NOQUORUM or UNKNOWN is passed over likewise: the outcome
 * is one of these when no node could do better.
 * LOCK needs a value that nobody else uses: who takes the same one counts as the same holder.
 * Returns reply->outcome; @ret may be NULL. */
LOCKER_API enum locker_outcome locker_call(struct locker_client *client,
	const struct locker_command *command, struct locker_reply *ret);

/* @reply is valid during the call. */
typedef void (*locker_reply_fn)(void *context, const struct locker_reply *reply);

/* Send, and call back exactly once, later. LOCKER_OK: it will call; LOCKER_USAGE (also for a NULL
 * @fn), LOCKER_LIMIT, LOCKER_MEMORY: it will not. */
LOCKER_API enum locker_outcome locker_submit(struct locker_client *client,
	const struct locker_command *command, locker_reply_fn fn, void *context);

/* ---- The caller's loop (own_loop) ----
 * Wait until the descriptor is readable or the time is over, then call locker_process(), and ask
 * for the time anew. What another call makes due before that time makes the descriptor readable. */

/* One descriptor for the client's whole life; it belongs to the client. */
LOCKER_API int locker_fd(struct locker_client *client);

/* Do what is due and call back. Never waits (but see @nodes). LOCKER_USAGE: the client has a
 * thread, another thread is in here, or this is a callback. */
LOCKER_API enum locker_outcome locker_process(struct locker_client *client);

/* Milliseconds until locker_process() is due, rounded up; 0: now; -1: no time is set. */
LOCKER_API int locker_next_timeout_ms(struct locker_client *client);

/* ---- Locks ----
 * A lock is known to the nodes by its value and its token: an UPDATE of its value by whomever makes
 * it another's, and it is gone. */

struct locker_lock;

enum locker_event {
	LOCKER_AT_RISK, /* too little is left for comfort: begin to wind down */
	LOCKER_GONE,    /* stop: the lock is not ours (any more) */
};

/* @reason: what came of the last attempt to extend, or LOCKER_LOST: none had failed; the lease
 * ended because nobody extended it, or this process was stopped.
 * LOCKER_AT_RISK comes before the end, and once only unless an extension succeeds after it.
 * LOCKER_GONE comes once for each grant, unless it was released, freed, or taken anew before. A
 * lock that is gone is never taken again by itself. After the machine was suspended, or where the
 * loop or another callback takes its time, both come late; locker_lock_valid() never is. */
typedef void (*locker_event_fn)(void *context, struct locker_lock *lock, enum locker_event event,
	enum locker_outcome reason);

struct locker_lock_options {
	struct locker_bytes key;
	struct locker_bytes value; /* empty: a new unique one for each grant. One that is given has
				    * to be unique among all who take this key */
	struct locker_bytes value_prefix; /* of those; empty: the client's */
	int64_t ttl_ms;                   /* the lease; at least 1 */
	bool extend;     /* keep it alive, every third of the lease, until it is released */
	int64_t risk_ms; /* LOCKER_AT_RISK when less is left; 0: a third of the lease */
	locker_event_fn on_event; /* may be NULL */
	void *context;
};

/* LOCKER_OK and *@ret; LOCKER_USAGE, LOCKER_LIMIT, LOCKER_MEMORY. Sends nothing. */
LOCKER_API enum locker_outcome locker_lock_new(struct locker_client *client,
	const struct locker_lock_options *options, struct locker_lock **ret);

/* A lock that is held, or being taken, is given up: that is sent and not waited for (its lease ends
 * in any case). on_event is not called any more (one that another thread is in is waited for);
 * operations under way are called back with LOCKER_CLOSED. NULL is fine. */
LOCKER_API void locker_lock_free(struct locker_lock *lock);

/* Take the lock, standing in line for at most @wait_ms. LOCKER_OK: it is held, and valid now;
 * LOCKER_LOST: it was granted, and over before the answer was read. LOCKER_USAGE: it is held, or
 * another operation is under way. @ret may be NULL. */
LOCKER_API enum locker_outcome locker_acquire(
	struct locker_lock *lock, int64_t wait_ms, struct locker_reply *ret);
LOCKER_API enum locker_outcome locker_acquire_async(
	struct locker_lock *lock, int64_t wait_ms, locker_reply_fn fn, void *context);

/* Let the lease end @ttl_ms from now, and never earlier than before. For locks that are not
 * extended by themselves. LOCKER_LOST: not held. LOCKER_NOTOWNER, LOCKER_NOTFOUND: the lock is
 * gone. After all others it stands as before. */
LOCKER_API enum locker_outcome locker_extend(
	struct locker_lock *lock, int64_t ttl_ms, struct locker_reply *ret);
LOCKER_API enum locker_outcome locker_extend_async(
	struct locker_lock *lock, int64_t ttl_ms, locker_reply_fn fn, void *context);

/* Give the lock up. From the call on it is not valid, whatever comes of it, and it is extended no
 * more: an extension that is under way is waited for first. LOCKER_LOST: was not held. */
LOCKER_API enum locker_outcome locker_release(struct locker_lock *lock, struct locker_reply *ret);
LOCKER_API enum locker_outcome locker_release_async(
	struct locker_lock *lock, locker_reply_fn fn, void *context);

/* Is it ours now? Two readings of the clock and no message: ask before each protected action. What
 * has once been false stays so until the next locker_acquire(). Counted from before the request was
 * sent, on CLOCK_BOOTTIME and CLOCK_MONOTONIC_RAW: on whichever more time has gone by. */
LOCKER_API bool locker_lock_valid(struct locker_lock *lock);

/* How long it will be valid if nothing extends it, rounded down; 0: it is not valid. */
LOCKER_API int64_t locker_lock_remaining_ms(struct locker_lock *lock);

/* The fencing token of the latest grant; 0: there was none. */
LOCKER_API uint64_t locker_lock_token(struct locker_lock *lock);

/* ---- For what is protected ---- */

/* {0} to begin with; keep @highest with the data where a restart must not forget it. */
struct locker_guard {
	uint64_t highest;
};

/* May the holder of @token act? True, and the smaller ones are refused from now on; false: a later
 * holder has been here. 0 is no token. For any number of threads. */
LOCKER_API bool locker_guard_accept(struct locker_guard *guard, uint64_t token);

/* ---- Elections ----
 * The leader is who holds the lock @key, and its value is his name with ":" and random digits. Who
 * campaigns stands in line for it; who leads is extended until he resigns or is deposed. */

struct locker_election;

enum locker_election_event {
	LOCKER_ELECTED,        /* we lead; locker_election_token() is the term */
	LOCKER_LEAD_AT_RISK,   /* as LOCKER_AT_RISK */
	LOCKER_DEPOSED,        /* as LOCKER_GONE: stop leading. It campaigns again when told to */
	LOCKER_LEADER_CHANGED, /* see locker_election_leader() */
};

/* @reason is that of LOCKER_AT_RISK and LOCKER_GONE, else LOCKER_OK. */
typedef void (*locker_election_fn)(void *context, struct locker_election *election,
	enum locker_election_event event, enum locker_outcome reason);

struct locker_election_options {
	struct locker_bytes key;
	struct locker_bytes name; /* of this candidate: 1 to 63 bytes; several may have the same */
	int64_t ttl_ms;           /* how long a leader that died is leader still, at most */
	bool observe;             /* follow who leads, also while not campaigning */
	locker_election_fn on_event;
	void *context;
};

/* LOCKER_OK and *@ret; LOCKER_USAGE (also for a NULL on_event), LOCKER_LIMIT, LOCKER_MEMORY. */
LOCKER_API enum locker_outcome locker_election_new(struct locker_client *client,
	const struct locker_election_options *options, struct locker_election **ret);

/* Resigns, without waiting for it. No callback comes afterwards; one that another thread is in is
 * waited for. NULL is fine. */
LOCKER_API void locker_election_free(struct locker_election *election);

/* Stand until elected or resigned, over all failures. Waits for nothing, so it may be called inside
 * the callback. LOCKER_USAGE: it does so, leads, or is about to resign. */
LOCKER_API enum locker_outcome locker_election_campaign(struct locker_election *election);

/* Stop leading or campaigning. From the call on locker_election_valid() is false; that is sent to
 * the nodes and not waited for, and not called back. LOCKER_LOST: does neither. */
LOCKER_API enum locker_outcome locker_election_resign(struct locker_election *election);

/* Do we lead now? As locker_lock_valid(). */
LOCKER_API bool locker_election_valid(struct locker_election *election);
LOCKER_API uint64_t locker_election_token(struct locker_election *election);

/* Who leads as a majority said when it was last asked (@observe): LOCKER_OK and the name in
 * ret->value, the term in ret->token; LOCKER_NONE: nobody; LOCKER_UNKNOWN: not known yet, or
 * @observe was not asked for. */
LOCKER_API enum locker_outcome locker_election_leader(
	struct locker_election *election, struct locker_reply *ret);

#ifdef __cplusplus
}
#endif
