/* What the programs here have in common: how they take arguments, listen, say that they are ready, and end. */
#ifndef BENCH_PROGRAM_H
#define BENCH_PROGRAM_H

#include <netinet/in.h>
#include <stdint.h>

/* The program did what it should / something failed / it was called in a way that makes no sense. */
enum { EXIT_DONE = 0, EXIT_FAILED = 1, EXIT_USAGE = 2 };

/* Both say why on standard error, behind the program's name, and end it. */
_Noreturn void usage_error(const char *format, ...) __attribute__((format(printf, 1, 2)));
_Noreturn void die(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Each ends the program with a usage error where `text` is nothing of the kind; `option` is its name in the message. */
uint64_t whole_number(const char *option, const char *text, uint64_t least, uint64_t most);
double seconds_number(const char *option, const char *text);
struct in_addr loopback_host(const char *option, const char *text);
struct sockaddr_in loopback_address(const char *option, const char *text);

/* A socket that listens there, not blocking. */
int listen_at(struct sockaddr_in address);

uint16_t port_of(int listener);

/* One line of JSON on standard output, with the port that `listener` has. */
void say_ready(int listener);

/* Makes SIGTERM and SIGINT readable from the descriptor that is returned, and lets writes to closed sockets fail. */
int open_signals(void);

int open_epoll(void);

/* `tag` comes back in the event's data. */
void watch(int epoll, int fd, uint32_t events, uint64_t tag);

/* Raises the limit of open descriptors as far as it goes, and ends the program if that is not enough. */
void need_descriptors(uint64_t count);

/* Nanoseconds of a clock that never goes back. */
uint64_t now_ns(void);

#endif
