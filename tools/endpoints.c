#include "endpoints.h"

#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum { ENTRY_MAX_BYTES = 112 };

/* Split at the last colon, brackets taken off; false: it is no HOST:PORT. */
static bool split(char *entry, char **ret_host, char **ret_port)
{
	char *colon = strrchr(entry, ':'), *end;

	if (!colon || colon == entry || colon[1] < '0' || colon[1] > '9')
		return false;
	unsigned long port = strtoul(colon + 1, &end, 10);
	if (*end != '\0' || port < 1 || port > 65535)
		return false;
	*colon = '\0';
	*ret_port = colon + 1;
	*ret_host = entry;
	if (entry[0] == '[') {
		if (colon[-1] != ']')
			return false;
		colon[-1] = '\0';
		++*ret_host;
	}
	return **ret_host != '\0';
}

/* The next of *@list, which moves on; false: it is none. */
static bool next_entry(
	const char **list, char entry[ENTRY_MAX_BYTES], char **ret_host, char **ret_port)
{
	size_t bytes = strcspn(*list, ",");
	bool fits = bytes < ENTRY_MAX_BYTES;

	(void)snprintf(entry, ENTRY_MAX_BYTES, "%.*s", (int)bytes, *list);
	*list += bytes + ((*list)[bytes] == ',');
	return fits && split(entry, ret_host, ret_port);
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
