#include "node/handshake.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/check.h"

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
	return memchr(self->masters, node, self->n_masters) != NULL;
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
		.slots = self->slots,
		.inc = self->inc,
		.after_inc = self->after_inc,
		.epoch = self->epoch,
		.mclk = mclk,
		.max_lease_ms = self->max_lease_ms,
		.attempt_ms = self->attempt_ms,
		.drift_ppm = self->drift_ppm,
		.n_masters = self->n_masters,
	};
	memcpy(ret->masters, self->masters, self->n_masters);
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

static void list_ids(const uint8_t *ids, unsigned n, char *ret, size_t bytes)
{
	size_t at = 0;
	ret[0] = '\0';
	for (unsigned i = 0; i < n && at < bytes; i++) {
		int k = snprintf(ret + at, bytes - at, "%s%u", i == 0 ? "" : ",", ids[i]);
		at += k < 0 ? 0 : (size_t)k;
	}
}

static int check_constants(
	const struct identity *self, const struct hello *h, char *why, size_t why_bytes)
{
	const struct {
		const char *name;
		uint64_t ours, theirs;
	} constants[] = {
		{"--slots", self->slots, h->slots},
		{"--max-lease", self->max_lease_ms, h->max_lease_ms},
		{"--attempt-time", self->attempt_ms, h->attempt_ms},
		{"--drift-ppm", self->drift_ppm, h->drift_ppm},
		{"epoch", self->epoch, h->epoch},
	};
	for (size_t i = 0; i < sizeof constants / sizeof constants[0]; i++)
		if (constants[i].ours != constants[i].theirs)
			return refuse(why, why_bytes, "node %u has %s %llu, node %u has %llu",
				h->node, constants[i].name, (unsigned long long)constants[i].theirs,
				self->node, (unsigned long long)constants[i].ours);
	if (self->n_masters != h->n_masters ||
		memcmp(self->masters, h->masters, self->n_masters) != 0) {
		char theirs[64];
		char ours[64];
		list_ids(h->masters, h->n_masters, theirs, sizeof theirs);
		list_ids(self->masters, self->n_masters, ours, sizeof ours);
		return refuse(why, why_bytes, "node %u has masters %s, node %u has %s", h->node,
			theirs, self->node, ours);
	}
	return 0;
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
		return refuse(why, why_bytes, "node %u answers where --masters has node %u",
			h->node, expected);
	int r = check_constants(self, h, why, why_bytes);
	if (r != 0)
		return r;
	if (h->inc == 0)
		return refuse(why, why_bytes, "node %u has no incarnation", h->node);
	if (h->threads < 1 || h->threads > THREADS_MAX)
		return refuse(
			why, why_bytes, "node %u says it has %u threads", h->node, h->threads);
	if (h->link_index >= handshake_links(self, h))
		return refuse(why, why_bytes, "node %u opens link %u, there are %u", h->node,
			h->link_index, handshake_links(self, h));
	uint64_t seen = self->seen_inc[h->node];
	if (h->first_boot && seen != 0 && seen != h->inc)
		return refuse(why, why_bytes,
			SEEN_FORMAT
			": start it without --new-cluster (then it asks the others what it "
			"has forgotten), or give it a new id",
			h->node);
	if (h->after_inc != 0 && seen != 0 && seen != h->inc && seen != h->after_inc)
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

void handshake_note(struct identity *self, const struct hello *h, uint16_t link_index)
{
	CHECK(link_index < THREADS_MAX);
	if (self->live[h->node].inc != h->inc)
		self->live[h->node].links = 0;
	self->live[h->node].inc = h->inc;
	self->live[h->node].links |= UINT64_C(1) << link_index;
	/* Not only NODE_ACTIVE: a node in quarantine begins to vote without another hello. */
	if (is_master(self, h->node) && h->status != NODE_NONMEMBER)
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
