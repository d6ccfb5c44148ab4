/* A fixed piece of work for engines in memory, to count its instructions with callgrind: the same
 * number for the same program, whatever else the machine does (instructions.py).
 * usage: engine_bench MASTERS CYCLES; a cycle is LOCK, EXTEND, RELEASE of one key. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "base/buf.h"
#include "base/check.h"
#include "base/hash.h"
#include "core/engine.h"

enum { NODES_MAX = 3, KEY_BYTES = 16, MAIL_MAX = 64, KEYS = 4096 };

#define MS UINT64_C(1000000)

struct mail {
	uint8_t from, to;
	uint8_t bytes[MSG_MAX_BYTES];
	size_t len;
};

static struct engine *engines[NODES_MAX + 1];
static struct mail queue[MAIL_MAX];
static unsigned head, tail;
static struct engine_time now = {MS, MS, UINT64_C(1800000000000000)};
static enum outcome last;
static uint64_t answers;
static char keys[KEYS][KEY_BYTES + 1];

static void post(uint8_t from, uint8_t to, const struct msg *m)
{
	struct mail *mail = &queue[tail++ % MAIL_MAX];
	CHECK(tail - head <= MAIL_MAX);
	struct buf b = {.data = mail->bytes, .cap = sizeof mail->bytes, .max = sizeof mail->bytes};
	CHECK(msg_encode(&b, m) == 0);
	mail->from = from;
	mail->to = to;
	mail->len = b.len;
}

static void step(uint8_t id, const struct event *ev)
{
	static struct effects fx;
	engine_step(engines[id], &now, ev, &fx);
	for (unsigned i = 0; i < fx.n; i++) {
		const struct effect *f = &fx.v[i];
		if (f->type == FX_SEND) {
			for (unsigned k = 0; k < f->send.to_count; k++)
				post(id, f->send.to[k], &f->send.msg);
		} else if (f->type == FX_REPLY) {
			last = f->reply.outcome;
			answers++;
		}
	}
}

static void settle(void)
{
	while (head != tail) {
		const struct mail *mail = &queue[head++ % MAIL_MAX];
		struct msg m;
		size_t used;
		CHECK(msg_decode(mail->bytes, mail->len, &m, &used) == 0);
		step(mail->to, &(struct event){.type = EV_MSG, .msg = {mail->from, &m}});
	}
}

static void start(uint8_t id, uint8_t masters)
{
	struct engine_config cfg = {.self = id,
		.n_masters = masters,
		.masters = {1, 2, 3},
		.slots = 64,
		.threads = 1,
		.max_lease_ms = 60000,
		.attempt_ms = 1000,
		.drift_ppm = 1000,
		.op_timeout_ms = 2000,
		.max_leases = 2 * KEYS,
		.max_ops = 1024,
		.max_waiters_per_key = 64,
		.cid = 0x1000 + id,
		.seed = id,
		.ceiling_n = BALLOT_MAX};
	size_t bytes = engine_memory_bytes(&cfg);
	void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	CHECK(bytes > 0 && memory != MAP_FAILED);
	engines[id] = engine_init(&cfg, &now, memory, bytes);
}

static void ask(enum op_kind kind, uint64_t cycle)
{
	struct op_request r = {.kind = kind,
		.tag = 3 * cycle + kind,
		.key = bytes_of(keys[cycle % KEYS], KEY_BYTES),
		.value = bytes_of(keys[0], KEY_BYTES),
		.client = bytes_str("127.0.0.1:50000"),
		.ttl_ms = 30000,
		.has_ttl = kind != OP_RELEASE,
		.asked_fast_ns = now.fast_ns};
	r.hash = hash_bytes(r.key);
	step(1, &(struct event){.type = EV_OP, .op = r});
	settle();
	CHECK(last == OUT_OK);
}

int main(int argc, char **argv)
{
	unsigned masters = argc == 3 ? (unsigned)strtoul(argv[1], NULL, 10) : 0;
	uint64_t cycles = argc == 3 ? strtoull(argv[2], NULL, 10) : 0;
	if ((masters != 1 && masters != 3) || cycles == 0) {
		(void)fprintf(stderr, "usage: engine_bench 1|3 CYCLES\n");
		return 1;
	}
	for (unsigned i = 0; i < KEYS; i++)
		(void)snprintf(keys[i], sizeof keys[i], "key:%012u", i);
	for (unsigned id = 1; id <= masters; id++)
		start((uint8_t)id, (uint8_t)masters);
	for (unsigned id = 1; id <= masters; id++) {
		step(id, &(struct event){.type = EV_STATUS, .status = {NODE_ACTIVE, 0}});
		for (unsigned other = 1; other <= masters; other++)
			if (other != id)
				step(id, &(struct event){
						 .type = EV_LINK, .link = {(uint8_t)other, true}});
	}
	for (uint64_t i = 0; i < cycles; i++) {
		ask(OP_LOCK, i);
		ask(OP_EXTEND, i);
		ask(OP_RELEASE, i);
		now.slow_ns += MS / 10;
		now.fast_ns += MS / 10;
		now.wall_us += 100;
		for (unsigned id = 1; id <= masters; id++)
			if (engine_wait_ns(engines[id], &now) == 0)
				step(id, &(struct event){.type = EV_TICK});
	}
	(void)printf("%llu answers\n", (unsigned long long)answers);
	return 0;
}
