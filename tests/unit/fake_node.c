#include "fake_node.h"

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

enum { STEPS_MAX = 3000, SETTLE_STEPS = 30 };

static void fake_open(struct fake_node *n)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t bytes = sizeof a;

	n->listen_fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	assert_true(n->listen_fd >= 0);
	assert_int_equal(bind(n->listen_fd, (struct sockaddr *)&a, sizeof a), 0);
	assert_int_equal(listen(n->listen_fd, 16), 0);
	assert_int_equal(getsockname(n->listen_fd, (struct sockaddr *)&a, &bytes), 0);
	n->port = ntohs(a.sin_port);
}

void fake_hang_up(struct fake_node *n)
{
	while (n->n_conns > 0) {
		n->n_conns--;
		close(n->conns[n->n_conns].fd);
		buf_fini(&n->conns[n->n_conns].in);
	}
}

void fake_refuse(struct fake_node *n)
{
	fake_hang_up(n);
	if (n->listen_fd >= 0)
		close(n->listen_fd);
	n->listen_fd = -1;
}

static void send_raw(int fd, const char *raw, size_t bytes)
{
	(void)!send(fd, raw, bytes, MSG_NOSIGNAL);
}

static void note(struct fake_node *n, int fd, const struct resp_request *request)
{
	static const char hello[] = "%2\r\n$6\r\nserver\r\n$6\r\nlocker\r\n$5\r\nproto\r\n:3\r\n";

	if (bytes_eq(request->argv[0], bytes_str("HELLO"))) {
		const char *greeting = n->greeting ? n->greeting : hello;
		send_raw(fd, greeting, strlen(greeting));
		return;
	}
	assert_true(n->n_commands < FAKE_COMMANDS_MAX);
	struct fake_command *command = &n->commands[n->n_commands++];
	size_t used = 0;
	command->fd = fd;
	for (uint32_t i = 0; i < request->argc; i++)
		used += (size_t)snprintf(command->text + used, sizeof command->text - used,
			"%s%.*s", i > 0 ? " " : "", (int)request->argv[i].len,
			(const char *)request->argv[i].p);
}

/* False: the client has closed it. */
static bool fake_read(struct fake_node *n, int fd, struct buf *in)
{
	struct resp_request request;
	const char *why;
	size_t used;
	uint8_t *room = buf_reserve(in, 65536);
	ssize_t bytes = recv(fd, room, 65536, MSG_DONTWAIT);

	if (bytes <= 0)
		return bytes < 0 && errno == EAGAIN;
	in->len += (size_t)bytes;
	while (in->len > 0 && resp_parse(in->data, in->len, &request, &used, &why) == RESP_OK) {
		note(n, fd, &request);
		buf_drop_front(in, used);
	}
	return true;
}

static void fake_step(struct fake_node *n)
{
	int fd = n->listen_fd >= 0 ? accept(n->listen_fd, NULL, NULL) : -1;

	if (fd >= 0) {
		assert_true(n->n_conns < FAKE_CONNS_MAX);
		n->conns[n->n_conns].fd = fd;
		buf_init(&n->conns[n->n_conns].in, 0);
		n->n_conns++;
	}
	for (size_t i = 0; i < n->n_conns && !n->silent; i++) {
		if (fake_read(n, n->conns[i].fd, &n->conns[i].in))
			continue;
		close(n->conns[i].fd);
		buf_fini(&n->conns[i].in);
		n->conns[i--] = n->conns[--n->n_conns];
	}
}

static void clock_read(void *context, struct instant *ret)
{
	const struct fake_world *w = context;

	*ret = w->now;
}

void world_open(struct fake_world *w, struct locker_client_options options)
{
	char nodes[64];

	*w = (struct fake_world){.now = {.boot_ns = 5000000000, .raw_ns = 1000000000}};
	for (size_t i = 0; i < WORLD_NODES; i++)
		fake_open(&w->nodes[i]);
	(void)snprintf(nodes, sizeof nodes, "127.0.0.1:%d,127.0.0.1:%d", w->nodes[0].port,
		w->nodes[1].port);
	options.nodes = nodes;
	options.own_loop = true;
	struct client_clock clock = {.read = clock_read, .context = w};
	assert_int_equal(client_new(&options, clock, &w->client), LOCKER_OK);
}

void world_close(struct fake_world *w)
{
	/* Else the client would wait for them, by a clock that stands. */
	for (size_t i = 0; i < WORLD_NODES; i++)
		fake_refuse(&w->nodes[i]);
	assert_int_equal(locker_client_free(w->client), LOCKER_OK);
}

void world_step(struct fake_world *w)
{
	struct pollfd p = {.fd = locker_fd(w->client), .events = POLLIN};

	(void)!poll(&p, 1, 1);
	assert_int_equal(locker_process(w->client), LOCKER_OK);
	for (size_t i = 0; i < WORLD_NODES; i++)
		fake_step(&w->nodes[i]);
}

void world_settle(struct fake_world *w)
{
	for (int i = 0; i < SETTLE_STEPS; i++)
		world_step(w);
}

void world_pass(struct fake_world *w, int64_t ms)
{
	w->now.boot_ns += ms * NS_PER_MS;
	w->now.raw_ns += ms * NS_PER_MS;
}

struct fake_command *world_expect_start(struct fake_world *w, size_t node, const char *text)
{
	struct fake_node *n = &w->nodes[node];

	for (int i = 0; i < STEPS_MAX && n->taken == n->n_commands; i++)
		world_step(w);
	if (n->taken == n->n_commands)
		fail_msg("node %zu got no '%s'", node, text);
	struct fake_command *command = &n->commands[n->taken++];
	if (strncmp(command->text, text, strlen(text)) != 0)
		fail_msg("node %zu got '%s', not '%s'", node, command->text, text);
	return command;
}

struct fake_command *world_expect(struct fake_world *w, size_t node, const char *text)
{
	struct fake_command *command = world_expect_start(w, node, text);

	assert_string_equal(command->text, text);
	return command;
}

void world_expect_nothing(struct fake_world *w)
{
	world_settle(w);
	for (size_t i = 0; i < WORLD_NODES; i++)
		if (w->nodes[i].taken != w->nodes[i].n_commands)
			fail_msg("node %zu got '%s'", i,
				w->nodes[i].commands[w->nodes[i].taken].text);
}

void world_answer(struct fake_world *w, const struct fake_command *command, const char *raw)
{
	send_raw(command->fd, raw, strlen(raw));
}

void heard_fn(void *context, const struct locker_reply *reply)
{
	struct heard *heard = context;

	heard->calls++;
	heard->reply = *reply;
}

enum locker_outcome world_await(struct fake_world *w, const struct heard *heard)
{
	for (int i = 0; i < STEPS_MAX && heard->calls == 0; i++)
		world_step(w);
	assert_int_equal(heard->calls, 1);
	return heard->reply.outcome;
}
