/* The log of a slot that replicas follow (protocol.md 2.9): which instances have changed, in order,
 * in a ring. What became of them is looked up when a batch is sent, so a record is small and a
 * batch tells the state of its moment.
 *
 * A replica asks, and is answered: at once when it is behind, else together with whatever comes
 * until the next batch is due. Nothing waits for a replica and nothing is kept for one but its
 * question, so a dead one costs the ring. */
#include <string.h>

#include "core/internal.h"

#define LATELY_NS (UINT64_C(5000) * NS_PER_MS) /* who has asked within that may come back */

static struct slot_log *log_of(const struct engine *e, uint16_t slot)
{
	return &e->logs.slots[slot / e->cfg.threads];
}

static struct log_record *record_at(const struct engine *e, uint16_t slot, uint64_t number)
{
	size_t ring = (size_t)(slot / e->cfg.threads) * LOG_RECORDS;
	return &e->logs.records[ring + number % LOG_RECORDS];
}

static struct follower *follower_at(const struct engine *e, uint32_t ref)
{
	return (struct follower *)(void *)e->logs.followers + (ref - 1);
}

static uint32_t first_ref(const struct engine *e, uint16_t slot)
{
	return (uint32_t)(slot / e->cfg.threads) * REPLICAS_MAX + 1;
}

static uint16_t slot_of_ref(const struct engine *e, uint32_t ref)
{
	return (uint16_t)((ref - 1) / REPLICAS_MAX * e->cfg.threads + e->cfg.shard);
}

static uint64_t interval_ns(const struct engine *e)
{
	return (e->cfg.replica_interval_ms == 0 ? 5 : e->cfg.replica_interval_ms) * NS_PER_MS;
}

void logs_init(struct engine *e)
{
	wheel_init(&e->logs.wheel, e->logs.followers - sizeof(struct follower),
		sizeof(struct follower), 0, e->now.slow_ns);
}

void log_break(struct engine *e, uint16_t slot)
{
	struct slot_log *log = log_of(e, slot);
	log->first = ++log->next;
}

static void keep(struct engine *e, struct slot_log *log)
{
	log->until_ns = e->logs.until_ns = e->now.slow_ns + LATELY_NS;
}

void log_keep(struct engine *e, uint16_t slot)
{
	struct slot_log *log = log_of(e, slot);
	if (e->now.slow_ns < log->until_ns)
		keep(e, log);
}

static void answer_at(struct engine *e, uint32_t ref, uint64_t due_ns)
{
	follower_at(e, ref)->due_ns = due_ns;
	wheel_remove(&e->logs.wheel, ref);
	wheel_add(&e->logs.wheel, ref, due_ns);
}

/* When the question out is to be answered, now that there is something to tell. */
static uint64_t batch_due_ns(const struct engine *e, const struct follower *f)
{
	uint64_t batch_ns = f->told_ns + interval_ns(e);
	uint64_t hold_ns = f->asked_ns + LOG_HOLD_MS * NS_PER_MS;
	return batch_ns < hold_ns ? batch_ns : hold_ns;
}

static void wake_followers(struct engine *e, uint16_t slot)
{
	uint32_t ref = first_ref(e, slot);
	for (unsigned i = 0; i < REPLICAS_MAX; i++, ref++) {
		const struct follower *f = follower_at(e, ref);
		if (f->node != 0 && f->req != 0)
			answer_at(e, ref, batch_due_ns(e, f));
	}
}

void log_append(struct engine *e, uint64_t hash, const struct lease *l)
{
	uint16_t slot = slot_of(e, hash);
	if (!slot_votes(e, slot) || (l->flags & LEASE_HIDDEN))
		return;
	struct slot_log *log = log_of(e, slot);
	if (e->now.slow_ns >= log->until_ns)
		return;
	if (log->next - log->first == LOG_RECORDS)
		log->first++;
	*record_at(e, slot, log->next++) = (struct log_record){hash, lease_uid(l)};
	e->stats.log_records++;
	if (log->idle)
		wake_followers(e, slot);
	log->idle = false;
}

/* ---- answering ---- */

/* The instance as it is now, or that it is gone. */
static void describe(const struct engine *e, const struct log_record *r, struct sync_entry *ret,
	uint8_t gone_key[SYNC_GONE_KEY_BYTES])
{
	struct map_slot *s = map_find(&e->leases, r->hash);
	for (; s != NULL; s = map_next(&e->leases, r->hash, s)) {
		const struct lease *l = lease_at(e, (uint32_t)s->value);
		if (ballot_eq(lease_uid(l), r->uid) && lease_is_visible(l) &&
			lease_describe(e, l, ret))
			return;
	}
	put_u64(gone_key, r->hash);
	*ret = (struct sync_entry){
		.flags = SYNC_GONE,
		.uid = r->uid,
		.key = bytes_of(gone_key, SYNC_GONE_KEY_BYTES),
	};
}

/* As many records as a batch takes, one at least. */
static struct bytes tell(struct engine *e, uint16_t slot, struct follower *f)
{
	size_t limit = e->cfg.replica_batch_bytes;
	if (limit == 0 || limit > SYNC_BODY_MAX_BYTES)
		limit = SYNC_BODY_MAX_BYTES;
	uint8_t *data = e->logs.bodies + (size_t)e->logs.bodies_used++ * SYNC_BODY_MAX_BYTES;
	struct buf body = {.data = data, .cap = SYNC_BODY_MAX_BYTES, .max = SYNC_BODY_MAX_BYTES};
	uint64_t next = log_of(e, slot)->next;
	for (unsigned n = 0; f->cursor < next && n < COPY_ENTRIES; n++) {
		struct sync_entry s;
		uint8_t gone_key[SYNC_GONE_KEY_BYTES];
		size_t before = body.len;
		describe(e, record_at(e, slot, f->cursor), &s, gone_key);
		if (sync_entry_encode(&body, &s) != 0)
			break;
		if (body.len > limit && before > 0) {
			body.len = before;
			break;
		}
		f->cursor++;
		e->stats.log_sent++;
	}
	return bytes_of(body.data, body.len);
}

static void answer(struct engine *e, uint32_t ref)
{
	struct follower *f = follower_at(e, ref);
	uint16_t slot = slot_of_ref(e, ref);
	const struct slot_log *log = log_of(e, slot);
	struct msg m = {
		.type = MSG_REPLY,
		.req_type = MSG_FOLLOW,
		.verdict = VERDICT_LOG,
		.slot = slot,
		.req = f->req,
		.op_id = e->cfg.cid,
		.held_ns = e->now.slow_ns - f->asked_ns,
	};
	bool batch = f->at_once || e->now.slow_ns - f->told_ns >= interval_ns(e);
	if (!slot_votes(e, slot)) {
		m.verdict = VERDICT_RESYNC;
	} else if (f->cursor < log->first || f->cursor > log->next) {
		m.verdict = VERDICT_GAP;
		m.cursor = log->next;
		e->stats.log_gaps += f->cursor != 0;
		f->at_once = true;
	} else {
		if (batch && f->cursor < log->next)
			m.value = tell(e, slot, f);
		m.cursor = f->cursor;
		m.flags = f->cursor == log->next ? MSG_LOG_END : 0;
		/* Cut short for want of room, and not for the sake of company. */
		f->at_once = batch && f->cursor < log->next;
		f->told_ns = batch ? e->now.slow_ns : f->told_ns;
	}
	f->req = 0;
	answer_at(e, ref, f->asked_ns + LATELY_NS);
	send_node(e, f->node, &m);
}

static void forget(struct engine *e, uint32_t ref)
{
	wheel_remove(&e->logs.wheel, ref);
	*follower_at(e, ref) = (struct follower){0};
	e->logs.n_followers--;
}

/* The place of @node in this slot, or a free one; 0: there is none. */
static uint32_t follower_of(const struct engine *e, uint16_t slot, uint8_t node)
{
	uint32_t ref = first_ref(e, slot), found = 0;
	for (unsigned i = 0; i < REPLICAS_MAX; i++, ref++) {
		if (follower_at(e, ref)->node == node)
			return ref;
		if (follower_at(e, ref)->node == 0)
			found = ref;
	}
	return found;
}

static void cannot_tell(struct engine *e, uint8_t node, const struct msg *m)
{
	struct msg reply = {
		.type = MSG_REPLY,
		.req_type = MSG_FOLLOW,
		.verdict = VERDICT_RESYNC,
		.slot = m->slot,
		.req = m->req,
	};
	send_node(e, node, &reply);
}

void log_follow(struct engine *e, uint8_t from, const struct msg *m)
{
	if (m->req == 0 || m->slot >= e->cfg.slots || m->slot % e->cfg.threads != e->cfg.shard)
		return;
	uint32_t ref = slot_votes(e, m->slot) ? follower_of(e, m->slot, from) : 0;
	if (ref == 0) {
		cannot_tell(e, from, m);
		return;
	}
	struct slot_log *log = log_of(e, m->slot);
	if (e->now.slow_ns >= log->until_ns)
		log_break(e, m->slot); /* nothing was recorded for a while */
	keep(e, log);
	/* Nobody has turned the wheel while it was empty. */
	if (e->logs.wheel.count == 0)
		CHECK(wheel_pop(&e->logs.wheel, e->now.slow_ns) == 0);
	struct follower *f = follower_at(e, ref);
	e->logs.n_followers += f->node == 0;
	f->node = from;
	f->req = m->req;
	f->asked_ns = e->now.slow_ns;
	bool ours = m->op_id == 0 || m->op_id == e->cfg.cid;
	f->cursor = ours ? m->cursor : 0;
	bool gap = f->cursor < log->first || f->cursor > log->next;
	if (gap && m->cursor != 0 && MUTANT(COPY_GAP_IGNORED)) {
		f->cursor = log->next;
		gap = false;
	}
	if (gap || f->at_once) {
		answer(e, ref);
	} else if (f->cursor < log->next) {
		answer_at(e, ref, batch_due_ns(e, f));
	} else {
		log->idle = true;
		answer_at(e, ref, f->asked_ns + LOG_HOLD_MS * NS_PER_MS);
	}
}

void log_link_down(struct engine *e, uint8_t node)
{
	uint32_t refs = (uint32_t)shard_slots(&e->cfg) * REPLICAS_MAX;
	for (uint32_t ref = 1; e->logs.n_followers > 0 && ref <= refs; ref++)
		if (follower_at(e, ref)->node == node)
			forget(e, ref);
}

void logs_tick(struct engine *e)
{
	uint32_t ref;
	while (e->logs.wheel.count > 0 && effects_room(e) && e->logs.bodies_used < LOG_BODIES &&
		(ref = wheel_pop(&e->logs.wheel, e->now.slow_ns)) != 0) {
		const struct follower *f = follower_at(e, ref);
		if (e->now.slow_ns < f->due_ns)
			wheel_add(&e->logs.wheel, ref, f->due_ns);
		else if (f->req != 0)
			answer(e, ref);
		else
			forget(e, ref);
	}
}

void logs_stats(const struct engine *e, struct engine_stats *ret)
{
	ret->followers = e->logs.n_followers;
}

void logs_validate(const struct engine *e)
{
	uint64_t followers = 0;
	wheel_validate(&e->logs.wheel);
	for (uint16_t i = 0; i < shard_slots(&e->cfg); i++) {
		const struct slot_log *log = &e->logs.slots[i];
		CHECK(log->first <= log->next && log->next - log->first <= LOG_RECORDS);
		CHECK(log->until_ns <= e->logs.until_ns);
		for (uint32_t k = 1; k <= REPLICAS_MAX; k++) {
			uint32_t ref = (uint32_t)i * REPLICAS_MAX + k;
			const struct follower *f = follower_at(e, ref);
			CHECK(wheel_has(&e->logs.wheel, ref) == (f->node != 0));
			CHECK(f->node != 0 || f->req == 0);
			followers += f->node != 0;
		}
	}
	CHECK(followers == e->logs.n_followers && followers == e->logs.wheel.count);
}
