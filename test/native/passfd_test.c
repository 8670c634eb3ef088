/* Descriptors beside bytes: what send takes and lends, how a stream ends, and what a socket still holds. */
#include "../../native/passfd.h"
#include "check.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static struct passfd_received received;

static void close_both(const int fds[2])
{
	EXPECT_EQUAL(passfd_close(fds[0]), 0);
	EXPECT_EQUAL(passfd_close(fds[1]), 0);
}

static void close_received(void)
{
	for (size_t i = 0; i < received.count; i++)
		EXPECT_EQUAL(passfd_close(received.fds[i]), 0);
	received.count = 0;
}

static void passes(size_t count)
{
	int ends[2], files[PASSFD_MAX_DESCRIPTORS];
	char byte = 0;

	EXPECT_EQUAL(passfd_socketpair(ends), 0);
	for (size_t i = 0; i < count; i++)
		files[i] = new_file();
	EXPECT_EQUAL(passfd_send(ends[0], "x", 1, count > 0 ? files : NULL, count), 1);
	EXPECT_EQUAL(passfd_receive(ends[1], &byte, 1, &received), 1);
	EXPECT_EQUAL(byte, 'x');
	EXPECT_EQUAL(received.truncated, 0);
	EXPECT_EQUAL(received.count, count);
	for (size_t i = 0; i < count; i++) {
		EXPECT(received.fds[i] != files[i]);
		EXPECT(is_same_file(received.fds[i], files[i]));
		EXPECT(is_close_on_exec(received.fds[i]));
		close(files[i]);
	}
	close_received();
	close_both(ends);
}

TEST("passes a byte without a descriptor") { passes(0); }
TEST("passes one descriptor, close-on-exec") { passes(1); }
TEST("passes two descriptors in their order") { passes(2); }
TEST("passes 253 descriptors in one message") { passes(253); }

TEST("refuses 254 descriptors and more, and sends nothing")
{
	int ends[2], fds[4 * PASSFD_MAX_DESCRIPTORS];
	char byte;

	EXPECT_EQUAL(passfd_socketpair(ends), 0);
	for (int i = 0; i < 4 * PASSFD_MAX_DESCRIPTORS; i++)
		fds[i] = ends[0];
	EXPECT_EQUAL(passfd_send(ends[0], "x", 1, fds, PASSFD_MAX_DESCRIPTORS + 1), -EINVAL);
	EXPECT_EQUAL(passfd_send(ends[0], "x", 1, fds, 4 * PASSFD_MAX_DESCRIPTORS), -EINVAL);
	EXPECT_EQUAL(passfd_receive(ends[1], &byte, 1, &received), -EAGAIN);
	close_both(ends);
}

TEST("refuses an empty payload, and takes no descriptor for it")
{
	int ends[2], watch, fd = new_watched(&watch);

	EXPECT_EQUAL(passfd_socketpair(ends), 0);
	EXPECT_EQUAL(passfd_send(ends[0], "", 0, &fd, 1), -EINVAL);
	EXPECT_EQUAL(passfd_send(ends[0], NULL, 0, NULL, 0), -EINVAL);
	EXPECT_EQUAL(passfd_unread(ends[0]), 0);
	EXPECT(is_held(watch));
	close(fd);
	EXPECT(!is_held(watch));
	close(watch);
	close_both(ends);
}

TEST("refuses to receive or peek into no room, and leaves the message")
{
	int ends[2];
	char byte;

	EXPECT_EQUAL(passfd_socketpair(ends), 0);
	EXPECT_EQUAL(passfd_send(ends[0], "x", 1, &ends[0], 1), 1);
	EXPECT_EQUAL(passfd_receive(ends[1], NULL, 0, &received), -EINVAL);
	EXPECT_EQUAL(received.count, 0);
	EXPECT_EQUAL(passfd_peek(ends[1], NULL, 0), -EINVAL);
	EXPECT_EQUAL(passfd_receive(ends[1], &byte, 1, &received), 1);
	EXPECT_EQUAL(received.count, 1);
	close_received();
	close_both(ends);
}

TEST("sends nothing when one of the descriptors is not open")
{
	int ends[2], fds[2];
	char byte;

	EXPECT_EQUAL(passfd_socketpair(ends), 0);
	fds[0] = ends[0];
	fds[1] = passfd_duplicate(ends[0]);
	EXPECT_EQUAL(passfd_close(fds[1]), 0);
	EXPECT_EQUAL(passfd_send(ends[0], "x", 1, fds, 2), -EBADF);
	EXPECT_EQUAL(passfd_receive(ends[1], &byte, 1, &received), -EAGAIN);
	close_both(ends);
}

TEST("lends a descriptor: what is sent stays open here, and in flight it is a reference of its own")
{
	int ends[2], watch, fd = new_watched(&watch);
	char byte;

	EXPECT_EQUAL(passfd_socketpair(ends), 0);
	EXPECT_EQUAL(passfd_send(ends[0], "x", 1, &fd, 1), 1);
	EXPECT(is_open(fd));
	close(fd);
	EXPECT(is_held(watch));
	EXPECT_EQUAL(passfd_receive(ends[1], &byte, 1, &received), 1);
	EXPECT(is_held(watch));
	close_received();
	EXPECT(wait_for(watch, 0) & POLLHUP);
	close(watch);
	close_both(ends);
}

TEST("closes a descriptor in flight when its receiver closes without reading it")
{
	int ends[2], watch, fd = new_watched(&watch);

	EXPECT_EQUAL(passfd_socketpair(ends), 0);
	EXPECT_EQUAL(passfd_send(ends[0], "x", 1, &fd, 1), 1);
	close(fd);
	close_both(ends);
	EXPECT(wait_for(watch, 0) & POLLHUP);
	close(watch);
}

TEST("sends the descriptors with the first part of a payload that does not fit, and not again")
{
	static char payload[1 << 20], part[4096];
	int ends[2], file = new_file();
	size_t sent = 0, got = 0, descriptors = 0;

	memset(payload, 'x', sizeof payload);
	EXPECT_EQUAL(passfd_socketpair(ends), 0);
	ssize_t result = passfd_send(ends[0], payload, sizeof payload, &file, 1);
	EXPECT(result > 0);
	EXPECT((size_t)result < sizeof payload);
	sent = (size_t)result;
	while (got < sizeof payload) {
		result = passfd_receive(ends[1], part, sizeof part, &received);
		if (result == -EAGAIN) {
			result = passfd_send(ends[0], payload + sent, sizeof payload - sent, NULL, 0);
			EXPECT(result > 0);
			sent += (size_t)result;
			continue;
		}
		EXPECT(result > 0);
		EXPECT(received.count == 0 || got == 0);
		got += (size_t)result;
		descriptors += received.count;
		close_received();
	}
	EXPECT_EQUAL(descriptors, 1);
	close(file);
	close_both(ends);
}

static size_t fill(int socket)
{
	size_t count = 0;
	ssize_t result;
	while ((result = passfd_send(socket, "x", 1, NULL, 0)) == 1)
		count++;
	EXPECT_EQUAL(result, -EAGAIN);
	return count;
}

TEST("returns EAGAIN on a full socket, blocking or not, and queues neither byte nor descriptor")
{
	int ends[2], watch, fd = new_watched(&watch);
	char byte;

	EXPECT_EQUAL(passfd_socketpair(ends), 0);
	EXPECT_EQUAL(passfd_is_nonblocking(ends[0]), 0);
	size_t queued = fill(ends[0]);
	EXPECT_EQUAL(passfd_send(ends[0], "y", 1, &fd, 1), -EAGAIN);
	close(fd);
	EXPECT(!is_held(watch));
	for (size_t i = 0; i < queued; i++) {
		EXPECT_EQUAL(passfd_receive(ends[1], &byte, 1, &received), 1);
		EXPECT_EQUAL(byte, 'x');
		EXPECT_EQUAL(received.count, 0);
	}
	EXPECT_EQUAL(passfd_receive(ends[1], &byte, 1, &received), -EAGAIN);
	EXPECT_EQUAL(passfd_send(ends[0], "y", 1, NULL, 0), 1);
	close(watch);
	close_both(ends);
}

static void send_until_the_user_has_too_many_in_flight(void)
{
	struct rlimit limit = {.rlim_cur = 64, .rlim_max = 64};
	int ends[2], fds[16];
	ssize_t result = 0;

	if (geteuid() == 0 && setresuid(65534, 65534, 65534) < 0)
		_exit(2);
	if (passfd_socketpair(ends) < 0 || setrlimit(RLIMIT_NOFILE, &limit) < 0)
		_exit(2);
	for (int i = 0; i < 16; i++)
		fds[i] = ends[0];
	for (int i = 0; i < 8 && result >= 0; i++)
		result = passfd_send(ends[0], "x", 1, fds, 16);
	_exit(result == -ENOBUFS ? 0 : 1);
}

TEST("returns ENOBUFS when too many descriptors of the user are in flight")
{
	int status;
	pid_t child = fork();

	EXPECT(child >= 0);
	if (child == 0)
		send_until_the_user_has_too_many_in_flight();
	EXPECT(waitpid(child, &status, 0) == child);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 2)
		skip("this user can neither change the user nor the limit");
	EXPECT_EQUAL(status, 0);
}

TEST("returns ENOMEM when the kernel has no memory for a message, of which nothing is sent then")
{
	int ends[2];
	char byte;
	struct passfd_received received;

	EXPECT_EQUAL(passfd_socketpair(ends), 0);
	fail_sends(ENOMEM, 1);
	EXPECT_EQUAL(passfd_send(ends[0], "x", 1, ends, 1), -ENOMEM);
	fail_sends(ENOBUFS, 1);
	EXPECT_EQUAL(passfd_send(ends[0], "x", 1, ends, 1), -ENOMEM);
	EXPECT_EQUAL(passfd_receive(ends[1], &byte, 1, &received), -EAGAIN);
	EXPECT_EQUAL(passfd_send(ends[0], "y", 1, NULL, 0), 1);
	EXPECT_EQUAL(passfd_receive(ends[1], &byte, 1, &received), 1);
	EXPECT_EQUAL(byte, 'y');
	close_both(ends);
}

TEST("returns 0 at the end of the stream, after everything that was sent")
{
	int ends[2], file = new_file();
	char byte;

	EXPECT_EQUAL(passfd_socketpair(ends), 0);
	EXPECT_EQUAL(passfd_send(ends[0], "x", 1, &file, 1), 1);
	EXPECT_EQUAL(passfd_close(ends[0]), 0);
	EXPECT_EQUAL(passfd_receive(ends[1], &byte, 1, &received), 1);
	EXPECT_EQUAL(received.count, 1);
	close_received();
	EXPECT_EQUAL(passfd_peek(ends[1], &byte, 1), 0);
	EXPECT_EQUAL(passfd_receive(ends[1], &byte, 1, &received), 0);
	EXPECT_EQUAL(received.count, 0);
	close(file);
	close(ends[1]);
}

TEST("returns EPIPE, without the signal, when the peer is gone")
{
	int ends[2];

	EXPECT_EQUAL(passfd_socketpair(ends), 0);
	EXPECT_EQUAL(passfd_close(ends[1]), 0);
	EXPECT_EQUAL(passfd_send(ends[0], "x", 1, NULL, 0), -EPIPE);
	EXPECT_EQUAL(passfd_send(ends[0], "x", 1, &ends[0], 1), -EPIPE);
	close(ends[0]);
}

TEST("returns ECONNRESET when the peer closed without reading")
{
	int ends[2];
	char byte;

	EXPECT_EQUAL(passfd_socketpair(ends), 0);
	EXPECT_EQUAL(passfd_send(ends[0], "x", 1, NULL, 0), 1);
	EXPECT_EQUAL(passfd_close(ends[1]), 0);
	EXPECT_EQUAL(passfd_receive(ends[0], &byte, 1, &received), -ECONNRESET);
	EXPECT_EQUAL(received.count, 0);
	close(ends[0]);
}

TEST("passes an end of a socket pair over that same pair")
{
	int ends[2];
	char byte;

	EXPECT_EQUAL(passfd_socketpair(ends), 0);
	EXPECT_EQUAL(passfd_send(ends[0], "x", 1, &ends[1], 1), 1);
	EXPECT_EQUAL(passfd_receive(ends[1], &byte, 1, &received), 1);
	EXPECT_EQUAL(received.count, 1);
	EXPECT_EQUAL(passfd_send(ends[0], "y", 1, NULL, 0), 1);
	EXPECT_EQUAL(recv(received.fds[0], &byte, 1, 0), 1);
	EXPECT_EQUAL(byte, 'y');
	close_received();
	close_both(ends);
}

TEST("counts what the peer has not received, up and back to zero")
{
	int ends[2];
	char bytes[8];

	EXPECT_EQUAL(passfd_socketpair(ends), 0);
	EXPECT_EQUAL(passfd_unread(ends[0]), 0);
	EXPECT_EQUAL(passfd_send(ends[0], "x", 1, NULL, 0), 1);
	int one = passfd_unread(ends[0]);
	EXPECT(one > 0);
	EXPECT_EQUAL(passfd_send(ends[0], "y", 1, &ends[0], 1), 1);
	EXPECT(passfd_unread(ends[0]) > one);
	EXPECT_EQUAL(passfd_unread(ends[1]), 0);
	EXPECT_EQUAL(passfd_receive(ends[1], bytes, sizeof bytes, &received), 2);
	close_received();
	EXPECT_EQUAL(passfd_unread(ends[0]), 0);
	close_both(ends);
}

TEST("ends the stream for the peer with shutdown_write, and still receives")
{
	int ends[2];
	char byte;

	EXPECT_EQUAL(passfd_socketpair(ends), 0);
	EXPECT_EQUAL(passfd_shutdown_write(ends[0]), 0);
	EXPECT_EQUAL(passfd_receive(ends[1], &byte, 1, &received), 0);
	EXPECT_EQUAL(passfd_send(ends[0], "x", 1, NULL, 0), -EPIPE);
	EXPECT_EQUAL(passfd_send(ends[1], "y", 1, &ends[1], 1), 1);
	EXPECT_EQUAL(passfd_receive(ends[0], &byte, 1, &received), 1);
	EXPECT_EQUAL(byte, 'y');
	EXPECT_EQUAL(received.count, 1);
	close_received();
	close_both(ends);
}

TEST("ends both directions for every holder with shutdown, and still receives what had come")
{
	int ends[2], duplicate, file = new_file();
	char byte;

	EXPECT_EQUAL(passfd_socketpair(ends), 0);
	duplicate = passfd_duplicate(ends[0]);
	EXPECT(duplicate >= 0);
	EXPECT_EQUAL(passfd_send(ends[1], "x", 1, &file, 1), 1);
	EXPECT_EQUAL(passfd_shutdown(ends[0]), 0);
	EXPECT_EQUAL(passfd_send(ends[1], "y", 1, NULL, 0), -EPIPE);
	EXPECT_EQUAL(passfd_send(duplicate, "z", 1, NULL, 0), -EPIPE);
	EXPECT_EQUAL(passfd_receive(ends[1], &byte, 1, &received), 0);
	EXPECT_EQUAL(passfd_receive(duplicate, &byte, 1, &received), 1);
	EXPECT_EQUAL(byte, 'x');
	EXPECT_EQUAL(received.count, 1);
	close_received();
	EXPECT_EQUAL(passfd_receive(ends[0], &byte, 1, &received), 0);
	EXPECT_EQUAL(passfd_shutdown(ends[0]), 0);
	close_both(ends);
	EXPECT_EQUAL(passfd_shutdown(duplicate), 0);
	EXPECT_EQUAL(passfd_shutdown(file), -ENOTSOCK);
	close(duplicate);
	EXPECT_EQUAL(passfd_shutdown(duplicate), -EBADF);
	close(file);
}
