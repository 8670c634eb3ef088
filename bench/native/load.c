/* The load generator: asks, checks every answer, and tells how many came and how soon. One thread, one epoll, and no memory
 * taken while it runs.
 *
 * Connections are closed normally: what a server does at a reset is not what is measured.
 *
 * With a rate the loop is open: each connection has its planned moment, however slow the answers are, and its latency counts
 * from that moment. Otherwise a server that stands still would only be asked less, and hardly anybody would have waited. */
#include "load.h"

#include "answers.h"
#include "program.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

/* More than any server here writes in front of the 7 bytes. */
#define ANSWER_MAX 1023

#define EVENTS_AT_ONCE 256

/* Of the connections that are only held, so many are on their way at a time: fewer than any server's backlog. */
#define OPENING_AT_ONCE 64

/* How often is looked for answers that do not come. */
#define OVERDUE_INTERVAL_NS 100000000

#define NS_PER_S UINT64_C(1000000000)

static const char http_request[] = "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n";
static const char keep_alive_request[] = "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";

enum state {
	ASKING,  /* connecting, or the request is not sent yet */
	WAITING, /* for the rest of the answer */
	ENDING,  /* the answer is complete; the server is to end the connection */
	HELD,    /* the answer is complete; the connection is kept */
};

struct connection {
	enum state state;
	int fd; /* -1: free */
	uint32_t worker;
	uint64_t begun;    /* before the connect, or before the next request of keep-alive; with a rate: as planned */
	uint64_t answered; /* when the answer was complete */
	uint64_t heard;    /* when something came last: silence behind it is bounded */
	uint64_t received;
	char answer[ANSWER_MAX + 1];
};

/* What an event is of: the number of a connection, or one of these. */
enum { TAG_SIGNAL = 1 << 24, TAG_LIMIT, TAG_PAUSE, TAG_PLANNED, TAG_OVERDUE, TAG_INPUT };

static struct options options;
static const char *request;
static size_t request_bytes;

static struct connection *connections;
static uint32_t *free_connections;
static uint64_t free_count;
static uint64_t used_count; /* no connection behind these was ever used */
static uint64_t asked;      /* requests that were begun */
static uint64_t held;

static int epoll;
static int pause_timer;
static int planned_timer;
static uint64_t first_planned; /* the moment of the first connection, where there is a rate */
static uint64_t timed_for;     /* the moment that the timer is set for */
static int overdue_timer;
static int is_pausing;
static int is_stopping; /* what is open may finish, and nothing new begins */
static int is_over;     /* nothing is waited for any more */
static int has_held;    /* that the connections are held was told */

/* The moment that is planned for the next connection. It is computed from the first one, so that no error grows. */
static uint64_t planned(void)
{
	return first_planned + asked / options.rate * NS_PER_S + asked % options.rate * NS_PER_S / options.rate;
}

static int may_begin(void)
{
	uint64_t on_their_way = options.connections - free_count - held;

	if (is_stopping || is_pausing || free_count == 0 || asked >= options.count)
		return 0;
	if (options.rate)
		return now_ns() >= planned();
	return options.work != IDLE || on_their_way < OPENING_AT_ONCE;
}

static void set_timer(int timer, uint64_t ns)
{
	struct itimerspec time = {
		.it_value = {.tv_sec = (time_t)(ns / 1000000000), .tv_nsec = (long)(ns % 1000000000)},
	};

	if (timerfd_settime(timer, 0, &time, NULL) < 0)
		die("timerfd_settime: %s", strerror(errno));
}

static int open_timer(uint64_t tag)
{
	int timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);

	if (timer < 0)
		die("timerfd_create: %s", strerror(errno));
	watch(epoll, timer, EPOLLIN | EPOLLET, tag); /* so that it need not be read, only set again */
	return timer;
}

/* Wakes the loop at the moment of the next connection. */
static void await_planned(void)
{
	uint64_t at = planned();
	uint64_t now = now_ns();

	if (at == timed_for || free_count == 0)
		return;
	timed_for = at;
	set_timer(planned_timer, at > now ? at - now : 1);
}

static void begin_pause(void)
{
	if (options.work == LATENCY && options.pause_ns > 0) {
		set_timer(pause_timer, options.pause_ns);
		is_pausing = 1;
	}
}

static void close_connection(struct connection *connection)
{
	if (connection->state == HELD)
		held--;
	close(connection->fd); /* leaves epoll with it, as nobody else has it */
	connection->fd = -1;
	free_connections[free_count++] = (uint32_t)(connection - connections);
	begin_pause();
}

static void fail(struct connection *connection, const char *what, int error, const char *detail)
{
	count_failure(what, error, detail);
	close_connection(connection);
}

static void watch_connection(const struct connection *connection, int operation, uint32_t events)
{
	struct epoll_event event = {.events = events, .data.u64 = (uint64_t)(connection - connections)};

	if (epoll_ctl(epoll, operation, connection->fd, &event) < 0)
		die("epoll_ctl: %s", strerror(errno));
}

/* Whether it was sent. It is not where the connection is not there yet. */
static int send_request(struct connection *connection)
{
	ssize_t sent = send(connection->fd, request, request_bytes, MSG_NOSIGNAL);

	if (sent < 0)
		return 0;
	/* A first message of this size goes whole into an empty buffer. */
	if ((size_t)sent != request_bytes)
		die("the kernel took %zd of %zu bytes", sent, request_bytes);
	connection->state = WAITING;
	return 1;
}

static void begin_request(struct connection *connection)
{
	uint64_t now = now_ns();
	uint64_t at = options.rate ? planned() : now;

	asked++;
	count_begun(at);
	connection->state = ASKING;
	connection->begun = at;
	connection->heard = now;
	connection->received = 0;
}

/* Over the loopback a connection is most often there when connect(2) returns, though it says EINPROGRESS. So the request is
 * sent at once, and epoll is asked only about what could not be. */
static void begin_connection(void)
{
	uint32_t index = free_connections[--free_count];
	struct connection *connection = &connections[index];

	if (index >= used_count)
		used_count = index + 1;
	begin_request(connection);
	connection->fd = open_source();
	if (connect(connection->fd, (struct sockaddr *)&options.to, sizeof options.to) < 0 && errno != EINPROGRESS)
		fail(connection, "connect", errno, NULL);
	else if (send_request(connection))
		watch_connection(connection, EPOLL_CTL_ADD, EPOLLIN | EPOLLRDHUP);
	else if (errno == EAGAIN)
		watch_connection(connection, EPOLL_CTL_ADD, EPOLLIN | EPOLLOUT | EPOLLRDHUP);
	else
		fail(connection, "connect", errno, NULL);
}

static void ask_when_connected(struct connection *connection)
{
	if (send_request(connection))
		watch_connection(connection, EPOLL_CTL_MOD, EPOLLIN | EPOLLRDHUP);
	else if (errno != EAGAIN)
		fail(connection, "connect", errno, NULL);
}

static void ask_again(struct connection *connection)
{
	begin_request(connection);
	if (!send_request(connection))
		fail(connection, "send", errno, NULL);
}

static void finish(struct connection *connection)
{
	if (options.work == BULK)
		count_answer(connection->begun, connection->answered);
	else
		count_worker_answer(connection->worker, connection->begun, connection->answered);
	if (options.work == KEEP_ALIVE && !is_stopping && asked < options.count) {
		ask_again(connection);
	} else if (options.work == IDLE && !is_stopping) {
		connection->state = HELD;
		held++;
	} else {
		close_connection(connection);
	}
}

/* The answer is complete. Where the server ends the connection, it counts when that has happened, too. */
static void take_answer(struct connection *connection)
{
	connection->answered = connection->heard;
	if (options.work == HTTP || options.work == BULK)
		connection->state = ENDING;
	else
		finish(connection);
}

/* Bytes behind a complete answer make it a wrong one, whenever they come. */
static void judge(struct connection *connection)
{
	int is_http = options.work == HTTP || options.work == KEEP_ALIVE;
	size_t length = (size_t)connection->received;

	connection->answer[length] = '\0';
	switch ((is_http ? judge_http : judge_raw)(connection->answer, length, &connection->worker)) {
	case INCOMPLETE:
		if (length == ANSWER_MAX)
			fail(connection, "too long an answer", 0, connection->answer);
		break;
	case COMPLETE:
		take_answer(connection);
		break;
	case WRONG:
		fail(connection, "wrong answer", 0, connection->answer);
		break;
	}
}

static void judge_bulk(struct connection *connection, const unsigned char *bytes, size_t length)
{
	if (!is_bulk(bytes, length, connection->received - length))
		fail(connection, "wrong bytes in a bulk answer", 0, NULL);
	else if (connection->received > options.bytes)
		fail(connection, "too long a bulk answer", 0, NULL);
	else if (connection->received == options.bytes)
		take_answer(connection);
}

static void meet_end(struct connection *connection)
{
	switch (connection->state) {
	case ENDING:
		finish(connection);
		break;
	case HELD:
		fail(connection, "the end came while the connection was held", 0, NULL);
		break;
	case ASKING:
	case WAITING:
		fail(connection, connection->received ? "the end came within the answer" : "the end came without an answer", 0,
		     NULL);
		break;
	}
}

static void receive(struct connection *connection)
{
	static unsigned char bulk[BULK_CHUNK];
	int is_bulk_answer = options.work == BULK;
	void *room = is_bulk_answer ? (void *)bulk : connection->answer + connection->received;
	size_t size = is_bulk_answer ? sizeof bulk : ANSWER_MAX - (size_t)connection->received;
	ssize_t length = recv(connection->fd, room, size, 0);

	if (length < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (length < 0) {
		fail(connection, "receive", errno, NULL);
	} else if (length == 0) {
		meet_end(connection);
	} else {
		connection->heard = now_ns();
		connection->received += (uint64_t)length;
		count_bytes((uint64_t)length);
		if (is_bulk_answer)
			judge_bulk(connection, bulk, (size_t)length);
		else
			judge(connection);
	}
}

static void serve_connection(struct connection *connection, uint32_t events)
{
	if (connection->fd < 0)
		return; /* closed by another event of the same round */
	if (connection->state == ASKING) {
		ask_when_connected(connection);
		return;
	}
	receive(connection);
	/* The end has come with the answer most often: this saves a round of the loop. */
	if (events & EPOLLRDHUP && connection->fd >= 0 && connection->state == ENDING)
		receive(connection);
}

static void fail_overdue(void)
{
	uint64_t now = now_ns();

	set_timer(overdue_timer, OVERDUE_INTERVAL_NS);
	for (uint64_t i = 0; i < used_count; i++) {
		struct connection *connection = &connections[i];
		if (connection->fd < 0 || connection->state == HELD || now - connection->heard < options.timeout_ns)
			continue;
		fail(connection, connection->state == ENDING ? "no end behind the answer in time" : "no answer in time", 0, NULL);
	}
}

static void release_held(void)
{
	is_stopping = 1;
	for (uint64_t i = 0; i < used_count; i++)
		if (connections[i].fd >= 0 && connections[i].state == HELD)
			close_connection(&connections[i]);
}

/* What is open may finish. A signal that comes while that is awaited ends it at once. */
static void take_signal(int signals)
{
	struct signalfd_siginfo signal;

	while (read(signals, &signal, sizeof signal) == (ssize_t)sizeof signal) {
		is_over = is_stopping;
		release_held();
	}
}

/* A line or the end: it does not matter which. */
static void take_input(void)
{
	char bytes[256];

	if (read(STDIN_FILENO, bytes, sizeof bytes) >= 0 || errno != EAGAIN)
		release_held();
}

static void tell_held(void)
{
	struct epoll_event event = {.events = EPOLLIN, .data.u64 = TAG_INPUT};

	printf("{\"type\":\"held\",\"connections\":%llu}\n", (unsigned long long)held);
	fflush(stdout);
	has_held = 1;
	if (epoll_ctl(epoll, EPOLL_CTL_ADD, STDIN_FILENO, &event) < 0)
		release_held(); /* a file, which is at its end, or none */
}

static void take_event(uint64_t tag, uint32_t events, int signals)
{
	switch (tag) {
	case TAG_SIGNAL:
		take_signal(signals);
		break;
	case TAG_LIMIT:
		is_stopping = 1;
		break;
	case TAG_PAUSE:
		is_pausing = 0;
		break;
	case TAG_PLANNED:
		break; /* the loop looks by itself what is due */
	case TAG_OVERDUE:
		fail_overdue();
		break;
	case TAG_INPUT:
		take_input();
		break;
	default:
		serve_connection(&connections[tag], events);
	}
}

static void run(int signals)
{
	struct epoll_event events[EVENTS_AT_ONCE];

	while (!is_over) {
		/* Not more than are free now: where each is refused at once, the rest of the loop has to get its turn. */
		for (uint64_t i = free_count; i > 0 && may_begin(); i--)
			begin_connection();
		if (free_count == options.connections && (is_stopping || asked >= options.count))
			return;
		if (options.work == IDLE && !has_held && count_of_ended() >= options.count)
			tell_held();
		if (options.rate && !is_stopping)
			await_planned();
		int count = epoll_wait(epoll, events, EVENTS_AT_ONCE, may_begin() ? 0 : -1);
		if (count < 0 && errno != EINTR)
			die("epoll_wait: %s", strerror(errno));
		for (int i = 0; i < count; i++)
			take_event(events[i].data.u64, events[i].events, signals);
	}
}

static void prepare(void)
{
	need_descriptors(options.connections + 16);
	connections = calloc(options.connections, sizeof *connections);
	free_connections = calloc(options.connections, sizeof *free_connections);
	if (!connections || !free_connections)
		die("no memory for %llu connections", (unsigned long long)options.connections);
	/* The first connections are at the end: they are taken first, and taken again. */
	for (; free_count < options.connections; free_count++) {
		connections[free_count].fd = -1;
		free_connections[free_count] = (uint32_t)(options.connections - 1 - free_count);
	}
	switch (options.work) {
	case HTTP:
		request = http_request;
		break;
	case KEEP_ALIVE:
		request = keep_alive_request;
		break;
	case BULK:
		request = BULK_REQUEST;
		break;
	case RAW:
	case LATENCY:
	case IDLE:
		request = REQUEST;
		break;
	}
	request_bytes = strlen(request);
	begin_sources(options.from);
}

int main(int argc, char **argv)
{
	options = read_options(argc, argv);
	prepare();
	epoll = open_epoll();
	int signals = open_signals();
	watch(epoll, signals, EPOLLIN, TAG_SIGNAL);
	pause_timer = open_timer(TAG_PAUSE);
	planned_timer = open_timer(TAG_PLANNED);
	overdue_timer = open_timer(TAG_OVERDUE);
	set_timer(overdue_timer, OVERDUE_INTERVAL_NS);
	if (options.limit_ns > 0)
		set_timer(open_timer(TAG_LIMIT), options.limit_ns);
	first_planned = now_ns();
	run(signals);
	print_result(stdout, options.work);
	return count_of_failures() ? EXIT_FAILED : EXIT_DONE;
}
