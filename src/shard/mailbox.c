#include "shard/mailbox.h"

#include <stdatomic.h>
#include <stdlib.h>

#include "base/buf.h"
#include "base/check.h"
#include "base/limits.h"

enum {
	THREADS_TOTAL_MAX = THREADS_MAX + 1, /* the control thread */
	LINE_BYTES = 128,                    /* neighbouring cache lines are fetched in pairs */
	OVERFLOW_KEEP_BYTES = 256 * 1024,    /* memory an empty overflow may keep */
};

/* In front of each body; whole record a multiple of its size, so one always fits before the end. */
struct record {
	uint32_t bytes; /* of the body, or WRAP: the next record is at the start of the ring */
	uint16_t type;
	uint16_t zero;
};
_Static_assert(sizeof(struct record) == 8, "bodies must be 8-byte aligned");
#define WRAP UINT32_MAX

enum { RUNNING, SLEEPING };

/* Positions count bytes since the start and never wrap. */
struct ring {
	_Alignas(LINE_BYTES) _Atomic uint64_t tail; /* written by the sender */
	_Alignas(LINE_BYTES) _Atomic uint64_t head; /* written by the receiver */
	/* The sender's own. */
	_Alignas(LINE_BYTES) uint64_t tail_next; /* end of what is written; `tail` follows */
	uint64_t head_seen;
	struct buf overflow; /* records, oldest at overflow_at */
	size_t overflow_at;
	bool listed; /* in mailbox.touched */
	/* The receiver's own. */
	_Alignas(LINE_BYTES) uint64_t head_next; /* end of what was taken; `head` follows */
	uint64_t mark;                           /* how far mailbox_next() may go */
	uint8_t *data;                           /* both; immutable */
};

struct mailbox {
	_Alignas(LINE_BYTES) _Atomic int state;
	_Alignas(LINE_BYTES) struct mailbox_mesh *mesh;
	unsigned self;
	/* Sender. */
	unsigned touched_n;
	uint8_t touched[THREADS_TOTAL_MAX]; /* rings to be published or still overflowing */
	uint64_t overflowed;
	/* Receiver. */
	unsigned turn;
	struct ring *lent; /* the ring of the record given out last */
};

struct mailbox_mesh {
	unsigned n;
	size_t ring_bytes;
	struct ring *rings; /* [from * n + to] */
	struct mailbox *boxes;
	uint8_t *data;
};

static struct ring *ring_of(const struct mailbox_mesh *mesh, unsigned from, unsigned to)
{
	return &mesh->rings[(size_t)from * mesh->n + to];
}

static void *zeroed_lines(size_t n, size_t bytes)
{
	void *p = aligned_alloc(LINE_BYTES, n * bytes);
	if (p != NULL)
		memset(p, 0, n * bytes);
	return p;
}

struct mailbox_mesh *mailbox_mesh_new(unsigned threads_total, size_t ring_bytes)
{
	CHECK(threads_total >= 1 && threads_total <= THREADS_TOTAL_MAX);
	CHECK(ring_bytes >= (size_t)4 * MAIL_MAX_BYTES && (ring_bytes & (ring_bytes - 1)) == 0);
	size_t pairs = (size_t)threads_total * threads_total;
	struct mailbox_mesh *mesh = calloc(1, sizeof *mesh);
	if (mesh == NULL)
		return NULL;
	mesh->n = threads_total;
	mesh->ring_bytes = ring_bytes;
	mesh->rings = zeroed_lines(pairs, sizeof *mesh->rings);
	mesh->boxes = zeroed_lines(threads_total, sizeof *mesh->boxes);
	mesh->data = calloc(pairs, ring_bytes);
	if (mesh->rings == NULL || mesh->boxes == NULL || mesh->data == NULL) {
		free(mesh->rings);
		free(mesh->boxes);
		free(mesh->data);
		free(mesh);
		return NULL;
	}
	for (size_t i = 0; i < pairs; i++) {
		mesh->rings[i].data = mesh->data + i * ring_bytes;
		buf_init(&mesh->rings[i].overflow, 0);
	}
	for (unsigned i = 0; i < threads_total; i++) {
		mesh->boxes[i].mesh = mesh;
		mesh->boxes[i].self = i;
	}
	return mesh;
}

void mailbox_mesh_free(struct mailbox_mesh *mesh)
{
	if (mesh == NULL)
		return;
	for (size_t i = 0; i < (size_t)mesh->n * mesh->n; i++)
		buf_fini(&mesh->rings[i].overflow);
	free(mesh->rings);
	free(mesh->boxes);
	free(mesh->data);
	free(mesh);
}

struct mailbox *mailbox_of(struct mailbox_mesh *mesh, unsigned thread)
{
	CHECK(thread < mesh->n);
	return &mesh->boxes[thread];
}

/* ---- sender ---- */

static size_t record_bytes(size_t body_bytes)
{
	return sizeof(struct record) + ((body_bytes + 7) & ~(size_t)7);
}

/* Room for a record of @total bytes in the ring, or NULL: full. */
static uint8_t *ring_room(struct ring *r, size_t ring_bytes, size_t total)
{
	size_t at = r->tail_next & (ring_bytes - 1);
	size_t left = ring_bytes - at;
	size_t skip = left < total ? left : 0;

	if (ring_bytes - (r->tail_next - r->head_seen) < skip + total) {
		r->head_seen = atomic_load_explicit(&r->head, memory_order_acquire);
		if (ring_bytes - (r->tail_next - r->head_seen) < skip + total)
			return NULL;
	}
	if (skip != 0) {
		*(struct record *)(void *)(r->data + at) = (struct record){.bytes = WRAP};
		at = 0;
	}
	r->tail_next += skip + total;
	return r->data + at;
}

static void touch(struct mailbox *m, struct ring *r, unsigned to)
{
	if (r->listed)
		return;
	r->listed = true;
	m->touched[m->touched_n++] = (uint8_t)to;
}

void *mailbox_put(struct mailbox *m, unsigned to, uint16_t type, size_t bytes)
{
	CHECK(to < m->mesh->n);
	CHECK(bytes <= MAIL_MAX_BYTES);
	struct ring *r = ring_of(m->mesh, m->self, to);
	size_t total = record_bytes(bytes);

	touch(m, r, to);
	uint8_t *p = r->overflow.len != 0 ? NULL : ring_room(r, m->mesh->ring_bytes, total);
	if (p == NULL) {
		p = buf_reserve(&r->overflow, total);
		CHECK(p != NULL);
		r->overflow.len += total;
		m->overflowed++;
	}
	struct record *rec = (void *)p;
	*rec = (struct record){.bytes = (uint32_t)bytes, .type = type};
	return rec + 1;
}

bool mailbox_crowded(const struct mailbox *m, unsigned to)
{
	return ring_of(m->mesh, m->self, to)->overflow.len != 0;
}

size_t mailbox_overflow_bytes(const struct mailbox *m, unsigned to)
{
	const struct ring *r = ring_of(m->mesh, m->self, to);
	return r->overflow.len - r->overflow_at;
}

bool mailbox_unsent(const struct mailbox *m)
{
	return m->touched_n != 0;
}

uint64_t mailbox_overflowed(const struct mailbox *m)
{
	return m->overflowed;
}

static void move_overflow(struct ring *r, size_t ring_bytes)
{
	struct buf *o = &r->overflow;

	while (r->overflow_at < o->len) {
		const struct record *rec = (const void *)(o->data + r->overflow_at);
		size_t total = record_bytes(rec->bytes);
		uint8_t *p = ring_room(r, ring_bytes, total);
		if (p == NULL)
			break;
		memcpy(p, rec, total);
		r->overflow_at += total;
	}
	/* Moving the rest down only when it is the smaller half costs O(1) a byte. */
	if (r->overflow_at >= o->len / 2) {
		buf_drop_front(o, r->overflow_at);
		r->overflow_at = 0;
		buf_shrink(o, OVERFLOW_KEEP_BYTES);
	}
}

/* Dekker's agreement with mailbox_sleep(): here store tail, fence, load state; there store state,
 * fence, load tails. The fences are in one total order, so one side sees the other's store. */
void mailbox_publish(struct mailbox *m, void (*wake)(void *arg, unsigned thread), void *arg)
{
	struct mailbox_mesh *mesh = m->mesh;
	unsigned n = m->touched_n, kept = 0;
	uint8_t shown[THREADS_TOTAL_MAX];

	if (n == 0)
		return;
	memcpy(shown, m->touched, n);
	for (unsigned i = 0; i < n; i++) {
		struct ring *r = ring_of(mesh, m->self, shown[i]);
		if (r->overflow.len != 0)
			move_overflow(r, mesh->ring_bytes);
		atomic_store_explicit(&r->tail, r->tail_next, memory_order_release);
		r->listed = r->overflow.len != 0;
		if (r->listed)
			m->touched[kept++] = shown[i];
	}
	m->touched_n = kept;

	atomic_thread_fence(memory_order_seq_cst);
	for (unsigned i = 0; i < n; i++) {
		_Atomic int *state = &mesh->boxes[shown[i]].state;
		int expected = SLEEPING;
		if (atomic_load_explicit(state, memory_order_relaxed) == SLEEPING &&
			atomic_compare_exchange_strong_explicit(state, &expected, RUNNING,
				memory_order_relaxed, memory_order_relaxed))
			wake(arg, shown[i]);
	}
}

/* ---- receiver ---- */

/* Give the room of taken records back; in large steps, for each costs the sender a cache miss. */
static void give_back(struct mailbox *m)
{
	struct ring *r = m->lent;

	if (r == NULL)
		return;
	m->lent = NULL;
	uint64_t given = atomic_load_explicit(&r->head, memory_order_relaxed);
	if (r->head_next == r->mark || r->head_next - given >= m->mesh->ring_bytes / 4)
		atomic_store_explicit(&r->head, r->head_next, memory_order_release);
}

void mailbox_collect(struct mailbox *m)
{
	give_back(m);
	for (unsigned from = 0; from < m->mesh->n; from++) {
		struct ring *r = ring_of(m->mesh, from, m->self);
		r->mark = atomic_load_explicit(&r->tail, memory_order_acquire);
	}
}

const void *mailbox_next(
	struct mailbox *m, unsigned *ret_from, uint16_t *ret_type, size_t *ret_bytes)
{
	struct mailbox_mesh *mesh = m->mesh;

	give_back(m);
	for (unsigned tries = 0; tries < mesh->n; tries++) {
		unsigned from = m->turn;
		struct ring *r = ring_of(mesh, from, m->self);
		m->turn = from + 1 == mesh->n ? 0 : from + 1;
		if (r->head_next == r->mark)
			continue;
		size_t at = r->head_next & (mesh->ring_bytes - 1);
		const struct record *rec = (const void *)(r->data + at);
		if (rec->bytes == WRAP) {
			/* The record it makes room for was shown with it. */
			r->head_next += mesh->ring_bytes - at;
			rec = (const void *)r->data;
		}
		r->head_next += record_bytes(rec->bytes);
		m->lent = r;
		*ret_from = from;
		*ret_type = rec->type;
		*ret_bytes = rec->bytes;
		return rec + 1;
	}
	return NULL;
}

bool mailbox_has_mail(const struct mailbox *m)
{
	for (unsigned from = 0; from < m->mesh->n; from++) {
		const struct ring *r = ring_of(m->mesh, from, m->self);
		if (atomic_load_explicit(&r->tail, memory_order_acquire) != r->head_next)
			return true;
	}
	return false;
}

bool mailbox_sleep(struct mailbox *m)
{
	/* A sender whose ring is full of taken records would wait for us, and we for it. */
	give_back(m);
	atomic_store_explicit(&m->state, SLEEPING, memory_order_relaxed);
	atomic_thread_fence(memory_order_seq_cst);
	if (!mailbox_has_mail(m))
		return true;
	atomic_store_explicit(&m->state, RUNNING, memory_order_relaxed);
	return false;
}

void mailbox_awake(struct mailbox *m)
{
	atomic_store_explicit(&m->state, RUNNING, memory_order_relaxed);
}
