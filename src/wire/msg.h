/* Messages between nodes (protocol.md 2.4), in memory. Their bytes: wire/frame.h.
 *
 * One flat struct serves every type; which fields a type carries is a table in frame.c.
 * Views (struct bytes) point into memory of whoever made the message. */
#pragma once

#include "base/bytes.h"

/* A lock attempt is named by its ballot: n microseconds since 2020 from a hybrid clock, never
 * used twice by one coordinator incarnation, and cid, that incarnation. So uid = (n, cid), and
 * the fencing token is n alone (protocol.md 2.2). {0, 0}: none. */
struct ballot {
	uint64_t n;
	uint64_t cid;
};

/* Write version within one lock instance, ordered lexicographically. */
struct version {
	uint64_t n;
	uint64_t cid;
	uint64_t seq;
};

static inline bool ballot_eq(struct ballot a, struct ballot b)
{
	return a.n == b.n && a.cid == b.cid;
}

static inline int version_cmp(struct version a, struct version b)
{
	if (a.n != b.n)
		return a.n < b.n ? -1 : 1;
	if (a.cid != b.cid)
		return a.cid < b.cid ? -1 : 1;
	if (a.seq != b.seq)
		return a.seq < b.seq ? -1 : 1;
	return 0;
}

enum msg_type {
	MSG_TRYLOCK = 1, /* key uid lease_ms node value name [prev] */
	MSG_RELEASE,     /* key uid [b: guard] */
	MSG_ABORT,       /* key uid */
	MSG_CONFIRM,     /* key uid */
	MSG_QUERY,       /* key uid: master asks the coordinator incarnation */
	MSG_EXTEND,      /* key lease_ms, value and/or n (token), or uid */
	MSG_PREPARE,     /* key b */
	MSG_ACCEPT,      /* key uid b value op_id [lease_ms] */
	MSG_READ,        /* key [n: seal] */
	MSG_SYNC,        /* what do you hold? of a slot: [cursor [key]]; MSG_ONE_KEY: of this key */
	MSG_REPLY,  /* answer to any of the others but CONFIRM, QUERY and CONFIG; enum verdict */
	MSG_FOLLOW, /* a replica: what is new in your log of this slot? op_id: whose log, 0: any;
		     * cursor: sequence number of the first record it has not had */
	MSG_CONFIG, /* between control threads: value holds a struct config_msg */
	MSG_STAND,  /* key, n: the place in line of a waiter at this node, 0: nobody waits here;
		     * remaining_ns: so long it waits. To the key's home (protocol.md 2.9) */
	MSG_TURN,   /* key: it is free, and the waiter there is the next one */
	MSG_TYPE_MAX = MSG_TURN,
};

/* What a master says. Wire values: append only. */
enum verdict {
	VERDICT_ACK = 1,   /* TRYLOCK EXTEND ACCEPT RELEASE ABORT */
	VERDICT_HELD,      /* TRYLOCK: live entry of somebody else */
	VERDICT_STALE,     /* TRYLOCK: n is not above the floor (in n) */
	VERDICT_SHADOW,    /* somebody may hold this; remaining_ns */
	VERDICT_RESYNC,    /* not voting now: quarantine or resynchronisation */
	VERDICT_CEIL,      /* n above the durable ceiling, which is being raised */
	VERDICT_LIMIT,     /* no room for another lease */
	VERDICT_PROMISED,  /* RELEASE: the guard does not match */
	VERDICT_CONFIRMED, /* ABORT: somebody adopted the attempt */
	VERDICT_ABSENT,    /* EXTEND PREPARE ACCEPT: not live here */
	VERDICT_OTHER,     /* EXTEND: live, another uid or token */
	VERDICT_MISMATCH,  /* EXTEND: live, another value */
	VERDICT_PROMISE,   /* PREPARE */
	VERDICT_HIGHER,    /* PREPARE ACCEPT: promised to b */
	VERDICT_BUSY,      /* PREPARE: another promise is running */
	VERDICT_LIVE,      /* READ */
	VERDICT_FREE,      /* READ; n is maxn, or 0: none */
	VERDICT_SYNC, /* SYNC; value holds entries (wire/sync.h), n the floor of the slot, cursor
		       * where to go on, 0: that was all */
	VERDICT_LOG,  /* FOLLOW; value holds entries (wire/sync.h), cursor the number of the record
		       * after the last one told, op_id whose log it is */
	VERDICT_GAP, /* FOLLOW; what was asked for is not there any more, or is of another log: take
		      * everything (SYNC), then go on from cursor */
	VERDICT_MAX = VERDICT_GAP,
};

enum msg_flag {
	MSG_UNCONFIRMED = 1 << 0, /* the live entry told of is still a promise */
	MSG_WAS_LIVE = 1 << 1,    /* RELEASE ABORT: it was there until now */
	MSG_PREV_RELEASED =
		1 << 2, /* TRYLOCK: prev was given up by its holder, not just abandoned */
	MSG_PREV_REMOVED = 1 << 3, /* ACK: prev was removed in the same step */
	MSG_HAS_VALUE = 1 << 4,    /* value is meant, even when empty (set by the sender) */
	MSG_ONE_KEY = 1 << 5,      /* SYNC: asks for the entry of key and nothing else */
	MSG_HEARSAY =
		1 << 6, /* ACCEPT: the promise of this master was not counted. Answers: its copy
			 * was told to it, or came by such an ACCEPT: no witness of its version */
	/* One bit, by type. */
	MSG_PROBE = 1 << 7, /* READ: to decide whether a promise may be removed: only who is in sync
			     * with the configuration answers (protocol.md 2.10) */
	MSG_MERGE = 1 << 7, /* SYNC: for the sync after a change of the masters: whoever kept its
			     * memory answers */
	MSG_COPY = MSG_PREV_RELEASED, /* SYNC: for a replica: what is no lock is left out */
	MSG_LOG_END = 1 << 7,         /* LOG: there is no more for now */
	MSG_FLAGS_ALL = (1 << 8) - 1,
};

struct msg {
	uint8_t type;    /* enum msg_type */
	uint8_t verdict; /* enum verdict, MSG_REPLY only */
	uint8_t flags;   /* enum msg_flag */
	uint8_t node; /* id of the coordinating node of the entry (TRYLOCK, READ and HELD answers)
		       */
	uint16_t slot;
	uint8_t req_type; /* MSG_REPLY: type of the request answered */
	uint64_t req; /* names the round at the asking node; echoed in the reply; 0: no reply wanted
		       */
	struct bytes key;
	struct ballot uid;
	struct ballot prev;
	struct version
		b;  /* ballot of PREPARE/ACCEPT, guard of RELEASE, vb in answers, pb in HIGHER */
	uint64_t n; /* seal, token, maxn or floor */
	uint64_t op_id;
	uint64_t remaining_ns;
	uint64_t held_ns;
	uint64_t cursor; /* SYNC: a hash; entries below it, or at it with a key up to key, are known
			  */
	uint32_t lease_ms;
	struct bytes value;
	struct bytes name; /* client name */
};
