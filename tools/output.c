#include "output.h"

#include <inttypes.h>
#include <math.h>

/* Length of the UTF-8 character at @p (RFC 3629: no overlong forms, no surrogates), 0: none. */
static size_t utf8_length(const uint8_t *p, size_t left)
{
	uint8_t low = 0x80, high = 0xBF;
	size_t n;

	if (p[0] < 0x80)
		return 1;
	if (p[0] >= 0xC2 && p[0] <= 0xDF)
		n = 2;
	else if (p[0] >= 0xE0 && p[0] <= 0xEF)
		n = 3;
	else if (p[0] >= 0xF0 && p[0] <= 0xF4)
		n = 4;
	else
		return 0;
	if (n > left)
		return 0;
	if (p[0] == 0xE0)
		low = 0xA0;
	else if (p[0] == 0xED)
		high = 0x9F;
	else if (p[0] == 0xF0)
		low = 0x90;
	else if (p[0] == 0xF4)
		high = 0x8F;
	if (p[1] < low || p[1] > high)
		return 0;
	for (size_t i = 2; i < n; i++) {
		if (p[i] < 0x80 || p[i] > 0xBF)
			return 0;
	}
	return n;
}

void json_string(FILE *f, struct bytes s)
{
	fputc('"', f);
	for (size_t i = 0; i < s.len;) {
		size_t n = utf8_length(s.p + i, s.len - i);
		uint8_t c = s.p[i];

		if (n == 1 && (c == '"' || c == '\\'))
			fprintf(f, "\\%c", c);
		else if (n == 0 || c < 0x20 || c == 0x7F)
			fprintf(f, "\\u%04x", c);
		else
			fwrite(s.p + i, 1, n, f);
		i += n ? n : 1;
	}
	fputc('"', f);
}

/* The name of a map's pair, in JSON always a string. */
static void json_name(FILE *f, const struct resp_value *v)
{
	if (v->type == RESP_INT)
		fprintf(f, "\"%" PRId64 "\"", v->num);
	else
		json_string(f, v->str);
}

void json_value(FILE *f, const struct resp_value *v)
{
	const struct resp_value *child = v + 1;

	switch (v->type) {
	case RESP_INT:
		fprintf(f, "%" PRId64, v->num);
		break;
	case RESP_DOUBLE:
		if (isfinite(v->dbl))
			fprintf(f, "%.3f", v->dbl);
		else
			fputs("null", f);
		break;
	case RESP_BOOL:
		fputs(v->num ? "true" : "false", f);
		break;
	case RESP_NULL:
		fputs("null", f);
		break;
	case RESP_MAP:
		fputc('{', f);
		for (int64_t i = 0; i < v->num; i++) {
			if (i)
				fputc(',', f);
			json_name(f, child);
			child += child->size;
			fputc(':', f);
			json_value(f, child);
			child += child->size;
		}
		fputc('}', f);
		break;
	case RESP_ARRAY:
	case RESP_SET:
	case RESP_PUSH:
		fputc('[', f);
		for (int64_t i = 0; i < v->num; i++) {
			if (i)
				fputc(',', f);
			json_value(f, child);
			child += child->size;
		}
		fputc(']', f);
		break;
	default:
		json_string(f, v->str);
	}
}

void plain_string(FILE *f, struct bytes s)
{
	for (size_t i = 0; i < s.len;) {
		size_t n = utf8_length(s.p + i, s.len - i);
		uint8_t c = s.p[i];

		/* U+0080..U+009F are control characters too. */
		bool control = c < 0x20 || c == 0x7F || (n == 2 && c == 0xC2 && s.p[i + 1] < 0xA0);

		if (n == 0 || control)
			n = (size_t)(fprintf(f, "\\x%02x", c), 1);
		else
			fwrite(s.p + i, 1, n, f);
		i += n;
	}
}

static bool is_list(const struct resp_value *v)
{
	return v->type == RESP_MAP || v->type == RESP_ARRAY || v->type == RESP_SET ||
	       v->type == RESP_PUSH;
}

static void plain_scalar(FILE *f, const struct resp_value *v)
{
	if (v->type == RESP_INT)
		fprintf(f, "%" PRId64, v->num);
	else if (v->type == RESP_DOUBLE)
		fprintf(f, "%.3f", v->dbl);
	else if (v->type == RESP_BOOL)
		fputs(v->num ? "yes" : "no", f);
	else if (v->type == RESP_NULL)
		fputs("-", f);
	else
		plain_string(f, v->str);
}

static void plain_list(FILE *f, const struct resp_value *v, int depth)
{
	const struct resp_value *child = v + 1;
	int width = 0;

	if (v->type == RESP_MAP) {
		for (int64_t i = 0; i < v->num; i++) {
			if (child->str.len < 24 && (int)child->str.len > width)
				width = (int)child->str.len;
			child += child->size;
			child += child->size;
		}
		child = v + 1;
	}
	for (int64_t i = 0; i < v->num; i++) {
		int used = 0;

		fprintf(f, "%*s", depth * 2, "");
		if (v->type == RESP_MAP) {
			plain_scalar(f, child);
			used = (int)child->str.len;
			child += child->size;
		} else if (is_list(child)) {
			fputc('-', f);
		}
		if (is_list(child)) {
			fputc('\n', f);
			plain_list(f, child, depth + 1);
		} else {
			if (v->type == RESP_MAP)
				fprintf(f, "%*s", (used < width ? width - used : 0) + 2, "");
			plain_scalar(f, child);
			fputc('\n', f);
		}
		child += child->size;
	}
}

void plain_value(FILE *f, const struct resp_value *v)
{
	if (is_list(v)) {
		plain_list(f, v, 0);
		return;
	}
	plain_scalar(f, v);
	fputc('\n', f);
}

void duration_text(char ret[DURATION_TEXT_BYTES], int64_t ms)
{
	int64_t s = ms / 1000;

	if (ms < 0)
		snprintf(ret, DURATION_TEXT_BYTES, "-");
	else if (ms < 1000)
		snprintf(ret, DURATION_TEXT_BYTES, "%" PRId64 " ms", ms);
	else if (s < 60)
		snprintf(ret, DURATION_TEXT_BYTES, "%" PRId64 " s", s);
	else if (s < 3600)
		snprintf(ret, DURATION_TEXT_BYTES, "%" PRId64 " m %" PRId64 " s", s / 60, s % 60);
	else if (s < 86400)
		snprintf(ret, DURATION_TEXT_BYTES, "%" PRId64 " h %" PRId64 " m", s / 3600,
			s / 60 % 60);
	else
		snprintf(ret, DURATION_TEXT_BYTES, "%" PRId64 " d %" PRId64 " h", s / 86400,
			s / 3600 % 24);
}
