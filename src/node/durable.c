/* What has to be on disk before anybody acts by it: the ballot ceiling and the register of the
 * configuration, in one file. */
#include "node/internal.h"

#include <string.h>

#include "base/log.h"
#include "core/engine.h"

/* False: not now, retry_at says when again. */
static bool write_state(struct node *n, const struct state *s, uint64_t now_mclk)
{
	if (now_mclk < n->retry_at)
		return false;
	int r = state_file_write(&n->file, s);
	if (r != 0) {
		n->retry_at = now_mclk + RETRY_MS * MS;
		if (n->failure_said_at == 0 || now_mclk - n->failure_said_at >= REPORT_MS * MS) {
			n->failure_said_at = now_mclk;
			log_error("cannot write %s: %s; trying every second, new locks and "
				  "changes of the cluster wait for it",
				n->file.path, strerror(-r));
		}
		return false;
	}
	if (n->failure_said_at != 0)
		log_info("%s is written again", n->file.path);
	n->failure_said_at = 0;
	n->state = *s;
	return true;
}

bool durable_ceiling(struct node *n, uint64_t ceiling_n, uint64_t now_mclk)
{
	if (n->has_file && ceiling_n > n->durable_n) {
		struct state s = n->state;
		s.ceiling_n = ceiling_n;
		if (!write_state(n, &s, now_mclk))
			return false;
		n->durable_n = ceiling_n;
	}
	control_tell_all(n, MAIL_CEILING, &n->durable_n, sizeof n->durable_n);
	return true;
}

bool durable_register(struct node *n, const struct members_register *reg, uint64_t now_mclk)
{
	if (!n->has_file)
		return true;
	struct state s = n->state;
	s.reg = *reg;
	return write_state(n, &s, now_mclk);
}

void durable_serve(struct node *n, uint64_t now_mclk)
{
	/* Ahead of the wall clock also while nothing is locked: the first lock after an idle hour
	 * is not to wait for a disk. */
	bool voting = n->has_file && n->self.status == NODE_ACTIVE;
	if (voting && n->asked_n == 0 && n->durable_n < node_wall_n() + CEILING_STEP_N / 2)
		n->asked_n = node_wall_n();
	if (n->asked_n == 0)
		return;
	uint64_t want = ceiling_above(node_wall_n());
	if (want < n->asked_n)
		want = n->asked_n;
	if (durable_ceiling(n, want < BALLOT_MAX ? want : BALLOT_MAX, now_mclk))
		n->asked_n = 0;
}

/* A node that holds nothing may say so, and vote at once the next time: all that it has to remember
 * is one number (protocol.md 2.8). One that is not in sync with a change of the masters yet may
 * hold something without knowing. */
void durable_good_order(struct node *n)
{
	bool nothing = n->has_file && n->exit_status == 0 && n->role == ROLE_MASTER &&
		       n->self.status == NODE_ACTIVE &&
		       voting_synced_epoch(n) == n->self.config.masters_epoch &&
		       !configuration_pending(n);
	uint64_t top_n = 0;
	for (unsigned i = 0; i < n->cfg.threads; i++) {
		nothing = nothing && n->threads[i].held_nothing;
		top_n = n->threads[i].top_n > top_n ? n->threads[i].top_n : top_n;
	}
	if (!nothing || top_n == 0 || top_n > n->state.ceiling_n)
		return;
	struct state s = n->state;
	s.clean = true;
	s.ceiling_n = top_n;
	int r = state_file_write(&n->file, &s);
	if (r != 0)
		log_warn("cannot note in %s that nothing is held: %s; the next start waits a while",
			n->file.path, strerror(-r));
	else
		log_info("nothing is held: the next start votes at once");
}
