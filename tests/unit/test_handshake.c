#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "node/handshake.h"

static struct identity us, them;
static struct hello hello;
static char why[200];

static int setup(void **state)
{
	us = (struct identity){
		.node = 1,
		.status = NODE_ACTIVE,
		.threads = 2,
		.inc = 111,
		.config =
			{
				.epoch = 1,
				.masters_epoch = 1,
				.slots = 64,
				.max_lease_ms = 60000,
				.attempt_ms = 1000,
				.drift_ppm = 1000,
				.n_masters = 3,
				.masters = {{1, "a:1"}, {2, "b:2"}, {3, "c:3"}},
				.n_replicas = 1,
				.replicas = {{9, "i:9"}},
			},
		.peer_addr = "a:1",
		.cluster = "orders",
	};
	them = us;
	them.node = 2;
	(void)snprintf(them.peer_addr, sizeof them.peer_addr, "b:2");
	them.inc = 222;
	them.threads = 4;
	handshake_offer(&them, 0, 5000, &hello);
	why[0] = '\0';
	return 0;
}

static int check(void)
{
	return handshake_check(&us, &hello, 0, why, sizeof why);
}

static void assert_refused(const char *sentence)
{
	assert_int_equal(check(), -EPROTO);
	assert_string_equal(why, sentence);
	(void)setup(NULL);
}

static void test_handshake_offer_survives_the_wire(void **state)
{
	uint8_t bytes[HELLO_MAX_BYTES];
	struct hello got;
	size_t used = 0;
	them.first_boot = true;
	handshake_offer(&them, 1, 5000, &hello);
	size_t n = hello_encode(bytes, &hello);
	assert_int_equal(hello_decode(bytes, n, &got, &used), 0);
	assert_int_equal(used, n);
	assert_int_equal(handshake_check(&us, &got, 2, why, sizeof why), 0);
	assert_int_equal(got.node, 2);
	assert_int_equal(got.inc, 222);
	assert_int_equal(got.mclk, 5000);
	assert_int_equal(got.link_index, 1);
	assert_true(got.first_boot);
	assert_false(got.refused);
	assert_true(membership_same(&got.config, &us.config));
	assert_string_equal(got.peer_addr, "b:2");
}

static void test_handshake_answer_echoes(void **state)
{
	hello.link_index = 1;
	struct hello answer;
	handshake_answer(&us, &hello, 700, 730, &answer);
	assert_int_equal(answer.node, 1);
	assert_int_equal(answer.mclk, 730);
	assert_int_equal(answer.echo_mclk, 5000);
	assert_int_equal(answer.held_ns, 30);
	assert_int_equal(answer.link_index, 1);
	assert_false(answer.refused);
}

static void test_handshake_links_are_the_fewer_threads(void **state)
{
	assert_int_equal(handshake_links(&us, &hello), 2);
	us.threads = 9;
	assert_int_equal(handshake_links(&us, &hello), 4);
}

static void test_handshake_takes_a_coordinator_that_is_no_master(void **state)
{
	hello.node = 77;
	hello.status = NODE_NONMEMBER;
	assert_int_equal(check(), 0);
	handshake_note(&us, &hello, 0);
	assert_int_equal(us.seen_inc[77], 0);
}

/* Nor is the vote of a master that has not heard of its promotion worth remembering. */
static void test_handshake_remembers_lives_of_voters_only(void **state)
{
	(void)state;
	hello.status = NODE_REPLICA;
	handshake_note(&us, &hello, 0);
	assert_int_equal(us.seen_inc[2], 0);
	hello.node = 9;
	hello.status = NODE_ACTIVE;
	handshake_note(&us, &hello, 0);
	assert_int_equal(us.seen_inc[9], 0);
	assert_int_equal(membership_add(&us.config, ROLE_MASTER, 9, "i:9"), 0);
	handshake_note(&us, &hello, 0);
	assert_int_equal(us.seen_inc[9], 222);
}

static void test_handshake_each_difference_is_named(void **state)
{
	hello.version = PROTOCOL_VERSION + 1;
	assert_refused("node 2 speaks peer protocol 5, node 1 speaks 4");
	(void)snprintf(hello.cluster, sizeof hello.cluster, "bills");
	assert_refused("node 2 belongs to cluster \"bills\", node 1 to \"orders\"");
	hello.node = 1;
	assert_refused("there are two nodes with id 1");
	hello.config.slots = 32;
	assert_refused("node 2 has --slots 32, node 1 has 64");
	hello.config.max_lease_ms = 1;
	assert_refused("node 2 has --max-lease 1, node 1 has 60000");
	hello.config.attempt_ms = 2;
	assert_refused("node 2 has --attempt-time 2, node 1 has 1000");
	hello.config.drift_ppm = 3;
	assert_refused("node 2 has --drift-ppm 3, node 1 has 1000");
	hello.config.masters[2].id = 5;
	assert_refused("node 2 has masters 1,2,5, node 1 has 1,2,3");
	hello.config.n_masters = 2;
	assert_refused("node 2 has masters 1,2, node 1 has 1,2,3");
	hello.config.replicas[0].id = 8;
	assert_refused("node 2 has replicas 8, node 1 has 9");
	hello.config.n_replicas = 0;
	assert_refused("node 2 has replicas none, node 1 has 9");
	(void)snprintf(hello.peer_addr, sizeof hello.peer_addr, "b c:2");
	assert_refused("node 2 says an address that nobody can dial");
	hello.inc = 0;
	assert_refused("node 2 has no incarnation");
	hello.threads = 0;
	assert_refused("node 2 says it has 0 threads");
	hello.threads = THREADS_MAX + 1;
	assert_refused("node 2 says it has 65 threads");
	hello.link_index = 2;
	assert_refused("node 2 opens link 2, there are 2");
	assert_int_equal(check(), 0);
}

/* The older one learns; but what no change changes has to be the same. */
static void test_handshake_nodes_of_different_epochs_talk(void **state)
{
	(void)state;
	assert_int_equal(membership_add(&hello.config, ROLE_MASTER, 4, "d:4"), 0);
	assert_int_equal(hello.config.epoch, 2);
	assert_int_equal(check(), 0);
	assert_true(handshake_newer(&us, &hello));
	assert_false(handshake_asks(&hello));
	us.config = hello.config;
	us.config.epoch = 3;
	assert_int_equal(check(), 0);
	assert_false(handshake_newer(&us, &hello));
	us.config.epoch = 2;
	assert_int_equal(check(), 0);
	assert_false(handshake_newer(&us, &hello));
	us.config.epoch = 3;
	hello.config.slots = 32;
	assert_int_equal(check(), -EPROTO);
	assert_string_equal(why, "node 2 has --slots 32, node 1 has 64");
}

static void test_handshake_one_without_a_configuration_asks_for_ours(void **state)
{
	(void)state;
	struct hello answer;
	hello.node = 7;
	hello.status = NODE_NONMEMBER;
	hello.config = (struct membership){0};
	assert_int_equal(check(), 0);
	assert_true(handshake_asks(&hello));
	assert_false(handshake_newer(&us, &hello));
	handshake_answer(&us, &hello, 700, 730, &answer);
	struct identity joining = {.node = 7, .threads = 1, .cluster = "orders"};
	assert_int_equal(handshake_check(&joining, &answer, 0, why, sizeof why), 0);
	assert_true(membership_same(&answer.config, &us.config));
	assert_true(handshake_newer(&joining, &answer));
	/* What is refused to a link is refused to it. */
	hello.node = 1;
	assert_int_equal(check(), -EPROTO);
	assert_string_equal(why, "there are two nodes with id 1");
	joining.node = 1;
	assert_int_equal(handshake_check(&joining, &answer, 0, why, sizeof why), -EPROTO);
}

static void assert_address(const char *said, const char *seen, const char *want)
{
	char got[MEMBER_ADDR_MAX_BYTES + 1] = "untouched";
	(void)snprintf(hello.peer_addr, sizeof hello.peer_addr, "%s", said);
	handshake_address(&hello, seen, got);
	assert_string_equal(got, want);
}

static void test_handshake_an_address_without_a_host_gets_the_one_it_comes_from(void **state)
{
	(void)state;
	assert_address("b:2", "10.0.0.1:55555", "b:2");
	assert_address("", "10.0.0.1:55555", "");
	assert_address("0.0.0.0:2", "10.0.0.1:55555", "10.0.0.1:2");
	assert_address("[::]:2", "[fe80::1]:55555", "[fe80::1]:2");
	assert_address("[::]:2", "local", "[::]:2");
	char host[MEMBER_ADDR_MAX_BYTES + 8];
	memset(host, 'x', sizeof host);
	(void)snprintf(host + MEMBER_ADDR_MAX_BYTES - 1, 4, ":1");
	assert_address("0.0.0.0:2", host, ""); /* too long by one */
}

/* One may be a name and the other a number: no reason to refuse. */
static void test_handshake_another_address_than_listed_is_noticed(void **state)
{
	(void)state;
	assert_false(handshake_moved(&us, &hello, "b:2"));
	assert_true(handshake_moved(&us, &hello, "10.0.0.2:2"));
	assert_false(handshake_moved(&us, &hello, ""));
	hello.node = 77;
	assert_false(handshake_moved(&us, &hello, "10.0.0.2:2"));
	hello.node = 2;
	assert_int_equal(handshake_misnamed(&us, &hello), 0);
	(void)snprintf(hello.config.masters[1].addr, sizeof hello.config.masters[1].addr, "x:2");
	assert_int_equal(check(), 0);
	assert_int_equal(handshake_misnamed(&us, &hello), 2);
}

static void test_handshake_dialled_the_wrong_node(void **state)
{
	assert_int_equal(handshake_check(&us, &hello, 2, why, sizeof why), 0);
	assert_int_equal(handshake_check(&us, &hello, 3, why, sizeof why), -EPROTO);
	assert_string_equal(why, "node 2 answers where node 3 is listed");
}

static void test_handshake_first_boot_of_a_known_node(void **state)
{
	const char *sentence =
		"node 2 was active in this cluster before: start it without "
		"--new-cluster (then it asks the others what it has forgotten), or give it "
		"a new id";
	hello.first_boot = true;
	assert_int_equal(check(), 0);
	handshake_note(&us, &hello, 0);
	/* The same process again: its link broke. */
	assert_int_equal(check(), 0);
	hello.inc = 333;
	assert_int_equal(check(), -EPROTO);
	assert_string_equal(why, sentence);
	/* As a restart that waits it is welcome, and remembered. */
	handshake_forget(&us, 2, 0, 222);
	hello.first_boot = false;
	hello.status = NODE_QUARANTINE;
	assert_int_equal(check(), 0);
	handshake_note(&us, &hello, 0);
	hello.first_boot = true;
	hello.inc = 444;
	assert_int_equal(check(), -EPROTO);
}

/* A node that stopped in good order names the life that it had then; whoever has seen a later one
 * knows that its state file is an old copy. */
static void test_handshake_a_stop_in_good_order_has_to_be_the_last_one(void **state)
{
	const char *sentence =
		"the state file of node 2 is an old copy: it has run again since the "
		"stop that the file tells of";
	hello.after_inc = 7;
	assert_int_equal(check(), 0); /* nobody here has seen it before */
	hello.after_inc = 0;
	handshake_note(&us, &hello, 0);
	handshake_forget(&us, 2, 0, 222);
	hello.inc = 333;
	hello.after_inc = 222;
	assert_int_equal(check(), 0);
	handshake_note(&us, &hello, 0);
	assert_int_equal(check(), 0); /* its second link */
	handshake_forget(&us, 2, 0, 333);
	hello.inc = 444;
	assert_int_equal(check(), -EPROTO);
	assert_string_equal(why, sentence);
	/* Not so if it is a life between that was not seen here. */
	hello.after_inc = 400;
	assert_int_equal(check(), 0);
	hello.after_inc = 222;
	assert_int_equal(check(), -EPROTO);

	struct hello no;
	handshake_refusal(&us, 1, why, &no);
	them.after_inc = 222;
	assert_true(handshake_outdated(&them, &no));
	assert_false(handshake_fatal(&them, &no));
	them.after_inc = 0;
	assert_false(handshake_outdated(&them, &no));
	them.after_inc = 222;
	(void)snprintf(no.cluster, sizeof no.cluster, "bills");
	assert_false(handshake_outdated(&them, &no));
	/* Without the claim it is welcome. */
	hello.after_inc = 0;
	assert_int_equal(check(), 0);
}

static void test_handshake_two_nodes_of_one_id(void **state)
{
	const char *sentence = "another node 2 is linked: are there two with this id? If it was "
			       "restarted, its links end soon";
	hello.status = NODE_QUARANTINE;
	handshake_note(&us, &hello, 0);
	handshake_note(&us, &hello, 1);
	assert_int_equal(check(), 0);
	hello.inc = 333;
	assert_int_equal(check(), -EPROTO);
	assert_string_equal(why, sentence);
	handshake_forget(&us, 2, 0, 222);
	assert_int_equal(check(), -EPROTO);
	/* News of an incarnation that is not the linked one changes nothing. */
	handshake_forget(&us, 2, 1, 333);
	assert_int_equal(check(), -EPROTO);
	handshake_forget(&us, 2, 1, 222);
	assert_int_equal(check(), 0);
}

static void test_handshake_only_that_refusal_is_fatal(void **state)
{
	hello.first_boot = true;
	handshake_note(&us, &hello, 0);
	hello.inc = 333;
	assert_int_equal(check(), -EPROTO);
	struct hello no;
	handshake_refusal(&us, 1, why, &no);
	assert_true(no.refused);
	uint8_t bytes[HELLO_MAX_BYTES];
	struct hello got;
	size_t used = 0;
	assert_int_equal(hello_decode(bytes, hello_encode(bytes, &no), &got, &used), 0);

	them.first_boot = true;
	assert_true(handshake_fatal(&them, &got));
	/* Said to a node that waits, by no master, by another cluster, of another node, or not as a
	 * refusal: no reason to stop. */
	them.first_boot = false;
	assert_false(handshake_fatal(&them, &got));
	them.first_boot = true;
	struct hello other = got;
	other.node = 9;
	assert_false(handshake_fatal(&them, &other));
	other = got;
	(void)snprintf(other.cluster, sizeof other.cluster, "bills");
	assert_false(handshake_fatal(&them, &other));
	other = got;
	other.refused = false;
	assert_false(handshake_fatal(&them, &other));
	other = got;
	(void)snprintf(other.reason, sizeof other.reason, "node 2 has --slots 32, node 1 has 64");
	assert_false(handshake_fatal(&them, &other));
	them.node = 3;
	assert_false(handshake_fatal(&them, &got));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(test_handshake_offer_survives_the_wire, setup),
		cmocka_unit_test_setup(test_handshake_answer_echoes, setup),
		cmocka_unit_test_setup(test_handshake_links_are_the_fewer_threads, setup),
		cmocka_unit_test_setup(test_handshake_takes_a_coordinator_that_is_no_master, setup),
		cmocka_unit_test_setup(test_handshake_each_difference_is_named, setup),
		cmocka_unit_test_setup(test_handshake_remembers_lives_of_voters_only, setup),
		cmocka_unit_test_setup(test_handshake_nodes_of_different_epochs_talk, setup),
		cmocka_unit_test_setup(
			test_handshake_one_without_a_configuration_asks_for_ours, setup),
		cmocka_unit_test_setup(
			test_handshake_an_address_without_a_host_gets_the_one_it_comes_from, setup),
		cmocka_unit_test_setup(
			test_handshake_another_address_than_listed_is_noticed, setup),
		cmocka_unit_test_setup(test_handshake_dialled_the_wrong_node, setup),
		cmocka_unit_test_setup(test_handshake_first_boot_of_a_known_node, setup),
		cmocka_unit_test_setup(
			test_handshake_a_stop_in_good_order_has_to_be_the_last_one, setup),
		cmocka_unit_test_setup(test_handshake_two_nodes_of_one_id, setup),
		cmocka_unit_test_setup(test_handshake_only_that_refusal_is_fatal, setup),
	};
	return cmocka_run_group_tests_name("handshake", tests, NULL, NULL);
}
