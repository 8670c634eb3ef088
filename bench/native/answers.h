/* What is asked and answered in a benchmark: the same for every contestant.
 *
 * http: any request gets status 200 and a body of 7 bytes, the worker's label.
 * raw: the 7 bytes "request" get the label; the connection stays open until the client ends it.
 * bulk: the 7 bytes "bulkGET" get as many bytes as were agreed on, the byte at position i (from 0) being i % 251, and the
 *       end. 251 is prime, so bytes that are lost, or come twice, or in another order, show.
 *
 * The label is "w" and the number of the worker in 6 digits. */
#ifndef BENCH_ANSWERS_H
#define BENCH_ANSWERS_H

#include <stddef.h>
#include <stdint.h>

#define REQUEST "request"
#define BULK_REQUEST "bulkGET"
#define REQUEST_BYTES 7
#define LABEL_BYTES 7
#define MAX_WORKER 999999

#define BULK_PERIOD 251
#define BULK_BYTES_DEFAULT (UINT64_C(1) << 30)
#define MAX_BULK_BYTES (UINT64_C(1) << 50)

/* What is to be sent or was received at a time, from any position on, stands in BULK_CHUNK + BULK_PERIOD bytes. */
#define BULK_CHUNK ((size_t)256 * 1024)

static inline void fill_bulk(unsigned char *bytes, size_t length)
{
	for (size_t i = 0; i < length; i++)
		bytes[i] = (unsigned char)(i % BULK_PERIOD);
}

#endif
