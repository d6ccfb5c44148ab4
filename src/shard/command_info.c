#include "shard/client.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* Texts of INFO and the map of NODES. */

/* What Redis' clients read here decides how they go on: a single, ready master without replicas and
 * without append-only file (users.md D.4). */
#define REDIS_VERSION "7.4.0"

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
static uint8_t own_status(const struct shard *s)
{
	return s->status.status != 0 ? s->status.status : (uint8_t)NODE_QUARANTINE;
}

/* Of the wait that is on, at most: in quarantine before it asks, in resync before it votes. */
static uint64_t restart_left_ms(const struct shard *s)
{
	bool waits = own_status(s) == NODE_QUARANTINE || own_status(s) == NODE_RESYNC;
	if (!waits || s->status.until_mclk <= s->now.mclk)
		return 0;
	return (s->status.until_mclk - s->now.mclk) / 1000000;
}

static const char *peer_state(const struct tally_peer *peer)
{
	return peer->known && peer->info.linked ? state_name(peer->info.status) : "down";
}

/* -1: never. */
static int64_t heard_ms(const struct peer_info *p)
{
	return p->heard_ago_ns == UINT64_MAX ? -1 : (int64_t)(p->heard_ago_ns / 1000000);
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

static void add_locker(const struct shard *s, const struct tally *t, struct buf *b)
{
	const struct engine_stats *e = &t->stats;
	const struct engine_config *cfg = &s->cfg.engine;
	text_add(b, "# Locker\r\ncluster:%s\r\nnode:%u\r\nstate:%s\r\n", s->cfg.cluster_name,
		cfg->self, state_name(own_status(s)));
	add(b, "epoch", s->cfg.epoch);
	add(b, "restart_remaining_ms", restart_left_ms(s));
	add(b, "quorum", cfg->n_masters / 2U + 1);
	add(b, "masters", cfg->n_masters);
	add(b, "threads", s->cfg.threads);
	add(b, "slots", cfg->slots);
	add(b, "max_lease_ms", cfg->max_lease_ms);
	add(b, "slots_voting", e->slots_voting);
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
	text_add(b, "\r\n");
}

static void add_peers(const struct shard *s, const struct tally *t, struct buf *b)
{
	text_add(b, "# Peers\r\n");
	for (unsigned i = 0; i < s->cfg.engine.n_masters; i++) {
		const struct tally_peer *peer = &t->peers[i];
		const struct peer_info *p = &peer->info;
		if (!peer->known)
			continue;
		text_add(b,
			"peer%u:state=%s,slots_voting=%u,address=%s,links=%u,heard_ms=%lld,"
			"frames_in=%llu,"
			"frames_out=%llu,messages_in=%llu,messages_out=%llu,stale_frames=%llu,"
			"bytes_in=%llu,bytes_out=%llu,messages_dropped=%llu\r\n",
			s->cfg.engine.masters[i], peer_state(peer), p->slots_voting,
			s->cfg.master_addrs[i] != NULL ? s->cfg.master_addrs[i] : "", p->links,
			(long long)heard_ms(p), (unsigned long long)p->frames_in,
			(unsigned long long)p->frames_out, (unsigned long long)p->msgs_in,
			(unsigned long long)p->msgs_out, (unsigned long long)p->stale_frames,
			(unsigned long long)p->bytes_in, (unsigned long long)p->bytes_out,
			(unsigned long long)p->msgs_dropped);
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

static void add_node(struct buf *b, bool resp3, uint8_t id, const char *role, const char *state,
	unsigned slots, const char *address, uint64_t remaining_ms, uint64_t links,
	int64_t heard_ms)
{
	resp_map(b, resp3, 8);
	resp_bulk_str(b, "id");
	resp_int(b, id);
	resp_bulk_str(b, "role");
	resp_bulk_str(b, role);
	resp_bulk_str(b, "state");
	resp_bulk_str(b, state);
	resp_bulk_str(b, "slots-voting");
	resp_int(b, slots);
	resp_bulk_str(b, "address");
	resp_bulk_str(b, address);
	resp_bulk_str(b, "remaining-ms");
	resp_int(b, (int64_t)remaining_ms);
	resp_bulk_str(b, "links");
	resp_int(b, (int64_t)links);
	resp_bulk_str(b, "heard-ms");
	resp_int(b, heard_ms);
}

void nodes_reply(const struct shard *s, const struct tally *t, bool resp3, struct buf *b)
{
	const struct engine_config *cfg = &s->cfg.engine;
	bool member = false;
	for (unsigned i = 0; i < cfg->n_masters; i++)
		member |= cfg->masters[i] == cfg->self;
	resp_map(b, resp3, 6);
	resp_bulk_str(b, "epoch");
	resp_int(b, (int64_t)s->cfg.epoch);
	resp_bulk_str(b, "slots");
	resp_int(b, cfg->slots);
	resp_bulk_str(b, "quorum");
	resp_int(b, cfg->n_masters / 2 + 1);
	resp_bulk_str(b, "masters");
	resp_array(b, cfg->n_masters);
	for (unsigned i = 0; i < cfg->n_masters; i++)
		resp_int(b, cfg->masters[i]);
	resp_bulk_str(b, "replicas");
	resp_array(b, 0);
	resp_bulk_str(b, "nodes");
	resp_array(b, (size_t)cfg->n_masters + !member);
	if (!member)
		add_node(b, resp3, cfg->self, "coordinator", state_name(own_status(s)), 0,
			s->cfg.peer_addr, restart_left_ms(s), 0, 0);
	for (unsigned i = 0; i < cfg->n_masters; i++) {
		const struct tally_peer *peer = &t->peers[i];
		const char *address = s->cfg.master_addrs[i] != NULL ? s->cfg.master_addrs[i] : "";
		if (cfg->masters[i] == cfg->self)
			add_node(b, resp3, cfg->self, "master", state_name(own_status(s)),
				t->stats.slots_voting, address, restart_left_ms(s), 0, 0);
		else
			add_node(b, resp3, cfg->masters[i], "master", peer_state(peer),
				peer->info.linked ? peer->info.slots_voting : 0, address, 0,
				peer->info.links, heard_ms(&peer->info));
	}
}
