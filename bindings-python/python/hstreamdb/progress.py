"""Progress while records pass: for loops that show a bar.

>>> from hstreamdb import progress
>>> class Bar:  # or tqdm.tqdm(unit="records"), or whatever else has update()
...     def __init__(self):
...         self.records = 0
...     def update(self, count):
...         self.records += count
>>> bar = Bar()
>>> list(progress.batches([[b"1", b"2"], [b"3"]], bar))
[[b'1', b'2'], [b'3']]
>>> bar.records
3
"""

import importlib
from typing import Any, AsyncIterable, AsyncIterator, Iterable, Iterator, Optional, TypeVar, Union, overload

T = TypeVar("T")

__all__ = ["batches"]


@overload
def batches(source: Iterable[T], bar: Any = ...) -> Iterator[T]: ...
@overload
def batches(source: AsyncIterable[T], bar: Any = ...) -> AsyncIterator[T]: ...
def batches(source: Union[Iterable[T], AsyncIterable[T]], bar: Any = None) -> Union[Iterator[T], AsyncIterator[T]]:
    """The batches of a consumer or reader of either API, for `for` or `async for`; `bar.update` is told how many
    records each holds when the next one is asked for, that is, when it is done.

    Without a `bar` one of tqdm is shown (`pip install 'hstreamdb[progress]'`) and closed at the end. What the
    source raises comes out.
    """
    if isinstance(source, AsyncIterable):
        return _asynchronous(source, bar)
    return _synchronous(source, bar)


class _Shown:
    """A bar of ours, or somebody else's."""

    def __init__(self, bar: Any) -> None:
        self._own = bar is None
        if bar is None:
            bar = importlib.import_module("tqdm.auto").tqdm(unit="records", unit_scale=True)
        self._bar = bar

    def done(self, batch: Any) -> None:
        self._bar.update(len(batch))

    def close(self) -> None:
        if self._own:
            self._bar.close()


def _synchronous(source: Iterable[T], bar: Optional[Any]) -> Iterator[T]:
    shown = _Shown(bar)
    try:
        for batch in source:
            yield batch
            shown.done(batch)
    finally:
        shown.close()


async def _asynchronous(source: AsyncIterable[T], bar: Optional[Any]) -> AsyncIterator[T]:
    shown = _Shown(bar)
    try:
        async for batch in source:
            yield batch
            shown.done(batch)
    finally:
        shown.close()
