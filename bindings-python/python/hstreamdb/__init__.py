"""HStreamDB client for asyncio.

    import asyncio, hstreamdb

    async def main():
        async with await hstreamdb.connect("hstream://127.0.0.1:6570") as client:
            await client.create_stream("orders", shard_count=4)
            async with client.producer("orders") as producer:
                record_id = await producer.append(b"payload", key="customer-1")

    asyncio.run(main())

Every failure is an :class:`HStreamError`; the classes below it are in :mod:`hstreamdb.errors`.
"""

from ._native import (
    Batch,
    Client,
    Consumer,
    Producer,
    Reader,
    Record,
    RecordId,
    __version__,
    connect,
    option_table,
)
from .errors import *  # noqa: F401,F403
from .errors import __all__ as _errors
from .reports import CloseReport, Pending, StopReport
from .resources import ConsumerInfo, Shard, Stream, Subscription

# Two classes are named like builtins of Python or asyncio; `import *` must not hide those.
__all__ = [name for name in _errors if name not in ("TimeoutError", "CancelledError")] + [
    "Batch",
    "Client",
    "CloseReport",
    "Consumer",
    "ConsumerInfo",
    "Pending",
    "Producer",
    "Reader",
    "Record",
    "RecordId",
    "Shard",
    "StopReport",
    "Stream",
    "Subscription",
    "connect",
    "option_table",
    "__version__",
]
