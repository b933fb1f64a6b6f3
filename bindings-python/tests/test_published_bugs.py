"""What programs ran into with the published client, point by point, and what they get now."""

import asyncio
import random
import time
import unittest

import hstreamdb
from hstreamdb.aio.producer import AppendPayload
from server_process import ServerProcess, ServerTestCase, run

EARLIEST = hstreamdb.SpecialOffset.EARLIEST


class Reports(hstreamdb.BufferedProducer.AppendCallback):
    """Remembers everything it is told."""

    def __init__(self):
        self.good, self.bad = [], []

    def on_success(self, stream_name, payloads, stream_keyid):
        self.good.append((stream_name, payloads, stream_keyid))

    def on_fail(self, stream_name, payloads, stream_keyid, e):
        self.bad.append((stream_name, payloads, e))

    @property
    def stored(self):
        return [payload.payload for _, payloads, _ in self.good for payload in payloads]


async def read_all(client, stream):
    """Everything in a stream of one shard."""
    start, records = hstreamdb.ShardOffset(), []
    start.specialOffset = EARLIEST
    async with client.with_reader(stream, "reader-" + stream, start, 0) as reader:
        while True:
            read = list(await reader.read(100))
            if not read:
                return records
            records.extend(read)


async def consume(client, subscription, count, ack=True, name="c", stop_first=False):
    """Records until there are `count`, by a consumer that then stops."""
    records = []

    async def process(ack_fun, stop_fun, received):
        received = list(received)
        records.extend(received)
        if stop_first and len(records) >= count:
            await stop_fun()
        if ack:
            await ack_fun(record.id for record in received)
        if len(records) >= count:
            await stop_fun()

    await client.new_consumer(name, subscription, process).start()
    return records


async def until(condition):
    while not condition():
        await asyncio.sleep(0.005)


class PublishedBugs(ServerTestCase):
    def published(self, scenario, server=None):
        """Runs `scenario(client)`."""
        url = self.url if server is None else server.url

        async def main():
            async with await hstreamdb.insecure_client(url=url) as client:
                await scenario(client)

        run(main())

    def test_p01_a_producer_compresses_when_it_is_told_to(self):
        async def scenario(client):
            stream, sizes = self.unique(), {}
            await client.create_stream(stream)
            for compression in (None, "gzip"):
                producer = client.new_producer(compresstype=compression, compresslevel=9)
                for _ in range(20):
                    await producer.append(stream, b"x" * 1000)
                await producer.wait_and_close()
            async with client.client.stream_reader(stream, until="latest") as reader:
                async for batch in reader:
                    sizes.setdefault(len(batch), []).append(batch.encoded_bytes)
            ((plain, packed),) = sizes.values()
            self.assertGreater(plain, 20_000)
            self.assertLess(packed, 1000)

        self.published(scenario)

    def test_p02_tasks_that_append_at_the_same_time_lose_nothing(self):
        async def scenario(client):
            stream, reports = self.unique(), Reports()
            await client.create_stream(stream)
            producer = client.new_producer(append_callback=reports, size_trigger=10 * 1024, time_trigger=0.01)

            async def write(task):
                for number in range(1000):
                    await producer.append(stream, b"%d-%d" % (task, number) + b"." * 100)
                    if number % 100 == 0:
                        await producer.flush_by_key(stream)

            await asyncio.gather(*[write(task) for task in range(8)])
            await producer.wait_and_close()
            self.assertEqual(reports.bad, [])
            stored = [record.payload.rstrip(b".") for record in await read_all(client, stream)]
            self.assertEqual(len(stored), 8000)
            # Each told once, and each task's in order.
            self.assertEqual(sorted(each.rstrip(b".") for each in reports.stored), sorted(stored))
            for task in range(8):
                mine = [each for each in stored if each.startswith(b"%d-" % task)]
                self.assertEqual(mine, [b"%d-%d" % (task, number) for number in range(1000)])

        self.published(scenario)

    def test_p03_a_producer_goes_on_after_a_batch_that_failed(self):
        async def scenario(client):
            stream, reports = self.unique(), Reports()
            await client.create_stream(stream)
            producer = client.new_producer(append_callback=reports)
            for payload in (b"before", b"x" * (2 << 20), b"after"):
                await producer.append(stream, payload)
                await producer.flush_by_key(stream)
            await asyncio.wait_for(producer.wait_and_close(), 20)
            ((_, failed, error),) = reports.bad
            self.assertEqual([len(payload) for payload in failed], [2 << 20])
            self.assertIsInstance(error, hstreamdb.InvalidArgumentError)
            self.assertEqual(reports.stored, [b"before", b"after"])
            self.assertEqual([record.payload for record in await read_all(client, stream)], [b"before", b"after"])
            # Without somebody to tell it is for whoever waits.
            producer = client.new_producer()
            for payload in (b"x" * (2 << 20), b"last"):
                await producer.append(stream, payload)
            with self.assertLogs("hstreamdb", "ERROR"), self.assertRaises(hstreamdb.InvalidArgumentError):
                await asyncio.wait_for(producer.wait_and_close(), 20)
            self.assertEqual((await read_all(client, stream))[-1].payload, b"last")

        self.published(scenario)

    def test_p05_empty_records_arrive(self):
        async def scenario(client):
            stream, subscription = self.unique(), self.unique("sub")
            await client.create_stream(stream)
            await client.create_subscription(subscription, stream, offset=EARLIEST)
            await client.append(stream, [b"", "", {}, b"end"])
            expected = [b"", b"", {}, b"end"]
            self.assertEqual([record.payload for record in await read_all(client, stream)], expected)
            records = await asyncio.wait_for(consume(client, subscription, 4), 20)
            self.assertEqual([record.payload for record in records], expected)

        self.published(scenario)

    def test_p06_what_is_acknowledged_after_stop_in_the_same_call_does_not_come_again(self):
        async def scenario(client):
            stream, subscription = self.unique(), self.unique("sub")
            await client.create_stream(stream)
            await client.create_subscription(subscription, stream, ack_timeout=1, offset=EARLIEST)
            await client.append(stream, [b"1", b"2"])
            await consume(client, subscription, 2, stop_first=True)
            _, checkpoints = await client.client.get_subscription(subscription)
            self.assertEqual(len(checkpoints), 1)
            await client.append(stream, [b"3"])
            self.assertEqual([record.payload for record in await consume(client, subscription, 1)], [b"3"])

        self.published(scenario)

    def test_p07_a_stream_that_was_made_again_is_found(self):
        async def scenario(client):
            stream = self.unique()
            await client.create_stream(stream)
            (before,) = await client.append(stream, [b"old"])
            await client.delete_stream(stream)
            await client.create_stream(stream, shard_count=2)
            (after,) = await client.append(stream, [b"new"])
            shards = await client.list_shards(stream)
            self.assertEqual(len(shards), 2)
            self.assertIn(after.shard_id, [shard.id for shard in shards])
            self.assertNotEqual(after.shard_id, before.shard_id)

        self.published(scenario)

    def test_p08_a_client_of_one_node_outlives_that_nodes_restart(self):
        server = ServerProcess()
        self.addCleanup(server.remove)

        async def scenario(client):
            await client.create_stream("s")
            server.kill()
            lost = [client.append("s", [b"lost"]) for _ in range(2)] + [client.list_streams()]
            for error in await asyncio.gather(*lost, return_exceptions=True):
                self.assertIsInstance(error, hstreamdb.HStreamError)
            server.start()
            self.assertEqual([stream.name for stream in await client.list_streams()], ["s"])
            self.assertEqual(len(list(await client.append("s", [b"x"]))), 1)

        self.published(scenario, server)

    def test_p08_an_outage_is_a_runtime_error_as_programs_expect(self):
        server = ServerProcess()
        self.addCleanup(server.remove)

        async def scenario(client):
            server.kill()
            with self.assertRaises(RuntimeError) as raised:
                await client.list_streams()
            self.assertIsInstance(raised.exception, hstreamdb.UnavailableError)

        self.published(scenario, server)

    def test_p09_calls_have_a_deadline_and_the_client_a_close(self):
        async def scenario(_):
            new = await hstreamdb.connect(self.url, request_timeout_ms=1, total_timeout_ms=1, retry_max_attempts=1)
            client = hstreamdb.HStreamDBClient.over(new)
            began = time.monotonic()
            results = await asyncio.gather(*[client.list_streams() for _ in range(50)], return_exceptions=True)
            self.assertTrue(any(isinstance(each, hstreamdb.HStreamError) for each in results))
            self.assertLess(time.monotonic() - began, 20)
            await client.close()
            await client.close()
            with self.assertRaises(hstreamdb.ClosedError):
                await client.list_streams()

        self.published(scenario)

    def test_p11_callbacks_have_ids_and_come_for_records_only(self):
        async def scenario(client):
            stream, reports = self.unique(), Reports()
            await client.create_stream(stream, shard_count=3)
            producer = client.new_producer(append_callback=reports)
            for number in range(30):
                await producer.append(stream, b"%d" % number, key=str(number))
            for _ in range(3):
                await producer.flushall()
            await producer.wait_and_close()
            self.assertTrue(all(payloads for _, payloads, _ in reports.good))
            for _, payloads, shard_id in reports.good:
                self.assertEqual({payload.record_id.shard_id for payload in payloads}, {shard_id})
            ids = {payload.record_id for _, payloads, _ in reports.good for payload in payloads}
            self.assertEqual(len(ids), 30)
            subscription = self.unique("sub")
            await client.create_subscription(subscription, stream, offset=EARLIEST)
            self.assertEqual({record.id for record in await consume(client, subscription, 30)}, ids)

        self.published(scenario)

    def test_p11_no_callback_is_missed_while_the_loop_is_busy(self):
        async def scenario(client):
            stream, reports = self.unique(), Reports()
            await client.create_stream(stream)
            # A batch per record, and many more than a listener would queue.
            producer = client.new_producer(append_callback=reports, size_trigger=1)
            for number in range(3000):
                await producer.append(stream, b"%d" % (number % 10))
            deadline = time.monotonic() + 30
            while client.client.metrics()["append_records"] < 3000 and time.monotonic() < deadline:
                # Nothing of Python runs meanwhile.
                time.sleep(0.05)
            await producer.wait_and_close()
            self.assertEqual(len(reports.stored), 3000)

        self.published(scenario)

    def test_p12_zstd_of_other_clients_is_read(self):
        async def scenario(client):
            stream, subscription = self.unique(), self.unique("sub")
            await client.create_stream(stream)
            await client.create_subscription(subscription, stream, offset=EARLIEST)
            await client.client.append_many(stream, [b"1", {"a": 1}], compression="zstd")
            records = await asyncio.wait_for(consume(client, subscription, 2), 20)
            self.assertEqual([record.payload for record in records], [b"1", {"a": 1.0}])

        self.published(scenario)

    def test_p13_what_is_refused_for_good_is_not_sent_again_and_again(self):
        async def scenario(client):
            stream, reports = self.unique(), Reports()
            await client.create_stream(stream)
            producer = client.new_producer(append_callback=reports, retry_count=-1, compresstype="gzip")
            # Does not get smaller: the server refuses it, not the client.
            chance = random.Random(7)
            noise = bytes(chance.getrandbits(8) for _ in range((1 << 20) + 4096))
            began = time.monotonic()
            await producer.append(stream, noise)
            await producer.wait_and_close()
            self.assertLess(time.monotonic() - began, 20)
            ((_, _, error),) = reports.bad
            self.assertEqual((error.kind, error.code), ("invalid_argument", 207))

        self.published(scenario)

    def test_p14_a_consumer_connects_again(self):
        server = ServerProcess()
        self.addCleanup(server.remove)

        async def scenario(client):
            await client.create_stream("s")
            await client.create_subscription("sub", "s", offset=EARLIEST)
            await client.append("s", [b"before"])
            seen = []

            async def process(ack, stop, received):
                received = list(received)
                seen.extend(record.payload for record in received)
                await ack([record.id for record in received])
                if b"after" in seen:
                    await stop()

            running = asyncio.ensure_future(client.new_consumer("c", "sub", process).start())
            await until(lambda: seen)
            server.kill()
            server.start()
            await client.append("s", [b"after"])
            await asyncio.wait_for(running, 30)
            self.assertEqual(seen[0], b"before")

        self.published(scenario, server)


class Shapes(ServerTestCase):
    """What programs rely on besides."""

    def test_a_client_connects_when_it_is_used(self):
        async def main():
            port = int(self.url.rsplit(":", 1)[1])
            # From an environment variable a port is text.
            client = hstreamdb.HStreamDBClient("127.0.0.1", str(port))
            with self.assertRaises(hstreamdb.ClosedError):
                print(client.client)
            calls = [client.does_subscription_exist("none") for _ in range(5)]
            self.assertEqual(await asyncio.gather(*calls), [False] * 5)
            self.assertIsInstance(client.client, hstreamdb.Client)
            await client.close()
            with self.assertRaises(TypeError):
                hstreamdb.HStreamDBClient(credentials=object())

        run(main())

    def test_cancelling_a_consumer_ends_it_in_order(self):
        async def main():
            async with await hstreamdb.insecure_client(url=self.url) as client:
                stream, subscription = self.unique(), self.unique("sub")
                await client.create_stream(stream)
                await client.create_subscription(subscription, stream, ack_timeout=1, offset=EARLIEST)
                await client.append(stream, [b"1"])
                seen = asyncio.Event()

                async def process(ack, stop, received):
                    await ack([record.id for record in received])
                    seen.set()

                consumer = client.new_consumer("c", subscription, process)
                self.assertIsInstance(consumer, hstreamdb.Consumer)
                running = asyncio.ensure_future(consumer.start())
                await seen.wait()
                running.cancel()
                self.assertIsNone(await running)
                await client.append(stream, [b"2"])
                self.assertEqual([record.payload for record in await consume(client, subscription, 1)], [b"2"])

        run(main())

    def test_an_exception_of_the_function_ends_the_consumer_and_comes_out(self):
        async def main():
            async with await hstreamdb.insecure_client(url=self.url) as client:
                stream, subscription = self.unique(), self.unique("sub")
                await client.create_stream(stream)
                await client.create_subscription(subscription, stream, offset=EARLIEST)
                await client.append(stream, [b"1"])

                async def process(ack, stop, received):
                    raise LookupError("mine")

                for _ in range(2):
                    # The name is free again at once.
                    with self.assertRaisesRegex((LookupError, hstreamdb.AlreadyExistsError), "mine"):
                        await client.new_consumer("c", subscription, process).start()
                    await client.delete_subscription(subscription, force=True)
                    await client.create_subscription(subscription, stream, offset=EARLIEST)

        run(main())

    def test_a_dict_is_appended_as_it_was(self):
        async def main():
            async with await hstreamdb.insecure_client(url=self.url) as client:
                stream = self.unique()
                await client.create_stream(stream)
                producer = client.new_producer(size_trigger=50)
                changing = {"n": 1}
                await producer.append(stream, changing)
                changing["n"] = 2
                with self.assertRaises(hstreamdb.aio.producer.PayloadTooBig):
                    await producer.append(stream, {"long": "x" * 60})
                for wrong in (1, None, [b"x"], bytearray(b"x")):
                    with self.assertRaises(ValueError):
                        await producer.append(stream, wrong)
                await producer.wait_and_close()
                with self.assertRaises(hstreamdb.ClosedError):
                    await producer.append(self.unique(), b"late")
                with self.assertRaises(hstreamdb.ClosedError):
                    await producer.append(stream, b"late")
                self.assertEqual([record.payload for record in await read_all(client, stream)], [{"n": 1.0}])

        run(main())

    def test_payloads_know_their_length(self):
        self.assertEqual([len(AppendPayload(each)) for each in (b"123", "ü", {})], [3, 2, 0])
        self.assertEqual(len(AppendPayload({"a": 1})), len(hstreamdb.hrecord_encode({"a": 1})))


if __name__ == "__main__":
    unittest.main()
