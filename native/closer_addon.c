/* The closer for JavaScript: checks arguments, and calls closer.c. */
#include "addon.h"
#include "closer.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdint.h>

/* The threads of the closer run on when the last environment that has loaded this code is gone. */
static void keep_loaded(void)
{
	Dl_info self;

	if (dladdr((void *)(uintptr_t)&closer_close, &self) != 0)
		dlopen(self.dli_fname, RTLD_LAZY | RTLD_NOLOAD | RTLD_NODELETE);
}

/* Users are 32 bits wide, and unsigned; accounts of other things are negative. */
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
	size_t count = 2;
	napi_value arguments[2], result;
	int64_t account;
	int fd;

	CHECK(env, napi_get_cb_info(env, info, &count, arguments, NULL, NULL));
	if (!addon_integer(env, arguments[0], "fd", 0, INT_MAX, &fd) || !get_account(env, arguments[1], &account))
		return NULL;
	CHECK(env, napi_create_int32(env, end(fd, account), &result));
	return result;
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
	size_t count = 2;
	napi_value arguments[2], result;
	int64_t account;
	int least_ms;

	CHECK(env, napi_get_cb_info(env, info, &count, arguments, NULL, NULL));
	if (!get_account(env, arguments[0], &account) ||
	    !addon_integer(env, arguments[1], "leastMs", 0, INT_MAX, &least_ms))
		return NULL;
	CHECK(env, napi_create_int32(env, closer_waiting(account, least_ms), &result));
	return result;
}

/* closingInAll() */
static napi_value closing_in_all(napi_env env, napi_callback_info info)
{
	napi_value result;

	(void)info;
	CHECK(env, napi_create_int32(env, closer_total(), &result));
	return result;
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
	const napi_property_descriptor functions[] = {
		{"closeLater", NULL, close_later, NULL, NULL, NULL, napi_default_jsproperty, NULL},
		{"refuse", NULL, refuse, NULL, NULL, NULL, napi_default_jsproperty, NULL},
		{"closing", NULL, closing, NULL, NULL, NULL, napi_default_jsproperty, NULL},
		{"closingInAll", NULL, closing_in_all, NULL, NULL, NULL, napi_default_jsproperty, NULL},
		{"isCloserFull", NULL, is_closer_full, NULL, NULL, NULL, napi_default_jsproperty, NULL},
	};
	keep_loaded();
	return napi_define_properties(env, exports, sizeof functions / sizeof functions[0], functions);
}
