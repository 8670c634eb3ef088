/* Messages: bytes and descriptors that are sent and received. See passfd.h. */
#include "passfd.h"
#include "passfd_internal.h"
#include "platform.h"

#include <sys/uio.h>

/* Room for other ancillary data, such as SCM_CREDENTIALS when a holder of the socket has set SO_PASSCRED. Without it, that
 * data would take the room of the descriptors. */
#define MAX_OTHER_CONTROL 64

union control {
	struct cmsghdr align;
	char bytes[CMSG_SPACE(sizeof(int) * PASSFD_MAX_DESCRIPTORS) + CMSG_SPACE(MAX_OTHER_CONTROL)];
};

ssize_t passfd_send_to(int socket, struct sockaddr_un *address, socklen_t size, const void *bytes, size_t length,
                       const int *fds, size_t count)
{
	union control control;
	struct iovec iov = {.iov_base = (void *)bytes, .iov_len = length};
	struct msghdr message = {.msg_name = address, .msg_namelen = size, .msg_iov = &iov, .msg_iovlen = 1};
	ssize_t sent;

	if (count > PASSFD_MAX_DESCRIPTORS)
		return -EINVAL;
	/* With an empty payload the kernel takes the descriptors and delivers nothing. */
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
		return -ENOBUFS; /* Node has no name for ETOOMANYREFS */
	case ENOBUFS:
		return -ENOMEM;
	default:
		return -errno;
	}
}

ssize_t passfd_send(int socket, const void *bytes, size_t length, const int *fds, size_t count)
{
	return passfd_send_to(socket, NULL, 0, bytes, length, fds, count);
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
	/* The kernel drops descriptors that it cannot install, for example at RLIMIT_NOFILE.
	 * Half a hand-off is worse than none, so close the others too. */
	if (message.msg_flags & MSG_CTRUNC)
		received->truncated = 1;
	if (received->truncated)
		close_all(received);
	return length;
}

/* Without room for descriptors, a peek opens none, and reports whether there are some: with these bytes, or after them. The
 * kernel looks through the whole queue, even when there is no more room for bytes. */
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

/* Together more bytes than one piece of the kernel's queue has. The kernel attaches descriptors to a piece. */
#define MOST_PIECES 32

/* Nothing is mapped at this address, so the kernel cannot write to it. */
#define UNWRITABLE ((void *)1)

/* The number of bytes in the whole pieces at the front of the queue that fit into `capacity`, up to the first piece with
 * descriptors. The unwritable byte after the buffer stops the kernel there. */
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

/* The number of bytes before the first piece with descriptors. */
static size_t bytes_before_descriptors(int socket)
{
	int has_descriptors;
	size_t end = look_at_pieces(socket, MOST_PIECES * PIECE_BYTES, &has_descriptors);

	/* The piece with the descriptors does not fit into one byte less. */
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
	/* Not more than was seen: bytes that have come since may have descriptors. */
	return receive_plain(socket, bytes, (size_t)length);
}

/* Enough for the whole buffer of a socket, unless a privileged process made it larger. */
#define MOST_READS 128

int passfd_end(int socket)
{
	char bytes[4096];
	int has_descriptors;

	/* The caller need not have done it before. */
	platform_take_rights_only(socket);
	/* After this nothing more can come. */
	shutdown(socket, SHUT_RDWR);
	for (int reads = 0; reads < MOST_READS; reads++) {
		ssize_t length = passfd_receive_bytes(socket, bytes, sizeof bytes, &has_descriptors);
		if (length == 0)
			return 1;
		/* The kernel reports a reset once, and then delivers what had come. */
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
	/* recv, not recvmsg: with a control buffer each peek would install the descriptors again. */
	do
		length = recv(socket, bytes, capacity, MSG_PEEK | MSG_DONTWAIT);
	while (length < 0 && errno == EINTR);
	return length < 0 ? -errno : length;
}
