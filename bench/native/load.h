/* The parts of the load generator: what it is asked to do, how it reads answers, and what it counts. */
#ifndef BENCH_LOAD_H
#define BENCH_LOAD_H

#include <netinet/in.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum work { HTTP, KEEP_ALIVE, RAW, BULK, LATENCY, IDLE };

struct options {
	enum work work;
	struct sockaddr_in to;
	struct in_addr from;
	uint64_t limit_ns;    /* when no more is asked; 0: never */
	uint64_t count;       /* how often is asked; UINT64_MAX: until the time is up */
	uint64_t connections; /* at a time */
	uint64_t bytes;       /* of a bulk answer */
	uint64_t pause_ns;    /* between two connections of `latency` */
	uint64_t rate;        /* connections that are planned per second; 0: the next one begins when another has ended */
	uint64_t timeout_ns;  /* silence that counts as a failure */
};

/* Ends the program where they make no sense. */
struct options read_options(int argc, char **argv);
const char *name_of(enum work work);

/* The next socket is bound to the next address, from `first` on. */
void begin_sources(struct in_addr first);
int open_source(void);

/* What has come of an answer so far, from its first byte. */
enum verdict { INCOMPLETE, COMPLETE, WRONG };

/* `bytes` ends with a zero behind its `length`. A complete answer tells who gave it. */
enum verdict judge_raw(const char *bytes, size_t length, uint32_t *worker);
enum verdict judge_http(const char *bytes, size_t length, uint32_t *worker);

/* Whether these are the bytes of a bulk answer from this position on; BULK_CHUNK at most. */
int is_bulk(const unsigned char *bytes, size_t length, uint64_t position);

/* Everything is counted in memory of its own that is there from the beginning. */
void count_begun(uint64_t at);
void count_bytes(uint64_t bytes);
/* A right answer; one of bulk has no worker. */
void count_answer(uint64_t begun, uint64_t answered);
void count_worker_answer(uint32_t worker, uint64_t begun, uint64_t answered);
/* `error` is an errno, or 0; `detail` some words, or NULL. */
void count_failure(const char *what, int error, const char *detail);
uint64_t count_of_failures(void);
/* Completed or failed. */
uint64_t count_of_ended(void);

/* One line of JSON with everything that was counted. */
void print_result(FILE *file, enum work work);

#endif
