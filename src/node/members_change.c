#include "node/members_internal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#include "base/check.h"

enum {
	PATIENCE_ATTEMPTS = 10,
	PATIENCE_MIN_MS = 10000,
	LEFT_TEXT_BYTES = 200,
};

/* The ballots of one life begin that far, at most, above all that is known: a node whose former
 * life has proposed in the same change, and that has no file, hardly meets its own ballots. */
#define BALLOT_JUMP_MAX (UINT64_C(1) << 32)

/* ---- the end of a sequence ---- */

static void change_end(struct members *m, const char *error)
{
	struct change *c = &m->change;
	c->phase = CHANGE_IDLE;
	c->over = true;
	(void)snprintf(c->error, sizeof c->error, "%s", error);
}

/* @what: "WORD reason". */
static void change_fail(struct members *m, const struct membership *config, const char *what)
{
	char left[LEFT_TEXT_BYTES], error[MEMBERS_ERROR_MAX_BYTES];
	plan_left_text(m, config, &m->change.target, left, sizeof left);
	(void)snprintf(error, sizeof error,
		"%.110s: epoch %" PRIu64
		" is in force; left to do: %.199s; repeat the command to go on",
		what, config->epoch, left);
	change_end(m, error);
}

static void be_patient(struct members *m, uint64_t now_ns)
{
	uint64_t ms = (uint64_t)m->attempt_ms * PATIENCE_ATTEMPTS;
	m->change.patience_ns = now_ns + (ms > PATIENCE_MIN_MS ? ms : PATIENCE_MIN_MS) * MS_NS;
}

static void wait_begin(struct members *m, uint64_t now_ns)
{
	m->change.phase = CHANGE_WAIT;
	m->change.refusals = 0;
	m->change.progress = 0;
	be_patient(m, now_ns);
}

/* ---- the wait before a step, and after the last one ---- */

static uint64_t progress(const struct members *m)
{
	const struct membership *c = &m->reg.committed;
	uint64_t sum = 0;
	for (unsigned i = 0; i < c->n_masters; i++) {
		const struct members_peer *p = &m->peers[c->masters[i].id];
		if (!p->linked || p->epoch != c->epoch)
			continue;
		sum += 1 + (p->moved_epoch == c->epoch);
		sum += p->synced_epoch == c->masters_epoch ? c->slots + 1U : p->slots_in_sync;
	}
	return sum;
}

static void round_begin(struct members *m, uint64_t now_ns, struct step step);

static bool wait_advance(struct members *m, uint64_t now_ns)
{
	struct change *c = &m->change;
	uint64_t reached = progress(m);
	struct step next = plan_next(m, &m->reg.committed, &c->target);
	struct obstacle o = plan_obstacle(m, &c->target, next, c->last);
	if (o.kind == OBSTACLE_NONE) {
		if (next.kind == STEP_NONE)
			change_end(m, "");
		else
			round_begin(m, now_ns, next);
		return true;
	}
	if (reached > c->progress) {
		c->progress = reached;
		be_patient(m, now_ns);
	}
	if (now_ns < c->patience_ns)
		return false;
	char what[OBSTACLE_TEXT_MAX_BYTES], error[MEMBERS_ERROR_MAX_BYTES];
	plan_obstacle_text(m, o, what);
	(void)snprintf(error, sizeof error, "%s %s",
		o.kind == OBSTACLE_TOO_FEW ? "NOQUORUM" : "NOTREADY", what);
	change_fail(m, &m->reg.committed, error);
	return true;
}

/* ---- a round of Paxos ---- */

bool change_asks(const struct members *m, uint8_t node)
{
	const struct change *c = &m->change;
	if (c->phase != CHANGE_PREPARE && c->phase != CHANGE_ACCEPT)
		return false;
	if (set_has(&c->answered, node))
		return false;
	if (membership_role(&m->reg.committed, node) == ROLE_MASTER)
		return true;
	return c->phase == CHANGE_ACCEPT && membership_role(&c->value, node) == ROLE_MASTER;
}

static void ask(struct members *m, uint64_t now_ns)
{
	for (unsigned node = 1; node < NODES; node++)
		m->out[node].request = m->peers[node].linked && change_asks(m, (uint8_t)node);
	m->change.due_ns = now_ns + m->attempt_ms * MS_NS / 2;
}

static void phase_begin(struct members *m, uint64_t now_ns, enum change_phase phase)
{
	m->change.phase = phase;
	m->change.answered = m->change.voted = (struct node_set){0};
	ask(m, now_ns);
}

static void back_off(struct members *m, uint64_t now_ns)
{
	struct change *c = &m->change;
	unsigned times = c->refusals < 4 ? ++c->refusals : 4;
	uint64_t attempt_ns = m->attempt_ms * MS_NS;
	c->phase = CHANGE_BACKOFF;
	c->due_ns = now_ns + attempt_ns / 16 + prng_below(&m->rng, attempt_ns / 2 * times);
}

/* The ballot is made durable before anybody sees it, like a promise, so that no later life of this
 * node proposes something else with it: also where this node is no acceptor. */
static void round_begin(struct members *m, uint64_t now_ns, struct step step)
{
	struct change *c = &m->change;
	uint64_t n = m->seen_n + 1 + (m->proposed ? 0 : prng_below(&m->rng, BALLOT_JUMP_MAX));
	if (c->refusals == 0)
		be_patient(m, now_ns);
	c->step = step;
	c->wanted = m->reg.committed;
	plan_apply(m, &c->wanted, c->step);
	if (n > BALLOT_MAX) {
		back_off(m, now_ns);
		return;
	}
	m->proposed = true;
	c->b = (struct change_ballot){n, m->self};
	c->best = (struct change_ballot){0};
	c->value.epoch = 0;
	members_see_ballot(m, c->b);
	if (!members_abstains(m)) {
		m->reg.promised = c->b;
		m->dirty = true;
	}
	phase_begin(m, now_ns, CHANGE_PREPARE);
}

static bool is_majority(const struct node_set *s, const struct membership *config)
{
	unsigned n = 0;
	for (unsigned i = 0; i < config->n_masters; i++)
		n += set_has(s, config->masters[i].id);
	return n >= plan_majority(config);
}

void change_promise(struct members *m, uint64_t now_ns, uint8_t from, const struct config_msg *msg)
{
	struct change *c = &m->change;
	if (c->phase != CHANGE_PREPARE || ballot_compare(msg->b, c->b) != 0)
		return;
	if (msg->config.epoch != 0) {
		if (!plan_follows(&m->reg.committed, &msg->config))
			return;
		members_see_ballot(m, msg->accepted_at);
		if (ballot_compare(msg->accepted_at, c->best) > 0) {
			c->best = msg->accepted_at;
			c->value = msg->config;
		}
	}
	set_add(&c->answered, from);
	if (!is_majority(&c->answered, &m->reg.committed))
		return;
	if (c->value.epoch == 0)
		c->value = c->wanted;
	phase_begin(m, now_ns, CHANGE_ACCEPT);
}

void change_accepted(struct members *m, uint64_t now_ns, uint8_t from, const struct config_msg *msg)
{
	struct change *c = &m->change;
	if (c->phase != CHANGE_ACCEPT || ballot_compare(msg->b, c->b) != 0)
		return;
	set_add(&c->answered, from);
	if (ballot_compare(msg->accepted_at, c->b) == 0)
		set_add(&c->voted, from);
	if (!is_majority(&c->voted, &m->reg.committed) || !is_majority(&c->answered, &c->value))
		return;
	struct membership value = c->value;
	members_adopt(m, now_ns, &value, true);
}

void change_refused(struct members *m, uint64_t now_ns, const struct config_msg *msg)
{
	struct change *c = &m->change;
	if (c->phase != CHANGE_PREPARE && c->phase != CHANGE_ACCEPT)
		return;
	if (ballot_compare(msg->b, c->b) > 0)
		back_off(m, now_ns);
}

void change_committed(
	struct members *m, uint64_t now_ns, const struct membership *config, bool mine, uint8_t by)
{
	struct change *c = &m->change;
	if (c->phase == CHANGE_IDLE)
		return;
	bool wanted = c->wanted.epoch == config->epoch && membership_same(&c->wanted, config);
	if (wanted) {
		c->done++;
		c->last = c->step;
	}
	if (wanted || mine || plan_next(m, config, &c->target).kind == STEP_NONE) {
		wait_begin(m, now_ns);
		return;
	}
	char what[64] = "BUSY changed meanwhile";
	if (by != 0)
		(void)snprintf(what, sizeof what, "BUSY changed meanwhile by node %u", by);
	change_fail(m, config, what);
}

/* ---- time ---- */

static bool round_advance(struct members *m, uint64_t now_ns)
{
	struct change *c = &m->change;
	if (now_ns >= c->patience_ns) {
		change_fail(m, &m->reg.committed,
			"NOQUORUM too few masters, of before and after the change, answer");
		return true;
	}
	if (now_ns < c->due_ns)
		return false;
	if (c->phase == CHANGE_BACKOFF)
		c->phase = CHANGE_WAIT; /* patience goes on */
	else
		ask(m, now_ns);
	return true;
}

bool change_advance(struct members *m, uint64_t now_ns)
{
	switch (m->change.phase) {
	case CHANGE_IDLE:
		return false;
	case CHANGE_WAIT:
		return wait_advance(m, now_ns);
	case CHANGE_PREPARE:
	case CHANGE_ACCEPT:
	case CHANGE_BACKOFF:
		return round_advance(m, now_ns);
	}
	CHECK(!"no such phase");
}

uint64_t change_due_ns(const struct members *m)
{
	const struct change *c = &m->change;
	if (c->phase == CHANGE_IDLE)
		return UINT64_MAX;
	if (c->phase == CHANGE_WAIT || c->patience_ns < c->due_ns)
		return c->patience_ns;
	return c->due_ns;
}

/* ---- SETNODES ---- */

static int refuse(char *why, size_t why_bytes, int r, const char *text)
{
	(void)snprintf(why, why_bytes, "%s", text);
	return r;
}

/* 0 or -EINVAL. */
static int check_ids(const struct members *m, const uint8_t *ids, unsigned n,
	struct node_set *named, char *why, size_t why_bytes)
{
	char text[80];
	for (unsigned i = 0; i < n; i++) {
		bool known = ids[i] != 0 &&
			     (m->peers[ids[i]].addr[0] != '\0' ||
				     membership_role(&m->reg.committed, ids[i]) != ROLE_NONE);
		(void)snprintf(text, sizeof text, "ERR node %u is %s", ids[i],
			set_has(named, ids[i]) ? "named twice"
					       : "not known here: start it with --join first");
		if (!known || set_has(named, ids[i]))
			return refuse(why, why_bytes, -EINVAL, text);
		set_add(named, ids[i]);
	}
	return 0;
}

static int check_target(
	const struct members *m, const struct members_target *t, char *why, size_t why_bytes)
{
	unsigned n_replicas = t->has_replicas ? t->n_replicas : 0;
	struct node_set named = {0};
	char text[80];
	if (m->reg.committed.epoch == 0)
		return refuse(why, why_bytes, -EINVAL, "ERR this node knows no configuration yet");
	if (t->n_masters == 0)
		return refuse(why, why_bytes, -EINVAL,
			"ERR no master is named: a cluster needs at least one");
	if (t->n_masters > MASTERS_MAX || n_replicas > REPLICAS_MAX) {
		bool masters = t->n_masters > MASTERS_MAX;
		(void)snprintf(text, sizeof text, "ERR at most %d %s can be named, not %u",
			masters ? (int)MASTERS_MAX : (int)REPLICAS_MAX,
			masters ? "masters" : "replicas", masters ? t->n_masters : n_replicas);
		return refuse(why, why_bytes, -EINVAL, text);
	}
	int r = check_ids(m, t->masters, t->n_masters, &named, why, why_bytes);
	return r != 0 ? r : check_ids(m, t->replicas, n_replicas, &named, why, why_bytes);
}

int members_set(struct members *m, uint64_t now_ns, const struct members_target *t, char *why,
	size_t why_bytes)
{
	char text[MEMBERS_TEXT_MAX_BYTES] = "it is just ending";
	uint16_t step, steps;
	int r = check_target(m, t, why, why_bytes);
	if (r != 0)
		return r;
	/* Its result cannot be taken before the register is durable. */
	if (members_change(m, &step, &steps, text) || m->change.over) {
		(void)snprintf(
			why, why_bytes, "BUSY a change is being made by this node: %s", text);
		return -EBUSY;
	}
	m->change = (struct change){.target = *t};
	wait_begin(m, now_ns);
	members_go_on(m, now_ns);
	return 0;
}

static void wait_text(const struct members *m, char text[MEMBERS_TEXT_MAX_BYTES])
{
	const struct change *c = &m->change;
	struct step next = plan_next(m, &m->reg.committed, &c->target);
	struct obstacle o = plan_obstacle(m, &c->target, next, c->last);
	char step[STEP_TEXT_MAX_BYTES], what[OBSTACLE_TEXT_MAX_BYTES];
	plan_step_text(c->last.kind != STEP_NONE ? c->last : next, step);
	plan_obstacle_text(m, o, what);
	if (o.kind == OBSTACLE_NOT_IN_SYNC && o.node == c->last.node)
		(void)snprintf(text, MEMBERS_TEXT_MAX_BYTES, "%s: in sync %u of %u slots", step,
			m->peers[o.node].slots_in_sync, m->reg.committed.slots);
	else
		(void)snprintf(text, MEMBERS_TEXT_MAX_BYTES, "%s: %s", step, what);
}

bool members_change(const struct members *m, uint16_t *ret_step, uint16_t *ret_steps,
	char text[MEMBERS_TEXT_MAX_BYTES])
{
	const struct change *c = &m->change;
	char step[STEP_TEXT_MAX_BYTES];
	unsigned steps = c->done;
	if (c->phase == CHANGE_IDLE)
		return false;
	steps += plan_steps(m, &m->reg.committed, &c->target);
	*ret_steps = (uint16_t)(steps != 0 ? steps : 1);
	/* A step that is made is the present one until the next begins. */
	*ret_step = (uint16_t)(c->phase == CHANGE_WAIT && c->done != 0 ? c->done : c->done + 1);
	if (c->phase == CHANGE_WAIT) {
		wait_text(m, text);
		return true;
	}
	plan_step_text(c->step, step);
	if (c->phase == CHANGE_BACKOFF && m->rival != 0)
		(void)snprintf(text, MEMBERS_TEXT_MAX_BYTES, "%s: node %u is making a change, too",
			step, m->rival);
	else
		(void)snprintf(text, MEMBERS_TEXT_MAX_BYTES, "%s: waiting for a majority", step);
	return true;
}

bool members_take_result(struct members *m, char error[MEMBERS_ERROR_MAX_BYTES])
{
	/* That it is done is said when it is durable; that it failed, also while the disk does. */
	if (!m->change.over || (m->change.error[0] == '\0' && members_blocked(m)))
		return false;
	m->change.over = false;
	(void)snprintf(error, MEMBERS_ERROR_MAX_BYTES, "%s", m->change.error);
	return true;
}
