#include "wire/resp.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>

enum {
	DIGITS_MAX = 20,                     /* of a 64-bit number, sign included */
	LINE_MAX_BYTES = 1 + DIGITS_MAX + 2, /* mark, number, CR LF */
	DOUBLE_MAX_BYTES = 320,              /* DBL_MAX has 309 digits before the point */
};

/* Decimal digits of @v at @p; returns how many. */
static size_t put_digits(uint8_t *p, uint64_t v)
{
	uint8_t digits[DIGITS_MAX];
	size_t at = DIGITS_MAX;
	do {
		digits[--at] = (uint8_t)('0' + v % 10);
		v /= 10;
	} while (v != 0);
	memcpy(p, digits + at, DIGITS_MAX - at);
	return DIGITS_MAX - at;
}

static uint8_t *put_crlf(uint8_t *p)
{
	p[0] = '\r';
	p[1] = '\n';
	return p + 2;
}

static uint8_t *put_line(uint8_t *p, char mark, uint64_t v)
{
	p[0] = (uint8_t)mark;
	return put_crlf(p + 1 + put_digits(p + 1, v));
}

static uint8_t *put_text(uint8_t *p, const void *text, size_t len)
{
	if (len != 0)
		memcpy(p, text, len);
	return put_crlf(p + len);
}

/* What was written between the reserved room and @end is in use now. */
static void commit(struct buf *b, const uint8_t *end)
{
	b->len = (size_t)(end - b->data);
}

static void write_count(struct buf *b, char mark, uint64_t v)
{
	uint8_t *p = buf_reserve(b, LINE_MAX_BYTES);
	if (p != NULL)
		commit(b, put_line(p, mark, v));
}

static void write_fixed(struct buf *b, const char *s)
{
	(void)buf_append(b, s, strlen(s));
}

/* A line reply ends at its first CR or LF, so text of others must not bring any. */
static void clean_text(uint8_t *p, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if (p[i] < 0x20 || p[i] == 0x7f)
			p[i] = ' ';
}

void resp_simple(struct buf *b, const char *s)
{
	size_t len = strlen(s);
	uint8_t *p = buf_reserve(b, len + 3);
	if (p == NULL)
		return;
	p[0] = '+';
	uint8_t *end = put_text(p + 1, s, len);
	clean_text(p + 1, len);
	commit(b, end);
}

void resp_error(struct buf *b, const char *fmt, ...)
{
	va_list args;
	va_start(args, fmt);
	int len = vsnprintf(NULL, 0, fmt, args);
	va_end(args);
	if (len < 0)
		return;
	size_t n = (size_t)len;
	uint8_t *p = buf_reserve(b, n + 3);
	if (p == NULL)
		return;
	p[0] = '-';
	va_start(args, fmt);
	(void)vsnprintf((char *)p + 1, n + 1, fmt, args);
	va_end(args);
	clean_text(p + 1, n);
	commit(b, put_crlf(p + 1 + n));
}

void resp_int(struct buf *b, int64_t v)
{
	uint8_t *p = buf_reserve(b, LINE_MAX_BYTES);
	if (p == NULL)
		return;
	uint8_t *q = p;
	*q++ = ':';
	if (v < 0)
		*q++ = '-';
	q += put_digits(q, v < 0 ? 0 - (uint64_t)v : (uint64_t)v);
	commit(b, put_crlf(q));
}

void resp_bulk(struct buf *b, struct bytes v)
{
	uint8_t *p = buf_reserve(b, LINE_MAX_BYTES + (size_t)v.len + 2);
	if (p != NULL)
		commit(b, put_text(put_line(p, '$', v.len), v.p, v.len));
}

void resp_bulk_str(struct buf *b, const char *s)
{
	resp_bulk(b, bytes_str(s));
}

void resp_null(struct buf *b, bool resp3)
{
	write_fixed(b, resp3 ? "_\r\n" : "$-1\r\n");
}

void resp_double(struct buf *b, bool resp3, double v)
{
	char text[DOUBLE_MAX_BYTES];
	int len;
	if (isnan(v))
		len = snprintf(text, sizeof text, "nan");
	else if (isinf(v))
		len = snprintf(text, sizeof text, v < 0 ? "-inf" : "inf");
	else
		len = snprintf(text, sizeof text, "%.3f", v);
	if (len < 0 || (size_t)len >= sizeof text)
		return;
	if (!resp3) {
		resp_bulk(b, bytes_of(text, (size_t)len));
		return;
	}
	uint8_t *p = buf_reserve(b, (size_t)len + 3);
	if (p == NULL)
		return;
	p[0] = ',';
	commit(b, put_text(p + 1, text, (size_t)len));
}

void resp_array(struct buf *b, size_t n)
{
	write_count(b, '*', n);
}

void resp_map(struct buf *b, bool resp3, size_t pairs)
{
	if (resp3)
		write_count(b, '%', pairs);
	else
		write_count(b, '*', 2 * pairs);
}

void resp_push(struct buf *b, size_t n)
{
	write_count(b, '>', n);
}

void resp_bool(struct buf *b, bool resp3, bool v)
{
	if (resp3)
		write_fixed(b, v ? "#t\r\n" : "#f\r\n");
	else
		write_fixed(b, v ? ":1\r\n" : ":0\r\n");
}

void resp_verbatim(struct buf *b, bool resp3, struct bytes text)
{
	static const uint8_t plain[] = {'t', 'x', 't', ':'};
	if (!resp3) {
		resp_bulk(b, text);
		return;
	}
	uint8_t *p = buf_reserve(b, LINE_MAX_BYTES + sizeof plain + (size_t)text.len + 2);
	if (p == NULL)
		return;
	uint8_t *q = put_line(p, '=', (uint64_t)text.len + sizeof plain);
	memcpy(q, plain, sizeof plain);
	commit(b, put_text(q + sizeof plain, text.p, text.len));
}

int resp_command(struct buf *b, size_t argc, const struct bytes *argv)
{
	size_t worst = LINE_MAX_BYTES;
	for (size_t i = 0; i < argc; i++)
		worst += LINE_MAX_BYTES + (size_t)argv[i].len + 2;
	uint8_t *p = buf_reserve(b, worst);
	if (p == NULL)
		return -ENOBUFS;
	p = put_line(p, '*', argc);
	for (size_t i = 0; i < argc; i++)
		p = put_text(put_line(p, '$', argv[i].len), argv[i].p, argv[i].len);
	commit(b, p);
	return 0;
}
