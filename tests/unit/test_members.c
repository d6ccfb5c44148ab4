#include "members_world.h"

/* ---- as an acceptor ---- */

static void test_members_promise_is_durable_before_it_is_told(void **state)
{
	(void)state;
	struct members_register reg;
	struct config_msg msg = request(CONFIG_PREPARE, 5, 2);
	world(3, 0, 3);
	assert_false(members_wants_write(w.m[1], &reg));
	tell(1, 2, &msg);
	assert_silent(1);
	assert_true(members_wants_write(w.m[1], &reg));
	assert_int_equal(reg.promised.n, 5);
	assert_int_equal(reg.promised.node, 2);
	members_written(w.m[1], w.now_ns);
	msg = said(1, 2, CONFIG_PROMISE);
	assert_int_equal(msg.b.n, 5);
	assert_int_equal(msg.config.epoch, 0);
	/* Again: answered from what is durable. */
	msg = request(CONFIG_PREPARE, 5, 2);
	tell(1, 2, &msg);
	assert_false(members_wants_write(w.m[1], &reg));
	(void)said(1, 2, CONFIG_PROMISE);
}

static void test_members_lower_ballot_is_refused(void **state)
{
	(void)state;
	struct config_msg msg = request(CONFIG_PREPARE, 5, 3);
	world(3, 0, 3);
	tell(1, 3, &msg);
	save(1);
	(void)said(1, 3, CONFIG_PROMISE);
	msg = request(CONFIG_PREPARE, 5, 2);
	tell(1, 2, &msg);
	msg = said(1, 2, CONFIG_REFUSE);
	assert_int_equal(msg.b.n, 5);
	assert_int_equal(msg.b.node, 3);
	msg = proposal(5, 2, 3);
	tell(1, 2, &msg);
	(void)said(1, 2, CONFIG_REFUSE);
	assert_int_equal(w.disk[1].accepted.epoch, 0);
}

static void test_members_accepted_is_durable_and_told_in_promises(void **state)
{
	(void)state;
	struct config_msg msg = proposal(5, 2, 3);
	world(3, 0, 3);
	tell(1, 2, &msg);
	assert_silent(1);
	save(1);
	msg = said(1, 2, CONFIG_ACCEPTED);
	assert_int_equal(msg.b.n, 5);
	assert_int_equal(w.disk[1].accepted.epoch, 2);
	boot(1, false);
	link_nodes(1, 3, true);
	drop_all(1);
	msg = request(CONFIG_PREPARE, 6, 3);
	tell(1, 3, &msg);
	save(1);
	msg = said(1, 3, CONFIG_PROMISE);
	assert_int_equal(msg.accepted_at.n, 5);
	assert_int_equal(msg.accepted_at.node, 2);
	assert_int_equal(msg.config.epoch, 2);
	assert_int_equal(membership_role(&msg.config, 3), ROLE_NONE);
	/* Overtaken before it was durable: what goes out is not the older answer. */
	msg = request(CONFIG_PREPARE, 7, 3);
	tell(1, 3, &msg);
	msg = request(CONFIG_PREPARE, 8, 2);
	link_nodes(1, 2, true);
	tell(1, 2, &msg);
	save(1);
	(void)said(1, 2, CONFIG_NEWS);
	(void)said(1, 2, CONFIG_PROMISE);
	(void)said(1, 3, CONFIG_REFUSE);
	assert_silent(1);
}

static void test_members_what_follows_nothing_is_not_accepted(void **state)
{
	(void)state;
	struct members_register reg;
	struct config_msg msg = proposal(5, 2, 3);
	world(3, 0, 4);
	assert_int_equal(membership_remove(&msg.config, 2), 0);
	msg.config.epoch = 2; /* two nodes at once */
	tell(1, 2, &msg);
	msg = proposal(5, 2, 3);
	msg.config.slots = 128;
	tell(1, 2, &msg);
	msg = proposal(5, 2, 3);
	msg.config.departed = 2;
	tell(1, 2, &msg);
	msg = proposal(5, 2, 3);
	msg.config.epoch = 3;
	tell(1, 2, &msg);
	assert_false(members_wants_write(w.m[1], &reg));
	assert_silent(1);
	/* Who votes neither before nor after is not asked for its opinion. */
	msg = proposal(5, 2, 3);
	tell(4, 2, &msg);
	msg = request(CONFIG_PREPARE, 5, 2);
	tell(4, 2, &msg);
	assert_silent(4);
	/* Nobody that is not linked, nor this node. */
	tell(1, 19, &msg);
	tell(1, 1, &msg);
	tell(1, 0, &msg);
	assert_false(members_wants_write(w.m[1], &reg));
	assert_silent(1);
}

static void test_members_other_epochs_are_answered_with_news(void **state)
{
	(void)state;
	struct config_msg msg = request(CONFIG_PREPARE, 5, 2);
	world(3, 0, 3);
	msg.epoch = 2;
	tell(1, 2, &msg);
	msg = said(1, 2, CONFIG_NEWS);
	assert_int_equal(msg.config.epoch, 1);
	assert_silent(1);
	link_nodes(1, 2, false);
	link_nodes(1, 2, true);
	link_nodes(2, 1, true);
	begin(1, "\1\2", NULL);
	settle();
	assert_result(1, "");
	msg = request(CONFIG_PREPARE, 5, 3); /* of epoch 1 */
	tell(1, 3, &msg);
	msg = said(1, 3, CONFIG_NEWS);
	assert_int_equal(msg.epoch, 2);
	assert_int_equal(msg.config.epoch, 2);
	assert_silent(1);
}

/* ---- as a learner ---- */

static void test_members_news_are_durable_before_they_count(void **state)
{
	(void)state;
	struct members_register reg;
	struct config_msg msg = request(CONFIG_PREPARE, 5, 2), news = proposal(0, 0, 3);
	world(3, 0, 3);
	tell(1, 2, &msg);
	save(1);
	drop_all(1);
	news.kind = CONFIG_NEWS;
	news.epoch = news.config.epoch = news.config.masters_epoch = 9; /* a jump */
	tell(1, 2, &news);
	assert_int_equal(members_current(w.m[1])->epoch, 1);
	assert_silent(1);
	assert_true(members_wants_write(w.m[1], &reg));
	assert_int_equal(reg.committed.epoch, 9);
	assert_int_equal(reg.promised.n, 0);
	members_written(w.m[1], w.now_ns);
	assert_int_equal(members_current(w.m[1])->epoch, 9);
	(void)said(1, 2, CONFIG_NEWS);
	msg = said(1, 3, CONFIG_NEWS);
	assert_int_equal(msg.epoch, 9);
	assert_int_equal(msg.moved_epoch, 1);
	/* Never back; the other is told. */
	news.epoch = news.config.epoch = news.config.masters_epoch = 8;
	tell(1, 2, &news);
	members_learn(w.m[1], w.now_ns, &news.config);
	assert_false(members_wants_write(w.m[1], &reg));
	assert_int_equal(said(1, 2, CONFIG_NEWS).epoch, 9);
}

static void test_members_a_write_is_frozen_until_it_is_done(void **state)
{
	(void)state;
	struct members_register reg;
	struct config_msg msg = request(CONFIG_PREPARE, 5, 2);
	world(3, 0, 3);
	tell(1, 2, &msg);
	assert_true(members_wants_write(w.m[1], &reg));
	msg = request(CONFIG_PREPARE, 6, 2);
	tell(1, 2, &msg);
	assert_true(members_wants_write(w.m[1], &reg));
	assert_int_equal(reg.promised.n, 5);
	members_written(w.m[1], w.now_ns);
	assert_silent(1);
	assert_true(members_wants_write(w.m[1], &reg));
	assert_int_equal(reg.promised.n, 6);
	members_written(w.m[1], w.now_ns);
	assert_int_equal(said(1, 2, CONFIG_PROMISE).b.n, 6);
}

static void test_members_few_messages_wait_for_a_node(void **state)
{
	(void)state;
	struct config_msg msg;
	uint8_t to;
	unsigned n = 0;
	world(3, 0, 3);
	begin(1, "\1\2", NULL);
	for (unsigned i = 1; i < 200; i++) {
		w.now_ns += 100 * MS;
		members_tick(w.m[1], w.now_ns);
		members_progress(w.m[1], w.now_ns, 1, i % 2);
		msg = request(CONFIG_PREPARE, 5 + i, 2);
		tell(1, 2, &msg);
	}
	save(1);
	while (members_take_message(w.m[1], &to, &msg))
		n++;
	assert_in_range(n, 2, 6);
	/* News every half a second. */
	assert_true(members_due_ns(w.m[1]) <= w.now_ns + 500 * MS);
	w.now_ns += 500 * MS;
	members_tick(w.m[1], w.now_ns);
	(void)said(1, 2, CONFIG_NEWS);
}

static void test_members_forgetful_abstains_once(void **state)
{
	(void)state;
	struct members_register reg;
	struct config_msg msg = request(CONFIG_PREPARE, 5, 2);
	world(3, 0, 4);
	w.disk[1] = (struct members_register){.committed = config_of(3, 0)};
	boot(1, true);
	assert_true(members_wants_write(w.m[1], &reg)); /* that it abstains */
	save(1);
	link_nodes(1, 2, true);
	drop_all(1);
	tell(1, 2, &msg);
	assert_silent(1);
	/* Also in a life that has a file again. */
	boot(1, false);
	for (unsigned id = 2; id <= 4; id++) {
		link_nodes(1, id, true);
		link_nodes(id, 1, true);
	}
	tell(1, 2, &msg);
	save(1);
	assert_int_equal(w.disk[1].accepted.epoch, 0);
	settle();
	/* Two others are enough; it may have to know the new one, and does not count for the old.
	 */
	begin(2, "\1\2", NULL);
	settle();
	assert_result(2, "");
	begin(2, "\1\2\3", NULL);
	settle();
	assert_result(2, "");
	/* It takes part again. */
	msg.epoch = members_current(w.m[1])->epoch;
	tell(1, 2, &msg);
	save(1);
	(void)said(1, 2, CONFIG_PROMISE);
}

static void test_members_forgetful_does_not_trust_a_minority(void **state)
{
	(void)state;
	struct config_msg msg;
	world(3, 0, 4);
	begin(2, "\1\2\3\4", NULL);
	settle();
	assert_result(2, "");
	/* Node 3 is back from the past, and the first that node 1 meets. */
	w.disk[1] = w.disk[3] = (struct members_register){.committed = config_of(3, 0)};
	boot(3, false);
	boot(1, true);
	link_nodes(1, 3, true);
	link_nodes(3, 1, true);
	settle();
	assert_int_equal(members_current(w.m[1])->epoch, 1);
	for (unsigned id = 2; id <= 4; id += 2) {
		link_nodes(1, id, true);
		link_nodes(id, 1, true);
	}
	settle();
	assert_int_equal(members_current(w.m[1])->epoch, 2);
	msg = request(CONFIG_PREPARE, 5, 2);
	msg.epoch = 2;
	tell(1, 2, &msg);
	save(1);
	assert_silent(1);
}

/* What the first write of a node that has lost its register holds: a crash after it changes
 * nothing. */
static void test_members_abstains_from_its_first_write_on(void **state)
{
	(void)state;
	struct members_register reg;
	struct config_msg msg = request(CONFIG_PREPARE, 5, 2);
	world(3, 0, 3);
	w.disk[1] = (struct members_register){.committed = config_of(3, 0)};
	members_abstain(&w.disk[1]);
	boot(1, false);
	assert_false(members_wants_write(w.m[1], &reg));
	link_nodes(1, 2, true);
	drop_all(1);
	tell(1, 2, &msg);
	assert_silent(1);
}

/* Its register has turned out to be an old one. */
static void test_members_forgets_what_it_believed(void **state)
{
	(void)state;
	struct members_register reg;
	struct config_msg msg = request(CONFIG_PREPARE, 5, 2);
	world(3, 0, 3);
	members_forget(w.m[1], w.now_ns);
	assert_true(members_wants_write(w.m[1], &reg));
	save(1);
	drop_all(1);
	tell(1, 2, &msg);
	assert_silent(1);
	boot(1, false);
	link_nodes(1, 2, true);
	drop_all(1);
	tell(1, 2, &msg);
	assert_silent(1);
}

/* A cluster of one has grown, and its first node has lost that: what follows its configuration
 * needed its vote, so it may have voted in later changes as well. */
static void test_members_alone_and_voted_out_of_its_memory(void **state)
{
	(void)state;
	struct config_msg msg = request(CONFIG_PREPARE, 5, 2);
	world(1, 0, 3);
	begin(1, "\1\2\3", NULL);
	settle();
	assert_result(1, "");
	w.disk[1] = (struct members_register){.committed = config_of(1, 0)};
	boot(1, false);
	link_nodes(1, 2, true);
	link_nodes(2, 1, true);
	settle();
	msg.epoch = members_current(w.m[1])->epoch;
	assert_int_equal(msg.epoch, 3);
	tell(1, 2, &msg);
	save(1);
	assert_silent(1);
}

static void carry(unsigned from, unsigned to)
{
	struct config_msg msg;
	uint8_t id;
	while (members_take_message(w.m[from], &id, &msg))
		if (id == to)
			members_receive(w.m[to], w.now_ns, (uint8_t)from, &msg);
}

/* The second master of a cluster has accepted that it is one, and dies before it learns that it is
 * so. It abstains from that decision alone: had it to abstain from the next one as well, two
 * masters could never change again. */
static void test_members_joiner_dies_before_it_learns(void **state)
{
	(void)state;
	world(1, 0, 1);
	w.disk[2] = (struct members_register){.committed = config_of(1, 0)};
	boot(2, true);
	link_nodes(1, 2, true);
	link_nodes(2, 1, true);
	settle();
	begin(1, "\1\2", NULL);
	for (unsigned k = 0; k < 20 && w.disk[2].accepted.epoch == 0; k++) {
		save(1);
		carry(1, 2);
		save(2);
		if (w.disk[2].accepted.epoch == 0)
			carry(2, 1);
	}
	assert_int_equal(w.disk[2].accepted.epoch, 2);
	carry(2, 1);
	save(1);
	assert_int_equal(w.disk[1].committed.epoch, 2);
	assert_int_equal(w.disk[2].committed.epoch, 1);
	down(2);
	boot(2, false);
	members_learn(w.m[2], w.now_ns, &w.disk[1].committed);
	link_nodes(1, 2, true);
	link_nodes(2, 1, true);
	settle();
	assert_result(1, "");
	w.disk[3] = (struct members_register){.committed = w.disk[1].committed};
	boot(3, true);
	for (unsigned id = 1; id <= 2; id++) {
		link_nodes(3, id, true);
		link_nodes(id, 3, true);
	}
	settle();
	begin(1, "\1\2\3", NULL);
	settle();
	assert_result(1, "");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_members_promise_is_durable_before_it_is_told),
		cmocka_unit_test(test_members_lower_ballot_is_refused),
		cmocka_unit_test(test_members_accepted_is_durable_and_told_in_promises),
		cmocka_unit_test(test_members_what_follows_nothing_is_not_accepted),
		cmocka_unit_test(test_members_other_epochs_are_answered_with_news),
		cmocka_unit_test(test_members_news_are_durable_before_they_count),
		cmocka_unit_test(test_members_a_write_is_frozen_until_it_is_done),
		cmocka_unit_test(test_members_few_messages_wait_for_a_node),
		cmocka_unit_test(test_members_forgetful_abstains_once),
		cmocka_unit_test(test_members_forgetful_does_not_trust_a_minority),
		cmocka_unit_test(test_members_joiner_dies_before_it_learns),
		cmocka_unit_test(test_members_abstains_from_its_first_write_on),
		cmocka_unit_test(test_members_forgets_what_it_believed),
		cmocka_unit_test(test_members_alone_and_voted_out_of_its_memory),
	};
	return cmocka_run_group_tests(tests, NULL, world_end);
}
