/* One of several that stand for the same post, in an event loop of its own without threads. Says
 * what happens, a line each; ends on end of input, resigns on a line "resign".
 * usage: elect NODES KEY NAME TTL-MS */
#include <locker/locker.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static void say(void *context, struct locker_election *election, enum locker_election_event event,
	enum locker_outcome reason)
{
	struct locker_reply leader;

	switch (event) {
	case LOCKER_ELECTED:
		printf("elected: term %llu\n", (unsigned long long)locker_election_token(election));
		break;
	case LOCKER_LEAD_AT_RISK:
		printf("at risk: %s\n", locker_outcome_sentence(reason));
		break;
	case LOCKER_DEPOSED:
		printf("deposed: %s\n", locker_outcome_sentence(reason));
		/* A program that has to tidy up first would do this afterwards. */
		locker_election_campaign(election);
		break;
	case LOCKER_LEADER_CHANGED:
		if (locker_election_leader(election, &leader) == LOCKER_OK)
			printf("leader: %s, term %llu\n", leader.value,
				(unsigned long long)leader.token);
		else
			printf("leader: nobody\n");
		break;
	}
	fflush(stdout);
}

/* False: the end of the input. */
static bool obey(struct locker_election *election)
{
	char line[64];
	ssize_t n = read(STDIN_FILENO, line, sizeof line);

	if (n > 0)
		locker_election_resign(election);
	return n > 0;
}

static void loop(struct locker_client *client, struct locker_election *election)
{
	struct pollfd fds[] = {
		{.fd = STDIN_FILENO, .events = POLLIN},
		{.fd = locker_fd(client), .events = POLLIN},
	};

	for (;;) {
		(void)!poll(fds, 2, locker_next_timeout_ms(client));
		if (fds[0].revents && !obey(election))
			return;
		locker_process(client);
	}
}

int main(int argc, char **argv)
{
	struct locker_client_options options = {.client_name = "elect", .own_loop = true};
	struct locker_election_options wish = {.observe = true, .on_event = say};
	struct locker_client *client;
	struct locker_election *election;

	if (argc != 5) {
		fprintf(stderr, "usage: elect NODES KEY NAME TTL-MS\n");
		return 2;
	}
	options.nodes = argv[1];
	wish.key = locker_text(argv[2]);
	wish.name = locker_text(argv[3]);
	wish.ttl_ms = atoll(argv[4]);
	if (locker_client_new(&options, &client) != LOCKER_OK)
		return 2;
	if (locker_election_new(client, &wish, &election) == LOCKER_OK) {
		locker_election_campaign(election);
		loop(client, election);
		locker_election_free(election);
	}
	return locker_client_free(client) == LOCKER_OK ? 0 : 1;
}
