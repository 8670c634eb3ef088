/* Receiving bytes without descriptors from a distrusted peer. */
#include "../../native/passfd.h"
#include "check.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

TEST("receives bytes up to a descriptor, and leaves the descriptor in the queue")
{
	int ends[2], watch, has_descriptors, fd = new_watched(&watch);
	char bytes[8];

	EXPECT_EQUAL(passfd_socketpair(ends), 0);
	EXPECT_EQUAL(passfd_receive_bytes(ends[1], bytes, 8, &has_descriptors), -EAGAIN);
	EXPECT_EQUAL(passfd_send(ends[0], "ab", 2, NULL, 0), 2);
	EXPECT_EQUAL(passfd_receive_bytes(ends[1], bytes, 8, &has_descriptors), 2);
	EXPECT_EQUAL(has_descriptors, 0);
	EXPECT_EQUAL(passfd_receive_bytes(ends[1], bytes, 8, &has_descriptors), -EAGAIN);
	EXPECT_EQUAL(passfd_send(ends[0], "cd", 2, NULL, 0), 2);
	EXPECT_EQUAL(passfd_send(ends[0], "e", 1, &fd, 1), 1);
	close(fd);
	EXPECT_EQUAL(passfd_receive_bytes(ends[1], bytes, 2, &has_descriptors), 2);
	EXPECT_EQUAL(has_descriptors, 0);
	for (int tries = 0; tries < 2; tries++) {
		leave_room_for(0);
		EXPECT_EQUAL(passfd_receive_bytes(ends[1], bytes, 8, &has_descriptors), 1);
		restore_limit();
		EXPECT_EQUAL(has_descriptors, 1);
		EXPECT_EQUAL(bytes[0], 'e');
		EXPECT(is_held(watch));
	}
	close(ends[1]);
	EXPECT(!is_held(watch));
	close(ends[0]);
	close(watch);
}

TEST("finds a descriptor after bytes that came in many messages, or in a long one")
{
	static char bytes[70000], received[sizeof bytes];

	for (size_t before = 1; before < sizeof bytes; before = before * 3 + 1) {
		int ends[2], watch, has_descriptors = 0, fd = new_watched(&watch);
		size_t length = 0;

		EXPECT_EQUAL(passfd_socketpair(ends), 0);
		for (size_t sent = 0, part = 1; sent < before; sent += part, part = sent < 100 ? 1 : before - sent)
			EXPECT_EQUAL(passfd_send(ends[0], bytes + sent, part, NULL, 0), (int)part);
		EXPECT_EQUAL(passfd_send(ends[0], "xyz", 3, &fd, 1), 3);
		EXPECT_EQUAL(passfd_send(ends[0], "after", 5, &fd, 1), 5);
		close(fd);
		for (;;) {
			ssize_t more = passfd_receive_bytes(ends[1], received, sizeof received, &has_descriptors);
			if (has_descriptors) {
				EXPECT(more >= 3 && memcmp(received, "xyz", 3) == 0);
				break;
			}
			EXPECT(more > 0);
			length += (size_t)more;
		}
		EXPECT_EQUAL(length, before);
		EXPECT(is_held(watch));
		EXPECT_EQUAL(passfd_end(ends[1]), 0);
		close(ends[1]);
		close(ends[0]);
		EXPECT(!is_held(watch));
		close(watch);
	}
}

TEST("receives no more bytes than asked for when a descriptor comes after them")
{
	int ends[2], has_descriptors, fd = new_file();
	char bytes[8];

	EXPECT_EQUAL(passfd_socketpair(ends), 0);
	EXPECT_EQUAL(passfd_send(ends[0], "abcd", 4, NULL, 0), 4);
	EXPECT_EQUAL(passfd_send(ends[0], "e", 1, &fd, 1), 1);
	close(fd);
	for (int at = 0; at < 4; at++) {
		EXPECT_EQUAL(passfd_receive_bytes(ends[1], bytes, 1, &has_descriptors), 1);
		EXPECT_EQUAL(has_descriptors, 0);
		EXPECT_EQUAL(bytes[0], 'a' + at);
	}
	EXPECT_EQUAL(passfd_receive_bytes(ends[1], bytes, 1, &has_descriptors), 1);
	EXPECT_EQUAL(has_descriptors, 1);
	close(ends[0]);
	close(ends[1]);
}

/* Passes a descriptor with an out-of-band byte. 0: Unix sockets have no such bytes on this system. */
static int pass_out_of_band(int socket, int fd)
{
	union {
		char bytes[CMSG_SPACE(sizeof(int))];
		struct cmsghdr header;
	} control = {.header = {.cmsg_len = CMSG_LEN(sizeof fd), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS}};
	struct iovec iov = {.iov_base = "x", .iov_len = 1};
	struct msghdr message = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control.bytes,
		.msg_controllen = sizeof control.bytes,
	};

	memcpy(CMSG_DATA(&control.header), &fd, sizeof fd);
	return sendmsg(socket, &message, MSG_OOB) == 1;
}

TEST("finds a descriptor that came out of band, and leaves it in the queue, with and without bytes around it")
{
	for (int around = 0; around < 4; around++) {
		int ends[2], watch, has_descriptors, fd = new_watched(&watch);
		char bytes[8];

		EXPECT_EQUAL(passfd_socketpair(ends), 0);
		if (around & 1)
			EXPECT_EQUAL(passfd_send(ends[0], "ab", 2, NULL, 0), 2);
		int is_passed = pass_out_of_band(ends[0], fd);
		close(fd);
		if (is_passed) {
			if (around & 2)
				EXPECT_EQUAL(passfd_send(ends[0], "cd", 2, NULL, 0), 2);
			EXPECT_EQUAL(passfd_take_rights_only(ends[1]), 0);
			if (around & 1) {
				EXPECT_EQUAL(passfd_receive_bytes(ends[1], bytes, 8, &has_descriptors), 2);
				EXPECT_EQUAL(has_descriptors, 0);
			}
			EXPECT(passfd_receive_bytes(ends[1], bytes, 8, &has_descriptors) > 0);
			EXPECT_EQUAL(has_descriptors, 1);
			EXPECT_EQUAL(bytes[0], 'x');
			EXPECT(is_held(watch));
		}
		close(ends[0]);
		close(ends[1]);
		close(watch);
	}
}

TEST("does not take a queue with an out-of-band descriptor for empty")
{
	for (int has_more = 0; has_more < 2; has_more++) {
		int ends[2], watch, fd = new_watched(&watch);

		EXPECT_EQUAL(passfd_socketpair(ends), 0);
		int is_passed = pass_out_of_band(ends[0], fd);
		close(fd);
		if (is_passed) {
			if (has_more)
				EXPECT_EQUAL(passfd_send(ends[0], "ab", 2, NULL, 0), 2);
			EXPECT_EQUAL(passfd_end(ends[1]), 0);
			EXPECT(is_held(watch));
		}
		close(ends[0]);
		close(ends[1]);
		close(watch);
	}
}

TEST("does not take credentials for a descriptor when a socket takes rights only")
{
	const int on = 1;
	int ends[2], has_descriptors;
	char bytes[8];

	EXPECT_EQUAL(passfd_socketpair(ends), 0);
	EXPECT_EQUAL(setsockopt(ends[1], SOL_SOCKET, SO_PASSCRED, &on, sizeof on), 0);
	EXPECT_EQUAL(passfd_take_rights_only(ends[1]), 0);
	EXPECT_EQUAL(passfd_send(ends[0], "ab", 2, NULL, 0), 2);
	EXPECT_EQUAL(passfd_receive_bytes(ends[1], bytes, 8, &has_descriptors), 2);
	EXPECT_EQUAL(has_descriptors, 0);
	close(ends[0]);
	close(ends[1]);
}
