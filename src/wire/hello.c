#include "wire/frame.h"

#include <errno.h>

#include "base/check.h"

/* A hello, little-endian: magic u64, body length u32, then
 *   0 version u16   2 node u8   3 flags u8   4 reason length u8   5 reason
 * which every version understands, then of this version
 *   0 status u8     1 peer_addr length u8    2 cluster length u8  3 zero u8
 *   4 link_index u16  6 threads u16
 *   8 inc u64      16 mclk u64     24 echo_mclk u64  32 held_ns u64  40 after_inc u64
 * then peer_addr, cluster name, configuration (membership.c). */
enum {
	COMMON_BYTES = 5,
	FIXED_BYTES = 48,
	FLAG_FIRST_BOOT = 1 << 0,
	FLAG_REFUSED = 1 << 1,
	FLAGS_ALL = (1 << 2) - 1,
	REASON_MAX_BYTES = sizeof(((struct hello *)0)->reason) - 1,
};

static const uint8_t hello_magic[8] = "locker\r\n";

_Static_assert(HELLO_PREFIX_BYTES + COMMON_BYTES + REASON_MAX_BYTES + FIXED_BYTES +
			       (int)MEMBER_ADDR_MAX_BYTES + CLUSTER_NAME_MAX_BYTES +
			       (int)MEMBERSHIP_MAX_BYTES <=
		       HELLO_MAX_BYTES,
	"every legal hello fits");
_Static_assert(REASON_MAX_BYTES <= UINT8_MAX, "the length of a reason is a u8");

/* What a hello that is not a refusal must satisfy, at both ends. */
static bool hello_valid(const struct hello *h)
{
	if (h->status < NODE_ACTIVE || h->status > NODE_STATUS_MAX || h->cluster[0] == '\0')
		return false;
	if (h->threads == 0 || h->threads > THREADS_MAX || h->link_index >= THREADS_MAX)
		return false;
	return h->held_ns <= SPAN_MAX_NS;
}

/* A nonmember need not say where it is reached. */
static bool addr_valid(struct bytes addr)
{
	return addr.len == 0 || member_addr_valid(addr);
}

size_t hello_encode(uint8_t *p, const struct hello *h)
{
	size_t reason_bytes = strnlen(h->reason, sizeof h->reason);
	size_t addr_bytes = strnlen(h->peer_addr, sizeof h->peer_addr);
	size_t cluster_bytes = strnlen(h->cluster, sizeof h->cluster);
	CHECK(reason_bytes < sizeof h->reason);
	CHECK(addr_valid(bytes_of(h->peer_addr, addr_bytes)));
	CHECK(cluster_bytes < sizeof h->cluster);
	CHECK(h->node != 0);
	CHECK(h->refused || hello_valid(h));
	uint8_t *q = p + HELLO_PREFIX_BYTES;
	put_u16(q, h->version);
	q[2] = h->node;
	q[3] = (uint8_t)((h->first_boot ? FLAG_FIRST_BOOT : 0) | (h->refused ? FLAG_REFUSED : 0));
	q[4] = (uint8_t)reason_bytes;
	memcpy(q + COMMON_BYTES, h->reason, reason_bytes);
	q += COMMON_BYTES + reason_bytes;
	q[0] = h->status;
	q[1] = (uint8_t)addr_bytes;
	q[2] = (uint8_t)cluster_bytes;
	q[3] = 0;
	put_u16(q + 4, h->link_index);
	put_u16(q + 6, h->threads);
	put_u64(q + 8, h->inc);
	put_u64(q + 16, h->mclk);
	put_u64(q + 24, h->echo_mclk);
	put_u64(q + 32, h->held_ns);
	put_u64(q + 40, h->after_inc);
	q += FIXED_BYTES;
	memcpy(q, h->peer_addr, addr_bytes);
	q += addr_bytes;
	memcpy(q, h->cluster, cluster_bytes);
	q += cluster_bytes;
	struct buf b = {
		.data = p, .len = (size_t)(q - p), .cap = HELLO_MAX_BYTES, .max = HELLO_MAX_BYTES};
	CHECK(membership_encode(&b, &h->config) == 0);
	memcpy(p, hello_magic, sizeof hello_magic);
	put_u32(p + 8, (uint32_t)(b.len - HELLO_PREFIX_BYTES));
	return b.len;
}

/* Names come from a stranger and end in logs and on terminals. */
static void copy_text(char *to, const uint8_t *p, size_t len)
{
	for (size_t i = 0; i < len; i++)
		to[i] = (char)(p[i] < 0x20 || p[i] == 0x7f ? '?' : p[i]);
	to[len] = '\0';
}

/* The part that versions may change: exactly [p, p+len). */
static int decode_versioned(const uint8_t *p, size_t len, struct hello *h)
{
	if (len < FIXED_BYTES)
		return -EBADMSG;
	size_t addr_bytes = p[1];
	size_t cluster_bytes = p[2];
	struct bytes addr = bytes_of(p + FIXED_BYTES, addr_bytes);
	if (cluster_bytes > CLUSTER_NAME_MAX_BYTES ||
		len - FIXED_BYTES < addr_bytes + cluster_bytes || !addr_valid(addr) || p[3] != 0)
		return -EBADMSG;
	h->status = p[0];
	h->link_index = get_u16(p + 4);
	h->threads = get_u16(p + 6);
	h->inc = get_u64(p + 8);
	h->mclk = get_u64(p + 16);
	h->echo_mclk = get_u64(p + 24);
	h->held_ns = get_u64(p + 32);
	h->after_inc = get_u64(p + 40);
	memcpy(h->peer_addr, addr.p, addr_bytes);
	copy_text(h->cluster, addr.p + addr_bytes, cluster_bytes);
	size_t taken = FIXED_BYTES + addr_bytes + cluster_bytes;
	struct bytes rest = bytes_of(p + taken, len - taken);
	if (membership_decode(&rest, &h->config) != 0 || rest.len != 0)
		return -EBADMSG;
	return h->refused || hello_valid(h) ? 0 : -EBADMSG;
}

int hello_decode(const uint8_t *p, size_t len, struct hello *ret, size_t *ret_len)
{
	/* A stranger who says little and waits, a Redis client say, is told apart at once. */
	size_t magic_bytes = len < sizeof hello_magic ? len : sizeof hello_magic;
	if (magic_bytes != 0 && memcmp(p, hello_magic, magic_bytes) != 0)
		return -EPROTO;
	if (len < HELLO_PREFIX_BYTES) {
		*ret_len = HELLO_PREFIX_BYTES;
		return -EAGAIN;
	}
	size_t body_bytes = get_u32(p + 8);
	if (body_bytes < COMMON_BYTES || body_bytes > HELLO_MAX_BYTES - HELLO_PREFIX_BYTES)
		return -EBADMSG;
	*ret_len = HELLO_PREFIX_BYTES + body_bytes;
	if (len < *ret_len)
		return -EAGAIN;
	p += HELLO_PREFIX_BYTES;
	struct hello h = {
		.version = get_u16(p),
		.node = p[2],
		.first_boot = (p[3] & FLAG_FIRST_BOOT) != 0,
		.refused = (p[3] & FLAG_REFUSED) != 0,
	};
	size_t reason_bytes = p[4];
	if (h.node == 0 || reason_bytes > REASON_MAX_BYTES ||
		reason_bytes > body_bytes - COMMON_BYTES)
		return -EBADMSG;
	copy_text(h.reason, p + COMMON_BYTES, reason_bytes);
	if (h.version == PROTOCOL_VERSION) {
		if ((p[3] & ~FLAGS_ALL) != 0)
			return -EBADMSG;
		size_t taken = COMMON_BYTES + reason_bytes;
		int rc = decode_versioned(p + taken, body_bytes - taken, &h);
		if (rc != 0)
			return rc;
	} else {
		h.first_boot = false;
	}
	*ret = h;
	return 0;
}
