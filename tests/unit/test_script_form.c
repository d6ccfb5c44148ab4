/* The form of a script: what it takes away, and what it must not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "shard/script_form.h"

static bool form_of(const char *text, uint8_t ret[SHA1_BYTES])
{
	/* Of exactly its length, for the address sanitizer. */
	size_t len = strlen(text);
	uint8_t *copy = malloc(len + (len == 0));
	assert_non_null(copy);
	if (len > 0)
		memcpy(copy, text, len);
	bool ok = script_form(bytes_of(copy, len), ret);
	free(copy);
	return ok;
}

static bool same(const char *a, const char *b)
{
	uint8_t of_a[SHA1_BYTES];
	uint8_t of_b[SHA1_BYTES];
	return form_of(a, of_a) && form_of(b, of_b) && memcmp(of_a, of_b, SHA1_BYTES) == 0;
}

struct pair {
	const char *a, *b;
};

static const char plain[] = "if redis.call('get', KEYS[1]) == ARGV[1] then "
			    "return redis.call('del', KEYS[1]) else return 0 end";

static void test_script_form_layout_does_not_matter(void **state)
{
	(void)state;
	static const char *const variants[] = {
		"if redis.call(\"get\",KEYS[1])==ARGV[1] then return redis.call(\"del\",KEYS[1]) "
		"else "
		"return 0 end",
		"\r\n\tif redis.call('get', KEYS[1]) == ARGV[1]\r\n\tthen\r\n\t\treturn "
		"redis.call('del', KEYS[1])\r\n\telse\r\n\t\treturn 0\r\n\tend\r\n",
		"-- mine?\nif redis.call('get', KEYS[1]) == ARGV[1] then -- yes\n"
		"return redis.call('del', KEYS[1]) else return 0 end -- done",
		"-- mine?\rif redis.call('get', KEYS[1]) == ARGV[1] then "
		"return redis.call('del', KEYS[1]) else return 0 end --",
		"if redis.call('GET', KEYS[1]) == ARGV[1] then "
		"return redis.call('Del', KEYS[1]); else return 0; end;",
		"if server.call('get', KEYS[1]) == ARGV[1] then "
		"return server.pcall('del', KEYS[1]) else return 0 end",
		"if (redis.call('get', KEYS[1]) == ARGV[1]) then "
		"return (redis.call('del', KEYS[1])) else return (0) end",
		"if (((redis.call('get', (KEYS[1])))) == (ARGV[1])) then "
		"return redis.call('del', KEYS[1]) else return 0 end",
	};
	for (size_t i = 0; i < sizeof variants / sizeof variants[0]; i++)
		if (!same(plain, variants[i]))
			fail_msg("not the same: %s", variants[i]);
}

static void test_script_form_names_of_locals_do_not_matter(void **state)
{
	(void)state;
	static const struct pair pairs[] = {
		{"local v = KEYS[1] return v", "local held = KEYS[1] return held"},
		{"local a, b = 1, 2 return a + b", "local x, y = 1, 2 return x + y"},
		{"for i, k in ipairs(KEYS) do f(i, k) end for i, k in ipairs(KEYS) do f(i, k) end",
			"for a, b in ipairs(KEYS) do f(a, b) end for c, d in ipairs(KEYS) do f(c, "
			"d) "
			"end"},
		{"local v = 1 if v then local v = 2 f(v) end",
			"local v = 1 if v then local w = 2 f(w) end"},
		{"local v = x.v return v", "local w = x.v return w"},
	};
	for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++)
		if (!same(pairs[i].a, pairs[i].b))
			fail_msg("not the same: %s | %s", pairs[i].a, pairs[i].b);
}

static void test_script_form_what_matters_stays(void **state)
{
	(void)state;
	static const struct pair pairs[] = {
		{"return a == b", "return a ~= b"},
		{"return KEYS[1]", "return KEYS[2]"},
		{"return KEYS[1]", "return ARGV[1]"},
		{"return 1", "return 0"},
		{"return 1", "return '1'"},
		{"return 'yes'", "return 'YES'"},
		{"return f('PX')", "return f('px')"},
		{"return redis.call('get', 'A')", "return redis.call('get', 'a')"},
		{"return a", "return a end"},
		{"local a = 1 local b = 2 return a", "local a = 1 local b = 2 return b"},
		{"local a = KEYS[1]", "a = KEYS[1]"},
		{"return redis.call('get', KEYS[1])", "return call('get', KEYS[1])"},
		{"return redis.call('get', KEYS[1])", "return pcall('get', KEYS[1])"},
		{"local redis = f() return redis.call('get')",
			"local other = f() return redis.call('get')"},
		{"local KEYS = ARGV return KEYS[1]", "local ARGS = ARGV return KEYS[1]"},
		{"f = a; (b)()", "f = a(b)()"},
		{"if (a or b) and c then end", "if a or b and c then end"},
		{"if not (a == b) then end", "if not a == b then end"},
		{"return f(a)", "return f a"},
		{"return (a + b) * c", "return a + b * c"},
		{"if (a == b) == c then end", "if a == b == c then end"},
		{"return 'a' -- 'b'\nreturn 1", "return 'a' return 'b' return 1"},
	};
	for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++)
		if (same(pairs[i].a, pairs[i].b))
			fail_msg("the same: %s | %s", pairs[i].a, pairs[i].b);
}

static void test_script_form_not_understood(void **state)
{
	(void)state;
	static const char *const texts[] = {"return 'a\\'b'", "return 'a", "return 'a\nb'",
		"return [[a]]", "return [=[a]=]", "--[[ long ]] return 1", "return 1.5",
		"return .5", "return a .. b", "f(...)", "return @", "return f(", "return )",
		"#!lua name=x\nreturn 1", "local", "local 1 = 2", "return \xc3\xa4", "return a!"};
	uint8_t form[SHA1_BYTES];
	for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
		if (form_of(texts[i], form))
			fail_msg("has a form: %s", texts[i]);
	assert_false(script_form(bytes_of("a\0b", 3), form));
	assert_true(form_of("", form));
}

static void append(char *to, const char *text, unsigned times)
{
	size_t at = strlen(to);
	for (unsigned i = 0; i < times; i++, at += strlen(text))
		memcpy(to + at, text, strlen(text) + 1);
}

static void test_script_form_limits(void **state)
{
	(void)state;
	static const struct {
		const char *text;
		unsigned fit;
	} repeated[] = {{"a ", SCRIPT_TOKENS_MAX}, {"a", SCRIPT_TOKEN_MAX_BYTES},
		{"local a ", SCRIPT_LOCALS_MAX}, {"(", 0}};
	static char text[4096];
	uint8_t form[SHA1_BYTES];
	for (size_t i = 0; i < sizeof repeated / sizeof repeated[0]; i++) {
		text[0] = '\0';
		append(text, repeated[i].text, repeated[i].fit);
		assert_true(form_of(text, form));
		append(text, repeated[i].text, 1);
		assert_false(form_of(text, form));
	}
	for (unsigned n = SCRIPT_PARENS_MAX; n <= SCRIPT_PARENS_MAX + 1; n++) {
		text[0] = '\0';
		append(text, "(", n);
		append(text, "a", 1);
		append(text, ")", n);
		assert_int_equal(form_of(text, form), n == SCRIPT_PARENS_MAX);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_script_form_layout_does_not_matter),
		cmocka_unit_test(test_script_form_names_of_locals_do_not_matter),
		cmocka_unit_test(test_script_form_what_matters_stays),
		cmocka_unit_test(test_script_form_not_understood),
		cmocka_unit_test(test_script_form_limits),
	};
	return cmocka_run_group_tests_name("script_form", tests, NULL, NULL);
}
