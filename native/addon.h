/* What the files of the Node-API layer share: checks of arguments, and the function that each file defines. */
#ifndef PASSFD_ADDON_H
#define PASSFD_ADDON_H

#include <node_api.h>

/* Returns undefined from the function when a Node-API call fails. If no exception is pending, it throws one that names the call. */
#define CHECK(env, call) \
	do { \
		if ((call) != napi_ok) { \
			addon_throw_failed(env, #call); \
			return NULL; \
		} \
	} while (0)

void addon_throw_failed(napi_env env, const char *call);

/* The checks below return 1. On a wrong argument they throw a TypeError and return 0. */

int addon_throw_argument(napi_env env, const char *name, const char *wanted);

/* The first `count` arguments. Missing ones are undefined. */
int addon_arguments(napi_env env, napi_callback_info info, size_t count, napi_value *arguments);

/* An integer within [least, most]. */
int addon_integer(napi_env env, napi_value value, const char *name, int least, int most, int *result);

int addon_fd(napi_env env, napi_value value, int *fd);

/* An Int32Array with room for at least this many numbers. */
int addon_integers(napi_env env, napi_value value, const char *name, size_t least, int **data);

struct addon_bytes {
	char *data;
	size_t length;
};

/* A Uint8Array. */
int addon_bytes(napi_env env, napi_value value, struct addon_bytes *bytes);

/* Narrows bytes to [offset, offset + length), at least one byte, which must be inside. */
int addon_part(napi_env env, napi_value offset, napi_value length, struct addon_bytes *bytes);

/* A string without NUL, read into room + ADDON_CUT bytes. A longer string is cut between two characters. Its length then is
 * `room` or more, which the caller has to check. */
#define ADDON_CUT 4
int addon_string(napi_env env, napi_value value, const char *name, char *string, size_t room, size_t *length);

/* The result of a function. */
napi_value addon_number(napi_env env, int64_t value);

struct addon_function {
	const char *name;
	napi_callback callback;
};

/* Adds functions to exports. */
napi_status addon_define(napi_env env, napi_value exports, const struct addon_function *functions, size_t count);

/* Each adds the functions of one file. */
napi_status addon_define_messages(napi_env env, napi_value exports);
napi_status addon_define_sockets(napi_env env, napi_value exports);
napi_status addon_define_descriptors(napi_env env, napi_value exports);

/* The class Poll: readiness on the event loop of the environment. */
napi_status addon_define_poll(napi_env env, napi_value exports);

napi_status addon_define_closer(napi_env env, napi_value exports);

/* Boards, and the heartbeat of the event loop of the environment. */
napi_status addon_define_board(napi_env env, napi_value exports);

napi_status addon_define_will(napi_env env, napi_value exports);

#endif
