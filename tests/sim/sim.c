/* sim: runs seeds, says what it saw. Exit status 0: nothing that must not happen; 2: safety lost;
 * 3: liveness lost; 4: crashed; 1: wrong usage. */
#include "sim.h"

#include "base/log.h"

#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

static struct world world;

/* The engine checks itself; whoever looks wants to know which seed it was. */
_Noreturn void check_fail(const char *condition, const char *file, int line)
{
	violation(&world, RUN_CRASHED, "check %s, %s:%d", condition, file, line);
	_exit(RUN_CRASHED);
}

static void on_signal(int number)
{
	violation(&world, RUN_CRASHED, "signal %d", number);
	_exit(RUN_CRASHED);
}

static _Noreturn void usage(void)
{
	(void)fprintf(stderr,
		"usage: sim --seed N [--runs M] [--nodes 3|5] [--events N] [--level engine|shard]\n"
		"           [--trace [--trace-lines N]] [--history FILE] [--lie PPM] [--quiet]\n"
		"           [--mutant NAME | --list-mutants]\n"
		"  --lie PPM  clocks go wrong by up to this, beyond what the engines are told\n"
		"  --mutant   break this rule (in the build for it only, sim_mutants)\n");
	exit(RUN_USAGE);
}

static uint64_t number(const char *text)
{
	char *end;
	uint64_t n = strtoull(text, &end, 0);
	if (*text == '\0' || *end != '\0')
		usage();
	return n;
}

static _Noreturn void list_mutants(void)
{
	mutants_list(stdout);
	exit(RUN_OK);
}

static void parse(struct options *o, int argc, char **argv)
{
	static const struct option names[] = {{"seed", 1, NULL, 's'}, {"runs", 1, NULL, 'r'},
		{"nodes", 1, NULL, 'n'}, {"events", 1, NULL, 'e'}, {"level", 1, NULL, 'l'},
		{"trace", 0, NULL, 't'}, {"history", 1, NULL, 'h'}, {"lie", 1, NULL, 'd'},
		{"quiet", 0, NULL, 'q'}, {"trace-lines", 1, NULL, 'T'}, {"mutant", 1, NULL, 'm'},
		{"list-mutants", 0, NULL, 'L'}, {0}};
	int c;
	*o = (struct options){.seed = 1, .runs = 1, .events = 100000, .trace_lines = 30};
	while ((c = getopt_long(argc, argv, "", names, NULL)) != -1) {
		if (c == 's')
			o->seed = number(optarg);
		else if (c == 'r')
			o->runs = number(optarg);
		else if (c == 'n')
			o->nodes = (unsigned)number(optarg);
		else if (c == 'e')
			o->events = number(optarg);
		else if (c == 'l')
			o->level = strcmp(optarg, "shard") == 0 ? LEVEL_SHARD : LEVEL_ENGINE;
		else if (c == 't')
			o->trace = true;
		else if (c == 'T')
			o->trace_lines = (unsigned)number(optarg);
		else if (c == 'h')
			o->history = optarg;
		else if (c == 'd')
			o->lie_ppm = (unsigned)number(optarg);
		else if (c == 'q')
			o->quiet = true;
		else if (c == 'm' && mutant_break(optarg))
			continue;
		else if (c == 'L')
			list_mutants();
		else
			usage();
	}
	bool nodes_ok = o->nodes == 0 || o->nodes == 3 || o->nodes == 5;
	if (optind != argc || !nodes_ok || o->lie_ppm > 400000)
		usage();
}

static void write_history(const struct options *o)
{
	FILE *f = fopen(o->history, "w");
	if (f == NULL) {
		perror(o->history);
		exit(RUN_USAGE);
	}
	history_write(&world, f);
	(void)fclose(f);
}

static void report(const struct options *o)
{
	const struct sums *s = &world.sums;
	if (o->quiet)
		return;
	(void)printf("%" PRIu64 " runs from seed %" PRIu64 ": %" PRIu64 " events, %" PRIu64
		     " simulated s, %" PRIu64 " answers, %" PRIu64 " grants, %" PRIu64
		     " judged leases, %" PRIu64 " crashes, %" PRIu64 " stops, %" PRIu64
		     " clean starts, %" PRIu64 " syncs, %" PRIu64 " fallbacks, %" PRIu64
		     " shadows, %" PRIu64 " healed, %" PRIu64 " lost, %" PRIu64 " too old, %" PRIu64
		     " linear ops (%" PRIu64 " states, %" PRIu64 " given up), trace %016" PRIx64
		     "\n",
		s->runs, o->seed, s->events, s->sim_ns / SEC, s->answers, s->grants,
		s->leases_judged, s->crashes, s->stops, s->clean_starts, s->syncs, s->fallbacks,
		s->shadows, s->healed, s->lost, s->dropped_old, s->linear_ops, s->linear_states,
		s->linear_given_up, world.hash);
}

int main(int argc, char **argv)
{
	struct options o;
	parse(&o, argc, argv);
	log_set_level(LOG_ERROR);
	(void)signal(SIGSEGV, on_signal);
	(void)signal(SIGBUS, on_signal);
	(void)signal(SIGFPE, on_signal);
	enum verdict_of_run verdict = RUN_OK;
	for (uint64_t i = 0; i < o.runs && verdict == RUN_OK; i++)
		verdict = world_simulate(&world, &o, o.seed + i);
	if (o.history != NULL)
		write_history(&o);
	report(&o);
	return (int)verdict;
}
