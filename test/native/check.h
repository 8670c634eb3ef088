/* A small test harness. Each test is a promise, kept in a process of its own: it may change limits, users and
 * directories, and has to leave the descriptors as it found them. */
#ifndef CHECK_H
#define CHECK_H

#include <stddef.h>
#include <sys/types.h>

/* TEST("sends two descriptors with one byte") { ... } */
#define TEST(promise) TEST_NUMBERED(promise, __COUNTER__)
#define TEST_NUMBERED(promise, number) TEST_DEFINED(promise, number)
#define TEST_DEFINED(promise, number) \
	static void test_##number(void); \
	__attribute__((constructor)) static void register_test_##number(void) \
	{ \
		register_test(promise, test_##number); \
	} \
	static void test_##number(void)

/* The first expectation that does not hold ends the test. */
#define EXPECT(condition) expect((condition) ? 1 : 0, #condition, __FILE__, __LINE__)
#define EXPECT_EQUAL(actual, wanted) \
	expect_equal((long long)(actual), (long long)(wanted), #actual, #wanted, __FILE__, __LINE__)

/* Ends the test: it cannot be run here. */
_Noreturn void skip(const char *reason);

void register_test(const char *promise, void (*body)(void));
void expect(int holds, const char *condition, const char *file, int line);
void expect_equal(long long actual, long long wanted, const char *actual_text, const char *wanted_text,
                  const char *file, int line);

struct snapshot {
	char text[65536]; /* a line for each open descriptor: its number and what it is */
};

void take_snapshot(struct snapshot *snapshot);

/* The numbers of the descriptors that a program started by exec finds open, as text. */
void descriptors_after_exec(char *text, size_t size);

/* The current directory becomes a new one, which goes with the test. Others may enter it. */
void enter_temporary_directory(void);

/* Lowers RLIMIT_NOFILE so that exactly this many more descriptors can be opened. */
void leave_room_for(int descriptors);
void restore_limit(void);

/* Waits for a fact: until poll(2) says one of these events; POLLHUP and POLLERR always count. Returns what it said. */
int wait_for(int fd, int events);

int is_open(int fd);
int is_close_on_exec(int fd);
int is_same_file(int one, int other);

/* A new file without a name. */
int new_file(void);

/* A descriptor whose last copy can be waited for: `watch` hangs up when it is closed. */
int new_watched(int *watch);
int is_held(int watch);

/* A connection whose send queue is full and that lingers; `peer` does not read. */
int new_lingering(int seconds, int *peer);

/* The next this many calls fail with this error, without being made. close(2) is made and fails. */
void fail_accepts(int error, int times);
void fail_listens(int error, int times);
void fail_closes(int error, int times);
void fail_sends(int error, int times);

/* The next sendmsg(2) kills this process, before or after the call. */
enum death { DEATH_NEVER, DEATH_BEFORE, DEATH_BEHIND };
void die_in_send(enum death when);

/* The next close(2) kills this process before it is made. */
void die_in_close(void);

/* Is called after each close(2) of this thread: the number is free then, and no other code knows it. */
void call_after_close(void (*body)(void));

#endif
