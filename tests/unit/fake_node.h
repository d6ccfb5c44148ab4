/* A node played by the test: it greets by itself, notes what it is told, and says what it is made
 * to say; and a client on clocks of the test's own, driven by hand. */
#pragma once

#include "client/internal.h"

enum { FAKE_CONNS_MAX = 8, FAKE_COMMANDS_MAX = 64 };

struct fake_command {
	int fd; /* where the answer goes */
	char text[512];
};

struct fake_node {
	int listen_fd; /* -1: closed, and refuses */
	int port;
	const char *greeting; /* raw, instead of the usual */
	bool silent;          /* reads nothing */
	struct {
		int fd;
		struct buf in;
	} conns[FAKE_CONNS_MAX];
	size_t n_conns;
	struct fake_command commands[FAKE_COMMANDS_MAX];
	size_t n_commands; /* without the greetings */
	size_t taken;      /* by fake_next() */
};

enum { WORLD_NODES = 2 };

struct fake_world {
	struct fake_node nodes[WORLD_NODES];
	struct instant now;
	struct locker_client *client;
};

/* A client of both nodes, node 0 first, with @options' other fields. */
void world_open(struct fake_world *w, struct locker_client_options options);
void world_close(struct fake_world *w);
void world_step(struct fake_world *w);
/* Some steps, so that what is on its way arrives. */
void world_settle(struct fake_world *w);
/* On both clocks. */
void world_pass(struct fake_world *w, int64_t ms);

/* The next command that @node gets, which has to be @text. */
struct fake_command *world_expect(struct fake_world *w, size_t node, const char *text);
/* The same, that only begins with it. */
struct fake_command *world_expect_start(struct fake_world *w, size_t node, const char *text);
void world_answer(struct fake_world *w, const struct fake_command *command, const char *raw);
/* Nobody gets a command. */
void world_expect_nothing(struct fake_world *w);

void fake_refuse(struct fake_node *n); /* no new connections, and the old ones closed */
void fake_hang_up(struct fake_node *n);

/* What locker_submit() called back; in world_await() it has to come. */
struct heard {
	unsigned calls;
	struct locker_reply reply;
};

void heard_fn(void *context, const struct locker_reply *reply);
enum locker_outcome world_await(struct fake_world *w, const struct heard *heard);

#define GRANT(token, valid_ms)                                                                     \
	"%5\r\n$5\r\ntoken\r\n:" token "\r\n$8\r\nvalid-ms\r\n:" valid_ms                          \
	"\r\n$6\r\nquorum\r\n:2\r\n$5\r\nvotes\r\n:3\r\n$7\r\ncommits\r\n:2\r\n"
#define RELEASED                                                                                   \
	"%4\r\n$5\r\ntoken\r\n:7\r\n$6\r\nquorum\r\n:2\r\n$5\r\nvotes\r\n:3\r\n$7\r\ncommits\r\n:" \
	"2\r\n"
