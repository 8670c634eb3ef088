/* Questions to the kernel about connections: what identifies one, whether a process holds it, and foreign answers. */
#include "../../native/passfd.h"
#include "check.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static int open_diagnostics(void)
{
	int diagnostics = passfd_open_diagnostics();
	if (diagnostics == -EPROTONOSUPPORT || diagnostics == -EAFNOSUPPORT)
		skip("this kernel has no sock_diag");
	EXPECT(diagnostics >= 0);
	return diagnostics;
}

struct connection {
	int client, served;
	struct passfd_identity identity; /* of the served end */
};

static struct connection connect_over(const char *host, const char *client_host)
{
	struct connection connection;
	struct passfd_address address;
	int listener = passfd_listen_tcp(host, 0, 8, 0);

	if (listener == -EADDRNOTAVAIL || listener == -EAFNOSUPPORT)
		skip("this machine has no such loopback address");
	EXPECT_EQUAL(passfd_address(listener, 0, &address), 0);
	connection.client = passfd_connect_tcp(client_host, address.port);
	wait_for(connection.client, POLLOUT);
	EXPECT_EQUAL(passfd_error(connection.client), 0);
	wait_for(listener, POLLIN);
	EXPECT_EQUAL(passfd_accept(listener, &connection.served, 1, NULL), 1);
	EXPECT_EQUAL(passfd_identify(connection.served, &connection.identity), 0);
	close(listener);
	return connection;
}

/* Without tcp_diag the kernel finds no connection. */
static void need_answers(int diagnostics, const struct connection *connection)
{
	if (passfd_is_held(diagnostics, &connection->identity) == 0)
		skip("this kernel has no tcp_diag");
	EXPECT_EQUAL(passfd_is_held(diagnostics, &connection->identity), 1);
}

static void tells_who_holds(const char *host, const char *client_host)
{
	int diagnostics = open_diagnostics(), in_child[2], status;
	struct connection connection = connect_over(host, client_host);
	const struct passfd_identity *identity = &connection.identity;
	char byte;

	need_answers(diagnostics, &connection);
	int duplicate = passfd_duplicate(connection.served);
	close(connection.served);
	EXPECT_EQUAL(passfd_is_held(diagnostics, identity), 1);

	/* Only the child holds the connection now. It ends when the pair is closed. */
	EXPECT_EQUAL(passfd_socketpair(in_child), 0);
	pid_t child = fork();
	EXPECT(child >= 0);
	if (child == 0) {
		close(in_child[0]);
		_exit(recv(in_child[1], &byte, 1, 0) == 0 ? 0 : 1);
	}
	close(in_child[1]);
	close(duplicate);
	EXPECT_EQUAL(passfd_is_held(diagnostics, identity), 1);
	close(in_child[0]);
	EXPECT(waitpid(child, &status, 0) == child);
	EXPECT_EQUAL(status, 0);

	/* The client is still open, so TCP still has the connection. */
	EXPECT_EQUAL(passfd_is_held(diagnostics, identity), 0);
	close(connection.client);
	EXPECT_EQUAL(passfd_is_held(diagnostics, identity), 0);
	close(diagnostics);
}

TEST("reports whether any process holds a connection over IPv4") { tells_who_holds("127.0.0.1", "127.0.0.1"); }
TEST("reports whether any process holds a connection over IPv6") { tells_who_holds("::1", "::1"); }
TEST("reports whether any process holds an IPv4 connection of an IPv6 socket")
{
	tells_who_holds("::ffff:127.0.0.1", "127.0.0.1");
}

TEST("counts a descriptor in flight as held")
{
	int diagnostics = open_diagnostics(), ends[2];
	struct connection connection = connect_over("127.0.0.1", "127.0.0.1");

	need_answers(diagnostics, &connection);
	EXPECT_EQUAL(passfd_socketpair(ends), 0);
	EXPECT_EQUAL(passfd_send(ends[0], "x", 1, &connection.served, 1), 1);
	close(connection.served);
	EXPECT_EQUAL(passfd_is_held(diagnostics, &connection.identity), 1);
	close(ends[0]);
	close(ends[1]);
	while (passfd_is_held(diagnostics, &connection.identity) != 0) /* the kernel closes what was in flight later */
		EXPECT(passfd_is_held(diagnostics, &connection.identity) >= 0);
	close(connection.client);
	close(diagnostics);
}

TEST("does not take a later connection with the same addresses for the one asked about")
{
	int diagnostics = open_diagnostics();
	struct connection connection = connect_over("127.0.0.1", "127.0.0.1");

	need_answers(diagnostics, &connection);
	connection.identity.cookie[0]++;
	EXPECT_EQUAL(passfd_is_held(diagnostics, &connection.identity), 0);
	close(connection.served);
	close(connection.client);
	close(diagnostics);
}

/* A question whose answer was not read. It is too short, so the answer is an error. */
static void leave_answers(int diagnostics, int count)
{
	struct nlmsghdr question = {
		.nlmsg_len = sizeof question,
		.nlmsg_type = SOCK_DIAG_BY_FAMILY,
		.nlmsg_flags = NLM_F_REQUEST,
		.nlmsg_seq = UINT32_MAX,
	};
	for (int i = 0; i < count; i++)
		EXPECT_EQUAL(send(diagnostics, &question, sizeof question, 0), sizeof question);
}

TEST("skips answers to other questions, up to a limit, and works again after that")
{
	int diagnostics = open_diagnostics();
	struct connection connection = connect_over("127.0.0.1", "127.0.0.1");
	const struct passfd_identity *identity = &connection.identity;

	need_answers(diagnostics, &connection);
	leave_answers(diagnostics, 15);
	EXPECT_EQUAL(passfd_is_held(diagnostics, identity), 1);
	leave_answers(diagnostics, 16);
	EXPECT_EQUAL(passfd_is_held(diagnostics, identity), -EBADMSG);
	EXPECT_EQUAL(passfd_is_held(diagnostics, identity), 1);
	close(connection.served);
	close(connection.client);
	close(diagnostics);
}

TEST("reports whether any process holds a Unix connection")
{
	int diagnostics = open_diagnostics(), ends[2];
	struct passfd_identity identity;

	EXPECT_EQUAL(passfd_socketpair(ends), 0);
	EXPECT_EQUAL(passfd_identify(ends[0], &identity), 0);
	if (passfd_is_held(diagnostics, &identity) == 0)
		skip("this kernel has no unix_diag");
	EXPECT_EQUAL(passfd_is_held(diagnostics, &identity), 1);
	int duplicate = passfd_duplicate(ends[0]);
	close(ends[0]);
	EXPECT_EQUAL(passfd_is_held(diagnostics, &identity), 1);
	identity.cookie[0]++;
	EXPECT_EQUAL(passfd_is_held(diagnostics, &identity), 0);
	identity.cookie[0]--;
	close(duplicate);
	EXPECT_EQUAL(passfd_is_held(diagnostics, &identity), 0);
	close(ends[1]);
	close(diagnostics);
}

TEST("identifies connected TCP and Unix sockets only")
{
	struct sockaddr_in there = {
		.sin_family = AF_INET, .sin_port = htons(9), .sin_addr = {.s_addr = htonl(INADDR_LOOPBACK)}};
	struct passfd_identity identity;
	int ends[2], file = new_file(), listener = passfd_listen_tcp("127.0.0.1", 0, 1, 0);
	int udp = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	EXPECT_EQUAL(connect(udp, (struct sockaddr *)&there, sizeof there), 0); /* sends nothing */
	EXPECT_EQUAL(passfd_socketpair(ends), 0);
	EXPECT_EQUAL(passfd_identify(udp, &identity), -ENOTSUP);
	EXPECT_EQUAL(passfd_identify(listener, &identity), -ENOTCONN);
	EXPECT_EQUAL(passfd_identify(file, &identity), -ENOTSOCK);
	close(ends[0]);
	EXPECT_EQUAL(passfd_identify(ends[0], &identity), -EBADF);
	close(ends[1]);
	close(udp);
	close(listener);
	close(file);
}

TEST("asks on a close-on-exec socket, and fails on another descriptor")
{
	struct passfd_identity identity = {.family = AF_INET};
	int diagnostics = open_diagnostics(), file = new_file();

	EXPECT(is_close_on_exec(diagnostics));
	EXPECT_EQUAL(passfd_is_held(file, &identity), -ENOTSOCK);
	close(diagnostics);
	EXPECT_EQUAL(passfd_is_held(diagnostics, &identity), -EBADF);
	leave_room_for(0);
	EXPECT_EQUAL(passfd_open_diagnostics(), -EMFILE);
	restore_limit();
	close(file);
}
