#include "shard/scripts.h"

#include <stdatomic.h>

#include "base/check.h"
#include "shard/script_form.h"

enum {
	IS_RELEASE,
	IS_RELEASE_MINUS,
	IS_RELEASE_DAPR,
	IS_RELEASE_TRUE,
	IS_EXTEND,
	IS_EXTEND_TRUE,
	IS_ADD,
	IS_ADD_OR_EXTEND,
	IS_LOCK,
	IS_LOCK_OK,
	IS_TAKE,
	IS_TAKE_TRUE,
	IS_TAKE_MINUS,
	IS_TAKE_OR_EXTEND,
	IS_PTTL,
};

#define NUMBER_0  ":0\r\n"
#define NUMBER_1  ":1\r\n"
#define MINUS_1   ":-1\r\n"
#define MINUS_2   ":-2\r\n"
#define STATUS_OK "+OK\r\n"

const struct script scripts[] = {
	[IS_RELEASE] = {SCRIPT_RELEASE, 1, NUMBER_1, NUMBER_0, NUMBER_0},
	[IS_RELEASE_MINUS] = {SCRIPT_RELEASE, 1, NUMBER_1, NUMBER_0, MINUS_1},
	[IS_RELEASE_DAPR] = {SCRIPT_RELEASE, 1, NUMBER_1, MINUS_2, MINUS_1},
	/* Lua's true is 1 and its false is null. */
	[IS_RELEASE_TRUE] = {SCRIPT_RELEASE, 1, NUMBER_1, NULL, NULL},
	[IS_EXTEND] = {SCRIPT_EXTEND, 2, NUMBER_1, NUMBER_0, NUMBER_0},
	[IS_EXTEND_TRUE] = {SCRIPT_EXTEND, 2, NUMBER_1, NULL, NULL},
	[IS_ADD] = {SCRIPT_ADD, 2, NUMBER_1, NUMBER_0, NUMBER_0},
	[IS_ADD_OR_EXTEND] = {SCRIPT_ADD_OR_EXTEND, 3, NUMBER_1, NUMBER_0, NUMBER_0},
	[IS_LOCK] = {SCRIPT_LOCK, 2, NUMBER_1, NUMBER_0, NUMBER_0},
	[IS_LOCK_OK] = {SCRIPT_LOCK, 2, STATUS_OK, NULL, NULL},
	[IS_TAKE] = {SCRIPT_TAKE, 2, NUMBER_1, NUMBER_0, NUMBER_0},
	[IS_TAKE_TRUE] = {SCRIPT_TAKE, 2, NUMBER_1, NULL, NULL},
	[IS_TAKE_MINUS] = {SCRIPT_TAKE, 2, NUMBER_1, MINUS_1, NUMBER_0},
	[IS_TAKE_OR_EXTEND] = {SCRIPT_TAKE_OR_EXTEND, 3, STATUS_OK, NULL, NULL},
	[IS_PTTL] = {SCRIPT_PTTL, 0, NULL, NULL, NULL},
};
const unsigned scripts_count = sizeof scripts / sizeof scripts[0];

struct known {
	char hex[2 * SHA1_BYTES + 1];
	uint8_t script;
};

/* SHA-1 of the texts as the libraries send them. */
static const struct known by_digest[] = {
	{"c3f8721cbb97f72bc19e972846bd7aaf91901658", IS_RELEASE},       /* redis-py */
	{"a4e8783852e6b949f9ef3a97212805108459a890", IS_ADD_OR_EXTEND}, /* redis-py */
	{"1cac51482acf5858da00f6d685d68f886cd6b6b2", IS_EXTEND},        /* redis-py, reacquire */
	{"4a484ac024e9b025224cd9f8e1d59dbf3c15d00d", IS_ADD},           /* redis-py, older extend */
	{"4e92fdc63815b3a0a2dd1c1df3694de73607c88d", IS_RELEASE},       /* redlock-py */
	{"e950836ed1e694540c503ef9972b8de518044d3b", IS_RELEASE_MINUS}, /* redsync */
	{"00583931c4e4d483f6233879c133c71ed5393f9d", IS_RELEASE},       /* redsync, older */
	{"d75bb8b5bd13532ddedd17762e772346e39b321e", IS_EXTEND},        /* redsync */
	{"b6b55c439e02c6f52ffb8be7ec8c0d0ac816ea79", IS_TAKE},          /* redsync, SetNXOnExtend */
	{"96da70f7716f27d278a5218544df37fd8b0a5e4c", IS_LOCK},          /* node-redlock 5 */
	{"aed6f382e410db8ba7926d4e5e9aab410bf2a78a", IS_EXTEND},        /* node-redlock 5 */
	{"e4612211c9f8f51c257e26e056b0a654b3187242", IS_RELEASE},       /* node-redlock 5 */
	{"e5a322e2634ef59a516e8ea150cb085afafee684", IS_LOCK},          /* node-redlock 4 */
	{"ce46f80993d5dac20dd066eb301a4e37994bdbed", IS_EXTEND},        /* node-redlock 4 */
	{"0f0f23b9048b36752b5be114f357ba083449f908", IS_RELEASE},       /* node-redlock 4 */
	{"194f3902b2dd08557818d09fc2e7682d91480e53", IS_RELEASE},       /* ShedLock, safeUpdate */
	{"67256370c2d1c87e2250898075542b1a7fa5b917", IS_EXTEND},        /* ShedLock, safeUpdate */
	{"ceb2b2062e40c51a2b3963fd078bc71f11bdc65c", IS_TAKE_OR_EXTEND}, /* redlock-rb */
	{"8e4905cee18e7c3188d10f2b8b170e403baed34f", IS_RELEASE},        /* redlock-rb */
	{"78d2ca48a6dc9ef6892059792a3a0c5237733d64", IS_PTTL},           /* redlock-rb */
	{"647c65a442733a1aa440f99908d249d13b4d6c4a",
		IS_RELEASE}, /* Laravel, documentation of Redis */
	{"a50243715157b186c5162c69e02eff3bf0c7994a", IS_RELEASE},      /* Laravel, funnel */
	{"175897a4e379e99e79a54937be09226f76cdcfe5", IS_TAKE_TRUE},    /* Spring Integration */
	{"879e0f7b8d83c3266d4e996627438c05dbda0b89", IS_EXTEND_TRUE},  /* Spring Integration */
	{"f0f9038aa2b6d6c3436c72d147573ea2a58f0ef2", IS_RELEASE_TRUE}, /* Spring Integration */
	{"18b2a577dbe847b16bebde190d69a1613d68e60e", IS_RELEASE},      /* RedLock.net */
	{"cb0427378f700ddb2f0e9394dbb0a40bd6dba04a", IS_RELEASE},      /* RedLock.net with CRLF */
	{"9f614a785a5f9ae8c6396c6b4bf94d2087342603", IS_TAKE_MINUS},   /* RedLock.net */
	{"08741c111900b6318ee3f60cb3c2fa1f6c74d859", IS_RELEASE_DAPR}, /* Dapr */
	{"e9f69f2beb755be68b5e456ee2ce9aadfbc4ebf4", IS_RELEASE}, /* one-line compare and delete */
};

/* SHA-1 of their forms, and of other ways to write the same. */
static const struct known by_form[] = {
	{"75fb7c85f4c28fe2cd70f9f10835978a0dd4e3c9", IS_RELEASE},       /* get == value: del */
	{"62860bcd7e9ccbae34d5b475e3b046bf56cd4f97", IS_RELEASE},       /* likewise, unlink */
	{"eefd3b840001eb081801f4382420d984ca6373f6", IS_RELEASE},       /* without else */
	{"a11e3c56b989a8c237b8560b74a9467efe97af25", IS_RELEASE},       /* del, return 1 */
	{"82e740fa76979da63131d5cb9a5b5f2faf2a8c12", IS_RELEASE},       /* likewise, else */
	{"2e94be5b78ea83544e1842dc53c4669fbb831534", IS_RELEASE},       /* get ~= value: return 0 */
	{"d3a38e6ec48ed5a32489f0d251297515b8679b63", IS_RELEASE},       /* likewise, return del */
	{"e136d96ee7965fbebba54310472bcbb0d9bf09b3", IS_RELEASE},       /* redis-py */
	{"ef9427647846e7e30b975937a3a4b344a76e74f6", IS_RELEASE},       /* node-redlock 5 */
	{"9b239671f8379118e0a2297d5590d94d411e428a", IS_RELEASE_MINUS}, /* redsync */
	{"99e5040acdfc510e8c21c4aa9e9a49a13a4328c8", IS_RELEASE_DAPR},  /* Dapr */
	{"a6cfc5c86b850d63f7eb4a73cd5ff0ba9696b74b", IS_RELEASE_TRUE},  /* del, true or false */
	{"0e998e63bc0f9fdb5fc5c89ce92c1cb8ea76a086", IS_RELEASE_TRUE},  /* likewise, unlink */
	{"a89f9482617662ea907d08c8b61a31c37cea1092", IS_RELEASE_TRUE},  /* Spring Integration */
	{"c8256ff0fcb8940de5fcac37b2cb8ce8ec58eb13", IS_EXTEND},        /* get == value: pexpire */
	{"5b15a4bb81483d60fa2568b226e280de58fb8ca5", IS_EXTEND},        /* without else */
	{"f2e40814cbefa1f536a371ec55a3a4ad73dfb329", IS_EXTEND},        /* pexpire, return 1 */
	{"60ba8ed148095e6b5b0ce3e078cad2f93763decd", IS_EXTEND},        /* likewise, else */
	{"4f1d5fe1a1045e11ff27b6957d98e9bb72820007", IS_EXTEND},        /* get ~= value: return 0 */
	{"73930f1dc3c10f695f3eed94be5aede65b0c47ed", IS_EXTEND}, /* likewise, return pexpire */
	{"a538c1a92d615cc9dfb717cd3459c295635e178a", IS_EXTEND}, /* redis-py, reacquire */
	{"0aa0372dfb3781f192496fbbbbef7cd4774cc194", IS_ADD_OR_EXTEND}, /* redis-py */
	{"e652ac0a856cc0f7b791263f83d374f8da761458", IS_EXTEND_TRUE},   /* Spring Integration */
	{"562e1933f0cde8f2060c7bcac9e207487701ff7d", IS_EXTEND},        /* node-redlock 5 */
	{"e14e4e04ad7448a446ddf461ec36db351a0bfa95", IS_LOCK},          /* node-redlock 5 */
	{"b816dcaedaa6c2c240686eb59395fbfe90009fe1", IS_TAKE},          /* redsync, SetNXOnExtend */
	{"22d34036a68e20b7508944c9f0826ad88c698009", IS_TAKE},          /* Symfony before 5.2 */
	{"73f9a71396797600be30d2f309194cd4f66bf30d", IS_TAKE_TRUE},     /* Spring Integration */
	{"f1a44b30de4db74fd35b182f47ca0f076901d366", IS_TAKE_MINUS},    /* RedLock.net */
	{"595be2c0ba875f67734df91d5a8d2b14c2d869af", IS_TAKE_OR_EXTEND}, /* redlock-rb */
	{"c73b4e89ce06e33e11a561393831a88171c8b6b4", IS_PTTL},           /* redlock-rb */
};

/* ---- what was recognised by its form so far ---- */

enum { KEPT_MAX = 256 };

struct kept {
	_Atomic bool ready; /* the rest is there, and stays as it is */
	uint8_t digest[SHA1_BYTES];
	uint8_t script;
};

static struct kept kept[KEPT_MAX];
static _Atomic uint32_t kept_n; /* places given away */

static int kept_find(const uint8_t digest[SHA1_BYTES])
{
	uint32_t n = atomic_load_explicit(&kept_n, memory_order_acquire);
	for (uint32_t i = 0; i < n; i++)
		if (atomic_load_explicit(&kept[i].ready, memory_order_acquire) &&
			memcmp(kept[i].digest, digest, SHA1_BYTES) == 0)
			return kept[i].script;
	return -1;
}

/* Two threads may keep the same text at the same time: it then has two places. */
static bool keep(const uint8_t digest[SHA1_BYTES], unsigned script)
{
	uint32_t at = atomic_load_explicit(&kept_n, memory_order_relaxed);
	do
		if (at == KEPT_MAX)
			return false;
	while (!atomic_compare_exchange_weak_explicit(
		&kept_n, &at, at + 1, memory_order_acq_rel, memory_order_relaxed));
	memcpy(kept[at].digest, digest, SHA1_BYTES);
	kept[at].script = (uint8_t)script;
	atomic_store_explicit(&kept[at].ready, true, memory_order_release);
	return true;
}

/* ---- */

static uint8_t hex_digit(char ch)
{
	return (uint8_t)(ch <= '9' ? ch - '0' : ch - 'a' + 10);
}

static bool is_digest(const char *hex, const uint8_t digest[SHA1_BYTES])
{
	for (unsigned i = 0; i < SHA1_BYTES; i++)
		if (digest[i] != (hex_digit(hex[2 * i]) << 4 | hex_digit(hex[2 * i + 1])))
			return false;
	return true;
}

static int known_find(const struct known *known, size_t n, const uint8_t digest[SHA1_BYTES])
{
	for (size_t i = 0; i < n; i++)
		if (is_digest(known[i].hex, digest))
			return known[i].script;
	return -1;
}

void script_digest(struct bytes text, uint8_t ret[SHA1_BYTES])
{
	struct sha1 s;
	sha1_init(&s);
	sha1_add(&s, text);
	sha1_end(&s, ret);
}

int script_by_digest(const uint8_t digest[SHA1_BYTES])
{
	int listed = known_find(by_digest, sizeof by_digest / sizeof by_digest[0], digest);
	return listed >= 0 ? listed : kept_find(digest);
}

int script_by_text(struct bytes text, uint8_t ret_digest[SHA1_BYTES], uint8_t ret_form[SHA1_BYTES],
	bool *ret_kept)
{
	memset(ret_form, 0, SHA1_BYTES);
	script_digest(text, ret_digest);
	int script = script_by_digest(ret_digest);
	*ret_kept = script >= 0;
	if (script >= 0 || !script_form(text, ret_form))
		return script;
	script = known_find(by_form, sizeof by_form / sizeof by_form[0], ret_form);
	if (script >= 0)
		*ret_kept = keep(ret_digest, (unsigned)script);
	return script;
}

bool script_reply(unsigned index, enum outcome outcome, const char **ret)
{
	CHECK(index < scripts_count);
	const struct script *s = &scripts[index];
	switch (outcome) {
	case OUT_OK:
		*ret = s->done;
		return true;
	case OUT_HELD:
	case OUT_NOTOWNER:
		*ret = s->theirs;
		return true;
	case OUT_NOTFOUND:
		*ret = s->not_held;
		return true;
	default:
		return false;
	}
}
