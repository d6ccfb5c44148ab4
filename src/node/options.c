#include "node/options.h"

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"

enum {
	LINE_MAX_BYTES = 4096,
	NAME_MAX_BYTES = 40,
	TABLE_MAX = 64,
	HELP_COLUMN = 31,
};

static __attribute__((format(printf, 3, 4))) int refuse(
	char *why, size_t why_bytes, const char *format, ...)
{
	va_list args;
	va_start(args, format);
	(void)vsnprintf(why, why_bytes, format, args);
	va_end(args);
	return -EINVAL;
}

int option_number(const char *text, uint64_t *ret, const char **ret_end)
{
	uint64_t n = 0;
	if (!isdigit((unsigned char)*text))
		return -EINVAL;
	for (; isdigit((unsigned char)*text); text++) {
		uint64_t digit = (uint64_t)(*text - '0');
		if (n > (UINT64_MAX - digit) / 10)
			return -ERANGE;
		n = n * 10 + digit;
	}
	*ret = n;
	*ret_end = text;
	return 0;
}

static void *field(const struct option *o, void *into)
{
	return (char *)into + o->offset;
}

int option_switch(
	const struct option *o, const char *value, void *into, char *why, size_t why_bytes)
{
	static const char *const yes[] = {"", "yes", "true", "on", "1"};
	static const char *const no[] = {"no", "false", "off", "0"};
	bool *to = field(o, into);
	for (size_t i = 0; i < sizeof yes / sizeof yes[0]; i++) {
		if (strcmp(value, yes[i]) == 0) {
			*to = true;
			return 0;
		}
	}
	for (size_t i = 0; i < sizeof no / sizeof no[0]; i++) {
		if (strcmp(value, no[i]) == 0) {
			*to = false;
			return 0;
		}
	}
	return refuse(why, why_bytes, "is a switch: give it alone, or with yes or no");
}

/* A number with one of the units; unit 0 needs no suffix. */
struct unit {
	const char *suffix;
	uint64_t factor;
};

static int scaled(const struct option *o, const char *value, const struct unit *units,
	size_t n_units, const char *name, uint64_t *ret, char *why, size_t why_bytes)
{
	const char *end = NULL;
	uint64_t n = 0;
	int r = option_number(value, &n, &end);
	bool known = false;
	for (size_t i = 0; r == 0 && i < n_units && !known; i++) {
		if (strcasecmp(end, units[i].suffix) != 0)
			continue;
		known = true;
		if (n > UINT64_MAX / units[i].factor)
			r = -ERANGE;
		else
			n *= units[i].factor;
	}
	if (r == -EINVAL || (r == 0 && !known))
		return refuse(why, why_bytes, "is not a number%s between %llu and %llu", name,
			(unsigned long long)o->min, (unsigned long long)o->max);
	if (r == -ERANGE || n < o->min || n > o->max)
		return refuse(why, why_bytes, "must be between %llu and %llu%s",
			(unsigned long long)o->min, (unsigned long long)o->max, name);
	*ret = n;
	return 0;
}

int option_u32(const struct option *o, const char *value, void *into, char *why, size_t why_bytes)
{
	static const struct unit units[] = {{"", 1}};
	uint64_t n = 0;
	CHECK(o->max <= UINT32_MAX);
	int r = scaled(o, value, units, 1, "", &n, why, why_bytes);
	if (r == 0)
		*(uint32_t *)field(o, into) = (uint32_t)n;
	return r;
}

int option_ms(const struct option *o, const char *value, void *into, char *why, size_t why_bytes)
{
	static const struct unit units[] = {{"", 1}, {"ms", 1}, {"s", 1000}};
	uint64_t n = 0;
	CHECK(o->max <= UINT32_MAX);
	int r = scaled(o, value, units, 3, " ms", &n, why, why_bytes);
	if (r == 0)
		*(uint32_t *)field(o, into) = (uint32_t)n;
	return r;
}

int option_bytes(const struct option *o, const char *value, void *into, char *why, size_t why_bytes)
{
	static const struct unit units[] = {{"", 1}, {"K", 1 << 10}, {"KiB", 1 << 10},
		{"M", 1 << 20}, {"MiB", 1 << 20}, {"G", 1 << 30}, {"GiB", 1 << 30}};
	uint64_t n = 0;
	int r = scaled(o, value, units, 7, " bytes", &n, why, why_bytes);
	if (r == 0)
		*(size_t *)field(o, into) = n;
	return r;
}

int option_text(const struct option *o, const char *value, void *into, char *why, size_t why_bytes)
{
	size_t len = strlen(value);
	if (len < o->min || len > o->max)
		return refuse(why, why_bytes, "must have %llu to %llu characters",
			(unsigned long long)o->min, (unsigned long long)o->max);
	memcpy(field(o, into), value, len + 1);
	return 0;
}

int options_defaults(const struct option *table, void *into, char *why, size_t why_bytes)
{
	for (const struct option *o = table; o->name != NULL; o++) {
		char reason[256] = "";
		if (o->initial != NULL && o->set(o, o->initial, into, reason, sizeof reason) != 0)
			return refuse(why, why_bytes, "default of %s: %s", o->name, reason);
	}
	return 0;
}

/* ---- names ---- */

/* Levenshtein distance with neighbours swapped counting one (Damerau, restricted). */
static unsigned distance(const char *a, const char *b)
{
	unsigned rows[3][NAME_MAX_BYTES + 1];
	size_t la = strnlen(a, NAME_MAX_BYTES);
	size_t lb = strnlen(b, NAME_MAX_BYTES);
	for (size_t j = 0; j <= lb; j++)
		rows[0][j] = (unsigned)j;
	for (size_t i = 1; i <= la; i++) {
		unsigned *row = rows[i % 3];
		const unsigned *above = rows[(i + 2) % 3];
		const unsigned *above2 = rows[(i + 1) % 3];
		row[0] = (unsigned)i;
		for (size_t j = 1; j <= lb; j++) {
			unsigned best = above[j - 1] + (a[i - 1] != b[j - 1]);
			if (above[j] + 1 < best)
				best = above[j] + 1;
			if (row[j - 1] + 1 < best)
				best = row[j - 1] + 1;
			if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] &&
				above2[j - 2] + 1 < best)
				best = above2[j - 2] + 1;
			row[j] = best;
		}
	}
	return rows[la % 3][lb];
}

static const char *nearest(const struct option *table, const char *name)
{
	const char *best = NULL;
	unsigned best_distance = 4; /* further away is no typing error any more */
	for (const struct option *o = table; o->name != NULL; o++) {
		unsigned d = distance(name, o->name);
		size_t len = strlen(name);
		if (len >= 3 && strncmp(o->name, name, len) == 0)
			d = 1;
		if (d < best_distance) {
			best_distance = d;
			best = o->name;
		}
	}
	return best;
}

static const struct option *find(const struct option *table, const char *name)
{
	for (const struct option *o = table; o->name != NULL; o++)
		if (strcmp(o->name, name) == 0)
			return o;
	return NULL;
}

static int unknown(const struct option *table, const char *prefix, const char *name, char *why,
	size_t why_bytes)
{
	const char *near = nearest(table, name);
	const char *dashes = prefix[0] == '\0' ? "--" : "";
	if (near == NULL)
		return refuse(why, why_bytes, "%sunknown option %s%.40s; --help lists them", prefix,
			dashes, name);
	return refuse(why, why_bytes, "%sunknown option %s%.40s; did you mean %s%s?", prefix,
		dashes, name, dashes, near);
}

static int apply(const struct option *o, const char *prefix, const char *value, void *into,
	char *why, size_t why_bytes)
{
	char reason[256] = "";
	if (o->set(o, value, into, reason, sizeof reason) == 0) {
		if (o->said != 0)
			*(bool *)((char *)into + o->said) = true;
		return 0;
	}
	return refuse(why, why_bytes, "%s%s%s%s%.80s: %s", prefix, prefix[0] == '\0' ? "--" : "",
		o->name, value[0] == '\0' ? "" : " ", value, reason);
}

/* ---- command line ---- */

int options_args(const struct option *table, int argc, char *const *argv, void *into, char *why,
	size_t why_bytes)
{
	for (int i = 1; i < argc; i++) {
		const char *arg = argv[i];
		if (strcmp(arg, "-h") == 0)
			arg = "--help";
		if (strncmp(arg, "--", 2) != 0 || arg[2] == '\0')
			return refuse(why, why_bytes,
				"%.80s: options look like --name value; --help lists them", arg);
		char name[NAME_MAX_BYTES + 1];
		const char *equals = strchr(arg, '=');
		size_t len = equals == NULL ? strlen(arg + 2) : (size_t)(equals - arg - 2);
		(void)snprintf(name, sizeof name, "%.*s",
			(int)(len < sizeof name ? len : sizeof name), arg + 2);
		const struct option *o = find(table, name);
		if (o == NULL)
			return unknown(table, "", name, why, why_bytes);
		const char *value = equals == NULL ? "" : equals + 1;
		if (o->argument != NULL && equals == NULL) {
			if (i + 1 == argc)
				return refuse(why, why_bytes, "--%s needs a value: --%s %s", name,
					name, o->argument);
			value = argv[++i];
		}
		int r = apply(o, "", value, into, why, why_bytes);
		if (r != 0)
			return r;
	}
	return 0;
}

/* ---- file ---- */

/* `name value`, `name = value` or `name`: split in place; an empty line gives an empty name. */
static void split(char *line, char **ret_name, char **ret_value)
{
	for (char *p = line; *p != '\0'; p++) {
		if (*p == '#' && (p == line || isspace((unsigned char)p[-1]))) {
			*p = '\0';
			break;
		}
	}
	size_t len = strlen(line);
	while (len > 0 && isspace((unsigned char)line[len - 1]))
		line[--len] = '\0';
	char *name = line + strspn(line, " \t");
	char *value = name + strcspn(name, " \t=");
	if (*value != '\0') {
		size_t gap = strspn(value, " \t");
		bool equals = value[gap] == '=';
		*value = '\0';
		value += gap + (equals ? 1 : 0);
		value += strspn(value, " \t");
	}
	*ret_name = name;
	*ret_value = value;
}

static int file_line(const struct option *table, const char *prefix, char *line, unsigned number,
	unsigned *seen, void *into, char *why, size_t why_bytes)
{
	char *name = NULL;
	char *value = NULL;
	split(line, &name, &value);
	if (name[0] == '\0' && value[0] == '\0')
		return 0;
	const struct option *o = find(table, name);
	if (o == NULL)
		return unknown(table, prefix, name, why, why_bytes);
	if (o->flags_only)
		return refuse(why, why_bytes, "%s%s works on the command line only", prefix, name);
	if (seen[o - table] != 0)
		return refuse(why, why_bytes, "%s%s was given in line %u already", prefix, name,
			seen[o - table]);
	seen[o - table] = number;
	if (o->argument != NULL && value[0] == '\0')
		return refuse(why, why_bytes, "%s%s needs a value: %s %s", prefix, name, name,
			o->argument);
	return apply(o, prefix, value, into, why, why_bytes);
}

/* One line without its end, NUL-terminated. 1; 0: no more; -1: @why. */
static int read_line(FILE *f, const char *prefix, char *line, char *why, size_t why_bytes)
{
	size_t n = 0;
	int ch = getc(f);
	if (ch == EOF)
		return 0;
	for (; ch != EOF && ch != '\n'; ch = getc(f)) {
		if (ch == '\0')
			return refuse(why, why_bytes, "%sthere is a NUL byte in the line", prefix);
		if (n == LINE_MAX_BYTES - 1)
			return refuse(why, why_bytes, "%sthe line is longer than %d bytes", prefix,
				LINE_MAX_BYTES - 1);
		line[n++] = (char)ch;
	}
	line[n] = '\0';
	return 1;
}

int options_file(
	const struct option *table, const char *path, void *into, char *why, size_t why_bytes)
{
	FILE *f = fopen(path, "re");
	if (f == NULL) {
		int error = errno;
		(void)refuse(why, why_bytes, "--config %s: %s", path, strerror(error));
		return -error;
	}
	unsigned seen[TABLE_MAX] = {0};
	for (const struct option *o = table; o->name != NULL; o++)
		CHECK(o - table < TABLE_MAX - 1);
	char line[LINE_MAX_BYTES];
	char prefix[256];
	int r = 0;
	for (unsigned number = 1; r == 0; number++) {
		(void)snprintf(prefix, sizeof prefix, "%.200s:%u: ", path, number);
		r = read_line(f, prefix, line, why, why_bytes);
		if (r == 0)
			break;
		if (r == 1)
			r = file_line(table, prefix, line, number, seen, into, why, why_bytes);
	}
	if (r == 0 && ferror(f)) {
		r = -(errno != 0 ? errno : EIO);
		(void)refuse(why, why_bytes, "--config %s: %s", path, strerror(-r));
	}
	(void)fclose(f);
	return r;
}

void options_help(const struct option *table, FILE *out)
{
	for (const struct option *o = table; o->name != NULL; o++) {
		const char *shown = o->shown != NULL ? o->shown : o->initial;
		int n = fprintf(out, "  --%s%s%s", o->name, o->argument == NULL ? "" : " ",
			o->argument == NULL ? "" : o->argument);
		(void)fprintf(out, "%*s%s", n < HELP_COLUMN ? HELP_COLUMN - n : 1, "", o->help);
		if (shown != NULL)
			(void)fprintf(out, " [%s]", shown);
		(void)fputc('\n', out);
	}
}
