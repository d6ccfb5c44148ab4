/* The configuration of the cluster as a register that changes by one node at a time (protocol.md
 * 2.10): one Paxos decision per epoch, this node as acceptor, as learner and, for SETNODES, as
 * proposer of a sequence of single changes with the gate between them. Pure: told the time and what
 * has happened, it says what to send, what to write and what to act by; the control thread carries
 * it out, and so does the simulator's.
 *
 * Order of things: what members_wants_write() gives must be durable (members_written()) before
 * anything else is taken out: messages wait for it by themselves. members_current() is the
 * configuration to act by; the caller tells members_progress() when all its shards do.
 * Owner: one thread. Time: ns of a clock that does not go back; for timeouts only, no safety rests
 * on it. */
#pragma once

#include "base/prng.h"
#include "wire/config_msg.h"

/* What a crash must not take away. */
struct members_register {
	struct membership committed;
	struct change_ballot promised; /* for the change away from `committed` */
	struct change_ballot accepted_at;
	struct membership accepted; /* epoch 0: none */
};

struct members_config {
	uint8_t self;
	/* It has been a voter in this cluster and lost its register (no state file): it may have
	 * promised what it does not know, so it takes part in no decision that its former self may
	 * have taken part in. The register remembers that from the first write on. */
	bool forgetful;
	struct members_register reg;
	uint32_t attempt_ms; /* patience with answers */
	uint64_t seed;       /* another one in every life */
};

/* SETNODES: who is to be what. Ids in any order; checked by members_set(). */
struct members_target {
	uint8_t n_masters, n_replicas;
	bool has_replicas; /* else the replicas stay, less those that become masters */
	uint8_t masters[MASTERS_MAX], replicas[REPLICAS_MAX];
};

enum { MEMBERS_ERROR_MAX_BYTES = 400, MEMBERS_TEXT_MAX_BYTES = 160 };

/* What is known of a node. */
struct members_peer {
	bool linked;
	char addr[MEMBER_ADDR_MAX_BYTES + 1];      /* as it says itself; "": never heard of */
	uint64_t epoch, moved_epoch, synced_epoch; /* by its last message of this link; 0: none */
	uint16_t slots_in_sync;                    /* as last told; for the progress text */
};

struct members; /* members.c; members_bytes() large, no pointers to the outside */

size_t members_bytes(void);
/* @reg is that of a node which has lost it (members_config.forgetful): for the first write. */
void members_abstain(struct members_register *reg);
void members_init(struct members *m, const struct members_config *cfg, uint64_t now_ns);

/* ---- what happens ---- */

/* A link to @node came up or went down; @addr: where it says that it is reached, NULL: not known.
 * Of this node itself only @addr is taken. No message of a link may arrive after its end. */
void members_link(struct members *m, uint64_t now_ns, uint8_t node, bool up, const char *addr);
void members_receive(
	struct members *m, uint64_t now_ns, uint8_t from, const struct config_msg *msg);
/* Heard of in a hello. */
void members_learn(struct members *m, uint64_t now_ns, const struct membership *config);
/* All shards here act by the configuration of @moved_epoch; they are in sync with the masters of
 * @synced_epoch (0: not all). */
void members_progress(
	struct members *m, uint64_t now_ns, uint64_t moved_epoch, uint64_t synced_epoch);
/* It has turned out that the register is not that of the last life of this node. */
void members_forget(struct members *m, uint64_t now_ns);
/* For texts only. */
void members_slots(struct members *m, uint8_t node, uint16_t slots_in_sync);
void members_tick(struct members *m, uint64_t now_ns);
/* UINT64_MAX: nothing is due. */
uint64_t members_due_ns(const struct members *m);
/* Begin the sequence. 0; or -errno with the whole error of SETNODES in @why, nothing changed:
 * -EINVAL (ERR ...: no master, unknown id, twice the same), -EBUSY (BUSY ...: one is running). */
int members_set(struct members *m, uint64_t now_ns, const struct members_target *t, char *why,
	size_t why_bytes);

/* ---- what is to be done ---- */

/* True: make *ret durable, then call members_written(). Nothing else comes out before. */
bool members_wants_write(const struct members *m, struct members_register *ret);
void members_written(struct members *m, uint64_t now_ns);
/* The next message to be sent; false: none. */
bool members_take_message(struct members *m, uint8_t *ret_to, struct config_msg *ret);
/* The configuration to act by: committed and durable. */
const struct membership *members_current(const struct members *m);
/* All its masters are in sync with it, as far as is known here. */
bool members_settled(const struct members *m);
/* The sequence of members_set() is over, once; @error: "" or why, as SETNODES answers it. */
bool members_take_result(struct members *m, char error[MEMBERS_ERROR_MAX_BYTES]);
/* Where it stands; false: none is running. step counts from 1. */
bool members_change(const struct members *m, uint16_t *ret_step, uint16_t *ret_steps,
	char text[MEMBERS_TEXT_MAX_BYTES]);
const struct members_peer *members_peer(const struct members *m, uint8_t node);
