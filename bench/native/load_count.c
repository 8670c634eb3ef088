/* What the load generator counts, and the line of JSON that tells it. */
#include "load.h"

#include "answers.h"
#include "histogram.h"
#include "program.h"

#include <inttypes.h>
#include <string.h>
#include <sys/resource.h>

/* Workers that are told apart. */
#define MAX_WORKERS 1024

/* Reasons of failures that are told, each once. */
#define MAX_REASONS 8
#define REASON_BYTES 160

struct worker {
	uint32_t number;
	struct histogram latency;
};

static struct {
	uint64_t first_begun;
	uint64_t last_answered;
	uint64_t completed;
	uint64_t failed;
	uint64_t bytes;
	struct histogram latency;
	struct worker workers[MAX_WORKERS];
	unsigned worker_count;
	uint16_t worker_of[MAX_WORKER + 1]; /* by the number in the label: 1 + its place in `workers`, or 0 */
	char reasons[MAX_REASONS][REASON_BYTES];
	unsigned reason_count;
} counts;

void count_begun(uint64_t at)
{
	if (counts.first_begun == 0)
		counts.first_begun = at;
}

void count_bytes(uint64_t bytes)
{
	counts.bytes += bytes;
}

void count_answer(uint64_t begun, uint64_t answered)
{
	counts.completed++;
	if (answered > counts.last_answered)
		counts.last_answered = answered;
	histogram_count(&counts.latency, answered - begun);
}

void count_worker_answer(uint32_t number, uint64_t begun, uint64_t answered)
{
	if (counts.worker_of[number] == 0) {
		if (counts.worker_count == MAX_WORKERS)
			die("more than %d workers answer", MAX_WORKERS);
		counts.workers[counts.worker_count++].number = number;
		counts.worker_of[number] = (uint16_t)counts.worker_count;
	}
	count_answer(begun, answered);
	histogram_count(&counts.workers[counts.worker_of[number] - 1].latency, answered - begun);
}

void count_failure(const char *what, int error, const char *detail)
{
	char reason[REASON_BYTES];

	counts.failed++;
	snprintf(reason, sizeof reason, "%s%s%s", what, error || detail ? ": " : "",
	         error ? strerror(error) : detail ? detail : "");
	for (unsigned i = 0; i < counts.reason_count; i++)
		if (strcmp(reason, counts.reasons[i]) == 0)
			return;
	if (counts.reason_count < MAX_REASONS)
		memcpy(counts.reasons[counts.reason_count++], reason, sizeof reason);
}

uint64_t count_of_failures(void)
{
	return counts.failed;
}

uint64_t count_of_ended(void)
{
	return counts.completed + counts.failed;
}

static void print_string(FILE *file, const char *text)
{
	fputc('"', file);
	for (; *text; text++) {
		unsigned char byte = (unsigned char)*text;
		if (byte == '"' || byte == '\\')
			fprintf(file, "\\%c", byte);
		else if (byte < 0x20 || byte > 0x7e)
			fprintf(file, "\\u%04x", byte);
		else
			fputc(byte, file);
	}
	fputc('"', file);
}

/* Of an empty histogram: null. */
static void print_latency(FILE *file, const struct histogram *latency)
{
	static const struct {
		const char *name;
		double share;
	} quantiles[] = {{"p50", 0.5}, {"p90", 0.9}, {"p99", 0.99}, {"p999", 0.999}};

	if (latency->total == 0) {
		fputs("null", file);
		return;
	}
	fputc('{', file);
	for (size_t i = 0; i < sizeof quantiles / sizeof *quantiles; i++)
		fprintf(file, "\"%s\":%.1f,", quantiles[i].name, histogram_quantile(latency, quantiles[i].share) / 1000);
	fprintf(file, "\"max\":%.1f}", (double)latency->max / 1000);
}

static void print_workers(FILE *file)
{
	fputs(",\"byWorker\":{", file);
	for (unsigned i = 0; i < counts.worker_count; i++)
		fprintf(file, "%s\"w%06" PRIu32 "\":%" PRIu64, i ? "," : "", counts.workers[i].number,
		        counts.workers[i].latency.total);
	fputs("},\"latencyByWorkerUs\":{", file);
	for (unsigned i = 0; i < counts.worker_count; i++) {
		fprintf(file, "%s\"w%06" PRIu32 "\":", i ? "," : "", counts.workers[i].number);
		print_latency(file, &counts.workers[i].latency);
	}
	fputc('}', file);
}

static uint64_t us_of(struct timeval time)
{
	return (uint64_t)time.tv_sec * 1000000 + (uint64_t)time.tv_usec;
}

void print_result(FILE *file, enum work work)
{
	uint64_t ns = counts.completed ? counts.last_answered - counts.first_begun : 0;
	double seconds = (double)ns / 1e9;
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	fprintf(file, "{\"type\":\"result\",\"work\":\"%s\",\"seconds\":%.6f", name_of(work), seconds);
	fprintf(file, ",\"completed\":%" PRIu64 ",\"failed\":%" PRIu64 ",\"reasons\":[", counts.completed, counts.failed);
	for (unsigned i = 0; i < counts.reason_count; i++) {
		if (i > 0)
			fputc(',', file);
		print_string(file, counts.reasons[i]);
	}
	fprintf(file, "],\"perSecond\":%.1f,\"bytes\":%" PRIu64, ns ? (double)counts.completed / seconds : 0.0, counts.bytes);
	fputs(",\"latencyUs\":", file);
	print_latency(file, &counts.latency);
	print_workers(file);
	fprintf(file, ",\"cpuUs\":{\"user\":%" PRIu64 ",\"system\":%" PRIu64 "}}\n", us_of(usage.ru_utime),
	        us_of(usage.ru_stime));
	fflush(file);
}
