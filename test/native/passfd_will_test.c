/* The last will: in each test a dispatcher, which is a process of its own, dies. The test plays its clients and workers. */
#include "../../native/passfd.h"
#include "../../native/will.h"
#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define LISTENER 7
#define OTHER_LISTENER 300
#define CHANNELS 3
#define CLIENTS 6

/* Rounds in which the dispatcher dies at a random moment; their clients; and the connections in one hand-off. */
#define ROUNDS 100
#define CROWD 300
#define BATCH 3

/* Longer than any message that the kernel takes as a whole. */
#define LONG_MESSAGE 60000

static const char greeting[] = "\0\0\0\x13{\"type\":\"orphaned\"}";

static struct {
	int listener;
	int workers[CHANNELS], channels[CHANNELS]; /* the two ends */
	int clients[CLIENTS];
	int accepted[CLIENTS]; /* in the dispatcher */
} scene;

static void make_channels(void)
{
	for (int i = 0; i < CHANNELS; i++) {
		int ends[2];
		EXPECT_EQUAL(passfd_socketpair(ends), 0);
		scene.workers[i] = ends[0];
		scene.channels[i] = ends[1];
	}
}

/* A listening socket, with clients that wait in its backlog. */
static void make_clients(const char *host)
{
	struct passfd_address address;
	scene.listener = passfd_listen_tcp(strchr(host, ':') ? "::" : "127.0.0.1", 0, CLIENTS, 0);
	if (scene.listener == -EAFNOSUPPORT || scene.listener == -EADDRNOTAVAIL)
		skip("this machine has no IPv6");
	EXPECT(scene.listener >= 0);
	EXPECT_EQUAL(passfd_address(scene.listener, 0, &address), 0);
	for (int i = 0; i < CLIENTS; i++) {
		scene.clients[i] = passfd_connect_tcp(i % 2 ? host : "127.0.0.1", address.port);
		EXPECT(scene.clients[i] >= 0);
		wait_for(scene.clients[i], POLLOUT);
		EXPECT_EQUAL(passfd_error(scene.clients[i]), 0);
	}
}

/* The dispatcher keeps its own ends, and accepts all clients. */
static void begin_dispatcher(void)
{
	for (int i = 0; i < CHANNELS; i++)
		close(scene.workers[i]);
	for (int i = 0; i < CLIENTS; i++)
		close(scene.clients[i]);
	EXPECT_EQUAL(setpgid(0, 0), 0);
	int result = will_open();
	if (result == -ENOSYS || result == -EPERM)
		_exit(77);
	EXPECT_EQUAL(result, 0);
	EXPECT_EQUAL(will_add_listener(LISTENER, scene.listener), 0);
	for (int i = 0; i < CLIENTS; i++) {
		wait_for(scene.listener, POLLIN);
		EXPECT_EQUAL(will_accept(scene.listener, &scene.accepted[i], 1), 1);
	}
}

static void serve_all(void)
{
	const int listeners[] = {LISTENER, OTHER_LISTENER};
	for (int i = 0; i < CHANNELS; i++)
		EXPECT_EQUAL(will_set_channel(scene.channels[i], 1, listeners, 2), 0);
}

static _Noreturn void die(void)
{
	kill(getpid(), SIGKILL);
	abort();
}

static ssize_t hand_out(int channel, int first, int count, uint64_t position)
{
	const unsigned char frame[] = {0, 0, 0, 4, 1, 0, LISTENER, (unsigned char)count};
	const struct will_handoff handoff = {position, LISTENER};
	return will_send(scene.channels[channel], frame, sizeof frame, scene.accepted + first, (size_t)count, &handoff);
}

/* Runs the dispatcher, which ends by this signal, or with 0. */
static void run_dispatcher(void (*body)(void), int signal)
{
	int status;
	fflush(stdout);
	pid_t dispatcher = fork();
	EXPECT(dispatcher >= 0);
	if (dispatcher == 0) {
		begin_dispatcher();
		body();
		_exit(0);
	}
	for (int i = 0; i < CHANNELS; i++)
		close(scene.channels[i]);
	close(scene.listener);
	EXPECT(waitpid(dispatcher, &status, 0) == dispatcher);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
		skip("there is no will on this system");
	EXPECT_EQUAL(WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status), signal);
}

/* Everything that came on a channel until its end, which comes when the executor has ended. */
struct heard {
	unsigned char bytes[LONG_MESSAGE + 1024];
	size_t length, taken; /* bytes that came, and bytes that were checked */
	int fds[CROWD * 2];
	int count, given; /* descriptors that came, and descriptors that were checked */
};

/* Waits for one message, and returns 0 at the end. */
static int hear_one(int worker, struct heard *heard)
{
	static struct passfd_received received;
	wait_for(scene.workers[worker], POLLIN);
	ssize_t got = will_receive(scene.workers[worker], heard->bytes + heard->length,
	                             sizeof heard->bytes - heard->length, &received);
	/* The other end was closed with unread data. */
	if (got == -ECONNRESET)
		return 0;
	EXPECT(got >= 0);
	EXPECT_EQUAL(received.truncated, 0);
	for (size_t i = 0; i < received.count; i++)
		heard->fds[heard->count++] = received.fds[i];
	heard->length += (size_t)got;
	return got > 0;
}

static void hear(int worker, struct heard *heard)
{
	memset(heard, 0, sizeof *heard);
	while (hear_one(worker, heard))
		continue;
	close(scene.workers[worker]);
}

static void expect_bytes(struct heard *heard, const void *bytes, size_t length)
{
	EXPECT(heard->taken + length <= heard->length);
	EXPECT(memcmp(heard->bytes + heard->taken, bytes, length) == 0);
	heard->taken += length;
}

static void expect_greeting(struct heard *heard)
{
	expect_bytes(heard, greeting, sizeof greeting - 1);
}

static void expect_handoff(struct heard *heard, int count)
{
	const unsigned char frame[] = {0, 0, 0, 4, 1, 0, LISTENER, (unsigned char)count};
	expect_bytes(heard, frame, sizeof frame);
	heard->given += count;
}

/* Everything that is left must be hand-offs. */
static void expect_handoffs(struct heard *heard)
{
	while (heard->taken < heard->length)
		expect_handoff(heard, heard->bytes[heard->taken + 7 < heard->length ? heard->taken + 7 : heard->taken]);
}

static void expect_again(struct heard *heard, unsigned char position, int count)
{
	const unsigned char frame[] = {0, 0, 0, 12, 5, 0, 0, 0, 0, 0, 0, 0, position, 0, LISTENER, (unsigned char)count};
	expect_bytes(heard, frame, sizeof frame);
	heard->given += count;
}

static void expect_no_more(struct heard *heard)
{
	EXPECT_EQUAL(heard->taken, heard->length);
	EXPECT_EQUAL(heard->given, heard->count);
}

/* The client of this connection. */
static int client_of(int fd)
{
	struct passfd_address remote, local;
	EXPECT_EQUAL(passfd_address(fd, 1, &remote), 0);
	for (int i = 0; i < CLIENTS; i++) {
		EXPECT_EQUAL(passfd_address(scene.clients[i], 0, &local), 0);
		if (local.port == remote.port)
			return i;
	}
	return -1;
}

/* Closes the descriptors that came, counts each client, and returns the number of descriptors. */
static int count_clients(struct heard *heard, int *times)
{
	for (int i = 0; i < heard->count; i++) {
		int client = client_of(heard->fds[i]);
		EXPECT(client >= 0);
		times[client]++;
		close(heard->fds[i]);
	}
	return heard->count;
}

static void end_clients(const int *times, int from, int to, int wanted)
{
	char byte;
	for (int i = from; i < to; i++) {
		EXPECT_EQUAL(times[i], wanted);
		/* No process holds it any more. */
		wait_for(scene.clients[i], POLLIN);
		EXPECT(recv(scene.clients[i], &byte, 1, 0) <= 0);
		close(scene.clients[i]);
	}
}

static void die_with_all(void)
{
	serve_all();
	die();
}

static void expect_all_given(int each)
{
	static struct heard heard;
	int times[CLIENTS] = {0};
	for (int worker = 0; worker < CHANNELS; worker++) {
		hear(worker, &heard);
		expect_greeting(&heard);
		expect_handoff(&heard, each);
		expect_no_more(&heard);
		count_clients(&heard, times);
	}
	end_clients(times, 0, CLIENTS, 1);
}

TEST("the will gives what was accepted to the channels, evenly, each connection once, and ends")
{
	make_channels();
	make_clients("127.0.0.1");
	run_dispatcher(die_with_all, SIGKILL);
	expect_all_given(CLIENTS / CHANNELS);
}

TEST("the will knows the connections of a dual-stack listener, of both families")
{
	make_channels();
	make_clients("::1");
	run_dispatcher(die_with_all, SIGKILL);
	expect_all_given(CLIENTS / CHANNELS);
}

static void close_listener_and_die(void)
{
	serve_all();
	EXPECT_EQUAL(will_close(scene.listener), 0);
	die();
}

TEST("the will knows the connections of a listening socket that was closed")
{
	make_channels();
	make_clients("127.0.0.1");
	run_dispatcher(close_listener_and_die, SIGKILL);
	expect_all_given(CLIENTS / CHANNELS);
}

static void abort_with_all(void)
{
	serve_all();
	prctl(PR_SET_DUMPABLE, 0); /* no core file in the directory of the tests */
	signal(SIGABRT, SIG_DFL);
	abort();
}

TEST("the will is executed for a process that aborts")
{
	make_channels();
	make_clients("127.0.0.1");
	run_dispatcher(abort_with_all, SIGABRT);
	expect_all_given(CLIENTS / CHANNELS);
}

static void exit_with_all(void)
{
	serve_all();
	_exit(0);
}

TEST("the will is executed for a process that exits without cancelling it")
{
	make_channels();
	make_clients("127.0.0.1");
	run_dispatcher(exit_with_all, 0);
	expect_all_given(CLIENTS / CHANNELS);
}

static void be_killed_as_group(void)
{
	serve_all();
	/* The executor leaves the process group itself, a moment after its start. */
	while (getsid(will_pid()) != will_pid())
		continue;
	kill(0, SIGKILL);
}

TEST("the will survives a signal to the process group")
{
	make_channels();
	make_clients("127.0.0.1");
	run_dispatcher(be_killed_as_group, SIGKILL);
	expect_all_given(CLIENTS / CHANNELS);
}

static void expect_none_given(void)
{
	static struct heard heard;
	const int times[CLIENTS] = {0};
	for (int worker = 0; worker < CHANNELS; worker++) {
		hear(worker, &heard);
		expect_no_more(&heard);
	}
	end_clients(times, 0, CLIENTS, 0);
}

static void cancel(void)
{
	static struct snapshot before, after;
	will_cancel();
	take_snapshot(&before);
	EXPECT_EQUAL(will_open(), 0);
	EXPECT_EQUAL(will_open(), -EALREADY);
	serve_all();
	pid_t executor = will_pid();
	EXPECT(executor > 0);
	will_cancel();
	take_snapshot(&after);
	EXPECT(strcmp(before.text, after.text) == 0);
	EXPECT_EQUAL(will_pid(), 0);
	/* No zombie is left. */
	EXPECT_EQUAL(kill(executor, 0), -1);
	EXPECT_EQUAL(errno, ESRCH);
	will_cancel();
}

TEST("a will that is cancelled does nothing, leaves nothing, and can be opened again")
{
	make_channels();
	make_clients("127.0.0.1");
	run_dispatcher(cancel, 0);
	expect_none_given();
}

static void open_again_and_die(void)
{
	EXPECT_EQUAL(hand_out(0, 0, CLIENTS, 1), 8); /* no channel of the will: they are marked */
	will_cancel();
	EXPECT_EQUAL(will_open(), 0);
	EXPECT_EQUAL(will_add_listener(LISTENER, scene.listener), 0);
	serve_all();
	die();
}

TEST("a will that is opened again knows nothing from before")
{
	static struct heard heard;
	int times[CLIENTS] = {0};
	make_channels();
	make_clients("127.0.0.1");
	run_dispatcher(open_again_and_die, SIGKILL);
	for (int worker = 0; worker < CHANNELS; worker++) {
		hear(worker, &heard);
		if (worker == 0)
			expect_handoff(&heard, CLIENTS);
		expect_greeting(&heard);
		expect_handoff(&heard, CLIENTS / CHANNELS);
		expect_no_more(&heard);
		count_clients(&heard, times);
	}
	end_clients(times, 0, CLIENTS, 2);
}

static int living[2];

static void execute_other(void)
{
	serve_all();
	dup2(living[0], STDIN_FILENO);
	execlp("cat", "cat", (char *)NULL);
	_exit(1);
}

TEST("a will ends without doing anything when its process executes another program, which lives on")
{
	int status;
	make_channels();
	make_clients("127.0.0.1");
	EXPECT_EQUAL(pipe2(living, O_CLOEXEC), 0);
	pid_t dispatcher = fork();
	if (dispatcher == 0) {
		begin_dispatcher();
		execute_other();
	}
	for (int i = 0; i < CHANNELS; i++)
		close(scene.channels[i]);
	close(scene.listener);
	close(living[0]);
	expect_none_given();
	EXPECT_EQUAL(waitpid(dispatcher, &status, WNOHANG), 0);
	close(living[1]);
	EXPECT(waitpid(dispatcher, &status, 0) == dispatcher);
	EXPECT_EQUAL(status, 0);
}

static void hand_out_some_and_die(void)
{
	serve_all();
	EXPECT_EQUAL(hand_out(0, 0, 2, 1), 8);
	EXPECT_EQUAL(hand_out(1, 2, 2, 1), 8);
	will_take_back(scene.accepted + 3, 1);
	die();
}

TEST("the will leaves what was handed out, and gives what was taken back")
{
	static struct heard heard;
	int times[CLIENTS] = {0}, given = 0;
	make_channels();
	make_clients("127.0.0.1");
	run_dispatcher(hand_out_some_and_die, SIGKILL);
	for (int worker = 0; worker < CHANNELS; worker++) {
		hear(worker, &heard);
		if (worker < 2)
			expect_handoff(&heard, 2);
		expect_greeting(&heard);
		expect_handoff(&heard, 1);
		expect_no_more(&heard);
		given += count_clients(&heard, times);
	}
	EXPECT_EQUAL(given, 2 + 2 + 3);
	EXPECT_EQUAL(times[3], 2);
	times[3] = 1;
	end_clients(times, 0, CLIENTS, 1);
}

static void die_before_close(void)
{
	serve_all();
	EXPECT_EQUAL(hand_out(0, 0, CLIENTS, 1), 8);
	die_in_close();
	will_close(scene.accepted[0]);
}

TEST("the will leaves a connection that its process was about to close, since its worker had it")
{
	static struct heard heard;
	int times[CLIENTS] = {0};
	make_channels();
	make_clients("127.0.0.1");
	run_dispatcher(die_before_close, SIGKILL);
	for (int worker = 0; worker < CHANNELS; worker++) {
		hear(worker, &heard);
		if (worker == 0)
			expect_handoff(&heard, CLIENTS);
		expect_no_more(&heard);
		count_clients(&heard, times);
	}
	end_clients(times, 0, CLIENTS, 1);
}

static void reuse_numbers_and_die(void)
{
	serve_all();
	EXPECT_EQUAL(hand_out(0, 0, 1, 1), 8);
	EXPECT_EQUAL(hand_out(0, 1, 1, 2), 8);
	/* One is closed by will_close, the other by close(2). The next descriptors get their numbers. */
	EXPECT_EQUAL(will_close(scene.accepted[0]), 0);
	close(scene.accepted[1]);
	struct passfd_address address;
	EXPECT_EQUAL(passfd_address(scene.listener, 0, &address), 0);
	for (int i = 0; i < 2; i++) {
		int client = passfd_connect_tcp("127.0.0.1", address.port), accepted;
		/* The client's number must not be one of the two. */
		EXPECT(dup2(client, 100 + i) == 100 + i);
		close(client);
		wait_for(scene.listener, POLLIN);
		EXPECT_EQUAL(will_accept(scene.listener, &accepted, 1), 1);
		EXPECT_EQUAL(accepted, scene.accepted[i]);
	}
	die();
}

TEST("the will gives a new connection that has the number of an earlier one that was handed out")
{
	static struct heard heard;
	int given = 0;
	make_channels();
	make_clients("127.0.0.1");
	run_dispatcher(reuse_numbers_and_die, SIGKILL);
	for (int worker = 0; worker < CHANNELS; worker++) {
		hear(worker, &heard);
		for (int i = 0; i < heard.count; i++)
			close(heard.fds[i]);
		given += heard.count;
	}
	EXPECT_EQUAL(given, 2 + CLIENTS);
	for (int i = 0; i < CLIENTS; i++)
		close(scene.clients[i]);
}

static sem_t number_is_free, number_is_taken;

static void wait_after_close(void)
{
	sem_post(&number_is_free);
	sem_wait(&number_is_taken);
}

static void *close_number(void *fd)
{
	call_after_close(wait_after_close);
	will_close(*(int *)fd);
	return NULL;
}

/* Another thread closes a descriptor. Before its close returns, a connection gets the number. */
static void reuse_number_of_thread_and_die(void)
{
	struct passfd_address address;
	pthread_t thread;
	serve_all();
	int number = scene.accepted[0];
	EXPECT_EQUAL(hand_out(0, 1, CLIENTS - 1, 1), 8);
	sem_init(&number_is_free, 0, 0);
	sem_init(&number_is_taken, 0, 0);
	EXPECT_EQUAL(passfd_address(scene.listener, 0, &address), 0);
	int client = passfd_connect_tcp("127.0.0.1", address.port);
	wait_for(scene.listener, POLLIN);
	EXPECT_EQUAL(pthread_create(&thread, NULL, close_number, &number), 0);
	sem_wait(&number_is_free);
	EXPECT_EQUAL(will_accept(scene.listener, &scene.accepted[0], 1), 1);
	EXPECT_EQUAL(scene.accepted[0], number);
	EXPECT_EQUAL(hand_out(0, 0, 1, CLIENTS), 8);
	sem_post(&number_is_taken);
	pthread_join(thread, NULL);
	close(client);
	die();
}

TEST("the will leaves a connection that was handed out while another thread was closing the one with its number")
{
	static struct heard heard;
	make_channels();
	make_clients("127.0.0.1");
	run_dispatcher(reuse_number_of_thread_and_die, SIGKILL);
	for (int worker = 0; worker < CHANNELS; worker++) {
		hear(worker, &heard);
		EXPECT_EQUAL(heard.count, worker == 0 ? CLIENTS : 0);
		for (int i = 0; i < heard.count; i++)
			close(heard.fds[i]);
	}
	for (int i = 0; i < CLIENTS; i++)
		close(scene.clients[i]);
}

/* LOW_LIMIT is above the numbers of the test's own descriptors, and below HIGH. */
#define LOW_LIMIT 256
#define HIGH 400

static void open_with_low_limit(void)
{
	struct rlimit limit;
	EXPECT_EQUAL(getrlimit(RLIMIT_NOFILE, &limit), 0);
	rlim_t before = limit.rlim_cur;
	EXPECT(before > HIGH + CLIENTS);
	limit.rlim_cur = LOW_LIMIT;
	EXPECT_EQUAL(setrlimit(RLIMIT_NOFILE, &limit), 0);
	will_cancel();
	EXPECT_EQUAL(will_open(), 0);
	limit.rlim_cur = before;
	EXPECT_EQUAL(setrlimit(RLIMIT_NOFILE, &limit), 0);
	EXPECT_EQUAL(will_add_listener(LISTENER, scene.listener), 0);
}

static int moved(int fd, int number)
{
	EXPECT(dup2(fd, number) == number);
	close(fd);
	return number;
}

static void hand_out_beyond_limit_and_die(void)
{
	open_with_low_limit();
	serve_all();
	for (int i = CLIENTS / 2; i < CLIENTS; i++)
		scene.accepted[i] = moved(scene.accepted[i], HIGH + i);
	EXPECT_EQUAL(hand_out(0, 0, CLIENTS, 1), 8);
	die();
}

static void hand_out_on_channel_beyond_limit_and_die(void)
{
	open_with_low_limit();
	serve_all();
	int listener = LISTENER;
	scene.channels[0] = moved(scene.channels[0], HIGH);
	EXPECT_EQUAL(will_set_channel(scene.channels[0], 1, &listener, 1), -ENOSPC);
	EXPECT_EQUAL(hand_out(0, 0, CLIENTS, 1), 8);
	die();
}

static void expect_first_has_all(void)
{
	static struct heard heard;
	int times[CLIENTS] = {0};
	for (int worker = 0; worker < CHANNELS; worker++) {
		hear(worker, &heard);
		if (worker == 0)
			expect_handoff(&heard, CLIENTS);
		expect_no_more(&heard);
		count_clients(&heard, times);
	}
	end_clients(times, 0, CLIENTS, 1);
}

TEST("the will leaves a whole batch that was handed out, even when it does not know some of its numbers")
{
	make_channels();
	make_clients("127.0.0.1");
	run_dispatcher(hand_out_beyond_limit_and_die, SIGKILL);
	expect_first_has_all();
}

TEST("the will leaves what was handed out on a channel whose number it does not know")
{
	make_channels();
	make_clients("127.0.0.1");
	run_dispatcher(hand_out_on_channel_beyond_limit_and_die, SIGKILL);
	expect_first_has_all();
}

/* The first message is sent, and the second one is interrupted. */
static void hand_out_twice_and_die(int death)
{
	EXPECT_EQUAL(hand_out(1, 0, 2, 1), 8);
	die_in_send(death);
	hand_out(1, 2, 2, 3);
}

static void die_before_send(void)
{
	serve_all();
	hand_out_twice_and_die(DEATH_BEFORE);
}

static void die_after_send(void)
{
	serve_all();
	hand_out_twice_and_die(DEATH_BEHIND);
}

static void expect_repeated(int is_sent)
{
	static struct heard heard;
	int times[CLIENTS] = {0};
	for (int worker = 0; worker < CHANNELS; worker++) {
		hear(worker, &heard);
		if (worker == 1) {
			expect_handoff(&heard, 2);
			if (is_sent)
				expect_handoff(&heard, 2);
		}
		/* The two connections that are left go to the first two workers. */
		if (worker < 2)
			expect_greeting(&heard);
		if (worker == 1)
			expect_again(&heard, 3, 2);
		if (worker < 2)
			expect_handoff(&heard, 1);
		expect_no_more(&heard);
		count_clients(&heard, times);
	}
	times[2] -= is_sent;
	times[3] -= is_sent;
	end_clients(times, 0, CLIENTS, 1);
}

TEST("the will repeats a message that its process was about to send, with its position")
{
	make_channels();
	make_clients("127.0.0.1");
	run_dispatcher(die_before_send, SIGKILL);
	expect_repeated(0);
}

TEST("the will repeats a message that its process had just sent, with its position")
{
	make_channels();
	make_clients("127.0.0.1");
	run_dispatcher(die_after_send, SIGKILL);
	expect_repeated(1);
}

static void be_plain(void)
{
	const int listeners[] = {LISTENER, OTHER_LISTENER};
	for (int i = 0; i < CHANNELS; i++)
		EXPECT_EQUAL(will_set_channel(scene.channels[i], WILL_IS_READY | WILL_IS_PLAIN, listeners, 2), 0);
}

static void die_before_plain_send(void)
{
	be_plain();
	hand_out_twice_and_die(DEATH_BEFORE);
}

static void die_after_plain_send(void)
{
	be_plain();
	hand_out_twice_and_die(DEATH_BEHIND);
}

static void expect_not_repeated(int is_sent)
{
	static struct heard heard;
	int times[CLIENTS] = {0};
	for (int worker = 0; worker < CHANNELS; worker++) {
		hear(worker, &heard);
		if (worker == 1) {
			expect_handoff(&heard, 2);
			if (is_sent)
				expect_handoff(&heard, 2);
		}
		if (worker < 2)
			expect_handoff(&heard, 1);
		expect_no_more(&heard);
		count_clients(&heard, times);
	}
	EXPECT_EQUAL(times[2], is_sent);
	EXPECT_EQUAL(times[3], is_sent);
	times[2] = times[3] = 1;
	end_clients(times, 0, CLIENTS, 1);
}

TEST("the will sends a plain worker no unknown message, and repeats no message that was not sent")
{
	make_channels();
	make_clients("127.0.0.1");
	run_dispatcher(die_before_plain_send, SIGKILL);
	expect_not_repeated(0);
}

TEST("the will sends a plain worker no unknown message, and repeats no message that was sent")
{
	make_channels();
	make_clients("127.0.0.1");
	run_dispatcher(die_after_plain_send, SIGKILL);
	expect_not_repeated(1);
}

static void die_when_plain_is_gone(void)
{
	be_plain();
	/* As if the worker had died: this process does not have the worker's end of the channel. */
	EXPECT_EQUAL(passfd_shutdown(scene.channels[1]), 0);
	die_in_send(DEATH_BEFORE);
	hand_out(1, 2, 2, 1);
}

TEST("the will gives the message of a plain worker that is gone to others")
{
	static struct heard heard;
	int times[CLIENTS] = {0};
	make_channels();
	make_clients("127.0.0.1");
	run_dispatcher(die_when_plain_is_gone, SIGKILL);
	for (int worker = 0; worker < CHANNELS; worker++) {
		hear(worker, &heard);
		count_clients(&heard, times);
	}
	end_clients(times, 0, CLIENTS, 1);
}

static void send_to_gone_and_die(void)
{
	serve_all();
	EXPECT_EQUAL(passfd_shutdown(scene.channels[0]), 0);
	die_in_send(DEATH_BEFORE);
	hand_out(0, 0, CLIENTS, 1);
}

TEST("the will gives others the message of a worker that is gone and had adopted nothing")
{
	static struct heard heard;
	int times[CLIENTS] = {0};
	make_channels();
	make_clients("127.0.0.1");
	run_dispatcher(send_to_gone_and_die, SIGKILL);
	for (int worker = 0; worker < CHANNELS; worker++) {
		hear(worker, &heard);
		if (worker > 0) {
			expect_greeting(&heard);
			expect_handoff(&heard, CLIENTS / 2);
		}
		expect_no_more(&heard);
		count_clients(&heard, times);
	}
	end_clients(times, 0, CLIENTS, 1);
}

TEST("the will gives no worker a connection that a worker which is gone may have adopted")
{
	make_channels();
	make_clients("127.0.0.1");
	EXPECT_EQUAL(send(scene.workers[0], "adopted", 7, 0), 7);
	run_dispatcher(send_to_gone_and_die, SIGKILL);
	expect_none_given();
}

static void die_with_unready(void)
{
	const int listeners[] = {LISTENER}, others[] = {OTHER_LISTENER, LISTENER + 1};
	EXPECT_EQUAL(will_set_channel(scene.channels[0], 1, listeners, 1), 0);
	EXPECT_EQUAL(will_set_channel(scene.channels[1], 1, others, 2), 0);
	EXPECT_EQUAL(will_set_channel(scene.channels[2], 0, others, 2), 0);
	EXPECT_EQUAL(will_set_channel(scene.channels[0], 0, listeners, 1), 0);
	EXPECT_EQUAL(will_set_channel(scene.channels[2], 1, listeners, 1), 0);
	die();
}

TEST("the will gives nothing to a worker that is not ready, or serves other listeners")
{
	static struct heard heard;
	int times[CLIENTS] = {0};
	make_channels();
	make_clients("127.0.0.1");
	run_dispatcher(die_with_unready, SIGKILL);
	for (int worker = 0; worker < CHANNELS; worker++) {
		hear(worker, &heard);
		if (worker == 2) {
			expect_greeting(&heard);
			expect_handoff(&heard, CLIENTS);
		}
		expect_no_more(&heard);
		count_clients(&heard, times);
	}
	end_clients(times, 0, CLIENTS, 1);
}

static void close_channels_and_die(void)
{
	serve_all();
	EXPECT_EQUAL(will_close(scene.channels[0]), 0);
	/* Another socket gets the number. */
	int ends[2];
	EXPECT_EQUAL(passfd_socketpair(ends), 0);
	EXPECT_EQUAL(ends[0], scene.channels[0]);
	EXPECT_EQUAL(will_close(scene.channels[1]), 0);
	die();
}

TEST("the will gives nothing to a closed channel, or to the next descriptor with its number")
{
	static struct heard heard;
	int times[CLIENTS] = {0};
	make_channels();
	make_clients("127.0.0.1");
	run_dispatcher(close_channels_and_die, SIGKILL);
	for (int worker = 0; worker < CHANNELS; worker++) {
		hear(worker, &heard);
		if (worker == 2) {
			expect_greeting(&heard);
			expect_handoff(&heard, CLIENTS);
		}
		expect_no_more(&heard);
		count_clients(&heard, times);
	}
	end_clients(times, 0, CLIENTS, 1);
}

static ssize_t send_plain(int channel, size_t length)
{
	static char bytes[LONG_MESSAGE];
	return will_send(scene.channels[channel], bytes, length, NULL, 0, NULL);
}

static void die_in_mid_frame(void)
{
	const int size = 4096;
	ssize_t sent;
	serve_all();
	EXPECT_EQUAL(setsockopt(scene.channels[0], SOL_SOCKET, SO_SNDBUF, &size, sizeof size), 0);
	sent = send_plain(0, LONG_MESSAGE);
	EXPECT(sent > 0 && sent < LONG_MESSAGE);
	EXPECT_EQUAL(send_plain(0, LONG_MESSAGE - (size_t)sent), -EAGAIN);
	/* The worker of this channel is dead. */
	EXPECT_EQUAL(passfd_shutdown(scene.channels[1]), 0);
	die();
}

TEST("the will skips a channel with half a message, and one whose worker is gone")
{
	static struct heard heard;
	int times[CLIENTS] = {0};
	make_channels();
	make_clients("127.0.0.1");
	run_dispatcher(die_in_mid_frame, SIGKILL);
	for (int worker = 0; worker < CHANNELS; worker++) {
		hear(worker, &heard);
		if (worker == 0) {
			EXPECT(heard.length > 0 && heard.length < LONG_MESSAGE);
			heard.taken = heard.length;
		} else if (worker == 2) {
			expect_greeting(&heard);
			expect_handoffs(&heard);
		}
		expect_no_more(&heard);
		count_clients(&heard, times);
	}
	end_clients(times, 0, CLIENTS, 1);
}

static void finish_frame_and_die(void)
{
	serve_all();
	EXPECT_EQUAL(send_plain(0, LONG_MESSAGE), LONG_MESSAGE);
	die();
}

TEST("the will uses a channel on which a long message was sent completely")
{
	static struct heard heard;
	int times[CLIENTS] = {0};
	make_channels();
	make_clients("127.0.0.1");
	run_dispatcher(finish_frame_and_die, SIGKILL);
	for (int worker = 0; worker < CHANNELS; worker++) {
		hear(worker, &heard);
		if (worker == 0)
			heard.taken = LONG_MESSAGE;
		expect_greeting(&heard);
		expect_handoff(&heard, CLIENTS / CHANNELS);
		expect_no_more(&heard);
		count_clients(&heard, times);
	}
	end_clients(times, 0, CLIENTS, 1);
}

static void fill(int channel)
{
	const int size = 4096;
	EXPECT_EQUAL(setsockopt(scene.channels[channel], SOL_SOCKET, SO_SNDBUF, &size, sizeof size), 0);
	while (send_plain(channel, 1) == 1)
		continue;
}

static void die_with_full(void)
{
	serve_all();
	fill(0);
	die();
}

TEST("the will gives others the connections for which a full channel has no room")
{
	static struct heard heard;
	int times[CLIENTS] = {0};
	make_channels();
	make_clients("127.0.0.1");
	run_dispatcher(die_with_full, SIGKILL);
	/* Worker 0 is read last, so its channel was full all the time. */
	for (int worker = CHANNELS - 1; worker >= 0; worker--) {
		hear(worker, &heard);
		if (worker == 0)
			heard.taken = heard.length;
		else
			expect_greeting(&heard);
		expect_handoffs(&heard);
		expect_no_more(&heard);
		count_clients(&heard, times);
	}
	end_clients(times, 0, CLIENTS, 1);
}

static void die_with_all_full(void)
{
	serve_all();
	for (int i = 0; i < CHANNELS; i++)
		fill(i);
	die_in_send(DEATH_BEFORE);
	hand_out(0, 0, 2, 1);
}

TEST("the will waits for a worker that reads late, and gives up on one that never reads")
{
	static struct heard heard;
	int times[CLIENTS] = {0};
	make_channels();
	make_clients("127.0.0.1");
	run_dispatcher(die_with_all_full, SIGKILL);
	/* The executor works now or soon. Only worker 1 reads, until the executor gives up. */
	hear(1, &heard);
	while (heard.taken < heard.length && heard.bytes[heard.taken + 3] != 0x13)
		heard.taken++;
	expect_greeting(&heard);
	expect_handoffs(&heard);
	expect_no_more(&heard);
	count_clients(&heard, times);
	for (int worker = 0; worker < CHANNELS; worker += 2) {
		hear(worker, &heard);
		EXPECT_EQUAL(heard.count, 0);
	}
	end_clients(times, 0, 2, 0);
	end_clients(times, 2, CLIENTS, 1);
}

static void die_without_listener(void)
{
	serve_all();
	will_remove_listener(LISTENER);
	die();
}

TEST("the will gives no connection of a removed listener")
{
	make_channels();
	make_clients("127.0.0.1");
	run_dispatcher(die_without_listener, SIGKILL);
	expect_none_given();
}

TEST("the will knows the connections of a Unix listener by its path, and of no other")
{
	static struct heard heard;
	int channel[2], clients[2], status;
	enter_temporary_directory();
	EXPECT_EQUAL(passfd_socketpair(channel), 0);
	int listener = passfd_listen_unix("wanted", 6, 2, 0600), other = passfd_listen_unix("other", 5, 2, 0600);
	EXPECT(listener >= 0 && other >= 0);
	clients[0] = passfd_connect_unix("wanted", 6);
	clients[1] = passfd_connect_unix("other", 5);
	EXPECT(clients[0] >= 0 && clients[1] >= 0);
	EXPECT_EQUAL(send(clients[0], "hello", 5, 0), 5);
	pid_t dispatcher = fork();
	if (dispatcher == 0) {
		const int listeners[] = {LISTENER};
		int accepted;
		close(channel[0]);
		EXPECT_EQUAL(will_open(), 0);
		EXPECT_EQUAL(will_add_listener(LISTENER, listener), 0);
		EXPECT_EQUAL(will_set_channel(channel[1], 1, listeners, 1), 0);
		EXPECT_EQUAL(will_accept(listener, &accepted, 1), 1);
		EXPECT_EQUAL(will_accept(other, &accepted, 1), 1);
		die();
	}
	close(channel[1]);
	close(listener);
	close(other);
	EXPECT(waitpid(dispatcher, &status, 0) == dispatcher);
	EXPECT(WIFSIGNALED(status));
	scene.workers[0] = channel[0];
	hear(0, &heard);
	expect_greeting(&heard);
	expect_handoff(&heard, 1);
	expect_no_more(&heard);
	char bytes[8];
	EXPECT_EQUAL(recv(heard.fds[0], bytes, sizeof bytes, 0), 5);
	close(heard.fds[0]);
	for (int i = 0; i < 2; i++) {
		EXPECT_EQUAL(recv(clients[i], bytes, sizeof bytes, 0), 0);
		close(clients[i]);
	}
}

static int watched[2];

static void close_first_and_die(void)
{
	serve_all();
	for (int i = 0; i < CHANNELS; i++)
		fill(i);
	EXPECT_EQUAL(will_close_first(watched[0]), 0);
	EXPECT_EQUAL(will_close_first(watched[0]), 0);
	/* A number that was closed and reused is not on the list any more. */
	EXPECT_EQUAL(will_close_first(watched[1]), 0);
	int copy = dup(watched[1]);
	EXPECT_EQUAL(will_close(watched[1]), 0);
	EXPECT_EQUAL(dup(copy), watched[1]);
	close(copy);
	die();
}

TEST("the will shuts down the sockets of will_close_first before it waits for a worker")
{
	static struct heard heard;
	int times[CLIENTS] = {0}, watches[2];
	make_channels();
	make_clients("127.0.0.1");
	for (int i = 0; i < 2; i++)
		watched[i] = new_watched(&watches[i]);
	int status;
	pid_t dispatcher = fork();
	if (dispatcher == 0) {
		begin_dispatcher();
		close_first_and_die();
	}
	for (int i = 0; i < CHANNELS; i++)
		close(scene.channels[i]);
	for (int i = 0; i < 2; i++)
		close(watched[i]);
	close(scene.listener);
	EXPECT(waitpid(dispatcher, &status, 0) == dispatcher);
	wait_for(watches[0], 0);
	EXPECT(is_held(watches[1])); /* the executor still waits: no channel has room */
	for (int i = 0; i < CHANNELS; i++) {
		hear(i, &heard);
		count_clients(&heard, times);
	}
	EXPECT(!is_held(watches[1]));
	for (int i = 0; i < 2; i++)
		close(watches[i]);
	end_clients(times, 0, CLIENTS, 1);
}

/* Longer than the time limit of the executor. */
#define LINGER_SECONDS 5

/* Connects again and again until a connection is refused. */
static void wait_until_refused(const char *path)
{
	int fd;
	while ((fd = passfd_connect_unix(path, strlen(path))) != -ECONNREFUSED) {
		EXPECT(fd >= 0 || fd == -EAGAIN);
		if (fd >= 0)
			close(fd);
		poll(NULL, 0, 1);
	}
}

static int control;

static void end_control_first_and_die(void)
{
	serve_all();
	for (int i = 0; i < CHANNELS; i++)
		fill(i);
	EXPECT_EQUAL(will_close_first(control), 0);
	die();
}

TEST("the will refuses clients at a socket of will_close_first, and gives all connections, even when its backlog is slow to close")
{
	static struct heard heard;
	int times[CLIENTS] = {0}, peer, status;
	enter_temporary_directory();
	make_channels();
	make_clients("127.0.0.1");
	control = passfd_listen_unix("control", 7, 8, 0600);
	int stranger = passfd_connect_unix("control", 7), slow = new_lingering(LINGER_SECONDS, &peer);
	EXPECT(control >= 0 && stranger >= 0);
	EXPECT_EQUAL(passfd_send(stranger, "x", 1, &slow, 1), 1);
	close(slow);
	pid_t dispatcher = fork();
	if (dispatcher == 0) {
		begin_dispatcher();
		end_control_first_and_die();
	}
	for (int i = 0; i < CHANNELS; i++)
		close(scene.channels[i]);
	close(scene.listener);
	close(control);
	EXPECT(waitpid(dispatcher, &status, 0) == dispatcher);
	wait_until_refused("control");
	for (int i = 0; i < CHANNELS; i++) {
		hear(i, &heard);
		count_clients(&heard, times);
	}
	end_clients(times, 0, CLIENTS, 1);
	close(stranger);
	close(peer);
}

/* A dispatcher that accepts connections, hands out some of them, and closes those that it handed out earlier. */
static _Noreturn void dispatch_for_ever(void)
{
	const int listeners[] = {LISTENER};
	const unsigned char frame[] = {0, 0, 0, 4, 1, 0, LISTENER, BATCH};
	static int accepted[CROWD];
	uint64_t sent[CHANNELS] = {0};
	int count = 0, handed = 0, closed = 0;

	prctl(PR_SET_PDEATHSIG, SIGKILL); /* it ends with a test that fails */
	for (int i = 0; i < CHANNELS; i++)
		close(scene.workers[i]);
	EXPECT_EQUAL(will_open(), 0);
	EXPECT_EQUAL(will_add_listener(LISTENER, scene.listener), 0);
	for (int i = 0; i < CHANNELS; i++)
		EXPECT_EQUAL(will_set_channel(scene.channels[i], 1, listeners, 1), 0);
	for (int turn = 0;; turn = (turn + 1) % CHANNELS) {
		int got = count < CROWD ? will_accept(scene.listener, accepted + count, 2) : 0;
		if (got > 0)
			count += got;
		const struct will_handoff handoff = {sent[turn] + 1, LISTENER};
		if (handed + BATCH <= count &&
		    will_send(scene.channels[turn], frame, sizeof frame, accepted + handed, BATCH, &handoff) > 0) {
			handed += BATCH;
			sent[turn] += BATCH;
		}
		if (closed + 4 * BATCH < handed)
			EXPECT_EQUAL(will_close(accepted[closed++]), 0);
	}
}

static void count_name(int fd, int *times)
{
	uint16_t name;
	wait_for(fd, POLLIN);
	EXPECT_EQUAL(recv(fd, &name, sizeof name, MSG_DONTWAIT), sizeof name);
	times[name]++;
}

/* Handles all messages as a worker does that follows docs/protocol.md. */
static void adopt(struct heard *heard, int *times)
{
	int next = 0;
	uint64_t received = 0;
	for (const unsigned char *at = heard->bytes; at < heard->bytes + heard->length; at += 4 + at[3]) {
		int count = at[4 + at[3] - 1], is_known = 0;
		if (at[4] != 1 && at[4] != 5)
			continue; /* JSON */
		if (at[4] == 5) {
			uint64_t position = 0;
			for (int i = 0; i < 8; i++)
				position = position << 8 | at[5 + i];
			is_known = position + (uint64_t)count - 1 == received;
			EXPECT(is_known || position == received + 1);
		}
		for (int i = 0; i < count; i++) {
			int fd = heard->fds[next++];
			if (!is_known)
				count_name(fd, times);
			close(fd);
		}
		received += is_known ? 0 : (uint64_t)count;
	}
	EXPECT_EQUAL(next, heard->count);
}

/* Kills the dispatcher when the workers have got this many connections. */
static void live_a_round(int until)
{
	static struct heard heard[CHANNELS];
	static int clients[CROWD];
	int times[CROWD] = {0}, got = 0, status, accepted;

	memset(heard, 0, sizeof heard);
	make_channels();
	unlink("l");
	scene.listener = passfd_listen_unix("l", 1, CROWD, 0600);
	EXPECT(scene.listener >= 0);
	for (uint16_t i = 0; i < CROWD; i++) {
		clients[i] = passfd_connect_unix("l", 1);
		EXPECT(clients[i] >= 0);
		EXPECT_EQUAL(send(clients[i], &i, sizeof i, 0), sizeof i);
	}
	pid_t dispatcher = fork();
	if (dispatcher == 0)
		dispatch_for_ever();
	for (int i = 0; i < CHANNELS; i++)
		close(scene.channels[i]);
	while (got < until) {
		struct pollfd polled[CHANNELS];
		for (int i = 0; i < CHANNELS; i++)
			polled[i] = (struct pollfd){.fd = scene.workers[i], .events = POLLIN};
		EXPECT(poll(polled, CHANNELS, -1) > 0);
		for (int i = 0; i < CHANNELS; i++) {
			int before = heard[i].count;
			EXPECT(!polled[i].revents || hear_one(i, &heard[i]));
			got += heard[i].count - before;
		}
	}
	kill(dispatcher, SIGKILL);
	EXPECT(waitpid(dispatcher, &status, 0) == dispatcher);
	for (int worker = 0; worker < CHANNELS; worker++) {
		while (hear_one(worker, &heard[worker]))
			continue;
		adopt(&heard[worker], times);
		close(scene.workers[worker]);
	}
	/* No process had accepted these connections. */
	while (will_accept(scene.listener, &accepted, 1) == 1) {
		count_name(accepted, times);
		close(accepted);
	}
	close(scene.listener);
	for (int i = 0; i < CROWD; i++) {
		close(clients[i]);
		EXPECT_EQUAL(times[i], 1);
	}
}

TEST("the will loses nothing and gives nothing twice, at any moment of accepting and sending when its process dies")
{
	int result = will_open();
	if (result == -ENOSYS || result == -EPERM)
		skip("there is no will on this system");
	will_cancel();
	enter_temporary_directory();
	for (int round = 0; round < ROUNDS; round++)
		live_a_round(1 + rand() % (CROWD - 2 * CHANNELS * BATCH));
}

TEST("without an open will, sending and closing work")
{
	int ends[2];
	const struct will_handoff handoff = {1, LISTENER};
	struct passfd_received received;
	char byte;
	EXPECT_EQUAL(passfd_socketpair(ends), 0);
	EXPECT_EQUAL(will_pid(), 0);
	EXPECT_EQUAL(will_add_listener(LISTENER, ends[0]), -ENOENT);
	EXPECT_EQUAL(will_set_channel(ends[0], 1, NULL, 0), -ENOENT);
	EXPECT_EQUAL(will_close_first(ends[0]), -ENOENT);
	EXPECT_EQUAL(will_remove_listener(LISTENER), -ENOENT);
	EXPECT_EQUAL(will_take_back(ends, 2), -ENOENT);
	will_cancel();
	EXPECT_EQUAL(will_send(ends[0], "x", 1, ends, 1, &handoff), 1);
	EXPECT_EQUAL(will_receive(ends[1], &byte, 1, &received), 1);
	EXPECT_EQUAL(received.count, 1);
	close(received.fds[0]);
	EXPECT_EQUAL(will_close(ends[0]), 0);
	EXPECT_EQUAL(will_close(ends[1]), 0);
}
