#include "node/state_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/bytes.h"
#include "base/check.h"
#include "base/hash.h"
#include "base/log.h"

/* "lkstate1" as a little-endian word. */
#define MAGIC UINT64_C(0x3165746174736b6c)

enum {
	FORMAT_VERSION = 3,
	SLOT_BYTES = 12288,    /* written whole or, at worst, torn: the checksum tells */
	SLOT_DISTANCE = 16384, /* apart by a page and a physical sector, not to be torn together */
	/* Offsets in a slot. */
	AT_MAGIC = 0,
	AT_VERSION = 8,
	AT_SEQ = 16,
	AT_CEILING = 24,
	AT_INC = 32,
	AT_PROMISED_N = 40,
	AT_ACCEPTED_N = 48,
	AT_PROMISED_NODE = 56,
	AT_ACCEPTED_NODE = 57,
	AT_NODE = 58,
	AT_FLAGS = 59,
	AT_CLUSTER = 64,
	AT_CONFIGS = 128, /* committed, accepted; one behind the other, then zeros */
	AT_SUM = SLOT_BYTES - 8,
	FLAG_CLEAN = 1 << 0,
	/* Formats 1 and 2: slots of another size, with magic and version at the same places. */
	OLD_SLOT_BYTES = 512,
	OLD_SLOT_DISTANCE = 4096,
};

_Static_assert(AT_CLUSTER + CLUSTER_NAME_MAX_BYTES + 1 <= AT_CONFIGS, "cluster name fits");
_Static_assert(AT_CONFIGS + 2 * (int)MEMBERSHIP_MAX_BYTES <= AT_SUM, "configurations fit");
_Static_assert(SLOT_BYTES + 4096 <= SLOT_DISTANCE, "slots are apart");

static bool ballot_valid(struct change_ballot b)
{
	return (b.n == 0) == (b.node == 0) && b.n <= BALLOT_MAX;
}

/* One rule for what is written and what is believed. */
static bool state_valid(const struct state *s)
{
	const struct members_register *r = &s->reg;
	return s->node != 0 && s->ceiling_n <= BALLOT_MAX && (!s->clean || s->inc != 0) &&
	       ballot_valid(r->promised) && ballot_valid(r->accepted_at) &&
	       (r->accepted.epoch == 0) == (r->accepted_at.n == 0);
}

static void slot_encode(uint8_t *p, const struct state *s, uint64_t seq)
{
	const struct members_register *r = &s->reg;
	memset(p, 0, SLOT_BYTES);
	put_u64(p + AT_MAGIC, MAGIC);
	put_u32(p + AT_VERSION, FORMAT_VERSION);
	put_u64(p + AT_SEQ, seq);
	put_u64(p + AT_CEILING, s->ceiling_n);
	put_u64(p + AT_INC, s->inc);
	put_u64(p + AT_PROMISED_N, r->promised.n);
	put_u64(p + AT_ACCEPTED_N, r->accepted_at.n);
	p[AT_PROMISED_NODE] = r->promised.node;
	p[AT_ACCEPTED_NODE] = r->accepted_at.node;
	p[AT_NODE] = s->node;
	p[AT_FLAGS] = s->clean ? FLAG_CLEAN : 0;
	memcpy(p + AT_CLUSTER, s->cluster, strlen(s->cluster));
	struct buf b = {.data = p, .len = AT_CONFIGS, .cap = AT_SUM, .max = AT_SUM};
	CHECK(membership_encode(&b, &r->committed) == 0);
	CHECK(membership_encode(&b, &r->accepted) == 0);
	put_u64(p + AT_SUM, hash_bytes(bytes_of(p, AT_SUM)));
}

/* 0, -EBADMSG, or -EPROTONOSUPPORT. */
static int slot_decode(const uint8_t *p, struct state *ret, uint64_t *ret_seq)
{
	if (get_u64(p + AT_MAGIC) != MAGIC ||
		get_u64(p + AT_SUM) != hash_bytes(bytes_of(p, AT_SUM)))
		return -EBADMSG;
	if (get_u32(p + AT_VERSION) != FORMAT_VERSION)
		return -EPROTONOSUPPORT;
	struct state s = {
		.node = p[AT_NODE],
		.reg.promised = {get_u64(p + AT_PROMISED_N), p[AT_PROMISED_NODE]},
		.reg.accepted_at = {get_u64(p + AT_ACCEPTED_N), p[AT_ACCEPTED_NODE]},
		.ceiling_n = get_u64(p + AT_CEILING),
		.inc = get_u64(p + AT_INC),
		.clean = p[AT_FLAGS] == FLAG_CLEAN,
	};
	struct bytes configs = bytes_of(p + AT_CONFIGS, AT_SUM - AT_CONFIGS);
	if (get_u64(p + AT_SEQ) == 0 || p[AT_CLUSTER + CLUSTER_NAME_MAX_BYTES] != 0 ||
		(p[AT_FLAGS] & ~FLAG_CLEAN) != 0 ||
		membership_decode(&configs, &s.reg.committed) != 0 ||
		membership_decode(&configs, &s.reg.accepted) != 0 || !state_valid(&s))
		return -EBADMSG;
	memcpy(s.cluster, p + AT_CLUSTER, sizeof s.cluster);
	*ret_seq = get_u64(p + AT_SEQ);
	*ret = s;
	return 0;
}

/* Whether the first @n bytes of the file are those of an older format. */
static bool is_old_format(const uint8_t *p, size_t n)
{
	for (size_t at = 0; at <= OLD_SLOT_DISTANCE; at += OLD_SLOT_DISTANCE) {
		const uint8_t *slot = p + at;
		size_t sum_at = OLD_SLOT_BYTES - 8;
		if (n >= at + OLD_SLOT_BYTES && get_u64(slot + AT_MAGIC) == MAGIC &&
			get_u32(slot + AT_VERSION) < FORMAT_VERSION &&
			get_u64(slot + sum_at) == hash_bytes(bytes_of(slot, sum_at)))
			return true;
	}
	return false;
}

static int sync_parent(int dir_fd)
{
	int fd = openat(dir_fd, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	int r = fsync(fd);
	int error = errno;
	(void)close(fd);
	errno = error;
	return r;
}

static int open_locked(struct state_file *f, const char *dir, char *why, size_t why_bytes)
{
	const char *what = "make the directory";
	int error = 0;
	bool made = mkdir(dir, 0750) == 0;
	if (!made && errno != EEXIST)
		goto failed;
	what = "open the directory";
	f->dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (f->dir_fd < 0)
		goto failed;
	/* Were the directory lost in a power failure, --new-cluster would pass for a first boot. */
	what = "make the directory durable";
	if (made && sync_parent(f->dir_fd) != 0) {
		error = errno;
		(void)rmdir(dir); /* or the next start would not try again */
		errno = error;
		goto failed;
	}
	what = "open the file";
	f->fd = open(f->path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0640);
	if (f->fd < 0)
		goto failed;
	if (flock(f->fd, LOCK_EX | LOCK_NB) == 0)
		return 0;
	if (errno == EWOULDBLOCK) {
		(void)snprintf(why, why_bytes,
			"%s is in use: is a lockerd with this id and --state-dir running already?",
			f->path);
		return -EBUSY;
	}
	what = "lock the file";
failed:
	error = errno;
	(void)snprintf(why, why_bytes,
		"cannot keep the state file %s: cannot %s: %s; name a directory this user may "
		"write with "
		"--state-dir, or run without one with --ephemeral (see --help)",
		f->path, what, strerror(error));
	return -error;
}

static int load(struct state_file *f, struct state *ret, char *why, size_t why_bytes)
{
	struct stat st;
	if (fstat(f->fd, &st) != 0) {
		int error = errno;
		(void)snprintf(why, why_bytes, "%s: %s", f->path, strerror(error));
		return -error;
	}
	if (st.st_size == 0)
		return STATE_FRESH;
	bool other_format = false, damaged = false;
	for (unsigned i = 0; i < 2; i++) {
		uint8_t slot[SLOT_BYTES];
		struct state s;
		uint64_t seq = 0;
		ssize_t n = pread(f->fd, slot, sizeof slot, (off_t)i * SLOT_DISTANCE);
		if (n < 0) {
			/* Not the same as a torn slot: the newest one may be fine and just
			 * unreadable now. */
			int error = errno;
			(void)snprintf(
				why, why_bytes, "cannot read %s: %s", f->path, strerror(error));
			return -error;
		}
		int r = n == SLOT_BYTES ? slot_decode(slot, &s, &seq) : -EBADMSG;
		if (i == 0 && r == -EBADMSG && is_old_format(slot, (size_t)n))
			r = -EPROTONOSUPPORT;
		other_format |= r == -EPROTONOSUPPORT;
		damaged |= r == -EBADMSG;
		if (r != 0 || seq <= f->seq)
			continue;
		f->seq = seq;
		f->next_slot = 1 - i;
		*ret = s;
	}
	if (other_format) {
		(void)snprintf(why, why_bytes,
			"%s was written by another version of lockerd, in a format that this one "
			"does not read: use that one, or begin a new cluster with an empty "
			"--state-dir on every node",
			f->path);
		return -EPROTONOSUPPORT;
	}
	if (f->seq == 0) {
		(void)snprintf(why, why_bytes,
			"%s: both copies of the state are damaged. Restore the file, or remove it "
			"and start "
			"without --new-cluster, so that the node waits before it votes",
			f->path);
		return -EBADMSG;
	}
	if (damaged)
		log_warn("%s: one of its two copies is damaged, by a crash while it was written or "
			 "by the disk; going on with the other",
			f->path);
	return STATE_LOADED;
}

int state_file_open(struct state_file *f, const char *dir, uint8_t node, struct state *ret,
	char *why, size_t why_bytes)
{
	*f = (struct state_file){.fd = -1, .dir_fd = -1};
	int n = snprintf(f->path, sizeof f->path, "%s/node-%u.state", dir, node);
	if (n < 0 || (size_t)n >= sizeof f->path) {
		(void)snprintf(why, why_bytes, "--state-dir %.80s...: too long", dir);
		return -ENAMETOOLONG;
	}
	int r = open_locked(f, dir, why, why_bytes);
	if (r == 0)
		r = load(f, ret, why, why_bytes);
	if (r < 0)
		state_file_close(f);
	return r;
}

int state_file_write(struct state_file *f, const struct state *s)
{
	CHECK(state_valid(s));
	uint8_t slot[SLOT_BYTES];
	struct stat st;
	/* Removed or replaced while it is in use: what is written to it nobody will find. */
	if (fstat(f->fd, &st) != 0)
		return -errno;
	if (st.st_nlink == 0)
		return -ENOENT;
	slot_encode(slot, s, f->seq + 1);
	ssize_t n = pwrite(f->fd, slot, sizeof slot, (off_t)f->next_slot * SLOT_DISTANCE);
	if (n != SLOT_BYTES)
		return n < 0 ? -errno : -ENOSPC;
	if (fsync(f->fd) != 0)
		return -errno;
	/* A new file is there after a crash only when its directory says so. */
	if (f->seq == 0 && fsync(f->dir_fd) != 0)
		return -errno;
	f->seq++;
	f->next_slot = 1 - f->next_slot;
	return 0;
}

void state_file_undo(struct state_file *f)
{
	(void)!ftruncate(f->fd, 0);
}

void state_file_close(struct state_file *f)
{
	if (f->fd >= 0)
		(void)close(f->fd);
	if (f->dir_fd >= 0)
		(void)close(f->dir_fd);
	f->fd = f->dir_fd = -1;
}

/* A constant of 0 was not said by this start. */
static bool differs(const char *name, uint32_t want, uint32_t found, const char *path, char *why,
	size_t why_bytes)
{
	if (want == found || want == 0)
		return false;
	(void)snprintf(why, why_bytes,
		"%s was written with %s %u, this start has %u: start it with the former; changing "
		"it needs a new cluster name and an empty --state-dir on every node",
		path, name, found, want);
	return true;
}

static bool other_masters(const struct membership *want, const struct membership *found)
{
	if (want->n_masters == 0)
		return false;
	if (want->n_masters != found->n_masters)
		return true;
	for (unsigned i = 0; i < want->n_masters; i++)
		if (want->masters[i].id != found->masters[i].id)
			return true;
	return false;
}

static int check_config(const struct membership *want, const struct membership *found,
	const char *path, char *why, size_t why_bytes)
{
	if (found->epoch == 1 && other_masters(want, found)) {
		(void)snprintf(why, why_bytes,
			"%s was written with other --masters (%u of them, this start has %u, or "
			"other ids): start it with the former, and change them with "
			"SETNODES",
			path, found->n_masters, want->n_masters);
		return -EINVAL;
	}
	if (differs("--slots", want->slots, found->slots, path, why, why_bytes) ||
		differs("--max-lease", want->max_lease_ms, found->max_lease_ms, path, why,
			why_bytes) ||
		differs("--attempt-time", want->attempt_ms, found->attempt_ms, path, why,
			why_bytes) ||
		differs("--drift-ppm", want->drift_ppm, found->drift_ppm, path, why, why_bytes))
		return -EINVAL;
	return 0;
}

int state_check(const struct state *want, const struct state *found, const char *path, char *why,
	size_t why_bytes)
{
	if (strcmp(want->cluster, found->cluster) != 0) {
		(void)snprintf(why, why_bytes,
			"%s belongs to cluster \"%s\", this start is for \"%s\": correct --cluster "
			"or use another --state-dir",
			path, found->cluster, want->cluster);
		return -EINVAL;
	}
	if (want->node != found->node) {
		(void)snprintf(why, why_bytes,
			"%s belongs to node %u, this start is for node %u: correct --id or use "
			"another --state-dir",
			path, found->node, want->node);
		return -EINVAL;
	}
	if (found->reg.committed.epoch == 0)
		return 0;
	return check_config(&want->reg.committed, &found->reg.committed, path, why, why_bytes);
}
