/* The Node-API layer: checks every argument, calls passfd.c and will.c, and returns its counts and -errno as they are. */
#include "addon.h"
#include "hold.h"
#include "passfd.h"
#include "will.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

/* Where `receive` writes what it got: [count, truncated, fd, fd, ...]. */
#define RESULTS_HEADER 2

/* Number.MAX_SAFE_INTEGER */
#define MAX_SAFE_INTEGER 9007199254740991.0

/* The bytes that stand for a connection in JavaScript, where nobody looks into them. */
_Static_assert(sizeof(struct passfd_identity) == 52, "IDENTITY_BYTES of src/fd/native.ts");

void addon_throw_failed(napi_env env, const char *call)
{
	bool is_pending = false;
	char message[160];

	if (napi_is_exception_pending(env, &is_pending) == napi_ok && is_pending)
		return;
	snprintf(message, sizeof message, "Node-API call failed: %s", call);
	napi_throw_error(env, NULL, message);
}

static int throw_argument(napi_env env, const char *name, const char *wanted)
{
	char message[120];
	snprintf(message, sizeof message, "%s is not %s", name, wanted);
	napi_throw_type_error(env, NULL, message);
	return 0;
}

int addon_integer(napi_env env, napi_value value, const char *name, int least, int most, int *result)
{
	double number;

	if (napi_get_value_double(env, value, &number) != napi_ok || !(number >= least && number <= most) ||
	    number != (int)number) {
		char wanted[64];
		snprintf(wanted, sizeof wanted, "an integer from %d to %d", least, most);
		return throw_argument(env, name, wanted);
	}
	*result = (int)number;
	return 1;
}

static int get_arguments(napi_env env, napi_callback_info info, size_t count, napi_value *arguments)
{
	/* Missing ones come as undefined, which no check lets through. */
	if (napi_get_cb_info(env, info, &count, arguments, NULL, NULL) == napi_ok)
		return 1;
	addon_throw_failed(env, "napi_get_cb_info");
	return 0;
}

static int get_fd(napi_env env, napi_value value, int *fd)
{
	return addon_integer(env, value, "fd", 0, INT_MAX, fd);
}

struct bytes {
	char *data;
	size_t length;
};

static int get_bytes(napi_env env, napi_value value, struct bytes *bytes)
{
	napi_typedarray_type type;
	void *data;

	if (napi_get_typedarray_info(env, value, &type, &bytes->length, &data, NULL, NULL) != napi_ok ||
	    type != napi_uint8_array)
		return throw_argument(env, "bytes", "a Uint8Array");
	bytes->data = data;
	return 1;
}

/* Narrows bytes to the part that [offset, offset + length) names, which has to be at least one byte and inside. */
static int get_part(napi_env env, napi_value offset, napi_value length, struct bytes *bytes)
{
	int from, count;

	if (!addon_integer(env, offset, "offset", 0, INT_MAX, &from) ||
	    !addon_integer(env, length, "length", 1, INT_MAX, &count))
		return 0;
	if ((size_t)from + (size_t)count > bytes->length)
		return throw_argument(env, "offset + length", "inside bytes");
	bytes->data += from;
	bytes->length = (size_t)count;
	return 1;
}

int addon_integers(napi_env env, napi_value value, const char *name, size_t least, int **data)
{
	napi_typedarray_type type;
	size_t length;
	void *found;

	_Static_assert(sizeof(int) == 4, "descriptors travel in an Int32Array");
	if (napi_get_typedarray_info(env, value, &type, &length, &found, NULL, NULL) != napi_ok ||
	    type != napi_int32_array || length < least)
		return throw_argument(env, name, "an Int32Array that is long enough");
	*data = found;
	return 1;
}

static napi_value integer(napi_env env, int64_t value)
{
	napi_value result;
	CHECK(env, napi_create_int64(env, value, &result));
	return result;
}

/* Sends what the first six arguments say. */
static napi_value send_with(napi_env env, const napi_value *arguments, const struct will_handoff *handoff)
{
	struct bytes bytes;
	int *fds;
	int fd, count;

	if (!get_fd(env, arguments[0], &fd) || !get_bytes(env, arguments[1], &bytes) ||
	    !get_part(env, arguments[2], arguments[3], &bytes) ||
	    !addon_integer(env, arguments[5], "count", 0, PASSFD_MAX_DESCRIPTORS, &count) ||
	    !addon_integers(env, arguments[4], "fds", (size_t)count, &fds))
		return NULL;
	return integer(env, will_send(fd, bytes.data, bytes.length, fds, (size_t)count, handoff));
}

/* send(fd, bytes, offset, length, fds, count) */
static napi_value send_message(napi_env env, napi_callback_info info)
{
	napi_value arguments[6];

	return get_arguments(env, info, 6, arguments) ? send_with(env, arguments, NULL) : NULL;
}

/* sendHandoff(fd, bytes, offset, length, fds, count, position, listener) */
static napi_value send_handoff(napi_env env, napi_callback_info info)
{
	napi_value arguments[8];
	struct will_handoff handoff;
	double position;

	if (!get_arguments(env, info, 8, arguments) ||
	    !addon_integer(env, arguments[7], "listener", 0, WILL_MAX_LISTENER_ID, &handoff.listener))
		return NULL;
	if (napi_get_value_double(env, arguments[6], &position) != napi_ok || !(position >= 1 && position <= MAX_SAFE_INTEGER) ||
	    position != (double)(uint64_t)position) {
		throw_argument(env, "position", "a safe integer from 1");
		return NULL;
	}
	handoff.position = (uint64_t)position;
	return send_with(env, arguments, &handoff);
}

/* sendDatagram(name, bytes, fds, count) */
static napi_value send_datagram(napi_env env, napi_callback_info info)
{
	napi_value arguments[4];
	struct bytes name, bytes;
	int *fds;
	int count;

	if (!get_arguments(env, info, 4, arguments) || !get_bytes(env, arguments[0], &name) ||
	    !get_bytes(env, arguments[1], &bytes) ||
	    !addon_integer(env, arguments[3], "count", 0, PASSFD_MAX_DESCRIPTORS, &count) ||
	    !addon_integers(env, arguments[2], "fds", (size_t)count, &fds))
		return NULL;
	return integer(env, passfd_send_datagram(name.data, name.length, bytes.data, bytes.length, fds, (size_t)count));
}

/* receive(fd, bytes, offset, length, results) */
static napi_value receive_message(napi_env env, napi_callback_info info)
{
	napi_value arguments[5];
	struct bytes bytes;
	int *results;
	struct passfd_received received;
	int fd;

	if (!get_arguments(env, info, 5, arguments) || !get_fd(env, arguments[0], &fd) ||
	    !get_bytes(env, arguments[1], &bytes) || !get_part(env, arguments[2], arguments[3], &bytes) ||
	    !addon_integers(env, arguments[4], "results", RESULTS_HEADER + PASSFD_MAX_DESCRIPTORS, &results))
		return NULL;
	ssize_t length = passfd_receive(fd, bytes.data, bytes.length, &received);
	results[0] = (int)received.count;
	results[1] = received.truncated;
	memcpy(results + RESULTS_HEADER, received.fds, received.count * sizeof(int));
	return integer(env, length);
}

/* receiveBytes(fd, bytes, offset, length, results) */
static napi_value receive_bytes(napi_env env, napi_callback_info info)
{
	napi_value arguments[5];
	struct bytes bytes;
	int *results;
	int fd;

	if (!get_arguments(env, info, 5, arguments) || !get_fd(env, arguments[0], &fd) ||
	    !get_bytes(env, arguments[1], &bytes) || !get_part(env, arguments[2], arguments[3], &bytes) ||
	    !addon_integers(env, arguments[4], "results", RESULTS_HEADER, &results))
		return NULL;
	results[0] = 0;
	results[1] = 0;
	return integer(env, passfd_receive_bytes(fd, bytes.data, bytes.length, &results[1]));
}

/* peek(fd, bytes) */
static napi_value peek(napi_env env, napi_callback_info info)
{
	napi_value arguments[2];
	struct bytes bytes;
	int fd;

	if (!get_arguments(env, info, 2, arguments) || !get_fd(env, arguments[0], &fd) ||
	    !get_bytes(env, arguments[1], &bytes))
		return NULL;
	return integer(env, passfd_peek(fd, bytes.data, bytes.length));
}

/* accept(fd, fds, capacity) */
static napi_value accept_connections(napi_env env, napi_callback_info info)
{
	napi_value arguments[3];
	int *fds;
	int fd, capacity;

	if (!get_arguments(env, info, 3, arguments) || !get_fd(env, arguments[0], &fd) ||
	    !addon_integer(env, arguments[2], "capacity", 1, INT_MAX, &capacity) ||
	    !addon_integers(env, arguments[1], "fds", (size_t)capacity, &fds))
		return NULL;
	return integer(env, passfd_accept(fd, fds, (size_t)capacity));
}

/* socketPair(fds) */
static napi_value socket_pair(napi_env env, napi_callback_info info)
{
	napi_value arguments[1];
	int *fds;

	if (!get_arguments(env, info, 1, arguments) || !addon_integers(env, arguments[0], "fds", 2, &fds))
		return NULL;
	return integer(env, passfd_socketpair(fds));
}

/* listenUnix(name, backlog, mode) */
static napi_value listen_unix(napi_env env, napi_callback_info info)
{
	napi_value arguments[3];
	struct bytes name;
	int backlog, mode;

	if (!get_arguments(env, info, 3, arguments) || !get_bytes(env, arguments[0], &name) ||
	    !addon_integer(env, arguments[1], "backlog", 0, INT_MAX, &backlog) ||
	    !addon_integer(env, arguments[2], "mode", 0, 0777, &mode))
		return NULL;
	return integer(env, passfd_listen_unix(name.data, name.length, backlog, (mode_t)mode));
}

/* connectUnix(name) */
static napi_value connect_unix(napi_env env, napi_callback_info info)
{
	napi_value arguments[1];
	struct bytes name;

	if (!get_arguments(env, info, 1, arguments) || !get_bytes(env, arguments[0], &name))
		return NULL;
	return integer(env, passfd_connect_unix(name.data, name.length));
}

/* Reads a string of fewer than `room` bytes into room + CUT bytes. A longer one is cut between two characters, so what
 * is written of it still fills `room`: the length tells. */
#define CUT 4

static int get_string(napi_env env, napi_value value, const char *name, char *string, size_t room, size_t *length)
{
	if (napi_get_value_string_utf8(env, value, string, room + CUT, length) != napi_ok || strlen(string) != *length)
		return throw_argument(env, name, "a string without NUL");
	return 1;
}

static int get_host(napi_env env, napi_value value, char *host)
{
	size_t length;

	if (!get_string(env, value, "host", host, PASSFD_MAX_NAME, &length))
		return 0;
	return length < PASSFD_MAX_NAME ? 1 : throw_argument(env, "host", "short enough for an address");
}

/* listenTcp(host, port, backlog, ipv6Only) */
static napi_value listen_tcp(napi_env env, napi_callback_info info)
{
	napi_value arguments[4];
	char host[PASSFD_MAX_NAME + CUT];
	int port, backlog, ipv6_only;

	if (!get_arguments(env, info, 4, arguments) || !get_host(env, arguments[0], host) ||
	    !addon_integer(env, arguments[1], "port", 0, 65535, &port) ||
	    !addon_integer(env, arguments[2], "backlog", 0, INT_MAX, &backlog) ||
	    !addon_integer(env, arguments[3], "ipv6Only", 0, 1, &ipv6_only))
		return NULL;
	return integer(env, passfd_listen_tcp(host, port, backlog, ipv6_only));
}

/* connectTcp(host, port) */
static napi_value connect_tcp(napi_env env, napi_callback_info info)
{
	napi_value arguments[2];
	char host[PASSFD_MAX_NAME + CUT];
	int port;

	if (!get_arguments(env, info, 2, arguments) || !get_host(env, arguments[0], host) ||
	    !addon_integer(env, arguments[1], "port", 0, 65535, &port))
		return NULL;
	return integer(env, passfd_connect_tcp(host, port));
}

/* lockDirectory(path) */
static napi_value lock_directory(napi_env env, napi_callback_info info)
{
	napi_value arguments[1];
	char path[PATH_MAX + CUT];
	size_t length;

	if (!get_arguments(env, info, 1, arguments) ||
	    !get_string(env, arguments[0], "path", path, PATH_MAX, &length))
		return NULL;
	/* A path that was cut names something else. */
	return integer(env, length < PATH_MAX ? passfd_lock_directory(path) : -ENAMETOOLONG);
}

/* lock(fd, exclusive) */
static napi_value lock_file(napi_env env, napi_callback_info info)
{
	napi_value arguments[2];
	int fd, exclusive;

	if (!get_arguments(env, info, 2, arguments) || !get_fd(env, arguments[0], &fd) ||
	    !addon_integer(env, arguments[1], "exclusive", 0, 1, &exclusive))
		return NULL;
	return integer(env, passfd_lock(fd, exclusive));
}

/* setNonblocking(fd, on) */
static napi_value set_nonblocking(napi_env env, napi_callback_info info)
{
	napi_value arguments[2];
	int fd, on;

	if (!get_arguments(env, info, 2, arguments) || !get_fd(env, arguments[0], &fd) ||
	    !addon_integer(env, arguments[1], "on", 0, 1, &on))
		return NULL;
	return integer(env, passfd_set_nonblocking(fd, on));
}

/* The functions of one descriptor that return a number: the table below gives each its C function as data. */
static napi_value call_with_fd(napi_env env, napi_callback_info info)
{
	size_t count = 1;
	napi_value argument;
	int (*function)(int);
	void *data;
	int fd;

	CHECK(env, napi_get_cb_info(env, info, &count, &argument, NULL, &data));
	if (!get_fd(env, argument, &fd))
		return NULL;
	memcpy(&function, &data, sizeof function);
	return integer(env, function(fd));
}

/* closeAll(fds, count) */
static napi_value close_all(napi_env env, napi_callback_info info)
{
	napi_value arguments[2];
	int *fds;
	int count, result = 0;

	if (!get_arguments(env, info, 2, arguments) ||
	    !addon_integer(env, arguments[1], "count", 0, INT_MAX, &count) ||
	    !addon_integers(env, arguments[0], "fds", (size_t)count, &fds))
		return NULL;
	for (int i = 0; i < count; i++) {
		int closed = passfd_close(fds[i]);
		if (result == 0)
			result = closed;
	}
	return integer(env, result);
}

/* peer(fd, results): [pid, uid, gid] */
static napi_value peer(napi_env env, napi_callback_info info)
{
	napi_value arguments[2];
	int *results;
	struct passfd_peer who;
	int fd;

	if (!get_arguments(env, info, 2, arguments) || !get_fd(env, arguments[0], &fd) ||
	    !addon_integers(env, arguments[1], "results", 3, &results))
		return NULL;
	int result = passfd_peer(fd, &who);
	if (result == 0) {
		results[0] = (int)who.pid;
		results[1] = (int)who.uid;
		results[2] = (int)who.gid;
	}
	return integer(env, result);
}

/* address(fd, remote, results, name): results is [family, port]; name gets the host, path or abstract name; returns the
 * length of that. */
static napi_value address(napi_env env, napi_callback_info info)
{
	napi_value arguments[4];
	int *results;
	struct bytes name;
	struct passfd_address found;
	int fd, remote;

	if (!get_arguments(env, info, 4, arguments) || !get_fd(env, arguments[0], &fd) ||
	    !addon_integer(env, arguments[1], "remote", 0, 1, &remote) ||
	    !addon_integers(env, arguments[2], "results", 2, &results) || !get_bytes(env, arguments[3], &name))
		return NULL;
	if (name.length < PASSFD_MAX_NAME) {
		throw_argument(env, "name", "long enough");
		return NULL;
	}
	int result = passfd_address(fd, remote, &found);
	if (result < 0)
		return integer(env, result);
	results[0] = found.family;
	results[1] = found.port;
	memcpy(name.data, found.name, found.length);
	return integer(env, (int64_t)found.length);
}

/* describe(fd, results): [type, family, access], numbers of the enums in passfd.h */
static napi_value describe(napi_env env, napi_callback_info info)
{
	napi_value arguments[2];
	int *results;
	struct passfd_description description;
	int fd;

	if (!get_arguments(env, info, 2, arguments) || !get_fd(env, arguments[0], &fd) ||
	    !addon_integers(env, arguments[1], "results", 3, &results))
		return NULL;
	int result = passfd_describe(fd, &description);
	if (result == 0) {
		results[0] = description.type;
		results[1] = description.family;
		results[2] = description.access;
	}
	return integer(env, result);
}

/* Arguments of identify and isHeld: a descriptor, and bytes with room for an identity. */
static int get_fd_and_identity(napi_env env, napi_callback_info info, int *fd, struct bytes *identity)
{
	napi_value arguments[2];

	if (!get_arguments(env, info, 2, arguments) || !get_fd(env, arguments[0], fd) ||
	    !get_bytes(env, arguments[1], identity))
		return 0;
	if (identity->length < sizeof(struct passfd_identity))
		return throw_argument(env, "identity", "long enough");
	return 1;
}

/* identify(fd, identity): identity gets IDENTITY_BYTES that isHeld understands */
static napi_value identify(napi_env env, napi_callback_info info)
{
	struct passfd_identity identity;
	struct bytes bytes;
	int fd;

	if (!get_fd_and_identity(env, info, &fd, &bytes))
		return NULL;
	int result = passfd_identify(fd, &identity);
	if (result == 0)
		memcpy(bytes.data, &identity, sizeof identity);
	return integer(env, result);
}

/* isHeld(diagnostics, identity) */
static napi_value is_held(napi_env env, napi_callback_info info)
{
	struct passfd_identity identity;
	struct bytes bytes;
	int fd;

	if (!get_fd_and_identity(env, info, &fd, &bytes))
		return NULL;
	memcpy(&identity, bytes.data, sizeof identity);
	return integer(env, passfd_is_held(fd, &identity));
}

/* openDiagnostics() */
static napi_value open_diagnostics(napi_env env, napi_callback_info info)
{
	(void)info;
	return integer(env, passfd_open_diagnostics());
}

/* pidfdOpen(pid) */
static napi_value pidfd_open_of(napi_env env, napi_callback_info info)
{
	napi_value arguments[1];
	int pid;

	if (!get_arguments(env, info, 1, arguments) || !addon_integer(env, arguments[0], "pid", 1, INT_MAX, &pid))
		return NULL;
	return integer(env, passfd_pidfd_open((pid_t)pid));
}

/* reap(pid) */
static napi_value reap(napi_env env, napi_callback_info info)
{
	napi_value arguments[1];
	int pid;

	if (!get_arguments(env, info, 1, arguments) || !addon_integer(env, arguments[0], "pid", 1, INT_MAX, &pid))
		return NULL;
	return integer(env, passfd_reap((pid_t)pid));
}

static napi_status define(napi_env env, napi_value exports, const char *name, napi_callback callback, void *data)
{
	napi_value function;
	napi_status status = napi_create_function(env, name, NAPI_AUTO_LENGTH, callback, data, &function);
	return status == napi_ok ? napi_set_named_property(env, exports, name, function) : status;
}

NAPI_MODULE_INIT()
{
	static const struct {
		const char *name;
		napi_callback callback;
	} functions[] = {
		{"send", send_message},
		{"sendDatagram", send_datagram},
		{"sendHandoff", send_handoff},
		{"receive", receive_message},
		{"receiveBytes", receive_bytes},
		{"peek", peek},
		{"accept", accept_connections},
		{"socketPair", socket_pair},
		{"listenUnix", listen_unix},
		{"connectUnix", connect_unix},
		{"listenTcp", listen_tcp},
		{"connectTcp", connect_tcp},
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
		{"close", passfd_close},
		{"duplicate", passfd_duplicate},
		{"takeRightsOnly", passfd_take_rights_only},
		{"shutdownWrite", passfd_shutdown_write},
		{"shutdown", passfd_shutdown},
		{"setCloseOnExec", passfd_set_close_on_exec},
		{"isNonblocking", passfd_is_nonblocking},
		{"socketError", passfd_error},
		{"unread", passfd_unread},
		{"watchReceipts", passfd_watch_receipts},
		{"takeReceipts", passfd_take_receipts},
		{"holdBegin", hold_begin},
		{"holdEnd", hold_end},
	};

	for (size_t i = 0; i < sizeof functions / sizeof functions[0]; i++)
		CHECK(env, define(env, exports, functions[i].name, functions[i].callback, NULL));
	for (size_t i = 0; i < sizeof functions_of_fd / sizeof functions_of_fd[0]; i++) {
		void *data;
		memcpy(&data, &functions_of_fd[i].function, sizeof data);
		CHECK(env, define(env, exports, functions_of_fd[i].name, call_with_fd, data));
	}
	CHECK(env, addon_define_poll(env, exports));
	CHECK(env, addon_define_will(env, exports));
	CHECK(env, addon_define_closer(env, exports));
	return exports;
}
