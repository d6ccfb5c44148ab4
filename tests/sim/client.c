/* Clients: they lock, extend, update, release, read and wait, believe what they are told for as
 * long as they are told, lose patience, crash, ask again elsewhere, and use values that are not
 * theirs. */
#include "sim.h"

enum { NO_CALL = CALLS_MAX, NOBODY = CLIENTS_MAX };

void clients_init(struct world *w)
{
	for (unsigned i = 0; i < CALLS_MAX; i++)
		w->call[i].next_free = (uint16_t)(i + 1);
	w->call_free = 0;
	for (unsigned i = 0; i < w->clients; i++) {
		struct client *c = &w->client[i];
		int span = w->swarm.drift_ppm;
		c->call = NO_CALL;
		c->clock = (struct clock){.at = w->now,
			.own = below(w, SEC),
			.rate_ppm = (int)below(w, (uint64_t)(2 * span + 1)) - span};
		client_think(w, i);
	}
}

/* ---- values that others than their owner use to extend or release: nothing can be said of who
 * holds those. An update hands that on to the new value. ---- */

enum { ROOTS = 1 << 17 };
static uint32_t root[ROOTS]; /* by value: the one that was locked with */

uint32_t client_new_value(struct world *w, uint32_t from)
{
	uint32_t value = ++w->next_value;
	root[value % ROOTS] = from == 0 ? value : root[from % ROOTS];
	return value;
}

uint32_t client_first_value(uint32_t value)
{
	return root[value % ROOTS];
}

bool client_shared(const struct world *w, uint32_t value)
{
	uint32_t of = root[value % ROOTS];
	return w->shared[of / 8 % sizeof w->shared] >> of % 8 & 1;
}

static void share(struct world *w, uint32_t value)
{
	uint32_t of = root[value % ROOTS];
	w->shared[of / 8 % sizeof w->shared] |= (uint8_t)(1u << of % 8);
	for (unsigned i = 0; i < w->clients; i++)
		if (client_shared(w, w->client[i].value))
			w->client[i].belief.token = 0;
}

bool client_believes(const struct world *w, const struct client *c)
{
	return c->belief.token != 0 && clock_read(&c->clock, w->now) < c->belief.until_own;
}

void client_think(struct world *w, unsigned i)
{
	world_push(w, w->now + 20000 + below(w, 2 * w->swarm.think_ns), ITEM_WAKE, 0, i,
		++w->client[i].gen);
}

/* ---- calls ---- */

struct call *ask_new(struct world *w, unsigned client, unsigned node, enum op_kind kind)
{
	if (w->call_free == CALLS_MAX)
		return NULL;
	struct call *call = &w->call[w->call_free];
	w->call_free = call->next_free;
	uint32_t gen = call->gen + 1;
	*call = (struct call){.gen = gen,
		.client = (uint16_t)client,
		.node = (uint8_t)node,
		.kind = (uint8_t)kind,
		.life = w->node[node].life};
	w->client[client].call = (uint16_t)(call - w->call);
	return call;
}

void ask_free(struct world *w, struct call *call)
{
	call->state = CALL_FREE;
	call->next_free = w->call_free;
	w->call_free = (uint16_t)(call - w->call);
}

void call_send(struct world *w, struct call *call)
{
	struct client *c = &w->client[call->client];
	call->state = CALL_SENT;
	call->sent = w->now;
	call->sent_own = clock_read(&c->clock, w->now);
	call->seen_top = w->key[call->key].top;
	if (call->kind == OP_RELEASE && call->own_value) {
		c->belief.token = 0; /* before it is sent (protocol.md 2.6) */
		c->gone_release = true;
	}
	history_begin(w, call);
	w->events++;
	trace_fold(w, w->now, (uint64_t)call->kind << 32 | call->value);
	TRACE(w, "client %u asks %u: kind %u key %u value %u ttl %u%s%s", call->client, call->node,
		call->kind, call->key, call->value, call->ttl_ms,
		call->idempotent ? " idempotent" : "", call->wait ? " wait" : "");
	world_push(w, w->now + 10000 + below(w, MS), ITEM_ARRIVE, call->node,
		(unsigned)(call - w->call), call->gen);
	if (!w->calm && chance(w, w->swarm.give_up_ppm))
		world_push(w, w->now + below(w, w->node[1].cfg.op_timeout_ms * MS * 3 / 2),
			ITEM_GIVE_UP, 0, (unsigned)(call - w->call), call->gen);
}

/* Its client hears no answer: the connection broke. */
static void hang_up(struct world *w, struct call *call)
{
	if (call->client == NOBODY)
		return;
	struct client *c = &w->client[call->client];
	c->maybe_locked = call->kind == OP_LOCK;
	c->call = NO_CALL;
	c->outcome = OUT_UNKNOWN;
	client_think(w, call->client);
}

void client_arrive(struct world *w, const struct item *it)
{
	struct call *call = &w->call[it->idx];
	struct node *n = &w->node[call->node];
	if (call->state != CALL_SENT || call->gen != it->gen)
		return;
	if (!n->up || n->life != call->life) {
		history_never(w, call);
		hang_up(w, call);
		ask_free(w, call);
		return;
	}
	uint8_t value[4], new_value[4];
	put_u32(value, call->value);
	put_u32(new_value, call->new_value);
	uint8_t name[2] = {'c', (uint8_t)call->client};
	node_clocks(w, call->node);
	uint64_t rounds_ms =
		call->kind == OP_WAITFOR || call->kind == OP_WAITRELEASE ? 0 : n->cfg.op_timeout_ms;
	call->state = CALL_RUNS;
	call->deadline_fast = n->time.fast_ns + (rounds_ms + call->wait_ms) * MS;
	struct op_request r = {.kind = (enum op_kind)call->kind,
		.tag = (uint64_t)call->gen << 16 | it->idx,
		.hash = w->key[call->key].hash,
		.key = bytes_of(w->key[call->key].name, 2),
		.value = bytes_of(value, 4),
		.client = bytes_of(name, 2),
		.token = call->token,
		.wait_ms = call->wait_ms,
		.asked_fast_ns = n->time.fast_ns,
		.ttl_ms = call->ttl_ms,
		.has_token = call->has_token,
		.any_value = call->any_value,
		.has_ttl = call->has_ttl,
		.wait = call->wait,
		.idempotent = call->idempotent};
	if (call->kind == OP_UPDATE)
		r.new_value = bytes_of(new_value, 4);
	w->events++;
	const struct lease *l = lease_of(w, call->node, call->key);
	bool there = l != NULL && n->time.slow_ns < l->end_ns && (l->flags & LEASE_UNSEEN) == 0;
	if (call->kind == OP_WAITRELEASE && there && !w->shard_level)
		call->waits_for = lease_uid(l);
	node_step(w, call->node, &(struct event){.type = EV_OP, .op = r}, call->key);
}

void client_node_died(struct world *w, unsigned id)
{
	for (unsigned i = 0; i < CALLS_MAX; i++) {
		struct call *call = &w->call[i];
		if (call->state != CALL_RUNS || call->node != id)
			continue;
		history_lost(w, call);
		hang_up(w, call);
		ask_free(w, call);
	}
}

void client_stream_ended(struct world *w, unsigned id, uint64_t serial)
{
	for (unsigned i = 0; i < CALLS_MAX; i++) {
		struct call *call = &w->call[i];
		if (call->state != CALL_RUNS || call->node != id || call->stream != serial)
			continue;
		history_lost(w, call);
		hang_up(w, call);
		ask_free(w, call);
	}
}

void client_give_up(struct world *w, const struct item *it)
{
	struct call *call = &w->call[it->idx];
	if (call->gen != it->gen || call->state != CALL_RUNS || call->client == NOBODY || w->calm)
		return;
	unsigned i = call->client;
	struct client *c = &w->client[i];
	struct node *n = &w->node[call->node];
	if (w->shard_level && n->paused_until > w->now)
		return;
	w->events++;
	TRACE(w, "client %u gives up", i);
	hang_up(w, call);
	call->client = NOBODY;
	if (chance(w, w->swarm.crash_client_ppm)) {
		c->belief.token = 0;
		c->maybe_locked = false;
		c->value = 0;
	}
	/* Only waiters are cancelled; any other operation ends by itself, unheard. Who gives up on
	 * a shard closes its connection. */
	bool cancels = w->shard_level || (call->wait && chance(w, w->swarm.cancel_ppm));
	if (!cancels || n->paused_until > w->now)
		return;
	uint64_t tag = (uint64_t)call->gen << 16 | it->idx;
	uint8_t node = call->node, key = call->key;
	history_lost(w, call);
	ask_free(w, call);
	node_step(w, node, &(struct event){.type = EV_CANCEL, .cancel_tag = tag}, key);
}

void clients_overdue(struct world *w, unsigned id)
{
	uint64_t fast = w->node[id].time.fast_ns;
	for (unsigned i = 0; i < CALLS_MAX; i++) {
		const struct call *call = &w->call[i];
		if (call->state == CALL_RUNS && call->node == id &&
			fast > call->deadline_fast + 3 * MS)
			violation(w, RUN_STUCK, "no answer in time: kind %u key %u node %u",
				call->kind, call->key, id);
	}
}

void clients_suspended(struct world *w, unsigned id, uint64_t ns)
{
	for (unsigned i = 0; i < CALLS_MAX; i++)
		if (w->call[i].state == CALL_RUNS && w->call[i].node == id &&
			w->call[i].kind == OP_RELEASE)
			w->call[i].deadline_fast += ns + ns / 4; /* the fast clock may be fast */
}

/* ---- what comes back ---- */

/* Values of one lock grow in the order in which they are written. */
static bool is_latest(const struct key *k, uint64_t token, uint32_t value)
{
	return token > k->told_token || (token == k->told_token && value >= k->told_value);
}

/* What is left of its belief, on whichever clock that is counted. */
static uint64_t left_for_another(const struct world *w, const struct client *c)
{
	uint64_t left = c->belief.until_own - clock_read(&c->clock, w->now);
	return left - left * 2 * (uint64_t)w->swarm.drift_ppm / 1000000;
}

/* The lock lasts as long as any of its holders was told: who is told that it goes on, after
 * another was told of a later value, passes that on to him. */
static void pass_on(struct world *w, unsigned i)
{
	const struct client *c = &w->client[i];
	uint64_t left = left_for_another(w, c);
	for (unsigned j = 0; j < w->clients; j++) {
		struct client *o = &w->client[j];
		uint64_t until = clock_read(&o->clock, w->now) + left;
		if (j != i && o->belief.token == c->belief.token &&
			o->belief.key == c->belief.key && !o->belief.passed_on &&
			client_believes(w, o) && o->belief.until_own < until)
			o->belief.until_own = until;
	}
}

static void believe(struct world *w, unsigned i, const struct call *call, const struct result *r)
{
	struct client *c = &w->client[i];
	uint64_t until = call->sent_own + r->valid_ms * MS;
	if (client_shared(w, call->value) ||
		(call->kind != OP_LOCK && c->gone_release && !call->own_value))
		return;
	if (c->belief.token == r->token && c->belief.key == call->key &&
		until < c->belief.until_own)
		return;
	c->belief = (struct belief){.token = r->token,
		.cid = check_cid(w, call->key, r->token),
		.until_own = until,
		.key = call->key,
		.passed_on = !is_latest(&w->key[call->key], r->token, c->value)};
	c->token = r->token;
	if (!client_believes(w, c))
		return;
	if (c->belief.passed_on)
		pass_on(w, i);
	check_belief(w, i);
}

/* It was told that its value is there now. Who believed in the one before passes that on: the lock
 * lasts as long as any of its holders was told. */
static void succeed(struct world *w, unsigned i, const struct call *call, const struct result *r)
{
	struct client *c = &w->client[i];
	struct key *k = &w->key[call->key];
	uint64_t most = 0;
	c->value = call->new_value;
	if (is_latest(k, r->token, c->value)) {
		k->told_token = r->token;
		k->told_value = c->value;
	}
	for (unsigned j = 0; j < w->clients; j++) {
		struct client *o = &w->client[j];
		if (j == i || o->belief.token != r->token || o->belief.key != call->key ||
			!client_believes(w, o) || is_latest(k, r->token, o->value))
			continue;
		uint64_t left = left_for_another(w, o);
		o->belief.passed_on = true;
		most = left > most ? left : most;
	}
	if (client_shared(w, call->new_value))
		return;
	believe(w, i, call, r);
	most += clock_read(&c->clock, w->now);
	if (c->belief.token == r->token && c->belief.until_own < most)
		c->belief.until_own = most;
}

static void take_result(
	struct world *w, unsigned i, const struct call *call, const struct result *r)
{
	struct client *c = &w->client[i];
	bool ok = r->outcome == OUT_OK;
	c->outcome = r->outcome;
	if (call->kind == OP_READ_QUORUM && ok && i < w->swarm.writers && r->value.len == 4) {
		c->seen_token = r->token;
		c->seen_value = get_u32(r->value.p);
		c->seen_key = call->key;
	}
	if (call->kind == OP_LOCK) {
		c->maybe_locked = r->outcome == OUT_NOQUORUM && r->sent;
		if (ok)
			believe(w, i, call, r);
	} else if (call->kind == OP_EXTEND && ok && call->own_value) {
		believe(w, i, call, r);
	} else if (call->kind == OP_UPDATE && call->own_value && ok) {
		if (c->belief.token == r->token)
			succeed(w, i, call, r);
		else
			c->value = call->new_value;
	} else if (call->kind == OP_UPDATE && ok && w->swarm.heirs && i < w->swarm.writers) {
		c->key = call->key;
		c->gone_release = false;
		succeed(w, i, call, r);
	} else if (call->kind == OP_RELEASE && call->own_value) {
		/* Nothing of a RELEASE lands after its answer: what is left may be taken up again.
		 */
		c->gone_release = ok;
	}
}

void client_reply(struct world *w, unsigned id, const struct result *r)
{
	struct call *call = &w->call[r->tag & 0xffff];
	if ((r->tag & 0xffff) >= CALLS_MAX || call->state != CALL_RUNS || call->node != id ||
		call->gen != (uint32_t)(r->tag >> 16) || (unsigned)r->kind != call->kind) {
		violation(w, RUN_UNSAFE, "an answer that nobody waits for: tag %llx node %u",
			(unsigned long long)r->tag, id);
		return;
	}
	TRACE(w, "%u answers client %u: kind %u key %u outcome %u token %llu valid %llu ms", id,
		call->client, call->kind, call->key, r->outcome, (unsigned long long)r->token,
		(unsigned long long)r->valid_ms);
	trace_fold(w, r->token ^ r->valid_ms, (uint64_t)r->outcome << 8 | call->kind);
	w->sums.answers++;
	w->sums.outcomes[r->outcome]++;
	check_key(w, call->key); /* sees the instance before anybody believes in it */
	check_reply(w, call, r);
	history_end(w, call, r);
	if (r->outcome == OUT_OK && r->value.len == 4)
		w->key[call->key].value = get_u32(r->value.p);
	else if (r->outcome == OUT_OK && call->kind == OP_LOCK)
		w->key[call->key].value = call->value;
	if (call->client != NOBODY) {
		take_result(w, call->client, call, r);
		world_push(w, w->now + 10000 + below(w, MS), ITEM_ANSWER, 0, call->client,
			w->client[call->client].gen);
	}
	ask_free(w, call);
}

void client_answer(struct world *w, const struct item *it)
{
	struct client *c = &w->client[it->idx];
	if (c->gen != it->gen)
		return;
	w->events++;
	c->call = NO_CALL;
	/* Who does not know what has become of it does not wait long before it tries again. */
	if (!c->probe && c->outcome == OUT_UNKNOWN)
		world_push(w, w->now + below(w, MS), ITEM_WAKE, 0, it->idx, ++c->gen);
	else if (!c->probe)
		client_think(w, it->idx);
}

/* ---- what to do next ---- */

static uint32_t some_ttl(struct world *w)
{
	uint32_t most = w->swarm.ttl_ms;
	unsigned dice = (unsigned)below(w, 10);
	if (w->swarm.registers || w->swarm.even_ttl)
		return most;
	if (dice == 0)
		return 1 + (uint32_t)below(w, 5);
	return 1 + (uint32_t)below(w, dice < 6 ? most / 8 + 1 : most);
}

static void ask_as_holder(struct world *w, struct client *c, struct call *call, unsigned dice)
{
	call->key = c->belief.key;
	call->value = c->value;
	call->own_value = true;
	call->new_value = call->kind == OP_UPDATE ? client_new_value(w, call->value) : 0;
	call->has_token = dice % 3 == 0;
	call->token = c->belief.token;
	call->has_ttl = call->kind == OP_EXTEND || (call->kind == OP_UPDATE && dice % 2 == 0);
	call->ttl_ms = call->has_ttl ? some_ttl(w) : 0;
	if (chance(w, w->swarm.mistake_ppm / 4)) { /* an old token */
		call->has_token = true;
		call->token -= 1 + below(w, 3);
	}
}

static void ask_for_lock(struct world *w, struct client *c, struct call *call)
{
	bool again = c->maybe_locked && !c->gone_release && c->value != 0 &&
		     chance(w, w->swarm.idempotent_ppm);
	c->belief.token = 0; /* what it may still hold it gives up in silence */
	call->own_value = true;
	call->wait = below(w, 3) == 0;
	call->wait_ms = call->wait ? below(w, 600) : 0;
	call->has_ttl = true;
	call->ttl_ms = some_ttl(w);
	if (again) {
		call->idempotent = true;
	} else {
		c->key = (uint8_t)below(w, w->keys);
		c->value = client_new_value(w, 0);
		c->gone_release = false;
	}
	call->key = c->key;
	call->value = c->value;
}

/* BREAK: the grant that some client believes in, which nothing can be said of from then on, or one
 * before it, which must not do any harm. False: nobody believes in any. */
static bool ask_to_break(struct world *w, struct call *call)
{
	unsigned first = (unsigned)(w->events % w->clients), i = first;
	while (!client_believes(w, &w->client[i]) || w->client[i].belief.key != call->key) {
		i = (i + 1) % w->clients;
		if (i == first)
			return false;
	}
	call->any_value = call->has_token = true;
	call->token = w->client[i].belief.token;
	if (w->now % 4 == 0)
		call->token -= 1 + w->now / 4 % 3;
	else
		share(w, w->client[i].value);
	return true;
}

static void ask_as_stranger(struct world *w, struct call *call)
{
	call->key = (uint8_t)below(w, w->keys);
	if (call->kind == OP_RELEASE && w->now / 2 % 2 == 0 && ask_to_break(w, call))
		return;
	if (call->kind == OP_WAITFOR || call->kind == OP_WAITRELEASE) {
		call->wait_ms = below(w, 300);
	} else if (call->kind != OP_READ && call->kind != OP_READ_QUORUM) {
		call->value = w->key[call->key].value;
		call->new_value = call->kind == OP_UPDATE ? client_new_value(w, call->value) : 0;
		call->ttl_ms = some_ttl(w);
		call->has_ttl = call->kind != OP_RELEASE;
		call->idempotent = call->kind == OP_LOCK;
		if (call->kind != OP_UPDATE)
			share(w, call->value);
	}
}

static enum op_kind stranger_kind(struct world *w)
{
	static const uint8_t mistakes[] = {OP_UPDATE, OP_RELEASE, OP_EXTEND, OP_LOCK, OP_UPDATE};
	if (chance(w, w->swarm.mistake_ppm))
		return (enum op_kind)mistakes[below(w, sizeof mistakes)];
	unsigned dice = (unsigned)below(w, 10);
	return dice < 7    ? OP_READ_QUORUM
	       : dice == 7 ? OP_READ
	       : dice == 8 ? OP_WAITFOR
			   : OP_WAITRELEASE;
}

/* What its RELEASE or the like has left, perhaps: take it up again, one way or the other. */
static void ask_again(struct world *w, struct client *c, struct call *call)
{
	call->key = c->key;
	call->value = c->value;
	call->own_value = call->has_ttl = true;
	call->ttl_ms = some_ttl(w);
	call->idempotent = call->kind == OP_LOCK;
}

/* What some client last took the value of this lock to be, if that is another; 0: nobody. */
static uint32_t some_earlier_value(struct world *w, uint32_t value)
{
	uint32_t held = w->client[below(w, w->clients)].value;
	return held != value && root[held % ROOTS] == root[value % ROOTS] ? held : 0;
}

/* A writer reads what is there, and writes over just that: with the value, or with the token too.
 */
static void ask_as_writer(struct world *w, struct client *c, struct call *call)
{
	if (call->kind == OP_READ_QUORUM) {
		call->key = (uint8_t)below(w, w->keys);
		return;
	}
	call->key = c->seen_key;
	call->value = c->seen_value;
	uint32_t earlier = some_earlier_value(w, call->value);
	bool back = earlier != 0 && chance(w, w->swarm.back_ppm);
	call->new_value = back ? earlier : client_new_value(w, call->value);
	call->has_token = chance(w, 500000);
	call->token = c->seen_token;
	c->seen_token = 0;
}

enum part { PART_HOLDER, PART_WRITER, PART_AGAIN, PART_STRANGER, PART_LOCKER };

static enum part choose(struct world *w, unsigned i, unsigned dice, enum op_kind *ret_kind)
{
	const struct client *c = &w->client[i];
	bool holds = client_believes(w, c);
	bool again = !holds && c->belief.token == 0 && c->value != 0 && !c->gone_release &&
		     c->outcome == OUT_UNKNOWN && !c->maybe_locked;
	*ret_kind = OP_LOCK;
	if (i < w->swarm.writers && !(w->swarm.heirs && holds)) {
		*ret_kind = c->seen_token != 0 ? OP_UPDATE : OP_READ_QUORUM;
		return PART_WRITER;
	}
	if (holds && dice < 85) {
		*ret_kind = dice < 35   ? w->swarm.registers ? OP_UPDATE : OP_RELEASE
			    : dice < 58 ? OP_EXTEND
			    : dice < 78 ? OP_UPDATE
					: OP_READ_QUORUM;
		return PART_HOLDER;
	}
	if (again && dice < 60) {
		*ret_kind = dice < 40 ? OP_EXTEND : OP_LOCK;
		return PART_AGAIN;
	}
	if (holds || dice >= w->swarm.read_percent)
		return PART_LOCKER;
	*ret_kind = stranger_kind(w);
	return PART_STRANGER;
}

static unsigned node_to_ask(struct world *w, unsigned i)
{
	unsigned home = i < w->swarm.writers ? w->swarm.writers_home : w->swarm.lockers_home;
	if (home != 0)
		return home;
	return 1 + (w->swarm.homes ? i % w->nodes : (unsigned)below(w, w->nodes));
}

void client_wake(struct world *w, unsigned i)
{
	struct client *c = &w->client[i];
	if (w->calm || c->probe || c->call != NO_CALL)
		return;
	unsigned id = node_to_ask(w, i);
	unsigned dice = (unsigned)below(w, 100);
	enum op_kind kind = OP_LOCK;
	enum part part = choose(w, i, dice, &kind);
	struct call *call = w->node[id].up ? ask_new(w, i, id, kind) : NULL;
	if (call == NULL) {
		client_think(w, i);
		return;
	}
	switch (part) {
	case PART_HOLDER:
		ask_as_holder(w, c, call, dice);
		break;
	case PART_WRITER:
		ask_as_writer(w, c, call);
		break;
	case PART_AGAIN:
		ask_again(w, c, call);
		break;
	case PART_STRANGER:
		ask_as_stranger(w, call);
		break;
	case PART_LOCKER:
		ask_for_lock(w, c, call);
		break;
	}
	call_send(w, call);
}
