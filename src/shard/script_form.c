#include "shard/script_form.h"

#include "base/check.h"

enum kind {
	NAME = 'n', /* keywords as well */
	LOCAL = 'l',
	NUMBER = '0',
	STRING = '"',
	SYMBOL = '.',
};

struct token {
	struct bytes text;
	uint8_t kind;
	uint8_t local; /* number of the declaration */
	bool declares; /* this is the declaration */
	bool lower;    /* its case does not matter */
	bool dropped;
};

struct form {
	struct token tokens[SCRIPT_TOKENS_MAX];
	unsigned n;
};

/* ---- text to tokens ---- */

static bool is_alpha(uint8_t ch)
{
	return (ch >= 'a' && ch <= 'z') || (ch >= 'A' && ch <= 'Z') || ch == '_';
}

static bool is_digit(uint8_t ch)
{
	return ch >= '0' && ch <= '9';
}

static bool is_blank(uint8_t ch)
{
	return ch == ' ' || (ch >= '\t' && ch <= '\r');
}

/* To Lua a CR alone ends a line, hence a comment, as well. */
static bool is_line_end(uint8_t ch)
{
	return ch == '\n' || ch == '\r';
}

static uint8_t lower_of(uint8_t ch)
{
	return ch >= 'A' && ch <= 'Z' ? (uint8_t)(ch - 'A' + 'a') : ch;
}

static bool is_text(const struct token *t, uint8_t kind, const char *text)
{
	return t != NULL && t->kind == kind && bytes_eq(t->text, bytes_str(text));
}

static bool is_symbol(const struct token *t, const char *text)
{
	return is_text(t, SYMBOL, text);
}

static bool is_word(const struct token *t, const char *text)
{
	return is_text(t, NAME, text);
}

static bool is_word_of(const struct token *t, const char *const *words)
{
	for (; *words != NULL; words++)
		if (is_word(t, *words))
			return true;
	return false;
}

/* The bytes of the token at @at. 0: none that is understood. */
static uint32_t token_bytes(struct bytes text, uint32_t at, struct token *t)
{
	const uint8_t *p = text.p + at;
	uint32_t left = text.len - at;
	uint32_t n = 1;
	if (is_alpha(*p) || is_digit(*p)) {
		t->kind = is_alpha(*p) ? NAME : NUMBER;
		while (n < left && (is_alpha(p[n]) || is_digit(p[n])))
			n++;
		if (t->kind == NUMBER && n < left && p[n] == '.')
			return 0;
		t->text = bytes_of(p, n);
		return n;
	}
	if (*p == '"' || *p == '\'') {
		t->kind = STRING;
		while (n < left && p[n] != *p && p[n] != '\\' && !is_line_end(p[n]))
			n++;
		if (n == left || p[n] != *p)
			return 0;
		t->text = bytes_of(p + 1, n - 1);
		return n + 1;
	}
	static const char singles[] = "+-*/%^#<>=(){}[];:,.";
	t->kind = SYMBOL;
	if (left > 1 && p[1] == '=' && (*p == '=' || *p == '~' || *p == '<' || *p == '>'))
		n = 2;
	else if (left > 1 && *p == '.' && (p[1] == '.' || is_digit(p[1])))
		return 0;
	else if (left > 1 && *p == '[' && (p[1] == '[' || p[1] == '='))
		return 0;
	else if (*p == 0 || memchr(singles, *p, sizeof singles - 1) == NULL)
		return 0;
	t->text = bytes_of(p, n);
	return n;
}

/* Skip blanks and comments; false: a long comment, which may hide a script in a script. */
static bool skip(struct bytes text, uint32_t *at)
{
	for (;;) {
		while (*at < text.len && is_blank(text.p[*at]))
			++*at;
		if (text.len - *at < 2 || text.p[*at] != '-' || text.p[*at + 1] != '-')
			return true;
		*at += 2;
		if (*at < text.len && text.p[*at] == '[')
			return false;
		while (*at < text.len && !is_line_end(text.p[*at]))
			++*at;
	}
}

static bool read_tokens(struct form *f, struct bytes text)
{
	uint32_t at = 0;
	for (;;) {
		if (!skip(text, &at))
			return false;
		if (at == text.len)
			return true;
		if (f->n == SCRIPT_TOKENS_MAX)
			return false;
		struct token *t = &f->tokens[f->n++];
		*t = (struct token){.kind = SYMBOL};
		uint32_t bytes = token_bytes(text, at, t);
		if (bytes == 0 || t->text.len > SCRIPT_TOKEN_MAX_BYTES)
			return false;
		at += bytes;
	}
}

/* ---- neighbours ---- */

static struct token *token_at(struct form *f, unsigned i)
{
	return i < f->n ? &f->tokens[i] : NULL;
}

static struct token *before(struct form *f, unsigned i)
{
	while (i > 0)
		if (!f->tokens[--i].dropped)
			return &f->tokens[i];
	return NULL;
}

static void squeeze(struct form *f)
{
	unsigned n = 0;
	for (unsigned i = 0; i < f->n; i++)
		if (!f->tokens[i].dropped)
			f->tokens[n++] = f->tokens[i];
	f->n = n;
}

/* ---- what is taken away ---- */

/* `a; (b)()` is not `a(b)()`: there it has a meaning. */
static void drop_semicolons(struct form *f)
{
	for (unsigned i = 0; i < f->n; i++)
		f->tokens[i].dropped =
			is_symbol(&f->tokens[i], ";") && !is_symbol(token_at(f, i + 1), "(");
	squeeze(f);
}

struct locals {
	struct bytes names[SCRIPT_LOCALS_MAX];
	uint8_t n;
};

static bool declare(struct locals *l, struct token *t)
{
	if (t == NULL || t->kind != NAME || l->n == SCRIPT_LOCALS_MAX)
		return false;
	l->names[l->n] = t->text;
	t->kind = LOCAL;
	t->local = l->n++;
	t->declares = true;
	return true;
}

/* A use means the latest declaration of its name in the text, block or not. Where a script of our
 * table uses a local, that one is in sight; a text of the same form has the same blocks, so there
 * it is in sight as well, and the latest one in sight is what Lua takes. */
static void resolve(const struct locals *l, struct token *t)
{
	for (unsigned i = l->n; i-- > 0;) {
		if (bytes_eq(l->names[i], t->text)) {
			t->kind = LOCAL;
			t->local = (uint8_t)i;
			return;
		}
	}
}

static bool number_locals(struct form *f)
{
	static const char *const declaring[] = {"local", "for", NULL};
	struct locals l = {.n = 0};
	for (unsigned i = 0; i < f->n; i++) {
		struct token *t = &f->tokens[i];
		struct token *last = i > 0 ? &f->tokens[i - 1] : NULL;
		if (t->kind != NAME || is_symbol(last, ".") || is_symbol(last, ":"))
			continue;
		if (!is_word_of(t, declaring)) {
			resolve(&l, t);
			continue;
		}
		do
			if (!declare(&l, token_at(f, ++i)))
				return false;
		while (is_symbol(token_at(f, i + 1), ",") && ++i);
	}
	return true;
}

static bool is_any_case(const struct token *t, const char *lower)
{
	for (uint32_t i = 0; i < t->text.len; i++)
		if (lower[i] == '\0' || lower_of(t->text.p[i]) != (uint8_t)lower[i])
			return false;
	return lower[t->text.len] == '\0';
}

static bool is_option(const struct token *t)
{
	return is_any_case(t, "px") || is_any_case(t, "ex") || is_any_case(t, "nx") ||
	       is_any_case(t, "xx");
}

/* redis . call ( "word" , ... "option" */
static void unify_calls(struct form *f)
{
	for (unsigned i = 0; i < f->n; i++) {
		struct token *t = &f->tokens[i];
		if (t->kind == STRING && i > 0 && is_symbol(&f->tokens[i - 1], ","))
			t->lower = is_option(t);
		if (!is_symbol(token_at(f, i + 1), ".") ||
			(!is_word(t, "redis") && !is_word(t, "server")))
			continue;
		t->text = bytes_str("redis");
		struct token *call = token_at(f, i + 2);
		struct token *word = token_at(f, i + 4);
		if (is_word(call, "pcall"))
			call->text = bytes_str("call");
		if (is_word(call, "call") && is_symbol(token_at(f, i + 3), "(") && word != NULL)
			word->lower = word->kind == STRING;
	}
}

/* What is inside a pair of parentheses and not inside another one that stays. */
struct paren {
	unsigned at;
	bool logic, compares, other;
};

static bool is_comparison(const struct token *t)
{
	return is_symbol(t, "==") || is_symbol(t, "~=") || is_symbol(t, "<") || is_symbol(t, ">") ||
	       is_symbol(t, "<=") || is_symbol(t, ">=");
}

static bool may_be_called(const struct token *t)
{
	static const char *const keywords[] = {"and", "do", "else", "elseif", "if", "in", "not",
		"or", "repeat", "return", "then", "until", "while", "end", NULL};
	if (t == NULL)
		return false;
	return (t->kind == NAME && !is_word_of(t, keywords)) || t->kind == LOCAL ||
	       t->kind == STRING || is_symbol(t, ")") || is_symbol(t, "]") || is_symbol(t, "}");
}

static bool is_redundant(struct form *f, const struct paren *p, unsigned end)
{
	static const char *const condition[] = {"if", "elseif", NULL};
	static const char *const joined_before[] = {"if", "elseif", "and", "or", NULL};
	static const char *const joined_after[] = {"then", "and", "or", NULL};
	const struct token *last = before(f, p->at);
	const struct token *next = token_at(f, end + 1);
	bool twice = is_symbol(last, "(") && is_symbol(next, ")");
	if (end == p->at + 1 || may_be_called(last) || p->other)
		return false;
	if (p->logic)
		return twice || (is_word_of(last, condition) && is_word(next, "then"));
	if (p->compares)
		return (is_symbol(last, "(") || is_word_of(last, joined_before)) &&
		       (is_symbol(next, ")") || is_word_of(next, joined_after));
	return true;
}

static void note(struct paren *p, const struct token *t)
{
	static const char *const logic[] = {"and", "or", "not", NULL};
	static const char *const plain[] = {".", "[", "]", NULL};
	bool known = t->kind != SYMBOL;
	for (unsigned i = 0; plain[i] != NULL; i++)
		known |= is_symbol(t, plain[i]);
	p->logic |= is_word_of(t, logic);
	p->compares |= is_comparison(t);
	p->other |= !known && !is_comparison(t);
}

static bool drop_parentheses(struct form *f)
{
	struct paren stack[SCRIPT_PARENS_MAX + 1];
	unsigned depth = 0;
	stack[0] = (struct paren){.at = 0};
	for (unsigned i = 0; i < f->n; i++) {
		struct token *t = &f->tokens[i];
		if (is_symbol(t, "(")) {
			if (depth == SCRIPT_PARENS_MAX)
				return false;
			stack[++depth] = (struct paren){.at = i};
		} else if (is_symbol(t, ")")) {
			if (depth == 0)
				return false;
			struct paren *p = &stack[depth--];
			if (!is_redundant(f, p, i))
				continue;
			t->dropped = f->tokens[p->at].dropped = true;
			stack[depth].logic |= p->logic;
			stack[depth].compares |= p->compares;
		} else {
			note(&stack[depth], t);
		}
	}
	squeeze(f);
	return depth == 0;
}

/* ---- */

static void add_token(struct sha1 *s, const struct token *t)
{
	uint8_t text[SCRIPT_TOKEN_MAX_BYTES];
	uint8_t head[2] = {t->kind, (uint8_t)t->text.len};
	if (t->kind == LOCAL) {
		head[0] = t->declares ? 'L' : 'l';
		head[1] = t->local;
		sha1_add(s, bytes_of(head, sizeof head));
		return;
	}
	CHECK(t->text.len <= sizeof text);
	for (uint32_t i = 0; i < t->text.len; i++)
		text[i] = t->lower ? lower_of(t->text.p[i]) : t->text.p[i];
	sha1_add(s, bytes_of(head, sizeof head));
	sha1_add(s, bytes_of(text, t->text.len));
}

bool script_form(struct bytes text, uint8_t ret[SHA1_BYTES])
{
	struct form f;
	struct sha1 s;
	f.n = 0;
	if (!read_tokens(&f, text))
		return false;
	drop_semicolons(&f);
	if (!number_locals(&f))
		return false;
	unify_calls(&f);
	if (!drop_parentheses(&f))
		return false;
	sha1_init(&s);
	for (unsigned i = 0; i < f.n; i++)
		add_token(&s, &f.tokens[i]);
	sha1_end(&s, ret);
	return true;
}
