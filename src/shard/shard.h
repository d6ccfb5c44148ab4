/* A shard: one thread's engine, client connections and peer links, driven by src/env. */
#pragma once

#include "core/engine.h"
#include "env/env.h"
#include "shard/mailbox.h"

struct shard_config {
	struct engine_config engine;
	unsigned index;
	unsigned threads;     /* shards of this node; the control thread is mailbox `threads` */
	uint64_t inc;         /* this process's incarnation */
	uint64_t cluster;     /* hash of the cluster name */
	uint32_t max_clients; /* of the node */
	/* Connections of all threads together; NULL: this shard's are all. The kernel spreads them
	 * by hash, so equal shares would refuse some while others have room. */
	_Atomic uint32_t *n_clients;
	size_t input_max_bytes;   /* unparsed input per connection */
	size_t output_max_bytes;  /* unsent output per connection: closed beyond */
	size_t output_soft_bytes; /* parse no more of its input beyond */
	const char *version;      /* texts for INFO, HELLO, NODES; valid for the shard's life */
	const char *cluster_name;
	const char *client_addr; /* "127.0.0.1:7401" */
	const char *peer_addr;
	const char *redlock_idempotent; /* prefixes of keys, with commas between; * is any; or NULL
					 */
	struct membership members;      /* at the start; engine.masters and so on agree with it */
};

/* Mail between shards and the control thread. */
enum control_mail {
	MAIL_CONTROL_FIRST = 100,
	MAIL_ADOPT = MAIL_CONTROL_FIRST, /* control -> shard: struct mail_adopt */
	MAIL_STATUS,                     /* control -> shard: struct mail_status */
	MAIL_CEILING,                    /* control -> shard: u64, ballots up to it are durable */
	MAIL_DRAIN, /* control -> shard: take no new work, answer what runs, close clients */
	MAIL_RAISE_CEILING, /* shard -> control: u64 */
	MAIL_LINK_DOWN,     /* shard -> control: struct mail_link */
	MAIL_LINK_HEARD,    /* shard -> control: struct mail_link; its first frame is here */
	MAIL_PROGRESS, /* shard -> control, while something is to be told: struct mail_progress */
	MAIL_DRAINED,  /* shard -> control: no body; nothing of this shard is left to send */
	MAIL_CONFIG,   /* control -> shard: struct membership, to act by from now on */
	MAIL_CONFIG_DONE,   /* shard -> control: u64 epoch that it acts by */
	MAIL_PEER_EPOCH,    /* control -> shard: struct mail_peer_epoch */
	MAIL_SETTLED,       /* control -> shard: u64 masters_epoch; EV_SETTLED */
	MAIL_CHANGE,        /* control -> shard: struct mail_change, for NODES */
	MAIL_CONFIG_OUT,    /* control -> shard 0: struct mail_config_msg, and its bytes: send it */
	MAIL_CONFIG_IN,     /* shard -> control: likewise: it came */
	MAIL_SETNODES,      /* shard -> control: struct mail_setnodes */
	MAIL_SETNODES_DONE, /* control -> shard: struct mail_setnodes_done */
};

/* All shards of @node act by this epoch. A node of another epoch than ours is as if not linked. */
struct mail_peer_epoch {
	uint64_t inc; /* its incarnation that said so; of another one nothing is known by it */
	uint64_t epoch;
	uint64_t synced_epoch; /* masters_epoch with which it is in sync */
	uint8_t node;
};

/* Where SETNODES stands; steps 0: none is being done by this node. */
struct mail_change {
	uint16_t step, steps; /* step counts from 1 */
	char text[160];       /* "add master 4: in sync 37 of 64 slots" */
};

/* Followed by bytes of an encoded struct config_msg. */
struct mail_config_msg {
	uint64_t inc;           /* IN: of the sender */
	uint16_t slots_in_sync; /* IN: of the sender, as its last frame told */
	uint8_t node;
};

struct mail_setnodes {
	uint64_t tag; /* comes back */
	uint8_t n_masters, n_replicas;
	bool has_replicas; /* REPLICAS was said: else they stay, less those that become masters */
	uint8_t masters[MASTERS_MAX], replicas[REPLICAS_MAX];
};

struct mail_setnodes_done {
	uint64_t tag;
	char error[400]; /* "": OK. Else the whole error, beginning with its word */
};

/* A connected, handshaken peer socket. */
struct mail_adopt {
	int fd;
	uint8_t node;
	uint8_t status;   /* enum node_status, from the hello */
	uint8_t misnamed; /* the first member that it knows by another address; 0: none */
	uint16_t link_index;
	uint16_t links; /* links to this node: min(threads here, threads there) */
	uint64_t peer_inc;
	uint64_t peer_mclk;    /* from the peer's hello */
	uint64_t peer_mclk_at; /* our mclk when it arrived */
	char addr[64];
	char peer_addr[MEMBER_ADDR_MAX_BYTES + 1]; /* where it listens for other nodes */
};

struct mail_status {
	uint8_t status;      /* enum node_status */
	uint64_t floor_n;    /* with NODE_ACTIVE */
	uint64_t until_mclk; /* NODE_QUARANTINE, NODE_RESYNC: over by then, for NODES and INFO */
	/* Of the node; for NODES, here and elsewhere. */
	uint16_t slots_voting;
	uint16_t slots_in_sync; /* as in struct frame_header */
	uint32_t lag_ms;        /* likewise */
};

struct mail_progress {
	uint16_t slots_voting;
	bool in_sync;           /* all of them, and what was missed meanwhile has been looked for */
	uint16_t slots_in_sync; /* with the configuration; replica: has a copy */
	uint64_t synced_epoch;  /* 0: not all slots of this shard are */
	uint64_t lag_ns;        /* as in struct engine_stats */
	uint64_t leases, shadows, staged;
	uint64_t full; /* slots that were given up for want of room so far */
};

struct mail_link {
	uint8_t node;
	uint16_t link_index;
	uint64_t peer_inc;
};

/* @memory: zeroed, engine_memory_bytes() long. NULL: out of memory. */
struct shard *shard_new(const struct shard_config *cfg, struct env *env, struct mailbox *mail,
	const struct clocks *now, void *memory, size_t memory_bytes);
void shard_free(struct shard *s);
struct env_handler shard_handler(struct shard *s);
/* engine_holds_nothing() of this shard. */
bool shard_holds_nothing(const struct shard *s, uint64_t *ret_top_n);
