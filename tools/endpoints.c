#include "endpoints.h"

#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "client/address.h"

enum { ENTRY_MAX_BYTES = 112 };

/* The next of *@list, which moves on; false: it is none. */
static bool next_entry(
	const char **list, char entry[ENTRY_MAX_BYTES], char **ret_host, char **ret_port)
{
	bool fits;

	return address_next(list, entry, ENTRY_MAX_BYTES, &fits) && fits &&
	       address_split(entry, ret_host, ret_port);
}

bool endpoints_valid(const char *list)
{
	char entry[ENTRY_MAX_BYTES], *host, *port;

	do {
		if (!next_entry(&list, entry, &host, &port))
			return false;
	} while (*list);
	return true;
}

static void add(struct endpoints *e, const char *host, const char *port)
{
	if (e->n < ENDPOINTS_MAX)
		(void)snprintf(e->address[e->n++], sizeof e->address[0],
			strchr(host, ':') ? "[%.*s]:%s" : "%.*s:%s", ENTRY_MAX_BYTES, host, port);
}

void endpoints_resolve(struct endpoints *ret, const char *list)
{
	struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM}, *found;
	char entry[ENTRY_MAX_BYTES], number[ENTRY_MAX_BYTES], *host, *port;

	ret->n = 0;
	while (*list && next_entry(&list, entry, &host, &port)) {
		if (getaddrinfo(host, NULL, &hints, &found) != 0) {
			add(ret, host, port);
			continue;
		}
		for (struct addrinfo *a = found; a; a = a->ai_next) {
			if (getnameinfo(a->ai_addr, a->ai_addrlen, number, sizeof number, NULL, 0,
				    NI_NUMERICHOST) == 0)
				add(ret, number, port);
		}
		freeaddrinfo(found);
	}
}
