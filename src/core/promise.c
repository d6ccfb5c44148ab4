/* What becomes of a promise that nobody confirmed (protocol.md 2.11): its master asks the
 * coordinator, and when that is silent, whether enough fellow masters rule the attempt out. */
#include "core/internal.h"

void promises_init(struct engine *e)
{
	for (uint32_t i = 0; i < PROBES_MAX; i++)
		e->probes[i].next_free = i + 2 <= PROBES_MAX ? i + 2 : 0;
	e->probe_free = 1;
}

static uint64_t aborted_hash(const struct engine *e, uint64_t n)
{
	return hash_mix(n, e->cfg.cid);
}

static struct map_slot *aborted_find(const struct engine *e, uint64_t n)
{
	struct map_slot *s = map_find(&e->aborted_map, aborted_hash(e, n));
	while (s != NULL && s->value != n)
		s = map_next(&e->aborted_map, aborted_hash(e, n), s);
	return s;
}

static void aborted_forget_oldest(struct engine *e)
{
	uint64_t n = e->aborted[e->aborted_head].n;
	struct map_slot *s = aborted_find(e, n);
	if (s != NULL)
		map_erase(&e->aborted_map, aborted_hash(e, n), s);
	e->aborted_head = (e->aborted_head + 1) % ABORTED_MAX;
	e->aborted_n--;
}

/* Forgetting too early, when there are too many, is safe: QUERY is then answered CONFIRM, and an
 * attempt that nobody holds stands in the way until its lease ends. */
void aborted_remember(struct engine *e, uint64_t n, uint32_t lease_ms)
{
	if (aborted_find(e, n) != NULL)
		return;
	if (e->aborted_n == ABORTED_MAX)
		aborted_forget_oldest(e);
	if (map_insert(&e->aborted_map, aborted_hash(e, n), n) != 0)
		return;
	uint64_t length_ns = more_drift(e, lease_ms * NS_PER_MS + e->attempt_ns);
	e->aborted[(e->aborted_head + e->aborted_n) % ABORTED_MAX] =
		(struct aborted){.n = n, .until_ns = e->now.fast_ns + length_ns};
	e->aborted_n++;
}

void aborted_tick(struct engine *e)
{
	while (e->aborted_n > 0 && e->aborted[e->aborted_head].until_ns <= e->now.fast_ns)
		aborted_forget_oldest(e);
}

static bool attempt_runs(const struct engine *e, uint64_t n)
{
	for (uint32_t i = e->try_head; i != 0; i = op_at(e, i - 1)->try_next)
		if (op_at(e, i - 1)->uid.n == n)
			return true;
	return false;
}

/* What its coordinator says to QUERY. False: silence, for it is another incarnation's, or it runs
 * and will be told. */
static bool query_answer(const struct engine *e, const struct msg *m, struct msg *ret)
{
	if (m->uid.cid != e->cfg.cid || attempt_runs(e, m->uid.n))
		return false;
	/* What was neither aborted nor runs was granted (protocol.md 2.11). */
	*ret = (struct msg){
		.type = aborted_find(e, m->uid.n) != NULL ? MSG_ABORT : MSG_CONFIRM,
		.slot = m->slot,
		.key = m->key,
		.uid = m->uid,
	};
	return true;
}

void promise_query(struct engine *e, uint8_t from, const struct msg *m)
{
	struct msg answer;
	if (!query_answer(e, m, &answer))
		return;
	e->stats.queries++;
	send_node(e, from, &answer);
}

/* Our own promise, come back to us in a resync after it had been told or given up. */
static void ask_self(struct engine *e, uint64_t hash, const struct msg *m)
{
	struct msg answer, reply;
	if (!query_answer(e, m, &answer))
		return;
	if (answer.type == MSG_CONFIRM)
		master_confirm(e, &answer);
	else
		(void)master_handle(e, hash, &answer, &reply);
}

static struct probe *probe_of(struct engine *e, struct lease *l, uint32_t ref)
{
	struct side *side = lease_side(e, l);
	if (side != NULL && side->probe != 0)
		return &e->probes[side->probe - 1];
	if (side == NULL || e->probe_free == 0)
		return NULL; /* the next T_promise comes */
	side->probe = e->probe_free;
	struct probe *p = &e->probes[side->probe - 1];
	e->probe_free = p->next_free;
	p->uid = lease_uid(l);
	p->lease = ref;
	p->good = 0;
	p->round = (p->round + 1) & 0xfffff;
	return p;
}

void promise_drop_answers(struct engine *e, struct lease *l)
{
	struct side *side = l->side == 0 ? NULL : arena_at(&e->arena, l->side);
	if (side == NULL || side->probe == 0)
		return;
	struct probe *p = &e->probes[side->probe - 1];
	p->lease = 0;
	p->next_free = e->probe_free;
	e->probe_free = side->probe;
	side->probe = 0;
}

void promises_forget_answers(struct engine *e)
{
	for (uint32_t i = 0; i < PROBES_MAX; i++) {
		e->probes[i].good = 0;
		e->probes[i].round = (e->probes[i].round + 1) & 0xfffff;
	}
}

static void ask_fellows(struct engine *e, uint32_t ref)
{
	struct lease *l = lease_at(e, ref);
	struct probe *p = probe_of(e, l, ref);
	if (p == NULL)
		return;
	uint64_t hash = hash_bytes(lease_key(l));
	struct msg m = {
		.type = MSG_READ,
		.flags = MSG_PROBE,
		.slot = slot_of(e, hash),
		.key = lease_key(l),
		.n = MUTANT(QUERY_UNSEALED) ? 0 : l->token,
		.req = PROBE_REQ | (uint64_t)p->round << 16 | (uint64_t)(p - e->probes),
	};
	send_masters(e, (uint16_t)(e->links_up & ~p->good), &m);
}

void promise_due(struct engine *e, uint32_t ref)
{
	struct lease *l = lease_at(e, ref);
	uint64_t hash = hash_bytes(lease_key(l));
	struct msg m = {.type = MSG_QUERY,
		.slot = slot_of(e, hash),
		.key = lease_key(l),
		.uid = lease_uid(l)};
	if (MUTANT(QUERY_NEVER))
		return;
	if (!(l->flags & LEASE_UNCONFIRMED)) {
		ask_fellows(e, ref); /* granted long ago: its coordinator knows no more */
		return;
	}
	/* The second time round the coordinator was silent for a whole T_promise. */
	if (l->flags & LEASE_ASKED)
		ask_fellows(e, ref);
	l->flags |= LEASE_ASKED;
	if (l->node != e->cfg.self)
		send_node(e, l->node, &m);
	else
		ask_self(e, hash, &m);
}

void promise_answer(struct engine *e, unsigned from_index, const struct msg *m)
{
	uint32_t index = (uint32_t)(m->req & 0xffff);
	if (index >= PROBES_MAX)
		return;
	struct probe *p = &e->probes[index];
	if (p->lease == 0 || p->round != (uint32_t)((m->req & ~PROBE_REQ) >> 16))
		return;
	bool without = m->verdict == VERDICT_FREE ||
		       (m->verdict == VERDICT_LIVE && !ballot_eq(m->uid, p->uid));
	bool silent = (MUTANT(QUERY_SHADOW) && m->verdict == VERDICT_SHADOW) ||
		      (MUTANT(QUERY_RESYNC) && m->verdict == VERDICT_RESYNC);
	bool sealed = m->n >= p->uid.n || MUTANT(QUERY_UNSEALED);
	if (!(without && sealed) && !silent)
		return; /* SHADOW and RESYNC say nothing; a holder settles it by holding */
	p->good |= (uint16_t)(1u << from_index);
	if (count_bits(p->good) < (MUTANT(QUERY_ONE) ? 1U : e->blocking))
		return;
	e->stats.dissolved++;
	if (MUTANT(QUERY_FORGETS))
		lease_at(e, p->lease)->maxn = 0;
	lease_end(e, hash_bytes(lease_key(lease_at(e, p->lease))), p->lease);
}
