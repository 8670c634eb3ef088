/* Closes descriptors on threads of its own, because close(2) of what a peer has shaped may wait.
 *
 * It waits for a TCP socket with SO_LINGER {1, n} and unsent data, for up to n seconds and with O_NONBLOCK too; for files
 * on FUSE and NFS; and for a Unix socket in whose queue such a descriptor is in flight. Only the last holder of a socket
 * waits. To clear the linger first is not enough: another holder can set it again, and what is in flight in a queue cannot
 * be reached.
 *
 * A queued descriptor belongs to the closer, and its number stays taken until its close begins. Accounts keep the waiting
 * apart: one descriptor of an account is closed at a time, so a slow one delays only what is on the same account. */
#ifndef PASSFD_CLOSER_H
#define PASSFD_CLOSER_H

#include <stdint.h>

/* So many closes can be slow at a time, each of another account. Threads are started when they are needed, and stay. */
#define CLOSER_MAX_THREADS 32

/* Takes over the descriptor, and closes it soon. Never waits. May be called on any thread. -EBADF: it is not open. */
int closer_close(int fd, int64_t account);

/* Ends a stream socket that nobody else uses, in both directions, and takes it over. It is closed at once when no
 * descriptor is in its queue, since nothing can wait then. */
int closer_refuse(int fd, int64_t account);

/* Descriptors of an account that are not closed yet, if the oldest of them was queued so long ago; else 0. */
int closer_waiting(int64_t account, int64_t least_ms);

/* Descriptors of all accounts that are not closed yet. */
int closer_total(void);

/* Whether these are half of all that this process may have, or more. */
int closer_is_full(void);

#endif
