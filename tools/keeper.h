/* A thread that takes a lock, keeps it and gives it back, at whichever node answers.
 * Owner  keeper_* are for the thread that started it. Nobody's safety depends on it being on time:
 *        who acts under the lock looks at the lease and at elapsed_ns(). */
#pragma once

#include <pthread.h>
#include <stdbool.h>

#include "client/sync.h"
#include "elapsed.h"
#include "endpoints.h"

#define WAIT_FOREVER INT64_MAX

struct lock_wish {
	const char *nodes;
	int64_t timeout_ms; /* for connecting, and for an answer */
	const char *key, *value;
	bool value_is_unique; /* nobody else's: what is held with it is ours */
	int64_t ttl_ms;
	int64_t wait_ms;   /* 0: try each node once */
	int64_t margin_ns; /* before the end of a lease it counts as over */
};

struct lease {
	uint64_t token;
	struct instant since; /* before the request was sent */
	int64_t valid_ns;     /* from then on */
};

enum keeper_state {
	KEEPER_SEEKS,
	KEEPER_HOLDS,
	KEEPER_REFUSED, /* it could not be taken */
	KEEPER_LOST,    /* a node says that it is not ours any more, or it was too late */
};

struct keeper_view {
	enum keeper_state state;
	struct lease lease;
	char why[384]; /* the last thing that went wrong; "": nothing did */
};

struct keeper {
	int news_fd; /* readable: the view has changed; keeper_look() takes that back */
	struct lock_wish wish;
	struct endpoints nodes;
	size_t at; /* the node to ask */
	bool linked;
	bool may_hold; /* a request to take it was given up unanswered */
	struct sync link;
	char numbers[3][24];
	pthread_t thread;
	pthread_mutex_t mutex; /* for what follows */
	pthread_cond_t wake;
	bool ending;
	struct keeper_view view;
};

/* 0 or -errno. @wish's strings have to stay. */
int keeper_start(struct keeper *k, const struct lock_wish *wish);
struct keeper_view keeper_look(struct keeper *k);
/* Give up waiting, or give the lock back, and end the thread. Takes a few seconds at most. */
void keeper_end(struct keeper *k);

/* What is left of the lease; 0 or less: nothing. */
int64_t lease_left_ns(const struct lease *l);
