/* The memory that a process and the executor of its last will share: see will.h. The process writes it; the executor reads it
 * when the process is dead. The process can die between any two instructions, so everything that takes more than one store
 * has a flag, which is set after these stores and cleared before them. */
#ifndef PASSFD_WILL_STATE_H
#define PASSFD_WILL_STATE_H

#include "passfd.h"
#include "will.h"

#include <poll.h>
#include <stdatomic.h>

/* Marks of descriptors. */
#define WILL_HANDED 1      /* handed out: its receiver serves it */
#define WILL_CHANNEL 2     /* a registered channel */
#define WILL_MID_FRAME 4   /* a channel on which only a part of a message may have been sent */
#define WILL_CLOSE_FIRST 8 /* in the list of those to be closed first */

/* Descriptors in one HANDOFF (docs/protocol.md). */
#define WILL_MAX_BATCH 252

#define WILL_MAX_ADDRESS 128 /* struct sockaddr_storage */

/* Node has some hundreds. Mappings beyond the limit are kept. */
#define WILL_MAX_MAPPINGS 8192

struct will_mapping {
	uintptr_t start, end;
};

struct will_listener {
	atomic_int is_set;
	int id;
	uint32_t length;
	_Alignas(8) unsigned char address[WILL_MAX_ADDRESS]; /* as getsockname(2) gives it */
};

struct will_channel {
	atomic_int is_set;
	atomic_int is_ready;
	atomic_int is_plain;
	int socket;
	atomic_uchar listeners[(WILL_MAX_LISTENER_ID + 1) / 8]; /* a bit for each id */
};

struct will_intent {
	atomic_int is_set;
	int channel; /* index of the channel */
	struct will_handoff handoff;
	size_t count;
	int fds[PASSFD_MAX_DESCRIPTORS];
};

struct will_orphan {
	int fd;
	int listener; /* index of the listener */
};

/* The working memory of the executor, whose stack is small. */
struct will_work {
	unsigned char is_greeted[WILL_MAX_CHANNELS];
	unsigned char is_gone[WILL_MAX_CHANNELS];
	struct pollfd polled[WILL_MAX_CHANNELS];
	int counts[WILL_MAX_LISTENERS];
	struct will_orphan orphans[WILL_MAX_DESCRIPTORS];
};

struct will_state {
	atomic_int is_cancelled;
	int process_watch; /* a pidfd of the process */
	int signal_watch;  /* a signalfd for WILL_SIGNAL, as the executor gets it */
	int capacity;      /* descriptors below it have a mark */
	int process;
	int thread_id;     /* of the thread that makes the executor */
	uintptr_t thread;  /* an address in the memory of that thread */
	uintptr_t stack, stack_end;
	int mapping_count;
	struct will_mapping mappings[WILL_MAX_MAPPINGS]; /* the executor unmaps these */
	atomic_int close_first[WILL_MAX_CLOSE_FIRST]; /* descriptor + 1 */
	struct will_listener listeners[WILL_MAX_LISTENERS];
	struct will_channel channels[WILL_MAX_CHANNELS];
	struct will_intent intent;
	atomic_uchar marks[WILL_MAX_DESCRIPTORS];
	struct will_work work;
};

/* The executor gets it when the thread that made it has ended; the process may still live. The number is unused: glibc has its
 * own signals at the lower end of the real-time signals. */
#define WILL_SIGNAL 62

#if defined(__linux__) && ((defined(__x86_64__) && !defined(__ILP32__)) || defined(__aarch64__))
#define WILL_IS_SUPPORTED 1

/* Starts the executor. On success `started` is the memory that both processes share, until will_stop. */
int will_start(struct will_state **started);

/* Ends the executor. */
void will_stop(struct will_state *state);

/* The id of the executor; 0 when it has ended. */
pid_t will_started_pid(void);

/* The executor: runs in a process of its own, and ends it. */
_Noreturn void will_execute(struct will_state *state);
#endif

#endif
