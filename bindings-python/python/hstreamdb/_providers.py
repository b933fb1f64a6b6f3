"""How functions of the application that the core asks are run."""

import asyncio
import inspect
import threading
from typing import Any, Callable, List


def run(function: Callable[..., Any], arguments: List[str], loop: Any, answer: Any) -> None:
    """Calls `function` and gives its result to `answer`, without making the caller wait.

    A coroutine function runs on `loop` while that runs; everything else in a thread of its own.
    """
    if loop is not None and inspect.iscoroutinefunction(function) and loop.is_running():
        asyncio.run_coroutine_threadsafe(_answer(function, arguments, answer), loop)
    else:
        thread = threading.Thread(
            target=_answer_in_thread, args=(function, arguments, answer), name="hstreamdb-provider", daemon=True
        )
        thread.start()


async def _answer(function: Callable[..., Any], arguments: List[str], answer: Any) -> None:
    try:
        result = function(*arguments)
        if inspect.isawaitable(result):
            result = await result
    except BaseException as error:
        answer.fail(error)
        if not isinstance(error, Exception):
            raise
    else:
        answer.give(result)


def _answer_in_thread(function: Callable[..., Any], arguments: List[str], answer: Any) -> None:
    asyncio.run(_answer(function, arguments, answer))
