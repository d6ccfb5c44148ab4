/* The few socket calls of the control thread, apart from the peers' messages: both <sys/socket.h>
 * and wire/msg.h have a MSG_CONFIRM.
 * Non-blocking; all return -errno, -EAGAIN when poll is to be asked, never -EINTR. */
#pragma once

#include <stddef.h>
#include <sys/types.h>

/* The next connection, non-blocking and close-on-exec. */
int sock_accept(int listen_fd);
ssize_t sock_send(int fd, const void *p, size_t n);
ssize_t sock_recv(int fd, void *p, size_t n);
/* 0, or what came of a non-blocking connect. */
int sock_connected(int fd);
void sock_set_nonblocking(int fd);
/* As an io_uring wants it: it answers -EAGAIN at once on a non-blocking file, instead of waiting.
 */
void sock_hand_over(int fd);
/* End of our side; what was sent still arrives. */
void sock_finish(int fd);
