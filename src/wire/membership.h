/* Who votes, who copies, and the constants they agree on: one configuration of a cluster, named by
 * its epoch (protocol.md 2.10). In memory, and as bytes in hellos, messages and the state file.
 * Pure; little-endian; every bound is checked before it is believed. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "base/bytes.h"
#include "base/limits.h"

/* What is believed of others: the epochs that follow do not overflow. */
#define EPOCH_MAX (UINT64_C(1) << 62)

enum {
	MEMBER_ADDR_MAX_BYTES = 95, /* "HOST:PORT" of a peer port */
	/* One configuration, encoded. */
	MEMBERSHIP_MAX_BYTES = 64 + (MASTERS_MAX + REPLICAS_MAX) * (10 + MEMBER_ADDR_MAX_BYTES),
};

struct member {
	uint8_t id; /* 1..NODE_ID_MAX */
	char addr[MEMBER_ADDR_MAX_BYTES + 1];
	/* Master: the masters_epoch with which it became one, 0: the first. Who knows it as of an
	 * earlier epoch has missed that it was none in between. Replica: 0. */
	uint64_t since;
};

struct membership {
	uint64_t epoch;         /* 0: none */
	uint64_t masters_epoch; /* the last epoch that changed who votes, <= epoch */
	/* What that change did: the masters before it were these without `joined`, and with
	 * `departed`. 0: nobody. The first configuration has neither. */
	uint8_t joined, departed;
	uint8_t n_masters; /* 1.. */
	uint8_t n_replicas;
	uint16_t slots;
	uint32_t max_lease_ms;
	uint32_t attempt_ms;                  /* T_att */
	uint32_t drift_ppm;                   /* rho */
	struct member masters[MASTERS_MAX];   /* by id, ascending */
	struct member replicas[REPLICAS_MAX]; /* likewise; none of them a master */
};

enum role { ROLE_NONE, ROLE_MASTER, ROLE_REPLICA };

/* May this stand in a configuration: 1..MEMBER_ADDR_MAX_BYTES of printable ASCII, no blanks. */
bool member_addr_valid(struct bytes addr);

enum role membership_role(const struct membership *m, uint8_t node);
/* Since when it is a master; 0: the first epoch, or it is none. */
uint64_t membership_since(const struct membership *m, uint8_t node);
/* The entry of a master or replica; NULL: neither. */
const struct member *membership_find(const struct membership *m, uint8_t node);
/* Same masters, replicas and constants, whatever the epochs and whatever name an address goes by.
 */
bool membership_same(const struct membership *a, const struct membership *b);
/* Who is added or removed, one node, keeping the lists in order. The epoch becomes the next one.
 * membership_add() takes the node out of the other list (promotion, demotion); @addr may be that of
 * its entry there. 0; -ENOSPC: the list is full; -EINVAL: the last master; nothing changed then. A
 * node that has the role already, one to remove that has none and a bad @addr are programmer
 * errors: CHECK. */
int membership_add(struct membership *m, enum role role, uint8_t node, const char *addr);
int membership_remove(struct membership *m, uint8_t node);

/* Append to @b. 0 or -ENOBUFS. What the decoder would refuse is a programmer error: CHECK. A
 * configuration of epoch 0 is encoded as "none". */
struct buf;
int membership_encode(struct buf *b, const struct membership *m);
/* Take one off the beginning of @rest. 0, or -EBADMSG: truncated, a list out of order or twice the
 * same id or in both lists, a length, constant or count out of range, an address that may not stand
 * there, no master, joined or departed that cannot be. *ret and *rest are left alone then. */
int membership_decode(struct bytes *rest, struct membership *ret);
