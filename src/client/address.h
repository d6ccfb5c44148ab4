/* Addresses as people write them. Pure. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

enum { ADDRESS_MAX_BYTES = 256 };

/* Split "HOST:PORT" or "[v6]:PORT" in place; false: it is neither, or the port is not in 1..65535.
 */
bool address_split(char *address, char **ret_host, char **ret_port);

/* Copy the next of a comma-separated list to @ret; false: the list is at its end. *ret_fits tells
 * whether it was whole. */
bool address_next(const char **list, char *ret, size_t bytes, bool *ret_fits);
