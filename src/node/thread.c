#include "node/internal.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/hash.h"
#include "base/log.h"

enum {
	MAX_OPS = 65536,
	MAX_WAITERS_PER_KEY = 16384,
	PEER_LINKS_MAX = NODE_ID_MAX, /* one a node and thread */
	PEER_INPUT_BYTES = 2 * FRAME_MAX_BYTES,
	PEER_OUTPUT_BYTES = 8 << 20,
	HUGE_PAGE_BYTES = 2 << 20,
	CLIENTS_SLACK = 128,
};

/* The handler's self is the shard's, so its one function of ours finds the thread here. */
static _Thread_local struct shard_thread *this_thread;

static void work_or_stop(void *self)
{
	struct shard_thread *t = this_thread;
	t->shard_work(self);
	if (!t->stopping && atomic_load_explicit(&t->stop, memory_order_acquire)) {
		t->stopping = true;
		io_stop(t->io);
	}
}

static uint32_t share(uint32_t total, uint32_t threads)
{
	return (uint32_t)(((uint64_t)total + threads - 1) / threads);
}

/* Keys do not spread quite evenly: a quarter more, of address space, lets all of them in. */
static uint32_t share_of_keys(uint32_t total, uint32_t threads)
{
	uint64_t even = share(total, threads);
	return (uint32_t)(threads == 1 ? even : even * 5 / 4);
}

/* The kernel spreads connections by hash: room for a thread that gets more than its share. The
 * limit of the node is counted by the shards. */
static uint32_t share_of_clients(uint32_t total, uint32_t threads)
{
	uint64_t most = (uint64_t)share(total, threads) * 5 / 4 + CLIENTS_SLACK;
	return threads == 1 || most > total ? total : (uint32_t)most;
}

static struct shard_config shard_config_of(struct shard_thread *t)
{
	const struct node *n = t->node;
	unsigned index = t->index;
	const struct config *c = &n->cfg;
	const struct membership *m = &n->self.config;
	struct shard_config s = {
		.engine =
			{
				.self = (uint8_t)c->id,
				.n_masters = m->n_masters,
				.masters_epoch = m->masters_epoch,
				.joined = m->joined,
				.departed = m->departed,
				.replica = membership_role(m, (uint8_t)c->id) == ROLE_REPLICA,
				.replica_interval_ms = c->replica_interval_ms,
				.replica_batch_bytes = (uint32_t)c->replica_batch_bytes,
				.slots = (uint16_t)c->slots,
				.threads = (uint16_t)c->threads,
				.shard = (uint16_t)index,
				.max_lease_ms = c->max_lease_ms,
				.attempt_ms = c->attempt_ms,
				.drift_ppm = c->drift_ppm,
				.op_timeout_ms = c->op_timeout_ms,
				.max_leases = share_of_keys(c->max_leases, c->threads),
				.max_ops = MAX_OPS,
				.max_waiters_per_key = MAX_WAITERS_PER_KEY,
				.cid = hash_mix(n->cid, index + 1),
				.seed = hash_mix(n->seed, index + 1),
				.ceiling_n = n->state.ceiling_n,
				.start_n = n->start_n,
			},
		.index = index,
		.threads = c->threads,
		.inc = n->self.inc,
		.cluster = hash_bytes(bytes_str(c->cluster)),
		.max_clients = c->max_clients,
		.n_clients = &t->node->n_clients,
		.input_max_bytes = c->input_limit_bytes,
		.output_max_bytes = c->output_limit_bytes,
		.output_soft_bytes = c->output_limit_bytes / 4,
		.version = node_version(),
		.cluster_name = c->cluster,
		.client_addr = n->client_addr,
		.peer_addr = n->self.peer_addr,
		.redlock_idempotent = c->redlock_idempotent,
		.members = *m,
	};
	for (unsigned i = 0; i < m->n_masters; i++)
		s.engine.masters[i] = m->masters[i].id;
	return s;
}

static int pin(const struct node *n, unsigned index, char *why, size_t why_bytes)
{
	if (n->cfg.pin == PIN_OFF)
		return 0;
	unsigned cpu = n->cfg.pin_cpus.v[index % n->cfg.pin_cpus.n];
	cpu_set_t set;
	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof set, &set) == 0)
		return 0;
	int error = errno;
	(void)snprintf(why, why_bytes, "cannot pin thread %u to CPU %u: %s; try --pin off", index,
		cpu, strerror(error));
	return -error;
}

/* Address space only: pages come as they are touched. */
static void *reserve(struct shard_thread *t, size_t bytes)
{
	t->map_bytes = bytes + HUGE_PAGE_BYTES;
	t->map = mmap(NULL, t->map_bytes, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (t->map == MAP_FAILED) {
		t->map = NULL;
		return NULL;
	}
	/* Huge pages need whole aligned ones; a refusal costs speed only. */
	size_t over = (uintptr_t)t->map % HUGE_PAGE_BYTES;
	void *memory = (char *)t->map + (over == 0 ? 0 : HUGE_PAGE_BYTES - over);
	(void)!madvise(memory, bytes, MADV_HUGEPAGE);
	return memory;
}

static int make_shard(struct shard_thread *t, char *why, size_t why_bytes)
{
	struct shard_config cfg = shard_config_of(t);
	size_t bytes = engine_memory_bytes(&cfg.engine);
	if (bytes == 0) {
		(void)snprintf(why, why_bytes,
			"the engine refuses these limits: --max-leases %u, --slots %u, "
			"--max-lease %u, --attempt-time %u, --drift-ppm %u, --op-timeout %u",
			t->node->cfg.max_leases, cfg.engine.slots, cfg.engine.max_lease_ms,
			cfg.engine.attempt_ms, cfg.engine.drift_ppm, cfg.engine.op_timeout_ms);
		return -EINVAL;
	}
	void *memory = reserve(t, bytes);
	if (memory == NULL) {
		int error = errno;
		(void)snprintf(why, why_bytes,
			"cannot reserve %zu MiB of address space for --max-leases %u: %s",
			bytes >> 20, t->node->cfg.max_leases, strerror(error));
		return -error;
	}
	struct io_clock clock;
	struct clocks now;
	io_clock_init(&clock);
	io_clock_read(&clock, &now);
	t->shard = shard_new(
		&cfg, io_env(t->io), mailbox_of(t->node->mesh, t->index), &now, memory, bytes);
	if (t->shard == NULL) {
		(void)snprintf(why, why_bytes, "out of memory");
		return -ENOMEM;
	}
	return 0;
}

static int build(struct shard_thread *t)
{
	const struct node *n = t->node;
	int r = pin(n, t->index, t->why, sizeof t->why);
	if (r != 0)
		return r;
	struct io_config io_cfg = {
		.thread = t->index,
		.max_links = share_of_clients(n->cfg.max_clients, n->cfg.threads) + PEER_LINKS_MAX,
		.full_reply = "-ERR max number of clients reached\r\n",
		.listen_fd = t->listen_fd,
		.wake_fds = n->wake_fds,
		.input_max_bytes = n->cfg.input_limit_bytes,
		.peer_input_max_bytes = PEER_INPUT_BYTES,
		.output_max_bytes = n->cfg.output_limit_bytes,
		.peer_output_max_bytes = PEER_OUTPUT_BYTES,
		.spin_us = n->cfg.spin_us,
	};
	r = io_new(&io_cfg, &t->io, t->why, sizeof t->why);
	if (r == 0)
		r = make_shard(t, t->why, sizeof t->why);
	return r;
}

/* Report, then wait for the others. True: run. */
static bool pass_gate(struct shard_thread *t, int result)
{
	struct node *n = t->node;
	(void)pthread_mutex_lock(&n->gate_lock);
	n->started++;
	n->failed += result != 0;
	t->result = result;
	(void)pthread_cond_broadcast(&n->gate_moved);
	while (n->gate == GATE_SHUT)
		(void)pthread_cond_wait(&n->gate_moved, &n->gate_lock);
	bool open = n->gate == GATE_OPEN;
	(void)pthread_mutex_unlock(&n->gate_lock);
	return open;
}

static void *thread_main(void *arg)
{
	struct shard_thread *t = arg;
	this_thread = t;
	char name[16];
	(void)snprintf(name, sizeof name, "shard-%u", t->index);
	(void)pthread_setname_np(pthread_self(), name);
	if (pass_gate(t, build(t))) {
		if (t->index == 0)
			log_info("io_uring: %s", io_describe(t->io));
		struct env_handler handler = shard_handler(t->shard);
		t->shard_work = handler.work;
		handler.work = work_or_stop;
		t->result = io_run(t->io, &handler);
	}
	if (t->shard != NULL) {
		t->held_nothing = shard_holds_nothing(t->shard, &t->top_n);
		shard_free(t->shard);
	}
	if (t->io != NULL)
		io_free(t->io);
	if (t->map != NULL)
		(void)munmap(t->map, t->map_bytes);
	atomic_store_explicit(&t->ended, true, memory_order_release);
	node_wake(t->node, t->node->cfg.threads);
	return NULL;
}

static void set_gate(struct node *n, enum gate gate)
{
	(void)pthread_mutex_lock(&n->gate_lock);
	n->gate = gate;
	(void)pthread_cond_broadcast(&n->gate_moved);
	(void)pthread_mutex_unlock(&n->gate_lock);
}

int threads_start(struct node *n, char *why, size_t why_bytes)
{
	int r = 0;
	unsigned created = 0;
	for (; created < n->cfg.threads; created++) {
		struct shard_thread *t = &n->threads[created];
		r = -pthread_create(&t->id, NULL, thread_main, t);
		if (r != 0) {
			(void)snprintf(why, why_bytes, "cannot start thread %u: %s", created,
				strerror(-r));
			break;
		}
		t->created = true;
	}
	(void)pthread_mutex_lock(&n->gate_lock);
	while (n->started < created)
		(void)pthread_cond_wait(&n->gate_moved, &n->gate_lock);
	bool failed = n->failed != 0;
	(void)pthread_mutex_unlock(&n->gate_lock);
	for (unsigned i = 0; failed && r == 0 && i < created; i++) {
		r = n->threads[i].result;
		if (r != 0)
			(void)snprintf(why, why_bytes, "%s", n->threads[i].why);
	}
	return r;
}

void threads_open(struct node *n)
{
	set_gate(n, GATE_OPEN);
}

/* A thread that ends wakes the control thread. */
static bool await_end(struct shard_thread *t, uint64_t until_mclk)
{
	struct node *n = t->node;
	int wake_fd = n->wake_fds[n->cfg.threads];
	while (!atomic_load_explicit(&t->ended, memory_order_acquire)) {
		struct clocks now;
		io_clock_read(&n->clock, &now);
		if (now.mclk >= until_mclk)
			return false;
		uint64_t left_ms = (until_mclk - now.mclk) / 1000000 + 1;
		struct pollfd set = {.fd = wake_fd, .events = POLLIN};
		(void)poll(&set, 1, left_ms < 100 ? (int)left_ms : 100);
		uint64_t wakes = 0;
		(void)!read(wake_fd, &wakes, sizeof wakes);
	}
	return true;
}

int threads_stop(struct node *n, uint64_t until_mclk)
{
	for (unsigned i = 0; i < n->cfg.threads; i++) {
		atomic_store_explicit(&n->threads[i].stop, true, memory_order_release);
		if (n->threads[i].created)
			node_wake(n, i);
	}
	if (n->gate == GATE_SHUT)
		set_gate(n, GATE_ABORT);
	for (unsigned i = 0; i < n->cfg.threads; i++) {
		struct shard_thread *t = &n->threads[i];
		if (!t->created)
			continue;
		if (!await_end(t, until_mclk))
			return -ETIMEDOUT;
		(void)pthread_join(t->id, NULL);
		t->created = false;
	}
	return 0;
}
