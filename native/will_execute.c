/* The executor of a last will: waits for the end of the process whose descriptors it shares, and then gives its connections
 * to the workers. See will.h. It chooses the workers itself, in turn, because no TypeScript runs any more. While it waits it
 * opens no descriptor, because it can be killed at any moment, and its descriptors are those of the other process.
 *
 * It calls no function of the C library: see will_calls.h. A test checks that this file refers to nothing outside of it. */
#include "will_state.h"

#ifdef WILL_IS_SUPPORTED

#include <errno.h>
#include <netinet/in.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include "will_calls.h"
#include "will_frames.h"

/* The executor ends this long after the death at the latest, whatever the workers do. */
#define TIME_LIMIT_MS 2000

/* How long a process may take to end after the thread that made the executor. A process that takes longer has not died: it has
 * executed another program, which ends all threads but one. */
#define ENDING_LIMIT_MS 3000

/* The kernel has no event for "fewer descriptors are in flight". */
#define RETRY_MS 5

/* Descriptors in one poll(2), which accepts no more than RLIMIT_NOFILE. */
#define POLLED_AT_ONCE 256

#define NOBODY (-1)

enum outcome { SENT, FULL, GONE };

struct run {
	struct will_state *state;
	struct will_work *work;
	int64_t deadline;
	int channels;    /* slots in use end here */
	int next;        /* the channel that gets the next batch */
	int repeated;    /* the channel that gets the interrupted message again, or NOBODY */
	int is_released; /* the connections of that message go to other workers */
};

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

/* Unmaps the memory that came with the clone, except this stack and the thread's own data. Otherwise every page that the
 * process writes to from now on would exist twice. */
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
		/* Sets the padding too: musl has it where the kernel reads the upper half of the length. */
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
			return GONE; /* or half a frame was sent, and nothing can follow it */
		}
	}
}

static enum outcome send_handoff(int socket, int listener, const int *fds, size_t count)
{
	unsigned char frame[WILL_HANDOFF_BYTES];
	will_encode_handoff(frame, listener, count);
	return send_frame(socket, frame, sizeof frame, fds, count);
}

static enum outcome send_handoff_again(int socket, const struct will_intent *intent)
{
	unsigned char frame[WILL_AGAIN_BYTES];
	will_encode_again(frame, intent->handoff.position, intent->handoff.listener, intent->count);
	return send_frame(socket, frame, sizeof frame, intent->fds, intent->count);
}

static enum outcome send_orphaned(int socket)
{
	return send_frame(socket, will_orphaned, sizeof will_orphaned - 1, NULL, 0);
}

/* The channel of the interrupted message is gone. A worker sends ADOPTED before it reads from a connection. So if the channel
 * has nothing unread, the worker adopted nothing of that message, and other workers can have the connections. */
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

/* Repeats the interrupted message. A plain worker, which cannot recognise the repetition, may have got the message already.
 * While it lives, the connections are left to it, so that none is served twice; if they were not sent, they are lost. */
static enum outcome repeat(struct run *run, int index)
{
	struct pollfd polled = {.fd = run->state->channels[index].socket};

	if (!is_plain(run, index))
		return send_handoff_again(polled.fd, &run->state->intent);
	poll_for(&polled, 1, 0);
	return polled.revents & (POLLHUP | POLLERR) ? GONE : SENT;
}

/* Sends what must precede new connections on a channel: `orphaned`, and the interrupted message. */
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

/* Compares a local address with a listener's. 2: equal; 1: the listener has the wildcard address; 0: another address. */
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

/* The index of the listener that accepted the connection, or NOBODY. */
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

/* Finds the accepted connections that no worker has. They were not noted when they were accepted. */
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
		/* Asks only which numbers are open. When it fails, each number is tried. */
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

/* Waits until one of the full channels may have room. Returns 0 when time is up. */
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
	/* Writable at once, but still full: too many descriptors are in flight. */
	if (now_ms() == began)
		poll_for(NULL, 0, RETRY_MS);
	return 1;
}

/* Gives a batch to the next channel that has room. */
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

/* Gives the orphans of one listener to its workers in turn, the same number to each. */
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

/* Waits for room for the interrupted message, if its channel is full. */
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
	/* The worker may have got them already, so no other worker may get them. */
	set_handed(run, intent->fds, intent->count, 1);
	run->repeated = intent->channel;
	prepare(run, intent->channel);
}

/* Refuses clients by shutdown(2). Closing the listening socket could take long, when strangers have passed lingering
 * descriptors in its backlog, and the connections would come too late. The end of the process does not wait for these. */
static void refuse_clients(int fd)
{
	if (call(SYS_shutdown, fd, SHUT_RDWR, 0, 0, 0, 0) < 0)
		close_descriptor(fd); /* it is not a socket */
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
	run->is_released = 0; /* give_orphans collects these too */
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
	/* If the thread had ended before PR_SET_PDEATHSIG, no signal comes. */
	int is_alone = call(SYS_tgkill, state->process, state->thread_id, 0, 0, 0, 0) < 0;

	for (;;) {
		int count = is_alone ? 1 : 2;
		int64_t limit = is_alone ? ENDING_LIMIT_MS : -1;
		long result = poll_for(polled, count, limit);
		if (result == -EINTR)
			continue;
		/* The process closed the descriptor, so its end can no longer be seen. */
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
	/* A signal to the process group, from a terminal or by `kill -9 -PGID`, must not reach the executor. */
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
