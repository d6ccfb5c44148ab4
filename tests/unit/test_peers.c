#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/log.h"
#include "base/prng.h"
#include "peers_world.h"

static void expect_link_event(struct engine *e, unsigned at, bool up)
{
	assert_true(at < e->seen_n);
	assert_int_equal(e->seen[at].type, EV_LINK);
	assert_int_equal(e->seen[at].link.node, RAW_ID);
	assert_int_equal(e->seen[at].link.up, up);
}

static void expect_dropped(struct raw *r)
{
	struct mail_link down = {0};
	node_loops(r->n, 2);
	assert_true(r->end->closed);
	expect_link_event(engine_of(r->n, 0), engine_of(r->n, 0)->seen_n - 1, false);
	assert_true(control_reads(r->n, MAIL_LINK_DOWN, &down, sizeof down));
	assert_int_equal(down.node, RAW_ID);
	assert_int_equal(down.peer_inc, RAW_INC);
	assert_false(info_of(r->n, 0, RAW_ID).linked);
}

/* ---- tests ---- */

static int setup(void **state)
{
	world_ns = 50000 * MS;
	return 0;
}

static int teardown(void **state)
{
	world_reset();
	return 0;
}

static void test_peers_carry_messages_both_ways(void **state)
{
	struct node a, b;
	node_init(&a, 1, 1);
	node_init(&b, 2, 1);
	struct mail_status active = {.status = NODE_ACTIVE, .floor_n = 44};
	control_mail(&b, 0, MAIL_STATUS, &active, sizeof active);
	connect_nodes(&a, &b, 0, 1);
	expect_link_event(engine_of(&a, 0), 0, true);

	for (unsigned i = 0; i < 40; i++) {
		queue_msg(&a, 0, 2, "there", 3);
		node_loops(&a, 1);
		world_ns += 70 * MS;
		node_loops(&b, 1);
		queue_msg(&b, 0, 1, "back", 4);
		node_loops(&b, 1);
		node_loops(&a, 1);
	}
	assert_int_equal(engine_of(&b, 0)->msgs, 40);
	assert_string_equal(engine_of(&b, 0)->last_key, "there");
	assert_int_equal(engine_of(&b, 0)->last.slot, 3);
	assert_int_equal(engine_of(&b, 0)->last_from, 1);
	assert_int_equal(engine_of(&a, 0)->msgs, 40);
	assert_string_equal(engine_of(&a, 0)->last_key, "back");
	assert_int_equal(engine_of(&a, 0)->hlc, 2);
	struct peer_info info = info_of(&a, 0, 2);
	assert_true(info.linked);
	assert_int_equal(info.links, 1);
	assert_int_equal(info.state, NODE_ACTIVE);
	assert_int_equal(info.msgs_in, 40);
	assert_int_equal(info.msgs_out, 40);
	assert_int_equal(info.bytes_in, info_of(&b, 0, 1).bytes_out);
	assert_int_equal(info.stale_frames + info.msgs_dropped, 0);
	assert_int_equal(info_of(&b, 0, 1).state, NODE_QUARANTINE);
	assert_false(info_of(&a, 0, 77).linked);
	node_fini(&a);
	node_fini(&b);
}

static void test_peers_drop_what_may_be_too_old(void **state)
{
	struct node n;
	struct raw r;
	/* Age is (now - echo) - held / 1.002, at most 9/10 of T_att. */
	static const struct {
		uint64_t since_echo_ms, held_ms;
		bool taken;
	} cases[] = {
		{0, 0, true},
		{900, 0, true},
		{901, 0, false},
		{1900, 1000, false}, /* the clocks may differ by 2 ms over 1 s */
		{1900, 1003, true},
		{30000, 29000, false},
		{30000, 29200, true},
		{900, 5000, true}, /* more than passed: not believed, the rest is a bound still */
		{1100, 5000, false},
	};

	node_init(&n, 1, 1);
	raw_connect(&r, &n, 0, 1);
	struct engine *e = engine_of(&n, 0);
	unsigned taken = 0;
	for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
		r.h.echo_mclk = node_ns(&n) - cases[i].since_echo_ms * MS;
		r.h.held_ns = cases[i].held_ms * MS;
		raw_msg(&r, "k", 0);
		raw_send(&r);
		node_loops(&n, 1);
		taken += cases[i].taken;
		assert_int_equal(e->msgs, taken);
		assert_int_equal(info_of(&n, 0, RAW_ID).stale_frames, i + 1 - taken);
	}
	/* No echo at all is no proof either; the header counts all the same. */
	r.h.echo_mclk = r.h.held_ns = 0;
	r.h.hlc_n = 77;
	r.h.status = NODE_RESYNC;
	r.h.mclk += 3;
	raw_msg(&r, "k", 0);
	raw_send(&r);
	node_loops(&n, 1);
	assert_int_equal(e->msgs, taken);
	assert_int_equal(e->hlc, 77);
	assert_int_equal(info_of(&n, 0, RAW_ID).state, NODE_RESYNC);
	struct frame_header h = {0};
	world_ns += 100 * MS;
	node_loops(&n, 1);
	while (raw_receive(&r, &h))
		;
	assert_int_equal(h.echo_mclk, r.h.mclk);
	assert_int_equal(h.held_ns, 100 * MS);
	node_fini(&n);
}

static void test_peers_drop_a_link_that_is_not_what_it_says(void **state)
{
	for (unsigned i = 0; i < 5; i++) {
		struct node n;
		struct raw r;
		node_init(&n, 1, 1);
		raw_connect(&r, &n, 0, 1);
		r.h.cluster += i == 0;
		r.h.src_node += i == 1;
		r.h.src_inc += i == 2;
		r.h.dst_inc += i == 3;
		r.h.echo_mclk += i == 4;
		raw_msg(&r, "k", 0);
		raw_send(&r);
		expect_dropped(&r);
		assert_int_equal(engine_of(&n, 0)->msgs, 0);
		node_fini(&n);
		world_reset();
	}
}

static void test_peers_drop_garbage(void **state)
{
	static const char noise[] = "GET / HTTP/1.1\r\nHost: somebody-else.example.org\r\n"
				    "Accept: everything\r\nThis: is not a frame\r\n\r\n";
	enum { NOISE, BAD_SLOT, BAD_TYPE, LEFT_OVER, TRUNCATED, CASES };
	for (unsigned i = 0; i < CASES; i++) {
		struct node n;
		struct raw r;
		node_init(&n, 1, 1);
		raw_connect(&r, &n, 0, 1);
		raw_msg(&r, "good", 1);
		size_t good = r.body.len;
		if (i == NOISE)
			assert_int_equal(buf_append(&r.end->inbox, noise, sizeof noise), 0);
		raw_msg(&r, "more", i == BAD_SLOT ? SLOTS : 2);
		if (i == BAD_TYPE)
			r.body.data[good + 2] = 99;
		if (i == LEFT_OVER)
			r.h.count--;
		if (i == TRUNCATED)
			r.body.len -= 3;
		raw_send(&r);
		expect_dropped(&r);
		/* What came whole before was good. */
		assert_int_equal(engine_of(&n, 0)->msgs, i != NOISE);
		node_fini(&n);
		world_reset();
	}
}

static void test_peers_survive_noise_in_frames(void **state)
{
	struct node n;
	struct prng rnd;
	prng_seed(&rnd, 4);
	node_init(&n, 1, 2);
	for (unsigned i = 0; i < 2000; i++) {
		struct raw r;
		raw_connect(&r, &n, 0, 1);
		for (unsigned k = 0; k < 4; k++)
			raw_msg(&r, "some key", (uint16_t)k);
		raw_send(&r);
		for (unsigned k = 0; k < 3; k++)
			r.end->inbox.data[prng_below(&rnd, r.end->inbox.len)] =
				(uint8_t)prng_next(&rnd);
		r.end->inbox.len -= (size_t)prng_below(&rnd, 2) * (size_t)prng_below(&rnd, 100);
		node_loops(&n, 2);
		r.end->other->closed = true;
		node_loops(&n, 2);
		assert_true(r.end->closed);
		engine_of(&n, 0)->seen_n = engine_of(&n, 1)->seen_n = 0;
		world_reset();
	}
	assert_true(info_of(&n, 0, RAW_ID).msgs_in > 0);
	node_fini(&n);
}

static void test_peers_take_frames_in_pieces(void **state)
{
	struct node n;
	struct raw r;
	node_init(&n, 1, 1);
	raw_connect(&r, &n, 0, 1);
	raw_msg(&r, "one", 1);
	raw_msg(&r, "two", 2);
	raw_send(&r);
	raw_send(&r);
	struct buf whole = r.end->inbox;
	buf_init(&r.end->inbox, 0);
	for (size_t i = 0; i < whole.len; i++) {
		assert_int_equal(buf_append(&r.end->inbox, whole.data + i, 1), 0);
		node_loops(&n, 1);
		assert_int_equal(
			engine_of(&n, 0)->msgs, i + 1 >= whole.len - FRAME_HEADER_BYTES ? 2 : 0);
	}
	assert_int_equal(info_of(&n, 0, RAW_ID).frames_in, 2);
	buf_fini(&whole);
	node_fini(&n);
}

static void test_peers_beat_when_quiet_and_drop_the_silent(void **state)
{
	struct node n;
	struct raw r;
	struct frame_header h = {0};
	node_init(&n, 1, 1);
	raw_connect(&r, &n, 0, 1);
	assert_true(raw_receive(&r, &h)); /* at once, for a fresh echo */
	assert_int_equal(h.count, 0);
	assert_int_equal(h.src_node, 1);
	assert_int_equal(h.dst_inc, RAW_INC);
	assert_false(raw_receive(&r, &h));
	assert_int_equal(n.thread[0].handler.wait_ns(n.thread[0].shard), 100 * MS);
	for (unsigned i = 1; i <= 50; i++) {
		world_ns += 99 * MS;
		node_loops(&n, 1);
		assert_false(raw_receive(&r, &h));
		world_ns += MS;
		node_loops(&n, 3);
		assert_true(raw_receive(&r, &h));
		assert_int_equal(h.mclk, node_ns(&n));
		assert_int_equal(h.held_ns, i * 100 * MS);
		assert_false(raw_receive(&r, &h));
	}
	assert_false(r.end->closed);
	world_ns += 1;
	expect_dropped(&r);
	node_fini(&n);
}

static unsigned missed_events(struct node *n, unsigned thread)
{
	const struct engine *e = engine_of(n, thread);
	unsigned found = 0;
	for (unsigned i = 0; i < e->seen_n; i++)
		found += e->seen[i].type == EV_MISSED;
	return found;
}

static void send_with_age(struct raw *r, uint64_t age_ns)
{
	r->h.echo_mclk = node_ns(r->n) - age_ns;
	r->h.held_ns = 0;
	raw_send(r);
	node_loops(r->n, 2);
}

/* For a second and three attempts nothing fresh was heard of a peer that lived all the while. */
static void test_peers_notice_that_something_was_missed(void **state)
{
	struct node n;
	struct raw r;
	node_init(&n, 1, 2);
	raw_connect(&r, &n, 0, 1);
	send_with_age(&r, 0);
	world_ns += 4000 * MS;
	send_with_age(&r, 0);
	assert_int_equal(missed_events(&n, 0), 0);
	world_ns += 4001 * MS;
	send_with_age(&r, 1001 * MS); /* what lay about while we stood still */
	assert_int_equal(missed_events(&n, 0), 0);
	send_with_age(&r, 1 * MS);
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(missed_events(&n, i), 1);
	send_with_age(&r, 1 * MS);
	assert_int_equal(missed_events(&n, 0), 1);

	/* Somebody who was not there has done nothing. */
	world_ns += 5000 * MS;
	int fd = new_stream();
	struct raw next = {.n = &n, .end = &ends[fd], .h = r.h};
	next.h.src_inc = RAW_INC + 1;
	adopt(&n, fd, RAW_ID, RAW_INC + 1, 0, 1);
	node_loops(&n, 1);
	send_with_age(&next, 0);
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(missed_events(&n, i), 1);
	node_fini(&n);
}

static void test_peers_replace_a_link(void **state)
{
	struct node n;
	struct raw old, same, other;
	struct mail_link down;
	node_init(&n, 1, 1);
	struct engine *e = engine_of(&n, 0);
	raw_connect(&old, &n, 0, 1);
	raw_connect(&same, &n, 0, 1);
	node_loops(&n, 1);
	assert_true(old.end->closed);
	assert_int_equal(e->seen_n, 1);
	expect_link_event(e, 0, true);
	raw_msg(&same, "k", 0);
	raw_send(&same);
	node_loops(&n, 1);
	assert_int_equal(e->msgs, 1);

	int fd = new_stream();
	other = (struct raw){.n = &n, .end = &ends[fd], .h = same.h};
	other.h.src_inc = RAW_INC + 1;
	adopt(&n, fd, RAW_ID, RAW_INC + 1, 0, 1);
	node_loops(&n, 1);
	assert_true(same.end->closed);
	assert_int_equal(e->seen_n, 3);
	expect_link_event(e, 1, false);
	expect_link_event(e, 2, true);
	raw_msg(&other, "k", 0);
	raw_send(&other);
	node_loops(&n, 1);
	assert_int_equal(e->msgs, 2);
	assert_true(info_of(&n, 0, RAW_ID).linked);
	/* Its place is taken: nothing to be mended. */
	assert_false(control_reads(&n, MAIL_LINK_DOWN, &down, sizeof down));
	node_fini(&n);
}

/* A hello is answered before it is known what the other makes of the answer; a frame says that. */
static void test_peers_tell_of_the_first_frame(void **state)
{
	struct node n;
	struct raw peer;
	struct mail_link heard = {0};
	node_init(&n, 1, 1);
	raw_connect(&peer, &n, 0, 1);
	node_loops(&n, 1);
	assert_false(control_reads(&n, MAIL_LINK_HEARD, &heard, sizeof heard));
	raw_send(&peer);
	node_loops(&n, 1);
	assert_true(control_reads(&n, MAIL_LINK_HEARD, &heard, sizeof heard));
	assert_int_equal(heard.node, RAW_ID);
	assert_int_equal(heard.peer_inc, RAW_INC);
	raw_send(&peer);
	node_loops(&n, 1);
	assert_false(control_reads(&n, MAIL_LINK_HEARD, &heard, sizeof heard));
	node_fini(&n);
}

static void test_peers_refuse_a_link_of_another_thread(void **state)
{
	struct node n;
	struct mail_link down = {0};
	node_init(&n, 1, 2);
	int fd = new_stream();
	struct mail_adopt a = {.fd = fd,
		.node = 2,
		.status = NODE_ACTIVE,
		.link_index = 1,
		.links = 2,
		.peer_inc = 9};
	control_mail(&n, 0, MAIL_ADOPT, &a, sizeof a);
	node_loops(&n, 2);
	assert_true(ends[fd].closed);
	assert_true(control_reads(&n, MAIL_LINK_DOWN, &down, sizeof down));
	assert_int_equal(down.peer_inc, 9);
	a.fd = -1;
	a.link_index = 0;
	control_mail(&n, 0, MAIL_ADOPT, &a, sizeof a);
	node_loops(&n, 2);
	assert_true(control_reads(&n, MAIL_LINK_DOWN, &down, sizeof down));
	assert_int_equal(engine_of(&n, 0)->seen_n + engine_of(&n, 1)->seen_n, 0);
	node_fini(&n);
}

static void test_peers_reach_each_shard_over_one_link(void **state)
{
	struct node a, b;
	node_init(&a, 1, 2);
	node_init(&b, 2, 1);
	connect_nodes(&a, &b, 0, 1);
	expect_link_event(engine_of(&a, 0), 0, true);
	expect_link_event(engine_of(&a, 1), 0, true);
	/* Odd slots are shard 1's at a. */
	queue_msg(&b, 0, 1, "odd", 5);
	node_loops(&b, 1);
	node_loops(&a, 2);
	assert_int_equal(engine_of(&a, 0)->msgs, 0);
	assert_int_equal(engine_of(&a, 1)->msgs, 1);
	assert_string_equal(engine_of(&a, 1)->last_key, "odd");
	assert_int_equal(engine_of(&a, 1)->last_from, 2);
	queue_msg(&a, 1, 2, "answer", 5);
	node_loops(&a, 2);
	node_loops(&b, 1);
	assert_int_equal(engine_of(&b, 0)->msgs, 1);
	assert_string_equal(engine_of(&b, 0)->last_key, "answer");
	assert_false(info_of(&a, 1, 2).linked);
	assert_true(info_of(&a, 0, 2).linked);

	world_close(&b.thread[0].env, &ends[1].link, false);
	node_loops(&b, 1);
	node_loops(&a, 2);
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(engine_of(&a, i)->seen_n, 2);
		expect_link_event(engine_of(&a, i), 1, false);
	}
	queue_msg(&a, 1, 2, "nobody there", 5);
	node_loops(&a, 2);
	node_fini(&a);
	node_fini(&b);
}

static void test_peers_use_the_link_of_their_index(void **state)
{
	struct node n;
	struct raw zero, one;
	struct frame_header h = {0};
	node_init(&n, 1, 3);
	raw_connect(&zero, &n, 0, 2);
	/* Shard 2 shares link 0, shard 1 waits for link 1. */
	assert_int_equal(engine_of(&n, 0)->seen_n, 1);
	assert_int_equal(engine_of(&n, 1)->seen_n, 0);
	assert_int_equal(engine_of(&n, 2)->seen_n, 1);
	raw_connect(&one, &n, 1, 2);
	assert_int_equal(engine_of(&n, 1)->seen_n, 1);
	while (raw_receive(&zero, &h) || raw_receive(&one, &h))
		;
	queue_msg(&n, 2, RAW_ID, "k", 2);
	node_loops(&n, 2);
	assert_true(raw_receive(&zero, &h));
	assert_int_equal(h.count, 1);
	assert_false(raw_receive(&one, &h));
	node_fini(&n);
}

static void test_peers_keep_a_dead_incarnation_from_the_engine(void **state)
{
	struct node n;
	struct raw one;
	node_init(&n, 1, 2);
	raw_connect(&one, &n, 1, 2);
	adopt(&n, new_stream(), RAW_ID, RAW_INC + 1, 0, 2);
	raw_msg(&one, "late", 0);
	raw_msg(&one, "late", 1);
	raw_send(&one);
	node_loops(&n, 2);
	assert_int_equal(engine_of(&n, 0)->msgs, 0);
	assert_int_equal(info_of(&n, 0, RAW_ID).msgs_dropped, 1);
	/* Shard 1 still talks to it. */
	assert_int_equal(engine_of(&n, 1)->msgs, 1);
	node_fini(&n);
}

static void test_peers_mail_for_a_dead_incarnation_is_dropped(void **state)
{
	struct node n;
	struct raw r;
	node_init(&n, 1, 2);
	raw_connect(&r, &n, 0, 1);
	/* Mail is read in turns: after one of shard 1 comes the control thread. */
	queue_msg(&n, 1, RAW_ID, "in time", 1);
	thread_loop(&n.thread[1]);
	thread_loop(&n.thread[0]);
	/* Shard 1 sends before it hears of the successor that shard 0 adopts. */
	queue_msg(&n, 1, RAW_ID, "late", 1);
	thread_loop(&n.thread[1]);
	int fd = new_stream();
	struct raw next = {.n = &n, .end = &ends[fd], .h = r.h};
	struct frame_header h = {0};
	adopt(&n, fd, RAW_ID, RAW_INC + 1, 0, 1);
	node_loops(&n, 3);
	while (raw_receive(&next, &h))
		assert_int_equal(h.count, 0);
	assert_int_equal(info_of(&n, 0, RAW_ID).msgs_dropped, 1);
	node_fini(&n);
}

static void test_peers_count_time_in_a_mailbox_as_age(void **state)
{
	struct node n;
	struct raw r;
	struct frame_header h = {0};
	node_init(&n, 1, 2);
	raw_connect(&r, &n, 0, 1);
	while (raw_receive(&r, &h))
		;
	queue_msg(&n, 1, RAW_ID, "slow", 1);
	thread_loop(&n.thread[1]);
	uint64_t birth_ns = world_ns;
	/* The link's thread has a younger echo when it comes to the message. */
	world_ns += 400 * MS;
	r.h.mclk = world_ns + RAW_ID * 1000000 * MS;
	r.h.echo_mclk = node_ns(&n);
	raw_send(&r);
	thread_loop(&n.thread[0]);
	assert_true(raw_receive(&r, &h));
	assert_int_equal(h.count, 1);
	uint64_t peer_now = world_ns + RAW_ID * 1000000 * MS;
	assert_true(peer_now - h.echo_mclk - h.held_ns >= world_ns - birth_ns);
	assert_true(peer_now - h.echo_mclk - h.held_ns <= world_ns - birth_ns + MS);

	queue_msg(&n, 1, RAW_ID, "too slow", 1);
	thread_loop(&n.thread[1]);
	world_ns += 1001 * MS;
	thread_loop(&n.thread[0]);
	assert_true(raw_receive(&r, &h));
	assert_int_equal(h.count, 0);
	assert_int_equal(info_of(&n, 0, RAW_ID).msgs_dropped, 1);

	r.h.echo_mclk = node_ns(&n) - 500 * MS;
	raw_msg(&r, "old when it came", 1);
	raw_send(&r);
	thread_loop(&n.thread[0]);
	world_ns += 501 * MS;
	thread_loop(&n.thread[1]);
	assert_int_equal(engine_of(&n, 1)->msgs, 0);
	assert_int_equal(info_of(&n, 1, RAW_ID).msgs_dropped, 1);
	node_fini(&n);
}

static void test_peers_drop_a_link_for_what_another_shard_finds(void **state)
{
	struct node n;
	struct raw r;
	node_init(&n, 1, 2);
	raw_connect(&r, &n, 0, 1);
	raw_msg(&r, "odd", 1);
	r.body.data[2] = 99;
	raw_send(&r);
	node_loops(&n, 2);
	expect_dropped(&r);
	assert_int_equal(engine_of(&n, 1)->msgs, 0);
	node_fini(&n);
}

static void queue_large(struct node *n, unsigned count)
{
	static uint8_t value[VALUE_MAX_BYTES];
	struct engine *e = engine_of(n, 0);
	for (unsigned i = 0; i < count; i++) {
		queue_msg(n, 0, RAW_ID, "k", 0);
		struct msg *m = &e->queue[e->queue_n - 1].send.msg;
		m->type = MSG_ACCEPT;
		m->uid = (struct ballot){1, 1};
		m->b = (struct version){1, 1, 1};
		m->value = bytes_of(value, sizeof value);
	}
}

static void test_peers_split_what_is_too_long_for_a_frame(void **state)
{
	struct node a, b;
	node_init(&a, 1, 1);
	node_init(&b, 2, 1);
	connect_nodes(&a, &b, 0, 1);
	uint64_t before = info_of(&a, 0, 2).frames_out;
	queue_large(&a, 500);
	node_loops(&a, 1);
	assert_int_equal(info_of(&a, 0, 2).frames_out, before + 2);
	node_loops(&b, 1);
	assert_int_equal(engine_of(&b, 0)->msgs, 500);
	node_fini(&a);
	node_fini(&b);
}

static void test_peers_drop_a_link_that_takes_nothing(void **state)
{
	struct node n;
	struct raw r;
	node_init(&n, 1, 1);
	raw_connect(&r, &n, 0, 1);
	r.end->blocked = true;
	for (unsigned i = 0; i < 3; i++) {
		queue_large(&n, 500);
		node_loops(&n, 1);
	}
	assert_false(r.end->close_wanted);
	assert_true(r.end->link.in_flight_bytes > 6000000);
	assert_int_equal(info_of(&n, 0, RAW_ID).msgs_dropped, 0);
	for (unsigned i = 0; i < 3; i++) {
		queue_large(&n, 500);
		node_loops(&n, 1);
		assert_true(r.end->link.in_flight_bytes + r.end->link.out.len <= 9 << 20);
	}
	assert_true(info_of(&n, 0, RAW_ID).msgs_dropped > 0);
	expect_dropped(&r);
	node_fini(&n);
}

/* ---- shard.c ---- */

static void test_shard_passes_control_mail_to_the_engine(void **state)
{
	struct node n;
	struct raw r;
	struct frame_header h = {0};
	node_init(&n, 1, 1);
	raw_connect(&r, &n, 0, 1);
	struct engine *e = engine_of(&n, 0);
	assert_true(raw_receive(&r, &h));
	assert_int_equal(h.status, NODE_QUARANTINE);
	struct mail_status active = {.status = NODE_ACTIVE, .floor_n = 44};
	uint64_t ceiling = 55, asked = 0;
	control_mail(&n, 0, MAIL_STATUS, &active, sizeof active);
	control_mail(&n, 0, MAIL_CEILING, &ceiling, sizeof ceiling);
	world_ns += 100 * MS;
	node_loops(&n, 1);
	assert_int_equal(e->seen_n, 3);
	assert_int_equal(e->seen[1].type, EV_STATUS);
	assert_int_equal(e->seen[1].status.status, NODE_ACTIVE);
	assert_int_equal(e->seen[1].status.floor_n, 44);
	assert_int_equal(e->seen[2].type, EV_CEILING);
	assert_int_equal(e->seen[2].ceiling_n, 55);
	assert_true(raw_receive(&r, &h));
	assert_int_equal(h.status, NODE_ACTIVE);

	e->queue[e->queue_n++] = (struct effect){.type = FX_CEILING, .ceiling_n = 66};
	e->queue[e->queue_n++] = (struct effect){.type = FX_REPLY};
	assert_int_equal(n.thread[0].handler.wait_ns(n.thread[0].shard), 0);
	node_loops(&n, 1);
	assert_true(control_reads(&n, MAIL_RAISE_CEILING, &asked, sizeof asked));
	assert_int_equal(asked, 66);
	assert_int_equal(n.thread[0].shard->clients->results, 1);
	node_fini(&n);
}

static void test_shard_says_once_that_it_is_drained(void **state)
{
	struct node n;
	struct raw r;
	char none;
	node_init(&n, 1, 1);
	raw_connect(&r, &n, 0, 1);
	control_mail(&n, 0, MAIL_DRAIN, "", 0);
	node_loops(&n, 2);
	assert_false(control_reads(&n, MAIL_DRAINED, &none, 0));
	n.thread[0].shard->clients->gone = true;
	r.end->link.in_flight_bytes = 1;
	node_loops(&n, 2);
	assert_false(control_reads(&n, MAIL_DRAINED, &none, 0));
	r.end->link.in_flight_bytes = 0;
	node_loops(&n, 3);
	assert_true(control_reads(&n, MAIL_DRAINED, &none, 0));
	assert_false(control_reads(&n, MAIL_DRAINED, &none, 0));
	node_fini(&n);
}

static void test_shard_waits_a_moment_for_the_last_rounds(void **state)
{
	struct node n;
	char none;
	node_init(&n, 1, 1);
	n.thread[0].shard->clients->gone = true;
	engine_of(&n, 0)->rounds = 1;
	control_mail(&n, 0, MAIL_DRAIN, "", 0);
	node_loops(&n, 2);
	assert_false(control_reads(&n, MAIL_DRAINED, &none, 0));
	world_ns += 201 * MS;
	node_loops(&n, 2);
	assert_true(control_reads(&n, MAIL_DRAINED, &none, 0));
	node_fini(&n);
}

static void test_shard_bounds_ticks_and_wakes_sleepers(void **state)
{
	struct node n;
	struct raw r;
	node_init(&n, 1, 2);
	raw_connect(&r, &n, 0, 1);
	for (unsigned i = 0; i < 9 * EFFECTS_MAX; i++)
		queue_msg(&n, 1, RAW_ID, "k", 1);
	assert_true(n.thread[0].handler.sleep(n.thread[0].shard));
	thread_loop(&n.thread[1]);
	assert_int_equal(engine_of(&n, 1)->queue_n, EFFECTS_MAX);
	assert_int_equal(n.thread[0].wakes, 1);
	assert_true(n.thread[0].handler.has_mail(n.thread[0].shard));
	n.thread[0].handler.awake(n.thread[0].shard);
	assert_false(n.thread[0].handler.sleep(n.thread[0].shard));
	assert_int_equal(n.thread[0].handler.wait_ns(n.thread[0].shard), 0);
	node_fini(&n);
}

/* The world flushes after work(): what an event adds after it must be whole frames too. */
static void test_shard_closes_frames_begun_after_work(void **state)
{
	struct node n;
	struct raw r;
	struct frame_header h = {0};
	node_init(&n, 1, 1);
	raw_connect(&r, &n, 0, 1);
	engine_of(&n, 0)->chatty = true;
	queue_msg(&n, 0, RAW_ID, "answer", 1);
	raw_msg(&r, "late", 1);
	raw_send(&r);
	struct buf *in = &r.end->inbox, *out = &r.end->link.out;
	ssize_t used = n.thread[0].handler.data(n.thread[0].shard, &r.end->link, in->data, in->len);
	assert_int_equal(used, in->len);
	assert_int_equal(frame_header_decode(out->data, out->len, &h), 0);
	assert_int_equal(h.count, 1);
	assert_int_equal(h.frame_bytes, out->len);
	node_fini(&n);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_peers_carry_messages_both_ways),
		T(test_peers_drop_what_may_be_too_old),
		T(test_peers_drop_a_link_that_is_not_what_it_says),
		T(test_peers_drop_garbage),
		T(test_peers_survive_noise_in_frames),
		T(test_peers_take_frames_in_pieces),
		T(test_peers_beat_when_quiet_and_drop_the_silent),
		T(test_peers_notice_that_something_was_missed),
		T(test_peers_replace_a_link),
		T(test_peers_tell_of_the_first_frame),
		T(test_peers_refuse_a_link_of_another_thread),
		T(test_peers_reach_each_shard_over_one_link),
		T(test_peers_use_the_link_of_their_index),
		T(test_peers_keep_a_dead_incarnation_from_the_engine),
		T(test_peers_mail_for_a_dead_incarnation_is_dropped),
		T(test_peers_count_time_in_a_mailbox_as_age),
		T(test_peers_drop_a_link_for_what_another_shard_finds),
		T(test_peers_split_what_is_too_long_for_a_frame),
		T(test_peers_drop_a_link_that_takes_nothing),
		T(test_shard_passes_control_mail_to_the_engine),
		T(test_shard_says_once_that_it_is_drained),
		T(test_shard_waits_a_moment_for_the_last_rounds),
		T(test_shard_bounds_ticks_and_wakes_sleepers),
		T(test_shard_closes_frames_begun_after_work),
	};
	log_set_level(LOG_ERROR);
	return cmocka_run_group_tests_name("peers", tests, NULL, NULL);
}
