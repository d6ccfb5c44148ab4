/* What a shard asks of the world, and what the world tells a shard.
 *
 * The world is src/io (io_uring) in the server and memory in the simulator. It owns byte streams
 * (struct link), clocks and sleep; the shard owns what the bytes mean. One loop of a thread:
 *
 *   wait -> collect completions -> handler.collect() -> read clocks once -> handler.begin(clocks)
 *        -> open/data/close for every stream with news -> handler.work() -> flush dirty links
 *        -> handler.publish() -> handler.wait_ns() -> wait
 *
 * The clocks are read after everything of this loop was collected, so each event is stepped with
 * a time read after its receipt (protocol.md 2.1).
 *
 * Owner: one thread; nothing here is shared between threads except env->wake. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/buf.h"

/* All in nanoseconds but wall. */
struct clocks {
	uint64_t slow;    /* adds up the smaller of the BOOTTIME and MONOTONIC_RAW deltas */
	uint64_t fast;    /* adds up the larger */
	uint64_t mclk;    /* BOOTTIME itself: message ages; comparable between threads of a node */
	uint64_t wall_us; /* microseconds since 1970; ballots only */
};

enum link_kind { LINK_CLIENT, LINK_PEER };

/* One byte stream. Made by the world; valid from open() until close() has returned. */
struct link {
	enum link_kind kind;
	uint64_t serial;        /* never reused in this process; unique over all threads */
	struct buf out;         /* the shard appends, then calls env_dirty(); never shrinks it */
	size_t in_flight_bytes; /* handed to the kernel and not yet done; not part of `out` */
	bool dirty;
	bool closing;
	bool paused;   /* the shard does not want data(); see env_ops.resume */
	char addr[64]; /* "127.0.0.1:54321", for people */
	void *user;    /* the shard's */
};

struct env;

struct env_ops {
	/* Note that link->out has bytes to go; sent once, at the end of the loop. */
	void (*dirty)(struct env *env, struct link *link);
	/* Close; with @flush what is in `out` is sent first (bounded time). handler.close() comes
	 * later in this or another loop, never from inside this call. Idempotent. */
	void (*close)(struct env *env, struct link *link, bool flush);
	/* Feed the bytes kept while link->paused was set; clears it. data() follows in this loop.
	 */
	void (*resume)(struct env *env, struct link *link);
	/* Adopt a connected socket as a link; NULL when out of memory or slots (fd closed then). */
	struct link *(*adopt)(struct env *env, int fd, enum link_kind kind, const char *addr);
	/* Wake thread @thread from its sleep. Callable for any thread of the node. */
	void (*wake)(struct env *env, unsigned thread);
};

struct env {
	const struct env_ops *ops;
};

/* What the shard implements. @self is env_handler.self. */
struct env_handler {
	void *self;
	/* All completions of this loop are in hand; note how far the mailboxes reach. */
	void (*collect)(void *self);
	void (*begin)(void *self, const struct clocks *now);
	/* A client connected; not called for adopted links. 0, or -1: refuse (the world sends what
	 * is in link->out and closes; close() follows as for any link). */
	int (*open)(void *self, struct link *link);
	/* Bytes arrived: @data holds what was left over plus what is new. Returns how many were
	 * used, or -1: drop the stream (what is in link->out is still sent). Bytes not used come
	 * again, with more, unless link->paused was set. */
	ssize_t (*data)(void *self, struct link *link, const uint8_t *data, size_t len);
	/* The stream ended, whoever ended it. The last call for this link. */
	void (*close)(void *self, struct link *link);
	/* Mail, timers, housekeeping: bounded work. */
	void (*work)(void *self);
	/* Outputs were flushed: show mail to other threads and wake the sleepers. */
	void (*publish)(void *self);
	/* Nanoseconds until work() is wanted again: 0 at once, UINT64_MAX no wish. */
	uint64_t (*wait_ns)(void *self);
	/* About to sleep. True: go on; false: mail is waiting, do not sleep. */
	bool (*sleep)(void *self);
	/* Back from the sleep. */
	void (*awake)(void *self);
	/* Cheap, for spinning: has mail arrived? */
	bool (*has_mail)(void *self);
};

static inline void env_dirty(struct env *env, struct link *link)
{
	if (!link->dirty)
		env->ops->dirty(env, link);
}
