/* The harness: runs every test in a process of its own, and reports how it ended. See check.h. */
#include "check.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define MAX_TESTS 200
#define MAX_REASON 200
#define SKIPPED 77

/* No test waits for time to pass, so a test that takes this long is stuck. */
#define SECONDS_PER_TEST 60

static struct {
	const char *promise;
	void (*body)(void);
} tests[MAX_TESTS];
static int test_count;

static char *skip_reason; /* in memory that the processes share */
static char temporary_directory[256];
static struct rlimit full_limit;

void register_test(const char *promise, void (*body)(void))
{
	if (test_count == MAX_TESTS)
		abort();
	tests[test_count].promise = promise;
	tests[test_count++].body = body;
}

static int remove_entry(const char *path, const struct stat *status, int type, struct FTW *position)
{
	(void)status;
	(void)type;
	(void)position;
	return remove(path);
}

static void remove_temporary_directory(void)
{
	if (temporary_directory[0] == '\0')
		return;
	if (chdir("/") < 0 || nftw(temporary_directory, remove_entry, 8, FTW_DEPTH | FTW_PHYS) < 0)
		printf("# %s was not removed: %s\n", temporary_directory, strerror(errno));
}

static _Noreturn void end_test(int status)
{
	restore_limit();
	remove_temporary_directory();
	fflush(stdout);
	_exit(status);
}

void skip(const char *reason)
{
	snprintf(skip_reason, MAX_REASON, "%s", reason);
	end_test(SKIPPED);
}

void expect(int holds, const char *condition, const char *file, int line)
{
	if (holds)
		return;
	printf("# %s:%d: %s does not hold (errno: %s)\n", file, line, condition, strerror(errno));
	end_test(1);
}

void expect_equal(long long actual, long long wanted, const char *actual_text, const char *wanted_text,
                  const char *file, int line)
{
	if (actual == wanted)
		return;
	printf("# %s:%d: %s is %lld, not %s, which is %lld\n", file, line, actual_text, actual, wanted_text, wanted);
	end_test(1);
}

void take_snapshot(struct snapshot *snapshot)
{
	size_t length = 0;
	DIR *directory = opendir("/proc/self/fd");

	EXPECT(directory != NULL);
	for (struct dirent *entry; (entry = readdir(directory));) {
		char target[256];
		ssize_t size = readlinkat(dirfd(directory), entry->d_name, target, sizeof target - 1);
		if (size < 0 || atoi(entry->d_name) == dirfd(directory))
			continue;
		target[size] = '\0';
		length += (size_t)snprintf(snapshot->text + length, sizeof snapshot->text - length, "%s %s\n", entry->d_name,
		                           target);
		EXPECT(length < sizeof snapshot->text);
	}
	snapshot->text[length] = '\0';
	closedir(directory);
}

static int list_descriptors(void)
{
	struct snapshot now;
	take_snapshot(&now);
	for (char *rest, *line = strtok_r(now.text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest))
		printf("%d ", atoi(line));
	return 0;
}

void descriptors_after_exec(char *text, size_t size)
{
	int output[2], status;
	size_t length = 0;
	ssize_t got;

	EXPECT(pipe2(output, O_CLOEXEC) == 0);
	pid_t child = fork();
	EXPECT(child >= 0);
	if (child == 0) {
		dup2(output[1], STDOUT_FILENO);
		execl("/proc/self/exe", "descriptors", "--list-descriptors", (char *)NULL);
		_exit(127);
	}
	close(output[1]);
	while ((got = read(output[0], text + length, size - 1 - length)) > 0)
		length += (size_t)got;
	text[length] = '\0';
	close(output[0]);
	EXPECT(waitpid(child, &status, 0) == child);
	EXPECT_EQUAL(status, 0);
}

void enter_temporary_directory(void)
{
	const char *parent = getenv("TMPDIR");
	snprintf(temporary_directory, sizeof temporary_directory, "%s/passfd-test-XXXXXX", parent ? parent : "/tmp");
	EXPECT(mkdtemp(temporary_directory) != NULL);
	EXPECT(chmod(temporary_directory, 0711) == 0);
	EXPECT(chdir(temporary_directory) == 0);
}

void leave_room_for(int descriptors)
{
	struct rlimit limit;
	int number = 0;

	EXPECT(getrlimit(RLIMIT_NOFILE, &limit) == 0);
	if (full_limit.rlim_cur == 0)
		full_limit = limit;
	/* The limit is one above the highest number that a descriptor may have. */
	for (int found = 0; found < descriptors || is_open(number); number++)
		found += !is_open(number);
	limit.rlim_cur = (rlim_t)number;
	EXPECT(setrlimit(RLIMIT_NOFILE, &limit) == 0);
}

void restore_limit(void)
{
	if (full_limit.rlim_cur != 0)
		setrlimit(RLIMIT_NOFILE, &full_limit);
}

int wait_for(int fd, int events)
{
	struct pollfd one = {.fd = fd, .events = (short)events};
	int result;
	do
		result = poll(&one, 1, -1);
	while (result < 0 && errno == EINTR);
	EXPECT_EQUAL(result, 1);
	return one.revents;
}

int is_open(int fd)
{
	return fcntl(fd, F_GETFD) >= 0;
}

int is_close_on_exec(int fd)
{
	int flags = fcntl(fd, F_GETFD);
	return flags >= 0 && (flags & FD_CLOEXEC);
}

int is_same_file(int one, int other)
{
	struct stat a, b;
	return fstat(one, &a) == 0 && fstat(other, &b) == 0 && a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

int new_file(void)
{
	int fd = memfd_create("passfd-test", MFD_CLOEXEC);
	EXPECT(fd >= 0);
	return fd;
}

int new_watched(int *watch)
{
	int ends[2];
	EXPECT(pipe2(ends, O_CLOEXEC) == 0);
	*watch = ends[0];
	return ends[1];
}

int is_held(int watch)
{
	struct pollfd one = {.fd = watch, .events = 0};
	EXPECT(poll(&one, 1, 0) >= 0);
	return !(one.revents & POLLHUP);
}

int new_lingering(int seconds, int *peer)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t size = sizeof address;
	const struct linger linger = {1, seconds};
	static char bytes[65536];
	int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	EXPECT(listener >= 0 && fd >= 0);
	EXPECT(bind(listener, (struct sockaddr *)&address, size) == 0 && listen(listener, 1) == 0);
	EXPECT(getsockname(listener, (struct sockaddr *)&address, &size) == 0);
	EXPECT(connect(fd, (struct sockaddr *)&address, size) == 0);
	*peer = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	EXPECT(*peer >= 0);
	close(listener);
	while (send(fd, bytes, sizeof bytes, MSG_DONTWAIT) > 0)
		continue;
	EXPECT_EQUAL(errno, EAGAIN);
	EXPECT(setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger) == 0);
	return fd;
}

static _Noreturn void run_body(void (*body)(void))
{
	static struct snapshot before, after;

	alarm(SECONDS_PER_TEST);
	take_snapshot(&before);
	body();
	restore_limit();
	take_snapshot(&after);
	if (strcmp(before.text, after.text) != 0) {
		printf("# it leaves other descriptors open than it found\n# before:\n%s# after:\n%s", before.text, after.text);
		end_test(1);
	}
	remove_temporary_directory();
	exit(0); /* not _exit: here the sanitizer looks for leaks */
}

static int run_test(const char *promise, void (*body)(void))
{
	int status;

	skip_reason[0] = '\0';
	fflush(stdout);
	pid_t child = fork();
	if (child < 0)
		abort();
	if (child == 0)
		run_body(body);
	while (waitpid(child, &status, 0) < 0 && errno == EINTR)
		continue;
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0) {
		printf("ok - %s\n", promise);
		return 1;
	}
	if (WIFEXITED(status) && WEXITSTATUS(status) == SKIPPED) {
		printf("skip - %s: %s\n", promise, skip_reason);
		return 1;
	}
	if (WIFSIGNALED(status))
		printf("# it is ended by signal %d%s\n", WTERMSIG(status), WTERMSIG(status) == SIGALRM ? ": it is stuck" : "");
	printf("not ok - %s\n", promise);
	return 0;
}

int main(int argc, char **argv)
{
	int failed = 0;

	if (argc > 1 && strcmp(argv[1], "--list-descriptors") == 0)
		return list_descriptors();
	skip_reason = mmap(NULL, MAX_REASON, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (skip_reason == MAP_FAILED)
		abort();
	for (int i = 0; i < test_count; i++)
		failed += !run_test(tests[i].promise, tests[i].body);
	printf("%d tests, %d failed\n", test_count, failed);
	return failed > 0;
}
