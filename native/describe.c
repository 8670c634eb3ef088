/* What the kernel knows about a descriptor: kind, addresses, peer, and who holds a connection. See passfd.h. */
#include "passfd.h"
#include "diagnostics.h"
#include "platform.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/stat.h>

int passfd_peer(int socket, struct passfd_peer *peer)
{
	return platform_peer(socket, &peer->pid, &peer->uid, &peer->gid);
}

static enum passfd_family family_of(sa_family_t family)
{
	switch (family) {
	case AF_UNIX:
		return PASSFD_UNIX;
	case AF_INET:
		return PASSFD_IPV4;
	case AF_INET6:
		return PASSFD_IPV6;
	default:
		return PASSFD_OTHER;
	}
}

union any_address {
	struct sockaddr generic;
	struct sockaddr_un local;
	struct sockaddr_in ipv4;
	struct sockaddr_in6 ipv6;
	struct sockaddr_storage storage;
};

static int query_address(int socket, int remote, union any_address *found, socklen_t *size)
{
	*size = sizeof *found;
	memset(found, 0, sizeof *found);
	int result = remote ? getpeername(socket, &found->generic, size) : getsockname(socket, &found->generic, size);
	return result < 0 ? -errno : 0;
}

int passfd_address(int socket, int remote, struct passfd_address *address)
{
	union any_address found;
	socklen_t size;
	int result = query_address(socket, remote, &found, &size);
	if (result < 0)
		return result;

	memset(address, 0, sizeof *address);
	address->family = family_of(found.generic.sa_family);
	switch (address->family) {
	case PASSFD_IPV4:
	case PASSFD_IPV6: {
		result = getnameinfo(&found.generic, size, address->name, sizeof address->name, NULL, 0, NI_NUMERICHOST);
		if (result != 0)
			return -EINVAL;
		address->length = strlen(address->name);
		address->port = ntohs(address->family == PASSFD_IPV4 ? found.ipv4.sin_port : found.ipv6.sin6_port);
		break;
	}
	case PASSFD_UNIX: {
		size_t start = offsetof(struct sockaddr_un, sun_path);
		address->length = size > start ? size - start : 0;
		/* Linux counts the NUL after a path. An abstract name has none, and a socket without a name has no bytes. */
		if (address->length > 0 && found.local.sun_path[0] != '\0')
			address->length = strnlen(found.local.sun_path, address->length);
		memcpy(address->name, found.local.sun_path, address->length);
		break;
	}
	case PASSFD_OTHER:
		break;
	}
	return 0;
}

static int describe_socket(int fd, struct passfd_description *description)
{
	union any_address own;
	socklen_t size;
	int type = 0, accepting = 0;
	socklen_t length = sizeof type;
	if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &length) < 0)
		return -errno;
	int result = query_address(fd, 0, &own, &size);
	if (result < 0)
		return result;

	description->family = family_of(own.generic.sa_family);
	length = sizeof accepting;
	/* On a kernel without the option (ENOPROTOOPT) the socket counts as not listening. */
	getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &accepting, &length);
	if (type == SOCK_STREAM)
		description->type = accepting ? PASSFD_TYPE_LISTENER : PASSFD_TYPE_STREAM;
	else
		description->type = type == SOCK_DGRAM ? PASSFD_TYPE_DATAGRAM : PASSFD_TYPE_SOCKET;
	return 0;
}

int passfd_describe(int fd, struct passfd_description *description)
{
	struct stat status;
	int flags = fcntl(fd, F_GETFL);
	if (flags < 0 || fstat(fd, &status) < 0)
		return -errno;

	flags &= O_ACCMODE;
	description->access = flags == O_RDONLY ? 1 : flags == O_WRONLY ? 2 : 3;
	description->type = PASSFD_TYPE_OTHER;
	description->family = PASSFD_OTHER;
	switch (status.st_mode & S_IFMT) {
	case S_IFSOCK:
		return describe_socket(fd, description);
	case S_IFREG:
		description->type = PASSFD_TYPE_FILE;
		break;
	case S_IFDIR:
		description->type = PASSFD_TYPE_DIRECTORY;
		break;
	case S_IFIFO:
		description->type = PASSFD_TYPE_PIPE;
		break;
	case S_IFCHR:
		description->type = isatty(fd) ? PASSFD_TYPE_TTY : PASSFD_TYPE_OTHER;
		break;
	}
	return 0;
}

int passfd_queue_length(int listener)
{
	int type;
	socklen_t length = sizeof type;
	struct pollfd one = {.fd = listener, .events = POLLIN};

#ifdef __linux__
	struct tcp_info tcp;
	socklen_t tcp_length = sizeof tcp;
	/* For a listening socket the kernel reports the length of the accept queue here (tcp_get_info in net/ipv4/tcp.c). */
	if (getsockopt(listener, IPPROTO_TCP, TCP_INFO, &tcp, &tcp_length) == 0)
		return tcp.tcpi_state == TCP_LISTEN ? (int)tcp.tcpi_unacked : 0;
#endif
	if (getsockopt(listener, SOL_SOCKET, SO_TYPE, &type, &length) < 0)
		return -errno;
	int count = poll(&one, 1, 0);
	return count < 0 ? -errno : count > 0 && (one.revents & (POLLIN | POLLHUP)) == POLLIN;
}

int passfd_identify(int socket, struct passfd_identity *identity)
{
	union any_address local, remote;
	socklen_t size;
	int result = query_address(socket, 0, &local, &size);
	if (result == 0)
		result = query_address(socket, 1, &remote, &size);
	if (result < 0)
		return result;

	memset(identity, 0, sizeof *identity);
	identity->family = local.generic.sa_family;
	switch (identity->family) {
	case AF_INET:
		memcpy(identity->local, &local.ipv4.sin_addr, sizeof local.ipv4.sin_addr);
		memcpy(identity->remote, &remote.ipv4.sin_addr, sizeof remote.ipv4.sin_addr);
		identity->local_port = local.ipv4.sin_port;
		identity->remote_port = remote.ipv4.sin_port;
		break;
	case AF_INET6:
		memcpy(identity->local, &local.ipv6.sin6_addr, sizeof local.ipv6.sin6_addr);
		memcpy(identity->remote, &remote.ipv6.sin6_addr, sizeof remote.ipv6.sin6_addr);
		identity->local_port = local.ipv6.sin6_port;
		identity->remote_port = remote.ipv6.sin6_port;
		identity->number = local.ipv6.sin6_scope_id;
		break;
	case AF_UNIX:
		break;
	default:
		return -ENOTSUP;
	}
	return diagnostics_identify(socket, identity);
}

int passfd_open_diagnostics(void)
{
	return diagnostics_open();
}

int passfd_is_held(int diagnostics, const struct passfd_identity *identity)
{
	return diagnostics_is_held(diagnostics, identity);
}
