/* Open descriptors: flags, duplicates, locks, shutdown and close; and processes. See passfd.h. */
#include "passfd.h"
#include "passfd_internal.h"
#include "platform.h"

#include <sys/file.h>
#include <sys/wait.h>

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
	/* Linux has freed the descriptor even when close(2) fails with EINTR. A second try could close another descriptor. */
	return close(fd) < 0 && errno != EINTR ? -errno : 0;
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
