/* Options from one table: the same row serves `--name value` and `--name=value` on the command
 * line, `name value` and `name = value` in a file, defaults, bounds, error texts and --help.
 * What the options mean is the caller's: its setters store into its own struct.
 * Flags win over the file, the file over the defaults. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

struct option;

/* Store @value into the caller's struct @into. 0, or -EINVAL with the end of a sentence in @why
 * ("must be between 1 and 64"). */
typedef int option_setter(
	const struct option *o, const char *value, void *into, char *why, size_t why_bytes);

struct option {
	const char *name;
	const char *argument; /* as --help shows it; NULL: a switch */
	const char *help;
	const char *initial; /* default, stored through the setter; NULL: none */
	const char *shown; /* how --help tells a default that is not a constant; NULL: `initial` */
	option_setter *set;
	size_t offset;     /* of the field, for the setter */
	uint64_t min, max; /* bounds; what they count is the setter's */
	bool flags_only;   /* makes no sense in a file */
	size_t said;       /* offset of a bool, set when it was given and not defaulted; 0: none */
};

/* The table ends with a row without a name. */

/* 0, or -EINVAL: a default that its own setter refuses (@why says which). */
int options_defaults(const struct option *table, void *into, char *why, size_t why_bytes);
/* @argv[0] is skipped. 0, or -EINVAL with a whole sentence in @why. */
int options_args(const struct option *table, int argc, char *const *argv, void *into, char *why,
	size_t why_bytes);
/* 0; -EINVAL; -errno when the file cannot be read. @why: a whole sentence with file and line. */
int options_file(
	const struct option *table, const char *path, void *into, char *why, size_t why_bytes);
/* One line an option. */
void options_help(const struct option *table, FILE *out);

/* Setters for common fields. */
option_setter option_switch; /* bool; no value, or yes/no */
option_setter option_u32;    /* uint32_t; min..max */
option_setter option_ms;     /* uint32_t milliseconds: "1500", "1500ms", "2s"; min..max */
option_setter option_bytes;  /* size_t: "65536", "64K", "8M"; min..max */
option_setter option_text;   /* char[max + 1]; min..max bytes */

/* Digits only. 0, -EINVAL, or -ERANGE beyond 64 bits. *ret_end: what follows the digits. */
int option_number(const char *text, uint64_t *ret, const char **ret_end);
