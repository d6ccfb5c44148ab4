#include "shard/client.h"

#include "base/check.h"
#include "shard/scripts.h"

/* Results of hot commands are written without formatting: a reply is some constant words and a few
 * numbers. reply_open() has made room for reply_bound_bytes(). */
struct pen {
	uint8_t *p;
};

#define LIT(pen, text) pen_bytes(pen, text, sizeof(text) - 1)

static void pen_bytes(struct pen *pen, const void *p, size_t n)
{
	if (n > 0)
		memcpy(pen->p, p, n);
	pen->p += n;
}

static void pen_number(struct pen *pen, uint64_t v)
{
	uint8_t digits[20];
	unsigned n = 0;
	do {
		digits[sizeof digits - ++n] = (uint8_t)('0' + v % 10);
		v /= 10;
	} while (v != 0);
	pen_bytes(pen, digits + sizeof digits - n, n);
}

static void pen_int(struct pen *pen, uint64_t v)
{
	LIT(pen, ":");
	pen_number(pen, v);
	LIT(pen, "\r\n");
}

static void pen_bulk(struct pen *pen, struct bytes v)
{
	LIT(pen, "$");
	pen_number(pen, v.len);
	LIT(pen, "\r\n");
	pen_bytes(pen, v.p, v.len);
	LIT(pen, "\r\n");
}

static void pen_map(struct pen *pen, bool resp3, unsigned pairs)
{
	if (resp3) {
		LIT(pen, "%");
		pen_number(pen, pairs);
	} else {
		LIT(pen, "*");
		pen_number(pen, UINT64_C(2) * pairs);
	}
	LIT(pen, "\r\n");
}

static struct pen pen_at_end(struct buf *b, size_t bound_bytes)
{
	CHECK(b->cap - b->len >= bound_bytes);
	return (struct pen){.p = b->data + b->len};
}

static void pen_done(struct buf *b, const struct pen *pen)
{
	b->len = (size_t)(pen->p - b->data);
}

size_t reply_bound_bytes(const struct result *r)
{
	return ERROR_MAX_BYTES + r->value.len + r->client.len;
}

static void write_grant(struct buf *b, bool resp3, bool valid, const struct result *r)
{
	struct pen pen = pen_at_end(b, ERROR_MAX_BYTES);
	pen_map(&pen, resp3, valid ? 5 : 4);
	LIT(&pen, "$5\r\ntoken\r\n");
	pen_int(&pen, r->token);
	if (valid) {
		LIT(&pen, "$8\r\nvalid-ms\r\n");
		pen_int(&pen, r->valid_ms);
	}
	LIT(&pen, "$6\r\nquorum\r\n");
	pen_int(&pen, r->quorum);
	LIT(&pen, "$5\r\nvotes\r\n");
	pen_int(&pen, r->votes);
	LIT(&pen, "$7\r\ncommits\r\n");
	pen_int(&pen, r->commits);
	pen_done(b, &pen);
}

/* What is left of a live lease is never told as 0. */
static uint64_t up_to(uint64_t ns, uint64_t unit_ns)
{
	return ns / unit_ns + (ns % unit_ns != 0);
}

static void write_holder(struct buf *b, bool resp3, const struct result *r)
{
	struct pen pen = pen_at_end(b, reply_bound_bytes(r));
	pen_map(&pen, resp3, 6);
	LIT(&pen, "$5\r\nvalue\r\n");
	pen_bulk(&pen, r->value);
	LIT(&pen, "$5\r\ntoken\r\n");
	pen_int(&pen, r->token);
	LIT(&pen, "$12\r\nremaining-ms\r\n");
	pen_int(&pen, up_to(r->remaining_ns, 1000000));
	LIT(&pen, "$7\r\nheld-ms\r\n");
	pen_int(&pen, r->held_ns / 1000000);
	LIT(&pen, "$4\r\nnode\r\n");
	pen_int(&pen, r->node);
	LIT(&pen, "$6\r\nclient\r\n");
	pen_bulk(&pen, r->client);
	pen_done(b, &pen);
}

static void write_lag(struct buf *b, bool resp3, const struct result *r)
{
	resp_map(b, resp3, 4);
	resp_bulk_str(b, "ms");
	resp_double(b, resp3, (double)r->elapsed_ns / 1e6);
	resp_bulk_str(b, "quorum");
	resp_int(b, r->quorum);
	resp_bulk_str(b, "votes");
	resp_int(b, r->votes);
	resp_bulk_str(b, "commits");
	resp_int(b, r->commits);
}

static void write_bytes(struct buf *b, const char *text, size_t n)
{
	struct pen pen = pen_at_end(b, ERROR_MAX_BYTES);
	pen_bytes(&pen, text, n);
	pen_done(b, &pen);
}

static void write_null(struct buf *b, bool resp3)
{
	if (resp3)
		write_bytes(b, "_\r\n", 3);
	else
		write_bytes(b, "$-1\r\n", 5);
}

static void write_value(struct buf *b, const struct result *r)
{
	struct pen pen = pen_at_end(b, reply_bound_bytes(r));
	pen_bulk(&pen, r->value);
	pen_done(b, &pen);
}

static void write_int(struct buf *b, uint64_t v)
{
	struct pen pen = pen_at_end(b, ERROR_MAX_BYTES);
	pen_int(&pen, v);
	pen_done(b, &pen);
}

static void write_value_pttl(struct buf *b, const struct result *r)
{
	struct pen pen = pen_at_end(b, reply_bound_bytes(r));
	LIT(&pen, "*2\r\n");
	pen_bulk(&pen, r->value);
	pen_int(&pen, up_to(r->remaining_ns, 1000000));
	pen_done(b, &pen);
}

static void reply_good(
	struct buf *b, bool resp3, enum reply_kind kind, uint64_t token, const struct result *r)
{
	switch (kind) {
	case REPLY_LOCK:
	case REPLY_GRANT:
		write_grant(b, resp3, true, r);
		break;
	case REPLY_RELEASE:
	case REPLY_BREAK:
		write_grant(b, resp3, false, r);
		break;
	case REPLY_SET:
	case REPLY_SET_IFEQ:
		write_bytes(b, "+OK\r\n", 5);
		break;
	case REPLY_DELETED:
	case REPLY_EXISTS:
		write_int(b, 1);
		break;
	case REPLY_VALUE:
		write_value(b, r);
		break;
	case REPLY_HOLDER:
		write_holder(b, resp3, r);
		break;
	case REPLY_CHECK:
		write_int(b, r->token == token);
		break;
	case REPLY_WAITRELEASE:
		write_bytes(b, "+RELEASED\r\n", 11);
		break;
	case REPLY_LAG:
		write_lag(b, resp3, r);
		break;
	case REPLY_TTL:
		write_int(b, up_to(r->remaining_ns, 1000000000));
		break;
	case REPLY_PTTL:
		write_int(b, up_to(r->remaining_ns, 1000000));
		break;
	case REPLY_VALUE_PTTL:
		write_value_pttl(b, r);
		break;
	case REPLY_SCRIPT:
		CHECK(!"reply_script() does that");
	}
}

/* Null, 0 or -2: the answers that are neither success nor error. */
static bool reply_negative(struct buf *b, bool resp3, enum reply_kind kind, enum outcome outcome)
{
	bool absent = outcome == OUT_NULL;
	bool not_yours = outcome == OUT_NOTOWNER || outcome == OUT_NOTFOUND;
	switch (kind) {
	case REPLY_LOCK:
	case REPLY_SET:
		if (outcome != OUT_HELD)
			return false;
		write_null(b, resp3);
		return true;
	case REPLY_SET_IFEQ:
		if (!not_yours)
			return false;
		write_null(b, resp3);
		return true;
	case REPLY_DELETED:
		if (!not_yours)
			return false;
		write_int(b, 0);
		return true;
	case REPLY_VALUE:
	case REPLY_HOLDER:
		if (!absent)
			return false;
		write_null(b, resp3);
		return true;
	case REPLY_WAITRELEASE:
		if (outcome == OUT_NOTLOCKED)
			write_bytes(b, "+NOTLOCKED\r\n", 12);
		else if (absent)
			write_null(b, resp3);
		return absent || outcome == OUT_NOTLOCKED;
	case REPLY_CHECK:
	case REPLY_EXISTS:
		if (!absent)
			return false;
		write_int(b, 0);
		return true;
	case REPLY_TTL:
	case REPLY_PTTL:
		if (!absent)
			return false;
		write_bytes(b, ":-2\r\n", 5);
		return true;
	case REPLY_VALUE_PTTL:
		if (!absent)
			return false;
		write_bytes(b, "*2\r\n", 4);
		write_null(b, resp3);
		write_bytes(b, ":-2\r\n", 5);
		return true;
	default:
		return false;
	}
}

/* What is said of these to a holder would mislead him who breaks a lock. */
static bool reply_not_broken(struct buf *b, enum outcome outcome)
{
	if (outcome == OUT_NOTOWNER)
		resp_error(b, "NOTOWNER the key is held by another grant than the one with this "
			      "token; nothing changed");
	else if (outcome == OUT_NOTFOUND)
		resp_error(b, "NOTFOUND the key is not held; nothing changed");
	return outcome == OUT_NOTOWNER || outcome == OUT_NOTFOUND;
}

static void reply_script(struct buf *b, bool resp3, unsigned script, const struct result *r)
{
	const char *text;
	if (!script_reply(script, r->outcome, &text))
		reply_outcome(b, r);
	else if (text == NULL)
		write_null(b, resp3);
	else
		write_bytes(b, text, strlen(text));
}

void reply_result(
	struct buf *b, bool resp3, enum reply_kind kind, uint64_t token, const struct result *r)
{
	if (kind >= REPLY_SCRIPT)
		reply_script(b, resp3, kind - REPLY_SCRIPT, r);
	else if (r->outcome == OUT_OK)
		reply_good(b, resp3, kind, token, r);
	else if (!reply_negative(b, resp3, kind, r->outcome) &&
		 !(kind == REPLY_BREAK && reply_not_broken(b, r->outcome)))
		reply_outcome(b, r);
}

static void reply_noquorum(struct buf *b, const struct result *r)
{
	/* Who answered may have been promised to another, or may not vote yet. */
	const char *did = !r->sent                    ? "reachable"
			  : r->answered < r->quorum   ? "answered"
			  : r->kind == OP_READ_QUORUM ? "answered, and do not agree yet"
						      : "answered, too few of them in favour";
	const char *advice;
	switch (r->kind) {
	case OP_LOCK:
	case OP_LAG:
		advice = r->sent ? "you do not hold the lock, but the key may stay blocked for up "
				   "to "
				   "the ttl; retry after that"
				 : "you do not hold the lock; nothing was sent, retry later";
		break;
	case OP_READ_QUORUM:
		advice = "nothing is known about the key; retry later";
		break;
	default:
		advice =
			"nothing was sent and nothing changed; what you were promised before still "
			"stands, retry while it does";
		break;
	}
	resp_error(b, "NOQUORUM %u of %u masters %s, %u needed; %s", r->answered, r->masters, did,
		r->quorum, advice);
}

void reply_no_copy(struct buf *b)
{
	resp_error(b, "NOTREADY this node has no copy of the locks (starting, in quarantine, "
		      "resynchronising, still copying, or neither master nor replica); ask another "
		      "node, or ask with QUORUM");
}

void reply_outcome(struct buf *b, const struct result *r)
{
	switch (r->outcome) {
	case OUT_NOTOWNER:
		resp_error(b, "NOTOWNER the key is held, but not with this value or token; nothing "
			      "changed, stop using what it protects");
		break;
	case OUT_NOTFOUND:
		resp_error(b,
			"NOTFOUND the key is not held; nothing changed, take it again with LOCK");
		break;
	case OUT_NOQUORUM:
		reply_noquorum(b, r);
		break;
	case OUT_UNKNOWN:
		resp_error(b,
			"UNKNOWN %u of %u masters confirmed in time, %u needed; it may or may not "
			"have taken effect, repeat the same request to know",
			r->answered, r->masters, r->quorum);
		break;
	case OUT_BUSY:
		resp_error(b,
			"BUSY rival requests for the key held one another up; nothing changed, "
			"retry after a short random pause or use LOCK with WAIT");
		break;
	case OUT_NOTREADY:
		if (r->kind == OP_READ || r->kind == OP_WAITFOR || r->kind == OP_WAITRELEASE)
			reply_no_copy(b);
		else
			resp_error(b,
				"NOTREADY this node cannot serve this command yet; use another "
				"node or retry");
		break;
	case OUT_LIMIT:
		resp_error(b, "LIMIT too many %s; nothing changed, retry later or raise the limit",
			r->limit != NULL ? r->limit : "entries");
		break;
	default:
		resp_error(b, "ERR internal error: outcome %d of operation %d", (int)r->outcome,
			(int)r->kind);
		break;
	}
}

void reply_draining(struct buf *b)
{
	resp_error(b, "NOTREADY this node is shutting down; use another");
}
