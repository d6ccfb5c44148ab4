/* Entries as one master hands them to another (protocol.md 2.4, SYNC; 2.8): several in the value
 * of one reply, one behind the other. Pure; little-endian; every bound is checked before it is
 * believed. */
#pragma once

#include "base/buf.h"
#include "base/limits.h"
#include "wire/msg.h"

enum {
	SYNC_BODY_MAX_BYTES = 7424, /* entries of one reply; the largest entry fits */
	SYNC_GONE_KEY_BYTES = 8,
};

enum sync_flag {
	SYNC_SHADOW = 1 << 0,      /* somebody may hold the key: no value, and perhaps no uid */
	SYNC_UNCONFIRMED = 1 << 1, /* a promise */
	SYNC_WRITTEN = 1 << 2,     /* vb, pb and op_id are not those of a new lock */
	SYNC_HEARSAY = 1 << 3,     /* the reporter is no witness of the version itself */
	SYNC_GONE = 1 << 4, /* in a log: the instance is held no more. uid and key only; the key
			     * is the 8 bytes of its hash, little-endian */
	SYNC_FLAGS_ALL = (1 << 5) - 1,
};

struct sync_entry {
	struct bytes key;
	struct bytes value;
	struct bytes name; /* of the client */
	struct ballot uid; /* SYNC_SHADOW: {0, 0}: not known, or more than one */
	struct version vb,
		pb;     /* version of the value, promised ballot; SYNC_SHADOW, SYNC_GONE: 0 */
	uint64_t op_id; /* of the last write */
	uint64_t maxn;
	uint64_t remaining_ns;
	uint64_t held_ns;
	uint8_t flags; /* enum sync_flag */
	uint8_t node;  /* coordinator; SYNC_SHADOW: 0 */
};

/* Append one entry. 0; -ENOBUFS: no room, nothing changed. What the decoder would refuse is a
 * programmer error: CHECK. */
int sync_entry_encode(struct buf *b, const struct sync_entry *e);

/* Decode the entry at the beginning of @rest and take it off. 0; -ENODATA: @rest is empty;
 * -EBADMSG: truncated, an unknown flag, a length, ballot or time out of range, a shadow with a
 * uid, an entry without one, SYNC_GONE with anything else. Views point into @rest. */
int sync_entry_decode(struct bytes *rest, struct sync_entry *ret);
