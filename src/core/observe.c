/* OBSERVE: a client that is told of all that becomes of a key, as far as this node's copy shows it.
 * It stands in the watch list of the key's line; whenever something may have changed it looks at
 * what is there, after the step that changed it, and tells what is new since it looked last. */
#include "core/internal.h"

/* What an observer has been told last. */
enum seen { SEEN_NOTHING, SEEN_FREE, SEEN_HELD, SEEN_LOST };

static uint32_t observers_max(const struct engine *e)
{
	return e->cfg.max_ops / OBSERVERS_PART;
}

static struct result *tell(struct engine *e, struct op *op, enum observed event)
{
	struct result *r = op_reply(e, op, OUT_OK);
	r->event = event;
	return r;
}

static void tell_lease(struct engine *e, struct op *op, enum observed event, const struct lease *l)
{
	struct result *r = tell(e, op, event);
	r->token = l->token;
	r->value = lease_value(l);
}

/* False: this node cannot say who holds the key. *ret NULL: nobody does. */
static bool look(struct engine *e, const struct op *op, struct lease **ret)
{
	*ret = NULL;
	if (!slot_readable(e, op->slot))
		return false;
	uint32_t ref = lease_find(e, op->hash, op_key(e, op));
	if (ref == 0)
		return true;
	struct lease *l = lease_at(e, ref);
	if (lease_is_visible(l))
		*ret = l;
	return lease_is_live(l);
}

void observe_look(struct engine *e, struct op *op)
{
	struct lease *l;
	bool known = look(e, op, &l);
	bool was_held = op->seen == SEEN_HELD;
	bool same = was_held && l != NULL && ballot_eq(lease_uid(l), op->uid);
	if (!known) {
		if (op->seen != SEEN_LOST)
			tell(e, op, OBSERVED_LOST);
		op->seen = SEEN_LOST;
		return;
	}
	if (was_held && !same)
		tell(e, op, e->now.slow_ns < op->end_ns ? OBSERVED_RELEASED : OBSERVED_EXPIRED)
			->token = op->uid.n;
	if (l == NULL) {
		if (op->seen == SEEN_NOTHING || op->seen == SEEN_LOST)
			tell(e, op, OBSERVED_RELEASED);
		op->seen = SEEN_FREE;
		return;
	}
	if (!same)
		tell_lease(e, op, OBSERVED_GRANTED, l);
	else if (version_cmp(lease_vb(e, l), op->b) != 0)
		tell_lease(e, op, OBSERVED_UPDATED, l);
	op->seen = SEEN_HELD;
	op->uid = lease_uid(l);
	op->b = lease_vb(e, l);
	op->end_ns = UINT64_MAX; /* told by observers_note_end() */
}

void observe_start(struct engine *e, struct op *op)
{
	e->n_observers++;
	op->state = OPS_WATCH;
	if (e->n_observers > observers_max(e) || !line_join(e, op, true)) {
		op_reply(e, op, OUT_LIMIT)->limit = "observers";
		op_free(e, op);
		return;
	}
	observe_look(e, op);
}

static const struct line *line_of(const struct engine *e, struct bytes key)
{
	return e->n_observers == 0 ? NULL : line_find(e, hash_bytes(key), key);
}

void observers_note_end(struct engine *e, const struct lease *l)
{
	const struct line *line = line_of(e, lease_key(l));
	for (uint32_t i = line == NULL ? 0 : line->watch_head; i != 0;) {
		struct op *op = op_at(e, i - 1);
		i = op->q_next;
		if (op->kind == OP_OBSERVE && ballot_eq(op->uid, lease_uid(l)))
			op->end_ns = l->end_ns;
	}
}

static void wake_observers(struct engine *e, const struct line *l)
{
	for (uint32_t i = l->watch_head; i != 0;) {
		struct op *op = op_at(e, i - 1);
		i = op->q_next;
		if (op->kind == OP_OBSERVE)
			op_run_later(e, op);
	}
}

void observers_wake(struct engine *e, struct bytes key)
{
	const struct line *l = line_of(e, key);
	if (l != NULL)
		wake_observers(e, l);
}

static void wake_line(void *arg, struct map_slot entry)
{
	struct engine *e = arg;
	wake_observers(e, &e->line_pool[entry.value]);
}

void observers_wake_all(struct engine *e)
{
	uint64_t cursor = 0;
	if (e->n_observers == 0)
		return;
	do
		cursor = map_scan(&e->lines, cursor, wake_line, e);
	while (cursor != 0);
}

static const struct lease *entry_of(const struct engine *e, const struct op *op)
{
	const struct map_slot *s = map_find(&e->leases, op->hash);
	while (s != NULL && !bytes_eq(lease_key(lease_at(e, (uint32_t)s->value)), op_key(e, op)))
		s = map_next(&e->leases, op->hash, s);
	return s == NULL ? NULL : lease_at(e, (uint32_t)s->value);
}

void observe_validate(const struct engine *e, const struct op *op)
{
	const struct lease *l = entry_of(e, op);
	bool over =
		l != NULL && e->now.slow_ns >= l->end_ns; /* its turn to be cleared away comes */
	if (op->in_run || over)
		return;
	if (!slot_readable(e, op->slot) || (l != NULL && !lease_is_live(l))) {
		CHECK(op->seen == SEEN_LOST);
	} else if (l == NULL || !lease_is_visible(l)) {
		CHECK(op->seen == SEEN_FREE);
	} else {
		CHECK(op->seen == SEEN_HELD && ballot_eq(op->uid, lease_uid(l)));
		CHECK(version_cmp(op->b, lease_vb(e, l)) == 0);
	}
}
