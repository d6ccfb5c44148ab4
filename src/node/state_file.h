/* The small file that survives a crash: who this node is, the configuration it acts by with the
 * constants the proofs rest on, its part in deciding the next one, and the ballot ceiling
 * (protocol.md 2.3, 2.8, 2.10). Two slots written in turn, each with a sequence number and a
 * checksum, so that a torn write leaves the one before it. Owner: the control thread. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "node/members.h"

struct state {
	char cluster[CLUSTER_NAME_MAX_BYTES + 1];
	uint8_t node;
	/* Configuration (of epoch 0: none yet), and what was promised about the next one. */
	struct members_register reg;
	uint64_t ceiling_n; /* no ballot above it was ever accepted */
	uint64_t inc;       /* incarnation that wrote it */
	bool clean;         /* that incarnation has ended, and held nothing then */
};

struct state_file {
	int fd;
	int dir_fd;
	uint64_t seq;       /* of the newest valid slot; 0: none */
	unsigned next_slot; /* where the next write goes: never onto the newest valid one */
	char path[600];
};

enum { STATE_FRESH = 0, STATE_LOADED = 1 };

/* Open and lock @dir/node-<id>.state, making the directory and an empty file where they are not.
 * STATE_FRESH: nothing was ever written to it. STATE_LOADED: *ret is the newest valid slot.
 * -errno with a sentence in @why: directory not usable, locked by another process (-EBUSY), both
 * slots damaged (-EBADMSG), written by a version with another format (-EPROTONOSUPPORT). */
int state_file_open(struct state_file *f, const char *dir, uint8_t node, struct state *ret,
	char *why, size_t why_bytes);
/* Make @s durable: file and, the first time, directory. 0, or -errno: the slot written last
 * successfully still stands; try again. -ENOENT: the file was removed or replaced meanwhile. */
int state_file_write(struct state_file *f, const struct state *s);
/* A first write failed: as if it had not been tried, for the next start. */
void state_file_undo(struct state_file *f);
void state_file_close(struct state_file *f);

/* 0, or -EINVAL: @found belongs to another node or cluster than @want, or to other constants (those
 * of its committed configuration; a constant of 0 in @want was not said and is not compared); or
 * its configuration is the first one (epoch 1) and names other masters, or others' addresses
 * (n_masters 0 in @want: not said). @why says what differs and what to do about it. @path names the
 * file in the sentence. */
int state_check(const struct state *want, const struct state *found, const char *path, char *why,
	size_t why_bytes);
