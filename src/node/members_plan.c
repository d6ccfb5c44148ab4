#include "node/members_internal.h"

#include <inttypes.h>
#include <stdio.h>

#include "base/check.h"
#include "base/mutant.h"

unsigned plan_majority(const struct membership *c)
{
	return c->n_masters / 2U + 1;
}

/* ---- steps ---- */

static bool listed(const uint8_t *ids, unsigned n, uint8_t node)
{
	for (unsigned i = 0; i < n; i++)
		if (ids[i] == node)
			return true;
	return false;
}

static enum role target_role(
	const struct membership *c, const struct members_target *t, uint8_t node)
{
	if (listed(t->masters, t->n_masters, node))
		return ROLE_MASTER;
	if (t->has_replicas)
		return listed(t->replicas, t->n_replicas, node) ? ROLE_REPLICA : ROLE_NONE;
	return membership_role(c, node) == ROLE_REPLICA ? ROLE_REPLICA : ROLE_NONE;
}

static struct step step_down(
	const struct membership *c, const struct members_target *t, uint8_t node)
{
	bool replica = target_role(c, t, node) == ROLE_REPLICA && c->n_replicas < REPLICAS_MAX;
	return (struct step){replica ? STEP_DEMOTE : STEP_REMOVE_MASTER, node};
}

static struct step next_replica(
	const struct members *m, const struct membership *c, const struct members_target *t)
{
	for (unsigned i = 0; i < c->n_replicas; i++)
		if (c->replicas[i].id != m->self &&
			target_role(c, t, c->replicas[i].id) == ROLE_NONE)
			return (struct step){STEP_REMOVE_REPLICA, c->replicas[i].id};
	for (unsigned i = 0; t->has_replicas && i < t->n_replicas; i++)
		if (membership_role(c, t->replicas[i]) == ROLE_NONE && c->n_replicas < REPLICAS_MAX)
			return (struct step){STEP_ADD_REPLICA, t->replicas[i]};
	return (struct step){STEP_NONE, 0};
}

static struct step next_master(const struct membership *c, const struct members_target *t)
{
	if (c->n_masters == MASTERS_MAX)
		return (struct step){STEP_NONE, 0};
	for (unsigned i = 0; i < t->n_masters; i++) {
		enum role role = membership_role(c, t->masters[i]);
		if (role != ROLE_MASTER)
			return (struct step){role == ROLE_REPLICA ? STEP_PROMOTE : STEP_ADD_MASTER,
				t->masters[i]};
	}
	return (struct step){STEP_NONE, 0};
}

/* The dead go first, they help nobody; no other master goes before those who come are in sync. The
 * node that makes the change goes last: outside, it is linked with fewer nodes. */
struct step plan_next(
	const struct members *m, const struct membership *c, const struct members_target *t)
{
	struct step s;
	uint8_t leaving = 0;
	for (unsigned i = 0; i < c->n_masters; i++) {
		uint8_t node = c->masters[i].id;
		if (target_role(c, t, node) == ROLE_MASTER)
			continue;
		if (!m->peers[node].linked && c->n_masters > 1)
			return step_down(c, t, node);
		if (leaving == 0 || leaving == m->self)
			leaving = node;
	}
	if ((s = next_replica(m, c, t)).kind != STEP_NONE ||
		(s = next_master(c, t)).kind != STEP_NONE)
		return s;
	if (leaving != 0)
		return step_down(c, t, leaving);
	if (membership_role(c, m->self) == ROLE_REPLICA && target_role(c, t, m->self) == ROLE_NONE)
		return (struct step){STEP_REMOVE_REPLICA, m->self};
	return s;
}

static const char *node_addr(const struct members *m, const struct membership *c, uint8_t node)
{
	const struct member *found = membership_find(c, node);
	return found != NULL ? found->addr : m->peers[node].addr;
}

static int step_apply(struct membership *c, struct step s, const char *addr)
{
	switch (s.kind) {
	case STEP_ADD_MASTER:
	case STEP_PROMOTE:
		return membership_add(c, ROLE_MASTER, s.node, addr);
	case STEP_DEMOTE:
	case STEP_ADD_REPLICA:
		return membership_add(c, ROLE_REPLICA, s.node, addr);
	case STEP_REMOVE_MASTER:
	case STEP_REMOVE_REPLICA:
		return membership_remove(c, s.node);
	case STEP_NONE:
		break;
	}
	CHECK(!"no step");
}

void plan_apply(const struct members *m, struct membership *c, struct step s)
{
	int r = step_apply(c, s, node_addr(m, c, s.node));
	CHECK(r == 0);
}

unsigned plan_steps(
	const struct members *m, const struct membership *c, const struct members_target *t)
{
	struct membership at = *c;
	unsigned n = 0;
	for (struct step s; (s = plan_next(m, &at, t)).kind != STEP_NONE; n++)
		plan_apply(m, &at, s);
	return n;
}

/* The step from @c to @next, if there is one node that changed. */
static struct step step_between(
	const struct membership *c, const struct membership *next, const struct member **ret)
{
	struct step s = {STEP_NONE, 0};
	for (unsigned node = 1; node < NODES; node++) {
		enum role before = membership_role(c, (uint8_t)node);
		enum role after = membership_role(next, (uint8_t)node);
		if (before == after)
			continue;
		if (s.kind != STEP_NONE)
			return (struct step){STEP_NONE, 0};
		s.node = (uint8_t)node;
		*ret = membership_find(next, s.node);
		if (after == ROLE_MASTER)
			s.kind = before == ROLE_REPLICA ? STEP_PROMOTE : STEP_ADD_MASTER;
		else if (after == ROLE_REPLICA)
			s.kind = before == ROLE_MASTER ? STEP_DEMOTE : STEP_ADD_REPLICA;
		else
			s.kind = before == ROLE_MASTER ? STEP_REMOVE_MASTER : STEP_REMOVE_REPLICA;
	}
	return s;
}

bool plan_follows(const struct membership *c, const struct membership *next)
{
	struct membership made = *c;
	const struct member *entry = NULL;
	struct step s = step_between(c, next, &entry);
	if (s.kind == STEP_NONE || step_apply(&made, s, entry != NULL ? entry->addr : "") != 0)
		return false;
	return made.epoch == next->epoch && made.masters_epoch == next->masters_epoch &&
	       made.joined == next->joined && made.departed == next->departed &&
	       membership_same(&made, next);
}

/* ---- what is in the way ---- */

static struct obstacle node_obstacle(const struct members *m, uint8_t node)
{
	const struct membership *c = &m->reg.committed;
	const struct members_peer *p = &m->peers[node];
	if (!p->linked)
		return (struct obstacle){OBSTACLE_NOT_LINKED, node};
	if (p->epoch != c->epoch)
		return (struct obstacle){OBSTACLE_BEHIND, node};
	if (p->synced_epoch != c->masters_epoch)
		return (struct obstacle){OBSTACLE_NOT_IN_SYNC, node};
	return (struct obstacle){OBSTACLE_NONE, 0};
}

/* The gate (protocol.md 2.10): what the last change of masters had to bring over is with a majority
 * of them. That they know the very configuration lets the forgetful rest on it, too (members.c). */
static struct obstacle gate(const struct members *m)
{
	const struct membership *c = &m->reg.committed;
	struct obstacle first = {OBSTACLE_NONE, 0};
	unsigned linked = 0, in_sync = 0;
	for (unsigned i = 0; i < c->n_masters; i++) {
		struct obstacle o = node_obstacle(m, c->masters[i].id);
		linked += m->peers[c->masters[i].id].linked;
		in_sync += o.kind == OBSTACLE_NONE;
		if (first.kind == OBSTACLE_NONE || first.kind == OBSTACLE_NOT_LINKED)
			first = o.kind != OBSTACLE_NONE ? o : first;
	}
	if (linked < plan_majority(c))
		return (struct obstacle){OBSTACLE_TOO_FEW, 0};
	return in_sync >= plan_majority(c) ? (struct obstacle){OBSTACLE_NONE, 0} : first;
}

/* A replica that is not there is not waited for: nothing depends on it. */
static struct obstacle replica_obstacle(const struct members *m)
{
	const struct membership *c = &m->reg.committed;
	for (unsigned i = 0; i < c->n_replicas; i++) {
		struct obstacle o = node_obstacle(m, c->replicas[i].id);
		if (o.kind != OBSTACLE_NONE && o.kind != OBSTACLE_NOT_LINKED)
			return o;
	}
	return (struct obstacle){OBSTACLE_NONE, 0};
}

/* Those who stay: all of them, or those that are linked. */
static struct obstacle staying(
	const struct members *m, const struct members_target *t, bool all, struct step last)
{
	const struct membership *c = &m->reg.committed;
	for (unsigned i = 0; i < c->n_masters; i++) {
		uint8_t node = c->masters[i].id;
		bool came = node == last.node;
		if (target_role(c, t, node) != ROLE_MASTER)
			continue;
		struct obstacle o = node_obstacle(m, node);
		if (o.kind == OBSTACLE_NONE && all && m->peers[node].moved_epoch != c->epoch)
			o = (struct obstacle){OBSTACLE_NOT_MOVED, node};
		if (o.kind == OBSTACLE_NOT_LINKED && !all && !came)
			continue;
		if (o.kind != OBSTACLE_NONE)
			return o;
	}
	return (struct obstacle){OBSTACLE_NONE, 0};
}

struct obstacle plan_obstacle(
	const struct members *m, const struct members_target *t, struct step s, struct step last)
{
	bool comes =
		s.kind == STEP_ADD_MASTER || s.kind == STEP_PROMOTE || s.kind == STEP_ADD_REPLICA;
	bool goes = s.kind == STEP_REMOVE_MASTER || s.kind == STEP_DEMOTE;
	struct obstacle o = gate(m);
	if (MUTANT(GATE_OFF) && o.kind != OBSTACLE_TOO_FEW)
		return (struct obstacle){OBSTACLE_NONE, 0};
	if (o.kind != OBSTACLE_NONE)
		return o;
	if (s.kind == STEP_NONE) {
		o = staying(m, t, true, last);
		return o.kind != OBSTACLE_NONE ? o : replica_obstacle(m);
	}
	if (s.kind == STEP_ADD_MASTER || s.kind == STEP_PROMOTE ||
		(goes && m->peers[s.node].linked))
		o = staying(m, t, false, last);
	if (o.kind != OBSTACLE_NONE || !comes)
		return o;
	/* A master that is not there would only be one more to make a majority of; and it may be
	 * needed for this very change. */
	if (!m->peers[s.node].linked)
		return (struct obstacle){OBSTACLE_NOT_LINKED, s.node};
	if (m->peers[s.node].epoch != m->reg.committed.epoch)
		return (struct obstacle){OBSTACLE_BEHIND, s.node};
	return o;
}

/* ---- texts ---- */

void plan_step_text(struct step s, char text[STEP_TEXT_MAX_BYTES])
{
	static const char *const names[] = {
		[STEP_NONE] = "nothing to change",
		[STEP_ADD_MASTER] = "add master",
		[STEP_PROMOTE] = "promote replica",
		[STEP_REMOVE_MASTER] = "remove master",
		[STEP_DEMOTE] = "demote master",
		[STEP_ADD_REPLICA] = "add replica",
		[STEP_REMOVE_REPLICA] = "remove replica",
	};
	if (s.kind == STEP_NONE)
		(void)snprintf(text, STEP_TEXT_MAX_BYTES, "%s", names[s.kind]);
	else
		(void)snprintf(text, STEP_TEXT_MAX_BYTES, "%s %u", names[s.kind], s.node);
}

static const char *role_name(const struct members *m, uint8_t node)
{
	switch (membership_role(&m->reg.committed, node)) {
	case ROLE_MASTER:
		return "master";
	case ROLE_REPLICA:
		return "replica";
	case ROLE_NONE:
		break;
	}
	return "node";
}

void plan_obstacle_text(
	const struct members *m, struct obstacle o, char text[OBSTACLE_TEXT_MAX_BYTES])
{
	const struct membership *c = &m->reg.committed;
	const char *role = role_name(m, o.node);
	unsigned linked = 0;
	switch (o.kind) {
	case OBSTACLE_NONE:
		(void)snprintf(text, OBSTACLE_TEXT_MAX_BYTES, "all is ready");
		return;
	case OBSTACLE_TOO_FEW:
		for (unsigned i = 0; i < c->n_masters; i++)
			linked += m->peers[c->masters[i].id].linked;
		(void)snprintf(text, OBSTACLE_TEXT_MAX_BYTES,
			"%u of %u masters are linked here, %u are needed", linked, c->n_masters,
			plan_majority(c));
		return;
	case OBSTACLE_NOT_LINKED:
		(void)snprintf(
			text, OBSTACLE_TEXT_MAX_BYTES, "%s %u is not linked here", role, o.node);
		return;
	case OBSTACLE_BEHIND:
		(void)snprintf(text, OBSTACLE_TEXT_MAX_BYTES,
			"%s %u does not know epoch %" PRIu64 " yet", role, o.node, c->epoch);
		return;
	case OBSTACLE_NOT_IN_SYNC:
		(void)snprintf(text, OBSTACLE_TEXT_MAX_BYTES,
			"%s %u is in sync with %u of %u slots", role, o.node,
			m->peers[o.node].slots_in_sync, c->slots);
		return;
	case OBSTACLE_NOT_MOVED:
		(void)snprintf(text, OBSTACLE_TEXT_MAX_BYTES,
			"%s %u does not act by epoch %" PRIu64 " yet", role, o.node, c->epoch);
		return;
	}
}

void plan_left_text(const struct members *m, const struct membership *c,
	const struct members_target *t, char *text, size_t bytes)
{
	enum { TAIL_BYTES = sizeof ", 99 more" };
	struct membership at = *c;
	size_t len = 0;
	unsigned more = 0;
	CHECK(bytes > STEP_TEXT_MAX_BYTES + TAIL_BYTES);
	text[0] = '\0';
	for (struct step s; (s = plan_next(m, &at, t)).kind != STEP_NONE;) {
		char step[STEP_TEXT_MAX_BYTES];
		plan_apply(m, &at, s);
		plan_step_text(s, step);
		/* None after one that is left out. */
		if (more != 0 || len + STEP_TEXT_MAX_BYTES + TAIL_BYTES >= bytes)
			more++;
		else
			len += (size_t)snprintf(
				text + len, bytes - len, "%s%s", len != 0 ? ", " : "", step);
	}
	if (more != 0)
		(void)snprintf(text + len, bytes - len, ", %u more", more);
	else if (len == 0)
		(void)snprintf(text, bytes, "nothing but that");
}
