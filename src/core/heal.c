/* A master that missed something asks the others, key by key (protocol.md 2.8, key RESYNC): the
 * vote that did not arrive, the refusal for the sake of a promise that came to nothing, what went
 * by while it was cut off.
 *
 * First it looks whether enough others hold the key at all, and changes nothing. Then it stops
 * voting on the key for T_wait, so that no RELEASE that it has acknowledged counts in a certificate
 * that is still running, asks once more, and has the key again when blk others hold one instance.
 * It has lost no memory, so it may give up at any time and be as it was. */
#include <string.h>

#include "core/internal.h"

enum {
	LATER_PARTS = 4, /* HEAL_LATER: T_att over this; most of what was missed is gone by then */
	TRIES = 8,       /* of which each is twice as much later: about a minute */
};

static struct heal *heal_at(const struct engine *e, uint32_t ref)
{
	return (struct heal *)(void *)(e->heals + (size_t)(ref - 1) * sizeof(struct heal));
}

static uint32_t ref_of(const struct engine *e, const struct heal *h)
{
	return (uint32_t)(h - heal_at(e, 1)) + 1;
}

void heals_init(struct engine *e)
{
	wheel_init(&e->heal_wheel, e->heals - sizeof(struct heal), sizeof(struct heal), 0,
		e->now.slow_ns);
}

static bool all_in_use(const struct engine *e)
{
	return e->heal_free == 0 && e->heals_touched == e->cfg.max_ops;
}

bool heals_have_room(const struct engine *e)
{
	return e->heals_used < e->cfg.max_ops - e->cfg.max_ops / HEALS_SPARE;
}

static struct bytes heal_key(const struct engine *e, const struct heal *h)
{
	return bytes_of(arena_at(&e->arena, h->block), h->key_bytes);
}

static void again_at(struct engine *e, struct heal *h, uint64_t due_ns)
{
	h->due_ns = due_ns;
	wheel_remove(&e->heal_wheel, ref_of(e, h));
	wheel_add(&e->heal_wheel, ref_of(e, h), due_ns);
}

static struct heal *heal_new(struct engine *e, uint64_t hash, struct bytes key)
{
	uint32_t block = all_in_use(e) ? 0 : arena_alloc(&e->arena, key.len);
	if (block == 0)
		return NULL;
	uint32_t ref = e->heal_free != 0 ? e->heal_free : e->heals_touched + 1;
	if (map_insert(&e->heal_map, hash, ref) != 0) {
		block_dispose(e, block, key.len);
		return NULL;
	}
	if (ref == e->heal_free)
		e->heal_free = heal_at(e, ref)->next_free;
	else
		e->heals_touched = ref;
	if (e->heals_used == 0) /* nobody has turned the wheel meanwhile */
		CHECK(wheel_pop(&e->heal_wheel, e->now.slow_ns) == 0);
	struct heal *h = heal_at(e, ref);
	uint32_t round = h->round;
	*h = (struct heal){
		.hash = hash, .block = block, .key_bytes = (uint16_t)key.len, .round = round};
	memcpy(arena_at(&e->arena, block), key.p, key.len);
	e->heals_used++;
	return h;
}

/* One at a time for a hash: keys that share one wait for each other. */
static struct heal *heal_of(const struct engine *e, uint64_t hash)
{
	const struct map_slot *s = map_find(&e->heal_map, hash);
	return s == NULL ? NULL : heal_at(e, (uint32_t)s->value);
}

static void heal_free(struct engine *e, struct heal *h)
{
	map_erase(&e->heal_map, h->hash, map_find(&e->heal_map, h->hash));
	wheel_remove(&e->heal_wheel, ref_of(e, h));
	block_dispose(e, h->block, h->key_bytes);
	h->state = HEAL_FREE;
	h->round++;
	h->next_free = e->heal_free;
	e->heal_free = ref_of(e, h);
	e->heals_used--;
	e->heals_of_merge -= h->of_merge;
	if (h->of_pass)
		resync_heal_ended(e);
}

/* The entry that this heal keeps from voting. */
static uint32_t resync_entry(struct engine *e, const struct heal *h)
{
	uint32_t ref = lease_find(e, h->hash, heal_key(e, h));
	CHECK(ref != 0 && (lease_at(e, ref)->flags & LEASE_RESYNC));
	return ref;
}

/* Those that came while the key was in RESYNC counted for the heal, not for a merge. */
static void forget_reports(const struct engine *e, uint64_t hash, struct lease *l)
{
	l->reports = slot_in_sync(e, slot_of(e, hash)) ? 0 : REPORTS_UNCOUNTED;
}

/* As before: FREE, or the SHADOW that it was. */
static void give_up(struct engine *e, struct heal *h)
{
	uint32_t ref = h->state == HEAL_WAIT || h->state == HEAL_ASK ? resync_entry(e, h) : 0;
	uint64_t hash = h->hash;
	heal_free(e, h);
	if (ref == 0)
		return;
	struct lease *l = lease_at(e, ref);
	if ((l->flags & LEASE_SHADOW) && e->now.slow_ns < l->end_ns) {
		forget_reports(e, hash, l);
		lease_flags(e, l, 0, LEASE_RESYNC | LEASE_SEALED);
		lease_rearm(e, ref);
	} else {
		lease_end(e, hash, ref); /* MISSED meanwhile: a new heal begins */
	}
}

/* Nobody has said that it is not held. */
static void give_up_for_now(struct engine *e, struct heal *h)
{
	if (h->state == HEAL_ASK)
		resync_heal_again(e);
	give_up(e, h);
}

void heal_later(struct engine *e, uint64_t hash, struct bytes key)
{
	if (MUTANT(HEAL_NEVER) || e->cfg.n_masters == 1)
		return;
	struct heal *h = heal_of(e, hash);
	uint64_t due_ns = e->now.slow_ns + e->attempt_ns / LATER_PARTS;
	if (h != NULL && (h->state != HEAL_LATER || h->due_ns <= due_ns))
		return;
	if (h == NULL)
		h = heal_new(e, hash, key);
	if (h == NULL)
		return;
	h->state = HEAL_LATER;
	h->tries = 0;
	again_at(e, h, due_ns);
}

void heal_merged(struct engine *e, uint64_t hash, struct bytes key)
{
	if (!heals_have_room(e))
		return;
	heal_later(e, hash, key);
	struct heal *h = heal_of(e, hash);
	if (h == NULL)
		return;
	e->heals_of_merge += !h->of_merge;
	h->of_merge = true;
}

void heal_hinted(struct engine *e, uint64_t hash, struct bytes key)
{
	if (e->heals_used < e->cfg.max_ops / HEALS_HINTED)
		heal_later(e, hash, key);
}

/* From here on this key has no vote of ours. */
static void stop_voting(struct engine *e, struct heal *h)
{
	uint32_t ref = lease_find(e, h->hash, heal_key(e, h));
	if (ref == 0) {
		ref = lease_block(e, h->hash, heal_key(e, h));
	} else if ((lease_at(e, ref)->flags & LEASE_NOT_LIVE) == LEASE_SHADOW) {
		promise_drop_answers(e, lease_at(e, ref)); /* from now on only the heal ends it */
		lease_flags(e, lease_at(e, ref), LEASE_RESYNC, LEASE_DOUBTED);
	} else {
		ref = 0; /* LIVE */
	}
	if (ref == 0) {
		heal_free(e, h);
		return;
	}
	lease_at(e, ref)->reports = 0;
	h->state = HEAL_WAIT;
	again_at(e, h, e->now.slow_ns + (MUTANT(HEAL_NO_WAIT) ? 0 : e->wait_ns));
}

/* It will still be held when the heal is through: its lease is long enough, or is being extended. A
 * promise may come to nothing; if not, its CONFIRM comes. */
static bool worth_it(const struct engine *e, const struct sync_entry *s)
{
	return !(s->flags & (SYNC_SHADOW | SYNC_UNCONFIRMED)) &&
	       s->remaining_ns + s->held_ns >= e->wait_ns + 2 * e->attempt_ns;
}

void heal_found(struct engine *e, uint64_t hash, const struct sync_entry *s)
{
	if (!worth_it(e, s) || MUTANT(HEAL_NEVER))
		return;
	uint32_t ref = lease_find(e, hash, s->key);
	if (ref != 0 && lease_is_live(lease_at(e, ref)))
		return;
	struct heal *h = heal_of(e, hash);
	if (h == NULL && all_in_use(e)) {
		resync_heal_again(e);
		return;
	}
	if (h == NULL)
		h = heal_new(e, hash, s->key);
	if (h == NULL || !bytes_eq(heal_key(e, h), s->key))
		return;
	e->heals_of_pass += !h->of_pass;
	h->of_pass = true;
	if (h->state == HEAL_WAIT || h->state == HEAL_ASK)
		return;
	h->uid = s->uid;
	stop_voting(e, h);
}

static void ask(struct engine *e, struct heal *h, enum heal_state state)
{
	h->state = (uint8_t)state;
	h->round++;
	h->asked = e->links_up;
	h->answered = 0;
	h->reports = 0;
	h->unsaid = false;
	resync_merge_first(e, slot_of(e, h->hash));
	if (count_bits(h->asked) < e->blocking) {
		give_up_for_now(e, h);
		return;
	}
	struct msg m = {
		.type = MSG_SYNC,
		.flags = MSG_ONE_KEY,
		.slot = slot_of(e, h->hash),
		.key = heal_key(e, h),
		.req = (uint64_t)h->round << 32 | ref_of(e, h),
	};
	send_masters(e, h->asked, &m);
	again_at(e, h, e->now.slow_ns + e->attempt_ns);
}

static bool tells_of(const struct sync_entry *s, const struct heal *h)
{
	return !(s->flags & (SYNC_SHADOW | SYNC_GONE)) &&
	       (h->uid.n == 0 || ballot_eq(s->uid, h->uid));
}

/* HEAL_CHECK: one more holds it. */
static void checked(struct engine *e, struct heal *h, const struct sync_entry *s)
{
	if (!worth_it(e, s))
		return;
	h->uid = s->uid;
	if (++h->reports >= (MUTANT(HEAL_ONE) ? 1U : e->blocking))
		stop_voting(e, h);
}

/* HEAL_ASK: one more holds it. */
static void restored(struct engine *e, struct heal *h, const struct sync_entry *s)
{
	uint32_t ref = resync_entry(e, h);
	uint16_t flags = lease_at(e, ref)->flags;
	if (flags & LEASE_SEALED)
		ref = 0;
	else if (lease_at(e, ref)->reports == 0)
		ref = lease_replace(e, h->hash, ref, s, flags & (LEASE_NOT_LIVE | LEASE_MISSED));
	else
		ref = lease_add_report(e, h->hash, ref, s);
	if (ref == 0) {
		give_up(e, h);
		return;
	}
	struct lease *l = lease_at(e, ref);
	if (l->reports < (MUTANT(HEAL_ONE) ? 1U : e->blocking))
		return;
	if (!ballot_cover(e, l->maxn) && !MUTANT(HEAL_UNCOVERED)) {
		give_up_for_now(e, h); /* the ceiling is being raised */
		return;
	}
	lease_flags(e, l, 0, LEASE_RESYNC | LEASE_SHADOW);
	lease_told(e, l);
	forget_reports(e, h->hash, l);
	lease_rearm(e, ref);
	if (!(l->flags & LEASE_UNCONFIRMED))
		line_wake_held(e, h->hash, lease_key(l));
	e->stats.healed++;
	heal_free(e, h);
}

/* Not all could tell: their slot, too, may have to be merged before they can. Who makes a change
 * does not wait for that. */
static bool ask_later(struct engine *e, struct heal *h)
{
	if (h->state != HEAL_CHECK || !h->unsaid || ++h->tries == TRIES)
		return false;
	e->heals_of_merge -= h->of_merge;
	h->of_merge = false;
	h->state = HEAL_LATER;
	h->uid = (struct ballot){0}; /* by then it may be another one */
	again_at(e, h, e->now.slow_ns + (e->attempt_ns / LATER_PARTS << h->tries));
	return true;
}

static bool waits_for_answers(const struct heal *h)
{
	return h->state == HEAL_CHECK || h->state == HEAL_ASK;
}

void heal_answer(struct engine *e, unsigned from_index, const struct msg *m)
{
	uint32_t ref = (uint32_t)m->req;
	uint16_t bit = (uint16_t)(1u << from_index);
	if (ref == 0 || ref > e->heals_touched)
		return;
	struct heal *h = heal_at(e, ref);
	if (!waits_for_answers(h) || h->round != (uint32_t)(m->req >> 32) || !(h->asked & bit) ||
		(h->answered & bit))
		return;
	h->answered |= bit;
	struct sync_entry s;
	struct bytes rest = m->value;
	bool holds = m->verdict == VERDICT_SYNC && sync_entry_decode(&rest, &s) == 0 &&
		     bytes_eq(s.key, heal_key(e, h)) && tells_of(&s, h);
	if (holds && h->state == HEAL_CHECK)
		checked(e, h, &s);
	else if (holds)
		restored(e, h, &s);
	h->unsaid |= m->verdict == VERDICT_RESYNC;
	if (waits_for_answers(h) && h->answered == h->asked && !ask_later(e, h))
		give_up(e, h);
}

static void heal_due(struct engine *e, struct heal *h)
{
	uint32_t ref;
	if (e->self_index == NO_MASTER) { /* any more */
		give_up(e, h);
		return;
	}
	switch ((enum heal_state)h->state) {
	case HEAL_LATER:
		ref = lease_find(e, h->hash, heal_key(e, h));
		if (ref == 0 || (lease_at(e, ref)->flags & LEASE_NOT_LIVE) == LEASE_SHADOW)
			ask(e, h, HEAL_CHECK);
		else
			heal_free(e, h); /* here by now */
		break;
	case HEAL_WAIT:
		ask(e, h, HEAL_ASK);
		break;
	case HEAL_CHECK:
	case HEAL_ASK:
		if (!ask_later(e, h))
			give_up_for_now(e, h); /* too few have answered */
		break;
	case HEAL_FREE:
		CHECK(false);
	}
}

void heals_tick(struct engine *e)
{
	uint32_t ref;
	if (e->heals_used == 0)
		return;
	while (effects_room(e) && (ref = wheel_pop(&e->heal_wheel, e->now.slow_ns)) != 0) {
		struct heal *h = heal_at(e, ref);
		if (e->now.slow_ns < h->due_ns)
			wheel_add(&e->heal_wheel, ref, h->due_ns);
		else
			heal_due(e, h);
	}
}
