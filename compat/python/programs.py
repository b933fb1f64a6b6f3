"""Programs as they are written for the published client. `python programs.py host port` runs them all and prints what
came out of each as JSON; the same programs run with whatever package is installed.
"""

import asyncio
import collections.abc
import json
import sys
import uuid

import grpc
import hstreamdb
from hstreamdb import RecordId, ShardOffset, SpecialOffset, insecure_client
from hstreamdb.aio.producer import AppendPayload, PayloadTooBig


def name(noun):
    return "%s-%s" % (noun, uuid.uuid4().hex[:12])


def kind(value):
    """What a program can do with a result."""
    kinds = []
    for each in (tuple, list, collections.abc.Iterator, bool, type(None)):
        if isinstance(value, each):
            kinds.append(each.__name__)
    return kinds


def shown(payload):
    # Members of a dict come in any order.
    return json.dumps(payload, sort_keys=True) if isinstance(payload, dict) else repr(payload)


async def appends(client):
    """Payloads of every kind, in every compression, with and without a key."""
    stream = name("stream")
    await client.create_stream(stream, 1, 0, 2)
    out = []
    for compression in (None, "gzip"):
        for key in (None, "", "k", "中文"):
            payloads = [b"raw", "text", {"a": 1, "b": [None, True, 2.5, "x", {}], "c": {"d": -1e300}}]
            ids = await client.append(stream, payloads, key, compression, 3)
            out.append(kind(ids))
            ids = list(ids)
            out.append([isinstance(id, RecordId) and isinstance(id, tuple) for id in ids])
            out.append([id.batch_index for id in ids])
            out.append(len({id[:2] for id in ids}))
    generated = await client.append(stream, (b"%d" % number for number in range(3)))
    out.append([id.batch_index for id in generated])
    subscription = name("sub")
    await client.create_subscription(subscription, stream, 600, 10000, SpecialOffset.EARLIEST)
    received = []

    async def process(ack, stop, records):
        received.append(kind(records))
        records = list(records)
        for record in records:
            id, header, payload = record
            time, key, attributes = header
            fits = record.header.publish_time.seconds == time[0] and isinstance(record, hstreamdb.Record)
            out.append([shown(payload), key, dict(attributes), fits])
        await ack([record.id for record in records])
        if len(out) >= 33 + 27:
            await asyncio.sleep(0.2)
            await stop()

    await client.new_consumer("c", subscription, process).start()
    out.sort(key=repr)
    return out + received[:1]


class Count(hstreamdb.BufferedProducer.AppendCallback):
    def __init__(self):
        self.batches, self.records, self.failed = [], [], []

    def on_success(self, stream_name, payloads, stream_keyid):
        if payloads:
            self.batches.append(sum(len(payload) for payload in payloads))
            self.records.extend(
                [shown(p.payload), p.key, isinstance(p, AppendPayload), isinstance(stream_keyid, int)] for p in payloads
            )

    def on_fail(self, stream_name, payloads, stream_keyid, e):
        self.failed.append([len(payloads), isinstance(e, grpc.aio.AioRpcError), e.code().name])


async def buffered_by_size(client):
    """Every batch is within its size, nothing is lost, one task."""
    stream, count = name("stream"), Count()
    await client.create_stream(stream)
    producer = client.new_producer(append_callback=count, size_trigger=1000, time_trigger=5, retry_count=2)
    for number in range(200):
        await producer.append(stream, b"%050d" % number, key="k")
        await producer.append(stream, {"n": number})
    try:
        await producer.append(stream, "x" * 1001)
    except PayloadTooBig as error:
        count.failed.append(type(error).__mro__[1].__name__)
    await producer.wait_and_close()
    return [sorted(count.records), max(count.batches) <= 1000, count.failed]


async def buffered_by_time(client):
    """One batch per pause."""
    stream, count = name("stream"), Count()
    await client.create_stream(stream)
    producer = client.new_producer(count, 10240, 0.05)
    for number in range(3):
        await producer.append(stream, "one %d" % number)
        await producer.append(stream, "two %d" % number)
        while len(count.records) < 2 * (number + 1):
            await asyncio.sleep(0.01)
    await producer.close()
    await producer.wait()
    return [count.records, count.batches, count.failed]


async def buffered_by_flush(client):
    """Nothing is sent before it is flushed."""
    stream, count = name("stream"), Count()
    await client.create_stream(stream, shard_count=3)
    producer = client.new_producer(append_callback=count, workers=3)
    for number in range(9):
        await producer.append(stream, str(number), key=str(number))
    await asyncio.sleep(0.3)
    before = len(count.records)
    await producer.flushall()
    while len(count.records) < 9:
        await asyncio.sleep(0.01)
    try:
        await producer.flush_by_key(name("none"))
        outcome = None
    except Exception as error:
        outcome = isinstance(error, (ValueError, RuntimeError, hstreamdb_error()))
    await producer.append(stream, b"late", key="x")
    await producer.wait_and_close()
    return [before, sorted(count.records), len(count.batches), outcome]


def hstreamdb_error():
    return getattr(hstreamdb, "HStreamError", ValueError)


async def offsets(client):
    """Readers from everywhere."""
    stream, out = name("stream"), []
    await client.create_stream(stream)
    ids = [id for number in range(5) for id in await client.append(stream, ["%d" % number])]
    wanted = []
    for special in (SpecialOffset.EARLIEST, SpecialOffset.LATEST):
        offset = ShardOffset()
        offset.specialOffset = special
        wanted.append(offset)
    offset = ShardOffset()
    offset.recordOffset.shardId, offset.recordOffset.batchId = ids[2].shard_id, ids[2].batch_id
    offset.recordOffset.batchIndex = ids[2].batch_index
    wanted.append(offset)
    offset = ShardOffset()
    offset.timestampOffset.timestampInMs = 1000
    offset.timestampOffset.strictAccuracy = True
    wanted.append(offset)
    wanted.append(ShardOffset(specialOffset=SpecialOffset.Value("EARLIEST")))
    for offset in wanted:
        reader = name("reader")
        response = await client.create_reader(stream, reader, offset, 100, stream_key="k")
        out.append([response.readerId == reader, response.shardId == ids[0].shard_id, response.timeout])
        read = await client.read_reader(reader, 3)
        out.append(kind(read))
        out.append([shown(record.payload) for record in read])
        out.append([shown(record.payload) for record in await client.read_reader(reader, 100)])
        out.append(kind(await client.delete_reader(reader)))
    async with client.with_reader(stream, name("reader"), wanted[0], 0, shard_id=ids[0].shard_id) as reader:
        out.append([shown(record.payload) for record in await reader.read(2)])
        out.append([shown(record.payload) for record in await reader.read(max_records=2)])
    return out


async def looking_around(client):
    """Lists and their kinds."""
    stream, subscription, out = name("stream"), name("sub"), []
    out.append(kind(await client.create_stream(name=stream, replication_factor=1, backlog=60, shard_count=2)))
    streams = await client.list_streams()
    out.append(kind(streams))
    ((its_name, factor),) = [each for each in streams if each.name == stream]
    out.append([its_name == stream, factor])
    shards = await client.list_shards(stream)
    out.append([kind(shards), [[shard[2], shard.end, shard.epoch] for shard in shards]])
    out.append(kind(await client.create_subscription(subscription, stream, ack_timeout=5, max_unacks=7)))
    subscriptions = await client.list_subscriptions()
    out.append(kind(subscriptions))
    (found,) = [each for each in subscriptions if each.subscription_id == subscription]
    out.append([found == (subscription, stream, 5, 7), repr(found).replace(subscription, "S").replace(stream, "T")])
    out.append([await client.does_subscription_exist(id) for id in (subscription, "none")])
    out.append(kind(await client.delete_subscription(subscription, force=True)))
    out.append(kind(await client.delete_stream(stream)))
    out.append(kind(await client.delete_stream(stream, ignore_non_exist=True)))
    return out


async def refusals(client):
    """What is raised, as far as both say the same."""
    stream, out = name("stream"), []
    await client.create_stream(stream)
    await client.create_subscription("sub-" + stream, stream)
    await client.create_reader(stream, "reader-" + stream, ShardOffset(specialOffset=0), 0)
    calls = [
        lambda: client.create_stream(stream),
        lambda: client.delete_stream("none"),
        lambda: client.delete_stream(stream),
        lambda: client.create_stream("1st"),
        lambda: client.create_subscription("sub-" + stream, stream),
        lambda: client.create_subscription(name("sub"), "none"),
        lambda: client.delete_subscription("none"),
        lambda: client.new_consumer("c", "none", None).start(),
        lambda: client.create_reader(stream, "reader-" + stream, ShardOffset(specialOffset=0), 0),
        lambda: client.create_reader(stream, name("reader"), ShardOffset(), 0),
        lambda: client.read_reader("none", 1),
        lambda: client.delete_reader("none"),
    ]
    for call in calls:
        try:
            await call()
            out.append("nothing")
        except grpc.RpcError as error:
            assert isinstance(error, grpc.aio.AioRpcError)
            body = json.loads(error.details())
            out.append([error.code().name, body["error"], body["message"], sorted(body)])
    for wrong in (lambda: client.append(stream, [1]), lambda: client.append(stream, [b"x"], compresstype="lz4")):
        try:
            await wrong()
            out.append("nothing")
        except (ValueError, KeyError) as error:
            out.append(type(error).__name__)
    return out


PROGRAMS = [appends, buffered_by_size, buffered_by_time, buffered_by_flush, offsets, looking_around, refusals]


async def main(host, port):
    results = {}
    for program in PROGRAMS:
        async with await insecure_client(host=host, port=port) as client:
            results[program.__name__] = await asyncio.wait_for(program(client), 60)
    json.dump(results, sys.stdout, indent=1)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2]))
