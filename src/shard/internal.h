/* What the files of this room share. Each part belongs to the file named. */
#pragma once

#include "base/list.h"
#include "shard/shard.h"
#include "wire/config_msg.h"

/* Mail between shards. */
enum shard_mail {
	MAIL_OP = 1,    /* client.c: an operation for the shard of its key */
	MAIL_RESULT,    /* client.c: its result, home again */
	MAIL_CANCEL,    /* client.c: u64 tag */
	MAIL_GATHER,    /* gather.c: a question to every shard */
	MAIL_GATHERED,  /* gather.c: one shard's answer */
	MAIL_PEER_OUT,  /* peers.c: a message to be sent on a link of the receiving thread */
	MAIL_PEER_IN,   /* peers.c: a message that came in on the sending thread's link */
	MAIL_PEER_LINK, /* peers.c: a link of the sending thread went up or down */
};

struct peers;   /* peers.c */
struct clients; /* client.c */

struct shard {
	struct shard_config cfg;
	struct env *env;
	struct mailbox *mail;
	struct engine *engine;
	struct clocks now;
	struct engine_time time;       /* `now` as the engine wants it */
	struct mail_status status;     /* last one told by the control thread */
	struct mail_change change;     /* likewise */
	uint64_t state_at;             /* mclk; in its node_state() since then */
	struct mail_progress progress; /* last one told to it, ... */
	bool progress_told;            /* ... since the last change of status */
	uint64_t progress_at;          /* mclk; not before, the next one */
	bool draining, drained;
	bool stepping; /* inside shard_step() */
	bool worked;   /* work() of this loop is done: what is sent now must be closed at once */
	uint64_t started_mclk;
	uint64_t drain_until_mclk; /* the last rounds are not waited for any longer; 0: not yet set
				    */
	struct peers *peers;
	struct clients *clients;
	struct effects fx;
};

/* ---- shard.c ---- */
/* Step the engine and carry out the effects: sends go to peers_send(), replies to
 * client_result(), ceilings to the control thread. Not re-entrant: client_result() must not
 * step the engine. */
void shard_step(struct shard *s, const struct event *ev);
static inline unsigned shard_of_hash(const struct shard *s, uint64_t hash)
{
	return engine_slot_of(hash, s->cfg.engine.slots) % s->cfg.threads;
}

/* What people are told of a node's status: a replica is active once all its slots have a copy. */
static inline uint8_t node_state(uint8_t status, uint16_t slots_in_sync, uint16_t slots)
{
	if (status != NODE_REPLICA)
		return status;
	return slots_in_sync >= slots ? NODE_ACTIVE : NODE_RESYNC;
}

static inline uint8_t shard_state(const struct shard *s)
{
	return node_state(s->status.status, s->status.slots_in_sync, s->cfg.engine.slots);
}

/* ---- peers.c, peers_frames.c: links to other nodes, frames, message ages ---- */
struct peers *peers_new(struct shard *s);
void peers_free(struct shard *s);
/* Queue a message for each node; encoded once per link into the frame of this loop. A node without
 * a link is skipped (the protocol takes it as loss). */
void peers_send(struct shard *s, const uint8_t *to, unsigned n, const struct msg *m);
void peers_adopt(struct shard *s, const struct mail_adopt *a);
ssize_t peers_data(struct shard *s, struct link *link, const uint8_t *data, size_t len);
void peers_close(struct shard *s, struct link *link);
void peers_mail(struct shard *s, unsigned from, uint16_t type, const void *body, size_t bytes);
void peers_epoch_told(struct shard *s, const struct mail_peer_epoch *told);
/* Send a MSG_CONFIG (@body: as MAIL_CONFIG_OUT) on this thread's link; skipped without one. */
void peers_config_out(struct shard *s, const uint8_t *body, size_t bytes);
/* Before the epoch changes: what is in a frame is of the epoch that it is stamped with. */
void peers_close_frames(struct shard *s);
/* After it has: who is linked now, in the engine's eyes. */
void peers_config_changed(struct shard *s);
/* Close this loop's frames (stamp ages and counts), send heartbeats that are due, drop dead links.
 */
void peers_finish_loop(struct shard *s);
uint64_t peers_wait_ns(const struct shard *s);
/* Nothing waits in this thread's links to be sent. */
bool peers_flushed(const struct shard *s);

/* What this thread knows of a peer, for NODES and INFO. */
struct peer_info {
	bool linked;           /* some link of this thread to it is up */
	uint8_t state;         /* node_state() of its last frame; 0: down */
	uint16_t slots_voting; /* by its last frame, as the next two */
	uint16_t slots_in_sync;
	uint16_t links;                  /* links of this thread to it that are up */
	uint32_t lag_ms;                 /* UINT32_MAX: no replica, or one that has no copy */
	uint64_t epoch;                  /* that all its shards act by; 0: not known */
	uint64_t heard_ago_ns, since_ns; /* since_ns: in this state; UINT64_MAX: not known */
	uint64_t frames_in, frames_out, msgs_in, msgs_out, stale_frames, bytes_in, bytes_out;
	uint64_t msgs_dropped; /* in or out: too old, or the mailbox or link had no room */
	uint64_t
		msgs_other_epoch; /* likewise dropped: of another epoch than the shard it was for */
	char addr[MEMBER_ADDR_MAX_BYTES + 1]; /* where it listens for other nodes; "": not known */
};
void peers_info(const struct shard *s, uint8_t node, struct peer_info *ret);

/* ---- client.c: connections, order of replies, operations to and from shards ---- */
struct clients *clients_new(struct shard *s);
void clients_free(struct shard *s);
int client_open(struct shard *s, struct link *link);
ssize_t client_data(struct shard *s, struct link *link, const uint8_t *data, size_t len);
void client_close(struct shard *s, struct link *link);
/* A result of this shard's engine: answer the client here, or mail it to the thread it belongs to.
 */
void client_result(struct shard *s, const struct result *r);
void client_mail(struct shard *s, unsigned from, uint16_t type, const void *body, size_t bytes);
/* The control thread is through with a SETNODES. */
void client_setnodes_done(struct shard *s, const struct mail_setnodes_done *done);
/* Connections held back by a limit are tried again; idle checks. Bounded. */
void clients_work(struct shard *s);
uint64_t clients_wait_ns(const struct shard *s);
/* Draining: answer no more commands, close what is idle; true when none is left. */
bool clients_drain(struct shard *s);

/* ---- gather.c: questions that every shard must answer (INFO, NODES, SUMMARY, SCAN, ...) ---- */
void gather_mail(struct shard *s, unsigned from, uint16_t type, const void *body, size_t bytes);
