/* SETNODES: the register as a proposer. */
#include "members_world.h"

static struct config_msg promise(const struct config_msg *to)
{
	struct config_msg msg = *to;
	msg.kind = CONFIG_PROMISE;
	msg.config.epoch = 0;
	return msg;
}

/* Begins on node 1; what it asks. */
static struct config_msg prepare(const char *masters)
{
	begin(1, masters, NULL);
	assert_silent(1); /* its ballot is not durable yet */
	save(1);
	struct config_msg msg = said(1, 2, CONFIG_PREPARE);
	assert_int_equal(msg.b.node, 1);
	assert_int_equal(w.disk[1].promised.n, msg.b.n);
	drop_all(1);
	return msg;
}

static void test_members_counts_nodes_and_ballots(void **state)
{
	(void)state;
	world(5, 0, 6);
	struct config_msg asked = prepare("\1\2\3\4"), msg = promise(&asked);
	tell(1, 2, &msg);
	tell(1, 2, &msg);
	tell(1, 6, &msg); /* no master */
	assert_silent(1);
	msg.b.n--;
	tell(1, 3, &msg);
	msg.b = (struct change_ballot){asked.b.n, 3};
	tell(1, 3, &msg);
	assert_silent(1);
	msg.b = asked.b;
	msg.epoch = 2;
	tell(1, 3, &msg);
	assert_int_equal(said(1, 3, CONFIG_NEWS).epoch, 1);
	msg.epoch = 1;
	tell(1, 3, &msg);
	save(1);
	msg = said(1, 2, CONFIG_ACCEPT);
	assert_int_equal(membership_role(&msg.config, 5), ROLE_NONE);
	drop_all(1);
	/* Of 5 and of 4: 3 of each. Node 5 votes, and is none of the 4. */
	msg = (struct config_msg){
		.kind = CONFIG_ACCEPTED, .epoch = 1, .b = asked.b, .accepted_at = asked.b};
	tell(1, 2, &msg);
	tell(1, 2, &msg);
	tell(1, 5, &msg);
	assert_int_equal(members_current(w.m[1])->epoch, 1);
	save(1);
	assert_int_equal(members_current(w.m[1])->epoch, 1);
	tell(1, 4, &msg);
	save(1);
	assert_int_equal(members_current(w.m[1])->epoch, 2);
}

static void test_members_adopts_the_highest_accepted(void **state)
{
	(void)state;
	world(3, 0, 3);
	struct config_msg asked = prepare("\1\2"), msg = promise(&asked);
	tell(1, 2, &msg);
	drop_all(1);
	/* In the accept phase already: a late promise changes nothing. */
	world(5, 0, 5);
	asked = prepare("\1\2\3\4");
	msg = promise(&asked);
	msg.config = config_of(5, 0);
	assert_int_equal(membership_remove(&msg.config, 2), 0);
	msg.accepted_at = (struct change_ballot){7, 2};
	tell(1, 2, &msg);
	msg.config = config_of(5, 0);
	assert_int_equal(membership_remove(&msg.config, 3), 0);
	msg.accepted_at = (struct change_ballot){6, 5};
	tell(1, 3, &msg);
	save(1);
	msg = said(1, 2, CONFIG_ACCEPT);
	assert_int_equal(membership_role(&msg.config, 2), ROLE_NONE);
	assert_int_equal(membership_role(&msg.config, 3), ROLE_MASTER);
	assert_int_equal(membership_role(&msg.config, 5), ROLE_MASTER);
	/* Finished, and then its own: 2 comes back, 5 goes. */
	later(3 * SEC);
	assert_result(1, "");
	assert_int_equal(membership_role(&w.seen[2], 2), ROLE_NONE);
	assert_int_equal(membership_role(members_current(w.m[1]), 2), ROLE_MASTER);
	assert_int_equal(membership_role(members_current(w.m[1]), 5), ROLE_NONE);
	assert_int_equal(members_current(w.m[1])->epoch, 4);
}

static void test_members_refused_tries_again_above(void **state)
{
	(void)state;
	world(3, 0, 3);
	struct config_msg asked = prepare("\1\2"), msg = asked;
	msg.kind = CONFIG_REFUSE;
	msg.b.n--; /* not this one */
	tell(1, 3, &msg);
	assert_text(1, 1, 1, "remove master 3: waiting for a majority");
	msg.b = (struct change_ballot){asked.b.n + 1000, 3};
	tell(1, 3, &msg);
	assert_text(1, 1, 1, "remove master 3: node 3 is making a change, too");
	assert_true(members_due_ns(w.m[1]) <= w.now_ns + 600 * MS);
	w.now_ns += 600 * MS;
	members_tick(w.m[1], w.now_ns);
	save(1);
	(void)said(1, 2, CONFIG_NEWS);
	assert_true(said(1, 2, CONFIG_PREPARE).b.n > asked.b.n + 1000);
	settle();
	assert_result(1, "");
}

static void test_members_asks_again_who_is_silent(void **state)
{
	(void)state;
	world(3, 0, 3);
	struct config_msg asked = prepare("\1\2");
	w.now_ns += ATTEMPT_MS / 2 * MS;
	members_tick(w.m[1], w.now_ns);
	save(1);
	(void)said(1, 2, CONFIG_NEWS);
	assert_int_equal(said(1, 2, CONFIG_PREPARE).b.n, asked.b.n);
	/* And who is linked again. */
	drop_all(1);
	link_nodes(1, 3, false);
	link_nodes(1, 3, true);
	(void)said(1, 3, CONFIG_NEWS);
	assert_int_equal(said(1, 3, CONFIG_PREPARE).b.n, asked.b.n);
}

static void test_members_alone(void **state)
{
	(void)state;
	world(1, 0, 1);
	begin(1, "\1", NULL);
	assert_result(1, "");
	assert_true(members_settled(w.m[1]));
	world(1, 0, 2);
	begin(1, "\1", "\2");
	settle();
	assert_result(1, "");
	assert_int_equal(membership_role(members_current(w.m[2]), 2), ROLE_REPLICA);
	assert_int_equal(members_current(w.m[1])->masters_epoch, 1);
}

/* By a replica and by a node that is neither; masters, replicas, promotion, demotion. */
static void test_members_sequence_of_single_changes(void **state)
{
	(void)state;
	world(3, 1, 7);
	begin(4, "\4\5\6", "\1\7");
	settle();
	assert_result(4, "");
	const struct membership *c = members_current(w.m[7]);
	assert_int_equal(c->epoch, 8);
	for (unsigned id = 1; id <= 7; id++)
		assert_int_equal(membership_role(c, (uint8_t)id), id == 1 || id == 7 ? ROLE_REPLICA
								  : id >= 4          ? ROLE_MASTER
										     : ROLE_NONE);
	assert_int_equal(membership_role(&w.seen[2], 7), ROLE_REPLICA);
	assert_int_equal(w.seen[3].joined, 4);
	assert_int_equal(w.seen[4].joined, 5);
	assert_int_equal(w.seen[5].joined, 6);
	assert_int_equal(w.seen[6].departed + w.seen[7].departed + w.seen[8].departed, 1 + 2 + 3);
	for (unsigned id = 1; id <= 7; id++)
		assert_true(members_settled(w.m[id]));
	begin(2, "\1\4\5", NULL);
	settle();
	assert_result(2, "");
	assert_int_equal(membership_role(members_current(w.m[7]), 7), ROLE_REPLICA);
	assert_int_equal(membership_role(members_current(w.m[7]), 6), ROLE_NONE);
}

static void test_members_full_lists(void **state)
{
	(void)state;
	world(15, 4, 20);
	begin(1, "\2\3\4\5\6\7\x8\x9\xa\xb\xc\xd\xe\xf\x14", NULL);
	settle();
	assert_result(1, "");
	assert_int_equal(members_current(w.m[1])->n_masters, 15);
	assert_int_equal(w.seen[2].departed, 1);
}

static void test_members_dead_master_is_replaced(void **state)
{
	(void)state;
	world(3, 0, 4);
	down(3);
	begin(1, "\1\2\4", NULL);
	settle();
	assert_result(1, "");
	assert_int_equal(w.seen[2].departed, 3);
	assert_int_equal(w.seen[3].joined, 4);
}

static void test_members_gate(void **state)
{
	(void)state;
	world(3, 0, 5);
	w.slow[4] = true;
	begin(1, "\1\2\3\4\5", NULL);
	settle();
	members_slots(w.m[1], 4, 37);
	assert_int_equal(members_current(w.m[1])->epoch, 2);
	assert_text(1, 1, 2, "add master 4: in sync 37 of 64 slots");
	assert_false(members_settled(w.m[1]));
	/* Progress keeps it patient. */
	for (unsigned slots = 38; slots < 44; slots++) {
		later(9 * SEC);
		members_slots(w.m[1], 4, (uint16_t)slots);
		later(1 * SEC);
	}
	assert_text(1, 1, 2, "add master 4: in sync 43 of 64 slots");
	later(10 * SEC);
	assert_result(1, "NOTREADY master 4 is in sync with 43 of 64 slots: epoch 2 is in force; "
			 "left to do: add master 5; repeat the command to go on");
	/* Again, to the end, but a majority falls behind on the way. */
	begin(1, "\1\2\3\4\5", NULL);
	w.slow[4] = false;
	w.slow[2] = w.slow[3] = true;
	settle();
	assert_text(1, 1, 1, "add master 5: master 2 is in sync with 0 of 64 slots");
	w.slow[2] = w.slow[3] = false;
	later(100 * MS);
	assert_result(1, "");
	assert_true(members_settled(w.m[5]));
}

static void test_members_nothing_begins_before_the_gate(void **state)
{
	(void)state;
	world(3, 0, 3);
	w.slow[2] = w.slow[3] = true;
	settle();
	begin(1, "\1\2", NULL);
	settle();
	assert_int_equal(w.disk[1].promised.n, 0);
	assert_text(1, 1, 1, "remove master 3: master 2 is in sync with 0 of 64 slots");
	w.slow[3] = false; /* two of three; but 2 stays, and is to be in sync before 3 goes */
	later(1 * SEC);
	assert_int_equal(w.disk[1].promised.n, 0);
	w.slow[2] = false;
	later(100 * MS);
	assert_result(1, "");
}

static void test_members_ok_needs_all_masters(void **state)
{
	(void)state;
	world(3, 0, 4);
	down(3);
	begin(1, "\1\2\3\4", NULL);
	later(11 * SEC);
	assert_result(1, "NOTREADY master 3 is not linked here: epoch 2 is in force; left to do: "
			 "nothing but that; repeat the command to go on");
	boot(3, false);
	for (unsigned id = 1; id <= 4; id++) {
		link_nodes(3, id, true);
		link_nodes(id, 3, true);
	}
	begin(1, "\1\2\3\4", NULL);
	assert_text(1, 1, 1, "nothing to change: master 3 does not know epoch 2 yet");
	settle();
	assert_result(1, "");
}

static void test_members_who_comes_must_be_there(void **state)
{
	(void)state;
	world(3, 0, 4);
	down(4);
	begin(1, "\1\2\3\4", NULL);
	later(11 * SEC);
	assert_result(1, "NOTREADY node 4 is not linked here: epoch 1 is in force; left to do: add "
			 "master 4; repeat the command to go on");
}

static void test_members_no_quorum(void **state)
{
	(void)state;
	world(3, 0, 4);
	down(2);
	down(3);
	begin(1, "\1\2\3\4", NULL);
	later(11 * SEC);
	assert_result(1, "NOQUORUM 1 of 3 masters are linked here, 2 are needed: epoch 1 is in "
			 "force; left to do: add master 4; repeat the command to go on");
	/* Linked, and silent. */
	world(3, 0, 3);
	(void)prepare("\1\2");
	for (unsigned i = 0; i < 101; i++) {
		w.now_ns += 100 * MS;
		members_tick(w.m[1], w.now_ns);
		save(1);
		drop_all(1);
	}
	assert_result(1, "NOQUORUM too few masters, of before and after the change, answer: epoch "
			 "1 is in force; left to do: remove master 3; repeat the command to go on");
}

static void test_members_changed_meanwhile(void **state)
{
	(void)state;
	world(5, 0, 6);
	(void)prepare("\1\2\3");
	struct config_msg msg = {.kind = CONFIG_ACCEPT, .epoch = 1};
	msg.config = config_of(5, 0);
	msg.b = (struct change_ballot){BALLOT_MAX - 1, 5};
	assert_int_equal(membership_remove(&msg.config, 1), 0);
	tell(1, 5, &msg);
	msg.kind = CONFIG_NEWS;
	msg.epoch = 2;
	tell(1, 5, &msg);
	save(1);
	assert_result(1, "BUSY changed meanwhile by node 5: epoch 2 is in force; left to do: add "
			 "master 1, remove master 4, remove master 5; repeat the command to go on");
	/* By whom is not known after a jump. */
	world(5, 0, 6);
	(void)prepare("\1\2\3");
	msg.epoch = msg.config.epoch = 3;
	tell(1, 5, &msg);
	save(1);
	assert_result(1, "BUSY changed meanwhile: epoch 3 is in force; left to do: add master 1, "
			 "remove master 4, remove master 5; repeat the command to go on");
	/* What it wanted itself, finished by another. */
	world(3, 0, 3);
	(void)prepare("\1\2");
	msg = proposal(0, 0, 3);
	msg.kind = CONFIG_NEWS;
	msg.epoch = 2;
	tell(1, 2, &msg);
	settle();
	assert_result(1, "");
}

static void test_members_errors_of_setnodes(void **state)
{
	(void)state;
	char why[MEMBERS_ERROR_MAX_BYTES];
	struct members_target t = {0};
	world(3, 0, 3);
	assert_int_equal(set_nodes(1, "", NULL, why), -EINVAL);
	assert_string_equal(why, "ERR no master is named: a cluster needs at least one");
	assert_int_equal(set_nodes(1, "\1\7", NULL, why), -EINVAL);
	assert_string_equal(why, "ERR node 7 is not known here: start it with --join first");
	assert_int_equal(set_nodes(1, "\1", "\2\7", why), -EINVAL);
	assert_string_equal(why, "ERR node 7 is not known here: start it with --join first");
	assert_int_equal(set_nodes(1, "\1\3\3", NULL, why), -EINVAL);
	assert_string_equal(why, "ERR node 3 is named twice");
	assert_int_equal(set_nodes(1, "\1\3", "\3", why), -EINVAL);
	assert_string_equal(why, "ERR node 3 is named twice");
	t.n_masters = 16;
	assert_int_equal(members_set(w.m[1], w.now_ns, &t, why, sizeof why), -EINVAL);
	assert_string_equal(why, "ERR at most 15 masters can be named, not 16");
	t = (struct members_target){.n_masters = 1, .has_replicas = true, .n_replicas = 17};
	assert_int_equal(members_set(w.m[1], w.now_ns, &t, why, sizeof why), -EINVAL);
	assert_string_equal(why, "ERR at most 16 replicas can be named, not 17");
	w.disk[4] = (struct members_register){0};
	boot(4, false);
	assert_int_equal(set_nodes(4, "\4", NULL, why), -EINVAL);
	assert_string_equal(why, "ERR this node knows no configuration yet");
	begin(1, "\1\2", NULL);
	assert_int_equal(set_nodes(1, "\1", NULL, why), -EBUSY);
	assert_string_equal(why, "BUSY a change is being made by this node: remove master 3: "
				 "waiting for a majority");
	settle();
	assert_result(1, "");
}

static void test_members_its_own_address(void **state)
{
	(void)state;
	char why[MEMBERS_ERROR_MAX_BYTES];
	world(1, 0, 1);
	w.disk[5].committed = config_of(1, 0);
	boot(5, false);
	link_nodes(5, 1, true);
	link_nodes(1, 5, true);
	assert_int_equal(set_nodes(5, "\1\5", NULL, why), -EINVAL);
	members_link(w.m[5], w.now_ns, 5, true, "h5:7000");
	begin(5, "\1\5", NULL);
	settle();
	assert_result(5, "");
	assert_string_equal(membership_find(members_current(w.m[1]), 5)->addr, "h5:7000");
}

/* The first configuration is what every node's flags say: one writes names, another one numbers. */
static void test_members_known_by_several_names(void **state)
{
	(void)state;
	world(3, 0, 4);
	for (unsigned id = 2; id <= 3; id++) {
		struct member *first = &w.disk[id].committed.masters[0];
		down(id);
		(void)snprintf(first->addr, sizeof first->addr, "host%u:7501", id);
		boot(id, false);
		for (unsigned other = 1; other <= 4; other++) {
			if (other == id || w.m[other] == NULL)
				continue;
			link_nodes(id, other, true);
			link_nodes(other, id, true);
		}
		in_sync(id);
	}
	begin(2, "\1\2\3\4", NULL);
	settle();
	assert_result(2, "");
	assert_string_equal(membership_find(members_current(w.m[1]), 1)->addr, "host2:7501");
}

/* The disk takes nothing any more: that is an answer, too. */
static void test_members_fails_without_a_disk(void **state)
{
	(void)state;
	char error[MEMBERS_ERROR_MAX_BYTES] = "";
	struct members_register reg;
	world(3, 0, 3);
	begin(1, "\1\2", NULL);
	for (unsigned i = 0; i < 600; i++) {
		w.now_ns += 100 * MS;
		members_tick(w.m[1], w.now_ns);
		(void)members_wants_write(w.m[1], &reg); /* and it is never written */
	}
	assert_true(members_take_result(w.m[1], error));
	assert_non_null(strstr(error, "NOQUORUM"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_members_counts_nodes_and_ballots),
		cmocka_unit_test(test_members_adopts_the_highest_accepted),
		cmocka_unit_test(test_members_refused_tries_again_above),
		cmocka_unit_test(test_members_asks_again_who_is_silent),
		cmocka_unit_test(test_members_alone),
		cmocka_unit_test(test_members_sequence_of_single_changes),
		cmocka_unit_test(test_members_full_lists),
		cmocka_unit_test(test_members_dead_master_is_replaced),
		cmocka_unit_test(test_members_gate),
		cmocka_unit_test(test_members_nothing_begins_before_the_gate),
		cmocka_unit_test(test_members_ok_needs_all_masters),
		cmocka_unit_test(test_members_who_comes_must_be_there),
		cmocka_unit_test(test_members_no_quorum),
		cmocka_unit_test(test_members_changed_meanwhile),
		cmocka_unit_test(test_members_errors_of_setnodes),
		cmocka_unit_test(test_members_its_own_address),
		cmocka_unit_test(test_members_known_by_several_names),
		cmocka_unit_test(test_members_fails_without_a_disk),
	};
	return cmocka_run_group_tests(tests, NULL, world_end);
}
