/* The state file of a node: two slots in turn, writes that are slow, fail, or are torn by a crash,
 * and files that get lost or are replaced by an old copy (protocol.md 2.3, 2.8). */
#include "sim.h"

const struct record_on_disk *disk_load(const struct disk *d)
{
	const struct record_on_disk *best = NULL;
	for (int i = 0; i < 2; i++)
		if (d->slot[i].valid && (best == NULL || d->slot[i].seq > best->seq))
			best = &d->slot[i];
	return best;
}

static unsigned slot_to_write(const struct disk *d)
{
	if (!d->slot[0].valid || !d->slot[1].valid)
		return d->slot[0].valid ? 1 : 0;
	return d->slot[0].seq < d->slot[1].seq ? 0 : 1;
}

static void commit(struct disk *d, uint64_t n, uint32_t clean)
{
	unsigned to = slot_to_write(d);
	uint32_t seq = d->slot[!to].valid ? d->slot[!to].seq : 0;
	d->slot[to] = (struct record_on_disk){
		.valid = true, .seq = seq + 1, .ceiling_n = n, .clean = clean};
}

void disk_keep_clean(struct disk *d, uint64_t n, uint32_t life)
{
	commit(d, n, life);
}

void disk_forget_clean(struct disk *d)
{
	const struct record_on_disk *best = disk_load(d);
	if (best == NULL || best->clean == 0)
		return;
	uint64_t n = best->ceiling_n;
	commit(d, n, 0);
	commit(d, n, 0);
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
		commit(&n->disk, n->writing_n, 0);
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
			commit(&n->disk, n->writing_n, 0);
		else if (dice == 1)
			n->disk.slot[slot_to_write(&n->disk)].valid = false;
	}
	n->writing_n = n->asked_n = 0;
}

void disk_before_start(struct world *w, unsigned id)
{
	struct node *n = &w->node[id];
	struct disk *d = &n->disk;
	if (!n->has_file || w->calm || !w->swarm.lossy_files)
		return;
	const struct record_on_disk *now = disk_load(d);
	unsigned dice = (unsigned)below(w, 100);
	if (dice < 20) {
		/* Its floor comes from the wall clock then, and ballots may be ahead of that. */
		d->slot[0].valid = d->slot[1].valid = false;
		w->tokens_exempt = true;
	} else if (dice < 40 && d->copy.valid && now != NULL && d->copy.seq < now->seq) {
		d->slot[0] = d->copy;
		d->slot[1].valid = false;
		w->tokens_exempt = true;
	} else if (now != NULL && (dice < 60 || now->clean != 0)) {
		d->copy = *now; /* somebody makes a copy */
	}
}
