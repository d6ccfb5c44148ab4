#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "io/io.h"

enum {
	HOST_MAX_BYTES = 256,
	PORT_MAX = 65535,
	BACKLOG = 4096, /* the kernel cuts it to net.core.somaxconn */
	KEEPALIVE_IDLE_S = 30,
	KEEPALIVE_INTERVAL_S = 10,
	KEEPALIVE_COUNT = 3,
	USER_TIMEOUT_MS = 15000,
	/* Unsent bytes beyond this stay in our buffers, where limits apply. */
	NOTSENT_LOWAT_BYTES = 64 * 1024,
	GROUPS_MAX = 16,
};

struct endpoint {
	char host[HOST_MAX_BYTES]; /* empty: all addresses */
	char port[8];
};

/* Addresses this process listens on with SO_REUSEPORT: who finds one in use that is listed here
 * has found us. */
static struct {
	pthread_mutex_t lock;
	unsigned n;
	struct sockaddr_storage addr[GROUPS_MAX];
} groups = {.lock = PTHREAD_MUTEX_INITIALIZER};

static int bad_address(const char *address, const char *reason, char *why, size_t why_bytes)
{
	(void)snprintf(why, why_bytes, "\"%s\" is no address: %s", address, reason);
	return -EINVAL;
}

static bool good_port(const char *port)
{
	size_t digits = strspn(port, "0123456789");
	return digits > 0 && digits <= 5 && port[digits] == '\0' && atoi(port) <= PORT_MAX;
}

static int parse(const char *address, struct endpoint *ret, char *why, size_t why_bytes)
{
	const char *colon = strrchr(address, ':');
	if (colon == NULL)
		return bad_address(
			address, "write HOST:PORT, [IPv6]:PORT or :PORT", why, why_bytes);
	if (!good_port(colon + 1))
		return bad_address(address, "the port is a number from 0 to 65535", why, why_bytes);
	const char *host = address;
	size_t len = (size_t)(colon - address);
	if (address[0] == '[') {
		if (len < 3 || address[len - 1] != ']')
			return bad_address(
				address, "IPv6 is written [ADDRESS]:PORT", why, why_bytes);
		host++;
		len -= 2;
	} else if (memchr(host, ':', len) != NULL) {
		return bad_address(address, "IPv6 is written [ADDRESS]:PORT", why, why_bytes);
	}
	if (len >= sizeof ret->host)
		return bad_address(address, "the host name is too long", why, why_bytes);
	memcpy(ret->host, host, len);
	ret->host[len] = '\0';
	(void)snprintf(ret->port, sizeof ret->port, "%s", colon + 1);
	return 0;
}

static int resolve(
	const char *address, bool passive, struct addrinfo **ret, char *why, size_t why_bytes)
{
	struct endpoint to;
	int err = parse(address, &to, why, why_bytes);
	if (err != 0)
		return err;
	const struct addrinfo hints = {
		.ai_socktype = SOCK_STREAM,
		.ai_flags = AI_NUMERICSERV | (passive ? AI_PASSIVE : 0),
	};
	err = getaddrinfo(to.host[0] == '\0' ? NULL : to.host, to.port, &hints, ret);
	if (err == 0)
		return 0;
	(void)snprintf(why, why_bytes, "cannot resolve \"%s\": %s", address, gai_strerror(err));
	return -ENOENT;
}

static void set_option(int fd, int level, int name, int value)
{
	/* Wishes: a kernel or socket without them still serves. */
	(void)!setsockopt(fd, level, name, &value, sizeof value);
}

static void set_stream_options(int fd)
{
	set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
	set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
	set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, KEEPALIVE_IDLE_S);
	set_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S);
	set_option(fd, IPPROTO_TCP, TCP_KEEPCNT, KEEPALIVE_COUNT);
	set_option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, USER_TIMEOUT_MS);
	set_option(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, NOTSENT_LOWAT_BYTES);
}

static bool same_address(const struct sockaddr_storage *a, const struct sockaddr *b)
{
	if (a->ss_family != b->sa_family)
		return false;
	if (b->sa_family == AF_INET6) {
		const struct sockaddr_in6 *x = (const void *)a;
		const struct sockaddr_in6 *y = (const void *)b;
		return x->sin6_port == y->sin6_port && x->sin6_scope_id == y->sin6_scope_id &&
		       memcmp(&x->sin6_addr, &y->sin6_addr, sizeof x->sin6_addr) == 0;
	}
	const struct sockaddr_in *x = (const void *)a;
	const struct sockaddr_in *y = (const void *)b;
	return x->sin_port == y->sin_port && x->sin_addr.s_addr == y->sin_addr.s_addr;
}

static bool joined(const struct addrinfo *at)
{
	for (unsigned i = 0; i < groups.n; i++)
		if (same_address(&groups.addr[i], at->ai_addr))
			return true;
	return false;
}

static void remember(const struct addrinfo *at)
{
	if (joined(at) || groups.n == GROUPS_MAX)
		return;
	memcpy(&groups.addr[groups.n++], at->ai_addr, at->ai_addrlen);
}

static int open_socket(const struct addrinfo *at, bool reuse_port)
{
	int fd = socket(at->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1);
	if (reuse_port)
		set_option(fd, SOL_SOCKET, SO_REUSEPORT, 1);
	if (bind(fd, at->ai_addr, at->ai_addrlen) == 0)
		return fd;
	int err = -errno;
	(void)close(fd);
	return err;
}

static bool any_port(const struct addrinfo *at)
{
	/* Same place in both families. */
	const struct sockaddr_in *in = (const void *)at->ai_addr;
	return in->sin_port == 0;
}

/* SO_REUSEPORT would let a second server of the same user share the port in silence: half of the
 * clients would talk to it. A bind without it finds out. */
static int probe_bind(const struct addrinfo *at)
{
	if (any_port(at) || joined(at))
		return 0;
	int fd = open_socket(at, false);
	if (fd < 0)
		return fd;
	(void)close(fd);
	return 0;
}

static int listen_at(const struct addrinfo *at, bool reuse_port)
{
	(void)pthread_mutex_lock(&groups.lock);
	int fd = reuse_port ? probe_bind(at) : 0;
	if (fd == 0)
		fd = open_socket(at, reuse_port);
	if (fd >= 0) {
		set_stream_options(fd);
		if (listen(fd, BACKLOG) != 0) {
			int err = -errno;
			(void)close(fd);
			fd = err;
		} else if (reuse_port && !any_port(at)) {
			remember(at);
		}
	}
	(void)pthread_mutex_unlock(&groups.lock);
	return fd;
}

static void explain_listen(int err, const char *address, char *why, size_t why_bytes)
{
	switch (-err) {
	case EADDRINUSE:
		(void)snprintf(why, why_bytes,
			"%s is in use by another process: stop it or choose another port", address);
		break;
	case EADDRNOTAVAIL:
		(void)snprintf(why, why_bytes, "%s is not an address of this machine", address);
		break;
	case EACCES:
		(void)snprintf(why, why_bytes,
			"not allowed to listen on %s: choose a port from 1024 on", address);
		break;
	default:
		(void)snprintf(why, why_bytes, "cannot listen on %s: %s", address, strerror(-err));
	}
}

int io_listen(const char *address, bool reuse_port, int *ret_fd, char *why, size_t why_bytes)
{
	struct addrinfo *all;
	int err = resolve(address, true, &all, why, why_bytes);
	if (err != 0)
		return err;
	int fd = -EADDRNOTAVAIL;
	for (const struct addrinfo *at = all; at != NULL && fd < 0; at = at->ai_next)
		fd = listen_at(at, reuse_port);
	freeaddrinfo(all);
	if (fd < 0) {
		explain_listen(fd, address, why, why_bytes);
		return fd;
	}
	*ret_fd = fd;
	return 0;
}

static int connect_to(const struct addrinfo *at)
{
	int fd = socket(at->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	set_stream_options(fd);
	if (connect(fd, at->ai_addr, at->ai_addrlen) == 0 || errno == EINPROGRESS)
		return fd;
	int err = -errno;
	(void)close(fd);
	return err;
}

int io_connect(const char *address, int *ret_fd, char *why, size_t why_bytes)
{
	struct addrinfo *all;
	int err = resolve(address, false, &all, why, why_bytes);
	if (err != 0)
		return err;
	int fd = -EADDRNOTAVAIL;
	for (const struct addrinfo *at = all; at != NULL && fd < 0; at = at->ai_next)
		fd = connect_to(at);
	freeaddrinfo(all);
	if (fd < 0) {
		(void)snprintf(why, why_bytes, "cannot connect to %s: %s", address, strerror(-fd));
		return fd;
	}
	*ret_fd = fd;
	return 0;
}

static void format(const struct sockaddr_storage *ss, char *ret, size_t bytes)
{
	char host[INET6_ADDRSTRLEN] = "?";
	if (ss->ss_family == AF_INET) {
		const struct sockaddr_in *in = (const void *)ss;
		(void)inet_ntop(AF_INET, &in->sin_addr, host, sizeof host);
		(void)snprintf(ret, bytes, "%s:%u", host, ntohs(in->sin_port));
	} else if (ss->ss_family == AF_INET6) {
		const struct sockaddr_in6 *in6 = (const void *)ss;
		bool mapped = IN6_IS_ADDR_V4MAPPED(&in6->sin6_addr);
		if (mapped)
			(void)inet_ntop(AF_INET, &in6->sin6_addr.s6_addr[12], host, sizeof host);
		else
			(void)inet_ntop(AF_INET6, &in6->sin6_addr, host, sizeof host);
		(void)snprintf(
			ret, bytes, mapped ? "%s:%u" : "[%s]:%u", host, ntohs(in6->sin6_port));
	} else {
		(void)snprintf(ret, bytes, "local");
	}
}

void io_local_address(int fd, char *ret, size_t bytes)
{
	struct sockaddr_storage ss = {0};
	socklen_t len = sizeof ss;
	(void)!getsockname(fd, (struct sockaddr *)&ss, &len);
	format(&ss, ret, bytes);
}

void io_peer_address(int fd, char *ret, size_t bytes)
{
	struct sockaddr_storage ss = {0};
	socklen_t len = sizeof ss;
	(void)!getpeername(fd, (struct sockaddr *)&ss, &len);
	format(&ss, ret, bytes);
}
