"""The client of the published API, over a client of the new one."""

import asyncio
import logging
from typing import (
    Any,
    AsyncContextManager,
    Awaitable,
    Callable,
    Dict,
    Iterable,
    Iterator,
    List,
    NamedTuple,
    Optional,
    Union,
    cast,
)
from urllib.parse import urlparse

from .._native import Client, PolledReader, connect
from ..errors import ClosedError
from ..record_id import RecordId
from ..resources import Shard, Stream, Subscription
from ..types import Record
from ..utils import encode_payload
from .consumer import Consumer, ProcessingFunc, records_of
from .errors import invalid, published
from .messages import SpecialOffset, start_of
from .producer import QUICK_TRIES, BufferedProducer, compression_of

__all__ = ["HStreamDBClient", "insecure_client", "secure_client"]

logger = logging.getLogger(__name__)

#: Milliseconds that a reader of somebody else may be set to wait, as far as we know.
_LONGEST_READ = 60_000


class CreatedReader(NamedTuple):
    """What `create_reader` gives: the fields of the server's answer."""

    streamName: str
    shardId: int
    shardOffset: Any
    readerId: str
    #: Milliseconds.
    timeout: int


class ScopedReader:
    """What `with_reader` gives."""

    def __init__(self, reader: PolledReader) -> None:
        self._reader = reader

    @published
    async def read(self, max_records: int) -> Iterator[Record]:
        """What follows, of at most so many batches; nothing when none came within the reader's timeout."""
        return _records(await self._reader.read(max_records))


class _Scope:
    """The block of a `with_reader`."""

    def __init__(self, open: Callable[[], Awaitable[PolledReader]]) -> None:
        self._open = open
        self._reader: Optional[PolledReader] = None

    @published
    async def __aenter__(self) -> ScopedReader:
        reader = await self._open()
        self._reader = reader
        return ScopedReader(reader)

    @published
    async def __aexit__(self, *exception: Any) -> None:
        if self._reader is not None:
            await self._reader.close()


class HStreamDBClient:
    """A client, which connects when it is used; `async with` closes it.

    The client of the new API below it is `client`.
    """

    def __init__(
        self, host: str = "127.0.0.1", port: Union[int, str] = 6570, credentials: Optional[Any] = None
    ) -> None:
        if credentials is not None:
            raise TypeError(
                "credentials of grpcio cannot be looked into: use secure_client with the same certificates in PEM"
            )
        self._start(_url("hstream", host, port), {})

    @classmethod
    def over(cls, client: Client) -> "HStreamDBClient":
        """The published API over a client of the new one, which was connected with whatever options."""
        made = cls.__new__(cls)
        made._start("", {})
        made._client = client
        return made

    @classmethod
    def _of(cls, url: str, options: Dict[str, Any]) -> "HStreamDBClient":
        made = cls.__new__(cls)
        made._start(url, options)
        return made

    def _start(self, url: str, options: Dict[str, Any]) -> None:
        self._url = url
        self._options = options
        self._client: Optional[Client] = None
        self._connecting: Optional["asyncio.Future[Client]"] = None
        self._is_closed = False
        #: How long reads of the readers that were created here wait.
        self._reader_waits: Dict[str, int] = {}

    @property
    def client(self) -> Client:
        """The client of the new API, over the same connections.

        Raises `ClosedError` before there is one.
        """
        if self._client is None:
            raise ClosedError("the client is not connected yet: await init_cluster_info() first")
        return self._client

    async def _connected(self) -> Client:
        if self._client is not None:
            return self._client
        if self._is_closed:
            raise ClosedError("the client was closed")
        if self._connecting is None:
            connecting: "asyncio.Future[Client]" = asyncio.ensure_future(connect(self._url, **self._options))
            connecting.add_done_callback(self._has_connected)
            self._connecting = connecting
        # Others may wait for the same connection.
        return await asyncio.shield(self._connecting)

    def _has_connected(self, connecting: "asyncio.Future[Client]") -> None:
        self._connecting = None
        if not connecting.cancelled() and connecting.exception() is None:
            self._client = connecting.result()

    @published
    async def init_cluster_info(self) -> None:
        """Connects, if that has not happened yet."""
        await self._connected()

    @published
    async def close(self) -> None:
        """Closes the client with its producers and consumers, after what is in flight. May be called again."""
        self._is_closed = True
        if self._connecting is not None:
            await asyncio.wait([self._connecting])
        if self._client is not None:
            await self._client.close()

    @published
    async def create_stream(
        self, name: str, replication_factor: int = 1, backlog: int = 0, shard_count: int = 1
    ) -> None:
        """Creates a stream. `backlog`: seconds for which records are kept; 0 keeps them for ever."""
        if replication_factor < 1:
            raise invalid(203, "InvalidReplicaFactor")
        if shard_count < 1:
            raise invalid(205, "InvalidShardCount")
        client = await self._connected()
        await client.create_stream(
            name,
            replication_factor=replication_factor,
            backlog_duration_secs=backlog,
            shard_count=shard_count,
        )

    @published
    async def delete_stream(self, name: str, ignore_non_exist: bool = False, force: bool = False) -> None:
        """Deletes a stream; with `force` also one that has subscriptions."""
        client = await self._connected()
        await client.delete_stream(name, ignore_missing=ignore_non_exist, force=force)

    @published
    async def list_streams(self) -> Iterator[Stream]:
        """All streams."""
        client = await self._connected()
        return iter(await client.list_streams())

    @published
    async def append(
        self,
        name: str,
        payloads: Iterable[Any],
        key: Optional[str] = None,
        compresstype: Optional[str] = None,
        compresslevel: int = 9,
    ) -> Iterator[RecordId]:
        """Appends bytes, texts and dicts as one batch, and gives their ids.

        `compresstype`: None or `"gzip"`; `compresslevel`: 0 to 9.
        """
        options = compression_of(compresstype, compresslevel)
        # Programs are used to hear of an outage at once.
        options["retry_max_attempts"] = QUICK_TRIES
        client = self._client or await self._connected()
        # A single text or bytes is refused below: it would be taken apart.
        if not isinstance(payloads, (list, str, bytes)):
            payloads = list(payloads)
        if not payloads:
            raise invalid(206, "BatchedRecord shouldn't be Nothing")
        try:
            appending = client.append_many(name, cast(Any, payloads), key, **options)
        except TypeError:
            # As for a producer's payload.
            for payload in payloads:
                encode_payload(payload)
            raise
        return iter(await appending)

    def new_producer(
        self,
        append_callback: Optional[BufferedProducer.AppendCallback] = None,
        size_trigger: int = 0,
        time_trigger: float = 0,
        workers: int = 1,
        retry_count: int = 0,
        retry_max_delay: float = 60,
        compresstype: Optional[str] = None,
        compresslevel: int = 9,
    ) -> BufferedProducer:
        """A producer that collects records.

        A batch is sent before its payloads exceed `size_trigger` bytes (0: as large as servers take), when its first
        record is `time_trigger` seconds old (0: at no age), and when it is flushed. A batch that failed is sent again
        `retry_count` times (below 0: for ever) after pauses of 1, 2, 4, … seconds up to `retry_max_delay`, unless it
        was refused for good; with 0 it is tried a few times within about two seconds. `workers` makes no difference
        any more.
        """
        return BufferedProducer(
            self._connected,
            append_callback=append_callback,
            size_trigger=size_trigger,
            time_trigger=time_trigger,
            workers=workers,
            retry_count=retry_count,
            retry_max_delay=retry_max_delay,
            compresstype=compresstype,
            compresslevel=compresslevel,
        )

    @published
    async def list_shards(self, stream_name: str) -> List[Shard]:
        """The shards of a stream."""
        client = await self._connected()
        return list(await client.list_shards(stream_name))

    @published
    async def create_subscription(
        self,
        subscription_id: str,
        stream_name: str,
        ack_timeout: int = 600,
        max_unacks: int = 10000,
        offset: Union[int, str] = SpecialOffset.LATEST,
    ) -> None:
        """Creates a subscription. `ack_timeout`: seconds; `offset`: `SpecialOffset.EARLIEST` or `.LATEST`."""
        client = await self._connected()
        await client.create_subscription(
            subscription_id,
            stream_name,
            ack_timeout_secs=ack_timeout,
            max_unacked_records=max_unacks,
            offset=(offset if isinstance(offset, str) else SpecialOffset.Name(offset)).lower(),
        )

    @published
    async def list_subscriptions(self) -> Iterator[Subscription]:
        """All subscriptions."""
        client = await self._connected()
        return iter(await client.list_subscriptions())

    @published
    async def does_subscription_exist(self, subscription_id: str) -> bool:
        """Whether there is such a subscription."""
        client = await self._connected()
        return await client.subscription_exists(subscription_id)

    @published
    async def delete_subscription(self, subscription_id: str, force: bool = False) -> None:
        """Deletes a subscription; with `force` also one that has consumers."""
        client = await self._connected()
        await client.delete_subscription(subscription_id, force=force)

    def new_consumer(self, name: str, subscription_id: str, processing_func: ProcessingFunc) -> Consumer:
        """A consumer, which `start` runs: every batch goes to `processing_func(ack, stop, records)`."""
        return Consumer(name, subscription_id, self._connected, processing_func)

    def with_reader(
        self,
        stream_name: str,
        reader_id: str,
        shard_offset: Any,
        timeout: int,
        shard_id: Optional[int] = None,
        stream_key: Optional[str] = None,
    ) -> AsyncContextManager[ScopedReader]:
        """A reader for an `async with` block, at the end of which it is deleted; arguments as for `create_reader`."""

        async def open() -> PolledReader:
            shard = await self._shard(stream_name, shard_id, stream_key)
            client = await self._connected()
            return await client.polled_reader(
                stream_name, shard, from_=_start(shard_offset, shard), timeout_ms=timeout, reader_id=reader_id
            )

        return _Scope(open)

    @published
    async def create_reader(
        self,
        stream_name: str,
        reader_id: str,
        shard_offset: Any,
        timeout: int,
        shard_id: Optional[int] = None,
        stream_key: Optional[str] = None,
    ) -> CreatedReader:
        """Creates a reader, which stays on the server until it is deleted.

        It reads the shard `shard_id`, or the one that `stream_key` belongs to. `timeout`: milliseconds that a read
        waits when nothing is there.
        """
        shard = await self._shard(stream_name, shard_id, stream_key)
        client = await self._connected()
        await client.create_shard_reader(
            stream_name, shard, from_=_start(shard_offset, shard), timeout_ms=timeout, reader_id=reader_id
        )
        self._reader_waits[reader_id] = timeout
        return CreatedReader(stream_name, shard, shard_offset, reader_id, timeout)

    @published
    async def read_reader(self, reader_id: str, max_records: int) -> Iterator[Record]:
        """What follows, of at most so many batches; nothing when none came within the reader's timeout."""
        client = await self._connected()
        wait = self._reader_waits.get(reader_id, _LONGEST_READ) / 1000
        return _records(await client.read_shard_reader(reader_id, max_records, wait=wait))

    @published
    async def delete_reader(self, reader_id: str) -> None:
        """Deletes a reader."""
        client = await self._connected()
        await client.delete_shard_reader(reader_id)
        self._reader_waits.pop(reader_id, None)

    async def _shard(self, stream_name: str, shard_id: Optional[int], key: Optional[str]) -> int:
        if shard_id is not None:
            return shard_id
        return await self._find_shard_id(stream_name, key)

    async def _find_shard_id(self, stream_name: str, key: Optional[str] = None) -> int:
        client = await self._connected()
        return (await client.shard_for_key(stream_name, key or "")).id

    async def __aenter__(self) -> "HStreamDBClient":
        return self

    async def __aexit__(self, *exception: Any) -> None:
        await self.close()


async def insecure_client(
    host: str = "127.0.0.1", port: Union[int, str] = 6570, url: Optional[str] = None
) -> HStreamDBClient:
    """A client in the clear. `url`, such as `hstream://host:6570`, counts instead of host and port.

    Raises `KeyError` for a URL of another scheme.
    """
    return await _connect("hstream", host, port, url, {})


async def secure_client(
    host: str = "127.0.0.1",
    port: Union[int, str] = 6570,
    url: Optional[str] = None,
    is_creds_file: bool = False,
    root_certificates: Optional[Any] = None,
    private_key: Optional[Any] = None,
    certificate_chain: Optional[Any] = None,
) -> HStreamDBClient:
    """A client over TLS, to every node. `url`, such as `hstreams://host:6570`, counts instead of host and port.

    Certificates and key are bytes in PEM, or with `is_creds_file` the paths of such files. Without `root_certificates`
    those of the system are trusted; key and chain are for servers that want to know the client.

    Raises `KeyError` for a URL of another scheme.
    """
    kind = "path" if is_creds_file else "pem"
    given = {
        "tls_ca_" + kind: root_certificates,
        "tls_key_" + kind: private_key,
        "tls_cert_" + kind: certificate_chain,
    }
    options = {name: value for name, value in given.items() if value is not None}
    return await _connect("hstreams", host, port, url, options)


@published
async def _connect(
    scheme: str, host: str, port: Union[int, str], url: Optional[str], options: Dict[str, Any]
) -> HStreamDBClient:
    if url:
        parsed = urlparse(url)
        if parsed.scheme != scheme:
            raise KeyError("the url %r is no %s:// url" % (url, scheme))
    client = HStreamDBClient._of(url or _url(scheme, host, port), options)
    await client.init_cluster_info()
    return client


def _url(scheme: str, host: str, port: Union[int, str]) -> str:
    if ":" in host and not host.startswith("["):
        host = "[%s]" % host
    return "%s://%s:%s" % (scheme, host, port)


def _start(shard_offset: Any, shard_id: int) -> Union[str, int, RecordId]:
    start = start_of(shard_offset)
    if start is None:
        raise invalid(208, "InvalidShardOffset")
    if isinstance(start, RecordId) and start.shard_id != shard_id:
        raise invalid(901, "ConflictShardReaderOffset")
    return start


def _records(batches: Iterable[Any]) -> Iterator[Record]:
    for batch in batches:
        yield from records_of(batch)
