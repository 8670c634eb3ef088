/* Descriptor passing on POSIX: mechanism only, the caller decides. passfd.c sends and receives, sockets.c makes sockets,
 * descriptors.c works on open descriptors and processes, and describe.c asks the kernel about them.
 *
 * Every function returns a count, a descriptor or 0, and -errno on failure. No function blocks, with or without O_NONBLOCK,
 * except where its comment says so. Every new descriptor is close-on-exec from birth (on macOS: right after it). */
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
	int truncated;                   /* not all could be installed; then count is 0 */
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
	char name[PASSFD_MAX_NAME]; /* numeric host, path, or abstract name with its leading NUL */
};

enum passfd_type {
	PASSFD_TYPE_OTHER = 0,
	PASSFD_TYPE_FILE,
	PASSFD_TYPE_DIRECTORY,
	PASSFD_TYPE_PIPE,
	PASSFD_TYPE_TTY,
	PASSFD_TYPE_STREAM,   /* a stream socket that does not listen */
	PASSFD_TYPE_LISTENER, /* a stream socket that listens */
	PASSFD_TYPE_DATAGRAM,
	PASSFD_TYPE_SOCKET /* any other socket, such as a raw one */
};

struct passfd_description {
	enum passfd_type type;
	enum passfd_family family; /* of sockets */
	int access;                /* 1: readable, 2: writable, 3: both */
};

/* Sends bytes[0..length), length >= 1, with fds[0..count) attached to the first byte. The descriptors are lent: once the result
 * is positive, they are in flight as references of their own. A result below length means that the rest still has to be sent,
 * without the descriptors. -EAGAIN: it can be sent when the socket is writable. -ENOBUFS: too many descriptors of this user are
 * in flight (ETOOMANYREFS). -ENOMEM: the kernel has no memory for it. For the last two the kernel has no event: try again. */
ssize_t passfd_send(int socket, const void *bytes, size_t length, const int *fds, size_t count);

/* Sends one datagram, of at least one byte and with descriptors as above, to the Unix socket at a path or an abstract name. It
 * is sent whole or not at all, from a socket without a name that is closed when this returns. -EAGAIN: the queue of the receiver
 * is full, and the kernel has no event for room there; -ENOBUFS and -ENOMEM as above. -EPROTOTYPE: the socket at the path is not a
 * datagram socket. */
ssize_t passfd_send_datagram(const char *name, size_t name_length, const void *bytes, size_t length, const int *fds,
                             size_t count);

/* Receives at most capacity bytes, capacity >= 1; 0 is the end of the stream. The kernel ends a read after the first message
 * with descriptors, so these came with the last message in bytes. */
ssize_t passfd_receive(int socket, void *bytes, size_t capacity, struct passfd_received *received);

/* Receives bytes when no descriptors are expected, and never waits, whatever a peer passes: receiving descriptors without room
 * for them can take as long as closing them. If descriptors come with these bytes, has_descriptors is set and everything stays
 * in the queue. On macOS, which does not report them, they are closed. Other ancillary data counts as descriptors: see
 * passfd_take_rights_only. */
ssize_t passfd_receive_bytes(int socket, void *bytes, size_t capacity, int *has_descriptors);

/* Makes a Unix socket receive no ancillary data but descriptors (unix(7), SO_PASSCRED and others). Out-of-band bytes become
 * normal bytes. */
int passfd_take_rights_only(int socket);

/* Ends a stream socket in both directions, for every holder, and empties its queue. 0: the queue has a descriptor, and stays. */
int passfd_end(int socket);

/* Copies the next bytes, and leaves bytes and descriptors in the queue. */
ssize_t passfd_peek(int socket, void *bytes, size_t capacity);

/* Accepts at most capacity connections into fds, and returns how many; all are blocking. -EAGAIN: none waits. It sets O_NONBLOCK
 * first, because another holder of the listening socket may have cleared it. If another holder clears it between that and the
 * accept, this call waits. On success the caller owns fds[0..result). `on_accepted`, unless it is NULL, is called for each
 * connection right after its accept. */
int passfd_accept(int listener, int *fds, size_t capacity, void (*on_accepted)(int fd));

int passfd_socketpair(int fds[2]);

/* A non-blocking listening socket at a path, whose file gets its mode before any client can connect; or at an abstract name
 * (first byte NUL, Linux only), which is used at exactly this length. It replaces no file. */
int passfd_listen_unix(const char *name, size_t length, int backlog, mode_t mode);

/* A non-blocking listening socket; host is numeric. Port 0: the kernel picks one. */
int passfd_listen_tcp(const char *host, int port, int backlog, int ipv6_only);

/* A non-blocking connected socket. -EAGAIN: the backlog of the listener is full now. */
int passfd_connect_unix(const char *name, size_t length);

/* A non-blocking socket that is connecting. It becomes writable at the end, and passfd_error returns the result. */
int passfd_connect_tcp(const char *host, int port);

/* The pending error of a socket, as -errno, or 0. */
int passfd_error(int socket);

int passfd_duplicate(int fd);
int passfd_close(int fd);
int passfd_shutdown_write(int socket);

/* Ends both directions, for every holder of the socket; a listening socket stops listening. Bytes that have come can still be
 * received. The peer's sends fail with EPIPE: over a Unix socket from now on, over TCP after a reset has answered the first of
 * them, which may end the receiving here too. A socket whose peer is gone counts as shut down: 0. */
int passfd_shutdown(int socket);

/* For a descriptor that this process was started with. Descriptors that it makes are close-on-exec from birth. */
int passfd_set_close_on_exec(int fd);

int passfd_set_nonblocking(int fd, int on);
int passfd_is_nonblocking(int fd);

/* The process that connected, or that made the socket pair, as of that moment. */
int passfd_peer(int socket, struct passfd_peer *peer);

int passfd_address(int socket, int remote, struct passfd_address *address);
int passfd_describe(int fd, struct passfd_description *description);

/* What the peer has not received yet. On Unix sockets it is bytes of kernel memory, since the kernel counts its bookkeeping for
 * each message too. */
int passfd_unread(int socket);

/* How many connections wait in the backlog of a listening socket. Where the kernel does not report the number, it is 1 when any
 * wait: for Unix sockets, and on macOS. -ENOTSOCK: it is no socket. */
int passfd_queue_length(int listener);

/* A descriptor that is readable when the other end of a Unix socket may have received something since the last
 * passfd_take_receipts. -ENOSYS: not Linux. */
int passfd_watch_receipts(int socket);
int passfd_take_receipts(int watch);

/* Identifies a TCP or Unix connection to the kernel, even when no descriptor of it is open here. */
struct passfd_identity {
	int family; /* AF_INET, AF_INET6 or AF_UNIX */
	unsigned char local[16], remote[16];
	uint16_t local_port, remote_port; /* in network order */
	uint32_t number;                  /* of a link-local address its interface, of a Unix socket its inode */
	uint32_t cookie[2];               /* SO_COOKIE: no two sockets of a machine share one */
};

/* -ENOTSUP: neither TCP nor Unix, or not Linux. */
int passfd_identify(int socket, struct passfd_identity *identity);

/* A socket for questions to the kernel about other sockets (sock_diag(7)). The caller owns it. */
int passfd_open_diagnostics(void);

/* Whether any process holds a descriptor of the connection, or one is in flight: 1 or 0. It is also 0 for an open connection that
 * the kernel does not find: in another network namespace than that of `diagnostics`, on a socket bound to a device, or when the
 * kernel has no tcp_diag or unix_diag. So ask once while the connection is open. */
int passfd_is_held(int diagnostics, const struct passfd_identity *identity);

/* A descriptor of any process, which the caller owns. It becomes readable when the process ends, also before its parent has
 * waited for it. -ESRCH: there is no such process. -ENOSYS: not on this platform. */
int passfd_pidfd_open(pid_t pid);

/* An exclusive lock on a directory, held until the returned descriptor is closed. -EWOULDBLOCK: another process holds it. */
int passfd_lock_directory(const char *path);

/* A lock (flock(2)) of an open file, exclusive or shared. It replaces the lock that the file has, which is lost even when this
 * fails. -EWOULDBLOCK: another process holds a lock that excludes it. */
int passfd_lock(int fd, int exclusive);

/* Removes an ended child from the process table: 1, or 0 when it has not ended. */
int passfd_reap(pid_t pid);

#endif
