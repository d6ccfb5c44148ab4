#include "elapsed.h"

#include <errno.h>
#include <sys/timerfd.h>
#include <time.h>

static int64_t read_ns(clockid_t clock)
{
	struct timespec t;

	(void)clock_gettime(clock, &t);
	return (int64_t)t.tv_sec * 1000 * NS_PER_MS + t.tv_nsec;
}

struct instant instant_now(void)
{
	return (struct instant){
		.boot_ns = read_ns(CLOCK_BOOTTIME), .raw_ns = read_ns(CLOCK_MONOTONIC_RAW)};
}

int64_t elapsed_ns(struct instant since)
{
	struct instant now = instant_now();
	int64_t boot_ns = now.boot_ns - since.boot_ns;
	int64_t raw_ns = now.raw_ns - since.raw_ns;

	return boot_ns > raw_ns ? boot_ns : raw_ns;
}

int alarm_open(void)
{
	int fd = timerfd_create(CLOCK_BOOTTIME, TFD_CLOEXEC | TFD_NONBLOCK);

	return fd < 0 ? -errno : fd;
}

void alarm_set(int fd, int64_t after_ns)
{
	/* Early by more than what one clock may gain on the other. */
	int64_t ns = after_ns - after_ns / 512;

	if (ns < NS_PER_MS / 10)
		ns = NS_PER_MS / 10;
	struct itimerspec at = {.it_value = {.tv_sec = ns / (1000 * NS_PER_MS),
					.tv_nsec = ns % (1000 * NS_PER_MS)}};
	(void)timerfd_settime(fd, 0, &at, NULL);
}
