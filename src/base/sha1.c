#include "base/sha1.h"

static uint32_t rotate(uint32_t v, unsigned n)
{
	return v << n | v >> (32 - n);
}

static void block_add(uint32_t h[5], const uint8_t *p)
{
	uint32_t w[80];
	for (unsigned t = 0; t < 16; t++)
		w[t] = __builtin_bswap32(get_u32(p + (size_t)t * 4));
	for (unsigned t = 16; t < 80; t++)
		w[t] = rotate(w[t - 3] ^ w[t - 8] ^ w[t - 14] ^ w[t - 16], 1);
	uint32_t a = h[0];
	uint32_t b = h[1];
	uint32_t c = h[2];
	uint32_t d = h[3];
	uint32_t e = h[4];
	for (unsigned t = 0; t < 80; t++) {
		uint32_t f;
		if (t < 20)
			f = ((b & c) | (~b & d)) + 0x5a827999;
		else if (t < 40)
			f = (b ^ c ^ d) + 0x6ed9eba1;
		else if (t < 60)
			f = ((b & c) | (b & d) | (c & d)) + 0x8f1bbcdc;
		else
			f = (b ^ c ^ d) + 0xca62c1d6;
		uint32_t next = rotate(a, 5) + f + e + w[t];
		e = d;
		d = c;
		c = rotate(b, 30);
		b = a;
		a = next;
	}
	h[0] += a;
	h[1] += b;
	h[2] += c;
	h[3] += d;
	h[4] += e;
}

void sha1_init(struct sha1 *s)
{
	*s = (struct sha1){.h = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0}};
}

void sha1_add(struct sha1 *s, struct bytes b)
{
	size_t used = s->bytes % SHA1_BLOCK_BYTES;
	s->bytes += b.len;
	for (uint32_t i = 0; i < b.len; i++) {
		s->block[used++] = b.p[i];
		if (used == SHA1_BLOCK_BYTES) {
			block_add(s->h, s->block);
			used = 0;
		}
	}
}

void sha1_end(struct sha1 *s, uint8_t ret[SHA1_BYTES])
{
	static const uint8_t padding[SHA1_BLOCK_BYTES] = {0x80};
	uint8_t bits[8];
	put_u64(bits, __builtin_bswap64(s->bytes * 8));
	size_t used = s->bytes % SHA1_BLOCK_BYTES;
	sha1_add(s, bytes_of(padding, (used < 56 ? 56 : 120) - used));
	sha1_add(s, bytes_of(bits, sizeof bits));
	for (unsigned i = 0; i < 5; i++)
		put_u32(ret + (size_t)i * 4, __builtin_bswap32(s->h[i]));
}
