#include "node/members_internal.h"

#include <stdio.h>

#include "base/check.h"
#include "base/mutant.h"

enum { NEWS_INTERVAL_MS = 500 };

/* Promised durably by who abstains: as if to a proposer that never comes. */
static const struct change_ballot abstention = {BALLOT_MAX, NODE_ID_MAX};
/* And knows by now which decisions those are: this one, and no later one. */
static const struct change_ballot last_abstention = {BALLOT_MAX, NODE_ID_MAX - 1};

size_t members_bytes(void)
{
	return sizeof(struct members);
}

/* Who leaves can be named again. */
static void note_addrs(struct members *m)
{
	const struct membership *c = &m->reg.committed;
	for (unsigned i = 0; i < (unsigned)c->n_masters + c->n_replicas; i++) {
		const struct member *e =
			i < c->n_masters ? &c->masters[i] : &c->replicas[i - c->n_masters];
		if (m->peers[e->id].addr[0] == '\0')
			(void)snprintf(
				m->peers[e->id].addr, sizeof m->peers[e->id].addr, "%s", e->addr);
	}
}

void members_abstain(struct members_register *reg)
{
	reg->promised = abstention;
}

static void begin_to_abstain(struct members *m)
{
	m->forgetful = true;
	if (ballot_compare(m->reg.promised, abstention) == 0)
		return;
	members_abstain(&m->reg);
	m->dirty = true;
}

void members_init(struct members *m, const struct members_config *cfg, uint64_t now_ns)
{
	CHECK(cfg->self != 0 && cfg->attempt_ms != 0);
	*m = (struct members){
		.self = cfg->self,
		.attempt_ms = cfg->attempt_ms,
		.reg = cfg->reg,
		.current = cfg->reg.committed,
		.news_ns = now_ns,
	};
	prng_seed(&m->rng, cfg->seed);
	m->peers[m->self].linked = true;
	m->peers[m->self].epoch = m->current.epoch;
	/* An earlier life may not have got to know what it needs, see remember(). */
	m->forgetful = cfg->forgetful || ballot_compare(m->reg.promised, abstention) == 0;
	if (cfg->forgetful)
		begin_to_abstain(m);
	members_see_ballot(m, m->reg.promised);
	members_see_ballot(m, m->reg.accepted_at);
	note_addrs(m);
	members_go_on(m, now_ns);
}

int ballot_compare(struct change_ballot a, struct change_ballot b)
{
	if (a.n != b.n)
		return a.n < b.n ? -1 : 1;
	return (int)a.node - (int)b.node;
}

bool members_abstains(const struct members *m)
{
	return m->reg.promised.n == BALLOT_MAX;
}

void members_see_ballot(struct members *m, struct change_ballot b)
{
	if (b.n == BALLOT_MAX)
		return;
	if (b.n > m->seen_n)
		m->seen_n = b.n;
	if (b.node != 0 && b.node != m->self)
		m->rival = b.node;
}

/* ---- learner ---- */

static void tell_all(struct members *m, uint64_t now_ns)
{
	for (unsigned node = 1; node < NODES; node++)
		m->out[node].news = m->peers[node].linked && node != m->self;
	m->news_ns = now_ns + NEWS_INTERVAL_MS * MS_NS;
}

/* Nothing follows a configuration of this node alone without its vote: that was of a former life,
 * which it does not know. */
static bool is_news_of_its_own(const struct members *m, const struct membership *config)
{
	const struct membership *c = &m->reg.committed;
	bool alone = c->n_masters == 1 && c->masters[0].id == m->self;
	return alone && (m->reg.accepted.epoch != config->epoch ||
				!membership_same(&m->reg.accepted, config));
}

void members_adopt(struct members *m, uint64_t now_ns, const struct membership *config, bool mine)
{
	struct membership *c = &m->reg.committed;
	uint8_t by = 0;
	if (config->epoch <= c->epoch)
		return;
	if (config->epoch == c->epoch + 1)
		by = m->reg.accepted.epoch != 0 && membership_same(&m->reg.accepted, config)
			     ? m->reg.accepted_at.node
			     : m->rival;
	m->forgetful |= is_news_of_its_own(m, config);
	change_committed(m, now_ns, config, mine, by != m->self ? by : 0);
	if (config->masters_epoch != c->masters_epoch)
		for (unsigned node = 1; node < NODES; node++)
			m->peers[node].slots_in_sync = 0;
	/* Ballots are those of one change: all that was said about the last one is void. */
	m->reg = (struct members_register){.committed = *config};
	if (m->forgetful)
		members_abstain(&m->reg);
	m->dirty = true;
	m->seen_n = 0;
	m->rival = 0;
	m->proposed = false;
	for (unsigned node = 1; node < NODES; node++)
		m->out[node] = (struct outgoing){0};
	note_addrs(m);
	tell_all(m, now_ns);
}

/* ---- acceptor ---- */

/* A former life of this node may have voted in the change away from an epoch that it knew, and in
 * no later one: the gate had let that change begin, so a majority of the masters knew that epoch.
 * Once a majority without this node has told what it knows, every such epoch is known here, and
 * changes away from later ones are open to this node again. */
static void remember(struct members *m)
{
	const struct membership *c = &m->reg.committed;
	unsigned heard = 0;
	if (!m->forgetful)
		return;
	for (unsigned i = 0; i < c->n_masters; i++) {
		uint64_t told = m->peers[c->masters[i].id].epoch;
		heard += c->masters[i].id != m->self && told != 0 && told <= c->epoch;
	}
	m->forgetful = heard < plan_majority(c);
	if (m->forgetful || !members_abstains(m))
		return;
	m->reg.promised = last_abstention;
	m->dirty = true;
}

/* Who abstains can still be one of those who have to know the next configuration: that decides
 * nothing. */
static bool is_acceptor(const struct members *m, const struct membership *next)
{
	const struct membership *c = &m->reg.committed;
	return (membership_role(c, m->self) == ROLE_MASTER && !members_abstains(m)) ||
	       (next != NULL && membership_role(next, m->self) == ROLE_MASTER);
}

static struct change_ballot lowest_accepted(const struct members *m)
{
	return members_abstains(m) ? m->reg.accepted_at : m->reg.promised;
}

static void asked(struct members *m, uint8_t from, const struct config_msg *msg)
{
	struct members_register *r = &m->reg;
	bool accept = msg->kind == CONFIG_ACCEPT;
	members_see_ballot(m, msg->b);
	if (accept && !plan_follows(&r->committed, &msg->config))
		return;
	if (!is_acceptor(m, accept ? &msg->config : NULL))
		return;
	m->out[from].answer = msg->kind;
	m->out[from].b = msg->b;
	if (ballot_compare(msg->b, lowest_accepted(m)) < 0)
		return; /* make_answer() refuses */
	if (!members_abstains(m) && ballot_compare(msg->b, r->promised) > 0) {
		r->promised = msg->b;
		m->dirty = !MUTANT(CONFIG_VOLATILE);
	}
	if (accept && ballot_compare(msg->b, r->accepted_at) != 0) {
		r->accepted_at = msg->b;
		r->accepted = msg->config;
		m->dirty = !MUTANT(CONFIG_VOLATILE);
	}
}

/* By what is known, durably, when it is sent: a promise that was overtaken by a higher one is
 * refused. */
static void make_answer(const struct members *m, const struct outgoing *o, struct config_msg *ret)
{
	const struct members_register *r = &m->reg;
	ret->b = o->b;
	if (o->answer == CONFIG_ACCEPT && ballot_compare(o->b, r->accepted_at) == 0) {
		ret->kind = CONFIG_ACCEPTED;
		if (!members_abstains(m))
			ret->accepted_at = o->b;
	} else if (o->answer == CONFIG_PREPARE && ballot_compare(o->b, r->promised) == 0) {
		ret->kind = CONFIG_PROMISE;
		ret->accepted_at = r->accepted_at;
		ret->config = r->accepted;
	} else {
		ret->kind = CONFIG_REFUSE;
		ret->b = lowest_accepted(m);
	}
}

/* ---- messages out ---- */

static void make_request(const struct members *m, struct config_msg *ret)
{
	const struct change *c = &m->change;
	ret->kind = c->phase == CHANGE_ACCEPT ? CONFIG_ACCEPT : CONFIG_PREPARE;
	ret->b = c->b;
	if (c->phase == CHANGE_ACCEPT)
		ret->config = c->value;
}

static bool take_from(struct members *m, uint8_t node, struct config_msg *ret)
{
	struct outgoing *o = &m->out[node];
	const struct members_peer *self = &m->peers[m->self];
	*ret = (struct config_msg){
		.epoch = m->reg.committed.epoch,
		.moved_epoch = self->moved_epoch,
		.synced_epoch = self->synced_epoch,
	};
	/* First the news: who is behind could not answer a request. */
	if (o->news) {
		o->news = false;
		ret->kind = CONFIG_NEWS;
		ret->config = m->reg.committed;
		return ret->epoch != 0;
	}
	if (o->answer != 0) {
		make_answer(m, o, ret);
		o->answer = 0;
		return true;
	}
	if (!o->request)
		return false;
	o->request = false;
	make_request(m, ret);
	return change_asks(m, node);
}

bool members_take_message(struct members *m, uint8_t *ret_to, struct config_msg *ret)
{
	if (members_blocked(m))
		return false;
	for (unsigned node = 1; node < NODES; node++) {
		const struct outgoing *o = &m->out[node];
		if (node == m->self)
			continue;
		while (o->news || o->request || o->answer != 0) {
			if (!take_from(m, (uint8_t)node, ret))
				continue;
			*ret_to = (uint8_t)node;
			return true;
		}
	}
	return false;
}

/* ---- messages in ---- */

static void handle(struct members *m, uint64_t now_ns, uint8_t from, const struct config_msg *msg)
{
	switch (msg->kind) {
	case CONFIG_PREPARE:
	case CONFIG_ACCEPT:
		asked(m, from, msg);
		return;
	case CONFIG_PROMISE:
		change_promise(m, now_ns, from, msg);
		return;
	case CONFIG_ACCEPTED:
		change_accepted(m, now_ns, from, msg);
		return;
	case CONFIG_REFUSE:
		members_see_ballot(m, msg->b);
		change_refused(m, now_ns, msg);
		return;
	default:
		return;
	}
}

/* This node as an acceptor answers itself as a proposer through the same door as everybody. */
static bool answer_self(struct members *m, uint64_t now_ns)
{
	struct config_msg msg;
	if (members_blocked(m) || !take_from(m, m->self, &msg))
		return false;
	handle(m, now_ns, m->self, &msg);
	return true;
}

void members_go_on(struct members *m, uint64_t now_ns)
{
	remember(m);
	while (answer_self(m, now_ns) || change_advance(m, now_ns))
		;
	if (m->dirty && !m->writing) {
		m->pending = m->reg;
		m->dirty = false;
		m->writing = true;
	}
}

static void hear_progress(struct members *m, uint8_t from, const struct config_msg *msg)
{
	struct members_peer *p = &m->peers[from];
	if (msg->epoch < p->epoch)
		return; /* overtaken */
	p->epoch = msg->epoch;
	p->moved_epoch = msg->moved_epoch;
	p->synced_epoch = msg->synced_epoch;
	if (msg->synced_epoch > m->merged[from])
		m->merged[from] = msg->synced_epoch;
}

void members_receive(struct members *m, uint64_t now_ns, uint8_t from, const struct config_msg *msg)
{
	bool news = msg->kind == CONFIG_NEWS;
	if (from == 0 || from == m->self || msg->epoch == 0 || !m->peers[from].linked)
		return;
	if (news && msg->config.epoch != msg->epoch)
		return;
	hear_progress(m, from, msg);
	if (news)
		members_adopt(m, now_ns, &msg->config, false);
	/* News bring news from whoever knows more. */
	if (news ? msg->epoch < m->reg.committed.epoch : msg->epoch != m->reg.committed.epoch)
		m->out[from].news = true;
	else if (!news)
		handle(m, now_ns, from, msg);
	members_go_on(m, now_ns);
}

/* ---- what happens ---- */

void members_link(struct members *m, uint64_t now_ns, uint8_t node, bool up, const char *addr)
{
	struct members_peer *p = &m->peers[node];
	if (node == 0)
		return;
	if (addr != NULL && member_addr_valid(bytes_str(addr)))
		(void)snprintf(p->addr, sizeof p->addr, "%s", addr);
	if (node == m->self)
		return;
	p->linked = up;
	p->epoch = p->moved_epoch = p->synced_epoch = 0;
	p->slots_in_sync = 0;
	m->out[node] = (struct outgoing){.news = up, .request = up && change_asks(m, node)};
	members_go_on(m, now_ns);
}

void members_learn(struct members *m, uint64_t now_ns, const struct membership *config)
{
	members_adopt(m, now_ns, config, false);
	members_go_on(m, now_ns);
}

void members_progress(
	struct members *m, uint64_t now_ns, uint64_t moved_epoch, uint64_t synced_epoch)
{
	struct members_peer *p = &m->peers[m->self];
	if (p->moved_epoch == moved_epoch && p->synced_epoch == synced_epoch)
		return;
	p->moved_epoch = moved_epoch;
	p->synced_epoch = synced_epoch;
	if (synced_epoch > m->merged[m->self])
		m->merged[m->self] = synced_epoch;
	tell_all(m, now_ns);
	members_go_on(m, now_ns);
}

void members_forget(struct members *m, uint64_t now_ns)
{
	begin_to_abstain(m);
	members_go_on(m, now_ns);
}

void members_slots(struct members *m, uint8_t node, uint16_t slots_in_sync)
{
	m->peers[node].slots_in_sync = slots_in_sync;
}

void members_tick(struct members *m, uint64_t now_ns)
{
	if (now_ns >= m->news_ns)
		tell_all(m, now_ns);
	members_go_on(m, now_ns);
}

uint64_t members_due_ns(const struct members *m)
{
	uint64_t due_ns = change_due_ns(m);
	return m->news_ns < due_ns ? m->news_ns : due_ns;
}

/* ---- what is to be done ---- */

bool members_wants_write(const struct members *m, struct members_register *ret)
{
	if (m->writing)
		*ret = m->pending;
	return m->writing;
}

void members_written(struct members *m, uint64_t now_ns)
{
	CHECK(m->writing);
	m->writing = false;
	m->current = m->pending.committed;
	m->peers[m->self].epoch = m->current.epoch;
	members_go_on(m, now_ns);
}

const struct membership *members_current(const struct members *m)
{
	return &m->current;
}

bool members_settled(const struct members *m)
{
	const struct membership *c = &m->current;
	for (unsigned i = 0; i < c->n_masters; i++)
		if (m->merged[c->masters[i].id] != c->masters_epoch)
			return false;
	return c->epoch != 0;
}

const struct members_peer *members_peer(const struct members *m, uint8_t node)
{
	return &m->peers[node];
}
