/* Take many locks with one client, hold them, and count what is still ours.
 * usage: many_locks NODES PREFIX LOCKS TTL-MS HOLD-MS [own-loop]
 * Prints one line: taken, lost, valid at the end, threads of the process, its milliseconds of CPU
 * while it held them. */
#include <locker/locker.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { LOCKS_MAX = 10000 };

static struct locker_lock *locks[LOCKS_MAX];
static atomic_int answers, taken, lost;

static void on_event(void *context, struct locker_lock *lock, enum locker_event event,
	enum locker_outcome reason)
{
	if (event == LOCKER_GONE)
		lost++;
}

static void on_taken(void *context, const struct locker_reply *reply)
{
	taken += reply->outcome == LOCKER_OK;
	answers++;
}

static int64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static int64_t cpu_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* A loop as a program around the library has one, for at most @ms. */
static void turn(struct locker_client *client, bool own_loop, int64_t ms)
{
	struct pollfd p = {.fd = locker_fd(client), .events = POLLIN};

	if (!own_loop) {
		usleep(10000);
		return;
	}
	int timeout_ms = locker_next_timeout_ms(client);
	if (timeout_ms < 0 || timeout_ms > ms)
		timeout_ms = (int)ms;
	(void)!poll(&p, 1, timeout_ms);
	locker_process(client);
}

static int count_threads(void)
{
	char line[128];
	int n = 0;
	FILE *status = fopen("/proc/self/status", "r");

	while (status && fgets(line, sizeof line, status))
		(void)sscanf(line, "Threads: %d", &n);
	if (status)
		fclose(status);
	return n;
}

static int run(struct locker_client *client, char **argv, int n, bool own_loop)
{
	struct locker_lock_options wish = {
		.ttl_ms = atoll(argv[4]), .extend = true, .on_event = on_event};
	char key[64];
	int valid = 0;

	for (int i = 0; i < n; i++) {
		snprintf(key, sizeof key, "%s-%d", argv[2], i);
		wish.key = locker_text(key);
		if (locker_lock_new(client, &wish, &locks[i]) != LOCKER_OK ||
			locker_acquire_async(locks[i], 0, on_taken, NULL) != LOCKER_OK)
			return 1;
	}
	while (answers < n)
		turn(client, own_loop, 1000);
	int64_t begin_cpu_ms = cpu_ms();
	int64_t end_ms = now_ms() + atoll(argv[5]);
	while (now_ms() < end_ms)
		turn(client, own_loop, end_ms - now_ms());
	int64_t used_cpu_ms = cpu_ms() - begin_cpu_ms;
	for (int i = 0; i < n; i++)
		valid += locker_lock_valid(locks[i]);
	printf("%d %d %d %d %lld\n", taken, lost, valid, count_threads(), (long long)used_cpu_ms);
	for (int i = 0; i < n; i++)
		locker_lock_free(locks[i]);
	return 0;
}

int main(int argc, char **argv)
{
	bool own_loop = argc == 7 && strcmp(argv[6], "own-loop") == 0;
	struct locker_client_options options = {.own_loop = own_loop};
	struct locker_client *client;

	if (argc < 6 || atoi(argv[3]) > LOCKS_MAX)
		return 2;
	options.nodes = argv[1];
	if (locker_client_new(&options, &client) != LOCKER_OK)
		return 2;
	int status = run(client, argv, atoi(argv[3]), own_loop);
	locker_client_free(client);
	return status;
}
