/* The last will for JavaScript: checks arguments, and calls will.c. */
#include "addon.h"
#include "will.h"

#include <limits.h>
#include <unistd.h>

#ifdef __linux__
#include <sys/syscall.h>
#endif

/* A thread that ends leaves the will of the process to nobody who could cancel it; and the code of this addon may go with
 * the last thread that has loaded it. The main thread ends with the process, which is what the will is for. */
static void on_environment_end(void *data)
{
	(void)data;
	will_cancel();
}

static int is_main_thread(void)
{
#ifdef __linux__
	return getpid() == (pid_t)syscall(SYS_gettid);
#else
	return 1;
#endif
}

static napi_value integer(napi_env env, int value)
{
	napi_value result;
	CHECK(env, napi_create_int32(env, value, &result));
	return result;
}

/* The argument of a function that has one: an integer from 0. */
static int get_one(napi_env env, napi_callback_info info, const char *name, int most, int *value)
{
	size_t count = 1;
	napi_value argument;

	if (napi_get_cb_info(env, info, &count, &argument, NULL, NULL) == napi_ok)
		return addon_integer(env, argument, name, 0, most, value);
	addon_throw_failed(env, "napi_get_cb_info");
	return 0;
}

/* willOpen() */
static napi_value open_will(napi_env env, napi_callback_info info)
{
	(void)info;
	int result = will_open();
	if (result == 0 && !is_main_thread())
		CHECK(env, napi_add_env_cleanup_hook(env, on_environment_end, NULL));
	return integer(env, result);
}

/* willCancel() */
static napi_value cancel(napi_env env, napi_callback_info info)
{
	(void)info;
	if (!is_main_thread())
		CHECK(env, napi_remove_env_cleanup_hook(env, on_environment_end, NULL));
	will_cancel();
	return integer(env, 0);
}

/* willPid() */
static napi_value pid(napi_env env, napi_callback_info info)
{
	(void)info;
	return integer(env, (int)will_pid());
}

/* willAddListener(id, fd) */
static napi_value add_listener(napi_env env, napi_callback_info info)
{
	size_t count = 2;
	napi_value arguments[2];
	int id, fd;

	CHECK(env, napi_get_cb_info(env, info, &count, arguments, NULL, NULL));
	if (!addon_integer(env, arguments[0], "id", 0, WILL_MAX_LISTENER_ID, &id) ||
	    !addon_integer(env, arguments[1], "fd", 0, INT_MAX, &fd))
		return NULL;
	return integer(env, will_add_listener(id, fd));
}

/* willRemoveListener(id) */
static napi_value remove_listener(napi_env env, napi_callback_info info)
{
	int id;
	return get_one(env, info, "id", WILL_MAX_LISTENER_ID, &id) ? integer(env, will_remove_listener(id)) : NULL;
}

/* willCloseFirst(fd) */
static napi_value close_first(napi_env env, napi_callback_info info)
{
	int fd;
	return get_one(env, info, "fd", INT_MAX, &fd) ? integer(env, will_close_first(fd)) : NULL;
}

/* willSetChannel(fd, flags, listeners, count) */
static napi_value set_channel(napi_env env, napi_callback_info info)
{
	size_t count = 4;
	napi_value arguments[4];
	int fd, flags, *listeners, listener_count;

	CHECK(env, napi_get_cb_info(env, info, &count, arguments, NULL, NULL));
	if (!addon_integer(env, arguments[0], "fd", 0, INT_MAX, &fd) ||
	    !addon_integer(env, arguments[1], "flags", 0, WILL_IS_READY | WILL_IS_PLAIN, &flags) ||
	    !addon_integer(env, arguments[3], "count", 0, INT_MAX, &listener_count) ||
	    !addon_integers(env, arguments[2], "listeners", (size_t)listener_count, &listeners))
		return NULL;
	return integer(env, will_set_channel(fd, flags, listeners, (size_t)listener_count));
}

/* willTakeBack(fds, count) */
static napi_value take_back(napi_env env, napi_callback_info info)
{
	size_t count = 2;
	napi_value arguments[2];
	int *fds, fd_count;

	CHECK(env, napi_get_cb_info(env, info, &count, arguments, NULL, NULL));
	if (!addon_integer(env, arguments[1], "count", 0, INT_MAX, &fd_count) ||
	    !addon_integers(env, arguments[0], "fds", (size_t)fd_count, &fds))
		return NULL;
	return integer(env, will_take_back(fds, (size_t)fd_count));
}

/* willHandOut(fds, count) */
static napi_value hand_out(napi_env env, napi_callback_info info)
{
	size_t count = 2;
	napi_value arguments[2];
	int *fds, fd_count;

	CHECK(env, napi_get_cb_info(env, info, &count, arguments, NULL, NULL));
	if (!addon_integer(env, arguments[1], "count", 0, INT_MAX, &fd_count) ||
	    !addon_integers(env, arguments[0], "fds", (size_t)fd_count, &fds))
		return NULL;
	return integer(env, will_hand_out(fds, (size_t)fd_count));
}

napi_status addon_define_will(napi_env env, napi_value exports)
{
	const napi_property_descriptor functions[] = {
		{"willOpen", NULL, open_will, NULL, NULL, NULL, napi_default_jsproperty, NULL},
		{"willCancel", NULL, cancel, NULL, NULL, NULL, napi_default_jsproperty, NULL},
		{"willPid", NULL, pid, NULL, NULL, NULL, napi_default_jsproperty, NULL},
		{"willAddListener", NULL, add_listener, NULL, NULL, NULL, napi_default_jsproperty, NULL},
		{"willRemoveListener", NULL, remove_listener, NULL, NULL, NULL, napi_default_jsproperty, NULL},
		{"willCloseFirst", NULL, close_first, NULL, NULL, NULL, napi_default_jsproperty, NULL},
		{"willSetChannel", NULL, set_channel, NULL, NULL, NULL, napi_default_jsproperty, NULL},
		{"willHandOut", NULL, hand_out, NULL, NULL, NULL, napi_default_jsproperty, NULL},
		{"willTakeBack", NULL, take_back, NULL, NULL, NULL, napi_default_jsproperty, NULL},
	};
	return napi_define_properties(env, exports, sizeof functions / sizeof functions[0], functions);
}
