/* The limit: the least that a dispatcher can do. It accepts in batches, passes each batch on with one sendmsg for each
 * worker, in turn, and closes its copies. It has no window, keeps nothing until it is adopted, and gives nothing to others
 * when a worker dies: what a dispatcher that does all of that costs is measured against this.
 *
 * Workers speak the protocol of docs/protocol.md, of which it understands as much as they need to begin. */
#include "program.h"

#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define USAGE "Usage: limit --control PATH --workers N [--listen HOST:PORT] [--batch N]"

#define MAX_WORKERS 1024
#define MAX_BATCH 252

/* What a worker says before it is ready fits, many times. */
#define SAID_MAX 8192

/* What workers say is thrown away, but it has to be read: a channel that is full of it stops them. To be woken by every
 * word would cost more than to accept, so it is read when so many connections were passed on, ... */
#define READ_AFTER_PASSED 64
/* ... and when nothing else has happened for so long. */
#define READ_AFTER_MS 20

#define EVENTS_AT_ONCE 64

#define LENGTH_BYTES 4
#define HANDOFF 1
#define LISTENER_ID 0

struct worker {
	int channel;
	int is_ready;
	size_t passed; /* connections, since its channel was read */
	size_t group_count;
	int group[MAX_BATCH]; /* connections that go to it next */
	size_t said_length;
	char said[SAID_MAX + 1]; /* before it was ready */
};

struct options {
	struct sockaddr_in listen;
	const char *control;
	unsigned workers;
	unsigned batch;
};

/* What an event is of: the number of a worker, or one of these. */
enum { TAG_LISTENER = MAX_WORKERS, TAG_CONTROL };

static struct options options;
static struct sockaddr_un control_address;
static struct worker workers[MAX_WORKERS];
static unsigned joined;
static unsigned ready;
static unsigned full; /* workers whose group waits until their channel has room */
static unsigned next; /* the worker that gets the next connection */
static int listener;
static int control;
static int epoll;

static struct options read_options(int argc, char **argv)
{
	enum { LISTEN, CONTROL, WORKERS, BATCH };
	static const struct option known[] = {
		{"listen", required_argument, NULL, LISTEN},
		{"control", required_argument, NULL, CONTROL},
		{"workers", required_argument, NULL, WORKERS},
		{"batch", required_argument, NULL, BATCH},
		{NULL, 0, NULL, 0},
	};
	struct options read = {.listen = loopback_address("--listen", "127.0.0.1:0"), .batch = 64};
	int option;

	while ((option = getopt_long(argc, argv, "", known, NULL)) != -1) {
		switch (option) {
		case LISTEN:
			read.listen = loopback_address("--listen", optarg);
			break;
		case CONTROL:
			read.control = optarg;
			break;
		case WORKERS:
			read.workers = (unsigned)whole_number("--workers", optarg, 1, MAX_WORKERS);
			break;
		case BATCH:
			read.batch = (unsigned)whole_number("--batch", optarg, 1, MAX_BATCH);
			break;
		default:
			usage_error("it is called like this:\n" USAGE); /* getopt_long has said what is wrong */
		}
	}
	if (optind < argc)
		usage_error("it takes options only, not '%s'\n" USAGE, argv[optind]);
	if (!read.control || !read.workers)
		usage_error("it takes --control and --workers\n" USAGE);
	if (strlen(read.control) >= sizeof control_address.sun_path)
		usage_error("--control takes a path of less than %zu bytes", sizeof control_address.sun_path);
	return read;
}

static void remove_control(void)
{
	unlink(control_address.sun_path);
}

static void end_by_signal(int signal)
{
	(void)signal;
	remove_control();
	_exit(EXIT_DONE);
}

static int listen_at_control(void)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd < 0)
		die("socket: %s", strerror(errno));
	control_address.sun_family = AF_UNIX;
	strcpy(control_address.sun_path, options.control);
	if (bind(fd, (struct sockaddr *)&control_address, sizeof control_address) < 0)
		die("bind to %s: %s", options.control, strerror(errno));
	struct sigaction action = {.sa_handler = end_by_signal};
	if (atexit(remove_control) || sigaction(SIGTERM, &action, NULL) < 0 || sigaction(SIGINT, &action, NULL) < 0)
		die("%s would be left behind: %s", options.control, strerror(errno));
	if (listen(fd, MAX_WORKERS) < 0)
		die("listen at %s: %s", options.control, strerror(errno));
	return fd;
}

static unsigned number_of(const struct worker *worker)
{
	return (unsigned)(worker - workers);
}

static void change_watch(int fd, uint32_t events, uint64_t tag)
{
	struct epoll_event event = {.events = events, .data.u64 = tag};

	if (epoll_ctl(epoll, EPOLL_CTL_MOD, fd, &event) < 0)
		die("epoll_ctl: %s", strerror(errno));
}

/* One message of JSON in its frame. A channel is empty this early. */
static void say(const struct worker *worker, const char *json)
{
	char frame[LENGTH_BYTES + 256];
	size_t length = strlen(json);
	uint32_t prefix = htonl((uint32_t)length);

	memcpy(frame, &prefix, LENGTH_BYTES);
	memcpy(frame + LENGTH_BYTES, json, length);
	if (send(worker->channel, frame, LENGTH_BYTES + length, MSG_NOSIGNAL) != (ssize_t)(LENGTH_BYTES + length))
		die("worker %u cannot be told anything: %s", number_of(worker), strerror(errno));
}

static void say_welcome(const struct worker *worker)
{
	char json[256];

	snprintf(json, sizeof json, "{\"type\":\"welcome\",\"passfd\":1,\"id\":%u,\"pid\":%d,\"serves\":true}",
	         number_of(worker) + 1, (int)getpid());
	say(worker, json);
}

static void say_listening(const struct worker *worker, const char *message)
{
	static const char name[] = "\"request\":";
	const char *request = strstr(message, name);
	char json[256];

	if (!request)
		die("worker %u asks without a request's number: %s", number_of(worker), message);
	snprintf(json, sizeof json,
	         "{\"type\":\"listening\",\"request\":%lu,\"listeners\":"
	         "[{\"id\":%d,\"address\":{\"host\":\"127.0.0.1\",\"port\":%d}}]}",
	         strtoul(request + sizeof name - 1, NULL, 10), LISTENER_ID, port_of(listener));
	say(worker, json);
}

static void become_ready(struct worker *worker)
{
	worker->is_ready = 1;
	change_watch(worker->channel, 0, number_of(worker)); /* its end is told all the same */
	if (++ready == options.workers) {
		watch(epoll, listener, EPOLLIN, TAG_LISTENER);
		say_ready(listener);
	}
}

/* Whoever it takes the connections from, there is one listener. */
static void hear(struct worker *worker, const char *message)
{
	if (strstr(message, "\"role\":\"worker\""))
		say_welcome(worker);
	else if (strstr(message, "\"type\":\"serve\"") || strstr(message, "\"type\":\"listen\""))
		say_listening(worker, message);
	else if (strstr(message, "\"type\":\"ready\""))
		become_ready(worker);
	else
		die("worker %u says what is not understood here: %s", number_of(worker), message);
}

/* Cuts whole frames from what a worker has said, as long as it matters. */
static void hear_frames(struct worker *worker)
{
	size_t used = 0;

	while (!worker->is_ready && worker->said_length - used >= LENGTH_BYTES) {
		char *frame = worker->said + used;
		uint32_t prefix;
		memcpy(&prefix, frame, LENGTH_BYTES);
		size_t length = ntohl(prefix);
		if (length > SAID_MAX - LENGTH_BYTES)
			die("worker %u says more than %d bytes", number_of(worker), SAID_MAX - LENGTH_BYTES);
		if (worker->said_length - used < LENGTH_BYTES + length)
			break;
		char behind = frame[LENGTH_BYTES + length];
		frame[LENGTH_BYTES + length] = '\0';
		hear(worker, frame + LENGTH_BYTES);
		frame[LENGTH_BYTES + length] = behind;
		used += LENGTH_BYTES + length;
	}
	worker->said_length -= used;
	memmove(worker->said, worker->said + used, worker->said_length);
}

static void receive(struct worker *worker)
{
	ssize_t length =
		recv(worker->channel, worker->said + worker->said_length, SAID_MAX - worker->said_length, MSG_DONTWAIT);

	if (length == 0 || (length < 0 && errno != EAGAIN))
		die("worker %u has left", number_of(worker));
	if (length < 0)
		return;
	worker->said_length += (size_t)length;
	hear_frames(worker);
}

static void throw_away(struct worker *worker)
{
	static char bytes[65536];

	/* That it has left is told by epoll. */
	(void)!recv(worker->channel, bytes, sizeof bytes, MSG_DONTWAIT);
	worker->passed = 0;
}

static void welcome_worker(void)
{
	int channel = accept4(control, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

	if (channel < 0 && (errno == EAGAIN || errno == ECONNABORTED || errno == EINTR))
		return;
	if (channel < 0)
		die("accept4 at %s: %s", options.control, strerror(errno));
	if (joined == options.workers) {
		close(channel); /* the end of the stream says that there is no place */
		return;
	}
	workers[joined].channel = channel;
	watch(epoll, channel, EPOLLIN, joined);
	joined++;
}

/* Passes on what is to go to a worker, unless its channel is full. Its descriptors are in the channel then, and the copies
 * here are closed. */
static int pass_group(struct worker *worker)
{
	unsigned char frame[LENGTH_BYTES + 4] = {0, 0, 0, 4, HANDOFF, 0, LISTENER_ID, (unsigned char)worker->group_count};
	struct iovec iov = {.iov_base = frame, .iov_len = sizeof frame};
	size_t room = sizeof(int) * worker->group_count;
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int) * MAX_BATCH)];
	} buffer;
	struct msghdr message = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = buffer.bytes,
		.msg_controllen = CMSG_SPACE(room),
	};
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);

	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(room);
	memcpy(CMSG_DATA(header), worker->group, room);
	if (sendmsg(worker->channel, &message, MSG_DONTWAIT | MSG_NOSIGNAL) < 0) {
		if (errno != EAGAIN)
			die("sendmsg to worker %u: %s", number_of(worker), strerror(errno));
		return 0;
	}
	for (size_t i = 0; i < worker->group_count; i++)
		close(worker->group[i]);
	worker->passed += worker->group_count;
	worker->group_count = 0;
	if (worker->passed >= READ_AFTER_PASSED)
		throw_away(worker);
	return 1;
}

static void accept_batch(void)
{
	unsigned first = next;
	unsigned count = 0;

	while (count < options.batch) {
		int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
		if (fd < 0 && errno == EAGAIN)
			break;
		if (fd < 0 && (errno == EINTR || errno == ECONNABORTED))
			continue;
		if (fd < 0)
			die("accept4: %s", strerror(errno));
		struct worker *worker = &workers[next];
		worker->group[worker->group_count++] = fd;
		next = next + 1 == options.workers ? 0 : next + 1;
		count++;
	}
	for (unsigned i = 0; i < options.workers && i < count; i++) {
		struct worker *worker = &workers[(first + i) % options.workers];
		if (pass_group(worker))
			continue;
		change_watch(worker->channel, EPOLLOUT, number_of(worker));
		full++;
	}
	/* Until every group is passed on, clients wait in the kernel's backlog. */
	if (full > 0)
		change_watch(listener, 0, TAG_LISTENER);
}

static void pass_when_there_is_room(struct worker *worker)
{
	if (!pass_group(worker))
		return;
	change_watch(worker->channel, 0, number_of(worker));
	if (--full == 0)
		change_watch(listener, EPOLLIN, TAG_LISTENER);
}

static void serve_worker(struct worker *worker, uint32_t events)
{
	if (!worker->is_ready)
		receive(worker);
	else if (events & (EPOLLHUP | EPOLLERR))
		die("worker %u has left", number_of(worker));
	else if (worker->group_count > 0)
		pass_when_there_is_room(worker);
}

int main(int argc, char **argv)
{
	struct epoll_event events[EVENTS_AT_ONCE];

	options = read_options(argc, argv);
	need_descriptors(options.workers + options.batch + 16);
	epoll = open_epoll();
	listener = listen_at(options.listen);
	control = listen_at_control();
	watch(epoll, control, EPOLLIN, TAG_CONTROL);
	for (;;) {
		int count = epoll_wait(epoll, events, EVENTS_AT_ONCE, READ_AFTER_MS);
		if (count < 0 && errno != EINTR)
			die("epoll_wait: %s", strerror(errno));
		for (unsigned i = 0; count == 0 && i < joined; i++)
			if (workers[i].is_ready)
				throw_away(&workers[i]);
		for (int i = 0; i < count; i++) {
			uint64_t tag = events[i].data.u64;
			if (tag == TAG_LISTENER)
				accept_batch();
			else if (tag == TAG_CONTROL)
				welcome_worker();
			else
				serve_worker(&workers[tag], events[i].events);
		}
	}
}
