/* Lines: who waits for a key at this node. LOCK WAIT stands in the lock line, first come first
 * served; only its head has an attempt running. WAITFOR and WAITRELEASE stand in the watch list. */
#include <string.h>

#include "core/internal.h"

void lines_init(struct engine *e)
{
	e->line_free = 0;
	e->lines_touched = 0;
}

static struct op *first_of(const struct engine *e, const struct line *l)
{
	return op_at(e, (l->lock_head != 0 ? l->lock_head : l->watch_head) - 1);
}

struct line *line_find(const struct engine *e, uint64_t hash, struct bytes key)
{
	if (e->lines.count == 0)
		return NULL;
	struct map_slot *s = map_find(&e->lines, hash);
	while (s != NULL && !bytes_eq(op_key(e, first_of(e, &e->line_pool[s->value])), key))
		s = map_next(&e->lines, hash, s);
	return s == NULL ? NULL : &e->line_pool[s->value];
}

static struct line *line_new(struct engine *e, uint64_t hash)
{
	uint32_t index = e->line_free;
	if (index != 0)
		e->line_free = e->line_pool[index - 1].next_free;
	else
		index = ++e->lines_touched; /* as many lines as operations: never used up */
	struct line *l = &e->line_pool[index - 1];
	*l = (struct line){.hash = hash};
	if (map_insert(&e->lines, hash, index - 1) == 0)
		return l;
	l->next_free = e->line_free;
	e->line_free = index;
	return NULL;
}

static void line_drop(struct engine *e, struct line *l)
{
	uint64_t index = (uint64_t)(l - e->line_pool);
	struct map_slot *s = map_find(&e->lines, l->hash);
	while (s != NULL && s->value != index)
		s = map_next(&e->lines, l->hash, s);
	CHECK(s != NULL);
	map_erase(&e->lines, l->hash, s);
	l->next_free = e->line_free;
	e->line_free = (uint32_t)index + 1;
}

bool line_join(struct engine *e, struct op *op, bool watch)
{
	struct line *l = line_find(e, op->hash, op_key(e, op));
	if (l != NULL && l->count >= e->cfg.max_waiters_per_key)
		return false;
	if (l == NULL)
		l = line_new(e, op->hash);
	if (l == NULL)
		return false;
	uint32_t me = op->index + 1;
	uint32_t *head = watch ? &l->watch_head : &l->lock_head;
	uint32_t *tail = watch ? &l->watch_tail : &l->lock_tail;
	op->line = (uint32_t)(l - e->line_pool) + 1;
	op->q_next = 0;
	op->q_prev = *tail;
	if (*tail != 0)
		op_at(e, *tail - 1)->q_next = me;
	else
		*head = me;
	*tail = me;
	op->in_queue = true;
	l->count++;
	l->watchers += watch;
	e->n_waiters += op->kind != OP_OBSERVE;
	return true;
}

void line_leave(struct engine *e, struct op *op)
{
	if (!op->in_queue)
		return;
	struct line *l = op_line(e, op);
	uint32_t me = op->index + 1;
	bool was_lock_head = l->lock_head == me;
	bool watch = op->state == OPS_WATCH;
	uint32_t *head = watch ? &l->watch_head : &l->lock_head;
	uint32_t *tail = watch ? &l->watch_tail : &l->lock_tail;
	if (op->q_prev != 0)
		op_at(e, op->q_prev - 1)->q_next = op->q_next;
	else
		*head = op->q_next;
	if (op->q_next != 0)
		op_at(e, op->q_next - 1)->q_prev = op->q_prev;
	else
		*tail = op->q_prev;
	op->in_queue = false;
	op->line = 0;
	e->n_waiters -= op->kind != OP_OBSERVE;
	l->count--;
	l->watchers -= watch;
	if (l->count == 0) {
		line_drop(e, l);
		return;
	}
	if (was_lock_head && l->lock_head != 0)
		lock_next_in_line(e, op_at(e, l->lock_head - 1), op);
}

bool line_is_head(const struct engine *e, const struct op *op)
{
	return op->in_queue && op_line(e, op)->lock_head == op->index + 1;
}

struct op *line_head(const struct engine *e, uint64_t hash, struct bytes key)
{
	const struct line *l = line_find(e, hash, key);
	return l == NULL || l->lock_head == 0 ? NULL : op_at(e, l->lock_head - 1);
}

/* Who stands at another node will be called by that. */
static bool is_called_here(const struct engine *e, const struct op *head)
{
	return head != NULL && head->state == OPS_LOCK_PARKED &&
	       (head->home == 0 || head->home == e->cfg.self);
}

void line_call_first(struct engine *e, uint64_t hash, struct bytes key, bool ended)
{
	struct op *head = line_head(e, hash, key);
	bool here = is_called_here(e, head);
	if (!turn_call_first(e, hash, key, here ? head->place : UINT64_MAX, ended) && here)
		op_run_later(e, head);
}

static void run_watchers(struct engine *e, const struct line *l, enum op_kind kind)
{
	for (uint32_t i = l->watch_head; i != 0;) {
		struct op *op = op_at(e, i - 1);
		i = op->q_next;
		if (op->kind != kind)
			continue;
		op->was_live = true; /* what it waits for has happened */
		op_run_later(e, op);
	}
}

void line_wake_ended(struct engine *e, uint64_t hash, struct bytes key)
{
	if (e->lines.count + e->turns.used == 0 || MUTANT(WAKE_ENDED_LOST))
		return;
	line_call_first(e, hash, key, true);
	const struct line *l = line_find(e, hash, key);
	if (l != NULL)
		run_watchers(e, l, OP_WAITRELEASE);
}

void line_wake_held(struct engine *e, uint64_t hash, struct bytes key)
{
	struct line *l = line_find(e, hash, key);
	if (l != NULL && !MUTANT(WAKE_HELD_LOST))
		run_watchers(e, l, OP_WAITFOR);
}

static bool held_here(struct engine *e, const struct op *op, struct lease **ret)
{
	uint32_t ref = lease_find(e, op->hash, op_key(e, op));
	if (ref == 0 || (lease_at(e, ref)->flags & LEASE_UNSEEN))
		return false;
	*ret = lease_at(e, ref);
	return true;
}

struct looking {
	struct engine *e;
	uint16_t slot;
};

static void look_again(void *arg, struct map_slot entry)
{
	const struct looking *look = arg;
	struct engine *e = look->e;
	const struct line *l = &e->line_pool[entry.value];
	if (slot_of(e, l->hash) != look->slot)
		return;
	for (uint32_t i = l->watch_head; i != 0; i = op_at(e, i - 1)->q_next)
		op_run_later(e, op_at(e, i - 1));
}

void lines_look_again(struct engine *e, uint16_t slot)
{
	struct looking look = {e, slot};
	uint64_t cursor = slot_first_hash(e, slot) >> 32;
	while (e->lines.count > 0 && slot_of(e, cursor << 32) == slot) {
		cursor = map_scan(&e->lines, cursor, look_again, &look);
		if (cursor == 0)
			break;
	}
}

static void answer_held(struct engine *e, struct op *op, const struct lease *l)
{
	struct result *r = op_reply(e, op, OUT_OK);
	r->value = lease_value(l);
	r->token = l->token;
	op_free(e, op);
}

void watch_start(struct engine *e, struct op *op)
{
	struct lease *l = NULL;
	if (!slot_readable(e, op->slot)) {
		op_finish(e, op, OUT_NOTREADY);
		return;
	}
	bool held = held_here(e, op, &l);
	if (op->kind == OP_WAITFOR && held) {
		answer_held(e, op, l);
		return;
	}
	if (op->kind == OP_WAITRELEASE && !held) {
		op_finish(e, op, OUT_NOTLOCKED);
		return;
	}
	if (held)
		op->uid = lease_uid(l);
	op->state = OPS_WATCH;
	if (!line_join(e, op, true)) {
		op_reply(e, op, OUT_LIMIT)->limit = "waiters of this key";
		op_free(e, op);
		return;
	}
	if (MUTANT(WAITER_STAYS))
		return;
	/* The time to wait is exact: op-timeout is for rounds, and there is none here. */
	op_timer(e, op, op->deadline_ns - e->cfg.op_timeout_ms * NS_PER_MS);
}

void watch_run(struct engine *e, struct op *op)
{
	struct lease *l = NULL;
	if (op->kind == OP_OBSERVE) {
		observe_look(e, op);
		return;
	}
	/* What ends and begins again in one step has ended all the same. */
	bool happened = op->was_live;
	if (!happened && !slot_readable(e, op->slot))
		return;
	op->was_live = false;
	bool held = held_here(e, op, &l);
	if (op->kind == OP_WAITFOR && held)
		answer_held(e, op, l);
	else if (op->kind == OP_WAITRELEASE &&
		 (happened || !held || !ballot_eq(lease_uid(l), op->uid)))
		op_finish(e, op, OUT_OK);
}
