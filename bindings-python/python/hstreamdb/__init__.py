"""HStreamDB client for asyncio; :mod:`hstreamdb.sync` is the same for programs without.

    import asyncio, hstreamdb

    async def main():
        async with await hstreamdb.connect("hstream://127.0.0.1:6570") as client:
            await client.create_stream("orders", shard_count=4)
            async with client.producer("orders") as producer:
                record_id = await producer.append(b"payload", key="customer-1")

    asyncio.run(main())

Every failure is an :class:`HStreamError`; the classes below it are in :mod:`hstreamdb.errors`. Log lines of the
client go to the logger ``hstreamdb`` and those below it.
"""

import logging

from . import _interpreter  # noqa: F401  # isort: skip
from . import _handlers  # noqa: F401  # isort: skip
from ._native import (
    Client,
    Consumer,
    Events,
    HandlerContext,
    HRecord,
    PolledReader,
    Producer,
    Reader,
    ReceivedBatch,
    ReceivedRecord,
    StreamPosition,
    __version__,
    connect,
    hrecord_decode,
    hrecord_encode,
    metric_table,
    option_table,
    plain_row,
    stat_table,
)
from .aio.client import HStreamDBClient, insecure_client, secure_client
from .aio.messages import ShardOffset, SpecialOffset
from .aio.producer import BufferedProducer
from .errors import *  # noqa: F401,F403
from .errors import __all__ as _errors
from .record_id import RecordId
from .reports import *  # noqa: F401,F403
from .reports import __all__ as _reports
from .resources import *  # noqa: F401,F403
from .resources import __all__ as _resources
from .types import Record, RecordHeader, TimeStamp

# What to show is for the application to say.
logging.getLogger("hstreamdb").addHandler(logging.NullHandler())

# Two classes are named like builtins of Python or asyncio; `import *` must not hide those.
__all__ = [name for name in _errors if name not in ("TimeoutError", "CancelledError")]
__all__ += _reports
__all__ += _resources
# The published API, by which programs written for `hstreamdb` 0.5.0 keep running.
__all__ += [
    "BufferedProducer",
    "HStreamDBClient",
    "Record",
    "RecordHeader",
    "ShardOffset",
    "SpecialOffset",
    "TimeStamp",
    "insecure_client",
    "secure_client",
]
__all__ += [
    "Client",
    "Consumer",
    "Events",
    "HRecord",
    "HandlerContext",
    "PolledReader",
    "Producer",
    "Reader",
    "ReceivedBatch",
    "ReceivedRecord",
    "RecordId",
    "StreamPosition",
    "connect",
    "hrecord_decode",
    "hrecord_encode",
    "metric_table",
    "option_table",
    "plain_row",
    "stat_table",
    "__version__",
]
