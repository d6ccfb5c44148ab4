/* Is there an order of the operations of a key that explains all answers? Wing & Gong's search with
 * Lowe's memory of configurations seen (Lowe, Testing for Linearizability, 2017), one key at a
 * time.
 *
 * The object (protocol.md 3): absent, or held(token, value) that cannot end by itself before the
 * latest time told to a client, and may at any time from then on. Every operation takes effect at a
 * moment between its begin and its end; moments are as early as they can be. Attempts whose outcome
 * nobody was told, and writes and releases that ended unknown, may take effect or not. */
#include "sim.h"

#include <inttypes.h>
#include <stdlib.h>

enum { CACHE_BITS = 17, STATES_MAX = 1 << 16 };

enum step_kind {
	STEP_LOCK,
	STEP_ADOPT, /* an idempotent lock: takes it, or finds it */
	STEP_GHOST, /* optional */
	STEP_EXTEND,
	STEP_UPDATE,
	STEP_MAYBE_UPDATE, /* optional */
	STEP_RELEASE,
	STEP_MAYBE_RELEASE, /* optional */
	STEP_PART_RELEASE,  /* optional */
	STEP_READ,
	STEP_READ_NULL,
};

struct step {
	uint8_t kind;
	bool optional, repeats, any_value;
	uint32_t value, new_value;
	uint64_t token, until, begin, end, told;
};

struct state {
	uint64_t token, top, until, now;
	uint64_t extended; /* begin of the last operation that was told the lease goes on */
	uint32_t value;
};

struct entry {
	uint32_t prev, next; /* entry index; 0 is the head */
	uint32_t step;
	bool is_end;
	uint64_t at;
};

struct frame {
	struct state state;
	uint64_t set;
	uint32_t entry;
	uint8_t phase;
	bool skip;
};

/* Too large for a stack; one run at a time. */
static struct step steps[4 * HISTORY_MAX];
static struct entry entries[8 * HISTORY_MAX];
static uint32_t entry_of_end[4 * HISTORY_MAX];
static struct frame frames[4 * HISTORY_MAX];
static uint64_t cache[1 << CACHE_BITS];
static uint64_t *last_use;     /* by value */
static uint64_t *last_of_lock; /* by the value it was taken with: of any of its values */
static uint32_t n_steps, n_entries;
static bool tokens_exempt;

static uint64_t mix(uint64_t h, uint64_t v)
{
	h = (h ^ v) * UINT64_C(0x9e3779b97f4a7c15);
	return h ^ (h >> 31);
}

/* Already been here with the same steps done? */
static bool seen(uint64_t set, const struct state *s)
{
	uint64_t h = mix(mix(mix(mix(set, s->token), s->value), s->now), s->until) | 1;
	uint32_t i = (uint32_t)(h >> (64 - CACHE_BITS));
	for (; cache[i] != 0; i = (i + 1) % (1u << CACHE_BITS))
		if (cache[i] == h)
			return true;
	cache[i] = h;
	return false;
}

/* Nobody holds it, or the holder's time may be over: then it is. */
static bool make_absent(struct state *s, const struct step *p)
{
	if (s->token == 0)
		return true;
	if (s->until > s->now)
		s->now = s->until;
	s->token = 0;
	return s->now <= p->end;
}

static bool take(struct state *s, const struct step *p)
{
	if ((p->token <= s->top && !tokens_exempt) || !make_absent(s, p))
		return false;
	s->token = s->top = p->token;
	s->value = p->value;
	s->until = p->until;
	s->extended = 0;
	return true;
}

static void go_on(struct state *s, const struct step *p)
{
	if (p->until > s->until)
		s->until = p->until;
	s->extended = p->begin > s->extended ? p->begin : s->extended;
}

static bool holds(const struct state *s, const struct step *p)
{
	return s->token == p->token && (p->any_value || s->value == p->value);
}

static bool apply(struct state *s, const struct step *p)
{
	if (p->begin > s->now)
		s->now = p->begin;
	if (s->now > p->end)
		return false;
	switch ((enum step_kind)p->kind) {
	case STEP_LOCK:
	case STEP_GHOST:
		return take(s, p);
	case STEP_ADOPT:
		if (!holds(s, p))
			return take(s, p);
		go_on(s, p);
		return true;
	case STEP_EXTEND:
		go_on(s, p);
		return holds(s, p);
	case STEP_UPDATE:
		if (s->token != p->token ||
			(s->value != p->value && !(p->repeats && s->value == p->new_value)))
			return false;
		s->value = p->new_value;
		go_on(s, p);
		return true;
	case STEP_MAYBE_UPDATE:
		if (s->token == 0 || s->value != p->value)
			return false;
		s->value = p->new_value;
		return true;
	case STEP_RELEASE:
		if (holds(s, p)) {
			s->token = 0;
			return true;
		}
		/* A copy that outlived its instance on a minority is released as well (seed 3228:
		 * of a lease that was updated meanwhile, and then ended). */
		return s->token != p->token ? p->token <= s->top : make_absent(s, p);
	case STEP_MAYBE_RELEASE:
	case STEP_PART_RELEASE:
		/* What it left undecided was decided when the lease was seen to go on afterwards.
		 */
		if (s->token == 0 || s->extended > p->told ||
			(p->any_value ? s->token != p->token : s->value != p->value))
			return false;
		/* One that landed at a minority leaves no more than what is promised anew. */
		s->until = 0;
		if (p->kind == STEP_MAYBE_RELEASE)
			s->token = 0;
		return true;
	case STEP_READ:
		return holds(s, p);
	case STEP_READ_NULL:
		return make_absent(s, p);
	}
	return false;
}

/* ---- the steps of a key ---- */

static void used(uint32_t value, uint64_t at)
{
	if (at > last_use[value])
		last_use[value] = at;
}

static struct step *step_add(uint8_t kind, const struct record *r)
{
	struct step *p = &steps[n_steps++];
	*p = (struct step){.kind = kind,
		.value = r->value,
		.new_value = r->new_value,
		.token = r->token,
		.any_value = r->any_value,
		.until = r->until,
		.begin = r->begin,
		.end = r->end,
		.told = r->end};
	return p;
}

static void add_done(const struct record *r)
{
	static const uint8_t kinds[] = {[OP_LOCK] = STEP_LOCK,
		[OP_UPDATE] = STEP_UPDATE,
		[OP_EXTEND] = STEP_EXTEND,
		[OP_RELEASE] = STEP_RELEASE,
		[OP_READ_QUORUM] = STEP_READ};
	if (r->kind == OP_READ_QUORUM && r->outcome == OUT_NULL) {
		step_add(STEP_READ_NULL, r);
	} else if (r->outcome == OUT_OK && r->kind <= OP_READ_QUORUM && r->kind != OP_READ) {
		struct step *p = step_add(kinds[r->kind], r);
		p->repeats = r->kind == OP_UPDATE && r->has_token;
		if (r->kind == OP_LOCK && r->new_value != 0)
			p->kind = STEP_ADOPT;
		used(r->value, r->end);
		if (r->kind == OP_UPDATE)
			used(r->new_value, r->end);
	}
}

static bool is_maybe(const struct record *r, unsigned k, uint8_t kind)
{
	return r->key == k && r->optional && r->kind == kind;
}

/* A write that was seen makes the one that it was written over matter, and values may come back. */
static void use_bases(const struct history *h, unsigned k)
{
	for (bool more = true; more;) {
		more = false;
		for (uint32_t i = h->records; i-- > 0;) {
			const struct record *r = &h->record[i];
			if (!is_maybe(r, k, OP_UPDATE) || last_use[r->new_value] < r->begin ||
				last_use[r->value] >= last_use[r->new_value])
				continue;
			used(r->value, last_use[r->new_value]);
			more = true;
		}
	}
}

static void find_last_of_locks(const struct world *w)
{
	memset(last_of_lock, 0, (w->next_value + 1) * sizeof *last_of_lock);
	for (uint32_t value = 1; value <= w->next_value; value++) {
		uint64_t *last = &last_of_lock[client_first_value(value)];
		*last = last_use[value] > *last ? last_use[value] : *last;
	}
}

/* When the lease that a BREAK names was told of last. */
static uint64_t last_of_token(const struct world *w, const struct record *r)
{
	const struct history *h = &w->history;
	uint64_t last = 0;
	for (uint32_t i = 0; i < h->records; i++) {
		const struct record *o = &h->record[i];
		if (o->key == r->key && !o->optional && o->token == r->asked_token && o->end > last)
			last = o->end;
	}
	return last;
}

static void add_maybe_release(const struct world *w, const struct record *r)
{
	uint64_t lease_ns =
		w->node[1].cfg.max_lease_ms * MS * 4 / 3 + 4 * w->node[1].cfg.attempt_ms * MS;
	struct step *p = step_add(STEP_MAYBE_RELEASE, r);
	/* What comes back may have been extended under another value. */
	uint64_t used_at = w->swarm.back_ppm == 0 ? last_use[r->value]
						  : last_of_lock[client_first_value(r->value)];
	if (r->any_value) {
		used_at = last_of_token(w, r);
		p->token = r->asked_token;
	}
	uint64_t last = used_at > r->begin ? used_at : r->begin;
	p->optional = true;
	p->end = last + lease_ns;
	if (!r->any_value)
		used(r->value, p->end); /* what wrote it matters (seed 822) */
	steps[n_steps] = *p;
	steps[n_steps++].kind = STEP_PART_RELEASE;
}

static void add_maybes(const struct world *w, unsigned k)
{
	const struct history *h = &w->history;
	use_bases(h, k);
	find_last_of_locks(w);
	for (uint32_t i = h->records; i-- > 0;)
		if (is_maybe(&h->record[i], k, OP_RELEASE))
			add_maybe_release(w, &h->record[i]);
	use_bases(h, k);
	for (uint32_t i = h->records; i-- > 0;) {
		const struct record *r = &h->record[i];
		if (!is_maybe(r, k, OP_UPDATE) || last_use[r->new_value] < r->begin)
			continue;
		struct step *p = step_add(STEP_MAYBE_UPDATE, r);
		p->optional = true;
		p->end = last_use[r->new_value];
	}
}

struct instance {
	uint64_t token;
	uint32_t value; /* that it began with: two coordinators may make one token */
};

static int by_token(const void *a, const void *b)
{
	const struct instance *x = a, *y = b;
	if (x->token != y->token)
		return x->token < y->token ? -1 : 1;
	return x->value < y->value ? -1 : x->value > y->value;
}

static int by_token_only(const void *a, const void *b)
{
	const struct instance *x = a, *y = b;
	return x->token < y->token ? -1 : x->token > y->token;
}

/* Attempts that somebody saw, though no plain LOCK was granted with that token. At shard level they
 * are noticed when they are live somewhere, which may be after somebody saw them. */
static void add_ghosts(const struct world *w, unsigned k)
{
	static struct instance locked[4 * HISTORY_MAX], named[4 * HISTORY_MAX];
	/* A message that asks for a vote lives for T_msg = T_att on the receiver's clock, which NTP
	 * may slew; votes after that are none. */
	uint64_t ghost_ns = 2 * w->node[1].cfg.attempt_ms * MS + 50 * MS;
	uint32_t n_locked = 0, n_named = 0, end = n_steps;
	for (uint32_t i = 0; i < end; i++) {
		const struct step *p = &steps[i];
		struct instance one = {p->token, p->value};
		if (p->kind == STEP_LOCK)
			locked[n_locked++] = one;
		else if (!p->optional && p->kind != STEP_READ_NULL)
			named[n_named++] = one;
	}
	qsort(locked, n_locked, sizeof locked[0], by_token);
	qsort(named, n_named, sizeof named[0], by_token);
	for (uint32_t i = 0; i < w->history.attempts; i++) {
		const struct attempt *a = &w->history.attempt[i];
		struct instance one = {a->n, a->value};
		if (a->key != k || bsearch(&one, locked, n_locked, sizeof one, by_token) != NULL ||
			bsearch(&one, named, n_named, sizeof one, by_token_only) == NULL)
			continue;
		steps[n_steps++] = (struct step){.kind = STEP_GHOST,
			.optional = true,
			.value = a->value,
			.token = a->n,
			.begin = w->shard_level ? 0 : a->sent,
			.end = a->sent + ghost_ns};
	}
}

/* Is there something that made the instance, or wrote its value, which nothing else has? */
static bool has_origin(const struct step *p)
{
	for (uint32_t k = 0; k < n_steps; k++) {
		const struct step *q = &steps[k];
		bool made = (q->kind == STEP_LOCK || q->kind == STEP_GHOST) &&
			    q->token == p->token && (p->any_value || q->value == p->value);
		bool written = (q->kind == STEP_UPDATE || q->kind == STEP_MAYBE_UPDATE) &&
			       q->new_value == p->value;
		if (made || written)
			return true;
	}
	return false;
}

/* Shard level: an attempt that came and went within one loop was not seen by the world. */
static void add_unseen_ghosts(uint32_t end)
{
	for (uint32_t i = 0; i < end; i++) {
		const struct step *p = &steps[i];
		if (p->optional || p->token == 0 || p->kind == STEP_LOCK || has_origin(p))
			continue;
		steps[n_steps++] = (struct step){.kind = STEP_GHOST,
			.optional = true,
			.value = p->value,
			.token = p->token,
			.end = UINT64_MAX};
	}
}

static int by_time(const void *a, const void *b)
{
	const struct entry *x = a, *y = b;
	if (x->at != y->at)
		return x->at < y->at ? -1 : 1;
	if (x->is_end != y->is_end)
		return x->is_end ? 1 : -1;
	return x->step < y->step ? -1 : x->step > y->step;
}

static uint32_t collect(const struct world *w, unsigned k)
{
	uint32_t required = 0;
	n_steps = 0;
	n_entries = 1;
	for (uint32_t i = 0; i < w->history.records; i++)
		if (w->history.record[i].key == k && !w->history.record[i].optional)
			add_done(&w->history.record[i]);
	add_maybes(w, k);
	uint32_t end = n_steps;
	add_ghosts(w, k);
	if (w->shard_level)
		add_unseen_ghosts(end);
	for (uint32_t i = 0; i < n_steps; i++) {
		entries[n_entries++] = (struct entry){.step = i, .at = steps[i].begin};
		if (steps[i].optional)
			continue;
		required++;
		entries[n_entries++] =
			(struct entry){.step = i, .is_end = true, .at = steps[i].end};
	}
	qsort(entries + 1, n_entries - 1, sizeof entries[0], by_time);
	for (uint32_t i = 0; i < n_entries; i++) {
		entries[i].prev = i == 0 ? n_entries - 1 : i - 1;
		entries[i].next = i + 1 == n_entries ? 0 : i + 1;
		if (i > 0 && entries[i].is_end)
			entry_of_end[entries[i].step] = i;
	}
	return required;
}

/* ---- the search ---- */

static void unlink_entry(uint32_t i)
{
	entries[entries[i].prev].next = entries[i].next;
	entries[entries[i].next].prev = entries[i].prev;
}

static void relink_entry(uint32_t i)
{
	entries[entries[i].prev].next = i;
	entries[entries[i].next].prev = i;
}

static void lift(uint32_t i)
{
	const struct step *p = &steps[entries[i].step];
	unlink_entry(i);
	if (!p->optional)
		unlink_entry(entry_of_end[entries[i].step]);
}

static void unlift(uint32_t i)
{
	const struct step *p = &steps[entries[i].step];
	if (!p->optional)
		relink_entry(entry_of_end[entries[i].step]);
	relink_entry(i);
}

enum found { FOUND_ORDER, FOUND_NONE, FOUND_GIVEN_UP };

/* Take the last step back that was not merely an optional one whose time was over. */
static bool step_back(struct state *s, uint64_t *set, uint32_t *depth, uint32_t *required,
	unsigned *phase, uint32_t *at)
{
	for (bool skipped = true; skipped;) {
		if (*depth == 0)
			return false;
		const struct frame *f = &frames[--*depth];
		unlift(f->entry);
		*required += !steps[entries[f->entry].step].optional;
		*s = f->state;
		*set = f->set;
		*phase = f->phase;
		*at = entries[f->entry].next;
		skipped = f->skip;
	}
	return true;
}

/* Required steps are tried first; optional ones only where no required one leads on. */
static enum found search(struct world *w, uint32_t required, uint64_t *ret_stuck_at)
{
	struct state s = {0};
	uint64_t set = 0;
	uint32_t depth = 0, at = entries[0].next, states = 0;
	unsigned phase = 0;
	while (required > 0) {
		const struct entry *en = &entries[at];
		const struct step *p = &steps[en->step];
		if (at != 0 && !en->is_end && p->optional && s.now > p->end && en->prev == 0) {
			frames[depth++] =
				(struct frame){s, set, at, 0, true}; /* its time is over */
			lift(at);
			at = entries[0].next;
			continue;
		}
		if (at != 0 && !en->is_end) {
			struct state next = s;
			uint64_t with = set ^ mix(en->step, UINT64_C(0x5bf03635));
			if (p->optional == (phase == 1) && apply(&next, p) && !seen(with, &next)) {
				if (++states > STATES_MAX)
					return FOUND_GIVEN_UP;
				frames[depth++] = (struct frame){s, set, at, (uint8_t)phase, false};
				lift(at);
				required -= !p->optional;
				s = next;
				set = with;
				phase = 0;
				at = entries[0].next;
			} else {
				at = en->next;
			}
			continue;
		}
		if (phase == 0) {
			phase = 1;
			at = entries[0].next;
			continue;
		}
		if (en->at > *ret_stuck_at)
			*ret_stuck_at = en->at;
		if (!step_back(&s, &set, &depth, &required, &phase, &at))
			return FOUND_NONE;
	}
	w->sums.linear_states += states;
	return FOUND_ORDER;
}

void linear_check(struct world *w)
{
	last_use = realloc(last_use, (w->next_value + 1) * sizeof *last_use);
	last_of_lock = realloc(last_of_lock, (w->next_value + 1) * sizeof *last_of_lock);
	CHECK(last_use != NULL && last_of_lock != NULL);
	tokens_exempt = w->tokens_exempt;
	for (unsigned k = 0; k < w->keys && !w->over; k++) {
		memset(last_use, 0, (w->next_value + 1) * sizeof *last_use);
		memset(cache, 0, sizeof cache);
		uint32_t required = collect(w, k);
		uint64_t stuck_at = 0;
		w->sums.linear_ops += required;
		enum found found = search(w, required, &stuck_at);
		if (found == FOUND_NONE)
			violation(w, RUN_UNSAFE,
				"linearizability: no order explains key %u up to %" PRIu64 " us", k,
				stuck_at / 1000);
		else if (found == FOUND_GIVEN_UP)
			w->sums.linear_given_up++;
	}
}
