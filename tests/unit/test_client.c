/* The RESP side of a shard on an engine that is scripted here, connections in memory and real
 * mailboxes between two threads' worth of shards. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/hash.h"
#include "shard/client.h"

enum { LINKS = 4, OPS = 20000, THREADS = 2 };

struct wire {
	struct link link;
	struct buf in;
	struct shard *s;
	bool open, close_wanted, flushed;
};

/* An operation that reached the engine and is not answered yet. */
struct pending {
	struct shard *s;
	struct op_request op;
	char key[KEY_MAX_BYTES + 1];
	bool used;
};

static struct world {
	struct env env;
	struct mailbox_mesh *mesh;
	struct shard sh[THREADS];
	struct wire wires[LINKS];
	struct pending *ops;
	unsigned n_ops;     /* ever started */
	unsigned cancelled;
	uint64_t cancel_tag;
	bool defer;         /* leave operations unanswered */
	struct result next; /* the answer otherwise */
	struct engine_stats stats[THREADS];
} w;

/* ---- the engine, peers and shard.c ---- */

void shard_step(struct shard *s, const struct event *ev)
{
	if (ev->type == EV_CANCEL) {
		w.cancelled++;
		w.cancel_tag = ev->cancel_tag;
		return;
	}
	assert_int_equal(ev->type, EV_OP);
	assert_true(w.n_ops < OPS);
	assert_true(ev->op.hash == hash_bytes(ev->op.key));
	assert_int_equal(shard_of_hash(s, ev->op.hash), s->cfg.index);
	struct pending *p = &w.ops[w.n_ops++];
	*p = (struct pending){.s = s, .op = ev->op, .used = true};
	memcpy(p->key, ev->op.key.p, ev->op.key.len);
	if (w.defer)
		return;
	struct result r = w.next;
	r.tag = ev->op.tag;
	r.kind = ev->op.kind;
	p->used = false;
	client_result(s, &r);
}

void engine_stats(const struct engine *e, struct engine_stats *ret)
{
	*ret = w.stats[e == (const void *)&w.sh[0] ? 0 : 1];
}

/* Each shard has 5 keys, two at a time; the cursor is the index of the next one. */
uint64_t engine_scan(const struct engine *e, const struct engine_time *now, uint64_t cursor,
	unsigned count, void (*each)(void *arg, const struct scan_item *item), void *arg)
{
	(void)now;
	(void)count;
	for (unsigned i = 0; i < 2 && cursor < 5; i++, cursor++) {
		char key[8];
		snprintf(key, sizeof key, "k%d%u", e == (const void *)&w.sh[0] ? 0 : 1,
			(unsigned)cursor);
		struct scan_item item = {.key = bytes_str(key)};
		each(arg, &item);
	}
	return cursor < 5 ? cursor : 0;
}

void peers_info(const struct shard *s, uint8_t node, struct peer_info *ret)
{
	*ret = (struct peer_info){.linked = node == 2 && s->cfg.index == 1,
		.status = NODE_ACTIVE,
		.links = node == 2 ? 1 : 0,
		.heard_ago_ns = 7000000};
}

/* ---- the world ---- */

static void feed(struct wire *x)
{
	if (!x->open || x->link.paused || x->in.len == 0)
		return;
	/* An exact copy, so that reading behind the end is seen. */
	size_t len = x->in.len;
	uint8_t *data = malloc(len);
	assert_non_null(data);
	memcpy(data, x->in.data, len);
	ssize_t used = client_data(x->s, &x->link, data, len);
	assert_true(used >= 0 && (size_t)used <= len);
	memcpy(x->in.data, data, len);
	free(data);
	buf_drop_front(&x->in, (size_t)used);
}

static void op_dirty(struct env *env, struct link *link)
{
	assert_ptr_equal(env, &w.env);
	link->dirty = true;
}

static void op_close(struct env *env, struct link *link, bool flush)
{
	(void)env;
	struct wire *x = container_of(link, struct wire, link);
	x->close_wanted = true;
	x->flushed = flush;
}

static void op_resume(struct env *env, struct link *link)
{
	(void)env;
	link->paused = false;
	feed(container_of(link, struct wire, link));
}

static void op_wake(struct env *env, unsigned thread)
{
	(void)env;
	(void)thread;
}

static const struct env_ops ops = {
	.dirty = op_dirty, .close = op_close, .resume = op_resume, .wake = op_wake};

static void wake(void *arg, unsigned thread)
{
	(void)arg;
	(void)thread;
}

static void hang_up(struct wire *x)
{
	x->open = false;
	client_close(x->s, &x->link);
	assert_null(x->link.user);
}

static void deliver(struct shard *s)
{
	const void *body;
	unsigned from;
	uint16_t type;
	size_t bytes;
	mailbox_collect(s->mail);
	while ((body = mailbox_next(s->mail, &from, &type, &bytes)) != NULL) {
		if (type == MAIL_GATHER || type == MAIL_GATHERED)
			gather_mail(s, from, type, body, bytes);
		else
			client_mail(s, from, type, body, bytes);
	}
}

static void turn(void)
{
	for (unsigned i = 0; i < THREADS; i++) {
		deliver(&w.sh[i]);
		clients_work(&w.sh[i]);
		mailbox_publish(w.sh[i].mail, wake, NULL);
	}
	for (unsigned i = 0; i < LINKS; i++)
		if (w.wires[i].open && w.wires[i].close_wanted)
			hang_up(&w.wires[i]);
}

static void turns(unsigned n)
{
	while (n-- > 0)
		turn();
}

static void pass_ms(uint64_t ms)
{
	for (unsigned i = 0; i < THREADS; i++)
		w.sh[i].now.mclk += ms * 1000000;
}

static struct wire *dial(unsigned thread)
{
	unsigned i = 0;
	while (w.wires[i].link.serial != 0)
		assert_true(++i < LINKS);
	struct wire *x = &w.wires[i];
	x->s = &w.sh[thread];
	x->link.serial = 100 + i;
	snprintf(x->link.addr, sizeof x->link.addr, "127.0.0.1:%u", 50000 + i);
	buf_init(&x->link.out, 0);
	buf_init(&x->in, 0);
	x->open = true;
	assert_int_equal(client_open(x->s, &x->link), 0);
	return x;
}

static void send_bytes(struct wire *x, const char *p, size_t n)
{
	assert_int_equal(buf_append(&x->in, p, n), 0);
	feed(x);
}

static void type_line(struct wire *x, const char *text)
{
	send_bytes(x, text, strlen(text));
}

/* Words between blanks as a request; not fed yet. '@' stands for an empty word. */
static void queue(struct wire *x, const char *text)
{
	char copy[1024];
	struct bytes argv[ARGS_MAX];
	size_t argc = 0;
	char *save = NULL;
	assert_true(strlen(text) < sizeof copy);
	memcpy(copy, text, strlen(text) + 1);
	for (char *word = strtok_r(copy, " ", &save); word != NULL; word = strtok_r(NULL, " ", &save))
		argv[argc++] = bytes_str(strcmp(word, "@") == 0 ? "" : word);
	assert_int_equal(resp_command(&x->in, argc, argv), 0);
}

static void say(struct wire *x, const char *text)
{
	queue(x, text);
	feed(x);
}

static void expect(struct wire *x, const char *text)
{
	struct buf *out = &x->link.out;
	assert_int_equal(buf_append(out, "", 1), 0);
	assert_string_equal((char *)out->data, text);
	out->len = 0;
}

static void expect_start(struct wire *x, const char *text)
{
	struct buf *out = &x->link.out;
	assert_int_equal(buf_append(out, "", 1), 0);
	if (strncmp((char *)out->data, text, strlen(text)) != 0)
		fail_msg("got %s instead of %s", (char *)out->data, text);
	out->len = 0;
}

static void expect_has(struct wire *x, const char *text)
{
	struct buf *out = &x->link.out;
	assert_int_equal(buf_append(out, "", 1), 0);
	out->len--;
	if (strstr((char *)out->data, text) == NULL)
		fail_msg("no %s in %s", text, (char *)out->data);
}

static void forget(struct wire *x)
{
	x->link.out.len = 0;
}

static struct pending *op_on(const char *key)
{
	for (unsigned i = w.n_ops; i-- > 0;)
		if (w.ops[i].used && strcmp(w.ops[i].key, key) == 0)
			return &w.ops[i];
	return NULL;
}

static void complete(const char *key, struct result r)
{
	struct pending *p = op_on(key);
	assert_non_null(p);
	r.tag = p->op.tag;
	r.kind = p->op.kind;
	p->used = false;
	client_result(p->s, &r);
}

/* A key with this prefix that belongs to @thread. */
static const char *key_of(unsigned thread, const char *prefix)
{
	static char keys[8][32];
	static unsigned at;
	char *key = keys[at++ % 8];
	for (unsigned i = 0;; i++) {
		snprintf(key, sizeof keys[0], "%s%u", prefix, i);
		if (shard_of_hash(&w.sh[0], hash_bytes(bytes_str(key))) == thread)
			return key;
	}
}

static const char *with(const char *format, const char *key)
{
	static char text[8][256];
	static unsigned at;
	char *to = text[at++ % 8];
	const char *mark = strchr(format, '$');
	snprintf(to, sizeof text[0], "%.*s%s%s", (int)(mark - format), format, key, mark + 1);
	return to;
}

static const struct result granted = {.outcome = OUT_OK, .token = 77, .valid_ms = 990, .quorum = 2,
	.votes = 3, .commits = 2, .masters = 3};

static int setup(void **state)
{
	(void)state;
	memset(&w, 0, sizeof w);
	w.env.ops = &ops;
	w.ops = calloc(OPS, sizeof *w.ops);
	w.mesh = mailbox_mesh_new(THREADS + 1, 4 * MAIL_MAX_BYTES);
	w.next = granted;
	for (unsigned i = 0; i < THREADS; i++) {
		struct shard *s = &w.sh[i];
		s->cfg = (struct shard_config){
			.engine = {.self = 1, .n_masters = 3, .masters = {1, 2, 3}, .slots = 64,
				.threads = THREADS, .shard = (uint16_t)i, .max_lease_ms = 60000,
				.max_ops = 20000},
			.index = i, .threads = THREADS, .epoch = 5, .max_clients = 3,
			.input_max_bytes = 64 * 1024, .output_max_bytes = 8 << 20,
			.output_soft_bytes = 1 << 20, .version = "0.1", .cluster_name = "test",
			.client_addr = "127.0.0.1:7401", .peer_addr = "127.0.0.1:7501",
			.master_addrs = {"127.0.0.1:7501", "127.0.0.1:7502", "127.0.0.1:7503"}};
		s->env = &w.env;
		s->mail = mailbox_of(w.mesh, i);
		s->engine = (struct engine *)s;
		s->status.status = NODE_ACTIVE;
		s->now = (struct clocks){.mclk = 1000000000000, .fast = 5000, .wall_us = 1700000000123456};
		s->started_mclk = s->now.mclk;
		s->clients = clients_new(s);
		w.stats[i] = (struct engine_stats){.status = NODE_ACTIVE, .leases = 10 + i};
	}
	return w.ops == NULL || w.mesh == NULL;
}

static int teardown(void **state)
{
	(void)state;
	for (unsigned i = 0; i < LINKS; i++) {
		struct wire *x = &w.wires[i];
		if (x->open)
			hang_up(x);
		buf_fini(&x->link.out);
		buf_fini(&x->in);
	}
	for (unsigned i = 0; i < THREADS; i++)
		clients_free(&w.sh[i]);
	mailbox_mesh_free(w.mesh);
	free(w.ops);
	return 0;
}

/* ---- order ---- */

static void test_client_replies_in_request_order(void **state)
{
	(void)state;
	struct wire *x = dial(0);
	const char *a = key_of(0, "a");
	const char *b = key_of(0, "b");
	w.defer = true;
	queue(x, with("LOCK $ v 1000", a));
	queue(x, with("SET $ v NX PX 1000", b));
	queue(x, "PING");
	queue(x, "NOSUCH x");
	feed(x);
	assert_int_equal(w.n_ops, 2);
	complete(b, granted);
	expect(x, "");
	complete(a, granted);
	expect(x, "*10\r\n$5\r\ntoken\r\n:77\r\n$8\r\nvalid-ms\r\n:990\r\n$6\r\nquorum\r\n:2\r\n"
		  "$5\r\nvotes\r\n:3\r\n$7\r\ncommits\r\n:2\r\n+OK\r\n+PONG\r\n"
		  "-ERR unknown command 'NOSUCH', with args beginning with: 'x' \r\n");
	say(x, "PING");
	expect(x, "+PONG\r\n");
}

static void test_client_same_key_waits_for_the_first(void **state)
{
	(void)state;
	struct wire *x = dial(0);
	const char *a = key_of(0, "a");
	const char *b = key_of(0, "b");
	w.defer = true;
	queue(x, with("SET $ v NX PX 1000", b));
	queue(x, with("SET $ v NX PX 1000", a));
	queue(x, with("DELIFEQ $ v", a));
	queue(x, with("GET $", b));
	feed(x);
	assert_int_equal(w.n_ops, 2);
	assert_true(x->link.paused);
	turn();
	assert_int_equal(w.n_ops, 2);
	complete(a, granted);
	assert_int_equal(w.n_ops, 2); /* not from inside a result */
	assert_true(clients_wait_ns(x->s) == 0);
	turn();
	assert_int_equal(w.n_ops, 3);
	assert_int_equal(op_on(a)->op.kind, OP_RELEASE);
	complete(a, granted);
	complete(b, granted);
	turn();
	complete(b, (struct result){.outcome = OUT_OK, .value = bytes_str("v")});
	expect(x, "+OK\r\n+OK\r\n:1\r\n$1\r\nv\r\n");
}

static void test_client_key_of_other_thread(void **state)
{
	(void)state;
	struct wire *x = dial(0);
	const char *key = key_of(1, "far");
	say(x, "CLIENT SETNAME me");
	forget(x);
	w.sh[1].now.fast = 900000;
	w.next.value = bytes_str("value");
	w.next.client = bytes_str("cli");
	queue(x, with("LOCK $ value 1000 WAIT 50 IDEMPOTENT", key));
	queue(x, with("UPDATE $ value new TOKEN 9", key_of(1, "other")));
	queue(x, with("GET $", key_of(1, "third")));
	feed(x);
	assert_int_equal(w.n_ops, 0);
	turns(2);
	assert_int_equal(w.n_ops, 3);
	const struct op_request *op = &w.ops[0].op;
	assert_ptr_equal(w.ops[0].s, &w.sh[1]);
	assert_true(op->wait && op->idempotent && op->wait_ms == 50 && op->ttl_ms == 1000);
	assert_int_equal(op->asked_fast_ns, 900000);
	assert_int_equal(op->client.len, 2);
	assert_int_equal(w.ops[1].op.new_value.len, 3);
	assert_true(w.ops[1].op.has_token && w.ops[1].op.token == 9);
	turns(2);
	expect_has(x, "*10\r\n$5\r\ntoken\r\n:77");
	expect_has(x, ":2\r\n$5\r\nvalue\r\n");
}

static void test_client_pending_replies_are_bounded(void **state)
{
	(void)state;
	struct wire *x = dial(0);
	char text[64];
	enum { N = PENDING_MAX + 50 };
	w.defer = true;
	for (unsigned i = 0; i < N; i++) {
		snprintf(text, sizeof text, "SET %s%u v NX PX 1000", "key", i);
		queue(x, text);
	}
	queue(x, "PING");
	feed(x);
	turns(2 * N / TURN_COMMANDS_MAX);
	assert_int_equal(w.n_ops, PENDING_MAX);
	for (unsigned round = 0; round < 2; round++) {
		for (unsigned i = w.n_ops; i-- > 0;)
			if (w.ops[i].used)
				complete(w.ops[i].key, granted);
		turns(8);
	}
	assert_int_equal(w.n_ops, N);
	turns(4);
	assert_int_equal(x->link.out.len, N * 5 + 7);
}

static void test_client_in_flight_limit_is_told(void **state)
{
	(void)state;
	struct wire *x = dial(0);
	x->s->clients->calls_max = 1;
	w.defer = true;
	const char *a = key_of(0, "a");
	queue(x, with("GET $", a));
	queue(x, with("GET $", key_of(0, "b")));
	queue(x, "EXISTS a b");
	feed(x);
	complete(a, (struct result){.outcome = OUT_NULL});
	turn();
	expect_start(x, "$-1\r\n-LIMIT 1 commands in flight");
}

static void test_client_crowded_mailbox_holds_input(void **state)
{
	(void)state;
	struct wire *x = dial(0);
	char value[4001];
	memset(value, 'v', 4000);
	value[4000] = '\0';
	enum { N = 60 };
	char name[16];
	for (unsigned i = 0; i < N; i++) {
		snprintf(name, sizeof name, "%c%u-", 'a' + (int)(i % 20), i);
		const char *key = key_of(1, name);
		struct bytes argv[] = {bytes_str("SET"), bytes_str(key), bytes_str(value),
			bytes_str("NX"), bytes_str("PX"), bytes_str("1000")};
		assert_int_equal(resp_command(&x->in, 6, argv), 0);
	}
	/* Only the mailbox may stop it, not the turn's bytes. */
	while (x->in.len > 0 && !mailbox_crowded(x->s->mail, 1)) {
		feed(x);
		clients_work(x->s);
	}
	size_t left = x->in.len;
	assert_true(left > 4000);
	clients_work(x->s);
	assert_int_equal(x->in.len, left);
	assert_true(clients_wait_ns(x->s) == 0);
	turns(20);
	assert_int_equal(x->link.out.len, N * 5);
}

/* ---- words and shapes ---- */

static void test_client_argument_errors(void **state)
{
	(void)state;
	static const struct {
		const char *say, *start;
	} cases[] = {
		{"LOCK k v", "-ERR wrong number of arguments for 'lock' command\r\n"},
		{"LOCK k v 10 WAIT", "-ERR syntax error\r\n"},
		{"LOCK k v 10 WAIT x", "-ERR value is not an integer or out of range\r\n"},
		{"LOCK k v 10 WAIT -1", "-ERR value is not an integer or out of range\r\n"},
		{"LOCK k v 10 WAIT 86400001", "-LIMIT wait of 86400001 ms"},
		{"LOCK k v 10 WAIT 1 WAIT 1", "-ERR syntax error\r\n"},
		{"LOCK k v 10 IDEMPOTENT IDEMPOTENT", "-ERR syntax error\r\n"},
		{"LOCK k v 10 WAIT 1 ASYNC", "-ERR syntax error\r\n"},
		{"LOCK k v 0", "-LIMIT lease 0 ms is below 1 ms\r\n"},
		{"LOCK k v 70000", "-LIMIT lease 70000 ms is above max-lease 60000 ms\r\n"},
		{"LOCK k v 010", "-ERR value is not an integer"},
		{"LOCK k v +10", "-ERR value is not an integer"},
		{"LOCK k v 99999999999999999999", "-ERR value is not an integer"},
		{"LOCK @ v 10", "-ERR the key is empty"},
		{"UPDATE k v", "-ERR wrong number of arguments for 'update' command\r\n"},
		{"UPDATE k v w TOKEN", "-ERR syntax error\r\n"},
		{"UPDATE k v w TOKEN 0", "-ERR value is not an integer"},
		{"EXTEND k v 10 TOKEN 9007199254740992", "-ERR value is not an integer"},
		{"EXTEND k v x", "-ERR value is not an integer"},
		{"RELEASE k", "-ERR wrong number of arguments for 'release' command\r\n"},
		{"RELEASE k v TOKEN x", "-ERR value is not an integer"},
		{"RELEASE k v NOKEN 1", "-ERR syntax error\r\n"},
		{"READ k MAYBE", "-ERR syntax error\r\n"},
		{"READ k QUORUM x", "-ERR wrong number of arguments for 'read' command\r\n"},
		{"HOLDER", "-ERR wrong number of arguments for 'holder' command\r\n"},
		{"CHECK k", "-ERR wrong number of arguments for 'check' command\r\n"},
		{"CHECK k x", "-ERR value is not an integer"},
		{"WAITFOR k x", "-ERR value is not an integer"},
		{"WAITRELEASE k", "-ERR wrong number of arguments for 'waitrelease' command\r\n"},
		{"LAG x", "-ERR wrong number of arguments for 'lag' command\r\n"},
		{"SETNODES MASTERS 1", "-ERR unknown command 'SETNODES', with args beginning with: "
				       "'MASTERS' '1' \r\n"},
		{"STATS", "-ERR unknown command 'STATS'"},
		{"MULTI", "-ERR unknown command 'MULTI'"},
		{"GET", "-ERR wrong number of arguments for 'get' command\r\n"},
		{"EXISTS a @", "-ERR the key is empty"},
		{"SELECT 1", "-ERR DB index is out of range\r\n"},
		{"SELECT x", "-ERR value is not an integer"},
		{"HELLO 4", "-NOPROTO unsupported protocol version\r\n"},
		{"HELLO x", "-ERR Protocol version is not an integer"},
		{"HELLO 3 BAD", "-ERR Syntax error in HELLO option 'BAD'\r\n"},
		{"HELLO 3 AUTH u p", "-ERR AUTH <password> called without any password"},
		{"AUTH x", "-ERR AUTH <password> called without any password configured for the default "
			   "user. Are you sure your configuration is correct?\r\n"},
		{"CLIENT NOSUCH", "-ERR unknown subcommand 'NOSUCH'. Try CLIENT HELP.\r\n"},
		{"CLIENT SETNAME", "-ERR wrong number of arguments for 'client|setname' command\r\n"},
		{"CLIENT SETINFO colour red", "-ERR Unrecognized option 'colour'\r\n"},
		{"CLIENT KILL ID 0", "-ERR client-id should be greater than 0\r\n"},
		{"CLIENT KILL SKIPME yes", "-ERR syntax error\r\n"},
		{"CLIENT NO-EVICT maybe", "-ERR syntax error\r\n"},
		{"SCAN x", "-ERR invalid cursor\r\n"},
		{"SCAN -1", "-ERR invalid cursor\r\n"},
		{"SCAN 99999999999999", "-ERR invalid cursor\r\n"},
		{"SCAN 0 COUNT 0", "-ERR syntax error\r\n"},
		{"SCAN 0 COUNT x", "-ERR value is not an integer"},
		{"SCAN 0 MATCH", "-ERR syntax error\r\n"},
		{"DEL k", "-ERR DEL does not say whose lock it means"},
		{"UNLINK k", "-ERR UNLINK does not say"},
		{"EXPIRE k 1", "-ERR EXPIRE does not say whose lock"},
		{"PEXPIRE k 1", "-ERR PEXPIRE does not say whose lock"},
		{"SETNX k v", "-ERR this is a lock server"},
		{"DELEX k", "-ERR DELEX does not say whose"},
		{"DELEX k IFNE v", "-ERR DELEX does not say whose"},
		{"DELEX k IFXX v", "-ERR syntax error\r\n"},
		{"EVAL return 0", "-ERR script not recognised"},
		{"EVALSHA aa 0", "-NOSCRIPT No matching script. Please use EVAL.\r\n"},
		{"SCRIPT LOAD x", "-ERR script not recognised"},
		{"SCRIPT EXISTS a b", "*2\r\n:0\r\n:0\r\n"},
		{"CLUSTER NODES", "-ERR This instance has cluster support disabled\r\n"},
		{"READONLY", "-ERR This instance has cluster support disabled\r\n"},
		{"CONFIG SET a b", "-ERR settings change"},
	};
	struct wire *x = dial(0);
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		say(x, cases[i].say);
		expect_start(x, cases[i].start);
	}
	assert_int_equal(w.n_ops, 0);
}

static void test_client_sizes_are_limited(void **state)
{
	(void)state;
	struct wire *x = dial(0);
	char big[VALUE_MAX_BYTES + 2];
	memset(big, 'b', sizeof big);
	struct bytes argv[] = {bytes_str("LOCK"), bytes_of(big, KEY_MAX_BYTES + 1), bytes_str("v"),
		bytes_str("10")};
	resp_command(&x->in, 4, argv);
	argv[1] = bytes_str("k");
	argv[2] = bytes_of(big, VALUE_MAX_BYTES + 1);
	resp_command(&x->in, 4, argv);
	argv[1] = bytes_of(PROBE_PREFIX "x", PROBE_PREFIX_BYTES + 1);
	argv[2] = bytes_str("v");
	resp_command(&x->in, 4, argv);
	feed(x);
	expect(x, "-LIMIT key of 513 bytes is above the limit of 512\r\n"
		  "-LIMIT value of 4097 bytes is above the limit of 4096\r\n"
		  "-ERR this key's prefix is reserved for LAG; choose another key\r\n");
	const char *far = key_of(1, "far");
	argv[1] = bytes_of(big, KEY_MAX_BYTES);
	argv[2] = bytes_of(big, VALUE_MAX_BYTES);
	resp_command(&x->in, 4, argv);
	argv[1] = bytes_str(far);
	resp_command(&x->in, 4, argv);
	feed(x);
	turns(3);
	assert_int_equal(w.n_ops, 2);
}

static void test_client_set_forms(void **state)
{
	(void)state;
	static const char *const refused[] = {"SET k v", "SET k v NX", "SET k v XX PX 10",
		"SET k v PX 10", "SET k v NX GET PX 10", "SET k v IFEQ o KEEPTTL",
		"SET k v NX EXAT 10", "SET k v IFNE o PX 10"};
	static const char *const syntax[] = {"SET k v NX PX", "SET k v NX PX 1 EX 1",
		"SET k v NX NX PX 1", "SET k v NX IFEQ o PX 1", "SET k v IFEQ", "SET k v BAD",
		"SET k v NX KEEPTTL PX 1"};
	static const char *const lease[] = {"SET k v NX PX 0", "SET k v NX EX -1"};
	struct wire *x = dial(0);
	for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
		say(x, refused[i]);
		expect_start(x, "-ERR this is a lock server: SET key value NX PX ms|EX s");
	}
	for (size_t i = 0; i < sizeof syntax / sizeof syntax[0]; i++) {
		say(x, syntax[i]);
		expect(x, "-ERR syntax error\r\n");
	}
	for (size_t i = 0; i < sizeof lease / sizeof lease[0]; i++) {
		say(x, lease[i]);
		expect(x, "-ERR invalid expire time in 'set' command\r\n");
	}
	say(x, "SET k v NX EX 61");
	expect(x, "-LIMIT lease 61000 ms is above max-lease 60000 ms\r\n");
	assert_int_equal(w.n_ops, 0);
	const char *k = key_of(0, "k");
	say(x, with("set $ v ex 8 nx", k));
	assert_int_equal(w.ops[0].op.kind, OP_LOCK);
	assert_int_equal(w.ops[0].op.ttl_ms, 8000);
	say(x, with("SET $ new PX 20 IFEQ old", k));
	assert_int_equal(w.ops[1].op.kind, OP_UPDATE);
	assert_true(w.ops[1].op.has_ttl && w.ops[1].op.ttl_ms == 20);
	say(x, with("SET $ new IFEQ old", k));
	assert_false(w.ops[2].op.has_ttl);
	expect(x, "+OK\r\n+OK\r\n+OK\r\n");
	w.next = (struct result){.outcome = OUT_HELD};
	say(x, with("SET $ v NX PX 10", k));
	w.next.outcome = OUT_NOTOWNER;
	say(x, with("SET $ new IFEQ old", k));
	expect(x, "$-1\r\n$-1\r\n");
	w.next.outcome = OUT_UNKNOWN;
	say(x, with("SET $ new IFEQ old", k));
	expect_start(x, "-UNKNOWN ");
}

struct shape {
	const char *say;
	struct result r;
	const char *resp2, *resp3; /* NULL: the same */
};

static void test_client_reply_shapes(void **state)
{
	(void)state;
	struct result live = {.outcome = OUT_OK, .token = 5, .value = bytes_str("val"),
		.client = bytes_str("c"), .remaining_ns = 1000000001, .held_ns = 2999999, .node = 3};
	struct result null = {.outcome = OUT_NULL};
	struct result no = {.outcome = OUT_NOTOWNER};
	struct result lag = granted;
	lag.elapsed_ns = 1234567;
	const struct shape shapes[] = {
		{"RELEASE $ v", granted,
			"*8\r\n$5\r\ntoken\r\n:77\r\n$6\r\nquorum\r\n:2\r\n$5\r\nvotes\r\n:3\r\n"
			"$7\r\ncommits\r\n:2\r\n",
			"%4\r\n$5\r\ntoken\r\n:77\r\n$6\r\nquorum\r\n:2\r\n$5\r\nvotes\r\n:3\r\n"
			"$7\r\ncommits\r\n:2\r\n"},
		{"LOCK $ v 10", {.outcome = OUT_HELD}, "$-1\r\n", "_\r\n"},
		{"READ $", live, "$3\r\nval\r\n", NULL},
		{"READ $ QUORUM", null, "$-1\r\n", "_\r\n"},
		{"HOLDER $", live,
			"*12\r\n$5\r\nvalue\r\n$3\r\nval\r\n$5\r\ntoken\r\n:5\r\n$12\r\nremaining-ms\r\n"
			":1001\r\n$7\r\nheld-ms\r\n:2\r\n$4\r\nnode\r\n:3\r\n$6\r\nclient\r\n$1\r\nc\r\n",
			"%6\r\n$5\r\nvalue\r\n$3\r\nval\r\n$5\r\ntoken\r\n:5\r\n$12\r\nremaining-ms\r\n"
			":1001\r\n$7\r\nheld-ms\r\n:2\r\n$4\r\nnode\r\n:3\r\n$6\r\nclient\r\n$1\r\nc\r\n"},
		{"HOLDER $ QUORUM", null, "$-1\r\n", "_\r\n"},
		{"CHECK $ 5", live, ":1\r\n", NULL},
		{"CHECK $ 6", live, ":0\r\n", NULL},
		{"CHECK $ 5", null, ":0\r\n", NULL},
		{"WAITFOR $ 10", live, "$3\r\nval\r\n", NULL},
		{"WAITFOR $ 10", null, "$-1\r\n", "_\r\n"},
		{"WAITRELEASE $ 10", live, "+RELEASED\r\n", NULL},
		{"WAITRELEASE $ 10", {.outcome = OUT_NOTLOCKED}, "+NOTLOCKED\r\n", NULL},
		{"WAITRELEASE $ 10", null, "$-1\r\n", "_\r\n"},
		{"GET $", null, "$-1\r\n", "_\r\n"},
		{"TTL $", live, ":2\r\n", NULL},
		{"PTTL $", live, ":1001\r\n", NULL},
		{"TTL $", null, ":-2\r\n", NULL},
		{"PTTL $", null, ":-2\r\n", NULL},
		{"EXISTS $", live, ":1\r\n", NULL},
		{"EXISTS $", null, ":0\r\n", NULL},
		{"DELIFEQ $ v", granted, ":1\r\n", NULL},
		{"DELIFEQ $ v", no, ":0\r\n", NULL},
		{"DELEX $ IFEQ v", {.outcome = OUT_NOTFOUND}, ":0\r\n", NULL},
	};
	struct wire *x = dial(0);
	const char *key = key_of(0, "k");
	for (unsigned resp3 = 0; resp3 < 2; resp3++) {
		say(x, resp3 != 0 ? "HELLO 3" : "HELLO 2");
		forget(x);
		for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
			w.next = shapes[i].r;
			say(x, with(shapes[i].say, key));
			bool third = resp3 != 0 && shapes[i].resp3 != NULL;
			expect(x, third ? shapes[i].resp3 : shapes[i].resp2);
		}
	}
	w.next = lag;
	w.n_ops = 0;
	say(x, "LAG");
	turns(3);
	expect(x, "%4\r\n$2\r\nms\r\n,1.235\r\n$6\r\nquorum\r\n:2\r\n$5\r\nvotes\r\n:3\r\n"
		  "$7\r\ncommits\r\n:2\r\n");
	assert_memory_equal(w.ops[0].key, PROBE_PREFIX, PROBE_PREFIX_BYTES);
}

static void test_client_outcomes_are_told_apart(void **state)
{
	(void)state;
	static const struct {
		const char *say;
		struct result r;
		const char *start;
	} cases[] = {
		{"RELEASE $ v", {.outcome = OUT_NOTOWNER}, "-NOTOWNER "},
		{"EXTEND $ v 10", {.outcome = OUT_NOTFOUND}, "-NOTFOUND "},
		{"LOCK $ v 10", {.outcome = OUT_NOQUORUM, .answered = 1, .masters = 3, .quorum = 2},
			"-NOQUORUM 1 of 3 masters reachable, 2 needed; you do not hold the lock; nothing "
			"was sent"},
		{"LOCK $ v 10",
			{.outcome = OUT_NOQUORUM, .answered = 1, .masters = 3, .quorum = 2, .sent = true},
			"-NOQUORUM 1 of 3 masters answered, 2 needed; you do not hold the lock, but the "
			"key may stay blocked"},
		{"EXTEND $ v 10", {.outcome = OUT_NOQUORUM, .masters = 3, .quorum = 2},
			"-NOQUORUM 0 of 3 masters reachable, 2 needed; nothing was sent"},
		{"CHECK $ 1", {.outcome = OUT_NOQUORUM, .masters = 3, .quorum = 2},
			"-NOQUORUM 0 of 3 masters reachable, 2 needed; nothing is known"},
		{"DELIFEQ $ v", {.outcome = OUT_UNKNOWN, .answered = 1, .masters = 3, .quorum = 2},
			"-UNKNOWN 1 of 3 masters confirmed in time, 2 needed"},
		{"DELEX $ IFEQ v", {.outcome = OUT_BUSY}, "-BUSY "},
		{"GET $", {.outcome = OUT_NOTREADY}, "-NOTREADY this node has no copy"},
		{"EXISTS $", {.outcome = OUT_NOTREADY}, "-NOTREADY this node has no copy"},
		{"LOCK $ v 10", {.outcome = OUT_NOTREADY}, "-NOTREADY this node cannot serve"},
		{"LOCK $ v 10", {.outcome = OUT_LIMIT, .limit = "leases"}, "-LIMIT too many leases;"},
	};
	struct wire *x = dial(0);
	const char *key = key_of(0, "k");
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		w.next = cases[i].r;
		say(x, with(cases[i].say, key));
		expect_start(x, cases[i].start);
	}
}
