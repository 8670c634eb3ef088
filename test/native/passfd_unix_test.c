/* Unix sockets with an address, a path or an abstract name: accept, listen, connect. */
#include "../../native/passfd.h"
#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define LONGEST_PATH (sizeof((struct sockaddr_un *)0)->sun_path - 1)
#define LONGEST_ABSTRACT (sizeof((struct sockaddr_un *)0)->sun_path)

static int listen_at(const char *path)
{
	int fd = passfd_listen_unix(path, strlen(path), 16, 0600);
	EXPECT(fd >= 0);
	return fd;
}

static int connect_to(const char *path)
{
	int fd = passfd_connect_unix(path, strlen(path));
	EXPECT(fd >= 0);
	return fd;
}

static void close_all_of(const int *fds, int count)
{
	for (int i = 0; i < count; i++)
		EXPECT_EQUAL(passfd_close(fds[i]), 0);
}

/* A name of this length that no other test uses: it contains the id of this process. */
static void make_abstract_name(char *name, size_t length)
{
	char number[32];
	int digits = snprintf(number, sizeof number, "%d", getpid());
	memset(name, 'x', length);
	memcpy(name + 1, number, (size_t)digits);
	name[0] = '\0';
}

/* accept */

TEST("accepts at most as many as there is room for, and leaves the others waiting")
{
	int clients[6], accepted[4];

	enter_temporary_directory();
	int listener = listen_at("l");
	for (int i = 0; i < 6; i++)
		clients[i] = connect_to("l");
	EXPECT_EQUAL(passfd_accept(listener, accepted, 4, NULL), 4);
	close_all_of(accepted, 4);
	EXPECT_EQUAL(passfd_accept(listener, accepted, 4, NULL), 2);
	close_all_of(accepted, 2);
	EXPECT_EQUAL(passfd_accept(listener, accepted, 4, NULL), -EAGAIN);
	close_all_of(clients, 6);
	close(listener);
}

TEST("accepts blocking, close-on-exec connections from a non-blocking listener")
{
	int accepted[2];

	enter_temporary_directory();
	int listener = listen_at("l");
	int client = connect_to("l");
	EXPECT_EQUAL(passfd_accept(listener, accepted, 2, NULL), 1);
	EXPECT_EQUAL(passfd_is_nonblocking(listener), 1);
	EXPECT_EQUAL(passfd_is_nonblocking(client), 1);
	EXPECT_EQUAL(passfd_is_nonblocking(accepted[0]), 0);
	EXPECT(is_close_on_exec(listener));
	EXPECT(is_close_on_exec(client));
	EXPECT(is_close_on_exec(accepted[0]));
	close(accepted[0]);
	close(client);
	close(listener);
}

TEST("does not wait for a connection when another holder has made the listener blocking")
{
	int accepted[1];

	enter_temporary_directory();
	int listener = listen_at("l");
	EXPECT_EQUAL(passfd_set_nonblocking(listener, 0), 0);
	EXPECT_EQUAL(passfd_accept(listener, accepted, 1, NULL), -EAGAIN);
	close(listener);
}

TEST("returns the connections that it got before the descriptors ran out, then EMFILE, and loses none")
{
	int clients[3], accepted[4];

	enter_temporary_directory();
	int listener = listen_at("l");
	for (int i = 0; i < 3; i++)
		clients[i] = connect_to("l");
	leave_room_for(1);
	EXPECT_EQUAL(passfd_accept(listener, accepted, 4, NULL), 1);
	EXPECT_EQUAL(passfd_accept(listener, accepted + 1, 3, NULL), -EMFILE);
	restore_limit();
	EXPECT_EQUAL(passfd_accept(listener, accepted + 1, 3, NULL), 2);
	close_all_of(accepted, 3);
	close_all_of(clients, 3);
	close(listener);
}

TEST("accepts the connection after those that died in the backlog, with every error of theirs")
{
	const int errors[] = {EINTR,        ECONNABORTED, EPROTO,      ENETDOWN, ENOPROTOOPT,
	                      EHOSTDOWN, EHOSTUNREACH, ENETUNREACH, ENONET};
	int accepted[2];

	enter_temporary_directory();
	int listener = listen_at("l");
	for (size_t i = 0; i < sizeof errors / sizeof errors[0]; i++) {
		int client = connect_to("l");
		fail_accepts(errors[i], 3);
		EXPECT_EQUAL(passfd_accept(listener, accepted, 2, NULL), 1);
		close(accepted[0]);
		close(client);
	}
	close(listener);
}

TEST("returns EAGAIN when only dead connections come, and finds the live one with a later call")
{
	int accepted[1], calls = 0, result;

	enter_temporary_directory();
	int listener = listen_at("l");
	int client = connect_to("l");
	fail_accepts(ECONNABORTED, 1000);
	while ((result = passfd_accept(listener, accepted, 1, NULL)) == -EAGAIN)
		calls++;
	EXPECT_EQUAL(result, 1);
	EXPECT(calls > 1);
	close(accepted[0]);
	close(client);
	close(listener);
}

TEST("returns an accept error of the listener itself")
{
	int accepted[1];

	enter_temporary_directory();
	int listener = listen_at("l");
	fail_accepts(ENOMEM, 1);
	EXPECT_EQUAL(passfd_accept(listener, accepted, 1, NULL), -ENOMEM);
	close(listener);
}

/* Unix paths and abstract names */

TEST("listens at a path of the greatest length, and returns ENAMETOOLONG for one byte more")
{
	char path[LONGEST_PATH + 1];
	struct passfd_address address;
	struct stat status;

	enter_temporary_directory();
	memset(path, 'p', sizeof path);
	EXPECT_EQUAL(passfd_listen_unix(path, LONGEST_PATH + 1, 1, 0600), -ENAMETOOLONG);
	EXPECT_EQUAL(passfd_connect_unix(path, LONGEST_PATH + 1), -ENAMETOOLONG);
	int listener = passfd_listen_unix(path, LONGEST_PATH, 1, 0600);
	EXPECT(listener >= 0);
	int client = passfd_connect_unix(path, LONGEST_PATH);
	EXPECT(client >= 0);
	EXPECT_EQUAL(passfd_address(listener, 0, &address), 0);
	EXPECT_EQUAL(address.length, LONGEST_PATH);
	EXPECT_EQUAL(memcmp(address.name, path, LONGEST_PATH), 0);
	path[LONGEST_PATH] = '\0';
	EXPECT_EQUAL(stat(path, &status), 0);
	close(client);
	close(listener);
}

TEST("returns EINVAL for an empty name")
{
	EXPECT_EQUAL(passfd_listen_unix("", 0, 1, 0600), -EINVAL);
	EXPECT_EQUAL(passfd_connect_unix("", 0), -EINVAL);
}

TEST("reads back the path of another program that leaves no room for a NUL")
{
	struct sockaddr_un own = {.sun_family = AF_UNIX};
	struct passfd_address address;

	enter_temporary_directory();
	memset(own.sun_path, 'q', sizeof own.sun_path);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	EXPECT(fd >= 0);
	EXPECT_EQUAL(bind(fd, (struct sockaddr *)&own, sizeof own), 0);
	EXPECT_EQUAL(passfd_address(fd, 0, &address), 0);
	EXPECT_EQUAL(address.length, sizeof own.sun_path);
	EXPECT_EQUAL(memcmp(address.name, own.sun_path, sizeof own.sun_path), 0);
	close(fd);
}

TEST("listens at an abstract name of exactly its length, and returns that name")
{
	struct sockaddr_un raw;
	struct passfd_address address;
	socklen_t size = sizeof raw;
	char name[20];

	make_abstract_name(name, sizeof name);
	int listener = passfd_listen_unix(name, sizeof name, 1, 0600);
	EXPECT(listener >= 0);
	EXPECT_EQUAL(getsockname(listener, (struct sockaddr *)&raw, &size), 0);
	EXPECT_EQUAL(size, offsetof(struct sockaddr_un, sun_path) + sizeof name);
	EXPECT_EQUAL(memcmp(raw.sun_path, name, sizeof name), 0);

	int client = passfd_connect_unix(name, sizeof name);
	EXPECT(client >= 0);
	EXPECT_EQUAL(passfd_address(client, 1, &address), 0);
	EXPECT_EQUAL(address.family, PASSFD_UNIX);
	EXPECT_EQUAL(address.length, sizeof name);
	EXPECT_EQUAL(memcmp(address.name, name, sizeof name), 0);
	close(client);
	close(listener);
}

TEST("treats a NUL at the end of an abstract name as a part of it")
{
	char name[21];

	make_abstract_name(name, sizeof name);
	name[20] = '\0';
	int listener = passfd_listen_unix(name, 21, 1, 0600);
	EXPECT(listener >= 0);
	EXPECT_EQUAL(passfd_connect_unix(name, 20), -ECONNREFUSED);
	int other = passfd_listen_unix(name, 20, 1, 0600);
	EXPECT(other >= 0);
	close(other);
	close(listener);
}

TEST("listens at an abstract name of the greatest length, and returns ENAMETOOLONG for one byte more")
{
	char name[LONGEST_ABSTRACT + 1];
	struct passfd_address address;

	make_abstract_name(name, sizeof name);
	EXPECT_EQUAL(passfd_listen_unix(name, LONGEST_ABSTRACT + 1, 1, 0600), -ENAMETOOLONG);
	EXPECT_EQUAL(passfd_connect_unix(name, LONGEST_ABSTRACT + 1), -ENAMETOOLONG);
	int listener = passfd_listen_unix(name, LONGEST_ABSTRACT, 1, 0600);
	EXPECT(listener >= 0);
	EXPECT_EQUAL(passfd_address(listener, 0, &address), 0);
	EXPECT_EQUAL(address.length, LONGEST_ABSTRACT);
	EXPECT_EQUAL(memcmp(address.name, name, LONGEST_ABSTRACT), 0);
	close(listener);
}

TEST("gives the socket file the mode with any umask")
{
	const mode_t modes[] = {0600, 0660, 0666, 0777, 0000};
	struct stat status;

	enter_temporary_directory();
	for (size_t i = 0; i < sizeof modes / sizeof modes[0]; i++) {
		umask(i % 2 ? 077 : 0);
		int listener = passfd_listen_unix("l", 1, 1, modes[i]);
		EXPECT(listener >= 0);
		EXPECT_EQUAL(stat("l", &status), 0);
		EXPECT_EQUAL(status.st_mode & 07777, modes[i]);
		close(listener);
		EXPECT_EQUAL(unlink("l"), 0);
	}
}

static int connect_as_another_user(void)
{
	int status;
	pid_t child = fork();

	EXPECT(child >= 0);
	if (child == 0)
		_exit(setresuid(65534, 65534, 65534) < 0 ? 255 : passfd_connect_unix("l", 1) < 0 ? errno : 0);
	EXPECT(waitpid(child, &status, 0) == child);
	EXPECT(WIFEXITED(status));
	return WEXITSTATUS(status);
}

TEST("lets another user connect as the mode says, and not otherwise")
{
	if (geteuid() != 0)
		skip("only root can become another user");
	enter_temporary_directory();
	umask(0);
	int closed = passfd_listen_unix("l", 1, 4, 0600);
	EXPECT(closed >= 0);
	EXPECT_EQUAL(connect_as_another_user(), EACCES);
	EXPECT_EQUAL(unlink("l"), 0);
	int open = passfd_listen_unix("l", 1, 4, 0666);
	EXPECT(open >= 0);
	EXPECT_EQUAL(connect_as_another_user(), 0);
	close(open);
	close(closed);
}

TEST("returns EADDRINUSE for an existing path, and replaces no file and no live or stale socket")
{
	struct stat before, after;
	int accepted[1];

	enter_temporary_directory();
	int file = open("file", O_CREAT | O_WRONLY | O_CLOEXEC, 0640);
	EXPECT(file >= 0);
	EXPECT_EQUAL(fstat(file, &before), 0);
	EXPECT_EQUAL(passfd_listen_unix("file", 4, 1, 0600), -EADDRINUSE);
	EXPECT_EQUAL(stat("file", &after), 0);
	EXPECT_EQUAL(after.st_ino, before.st_ino);
	EXPECT_EQUAL(after.st_mode, before.st_mode);
	close(file);

	int listener = listen_at("l");
	EXPECT_EQUAL(passfd_listen_unix("l", 1, 1, 0600), -EADDRINUSE);
	int client = connect_to("l");
	EXPECT_EQUAL(passfd_accept(listener, accepted, 1, NULL), 1);
	close(accepted[0]);
	close(client);
	close(listener);
	EXPECT_EQUAL(passfd_listen_unix("l", 1, 1, 0600), -EADDRINUSE);
}

TEST("leaves no file and no descriptor behind when listening fails")
{
	struct stat status;

	enter_temporary_directory();
	fail_listens(EADDRINUSE, 1);
	EXPECT_EQUAL(passfd_listen_unix("l", 1, 1, 0600), -EADDRINUSE);
	EXPECT_EQUAL(stat("l", &status), -1);
	EXPECT_EQUAL(errno, ENOENT);
	EXPECT_EQUAL(passfd_listen_unix("absent/l", 8, 1, 0600), -ENOENT);
}

TEST("returns EAGAIN when the backlog is full, and connects once there is room")
{
	int clients[16], accepted[1], count = 0, fd;

	enter_temporary_directory();
	int listener = passfd_listen_unix("l", 1, 2, 0600);
	EXPECT(listener >= 0);
	while ((fd = passfd_connect_unix("l", 1)) >= 0 && count < 16)
		clients[count++] = fd;
	EXPECT_EQUAL(fd, -EAGAIN);
	EXPECT(count >= 2);
	EXPECT_EQUAL(passfd_accept(listener, accepted, 1, NULL), 1);
	close(accepted[0]);
	close(connect_to("l"));
	close_all_of(clients, count);
	close(listener);
}

TEST("returns ENOENT without a file, and ECONNREFUSED for a file without a listener")
{
	enter_temporary_directory();
	EXPECT_EQUAL(passfd_connect_unix("l", 1), -ENOENT);
	close(listen_at("l"));
	EXPECT_EQUAL(passfd_connect_unix("l", 1), -ECONNREFUSED);
}

TEST("returns an empty name for a socket without one, and ENOTCONN without a peer")
{
	struct passfd_address address;
	int ends[2];

	EXPECT_EQUAL(passfd_socketpair(ends), 0);
	EXPECT_EQUAL(passfd_address(ends[0], 0, &address), 0);
	EXPECT_EQUAL(address.family, PASSFD_UNIX);
	EXPECT_EQUAL(address.length, 0);
	close_all_of(ends, 2);
	enter_temporary_directory();
	int listener = listen_at("l");
	EXPECT_EQUAL(passfd_address(listener, 1, &address), -ENOTCONN);
	close(listener);
}

TEST("returns 1 while connections wait in the backlog of a Unix socket, and 0 when it is shut down")
{
	int clients[3], accepted[3];

	enter_temporary_directory();
	int listener = listen_at("l");
	EXPECT_EQUAL(passfd_queue_length(listener), 0);
	for (int i = 0; i < 3; i++) {
		clients[i] = connect_to("l");
		EXPECT_EQUAL(passfd_queue_length(listener), 1);
	}
	EXPECT_EQUAL(passfd_accept(listener, accepted, 3, NULL), 3);
	EXPECT_EQUAL(passfd_queue_length(listener), 0);
	EXPECT_EQUAL(passfd_shutdown(listener), 0);
	EXPECT_EQUAL(passfd_queue_length(listener), 0);
	close_all_of(clients, 3);
	close_all_of(accepted, 3);
	close(listener);
}

TEST("counts no backlog of what is no socket")
{
	int fd = new_file();

	EXPECT_EQUAL(passfd_queue_length(fd), -ENOTSOCK);
	close(fd);
	EXPECT_EQUAL(passfd_queue_length(fd), -EBADF);
}
