#include "wire/resp.h"

#include <locale.h>
#include <stdlib.h>

#include "wire/decimal.h"

enum {
	DEPTH_MAX = 8,
	LINE_MAX_BYTES = 64 * 1024,         /* of a simple string, error or number */
	BLOB_MAX_BYTES = 512 * 1024 * 1024, /* Redis' own proto-max-bulk-len */
	DOUBLE_MAX_BYTES = 400,
};

struct reader {
	const uint8_t *p;
	size_t len;
	size_t pos;
};

/* The text up to CR LF, and on behind it. */
static enum resp_status take_line(struct reader *r, struct bytes *ret)
{
	const uint8_t *p = r->p + r->pos;
	size_t left = r->len - r->pos;
	const uint8_t *end = memchr(p, '\r', left < LINE_MAX_BYTES ? left : LINE_MAX_BYTES);
	if (end == NULL)
		return left < LINE_MAX_BYTES ? RESP_MORE : RESP_ERROR;
	size_t n = (size_t)(end - p);
	if (n + 1 == left)
		return RESP_MORE;
	if (end[1] != '\n')
		return RESP_ERROR;
	*ret = bytes_of(p, n);
	r->pos += n + 2;
	return RESP_OK;
}

/* @declared bytes and CR LF. */
static enum resp_status take_blob(struct reader *r, int64_t declared, struct bytes *ret)
{
	if (declared < 0 || declared > BLOB_MAX_BYTES)
		return RESP_ERROR;
	size_t n = (size_t)declared;
	size_t left = r->len - r->pos;
	const uint8_t *p = r->p + r->pos;
	if (left > n && p[n] != '\r')
		return RESP_ERROR;
	if (left < n + 2)
		return RESP_MORE;
	if (p[n + 1] != '\n')
		return RESP_ERROR;
	*ret = bytes_of(p, n);
	r->pos += n + 2;
	return RESP_OK;
}

/* RESP allows a plus sign in front of numbers, though nobody sends one. */
static struct bytes without_plus(struct bytes v)
{
	if (v.len >= 2 && v.p[0] == '+' && v.p[1] != '-')
		return bytes_of(v.p + 1, v.len - 1);
	return v;
}

static size_t count_digits(const char *s)
{
	return strspn(s, "0123456789");
}

/* [+-]digits[.digits][e[+-]digits], or inf, -inf, nan: the grammar of the protocol, which is
 * narrower than strtod's. */
static bool double_parse(struct bytes v, double *ret)
{
	char text[DOUBLE_MAX_BYTES];
	if (v.len == 0 || v.len >= sizeof text || memchr(v.p, '\0', v.len) != NULL)
		return false;
	memcpy(text, v.p, v.len);
	text[v.len] = '\0';
	const char *s = text + (text[0] == '-' || text[0] == '+');
	if (strcmp(s, "inf") != 0 && strcmp(text, "nan") != 0) {
		size_t n = count_digits(s);
		if (n == 0)
			return false;
		s += n;
		if (*s == '.') {
			n = count_digits(s + 1);
			if (n == 0)
				return false;
			s += 1 + n;
		}
		if (*s == 'e' || *s == 'E') {
			s += 1 + (s[1] == '-' || s[1] == '+');
			n = count_digits(s);
			if (n == 0)
				return false;
			s += n;
		}
		if (*s != '\0')
			return false;
	}
	/* The program around the client library may have set a locale with a decimal comma. */
	locale_t c_locale = newlocale(LC_NUMERIC_MASK, "C", (locale_t)0);
	if (c_locale == (locale_t)0)
		return false;
	*ret = strtod_l(text, NULL, c_locale);
	freelocale(c_locale);
	return true;
}

static bool bignum_valid(struct bytes v)
{
	size_t sign = v.len != 0 && (v.p[0] == '-' || v.p[0] == '+');
	if (v.len == sign)
		return false;
	for (size_t i = sign; i < v.len; i++)
		if (v.p[i] < '0' || v.p[i] > '9')
			return false;
	return true;
}

/* Types that are one line. */
static enum resp_status read_line_type(struct bytes line, struct resp_value *v)
{
	bool good = true;
	switch (v->type) {
	case RESP_SIMPLE:
	case RESP_ERR:
		good = memchr(line.p, '\n', line.len) == NULL;
		v->str = line;
		break;
	case RESP_INT:
		line = without_plus(line);
		good = decimal_parse(line.p, line.len, &v->num);
		break;
	case RESP_NULL:
		good = line.len == 0;
		break;
	case RESP_BOOL:
		good = line.len == 1 && (line.p[0] == 't' || line.p[0] == 'f');
		v->num = good && line.p[0] == 't';
		break;
	case RESP_DOUBLE:
		good = double_parse(line, &v->dbl);
		break;
	default:
		good = bignum_valid(line);
		v->str = line;
	}
	return good ? RESP_OK : RESP_ERROR;
}

static enum resp_status read_blob(struct reader *r, int64_t declared, struct resp_value *v)
{
	if (v->type == RESP_VERBATIM && declared < 4)
		return RESP_ERROR;
	enum resp_status status = take_blob(r, declared, &v->str);
	if (status == RESP_OK && v->type == RESP_VERBATIM) {
		if (v->str.p[3] != ':')
			return RESP_ERROR;
		v->str = bytes_of(v->str.p + 4, v->str.len - 4);
	}
	return status;
}

/* One node without what is in it; *ret_children nodes follow, at most @room. */
static enum resp_status read_node(
	struct reader *r, size_t room, struct resp_value *v, size_t *ret_children)
{
	if (r->pos == r->len)
		return RESP_MORE;
	*ret_children = 0;
	*v = (struct resp_value){.type = (enum resp_type)r->p[r->pos++], .size = 1};
	if (strchr("+-:$*_,#%~>=(!", (int)v->type) == NULL || v->type == 0)
		return RESP_ERROR;
	struct bytes line;
	enum resp_status status = take_line(r, &line);
	if (status != RESP_OK)
		return status;
	if (strchr("$*%~>=!", (int)v->type) == NULL)
		return read_line_type(line, v);
	int64_t count;
	if (!decimal_parse(line.p, line.len, &count))
		return RESP_ERROR;
	if (count == -1 && (v->type == RESP_BULK || v->type == RESP_ARRAY)) {
		v->type = RESP_NULL;
		return RESP_OK;
	}
	if (v->type == RESP_BULK || v->type == RESP_VERBATIM || v->type == RESP_BLOB_ERR)
		return read_blob(r, count, v);
	int64_t each = v->type == RESP_MAP ? 2 : 1;
	if (count < 0 || (uint64_t)count > room / (uint64_t)each)
		return RESP_ERROR;
	v->num = count;
	*ret_children = (size_t)(count * each);
	return RESP_OK;
}

enum resp_status resp_reply_parse(const uint8_t *p, size_t len, struct resp_value *nodes,
	size_t max, size_t *ret_nodes, size_t *ret_used)
{
	struct reader r = {.p = p, .len = len};
	struct {
		size_t node;
		size_t left; /* children to come */
	} open[DEPTH_MAX];
	size_t depth = 0;
	size_t n = 0;
	do {
		if (n == max)
			return RESP_ERROR;
		size_t children;
		enum resp_status status = read_node(&r, max - n - 1, &nodes[n], &children);
		if (status != RESP_OK)
			return status;
		if (depth != 0)
			open[depth - 1].left--;
		if (children != 0) {
			if (depth == DEPTH_MAX)
				return RESP_ERROR;
			open[depth].node = n;
			open[depth].left = children;
			depth++;
		}
		n++;
		while (depth != 0 && open[depth - 1].left == 0) {
			depth--;
			nodes[open[depth].node].size = (uint32_t)(n - open[depth].node);
		}
	} while (depth != 0);
	*ret_nodes = n;
	*ret_used = r.pos;
	return RESP_OK;
}
