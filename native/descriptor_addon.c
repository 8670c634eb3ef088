/* Descriptors and processes for JavaScript: checks arguments, and calls descriptors.c, describe.c, hold.c and will.c. */
#include "addon.h"
#include "hold.h"
#include "passfd.h"
#include "will.h"

#include <errno.h>
#include <limits.h>
#include <string.h>

/* The bytes that identify a connection in JavaScript, which does not read them. */
_Static_assert(sizeof(struct passfd_identity) == 52, "IDENTITY_BYTES of src/fd/native.ts");

/* lockDirectory(path) */
static napi_value lock_directory(napi_env env, napi_callback_info info)
{
	napi_value arguments[1];
	char path[PATH_MAX + ADDON_CUT];
	size_t length;

	if (!addon_arguments(env, info, 1, arguments) ||
	    !addon_string(env, arguments[0], "path", path, PATH_MAX, &length))
		return NULL;
	/* A path that was cut is another path. */
	return addon_number(env, length < PATH_MAX ? passfd_lock_directory(path) : -ENAMETOOLONG);
}

/* lock(fd, exclusive) */
static napi_value lock_file(napi_env env, napi_callback_info info)
{
	napi_value arguments[2];
	int fd, exclusive;

	if (!addon_arguments(env, info, 2, arguments) || !addon_fd(env, arguments[0], &fd) ||
	    !addon_integer(env, arguments[1], "exclusive", 0, 1, &exclusive))
		return NULL;
	return addon_number(env, passfd_lock(fd, exclusive));
}

/* setNonblocking(fd, on) */
static napi_value set_nonblocking(napi_env env, napi_callback_info info)
{
	napi_value arguments[2];
	int fd, on;

	if (!addon_arguments(env, info, 2, arguments) || !addon_fd(env, arguments[0], &fd) ||
	    !addon_integer(env, arguments[1], "on", 0, 1, &on))
		return NULL;
	return addon_number(env, passfd_set_nonblocking(fd, on));
}

/* Functions with one descriptor. The data of each is its C function. */
static napi_value call_with_fd(napi_env env, napi_callback_info info)
{
	size_t count = 1;
	napi_value argument;
	int (*function)(int);
	void *data;
	int fd;

	CHECK(env, napi_get_cb_info(env, info, &count, &argument, NULL, &data));
	if (!addon_fd(env, argument, &fd))
		return NULL;
	memcpy(&function, &data, sizeof function);
	return addon_number(env, function(fd));
}

/* closeAll(fds, count) */
static napi_value close_all(napi_env env, napi_callback_info info)
{
	napi_value arguments[2];
	int *fds;
	int count, result = 0;

	if (!addon_arguments(env, info, 2, arguments) ||
	    !addon_integer(env, arguments[1], "count", 0, INT_MAX, &count) ||
	    !addon_integers(env, arguments[0], "fds", (size_t)count, &fds))
		return NULL;
	for (int i = 0; i < count; i++) {
		int closed = will_close(fds[i]);
		if (result == 0)
			result = closed;
	}
	return addon_number(env, result);
}

/* peer(fd, results): [pid, uid, gid] */
static napi_value peer(napi_env env, napi_callback_info info)
{
	napi_value arguments[2];
	int *results;
	struct passfd_peer who;
	int fd;

	if (!addon_arguments(env, info, 2, arguments) || !addon_fd(env, arguments[0], &fd) ||
	    !addon_integers(env, arguments[1], "results", 3, &results))
		return NULL;
	int result = passfd_peer(fd, &who);
	if (result == 0) {
		results[0] = (int)who.pid;
		results[1] = (int)who.uid;
		results[2] = (int)who.gid;
	}
	return addon_number(env, result);
}

/* address(fd, remote, results, name): results is [family, port]; name gets the host, path or abstract name; returns the
 * length of that. */
static napi_value address(napi_env env, napi_callback_info info)
{
	napi_value arguments[4];
	int *results;
	struct addon_bytes name;
	struct passfd_address found;
	int fd, remote;

	if (!addon_arguments(env, info, 4, arguments) || !addon_fd(env, arguments[0], &fd) ||
	    !addon_integer(env, arguments[1], "remote", 0, 1, &remote) ||
	    !addon_integers(env, arguments[2], "results", 2, &results) || !addon_bytes(env, arguments[3], &name))
		return NULL;
	if (name.length < PASSFD_MAX_NAME) {
		addon_throw_argument(env, "name", "long enough");
		return NULL;
	}
	int result = passfd_address(fd, remote, &found);
	if (result < 0)
		return addon_number(env, result);
	results[0] = found.family;
	results[1] = found.port;
	memcpy(name.data, found.name, found.length);
	return addon_number(env, (int64_t)found.length);
}

/* describe(fd, results): [type, family, access], numbers of the enums in passfd.h */
static napi_value describe(napi_env env, napi_callback_info info)
{
	napi_value arguments[2];
	int *results;
	struct passfd_description description;
	int fd;

	if (!addon_arguments(env, info, 2, arguments) || !addon_fd(env, arguments[0], &fd) ||
	    !addon_integers(env, arguments[1], "results", 3, &results))
		return NULL;
	int result = passfd_describe(fd, &description);
	if (result == 0) {
		results[0] = description.type;
		results[1] = description.family;
		results[2] = description.access;
	}
	return addon_number(env, result);
}

/* Arguments of identify and isHeld: a descriptor, and bytes with room for an identity. */
static int get_fd_and_identity(napi_env env, napi_callback_info info, int *fd, struct addon_bytes *identity)
{
	napi_value arguments[2];

	if (!addon_arguments(env, info, 2, arguments) || !addon_fd(env, arguments[0], fd) ||
	    !addon_bytes(env, arguments[1], identity))
		return 0;
	if (identity->length < sizeof(struct passfd_identity))
		return addon_throw_argument(env, "identity", "long enough");
	return 1;
}

/* identify(fd, identity): identity gets IDENTITY_BYTES that isHeld understands */
static napi_value identify(napi_env env, napi_callback_info info)
{
	struct passfd_identity identity;
	struct addon_bytes bytes;
	int fd;

	if (!get_fd_and_identity(env, info, &fd, &bytes))
		return NULL;
	int result = passfd_identify(fd, &identity);
	if (result == 0)
		memcpy(bytes.data, &identity, sizeof identity);
	return addon_number(env, result);
}

/* isHeld(diagnostics, identity) */
static napi_value is_held(napi_env env, napi_callback_info info)
{
	struct passfd_identity identity;
	struct addon_bytes bytes;
	int fd;

	if (!get_fd_and_identity(env, info, &fd, &bytes))
		return NULL;
	memcpy(&identity, bytes.data, sizeof identity);
	return addon_number(env, passfd_is_held(fd, &identity));
}

/* openDiagnostics() */
static napi_value open_diagnostics(napi_env env, napi_callback_info info)
{
	(void)info;
	return addon_number(env, passfd_open_diagnostics());
}

/* pidfdOpen(pid) */
static napi_value pidfd_open_of(napi_env env, napi_callback_info info)
{
	napi_value arguments[1];
	int pid;

	if (!addon_arguments(env, info, 1, arguments) || !addon_integer(env, arguments[0], "pid", 1, INT_MAX, &pid))
		return NULL;
	return addon_number(env, passfd_pidfd_open((pid_t)pid));
}

/* reap(pid) */
static napi_value reap(napi_env env, napi_callback_info info)
{
	napi_value arguments[1];
	int pid;

	if (!addon_arguments(env, info, 1, arguments) || !addon_integer(env, arguments[0], "pid", 1, INT_MAX, &pid))
		return NULL;
	return addon_number(env, passfd_reap((pid_t)pid));
}

napi_status addon_define_descriptors(napi_env env, napi_value exports)
{
	static const struct addon_function functions[] = {
		{"lockDirectory", lock_directory},
		{"lock", lock_file},
		{"setNonblocking", set_nonblocking},
		{"closeAll", close_all},
		{"peer", peer},
		{"address", address},
		{"describe", describe},
		{"identify", identify},
		{"isHeld", is_held},
		{"openDiagnostics", open_diagnostics},
		{"pidfdOpen", pidfd_open_of},
		{"reap", reap},
	};
	static const struct {
		const char *name;
		int (*function)(int);
	} functions_of_fd[] = {
		{"close", will_close},
		{"duplicate", passfd_duplicate},
		{"takeRightsOnly", passfd_take_rights_only},
		{"shutdownWrite", passfd_shutdown_write},
		{"shutdown", passfd_shutdown},
		{"setCloseOnExec", passfd_set_close_on_exec},
		{"isNonblocking", passfd_is_nonblocking},
		{"socketError", passfd_error},
		{"unread", passfd_unread},
		{"queueLength", passfd_queue_length},
		{"watchReceipts", passfd_watch_receipts},
		{"takeReceipts", passfd_take_receipts},
		{"holdBegin", hold_begin},
		{"holdEnd", hold_end},
	};
	napi_status status = addon_define(env, exports, functions, sizeof functions / sizeof functions[0]);

	for (size_t i = 0; status == napi_ok && i < sizeof functions_of_fd / sizeof functions_of_fd[0]; i++) {
		const char *name = functions_of_fd[i].name;
		napi_value function;
		void *data;

		memcpy(&data, &functions_of_fd[i].function, sizeof data);
		status = napi_create_function(env, name, NAPI_AUTO_LENGTH, call_with_fd, data, &function);
		if (status == napi_ok)
			status = napi_set_named_property(env, exports, name, function);
	}
	return status;
}
