/* Links to other nodes: what peers.c and peers_frames.c share.
 *
 *   peers.c         which thread reaches a node, what the engine knows of it, mail between shards
 *   peers_frames.c  frames out and in, ages of messages
 *
 * Owner: the shard thread. */
#pragma once

#include "base/buf.h"
#include "shard/internal.h"

enum {
	HEARTBEAT_MS = 100, /* protocol.md 2.4 */
	PPM = 1000000,
};

/* One stream, owned by this thread. */
struct peer_link {
	struct list all; /* in peers.links, until the world has closed it */
	struct link *link;
	uint64_t inc; /* the peer's incarnation, agreed in the handshake */
	uint16_t index;
	uint8_t node;
	bool dropped;                /* closing: nothing more in or out */
	bool replaced;               /* and another stream took its place */
	bool heard;                  /* a frame came */
	uint64_t echo_mclk, echo_at; /* last clock reading of the peer, and when we had it */
	uint64_t heard_at, beat_due;
	/* The frame of this loop, at the end of link->out. */
	bool open;
	size_t frame_at;
	uint32_t count;
	uint64_t oldest_birth;
};

/* What the thread that owns link i says of it. */
struct route {
	uint64_t inc;
	uint16_t links;
	bool up;
};

struct peer {
	struct peer_link *own; /* this thread's link, or NULL */
	struct route route[THREADS_MAX];
	uint16_t links; /* between the two nodes; 0: never heard of */
	/* By its last frame here. */
	uint8_t status;
	uint16_t slots_voting, slots_in_sync;
	uint32_t lag_ms;
	/* All its shards act by this epoch, as that incarnation said; 0: not known. */
	uint64_t epoch, epoch_inc;
	/* What the engine was told last. */
	bool told_up;
	uint64_t told_inc;
	uint8_t state;      /* as peer_info tells it, ... */
	uint64_t state_at;  /* ... and since when; 0: it never changed */
	uint64_t heard_at;  /* 0: never */
	uint64_t fresh_at;  /* last frame that was not too old, on this thread's link ... */
	uint64_t fresh_inc; /* ... and whose it was */
	char addr[MEMBER_ADDR_MAX_BYTES + 1];
	struct peer_info count; /* its counters only */
};

struct peers {
	uint64_t age_max_ns; /* so that none is older than T_msg = T_att */
	struct list links;
	struct buf scratch; /* one message, encoded */
	struct peer *peer[NODE_ID_MAX + 1];
};

/* A message counts in one epoch only (protocol.md 2.10), from the shard that makes it to the one
 * that takes it: each hop compares. MSG_CONFIG is outside of this. */
struct mail_peer_out {
	uint64_t birth;
	uint64_t epoch; /* of the shard that made it */
	uint64_t inc;   /* whom the sending shard talks to */
	uint8_t node;
};

struct mail_peer_in {
	uint64_t born_mclk;
	uint64_t epoch; /* of the frame that brought it */
	uint64_t inc;
	uint16_t index; /* the link it came by */
	uint8_t node;
};

enum link_news {
	NEWS_DOWN,
	NEWS_UP,
	NEWS_MALFORMED, /* to the owner: what you passed on is no message */
	NEWS_MISSED,    /* it is heard again after a while, and is the same as before */
};

struct mail_peer_link {
	uint64_t inc;
	uint16_t index;
	uint16_t links;
	uint8_t node;
	uint8_t news;
};

/* ---- peers.c ---- */
/* NULL: out of memory. */
struct peer *peer_get(struct peers *p, uint8_t node);
/* Its status, its copy or its link changed, perhaps. */
void peer_state_noted(struct shard *s, struct peer *peer);
/* Room for mail about a peer, or NULL when the thread is far behind: loss, as on a network. */
void *mail_room(struct shard *s, struct peer *peer, unsigned to, uint16_t type, size_t bytes);
/* A message of @epoch for a slot of this shard, decoded. */
void peer_message(struct shard *s, uint8_t node, uint64_t inc, uint64_t epoch, const struct msg *m);
void tell_missed(struct shard *s, const struct peer_link *pl);
void tell_control(
	struct shard *s, enum control_mail what, uint8_t node, uint16_t index, uint64_t inc);

/* ---- peers_frames.c ---- */
/* Append to the frame of this loop. A link that cannot take it is dropped. */
void link_append(struct shard *s, struct peer_link *pl, struct bytes msg, uint64_t birth);
void link_drop(struct shard *s, struct peer_link *pl, const char *reason);
/* False: the link was dropped. */
bool frame_open(struct shard *s, struct peer_link *pl);
/* Stamp it with the epoch, the age of its oldest message, and so on. */
void frame_finish(struct shard *s, struct peer_link *pl);
