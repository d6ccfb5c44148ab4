/* Many nodes with the register of configurations, a network that loses, doubles, delays and
 * reorders, crashes with writes that may or may not have happened, and two or more who change the
 * nodes at once. MEMBERS_SEED: that seed only; MEMBERS_SEEDS: so many. */
#include "node/members.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define MS UINT64_C(1000000)

enum {
	NODES_MAX = 7,
	IN_FLIGHT_MAX = 4096,
	EPOCHS_MAX = 512,
	ATTEMPT_MS = 200,
	SLOTS = 64,
	TICK_MS = 5,
	CHAOS_MS = 30000,
	ENDS_MS = 120000, /* every sequence, once all is well again */
};

struct sim_node {
	struct members *m; /* NULL: down */
	struct members_register disk;
	bool writing;
	struct members_register write;
	uint64_t written_ns, up_ns;
	bool alive, forgetful;
	unsigned lives;
	/* what its shards are up to */
	uint64_t acts_epoch, moved_ns, moved;
	uint64_t syncs_epoch, synced_ns, synced; /* masters_epoch */
	uint64_t epoch_seen;
	/* ever, in all lives */
	uint64_t merged;
	bool waits; /* for the result of SETNODES */
	char error[MEMBERS_ERROR_MAX_BYTES];
};

struct packet {
	uint64_t at_ns;
	uint8_t from, to;
	unsigned link_life;
	struct config_msg msg;
};

struct accepted {
	bool by[NODES_MAX + 1];
	struct membership config;
};

struct sim {
	uint64_t seed, now_ns;
	struct prng rng;
	unsigned n;
	bool chaos, ready, frozen;
	unsigned lose, twice; /* percent */
	unsigned delay_ms, sync_ms, restart_ms;
	unsigned crash_ticks, cut_ticks, set_ticks; /* how often, on average */
	unsigned rivals;                            /* who change the nodes at once */
	unsigned forgets;                           /* which node may lose its file, 0: none */
	unsigned forgot;                            /* which has */
	struct sim_node nodes[NODES_MAX + 1];
	bool linked[NODES_MAX + 1][NODES_MAX + 1], cut[NODES_MAX + 1][NODES_MAX + 1];
	unsigned link_life[NODES_MAX + 1][NODES_MAX + 1];
	struct packet *packets;
	unsigned n_packets;
	struct membership *history;              /* by epoch */
	struct accepted accepted[EPOCHS_MAX][8]; /* values that were accepted for an epoch */
	unsigned commits, results_ok, results_error;
};

static unsigned below(struct sim *s, unsigned bound)
{
	return (unsigned)prng_below(&s->rng, bound);
}

#define JUDGE(s, x)                                                                                \
	do {                                                                                       \
		if (!(x))                                                                          \
			fail_msg("seed %llu, %llu ms: %s", (unsigned long long)(s)->seed,          \
				(unsigned long long)((s)->now_ns / MS), #x);                       \
	} while (0)

static bool same(const struct membership *a, const struct membership *b)
{
	return a->epoch == b->epoch && a->masters_epoch == b->masters_epoch &&
	       a->joined == b->joined && a->departed == b->departed && membership_same(a, b);
}

/* ---- judges ---- */

static void judge_disk(struct sim *s, unsigned id)
{
	const struct members_register *r = &s->nodes[id].disk;
	uint64_t e = r->accepted.epoch;
	if (e == 0)
		return;
	JUDGE(s, e < EPOCHS_MAX && e == r->committed.epoch + 1);
	for (unsigned i = 0; i < 8; i++) {
		struct accepted *a = &s->accepted[e][i];
		if (a->config.epoch == 0)
			a->config = r->accepted;
		if (!same(&a->config, &r->accepted))
			continue;
		a->by[id] = true;
		return;
	}
}

static unsigned count_accepted(
	struct sim *s, const struct membership *value, const struct membership *of)
{
	for (unsigned i = 0; i < 8; i++) {
		struct accepted *a = &s->accepted[value->epoch][i];
		unsigned n = 0;
		if (a->config.epoch == 0 || !same(&a->config, value))
			continue;
		for (unsigned j = 0; j < of->n_masters; j++)
			n += a->by[of->masters[j].id];
		return n;
	}
	return 0;
}

static void judge_first(struct sim *s, const struct membership *c)
{
	const struct membership *before = &s->history[c->epoch - 1];
	unsigned differ = 0, merged = 0;
	JUDGE(s, before->epoch == c->epoch - 1);
	for (unsigned id = 1; id <= s->n; id++)
		differ += membership_role(c, (uint8_t)id) != membership_role(before, (uint8_t)id);
	JUDGE(s, differ == 1);
	for (unsigned i = 0; i < before->n_masters; i++)
		merged += s->nodes[before->masters[i].id].merged >= before->masters_epoch;
	JUDGE(s, merged > before->n_masters / 2U);
	JUDGE(s, count_accepted(s, c, before) > before->n_masters / 2U);
	JUDGE(s, count_accepted(s, c, c) > c->n_masters / 2U);
	s->commits++;
}

static void judge_current(struct sim *s, unsigned id)
{
	struct sim_node *n = &s->nodes[id];
	const struct membership *c = members_current(n->m);
	if (c->epoch == 0)
		return;
	JUDGE(s, c->epoch < EPOCHS_MAX);
	JUDGE(s, c->epoch >= n->epoch_seen);
	JUDGE(s, same(c, &n->disk.committed));
	n->epoch_seen = c->epoch;
	if (s->history[c->epoch].epoch == 0) {
		judge_first(s, c);
		s->history[c->epoch] = *c;
	}
	JUDGE(s, same(&s->history[c->epoch], c));
}

/* What is told is on the disk. */
static void judge_told(struct sim *s, unsigned id, const struct config_msg *msg)
{
	const struct members_register *r = &s->nodes[id].disk;
	JUDGE(s, r->committed.epoch == msg->epoch);
	if (msg->kind == CONFIG_PROMISE)
		JUDGE(s, r->promised.n == msg->b.n && r->promised.node == msg->b.node &&
				 r->accepted_at.n == msg->accepted_at.n);
	if (msg->kind == CONFIG_ACCEPTED)
		JUDGE(s, r->accepted_at.n == msg->b.n && r->accepted_at.node == msg->b.node);
	if (msg->kind == CONFIG_PREPARE)
		JUDGE(s, r->promised.n >= msg->b.n);
}

/* ---- the world ---- */

static void send_packet(struct sim *s, uint8_t from, uint8_t to, const struct config_msg *msg)
{
	if (!s->linked[from][to] || (s->chaos && below(s, 100) < s->lose))
		return;
	unsigned copies = 1 + (s->chaos && below(s, 100) < s->twice);
	while (copies-- > 0 && s->n_packets < IN_FLIGHT_MAX)
		s->packets[s->n_packets++] = (struct packet){
			.at_ns = s->now_ns + (1 + below(s, s->chaos ? s->delay_ms : 5)) * MS,
			.from = from,
			.to = to,
			.link_life = s->link_life[from][to],
			.msg = *msg,
		};
}

/* After everything that happens to a node. */
static void node_drain(struct sim *s, unsigned id)
{
	struct sim_node *n = &s->nodes[id];
	struct config_msg msg;
	uint8_t to;
	if (!n->writing && members_wants_write(n->m, &n->write)) {
		n->writing = true;
		n->written_ns = s->now_ns + below(s, s->chaos ? 40 : 5) * MS;
	}
	while (members_take_message(n->m, &to, &msg)) {
		judge_told(s, id, &msg);
		send_packet(s, (uint8_t)id, to, &msg);
	}
	if (members_take_result(n->m, n->error)) {
		JUDGE(s, n->waits);
		n->waits = false;
		if (getenv("MEMBERS_SEED") != NULL)
			print_message("%llu ms: node %u: '%s'\n",
				(unsigned long long)(s->now_ns / MS), id, n->error);
		if (n->error[0] == '\0')
			s->results_ok++;
		else
			s->results_error++;
	}
	judge_current(s, id);
}

static void node_start(struct sim *s, unsigned id)
{
	struct sim_node *n = &s->nodes[id];
	struct members_config cfg = {
		.self = (uint8_t)id,
		.forgetful = n->forgetful,
		.reg = n->disk,
		.attempt_ms = ATTEMPT_MS,
		.seed = prng_next(&s->rng),
	};
	n->m = calloc(1, members_bytes());
	assert_non_null(n->m);
	members_init(n->m, &cfg, s->now_ns);
	n->alive = true;
	n->lives++;
	n->writing = false;
	n->moved = n->synced = n->acts_epoch = n->syncs_epoch = 0;
	members_tick(n->m, s->now_ns);
	node_drain(s, id);
}

static void node_crash(struct sim *s, unsigned id)
{
	struct sim_node *n = &s->nodes[id];
	if (n->writing && below(s, 2) != 0) {
		n->disk = n->write;
		n->forgetful = false;
		judge_disk(s, id);
	}
	n->writing = false;
	n->waits = false;
	free(n->m);
	n->m = NULL;
	n->alive = false;
	n->up_ns = s->now_ns + (5 + below(s, s->restart_ms)) * MS;
	if (s->forgets == id && below(s, 2) == 0) {
		/* Once: the others must not have forgotten, too. */
		n->disk = (struct members_register){.committed = s->history[1]};
		n->forgetful = true;
		n->epoch_seen = 0;
		s->forgets = 0;
		s->forgot = id;
	}
}

static bool member_anywhere(struct sim *s, unsigned a, unsigned b)
{
	const struct membership *c = members_current(s->nodes[a].m);
	return membership_role(c, (uint8_t)a) != ROLE_NONE ||
	       membership_role(c, (uint8_t)b) != ROLE_NONE;
}

static void link_set(struct sim *s, unsigned a, unsigned b, bool up)
{
	char addr[32];
	unsigned ends[2][2] = {{a, b}, {b, a}};
	s->linked[a][b] = s->linked[b][a] = up;
	s->link_life[a][b]++;
	s->link_life[b][a]++;
	for (unsigned i = 0; i < 2; i++) {
		struct sim_node *n = &s->nodes[ends[i][0]];
		if (n->m == NULL)
			continue;
		(void)snprintf(addr, sizeof addr, "h%u:7000", ends[i][1]);
		members_link(n->m, s->now_ns, (uint8_t)ends[i][1], up, addr);
		node_drain(s, ends[i][0]);
	}
}

static void links(struct sim *s)
{
	for (unsigned a = 1; a <= s->n; a++) {
		for (unsigned b = a + 1; b <= s->n; b++) {
			bool up = s->nodes[a].alive && s->nodes[b].alive && !s->cut[a][b] &&
				  (member_anywhere(s, a, b) || member_anywhere(s, b, a));
			if (up != s->linked[a][b])
				link_set(s, a, b, up);
		}
	}
}

static void deliver(struct sim *s)
{
	for (unsigned i = 0; i < s->n_packets;) {
		struct packet p = s->packets[i];
		if (p.at_ns > s->now_ns) {
			i++;
			continue;
		}
		s->packets[i] = s->packets[--s->n_packets];
		if (p.link_life != s->link_life[p.from][p.to] || s->nodes[p.to].m == NULL)
			continue;
		members_receive(s->nodes[p.to].m, s->now_ns, p.from, &p.msg);
		node_drain(s, p.to);
	}
}

/* Its shards move to the configuration, and its slots get in sync. */
static void shards(struct sim *s, unsigned id)
{
	struct sim_node *n = &s->nodes[id];
	const struct membership *c = members_current(n->m);
	uint64_t moved = n->moved, synced = n->synced;
	bool master = membership_role(c, (uint8_t)id) == ROLE_MASTER;
	bool member = membership_role(c, (uint8_t)id) != ROLE_NONE;
	if (n->acts_epoch != c->epoch) {
		n->acts_epoch = c->epoch;
		n->moved_ns = s->now_ns + below(s, s->sync_ms / 5) * MS;
	}
	if (s->now_ns >= n->moved_ns)
		n->moved = n->acts_epoch;
	if (n->syncs_epoch != c->masters_epoch) {
		n->syncs_epoch = c->masters_epoch;
		n->synced_ns = n->moved_ns + below(s, s->sync_ms) * MS;
	}
	if (!member || n->synced != c->masters_epoch)
		n->synced = 0;
	if (member && s->now_ns >= n->synced_ns && n->moved == c->epoch)
		n->synced = c->masters_epoch;
	if (master && n->synced > n->merged)
		n->merged = n->synced;
	if (n->moved == moved && n->synced == synced)
		return;
	members_progress(n->m, s->now_ns, n->moved, n->synced);
	node_drain(s, id);
}

static void nodes_go_on(struct sim *s)
{
	for (unsigned id = 1; id <= s->n; id++) {
		struct sim_node *n = &s->nodes[id];
		if (!n->alive && s->now_ns >= n->up_ns)
			node_start(s, id);
		if (!n->alive)
			continue;
		if (n->writing && s->now_ns >= n->written_ns) {
			n->writing = false;
			n->disk = n->write;
			n->forgetful = false; /* there is a file again */
			judge_disk(s, id);
			members_written(n->m, s->now_ns);
			node_drain(s, id);
		}
		if (s->now_ns >= members_due_ns(n->m)) {
			members_tick(n->m, s->now_ns);
			node_drain(s, id);
		}
		shards(s, id);
	}
}

static void random_target(struct sim *s, struct members_target *t)
{
	*t = (struct members_target){.has_replicas = below(s, 3) != 0};
	for (unsigned id = 1; id <= s->n; id++) {
		unsigned what = below(s, 4);
		if (what < 2)
			t->masters[t->n_masters++] = (uint8_t)id;
		else if (what == 2 && t->has_replicas)
			t->replicas[t->n_replicas++] = (uint8_t)id;
	}
	if (t->n_masters == 0 && (!t->has_replicas || t->n_replicas < s->n)) {
		t->has_replicas = false;
		t->n_replicas = 0;
		t->masters[t->n_masters++] = (uint8_t)(1 + below(s, s->n));
	}
}

static int set_nodes(struct sim *s, unsigned id, const struct members_target *t)
{
	struct sim_node *n = &s->nodes[id];
	char why[MEMBERS_ERROR_MAX_BYTES] = "";
	bool waited = n->waits;
	/* A result may come at once. */
	n->waits = true;
	int r = members_set(n->m, s->now_ns, t, why, sizeof why);
	if (r != 0) {
		n->waits = waited;
		JUDGE(s, why[0] != '\0' && (r != -EBUSY || waited));
	} else {
		JUDGE(s, !waited);
	}
	node_drain(s, id);
	return r;
}

static void chaos(struct sim *s)
{
	struct members_target t;
	unsigned a = 1 + below(s, s->n), b = 1 + below(s, s->n);
	if (below(s, s->crash_ticks) == 0 && s->nodes[a].alive)
		node_crash(s, a);
	if (below(s, s->cut_ticks) == 0)
		s->cut[a][b] = s->cut[b][a] = true;
	if (below(s, 60) == 0)
		s->cut[a][b] = s->cut[b][a] = false;
	if (below(s, 1500) == 0) /* one alone */
		for (unsigned id = 1; id <= s->n; id++)
			s->cut[a][id] = s->cut[id][a] = true;
	if (below(s, s->set_ticks) != 0)
		return;
	for (unsigned i = 0; i < s->rivals; i++) {
		a = 1 + below(s, s->n);
		random_target(s, &t);
		if (s->nodes[a].alive)
			(void)set_nodes(s, a, &t);
	}
}

static void heal(struct sim *s)
{
	s->chaos = false;
	memset(s->cut, 0, sizeof s->cut);
	for (unsigned id = 1; id <= s->n; id++)
		s->nodes[id].up_ns = s->now_ns;
}

static void run_for(struct sim *s, unsigned ms)
{
	for (uint64_t end_ns = s->now_ns + ms * MS; s->now_ns < end_ns;) {
		s->now_ns += TICK_MS * MS;
		if (s->chaos && s->ready)
			chaos(s);
		links(s);
		deliver(s);
		nodes_go_on(s);
	}
}

static bool anybody_waits(const struct sim *s)
{
	for (unsigned id = 1; id <= s->n; id++)
		if (s->nodes[id].waits)
			return true;
	return false;
}

static void sim_begin(struct sim *s, uint64_t seed)
{
	memset(s, 0, sizeof *s);
	s->seed = seed;
	prng_seed(&s->rng, seed);
	s->now_ns = 1000 * MS;
	s->packets = calloc(IN_FLIGHT_MAX, sizeof *s->packets);
	s->history = calloc(EPOCHS_MAX, sizeof *s->history);
	assert_non_null(s->packets);
	assert_non_null(s->history);
	s->n = 5 + below(s, NODES_MAX - 4);
	s->lose = below(s, 50);
	s->twice = below(s, 30);
	s->delay_ms = 5 + below(s, below(s, 2) == 0 ? 30 : 300);
	s->sync_ms = below(s, 2) == 0 ? 50 : 1500;
	s->restart_ms = below(s, 2) == 0 ? 50 : 4000;
	s->crash_ticks = 20 + below(s, 400);
	s->cut_ticks = 100 + below(s, 600);
	s->set_ticks = 50 + below(s, 200);
	s->rivals = 2 + below(s, 3);
	if (below(s, 3) == 0) { /* crashes everywhere, and hardly any progress but by luck */
		s->crash_ticks = 5 + below(s, 15);
		s->restart_ms = 10;
		s->sync_ms = 20;
		s->cut_ticks = 10000;
		s->set_ticks = 10 + below(s, 30);
	}
	s->forgets = below(s, 3) == 0 ? 1 + below(s, s->n) : 0;
	struct membership *c = &s->history[1];
	*c = (struct membership){.epoch = 1,
		.masters_epoch = 1,
		.slots = SLOTS,
		.max_lease_ms = 60000,
		.attempt_ms = ATTEMPT_MS,
		.drift_ppm = 1000};
	unsigned masters = 1 + below(s, s->n);
	for (unsigned id = 1; id <= masters; id++) {
		struct member *e = &c->masters[c->n_masters++];
		e->id = (uint8_t)id;
		(void)snprintf(e->addr, sizeof e->addr, "h%u:7000", id);
	}
	for (unsigned id = 1; id <= s->n; id++) {
		s->nodes[id].disk.committed = *c;
		node_start(s, id);
	}
}

static void sim_end(struct sim *s)
{
	for (unsigned id = 1; id <= s->n; id++)
		free(s->nodes[id].m);
	free(s->packets);
	free(s->history);
}

static bool reached(const struct membership *c, const struct members_target *t)
{
	unsigned masters = 0;
	for (unsigned i = 0; i < t->n_masters; i++)
		masters += membership_role(c, t->masters[i]) == ROLE_MASTER;
	for (unsigned i = 0; i < t->n_replicas; i++)
		if (membership_role(c, t->replicas[i]) != ROLE_REPLICA)
			return false;
	return masters == t->n_masters && c->n_masters == t->n_masters &&
	       (!t->has_replicas || c->n_replicas == t->n_replicas);
}

/* In force. Who knew of a later one alone may have lost its file. */
static const struct membership *newest(const struct sim *s)
{
	uint64_t top = 1;
	for (unsigned id = 1; id <= s->n; id++)
		if (members_current(s->nodes[id].m)->epoch > top)
			top = members_current(s->nodes[id].m)->epoch;
	return &s->history[top];
}

/* Two of two masters are needed, and one of them has forgotten what it promised. */
static bool is_frozen(const struct sim *s)
{
	const struct membership *c = newest(s);
	return s->forgot != 0 && c->n_masters <= 2 &&
	       membership_role(c, (uint8_t)s->forgot) == ROLE_MASTER &&
	       s->nodes[s->forgot].disk.promised.n == BALLOT_MAX;
}

/* By a master. What an earlier change left behind is finished first, and that may be its own
 * removal: then it cannot see everybody any more. */
static bool set_until_end(struct sim *s, const struct members_target *t)
{
	const struct membership *c = newest(s);
	uint8_t id = c->masters[below(s, c->n_masters)].id;
	struct sim_node *n = &s->nodes[id];
	JUDGE(s, members_current(n->m)->epoch == c->epoch);
	JUDGE(s, set_nodes(s, id, t) == 0);
	for (unsigned ms = 0; n->waits && ms < ENDS_MS; ms += 100)
		run_for(s, 100);
	JUDGE(s, !n->waits);
	if (n->error[0] == '\0')
		return true;
	if (membership_role(members_current(n->m), id) == ROLE_NONE)
		return false;
	s->frozen = is_frozen(s);
	if (!s->frozen)
		print_message("node %u: %s\n", id, n->error);
	JUDGE(s, s->frozen);
	return false;
}

static void last_set(struct sim *s)
{
	struct members_target t;
	do
		random_target(s, &t);
	while (t.n_masters == 0);
	if (!set_until_end(s, &t) && (s->frozen || !set_until_end(s, &t))) {
		JUDGE(s, s->frozen);
		return;
	}
	JUDGE(s, reached(newest(s), &t));
	run_for(s, 2000);
	for (unsigned i = 1; i <= s->n; i++) {
		JUDGE(s, members_current(s->nodes[i].m)->epoch == newest(s)->epoch);
		JUDGE(s, members_settled(s->nodes[i].m));
	}
}

static void run_seed(struct sim *s, uint64_t seed)
{
	sim_begin(s, seed);
	run_for(s, 3000);
	s->chaos = s->ready = true;
	run_for(s, CHAOS_MS);
	heal(s);
	for (unsigned ms = 0; anybody_waits(s) && ms < ENDS_MS; ms += 100)
		run_for(s, 100);
	JUDGE(s, !anybody_waits(s));
	run_for(s, 3000);
	last_set(s);
	sim_end(s);
}

static void test_members_random(void **state)
{
	(void)state;
	const char *only = getenv("MEMBERS_SEED"), *many = getenv("MEMBERS_SEEDS");
	uint64_t first = only != NULL ? strtoull(only, NULL, 10) : 1;
	uint64_t n = only != NULL ? 1 : many != NULL ? strtoull(many, NULL, 10) : 60;
	unsigned commits = 0, ok = 0, errors = 0, frozen = 0;
	struct sim *s = calloc(1, sizeof *s);
	assert_non_null(s);
	for (uint64_t seed = first; seed < first + n; seed++) {
		run_seed(s, seed);
		commits += s->commits;
		ok += s->results_ok;
		errors += s->results_error;
		frozen += s->frozen;
	}
	free(s);
	print_message("%u changes, %u sequences OK, %u ended with an error, %u frozen\n", commits,
		ok, errors, frozen);
	/* The world is not so bad that nothing happens in it. */
	assert_true(only != NULL || commits > n);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_members_random),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
