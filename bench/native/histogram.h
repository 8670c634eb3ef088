/* How durations spread: a log-linear histogram, as HdrHistogram's. Each power of two has 128 equal parts, so a figure read
 * from it is within 0.4 % of the true one, and counting takes no memory. */
#ifndef BENCH_HISTOGRAM_H
#define BENCH_HISTOGRAM_H

#include <math.h>
#include <stdint.h>

#define HISTOGRAM_PART_BITS 7
#define HISTOGRAM_PARTS (1 << HISTOGRAM_PART_BITS)
/* Longer ones count as so long: 2^40 ns are 18 minutes. */
#define HISTOGRAM_MAX ((UINT64_C(1) << 40) - 1)
#define HISTOGRAM_BUCKETS ((40 - HISTOGRAM_PART_BITS + 1) * HISTOGRAM_PARTS)

/* All zero: empty. */
struct histogram {
	uint64_t total;
	uint64_t max;
	uint32_t buckets[HISTOGRAM_BUCKETS];
};

/* What is below 256 has a bucket of its own for each value. */
static inline unsigned histogram_shift(uint64_t value)
{
	return value < 2 * HISTOGRAM_PARTS ? 0 : 63 - (unsigned)__builtin_clzll(value) - HISTOGRAM_PART_BITS;
}

static inline void histogram_count(struct histogram *histogram, uint64_t value)
{
	uint64_t bounded = value > HISTOGRAM_MAX ? HISTOGRAM_MAX : value;
	unsigned shift = histogram_shift(bounded);

	histogram->buckets[(shift << HISTOGRAM_PART_BITS) + (bounded >> shift)]++;
	histogram->total++;
	if (value > histogram->max)
		histogram->max = value;
}

/* The middle of the values that one bucket stands for. */
static inline double histogram_value(unsigned bucket)
{
	if (bucket < 2 * HISTOGRAM_PARTS)
		return bucket;
	unsigned shift = (bucket >> HISTOGRAM_PART_BITS) - 1;
	uint64_t least = (uint64_t)(bucket - (shift << HISTOGRAM_PART_BITS)) << shift;
	return (double)least + (double)((UINT64_C(1) << shift) - 1) / 2;
}

/* The value that this share of all (0.5: the median) does not exceed; NAN where nothing was counted. */
static inline double histogram_quantile(const struct histogram *histogram, double share)
{
	uint64_t rank = (uint64_t)ceil(share * (double)histogram->total);
	uint64_t seen = 0;

	for (unsigned bucket = 0; bucket < HISTOGRAM_BUCKETS; bucket++) {
		seen += histogram->buckets[bucket];
		if (seen > 0 && seen >= rank)
			return fmin(histogram_value(bucket), (double)histogram->max);
	}
	return NAN;
}

#endif
