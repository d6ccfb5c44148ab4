#include "change.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "client/sync.h"
#include "nodes.h"
#include "output.h"

enum {
	POLL_MS = 200,
	LINE_MS = 1000,      /* between two lines about one step, where there is no bar */
	PATIENCE_MS = 10000, /* with replicas that get no further */
	BAR_CELLS = 20,
	LINE_MAX_BYTES = 240,
	STEPS_MAX = 2 * (MASTERS_MAX + REPLICAS_MAX),
};

static const char resume_hint[] = "the same command again goes on where this one ended";

struct wish {
	uint8_t n_masters, n_replicas;
	bool has_replicas; /* else they stay, less those that become masters */
	bool yes;
	uint8_t masters[MASTERS_MAX], replicas[REPLICAS_MAX];
};

enum part { PART_NONE, PART_MASTER, PART_REPLICA };

struct step {
	uint8_t id;
	enum part from, to;
	unsigned masters; /* after it */
};

struct plan {
	enum part now[NODE_ID_MAX + 1], then[NODE_ID_MAX + 1];
	unsigned masters_now, masters_then;
	size_t n;
	struct step steps[STEPS_MAX];
};

struct progress {
	FILE *f;
	bool bar; /* one line on a terminal, written again and again; else a line for each news */
	bool drawn;
	int64_t step;
	int64_t quiet_ms; /* since the last line, in polls */
	char text[NODES_TEXT_MAX_BYTES + 1];
};

/* ---- words ---- */

/* "1,2,3"; "" and "none" are nobody. 0, or -1 with a sentence. */
static int take_ids(const char *word, const char *flag, uint8_t *ret, uint8_t max, uint8_t *ret_n,
	char *why, size_t why_bytes)
{
	const char *p = strcmp(word, "none") == 0 ? "" : word;

	*ret_n = 0;
	while (*p) {
		char *end;
		unsigned long id = *p >= '0' && *p <= '9' ? strtoul(p, &end, 10) : 0;

		if (id < 1 || id > NODE_ID_MAX || (*end != '\0' && *end != ',') ||
			(*end == ',' && end[1] == '\0')) {
			snprintf(why, why_bytes, "%s: '%.64s' is no list of ids of 1 to %d: 1,2,3",
				flag, word, NODE_ID_MAX);
			return -1;
		}
		if (*ret_n == max) {
			snprintf(why, why_bytes, "%s: at most %u", flag, max);
			return -1;
		}
		ret[(*ret_n)++] = (uint8_t)id;
		p = *end == ',' ? end + 1 : end;
	}
	return 0;
}

static int take_wish(struct wish *ret, int n, char **words, char *why, size_t why_bytes)
{
	bool has_masters = false;
	bool seen[NODE_ID_MAX + 1] = {false};
	int r = 0;

	*ret = (struct wish){0};
	for (int i = 0; i < n && r == 0; i++) {
		bool masters = strcmp(words[i], "--masters") == 0;
		bool replicas = strcmp(words[i], "--replicas") == 0;

		if (strcmp(words[i], "--yes") == 0) {
			ret->yes = true;
		} else if (!masters && !replicas) {
			snprintf(why, why_bytes, "nodes set knows no '%.64s'", words[i]);
			r = -1;
		} else if (i + 1 == n) {
			snprintf(why, why_bytes, "%s needs a list of ids", words[i]);
			r = -1;
		} else if (masters) {
			has_masters = true;
			r = take_ids(words[++i], "--masters", ret->masters, MASTERS_MAX,
				&ret->n_masters, why, why_bytes);
		} else {
			ret->has_replicas = true;
			r = take_ids(words[++i], "--replicas", ret->replicas, REPLICAS_MAX,
				&ret->n_replicas, why, why_bytes);
		}
	}
	if (r == 0 && (!has_masters || ret->n_masters == 0)) {
		snprintf(why, why_bytes, "%s",
			has_masters ? "no master is named: a cluster needs at least one"
				    : "nodes set needs --masters ID,...");
		r = -1;
	}
	for (unsigned i = 0; r == 0 && i < ret->n_masters + (unsigned)ret->n_replicas; i++) {
		uint8_t id =
			i < ret->n_masters ? ret->masters[i] : ret->replicas[i - ret->n_masters];

		if (seen[id]) {
			snprintf(why, why_bytes, "node %u is named twice", id);
			r = -1;
		}
		seen[id] = true;
	}
	return r;
}

/* ---- the steps, as the server will go them ---- */

static bool is_down(const struct cluster_view *c, unsigned id)
{
	const struct node_view *n = cluster_view_find(c, (uint8_t)id);

	return !n || strcmp(n->state, "down") == 0;
}

static void add_step(struct plan *p, unsigned id, unsigned *masters)
{
	if (p->n == STEPS_MAX)
		return;
	if (p->then[id] == PART_MASTER)
		++*masters;
	if (p->now[id] == PART_MASTER)
		--*masters;
	p->steps[p->n++] = (struct step){
		.id = (uint8_t)id, .from = p->now[id], .to = p->then[id], .masters = *masters};
}

/* Dead masters go first, then replicas go and come, then masters come, then the others go. */
static unsigned turn_of(const struct cluster_view *c, const struct plan *p, unsigned id)
{
	if (p->now[id] == PART_MASTER)
		return is_down(c, id) ? 0 : 4;
	if (p->then[id] == PART_MASTER)
		return 3;
	return p->then[id] == PART_REPLICA ? 2 : 1;
}

static void make_plan(struct plan *p, const struct cluster_view *c, const struct wish *w)
{
	*p = (struct plan){.masters_now = c->n_masters, .masters_then = w->n_masters};
	for (unsigned i = 0; i < c->n_replicas; i++) {
		p->now[c->replicas[i]] = PART_REPLICA;
		p->then[c->replicas[i]] = w->has_replicas ? PART_NONE : PART_REPLICA;
	}
	for (unsigned i = 0; i < c->n_masters; i++)
		p->now[c->masters[i]] = PART_MASTER;
	for (unsigned i = 0; i < w->n_replicas; i++)
		p->then[w->replicas[i]] = PART_REPLICA;
	for (unsigned i = 0; i < w->n_masters; i++)
		p->then[w->masters[i]] = PART_MASTER;
	unsigned masters = c->n_masters;
	for (unsigned turn = 0; turn < 5; turn++) {
		for (unsigned id = 1; id <= NODE_ID_MAX; id++) {
			if (p->now[id] != p->then[id] && turn_of(c, p, id) == turn)
				add_step(p, id, &masters);
		}
	}
}

static void print_parts(FILE *f, const char *name, const enum part *parts, unsigned masters)
{
	unsigned replicas = 0;

	fprintf(f, "%-7s quorum %u of %u; masters", name, masters / 2 + 1, masters);
	for (unsigned id = 1; id <= NODE_ID_MAX; id++) {
		if (parts[id] == PART_MASTER)
			fprintf(f, " %u", id);
		replicas += parts[id] == PART_REPLICA;
	}
	if (replicas > 0)
		fputs(replicas == 1 ? "; replica" : "; replicas", f);
	for (unsigned id = 1; id <= NODE_ID_MAX; id++) {
		if (parts[id] == PART_REPLICA)
			fprintf(f, " %u", id);
	}
	fputc('\n', f);
}

static void print_step(FILE *f, size_t i, const struct step *s)
{
	char what[64];

	if (s->from == PART_NONE)
		snprintf(what, sizeof what, "add %s %u",
			s->to == PART_MASTER ? "master" : "replica", s->id);
	else if (s->to == PART_NONE)
		snprintf(what, sizeof what, "remove %s %u",
			s->from == PART_MASTER ? "master" : "replica", s->id);
	else if (s->to == PART_MASTER)
		snprintf(what, sizeof what, "promote replica %u to master", s->id);
	else
		snprintf(what, sizeof what, "demote master %u to replica", s->id);
	fprintf(f, "%4zu  %-32s quorum %u of %u\n", i + 1, what, s->masters / 2 + 1, s->masters);
}

static void print_warnings(FILE *f, const struct plan *p, const struct cluster_view *c)
{
	if (p->masters_then % 2 == 0)
		fprintf(f, "warning: %u masters tolerate no more failures than %u\n",
			p->masters_then, p->masters_then - 1);
	for (unsigned id = 1; id <= NODE_ID_MAX; id++) {
		if (p->then[id] == PART_NONE || !is_down(c, id))
			continue;
		if (p->now[id] == PART_NONE && !cluster_view_find(c, (uint8_t)id))
			fprintf(f,
				"warning: node %u is not known here: start it with --join first\n",
				id);
		else
			fprintf(f, "warning: node %u is down\n", id);
	}
}

static void print_plan(FILE *f, const struct plan *p, const struct cluster_view *c)
{
	print_parts(f, "now", p->now, p->masters_now);
	print_parts(f, "target", p->then, p->masters_then);
	for (size_t i = 0; i < p->n; i++)
		print_step(f, i, &p->steps[i]);
	if (p->n == 0)
		fputs("nothing to change; waiting until all are in sync\n", f);
	print_warnings(f, p, c);
}

/* ---- how far it is ---- */

static void clear_bar(struct progress *p)
{
	if (p->drawn)
		fputs("\r\033[K", p->f);
	p->drawn = false;
	(void)fflush(p->f);
}

/* A full bar where @steps is 0. */
static void draw_bar(struct progress *p, int64_t step, int64_t steps, const char *line)
{
	char cells[BAR_CELLS + 1];
	struct winsize size;
	int columns = 80;
	int64_t full = steps > 0 ? (step - 1) * BAR_CELLS / steps : BAR_CELLS;

	if (ioctl(fileno(p->f), TIOCGWINSZ, &size) == 0 && size.ws_col > BAR_CELLS + 4)
		columns = size.ws_col;
	for (int i = 0; i < BAR_CELLS; i++)
		cells[i] = i < full ? '#' : '-';
	cells[BAR_CELLS] = '\0';
	/* A line that wraps could not be written over. */
	fprintf(p->f, "\r[%s] %.*s\033[K", cells, columns - BAR_CELLS - 4, line);
	p->drawn = true;
	(void)fflush(p->f);
}

/* @steps 0: @text is about what follows them. */
static void show(struct progress *p, int64_t step, int64_t steps, const char *text)
{
	char line[LINE_MAX_BYTES];

	if (steps > 0)
		snprintf(line, sizeof line, "step %" PRId64 " of %" PRId64 ": %s", step, steps,
			text);
	else
		snprintf(line, sizeof line, "%s", text);
	p->quiet_ms += POLL_MS;
	if (p->bar) {
		draw_bar(p, step, steps, line);
		return;
	}
	bool news = strcmp(text, p->text) != 0 && p->quiet_ms >= LINE_MS;
	if (step == p->step && !news)
		return;
	fprintf(p->f, "%s\n", line);
	(void)fflush(p->f);
	p->step = step;
	p->quiet_ms = 0;
	snprintf(p->text, sizeof p->text, "%s", text);
}

/* ---- carrying it out ---- */

/* 0 or an error of sync_command(); -EPROTO: an answer that is no map of nodes. *ret_reply stays
 * valid as long as sync_command()'s. */
static int ask_nodes(struct sync *s, int64_t timeout_ms, struct cluster_view *ret,
	const struct resp_value **ret_reply)
{
	const struct bytes nodes = bytes_str("NODES");
	int r = sync_command(s, 1, &nodes, timeout_ms, ret_reply);

	if (r < 0 || cluster_view_take(ret, *ret_reply))
		return r;
	snprintf(s->why, sizeof s->why, "no answer to NODES: %.*s", (int)(*ret_reply)->str.len,
		(*ret_reply)->str.p ? (const char *)(*ret_reply)->str.p : "");
	return -EPROTO;
}

static int send_wish(struct sync *s, const struct wish *w, int64_t timeout_ms)
{
	static char numbers[MASTERS_MAX + REPLICAS_MAX][4];
	struct bytes argv[3 + MASTERS_MAX + REPLICAS_MAX];
	size_t argc = 0;

	argv[argc++] = bytes_str("SETNODES");
	argv[argc++] = bytes_str("MASTERS");
	for (unsigned i = 0; i < w->n_masters; i++) {
		snprintf(numbers[i], sizeof numbers[i], "%u", w->masters[i]);
		argv[argc++] = bytes_str(numbers[i]);
	}
	if (w->has_replicas)
		argv[argc++] = bytes_str("REPLICAS");
	for (unsigned i = 0; i < w->n_replicas; i++) {
		char *number = numbers[MASTERS_MAX + i];

		snprintf(number, sizeof numbers[0], "%u", w->replicas[i]);
		argv[argc++] = bytes_str(number);
	}
	return sync_send(s, argc, argv, timeout_ms);
}

/* Wait for the answer as long as the node answers NODES on @watch. As sync_receive(). */
static int await_answer(struct sync *s, struct sync *watch, int64_t timeout_ms, struct progress *p,
	const struct resp_value **ret)
{
	static struct cluster_view c;
	const struct resp_value *reply;
	int r;

	while ((r = sync_receive(s, POLL_MS, ret)) == -EAGAIN) {
		if (ask_nodes(watch, timeout_ms, &c, &reply) == 0) {
			if (c.steps > 0 && c.step > 0 && c.step <= c.steps)
				show(p, c.step, c.steps, c.text);
			continue;
		}
		r = sync_receive(s, timeout_ms, ret);
		if (r == -EAGAIN)
			snprintf(s->why, sizeof s->why, "it answers no more: %.400s", watch->why);
		break;
	}
	clear_bar(p);
	return r;
}

/* The first replica that is there and has no copy of all yet; NULL: none. */
static const struct node_view *copying(const struct cluster_view *c)
{
	for (uint8_t i = 0; i < c->n_replicas; i++) {
		const struct node_view *n = cluster_view_find(c, c->replicas[i]);

		if (n && !is_down(c, n->id) && n->slots_in_sync >= 0 && n->slots_in_sync < c->slots)
			return n;
	}
	return NULL;
}

/* OK speaks of the masters. Replicas may still copy, which is worth waiting for but no failure. */
static void await_replicas(struct sync *watch, int64_t timeout_ms, struct progress *p)
{
	static struct cluster_view c;
	const struct resp_value *reply;
	char text[NODES_TEXT_MAX_BYTES + 1];
	int64_t left_ms = PATIENCE_MS, slots = -1;
	const struct node_view *n;

	while (left_ms > 0 && ask_nodes(watch, timeout_ms, &c, &reply) == 0 && (n = copying(&c))) {
		left_ms = n->slots_in_sync == slots ? left_ms - POLL_MS : PATIENCE_MS;
		slots = n->slots_in_sync;
		snprintf(text, sizeof text,
			"replica %u has copied %" PRId64 " of %" PRId64 " slots", n->id,
			n->slots_in_sync, c.slots);
		show(p, 0, 0, text);
		(void)usleep(POLL_MS * 1000);
	}
	clear_bar(p);
}

static enum status report_end(const struct options *o, struct sync *watch)
{
	static struct cluster_view c;
	const struct resp_value *reply;
	int r = ask_nodes(watch, o->timeout_ms, &c, &reply);

	if (o->json) {
		fputs("{\"outcome\":\"ok\",\"reply\":", stdout);
		if (r == 0)
			json_value(stdout, reply);
		else
			fputs("null", stdout);
		puts("}");
	} else if (r == 0) {
		cluster_view_print(stdout, &c);
	} else {
		puts("done");
	}
	return STATUS_DONE;
}

static enum status carry_out(
	const struct options *o, const struct wish *w, struct sync *s, FILE *talk)
{
	struct progress p = {.f = talk, .bar = isatty(fileno(talk)) == 1, .quiet_ms = LINE_MS};
	const struct resp_value *reply;
	struct sync watch;
	char text[1024];
	enum status status;

	int r = sync_open(&watch, s->address, o->timeout_ms);
	if (r < 0) {
		status = report_unreachable(o, r, watch.why);
		sync_close(&watch);
		return status;
	}
	r = send_wish(s, w, o->timeout_ms);
	if (r == 0)
		r = await_answer(s, &watch, o->timeout_ms, &p, &reply);
	if (r != 0) {
		snprintf(text, sizeof text, "%s: %s; it is unknown how far it came", s->address,
			s->why);
		status = report_failure(o, STATUS_UNSURE, "unknown", bytes_str(text));
	} else if (reply->type == RESP_ERR || reply->type == RESP_BLOB_ERR) {
		status = report_error(o, reply->str);
	} else {
		await_replicas(&watch, o->timeout_ms, &p);
		status = report_end(o, &watch);
	}
	if (status == STATUS_UNSURE)
		fprintf(stderr, "locker: %s\n", resume_hint);
	sync_close(&watch);
	return status;
}

/* DONE: go on. */
static enum status confirm(const struct options *o, bool yes, FILE *talk)
{
	char answer[16] = "";

	if (yes)
		return STATUS_DONE;
	if (!isatty(STDIN_FILENO))
		return report_failure(o, STATUS_USAGE, "error",
			bytes_str("there is no terminal to ask on, and no --yes: nothing was "
				  "changed"));
	fputs("go on? [y/N] ", talk);
	(void)fflush(talk);
	if (fgets(answer, sizeof answer, stdin) && (answer[0] == 'y' || answer[0] == 'Y'))
		return STATUS_DONE;
	return report_failure(o, STATUS_REFUSED, "refused", bytes_str("nothing was changed"));
}

enum status change_run(const struct options *o, int n, char **words)
{
	static struct cluster_view c;
	static struct plan plan;
	const struct resp_value *reply;
	FILE *talk = o->json ? stderr : stdout; /* stdout is for the one line */
	struct sync s;
	struct wish w;
	char why[256], text[1024];
	enum status status;

	if (take_wish(&w, n, words, why, sizeof why) < 0)
		return usage_error(why);
	int r = sync_open(&s, o->nodes, o->timeout_ms);
	if (r < 0) {
		status = report_unreachable(o, r, s.why);
		sync_close(&s);
		return status;
	}
	r = ask_nodes(&s, o->timeout_ms, &c, &reply);
	if (r < 0) {
		snprintf(text, sizeof text, "%s: %s; nothing was changed", s.address, s.why);
		status = report_failure(o, STATUS_UNSURE, "unknown", bytes_str(text));
	} else {
		make_plan(&plan, &c, &w);
		print_plan(talk, &plan, &c);
		(void)fflush(talk);
		status = confirm(o, w.yes || plan.n == 0, talk);
		if (status == STATUS_DONE)
			status = carry_out(o, &w, &s, talk);
	}
	sync_close(&s);
	return status;
}
