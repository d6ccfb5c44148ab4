#include "wire/sync.h"

#include <errno.h>
#include <string.h>

#include "base/check.h"
#include "wire/frame.h"

/* An entry, little-endian:
 *   0 flags u8   1 node u8   2 name length u8   3 zero u8   4 key length u16   6 value length u16
 *   8 maxn u64  16 remaining u64  24 held u64
 * then uid (2 u64); when written vb, pb (3 u64 each), op_id u64; then key,
 * value, name. */
enum {
	FIXED_BYTES = 32,
	UID_BYTES = 16,
	WRITTEN_BYTES = 56,
};

_Static_assert(FIXED_BYTES + UID_BYTES + WRITTEN_BYTES + KEY_MAX_BYTES + VALUE_MAX_BYTES +
			       CLIENT_NAME_MAX_BYTES <=
		       SYNC_BODY_MAX_BYTES,
	"the largest entry fits a reply");

/* An entry that is no more is named by what a log keeps of it. */
static bool gone_valid(const struct sync_entry *e)
{
	return e->flags == SYNC_GONE && e->uid.n != 0 && e->key.len == SYNC_GONE_KEY_BYTES &&
	       e->node == 0 && (e->value.len | e->name.len) == 0 &&
	       (e->maxn | e->remaining_ns | e->held_ns) == 0;
}

static size_t numbers_bytes(unsigned flags)
{
	return FIXED_BYTES + UID_BYTES + (flags & SYNC_WRITTEN ? WRITTEN_BYTES : 0);
}

/* One rule for both ends. */
static bool entry_valid(const struct sync_entry *e)
{
	if ((e->flags & ~SYNC_FLAGS_ALL) != 0 || e->key.len == 0 || e->key.len > KEY_MAX_BYTES ||
		e->value.len > VALUE_MAX_BYTES || e->name.len > CLIENT_NAME_MAX_BYTES)
		return false;
	if ((e->uid.n | e->vb.n | e->pb.n | e->maxn) > BALLOT_MAX ||
		(e->remaining_ns | e->held_ns) > SPAN_MAX_NS)
		return false;
	if (e->flags & SYNC_GONE)
		return gone_valid(e);
	if (e->flags & SYNC_SHADOW)
		return e->flags == SYNC_SHADOW && e->maxn >= e->uid.n && e->node == 0 &&
		       (e->value.len | e->name.len) == 0;
	return e->uid.n != 0 && e->node != 0 && e->maxn >= e->uid.n;
}

static uint8_t *put_version(uint8_t *p, struct version v)
{
	put_u64(p, v.n);
	put_u64(p + 8, v.cid);
	put_u64(p + 16, v.seq);
	return p + 24;
}

static const uint8_t *get_version(const uint8_t *p, struct version *ret)
{
	*ret = (struct version){get_u64(p), get_u64(p + 8), get_u64(p + 16)};
	return p + 24;
}

static uint8_t *put_view(uint8_t *p, struct bytes v)
{
	if (v.len != 0)
		memcpy(p, v.p, v.len);
	return p + v.len;
}

int sync_entry_encode(struct buf *b, const struct sync_entry *e)
{
	CHECK(entry_valid(e));
	size_t bytes = numbers_bytes(e->flags) + e->key.len + e->value.len + e->name.len;
	uint8_t *p = buf_reserve(b, bytes);
	if (p == NULL)
		return -ENOBUFS;
	p[0] = e->flags;
	p[1] = e->node;
	p[2] = (uint8_t)e->name.len;
	p[3] = 0;
	put_u16(p + 4, (uint16_t)e->key.len);
	put_u16(p + 6, (uint16_t)e->value.len);
	put_u64(p + 8, e->maxn);
	put_u64(p + 16, e->remaining_ns);
	put_u64(p + 24, e->held_ns);
	p += FIXED_BYTES;
	put_u64(p, e->uid.n);
	put_u64(p + 8, e->uid.cid);
	p += UID_BYTES;
	if (e->flags & SYNC_WRITTEN) {
		p = put_version(p, e->vb);
		p = put_version(p, e->pb);
		put_u64(p, e->op_id);
		p += 8;
	}
	p = put_view(p, e->key);
	p = put_view(p, e->value);
	(void)put_view(p, e->name);
	b->len += bytes;
	return 0;
}

int sync_entry_decode(struct bytes *rest, struct sync_entry *ret)
{
	const uint8_t *p = rest->p;
	if (rest->len == 0)
		return -ENODATA;
	if (rest->len < FIXED_BYTES)
		return -EBADMSG;
	struct sync_entry e = {
		.flags = p[0],
		.node = p[1],
		.name.len = p[2],
		.key.len = get_u16(p + 4),
		.value.len = get_u16(p + 6),
		.maxn = get_u64(p + 8),
		.remaining_ns = get_u64(p + 16),
		.held_ns = get_u64(p + 24),
	};
	size_t bytes = numbers_bytes(e.flags) + e.key.len + e.value.len + e.name.len;
	if (p[3] != 0 || rest->len < bytes)
		return -EBADMSG;
	p += FIXED_BYTES;
	e.uid = (struct ballot){get_u64(p), get_u64(p + 8)};
	p += UID_BYTES;
	if (!(e.flags & (SYNC_SHADOW | SYNC_GONE)))
		e.vb = e.pb = (struct version){e.uid.n, e.uid.cid, 0};
	if (e.flags & SYNC_WRITTEN) {
		p = get_version(p, &e.vb);
		p = get_version(p, &e.pb);
		e.op_id = get_u64(p);
		p += 8;
	}
	e.key.p = p;
	e.value.p = p + e.key.len;
	e.name.p = e.value.p + e.value.len;
	if (!entry_valid(&e))
		return -EBADMSG;
	*ret = e;
	*rest = bytes_of((const uint8_t *)rest->p + bytes, rest->len - bytes);
	return 0;
}
