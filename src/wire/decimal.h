/* Strict decimal numbers as Redis takes them: no spaces, no plus sign, no leading zeros. */
#pragma once

#include "base/bytes.h"

/* All of [p, p+len) is one integer: true and *ret, or false (also when it overflows). */
static inline bool decimal_parse(const uint8_t *p, size_t len, int64_t *ret)
{
	bool negative = len != 0 && p[0] == '-';
	if (negative) {
		p++;
		len--;
	}
	if (len == 0 || len > 19) /* 2^63 has 19 digits, so v below cannot wrap */
		return false;
	if (p[0] == '0' && (len > 1 || negative))
		return false;
	uint64_t v = 0;
	for (size_t i = 0; i < len; i++) {
		unsigned digit = (unsigned)p[i] - '0';
		if (digit > 9)
			return false;
		v = v * 10 + digit;
	}
	if (v > (uint64_t)INT64_MAX + negative)
		return false;
	*ret = negative ? (int64_t)(0 - v) : (int64_t)v;
	return true;
}
