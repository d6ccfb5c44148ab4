/* Bytes of clients: the request parser, whole and cut short, and the reply parser. */
#include "wire/resp.h"

#include <stdlib.h>

#include "base/check.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { NODES_MAX = 64, CUTS = 64 };

/* A copy of exactly @len bytes: the parser may write into it, and must not look behind it. */
static uint8_t *copy_of(const uint8_t *data, size_t len)
{
	uint8_t *p = malloc(len + (len == 0));
	CHECK(p != NULL);
	if (len != 0)
		memcpy(p, data, len);
	return p;
}

/* Whatever was taken is inside the request, and its words sent as an array mean the same. */
static void check_request(const uint8_t *p, size_t used, const struct resp_request *r)
{
	struct buf b;
	struct resp_request again;
	size_t again_used = 0;
	size_t bytes = 0;
	const char *why;
	CHECK(r->argc <= ARGS_MAX);
	for (uint32_t i = 0; i < r->argc; i++) {
		CHECK(r->argv[i].len <= RESP_ARG_MAX_BYTES);
		CHECK(r->argv[i].p >= p && r->argv[i].p + r->argv[i].len <= p + used);
		bytes += r->argv[i].len;
	}
	CHECK(bytes <= used && used <= RESP_REQUEST_MAX_BYTES);
	buf_init(&b, 0);
	CHECK(resp_command(&b, r->argc, r->argv) == 0);
	CHECK(resp_parse(b.data, b.len, &again, &again_used, &why) == RESP_OK);
	CHECK(again_used == b.len && again.argc == r->argc);
	for (uint32_t i = 0; i < r->argc; i++)
		CHECK(bytes_eq(again.argv[i], r->argv[i]));
	buf_fini(&b);
}

/* A part of a request is not yet one: what is MORE or ERROR may not have been OK before, and
 * nothing that was ERROR becomes better by more bytes. */
static void check_parts(const uint8_t *data, size_t size, enum resp_status whole, size_t used)
{
	size_t step = size / CUTS + 1;
	for (size_t n = 0; n < size; n += step) {
		struct resp_request r;
		size_t part_used = 0;
		const char *why = NULL;
		uint8_t *p = copy_of(data, n);
		enum resp_status part = resp_parse(p, n, &r, &part_used, &why);
		if (part == RESP_OK)
			CHECK(whole == RESP_OK && part_used == used && n >= used);
		else if (part == RESP_ERROR)
			CHECK(whole == RESP_ERROR && why != NULL);
		else
			CHECK(n < RESP_REQUEST_MAX_BYTES && (whole != RESP_OK || n < used));
		free(p);
	}
}

static void check_requests(const uint8_t *data, size_t size)
{
	for (;;) {
		struct resp_request r;
		size_t used = 0;
		const char *why = NULL;
		uint8_t *p = copy_of(data, size);
		enum resp_status status = resp_parse(p, size, &r, &used, &why);
		if (status == RESP_OK) {
			CHECK(used != 0 && used <= size);
			check_request(p, used, &r);
		}
		free(p);
		check_parts(data, size, status, used);
		if (status != RESP_OK)
			return;
		data += used;
		size -= used;
	}
}

static void check_nodes(const uint8_t *data, size_t used, const struct resp_value *nodes, size_t n)
{
	CHECK(n != 0 && n <= NODES_MAX && nodes[0].size == n);
	for (size_t i = 0; i < n; i++) {
		const struct resp_value *v = &nodes[i];
		CHECK(v->size != 0 && v->size <= n - i);
		if (v->str.p != NULL)
			CHECK(v->str.p >= data && v->str.p + v->str.len <= data + used);
		if (v->type != RESP_ARRAY && v->type != RESP_MAP && v->type != RESP_SET &&
			v->type != RESP_PUSH) {
			CHECK(v->size == 1);
			continue;
		}
		size_t children = (size_t)v->num * (v->type == RESP_MAP ? 2 : 1);
		size_t at = i + 1;
		for (size_t k = 0; k < children; k++)
			at += nodes[at].size;
		CHECK(at == i + v->size);
	}
}

static void check_replies(const uint8_t *data, size_t size)
{
	while (size != 0) {
		struct resp_value nodes[NODES_MAX];
		size_t n = 0;
		size_t used = 0;
		uint8_t *p = copy_of(data, size);
		enum resp_status status = resp_reply_parse(p, size, nodes, NODES_MAX, &n, &used);
		if (status == RESP_OK) {
			CHECK(used != 0 && used <= size);
			check_nodes(p, used, nodes, n);
		}
		free(p);
		if (status != RESP_OK)
			return;
		struct resp_value scratch[NODES_MAX];
		size_t step = used / CUTS + 1;
		for (size_t part = 0; part < used; part += step) {
			p = copy_of(data, part);
			CHECK(resp_reply_parse(p, part, scratch, NODES_MAX, &n, &used) ==
				RESP_MORE);
			free(p);
		}
		data += used;
		size -= used;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	check_requests(data, size);
	check_replies(data, size);
	return 0;
}
