/* Mail between the threads of a node: one single-producer single-consumer ring of bytes per ordered
 * pair, with a sleep flag per thread so that only sleepers are woken (Dekker: store, fence, load on
 * both sides).
 *
 * Threads 0..threads-1 are the shards, thread `threads` is the control thread. Records are written
 * during a loop and shown by mailbox_publish() once at its end. A record that finds its ring full
 * waits in the sender's overflow buffer, in order; mailbox_crowded() tells the sender to slow down.
 * A record is contiguous and 8-byte aligned; the reader gets a pointer into the ring. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { MAIL_MAX_BYTES = 32 * 1024 }; /* one record's body */

struct mailbox_mesh; /* shared by all threads of a node; immutable but for rings and flags */
struct mailbox;      /* one thread's end */

/* @ring_bytes: per ordered pair, power of two >= 4 * MAIL_MAX_BYTES. NULL: out of memory. */
struct mailbox_mesh *mailbox_mesh_new(unsigned threads_total, size_t ring_bytes);
void mailbox_mesh_free(struct mailbox_mesh *mesh);
struct mailbox *mailbox_of(struct mailbox_mesh *mesh, unsigned thread);

/* ---- sender ---- */
/* Room for one record to @to; the caller fills @bytes bytes at once. Never NULL, aborts only when
 * out of memory. The record is finished by this call's return: write before anything else. */
void *mailbox_put(struct mailbox *m, unsigned to, uint16_t type, size_t bytes);
/* The overflow towards @to is in use: take no new work for it. */
bool mailbox_crowded(const struct mailbox *m, unsigned to);
/* Bytes in the overflow towards @to: for what may be dropped instead of piling up. */
size_t mailbox_overflow_bytes(const struct mailbox *m, unsigned to);
/* Something is not shown yet; after a publish: some overflow is in use, publish again soon. */
bool mailbox_unsent(const struct mailbox *m);
/* Records that ever went through an overflow. */
uint64_t mailbox_overflowed(const struct mailbox *m);
/* Show everything written; calls @wake(arg, thread) for each sleeper that has got mail. */
void mailbox_publish(struct mailbox *m, void (*wake)(void *arg, unsigned thread), void *arg);

/* ---- receiver ---- */
/* Note how far each inbound ring reaches now: mailbox_next() goes no further. */
void mailbox_collect(struct mailbox *m);
/* Next record up to the mark, round robin over senders; NULL: no more. Valid until the next call.
 */
const void *mailbox_next(
	struct mailbox *m, unsigned *ret_from, uint16_t *ret_type, size_t *ret_bytes);
bool mailbox_has_mail(const struct mailbox *m);
/* Announce sleep; false: mail came in between, stay awake (the announcement is withdrawn). */
bool mailbox_sleep(struct mailbox *m);
void mailbox_awake(struct mailbox *m);
