/* System calls without the C library, for the executor of the last will.
 *
 * The executor was cloned from a process with many threads. Locks of the C library may be held for ever, and most of the memory
 * that the library works with is unmapped. */
#ifndef PASSFD_WILL_CALLS_H
#define PASSFD_WILL_CALLS_H

#include <poll.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>

/* In a loop that fills or copies bytes: keeps the compiler from turning it into a call of memset or memcpy. */
#define NO_LIBRARY_CALL __asm__ volatile("" ::: "memory")

#define NANOSECONDS_PER_MS 1000000

static inline long call(long number, long a, long b, long c, long d, long e, long f)
{
#if defined(__x86_64__)
	long result;
	register long fourth __asm__("r10") = d;
	register long fifth __asm__("r8") = e;
	register long sixth __asm__("r9") = f;
	__asm__ volatile("syscall"
	                 : "=a"(result)
	                 : "a"(number), "D"(a), "S"(b), "d"(c), "r"(fourth), "r"(fifth), "r"(sixth)
	                 : "rcx", "r11", "memory");
	return result;
#else
	register long name __asm__("x8") = number;
	register long first __asm__("x0") = a;
	register long second __asm__("x1") = b;
	register long third __asm__("x2") = c;
	register long fourth __asm__("x3") = d;
	register long fifth __asm__("x4") = e;
	register long sixth __asm__("x5") = f;
	__asm__ volatile("svc 0"
	                 : "+r"(first)
	                 : "r"(name), "r"(second), "r"(third), "r"(fourth), "r"(fifth), "r"(sixth)
	                 : "memory");
	return first;
#endif
}

static inline _Noreturn void end(void)
{
	for (;;)
		call(SYS_exit_group, 0, 0, 0, 0, 0, 0);
}

static inline void close_descriptor(int fd)
{
	call(SYS_close, fd, 0, 0, 0, 0, 0);
}

static inline int64_t now_ms(void)
{
	struct timespec time = {0, 0};
	call(SYS_clock_gettime, CLOCK_MONOTONIC, (long)&time, 0, 0, 0, 0);
	return (int64_t)time.tv_sec * 1000 + time.tv_nsec / NANOSECONDS_PER_MS;
}

/* A negative limit means no limit. */
static inline long poll_for(struct pollfd *polled, int count, int64_t limit_ms)
{
	struct timespec limit = {limit_ms / 1000, limit_ms % 1000 * NANOSECONDS_PER_MS};
	return call(SYS_ppoll, (long)polled, count, limit_ms < 0 ? 0 : (long)&limit, 0, 0, 0);
}

#endif
