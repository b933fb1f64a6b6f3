"""The last step of a batch on its way to the caller."""

from typing import Any


async def arrive(handle: Any, wanted: Any) -> Any:
    """What the handle receives next.

    From Python 3.12 on, a timeout may reach a task whose future has its result already; that result would be lost with
    the future. Here it goes back to the handle, for the next call.
    """
    future = handle._pull(wanted)
    try:
        value = await future
    except BaseException as reason:
        # Either the future failed, which is for the caller, or the caller was cancelled, or left for good.
        if not future.cancel() and not future.cancelled():
            error = future.exception()
            if error is None:
                handle._put_back(future.result())
            elif error is not reason:
                handle._put_back(error)
        raise
    # Nothing is awaited from here on: the caller has it.
    handle._took(value)
    return value
