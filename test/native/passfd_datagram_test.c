/* Datagrams to a Unix socket that belongs to another program, as a service sends them to its manager. */
#include "../../native/passfd.h"
#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static struct passfd_received received;

/* A datagram socket at a name, as its owner makes it. */
static int bind_at(const char *name, size_t length)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	EXPECT(fd >= 0);
	memcpy(address.sun_path, name, length);
	EXPECT_EQUAL(bind(fd, (struct sockaddr *)&address, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length)), 0);
	return fd;
}

static void expect_datagram(int fd, const char *text, size_t descriptors)
{
	char bytes[64];

	EXPECT_EQUAL(passfd_receive(fd, bytes, sizeof bytes, &received), strlen(text));
	EXPECT_EQUAL(memcmp(bytes, text, strlen(text)), 0);
	EXPECT_EQUAL(received.count, descriptors);
}

TEST("sends each datagram whole, to a path, and leaves no socket open")
{
	enter_temporary_directory();
	int fd = bind_at("d", 1);
	EXPECT_EQUAL(passfd_send_datagram("d", 1, "first", 5, NULL, 0), 5);
	EXPECT_EQUAL(passfd_send_datagram("d", 1, "the second", 10, NULL, 0), 10);
	expect_datagram(fd, "first", 0);
	expect_datagram(fd, "the second", 0);
	EXPECT_EQUAL(passfd_receive(fd, &(char){0}, 1, &received), -EAGAIN);
	close(fd);
}

TEST("sends a datagram to an abstract name of exactly its length")
{
	char name[32];

	memset(name, 'x', sizeof name);
	snprintf(name + 1, sizeof name - 1, "%d", getpid());
	name[0] = '\0';
	int fd = bind_at(name, sizeof name);
	EXPECT_EQUAL(passfd_send_datagram(name, sizeof name - 1, "x", 1, NULL, 0), -ECONNREFUSED);
	EXPECT_EQUAL(passfd_send_datagram(name, sizeof name, "x", 1, NULL, 0), 1);
	expect_datagram(fd, "x", 0);
	close(fd);
}

TEST("lends the descriptors that go with a datagram")
{
	int files[2] = {new_file(), new_file()};

	enter_temporary_directory();
	int fd = bind_at("d", 1);
	EXPECT_EQUAL(passfd_send_datagram("d", 1, "two", 3, files, 2), 3);
	expect_datagram(fd, "two", 2);
	for (int i = 0; i < 2; i++) {
		EXPECT(is_same_file(files[i], received.fds[i]));
		EXPECT_EQUAL(passfd_close(received.fds[i]), 0);
		EXPECT_EQUAL(passfd_close(files[i]), 0);
	}
	close(fd);
}

TEST("returns EAGAIN when the queue of the receiver is full, also with blocking sockets, and sends again when there is room")
{
	int sent = 0;
	ssize_t result;

	enter_temporary_directory();
	int fd = bind_at("d", 1);
	while ((result = passfd_send_datagram("d", 1, "x", 1, NULL, 0)) == 1)
		sent++;
	EXPECT_EQUAL(result, -EAGAIN);
	EXPECT(sent >= 1);
	expect_datagram(fd, "x", 0);
	EXPECT_EQUAL(passfd_send_datagram("d", 1, "x", 1, NULL, 0), 1);
	close(fd);
}

TEST("returns why a datagram cannot be sent: no file, no receiver, another kind of socket, or too long a name")
{
	char name[200] = {'x'};

	enter_temporary_directory();
	EXPECT_EQUAL(passfd_send_datagram("d", 1, "x", 1, NULL, 0), -ENOENT);
	close(bind_at("d", 1));
	EXPECT_EQUAL(passfd_send_datagram("d", 1, "x", 1, NULL, 0), -ECONNREFUSED);
	int listener = passfd_listen_unix("l", 1, 1, 0600);
	EXPECT_EQUAL(passfd_send_datagram("l", 1, "x", 1, NULL, 0), -EPROTOTYPE);
	close(listener);
	memset(name, 'x', sizeof name);
	EXPECT_EQUAL(passfd_send_datagram(name, sizeof name, "x", 1, NULL, 0), -ENAMETOOLONG);
	EXPECT_EQUAL(passfd_send_datagram("", 0, "x", 1, NULL, 0), -EINVAL);
}

TEST("sends no datagram that is empty, longer than the kernel takes, or with a descriptor that is not open")
{
	static char longest[1 << 22];
	int closed = new_file(), fds[PASSFD_MAX_DESCRIPTORS + 1];

	enter_temporary_directory();
	int fd = bind_at("d", 1);
	for (int i = 0; i <= PASSFD_MAX_DESCRIPTORS; i++)
		fds[i] = fd;
	EXPECT_EQUAL(passfd_close(closed), 0);
	EXPECT_EQUAL(passfd_send_datagram("d", 1, "", 0, NULL, 0), -EINVAL);
	EXPECT_EQUAL(passfd_send_datagram("d", 1, longest, sizeof longest, NULL, 0), -EMSGSIZE);
	EXPECT_EQUAL(passfd_send_datagram("d", 1, "x", 1, &closed, 1), -EBADF);
	EXPECT_EQUAL(passfd_send_datagram("d", 1, "x", 1, fds, PASSFD_MAX_DESCRIPTORS + 1), -EINVAL);
	EXPECT_EQUAL(passfd_receive(fd, longest, 1, &received), -EAGAIN);
	close(fd);
}

TEST("makes an inherited descriptor close-on-exec, and returns EBADF for one that is not open")
{
	int fd = dup(STDIN_FILENO);

	EXPECT(!is_close_on_exec(fd));
	for (int twice = 0; twice < 2; twice++) {
		EXPECT_EQUAL(passfd_set_close_on_exec(fd), 0);
		EXPECT(is_close_on_exec(fd));
	}
	EXPECT_EQUAL(passfd_close(fd), 0);
	EXPECT_EQUAL(passfd_set_close_on_exec(fd), -EBADF);
}
