/* One io_uring: set-up with what the kernel has, submission and waiting in one system call.
 * Owner: the thread that called ring_init; the kernel refuses any other (SINGLE_ISSUER).
 * Names that old or new <liburing.h> lack are our own, checked against it where it has them:
 * most are enumerators there, so #ifndef cannot see them. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <liburing.h>

enum { RING_REGISTER_PBUF_RING = 22 };
_Static_assert((int)IORING_REGISTER_PBUF_RING == RING_REGISTER_PBUF_RING, "kernel ABI");

enum { RING_CQE_BUFFER_SHIFT = 16 };
_Static_assert((int)IORING_CQE_BUFFER_SHIFT == RING_CQE_BUFFER_SHIFT, "kernel ABI");

#define RING_ENTER_NO_IOWAIT (1u << 7)
#define RING_FEAT_NO_IOWAIT  (1u << 17)

/* struct io_uring_buf_reg, whose third field changed its name after liburing 2.3. */
struct ring_buf_reg {
	uint64_t ring_addr;
	uint32_t ring_entries;
	uint16_t group;
	uint16_t flags;
	uint64_t reserved[3];
};
_Static_assert(sizeof(struct ring_buf_reg) == sizeof(struct io_uring_buf_reg), "kernel ABI");

struct ring_wait_arg {
	uint64_t sigmask;
	uint32_t sigmask_bytes;
	uint32_t min_wait_us;
	uint64_t timespec;
};
_Static_assert(sizeof(struct ring_wait_arg) == sizeof(struct io_uring_getevents_arg), "kernel ABI");

/* A completion, copied out of the ring. */
struct ring_cqe {
	uint64_t user_data;
	int32_t res;
	uint32_t flags;
};

struct ring {
	struct io_uring uring;
	int enter_fd;
	unsigned enter_flags; /* on every enter */
	unsigned wait_flags;  /* on those that wait */
	bool task_flag;       /* the kernel publishes IORING_SQ_TASKRUN */
	bool up;
	uint64_t enters, sqes; /* so far */
	char description[256];
};

/* 0 or -errno; @why then names cause and remedy. Tries for 3 s when memory is locked elsewhere. */
int ring_init(struct ring *r, unsigned entries, unsigned cq_entries, char *why, size_t why_bytes);
/* Also good for a zeroed ring. */
void ring_fini(struct ring *r);

/* A zeroed submission entry; submits early when the queue is full. NULL: the kernel takes none at
 * the moment, try again after the next ring_enter. */
struct io_uring_sqe *ring_sqe(struct ring *r);

/* Submit everything, run deferred work, and wait for a completion at most @wait_ns (0: do not).
 * 0, also after a timeout or signal; -errno when the ring is dead. */
int ring_enter(struct ring *r, uint64_t wait_ns);

/* Copy at most @max completions out; returns how many. */
unsigned ring_harvest(struct ring *r, struct ring_cqe *ret, unsigned max);

static inline unsigned ring_unsubmitted(const struct ring *r)
{
	return r->uring.sq.sqe_tail - IO_URING_READ_ONCE(*r->uring.sq.khead);
}

static inline bool ring_overflown(const struct ring *r)
{
	return (IO_URING_READ_ONCE(*r->uring.sq.kflags) & IORING_SQ_CQ_OVERFLOW) != 0;
}

/* Completions wait inside the kernel; with DEFER_TASKRUN they stay there until we enter. */
static inline bool ring_wants_enter(const struct ring *r)
{
	unsigned flags = IO_URING_READ_ONCE(*r->uring.sq.kflags);
	return (flags & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW)) != 0;
}

static inline bool ring_has_news(const struct ring *r)
{
	return io_uring_cq_ready(&r->uring) > 0 || ring_wants_enter(r);
}
