/* Closing on threads: see closer.h. */
#include "closer.h"
#include "passfd.h"
#include "will.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

/* A thread only closes. Sanitizers and the C library need some of the stack. */
#define STACK_BYTES (128 * 1024)

/* A descriptor that waits. Lists hold its number + 1; 0 ends a list. */
struct item {
	int next;
	int64_t since_ms;
};

/* An account exists as long as it has descriptors that are not closed. */
struct account {
	int64_t key;
	int first, last;  /* descriptors that wait */
	int count;        /* descriptors that wait, and the one that is being closed */
	int is_busy;      /* a descriptor is being closed */
	int64_t since_ms; /* when that descriptor was queued */
	struct account *next_due;
	struct account *next, **link;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* of all below */
static pthread_cond_t is_due = PTHREAD_COND_INITIALIZER;
static struct account *accounts;
static struct account *first_due, *last_due; /* accounts with a waiting descriptor, and none that is being closed */
static int due_count, idle_count, thread_count, total;
static struct item *items; /* by the number of the descriptor */
static int item_count;

static int64_t now_ms(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static struct account *find(int64_t key)
{
	struct account *account = accounts;
	while (account && account->key != key)
		account = account->next;
	return account;
}

static struct account *open_account(int64_t key)
{
	struct account *account = find(key);
	if (account)
		return account;
	account = calloc(1, sizeof *account);
	if (!account)
		return NULL;
	account->key = key;
	account->next = accounts;
	account->link = &accounts;
	if (accounts)
		accounts->link = &account->next;
	accounts = account;
	return account;
}

static void end_account(struct account *account)
{
	*account->link = account->next;
	if (account->next)
		account->next->link = account->link;
	free(account);
}

static void make_due(struct account *account)
{
	account->next_due = NULL;
	if (last_due)
		last_due->next_due = account;
	else
		first_due = account;
	last_due = account;
	due_count++;
}

static struct account *take_due(void)
{
	struct account *account = first_due;
	first_due = account->next_due;
	if (!first_due)
		last_due = NULL;
	due_count--;
	return account;
}

static int make_room(int fd)
{
	if (fd < item_count)
		return 1;
	int wanted = item_count > fd / 2 ? item_count * 2 : fd + 64;
	struct item *larger = realloc(items, (size_t)wanted * sizeof *items);
	if (!larger)
		return 0;
	items = larger;
	item_count = wanted;
	return 1;
}

static void add(struct account *account, int fd)
{
	items[fd] = (struct item){.since_ms = now_ms()};
	if (account->last)
		items[account->last - 1].next = fd + 1;
	else
		account->first = fd + 1;
	account->last = fd + 1;
	account->count++;
	total++;
}

static int take(struct account *account)
{
	int fd = account->first - 1;
	account->first = items[fd].next;
	if (!account->first)
		account->last = 0;
	account->since_ms = items[fd].since_ms;
	return fd;
}

static void *run(void *argument)
{
	(void)argument;
	pthread_mutex_lock(&lock);
	for (;;) {
		while (due_count == 0) {
			idle_count++;
			pthread_cond_wait(&is_due, &lock);
			idle_count--;
		}
		struct account *account = take_due();
		int fd = take(account);
		account->is_busy = 1;
		pthread_mutex_unlock(&lock);
		close(fd);
		pthread_mutex_lock(&lock);
		account->is_busy = 0;
		account->count--;
		total--;
		if (account->first)
			make_due(account);
		else
			end_account(account);
	}
	return NULL;
}

/* If it fails, the running threads or the next call close what waits. */
static void start_thread(void)
{
	pthread_attr_t attributes;
	pthread_t thread;
	sigset_t all, before;

	if (pthread_attr_init(&attributes) != 0)
		return;
	pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&attributes, STACK_BYTES);
	/* Signals of the process are for other threads. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	if (pthread_create(&thread, &attributes, run, NULL) == 0)
		thread_count++;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_attr_destroy(&attributes);
}

int closer_close(int fd, int64_t key)
{
	/* Checked here, because a thread could not report it. */
	if (fcntl(fd, F_GETFD) < 0)
		return -EBADF;
	/* Now, and not right before the close: from now on the will must not use the number. The mark "handed out" stays until the
	 * number is accepted or received again, so the will ignores the connection while it waits here. */
	will_before_close(fd);
	pthread_mutex_lock(&lock);
	struct account *account = make_room(fd) ? open_account(key) : NULL;
	if (!account) {
		pthread_mutex_unlock(&lock);
		close(fd);
		return 0;
	}
	add(account, fd);
	if (!account->is_busy && account->count == 1)
		make_due(account);
	if (idle_count > 0 && due_count > 0)
		pthread_cond_signal(&is_due);
	if (due_count > idle_count && thread_count < CLOSER_MAX_THREADS)
		start_thread();
	pthread_mutex_unlock(&lock);
	return 0;
}

int closer_refuse(int fd, int64_t key)
{
	if (fcntl(fd, F_GETFD) < 0)
		return -EBADF;
	return passfd_end(fd) ? will_close(fd) : closer_close(fd, key);
}

int closer_waiting(int64_t key, int64_t least_ms)
{
	int count = 0;

	pthread_mutex_lock(&lock);
	const struct account *account = find(key);
	if (account) {
		int64_t oldest = account->is_busy ? account->since_ms : items[account->first - 1].since_ms;
		if (now_ms() - oldest >= least_ms)
			count = account->count;
	}
	pthread_mutex_unlock(&lock);
	return count;
}

int closer_total(void)
{
	pthread_mutex_lock(&lock);
	int count = total;
	pthread_mutex_unlock(&lock);
	return count;
}

int closer_is_full(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur == RLIM_INFINITY)
		return 0;
	return (rlim_t)closer_total() >= limit.rlim_cur / 2;
}
