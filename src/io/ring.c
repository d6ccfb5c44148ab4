#include "io/ring.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "base/check.h"

enum {
	RETRY_FIRST_MS = 50,
	RETRY_MAX_MS = 800,
	RETRY_TOTAL_MS = 3000,
	WORKERS_MAX = 2,
	BUFFER_RINGS_BYTES = 64 * 1024,
};

#define FLAGS_ALWAYS    (IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP)
#define FEATURES_NEEDED (IORING_FEAT_NODROP | IORING_FEAT_FAST_POLL | IORING_FEAT_EXT_ARG)

/* What a kernel may not know, the newest first; flags of one row only work together. */
static const struct {
	unsigned flags;
	const char *names;
} optional_flags[] = {
	{IORING_SETUP_DEFER_TASKRUN, " DEFER_TASKRUN"}, /* 6.1 */
	{IORING_SETUP_SINGLE_ISSUER, " SINGLE_ISSUER"}, /* 6.0 */
	{IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG,
		" COOP_TASKRUN TASKRUN_FLAG"},    /* 5.19 */
	{IORING_SETUP_SUBMIT_ALL, " SUBMIT_ALL"}, /* 5.18 */
};

enum { OPTIONAL_FLAGS = sizeof optional_flags / sizeof optional_flags[0] };

/* What RLIMIT_MEMLOCK is charged for one ring: both queues, the entries, two buffer rings. */
static size_t locked_bytes(unsigned entries, unsigned cq_entries)
{
	size_t queues = (size_t)entries * (64 + 4) + (size_t)cq_entries * 16;
	return queues + BUFFER_RINGS_BYTES;
}

static int sysctl_disabled(void)
{
	int value = 0;
	FILE *f = fopen("/proc/sys/kernel/io_uring_disabled", "re");
	if (f == NULL)
		return 0;
	if (fscanf(f, "%d", &value) != 1)
		value = 0;
	(void)fclose(f);
	return value;
}

static unsigned long long limit_of(int resource)
{
	struct rlimit limit = {0};
	(void)!getrlimit(resource, &limit);
	return (unsigned long long)limit.rlim_cur;
}

static void explain(int err, unsigned entries, unsigned cq_entries, char *why, size_t why_bytes)
{
	switch (-err) {
	case EPERM:
	case EACCES:
		if (sysctl_disabled() != 0)
			(void)snprintf(why, why_bytes,
				"io_uring is switched off (kernel.io_uring_disabled = %d): run "
				"\"sysctl kernel.io_uring_disabled=0\"",
				sysctl_disabled());
		else
			(void)snprintf(why, why_bytes,
				"io_uring is forbidden, by a seccomp profile as Docker's default "
				"one: "
				"allow io_uring_setup, io_uring_enter and io_uring_register "
				"(system calls 425 to 427)");
		break;
	case ENOSYS:
		(void)snprintf(why, why_bytes,
			"no io_uring here: the kernel lacks it or seccomp hides it; use Linux 6.1 "
			"or "
			"later and allow system calls 425 to 427");
		break;
	case ENOMEM:
		(void)snprintf(why, why_bytes,
			"not enough lockable memory for io_uring: RLIMIT_MEMLOCK is %llu KiB, each "
			"thread needs %zu KiB; raise it (\"ulimit -l unlimited\" or "
			"LimitMEMLOCK=infinity in the unit file)",
			limit_of(RLIMIT_MEMLOCK) / 1024, locked_bytes(entries, cq_entries) / 1024);
		break;
	case EMFILE:
	case ENFILE:
		(void)snprintf(why, why_bytes,
			"no file descriptor left for io_uring: RLIMIT_NOFILE is %llu; raise it "
			"(\"ulimit -n\" or LimitNOFILE in the unit file)",
			limit_of(RLIMIT_NOFILE));
		break;
	case EINVAL:
		(void)snprintf(why, why_bytes,
			"this kernel's io_uring is too old or cut down: use Linux 6.1 or later");
		break;
	default:
		(void)snprintf(why, why_bytes, "io_uring_setup failed: %s", strerror(-err));
	}
}

/* Try the full set of flags, then less and less. */
static int init_with_less(struct ring *r, unsigned entries, struct io_uring_params *p)
{
	int err = -EINVAL;
	for (unsigned drop = 0; drop <= OPTIONAL_FLAGS && err == -EINVAL; drop++) {
		*p = (struct io_uring_params){.flags = FLAGS_ALWAYS, .cq_entries = p->cq_entries};
		for (unsigned i = drop; i < OPTIONAL_FLAGS; i++)
			p->flags |= optional_flags[i].flags;
		err = io_uring_queue_init_params(entries, &r->uring, p);
	}
	return err;
}

/* Locked memory of a process that ended is given back late: an immediate restart sees -ENOMEM for
 * a second or two (kernel: freed from a work queue). */
static int init_with_patience(struct ring *r, unsigned entries, struct io_uring_params *p)
{
	unsigned pause_ms = RETRY_FIRST_MS;
	for (unsigned waited_ms = 0;; waited_ms += pause_ms, pause_ms *= 2) {
		int err = init_with_less(r, entries, p);
		if (err != -ENOMEM || waited_ms >= RETRY_TOTAL_MS)
			return err;
		if (pause_ms > RETRY_MAX_MS)
			pause_ms = RETRY_MAX_MS;
		struct timespec ts = {.tv_nsec = (long)pause_ms * 1000000};
		(void)nanosleep(&ts, NULL);
	}
}

static void describe(struct ring *r, const struct io_uring_params *p)
{
	int n = snprintf(r->description, sizeof r->description,
		"io_uring sq %u cq %u features %#x:", p->sq_entries, p->cq_entries, p->features);
	for (unsigned i = 0; i < OPTIONAL_FLAGS; i++)
		if ((p->flags & optional_flags[i].flags) != 0)
			n += snprintf(r->description + n, sizeof r->description - (size_t)n, "%s",
				optional_flags[i].names);
	(void)snprintf(r->description + n, sizeof r->description - (size_t)n, "%s",
		r->enter_flags != 0 ? ", registered" : "");
}

int ring_init(struct ring *r, unsigned entries, unsigned cq_entries, char *why, size_t why_bytes)
{
	*r = (struct ring){0};
	struct io_uring_params p = {.cq_entries = cq_entries};
	int err = init_with_patience(r, entries, &p);
	if (err != 0) {
		explain(err, entries, cq_entries, why, why_bytes);
		return err;
	}
	r->up = true;
	if ((p.features & FEATURES_NEEDED) != FEATURES_NEEDED) {
		ring_fini(r);
		explain(-EINVAL, entries, cq_entries, why, why_bytes);
		return -EINVAL;
	}
	r->task_flag = (p.flags & IORING_SETUP_TASKRUN_FLAG) != 0;
	r->enter_fd = r->uring.ring_fd;
	if (io_uring_register_ring_fd(&r->uring) == 1) {
		r->enter_fd = r->uring.enter_ring_fd;
		r->enter_flags = IORING_ENTER_REGISTERED_RING;
	}
	if ((p.features & RING_FEAT_NO_IOWAIT) != 0)
		r->wait_flags = RING_ENTER_NO_IOWAIT;
	/* Nothing of ours should reach the kernel's worker threads; should it, then with few. */
	unsigned workers[2] = {WORKERS_MAX, WORKERS_MAX};
	(void)io_uring_register_iowq_max_workers(&r->uring, workers);
	describe(r, &p);
	return 0;
}

void ring_fini(struct ring *r)
{
	if (r->up)
		io_uring_queue_exit(&r->uring);
	*r = (struct ring){0};
}

/* Show new entries to the kernel; how many it has yet to take. The index array is written as
 * liburing 2.3 does; later versions fill it once and the same, or have none (NO_SQARRAY). */
static unsigned flush_queue(struct ring *r)
{
	struct io_uring_sq *sq = &r->uring.sq;
	if (sq->array != NULL)
		for (unsigned i = sq->sqe_head; i != sq->sqe_tail; i++)
			sq->array[i & sq->ring_mask] = i & sq->ring_mask;
	sq->sqe_head = sq->sqe_tail;
	io_uring_smp_store_release(sq->ktail, sq->sqe_tail);
	return ring_unsubmitted(r);
}

static int enter(struct ring *r, unsigned wait_nr, unsigned flags, void *arg, size_t arg_bytes)
{
	unsigned pending = flush_queue(r);
	int n = io_uring_enter2(
		(unsigned)r->enter_fd, pending, wait_nr, r->enter_flags | flags, arg, arg_bytes);
	r->enters++;
	if (n > 0)
		r->sqes += (unsigned)n;
	return n;
}

struct io_uring_sqe *ring_sqe(struct ring *r)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&r->uring);
	if (sqe != NULL)
		return sqe;
	/* Without GETEVENTS: what completes now belongs to the next loop. */
	(void)enter(r, 0, 0, NULL, 0);
	return io_uring_get_sqe(&r->uring);
}

int ring_enter(struct ring *r, uint64_t wait_ns)
{
	int n;
	if (wait_ns == 0) {
		n = enter(r, 0, IORING_ENTER_GETEVENTS, NULL, 0);
	} else {
		struct __kernel_timespec ts = {
			.tv_sec = (long long)(wait_ns / 1000000000),
			.tv_nsec = (long long)(wait_ns % 1000000000),
		};
		struct ring_wait_arg arg = {.timespec = (uintptr_t)&ts};
		n = enter(r, 1, r->wait_flags | IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG, &arg,
			sizeof arg);
	}
	switch (n) {
	case -ETIME:
	case -EINTR:
	case -EAGAIN: /* no memory for requests: they stay queued */
	case -EBUSY:  /* overflown completions come first */
		return 0;
	default:
		return n < 0 ? n : 0;
	}
}

unsigned ring_harvest(struct ring *r, struct ring_cqe *ret, unsigned max)
{
	struct io_uring_cq *cq = &r->uring.cq;
	unsigned n = io_uring_cq_ready(&r->uring);
	unsigned head = *cq->khead;
	if (n > max)
		n = max;
	for (unsigned i = 0; i < n; i++) {
		const struct io_uring_cqe *cqe = &cq->cqes[(head + i) & cq->ring_mask];
		ret[i] = (struct ring_cqe){cqe->user_data, cqe->res, cqe->flags};
	}
	io_uring_cq_advance(&r->uring, n);
	return n;
}
