/* The names of the rules that may be broken (base/mutant.h), for the command line. */
#include "sim.h"

#include <string.h>

static const char *const names[MUTANT_COUNT] = {
	[MUTANT_TRYLOCK_OVERWRITES] = "trylock-overwrites",
	[MUTANT_TRYLOCK_ANY_BALLOT] = "trylock-any-ballot",
	[MUTANT_RELEASE_UNSEALED] = "release-unsealed",
	[MUTANT_RELEASE_ANY] = "release-any",
	[MUTANT_RELEASE_UNGUARDED] = "release-unguarded",
	[MUTANT_RELEASE_SHADOWED] = "release-shadowed",
	[MUTANT_ABORT_CONFIRMED] = "abort-confirmed",
	[MUTANT_PREV_CONFIRMED] = "prev-confirmed",
	[MUTANT_EXTEND_INSTALLS] = "extend-installs",
	[MUTANT_EXTEND_ANY] = "extend-any",
	[MUTANT_EXTEND_UNCONFIRMING] = "extend-unconfirming",
	[MUTANT_ACCEPT_LOWER] = "accept-lower",
	[MUTANT_EXPIRY_EARLY] = "expiry-early",
	[MUTANT_EXPIRY_NEVER] = "expiry-never",
	[MUTANT_PROMISE_EXPIRES] = "promise-expires",
	[MUTANT_CEILING_IGNORED] = "ceiling-ignored",
	[MUTANT_MESSAGE_OLD] = "message-old",
	[MUTANT_TOMB_SHORT] = "tomb-short",
	[MUTANT_VOTE_TWICE] = "vote-twice",
	[MUTANT_LOCK_MINORITY] = "lock-minority",
	[MUTANT_LOCK_LATE] = "lock-late",
	[MUTANT_BELIEF_LATE] = "belief-late",
	[MUTANT_BELIEF_DRIFTLESS] = "belief-driftless",
	[MUTANT_EXTEND_MINORITY] = "extend-minority",
	[MUTANT_EXTEND_VERSIONS] = "extend-versions",
	[MUTANT_EXTEND_LATE] = "extend-late",
	[MUTANT_RELEASE_MINORITY] = "release-minority",
	[MUTANT_RELEASE_UNKNOWN_EARLY] = "release-unknown-early",
	[MUTANT_BREAK_ANY] = "break-any",
	[MUTANT_UPDATE_MINORITY] = "update-minority",
	[MUTANT_UPDATE_UNPREPARED] = "update-unprepared",
	[MUTANT_UPDATE_FIRST_REPLY] = "update-first-reply",
	[MUTANT_UPDATE_LATE] = "update-late",
	[MUTANT_UPDATE_SHORT] = "update-short",
	[MUTANT_UPDATE_STICKY] = "update-sticky",
	[MUTANT_READ_ANY_ABSENT] = "read-any-absent",
	[MUTANT_READ_MINORITY] = "read-minority",
	[MUTANT_WAKE_HELD_LOST] = "wake-held-lost",
	[MUTANT_WAKE_ENDED_LOST] = "wake-ended-lost",
	[MUTANT_WAKE_ENDED_SPURIOUS] = "wake-ended-spurious",
	[MUTANT_WAITER_STAYS] = "waiter-stays",
	[MUTANT_QUERY_ONE] = "query-one",
	[MUTANT_QUERY_UNSEALED] = "query-unsealed",
	[MUTANT_QUERY_SHADOW] = "query-shadow",
	[MUTANT_QUERY_RESYNC] = "query-resync",
	[MUTANT_QUERY_FORGETS] = "query-forgets",
	[MUTANT_QUERY_NEVER] = "query-never",
	[MUTANT_RESTART_VOTES] = "restart-votes",
	[MUTANT_RESTART_NO_WAIT] = "restart-no-wait",
	[MUTANT_QUARANTINE_NONE] = "quarantine-none",
	[MUTANT_QUARANTINE_SHORT] = "quarantine-short",
	[MUTANT_QUARANTINE_FLOORLESS] = "quarantine-floorless",
	[MUTANT_NEVER_SEEN] = "never-seen",
	[MUTANT_SYNC_ONE] = "sync-one",
	[MUTANT_SYNC_INACTIVE] = "sync-inactive",
	[MUTANT_SYNC_UNION] = "sync-union",
	[MUTANT_SYNC_SHADOWLESS] = "sync-shadowless",
	[MUTANT_SYNC_FLOORLESS] = "sync-floorless",
	[MUTANT_SYNC_UNCOVERED] = "sync-uncovered",
	[MUTANT_SYNC_PROMISELESS] = "sync-promiseless",
	[MUTANT_HEARSAY_COUNTS] = "hearsay-counts",
	[MUTANT_SYNC_VERSIONLESS] = "sync-versionless",
	[MUTANT_SYNC_SHORT] = "sync-short",
	[MUTANT_CLEAN_ALWAYS] = "clean-always",
	[MUTANT_CLEAN_FLOORLESS] = "clean-floorless",
	[MUTANT_CLEAN_OUTDATED] = "clean-outdated",
	[MUTANT_HEAL_NO_WAIT] = "heal-no-wait",
	[MUTANT_HEAL_ANSWERS] = "heal-answers",
	[MUTANT_HEAL_ONE] = "heal-one",
	[MUTANT_HEAL_RELEASED] = "heal-released",
	[MUTANT_HEAL_UNCOVERED] = "heal-uncovered",
	[MUTANT_HEAL_NEVER] = "heal-never",
	[MUTANT_QUORUM_FIXED] = "quorum-fixed",
	[MUTANT_EPOCH_IGNORED] = "epoch-ignored",
	[MUTANT_MERGE_NONE] = "merge-none",
	[MUTANT_MERGE_ONE] = "merge-one",
	[MUTANT_MERGE_KEEPS_LIVE] = "merge-keeps-live",
	[MUTANT_SYNC_UNMERGED] = "sync-unmerged",
	[MUTANT_PROBE_UNMERGED] = "probe-unmerged",
	[MUTANT_JOINER_VOTES] = "joiner-votes",
	[MUTANT_REMOVED_VOTES] = "removed-votes",
	[MUTANT_GATE_OFF] = "gate-off",
	[MUTANT_CONFIG_VOLATILE] = "config-volatile",
	[MUTANT_COPY_GAP_IGNORED] = "copy-gap-ignored",
	[MUTANT_COPY_OLD] = "copy-old",
	[MUTANT_COPY_LEASE_ANEW] = "copy-lease-anew",
	[MUTANT_CLOCK_WALL] = "clock-wall",
	[MUTANT_CLOCK_FAST] = "clock-fast",
	[MUTANT_CLOCK_SLOW] = "clock-slow",
};

#ifdef LOCKER_MUTANTS
bool mutant_broken[MUTANT_COUNT];
#endif

static bool break_one(const char *name, size_t len)
{
#ifdef LOCKER_MUTANTS
	for (unsigned i = 0; i < MUTANT_COUNT; i++) {
		CHECK(names[i] != NULL);
		if (strlen(names[i]) == len && memcmp(names[i], name, len) == 0) {
			mutant_broken[i] = true;
			return true;
		}
	}
#endif
	(void)name;
	(void)len;
	return false;
}

bool mutants_break(const char *joined)
{
	for (;;) {
		size_t len = strcspn(joined, "+");
		if (!break_one(joined, len))
			return false;
		if (joined[len] == '\0')
			return true;
		joined += len + 1;
	}
}

void mutants_list(FILE *f)
{
	for (unsigned i = 0; i < MUTANT_COUNT; i++)
		(void)fprintf(f, "%s\n", names[i]);
}
