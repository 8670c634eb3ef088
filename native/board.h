/* A board: a page of memory that a worker and its dispatcher share. docs/protocol.md ("Direct accept") lays it out.
 *
 * The page is a memfd that is sealed at its size. Without the seals, the other process could shorten it, and every access here
 * would end in SIGBUS. Linux only; elsewhere board_create and board_map fail with -ENOSYS. */
#ifndef PASSFD_BOARD_H
#define PASSFD_BOARD_H

#include <stdint.h>

#define BOARD_BYTES 4096
#define BOARD_WORDS (BOARD_BYTES / 4)

/* What the heartbeat of an event loop writes. */
enum { BOARD_AWAKE_SINCE = 0, BOARD_TURNS = 1 };

/* A new page, all zero. Returns its descriptor, which the caller owns. */
int board_create(void);

/* Maps a page. On success the caller owns `words`, and may close the descriptor. -EINVAL: it is no memfd of this size with these
 * seals. -EACCES or -EPERM: it cannot be written. */
int board_map(int fd, int32_t **words);

void board_unmap(int32_t *words);

/* Milliseconds of CLOCK_MONOTONIC as a board has them: modulo 2^31, and never 0. */
int32_t board_time(uint64_t milliseconds);
int32_t board_clock(void);

static inline void board_write(int32_t *words, int index, int32_t value)
{
	__atomic_store_n(&words[index], value, __ATOMIC_RELEASE);
}

#endif
