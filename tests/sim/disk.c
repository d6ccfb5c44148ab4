/* The state file of a node: two slots in turn, writes that are slow, fail, or are torn by a crash,
 * and files that get lost or are replaced by an old copy (protocol.md 2.3, 2.8). */
#include "sim.h"

bool disk_load(const struct disk *d, uint64_t *ret_n, bool *ret_clean)
{
	int best = -1;
	for (int i = 0; i < 2; i++)
		if (d->valid[i] && (best < 0 || d->seq[i] > d->seq[best]))
			best = i;
	if (best < 0)
		return false;
	*ret_n = d->ceiling_n[best];
	*ret_clean = d->clean[best];
	return true;
}

static unsigned slot_to_write(const struct disk *d)
{
	if (!d->valid[0] || !d->valid[1])
		return d->valid[0] ? 1 : 0;
	return d->seq[0] < d->seq[1] ? 0 : 1;
}

static void commit(struct disk *d, uint64_t n, bool clean)
{
	unsigned to = slot_to_write(d);
	d->seq[to] = (d->valid[!to] ? d->seq[!to] : 0) + 1;
	d->ceiling_n[to] = n;
	d->clean[to] = clean;
	d->valid[to] = true;
}

void disk_keep_clean(struct disk *d, uint64_t n)
{
	commit(d, n, true);
}

void disk_forget_clean(struct disk *d)
{
	uint64_t n = 0;
	bool clean = false;
	if (!disk_load(d, &n, &clean) || !clean)
		return;
	commit(d, n, false);
	commit(d, n, false);
}

static void told(struct world *w, unsigned id)
{
	struct node *n = &w->node[id];
	node_step(w, id, &(struct event){.type = EV_CEILING, .ceiling_n = n->durable_n}, -1);
	if (n->up)
		node_control(w, id);
}

/* As the control thread: one write at a time, for the highest that is asked for or needed. */
void disk_want(struct world *w, unsigned id)
{
	struct node *n = &w->node[id];
	if (n->writing_n != 0 || n->asked_n == 0)
		return;
	uint64_t want = ceiling_above(node_wall_n(w, id));
	want = n->asked_n > want ? n->asked_n : want;
	n->asked_n = 0;
	n->writing_n = want;
	uint64_t slow = !w->calm && w->swarm.bad_disks && chance(w, 300000) ? 5 * SEC : 10 * MS;
	world_push(w, w->now + 50000 + below(w, slow), ITEM_DISK, id, 0, n->life);
}

void disk_done(struct world *w, const struct item *it)
{
	struct node *n = &w->node[it->node];
	if (!n->up || n->life != it->gen)
		return;
	w->events++;
	if (!w->calm && w->swarm.bad_disks && n->has_file && chance(w, 300000)) {
		world_push(w, w->now + SEC, ITEM_DISK, it->node, 0, n->life); /* failed: again */
		return;
	}
	if (n->has_file && n->writing_n > n->durable_n) {
		commit(&n->disk, n->writing_n, false);
		n->durable_n = n->writing_n;
	}
	n->writing_n = 0;
	TRACE(w, "%u ceiling %llu is durable", it->node, (unsigned long long)n->durable_n);
	told(w, it->node);
	if (n->up)
		disk_want(w, it->node);
}

/* A write that was under way has happened, has not, or has left rubbish. */
void disk_crash(struct world *w, unsigned id)
{
	struct node *n = &w->node[id];
	if (n->has_file && n->writing_n > n->durable_n) {
		unsigned dice = (unsigned)below(w, 3);
		if (dice == 0)
			commit(&n->disk, n->writing_n, false);
		else if (dice == 1)
			n->disk.valid[slot_to_write(&n->disk)] = false;
	}
	n->writing_n = n->asked_n = 0;
}

void disk_before_start(struct world *w, unsigned id)
{
	struct node *n = &w->node[id];
	struct disk *d = &n->disk;
	if (!n->has_file || w->calm || !w->swarm.lossy_files)
		return;
	uint64_t now_n = 0;
	bool clean = false;
	bool there = disk_load(d, &now_n, &clean);
	unsigned dice = (unsigned)below(w, 100);
	if (dice < 20) {
		/* Its floor comes from the wall clock then, and ballots may be ahead of that. */
		d->valid[0] = d->valid[1] = false;
		w->tokens_exempt = true;
	} else if (dice < 30 && d->old_n != 0 && there && d->old_n < now_n) {
		*d = (struct disk){
			.valid = {true, false}, .seq = {1, 0}, .ceiling_n = {d->old_n, 0}};
		w->tokens_exempt = true;
	} else if (dice < 60 && there && !clean) {
		d->old_n = now_n; /* somebody makes a copy */
	}
}
