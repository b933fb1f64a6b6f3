"""The Python worker of the demo; see `demo/src/worker.rs` for arguments and output."""

import asyncio
import itertools
import json
import sys
import time
import zlib

import hstreamdb

CHUNK = 1000
IDLE_SECONDS = 30


def say(**event):
    print(json.dumps(event), flush=True)


async def append(url, stream, path):
    began = time.perf_counter()
    client = await hstreamdb.connect(url)
    appended = 0
    async with client.producer(stream, batch_max_records=1000) as producer:
        with open(path, "rb") as lines:
            while True:
                chunk = [line.rstrip(b"\n").split(b"\t", 1) for line in itertools.islice(lines, CHUNK)]
                if not chunk:
                    break
                ids = await producer.append_many([payload for _, payload in chunk], [key.decode() for key, _ in chunk])
                appended += len(ids)
                say(event="progress", rows=appended)
    await client.close()
    say(event="done", rows=appended, seconds=time.perf_counter() - began)


async def read(url, subscription, expected):
    began = time.perf_counter()
    client = await hstreamdb.connect(url)
    rows = violations = checksum = 0
    seen, last = set(), {}
    async with client.consumer(subscription) as consumer:
        while len(seen) < expected:
            try:
                batch = await asyncio.wait_for(consumer.next_batch(), IDLE_SECONDS)
            except asyncio.TimeoutError:
                break
            if batch is None:
                break
            for record in batch.records:
                row = json.loads(record.payload)
                rows += 1
                checksum = (checksum + zlib.crc32(record.payload)) & 0xFFFFFFFFFFFFFFFF
                seen.add(row["seq"])
                place = (row["producer"], record.key)
                if row["seq"] <= last.get(place, -1):
                    violations += 1
                last[place] = row["seq"]
            batch.ack()
            say(event="progress", rows=rows)
    await client.close()
    say(
        event="done",
        rows=rows,
        violations=violations,
        duplicates=rows - len(seen),
        checksum=format(checksum, "016x"),
        seconds=time.perf_counter() - began,
    )


if __name__ == "__main__":
    if sys.argv[1] == "append":
        asyncio.run(append(*sys.argv[2:5]))
    else:
        asyncio.run(read(sys.argv[2], sys.argv[3], int(sys.argv[4])))
