/* Links to other nodes. Link i between two nodes belongs to thread i on both sides, so a thread has
 * at most one link to a node; the other shards reach it by mail. */
#include "shard/peers.h"

#include <stdlib.h>

#include "base/check.h"
#include "base/log.h"

static const uint64_t silence_ns = 5ull * 1000 * 1000 * 1000;

enum {
	MAIL_BACKLOG_MAX_BYTES =
		4 << 20, /* overflow towards another thread: beyond, as BACKLOG_MAX_BYTES */
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

struct peer *peer_get(struct peers *p, uint8_t node)
{
	if (p->peer[node] == NULL)
		p->peer[node] = calloc(1, sizeof **p->peer);
	return p->peer[node];
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

/* How @peer is reached; NULL: not at all. */
static const struct route *route_used(const struct shard *s, const struct peer *peer)
{
	if (peer->links == 0)
		return NULL;
	const struct route *used = &peer->route[used_index(s, peer)];
	return used->up ? used : NULL;
}

/* As the engine is to see it: the thread that reaches @peer has a link to it, and all shards there
 * act by the epoch that this one acts by. */
static bool peer_usable(const struct shard *s, const struct peer *peer)
{
	const struct route *used = route_used(s, peer);
	return used != NULL && peer->epoch == s->cfg.members.epoch && peer->epoch_inc == used->inc;
}

/* Tell the engine what has become of it. */
static void peer_review(struct shard *s, uint8_t node)
{
	struct peer *peer = s->peers->peer[node];
	bool up = peer_usable(s, peer);
	uint64_t inc = up ? peer->route[used_index(s, peer)].inc : 0;

	if (peer->told_up && inc != peer->told_inc) {
		peer->told_up = false;
		tell_engine(s, node, false);
	}
	if (!peer->told_up && up) {
		peer->told_up = true;
		peer->told_inc = inc;
		tell_engine(s, node, true);
	}
}

static struct peer *peer_get_logged(struct shard *s, uint8_t node)
{
	struct peer *peer = peer_get(s->peers, node);
	if (peer == NULL)
		log_error("out of memory for what is known of peer %u", node);
	return peer;
}

static void route_set(struct shard *s, const struct mail_peer_link *news)
{
	struct peer *peer = peer_get_logged(s, news->node);
	if (peer == NULL)
		return;
	peer->route[news->index] =
		(struct route){.inc = news->inc, .links = news->links, .up = news->news == NEWS_UP};
	count_links(peer);
	peer_review(s, news->node);
}

/* It stays known while links come and go: the control thread's mail and that of the threads with
 * the links arrive in any order. A later life of the node is another incarnation. */
void peers_epoch_told(struct shard *s, const struct mail_peer_epoch *told)
{
	CHECK(told->node != 0);
	struct peer *peer = peer_get_logged(s, told->node);
	if (peer == NULL)
		return;
	peer->epoch = told->epoch;
	peer->epoch_inc = told->inc;
	peer_review(s, told->node);
}

void peers_close_frames(struct shard *s)
{
	for (struct list *l = s->peers->links.next; l != &s->peers->links; l = l->next) {
		struct peer_link *pl = container_of(l, struct peer_link, all);
		if (pl->open)
			frame_finish(s, pl);
	}
}

void peers_config_changed(struct shard *s)
{
	for (unsigned node = 1; node <= NODE_ID_MAX; node++)
		if (s->peers->peer[node] != NULL)
			peer_review(s, (uint8_t)node);
}

static uint8_t state_now(const struct shard *s, const struct peer *peer)
{
	if (peer->own == NULL || peer->own->dropped)
		return 0;
	return node_state(peer->status, peer->slots_in_sync, s->cfg.engine.slots);
}

void peer_state_noted(struct shard *s, struct peer *peer)
{
	uint8_t state = state_now(s, peer);
	if (state == peer->state)
		return;
	peer->state = state;
	peer->state_at = s->now.mclk;
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

void tell_missed(struct shard *s, const struct peer_link *pl)
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

void tell_control(
	struct shard *s, enum control_mail what, uint8_t node, uint16_t index, uint64_t inc)
{
	struct mail_link news = {.node = node, .link_index = index, .peer_inc = inc};
	memcpy(mailbox_put(s->mail, s->cfg.threads, what, sizeof news), &news, sizeof news);
}

void *mail_room(struct shard *s, struct peer *peer, unsigned to, uint16_t type, size_t bytes)
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
	struct mail_peer_out head = {.birth = s->now.mclk,
		.epoch = s->cfg.members.epoch,
		.inc = route_used(s, peer)->inc,
		.node = node};
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
		/* Whatever its epoch, as far as is known here: who has asked may have moved on a
		 * moment before its control thread says so. */
		const struct peer *peer = p->peer[to[i]];
		if (peer == NULL || route_used(s, peer) == NULL)
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
	if (head.epoch != s->cfg.members.epoch) {
		peer->count.msgs_other_epoch++;
		return;
	}
	/* Nothing meant for a dead incarnation reaches its successor (protocol.md 2.4, dst_inc). */
	if (old || peer->own == NULL || peer->own->inc != head.inc) {
		peer->count.msgs_dropped++;
		return;
	}
	link_append(s, peer->own, bytes_of(body + sizeof head, bytes - sizeof head), head.birth);
}

/* For the control thread, whatever the epoch: it is how a node learns of another one. */
static void config_in(
	struct shard *s, struct peer *peer, uint8_t node, uint64_t inc, struct bytes text)
{
	struct mail_config_msg head = {
		.inc = inc, .slots_in_sync = peer->slots_in_sync, .node = node};
	uint8_t *p = mail_room(s, peer, s->cfg.threads, MAIL_CONFIG_IN, sizeof head + text.len);
	if (p == NULL)
		return;
	memcpy(p, &head, sizeof head);
	if (text.len > 0)
		memcpy(p + sizeof head, text.p, text.len);
}

void peers_config_out(struct shard *s, const uint8_t *body, size_t bytes)
{
	struct mail_config_msg head;
	struct peers *p = s->peers;

	CHECK(bytes > sizeof head && bytes <= sizeof head + CONFIG_MSG_MAX_BYTES);
	memcpy(&head, body, sizeof head);
	struct peer *peer = p->peer[head.node];
	if (peer == NULL || peer->own == NULL)
		return;
	struct msg m = {.type = MSG_CONFIG,
		.flags = MSG_HAS_VALUE,
		.value = bytes_of(body + sizeof head, bytes - sizeof head)};
	p->scratch.len = 0;
	int r = msg_encode(&p->scratch, &m);
	CHECK(r == 0);
	link_append(s, peer->own, bytes_of(p->scratch.data, p->scratch.len), s->now.mclk);
}

void peer_message(struct shard *s, uint8_t node, uint64_t inc, uint64_t epoch, const struct msg *m)
{
	struct peer *peer = s->peers->peer[node];

	if (m->type == MSG_CONFIG) {
		config_in(s, peer, node, inc, m->value);
		return;
	}
	if (epoch != s->cfg.members.epoch) {
		peer->count.msgs_other_epoch++;
		return;
	}
	/* The engine takes votes by node: none of an incarnation it does not talk to. */
	const struct route *used = route_used(s, peer);
	if (used != NULL && used->inc != inc)
		peer->count.msgs_dropped++;
	else
		shard_step(s, &(struct event){.type = EV_MSG, .msg = {.from = node, .msg = m}});
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
	peer_message(s, head.node, head.inc, head.epoch, &m);
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
	memcpy(peer->addr, a->peer_addr, sizeof peer->addr);
	peer->addr[sizeof peer->addr - 1] = '\0';
	peer_state_noted(s, peer);
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
		peer_state_noted(s, peer);
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

	*ret = (struct peer_info){.heard_ago_ns = UINT64_MAX, .since_ns = UINT64_MAX};
	if (peer == NULL)
		return;
	*ret = peer->count;
	ret->linked = peer->own != NULL && !peer->own->dropped;
	ret->links = ret->linked;
	ret->state = state_now(s, peer);
	ret->since_ns = peer->state_at == 0 ? UINT64_MAX : s->now.mclk - peer->state_at;
	ret->epoch = peer->epoch;
	ret->lag_ms = peer->status == NODE_REPLICA ? peer->lag_ms : UINT32_MAX;
	ret->slots_voting = peer->slots_voting;
	ret->slots_in_sync = peer->slots_in_sync;
	ret->heard_ago_ns = peer->heard_at == 0 ? UINT64_MAX : s->now.mclk - peer->heard_at;
	memcpy(ret->addr, peer->addr, sizeof ret->addr);
}
