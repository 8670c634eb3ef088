/* What a process and the executor of its last will share: see will.h. The process writes; the executor reads it when the
 * process is dead. Death can come between any two instructions, so whatever is more than one store has a flag, which is
 * set behind it and cleared before it. */
#ifndef PASSFD_WILL_STATE_H
#define PASSFD_WILL_STATE_H

#include "passfd.h"
#include "will.h"

#include <poll.h>
#include <stdatomic.h>

/* Marks of descriptors. */
#define WILL_HANDED 1      /* handed out: whoever got it has it */
#define WILL_CHANNEL 2     /* a registered channel */
#define WILL_MID_FRAME 4   /* a channel on which a part of a message may have been sent */
#define WILL_CLOSE_FIRST 8 /* in the list of those to be closed first */

/* Descriptors in one HANDOFF (docs/protocol.md). */
#define WILL_MAX_BATCH 252

#define WILL_MAX_ADDRESS 128 /* struct sockaddr_storage */

/* Node has some hundreds. What does not fit is kept. */
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

/* What the executor works with. It is here because its stack is small. */
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
	uintptr_t thread;  /* somewhere in its memory */
	uintptr_t stack, stack_end;
	int mapping_count;
	struct will_mapping mappings[WILL_MAX_MAPPINGS]; /* what the executor gives back */
	atomic_int close_first[WILL_MAX_CLOSE_FIRST]; /* descriptor + 1 */
	struct will_listener listeners[WILL_MAX_LISTENERS];
	struct will_channel channels[WILL_MAX_CHANNELS];
	struct will_intent intent;
	atomic_uchar marks[WILL_MAX_DESCRIPTORS];
	struct will_work work;
};

/* Tells the executor that the thread that made it is gone, though its process may not be. A number that nobody uses:
 * glibc has its own signals at the lower end of the real-time ones. */
#define WILL_SIGNAL 62

#if defined(__linux__) && ((defined(__x86_64__) && !defined(__ILP32__)) || defined(__aarch64__))
#define WILL_IS_SUPPORTED 1

/* The executor: runs in a process of its own, and ends it. */
_Noreturn void will_execute(struct will_state *state);
#endif

#endif
