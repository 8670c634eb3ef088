/* The descriptor of a process: it reports the end of that process, and of no other process. */
#include "../../native/passfd.h"
#include "check.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

/* A child that waits until it is ended. */
static pid_t start_child(void)
{
	pid_t child = fork();
	EXPECT(child >= 0);
	if (child == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (;;)
			pause();
	}
	return child;
}

static int open_or_skip(pid_t pid)
{
	int fd = passfd_pidfd_open(pid);
	if (fd == -ENOSYS || fd == -EPERM)
		skip("this kernel has no pidfd_open, or forbids it");
	EXPECT(fd >= 0);
	return fd;
}

static int is_readable(int fd)
{
	struct pollfd watched = {.fd = fd, .events = POLLIN};
	EXPECT(poll(&watched, 1, 0) >= 0);
	return (watched.revents & POLLIN) != 0;
}

TEST("is readable when the process has ended, before and after its parent has waited for it")
{
	int status;
	pid_t child = start_child();
	int fd = open_or_skip(child);

	EXPECT(is_close_on_exec(fd));
	EXPECT(!is_readable(fd));
	EXPECT_EQUAL(kill(child, SIGKILL), 0);
	EXPECT(wait_for(fd, POLLIN) & POLLIN);
	EXPECT(waitpid(child, &status, 0) == child);
	EXPECT(is_readable(fd));
	EXPECT_EQUAL(passfd_close(fd), 0);
}

TEST("opens a process that has ended, until its parent has waited for it")
{
	siginfo_t end;
	int status;
	pid_t child = start_child();

	EXPECT_EQUAL(kill(child, SIGKILL), 0);
	EXPECT_EQUAL(waitid(P_PID, (id_t)child, &end, WEXITED | WNOWAIT), 0);
	int fd = open_or_skip(child);
	EXPECT(is_readable(fd));
	EXPECT_EQUAL(passfd_close(fd), 0);
	EXPECT(waitpid(child, &status, 0) == child);
}

TEST("returns ESRCH for a process that is gone, and EINVAL for a wrong number")
{
	int status;
	pid_t child = start_child();
	int fd = open_or_skip(child);

	EXPECT_EQUAL(passfd_close(fd), 0);
	EXPECT_EQUAL(kill(child, SIGKILL), 0);
	EXPECT(waitpid(child, &status, 0) == child);
	EXPECT_EQUAL(passfd_pidfd_open(child), -ESRCH);
	EXPECT_EQUAL(passfd_pidfd_open(0), -EINVAL);
	EXPECT_EQUAL(passfd_pidfd_open(-1), -EINVAL);
}
