/* The last will of a process that hands connections out: when it dies, however it does, what it had accepted and not
 * yet handed out goes to the channels that are still there.
 *
 * Nothing of a process runs behind SIGKILL. So another process shares its table of descriptors, and waits for its end:
 * clone(2) with CLONE_FILES. It has an address space of its own, and reads this process's state in memory that both
 * share. (With the same address space it would die too when the OOM killer takes this one, or, before Linux 5.16, when
 * this one dumps core.) will_state.h says what the two share, will_execute.c what happens then.
 *
 * Linux on x86-64 and ARM64; elsewhere will_open fails with -ENOSYS. Without an open will the others do nothing, and
 * return -ENOENT. There is one will in a process, and one thread that calls its functions. A child made by fork must not
 * call any of them before it executes another program: it shares the state, and would change its parent's will. */
#ifndef PASSFD_WILL_H
#define PASSFD_WILL_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Descriptors with higher numbers, and further channels, listeners and so on, are left out. */
#define WILL_MAX_DESCRIPTORS (1 << 20)
#define WILL_MAX_CHANNELS 1024
#define WILL_MAX_LISTENERS 1024
#define WILL_MAX_CLOSE_FIRST 64
#define WILL_MAX_LISTENER_ID 65535

/* Starts the process that waits. -ENOSYS: not on this system; -EPERM and others: the system forbids it; -EALREADY: it is
 * open. Whoever changes its user does so before: a process of another user could not be ended by will_cancel, and
 * would end with this one only. */
int will_open(void);

/* The id of the process that waits; 0 when there is none, or when somebody has killed it. */
pid_t will_pid(void);

/* Ends the process that waits. It has done nothing, and has ended when this returns. */
void will_cancel(void);

/* Connections whose own address is that of this listening socket belong to this id. The address is kept, and not the
 * descriptor: what was accepted there may still wait when the socket is closed. */
int will_add_listener(int id, int socket);
int will_remove_listener(int id);

/* A listening socket at whose path a successor wants to listen. Before anything else is done it is shut down, also for
 * others who hold it, so that clients are refused; it is closed when all is done. What is no socket is closed at once.
 * Closing it here takes it off the list. */
int will_close_first(int fd);

/* Of a channel: it gets something, which it does only while it is ready; its worker knows neither `orphaned` nor AGAIN, so
 * it gets HANDOFF alone, and a message that was about to be sent is left to it without being repeated. */
#define WILL_IS_READY 1
#define WILL_IS_PLAIN 2

/* A channel that speaks the hand-off protocol, and which listeners its worker serves; a second call updates it. Closing it
 * here takes it off the list. */
int will_set_channel(int socket, int flags, const int *listeners, size_t count);

/* Where a message is that hands out connections: the position of the first of them on its channel. */
struct will_handoff {
	uint64_t position;
	int listener;
};

/* As passfd_send. With a hand-off, the descriptors count as handed out once they are sent, until they are closed or taken
 * back. When this process dies inside the call, the message is repeated on the channel as one that the worker can
 * recognise. That needs a channel that is registered, and descriptors whose numbers are not too high; else what may have
 * been sent is left to its receiver. */
ssize_t will_send(int socket, const void *bytes, size_t length, const int *fds, size_t count,
                  const struct will_handoff *handoff);

/* They were handed out before this process had them: another one has told which. */
int will_hand_out(const int *fds, size_t count);

/* They were handed out and have come back: the worker refused them, or died. */
int will_take_back(const int *fds, size_t count);

/* A descriptor is about to be closed. This and will_forget may be called on any thread. */
void will_before_close(int fd);

/* The number is nobody's any more, or a new descriptor's. On another thread than that of will_open it does nothing: the
 * number may be that of a connection already which has been handed out. */
void will_forget(int fd);

#endif
