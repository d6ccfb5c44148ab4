/* One engine of a cluster of three, driven by bytes: operations, messages of peers (true to the
 * codec, otherwise arbitrary) and reports of what they hold, links, time, status and ceilings. What
 * it sends must encode, every operation must get exactly one answer, and its structures must stay
 * whole. */
#include "core/engine.h"

#include <sys/mman.h>

#include "base/check.h"
#include "base/hash.h"
#include "wire/sync.h"

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define FUZZ_ASAN
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(FUZZ_ASAN)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_UNPOISON_MEMORY_REGION(p, bytes) ((void)(p), (void)(bytes))
#endif

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { EVENTS_MAX = 400, SENT_MAX = 16, KEYS = 4, VALUES = 4, SETTLE_STEPS = 64 };

#define MS UINT64_C(1000000)

struct sent {
	uint8_t type, flags;
	uint64_t req;
	struct ballot uid;
	uint16_t slot;
};

struct drive {
	const uint8_t *p;
	size_t left;
	struct engine *engine;
	uint16_t slots;
	struct engine_time time;
	struct effects fx;
	uint64_t next_tag, token;
	uint64_t epoch;
	bool waits[EVENTS_MAX + 1];    /* by tag: an answer is due */
	bool can_end[EVENTS_MAX + 1];  /* by tag: EV_CANCEL ends it */
	bool observes[EVENTS_MAX + 1]; /* by tag: one answer is not the last */
	struct sent sent[SENT_MAX];
	unsigned n_sent;
	struct buf buf, body;
	uint8_t copy[VALUE_MAX_BYTES];
};

static uint8_t value_max[VALUE_MAX_BYTES];
static uint8_t key_max[KEY_MAX_BYTES];

static const uint32_t config_lease_ms = 60000;

static uint8_t take(struct drive *d)
{
	if (d->left == 0)
		return 0;
	d->left--;
	return *d->p++;
}

static struct bytes pick_key(struct drive *d)
{
	switch (take(d) % KEYS) {
	case 0:
		return bytes_str("a");
	case 1:
		return bytes_str("b");
	case 2:
		return bytes_of(key_max, sizeof key_max);
	default:
		return bytes_of(PROBE_PREFIX "x", PROBE_PREFIX_BYTES + 1);
	}
}

static struct bytes pick_value(struct drive *d)
{
	switch (take(d) % VALUES) {
	case 0:
		return (struct bytes){0};
	case 1:
		return bytes_str("x");
	case 2:
		return bytes_str("y");
	default:
		return bytes_of(value_max, sizeof value_max);
	}
}

static uint64_t pick_n(struct drive *d)
{
	uint8_t b = take(d);
	switch (b % 8) {
	case 0:
		return 0;
	case 1:
		return 1;
	case 2:
		return d->token;
	case 3:
		return engine_hlc(d->engine) + b;
	case 4:
		return BALLOT_MAX;
	default:
		return d->n_sent == 0 ? b : d->sent[b % SENT_MAX].uid.n;
	}
}

static struct ballot pick_uid(struct drive *d)
{
	uint64_t n = pick_n(d);
	return (struct ballot){n == 0 ? 7 : n, take(d) % 2 == 0 ? 0x1001 : 0x1002};
}

static void note_sent(struct drive *d, const struct msg *m)
{
	d->buf.len = 0;
	CHECK(msg_encode(&d->buf, m) == 0);
	d->sent[d->n_sent++ % SENT_MAX] = (struct sent){m->type, m->flags, m->req, m->uid, m->slot};
}

static void step(struct drive *d, const struct event *ev)
{
	engine_step(d->engine, &d->time, ev, &d->fx);
	CHECK(d->fx.n <= EFFECTS_MAX);
	for (unsigned i = 0; i < d->fx.n; i++) {
		const struct effect *f = &d->fx.v[i];
		if (f->type == FX_SEND) {
			CHECK(f->send.to_count >= 1 && f->send.to_count <= 3);
			note_sent(d, &f->send.msg);
		} else if (f->type == FX_REPLY) {
			const struct result *r = &f->reply;
			CHECK(r->tag < d->next_tag && d->waits[r->tag]);
			d->waits[r->tag] = d->observes[r->tag] && r->outcome == OUT_OK;
			CHECK(r->outcome <= OUT_LIMIT && r->token <= BALLOT_MAX);
			CHECK((r->outcome == OUT_LIMIT) == (r->limit != NULL));
			if (r->outcome == OUT_OK && r->token != 0)
				d->token = r->token;
			CHECK(r->value.len <= VALUE_MAX_BYTES);
			if (r->value.len > 0) /* the view must be readable */
				memcpy(d->copy, r->value.p, r->value.len);
		}
	}
}

static void give_op(struct drive *d)
{
	static const uint32_t ttls_ms[] = {1, 5, 3000, config_lease_ms};
	static const uint64_t waits_ms[] = {0, 10, 5000, 86400000};
	uint8_t b = take(d), flags = take(d);
	struct op_request r = {.kind = (enum op_kind)(b % (OP_LAG + 1)), .tag = d->next_tag++};
	if (r.kind == OP_WAITFOR && (flags & 2) != 0)
		r.kind = OP_OBSERVE;
	r.key = r.kind == OP_LAG ? bytes_of(PROBE_PREFIX "1", PROBE_PREFIX_BYTES + 1) : pick_key(d);
	r.hash = hash_bytes(r.key);
	if (r.kind <= OP_RELEASE || r.kind == OP_LAG)
		r.value = pick_value(d);
	if (r.kind == OP_UPDATE)
		r.new_value = pick_value(d);
	r.client = bytes_of(value_max, (size_t)(flags & 0x7f));
	r.ttl_ms = ttls_ms[flags % 4];
	r.has_ttl = r.kind == OP_LOCK || r.kind == OP_EXTEND || (flags & 4) != 0;
	r.has_token = r.kind != OP_LOCK && (flags & 8) != 0;
	if (r.has_token) {
		r.token = pick_n(d);
		r.token += r.token == 0;
		if (r.token > BALLOT_MAX)
			r.token = BALLOT_MAX;
	}
	r.any_value = r.kind == OP_RELEASE && r.has_token && (flags & 16) != 0;
	r.wait = r.kind == OP_LOCK && (flags & 16) != 0;
	r.idempotent = r.kind == OP_LOCK && (flags & 32) != 0;
	if (r.wait || r.kind == OP_WAITFOR || r.kind == OP_WAITRELEASE)
		r.wait_ms = waits_ms[b / 16 % 4];
	r.asked_fast_ns = d->time.fast_ns;
	d->waits[r.tag] = true;
	d->observes[r.tag] = r.kind == OP_OBSERVE;
	d->can_end[r.tag] =
		r.wait || r.kind == OP_WAITFOR || r.kind == OP_WAITRELEASE || d->observes[r.tag];
	struct event ev = {.type = EV_OP, .op = r};
	step(d, &ev);
}

/* A message as a peer may send it. */
static struct msg make_msg(struct drive *d, uint8_t type)
{
	struct msg m = {.type = type, .key = pick_key(d), .uid = pick_uid(d), .req = 1 + take(d)};
	uint8_t flags = take(d);
	m.slot = engine_slot_of(hash_bytes(m.key), d->slots);
	m.node = 2 + flags % 2;
	m.lease_ms = type == MSG_TRYLOCK || type == MSG_EXTEND ? 1 + flags * UINT32_C(300) : 0;
	if (type == MSG_TRYLOCK || type == MSG_EXTEND || type == MSG_ACCEPT) {
		m.flags = MSG_HAS_VALUE;
		m.value = pick_value(d);
	}
	if (type == MSG_TRYLOCK && flags & 1) {
		m.prev = pick_uid(d);
		m.flags |= flags & 2 ? MSG_PREV_RELEASED : 0;
	}
	if (type == MSG_PREPARE || type == MSG_ACCEPT || (type == MSG_RELEASE && flags & 1))
		m.b = (struct version){pick_uid(d).n, flags & 4 ? 0x1002 : 0x1001, flags >> 4};
	if (type == MSG_ACCEPT && flags & 8)
		m.remaining_ns = UINT64_C(500) * flags * MS;
	if (type == MSG_EXTEND && flags & 1)
		m.uid = (struct ballot){0};
	if (type == MSG_READ || type == MSG_EXTEND || (type == MSG_STAND && flags & 7))
		m.n = pick_n(d);
	if (type == MSG_STAND)
		m.remaining_ns = UINT64_C(50) * flags * MS;
	if (type == MSG_SYNC) {
		m.flags |= flags & 1 ? MSG_ONE_KEY : 0;
		m.cursor = flags & 2 ? hash_bytes(m.key) : flags & 4 ? pick_n(d) : 0;
		m.key = flags & 3 ? m.key : (struct bytes){0};
	}
	return m;
}

/* What a peer may hold of a key. */
static struct sync_entry make_entry(struct drive *d)
{
	uint8_t flags = take(d);
	struct sync_entry s = {.key = pick_key(d),
		.flags = flags & SYNC_FLAGS_ALL & ~SYNC_GONE,
		.maxn = pick_n(d) & BALLOT_MAX,
		.remaining_ns = UINT64_C(500) * (1U + (flags >> 4)) * MS};
	if (flags & SYNC_SHADOW) {
		s.flags = SYNC_SHADOW;
		return s;
	}
	s.uid = pick_uid(d);
	s.uid.n &= BALLOT_MAX;
	s.maxn = s.maxn > s.uid.n ? s.maxn : s.uid.n;
	s.vb = s.pb = (struct version){s.uid.n, s.uid.cid, 0};
	if (s.flags & SYNC_WRITTEN) {
		s.vb.seq = flags >> 5;
		s.pb.seq = 1 + s.vb.seq;
		s.op_id = take(d);
	}
	s.value = pick_value(d);
	s.name = bytes_str("n");
	s.node = 2;
	return s;
}

/* The answer to one of the questions for what peers hold. */
static struct msg make_report(struct drive *d)
{
	const struct sent *s = &d->sent[take(d) % SENT_MAX];
	uint8_t flags = take(d);
	struct msg m = {.type = MSG_REPLY,
		.req_type = MSG_SYNC,
		.verdict = flags % 16 == 0 ? VERDICT_RESYNC : VERDICT_SYNC,
		.req = s->req,
		.slot = s->slot,
		.flags = s->flags & MSG_ONE_KEY,
		.cursor = flags & 16 ? hash_bytes(pick_key(d)) : 0,
		.n = pick_n(d) & BALLOT_MAX};
	d->body.len = 0;
	for (unsigned i = flags >> 6; i > 0 && m.verdict == VERDICT_SYNC; i--) {
		struct sync_entry e = make_entry(d);
		if (sync_entry_encode(&d->body, &e) != 0)
			break;
	}
	m.value = bytes_of(d->body.data, d->body.len);
	m.flags |= m.value.len > 0 ? MSG_HAS_VALUE : 0;
	return m;
}

static struct msg make_reply(struct drive *d)
{
	const struct sent *s = &d->sent[take(d) % SENT_MAX];
	uint8_t flags = take(d);
	struct msg m = {.type = MSG_REPLY,
		.verdict = 1 + take(d) % VERDICT_MAX,
		.req = s->req,
		.slot = s->slot,
		.flags = flags & MSG_FLAGS_ALL & (uint8_t)~MSG_HAS_VALUE};
	bool answered = s->type != 0 && s->type < MSG_REPLY && s->type != MSG_CONFIRM &&
			s->type != MSG_QUERY;
	m.req_type = answered || s->type == MSG_STAND ? s->type : MSG_TRYLOCK;
	m.uid = flags & 32 ? s->uid : pick_uid(d);
	m.node = 1 + flags % 3;
	if (flags & 64)
		m.b = (struct version){pick_uid(d).n, 0x1002, flags % 4};
	m.n = pick_n(d);
	m.remaining_ns = (flags & 3) * MS * 1000;
	if (flags & 128) {
		m.flags |= MSG_HAS_VALUE;
		m.value = pick_value(d);
		m.name = bytes_str("n");
	}
	return m;
}

static void give_msg(struct drive *d)
{
	uint8_t b = take(d);
	bool report = (b & 7) == 7;
	struct msg m = report      ? make_report(d)
		       : b & 1     ? make_reply(d)
		       : b >= 0xf0 ? make_msg(d, b & 2 ? MSG_TURN : MSG_STAND)
				   : make_msg(d, 1 + (b >> 1) % (MSG_REPLY - 1));
	if ((m.uid.n | m.prev.n | m.b.n | m.n) > BALLOT_MAX)
		return;
	d->buf.len = 0;
	CHECK(msg_encode(&d->buf, &m) == 0);
	for (unsigned i = report ? 0 : b >> 6; i > 0; i--) {
		size_t at = (size_t)take(d) % d->buf.len;
		d->buf.data[at] ^= take(d);
	}
	/* The engine keeps no view of it: a copy of its very length shows that. */
	struct msg got;
	size_t used;
	uint8_t bytes[MSG_MAX_BYTES];
	memcpy(bytes, d->buf.data, d->buf.len);
	/* The shard keeps what is for the control thread (peer_message). */
	if (msg_decode(bytes, d->buf.len, &got, &used) != 0 || got.type == MSG_CONFIG)
		return;
	step(d, &(struct event){.type = EV_MSG, .msg = {2 + take(d) % 2, &got}});
}

static void pass_time(struct drive *d, uint64_t ns)
{
	d->time.slow_ns += ns;
	d->time.fast_ns += ns + ns / 1000;
	d->time.wall_us += ns / 1000;
}

/* Other masters, of nodes 1 to 4. What was the last change of them need not be true. */
static void configure(struct drive *d)
{
	uint8_t b = take(d);
	struct engine_members m = {.masters_epoch = ++d->epoch,
		.joined = (b >> 4) % 4,
		.departed = (b >> 6) + 1,
		.replica = (b & 1) == 0 && b % 3 == 0};
	for (uint8_t node = 1; node <= 4; node++) {
		if (!(b >> (node - 1) & 1) && (node != 2 || (b & 15) != 0))
			continue;
		m.masters[m.n_masters++] = node;
		m.departed = m.departed == node ? 0 : m.departed;
	}
	step(d, &(struct event){.type = EV_CONFIG, .members = m});
	if (b % 5 == 0)
		step(d, &(struct event){.type = EV_SETTLED});
}

static void tick(struct drive *d)
{
	for (unsigned i = 0; i < 1000; i++) {
		step(d, &(struct event){.type = EV_TICK});
		if (engine_wait_ns(d->engine, &d->time) > 0)
			return;
	}
	CHECK(!"the engine never rests");
}

static void give_event(struct drive *d)
{
	static const uint64_t passes_ns[] = {
		0, 1000, MS, 20 * MS, 200 * MS, 1000 * MS, 2500 * MS, 70000 * MS};
	static const enum node_status statuses[] = {NODE_ACTIVE, NODE_RESYNC, NODE_QUARANTINE};
	uint8_t b = take(d);
	switch (b % 16) {
	case 0:
	case 1:
	case 2:
	case 3:
	case 4:
		give_op(d);
		break;
	case 5:
	case 6:
	case 7:
	case 8:
	case 9:
	case 10:
		give_msg(d);
		break;
	case 11:
	case 12:
		pass_time(d, passes_ns[b / 16 % 8]);
		tick(d);
		break;
	case 13:
		if (b >= 192)
			step(d, &(struct event){.type = EV_MISSED});
		if (b >= 224)
			configure(d);
		step(d, &(struct event){.type = EV_LINK, .link = {2 + (b >> 4) % 2, (b >> 5) % 2}});
		break;
	case 14:
		if (b & 128)
			step(d, &(struct event){.type = EV_STATUS,
					.status = {
						statuses[(b >> 4) % 3], pick_n(d) & BALLOT_MAX}});
		else
			step(d, &(struct event){
					.type = EV_CEILING, .ceiling_n = pick_n(d) & BALLOT_MAX});
		break;
	default: {
		uint64_t tag = take(d) % (d->next_tag + 1);
		if (tag < d->next_tag && d->can_end[tag])
			d->waits[tag] = false;
		step(d, &(struct event){.type = EV_CANCEL, .cancel_tag = tag});
	}
	}
}

static void start(struct drive *d, void *memory, size_t bytes, const struct engine_config *cfg,
	bool restarted)
{
	d->time = (struct engine_time){MS, MS, UINT64_C(1800000000000000)};
	d->next_tag = 1;
	ASAN_UNPOISON_MEMORY_REGION(memory, bytes);
	d->engine = engine_init(cfg, &d->time, memory, bytes);
	d->slots = cfg->slots;
	buf_init(&d->buf, 0);
	buf_init(&d->body, SYNC_BODY_MAX_BYTES);
	step(d, &(struct event){
			.type = EV_STATUS, .status = {restarted ? NODE_RESYNC : NODE_ACTIVE, 0}});
	for (uint8_t node = 2; node <= 3; node++)
		step(d, &(struct event){.type = EV_LINK, .link = {node, true}});
}

static void finish(struct drive *d)
{
	for (unsigned i = 0; i < SETTLE_STEPS; i++) {
		pass_time(d, i < 8 ? 1000 * MS : 7200000 * MS);
		tick(d);
	}
	for (uint64_t tag = 1; tag < d->next_tag; tag++) {
		CHECK(d->waits[tag] <= d->observes[tag]);
		if (d->waits[tag])
			step(d, &(struct event){.type = EV_CANCEL, .cancel_tag = tag});
	}
	struct engine_stats s;
	engine_stats(d->engine, &s);
	CHECK(s.leases == 0 && s.promises == 0 && s.waiters == 0 && s.observers == 0 && s.ops == 0);
	engine_validate(d->engine);
	buf_fini(&d->buf);
	buf_fini(&d->body);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct engine_config cfg = {.self = 1,
		.n_masters = 3,
		.masters = {1, 2, 3},
		.slots = 16,
		.threads = 1,
		.max_lease_ms = config_lease_ms,
		.attempt_ms = 1000,
		.drift_ppm = 1000,
		.op_timeout_ms = 2000,
		.max_leases = 64,
		.max_ops = 32,
		.max_waiters_per_key = 8,
		.cid = 0x1001,
		.seed = 1,
		.ceiling_n = BALLOT_MAX};
	struct drive d = {.p = data, .left = size};
	uint8_t how = take(&d);
	if (how & 1)
		cfg.ceiling_n = 1; /* with a state file: the first ballots must wait for it */
	if (how & 2)
		cfg.slots = 1; /* reports of any key are to the point */
	memset(key_max, 'k', sizeof key_max);
	memset(value_max, 'v', sizeof value_max);
	size_t bytes = engine_memory_bytes(&cfg);
	void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	CHECK(memory != MAP_FAILED);
	start(&d, memory, bytes, &cfg, how & 4);
	for (unsigned i = 0; i < EVENTS_MAX && d.left > 0 && d.next_tag < EVENTS_MAX; i++) {
		give_event(&d);
		if (i % 16 == 0)
			engine_validate(d.engine);
	}
	finish(&d);
	ASAN_UNPOISON_MEMORY_REGION(memory, bytes);
	munmap(memory, bytes);
	return 0;
}
