#include "client_world.h"

struct world w;

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

void engine_prefetch_index(const struct engine *e, uint64_t hash)
{
	w.prefetched++;
}

void engine_prefetch_lease(const struct engine *e, uint64_t hash)
{
	assert_true(w.prefetched > 0);
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
	w.scan_count = count;
	for (unsigned i = 0; i < 2 && cursor < 5; i++, cursor++) {
		char key[8];
		snprintf(key, sizeof key, "k%d%u", e == (const void *)&w.sh[0] ? 0 : 1,
			(unsigned)cursor);
		struct scan_item item = {.key = bytes_str(key),
			.value = bytes_str("v"),
			.client = bytes_str("c"),
			.token = 70 + cursor,
			.remaining_ns = 1000001,
			.held_ns = 2999999,
			.node = 2};
		each(arg, &item);
	}
	return cursor < 5 ? cursor : 0;
}

uint32_t engine_waiters(const struct engine *e, struct bytes key)
{
	return key.p[key.len - 1] == '4' ? (e == (const void *)&w.sh[0] ? 1 : 2) : 0;
}

void peers_info(const struct shard *s, uint8_t node, struct peer_info *ret)
{
	*ret = w.peers[s->cfg.index][node];
	if (ret->state == 0 && ret->since_ns == 0)
		ret->heard_ago_ns = ret->since_ns = UINT64_MAX;
}

/* ---- the world ---- */

void feed(struct wire *x)
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

void hang_up(struct wire *x)
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

/* What the control thread hears. */
static void deliver_control(void)
{
	const void *body;
	unsigned from;
	uint16_t type;
	size_t bytes;
	struct mailbox *m = mailbox_of(w.mesh, THREADS);
	mailbox_collect(m);
	while ((body = mailbox_next(m, &from, &type, &bytes)) != NULL) {
		assert_int_equal(type, MAIL_SETNODES);
		assert_int_equal(bytes, sizeof w.setnodes);
		memcpy(&w.setnodes, body, bytes);
		w.setnodes_from = from;
		w.n_setnodes++;
	}
}

void setnodes_done(const char *error)
{
	struct mail_setnodes_done done = {.tag = w.setnodes.tag};
	snprintf(done.error, sizeof done.error, "%s", error);
	client_setnodes_done(&w.sh[w.setnodes_from], &done);
}

void turn(void)
{
	for (unsigned i = 0; i < THREADS; i++) {
		deliver(&w.sh[i]);
		clients_work(&w.sh[i]);
		mailbox_publish(w.sh[i].mail, wake, NULL);
	}
	deliver_control();
	for (unsigned i = 0; i < LINKS; i++)
		if (w.wires[i].open && w.wires[i].close_wanted)
			hang_up(&w.wires[i]);
}

void turns(unsigned n)
{
	while (n-- > 0)
		turn();
}

void pass_ms(uint64_t ms)
{
	for (unsigned i = 0; i < THREADS; i++)
		w.sh[i].now.mclk += ms * 1000000;
}

struct wire *dial(unsigned thread)
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

void send_bytes(struct wire *x, const char *p, size_t n)
{
	assert_int_equal(buf_append(&x->in, p, n), 0);
	feed(x);
}

void type_line(struct wire *x, const char *text)
{
	send_bytes(x, text, strlen(text));
}

void queue(struct wire *x, const char *text)
{
	char copy[1024];
	struct bytes argv[ARGS_MAX];
	size_t argc = 0;
	char *save = NULL;
	assert_true(strlen(text) < sizeof copy);
	memcpy(copy, text, strlen(text) + 1);
	for (char *word = strtok_r(copy, " ", &save); word != NULL;
		word = strtok_r(NULL, " ", &save))
		argv[argc++] = bytes_str(strcmp(word, "@") == 0 ? "" : word);
	assert_int_equal(resp_command(&x->in, argc, argv), 0);
}

void say(struct wire *x, const char *text)
{
	queue(x, text);
	feed(x);
}

void expect(struct wire *x, const char *text)
{
	struct buf *out = &x->link.out;
	assert_int_equal(buf_append(out, "", 1), 0);
	assert_string_equal((char *)out->data, text);
	out->len = 0;
}

void expect_start(struct wire *x, const char *text)
{
	struct buf *out = &x->link.out;
	assert_int_equal(buf_append(out, "", 1), 0);
	if (strncmp((char *)out->data, text, strlen(text)) != 0)
		fail_msg("got %s instead of %s", (char *)out->data, text);
	out->len = 0;
}

void expect_has(struct wire *x, const char *text)
{
	struct buf *out = &x->link.out;
	assert_int_equal(buf_append(out, "", 1), 0);
	out->len--;
	if (strstr((char *)out->data, text) == NULL)
		fail_msg("no %s in %s", text, (char *)out->data);
}

void forget(struct wire *x)
{
	x->link.out.len = 0;
}

struct pending *op_on(const char *key)
{
	for (unsigned i = w.n_ops; i-- > 0;)
		if (w.ops[i].used && strcmp(w.ops[i].key, key) == 0)
			return &w.ops[i];
	return NULL;
}

void complete(const char *key, struct result r)
{
	struct pending *p = op_on(key);
	assert_non_null(p);
	r.tag = p->op.tag;
	r.kind = p->op.kind;
	p->used = false;
	client_result(p->s, &r);
}

const char *key_of(unsigned thread, const char *prefix)
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

const char *with(const char *format, const char *key)
{
	static char text[8][256];
	static unsigned at;
	char *to = text[at++ % 8];
	const char *mark = strchr(format, '$');
	snprintf(to, sizeof text[0], "%.*s%s%s", (int)(mark - format), format, key, mark + 1);
	return to;
}

const struct result granted = {.outcome = OUT_OK,
	.token = 77,
	.valid_ms = 990,
	.quorum = 2,
	.votes = 3,
	.commits = 2,
	.masters = 3};

int world_setup(void **state)
{
	(void)state;
	memset(&w, 0, sizeof w);
	w.env.ops = &ops;
	w.ops = calloc(OPS, sizeof *w.ops);
	w.mesh = mailbox_mesh_new(THREADS + 1, 4 * MAIL_MAX_BYTES);
	w.next = granted;
	w.peers[1][2] = (struct peer_info){.linked = true,
		.state = NODE_ACTIVE,
		.slots_voting = 63,
		.slots_in_sync = 62,
		.lag_ms = UINT32_MAX,
		.epoch = 5,
		.links = 1,
		.heard_ago_ns = 7000000,
		.since_ns = 9000000,
		.msgs_other_epoch = 3};
	for (unsigned i = 0; i < THREADS; i++) {
		struct shard *s = &w.sh[i];
		s->cfg = (struct shard_config){.engine = {.self = 1,
						       .n_masters = 3,
						       .masters = {1, 2, 3},
						       .slots = 64,
						       .threads = THREADS,
						       .shard = (uint16_t)i,
						       .max_lease_ms = 60000,
						       .max_ops = 20000},
			.index = i,
			.threads = THREADS,
			.members = {.epoch = 5,
				.masters_epoch = 4,
				.n_masters = 3,
				.n_replicas = 1,
				.masters = {{1, "127.0.0.1:7501"}, {2, "127.0.0.1:7502"},
					{3, "127.0.0.1:7503"}},
				.replicas = {{4, "127.0.0.1:7504"}}},
			.max_clients = 3,
			.input_max_bytes = 64 * 1024,
			.output_max_bytes = 8 << 20,
			.output_soft_bytes = 1 << 20,
			.version = "0.1",
			.cluster_name = "test",
			.client_addr = "127.0.0.1:7401",
			.peer_addr = "127.0.0.1:7501"};
		s->env = &w.env;
		s->mail = mailbox_of(w.mesh, i);
		s->engine = (struct engine *)s;
		s->status.status = NODE_ACTIVE;
		s->now = (struct clocks){
			.mclk = 1000000000000, .fast = 5000, .wall_us = 1700000000123456};
		s->started_mclk = s->state_at = s->now.mclk;
		s->clients = clients_new(s);
		w.stats[i] = (struct engine_stats){
			.status = NODE_ACTIVE, .slots = 32, .slots_voting = 32, .leases = 10 + i};
	}
	return w.ops == NULL || w.mesh == NULL;
}

int world_teardown(void **state)
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
