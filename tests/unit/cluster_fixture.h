/* A cluster of engines in memory, on one clock that the test moves. A test reads as a script: lock,
 * cut a link, let messages through, move time, look. Messages go through the real frame codec. */
#pragma once

#include "base/buf.h"
#include "core/engine.h"

enum { NODES_MAX = 5, RESULTS_MAX = 4096, MAIL_MAX = 65536, RULES_MAX = 16 };

struct fixture_mail {
	uint8_t from, to;
	bool used;
	bool delayed;   /* until fixture_let_go() */
	unsigned moves; /* of its sender when it was sent */
	uint8_t *bytes;
	size_t len;
};

/* What becomes of messages that match; 0: any. */
struct fixture_rule {
	uint8_t from, to;
	uint8_t type; /* enum msg_type; of a reply: of the request it answers */
	bool reply;
	bool delay; /* keep, instead of losing it */
};

struct fixture_node {
	struct engine *engine;
	void *memory;
	size_t memory_bytes;
	struct engine_config cfg;
	struct engine_time time;
	bool down;
	bool paused;    /* mail waits, time goes on */
	unsigned moves; /* changes of the configuration so far: nodes that differ in it do not talk
			 */
	uint64_t booted_ns;    /* where its clocks begin */
	uint64_t suspended_ns; /* how long its machine was: counted by the fast clock only */
	unsigned ceilings;     /* FX_CEILING so far */
	uint64_t ceiling_n;    /* the last one */
};

struct fixture_result {
	struct result r;
	char value[64];
	char client[64];
	uint64_t at_fast_ns;
};

struct fixture {
	unsigned n;
	struct fixture_node node[NODES_MAX + 1]; /* by id, 1..n */
	bool cut[NODES_MAX + 1][NODES_MAX + 1];  /* from, to: messages are lost */
	/* Decides the fate of a message beside the cuts: true: lose it. */
	bool (*lose)(struct fixture *f, uint8_t from, uint8_t to, const struct msg *m);
	void *lose_arg;
	struct fixture_rule rules[RULES_MAX];
	unsigned n_rules;
	bool twice;       /* the network delivers everything two times */
	uint64_t wall_us; /* wall clock at the beginning of the test's time */
	struct fixture_mail mail[MAIL_MAX];
	unsigned mail_head, mail_tail;
	uint64_t now_ns;
	struct fixture_result results[RESULTS_MAX];
	unsigned n_results;
	uint64_t next_tag;
	uint64_t messages; /* delivered so far */
	bool hold;         /* messages stay in the queue */
};

/* Memory for an engine, and its end. */
void *fixture_memory(size_t bytes);
void fixture_memory_free(void *memory, size_t bytes);
/* @change may alter the configuration of every node; NULL: defaults (max-lease 60 s, T_att 1 s). */
struct fixture *fixture_new(unsigned n, void (*change)(struct engine_config *cfg));
void fixture_free(struct fixture *f);
/* Deliver what is in the queue, and what that causes, until nothing moves. */
void fixture_settle(struct fixture *f);
/* Deliver one message; false: none. */
bool fixture_deliver_one(struct fixture *f);
/* Move time in small steps, ticking and settling. */
void fixture_run_ms(struct fixture *f, uint64_t ms);
/* Crash: memory is lost. The node is away until fixture_restart(), which puts it into quarantine.
 */
void fixture_crash(struct fixture *f, unsigned id);
void fixture_restart(struct fixture *f, unsigned id);
void fixture_activate(struct fixture *f, unsigned id, uint64_t floor_n);
/* Crash and restart, wait T_wait, and ask the others (NODE_RESYNC). */
void fixture_resync(struct fixture *f, unsigned id);
/* The same, and its clocks begin anew. */
void fixture_reboot(struct fixture *f, unsigned id);
/* This node acts by another configuration from now on, and talks to those that do so too. */
void fixture_config(struct fixture *f, unsigned id, const struct engine_members *m);
/* The configuration after this one: @joined and @departed, 0: nobody. */
struct engine_members fixture_next(
	const struct engine_members *m, uint8_t joined, uint8_t departed);
/* Until all masters of @m that are up know what was granted before it; at most 5 s. */
void fixture_until_in_sync(struct fixture *f, const struct engine_members *m);
/* All nodes at once, masters that joined ask for what the others know. */
void fixture_config_all(struct fixture *f, const struct engine_members *m);
/* The configuration a node was started with. */
struct engine_members fixture_members(const struct fixture *f, unsigned id);
void fixture_settled(struct fixture *f, unsigned id);
/* Nothing was heard of the others for a while (EV_MISSED). */
void fixture_missed(struct fixture *f, unsigned id);
/* Cut or mend both directions. */
void fixture_cut(struct fixture *f, unsigned a, unsigned b, bool cut);
void fixture_link(struct fixture *f, unsigned a, unsigned b, bool up);
void fixture_pause(struct fixture *f, unsigned id, bool paused);

/* Lose requests (or the replies to requests) of a type between two nodes; 0: any. */
void fixture_lose(struct fixture *f, unsigned from, unsigned to, enum msg_type type);
void fixture_lose_reply(struct fixture *f, unsigned from, unsigned to, enum msg_type type);
/* The same, but they arrive at fixture_let_go(). */
void fixture_delay(struct fixture *f, unsigned from, unsigned to, enum msg_type type);
void fixture_delay_reply(struct fixture *f, unsigned from, unsigned to, enum msg_type type);
/* No more rules; what was delayed is delivered. */
void fixture_let_go(struct fixture *f);
/* What was delayed of this type, and replies to it, is delivered; rules stay. */
void fixture_let_go_of(struct fixture *f, enum msg_type type);
void fixture_status(struct fixture *f, unsigned id, enum node_status status);
void fixture_ceiling(struct fixture *f, unsigned id, uint64_t n);
void fixture_cancel(struct fixture *f, unsigned id, uint64_t tag);
/* A message out of nowhere. */
void fixture_msg(struct fixture *f, unsigned from, unsigned to, struct msg m);
struct engine_stats fixture_stats(const struct fixture *f, unsigned id);

/* Begin an operation at a node; returns its tag. */
uint64_t fixture_op(struct fixture *f, unsigned id, struct op_request r);
uint64_t fixture_lock(
	struct fixture *f, unsigned id, const char *key, const char *value, uint32_t ttl_ms);
uint64_t fixture_lock_wait(struct fixture *f, unsigned id, const char *key, const char *value,
	uint32_t ttl_ms, uint64_t wait_ms);
uint64_t fixture_release(struct fixture *f, unsigned id, const char *key, const char *value);
uint64_t fixture_extend(
	struct fixture *f, unsigned id, const char *key, const char *value, uint32_t ttl_ms);
uint64_t fixture_update(
	struct fixture *f, unsigned id, const char *key, const char *value, const char *new_value);
uint64_t fixture_read(struct fixture *f, unsigned id, const char *key, bool quorum);
/* The result of an operation; NULL: not answered yet. */
const struct fixture_result *fixture_result(const struct fixture *f, uint64_t tag);
/* The outcome, after at most 100 ms of back-off among rivals; fails the test when there is none. */
enum outcome fixture_outcome(struct fixture *f, uint64_t tag);
