/* Boards: pages that two processes share, and that neither can take away from the other. */
#include "../../native/board.h"
#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* A file that differs from a board only by its size and its seals. */
static int new_memfd(off_t size, int seals)
{
	int fd = memfd_create("other", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	EXPECT(fd >= 0);
	EXPECT_EQUAL(ftruncate(fd, size), 0);
	EXPECT_EQUAL(fcntl(fd, F_ADD_SEALS, seals), 0);
	return fd;
}

static void refuses(int fd, int wanted)
{
	int32_t *words = NULL;

	EXPECT_EQUAL(board_map(fd, &words), wanted);
	EXPECT(words == NULL);
	close(fd);
}

TEST("makes a board that nobody can shorten, lengthen or seal further, and that is close-on-exec")
{
	int fd = board_create();

	EXPECT(fd >= 0);
	EXPECT(is_close_on_exec(fd));
	EXPECT_EQUAL(ftruncate(fd, BOARD_BYTES - 1), -1);
	EXPECT_EQUAL(errno, EPERM);
	EXPECT_EQUAL(ftruncate(fd, BOARD_BYTES + 1), -1);
	EXPECT_EQUAL(errno, EPERM);
	EXPECT_EQUAL(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), -1);
	EXPECT_EQUAL(errno, EPERM);
	close(fd);
}

TEST("shares what it writes with a process that mapped the board, after both descriptors are closed")
{
	int fd = board_create(), status = 0;
	int32_t *words = NULL;

	EXPECT_EQUAL(board_map(fd, &words), 0);
	for (int i = 0; i < BOARD_WORDS; i++)
		EXPECT_EQUAL(words[i], 0);
	pid_t child = fork();
	if (child == 0) {
		int32_t *same = NULL;
		board_unmap(words);
		if (board_map(fd, &same) < 0)
			_exit(1);
		close(fd);
		board_write(same, BOARD_WORDS - 1, -7);
		board_unmap(same);
		_exit(0);
	}
	EXPECT(child > 0);
	close(fd);
	EXPECT_EQUAL(waitpid(child, &status, 0), child);
	EXPECT_EQUAL(status, 0);
	EXPECT_EQUAL(words[BOARD_WORDS - 1], -7);
	board_unmap(words);
}

TEST("maps no memfd that lacks one of the seals")
{
	refuses(new_memfd(BOARD_BYTES, F_SEAL_GROW | F_SEAL_SEAL), -EINVAL);
	refuses(new_memfd(BOARD_BYTES, F_SEAL_SHRINK | F_SEAL_SEAL), -EINVAL);
	refuses(new_memfd(BOARD_BYTES, F_SEAL_SHRINK | F_SEAL_GROW), -EINVAL);
	refuses(memfd_create("sealed for ever", MFD_CLOEXEC), -EINVAL);
}

TEST("maps no memfd of another size")
{
	refuses(new_memfd(0, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL), -EINVAL);
	refuses(new_memfd(BOARD_BYTES - 1, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL), -EINVAL);
	refuses(new_memfd(2 * BOARD_BYTES, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL), -EINVAL);
}

TEST("maps no memfd that cannot be written")
{
	int seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
	char path[64];

	refuses(new_memfd(BOARD_BYTES, seals | F_SEAL_WRITE), -EPERM);
	int fd = new_memfd(BOARD_BYTES, seals);
	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	refuses(open(path, O_RDONLY | O_CLOEXEC), -EACCES);
	close(fd);
}

TEST("maps nothing that is no memfd")
{
	int pipes[2], fd = new_file();

	EXPECT_EQUAL(ftruncate(fd, BOARD_BYTES), 0);
	refuses(fd, -EINVAL);
	EXPECT_EQUAL(pipe2(pipes, O_CLOEXEC), 0);
	refuses(pipes[0], -EINVAL);
	refuses(pipes[1], -EINVAL);
	refuses(-1, -EBADF);
}

TEST("makes no board when no descriptor is free")
{
	leave_room_for(0);
	EXPECT_EQUAL(board_create(), -EMFILE);
	restore_limit();
}

TEST("counts milliseconds modulo 2^31, and leaves 0 out")
{
	EXPECT_EQUAL(board_time(0), 1);
	EXPECT_EQUAL(board_time(5), 5);
	EXPECT_EQUAL(board_time(INT32_MAX), INT32_MAX);
	EXPECT_EQUAL(board_time((uint64_t)1 << 31), 1);
	EXPECT_EQUAL(board_time(((uint64_t)3 << 31) + 9), 9);
	EXPECT(board_clock() > 0);
}
