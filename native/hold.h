/* Holding: descriptors that stay open exactly as long as this process lives.
 *
 * Another process may share this one's table of descriptors, as the last will does (will.h). What is open in the table
 * then outlives this process, and so does a lock (flock(2)) on it. A held descriptor is in a table that only one sleeping
 * thread of this process uses, and the kernel ends that table with the process.
 *
 * A mapping of the file would be simpler, but on overlayfs the kernel maps another open file than the locked one, and the
 * lock ends with the descriptor. */
#ifndef HOLD_H
#define HOLD_H

/* Most that are held at a time. */
#define HOLD_MAX 16

/* Keeps a copy of the descriptor, which stays the caller's. Returns a number for hold_end. -ENOSYS and others: this system
 * cannot do that, or forbids it; -EMFILE: HOLD_MAX are held. -EBADF: it is not open. A lock on the descriptor is held from this moment on, also
 * when the caller closes it. */
int hold_begin(int fd);

/* Closes the copy. It is closed when this returns. -EINVAL: there is none with this number. */
int hold_end(int hold);

#endif
