/* The frames of the hand-off protocol that the last will sends: docs/protocol.md. src/handoff/messages.ts encodes the same
 * frames; a test compares the bytes. Without the C library: see will_calls.h. */
#ifndef PASSFD_WILL_FRAMES_H
#define PASSFD_WILL_FRAMES_H

#include <stddef.h>
#include <stdint.h>

/* A frame is its length, in 32 bits, and the payload. Numbers are big-endian. */
#define WILL_HANDOFF_BYTES 8
#define WILL_AGAIN_BYTES 16

static const char will_orphaned[] = "\0\0\0\x13{\"type\":\"orphaned\"}";

static inline unsigned char *will_put_number(unsigned char *bytes, uint64_t number, int size)
{
	for (int at = size - 1; at >= 0; at--, number >>= 8) {
		bytes[at] = (unsigned char)number;
		/* Keeps the compiler from turning the loop into a call of the C library. */
		__asm__ volatile("" ::: "memory");
	}
	return bytes + size;
}

/* HANDOFF: 01 listener16 count8 */
static inline void will_encode_handoff(unsigned char *frame, int listener, size_t count)
{
	unsigned char *at = will_put_number(will_put_number(frame, WILL_HANDOFF_BYTES - 4, 4), 1, 1);
	will_put_number(will_put_number(at, (uint64_t)listener, 2), count, 1);
}

/* AGAIN: 05 position64 listener16 count8 */
static inline void will_encode_again(unsigned char *frame, uint64_t position, int listener, size_t count)
{
	unsigned char *at = will_put_number(will_put_number(frame, WILL_AGAIN_BYTES - 4, 4), 5, 1);
	at = will_put_number(at, position, 8);
	will_put_number(will_put_number(at, (uint64_t)listener, 2), count, 1);
}

#endif
