#include "programs.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/limits.h"
#include "client/sync.h"
#include "output.h"

enum {
	COLUMNS = 8,
	PAGE_LOCKS = 100,
	VALUE_SHOWN_BYTES = 40,
};

static const char *const names[COLUMNS] = {
	"key", "value", "token", "age", "remaining", "node", "client", "waiters"};
static const bool right[COLUMNS] = {[2] = true, [3] = true, [4] = true, [5] = true, [7] = true};

struct entry {
	uint8_t *key;
	size_t key_bytes;
	char *text; /* its JSON, or its cells, each with a NUL */
};

struct listing {
	struct entry *entries;
	size_t n, room;
};

/* ---- what came ---- */

static struct bytes string_at(const struct resp_value *map, const char *name)
{
	const struct resp_value *v = sync_map_get(map, name);

	return v && v->type == RESP_BULK ? v->str : (struct bytes){0};
}

static int64_t number_at(const struct resp_value *map, const char *name)
{
	const struct resp_value *v = sync_map_get(map, name);

	return v && v->type == RESP_INT ? v->num : -1;
}

static void put_value(FILE *f, struct bytes value)
{
	struct bytes shown = value;

	if (value.len > VALUE_SHOWN_BYTES) {
		shown.len = VALUE_SHOWN_BYTES;
		while (shown.len > 0 && (value.p[shown.len] & 0xC0) == 0x80)
			shown.len--;
	}
	plain_string(f, shown);
	if (shown.len < value.len)
		fputs("...", f);
}

static void put_time(FILE *f, int64_t ms)
{
	char text[DURATION_TEXT_BYTES];

	duration_text(text, ms);
	fputs(text, f);
}

static void put_cells(FILE *f, const struct resp_value *lock)
{
	plain_string(f, string_at(lock, "key"));
	fputc('\0', f);
	put_value(f, string_at(lock, "value"));
	fprintf(f, "%c%" PRId64 "%c", '\0', number_at(lock, "token"), '\0');
	put_time(f, number_at(lock, "held-ms"));
	fputc('\0', f);
	put_time(f, number_at(lock, "remaining-ms"));
	fprintf(f, "%c%" PRId64 "%c", '\0', number_at(lock, "node"), '\0');
	plain_string(f, string_at(lock, "client"));
	fprintf(f, "%c%" PRId64 "%c", '\0', number_at(lock, "waiters"), '\0');
}

/* 0 or -ENOMEM. */
static int add_entry(struct listing *l, const struct resp_value *lock, bool json)
{
	struct bytes key = string_at(lock, "key");
	size_t bytes;

	if (l->n == l->room) {
		size_t room = l->room ? 2 * l->room : 256;
		struct entry *more = realloc(l->entries, room * sizeof *more);

		if (!more)
			return -ENOMEM;
		l->entries = more;
		l->room = room;
	}
	struct entry *e = &l->entries[l->n];
	*e = (struct entry){.key = malloc(key.len + 1), .key_bytes = key.len};
	FILE *f = e->key ? open_memstream(&e->text, &bytes) : NULL;
	if (!f) {
		free(e->key);
		return -ENOMEM;
	}
	if (key.len > 0)
		memcpy(e->key, key.p, key.len);
	if (json)
		json_value(f, lock);
	else
		put_cells(f, lock);
	l->n++;
	return fclose(f) == 0 ? 0 : -ENOMEM;
}

/* The reply of one LOCKS. 0, -EPROTO: it is none, -ENOMEM. */
static int add_page(
	struct listing *l, const struct resp_value *reply, bool json, int64_t *ret_cursor)
{
	const struct resp_value *locks = reply + 2;

	if (reply->type != RESP_ARRAY || reply->num != 2 || reply[1].type != RESP_INT ||
		locks->type != RESP_ARRAY)
		return -EPROTO;
	*ret_cursor = reply[1].num;
	for (const struct resp_value *v = locks + 1; v < locks + locks->size; v += v->size) {
		int r = v->type == RESP_MAP ? add_entry(l, v, json) : -EPROTO;

		if (r < 0)
			return r;
	}
	return 0;
}

/* ---- what is shown ---- */

static int by_key(const void *a, const void *b)
{
	const struct entry *x = a, *y = b;
	size_t n = x->key_bytes < y->key_bytes ? x->key_bytes : y->key_bytes;
	int order = memcmp(x->key, y->key, n);

	if (order != 0)
		return order;
	return x->key_bytes < y->key_bytes ? -1 : x->key_bytes > y->key_bytes;
}

/* A lock may come twice when the node's table grows meanwhile. */
static void sort_entries(struct listing *l)
{
	size_t kept = 0;

	if (l->n == 0)
		return;
	qsort(l->entries, l->n, sizeof *l->entries, by_key);
	for (size_t i = 0; i < l->n; i++) {
		if (kept > 0 && by_key(&l->entries[kept - 1], &l->entries[i]) == 0) {
			free(l->entries[i].key);
			free(l->entries[i].text);
		} else {
			l->entries[kept++] = l->entries[i];
		}
	}
	l->n = kept;
}

static void print_json(const struct listing *l)
{
	fputs("{\"outcome\":\"ok\",\"reply\":[", stdout);
	for (size_t i = 0; i < l->n; i++)
		printf("%s%s", i ? "," : "", l->entries[i].text);
	puts("]}");
}

/* Of UTF-8: bytes that continue a character take no place. */
static int columns_of(const char *text)
{
	int n = 0;

	for (; *text; text++)
		n += ((uint8_t)*text & 0xC0) != 0x80;
	return n;
}

static void print_cell(const char *text, int width, bool to_right, bool last)
{
	int pad = width - columns_of(text);

	printf("%*s%s", to_right ? pad : 0, "", text);
	if (!last)
		printf("%*s", (to_right ? 0 : pad) + 2, "");
}

static void print_table(const struct listing *l)
{
	int width[COLUMNS];

	for (int k = 0; k < COLUMNS; k++)
		width[k] = columns_of(names[k]);
	for (size_t i = 0; i < l->n; i++) {
		const char *cell = l->entries[i].text;

		for (int k = 0; k < COLUMNS; k++, cell += strlen(cell) + 1)
			width[k] = columns_of(cell) > width[k] ? columns_of(cell) : width[k];
	}
	for (int k = 0; k < COLUMNS; k++)
		print_cell(names[k], width[k], right[k], k == COLUMNS - 1);
	putchar('\n');
	for (size_t i = 0; i < l->n; i++) {
		const char *cell = l->entries[i].text;

		for (int k = 0; k < COLUMNS; k++, cell += strlen(cell) + 1)
			print_cell(cell, width[k], right[k], k == COLUMNS - 1);
		putchar('\n');
	}
}

/* ---- the walk ---- */

static enum status failed(const struct options *o, const struct sync *s, int r)
{
	char text[1024];

	snprintf(text, sizeof text, "%s: %s", s->address,
		r == -ENOMEM                 ? "out of memory"
		: r == -EPROTO && s->fd >= 0 ? "no answer to LOCKS"
					     : s->why);
	return report_failure(o, STATUS_UNSURE, "unknown", bytes_str(text));
}

static enum status walk(
	const struct options *o, struct sync *s, const char *prefix, struct listing *l)
{
	char digits[24], count[24];
	int64_t cursor = 0;

	snprintf(count, sizeof count, "%d", PAGE_LOCKS);
	do {
		const struct resp_value *reply;

		snprintf(digits, sizeof digits, "%" PRId64, cursor);
		const struct bytes argv[] = {bytes_str("LOCKS"), bytes_str("CURSOR"),
			bytes_str(digits), bytes_str("COUNT"), bytes_str(count),
			bytes_str("PREFIX"), bytes_str(prefix ? prefix : "")};
		int r = sync_command(s, prefix ? 7 : 5, argv, o->timeout_ms, &reply);
		if (r == 0 && (reply->type == RESP_ERR || reply->type == RESP_BLOB_ERR))
			return report_error(o, reply->str);
		if (r == 0)
			r = add_page(l, reply, o->json, &cursor);
		if (r < 0)
			return failed(o, s, r);
	} while (cursor != 0);
	return STATUS_DONE;
}

static void listing_free(struct listing *l)
{
	for (size_t i = 0; i < l->n; i++) {
		free(l->entries[i].key);
		free(l->entries[i].text);
	}
	free(l->entries);
}

int list_program(const struct options *o, int n, char **words)
{
	struct listing l = {0};
	struct sync s;
	enum status status;
	bool plain = n > 0 && strcmp(words[0], "--") == 0;

	n -= plain;
	words += plain;
	if (n > 1)
		return usage_error("usage: locker list [PREFIX]");
	if (n == 1 && !plain && strncmp(words[0], "--", 2) == 0)
		return usage_error(
			"list knows no options (write -- before a prefix that begins with --)");
	if (n == 1 && strlen(words[0]) > KEY_MAX_BYTES)
		return usage_error("no key is as long as this prefix");
	int r = sync_open(&s, o->nodes, o->timeout_ms);
	if (r < 0)
		status = report_unreachable(o, r, s.why);
	else
		status = walk(o, &s, n == 1 ? words[0] : NULL, &l);
	sync_close(&s);
	if (status == STATUS_DONE) {
		sort_entries(&l);
		if (o->json)
			print_json(&l);
		else
			print_table(&l);
	}
	listing_free(&l);
	return status;
}
