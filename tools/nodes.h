/* The cluster as NODES shows it, for people: `locker nodes`. */
#pragma once

#include <stdbool.h>
#include <stdio.h>

#include "base/limits.h"
#include "wire/resp.h"

enum { NODES_TEXT_MAX_BYTES = 160 };

struct node_view {
	uint8_t id;
	char role[16], state[16]; /* "": not told */
	char address[96];
	int64_t epoch;         /* that it acts by; 0 or less: not known */
	int64_t slots_in_sync; /* -1: not told */
	int64_t lag_ms;        /* of a replica's copy; -1: none */
	int64_t since_ms;      /* in this state; -1: not known */
};

struct cluster_view {
	int64_t epoch, slots, quorum;
	uint8_t n_masters, n_replicas;
	uint8_t masters[MASTERS_MAX], replicas[REPLICAS_MAX];
	int64_t step, steps; /* of the change that runs; steps 0: none does */
	char text[NODES_TEXT_MAX_BYTES + 1];
	uint8_t n_nodes;
	struct node_view nodes[NODE_ID_MAX];
};

/* Take a reply of NODES in; false: that is none. Texts are cut to their room, and what is no
 * printable ASCII becomes '?'. */
bool cluster_view_take(struct cluster_view *ret, const struct resp_value *reply);
/* A line about the cluster, a table of its nodes, and a line about the change that runs. */
void cluster_view_print(FILE *f, const struct cluster_view *c);
/* NULL: nothing is known of @id. */
const struct node_view *cluster_view_find(const struct cluster_view *c, uint8_t id);
