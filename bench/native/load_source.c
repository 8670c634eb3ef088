/* Where the load generator's connections come from: each from the next address of 127.0.0.0/8, so that ports never run out,
 * however many of those before it are still in TIME_WAIT. */
#include "load.h"

#include "program.h"

#include <arpa/inet.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#ifndef IP_BIND_ADDRESS_NO_PORT
#define IP_BIND_ADDRESS_NO_PORT 24
#endif

#define FIRST_SOURCE 0x7f010000 /* 127.1.0.0 */
#define LAST_SOURCE 0x7ffffffe  /* the last address of 127.0.0.0/8 but the broadcast address */

static uint32_t next_source;

void begin_sources(struct in_addr first)
{
	next_source = ntohl(first.s_addr);
}

/* From the last address the way leads back to the first. */
static struct sockaddr_in take_source(void)
{
	struct sockaddr_in source = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(next_source)};

	next_source = next_source >= LAST_SOURCE ? FIRST_SOURCE : next_source + 1;
	return source;
}

/* The port is left to connect(2), which knows the other end: at bind(2) it would have to be free for every other end. */
int open_source(void)
{
	struct sockaddr_in source = take_source();
	int on = 1;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd < 0)
		die("socket: %s", strerror(errno));
	if (setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on) < 0)
		die("setsockopt IP_BIND_ADDRESS_NO_PORT: %s", strerror(errno));
	if (bind(fd, (struct sockaddr *)&source, sizeof source) < 0)
		die("bind to %s: %s", inet_ntoa(source.sin_addr), strerror(errno));
	return fd;
}
