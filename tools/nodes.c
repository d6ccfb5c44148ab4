#include "nodes.h"

#include <inttypes.h>
#include <string.h>

#include "client/sync.h"
#include "output.h"

enum { COLUMNS = 8, CELL_BYTES = 96 };
_Static_assert((int)CELL_BYTES >= (int)DURATION_TEXT_BYTES, "a time fits a cell");

static int64_t number(const struct resp_value *map, const char *name, int64_t otherwise)
{
	const struct resp_value *v = sync_map_get(map, name);

	return v && v->type == RESP_INT ? v->num : otherwise;
}

static void text(const struct resp_value *map, const char *name, char *ret, size_t bytes)
{
	const struct resp_value *v = sync_map_get(map, name);
	size_t n = 0;

	if (v && (v->type == RESP_BULK || v->type == RESP_SIMPLE)) {
		for (; n < v->str.len && n + 1 < bytes; n++) {
			uint8_t c = v->str.p[n];

			ret[n] = c >= 0x20 && c < 0x7F ? (char)c : '?';
		}
	}
	ret[n] = '\0';
}

static uint8_t ids(const struct resp_value *map, const char *name, uint8_t *ret, uint8_t max)
{
	const struct resp_value *v = sync_map_get(map, name);
	uint8_t n = 0;

	if (!v || v->type != RESP_ARRAY)
		return 0;
	for (const struct resp_value *id = v + 1; id < v + v->size && n < max; id += id->size) {
		if (id->type == RESP_INT && id->num >= 1 && id->num <= NODE_ID_MAX)
			ret[n++] = (uint8_t)id->num;
	}
	return n;
}

static void take_node(struct cluster_view *c, const struct resp_value *v)
{
	int64_t id = number(v, "id", 0);

	if (id < 1 || id > NODE_ID_MAX || c->n_nodes == NODE_ID_MAX)
		return;
	struct node_view *n = &c->nodes[c->n_nodes++];
	n->id = (uint8_t)id;
	text(v, "role", n->role, sizeof n->role);
	text(v, "state", n->state, sizeof n->state);
	text(v, "address", n->address, sizeof n->address);
	n->epoch = number(v, "epoch", 0);
	n->slots_in_sync = number(v, "slots-in-sync", -1);
	n->lag_ms = number(v, "lag-ms", -1);
	n->since_ms = number(v, "since-ms", -1);
}

bool cluster_view_take(struct cluster_view *ret, const struct resp_value *reply)
{
	const struct resp_value *nodes = sync_map_get(reply, "nodes");
	const struct resp_value *change = sync_map_get(reply, "change");

	*ret = (struct cluster_view){.epoch = number(reply, "epoch", -1)};
	if (ret->epoch < 0 || !nodes || nodes->type != RESP_ARRAY)
		return false;
	ret->slots = number(reply, "slots", 0);
	ret->quorum = number(reply, "quorum", 0);
	ret->n_masters = ids(reply, "masters", ret->masters, MASTERS_MAX);
	ret->n_replicas = ids(reply, "replicas", ret->replicas, REPLICAS_MAX);
	if (change) {
		ret->step = number(change, "step", 0);
		ret->steps = number(change, "steps", 0);
		text(change, "text", ret->text, sizeof ret->text);
	}
	for (const struct resp_value *v = nodes + 1; v < nodes + nodes->size; v += v->size)
		take_node(ret, v);
	return true;
}

const struct node_view *cluster_view_find(const struct cluster_view *c, uint8_t id)
{
	for (uint8_t i = 0; i < c->n_nodes; i++) {
		if (c->nodes[i].id == id)
			return &c->nodes[i];
	}
	return NULL;
}

static void fill_row(
	char row[COLUMNS][CELL_BYTES], const struct cluster_view *c, const struct node_view *n)
{
	snprintf(row[0], CELL_BYTES, "%u", n->id);
	snprintf(row[1], CELL_BYTES, "%s", *n->address ? n->address : "-");
	snprintf(row[2], CELL_BYTES, "%s", *n->role ? n->role : "-");
	snprintf(row[3], CELL_BYTES, "%s", *n->state ? n->state : "-");
	if (n->epoch > 0)
		snprintf(row[4], CELL_BYTES, "%" PRId64, n->epoch);
	else
		snprintf(row[4], CELL_BYTES, "-");
	if (n->slots_in_sync >= 0 && strcmp(n->role, "nonmember") != 0)
		snprintf(row[5], CELL_BYTES, "%" PRId64 "/%" PRId64, n->slots_in_sync, c->slots);
	else
		snprintf(row[5], CELL_BYTES, "-");
	duration_text(row[6], n->lag_ms);
	duration_text(row[7], n->since_ms);
}

static void print_table(FILE *f, const struct cluster_view *c)
{
	static const char *const names[COLUMNS] = {
		"id", "address", "role", "state", "epoch", "in sync", "lag", "since"};
	static const bool right[COLUMNS] = {[0] = true, [4] = true, [5] = true, [6] = true};
	static char rows[NODE_ID_MAX + 1][COLUMNS][CELL_BYTES];
	int width[COLUMNS] = {0};

	for (int k = 0; k < COLUMNS; k++)
		snprintf(rows[0][k], CELL_BYTES, "%s", names[k]);
	for (int i = 0; i < c->n_nodes; i++)
		fill_row(rows[i + 1], c, &c->nodes[i]);
	for (int i = 0; i <= c->n_nodes; i++) {
		for (int k = 0; k < COLUMNS; k++) {
			int n = (int)strlen(rows[i][k]);

			width[k] = n > width[k] ? n : width[k];
		}
	}
	for (int i = 0; i <= c->n_nodes; i++) {
		for (int k = 0; k < COLUMNS; k++) {
			int pad = k == COLUMNS - 1 && !right[k] ? 0 : width[k];

			fprintf(f, "%s%*s", k ? "  " : "", right[k] ? pad : -pad, rows[i][k]);
		}
		fputc('\n', f);
	}
}

void cluster_view_print(FILE *f, const struct cluster_view *c)
{
	fprintf(f, "epoch %" PRId64 ", quorum %" PRId64 " of %u master%s, %" PRId64 " slots\n\n",
		c->epoch, c->quorum, c->n_masters, c->n_masters == 1 ? "" : "s", c->slots);
	print_table(f, c);
	if (c->steps > 0)
		fprintf(f, "\nchange: step %" PRId64 " of %" PRId64 ", %s\n", c->step, c->steps,
			c->text);
}
