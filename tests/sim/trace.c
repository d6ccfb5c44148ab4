/* The trace: a hash over everything that happened, the last lines of it, and the report of what
 * must not happen. */
#include "commit.h"
#include "sim.h"

#include <stdarg.h>

enum { LINES_MAX = 262144, LINE_BYTES = 160 };

static char lines[LINES_MAX][LINE_BYTES];

void trace_fold(struct world *w, uint64_t a, uint64_t b)
{
	uint64_t h = (w->hash ^ a) * UINT64_C(0x9e3779b97f4a7c15);
	h = (h ^ (h >> 29) ^ b) * UINT64_C(0xbf58476d1ce4e5b9);
	w->hash = h ^ (h >> 32);
}

void trace_line(struct world *w, const char *format, ...)
{
	char *line = lines[w->traced++ % LINES_MAX];
	va_list args;
	va_start(args, format);
	int at = snprintf(line, LINE_BYTES, "%12llu.%03llu us  ",
		(unsigned long long)(w->now / 1000), (unsigned long long)(w->now % 1000));
	(void)vsnprintf(line + at, LINE_BYTES - (size_t)at, format, args);
	va_end(args);
}

const char *msg_name(const struct msg *m)
{
	static const char *const names[] = {"?", "TRYLOCK", "RELEASE", "ABORT", "CONFIRM", "QUERY",
		"EXTEND", "PREPARE", "ACCEPT", "READ", "SYNC", "REPLY", "FOLLOW", "CONFIG", "STAND",
		"TURN"};
	return m->type <= MSG_TYPE_MAX ? names[m->type] : names[0];
}

void trace_entries(struct world *w, unsigned id)
{
	struct node *n = &w->node[id];
	for (unsigned k = 0; k < w->keys && n->up; k++) {
		const struct lease *l = lease_of(w, id, k);
		struct ballot uid = l != NULL ? lease_uid(l) : (struct ballot){0};
		uint16_t flags = l != NULL ? l->flags : 0;
		if (ballot_eq(uid, n->traced[k]) && flags == n->traced_flags[k])
			continue;
		n->traced[k] = uid;
		n->traced_flags[k] = flags;
		trace_line(w, "  %u has of key %u: %llu flags %x for %lld us", id, k,
			(unsigned long long)uid.n, flags,
			l != NULL ? (long long)(l->end_ns - n->time.slow_ns) / 1000 : 0);
	}
}

static const char *kind_of(enum verdict_of_run what)
{
	return what == RUN_UNSAFE ? "SAFETY LOST" : what == RUN_STUCK ? "LIVENESS LOST" : "CRASHED";
}

void violation(struct world *w, enum verdict_of_run what, const char *format, ...)
{
	if (w->over)
		return; /* what follows the first one follows from it */
	w->over = true;
	w->verdict = what;
	va_list args;
	va_start(args, format);
	char rule[256];
	(void)vsnprintf(rule, sizeof rule, format, args);
	va_end(args);
	(void)printf("%s: seed %llu, %u nodes, event %llu, commit %s: %s\n", kind_of(what),
		(unsigned long long)w->seed, w->n, (unsigned long long)w->events, SIM_COMMIT, rule);
	unsigned most = w->opt->trace_lines < LINES_MAX ? w->opt->trace_lines : LINES_MAX;
	unsigned n = w->traced < most ? w->traced : most;
	for (unsigned i = 0; i < n; i++)
		(void)printf("  %s\n", lines[(w->traced - n + i) % LINES_MAX]);
	(void)fflush(stdout);
}
