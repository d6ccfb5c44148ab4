#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "base/prng.h"
#include "shard/mailbox.h"

enum { RING = 4 * MAIL_MAX_BYTES };

static void no_wake(void *arg, unsigned thread)
{
	(void)thread;
	++*(unsigned *)arg;
}

static void put_text(struct mailbox *m, unsigned to, uint16_t type, const char *text)
{
	memcpy(mailbox_put(m, to, type, strlen(text)), text, strlen(text));
}

static void expect_text(struct mailbox *m, unsigned from, uint16_t type, const char *text)
{
	unsigned f;
	uint16_t t;
	size_t n;
	const void *p = mailbox_next(m, &f, &t, &n);
	assert_non_null(p);
	assert_int_equal(f, from);
	assert_int_equal(t, type);
	assert_int_equal(n, strlen(text));
	assert_memory_equal(p, text, n);
	assert_int_equal((uintptr_t)p % 8, 0);
}

static void expect_nothing(struct mailbox *m)
{
	unsigned f;
	uint16_t t;
	size_t n;
	assert_null(mailbox_next(m, &f, &t, &n));
}

static void test_mailbox_shows_on_publish_reads_on_collect(void **state)
{
	(void)state;
	unsigned wakes = 0;
	struct mailbox_mesh *mesh = mailbox_mesh_new(2, RING);
	struct mailbox *a = mailbox_of(mesh, 0), *b = mailbox_of(mesh, 1);

	put_text(a, 1, 7, "one");
	put_text(a, 1, 8, "");
	assert_true(mailbox_unsent(a));
	assert_false(mailbox_has_mail(b));
	mailbox_collect(b);
	expect_nothing(b);
	mailbox_publish(a, no_wake, &wakes);
	assert_false(mailbox_unsent(a));
	assert_true(mailbox_has_mail(b));
	expect_nothing(b);
	mailbox_collect(b);
	expect_text(b, 0, 7, "one");
	expect_text(b, 0, 8, "");
	expect_nothing(b);
	assert_false(mailbox_has_mail(b));
	assert_int_equal(wakes, 0);
	mailbox_mesh_free(mesh);
}

static void test_mailbox_takes_turns_and_may_write_to_itself(void **state)
{
	(void)state;
	unsigned wakes = 0;
	struct mailbox_mesh *mesh = mailbox_mesh_new(3, RING);
	struct mailbox *c = mailbox_of(mesh, 2);

	for (unsigned i = 0; i < 3; i++) {
		put_text(mailbox_of(mesh, i), 2, 1, "first");
		put_text(mailbox_of(mesh, i), 2, 2, "second");
		mailbox_publish(mailbox_of(mesh, i), no_wake, &wakes);
	}
	mailbox_collect(c);
	for (unsigned i = 0; i < 3; i++)
		expect_text(c, i, 1, "first");
	for (unsigned i = 0; i < 3; i++)
		expect_text(c, i, 2, "second");
	expect_nothing(c);
	mailbox_mesh_free(mesh);
}

static void test_mailbox_wakes_a_sleeper_once(void **state)
{
	(void)state;
	unsigned wakes = 0;
	struct mailbox_mesh *mesh = mailbox_mesh_new(3, RING);
	struct mailbox *c = mailbox_of(mesh, 2);

	assert_true(mailbox_sleep(c));
	put_text(mailbox_of(mesh, 0), 2, 1, "x");
	mailbox_publish(mailbox_of(mesh, 0), no_wake, &wakes);
	put_text(mailbox_of(mesh, 1), 2, 1, "y");
	mailbox_publish(mailbox_of(mesh, 1), no_wake, &wakes);
	assert_int_equal(wakes, 1);
	mailbox_awake(c);
	/* Mail is there: no sleep, and the announcement is withdrawn. */
	assert_false(mailbox_sleep(c));
	put_text(mailbox_of(mesh, 0), 2, 1, "z");
	mailbox_publish(mailbox_of(mesh, 0), no_wake, &wakes);
	assert_int_equal(wakes, 1);
	mailbox_mesh_free(mesh);
}

static void put_number(struct mailbox *m, unsigned to, size_t bytes, uint64_t number)
{
	uint8_t *p = mailbox_put(m, to, 1, bytes);
	memset(p, (int)(number & 0xff), bytes);
	put_u64(p, number);
}

static uint64_t take_numbers(struct mailbox *m, uint64_t next)
{
	unsigned from;
	uint16_t type;
	size_t n;
	const uint8_t *p;

	mailbox_collect(m);
	while ((p = mailbox_next(m, &from, &type, &n)) != NULL) {
		assert_int_equal(get_u64(p), next);
		assert_int_equal(p[n - 1], n > 8 ? next & 0xff : p[n - 1]);
		next++;
	}
	return next;
}

static void test_mailbox_full_ring_overflows_in_order(void **state)
{
	(void)state;
	unsigned wakes = 0;
	struct mailbox_mesh *mesh = mailbox_mesh_new(2, RING);
	struct mailbox *a = mailbox_of(mesh, 0), *b = mailbox_of(mesh, 1);
	uint64_t sent = 0, got = 0;

	while (sent < 40)
		put_number(a, 1, MAIL_MAX_BYTES - 8 * (sent % 5), sent), sent++;
	assert_true(mailbox_crowded(a, 1));
	assert_false(mailbox_crowded(a, 0));
	assert_true(mailbox_overflow_bytes(a, 1) > 30 * (MAIL_MAX_BYTES - 64));
	uint64_t overflowed = mailbox_overflowed(a);
	assert_true(overflowed >= 36 && overflowed < 40);
	for (unsigned turns = 0; turns < 100 && got < 45; turns++) {
		mailbox_publish(a, no_wake, &wakes);
		if (turns < 5) {
			/* Small ones would fit the ring, but must not pass those that wait. */
			assert_true(mailbox_unsent(a));
			put_number(a, 1, 8, sent++);
		}
		got = take_numbers(b, got);
	}
	assert_int_equal(got, 45);
	assert_false(mailbox_crowded(a, 1));
	assert_int_equal(mailbox_overflow_bytes(a, 1), 0);
	assert_int_equal(mailbox_overflowed(a), overflowed + 5);
	mailbox_mesh_free(mesh);
}

static void test_mailbox_wraps_at_every_offset(void **state)
{
	(void)state;
	unsigned wakes = 0;
	struct mailbox_mesh *mesh = mailbox_mesh_new(2, RING);
	struct mailbox *a = mailbox_of(mesh, 0), *b = mailbox_of(mesh, 1);
	struct prng rnd;
	uint64_t sent = 0, got = 0;

	prng_seed(&rnd, 1);
	for (unsigned i = 0; i < 20000; i++) {
		for (uint64_t k = prng_below(&rnd, 5); k > 0; k--)
			put_number(a, 1,
				8 + (size_t)prng_below(&rnd, prng_below(&rnd, 8) ? 90 : 32000),
				sent++);
		mailbox_publish(a, no_wake, &wakes);
		if (prng_below(&rnd, 3) != 0)
			got = take_numbers(b, got);
	}
	for (unsigned i = 0; i < 10000 && got < sent; i++) {
		mailbox_publish(a, no_wake, &wakes);
		got = take_numbers(b, got);
	}
	assert_int_equal(got, sent);
	assert_true(mailbox_overflowed(a) > 0);
	mailbox_mesh_free(mesh);
}

/* A receiver that stops in the middle keeps the rest, and a full ring comes free even when it
 * goes to sleep with the last record still in hand. */
static void test_mailbox_sleeper_gives_room_back(void **state)
{
	(void)state;
	unsigned wakes = 0, from;
	uint16_t type;
	size_t n;
	struct mailbox_mesh *mesh = mailbox_mesh_new(2, RING);
	struct mailbox *a = mailbox_of(mesh, 0), *b = mailbox_of(mesh, 1);
	unsigned in_ring = 0;

	while (!mailbox_crowded(a, 1))
		put_number(a, 1, 1000, in_ring++);
	in_ring--;
	mailbox_publish(a, no_wake, &wakes);
	mailbox_collect(b);
	for (unsigned i = 0; i < in_ring; i++) {
		assert_true(mailbox_has_mail(b));
		assert_non_null(mailbox_next(b, &from, &type, &n));
	}
	assert_false(mailbox_has_mail(b));
	assert_true(mailbox_sleep(b));
	mailbox_publish(a, no_wake, &wakes);
	assert_int_equal(wakes, 1);
	assert_false(mailbox_crowded(a, 1));
	assert_int_equal(take_numbers(b, in_ring), in_ring + 1);
	mailbox_mesh_free(mesh);
}

/* ---- real threads ---- */

enum { CREW_MAX = 4 };

struct crew {
	struct mailbox_mesh *mesh;
	unsigned n;
	int wake_fd[CREW_MAX];
	uint64_t each;         /* records from each thread to each other one; hops of a token */
	_Atomic unsigned lost; /* wake-ups that never came */
	_Atomic unsigned wrong;
	_Atomic uint64_t sleeps;
	_Atomic bool stop;
};

struct hand {
	struct crew *crew;
	unsigned self;
	pthread_t thread;
	struct prng rnd;
	uint64_t sent[CREW_MAX], got[CREW_MAX];
};

static void crew_wake(void *arg, unsigned thread)
{
	struct crew *c = arg;
	uint64_t one = 1;
	if (write(c->wake_fd[thread], &one, sizeof one) != sizeof one)
		atomic_fetch_add(&c->wrong, 1);
}

static void nap(struct hand *h)
{
	struct crew *c = h->crew;
	struct mailbox *m = mailbox_of(c->mesh, h->self);
	struct pollfd p = {.fd = c->wake_fd[h->self], .events = POLLIN};
	uint64_t drain;

	if (!mailbox_sleep(m))
		return;
	atomic_fetch_add(&c->sleeps, 1);
	/* A wake-up that is late is no fault; one that does not come at all is. */
	while (poll(&p, 1, 1000) <= 0) {
		if (!mailbox_has_mail(m))
			continue;
		if (poll(&p, 1, 10000) > 0)
			break;
		atomic_fetch_add(&c->lost, 1);
		break;
	}
	mailbox_awake(m);
	(void)!read(p.fd, &drain, sizeof drain);
}

static void dawdle(struct hand *h)
{
	uint64_t how = prng_below(&h->rnd, 64);
	if (how == 0)
		usleep((useconds_t)prng_below(&h->rnd, 100));
	else if (how < 4)
		sched_yield();
	else
		for (volatile uint64_t spin = prng_below(&h->rnd, 50); spin > 0;)
			spin--;
}

static void run_crew(unsigned n, uint64_t each, void *(*work)(void *), struct crew *c)
{
	struct hand hands[CREW_MAX];

	*c = (struct crew){.mesh = mailbox_mesh_new(n, RING), .n = n, .each = each};
	assert_non_null(c->mesh);
	for (unsigned i = 0; i < n; i++) {
		c->wake_fd[i] = eventfd(0, EFD_NONBLOCK);
		assert_true(c->wake_fd[i] >= 0);
		hands[i] = (struct hand){.crew = c, .self = i};
		prng_seed(&hands[i].rnd, 1000 * n + i);
	}
	for (unsigned i = 0; i < n; i++)
		assert_int_equal(pthread_create(&hands[i].thread, NULL, work, &hands[i]), 0);
	for (unsigned i = 0; i < n; i++)
		assert_int_equal(pthread_join(hands[i].thread, NULL), 0);
	for (unsigned i = 0; i < n; i++)
		close(c->wake_fd[i]);
	mailbox_mesh_free(c->mesh);
	assert_int_equal(c->wrong, 0);
	assert_int_equal(c->lost, 0);
}

static void send_some(struct hand *h, struct mailbox *m)
{
	struct crew *c = h->crew;
	unsigned to = (h->self + 1 + (unsigned)prng_below(&h->rnd, c->n - 1)) % c->n;

	if (mailbox_crowded(m, to) && prng_below(&h->rnd, 8) != 0)
		return;
	for (uint64_t burst = prng_below(&h->rnd, 200); burst > 0 && h->sent[to] < c->each;
		burst--) {
		bool large = prng_below(&h->rnd, 1000) == 0;
		size_t bytes = 8 + (size_t)prng_below(&h->rnd, large ? MAIL_MAX_BYTES - 8 : 60);
		uint8_t *p = mailbox_put(m, to, (uint16_t)(h->self + 1), bytes);
		memset(p, (int)(h->sent[to] & 0xff), bytes);
		put_u64(p, h->sent[to]++);
	}
}

static bool receive_some(struct hand *h, struct mailbox *m)
{
	unsigned from;
	uint16_t type;
	size_t n;
	const uint8_t *p = NULL;

	mailbox_collect(m);
	for (unsigned k = 0; k < 500 && (p = mailbox_next(m, &from, &type, &n)) != NULL; k++) {
		uint64_t want = h->got[from]++;
		bool ok = type == from + 1 && n >= 8 && get_u64(p) == want;
		for (size_t i = 8; ok && i < n; i++)
			ok = p[i] == (want & 0xff);
		if (!ok)
			atomic_fetch_add(&h->crew->wrong, 1);
	}
	return p != NULL;
}

static void *bulk(void *arg)
{
	struct hand *h = arg;
	struct crew *c = h->crew;
	struct mailbox *m = mailbox_of(c->mesh, h->self);

	for (;;) {
		bool more = receive_some(h, m), busy = more;
		send_some(h, m);
		mailbox_publish(m, crew_wake, c);
		busy |= mailbox_unsent(m);
		bool done = !busy;
		for (unsigned i = 0; i < c->n; i++) {
			if (i == h->self)
				continue;
			busy |= h->sent[i] < c->each;
			done &= h->sent[i] == c->each && h->got[i] == c->each;
		}
		if (done || c->wrong != 0)
			return NULL;
		if (busy)
			dawdle(h);
		else
			nap(h);
	}
}

static void test_mailbox_two_threads_keep_order_and_content(void **state)
{
	(void)state;
	struct crew c;
	run_crew(2, 1000000, bulk, &c);
}

static void test_mailbox_four_threads_keep_order_and_content(void **state)
{
	(void)state;
	struct crew c;
	run_crew(4, 200000, bulk, &c);
}

/* A few tokens wander between the threads; most threads sleep most of the time, so nearly each hop
 * needs a wake-up. */
static void *wander(void *arg)
{
	struct hand *h = arg;
	struct crew *c = h->crew;
	struct mailbox *m = mailbox_of(c->mesh, h->self);
	unsigned from;
	uint16_t type;
	size_t n;

	if (h->self < 2)
		put_number(m, h->self + 1 == c->n ? 0 : h->self + 1, 8, c->each);
	while (!c->stop) {
		const uint8_t *p;
		mailbox_publish(m, crew_wake, c);
		nap(h);
		mailbox_collect(m);
		while ((p = mailbox_next(m, &from, &type, &n)) != NULL) {
			uint64_t hops = get_u64(p);
			dawdle(h);
			if (hops == 0)
				c->stop = true;
			else
				put_number(m, (unsigned)prng_below(&h->rnd, c->n), 8, hops - 1);
		}
	}
	for (unsigned i = 0; i < c->n; i++)
		crew_wake(c, i);
	return NULL;
}

static void test_mailbox_loses_no_wake(void **state)
{
	(void)state;
	struct crew c;
	run_crew(2, 20000, wander, &c);
	assert_true(c.sleeps > 0);
	run_crew(4, 20000, wander, &c);
	assert_true(c.sleeps > 0);
}

/* One shows mail at the very moment the other goes to sleep, round after round: it is either seen
 * or it wakes. Without the two fences this fails within some ten thousand rounds. */
struct duel {
	struct mailbox_mesh *mesh;
	_Atomic unsigned round, finished;
	unsigned wakes;
	unsigned rounds;
};

static void meet(_Atomic unsigned *counter, unsigned wanted)
{
	for (unsigned tries = 0; atomic_load(counter) < wanted; tries++)
		if (tries % 4096 == 4095)
			sched_yield();
}

static void *duel_sender(void *arg)
{
	struct duel *d = arg;
	struct mailbox *m = mailbox_of(d->mesh, 0);
	struct prng rnd;

	prng_seed(&rnd, 7);
	for (unsigned i = 1; i <= d->rounds; i++) {
		uint64_t spin = prng_below(&rnd, 40);
		put_number(m, 1, 8, i);
		meet(&d->round, i);
		for (volatile uint64_t k = spin; k > 0;)
			k--;
		mailbox_publish(m, no_wake, &d->wakes);
		atomic_fetch_add(&d->finished, 1);
	}
	return NULL;
}

static void test_mailbox_sleeper_sees_mail_or_is_woken(void **state)
{
	(void)state;
	struct duel d = {.mesh = mailbox_mesh_new(2, RING), .rounds = 50000};
	struct mailbox *m = mailbox_of(d.mesh, 1);
	struct prng rnd;
	pthread_t sender;
	unsigned missed = 0;

	prng_seed(&rnd, 8);
	assert_int_equal(pthread_create(&sender, NULL, duel_sender, &d), 0);
	for (unsigned i = 1; i <= d.rounds; i++) {
		uint64_t spin = prng_below(&rnd, 40);
		unsigned before = d.wakes;
		atomic_fetch_add(&d.round, 1);
		for (volatile uint64_t k = spin; k > 0;)
			k--;
		bool asleep = mailbox_sleep(m);
		meet(&d.finished, i);
		missed += asleep ? d.wakes != before + 1 : d.wakes > before + 1;
		mailbox_awake(m);
		(void)take_numbers(m, i);
	}
	assert_int_equal(pthread_join(sender, NULL), 0);
	assert_int_equal(missed, 0);
	mailbox_mesh_free(d.mesh);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_mailbox_shows_on_publish_reads_on_collect),
		cmocka_unit_test(test_mailbox_takes_turns_and_may_write_to_itself),
		cmocka_unit_test(test_mailbox_wakes_a_sleeper_once),
		cmocka_unit_test(test_mailbox_full_ring_overflows_in_order),
		cmocka_unit_test(test_mailbox_wraps_at_every_offset),
		cmocka_unit_test(test_mailbox_sleeper_gives_room_back),
		cmocka_unit_test(test_mailbox_two_threads_keep_order_and_content),
		cmocka_unit_test(test_mailbox_four_threads_keep_order_and_content),
		cmocka_unit_test(test_mailbox_loses_no_wake),
		cmocka_unit_test(test_mailbox_sleeper_sees_mail_or_is_woken),
	};
	return cmocka_run_group_tests_name("mailbox", tests, NULL, NULL);
}
