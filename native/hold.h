/* Holding: keeps descriptors open exactly as long as this process lives.
 *
 * Another process may share the table of descriptors of this one, as the executor of a last will does (will.h). Descriptors in
 * that table outlive this process, and so does a lock (flock(2)) on them. A held descriptor is in a table that only one sleeping
 * thread of this process uses. The kernel closes that table with the process.
 *
 * A mapping of the file would be simpler. But on overlayfs the kernel maps another open file than the locked one, and the lock
 * ends with the descriptor. */
#ifndef HOLD_H
#define HOLD_H

/* Most descriptors that are held at the same time. */
#define HOLD_MAX 16

/* Keeps a copy of the descriptor; the caller still owns the original. Returns a number for hold_end. A lock on the descriptor is
 * kept too, even when the caller closes the original. -ENOSYS and others: this system cannot do it, or forbids it; -EMFILE:
 * HOLD_MAX are held; -EBADF: it is not open. */
int hold_begin(int fd);

/* Closes the copy before it returns. -EINVAL: there is none with this number. */
int hold_end(int hold);

#endif
