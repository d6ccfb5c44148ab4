/* A server of src/io on a thread of its own, which does as its mode says, and its clients. */
#pragma once

#include <pthread.h>
#include <semaphore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/list.h"
#include "io/internal.h"
#include "io/io.h"

#define KB         ((size_t)1024)
#define FULL_REPLY "-ERR max number of clients reached\r\n"

enum {
	FRAME_BYTES = 100,
	INPUT_MAX_BYTES = 16 * 1024,
	OUTPUT_MAX_BYTES = 64 * 1024 * 1024,
	BUFFER_BYTES = 4096, /* of one client receive buffer */
	PATIENCE_S = 20,
	EXIT_SKIP = 77,
};

enum mode {
	ECHO,
	ECHO_FRAMES, /* uses whole frames only */
	ECHO_SLOWLY, /* a frame at a time, paused after each and resumed from work() */
	HOLD,        /* pauses at the first byte until told by mail */
	HOARD,       /* uses nothing, ever */
	TAGGED,      /* all bytes of a stream must be the same */
	CUT,         /* closes without flush after some bytes */
	LAST_WORDS,  /* answers a lot and closes with flush */
	REFUSE,      /* says so in open() */
};

struct visitor {
	struct link *link;
	struct list all;
	struct list resting;
	size_t got_bytes;
	uint8_t tag;
};

struct server {
	struct io_config cfg;
	enum mode mode;
	int wake_fds[2]; /* ours, and that of another thread */
	int adopt_fd;
	char addr[64];
	pthread_t thread;
	sem_t ready;
	_Atomic bool stop;
	_Atomic unsigned mail, mail_seen;
	_Atomic unsigned opens, closes, faults;
	_Atomic size_t longest_data;
	_Atomic(struct io *) io;
	struct list visitors, resting;
	int err;
	char why[256];
};

/* To be changed before it starts. */
struct server *server_prepare(enum mode mode);
void server_start(struct server *s);
struct server *server_new(enum mode mode);
void wake(const struct server *s);
/* Stops it and checks what holds for every server. */
void server_end(struct server *s);

/* A connection that is up; non-blocking. */
int client_new(const struct server *s);
bool wait_for(int fd, short events);
/* Send some of [*sent, total), as much as goes at once but at most @step. False: stream broken. */
bool send_some(int fd, size_t *sent, size_t total, size_t step);
/* Receive what is there and compare. False: stream over or wrong. */
bool receive_some(int fd, size_t *got);
/* Both ways at once: @total bytes out in pieces of @step, and the same back. */
void pump(int fd, size_t sent, size_t total, size_t step);
/* Read to the end of the stream; how many bytes came. */
size_t read_to_end(int fd, uint8_t *ret, size_t bytes);
void wait_for_count(_Atomic unsigned *n, unsigned want);

/* Says why not. */
bool has_io_uring(void);
