/* What clients see of the configuration, and how they ask for another one. */
#include "client_world.h"

static void add_text(char **at, const char *name, const char *value)
{
	*at += sprintf(
		*at, "$%zu\r\n%s\r\n$%zu\r\n%s\r\n", strlen(name), name, strlen(value), value);
}

static void add_number(char **at, const char *name, long long value)
{
	*at += sprintf(*at, "$%zu\r\n%s\r\n:%lld\r\n", strlen(name), name, value);
}

struct shown {
	long long id;
	const char *role, *state;
	long long epoch, voting, in_sync, lag;
	const char *address;
	long long remaining, links, heard, since;
};

/* One node as NODES shows it, in RESP2. */
static const char *shown(struct shown v)
{
	static char text[1024];
	char *at = text;
	at += sprintf(at, "*24\r\n");
	add_number(&at, "id", v.id);
	add_text(&at, "role", v.role);
	add_text(&at, "state", v.state);
	add_number(&at, "epoch", v.epoch);
	add_number(&at, "slots-voting", v.voting);
	add_number(&at, "slots-in-sync", v.in_sync);
	add_number(&at, "lag-ms", v.lag);
	add_text(&at, "address", v.address);
	add_number(&at, "remaining-ms", v.remaining);
	add_number(&at, "links", v.links);
	add_number(&at, "heard-ms", v.heard);
	add_number(&at, "since-ms", v.since);
	return text;
}

static void ask_nodes(struct wire *x)
{
	forget(x);
	say(x, "NODES");
	turns(2);
}

static void be_replica(void)
{
	for (unsigned i = 0; i < THREADS; i++) {
		w.sh[i].cfg.engine.self = 4;
		w.sh[i].status = (struct mail_status){.status = NODE_REPLICA, .slots_in_sync = 64};
		w.stats[i].status = NODE_REPLICA;
		w.stats[i].slots_voting = 0;
		w.stats[i].slots_in_sync = 32;
		w.stats[i].lag_ns = (3 + i) * UINT64_C(1000000);
	}
}

static void test_client_nodes_shape(void **state)
{
	(void)state;
	struct wire *x = dial(0);
	w.stats[0].slots_in_sync = 30;
	w.stats[1].slots_in_sync = 32;
	pass_ms(11);
	ask_nodes(x);
	expect_has(x,
		"*14\r\n$5\r\nepoch\r\n:5\r\n$5\r\nslots\r\n:64\r\n$6\r\nquorum\r\n:2\r\n$7\r\n"
		"masters\r\n*3\r\n:1\r\n:2\r\n:3\r\n$8\r\nreplicas\r\n*1\r\n:4\r\n$6\r\nchange\r\n"
		"$-1\r\n$5\r\nnodes\r\n*4\r\n");
	expect_has(x, shown((struct shown){1, "master", "active", 5, 64, 62, -1, "127.0.0.1:7501",
			      0, 0, 0, 11}));
	expect_has(x, shown((struct shown){
			      2, "master", "active", 5, 63, 62, -1, "127.0.0.1:7502", 0, 1, 7, 9}));
	expect_has(x, shown((struct shown){
			      3, "master", "down", 0, 0, 0, -1, "127.0.0.1:7503", 0, 0, -1, -1}));
	expect_has(x, shown((struct shown){
			      4, "replica", "down", 0, 0, 0, -1, "127.0.0.1:7504", 0, 0, -1, -1}));
	forget(x);
	say(x, "HELLO 3");
	ask_nodes(x);
	expect_start(x, "%7\r\n$5\r\nepoch\r\n:5\r\n");
}

static void test_client_nodes_tells_of_a_change(void **state)
{
	(void)state;
	struct wire *x = dial(0);
	w.sh[0].change = (struct mail_change){.step = 2, .steps = 3, .text = "add master 4"};
	ask_nodes(x);
	expect_has(x,
		"$6\r\nchange\r\n*6\r\n$4\r\nstep\r\n:2\r\n$5\r\nsteps\r\n:3\r\n$4\r\ntext\r\n"
		"$12\r\nadd master 4\r\n$5\r\nnodes\r\n");
}

/* Each thread knows its own links only. */
static void test_client_nodes_threads_add_up(void **state)
{
	(void)state;
	struct wire *x = dial(0);
	struct peer_info up = w.peers[1][2];
	w.peers[0][2] = up;
	w.peers[0][2].heard_ago_ns = 3000000;
	w.peers[0][2].since_ns = 4000000;
	w.peers[0][2].slots_in_sync = 63;
	w.peers[0][2].epoch = 4; /* hears it later */
	/* One thread lost its link to 3, the other one before. */
	w.peers[0][3] = (struct peer_info){.heard_ago_ns = 50000000, .since_ns = 20000000};
	w.peers[1][3] = (struct peer_info){.heard_ago_ns = 80000000, .since_ns = 70000000};
	/* 4 comes back: one link is there. */
	w.peers[0][4] = (struct peer_info){.heard_ago_ns = 900000000, .since_ns = 800000000};
	w.peers[1][4] = up;
	w.peers[1][4].state = NODE_RESYNC;
	w.peers[1][4].lag_ms = 250;
	ask_nodes(x);
	expect_has(x, shown((struct shown){
			      2, "master", "active", 5, 63, 63, -1, "127.0.0.1:7502", 0, 2, 3, 9}));
	expect_has(x, shown((struct shown){
			      3, "master", "down", 0, 0, 0, -1, "127.0.0.1:7503", 0, 0, 50, 20}));
	expect_has(x, shown((struct shown){4, "replica", "resync", 5, 63, 62, 250, "127.0.0.1:7504",
			      0, 1, 7, 9}));
}

static void test_client_nodes_shows_who_is_no_member(void **state)
{
	(void)state;
	struct wire *x = dial(0);
	struct peer_info other = {.linked = true,
		.state = NODE_NONMEMBER,
		.links = 1,
		.epoch = 5,
		.lag_ms = UINT32_MAX,
		.since_ns = 1000000,
		.addr = "127.0.0.1:7599"};
	w.peers[1][200] = other;
	other.linked = false;
	w.peers[0][201] = other; /* it was here */
	ask_nodes(x);
	expect_has(x, "$5\r\nnodes\r\n*5\r\n");
	expect_has(x, shown((struct shown){200, "nonmember", "nonmember", 5, 0, 0, -1,
			      "127.0.0.1:7599", 0, 1, 0, 1}));
	say(x, "INFO peers");
	turns(2);
	expect_has(x, "peer200:state=nonmember,role=nonmember,epoch=5,");

	/* Bounded, whoever comes. */
	other.linked = true;
	for (unsigned node = 100; node < 200; node++)
		w.peers[node % 2][node] = other;
	ask_nodes(x);
	expect_has(x, "$5\r\nnodes\r\n*48\r\n");

	/* This node itself. */
	for (unsigned i = 0; i < THREADS; i++) {
		w.sh[i].cfg.engine.self = 9;
		w.sh[i].status.status = NODE_NONMEMBER;
		w.stats[i].status = NODE_NONMEMBER;
		w.stats[i].slots_voting = 0;
	}
	memset(w.peers, 0, sizeof w.peers);
	ask_nodes(x);
	expect_has(x, shown((struct shown){9, "nonmember", "nonmember", 5, 0, 0, -1,
			      "127.0.0.1:7501", 0, 0, 0, 0}));
}

static void test_client_nodes_replica(void **state)
{
	(void)state;
	struct wire *x = dial(0);
	be_replica();
	ask_nodes(x);
	expect_has(x, shown((struct shown){
			      4, "replica", "active", 5, 0, 64, 4, "127.0.0.1:7504", 0, 0, 0, 0}));
	say(x, "DBSIZE");
	turns(2);
	expect_has(x, ":21\r\n");
	say(x, "INFO locker");
	turns(2);
	expect_has(x, "member_role:replica\r\nstate:active\r\n");
	expect_has(x, "slots_in_sync:64\r\nreplica_lag_ms:4\r\n");
	forget(x);
	say(x, "INFO replication");
	turns(2);
	expect_has(x, "role:master\r\nconnected_slaves:0\r\n");
	/* One slot is being copied. */
	w.stats[1].slots_in_sync = 31;
	w.stats[1].lag_ns = UINT64_MAX;
	w.sh[0].status.slots_in_sync = 63;
	ask_nodes(x);
	expect_has(x, shown((struct shown){
			      4, "replica", "resync", 5, 0, 63, -1, "127.0.0.1:7504", 0, 0, 0, 0}));
	forget(x);
	say(x, "DBSIZE");
	turns(2);
	expect_start(x, "-NOTREADY this node has no copy");
	say(x, "INFO locker");
	turns(2);
	expect_has(x, "state:resync\r\n");
	expect_has(x, "replica_lag_ms:-1\r\n");
}

static void test_client_nodes_info(void **state)
{
	(void)state;
	struct wire *x = dial(0);
	for (unsigned i = 0; i < THREADS; i++) {
		struct engine_stats *e = &w.stats[i];
		e->slots_in_sync = 32;
		e->followers = 10;
		e->log_records = 20;
		e->log_sent = 30;
		e->log_gaps = 40;
		e->copied = 50;
		e->snapshots = 60;
	}
	w.peers[0][3].msgs_other_epoch = 4;
	say(x, "INFO");
	turns(2);
	static const char *const lines[] = {"member_role:master\r\n", "epoch:5\r\n",
		"masters_epoch:4\r\n", "quorum:2\r\n", "masters:3\r\n", "replicas:1\r\n",
		"slots_in_sync:64\r\n", "followers:20\r\n", "log_records:40\r\n", "log_sent:60\r\n",
		"log_gaps:80\r\n", "copied:100\r\n", "snapshots:120\r\n",
		"messages_other_epoch:7\r\n", "\r\nrole:master\r\nconnected_slaves:0\r\n",
		"peer2:state=active,role=master,epoch=5,slots_voting=63,slots_in_sync=62,lag_ms=-1,"
		"address=127.0.0.1:7502,",
		"peer4:state=down,role=replica,"};
	for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++)
		expect_has(x, lines[i]);
	x->link.out.data[x->link.out.len - 1] = '\0';
	assert_null(strstr((char *)x->link.out.data, "replica_lag_ms"));
}

/* ---- SETNODES ---- */

static void test_client_setnodes_arguments(void **state)
{
	(void)state;
	static const struct {
		const char *say, *start;
	} cases[] = {
		{"SETNODES", "-ERR wrong number of arguments for 'setnodes' command\r\n"},
		{"SETNODES REPLICAS 1", "-ERR syntax error: SETNODES MASTERS id ..."},
		{"SETNODES 1 2 3", "-ERR syntax error: SETNODES MASTERS id ..."},
		{"SETNODES MASTERS 1 two",
			"-ERR syntax error: 'two' is not the id of a node (1 to 255); SETNODES"},
		{"SETNODES MASTERS 0", "-ERR syntax error: '0' is not the id"},
		{"SETNODES MASTERS 256", "-ERR syntax error: '256' is not the id"},
		{"SETNODES MASTERS -1", "-ERR syntax error: '-1' is not the id"},
		{"SETNODES MASTERS 01", "-ERR syntax error: '01' is not the id"},
		{"SETNODES MASTERS @", "-ERR syntax error: '' is not the id"},
		{"SETNODES MASTERS 1 REPLICAS 99999999999999999999", "-ERR syntax error: '999"},
		{"SETNODES MASTERS 1 REPLICAS 2 REPLICAS 3",
			"-ERR syntax error: REPLICAS is said twice"},
		{"SETNODES MASTERS 1 REPLICAS 2 MASTERS 3", "-ERR syntax error: 'MASTERS' is"},
		{"SETNODES MASTERS 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16",
			"-ERR at most 15 masters can be named\r\n"},
		{"SETNODES MASTERS 1 REPLICAS 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17",
			"-ERR at most 16 replicas can be named\r\n"},
	};
	struct wire *x = dial(0);
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		say(x, cases[i].say);
		expect_start(x, cases[i].start);
	}
	turn();
	assert_int_equal(w.n_setnodes, 0);
}

static void test_client_setnodes_asks_the_control_thread(void **state)
{
	(void)state;
	struct wire *x = dial(1);
	say(x, "SETNODES MASTERS 3 1 255 REPLICAS 4 3");
	queue(x, "PING");
	feed(x);
	turns(3);
	expect(x, "");
	assert_int_equal(w.n_setnodes, 1);
	assert_int_equal(w.setnodes_from, 1);
	assert_int_equal(w.setnodes.n_masters, 3);
	assert_int_equal(w.setnodes.masters[0], 3);
	assert_int_equal(w.setnodes.masters[2], 255);
	assert_true(w.setnodes.has_replicas);
	assert_int_equal(w.setnodes.n_replicas, 2);
	/* Twice the same is not for the parser to judge. */
	assert_int_equal(w.setnodes.replicas[1], 3);
	setnodes_done("");
	turn();
	expect(x, "+OK\r\n+PONG\r\n");
	setnodes_done("");
	turn();
	expect(x, "");

	say(x, "setnodes masters 1 replicas");
	turn();
	assert_true(w.setnodes.has_replicas);
	assert_int_equal(w.setnodes.n_replicas, 0);
	setnodes_done("NOTREADY master 2 is not in sync in time; epoch 7 is in force");
	expect(x, "-NOTREADY master 2 is not in sync in time; epoch 7 is in force\r\n");
	/* No master at all: said by who knows all the rules. */
	say(x, "SETNODES MASTERS");
	turn();
	assert_int_equal(w.n_setnodes, 3);
	assert_int_equal(w.setnodes.n_masters, 0);
	assert_false(w.setnodes.has_replicas);
	setnodes_done("ERR no master is named: a cluster needs at least one");
	expect_start(x, "-ERR no master is named");
	assert_int_equal(w.sh[1].clients->calls_used, 0);
}

static void test_client_setnodes_waits_for_earlier_commands(void **state)
{
	(void)state;
	struct wire *x = dial(0);
	const char *key = key_of(0, "k");
	w.defer = true;
	queue(x, with("SET $ v NX PX 10", key));
	queue(x, "SETNODES MASTERS 1");
	feed(x);
	turns(2);
	assert_int_equal(w.n_setnodes, 0);
	complete(key, granted);
	turns(2);
	assert_int_equal(w.n_setnodes, 1);
	setnodes_done("");
	expect(x, "+OK\r\n+OK\r\n");
}

static void test_client_setnodes_client_gone(void **state)
{
	(void)state;
	struct wire *x = dial(0);
	say(x, "SETNODES MASTERS 1");
	turn();
	hang_up(x);
	assert_int_equal(w.sh[0].clients->calls_used, 0);
	assert_int_equal(w.cancelled, 0);
	/* Another one has the call by now. */
	struct wire *y = dial(0);
	const char *key = key_of(0, "k");
	w.defer = true;
	say(y, with("READ $", key));
	setnodes_done("");
	turn();
	expect(y, "");
	complete(key, (struct result){.outcome = OUT_NULL});
	expect(y, "$-1\r\n");
}

static void test_client_setnodes_draining(void **state)
{
	(void)state;
	struct wire *x = dial(0);
	say(x, "SETNODES MASTERS 1");
	turn();
	w.sh[0].draining = true;
	assert_false(clients_drain(&w.sh[0]));
	expect_start(x, "-NOTREADY this node is shutting down");
	assert_int_equal(w.cancelled, 0);
	setnodes_done("");
	turn();
	assert_true(clients_drain(&w.sh[0]));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, world_setup, world_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_client_nodes_shape),
		TEST(test_client_nodes_tells_of_a_change),
		TEST(test_client_nodes_threads_add_up),
		TEST(test_client_nodes_shows_who_is_no_member),
		TEST(test_client_nodes_replica),
		TEST(test_client_nodes_info),
		TEST(test_client_setnodes_arguments),
		TEST(test_client_setnodes_asks_the_control_thread),
		TEST(test_client_setnodes_waits_for_earlier_commands),
		TEST(test_client_setnodes_client_gone),
		TEST(test_client_setnodes_draining),
	};
	return cmocka_run_group_tests_name("client_nodes", tests, NULL, NULL);
}
