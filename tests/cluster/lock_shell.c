/* One lock on a line of words: take WAIT-MS, release, valid, token, node, events. One line of
 * answer each. usage: lock_shell NODES KEY TTL-MS [extend] */
#include <locker/locker.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static atomic_int at_risk, gone;
static _Atomic(const char *) why;

static void on_event(void *context, struct locker_lock *lock, enum locker_event event,
	enum locker_outcome reason)
{
	why = locker_outcome_word(reason);
	if (event == LOCKER_GONE)
		gone++;
	else
		at_risk++;
}

static void answer(struct locker_client *client, struct locker_lock *lock, const char *line)
{
	char node[64];

	if (strncmp(line, "take ", 5) == 0) {
		puts(locker_outcome_word(locker_acquire(lock, atoll(line + 5), NULL)));
	} else if (strcmp(line, "release\n") == 0) {
		puts(locker_outcome_word(locker_release(lock, NULL)));
	} else if (strcmp(line, "valid\n") == 0) {
		/* What was told before is read first. */
		int told = gone;
		puts(locker_lock_valid(lock) ? "yes" : told ? "no, told" : "no");
	} else if (strcmp(line, "token\n") == 0) {
		printf("%llu\n", (unsigned long long)locker_lock_token(lock));
	} else if (strcmp(line, "node\n") == 0) {
		locker_client_node(client, node, sizeof node);
		puts(node);
	} else if (strcmp(line, "events\n") == 0) {
		printf("%d %d %s\n", at_risk, gone, why);
	} else {
		puts("?");
	}
	fflush(stdout);
}

int main(int argc, char **argv)
{
	struct locker_client_options options = {.client_name = "shell"};
	struct locker_lock_options wish = {.on_event = on_event};
	struct locker_client *client;
	struct locker_lock *lock;
	char line[128];

	if (argc < 4)
		return 2;
	why = "none";
	options.nodes = argv[1];
	wish.key = locker_text(argv[2]);
	wish.ttl_ms = atoll(argv[3]);
	wish.extend = argc == 5 && strcmp(argv[4], "extend") == 0;
	if (locker_client_new(&options, &client) != LOCKER_OK ||
		locker_lock_new(client, &wish, &lock) != LOCKER_OK)
		return 2;
	while (fgets(line, sizeof line, stdin))
		answer(client, lock, line);
	locker_lock_free(lock);
	return locker_client_free(client) == LOCKER_OK ? 0 : 3;
}
