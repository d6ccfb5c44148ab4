/* What this master holds, told to another that lost its memory or missed something (protocol.md
 * 2.4, SYNC). Nothing is remembered between two questions: each names the place to go on from. */
#include <string.h>

#include "core/internal.h"

uint64_t slot_first_hash(const struct engine *e, uint16_t slot)
{
	uint64_t slots = e->cfg.slots;
	return (((uint64_t)slot << 32) + slots - 1) / slots << 32;
}

struct gathering {
	const struct engine *e;
	struct gathered *ret;
	uint64_t from;
	unsigned n;
	uint16_t slot;
};

static void gather(void *arg, struct map_slot entry)
{
	struct gathering *g = arg;
	if (entry.hash < g->from || slot_of(g->e, entry.hash) != g->slot)
		return;
	__builtin_prefetch(lease_at(g->e, (uint32_t)entry.value));
	g->ret[g->n++] = (struct gathered){entry.hash, (uint32_t)entry.value};
}

static int key_cmp(struct bytes a, struct bytes b)
{
	size_t both = a.len < b.len ? a.len : b.len;
	int order = memcmp(a.p, b.p, both);
	return order != 0 ? order : (a.len > b.len) - (a.len < b.len);
}

static bool comes_before(const struct engine *e, struct gathered a, struct gathered b)
{
	if (a.hash != b.hash)
		return a.hash < b.hash;
	return key_cmp(lease_key(lease_at(e, a.ref)), lease_key(lease_at(e, b.ref))) < 0;
}

/* A segment's worth, in no order: few enough for insertion, which needs no memory. */
static void sort(const struct engine *e, struct gathered *v, unsigned n)
{
	for (unsigned i = 1; i < n; i++) {
		struct gathered one = v[i];
		unsigned at = i;
		for (; at > 0 && comes_before(e, one, v[at - 1]); at--)
			v[at] = v[at - 1];
		v[at] = one;
	}
}

uint64_t slot_gather(const struct engine *e, uint16_t slot, uint64_t from,
	struct gathered ret[MAP_SEGMENT_SLOTS], unsigned *ret_n)
{
	struct gathering g = {.e = e, .ret = ret, .from = from, .slot = slot};
	uint64_t next = map_scan(&e->leases, from >> 32, gather, &g) << 32;
	sort(e, ret, g.n);
	*ret_n = g.n;
	return next != 0 && slot_of(e, next) == slot ? next : 0;
}

bool lease_describe(const struct engine *e, const struct lease *l, struct sync_entry *ret)
{
	if (e->now.slow_ns >= l->end_ns ||
		(l->flags & (LEASE_RESYNC | LEASE_SHADOW)) == LEASE_RESYNC)
		return false;
	*ret = (struct sync_entry){
		.key = lease_key(l),
		.maxn = l->maxn,
		.remaining_ns = l->end_ns - e->now.slow_ns,
	};
	if (l->flags & LEASE_SHADOW) {
		ret->flags = SYNC_SHADOW;
		if (l->flags & LEASE_DOUBTED) /* of one instance */
			ret->uid = lease_uid(l);
		return true;
	}
	ret->value = lease_value(l);
	ret->name = name_at(e, l->name);
	ret->uid = lease_uid(l);
	ret->vb = lease_vb(e, l);
	ret->pb = lease_pb(e, l);
	ret->held_ns = lease_held_ns(l, &e->now);
	ret->node = l->node;
	ret->flags = l->flags & LEASE_UNCONFIRMED ? SYNC_UNCONFIRMED : 0;
	ret->flags |= l->flags & LEASE_HEARSAY ? SYNC_HEARSAY : 0;
	if (l->side != 0) {
		ret->flags |= SYNC_WRITTEN;
		ret->op_id = lease_last_op(e, l);
	}
	return true;
}

/* To masters: an entry with somebody else behind it says of neither that the other is not held. */
static bool describe(
	const struct engine *e, const struct msg *m, const struct lease *l, struct sync_entry *ret)
{
	const struct side *side = l->side == 0 ? NULL : arena_at(&e->arena, l->side);
	uint64_t until_ns = side == NULL ? 0 : side->behind_ns;
	if (until_ns <= e->now.slow_ns || (m->flags & MSG_COPY))
		return lease_describe(e, l, ret);
	until_ns = l->end_ns > until_ns ? l->end_ns : until_ns;
	*ret = (struct sync_entry){.flags = SYNC_SHADOW,
		.key = lease_key(l),
		.maxn = l->maxn,
		.remaining_ns = until_ns - e->now.slow_ns};
	return true;
}

/* A replica gets what is held, and nothing that may be. */
static bool is_copied(const struct lease *l)
{
	return lease_is_visible(l) && !(l->flags & LEASE_HIDDEN);
}

static struct buf empty_body(struct engine *e)
{
	return (struct buf){
		.data = e->sync_body, .cap = SYNC_BODY_MAX_BYTES, .max = SYNC_BODY_MAX_BYTES};
}

/* What somebody may hold beside the entry is told as a SHADOW of its own, or who asks for all that
 * is held would not hear of it (simulator, seed 3001025, drill members). False: no room. */
static bool append_behind(const struct engine *e, const struct lease *l, struct buf *body)
{
	if (!lease_has_behind(e, l))
		return true;
	const struct side *side = arena_at(&e->arena, l->side);
	struct sync_entry s = {.flags = SYNC_SHADOW,
		.key = lease_key(l),
		.uid = side->behind,
		.maxn = l->maxn > side->behind.n ? l->maxn : side->behind.n,
		.remaining_ns = side->behind_ns - e->now.slow_ns};
	return sync_entry_encode(body, &s) == 0;
}

/* Append those of one segment that are not known yet. False: one did not fit, and *ret_cursor is
 * its hash. *floor_n covers those that say nothing: a lease may be over and its tombstone not there
 * yet (seed 112638: the token that it had was granted again). */
static bool append(struct engine *e, const struct msg *m, const struct gathered *v, unsigned n,
	struct buf *body, uint64_t *ret_cursor, uint64_t *floor_n)
{
	for (unsigned i = 0; i < n; i++) {
		const struct lease *l = lease_at(e, v[i].ref);
		struct sync_entry s;
		bool known = m->key.len != 0 && v[i].hash == m->cursor &&
			     key_cmp(lease_key(l), m->key) <= 0;
		bool secret = (m->flags & MSG_COPY) && !is_copied(l);
		if (known || secret)
			continue;
		size_t before = body->len;
		if (!(m->flags & MSG_COPY) && !append_behind(e, l, body)) {
			*ret_cursor = v[i].hash;
			return false;
		}
		if (!describe(e, m, l, &s)) {
			*floor_n = l->maxn > *floor_n ? l->maxn : *floor_n;
			continue;
		}
		/* Who it is and for how long: the value is wanted only where there is more than
		 * one. */
		if ((m->flags & MSG_MERGE) && !(s.flags & SYNC_WRITTEN))
			s.value = s.name = (struct bytes){0};
		if (sync_entry_encode(body, &s) != 0) {
			body->len = before;
			*ret_cursor = v[i].hash;
			return false;
		}
	}
	return true;
}

static void report_slot(struct engine *e, const struct msg *m, struct msg *reply)
{
	struct buf body = empty_body(e);
	struct gathered v[MAP_SEGMENT_SLOTS];
	uint64_t at = m->cursor != 0 ? m->cursor : slot_first_hash(e, m->slot);
	bool room = slot_of(e, at) == m->slot;
	uint64_t next = 0, floor_n = tombs_top(&e->tombs, m->slot);
	for (unsigned i = 0; room && i < SYNC_SEGMENTS; i++) {
		unsigned n;
		next = slot_gather(e, m->slot, at, v, &n);
		room = append(e, m, v, n, &body, &next, &floor_n) && next != 0;
		at = next;
	}
	reply->cursor = next;
	reply->n = floor_n;
	reply->value = bytes_of(body.data, body.len);
}

static void report_key(struct engine *e, const struct msg *m, struct msg *reply)
{
	uint64_t hash = hash_bytes(m->key);
	uint32_t ref = lease_find(e, hash, m->key);
	struct buf body = empty_body(e);
	struct sync_entry s;
	if (ref != 0 && (lease_at(e, ref)->flags & LEASE_RESYNC)) {
		reply->verdict = VERDICT_RESYNC;
		return;
	}
	if (ref != 0 && describe(e, m, lease_at(e, ref), &s))
		CHECK(sync_entry_encode(&body, &s) == 0);
	reply->n = ref == 0 ? free_maxn(e, hash) : lease_at(e, ref)->maxn;
	reply->value = bytes_of(body.data, body.len);
}

/* Who restarts or heals counts on its witnesses to know what was granted before the masters
 * changed; who merges asks those that granted it (protocol.md 2.10). */
static bool may_tell(const struct engine *e, const struct msg *m)
{
	bool merge = (m->flags & (MSG_MERGE | MSG_ONE_KEY)) == MSG_MERGE;
	if (merge && e->slot_state[m->slot] == SLOT_RETIRED)
		return true;
	return merge || (m->flags & MSG_COPY) ? slot_votes(e, m->slot) : slot_in_sync(e, m->slot);
}

bool report_handle(struct engine *e, const struct msg *m, struct msg *reply)
{
	bool one_key = (m->flags & MSG_ONE_KEY) != 0;
	if (m->slot >= e->cfg.slots)
		return false;
	if (one_key && (m->key.len == 0 || slot_of(e, hash_bytes(m->key)) != m->slot))
		return false;
	*reply = (struct msg){.type = MSG_REPLY,
		.req_type = MSG_SYNC,
		.slot = m->slot,
		.req = m->req,
		.flags = m->flags & (MSG_ONE_KEY | MSG_COPY),
		.verdict = VERDICT_SYNC};
	if (m->flags & MSG_COPY)
		log_keep(e, m->slot);
	if (!may_tell(e, m) && !MUTANT(SYNC_INACTIVE)) {
		reply->verdict = VERDICT_RESYNC;
		if (one_key)
			resync_merge_first(e, m->slot);
	} else if (one_key) {
		report_key(e, m, reply);
	} else {
		report_slot(e, m, reply);
	}
	return true;
}
