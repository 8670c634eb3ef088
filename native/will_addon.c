/* The last will for JavaScript: checks arguments, and calls will.c. */
#include "addon.h"
#include "will.h"

#include <limits.h>
#include <unistd.h>

#ifdef __linux__
#include <sys/syscall.h>
#endif

/* When a worker thread ends, nothing else could cancel its will, and this code may be unloaded with the last thread that uses
 * it. The main thread ends with the process, and that is the death that the will waits for. */
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

/* The only argument of a function: an integer from 0. */
static int get_one(napi_env env, napi_callback_info info, const char *name, int most, int *value)
{
	napi_value argument;

	return addon_arguments(env, info, 1, &argument) && addon_integer(env, argument, name, 0, most, value);
}

/* The arguments of willHandOut and willTakeBack: (fds, count). */
static napi_value call_with_fds(napi_env env, napi_callback_info info, int (*function)(const int *fds, size_t count))
{
	napi_value arguments[2];
	int *fds, count;

	if (!addon_arguments(env, info, 2, arguments) || !addon_integer(env, arguments[1], "count", 0, INT_MAX, &count) ||
	    !addon_integers(env, arguments[0], "fds", (size_t)count, &fds))
		return NULL;
	return addon_number(env, function(fds, (size_t)count));
}

/* willOpen() */
static napi_value open_will(napi_env env, napi_callback_info info)
{
	(void)info;
	int result = will_open();
	if (result == 0 && !is_main_thread())
		CHECK(env, napi_add_env_cleanup_hook(env, on_environment_end, NULL));
	return addon_number(env, result);
}

/* willCancel() */
static napi_value cancel(napi_env env, napi_callback_info info)
{
	(void)info;
	if (!is_main_thread())
		CHECK(env, napi_remove_env_cleanup_hook(env, on_environment_end, NULL));
	will_cancel();
	return addon_number(env, 0);
}

/* willPid() */
static napi_value pid(napi_env env, napi_callback_info info)
{
	(void)info;
	return addon_number(env, (int)will_pid());
}

/* willAddListener(id, fd) */
static napi_value add_listener(napi_env env, napi_callback_info info)
{
	napi_value arguments[2];
	int id, fd;

	if (!addon_arguments(env, info, 2, arguments) ||
	    !addon_integer(env, arguments[0], "id", 0, WILL_MAX_LISTENER_ID, &id) ||
	    !addon_fd(env, arguments[1], &fd))
		return NULL;
	return addon_number(env, will_add_listener(id, fd));
}

/* willRemoveListener(id) */
static napi_value remove_listener(napi_env env, napi_callback_info info)
{
	int id;
	return get_one(env, info, "id", WILL_MAX_LISTENER_ID, &id) ? addon_number(env, will_remove_listener(id)) : NULL;
}

/* willCloseFirst(fd) */
static napi_value close_first(napi_env env, napi_callback_info info)
{
	int fd;
	return get_one(env, info, "fd", INT_MAX, &fd) ? addon_number(env, will_close_first(fd)) : NULL;
}

/* willSetChannel(fd, flags, listeners, count) */
static napi_value set_channel(napi_env env, napi_callback_info info)
{
	napi_value arguments[4];
	int fd, flags, *listeners, listener_count;

	if (!addon_arguments(env, info, 4, arguments) || !addon_fd(env, arguments[0], &fd) ||
	    !addon_integer(env, arguments[1], "flags", 0, WILL_IS_READY | WILL_IS_PLAIN, &flags) ||
	    !addon_integer(env, arguments[3], "count", 0, INT_MAX, &listener_count) ||
	    !addon_integers(env, arguments[2], "listeners", (size_t)listener_count, &listeners))
		return NULL;
	return addon_number(env, will_set_channel(fd, flags, listeners, (size_t)listener_count));
}

/* willHandOut(fds, count) */
static napi_value hand_out(napi_env env, napi_callback_info info)
{
	return call_with_fds(env, info, will_hand_out);
}

/* willTakeBack(fds, count) */
static napi_value take_back(napi_env env, napi_callback_info info)
{
	return call_with_fds(env, info, will_take_back);
}

napi_status addon_define_will(napi_env env, napi_value exports)
{
	static const struct addon_function functions[] = {
		{"willOpen", open_will},
		{"willCancel", cancel},
		{"willPid", pid},
		{"willAddListener", add_listener},
		{"willRemoveListener", remove_listener},
		{"willCloseFirst", close_first},
		{"willSetChannel", set_channel},
		{"willHandOut", hand_out},
		{"willTakeBack", take_back},
	};

	return addon_define(env, exports, functions, sizeof functions / sizeof functions[0]);
}
