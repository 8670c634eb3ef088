/* The executor of a last will: a process that shares the descriptors of another one, and waits for its end. See will.h.
 * It opens none while it waits: it can be ended at any moment, and its descriptors are the other one's.
 *
 * No function of the C library is called here. The process was cloned out of one with many threads, so locks may be held
 * forever, and most of the memory that the library works with is given back. A test holds that this file refers to
 * nothing outside of it. */
#include "will_state.h"

#ifdef WILL_IS_SUPPORTED

#include <errno.h>
#include <netinet/in.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <time.h>

/* Everything that the executor does for the dead ends after this time, whatever workers do. */
#define TIME_LIMIT_MS 2000

/* How long a process may take to end behind its first thread. One that takes longer has not died: it has executed another
 * program, which ends all threads but one. */
#define ENDING_LIMIT_MS 3000

/* The kernel does not tell when fewer descriptors are in flight. */
#define RETRY_MS 5

/* Descriptors in one poll(2), which takes no more than RLIMIT_NOFILE. */
#define POLLED_AT_ONCE 256

#define NOBODY (-1)

#define NANOSECONDS_PER_MS 1000000

/* In a loop that fills or copies bytes: keeps the compiler from making it a call of memset or memcpy. */
#define NO_LIBRARY_CALL __asm__ volatile("" ::: "memory")

enum outcome { SENT, FULL, GONE };

struct run {
	struct will_state *state;
	struct will_work *work;
	int64_t deadline;
	int channels;    /* slots in use end here */
	int next;        /* the channel that gets the next batch */
	int repeated;    /* the channel that gets the interrupted message again, or NOBODY */
	int is_released; /* the connections of that message go to others after all */
};

static inline long call(long number, long a, long b, long c, long d, long e, long f)
{
#if defined(__x86_64__)
	long result;
	register long fourth __asm__("r10") = d;
	register long fifth __asm__("r8") = e;
	register long sixth __asm__("r9") = f;
	__asm__ volatile("syscall"
	                 : "=a"(result)
	                 : "a"(number), "D"(a), "S"(b), "d"(c), "r"(fourth), "r"(fifth), "r"(sixth)
	                 : "rcx", "r11", "memory");
	return result;
#else
	register long name __asm__("x8") = number;
	register long first __asm__("x0") = a;
	register long second __asm__("x1") = b;
	register long third __asm__("x2") = c;
	register long fourth __asm__("x3") = d;
	register long fifth __asm__("x4") = e;
	register long sixth __asm__("x5") = f;
	__asm__ volatile("svc 0"
	                 : "+r"(first)
	                 : "r"(name), "r"(second), "r"(third), "r"(fourth), "r"(fifth), "r"(sixth)
	                 : "memory");
	return first;
#endif
}

static _Noreturn void end(void)
{
	for (;;)
		call(SYS_exit_group, 0, 0, 0, 0, 0, 0);
}

static void close_descriptor(int fd)
{
	call(SYS_close, fd, 0, 0, 0, 0, 0);
}

static int64_t now_ms(void)
{
	struct timespec time = {0, 0};
	call(SYS_clock_gettime, CLOCK_MONOTONIC, (long)&time, 0, 0, 0, 0);
	return (int64_t)time.tv_sec * 1000 + time.tv_nsec / NANOSECONDS_PER_MS;
}

/* A negative limit: none. */
static long poll_for(struct pollfd *polled, int count, int64_t limit_ms)
{
	struct timespec limit = {limit_ms / 1000, limit_ms % 1000 * NANOSECONDS_PER_MS};
	return call(SYS_ppoll, (long)polled, count, limit_ms < 0 ? 0 : (long)&limit, 0, 0, 0);
}

static unsigned char mark_of(const struct run *run, int fd)
{
	return atomic_load_explicit(&run->state->marks[fd], memory_order_relaxed);
}

static void set_handed(struct run *run, const int *fds, size_t count, int on)
{
	for (size_t i = 0; i < count; i++) {
		atomic_uchar *mark = &run->state->marks[fds[i]];
		unsigned char others = mark_of(run, fds[i]) & ~WILL_HANDED;
		atomic_store_explicit(mark, on ? others | WILL_HANDED : others, memory_order_relaxed);
	}
}

/* Gives back the memory that came with the clone, but for this stack and the thread's own data. Otherwise every page that
 * the process writes to from now on would be kept twice. */
static void forget_memory(const struct will_state *state)
{
	for (int i = 0; i < state->mapping_count; i++) {
		const struct will_mapping *mapping = &state->mappings[i];
		if ((mapping->start < state->stack_end && mapping->end > state->stack) ||
		    (mapping->start <= state->thread && state->thread < mapping->end))
			continue;
		call(SYS_munmap, (long)mapping->start, (long)(mapping->end - mapping->start), 0, 0, 0, 0);
	}
}

/* ---- Sending ---- */

static enum outcome send_frame(int socket, const void *frame, size_t length, const int *fds, size_t count)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int) * PASSFD_MAX_DESCRIPTORS)];
	} control;
	struct iovec iov = {(void *)frame, length};
	struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1};

	if (count > 0) {
		message.msg_control = control.bytes;
		message.msg_controllen = CMSG_SPACE(sizeof(int) * count);
		struct cmsghdr *header = &control.align;
		/* All of it: musl has padding where the kernel reads the upper half of the length. */
		*header = (struct cmsghdr){
			.cmsg_level = SOL_SOCKET,
			.cmsg_type = SCM_RIGHTS,
			.cmsg_len = CMSG_LEN(sizeof(int) * count),
		};
		int *data = (int *)(void *)CMSG_DATA(header);
		for (size_t i = 0; i < count; i++) {
			data[i] = fds[i];
			NO_LIBRARY_CALL;
		}
	}
	for (;;) {
		long sent = call(SYS_sendmsg, socket, (long)&message, MSG_DONTWAIT | MSG_NOSIGNAL, 0, 0, 0);
		if (sent == (long)length)
			return SENT;
		switch (sent) {
		case -EINTR:
			continue;
		case -EAGAIN:
		case -ENOBUFS:
		case -ENOMEM:
		case -ETOOMANYREFS:
			return FULL;
		default:
			return GONE; /* or half a frame was sent, behind which nothing can follow */
		}
	}
}

static unsigned char *put_number(unsigned char *bytes, uint64_t number, int size)
{
	for (int at = size - 1; at >= 0; at--, number >>= 8) {
		bytes[at] = (unsigned char)number;
		NO_LIBRARY_CALL;
	}
	return bytes + size;
}

/* 01 listener16 count8 */
static enum outcome send_handoff(int socket, int listener, const int *fds, size_t count)
{
	unsigned char frame[8];
	unsigned char *at = put_number(put_number(frame, 4, 4), 1, 1);
	at = put_number(put_number(at, (uint64_t)listener, 2), count, 1);
	return send_frame(socket, frame, (size_t)(at - frame), fds, count);
}

/* 05 position64 listener16 count8 */
static enum outcome send_handoff_again(int socket, const struct will_intent *intent)
{
	unsigned char frame[16];
	unsigned char *at = put_number(put_number(frame, 12, 4), 5, 1);
	at = put_number(at, intent->handoff.position, 8);
	at = put_number(put_number(at, (uint64_t)intent->handoff.listener, 2), intent->count, 1);
	return send_frame(socket, frame, (size_t)(at - frame), intent->fds, intent->count);
}

static enum outcome send_orphaned(int socket)
{
	static const char frame[] = "\0\0\0\x13{\"type\":\"orphaned\"}";
	return send_frame(socket, frame, sizeof frame - 1, NULL, 0);
}

/* The channel of the interrupted message is gone. Its worker adopts before it reads, and tells it first: when nothing
 * that it said is unread, it has adopted nothing of that message, and others can have the connections. */
static void release_repeated(struct run *run, int socket)
{
	const struct will_intent *intent = &run->state->intent;
	char byte;
	long unread = call(SYS_recvfrom, socket, (long)&byte, 1, MSG_PEEK | MSG_DONTWAIT, 0, 0);

	run->repeated = NOBODY;
	if (unread > 0)
		return;
	run->is_released = 1;
	set_handed(run, intent->fds, intent->count, 0);
}

static int is_plain(const struct run *run, int index)
{
	return atomic_load_explicit(&run->state->channels[index].is_plain, memory_order_acquire) != 0;
}

/* Repeats the interrupted message. A worker that could not recognise it may have got it already: so that nothing is served
 * twice, the connections are its own while it lives, and lost if they were not sent. */
static enum outcome repeat(struct run *run, int index)
{
	struct pollfd polled = {.fd = run->state->channels[index].socket};

	if (!is_plain(run, index))
		return send_handoff_again(polled.fd, &run->state->intent);
	poll_for(&polled, 1, 0);
	return polled.revents & (POLLHUP | POLLERR) ? GONE : SENT;
}

/* What has to be said on a channel before it gets anything new. */
static enum outcome prepare(struct run *run, int index)
{
	const struct will_channel *channel = &run->state->channels[index];
	enum outcome outcome = SENT;

	if (run->work->is_gone[index])
		return GONE;
	if (mark_of(run, channel->socket) & WILL_MID_FRAME)
		outcome = GONE;
	if (outcome == SENT && !run->work->is_greeted[index]) {
		outcome = is_plain(run, index) ? SENT : send_orphaned(channel->socket);
		run->work->is_greeted[index] = outcome == SENT;
	}
	if (outcome == SENT && index == run->repeated) {
		outcome = repeat(run, index);
		if (outcome == SENT)
			run->repeated = NOBODY;
	}
	if (outcome == GONE) {
		run->work->is_gone[index] = 1;
		if (index == run->repeated)
			release_repeated(run, channel->socket);
	}
	return outcome;
}

/* ---- The connections ---- */

/* 2: they came to exactly this address; 1: to it as a wildcard; 0: to another one. */
static int match(const struct will_listener *listener, const void *address, uint32_t length)
{
	const struct sockaddr *one = (const void *)listener->address, *other = address;
	int is_any = 1, is_equal = 1;

	if (one->sa_family != other->sa_family)
		return 0;
	switch (one->sa_family) {
	case AF_UNIX:
		if (listener->length != length)
			return 0;
		for (uint32_t at = 0; at < length; at++)
			is_equal &= listener->address[at] == ((const unsigned char *)address)[at];
		return is_equal ? 2 : 0;
	case AF_INET: {
		const struct sockaddr_in *own = (const void *)one, *its = (const void *)other;
		if (own->sin_port != its->sin_port)
			return 0;
		return own->sin_addr.s_addr == its->sin_addr.s_addr ? 2 : own->sin_addr.s_addr == INADDR_ANY;
	}
	case AF_INET6: {
		const struct sockaddr_in6 *own = (const void *)one, *its = (const void *)other;
		if (own->sin6_port != its->sin6_port)
			return 0;
		for (int at = 0; at < 16; at++) {
			is_any &= own->sin6_addr.s6_addr[at] == 0;
			is_equal &= own->sin6_addr.s6_addr[at] == its->sin6_addr.s6_addr[at];
		}
		return is_equal && own->sin6_scope_id == its->sin6_scope_id ? 2 : is_any;
	}
	default:
		return 0;
	}
}

/* The index of the listener whose connection it is, or NOBODY. */
static int listener_of(const struct run *run, int fd)
{
	_Alignas(8) unsigned char address[WILL_MAX_ADDRESS];
	uint32_t length = sizeof address;
	int best = NOBODY, closest = 0;

	if (call(SYS_getsockname, fd, (long)address, (long)&length, 0, 0, 0) < 0 || length > sizeof address ||
	    length < sizeof(sa_family_t))
		return NOBODY;
	for (int index = 0; index < WILL_MAX_LISTENERS; index++) {
		const struct will_listener *listener = &run->state->listeners[index];
		if (!atomic_load_explicit(&listener->is_set, memory_order_acquire))
			continue;
		int how_close = match(listener, address, length);
		if (how_close > closest) {
			closest = how_close;
			best = index;
		}
	}
	return best;
}

static int socket_option(int fd, int option)
{
	int value = -1;
	socklen_t length = sizeof value;
	return call(SYS_getsockopt, fd, SOL_SOCKET, option, (long)&value, (long)&length, 0) < 0 ? -1 : value;
}

static int is_connected(int fd)
{
	_Alignas(8) unsigned char address[WILL_MAX_ADDRESS];
	uint32_t length = sizeof address;
	return socket_option(fd, SO_TYPE) == SOCK_STREAM && socket_option(fd, SO_ACCEPTCONN) == 0 &&
	       call(SYS_getpeername, fd, (long)address, (long)&length, 0, 0, 0) >= 0;
}

/* Finds the accepted connections that nobody has; nothing was written down when they were accepted. */
static int collect_orphans(struct run *run)
{
	struct pollfd polled[POLLED_AT_ONCE];
	int found = 0;

	for (int first = 0; first < run->state->capacity; first += POLLED_AT_ONCE) {
		int count = run->state->capacity - first;
		if (count > POLLED_AT_ONCE)
			count = POLLED_AT_ONCE;
		for (int i = 0; i < count; i++) {
			polled[i].fd = first + i;
			polled[i].events = 0;
			polled[i].revents = 0;
		}
		/* Asks for nothing but which of them are open. When it fails, each is tried. */
		poll_for(polled, count, 0);
		for (int i = 0; i < count; i++) {
			int fd = first + i;
			if (polled[i].revents & POLLNVAL || mark_of(run, fd) & (WILL_HANDED | WILL_CHANNEL) || !is_connected(fd))
				continue;
			int listener = listener_of(run, fd);
			if (listener == NOBODY)
				continue;
			run->work->orphans[found].fd = fd;
			run->work->orphans[found++].listener = listener;
			run->work->counts[listener]++;
		}
	}
	return found;
}

static int serves(const struct run *run, int index, int listener)
{
	const struct will_channel *channel = &run->state->channels[index];
	return !run->work->is_gone[index] && atomic_load_explicit(&channel->is_set, memory_order_acquire) &&
	       atomic_load_explicit(&channel->is_ready, memory_order_acquire) &&
	       atomic_load_explicit(&channel->listeners[listener / 8], memory_order_relaxed) >> listener % 8 & 1;
}

/* Waits until something can be sent on a channel of those that are full. Returns 0 when time is up. */
static int wait_for_room(struct run *run, int listener)
{
	int count = 0;
	int64_t left = run->deadline - now_ms();

	if (left <= 0)
		return 0;
	for (int index = 0; index < run->channels; index++) {
		if (!serves(run, index, listener))
			continue;
		run->work->polled[count].fd = run->state->channels[index].socket;
		run->work->polled[count].revents = 0;
		run->work->polled[count++].events = POLLOUT;
	}
	int64_t began = now_ms();
	poll_for(run->work->polled, count, left);
	/* Writable at once, and full all the same: too many descriptors are in flight. */
	if (now_ms() == began)
		poll_for(NULL, 0, RETRY_MS);
	return 1;
}

/* Gives a batch to the next channel that takes it. */
static void give(struct run *run, int listener, const int *fds, size_t count)
{
	int is_full;
	do {
		is_full = 0;
		for (int turn = 0; turn < run->channels; turn++) {
			int index = run->next;
			run->next = (index + 1) % run->channels;
			if (!serves(run, index, listener))
				continue;
			enum outcome outcome = prepare(run, index);
			if (outcome == SENT)
				outcome = send_handoff(run->state->channels[index].socket, listener, fds, count);
			if (outcome == SENT) {
				set_handed(run, fds, count, 1);
				return;
			}
			if (outcome == GONE)
				run->work->is_gone[index] = 1;
			is_full |= outcome == FULL;
		}
	} while (is_full && wait_for_room(run, listener));
}

static int count_serving(const struct run *run, int listener)
{
	int count = 0;
	for (int index = 0; index < run->channels; index++)
		count += serves(run, index, listener);
	return count;
}

static int min(int one, int other)
{
	return one < other ? one : other;
}

/* Gives the orphans of one listener: to all who serve it in turn, and to each as many as to the others. */
static void give_all_of(struct run *run, int index, int found)
{
	int batch[WILL_MAX_BATCH];
	int count = 0, left = run->work->counts[index];
	int listener = run->state->listeners[index].id;
	int serving = count_serving(run, listener), turns = serving;

	if (serving == 0)
		return;
	for (int i = 0; i < found && now_ms() < run->deadline; i++) {
		if (run->work->orphans[i].listener != index)
			continue;
		batch[count++] = run->work->orphans[i].fd;
		if (count < min((left + turns - 1) / turns, WILL_MAX_BATCH))
			continue;
		give(run, listener, batch, (size_t)count);
		left -= count;
		count = 0;
		turns = turns > 1 ? turns - 1 : serving;
	}
}

static void give_orphans(struct run *run)
{
	for (int index = 0; index < WILL_MAX_LISTENERS; index++) {
		run->work->counts[index] = 0;
		NO_LIBRARY_CALL;
	}
	int found = collect_orphans(run);
	for (int index = 0; index < WILL_MAX_LISTENERS; index++)
		if (run->work->counts[index] > 0)
			give_all_of(run, index, found);
}

/* The interrupted message may have to wait, on a channel that is full. */
static void finish_repeated(struct run *run)
{
	for (;;) {
		int64_t left = run->deadline - now_ms();
		if (run->repeated == NOBODY || left <= 0)
			return;
		struct pollfd polled = {.fd = run->state->channels[run->repeated].socket, .events = POLLOUT};
		poll_for(&polled, 1, left);
		if (prepare(run, run->repeated) == FULL)
			poll_for(NULL, 0, RETRY_MS);
	}
}

static void begin_repeated(struct run *run)
{
	const struct will_intent *intent = &run->state->intent;

	run->repeated = NOBODY;
	if (!atomic_load_explicit(&intent->is_set, memory_order_acquire))
		return;
	/* Whether its worker got them is known to nobody here: they are not for others. */
	set_handed(run, intent->fds, intent->count, 1);
	run->repeated = intent->channel;
	prepare(run, intent->channel);
}

/* To close a listening socket may take long: strangers have passed descriptors in its backlog that linger, and then the
 * connections would come too late. An end of the process does not wait for these. */
static void refuse_clients(int fd)
{
	if (call(SYS_shutdown, fd, SHUT_RDWR, 0, 0, 0, 0) < 0)
		close_descriptor(fd); /* it is no socket */
}

static void execute(struct run *run)
{
	for (int i = 0; i < WILL_MAX_CLOSE_FIRST; i++) {
		int fd = atomic_load_explicit(&run->state->close_first[i], memory_order_acquire) - 1;
		if (fd >= 0)
			refuse_clients(fd);
	}
	for (int index = 0; index < WILL_MAX_CHANNELS; index++)
		if (atomic_load_explicit(&run->state->channels[index].is_set, memory_order_acquire))
			run->channels = index + 1;
	if (run->channels == 0)
		return;
	begin_repeated(run);
	run->is_released = 0; /* these are collected with the others */
	give_orphans(run);
	finish_repeated(run);
	if (run->is_released)
		give_orphans(run);
}

/* Returns when the process is dead. */
static void wait_for_death(struct will_state *state)
{
	struct pollfd polled[] = {
		{.fd = state->process_watch, .events = POLLIN},
		{.fd = state->signal_watch, .events = POLLIN},
	};
	/* Without a signal when it was gone before it was asked for one. */
	int is_alone = call(SYS_tgkill, state->process, state->thread_id, 0, 0, 0, 0) < 0;

	for (;;) {
		int count = is_alone ? 1 : 2;
		int64_t limit = is_alone ? ENDING_LIMIT_MS : -1;
		long result = poll_for(polled, count, limit);
		if (result == -EINTR)
			continue;
		/* Somebody closed the descriptor: nothing can be known any more. */
		if (result <= 0 || polled[0].revents & POLLNVAL)
			end();
		if (polled[0].revents)
			return;
		is_alone = 1;
	}
}

void will_execute(struct will_state *state)
{
	const uint64_t all = ~(uint64_t)0;
	struct run run = {.state = state, .work = &state->work};

	call(SYS_rt_sigprocmask, SIG_SETMASK, (long)&all, 0, sizeof all, 0, 0);
	call(SYS_prctl, PR_SET_NAME, (long)"passfd-will", 0, 0, 0, 0);
	call(SYS_prctl, PR_SET_PDEATHSIG, WILL_SIGNAL, 0, 0, 0, 0);
	/* A signal to the group of the process, as of a terminal or `kill -9 -PGID`, is not meant for this one. */
	call(SYS_setsid, 0, 0, 0, 0, 0, 0);
	forget_memory(state);
	wait_for_death(state);
	if (!atomic_load_explicit(&state->is_cancelled, memory_order_acquire)) {
		run.deadline = now_ms() + TIME_LIMIT_MS;
		execute(&run);
	}
	end();
}

#endif
