#include <string.h>

#include "core/internal.h"

uint16_t slot_of(const struct engine *e, uint64_t hash)
{
	return engine_slot_of(hash, e->cfg.slots);
}

static size_t block_bytes(const struct lease *l)
{
	return sizeof *l + l->key_bytes + l->value_bytes;
}

static struct map_slot *find_slot(const struct engine *e, uint64_t hash, struct bytes key)
{
	struct map_slot *s = map_find(&e->leases, hash);
	while (s != NULL && !bytes_eq(lease_key(lease_at(e, (uint32_t)s->value)), key))
		s = map_next(&e->leases, hash, s);
	return s;
}

/* Of an entry known to be there: no key is compared. */
static struct map_slot *slot_of_ref(const struct engine *e, uint64_t hash, uint32_t ref)
{
	struct map_slot *s = map_find(&e->leases, hash);
	while (s != NULL && s->value != ref)
		s = map_next(&e->leases, hash, s);
	CHECK(s != NULL);
	return s;
}

uint32_t lease_find(struct engine *e, uint64_t hash, struct bytes key)
{
	struct map_slot *s = find_slot(e, hash, key);
	if (s == NULL)
		return 0;
	uint32_t ref = (uint32_t)s->value;
	/* Exactness of an end comes from comparing it here, not from the wheel. */
	const struct lease *l = lease_at(e, ref);
	if (e->now.slow_ns < l->end_ns || (l->flags & LEASE_RESYNC))
		return ref;
	e->stats.expired += lease_is_live(l);
	lease_end(e, hash, ref);
	s = find_slot(e, hash, key); /* a shadow may stand behind it */
	return s == NULL ? 0 : (uint32_t)s->value;
}

/* Whatever begins, ends or is seen otherwise from now on comes by here. */
static void count_lease(struct engine *e, const struct lease *l, int by)
{
	observers_wake(e, lease_key(l));
	if (l->flags & LEASE_STAGED)
		e->n_staged += (uint64_t)by;
	else if (l->flags & LEASE_SHADOW)
		e->n_shadows += (uint64_t)by;
	else if (l->flags & LEASE_RESYNC)
		e->n_resync += (uint64_t)by;
	else if (l->flags & LEASE_HIDDEN)
		e->n_hidden += (uint64_t)by;
	else if (l->flags & LEASE_UNCONFIRMED)
		e->n_promises += (uint64_t)by;
	else
		e->n_leases += (uint64_t)by;
}

static void tell_followers(struct engine *e, const struct lease *l)
{
	if (e->now.slow_ns < e->logs.until_ns)
		log_append(e, hash_bytes(lease_key(l)), l);
}

void lease_flags(struct engine *e, struct lease *l, uint16_t set, uint16_t clear)
{
	bool visible = lease_is_visible(l);
	count_lease(e, l, -1);
	l->flags = (uint16_t)((l->flags & ~clear) | set);
	count_lease(e, l, 1);
	if (visible != lease_is_visible(l))
		tell_followers(e, l);
}

/* Room for an entry of this key, in the table already; 0: none. */
static uint32_t entry_alloc(struct engine *e, uint64_t hash, size_t data_bytes)
{
	if (e->leases.count >= e->cfg.max_leases)
		return 0;
	size_t bytes = sizeof(struct lease) + data_bytes;
	uint32_t ref = arena_alloc(&e->arena, bytes);
	if (ref == 0)
		return 0;
	if (map_insert(&e->leases, hash, ref) != 0) {
		arena_free(&e->arena, ref, bytes);
		return 0;
	}
	return ref;
}

static uint16_t hidden_flag(struct bytes key)
{
	bool probe = key.len >= PROBE_PREFIX_BYTES &&
		     memcmp(key.p, PROBE_PREFIX, PROBE_PREFIX_BYTES) == 0;
	return probe ? LEASE_HIDDEN : 0;
}

uint32_t lease_new(struct engine *e, uint64_t hash, const struct msg *m)
{
	uint32_t ref = entry_alloc(e, hash, m->key.len + m->value.len);
	if (ref == 0)
		return 0;
	struct lease *l = lease_at(e, ref);
	int64_t now_ns = (int64_t)e->now.slow_ns;
	uint64_t length_ns = (m->lease_ms + 1) * NS_PER_MS; /* L_mst: masters round up */
	if (MUTANT(EXPIRY_EARLY))
		length_ns -= m->lease_ms * NS_PER_MS / 4;
	/* Later than the last change, which may have come at this very reading of the clock. */
	*l = (struct lease){
		.token = m->uid.n,
		.cid = m->uid.cid,
		.maxn = m->uid.n,
		.end_ns = e->now.slow_ns + length_ns,
		.since_ns = now_ns > e->changed_slow_ns ? now_ns : e->changed_slow_ns,
		.key_bytes = (uint16_t)m->key.len,
		.value_bytes = (uint16_t)m->value.len,
		.name = name_take(e, m->name),
		.flags = (uint16_t)(LEASE_UNCONFIRMED | hidden_flag(m->key)),
		.node = m->node,
	};
	memcpy(l->data, m->key.p, m->key.len);
	if (m->value.len > 0)
		memcpy(l->data + m->key.len, m->value.p, m->value.len);
	count_lease(e, l, 1);
	/* A promise is looked at after T_promise; the wheel is re-armed lazily to the end. */
	lease_rearm(e, ref);
	return ref;
}

void lease_rearm(struct engine *e, uint32_t ref)
{
	const struct lease *l = lease_at(e, ref);
	uint64_t ask_ns = e->now.slow_ns + e->promise_ns;
	bool soon = l->end_ns < ask_ns && !(l->flags & LEASE_RESYNC);
	wheel_remove(&e->lease_wheel, ref);
	wheel_add(&e->lease_wheel, ref, soon ? l->end_ns : ask_ns);
}

bool lease_has_behind(const struct engine *e, const struct lease *l)
{
	const struct side *side = l->side == 0 ? NULL : arena_at(&e->arena, l->side);
	return side != NULL && side->behind_ns > e->now.slow_ns;
}

/* The SHADOW of one instance goes as soon as the others rule that out (promise.c). */
static void shadow_of(struct engine *e, uint32_t ref, struct ballot uid)
{
	struct lease *l = lease_at(e, ref);
	l->token = uid.n;
	l->cid = uid.cid;
	l->maxn = uid.n > l->maxn ? uid.n : l->maxn;
	if (uid.n != 0)
		l->flags |= LEASE_DOUBTED;
	uint64_t ask_ns = e->now.slow_ns + e->attempt_ns / DOUBT_PARTS;
	bool asks = uid.n != 0 && ask_ns < l->end_ns;
	wheel_remove(&e->lease_wheel, ref);
	wheel_add(&e->lease_wheel, ref, asks ? ask_ns : l->end_ns);
}

/* The entry is over, and somebody else may hold the key: a SHADOW takes its place. */
static bool shadow_follows(struct engine *e, uint32_t ref)
{
	struct lease *l = lease_at(e, ref);
	if (!lease_has_behind(e, l))
		return false;
	const struct side *side = arena_at(&e->arena, l->side);
	promise_drop_answers(e, l);
	lease_flags(e, l, LEASE_SHADOW, (uint16_t) ~(LEASE_HIDDEN | LEASE_MISSED));
	l->end_ns = side->behind_ns;
	l->reports = REPORTS_UNCOUNTED;
	shadow_of(e, ref, side->behind);
	block_dispose(e, l->side, sizeof(struct side));
	l->side = 0;
	return true;
}

static void end(struct engine *e, uint64_t hash, uint32_t ref, bool wake)
{
	struct lease *l = lease_at(e, ref);
	observers_note_end(e, l);
	if (shadow_follows(e, ref)) {
		if (wake)
			line_wake_ended(e, hash, lease_key(l));
		return;
	}
	struct map_slot *s = slot_of_ref(e, hash, ref);
	if (lease_is_visible(l) && e->now.slow_ns < l->end_ns)
		log_changed(e, hash, l);
	tombs_put(&e->tombs, hash, slot_of(e, hash), l->maxn, e->now.slow_ns);
	map_erase(&e->leases, hash, s);
	wheel_remove(&e->lease_wheel, ref);
	promise_drop_answers(e, l);
	count_lease(e, l, -1);
	if (l->side != 0)
		block_dispose(e, l->side, sizeof(struct side));
	name_drop(e, l->name);
	if (l->flags & LEASE_MISSED)
		heal_later(e, hash, lease_key(l));
	if (wake)
		line_wake_ended(e, hash, lease_key(l));
	block_dispose(e, ref, block_bytes(l));
}

void lease_end(struct engine *e, uint64_t hash, uint32_t ref)
{
	end(e, hash, ref, true);
}

void lease_withdraw(struct engine *e, uint64_t hash, uint32_t ref)
{
	end(e, hash, ref, false);
}

void lease_confirm(struct engine *e, uint64_t hash, uint32_t ref)
{
	struct lease *l = lease_at(e, ref);
	promise_drop_answers(e, l);
	l->flags &= (uint16_t)~LEASE_DOUBTED;
	if (!(l->flags & LEASE_UNCONFIRMED))
		return;
	lease_flags(e, l, 0, LEASE_UNCONFIRMED | LEASE_ASKED);
	line_wake_held(e, hash, lease_key(l));
}

void lease_doubt(struct engine *e, uint32_t ref)
{
	struct lease *l = lease_at(e, ref);
	if (l->flags & (LEASE_UNCONFIRMED | LEASE_DOUBTED))
		return;
	l->flags |= LEASE_DOUBTED;
	lease_rearm(e, ref);
}

uint32_t lease_set_value(struct engine *e, uint64_t hash, uint32_t ref, struct bytes value)
{
	struct lease *old = lease_at(e, ref);
	size_t bytes = sizeof *old + old->key_bytes + value.len;
	uint32_t to = arena_alloc(&e->arena, bytes);
	if (to == 0)
		return 0;
	/* Always another block: views of the old value may be among this step's effects. */
	struct lease *l = lease_at(e, to);
	memcpy(l, old, sizeof *l + old->key_bytes);
	if (value.len > 0)
		memcpy(l->data + l->key_bytes, value.p, value.len);
	l->value_bytes = (uint16_t)value.len;
	slot_of_ref(e, hash, ref)->value = to;
	wheel_remove(&e->lease_wheel, ref);
	l->wheel = (struct wheel_link){0};
	wheel_add(&e->lease_wheel, to, l->end_ns);
	const struct side *side = l->side == 0 ? NULL : arena_at(&e->arena, l->side);
	if (side != NULL && side->probe != 0)
		e->probes[side->probe - 1].lease = to;
	block_dispose(e, ref, block_bytes(old));
	if (lease_is_visible(l))
		log_changed(e, hash, l);
	observers_wake(e, lease_key(l));
	return to;
}

struct version lease_vb(const struct engine *e, const struct lease *l)
{
	if (l->side == 0)
		return (struct version){l->token, l->cid, 0};
	return ((struct side *)arena_at(&e->arena, l->side))->vb;
}

uint64_t lease_last_op(const struct engine *e, const struct lease *l)
{
	return l->side == 0 ? 0 : ((const struct side *)arena_at(&e->arena, l->side))->last_op;
}

struct version lease_pb(const struct engine *e, const struct lease *l)
{
	if (l->side == 0)
		return (struct version){l->token, l->cid, 0};
	return ((struct side *)arena_at(&e->arena, l->side))->pb;
}

bool lease_is_sticky(const struct engine *e, const struct lease *l)
{
	/* A copy knows nothing of what was promised since. */
	return (l->flags & (LEASE_STICKY | LEASE_COPY)) == LEASE_STICKY && lease_is_live(l) &&
	       (lease_pb(e, l).cid == e->cfg.cid || MUTANT(UPDATE_STICKY));
}

struct side *lease_side(struct engine *e, struct lease *l)
{
	if (l->side == 0) {
		uint32_t ref = arena_alloc(&e->arena, sizeof(struct side));
		if (ref == 0)
			return NULL;
		struct side *s = arena_at(&e->arena, ref);
		struct version first = {l->token, l->cid, 0};
		*s = (struct side){.vb = first, .pb = first};
		l->side = ref;
	}
	return arena_at(&e->arena, l->side);
}

void lease_raise_maxn(struct engine *e, uint32_t ref, uint64_t n)
{
	struct lease *l = lease_at(e, ref);
	if (n > l->maxn)
		l->maxn = n;
}

uint64_t free_maxn(const struct engine *e, uint64_t hash)
{
	uint64_t n = tombs_get(&e->tombs, hash);
	uint64_t floor = tombs_floor(&e->tombs, slot_of(e, hash));
	return n > floor ? n : floor;
}

/* ---- entries that others tell of (protocol.md 2.8) ---- */

/* Not before the holder's belief does: no more of that is left than remaining_ns / (1 + rho), on
 * whichever clock that is counted down (protocol.md 3, Lemma 1). With a margin it would be made
 * longer each time it is told on, and while masters come and go a lease would never end. */
static uint64_t end_of_remaining(const struct engine *e, uint64_t remaining_ns)
{
	if (MUTANT(SYNC_SHORT))
		remaining_ns /= 2;
	return e->now.slow_ns + remaining_ns;
}

static bool is_written(const struct sync_entry *s)
{
	return (s->flags & SYNC_WRITTEN) != 0;
}

static uint64_t end_of_copy(const struct engine *e, const struct sync_entry *s)
{
	uint64_t held_ns = MUTANT(COPY_LEASE_ANEW) ? s->held_ns : 0;
	return e->now.slow_ns + s->remaining_ns + held_ns;
}

static void fill(
	struct engine *e, uint32_t ref, uint32_t side, const struct sync_entry *s, uint16_t flags)
{
	struct lease *l = lease_at(e, ref);
	*l = (struct lease){
		.token = s->uid.n,
		.cid = s->uid.cid,
		.maxn = s->maxn,
		.end_ns = flags & LEASE_COPY ? end_of_copy(e, s)
					     : end_of_remaining(e, s->remaining_ns),
		.since_ns = (int64_t)e->now.slow_ns - (int64_t)s->held_ns,
		.side = side,
		.key_bytes = (uint16_t)s->key.len,
		.value_bytes = (uint16_t)s->value.len,
		.name = name_take(e, s->name),
		.flags = flags | hidden_flag(s->key),
		.node = s->node,
		.reports = !(s->flags & SYNC_SHADOW),
	};
	if (s->flags & SYNC_SHADOW)
		l->flags |= LEASE_SHADOW;
	if (s->flags & SYNC_UNCONFIRMED)
		l->flags |= LEASE_UNCONFIRMED;
	if (s->flags & SYNC_HEARSAY)
		l->flags |= LEASE_HEARSAY;
	memcpy(l->data, s->key.p, s->key.len);
	if (s->value.len > 0)
		memcpy(l->data + s->key.len, s->value.p, s->value.len);
	if (side != 0)
		*(struct side *)arena_at(&e->arena, side) = (struct side){.vb = s->vb,
			.pb = MUTANT(SYNC_PROMISELESS) ? s->vb : s->pb,
			.last_op = s->op_id};
	count_lease(e, l, 1);
	wheel_add(&e->lease_wheel, ref, l->end_ns);
}

/* The side record of what was told; false: no room. */
static bool take_side(struct engine *e, const struct sync_entry *s, uint32_t *ret)
{
	*ret = is_written(s) ? arena_alloc(&e->arena, sizeof(struct side)) : 0;
	return !is_written(s) || *ret != 0;
}

static uint32_t entry_told(
	struct engine *e, uint64_t hash, const struct sync_entry *s, uint16_t flags)
{
	uint32_t side = 0;
	if (!take_side(e, s, &side))
		return 0;
	uint32_t ref = entry_alloc(e, hash, s->key.len + s->value.len);
	if (ref == 0) {
		if (side != 0)
			arena_free(&e->arena, side, sizeof(struct side));
		return 0;
	}
	fill(e, ref, side, s, flags);
	return ref;
}

uint32_t lease_stage(struct engine *e, uint64_t hash, const struct sync_entry *s)
{
	return entry_told(e, hash, s, LEASE_STAGED);
}

uint32_t lease_copy(struct engine *e, uint64_t hash, const struct sync_entry *s)
{
	return entry_told(e, hash, s, LEASE_COPY);
}

bool lease_copy_again(struct engine *e, uint64_t hash, uint32_t ref, const struct sync_entry *s)
{
	int newer = version_cmp(s->vb, lease_vb(e, lease_at(e, ref)));
	if (newer < 0)
		return true;
	if (newer > 0) {
		struct side *side = lease_side(e, lease_at(e, ref));
		ref = side == NULL ? 0 : lease_set_value(e, hash, ref, s->value);
		if (ref == 0)
			return false;
		side->vb = side->pb = s->vb;
		side->last_op = s->op_id;
	}
	lease_at(e, ref)->end_ns = end_of_copy(e, s);
	lease_raise_maxn(e, ref, s->maxn);
	wheel_remove(&e->lease_wheel, ref);
	wheel_add(&e->lease_wheel, ref, lease_at(e, ref)->end_ns);
	return true;
}

uint32_t lease_replace(
	struct engine *e, uint64_t hash, uint32_t ref, const struct sync_entry *s, uint16_t flags)
{
	const struct lease *old = lease_at(e, ref);
	uint32_t side = 0;
	if (!take_side(e, s, &side))
		return 0;
	size_t bytes = sizeof(struct lease) + s->key.len + s->value.len;
	uint32_t to = arena_alloc(&e->arena, bytes);
	if (to == 0) {
		if (side != 0)
			arena_free(&e->arena, side, sizeof(struct side));
		return 0;
	}
	slot_of_ref(e, hash, ref)->value = to;
	fill(e, to, side, s, flags);
	struct lease *l = lease_at(e, to);
	if (old->maxn > l->maxn)
		l->maxn = old->maxn;
	if (old->end_ns > l->end_ns)
		l->end_ns = old->end_ns;
	wheel_remove(&e->lease_wheel, ref);
	count_lease(e, old, -1);
	name_drop(e, old->name);
	if (old->side != 0)
		block_dispose(e, old->side, sizeof(struct side));
	block_dispose(e, ref, block_bytes(old));
	return to;
}

void lease_told(struct engine *e, struct lease *l)
{
	l->reports = 0;
	/* Whoever promised more would not have written it, and it must not look as if he had. */
	if (version_cmp(lease_pb(e, l), lease_vb(e, l)) > 0)
		l->flags |= LEASE_HEARSAY;
}

void lease_outlast(struct engine *e, struct lease *l, uint64_t remaining_ns)
{
	uint64_t end_ns = end_of_remaining(e, remaining_ns);
	if (end_ns <= l->end_ns)
		return;
	l->end_ns = end_ns;
	if (lease_is_visible(l))
		tell_followers(e, l);
}

uint32_t lease_add_report(struct engine *e, uint64_t hash, uint32_t ref, const struct sync_entry *s)
{
	struct lease *l = lease_at(e, ref);
	/* The highest version is the value, and the highest promise binds: restoring values only
	 * loses an update in 19 steps (protocol.md 3, m_cas_forgetpb). */
	if (is_written(s)) {
		struct side *side = lease_side(e, l);
		if (side == NULL)
			return 0;
		if (version_cmp(s->pb, side->pb) > 0 && !MUTANT(SYNC_PROMISELESS))
			side->pb = s->pb;
		int newer = version_cmp(s->vb, side->vb);
		if (newer > 0)
			l->flags &= (uint16_t)~LEASE_HEARSAY;
		if (newer >= 0 && (s->flags & SYNC_HEARSAY))
			l->flags |= LEASE_HEARSAY;
		if (newer > 0 && !MUTANT(SYNC_VERSIONLESS)) {
			uint32_t moved = lease_set_value(e, hash, ref, s->value);
			if (moved == 0)
				return 0;
			ref = moved;
			l = lease_at(e, ref);
			side = lease_side(e, l);
			side->vb = s->vb;
			side->last_op = s->op_id;
		}
	}
	lease_outlast(e, l, s->remaining_ns);
	lease_raise_maxn(e, ref, s->maxn);
	if (!(s->flags & SYNC_UNCONFIRMED))
		lease_flags(e, l, 0, LEASE_UNCONFIRMED);
	l->reports++;
	return ref;
}

uint32_t lease_shadow(struct engine *e, uint64_t hash, const struct sync_entry *s)
{
	uint32_t ref = lease_find(e, hash, s->key);
	if (ref == 0) {
		struct sync_entry shadow = {.flags = SYNC_SHADOW,
			.key = s->key,
			.maxn = s->maxn,
			.remaining_ns = s->remaining_ns};
		ref = lease_stage(e, hash, &shadow);
		if (ref == 0)
			return 0;
		lease_flags(e, lease_at(e, ref), 0, LEASE_STAGED);
		shadow_of(e, ref, s->uid);
		return ref;
	}
	struct lease *l = lease_at(e, ref);
	lease_raise_maxn(e, ref, s->maxn);
	if (!lease_is_live(l)) {
		bool same = (l->flags & LEASE_DOUBTED) && ballot_eq(lease_uid(l), s->uid);
		lease_flags(e, l, LEASE_SHADOW, same ? 0 : LEASE_DOUBTED);
		lease_outlast(e, l, s->remaining_ns);
		return ref;
	}
	struct side *side = lease_side(e, l);
	if (side == NULL)
		return 0;
	uint64_t until_ns = end_of_remaining(e, s->remaining_ns);
	bool only = side->behind_ns <= e->now.slow_ns || ballot_eq(side->behind, s->uid);
	side->behind = only ? s->uid : (struct ballot){0};
	if (until_ns > side->behind_ns)
		side->behind_ns = until_ns;
	return ref;
}

uint32_t lease_catch_up(struct engine *e, uint64_t hash, uint32_t ref, const struct sync_entry *s)
{
	struct lease *l = lease_at(e, ref);
	lease_raise_maxn(e, ref, s->maxn);
	lease_outlast(e, l, s->remaining_ns);
	bool newer = version_cmp(s->vb, lease_vb(e, l)) > 0;
	if (!newer && version_cmp(s->pb, lease_pb(e, l)) <= 0)
		return ref;
	struct side *side = lease_side(e, l);
	if (side == NULL)
		return 0;
	if (newer) {
		ref = lease_set_value(e, hash, ref, s->value);
		if (ref == 0)
			return 0;
		l = lease_at(e, ref);
		side->vb = s->vb;
		side->last_op = s->op_id;
		l->flags |= LEASE_HEARSAY;
	}
	if (version_cmp(s->pb, side->pb) > 0) {
		side->pb = s->pb;
		side->pb_ns = 0;
	}
	l->flags &= (uint16_t)~LEASE_STICKY;
	return ref;
}

uint32_t lease_block(struct engine *e, uint64_t hash, struct bytes key)
{
	uint32_t ref = entry_alloc(e, hash, key.len);
	if (ref == 0)
		return 0;
	struct lease *l = lease_at(e, ref);
	*l = (struct lease){
		.maxn = tombs_get(&e->tombs, hash),
		.end_ns = e->now.slow_ns,
		.since_ns = (int64_t)e->now.slow_ns,
		.key_bytes = (uint16_t)key.len,
		.flags = LEASE_RESYNC | hidden_flag(key),
	};
	memcpy(l->data, key.p, key.len);
	count_lease(e, l, 1);
	lease_rearm(e, ref);
	return ref;
}

static void lease_due(struct engine *e, uint32_t ref)
{
	struct lease *l = lease_at(e, ref);
	if (l->flags & LEASE_RESYNC) {
		lease_rearm(e, ref); /* its heal ends it */
		return;
	}
	bool ended = e->now.slow_ns >= l->end_ns && !MUTANT(EXPIRY_NEVER);
	bool given_up = MUTANT(PROMISE_EXPIRES) && (l->flags & LEASE_UNCONFIRMED) &&
			lease_held_ns(l, &e->now) >= e->promise_ns;
	if (ended || given_up) {
		e->stats.expired += lease_is_live(l);
		lease_end(e, hash_bytes(lease_key(l)), ref);
		return;
	}
	uint64_t next_ns = l->end_ns;
	bool shadow = (l->flags & LEASE_SHADOW) != 0;
	uint64_t held_ns = lease_held_ns(l, &e->now);
	bool old = shadow || held_ns >= e->promise_ns;
	bool asks = (l->flags & LEASE_DOUBTED) != 0 ||
		    (lease_is_live(l) && (l->flags & LEASE_UNCONFIRMED) != 0);
	if (asks) {
		uint64_t ask_ns = e->now.slow_ns + e->promise_ns - (old ? 0 : held_ns);
		next_ns = ask_ns < next_ns ? ask_ns : next_ns;
	}
	wheel_add(&e->lease_wheel, ref, next_ns);
	if (asks && old)
		promise_due(e, ref);
}

/* Entries that end are spread over all memory: their cache lines are asked for a batch ahead. Only
 * the entry at hand is ever ended by its turn, so the others of the batch stay what they are. */
void leases_tick(struct engine *e)
{
	uint32_t batch[EXPIRY_BATCH];
	unsigned n = EXPIRY_BATCH;
	while (n == EXPIRY_BATCH && effects_room(e)) {
		for (n = 0; n < EXPIRY_BATCH; n++) {
			batch[n] = wheel_pop(&e->lease_wheel, e->now.slow_ns);
			if (batch[n] == 0)
				break;
			__builtin_prefetch(lease_at(e, batch[n]));
			__builtin_prefetch(lease_at(e, batch[n])->data);
		}
		for (unsigned i = 0; i < n; i++) {
			const struct lease *l = lease_at(e, batch[i]);
			if (e->now.slow_ns >= l->end_ns)
				engine_prefetch_index(e, hash_bytes(lease_key(l)));
		}
		for (unsigned i = 0; i < n; i++)
			lease_due(e, batch[i]);
	}
}
