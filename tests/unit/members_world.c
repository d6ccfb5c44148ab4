#include "members_world.h"

struct world w;

struct membership config_of(unsigned masters, unsigned replicas)
{
	struct membership c = {.epoch = 1,
		.masters_epoch = 1,
		.slots = SLOTS,
		.max_lease_ms = 60000,
		.attempt_ms = ATTEMPT_MS,
		.drift_ppm = 1000};
	for (unsigned id = 1; id <= masters + replicas; id++) {
		struct member *e =
			id <= masters ? &c.masters[c.n_masters++] : &c.replicas[c.n_replicas++];
		e->id = (uint8_t)id;
		(void)snprintf(e->addr, sizeof e->addr, "h%u:7000", id);
	}
	return c;
}

struct members *boot(unsigned id, bool forgetful)
{
	struct members_config cfg = {.self = (uint8_t)id,
		.forgetful = forgetful,
		.reg = w.disk[id],
		.attempt_ms = ATTEMPT_MS,
		.seed = id + 77};
	free(w.m[id]);
	w.m[id] = calloc(1, members_bytes());
	assert_non_null(w.m[id]);
	members_init(w.m[id], &cfg, w.now_ns);
	return w.m[id];
}

void link_nodes(unsigned a, unsigned b, bool up)
{
	char addr[32];
	if (w.m[a] == NULL || a == b)
		return;
	(void)snprintf(addr, sizeof addr, "h%u:7000", b);
	members_link(w.m[a], w.now_ns, (uint8_t)b, up, addr);
}

void drop_all(unsigned id)
{
	struct config_msg msg;
	uint8_t to;
	while (members_take_message(w.m[id], &to, &msg))
		;
}

void save(unsigned id)
{
	struct members_register reg;
	while (members_wants_write(w.m[id], &reg)) {
		w.disk[id] = reg;
		members_written(w.m[id], w.now_ns);
	}
}

void in_sync(unsigned id)
{
	const struct membership *c = members_current(w.m[id]);
	bool member = membership_role(c, (uint8_t)id) != ROLE_NONE;
	members_progress(w.m[id], w.now_ns, c->epoch, member && !w.slow[id] ? c->masters_epoch : 0);
}

void settle(void)
{
	struct config_msg msg;
	uint8_t to;
	for (bool busy = true; busy;) {
		busy = false;
		for (unsigned id = 1; id <= N; id++) {
			if (w.m[id] == NULL)
				continue;
			save(id);
			const struct membership *c = members_current(w.m[id]);
			if (w.n_seen < 64 && c->epoch > w.seen[w.n_seen].epoch)
				w.seen[++w.n_seen] = *c;
			in_sync(id);
			while (members_take_message(w.m[id], &to, &msg)) {
				busy = true;
				if (w.m[to] != NULL)
					members_receive(w.m[to], w.now_ns, (uint8_t)id, &msg);
			}
		}
	}
}

void later(uint64_t ns)
{
	for (uint64_t end_ns = w.now_ns + ns; w.now_ns < end_ns;) {
		w.now_ns += 100 * MS;
		for (unsigned id = 1; id <= N; id++)
			if (w.m[id] != NULL)
				members_tick(w.m[id], w.now_ns);
		settle();
	}
}

void world(unsigned masters, unsigned replicas, unsigned all)
{
	for (unsigned id = 1; id <= N; id++)
		free(w.m[id]);
	memset(&w, 0, sizeof w);
	w.now_ns = 1 * SEC;
	for (unsigned id = 1; id <= all; id++) {
		w.disk[id].committed = config_of(masters, replicas);
		boot(id, false);
	}
	for (unsigned a = 1; a <= all; a++)
		for (unsigned b = 1; b <= all; b++)
			link_nodes(a, b, true);
	settle();
}

void down(unsigned id)
{
	free(w.m[id]);
	w.m[id] = NULL;
	for (unsigned a = 1; a <= N; a++)
		link_nodes(a, id, false);
}

struct members_target target_of(const char *masters, const char *replicas)
{
	struct members_target t = {.has_replicas = replicas != NULL};
	for (; *masters != '\0'; masters++)
		t.masters[t.n_masters++] = (uint8_t)*masters;
	for (; replicas != NULL && *replicas != '\0'; replicas++)
		t.replicas[t.n_replicas++] = (uint8_t)*replicas;
	return t;
}

int set_nodes(unsigned id, const char *masters, const char *replicas, char *why)
{
	struct members_target t = target_of(masters, replicas);
	return members_set(w.m[id], w.now_ns, &t, why, MEMBERS_ERROR_MAX_BYTES);
}

void begin(unsigned id, const char *masters, const char *replicas)
{
	char why[MEMBERS_ERROR_MAX_BYTES] = "";
	assert_int_equal(set_nodes(id, masters, replicas, why), 0);
}

void assert_result(unsigned id, const char *expected)
{
	char error[MEMBERS_ERROR_MAX_BYTES];
	assert_true(members_take_result(w.m[id], error));
	assert_string_equal(error, expected);
	assert_false(members_take_result(w.m[id], error));
}

void assert_text(unsigned id, unsigned step, unsigned steps, const char *expected)
{
	uint16_t at, of;
	char text[MEMBERS_TEXT_MAX_BYTES];
	assert_true(members_change(w.m[id], &at, &of, text));
	assert_string_equal(text, expected);
	assert_int_equal(at, step);
	assert_int_equal(of, steps);
}

struct config_msg request(uint8_t kind, uint64_t n, uint8_t node)
{
	return (struct config_msg){.kind = kind, .epoch = 1, .b = {n, node}};
}

struct config_msg proposal(uint64_t n, uint8_t node, uint8_t removed)
{
	struct config_msg msg = request(CONFIG_ACCEPT, n, node);
	msg.config = config_of(3, 0);
	assert_int_equal(membership_remove(&msg.config, removed), 0);
	return msg;
}

void tell(unsigned to, unsigned from, const struct config_msg *msg)
{
	members_receive(w.m[to], w.now_ns, (uint8_t)from, msg);
}

struct config_msg said(unsigned id, unsigned to, uint8_t kind)
{
	struct config_msg msg = {0};
	uint8_t whom = 0;
	assert_true(members_take_message(w.m[id], &whom, &msg));
	assert_int_equal(whom, to);
	assert_int_equal(msg.kind, kind);
	return msg;
}

void assert_silent(unsigned id)
{
	struct config_msg msg;
	uint8_t to;
	assert_false(members_take_message(w.m[id], &to, &msg));
}

int world_end(void **state)
{
	(void)state;
	for (unsigned id = 1; id <= N; id++)
		free(w.m[id]);
	return 0;
}
