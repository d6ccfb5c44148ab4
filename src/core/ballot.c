#include "core/internal.h"

__extension__ typedef unsigned __int128 wide;

/* Half a year of microseconds below the end of the range: neither a wall clock nor a peer gone mad
 * brings this node where it has no next ballot. */
#define LEARN_MAX (BALLOT_MAX - (UINT64_C(1) << 44))

uint64_t ballot_next(struct engine *e)
{
	uint64_t wall = e->now.wall_us > EPOCH_US ? e->now.wall_us - EPOCH_US : 0;
	if (wall > LEARN_MAX)
		wall = LEARN_MAX;
	e->hlc = wall > e->hlc ? wall : e->hlc + 1;
	return e->hlc;
}

void ballot_merge(struct engine *e, uint64_t n)
{
	if (n > e->hlc && n <= LEARN_MAX)
		e->hlc = n;
}

bool ballot_cover(struct engine *e, uint64_t n)
{
	if (n + CEILING_STEP_N / 2 > e->ceiling && e->ceiling < BALLOT_MAX) {
		uint64_t want = ceiling_above(n);
		/* Ask once per half window, however many ballots cross the line. */
		if (n + CEILING_STEP_N / 2 > e->ceiling_asked) {
			e->ceiling_asked = want;
			effect_new(e, FX_CEILING)->ceiling_n = want;
		}
	}
	return n <= e->ceiling || MUTANT(CEILING_IGNORED);
}

/* Up to here, 25 hours, the product below fits 64 bits with every drift that is allowed: a division
 * of 128 bits is a call, and each grant asks several times. */
#define NARROW_NS ((UINT64_MAX - 999999) / (UINT64_C(2) * 100000))

uint64_t less_drift(const struct engine *e, uint64_t ns)
{
	uint64_t cut;
	if (ns <= NARROW_NS)
		cut = (ns * 2 * e->drift_ppm + 999999) / 1000000;
	else
		cut = (uint64_t)(((wide)ns * 2 * e->drift_ppm + 999999) / 1000000);
	return ns > cut ? ns - cut : 0;
}

uint64_t more_drift(const struct engine *e, uint64_t ns)
{
	uint64_t up = 1000000 + e->drift_ppm, down = 1000000 - e->drift_ppm;
	return (uint64_t)(((wide)ns * up + down - 1) / down);
}

uint64_t lease_holder_ns(const struct engine *e, uint64_t lease_ns)
{
	uint64_t less = MUTANT(BELIEF_DRIFTLESS) ? lease_ns : less_drift(e, lease_ns);
	return less > NS_PER_MS ? less - NS_PER_MS : 0;
}
