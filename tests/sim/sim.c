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

static const char help[] =
	"usage: sim [OPTION]...\n"
	"Clusters of real engines in a world that goes wrong, as the seed says. The same seed "
	"gives\n"
	"the same events, and the same trace hash, on every machine.\n"
	"\n"
	"  --seed N         of the first run (1)\n"
	"  --runs M         how many seeds, one after another, until one fails (1)\n"
	"  --nodes 3|4|5    masters (the seed chooses)\n"
	"  --events N       events of a run before everything is healed (100000)\n"
	"  --level LEVEL    engine, or shard: shards and their streams as well (the seed chooses)\n"
	"  --drill NAME     instead of a mix of faults one made for a part of the protocol:\n"
	"                   values, restarts, aside, scattered, forgetful, early-end, members\n"
	"                   (one seed in five draws one)\n"
	"  --churn YES|NO   the configuration changes, or not (the seed chooses; at level engine)\n"
	"  --trace          when a run fails, tell what happened last\n"
	"  --trace-lines N  ... in that many lines (30, at most 262144)\n"
	"  --history FILE   write what clients asked and heard, for another judge\n"
	"  --observers      every key is observed at every node (engine level)\n"
	"  --lie PPM        clocks go wrong by up to this, beyond what the engines are told\n"
	"  --mutant NAMES   break this rule, or NAME+NAME: these (only in sim_mutants)\n"
	"  --list-mutants   their names\n"
	"  --quiet          no summary\n"
	"\n"
	"Exit status: 0 nothing that must not happen, 1 wrong usage, 2 safety lost, 3 liveness "
	"lost,\n"
	"4 crashed. The first line then names the seed to repeat it with.\n";

static _Noreturn void usage(const char *what, const char *value)
{
	(void)fprintf(stderr, "sim: %s%s; sim --help tells more\n", what, value);
	exit(RUN_USAGE);
}

static uint64_t number(const char *text)
{
	char *end;
	uint64_t n = strtoull(text, &end, 0);
	if (*text < '0' || *text > '9' || *end != '\0')
		usage("not a number: ", text);
	return n;
}

static enum level level_of(const char *text)
{
	if (strcmp(text, "engine") != 0 && strcmp(text, "shard") != 0)
		usage("--level is engine or shard, not ", text);
	return *text == 's' ? LEVEL_SHARD : LEVEL_ENGINE;
}

static enum churn churn_of(const char *text)
{
	if (strcmp(text, "yes") != 0 && strcmp(text, "no") != 0)
		usage("--churn is yes or no, not ", text);
	return *text == 'y' ? CHURN_ALWAYS : CHURN_NEVER;
}

static enum drill drill_of(const char *text)
{
	enum drill drill = drill_named(text);
	if (drill == DRILL_NONE)
		usage("there is no such drill: ", text);
	return drill;
}

static _Noreturn void say(bool mutants)
{
	if (mutants)
		mutants_list(stdout);
	else
		(void)fputs(help, stdout);
	exit(RUN_OK);
}

static void parse(struct options *o, int argc, char **argv)
{
	static const struct option names[] = {{"seed", 1, NULL, 's'}, {"runs", 1, NULL, 'r'},
		{"nodes", 1, NULL, 'n'}, {"events", 1, NULL, 'e'}, {"level", 1, NULL, 'l'},
		{"trace", 0, NULL, 't'}, {"history", 1, NULL, 'h'}, {"lie", 1, NULL, 'd'},
		{"observers", 0, NULL, 'o'}, {"quiet", 0, NULL, 'q'}, {"trace-lines", 1, NULL, 'T'},
		{"mutant", 1, NULL, 'm'}, {"churn", 1, NULL, 'c'}, {"list-mutants", 0, NULL, 'L'},
		{"drill", 1, NULL, 'D'}, {"help", 0, NULL, 'H'}, {0}};
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
			o->level = level_of(optarg);
		else if (c == 'c')
			o->churn = churn_of(optarg);
		else if (c == 'D')
			o->drill = drill_of(optarg);
		else if (c == 't')
			o->trace = true;
		else if (c == 'T')
			o->trace_lines = (unsigned)number(optarg);
		else if (c == 'h')
			o->history = optarg;
		else if (c == 'd')
			o->lie_ppm = (unsigned)number(optarg);
		else if (c == 'o')
			o->observers = true;
		else if (c == 'q')
			o->quiet = true;
		else if (c == 'm' && !mutants_break(optarg))
			usage("no such rule in this build: ", optarg);
		else if (c == 'L' || c == 'H')
			say(c == 'L');
		else if (c == '?')
			usage("that is not an option, or it lacks its value", "");
	}
	if (optind != argc)
		usage("what is that: ", argv[optind]);
	if (o->nodes != 0 && (o->nodes < 3 || o->nodes > 5))
		usage("--nodes is 3, 4 or 5", "");
	bool churn = o->churn == CHURN_ALWAYS || o->drill == DRILL_MEMBERS;
	if (churn && (o->level == LEVEL_SHARD || o->churn == CHURN_NEVER))
		usage("configurations change at level engine only, and not with --churn no", "");
	if (o->lie_ppm > 400000)
		usage("--lie is at most 400000", "");
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
		     " linear ops (%" PRIu64 " states, %" PRIu64 " given up), %" PRIu64
		     " runs with %" PRIu64 " changes, %" PRIu64 " SETNODES done, %" PRIu64
		     " failed, %" PRIu64 " of another epoch, trace %016" PRIx64 "\n",
		s->runs, o->seed, s->events, s->sim_ns / SEC, s->answers, s->grants,
		s->leases_judged, s->crashes, s->stops, s->clean_starts, s->syncs, s->fallbacks,
		s->shadows, s->healed, s->lost, s->dropped_old, s->linear_ops, s->linear_states,
		s->linear_given_up, s->churned, s->changes, s->sets_done, s->sets_failed,
		s->other_epoch, world.hash);
	if (o->observers)
		(void)printf("observers were told of %" PRIu64 " events\n", s->observed);
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
