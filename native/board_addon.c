/* Boards for JavaScript, and the heartbeat of the event loop on one.
 *
 * The heartbeat notes when the loop waits for events and when it woke up. libuv calls back for I/O while it polls, which is before
 * uv_check. With uv_check alone, a loop that is blocked in such a callback would seem to wait. So V8 reports when JavaScript is
 * entered. That is no part of Node-API; where V8 does not have it, a loop counts as waiting until its I/O callbacks are done. */
#include "addon.h"
#include "board.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

static const napi_type_tag board_tag = {0x8d27c6f1b35e4a90ULL, 0xa14f7c9e02d86b3bULL};

/* A mapped page. The memory of its ArrayBuffer, the ArrayBuffer as an object, and the heartbeat refer to it. They end in any order,
 * all on one thread. */
struct page {
	int32_t *words;
	int references;
};

/* Methods of v8::Isolate as C functions, which get the object as their first argument. */
typedef void change_callback(void *isolate, void (*before_call)(void *isolate));

struct v8 {
	void *isolate; /* NULL: this V8 does not report calls */
	change_callback *add, *remove;
};

/* It lives until its environment has ended AND its function is collected, in either order. */
struct heartbeat {
	uv_loop_t *loop;
	uv_prepare_t prepare; /* their data is this heartbeat */
	uv_check_t check;
	struct page *page; /* NULL: it does not beat */
	struct v8 v8;
	int32_t turns;
	int is_waiting, is_ending, is_ended, is_collected;
	int handles; /* that are not closed yet */
	napi_async_cleanup_hook_handle cleanup;
};

/* For V8, which passes no data on. */
static __thread struct heartbeat *of_this_thread;

static void find_v8(struct v8 *v8)
{
	void *symbols[] = {
		dlsym(RTLD_DEFAULT, "_ZN2v87Isolate10GetCurrentEv"),
		dlsym(RTLD_DEFAULT, "_ZN2v87Isolate28AddBeforeCallEnteredCallbackEPFvPS0_E"),
		dlsym(RTLD_DEFAULT, "_ZN2v87Isolate31RemoveBeforeCallEnteredCallbackEPFvPS0_E"),
	};
	void *(*get_current)(void);

	if (!symbols[0] || !symbols[1] || !symbols[2])
		return;
	memcpy(&get_current, &symbols[0], sizeof get_current);
	memcpy(&v8->add, &symbols[1], sizeof v8->add);
	memcpy(&v8->remove, &symbols[2], sizeof v8->remove);
	v8->isolate = get_current();
}

static void release(struct page *page)
{
	if (--page->references > 0)
		return;
	board_unmap(page->words);
	free(page);
}

static void note_awake(struct heartbeat *heartbeat)
{
	if (!heartbeat->is_waiting)
		return;
	heartbeat->is_waiting = 0;
	/* libuv reads this clock, CLOCK_MONOTONIC, right after the wait. */
	board_write(heartbeat->page->words, BOARD_AWAKE_SINCE, board_time(uv_now(heartbeat->loop)));
}

static void before_call(void *isolate)
{
	(void)isolate;
	if (of_this_thread)
		note_awake(of_this_thread);
}

static void before_wait(uv_prepare_t *prepare)
{
	struct heartbeat *heartbeat = prepare->data;
	heartbeat->is_waiting = 1;
	board_write(heartbeat->page->words, BOARD_AWAKE_SINCE, 0);
}

static void after_wait(uv_check_t *check)
{
	struct heartbeat *heartbeat = check->data;
	note_awake(heartbeat);
	heartbeat->turns = (int32_t)((uint32_t)heartbeat->turns + 1);
	board_write(heartbeat->page->words, BOARD_TURNS, heartbeat->turns);
}

static void start(struct heartbeat *heartbeat)
{
	if (heartbeat->handles == 0) {
		heartbeat->handles = 2;
		uv_prepare_init(heartbeat->loop, &heartbeat->prepare);
		uv_check_init(heartbeat->loop, &heartbeat->check);
		uv_unref((uv_handle_t *)&heartbeat->prepare);
		uv_unref((uv_handle_t *)&heartbeat->check);
		heartbeat->prepare.data = heartbeat->check.data = heartbeat;
	}
	uv_prepare_start(&heartbeat->prepare, before_wait);
	uv_check_start(&heartbeat->check, after_wait);
	of_this_thread = heartbeat;
	if (heartbeat->v8.isolate)
		heartbeat->v8.add(heartbeat->v8.isolate, before_call);
}

static void stop(struct heartbeat *heartbeat)
{
	struct page *page = heartbeat->page;

	if (!page)
		return;
	uv_prepare_stop(&heartbeat->prepare);
	uv_check_stop(&heartbeat->check);
	of_this_thread = NULL;
	if (heartbeat->v8.isolate)
		heartbeat->v8.remove(heartbeat->v8.isolate, before_call);
	/* A loop that is not observed must not look blocked. */
	board_write(page->words, BOARD_AWAKE_SINCE, 0);
	heartbeat->page = NULL;
	release(page);
}

static void free_when_done(struct heartbeat *heartbeat)
{
	if (heartbeat->is_ended && heartbeat->is_collected)
		free(heartbeat);
}

static void finish_cleanup(struct heartbeat *heartbeat)
{
	if (heartbeat->handles > 0)
		return;
	napi_remove_async_cleanup_hook(heartbeat->cleanup);
	heartbeat->is_ended = 1;
	free_when_done(heartbeat);
}

static void on_closed(uv_handle_t *handle)
{
	struct heartbeat *heartbeat = handle->data;
	heartbeat->handles--;
	finish_cleanup(heartbeat);
}

/* When a worker thread ends, it closes its event loop, which may have no open handle then. */
static void on_environment_end(napi_async_cleanup_hook_handle handle, void *data)
{
	struct heartbeat *heartbeat = data;

	(void)handle;
	heartbeat->is_ending = 1;
	stop(heartbeat);
	if (heartbeat->handles > 0) {
		uv_close((uv_handle_t *)&heartbeat->prepare, on_closed);
		uv_close((uv_handle_t *)&heartbeat->check, on_closed);
	} else {
		finish_cleanup(heartbeat);
	}
}

static void on_function_collected(napi_env env, void *data, void *hint)
{
	struct heartbeat *heartbeat = data;

	(void)env;
	(void)hint;
	heartbeat->is_collected = 1;
	free_when_done(heartbeat);
}

static void on_memory_freed(napi_env env, void *words, void *page)
{
	(void)env;
	(void)words;
	release(page);
}

static void on_object_collected(napi_env env, void *page, void *hint)
{
	(void)env;
	(void)hint;
	release(page);
}

/* An ArrayBuffer of the page, which it takes over. The object keeps a reference of its own: since ES2024, code can move the
 * memory of an ArrayBuffer to another one. */
static napi_value new_buffer(napi_env env, struct page *page)
{
	napi_value buffer;
	napi_status status = napi_create_external_arraybuffer(env, page->words, BOARD_BYTES, on_memory_freed, page, &buffer);

	if (status == napi_no_external_buffers_allowed) {
		release(page);
		return addon_number(env, -ENOTSUP);
	}
	/* After another failure it is not known whether the callback has run, so the page stays mapped. */
	CHECK(env, status);
	CHECK(env, napi_wrap(env, buffer, page, on_object_collected, NULL, NULL));
	page->references++;
	CHECK(env, napi_type_tag_object(env, buffer, &board_tag));
	return buffer;
}

/* boardMap(fd): an ArrayBuffer, or -errno */
static napi_value map(napi_env env, napi_callback_info info)
{
	napi_value arguments[1];
	int fd;

	if (!addon_arguments(env, info, 1, arguments) || !addon_fd(env, arguments[0], &fd))
		return NULL;
	struct page *page = calloc(1, sizeof *page);
	if (!page)
		return addon_number(env, -ENOMEM);
	page->references = 1;
	int result = board_map(fd, &page->words);
	if (result < 0) {
		free(page);
		return addon_number(env, result);
	}
	return new_buffer(env, page);
}

static struct page *page_of(napi_env env, napi_value buffer)
{
	bool is_board = false;
	void *page = NULL;

	if (napi_check_object_type_tag(env, buffer, &board_tag, &is_board) == napi_ok && is_board &&
	    napi_unwrap(env, buffer, &page) == napi_ok && page)
		return page;
	addon_throw_argument(env, "buffer", "the memory of a board");
	return NULL;
}

/* boardBeat(buffer): the heartbeat beats on this board from now on; with null, on none. */
static napi_value beat(napi_env env, napi_callback_info info)
{
	size_t count = 1;
	napi_value buffer;
	napi_valuetype type;
	struct heartbeat *heartbeat;
	struct page *page = NULL;

	CHECK(env, napi_get_cb_info(env, info, &count, &buffer, NULL, (void **)&heartbeat));
	CHECK(env, napi_typeof(env, buffer, &type));
	if (type != napi_null && !(page = page_of(env, buffer)))
		return NULL;
	if (heartbeat->is_ending)
		return addon_number(env, -ECANCELED);
	stop(heartbeat);
	if (page) {
		page->references++;
		heartbeat->page = page;
		heartbeat->is_waiting = 0;
		/* The loop is awake, since it runs this. */
		board_write(page->words, BOARD_AWAKE_SINCE, board_clock());
		board_write(page->words, BOARD_TURNS, heartbeat->turns);
		start(heartbeat);
	}
	return addon_number(env, 0);
}

/* boardCreate() */
static napi_value create(napi_env env, napi_callback_info info)
{
	(void)info;
	return addon_number(env, board_create());
}

/* boardClock() */
static napi_value read_clock(napi_env env, napi_callback_info info)
{
	(void)info;
	return addon_number(env, board_clock());
}

napi_status addon_define_board(napi_env env, napi_value exports)
{
	static const struct addon_function functions[] = {
		{"boardCreate", create},
		{"boardMap", map},
		{"boardClock", read_clock},
	};
	struct heartbeat *heartbeat = calloc(1, sizeof *heartbeat);
	napi_value function;
	napi_status status;

	if (!heartbeat)
		return napi_generic_failure;
	find_v8(&heartbeat->v8);
	if ((status = napi_get_uv_event_loop(env, &heartbeat->loop)) != napi_ok ||
	    (status = napi_create_function(env, "boardBeat", NAPI_AUTO_LENGTH, beat, heartbeat, &function)) != napi_ok ||
	    (status = napi_add_finalizer(env, function, heartbeat, on_function_collected, NULL, NULL)) != napi_ok) {
		free(heartbeat);
		return status;
	}
	if ((status = napi_add_async_cleanup_hook(env, on_environment_end, heartbeat, &heartbeat->cleanup)) != napi_ok ||
	    (status = napi_set_named_property(env, exports, "boardBeat", function)) != napi_ok)
		return status;
	return addon_define(env, exports, functions, sizeof functions / sizeof functions[0]);
}
