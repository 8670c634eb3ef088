/* Sockets: listening, connecting and accepting, over TCP and at Unix paths. See passfd.h. */
#include "passfd.h"
#include "passfd_internal.h"
#include "platform.h"

#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <sys/stat.h>

/* Connections that died in the backlog. After this many in a row, the rest is left to the next call. */
#define MAX_ABORTED_ACCEPTS 64

/* Errors of the connection that accept(2) would have returned. The next connection may be fine. */
static int is_of_the_connection(int error)
{
	switch (error) {
	case EINTR:
	case ECONNABORTED:
	case EPROTO:
	case ENETDOWN:
	case ENOPROTOOPT:
	case EHOSTDOWN:
	case EHOSTUNREACH:
	case ENETUNREACH:
#ifdef ENONET
	case ENONET:
#endif
		return 1;
	default:
		return 0;
	}
}

int passfd_accept(int listener, int *fds, size_t capacity, void (*on_accepted)(int fd))
{
	size_t count = 0;
	int aborted = 0;
	int result = passfd_set_nonblocking(listener, 1);

	if (result < 0)
		return result;
	while (count < capacity) {
		int fd = platform_accept(listener);
		if (fd >= 0) {
			if (on_accepted)
				on_accepted(fd);
			fds[count++] = fd;
		} else if (is_of_the_connection(-fd) && aborted < MAX_ABORTED_ACCEPTS) {
			aborted++;
		} else {
			if (is_of_the_connection(-fd))
				fd = -EAGAIN;
			return count > 0 ? (int)count : fd;
		}
	}
	return (int)count;
}

int passfd_socketpair(int fds[2])
{
	return platform_socketpair(fds);
}

static int nonblocking_socket(int family)
{
	int fd = platform_socket(family, SOCK_STREAM);
	if (fd < 0)
		return fd;
	int result = passfd_set_nonblocking(fd, 1);
	return result < 0 ? close_and_return(fd, result) : fd;
}

/* A path ends with a NUL. An abstract name does not, because every byte of it counts. Returns whether the name is abstract. */
static int unix_address(const char *name, size_t length, struct sockaddr_un *address, socklen_t *size)
{
	int abstract = length > 0 && name[0] == '\0';
	size_t room = sizeof address->sun_path - (abstract ? 0 : 1);

	if (length == 0)
		return -EINVAL;
	if (length > room)
		return -ENAMETOOLONG;
	memset(address, 0, sizeof *address);
	address->sun_family = AF_UNIX;
	memcpy(address->sun_path, name, length);
	*size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length + (abstract ? 0 : 1));
	return abstract;
}

int passfd_listen_unix(const char *name, size_t length, int backlog, mode_t mode)
{
	struct sockaddr_un address;
	socklen_t size;
	int abstract = unix_address(name, length, &address, &size);
	if (abstract < 0)
		return abstract;

	int fd = nonblocking_socket(AF_UNIX);
	if (fd < 0)
		return fd;
	if (bind(fd, (struct sockaddr *)&address, size) < 0)
		return close_and_return(fd, -errno);
	/* No client can connect between bind and listen, so the mode applies from the first connection on. */
	if ((!abstract && chmod(address.sun_path, mode) < 0) || listen(fd, backlog) < 0) {
		int error = errno;
		if (!abstract)
			unlink(address.sun_path);
		return close_and_return(fd, -error);
	}
	return fd;
}

int passfd_connect_unix(const char *name, size_t length)
{
	struct sockaddr_un address;
	socklen_t size;
	int result = unix_address(name, length, &address, &size);
	if (result < 0)
		return result;

	int fd = nonblocking_socket(AF_UNIX);
	if (fd < 0)
		return fd;
	do
		result = connect(fd, (struct sockaddr *)&address, size);
	while (result < 0 && errno == EINTR);
	return result < 0 ? close_and_return(fd, -errno) : fd;
}

ssize_t passfd_send_datagram(const char *name, size_t name_length, const void *bytes, size_t length, const int *fds,
                             size_t count)
{
	struct sockaddr_un address;
	socklen_t size;
	int result = unix_address(name, name_length, &address, &size);
	if (result < 0)
		return result;
	if (count > PASSFD_MAX_DESCRIPTORS)
		return -EINVAL;
	/* The socket below takes the lowest free number, which may be the number of a descriptor that its owner has closed. */
	for (size_t i = 0; i < count; i++)
		if (fcntl(fds[i], F_GETFD) < 0)
			return -errno;

	int fd = platform_socket(AF_UNIX, SOCK_DGRAM);
	if (fd < 0)
		return fd;
	ssize_t sent = passfd_send_to(fd, &address, size, bytes, length, fds, count);
	close(fd);
	return sent;
}

static int numeric_address(const char *host, int port, struct addrinfo **found)
{
	char service[8];
	struct addrinfo hints = {
		.ai_socktype = SOCK_STREAM,
		.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV,
	};

	snprintf(service, sizeof service, "%d", port & 0xffff);
	switch (getaddrinfo(host, service, &hints, found)) {
	case 0:
		return 0;
	case EAI_MEMORY:
		return -ENOMEM;
	default:
		return -EINVAL;
	}
}

int passfd_listen_tcp(const char *host, int port, int backlog, int ipv6_only)
{
	struct addrinfo *address;
	int on = 1;
	int result = numeric_address(host, port, &address);
	if (result < 0)
		return result;

	int fd = nonblocking_socket(address->ai_family);
	if (fd >= 0) {
		if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) < 0 ||
		    (address->ai_family == AF_INET6 &&
		     setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &ipv6_only, sizeof ipv6_only) < 0) ||
		    bind(fd, address->ai_addr, address->ai_addrlen) < 0 || listen(fd, backlog) < 0)
			fd = close_and_return(fd, -errno);
	}
	freeaddrinfo(address);
	return fd;
}

int passfd_connect_tcp(const char *host, int port)
{
	struct addrinfo *address;
	int result = numeric_address(host, port, &address);
	if (result < 0)
		return result;

	int fd = nonblocking_socket(address->ai_family);
	/* After EINTR a connect goes on in the kernel, as after EINPROGRESS. */
	if (fd >= 0 && connect(fd, address->ai_addr, address->ai_addrlen) < 0 && errno != EINPROGRESS && errno != EINTR)
		fd = close_and_return(fd, -errno);
	freeaddrinfo(address);
	return fd;
}
