/* Bytes in and out of links, their bounds and their ends. */
#include <dirent.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "io_world.h"

/* ---- bytes in and out ---- */

static void test_io_joins_fragments_of_one_byte(void **state)
{
	(void)state;
	struct server *s = server_new(ECHO_FRAMES);
	int fd = client_new(s);
	int one = 1;
	assert_int_equal(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one), 0);
	pump(fd, 0, 20 * (size_t)FRAME_BYTES, 1);
	(void)close(fd);
	server_end(s);
}

static void test_io_carries_200_kb_both_ways(void **state)
{
	(void)state;
	struct server *s = server_new(ECHO);
	int fd = client_new(s);
	pump(fd, 0, 200 * KB, SIZE_MAX);
	struct io *io = atomic_load(&s->io);
	assert_int_equal(io_stats(io)->recv_bytes, 200 * KB);
	(void)close(fd);
	server_end(s);
}

static void test_io_resends_the_rest_with_tiny_socket_buffers(void **state)
{
	(void)state;
	struct server *s = server_prepare(ECHO);
	int tiny = 1;
	assert_int_equal(
		setsockopt(s->cfg.listen_fd, SOL_SOCKET, SO_SNDBUF, &tiny, sizeof tiny), 0);
	server_start(s);
	int fd = client_new(s);
	pump(fd, 0, 300 * KB, SIZE_MAX);
	(void)close(fd);
	server_end(s);
}

static void test_io_serves_many_connections(void **state)
{
	(void)state;
	enum { CLIENTS = 150, BYTES = 3000 };
	struct server *s = server_new(ECHO);
	int fds[CLIENTS];
	size_t sent[CLIENTS] = {0};
	for (int i = 0; i < CLIENTS; i++)
		fds[i] = client_new(s);
	for (int i = 0; i < CLIENTS; i++)
		while (sent[i] < BYTES)
			assert_true(send_some(fds[i], &sent[i], BYTES, 1000));
	for (int i = 0; i < CLIENTS; i++) {
		pump(fds[i], sent[i], BYTES, 1);
		(void)close(fds[i]);
	}
	wait_for_count(&s->closes, CLIENTS);
	server_end(s);
}

/* All at once through a pool much smaller than what arrives. */
static void storm(struct server *s, unsigned clients, size_t bytes)
{
	int fds[64];
	size_t sent[64] = {0}, got[64] = {0};
	unsigned done = 0;
	assert_true(clients <= 64);
	for (unsigned i = 0; i < clients; i++)
		fds[i] = client_new(s);
	for (unsigned idle = 0; done < clients;) {
		size_t before = 0, after = 0;
		done = 0;
		for (unsigned i = 0; i < clients; i++) {
			before += sent[i] + got[i];
			assert_true(send_some(fds[i], &sent[i], bytes, SIZE_MAX));
			assert_true(receive_some(fds[i], &got[i]));
			after += sent[i] + got[i];
			done += got[i] == bytes;
		}
		idle = after > before ? 0 : idle + 1;
		assert_true(idle < PATIENCE_S * 1000);
		if (idle > 0)
			(void)usleep(1000);
	}
	for (unsigned i = 0; i < clients; i++)
		(void)close(fds[i]);
}

static void test_io_survives_a_storm_on_four_buffers(void **state)
{
	(void)state;
	struct server *s = server_prepare(ECHO);
	s->cfg.client_buffers = 4;
	server_start(s);
	storm(s, 40, 64 * KB);
	assert_true(io_stats(atomic_load(&s->io))->no_buffers > 0);
	server_end(s);
}

static void test_io_survives_a_completion_queue_of_eight(void **state)
{
	(void)state;
	struct server *s = server_prepare(ECHO);
	s->cfg.entries = 4;
	s->cfg.cq_entries = 8;
	server_start(s);
	storm(s, 40, 64 * KB);
	assert_true(io_stats(atomic_load(&s->io))->rearms > 0);
	server_end(s);
}

static void test_io_spins_and_still_serves(void **state)
{
	(void)state;
	struct server *s = server_prepare(ECHO);
	s->cfg.spin_us = 1000000;
	server_start(s);
	int fd = client_new(s);
	for (unsigned i = 0; i < 100; i++)
		pump(fd, 0, 10, SIZE_MAX);
	const struct io_stats *stats = io_stats(atomic_load(&s->io));
	/* Nothing else happens, so it has to. */
	for (int tries = 0; stats->spins == 0; tries++) {
		assert_true(tries < PATIENCE_S * 1000);
		(void)usleep(1000);
	}
	pump(fd, 0, 10, SIZE_MAX);
	(void)close(fd);
	server_end(s);
}

/* MSG_WAITALL leaves short sends to errors and cancellations, so this one is made up. */
static void test_io_keeps_the_rest_of_a_short_send(void **state)
{
	(void)state;
	struct io *io = calloc(1, sizeof *io);
	struct conn *c = calloc(1, sizeof *c);
	assert_non_null(io);
	assert_non_null(c);
	list_init(&io->todo[LINK_CLIENT]);
	list_init(&c->todo);
	c->state = CONN_OPEN;
	assert_int_equal(buf_append(&c->sending, "0123456789", 10), 0);
	c->in_flight = 1;
	c->send_busy = true;
	stream_sent(io, c, 4);
	assert_int_equal(c->link.in_flight_bytes, 6);
	assert_int_equal(c->sent_bytes, 4);
	assert_false(c->send_busy);
	assert_false(list_empty(&c->todo));
	c->in_flight = 1;
	stream_sent(io, c, 6);
	assert_int_equal(c->link.in_flight_bytes, 0);
	assert_int_equal(c->sending.len, 0);
	buf_fini(&c->sending);
	free(c);
	free(io);
}

/* ---- bounds ---- */

static void test_io_lets_the_handler_drop_a_slow_reader(void **state)
{
	(void)state;
	struct server *s = server_prepare(ECHO);
	int small = 4096;
	s->cfg.output_max_bytes = 256 * KB;
	assert_int_equal(
		setsockopt(s->cfg.listen_fd, SOL_SOCKET, SO_SNDBUF, &small, sizeof small), 0);
	server_start(s);
	int fd = client_new(s);
	size_t sent = 0;
	while (send_some(fd, &sent, SIZE_MAX, SIZE_MAX) && atomic_load(&s->closes) == 0)
		(void)usleep(10);
	wait_for_count(&s->closes, 1);
	(void)close(fd);
	server_end(s);
}

static void test_io_closes_a_link_whose_input_is_never_used(void **state)
{
	(void)state;
	struct server *s = server_new(HOARD);
	int fd = client_new(s);
	size_t sent = 0;
	while (send_some(fd, &sent, SIZE_MAX, SIZE_MAX) && atomic_load(&s->closes) == 0)
		(void)usleep(10);
	wait_for_count(&s->closes, 1);
	assert_true(atomic_load(&s->longest_data) <= INPUT_MAX_BYTES + BUFFER_BYTES);
	(void)close(fd);
	server_end(s);
}

static void test_io_keeps_order_over_pause_and_resume(void **state)
{
	(void)state;
	struct server *s = server_new(ECHO_SLOWLY);
	int fd = client_new(s);
	pump(fd, 0, 300 * KB, SIZE_MAX);
	(void)close(fd);
	server_end(s);
}

static void test_io_stops_receiving_while_paused(void **state)
{
	(void)state;
	enum { BUFFERS = 16, STILL_MS = 200 };
	struct server *s = server_prepare(HOLD);
	s->cfg.client_buffers = BUFFERS;
	server_start(s);
	int fd = client_new(s);
	size_t sent = 0;
	struct pollfd p = {.fd = fd, .events = POLLOUT};
	/* Until the sockets' buffers are full on both sides. */
	while (poll(&p, 1, STILL_MS) == 1)
		assert_true(send_some(fd, &sent, SIZE_MAX, SIZE_MAX));
	struct io *io = atomic_load(&s->io);
	size_t taken = io_stats(io)->recv_bytes;
	assert_true(taken >= INPUT_MAX_BYTES);
	assert_true(taken <= INPUT_MAX_BYTES + 2 * (size_t)BUFFERS * BUFFER_BYTES);
	assert_true(sent > taken);
	/* Resumed, everything comes, in order. */
	atomic_fetch_add(&s->mail, 1);
	wake(s);
	pump(fd, sent, sent, 0);
	(void)close(fd);
	server_end(s);
}

static void test_io_answers_clients_beyond_the_limit(void **state)
{
	(void)state;
	struct server *s = server_prepare(ECHO);
	s->cfg.max_links = 2;
	server_start(s);
	int a = client_new(s), b = client_new(s);
	pump(a, 0, 100, SIZE_MAX);
	pump(b, 0, 100, SIZE_MAX);
	int c = client_new(s);
	uint8_t reply[64];
	size_t n = read_to_end(c, reply, sizeof reply);
	assert_int_equal(n, strlen(FULL_REPLY));
	assert_memory_equal(reply, FULL_REPLY, n);
	assert_int_equal(io_stats(atomic_load(&s->io))->refused, 1);
	(void)close(c);
	/* A place that became free is given away again. */
	(void)close(a);
	wait_for_count(&s->closes, 1);
	a = client_new(s);
	pump(a, 0, 100, SIZE_MAX);
	(void)close(a);
	(void)close(b);
	server_end(s);
}

static void test_io_accepts_again_when_descriptors_are_back(void **state)
{
	(void)state;
	enum { FILES = 256, STILL_MS = 50 };
	struct rlimit usual;
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &usual), 0);
	/* The kernel notes the limit when the accept is armed: lower it before. */
	const struct rlimit few = {.rlim_cur = FILES, .rlim_max = usual.rlim_max};
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
	struct server *s = server_new(ECHO);
	int clients[2] = {socket(AF_INET, SOCK_STREAM, 0), socket(AF_INET, SOCK_STREAM, 0)};
	struct sockaddr_in in;
	socklen_t len = sizeof in;
	assert_int_equal(getsockname(s->cfg.listen_fd, (struct sockaddr *)&in, &len), 0);
	int spare[FILES];
	unsigned n = 0;
	while (n < FILES && (spare[n] = dup(s->wake_fds[0])) >= 0)
		n++;
	assert_true(n > 0 && n < FILES);
	for (int i = 0; i < 2; i++)
		assert_int_equal(connect(clients[i], (struct sockaddr *)&in, len), 0);
	(void)usleep(STILL_MS * 1000);
	assert_int_equal(atomic_load(&s->opens), 0);
	while (n > 0)
		(void)close(spare[--n]);
	for (int i = 0; i < 2; i++) {
		pump(clients[i], 0, 1000, SIZE_MAX);
		(void)close(clients[i]);
	}
	server_end(s);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &usual), 0);
}

/* ---- closing ---- */

static void test_io_sends_what_a_refusing_handler_said(void **state)
{
	(void)state;
	struct server *s = server_new(REFUSE);
	int fd = client_new(s);
	uint8_t reply[64];
	assert_int_equal(read_to_end(fd, reply, sizeof reply), 3);
	assert_memory_equal(reply, "no\n", 3);
	(void)close(fd);
	wait_for_count(&s->closes, 1);
	server_end(s);
}

static void test_io_flushes_before_it_closes(void **state)
{
	(void)state;
	struct server *s = server_prepare(LAST_WORDS);
	s->cfg.client_buffers = 4;
	server_start(s);
	int fd = client_new(s);
	/* More than the server receives, which must not cost us its answer. */
	static const uint8_t question[10 * BUFFER_BYTES];
	assert_int_equal(send(fd, question, sizeof question, MSG_NOSIGNAL), sizeof question);
	assert_int_equal(read_to_end(fd, NULL, 0), 200000);
	(void)close(fd);
	server_end(s);
}

static void test_io_answers_a_client_that_half_closes(void **state)
{
	(void)state;
	struct server *s = server_new(ECHO);
	int fd = client_new(s);
	uint8_t reply[16];
	assert_int_equal(send(fd, "hello", 5, MSG_NOSIGNAL), 5);
	assert_int_equal(shutdown(fd, SHUT_WR), 0);
	assert_int_equal(read_to_end(fd, reply, sizeof reply), 5);
	assert_memory_equal(reply, "hello", 5);
	(void)close(fd);
	wait_for_count(&s->closes, 1);
	server_end(s);
}

static void test_io_closes_while_data_is_in_flight(void **state)
{
	(void)state;
	/* More lives than slots, so that slots with cut requests are used again. */
	enum { CLIENTS = 30, STEPS = 20, ROUNDS = 15 };
	struct server *s = server_prepare(CUT);
	s->cfg.max_links = CLIENTS;
	server_start(s);
	for (unsigned round = 1; round <= ROUNDS; round++) {
		int fds[CLIENTS];
		size_t sent[CLIENTS] = {0};
		for (int i = 0; i < CLIENTS; i++)
			fds[i] = client_new(s);
		for (int k = 0; k < STEPS; k++)
			for (int i = 0; i < CLIENTS; i++)
				(void)send_some(fds[i], &sent[i], SIZE_MAX, SIZE_MAX);
		wait_for_count(&s->closes, round * CLIENTS);
		for (int i = 0; i < CLIENTS; i++)
			(void)close(fds[i]);
	}
	server_end(s);
}

/* Few slots, many short lives that end abruptly with bytes in both directions under way: no stream
 * may see a byte of another. */
static void test_io_reuses_slots_without_mixing_streams(void **state)
{
	(void)state;
	enum { LIVES = 300 };
	struct server *s = server_prepare(TAGGED);
	s->cfg.max_links = 4;
	server_start(s);
	for (int i = 0; i < LIVES; i++) {
		uint8_t mine[8000];
		memset(mine, i, sizeof mine);
		int fd = client_new(s);
		(void)!send(fd, mine, sizeof mine, MSG_NOSIGNAL);
		if (i % 3 == 0) {
			uint8_t back;
			assert_true(wait_for(fd, POLLIN));
			if (recv(fd, &back, 1, 0) == 1)
				assert_true(back == (uint8_t)i || back == '-');
		}
		struct linger reset = {.l_onoff = i % 2, .l_linger = 0};
		assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset), 0);
		(void)close(fd);
	}
	server_end(s);
}

static unsigned open_files(void)
{
	unsigned n = 0;
	DIR *d = opendir("/proc/self/fd");
	assert_non_null(d);
	while (readdir(d) != NULL)
		n++;
	(void)closedir(d);
	return n;
}

static void test_io_stop_with_100_connections_leaks_nothing(void **state)
{
	(void)state;
	enum { CLIENTS = 100 };
	unsigned before = open_files();
	struct server *s = server_new(ECHO);
	int fds[CLIENTS];
	for (int i = 0; i < CLIENTS; i++) {
		fds[i] = client_new(s);
		size_t sent = 0;
		assert_true(send_some(fds[i], &sent, 5000, SIZE_MAX));
	}
	wait_for_count(&s->opens, CLIENTS);
	server_end(s);
	for (int i = 0; i < CLIENTS; i++)
		(void)close(fds[i]);
	assert_int_equal(open_files(), before);
}

/* ---- the rest ---- */

static void test_io_adopts_a_peer(void **state)
{
	(void)state;
	struct server *s = server_prepare(ECHO);
	int fds[2];
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
	s->adopt_fd = fds[1];
	server_start(s);
	pump(fds[0], 0, 300 * KB, SIZE_MAX);
	(void)close(fds[0]);
	wait_for_count(&s->closes, 1);
	server_end(s);
}

static void test_io_wakes_from_another_thread(void **state)
{
	(void)state;
	enum { TIMES = 50 };
	struct server *s = server_new(ECHO);
	for (unsigned i = 1; i <= TIMES; i++) {
		atomic_store(&s->mail, i);
		wake(s);
		wait_for_count(&s->mail_seen, i);
		/* And it wakes others. */
		uint64_t wakes;
		assert_true(wait_for(s->wake_fds[1], POLLIN));
		assert_int_equal(read(s->wake_fds[1], &wakes, sizeof wakes), sizeof wakes);
		assert_int_equal(wakes, 1);
	}
	server_end(s);
}

static void test_io_describes_itself(void **state)
{
	(void)state;
	struct server *s = server_new(ECHO);
	assert_non_null(strstr(io_describe(atomic_load(&s->io)), "io_uring sq 1024 cq 16384"));
	server_end(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_io_joins_fragments_of_one_byte),
		cmocka_unit_test(test_io_carries_200_kb_both_ways),
		cmocka_unit_test(test_io_resends_the_rest_with_tiny_socket_buffers),
		cmocka_unit_test(test_io_serves_many_connections),
		cmocka_unit_test(test_io_survives_a_storm_on_four_buffers),
		cmocka_unit_test(test_io_survives_a_completion_queue_of_eight),
		cmocka_unit_test(test_io_spins_and_still_serves),
		cmocka_unit_test(test_io_keeps_the_rest_of_a_short_send),
		cmocka_unit_test(test_io_lets_the_handler_drop_a_slow_reader),
		cmocka_unit_test(test_io_closes_a_link_whose_input_is_never_used),
		cmocka_unit_test(test_io_keeps_order_over_pause_and_resume),
		cmocka_unit_test(test_io_stops_receiving_while_paused),
		cmocka_unit_test(test_io_answers_clients_beyond_the_limit),
		cmocka_unit_test(test_io_accepts_again_when_descriptors_are_back),
		cmocka_unit_test(test_io_sends_what_a_refusing_handler_said),
		cmocka_unit_test(test_io_flushes_before_it_closes),
		cmocka_unit_test(test_io_answers_a_client_that_half_closes),
		cmocka_unit_test(test_io_closes_while_data_is_in_flight),
		cmocka_unit_test(test_io_reuses_slots_without_mixing_streams),
		cmocka_unit_test(test_io_stop_with_100_connections_leaks_nothing),
		cmocka_unit_test(test_io_adopts_a_peer),
		cmocka_unit_test(test_io_wakes_from_another_thread),
		cmocka_unit_test(test_io_describes_itself),
	};
	if (!has_io_uring())
		return EXIT_SKIP;
	return cmocka_run_group_tests_name("io", tests, NULL, NULL);
}
