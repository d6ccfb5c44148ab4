#include "wire/frame.h"

#include <errno.h>

#include "base/check.h"
#include "wire/config_msg.h"
#include "wire/sync.h"

/* A frame, little-endian:
 *   0 magic u32    4 frame_bytes u32   8 count u32      12 src_node u8  13 status u8
 *  14 slots_voting u16
 *  16 cluster u64 24 epoch u64        32 src_inc u64    40 dst_inc u64
 *  48 mclk u64    56 echo_mclk u64    64 held_ns u64    72 hlc_n u64
 *  80 slots_in_sync u16               82 zero u16       84 lag_ms u32     88 zero u64
 * then count messages without gaps. A message:
 *   0 length u16   2 type u8           3 verdict u8      4 flags u8      5 req_type u8
 *   6 slot u16     8 has u16          10 key length u16 12 node u8      13 name length u8
 *  14 value length u16                16 req u64
 * then the fields named by `has`, in the order of its bits, then key, value, name. */
enum {
	FRAME_MAGIC = 0x464b434c, /* "LCKF" */
	MSG_HEAD_BYTES = 24,
};

enum {
	HAS_UID = 1 << 0,
	HAS_LEASE = 1 << 1,
	HAS_PREV = 1 << 2,
	HAS_B = 1 << 3,
	HAS_N = 1 << 4,
	HAS_OP_ID = 1 << 5,
	HAS_REMAINING = 1 << 6,
	HAS_HELD = 1 << 7,
	HAS_CURSOR = 1 << 8,
	HAS_ALL = (1 << 9) - 1,
	/* Most messages, TRYLOCK and its answer among them, have none of these. */
	HAS_SELDOM = HAS_ALL & ~(HAS_UID | HAS_LEASE),
	/* In the head of every message, so never in `has`: for the table of types only. */
	WITH_KEY = 1 << 9,
	WITH_NODE = 1 << 10,
	WITH_VALUE = 1 << 11,
};

enum {
	FIELDS_MAX_BYTES = 16 + 16 + 24 + 8 + 8 + 8 + 8 + 4 + 8,
	MSG_WORST_BYTES = MSG_HEAD_BYTES + FIELDS_MAX_BYTES + KEY_MAX_BYTES + VALUE_MAX_BYTES +
			  CLIENT_NAME_MAX_BYTES,
};

_Static_assert((int)MSG_WORST_BYTES <= (int)MSG_MAX_BYTES, "every legal message fits");
_Static_assert(MSG_HEAD_BYTES + FIELDS_MAX_BYTES + KEY_MAX_BYTES + CLIENT_NAME_MAX_BYTES +
			       (int)SYNC_BODY_MAX_BYTES <=
		       (int)MSG_MAX_BYTES,
	"also one full of entries");
_Static_assert((int)CONFIG_MSG_MAX_BYTES <= (int)SYNC_BODY_MAX_BYTES, "and one of a configuration");
_Static_assert((int)MSG_FLAGS_ALL == UINT8_MAX, "every bit of the flags means something");
_Static_assert(MSG_MAX_BYTES <= UINT16_MAX, "the length is a u16");
_Static_assert(FRAME_HEADER_BYTES + MSG_MAX_BYTES <= FRAME_MAX_BYTES, "a frame holds any message");
_Static_assert(CLIENT_NAME_MAX_BYTES <= UINT8_MAX, "the length of a name is a u8");

/* protocol.md 2.4, what a message of each type makes no sense without. A value may be empty, so it
 * is needed by nobody; an ACCEPT that writes back what it found has the op_id it found, maybe 0. */
static const struct {
	uint16_t all;    /* every one of these */
	uint16_t any_of; /* at least one of these; 0: no such rule */
} needs[MSG_TYPE_MAX + 1] = {
	[MSG_TRYLOCK] = {WITH_KEY | WITH_NODE | HAS_UID | HAS_LEASE, 0},
	[MSG_RELEASE] = {WITH_KEY | HAS_UID, 0},
	[MSG_ABORT] = {WITH_KEY | HAS_UID, 0},
	[MSG_CONFIRM] = {WITH_KEY | HAS_UID, 0},
	[MSG_QUERY] = {WITH_KEY | HAS_UID, 0},
	[MSG_EXTEND] = {WITH_KEY | HAS_LEASE, HAS_UID | HAS_N | WITH_VALUE},
	[MSG_PREPARE] = {WITH_KEY | HAS_B, 0},
	[MSG_ACCEPT] = {WITH_KEY | HAS_UID | HAS_B, 0},
	[MSG_READ] = {WITH_KEY, 0},
	[MSG_SYNC] = {0, 0},
	[MSG_REPLY] = {0, 0},
	[MSG_FOLLOW] = {0, 0},
	[MSG_CONFIG] = {WITH_VALUE, 0},
	[MSG_STAND] = {WITH_KEY, 0},
	[MSG_TURN] = {WITH_KEY, 0},
};

void frame_header_encode(uint8_t *p, const struct frame_header *h)
{
	CHECK(h->frame_bytes >= FRAME_HEADER_BYTES && h->frame_bytes <= FRAME_MAX_BYTES);
	CHECK(h->src_node != 0);
	CHECK(h->status >= NODE_ACTIVE && h->status <= NODE_STATUS_MAX);
	put_u32(p, FRAME_MAGIC);
	put_u32(p + 4, h->frame_bytes);
	put_u32(p + 8, h->count);
	p[12] = h->src_node;
	p[13] = h->status;
	put_u16(p + 14, h->slots_voting);
	put_u64(p + 16, h->cluster);
	put_u64(p + 24, h->epoch);
	put_u64(p + 32, h->src_inc);
	put_u64(p + 40, h->dst_inc);
	put_u64(p + 48, h->mclk);
	put_u64(p + 56, h->echo_mclk);
	put_u64(p + 64, h->held_ns);
	put_u64(p + 72, h->hlc_n);
	put_u16(p + 80, h->slots_in_sync);
	put_u16(p + 82, 0);
	put_u32(p + 84, h->lag_ms);
	put_u64(p + 88, 0);
}

int frame_header_decode(const uint8_t *p, size_t len, struct frame_header *ret)
{
	if (len < FRAME_HEADER_BYTES)
		return -EAGAIN;
	struct frame_header h = {
		.frame_bytes = get_u32(p + 4),
		.count = get_u32(p + 8),
		.src_node = p[12],
		.status = p[13],
		.slots_voting = get_u16(p + 14),
		.cluster = get_u64(p + 16),
		.epoch = get_u64(p + 24),
		.src_inc = get_u64(p + 32),
		.dst_inc = get_u64(p + 40),
		.mclk = get_u64(p + 48),
		.echo_mclk = get_u64(p + 56),
		.held_ns = get_u64(p + 64),
		.hlc_n = get_u64(p + 72),
		.slots_in_sync = get_u16(p + 80),
		.lag_ms = get_u32(p + 84),
	};
	if (get_u32(p) != FRAME_MAGIC || h.frame_bytes < FRAME_HEADER_BYTES ||
		h.frame_bytes > FRAME_MAX_BYTES)
		return -EBADMSG;
	size_t body_bytes = h.frame_bytes - FRAME_HEADER_BYTES;
	if (h.count > body_bytes / MSG_HEAD_BYTES || (h.count == 0) != (body_bytes == 0))
		return -EBADMSG;
	if (h.src_node == 0 || h.status < NODE_ACTIVE || h.status > NODE_STATUS_MAX)
		return -EBADMSG;
	if (h.hlc_n > BALLOT_MAX || h.held_ns > SPAN_MAX_NS)
		return -EBADMSG;
	if (h.slots_voting > SLOTS_MAX || h.slots_in_sync > SLOTS_MAX ||
		(get_u16(p + 82) | get_u64(p + 88)) != 0)
		return -EBADMSG;
	if (len < h.frame_bytes)
		return -EAGAIN;
	*ret = h;
	return 0;
}

static unsigned msg_has(const struct msg *m)
{
	return (unsigned)((m->uid.n | m->uid.cid) != 0) * HAS_UID |
	       (unsigned)(m->lease_ms != 0) * HAS_LEASE |
	       (unsigned)((m->prev.n | m->prev.cid) != 0) * HAS_PREV |
	       (unsigned)((m->b.n | m->b.cid | m->b.seq) != 0) * HAS_B |
	       (unsigned)(m->n != 0) * HAS_N | (unsigned)(m->op_id != 0) * HAS_OP_ID |
	       (unsigned)(m->remaining_ns != 0) * HAS_REMAINING |
	       (unsigned)(m->held_ns != 0) * HAS_HELD | (unsigned)(m->cursor != 0) * HAS_CURSOR;
}

static size_t fields_bytes(unsigned has)
{
	size_t bytes = 16 * (has & 1) + 4 * (has >> 1 & 1);
	if ((has & HAS_SELDOM) == 0)
		return bytes;
	size_t words = 2 * (has >> 2 & 1) + 3 * (has >> 3 & 1) + (has >> 4 & 1) + (has >> 5 & 1) +
		       (has >> 6 & 1) + (has >> 7 & 1) + (has >> 8 & 1);
	return bytes + 8 * words;
}

/* Whether a reply to a message of that type makes sense. */
static bool is_answered(uint8_t type)
{
	switch (type) {
	case MSG_TRYLOCK:
	case MSG_RELEASE:
	case MSG_ABORT:
	case MSG_EXTEND:
	case MSG_PREPARE:
	case MSG_ACCEPT:
	case MSG_READ:
	case MSG_SYNC:
	case MSG_FOLLOW:
	case MSG_STAND:
		return true;
	default:
		return false;
	}
}

/* Whether its value holds more than that of a lock: entries, or a configuration. */
static bool may_be_large(const struct msg *m)
{
	if (m->type == MSG_REPLY)
		return m->req_type == MSG_SYNC || m->req_type == MSG_FOLLOW;
	return m->type == MSG_CONFIG;
}

/* Whether @m, whose fields are @has, is a message that may be sent: one rule for both ends. */
static bool msg_valid(const struct msg *m, unsigned has)
{
	if (m->type == 0 || m->type > MSG_TYPE_MAX)
		return false;
	if (m->slot >= SLOTS_MAX || m->key.len > KEY_MAX_BYTES ||
		m->name.len > CLIENT_NAME_MAX_BYTES || m->lease_ms > LEASE_MAX_MS)
		return false;
	if (m->value.len > (may_be_large(m) ? (uint32_t)SYNC_BODY_MAX_BYTES : VALUE_MAX_BYTES))
		return false;
	/* Both limits are one less than a power of two, so the ORs are within them iff all are. */
	if ((m->uid.n | m->prev.n | m->b.n | m->n) > BALLOT_MAX ||
		(m->remaining_ns | m->held_ns) > SPAN_MAX_NS)
		return false;
	if (m->type == MSG_REPLY) {
		if (m->verdict == 0 || m->verdict > VERDICT_MAX)
			return false;
		if (!is_answered(m->req_type))
			return false;
	} else if ((m->verdict | m->req_type) != 0) {
		return false;
	}
	bool value = m->value.len != 0 || (m->flags & MSG_HAS_VALUE) != 0;
	unsigned with = has | (unsigned)(m->key.len != 0) * WITH_KEY |
			(unsigned)(m->node != 0) * WITH_NODE | (unsigned)value * WITH_VALUE;
	unsigned all = needs[m->type].all;
	unsigned any_of = needs[m->type].any_of;
	return (with & all) == all && (any_of == 0 || (with & any_of) != 0);
}

static uint8_t *put_fields(uint8_t *p, const struct msg *m, unsigned has)
{
	if (has & HAS_UID) {
		put_u64(p, m->uid.n);
		put_u64(p + 8, m->uid.cid);
		p += 16;
	}
	if (has & HAS_LEASE) {
		put_u32(p, m->lease_ms);
		p += 4;
	}
	if ((has & HAS_SELDOM) == 0)
		return p;
	if (has & HAS_PREV) {
		put_u64(p, m->prev.n);
		put_u64(p + 8, m->prev.cid);
		p += 16;
	}
	if (has & HAS_B) {
		put_u64(p, m->b.n);
		put_u64(p + 8, m->b.cid);
		put_u64(p + 16, m->b.seq);
		p += 24;
	}
	const struct {
		unsigned bit;
		uint64_t v;
	} words[] = {{HAS_N, m->n}, {HAS_OP_ID, m->op_id}, {HAS_REMAINING, m->remaining_ns},
		{HAS_HELD, m->held_ns}, {HAS_CURSOR, m->cursor}};
	for (unsigned i = 0; i < sizeof words / sizeof words[0]; i++) {
		if ((has & words[i].bit) == 0)
			continue;
		put_u64(p, words[i].v);
		p += 8;
	}
	return p;
}

static const uint8_t *get_fields(const uint8_t *p, struct msg *m, unsigned has)
{
	if (has & HAS_UID) {
		m->uid = (struct ballot){get_u64(p), get_u64(p + 8)};
		p += 16;
	}
	if (has & HAS_LEASE) {
		m->lease_ms = get_u32(p);
		p += 4;
	}
	if ((has & HAS_SELDOM) == 0)
		return p;
	if (has & HAS_PREV) {
		m->prev = (struct ballot){get_u64(p), get_u64(p + 8)};
		p += 16;
	}
	if (has & HAS_B) {
		m->b = (struct version){get_u64(p), get_u64(p + 8), get_u64(p + 16)};
		p += 24;
	}
	const struct {
		unsigned bit;
		uint64_t *v;
	} words[] = {{HAS_N, &m->n}, {HAS_OP_ID, &m->op_id}, {HAS_REMAINING, &m->remaining_ns},
		{HAS_HELD, &m->held_ns}, {HAS_CURSOR, &m->cursor}};
	for (unsigned i = 0; i < sizeof words / sizeof words[0]; i++) {
		if ((has & words[i].bit) == 0)
			continue;
		*words[i].v = get_u64(p);
		p += 8;
	}
	return p;
}

static uint8_t *put_view(uint8_t *p, struct bytes v)
{
	if (v.len != 0)
		memcpy(p, v.p, v.len);
	return p + v.len;
}

int msg_encode(struct buf *b, const struct msg *m)
{
	unsigned has = msg_has(m);
	CHECK(msg_valid(m, has));
	size_t len = MSG_HEAD_BYTES + fields_bytes(has) + m->key.len + m->value.len + m->name.len;
	uint8_t *p = buf_reserve(b, len);
	if (p == NULL)
		return -ENOBUFS;
	put_u16(p, (uint16_t)len);
	p[2] = m->type;
	p[3] = m->verdict;
	p[4] = m->flags;
	p[5] = m->req_type;
	put_u16(p + 6, m->slot);
	put_u16(p + 8, (uint16_t)has);
	put_u16(p + 10, (uint16_t)m->key.len);
	p[12] = m->node;
	p[13] = (uint8_t)m->name.len;
	put_u16(p + 14, (uint16_t)m->value.len);
	put_u64(p + 16, m->req);
	p = put_fields(p + MSG_HEAD_BYTES, m, has);
	p = put_view(p, m->key);
	p = put_view(p, m->value);
	(void)put_view(p, m->name);
	b->len += len;
	return 0;
}

int msg_decode(const uint8_t *p, size_t len, struct msg *ret, size_t *ret_used)
{
	if (len < MSG_HEAD_BYTES)
		return -EBADMSG;
	size_t msg_bytes = get_u16(p);
	unsigned has = get_u16(p + 8);
	struct msg m = {
		.type = p[2],
		.verdict = p[3],
		.flags = p[4],
		.req_type = p[5],
		.slot = get_u16(p + 6),
		.key.len = get_u16(p + 10),
		.node = p[12],
		.name.len = p[13],
		.value.len = get_u16(p + 14),
		.req = get_u64(p + 16),
	};
	if (msg_bytes > len || msg_bytes > MSG_MAX_BYTES || (has & ~(unsigned)HAS_ALL) != 0)
		return -EBADMSG;
	if (msg_bytes != MSG_HEAD_BYTES + fields_bytes(has) + m.key.len + m.value.len + m.name.len)
		return -EBADMSG;
	m.key.p = get_fields(p + MSG_HEAD_BYTES, &m, has);
	m.value.p = m.key.p + m.key.len;
	m.name.p = m.value.p + m.value.len;
	/* A field sent as zero would make a second way to write the same message. */
	if (msg_has(&m) != has || !msg_valid(&m, has))
		return -EBADMSG;
	*ret = m;
	*ret_used = msg_bytes;
	return 0;
}

int msg_peek(const uint8_t *p, size_t len, uint16_t *ret_slot, size_t *ret_len)
{
	if (len < MSG_HEAD_BYTES)
		return -EBADMSG;
	size_t msg_bytes = get_u16(p);
	uint16_t slot = get_u16(p + 6);
	if (msg_bytes < MSG_HEAD_BYTES || msg_bytes > len || msg_bytes > MSG_MAX_BYTES ||
		slot >= SLOTS_MAX)
		return -EBADMSG;
	*ret_slot = slot;
	*ret_len = msg_bytes;
	return 0;
}
