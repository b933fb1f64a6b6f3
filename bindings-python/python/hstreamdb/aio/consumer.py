"""Consumers as the published client has them: a function that is given every batch."""

import asyncio
import logging
from typing import Any, Awaitable, Callable, Iterable, Iterator, List, Optional, Tuple

from .._native import Client, ReceivedBatch
from .._native import Consumer as NewConsumer
from ..errors import ClosedError, CodecError
from ..record_id import RecordId
from ..types import Record, RecordHeader, TimeStamp
from .errors import published

logger = logging.getLogger(__name__)

#: Given what acknowledges, what stops, and the records of one batch.
ProcessingFunc = Callable[
    [
        Callable[[Iterable[RecordId]], Awaitable[None]],
        Callable[[], Awaitable[None]],
        Iterator[Record],
    ],
    Awaitable[None],
]


class Consumer:
    """Gives the batches of a subscription to a function, one by one; made by `HStreamDBClient.new_consumer`."""

    ResponseTy = Any

    def __init__(
        self,
        name: str,
        subscription: str,
        connected: Callable[[], Awaitable[Client]],
        processing_func: ProcessingFunc,
    ) -> None:
        self._name = name
        self._subscription = subscription
        self._connected = connected
        self._processing_func = processing_func
        self._consumer: Optional[NewConsumer] = None
        self._processing = False
        self._stopped = False

    # `isinstance(consumer, hstreamdb.Consumer)` is true, though that name is the new API's.
    @property  # type: ignore[misc]
    def __class__(self) -> type:  # pyright: ignore[reportIncompatibleMethodOverride]
        return NewConsumer

    @published
    async def start(self) -> None:
        """Receives until the function asks to stop; a lost connection is made again.

        Returns when everything acknowledged has been handed in. Cancelling ends it in the same way. An exception of the
        function ends it, too, and comes out here.
        """
        self._stopped = False
        client = await self._connected()
        # Other consumers would not expect that one takes another name.
        consumer = client.consumer(self._subscription, name=self._name, name_taken="fail")
        try:
            async with consumer:
                self._consumer = consumer
                await self._receive(consumer)
        except asyncio.CancelledError:
            logger.info("the consumer %s of %s was cancelled", self._name, self._subscription)
        finally:
            self._consumer = None

    async def _receive(self, consumer: NewConsumer) -> None:
        while not self._stopped:
            batch = await consumer.next_batch()
            if batch is None:
                return
            try:
                records = records_of(batch)
            except CodecError as error:
                # Left alone it would come again for ever.
                logger.error("passed over a batch: %s", error)
                batch.ack()
                continue
            self._processing = True
            try:
                await self._processing_func(self._ack, self._stop, iter(records))
            finally:
                self._processing = False

    async def _ack(self, record_ids: Iterable[RecordId]) -> None:
        consumer = self._consumer
        if consumer is None:
            logger.warning("the consumer %s has ended: what is acknowledged now comes again", self._name)
            return
        try:
            consumer.ack(list(record_ids))
        except ClosedError:
            logger.warning("the consumer %s has ended: what is acknowledged now comes again", self._name)

    async def _stop(self) -> None:
        self._stopped = True
        # Within the function, what it acknowledges afterwards still counts.
        if self._consumer is not None and not self._processing:
            await self._consumer.stop()


def records_of(batch: ReceivedBatch) -> List[Record]:
    """The records of a batch as named tuples.

    Raises `CodecError` for one that cannot be decoded.
    """
    milliseconds = batch.publish_time_ms
    time = TimeStamp(milliseconds // 1000, milliseconds % 1000 * 1_000_000)
    new = tuple.__new__
    made = []
    columns: Tuple[Any, ...] = (batch.ids, batch.keys, batch.attributes, batch.values())
    for id, key, attributes, payload in zip(*columns):
        if type(payload) is dict:
            payload = _with_floats(payload)
        header = new(RecordHeader, (time, key or None, attributes))
        made.append(new(Record, (id, header, payload)))
    return made


def _with_floats(value: Any) -> Any:
    """Numbers of structured records are floats, also whole ones: programs may tell them apart."""
    if type(value) is int:
        return float(value)
    if type(value) is dict:
        return {name: _with_floats(each) for name, each in value.items()}
    if type(value) is list:
        return [_with_floats(each) for each in value]
    return value
