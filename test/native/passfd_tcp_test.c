/* TCP sockets, on the loopback interface only: listen, accept, connect, and both addresses. */
#include "../../native/passfd.h"
#include "check.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static int listen_on(const char *host, int ipv6_only, struct passfd_address *address)
{
	int fd = passfd_listen_tcp(host, 0, 8, ipv6_only);
	if (fd == -EADDRNOTAVAIL || fd == -EAFNOSUPPORT)
		skip("this machine has no such loopback address");
	EXPECT(fd >= 0);
	EXPECT_EQUAL(passfd_address(fd, 0, address), 0);
	EXPECT(address->port > 0);
	return fd;
}

static int connected_to(const char *host, int port)
{
	int fd = passfd_connect_tcp(host, port);
	EXPECT(fd >= 0);
	wait_for(fd, POLLOUT);
	EXPECT_EQUAL(passfd_error(fd), 0);
	return fd;
}

static void connects_over(const char *host, enum passfd_family family)
{
	struct passfd_address own, there;
	int accepted[2];

	int listener = listen_on(host, 1, &own);
	EXPECT_EQUAL(own.family, family);
	EXPECT_EQUAL(strcmp(own.name, host), 0);
	EXPECT_EQUAL(own.length, strlen(host));
	EXPECT_EQUAL(passfd_is_nonblocking(listener), 1);
	EXPECT_EQUAL(passfd_accept(listener, accepted, 2, NULL), -EAGAIN);

	int port = own.port, client = connected_to(host, port);
	EXPECT_EQUAL(passfd_is_nonblocking(client), 1);
	wait_for(listener, POLLIN);
	EXPECT_EQUAL(passfd_accept(listener, accepted, 2, NULL), 1);
	EXPECT_EQUAL(passfd_is_nonblocking(accepted[0]), 0);
	EXPECT(is_close_on_exec(listener) && is_close_on_exec(client) && is_close_on_exec(accepted[0]));
	EXPECT_EQUAL(passfd_address(client, 0, &own), 0);
	EXPECT_EQUAL(passfd_address(accepted[0], 1, &there), 0);
	EXPECT_EQUAL(memcmp(&own, &there, sizeof own), 0);
	EXPECT_EQUAL(passfd_address(client, 1, &there), 0);
	EXPECT_EQUAL(there.port, port);
	close(accepted[0]);
	close(client);
	close(listener);
}

TEST("listens, connects and returns both addresses over IPv4") { connects_over("127.0.0.1", PASSFD_IPV4); }
TEST("listens, connects and returns both addresses over IPv6") { connects_over("::1", PASSFD_IPV6); }

TEST("accepts IPv4 on an IPv6 socket, unless it is IPv6 only")
{
	/* A mapped address stands for the wildcard address, at which other machines could connect during the test. */
	const char *mapped = "::ffff:127.0.0.1";
	struct passfd_address address;
	int accepted[1];

	int listener = listen_on(mapped, 0, &address);
	EXPECT_EQUAL(address.family, PASSFD_IPV6);
	int client = connected_to("127.0.0.1", address.port);
	wait_for(listener, POLLIN);
	EXPECT_EQUAL(passfd_accept(listener, accepted, 1, NULL), 1);
	EXPECT_EQUAL(passfd_address(accepted[0], 1, &address), 0);
	EXPECT_EQUAL(strcmp(address.name, mapped), 0);
	close(accepted[0]);
	close(client);
	close(listener);
	EXPECT_EQUAL(passfd_listen_tcp(mapped, 0, 1, 1), -EINVAL);
}

TEST("returns EINVAL for a host that is not numeric")
{
	const char *hosts[] = {"localhost", "", "127.0.0.1:80", "256.0.0.1", "[::1]", ":::", "127.0.0.1 "};

	for (size_t i = 0; i < sizeof hosts / sizeof hosts[0]; i++) {
		EXPECT_EQUAL(passfd_listen_tcp(hosts[i], 0, 1, 0), -EINVAL);
		EXPECT_EQUAL(passfd_connect_tcp(hosts[i], 1), -EINVAL);
	}
}

TEST("returns EADDRINUSE for a port in use")
{
	struct passfd_address address;
	int listener = listen_on("127.0.0.1", 0, &address);
	EXPECT_EQUAL(passfd_listen_tcp("127.0.0.1", address.port, 1, 0), -EADDRINUSE);
	close(listener);
}

TEST("listens again on a port whose last connections are still in TIME_WAIT")
{
	struct passfd_address address;
	struct passfd_received received;
	int accepted[1];
	char byte;

	int listener = listen_on("127.0.0.1", 0, &address);
	int client = connected_to("127.0.0.1", address.port);
	wait_for(listener, POLLIN);
	EXPECT_EQUAL(passfd_accept(listener, accepted, 1, NULL), 1);
	close(accepted[0]);
	wait_for(client, POLLIN);
	EXPECT_EQUAL(passfd_receive(client, &byte, 1, &received), 0);
	close(client);
	close(listener);
	listener = passfd_listen_tcp("127.0.0.1", address.port, 1, 0);
	EXPECT(listener >= 0);
	close(listener);
}

TEST("reports a refused connection as the pending error, once")
{
	/* A bound port, so that no other process gets it, without a listener. */
	struct sockaddr_in own = {.sin_family = AF_INET, .sin_addr = {.s_addr = htonl(INADDR_LOOPBACK)}};
	struct passfd_address address;
	int reserved = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	EXPECT_EQUAL(bind(reserved, (struct sockaddr *)&own, sizeof own), 0);
	EXPECT_EQUAL(passfd_address(reserved, 0, &address), 0);
	int client = passfd_connect_tcp("127.0.0.1", address.port);
	if (client >= 0) {
		wait_for(client, POLLOUT);
		EXPECT_EQUAL(passfd_error(client), -ECONNREFUSED);
		EXPECT_EQUAL(passfd_error(client), 0);
		close(client);
	} else {
		EXPECT_EQUAL(client, -ECONNREFUSED);
	}
	close(reserved);
}

TEST("accepts the connection after one that was reset in the backlog")
{
	struct linger now = {.l_onoff = 1, .l_linger = 0};
	struct passfd_address address, live, found;
	int accepted[2], count = 0, has_live = 0;

	int listener = listen_on("127.0.0.1", 0, &address);
	int reset = connected_to("127.0.0.1", address.port);
	EXPECT_EQUAL(setsockopt(reset, SOL_SOCKET, SO_LINGER, &now, sizeof now), 0);
	close(reset);
	int client = connected_to("127.0.0.1", address.port);
	EXPECT_EQUAL(passfd_address(client, 0, &live), 0);
	while (!has_live) {
		wait_for(listener, POLLIN);
		count = passfd_accept(listener, accepted, 2, NULL);
		EXPECT(count > 0);
		for (int i = 0; i < count; i++)
			has_live |= passfd_address(accepted[i], 1, &found) == 0 && found.port == live.port;
		for (int i = 0; i < count; i++)
			close(accepted[i]);
	}
	close(client);
	close(listener);
}

TEST("shuts a TCP connection for both, after what had come, and again when it is over")
{
	struct passfd_address address;
	struct passfd_received received;
	int accepted[1];
	char bytes[8];

	int listener = listen_on("127.0.0.1", 0, &address);
	int client = connected_to("127.0.0.1", address.port);
	wait_for(listener, POLLIN);
	EXPECT_EQUAL(passfd_accept(listener, accepted, 1, NULL), 1);
	EXPECT_EQUAL(passfd_send(client, "before", 6, NULL, 0), 6);
	wait_for(accepted[0], POLLIN);
	EXPECT_EQUAL(passfd_shutdown(accepted[0]), 0);
	EXPECT_EQUAL(passfd_receive(accepted[0], bytes, sizeof bytes, &received), 6);
	EXPECT_EQUAL(passfd_receive(accepted[0], bytes, sizeof bytes, &received), 0);
	EXPECT_EQUAL(passfd_send(accepted[0], "x", 1, NULL, 0), -EPIPE);
	wait_for(client, POLLIN);
	EXPECT_EQUAL(passfd_receive(client, bytes, sizeof bytes, &received), 0);

	EXPECT_EQUAL(passfd_send(client, "x", 1, NULL, 0), 1);
	while (!(wait_for(client, POLLIN) & POLLHUP)) /* until the reset is here */
		;
	EXPECT_EQUAL(passfd_send(client, "x", 1, NULL, 0), -EPIPE);
	EXPECT_EQUAL(passfd_shutdown(accepted[0]), 0);
	EXPECT_EQUAL(passfd_shutdown(client), 0);
	EXPECT_EQUAL(passfd_shutdown(listener), 0);
	close(accepted[0]);
	close(client);
	close(listener);
}

TEST("counts the bytes that a TCP peer has not acknowledged, up and back to zero")
{
	struct passfd_address address;
	struct passfd_received received;
	int accepted[1];
	char byte;

	int listener = listen_on("127.0.0.1", 0, &address);
	int client = connected_to("127.0.0.1", address.port);
	wait_for(listener, POLLIN);
	EXPECT_EQUAL(passfd_accept(listener, accepted, 1, NULL), 1);
	EXPECT_EQUAL(passfd_send(client, "x", 1, NULL, 0), 1);
	wait_for(accepted[0], POLLIN);
	EXPECT_EQUAL(passfd_receive(accepted[0], &byte, 1, &received), 1);
	EXPECT_EQUAL(byte, 'x');
	while (passfd_unread(client) != 0) /* until the acknowledgement is here */
		EXPECT(passfd_unread(client) >= 0);
	close(accepted[0]);
	close(client);
	close(listener);
}

TEST("counts the connections in the backlog of a TCP socket that listens, and none elsewhere")
{
	struct passfd_address address;
	int clients[3], accepted[3];

	int listener = listen_on("127.0.0.1", 0, &address);
	EXPECT_EQUAL(passfd_queue_length(listener), 0);
	for (int i = 0; i < 3; i++) {
		clients[i] = connected_to("127.0.0.1", address.port);
		while (passfd_queue_length(listener) == i) /* until the last part of the handshake is here */
			poll(NULL, 0, 1);
		EXPECT_EQUAL(passfd_queue_length(listener), i + 1);
	}
	EXPECT_EQUAL(passfd_accept(listener, accepted, 3, NULL), 3);
	EXPECT_EQUAL(passfd_queue_length(listener), 0);
	EXPECT_EQUAL(passfd_send(clients[0], "x", 1, NULL, 0), 1);
	EXPECT_EQUAL(passfd_queue_length(clients[0]), 0);
	EXPECT_EQUAL(passfd_shutdown(listener), 0);
	EXPECT_EQUAL(passfd_queue_length(listener), 0);
	for (int i = 0; i < 3; i++) {
		close(accepted[i]);
		close(clients[i]);
	}
	close(listener);
}
