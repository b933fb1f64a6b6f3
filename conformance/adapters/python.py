"""The Python adapter: the package's public API behind JSON lines."""

import asyncio
import base64
import json
import sys

import hstreamdb

CLOSE_SECONDS = 20


def failure(error):
    return {
        "kind": error.kind,
        "code": error.code,
        "may_have_been_applied": error.may_have_been_applied,
        "message": str(error),
    }


async def answer(call):
    try:
        return {"ok": await call or {}}
    except hstreamdb.HStreamError as error:
        return {"error": failure(error)}


def shown(batch):
    return [{"id": str(r.id), "key": r.key, "payload": base64.b64encode(r.payload).decode()} for r in batch.records]


def ids_of(texts):
    return [hstreamdb.RecordId.parse(text) for text in texts]


def names(listed):
    return {"names": sorted(listed)}


class Admin:
    """What a client does besides records."""

    def __init__(self, client):
        self.client = client

    async def run(self, command):
        return await getattr(self, command["do"])(**{k: v for k, v in command.items() if k != "do"})

    async def create_stream(self, stream, options):
        await self.client.create_stream(stream, **options)

    async def delete_stream(self, stream, force=False, ignore_missing=False):
        await self.client.delete_stream(stream, force=force, ignore_missing=ignore_missing)

    async def get_stream(self, stream):
        found = (await self.client.get_stream(stream)).as_dict()
        del found["created_ms"]
        return found

    async def list_streams(self, prefix=None):
        return names(stream.name for stream in await self.client.list_streams(prefix=prefix))

    async def list_shards(self, stream):
        shards = await self.client.list_shards(stream)
        return {"shards": [{"id": str(s.id), "start": str(s.start), "end": str(s.end)} for s in shards]}

    async def tail_record_id(self, stream, shard):
        return {"id": str(await self.client.tail_record_id(stream, int(shard)))}

    async def trim_stream(self, stream, before):
        await self.client.trim_stream(stream, before)

    async def trim_shard(self, stream, shard, before):
        await self.client.trim_shard(stream, int(shard), before)

    async def trim_shards(self, stream, ids):
        points = await self.client.trim_shards(stream, ids_of(ids))
        return {"ids": [str(id) for _, id in sorted(points.items())]}

    async def create_subscription(self, subscription, stream, options):
        await self.client.create_subscription(subscription, stream, **options)

    async def get_subscription(self, subscription):
        found, _ = await self.client.get_subscription(subscription)
        return {
            "id": found.subscription_id,
            "stream": found.stream_name,
            "ack_timeout_secs": found.ack_timeout,
            "max_unacked_records": found.max_unacks,
            "offset": found.offset,
        }

    async def list_subscriptions(self, prefix=None):
        return names(found.subscription_id for found in await self.client.list_subscriptions(prefix=prefix))

    async def delete_subscription(self, subscription, force=False):
        await self.client.delete_subscription(subscription, force=force)

    async def list_consumers(self, subscription):
        return names(consumer.name for consumer in await self.client.list_consumers(subscription))


class Adapter(Admin):
    client = producer = reader = url = None

    def __init__(self):
        self.consumers = {}

    async def connect(self, url):
        self.url = url
        self.client = await hstreamdb.connect(url)

    async def together(self, connections, command):
        clients = [await hstreamdb.connect(self.url) for _ in range(connections)]
        answers = await asyncio.gather(*(answer(Admin(client).run(command)) for client in clients))
        for client in clients:
            await client.close(CLOSE_SECONDS)
        return {"answers": answers}

    async def open_producer(self, stream, options):
        self.producer = await self.client.producer(stream, **options)

    def append_many(self, records):
        payloads = [base64.b64decode(payload) for _, payload in records]
        return self.producer.append_many(payloads, [key for key, _ in records])

    async def append(self, records):
        return {"ids": [str(id) for id in await self.append_many(records)]}

    async def close_producer(self, records, timeout_ms):
        appended = asyncio.ensure_future(self.append_many(records))
        report = await self.producer.close(timeout_ms / 1000)
        try:
            outcome = {"ids": [str(id) for id in await appended]}
        except hstreamdb.HStreamError as error:
            outcome = {"failure": failure(error)}
        counts = {name: getattr(report, name) for name in ("acknowledged", "failed", "unresolved")}
        return {**counts, **outcome}

    async def attach(self, subscription, consumer, options):
        self.consumers[consumer] = await self.client.consumer(subscription, **options)

    async def receive(self, consumer, timeout_ms, ack):
        try:
            batch = await asyncio.wait_for(self.consumers[consumer].next_batch(), timeout_ms / 1000)
        except asyncio.TimeoutError:
            return {"records": []}
        if batch is None:
            raise hstreamdb.errors.ClosedError("the consumer was stopped")
        if ack:
            batch.ack()
        try:
            return {"records": shown(batch)}
        except hstreamdb.errors.CodecError as error:
            return {"records": [], "unreadable": failure(error)}

    async def ack(self, consumer, ids):
        self.consumers[consumer].ack(ids_of(ids))

    async def detach(self, consumer):
        report = await self.consumers.pop(consumer).stop(CLOSE_SECONDS)
        return {"clean": report.clean}

    async def open_reader(self, kind, stream, options, shard=None, key=None):
        if kind == "shard":
            self.reader = await self.client.shard_reader(stream, int(shard), **options)
        elif kind == "stream":
            self.reader = await self.client.stream_reader(stream, **options)
        elif kind == "single":
            self.reader = await self.client.single_shard_reader(stream, **options)
        elif kind == "key":
            self.reader = await self.client.key_reader(stream, key, **options)
        elif kind == "polled":
            self.reader = await self.client.polled_reader(stream, int(shard), **options)
        else:
            raise hstreamdb.errors.UnimplementedError(f"there are no {kind} readers")

    async def read(self, timeout_ms):
        if isinstance(self.reader, hstreamdb.PolledReader):
            return await self.poll(timeout_ms)
        try:
            batch = await asyncio.wait_for(self.reader.next_batch(), timeout_ms / 1000)
        except asyncio.TimeoutError:
            return {"records": [], "end": False}
        if batch is None:
            return {"records": [], "end": True}
        return {"records": shown(batch), "end": False}

    async def poll(self, timeout_ms):
        """Until something comes: a polled reader answers at once."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_ms / 1000
        while True:
            batches = await self.reader.read(1)
            if batches or loop.time() >= deadline:
                return {"records": [record for batch in batches for record in shown(batch)], "end": False}
            await asyncio.sleep(0.02)

    async def close_reader(self):
        await self.reader.close()

    async def close(self):
        await self.client.close(CLOSE_SECONDS)


async def main():
    adapter = Adapter()
    loop = asyncio.get_running_loop()
    while True:
        line = await loop.run_in_executor(None, sys.stdin.readline)
        if not line:
            return
        command = json.loads(line)
        if command["do"] == "producer":
            command["do"] = "open_producer"
        print(json.dumps(await answer(adapter.run(command))), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
