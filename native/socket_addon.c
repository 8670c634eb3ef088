/* Sockets for JavaScript: checks arguments, and calls sockets.c. */
#include "addon.h"
#include "passfd.h"
#include "will.h"

#include <limits.h>

/* accept(fd, fds, capacity) */
static napi_value accept_connections(napi_env env, napi_callback_info info)
{
	napi_value arguments[3];
	int *fds;
	int fd, capacity;

	if (!addon_arguments(env, info, 3, arguments) || !addon_fd(env, arguments[0], &fd) ||
	    !addon_integer(env, arguments[2], "capacity", 1, INT_MAX, &capacity) ||
	    !addon_integers(env, arguments[1], "fds", (size_t)capacity, &fds))
		return NULL;
	return addon_number(env, will_accept(fd, fds, (size_t)capacity));
}

/* socketPair(fds) */
static napi_value socket_pair(napi_env env, napi_callback_info info)
{
	napi_value arguments[1];
	int *fds;

	if (!addon_arguments(env, info, 1, arguments) || !addon_integers(env, arguments[0], "fds", 2, &fds))
		return NULL;
	return addon_number(env, passfd_socketpair(fds));
}

/* listenUnix(name, backlog, mode) */
static napi_value listen_unix(napi_env env, napi_callback_info info)
{
	napi_value arguments[3];
	struct addon_bytes name;
	int backlog, mode;

	if (!addon_arguments(env, info, 3, arguments) || !addon_bytes(env, arguments[0], &name) ||
	    !addon_integer(env, arguments[1], "backlog", 0, INT_MAX, &backlog) ||
	    !addon_integer(env, arguments[2], "mode", 0, 0777, &mode))
		return NULL;
	return addon_number(env, passfd_listen_unix(name.data, name.length, backlog, (mode_t)mode));
}

/* connectUnix(name) */
static napi_value connect_unix(napi_env env, napi_callback_info info)
{
	napi_value arguments[1];
	struct addon_bytes name;

	if (!addon_arguments(env, info, 1, arguments) || !addon_bytes(env, arguments[0], &name))
		return NULL;
	return addon_number(env, passfd_connect_unix(name.data, name.length));
}

static int get_host(napi_env env, napi_value value, char *host)
{
	size_t length;

	if (!addon_string(env, value, "host", host, PASSFD_MAX_NAME, &length))
		return 0;
	return length < PASSFD_MAX_NAME ? 1 : addon_throw_argument(env, "host", "short enough for an address");
}

/* listenTcp(host, port, backlog, ipv6Only) */
static napi_value listen_tcp(napi_env env, napi_callback_info info)
{
	napi_value arguments[4];
	char host[PASSFD_MAX_NAME + ADDON_CUT];
	int port, backlog, ipv6_only;

	if (!addon_arguments(env, info, 4, arguments) || !get_host(env, arguments[0], host) ||
	    !addon_integer(env, arguments[1], "port", 0, 65535, &port) ||
	    !addon_integer(env, arguments[2], "backlog", 0, INT_MAX, &backlog) ||
	    !addon_integer(env, arguments[3], "ipv6Only", 0, 1, &ipv6_only))
		return NULL;
	return addon_number(env, passfd_listen_tcp(host, port, backlog, ipv6_only));
}

/* connectTcp(host, port) */
static napi_value connect_tcp(napi_env env, napi_callback_info info)
{
	napi_value arguments[2];
	char host[PASSFD_MAX_NAME + ADDON_CUT];
	int port;

	if (!addon_arguments(env, info, 2, arguments) || !get_host(env, arguments[0], host) ||
	    !addon_integer(env, arguments[1], "port", 0, 65535, &port))
		return NULL;
	return addon_number(env, passfd_connect_tcp(host, port));
}

napi_status addon_define_sockets(napi_env env, napi_value exports)
{
	static const struct addon_function functions[] = {
		{"accept", accept_connections},
		{"socketPair", socket_pair},
		{"listenUnix", listen_unix},
		{"connectUnix", connect_unix},
		{"listenTcp", listen_tcp},
		{"connectTcp", connect_tcp},
	};

	return addon_define(env, exports, functions, sizeof functions / sizeof functions[0]);
}
