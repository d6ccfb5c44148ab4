/* Nodes of whole shards instead of bare engines. */
#pragma once

#include "sim.h"

void shard_start(struct world *w, unsigned id);
void shard_end(struct world *w, unsigned id);
/* What an engine would be stepped with, as a shard comes to know of it. */
void shard_event(struct world *w, unsigned id, const struct event *ev);
void shard_loop(struct world *w, unsigned id);
void shard_arm(struct world *w, unsigned id);
void shard_stream(struct world *w, const struct item *it);
