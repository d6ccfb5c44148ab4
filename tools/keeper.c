#include "keeper.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

enum {
	SLICE_MS = 200,        /* after which a waiting thread looks whether it is to end */
	PROBE_EVERY_MS = 3000, /* while waiting in line: is that node still there? */
	ROUND_PAUSE_MS = 250,  /* when no node could help */
	WAIT_SLICE_MS = 3600000,
	RELEASE_TIMEOUT_MS = 1000,
	RELEASE_TOTAL_MS = 2000,
	WORDS_MAX = 8,
};

enum answer {
	ANSWER_GRANTED,
	ANSWER_HELD, /* by another */
	ANSWER_NOT_OURS,
	ANSWER_FAILED,  /* another node, or another time, may do better */
	ANSWER_REFUSED, /* no node will do better */
	ANSWER_ENDING,
};

int64_t lease_left_ns(const struct lease *l)
{
	return l->valid_ns - elapsed_ns(l->since);
}

static void tell_news(struct keeper *k)
{
	uint64_t one = 1;

	(void)!write(k->news_fd, &one, sizeof one);
}

static void publish(struct keeper *k, enum keeper_state state, const struct lease *lease)
{
	pthread_mutex_lock(&k->mutex);
	k->view.state = state;
	if (lease) {
		k->view.lease = *lease;
		k->view.why[0] = '\0';
	}
	pthread_mutex_unlock(&k->mutex);
	tell_news(k);
}

static void complain(struct keeper *k, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

static void complain(struct keeper *k, const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	pthread_mutex_lock(&k->mutex);
	(void)vsnprintf(k->view.why, sizeof k->view.why, format, ap);
	pthread_mutex_unlock(&k->mutex);
	va_end(ap);
}

static bool is_ending(struct keeper *k)
{
	pthread_mutex_lock(&k->mutex);
	bool ending = k->ending;
	pthread_mutex_unlock(&k->mutex);
	return ending;
}

/* False: it is to end. */
static bool rest(struct keeper *k, int64_t ns)
{
	struct timespec until;

	(void)clock_gettime(CLOCK_MONOTONIC, &until);
	ns = ns > 0 ? ns + until.tv_nsec : until.tv_nsec;
	until.tv_sec += ns / (1000 * NS_PER_MS);
	until.tv_nsec = ns % (1000 * NS_PER_MS);
	pthread_mutex_lock(&k->mutex);
	while (!k->ending && pthread_cond_timedwait(&k->wake, &k->mutex, &until) != ETIMEDOUT)
		;
	bool ending = k->ending;
	pthread_mutex_unlock(&k->mutex);
	return !ending;
}

/* ---- one node ---- */

static void leave_node(struct keeper *k)
{
	if (k->linked)
		sync_close(&k->link);
	k->linked = false;
	k->at = (k->at + 1) % k->nodes.n;
}

/* 0, or an error and the next node is at hand. */
static int reach_node(struct keeper *k, int64_t timeout_ms)
{
	if (k->linked)
		return 0;
	int r = sync_open(&k->link, k->nodes.address[k->at], timeout_ms);
	k->linked = true;
	if (r < 0) {
		complain(k, "%s", k->link.why);
		leave_node(k);
	}
	return r;
}

static int ask(struct keeper *k, size_t argc, const struct bytes *argv, int64_t timeout_ms,
	const struct resp_value **ret)
{
	int r = reach_node(k, timeout_ms);

	if (r < 0)
		return r;
	r = sync_command(&k->link, argc, argv, timeout_ms, ret);
	if (r < 0) {
		complain(k, "%s: %s", k->link.address, k->link.why);
		leave_node(k);
	}
	return r;
}

static bool begins_with(struct bytes text, const char *word)
{
	size_t n = strlen(word);

	return text.len >= n && memcmp(text.p, word, n) == 0 && (text.len == n || text.p[n] == ' ');
}

static enum answer classify_error(struct keeper *k, struct bytes text)
{
	static const char *const passing[] = {"NOQUORUM", "UNKNOWN", "BUSY", "NOTREADY"};

	complain(k, "%s: %.*s", k->link.address, (int)text.len, (const char *)text.p);
	if (begins_with(text, "NOTOWNER") || begins_with(text, "NOTFOUND"))
		return ANSWER_NOT_OURS;
	for (size_t i = 0; i < sizeof passing / sizeof *passing; i++) {
		if (begins_with(text, passing[i])) {
			leave_node(k);
			return ANSWER_FAILED;
		}
	}
	return ANSWER_REFUSED;
}

/* What a LOCK or EXTEND that was sent at @since has come to. */
static enum answer take_grant(
	struct keeper *k, const struct resp_value *reply, struct instant since, struct lease *ret)
{
	const struct resp_value *token = sync_map_get(reply, "token");
	const struct resp_value *valid = sync_map_get(reply, "valid-ms");

	if (reply->type == RESP_ERR || reply->type == RESP_BLOB_ERR)
		return classify_error(k, reply->str);
	if (reply->type == RESP_NULL) {
		complain(k, "held by another");
		return ANSWER_HELD;
	}
	if (!token || token->type != RESP_INT || !valid || valid->type != RESP_INT) {
		complain(k, "%s: no grant, and no error either", k->link.address);
		leave_node(k);
		return ANSWER_FAILED;
	}
	*ret = (struct lease){
		.token = (uint64_t)token->num, .since = since, .valid_ns = valid->num * NS_PER_MS};
	return ANSWER_GRANTED;
}

static struct bytes number_word(struct keeper *k, size_t i, uint64_t n)
{
	(void)snprintf(k->numbers[i], sizeof k->numbers[i], "%" PRIu64, n);
	return bytes_str(k->numbers[i]);
}

/* ---- taking it ---- */

/* Does the node that a request waits at still answer? One that is stopped closes nothing. */
static bool still_there(struct keeper *k, struct sync *probe, bool *linked)
{
	const struct bytes ping = bytes_str("PING");
	const struct resp_value *reply;

	if (!*linked) {
		*linked = true;
		if (sync_open(probe, k->nodes.address[k->at], k->wish.timeout_ms) < 0)
			return false;
	}
	return sync_command(probe, 1, &ping, k->wish.timeout_ms, &reply) == 0;
}

/* The reply to what was sent, at most @timeout_ms away. As sync_receive(); -EINTR: it is to end. */
static int await_reply(struct keeper *k, int64_t timeout_ms, const struct resp_value **ret)
{
	struct instant begun = instant_now();
	struct sync probe;
	bool linked = false;
	int r;
	int64_t probe_at_ms = PROBE_EVERY_MS;

	while ((r = sync_receive(&k->link, SLICE_MS, ret)) == -EAGAIN) {
		int64_t ms = elapsed_ns(begun) / NS_PER_MS;

		if (is_ending(k)) {
			r = -EINTR;
		} else if (ms >= timeout_ms) {
			r = -ETIMEDOUT;
			complain(k, "%s: no answer within %" PRId64 " ms", k->link.address,
				timeout_ms);
		} else if (ms >= probe_at_ms) {
			probe_at_ms = ms + PROBE_EVERY_MS;
			if (still_there(k, &probe, &linked))
				continue;
			r = -ETIMEDOUT;
			complain(k, "%s answers no more", k->link.address);
		} else {
			continue;
		}
		break;
	}
	if (linked)
		sync_close(&probe);
	if (r < 0 && r != -EINTR && r != -ETIMEDOUT)
		complain(k, "%s: %s", k->link.address, k->link.why);
	return r;
}

/* Stand in line for @wait_ms at one node. */
static enum answer lock_once(struct keeper *k, int64_t wait_ms, struct lease *ret)
{
	const struct resp_value *reply;
	struct bytes argv[WORDS_MAX];
	size_t argc = 0;

	argv[argc++] = bytes_str("LOCK");
	argv[argc++] = bytes_str(k->wish.key);
	argv[argc++] = bytes_str(k->wish.value);
	argv[argc++] = number_word(k, 0, (uint64_t)k->wish.ttl_ms);
	if (wait_ms > 0) {
		argv[argc++] = bytes_str("WAIT");
		argv[argc++] = number_word(k, 1, (uint64_t)wait_ms);
	}
	/* A grant whose answer was lost is found again. With a value that another may have chosen
	 * too that would be another's lock. */
	if (k->wish.value_is_unique)
		argv[argc++] = bytes_str("IDEMPOTENT");
	if (reach_node(k, k->wish.timeout_ms) < 0)
		return ANSWER_FAILED;
	struct instant since = instant_now();
	int r = sync_send(&k->link, argc, argv, k->wish.timeout_ms);
	if (r == 0)
		r = await_reply(k, wait_ms + k->wish.timeout_ms, &reply);
	else
		complain(k, "%s: %s", k->link.address, k->link.why);
	if (r == 0)
		return take_grant(k, reply, since, ret);
	k->may_hold = true;
	leave_node(k);
	return r == -EINTR ? ANSWER_ENDING : ANSWER_FAILED;
}

static int64_t wait_left_ms(const struct keeper *k, struct instant begun)
{
	if (k->wish.wait_ms == WAIT_FOREVER)
		return WAIT_SLICE_MS;
	int64_t left_ms = k->wish.wait_ms - elapsed_ns(begun) / NS_PER_MS;
	if (left_ms > WAIT_SLICE_MS)
		return WAIT_SLICE_MS;
	return left_ms > 0 ? left_ms : 0;
}

/* True: held. */
static bool acquire(struct keeper *k)
{
	struct instant begun = instant_now();
	size_t failures = 0, refusals = 0;

	for (;;) {
		struct lease lease;
		enum answer answer = lock_once(k, wait_left_ms(k, begun), &lease);
		bool over = wait_left_ms(k, begun) == 0;

		if (answer == ANSWER_GRANTED) {
			publish(k, KEEPER_HOLDS, &lease);
			return true;
		}
		if (answer == ANSWER_ENDING || (answer == ANSWER_HELD && over))
			return false;
		/* One node at a limit is no reason to give up; all of them are: what was asked for
		 * is too much. */
		refusals = answer == ANSWER_REFUSED ? refusals + 1 : 0;
		if (answer == ANSWER_REFUSED)
			leave_node(k);
		if (answer == ANSWER_HELD || ++failures % k->nodes.n != 0)
			continue;
		if (over || refusals >= k->nodes.n)
			return false;
		tell_news(k);
		if (!rest(k, (ROUND_PAUSE_MS + random() % ROUND_PAUSE_MS) * NS_PER_MS))
			return false;
	}
}

/* ---- keeping it ---- */

static enum answer extend_once(struct keeper *k, int64_t timeout_ms, struct lease *ret)
{
	const struct resp_value *reply;
	const struct bytes argv[] = {bytes_str("EXTEND"), bytes_str(k->wish.key),
		bytes_str(k->wish.value), number_word(k, 0, (uint64_t)k->wish.ttl_ms),
		bytes_str("TOKEN"), number_word(k, 1, k->view.lease.token)};
	struct instant since = instant_now();

	if (ask(k, sizeof argv / sizeof *argv, argv, timeout_ms, &reply) < 0)
		return ANSWER_FAILED;
	return take_grant(k, reply, since, ret);
}

/* Until it is to end, or the lock is lost. False: it is another's, or nobody's. */
static bool keep(struct keeper *k)
{
	int64_t ttl_ns = k->wish.ttl_ms * NS_PER_MS;
	/* Of the third of a lease in which it may fail, four nodes that hang use up no more than
	 * all. */
	int64_t timeout_ms = k->wish.ttl_ms / 12;
	int64_t rest_ns = 0;

	if (timeout_ms > k->wish.timeout_ms)
		timeout_ms = k->wish.timeout_ms;
	timeout_ms = timeout_ms < 10 ? 10 : timeout_ms;
	for (;;) {
		struct lease *lease = &k->view.lease, longer;

		if (rest_ns == 0)
			rest_ns = lease_left_ns(lease) - ttl_ns * 2 / 3;
		if (!rest(k, rest_ns))
			return true;
		enum answer answer = extend_once(k, timeout_ms, &longer);
		bool too_late = lease_left_ns(lease) <= k->wish.margin_ns;
		if (answer == ANSWER_GRANTED && too_late)
			complain(k, "it was extended too late");
		if (too_late || answer == ANSWER_NOT_OURS) {
			publish(k, KEEPER_LOST, NULL);
			return answer != ANSWER_NOT_OURS;
		}
		if (answer == ANSWER_REFUSED)
			leave_node(k);
		rest_ns = timeout_ms * NS_PER_MS / 4;
		if (answer == ANSWER_GRANTED) {
			publish(k, KEEPER_HOLDS, &longer);
			rest_ns = 0;
		}
	}
}

/* ---- giving it back ---- */

/* @token 0: whatever is held with our value. */
static void release(struct keeper *k, uint64_t token)
{
	const struct resp_value *reply;
	const struct bytes argv[] = {bytes_str("RELEASE"), bytes_str(k->wish.key),
		bytes_str(k->wish.value), bytes_str("TOKEN"), number_word(k, 0, token)};
	int64_t timeout_ms =
		k->wish.timeout_ms < RELEASE_TIMEOUT_MS ? k->wish.timeout_ms : RELEASE_TIMEOUT_MS;
	struct instant begun = instant_now();

	for (size_t i = 0; i < k->nodes.n; i++) {
		if (elapsed_ns(begun) > RELEASE_TOTAL_MS * NS_PER_MS)
			return;
		if (ask(k, token ? 5 : 3, argv, timeout_ms, &reply) < 0)
			continue;
		if (reply->type != RESP_ERR || classify_error(k, reply->str) != ANSWER_FAILED)
			return;
	}
}

static void *keeper_main(void *arg)
{
	struct keeper *k = arg;

	srandom((unsigned)getpid());
	endpoints_resolve(&k->nodes, k->wish.nodes);
	if (acquire(k)) {
		if (keep(k))
			release(k, k->view.lease.token);
	} else {
		if (k->may_hold && k->wish.value_is_unique)
			release(k, 0);
		publish(k, KEEPER_REFUSED, NULL);
	}
	if (k->linked)
		sync_close(&k->link);
	k->linked = false;
	return NULL;
}

int keeper_start(struct keeper *k, const struct lock_wish *wish)
{
	pthread_condattr_t attr;

	*k = (struct keeper){.wish = *wish, .news_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
	if (k->news_fd < 0)
		return -errno;
	pthread_mutex_init(&k->mutex, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&k->wake, &attr);
	pthread_condattr_destroy(&attr);
	int r = pthread_create(&k->thread, NULL, keeper_main, k);
	if (r)
		close(k->news_fd);
	return -r;
}

struct keeper_view keeper_look(struct keeper *k)
{
	uint64_t news;

	(void)!read(k->news_fd, &news, sizeof news);
	pthread_mutex_lock(&k->mutex);
	struct keeper_view view = k->view;
	pthread_mutex_unlock(&k->mutex);
	return view;
}

void keeper_end(struct keeper *k)
{
	pthread_mutex_lock(&k->mutex);
	k->ending = true;
	pthread_cond_signal(&k->wake);
	pthread_mutex_unlock(&k->mutex);
	pthread_join(k->thread, NULL);
	pthread_cond_destroy(&k->wake);
	pthread_mutex_destroy(&k->mutex);
	close(k->news_fd);
}
