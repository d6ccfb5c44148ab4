#include "wire/resp.h"

#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

#include "wire/decimal.h"

/* Requests are parsed from memory of exactly their size, so that ASan sees a byte too many. */
struct parsed {
	enum resp_status status;
	uint8_t *p;
	size_t used;
	const char *why;
	struct resp_request r;
};

static struct parsed parse_bytes(const void *p, size_t len)
{
	struct parsed x = {.p = malloc(len + (len == 0))};
	assert_non_null(x.p);
	memcpy(x.p, p, len);
	x.status = resp_parse(x.p, len, &x.r, &x.used, &x.why);
	return x;
}

static void assert_args(const void *p, size_t len, unsigned argc, const struct bytes *argv)
{
	struct parsed x = parse_bytes(p, len);
	assert_int_equal(x.status, RESP_OK);
	assert_int_equal(x.used, len);
	assert_int_equal(x.r.argc, argc);
	for (unsigned i = 0; i < argc; i++)
		assert_true(bytes_eq(x.r.argv[i], argv[i]));
	free(x.p);
}

/* @text is one request of these words (a NULL ends them), and no part of it is one. */
static void assert_words(const char *text, ...)
{
	struct bytes argv[ARGS_MAX];
	unsigned argc = 0;
	va_list args;
	va_start(args, text);
	for (const char *word = va_arg(args, const char *); word != NULL;
		word = va_arg(args, const char *))
		argv[argc++] = bytes_str(word);
	va_end(args);
	size_t len = strlen(text);
	assert_args(text, len, argc, argv);
	for (size_t n = 0; n < len; n++) {
		struct parsed x = parse_bytes(text, n);
		assert_int_equal(x.status, RESP_MORE);
		free(x.p);
	}
}

static void assert_broken(const char *text, const char *why)
{
	struct parsed x = parse_bytes(text, strlen(text));
	assert_int_equal(x.status, RESP_ERROR);
	assert_string_equal(x.why, why);
	free(x.p);
}

static void assert_wants_more(const char *text)
{
	struct parsed x = parse_bytes(text, strlen(text));
	assert_int_equal(x.status, RESP_MORE);
	free(x.p);
}

static void test_resp_request_array_is_taken(void **state)
{
	(void)state;
	assert_words("*1\r\n$4\r\nPING\r\n", "PING", NULL);
	assert_words("*3\r\n$3\r\nSET\r\n$0\r\n\r\n$12\r\nhello\r\nworld\r\n", "SET", "",
		"hello\r\nworld", NULL);
	assert_words("*0\r\n", NULL);
	assert_words("*-1\r\n", NULL);
	struct bytes binary = bytes_of("\0\xff\r\n$", 5);
	assert_args("*1\r\n$5\r\n\0\xff\r\n$\r\n", 15, 1, &binary);
}

static void test_resp_request_leaves_the_next_one(void **state)
{
	(void)state;
	struct parsed x = parse_bytes("*1\r\n$4\r\nPING\r\n*1\r\n$4", 20);
	assert_int_equal(x.status, RESP_OK);
	assert_int_equal(x.used, 14);
	assert_int_equal(x.r.argc, 1);
	free(x.p);
	x = parse_bytes("one\ntwo\n", 8);
	assert_int_equal(x.status, RESP_OK);
	assert_int_equal(x.used, 4);
	assert_true(bytes_eq(x.r.argv[0], bytes_str("one")));
	free(x.p);
}

static void test_resp_request_lengths_are_strict(void **state)
{
	(void)state;
	static const char *const counts[] = {"*\r\n", "*x\r\n", "*1x\r\n", "*01\r\n", "*+1\r\n",
		"*-0\r\n", "* 1\r\n", "*1 \r\n", "*--1\r\n", "*-\r\n", "*1\r\r",
		"*9223372036854775808\r\n", "*2147483648\r\n", "*99999999999999999999\r\n"};
	for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++)
		assert_broken(counts[i], "invalid multibulk length");
	static const char *const lengths[] = {"*1\r\n$\r\n", "*1\r\n$x\r\n", "*1\r\n$1x\r\n",
		"*1\r\n$00\r\n", "*1\r\n$-1\r\n", "*1\r\n$+1\r\n", "*1\r\n$1\rx", "*1\r\n$10\rx",
		"*1\r\n$100\rx", "*1\r\n$9223372036854775808\r\n"};
	for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++)
		assert_broken(lengths[i], "invalid bulk length");
	assert_broken("*1\r\n:1\r\n", "expected '$', got ':'");
	assert_broken("*2\r\n$1\r\nx\r\nfooz\r\n", "expected '$', got 'f'");
	assert_broken("*1\r\n\x01", "expected '$', got '?'");
	assert_broken("*1\r\n$1\r\nxyz", "no CRLF behind an argument");
	assert_broken("*1\r\n$1\r\nxy", "no CRLF behind an argument");
	assert_broken("*1\r\n$1\r\nx\rz", "no CRLF behind an argument");
}

static void test_resp_request_endless_numbers_are_refused(void **state)
{
	(void)state;
	assert_wants_more("*11111111111111111111");
	assert_broken("*111111111111111111111", "too big mbulk count string");
	assert_wants_more("*1\r\n$11111111111111111111");
	assert_broken("*1\r\n$111111111111111111111", "too big bulk count string");
}

static void test_resp_request_limits_are_refused_as_declared(void **state)
{
	(void)state;
	char text[100];
	(void)snprintf(text, sizeof text, "*%d\r\n", ARGS_MAX);
	assert_wants_more(text);
	(void)snprintf(text, sizeof text, "*%d\r\n", ARGS_MAX + 1);
	assert_broken(text, "too many arguments");
	(void)snprintf(text, sizeof text, "*1\r\n$%d\r\n", RESP_ARG_MAX_BYTES);
	assert_wants_more(text);
	(void)snprintf(text, sizeof text, "*1\r\n$%d\r\n", RESP_ARG_MAX_BYTES + 1);
	assert_broken(text, "invalid bulk length");
}

/* A request of @n arguments of @bytes each; the length without the last @bytes + 2. */
static uint8_t *large_request(unsigned n, size_t bytes, size_t *ret_head, size_t *ret_len)
{
	uint8_t *text = malloc(n * (bytes + 32) + 32);
	size_t len = (size_t)sprintf((char *)text, "*%u\r\n", n);
	for (unsigned i = 0; i < n; i++) {
		len += (size_t)sprintf((char *)text + len, "$%zu\r\n", bytes);
		*ret_head = len;
		memset(text + len, 'a', bytes);
		text[len + bytes] = '\r';
		text[len + bytes + 1] = '\n';
		len += bytes + 2;
	}
	*ret_len = len;
	return text;
}

static void test_resp_request_total_is_bounded(void **state)
{
	(void)state;
	size_t head;
	size_t len;
	uint8_t *text = large_request(8, 8180, &head, &len);
	assert_in_range(len, RESP_REQUEST_MAX_BYTES - 100, RESP_REQUEST_MAX_BYTES);
	struct parsed x = parse_bytes(text, len);
	assert_int_equal(x.status, RESP_OK);
	assert_int_equal(x.r.argc, 8);
	free(x.p);
	free(text);
	text = large_request(8, 8190, &head, &len);
	assert_in_range(len, RESP_REQUEST_MAX_BYTES + 1, RESP_REQUEST_MAX_BYTES + 100);
	x = parse_bytes(text, head);
	assert_int_equal(x.status, RESP_ERROR);
	assert_string_equal(x.why, "too big request");
	free(x.p);
	free(text);
}

/* A request that leaves its last header for beyond the bound never gets there. */
static void test_resp_request_never_asks_beyond_its_bound(void **state)
{
	(void)state;
	size_t head;
	size_t len;
	uint8_t *text = large_request(8, 8178, &head, &len);
	text[1] = '9'; /* one more argument to come */
	assert_true(len < RESP_REQUEST_MAX_BYTES);
	uint8_t *more = calloc(1, RESP_REQUEST_MAX_BYTES);
	memcpy(more, text, len);
	more[len] = '$';
	memset(more + len + 1, '0', RESP_REQUEST_MAX_BYTES - len - 1);
	for (size_t n = len; n <= RESP_REQUEST_MAX_BYTES; n++) {
		struct parsed x = parse_bytes(more, n);
		assert_int_equal(x.status, n - len < 22 ? RESP_MORE : RESP_ERROR);
		free(x.p);
	}
	free(more);
	free(text);
	text = large_request(8, 8180, &head, &len);
	text[1] = '9';
	assert_in_range(len, RESP_REQUEST_MAX_BYTES - 20, RESP_REQUEST_MAX_BYTES);
	text[len] = '$';
	memset(text + len + 1, '1', RESP_REQUEST_MAX_BYTES - len - 1);
	struct parsed x = parse_bytes(text, RESP_REQUEST_MAX_BYTES - 1);
	assert_int_equal(x.status, RESP_MORE);
	free(x.p);
	x = parse_bytes(text, RESP_REQUEST_MAX_BYTES);
	assert_int_equal(x.status, RESP_ERROR);
	assert_string_equal(x.why, "too big request");
	free(x.p);
	free(text);
}

static void test_resp_request_inline_is_split(void **state)
{
	(void)state;
	assert_words("PING\r\n", "PING", NULL);
	assert_words("PING\n", "PING", NULL);
	assert_words("\r\n", NULL);
	assert_words(" \t \r\n", NULL);
	assert_words("  lock  k\tv 100 \r\n", "lock", "k", "v", "100", NULL);
	assert_words("set 'a b' \"c d\"\n", "set", "a b", "c d", NULL);
	assert_words("x \"\" ''\n", "x", "", "", NULL);
	assert_words("x \"\\x41\\x4a\\x4A\\n\\r\\t\\a\\b\\\"\\\\\\q\"\n", "x", "AJJ\n\r\t\a\b\"\\q",
		NULL);
	assert_words("x \"\\x4\\xzz\"\n", "x", "x4xzz", NULL);
	assert_words("x 'it\\'s \\n'\n", "x", "it's \\n", NULL);
	assert_words("x pre\"quoted\" \\x41\n", "x", "prequoted", "\\x41", NULL);
	struct bytes nul[] = {bytes_str("x"), bytes_of("\0y", 2), bytes_of("\0", 1)};
	assert_args("x \0y \"\\x00\"\n", 12, 3, nul);
}

static void test_resp_request_inline_quotes_must_balance(void **state)
{
	(void)state;
	static const char *const lines[] = {"x \"abc\r\n", "x 'abc\r\n", "x \"a\"b\r\n",
		"x 'a'b\r\n", "x \"a\\\"\n", "x '\\'\n", "x \"\\", "\"\n", "x \"a\"\"b\"\n"};
	for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++)
		if (strchr(lines[i], '\n') != NULL)
			assert_broken(lines[i], "unbalanced quotes in request");
		else
			assert_wants_more(lines[i]);
}

static void test_resp_request_inline_is_bounded(void **state)
{
	(void)state;
	enum { ALL = RESP_INLINE_MAX_BYTES };
	uint8_t *line = malloc(ALL + 1);
	memset(line, ' ', ALL + 1);
	struct parsed x = parse_bytes(line, ALL - 1);
	assert_int_equal(x.status, RESP_MORE);
	free(x.p);
	x = parse_bytes(line, ALL);
	assert_int_equal(x.status, RESP_ERROR);
	assert_string_equal(x.why, "too big inline request");
	free(x.p);
	line[ALL] = '\n';
	x = parse_bytes(line, ALL + 1);
	assert_int_equal(x.status, RESP_ERROR);
	free(x.p);
	line[ALL - 1] = '\n';
	x = parse_bytes(line, ALL + 1);
	assert_int_equal(x.status, RESP_OK);
	assert_int_equal(x.used, ALL);
	free(x.p);
	memset(line, 'a', ALL - 1);
	x = parse_bytes(line, ALL);
	assert_int_equal(x.status, RESP_ERROR);
	assert_string_equal(x.why, "too big inline request");
	free(x.p);
	line[RESP_ARG_MAX_BYTES] = ' ';
	line[2 * RESP_ARG_MAX_BYTES - 1] = '\n';
	x = parse_bytes(line, ALL);
	assert_int_equal(x.status, RESP_OK);
	assert_int_equal(x.r.argv[0].len, RESP_ARG_MAX_BYTES);
	free(x.p);
	free(line);
}

static void test_resp_request_inline_words_are_bounded(void **state)
{
	(void)state;
	enum { END = 2 * ARGS_MAX };
	char line[END + 3];
	for (size_t i = 0; i < END; i++)
		line[i] = i % 2 == 0 ? 'w' : ' ';
	memcpy(line + END, "\n", 2);
	struct parsed x = parse_bytes(line, strlen(line));
	assert_int_equal(x.status, RESP_OK);
	assert_int_equal(x.r.argc, ARGS_MAX);
	free(x.p);
	memcpy(line + END, "w\n", 3);
	assert_broken(line, "too many arguments");
}

static void test_resp_decimal_is_strict(void **state)
{
	(void)state;
	static const struct {
		const char *text;
		int64_t v;
	} good[] = {{"0", 0}, {"7", 7}, {"-1", -1}, {"10", 10}, {"9223372036854775807", INT64_MAX},
		{"-9223372036854775808", INT64_MIN}};
	static const char *const bad[] = {"", "-", "-0", "00", "01", "-01", "+1", " 1", "1 ", "1.0",
		"0x1", "1a", "9223372036854775808", "-9223372036854775809", "99999999999999999999",
		"18446744073709551617"};
	int64_t v = 0;
	for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
		struct bytes b = bytes_str(good[i].text);
		assert_true(decimal_parse(b.p, b.len, &v));
		assert_true(v == good[i].v);
	}
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		struct bytes b = bytes_str(bad[i]);
		v = 4242;
		assert_false(decimal_parse(b.p, b.len, &v));
		assert_true(v == 4242);
	}
}

/* ---- writers ---- */

static void assert_written(struct buf *b, const char *text)
{
	assert_int_equal(b->len, strlen(text));
	assert_memory_equal(b->data, text, b->len);
	b->len = 0;
}

static void test_resp_writers_speak_both_dialects(void **state)
{
	(void)state;
	struct buf b;
	buf_init(&b, 0);
	resp_simple(&b, "OK");
	assert_written(&b, "+OK\r\n");
	resp_int(&b, 0);
	resp_int(&b, INT64_MAX);
	resp_int(&b, INT64_MIN);
	assert_written(&b, ":0\r\n:9223372036854775807\r\n:-9223372036854775808\r\n");
	resp_bulk(&b, bytes_of("a\r\nb", 4));
	resp_bulk(&b, bytes_of(NULL, 0));
	resp_bulk_str(&b, "hello, world");
	assert_written(&b, "$4\r\na\r\nb\r\n$0\r\n\r\n$12\r\nhello, world\r\n");
	resp_null(&b, false);
	resp_null(&b, true);
	assert_written(&b, "$-1\r\n_\r\n");
	resp_array(&b, 0);
	resp_array(&b, 123456);
	assert_written(&b, "*0\r\n*123456\r\n");
	resp_map(&b, false, 3);
	resp_map(&b, true, 3);
	assert_written(&b, "*6\r\n%3\r\n");
	resp_bool(&b, false, true);
	resp_bool(&b, false, false);
	resp_bool(&b, true, true);
	resp_bool(&b, true, false);
	assert_written(&b, ":1\r\n:0\r\n#t\r\n#f\r\n");
	resp_verbatim(&b, false, bytes_str("line"));
	resp_verbatim(&b, true, bytes_str("line"));
	assert_written(&b, "$4\r\nline\r\n=8\r\ntxt:line\r\n");
	buf_fini(&b);
}

static void test_resp_double_has_three_decimals(void **state)
{
	(void)state;
	struct buf b;
	buf_init(&b, 0);
	resp_double(&b, true, 1.5);
	resp_double(&b, true, -0.0004);
	resp_double(&b, true, 1e15);
	assert_written(&b, ",1.500\r\n,-0.000\r\n,1000000000000000.000\r\n");
	resp_double(&b, false, 12.3456);
	assert_written(&b, "$6\r\n12.346\r\n");
	resp_double(&b, true, INFINITY);
	resp_double(&b, true, -INFINITY);
	resp_double(&b, true, -NAN);
	assert_written(&b, ",inf\r\n,-inf\r\n,nan\r\n");
	resp_double(&b, true, -1.7976931348623157e308);
	assert_int_equal(b.len, 1 + 1 + 309 + 4 + 2);
	buf_fini(&b);
}

static void test_resp_error_stays_on_its_line(void **state)
{
	(void)state;
	struct buf b;
	buf_init(&b, 0);
	resp_error(&b, "ERR unknown command '%s', %d", "a\r\n+OK\x7f\x01", 5);
	assert_written(&b, "-ERR unknown command 'a  +OK  ', 5\r\n");
	resp_simple(&b, "two\nlines");
	assert_written(&b, "+two lines\r\n");
	char text[3000];
	memset(text, 'x', sizeof text - 1);
	text[sizeof text - 1] = '\0';
	resp_error(&b, "ERR %s.", text);
	assert_int_equal(b.len, 5 + 2999 + 1 + 2);
	assert_memory_equal(b.data + b.len - 4, "x.\r\n", 4);
	buf_fini(&b);
}

static void write_one(struct buf *b, unsigned which)
{
	switch (which) {
	case 0:
		resp_simple(b, "PONG");
		break;
	case 1:
		resp_error(b, "ERR %s", "text");
		break;
	case 2:
		resp_int(b, 1234567);
		break;
	case 3:
		resp_bulk(b, bytes_str("value"));
		break;
	case 4:
		resp_null(b, true);
		break;
	case 5:
		resp_double(b, true, 1);
		break;
	case 6:
		resp_array(b, 2);
		break;
	case 7:
		resp_map(b, true, 2);
		break;
	case 8:
		resp_bool(b, true, true);
		break;
	default:
		resp_verbatim(b, true, bytes_str("text"));
	}
}

static void test_resp_writers_leave_a_full_buffer_alone(void **state)
{
	(void)state;
	for (unsigned which = 0; which < 10; which++) {
		for (size_t room = 0; room < 3; room++) {
			struct buf b;
			buf_init(&b, 10);
			assert_int_equal(buf_append(&b, "0123456789", 10 - room), 0);
			write_one(&b, which);
			assert_int_equal(b.len, 10 - room);
			buf_fini(&b);
		}
	}
}

static void test_resp_command_is_what_the_parser_takes(void **state)
{
	(void)state;
	struct buf b;
	struct bytes argv[ARGS_MAX];
	buf_init(&b, 0);
	for (unsigned i = 0; i < ARGS_MAX; i++)
		argv[i] = bytes_of(
			"0123456789012345\r\n8901234567890123456789012345678901234567890123", i);
	assert_int_equal(resp_command(&b, ARGS_MAX, argv), 0);
	assert_args(b.data, b.len, ARGS_MAX, argv);
	size_t len = b.len;
	buf_fini(&b);
	buf_init(&b, len - 1);
	assert_int_equal(resp_command(&b, ARGS_MAX, argv), -ENOBUFS);
	assert_int_equal(b.len, 0);
	buf_fini(&b);
}

/* ---- replies ---- */

enum { NODES = 32 };

static enum resp_status reply_bytes(
	const void *p, size_t len, struct resp_value *nodes, size_t max, size_t *ret_nodes)
{
	uint8_t *exact = malloc(len + (len == 0));
	size_t used = 0;
	memcpy(exact, p, len);
	*ret_nodes = 0;
	enum resp_status status = resp_reply_parse(exact, len, nodes, max, ret_nodes, &used);
	if (status == RESP_OK)
		assert_int_equal(used, len);
	for (size_t i = 0; i < *ret_nodes; i++) /* views into what is freed below */
		if (nodes[i].str.p != NULL)
			nodes[i].str.p = (const uint8_t *)p + (nodes[i].str.p - exact);
	free(exact);
	return status;
}

/* @text is one reply of @n nodes, and no part of it is one. */
static void assert_reply(const char *text, struct resp_value *nodes, size_t n)
{
	size_t got;
	struct resp_value scratch[NODES];
	for (size_t len = 0; len < strlen(text); len++)
		assert_int_equal(reply_bytes(text, len, scratch, NODES, &got), RESP_MORE);
	assert_int_equal(reply_bytes(text, strlen(text), nodes, n, &got), RESP_OK);
	assert_int_equal(got, n);
	assert_int_equal(nodes[0].size, n);
	if (n > 1)
		assert_int_equal(reply_bytes(text, strlen(text), scratch, n - 1, &got), RESP_ERROR);
}

static void assert_scalar(const char *text, enum resp_type type, const char *str, int64_t num)
{
	struct resp_value v;
	assert_reply(text, &v, 1);
	assert_int_equal(v.type, type);
	assert_true(bytes_eq(v.str, bytes_str(str)));
	assert_true(v.num == num);
}

static void test_resp_reply_scalars_are_read(void **state)
{
	(void)state;
	assert_scalar("+OK\r\n", RESP_SIMPLE, "OK", 0);
	assert_scalar("+\r\n", RESP_SIMPLE, "", 0);
	assert_scalar("-ERR no\r\n", RESP_ERR, "ERR no", 0);
	assert_scalar(":-12\r\n", RESP_INT, "", -12);
	assert_scalar(":+12\r\n", RESP_INT, "", 12);
	assert_scalar(":-9223372036854775808\r\n", RESP_INT, "", INT64_MIN);
	assert_scalar("$5\r\na\r\nbc\r\n", RESP_BULK, "a\r\nbc", 0);
	assert_scalar("$0\r\n\r\n", RESP_BULK, "", 0);
	assert_scalar("$-1\r\n", RESP_NULL, "", 0);
	assert_scalar("*-1\r\n", RESP_NULL, "", 0);
	assert_scalar("_\r\n", RESP_NULL, "", 0);
	assert_scalar("#t\r\n", RESP_BOOL, "", 1);
	assert_scalar("#f\r\n", RESP_BOOL, "", 0);
	assert_scalar("*0\r\n", RESP_ARRAY, "", 0);
	assert_scalar("%0\r\n", RESP_MAP, "", 0);
	assert_scalar("=8\r\ntxt:text\r\n", RESP_VERBATIM, "text", 0);
	assert_scalar("=4\r\nmkd:\r\n", RESP_VERBATIM, "", 0);
	assert_scalar("(-123456789012345678901234567890\r\n", RESP_BIGNUM,
		"-123456789012345678901234567890", 0);
	assert_scalar("!3\r\nERR\r\n", RESP_BLOB_ERR, "ERR", 0);
}

static void test_resp_reply_doubles_are_read(void **state)
{
	(void)state;
	struct resp_value v;
	assert_reply(",1.250\r\n", &v, 1);
	assert_int_equal(v.type, RESP_DOUBLE);
	assert_true(v.dbl == 1.25);
	assert_reply(",-10\r\n", &v, 1);
	assert_true(v.dbl == -10);
	assert_reply(",+1.5e-3\r\n", &v, 1);
	assert_true(v.dbl == 1.5e-3);
	assert_reply(",2E+2\r\n", &v, 1);
	assert_true(v.dbl == 200);
	assert_reply(",-inf\r\n", &v, 1);
	assert_true(isinf(v.dbl) && v.dbl < 0);
	assert_reply(",inf\r\n", &v, 1);
	assert_true(isinf(v.dbl) && v.dbl > 0);
	assert_reply(",nan\r\n", &v, 1);
	assert_true(isnan(v.dbl));
}

static void test_resp_reply_trees_are_read_depth_first(void **state)
{
	(void)state;
	struct resp_value v[10];
	assert_reply("*3\r\n:1\r\n%2\r\n+a\r\n*1\r\n$-1\r\n+b\r\n~0\r\n>1\r\n_\r\n", v, 10);
	static const struct {
		enum resp_type type;
		uint32_t size;
		int64_t num;
	} want[] = {{RESP_ARRAY, 10, 3}, {RESP_INT, 1, 1}, {RESP_MAP, 6, 2}, {RESP_SIMPLE, 1, 0},
		{RESP_ARRAY, 2, 1}, {RESP_NULL, 1, 0}, {RESP_SIMPLE, 1, 0}, {RESP_SET, 1, 0},
		{RESP_PUSH, 2, 1}, {RESP_NULL, 1, 0}};
	for (size_t i = 0; i < 10; i++) {
		assert_int_equal(v[i].type, want[i].type);
		assert_int_equal(v[i].num, want[i].num);
		assert_int_equal(v[i].size, want[i].size);
	}
}

static void test_resp_reply_depth_is_bounded(void **state)
{
	(void)state;
	struct resp_value v[NODES];
	size_t n;
	const char *deepest = "*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n:1\r\n";
	assert_reply(deepest, v, 9);
	const char *deeper = "*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n:1\r\n";
	assert_int_equal(reply_bytes(deeper, strlen(deeper), v, NODES, &n), RESP_ERROR);
}

static void test_resp_reply_counts_are_believed_only_within_max(void **state)
{
	(void)state;
	struct resp_value v[NODES];
	size_t n;
	assert_int_equal(reply_bytes("*3\r\n", 4, v, 4, &n), RESP_MORE);
	assert_int_equal(reply_bytes("*4\r\n", 4, v, 4, &n), RESP_ERROR);
	assert_int_equal(reply_bytes("%2\r\n", 4, v, 4, &n), RESP_ERROR);
	assert_int_equal(reply_bytes("*9223372036854775807\r\n", 22, v, 4, &n), RESP_ERROR);
	assert_int_equal(reply_bytes("%4611686018427387905\r\n", 22, v, 4, &n), RESP_ERROR);
	assert_int_equal(reply_bytes("$536870912\r\n", 12, v, 4, &n), RESP_MORE);
	assert_int_equal(reply_bytes("$536870913\r\n", 12, v, 4, &n), RESP_ERROR);
	assert_int_equal(reply_bytes("+OK\r\n", 5, v, 0, &n), RESP_ERROR);
}

static void test_resp_reply_refuses_what_is_malformed(void **state)
{
	(void)state;
	static const char *const bad[] = {"x\r\n", "|1\r\n", "\r\n", ":\r\n", ":1x\r\n", ":+-1\r\n",
		":+\r\n", ":01\r\n", ":9223372036854775808\r\n", "+a\rb\r\n", "+a\nb\r\n", "$x\r\n",
		"$-2\r\n", "$-0\r\n", "$+1\r\n", "$?\r\n", "*-2\r\n", "*?\r\n", "%-1\r\n",
		"~-1\r\n", ">-1\r\n", "=-1\r\n", "!-1\r\n", "_x\r\n", "#\r\n", "#x\r\n", "#tt\r\n",
		",\r\n", ",-\r\n", ",.5\r\n", ",1.\r\n", ",1e\r\n", ",1e+\r\n", ",0x1p3\r\n",
		",infinity\r\n", ",1 \r\n", ", 1\r\n", ",-nan\r\n", "(\r\n", "(-\r\n", "(1.5\r\n",
		"=3\r\ntxt\r\n", "=4\r\ntxt?\r\n", "$1\r\nab\r\n", "$1\r\na\rb", "*1\r\nx\r\n"};
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		struct resp_value v[NODES];
		size_t n;
		assert_int_equal(reply_bytes(bad[i], strlen(bad[i]), v, NODES, &n), RESP_ERROR);
	}
	struct resp_value v;
	size_t n;
	assert_int_equal(reply_bytes("\0\r\n", 3, &v, 1, &n), RESP_ERROR);
	assert_int_equal(reply_bytes(",1\0\r\n", 5, &v, 1, &n), RESP_ERROR);
}

static void test_resp_reply_lines_are_bounded(void **state)
{
	(void)state;
	size_t all = 64 * 1024 + 1;
	uint8_t *text = malloc(all);
	struct resp_value v;
	size_t n;
	memset(text, 'a', all);
	text[0] = '+';
	assert_int_equal(reply_bytes(text, all - 1, &v, 1, &n), RESP_MORE);
	assert_int_equal(reply_bytes(text, all, &v, 1, &n), RESP_ERROR);
	free(text);
}

/* What the server writes is what the client reads. */
static void test_resp_replies_come_back_as_written(void **state)
{
	(void)state;
	struct buf b;
	struct resp_value v[NODES];
	size_t n;
	buf_init(&b, 0);
	resp_map(&b, true, 3);
	resp_bulk_str(&b, "token");
	resp_int(&b, 1234567890123);
	resp_bulk_str(&b, "ms");
	resp_double(&b, true, 0.125);
	resp_verbatim(&b, true, bytes_str("info"));
	resp_bool(&b, true, true);
	assert_int_equal(reply_bytes(b.data, b.len, v, NODES, &n), RESP_OK);
	assert_int_equal(n, 7);
	assert_int_equal(v[0].num, 3);
	assert_true(bytes_eq(v[1].str, bytes_str("token")));
	assert_int_equal(v[2].num, 1234567890123);
	assert_true(v[4].dbl == 0.125);
	assert_true(bytes_eq(v[5].str, bytes_str("info")));
	assert_int_equal(v[6].num, 1);
	buf_fini(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_resp_request_array_is_taken),
		cmocka_unit_test(test_resp_request_leaves_the_next_one),
		cmocka_unit_test(test_resp_request_lengths_are_strict),
		cmocka_unit_test(test_resp_request_endless_numbers_are_refused),
		cmocka_unit_test(test_resp_request_limits_are_refused_as_declared),
		cmocka_unit_test(test_resp_request_total_is_bounded),
		cmocka_unit_test(test_resp_request_never_asks_beyond_its_bound),
		cmocka_unit_test(test_resp_request_inline_is_split),
		cmocka_unit_test(test_resp_request_inline_quotes_must_balance),
		cmocka_unit_test(test_resp_request_inline_is_bounded),
		cmocka_unit_test(test_resp_request_inline_words_are_bounded),
		cmocka_unit_test(test_resp_decimal_is_strict),
		cmocka_unit_test(test_resp_writers_speak_both_dialects),
		cmocka_unit_test(test_resp_double_has_three_decimals),
		cmocka_unit_test(test_resp_error_stays_on_its_line),
		cmocka_unit_test(test_resp_writers_leave_a_full_buffer_alone),
		cmocka_unit_test(test_resp_command_is_what_the_parser_takes),
		cmocka_unit_test(test_resp_reply_scalars_are_read),
		cmocka_unit_test(test_resp_reply_doubles_are_read),
		cmocka_unit_test(test_resp_reply_trees_are_read_depth_first),
		cmocka_unit_test(test_resp_reply_depth_is_bounded),
		cmocka_unit_test(test_resp_reply_counts_are_believed_only_within_max),
		cmocka_unit_test(test_resp_reply_refuses_what_is_malformed),
		cmocka_unit_test(test_resp_reply_lines_are_bounded),
		cmocka_unit_test(test_resp_replies_come_back_as_written),
	};
	return cmocka_run_group_tests_name("resp", tests, NULL, NULL);
}
