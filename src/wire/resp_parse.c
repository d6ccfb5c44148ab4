#include "wire/resp.h"

#include "wire/decimal.h"

/* Sign and 19 digits: what is longer never becomes a number. */
enum { NUMBER_MAX_BYTES = 20 };

struct cursor {
	uint8_t *p;
	size_t len;
	size_t pos;
	const char *why;
};

static enum resp_status broken(struct cursor *c, const char *why)
{
	c->why = why;
	return RESP_ERROR;
}

/* A bounded input that is not whole yet; what needs more than a connection may buffer is refused
 * now, or it would wait for ever. */
static enum resp_status more(struct cursor *c)
{
	return c->len >= RESP_REQUEST_MAX_BYTES ? broken(c, "too big request") : RESP_MORE;
}

/* The number behind the mark at c->pos, and on to the next line. */
static enum resp_status count_line(
	struct cursor *c, int64_t *ret, const char *why_bad, const char *why_long)
{
	const uint8_t *p = c->p + c->pos + 1;
	size_t left = c->len - c->pos - 1;
	/* Counts of one, two digits are nearly all there are. */
	if (left >= 4) {
		unsigned first = (unsigned)p[0] - '0';
		unsigned second = (unsigned)p[1] - '0';
		if (first <= 9 && p[1] == '\r' && p[2] == '\n') {
			*ret = first;
			c->pos += 4;
			return RESP_OK;
		}
		if (first - 1 <= 8 && second <= 9 && p[2] == '\r' && p[3] == '\n') {
			*ret = (int64_t)first * 10 + second;
			c->pos += 5;
			return RESP_OK;
		}
	}
	size_t most = NUMBER_MAX_BYTES + 1;
	const uint8_t *end = memchr(p, '\r', left < most ? left : most);
	if (end == NULL)
		return left < most ? more(c) : broken(c, why_long);
	size_t digits = (size_t)(end - p);
	if (!decimal_parse(p, digits, ret))
		return broken(c, why_bad);
	if (digits + 1 == left)
		return more(c);
	if (end[1] != '\n')
		return broken(c, why_bad);
	c->pos += digits + 3;
	return RESP_OK;
}

static enum resp_status wrong_mark(struct cursor *c)
{
	static _Thread_local char why[] = "expected '$', got '?'";
	uint8_t got = c->p[c->pos];
	why[sizeof why - 3] = (char)(got < 0x20 || got >= 0x7f ? '?' : got);
	return broken(c, why);
}

static enum resp_status parse_array(struct cursor *c, struct resp_request *ret)
{
	int64_t argc;
	enum resp_status status =
		count_line(c, &argc, "invalid multibulk length", "too big mbulk count string");
	if (status != RESP_OK)
		return status;
	ret->argc = 0;
	if (argc <= 0) /* *0 and *-1 are commands of nothing, as Redis takes them */
		return RESP_OK;
	if (argc > INT32_MAX)
		return broken(c, "invalid multibulk length");
	if (argc > ARGS_MAX)
		return broken(c, "too many arguments");
	for (uint32_t i = 0; i < (uint32_t)argc; i++) {
		if (c->pos == c->len)
			return more(c);
		if (c->p[c->pos] != '$')
			return wrong_mark(c);
		int64_t bytes;
		status = count_line(c, &bytes, "invalid bulk length", "too big bulk count string");
		if (status != RESP_OK)
			return status;
		if (bytes < 0 || bytes > RESP_ARG_MAX_BYTES)
			return broken(c, "invalid bulk length");
		size_t end = c->pos + (size_t)bytes;
		if (end + 2 > RESP_REQUEST_MAX_BYTES)
			return broken(c, "too big request");
		if (end + 2 > c->len) {
			if (end < c->len && c->p[end] != '\r')
				return broken(c, "no CRLF behind an argument");
			return RESP_MORE;
		}
		if (c->p[end] != '\r' || c->p[end + 1] != '\n')
			return broken(c, "no CRLF behind an argument");
		ret->argv[i] = bytes_of(c->p + c->pos, (size_t)bytes);
		c->pos = end + 2;
	}
	ret->argc = (uint32_t)argc;
	return RESP_OK;
}

static bool is_space(uint8_t ch)
{
	return ch == ' ' || (ch >= '\t' && ch <= '\r');
}

static int hex_digit(uint8_t ch)
{
	if (ch >= '0' && ch <= '9')
		return ch - '0';
	ch |= 0x20;
	return ch >= 'a' && ch <= 'f' ? ch - 'a' + 10 : -1;
}

/* The escape behind the backslash at @p, one of @left >= 2 bytes; returns the bytes taken. */
static size_t unescape(const uint8_t *p, size_t left, uint8_t *ret)
{
	if (p[1] == 'x' && left >= 4 && hex_digit(p[2]) >= 0 && hex_digit(p[3]) >= 0) {
		*ret = (uint8_t)(hex_digit(p[2]) << 4 | hex_digit(p[3]));
		return 4;
	}
	switch (p[1]) {
	case 'n':
		*ret = '\n';
		break;
	case 'r':
		*ret = '\r';
		break;
	case 't':
		*ret = '\t';
		break;
	case 'b':
		*ret = '\b';
		break;
	case 'a':
		*ret = '\a';
		break;
	default:
		*ret = p[1];
	}
	return 2;
}

/* A quoted part from the quote at *pos on, unescaped to *to on, which never overtakes *pos. False:
 * it does not end, or something is glued to its end. */
static bool take_quoted(uint8_t *line, size_t len, size_t *pos, uint8_t **to)
{
	uint8_t quote = line[*pos];
	size_t i = *pos + 1;
	while (i < len && line[i] != quote) {
		if (line[i] == '\\' && i + 1 < len && (quote == '"' || line[i + 1] == '\'')) {
			uint8_t ch;
			i += unescape(line + i, len - i, &ch);
			*(*to)++ = ch;
		} else {
			*(*to)++ = line[i++];
		}
	}
	if (i == len || (i + 1 < len && !is_space(line[i + 1])))
		return false;
	*pos = i + 1;
	return true;
}

/* Words of a line, quoted as for redis-cli (sdssplitargs in Redis' sds.c). */
static enum resp_status split_line(struct cursor *c, size_t len, struct resp_request *ret)
{
	uint8_t *line = c->p;
	size_t i = 0;
	ret->argc = 0;
	for (;;) {
		while (i < len && is_space(line[i]))
			i++;
		if (i == len)
			return RESP_OK;
		if (ret->argc == ARGS_MAX)
			return broken(c, "too many arguments");
		uint8_t *from = line + i;
		uint8_t *to = from;
		while (i < len && !is_space(line[i])) {
			if (line[i] != '"' && line[i] != '\'')
				*to++ = line[i++];
			else if (!take_quoted(line, len, &i, &to))
				return broken(c, "unbalanced quotes in request");
		}
		size_t bytes = (size_t)(to - from);
		if (bytes > RESP_ARG_MAX_BYTES)
			return broken(c, "too big inline request");
		ret->argv[ret->argc++] = bytes_of(from, bytes);
	}
}

static enum resp_status parse_inline(struct cursor *c, struct resp_request *ret)
{
	size_t most = c->len < RESP_INLINE_MAX_BYTES ? c->len : RESP_INLINE_MAX_BYTES;
	const uint8_t *end = memchr(c->p, '\n', most);
	if (end == NULL)
		return most < RESP_INLINE_MAX_BYTES ? RESP_MORE
						    : broken(c, "too big inline request");
	size_t len = (size_t)(end - c->p);
	c->pos = len + 1;
	return split_line(c, len, ret);
}

enum resp_status resp_parse(
	uint8_t *p, size_t len, struct resp_request *ret, size_t *ret_used, const char **ret_why)
{
	if (len == 0)
		return RESP_MORE;
	struct cursor c = {.p = p, .len = len};
	enum resp_status status = p[0] == '*' ? parse_array(&c, ret) : parse_inline(&c, ret);
	if (status == RESP_OK)
		*ret_used = c.pos;
	else if (status == RESP_ERROR)
		*ret_why = c.why;
	return status;
}
