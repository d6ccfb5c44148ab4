#include "node/config.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "node/options.h"
#include "wire/sync.h"

#define STATE_DIR "/var/lib/locker"

static int set_prefixes(
	const struct option *o, const char *value, void *into, char *why, size_t why_bytes)
{
	size_t len = strlen(value);
	if (len == 0 || value[0] == ',' || value[len - 1] == ',' || strstr(value, ",,") != NULL) {
		(void)snprintf(why, why_bytes,
			"is a list of prefixes with commas between, none of them empty, or *");
		return -EINVAL;
	}
	return option_text(o, value, into, why, why_bytes);
}

static int set_level(
	const struct option *o, const char *value, void *into, char *why, size_t why_bytes)
{
	int level = log_level_parse(value);
	if (level < 0) {
		(void)snprintf(why, why_bytes, "is one of error, warn, info, debug");
		return -EINVAL;
	}
	*(enum log_level *)(void *)((char *)into + o->offset) = (enum log_level)level;
	return 0;
}

/* A name goes into logs, file names' contents and INFO: keep it printable and free of blanks. */
static int set_name(
	const struct option *o, const char *value, void *into, char *why, size_t why_bytes)
{
	for (const char *p = value; *p != '\0'; p++) {
		if (!isalnum((unsigned char)*p) && strchr("._-", *p) == NULL) {
			(void)snprintf(why, why_bytes, "has letters, digits and . _ - only");
			return -EINVAL;
		}
	}
	return option_text(o, value, into, why, why_bytes);
}

/* "HOST:PORT", "[V6]:PORT", ":PORT" or "PORT" to "HOST:PORT"; no host means this machine only. */
static int parse_address(
	const char *value, uint64_t port_min, size_t max, char *ret, char *why, size_t why_bytes)
{
	const char *colon = strrchr(value, ':');
	const char *port_text = colon == NULL ? value : colon + 1;
	const char *end = NULL;
	uint64_t port = 0;
	if (option_number(port_text, &port, &end) != 0 || *end != '\0') {
		(void)snprintf(why, why_bytes, "is not HOST:PORT");
		return -EINVAL;
	}
	if (port < port_min || port > 65535) {
		(void)snprintf(why, why_bytes, "the port must be between %llu and 65535",
			(unsigned long long)port_min);
		return -EINVAL;
	}
	size_t host = colon == NULL ? 0 : (size_t)(colon - value);
	if (memchr(value, ':', host) != NULL && (value[0] != '[' || value[host - 1] != ']')) {
		(void)snprintf(why, why_bytes, "write an IPv6 address as [ADDRESS]:PORT");
		return -EINVAL;
	}
	int n = snprintf(ret, max + 1, "%.*s:%u", host == 0 ? 9 : (int)host,
		host == 0 ? "127.0.0.1" : value, (unsigned)port);
	if (n < 0 || (size_t)n > max) {
		(void)snprintf(why, why_bytes, "is longer than %zu characters", max);
		return -EINVAL;
	}
	return 0;
}

static int set_address(
	const struct option *o, const char *value, void *into, char *why, size_t why_bytes)
{
	return parse_address(
		value, o->min, ADDRESS_MAX_BYTES, (char *)into + o->offset, why, why_bytes);
}

/* An address that others are told: it is in configurations, in printable ASCII. */
static int parse_member(
	const char *value, uint64_t port_min, char *ret, char *why, size_t why_bytes)
{
	for (const char *p = value; *p != '\0'; p++) {
		if (*p <= ' ' || *p > '~') {
			(void)snprintf(why, why_bytes, "is not HOST:PORT");
			return -EINVAL;
		}
	}
	return parse_address(value, port_min, MEMBER_ADDR_MAX_BYTES, ret, why, why_bytes);
}

static int set_peer_listen(
	const struct option *o, const char *value, void *into, char *why, size_t why_bytes)
{
	return parse_member(value, 0, (char *)into + o->offset, why, why_bytes);
}

static int set_advertise(
	const struct option *o, const char *value, void *into, char *why, size_t why_bytes)
{
	struct config *c = into;
	int r = parse_member(value, 1, c->peer_advertise, why, why_bytes);
	if (r == 0 && config_wildcard(c->peer_advertise)) {
		(void)snprintf(why, why_bytes, "nobody can dial that");
		return -EINVAL;
	}
	return r;
}

bool config_wildcard(const char *addr)
{
	static const char *const hosts[] = {"0.0.0.0", "[::]", "*", ""};
	const char *colon = strrchr(addr, ':');
	size_t len = colon == NULL ? strlen(addr) : (size_t)(colon - addr);
	for (size_t i = 0; i < sizeof hosts / sizeof hosts[0]; i++)
		if (strlen(hosts[i]) == len && memcmp(hosts[i], addr, len) == 0)
			return true;
	return false;
}

static int add_master(struct config *c, const char *entry, char *why, size_t why_bytes)
{
	const char *end = NULL;
	uint64_t id = 0;
	if (option_number(entry, &id, &end) != 0 || *end != '=' || id < 1 || id > NODE_ID_MAX) {
		(void)snprintf(why, why_bytes, "\"%.60s\" is not ID=HOST:PORT with an id of 1..%d",
			entry, NODE_ID_MAX);
		return -EINVAL;
	}
	if (c->n_masters == MASTERS_MAX) {
		(void)snprintf(why, why_bytes, "more than %d masters", MASTERS_MAX);
		return -EINVAL;
	}
	struct member m = {.id = (uint8_t)id};
	char reason[128] = "";
	if (parse_member(end + 1, 1, m.addr, reason, sizeof reason) != 0) {
		(void)snprintf(why, why_bytes, "\"%.60s\": %s", entry, reason);
		return -EINVAL;
	}
	unsigned at = 0;
	for (unsigned i = 0; i < c->n_masters; i++) {
		if (c->masters[i].id == m.id || strcmp(c->masters[i].addr, m.addr) == 0) {
			(void)snprintf(why, why_bytes, "%s %s is there twice",
				c->masters[i].id == m.id ? "id" : "address",
				c->masters[i].id == m.id ? entry : m.addr);
			return -EINVAL;
		}
		at += c->masters[i].id < m.id;
	}
	memmove(&c->masters[at + 1], &c->masters[at], (c->n_masters - at) * sizeof m);
	c->masters[at] = m;
	c->n_masters++;
	return 0;
}

static int set_masters(
	const struct option *o, const char *value, void *into, char *why, size_t why_bytes)
{
	struct config *c = into;
	char *copy = strdup(value);
	if (copy == NULL) {
		(void)snprintf(why, why_bytes, "out of memory");
		return -ENOMEM;
	}
	c->n_masters = 0;
	int r = 0;
	char *rest = copy;
	for (char *entry = NULL; r == 0 && (entry = strsep(&rest, ",")) != NULL;) {
		entry += strspn(entry, " \t");
		r = add_master(c, entry, why, why_bytes);
	}
	free(copy);
	return r;
}

static int parse_cpus(const char *text, struct cpu_list *ret)
{
	struct cpu_list list = {0};
	for (;;) {
		uint64_t from = 0;
		if (option_number(text, &from, &text) != 0)
			return -EINVAL;
		uint64_t to = from;
		if (*text == '-' && option_number(text + 1, &to, &text) != 0)
			return -EINVAL;
		if (to < from || to >= CPU_SETSIZE)
			return -EINVAL;
		for (uint64_t cpu = from; cpu <= to; cpu++) {
			if (list.n == CPU_SETSIZE)
				return -EINVAL;
			list.v[list.n++] = (uint16_t)cpu;
		}
		if (*text == '\0')
			break;
		if (*text++ != ',')
			return -EINVAL;
	}
	*ret = list;
	return 0;
}

static int set_pin(
	const struct option *o, const char *value, void *into, char *why, size_t why_bytes)
{
	struct config *c = into;
	if (strcmp(value, "auto") == 0) {
		c->pin = PIN_AUTO;
	} else if (strcmp(value, "off") == 0) {
		c->pin = PIN_OFF;
	} else if (parse_cpus(value, &c->pin_cpus) == 0) {
		c->pin = PIN_LIST;
	} else {
		(void)snprintf(
			why, why_bytes, "is auto, off, or CPUs below %d like 0,2,4-6", CPU_SETSIZE);
		return -EINVAL;
	}
	return 0;
}

#define AT(field) offsetof(struct config, field)

/* Every limit that the engine has of its own is at least as wide as these. */
static const struct option table[] = {
	{"id", "N", "number of this node in the cluster", NULL, "1 without --masters", option_u32,
		AT(id), 1, NODE_ID_MAX, false, 0},
	{"cluster", "NAME", "nodes of another cluster are refused", "locker", NULL, set_name,
		AT(cluster), 1, CLUSTER_NAME_MAX_BYTES, false, 0},
	{"listen", "HOST:PORT", "for clients", "127.0.0.1:7401", NULL, set_address, AT(listen), 0,
		0, false, 0},
	{"peer-listen", "HOST:PORT", "for other nodes", NULL,
		"own entry of --masters, or 127.0.0.1:7501", set_peer_listen, AT(peer_listen), 0, 0,
		false, 0},
	{"peer-advertise", "HOST:PORT", "where others reach this node", NULL,
		"own entry of --masters, or peer-listen", set_advertise, 0, 0, 0, false, 0},
	{"masters", "1=HOST:PORT,2=...", "of a new cluster: all that vote, and where", NULL,
		"this node alone", set_masters, 0, 0, 0, false, 0},
	{"join", "HOST:PORT", "of any member, to enter a cluster that runs: see below", NULL, NULL,
		set_address, AT(join), 1, 0, false, 0},
	{"slots", "N", "partitions of the keys; the same on all nodes", "64", NULL, option_u32,
		AT(slots), 1, SLOTS_MAX, false, AT(said_slots)},
	{"threads", "N", "shards of this node", NULL, "CPUs allowed", option_u32, AT(threads), 1,
		THREADS_MAX, false, AT(said_threads)},
	{"pin", "auto|off|LIST", "CPUs of the threads, like 0,2,4-6", "auto", NULL, set_pin, 0, 0,
		0, false, 0},
	{"spin-us", "N", "spin this long before sleeping", "0", NULL, option_u32, AT(spin_us), 0,
		10000, false, 0},
	{"max-lease", "MS", "longest lease; the same on all nodes", "60000", NULL, option_ms,
		AT(max_lease_ms), 1, LEASE_MAX_MS, false, AT(said_max_lease)},
	{"max-leases", "N", "leases of this node; address space only", "4000000", NULL, option_u32,
		AT(max_leases), 1, 1000000000, false, 0},
	{"op-timeout", "MS", "an operation without WAIT ends within it", NULL, "2 x attempt-time",
		option_ms, AT(op_timeout_ms), 1, 600000, false, AT(said_op_timeout)},
	{"attempt-time", "MS", "votes older than this are void; the same on all", "1000", NULL,
		option_ms, AT(attempt_ms), 10, 60000, false, AT(said_attempt)},
	{"drift-ppm", "N", "bound of the clocks' rate error; the same on all", "1000", NULL,
		option_u32, AT(drift_ppm), 0, 100000, false, AT(said_drift)},
	{"replica-interval", "MS", "between two batches to a replica", "5", NULL, option_ms,
		AT(replica_interval_ms), 1, 1000, false, 0},
	{"replica-batch", "BYTES", "of one such batch, at most", "7424", NULL, option_bytes,
		AT(replica_batch_bytes), 256, SYNC_BODY_MAX_BYTES, false, 0},
	{"max-clients", "N", "connections, shared out among the threads", "10000", NULL, option_u32,
		AT(max_clients), 1, 1000000, false, 0},
	{"input-limit", "BYTES", "unparsed input per connection", "64K", NULL, option_bytes,
		AT(input_limit_bytes), 16 << 10, 64 << 20, false, 0},
	{"output-limit", "BYTES", "unsent output per connection", "8M", NULL, option_bytes,
		AT(output_limit_bytes), 64 << 10, 1 << 30, false, 0},
	{"redlock-idempotent", "PREFIX,...",
		"keys (*: all) whose SET NX may be repeated, see below", NULL, "none", set_prefixes,
		AT(redlock_idempotent), 1, PREFIXES_MAX_BYTES, false, 0},
	{"state-dir", "DIR", "where the small state file lives", STATE_DIR, NULL, option_text,
		AT(state_dir), 1, PATH_MAX_BYTES, false, 0},
	{"new-cluster", NULL, "first boot ever: create the state file, vote at once", NULL, NULL,
		option_switch, AT(new_cluster), 0, 0, false, 0},
	{"ephemeral", NULL, "no state file, see below", NULL, NULL, option_switch, AT(ephemeral), 0,
		0, false, 0},
	{"config", "FILE", "lines of `name value`; flags win over it", NULL, NULL, option_text,
		AT(config_file), 1, PATH_MAX_BYTES, true, 0},
	{"log-level", "LEVEL", "error, warn, info or debug", "info", NULL, set_level, AT(log_level),
		0, 0, false, 0},
	{"version", NULL, "print the version and exit", NULL, NULL, option_switch, AT(version), 0,
		0, true, 0},
	{"help", NULL, "print this and exit", NULL, NULL, option_switch, AT(help), 0, 0, true, 0},
	{0},
};

static int allowed_cpus(struct cpu_list *ret, char *why, size_t why_bytes)
{
	cpu_set_t set;
	CPU_ZERO(&set);
	if (sched_getaffinity(0, sizeof set, &set) != 0) {
		int error = errno;
		(void)snprintf(why, why_bytes, "cannot read the allowed CPUs: %s", strerror(error));
		return -error;
	}
	ret->n = 0;
	for (unsigned cpu = 0; cpu < CPU_SETSIZE; cpu++)
		if (CPU_ISSET(cpu, &set))
			ret->v[ret->n++] = (uint16_t)cpu;
	return 0;
}

static int settle_threads(struct config *c, char *why, size_t why_bytes)
{
	struct cpu_list allowed = {0};
	int r = allowed_cpus(&allowed, why, why_bytes);
	if (r != 0)
		return r;
	if (!c->said_threads) {
		c->threads = allowed.n < THREADS_MAX ? allowed.n : THREADS_MAX;
		if (c->threads > c->slots)
			c->threads = c->slots;
	}
	if (c->threads > c->slots) {
		(void)snprintf(why, why_bytes,
			"--threads %u: must not be more than --slots %u, which are shared out "
			"among them",
			c->threads, c->slots);
		return -EINVAL;
	}
	if (c->pin == PIN_AUTO) {
		c->pin_cpus = allowed;
		return 0;
	}
	if (c->pin == PIN_OFF)
		return 0;
	if (c->pin_cpus.n < c->threads) {
		(void)snprintf(why, why_bytes, "--pin names %u CPUs, --threads is %u",
			c->pin_cpus.n, c->threads);
		return -EINVAL;
	}
	for (unsigned i = 0; i < c->pin_cpus.n; i++) {
		unsigned k = 0;
		while (k < allowed.n && allowed.v[k] != c->pin_cpus.v[i])
			k++;
		if (k == allowed.n) {
			(void)snprintf(why, why_bytes,
				"--pin: CPU %u is not there or not allowed to us",
				c->pin_cpus.v[i]);
			return -EINVAL;
		}
	}
	return 0;
}

static int settle_masters(struct config *c, char *why, size_t why_bytes)
{
	bool joins = c->join[0] != '\0';
	if (c->id == 0 && (c->n_masters != 0 || joins)) {
		(void)snprintf(why, why_bytes, "--%s needs --id: which of the nodes is this one?",
			joins ? "join" : "masters");
		return -EINVAL;
	}
	if (joins && (c->n_masters != 0 || c->new_cluster)) {
		(void)snprintf(why, why_bytes,
			"--join enters a cluster that runs, --%s is for one that is new: leave one "
			"of them out",
			c->n_masters != 0 ? "masters" : "new-cluster");
		return -EINVAL;
	}
	if (c->id == 0)
		c->id = 1;
	const char *own = "127.0.0.1:7501";
	for (unsigned i = 0; i < c->n_masters; i++) {
		if (c->masters[i].id != c->id)
			continue;
		own = c->masters[i].addr;
		if (c->peer_advertise[0] == '\0')
			memcpy(c->peer_advertise, own, sizeof c->peer_advertise);
	}
	if (c->peer_listen[0] == '\0')
		(void)snprintf(c->peer_listen, sizeof c->peer_listen, "%s", own);
	return 0;
}

static int settle_op_timeout(struct config *c, char *why, size_t why_bytes)
{
	if (!c->said_op_timeout)
		c->op_timeout_ms = 2 * c->attempt_ms;
	/* A PREPARE and the round behind it each have a window of their own (src/core/release.c).
	 */
	if (c->op_timeout_ms >= 2 * c->attempt_ms)
		return 0;
	(void)snprintf(why, why_bytes,
		"--op-timeout %u ms is below twice --attempt-time %u ms: raise it to %u or more",
		c->op_timeout_ms, c->attempt_ms, 2 * c->attempt_ms);
	return -EINVAL;
}

void config_first(const struct config *c, const char *addr, struct membership *ret)
{
	*ret = (struct membership){
		.epoch = 1,
		.masters_epoch = 1,
		.slots = (uint16_t)c->slots,
		.max_lease_ms = c->max_lease_ms,
		.attempt_ms = c->attempt_ms,
		.drift_ppm = c->drift_ppm,
		.n_masters = (uint8_t)(c->n_masters == 0 ? 1 : c->n_masters),
	};
	memcpy(ret->masters, c->masters, sizeof ret->masters);
	if (c->n_masters != 0)
		return;
	ret->masters[0].id = (uint8_t)c->id;
	(void)snprintf(ret->masters[0].addr, sizeof ret->masters[0].addr, "%s", addr);
}

int config_adopt(struct config *c, const struct membership *m, const char *source, char *why,
	size_t why_bytes)
{
	const struct {
		const char *name;
		bool said;
		uint32_t flag, force;
	} constants[] = {
		{"slots", c->said_slots, c->slots, m->slots},
		{"max-lease", c->said_max_lease, c->max_lease_ms, m->max_lease_ms},
		{"attempt-time", c->said_attempt, c->attempt_ms, m->attempt_ms},
		{"drift-ppm", c->said_drift, c->drift_ppm, m->drift_ppm},
	};
	for (size_t i = 0; i < sizeof constants / sizeof constants[0]; i++) {
		if (!constants[i].said || constants[i].flag == constants[i].force)
			continue;
		(void)snprintf(why, why_bytes, "--%s %u: %s has %u; say the same or leave it out",
			constants[i].name, constants[i].flag, source, constants[i].force);
		return -EINVAL;
	}
	c->slots = m->slots;
	c->max_lease_ms = m->max_lease_ms;
	c->attempt_ms = m->attempt_ms;
	c->drift_ppm = m->drift_ppm;
	int r = settle_op_timeout(c, why, why_bytes);
	if (r == 0)
		r = settle_threads(c, why, why_bytes);
	return r;
}

/* What a configuration in force may still tell is not judged yet. */
static int settle(struct config *c, char *why, size_t why_bytes)
{
	int r = settle_masters(c, why, why_bytes);
	if (r == 0 && (c->said_attempt || !c->said_op_timeout))
		r = settle_op_timeout(c, why, why_bytes);
	if (r == 0)
		r = settle_threads(c, why, why_bytes);
	return r;
}

int config_load(struct config *ret, int argc, char *const *argv, char *why, size_t why_bytes)
{
	struct config *c = calloc(2, sizeof *c);
	if (c == NULL) {
		(void)snprintf(why, why_bytes, "out of memory");
		return -ENOMEM;
	}
	/* The flags are read twice: once to find --config, then again over what the file said. */
	struct config *flags = &c[1];
	int r = options_args(table, argc, argv, flags, why, why_bytes);
	if (r == 0 && (flags->help || flags->version)) {
		*ret = *flags;
		free(c);
		return 0;
	}
	if (r == 0)
		r = options_defaults(table, c, why, why_bytes);
	if (r == 0 && flags->config_file[0] != '\0')
		r = options_file(table, flags->config_file, c, why, why_bytes);
	if (r == 0)
		r = options_args(table, argc, argv, c, why, why_bytes);
	if (r == 0)
		r = settle(c, why, why_bytes);
	if (r == 0)
		*ret = *c;
	free(c);
	return r;
}

void config_help(FILE *out)
{
	(void)fputs("Usage: lockerd [--config FILE] [--OPTION VALUE ...]\n"
		    "A node of a lock store: leases by majority, Redis protocol.\n\n",
		out);
	options_help(table, out);
	(void)fputs(
		"\nTimes are in ms, or end in ms or s. In a file: `name value` or `name = "
		"value`, # comments.\n"
		"A start without --new-cluster waits for attempt-time and a little, then asks the "
		"other masters\n"
		"for its leases before it votes; where too few of them know, it waits for "
		"max-lease instead. It\n"
		"coordinates meanwhile. --new-cluster is ignored where the state file exists, so "
		"it may stay in\n"
		"a unit file. So are --join and, once SETNODES has changed the cluster, "
		"--masters.\n"
		"--join: the node learns who the members are and waits, coordinating, until "
		"SETNODES names it.\n"
		"What is \"the same on all\" it takes from them. Others reach it at "
		"peer-advertise; "
		"where that is\n"
		"not said and peer-listen has no host of its own (0.0.0.0), at the address that it "
		"comes from.\n"
		"A cluster of this node alone that has no file does not start unless one of "
		"--new-cluster, --join\n"
		"and --ephemeral is said.\n"
		"--redlock-idempotent: SET NX of what is held with this very value is OK; values "
		"must be unique.\n"
		"--ephemeral keeps nothing on disk. After a majority has lost its memory, "
		"tokens keep rising\n"
		"only if the wall clocks did not go back, and a --new-cluster given to a node "
		"that has been in\n"
		"use can grant a lock twice: nothing but its peers' memory stops it.\n"
		"Exit status: 0 stopped by a signal, 1 cannot run, 2 usage.\n",
		out);
}
