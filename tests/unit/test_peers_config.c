/* Links and shards while the configuration changes: epochs of frames, messages and peers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/log.h"
#include "peers_world.h"

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

static void tell_config(struct node *n, unsigned thread, uint64_t epoch)
{
	struct membership m = members_of_epoch(epoch);
	control_mail(n, thread, MAIL_CONFIG, &m, sizeof m);
}

/* The last thing that the engine of @thread was told. */
static const struct event *last_event(struct node *n, unsigned thread)
{
	struct engine *e = engine_of(n, thread);
	assert_true(e->seen_n > 0);
	return &e->seen[e->seen_n - 1];
}

static void expect_link(struct node *n, unsigned thread, unsigned events, bool up)
{
	assert_int_equal(engine_of(n, thread)->seen_n, events);
	assert_int_equal(last_event(n, thread)->type, EV_LINK);
	assert_int_equal(last_event(n, thread)->link.node, RAW_ID);
	assert_int_equal(last_event(n, thread)->link.up, up);
}

static void raw_config(struct raw *r, const char *text)
{
	struct msg m = {.type = MSG_CONFIG, .flags = MSG_HAS_VALUE, .value = bytes_str(text)};
	assert_int_equal(msg_encode(&r->body, &m), 0);
	r->h.count++;
}

struct config_mail {
	struct mail_config_msg head;
	char text[8];
};

static struct config_mail config_mail(uint8_t node, uint64_t inc, const char *text)
{
	struct config_mail m = {.head = {.inc = inc, .node = node}};
	memcpy(m.text, text, sizeof m.text);
	return m;
}

static bool config_came(struct node *n, struct config_mail *ret)
{
	uint8_t bytes[sizeof ret->head + sizeof ret->text];
	if (!control_reads(n, MAIL_CONFIG_IN, bytes, sizeof bytes))
		return false;
	memcpy(&ret->head, bytes, sizeof ret->head);
	memcpy(ret->text, bytes + sizeof ret->head, sizeof ret->text);
	return true;
}

/* ---- epochs of messages ---- */

/* S12 */
static void test_peers_config_other_epoch_keeps_the_link(void **state)
{
	struct node n;
	struct raw r;
	node_init(&n, 1, 2);
	raw_connect(&r, &n, 0, 1);
	for (unsigned i = 0; i < 2; i++) {
		r.h.epoch = i == 0 ? EPOCH - 1 : EPOCH + 1;
		r.h.hlc_n = 70 + i;
		r.h.slots_voting = (uint16_t)(5 + i);
		raw_msg(&r, "here", 0);
		raw_msg(&r, "there", 1);
		raw_send(&r);
		node_loops(&n, 2);
		assert_false(r.end->close_wanted);
		assert_int_equal(info_of(&n, 0, RAW_ID).slots_voting, 5 + i);
		assert_int_equal(engine_of(&n, 0)->hlc, 70 + i);
	}
	assert_int_equal(engine_of(&n, 0)->msgs + engine_of(&n, 1)->msgs, 0);
	assert_int_equal(info_of(&n, 0, RAW_ID).msgs_other_epoch, 4);
	assert_int_equal(info_of(&n, 0, RAW_ID).msgs_dropped, 0);
	/* Heard all the while. */
	world_ns += 4000 * MS;
	raw_send(&r);
	node_loops(&n, 1);
	assert_int_equal(info_of(&n, 0, RAW_ID).heard_ago_ns, 0);
	world_ns += 4000 * MS;
	r.h.epoch = EPOCH;
	r.h.echo_mclk = node_ns(&n);
	raw_msg(&r, "here", 0);
	raw_msg(&r, "there", 1);
	raw_send(&r);
	node_loops(&n, 2);
	assert_int_equal(engine_of(&n, 0)->msgs, 1);
	assert_int_equal(engine_of(&n, 1)->msgs, 1);
	assert_false(r.end->close_wanted);
	node_fini(&n);
}

/* A malformed message is one in any epoch. */
static void test_peers_config_garbage_of_another_epoch(void **state)
{
	struct node n;
	struct raw r;
	node_init(&n, 1, 1);
	raw_connect(&r, &n, 0, 1);
	r.h.epoch++;
	raw_msg(&r, "bad", 0);
	r.body.data[2] = 99;
	raw_send(&r);
	node_loops(&n, 2);
	assert_true(r.end->closed);
	node_fini(&n);
}

/* Shards of a node move one after the other: what one makes in its epoch goes by no frame of
 * another one, and what came by such a frame is not for a shard of another one. */
static void test_peers_config_mail_between_shards_of_two_epochs(void **state)
{
	struct node n;
	struct raw r;
	struct frame_header h = {0};
	node_init(&n, 1, 2);
	raw_connect(&r, &n, 0, 1);
	while (raw_receive(&r, &h))
		;
	/* Made by shard 1, which is behind, for the link of shard 0. */
	tell_config(&n, 0, EPOCH + 1);
	thread_loop(&n.thread[0]);
	queue_msg(&n, 1, RAW_ID, "old", 1);
	thread_loop(&n.thread[1]);
	thread_loop(&n.thread[0]);
	assert_int_equal(info_of(&n, 0, RAW_ID).msgs_other_epoch, 1);
	world_ns += 100 * MS;
	thread_loop(&n.thread[0]);
	while (raw_receive(&r, &h))
		assert_int_equal(h.count, 0);
	assert_int_equal(h.epoch, EPOCH + 1);

	/* And the other way round. */
	uint64_t before = info_of(&n, 1, RAW_ID).msgs_other_epoch;
	r.h.epoch = EPOCH + 1;
	raw_msg(&r, "new", 1);
	raw_send(&r);
	node_loops(&n, 2);
	assert_int_equal(engine_of(&n, 1)->msgs, 0);
	assert_int_equal(info_of(&n, 1, RAW_ID).msgs_other_epoch, before + 1);
	tell_config(&n, 1, EPOCH + 1);
	raw_msg(&r, "new", 1);
	raw_send(&r);
	node_loops(&n, 2);
	assert_int_equal(engine_of(&n, 1)->msgs, 1);
	node_fini(&n);
}

static void test_peers_config_mail_made_in_another_epoch_is_dropped(void **state)
{
	struct node n;
	struct raw r;
	struct frame_header h = {0};
	node_init(&n, 1, 2);
	raw_connect(&r, &n, 0, 1);
	/* Shard 1 is ahead and so is the peer; the link's thread is not yet. */
	tell_config(&n, 1, EPOCH + 1);
	tell_peer_epoch(&n, RAW_ID, RAW_INC, EPOCH + 1);
	thread_loop(&n.thread[1]);
	while (raw_receive(&r, &h))
		;
	queue_msg(&n, 1, RAW_ID, "ahead", 1);
	node_loops(&n, 2);
	world_ns += 100 * MS;
	node_loops(&n, 2);
	assert_true(raw_receive(&r, &h));
	assert_int_equal(h.count, 0);
	assert_int_equal(info_of(&n, 0, RAW_ID).msgs_other_epoch, 1);
	node_fini(&n);
}

/* ---- a change ---- */

static void test_peers_config_change_in_mid_loop(void **state)
{
	struct node n;
	struct raw r;
	struct frame_header h = {0};
	uint64_t done = 0;
	node_init(&n, 1, 1);
	struct engine *e = engine_of(&n, 0);
	raw_connect(&r, &n, 0, 1);
	while (raw_receive(&r, &h))
		;
	/* An answer is in the open frame when the mail is read. */
	e->chatty = true;
	queue_msg(&n, 0, RAW_ID, "answer", 1);
	raw_msg(&r, "question", 1);
	raw_send(&r);
	tell_config(&n, 0, EPOCH + 1);
	tell_peer_epoch(&n, RAW_ID, RAW_INC, EPOCH + 1);
	queue_msg(&n, 0, RAW_ID, "more", 1);
	node_loops(&n, 1);
	assert_true(raw_receive(&r, &h));
	assert_int_equal(h.epoch, EPOCH);
	assert_int_equal(h.count, 2);
	assert_true(control_reads(&n, MAIL_CONFIG_DONE, &done, sizeof done));
	assert_int_equal(done, EPOCH + 1);

	/* First the change, then who is not there any more, then who is. */
	assert_int_equal(e->seen_n, 4);
	assert_int_equal(e->seen[1].type, EV_CONFIG);
	const struct engine_members *m = &e->seen[1].members;
	assert_int_equal(m->masters_epoch, EPOCH + 1);
	assert_int_equal(m->n_masters, 3);
	assert_int_equal(m->masters[2], 3);
	assert_int_equal(m->joined, 3);
	assert_int_equal(m->departed, 0);
	assert_false(m->replica);
	assert_int_equal(e->seen[2].type, EV_LINK);
	assert_false(e->seen[2].link.up);
	expect_link(&n, 0, 4, true);
	queue_msg(&n, 0, RAW_ID, "in the new one", 1);
	node_loops(&n, 1);
	assert_true(raw_receive(&r, &h));
	assert_int_equal(h.epoch, EPOCH + 1);
	assert_int_equal(h.count, 1);
	node_fini(&n);
}

/* A peer may have moved a moment before its control thread says so: what is sent counts by the
 * epoch of its frame, not by what is known here of the peer. */
static void test_peers_config_sends_in_the_new_epoch_at_once(void **state)
{
	struct node n;
	struct raw r;
	struct frame_header h = {0};
	node_init(&n, 4, 1);
	raw_connect(&r, &n, 0, 1);
	while (raw_receive(&r, &h))
		;
	engine_of(&n, 0)->eager = true;
	queue_msg(&n, 0, RAW_ID, "anew", 1);
	tell_config(&n, 0, EPOCH + 1);
	thread_loop(&n.thread[0]);
	assert_true(engine_of(&n, 0)->seen[1].members.replica);
	expect_link(&n, 0, 3, false);
	queue_msg(&n, 0, RAW_ID, "an answer", 1);
	thread_loop(&n.thread[0]);
	for (unsigned i = 0; i < 2; i++) {
		assert_true(raw_receive(&r, &h));
		assert_int_equal(h.epoch, EPOCH + 1);
		assert_int_equal(h.count, 1);
	}
	node_fini(&n);
}

/* ---- who is linked ---- */

static void test_peers_config_link_follows_the_epochs(void **state)
{
	struct node n;
	struct raw r;
	node_init(&n, 1, 2);
	raw_connect(&r, &n, 0, 1);
	for (unsigned i = 0; i < 2; i++)
		expect_link(&n, i, 1, true);
	tell_peer_epoch(&n, RAW_ID, RAW_INC, EPOCH + 1);
	node_loops(&n, 1);
	for (unsigned i = 0; i < 2; i++)
		expect_link(&n, i, 2, false);
	assert_true(info_of(&n, 0, RAW_ID).linked);
	assert_int_equal(info_of(&n, 0, RAW_ID).epoch, EPOCH + 1);
	tell_config(&n, 1, EPOCH + 1);
	node_loops(&n, 1);
	expect_link(&n, 0, 2, false);
	expect_link(&n, 1, 4, true);
	tell_config(&n, 0, EPOCH + 1);
	node_loops(&n, 1);
	expect_link(&n, 0, 4, true);
	/* Again: nothing new. */
	tell_peer_epoch(&n, RAW_ID, RAW_INC, EPOCH + 1);
	node_loops(&n, 1);
	expect_link(&n, 0, 4, true);
	tell_peer_epoch(&n, RAW_ID, RAW_INC, 0);
	node_loops(&n, 1);
	expect_link(&n, 0, 5, false);
	node_fini(&n);
}

/* The control thread's word may come before the link does, or after. */
static void test_peers_config_epoch_is_that_of_an_incarnation(void **state)
{
	struct node n;
	node_init(&n, 1, 1);
	tell_peer_epoch(&n, RAW_ID, RAW_INC + 1, EPOCH);
	node_loops(&n, 1);
	assert_int_equal(engine_of(&n, 0)->seen_n, 0);
	struct mail_adopt a = {.fd = new_stream(),
		.node = RAW_ID,
		.status = NODE_ACTIVE,
		.links = 1,
		.peer_inc = RAW_INC};
	control_mail(&n, 0, MAIL_ADOPT, &a, sizeof a);
	node_loops(&n, 1);
	assert_int_equal(engine_of(&n, 0)->seen_n, 0);
	a.fd = new_stream();
	a.peer_inc = RAW_INC + 1;
	control_mail(&n, 0, MAIL_ADOPT, &a, sizeof a);
	node_loops(&n, 1);
	expect_link(&n, 0, 1, true);
	/* Its next life has to say so itself. */
	a.fd = new_stream();
	a.peer_inc = RAW_INC + 2;
	control_mail(&n, 0, MAIL_ADOPT, &a, sizeof a);
	node_loops(&n, 1);
	expect_link(&n, 0, 2, false);
	tell_peer_epoch(&n, RAW_ID, RAW_INC + 2, EPOCH);
	node_loops(&n, 1);
	expect_link(&n, 0, 3, true);
	node_fini(&n);
}

/* Before it is known to be in our epoch, a new life of a node hides the messages of the old one. */
static void test_peers_config_dead_incarnation_before_the_epoch_is_known(void **state)
{
	struct node n;
	struct raw one;
	node_init(&n, 1, 2);
	raw_connect(&one, &n, 1, 2);
	struct mail_adopt a = {.fd = new_stream(),
		.node = RAW_ID,
		.status = NODE_ACTIVE,
		.links = 2,
		.peer_inc = RAW_INC + 1};
	control_mail(&n, 0, MAIL_ADOPT, &a, sizeof a);
	node_loops(&n, 2);
	raw_msg(&one, "late", 0);
	raw_send(&one);
	node_loops(&n, 2);
	assert_int_equal(engine_of(&n, 0)->msgs, 0);
	assert_int_equal(info_of(&n, 0, RAW_ID).msgs_dropped, 1);
	node_fini(&n);
}

/* ---- messages about the configuration ---- */

static void test_peers_config_messages_reach_the_control_thread(void **state)
{
	struct node n;
	struct raw r;
	struct config_mail m;
	node_init(&n, 1, 2);
	raw_connect(&r, &n, 0, 1);
	for (unsigned i = 0; i < 2; i++) {
		r.h.epoch = i == 0 ? EPOCH : EPOCH + 7;
		r.h.slots_in_sync = 6;
		raw_config(&r, "eightby.");
		raw_send(&r);
		node_loops(&n, 1);
		assert_true(config_came(&n, &m));
		assert_int_equal(m.head.node, RAW_ID);
		assert_int_equal(m.head.inc, RAW_INC);
		assert_int_equal(m.head.slots_in_sync, 6);
		assert_memory_equal(m.text, "eightby.", 8);
	}
	/* Too old is too old. */
	r.h.echo_mclk = node_ns(&n) - 901 * MS;
	raw_config(&r, "eightby.");
	raw_send(&r);
	node_loops(&n, 2);
	assert_false(config_came(&n, &m));
	assert_int_equal(engine_of(&n, 0)->msgs, 0);
	assert_int_equal(info_of(&n, 0, RAW_ID).msgs_other_epoch, 0);
	node_fini(&n);
}

static void test_peers_config_messages_are_sent(void **state)
{
	struct node a, b;
	struct config_mail m = config_mail(2, 0, "announce");
	node_init(&a, 1, 1);
	node_init(&b, 2, 1);
	size_t bytes = sizeof m.head + sizeof m.text;
	uint8_t body[sizeof m.head + sizeof m.text];
	memcpy(body, &m.head, sizeof m.head);
	memcpy(body + sizeof m.head, m.text, sizeof m.text);
	/* Without a link: nothing. */
	control_mail(&a, 0, MAIL_CONFIG_OUT, body, bytes);
	node_loops(&a, 1);
	connect_nodes(&a, &b, 0, 1);
	/* Not linked, as the engine sees it. */
	tell_config(&b, 0, EPOCH + 1);
	tell_peer_epoch(&a, 2, b.inc, EPOCH + 1);
	node_loops(&b, 1);
	node_loops(&a, 1);
	assert_false(config_came(&b, &m));
	control_mail(&a, 0, MAIL_CONFIG_OUT, body, bytes);
	node_loops(&a, 1);
	node_loops(&b, 1);
	assert_true(config_came(&b, &m));
	assert_int_equal(m.head.node, 1);
	assert_int_equal(m.head.inc, a.inc);
	assert_memory_equal(m.text, "announce", 8);
	assert_int_equal(engine_of(&b, 0)->msgs, 0);
	node_fini(&a);
	node_fini(&b);
}

/* ---- what is told of nodes ---- */

static void test_peers_config_tell_what_a_replica_is(void **state)
{
	struct node n;
	struct raw r;
	struct frame_header h = {0};
	node_init(&n, 1, 1);
	raw_connect(&r, &n, 0, 1);
	assert_int_equal(info_of(&n, 0, 3).since_ns, UINT64_MAX);
	assert_string_equal(info_of(&n, 0, RAW_ID).addr, "peer:1");
	assert_int_equal(info_of(&n, 0, RAW_ID).lag_ms, UINT32_MAX);
	r.h.status = NODE_REPLICA;
	r.h.slots_in_sync = SLOTS - 1;
	r.h.lag_ms = UINT32_MAX;
	raw_send(&r);
	node_loops(&n, 1);
	world_ns += 50 * MS;
	node_loops(&n, 1);
	assert_int_equal(info_of(&n, 0, RAW_ID).state, NODE_RESYNC);
	assert_int_equal(info_of(&n, 0, RAW_ID).since_ns, 50 * MS);
	r.h.slots_in_sync = SLOTS;
	r.h.lag_ms = 17;
	raw_send(&r);
	node_loops(&n, 1);
	struct peer_info info = info_of(&n, 0, RAW_ID);
	assert_int_equal(info.state, NODE_ACTIVE);
	assert_int_equal(info.since_ns, 0);
	assert_int_equal(info.slots_in_sync, SLOTS);
	assert_int_equal(info.lag_ms, 17);

	struct mail_status status = {.status = NODE_REPLICA, .slots_in_sync = 3, .lag_ms = 9};
	control_mail(&n, 0, MAIL_STATUS, &status, sizeof status);
	world_ns += 100 * MS;
	node_loops(&n, 1);
	while (raw_receive(&r, &h))
		;
	assert_int_equal(h.status, NODE_REPLICA);
	assert_int_equal(h.slots_in_sync, 3);
	assert_int_equal(h.lag_ms, 9);

	world_close(&n.thread[0].env, &r.end->link, false);
	node_loops(&n, 1);
	world_ns += 5 * MS;
	node_loops(&n, 1);
	assert_int_equal(info_of(&n, 0, RAW_ID).state, 0);
	assert_int_equal(info_of(&n, 0, RAW_ID).since_ns, 5 * MS);
	node_fini(&n);
}

/* ---- shard.c ---- */

static void test_shard_config_passes_mail_on(void **state)
{
	struct node n;
	node_init(&n, 1, 1);
	struct engine *e = engine_of(&n, 0);
	uint64_t epoch = EPOCH - 1;
	control_mail(&n, 0, MAIL_SETTLED, &epoch, sizeof epoch);
	node_loops(&n, 1);
	assert_int_equal(e->seen_n, 0); /* of an older change */
	epoch = EPOCH;
	control_mail(&n, 0, MAIL_SETTLED, &epoch, sizeof epoch);
	struct mail_change change = {.step = 2, .steps = 3, .text = "add master 4"};
	control_mail(&n, 0, MAIL_CHANGE, &change, sizeof change);
	struct mail_setnodes_done done = {.tag = 1};
	control_mail(&n, 0, MAIL_SETNODES_DONE, &done, sizeof done);
	node_loops(&n, 1);
	assert_int_equal(e->seen_n, 1);
	assert_int_equal(e->seen[0].type, EV_SETTLED);
	assert_int_equal(n.thread[0].shard->change.step, 2);
	assert_string_equal(n.thread[0].shard->change.text, "add master 4");
	assert_int_equal(n.thread[0].shard->clients->setnodes_done, 1);
	node_fini(&n);
}

/* A master that has missed its own removal begins anew by itself when it hears of it. That it shall
 * ask the others, it was told before that; it is told again, and that is news to its engine. */
static void test_shard_config_begins_anew(void **state)
{
	struct node n;
	node_init(&n, 1, 1);
	struct engine *e = engine_of(&n, 0);
	struct mail_status asks = {.status = NODE_RESYNC};
	control_mail(&n, 0, MAIL_STATUS, &asks, sizeof asks);
	node_loops(&n, 1);
	e->stats.status = NODE_QUARANTINE;
	tell_config(&n, 0, EPOCH + 1);
	control_mail(&n, 0, MAIL_STATUS, &asks, sizeof asks);
	node_loops(&n, 1);
	assert_int_equal(last_event(&n, 0)->type, EV_STATUS);
	assert_int_equal(last_event(&n, 0)->status.status, NODE_RESYNC);
	assert_int_equal(e->stats.status, NODE_RESYNC);
	node_fini(&n);
}

static bool progress_came(struct node *n, struct mail_progress *ret)
{
	node_loops(n, 1);
	return control_reads(n, MAIL_PROGRESS, ret, sizeof *ret);
}

static void test_shard_config_reports_progress(void **state)
{
	struct node n;
	struct mail_progress p;
	struct mail_status active = {.status = NODE_ACTIVE};
	node_init(&n, 1, 1);
	struct engine *e = engine_of(&n, 0);
	e->stats = (struct engine_stats){.slots = SLOTS, .slots_voting = SLOTS};
	control_mail(&n, 0, MAIL_STATUS, &active, sizeof active);
	assert_true(progress_came(&n, &p));
	assert_int_equal(p.synced_epoch, 0);
	/* Not all at once ... */
	e->stats.slots_in_sync = 3;
	world_ns += 49 * MS;
	assert_false(progress_came(&n, &p));
	world_ns += 1 * MS;
	assert_true(progress_came(&n, &p));
	assert_int_equal(p.slots_in_sync, 3);
	world_ns += 1000 * MS;
	assert_false(progress_came(&n, &p));
	/* ... but for the news that the others wait for. */
	e->stats.slots_in_sync = 7;
	assert_true(progress_came(&n, &p));
	e->stats.slots_in_sync = SLOTS;
	e->stats.synced_epoch = EPOCH;
	assert_true(progress_came(&n, &p));
	assert_int_equal(p.synced_epoch, EPOCH);
	/* Then there is nothing to tell ... */
	e->stats.leases = 5;
	world_ns += 1000 * MS;
	assert_false(progress_came(&n, &p));
	/* ... until the masters change ... */
	tell_config(&n, 0, EPOCH + 1);
	e->stats.synced_epoch = 0;
	assert_true(progress_came(&n, &p));
	assert_int_equal(p.synced_epoch, 0);
	e->stats.synced_epoch = EPOCH + 1;
	assert_true(progress_came(&n, &p));
	/* ... or it becomes a replica. */
	struct mail_status replica = {.status = NODE_REPLICA};
	control_mail(&n, 0, MAIL_STATUS, &replica, sizeof replica);
	e->stats.lag_ns = 5;
	assert_true(progress_came(&n, &p));
	assert_int_equal(p.lag_ns, 5);
	e->stats.lag_ns = 6;
	assert_false(progress_came(&n, &p));
	world_ns += 50 * MS;
	assert_true(progress_came(&n, &p));
	assert_int_equal(p.lag_ns, 6);
	/* The same again, after a change of status: the control thread starts anew. */
	struct mail_status none = {.status = NODE_NONMEMBER};
	control_mail(&n, 0, MAIL_STATUS, &none, sizeof none);
	assert_true(progress_came(&n, &p));
	node_fini(&n);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_peers_config_other_epoch_keeps_the_link),
		T(test_peers_config_garbage_of_another_epoch),
		T(test_peers_config_mail_between_shards_of_two_epochs),
		T(test_peers_config_mail_made_in_another_epoch_is_dropped),
		T(test_peers_config_change_in_mid_loop),
		T(test_peers_config_sends_in_the_new_epoch_at_once),
		T(test_peers_config_link_follows_the_epochs),
		T(test_peers_config_epoch_is_that_of_an_incarnation),
		T(test_peers_config_dead_incarnation_before_the_epoch_is_known),
		T(test_peers_config_messages_reach_the_control_thread),
		T(test_peers_config_messages_are_sent),
		T(test_peers_config_tell_what_a_replica_is),
		T(test_shard_config_passes_mail_on),
		T(test_shard_config_begins_anew),
		T(test_shard_config_reports_progress),
	};
	log_set_level(LOG_ERROR);
	return cmocka_run_group_tests_name("peers_config", tests, NULL, NULL);
}
