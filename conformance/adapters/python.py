"""The Python adapter: the package's public API behind JSON lines."""

import asyncio
import base64
import json
import sys

import hstreamdb

CLOSE_SECONDS = 20


class Adapter:
    client = producer = consumer = None

    async def run(self, command):
        name = command.pop("do")
        return await getattr(self, "do_" + name)(**command) or {}

    async def do_connect(self, url, options=None):
        self.client = await hstreamdb.connect(url, **(options or {}))

    async def do_create_stream(self, stream, shards):
        await self.client.create_stream(stream, shard_count=shards)

    async def do_delete_stream(self, stream):
        await self.client.delete_stream(stream)

    async def do_list_streams(self):
        await self.client.list_streams()

    async def do_create_subscription(self, subscription, stream, ack_timeout_secs=600):
        await self.client.create_subscription(
            subscription, stream, offset="earliest", ack_timeout_secs=ack_timeout_secs
        )

    async def do_delete_subscription(self, subscription):
        await self.client.delete_subscription(subscription)

    async def do_producer(self, stream, options):
        self.producer = await self.client.producer(stream, **options)

    async def do_append(self, records):
        ids = await self.producer.append_many(
            [base64.b64decode(payload) for _, payload in records], [key for key, _ in records]
        )
        return {"ids": [str(id) for id in ids]}

    async def do_attach(self, subscription):
        self.consumer = await self.client.consumer(subscription)

    async def do_receive(self, timeout_ms, ack):
        try:
            batch = await asyncio.wait_for(self.consumer.next_batch(), timeout_ms / 1000)
        except asyncio.TimeoutError:
            return {"records": []}
        if batch is None:
            raise hstreamdb.HStreamError("the subscription ended")
        if ack:
            batch.ack()
        return {
            "records": [
                {"id": str(r.id), "key": r.key, "payload": base64.b64encode(r.payload).decode()} for r in batch.records
            ]
        }

    async def do_detach(self):
        consumer, self.consumer = self.consumer, None
        report = await consumer.stop(CLOSE_SECONDS)
        return {"clean": report.clean}

    async def do_close(self):
        await self.client.close(CLOSE_SECONDS)


async def main():
    adapter = Adapter()
    loop = asyncio.get_running_loop()
    while True:
        line = await loop.run_in_executor(None, sys.stdin.readline)
        if not line:
            return
        try:
            answer = {"ok": await adapter.run(json.loads(line))}
        except hstreamdb.HStreamError as error:
            answer = {
                "error": {
                    "kind": error.kind,
                    "code": error.code,
                    "may_have_been_applied": error.may_have_been_applied,
                    "message": str(error),
                }
            }
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
