/* What the files of passfd.h share, and nothing outside of them uses. */
#ifndef PASSFD_INTERNAL_H
#define PASSFD_INTERNAL_H

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/* As passfd_send; to the address, or to the peer when the address is NULL. */
ssize_t passfd_send_to(int socket, struct sockaddr_un *address, socklen_t size, const void *bytes, size_t length,
                       const int *fds, size_t count);

static inline int close_and_return(int fd, int result)
{
	close(fd);
	return result;
}

#endif
