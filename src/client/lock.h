/* A lock as its holder sees it: taken, kept by extensions, lost, given up.
 * Owner  the client's mutex, but for the atomic fields. At most one request of a lock is on its way
 *        (l->request), so its operations reach the nodes one after the other; one may wait behind
 *        it (l->queued). */
#pragma once

#include "client/internal.h"

enum lock_state {
	LOCK_IDLE,
	LOCK_TAKING,
	LOCK_HELD,
	LOCK_RELEASING, /* or about to, behind an extension under way */
};

struct locker_lock {
	struct locker_client *client;
	_Atomic int64_t until_boot_ns, until_raw_ns; /* INT64_MIN: not held */
	_Atomic uint64_t token;

	enum lock_state state;
	struct locker_bytes key, value; /* in text */
	int64_t ttl_ms, risk_ns;
	bool extend, value_is_given;
	size_t prefix_bytes; /* of a value that is made */

	struct request *request;
	struct hearer *hearer; /* of the request; NULL: nobody asked for it */
	bool queued;           /* a release in LOCK_RELEASING, else an extension */
	int64_t queued_ttl_ms;
	struct hearer *queued_hearer;

	struct timer timer;
	int64_t until_ns, extend_ns; /* on the client's time */
	bool warned;
	enum locker_outcome reason; /* why nothing has extended it */

	void (*tell)(struct locker_lock *l, enum locker_event event, enum locker_outcome reason);
	locker_event_fn on_event;
	void *context;
	struct callback events;
	bool pending; /* event is to be told */
	enum locker_event event;
	enum locker_outcome event_reason;

	uint8_t text[];
};

/* What an operation was called with. */
struct lock_wish {
	int64_t wait_ms, ttl_ms;
};

/* Under the mutex. LOCKER_OK: @hearer will be told; else it will not. */
enum locker_outcome lock_begin_acquire(
	struct locker_lock *l, const struct lock_wish *wish, struct hearer *hearer);
enum locker_outcome lock_begin_release(
	struct locker_lock *l, const struct lock_wish *wish, struct hearer *hearer);
/* Lose it if its time is over, before its timer does. */
void lock_check(struct locker_lock *l);
/* Stop taking it, and tell nobody. */
void lock_cancel(struct locker_lock *l);
