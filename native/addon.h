/* What the parts of the Node-API layer share: argument checks, and what each of them defines. */
#ifndef PASSFD_ADDON_H
#define PASSFD_ADDON_H

#include <node_api.h>

/* Leaves the function with undefined when a Node-API call fails; the exception, if there is none yet, names the call. */
#define CHECK(env, call) \
	do { \
		if ((call) != napi_ok) { \
			addon_throw_failed(env, #call); \
			return NULL; \
		} \
	} while (0)

void addon_throw_failed(napi_env env, const char *call);

/* Reads an argument that has to be an integer within [least, most]; otherwise throws a TypeError and returns 0. */
int addon_integer(napi_env env, napi_value value, const char *name, int least, int most, int *result);

/* The same for an Int32Array with room for at least this many numbers. */
int addon_integers(napi_env env, napi_value value, const char *name, size_t least, int **data);

/* Adds the Poll class, readiness on the environment's own loop, to exports. */
napi_status addon_define_poll(napi_env env, napi_value exports);

/* Adds the functions of the closer. */
napi_status addon_define_closer(napi_env env, napi_value exports);

/* Adds the functions of the last will. */
napi_status addon_define_will(napi_env env, napi_value exports);

#endif
