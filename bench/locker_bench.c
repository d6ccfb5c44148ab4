/* The load generator. */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/limits.h"
#include "load.h"

#define DEFAULT_NODES "127.0.0.1:7401,127.0.0.1:7402,127.0.0.1:7403"

enum {
	ADDRESSES_MAX = 64,
	STATUS_USAGE = 2,
};

struct options {
	struct load_config load;
	const char *addresses[ADDRESSES_MAX];
	bool json;
	bool quiet;
};

static _Atomic bool stop;

static void on_signal(int number)
{
	(void)number;
	atomic_store(&stop, true);
}

static void usage(FILE *f)
{
	fputs("usage: locker-bench [OPTION]...\n\n"
	      "  --node LIST         HOST:PORT,... connections are spread over them\n"
	      "                      [" DEFAULT_NODES "]\n"
	      "  --workload NAME     cycle: LOCK, then RELEASE [cycle]\n"
	      "                      set: SET key value NX PX ttl, never released\n"
	      "                      hold: LOCK each of --keys keys once, and end\n"
	      "  --connections N     [50]\n"
	      "  --pipeline N        requests in flight per connection [1]\n"
	      "  --threads N         of this program [1]\n"
	      "  --keys N            random keys out of so many; hold: how many [1000000000]\n"
	      "  --key-bytes N       [16]\n"
	      "  --value-bytes N     [16]\n"
	      "  --ttl MS            [30000]\n"
	      "  --warmup SECONDS    not counted [1]\n"
	      "  --seconds SECONDS   counted [10]\n"
	      "  --seed N            of the keys [1]\n"
	      "  --json              one line of JSON instead of a table\n"
	      "  --quiet             no progress line\n\n"
	      "Exit status: 0; 1 could not connect, or lost connections; 2 usage.\n",
		f);
}

static bool parse_u64(const char *text, uint64_t min, uint64_t max, uint64_t *ret)
{
	char *end;

	errno = 0;
	unsigned long long n = strtoull(text, &end, 10);
	if (*text < '0' || *text > '9' || *end != '\0' || errno || n < min || n > max)
		return false;
	*ret = n;
	return true;
}

static bool parse_seconds(const char *text, uint64_t *ret_ns)
{
	char *end;
	double s = strtod(text, &end);

	if (end == text || *end != '\0' || !(s >= 0 && s <= 1e7))
		return false;
	*ret_ns = (uint64_t)(s * 1e9);
	return true;
}

static bool parse_nodes(char *list, struct options *o)
{
	char *save;

	o->load.n_addresses = 0;
	for (char *a = strtok_r(list, ",", &save); a; a = strtok_r(NULL, ",", &save)) {
		if (o->load.n_addresses == ADDRESSES_MAX)
			return false;
		o->addresses[o->load.n_addresses++] = a;
	}
	return o->load.n_addresses > 0;
}

static bool parse_workload(const char *name, enum workload *ret)
{
	static const char *const names[] = {"cycle", "set", "hold"};

	for (unsigned i = 0; i < 3; i++) {
		if (strcmp(name, names[i]) == 0) {
			*ret = (enum workload)i;
			return true;
		}
	}
	return false;
}

static const struct option long_options[] = {
	{"node", required_argument, NULL, 'n'},
	{"workload", required_argument, NULL, 'w'},
	{"connections", required_argument, NULL, 'c'},
	{"pipeline", required_argument, NULL, 'P'},
	{"threads", required_argument, NULL, 't'},
	{"keys", required_argument, NULL, 'k'},
	{"key-bytes", required_argument, NULL, 'K'},
	{"value-bytes", required_argument, NULL, 'V'},
	{"ttl", required_argument, NULL, 'T'},
	{"warmup", required_argument, NULL, 'u'},
	{"seconds", required_argument, NULL, 's'},
	{"seed", required_argument, NULL, 'S'},
	{"json", no_argument, NULL, 'j'},
	{"quiet", no_argument, NULL, 'q'},
	{"help", no_argument, NULL, 'h'},
	{0},
};

/* Store one option; false: its value is none. */
static bool set_option(struct options *o, int letter, char *value)
{
	struct load_config *l = &o->load;
	uint64_t n = 0;
	bool ok = true;

	switch (letter) {
	case 'n':
		return parse_nodes(value, o);
	case 'w':
		return parse_workload(value, &l->workload);
	case 'c':
		ok = parse_u64(value, 1, 1000000, &n);
		l->connections = (unsigned)n;
		return ok;
	case 'P':
		ok = parse_u64(value, 1, 65536, &n);
		l->pipeline = (unsigned)n;
		return ok;
	case 't':
		ok = parse_u64(value, 1, 256, &n);
		l->threads = (unsigned)n;
		return ok;
	case 'k':
		return parse_u64(value, 1, UINT64_MAX, &l->keys);
	case 'K':
		ok = parse_u64(value, KEY_BYTES_MIN, KEY_MAX_BYTES, &n);
		l->key_bytes = (uint32_t)n;
		return ok;
	case 'V':
		ok = parse_u64(value, 0, VALUE_MAX_BYTES, &n);
		l->value_bytes = (uint32_t)n;
		return ok;
	case 'T':
		ok = parse_u64(value, 1, LEASE_MAX_MS, &n);
		l->ttl_ms = (uint32_t)n;
		return ok;
	case 'u':
		return parse_seconds(value, &l->warmup_ns);
	case 's':
		return parse_seconds(value, &l->measure_ns);
	case 'S':
		return parse_u64(value, 0, UINT64_MAX, &l->seed);
	case 'j':
		o->json = true;
		return true;
	default:
		o->quiet = true;
		return true;
	}
}

/* 0; 1: help was asked for; -1: wrong usage, and said so. */
static int parse(struct options *o, int argc, char **argv)
{
	int letter, index = 0;

	while ((letter = getopt_long(argc, argv, "c:P:t:n:k:h", long_options, &index)) != -1) {
		if (letter == 'h')
			return 1;
		if (letter == '?')
			return -1;
		if (!set_option(o, letter, optarg)) {
			fprintf(stderr, "locker-bench: option -%c does not take '%s'; see --help\n",
				letter, optarg ? optarg : "");
			return -1;
		}
	}
	if (optind < argc) {
		fprintf(stderr, "locker-bench: what is '%s'? See --help\n", argv[optind]);
		return -1;
	}
	uint64_t most = 1;
	for (uint32_t i = 1; i < o->load.key_bytes && most <= UINT64_MAX / 10; i++)
		most *= 10;
	if (o->load.keys > most) {
		fprintf(stderr, "locker-bench: %" PRIu64 " keys do not fit %" PRIu32 " bytes\n",
			o->load.keys, o->load.key_bytes);
		return -1;
	}
	if (o->load.threads > o->load.connections)
		o->load.threads = o->load.connections;
	return 0;
}

static void progress(const struct options *o, struct load *loads, const _Atomic unsigned *running)
{
	uint64_t before = 0;

	for (unsigned s = 1; atomic_load(running) > 0; s++) {
		for (int i = 0; i < 20 && atomic_load(running) > 0; i++)
			usleep(50000);
		uint64_t done = 0;
		for (unsigned i = 0; i < o->load.threads; i++)
			done += atomic_load_explicit(&loads[i].done, memory_order_relaxed);
		if (!o->quiet)
			fprintf(stderr, "\r%4u s  %10" PRIu64 " replies  %9" PRIu64 "/s ", s, done,
				done - before);
		before = done;
	}
	if (!o->quiet)
		fputs("\r                                            \r", stderr);
}

struct thread {
	pthread_t id;
	struct load *load;
	_Atomic unsigned *running;
};

static void *thread_body(void *arg)
{
	struct thread *t = arg;

	load_run(t->load);
	atomic_fetch_sub(t->running, 1);
	return NULL;
}

static void merge(struct load_stats *into, const struct load_stats *from)
{
	for (unsigned k = 0; k < KINDS; k++)
		histogram_merge(&into->latency[k], &from->latency[k]);
	into->granted += from->granted;
	into->refused += from->refused;
	into->released += from->released;
	into->lost += from->lost;
	for (unsigned i = 0; i < ERROR_WORDS_MAX && from->errors[i].count; i++)
		load_count_error(
			into->errors, bytes_str(from->errors[i].word), from->errors[i].count);
}

static const struct {
	const char *name;
	double share;
} quantiles[] = {{"p50", 0.5}, {"p90", 0.9}, {"p99", 0.99}, {"p99.9", 0.999}, {"p99.99", 0.9999}};

enum {
	QUANTILES = sizeof quantiles / sizeof *quantiles,
};

static void print_latency_json(const char *name, const struct histogram *h)
{
	printf(",\"%s_us\":{\"count\":%" PRIu64 ",\"mean\":%.1f", name, h->count,
		h->count ? (double)h->sum_ns / (double)h->count / 1e3 : 0.0);
	for (unsigned i = 0; i < QUANTILES; i++)
		printf(",\"%s\":%.1f", quantiles[i].name,
			(double)histogram_quantile(h, quantiles[i].share) / 1e3);
	printf(",\"max\":%.1f}", (double)h->max_ns / 1e3);
}

static void print_json(const struct load_stats *s, double seconds, uint64_t all_granted)
{
	uint64_t asked = s->latency[KIND_LOCK].count;

	printf("{\"seconds\":%.3f,\"locks\":%" PRIu64 ",\"granted\":%" PRIu64
	       ",\"refused\":%" PRIu64 ",\"released\":%" PRIu64 ",\"granted_with_warmup\":%" PRIu64
	       ",\"granted_per_s\":%.1f,\"replies_per_s\":%.1f,\"lost_connections\":%" PRIu64,
		seconds, asked, s->granted, s->refused, s->released, all_granted,
		(double)s->granted / seconds,
		(double)(asked + s->latency[KIND_RELEASE].count) / seconds, s->lost);
	print_latency_json("lock", &s->latency[KIND_LOCK]);
	print_latency_json("release", &s->latency[KIND_RELEASE]);
	printf(",\"errors\":{");
	for (unsigned i = 0; i < ERROR_WORDS_MAX && s->errors[i].count; i++)
		printf("%s\"%s\":%" PRIu64, i ? "," : "", s->errors[i].word, s->errors[i].count);
	puts("}}");
}

static void print_latency(const char *name, const struct histogram *h)
{
	if (h->count == 0)
		return;
	printf("%-8s mean %.1f", name, (double)h->sum_ns / (double)h->count / 1e3);
	for (unsigned i = 0; i < QUANTILES; i++)
		printf("  %s %.1f", quantiles[i].name,
			(double)histogram_quantile(h, quantiles[i].share) / 1e3);
	printf("  max %.1f us\n", (double)h->max_ns / 1e3);
}

static void print_table(const struct load_stats *s, double seconds)
{
	uint64_t asked = s->latency[KIND_LOCK].count;
	uint64_t replies = asked + s->latency[KIND_RELEASE].count;

	printf("%.0f commands/s, %.0f locks granted/s in %.1f s\n", (double)replies / seconds,
		(double)s->granted / seconds, seconds);
	printf("locks: %" PRIu64 " granted, %" PRIu64 " refused (%.2f %%); %" PRIu64 " released\n",
		s->granted, s->refused, asked ? 100.0 * (double)s->refused / (double)asked : 0.0,
		s->released);
	print_latency("lock", &s->latency[KIND_LOCK]);
	print_latency("release", &s->latency[KIND_RELEASE]);
	for (unsigned i = 0; i < ERROR_WORDS_MAX && s->errors[i].count; i++)
		printf("error %s: %" PRIu64 "\n", s->errors[i].word, s->errors[i].count);
	if (s->lost)
		printf("connections lost: %" PRIu64 "\n", s->lost);
}

static void raise_file_limit(void)
{
	struct rlimit r;

	if (getrlimit(RLIMIT_NOFILE, &r) == 0) {
		r.rlim_cur = r.rlim_max;
		(void)!setrlimit(RLIMIT_NOFILE, &r);
	}
}

static int run(struct options *o)
{
	unsigned n = o->load.threads;
	struct load *loads = calloc(n, sizeof *loads);
	struct thread *threads = calloc(n, sizeof *threads);
	struct load_stats *total = calloc(1, sizeof *total);
	_Atomic uint64_t next_key = 0;
	_Atomic unsigned running = n;
	uint64_t start_ns = load_now_ns(), all_granted = 0;
	const char *why = loads && threads && total ? "" : "out of memory";
	unsigned started = 0;

	for (; *why == '\0' && started < n; started++) {
		loads[started] = (struct load){.config = &o->load,
			.index = started,
			.stop = &stop,
			.next_key = &next_key,
			.start_ns = start_ns};
		threads[started].load = &loads[started];
		threads[started].running = &running;
		if (pthread_create(&threads[started].id, NULL, thread_body, &threads[started])) {
			why = "cannot start a thread";
			atomic_store(&stop, true);
			atomic_fetch_sub(&running, n - started);
			break;
		}
	}
	if (started > 0)
		progress(o, loads, &running);
	for (unsigned i = 0; i < started; i++) {
		pthread_join(threads[i].id, NULL);
		merge(total, &loads[i].stats);
		all_granted += loads[i].all_granted;
		if (loads[i].why[0] != '\0')
			why = loads[i].why;
	}
	double seconds = ((double)(load_now_ns() - start_ns) - (double)o->load.warmup_ns) / 1e9;
	double wanted = (double)o->load.measure_ns / 1e9;
	/* The last answers are waited for beyond the time to measure. */
	if (o->load.workload != WORKLOAD_HOLD && seconds > wanted)
		seconds = wanted;
	int status = *why != '\0' || (total && total->lost) ? 1 : 0;
	if (*why != '\0')
		fprintf(stderr, "locker-bench: %s\n", why);
	else if (o->json)
		print_json(total, seconds > 0 ? seconds : 1e-9, all_granted);
	else
		print_table(total, seconds > 0 ? seconds : 1e-9);
	free(total);
	free(threads);
	free(loads);
	return status;
}

int main(int argc, char **argv)
{
	char nodes[] = DEFAULT_NODES;
	struct options o = {.load = {.connections = 50,
				    .threads = 1,
				    .pipeline = 1,
				    .keys = 1000000000,
				    .key_bytes = 16,
				    .value_bytes = 16,
				    .ttl_ms = 30000,
				    .warmup_ns = 1000000000,
				    .measure_ns = UINT64_C(10000000000),
				    .seed = 1}};

	o.load.addresses = o.addresses;
	(void)parse_nodes(nodes, &o);
	int r = parse(&o, argc, argv);
	if (r != 0) {
		if (r > 0)
			usage(stdout);
		return r > 0 ? 0 : STATUS_USAGE;
	}
	if (o.load.workload == WORKLOAD_HOLD)
		o.load.warmup_ns = 0;
	if (!isatty(STDERR_FILENO))
		o.quiet = true;
	raise_file_limit();
	signal(SIGPIPE, SIG_IGN);
	signal(SIGINT, on_signal);
	signal(SIGTERM, on_signal);
	return run(&o);
}
