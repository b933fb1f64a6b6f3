"""Streams, shards, subscriptions and consumers as the server describes them."""

from typing import NamedTuple, Optional


class Stream(NamedTuple):
    """A stream."""

    name: str
    replication_factor: int
    #: Retention in seconds; 0 keeps records for ever.
    backlog_duration_secs: int
    shard_count: int
    #: Milliseconds since 1970, if the server says it.
    created_ms: Optional[int]


class Shard(NamedTuple):
    """A shard: the keys whose hash is from `start` to `end`, both included."""

    id: int
    stream_name: str
    start: int
    end: int
    epoch: int


class Subscription(NamedTuple):
    """A subscription."""

    subscription_id: str
    stream_name: str
    #: Seconds.
    ack_timeout: int
    max_unacks: int
    #: Where it started: "earliest" or "latest".
    offset: Optional[str]
    #: Milliseconds since 1970, if the server says it.
    created_ms: Optional[int]


class ConsumerInfo(NamedTuple):
    """A consumer that is attached to a subscription."""

    name: str
    #: Where it connects from.
    uri: str
    user_agent: str
