/* Links to other nodes. Link i between two nodes belongs to thread i on both sides, so a thread has
 * at most one link to a node; the other shards reach it by mail. */
#include "shard/internal.h"

#include <errno.h>
#include <stdlib.h>

#include "base/buf.h"
#include "base/check.h"
#include "base/mutant.h"
#include "base/log.h"

static const uint64_t heartbeat_ns = 100ull * 1000 * 1000; /* protocol.md 2.4 */
static const uint64_t silence_ns = 5ull * 1000 * 1000 * 1000;

enum {
	BACKLOG_MAX_BYTES = 8 << 20, /* unsent on a link: beyond, all of it would arrive too old */
	MAIL_BACKLOG_MAX_BYTES = 4 << 20, /* overflow towards another thread, likewise */
	/* So many heartbeats and attempts without news of a peer, and something was missed. */
	MISSED_BEATS = 10,
	MISSED_ATTEMPTS = 3,
	PPM = 1000000,
};

/* One stream, owned by this thread. */
struct peer_link {
	struct list all; /* in peers.links, until the world has closed it */
	struct link *link;
	uint64_t inc; /* the peer's incarnation, agreed in the handshake */
	uint16_t index;
	uint8_t node;
	bool dropped;                /* closing: nothing more in or out */
	bool replaced;               /* and another stream took its place */
	bool heard;                  /* a frame came */
	uint64_t echo_mclk, echo_at; /* last clock reading of the peer, and when we had it */
	uint64_t heard_at, beat_due;
	/* The frame of this loop, at the end of link->out. */
	bool open;
	size_t frame_at;
	uint32_t count;
	uint64_t oldest_birth;
};

/* What the thread that owns link i says of it. */
struct route {
	uint64_t inc;
	uint16_t links;
	bool up;
};

struct peer {
	struct peer_link *own; /* this thread's link, or NULL */
	struct route route[THREADS_MAX];
	uint16_t links; /* between the two nodes; 0: never heard of */
	uint8_t status;
	uint16_t slots_voting;
	/* What the engine was told last. */
	bool told_up;
	uint64_t told_inc;
	uint64_t heard_at;      /* 0: never */
	uint64_t fresh_at;      /* last frame that was not too old, on this thread's link ... */
	uint64_t fresh_inc;     /* ... and whose it was */
	struct peer_info count; /* its counters only */
};

struct peers {
	uint64_t age_max_ns; /* so that none is older than T_msg = T_att */
	struct list links;
	struct buf scratch; /* one message, encoded */
	struct peer *peer[NODE_ID_MAX + 1];
};

struct mail_peer_out {
	uint64_t birth;
	uint64_t inc; /* whom the sending shard talks to */
	uint8_t node;
};

struct mail_peer_in {
	uint64_t born_mclk;
	uint64_t inc;
	uint16_t index; /* the link it came by */
	uint8_t node;
};

enum link_news {
	NEWS_DOWN,
	NEWS_UP,
	NEWS_MALFORMED, /* to the owner: what you passed on is no message */
	NEWS_MISSED,    /* it is heard again after a while, and is the same as before */
};

struct mail_peer_link {
	uint64_t inc;
	uint16_t index;
	uint16_t links;
	uint8_t node;
	uint8_t news;
};

struct peers *peers_new(struct shard *s)
{
	CHECK(s->cfg.engine.drift_ppm < PPM);
	struct peers *p = calloc(1, sizeof *p);
	if (p == NULL)
		return NULL;
	/* Ages are told on BOOTTIME, which NTP slews by up to a twelfth (chrony): less than T_msg.
	 */
	p->age_max_ns = (uint64_t)s->cfg.engine.attempt_ms * PPM / 10 * 9;
	list_init(&p->links);
	buf_init(&p->scratch, (size_t)2 * MSG_MAX_BYTES);
	if (buf_reserve(&p->scratch, (size_t)2 * MSG_MAX_BYTES) == NULL) {
		free(p);
		return NULL;
	}
	return p;
}

void peers_free(struct shard *s)
{
	struct peers *p = s->peers;

	struct list *next;
	for (struct list *at = p->links.next; at != &p->links; at = next) {
		struct peer_link *pl = container_of(at, struct peer_link, all);
		next = at->next;
		pl->link->user = NULL;
		free(pl);
	}
	for (unsigned i = 0; i <= NODE_ID_MAX; i++)
		free(p->peer[i]);
	buf_fini(&p->scratch);
	free(p);
	s->peers = NULL;
}

static struct peer *peer_get(struct peers *p, uint8_t node)
{
	if (p->peer[node] == NULL)
		p->peer[node] = calloc(1, sizeof **p->peer);
	return p->peer[node];
}

/* ---- clocks: kappa = (1 + rho) / (1 - rho), protocol.md 2.1 ---- */

static uint64_t over_kappa_down(uint64_t ns, uint32_t drift_ppm)
{
	uint64_t up = PPM + drift_ppm, down = PPM - drift_ppm;
	return ns / up * down + ns % up * down / up;
}

static uint64_t times_kappa_up(uint64_t ns, uint32_t drift_ppm)
{
	uint64_t up = PPM + drift_ppm, down = PPM - drift_ppm;
	return ns / down * up + (ns % down * up + down - 1) / down;
}

/* How old the oldest message of a frame is at most (protocol.md 2.4): what passed since we stamped
 * the echo, less what the peer had it in hand before the message was born. */
static uint64_t age_at_most(uint64_t now, uint64_t echo, uint64_t held, uint32_t drift_ppm)
{
	uint64_t since = now - echo;
	uint64_t before = over_kappa_down(held, drift_ppm);
	/* Held for longer than passed: a clock is off by more than rho, as while NTP slews it. The
	 * undiminished time is a bound in any case. */
	return before <= since ? since - before : since;
}

/* ---- routes: which thread reaches a node, and what the engine knows of it ---- */

/* Other threads see links come and go in another order than we do; the lowest link that is up knows
 * best how many there are, and link 0 is there whatever the number. */
static void count_links(struct peer *peer)
{
	for (unsigned i = 0; i < THREADS_MAX; i++) {
		if (peer->route[i].up) {
			peer->links = peer->route[i].links;
			return;
		}
	}
}

static unsigned used_index(const struct shard *s, const struct peer *peer)
{
	return s->cfg.index % peer->links;
}

static void tell_engine(struct shard *s, uint8_t node, bool up)
{
	struct event ev = {.type = EV_LINK, .link = {.node = node, .up = up}};
	shard_step(s, &ev);
}

static void route_set(struct shard *s, const struct mail_peer_link *news)
{
	struct peer *peer = peer_get(s->peers, news->node);
	if (peer == NULL) {
		log_error("out of memory for what is known of peer %u", news->node);
		return;
	}
	peer->route[news->index] =
		(struct route){.inc = news->inc, .links = news->links, .up = news->news == NEWS_UP};
	count_links(peer);
	if (peer->links == 0)
		return;
	const struct route *used = &peer->route[used_index(s, peer)];
	if (peer->told_up && (!used->up || used->inc != peer->told_inc)) {
		peer->told_up = false;
		tell_engine(s, news->node, false);
	}
	if (!peer->told_up && used->up) {
		peer->told_up = true;
		peer->told_inc = used->inc;
		tell_engine(s, news->node, true);
	}
}

static void tell_threads(
	struct shard *s, const struct peer_link *pl, uint16_t links, enum link_news what)
{
	struct mail_peer_link news = {.inc = pl->inc,
		.index = pl->index,
		.links = links,
		.node = pl->node,
		.news = (uint8_t)what};
	for (unsigned i = 0; i < s->cfg.threads; i++)
		if (i != s->cfg.index)
			memcpy(mailbox_put(s->mail, i, MAIL_PEER_LINK, sizeof news), &news,
				sizeof news);
	route_set(s, &news);
}

static void tell_missed(struct shard *s, const struct peer_link *pl)
{
	struct mail_peer_link news = {
		.inc = pl->inc, .index = pl->index, .node = pl->node, .news = NEWS_MISSED};
	for (unsigned i = 0; i < s->cfg.threads; i++)
		if (i != s->cfg.index)
			memcpy(mailbox_put(s->mail, i, MAIL_PEER_LINK, sizeof news), &news,
				sizeof news);
	log_info("peer %u: link %u is heard again, looking for what was missed", pl->node,
		pl->index);
	shard_step(s, &(struct event){.type = EV_MISSED});
}

static void tell_control(
	struct shard *s, enum control_mail what, uint8_t node, uint16_t index, uint64_t inc)
{
	struct mail_link news = {.node = node, .link_index = index, .peer_inc = inc};
	memcpy(mailbox_put(s->mail, s->cfg.threads, what, sizeof news), &news, sizeof news);
}

/* ---- outgoing frames ---- */

/* The echo says: the receiver's clock showed this, at the latest @held_ns before the oldest message
 * was born. A message that another thread made can be older than the echo: then the reading is set
 * back to what that clock showed at least at the birth, lest the receiver takes it for younger. */
static void frame_stamp_echo(
	const struct shard *s, const struct peer_link *pl, uint64_t birth, struct frame_header *h)
{
	if (pl->echo_mclk == 0)
		return;
	if (birth >= pl->echo_at) {
		h->echo_mclk = pl->echo_mclk;
		h->held_ns = birth - pl->echo_at;
		return;
	}
	uint64_t back = times_kappa_up(pl->echo_at - birth, s->cfg.engine.drift_ppm);
	h->echo_mclk = pl->echo_mclk > back ? pl->echo_mclk - back : 1;
}

static void frame_finish(struct shard *s, struct peer_link *pl)
{
	struct link *link = pl->link;
	struct peer_info *count = &s->peers->peer[pl->node]->count;
	struct frame_header h = {
		.frame_bytes = (uint32_t)(link->out.len - pl->frame_at),
		.count = pl->count,
		.cluster = s->cfg.cluster,
		.epoch = s->cfg.epoch,
		.src_inc = s->cfg.inc,
		.dst_inc = pl->inc,
		.mclk = s->now.mclk,
		.hlc_n = engine_hlc(s->engine),
		.src_node = s->cfg.engine.self,
		.status = s->status.status,
		.slots_voting = s->status.slots_voting,
	};
	frame_stamp_echo(s, pl, pl->oldest_birth, &h);
	frame_header_encode(link->out.data + pl->frame_at, &h);
	pl->open = false;
	pl->beat_due = s->now.mclk + heartbeat_ns;
	count->frames_out++;
	count->msgs_out += pl->count;
	count->bytes_out += h.frame_bytes;
	env_dirty(s->env, link);
}

static void link_drop(struct shard *s, struct peer_link *pl, const char *reason)
{
	if (pl->dropped)
		return;
	log_warn("peer %u: link %u (%s) dropped: %s", pl->node, pl->index, pl->link->addr, reason);
	/* What is in `out` may still be sent: leave it whole. */
	if (pl->open)
		frame_finish(s, pl);
	pl->dropped = true;
	s->env->ops->close(s->env, pl->link, false);
}

static bool frame_open(struct shard *s, struct peer_link *pl)
{
	struct buf *out = &pl->link->out;
	uint8_t *header = buf_reserve(out, FRAME_HEADER_BYTES);
	if (header == NULL) {
		link_drop(s, pl, "no room for output");
		return false;
	}
	memset(header, 0, FRAME_HEADER_BYTES);
	pl->frame_at = out->len;
	pl->count = 0;
	pl->oldest_birth = s->now.mclk;
	pl->open = true;
	out->len += FRAME_HEADER_BYTES;
	return true;
}

static void link_append(struct shard *s, struct peer_link *pl, struct bytes msg, uint64_t birth)
{
	struct buf *out = &pl->link->out;
	struct peer *peer = s->peers->peer[pl->node];

	if (!pl->dropped && out->len + pl->link->in_flight_bytes + msg.len > BACKLOG_MAX_BYTES)
		link_drop(s, pl, "it does not take what is sent to it");
	if (pl->open && out->len - pl->frame_at + msg.len > FRAME_MAX_BYTES)
		frame_finish(s, pl);
	if (pl->dropped || (!pl->open && !frame_open(s, pl))) {
		peer->count.msgs_dropped++;
		return;
	}
	if (buf_append(out, msg.p, msg.len) != 0) {
		peer->count.msgs_dropped++;
		link_drop(s, pl, "no room for output");
		return;
	}
	pl->count++;
	if (birth < pl->oldest_birth)
		pl->oldest_birth = birth;
}

/* Room for mail about a peer, or NULL when the thread is far behind: loss, as on a network. */
static void *mail_room(struct shard *s, struct peer *peer, unsigned to, uint16_t type, size_t bytes)
{
	if (mailbox_overflow_bytes(s->mail, to) > MAIL_BACKLOG_MAX_BYTES) {
		peer->count.msgs_dropped++;
		return NULL;
	}
	return mailbox_put(s->mail, to, type, bytes);
}

static void send_encoded(struct shard *s, uint8_t node, struct bytes msg)
{
	struct peer *peer = s->peers->peer[node];
	unsigned index = used_index(s, peer);

	if (index == s->cfg.index) {
		link_append(s, peer->own, msg, s->now.mclk);
		return;
	}
	struct mail_peer_out head = {.birth = s->now.mclk, .inc = peer->told_inc, .node = node};
	uint8_t *p = mail_room(s, peer, index, MAIL_PEER_OUT, sizeof head + msg.len);
	if (p == NULL)
		return;
	memcpy(p, &head, sizeof head);
	memcpy(p + sizeof head, msg.p, msg.len);
}

void peers_send(struct shard *s, const uint8_t *to, unsigned n, const struct msg *m)
{
	struct peers *p = s->peers;

	p->scratch.len = 0;
	for (unsigned i = 0; i < n; i++) {
		if (p->peer[to[i]] == NULL || !p->peer[to[i]]->told_up)
			continue;
		if (p->scratch.len == 0) {
			int r = msg_encode(&p->scratch, m);
			CHECK(r == 0 && p->scratch.len <= MSG_MAX_BYTES);
		}
		send_encoded(s, to[i], bytes_of(p->scratch.data, p->scratch.len));
	}
}

static void peer_out_mail(struct shard *s, const uint8_t *body, size_t bytes)
{
	struct mail_peer_out head;

	CHECK(bytes > sizeof head && bytes <= sizeof head + MSG_MAX_BYTES);
	memcpy(&head, body, sizeof head);
	struct peer *peer = s->peers->peer[head.node];
	CHECK(peer != NULL); /* whoever sends us this heard of our link */
	bool old = s->now.mclk > head.birth && s->now.mclk - head.birth > s->peers->age_max_ns;
	/* Nothing meant for a dead incarnation reaches its successor (protocol.md 2.4, dst_inc). */
	if (old || peer->own == NULL || peer->own->inc != head.inc) {
		peer->count.msgs_dropped++;
		return;
	}
	link_append(s, peer->own, bytes_of(body + sizeof head, bytes - sizeof head), head.birth);
}

/* ---- incoming frames ---- */

static void engine_in(
	struct shard *s, struct peer *peer, uint8_t node, uint64_t inc, const struct msg *m)
{
	/* The engine takes votes by node: none of an incarnation it does not talk to. */
	if (peer->told_up && peer->told_inc != inc)
		peer->count.msgs_dropped++;
	else
		shard_step(s, &(struct event){.type = EV_MSG, .msg = {.from = node, .msg = m}});
}

/* One message of a frame, for this shard or to be passed on. NULL or what is wrong with it. */
static const char *message_in(
	struct shard *s, struct peer_link *pl, uint64_t born, struct bytes msg, uint16_t slot)
{
	struct peer *peer = s->peers->peer[pl->node];
	if (slot >= s->cfg.engine.slots)
		return "a message for a slot that does not exist";
	unsigned owner = slot % s->cfg.threads;

	if (owner == s->cfg.index) {
		struct msg m;
		size_t used;
		if (msg_decode(msg.p, msg.len, &m, &used) != 0 || used != msg.len)
			return "a malformed message";
		engine_in(s, peer, pl->node, pl->inc, &m);
		return NULL;
	}
	struct mail_peer_in head = {
		.born_mclk = born, .inc = pl->inc, .index = pl->index, .node = pl->node};
	uint8_t *p = mail_room(s, peer, owner, MAIL_PEER_IN, sizeof head + msg.len);
	if (p != NULL) {
		memcpy(p, &head, sizeof head);
		memcpy(p + sizeof head, msg.p, msg.len);
	}
	return NULL;
}

static const char *messages_in(struct shard *s, struct peer_link *pl, const struct frame_header *h,
	const uint8_t *frame, uint64_t born)
{
	const uint8_t *p = frame + FRAME_HEADER_BYTES, *end = frame + h->frame_bytes;
	const char *wrong = NULL;

	for (uint32_t i = 0; i < h->count && wrong == NULL && !pl->dropped; i++) {
		uint16_t slot;
		size_t len;
		if (msg_peek(p, (size_t)(end - p), &slot, &len) != 0 || len > MSG_MAX_BYTES ||
			len > (size_t)(end - p))
			return "a malformed message";
		wrong = message_in(s, pl, born, bytes_of(p, len), slot);
		p += len;
		s->peers->peer[pl->node]->count.msgs_in += wrong == NULL;
	}
	if (wrong == NULL && !pl->dropped && p != end)
		return "bytes left over in a frame";
	return wrong;
}

static const char *header_wrong(
	const struct shard *s, const struct peer_link *pl, const struct frame_header *h)
{
	if (h->cluster != s->cfg.cluster)
		return "a frame of another cluster";
	if (h->epoch != s->cfg.epoch)
		return "a frame of another configuration epoch";
	if (h->src_node != pl->node)
		return "a frame of another node";
	if (h->src_inc != pl->inc)
		return "a frame of another incarnation";
	if (h->dst_inc != s->cfg.inc)
		return "a frame for another incarnation of this node";
	if (h->echo_mclk > s->now.mclk)
		return "it echoes a time that has not come yet";
	return NULL;
}

static const char *frame_in(
	struct shard *s, struct peer_link *pl, const struct frame_header *h, const uint8_t *frame)
{
	struct peer *peer = s->peers->peer[pl->node];
	uint64_t now = s->now.mclk;
	const char *wrong = header_wrong(s, pl, h);

	if (wrong != NULL)
		return wrong;
	/* Who sends frames has accepted our hello; a dialer does that after we have accepted its.
	 */
	if (!pl->heard)
		tell_control(s, MAIL_LINK_HEARD, pl->node, pl->index, pl->inc);
	pl->heard = true;
	pl->echo_mclk = h->mclk;
	pl->echo_at = now;
	pl->heard_at = peer->heard_at = now;
	peer->status = h->status;
	peer->slots_voting = h->slots_voting;
	peer->count.frames_in++;
	peer->count.bytes_in += h->frame_bytes;
	engine_hlc_merge(s->engine, h->hlc_n);
	uint64_t age = age_at_most(now, h->echo_mclk, h->held_ns, s->cfg.engine.drift_ppm);
	bool any_age = MUTANT(MESSAGE_OLD) || MUTANT(EXTEND_LATE);
	if ((h->echo_mclk == 0 || age > s->peers->age_max_ns) && !any_age) {
		peer->count.stale_frames += h->count != 0;
		return NULL;
	}
	/* A peer that was away and has another incarnation has done nothing that we could have
	 * missed. After a pause of our own the first frames are stale and do not count. */
	uint64_t missed_ns = MISSED_BEATS * heartbeat_ns +
			     (uint64_t)MISSED_ATTEMPTS * s->cfg.engine.attempt_ms * PPM;
	bool missed = peer->fresh_inc == pl->inc && now - peer->fresh_at > missed_ns;
	peer->fresh_inc = pl->inc;
	peer->fresh_at = now;
	if (missed)
		tell_missed(s, pl);
	return messages_in(s, pl, h, frame, now - age);
}

ssize_t peers_data(struct shard *s, struct link *link, const uint8_t *data, size_t len)
{
	struct peer_link *pl = link->user;
	size_t used = 0;

	if (pl == NULL || pl->dropped)
		return -1;
	for (;;) {
		struct frame_header h;
		int r = frame_header_decode(data + used, len - used, &h);
		if (r == -EAGAIN)
			return (ssize_t)used;
		const char *wrong =
			r != 0 ? "what it sends is no frame" : frame_in(s, pl, &h, data + used);
		if (wrong != NULL)
			link_drop(s, pl, wrong);
		if (pl->dropped)
			return -1;
		used += h.frame_bytes;
	}
}

static void peer_in_mail(struct shard *s, unsigned from, const uint8_t *body, size_t bytes)
{
	struct mail_peer_in head;
	struct msg m;
	size_t used;

	CHECK(bytes > sizeof head);
	memcpy(&head, body, sizeof head);
	const uint8_t *p = body + sizeof head;
	size_t len = bytes - sizeof head;
	struct peer *peer = peer_get(s->peers, head.node);
	if (peer == NULL)
		return;
	bool old =
		s->now.mclk > head.born_mclk && s->now.mclk - head.born_mclk > s->peers->age_max_ns;
	if (old) {
		peer->count.msgs_dropped++;
		return;
	}
	if (msg_decode(p, len, &m, &used) != 0 || used != len) {
		struct mail_peer_link news = {.inc = head.inc,
			.index = head.index,
			.node = head.node,
			.news = NEWS_MALFORMED};
		memcpy(mailbox_put(s->mail, from, MAIL_PEER_LINK, sizeof news), &news, sizeof news);
		return;
	}
	engine_in(s, peer, head.node, head.inc, &m);
}

/* ---- up and down ---- */

static bool adopt_possible(const struct shard *s, const struct mail_adopt *a)
{
	return a->node != 0 && a->link_index == s->cfg.index && a->link_index < a->links &&
	       a->links <= s->cfg.threads;
}

void peers_adopt(struct shard *s, const struct mail_adopt *a)
{
	struct peers *p = s->peers;
	struct peer *peer = peer_get(p, a->node);
	struct peer_link *pl = calloc(1, sizeof *pl);
	struct link *link = s->env->ops->adopt(s->env, a->fd, LINK_PEER, a->addr);

	if (peer == NULL || pl == NULL || link == NULL || !adopt_possible(s, a)) {
		log_error("peer %u: link %u (%s) not taken: %s", a->node, a->link_index, a->addr,
			adopt_possible(s, a) ? "no memory or no free connection"
					     : "its index is none of this thread");
		free(pl);
		if (link != NULL) {
			link->user = NULL;
			s->env->ops->close(s->env, link, false);
		}
		tell_control(s, MAIL_LINK_DOWN, a->node, a->link_index, a->peer_inc);
		return;
	}
	*pl = (struct peer_link){
		.link = link,
		.inc = a->peer_inc,
		.index = a->link_index,
		.node = a->node,
		.echo_mclk = a->peer_mclk,
		.echo_at = a->peer_mclk_at,
		.heard_at = s->now.mclk,
		.beat_due = s->now.mclk,
	};
	link->user = pl;
	list_add_tail(&p->links, &pl->all);
	if (peer->own != NULL) {
		peer->own->replaced = true;
		link_drop(s, peer->own, "replaced by a new connection");
	}
	peer->own = pl;
	peer->status = a->status;
	peer->heard_at = s->now.mclk;
	log_info("peer %u: link %u of %u up (%s)", a->node, a->link_index, a->links, a->addr);
	tell_threads(s, pl, a->links, NEWS_UP);
}

/* A stream that was replaced is not reported: its place is taken, by the same incarnation perhaps.
 */
void peers_close(struct shard *s, struct link *link)
{
	struct peer_link *pl = link->user;

	if (pl == NULL)
		return;
	link->user = NULL;
	list_remove(&pl->all);
	if (!pl->replaced) {
		struct peer *peer = s->peers->peer[pl->node];
		if (!pl->dropped)
			log_info("peer %u: link %u (%s) closed", pl->node, pl->index, link->addr);
		peer->own = NULL;
		tell_control(s, MAIL_LINK_DOWN, pl->node, pl->index, pl->inc);
		tell_threads(s, pl, peer->route[pl->index].links, NEWS_DOWN);
	}
	free(pl);
}

static void peer_link_mail(struct shard *s, unsigned from, const void *body, size_t bytes)
{
	struct mail_peer_link news;

	CHECK(bytes == sizeof news);
	memcpy(&news, body, sizeof news);
	if (news.news == NEWS_MISSED) {
		shard_step(s, &(struct event){.type = EV_MISSED});
		return;
	}
	if (news.news != NEWS_MALFORMED) {
		CHECK(news.index == from && news.links != 0);
		route_set(s, &news);
		return;
	}
	struct peer *peer = s->peers->peer[news.node];
	if (peer != NULL && peer->own != NULL && peer->own->inc == news.inc)
		link_drop(s, peer->own, "a malformed message");
}

void peers_mail(struct shard *s, unsigned from, uint16_t type, const void *body, size_t bytes)
{
	switch (type) {
	case MAIL_PEER_OUT:
		peer_out_mail(s, body, bytes);
		break;
	case MAIL_PEER_IN:
		peer_in_mail(s, from, body, bytes);
		break;
	case MAIL_PEER_LINK:
		peer_link_mail(s, from, body, bytes);
		break;
	default:
		CHECK(!"mail of a known type");
	}
}

/* ---- once a loop ---- */

void peers_finish_loop(struct shard *s)
{
	struct peers *p = s->peers;
	uint64_t now = s->now.mclk;

	for (struct list *l = p->links.next; l != &p->links; l = l->next) {
		struct peer_link *pl = container_of(l, struct peer_link, all);
		if (pl->dropped)
			continue;
		if (now - pl->heard_at > silence_ns) {
			link_drop(s, pl, "silent for 5 s");
			continue;
		}
		if (pl->open || (now >= pl->beat_due && frame_open(s, pl)))
			frame_finish(s, pl);
	}
}

static uint64_t until(uint64_t now, uint64_t due)
{
	return due > now ? due - now : 0;
}

uint64_t peers_wait_ns(const struct shard *s)
{
	const struct peers *p = s->peers;
	uint64_t wait = UINT64_MAX;

	for (const struct list *l = p->links.next; l != &p->links; l = l->next) {
		const struct peer_link *pl = container_of(l, const struct peer_link, all);
		if (pl->dropped)
			continue;
		uint64_t beat = until(s->now.mclk, pl->beat_due);
		uint64_t silent = until(s->now.mclk, pl->heard_at + silence_ns + 1);
		wait = beat < wait ? beat : wait;
		wait = silent < wait ? silent : wait;
		if (pl->open)
			return 0;
	}
	return wait;
}

bool peers_flushed(const struct shard *s)
{
	const struct peers *p = s->peers;

	for (const struct list *l = p->links.next; l != &p->links; l = l->next) {
		const struct peer_link *pl = container_of(l, const struct peer_link, all);
		if (!pl->dropped && (pl->link->out.len != 0 || pl->link->in_flight_bytes != 0))
			return false;
	}
	return true;
}

void peers_info(const struct shard *s, uint8_t node, struct peer_info *ret)
{
	const struct peer *peer = s->peers->peer[node];

	*ret = (struct peer_info){.heard_ago_ns = UINT64_MAX};
	if (peer == NULL)
		return;
	*ret = peer->count;
	ret->linked = peer->own != NULL && !peer->own->dropped;
	ret->links = ret->linked;
	ret->status = peer->status;
	ret->slots_voting = peer->slots_voting;
	ret->heard_ago_ns = peer->heard_at == 0 ? UINT64_MAX : s->now.mclk - peer->heard_at;
}
