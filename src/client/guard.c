#include "locker/locker.h"

bool locker_guard_accept(struct locker_guard *guard, uint64_t token)
{
	uint64_t highest = __atomic_load_n(&guard->highest, __ATOMIC_SEQ_CST);

	if (token == 0)
		return false;
	while (token > highest) {
		if (__atomic_compare_exchange_n(&guard->highest, &highest, token, false,
			    __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
			return true;
	}
	return token == highest;
}
