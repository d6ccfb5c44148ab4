#include "shard/client.h"

#include <stdarg.h>
#include <stdio.h>

#include "base/check.h"

/* name, handler, least and most words (with the name), flags, first and last key */
const struct command commands[] = {
	/* locks */
	{"LOCK", lock_command, 4, ARGS_MAX, CMD_WRITE, 1, 1},
	{"UPDATE", update_command, 4, ARGS_MAX, CMD_WRITE, 1, 1},
	{"EXTEND", extend_command, 4, ARGS_MAX, CMD_WRITE, 1, 1},
	{"RELEASE", release_command, 3, ARGS_MAX, CMD_WRITE, 1, 1},
	{"READ", read_command, 2, 3, CMD_READ, 1, 1},
	{"HOLDER", holder_command, 2, 3, CMD_READ, 1, 1},
	{"CHECK", check_command, 3, 3, CMD_READ, 1, 1},
	{"WAITFOR", waitfor_command, 3, 3, CMD_READ | CMD_BLOCKING, 1, 1},
	{"WAITRELEASE", waitrelease_command, 3, 3, CMD_READ | CMD_BLOCKING, 1, 1},
	{"CANCEL", cancel_command, 2, 2, CMD_WRITE | CMD_BARRIER, 0, 0},
	{"LOCKS", locks_command, 3, 7, CMD_READ | CMD_BARRIER, 0, 0},
	{"BREAK", break_command, 4, 4, CMD_WRITE, 1, 1},
	{"OBSERVE", observe_command, 2, ARGS_MAX, CMD_READ | CMD_BARRIER, 1, -1},
	{"UNOBSERVE", unobserve_command, 1, ARGS_MAX, CMD_READ | CMD_BARRIER, 0, 0},
	{"LAG", lag_command, 1, 1, CMD_ADMIN, 0, 0},
	{"SUMMARY", summary_command, 1, 1, CMD_BARRIER, 0, 0},
	{"NODES", nodes_command, 1, 1, CMD_BARRIER, 0, 0},
	{"STATS", stats_command, 1, 1, CMD_ADMIN | CMD_BARRIER, 0, 0},
	{"SHARDINFO", shardinfo_command, 1, 1, CMD_ADMIN, 0, 0},
	{"SETNODES", setnodes_command, 2, ARGS_MAX, CMD_BARRIER | CMD_ADMIN, 0, 0},
	/* Redis: locks */
	{"SET", set_command, 3, ARGS_MAX, CMD_WRITE, 1, 1},
	{"GET", get_command, 2, 2, CMD_READ, 1, 1},
	{"EXISTS", exists_command, 2, ARGS_MAX, CMD_READ, 1, -1},
	{"TTL", ttl_command, 2, 2, CMD_READ, 1, 1},
	{"PTTL", pttl_command, 2, 2, CMD_READ, 1, 1},
	{"DELIFEQ", delifeq_command, 3, 3, CMD_WRITE, 1, 1},
	{"DELEX", delex_command, 2, ARGS_MAX, CMD_WRITE, 1, 1},
	{"SCAN", scan_command, 2, ARGS_MAX, CMD_READ | CMD_BARRIER, 0, 0},
	{"DBSIZE", dbsize_command, 1, 1, CMD_READ | CMD_BARRIER, 0, 0},
	/* Redis: refused with a sentence */
	{"DEL", refused_delete_command, 2, ARGS_MAX, CMD_WRITE, 1, -1},
	{"UNLINK", refused_delete_command, 2, ARGS_MAX, CMD_WRITE, 1, -1},
	{"GETDEL", refused_delete_command, 2, 2, CMD_WRITE, 1, 1},
	{"EXPIRE", refused_expire_command, 3, 4, CMD_WRITE, 1, 1},
	{"PEXPIRE", refused_expire_command, 3, 4, CMD_WRITE, 1, 1},
	{"EXPIREAT", refused_expire_command, 3, 4, CMD_WRITE, 1, 1},
	{"PEXPIREAT", refused_expire_command, 3, 4, CMD_WRITE, 1, 1},
	{"PERSIST", refused_expire_command, 2, 2, CMD_WRITE, 1, 1},
	{"GETEX", refused_expire_command, 2, ARGS_MAX, CMD_WRITE, 1, 1},
	{"SETNX", refused_set_command, 3, 3, CMD_WRITE, 1, 1},
	{"SETEX", refused_set_command, 4, 4, CMD_WRITE, 1, 1},
	{"PSETEX", refused_set_command, 4, 4, CMD_WRITE, 1, 1},
	{"GETSET", refused_set_command, 3, 3, CMD_WRITE, 1, 1},
	{"MSET", refused_set_command, 3, ARGS_MAX, CMD_WRITE, 1, -1},
	{"MSETNX", refused_set_command, 3, ARGS_MAX, CMD_WRITE, 1, -1},
	{"EVAL", eval_command, 3, ARGS_MAX, 0, 0, 0},
	{"EVAL_RO", eval_ro_command, 3, ARGS_MAX, 0, 0, 0},
	{"EVALSHA", evalsha_command, 3, ARGS_MAX, 0, 0, 0},
	{"EVALSHA_RO", evalsha_ro_command, 3, ARGS_MAX, 0, 0, 0},
	{"SCRIPT", script_command, 2, ARGS_MAX, 0, 0, 0},
	{"CLUSTER", refused_cluster_command, 2, ARGS_MAX, CMD_ADMIN, 0, 0},
	{"READONLY", refused_cluster_command, 1, 1, CMD_ADMIN, 0, 0},
	{"READWRITE", refused_cluster_command, 1, 1, CMD_ADMIN, 0, 0},
	/* Redis: connection and server */
	{"PING", ping_command, 1, 2, CMD_ADMIN, 0, 0},
	{"ECHO", echo_command, 2, 2, CMD_ADMIN, 0, 0},
	{"HELLO", hello_command, 1, ARGS_MAX, CMD_ADMIN, 0, 0},
	{"AUTH", auth_command, 2, 3, CMD_ADMIN, 0, 0},
	{"RESET", reset_command, 1, 1, CMD_ADMIN, 0, 0},
	{"QUIT", quit_command, 1, ARGS_MAX, CMD_ADMIN, 0, 0},
	{"SELECT", select_command, 2, 2, CMD_ADMIN, 0, 0},
	{"CLIENT", client_command, 2, ARGS_MAX, CMD_ADMIN, 0, 0},
	{"COMMAND", command_command, 1, ARGS_MAX, CMD_ADMIN | CMD_BIG, 0, 0},
	{"CONFIG", config_command, 2, ARGS_MAX, CMD_ADMIN | CMD_BIG, 0, 0},
	{"INFO", info_command, 1, ARGS_MAX, CMD_ADMIN | CMD_BARRIER, 0, 0},
	{"TIME", time_command, 1, 1, CMD_ADMIN, 0, 0},
	{"POST", http_command, 1, ARGS_MAX, CMD_ADMIN, 0, 0},
	{"HOST:", http_command, 1, ARGS_MAX, CMD_ADMIN, 0, 0},
};
const unsigned commands_count = sizeof commands / sizeof commands[0];
_Static_assert(
	sizeof commands / sizeof commands[0] <= COMMANDS_MAX, "indices fit a byte, load < 1/2");

/* ---- lookup ---- */

static uint8_t upper(uint8_t ch)
{
	return ch >= 'a' && ch <= 'z' ? (uint8_t)(ch - 'a' + 'A') : ch;
}

/* FNV-1a of the name in upper case. */
static uint32_t name_hash(struct bytes name)
{
	uint32_t h = 2166136261U;
	for (uint32_t i = 0; i < name.len; i++)
		h = (h ^ upper(name.p[i])) * 16777619U;
	return (h ^ h >> 15) % COMMAND_HASH_SIZE;
}

void commands_index(struct clients *c)
{
	for (unsigned i = 0; i < commands_count; i++) {
		uint32_t at = name_hash(bytes_str(commands[i].name));
		while (c->lookup[at] != 0)
			at = (at + 1) % COMMAND_HASH_SIZE;
		c->lookup[at] = (uint8_t)(i + 1);
	}
}

const struct command *command_find(const struct clients *c, struct bytes name)
{
	if (name.len > 16)
		return NULL;
	for (uint32_t at = name_hash(name); c->lookup[at] != 0; at = (at + 1) % COMMAND_HASH_SIZE) {
		const struct command *command = &commands[c->lookup[at] - 1];
		if (arg_is(name, command->name))
			return command;
	}
	return NULL;
}

/* ---- arguments ---- */

bool arg_is(struct bytes b, const char *word)
{
	uint32_t i = 0;
	while (i < b.len && word[i] != '\0' && upper(b.p[i]) == (uint8_t)word[i])
		i++;
	return i == b.len && word[i] == '\0';
}

bool arg_int(struct bytes b, int64_t *ret)
{
	uint32_t i = 0;
	bool negative = b.len > 0 && b.p[0] == '-';
	i += negative;
	if (i == b.len || b.len > 20)
		return false;
	if (b.p[i] == '0' && (negative || b.len > 1))
		return false;
	uint64_t max = (uint64_t)INT64_MAX + negative;
	uint64_t v = 0;
	for (; i < b.len; i++) {
		if (b.p[i] < '0' || b.p[i] > '9')
			return false;
		uint64_t digit = (uint64_t)(b.p[i] - '0');
		if (v > (max - digit) / 10)
			return false;
		v = v * 10 + digit;
	}
	*ret = negative ? (int64_t)(0 - v) : (int64_t)v;
	return true;
}

bool arg_number(struct request *rq, unsigned i, int64_t min, int64_t max, int64_t *ret)
{
	int64_t v;
	if (!arg_int(rq->argv[i], &v) || v < min || v > max) {
		resp_error(rq->out, "ERR value is not an integer or out of range");
		return false;
	}
	*ret = v;
	return true;
}

bool arg_key(struct request *rq, unsigned i)
{
	struct bytes key = rq->argv[i];
	if (key.len == 0) {
		resp_error(rq->out, "ERR the key is empty; a key has 1 to %d bytes", KEY_MAX_BYTES);
		return false;
	}
	if (key.len > KEY_MAX_BYTES) {
		resp_error(rq->out, "LIMIT key of %u bytes is above the limit of %d", key.len,
			KEY_MAX_BYTES);
		return false;
	}
	if (key.len >= PROBE_PREFIX_BYTES && memcmp(key.p, PROBE_PREFIX, PROBE_PREFIX_BYTES) == 0) {
		resp_error(
			rq->out, "ERR this key's prefix is reserved for LAG; choose another key");
		return false;
	}
	return true;
}

bool arg_value(struct request *rq, unsigned i)
{
	if (rq->argv[i].len <= VALUE_MAX_BYTES)
		return true;
	resp_error(rq->out, "LIMIT value of %u bytes is above the limit of %d", rq->argv[i].len,
		VALUE_MAX_BYTES);
	return false;
}

bool arg_ttl(struct request *rq, unsigned i, int64_t unit_ms, uint32_t *ret_ms)
{
	int64_t v;
	if (!arg_number(rq, i, INT64_MIN / 1000, INT64_MAX / 1000, &v))
		return false;
	int64_t ms = v * unit_ms;
	if (ms < 1) {
		if (arg_is(bytes_str(rq->command->name), "SET"))
			resp_error(rq->out, "ERR invalid expire time in 'set' command");
		else
			resp_error(rq->out, "LIMIT lease %lld ms is below 1 ms", (long long)ms);
		return false;
	}
	if (ms > rq->s->cfg.engine.max_lease_ms) {
		resp_error(rq->out, "LIMIT lease %lld ms is above max-lease %u ms", (long long)ms,
			rq->s->cfg.engine.max_lease_ms);
		return false;
	}
	*ret_ms = (uint32_t)ms;
	return true;
}

/* ---- common replies ---- */

enum run reply_ok(struct request *rq)
{
	resp_simple(rq->out, "OK");
	return RUN_DONE;
}

enum run fail_syntax(struct request *rq)
{
	resp_error(rq->out, "ERR syntax error");
	return RUN_DONE;
}

static void lower_name(const char *name, char *ret, size_t size)
{
	size_t i = 0;
	for (; name[i] != '\0' && i + 1 < size; i++)
		ret[i] = (char)(name[i] >= 'A' && name[i] <= 'Z' ? name[i] - 'A' + 'a' : name[i]);
	ret[i] = '\0';
}

enum run fail_arguments(struct request *rq, const char *subcommand)
{
	char name[32];
	lower_name(rq->command->name, name, sizeof name);
	resp_error(rq->out, "ERR wrong number of arguments for '%s%s%s' command", name,
		subcommand != NULL ? "|" : "", subcommand != NULL ? subcommand : "");
	return RUN_DONE;
}

enum run fail_subcommand(struct request *rq)
{
	struct bytes sub = rq->argv[1];
	resp_error(rq->out, "ERR unknown subcommand '%.*s'. Try %s HELP.",
		(int)(sub.len < 128 ? sub.len : 128), (const char *)sub.p, rq->command->name);
	return RUN_DONE;
}

/* Redis' words, which clients compare; at most 128 bytes of name and of arguments. */
static enum run fail_unknown(struct request *rq)
{
	char args[160];
	size_t n = 0;
	args[0] = '\0';
	for (uint32_t i = 1; i < rq->argc && n < 128; i++) {
		uint32_t room = (uint32_t)(128 - n);
		uint32_t len = rq->argv[i].len < room ? rq->argv[i].len : room;
		n += (size_t)snprintf(args + n, sizeof args - n, "'%.*s' ", (int)len,
			(const char *)rq->argv[i].p);
	}
	struct bytes name = rq->argv[0];
	resp_error(rq->out, "ERR unknown command '%.*s', with args beginning with: %s",
		(int)(name.len < 128 ? name.len : 128), (const char *)name.p, args);
	return RUN_DONE;
}

void text_add(struct buf *b, const char *format, ...)
{
	enum { MAX = 1024 };
	va_list ap;
	char *to = (char *)buf_reserve(b, MAX);
	if (to == NULL)
		return;
	va_start(ap, format);
	int n = vsnprintf(to, MAX, format, ap);
	va_end(ap);
	CHECK(n >= 0);
	b->len += n < MAX ? (size_t)n : MAX - 1;
}

/* ---- dispatch ---- */

static enum run run_handler(struct request *rq)
{
	struct clients *c = rq->c;
	if (rq->command == NULL)
		return fail_unknown(rq);
	if (rq->argc < rq->command->min || rq->argc > rq->command->max)
		return fail_arguments(rq, NULL);
	rq->conn->last_command = rq->command->name;
	if (rq->s->draining && rq->command->run != quit_command) {
		reply_draining(rq->out);
		return RUN_DONE;
	}
	if ((rq->command->flags & CMD_BARRIER) != 0 && rq->conn->unfinished > 0)
		return RUN_WAIT;
	enum run ret = rq->command->run(rq);
	c->commands += ret != RUN_WAIT && ret != RUN_CROWDED;
	return ret;
}

/* A reply written at once takes its place behind those that are missing. */
static void queue_reply(struct request *rq)
{
	struct client_conn *conn = rq->conn;
	uint32_t slot;
	if (rq->out->len == 0 || !pending_push(conn, &slot)) {
		client_out_of_memory(rq->s, conn);
		return;
	}
	reply_close(rq->s, conn, slot, rq->out);
}

enum run command_run(struct request *rq)
{
	struct client_conn *conn = rq->conn;
	struct buf *scratch = &rq->c->scratch;
	size_t bound = ERROR_MAX_BYTES;
	for (uint32_t i = 0; i < rq->argc; i++)
		bound += rq->argv[i].len;
	rq->command = command_find(rq->c, rq->argv[0]);
	bool big = rq->command != NULL && (rq->command->flags & CMD_BIG) != 0;
	bool direct = pending_empty(conn) && !big;
	if (direct && !reply_room(rq->s, conn, bound))
		return RUN_PENDING;
	scratch->len = 0;
	rq->out = direct ? &conn->link->out : scratch;
	if (buf_reserve(rq->out, bound) == NULL) {
		client_out_of_memory(rq->s, conn);
		return RUN_PENDING;
	}
	enum run ret = run_handler(rq);
	/* A push that came first may have been too much for a client that does not read. */
	if ((ret != RUN_DONE && ret != RUN_CLOSE) || conn->closing)
		return ret;
	if (direct)
		env_dirty(rq->s->env, conn->link);
	else
		queue_reply(rq);
	return ret;
}

/* ---- patterns ---- */

static uint8_t fold(uint8_t ch, bool ignore_case)
{
	return ignore_case ? upper(ch) : ch;
}

/* [set]: @i is behind the bracket; returns the index behind the closing one (or the end). */
static uint32_t match_set(struct bytes pattern, uint32_t i, uint8_t ch, bool ignore_case, bool *ret)
{
	bool negate = i < pattern.len && pattern.p[i] == '^';
	bool hit = false;
	ch = fold(ch, ignore_case);
	for (i += negate; i < pattern.len && pattern.p[i] != ']'; i++) {
		if (pattern.p[i] == '\\' && i + 1 < pattern.len) {
			i++;
			hit |= fold(pattern.p[i], ignore_case) == ch;
		} else if (i + 2 < pattern.len && pattern.p[i + 1] == '-') {
			uint8_t a = fold(pattern.p[i], ignore_case);
			uint8_t b = fold(pattern.p[i + 2], ignore_case);
			hit |= a <= b ? ch >= a && ch <= b : ch >= b && ch <= a;
			i += 2;
		} else {
			hit |= fold(pattern.p[i], ignore_case) == ch;
		}
	}
	*ret = hit != negate;
	return i < pattern.len ? i + 1 : i;
}

/* One pattern element against one byte; returns the index behind the element. */
static uint32_t match_one(struct bytes pattern, uint32_t i, uint8_t ch, bool ignore_case, bool *ret)
{
	if (pattern.p[i] == '?') {
		*ret = true;
		return i + 1;
	}
	if (pattern.p[i] == '[')
		return match_set(pattern, i + 1, ch, ignore_case, ret);
	if (pattern.p[i] == '\\' && i + 1 < pattern.len)
		i++;
	*ret = fold(pattern.p[i], ignore_case) == fold(ch, ignore_case);
	return i + 1;
}

/* Only the last star is ever tried again: what an earlier one took can stay as short as it was. */
bool glob_match(struct bytes pattern, struct bytes text, bool ignore_case)
{
	uint32_t i = 0;
	uint32_t k = 0;
	uint32_t star_i = UINT32_MAX;
	uint32_t star_k = 0;
	while (k < text.len) {
		if (i < pattern.len && pattern.p[i] == '*') {
			star_i = ++i;
			star_k = k;
			continue;
		}
		bool hit = false;
		uint32_t next = i;
		if (i < pattern.len)
			next = match_one(pattern, i, text.p[k], ignore_case, &hit);
		if (hit) {
			i = next;
			k++;
		} else if (star_i != UINT32_MAX) {
			i = star_i;
			k = ++star_k;
		} else {
			return false;
		}
	}
	while (i < pattern.len && pattern.p[i] == '*')
		i++;
	return i == pattern.len;
}
