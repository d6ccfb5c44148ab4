/* The RESP side of a shard: what client.c, the command files, reply*.c and gather.c share.
 *
 *   client.c         connections: parse, fairness, back-pressure, time limits
 *   commands.c       the table of commands, arguments, dispatch
 *   *_commands.c     the handlers
 *   command_call.c   operations in flight: to the shard of their key and home again
 *   gather.c         questions to every shard
 *   walk.c           SCAN and LOCKS, a part of one shard's table at a time
 *   reply.c          results to bytes; reply_ring.c keeps replies in request order
 *
 * Owner: the shard thread. */
#pragma once

#include "base/log.h"
#include "shard/internal.h"
#include "wire/resp.h"

/* What clients are told to be speaking to, by INFO and HELLO. From 8.4 on StackExchange.Redis
 * releases and extends by DELEX and SET IFEQ, which are served; before it does so by WATCH and
 * MULTI, which are not (users.md D.3, 13). */
#define REDIS_VERSION "8.4.0"

enum {
	TURN_COMMANDS_MAX = 64, /* of one connection before others have their turn */
	TURN_BYTES_MAX = 16 * 1024,
	AHEAD_MAX = 16,       /* requests parsed before the first of them runs */
	FAIR_UNFINISHED = 64, /* of one connection, while half of all calls are in use */
	PENDING_MAX = 16384,  /* replies of one connection not yet in its output */
	WAITS_MAX = 1024,     /* of one connection: LOCK WAIT, WAITFOR, WAITRELEASE */
	LINES_MAX = 16384,    /* of one connection: LOCK WAIT ASYNC */
	OBSERVERS_MAX = 1024, /* of one connection: keys */
	WAIT_MAX_MS = 24 * 3600 * 1000,
	PARTIAL_MAX_MS = 10 * 1000, /* a request must be whole by then */
	CALLS_CHUNK = 256,
	CALL_INDEX_BITS = 24,
	PATTERN_MAX_BYTES = 256,
	CALL_NOTE_MAX_BYTES = 512,
	COMMANDS_MAX = 96,
	COMMAND_HASH_SIZE = 256,
	LIB_MAX_BYTES = 63,
	NONMEMBERS_SHOWN = 16,  /* in NODES and INFO; more than a few at once are not meant to be */
	ERROR_MAX_BYTES = 1024, /* any reply without user bytes, encoded; larger ones are CMD_BIG */
};

enum block {
	BLOCK_NONE,
	BLOCK_TURN,   /* on clients.ready: goes on in clients_work() */
	BLOCK_CALL,   /* until one of its own commands is done */
	BLOCK_OUTPUT, /* on clients.slow: until enough of its output is sent */
};

/* op_look_first() */
enum look {
	LOOK_NONE,
	LOOK_ASKED,
	LOOK_DONE, /* conn.looked */
};

/* One reply that is not in the output yet. */
struct slot {
	uint8_t *data; /* encoded, while replies before it are missing */
	uint32_t data_bytes;
	uint32_t key_hash;
	uint32_t parts_left; /* of a command with several keys */
	uint32_t sum;
	uint8_t failed; /* enum outcome of the first part that failed */
	bool done, has_key, barrier;
};

struct client_conn {
	struct list all;       /* clients.conns */
	struct list waiting;   /* clients.ready or clients.slow */
	struct list partial;   /* clients.partial */
	struct list calls;     /* that are to be answered */
	struct list in_line;   /* LOCK WAIT ASYNC: that are to be told by a push */
	struct list observing; /* OBSERVE: that stay */
	struct link *link;
	enum block blocked;
	bool resp3;
	bool closing; /* the env was told; nothing is written any more */
	bool quit;    /* close once the last reply is in the output; parse no more */
	bool barrier; /* an unfinished command holds up all others */
	uint8_t look; /* enum look */
	struct result looked;
	/* Reply slots: [head, tail), numbers grow for ever, capacity is a power of two. */
	struct slot *slots;
	uint16_t *busy; /* unfinished commands per hash of the key, 2 * capacity counters */
	uint32_t slots_cap, head, tail;
	uint32_t unfinished;
	uint32_t waits, lines, observers;
	size_t held_bytes; /* in slots */
	uint64_t opened_mclk, active_mclk, partial_mclk;
	const char *last_command;
	uint8_t name_bytes, lib_name_bytes, lib_ver_bytes;
	char name[CLIENT_NAME_MAX_BYTES + 1];
	char lib_name[LIB_MAX_BYTES + 1];
	char lib_ver[LIB_MAX_BYTES + 1];
};

/* An operation or question in flight, named by its tag:
 * thread (8 bits) | index (24 bits) | generation (32 bits). */
struct call {
	struct list in_conn;
	struct client_conn *conn; /* NULL: the client is gone */
	struct gather *gather;
	uint8_t *key;   /* OBSERVE, else NULL */
	char *note;     /* what the log is told once it has taken effect; NULL: nothing */
	uint64_t token; /* CHECK */
	uint32_t index, generation;
	uint32_t slot;
	uint32_t next_free;
	uint16_t shard, key_bytes;
	uint8_t reply; /* enum reply_kind */
	bool used, resp3, waits, part;
	bool async;    /* LOCK WAIT ASYNC: a push instead of a slot */
	bool look;     /* no reply: for op_look_first() */
	bool setnodes; /* the control thread answers, not an engine */
};

struct ahead {
	struct resp_request request;
	size_t bytes;
};

struct clients {
	struct list conns, ready, slow, partial;
	uint32_t n_conns;
	uint64_t commands, connections, probes, closed_slow;
	uint64_t http_said_mclk; /* 0: never */
	struct call **chunks;
	uint32_t n_chunks, chunks_max, calls_used, calls_max, free_call;
	uint32_t observers;                /* of the calls */
	struct buf scratch;                /* a reply on its way to a slot */
	struct buf answer;                 /* a text for gather */
	uint8_t lookup[COMMAND_HASH_SIZE]; /* index + 1 into commands[] */
	struct ahead ahead[AHEAD_MAX];
};

/* What a handler is given. */
struct request {
	struct shard *s;
	struct clients *c;
	struct client_conn *conn;
	const struct command *command;
	bool inlined; /* a plain line: it cannot be run again */
	uint32_t argc;
	const struct bytes *argv;
	struct buf *out; /* room for ERROR_MAX_BYTES and the bytes of the request; CMD_BIG: any */
};

enum run {
	RUN_DONE,    /* the reply is in rq->out */
	RUN_CLOSE,   /* likewise, and it is the last one */
	RUN_PENDING, /* the reply comes through its slot, or came already */
	RUN_WAIT,    /* nothing done: run it again when a command of this connection is done */
	RUN_CROWDED, /* nothing done: run it again in the next loop */
};

enum command_flag {
	CMD_WRITE = 1 << 0,
	CMD_READ = 1 << 1,
	CMD_BIG = 1 << 2,     /* the reply may be longer than ERROR_MAX_BYTES plus the request */
	CMD_BARRIER = 1 << 3, /* runs when everything before it is done, and alone */
	CMD_BLOCKING = 1 << 4,
	CMD_ADMIN = 1 << 5,
};

struct command {
	const char *name; /* upper case */
	enum run (*run)(struct request *rq);
	uint8_t min, max; /* words, the name included */
	uint8_t flags;    /* enum command_flag */
	uint8_t key_first;
	int8_t key_last;
};

/* ---- client.c ---- */
/* Close now, dropping what is unsent (@flush: sending it first). handler.close() follows. */
void client_drop(struct shard *s, struct client_conn *conn, bool flush);
void client_out_of_memory(struct shard *s, struct client_conn *conn);
/* A reply went to the output or a command got done: go on where that was awaited. */
void client_progress(struct shard *s, struct client_conn *conn);
size_t client_unsent_bytes(const struct client_conn *conn);
/* One line as CLIENT LIST has it, with LF. */
void client_describe(const struct shard *s, const struct client_conn *conn, struct buf *b);

/* ---- commands.c ---- */
extern const struct command commands[];
extern const unsigned commands_count;
void commands_index(struct clients *c);
const struct command *command_find(const struct clients *c, struct bytes name);
/* @rq: all but command. Arguments are counted here. */
enum run command_run(struct request *rq);

/* @upper is the word in upper case; @b in any. */
bool arg_is(struct bytes b, const char *upper);
/* As Redis reads integers: no blanks, no leading zeros, no plus sign. */
bool arg_int(struct bytes b, int64_t *ret);
/* These answer the error themselves when they return false. */
bool arg_key(struct request *rq, unsigned i);
bool arg_value(struct request *rq, unsigned i);
bool arg_ttl(struct request *rq, unsigned i, int64_t unit_ms, uint32_t *ret_ms);
bool arg_number(struct request *rq, unsigned i, int64_t min, int64_t max, int64_t *ret);

enum run fail_syntax(struct request *rq);
enum run fail_arguments(struct request *rq, const char *subcommand);
enum run fail_subcommand(struct request *rq);
enum run reply_ok(struct request *rq);

/* Redis' glob: * ? [set] [^set] \x. At most text * pattern steps; patterns are limited to
 * PATTERN_MAX_BYTES by the callers. */
bool glob_match(struct bytes pattern, struct bytes text, bool ignore_case);
/* Append formatted text, at most 1 KiB. */
void text_add(struct buf *b, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* ---- command_call.c ---- */
struct op_options {
	uint8_t reply;    /* enum reply_kind */
	uint64_t token;   /* CHECK */
	const char *note; /* as in struct call */
	bool async;       /* answer QUEUED id, and push the result */
};
/* Run @ev->op (key, values, options are set; the rest is filled in here). */
enum run op_start(struct request *rq, struct event *ev, struct op_options options);
/* All that waits on this connection with ASYNC leaves its lines. */
void async_cancel_all(struct shard *s, struct client_conn *conn);
/* What waits on this connection under that id leaves its line. False: there is no such. */
bool async_cancel(struct shard *s, struct client_conn *conn, uint64_t id);
/* READ QUORUM on behalf of a command that needs its answer (without the bytes) to go on. True: here
 * it is. False: return *ret_run; where that is RUN_WAIT the command runs anew when the answer is
 * there. Nothing else of the connection runs meanwhile. */
bool op_look_first(struct request *rq, struct bytes key, struct result *ret, enum run *ret_run);
/* OP_READ for each of argv[1..]; the reply is how many are held. */
enum run op_start_exists(struct request *rq);
/* NULL: as many are in flight as may be. */
struct call *call_new(struct shard *s, struct client_conn *conn);
void call_free(struct clients *c, struct call *call);
/* The call of a tag, or NULL when it is no more. */
struct call *call_of_tag(struct shard *s, uint64_t tag);
uint64_t call_tag(const struct shard *s, const struct call *call);
/* The connection is going: nobody waits for its calls any more. */
void calls_abandon(struct shard *s, struct client_conn *conn);
/* Draining: end what waits on this connection. An attempt of a LOCK that is under way is taken back
 * by the engine, which needs a moment for it: see drain() in shard.c. */
void calls_end_waits(struct shard *s, struct client_conn *conn);
/* Ask the control thread for another set of nodes; it answers when all is done, or goes wrong. */
enum run setnodes_start(struct request *rq, const struct mail_setnodes *wanted);
void calls_free(struct clients *c);
/* Send @ev->op to the shard of @call, and tell it that nobody waits for that any more. */
void op_launch(struct shard *s, struct call *call, struct event *ev);
void op_cancel(struct shard *s, unsigned shard, uint64_t tag);

/* ---- reply_ring.c ---- */
static inline bool pending_empty(const struct client_conn *conn)
{
	return conn->head == conn->tail;
}

static inline bool pending_full(const struct client_conn *conn)
{
	return conn->tail - conn->head >= PENDING_MAX;
}

static inline struct slot *pending_at(const struct client_conn *conn, uint32_t n)
{
	return &conn->slots[n & (conn->slots_cap - 1)];
}

/* A slot for an unfinished command; not when full. False: out of memory. */
bool pending_push(struct client_conn *conn, uint32_t *ret_slot);
void pending_set_key(struct client_conn *conn, uint32_t slot, uint32_t key_hash);
void pending_set_barrier(struct client_conn *conn, uint32_t slot);
/* Has the connection an unfinished command on this key? */
bool pending_busy(const struct client_conn *conn, uint32_t key_hash);
void pending_fini(struct client_conn *conn);
/* Where to write the reply of @slot, with room for @bound_bytes; then reply_close(). Between the
 * two nothing else may be replied. */
struct buf *reply_open(
	struct shard *s, struct client_conn *conn, uint32_t slot, size_t bound_bytes);
void reply_close(struct shard *s, struct client_conn *conn, uint32_t n, struct buf *b);
/* Room for @bytes in the output; false: the connection was closed for reading too slowly. */
bool reply_room(struct shard *s, struct client_conn *conn, size_t bytes);

/* ---- reply.c ---- */
enum reply_kind {
	REPLY_LOCK,  /* map or null */
	REPLY_GRANT, /* UPDATE, EXTEND */
	REPLY_RELEASE,
	REPLY_BREAK, /* as RELEASE, but he who asks is not the holder */
	REPLY_SET,   /* OK or null */
	REPLY_SET_IFEQ,
	REPLY_DELETED, /* 1 or 0 */
	REPLY_VALUE,   /* READ, GET, WAITFOR */
	REPLY_HOLDER,
	REPLY_CHECK,
	REPLY_WAITRELEASE,
	REPLY_LAG,
	REPLY_TTL,
	REPLY_PTTL,
	REPLY_EXISTS,
	REPLY_VALUE_PTTL, /* array */
	REPLY_SCRIPT,     /* and an index into scripts[] */
};
size_t reply_bound_bytes(const struct result *r);
/* @token: CHECK's. */
void reply_result(
	struct buf *b, bool resp3, enum reply_kind kind, uint64_t token, const struct result *r);
/* The error of an outcome that is none of the command's good ones. */
void reply_outcome(struct buf *b, const struct result *r);
void reply_draining(struct buf *b);
void reply_no_copy(struct buf *b);

/* ---- gather.c ---- */
enum question {
	ASK_SUMMARY,
	ASK_DBSIZE,
	ASK_INFO,
	ASK_NODES,
	ASK_CLIENT_LIST,
	ASK_CLIENT_KILL,
	ASK_SCAN,
	ASK_LOCKS,
	ASK_STATS,
};

struct ask {
	uint64_t tag;
	uint64_t cursor;   /* SCAN, LOCKS: the engine's */
	uint64_t id;       /* CLIENT KILL; 0: any */
	uint64_t asker_id; /* connection that asks */
	uint32_t count;    /* SCAN, LOCKS */
	uint32_t sections; /* INFO */
	uint16_t text_bytes;
	uint16_t shard; /* SCAN, LOCKS: that is asked */
	uint8_t question;
	bool has_text;
	bool skip_me;
	bool old_form;            /* CLIENT KILL addr: OK, or an error */
	bool resp3;               /* LOCKS */
	char text[KEY_MAX_BYTES]; /* SCAN: pattern; LOCKS: prefix; CLIENT KILL: address */
};

struct tally_peer {
	struct peer_info info; /* links and counters added up, heard_ago_ns the least */
	uint8_t node;
};

enum { TALLY_PEERS_MAX = MASTERS_MAX + REPLICAS_MAX + NONMEMBERS_SHOWN };

/* What one shard, or all of them together, have to say. */
struct tally {
	struct engine_stats stats; /* added up */
	uint64_t clients, commands, connections, calls, closed_slow;
	uint64_t killed;
	uint64_t cursor;
	uint32_t keys;
	bool no_copy; /* some shard does not vote, nor copies all: no local answers */
	bool failed;  /* out of memory */
	uint16_t n_peers;
	struct tally_peer peers[TALLY_PEERS_MAX]; /* members, and who else is linked */
};

/* Ask every shard. */
enum run gather_start(struct request *rq, struct ask *ask);
/* Ask one shard, @ask->shard. */
enum run gather_start_one(struct request *rq, struct ask *ask);
void gather_free(struct gather *g);

/* ---- walk.c ---- */
/* A cursor is engine cursor * threads + thread; each call visits one thread. These answer the error
 * themselves when they return false. */
bool arg_cursor(struct request *rq, unsigned i, struct ask *ask);
bool arg_count(struct request *rq, unsigned i, unsigned max, struct ask *ask);
/* @max: at most sizeof ask->text. */
bool arg_text(struct request *rq, unsigned i, const char *what, unsigned max, struct ask *ask);
/* The shard's part: entries, encoded already, to @text. */
void walk_answer(struct shard *s, const struct ask *ask, struct tally *t, struct buf *text);
void walk_reply(const struct shard *s, const struct ask *ask, const struct tally *t,
	const struct buf *text, struct buf *b);

/* ---- command_info.c ---- */
/* Of a node, or NULL: nothing is known of it. */
const struct tally_peer *tally_find(const struct tally *t, uint8_t node);
/* Bits of struct ask.sections for these arguments; 0: none of them is known. */
uint32_t info_sections(uint32_t argc, const struct bytes *argv);
void info_text(const struct shard *s, const struct tally *t, uint32_t sections, struct buf *b);
void nodes_reply(const struct shard *s, const struct tally *t, bool resp3, struct buf *b);
/* STATS: a shard's part, and all of it. */
void stats_answer(const struct shard *s, struct tally *t, struct buf *text);
void stats_reply(const struct shard *s, const struct tally *t, const struct buf *text, bool resp3,
	struct buf *b);

/* ---- handlers: lock_commands.c ---- */
enum run lock_command(struct request *rq);
enum run cancel_command(struct request *rq);
enum run update_command(struct request *rq);
enum run extend_command(struct request *rq);
enum run release_command(struct request *rq);
enum run read_command(struct request *rq);
enum run holder_command(struct request *rq);
enum run check_command(struct request *rq);
enum run waitfor_command(struct request *rq);
enum run waitrelease_command(struct request *rq);
enum run lag_command(struct request *rq);
/* [TOKEN n] as the only option, from argv[i]; it answers the error itself when it returns false. */
bool arg_token(struct request *rq, unsigned i, struct op_request *op);

/* ---- look_commands.c ---- */
enum run locks_command(struct request *rq);
enum run break_command(struct request *rq);
enum run stats_command(struct request *rq);
enum run shardinfo_command(struct request *rq);

/* ---- redis_commands.c ---- */
enum run set_command(struct request *rq);
enum run get_command(struct request *rq);
enum run exists_command(struct request *rq);
enum run ttl_command(struct request *rq);
enum run pttl_command(struct request *rq);
enum run delifeq_command(struct request *rq);
enum run delex_command(struct request *rq);
enum run scan_command(struct request *rq);
enum run refused_delete_command(struct request *rq);
enum run refused_expire_command(struct request *rq);
enum run refused_set_command(struct request *rq);
enum run refused_cluster_command(struct request *rq);
/* Does SET NX of this key mean LOCK IDEMPOTENT? */
bool is_redlock_key(const struct shard *s, struct bytes key);

/* ---- script_commands.c ---- */
enum run eval_command(struct request *rq);
enum run evalsha_command(struct request *rq);
enum run eval_ro_command(struct request *rq);
enum run evalsha_ro_command(struct request *rq);
enum run script_command(struct request *rq);

/* ---- observe_commands.c ---- */
enum run observe_command(struct request *rq);
enum run unobserve_command(struct request *rq);
void observer_result(struct shard *s, struct call *call, const struct result *r);
/* All of this connection. Steps the engine. */
void observers_stop(struct shard *s, struct client_conn *conn);

/* ---- admin_commands.c ---- */
enum run ping_command(struct request *rq);
enum run echo_command(struct request *rq);
enum run hello_command(struct request *rq);
enum run auth_command(struct request *rq);
enum run reset_command(struct request *rq);
enum run quit_command(struct request *rq);
enum run select_command(struct request *rq);
enum run client_command(struct request *rq);
enum run command_command(struct request *rq);
enum run config_command(struct request *rq);
enum run time_command(struct request *rq);
enum run http_command(struct request *rq);
enum run info_command(struct request *rq);
enum run dbsize_command(struct request *rq);
enum run summary_command(struct request *rq);
enum run nodes_command(struct request *rq);
enum run setnodes_command(struct request *rq);
