/* Pages of shared memory, as memfds that nobody can resize. See board.h. */
#include "board.h"

#include <errno.h>
#include <time.h>

#ifdef __linux__

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Since Linux 6.3; older headers do not have it. */
#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 8U
#endif

#define SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)

/* With vm.memfd_noexec=2 the kernel refuses a memfd that could be executed. Kernels before 6.3 do not know the flag (EINVAL). */
static int create_memfd(void)
{
	int fd = memfd_create("passfd-board", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);
	if (fd < 0 && errno == EINVAL)
		fd = memfd_create("passfd-board", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	return fd < 0 ? -errno : fd;
}

int board_create(void)
{
	int fd = create_memfd();

	if (fd >= 0 && (ftruncate(fd, BOARD_BYTES) < 0 || fcntl(fd, F_ADD_SEALS, SEALS) < 0)) {
		int result = -errno;
		close(fd);
		return result;
	}
	return fd;
}

int board_map(int fd, int32_t **words)
{
	struct stat status;

	/* First the seals: without them the size could change after it was checked. A file that cannot have seals gives EINVAL. */
	int seals = fcntl(fd, F_GET_SEALS);
	if (seals < 0 || fstat(fd, &status) < 0)
		return -errno;
	if ((seals & SEALS) != SEALS || status.st_size != BOARD_BYTES)
		return -EINVAL;
	void *page = mmap(NULL, BOARD_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (page == MAP_FAILED)
		return -errno;
	*words = page;
	return 0;
}

void board_unmap(int32_t *words)
{
	munmap(words, BOARD_BYTES);
}

#else

int board_create(void)
{
	return -ENOSYS;
}

int board_map(int fd, int32_t **words)
{
	(void)fd;
	(void)words;
	return -ENOSYS;
}

void board_unmap(int32_t *words)
{
	(void)words;
}

#endif

int32_t board_time(uint64_t milliseconds)
{
	int32_t time = (int32_t)(milliseconds & INT32_MAX);
	return time == 0 ? 1 : time;
}

int32_t board_clock(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return board_time((uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000);
}
