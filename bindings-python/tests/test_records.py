"""Records go in and come out again: producers, consumers, readers."""

import asyncio
import pickle
import unittest

import hstreamdb
from hstreamdb._arrival import arrive
from server_process import ServerTestCase, receive, run


class Append(ServerTestCase):
    def test_append_many_gives_one_increasing_id_per_record(self):
        async def main():
            async with await hstreamdb.connect(self.url) as client:
                stream = self.unique()
                await client.create_stream(stream)
                async with client.producer(stream) as producer:
                    ids = await producer.append_many([b"%d" % n for n in range(500)])
            self.assertEqual(len(ids), 500)
            self.assertEqual(ids, sorted(set(ids)))

        run(main())

    def test_appends_that_are_not_awaited_one_by_one_keep_their_order(self):
        async def main():
            async with await hstreamdb.connect(self.url) as client:
                stream = self.unique()
                await client.create_stream(stream)
                # Room for few records only: most calls have to wait for their turn.
                producer = client.producer(stream, flow_control_records=7, batch_max_records=3)
                async with producer:
                    futures = [producer.append(b"%d" % n, key="k") for n in range(300)]
                    ids = await asyncio.gather(*futures)
                    self.assertEqual(tuple(producer.pending), (0, 0))
                self.assertEqual(ids, sorted(set(ids)))

        run(main())

    def test_every_payload_type_arrives_unchanged(self):
        payloads = [
            b"\x00\xffbytes",
            bytearray(b"array"),
            memoryview(b"view"),
            "t\u00e9xt",
            b"",
            {"a": [1, "x"]},
        ]

        async def main():
            async with await hstreamdb.connect(self.url) as client:
                stream, subscription = self.unique(), self.unique("sub")
                await client.create_stream(stream)
                await client.create_subscription(subscription, stream, offset="earliest")
                async with client.producer(stream) as producer:
                    ids = await producer.append_many(payloads, keys="k")
                async with client.consumer(subscription) as consumer:
                    records = await receive(consumer, len(payloads))
            self.assertEqual([record.id for record in records], ids)
            self.assertEqual({record.key for record in records}, {"k"})
            expected = [b"\x00\xffbytes", b"array", b"view", "t\u00e9xt".encode(), b""]
            self.assertEqual([record.payload for record in records[:5]], expected)
            self.assertEqual(records[5].kind, "hrecord")
            self.assertEqual(records[5].json(), {"a": [1, "x"]})
            self.assertGreater(records[0].publish_time_ms, 1_500_000_000_000)

        run(main())

    def test_keys_must_match_payloads(self):
        async def main():
            async with await hstreamdb.connect(self.url) as client:
                stream = self.unique()
                await client.create_stream(stream)
                async with client.producer(stream) as producer:
                    for keys in (["a"], ["a", "b", "c"]):
                        with self.assertRaises(hstreamdb.InvalidArgumentError):
                            producer.append_many([b"1", b"2"], keys)
                    for wrong in (7, None, [b"x"]):
                        with self.assertRaises(TypeError):
                            producer.append(wrong)
                    with self.assertRaises(TypeError):
                        producer.append_many(b"one payload, not a list")
                    self.assertEqual(len(await producer.append_many([b"1", b"2"], ["a", None])), 2)
                    self.assertEqual(await producer.append_many([]), [])

        run(main())


class Consume(ServerTestCase):
    def test_records_of_all_shards_arrive_once_and_in_order_per_key(self):
        async def main():
            async with await hstreamdb.connect(self.url) as client:
                stream, subscription = self.unique(), self.unique("sub")
                await client.create_stream(stream, shard_count=4)
                await client.create_subscription(subscription, stream, offset="earliest")
                keys = ["key-%d" % (n % 10) for n in range(2000)]
                async with client.producer(stream) as producer:
                    for start in range(0, 2000, 500):
                        part = range(start, start + 500)
                        await producer.append_many([b"%d" % n for n in part], [keys[n] for n in part])
                last, seen = {}, set()
                async with client.consumer(subscription) as consumer:
                    async for batch in consumer:
                        self.assertEqual(len(batch), len(batch.records))
                        self.assertEqual([record.id for record in batch], list(batch.ids))
                        for record in batch:
                            number = int(record.payload)
                            self.assertEqual(record.key, keys[number])
                            self.assertLess(last.get(record.key, -1), number)
                            last[record.key] = number
                            seen.add(number)
                        consumer.ack(batch.ids)
                        if len(seen) == 2000:
                            break
                self.assertEqual(seen, set(range(2000)))

        run(main())

    def test_acked_records_are_not_delivered_to_the_next_consumer(self):
        async def main():
            async with await hstreamdb.connect(self.url) as client:
                stream, subscription = self.unique(), self.unique("sub")
                await client.create_stream(stream)
                await client.create_subscription(subscription, stream, offset="earliest")
                async with client.producer(stream) as producer:
                    await producer.append_many([b"first-%d" % n for n in range(50)])
                    consumer = await client.consumer(subscription)
                    for record in await receive(consumer, 50, ack=False):
                        record.ack()
                    report = await consumer.stop()
                    self.assertTrue(report.clean)
                    self.assertEqual(report.unsent_acks, 0)
                    await producer.append(b"second")
                async with client.consumer(subscription) as consumer:
                    records = await receive(consumer, 1)
                self.assertEqual([record.payload for record in records], [b"second"])

        run(main())

    def test_a_timeout_of_the_caller_loses_no_batch(self):
        async def main():
            async with await hstreamdb.connect(self.url) as client:
                stream, subscription = self.unique(), self.unique("sub")
                await client.create_stream(stream)
                await client.create_subscription(subscription, stream, offset="earliest")
                async with client.producer(stream, batch_max_age_ms=0) as producer:
                    async with client.consumer(subscription) as consumer:
                        seen = []

                        async def take():
                            # Mostly too short: many waits end just when a batch arrives.
                            for _ in range(3000):
                                try:
                                    batch = await asyncio.wait_for(consumer.next_batch(), 0.002)
                                except asyncio.TimeoutError:
                                    continue
                                seen.extend(int(record.payload) for record in batch)
                                batch.ack()
                                if len(seen) >= 100:
                                    return

                        taker = asyncio.ensure_future(take())
                        for number in range(100):
                            await producer.append(b"%d" % number)
                        await taker
                        while len(seen) < 100:
                            for record in await receive(consumer, 1, seconds=20):
                                seen.append(int(record.payload))
                self.assertEqual(seen, list(range(100)))

        run(main())

    def test_next_batch_gives_none_after_stop(self):
        async def main():
            async with await hstreamdb.connect(self.url) as client:
                stream, subscription = self.unique(), self.unique("sub")
                await client.create_stream(stream)
                await client.create_subscription(subscription, stream)
                consumer = await client.consumer(subscription)
                waiting = asyncio.ensure_future(consumer.next_batch())
                await asyncio.sleep(0)
                await consumer.stop()
                self.assertIsNone(await waiting)
                self.assertEqual([batch async for batch in consumer], [])

        run(main())


class Arrival(unittest.TestCase):
    """The moment between a result and a cancellation, which no timing can hit for sure."""

    def lost(self, settle):
        returned = []

        class Handle:
            def _pull(self, iterating):
                return self.future

            def _put_back(self, value):
                returned.append(value)

            def _took(self, value):
                raise AssertionError("nobody has it")

        async def main():
            handle = Handle()
            handle.future = asyncio.get_running_loop().create_future()
            task = asyncio.ensure_future(arrive(handle, False))
            await asyncio.sleep(0)
            settle(handle.future)
            task.cancel()
            with self.assertRaises(asyncio.CancelledError):
                await task
            self.assertTrue(handle.future.done())

        run(main())
        return returned

    def test_a_result_that_a_cancelled_task_cannot_take_goes_back(self):
        self.assertEqual(self.lost(lambda future: future.set_result("batch")), ["batch"])

    def test_an_error_that_a_cancelled_task_cannot_take_goes_back(self):
        error = hstreamdb.HStreamError("gone")
        self.assertEqual(self.lost(lambda future: future.set_exception(error)), [error])

    def test_a_cancelled_wait_cancels_the_call(self):
        self.assertEqual(self.lost(lambda future: None), [])


class Read(ServerTestCase):
    def test_readers_give_what_was_appended(self):
        async def main():
            async with await hstreamdb.connect(self.url) as client:
                stream = self.unique()
                await client.create_stream(stream, shard_count=2)
                async with client.producer(stream) as producer:
                    ids = await producer.append_many(
                        [b"%d" % n for n in range(100)], ["key-%d" % (n % 10) for n in range(100)]
                    )
                by_shard = {}
                for shard in await client.list_shards(stream):
                    wanted = [record_id for record_id in ids if record_id.shard_id == shard.id]
                    got = by_shard.setdefault(shard.id, [])
                    if not wanted:
                        continue
                    async with client.shard_reader(stream, shard.id, from_="earliest") as reader:
                        async for batch in reader:
                            got.extend(batch.ids)
                            with self.assertRaises(hstreamdb.InvalidArgumentError):
                                batch.ack()
                            if len(got) >= len(wanted):
                                break
                    self.assertEqual(got, wanted)
                everything = set()
                async with client.stream_reader(stream, from_="earliest") as reader:
                    while len(everything) < 100:
                        batch = await asyncio.wait_for(reader.next_batch(), 20)
                        everything.update(batch.ids)
                self.assertEqual(everything, set(ids))

        run(main())


class Identity(unittest.TestCase):
    def test_record_ids_are_values(self):
        first = hstreamdb.RecordId(1, 2, 9)
        self.assertEqual(first, hstreamdb.RecordId.parse("1-2-9"))
        self.assertEqual(str(first), "1-2-9")
        self.assertLess(first, hstreamdb.RecordId(1, 2, 10))
        self.assertEqual(len({first, hstreamdb.RecordId(1, 2, 9)}), 1)
        self.assertEqual(pickle.loads(pickle.dumps(first)), first)
        self.assertEqual((first.shard_id, first.batch_id, first.batch_index), (1, 2, 9))
        self.assertEqual(first, (1, 2, 9))
        self.assertEqual(repr(first), "RecordId(shard_id=1, batch_id=2, batch_index=9)")
        with self.assertRaises(hstreamdb.InvalidArgumentError):
            hstreamdb.RecordId.parse("1-2")
