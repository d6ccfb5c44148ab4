#include "wire/config_msg.h"

#include <errno.h>

#include "base/buf.h"
#include "base/check.h"

/* Little-endian: 0 kind u8  1 b.node u8  2 accepted_at.node u8  3 zero, 5 bytes
 *   8 epoch u64  16 moved_epoch u64  24 synced_epoch u64  32 b.n u64  40 accepted_at.n u64
 * then the configuration. */
enum { FIXED_BYTES = 48 };

_Static_assert(FIXED_BYTES + MEMBERSHIP_MAX_BYTES <= CONFIG_MSG_MAX_BYTES, "every one fits");

static bool is_ballot(struct change_ballot b)
{
	return b.n != 0 && b.n <= BALLOT_MAX && b.node != 0;
}

static bool is_ballot_or_none(struct change_ballot b)
{
	return is_ballot(b) || (b.n == 0 && b.node == 0);
}

/* One rule for both ends. */
static bool config_msg_valid(const struct config_msg *m)
{
	bool config = m->config.epoch != 0;
	if (!is_ballot_or_none(m->b) || !is_ballot_or_none(m->accepted_at))
		return false;
	switch (m->kind) {
	case CONFIG_NEWS:
		return config;
	case CONFIG_PREPARE:
	case CONFIG_ACCEPTED:
		return is_ballot(m->b);
	case CONFIG_PROMISE:
		return is_ballot(m->b) && is_ballot(m->accepted_at) == config;
	case CONFIG_ACCEPT:
		return is_ballot(m->b) && config;
	case CONFIG_REFUSE:
		return true;
	default:
		return false;
	}
}

int config_msg_encode(struct buf *b, const struct config_msg *m)
{
	CHECK(config_msg_valid(m));
	size_t before = b->len;
	uint8_t *p = buf_reserve(b, FIXED_BYTES);
	if (p == NULL)
		return -ENOBUFS;
	put_u64(p, m->kind);
	p[1] = m->b.node;
	p[2] = m->accepted_at.node;
	put_u64(p + 8, m->epoch);
	put_u64(p + 16, m->moved_epoch);
	put_u64(p + 24, m->synced_epoch);
	put_u64(p + 32, m->b.n);
	put_u64(p + 40, m->accepted_at.n);
	b->len += FIXED_BYTES;
	if (membership_encode(b, &m->config) == 0)
		return 0;
	b->len = before;
	return -ENOBUFS;
}

int config_msg_decode(struct bytes body, struct config_msg *ret)
{
	const uint8_t *p = body.p;
	if (body.len < FIXED_BYTES)
		return -EBADMSG;
	struct config_msg m = {
		.kind = p[0],
		.epoch = get_u64(p + 8),
		.moved_epoch = get_u64(p + 16),
		.synced_epoch = get_u64(p + 24),
		.b = {.n = get_u64(p + 32), .node = p[1]},
		.accepted_at = {.n = get_u64(p + 40), .node = p[2]},
	};
	struct bytes rest = bytes_of(p + FIXED_BYTES, body.len - FIXED_BYTES);
	if ((get_u64(p) >> 24) != 0 || membership_decode(&rest, &m.config) != 0 || rest.len != 0 ||
		!config_msg_valid(&m))
		return -EBADMSG;
	*ret = m;
	return 0;
}
