/* Peer frames: the bytes between nodes. Pure; little-endian; every bound is checked before it is
 * believed. A stream is: one hello each way (struct hello), then frames. */
#pragma once

#include "base/buf.h"
#include "base/limits.h"
#include "wire/membership.h"
#include "wire/msg.h"

enum {
	FRAME_HEADER_BYTES = 96,
	FRAME_MAX_BYTES = 1 << 20, /* a whole frame, header included */
	MSG_MAX_BYTES = 8192,      /* one encoded message */
	HELLO_PREFIX_BYTES = 12,   /* magic u64, body length u32 */
	HELLO_MAX_BYTES = 4096,    /* prefix included */
	PROTOCOL_VERSION = 4,
};

/* Ages and remaining times stay far from where a sum of some of them would wrap. */
#define SPAN_MAX_NS ((UINT64_C(1) << 62) - 1)

/* Batch header (protocol.md 2.4). */
struct frame_header {
	uint32_t frame_bytes; /* header included */
	uint32_t count;       /* messages; 0: heartbeat */
	uint64_t cluster;     /* hash of the cluster name */
	uint64_t epoch;
	uint64_t src_inc;
	uint64_t dst_inc;
	uint64_t mclk;      /* sender's BOOTTIME, ns */
	uint64_t echo_mclk; /* last mclk the sender had from the receiver; 0: none yet */
	uint64_t held_ns; /* sender's time from having it to the birth of the oldest message here */
	uint64_t hlc_n;   /* highest ballot n the sender knows */
	uint16_t slots_voting;  /* in how many slots the sender votes */
	uint16_t slots_in_sync; /* master: votes, and is in sync with the configuration; replica:
				 * has a copy */
	uint32_t lag_ms; /* replica: age of its copy, the oldest slot; UINT32_MAX: has none */
	uint8_t src_node;
	uint8_t status; /* enum node_status */
};

enum node_status {
	NODE_ACTIVE = 1,
	NODE_RESYNC,
	NODE_QUARANTINE,
	NODE_NONMEMBER, /* coordinates only */
	NODE_REPLICA,   /* coordinates, and copies a master's log */
	NODE_STATUS_MAX = NODE_REPLICA,
};

/* Write a header of FRAME_HEADER_BYTES at @p. */
void frame_header_encode(uint8_t *p, const struct frame_header *h);

/* 0; -EAGAIN: fewer than FRAME_HEADER_BYTES, or the frame is not whole yet; -EBADMSG: no frame
 * (bad magic, length out of bounds, more messages than it can hold, no node id, status, ballot or
 * time span out of range): drop the peer. */
int frame_header_decode(const uint8_t *p, size_t len, struct frame_header *ret);

/* Append one message. 0; -ENOBUFS: the buffer is full; nothing changed then. A message that the
 * decoder would refuse is a programmer error: CHECK. */
int msg_encode(struct buf *b, const struct msg *m);

/* Decode one message from [p, p+len); *ret_used bytes were taken. Views point into @p.
 * 0 or -EBADMSG (truncated, unknown type or verdict, a length or ballot beyond its limit,
 * a field missing that its type needs). */
int msg_decode(const uint8_t *p, size_t len, struct msg *ret, size_t *ret_used);

/* Length and slot of the message at @p without decoding it. 0 or -EBADMSG. */
int msg_peek(const uint8_t *p, size_t len, uint16_t *ret_slot, size_t *ret_len);

/* First bytes of a stream in both directions. */
struct hello {
	uint16_t version;
	uint8_t node;    /* 1..255 */
	uint8_t status;  /* enum node_status */
	bool first_boot; /* started with --new-cluster and no state file */
	bool refused;    /* the answer of an acceptor that says no; reason tells why */
	uint16_t link_index;
	uint16_t threads;
	uint64_t inc;
	uint64_t after_inc; /* 0, or: stopped as that incarnation, holding nothing */
	uint64_t mclk;      /* as in frame_header */
	uint64_t echo_mclk; /* acceptor's hello: the dialer's mclk */
	uint64_t held_ns;
	struct membership config; /* epoch 0: it knows none and asks for ours (--join) */
	/* Where the sender is reached by others; "": it does not say. */
	char peer_addr[MEMBER_ADDR_MAX_BYTES + 1];
	char cluster[CLUSTER_NAME_MAX_BYTES + 1];
	char reason[200];
};

/* Encode to @p of HELLO_MAX_BYTES; returns the length. What the decoder would refuse is a
 * programmer error: CHECK. A refusal needs version, node and reason only. */
size_t hello_encode(uint8_t *p, const struct hello *h);

/* *ret_len: the bytes the hello takes, as soon as HELLO_PREFIX_BYTES are there.
 * 0; -EAGAIN: need *ret_len bytes (or the prefix); -EPROTO: not a locker peer at all (magic);
 * -EBADMSG: malformed. Another version than ours decodes its version, node and refusal (flag and
 * reason) only. Control characters in names become '?'. Except in a refusal, status, threads and
 * link_index are in range and cluster is not empty. config is as membership_decode() gives it, and
 * peer_addr one that may stand in a configuration, or empty. */
int hello_decode(const uint8_t *p, size_t len, struct hello *ret, size_t *ret_len);
