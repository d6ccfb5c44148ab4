/* The register of the configuration (members.h) carried out: its writes, its messages, and what the
 * shards and people are told when another configuration comes into force. */
#include "node/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/check.h"
#include "base/log.h"

enum { WRITES_PER_TURN = 16 };

_Static_assert(sizeof((struct mail_setnodes_done){0}.error) == MEMBERS_ERROR_MAX_BYTES, "fits");
_Static_assert(sizeof((struct mail_change){0}.text) == MEMBERS_TEXT_MAX_BYTES, "fits");

int configuration_init(struct node *n, const struct clocks *now)
{
	const struct members_config cfg = {
		.self = n->self.node,
		.forgetful = n->forgetful,
		.reg = n->state.reg,
		.attempt_ms = n->cfg.attempt_ms,
		.seed = n->seed,
	};
	n->members = calloc(1, members_bytes());
	if (n->members == NULL)
		return -ENOMEM;
	members_init(n->members, &cfg, now->mclk);
	/* So that SETNODES can name the very node that it is sent to. */
	if (!config_wildcard(n->self.peer_addr))
		members_link(n->members, now->mclk, n->self.node, true, n->self.peer_addr);
	for (unsigned i = 0; i < n->cfg.threads; i++)
		n->moved[i] = n->self.config.epoch;
	n->config_at = now->mclk;
	return 0;
}

/* ---- what people are told ---- */

enum { IDS_TEXT_BYTES = REPLICAS_MAX * 4 + 8 };

static void list_ids(const uint8_t *ids, unsigned n, char ret[IDS_TEXT_BYTES])
{
	size_t at = 0;
	(void)snprintf(ret, IDS_TEXT_BYTES, "%s", n == 0 ? "none" : "");
	for (unsigned i = 0; i < n && at < IDS_TEXT_BYTES; i++) {
		int k = snprintf(ret + at, IDS_TEXT_BYTES - at, "%s%u", i == 0 ? "" : ",", ids[i]);
		at += k < 0 ? 0 : (size_t)k;
	}
}

static void list_members(const struct member *members, unsigned n, char ret[IDS_TEXT_BYTES])
{
	uint8_t ids[REPLICAS_MAX];
	for (unsigned i = 0; i < n; i++)
		ids[i] = members[i].id;
	list_ids(ids, n, ret);
}

void configuration_log(const struct membership *m, const char *what)
{
	char masters[IDS_TEXT_BYTES];
	char replicas[IDS_TEXT_BYTES];
	list_members(m->masters, m->n_masters, masters);
	list_members(m->replicas, m->n_replicas, replicas);
	log_info("configuration %llu %s: masters %s (quorum %u), replicas %s",
		(unsigned long long)m->epoch, what, masters, m->n_masters / 2 + 1, replicas);
	if (m->n_masters % 2 == 0)
		log_warn("%u masters tolerate no more failures than %u would: an odd number is "
			 "better",
			m->n_masters, m->n_masters - 1);
}

static void log_roles(const struct membership *was, const struct membership *m)
{
	static const char *const texts[3][3] = {
		[ROLE_NONE] = {[ROLE_MASTER] = "has joined the masters",
			[ROLE_REPLICA] = "is a replica now"},
		[ROLE_MASTER] = {[ROLE_NONE] = "has departed: it was a master",
			[ROLE_REPLICA] = "has departed from the masters: it is a replica now"},
		[ROLE_REPLICA] = {[ROLE_NONE] = "has departed: it was a replica",
			[ROLE_MASTER] = "was promoted from a replica to a master"},
	};
	for (unsigned id = 1; id <= NODE_ID_MAX; id++) {
		enum role from = membership_role(was, (uint8_t)id);
		enum role to = membership_role(m, (uint8_t)id);
		if (from != to)
			log_info("node %u %s", id, texts[from][to]);
	}
}

/* ---- another configuration ---- */

static void adopt(struct node *n, const struct clocks *now)
{
	const struct membership *m = members_current(n->members);
	if (m->epoch == n->self.config.epoch)
		return;
	struct membership was = n->self.config;
	n->self.config = *m;
	n->config_at = now->mclk;
	configuration_log(m, "is in force");
	log_roles(&was, m);
	control_tell_all(n, MAIL_CONFIG, m, sizeof *m);
	peering_retarget(n->peering);
	voting_role(n, &was, now);
}

/* All shards act by it. */
static uint64_t moved_epoch(const struct node *n)
{
	uint64_t epoch = n->moved[0];
	for (unsigned i = 1; i < n->cfg.threads; i++)
		epoch = n->moved[i] < epoch ? n->moved[i] : epoch;
	return epoch;
}

static void report(struct node *n, const struct clocks *now)
{
	uint64_t moved = moved_epoch(n);
	/* One that is still learning what it has forgotten counts when it votes everywhere. */
	bool tells = n->self.status == NODE_ACTIVE || n->self.status == NODE_REPLICA;
	uint64_t synced = tells ? voting_synced_epoch(n) : 0;
	uint64_t change = n->self.config.masters_epoch;
	members_slots(n->members, n->self.node, voting_slots_in_sync(n));
	if (moved == n->moved_told && synced == n->synced_told)
		return;
	n->moved_told = moved;
	n->synced_told = synced;
	members_progress(n->members, now->mclk, moved, synced);
	if (synced != change || n->in_sync_said == change)
		return;
	n->in_sync_said = change;
	if (n->self.config.joined != 0 || n->self.config.departed != 0)
		log_info("in sync with the masters of configuration %llu, %.1f s after it came "
			 "into force here",
			(unsigned long long)change,
			(double)(now->mclk - n->config_at) / (double)SEC);
}

static void tell_settled(struct node *n)
{
	uint64_t change = n->self.config.masters_epoch;
	if (n->settled_told == change || !members_settled(n->members))
		return;
	n->settled_told = change;
	control_tell_all(n, MAIL_SETTLED, &change, sizeof change);
	if (n->self.config.joined != 0 || n->self.config.departed != 0)
		log_info("all masters of configuration %llu are in sync",
			(unsigned long long)change);
}

/* ---- peers ---- */

static void tell_peer(struct node *n, uint8_t node)
{
	const struct members_peer *p = members_peer(n->members, node);
	struct mail_peer_epoch *told = &n->peers[node].told;
	if (told->inc == n->peers[node].inc && told->epoch == p->moved_epoch &&
		told->synced_epoch == p->synced_epoch)
		return;
	*told = (struct mail_peer_epoch){.inc = n->peers[node].inc,
		.epoch = p->moved_epoch,
		.synced_epoch = p->synced_epoch,
		.node = node};
	log_debug("node %u acts by configuration %llu, in sync with masters of %llu", node,
		(unsigned long long)p->moved_epoch, (unsigned long long)p->synced_epoch);
	control_tell_all(n, MAIL_PEER_EPOCH, told, sizeof *told);
}

void configuration_address(struct node *n, uint8_t node, const char *addr, uint8_t misnamed)
{
	n->peers[node].misnamed = misnamed;
	(void)snprintf(n->peers[node].addr, sizeof n->peers[node].addr, "%s", addr);
}

/* Messages travel on link 0. */
void configuration_link(
	struct node *n, const struct mail_link *link, bool up, const struct clocks *now)
{
	uint64_t *inc = &n->peers[link->node].inc;
	const char *addr = n->peers[link->node].addr;
	bool same = *inc == link->peer_inc;
	if (link->link_index != 0 || up == same)
		return;
	if (*inc != 0)
		members_link(n->members, now->mclk, link->node, false, NULL);
	if (up)
		members_link(
			n->members, now->mclk, link->node, true, addr[0] == '\0' ? NULL : addr);
	*inc = up ? link->peer_inc : 0;
	tell_peer(n, link->node);
}

void configuration_learn(struct node *n, const struct membership *m, const struct clocks *now)
{
	members_learn(n->members, now->mclk, m);
}

static bool same_constants(const struct membership *a, const struct membership *b)
{
	return a->slots == b->slots && a->max_lease_ms == b->max_lease_ms &&
	       a->attempt_ms == b->attempt_ms && a->drift_ppm == b->drift_ppm;
}

static void complain(struct node *n, uint8_t from, const char *what, const struct clocks *now)
{
	if (n->bad_said_at != 0 && now->mclk - n->bad_said_at < REPORT_MS * MS)
		return;
	n->bad_said_at = now->mclk;
	log_warn("node %u sent a message about the configuration that %s: ignored", from, what);
}

static void take_message(
	struct node *n, const uint8_t *body, size_t bytes, const struct clocks *now)
{
	struct mail_config_msg head;
	struct config_msg msg;
	CHECK(bytes >= sizeof head);
	memcpy(&head, body, sizeof head);
	if (head.inc != n->peers[head.node].inc)
		return;
	if (config_msg_decode(bytes_of(body + sizeof head, bytes - sizeof head), &msg) != 0) {
		complain(n, head.node, "is malformed", now);
		return;
	}
	/* No change of the configuration changes them, and this node could not follow. */
	if (msg.config.epoch != 0 && !same_constants(&msg.config, &n->self.config)) {
		complain(n, head.node, "has other constants (--slots, ...)", now);
		return;
	}
	members_receive(n->members, now->mclk, head.node, &msg);
	members_slots(n->members, head.node, head.slots_in_sync);
	tell_peer(n, head.node);
}

static void send_messages(struct node *n)
{
	struct buf b;
	struct config_msg msg;
	struct mail_config_msg head = {0};
	buf_init(&b, CONFIG_MSG_MAX_BYTES);
	while (members_take_message(n->members, &head.node, &msg)) {
		b.len = 0;
		int r = config_msg_encode(&b, &msg);
		CHECK(r == 0);
		uint8_t *to = mailbox_put(n->mail, 0, MAIL_CONFIG_OUT, sizeof head + b.len);
		memcpy(to, &head, sizeof head);
		memcpy(to + sizeof head, b.data, b.len);
	}
	buf_fini(&b);
}

/* ---- SETNODES ---- */

static void answer(struct node *n, unsigned shard, uint64_t tag, const char *error)
{
	struct mail_setnodes_done m = {.tag = tag};
	(void)snprintf(m.error, sizeof m.error, "%s", error);
	memcpy(mailbox_put(n->mail, shard, MAIL_SETNODES_DONE, sizeof m), &m, sizeof m);
}

/* Everybody would dial the addresses that this node has, and they may be good for nobody else
 * ("localhost"). -EINVAL: refused. */
static int check_names(const struct node *n, char *why, size_t why_bytes)
{
	for (unsigned node = 1; node <= NODE_ID_MAX; node++) {
		uint8_t other = n->peers[node].misnamed;
		if (n->self.config.epoch != 1 || n->peers[node].inc == 0 || other == 0)
			continue;
		(void)snprintf(why, why_bytes,
			"ERR node %u knows node %u by another address than %s: start every node "
			"with the same --masters first, one after the other",
			node, other, membership_find(&n->self.config, other)->addr);
		return -EINVAL;
	}
	return 0;
}

static void begin_change(
	struct node *n, unsigned shard, const struct mail_setnodes *q, const struct clocks *now)
{
	struct members_target t = {.n_masters = q->n_masters,
		.n_replicas = q->n_replicas,
		.has_replicas = q->has_replicas};
	char why[MEMBERS_ERROR_MAX_BYTES] = "";
	memcpy(t.masters, q->masters, sizeof t.masters);
	memcpy(t.replicas, q->replicas, sizeof t.replicas);
	if (check_names(n, why, sizeof why) != 0 ||
		members_set(n->members, now->mclk, &t, why, sizeof why) != 0) {
		answer(n, shard, q->tag, why);
		return;
	}
	char masters[IDS_TEXT_BYTES];
	char replicas[IDS_TEXT_BYTES];
	list_ids(q->masters, q->n_masters, masters);
	list_ids(q->replicas, q->n_replicas, replicas);
	log_info("SETNODES: masters %s, replicas %s", masters,
		q->has_replicas ? replicas : "as they are");
	n->change_of.shard = shard;
	n->change_of.tag = q->tag;
}

static void end_change(struct node *n)
{
	char error[MEMBERS_ERROR_MAX_BYTES] = "";
	if (!members_take_result(n->members, error))
		return;
	log_info("SETNODES: %s", error[0] == '\0' ? "done" : error);
	answer(n, n->change_of.shard, n->change_of.tag, error);
}

static void tell_change(struct node *n)
{
	struct mail_change m;
	memset(&m, 0, sizeof m);
	if (!members_change(n->members, &m.step, &m.steps, m.text))
		memset(&m, 0, sizeof m);
	if (memcmp(&m, &n->change_told, sizeof m) == 0)
		return;
	if (m.step != n->change_told.step && m.steps != 0)
		log_info("SETNODES: step %u of %u: %s", m.step, m.steps, m.text);
	n->change_told = m;
	control_tell_all(n, MAIL_CHANGE, &m, sizeof m);
}

/* ---- the control loop's side ---- */

bool configuration_mail(struct node *n, unsigned from, uint16_t type, const void *body,
	size_t bytes, const struct clocks *now)
{
	if (type == MAIL_CONFIG_IN) {
		take_message(n, body, bytes, now);
	} else if (type == MAIL_CONFIG_DONE) {
		CHECK(bytes == sizeof n->moved[from] && from < n->cfg.threads);
		memcpy(&n->moved[from], body, bytes);
		n->progress[from].in_sync = false; /* that was about the one before */
	} else if (type == MAIL_SETNODES) {
		struct mail_setnodes q;
		CHECK(bytes == sizeof q);
		memcpy(&q, body, sizeof q);
		begin_change(n, from, &q, now);
	} else {
		return false;
	}
	return true;
}

bool configuration_pending(const struct node *n)
{
	struct members_register reg;
	return members_wants_write(n->members, &reg);
}

void configuration_serve(struct node *n, const struct clocks *now)
{
	struct members_register reg;
	report(n, now);
	if (members_due_ns(n->members) <= now->mclk)
		members_tick(n->members, now->mclk);
	for (unsigned i = 0; i < WRITES_PER_TURN && members_wants_write(n->members, &reg); i++) {
		if (!durable_register(n, &reg, now->mclk))
			break;
		members_written(n->members, now->mclk);
		adopt(n, now);
	}
	send_messages(n);
	tell_settled(n);
	tell_change(n);
	end_change(n);
}

uint64_t configuration_wait_ns(const struct node *n, const struct clocks *now)
{
	uint64_t at = configuration_pending(n) ? n->retry_at : members_due_ns(n->members);
	return at == UINT64_MAX ? at : at > now->mclk ? at - now->mclk : 0;
}
