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
		.slots = 64,
		.inc = 111,
		.epoch = 1,
		.max_lease_ms = 60000,
		.attempt_ms = 1000,
		.drift_ppm = 1000,
		.n_masters = 3,
		.masters = {1, 2, 3},
		.cluster = "orders",
	};
	them = us;
	them.node = 2;
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

static void test_handshake_each_difference_is_named(void **state)
{
	hello.version = PROTOCOL_VERSION + 1;
	assert_refused("node 2 speaks peer protocol 3, node 1 speaks 2");
	(void)snprintf(hello.cluster, sizeof hello.cluster, "bills");
	assert_refused("node 2 belongs to cluster \"bills\", node 1 to \"orders\"");
	hello.node = 1;
	assert_refused("there are two nodes with id 1");
	hello.slots = 32;
	assert_refused("node 2 has --slots 32, node 1 has 64");
	hello.max_lease_ms = 1;
	assert_refused("node 2 has --max-lease 1, node 1 has 60000");
	hello.attempt_ms = 2;
	assert_refused("node 2 has --attempt-time 2, node 1 has 1000");
	hello.drift_ppm = 3;
	assert_refused("node 2 has --drift-ppm 3, node 1 has 1000");
	hello.epoch = 4;
	assert_refused("node 2 has epoch 4, node 1 has 1");
	hello.masters[2] = 5;
	assert_refused("node 2 has masters 1,2,5, node 1 has 1,2,3");
	hello.n_masters = 2;
	assert_refused("node 2 has masters 1,2, node 1 has 1,2,3");
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

static void test_handshake_dialled_the_wrong_node(void **state)
{
	assert_int_equal(handshake_check(&us, &hello, 2, why, sizeof why), 0);
	assert_int_equal(handshake_check(&us, &hello, 3, why, sizeof why), -EPROTO);
	assert_string_equal(why, "node 2 answers where --masters has node 3");
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
		cmocka_unit_test_setup(test_handshake_dialled_the_wrong_node, setup),
		cmocka_unit_test_setup(test_handshake_first_boot_of_a_known_node, setup),
		cmocka_unit_test_setup(
			test_handshake_a_stop_in_good_order_has_to_be_the_last_one, setup),
		cmocka_unit_test_setup(test_handshake_two_nodes_of_one_id, setup),
		cmocka_unit_test_setup(test_handshake_only_that_refusal_is_fatal, setup),
	};
	return cmocka_run_group_tests_name("handshake", tests, NULL, NULL);
}
