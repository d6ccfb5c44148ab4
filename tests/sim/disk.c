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

static void commit(struct disk *d, uint64_t n, uint32_t clean, const struct members_register *reg)
{
	unsigned to = slot_to_write(d);
	uint32_t seq = d->slot[!to].valid ? d->slot[!to].seq : 0;
	d->slot[to] = (struct record_on_disk){
		.valid = true, .seq = seq + 1, .ceiling_n = n, .clean = clean, .reg = *reg};
}

void disk_keep_clean(struct node *n, uint64_t ceiling_n)
{
	commit(&n->disk, ceiling_n, n->life, &n->reg);
}

void disk_forget_clean(struct disk *d)
{
	const struct record_on_disk *best = disk_load(d);
	if (best == NULL || best->clean == 0)
		return;
	const struct record_on_disk was = *best;
	commit(d, was.ceiling_n, 0, &was.reg);
	commit(d, was.ceiling_n, 0, &was.reg);
}

/* As the control thread: one write at a time, of the highest ceiling that is asked for or needed
 * and of what the register wants. */
void disk_want(struct world *w, unsigned id)
{
	struct node *n = &w->node[id];
	if (n->writing)
		return;
	bool reg = w->churn && members_wants_write(n->members, &n->writing_reg);
	if (n->asked_n == 0 && !reg)
		return;
	if (!reg)
		n->writing_reg.committed.epoch = 0;
	if (n->asked_n != 0) {
		uint64_t want = ceiling_above(node_wall_n(w, id));
		n->writing_n = n->asked_n > want ? n->asked_n : want;
		n->asked_n = 0;
	}
	n->writing = true;
	uint64_t slow = !w->calm && w->swarm.bad_disks && chance(w, 300000) ? 5 * SEC : 10 * MS;
	slow = w->drill == DRILL_MEMBERS && slow == 10 * MS ? MS : slow;
	world_push(w, w->now + 50000 + below(w, slow), ITEM_DISK, id, 0, n->life);
}

/* What is being written gets there. */
static void land(struct node *n)
{
	if (n->writing_n > n->durable_n)
		n->durable_n = n->writing_n;
	if (n->writing_reg.committed.epoch != 0)
		n->reg = n->writing_reg;
	if (n->has_file)
		commit(&n->disk, n->durable_n, 0, &n->reg);
}

void disk_drop(struct node *n)
{
	n->writing = false;
	n->writing_n = n->asked_n = n->writing_reg.committed.epoch = 0;
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
	bool reg = n->writing_reg.committed.epoch != 0, ceiling = n->writing_n != 0;
	land(n);
	n->writing = false;
	n->writing_n = 0;
	if (reg)
		change_written(w, it->node);
	if (ceiling) {
		TRACE(w, "%u ceiling %llu is durable", it->node, (unsigned long long)n->durable_n);
		node_step(w, it->node,
			&(struct event){.type = EV_CEILING, .ceiling_n = n->durable_n}, -1);
		if (n->up)
			node_control(w, it->node);
	}
	if (n->up)
		disk_want(w, it->node);
}

/* A write that was under way has happened, has not, or has left rubbish. */
void disk_crash(struct world *w, unsigned id)
{
	struct node *n = &w->node[id];
	uint64_t durable_n = n->durable_n;
	if (n->has_file && n->writing) {
		unsigned dice = (unsigned)below(w, 3);
		if (dice == 0)
			land(n);
		else if (dice == 1)
			n->disk.slot[slot_to_write(&n->disk)].valid = false;
	}
	n->durable_n = durable_n;
	disk_drop(n);
}

static bool same_register(const struct members_register *a, const struct members_register *b)
{
	return a->committed.epoch == b->committed.epoch && a->promised.n == b->promised.n &&
	       a->promised.node == b->promised.node && a->accepted_at.n == b->accepted_at.n &&
	       a->accepted_at.node == b->accepted_at.node;
}

/* An old copy makes a node go back to what it was: no harm where the change away from that
 * configuration is known to a majority of its other masters, and nothing was promised about the
 * next one; any other is the operator's mistake (README.md of the project). */
static bool copy_is_harmless(const struct world *w, unsigned id)
{
	const struct record_on_disk *copy = &w->node[id].disk.copy;
	const struct record_on_disk *now = disk_load(&w->node[id].disk);
	uint64_t epoch = copy->reg.committed.epoch;
	const struct shape *c = &w->epoch[epoch % EPOCHS_MAX];
	if (!w->churn || same_register(&copy->reg, &now->reg))
		return true;
	unsigned beyond = 0;
	for (unsigned o = 1; o <= w->nodes; o++)
		beyond +=
			o != id && (c->masters >> o & 1) && w->node[o].reg.committed.epoch > epoch;
	return beyond >= shape_majority(c) && now->reg.promised.n == 0;
}

void disk_before_start(struct world *w, unsigned id)
{
	struct node *n = &w->node[id];
	struct disk *d = &n->disk;
	if (!n->has_file || w->calm || !w->swarm.lossy_files)
		return;
	const struct record_on_disk *now = disk_load(d);
	unsigned dice = (unsigned)below(w, 100);
	if (dice < 20 && !epochs_stuck(w, id)) {
		/* Its floor comes from the wall clock then, and ballots may be ahead of that. */
		d->slot[0].valid = d->slot[1].valid = false;
		w->tokens_exempt = true;
	} else if (dice < 40 && d->copy.valid && now != NULL && d->copy.seq < now->seq &&
		   copy_is_harmless(w, id)) {
		d->slot[0] = d->copy;
		d->slot[1].valid = false;
		w->tokens_exempt = true;
	} else if (now != NULL && (dice < 60 || now->clean != 0)) {
		d->copy = *now; /* somebody makes a copy */
	}
}
