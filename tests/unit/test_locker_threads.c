/* Many threads on one client, and on one lock. What it finds ThreadSanitizer says (tools/test). */
#include <arpa/inet.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "client/internal.h"

enum { THREADS = 4, ROUNDS = 150, CONNS_MAX = 64, LEASE_MS = 30 };

/* ---- a node that grants everything, on a thread of its own ---- */

static struct {
	pthread_t thread;
	int listen_fd, port;
	atomic_bool stop;
	atomic_uint token;
	atomic_uint extensions;
} node;

static void answer(struct buf *out, const struct resp_request *request)
{
	bool hello = bytes_eq(request->argv[0], bytes_str("HELLO"));
	bool extend = bytes_eq(request->argv[0], bytes_str("EXTEND"));

	node.extensions += extend;
	if (bytes_eq(request->argv[0], bytes_str("READ"))) {
		resp_null(out, true);
		return;
	}
	resp_map(out, true, hello ? 1 : 3);
	if (hello) {
		resp_bulk_str(out, "server");
		resp_bulk_str(out, "locker");
		return;
	}
	resp_bulk_str(out, "token");
	resp_int(out, extend ? 1 : 1 + node.token++);
	resp_bulk_str(out, "valid-ms");
	resp_int(out, LEASE_MS);
	resp_bulk_str(out, "quorum");
	resp_int(out, 1);
}

static bool serve(int fd)
{
	static uint8_t in[65536];
	struct resp_request request;
	struct buf out;
	const char *why;
	size_t used, done = 0;
	ssize_t n = recv(fd, in, sizeof in, 0);

	if (n <= 0)
		return false;
	buf_init(&out, 0);
	/* What is cut off at the end is lost: commands here are short, and come whole. */
	while (done < (size_t)n &&
		resp_parse(in + done, (size_t)n - done, &request, &used, &why) == RESP_OK) {
		answer(&out, &request);
		done += used;
	}
	(void)!send(fd, out.data, out.len, MSG_NOSIGNAL);
	buf_fini(&out);
	return true;
}

static void *node_main(void *context)
{
	struct epoll_event event = {.events = EPOLLIN, .data.fd = node.listen_fd};
	int epoll_fd = epoll_create1(0);

	epoll_ctl(epoll_fd, EPOLL_CTL_ADD, node.listen_fd, &event);
	while (!node.stop) {
		if (epoll_wait(epoll_fd, &event, 1, 20) != 1)
			continue;
		int fd = event.data.fd;
		if (fd != node.listen_fd && !serve(fd))
			close(fd);
		if (fd != node.listen_fd)
			continue;
		event.events = EPOLLIN;
		event.data.fd = accept(fd, NULL, NULL);
		epoll_ctl(epoll_fd, EPOLL_CTL_ADD, event.data.fd, &event);
	}
	close(epoll_fd);
	return NULL;
}

static void node_open(void)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t bytes = sizeof a;

	node.stop = false;
	node.listen_fd = socket(AF_INET, SOCK_STREAM, 0);
	assert_int_equal(bind(node.listen_fd, (struct sockaddr *)&a, sizeof a), 0);
	assert_int_equal(listen(node.listen_fd, 16), 0);
	assert_int_equal(getsockname(node.listen_fd, (struct sockaddr *)&a, &bytes), 0);
	node.port = ntohs(a.sin_port);
	assert_int_equal(pthread_create(&node.thread, NULL, node_main, NULL), 0);
}

static void node_close(void)
{
	node.stop = true;
	pthread_join(node.thread, NULL);
	close(node.listen_fd);
}

/* ---- those who use it ---- */

static struct locker_client *client;
static struct locker_lock *shared;
static atomic_uint taken, called;

static void on_event(void *context, struct locker_lock *lock, enum locker_event event,
	enum locker_outcome reason)
{
	(void)locker_lock_valid(lock);
}

static void on_reply(void *context, const struct locker_reply *reply)
{
	called++;
}

static struct locker_lock *make_lock(const char *key, bool extend)
{
	struct locker_lock_options options = {.key = locker_text(key),
		.ttl_ms = LEASE_MS,
		.extend = extend,
		.on_event = on_event};
	struct locker_lock *lock = NULL;

	(void)locker_lock_new(client, &options, &lock);
	return lock;
}

static void *user_main(void *context)
{
	struct locker_command read = {.verb = LOCKER_READ, .key = locker_text("k")};

	for (int i = 0; i < ROUNDS; i++) {
		struct locker_lock *own = make_lock("own", i % 2);
		if (locker_acquire(own, 0, NULL) == LOCKER_OK && i % 3 == 0)
			(void)locker_release(own, NULL);
		if (locker_acquire(shared, 0, NULL) == LOCKER_OK)
			taken++;
		(void)locker_lock_valid(shared);
		(void)locker_lock_remaining_ms(shared);
		(void)locker_lock_token(shared);
		if (i % 4 == 0)
			usleep(1000 * LEASE_MS / 3);
		if (i % 7 == 0)
			(void)locker_release(shared, NULL);
		(void)locker_extend(shared, LEASE_MS, NULL);
		(void)locker_call(client, &read, NULL);
		if (locker_submit(client, &read, on_reply, NULL) != LOCKER_OK)
			called++;
		locker_lock_free(own);
	}
	return NULL;
}

static void run(bool own_loop)
{
	pthread_t users[THREADS];
	char nodes[32];
	struct locker_client_options options = {.nodes = nodes, .own_loop = own_loop};

	node_open();
	taken = called = node.extensions = 0;
	(void)snprintf(nodes, sizeof nodes, "127.0.0.1:%d", node.port);
	assert_int_equal(locker_client_new(&options, &client), LOCKER_OK);
	shared = make_lock("shared", true);
	for (size_t i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&users[i], NULL, user_main, NULL), 0);
	for (size_t i = 0; i < THREADS; i++)
		pthread_join(users[i], NULL);
	locker_lock_free(shared);
	assert_int_equal(locker_client_free(client), LOCKER_OK);
	node_close();
	assert_int_equal(called, THREADS * ROUNDS);
	assert_true(taken > 0);
	assert_true(node.extensions > 0);
}

static void test_threads_with_the_clients_own(void **state)
{
	run(false);
}

static void test_threads_that_drive_in_turn(void **state)
{
	run(true);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_threads_with_the_clients_own),
		cmocka_unit_test(test_threads_that_drive_in_turn),
	};
	return cmocka_run_group_tests_name("locker_threads", tests, NULL, NULL);
}
