/* Bytes of a node, as the client library takes them for the answer to each of its commands. */
#include "client/internal.h"

#include <stdlib.h>

#include "base/check.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { NODES_MAX = 64 };

static void check_reply(enum locker_verb verb, const struct resp_value *v)
{
	static struct locker_reply reply;

	memset(&reply, 0, sizeof reply);
	if (!reply_parse(verb, v, &reply))
		return;
	CHECK(strcmp(locker_outcome_word(reply.outcome), "?") != 0);
	CHECK(reply.value_bytes <= LOCKER_VALUE_MAX_BYTES);
	CHECK(reply.value[reply.value_bytes] == '\0');
	CHECK(memchr(reply.message, '\0', sizeof reply.message) != NULL);
	CHECK(memchr(reply.client, '\0', sizeof reply.client) != NULL);
	CHECK(reply.valid_ms >= 0);
	if (reply.outcome == LOCKER_OK && verb <= LOCKER_EXTEND)
		CHECK(reply.token > 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct resp_value nodes[NODES_MAX];
	size_t n, used;

	if (size == 0)
		return 0;
	uint8_t *p = malloc(size);
	CHECK(p != NULL);
	memcpy(p, data, size);
	if (resp_reply_parse(p, size, nodes, NODES_MAX, &n, &used) == RESP_OK)
		for (int verb = 0; verb <= LOCKER_LAG; verb++)
			check_reply((enum locker_verb)verb, nodes);
	free(p);
	return 0;
}
