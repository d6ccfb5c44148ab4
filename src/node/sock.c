#include "node/sock.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

int sock_accept(int listen_fd)
{
	int fd = -1;
	do
		fd = accept4(listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	while (fd < 0 && (errno == EINTR || errno == ECONNABORTED));
	return fd < 0 ? -errno : fd;
}

ssize_t sock_send(int fd, const void *p, size_t n)
{
	ssize_t done = 0;
	do
		done = send(fd, p, n, MSG_NOSIGNAL | MSG_DONTWAIT);
	while (done < 0 && errno == EINTR);
	return done < 0 ? -errno : done;
}

ssize_t sock_recv(int fd, void *p, size_t n)
{
	ssize_t done = 0;
	do
		done = recv(fd, p, n, MSG_DONTWAIT);
	while (done < 0 && errno == EINTR);
	return done < 0 ? -errno : done;
}

int sock_connected(int fd)
{
	int error = 0;
	socklen_t len = sizeof error;
	if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) != 0)
		return -errno;
	return -error;
}

void sock_set_nonblocking(int fd)
{
	(void)fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
}

void sock_hand_over(int fd)
{
	(void)fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK);
	int on = 1;
	(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

void sock_finish(int fd)
{
	(void)shutdown(fd, SHUT_WR);
}
