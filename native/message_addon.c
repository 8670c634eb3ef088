/* Messages for JavaScript: checks arguments, and calls will.c and passfd.c. */
#include "addon.h"
#include "will.h"

#include <string.h>

/* `receive` writes [count, truncated, fd, fd, ...] to its results. */
#define RESULTS_HEADER 2

/* Number.MAX_SAFE_INTEGER */
#define MAX_SAFE_INTEGER 9007199254740991.0

/* Sends as the first six arguments say. */
static napi_value send_with(napi_env env, const napi_value *arguments, const struct will_handoff *handoff)
{
	struct addon_bytes bytes;
	int *fds;
	int fd, count;

	if (!addon_fd(env, arguments[0], &fd) || !addon_bytes(env, arguments[1], &bytes) ||
	    !addon_part(env, arguments[2], arguments[3], &bytes) ||
	    !addon_integer(env, arguments[5], "count", 0, PASSFD_MAX_DESCRIPTORS, &count) ||
	    !addon_integers(env, arguments[4], "fds", (size_t)count, &fds))
		return NULL;
	return addon_number(env, will_send(fd, bytes.data, bytes.length, fds, (size_t)count, handoff));
}

/* send(fd, bytes, offset, length, fds, count) */
static napi_value send_message(napi_env env, napi_callback_info info)
{
	napi_value arguments[6];

	return addon_arguments(env, info, 6, arguments) ? send_with(env, arguments, NULL) : NULL;
}

/* sendHandoff(fd, bytes, offset, length, fds, count, position, listener) */
static napi_value send_handoff(napi_env env, napi_callback_info info)
{
	napi_value arguments[8];
	struct will_handoff handoff;
	double position;

	if (!addon_arguments(env, info, 8, arguments) ||
	    !addon_integer(env, arguments[7], "listener", 0, WILL_MAX_LISTENER_ID, &handoff.listener))
		return NULL;
	if (napi_get_value_double(env, arguments[6], &position) != napi_ok || !(position >= 1 && position <= MAX_SAFE_INTEGER) ||
	    position != (double)(uint64_t)position) {
		addon_throw_argument(env, "position", "a safe integer from 1");
		return NULL;
	}
	handoff.position = (uint64_t)position;
	return send_with(env, arguments, &handoff);
}

/* sendDatagram(name, bytes, fds, count) */
static napi_value send_datagram(napi_env env, napi_callback_info info)
{
	napi_value arguments[4];
	struct addon_bytes name, bytes;
	int *fds;
	int count;

	if (!addon_arguments(env, info, 4, arguments) || !addon_bytes(env, arguments[0], &name) ||
	    !addon_bytes(env, arguments[1], &bytes) ||
	    !addon_integer(env, arguments[3], "count", 0, PASSFD_MAX_DESCRIPTORS, &count) ||
	    !addon_integers(env, arguments[2], "fds", (size_t)count, &fds))
		return NULL;
	return addon_number(env, passfd_send_datagram(name.data, name.length, bytes.data, bytes.length, fds, (size_t)count));
}

/* receive(fd, bytes, offset, length, results) */
static napi_value receive_message(napi_env env, napi_callback_info info)
{
	napi_value arguments[5];
	struct addon_bytes bytes;
	int *results;
	struct passfd_received received;
	int fd;

	if (!addon_arguments(env, info, 5, arguments) || !addon_fd(env, arguments[0], &fd) ||
	    !addon_bytes(env, arguments[1], &bytes) || !addon_part(env, arguments[2], arguments[3], &bytes) ||
	    !addon_integers(env, arguments[4], "results", RESULTS_HEADER + PASSFD_MAX_DESCRIPTORS, &results))
		return NULL;
	ssize_t length = will_receive(fd, bytes.data, bytes.length, &received);
	results[0] = (int)received.count;
	results[1] = received.truncated;
	memcpy(results + RESULTS_HEADER, received.fds, received.count * sizeof(int));
	return addon_number(env, length);
}

/* receiveBytes(fd, bytes, offset, length, results) */
static napi_value receive_bytes(napi_env env, napi_callback_info info)
{
	napi_value arguments[5];
	struct addon_bytes bytes;
	int *results;
	int fd;

	if (!addon_arguments(env, info, 5, arguments) || !addon_fd(env, arguments[0], &fd) ||
	    !addon_bytes(env, arguments[1], &bytes) || !addon_part(env, arguments[2], arguments[3], &bytes) ||
	    !addon_integers(env, arguments[4], "results", RESULTS_HEADER, &results))
		return NULL;
	results[0] = 0;
	results[1] = 0;
	return addon_number(env, passfd_receive_bytes(fd, bytes.data, bytes.length, &results[1]));
}

/* peek(fd, bytes) */
static napi_value peek(napi_env env, napi_callback_info info)
{
	napi_value arguments[2];
	struct addon_bytes bytes;
	int fd;

	if (!addon_arguments(env, info, 2, arguments) || !addon_fd(env, arguments[0], &fd) ||
	    !addon_bytes(env, arguments[1], &bytes))
		return NULL;
	return addon_number(env, passfd_peek(fd, bytes.data, bytes.length));
}

napi_status addon_define_messages(napi_env env, napi_value exports)
{
	static const struct addon_function functions[] = {
		{"send", send_message},
		{"sendDatagram", send_datagram},
		{"sendHandoff", send_handoff},
		{"receive", receive_message},
		{"receiveBytes", receive_bytes},
		{"peek", peek},
	};

	return addon_define(env, exports, functions, sizeof functions / sizeof functions[0]);
}
