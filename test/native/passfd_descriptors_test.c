/* Descriptors of every kind: what they are, their flags, their close, and that no child inherits them. */
#include "../../native/passfd.h"
#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { READ = 1, WRITE = 2, BOTH = 3 };

static void expect_is(int fd, enum passfd_type type, enum passfd_family family, int access)
{
	struct passfd_description description;
	EXPECT(fd >= 0);
	EXPECT_EQUAL(passfd_describe(fd, &description), 0);
	EXPECT_EQUAL(description.type, type);
	EXPECT_EQUAL(description.family, family);
	EXPECT_EQUAL(description.access, access);
}

static void close_described(int fd, enum passfd_type type, enum passfd_family family, int access)
{
	expect_is(fd, type, family, access);
	EXPECT_EQUAL(passfd_close(fd), 0);
}

TEST("describes Unix listeners and streams, also without a peer")
{
	int ends[2];

	EXPECT_EQUAL(passfd_socketpair(ends), 0);
	close_described(ends[0], PASSFD_TYPE_STREAM, PASSFD_UNIX, BOTH);
	close_described(ends[1], PASSFD_TYPE_STREAM, PASSFD_UNIX, BOTH);
	enter_temporary_directory();
	close_described(passfd_listen_unix("l", 1, 1, 0600), PASSFD_TYPE_LISTENER, PASSFD_UNIX, BOTH);
}

TEST("describes TCP streams and listeners of IPv4")
{
	struct passfd_address address;
	int listener = passfd_listen_tcp("127.0.0.1", 0, 1, 0);

	expect_is(listener, PASSFD_TYPE_LISTENER, PASSFD_IPV4, BOTH);
	EXPECT_EQUAL(passfd_address(listener, 0, &address), 0);
	close_described(passfd_connect_tcp("127.0.0.1", address.port), PASSFD_TYPE_STREAM, PASSFD_IPV4, BOTH);
	close(listener);
}

TEST("describes a TCP listener of IPv6")
{
	int listener = passfd_listen_tcp("::1", 0, 1, 1);
	if (listener == -EADDRNOTAVAIL || listener == -EAFNOSUPPORT)
		skip("this machine has no such loopback address");
	close_described(listener, PASSFD_TYPE_LISTENER, PASSFD_IPV6, BOTH);
}

TEST("describes datagram sockets, of UDP and Unix, and any other kind as a socket")
{
	close_described(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), PASSFD_TYPE_DATAGRAM, PASSFD_IPV4, BOTH);
	close_described(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0), PASSFD_TYPE_DATAGRAM, PASSFD_UNIX, BOTH);
	close_described(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0), PASSFD_TYPE_SOCKET, PASSFD_UNIX, BOTH);
}

TEST("describes the two ends of a pipe, one to read and one to write")
{
	int ends[2];

	EXPECT_EQUAL(pipe2(ends, O_CLOEXEC), 0);
	close_described(ends[0], PASSFD_TYPE_PIPE, PASSFD_OTHER, READ);
	close_described(ends[1], PASSFD_TYPE_PIPE, PASSFD_OTHER, WRITE);
}

TEST("describes files and directories, with the access that they were opened for")
{
	enter_temporary_directory();
	close_described(open("f", O_CREAT | O_WRONLY, 0600), PASSFD_TYPE_FILE, PASSFD_OTHER, WRITE);
	close_described(open("f", O_RDONLY), PASSFD_TYPE_FILE, PASSFD_OTHER, READ);
	close_described(open("f", O_RDWR | O_APPEND), PASSFD_TYPE_FILE, PASSFD_OTHER, BOTH);
	close_described(new_file(), PASSFD_TYPE_FILE, PASSFD_OTHER, BOTH);
	close_described(open(".", O_RDONLY | O_DIRECTORY), PASSFD_TYPE_DIRECTORY, PASSFD_OTHER, READ);
}

TEST("describes both ends of a pseudo-terminal as terminals")
{
	int master = posix_openpt(O_RDWR | O_NOCTTY);
	if (master < 0)
		skip("this machine has no pseudo-terminals");
	EXPECT_EQUAL(grantpt(master), 0);
	EXPECT_EQUAL(unlockpt(master), 0);
	close_described(open(ptsname(master), O_RDWR | O_NOCTTY), PASSFD_TYPE_TTY, PASSFD_OTHER, BOTH);
	close_described(master, PASSFD_TYPE_TTY, PASSFD_OTHER, BOTH);
}

TEST("describes /dev/null and an epoll as other")
{
	close_described(open("/dev/null", O_RDONLY), PASSFD_TYPE_OTHER, PASSFD_OTHER, READ);
	close_described(epoll_create1(EPOLL_CLOEXEC), PASSFD_TYPE_OTHER, PASSFD_OTHER, BOTH);
}

TEST("returns EBADF from every function for a descriptor that is not open")
{
	struct passfd_description description;
	struct passfd_received received;
	struct passfd_address address;
	struct passfd_peer peer;
	int closed = open("/dev/null", O_RDONLY), fds[1];
	char byte;

	EXPECT_EQUAL(passfd_close(closed), 0);
	const int bad[] = {-1, closed};
	for (int i = 0; i < 2; i++) {
		int fd = bad[i];
		EXPECT_EQUAL(passfd_close(fd), -EBADF);
		EXPECT_EQUAL(passfd_describe(fd, &description), -EBADF);
		EXPECT_EQUAL(passfd_duplicate(fd), -EBADF);
		EXPECT_EQUAL(passfd_set_nonblocking(fd, 1), -EBADF);
		EXPECT_EQUAL(passfd_is_nonblocking(fd), -EBADF);
		EXPECT_EQUAL(passfd_shutdown_write(fd), -EBADF);
		EXPECT_EQUAL(passfd_error(fd), -EBADF);
		EXPECT_EQUAL(passfd_unread(fd), -EBADF);
		EXPECT_EQUAL(passfd_peer(fd, &peer), -EBADF);
		EXPECT_EQUAL(passfd_address(fd, 0, &address), -EBADF);
		EXPECT_EQUAL(passfd_address(fd, 1, &address), -EBADF);
		EXPECT_EQUAL(passfd_send(fd, "x", 1, NULL, 0), -EBADF);
		EXPECT_EQUAL(passfd_receive(fd, &byte, 1, &received), -EBADF);
		EXPECT_EQUAL(received.count, 0);
		EXPECT_EQUAL(passfd_peek(fd, &byte, 1), -EBADF);
		EXPECT_EQUAL(passfd_accept(fd, fds, 1, NULL), -EBADF);
	}
}

TEST("returns ENOTSOCK for a descriptor that is no socket")
{
	struct passfd_received received;
	struct passfd_address address;
	struct passfd_peer peer;
	int file = new_file(), fds[1];
	char byte;

	EXPECT_EQUAL(passfd_shutdown_write(file), -ENOTSOCK);
	EXPECT_EQUAL(passfd_error(file), -ENOTSOCK);
	EXPECT_EQUAL(passfd_peer(file, &peer), -ENOTSOCK);
	EXPECT_EQUAL(passfd_address(file, 0, &address), -ENOTSOCK);
	EXPECT_EQUAL(passfd_send(file, "x", 1, &file, 1), -ENOTSOCK);
	EXPECT_EQUAL(passfd_receive(file, &byte, 1, &received), -ENOTSOCK);
	EXPECT_EQUAL(passfd_peek(file, &byte, 1), -ENOTSOCK);
	EXPECT_EQUAL(passfd_accept(file, fds, 1, NULL), -ENOTSOCK);
	EXPECT_EQUAL(passfd_unread(file), -ENOTTY);
	close(file);
}

TEST("returns EMFILE, and leaves nothing open, when a descriptor is made at the limit")
{
	int ends[2], made[2];

	enter_temporary_directory();
	EXPECT_EQUAL(passfd_socketpair(ends), 0);
	leave_room_for(0);
	EXPECT_EQUAL(passfd_duplicate(ends[0]), -EMFILE);
	EXPECT_EQUAL(passfd_listen_unix("l", 1, 1, 0600), -EMFILE);
	EXPECT_EQUAL(passfd_connect_unix("l", 1), -EMFILE);
	EXPECT_EQUAL(passfd_listen_tcp("127.0.0.1", 0, 1, 0), -EMFILE);
	EXPECT_EQUAL(passfd_connect_tcp("127.0.0.1", 1), -EMFILE);
	EXPECT_EQUAL(passfd_lock_directory("."), -EMFILE);
	int process = passfd_pidfd_open(getpid());
	EXPECT(process == -EMFILE || process == -ENOSYS || process == -EPERM);
	EXPECT_EQUAL(passfd_send_datagram("l", 1, "x", 1, NULL, 0), -EMFILE);
	leave_room_for(1);
	EXPECT_EQUAL(passfd_socketpair(made), -EMFILE);
	restore_limit();
	EXPECT_EQUAL(passfd_close(ends[0]), 0);
	EXPECT_EQUAL(passfd_close(ends[1]), 0);
}

TEST("counts an interrupted close as done: the descriptor is free, and may be another's by now")
{
	int fd = new_file();

	fail_closes(EINTR, 1);
	EXPECT_EQUAL(passfd_close(fd), 0);
	EXPECT(!is_open(fd));
	fd = new_file();
	fail_closes(EIO, 1);
	EXPECT_EQUAL(passfd_close(fd), -EIO);
	EXPECT(!is_open(fd));
}

TEST("duplicates to 3 or higher even if 0 is free, close-on-exec, the same open file")
{
	int file = new_file(), kept = dup(STDIN_FILENO);

	close(STDIN_FILENO);
	int duplicate = passfd_duplicate(file);
	EXPECT(duplicate >= 3);
	EXPECT(!is_open(STDIN_FILENO));
	EXPECT_EQUAL(dup2(kept, STDIN_FILENO), STDIN_FILENO);
	EXPECT(duplicate != file);
	EXPECT(is_same_file(duplicate, file));
	EXPECT(is_close_on_exec(duplicate));
	close(duplicate);
	close(kept);
	close(file);
}

TEST("sets and clears O_NONBLOCK, for every duplicate, and keeps the other flags")
{
	enter_temporary_directory();
	int fd = open("f", O_CREAT | O_RDWR | O_APPEND | O_CLOEXEC, 0600), duplicate = passfd_duplicate(fd);

	EXPECT_EQUAL(passfd_is_nonblocking(fd), 0);
	for (int twice = 0; twice < 2; twice++) {
		EXPECT_EQUAL(passfd_set_nonblocking(fd, 1), 0);
		EXPECT_EQUAL(passfd_is_nonblocking(fd), 1);
		EXPECT_EQUAL(passfd_is_nonblocking(duplicate), 1);
		EXPECT(fcntl(fd, F_GETFL) & O_APPEND);
	}
	for (int twice = 0; twice < 2; twice++) {
		EXPECT_EQUAL(passfd_set_nonblocking(fd, 0), 0);
		EXPECT_EQUAL(passfd_is_nonblocking(duplicate), 0);
		EXPECT(fcntl(fd, F_GETFL) & O_APPEND);
	}
	close(duplicate);
	close(fd);
}

TEST("reports this process as the peer in a socket pair of its own")
{
	struct passfd_peer peer;
	int ends[2];

	EXPECT_EQUAL(passfd_socketpair(ends), 0);
	for (int i = 0; i < 2; i++) {
		EXPECT_EQUAL(passfd_peer(ends[i], &peer), 0);
		EXPECT_EQUAL(peer.pid, getpid());
		EXPECT_EQUAL(peer.uid, geteuid());
		EXPECT_EQUAL(peer.gid, getegid());
		close(ends[i]);
	}
}

TEST("reports the process that connected, also after it has ended")
{
	struct passfd_peer peer;
	int accepted[1], status;

	enter_temporary_directory();
	int listener = passfd_listen_unix("l", 1, 1, 0666);
	EXPECT(listener >= 0);
	pid_t child = fork();
	EXPECT(child >= 0);
	if (child == 0) {
		if (geteuid() == 0 && (setresgid(65533, 65533, 65533) < 0 || setresuid(65534, 65534, 65534) < 0))
			_exit(1);
		_exit(passfd_connect_unix("l", 1) < 0);
	}
	EXPECT(waitpid(child, &status, 0) == child);
	EXPECT_EQUAL(status, 0);
	EXPECT_EQUAL(passfd_accept(listener, accepted, 1, NULL), 1);
	EXPECT_EQUAL(passfd_peer(accepted[0], &peer), 0);
	EXPECT_EQUAL(peer.pid, child);
	EXPECT_EQUAL(peer.uid, geteuid() == 0 ? 65534 : geteuid());
	EXPECT_EQUAL(peer.gid, geteuid() == 0 ? 65533 : getegid());
	close(accepted[0]);
	close(listener);
}

TEST("locks a directory for one open at a time, and frees it when that is closed")
{
	enter_temporary_directory();
	EXPECT_EQUAL(mkdir("d", 0700), 0);
	int lock = passfd_lock_directory("d");
	EXPECT(lock >= 0);
	EXPECT(is_close_on_exec(lock));
	EXPECT_EQUAL(passfd_lock_directory("d"), -EWOULDBLOCK);
	EXPECT_EQUAL(passfd_close(lock), 0);
	lock = passfd_lock_directory("d");
	EXPECT(lock >= 0);
	EXPECT_EQUAL(passfd_close(lock), 0);
}

TEST("frees the lock of a process that is killed")
{
	int told[2], status;
	char byte;

	enter_temporary_directory();
	EXPECT_EQUAL(pipe2(told, O_CLOEXEC), 0);
	pid_t child = fork();
	EXPECT(child >= 0);
	if (child == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		byte = passfd_lock_directory(".") < 0 ? 'n' : 'y';
		if (write(told[1], &byte, 1) == 1)
			pause();
		_exit(1);
	}
	EXPECT_EQUAL(read(told[0], &byte, 1), 1);
	EXPECT_EQUAL(byte, 'y');
	EXPECT_EQUAL(passfd_lock_directory("."), -EWOULDBLOCK);
	EXPECT_EQUAL(kill(child, SIGKILL), 0);
	EXPECT(waitpid(child, &status, 0) == child);
	int lock = passfd_lock_directory(".");
	EXPECT(lock >= 0);
	close(lock);
	close(told[0]);
	close(told[1]);
}

TEST("returns ENOENT for a missing directory, and ENOTDIR for a file")
{
	enter_temporary_directory();
	EXPECT_EQUAL(passfd_lock_directory("absent"), -ENOENT);
	close(open("f", O_CREAT | O_WRONLY, 0600));
	EXPECT_EQUAL(passfd_lock_directory("f"), -ENOTDIR);
}

TEST("leaves none of its descriptors to a program that exec starts")
{
	static char before[4096], after[4096], with_one[4096];
	struct passfd_received received;
	struct passfd_address address;
	int made[16], count = 2;
	char byte;

	enter_temporary_directory();
	descriptors_after_exec(before, sizeof before);
	EXPECT_EQUAL(passfd_socketpair(made), 0);
	EXPECT_EQUAL(passfd_send(made[0], "x", 1, made, 2), 1);
	EXPECT_EQUAL(passfd_receive(made[1], &byte, 1, &received), 1);
	EXPECT_EQUAL(received.count, 2);
	made[count++] = received.fds[0];
	made[count++] = received.fds[1];
	made[count++] = passfd_listen_unix("l", 1, 1, 0600);
	made[count++] = passfd_connect_unix("l", 1);
	EXPECT_EQUAL(passfd_accept(made[4], &made[count++], 1, NULL), 1);
	made[count++] = passfd_listen_tcp("127.0.0.1", 0, 1, 0);
	EXPECT_EQUAL(passfd_address(made[7], 0, &address), 0);
	made[count++] = passfd_connect_tcp("127.0.0.1", address.port);
	wait_for(made[7], POLLIN);
	EXPECT_EQUAL(passfd_accept(made[7], &made[count++], 1, NULL), 1);
	made[count++] = passfd_duplicate(made[0]);
	made[count++] = passfd_lock_directory(".");
	for (int i = 0; i < count; i++)
		EXPECT(made[i] >= 3);
	descriptors_after_exec(after, sizeof after);
	EXPECT_EQUAL(strcmp(before, after), 0);

	/* The list shows a descriptor that may be inherited. */
	int inherited = dup(made[0]);
	descriptors_after_exec(with_one, sizeof with_one);
	EXPECT(strcmp(before, with_one) != 0);
	close(inherited);
	for (int i = 0; i < count; i++)
		EXPECT_EQUAL(passfd_close(made[i]), 0);
}
