/* Holding descriptors in a table of their own: see hold.h. */
#include "hold.h"

#include <errno.h>

#ifdef __linux__

#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Since Linux 5.9; older headers do not have them. The number is the same on every architecture. */
#ifndef SYS_close_range
#define SYS_close_range 436
#endif
#ifndef CLOSE_RANGE_UNSHARE
#define CLOSE_RANGE_UNSHARE (1U << 1)
#endif

/* The thread only sleeps. Sanitizers and the C library need some of the stack. */
#define STACK_BYTES (128 * 1024)

struct hold {
	int is_used;
	int fd;
	int result;
	pthread_t thread;
	sem_t is_begun;
	sem_t is_over;
};

static struct hold holds[HOLD_MAX];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void wait_for(sem_t *semaphore)
{
	while (sem_wait(semaphore) < 0 && errno == EINTR)
		continue;
}

/* Gives this thread a table of its own with one descriptor. The first call makes the table, so the second call closes no
 * descriptor of other threads. */
static int keep_only(int fd)
{
	if (syscall(SYS_close_range, (unsigned)fd + 1, UINT_MAX, CLOSE_RANGE_UNSHARE) < 0)
		return -errno;
	if (fd > 0 && syscall(SYS_close_range, 0U, (unsigned)fd - 1, 0U) < 0)
		return -errno;
	return 0;
}

static void *keep(void *argument)
{
	struct hold *hold = argument;

	hold->result = keep_only(hold->fd);
	sem_post(&hold->is_begun);
	if (hold->result == 0)
		wait_for(&hold->is_over);
	/* The kernel closes the table with the thread, but perhaps only after pthread_join. */
	if (hold->result == 0)
		close(hold->fd);
	return NULL;
}

static int start(struct hold *hold)
{
	pthread_attr_t attributes;
	sigset_t all, before;

	int result = pthread_attr_init(&attributes);
	if (result != 0)
		return -result;
	pthread_attr_setstacksize(&attributes, STACK_BYTES);
	/* Signals of the process are for other threads. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	result = pthread_create(&hold->thread, &attributes, keep, hold);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_attr_destroy(&attributes);
	if (result != 0)
		return -result;
	wait_for(&hold->is_begun);
	if (hold->result < 0)
		pthread_join(hold->thread, NULL);
	return hold->result;
}

static struct hold *take_free(void)
{
	struct hold *found = NULL;

	pthread_mutex_lock(&lock);
	for (int i = 0; i < HOLD_MAX && !found; i++)
		if (!holds[i].is_used)
			found = &holds[i];
	if (found)
		found->is_used = 1;
	pthread_mutex_unlock(&lock);
	return found;
}

static void give_back(struct hold *hold)
{
	sem_destroy(&hold->is_begun);
	sem_destroy(&hold->is_over);
	pthread_mutex_lock(&lock);
	hold->is_used = 0;
	pthread_mutex_unlock(&lock);
}

int hold_begin(int fd)
{
	if (fcntl(fd, F_GETFD) < 0)
		return -errno;
	struct hold *hold = take_free();
	if (!hold)
		return -EMFILE;
	hold->fd = fd;
	sem_init(&hold->is_begun, 0, 0);
	sem_init(&hold->is_over, 0, 0);
	int result = start(hold);
	if (result < 0) {
		give_back(hold);
		return result;
	}
	return (int)(hold - holds);
}

int hold_end(int number)
{
	if (number < 0 || number >= HOLD_MAX || !holds[number].is_used)
		return -EINVAL;
	struct hold *hold = &holds[number];
	sem_post(&hold->is_over);
	pthread_join(hold->thread, NULL);
	give_back(hold);
	return 0;
}

#else

int hold_begin(int fd)
{
	(void)fd;
	return -ENOSYS;
}

int hold_end(int hold)
{
	(void)hold;
	return -EINVAL;
}

#endif
