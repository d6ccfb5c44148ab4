#include "shard/client.h"

#include <stdio.h>

#define HTTP_SAID_NS (UINT64_C(60) * 1000000000)

/* Connection and server commands, as far as Redis' clients send them. */

enum run ping_command(struct request *rq)
{
	if (rq->argc == 2)
		resp_bulk(rq->out, rq->argv[1]);
	else
		resp_simple(rq->out, "PONG");
	return RUN_DONE;
}

enum run echo_command(struct request *rq)
{
	resp_bulk(rq->out, rq->argv[1]);
	return RUN_DONE;
}

enum run quit_command(struct request *rq)
{
	resp_simple(rq->out, "OK");
	return RUN_CLOSE;
}

/* A web page can make its reader's browser send us a request whose body holds commands; Redis' way
 * out is to end the connection at the first line that only HTTP has. */
enum run http_command(struct request *rq)
{
	struct clients *c = rq->c;
	uint64_t now = rq->s->now.mclk;
	if (c->http_said_mclk == 0 || now - c->http_said_mclk >= HTTP_SAID_NS) {
		c->http_said_mclk = now;
		log_warn("client %s speaks HTTP (cross-protocol scripting?), closed",
			rq->conn->link->addr);
	}
	client_drop(rq->s, rq->conn, false);
	return RUN_PENDING;
}

enum run auth_command(struct request *rq)
{
	resp_error(rq->out, "ERR AUTH <password> called without any password configured for the "
			    "default user. Are you sure your configuration is correct?");
	return RUN_DONE;
}

enum run select_command(struct request *rq)
{
	int64_t db;
	if (!arg_number(rq, 1, INT64_MIN, INT64_MAX, &db))
		return RUN_DONE;
	if (db == 0)
		return reply_ok(rq);
	resp_error(rq->out, "ERR DB index is out of range");
	return RUN_DONE;
}

enum run time_command(struct request *rq)
{
	char text[24];
	uint64_t us = rq->s->now.wall_us;
	resp_array(rq->out, 2);
	(void)snprintf(text, sizeof text, "%llu", (unsigned long long)(us / 1000000));
	resp_bulk_str(rq->out, text);
	(void)snprintf(text, sizeof text, "%llu", (unsigned long long)(us % 1000000));
	resp_bulk_str(rq->out, text);
	return RUN_DONE;
}

/* ---- names of a connection ---- */

/* Texts that CLIENT LIST can show. */
static bool printable(struct bytes b)
{
	for (uint32_t i = 0; i < b.len; i++)
		if (b.p[i] < '!' || b.p[i] > '~')
			return false;
	return true;
}

/* @to has room for @max bytes and a NUL. False: @rq is answered. */
static bool take_label(struct request *rq, struct bytes b, const char *what, char *to,
	uint8_t *ret_bytes, size_t max)
{
	if (b.len > max) {
		resp_error(rq->out, "LIMIT %s of %u bytes is above the limit of %zu", what, b.len,
			max);
		return false;
	}
	if (!printable(b)) {
		resp_error(rq->out, "ERR %s cannot contain spaces, newlines or special characters.",
			what);
		return false;
	}
	if (b.len > 0)
		memcpy(to, b.p, b.len);
	to[b.len] = '\0';
	*ret_bytes = (uint8_t)b.len;
	return true;
}

static bool set_name(struct request *rq, struct bytes name)
{
	return take_label(rq, name, "Client names", rq->conn->name, &rq->conn->name_bytes,
		CLIENT_NAME_MAX_BYTES);
}

/* ---- HELLO, RESET ---- */

static void write_hello(struct request *rq)
{
	struct client_conn *conn = rq->conn;
	resp_map(rq->out, conn->resp3, 7);
	resp_bulk_str(rq->out, "server");
	resp_bulk_str(rq->out, "locker");
	resp_bulk_str(rq->out, "version");
	resp_bulk_str(rq->out, REDIS_VERSION);
	resp_bulk_str(rq->out, "proto");
	resp_int(rq->out, conn->resp3 ? 3 : 2);
	resp_bulk_str(rq->out, "id");
	resp_int(rq->out, (int64_t)conn->link->serial);
	resp_bulk_str(rq->out, "mode");
	resp_bulk_str(rq->out, "standalone");
	resp_bulk_str(rq->out, "role");
	resp_bulk_str(rq->out, "master");
	resp_bulk_str(rq->out, "modules");
	resp_array(rq->out, 0);
}

/* RESP2 has no pushes. False: when earlier commands are done. */
static bool end_pushes(struct request *rq)
{
	struct client_conn *conn = rq->conn;
	if (conn->observers + conn->lines > 0 && conn->unfinished > 0)
		return false;
	observers_stop(rq->s, conn);
	async_cancel_all(rq->s, conn);
	return true;
}

enum run hello_command(struct request *rq)
{
	int64_t version = rq->conn->resp3 ? 3 : 2;
	if (rq->argc >= 2 && !arg_int(rq->argv[1], &version)) {
		resp_error(rq->out, "ERR Protocol version is not an integer or out of range");
		return RUN_DONE;
	}
	if (version != 2 && version != 3) {
		resp_error(rq->out, "NOPROTO unsupported protocol version");
		return RUN_DONE;
	}
	const struct bytes *name = NULL;
	for (unsigned i = 2; i < rq->argc; i++) {
		if (arg_is(rq->argv[i], "AUTH") && i + 2 < rq->argc)
			return auth_command(rq);
		if (!arg_is(rq->argv[i], "SETNAME") || i + 1 == rq->argc) {
			resp_error(rq->out, "ERR Syntax error in HELLO option '%.*s'",
				(int)(rq->argv[i].len < 128 ? rq->argv[i].len : 128),
				(const char *)rq->argv[i].p);
			return RUN_DONE;
		}
		name = &rq->argv[++i];
	}
	if (name != NULL && !set_name(rq, *name))
		return RUN_DONE;
	if (version == 2 && !end_pushes(rq))
		return RUN_WAIT;
	rq->conn->resp3 = version == 3;
	write_hello(rq);
	return RUN_DONE;
}

enum run reset_command(struct request *rq)
{
	if (!end_pushes(rq))
		return RUN_WAIT;
	rq->conn->resp3 = false;
	rq->conn->name_bytes = 0;
	rq->conn->name[0] = '\0';
	resp_simple(rq->out, "RESET");
	return RUN_DONE;
}

/* ---- CLIENT ---- */

static enum run client_id(struct request *rq)
{
	resp_int(rq->out, (int64_t)rq->conn->link->serial);
	return RUN_DONE;
}

static enum run client_getname(struct request *rq)
{
	if (rq->conn->name_bytes > 0)
		resp_bulk(rq->out, bytes_of(rq->conn->name, rq->conn->name_bytes));
	else
		resp_null(rq->out, rq->conn->resp3);
	return RUN_DONE;
}

static enum run client_setname(struct request *rq)
{
	return set_name(rq, rq->argv[2]) ? reply_ok(rq) : RUN_DONE;
}

static enum run client_setinfo(struct request *rq)
{
	struct client_conn *conn = rq->conn;
	bool ok;
	if (arg_is(rq->argv[2], "LIB-NAME")) {
		ok = take_label(rq, rq->argv[3], "lib-name", conn->lib_name, &conn->lib_name_bytes,
			LIB_MAX_BYTES);
	} else if (arg_is(rq->argv[2], "LIB-VER")) {
		ok = take_label(rq, rq->argv[3], "lib-ver", conn->lib_ver, &conn->lib_ver_bytes,
			LIB_MAX_BYTES);
	} else {
		resp_error(rq->out, "ERR Unrecognized option '%.*s'",
			(int)(rq->argv[2].len < 128 ? rq->argv[2].len : 128),
			(const char *)rq->argv[2].p);
		return RUN_DONE;
	}
	return ok ? reply_ok(rq) : RUN_DONE;
}

static enum run client_info(struct request *rq)
{
	struct buf *text = &rq->c->answer;
	text->len = 0;
	client_describe(rq->s, rq->conn, text);
	resp_verbatim(rq->out, rq->conn->resp3, bytes_of(text->data, text->len));
	return RUN_DONE;
}

/* Fan-out subcommands of CLIENT: the table's CMD_BARRIER is for whole commands only. */
static enum run ask_all(struct request *rq, struct ask *ask)
{
	return rq->conn->unfinished > 0 ? RUN_WAIT : gather_start(rq, ask);
}

static enum run client_list(struct request *rq)
{
	struct ask ask = {.question = ASK_CLIENT_LIST};
	if (rq->argc == 4 && arg_is(rq->argv[2], "TYPE") && arg_is(rq->argv[3], "NORMAL"))
		return ask_all(rq, &ask);
	return rq->argc == 2 ? ask_all(rq, &ask) : fail_syntax(rq);
}

static bool kill_addr(struct ask *ask, struct bytes addr)
{
	if (addr.len > sizeof ask->text)
		return false;
	ask->has_text = true;
	ask->text_bytes = (uint16_t)addr.len;
	if (addr.len > 0)
		memcpy(ask->text, addr.p, addr.len);
	return true;
}

static enum run client_kill(struct request *rq)
{
	struct ask ask = {
		.question = ASK_CLIENT_KILL, .skip_me = true, .asker_id = rq->conn->link->serial};
	if (rq->argc == 3) {
		ask.old_form = true;
		ask.skip_me = false;
		return kill_addr(&ask, rq->argv[2]) ? ask_all(rq, &ask) : fail_syntax(rq);
	}
	if (rq->argc % 2 != 0)
		return fail_syntax(rq);
	for (unsigned i = 2; i < rq->argc; i += 2) {
		struct bytes arg = rq->argv[i + 1];
		int64_t id;
		if (arg_is(rq->argv[i], "ID")) {
			if (!arg_int(arg, &id) || id < 1) {
				resp_error(rq->out, "ERR client-id should be greater than 0");
				return RUN_DONE;
			}
			ask.id = (uint64_t)id;
		} else if (arg_is(rq->argv[i], "ADDR")) {
			if (!kill_addr(&ask, arg))
				return fail_syntax(rq);
		} else if (arg_is(rq->argv[i], "SKIPME") &&
			   (arg_is(arg, "YES") || arg_is(arg, "NO"))) {
			ask.skip_me = arg_is(arg, "YES");
		} else {
			return fail_syntax(rq);
		}
	}
	/* SKIPME alone would close everybody. */
	return ask.id != 0 || ask.has_text ? ask_all(rq, &ask) : fail_syntax(rq);
}

static enum run client_switch(struct request *rq)
{
	if (arg_is(rq->argv[2], "ON") || arg_is(rq->argv[2], "OFF"))
		return reply_ok(rq);
	return fail_syntax(rq);
}

static enum run client_capa(struct request *rq)
{
	return reply_ok(rq);
}

static const struct {
	const char *name, *lower;
	enum run (*run)(struct request *rq);
	uint8_t min, max;
} client_subcommands[] = {
	{"ID", "id", client_id, 2, 2},
	{"GETNAME", "getname", client_getname, 2, 2},
	{"SETNAME", "setname", client_setname, 3, 3},
	{"SETINFO", "setinfo", client_setinfo, 4, 4},
	{"INFO", "info", client_info, 2, 2},
	{"LIST", "list", client_list, 2, ARGS_MAX},
	{"KILL", "kill", client_kill, 3, ARGS_MAX},
	{"NO-EVICT", "no-evict", client_switch, 3, 3},
	{"NO-TOUCH", "no-touch", client_switch, 3, 3},
	{"CAPA", "capa", client_capa, 3, ARGS_MAX},
};

enum run client_command(struct request *rq)
{
	for (size_t i = 0; i < sizeof client_subcommands / sizeof client_subcommands[0]; i++) {
		if (!arg_is(rq->argv[1], client_subcommands[i].name))
			continue;
		if (rq->argc < client_subcommands[i].min || rq->argc > client_subcommands[i].max)
			return fail_arguments(rq, client_subcommands[i].lower);
		return client_subcommands[i].run(rq);
	}
	return fail_subcommand(rq);
}

/* ---- COMMAND ---- */

static void write_lower(struct buf *b, const char *name)
{
	char lower[32];
	size_t i = 0;
	for (; name[i] != '\0' && i + 1 < sizeof lower; i++)
		lower[i] = (char)(name[i] >= 'A' && name[i] <= 'Z' ? name[i] - 'A' + 'a' : name[i]);
	resp_bulk(b, bytes_of(lower, i));
}

static void write_command(struct buf *b, const struct command *command)
{
	static const struct {
		uint8_t flag;
		const char *name;
	} names[] = {{CMD_WRITE, "write"}, {CMD_READ, "readonly"}, {CMD_ADMIN, "fast"},
		{CMD_BLOCKING, "blocking"}};
	size_t n = 0;
	for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
		n += (command->flags & names[i].flag) != 0;
	resp_array(b, 10);
	write_lower(b, command->name);
	resp_int(b, command->min == command->max ? command->min : -(int64_t)command->min);
	resp_array(b, n);
	for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
		if ((command->flags & names[i].flag) != 0)
			resp_simple(b, names[i].name);
	resp_int(b, command->key_first);
	resp_int(b, command->key_last);
	resp_int(b, command->key_first != 0);
	for (int i = 0; i < 4; i++) /* ACL categories, tips, key specifications, subcommands */
		resp_array(b, 0);
}

static enum run command_info(struct request *rq)
{
	resp_array(rq->out, rq->argc - 2);
	for (unsigned i = 2; i < rq->argc; i++) {
		const struct command *command = command_find(rq->c, rq->argv[i]);
		if (command != NULL)
			write_command(rq->out, command);
		else
			resp_null(rq->out, rq->conn->resp3);
	}
	return RUN_DONE;
}

enum run command_command(struct request *rq)
{
	if (rq->argc == 1 || (rq->argc == 2 && arg_is(rq->argv[1], "INFO"))) {
		resp_array(rq->out, commands_count);
		for (unsigned i = 0; i < commands_count; i++)
			write_command(rq->out, &commands[i]);
		return RUN_DONE;
	}
	if (arg_is(rq->argv[1], "INFO"))
		return command_info(rq);
	if (arg_is(rq->argv[1], "DOCS")) {
		resp_map(rq->out, rq->conn->resp3, 0);
		return RUN_DONE;
	}
	if (rq->argc > 2)
		return fail_syntax(rq);
	if (arg_is(rq->argv[1], "COUNT")) {
		resp_int(rq->out, commands_count);
		return RUN_DONE;
	}
	if (!arg_is(rq->argv[1], "LIST"))
		return fail_subcommand(rq);
	resp_array(rq->out, commands_count);
	for (unsigned i = 0; i < commands_count; i++)
		write_lower(rq->out, commands[i].name);
	return RUN_DONE;
}

/* ---- CONFIG ---- */

enum { SETTINGS_MAX = 16, SETTING_MAX_BYTES = 24 };

struct setting {
	const char *name;
	const char *text; /* NULL: the number */
	uint64_t number;
};

static unsigned settings(const struct shard *s, struct setting *ret)
{
	const struct engine_config *e = &s->cfg.engine;
	const struct setting all[] = {
		{"save", "", 0},
		{"appendonly", "no", 0},
		{"databases", NULL, 1},
		{"maxmemory", NULL, 0},
		{"maxmemory-policy", "noeviction", 0},
		{"timeout", NULL, 0},
		{"replica-read-only", "yes", 0},
		{"maxclients", NULL, s->cfg.max_clients},
		{"max-lease", NULL, e->max_lease_ms},
		{"attempt-time", NULL, e->attempt_ms},
		{"op-timeout", NULL, e->op_timeout_ms},
		{"slots", NULL, e->slots},
		{"threads", NULL, s->cfg.threads},
		{"cluster", s->cfg.cluster_name, 0},
	};
	_Static_assert(sizeof all / sizeof all[0] <= SETTINGS_MAX, "the caller's array");
	memcpy(ret, all, sizeof all);
	return sizeof all / sizeof all[0];
}

enum run config_command(struct request *rq)
{
	struct setting all[SETTINGS_MAX];
	bool wanted[SETTINGS_MAX] = {false};
	unsigned n = settings(rq->s, all);
	size_t hits = 0;
	if (arg_is(rq->argv[1], "SET") || arg_is(rq->argv[1], "REWRITE")) {
		resp_error(rq->out, "ERR settings change with the server's options and a restart");
		return RUN_DONE;
	}
	if (arg_is(rq->argv[1], "RESETSTAT"))
		return fail_syntax(rq);
	if (!arg_is(rq->argv[1], "GET"))
		return fail_subcommand(rq);
	if (rq->argc < 3)
		return fail_arguments(rq, "get");
	for (unsigned i = 0; i < n; i++) {
		for (unsigned k = 2; k < rq->argc; k++)
			wanted[i] |= rq->argv[k].len <= PATTERN_MAX_BYTES &&
				     glob_match(rq->argv[k], bytes_str(all[i].name), true);
		hits += wanted[i];
	}
	resp_map(rq->out, rq->conn->resp3, hits);
	for (unsigned i = 0; i < n; i++) {
		char number[SETTING_MAX_BYTES];
		if (!wanted[i])
			continue;
		(void)snprintf(number, sizeof number, "%llu", (unsigned long long)all[i].number);
		resp_bulk_str(rq->out, all[i].name);
		resp_bulk_str(rq->out, all[i].text != NULL ? all[i].text : number);
	}
	return RUN_DONE;
}

/* ---- questions to every shard ---- */

enum run info_command(struct request *rq)
{
	struct ask ask = {
		.question = ASK_INFO, .sections = info_sections(rq->argc - 1, rq->argv + 1)};
	return gather_start(rq, &ask);
}

enum run dbsize_command(struct request *rq)
{
	struct ask ask = {.question = ASK_DBSIZE};
	return gather_start(rq, &ask);
}

enum run summary_command(struct request *rq)
{
	struct ask ask = {.question = ASK_SUMMARY};
	return gather_start(rq, &ask);
}

enum run nodes_command(struct request *rq)
{
	struct ask ask = {.question = ASK_NODES};
	return gather_start(rq, &ask);
}

/* ---- SETNODES ---- */

#define SETNODES_FORM "SETNODES MASTERS id ... [REPLICAS id ...]"

/* Ids from argv[*i] up to the end or the next word of the syntax. False: @rq is answered. */
static bool take_ids(struct request *rq, unsigned *i, const char *what, uint8_t max, uint8_t *ret,
	uint8_t *ret_n)
{
	unsigned n = 0;
	for (; *i < rq->argc && !arg_is(rq->argv[*i], "REPLICAS"); ++*i, n++) {
		struct bytes arg = rq->argv[*i];
		int64_t id;
		if (!arg_int(arg, &id) || id < 1 || id > NODE_ID_MAX) {
			resp_error(rq->out,
				"ERR syntax error: '%.*s' is not the id of a node (1 to "
				"%d); " SETNODES_FORM,
				(int)(arg.len < 128 ? arg.len : 128), (const char *)arg.p,
				NODE_ID_MAX);
			return false;
		}
		if (n == max) {
			resp_error(rq->out, "ERR at most %u %s can be named", max, what);
			return false;
		}
		ret[n] = (uint8_t)id;
	}
	*ret_n = (uint8_t)n;
	return true;
}

/* Who may be what is the control thread's to judge; here only the words are. */
enum run setnodes_command(struct request *rq)
{
	struct mail_setnodes wanted = {0};
	unsigned i = 2;
	if (!arg_is(rq->argv[1], "MASTERS")) {
		resp_error(rq->out, "ERR syntax error: " SETNODES_FORM);
		return RUN_DONE;
	}
	if (!take_ids(rq, &i, "masters", MASTERS_MAX, wanted.masters, &wanted.n_masters))
		return RUN_DONE;
	if (i < rq->argc) {
		i++; /* REPLICAS */
		wanted.has_replicas = true;
		if (!take_ids(
			    rq, &i, "replicas", REPLICAS_MAX, wanted.replicas, &wanted.n_replicas))
			return RUN_DONE;
	}
	if (i < rq->argc) {
		resp_error(rq->out, "ERR syntax error: REPLICAS is said twice; " SETNODES_FORM);
		return RUN_DONE;
	}
	return setnodes_start(rq, &wanted);
}
