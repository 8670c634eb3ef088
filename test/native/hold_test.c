/* Held descriptors: open as long as the process lives, even when another process shares its table of descriptors. */
#include "../../native/hold.h"
#include "../../native/passfd.h"
#include "../../native/will.h"
#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

static int open_lock(void)
{
	int fd = open("lock", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	EXPECT(fd >= 0);
	return fd;
}

/* Whether another process holds the lock. */
static int is_locked(void)
{
	int fd = open_lock();
	int result = passfd_lock(fd, 1);
	EXPECT(result == 0 || result == -EWOULDBLOCK);
	close(fd);
	return result < 0;
}

static int hold_or_skip(int fd)
{
	int hold = hold_begin(fd);
	if (hold == -ENOSYS || hold == -EPERM)
		skip("this kernel has no close_range, or forbids it");
	EXPECT(hold >= 0);
	return hold;
}

TEST("holds a lock after the close of its descriptor, until the hold ends")
{
	enter_temporary_directory();
	int fd = open_lock();
	EXPECT_EQUAL(passfd_lock(fd, 0), 0);
	int hold = hold_or_skip(fd);
	close(fd);
	EXPECT(is_locked());
	EXPECT_EQUAL(hold_end(hold), 0);
	EXPECT(!is_locked());
	EXPECT_EQUAL(hold_end(hold), -EINVAL);
}

TEST("shares a lock with other shared locks, and with no exclusive one")
{
	enter_temporary_directory();
	int one = open_lock(), other = open_lock();
	EXPECT_EQUAL(passfd_lock(one, 0), 0);
	EXPECT_EQUAL(passfd_lock(other, 0), 0);
	EXPECT_EQUAL(passfd_lock(other, 1), -EWOULDBLOCK);
	close(one);
	EXPECT_EQUAL(passfd_lock(other, 1), 0);
	close(other);
}

TEST("holds only the descriptor that it was given")
{
	int watch, watched = new_watched(&watch);
	int hold = hold_or_skip(watch);

	close(watched);
	EXPECT(!is_held(watch));
	EXPECT_EQUAL(hold_end(hold), 0);
	close(watch);
}

TEST("holds HOLD_MAX descriptors at a time, each on its own")
{
	int holds[HOLD_MAX], fd = new_file();

	for (int i = 0; i < HOLD_MAX; i++)
		holds[i] = hold_or_skip(fd);
	EXPECT_EQUAL(hold_begin(fd), -EMFILE);
	EXPECT_EQUAL(hold_end(holds[3]), 0);
	holds[3] = hold_begin(fd);
	EXPECT(holds[3] >= 0);
	for (int i = 0; i < HOLD_MAX; i++)
		EXPECT_EQUAL(hold_end(holds[i]), 0);
	EXPECT_EQUAL(hold_begin(-1), -EBADF);
	EXPECT_EQUAL(hold_end(-1), -EINVAL);
	EXPECT_EQUAL(hold_end(HOLD_MAX), -EINVAL);
	close(fd);
}

/* Holds the lock. Its last will's process is stopped, and it has a child of its own. */
static _Noreturn void be_holder(int said)
{
	int fd = open_lock();
	EXPECT_EQUAL(passfd_lock(fd, 0), 0);
	int hold = hold_begin(fd);
	close(fd);
	int has_will = will_open();
	pid_t child = fork();
	if (child == 0) {
		for (;;)
			pause();
	}
	if (has_will == 0)
		kill(will_pid(), SIGSTOP);
	pid_t others[] = {hold < 0 ? hold : 0, has_will == 0 ? will_pid() : 0, child};
	if (write(said, others, sizeof others) < 0)
		_exit(1);
	for (;;)
		pause();
}

TEST("ends with its process, even when a stopped process shares all descriptors and a child lives on")
{
	int said[2];
	pid_t others[3];

	enter_temporary_directory();
	EXPECT_EQUAL(pipe(said), 0);
	pid_t holder = fork();
	if (holder == 0)
		be_holder(said[1]);
	EXPECT_EQUAL(read(said[0], others, sizeof others), sizeof others);
	int was_locked = is_locked();
	kill(holder, SIGKILL);
	waitpid(holder, NULL, 0);
	int is_locked_now = is_locked();
	kill(others[2], SIGKILL);
	if (others[1] > 0)
		kill(others[1], SIGKILL);
	close(said[0]);
	close(said[1]);
	if (others[0] < 0)
		skip("this kernel has no close_range, or forbids it");
	EXPECT(was_locked);
	EXPECT(!is_locked_now);
}
