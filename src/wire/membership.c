#include "wire/membership.h"

#include <errno.h>
#include <string.h>

#include "base/buf.h"
#include "base/check.h"

/* A configuration, little-endian:
 *   0 epoch u64; 0: none, and that is all
 *   8 masters_epoch u64  16 joined u8       17 departed u8    18 masters u8      19 replicas u8
 *  20 slots u16          22 zero u16        24 max_lease_ms u32                  28 attempt_ms u32
 *  32 drift_ppm u32
 * then the masters and the replicas, each id u8, address length u8, since u64, address. */
enum {
	NONE_BYTES = 8,
	FIXED_BYTES = 36,
	MEMBER_HEAD_BYTES = 10,
};

_Static_assert(
	FIXED_BYTES + (MASTERS_MAX + REPLICAS_MAX) * (MEMBER_HEAD_BYTES + MEMBER_ADDR_MAX_BYTES) <=
		MEMBERSHIP_MAX_BYTES,
	"the largest configuration fits");
_Static_assert(MEMBER_ADDR_MAX_BYTES <= UINT8_MAX, "the length of an address is a u8");

/* ---- who is in it ---- */

static const struct member *list_find(const struct member *list, unsigned n, uint8_t node)
{
	for (unsigned i = 0; i < n; i++)
		if (list[i].id == node)
			return &list[i];
	return NULL;
}

enum role membership_role(const struct membership *m, uint8_t node)
{
	if (list_find(m->masters, m->n_masters, node) != NULL)
		return ROLE_MASTER;
	return list_find(m->replicas, m->n_replicas, node) != NULL ? ROLE_REPLICA : ROLE_NONE;
}

uint64_t membership_since(const struct membership *m, uint8_t node)
{
	const struct member *found = list_find(m->masters, m->n_masters, node);
	return found == NULL ? 0 : found->since;
}

const struct member *membership_find(const struct membership *m, uint8_t node)
{
	const struct member *found = list_find(m->masters, m->n_masters, node);
	return found != NULL ? found : list_find(m->replicas, m->n_replicas, node);
}

static bool list_same(const struct member *a, const struct member *b, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		if (a[i].id != b[i].id || a[i].since != b[i].since)
			return false;
	return true;
}

bool membership_same(const struct membership *a, const struct membership *b)
{
	return a->slots == b->slots && a->max_lease_ms == b->max_lease_ms &&
	       a->attempt_ms == b->attempt_ms && a->drift_ppm == b->drift_ppm &&
	       a->n_masters == b->n_masters && a->n_replicas == b->n_replicas &&
	       list_same(a->masters, b->masters, a->n_masters) &&
	       list_same(a->replicas, b->replicas, a->n_replicas);
}

bool member_addr_valid(struct bytes addr)
{
	if (addr.len == 0 || addr.len > MEMBER_ADDR_MAX_BYTES)
		return false;
	for (uint32_t i = 0; i < addr.len; i++)
		if (addr.p[i] <= ' ' || addr.p[i] > '~')
			return false;
	return true;
}

/* ---- changes ---- */

static void list_insert(struct member *list, uint8_t *n, const struct member *member)
{
	unsigned at = *n;
	for (; at > 0 && list[at - 1].id > member->id; at--)
		list[at] = list[at - 1];
	list[at] = *member;
	++*n;
}

static void list_remove(struct member *list, uint8_t *n, uint8_t node)
{
	unsigned kept = 0;
	for (unsigned i = 0; i < *n; i++)
		if (list[i].id != node)
			list[kept++] = list[i];
	CHECK(kept + 1U == *n);
	*n = (uint8_t)kept;
	list[kept] = (struct member){0};
}

static void next_masters(struct membership *m, uint8_t joined, uint8_t departed)
{
	m->masters_epoch = m->epoch;
	m->joined = joined;
	m->departed = departed;
}

int membership_add(struct membership *m, enum role role, uint8_t node, const char *addr)
{
	enum role before = membership_role(m, node);
	size_t addr_bytes = strnlen(addr, MEMBER_ADDR_MAX_BYTES + 1);
	CHECK(role != ROLE_NONE && role != before && node != 0);
	CHECK(member_addr_valid(bytes_of(addr, addr_bytes)));
	if (role == ROLE_MASTER ? m->n_masters == MASTERS_MAX : m->n_replicas == REPLICAS_MAX)
		return -ENOSPC;
	if (before == ROLE_MASTER && m->n_masters == 1)
		return -EINVAL;
	/* A copy first: @addr may be that of the entry that is taken out. */
	struct member member = {.id = node};
	memcpy(member.addr, addr, addr_bytes);
	m->epoch++;
	if (role == ROLE_MASTER) {
		if (before == ROLE_REPLICA)
			list_remove(m->replicas, &m->n_replicas, node);
		member.since = m->epoch;
		list_insert(m->masters, &m->n_masters, &member);
		next_masters(m, node, 0);
		return 0;
	}
	if (before == ROLE_MASTER) {
		list_remove(m->masters, &m->n_masters, node);
		next_masters(m, 0, node);
	}
	list_insert(m->replicas, &m->n_replicas, &member);
	return 0;
}

int membership_remove(struct membership *m, uint8_t node)
{
	enum role role = membership_role(m, node);
	CHECK(role != ROLE_NONE);
	if (role == ROLE_MASTER && m->n_masters == 1)
		return -EINVAL;
	m->epoch++;
	if (role == ROLE_MASTER) {
		list_remove(m->masters, &m->n_masters, node);
		next_masters(m, 0, node);
	} else {
		list_remove(m->replicas, &m->n_replicas, node);
	}
	return 0;
}

/* ---- bytes ---- */

static bool list_valid(const struct member *list, unsigned n, uint64_t since_max)
{
	unsigned last = 0;
	for (unsigned i = 0; i < n; i++) {
		size_t addr_bytes = strnlen(list[i].addr, sizeof list[i].addr);
		if (list[i].id <= last || list[i].since > since_max ||
			!member_addr_valid(bytes_of(list[i].addr, addr_bytes)))
			return false;
		last = list[i].id;
	}
	return true;
}

/* The first masters were changed by nobody; every later set by one node, which leaves a set before
 * it that was possible, too. */
static bool last_change_valid(const struct membership *m)
{
	if (m->masters_epoch == 0 || m->masters_epoch > m->epoch)
		return false;
	if (m->masters_epoch == 1)
		return m->joined == 0 && m->departed == 0;
	if (m->joined != 0)
		return m->departed == 0 && m->n_masters > 1 &&
		       membership_role(m, m->joined) == ROLE_MASTER;
	return m->departed != 0 && m->n_masters < MASTERS_MAX &&
	       membership_role(m, m->departed) != ROLE_MASTER;
}

/* One rule for both ends. */
static bool membership_valid(const struct membership *m)
{
	if (m->epoch == 0 || m->n_masters == 0 || m->n_masters > MASTERS_MAX ||
		m->n_replicas > REPLICAS_MAX)
		return false;
	if (m->slots == 0 || m->slots > SLOTS_MAX || m->max_lease_ms == 0 ||
		m->max_lease_ms > LEASE_MAX_MS || m->attempt_ms == 0 ||
		m->attempt_ms > ATTEMPT_MAX_MS || m->drift_ppm > DRIFT_MAX_PPM)
		return false;
	if (!list_valid(m->masters, m->n_masters, m->masters_epoch) ||
		!list_valid(m->replicas, m->n_replicas, 0))
		return false;
	for (unsigned i = 0; i < m->n_replicas; i++)
		if (membership_role(m, m->replicas[i].id) == ROLE_MASTER)
			return false;
	return last_change_valid(m);
}

static size_t list_bytes(const struct member *list, unsigned n)
{
	size_t bytes = 0;
	for (unsigned i = 0; i < n; i++)
		bytes += MEMBER_HEAD_BYTES + strlen(list[i].addr);
	return bytes;
}

static uint8_t *put_list(uint8_t *p, const struct member *list, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		size_t addr_bytes = strlen(list[i].addr);
		p[0] = list[i].id;
		p[1] = (uint8_t)addr_bytes;
		put_u64(p + 2, list[i].since);
		memcpy(p + MEMBER_HEAD_BYTES, list[i].addr, addr_bytes);
		p += MEMBER_HEAD_BYTES + addr_bytes;
	}
	return p;
}

int membership_encode(struct buf *b, const struct membership *m)
{
	CHECK(m->epoch == 0 || membership_valid(m));
	size_t bytes = NONE_BYTES;
	if (m->epoch != 0)
		bytes = FIXED_BYTES + list_bytes(m->masters, m->n_masters) +
			list_bytes(m->replicas, m->n_replicas);
	uint8_t *p = buf_reserve(b, bytes);
	if (p == NULL)
		return -ENOBUFS;
	b->len += bytes;
	put_u64(p, m->epoch);
	if (m->epoch == 0)
		return 0;
	put_u64(p + 8, m->masters_epoch);
	p[16] = m->joined;
	p[17] = m->departed;
	p[18] = m->n_masters;
	p[19] = m->n_replicas;
	put_u16(p + 20, m->slots);
	put_u16(p + 22, 0);
	put_u32(p + 24, m->max_lease_ms);
	put_u32(p + 28, m->attempt_ms);
	put_u32(p + 32, m->drift_ppm);
	p = put_list(p + FIXED_BYTES, m->masters, m->n_masters);
	(void)put_list(p, m->replicas, m->n_replicas);
	return 0;
}

static void take_off(struct bytes *rest, size_t n)
{
	*rest = bytes_of(rest->p + n, rest->len - n);
}

/* 0 or -EBADMSG. */
static int take_list(struct bytes *rest, struct member *list, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		if (rest->len < MEMBER_HEAD_BYTES)
			return -EBADMSG;
		size_t addr_bytes = rest->p[1];
		list[i].id = rest->p[0];
		list[i].since = get_u64(rest->p + 2);
		take_off(rest, MEMBER_HEAD_BYTES);
		if (addr_bytes > MEMBER_ADDR_MAX_BYTES || addr_bytes > rest->len)
			return -EBADMSG;
		memcpy(list[i].addr, rest->p, addr_bytes);
		/* A NUL within would hide what follows it. */
		if (strlen(list[i].addr) != addr_bytes)
			return -EBADMSG;
		take_off(rest, addr_bytes);
	}
	return 0;
}

int membership_decode(struct bytes *rest, struct membership *ret)
{
	const uint8_t *p = rest->p;
	if (rest->len < NONE_BYTES)
		return -EBADMSG;
	struct membership m = {.epoch = get_u64(p)};
	struct bytes left = *rest;
	if (m.epoch == 0) {
		take_off(rest, NONE_BYTES);
		*ret = m;
		return 0;
	}
	if (rest->len < FIXED_BYTES)
		return -EBADMSG;
	m.masters_epoch = get_u64(p + 8);
	m.joined = p[16];
	m.departed = p[17];
	m.n_masters = p[18];
	m.n_replicas = p[19];
	m.slots = get_u16(p + 20);
	m.max_lease_ms = get_u32(p + 24);
	m.attempt_ms = get_u32(p + 28);
	m.drift_ppm = get_u32(p + 32);
	take_off(&left, FIXED_BYTES);
	if (m.epoch > EPOCH_MAX || get_u16(p + 22) != 0 || m.n_masters > MASTERS_MAX ||
		m.n_replicas > REPLICAS_MAX)
		return -EBADMSG;
	if (take_list(&left, m.masters, m.n_masters) != 0 ||
		take_list(&left, m.replicas, m.n_replicas) != 0 || !membership_valid(&m))
		return -EBADMSG;
	*rest = left;
	*ret = m;
	return 0;
}
