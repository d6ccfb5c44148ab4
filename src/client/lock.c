#include "client/lock.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>

enum {
	RANDOM_BYTES = 16,
	RETRIES_PER_LEASE = 12,
	BATCHES_PER_LEASE = 16,
	PATIENCE_MIN_MS = 50, /* with a node; less would call every hiccup a failure */
	RETRY_MIN_MS = 5,
};

/* ---- validity ----
 * Read without the mutex. The two ends are stored one after the other, and a reader may see one of
 * before and one of after: both must lie ahead, and while the lock is held they only move on, so
 * such a reader says no more than the later promise. */

static void store_until(struct locker_lock *l, const struct instant *sent_at, int64_t valid_ns)
{
	int64_t boot_ns = sent_at->boot_ns + valid_ns, raw_ns = sent_at->raw_ns + valid_ns;

	if (boot_ns > atomic_load(&l->until_boot_ns))
		atomic_store(&l->until_boot_ns, boot_ns);
	if (raw_ns > atomic_load(&l->until_raw_ns))
		atomic_store(&l->until_raw_ns, raw_ns);
}

static void invalidate(struct locker_lock *l)
{
	atomic_store(&l->until_boot_ns, INT64_MIN);
	atomic_store(&l->until_raw_ns, INT64_MIN);
}

/* Not positive: over. */
static int64_t left_ns(struct locker_lock *l, const struct instant *now)
{
	int64_t boot_ns = atomic_load(&l->until_boot_ns), raw_ns = atomic_load(&l->until_raw_ns);

	if (boot_ns == INT64_MIN || raw_ns == INT64_MIN)
		return 0;
	boot_ns -= now->boot_ns;
	raw_ns -= now->raw_ns;
	return boot_ns < raw_ns ? boot_ns : raw_ns;
}

static bool is_held(struct locker_lock *l)
{
	return l->state == LOCK_HELD && left_ns(l, &l->client->now) > 0;
}

/* ---- events ---- */

static void run_events(struct callback *self)
{
	struct locker_lock *l = container_of(self, struct locker_lock, events);

	pthread_mutex_lock(&l->client->mutex);
	bool pending = l->pending;
	enum locker_event event = l->event;
	enum locker_outcome reason = l->event_reason;
	l->pending = false;
	pthread_mutex_unlock(&l->client->mutex);
	/* Between its turn and this it may have been taken back. */
	if (pending)
		l->on_event(l->context, l, event, reason);
}

static void take_back_events(struct locker_lock *l)
{
	l->pending = false;
	list_remove(&l->events.link);
}

static void tell_caller(struct locker_lock *l, enum locker_event event, enum locker_outcome reason)
{
	if (!l->on_event)
		return;
	/* One that was not told yet is replaced: the end makes the risk old news. */
	list_remove(&l->events.link);
	l->pending = true;
	l->event = event;
	l->event_reason = reason;
	client_callback(l->client, &l->events);
}

/* ---- requests ---- */

static void hear(struct locker_lock *l, struct hearer **hearer, enum locker_outcome outcome,
	const struct locker_reply *reply)
{
	struct hearer *to = *hearer;
	struct locker_reply changed;

	*hearer = NULL;
	if (!to)
		return;
	if (reply)
		reply_copy(&changed, reply);
	else
		reply_usage(&changed, outcome, "");
	changed.outcome = outcome;
	to->hear(l->client, to, &changed);
}

/* The answer to a request whose lock is gone or freed: what it may have got is given back. By token
 * where there is one; by value only where nobody else has the same. */
static void orphan_done(
	struct locker_client *c, struct request *r, const struct locker_reply *reply)
{
	bool value_is_unique = r->context != NULL;
	bool unsure = reply->outcome == LOCKER_TIMEOUT || reply->outcome == LOCKER_UNKNOWN ||
		      (reply->outcome == LOCKER_CLOSED && r->attempts > 0);

	if (r->command.verb == LOCKER_EXTEND)
		request_release(c, &r->command, r->command.token);
	else if (reply->outcome == LOCKER_OK)
		request_release(c, &r->command, reply->token);
	else if (unsure && value_is_unique)
		request_release(c, &r->command, 0);
}

static void orphan(struct locker_lock *l)
{
	struct request *r = l->request;

	if (!r)
		return;
	r->done = r->command.verb == LOCKER_RELEASE ? NULL : orphan_done;
	r->context = l->value_is_given ? NULL : r;
	request_to_background(l->client, r);
	l->request = NULL;
	/* Its connection is its own, and who hangs up leaves the line. */
	if (request_waits(r))
		conn_end(r->conn);
}

/* The lease is over, or the nodes say that the lock is another's. */
static void lose(struct locker_lock *l, enum locker_outcome reason)
{
	invalidate(l);
	l->state = LOCK_IDLE;
	timer_cancel(&l->client->timers, &l->timer);
	orphan(l);
	l->tell(l, LOCKER_GONE, reason);
	hear(l, &l->hearer, LOCKER_LOST, NULL);
	l->queued = false;
	hear(l, &l->queued_hearer, LOCKER_LOST, NULL);
}

static void lock_extended(
	struct locker_client *c, struct request *r, const struct locker_reply *reply);
static void lock_released(
	struct locker_client *c, struct request *r, const struct locker_reply *reply);

static struct locker_command command_of(const struct locker_lock *l, enum locker_verb verb)
{
	return (struct locker_command){.verb = verb,
		.key = l->key,
		.value = l->value,
		.token = atomic_load(&l->token),
		.ttl_ms = l->ttl_ms};
}

/* LOCKER_OK or LOCKER_MEMORY; @hearer is kept on success only. */
static enum locker_outcome send(struct locker_lock *l, const struct locker_command *command,
	int64_t timeout_ns, int64_t answer_ns, request_fn done, struct hearer *hearer)
{
	struct request *r = request_submit(l->client, command, timeout_ns, answer_ns, done, l);

	if (!r)
		return LOCKER_MEMORY;
	l->request = r;
	l->hearer = hearer;
	return LOCKER_OK;
}

static enum locker_outcome send_release(struct locker_lock *l, struct hearer *hearer)
{
	struct locker_command command = command_of(l, LOCKER_RELEASE);
	enum locker_outcome outcome =
		send(l, &command, l->client->call_ns, l->client->answer_ns, lock_released, hearer);

	if (outcome != LOCKER_OK)
		l->state = LOCK_IDLE;
	return outcome;
}

static enum locker_outcome send_extend(struct locker_lock *l, int64_t ttl_ms, struct hearer *hearer)
{
	struct locker_command command = command_of(l, LOCKER_EXTEND);

	command.ttl_ms = ttl_ms;
	return send(l, &command, l->client->call_ns, l->client->answer_ns, lock_extended, hearer);
}

/* What had to wait for another request of this lock. */
static void send_queued(struct locker_lock *l)
{
	struct hearer *hearer = l->queued_hearer;

	if (!l->queued)
		return;
	l->queued = false;
	l->queued_hearer = NULL;
	enum locker_outcome outcome = l->state == LOCK_RELEASING
					      ? send_release(l, hearer)
					      : send_extend(l, l->queued_ttl_ms, hearer);
	if (outcome != LOCKER_OK)
		hear(l, &hearer, outcome, NULL);
}

/* ---- keeping it ---- */

static void schedule(struct locker_lock *l)
{
	int64_t at_ns = l->until_ns;

	if (!l->warned && l->until_ns - l->risk_ns < at_ns)
		at_ns = l->until_ns - l->risk_ns;
	if (l->extend && !l->request && l->extend_ns < at_ns)
		at_ns = l->extend_ns;
	timer_set(&l->client->timers, &l->timer, at_ns);
}

static void promised(struct locker_lock *l, const struct request *r, int64_t valid_ms)
{
	int64_t ttl_ns = l->ttl_ms * NS_PER_MS;

	store_until(l, &r->sent_at, valid_ms * NS_PER_MS);
	l->until_ns = l->client->now_ns + left_ns(l, &l->client->now);
	l->extend_ns = l->until_ns - 2 * ttl_ns / 3;
	/* Locks of one lease come due together, and are extended by one write. */
	l->extend_ns -= l->extend_ns % (ttl_ns / BATCHES_PER_LEASE);
	l->warned = false;
	take_back_events(l); /* a risk that is over was not told yet */
	l->reason = LOCKER_LOST;
	schedule(l);
}

static void extend_by_itself(struct locker_lock *l)
{
	struct locker_client *c = l->client;
	struct locker_command command = command_of(l, LOCKER_EXTEND);
	int64_t answer_ns = l->ttl_ms * NS_PER_MS / 4;

	/* With less than the usual patience, for there has to be time for another node. */
	if (answer_ns < PATIENCE_MIN_MS * NS_PER_MS)
		answer_ns = PATIENCE_MIN_MS * NS_PER_MS;
	if (answer_ns > c->answer_ns)
		answer_ns = c->answer_ns;
	int64_t retry_ns = l->ttl_ms * NS_PER_MS / RETRIES_PER_LEASE;
	if (retry_ns < RETRY_MIN_MS * NS_PER_MS)
		retry_ns = RETRY_MIN_MS * NS_PER_MS;
	l->extend_ns = c->now_ns + retry_ns;
	(void)send(l, &command, l->until_ns - c->now_ns, answer_ns, lock_extended, NULL);
}

static void lock_timer(struct locker_client *c, struct timer *t)
{
	struct locker_lock *l = container_of(t, struct locker_lock, timer);

	if (!is_held(l)) {
		lose(l, l->reason);
		return;
	}
	if (!l->warned && c->now_ns >= l->until_ns - l->risk_ns) {
		l->warned = true;
		l->tell(l, LOCKER_AT_RISK, l->reason);
	}
	if (l->extend && !l->request && c->now_ns >= l->extend_ns)
		extend_by_itself(l);
	/* A promise that came meanwhile has set it already, to the same. */
	schedule(l);
}

static void lock_extended(
	struct locker_client *c, struct request *r, const struct locker_reply *reply)
{
	struct locker_lock *l = r->context;
	enum locker_outcome outcome = reply->outcome;

	l->request = NULL;
	if (l->state == LOCK_RELEASING) {
		hear(l, &l->hearer, outcome, reply);
		send_queued(l);
		return;
	}
	if (outcome == LOCKER_NOTOWNER || outcome == LOCKER_NOTFOUND) {
		hear(l, &l->hearer, outcome, reply);
		lose(l, outcome);
		return;
	}
	/* An answer that comes after the end does not revive it: somebody may have asked, and been
	 * told that it is over. */
	if (!is_held(l)) {
		request_release(c, &r->command, r->command.token);
		lose(l, outcome == LOCKER_OK ? l->reason : outcome);
		return;
	}
	if (outcome == LOCKER_OK) {
		promised(l, r, reply->valid_ms);
	} else {
		l->reason = outcome;
		schedule(l);
	}
	hear(l, &l->hearer, outcome, reply);
	send_queued(l);
}

static void lock_released(
	struct locker_client *c, struct request *r, const struct locker_reply *reply)
{
	struct locker_lock *l = r->context;

	l->request = NULL;
	l->state = LOCK_IDLE;
	hear(l, &l->hearer, reply->outcome, reply);
}

static void lock_taken(struct locker_client *c, struct request *r, const struct locker_reply *reply)
{
	struct locker_lock *l = r->context;
	enum locker_outcome outcome = reply->outcome;

	l->request = NULL;
	l->state = LOCK_IDLE;
	if (outcome == LOCKER_OK && reply->left_ms > 0) {
		l->state = LOCK_HELD;
		atomic_store(&l->token, reply->token);
		promised(l, r, reply->valid_ms);
	} else {
		r->context = l->value_is_given ? NULL : r;
		orphan_done(c, r, reply);
	}
	if (outcome == LOCKER_OK && l->state == LOCK_IDLE)
		outcome = LOCKER_LOST;
	hear(l, &l->hearer, outcome, reply);
}

/* ---- operations: under the mutex ---- */

static bool make_value(struct locker_lock *l)
{
	uint8_t random[RANDOM_BYTES];
	char *to = (char *)l->text + l->key.bytes;
	size_t prefix = l->prefix_bytes;

	while (getrandom(random, sizeof random, 0) != (ssize_t)sizeof random)
		if (errno != EINTR)
			return false;
	for (size_t i = 0; i < sizeof random; i++)
		(void)snprintf(to + prefix + 2 * i, 3, "%02x", random[i]);
	l->value = (struct locker_bytes){.data = to, .bytes = prefix + 2 * sizeof random};
	return true;
}

void lock_check(struct locker_lock *l)
{
	if (l->state == LOCK_HELD && !is_held(l))
		lose(l, l->reason);
}

enum locker_outcome lock_begin_acquire(
	struct locker_lock *l, const struct lock_wish *wish, struct hearer *hearer)
{
	const char *why;

	lock_check(l);
	if (l->state != LOCK_IDLE)
		return LOCKER_USAGE;
	if (!l->value_is_given && !make_value(l))
		return LOCKER_MEMORY;
	struct locker_command command = command_of(l, LOCKER_LOCK);
	command.wait_ms = wish->wait_ms;
	command.token = 0;
	if (command_check(&command, &why) != LOCKER_OK)
		return LOCKER_USAGE;
	l->state = LOCK_TAKING;
	take_back_events(l);
	enum locker_outcome outcome =
		send(l, &command, l->client->call_ns, l->client->answer_ns, lock_taken, hearer);
	if (outcome != LOCKER_OK)
		l->state = LOCK_IDLE;
	return outcome;
}

void lock_cancel(struct locker_lock *l)
{
	if (l->state != LOCK_TAKING)
		return;
	orphan(l);
	l->state = LOCK_IDLE;
	l->hearer = NULL;
}

/* LOCKER_OK: there is a lock to do something with. */
static enum locker_outcome check_held(struct locker_lock *l)
{
	lock_check(l);
	if (l->state == LOCK_IDLE)
		return LOCKER_LOST;
	bool busy = l->hearer || l->queued;
	return l->state == LOCK_HELD && !busy ? LOCKER_OK : LOCKER_USAGE;
}

static enum locker_outcome begin_extend(
	struct locker_lock *l, const struct lock_wish *wish, struct hearer *hearer)
{
	if (wish->ttl_ms < 1 || wish->ttl_ms > LEASE_MAX_MS)
		return LOCKER_USAGE;
	enum locker_outcome outcome = check_held(l);
	if (outcome != LOCKER_OK)
		return outcome;
	if (!l->request)
		return send_extend(l, wish->ttl_ms, hearer);
	l->queued = true;
	l->queued_ttl_ms = wish->ttl_ms;
	l->queued_hearer = hearer;
	return LOCKER_OK;
}

enum locker_outcome lock_begin_release(
	struct locker_lock *l, const struct lock_wish *wish, struct hearer *hearer)
{
	enum locker_outcome outcome = check_held(l);

	if (outcome != LOCKER_OK)
		return outcome;
	invalidate(l);
	l->state = LOCK_RELEASING;
	timer_cancel(&l->client->timers, &l->timer);
	take_back_events(l);
	if (!l->request)
		return send_release(l, hearer);
	l->queued = true;
	l->queued_hearer = hearer;
	return LOCKER_OK;
}

/* ---- the same, blocking and called back ---- */

typedef enum locker_outcome (*begin_fn)(
	struct locker_lock *l, const struct lock_wish *wish, struct hearer *hearer);

static enum locker_outcome begin_and_wait(
	struct locker_lock *l, begin_fn begin, struct lock_wish wish, struct locker_reply *ret)
{
	struct locker_client *c = l->client;
	enum locker_outcome outcome = LOCKER_USAGE;
	struct waiter w;

	waiter_init(&w, ret);
	client_lock(c);
	if (!client_in_callback(c))
		outcome = begin(l, &wish, &w.hearer);
	if (outcome == LOCKER_OK)
		outcome = waiter_wait(c, &w);
	else
		reply_usage(ret, outcome, locker_outcome_sentence(outcome));
	client_unlock(c);
	return outcome;
}

static enum locker_outcome begin_and_call(struct locker_lock *l, begin_fn begin,
	struct lock_wish wish, locker_reply_fn fn, void *context)
{
	if (!fn)
		return LOCKER_USAGE;
	struct hearer *callee = callee_new(fn, context);
	if (!callee)
		return LOCKER_MEMORY;
	client_lock(l->client);
	enum locker_outcome outcome = begin(l, &wish, callee);
	client_unlock(l->client);
	if (outcome != LOCKER_OK)
		callee_free(callee);
	return outcome;
}

enum locker_outcome locker_acquire(
	struct locker_lock *lock, int64_t wait_ms, struct locker_reply *ret)
{
	return begin_and_wait(
		lock, lock_begin_acquire, (struct lock_wish){.wait_ms = wait_ms}, ret);
}

enum locker_outcome locker_acquire_async(
	struct locker_lock *lock, int64_t wait_ms, locker_reply_fn fn, void *context)
{
	return begin_and_call(
		lock, lock_begin_acquire, (struct lock_wish){.wait_ms = wait_ms}, fn, context);
}

enum locker_outcome locker_extend(
	struct locker_lock *lock, int64_t ttl_ms, struct locker_reply *ret)
{
	return begin_and_wait(lock, begin_extend, (struct lock_wish){.ttl_ms = ttl_ms}, ret);
}

enum locker_outcome locker_extend_async(
	struct locker_lock *lock, int64_t ttl_ms, locker_reply_fn fn, void *context)
{
	return begin_and_call(
		lock, begin_extend, (struct lock_wish){.ttl_ms = ttl_ms}, fn, context);
}

enum locker_outcome locker_release(struct locker_lock *lock, struct locker_reply *ret)
{
	return begin_and_wait(lock, lock_begin_release, (struct lock_wish){0}, ret);
}

enum locker_outcome locker_release_async(
	struct locker_lock *lock, locker_reply_fn fn, void *context)
{
	return begin_and_call(lock, lock_begin_release, (struct lock_wish){0}, fn, context);
}

/* ---- making, freeing, asking ---- */

enum locker_outcome locker_lock_new(struct locker_client *client,
	const struct locker_lock_options *options, struct locker_lock **ret)
{
	if (!client || !options || !ret)
		return LOCKER_USAGE;
	struct locker_command would_send = {.verb = LOCKER_LOCK,
		.key = options->key,
		.value = options->value,
		.ttl_ms = options->ttl_ms};
	bool given = options->value.bytes > 0;
	struct locker_bytes head = given                             ? options->value
				   : options->value_prefix.bytes > 0 ? options->value_prefix
								     : locker_text(client->prefix);
	const char *why;

	enum locker_outcome bad = command_check(&would_send, &why);
	if (bad != LOCKER_OK)
		return bad;
	if (options->risk_ms < 0 || options->risk_ms > options->ttl_ms ||
		(!given && head.bytes > LOCKER_VALUE_PREFIX_MAX_BYTES))
		return LOCKER_USAGE;
	size_t bytes = options->key.bytes + head.bytes + (size_t)2 * RANDOM_BYTES + 1;
	struct locker_lock *l = calloc(1, sizeof *l + bytes);
	if (!l)
		return LOCKER_MEMORY;
	l->client = client;
	l->ttl_ms = options->ttl_ms;
	l->risk_ns = options->risk_ms > 0 ? options->risk_ms * NS_PER_MS
					  : options->ttl_ms * NS_PER_MS / 3;
	l->extend = options->extend;
	l->on_event = options->on_event;
	l->context = options->context;
	l->value_is_given = given;
	l->prefix_bytes = head.bytes;
	memcpy(l->text, options->key.data, options->key.bytes);
	if (head.bytes > 0)
		memcpy(l->text + options->key.bytes, head.data, head.bytes);
	l->key = (struct locker_bytes){.data = l->text, .bytes = options->key.bytes};
	l->value = (struct locker_bytes){.data = l->text + options->key.bytes, .bytes = head.bytes};
	l->timer.fire = lock_timer;
	l->tell = tell_caller;
	l->events.run = run_events;
	list_init(&l->events.link);
	invalidate(l);
	client_lock(client);
	int r = timer_reserve(&client->timers);
	client->owned += r == 0;
	client_unlock(client);
	if (r < 0) {
		free(l);
		return LOCKER_MEMORY;
	}
	*ret = l;
	return LOCKER_OK;
}

void locker_lock_free(struct locker_lock *lock)
{
	if (!lock)
		return;
	struct locker_client *c = lock->client;
	client_lock(c);
	client_wait_callback(c, &lock->events);
	invalidate(lock);
	if (lock->state == LOCK_HELD && !lock->request) {
		struct locker_command command = command_of(lock, LOCKER_RELEASE);
		request_release(c, &command, command.token);
	}
	orphan(lock);
	hear(lock, &lock->hearer, LOCKER_CLOSED, NULL);
	hear(lock, &lock->queued_hearer, LOCKER_CLOSED, NULL);
	timer_cancel(&c->timers, &lock->timer);
	timer_unreserve(&c->timers);
	c->owned--;
	client_unlock(c);
	free(lock);
}

bool locker_lock_valid(struct locker_lock *lock)
{
	struct locker_client *c = lock->client;
	struct instant now;

	if (atomic_load(&lock->until_boot_ns) == INT64_MIN)
		return false;
	c->clock.read(c->clock.context, &now);
	if (left_ns(lock, &now) > 0)
		return true;
	client_lock(c);
	lock_check(lock);
	bool valid = lock->state == LOCK_HELD;
	client_unlock(c);
	return valid;
}

int64_t locker_lock_remaining_ms(struct locker_lock *lock)
{
	struct instant now;

	if (!locker_lock_valid(lock))
		return 0;
	lock->client->clock.read(lock->client->clock.context, &now);
	int64_t ns = left_ns(lock, &now);
	return ns > 0 ? ns / NS_PER_MS : 0;
}

uint64_t locker_lock_token(struct locker_lock *lock)
{
	return atomic_load(&lock->token);
}
