/* The network between engines: messages that are late, lost, doubled, overtaken, and links that
 * come and go. What a shard refuses to pass on is refused here too: messages for or of dead
 * incarnations, and those older than T_msg (protocol.md 2.4). */
#include "sim.h"

void net_init(struct world *w)
{
	for (unsigned i = 0; i < MAILS_MAX; i++)
		w->mail[i].next_free = (uint16_t)(i + 1);
	w->mail_free = 0;
}

uint64_t net_delay(struct world *w, unsigned to)
{
	const struct swarm *s = &w->swarm;
	uint64_t delay = s->delay_ns + below(w, s->jitter_ns);
	if (w->calm)
		return delay;
	if (chance(w, s->tail_ppm)) /* heavy tail: half of what is left, again and again */
		delay += below(w, s->tail_ns >> below(w, 6));
	return delay + below(w, w->node[to].slow_ns);
}

static void send_one(struct world *w, unsigned from, unsigned to, const struct msg *m)
{
	uint16_t at = w->mail_free;
	if (at == MAILS_MAX || m->value.len + m->name.len > sizeof w->mail[0].data) {
		w->sums.lost++;
		return;
	}
	struct mail *mail = &w->mail[at];
	w->mail_free = mail->next_free;
	mail->msg = *m;
	mail->sent_mclk = clock_read(&w->node[to].mclk, w->now);
	mail->from_life = w->node[from].life;
	mail->to_life = w->node[to].life;
	mail->stream = w->stream[from][to];
	mail->epoch = w->node[from].config.epoch;
	mail->from = (uint8_t)from;
	mail->to = (uint8_t)to;
	/* Replies carry no key. */
	mail->key = m->key.len == 2 ? m->key.p[1] : KEYS_MAX;
	if (m->value.len > 0)
		memcpy(mail->data, m->value.p, m->value.len);
	if (m->name.len > 0)
		memcpy(mail->data + m->value.len, m->name.p, m->name.len);
	bool slow = !w->calm && (w->swarm.slow_types[to] >> m->type & 1) != 0 &&
		    chance(w, w->swarm.slow_type_ppm);
	uint64_t attempt_us = w->node[to].cfg.attempt_ms * 1000, from_ppm = w->swarm.slow_from_ppm;
	uint64_t more_ppm = slow ? from_ppm + below(w, w->swarm.slow_most_ppm - from_ppm) : 0;
	world_push(
		w, w->now + net_delay(w, to) + attempt_us * more_ppm / 1000, ITEM_MSG, to, at, 0);
}

/* Any message; or, in some runs, nearly all of one kind. */
static bool is_lost(struct world *w, unsigned to, const struct msg *m)
{
	const struct swarm *s = &w->swarm;
	if (w->calm)
		return false;
	bool reply = m->type == MSG_REPLY;
	uint8_t type = reply ? m->req_type : m->type;
	unsigned ppm = type == s->lost_type && reply == s->lost_reply ? s->lost_type_ppm : 0;
	unsigned here_ppm = s->lost_types[to] >> m->type & 1 ? s->lost_types_ppm : 0;
	return chance(w, s->loss_ppm) || chance(w, ppm) || chance(w, here_ppm);
}

void net_post(struct world *w, unsigned from, unsigned to, const struct msg *m)
{
	const struct node *n = &w->node[from];
	/* The shard skips a node that it has no link to. */
	if (n->linked[to] == 0 || w->cut[from][to] || is_lost(w, to, m)) {
		w->sums.lost++;
		return;
	}
	send_one(w, from, to, m);
	if (!w->calm && chance(w, w->swarm.dup_ppm))
		send_one(w, from, to, m);
}

/* May the receiver see it at all? */
static bool passes(struct world *w, const struct mail *mail)
{
	const struct node *n = &w->node[mail->to];
	bool is_reply = mail->msg.type == MSG_REPLY;
	if (!n->up || n->life != mail->to_life || w->cut[mail->from][mail->to])
		return false;
	/* An engine takes nothing of an incarnation other than the one it is linked with. */
	if (n->linked[mail->from] != 0 && n->linked[mail->from] != mail->from_life)
		return false;
	if (mail->stream != w->stream[mail->from][mail->to] && !chance(w, w->swarm.old_stream_ppm))
		return false;
	if (mail->epoch != n->config.epoch && !MUTANT(EPOCH_IGNORED)) {
		w->sums.other_epoch++;
		return false;
	}
	uint64_t age = clock_read(&n->mclk, w->now) - mail->sent_mclk;
	bool any_age = MUTANT(MESSAGE_OLD) || MUTANT(EXTEND_LATE);
	bool old = age > n->cfg.attempt_ms * MS / 10 * 9 && !any_age;
	if (old && !(is_reply && w->swarm.late_replies)) {
		w->sums.dropped_old++;
		return false;
	}
	return true;
}

static bool later(struct world *w, const struct item *it)
{
	const struct mail *mail = &w->mail[it->idx];
	const struct node *n = &w->node[mail->to];
	uint64_t until = n->up && n->life == mail->to_life ? n->paused_until : 0;
	uint64_t clogged = w->clogged_until[mail->from][mail->to];
	until = clogged > until ? clogged : until;
	if (until <= w->now)
		return false;
	world_push(w, until + below(w, MS), ITEM_MSG, it->node, it->idx, 0);
	return true;
}

void net_deliver(struct world *w, const struct item *it)
{
	struct mail *mail = &w->mail[it->idx];
	if (later(w, it))
		return;
	if (passes(w, mail)) {
		struct msg *m = &mail->msg;
		int key = mail->key < w->keys ? mail->key : -1;
		m->key = key >= 0 ? bytes_of(w->key[key].name, 2) : (struct bytes){0};
		if (m->value.len > 0)
			m->value.p = mail->data;
		if (m->name.len > 0)
			m->name.p = mail->data + m->value.len;
		w->events++;
		trace_fold(w, w->now ^ (uint64_t)m->type << 56 ^ (uint64_t)m->verdict << 48,
			m->uid.n ^ m->req ^ (uint64_t)mail->from << 8 ^ mail->to);
		TRACE(w, "%u -> %u %s%s key %d n %llu verdict %u req %llx", mail->from, mail->to,
			msg_name(m),
			m->type == MSG_REPLY ? m->req & PROBE_REQ ? " (probe)" : "" : "", key,
			(unsigned long long)(m->uid.n != 0 ? m->uid.n : m->n), m->verdict,
			(unsigned long long)m->req);
		node_step(
			w, mail->to, &(struct event){.type = EV_MSG, .msg = {mail->from, m}}, key);
		if (!w->over && m->type != MSG_REPLY)
			check_answered(w, m, mail->to);
	}
	mail->next_free = w->mail_free;
	w->mail_free = it->idx;
}

/* ---- links ---- */

/* What @id claims to have been before, @peer may know better (protocol.md 2.8, step 0). */
static void shake_hands(struct world *w, unsigned id, unsigned peer)
{
	struct node *n = &w->node[id];
	uint32_t *seen = &w->node[peer].seen[id];
	bool old = n->after_life != 0 && *seen > n->after_life && *seen != n->life;
	if (old) {
		TRACE(w, "%u does not believe the state file of %u", peer, id);
		n->after_life = 0;
		restart_distrust(&n->restart);
		if (w->churn)
			members_forget(n->members, n->time.fast_ns);
	}
	*seen = n->life;
}

void net_hear(struct world *w, unsigned id, unsigned peer, bool up)
{
	struct node *n = &w->node[id];
	n->heard[peer] = up;
	bool missed = up && w->now - n->unlinked_at[peer] > 3 * n->cfg.attempt_ms * MS;
	if (!up)
		n->unlinked_at[peer] = w->now;
	node_step(w, id, &(struct event){.type = EV_LINK, .link = {(uint8_t)peer, up}}, -1);
	if (!w->over && n->up && missed && !w->shard_level)
		node_step(w, id, &(struct event){.type = EV_MISSED}, -1);
}

static void tell(struct world *w, unsigned id, unsigned peer, bool up)
{
	struct node *n = &w->node[id];
	uint32_t now = up ? w->node[peer].life : 0;
	if (!n->up || n->linked[peer] == now)
		return;
	n->linked[peer] = now;
	change_link(w, id, peer, up);
	/* Where the configuration changes, the peer has to say first which one it acts by. */
	if (!w->churn || (!up && n->heard[peer]))
		net_hear(w, id, peer, up);
}

void net_link(struct world *w, unsigned a, unsigned b, bool up)
{
	if (a == b || (up && (!w->node[a].up || !w->node[b].up)) ||
		(up && (w->cut[a][b] || w->cut[b][a])))
		return;
	if (up && w->node[a].linked[b] == w->node[b].life &&
		w->node[b].linked[a] == w->node[a].life)
		return;
	w->stream[a][b]++;
	w->stream[b][a]++;
	tell(w, a, b, false);
	tell(w, b, a, false);
	if (!up)
		return;
	shake_hands(w, a, b);
	shake_hands(w, b, a);
	tell(w, a, b, true);
	tell(w, b, a, true);
}

void net_link_all(struct world *w, unsigned id)
{
	for (unsigned k = 1; k <= w->nodes; k++)
		net_link(w, id, k, true);
}
