/* The differences between Linux and macOS: every function here exists on both, under one name. */
#ifndef PASSFD_PLATFORM_H
#define PASSFD_PLATFORM_H

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/un.h>
#include <unistd.h>

#ifdef __linux__
#include <linux/sockios.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#endif

/* Node ignores SIGPIPE in every process, so where the flag is missing nothing is lost. */
#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0
#endif

static inline int platform_set_flag(int fd, int get, int set, int flag, int on)
{
	int flags = fcntl(fd, get);
	if (flags < 0)
		return -errno;
	int wanted = on ? flags | flag : flags & ~flag;
	if (wanted != flags && fcntl(fd, set, wanted) < 0)
		return -errno;
	return 0;
}

#ifdef __linux__

#define PLATFORM_RECEIVE_FLAGS MSG_CMSG_CLOEXEC

/* The system call itself: musl's function refuses more than 1024 bytes of control data, and 253 descriptors need 1032. The kernel
 * accepts musl's message as it is, since the padding beside its short lengths is zero. */
static inline ssize_t platform_sendmsg(int fd, const struct msghdr *message, int flags)
{
#ifdef __GLIBC__
	return sendmsg(fd, message, flags);
#else
	return syscall(SYS_sendmsg, fd, message, flags);
#endif
}

static inline int platform_socket(int family, int type)
{
	int fd = socket(family, type | SOCK_CLOEXEC, 0);
	return fd < 0 ? -errno : fd;
}

static inline int platform_socketpair(int fds[2])
{
	return socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0 ? -errno : 0;
}

/* The accepted socket is blocking, even when the listening socket is not. */
static inline int platform_accept(int fd)
{
	int accepted = accept4(fd, NULL, NULL, SOCK_CLOEXEC);
	return accepted < 0 ? -errno : accepted;
}

static inline int platform_received(int fd)
{
	(void)fd;
	return 0;
}

/* Since Linux 6.5; older headers do not have it. */
#ifndef SCM_PIDFD
#define SCM_PIDFD 4
#endif

/* With SO_PASSPIDFD, which another holder of the socket may have set, each message installs a descriptor of its sender. */
static inline void platform_drop(struct cmsghdr *header)
{
	int fd;
	if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_PIDFD || header->cmsg_len < CMSG_LEN(sizeof fd))
		return;
	memcpy(&fd, CMSG_DATA(header), sizeof fd);
	if (fd >= 0)
		close(fd);
}

/* Since Linux 6.5; older headers do not have it. */
#ifndef SO_PASSPIDFD
#define SO_PASSPIDFD 76
#endif

/* Options that this kernel does not know are not set either. Out-of-band bytes become normal bytes. Otherwise a peek would skip
 * them, and the next read would close the descriptors that came with them. */
static inline int platform_take_rights_only(int fd)
{
	const int off = 0, on = 1;
	setsockopt(fd, SOL_SOCKET, SO_OOBINLINE, &on, sizeof on);
	setsockopt(fd, SOL_SOCKET, SO_PASSSEC, &off, sizeof off);
	setsockopt(fd, SOL_SOCKET, SO_PASSPIDFD, &off, sizeof off);
	return setsockopt(fd, SOL_SOCKET, SO_PASSCRED, &off, sizeof off) < 0 ? -errno : 0;
}

static inline int platform_peer(int fd, pid_t *pid, uid_t *uid, gid_t *gid)
{
	struct ucred credentials;
	socklen_t length = sizeof credentials;
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &length) < 0)
		return -errno;
	*pid = credentials.pid;
	*uid = credentials.uid;
	*gid = credentials.gid;
	return 0;
}

static inline int platform_unread(int fd)
{
	int count = 0;
	return ioctl(fd, SIOCOUTQ, &count) < 0 ? -errno : count;
}

/* Since Linux 5.3; older headers do not have it, and it has this number on every architecture. */
#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif

/* Close-on-exec from birth (pidfd_open(2)). */
static inline int platform_pidfd_open(pid_t pid)
{
	long fd = syscall(SYS_pidfd_open, pid, 0);
	return fd < 0 ? -errno : (int)fd;
}

/* An edge comes whenever the receiver frees a message (unix_write_space in net/unix/af_unix.c), even though the socket was
 * writable all the time. */
static inline int platform_watch_receipts(int fd)
{
	struct epoll_event event = {.events = EPOLLOUT | EPOLLET};
	int watch = epoll_create1(EPOLL_CLOEXEC);

	if (watch < 0)
		return -errno;
	if (epoll_ctl(watch, EPOLL_CTL_ADD, fd, &event) < 0) {
		int result = -errno;
		close(watch);
		return result;
	}
	return watch;
}

static inline int platform_take_receipts(int watch)
{
	struct epoll_event event;
	int count = epoll_wait(watch, &event, 1, 0);
	return count < 0 ? -errno : count;
}

#else /* macOS: no close-on-exec from birth, so a fork between the two calls can inherit the descriptor */

#define PLATFORM_RECEIVE_FLAGS 0

static inline ssize_t platform_sendmsg(int fd, const struct msghdr *message, int flags)
{
	return sendmsg(fd, message, flags);
}

static inline int platform_close_on_exec(int fd)
{
	if (fd < 0)
		return -errno;
	int result = platform_set_flag(fd, F_GETFD, F_SETFD, FD_CLOEXEC, 1);
	if (result < 0) {
		close(fd);
		return result;
	}
	return fd;
}

static inline int platform_socket(int family, int type)
{
	return platform_close_on_exec(socket(family, type, 0));
}

static inline int platform_socketpair(int fds[2])
{
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, fds) < 0)
		return -errno;
	for (int i = 0; i < 2; i++) {
		int result = platform_set_flag(fds[i], F_GETFD, F_SETFD, FD_CLOEXEC, 1);
		if (result < 0) {
			close(fds[0]);
			close(fds[1]);
			return result;
		}
	}
	return 0;
}

/* On BSD the accepted socket inherits O_NONBLOCK. On Linux it does not, and every platform behaves like that here. */
static inline int platform_accept(int fd)
{
	int accepted = platform_close_on_exec(accept(fd, NULL, NULL));
	if (accepted < 0)
		return accepted;
	int result = platform_set_flag(accepted, F_GETFL, F_SETFL, O_NONBLOCK, 0);
	if (result < 0) {
		close(accepted);
		return result;
	}
	return accepted;
}

static inline void platform_drop(struct cmsghdr *header)
{
	(void)header;
}

static inline int platform_received(int fd)
{
	return platform_set_flag(fd, F_GETFD, F_SETFD, FD_CLOEXEC, 1);
}

static inline int platform_take_rights_only(int fd)
{
	(void)fd;
	return 0;
}

static inline int platform_peer(int fd, pid_t *pid, uid_t *uid, gid_t *gid)
{
	socklen_t length = sizeof *pid;
	if (getpeereid(fd, uid, gid) < 0)
		return -errno;
	if (getsockopt(fd, SOL_LOCAL, LOCAL_PEERPID, pid, &length) < 0)
		return -errno;
	return 0;
}

static inline int platform_unread(int fd)
{
	int count = 0;
	socklen_t length = sizeof count;
	return getsockopt(fd, SOL_SOCKET, SO_NWRITE, &count, &length) < 0 ? -errno : count;
}

static inline int platform_pidfd_open(pid_t pid)
{
	(void)pid;
	return -ENOSYS;
}

static inline int platform_watch_receipts(int fd)
{
	(void)fd;
	return -ENOSYS;
}

static inline int platform_take_receipts(int watch)
{
	(void)watch;
	return -ENOSYS;
}

#endif

#endif
