/* Descriptor passing on POSIX: see passfd.h. */
#include "passfd.h"
#include "diagnostics.h"
#include "platform.h"
#include "will.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>

/* Connections that died in the backlog; more than this in a row is left for the next call. */
#define MAX_ABORTED_ACCEPTS 64

/* Other ancillary data, such as SCM_CREDENTIALS where somebody has set SO_PASSCRED on the socket, must not take the room
 * of the descriptors. */
#define MAX_OTHER_CONTROL 64

union control {
	struct cmsghdr align;
	char bytes[CMSG_SPACE(sizeof(int) * PASSFD_MAX_DESCRIPTORS) + CMSG_SPACE(MAX_OTHER_CONTROL)];
};

/* To the peer, or to the address where there is one. */
static ssize_t send_message(int socket, struct sockaddr_un *address, socklen_t size, const void *bytes, size_t length,
                            const int *fds, size_t count)
{
	union control control;
	struct iovec iov = {.iov_base = (void *)bytes, .iov_len = length};
	struct msghdr message = {.msg_name = address, .msg_namelen = size, .msg_iov = &iov, .msg_iovlen = 1};
	ssize_t sent;

	if (count > PASSFD_MAX_DESCRIPTORS)
		return -EINVAL;
	/* An empty payload takes the descriptors and delivers nothing. */
	if (length == 0)
		return -EINVAL;
	if (count > 0) {
		size_t room = sizeof(int) * count;
		memset(&control, 0, CMSG_SPACE(room));
		message.msg_control = control.bytes;
		message.msg_controllen = CMSG_SPACE(room);
		struct cmsghdr *header = CMSG_FIRSTHDR(&message);
		header->cmsg_level = SOL_SOCKET;
		header->cmsg_type = SCM_RIGHTS;
		header->cmsg_len = CMSG_LEN(room);
		memcpy(CMSG_DATA(header), fds, room);
	}
	do
		sent = platform_sendmsg(socket, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
	while (sent < 0 && errno == EINTR);
	if (sent >= 0)
		return sent;
	switch (errno) {
	case ETOOMANYREFS:
		return -ENOBUFS; /* Node has no name for the other */
	case ENOBUFS:
		return -ENOMEM;
	default:
		return -errno;
	}
}

ssize_t passfd_send(int socket, const void *bytes, size_t length, const int *fds, size_t count)
{
	return send_message(socket, NULL, 0, bytes, length, fds, count);
}

static void close_all(struct passfd_received *received)
{
	for (size_t i = 0; i < received->count; i++)
		close(received->fds[i]);
	received->count = 0;
}

static void take_descriptors(struct cmsghdr *header, struct passfd_received *received)
{
	size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
	const unsigned char *data = CMSG_DATA(header);

	for (size_t i = 0; i < count; i++) {
		int fd;
		memcpy(&fd, data + i * sizeof fd, sizeof fd);
		if (received->count == PASSFD_MAX_DESCRIPTORS || platform_received(fd) < 0) {
			close(fd);
			received->truncated = 1;
		} else {
			will_forget(fd); /* in case that the closer closed the last one with this number */
			received->fds[received->count++] = fd;
		}
	}
}

ssize_t passfd_receive(int socket, void *bytes, size_t capacity, struct passfd_received *received)
{
	union control control;
	struct iovec iov = {.iov_base = bytes, .iov_len = capacity};
	struct msghdr message = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control.bytes,
		.msg_controllen = sizeof control.bytes,
	};
	ssize_t length;

	received->count = 0;
	received->truncated = 0;
	if (capacity == 0)
		return -EINVAL;
	do
		length = recvmsg(socket, &message, MSG_DONTWAIT | PLATFORM_RECEIVE_FLAGS);
	while (length < 0 && errno == EINTR);
	if (length < 0)
		return -errno;

	for (struct cmsghdr *header = CMSG_FIRSTHDR(&message); header; header = CMSG_NXTHDR(&message, header))
		if (header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS)
			take_descriptors(header, received);
		else
			platform_drop(header);
	/* The kernel drops what it cannot install, for one at RLIMIT_NOFILE.
	 * Half a hand-off is worse than none, so the rest goes too. */
	if (message.msg_flags & MSG_CTRUNC)
		received->truncated = 1;
	if (received->truncated)
		close_all(received);
	return length;
}

/* Without room for descriptors a peek opens none, and says that there are some: with these bytes, or after them. The kernel
 * looks for them in all that follows, even when there is no more room for bytes. */
static ssize_t look(int socket, struct iovec *iov, size_t count, int *has_descriptors)
{
	struct msghdr message = {.msg_iov = iov, .msg_iovlen = count};
	ssize_t length;

	do
		length = recvmsg(socket, &message, MSG_PEEK | MSG_DONTWAIT);
	while (length < 0 && errno == EINTR);
	*has_descriptors = length > 0 && (message.msg_flags & MSG_CTRUNC) != 0;
	return length < 0 ? -errno : length;
}

#define PIECE_BYTES 4096

/* More bytes than the kernel keeps in one piece, which is what it attaches descriptors to. */
#define MOST_PIECES 32

/* Nothing is mapped there, so that the kernel cannot write to it. */
#define UNWRITABLE ((void *)1)

/* How many bytes come in whole pieces of the kernel's that fit in so many bytes, up to the first piece with descriptors.
 * Where the buffer ends is what cannot be written, so the kernel looks no further. */
static size_t look_at_pieces(int socket, size_t capacity, int *has_descriptors)
{
	char bytes[PIECE_BYTES];
	struct iovec iov[MOST_PIECES + 1];
	size_t count = 0;

	for (size_t left = capacity; left > 0; left -= iov[count++].iov_len)
		iov[count] = (struct iovec){bytes, left < PIECE_BYTES ? left : PIECE_BYTES};
	iov[count++] = (struct iovec){UNWRITABLE, 1};
	ssize_t length = look(socket, iov, count, has_descriptors);
	return length < 0 ? 0 : (size_t)length;
}

/* How many bytes come before the first with descriptors. */
static size_t bytes_before_descriptors(int socket)
{
	int has_descriptors;
	size_t end = look_at_pieces(socket, MOST_PIECES * PIECE_BYTES, &has_descriptors);

	/* What they came with does not fit in one byte less. */
	return has_descriptors ? look_at_pieces(socket, end - 1, &has_descriptors) : end;
}

static ssize_t receive_plain(int socket, void *bytes, size_t length)
{
	ssize_t received;

	do
		received = recv(socket, bytes, length, MSG_DONTWAIT);
	while (received < 0 && errno == EINTR);
	return received < 0 ? -errno : received;
}

ssize_t passfd_receive_bytes(int socket, void *bytes, size_t capacity, int *has_descriptors)
{
	struct iovec iov = {.iov_base = bytes, .iov_len = capacity};

	*has_descriptors = 0;
	if (capacity == 0)
		return -EINVAL;
	ssize_t length = look(socket, &iov, 1, has_descriptors);
	if (length <= 0)
		return length;
	if (*has_descriptors) {
		size_t before = bytes_before_descriptors(socket);
		if (before == 0)
			return length;
		*has_descriptors = 0;
		length = before < (size_t)length ? (ssize_t)before : length;
	}
	/* Not more than was seen: what has come since may have descriptors. */
	return receive_plain(socket, bytes, (size_t)length);
}

/* More than the buffer of a socket holds, unless somebody had the privilege to make it larger. */
#define MOST_READS 128

int passfd_end(int socket)
{
	char bytes[4096];
	int has_descriptors;

	/* Nobody may have said so before. */
	platform_take_rights_only(socket);
	/* Nothing more can come. */
	shutdown(socket, SHUT_RDWR);
	for (int reads = 0; reads < MOST_READS; reads++) {
		ssize_t length = passfd_receive_bytes(socket, bytes, sizeof bytes, &has_descriptors);
		if (length == 0)
			return 1;
		/* The kernel tells of a reset once, and then goes on with what had come. */
		if ((length < 0 && length != -ECONNRESET) || has_descriptors)
			return 0;
	}
	return 0;
}

int passfd_take_rights_only(int socket)
{
	return platform_take_rights_only(socket);
}

ssize_t passfd_peek(int socket, void *bytes, size_t capacity)
{
	ssize_t length;

	if (capacity == 0)
		return -EINVAL;
	/* recv, not recvmsg: with a control buffer each peek would install the descriptors once more. */
	do
		length = recv(socket, bytes, capacity, MSG_PEEK | MSG_DONTWAIT);
	while (length < 0 && errno == EINTR);
	return length < 0 ? -errno : length;
}

/* Errors that accept(2) passes on from the connection it would have returned; the next one may be well. */
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

int passfd_accept(int listener, int *fds, size_t capacity)
{
	size_t count = 0;
	int aborted = 0;
	int result = passfd_set_nonblocking(listener, 1);

	if (result < 0)
		return result;
	while (count < capacity) {
		int fd = platform_accept(listener);
		if (fd >= 0) {
			will_forget(fd); /* in case that somebody else closed the last one with this number */
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

static int close_and_return(int fd, int result)
{
	close(fd);
	return result;
}

static int nonblocking_socket(int family)
{
	int fd = platform_socket(family, SOCK_STREAM);
	if (fd < 0)
		return fd;
	int result = passfd_set_nonblocking(fd, 1);
	return result < 0 ? close_and_return(fd, result) : fd;
}

/* A path is followed by a NUL; an abstract name is not, since every byte of it counts. */
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
	/* Nobody can connect between bind and listen, so the mode is in force from the first connection on. */
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
	/* The socket below takes the lowest free number, which may be that of one that its owner has closed. */
	for (size_t i = 0; i < count; i++)
		if (fcntl(fds[i], F_GETFD) < 0)
			return -errno;

	int fd = platform_socket(AF_UNIX, SOCK_DGRAM);
	if (fd < 0)
		return fd;
	ssize_t sent = send_message(fd, &address, size, bytes, length, fds, count);
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
	/* After EINTR a connect goes on by itself, as after EINPROGRESS. */
	if (fd >= 0 && connect(fd, address->ai_addr, address->ai_addrlen) < 0 && errno != EINPROGRESS && errno != EINTR)
		fd = close_and_return(fd, -errno);
	freeaddrinfo(address);
	return fd;
}

int passfd_error(int socket)
{
	int error = 0;
	socklen_t length = sizeof error;
	if (getsockopt(socket, SOL_SOCKET, SO_ERROR, &error, &length) < 0)
		return -errno;
	return -error;
}

int passfd_duplicate(int fd)
{
	/* Not below 3: a program that writes to stdout must never write to a client. */
	int duplicate = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	return duplicate < 0 ? -errno : duplicate;
}

int passfd_close(int fd)
{
	will_before_close(fd);
	/* Linux has freed the descriptor even when close(2) says EINTR; a second try could close another's. */
	int result = close(fd) < 0 && errno != EINTR ? -errno : 0;
	will_forget(fd);
	return result;
}

int passfd_shutdown_write(int socket)
{
	return shutdown(socket, SHUT_WR) < 0 ? -errno : 0;
}

int passfd_shutdown(int socket)
{
	return shutdown(socket, SHUT_RDWR) < 0 && errno != ENOTCONN ? -errno : 0;
}

int passfd_set_close_on_exec(int fd)
{
	return platform_set_flag(fd, F_GETFD, F_SETFD, FD_CLOEXEC, 1);
}

int passfd_set_nonblocking(int fd, int on)
{
	return platform_set_flag(fd, F_GETFL, F_SETFL, O_NONBLOCK, on);
}

int passfd_is_nonblocking(int fd)
{
	int flags = fcntl(fd, F_GETFL);
	return flags < 0 ? -errno : (flags & O_NONBLOCK) != 0;
}

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
		/* Linux counts the NUL behind a path; an abstract name has none, and a nameless socket has no bytes. */
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
	/* A kernel that cannot tell (ENOPROTOOPT) leaves it at "not accepting". */
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

int passfd_unread(int socket)
{
	return platform_unread(socket);
}

int passfd_watch_receipts(int socket)
{
	return platform_watch_receipts(socket);
}

int passfd_take_receipts(int watch)
{
	return platform_take_receipts(watch);
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

int passfd_pidfd_open(pid_t pid)
{
	return platform_pidfd_open(pid);
}

int passfd_lock_directory(const char *path)
{
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	return flock(fd, LOCK_EX | LOCK_NB) < 0 ? close_and_return(fd, -errno) : fd;
}

int passfd_lock(int fd, int exclusive)
{
	return flock(fd, (exclusive ? LOCK_EX : LOCK_SH) | LOCK_NB) < 0 ? -errno : 0;
}

int passfd_reap(pid_t pid)
{
	pid_t ended;

	do
		ended = waitpid(pid, NULL, WNOHANG);
	while (ended < 0 && errno == EINTR);
	return ended < 0 ? -errno : ended > 0;
}
