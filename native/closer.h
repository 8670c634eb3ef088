/* Closes descriptors on threads, because close(2) of a descriptor from a peer may wait.
 *
 * close(2) waits for a TCP socket with SO_LINGER {1, n} and unsent data: up to n seconds, with O_NONBLOCK too. It waits for files
 * on FUSE and NFS, and for a Unix socket in whose queue such a descriptor is in flight. Only the last holder of a socket waits.
 * Clearing the linger first is not enough: another holder can set it again, and descriptors in flight in a queue cannot be
 * reached.
 *
 * A queued descriptor belongs to the closer, and its number stays taken until its close begins. Each descriptor has an account.
 * One descriptor of an account is closed at a time, so a slow close delays only closes of the same account. */
#ifndef PASSFD_CLOSER_H
#define PASSFD_CLOSER_H

#include <stdint.h>

/* Most threads, and so most accounts that can have a slow close at the same time. Threads start on demand, and stay. */
#define CLOSER_MAX_THREADS 32

/* Takes over the descriptor, and closes it soon. Never waits. May be called on any thread. -EBADF: it is not open. */
int closer_close(int fd, int64_t account);

/* Takes over a stream socket that no other process uses, and ends it in both directions. If its queue has no descriptor, its
 * close cannot wait, and it is closed at once. */
int closer_refuse(int fd, int64_t account);

/* Descriptors of an account that are not closed yet, if the oldest was queued at least `least_ms` ago; otherwise 0. */
int closer_waiting(int64_t account, int64_t least_ms);

/* Descriptors of all accounts that are not closed yet. */
int closer_total(void);

/* Whether these are at least half of all descriptors that this process may have. */
int closer_is_full(void);

#endif
