/* What control threads say to one another about the configuration (protocol.md 2.10): the body of a
 * MSG_CONFIG. Pure; bounds checked. */
#pragma once

#include "wire/membership.h"

/* Ballot of a proposer, ordered lexicographically; n is at most BALLOT_MAX. {0, 0}: none. */
struct change_ballot {
	uint64_t n;
	uint8_t node;
};

enum config_msg_kind {
	CONFIG_NEWS = 1, /* config: committed at the sender */
	CONFIG_PREPARE,  /* b */
	CONFIG_PROMISE,  /* b; accepted_at and config: accepted before, or none */
	CONFIG_ACCEPT,   /* b; config: proposed */
	CONFIG_ACCEPTED, /* b */
	CONFIG_REFUSE,   /* b: promised to that one, or none */
	CONFIG_KIND_MAX = CONFIG_REFUSE,
};

struct config_msg {
	uint8_t kind;
	uint64_t epoch; /* committed at the sender, durably; PREPARE and all that follow are about
			 * the change away from it, a PROMISE or ACCEPTED about that of the request
			 */
	uint64_t moved_epoch;  /* every shard of the sender acts by it */
	uint64_t synced_epoch; /* the masters_epoch with which all its slots are in sync; 0: none */
	struct change_ballot b, accepted_at;
	struct membership config; /* epoch 0: none */
};

enum { CONFIG_MSG_MAX_BYTES = 64 + MEMBERSHIP_MAX_BYTES };

/* 0; -ENOBUFS: nothing changed then. What the decoder would refuse is a programmer error: CHECK. */
int config_msg_encode(struct buf *b, const struct config_msg *m);
/* 0 or -EBADMSG: as membership_decode(), an unknown kind, bytes left over, a kind without the
 * configuration or ballot it needs, a PROMISE with one of accepted_at and config only, a ballot out
 * of range. How epochs relate to one another is not looked at. */
int config_msg_decode(struct bytes body, struct config_msg *ret);
