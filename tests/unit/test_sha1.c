#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>

#include "base/sha1.h"

static void assert_sha1(const char *text, unsigned times, size_t piece, const char *hex)
{
	struct sha1 s;
	uint8_t digest[SHA1_BYTES];
	char got[2 * SHA1_BYTES + 1];
	sha1_init(&s);
	for (unsigned i = 0; i < times; i++)
		for (size_t at = 0; at < strlen(text); at += piece) {
			size_t left = strlen(text) - at;
			sha1_add(&s, bytes_of(text + at, left < piece ? left : piece));
		}
	sha1_end(&s, digest);
	for (unsigned i = 0; i < SHA1_BYTES; i++)
		(void)snprintf(got + (size_t)i * 2, 3, "%02x", digest[i]);
	assert_string_equal(got, hex);
}

/* FIPS 180-2, appendix A, and the empty text. */
static void test_sha1_known_answers(void **state)
{
	(void)state;
	assert_sha1("", 1, 1, "da39a3ee5e6b4b0d3255bfef95601890afd80709");
	assert_sha1("abc", 1, 64, "a9993e364706816aba3e25717850c26c9cd0d89d");
	assert_sha1("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 1, 64,
		"84983e441c3bd26ebaae4aa1f95129e5e54670f1");
	assert_sha1("a", 1000000, 1, "34aa973cd4c4daa4f61eeb2bdbad27316534016f");
}

static void test_sha1_pieces_make_no_difference(void **state)
{
	(void)state;
	for (size_t piece = 1; piece < 60; piece++)
		assert_sha1("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 1, piece,
			"84983e441c3bd26ebaae4aa1f95129e5e54670f1");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_sha1_known_answers),
		cmocka_unit_test(test_sha1_pieces_make_no_difference),
	};
	return cmocka_run_group_tests_name("sha1", tests, NULL, NULL);
}
