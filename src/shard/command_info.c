#include "shard/client.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* Texts of INFO and the map of NODES. */

/* What Redis' clients read here decides how they go on: a single, ready master without replicas and
 * without append-only file (users.md D.4). */

enum section {
	SECTION_SERVER = 1 << 0,
	SECTION_CLIENTS = 1 << 1,
	SECTION_MEMORY = 1 << 2,
	SECTION_PERSISTENCE = 1 << 3,
	SECTION_STATS = 1 << 4,
	SECTION_REPLICATION = 1 << 5,
	SECTION_LOCKER = 1 << 6,
	SECTION_PEERS = 1 << 7,
	SECTION_KEYSPACE = 1 << 8,
	SECTIONS_ALL = (1 << 9) - 1,
};

static const struct {
	const char *name;
	uint32_t bits;
} sections_known[] = {
	{"SERVER", SECTION_SERVER},
	{"CLIENTS", SECTION_CLIENTS},
	{"MEMORY", SECTION_MEMORY},
	{"PERSISTENCE", SECTION_PERSISTENCE},
	{"STATS", SECTION_STATS},
	{"REPLICATION", SECTION_REPLICATION},
	{"LOCKER", SECTION_LOCKER},
	{"PEERS", SECTION_PEERS},
	{"KEYSPACE", SECTION_KEYSPACE},
	{"ALL", SECTIONS_ALL},
	{"DEFAULT", SECTIONS_ALL},
	{"EVERYTHING", SECTIONS_ALL},
};

uint32_t info_sections(uint32_t argc, const struct bytes *argv)
{
	uint32_t bits = argc == 0 ? SECTIONS_ALL : 0;
	for (uint32_t i = 0; i < argc; i++)
		for (size_t k = 0; k < sizeof sections_known / sizeof sections_known[0]; k++)
			if (arg_is(argv[i], sections_known[k].name))
				bits |= sections_known[k].bits;
	return bits;
}

static void add(struct buf *b, const char *name, uint64_t v)
{
	text_add(b, "%s:%llu\r\n", name, (unsigned long long)v);
}

static const char *state_name(uint8_t status)
{
	switch (status) {
	case NODE_ACTIVE:
		return "active";
	case NODE_RESYNC:
		return "resync";
	case NODE_NONMEMBER:
		return "nonmember";
	case NODE_QUARANTINE:
		return "quarantine";
	default:
		return "down";
	}
}

/* Before the control thread has spoken, a node is in quarantine. */
static uint8_t own_state(const struct shard *s)
{
	return s->status.status != 0 ? shard_state(s) : (uint8_t)NODE_QUARANTINE;
}

/* Of the wait that is on, at most: in quarantine before it asks, in resync before it votes. */
static uint64_t restart_left_ms(const struct shard *s)
{
	bool waits = s->status.status == NODE_QUARANTINE || s->status.status == NODE_RESYNC;
	if (!waits || s->status.until_mclk <= s->now.mclk)
		return 0;
	return (s->status.until_mclk - s->now.mclk) / 1000000;
}

static const char *role_name(const struct shard *s, uint8_t node)
{
	switch (membership_role(&s->cfg.members, node)) {
	case ROLE_MASTER:
		return "master";
	case ROLE_REPLICA:
		return "replica";
	default:
		return "nonmember";
	}
}

/* What is shown of a node: this one, a member, or somebody else who is linked. */
struct node_view {
	const char *role, *state, *address;
	unsigned slots_voting, slots_in_sync;
	uint64_t epoch, remaining_ms, links;
	int64_t lag_ms, heard_ms, since_ms; /* -1: not known, or none */
	uint8_t id;
};

static int64_t ms_or_none(uint64_t ns)
{
	return ns == UINT64_MAX ? -1 : (int64_t)(ns / 1000000);
}

/* Where the configuration says that it is, or else where it says so itself. */
static const char *address_of(const struct shard *s, uint8_t node, const char *own)
{
	const struct member *m = membership_find(&s->cfg.members, node);
	return m != NULL ? m->addr : own;
}

static struct node_view view_self(const struct shard *s, const struct tally *t)
{
	uint8_t self = s->cfg.engine.self;
	bool replica = membership_role(&s->cfg.members, self) == ROLE_REPLICA;
	return (struct node_view){
		.id = self,
		.role = role_name(s, self),
		.state = state_name(own_state(s)),
		.address = address_of(s, self, s->cfg.peer_addr),
		.slots_voting = t->stats.slots_voting,
		.slots_in_sync = t->stats.slots_in_sync,
		.lag_ms = replica ? ms_or_none(t->stats.lag_ns) : -1,
		.epoch = s->cfg.members.epoch,
		.remaining_ms = restart_left_ms(s),
		.since_ms = ms_or_none(s->now.mclk - s->state_at),
	};
}

static struct node_view view_peer(const struct shard *s, const struct tally *t, uint8_t node)
{
	const struct tally_peer *peer = tally_find(t, node);
	const struct peer_info *p = peer != NULL ? &peer->info : NULL;
	struct node_view v = {
		.id = node,
		.role = role_name(s, node),
		.state = state_name(0),
		.address = address_of(s, node, p != NULL ? p->addr : ""),
		.lag_ms = -1,
		.heard_ms = -1,
		.since_ms = -1,
	};
	if (p == NULL)
		return v;
	v.epoch = p->epoch;
	v.heard_ms = ms_or_none(p->heard_ago_ns);
	v.since_ms = ms_or_none(p->since_ns);
	v.links = p->links;
	if (!p->linked)
		return v;
	v.state = state_name(p->state);
	v.slots_voting = p->slots_voting;
	v.slots_in_sync = p->slots_in_sync;
	v.lag_ms = p->lag_ms == UINT32_MAX ? -1 : (int64_t)p->lag_ms;
	return v;
}

static struct node_view view_of(const struct shard *s, const struct tally *t, uint8_t node)
{
	return node == s->cfg.engine.self ? view_self(s, t) : view_peer(s, t, node);
}

enum { VIEWS_MAX = TALLY_PEERS_MAX + 1 };

/* Masters, replicas, others, each by their ids. */
static unsigned list_nodes(const struct shard *s, const struct tally *t, uint8_t ret[VIEWS_MAX])
{
	const struct membership *m = &s->cfg.members;
	unsigned n = 0;
	for (unsigned i = 0; i < m->n_masters; i++)
		ret[n++] = m->masters[i].id;
	for (unsigned i = 0; i < m->n_replicas; i++)
		ret[n++] = m->replicas[i].id;
	for (unsigned node = 1; node <= NODE_ID_MAX && n < VIEWS_MAX; node++) {
		uint8_t id = (uint8_t)node;
		const struct tally_peer *peer = tally_find(t, id);
		bool there = id == s->cfg.engine.self || (peer != NULL && peer->info.linked);
		if (there && membership_role(m, id) == ROLE_NONE)
			ret[n++] = id;
	}
	return n;
}

static unsigned port_of(const char *addr)
{
	const char *colon = strrchr(addr, ':');
	return colon != NULL ? (unsigned)strtoul(colon + 1, NULL, 10) : 0;
}

static void add_server(const struct shard *s, struct buf *b)
{
	uint64_t up_s = (s->now.mclk - s->started_mclk) / 1000000000;
	text_add(b,
		"# Server\r\nredis_version:" REDIS_VERSION "\r\nlocker_version:%s\r\n"
		"server_name:locker\r\nredis_mode:standalone\r\narch_bits:64\r\n"
		"multiplexing_api:io_uring\r\nprocess_id:%ld\r\nrun_id:%016llx\r\ntcp_port:%u\r\n"
		"uptime_in_seconds:%llu\r\nuptime_in_days:%llu\r\n",
		s->cfg.version, (long)getpid(), (unsigned long long)s->cfg.inc,
		port_of(s->cfg.client_addr), (unsigned long long)up_s,
		(unsigned long long)(up_s / 86400));
	text_add(b, "\r\n");
}

static void add_replication(const struct tally *t, struct buf *b)
{
	const struct engine_stats *e = &t->stats;
	add(b, "followers", e->followers);
	add(b, "log_records", e->log_records);
	add(b, "log_sent", e->log_sent);
	add(b, "log_gaps", e->log_gaps);
	add(b, "copied", e->copied);
	add(b, "snapshots", e->snapshots);
}

static void add_locker(const struct shard *s, const struct tally *t, struct buf *b)
{
	const struct engine_stats *e = &t->stats;
	const struct engine_config *cfg = &s->cfg.engine;
	const struct membership *m = &s->cfg.members;
	uint64_t other_epoch = 0;
	for (unsigned i = 0; i < t->n_peers; i++)
		other_epoch += t->peers[i].info.msgs_other_epoch;
	text_add(b, "# Locker\r\ncluster:%s\r\nnode:%u\r\nmember_role:%s\r\nstate:%s\r\n",
		s->cfg.cluster_name, cfg->self, role_name(s, cfg->self), state_name(own_state(s)));
	add(b, "epoch", m->epoch);
	add(b, "masters_epoch", m->masters_epoch);
	add(b, "restart_remaining_ms", restart_left_ms(s));
	add(b, "quorum", m->n_masters / 2U + 1);
	add(b, "masters", m->n_masters);
	add(b, "replicas", m->n_replicas);
	add(b, "threads", s->cfg.threads);
	add(b, "slots", cfg->slots);
	add(b, "max_lease_ms", cfg->max_lease_ms);
	add(b, "slots_voting", e->slots_voting);
	add(b, "slots_in_sync", e->slots_in_sync);
	if (membership_role(m, cfg->self) == ROLE_REPLICA)
		text_add(b, "replica_lag_ms:%lld\r\n", (long long)ms_or_none(e->lag_ns));
	add_replication(t, b);
	add(b, "leases", e->leases);
	add(b, "promises", e->promises);
	add(b, "waiters", e->waiters);
	add(b, "operations", e->ops);
	add(b, "operations_max", e->ops_max);
	add(b, "tombstones", e->tombstones);
	add(b, "shadows", e->shadows);
	add(b, "staged", e->staged);
	add(b, "resync_keys", e->resync);
	add(b, "healed", e->healed);
	add(b, "sync_full", e->sync_full);
	add(b, "granted", e->granted);
	add(b, "refused", e->refused);
	add(b, "released", e->released);
	add(b, "extended", e->extended);
	add(b, "updated", e->updated);
	add(b, "expired", e->expired);
	add(b, "stale", e->stale);
	add(b, "retries", e->retries);
	add(b, "aborts", e->aborts);
	add(b, "queries", e->queries);
	add(b, "dissolved", e->dissolved);
	add(b, "no_quorum", e->no_quorum);
	add(b, "unknown", e->unknown);
	add(b, "limit", e->limit);
	add(b, "messages_in", e->msgs_in);
	add(b, "messages_out", e->msgs_out);
	add(b, "messages_other_epoch", other_epoch);
	text_add(b, "\r\n");
}

static void add_peers(const struct shard *s, const struct tally *t, struct buf *b)
{
	uint8_t nodes[VIEWS_MAX];
	unsigned n = list_nodes(s, t, nodes);
	text_add(b, "# Peers\r\n");
	for (unsigned i = 0; i < n; i++) {
		const struct tally_peer *peer = tally_find(t, nodes[i]);
		if (peer == NULL)
			continue;
		const struct peer_info *p = &peer->info;
		struct node_view v = view_peer(s, t, nodes[i]);
		text_add(b,
			"peer%u:state=%s,role=%s,epoch=%llu,slots_voting=%u,slots_in_sync=%u,"
			"lag_ms=%lld,address=%s,links=%llu,heard_ms=%lld,frames_in=%llu,"
			"frames_out=%llu,messages_in=%llu,messages_out=%llu,stale_frames=%llu,"
			"bytes_in=%llu,bytes_out=%llu,messages_dropped=%llu,"
			"messages_other_epoch=%llu\r\n",
			v.id, v.state, v.role, (unsigned long long)v.epoch, v.slots_voting,
			v.slots_in_sync, (long long)v.lag_ms, v.address,
			(unsigned long long)v.links, (long long)v.heard_ms,
			(unsigned long long)p->frames_in, (unsigned long long)p->frames_out,
			(unsigned long long)p->msgs_in, (unsigned long long)p->msgs_out,
			(unsigned long long)p->stale_frames, (unsigned long long)p->bytes_in,
			(unsigned long long)p->bytes_out, (unsigned long long)p->msgs_dropped,
			(unsigned long long)p->msgs_other_epoch);
	}
	text_add(b, "\r\n");
}

void info_text(const struct shard *s, const struct tally *t, uint32_t sections, struct buf *b)
{
	if ((sections & SECTION_SERVER) != 0)
		add_server(s, b);
	if ((sections & SECTION_CLIENTS) != 0)
		text_add(b,
			"# Clients\r\nconnected_clients:%llu\r\nmaxclients:%llu\r\n"
			"blocked_clients:%llu\r\n\r\n",
			(unsigned long long)t->clients, (unsigned long long)s->cfg.max_clients,
			(unsigned long long)t->stats.waiters);
	if ((sections & SECTION_MEMORY) != 0)
		text_add(b, "# Memory\r\nused_memory:%llu\r\nmaxmemory:0\r\n\r\n",
			(unsigned long long)t->stats.memory_bytes);
	if ((sections & SECTION_PERSISTENCE) != 0)
		text_add(b,
			"# Persistence\r\nloading:0\r\nasync_loading:0\r\naof_enabled:0\r\n\r\n");
	if ((sections & SECTION_STATS) != 0)
		text_add(b,
			"# Stats\r\ntotal_connections_received:%llu\r\n"
			"total_commands_processed:%llu\r\ncommands_in_flight:%llu\r\n"
			"client_output_limit_disconnections:%llu\r\n\r\n",
			(unsigned long long)t->connections, (unsigned long long)t->commands,
			(unsigned long long)t->calls, (unsigned long long)t->closed_slow);
	/* Replicas here would make Redisson send WAIT (users.md D.6). */
	if ((sections & SECTION_REPLICATION) != 0)
		text_add(b, "# Replication\r\nrole:master\r\nconnected_slaves:0\r\n\r\n");
	if ((sections & SECTION_LOCKER) != 0)
		add_locker(s, t, b);
	if ((sections & SECTION_PEERS) != 0)
		add_peers(s, t, b);
	if ((sections & SECTION_KEYSPACE) != 0) {
		text_add(b, "# Keyspace\r\n");
		if (t->stats.leases > 0)
			text_add(b, "db0:keys=%llu,expires=%llu,avg_ttl=0\r\n",
				(unsigned long long)t->stats.leases,
				(unsigned long long)t->stats.leases);
	}
}

/* ---- NODES ---- */

static void field_str(struct buf *b, const char *name, const char *v)
{
	resp_bulk_str(b, name);
	resp_bulk_str(b, v);
}

static void field_int(struct buf *b, const char *name, int64_t v)
{
	resp_bulk_str(b, name);
	resp_int(b, v);
}

static void field_ids(struct buf *b, const char *name, const struct member *v, unsigned n)
{
	resp_bulk_str(b, name);
	resp_array(b, n);
	for (unsigned i = 0; i < n; i++)
		resp_int(b, v[i].id);
}

static void add_node(struct buf *b, bool resp3, const struct node_view *v)
{
	resp_map(b, resp3, 12);
	field_int(b, "id", v->id);
	field_str(b, "role", v->role);
	field_str(b, "state", v->state);
	field_int(b, "epoch", (int64_t)v->epoch);
	field_int(b, "slots-voting", v->slots_voting);
	field_int(b, "slots-in-sync", v->slots_in_sync);
	field_int(b, "lag-ms", v->lag_ms);
	field_str(b, "address", v->address);
	field_int(b, "remaining-ms", (int64_t)v->remaining_ms);
	field_int(b, "links", (int64_t)v->links);
	field_int(b, "heard-ms", v->heard_ms);
	field_int(b, "since-ms", v->since_ms);
}

static void add_change(const struct shard *s, bool resp3, struct buf *b)
{
	resp_bulk_str(b, "change");
	if (s->change.steps == 0) {
		resp_null(b, resp3);
		return;
	}
	resp_map(b, resp3, 3);
	field_int(b, "step", s->change.step);
	field_int(b, "steps", s->change.steps);
	field_str(b, "text", s->change.text);
}

void nodes_reply(const struct shard *s, const struct tally *t, bool resp3, struct buf *b)
{
	const struct membership *m = &s->cfg.members;
	uint8_t nodes[VIEWS_MAX];
	unsigned n = list_nodes(s, t, nodes);
	resp_map(b, resp3, 7);
	field_int(b, "epoch", (int64_t)m->epoch);
	field_int(b, "slots", s->cfg.engine.slots);
	field_int(b, "quorum", m->n_masters / 2 + 1);
	field_ids(b, "masters", m->masters, m->n_masters);
	field_ids(b, "replicas", m->replicas, m->n_replicas);
	add_change(s, resp3, b);
	resp_bulk_str(b, "nodes");
	resp_array(b, n);
	for (unsigned i = 0; i < n; i++) {
		struct node_view v = view_of(s, t, nodes[i]);
		add_node(b, resp3, &v);
	}
}
