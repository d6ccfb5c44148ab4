/* What was asked and answered, for the judge who comes after the run, and as text for any other. */
#include "sim.h"

#include <inttypes.h>

enum { NO_RECORD = HISTORY_MAX };

void history_begin(struct world *w, struct call *call)
{
	struct history *h = &w->history;
	call->record = NO_RECORD;
	if (h->records == HISTORY_MAX)
		h->closed = true; /* a beginning is a history too; what ends later ends unknown */
	if (h->closed)
		return;
	call->record = h->records++;
	h->record[call->record] = (struct record){.key = call->key,
		.kind = call->kind,
		.outcome = OUT_UNKNOWN,
		.client = (uint8_t)call->client,
		.has_token = call->has_token,
		.any_value = call->any_value,
		.optional = true,
		.value = call->value,
		.new_value = call->kind == OP_LOCK ? call->idempotent : call->new_value,
		.asked_token = call->token,
		.begin = w->now,
		.end = UINT64_MAX};
}

static struct record *record_of(struct world *w, const struct call *call)
{
	if (w->history.closed || call->record == NO_RECORD)
		return NULL;
	return &w->history.record[call->record];
}

void history_end(struct world *w, const struct call *call, const struct result *r)
{
	struct record *rec = record_of(w, call);
	if (rec == NULL)
		return;
	/* A RELEASE that was doubled may hear from the second copy only that nothing was there. */
	bool unknown =
		r->outcome == OUT_UNKNOWN ||
		(call->kind == OP_RELEASE && r->outcome != OUT_OK && r->outcome != OUT_NOTOWNER);
	rec->done = true;
	rec->optional = unknown;
	rec->outcome = (uint8_t)r->outcome;
	rec->end = w->now;
	rec->token = r->token;
	if (call->kind == OP_READ_QUORUM && r->outcome == OUT_OK && r->value.len == 4)
		rec->value = get_u32(r->value.p);
	/* The fastest clock that a client may have. */
	uint64_t rate = (uint64_t)(1000000 + w->swarm.drift_ppm);
	rec->until = call->sent + r->valid_ms * MS / rate * 1000000;
}

void history_lost(struct world *w, const struct call *call)
{
	struct record *rec = record_of(w, call);
	if (rec == NULL)
		return;
	rec->done = true;
	rec->end = w->now;
}

void history_never(struct world *w, const struct call *call)
{
	struct record *rec = record_of(w, call);
	if (rec == NULL)
		return;
	rec->done = true;
	rec->optional = false;
	rec->outcome = OUT_NOTREADY;
	rec->end = w->now;
}

void history_attempt(struct world *w, unsigned k, struct ballot uid, uint32_t value)
{
	struct history *h = &w->history;
	if (h->closed || h->attempts == HISTORY_MAX) {
		h->closed = true;
		return;
	}
	h->attempt[h->attempts++] = (struct attempt){
		.n = uid.n, .cid = uid.cid, .sent = w->now, .value = value, .key = (uint8_t)k};
}

/* One line each: what key client asked-value new-value asked-token | outcome token value until |
 * begin end. Times in ns; end and outcome "-": nobody knows. */
void history_write(const struct world *w, FILE *f)
{
	static const char *const kinds[] = {"lock", "update", "extend", "release", "read-local",
		"read", "waitfor", "waitrelease", "lag"};
	static const char *const outcomes[] = {"ok", "held", "null", "notlocked", "notowner",
		"notfound", "noquorum", "unknown", "busy", "notready", "limit"};
	(void)fprintf(f, "seed %" PRIu64 "\n", w->seed);
	for (uint32_t i = 0; i < w->history.records; i++) {
		const struct record *r = &w->history.record[i];
		(void)fprintf(f,
			"%s key %u client %u value %u new %u token %" PRIu64 " begin %" PRIu64,
			kinds[r->kind], r->key, r->client, r->value, r->new_value,
			r->has_token ? r->asked_token : 0, r->begin);
		if (r->optional || !r->done)
			(void)fprintf(f, " unknown\n");
		else
			(void)fprintf(f,
				" %s token %" PRIu64 " until %" PRIu64 " end %" PRIu64 "\n",
				outcomes[r->outcome], r->token, r->until, r->end);
	}
	for (uint32_t i = 0; i < w->history.attempts; i++) {
		const struct attempt *a = &w->history.attempt[i];
		(void)fprintf(f, "attempt key %u value %u token %" PRIu64 " begin %" PRIu64 "\n",
			a->key, a->value, a->n, a->sent);
	}
}
