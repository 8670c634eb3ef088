/* The last will, in the living process: notes what the executor has to know. See will.h. */
#include "will.h"
#include "will_state.h"

#include <errno.h>

#ifdef WILL_IS_SUPPORTED

#include <string.h>
#include <sys/socket.h>

/* The kernel sends a message of this length on a Unix stream whole or not at all: even the smallest send buffer has room for
 * it (SOCK_MIN_SNDBUF, and half of it at a time). */
#define WHOLE_BYTES 2048

/* The shared memory while the will is open, otherwise NULL: then the functions below do nothing. */
static struct will_state *_Atomic will;

/* Whether this thread has opened the will. */
static _Thread_local int is_opener;

static struct will_state *opened(void)
{
	return atomic_load_explicit(&will, memory_order_acquire);
}

static int is_known(const struct will_state *state, int fd)
{
	return fd >= 0 && fd < state->capacity;
}

/* The error for a descriptor that cannot be registered. */
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

int will_open(void)
{
	struct will_state *state;

	if (opened())
		return -EALREADY;
	int result = will_start(&state);
	if (result < 0)
		return result;
	is_opener = 1;
	atomic_store_explicit(&will, state, memory_order_release);
	return 0;
}

pid_t will_pid(void)
{
	return opened() ? will_started_pid() : 0;
}

void will_cancel(void)
{
	struct will_state *state = opened();

	if (!state)
		return;
	atomic_store_explicit(&state->is_cancelled, 1, memory_order_release);
	atomic_store_explicit(&will, NULL, memory_order_release);
	is_opener = 0;
	will_stop(state);
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

/* The channel of this socket, or a free place for it; NULL when there is neither. */
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
	/* In place: the worker may be in each of the states in between, too. */
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

/* Sends, and keeps a mark on the channel while only a part of the message may have been sent. */
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
	/* This message cannot be repeated. If this process dies in the call, a lost connection is better than one served twice. */
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

/* Actions for a number must not hit the next descriptor that gets the number. */
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

/* On another thread than that of will_open it does nothing: the number may already be that of a new connection which was
 * handed out. */
static void forget(int fd)
{
	struct will_state *state = opened();

	if (is_opener && state && is_known(state, fd) && mark_of(state, fd) != 0)
		set_mark(state, fd, WILL_HANDED, 0);
}

/* The mark goes after the close: a connection that another process serves must never be open here without its mark. */
int will_close(int fd)
{
	will_before_close(fd);
	int result = passfd_close(fd);
	forget(fd);
	return result;
}

int will_accept(int listener, int *fds, size_t capacity)
{
	return passfd_accept(listener, fds, capacity, forget);
}

ssize_t will_receive(int socket, void *bytes, size_t capacity, struct passfd_received *received)
{
	ssize_t length = passfd_receive(socket, bytes, capacity, received);

	for (size_t i = 0; i < received->count; i++)
		forget(received->fds[i]);
	return length;
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

int will_close(int fd)
{
	return passfd_close(fd);
}

int will_accept(int listener, int *fds, size_t capacity)
{
	return passfd_accept(listener, fds, capacity, NULL);
}

ssize_t will_receive(int socket, void *bytes, size_t capacity, struct passfd_received *received)
{
	return passfd_receive(socket, bytes, capacity, received);
}

#endif
