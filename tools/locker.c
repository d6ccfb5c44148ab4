/* The command line client: one command to the first node that can be reached. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "change.h"
#include "client/sync.h"
#include "nodes.h"
#include "hold.h"
#include "output.h"
#include "programs.h"
#include "report.h"
#include "request.h"

#define DEFAULT_NODES "127.0.0.1:7401,127.0.0.1:7402,127.0.0.1:7403"

enum {
	DEFAULT_TIMEOUT_MS = 5000,
};

static void print_usage(FILE *f)
{
	fputs("usage: locker [--node HOST:PORT,...] [--json] [--timeout TIME] COMMAND ...\n\n", f);
	for (const struct command *c = commands; c->name; c++)
		fprintf(f, "  %-*s%s\n", *c->usage ? 14 : 0, c->name, c->usage);
	fputs("  help          [COMMAND]\n\n"
	      "--node     nodes to try, in this order; any node takes any command\n"
	      "           (default LOCKER_NODES, or " DEFAULT_NODES ")\n"
	      "--json     one line of JSON: outcome, and reply or error\n"
	      "--timeout  for connecting, and for the answer (default 5s); times to wait add to "
	      "it\n"
	      "--version  print the version\n\n"
	      "TTL, TIME and TIMEOUT are milliseconds, or 500ms, 10s, 1m, 1h.\n"
	      "Exit status: 0 done; 1 refused (held, not the owner, not held); 2 usage;\n"
	      "3 no quorum, unknown whether it took effect, or busy, not ready, at a limit;\n"
	      "4 no node could be reached. Of run and elect: that of their COMMAND, or 123 lock\n"
	      "lost and COMMAND stopped, 124 not acquired, 125 usage.\n",
		f);
}

static int print_help(const char *name)
{
	const struct command *c = name ? command_find(name) : NULL;

	if (name && !c) {
		fprintf(stderr, "locker: no command '%s'; see locker --help\n", name);
		return STATUS_USAGE;
	}
	if (!c)
		print_usage(stdout);
	else
		printf("usage: locker %s%s%s\n\n%s\n", c->name, *c->usage ? " " : "", c->usage,
			c->help);
	return STATUS_DONE;
}

static void report_null(const struct options *o, const struct command *c)
{
	if (o->json)
		printf("{\"outcome\":\"%s\",\"reply\":null}\n",
			c->null_word ? c->null_word : "null");
	else
		fprintf(stderr, "locker: %s\n", c->null_means ? c->null_means : "nothing");
}

static void report_value(
	const struct options *o, const struct command *c, const struct resp_value *v, bool refused)
{
	static struct cluster_view cluster;

	if (o->json) {
		printf("{\"outcome\":\"%s\",\"reply\":", refused ? "refused" : "ok");
		json_value(stdout, v);
		puts("}");
	} else if (strcmp(c->name, "nodes") == 0 && cluster_view_take(&cluster, v)) {
		cluster_view_print(stdout, &cluster);
	} else if (v->type == RESP_VERBATIM || strcmp(c->name, "info") == 0) {
		for (size_t i = 0; i < v->str.len; i++) {
			if (v->str.p[i] != '\r')
				putchar(v->str.p[i]);
		}
	} else if (v->type == RESP_BULK && !isatty(STDOUT_FILENO)) {
		fwrite(v->str.p, 1, v->str.len, stdout);
		putchar('\n');
	} else {
		plain_value(stdout, v);
	}
}

static int report(const struct options *o, const struct command *c, const struct resp_value *v)
{
	if (v->type == RESP_ERR || v->type == RESP_BLOB_ERR)
		return report_error(o, v->str);
	if (v->type == RESP_NULL) {
		report_null(o, c);
		return STATUS_REFUSED;
	}
	bool refused = c->zero_is_refusal && v->type == RESP_INT && v->num == 0;
	report_value(o, c, v, refused);
	return refused ? STATUS_REFUSED : STATUS_DONE;
}

static int run(const struct options *o, const struct request *r)
{
	struct sync s;
	const struct resp_value *reply;
	char text[1024];
	int status;

	int err = sync_open(&s, o->nodes, o->timeout_ms);
	if (err < 0) {
		status = report_unreachable(o, err, s.why);
		sync_close(&s);
		return status;
	}
	err = sync_command(&s, r->argc, r->argv, o->timeout_ms + r->wait_ms, &reply);
	if (err == 0) {
		status = report(o, r->command, reply);
	} else if (err == -EMSGSIZE) {
		status = report_failure(o, STATUS_USAGE, "error", bytes_str(s.why));
	} else {
		snprintf(text, sizeof text, "%s: %s; it is unknown whether it took effect",
			s.address, s.why);
		status = report_failure(o, STATUS_UNSURE, "unknown", bytes_str(text));
	}
	sync_close(&s);
	return status;
}

/* Take the options of all commands out of words[0..*n), up to a "--". 0, or -1 with a sentence, and
 * *n are the words before the one that is wrong. words[*n] is NULL, before and after. */
static int take_options(struct options *o, int *n, char **words, char *why, size_t why_bytes)
{
	int kept = 0, r = 0;

	for (int i = 0; r == 0 && i < *n; i++) {
		bool node = strcmp(words[i], "--node") == 0;
		bool timeout = strcmp(words[i], "--timeout") == 0;

		if (strcmp(words[i], "--") == 0) {
			while (i < *n)
				words[kept++] = words[i++];
		} else if (strcmp(words[i], "--json") == 0) {
			o->json = true;
		} else if (strcmp(words[i], "--help") == 0 || strcmp(words[i], "-h") == 0) {
			o->help = true;
		} else if (strcmp(words[i], "--version") == 0) {
			o->version = true;
		} else if ((node || timeout) && i + 1 == *n) {
			snprintf(why, why_bytes, "%s needs a value", words[i]);
			r = -1;
		} else if (node) {
			o->nodes = words[++i];
		} else if (timeout) {
			if (!duration_parse(words[++i], &o->timeout_ms) || o->timeout_ms == 0) {
				snprintf(why, why_bytes, "--timeout: '%s' is no time", words[i]);
				r = -1;
			}
		} else {
			words[kept++] = words[i];
		}
	}
	*n = kept;
	words[kept] = NULL;
	return r;
}

static int run_command(const struct options *o, const struct command *command, int n, char **words)
{
	static const struct {
		const char *name;
		int (*run)(const struct options *, int, char **);
	} programs[] = {{"run", run_program}, {"elect", elect_program},
		{"observe", observe_program}, {"list", list_program}};
	static struct request request;
	char why[256];

	for (size_t i = 0; i < sizeof programs / sizeof *programs; i++) {
		if (strcmp(command->name, programs[i].name) == 0)
			return programs[i].run(o, n, words);
	}
	if (n > 0 && strcmp(command->name, "nodes") == 0 && strcmp(words[0], "set") == 0)
		return change_run(o, n - 1, words + 1);
	if (request_build(&request, command, (size_t)n, words, why, sizeof why) < 0)
		return usage_error(why);
	return run(o, &request);
}

/* Scripts tell wrong usage of `run` from what the command under it answers. */
static int usage_status(int n, char **words)
{
	bool runs = n > 0 && (strcmp(words[0], "run") == 0 || strcmp(words[0], "elect") == 0);

	return runs ? (int)STATUS_RUN_USAGE : (int)STATUS_USAGE;
}

int main(int argc, char **argv)
{
	const char *nodes = getenv("LOCKER_NODES");
	struct options o = {
		.nodes = nodes && *nodes ? nodes : DEFAULT_NODES, .timeout_ms = DEFAULT_TIMEOUT_MS};
	char why[256];
	int n = argc - 1;
	char **words = argv + 1;

	if (argc < 1)
		return usage_error("no arguments at all");
	if (take_options(&o, &n, words, why, sizeof why) < 0) {
		(void)usage_error(why);
		return usage_status(n, words);
	}
	if (o.version) {
		puts("locker " LOCKER_VERSION);
		return STATUS_DONE;
	}
	if (n > 0 && strcmp(words[0], "help") == 0)
		return print_help(n > 1 ? words[1] : NULL);
	if (o.help)
		return print_help(n > 0 ? words[0] : NULL);
	if (n == 0) {
		print_usage(stderr);
		return STATUS_USAGE;
	}
	const struct command *command = command_find(words[0]);
	if (!command) {
		snprintf(why, sizeof why, "no %s '%.64s'; see locker --help",
			strncmp(words[0], "--", 2) == 0 ? "option" : "command", words[0]);
		return usage_error(why);
	}
	int status = run_command(&o, command, n - 1, words + 1);
	if (fflush(stdout) != 0 || ferror(stdout)) {
		perror("locker: writing");
		return STATUS_UNSURE;
	}
	return status;
}
