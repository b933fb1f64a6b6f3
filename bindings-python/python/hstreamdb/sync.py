"""HStreamDB client for programs without asyncio: the classes and methods of :mod:`hstreamdb`, which wait here.

>>> import hstreamdb.sync
>>> with hstreamdb.sync.connect(url) as client:
...     stream = client.create_stream("readings", shard_count=2)
...     subscription = client.create_subscription("plotter", "readings", offset="earliest")
...     with client.producer("readings") as producer:
...         ids = producer.append_many([b"1", b"2", b"3"], keys="sensor-7")
...     with client.consumer("plotter") as consumer:
...         for batch in consumer:
...             print(batch.payloads)
...             batch.ack()
...             break
[b'1', b'2', b'3']

Every wait lets other threads of Python run, and Ctrl-C ends it. Handles may be shared by threads.
"""

from typing import Any

from ._native import (
    Receipt,
    SyncClient,
    SyncConsumer,
    SyncEvents,
    SyncPolledReader,
    SyncProducer,
    SyncReader,
    _connect_sync,
)

__all__ = [
    "Receipt",
    "SyncClient",
    "SyncConsumer",
    "SyncEvents",
    "SyncPolledReader",
    "SyncProducer",
    "SyncReader",
    "connect",
]


def connect(url: str, **options: Any) -> SyncClient:
    """Connects to a cluster, as :func:`hstreamdb.connect` does, and waits for it."""
    return _connect_sync(url, **options)
