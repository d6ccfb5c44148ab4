#include "node/node.h"

#include <errno.h>
#include <stdarg.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

#include "base/hash.h"
#include "node/internal.h"
#include "node/sock.h"

/* 2020-01-01 UTC, where ballots count from (protocol.md 2.2). */
#define BALLOT_EPOCH_US UINT64_C(1577836800000000)

enum {
	MAIL_RING_BYTES = 1 << 20,
	/* File descriptors besides clients: standard ones, state file, control thread, handshakes,
	 * and room for listeners that other libraries of the process may want. */
	FDS_FIXED = 64 + PEERING_POLL_MAX,
	FDS_PER_THREAD = 8,
	FDS_PEERS = NODE_ID_MAX,
	BIND_TRIES = 15,
	BIND_PAUSE_MS = 100,
};

const char *node_version(void)
{
	return LOCKER_VERSION;
}

uint64_t node_wall_n(void)
{
	uint64_t now = io_wall_us();
	if (now <= BALLOT_EPOCH_US)
		return 1;
	now -= BALLOT_EPOCH_US;
	return now < BALLOT_MAX ? now : BALLOT_MAX;
}

void node_wake(void *node, unsigned thread)
{
	const struct node *n = node;
	uint64_t one = 1;
	/* Fails only when the counter is full, which wakes as well. */
	(void)!write(n->wake_fds[thread], &one, sizeof one);
}

static __attribute__((format(printf, 4, 5))) int fail(
	int r, char *why, size_t why_bytes, const char *format, ...)
{
	va_list args;
	va_start(args, format);
	(void)vsnprintf(why, why_bytes, format, args);
	va_end(args);
	return r;
}

/* ---- what the machine allows ---- */

static int raise_nofile(struct config *cfg, char *why, size_t why_bytes)
{
	struct rlimit limit;
	if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
		return fail(
			-errno, why, why_bytes, "cannot read RLIMIT_NOFILE: %s", strerror(errno));
	uint64_t others = FDS_FIXED + FDS_PEERS + (uint64_t)FDS_PER_THREAD * cfg->threads;
	uint64_t need = cfg->max_clients + others;
	if (limit.rlim_cur < limit.rlim_max) {
		limit.rlim_cur = limit.rlim_max;
		(void)setrlimit(RLIMIT_NOFILE, &limit);
		(void)getrlimit(RLIMIT_NOFILE, &limit);
	}
	if (limit.rlim_cur >= need)
		return 0;
	if (limit.rlim_cur <= others)
		return fail(-EMFILE, why, why_bytes,
			"RLIMIT_NOFILE is %llu: raise it (ulimit -n, LimitNOFILE) to %llu for "
			"--max-clients %u",
			(unsigned long long)limit.rlim_cur, (unsigned long long)need,
			cfg->max_clients);
	log_warn("--max-clients lowered from %u to %llu: RLIMIT_NOFILE is %llu, %llu are needed "
		 "(ulimit -n, "
		 "LimitNOFILE)",
		cfg->max_clients, (unsigned long long)(limit.rlim_cur - others),
		(unsigned long long)limit.rlim_cur, (unsigned long long)need);
	cfg->max_clients = (uint32_t)(limit.rlim_cur - others);
	return 0;
}

static int random_words(uint64_t *to, size_t n)
{
	size_t bytes = n * sizeof *to;
	if (getrandom(to, bytes, 0) != (ssize_t)bytes)
		return -EIO;
	return 0;
}

/* ---- parts ---- */

/* Of two lives of a node the later one has the greater incarnation, so that peers can tell an old
 * copy of a state file from one of a life that they have missed. @after: what the file tells. */
static uint64_t incarnation(uint64_t after, uint64_t random)
{
	uint64_t low = (random & UINT32_MAX) | 1; /* never 0, whatever the wall clock says */
	uint64_t now = ((node_wall_n() / 1000000) << 32) | low;
	uint64_t next = after + 1 + low;
	return now > after || next < after ? now : next;
}

static int init_identity(struct node *n, char *why, size_t why_bytes)
{
	const struct config *c = &n->cfg;
	uint64_t words[3];
	if (random_words(words, 3) != 0)
		return fail(-EIO, why, why_bytes, "no random numbers from the kernel");
	n->seed = words[1];
	n->cid = words[2];
	n->self = (struct identity){
		.node = (uint8_t)c->id,
		.status = NODE_NONMEMBER,
		.threads = (uint16_t)c->threads,
		.inc = incarnation(0, words[0]),
	};
	memcpy(n->self.cluster, c->cluster, sizeof n->self.cluster);
	(void)snprintf(n->self.peer_addr, sizeof n->self.peer_addr, "%s", c->peer_advertise);
	return 0;
}

/* What a state file has to agree with: 0 for what was not said. */
static struct state said_state(const struct node *n)
{
	const struct config *c = &n->cfg;
	struct state s = {.node = n->self.node,
		.reg.committed = {
			.slots = (uint16_t)(c->said_slots ? c->slots : 0),
			.max_lease_ms = c->said_max_lease ? c->max_lease_ms : 0,
			.attempt_ms = c->said_attempt ? c->attempt_ms : 0,
			.drift_ppm = c->said_drift ? c->drift_ppm : 0,
			.n_masters = (uint8_t)c->n_masters,
		}};
	memcpy(s.reg.committed.masters, c->masters, sizeof s.reg.committed.masters);
	memcpy(s.cluster, c->cluster, sizeof s.cluster);
	return s;
}

/* As long as --masters say who they are, they also say where: a node may have moved. */
static void take_addresses(struct node *n)
{
	struct membership *m = &n->state.reg.committed;
	for (unsigned i = 0; i < n->cfg.n_masters && m->epoch == 1; i++)
		m->masters[i] = n->cfg.masters[i];
}

static void log_ignored(const struct node *n)
{
	const struct config *c = &n->cfg;
	const struct membership *m = &n->state.reg.committed;
	if (c->new_cluster)
		log_info("--new-cluster ignored: %s exists, this node has been here before",
			n->file.path);
	if (c->join[0] != '\0')
		log_info("--join ignored: %s knows who the members are", n->file.path);
	if (c->n_masters != 0 && m->epoch > 1)
		log_info("--masters ignored: %s has a later configuration", n->file.path);
}

/* Opens the file. STATE_LOADED, STATE_FRESH (or no file is kept), or -errno. */
static int load_state(struct node *n, char *why, size_t why_bytes)
{
	if (n->cfg.ephemeral)
		return STATE_FRESH;
	struct state want = said_state(n);
	struct state found;
	int r = state_file_open(&n->file, n->cfg.state_dir, n->self.node, &found, why, why_bytes);
	if (r < 0)
		return r;
	n->has_file = true;
	if (r == STATE_FRESH)
		return r;
	r = state_check(&want, &found, n->file.path, why, why_bytes);
	if (r != 0)
		return r;
	n->file_loaded = true;
	n->self.after_inc = found.clean ? found.inc : 0;
	n->self.inc = n->state.inc = incarnation(found.inc, n->self.inc);
	n->loaded_ceiling_n = found.ceiling_n;
	n->state.ceiling_n = found.ceiling_n;
	n->state.reg = found.reg;
	take_addresses(n);
	if (n->start_n < found.ceiling_n)
		n->start_n = found.ceiling_n;
	log_ignored(n);
	return STATE_LOADED;
}

/* Without a file that tells: from the flags, or from the cluster. */
static int first_configuration(struct node *n, char *why, size_t why_bytes)
{
	const struct config *c = &n->cfg;
	struct membership *m = &n->state.reg.committed;
	if (n->has_file)
		n->state.ceiling_n = ceiling_above(n->start_n);
	if (c->join[0] != '\0') {
		int r = join_fetch(n, m, why, why_bytes);
		if (r != 0)
			return r;
	} else {
		config_first(c, c->peer_listen, m);
	}
	bool master = membership_role(m, n->self.node) == ROLE_MASTER;
	bool alone = master && m->n_masters == 1;
	n->self.first_boot = c->new_cluster && master;
	/* A file may have been lost. A cluster of this node alone has nobody who could know better:
	 * what it may have promised is over with the leases that it may have granted. */
	n->forgetful = !n->self.first_boot && !alone;
	if (n->forgetful)
		members_abstain(&n->state.reg);
	if (alone && n->has_file && !n->self.first_boot && c->join[0] == '\0')
		return fail(-ENOENT, why, why_bytes,
			"%s is not there, and a cluster of this node alone has nobody to ask what "
			"was in it. If it has never run, say --new-cluster. If nodes were added to "
			"it since, name one of them: --join HOST:PORT. If it was alone, wait for "
			"its longest lease (--max-lease), then say --new-cluster",
			n->file.path);
	if (n->has_file && master && !n->self.first_boot)
		log_warn("%s is not there: waiting as after a loss of memory (a first boot of a "
			 "new cluster says --new-cluster)",
			n->file.path);
	return 0;
}

/* Reads the state and settles what this start is; what a new file will hold is written last of
 * all, so that a start that fails for another reason leaves a first boot possible. */
static int init_state(struct node *n, char *why, size_t why_bytes)
{
	n->start_n = node_wall_n();
	n->state =
		(struct state){.node = n->self.node, .inc = n->self.inc, .ceiling_n = BALLOT_MAX};
	memcpy(n->state.cluster, n->cfg.cluster, sizeof n->state.cluster);
	int r = load_state(n, why, why_bytes);
	if (r == STATE_FRESH)
		r = first_configuration(n, why, why_bytes);
	if (r < 0)
		return r;
	r = config_adopt(&n->cfg, &n->state.reg.committed,
		n->file_loaded ? n->file.path : "the cluster", why, why_bytes);
	n->self.threads = (uint16_t)n->cfg.threads;
	return r;
}

/* Where others are told to dial, and what a cluster of this node alone says of it; port 0 is known
 * only now. */
static void init_addresses(struct node *n)
{
	struct membership *m = &n->state.reg.committed;
	const char *host = n->cfg.peer_listen;
	const char *bound = n->cfg.peer_listen;
	if (n->self.peer_addr[0] == '\0') {
		const struct member *own = membership_find(m, n->self.node);
		bool any_port = strcmp(strrchr(host, ':'), ":0") == 0;
		if (any_port)
			bound = n->peer_addr;
		if (n->file_loaded && own != NULL && !any_port)
			(void)snprintf(
				n->self.peer_addr, sizeof n->self.peer_addr, "%s", own->addr);
		else
			(void)snprintf(n->self.peer_addr, sizeof n->self.peer_addr, "%.*s%s",
				(int)(strrchr(host, ':') - host), host, strrchr(bound, ':'));
	}
	bool alone = n->cfg.n_masters == 0 && n->cfg.join[0] == '\0' && !n->file_loaded;
	if (alone)
		memcpy(m->masters[0].addr, n->self.peer_addr, sizeof m->masters[0].addr);
	if (alone && config_wildcard(n->self.peer_addr))
		log_warn("other nodes cannot dial %s: say --peer-advertise before this cluster "
			 "grows",
			n->self.peer_addr);
	n->self.config = *m;
}

/* A killed node's sockets are let go of by the kernel a moment after the process is gone (io_uring
 * ends its requests asynchronously), and its successor may be quicker. */
static int listen_patiently(const char *address, int *ret_fd, char *why, size_t why_bytes)
{
	const struct timespec pause = {.tv_nsec = BIND_PAUSE_MS * 1000000L};
	int r = io_listen(address, false, ret_fd, why, why_bytes);
	for (unsigned i = 0; r == -EADDRINUSE && i < BIND_TRIES; i++) {
		(void)nanosleep(&pause, NULL);
		r = io_listen(address, false, ret_fd, why, why_bytes);
	}
	return r;
}

/* Several listeners share a port with SO_REUSEPORT, which would also let a second server share it
 * unnoticed: bind it once without. */
static int open_listeners(struct node *n, char *why, size_t why_bytes)
{
	int first = -1;
	int r = listen_patiently(n->cfg.listen, &first, why, why_bytes);
	if (r != 0)
		return r;
	io_local_address(first, n->client_addr, sizeof n->client_addr);
	if (n->cfg.threads == 1) {
		n->threads[0].listen_fd = first;
	} else {
		(void)close(first);
		for (unsigned i = 0; r == 0 && i < n->cfg.threads; i++)
			r = io_listen(
				n->client_addr, true, &n->threads[i].listen_fd, why, why_bytes);
	}
	if (r == 0)
		r = listen_patiently(n->cfg.peer_listen, &n->peer_listen_fd, why, why_bytes);
	if (r != 0)
		return r;
	sock_set_nonblocking(n->peer_listen_fd);
	io_local_address(n->peer_listen_fd, n->peer_addr, sizeof n->peer_addr);
	return 0;
}

static int open_signals(struct node *n, char *why, size_t why_bytes)
{
	sigset_t set;
	(void)sigemptyset(&set);
	(void)sigaddset(&set, SIGTERM);
	(void)sigaddset(&set, SIGINT);
	/* Before any thread is made: they inherit the mask. */
	(void)pthread_sigmask(SIG_BLOCK, &set, NULL);
	(void)signal(SIGPIPE, SIG_IGN);
	/* A file-size limit is a failed write of the state file, which is tried again. */
	(void)signal(SIGXFSZ, SIG_IGN);
	n->signal_fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
	if (n->signal_fd < 0)
		return fail(-errno, why, why_bytes, "signalfd: %s", strerror(errno));
	return 0;
}

static int open_mail(struct node *n, char *why, size_t why_bytes)
{
	for (unsigned i = 0; i <= n->cfg.threads; i++) {
		n->wake_fds[i] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
		if (n->wake_fds[i] < 0)
			return fail(-errno, why, why_bytes, "eventfd: %s", strerror(errno));
	}
	n->mesh = mailbox_mesh_new(n->cfg.threads + 1, MAIL_RING_BYTES);
	if (n->mesh == NULL)
		return fail(-ENOMEM, why, why_bytes, "out of memory");
	n->mail = mailbox_of(n->mesh, n->cfg.threads);
	return 0;
}

static int open_control(struct node *n, char *why, size_t why_bytes)
{
	struct clocks now;
	struct peering_hooks hooks = control_hooks(n);
	io_clock_read(&n->clock, &now);
	n->peering = peering_new(&n->self, &n->clock, n->peer_listen_fd, &hooks, n->seed);
	if (n->peering == NULL || configuration_init(n, &now) != 0)
		return fail(-ENOMEM, why, why_bytes, "out of memory");
	return 0;
}

static int write_first_state(struct node *n, char *why, size_t why_bytes)
{
	n->durable_n = n->state.ceiling_n;
	if (!n->has_file || (n->file_loaded && n->self.after_inc == 0))
		return 0;
	/* That it stopped in good order counts once: it must be gone before the first vote. */
	int r = state_file_write(&n->file, &n->state);
	/* Both slots, so that a disk that fills up later has room for either. */
	if (r == 0)
		r = state_file_write(&n->file, &n->state);
	if (r != 0 && !n->file_loaded)
		state_file_undo(&n->file); /* the next start is a first one still */
	if (r != 0)
		return fail(r, why, why_bytes,
			"cannot write %s: %s; name another directory with --state-dir, or run "
			"without one with "
			"--ephemeral (see --help)",
			n->file.path, strerror(-r));
	return 0;
}

static void log_start(const struct node *n)
{
	const struct config *c = &n->cfg;
	log_info("lockerd %s: node %u of cluster \"%s\", masters %u, slots %u, threads %u, pinning "
		 "%s, %s",
		node_version(), c->id, c->cluster, n->self.config.n_masters, c->slots, c->threads,
		c->pin == PIN_OFF    ? "off"
		: c->pin == PIN_AUTO ? "auto"
				     : "by list",
		n->has_file ? n->file.path : "ephemeral");
	configuration_log(
		&n->self.config, n->file_loaded ? "is known" : "is the one to begin with");
}

static int build(struct node *n, char *why, size_t why_bytes)
{
	int r = io_probe(why, why_bytes);
	if (r == 0)
		r = open_signals(n, why, why_bytes);
	if (r == 0)
		r = init_identity(n, why, why_bytes);
	if (r == 0)
		r = init_state(n, why, why_bytes);
	if (r == 0)
		r = raise_nofile(&n->cfg, why, why_bytes);
	if (r == 0)
		r = open_listeners(n, why, why_bytes);
	if (r == 0)
		init_addresses(n);
	if (r == 0)
		r = open_mail(n, why, why_bytes);
	if (r == 0)
		r = open_control(n, why, why_bytes);
	if (r == 0)
		r = threads_start(n, why, why_bytes);
	if (r == 0)
		r = write_first_state(n, why, why_bytes);
	return r;
}

void node_set_log(const struct config *cfg)
{
	char prefix[32];
	(void)snprintf(prefix, sizeof prefix, "node %u", (unsigned)cfg->id);
	log_set_clock(io_wall_us);
	log_set_level(cfg->log_level);
	log_set_prefix(prefix);
}

int node_new(const struct config *cfg, struct node **ret, char *why, size_t why_bytes)
{
	struct node *n = calloc(1, sizeof *n);
	if (n == NULL)
		return fail(-ENOMEM, why, why_bytes, "out of memory");
	n->cfg = *cfg;
	n->file.fd = n->file.dir_fd = n->signal_fd = n->peer_listen_fd = -1;
	for (unsigned i = 0; i < THREADS_MAX; i++) {
		n->wake_fds[i] = -1;
		n->threads[i].node = n;
		n->threads[i].index = i;
		n->threads[i].listen_fd = -1;
	}
	n->wake_fds[THREADS_MAX] = -1;
	(void)pthread_mutex_init(&n->gate_lock, NULL);
	(void)pthread_cond_init(&n->gate_moved, NULL);
	io_clock_init(&n->clock);
	int r = build(n, why, why_bytes);
	if (r != 0) {
		node_free(n);
		return r;
	}
	log_start(n);
	control_init(n);
	threads_open(n);
	*ret = n;
	return 0;
}

void node_free(struct node *n)
{
	if (n == NULL)
		return;
	(void)threads_stop(n, UINT64_MAX);
	peering_free(n->peering);
	free(n->members);
	if (n->mesh != NULL)
		mailbox_mesh_free(n->mesh);
	for (unsigned i = 0; i < n->cfg.threads; i++)
		if (n->threads[i].listen_fd >= 0)
			(void)close(n->threads[i].listen_fd);
	for (unsigned i = 0; i <= n->cfg.threads; i++)
		if (n->wake_fds[i] >= 0)
			(void)close(n->wake_fds[i]);
	if (n->peer_listen_fd >= 0)
		(void)close(n->peer_listen_fd);
	if (n->signal_fd >= 0)
		(void)close(n->signal_fd);
	state_file_close(&n->file);
	(void)pthread_mutex_destroy(&n->gate_lock);
	(void)pthread_cond_destroy(&n->gate_moved);
	free(n);
}

void node_ready_line(const struct node *n, char *ret, size_t bytes)
{
	const struct config *c = &n->cfg;
	char wait[96] = "";
	uint64_t ask_ns = engine_restart_wait_ns(c->attempt_ms, c->drift_ppm);
	uint64_t vote_ns = engine_quarantine_ns(c->max_lease_ms, c->attempt_ms, c->drift_ppm);
	bool waits = n->role == ROLE_MASTER && n->restart.kind == RESTART_EMPTY;
	if (waits && !n->restart.alone)
		(void)snprintf(wait, sizeof wait,
			" (quarantine: asks the others for their leases in %.1f s)",
			(double)ask_ns / 1e9);
	else if (waits)
		(void)snprintf(
			wait, sizeof wait, " (quarantine: votes in %.0f s)", (double)vote_ns / 1e9);
	(void)snprintf(ret, bytes,
		"lockerd: node %u of cluster \"%s\" ready%s: clients %s, peers %s, %u thread%s",
		n->cfg.id, n->cfg.cluster, wait, n->client_addr, n->peer_addr, n->cfg.threads,
		n->cfg.threads == 1 ? "" : "s");
}
