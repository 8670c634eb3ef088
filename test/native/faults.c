/* System calls that fail on demand: errors of the kernel that a test cannot cause in another way.
 * Linked with -Wl,--wrap=NAME, so that passfd.c calls __wrap_NAME. */
#include "check.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

struct fault {
	int error, times;
};

static struct fault of_accept, of_listen, of_close, of_sendmsg;

static int is_due(struct fault *fault)
{
	if (fault->times == 0)
		return 0;
	fault->times--;
	errno = fault->error;
	return 1;
}

void fail_accepts(int error, int times)
{
	of_accept = (struct fault){error, times};
}

void fail_listens(int error, int times)
{
	of_listen = (struct fault){error, times};
}

void fail_closes(int error, int times)
{
	of_close = (struct fault){error, times};
}

void fail_sends(int error, int times)
{
	of_sendmsg = (struct fault){error, times};
}

int __real_accept4(int fd, struct sockaddr *address, socklen_t *length, int flags);
int __real_listen(int fd, int backlog);
int __real_close(int fd);

int __wrap_accept4(int fd, struct sockaddr *address, socklen_t *length, int flags)
{
	return is_due(&of_accept) ? -1 : __real_accept4(fd, address, length, flags);
}

int __wrap_listen(int fd, int backlog)
{
	return is_due(&of_listen) ? -1 : __real_listen(fd, backlog);
}

static int dies_in_close;

void die_in_close(void)
{
	dies_in_close = 1;
}

static _Thread_local void (*after_close)(void);

void call_after_close(void (*body)(void))
{
	after_close = body;
}

/* Linux frees the descriptor first, and may still report an error. */
int __wrap_close(int fd)
{
	if (dies_in_close)
		kill(getpid(), SIGKILL);
	int result = __real_close(fd);
	if (after_close)
		after_close();
	return is_due(&of_close) ? -1 : result;
}

static enum death death_in_send;

void die_in_send(enum death when)
{
	death_in_send = when;
}

static void die_if(enum death when)
{
	if (death_in_send == when)
		kill(getpid(), SIGKILL);
}

#ifdef __GLIBC__

ssize_t __real_sendmsg(int fd, const struct msghdr *message, int flags);

ssize_t __wrap_sendmsg(int fd, const struct msghdr *message, int flags)
{
	die_if(DEATH_BEFORE);
	ssize_t result = is_due(&of_sendmsg) ? -1 : __real_sendmsg(fd, message, flags);
	die_if(DEATH_BEHIND);
	return result;
}

#else /* platform_sendmsg is the system call itself */

long __real_syscall(long number, ...);

long __wrap_syscall(long number, ...)
{
	long arguments[6];
	va_list list;

	/* The kernel ignores arguments that the call does not have. */
	va_start(list, number);
	for (int i = 0; i < 6; i++)
		arguments[i] = va_arg(list, long);
	va_end(list);
	if (number == SYS_sendmsg)
		die_if(DEATH_BEFORE);
	long result = number == SYS_sendmsg && is_due(&of_sendmsg)
	                  ? -1
	                  : __real_syscall(number, arguments[0], arguments[1], arguments[2], arguments[3], arguments[4],
	                                   arguments[5]);
	if (number == SYS_sendmsg)
		die_if(DEATH_BEHIND);
	return result;
}

#endif
