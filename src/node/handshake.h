/* What nodes tell each other first, and why they refuse one another. Pure: no socket, no clock. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "wire/frame.h"

/* What this node says of itself, and what it knows of others. */
struct identity {
	uint8_t node;
	uint8_t status; /* enum node_status */
	bool first_boot;
	uint16_t threads;
	uint64_t inc;
	uint64_t after_inc; /* it stopped as that incarnation and held nothing; 0: no such claim */
	struct membership config; /* that it acts by; epoch 0: none yet, it asks for one (--join) */
	char peer_addr[MEMBER_ADDR_MAX_BYTES + 1]; /* where others reach it */
	char cluster[CLUSTER_NAME_MAX_BYTES + 1];
	/* By node id: incarnation that this node last shook hands with as a voter or a voter to be,
	 * 0: none. A vote it gave may still count, so a first boot under that id is a lie. */
	uint64_t seen_inc[NODE_ID_MAX + 1];
	/* By node id: who is linked now, and by which links. */
	struct {
		uint64_t inc;
		uint64_t links; /* bit per index */
	} live[NODE_ID_MAX + 1];
};
_Static_assert(THREADS_MAX <= 64, "a bit per link");

/* The dialer's hello, for link @link_index. */
void handshake_offer(
	const struct identity *self, uint16_t link_index, uint64_t mclk, struct hello *ret);
/* The acceptor's, to @theirs which was read when our clock said @read_mclk. */
void handshake_answer(const struct identity *self, const struct hello *theirs, uint64_t read_mclk,
	uint64_t mclk, struct hello *ret);
/* A no, from either side. */
void handshake_refusal(
	const struct identity *self, uint64_t mclk, const char *reason, struct hello *ret);

/* May we talk? @expected: the node that was dialled, 0: any. 0, or -EPROTO with the sentence that
 * says what differs. Nodes of different epochs may: the older learns the newer configuration. Of
 * one epoch they must agree in who masters and replicas are; addresses are names of the same, and
 * may differ. */
int handshake_check(const struct identity *self, const struct hello *h, uint8_t expected, char *why,
	size_t why_bytes);
/* Does the sender of an accepted hello know a newer configuration than we, or is it one without,
 * which wants to be told ours and nothing else? */
bool handshake_newer(const struct identity *self, const struct hello *theirs);
bool handshake_asks(const struct hello *theirs);
/* Where its sender is reached. @seen: the address that the connection comes from; its host stands
 * in for one that only the sender could dial. */
void handshake_address(
	const struct hello *theirs, const char *seen, char ret[MEMBER_ADDR_MAX_BYTES + 1]);
/* Is it listed here with another address? Not refused: one may be a name and the other a number. */
bool handshake_moved(const struct identity *self, const struct hello *theirs, const char *addr);
/* The first member that both know, by different addresses; 0: none. Possible as long as nobody has
 * changed the first configuration, which every node takes from its own --masters. */
uint8_t handshake_misnamed(const struct identity *self, const struct hello *theirs);
/* Note an accepted hello, for link @link_index. */
void handshake_note(struct identity *self, const struct hello *h, uint16_t link_index);
/* That link is no more. */
void handshake_forget(struct identity *self, uint8_t node, uint16_t link_index, uint64_t inc);

/* Is this refusal the one after which a node must stop: it said it was new and is not? Only a
 * master of our cluster can say so, and only to a first boot. */
bool handshake_fatal(const struct identity *self, const struct hello *theirs);

/* Or the one after which it must not rely on what its state file says of its last stop? */
bool handshake_outdated(const struct identity *self, const struct hello *theirs);

/* min(threads here, threads there). */
uint16_t handshake_links(const struct identity *self, const struct hello *theirs);
