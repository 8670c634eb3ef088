/* Descriptor passing on POSIX: mechanism only, every decision is the caller's.
 *
 * Every function returns a count, a descriptor or 0, and -errno on failure. No function blocks, whatever the flags of
 * the descriptor, except where it says so. Every descriptor that one of them makes is close-on-exec from birth (on
 * macOS: at once after it). */
#ifndef PASSFD_H
#define PASSFD_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* SCM_MAX_FD of the Linux kernel (include/net/scm.h): one more in a message is EINVAL. */
#define PASSFD_MAX_DESCRIPTORS 253

/* Room for an IPv6 address with a zone, or for a whole sun_path. */
#define PASSFD_MAX_NAME 128

struct passfd_received {
	size_t count;                    /* descriptors in fds */
	int truncated;                   /* not all that were sent could be installed; then count is 0 */
	int fds[PASSFD_MAX_DESCRIPTORS]; /* owned by the caller */
};

struct passfd_peer {
	pid_t pid;
	uid_t uid;
	gid_t gid;
};

enum passfd_family { PASSFD_OTHER = 0, PASSFD_UNIX = 1, PASSFD_IPV4 = 4, PASSFD_IPV6 = 6 };

struct passfd_address {
	enum passfd_family family;
	int port;                   /* of IPv4 and IPv6 */
	size_t length;              /* bytes in name */
	char name[PASSFD_MAX_NAME]; /* numeric host; or path; or abstract name with its leading NUL */
};

enum passfd_type {
	PASSFD_TYPE_OTHER = 0,
	PASSFD_TYPE_FILE,
	PASSFD_TYPE_DIRECTORY,
	PASSFD_TYPE_PIPE,
	PASSFD_TYPE_TTY,
	PASSFD_TYPE_STREAM,   /* a stream socket with a peer, or that had one */
	PASSFD_TYPE_LISTENER, /* a stream socket that accepts */
	PASSFD_TYPE_DATAGRAM,
	PASSFD_TYPE_SOCKET /* any other, such as a raw or a sequential one */
};

struct passfd_description {
	enum passfd_type type;
	enum passfd_family family; /* of sockets */
	int access;                /* 1 it can be read, 2 written, 3 both */
};

/* Sends bytes[0..length), length >= 1, with fds[0..count) attached to the first of them. The descriptors are lent: they
 * are in flight, as references of their own, once the result is positive. A result below length means that the rest
 * still has to be sent, without the descriptors. -EAGAIN: it can be sent when the socket is writable. -ENOBUFS: too many
 * descriptors of this user are in flight (ETOOMANYREFS). -ENOMEM: the kernel has no memory for it. The kernel does not tell
 * when either is over. */
ssize_t passfd_send(int socket, const void *bytes, size_t length, const int *fds, size_t count);

/* Sends one datagram, of at least one byte and with descriptors as above, to the Unix socket at a path or an abstract name;
 * all of it or nothing. The socket that it is sent from has no name, and is gone when this returns. -EAGAIN: the
 * receiver's queue is full, and the kernel will not tell when it is not; -ENOBUFS and -ENOMEM as above. -EPROTOTYPE: what is there
 * is no datagram socket. */
ssize_t passfd_send_datagram(const char *name, size_t name_length, const void *bytes, size_t length, const int *fds,
                             size_t count);

/* Receives at most capacity bytes, capacity >= 1; 0 is the end of the stream. The kernel ends a read behind the first
 * message with descriptors, so these came with the last message in bytes. */
ssize_t passfd_receive(int socket, void *bytes, size_t capacity, struct passfd_received *received);

/* The same where no descriptor belongs, and never waits, whatever a peer passes: to receive those that do not fit may take
 * as long as to close them. When there are descriptors with these bytes, says so, and leaves all in the queue. Where the
 * kernel does not tell (macOS), they are closed. Other ancillary data counts as descriptors: see passfd_take_rights_only. */
ssize_t passfd_receive_bytes(int socket, void *bytes, size_t capacity, int *has_descriptors);

/* Has a Unix socket take no ancillary data but descriptors (unix(7), SO_PASSCRED and others), and no bytes out of band: they
 * are bytes as all others. */
int passfd_take_rights_only(int socket);

/* Ends a stream socket in both directions, for every holder, and empties its queue. 0: there is a descriptor in it. */
int passfd_end(int socket);

/* Looks at the next bytes and leaves everything in place, descriptors too. */
ssize_t passfd_peek(int socket, void *bytes, size_t capacity);

/* Accepts at most capacity connections into fds, and returns how many; all are blocking. -EAGAIN: none waits.
 * Sets O_NONBLOCK first, since whoever shares the listening socket may have cleared it; one who clears it between that
 * and the accept makes this wait. On success the caller owns fds[0..result). */
int passfd_accept(int listener, int *fds, size_t capacity);

int passfd_socketpair(int fds[2]);

/* A non-blocking listening socket at a path, which gets the file mode given before anyone can connect; or at an abstract
 * name (first byte NUL, Linux only), which is used at exactly this length. Replaces nothing. */
int passfd_listen_unix(const char *name, size_t length, int backlog, mode_t mode);

/* A non-blocking listening socket; host is numeric. Port 0: the kernel picks one. */
int passfd_listen_tcp(const char *host, int port, int backlog, int ipv6_only);

/* A non-blocking connected socket. -EAGAIN: the listener's backlog is full at this moment. */
int passfd_connect_unix(const char *name, size_t length);

/* A non-blocking socket that is about to connect; it is writable when that is decided, and passfd_error tells how. */
int passfd_connect_tcp(const char *host, int port);

/* The pending error of a socket, as -errno, or 0. */
int passfd_error(int socket);

int passfd_duplicate(int fd);
int passfd_close(int fd);
int passfd_shutdown_write(int socket);

/* Ends both directions, for every holder of the socket; a listening one listens no more. What had come before can still
 * be received. The peer's sends fail with EPIPE: over a Unix socket from this moment on, over TCP once the first of them
 * has been answered by a reset, which may end the receiving here too. A socket whose peer is gone is shut down already: 0. */
int passfd_shutdown(int socket);

/* For a descriptor that this process was started with: those that it makes are close-on-exec anyway. */
int passfd_set_close_on_exec(int fd);

int passfd_set_nonblocking(int fd, int on);
int passfd_is_nonblocking(int fd);

/* Who connected, or who made the socket pair: as of that moment, not of now. */
int passfd_peer(int socket, struct passfd_peer *peer);

int passfd_address(int socket, int remote, struct passfd_address *address);
int passfd_describe(int fd, struct passfd_description *description);

/* What was sent on the socket and not yet received by its peer: bytes of kernel memory, not of payload, on Unix sockets
 * (the kernel charges each message its bookkeeping too). */
int passfd_unread(int socket);

/* A descriptor that is readable when the other end of a Unix socket has received something since the last
 * passfd_take_receipts, or may have. -ENOSYS where the system does not tell (it is Linux that does). */
int passfd_watch_receipts(int socket);
int passfd_take_receipts(int watch);

/* A TCP or Unix connection as the kernel knows it, so that it can be asked about when no descriptor of it is open here. */
struct passfd_identity {
	int family; /* AF_INET, AF_INET6 or AF_UNIX */
	unsigned char local[16], remote[16];
	uint16_t local_port, remote_port; /* in network order */
	uint32_t number;                  /* of a link-local address its interface, of a Unix socket its inode */
	uint32_t cookie[2];               /* SO_COOKIE: no two sockets of a machine share one */
};

/* -ENOTSUP: it is neither, or this platform cannot tell. */
int passfd_identify(int socket, struct passfd_identity *identity);

/* A socket on which the kernel answers questions about others (sock_diag(7)); the caller owns it. */
int passfd_open_diagnostics(void);

/* Whether any process holds a descriptor of the connection, or one is in flight: 1 or 0. It is 0 too for what the kernel
 * does not find, open or not: a connection of another network namespace than that of `diagnostics`, or of a socket that
 * is bound to a device, and every one where the kernel has no tcp_diag or unix_diag. So ask once while it is open. */
int passfd_is_held(int diagnostics, const struct passfd_identity *identity);

/* A descriptor of a process, any that exists, which is readable from the moment when it has ended, whether its parent has
 * waited for it or not. The caller owns it. -ESRCH: there is no such process. -ENOSYS: this platform cannot. */
int passfd_pidfd_open(pid_t pid);

/* An exclusive lock on a directory, held until the descriptor that is returned is closed. -EWOULDBLOCK: someone else
 * holds it. */
int passfd_lock_directory(const char *path);

/* A lock (flock(2)) of an open file, exclusive or shared with others that share it; in place of the one that it has, which
 * is lost when this fails. -EWOULDBLOCK: someone else holds it. */
int passfd_lock(int fd, int exclusive);

/* Waits for a child that has ended, and forgets how: 1, or 0 when it has not ended. */
int passfd_reap(pid_t pid);

#endif
