/* Bytes of peers: hello, frame header, messages, entries and configurations in them. What decodes
 * is written again the same. */
#include "wire/config_msg.h"
#include "wire/frame.h"
#include "wire/sync.h"

#include <errno.h>
#include <stdlib.h>

#include "base/check.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_entries(struct bytes rest)
{
	struct buf b;
	struct sync_entry e;
	buf_init(&b, 0);
	for (;;) {
		struct bytes at = rest;
		int rc = sync_entry_decode(&rest, &e);
		CHECK(rc == 0 || rc == -ENODATA || rc == -EBADMSG);
		if (rc != 0)
			break;
		b.len = 0;
		CHECK(sync_entry_encode(&b, &e) == 0);
		CHECK(b.len == at.len - rest.len && memcmp(b.data, at.p, b.len) == 0);
	}
	buf_fini(&b);
}

/* One configuration behind the other, as in the state file. */
static void check_configurations(struct bytes rest)
{
	struct buf b;
	struct membership m;
	buf_init(&b, MEMBERSHIP_MAX_BYTES);
	for (;;) {
		struct bytes at = rest;
		if (membership_decode(&rest, &m) != 0)
			break;
		b.len = 0;
		CHECK(membership_encode(&b, &m) == 0);
		CHECK(b.len == at.len - rest.len && memcmp(b.data, at.p, b.len) == 0);
		CHECK(membership_same(&m, &m));
		for (unsigned i = 0; i < m.n_masters; i++)
			CHECK(membership_role(&m, m.masters[i].id) == ROLE_MASTER);
		for (unsigned i = 0; i < m.n_replicas; i++)
			CHECK(membership_role(&m, m.replicas[i].id) == ROLE_REPLICA);
	}
	buf_fini(&b);
}

static void check_config_msg(struct bytes body)
{
	struct buf b;
	struct config_msg m;
	if (config_msg_decode(body, &m) != 0)
		return;
	buf_init(&b, CONFIG_MSG_MAX_BYTES);
	CHECK(config_msg_encode(&b, &m) == 0);
	CHECK(bytes_eq(bytes_of(b.data, b.len), body));
	buf_fini(&b);
}

static void check_value(const struct msg *m)
{
	if (m->type == MSG_REPLY && (m->req_type == MSG_SYNC || m->req_type == MSG_FOLLOW))
		check_entries(m->value);
	if (m->type == MSG_CONFIG)
		check_config_msg(m->value);
}

static void check_msgs(const uint8_t *p, size_t size)
{
	struct buf b;
	buf_init(&b, 0);
	while (size != 0) {
		struct msg m;
		size_t used = 0;
		size_t peeked = 0;
		uint16_t slot = 0;
		int peek = msg_peek(p, size, &slot, &peeked);
		if (msg_decode(p, size, &m, &used) != 0) {
			/* what msg_peek() lets through to another thread may still be refused there
			 */
			if (peek != 0)
				break;
			CHECK(peeked != 0 && peeked <= size);
			p += peeked;
			size -= peeked;
			continue;
		}
		CHECK(peek == 0 && slot == m.slot && peeked == used && used <= size);
		b.len = 0;
		CHECK(msg_encode(&b, &m) == 0);
		CHECK(b.len == used && memcmp(b.data, p, used) == 0);
		check_value(&m);
		p += used;
		size -= used;
	}
	buf_fini(&b);
}

static void check_frames(const uint8_t *p, size_t size)
{
	struct frame_header h;
	while (frame_header_decode(p, size, &h) == 0) {
		uint8_t again[FRAME_HEADER_BYTES];
		CHECK(h.frame_bytes >= FRAME_HEADER_BYTES && h.frame_bytes <= size);
		frame_header_encode(again, &h);
		CHECK(memcmp(again, p, sizeof again) == 0);
		check_msgs(p + FRAME_HEADER_BYTES, h.frame_bytes - FRAME_HEADER_BYTES);
		p += h.frame_bytes;
		size -= h.frame_bytes;
	}
}

static void check_hello(const uint8_t *p, size_t size)
{
	struct hello h;
	struct hello again;
	uint8_t bytes[HELLO_MAX_BYTES];
	size_t len = 0;
	int rc = hello_decode(p, size, &h, &len);
	if (rc == -EAGAIN)
		CHECK(len > size && len <= HELLO_MAX_BYTES);
	if (rc != 0)
		return;
	CHECK(len <= size && memchr(h.cluster, '\0', sizeof h.cluster) != NULL &&
		memchr(h.reason, '\0', sizeof h.reason) != NULL);
	if (h.version != PROTOCOL_VERSION) {
		CHECK(h.config.epoch == 0 && h.cluster[0] == '\0' && h.peer_addr[0] == '\0');
		return;
	}
	size_t again_len = 0;
	size_t written = hello_encode(bytes, &h);
	CHECK(written == len);
	CHECK(hello_decode(bytes, written, &again, &again_len) == 0 && again_len == len);
	uint8_t twice[HELLO_MAX_BYTES];
	CHECK(hello_encode(twice, &again) == written && memcmp(twice, bytes, written) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	/* Memory of exactly that size, so that looking behind it is seen. */
	uint8_t *p = malloc(size + (size == 0));
	CHECK(p != NULL);
	if (size != 0)
		memcpy(p, data, size);
	check_frames(p, size);
	check_msgs(p, size);
	check_entries(bytes_of(p, size));
	check_configurations(bytes_of(p, size));
	check_config_msg(bytes_of(p, size));
	check_hello(p, size);
	free(p);
	return 0;
}
