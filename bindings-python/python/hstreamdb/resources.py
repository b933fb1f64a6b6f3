"""What the cluster describes: streams, subscriptions, queries, connectors, nodes, statistics."""

from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from .errors import HStreamError


class _Stream(NamedTuple):
    name: str
    replication_factor: int


class _Subscription(NamedTuple):
    subscription_id: str
    stream_name: str
    ack_timeout: int
    max_unacks: int


def _everything(described: Any) -> Dict[str, Any]:
    fields = dict(zip(described._fields, described))
    fields.update(vars(described))
    return fields


class Stream(_Stream):
    """A stream: a tuple of its name and replication factor, with what is known besides as attributes.

    >>> stream = Stream("orders", 1, backlog_duration_secs=60, shard_count=4)
    >>> name, replication_factor = stream
    >>> stream.shard_count
    4
    """

    #: Retention in seconds; 0 keeps records for ever. None where nobody said.
    backlog_duration_secs: Optional[int]
    shard_count: Optional[int]
    #: Milliseconds since 1970, if the server says it.
    created_ms: Optional[int]

    def __new__(
        cls,
        name: str,
        replication_factor: int,
        backlog_duration_secs: Optional[int] = None,
        shard_count: Optional[int] = None,
        created_ms: Optional[int] = None,
    ) -> "Stream":
        stream = super().__new__(cls, name, replication_factor)
        stream.backlog_duration_secs = backlog_duration_secs
        stream.shard_count = shard_count
        stream.created_ms = created_ms
        return stream

    def as_dict(self) -> Dict[str, Any]:
        """All of it; `_asdict()` is the tuple's part."""
        return _everything(self)


class Subscription(_Subscription):
    """A subscription: a tuple of id, stream, ack timeout (seconds), limit of open records, and more as attributes."""

    #: Where it started: "earliest" or "latest".
    offset: Optional[str]
    #: Milliseconds since 1970, if the server says it.
    created_ms: Optional[int]

    def __new__(
        cls,
        subscription_id: str,
        stream_name: str,
        ack_timeout: int,
        max_unacks: int,
        offset: Optional[str] = None,
        created_ms: Optional[int] = None,
    ) -> "Subscription":
        subscription = super().__new__(cls, subscription_id, stream_name, ack_timeout, max_unacks)
        subscription.offset = offset
        subscription.created_ms = created_ms
        return subscription

    def as_dict(self) -> Dict[str, Any]:
        """All of it; `_asdict()` is the tuple's part."""
        return _everything(self)


class Shard(NamedTuple):
    """A shard: the keys whose hash is from `start` to `end`, both included."""

    id: int
    stream_name: str
    start: int
    end: int
    epoch: int


class ConsumerInfo(NamedTuple):
    """A consumer that is attached to a subscription."""

    name: str
    #: Where it connects from.
    uri: str
    user_agent: str


class ReadGap(NamedTuple):
    """Records of a shard that a reader passed over because they are not there any more."""

    shard_id: int
    #: "trimmed", "lost", "forbidden" or "unknown".
    kind: str
    #: The first and the last batch that are missing, if they are known.
    first_batch: Optional[int]
    last_batch: Optional[int]


class Node(NamedTuple):
    """A node of the cluster."""

    id: int
    #: `host:port` that this client connects to.
    address: str
    #: "starting", "running", "unavailable" or "dead", as the cluster sees it.
    state: str
    #: Of its software; empty when it does not say, as the next one.
    version: str
    commit: str


class Cluster(NamedTuple):
    """What a node says about its cluster."""

    protocol_version: str
    #: All nodes, those that are not running included.
    nodes: List[Node]
    uptime_secs: int


class ClientEvent(NamedTuple):
    """Something happened in the client's view of the cluster. What does not belong to its kind is None."""

    #: "node_added", "node_removed", "node_state_changed", "node_suspect", "node_trusted", "connected", "disconnected",
    #: "discovery_failed" or "closed".
    kind: str
    node: Optional[Node]
    #: `host:port` of the node it is about.
    address: Optional[str]
    #: The state before, of "node_state_changed".
    before: Optional[str]
    #: Connections to the node that are open now.
    connections: Optional[int]
    error: Optional[HStreamError]


class Query(NamedTuple):
    """A query that goes on for ever."""

    id: str
    state: str
    #: Milliseconds since 1970, if the server says it.
    created_ms: Optional[int]
    sql: str
    #: The streams it reads.
    sources: List[str]
    #: The stream or view it fills.
    result: str
    #: What it makes: a stream or a view.
    kind: str
    #: Number of the node it runs on.
    node_id: int


class View(NamedTuple):
    """The running result of a query, to be selected from."""

    id: str
    state: str
    #: Milliseconds since 1970, if the server says it.
    created_ms: Optional[int]
    sql: str
    columns: List[str]
    #: The query that fills it.
    query: str


class Connector(NamedTuple):
    """A program that brings records in from another system, or out to it."""

    name: str
    #: "SOURCE" or "SINK".
    kind: str
    #: The other system, such as "mysql".
    target: str
    #: Milliseconds since 1970, if the server says it.
    created_ms: Optional[int]
    #: "NEW", "RUNNING", "STOPPED", "FAILED", "COMPLETED" or "DELETED".
    state: str
    #: JSON text; may hold secrets.
    config: str
    #: How far it has come, as its program reports it.
    offsets: List[Dict[str, Any]]
    task_id: str
    #: The node it runs on.
    node: str
    docker_status: str
    image: str

    def __repr__(self) -> str:
        # The configuration may hold secrets.
        return "Connector(name=%r, kind=%r, target=%r, state=%r)" % (self.name, self.kind, self.target, self.state)


class Column(NamedTuple):
    """A column of a stream."""

    #: Place among the columns, from 0.
    index: int  # type: ignore[assignment]  # pyright: ignore[reportIncompatibleMethodOverride]
    name: str
    #: Name of its SQL type, such as "INTEGER".
    data_type: str
    nullable: bool
    #: Whether `SELECT *` leaves it out.
    hidden: bool


class Schema(NamedTuple):
    """The columns of a stream."""

    #: Name of the stream.
    owner: str
    columns: List[Column]


class StatRefusal(NamedTuple):
    """A statistic that a node did not give."""

    #: `host:port`.
    node: str
    stat: str
    message: str


class NodeFailure(NamedTuple):
    """A node that did not answer."""

    #: `host:port`.
    node: str
    error: HStreamError


class NodeStats(NamedTuple):
    """What one node has counted."""

    #: `host:port`.
    node: str
    #: By statistic, by name of the stream, subscription, connector, query or view.
    values: Dict[str, Dict[str, int]]
    refusals: List[StatRefusal]


class ClusterStats(NamedTuple):
    """What all nodes have counted together."""

    #: By statistic and name: the numbers of the nodes that answered, added up.
    totals: Dict[str, Dict[str, int]]
    #: The nodes that answered.
    nodes: List[str]
    #: What nodes that answered did not give: it is missing in `totals`.
    refusals: List[StatRefusal]
    #: Nodes that did not answer: what they have counted is missing in `totals`.
    failures: List[NodeFailure]

    @property
    def is_complete(self) -> bool:
        """Whether every node gave everything."""
        return not self.failures and not self.refusals


class ClusterRates(NamedTuple):
    """A rate of every stream over all nodes."""

    #: By stream one number for each interval, per second.
    rates: Dict[str, List[float]]
    nodes: List[str]
    #: Nodes that did not answer: what happens there is missing in `rates`.
    failures: List[NodeFailure]


__all__: Tuple[str, ...] = (
    "ClientEvent",
    "Cluster",
    "ClusterRates",
    "ClusterStats",
    "Column",
    "Connector",
    "ConsumerInfo",
    "Node",
    "NodeFailure",
    "NodeStats",
    "Query",
    "ReadGap",
    "Schema",
    "Shard",
    "StatRefusal",
    "Stream",
    "Subscription",
    "View",
)
