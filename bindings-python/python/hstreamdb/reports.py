"""What producers and consumers tell about themselves."""

from typing import List, NamedTuple, Optional, Tuple, Union

from ._native import ReceivedBatch, ReceivedRecord
from .errors import HStreamError
from .record_id import RecordId


class UnresolvedShard(NamedTuple):
    """Records of one shard that the close of a producer gave up."""

    shard_id: int
    #: Records that were on their way: look before appending them again.
    may_be_stored: int
    #: Records that are certainly not stored: append them again.
    not_stored: int
    #: Why the shard took nothing, if a try had failed.
    cause: Optional[HStreamError]


class CloseReport(NamedTuple):
    """What became of the records of a producer that was closed."""

    #: Records stored.
    acknowledged: int
    #: Records that failed; their futures say why.
    failed: int
    #: Records given up because the time was up: the sum over `shards`.
    unresolved: int
    shards: List[UnresolvedShard]


class StopReport(NamedTuple):
    """How a consumer stopped."""

    #: Acks that the server is not known to have seen; these records may be delivered again.
    unsent_acks: int
    #: Whether the server confirmed the end in time.
    clean: bool
    #: Handlers that were not finished in time; their records may be delivered again.
    unfinished_handlers: int


class Pending(NamedTuple):
    """What a producer holds that is neither stored nor failed yet."""

    records: int
    #: Payload bytes.
    bytes: int


class BatchReport(NamedTuple):
    """What became of a batch of a producer, for `on_batch`."""

    stream: str
    shard_id: int
    records: int
    #: Length of their encoded form, compressed if it was sent.
    bytes: int
    #: Time since the batch's first record was accepted.
    seconds: float
    #: One per record; None when it failed.
    ids: Optional[Tuple[RecordId, ...]]
    error: Optional[HStreamError]
    #: Where the records came from, in order: tag of the call, first position in it, and the one behind the last.
    parts: List[Tuple[int, int, int]]


class ConsumerStats(NamedTuple):
    """Counters of a consumer."""

    #: Batches received and not taken yet, and the bytes they take.
    buffered_batches: int
    buffered_bytes: int
    #: Acks waiting to be sent, sent and not known to be safe, and dropped from memory for lack of room; records.
    unsent_acks: int
    unconfirmed_acks: int
    forgotten_acks: int
    #: Records that came again, and those of them that had been acknowledged.
    redelivered_records: int
    redelivered_acked_records: int
    #: Batches that cannot be decoded, as far as somebody has looked.
    unreadable_batches: int
    #: Handlers at work, and tries of handlers that failed.
    running_handlers: int
    handler_failures: int
    #: Sessions lost and tries failed.
    reconnects: int


class ConsumerEvent(NamedTuple):
    """Something happened to a consumer, for `on_event`. What does not belong to its kind is None."""

    #: "connected", "reconnecting", "renamed", "redelivered", "unreadable", "subscription_replaced" or "closed".
    kind: str
    #: The name it is attached under.
    name: Optional[str]
    #: The node it is attached to.
    node: Optional[str]
    #: Pause before the next try, in seconds.
    delay: Optional[float]
    #: Records it is about, and how many of them had been acknowledged.
    records: Optional[int]
    acked: Optional[int]
    #: The first record of a batch that cannot be decoded.
    first: Optional[RecordId]
    report: Optional[StopReport]
    error: Optional[HStreamError]


class HandlerFailure(NamedTuple):
    """A handler raised, for `on_failure`."""

    #: What it was given: a batch, or a record.
    work: Union[ReceivedBatch, ReceivedRecord]
    error: BaseException
    #: How often it was tried.
    tries: int


__all__: Tuple[str, ...] = (
    "BatchReport",
    "CloseReport",
    "ConsumerEvent",
    "ConsumerStats",
    "HandlerFailure",
    "Pending",
    "StopReport",
    "UnresolvedShard",
)
