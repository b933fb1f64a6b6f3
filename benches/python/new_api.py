"""The same work over the new API. Usage: new_api.py port records size singles"""

import asyncio
import sys
import uuid

import hstreamdb
from work import Clock, check, payload, report


async def main(port, count, size, singles):
    records = [payload(number, size) for number in range(count)]
    async with await hstreamdb.connect("hstream://127.0.0.1:%d" % port) as client:
        stream = "bench-" + uuid.uuid4().hex
        await client.create_stream(stream)
        await client.create_subscription("sub-" + stream, stream, offset="earliest")
        options = {"batch_max_records": 100_000, "batch_max_bytes": 256 * 1024}
        with Clock(count) as buffered:
            async with client.producer(stream, **options) as producer:
                await asyncio.gather(*[producer.append_many(records[at : at + 500]) for at in range(0, count, 500)])

        received = []
        with Clock(count) as consume:
            async with client.consumer("sub-" + stream) as consumer:
                async for batch in consumer:
                    received.extend(batch.payloads)
                    batch.ack()
                    if len(received) >= count:
                        break
        check(received, count, size)

        single = "single-" + uuid.uuid4().hex
        await client.create_stream(single)
        with Clock(singles) as one_by_one:
            for each in records[:singles]:
                await client.append(single, each)
    report(append_buffered=buffered, append_one_by_one=one_by_one, consume=consume)


asyncio.run(main(*[int(each) for each in sys.argv[1:]]))
