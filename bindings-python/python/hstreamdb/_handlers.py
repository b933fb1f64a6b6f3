"""Runs handlers of the application: on the event loop, or in threads.

The core decides what is handled next and what is done about failures; here handlers are only called. The methods
`run` and `run_records` of consumers are the functions at the end.
"""

import asyncio
import concurrent.futures
import functools
import inspect
from typing import Any, Callable, Dict, Optional, Union

from ._native import Consumer, SyncConsumer
from .reports import HandlerFailure

Handler = Callable[..., Any]
OnFailure = Optional[Callable[[HandlerFailure], Union[str, float]]]


def _failed(call: Any, error: BaseException, on_failure: OnFailure) -> None:
    """Tells the core that a handler raised, with what the application says about it."""
    try:
        action = None
        if on_failure is not None:
            action = on_failure(HandlerFailure(call.work, error, call.context.tries))
        call.fail(error, action)
    except Exception as problem:
        # A decision that fails is one to stop, with both exceptions to be seen.
        problem.__context__ = error
        call.fail(problem, "stop")


async def _handle(call: Any, handler: Handler, on_failure: OnFailure, with_context: bool) -> None:
    try:
        result = handler(call.work, call.context) if with_context else handler(call.work)
        if inspect.isawaitable(result):
            await result
    except asyncio.CancelledError as error:
        call.fail(error)
        raise
    except Exception as error:
        _failed(call, error, on_failure)
    except BaseException as error:
        call.fail(error, "stop")
        raise
    else:
        call.succeed()


async def _run(run: Any, handler: Handler, on_failure: OnFailure, with_context: bool) -> None:
    loop = asyncio.get_running_loop()
    tasks: "Dict[int, asyncio.Task[None]]" = {}
    try:
        while True:
            call = await run.next()
            if call is None:
                return
            if call.abandoned:
                task = tasks.get(call.number)
                if task is not None:
                    task.cancel()
                continue
            task = loop.create_task(_handle(call, handler, on_failure, with_context))
            number = call.number
            tasks[number] = task
            # What it raises is no business of this loop: the core has been told.
            task.add_done_callback(functools.partial(_seen, tasks, number))
    finally:
        run.cancel()
        left = list(tasks.values())
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left)


def _seen(tasks: "Dict[int, asyncio.Task[None]]", number: int, task: "asyncio.Task[None]") -> None:
    tasks.pop(number, None)
    if not task.cancelled():
        task.exception()


def _handle_now(call: Any, handler: Handler, on_failure: OnFailure, with_context: bool) -> None:
    if call.abandoned:
        return
    try:
        result = handler(call.work, call.context) if with_context else handler(call.work)
        if inspect.isawaitable(result):
            if inspect.iscoroutine(result):
                result.close()
            raise TypeError("a handler of hstreamdb.sync has to be a plain function, not a coroutine function")
    except Exception as error:
        _failed(call, error, on_failure)
    except BaseException as error:
        call.fail(error, "stop")
        raise
    else:
        call.succeed()


def _run_sync(run: Any, handler: Handler, on_failure: OnFailure, with_context: bool, concurrency: int) -> None:
    if concurrency > 1:
        return _run_in_threads(run, handler, on_failure, with_context, concurrency)
    try:
        while True:
            call = run.next()
            if call is None:
                return None
            _handle_now(call, handler, on_failure, with_context)
    finally:
        run.cancel()


def _run_in_threads(run: Any, handler: Handler, on_failure: OnFailure, with_context: bool, concurrency: int) -> None:
    with concurrent.futures.ThreadPoolExecutor(concurrency, thread_name_prefix="hstreamdb-handler") as threads:
        try:
            while True:
                call = run.next()
                if call is None:
                    return None
                threads.submit(_handle_now, call, handler, on_failure, with_context)
        finally:
            run.cancel()


_DOC = """Gives every %(what)s to `handler`, a coroutine function or a plain one, and acknowledges it when that
    returns. Ends when the consumer does.

    Options are those of scope `handler`: `concurrency` (1), `ordered` (true), `retries` (0), `on_error` (`"skip"`:
    left unacknowledged, to come again), `on_unreadable`, `stop_timeout_ms`, and so on. With `with_context` the
    handler gets a `HandlerContext` as its second argument. `on_failure` is asked about every failure of the handler,
    with a `HandlerFailure`, and says `"skip"`, `"acknowledge"`, `"stop"` or after how many seconds to try again.

    With `hstreamdb.sync` handlers run in the calling thread, or in as many threads as `concurrency` says.

    Raises what ended the consumer; `ClosedError` with the handler's exception as its cause when a failure stopped it.
    """


def _methods(consumer_class: Any, records: bool, blocking: bool) -> None:
    def run(
        self: Any, handler: Handler, *, on_failure: OnFailure = None, with_context: bool = False, **options: Any
    ) -> Any:
        started = self._start_run(records, on_failure is not None, options)
        if blocking:
            return _run_sync(started, handler, on_failure, with_context, int(options.get("concurrency") or 1))
        return _run(started, handler, on_failure, with_context)

    run.__name__ = "run_records" if records else "run"
    run.__qualname__ = "%s.%s" % (consumer_class.__name__, run.__name__)
    run.__module__ = consumer_class.__module__
    run.__doc__ = _DOC % {"what": "record" if records else "batch"}
    setattr(consumer_class, run.__name__, run)


for _class, _blocking in ((Consumer, False), (SyncConsumer, True)):
    _methods(_class, False, _blocking)
    _methods(_class, True, _blocking)
