/* Frames: the bytes between nodes, and how old the messages in them are at most. */
#include "shard/peers.h"

#include <errno.h>

#include "base/check.h"
#include "base/log.h"
#include "base/mutant.h"

static const uint64_t heartbeat_ns = (uint64_t)HEARTBEAT_MS * 1000 * 1000;

enum {
	BACKLOG_MAX_BYTES = 8 << 20, /* unsent on a link: beyond, all of it would arrive too old */
	/* So many heartbeats and attempts without news of a peer, and something was missed. */
	MISSED_BEATS = 10,
	MISSED_ATTEMPTS = 3,
};

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

void frame_finish(struct shard *s, struct peer_link *pl)
{
	struct link *link = pl->link;
	struct peer_info *count = &s->peers->peer[pl->node]->count;
	struct frame_header h = {
		.frame_bytes = (uint32_t)(link->out.len - pl->frame_at),
		.count = pl->count,
		.cluster = s->cfg.cluster,
		.epoch = s->cfg.members.epoch,
		.src_inc = s->cfg.inc,
		.dst_inc = pl->inc,
		.mclk = s->now.mclk,
		.hlc_n = engine_hlc(s->engine),
		.src_node = s->cfg.engine.self,
		.status = s->status.status,
		.slots_voting = s->status.slots_voting,
		.slots_in_sync = s->status.slots_in_sync,
		.lag_ms = s->status.lag_ms,
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

void link_drop(struct shard *s, struct peer_link *pl, const char *reason)
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

bool frame_open(struct shard *s, struct peer_link *pl)
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

void link_append(struct shard *s, struct peer_link *pl, struct bytes msg, uint64_t birth)
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

/* ---- incoming frames ---- */

/* One message of a frame of @epoch, for this shard or to be passed on. NULL or what is wrong with
 * it. */
static const char *message_in(struct shard *s, struct peer_link *pl, uint64_t epoch, uint64_t born,
	struct bytes msg, uint16_t slot)
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
		peer_message(s, pl->node, pl->inc, epoch, &m);
		return NULL;
	}
	if (epoch != s->cfg.members.epoch) {
		peer->count.msgs_other_epoch++;
		return NULL;
	}
	struct mail_peer_in head = {.born_mclk = born,
		.epoch = epoch,
		.inc = pl->inc,
		.index = pl->index,
		.node = pl->node};
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
		wrong = message_in(s, pl, h->epoch, born, bytes_of(p, len), slot);
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
	peer->slots_in_sync = h->slots_in_sync;
	peer->lag_ms = h->lag_ms;
	peer_state_noted(s, peer);
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
