/* What the programs here have in common: see program.h. */
#include "program.h"

#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <time.h>

/* More than any kernel's net.core.somaxconn is cut down to that. */
#define BACKLOG 65535

static _Noreturn void end(int code, const char *format, va_list arguments)
{
	fprintf(stderr, "%s: ", program_invocation_short_name);
	vfprintf(stderr, format, arguments);
	fputc('\n', stderr);
	exit(code);
}

void usage_error(const char *format, ...)
{
	va_list arguments;
	va_start(arguments, format);
	end(EXIT_USAGE, format, arguments);
}

void die(const char *format, ...)
{
	va_list arguments;
	va_start(arguments, format);
	end(EXIT_FAILED, format, arguments);
}

uint64_t whole_number(const char *option, const char *text, uint64_t least, uint64_t most)
{
	char *rest;

	errno = 0;
	uint64_t number = strtoull(text, &rest, 10);
	/* strtoull takes blanks and signs, too. */
	if (text[0] < '0' || text[0] > '9' || *rest || errno || number < least || number > most)
		usage_error("%s takes a whole number from %" PRIu64 " to %" PRIu64 ", not '%s'", option, least, most, text);
	return number;
}

double seconds_number(const char *option, const char *text)
{
	char *rest;
	double number = strtod(text, &rest);

	if (rest == text || *rest || !(number >= 0.001 && number <= 86400))
		usage_error("%s takes seconds from 0.001 to 86400, not '%s'", option, text);
	return number;
}

struct in_addr loopback_host(const char *option, const char *text)
{
	struct in_addr host;

	if (inet_pton(AF_INET, text, &host) != 1 || ntohl(host.s_addr) >> 24 != IN_LOOPBACKNET)
		usage_error("%s takes an address in 127.0.0.0/8, not '%s'", option, text);
	return host;
}

struct sockaddr_in loopback_address(const char *option, const char *text)
{
	char host[INET_ADDRSTRLEN];
	const char *colon = strrchr(text, ':');

	if (!colon || (size_t)(colon - text) >= sizeof host)
		usage_error("%s takes HOST:PORT, not '%s'", option, text);
	memcpy(host, text, (size_t)(colon - text));
	host[colon - text] = '\0';
	return (struct sockaddr_in){
		.sin_family = AF_INET,
		.sin_addr = loopback_host(option, host),
		.sin_port = htons((uint16_t)whole_number(option, colon + 1, 0, 65535)),
	};
}

int listen_at(struct sockaddr_in address)
{
	int on = 1;
	int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (listener < 0)
		die("socket: %s", strerror(errno));
	if (setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) < 0)
		die("setsockopt SO_REUSEADDR: %s", strerror(errno));
	if (bind(listener, (struct sockaddr *)&address, sizeof address) < 0)
		die("bind: %s", strerror(errno));
	if (listen(listener, BACKLOG) < 0)
		die("listen: %s", strerror(errno));
	return listener;
}

uint16_t port_of(int listener)
{
	struct sockaddr_in address;
	socklen_t size = sizeof address;

	if (getsockname(listener, (struct sockaddr *)&address, &size) < 0)
		die("getsockname: %s", strerror(errno));
	return ntohs(address.sin_port);
}

void say_ready(int listener)
{
	printf("{\"type\":\"ready\",\"port\":%d}\n", port_of(listener));
	fflush(stdout);
}

int open_signals(void)
{
	sigset_t signals;

	sigemptyset(&signals);
	sigaddset(&signals, SIGTERM);
	sigaddset(&signals, SIGINT);
	signal(SIGPIPE, SIG_IGN);
	if (sigprocmask(SIG_BLOCK, &signals, NULL) < 0)
		die("sigprocmask: %s", strerror(errno));
	int fd = signalfd(-1, &signals, SFD_NONBLOCK | SFD_CLOEXEC);
	if (fd < 0)
		die("signalfd: %s", strerror(errno));
	return fd;
}

int open_epoll(void)
{
	int epoll = epoll_create1(EPOLL_CLOEXEC);

	if (epoll < 0)
		die("epoll_create1: %s", strerror(errno));
	return epoll;
}

void watch(int epoll, int fd, uint32_t events, uint64_t tag)
{
	struct epoll_event event = {.events = events, .data.u64 = tag};

	if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) < 0)
		die("epoll_ctl: %s", strerror(errno));
}

void need_descriptors(uint64_t count)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
		die("getrlimit: %s", strerror(errno));
	limit.rlim_cur = limit.rlim_max;
	if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
		die("setrlimit: %s", strerror(errno));
	if (limit.rlim_cur < count)
		die("it needs %" PRIu64 " open descriptors, and may have %" PRIu64 " (ulimit -Hn)", count,
		    (uint64_t)limit.rlim_cur);
}

uint64_t now_ns(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}
