/* How the load generator reads answers: every byte of them is checked. */
#include "load.h"

#include "answers.h"

#include <string.h>

static int read_label(const char *bytes, uint32_t *worker)
{
	uint32_t number = 0;

	if (bytes[0] != 'w')
		return 0;
	for (int i = 1; i < LABEL_BYTES; i++) {
		if (bytes[i] < '0' || bytes[i] > '9')
			return 0;
		number = number * 10 + (uint32_t)(bytes[i] - '0');
	}
	*worker = number;
	return 1;
}

enum verdict judge_raw(const char *bytes, size_t length, uint32_t *worker)
{
	if (length < LABEL_BYTES)
		return INCOMPLETE;
	return length == LABEL_BYTES && read_label(bytes, worker) ? COMPLETE : WRONG;
}

enum verdict judge_http(const char *bytes, size_t length, uint32_t *worker)
{
	static const char status[] = "HTTP/1.1 200 ";
	const char *end = memmem(bytes, length, "\r\n\r\n", 4);

	if (!end)
		return INCOMPLETE;
	if (strncmp(bytes, status, sizeof status - 1) != 0)
		return WRONG;
	/* As the servers here write it. A header that only mentions it further down would be of no server here. */
	const char *size = strcasestr(bytes, "\r\nContent-Length: 7\r\n");
	if (!size || size > end)
		return WRONG;
	const char *body = end + 4;
	return judge_raw(body, length - (size_t)(body - bytes), worker);
}

int is_bulk(const unsigned char *bytes, size_t length, uint64_t position)
{
	static unsigned char expected[BULK_CHUNK + BULK_PERIOD];

	if (expected[1] == 0)
		fill_bulk(expected, sizeof expected);
	return memcmp(bytes, expected + position % BULK_PERIOD, length) == 0;
}
