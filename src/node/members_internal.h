/* What the files of the register share: members.c is acceptor, learner and mailbox,
 * members_change.c the proposer and its sequence, members_plan.c what is left to be done. */
#pragma once

#include "node/members.h"

enum {
	NODES = NODE_ID_MAX + 1,
	STEP_TEXT_MAX_BYTES = 32,
	OBSTACLE_TEXT_MAX_BYTES = 96,
};

#define MS_NS UINT64_C(1000000)

struct node_set {
	uint64_t bits[NODES / 64];
};

/* A change by one node. */
enum step_kind {
	STEP_NONE,
	STEP_ADD_MASTER,
	STEP_PROMOTE,
	STEP_REMOVE_MASTER,
	STEP_DEMOTE,
	STEP_ADD_REPLICA,
	STEP_REMOVE_REPLICA,
};

struct step {
	enum step_kind kind;
	uint8_t node;
};

/* What the next step, or OK after the last one, waits for. */
enum obstacle_kind {
	OBSTACLE_NONE,
	OBSTACLE_TOO_FEW, /* masters linked */
	OBSTACLE_NOT_LINKED,
	OBSTACLE_BEHIND, /* does not know the configuration yet */
	OBSTACLE_NOT_IN_SYNC,
	OBSTACLE_NOT_MOVED,
};

struct obstacle {
	enum obstacle_kind kind;
	uint8_t node;
};

enum change_phase {
	CHANGE_IDLE,
	CHANGE_WAIT,    /* for what is in the way of the next step, or of OK */
	CHANGE_PREPARE, /* phase 1 */
	CHANGE_ACCEPT,  /* phase 2 */
	CHANGE_BACKOFF, /* refused for a higher ballot */
};

struct change {
	enum change_phase phase;
	struct members_target target;
	uint16_t done;
	struct step last;         /* that was made; STEP_NONE: none yet */
	struct step step;         /* that is being made */
	struct membership wanted; /* where it leads; epoch 0: no step is being made */
	struct membership value;  /* what is proposed, perhaps another's; epoch 0: not known yet */
	struct change_ballot b;
	struct change_ballot best; /* at which `value` was accepted, as the promises tell */
	struct node_set answered;  /* promised, or accepted */
	struct node_set voted;     /* those of them who do not abstain as the old masters */
	unsigned refusals;         /* one after the other */
	uint64_t progress;         /* most that was reached in this wait */
	uint64_t patience_ns;      /* when it ends */
	uint64_t due_ns;           /* ask again, or end of the back-off */
	bool over;                 /* with `error`, not yet told */
	char error[MEMBERS_ERROR_MAX_BYTES];
};

/* What waits to be sent to one node. Made into messages when they are taken, so never out of date,
 * and a newer one replaces the older. */
struct outgoing {
	bool news;
	bool request;   /* of the round that is running */
	uint8_t answer; /* to a CONFIG_PREPARE or CONFIG_ACCEPT; 0: to nothing */
	struct change_ballot b;
};

struct members {
	uint8_t self;
	uint32_t attempt_ms;
	bool forgetful; /* and not yet sure which decisions its former life may have voted in */
	struct prng rng;
	struct members_register reg;
	bool dirty;   /* reg is not what `writing` or the file has */
	bool writing; /* `pending` is being made durable */
	struct members_register pending;
	struct membership current; /* committed and durable */
	/* Since the last change of `committed`: */
	uint64_t seen_n; /* highest ballot that was heard of */
	uint8_t rival;   /* who made the last ballot that is not from here; 0: none */
	bool proposed;   /* in this life */
	uint64_t news_ns;
	uint64_t merged[NODES];           /* the highest synced_epoch that was heard from there */
	struct members_peer peers[NODES]; /* that of `self` as well */
	struct outgoing out[NODES];
	struct change change;
};

static inline bool set_has(const struct node_set *s, uint8_t node)
{
	return (s->bits[node / 64] >> node % 64 & 1) != 0;
}

static inline void set_add(struct node_set *s, uint8_t node)
{
	s->bits[node / 64] |= UINT64_C(1) << node % 64;
}

/* ---- members.c ---- */

/* Negative, zero or positive, as memcmp(). */
int ballot_compare(struct change_ballot a, struct change_ballot b);
void members_see_ballot(struct members *m, struct change_ballot b);
/* No vote in the change away from reg.committed. */
bool members_abstains(const struct members *m);
/* Something has to become durable before anything comes out. */
static inline bool members_blocked(const struct members *m)
{
	return m->dirty || m->writing;
}

/* At the end of everything that happens. */
void members_go_on(struct members *m, uint64_t now_ns);
/* Act by @config, which is committed; @mine: by a round of this node. */
void members_adopt(struct members *m, uint64_t now_ns, const struct membership *config, bool mine);

/* ---- members_change.c ---- */

void change_promise(struct members *m, uint64_t now_ns, uint8_t from, const struct config_msg *msg);
void change_accepted(
	struct members *m, uint64_t now_ns, uint8_t from, const struct config_msg *msg);
void change_refused(struct members *m, uint64_t now_ns, const struct config_msg *msg);
/* @config is committed, as the successor or a later one of what was committed; @by: who proposed
 * it, 0: not known. Before the register changes. */
void change_committed(
	struct members *m, uint64_t now_ns, const struct membership *config, bool mine, uint8_t by);
/* Go on if it is possible; true: something was done. */
bool change_advance(struct members *m, uint64_t now_ns);
/* Is there a request of the running round for @node? */
bool change_asks(const struct members *m, uint8_t node);
/* UINT64_MAX: nothing is due. */
uint64_t change_due_ns(const struct members *m);

/* ---- members_plan.c ---- */

/* The next step from @c to the target; STEP_NONE: it is reached. */
struct step plan_next(
	const struct members *m, const struct membership *c, const struct members_target *t);
unsigned plan_steps(
	const struct members *m, const struct membership *c, const struct members_target *t);
void plan_apply(const struct members *m, struct membership *c, struct step s);
/* What is in the way of @s, a step from reg.committed; STEP_NONE: of saying OK. @last: the step
 * made before. */
struct obstacle plan_obstacle(
	const struct members *m, const struct members_target *t, struct step s, struct step last);
unsigned plan_majority(const struct membership *c);
/* Does @next differ from @c by one node, as a step makes it? */
bool plan_follows(const struct membership *c, const struct membership *next);

/* Texts, for people. */
void plan_step_text(struct step s, char text[STEP_TEXT_MAX_BYTES]);
void plan_obstacle_text(
	const struct members *m, struct obstacle o, char text[OBSTACLE_TEXT_MAX_BYTES]);
/* "remove master 2, remove master 3", as many as fit. */
void plan_left_text(const struct members *m, const struct membership *c,
	const struct members_target *t, char *text, size_t bytes);
