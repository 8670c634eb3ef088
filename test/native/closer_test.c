/* Closing on threads. In these tests, a socket with SO_LINGER is what is slow to close. */
#include "../../native/closer.h"
#include "../../native/passfd.h"
#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

/* Longer than any test runs. */
#define LINGER_SECONDS 1000

#define NOBODY (-1)

static void wait_until_closed(int64_t account)
{
	while (closer_waiting(account, 0) > 0)
		poll(NULL, 0, 1);
}

TEST("closes a descriptor that is queued")
{
	int watch, fd = new_watched(&watch);

	EXPECT_EQUAL(closer_close(fd, NOBODY), 0);
	EXPECT(wait_for(watch, 0) & POLLHUP);
	close(watch);
	wait_until_closed(NOBODY);
	EXPECT(!is_open(fd));
}

TEST("closes thousands of descriptors of several accounts, each once")
{
	int watch, first = new_watched(&watch);

	for (int i = 0; i < 5000; i++) {
		int fd = fcntl(first, F_DUPFD_CLOEXEC, 3);
		EXPECT(fd >= 0);
		EXPECT_EQUAL(closer_close(fd, i % 5), 0);
		if (i % 500 == 0)
			wait_until_closed(i % 5);
	}
	for (int account = 0; account < 5; account++)
		wait_until_closed(account);
	EXPECT(is_held(watch));
	close(first);
	EXPECT(!is_held(watch));
	close(watch);
}

TEST("delays only the account whose descriptor is slow to close")
{
	int peer, watch, others, slow = new_lingering(LINGER_SECONDS, &peer);
	int second = new_watched(&watch), elsewhere = new_watched(&others);

	EXPECT_EQUAL(closer_close(slow, 1), 0);
	EXPECT_EQUAL(closer_close(second, 1), 0);
	EXPECT_EQUAL(closer_close(elsewhere, 2), 0);
	EXPECT(wait_for(others, 0) & POLLHUP);
	wait_until_closed(2);
	EXPECT_EQUAL(closer_waiting(1, 0), 2);
	EXPECT(is_held(watch));
	close(peer);
	EXPECT(wait_for(watch, 0) & POLLHUP);
	wait_until_closed(1);
	close(watch);
	close(others);
}

TEST("waits for at most as many slow closes as it has threads, and closes the others after these")
{
	int peers[CLOSER_MAX_THREADS], watch, fd = new_watched(&watch);

	for (int i = 0; i < CLOSER_MAX_THREADS; i++)
		EXPECT_EQUAL(closer_close(new_lingering(LINGER_SECONDS, &peers[i]), i + 1), 0);
	EXPECT_EQUAL(closer_close(fd, NOBODY), 0);
	EXPECT_EQUAL(closer_waiting(NOBODY, 0), 1);
	close(peers[3]);
	EXPECT(wait_for(watch, 0) & POLLHUP);
	for (int i = 0; i < CLOSER_MAX_THREADS; i++)
		if (i != 3)
			close(peers[i]);
	for (int i = 1; i <= CLOSER_MAX_THREADS; i++)
		wait_until_closed(i);
	wait_until_closed(NOBODY);
	close(watch);
}

TEST("refuses a socket without a descriptor in its queue at once, even when its account is late")
{
	int peer, ends[2], slow = new_lingering(LINGER_SECONDS, &peer);
	char byte;

	EXPECT_EQUAL(closer_close(slow, 1), 0);
	EXPECT_EQUAL(passfd_socketpair(ends), 0);
	EXPECT_EQUAL(passfd_send(ends[0], "xyz", 3, NULL, 0), 3);
	EXPECT_EQUAL(closer_refuse(ends[1], 1), 0);
	EXPECT(!is_open(ends[1]));
	EXPECT_EQUAL(closer_waiting(1, 0), 1);
	EXPECT_EQUAL(recv(ends[0], &byte, 1, 0), 0);
	EXPECT_EQUAL(closer_refuse(ends[1], 1), -EBADF);
	close(ends[0]);
	close(peer);
	wait_until_closed(1);
}

TEST("queues a refused socket with a descriptor in its queue, also after bytes")
{
	static char bytes[32768];
	int ends[2], watch, fd = new_watched(&watch), peer, slow = new_lingering(LINGER_SECONDS, &peer);

	EXPECT_EQUAL(closer_close(slow, 1), 0);
	EXPECT_EQUAL(passfd_socketpair(ends), 0);
	EXPECT_EQUAL(passfd_send(ends[0], bytes, sizeof bytes, NULL, 0), (int)sizeof bytes);
	EXPECT_EQUAL(passfd_send(ends[0], "x", 1, &fd, 1), 1);
	close(fd);
	EXPECT_EQUAL(closer_refuse(ends[1], 1), 0);
	EXPECT_EQUAL(closer_waiting(1, 0), 2);
	EXPECT(is_held(watch));
	close(peer);
	wait_until_closed(1);
	EXPECT(!is_held(watch));
	close(watch);
	close(ends[0]);
}

TEST("takes over no descriptor that is not open")
{
	int fd = new_file();

	close(fd);
	EXPECT_EQUAL(closer_close(fd, NOBODY), -EBADF);
	EXPECT_EQUAL(closer_refuse(fd, NOBODY), -EBADF);
	EXPECT_EQUAL(closer_total(), 0);
}

TEST("counts waiting descriptors only when the oldest has waited long enough")
{
	int peer, slow = new_lingering(LINGER_SECONDS, &peer);

	EXPECT_EQUAL(closer_close(slow, 1), 0);
	EXPECT_EQUAL(closer_close(new_file(), 1), 0);
	EXPECT_EQUAL(closer_waiting(1, 1000 * 1000), 0);
	while (closer_waiting(1, 50) == 0)
		poll(NULL, 0, 10);
	EXPECT_EQUAL(closer_waiting(1, 50), 2);
	EXPECT_EQUAL(closer_waiting(2, 0), 0);
	EXPECT_EQUAL(closer_total(), 2);
	close(peer);
	wait_until_closed(1);
	EXPECT_EQUAL(closer_total(), 0);
}
