/* The inside of liblocker. One state machine for each connection, without a blocking call; whoever
 * drives the client (its thread, the caller's loop, or a blocking call) feeds it.
 * Owner  client->mutex guards everything, except where a field says otherwise. It is not held while
 *        waiting and during the caller's callbacks.
 * Time   client->now_ns adds up the larger of the deltas of two clocks, so a time set on it is
 *        never reached late. */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "base/buf.h"
#include "base/limits.h"
#include "base/list.h"
#include "client/address.h"
#include "locker/locker.h"
#include "wire/resp.h"

#define NS_PER_MS INT64_C(1000000)
#define NEVER_NS  INT64_MAX

/* A point in time on both clocks that count for a lease: protocol.md 2.6. */
struct instant {
	int64_t boot_ns, raw_ns;
};

struct client_clock {
	void (*read)(void *context, struct instant *ret);
	void *context;
};

/* CLOCK_BOOTTIME and CLOCK_MONOTONIC_RAW. */
void client_clock_read(void *context, struct instant *ret);

struct timer {
	int64_t at_ns;
	size_t slot; /* in the heap, from 1; 0: not set */
	void (*fire)(struct locker_client *c, struct timer *t);
};

struct timer_heap {
	struct timer **at; /* from 1 */
	size_t n, room, allocated;
};

/* Room for one more timer than before: whoever owns a timer reserves it when he is made, so that
 * setting one cannot fail. */
int timer_reserve(struct timer_heap *h);
void timer_unreserve(struct timer_heap *h);
void timer_set(struct timer_heap *h, struct timer *t, int64_t at_ns);
void timer_cancel(struct timer_heap *h, struct timer *t);

/* Something for the caller's ears; run without the mutex. */
struct callback {
	struct list link;
	void (*run)(struct callback *self);
};

struct node {
	char address[ADDRESS_MAX_BYTES];
	struct addrinfo *found; /* NULL: not looked up yet */
};

struct locker_client {
	pthread_mutex_t mutex;
	pthread_cond_t changed; /* a blocking call may be done, or nobody drives any more */
	pthread_t thread;
	bool has_thread, closing;
	bool driving; /* someone is in client_drive() */
	bool asleep;  /* and waits for events: wake him when a time was set */
	int64_t sleep_until_ns;
	bool calling; /* a callback runs, on caller */
	pthread_t caller;
	const struct callback *called; /* only to be compared: it may be freed */

	struct client_clock clock;
	struct instant now;
	int64_t now_ns;
	struct timer_heap timers;

	int epoll_fd, wake_fd;
	struct node *nodes;
	size_t n_nodes;
	size_t preferred; /* the last that served, or the one behind a failed one */
	struct list conns;
	struct conn *dead;
	struct list callbacks;
	size_t owned;      /* locks and elections */
	size_t background; /* requests that give back what nobody wants any more */
	bool given_back;   /* all of that, or nobody waits for it longer */
	struct timer linger;

	char name[CLIENT_NAME_MAX_BYTES + 1];
	char prefix[LOCKER_VALUE_PREFIX_MAX_BYTES + 1];
	int64_t connect_ns, answer_ns, call_ns;
};

void client_lock(struct locker_client *c);   /* and read the clocks */
void client_unlock(struct locker_client *c); /* and send what is to be sent */
void client_tick(struct locker_client *c);
void client_callback(struct locker_client *c, struct callback *cb);
/* @cb will not run, and does not run any more, but for a caller that is inside it. */
void client_wait_callback(struct locker_client *c, struct callback *cb);
bool client_in_callback(const struct locker_client *c);
/* Drive, or let others drive, until *@done. */
void client_wait(struct locker_client *c, const bool *done);
/* As locker_client_new(), with other clocks. */
enum locker_outcome client_new(const struct locker_client_options *options,
	struct client_clock clock, struct locker_client **ret);

/* Answers come in order, so a slow one holds up all behind it. What keeps locks is not to wait for
 * anything else, and what waits in line is to hold up nothing. */
enum lane {
	LANE_ASK,
	LANE_KEEP, /* extensions and releases */
	LANE_WAIT, /* one command for each connection */
};

/* ---- requests ---- */

struct request;
/* Under the mutex; @reply is valid during the call. The request is freed afterwards. */
typedef void (*request_fn)(
	struct locker_client *c, struct request *r, const struct locker_reply *reply);

struct request {
	struct list link; /* conn->queued or conn->sent */
	struct conn *conn;
	struct timer timer;
	struct locker_command command; /* its bytes are in text */
	request_fn done;               /* NULL: nobody cares */
	void *context;
	struct instant sent_at;
	int64_t end_ns;      /* of all tries */
	int64_t wait_end_ns; /* of the wait that the command asks for */
	int64_t answer_ns;   /* patience with one node */
	unsigned attempts, refusals;
	enum locker_outcome refusal; /* the last that another node may not repeat */
	bool background;             /* counted in client->background */
	bool on_wire;
	bool unsure; /* an earlier try may have taken effect */
	uint8_t text[];
};

/* Does it make sense? LOCKER_OK or LOCKER_USAGE, LOCKER_LIMIT and a static sentence. */
enum locker_outcome command_check(const struct locker_command *command, const char **ret_why);
/* Send @command (a checked one); @timeout_ns for all tries beside the wait, @answer_ns for each.
 * NULL: out of memory, and @done is not called. */
struct request *request_submit(struct locker_client *c, const struct locker_command *command,
	int64_t timeout_ns, int64_t answer_ns, request_fn done, void *context);
/* In the background. No memory for that is no error: leases end by themselves. */
void request_release(struct locker_client *c, const struct locker_command *of, uint64_t token);
void request_to_background(struct locker_client *c, struct request *r);
bool request_waits(const struct request *r);
enum lane request_lane(const struct request *r);
int request_encode(struct request *r, struct locker_client *c, struct buf *out);
/* 0: answered and freed; -EAGAIN: this node cannot serve it, try another; -EPROTO: this is no
 * answer to it. */
int request_answer(struct locker_client *c, struct request *r, const struct resp_value *v);
/* It cannot be answered any more; @failure: what is wrong with the nodes. */
void request_fail(
	struct locker_client *c, struct request *r, enum locker_outcome failure, const char *why);
bool request_may_repeat(const struct locker_client *c, const struct request *r);

/* Fill @reply from the answer @v to a command of @verb. False: that is none. */
bool reply_parse(enum locker_verb verb, const struct resp_value *v, struct locker_reply *reply);

/* ---- connections ---- */

enum conn_state { CONN_NEW, CONN_CONNECTING, CONN_GREETING, CONN_READY, CONN_DEAD };

struct conn {
	struct list link;
	struct conn *next_dead;
	struct locker_client *client;
	enum conn_state state;
	enum locker_outcome failure; /* of the tries since the last success */
	int fd;
	enum lane lane;
	bool retired; /* takes no new requests */
	bool wants_write;
	size_t node;
	size_t failures;
	struct addrinfo *next; /* address of the node to try after this one */
	struct buf out, in;
	struct list queued, sent;
	struct timer timer;
	char why[256];
};

/* Give @r to a connection; nothing is done about it before conn_flush(), so that it cannot end
 * while its owner does not know it yet. 0 or -ENOMEM. */
int conn_dispatch(struct locker_client *c, struct request *r);
void conn_events(struct conn *conn, uint32_t events);
/* Connect, or send what is to be sent. */
void conn_flush(struct conn *conn);
void conn_end(struct conn *conn);
void conn_free_dead(struct locker_client *c);
/* Nothing came in time: go on elsewhere. */
void conn_give_up(struct conn *conn, const char *why);

/* ---- who is told of an answer ---- */

/* Called once, under the mutex. */
struct hearer {
	void (*hear)(
		struct locker_client *c, struct hearer *self, const struct locker_reply *reply);
};

/* A thread that waits for it, on that thread's stack. */
struct waiter {
	struct hearer hearer;
	bool done;
	enum locker_outcome outcome;
	struct locker_reply *ret;
};

void waiter_init(struct waiter *w, struct locker_reply *ret);
enum locker_outcome waiter_wait(struct locker_client *c, struct waiter *w);

/* A function of the caller; frees itself when it was called. NULL: out of memory. */
struct hearer *callee_new(locker_reply_fn fn, void *context);
void callee_free(struct hearer *hearer); /* one that will not be called */

enum locker_outcome reply_usage(
	struct locker_reply *ret, enum locker_outcome outcome, const char *why);
void reply_copy(struct locker_reply *ret, const struct locker_reply *reply);
