/* Replies as people and as machines want to read them. */
#pragma once

#include <stdio.h>

#include "wire/resp.h"

/* One JSON value. Byte strings become JSON strings: valid UTF-8 as it stands, any other byte and
 * control characters as \u00XX. */
void json_value(FILE *f, const struct resp_value *v);
void json_string(FILE *f, struct bytes s);

/* Lines of "name  value"; nested lists are indented. Bytes that are not printable UTF-8 are written
 * as \xHH, so that a value cannot command the terminal. */
void plain_value(FILE *f, const struct resp_value *v);
void plain_string(FILE *f, struct bytes s);

enum { DURATION_TEXT_BYTES = 64 };
/* The two largest units: "350 ms", "12 s", "3 m 5 s", "2 d 4 h"; "-" for less than none. */
void duration_text(char ret[DURATION_TEXT_BYTES], int64_t ms);
