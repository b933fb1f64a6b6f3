"""Runs handlers of the application: on the event loop, or in threads.

The core decides what is handled next and what is done about failures; here handlers are only called.
"""

import asyncio
import concurrent.futures
import functools
import inspect
from typing import Any, Callable, Dict, Optional, Union

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


async def run(run: Any, handler: Handler, on_failure: OnFailure, with_context: bool, concurrency: int) -> None:
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


def run_sync(run: Any, handler: Handler, on_failure: OnFailure, with_context: bool, concurrency: int) -> None:
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
