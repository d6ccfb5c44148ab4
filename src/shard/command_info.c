#include "shard/client.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* Texts of INFO, the maps of NODES and STATS. */

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

/* Counters and gauges of the node, in the order of INFO. */
struct gauge {
	const char *name; /* NULL: not of this node */
	int64_t value;
};

enum { GAUGES_MAX = 64 };

static unsigned node_gauges(
	const struct shard *s, const struct tally *t, struct gauge ret[GAUGES_MAX])
{
	const struct engine_stats *e = &t->stats;
	const struct engine_config *cfg = &s->cfg.engine;
	const struct membership *m = &s->cfg.members;
	bool replica = membership_role(m, cfg->self) == ROLE_REPLICA;
	uint64_t other_epoch = 0;
	for (unsigned i = 0; i < t->n_peers; i++)
		other_epoch += t->peers[i].info.msgs_other_epoch;
	const struct gauge all[] = {
		{"epoch", (int64_t)m->epoch},
		{"masters_epoch", (int64_t)m->masters_epoch},
		{"restart_remaining_ms", (int64_t)restart_left_ms(s)},
		{"quorum", m->n_masters / 2 + 1},
		{"masters", m->n_masters},
		{"replicas", m->n_replicas},
		{"threads", s->cfg.threads},
		{"slots", cfg->slots},
		{"max_lease_ms", cfg->max_lease_ms},
		{"slots_voting", e->slots_voting},
		{"slots_in_sync", e->slots_in_sync},
		{replica ? "replica_lag_ms" : NULL, ms_or_none(e->lag_ns)},
		{"followers", (int64_t)e->followers},
		{"log_records", (int64_t)e->log_records},
		{"log_sent", (int64_t)e->log_sent},
		{"log_gaps", (int64_t)e->log_gaps},
		{"copied", (int64_t)e->copied},
		{"snapshots", (int64_t)e->snapshots},
		{"leases", (int64_t)e->leases},
		{"promises", (int64_t)e->promises},
		{"waiters", (int64_t)e->waiters},
		{"observers", (int64_t)e->observers},
		{"operations", (int64_t)e->ops},
		{"operations_max", (int64_t)e->ops_max},
		{"tombstones", (int64_t)e->tombstones},
		{"shadows", (int64_t)e->shadows},
		{"staged", (int64_t)e->staged},
		{"resync_keys", (int64_t)e->resync},
		{"healed", (int64_t)e->healed},
		{"sync_full", (int64_t)e->sync_full},
		{"granted", (int64_t)e->granted},
		{"refused", (int64_t)e->refused},
		{"released", (int64_t)e->released},
		{"extended", (int64_t)e->extended},
		{"updated", (int64_t)e->updated},
		{"expired", (int64_t)e->expired},
		{"stale", (int64_t)e->stale},
		{"retries", (int64_t)e->retries},
		{"aborts", (int64_t)e->aborts},
		{"queries", (int64_t)e->queries},
		{"dissolved", (int64_t)e->dissolved},
		{"no_quorum", (int64_t)e->no_quorum},
		{"unknown", (int64_t)e->unknown},
		{"limit", (int64_t)e->limit},
		{"messages_in", (int64_t)e->msgs_in},
		{"messages_out", (int64_t)e->msgs_out},
		{"messages_other_epoch", (int64_t)other_epoch},
	};
	_Static_assert(sizeof all / sizeof all[0] <= GAUGES_MAX, "the caller's array");
	unsigned n = 0;
	for (unsigned i = 0; i < sizeof all / sizeof all[0]; i++)
		if (all[i].name != NULL)
			ret[n++] = all[i];
	return n;
}

static void add_locker(const struct shard *s, const struct tally *t, struct buf *b)
{
	struct gauge gauges[GAUGES_MAX];
	unsigned n = node_gauges(s, t, gauges);
	uint8_t self = s->cfg.engine.self;
	text_add(b, "# Locker\r\ncluster:%s\r\nnode:%u\r\nmember_role:%s\r\nstate:%s\r\n",
		s->cfg.cluster_name, self, role_name(s, self), state_name(own_state(s)));
	for (unsigned i = 0; i < n; i++)
		text_add(b, "%s:%lld\r\n", gauges[i].name, (long long)gauges[i].value);
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

/* ---- STATS ---- */

static const char *const shard_fields[] = {"slots", "slots_voting", "slots_in_sync", "leases",
	"promises", "waiters", "operations", "tombstones", "granted", "refused", "released",
	"expired", "used_memory", "connected_clients", "total_commands_processed",
	"commands_in_flight"};
enum { SHARD_FIELDS = sizeof shard_fields / sizeof shard_fields[0] };

/* One of each shard, in the order in which they answer. */
struct shard_row {
	uint64_t shard;
	uint64_t fields[SHARD_FIELDS];
};

void stats_answer(const struct shard *s, struct tally *t, struct buf *text)
{
	const struct engine_stats *e = &t->stats;
	struct shard_row row = {.shard = s->cfg.index,
		.fields = {e->slots, e->slots_voting, e->slots_in_sync, e->leases, e->promises,
			e->waiters, e->ops, e->tombstones, e->granted, e->refused, e->released,
			e->expired, e->memory_bytes, t->clients, t->commands, t->calls}};
	t->failed |= buf_append(text, &row, sizeof row) != 0;
}

static void add_shard(const struct buf *rows, unsigned shard, bool resp3, struct buf *b)
{
	struct shard_row row;
	for (size_t at = 0; at < rows->len; at += sizeof row) {
		memcpy(&row, rows->data + at, sizeof row);
		if (row.shard != shard)
			continue;
		resp_map(b, resp3, SHARD_FIELDS + 1);
		field_int(b, "shard", shard);
		for (unsigned i = 0; i < SHARD_FIELDS; i++)
			field_int(b, shard_fields[i], (int64_t)row.fields[i]);
	}
}

void stats_reply(const struct shard *s, const struct tally *t, const struct buf *text, bool resp3,
	struct buf *b)
{
	uint8_t self = s->cfg.engine.self;
	struct gauge all[GAUGES_MAX];
	unsigned n = node_gauges(s, t, all);
	const struct gauge more[] = {
		{"uptime_in_seconds", (int64_t)((s->now.mclk - s->started_mclk) / 1000000000)},
		{"used_memory", (int64_t)t->stats.memory_bytes},
		{"connected_clients", (int64_t)t->clients},
		{"maxclients", s->cfg.max_clients},
		{"total_connections_received", (int64_t)t->connections},
		{"total_commands_processed", (int64_t)t->commands},
		{"commands_in_flight", (int64_t)t->calls},
		{"client_output_limit_disconnections", (int64_t)t->closed_slow},
	};
	unsigned n_more = sizeof more / sizeof more[0];
	resp_map(b, resp3, 4 + n + n_more + 1);
	field_str(b, "cluster", s->cfg.cluster_name);
	field_int(b, "node", self);
	field_str(b, "member_role", role_name(s, self));
	field_str(b, "state", state_name(own_state(s)));
	for (unsigned i = 0; i < n; i++)
		field_int(b, all[i].name, all[i].value);
	for (unsigned i = 0; i < n_more; i++)
		field_int(b, more[i].name, more[i].value);
	resp_bulk_str(b, "shards");
	resp_array(b, s->cfg.threads);
	for (unsigned i = 0; i < s->cfg.threads; i++)
		add_shard(text, i, resp3, b);
}
