/* Texts of clients: the form of a script does not change with its layout. */
#include "shard/script_form.h"

#include <stdlib.h>

#include "base/check.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { TEXT_MAX = 8192 };

/* From a copy of exactly its length, so that a look behind it is seen. */
static bool form_of(const uint8_t *p, size_t len, uint8_t ret[SHA1_BYTES])
{
	uint8_t *copy = malloc(len + (len == 0));
	CHECK(copy != NULL);
	if (len > 0)
		memcpy(copy, p, len);
	bool ok = script_form(bytes_of(copy, len), ret);
	free(copy);
	return ok;
}

static void check_same(const uint8_t *p, size_t len, const uint8_t form[SHA1_BYTES])
{
	uint8_t again[SHA1_BYTES];
	CHECK(form_of(p, len, again));
	CHECK(memcmp(form, again, SHA1_BYTES) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static uint8_t text[TEXT_MAX + 64];
	uint8_t form[SHA1_BYTES];
	if (size > TEXT_MAX || !form_of(data, size, form))
		return 0;
	static const char before[] = "-- a comment\r\n\t ";
	static const char after[] = "\n-- the end";
	size_t n = sizeof before - 1;
	memcpy(text, before, n);
	if (size > 0)
		memcpy(text + n, data, size);
	memcpy(text + n + size, after, sizeof after - 1);
	check_same(text, n + size + sizeof after - 1, form);
	return 0;
}
