/* The last will, on the side of the living: see will.h. */
#include "will.h"
#include "will_state.h"

#include <errno.h>

#ifdef WILL_IS_SUPPORTED

#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* Since Linux 5.3; older headers do not have it. */
#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif

/* Of the thread that makes the executor, which goes on on a copy of it. Guard pages on both sides keep the kernel from
 * joining it with its neighbours, since the executor keeps the whole mapping. */
#define STACK_BYTES (256 * 1024)
#define GUARD_BYTES (64 * 1024)

/* The kernel sends a message of this length on a Unix stream as a whole or not at all: it is less than the least send
 * buffer holds (SOCK_MIN_SNDBUF, and half of it at a time). */
#define WHOLE_BYTES 2048

/* What is shared stays mapped for good, so that a descriptor which another thread closes meanwhile finds its mark. */
static struct will_state *memory;
static char *stack;

/* The memory while the will is open, else NULL: then nothing costs anything. */
static struct will_state *_Atomic will;

/* Whether this thread has opened it. */
static _Thread_local int is_opener;

static struct {
	pthread_t thread;
	sem_t is_made;
	pthread_mutex_t lock; /* of the two below */
	pid_t pid;            /* of the executor, or -errno */
	int is_over;          /* it has ended, and its id may be another's */
} executor = {.lock = PTHREAD_MUTEX_INITIALIZER};

static struct will_state *opened(void)
{
	return atomic_load_explicit(&will, memory_order_acquire);
}

static int is_known(const struct will_state *state, int fd)
{
	return fd >= 0 && fd < state->capacity;
}

/* Why a descriptor cannot be registered. */
static int unknown(int fd)
{
	return fd < 0 ? -EBADF : -ENOSPC;
}

static unsigned char mark_of(struct will_state *state, int fd)
{
	return atomic_load_explicit(&state->marks[fd], memory_order_relaxed);
}

static void set_mark(struct will_state *state, int fd, unsigned char mark, int on)
{
	if (on)
		atomic_fetch_or_explicit(&state->marks[fd], mark, memory_order_relaxed);
	else
		atomic_fetch_and_explicit(&state->marks[fd], (unsigned char)~mark, memory_order_relaxed);
}

static int are_known(const struct will_state *state, const int *fds, size_t count)
{
	for (size_t i = 0; i < count; i++)
		if (!is_known(state, fds[i]))
			return 0;
	return 1;
}

static void mark_all(struct will_state *state, const int *fds, size_t count, int on)
{
	for (size_t i = 0; i < count; i++)
		if (is_known(state, fds[i]))
			set_mark(state, fds[i], WILL_HANDED, on);
}

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

/* The sanitizers have memory of their own, and use it in every function. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define IS_SANITIZED 1
#else
#define IS_SANITIZED 0
#endif

/* Private memory without a file, as proc_pid_maps(5) lists it: `start-end perms offset dev inode path`. Not what the
 * kernel has put there, such as [vdso]. */
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

/* Without /proc the executor keeps everything. */
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

/* The executor is a child of this thread, which then waits for its end: so nobody else has to, and no zombie stays. When
 * the process executes another program, this thread ends, and the kernel tells the executor. */
static void *make_executor(void *argument)
{
	struct will_state *state = argument;
	siginfo_t ended;

	state->process = (int)getpid();
	state->thread_id = (int)syscall(SYS_gettid);
	state->thread = (uintptr_t)pthread_self();
	/* Not fork, which would run handlers and take locks. Without a signal at its end: no SIGCHLD handler hears of it. */
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
		/* The thread handles no signals of the process, and the executor starts with them blocked. */
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

int will_open(void)
{
	struct rlimit limit;

	if (opened())
		return -EALREADY;
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
	is_opener = 1;
	atomic_store_explicit(&will, memory, memory_order_release);
	return 0;
}

pid_t will_pid(void)
{
	if (!opened())
		return 0;
	pthread_mutex_lock(&executor.lock);
	pid_t pid = executor.is_over ? 0 : executor.pid;
	pthread_mutex_unlock(&executor.lock);
	return pid;
}

void will_cancel(void)
{
	struct will_state *state = opened();
	int result = 0;

	if (!state)
		return;
	atomic_store_explicit(&state->is_cancelled, 1, memory_order_release);
	atomic_store_explicit(&will, NULL, memory_order_release);
	is_opener = 0;
	pthread_mutex_lock(&executor.lock);
	if (!executor.is_over)
		result = kill(executor.pid, SIGKILL);
	pthread_mutex_unlock(&executor.lock);
	if (result < 0) {
		/* It is of another user. It ends with this process, without doing anything; until then it uses all of this. */
		pthread_detach(executor.thread);
		memory = NULL;
		stack = NULL;
		return;
	}
	pthread_join(executor.thread, NULL);
	close_watches(state);
}

int will_add_listener(int id, int socket)
{
	struct will_state *state = opened();
	struct will_listener *free = NULL;

	if (!state)
		return -ENOENT;
	if (id < 0 || id > WILL_MAX_LISTENER_ID)
		return -EINVAL;
	for (int i = 0; i < WILL_MAX_LISTENERS && !free; i++)
		if (!atomic_load_explicit(&state->listeners[i].is_set, memory_order_relaxed))
			free = &state->listeners[i];
	if (!free)
		return -ENOSPC;
	socklen_t length = sizeof free->address;
	if (getsockname(socket, (struct sockaddr *)(void *)free->address, &length) < 0)
		return -errno;
	free->length = length;
	free->id = id;
	atomic_store_explicit(&free->is_set, 1, memory_order_release);
	return 0;
}

int will_remove_listener(int id)
{
	struct will_state *state = opened();

	if (!state)
		return -ENOENT;
	for (int i = 0; i < WILL_MAX_LISTENERS; i++)
		if (atomic_load_explicit(&state->listeners[i].is_set, memory_order_relaxed) && state->listeners[i].id == id)
			atomic_store_explicit(&state->listeners[i].is_set, 0, memory_order_release);
	return 0;
}

int will_close_first(int fd)
{
	struct will_state *state = opened();

	if (!state)
		return -ENOENT;
	if (!is_known(state, fd))
		return unknown(fd);
	if (mark_of(state, fd) & WILL_CLOSE_FIRST)
		return 0;
	for (int i = 0; i < WILL_MAX_CLOSE_FIRST; i++) {
		if (atomic_load_explicit(&state->close_first[i], memory_order_relaxed) != 0)
			continue;
		set_mark(state, fd, WILL_CLOSE_FIRST, 1);
		atomic_store_explicit(&state->close_first[i], fd + 1, memory_order_release);
		return 0;
	}
	return -ENOSPC;
}

static void forget_close_first(struct will_state *state, int fd)
{
	for (int i = 0; i < WILL_MAX_CLOSE_FIRST; i++)
		if (atomic_load_explicit(&state->close_first[i], memory_order_relaxed) == fd + 1)
			atomic_store_explicit(&state->close_first[i], 0, memory_order_release);
	set_mark(state, fd, WILL_CLOSE_FIRST, 0);
}

/* The channel of this socket, or a free place for one; NULL when there is none. */
static struct will_channel *find_channel(struct will_state *state, int socket)
{
	int is_wanted_set = (mark_of(state, socket) & WILL_CHANNEL) != 0;

	for (int i = 0; i < WILL_MAX_CHANNELS; i++) {
		struct will_channel *channel = &state->channels[i];
		int is_set = atomic_load_explicit(&channel->is_set, memory_order_relaxed);
		if (is_wanted_set ? is_set && channel->socket == socket : !is_set)
			return channel;
	}
	return NULL;
}

int will_set_channel(int socket, int flags, const int *listeners, size_t count)
{
	static unsigned char wanted[(WILL_MAX_LISTENER_ID + 1) / 8];
	struct will_state *state = opened();

	if (!state)
		return -ENOENT;
	if (!is_known(state, socket))
		return unknown(socket);
	for (size_t i = 0; i < count; i++)
		if (listeners[i] < 0 || listeners[i] > WILL_MAX_LISTENER_ID)
			return -EINVAL;
	struct will_channel *channel = find_channel(state, socket);
	if (!channel)
		return -ENOSPC;

	memset(wanted, 0, sizeof wanted);
	for (size_t i = 0; i < count; i++)
		wanted[listeners[i] / 8] |= (unsigned char)(1 << listeners[i] % 8);
	/* In place: each state in between is one that the worker may be in, too. */
	for (size_t i = 0; i < sizeof wanted; i++)
		atomic_store_explicit(&channel->listeners[i], wanted[i], memory_order_relaxed);
	channel->socket = socket;
	atomic_store_explicit(&channel->is_plain, flags & WILL_IS_PLAIN, memory_order_relaxed);
	atomic_store_explicit(&channel->is_ready, flags & WILL_IS_READY, memory_order_relaxed);
	set_mark(state, socket, WILL_CHANNEL, 1);
	atomic_store_explicit(&channel->is_set, 1, memory_order_release);
	return 0;
}

static void remove_channel(struct will_state *state, int socket)
{
	struct will_channel *channel = find_channel(state, socket);
	if (channel)
		atomic_store_explicit(&channel->is_set, 0, memory_order_release);
	set_mark(state, socket, WILL_CHANNEL | WILL_MID_FRAME, 0);
}

/* Sends, and keeps a mark at the channel while a part of the message may have been sent. */
static ssize_t send_marked(struct will_state *state, int socket, const void *bytes, size_t length, const int *fds,
                           size_t count)
{
	int was_marked = mark_of(state, socket) & WILL_MID_FRAME;

	if (!was_marked && length <= WHOLE_BYTES)
		return passfd_send(socket, bytes, length, fds, count);
	set_mark(state, socket, WILL_MID_FRAME, 1);
	ssize_t sent = passfd_send(socket, bytes, length, fds, count);
	if (sent == (ssize_t)length || (sent < 0 && !was_marked))
		set_mark(state, socket, WILL_MID_FRAME, 0);
	return sent;
}

static ssize_t send_with_intent(struct will_state *state, int socket, const void *bytes, size_t length, const int *fds,
                                size_t count, const struct will_handoff *handoff)
{
	struct will_intent *intent = &state->intent;
	const struct will_channel *channel = find_channel(state, socket);

	intent->channel = (int)(channel - state->channels);
	intent->handoff = *handoff;
	intent->count = count;
	memcpy(intent->fds, fds, count * sizeof *fds);
	atomic_store_explicit(&intent->is_set, 1, memory_order_release);
	ssize_t sent = send_marked(state, socket, bytes, length, fds, count);
	if (sent > 0)
		mark_all(state, fds, count, 1);
	atomic_store_explicit(&intent->is_set, 0, memory_order_release);
	return sent;
}

ssize_t will_send(int socket, const void *bytes, size_t length, const int *fds, size_t count,
                  const struct will_handoff *handoff)
{
	struct will_state *state = opened();

	if (!state || count > PASSFD_MAX_DESCRIPTORS)
		return passfd_send(socket, bytes, length, fds, count);
	int is_channel = is_known(state, socket) && mark_of(state, socket) & WILL_CHANNEL;
	if (handoff && is_channel && count > 0 && are_known(state, fds, count))
		return send_with_intent(state, socket, bytes, length, fds, count, handoff);
	/* Nothing can be repeated here. Lost, if this process dies in the call, is better than served twice. */
	if (handoff)
		mark_all(state, fds, count, 1);
	ssize_t sent = is_channel ? send_marked(state, socket, bytes, length, fds, count)
	                          : passfd_send(socket, bytes, length, fds, count);
	if (handoff && sent < 0)
		mark_all(state, fds, count, 0);
	return sent;
}

int will_hand_out(const int *fds, size_t count)
{
	struct will_state *state = opened();

	if (!state)
		return -ENOENT;
	mark_all(state, fds, count, 1);
	return 0;
}

int will_take_back(const int *fds, size_t count)
{
	struct will_state *state = opened();

	if (!state)
		return -ENOENT;
	mark_all(state, fds, count, 0);
	return 0;
}

/* What is done to a descriptor by its number must not be done to the next one that gets the number. */
void will_before_close(int fd)
{
	struct will_state *state = opened();

	if (!state || !is_known(state, fd))
		return;
	if (mark_of(state, fd) & WILL_CHANNEL)
		remove_channel(state, fd);
	if (mark_of(state, fd) & WILL_CLOSE_FIRST)
		forget_close_first(state, fd);
}

/* Behind the close: a connection that somebody else serves must not be open without its mark, not even for a moment. */
void will_forget(int fd)
{
	struct will_state *state = opened();

	if (is_opener && state && is_known(state, fd) && mark_of(state, fd) != 0)
		set_mark(state, fd, WILL_HANDED, 0);
}

#else

int will_open(void)
{
	return -ENOSYS;
}

pid_t will_pid(void)
{
	return 0;
}

void will_cancel(void)
{
}

int will_add_listener(int id, int socket)
{
	(void)id;
	(void)socket;
	return -ENOENT;
}

int will_remove_listener(int id)
{
	(void)id;
	return -ENOENT;
}

int will_close_first(int fd)
{
	(void)fd;
	return -ENOENT;
}

int will_set_channel(int socket, int flags, const int *listeners, size_t count)
{
	(void)socket;
	(void)flags;
	(void)listeners;
	(void)count;
	return -ENOENT;
}

ssize_t will_send(int socket, const void *bytes, size_t length, const int *fds, size_t count,
                  const struct will_handoff *handoff)
{
	(void)handoff;
	return passfd_send(socket, bytes, length, fds, count);
}

int will_hand_out(const int *fds, size_t count)
{
	(void)fds;
	(void)count;
	return -ENOENT;
}

int will_take_back(const int *fds, size_t count)
{
	(void)fds;
	(void)count;
	return -ENOENT;
}

void will_before_close(int fd)
{
	(void)fd;
}

void will_forget(int fd)
{
	(void)fd;
}

#endif
