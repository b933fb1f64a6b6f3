"""The published API: buffered appends, appends one by one, consuming.

Usage: published_api.py port records size singles
"""

import asyncio
import sys
import uuid

import hstreamdb
from work import Clock, check, payload, report


class Told(hstreamdb.BufferedProducer.AppendCallback):
    stored = 0

    def on_success(self, stream_name, payloads, stream_keyid):
        self.stored += len(payloads)

    def on_fail(self, stream_name, payloads, stream_keyid, e):
        raise SystemExit("an append failed: %s" % e)


async def main(port, count, size, singles):
    records = [payload(number, size) for number in range(count)]
    async with await hstreamdb.insecure_client(port=port) as client:
        stream, told = "bench-" + uuid.uuid4().hex, Told()
        await client.create_stream(stream)
        await client.create_subscription("sub-" + stream, stream, offset=hstreamdb.SpecialOffset.EARLIEST)
        producer = client.new_producer(append_callback=told, size_trigger=256 * 1024, time_trigger=0.1)
        with Clock(count) as buffered:
            for each in records:
                await producer.append(stream, each)
            await producer.wait_and_close()
        if told.stored != count:
            raise SystemExit("%d of %d records were told of" % (told.stored, count))

        received = []

        async def process(ack, stop, batch):
            batch = list(batch)
            received.extend(record.payload for record in batch)
            await ack([record.id for record in batch])
            if len(received) >= count:
                await stop()

        with Clock(count) as consume:
            await client.new_consumer("c", "sub-" + stream, process).start()
        check(received, count, size)

        single = "single-" + uuid.uuid4().hex
        await client.create_stream(single)
        with Clock(singles) as one_by_one:
            for each in records[:singles]:
                await client.append(single, [each])
    report(append_buffered=buffered, append_one_by_one=one_by_one, consume=consume)


asyncio.run(main(*[int(each) for each in sys.argv[1:]]))
