#include "programs.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/limits.h"
#include "client/sync.h"
#include "endpoints.h"
#include "output.h"

enum {
	LOOK_EVERY_MS = 2000, /* at the latest: a node may have missed what it is to tell of */
	PAUSE_MS = 500,
};

struct leader {
	bool known, held;
	uint64_t token;
	size_t value_bytes;
	uint8_t value[VALUE_MAX_BYTES];
};

struct observer {
	const struct options *o;
	const char *key;
	struct endpoints nodes;
	size_t at;
	bool linked;
	struct sync link;
	struct leader leader;
	char why[sizeof((struct sync *)0)->why + 300];
};

static void print_time(FILE *f)
{
	struct timespec now;
	struct tm utc;
	char text[32];

	(void)clock_gettime(CLOCK_REALTIME, &now);
	(void)gmtime_r(&now.tv_sec, &utc);
	(void)strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &utc);
	fprintf(f, "%s.%03ldZ", text, now.tv_nsec / 1000000);
}

static void print_leader(const struct observer *w)
{
	const struct leader *l = &w->leader;
	struct bytes value = bytes_of(l->value, l->value_bytes);

	if (w->o->json) {
		fputs("{\"time\":\"", stdout);
		print_time(stdout);
		fputs("\",\"value\":", stdout);
		if (l->held)
			json_string(stdout, value);
		else
			fputs("null", stdout);
		fputs(",\"token\":", stdout);
		if (l->held)
			printf("%" PRIu64 "}\n", l->token);
		else
			fputs("null}\n", stdout);
	} else {
		print_time(stdout);
		if (l->held) {
			printf("  %" PRIu64 "  ", l->token);
			plain_string(stdout, value);
			putchar('\n');
		} else {
			puts("  -  nobody");
		}
	}
	(void)fflush(stdout);
}

/* ---- one node ---- */

static void next_node(struct observer *w)
{
	if (w->linked)
		sync_close(&w->link);
	w->linked = false;
	w->at = (w->at + 1) % w->nodes.n;
}

/* False: this node cannot tell, w->why says why, and the next one is at hand. */
static bool ask(struct observer *w, const char *verb, const char *last, int64_t wait_ms,
	const struct resp_value **ret)
{
	const struct bytes argv[] = {bytes_str(verb), bytes_str(w->key), bytes_str(last)};
	const char *address = w->nodes.address[w->at];
	bool opened = w->linked || sync_open(&w->link, address, w->o->timeout_ms) == 0;

	w->linked = true;
	if (!opened || sync_command(&w->link, 3, argv, w->o->timeout_ms + wait_ms, ret) != 0)
		snprintf(w->why, sizeof w->why, "%s: %s", address, w->link.why);
	else if ((*ret)->type == RESP_ERR)
		snprintf(w->why, sizeof w->why, "%s: %.*s", address, (int)(*ret)->str.len,
			(const char *)(*ret)->str.p);
	else
		return true;
	next_node(w);
	return false;
}

static bool is_same(const struct leader *a, const struct leader *b)
{
	return a->known == b->known && a->held == b->held && a->token == b->token &&
	       bytes_eq(bytes_of(a->value, a->value_bytes), bytes_of(b->value, b->value_bytes));
}

/* 1: the leader is another one than before; 0: the same; -1: no answer. */
static int look(struct observer *w)
{
	const struct resp_value *reply, *value, *token;
	static struct leader now;

	if (!ask(w, "HOLDER", "QUORUM", 0, &reply))
		return -1;
	now = (struct leader){.known = true};
	value = sync_map_get(reply, "value");
	token = sync_map_get(reply, "token");
	if (value && token && value->str.len <= sizeof now.value) {
		now.held = true;
		now.token = (uint64_t)token->num;
		now.value_bytes = value->str.len;
		if (now.value_bytes)
			memcpy(now.value, value->str.p, now.value_bytes);
	}
	if (is_same(&now, &w->leader))
		return 0;
	w->leader = now;
	return 1;
}

/* Until the node tells of a change: 1; or for a while: 0; -1: no answer. */
static int wait_for_change(struct observer *w)
{
	const struct resp_value *reply;
	char ms[16];

	snprintf(ms, sizeof ms, "%d", LOOK_EVERY_MS);
	if (!ask(w, w->leader.held ? "WAITRELEASE" : "WAITFOR", ms, LOOK_EVERY_MS, &reply))
		return -1;
	return reply->type != RESP_NULL;
}

static _Noreturn void observe(struct observer *w)
{
	size_t failures = 0;
	bool told = false;

	for (;;) {
		int changed = look(w);
		int news = 0;

		if (changed > 0)
			print_leader(w);
		if (ferror(stdout))
			exit(STATUS_UNSURE);
		/* Told of a change that a majority does not see: its copy is another one. */
		if (changed == 0 && told)
			(void)usleep(PAUSE_MS * 1000);
		if (changed >= 0)
			news = wait_for_change(w);
		told = news > 0;
		if (changed >= 0 && news >= 0) {
			failures = 0;
		} else if (++failures % w->nodes.n == 0) {
			if (failures == w->nodes.n) {
				fputs("locker: nobody can tell at the moment: ", stderr);
				plain_string(stderr, bytes_str(w->why));
				fputc('\n', stderr);
			}
			(void)usleep(PAUSE_MS * 1000);
		}
	}
}

int observe_program(const struct options *o, int n, char **words)
{
	static struct observer w;
	char why[256];

	if (n > 0 && strcmp(words[0], "--") == 0) {
		words++;
		n--;
	} else if (n > 0 && strncmp(words[0], "--", 2) == 0) {
		snprintf(why, sizeof why, "observe knows no option '%.64s'", words[0]);
		return usage_error(why);
	}
	if (n != 1)
		return usage_error("usage: locker observe NAME");
	if (*words[0] == '\0' || strlen(words[0]) > KEY_MAX_BYTES)
		return usage_error("a name has 1 to 512 bytes");
	if (!endpoints_valid(o->nodes)) {
		snprintf(why, sizeof why, "--node: '%.128s' is no list of HOST:PORT", o->nodes);
		return usage_error(why);
	}
	w = (struct observer){.o = o, .key = words[0]};
	endpoints_resolve(&w.nodes, o->nodes);
	observe(&w);
}
