"""The buffered producer of the published client: records of any stream, callbacks for batches."""

import abc
import asyncio
import logging
from typing import Any, Awaitable, Callable, Dict, List, Optional, Set, Tuple, Union

from .._native import Client, HRecord
from .._native import Producer as NewProducer
from ..errors import ClosedError, HStreamError
from ..record_id import RecordId
from ..reports import BatchReport
from ..utils import JSON, encode_payload
from .errors import as_published, published

__all__ = ["AppendPayload", "BufferedProducer", "PayloadTooBig", "PayloadsFull"]

logger = logging.getLogger(__name__)

#: Records that cross into the core together when they come without a pause.
_CHUNK = 500
#: Milliseconds: no time at all, for producers that send by size or when told.
_NEVER = 10 * 365 * 86_400_000
#: Encoded bytes that servers take in one batch.
_LARGEST_BATCH = 1_048_576
#: Tries of a batch when the program asks for no retries: those that cost nothing but a moment.
QUICK_TRIES = 5


class PayloadsFull(Exception):
    """Not raised any more: without room, `append` waits."""


class PayloadTooBig(Exception):
    """A payload that is larger than `size_trigger`."""


class AppendPayload:
    """A payload with its key, as callbacks are given it."""

    __slots__ = ("payload", "key", "record_id", "_encoded")

    def __init__(self, payload: Union[bytes, str, Dict[Any, Any]], key: Optional[str] = None) -> None:
        #: As it was appended.
        self.payload = payload
        self.key = key
        #: Where it is stored; None until then.
        self.record_id: Optional[RecordId] = None
        # Now and not when it is sent: a dict may be another one then.
        if type(payload) is bytes:
            self._encoded: Union[bytes, HRecord] = payload
        else:
            encoded, kind = encode_payload(payload)
            self._encoded = HRecord(encoded) if kind == JSON else encoded

    def __len__(self) -> int:
        """Bytes of the payload as it is sent, before compression."""
        return len(self._encoded)


class BufferedProducer:
    """Collects records of any stream into batches and appends them; made by `HStreamDBClient.new_producer`."""

    StreamKeyId = int
    GroupKeyTy = Tuple[str, int]

    class AppendCallback(abc.ABC):
        """Told what became of every batch, on the event loop."""

        @abc.abstractmethod
        def on_success(self, stream_name: str, payloads: List[AppendPayload], stream_keyid: int) -> Any:
            """These are stored, in this order; `stream_keyid` is their shard. Each has its `record_id` now."""

        @abc.abstractmethod
        def on_fail(self, stream_name: str, payloads: List[AppendPayload], stream_keyid: int, e: Exception) -> Any:
            """These are not stored, or nobody can say, as `e.may_have_been_applied` tells."""

    def __init__(
        self,
        connected: Callable[[], Awaitable[Client]],
        append_callback: Optional[AppendCallback] = None,
        size_trigger: int = 0,
        time_trigger: float = 0,
        workers: int = 1,
        retry_count: int = 0,
        retry_max_delay: float = 60,
        compresstype: Optional[str] = None,
        compresslevel: int = 9,
    ) -> None:
        if workers < 1:
            raise ValueError("workers must be at least 1, not %r" % (workers,))
        self._connected = connected
        self._callback = append_callback
        self._size_trigger = size_trigger
        self._options = _options(size_trigger, time_trigger, retry_count, retry_max_delay, compresstype, compresslevel)
        self._lanes: Dict[str, _Lane] = {}
        self._opening: Dict[str, "asyncio.Future[_Lane]"] = {}
        self._closing: Optional["asyncio.Future[Any]"] = None
        self._closed = asyncio.Event()
        self._failure: Optional[Exception] = None

    async def append(
        self, stream_name: str, payload: Union[bytes, str, Dict[Any, Any]], key: Optional[str] = None
    ) -> None:
        """Takes a record, which is sent with the next batch of its shard. Waits while there is no room.

        Raises `PayloadTooBig` for one that is larger than `size_trigger`.
        """
        lane = self._lanes.get(stream_name)
        if lane is None or self._closing is not None:
            lane = await self._open(stream_name)
        taken = AppendPayload(payload, key)
        if 0 < self._size_trigger < len(taken):
            raise PayloadTooBig("the payload has %d bytes, size_trigger is %d" % (len(taken), self._size_trigger))
        chunk = lane.chunk
        chunk.append(taken)
        if len(chunk) == 1:
            lane.hand_over_soon()
        elif len(chunk) >= _CHUNK:
            lane.hand_over()
            await lane.accepted()

    @published
    async def flush(self, stream_name: str, shard_id: int) -> None:
        """Sends what waits for a shard, after what was flushed before. `ValueError` for a stream without records."""
        await self._lane(stream_name).flush(lambda producer: producer.flush_shard(shard_id))

    @published
    async def flush_by_key(self, stream_name: str, key: Optional[str] = None) -> None:
        """Sends what waits for the shard of a key, after what was flushed before. `ValueError` for a stream without
        records.
        """
        await self._lane(stream_name).flush(lambda producer: producer.flush_key(key or ""))

    @published
    async def flushall(self) -> None:
        """Sends everything that waits."""
        for lane in list(self._lanes.values()):
            await lane.flush(lambda producer: producer.flush())

    async def close(self) -> None:
        """Takes no more and sends what was taken; `wait` waits for it."""
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._close())
            self._closed.set()
            # What was taken is on its way when this returns.
            await asyncio.sleep(0)

    async def wait(self) -> None:
        """Waits for `close` and for everything to be stored or reported.

        Raises the first failure when there is no callback to tell it.
        """
        await self._closed.wait()
        if self._closing is not None:
            await asyncio.shield(self._closing)
        if self._failure is not None and self._callback is None:
            raise self._failure

    async def wait_and_close(self) -> None:
        """`close`, then `wait`."""
        await self.close()
        await self.wait()

    async def _close(self) -> None:
        lanes = list(self._lanes.values())
        for lane in lanes:
            lane.hand_over()
        await asyncio.gather(*[lane.close() for lane in lanes])

    def _lane(self, stream_name: str) -> "_Lane":
        lane = self._lanes.get(stream_name)
        if lane is None:
            raise ValueError("nothing was appended to the stream %r" % stream_name)
        return lane

    @published
    async def _open(self, stream_name: str) -> "_Lane":
        """Opens the producer of a stream, once for all who append to it at the same time."""
        if self._closing is not None:
            raise ClosedError("the producer was closed")
        opening = self._opening.get(stream_name)
        if opening is None:
            opening = asyncio.ensure_future(self._opened(stream_name))
            self._opening[stream_name] = opening
            opening.add_done_callback(lambda _: self._opening.pop(stream_name, None))
        return await asyncio.shield(opening)

    async def _opened(self, stream_name: str) -> "_Lane":
        client = await self._connected()
        lane = _Lane(stream_name, self._tell)
        lane.producer = await client.producer(stream_name, on_batch=lane.told, **self._options)
        self._lanes[stream_name] = lane
        return lane

    def _tell(self, stream_name: str, payloads: List[AppendPayload], shard_id: int, error: Optional[Exception]) -> None:
        callback = self._callback
        if callback is None:
            if error is not None and self._failure is None:
                self._failure = error
                logger.error("%d records of stream %r failed: %s", len(payloads), stream_name, error)
        elif error is None:
            callback.on_success(stream_name, payloads, shard_id)
        else:
            callback.on_fail(stream_name, payloads, shard_id, error)


class _Lane:
    """One stream: the records on their way into the core, and those of which it has not told yet."""

    producer: NewProducer

    def __init__(
        self,
        stream: str,
        tell: Callable[[str, List[AppendPayload], int, Optional[Exception]], None],
    ) -> None:
        self._stream = stream
        self._tell = tell
        #: Not handed over yet.
        self.chunk: List[AppendPayload] = []
        self._scheduled = False
        self._accepted: Optional["asyncio.Future[None]"] = None
        self._flushing: Optional["asyncio.Future[None]"] = None
        self._tag = 0
        #: Chunks by their tags, with how many of their records are open.
        self._open: Dict[int, List[Any]] = {}

    def hand_over_soon(self) -> None:
        """After whatever runs now: it may append more."""
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_event_loop().call_soon(self._soon)

    def _soon(self) -> None:
        self._scheduled = False
        self.hand_over()

    def hand_over(self) -> None:
        """Gives what was collected to the core."""
        chunk = self.chunk
        if not chunk:
            return
        self.chunk = []
        self._tag += 1
        tag = self._tag
        self._open[tag] = [chunk, len(chunk)]
        payloads = [payload._encoded for payload in chunk]
        keys = [payload.key for payload in chunk]
        try:
            posted = self.producer.post(payloads, keys if any(keys) else None, tag=tag)
        except HStreamError as error:
            self._refuse(tag, error)
            return
        self._accepted = asyncio.ensure_future(posted)
        self._accepted.add_done_callback(lambda done: self._posted(tag, done))

    def _posted(self, tag: int, done: "asyncio.Future[None]") -> None:
        if not done.cancelled():
            error = done.exception()
            if isinstance(error, HStreamError):
                self._refuse(tag, error)

    def _refuse(self, tag: int, error: HStreamError) -> None:
        chunk, _ = self._open.pop(tag, ([], 0))
        if chunk:
            self._tell(self._stream, chunk, 0, as_published(error))

    async def accepted(self) -> None:
        """Waits for room for what was handed over last."""
        accepted = self._accepted
        if accepted is not None and not accepted.done():
            # A caller who gives up does not take the records of others back.
            await asyncio.wait([accepted])

    def told(self, report: BatchReport) -> None:
        """Finds the records of a batch again, and passes on what became of them."""
        if len(report.parts) == 1:
            payloads = self._part(*report.parts[0])
        else:
            payloads = []
            for part in report.parts:
                payloads.extend(self._part(*part))
        error = report.error
        if error is not None:
            self._tell(self._stream, payloads, report.shard_id, as_published(error))
            return
        for payload, record_id in zip(payloads, report.ids or ()):
            payload.record_id = record_id
        self._tell(self._stream, payloads, report.shard_id, None)

    def _part(self, tag: int, start: int, end: int) -> List[AppendPayload]:
        known = self._open.get(tag)
        if known is None:
            return []
        chunk: List[AppendPayload] = known[0]
        known[1] -= end - start
        if known[1] <= 0:
            del self._open[tag]
        return chunk if end - start == len(chunk) else chunk[start:end]

    async def flush(self, flush: Callable[[NewProducer], Awaitable[None]]) -> None:
        """Hands over and starts a flush, after the one before; its failures are told like others."""
        self.hand_over()
        before = self._flushing
        if before is not None and not before.done():
            await asyncio.wait([before])
        flushing = asyncio.ensure_future(flush(self.producer))
        flushing.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._flushing = flushing

    async def close(self) -> None:
        """Waits until everything is stored or told."""
        waiting: Set["asyncio.Future[None]"] = {
            future for future in (self._accepted, self._flushing) if future and not future.done()
        }
        if waiting:
            await asyncio.wait(waiting)
        await self.producer.close(timeout=None)


def _options(
    size_trigger: int,
    time_trigger: float,
    retry_count: int,
    retry_max_delay: float,
    compresstype: Optional[str],
    compresslevel: int,
) -> Dict[str, Any]:
    """What the published arguments are for the new API."""
    options: Dict[str, Any] = {
        "batch_max_records": 2**31 - 1,
        "batch_max_bytes": min(size_trigger, _LARGEST_BATCH) if size_trigger > 0 else _LARGEST_BATCH,
        "batch_max_age_ms": max(1, round(time_trigger * 1000)) if time_trigger > 0 else _NEVER,
        # Counted from when a batch is begun, and without a trigger that may be long ago: tries are the limit instead.
        "delivery_timeout_ms": _NEVER,
        "retry_max_attempts": QUICK_TRIES,
    }
    options.update(compression_of(compresstype, compresslevel))
    if retry_count:
        options["retry_max_attempts"] = min(retry_count + 1, 1000) if retry_count > 0 else None
        options["retry_max_ms"] = round(retry_max_delay * 1000) if retry_max_delay >= 0 else None
        options["retry_base_ms"] = 1000 if retry_max_delay < 0 else min(1000, round(retry_max_delay * 1000))
    return options


def compression_of(compresstype: Optional[str], compresslevel: int) -> Dict[str, Any]:
    """The options of that compression; `KeyError` for one that readers of the published client do not know."""
    if not compresstype:
        return {}
    if compresstype != "gzip":
        raise KeyError("compresstype is None or 'gzip', not %r" % (compresstype,))
    return {"compression": "gzip", "compression_level": compresslevel}
