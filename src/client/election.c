#include <stdio.h>
#include <stdlib.h>

#include "client/lock.h"

enum {
	NAME_MAX_BYTES = LOCKER_VALUE_PREFIX_MAX_BYTES - 1,
	MARK_BYTES = 1 + 32, /* what is behind the name in a value: ":" and digits */
	LINE_MIN_MS = 1000,  /* to stand in one node's line; a node that hangs costs that much */
	LINE_MAX_MS = 10000,
	WATCH_MS = 10000,
	PAUSE_NEWS_MS = 10, /* before the next look, after something was heard to have happened */
	PAUSE_MS = 250,     /* and after nothing was, or something failed */
};

struct locker_election {
	struct locker_client *client;
	struct locker_lock *lock;
	locker_election_fn on_event;
	void *context;

	bool campaigning, leading;
	struct hearer taken;
	struct hearer released;
	struct timer retry;

	bool observe;
	struct request *watch; /* what is being asked about the leader */
	struct timer look;
	enum locker_outcome leader; /* LOCKER_OK, LOCKER_NONE, LOCKER_UNKNOWN */
	uint64_t leader_token;
	char leader_name[LOCKER_VALUE_MAX_BYTES + 1];
	size_t leader_name_bytes;

	struct callback events;
	unsigned pending; /* a bit for each event, told in their order */
	enum locker_outcome reason;
};

/* ---- events ---- */

static void run_events(struct callback *self)
{
	struct locker_election *e = container_of(self, struct locker_election, events);
	unsigned event = 0;

	client_lock(e->client);
	bool pending = e->pending != 0;
	while (event < LOCKER_LEADER_CHANGED && !(e->pending & 1U << event))
		event++;
	e->pending &= ~(1U << event);
	enum locker_outcome reason =
		event == LOCKER_LEAD_AT_RISK || event == LOCKER_DEPOSED ? e->reason : LOCKER_OK;
	if (e->pending)
		client_callback(e->client, &e->events);
	client_unlock(e->client);
	/* Between its turn and this it may have been taken back. */
	if (pending)
		e->on_event(e->context, e, (enum locker_election_event)event, reason);
}

static void tell(struct locker_election *e, enum locker_election_event event)
{
	e->pending |= 1U << event;
	list_remove(&e->events.link);
	client_callback(e->client, &e->events);
}

/* What the caller knows by himself, or does not want to know any more. */
static void forget(struct locker_election *e)
{
	e->pending &= 1U << LOCKER_LEADER_CHANGED;
	if (!e->pending)
		list_remove(&e->events.link);
}

static void lock_told(struct locker_lock *lock, enum locker_event event, enum locker_outcome reason)
{
	struct locker_election *e = lock->context;

	e->reason = reason;
	if (event == LOCKER_AT_RISK) {
		tell(e, LOCKER_LEAD_AT_RISK);
		return;
	}
	e->leading = false;
	e->pending &= ~(1U << LOCKER_LEAD_AT_RISK);
	tell(e, LOCKER_DEPOSED);
}

/* ---- campaigning ---- */

static void pause_campaign(struct locker_election *e)
{
	timer_set(&e->client->timers, &e->retry, e->client->now_ns + PAUSE_MS * NS_PER_MS);
}

static void stand_in_line(struct locker_client *c, struct timer *t)
{
	struct locker_election *e = container_of(t, struct locker_election, retry);
	struct lock_wish wish = {.wait_ms = e->lock->ttl_ms};

	if (wish.wait_ms < LINE_MIN_MS)
		wish.wait_ms = LINE_MIN_MS;
	if (wish.wait_ms > LINE_MAX_MS)
		wish.wait_ms = LINE_MAX_MS;
	/* Also while the last term is being given back. */
	if (lock_begin_acquire(e->lock, &wish, &e->taken) != LOCKER_OK)
		pause_campaign(e);
}

static void election_taken(
	struct locker_client *c, struct hearer *self, const struct locker_reply *reply)
{
	struct locker_election *e = container_of(self, struct locker_election, taken);

	if (reply->outcome == LOCKER_OK) {
		e->campaigning = false;
		e->leading = true;
		tell(e, LOCKER_ELECTED);
	} else if (reply->outcome == LOCKER_HELD) {
		timer_set(&c->timers, &e->retry, c->now_ns);
	} else {
		pause_campaign(e);
	}
}

static void election_released(
	struct locker_client *c, struct hearer *self, const struct locker_reply *reply)
{
}

enum locker_outcome locker_election_campaign(struct locker_election *election)
{
	struct locker_election *e = election;

	client_lock(e->client);
	lock_check(e->lock);
	bool busy = e->campaigning || e->leading;
	if (!busy) {
		forget(e);
		e->campaigning = true;
		timer_set(&e->client->timers, &e->retry, e->client->now_ns);
	}
	client_unlock(e->client);
	return busy ? LOCKER_USAGE : LOCKER_OK;
}

static enum locker_outcome resign(struct locker_election *e)
{
	struct lock_wish wish = {0};

	if (!e->campaigning && !e->leading)
		return LOCKER_LOST;
	timer_cancel(&e->client->timers, &e->retry);
	if (e->campaigning)
		lock_cancel(e->lock);
	else
		(void)lock_begin_release(e->lock, &wish, &e->released);
	e->campaigning = e->leading = false;
	forget(e);
	return LOCKER_OK;
}

enum locker_outcome locker_election_resign(struct locker_election *election)
{
	client_lock(election->client);
	enum locker_outcome outcome = resign(election);
	client_unlock(election->client);
	return outcome;
}

/* ---- watching ---- */

static void watch(struct locker_election *e, enum locker_verb verb, request_fn done)
{
	struct locker_command command = {
		.verb = verb, .key = e->lock->key, .quorum = true, .wait_ms = WATCH_MS};

	e->watch = request_submit(
		e->client, &command, e->client->call_ns, e->client->answer_ns, done, e);
	if (!e->watch)
		timer_set(&e->client->timers, &e->look, e->client->now_ns + PAUSE_MS * NS_PER_MS);
}

static void watched(struct locker_client *c, struct request *r, const struct locker_reply *reply)
{
	struct locker_election *e = r->context;
	int64_t pause_ms = reply->outcome == LOCKER_OK ? PAUSE_NEWS_MS : PAUSE_MS;

	e->watch = NULL;
	timer_set(&c->timers, &e->look, c->now_ns + pause_ms * NS_PER_MS);
}

/* A name without what was put behind it to make it unique. */
static size_t name_bytes(const char *value, size_t bytes)
{
	if (bytes <= MARK_BYTES || value[bytes - MARK_BYTES] != ':')
		return bytes;
	for (size_t i = bytes - MARK_BYTES + 1; i < bytes; i++)
		if (!strchr("0123456789abcdef", value[i]) || value[i] == '\0')
			return bytes;
	return bytes - MARK_BYTES;
}

static void looked(struct locker_client *c, struct request *r, const struct locker_reply *reply)
{
	struct locker_election *e = r->context;
	bool held = reply->outcome == LOCKER_OK;

	e->watch = NULL;
	if (!held && reply->outcome != LOCKER_NONE) {
		timer_set(&c->timers, &e->look, c->now_ns + PAUSE_MS * NS_PER_MS);
		return;
	}
	if (e->leader != reply->outcome || (held && e->leader_token != reply->token)) {
		e->leader = reply->outcome;
		e->leader_token = reply->token;
		e->leader_name_bytes = name_bytes(reply->value, reply->value_bytes);
		memcpy(e->leader_name, reply->value, e->leader_name_bytes);
		e->leader_name[e->leader_name_bytes] = '\0';
		tell(e, LOCKER_LEADER_CHANGED);
	}
	/* A node's own copy may be old; it only tells when to look again. */
	watch(e, held ? LOCKER_WAITRELEASE : LOCKER_WAITFOR, watched);
}

static void look(struct locker_client *c, struct timer *t)
{
	struct locker_election *e = container_of(t, struct locker_election, look);

	watch(e, LOCKER_HOLDER, looked);
}

enum locker_outcome locker_election_leader(
	struct locker_election *election, struct locker_reply *ret)
{
	struct locker_election *e = election;

	client_lock(e->client);
	enum locker_outcome outcome = reply_usage(ret, e->leader, "");
	if (ret && outcome == LOCKER_OK) {
		ret->token = e->leader_token;
		ret->value_bytes = e->leader_name_bytes;
		memcpy(ret->value, e->leader_name, e->leader_name_bytes + 1);
	}
	client_unlock(e->client);
	return outcome;
}

/* ---- making and freeing ---- */

static enum locker_outcome make_lock(struct locker_election *e, struct locker_client *client,
	const struct locker_election_options *options)
{
	char prefix[LOCKER_VALUE_PREFIX_MAX_BYTES];
	struct locker_lock_options wish = {.key = options->key,
		.value_prefix = {.data = prefix, .bytes = options->name.bytes + 1},
		.ttl_ms = options->ttl_ms,
		.extend = true,
		.context = e};

	memcpy(prefix, options->name.data, options->name.bytes);
	prefix[options->name.bytes] = ':';
	return locker_lock_new(client, &wish, &e->lock);
}

/* Under the mutex. */
static bool start(struct locker_election *e)
{
	struct locker_client *c = e->client;

	if (timer_reserve(&c->timers) < 0)
		return false;
	if (timer_reserve(&c->timers) < 0) {
		timer_unreserve(&c->timers);
		return false;
	}
	c->owned++;
	e->lock->tell = lock_told;
	if (e->observe)
		timer_set(&c->timers, &e->look, c->now_ns);
	return true;
}

enum locker_outcome locker_election_new(struct locker_client *client,
	const struct locker_election_options *options, struct locker_election **ret)
{
	if (!client || !options || !ret || !options->on_event || !options->name.data ||
		options->name.bytes == 0 || options->name.bytes > NAME_MAX_BYTES)
		return LOCKER_USAGE;
	struct locker_election *e = calloc(1, sizeof *e);
	if (!e)
		return LOCKER_MEMORY;
	e->client = client;
	e->on_event = options->on_event;
	e->context = options->context;
	e->observe = options->observe;
	e->leader = LOCKER_UNKNOWN;
	e->taken.hear = election_taken;
	e->released.hear = election_released;
	e->retry.fire = stand_in_line;
	e->look.fire = look;
	e->events.run = run_events;
	list_init(&e->events.link);
	enum locker_outcome outcome = make_lock(e, client, options);
	if (outcome != LOCKER_OK) {
		free(e);
		return outcome;
	}
	client_lock(client);
	bool started = start(e);
	client_unlock(client);
	if (!started) {
		locker_lock_free(e->lock);
		free(e);
		return LOCKER_MEMORY;
	}
	*ret = e;
	return LOCKER_OK;
}

void locker_election_free(struct locker_election *election)
{
	struct locker_election *e = election;

	if (!e)
		return;
	struct locker_client *c = e->client;
	client_lock(c);
	(void)resign(e);
	client_wait_callback(c, &e->events);
	if (e->watch) {
		e->watch->done = NULL;
		if (request_waits(e->watch))
			conn_end(e->watch->conn);
	}
	timer_cancel(&c->timers, &e->retry);
	timer_cancel(&c->timers, &e->look);
	timer_unreserve(&c->timers);
	timer_unreserve(&c->timers);
	c->owned--;
	client_unlock(c);
	locker_lock_free(e->lock);
	free(e);
}

bool locker_election_valid(struct locker_election *election)
{
	return locker_lock_valid(election->lock);
}

uint64_t locker_election_token(struct locker_election *election)
{
	return locker_lock_token(election->lock);
}
