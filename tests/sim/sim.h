/* The deterministic simulator: real engines (or whole shards), a world in memory, faults chosen by
 * the seed, and judges that know the true time.
 *
 * One thread, integers only, one random source: a seed gives the same events, and the same trace
 * hash, on every machine. Times are nanoseconds of the true clock unless a name says whose they
 * are. Source: protocol.md 3 (what must hold) and 5.1 (what may happen). */
#pragma once

#include <stdio.h>

#include "base/prng.h"
#include "core/internal.h"
#include "node/members.h"
#include "node/restart.h"

enum {
	NODES_MAX = 8, /* five masters, and some that may become masters or replicas */
	KEYS_MAX = 8,
	CLIENTS_MAX = 16,
	CALLS_MAX = 256,
	MAILS_MAX = 8192,
	LETTERS_MAX = 512,  /* between control threads */
	SHOWINGS_MAX = 256, /* of a key, the last ones */
	EPOCHS_MAX = 1024,  /* of one run */
	ITEMS_MAX = 32768,
	RELEASED_MAX = 256,
	HISTORY_MAX = 32768,
};

#define MS  UINT64_C(1000000)
#define SEC UINT64_C(1000000000)

enum verdict_of_run { RUN_OK = 0, RUN_USAGE = 1, RUN_UNSAFE = 2, RUN_STUCK = 3, RUN_CRASHED = 4 };

enum level { LEVEL_BY_SEED, LEVEL_ENGINE, LEVEL_SHARD };

/* A mix of faults that is not drawn but made for one part of the protocol. */
enum drill {
	DRILL_BY_SEED,
	DRILL_VALUES,
	DRILL_RESTARTS,
	DRILL_ASIDE,
	DRILL_SCATTERED,
	DRILL_FORGETFUL,
	DRILL_EARLY_END,
	DRILL_MEMBERS,
	DRILL_NONE
};

enum churn { CHURN_BY_SEED, CHURN_ALWAYS, CHURN_NEVER };

struct options {
	uint64_t seed, runs, events;
	unsigned nodes; /* 0: the seed chooses */
	enum level level;
	enum drill drill;
	enum churn churn;
	unsigned lie_ppm; /* clocks go wrong by up to this much, whatever the engines are told */
	bool trace, quiet;
	unsigned trace_lines;
	bool observers;
	const char *history; /* file to write the histories to, or NULL */
};

/* ---- time: world.c ---- */

/* A clock with a rate of its own. */
struct clock {
	uint64_t at, own; /* at the true time `at` it showed `own`; until then it stands still */
	int rate_ppm;
};

enum item_kind {
	ITEM_MSG,     /* idx: mail */
	ITEM_TIMER,   /* node */
	ITEM_ARRIVE,  /* idx: call, its request reaches the node */
	ITEM_ANSWER,  /* idx: client, its answer (or the end of its connection) reaches it */
	ITEM_WAKE,    /* idx: client, does something */
	ITEM_GIVE_UP, /* idx: call */
	ITEM_FAULT,
	ITEM_DISK,   /* node: a write of its state file ends */
	ITEM_VOTE,   /* node: it may begin to ask, or to vote */
	ITEM_START,  /* node */
	ITEM_CUT,    /* node, idx: the link is noticed to be dead */
	ITEM_MEND,   /* node, idx */
	ITEM_STREAM, /* idx: pipe, bytes reach the other end (shard level) */
	ITEM_LETTER, /* idx: letter, a control thread is told something */
	ITEM_TURN,   /* node: its control thread looks at the configuration */
};

struct item {
	uint64_t at;
	uint32_t seq;
	uint32_t gen; /* of what it belongs to: another one now means that it is void */
	uint16_t idx;
	uint8_t kind;
	uint8_t node;
};

/* ---- the swarm: which faults this run has, and how many ---- */
enum fault {
	FAULT_RESET, /* a link breaks and is made again */
	FAULT_CUT,   /* one way or both, one link or a whole node, until mended */
	FAULT_CLOG,  /* a direction stands still for a while */
	FAULT_CRASH,
	FAULT_STORM, /* several crashes of one node after another */
	FAULT_ALL_CRASH,
	FAULT_PAUSE,
	FAULT_SLOW,
	FAULT_RATE,
	FAULT_WALL,
	FAULT_CLIENT,  /* a client's clock */
	FAULT_STALL,   /* all nodes stand still */
	FAULT_STOP,    /* a node is stopped in good order */
	FAULT_MISSED,  /* a node believes that it has missed something */
	FAULT_SUSPEND, /* a host: RAW stands still, BOOTTIME goes on */
	/* Where the configuration changes. */
	FAULT_CHANGE,  /* a node is told SETNODES */
	FAULT_RIVALS,  /* two nodes are, at once */
	FAULT_REPLACE, /* a node crashes, and another is told to do without it */
	FAULT_STALE,   /* a node is cut off, or down, for several changes */
	FAULTS,
};

struct swarm {
	unsigned loss_ppm, dup_ppm, tail_ppm, midcrash_ppm, old_stream_ppm;
	uint64_t delay_ns, jitter_ns, tail_ns, think_ns, fault_ns, slow_ns;
	bool late_replies;
	uint8_t lost_type; /* enum msg_type; of a reply: of its request */
	bool lost_reply;
	unsigned lost_type_ppm;
	uint32_t slow_types[NODES_MAX + 1];    /* by receiver, a bit a type: these take long */
	unsigned slow_type_ppm;                /* of them */
	unsigned slow_from_ppm, slow_most_ppm; /* delay, of T_att */
	uint32_t lost_types[NODES_MAX + 1];    /* the same: these do not arrive */
	unsigned lost_types_ppm;
	bool quick_starts;                       /* a crashed node is back at once */
	unsigned narrow_ppm;                     /* a round that reaches no more than a majority */
	uint8_t vote_type;                       /* enum msg_type; 0: any */
	unsigned vote_crash_ppm, told_crash_ppm; /* who has just voted, or told a client OK, dies */
	unsigned weight[FAULTS];
	unsigned weights;
	int drift_ppm; /* true bound of the clocks */
	bool slews;    /* BOOTTIME is slewed far beyond rho, RAW is not */
	bool wild_walls;
	bool files, lossy_files, bad_disks;
	unsigned give_up_ppm, cancel_ppm, mistake_ppm, crash_client_ppm, idempotent_ppm;
	uint32_t ttl_ms; /* longest lease asked for */
	unsigned read_percent;
	unsigned boot_ppm;    /* of the starts: the machine was booted, its clocks begin anew */
	unsigned orderly_ppm; /* of the nodes that end right after a vote or an answer: stopped */
	bool heirs;           /* who writes over a value holds the lock from then on */
	unsigned writers;     /* clients that only read and write over what others hold */
	unsigned back_ppm;    /* a writer writes what was the value before */
	bool even_ttl;        /* all leases are of one length */
	bool registers;       /* locks are kept, and written over again and again */
	bool homes;           /* clients ask the same node always */
	unsigned lockers_home, writers_home; /* which; 0: by the number of the client */
	unsigned change_crash_ppm; /* who is changing the configuration dies, once it has written */
	unsigned change_masters_most;
	uint64_t move_ns; /* between a configuration on disk and a shard that acts by it */
};

/* ---- configurations: epochs.c ---- */

/* Who is what, a bit per node. */
struct shape {
	uint64_t epoch; /* 0: none */
	uint64_t masters_epoch;
	uint16_t masters, replicas;
	uint8_t joined, departed;
};

static inline unsigned shape_masters(const struct shape *s)
{
	return count_bits(s->masters);
}

static inline unsigned shape_majority(const struct shape *s)
{
	return count_bits(s->masters) / 2 + 1;
}

/* ---- nodes ---- */
struct record_on_disk {
	bool valid;
	uint32_t seq;
	uint64_t ceiling_n;
	uint32_t clean; /* life that stopped in good order and held nothing; 0: none */
	struct members_register reg;
};

struct disk {
	struct record_on_disk slot[2];
	struct record_on_disk copy; /* made some time ago */
};

/* What the observer of a key was told last (observers.c). */
struct observed_key {
	uint64_t token;   /* 0: not held */
	bool fresh, lost; /* fresh: the present state is to come */
};

struct node {
	struct engine *engine;
	void *memory;
	size_t memory_bytes;
	struct engine_config cfg;
	struct engine_time time;
	struct clock slow, fast, mclk;
	int64_t wall_skew_us;
	uint32_t life;
	bool up;
	uint64_t paused_until, slow_ns;
	uint64_t timer_at;
	uint32_t timer_gen;
	uint32_t linked[NODES_MAX + 1]; /* life of the peer it is linked with; 0: not */
	uint64_t unlinked_at[NODES_MAX + 1];
	uint32_t seen[NODES_MAX + 1]; /* life of the peer it was last linked with */
	/* the control thread */
	struct disk disk;
	bool has_file;
	struct restart restart;
	uint64_t loaded_n, durable_n, asked_n, writing_n;
	bool writing;
	struct members_register reg, writing_reg; /* durable; on its way (epoch 0: none is) */
	uint32_t after_life; /* the file says that this one held nothing; 0: no such claim */
	bool old_file;       /* and that is not the last one */
	/* change.c */
	struct members *members;                  /* NULL: the configuration does not change */
	struct shape config;                      /* that the engine acts by */
	uint64_t moved_at, moving_epoch, move_at; /* since when; the next one, and when */
	uint64_t fell_at;                         /* the last time */
	uint64_t settled_epoch, synced_epoch, told_moved, told_synced; /* what was told last */
	bool heard[NODES_MAX + 1]; /* the engine has it as linked */
	uint64_t turn_at;
	uint32_t turn_gen;
	bool asked;     /* it was told SETNODES, and has not answered */
	bool done;      /* it has answered OK */
	bool forgetful; /* it starts without a file */
	bool lost;      /* its file was: it abstains from the next change */
	/* what the judges know */
	uint64_t accepted_n;     /* highest ballot ever live here, whatever the incarnation */
	uint64_t forgotten_n;    /* the same up to the last start */
	uint64_t maxn[KEYS_MAX]; /* of this incarnation */
	struct observed_key observed[KEYS_MAX];
	struct ballot shown[KEYS_MAX];                          /* to its readers, as a master */
	uint64_t shown_end_ns[KEYS_MAX], shown_since[KEYS_MAX]; /* with this end; true time */
	struct ballot traced[KEYS_MAX]; /* what the trace has told of its entries */
	uint16_t traced_flags[KEYS_MAX];
	struct shard_node *shard; /* shard level only */
};

struct mail {
	struct msg msg;
	uint64_t sent_mclk; /* the receiver's clock when it was sent */
	uint32_t from_life, to_life, stream;
	uint16_t next_free;
	uint8_t from, to;
	uint8_t key;
	uint64_t epoch;               /* that its sender acted by */
	uint8_t data[KEYS_MAX * 160]; /* value and name; a report of all keys fits */
};

/* From one control thread to another. */
struct letter {
	struct config_msg msg;
	uint32_t from_life, to_life, stream;
	uint16_t next_free;
	uint8_t from, to;
};

/* ---- clients ---- */
struct belief {
	uint64_t token;     /* 0: none */
	uint64_t cid;       /* 0: not known */
	uint64_t until_own; /* the client's clock */
	uint8_t key;
	bool passed_on; /* somebody was told of a later value: not judged any more */
};

struct client {
	struct clock clock;
	uint32_t gen;  /* counts wake-ups, so that one is pending at most */
	uint16_t call; /* CALLS_MAX: none */
	uint8_t key;
	uint32_t value;    /* what it locked, or tried to, the last time */
	bool maybe_locked; /* nobody said whether that worked */
	bool gone_release; /* a RELEASE is under way somewhere: never touch that value again */
	uint64_t token;
	struct belief belief;
	uint64_t seen_token; /* a writer: what it read last, and has not written over yet */
	uint32_t seen_value;
	uint8_t seen_key;
	bool probe; /* of the liveness phase: does what it is told */
	enum outcome outcome;
};

enum call_state { CALL_FREE, CALL_SENT, CALL_RUNS };

struct call {
	enum call_state state;
	uint32_t gen;
	uint16_t client; /* CLIENTS_MAX: nobody waits for it any more */
	uint16_t next_free;
	uint8_t node, key, kind;
	bool idempotent, wait, has_token, any_value, has_ttl, own_value;
	uint32_t life;
	uint32_t value, new_value, ttl_ms;
	uint64_t token, wait_ms;
	uint64_t sent, sent_own, deadline_fast;
	uint64_t seen_top;       /* highest token granted when it was sent */
	struct ballot waits_for; /* WAITRELEASE: what was live at its node */
	uint64_t stream;         /* shard level: serial of the connection */
	uint32_t record;         /* of the history */
};

/* ---- history.c ---- */
struct record {
	uint8_t key, kind, outcome, client;
	bool done, optional, has_token, any_value;
	/* What was asked; a READ: what was found, in value; a LOCK: 1 in new_value: idempotent. */
	uint32_t value, new_value;
	uint64_t token; /* what was answered */
	uint64_t asked_token;
	uint64_t begin, end; /* end UINT64_MAX: not yet */
	uint64_t until;      /* true time before which the lease told of cannot end */
};

/* A lock attempt that went out: it may be seen by others, whatever its client was told. */
struct attempt {
	uint64_t n, cid, sent;
	uint32_t value;
	uint8_t key;
};

struct history {
	struct record record[HISTORY_MAX];
	struct attempt attempt[HISTORY_MAX];
	uint32_t records, attempts;
	bool closed;
};

/* A lock that masters have shown to their readers. */
struct showing {
	struct ballot uid;
	uint64_t until;   /* true time: the latest end that it had at one of them */
	uint64_t gone_at; /* when the last of them gave it up */
	uint16_t on;      /* bit per node: shows it */
	bool doubtful;    /* not all gave it up: it ended, or a master crashed */
};

struct key {
	uint8_t name[2];
	uint64_t hash;
	uint64_t top;     /* highest token granted */
	bool top_adopted; /* first told to who asked for it again elsewhere */
	/* Two coordinators may make one n, so an instance is told by its ballot. */
	struct ballot released[RELEASED_MAX];
	struct ballot
		granted[RELEASED_MAX]; /* instances that were live on a majority, the last ones */
	unsigned n_released, n_granted;
	struct ballot majority; /* live on a majority at the last look */
	struct showing showing[SHOWINGS_MAX];
	unsigned n_showings;
	struct ballot all; /* all masters of the last epoch have shown it since; {0, 0}: none */
	uint64_t all_since, all_epoch;
	uint32_t value; /* some value seen, for rivals to guess */
	uint64_t told_token;
	uint32_t told_value; /* the latest value of that lock that somebody heard to be his */
};

struct sums {
	uint64_t runs, events, faults[FAULTS], answers, outcomes[16], grants, lost, dropped_old,
		crashes, stops, clean_starts, syncs, fallbacks, shadows, healed;
	uint64_t churned, changes, sets_done, sets_failed, other_epoch;
	uint64_t linear_ops, linear_states, linear_given_up, sim_ns, leases_judged, observed;
};

struct world {
	const struct options *opt;
	uint64_t seed, now, events, hash;
	struct prng rng;
	struct swarm swarm;
	unsigned n, keys, clients;      /* n: masters of the first configuration, and of the last */
	uint8_t master[NODES_MAX];      /* they */
	unsigned nodes;                 /* the masters, from 1 on, and others */
	bool churn;                     /* the configuration changes */
	struct shape epoch[EPOCHS_MAX]; /* as decided; by number */
	uint64_t top_epoch;
	enum drill drill;
	bool calm; /* no more faults */
	bool shard_level;
	bool tokens_exempt; /* a state file was lost or is an old copy: nothing vouches for tokens
			     */
	enum verdict_of_run verdict;
	bool over;
	struct node node[NODES_MAX + 1];
	struct client client[CLIENTS_MAX];
	struct key key[KEYS_MAX];
	struct call call[CALLS_MAX];
	uint16_t call_free;
	bool cut[NODES_MAX + 1][NODES_MAX + 1];
	uint64_t clogged_until[NODES_MAX + 1][NODES_MAX + 1];
	uint32_t stream[NODES_MAX + 1][NODES_MAX + 1]; /* counts connections, both ways the same */
	struct mail mail[MAILS_MAX];
	struct letter letter[LETTERS_MAX];
	uint16_t mail_free, letter_free;
	struct item item[ITEMS_MAX];
	uint32_t items, next_seq;
	uint32_t next_value;
	uint8_t shared[1 << 14]; /* bit per value that more than its owner has used */
	struct history history;
	struct effects fx;
	unsigned traced;
	struct sums sums;
};

static inline uint64_t below(struct world *w, uint64_t bound)
{
	return prng_below(&w->rng, bound);
}

static inline bool chance(struct world *w, unsigned ppm)
{
	return ppm != 0 && prng_below(&w->rng, 1000000) < ppm;
}

/* Half of the time nothing at all. */
static inline unsigned some(struct world *w, unsigned bound)
{
	return chance(w, 500000) ? 0 : (unsigned)below(w, bound);
}

/* About a quarter of all types. */
static inline uint32_t some_types(struct world *w)
{
	return (uint32_t)(below(w, 2U << MSG_TYPE_MAX) & below(w, 2U << MSG_TYPE_MAX));
}

static inline uint64_t clock_read(const struct clock *c, uint64_t now)
{
	int64_t d = now > c->at ? (int64_t)(now - c->at) : 0;
	return c->own + (uint64_t)(d + d * c->rate_ppm / 1000000);
}

/* ---- world.c ---- */
void world_run(struct world *w, uint64_t until, uint64_t max_events);
void world_push(struct world *w, uint64_t at, enum item_kind kind, unsigned node, unsigned idx,
	uint32_t gen);
void clock_set_rate(struct clock *c, uint64_t now, int rate_ppm);
/* True nanoseconds after which a clock will have moved by @own_ns, rounded up. */
uint64_t clock_true_ns(const struct clock *c, uint64_t own_ns);
/* Runs one seed; the world is reused. */
enum verdict_of_run world_simulate(struct world *w, const struct options *opt, uint64_t seed);
/* Shape of this run: sizes, engine configuration, which faults. */
void swarm_choose(struct world *w);

/* ---- trace.c ---- */
void trace_fold(struct world *w, uint64_t a, uint64_t b);
__attribute__((format(printf, 2, 3))) void trace_line(struct world *w, const char *format, ...);
/* Something that must not happen has happened: report it and end the run. */
__attribute__((format(printf, 3, 4))) void violation(
	struct world *w, enum verdict_of_run what, const char *format, ...);
#define TRACE(w, ...) ((w)->opt->trace ? trace_line(w, __VA_ARGS__) : (void)0)
const char *msg_name(const struct msg *m);
/* Which entries of the node are not what they were. */
void trace_entries(struct world *w, unsigned id);

/* ---- net.c ---- */
uint64_t net_delay(struct world *w, unsigned to);
void net_init(struct world *w);
void net_post(struct world *w, unsigned from, unsigned to, const struct msg *m);
void net_deliver(struct world *w, const struct item *it);
void net_link(struct world *w, unsigned a, unsigned b, bool up);
void net_link_all(struct world *w, unsigned id);
/* The engine is told of a link. */
void net_hear(struct world *w, unsigned id, unsigned peer, bool up);

/* ---- node.c ---- */
void node_clocks(struct world *w, unsigned id);
void node_step(struct world *w, unsigned id, const struct event *ev, int key);
void node_timer(struct world *w, const struct item *it);
void node_start(struct world *w, unsigned id);
void node_first_boot(struct world *w, unsigned id);
/* A pause ends. */
void node_wake(struct world *w, unsigned id);
/* By what its engine acts by. */
static inline bool is_master(const struct world *w, unsigned id)
{
	return id <= NODES_MAX && (w->node[id].config.masters >> id & 1);
}
static inline bool is_replica(const struct world *w, unsigned id)
{
	return id <= NODES_MAX && (w->node[id].config.replicas >> id & 1);
}
void node_crash(struct world *w, unsigned id);
/* It stays away for so long. */
void node_crash_for(struct world *w, unsigned id, uint64_t away_ns);
/* Stop in good order: SIGTERM, and a start some time later. */
void node_stop(struct world *w, unsigned id);
/* What src/node/control.c does at each turn. */
void node_control(struct world *w, unsigned id);
void node_may_vote(struct world *w, const struct item *it);
/* It has become a master. */
void node_joins(struct world *w, unsigned id);
static inline bool node_votes(const struct world *w, unsigned id, uint64_t hash)
{
	const struct node *n = &w->node[id];
	return n->up && slot_votes(n->engine, slot_of(n->engine, hash));
}
void node_memory(struct world *w, unsigned id);
uint64_t node_wall_n(const struct world *w, unsigned id);

/* ---- epochs.c: the configurations, as somebody sees who sees all nodes ---- */
/* One that some masters act by. */
struct force {
	struct shape config;
	uint16_t there; /* bit per master of it that is up and acts by it */
};
/* At most one a node; the number of them. */
/* So many masters of the last one have lost what they promised that no change can be made. */
bool epochs_stuck(const struct world *w, unsigned more);
unsigned epochs_in_force(const struct world *w, struct force ret[NODES_MAX]);
struct shape shape_of(const struct membership *m);
/* A node acts by it from now on: is it the one of its epoch? */
void epochs_see(struct world *w, unsigned id, const struct membership *m);
void epochs_first(struct world *w);

/* ---- change.c: what a control thread does about configurations ---- */
void change_init(struct world *w);
/* The node starts: what its file says (NULL: it has none to read), and then the rest. */
void change_load(struct world *w, unsigned id, const struct record_on_disk *file);
void change_start(struct world *w, unsigned id);
/* Its configuration as the engine is to begin with. */
void change_config(const struct world *w, unsigned id, struct engine_config *cfg);
/* The file holds what was to be written. */
void change_written(struct world *w, unsigned id);
void change_link(struct world *w, unsigned id, unsigned peer, bool up);
void change_soon(struct world *w, unsigned id);
void change_turn(struct world *w, const struct item *it);
void change_deliver(struct world *w, const struct item *it);
/* After each step of the engine. */
void change_stepped(struct world *w, unsigned id);
/* SETNODES; false: refused. */
bool change_ask(struct world *w, unsigned id, const struct members_target *t);
/* Bits of nodes. */
struct members_target change_target(uint16_t masters, uint16_t replicas, bool has_replicas);
/* Another set of masters, not far from the one that the node knows. */
struct members_target change_some(struct world *w, unsigned id);
unsigned change_pick(struct world *w, uint16_t bits);

/* ---- disk.c ---- */
/* NULL: nothing to be read. */
const struct record_on_disk *disk_load(const struct disk *d);
void disk_keep_clean(struct node *n, uint64_t ceiling_n);
/* The stop in good order counts once. */
void disk_forget_clean(struct disk *d);
/* Write what is asked for, the ceiling or the register, unless something is being written. */
void disk_want(struct world *w, unsigned id);
void disk_done(struct world *w, const struct item *it);
/* What was to be written is forgotten. */
void disk_drop(struct node *n);
void disk_crash(struct world *w, unsigned id);
void disk_before_start(struct world *w, unsigned id);

/* ---- client.c ---- */
void clients_init(struct world *w);
void client_wake(struct world *w, unsigned i);
void client_think(struct world *w, unsigned i);
void client_arrive(struct world *w, const struct item *it);
void client_answer(struct world *w, const struct item *it);
void client_give_up(struct world *w, const struct item *it);
void client_reply(struct world *w, unsigned id, const struct result *r);
void client_node_died(struct world *w, unsigned id);
/* A connection ended with its calls unanswered. */
void client_stream_ended(struct world *w, unsigned id, uint64_t serial);
/* An operation that should have been answered by now is lost. */
void clients_overdue(struct world *w, unsigned id);
/* Its host is suspended for so long, which RELEASE does not count: it waits on the slow clock. */
void clients_suspended(struct world *w, unsigned id, uint64_t ns);
bool client_believes(const struct world *w, const struct client *c);
/* Others than its owner have used this value: they may have released the lock already. */
bool client_shared(const struct world *w, uint32_t value);
/* A fresh value; @from: what it is written over, 0: nothing. */
uint32_t client_new_value(struct world *w, uint32_t from);
/* The value that the lock was taken with of which this is a later value. */
uint32_t client_first_value(uint32_t value);
/* Send one request; false: no room. The caller fills in what is asked. */
struct call *ask_new(struct world *w, unsigned client, unsigned node, enum op_kind kind);
void call_send(struct world *w, struct call *call);
void ask_free(struct world *w, struct call *call);

/* ---- drill.c ---- */
void drill_choose(struct world *w);
/* Makes the swarm what the drill wants, whatever was drawn. */
void drill_shape(struct world *w);
/* DRILL_NONE: there is none of that name. */
enum drill drill_named(const char *name);

/* ---- faults.c ---- */
void faults_start(struct world *w);
void fault_make(struct world *w);
void faults_heal(struct world *w);

/* ---- check.c ---- */
void check_key(struct world *w, unsigned k);
void check_node(struct world *w, unsigned id);
void check_all(struct world *w);
void check_reply(struct world *w, const struct call *call, const struct result *r);
void check_belief(struct world *w, unsigned client);
void check_answered(struct world *w, const struct msg *request, unsigned id);
void check_release(struct world *w, unsigned k, uint64_t token);
/* The incarnation that made the instance; 0: never seen on a majority. */
uint64_t check_cid(const struct world *w, unsigned k, uint64_t token);
const struct lease *lease_of(const struct world *w, unsigned id, unsigned k);

/* ---- copies.c ---- */
/* After each step of the node, and when it is no more. */
void copies_look(struct world *w, unsigned id);

/* ---- observers.c ---- */
void observers_start(struct world *w, unsigned id);
/* Take what the observers of this node are told out of the effects, and judge it. */
void observers_hear(struct world *w, unsigned id);

/* ---- liveness.c ---- */
void liveness_check(struct world *w);

/* ---- mutants.c ---- */
/* Break these rules (NAME+NAME) from now on; false: there is none of a name, or this build has
 * none.
 */
bool mutants_break(const char *joined);
void mutants_list(FILE *f);

/* ---- history.c, linear.c ---- */
void history_begin(struct world *w, struct call *call);
void history_end(struct world *w, const struct call *call, const struct result *r);
/* Nobody will ever say what became of it. */
void history_lost(struct world *w, const struct call *call);
void history_never(struct world *w, const struct call *call);
void history_attempt(struct world *w, unsigned k, struct ballot uid, uint32_t value);
void history_write(const struct world *w, FILE *f);
void linear_check(struct world *w);
