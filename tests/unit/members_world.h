/* Nodes 1..N with the register of configurations, and a network and disks that take no time. */
#pragma once

#include "node/members.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define MS  UINT64_C(1000000)
#define SEC UINT64_C(1000000000)

enum { N = 20, ATTEMPT_MS = 1000, SLOTS = 64 };

struct world {
	uint64_t now_ns;
	struct members *m[N + 1]; /* NULL: down */
	struct members_register disk[N + 1];
	bool slow[N + 1]; /* gets in sync only when told */
	struct membership seen[64];
	unsigned n_seen;
};

extern struct world w;

struct membership config_of(unsigned masters, unsigned replicas);
struct members *boot(unsigned id, bool forgetful);
void link_nodes(unsigned a, unsigned b, bool up);
void drop_all(unsigned id);
void save(unsigned id);
void in_sync(unsigned id);
/* Until nobody has anything to say. */
void settle(void);
void later(uint64_t ns);
/* @masters, @replicas and nonmembers after them, @all together, all linked. */
void world(unsigned masters, unsigned replicas, unsigned all);
void down(unsigned id);
/* Ids as bytes of a string: "\1\2". */
struct members_target target_of(const char *masters, const char *replicas);
int set_nodes(unsigned id, const char *masters, const char *replicas, char *why);
void begin(unsigned id, const char *masters, const char *replicas);
void assert_result(unsigned id, const char *expected);
void assert_text(unsigned id, unsigned step, unsigned steps, const char *expected);
struct config_msg request(uint8_t kind, uint64_t n, uint8_t node);
struct config_msg proposal(uint64_t n, uint8_t node, uint8_t removed);
void tell(unsigned to, unsigned from, const struct config_msg *msg);
/* The next message of @id, which is to @to. */
struct config_msg said(unsigned id, unsigned to, uint8_t kind);
void assert_silent(unsigned id);
int world_end(void **state);
