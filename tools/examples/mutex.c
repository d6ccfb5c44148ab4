/* Do something under a lock that is kept alive meanwhile, and stop when it is lost.
 * usage: mutex NODES KEY TTL-MS WORK-MS */
#include <locker/locker.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { WAIT_MS = 10000, STEP_MS = 10 };

static void say(void *context, struct locker_lock *lock, enum locker_event event,
	enum locker_outcome reason)
{
	printf("%s: %s\n", event == LOCKER_GONE ? "gone" : "at risk",
		locker_outcome_sentence(reason));
	fflush(stdout);
}

/* What must not happen twice at a time; the data would refuse an older @token. */
static void work_a_little(uint64_t token)
{
	struct timespec step = {.tv_nsec = STEP_MS * 1000000L};

	nanosleep(&step, NULL);
}

static int run(struct locker_lock *lock, int64_t work_ms)
{
	struct locker_reply reply;

	if (locker_acquire(lock, WAIT_MS, &reply) != LOCKER_OK) {
		printf("not taken: %s; %s\n", locker_outcome_sentence(reply.outcome),
			reply.message);
		return 1;
	}
	printf("taken: token %llu\n", (unsigned long long)locker_lock_token(lock));
	fflush(stdout);
	for (; work_ms > 0; work_ms -= STEP_MS) {
		if (!locker_lock_valid(lock)) {
			printf("stopped: the lock is not ours any more\n");
			return 2;
		}
		work_a_little(locker_lock_token(lock));
	}
	enum locker_outcome outcome = locker_release(lock, &reply);
	printf("released: %s\n", locker_outcome_word(outcome));
	return outcome == LOCKER_OK ? 0 : 3;
}

int main(int argc, char **argv)
{
	struct locker_client_options options = {.client_name = "mutex"};
	struct locker_lock_options wish = {.extend = true, .on_event = say};
	struct locker_client *client;
	struct locker_lock *lock;
	int status = 4;

	if (argc != 5) {
		fprintf(stderr, "usage: mutex NODES KEY TTL-MS WORK-MS\n");
		return status;
	}
	options.nodes = argv[1];
	wish.key = locker_text(argv[2]);
	wish.ttl_ms = atoll(argv[3]);
	if (locker_client_new(&options, &client) != LOCKER_OK)
		return status;
	if (locker_lock_new(client, &wish, &lock) == LOCKER_OK) {
		status = run(lock, atoll(argv[4]));
		locker_lock_free(lock);
	}
	locker_client_free(client);
	return status;
}
