#include "hold_words.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/limits.h"
#include "request.h"

enum {
	TTL_DEFAULT_MS = 15000,
	TTL_MIN_MS = 100, /* a shorter one could not be kept reliably */
	GRACE_MAX_DEFAULT_MS = 10000,
	MARGIN_MAX_MS = 500,
};

static int refuse(const char *format, ...) __attribute__((format(printf, 1, 2)));

static int refuse(const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	fputs("locker: ", stderr);
	(void)vfprintf(stderr, format, ap);
	fputc('\n', stderr);
	va_end(ap);
	return STATUS_RUN_USAGE;
}

static int take_time(const char *flag, const char *word, int64_t *ret_ms)
{
	if (duration_parse(word, ret_ms))
		return 0;
	return refuse("%s: '%.64s' is no time: milliseconds, or 500ms, 10s, 1m, 1h", flag, word);
}

/* The option at words[*i]. */
static int take_option(
	struct hold_wish *w, const struct hold_syntax *syntax, int n, char **words, int *i)
{
	const char *flag = words[*i];
	int64_t *time = NULL;

	if (strcmp(flag, "--ttl") == 0)
		time = &w->lock.ttl_ms;
	else if (strcmp(flag, "--kill-grace") == 0)
		time = &w->grace_ms;
	else if (strcmp(flag, "--wait") == 0 && !syntax->waits_forever)
		time = &w->lock.wait_ms;
	else if (strcmp(flag, syntax->value_flag) != 0)
		return refuse("%s knows no option '%.64s'", syntax->name, flag);
	if (*i + 1 == n || strcmp(words[*i + 1], "--") == 0)
		return refuse("%s needs a value", flag);
	++*i;
	if (time)
		return take_time(flag, words[*i], time);
	w->lock.value = words[*i];
	return 0;
}

static int check_bounds(struct hold_wish *w)
{
	size_t key_bytes = strlen(w->lock.key);

	if (key_bytes == 0 || key_bytes > KEY_MAX_BYTES)
		return refuse("a key has 1 to %d bytes, not %zu", KEY_MAX_BYTES, key_bytes);
	if (w->lock.value && strlen(w->lock.value) > VALUE_MAX_BYTES)
		return refuse("a value has at most %d bytes", VALUE_MAX_BYTES);
	if (w->lock.ttl_ms < TTL_MIN_MS || w->lock.ttl_ms > LEASE_MAX_MS)
		return refuse("--ttl: %lld ms is no lease to run under: %dms to %dh",
			(long long)w->lock.ttl_ms, TTL_MIN_MS, LEASE_MAX_MS / 3600000);
	if (w->grace_ms < 0) {
		w->grace_ms = w->lock.ttl_ms / 3;
		if (w->grace_ms > GRACE_MAX_DEFAULT_MS)
			w->grace_ms = GRACE_MAX_DEFAULT_MS;
	}
	/* A third of the lease is over when it is extended for the first time. */
	if (w->grace_ms > w->lock.ttl_ms / 2)
		return refuse("--kill-grace: at most half of --ttl, or no time is left to extend "
			      "the lease");
	/* What it may take until all processes are gone, on a machine with other things to do. */
	w->lock.margin_ns = w->lock.ttl_ms * NS_PER_MS / 10;
	if (w->lock.margin_ns > MARGIN_MAX_MS * NS_PER_MS)
		w->lock.margin_ns = MARGIN_MAX_MS * NS_PER_MS;
	return 0;
}

/* Host and process for people, the rest for being the only one. */
static int make_up_value(struct hold_wish *w)
{
	static char value[128];
	char host[64];
	uint64_t number;

	if (gethostname(host, sizeof host) < 0)
		host[0] = '\0';
	host[sizeof host - 1] = '\0';
	if (getrandom(&number, sizeof number, 0) != (ssize_t)sizeof number)
		return refuse("no random number to be had");
	snprintf(value, sizeof value, "%s:%ld:%016llx", host, (long)getpid(),
		(unsigned long long)number);
	w->lock.value = value;
	w->lock.value_is_unique = true;
	return 0;
}

int hold_words_take(struct hold_wish *ret, const struct hold_syntax *syntax,
	const struct options *o, int n, char **words)
{
	int r = 0, i;

	*ret = (struct hold_wish){.lock = {.nodes = o->nodes,
					  .timeout_ms = o->timeout_ms,
					  .ttl_ms = TTL_DEFAULT_MS,
					  .wait_ms = syntax->waits_forever ? WAIT_FOREVER : 0},
		.grace_ms = -1};
	for (i = 0; r == 0 && i < n && strcmp(words[i], "--") != 0; i++) {
		if (strncmp(words[i], "--", 2) == 0)
			r = take_option(ret, syntax, n, words, &i);
		else if (ret->lock.key)
			r = refuse("write -- before the command: locker %s %s", syntax->name,
				syntax->usage);
		else
			ret->lock.key = words[i];
	}
	if (r)
		return r;
	if (!ret->lock.key || i + 1 >= n)
		return refuse("usage: locker %s %s", syntax->name, syntax->usage);
	ret->argv = words + i + 1;
	if (o->json)
		return refuse("%s has nothing to say in JSON", syntax->name);
	if (!endpoints_valid(o->nodes))
		return refuse("--node: '%.128s' is no list of HOST:PORT", o->nodes);
	r = check_bounds(ret);
	return r || ret->lock.value ? r : make_up_value(ret);
}
