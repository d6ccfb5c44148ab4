/* Rules of the protocol that the simulator breaks on purpose, to see that its judges find out
 * (tests/sim/mutants.txt: which seed finds which). Only its own build of the engine, with
 * LOCKER_MUTANTS, has them; everywhere else MUTANT() is false and costs nothing. */
#pragma once

#include <stdbool.h>

/* What is broken. S numbers and sections are those of core/protocol.md. */
enum mutant {
	/* voting, 2.5 */
	MUTANT_TRYLOCK_OVERWRITES,  /* S1, S8: a live lease of another is replaced */
	MUTANT_TRYLOCK_ANY_BALLOT,  /* no floor: an old ballot is granted */
	MUTANT_RELEASE_UNSEALED,    /* S19, S28: a release or abort does not seal */
	MUTANT_RELEASE_ANY,         /* S16: whatever is held is released */
	MUTANT_RELEASE_UNGUARDED,   /* a release ignores who has prepared meanwhile */
	MUTANT_RELEASE_SHADOWED,    /* a shadow acknowledges a release of it knows not what */
	MUTANT_ABORT_CONFIRMED,     /* an abort takes away what somebody has adopted */
	MUTANT_PREV_CONFIRMED,      /* a retry takes away what was granted */
	MUTANT_EXTEND_INSTALLS,     /* S8, S19: an extension brings a lease back */
	MUTANT_EXTEND_ANY,          /* S16: an extension of whatever is held */
	MUTANT_EXTEND_UNCONFIRMING, /* 2.11: an extension leaves a promise one */
	MUTANT_ACCEPT_LOWER,        /* a write below the promised ballot */
	MUTANT_EXPIRY_EARLY,        /* S5: a lease ends a quarter early */
	MUTANT_EXPIRY_NEVER,        /* S14: a lease that is not looked at never ends */
	MUTANT_PROMISE_EXPIRES,     /* S1, S7: a promise ends after T_promise, whoever got OK */
	MUTANT_CEILING_IGNORED,     /* ballots above the durable ceiling are granted */
	MUTANT_MESSAGE_OLD,         /* S10: messages of any age are taken, T_msg */
	MUTANT_TOMB_SHORT,          /* freed keys are forgotten at once */
	/* coordinating, 2.6 */
	MUTANT_VOTE_TWICE,            /* one master's vote counts as often as it arrives */
	MUTANT_LOCK_MINORITY,         /* S2: one vote is a lock */
	MUTANT_LOCK_LATE,             /* S6, S7: votes count beyond the window */
	MUTANT_BELIEF_LATE,           /* validity counts from the grant */
	MUTANT_BELIEF_DRIFTLESS,      /* holders allow for no drift */
	MUTANT_EXTEND_MINORITY,       /* S9 */
	MUTANT_EXTEND_VERSIONS,       /* two writes of one value count together */
	MUTANT_EXTEND_LATE,           /* extensions count beyond the window, and arrive then */
	MUTANT_RELEASE_MINORITY,      /* one acknowledgement is a release */
	MUTANT_RELEASE_UNKNOWN_EARLY, /* UNKNOWN while it can still land */
	MUTANT_BREAK_ANY,             /* S16: by token alone, whatever the token is */
	MUTANT_UPDATE_MINORITY,       /* S17, S18 */
	MUTANT_UPDATE_UNPREPARED,     /* nobody is asked before a write */
	MUTANT_UPDATE_FIRST_REPLY,    /* not the highest version, but the first */
	MUTANT_UPDATE_LATE,           /* an extension is looked for when the write arrives */
	MUTANT_UPDATE_SHORT,          /* its writers keep the lease for less than was promised */
	MUTANT_UPDATE_STICKY,         /* sticky in spite of another's promise */
	MUTANT_READ_ANY_ABSENT,       /* two absents that differ are an absent */
	MUTANT_READ_MINORITY,         /* one copy is the value */
	/* waiters, S29 to S31 */
	MUTANT_WAKE_HELD_LOST,      /* S29 */
	MUTANT_WAKE_ENDED_LOST,     /* S30 */
	MUTANT_WAKE_ENDED_SPURIOUS, /* S30 */
	MUTANT_WAITER_STAYS,        /* S31: a watcher whose time is over */
	/* promises, 2.11 */
	MUTANT_QUERY_ONE,      /* one master is enough to delete a promise */
	MUTANT_QUERY_UNSEALED, /* ... though it may grant it yet, and T_promise is short */
	MUTANT_QUERY_SHADOW,   /* a shadow is no holder */
	MUTANT_QUERY_RESYNC,   /* nor is a master that knows nothing */
	MUTANT_QUERY_FORGETS,  /* the deletion keeps no floor */
	MUTANT_QUERY_NEVER,    /* S26: nobody asks, and no abort is sent */
	/* restart, 2.8 */
	MUTANT_RESTART_VOTES,        /* S3, S4: at once, with nothing */
	MUTANT_RESTART_NO_WAIT,      /* T_wait */
	MUTANT_QUARANTINE_NONE,      /* D_Q */
	MUTANT_QUARANTINE_SHORT,     /* half of it */
	MUTANT_QUARANTINE_FLOORLESS, /* the ceiling is no floor afterwards */
	MUTANT_NEVER_SEEN,           /* keys are called never seen right after a start */
	MUTANT_SYNC_ONE,             /* one report is enough */
	MUTANT_SYNC_INACTIVE,        /* a master that does not vote reports */
	MUTANT_SYNC_UNION,           /* one witness makes a lease live */
	MUTANT_SYNC_SHADOWLESS,      /* what only some hold is free */
	MUTANT_SYNC_FLOORLESS,       /* floors are not taken over */
	MUTANT_SYNC_UNCOVERED,       /* the ceiling is not raised before the first vote */
	MUTANT_SYNC_PROMISELESS,     /* promised ballots are not taken over */
	MUTANT_HEARSAY_COUNTS,       /* a value that was told counts like one that was written */
	MUTANT_SYNC_VERSIONLESS,     /* the first value told, not the highest version */
	MUTANT_SYNC_SHORT,           /* leases end early after a restart */
	MUTANT_CLEAN_ALWAYS,         /* a stop is in good order whatever is held */
	MUTANT_CLEAN_FLOORLESS,      /* the floor is forgotten */
	MUTANT_CLEAN_OUTDATED,       /* an old copy of the state file is believed */
	MUTANT_HEAL_NO_WAIT,         /* key RESYNC without T_wait */
	MUTANT_HEAL_ANSWERS,         /* the key is voted on meanwhile */
	MUTANT_HEAL_ONE,             /* one witness */
	MUTANT_HEAL_RELEASED,        /* what was released meanwhile comes back */
	MUTANT_HEAL_UNCOVERED,       /* above the ceiling */
	MUTANT_HEAL_NEVER,           /* S34 */
	/* membership, 2.10 */
	MUTANT_QUORUM_FIXED,     /* S11: as many votes as the first configuration needed */
	MUTANT_EPOCH_IGNORED,    /* S12: votes of several configurations count together */
	MUTANT_MERGE_NONE,       /* in sync with a change at once */
	MUTANT_MERGE_ONE,        /* one report is enough to be in sync */
	MUTANT_MERGE_KEEPS_LIVE, /* what a blocking set does not hold stays a vote */
	MUTANT_SYNC_UNMERGED,    /* who is not in sync tells those who restart */
	MUTANT_PROBE_UNMERGED,   /* and those who doubt a promise */
	MUTANT_JOINER_VOTES,     /* a new master votes with nothing in its memory */
	MUTANT_REMOVED_VOTES,    /* a master that was removed votes on */
	MUTANT_GATE_OFF,         /* the next change does not wait for the last one */
	MUTANT_CONFIG_VOLATILE,  /* a promise about the next configuration is not written */
	/* replicas, 2.9 */
	MUTANT_COPY_GAP_IGNORED, /* S24: every log goes on where another ended */
	MUTANT_COPY_OLD,         /* S20: answers to older questions count */
	MUTANT_COPY_LEASE_ANEW,  /* S23: a lease begins anew where it is copied */
	/* clocks, 2.1 */
	MUTANT_CLOCK_WALL, /* S13, S14: leases are measured on the wall clock */
	MUTANT_CLOCK_FAST, /* masters expire on the fast clock */
	MUTANT_CLOCK_SLOW, /* coordinators measure their windows on the slow one */
	MUTANT_COUNT
};

#ifdef LOCKER_MUTANTS
extern bool mutant_broken[MUTANT_COUNT];
#define MUTANT(name) mutant_broken[MUTANT_##name]
#else
#define MUTANT(name) false
#endif
