/* The closer for JavaScript: checks arguments, and calls closer.c. */
#include "addon.h"
#include "closer.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdint.h>

/* The threads of the closer go on running after the last environment that loaded this code has ended. */
static void keep_loaded(void)
{
	Dl_info self;

	if (dladdr((void *)(uintptr_t)&closer_close, &self) != 0)
		dlopen(self.dli_fname, RTLD_LAZY | RTLD_NOLOAD | RTLD_NODELETE);
}

/* The account of a user is its id, of 32 bits and unsigned. Other accounts are negative. */
static int get_account(napi_env env, napi_value value, int64_t *account)
{
	double number;

	if (napi_get_value_double(env, value, &number) == napi_ok && number >= -(double)UINT32_MAX &&
	    number <= (double)UINT32_MAX && number == (double)(int64_t)number) {
		*account = (int64_t)number;
		return 1;
	}
	napi_throw_type_error(env, NULL, "account is not an integer of 32 bits and a sign");
	return 0;
}

static napi_value end_with(napi_env env, napi_callback_info info, int (*end)(int fd, int64_t account))
{
	napi_value arguments[2];
	int64_t account;
	int fd;

	if (!addon_arguments(env, info, 2, arguments) || !addon_fd(env, arguments[0], &fd) ||
	    !get_account(env, arguments[1], &account))
		return NULL;
	return addon_number(env, end(fd, account));
}

/* closeLater(fd, account) */
static napi_value close_later(napi_env env, napi_callback_info info)
{
	return end_with(env, info, closer_close);
}

/* refuse(fd, account) */
static napi_value refuse(napi_env env, napi_callback_info info)
{
	return end_with(env, info, closer_refuse);
}

/* closing(account, leastMs) */
static napi_value closing(napi_env env, napi_callback_info info)
{
	napi_value arguments[2];
	int64_t account;
	int least_ms;

	if (!addon_arguments(env, info, 2, arguments) || !get_account(env, arguments[0], &account) ||
	    !addon_integer(env, arguments[1], "leastMs", 0, INT_MAX, &least_ms))
		return NULL;
	return addon_number(env, closer_waiting(account, least_ms));
}

/* closingInAll() */
static napi_value closing_in_all(napi_env env, napi_callback_info info)
{
	(void)info;
	return addon_number(env, closer_total());
}

/* isCloserFull() */
static napi_value is_closer_full(napi_env env, napi_callback_info info)
{
	napi_value result;

	(void)info;
	CHECK(env, napi_get_boolean(env, closer_is_full() != 0, &result));
	return result;
}

napi_status addon_define_closer(napi_env env, napi_value exports)
{
	static const struct addon_function functions[] = {
		{"closeLater", close_later},
		{"refuse", refuse},
		{"closing", closing},
		{"closingInAll", closing_in_all},
		{"isCloserFull", is_closer_full},
	};

	keep_loaded();
	return addon_define(env, exports, functions, sizeof functions / sizeof functions[0]);
}
