/* RESP2 and RESP3, the Redis serialisation protocol: requests in, replies out (server side) and
 * the reverse (client side). Pure.
 * Source: https://redis.io/docs/latest/develop/reference/protocol-spec/ */
#pragma once

#include "base/buf.h"
#include "base/limits.h"

enum {
	RESP_INLINE_MAX_BYTES = 16 * 1024, /* a plain text line */
	RESP_ARG_MAX_BYTES = 8 * 1024,     /* one argument: larger than any legal one, so that the
					    * command can name its own limit */
	RESP_REQUEST_MAX_BYTES = 64 * 1024,
};

struct resp_request {
	uint32_t argc;
	struct bytes argv[ARGS_MAX];
};

enum resp_status {
	RESP_OK,
	RESP_MORE,  /* need more bytes */
	RESP_ERROR, /* broken: answer `-ERR Protocol error: <why>` and close */
};

/* Take one request from the front of [p, p+len): an array of bulk strings or an inline line (with
 * single and double quotes and \xHH escapes as redis-cli users know them).
 * RESP_OK: *ret_used bytes are done; argc may be 0 (empty line or `*0`: no reply is due). Views
 * point into @p (inline arguments with quotes are unescaped in place, hence not const).
 * RESP_ERROR: *ret_why is a static sentence ("invalid bulk length", "too big inline request",
 * "too many arguments", "unbalanced quotes in request", ...), or one that stays until this
 * thread's next call ("expected '$', got 'x'"). A bound is refused from its declared length, before
 * the bytes are there: RESP_MORE never asks for more than RESP_REQUEST_MAX_BYTES. */
enum resp_status resp_parse(
	uint8_t *p, size_t len, struct resp_request *ret, size_t *ret_used, const char **ret_why);

/* Writers append to @b; on a full buffer nothing is written and b->len is unchanged (the caller
 * notices an over-full connection by its byte budget). @resp3: the dialect. */
void resp_simple(struct buf *b, const char *s); /* +OK */
void resp_error(struct buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* -WORD text; CR and LF and other control bytes in the text become spaces */
void resp_int(struct buf *b, int64_t v);
void resp_bulk(struct buf *b, struct bytes v);
void resp_bulk_str(struct buf *b, const char *s);
void resp_null(struct buf *b, bool resp3);             /* $-1 or _ */
void resp_double(struct buf *b, bool resp3, double v); /* , or bulk; 3 decimals, no exponent */
void resp_array(struct buf *b, size_t n);
void resp_map(struct buf *b, bool resp3, size_t pairs); /* %n, or *2n */
void resp_push(struct buf *b, size_t n);                /* >n, RESP3 only */
void resp_bool(struct buf *b, bool resp3, bool v);
void resp_verbatim(struct buf *b, bool resp3, struct bytes text); /* =txt: or bulk */

/* A request as clients send it: array of bulk strings. 0 or -ENOBUFS. */
int resp_command(struct buf *b, size_t argc, const struct bytes *argv);

/* One node of a decoded reply, depth first. */
enum resp_type {
	RESP_SIMPLE = '+',
	RESP_ERR = '-',
	RESP_INT = ':',
	RESP_BULK = '$',
	RESP_ARRAY = '*',
	RESP_NULL = '_',
	RESP_DOUBLE = ',',
	RESP_BOOL = '#',
	RESP_MAP = '%',
	RESP_SET = '~',
	RESP_PUSH = '>',
	RESP_VERBATIM = '=',
	RESP_BIGNUM = '(',
	RESP_BLOB_ERR = '!',
};

struct resp_value {
	enum resp_type type;
	uint32_t size;    /* nodes of this subtree, itself included */
	struct bytes str; /* simple, error, bulk, verbatim (without "txt:"), bignum */
	int64_t num;      /* int, bool; elements of array/set/push; pairs of map */
	double dbl;
};

/* Decode one whole reply into @nodes (at most @max nodes; views point into @p); $-1 and *-1 give
 * RESP_NULL. RESP_OK: *ret_used bytes, *ret_nodes nodes. RESP_ERROR: malformed, deeper than 8, or
 * more than @max nodes. */
enum resp_status resp_reply_parse(const uint8_t *p, size_t len, struct resp_value *nodes,
	size_t max, size_t *ret_nodes, size_t *ret_used);
