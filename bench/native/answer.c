/* The fastest server: what the load generator reaches when nobody holds it up. One thread, one epoll, and the answers that
 * every contestant gives (answers.h). */
#include "answers.h"
#include "program.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define USAGE "Usage: answer --app http|raw [--listen HOST:PORT] [--worker NUMBER]"

#define EVENTS_AT_ONCE 256
#define ACCEPTED_AT_ONCE 64

/* Each connection stands at the number of its descriptor. */
#define MAX_DESCRIPTORS 65536

/* More than the load generator asks with. */
#define REQUEST_MAX 511

enum app { APP_HTTP, APP_RAW };

struct connection {
	uint32_t watched; /* the events that epoll waits for; 0 where it does not know of it */
	size_t received;
	uint64_t unsent; /* bytes of a bulk answer */
	char request[REQUEST_MAX + 1];
};

enum { TAG_LISTENER = MAX_DESCRIPTORS, TAG_SIGNAL };

struct options {
	enum app app;
	struct sockaddr_in listen;
	uint64_t worker;
	uint64_t bulk_bytes;
};

static struct options options;
static char label[LABEL_BYTES + 1];
static char answer_and_stay[128];
static char answer_and_close[128];
static unsigned char bulk[BULK_CHUNK + BULK_PERIOD];
static struct connection connections[MAX_DESCRIPTORS];
static int epoll;

static struct options read_options(int argc, char **argv)
{
	enum { APP, LISTEN, WORKER };
	static const struct option known[] = {
		{"app", required_argument, NULL, APP},
		{"listen", required_argument, NULL, LISTEN},
		{"worker", required_argument, NULL, WORKER},
		{NULL, 0, NULL, 0},
	};
	const char *bulk_bytes = getenv("BENCH_BULK_BYTES");
	const char *app_name = "";
	struct options read = {
		.listen = loopback_address("--listen", "127.0.0.1:0"),
		.bulk_bytes = bulk_bytes ? whole_number("BENCH_BULK_BYTES", bulk_bytes, 1, MAX_BULK_BYTES) : BULK_BYTES_DEFAULT,
	};
	int option;

	while ((option = getopt_long(argc, argv, "", known, NULL)) != -1) {
		switch (option) {
		case APP:
			app_name = optarg;
			break;
		case LISTEN:
			read.listen = loopback_address("--listen", optarg);
			break;
		case WORKER:
			read.worker = whole_number("--worker", optarg, 0, MAX_WORKER);
			break;
		default:
			usage_error("it is called like this:\n" USAGE); /* getopt_long has said what is wrong */
		}
	}
	if (optind < argc)
		usage_error("it takes options only, not '%s'\n" USAGE, argv[optind]);
	read.app = strcmp(app_name, "http") == 0 ? APP_HTTP : APP_RAW;
	if (read.app == APP_RAW && strcmp(app_name, "raw") != 0)
		usage_error("--app takes http or raw, not '%s'\n" USAGE, app_name);
	return read;
}

static void prepare_answers(void)
{
	static const char head[] = "HTTP/1.1 200 OK\r\nConnection: %s\r\nContent-Length: 7\r\n\r\n%s";

	snprintf(label, sizeof label, "w%06" PRIu32, (uint32_t)options.worker);
	snprintf(answer_and_stay, sizeof answer_and_stay, head, "keep-alive", label);
	snprintf(answer_and_close, sizeof answer_and_close, head, "close", label);
	fill_bulk(bulk, sizeof bulk);
}

static void end_connection(int fd)
{
	close(fd); /* leaves epoll with it, as nobody else has it */
}

/* Where nothing more can be done at once. */
static void wait_for(int fd, uint32_t events)
{
	struct connection *connection = &connections[fd];
	struct epoll_event event = {.events = events, .data.u64 = (uint64_t)fd};

	if (connection->watched == events)
		return;
	if (epoll_ctl(epoll, connection->watched ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, fd, &event) < 0)
		die("epoll_ctl: %s", strerror(errno));
	connection->watched = events;
}

/* Whether the connection lives on. Its buffer is empty, so that a short answer goes whole, or the client is gone. */
static int answer_with(int fd, const char *bytes)
{
	size_t length = strlen(bytes);

	connections[fd].received = 0;
	return send(fd, bytes, length, MSG_NOSIGNAL) == (ssize_t)length;
}

static void send_bulk(int fd)
{
	struct connection *connection = &connections[fd];

	while (connection->unsent > 0) {
		uint64_t position = options.bulk_bytes - connection->unsent;
		size_t length = connection->unsent < BULK_CHUNK ? (size_t)connection->unsent : BULK_CHUNK;
		ssize_t sent = send(fd, bulk + position % BULK_PERIOD, length, MSG_NOSIGNAL);
		if (sent < 0 && errno == EAGAIN) {
			wait_for(fd, EPOLLOUT);
			return;
		}
		if (sent < 0)
			break;
		connection->unsent -= (uint64_t)sent;
	}
	end_connection(fd);
}

static void serve_http(int fd)
{
	const char *request = connections[fd].request;
	size_t length = connections[fd].received;

	/* Nobody here sends a body, or a second request before the first one is answered. */
	if (length < 4 || memcmp(request + length - 4, "\r\n\r\n", 4) != 0) {
		if (length == REQUEST_MAX)
			end_connection(fd);
		else
			wait_for(fd, EPOLLIN);
		return;
	}
	int is_last = strcasestr(request, "\r\nConnection: close\r\n") != NULL;
	if (answer_with(fd, is_last ? answer_and_close : answer_and_stay) && !is_last)
		wait_for(fd, EPOLLIN);
	else
		end_connection(fd);
}

static void serve_raw(int fd)
{
	struct connection *connection = &connections[fd];

	if (connection->received < REQUEST_BYTES) {
		wait_for(fd, EPOLLIN);
	} else if (strcmp(connection->request, BULK_REQUEST) == 0) {
		connection->unsent = options.bulk_bytes;
		send_bulk(fd);
	} else if (strcmp(connection->request, REQUEST) == 0 && answer_with(fd, label)) {
		wait_for(fd, EPOLLIN);
	} else {
		end_connection(fd);
	}
}

static void receive(int fd)
{
	struct connection *connection = &connections[fd];
	ssize_t length = recv(fd, connection->request + connection->received, REQUEST_MAX - connection->received, 0);

	if (length < 0 && errno == EAGAIN) {
		wait_for(fd, EPOLLIN);
	} else if (length <= 0) {
		end_connection(fd);
	} else {
		connection->received += (size_t)length;
		connection->request[connection->received] = '\0';
		(options.app == APP_HTTP ? serve_http : serve_raw)(fd);
	}
}

/* Most often the request is there already. */
static void accept_some(int listener)
{
	for (int i = 0; i < ACCEPTED_AT_ONCE; i++) {
		int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
		if (fd < 0 && errno == EAGAIN)
			return;
		if (fd < 0 && (errno == EINTR || errno == ECONNABORTED))
			continue;
		if (fd < 0)
			die("accept4: %s", strerror(errno));
		if (fd >= MAX_DESCRIPTORS)
			die("it serves no more than %d connections at a time", MAX_DESCRIPTORS);
		connections[fd].watched = 0;
		connections[fd].received = 0;
		connections[fd].unsent = 0;
		receive(fd);
	}
}

int main(int argc, char **argv)
{
	struct epoll_event events[EVENTS_AT_ONCE];

	options = read_options(argc, argv);
	prepare_answers();
	need_descriptors(1024);
	epoll = open_epoll();
	watch(epoll, open_signals(), EPOLLIN, TAG_SIGNAL);
	int listener = listen_at(options.listen);
	watch(epoll, listener, EPOLLIN, TAG_LISTENER);
	say_ready(listener);
	for (;;) {
		int count = epoll_wait(epoll, events, EVENTS_AT_ONCE, -1);
		if (count < 0 && errno != EINTR)
			die("epoll_wait: %s", strerror(errno));
		for (int i = 0; i < count; i++) {
			uint64_t tag = events[i].data.u64;
			if (tag == TAG_SIGNAL)
				return EXIT_DONE;
			if (tag == TAG_LISTENER)
				accept_some(listener);
			else if (connections[tag].unsent > 0)
				send_bulk((int)tag);
			else
				receive((int)tag);
		}
	}
}
