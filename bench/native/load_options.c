/* What the load generator is asked to do: the options of its command line. */
#include "load.h"

#include "answers.h"
#include "program.h"

#include <getopt.h>
#include <string.h>

#define USAGE \
	"Usage: load --to HOST:PORT --work http|keep-alive|raw|bulk|latency|idle [--seconds S] [--count N]\n" \
	"            [--connections C] [--bytes B] [--from HOST] [--pause-us U] [--timeout-ms M] [--rate R]"

#define MAX_CONNECTIONS 1000000
#define MAX_RATE 1000000
#define NS_PER_S 1e9
#define NS_PER_MS 1000000
#define NS_PER_US 1000

static const char *const names[] = {
	[HTTP] = "http", [KEEP_ALIVE] = "keep-alive", [RAW] = "raw", [BULK] = "bulk", [LATENCY] = "latency", [IDLE] = "idle",
};

const char *name_of(enum work work)
{
	return names[work];
}

static enum work work_named(const char *name)
{
	for (size_t i = 0; i < sizeof names / sizeof *names; i++)
		if (strcmp(name, names[i]) == 0)
			return (enum work)i;
	usage_error("there is no work '%s'\n" USAGE, name);
}

/* Where nothing else is said: enough connections to keep two workers busy, and one where more would make no sense. */
static void complete(struct options *options)
{
	int is_single = options->work == BULK || options->work == LATENCY;

	if (options->connections == 0)
		options->connections = is_single ? 1 : 64;
	else if (options->work == LATENCY && options->connections != 1)
		usage_error("latency is that of one connection at a time: leave --connections out");
	if (options->rate && options->work != HTTP && options->work != RAW)
		usage_error("a rate is that of new connections: it goes with http and raw");
	if (options->work == IDLE) {
		if (options->count || options->limit_ns)
			usage_error("idle holds its connections until its input ends: it takes no --seconds and no --count");
		options->count = options->connections;
	} else if (options->work == BULK && !options->count && !options->limit_ns) {
		options->count = 1;
	} else if (!options->count && !options->limit_ns) {
		usage_error("it takes --seconds or --count\n" USAGE);
	} else if (!options->count) {
		options->count = UINT64_MAX;
	}
}

struct options read_options(int argc, char **argv)
{
	enum { TO, WORK, SECONDS, COUNT, CONNECTIONS, BYTES, FROM, PAUSE_US, TIMEOUT_MS, RATE };
	static const struct option known[] = {
		{"to", required_argument, NULL, TO},
		{"work", required_argument, NULL, WORK},
		{"seconds", required_argument, NULL, SECONDS},
		{"count", required_argument, NULL, COUNT},
		{"connections", required_argument, NULL, CONNECTIONS},
		{"bytes", required_argument, NULL, BYTES},
		{"from", required_argument, NULL, FROM},
		{"pause-us", required_argument, NULL, PAUSE_US},
		{"timeout-ms", required_argument, NULL, TIMEOUT_MS},
		{"rate", required_argument, NULL, RATE},
		{NULL, 0, NULL, 0},
	};
	struct options options = {
		.from = loopback_host("--from", "127.1.0.0"),
		.bytes = BULK_BYTES_DEFAULT,
		.pause_ns = 1000 * NS_PER_US,
		.timeout_ns = (uint64_t)10000 * NS_PER_MS,
	};
	int has_work = 0;
	int option;

	while ((option = getopt_long(argc, argv, "", known, NULL)) != -1) {
		switch (option) {
		case TO:
			options.to = loopback_address("--to", optarg);
			break;
		case WORK:
			options.work = work_named(optarg);
			has_work = 1;
			break;
		case SECONDS:
			options.limit_ns = (uint64_t)(seconds_number("--seconds", optarg) * NS_PER_S);
			break;
		case COUNT:
			options.count = whole_number("--count", optarg, 1, UINT32_MAX);
			break;
		case CONNECTIONS:
			options.connections = whole_number("--connections", optarg, 1, MAX_CONNECTIONS);
			break;
		case BYTES:
			options.bytes = whole_number("--bytes", optarg, 1, MAX_BULK_BYTES);
			break;
		case FROM:
			options.from = loopback_host("--from", optarg);
			break;
		case PAUSE_US:
			options.pause_ns = whole_number("--pause-us", optarg, 0, UINT32_MAX) * NS_PER_US;
			break;
		case TIMEOUT_MS:
			options.timeout_ns = whole_number("--timeout-ms", optarg, 1, UINT32_MAX) * NS_PER_MS;
			break;
		case RATE:
			options.rate = whole_number("--rate", optarg, 1, MAX_RATE);
			break;
		default:
			usage_error("it is called like this:\n" USAGE); /* getopt_long has said what is wrong */
		}
	}
	if (optind < argc)
		usage_error("it takes options only, not '%s'\n" USAGE, argv[optind]);
	if (options.to.sin_port == 0 || !has_work)
		usage_error("it takes --to, with a port, and --work\n" USAGE);
	complete(&options);
	return options;
}
