"""`append` and the buffered producer."""

import asyncio

import hstreamdb
from hstreamdb.aio.producer import PayloadTooBig
from server import OURS, PublishedTestCase, consume, offset


class Reports(hstreamdb.BufferedProducer.AppendCallback):
    def __init__(self):
        self.good, self.bad = [], []

    def on_success(self, stream_name, payloads, stream_keyid):
        if payloads:
            self.good.append((stream_name, [p.payload for p in payloads], stream_keyid))

    def on_fail(self, stream_name, payloads, stream_keyid, e):
        self.bad.append((stream_name, [p.payload for p in payloads], e))


class Writing(PublishedTestCase):
    async def read_all(self, stream):
        """Everything in a stream of one shard, through a polled reader."""
        records = []
        start = offset(special=hstreamdb.SpecialOffset.EARLIEST)
        async with self.client.with_reader(stream, "reader-" + stream, start, 0) as reader:
            while True:
                read = list(await reader.read(10))
                if not read:
                    return records
                records.extend(read)

    async def test_append_takes_bytes_text_and_dicts_in_every_compression(self):
        for compression in [None, "gzip"]:
            for level in [1, 9]:
                stream = await self.stream()
                contents = [b"\x00\xffraw", "text", {"a": 1, "b": [True, None, "x"], "c": {"d": 2.5}}]
                ids = list(
                    await self.client.append(stream, contents, key="k", compresstype=compression, compresslevel=level)
                )
                self.assertEqual([id.batch_index for id in ids], [0, 1, 2])
                self.assertEqual(len({(id.shard_id, id.batch_id) for id in ids}), 1)
                records = await self.read_all(stream)
                self.assertEqual([record.id for record in records], ids)
                self.assertEqual(records[0].payload, b"\x00\xffraw")
                self.assertEqual(records[1].payload, b"text")
                self.assertEqual(records[2].payload, {"a": 1.0, "b": [True, None, "x"], "c": {"d": 2.5}})
                for record in records:
                    self.assertEqual(record.header.key, "k")
                    self.assertGreater(record.header.publish_time.seconds, 1_700_000_000)
                    self.assertEqual(record.header.publish_time.nanos % 1_000_000, 0)
        with self.assertRaises(KeyError):
            await self.client.append(stream, [b"x"], compresstype="zstd")

    async def test_ids_of_later_appends_are_larger(self):
        stream = await self.stream()
        ids = [id for _ in range(20) for id in await self.client.append(stream, [b"x", b"y"])]
        self.assertEqual(ids, sorted(ids))
        self.assertEqual(len(set(ids)), 40)

    async def test_a_producer_flushes_by_size(self):
        stream = await self.stream()
        reports = Reports()
        producer = self.client.new_producer(append_callback=reports, size_trigger=100)
        for number in range(25):
            await producer.append(stream, b"%020d" % number)
        with self.assertRaises(PayloadTooBig):
            await producer.append(stream, b"x" * 101)
        await producer.wait_and_close()
        written = [payload for _, payloads, _ in reports.good for payload in payloads]
        self.assertEqual(written, [b"%020d" % number for number in range(25)])
        self.assertTrue(all(len(payloads) <= 5 for _, payloads, _ in reports.good))
        self.assertEqual([record.payload for record in await self.read_all(stream)], written)

    async def test_a_producer_flushes_by_time(self):
        stream = await self.stream()
        producer = self.client.new_producer(time_trigger=0.1)
        await producer.append(stream, b"x")
        while not await self.read_all(stream):
            await asyncio.sleep(0.05)
        await producer.close()
        await producer.wait()

    async def test_a_producer_flushes_when_told(self):
        stream = await self.stream(shard_count=3)
        other = await self.stream()
        shards = await self.client.list_shards(stream)
        reports = Reports()
        producer = self.client.new_producer(append_callback=reports, workers=2)
        for number in range(6):
            await producer.append(stream, str(number), key=str(number))
        await producer.append(other, {"a": 1})
        by_key = self.client._find_shard_id
        await producer.flush(stream, await by_key(stream, "0"))
        await producer.flush_by_key(other)
        with self.assertRaises(ValueError):
            await producer.flush("none", shards[0].id)
        await self.until(lambda: len(reports.good) >= 2)
        self.assertEqual({name for name, _, _ in reports.good}, {stream, other})
        await producer.flushall()
        await producer.wait_and_close()
        written = sorted(p for name, payloads, _ in reports.good if name == stream for p in payloads)
        self.assertEqual(written, [str(number) for number in range(6)])
        self.assertLessEqual({shard for name, _, shard in reports.good if name == stream}, {s.id for s in shards})
        subscription = await self.subscription(stream)
        records = await consume(self.client, subscription, 6)
        self.assertEqual(sorted(record.payload for record in records), [b"%d" % number for number in range(6)])

    async def test_a_failed_flush_is_reported_with_its_payloads(self):
        stream = await self.stream()
        reports = Reports()
        producer = self.client.new_producer(append_callback=reports)
        await producer.append(stream, b"x" * (1024 * 1024 + 20))
        await producer.flush_by_key(stream)
        await self.until(lambda: reports.bad)
        _, payloads, error = reports.bad[0]
        self.assertEqual(len(payloads), 1)
        self.assertEqual(error.code().name, "INVALID_ARGUMENT")
        self.assertIn('"error":207', error.details())
        self.assertEqual(await self.read_all(stream), [])
        await self.leave(producer)

    async def test_a_producer_that_retries_gets_through_once_the_stream_takes_it(self):
        # A stale shard id: the client keeps its list for ever, and an unknown shard is UNAVAILABLE to it.
        stream = await self.stream()
        reports = Reports()
        producer = self.client.new_producer(append_callback=reports, retry_count=2, retry_max_delay=0)
        await producer.append(stream, b"x")
        await self.client.delete_stream(stream)
        await producer.flushall()
        await self.until(lambda: reports.bad)
        self.assertEqual(reports.bad[0][2].code().name, "UNAVAILABLE")
        await self.leave(producer)

    async def leave(self, producer):
        if OURS:
            await producer.wait_and_close()
            return
        # That client never flushes a group again after a failure; leaving is all that is left.
        for worker in producer._workers:
            worker.cancel()

    async def until(self, condition):
        while not condition():
            await asyncio.sleep(0.01)
