/* The last will of a process that hands connections out. When the process dies, even by SIGKILL, the connections that it had
 * accepted and not handed out go to the channels that are still open.
 *
 * No code of a process runs after SIGKILL. So a second process, the executor, shares its table of descriptors and waits for its
 * end: clone(2) with CLONE_FILES. The executor has an address space of its own, and reads the state of the dead process in shared
 * memory. (In the same address space it would die too when the OOM killer kills the process, or, before Linux 5.16, when the
 * process dumps core.) will.c notes the state, will_state.h lays it out, will_process.c makes the executor, and will_execute.c is
 * the executor.
 *
 * Linux on x86-64 and ARM64; elsewhere will_open fails with -ENOSYS. Without an open will the other functions do nothing and
 * return -ENOENT, except those that also send, receive, accept or close. A process has one will, and one thread calls its
 * functions. A child made by fork must not call any of them before exec: it shares the state of its parent's will. */
#ifndef PASSFD_WILL_H
#define PASSFD_WILL_H

#include "passfd.h"

/* Limits of the will. What exceeds them is not given to workers. */
#define WILL_MAX_DESCRIPTORS (1 << 20)
#define WILL_MAX_CHANNELS 1024
#define WILL_MAX_LISTENERS 1024
#define WILL_MAX_CLOSE_FIRST 64
#define WILL_MAX_LISTENER_ID 65535

/* Starts the executor. -ENOSYS: not on this system; -EPERM and others: the system forbids it; -EALREADY: the will is open. A
 * process that changes its user must do so before: will_cancel cannot end an executor of another user. */
int will_open(void);

/* The process id of the executor; 0 when there is none, or when it was killed. */
pid_t will_pid(void);

/* Ends the executor without executing the will. It has ended when this returns. */
void will_cancel(void);

/* Assigns this id to connections whose local address is that of the listening socket. The will keeps the address, not the
 * descriptor: connections that were accepted there may still wait when the socket is closed. */
int will_add_listener(int id, int socket);
int will_remove_listener(int id);

/* Adds a listening socket at whose path a successor wants to listen. The executor shuts it down before anything else, for all its
 * holders, so that clients are refused, and closes it at the end. A descriptor that is no socket is closed at once. Closing it
 * in this process removes it from the list. */
int will_close_first(int fd);

/* Flags of a channel. READY: it gets connections. PLAIN: its worker knows neither `orphaned` nor AGAIN, so it gets HANDOFF only,
 * and a message that was being sent at the death is left to it and not repeated. */
#define WILL_IS_READY 1
#define WILL_IS_PLAIN 2

/* Adds a channel that speaks the hand-off protocol, with the listeners that its worker serves, or updates it. Closing it in this
 * process removes it from the list. */
int will_set_channel(int socket, int flags, const int *listeners, size_t count);

/* A message that hands out connections: the position of the first one on its channel, and the id of their listener. */
struct will_handoff {
	uint64_t position;
	int listener;
};

/* As passfd_send. With a hand-off, the descriptors count as handed out once they are sent, until they are closed or taken back.
 * If this process dies inside the call, the executor repeats the message in a form that the worker recognises (AGAIN). That needs
 * a registered channel, and descriptors within the limits above. Otherwise connections that may have been sent are left to their
 * receiver. */
ssize_t will_send(int socket, const void *bytes, size_t length, const int *fds, size_t count,
                  const struct will_handoff *handoff);

/* Marks descriptors as handed out by an earlier process. */
int will_hand_out(const int *fds, size_t count);

/* Marks descriptors as not handed out any more: the worker refused them, or died. */
int will_take_back(const int *fds, size_t count);

/* As passfd_close, passfd_accept and passfd_receive. They also clear the mark of an earlier descriptor with the same number.
 * will_close may be called on any thread. */
int will_close(int fd);
int will_accept(int listener, int *fds, size_t capacity);
ssize_t will_receive(int socket, void *bytes, size_t capacity, struct passfd_received *received);

/* A descriptor is about to be closed by other code. May be called on any thread. A mark that it was handed out stays. */
void will_before_close(int fd);

#endif
