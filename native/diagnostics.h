/* Asks the kernel whether any process still holds a TCP or Unix connection: Linux' sock_diag(7), by netlink. */
#ifndef PASSFD_DIAGNOSTICS_H
#define PASSFD_DIAGNOSTICS_H

#include "passfd.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#ifdef __linux__

#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>
#include <netinet/in.h>
#include <sys/stat.h>

#ifndef SO_COOKIE
#define SO_COOKIE 57
#endif

/* Most answers that are read for one question. Answers to earlier questions, whose caller gave up, come first. */
#define MAX_ANSWERS 16

/* Completes the identity of a socket whose family and addresses are known. -ENOTSUP for UDP and for MPTCP: the kernel is asked
 * about TCP sockets, and finds neither there. */
static inline int diagnostics_identify(int fd, struct passfd_identity *identity)
{
	int protocol;
	socklen_t length = sizeof protocol;
	struct stat status;

	if (identity->family == AF_UNIX) {
		if (fstat(fd, &status) < 0)
			return -errno;
		identity->number = (uint32_t)status.st_ino;
	} else {
		if (getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &length) < 0)
			return -errno;
		if (protocol != IPPROTO_TCP)
			return -ENOTSUP;
	}
	length = sizeof identity->cookie;
	return getsockopt(fd, SOL_SOCKET, SO_COOKIE, identity->cookie, &length) < 0 ? -errno : 0;
}

static inline int diagnostics_open(void)
{
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_SOCK_DIAG);
	return fd < 0 ? -errno : fd;
}

struct diagnostics_request {
	struct nlmsghdr header;
	union {
		struct inet_diag_req_v2 tcp;
		struct unix_diag_req local;
	} question;
};

static inline void diagnostics_ask(struct diagnostics_request *request, const struct passfd_identity *identity)
{
	if (identity->family == AF_UNIX) {
		request->header.nlmsg_len = NLMSG_LENGTH(sizeof request->question.local);
		request->question.local = (struct unix_diag_req){
			.sdiag_family = AF_UNIX,
			.udiag_states = ~0U,
			.udiag_ino = identity->number,
			.udiag_cookie = {identity->cookie[0], identity->cookie[1]},
		};
		return;
	}
	request->header.nlmsg_len = NLMSG_LENGTH(sizeof request->question.tcp);
	request->question.tcp = (struct inet_diag_req_v2){
		.sdiag_family = (unsigned char)identity->family,
		.sdiag_protocol = IPPROTO_TCP,
		.idiag_states = ~0U,
		.id = {
			.idiag_sport = identity->local_port,
			.idiag_dport = identity->remote_port,
			.idiag_if = identity->number,
			.idiag_cookie = {identity->cookie[0], identity->cookie[1]},
		},
	};
	memcpy(request->question.tcp.id.idiag_src, identity->local, sizeof identity->local);
	memcpy(request->question.tcp.id.idiag_dst, identity->remote, sizeof identity->remote);
}

/* Reads the answer in bytes[0..length). 1: held, 0: not held, -EAGAIN: the answer to another question. */
static inline int diagnostics_read(const unsigned char *bytes, size_t length, uint32_t sequence)
{
	struct nlmsghdr header;
	struct nlmsgerr error;
	struct inet_diag_msg found;

	if (length < sizeof header)
		return -EBADMSG;
	memcpy(&header, bytes, sizeof header);
	if (header.nlmsg_seq != sequence)
		return -EAGAIN;
	bytes += NLMSG_HDRLEN;
	length -= NLMSG_HDRLEN;
	if (header.nlmsg_type == NLMSG_ERROR && length >= sizeof error) {
		memcpy(&error, bytes, sizeof error);
		/* The connection is gone, or its addresses have a newer one (with another cookie). */
		return error.error == -ENOENT || error.error == -ESTALE ? 0 : error.error;
	}
	if (header.nlmsg_type != SOCK_DIAG_BY_FAMILY || length < 1)
		return -EBADMSG;
	/* Both answers begin with the family. A Unix socket is gone with its last descriptor. */
	if (bytes[0] == AF_UNIX)
		return 1;
	if (length < sizeof found)
		return -EBADMSG;
	memcpy(&found, bytes, sizeof found);
	/* A connection whose last descriptor is closed lives on in the kernel, without an inode, until TCP is done. */
	return found.idiag_inode != 0;
}

static inline int diagnostics_is_held(int fd, const struct passfd_identity *identity)
{
	static uint32_t last_sequence;
	uint32_t sequence = __atomic_add_fetch(&last_sequence, 1, __ATOMIC_RELAXED);
	struct diagnostics_request request = {
		.header = {
			.nlmsg_type = SOCK_DIAG_BY_FAMILY,
			.nlmsg_flags = NLM_F_REQUEST,
			.nlmsg_seq = sequence,
		},
	};
	unsigned char answer[1024];

	diagnostics_ask(&request, identity);
	if (send(fd, &request, request.header.nlmsg_len, MSG_DONTWAIT) < 0)
		return -errno;
	/* The kernel has answered when send returns. */
	for (int i = 0; i < MAX_ANSWERS; i++) {
		ssize_t length = recv(fd, answer, sizeof answer, MSG_DONTWAIT);
		if (length < 0 && errno == EINTR)
			continue;
		if (length < 0)
			return -errno;
		int result = diagnostics_read(answer, (size_t)length, sequence);
		if (result != -EAGAIN)
			return result;
	}
	return -EBADMSG;
}

#else

static inline int diagnostics_identify(int fd, struct passfd_identity *identity)
{
	(void)fd;
	(void)identity;
	return -ENOTSUP;
}

static inline int diagnostics_open(void)
{
	return -ENOTSUP;
}

static inline int diagnostics_is_held(int fd, const struct passfd_identity *identity)
{
	(void)fd;
	(void)identity;
	return -ENOTSUP;
}

#endif

#endif
