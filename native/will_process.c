/* Makes and ends the executor of the last will: a process that shares the descriptors of this one. See will.h. */
#include "will_state.h"

#ifdef WILL_IS_SUPPORTED

#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* Since Linux 5.3; older headers do not have it. */
#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif

/* The stack of the thread that makes the executor. The executor runs on a copy of it and keeps the whole mapping, so guard
 * pages on both sides keep the kernel from merging it with neighbouring mappings. */
#define STACK_BYTES (256 * 1024)
#define GUARD_BYTES (64 * 1024)

/* The shared memory stays mapped for ever, because another thread may be reading a mark in it to close a descriptor. */
static struct will_state *memory;
static char *stack;

static struct {
	pthread_t thread;
	sem_t is_made;
	pthread_mutex_t lock; /* of the two below */
	pid_t pid;            /* of the executor, or -errno */
	int is_over;          /* it has ended, and another process may get its id */
} executor = {.lock = PTHREAD_MUTEX_INITIALIZER};

static int make_memory(void)
{
	if (!memory) {
		void *mapped = mmap(NULL, sizeof *memory, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		if (mapped == MAP_FAILED)
			return -errno;
		memory = mapped;
	} else if (madvise(memory, sizeof *memory, MADV_REMOVE) < 0) {
		memset(memory, 0, sizeof *memory);
	}
	if (!stack) {
		char *mapped = mmap(NULL, STACK_BYTES + 2 * GUARD_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (mapped == MAP_FAILED)
			return -errno;
		if (mprotect(mapped + GUARD_BYTES, STACK_BYTES, PROT_READ | PROT_WRITE) < 0) {
			int result = -errno;
			munmap(mapped, STACK_BYTES + 2 * GUARD_BYTES);
			return result;
		}
		stack = mapped + GUARD_BYTES;
	}
	return 0;
}

/* The sanitizers use memory of their own in every function. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define IS_SANITIZED 1
#else
#define IS_SANITIZED 0
#endif

/* Whether a line of proc_pid_maps(5), `start-end perms offset dev inode path`, is private memory without a file. Mappings of
 * the kernel, such as [vdso], are not. */
static int parse_mapping(const char *line, struct will_mapping *mapping)
{
	unsigned long start, end;
	char permissions[5], path[8] = "";

	if (sscanf(line, "%lx-%lx %4s %*s %*s %*s %7s", &start, &end, permissions, path) < 3 || permissions[3] != 'p')
		return 0;
	*mapping = (struct will_mapping){start, end};
	return path[0] == '\0' || strcmp(path, "[heap]") == 0 || strcmp(path, "[stack]") == 0 ||
	       strncmp(path, "[anon:", 6) == 0;
}

/* Lists the mappings that the executor unmaps. Without /proc it keeps all of them. */
static void list_mappings(struct will_state *state)
{
	FILE *maps = IS_SANITIZED ? NULL : fopen("/proc/self/maps", "re");
	char *line = NULL;
	size_t size = 0;

	while (maps && state->mapping_count < WILL_MAX_MAPPINGS && getline(&line, &size, maps) > 0)
		state->mapping_count += parse_mapping(line, &state->mappings[state->mapping_count]);
	free(line);
	if (maps)
		fclose(maps);
}

/* The executor is a child of this thread. The thread waits for its end, so that no other code has to and no zombie stays. When
 * the process executes another program, the thread ends, and the kernel sends the executor a signal. */
static void *make_executor(void *argument)
{
	struct will_state *state = argument;
	siginfo_t ended;

	state->process = (int)getpid();
	state->thread_id = (int)syscall(SYS_gettid);
	state->thread = (uintptr_t)pthread_self();
	/* Not fork, which would run handlers and take locks. No signal is sent at its end, so no SIGCHLD handler sees it. */
	long result = syscall(SYS_clone, (long)CLONE_FILES, 0L, 0L, 0L, 0L);
	if (result == 0)
		will_execute(state);
	executor.pid = result < 0 ? -errno : (pid_t)result;
	executor.is_over = result < 0;
	sem_post(&executor.is_made);
	if (result < 0)
		return NULL;
	while (waitid(P_PID, (id_t)result, &ended, WEXITED | WNOWAIT | __WALL) < 0 && errno == EINTR)
		continue;
	pthread_mutex_lock(&executor.lock);
	executor.is_over = 1;
	while (waitpid((pid_t)result, NULL, __WALL) < 0 && errno == EINTR)
		continue;
	pthread_mutex_unlock(&executor.lock);
	return NULL;
}

static int start_executor(struct will_state *state)
{
	pthread_attr_t attributes;
	sigset_t all, before;

	if (sem_init(&executor.is_made, 0, 0) < 0)
		return -errno;
	pthread_attr_init(&attributes);
	int result = pthread_attr_setstack(&attributes, stack, STACK_BYTES);
	if (result == 0) {
		/* The thread handles no signals of the process, and the executor starts with all signals blocked. */
		sigfillset(&all);
		pthread_sigmask(SIG_SETMASK, &all, &before);
		result = pthread_create(&executor.thread, &attributes, make_executor, state);
		pthread_sigmask(SIG_SETMASK, &before, NULL);
	}
	pthread_attr_destroy(&attributes);
	if (result == 0) {
		while (sem_wait(&executor.is_made) < 0 && errno == EINTR)
			continue;
		if (executor.pid < 0) {
			pthread_join(executor.thread, NULL);
			result = -executor.pid;
		}
	}
	sem_destroy(&executor.is_made);
	return -result;
}

static int open_watches(struct will_state *state)
{
	sigset_t signals;

	state->process_watch = (int)syscall(SYS_pidfd_open, getpid(), 0);
	if (state->process_watch < 0)
		return -errno;
	sigemptyset(&signals);
	sigaddset(&signals, WILL_SIGNAL);
	state->signal_watch = signalfd(-1, &signals, SFD_CLOEXEC);
	return state->signal_watch < 0 ? -errno : 0;
}

static void close_watches(const struct will_state *state)
{
	if (state->process_watch >= 0)
		close(state->process_watch);
	if (state->signal_watch >= 0)
		close(state->signal_watch);
}

int will_start(struct will_state **started)
{
	struct rlimit limit;

	int result = make_memory();
	if (result < 0)
		return result;
	if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
		return -errno;
	memory->capacity = limit.rlim_cur < WILL_MAX_DESCRIPTORS ? (int)limit.rlim_cur : WILL_MAX_DESCRIPTORS;
	memory->stack = (uintptr_t)stack;
	memory->stack_end = memory->stack + STACK_BYTES;
	memory->process_watch = memory->signal_watch = -1;
	list_mappings(memory);
	result = open_watches(memory);
	if (result == 0)
		result = start_executor(memory);
	if (result < 0) {
		close_watches(memory);
		return result;
	}
	*started = memory;
	return 0;
}

pid_t will_started_pid(void)
{
	pthread_mutex_lock(&executor.lock);
	pid_t pid = executor.is_over ? 0 : executor.pid;
	pthread_mutex_unlock(&executor.lock);
	return pid;
}

void will_stop(struct will_state *state)
{
	int result = 0;

	pthread_mutex_lock(&executor.lock);
	if (!executor.is_over)
		result = kill(executor.pid, SIGKILL);
	pthread_mutex_unlock(&executor.lock);
	if (result < 0) {
		/* It belongs to another user. It ends with this process, and does nothing; until then it uses the memory. */
		pthread_detach(executor.thread);
		memory = NULL;
		stack = NULL;
		return;
	}
	pthread_join(executor.thread, NULL);
	close_watches(state);
}

#endif
