/* What the histogram of the load generator promises: checked by itself, with every promise an exit code that is not 0. */
#include "histogram.h"

#include <inttypes.h>
#include <stdio.h>

#define TOLERANCE 0.004

static struct histogram histogram;

static int is_near(double value, double wanted)
{
	return fabs(value - wanted) <= wanted * TOLERANCE + 0.5;
}

static int fail(const char *what, uint64_t value, double found)
{
	printf("%s: %" PRIu64 " became %f\n", what, value, found);
	return 1;
}

/* Every value finds itself again, each alone in an empty histogram. */
static int check_value(uint64_t value)
{
	static struct histogram alone;
	unsigned shift = histogram_shift(value);
	unsigned bucket = (shift << HISTOGRAM_PART_BITS) + (unsigned)(value >> shift);

	histogram_count(&alone, value);
	double found = histogram_value(bucket);
	int is_counted = alone.buckets[bucket] == 1;
	alone.buckets[bucket] = 0;
	return is_counted && is_near(found, (double)value) ? 0 : fail("value", value, found);
}

static int check_quantile(double share, double wanted)
{
	double found = histogram_quantile(&histogram, share);
	return is_near(found, wanted) ? 0 : fail("quantile", (uint64_t)wanted, found);
}

int main(void)
{
	if (!isnan(histogram_quantile(&histogram, 0.5)))
		return fail("empty", 0, histogram_quantile(&histogram, 0.5));
	for (uint64_t value = 0; value < 100000; value++)
		if (check_value(value))
			return 1;
	for (uint64_t value = 100000; value <= HISTOGRAM_MAX; value += value / 1000)
		if (check_value(value))
			return 1;
	if (check_value(HISTOGRAM_MAX))
		return 1;

	for (uint64_t value = 1; value <= 1000000; value++)
		histogram_count(&histogram, value);
	if (check_quantile(0.5, 500000) || check_quantile(0.99, 990000) || check_quantile(0.999, 999000) ||
	    check_quantile(1, 1000000))
		return 1;
	/* One that takes longer than the longest is the longest, and its true length is not lost. */
	histogram_count(&histogram, HISTOGRAM_MAX * 2);
	if (histogram.max != HISTOGRAM_MAX * 2 || histogram.total != 1000001)
		return fail("longest", HISTOGRAM_MAX * 2, (double)histogram.max);
	return check_quantile(1, (double)HISTOGRAM_MAX);
}
