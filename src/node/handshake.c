#include "node/handshake.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/check.h"
#include "node/config.h"

/* Refusals travel as sentences; the one that stops a node is known by its form. */
#define SEEN_FORMAT "node %u was active in this cluster before"
#define OLD_FORMAT  "the state file of node %u is an old copy"

static __attribute__((format(printf, 3, 4))) int refuse(
	char *why, size_t why_bytes, const char *format, ...)
{
	va_list args;
	va_start(args, format);
	(void)vsnprintf(why, why_bytes, format, args);
	va_end(args);
	return -EPROTO;
}

static bool is_master(const struct identity *self, uint8_t node)
{
	return membership_role(&self->config, node) == ROLE_MASTER;
}

void handshake_offer(
	const struct identity *self, uint16_t link_index, uint64_t mclk, struct hello *ret)
{
	*ret = (struct hello){
		.version = PROTOCOL_VERSION,
		.node = self->node,
		.status = self->status,
		.first_boot = self->first_boot,
		.link_index = link_index,
		.threads = self->threads,
		.inc = self->inc,
		.after_inc = self->after_inc,
		.mclk = mclk,
		.config = self->config,
	};
	memcpy(ret->peer_addr, self->peer_addr, sizeof ret->peer_addr);
	memcpy(ret->cluster, self->cluster, sizeof ret->cluster);
}

void handshake_answer(const struct identity *self, const struct hello *theirs, uint64_t read_mclk,
	uint64_t mclk, struct hello *ret)
{
	handshake_offer(self, theirs->link_index, mclk, ret);
	ret->echo_mclk = theirs->mclk;
	ret->held_ns = mclk - read_mclk;
}

void handshake_refusal(
	const struct identity *self, uint64_t mclk, const char *reason, struct hello *ret)
{
	handshake_offer(self, 0, mclk, ret);
	ret->refused = true;
	(void)snprintf(ret->reason, sizeof ret->reason, "%s", reason);
}

uint16_t handshake_links(const struct identity *self, const struct hello *theirs)
{
	return self->threads < theirs->threads ? self->threads : theirs->threads;
}

static void list_ids(const struct member *members, unsigned n, char *ret, size_t bytes)
{
	size_t at = 0;
	(void)snprintf(ret, bytes, "%s", n == 0 ? "none" : "");
	for (unsigned i = 0; i < n && at < bytes; i++) {
		int k = snprintf(ret + at, bytes - at, "%s%u", i == 0 ? "" : ",", members[i].id);
		at += k < 0 ? 0 : (size_t)k;
	}
}

static bool same_ids(const struct member *a, unsigned n_a, const struct member *b, unsigned n_b)
{
	bool same = n_a == n_b;
	for (unsigned i = 0; same && i < n_a; i++)
		same = a[i].id == b[i].id;
	return same;
}

/* No change of the configuration changes them, so they tell two clusters of one name apart. */
static int check_constants(
	const struct identity *self, const struct hello *h, char *why, size_t why_bytes)
{
	const struct membership *a = &self->config;
	const struct membership *b = &h->config;
	const struct {
		const char *name;
		uint32_t ours, theirs;
	} constants[] = {
		{"--slots", a->slots, b->slots},
		{"--max-lease", a->max_lease_ms, b->max_lease_ms},
		{"--attempt-time", a->attempt_ms, b->attempt_ms},
		{"--drift-ppm", a->drift_ppm, b->drift_ppm},
	};
	for (size_t i = 0; i < sizeof constants / sizeof constants[0]; i++)
		if (constants[i].ours != constants[i].theirs)
			return refuse(why, why_bytes, "node %u has %s %u, node %u has %u", h->node,
				constants[i].name, constants[i].theirs, self->node,
				constants[i].ours);
	return 0;
}

static int check_members(
	const struct identity *self, const struct hello *h, char *why, size_t why_bytes)
{
	const struct membership *a = &self->config;
	const struct membership *b = &h->config;
	if (a->epoch != b->epoch)
		return 0;
	bool masters = same_ids(a->masters, a->n_masters, b->masters, b->n_masters);
	if (masters && same_ids(a->replicas, a->n_replicas, b->replicas, b->n_replicas))
		return 0;
	char theirs[64];
	char ours[64];
	list_ids(masters ? b->replicas : b->masters, masters ? b->n_replicas : b->n_masters, theirs,
		sizeof theirs);
	list_ids(masters ? a->replicas : a->masters, masters ? a->n_replicas : a->n_masters, ours,
		sizeof ours);
	return refuse(why, why_bytes, "node %u has %s %s, node %u has %s", h->node,
		masters ? "replicas" : "masters", theirs, self->node, ours);
}

/* It may end up in a configuration. */
static bool printable(const char *addr)
{
	for (; *addr != '\0'; addr++)
		if (*addr <= ' ' || *addr > '~')
			return false;
	return true;
}

int handshake_check(const struct identity *self, const struct hello *h, uint8_t expected, char *why,
	size_t why_bytes)
{
	if (h->version != PROTOCOL_VERSION)
		return refuse(why, why_bytes, "node %u speaks peer protocol %u, node %u speaks %u",
			h->node, h->version, self->node, PROTOCOL_VERSION);
	if (strcmp(h->cluster, self->cluster) != 0)
		return refuse(why, why_bytes,
			"node %u belongs to cluster \"%s\", node %u to \"%s\"", h->node, h->cluster,
			self->node, self->cluster);
	if (h->node == self->node)
		return refuse(why, why_bytes, "there are two nodes with id %u", h->node);
	if (expected != 0 && h->node != expected)
		return refuse(why, why_bytes, "node %u answers where node %u is listed", h->node,
			expected);
	if (self->config.epoch != 0 && h->config.epoch != 0) {
		int r = check_constants(self, h, why, why_bytes);
		if (r == 0)
			r = check_members(self, h, why, why_bytes);
		if (r != 0)
			return r;
	}
	if (h->inc == 0)
		return refuse(why, why_bytes, "node %u has no incarnation", h->node);
	if (h->threads < 1 || h->threads > THREADS_MAX)
		return refuse(
			why, why_bytes, "node %u says it has %u threads", h->node, h->threads);
	if (h->link_index >= handshake_links(self, h))
		return refuse(why, why_bytes, "node %u opens link %u, there are %u", h->node,
			h->link_index, handshake_links(self, h));
	if (!printable(h->peer_addr))
		return refuse(
			why, why_bytes, "node %u says an address that nobody can dial", h->node);
	uint64_t seen = self->seen_inc[h->node];
	if (h->first_boot && seen != 0 && seen != h->inc)
		return refuse(why, why_bytes,
			SEEN_FORMAT
			": start it without --new-cluster (then it asks the others what it "
			"has forgotten), or give it a new id",
			h->node);
	if (h->after_inc != 0 && seen > h->after_inc && seen != h->inc)
		return refuse(why, why_bytes,
			OLD_FORMAT ": it has run again since the stop that the file tells of",
			h->node);
	/* Two processes of one id would be counted as one master and grant twice. Who was first
	 * stays; a successor gets in when the links of the one it follows have ended, after 5 s of
	 * silence if nothing else tells. */
	if (self->live[h->node].links != 0 && self->live[h->node].inc != h->inc)
		return refuse(why, why_bytes,
			"another node %u is linked: are there two with this id? If it was "
			"restarted, its links end soon",
			h->node);
	return 0;
}

bool handshake_newer(const struct identity *self, const struct hello *theirs)
{
	return theirs->config.epoch > self->config.epoch;
}

bool handshake_asks(const struct hello *theirs)
{
	return theirs->config.epoch == 0;
}

void handshake_address(
	const struct hello *theirs, const char *seen, char ret[MEMBER_ADDR_MAX_BYTES + 1])
{
	const char *port = strrchr(theirs->peer_addr, ':');
	const char *host_end = strrchr(seen, ':');
	memcpy(ret, theirs->peer_addr, sizeof theirs->peer_addr);
	if (port == NULL || host_end == NULL || !config_wildcard(theirs->peer_addr))
		return;
	int n = snprintf(
		ret, sizeof theirs->peer_addr, "%.*s%s", (int)(host_end - seen), seen, port);
	if (n < 0 || (size_t)n >= sizeof theirs->peer_addr)
		ret[0] = '\0';
}

bool handshake_moved(const struct identity *self, const struct hello *theirs, const char *addr)
{
	const struct member *m = membership_find(&self->config, theirs->node);
	return m != NULL && addr[0] != '\0' && strcmp(m->addr, addr) != 0;
}

uint8_t handshake_misnamed(const struct identity *self, const struct hello *theirs)
{
	const struct membership *m = &self->config;
	for (unsigned i = 0; i < m->n_masters; i++) {
		const struct member *found = membership_find(&theirs->config, m->masters[i].id);
		if (found != NULL && strcmp(found->addr, m->masters[i].addr) != 0)
			return found->id;
	}
	return 0;
}

void handshake_note(struct identity *self, const struct hello *h, uint16_t link_index)
{
	CHECK(link_index < THREADS_MAX);
	if (self->live[h->node].inc != h->inc)
		self->live[h->node].links = 0;
	self->live[h->node].inc = h->inc;
	self->live[h->node].links |= UINT64_C(1) << link_index;
	/* Not only NODE_ACTIVE: a node in quarantine begins to vote without another hello. */
	if (is_master(self, h->node) && h->status != NODE_NONMEMBER && h->status != NODE_REPLICA)
		self->seen_inc[h->node] = h->inc;
}

void handshake_forget(struct identity *self, uint8_t node, uint16_t link_index, uint64_t inc)
{
	if (link_index < THREADS_MAX && self->live[node].inc == inc)
		self->live[node].links &= ~(UINT64_C(1) << link_index);
}

/* Another master of our cluster refuses with a sentence that begins like this. */
static bool refused_as(const struct identity *self, const struct hello *h, const char *form)
{
	return h->refused && h->node != self->node && is_master(self, h->node) &&
	       strcmp(h->cluster, self->cluster) == 0 &&
	       strncmp(h->reason, form, strlen(form)) == 0;
}

bool handshake_fatal(const struct identity *self, const struct hello *h)
{
	char form[sizeof SEEN_FORMAT + 8];
	(void)snprintf(form, sizeof form, SEEN_FORMAT, self->node);
	return self->first_boot && refused_as(self, h, form);
}

bool handshake_outdated(const struct identity *self, const struct hello *h)
{
	char form[sizeof OLD_FORMAT + 8];
	(void)snprintf(form, sizeof form, OLD_FORMAT, self->node);
	return self->after_inc != 0 && refused_as(self, h, form);
}
