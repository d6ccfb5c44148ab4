/* A node as a library: threads, memory, peer mesh and control loop of one lockerd. */
#pragma once

#include <stddef.h>

#include "node/config.h"

struct node;

const char *node_version(void);

/* Log as @cfg says, with the time and the node's id. Process-wide: a program that embeds a node may
 * prefer its own. */
void node_set_log(const struct config *cfg);

/* Build a node and start its threads. When this returns 0 its listeners accept and its state file
 * is on disk. SIGTERM and SIGINT are blocked in the calling thread from here on: node_run() reads
 * them. With --join it takes as long as nobody tells the configuration. 0, or -errno with a whole
 * sentence in @why; -EINTR: such a signal came meanwhile. */
int node_new(const struct config *cfg, struct node **ret, char *why, size_t why_bytes);
/* What to tell whoever waits for it; contains the word `ready`. */
void node_ready_line(const struct node *n, char *ret, size_t bytes);
/* The control loop, in the calling thread. Returns the exit status: 0 drained after a signal, 1
 * cannot go on (logged). */
int node_run(struct node *n);
void node_free(struct node *n);
