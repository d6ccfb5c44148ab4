#include "client/address.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool address_split(char *address, char **ret_host, char **ret_port)
{
	char *colon = strrchr(address, ':');

	if (!colon || colon == address || colon[1] < '0' || colon[1] > '9')
		return false;
	*colon = '\0';
	*ret_port = colon + 1;
	*ret_host = address;
	if (address[0] == '[') {
		if (colon[-1] != ']')
			return false;
		colon[-1] = '\0';
		*ret_host = address + 1;
	}
	char *end;
	long number = strtol(*ret_port, &end, 10);
	return **ret_host != '\0' && *end == '\0' && number >= 1 && number <= 65535;
}

bool address_next(const char **list, char *ret, size_t bytes, bool *ret_fits)
{
	if (**list == '\0')
		return false;
	size_t n = strcspn(*list, ",");
	*ret_fits = n < bytes;
	(void)snprintf(ret, bytes, "%.*s", (int)n, *list);
	*list += n;
	if (**list == ',')
		++*list;
	return true;
}
