/* A synchronous client: one connection, one command at a time, every wait with an end.
 * Owner  the caller's thread. */
#pragma once

#include "wire/resp.h"

enum {
	SYNC_REPLY_MAX_BYTES = 4 << 20,
	SYNC_NODES_MAX = 16384, /* values in one reply */
};

struct sync {
	int fd; /* -1: not connected */
	struct buf out;
	struct buf in;
	size_t done_bytes; /* of the last reply, at the front of in */
	struct resp_value *nodes;
	char address[256]; /* the one connected to */
	char why[512];     /* sentence about the last failure */
};

/* Connect to the first of "HOST:PORT,HOST:PORT..." that answers HELLO 3; @timeout_ms each.
 * 0; -EINVAL: no such address list; -ENOMEM; -ECONNREFUSED: none of them could be used. On failure
 * s->why tells all reasons. sync_close() is due in any case. */
int sync_open(struct sync *s, const char *addresses, int64_t timeout_ms);

/* Send one command and wait for its reply: *ret points at its values, depth first, valid until the
 * next call. Pushes in between are dropped.
 * 0 (also for an error reply); -EMSGSIZE: the command is too large, nothing was sent; any other:
 * the connection is closed and whether the command took effect is unknown: -ETIMEDOUT,
 * -ECONNRESET (closed by the other side), -EPROTO (not a reply), -errno of the socket. */
int sync_command(struct sync *s, size_t argc, const struct bytes *argv, int64_t timeout_ms,
	const struct resp_value **ret);

/* The two halves of sync_command(), for who has something else to do meanwhile. sync_receive():
 * -EAGAIN: no reply within @timeout_ms; the connection stays, and it may be asked again. */
int sync_send(struct sync *s, size_t argc, const struct bytes *argv, int64_t timeout_ms);
int sync_receive(struct sync *s, int64_t timeout_ms, const struct resp_value **ret);

void sync_close(struct sync *s);

/* The value of @name in the map at @map, or NULL: no map, or no such name. */
const struct resp_value *sync_map_get(const struct resp_value *map, const char *name);
