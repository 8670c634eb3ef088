/* Poll: readiness of one descriptor, by uv_poll on the event loop of the environment (main thread or worker thread) that made it.
 * It must be closed before the descriptor.
 *
 * A Poll lives until its handle is closed AND its JavaScript object is collected, in either order. While it is started, a strong
 * reference keeps the object alive. A stopped Poll without other references is collected, with its callback. */
#include "addon.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <uv.h>

static const napi_type_tag poll_tag = {0x5c1f0a7be2d94d3aULL, 0x9e0b64c2a8f7d115ULL};

/* The element of the object that holds its callback. A named property would cost a new string for each lookup. */
enum { ON_READY = 0 };

struct environment {
	uv_loop_t *loop;
	struct poll *open; /* handles that are not closed yet */
	napi_async_cleanup_hook_handle cleanup;
	size_t closing;
	int ending;
};

struct poll {
	uv_poll_t handle; /* its data is this poll */
	struct environment *environment;
	napi_env env;
	napi_ref object; /* weak, strong while started */
	napi_async_context context;
	struct poll *next, **link;
	int started, is_closing, is_closed, is_collected;
};

static void free_when_done(struct poll *poll)
{
	if (poll->is_closed && poll->is_collected)
		free(poll);
}

static void finish_cleanup(struct environment *environment)
{
	if (environment->ending && environment->closing == 0 && environment->cleanup) {
		napi_remove_async_cleanup_hook(environment->cleanup);
		environment->cleanup = NULL;
	}
}

static void on_closed(uv_handle_t *handle)
{
	struct poll *poll = handle->data;
	struct environment *environment = poll->environment;

	poll->is_closed = 1;
	free_when_done(poll);
	environment->closing--;
	finish_cleanup(environment);
}

static void release_object(struct poll *poll)
{
	if (poll->started) {
		poll->started = 0;
		napi_reference_unref(poll->env, poll->object, NULL);
	}
}

static void close_poll(struct poll *poll)
{
	if (poll->is_closing)
		return;
	poll->is_closing = 1;
	*poll->link = poll->next;
	if (poll->next)
		poll->next->link = poll->link;
	poll->environment->closing++;
	uv_close((uv_handle_t *)&poll->handle, on_closed);
	release_object(poll);
	if (poll->context) {
		napi_async_destroy(poll->env, poll->context);
		poll->context = NULL;
	}
}

static void on_collected(napi_env env, void *data, void *hint)
{
	struct poll *poll = data;
	(void)hint;
	poll->started = 0;
	close_poll(poll);
	napi_delete_reference(env, poll->object);
	poll->is_collected = 1;
	free_when_done(poll);
}

/* When a worker thread ends, it closes its event loop, which may have no open handle then. */
static void on_environment_end(napi_async_cleanup_hook_handle handle, void *data)
{
	struct environment *environment = data;
	(void)handle;
	environment->ending = 1;
	while (environment->open)
		close_poll(environment->open);
	finish_cleanup(environment);
}

static void on_ready(uv_poll_t *handle, int status, int events)
{
	struct poll *poll = handle->data;
	napi_env env = poll->env;
	napi_handle_scope scope;
	napi_value object, callback, arguments[2];
	bool is_pending = false;

	if (napi_open_handle_scope(env, &scope) != napi_ok)
		return;
	if (napi_get_reference_value(env, poll->object, &object) == napi_ok && object &&
	    napi_get_element(env, object, ON_READY, &callback) == napi_ok &&
	    napi_create_int32(env, status, &arguments[0]) == napi_ok &&
	    napi_create_int32(env, events, &arguments[1]) == napi_ok) {
		/* libuv has stopped the handle when it reports an error. */
		if (status < 0)
			release_object(poll);
		/* Not a plain call: this function also runs nextTick and promise jobs, and restores the AsyncLocalStorage. */
		napi_make_callback(env, poll->context, object, callback, 2, arguments, NULL);
	}
	if (napi_is_exception_pending(env, &is_pending) == napi_ok && is_pending) {
		napi_value error;
		if (napi_get_and_clear_last_exception(env, &error) == napi_ok)
			napi_fatal_exception(env, error);
	}
	napi_close_handle_scope(env, scope);
}

static struct poll *unwrap(napi_env env, napi_callback_info info, size_t *count, napi_value *arguments)
{
	napi_value self;
	bool is_poll = false;
	void *poll = NULL;

	if (napi_get_cb_info(env, info, count, arguments, &self, NULL) != napi_ok ||
	    napi_check_object_type_tag(env, self, &poll_tag, &is_poll) != napi_ok || !is_poll ||
	    napi_unwrap(env, self, &poll) != napi_ok || !poll) {
		napi_throw_type_error(env, NULL, "not a Poll");
		return NULL;
	}
	return poll;
}

static napi_value create(napi_env env, napi_callback_info info)
{
	size_t count = 2;
	napi_value arguments[2], self, name, target;
	napi_valuetype type;
	struct environment *environment;
	int fd;

	CHECK(env, napi_get_new_target(env, info, &target));
	if (!target) {
		napi_throw_type_error(env, NULL, "Poll is a class: use new");
		return NULL;
	}
	CHECK(env, napi_get_cb_info(env, info, &count, arguments, &self, (void **)&environment));
	if (!addon_integer(env, arguments[0], "fd", 0, INT_MAX, &fd))
		return NULL;
	CHECK(env, napi_typeof(env, arguments[1], &type));
	if (type != napi_function) {
		napi_throw_type_error(env, NULL, "callback is not a function");
		return NULL;
	}
	/* The object holds the callback. A reference held here would be a root that leads back to the object, and keep both alive. */
	CHECK(env, napi_set_element(env, self, ON_READY, arguments[1]));
	CHECK(env, napi_create_string_utf8(env, "passfd.Poll", NAPI_AUTO_LENGTH, &name));

	struct poll *poll = calloc(1, sizeof *poll);
	if (!poll) {
		napi_throw_error(env, "ENOMEM", "no memory for a Poll");
		return NULL;
	}
	poll->env = env;
	poll->environment = environment;
	poll->handle.data = poll;
	int result = environment->ending ? UV_ECANCELED : uv_poll_init(environment->loop, &poll->handle, fd);
	if (result < 0) {
		free(poll);
		napi_throw_error(env, uv_err_name(result), uv_strerror(result));
		return NULL;
	}
	poll->next = environment->open;
	poll->link = &environment->open;
	if (poll->next)
		poll->next->link = &poll->next;
	environment->open = poll;

	/* The resource is a separate object: Node 26 would keep the Poll itself alive as long as the context. */
	if (napi_async_init(env, NULL, name, &poll->context) != napi_ok ||
	    napi_type_tag_object(env, self, &poll_tag) != napi_ok ||
	    napi_wrap(env, self, poll, on_collected, NULL, &poll->object) != napi_ok) {
		poll->is_collected = 1;
		close_poll(poll);
		addon_throw_failed(env, "napi_wrap");
		return NULL;
	}
	return self;
}

static napi_value start(napi_env env, napi_callback_info info)
{
	size_t count = 1;
	napi_value argument;
	int events;
	struct poll *poll = unwrap(env, info, &count, &argument);

	if (!poll || !addon_integer(env, argument, "events", UV_READABLE, UV_READABLE | UV_WRITABLE, &events))
		return NULL;
	if (poll->is_closing) {
		napi_throw_error(env, "EBADF", "the Poll is closed");
		return NULL;
	}
	int result = uv_poll_start(&poll->handle, events, on_ready);
	if (result < 0) {
		napi_throw_error(env, uv_err_name(result), uv_strerror(result));
		return NULL;
	}
	if (!poll->started) {
		CHECK(env, napi_reference_ref(env, poll->object, NULL));
		poll->started = 1;
	}
	return NULL;
}

static napi_value stop(napi_env env, napi_callback_info info)
{
	size_t count = 0;
	struct poll *poll = unwrap(env, info, &count, NULL);

	if (poll && !poll->is_closing) {
		uv_poll_stop(&poll->handle);
		release_object(poll);
	}
	return NULL;
}

static napi_value close_method(napi_env env, napi_callback_info info)
{
	size_t count = 0;
	struct poll *poll = unwrap(env, info, &count, NULL);

	if (poll)
		close_poll(poll);
	return NULL;
}

static napi_value ref(napi_env env, napi_callback_info info)
{
	size_t count = 0;
	struct poll *poll = unwrap(env, info, &count, NULL);

	if (poll && !poll->is_closing)
		uv_ref((uv_handle_t *)&poll->handle);
	return NULL;
}

static napi_value unref(napi_env env, napi_callback_info info)
{
	size_t count = 0;
	struct poll *poll = unwrap(env, info, &count, NULL);

	if (poll && !poll->is_closing)
		uv_unref((uv_handle_t *)&poll->handle);
	return NULL;
}

static void free_environment(napi_env env, void *data, void *hint)
{
	(void)env;
	(void)hint;
	free(data);
}

napi_status addon_define_poll(napi_env env, napi_value exports)
{
	struct environment *environment = calloc(1, sizeof *environment);
	napi_value constructor;
	napi_status status;

	if (!environment)
		return napi_generic_failure;
	const napi_property_descriptor methods[] = {
		{"start", NULL, start, NULL, NULL, NULL, napi_default_method, NULL},
		{"stop", NULL, stop, NULL, NULL, NULL, napi_default_method, NULL},
		{"close", NULL, close_method, NULL, NULL, NULL, napi_default_method, NULL},
		{"ref", NULL, ref, NULL, NULL, NULL, napi_default_method, NULL},
		{"unref", NULL, unref, NULL, NULL, NULL, napi_default_method, NULL},
	};
	if ((status = napi_get_uv_event_loop(env, &environment->loop)) != napi_ok ||
	    (status = napi_set_instance_data(env, environment, free_environment, NULL)) != napi_ok) {
		free(environment);
		return status;
	}
	if ((status = napi_add_async_cleanup_hook(env, on_environment_end, environment, &environment->cleanup)) != napi_ok ||
	    (status = napi_define_class(env, "Poll", NAPI_AUTO_LENGTH, create, environment,
	                                sizeof methods / sizeof methods[0], methods, &constructor)) != napi_ok)
		return status;
	return napi_set_named_property(env, exports, "Poll", constructor);
}
