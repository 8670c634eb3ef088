/* The frame of the Node-API layer: checks of arguments, and the start of the module. The functions are in *_addon.c. They
 * check every argument, call the C function, and return its count or -errno as it is. */
#include "addon.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>

void addon_throw_failed(napi_env env, const char *call)
{
	bool is_pending = false;
	char message[160];

	if (napi_is_exception_pending(env, &is_pending) == napi_ok && is_pending)
		return;
	snprintf(message, sizeof message, "Node-API call failed: %s", call);
	napi_throw_error(env, NULL, message);
}

int addon_throw_argument(napi_env env, const char *name, const char *wanted)
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
		return addon_throw_argument(env, name, wanted);
	}
	*result = (int)number;
	return 1;
}

int addon_arguments(napi_env env, napi_callback_info info, size_t count, napi_value *arguments)
{
	/* Missing arguments are undefined, which no check accepts. */
	if (napi_get_cb_info(env, info, &count, arguments, NULL, NULL) == napi_ok)
		return 1;
	addon_throw_failed(env, "napi_get_cb_info");
	return 0;
}

int addon_fd(napi_env env, napi_value value, int *fd)
{
	return addon_integer(env, value, "fd", 0, INT_MAX, fd);
}

int addon_bytes(napi_env env, napi_value value, struct addon_bytes *bytes)
{
	napi_typedarray_type type;
	void *data;

	if (napi_get_typedarray_info(env, value, &type, &bytes->length, &data, NULL, NULL) != napi_ok ||
	    type != napi_uint8_array)
		return addon_throw_argument(env, "bytes", "a Uint8Array");
	bytes->data = data;
	return 1;
}

int addon_part(napi_env env, napi_value offset, napi_value length, struct addon_bytes *bytes)
{
	int from, count;

	if (!addon_integer(env, offset, "offset", 0, INT_MAX, &from) ||
	    !addon_integer(env, length, "length", 1, INT_MAX, &count))
		return 0;
	if ((size_t)from + (size_t)count > bytes->length)
		return addon_throw_argument(env, "offset + length", "inside bytes");
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
		return addon_throw_argument(env, name, "an Int32Array that is long enough");
	*data = found;
	return 1;
}

napi_value addon_number(napi_env env, int64_t value)
{
	napi_value result;
	CHECK(env, napi_create_int64(env, value, &result));
	return result;
}

int addon_string(napi_env env, napi_value value, const char *name, char *string, size_t room, size_t *length)
{
	if (napi_get_value_string_utf8(env, value, string, room + ADDON_CUT, length) != napi_ok || strlen(string) != *length)
		return addon_throw_argument(env, name, "a string without NUL");
	return 1;
}

napi_status addon_define(napi_env env, napi_value exports, const struct addon_function *functions, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		napi_value function;
		napi_status status =
			napi_create_function(env, functions[i].name, NAPI_AUTO_LENGTH, functions[i].callback, NULL, &function);
		if (status == napi_ok)
			status = napi_set_named_property(env, exports, functions[i].name, function);
		if (status != napi_ok)
			return status;
	}
	return napi_ok;
}

NAPI_MODULE_INIT()
{
	CHECK(env, addon_define_messages(env, exports));
	CHECK(env, addon_define_sockets(env, exports));
	CHECK(env, addon_define_descriptors(env, exports));
	CHECK(env, addon_define_poll(env, exports));
	CHECK(env, addon_define_will(env, exports));
	CHECK(env, addon_define_closer(env, exports));
	CHECK(env, addon_define_board(env, exports));
	return exports;
}
