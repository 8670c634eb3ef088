/* Descriptors beside bytes: what receive installs, at the limit and beside other data, and what peek leaves. */
#include "../../native/passfd.h"
#include "check.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* Since Linux 6.5; older headers do not have it. */
#ifndef SO_PASSPIDFD
#define SO_PASSPIDFD 76
#endif

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

/* The receive returns the byte, reports the lost descriptors, and leaves none open. */
static void receives_three_with_room_for(int room)
{
	static struct snapshot before, after;
	int ends[2], watches[3], fds[3];
	char bytes[2];

	EXPECT_EQUAL(passfd_socketpair(ends), 0);
	for (int i = 0; i < 3; i++)
		fds[i] = new_watched(&watches[i]);
	EXPECT_EQUAL(passfd_send(ends[0], "x", 1, fds, 3), 1);
	EXPECT_EQUAL(passfd_send(ends[0], "y", 1, NULL, 0), 1);
	for (int i = 0; i < 3; i++)
		close(fds[i]);
	take_snapshot(&before);
	leave_room_for(room);
	EXPECT_EQUAL(passfd_receive(ends[1], bytes, 2, &received), 1);
	restore_limit();
	EXPECT_EQUAL(bytes[0], 'x');
	EXPECT_EQUAL(received.truncated, 1);
	EXPECT_EQUAL(received.count, 0);
	take_snapshot(&after);
	EXPECT_EQUAL(strcmp(before.text, after.text), 0);
	for (int i = 0; i < 3; i++) {
		EXPECT(wait_for(watches[i], 0) & POLLHUP);
		close(watches[i]);
	}
	EXPECT_EQUAL(passfd_receive(ends[1], bytes, 2, &received), 1);
	EXPECT_EQUAL(bytes[0], 'y');
	EXPECT_EQUAL(received.truncated, 0);
	close_both(ends);
}

TEST("closes every descriptor of a message when there is room for one only, and still delivers the byte")
{
	receives_three_with_room_for(1);
}

TEST("closes every descriptor of a message when there is room for two only") { receives_three_with_room_for(2); }

TEST("reports the loss of a message's descriptors when there is room for none") { receives_three_with_room_for(0); }

TEST("receives all descriptors of a message when the room is exact")
{
	int ends[2], fds[3];
	char byte;

	EXPECT_EQUAL(passfd_socketpair(ends), 0);
	for (int i = 0; i < 3; i++)
		fds[i] = ends[0];
	EXPECT_EQUAL(passfd_send(ends[0], "x", 1, fds, 3), 1);
	leave_room_for(3);
	EXPECT_EQUAL(passfd_receive(ends[1], &byte, 1, &received), 1);
	restore_limit();
	EXPECT_EQUAL(received.truncated, 0);
	EXPECT_EQUAL(received.count, 3);
	close_received();
	close_both(ends);
}

static void passes_253_where_the_receiver_has_set(int option)
{
	int ends[2], fds[PASSFD_MAX_DESCRIPTORS], on = 1;
	char byte;

	EXPECT_EQUAL(passfd_socketpair(ends), 0);
	if (setsockopt(ends[1], SOL_SOCKET, option, &on, sizeof on) < 0)
		skip("this kernel does not know the option");
	for (int i = 0; i < PASSFD_MAX_DESCRIPTORS; i++)
		fds[i] = ends[0];
	EXPECT_EQUAL(passfd_send(ends[0], "x", 1, fds, PASSFD_MAX_DESCRIPTORS), 1);
	EXPECT_EQUAL(passfd_receive(ends[1], &byte, 1, &received), 1);
	EXPECT_EQUAL(received.truncated, 0);
	EXPECT_EQUAL(received.count, PASSFD_MAX_DESCRIPTORS);
	close_received();
	close_both(ends);
}

TEST("has room for 253 descriptors beside the sender's credentials")
{
	passes_253_where_the_receiver_has_set(SO_PASSCRED);
}

TEST("has room for 253 descriptors beside the time of arrival")
{
	passes_253_where_the_receiver_has_set(SO_TIMESTAMP);
}

TEST("keeps no descriptor of the sending process, which SO_PASSPIDFD adds to each message")
{
	passes_253_where_the_receiver_has_set(SO_PASSPIDFD);
}

TEST("ends a read after a message with descriptors, and joins the bytes before it to it")
{
	int ends[2], one = new_file(), other = new_file();
	char bytes[16];

	EXPECT_EQUAL(passfd_socketpair(ends), 0);
	EXPECT_EQUAL(passfd_send(ends[0], "ab", 2, NULL, 0), 2);
	EXPECT_EQUAL(passfd_send(ends[0], "c", 1, &one, 1), 1);
	EXPECT_EQUAL(passfd_send(ends[0], "d", 1, &other, 1), 1);
	EXPECT_EQUAL(passfd_send(ends[0], "e", 1, NULL, 0), 1);

	EXPECT_EQUAL(passfd_receive(ends[1], bytes, sizeof bytes, &received), 3);
	EXPECT_EQUAL(memcmp(bytes, "abc", 3), 0);
	EXPECT_EQUAL(received.count, 1);
	EXPECT(is_same_file(received.fds[0], one));
	close_received();

	EXPECT_EQUAL(passfd_receive(ends[1], bytes, sizeof bytes, &received), 1);
	EXPECT_EQUAL(bytes[0], 'd');
	EXPECT_EQUAL(received.count, 1);
	EXPECT(is_same_file(received.fds[0], other));
	close_received();

	EXPECT_EQUAL(passfd_receive(ends[1], bytes, sizeof bytes, &received), 1);
	EXPECT_EQUAL(bytes[0], 'e');
	EXPECT_EQUAL(received.count, 0);
	close(one);
	close(other);
	close_both(ends);
}

TEST("gives the descriptors with the first byte of a message that is read in pieces")
{
	int ends[2];
	char bytes[4];

	EXPECT_EQUAL(passfd_socketpair(ends), 0);
	EXPECT_EQUAL(passfd_send(ends[0], "xyz", 3, &ends[0], 1), 3);
	EXPECT_EQUAL(passfd_receive(ends[1], bytes, 1, &received), 1);
	EXPECT_EQUAL(received.count, 1);
	close_received();
	EXPECT_EQUAL(passfd_receive(ends[1], bytes, sizeof bytes, &received), 2);
	EXPECT_EQUAL(received.count, 0);
	close_both(ends);
}

TEST("peeks without taking a byte or installing a descriptor")
{
	static struct snapshot before, after;
	int ends[2], file = new_file();
	char bytes[4];

	EXPECT_EQUAL(passfd_socketpair(ends), 0);
	EXPECT_EQUAL(passfd_peek(ends[1], bytes, sizeof bytes), -EAGAIN);
	EXPECT_EQUAL(passfd_send(ends[0], "xyz", 3, &file, 1), 3);
	take_snapshot(&before);
	for (int i = 0; i < 3; i++) {
		memset(bytes, 0, sizeof bytes);
		EXPECT_EQUAL(passfd_peek(ends[1], bytes, 2), 2);
		EXPECT_EQUAL(memcmp(bytes, "xy\0", 3), 0);
	}
	take_snapshot(&after);
	EXPECT_EQUAL(strcmp(before.text, after.text), 0);
	EXPECT_EQUAL(passfd_receive(ends[1], bytes, sizeof bytes, &received), 3);
	EXPECT_EQUAL(received.count, 1);
	EXPECT(is_same_file(received.fds[0], file));
	close_received();
	close(file);
	close_both(ends);
}
