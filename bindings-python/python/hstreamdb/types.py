"""The named tuples of the published API, and conversions from the wire's messages.

The conversions take whatever has the fields of such a message, protobuf's among them; nothing of protobuf is needed.
"""

from typing import Any, Dict, NamedTuple, Optional, Union

from .aio.messages import RecordIdMessage, ShardOffset, SpecialOffset
from .record_id import RecordId
from .resources import Shard, Stream, Subscription

__all__ = [
    "Record",
    "RecordHeader",
    "RecordId",
    "Shard",
    "ShardOffset",
    "SpecialOffset",
    "Stream",
    "Subscription",
    "TimeStamp",
    "record_id_from",
    "record_id_to",
    "shard_type_from",
    "stream_type_from",
    "subscription_type_from",
]


class TimeStamp(NamedTuple):
    """A moment since 1970."""

    seconds: int
    nanos: int


class RecordHeader(NamedTuple):
    """What a record has beside its content."""

    #: When it was appended, by the server's clock.
    publish_time: TimeStamp
    #: None for a record without one.
    key: Optional[str]
    attributes: Dict[str, str]


class Record(NamedTuple):
    """A record that was read."""

    id: RecordId
    header: RecordHeader
    #: A dict where one was appended.
    payload: Union[bytes, Dict[str, Any]]


def record_id_from(record_id: Any) -> RecordId:
    """The id of a message with `shardId`, `batchId` and `batchIndex`."""
    return RecordId(record_id.shardId, record_id.batchId, record_id.batchIndex)


def record_id_to(record_id: RecordId) -> RecordIdMessage:
    """The id as a message of the shape of protobuf's, to be assigned from."""
    shard_id, batch_id, batch_index = record_id
    return RecordIdMessage(shardId=shard_id, batchId=batch_id, batchIndex=batch_index)


def shard_type_from(shard: Any) -> Shard:
    """The shard of a message with `shardId`, `streamName`, the ends of the key range as text, and `epoch`."""
    start, end = int(shard.startHashRangeKey), int(shard.endHashRangeKey)
    return Shard(shard.shardId, shard.streamName, start, end, shard.epoch)


def stream_type_from(stream: Any) -> Stream:
    """The stream of a message with `streamName` and `replicationFactor`."""
    return Stream(stream.streamName, stream.replicationFactor)


def subscription_type_from(sub: Any) -> Subscription:
    """The subscription of a message with `subscriptionId`, `streamName`, `ackTimeoutSeconds`, `maxUnackedRecords`."""
    return Subscription(sub.subscriptionId, sub.streamName, sub.ackTimeoutSeconds, sub.maxUnackedRecords)
