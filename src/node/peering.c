#include "node/peering.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/check.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/prng.h"
#include "node/sock.h"

#define MS UINT64_C(1000000)

enum {
	CONNS_MAX = PEERING_IN_MAX + PEERING_OUT_MAX,
	HANDSHAKE_MS = 5000,
	BACKOFF_MIN_MS = 100,
	ACCEPTS_PER_TURN = 16,
	ACCEPT_PAUSE_MS = 100, /* after accept() ran out of something: poll would spin */
	SAID_MAX = 32,
	SAID_AGAIN_MS = 10000,
};

/* A connection whose handshake is not finished. */
struct conn {
	int fd; /* -1: free */
	bool connecting;
	bool in_done;
	bool accepted_ok; /* in: the answer under way is a yes, and a link follows */
	bool refusing;    /* out: our hello is a no, and all we have to say */
	uint8_t node;     /* out: dialled */
	uint16_t link;    /* out */
	uint64_t deadline;
	uint64_t read_at;
	size_t in_len, out_len, out_done;
	struct hello theirs;
	char addr[64];
	uint8_t in[HELLO_MAX_BYTES];
	uint8_t out[HELLO_MAX_BYTES];
};

enum dial_state { DIAL_IDLE, DIAL_RUNNING, DIAL_UP };

struct dial {
	enum dial_state state;
	uint64_t next_at;
	uint32_t backoff_ms;
	uint64_t inc; /* DIAL_UP: who is at the other end */
};

/* A member that we dial. */
struct target {
	uint8_t node;
	char addr[MEMBER_ADDR_MAX_BYTES + 1];
	uint16_t links;    /* 0: its threads are not known yet */
	bool absence_said; /* one line an outage */
	char refusal[200]; /* what its next hello from us says: we do not talk to it */
	struct dial dials[THREADS_MAX];
};

struct peering {
	struct identity *self;
	struct io_clock *clock;
	int listen_fd;
	uint64_t accept_at; /* not before */
	struct peering_hooks hooks;
	struct prng prng;
	unsigned n_targets;
	struct target targets[PEERING_TARGETS_MAX];
	uint16_t links[NODE_ID_MAX + 1]; /* by node, as last agreed on; 0: never */
	struct {
		uint64_t what, at;
	} said[SAID_MAX];
	struct conn conns[CONNS_MAX]; /* first those that came in, then ours */
};

static uint64_t mclk(const struct peering *p)
{
	struct clocks now;
	io_clock_read(p->clock, &now);
	return now.mclk;
}

static bool is_out(const struct peering *p, const struct conn *c)
{
	return c - p->conns >= PEERING_IN_MAX;
}

struct peering *peering_new(struct identity *self, struct io_clock *clock, int listen_fd,
	const struct peering_hooks *hooks, uint64_t seed)
{
	struct peering *p = calloc(1, sizeof *p);
	if (p == NULL)
		return NULL;
	p->self = self;
	p->clock = clock;
	p->listen_fd = listen_fd;
	p->hooks = *hooks;
	prng_seed(&p->prng, seed);
	for (unsigned i = 0; i < CONNS_MAX; i++)
		p->conns[i].fd = -1;
	peering_retarget(p);
	return p;
}

void peering_free(struct peering *p)
{
	if (p == NULL)
		return;
	for (unsigned i = 0; i < CONNS_MAX; i++)
		if (p->conns[i].fd >= 0)
			(void)close(p->conns[i].fd);
	free(p);
}

/* ---- saying things once ---- */

/* Has @text not been said of @who for a while? The port of a stranger changes with each try. */
static bool may_say(struct peering *p, const char *who, const char *text)
{
	const char *colon = strrchr(who, ':');
	struct bytes host = bytes_of(who, colon == NULL ? strlen(who) : (size_t)(colon - who));
	uint64_t what = hash_mix(hash_bytes(host), hash_bytes(bytes_str(text)));
	uint64_t now = mclk(p);
	unsigned oldest = 0;
	for (unsigned i = 0; i < SAID_MAX; i++) {
		if (p->said[i].what == what && p->said[i].at != 0 &&
			now - p->said[i].at < SAID_AGAIN_MS * MS)
			return false;
		if (p->said[i].what == what || p->said[i].at < p->said[oldest].at)
			oldest = i;
		if (p->said[i].what == what)
			break;
	}
	p->said[oldest].what = what;
	p->said[oldest].at = now;
	return true;
}

static void complain(struct peering *p, const char *addr, const char *text)
{
	if (may_say(p, addr, text))
		log_warn("peer %s: %s", addr, text);
}

/* ---- dials ---- */

static struct target *target_of(struct peering *p, uint8_t node)
{
	for (unsigned i = 0; i < p->n_targets; i++)
		if (p->targets[i].node == node)
			return &p->targets[i];
	return NULL;
}

/* Try again in about the back-off, spread over its upper half so that nodes do not meet in step. */
static void dial_later(struct peering *p, struct dial *d)
{
	if (d->backoff_ms == 0)
		d->backoff_ms = BACKOFF_MIN_MS;
	uint64_t half = d->backoff_ms * MS / 2;
	d->state = DIAL_IDLE;
	d->next_at = mclk(p) + half + prng_below(&p->prng, half);
	d->backoff_ms = d->backoff_ms * 2 < PEERING_BACKOFF_MAX_MS ? d->backoff_ms * 2
								   : PEERING_BACKOFF_MAX_MS;
}

static void conn_end(struct peering *p, struct conn *c)
{
	(void)close(c->fd);
	c->fd = -1;
	if (is_out(p, c))
		dial_later(p, &target_of(p, c->node)->dials[c->link]);
}

static void say_absent(struct target *t, const char *why)
{
	if (t->absence_said)
		return;
	t->absence_said = true;
	log_info("node %u at %s cannot be reached: %s; trying on", t->node, t->addr, why);
}

static void dial(struct peering *p, struct target *t, uint16_t link)
{
	struct conn *c = NULL;
	for (unsigned i = PEERING_IN_MAX; i < CONNS_MAX && c == NULL; i++)
		if (p->conns[i].fd < 0)
			c = &p->conns[i];
	if (c == NULL)
		return;
	char why[256] = "";
	int fd = -1;
	if (io_connect(t->addr, &fd, why, sizeof why) != 0) {
		say_absent(t, why);
		dial_later(p, &t->dials[link]);
		return;
	}
	*c = (struct conn){.fd = fd,
		.connecting = true,
		.node = t->node,
		.link = link,
		.deadline = mclk(p) + HANDSHAKE_MS * MS};
	(void)snprintf(c->addr, sizeof c->addr, "%.63s", t->addr);
	sock_set_nonblocking(fd);
	t->dials[link].state = DIAL_RUNNING;
}

/* ---- whom to dial ---- */

static bool to_be_dialled(const struct identity *self, uint8_t node)
{
	bool member = membership_role(&self->config, self->node) != ROLE_NONE;
	return node != self->node && (!member || node < self->node);
}

/* Links to it may be up already: it dialled us, or was one of the targets before. */
static void target_init(const struct peering *p, struct target *t, const struct member *m)
{
	*t = (struct target){.node = m->id, .links = p->links[m->id]};
	memcpy(t->addr, m->addr, sizeof t->addr);
	for (unsigned k = 0; k < THREADS_MAX; k++) {
		if ((p->self->live[m->id].links >> k & 1) == 0)
			continue;
		t->dials[k].state = DIAL_UP;
		t->dials[k].inc = p->self->live[m->id].inc;
	}
}

static void end_dials(struct peering *p, uint8_t node)
{
	for (unsigned i = PEERING_IN_MAX; i < CONNS_MAX; i++)
		if (p->conns[i].fd >= 0 && p->conns[i].node == node)
			conn_end(p, &p->conns[i]);
}

static void keep_or_drop(struct peering *p)
{
	unsigned kept = 0;
	for (unsigned i = 0; i < p->n_targets; i++) {
		struct target *t = &p->targets[i];
		const struct member *m = membership_find(&p->self->config, t->node);
		bool keep = m != NULL && to_be_dialled(p->self, t->node);
		if (!keep || strcmp(m->addr, t->addr) != 0)
			end_dials(p, t->node);
		if (!keep)
			continue;
		memcpy(t->addr, m->addr, sizeof t->addr);
		if (kept != i)
			p->targets[kept] = *t;
		kept++;
	}
	p->n_targets = kept;
}

static void add_targets(struct peering *p, const struct member *members, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		if (!to_be_dialled(p->self, members[i].id) || target_of(p, members[i].id) != NULL)
			continue;
		CHECK(p->n_targets < PEERING_TARGETS_MAX);
		target_init(p, &p->targets[p->n_targets++], &members[i]);
	}
}

void peering_retarget(struct peering *p)
{
	const struct membership *m = &p->self->config;
	keep_or_drop(p);
	add_targets(p, m->masters, m->n_masters);
	add_targets(p, m->replicas, m->n_replicas);
}

/* ---- dialling ---- */

/* The links after the first wait for it: it tells how many there are. */
static bool dialable(const struct target *t, unsigned link)
{
	return t->dials[link].state == DIAL_IDLE &&
	       (link == 0 || (link < t->links && t->dials[0].state == DIAL_UP));
}

static void dial_due(struct peering *p)
{
	uint64_t now = mclk(p);
	for (unsigned i = 0; i < p->n_targets; i++)
		for (unsigned k = 0; k < p->self->threads; k++)
			if (dialable(&p->targets[i], k) && p->targets[i].dials[k].next_at <= now)
				dial(p, &p->targets[i], (uint16_t)k);
}

void peering_link_down(struct peering *p, const struct mail_link *link)
{
	struct target *t = target_of(p, link->node);
	handshake_forget(p->self, link->node, link->link_index, link->peer_inc);
	log_debug("link %u to node %u is down", link->link_index, link->node);
	if (t == NULL || link->link_index >= THREADS_MAX)
		return;
	struct dial *d = &t->dials[link->link_index];
	if (d->state != DIAL_UP || d->inc != link->peer_inc)
		return;
	dial_later(p, d);
}

/* ---- handshakes ---- */

static void note_moved(struct peering *p, uint8_t node, const char *addr)
{
	char text[320];
	(void)snprintf(text, sizeof text,
		"node %u says that it is reached there, the configuration has it at %s, where "
		"nodes that dial it will try",
		node, membership_find(&p->self->config, node)->addr);
	complain(p, addr, text);
}

static void note_misnamed(struct peering *p, const struct conn *c, uint8_t node)
{
	char text[320];
	(void)snprintf(text, sizeof text,
		"node %u was started with node %u at %s, this node with node %u at %s: SETNODES is "
		"refused until all know it by one address",
		c->theirs.node, node, membership_find(&c->theirs.config, node)->addr, node,
		membership_find(&p->self->config, node)->addr);
	complain(p, c->addr, text);
}

static void hand_over(struct peering *p, struct conn *c)
{
	const struct hello *h = &c->theirs;
	uint16_t links = handshake_links(p->self, h);
	uint16_t link = is_out(p, c) ? c->link : h->link_index;
	struct mail_adopt a = {
		.fd = c->fd,
		.node = h->node,
		.status = h->status,
		.misnamed = h->config.epoch == p->self->config.epoch
				    ? handshake_misnamed(p->self, h)
				    : 0,
		.link_index = link,
		.links = links,
		.peer_inc = h->inc,
		.peer_mclk = h->mclk,
		.peer_mclk_at = c->read_at,
	};
	memcpy(a.addr, c->addr, sizeof a.addr);
	handshake_address(h, c->addr, a.peer_addr);
	if (handshake_moved(p->self, h, a.peer_addr))
		note_moved(p, h->node, a.peer_addr);
	if (a.misnamed != 0)
		note_misnamed(p, c, a.misnamed);
	if (handshake_newer(p->self, h))
		p->hooks.learn(p->hooks.arg, &h->config);
	p->links[h->node] = links;
	sock_hand_over(c->fd);
	c->fd = -1;
	handshake_note(p->self, h, link);
	if (is_out(p, c)) {
		struct target *t = target_of(p, c->node);
		t->links = links;
		t->absence_said = false;
		t->dials[link].state = DIAL_UP;
		t->dials[link].backoff_ms = 0;
		t->dials[link].inc = h->inc;
	}
	log_debug(
		"link %u of %u to node %u (%s) goes to its thread", link, links, h->node, c->addr);
	p->hooks.adopt(p->hooks.arg, &a);
}

static void queue_hello(struct conn *c, const struct hello *h)
{
	c->out_len = hello_encode(c->out, h);
	c->out_done = 0;
	CHECK(c->out_len <= sizeof c->out);
}

/* True: all is out. Ends the connection on an error. */
static bool push_out(struct peering *p, struct conn *c)
{
	while (c->out_done < c->out_len) {
		ssize_t n = sock_send(c->fd, c->out + c->out_done, c->out_len - c->out_done);
		if (n == -EAGAIN)
			return false;
		if (n < 0) {
			complain(p, c->addr, strerror((int)-n));
			conn_end(p, c);
			return false;
		}
		c->out_done += (size_t)n;
	}
	return true;
}

/* Read the hello and not a byte more: what follows belongs to the shard thread. True: it is whole.
 * Ends the connection on an error. */
static bool pull_in(struct peering *p, struct conn *c)
{
	for (;;) {
		size_t want = 0;
		int r = hello_decode(c->in, c->in_len, &c->theirs, &want);
		if (r == 0)
			break;
		if (r == -EAGAIN && c->in_len < HELLO_PREFIX_BYTES)
			want = HELLO_PREFIX_BYTES;
		if (r != -EAGAIN || want <= c->in_len || want > sizeof c->in) {
			complain(p, c->addr,
				r == -EPROTO
					? "does not speak the peer protocol (this is the peer port)"
					: "sent a malformed hello");
			conn_end(p, c);
			return false;
		}
		ssize_t n = sock_recv(c->fd, c->in + c->in_len, want - c->in_len);
		if (n == -EAGAIN)
			return false;
		if (n <= 0) {
			complain(p, c->addr,
				n == 0 ? "closed during the handshake" : strerror((int)-n));
			conn_end(p, c);
			return false;
		}
		c->in_len += (size_t)n;
	}
	c->read_at = mclk(p);
	c->in_done = true;
	return true;
}

/* They said no. */
static void take_refusal(struct peering *p, struct conn *c)
{
	c->theirs.reason[sizeof c->theirs.reason - 1] = '\0';
	char text[256];
	(void)snprintf(
		text, sizeof text, "refused by node %u: %s", c->theirs.node, c->theirs.reason);
	complain(p, c->addr, text);
	if (handshake_fatal(p->self, &c->theirs))
		p->hooks.fatal(p->hooks.arg, c->theirs.reason);
	if (handshake_outdated(p->self, &c->theirs)) {
		p->self->after_inc = 0;
		p->hooks.outdated(p->hooks.arg, c->theirs.reason);
	}
	if (is_out(p, c))
		target_of(p, c->node)->dials[c->link].backoff_ms = PEERING_BACKOFF_MAX_MS;
	conn_end(p, c);
}

static void work_out(struct peering *p, struct conn *c)
{
	struct target *t = target_of(p, c->node);
	if (c->connecting) {
		int r = sock_connected(c->fd);
		if (r != 0) {
			t->refusal[0] = '\0'; /* of a process that is gone */
			say_absent(t, strerror(-r));
			conn_end(p, c);
			return;
		}
		c->connecting = false;
		struct hello h;
		c->refusing = t->refusal[0] != '\0';
		if (c->refusing)
			handshake_refusal(p->self, mclk(p), t->refusal, &h);
		else
			handshake_offer(p->self, c->link, mclk(p), &h);
		queue_hello(c, &h);
	}
	if (!push_out(p, c))
		return;
	if (c->refusing) {
		t->refusal[0] = '\0';
		sock_finish(c->fd);
		t->dials[c->link].backoff_ms = PEERING_BACKOFF_MAX_MS;
		conn_end(p, c);
		return;
	}
	if (!pull_in(p, c))
		return;
	if (c->theirs.refused) {
		take_refusal(p, c);
		return;
	}
	char why[200] = "";
	bool good = handshake_check(p->self, &c->theirs, c->node, why, sizeof why) == 0;
	if (good && handshake_asks(&c->theirs)) {
		(void)snprintf(why, sizeof why, "node %u knows no configuration", c->theirs.node);
		good = false;
	}
	if (!good) {
		/* It let us in and need not know: the next dial tells it. */
		(void)snprintf(t->refusal, sizeof t->refusal, "%s", why);
		complain(p, c->addr, why);
		t->dials[c->link].backoff_ms = BACKOFF_MIN_MS;
		conn_end(p, c);
		return;
	}
	hand_over(p, c);
}

static void work_in(struct peering *p, struct conn *c)
{
	if (!c->in_done) {
		if (!pull_in(p, c))
			return;
		if (c->theirs.refused) {
			take_refusal(p, c);
			return;
		}
		char why[200] = "";
		struct hello h;
		bool good = handshake_check(p->self, &c->theirs, 0, why, sizeof why) == 0;
		c->accepted_ok = good && !handshake_asks(&c->theirs);
		if (good) {
			handshake_answer(p->self, &c->theirs, c->read_at, mclk(p), &h);
		} else {
			complain(p, c->addr, why);
			handshake_refusal(p->self, mclk(p), why, &h);
		}
		queue_hello(c, &h);
	}
	if (!push_out(p, c))
		return;
	if (c->accepted_ok)
		hand_over(p, c);
	else
		conn_end(p, c);
}

static void accept_one(struct peering *p, int fd)
{
	struct conn *c = &p->conns[0];
	for (unsigned i = 0; i < PEERING_IN_MAX && c->fd >= 0; i++)
		if (p->conns[i].fd < 0 || p->conns[i].deadline < c->deadline)
			c = &p->conns[i];
	if (c->fd >= 0) {
		complain(p, c->addr, "too many unfinished handshakes: the oldest gives way");
		conn_end(p, c);
	}
	*c = (struct conn){.fd = fd, .deadline = mclk(p) + HANDSHAKE_MS * MS};
	io_peer_address(fd, c->addr, sizeof c->addr);
}

static void accept_some(struct peering *p)
{
	for (unsigned i = 0; i < ACCEPTS_PER_TURN; i++) {
		int fd = sock_accept(p->listen_fd);
		if (fd >= 0) {
			accept_one(p, fd);
			continue;
		}
		if (fd != -EAGAIN) {
			complain(p, "listener", strerror(-fd));
			p->accept_at = mclk(p) + ACCEPT_PAUSE_MS * MS;
		}
		return;
	}
}

/* ---- the control loop's side ---- */

void peering_poll_set(const struct peering *p, struct pollfd *set)
{
	bool rest = p->accept_at > mclk(p);
	set[0] = (struct pollfd){.fd = rest ? -1 : p->listen_fd, .events = POLLIN};
	for (unsigned i = 0; i < CONNS_MAX; i++) {
		const struct conn *c = &p->conns[i];
		bool writing = c->connecting || c->out_done < c->out_len;
		set[i + 1] = (struct pollfd){.fd = c->fd, .events = writing ? POLLOUT : POLLIN};
	}
}

void peering_work(struct peering *p, const struct pollfd *set)
{
	for (unsigned i = 0; i < CONNS_MAX; i++) {
		struct conn *c = &p->conns[i];
		if (c->fd < 0 || c->fd != set[i + 1].fd || set[i + 1].revents == 0)
			continue;
		if (is_out(p, c))
			work_out(p, c);
		else
			work_in(p, c);
	}
	uint64_t now = mclk(p);
	for (unsigned i = 0; i < CONNS_MAX; i++) {
		struct conn *c = &p->conns[i];
		if (c->fd < 0 || c->deadline > now)
			continue;
		if (is_out(p, c) && c->connecting)
			say_absent(target_of(p, c->node), "no answer");
		else
			complain(p, c->addr, "no whole hello within 5 s");
		conn_end(p, c);
	}
	if (set[0].revents != 0)
		accept_some(p);
	dial_due(p);
}

uint64_t peering_wait_ns(const struct peering *p)
{
	uint64_t first = p->accept_at > mclk(p) ? p->accept_at : UINT64_MAX;
	bool slot_free = false;
	for (unsigned i = 0; i < CONNS_MAX; i++) {
		if (p->conns[i].fd >= 0 && p->conns[i].deadline < first)
			first = p->conns[i].deadline;
		slot_free |= i >= PEERING_IN_MAX && p->conns[i].fd < 0;
	}
	for (unsigned i = 0; i < p->n_targets; i++)
		for (unsigned k = 0; slot_free && k < p->self->threads; k++)
			if (dialable(&p->targets[i], k) && p->targets[i].dials[k].next_at < first)
				first = p->targets[i].dials[k].next_at;
	uint64_t now = mclk(p);
	return first == UINT64_MAX ? UINT64_MAX : first > now ? first - now : 0;
}
