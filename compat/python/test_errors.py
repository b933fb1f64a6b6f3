"""Which exception with which content the client raises for each class of error."""

import asyncio

import grpc
import hstreamdb
from server import OURS, PublishedTestCase, Server, consume, offset, single_node, unique

EARLIEST = offset(special=hstreamdb.SpecialOffset.EARLIEST)
Code = grpc.StatusCode


class Refusals(PublishedTestCase):
    async def test_not_found(self):
        await self.refused(self.client.delete_stream("none"), Code.NOT_FOUND, 200, "StreamNotFound", "none")
        await self.refused(self.client.delete_subscription("none"), Code.NOT_FOUND, 300, "SubscriptionNotFound", "none")
        consumer = self.client.new_consumer("c", "none", None)
        await self.refused(consumer.start(), Code.NOT_FOUND, 300, "SubscriptionNotFound", "none")
        stream = await self.stream()
        reader = self.client.create_reader(stream, unique("reader"), EARLIEST, 0, shard_id=12345)
        await self.refused(reader, Code.NOT_FOUND, 0, "ShardNotFound")

    async def test_already_exists(self):
        stream = await self.stream()
        await self.refused(self.client.create_stream(stream), Code.ALREADY_EXISTS, 201, "StreamExists", stream)
        subscription = await self.subscription(stream)
        again = self.client.create_subscription(subscription, stream)
        await self.refused(again, Code.ALREADY_EXISTS, 301, "SubscriptionExists", subscription)
        reader = unique("reader")
        await self.client.create_reader(stream, reader, EARLIEST, 0)
        again = self.client.create_reader(stream, reader, EARLIEST, 0)
        await self.refused(again, Code.ALREADY_EXISTS, 0, "ShardReaderExists")
        await self.client.append(stream, [b"x"])
        attached = asyncio.Event()

        async def process(ack, stop, received):
            attached.set()

        first = self.client.new_consumer("same", subscription, process)
        running = asyncio.ensure_future(first.start())
        await attached.wait()
        second = self.client.new_consumer("same", subscription, process)
        await self.refused(second.start(), Code.ALREADY_EXISTS, 0, "ConsumerExists", "same")
        await first._stop()
        await running

    async def test_failed_precondition(self):
        stream = await self.stream()
        subscription = await self.subscription(stream)
        await self.refused(
            self.client.delete_stream(stream), Code.FAILED_PRECONDITION, 202, "Stream still has subscription", None
        )
        missing = self.client.create_subscription(unique("sub"), "none")
        await self.refused(missing, Code.FAILED_PRECONDITION, 302, "NonExistentStream", "none")
        read = self.client.read_reader("none", 1)
        await self.refused(read, Code.FAILED_PRECONDITION, 0, "EmptyShardReader", "ShardReaderNotExists")
        delete = self.client.delete_reader("none")
        await self.refused(delete, Code.FAILED_PRECONDITION, 0, "EmptyShardReader", "ShardReaderNotExists")
        await self.client.append(stream, [b"x"])
        attached = asyncio.Event()

        async def process(ack, stop, received):
            attached.set()

        consumer = self.client.new_consumer("c", subscription, process)
        running = asyncio.ensure_future(consumer.start())
        await attached.wait()
        delete = self.client.delete_subscription(subscription)
        await self.refused(delete, Code.FAILED_PRECONDITION, 305, "FoundActiveConsumers")
        await consumer._stop()
        await running

    async def test_invalid_argument(self):
        letter = "The first character of a name must be a letter"
        length = "The length must be between 1 and 255 characters."
        invalid = Code.INVALID_ARGUMENT
        name = "InvalidObjectIdentifier"
        await self.refused(self.client.create_stream("1st"), invalid, 204, name, letter)
        await self.refused(self.client.create_stream(""), invalid, 204, name, length)
        await self.refused(self.client.create_stream("a" * 256), invalid, 204, name, length)
        await self.refused(self.client.create_stream("a.b"), invalid, 204, name, "Illegal character '.' found")
        none = self.client.create_stream("s", replication_factor=0)
        await self.refused(none, invalid, 203, "InvalidReplicaFactor")
        await self.refused(self.client.create_stream("s", shard_count=0), invalid, 205, "InvalidShardCount")
        stream = await self.stream()
        await self.refused(self.client.create_subscription("1st", stream), invalid, 304, name, letter)
        await self.refused(self.client.delete_subscription("1st"), invalid, 304, name, letter)
        await self.refused(self.client.create_reader(stream, "1st", EARLIEST, 0), invalid, 900, name, letter)
        await self.refused(self.client.delete_reader("1st"), invalid, 900, name, letter)
        unset = self.client.create_reader(stream, unique("reader"), offset(), 0)
        await self.refused(unset, invalid, 208, "InvalidShardOffset")
        elsewhere = offset(record=hstreamdb.RecordId(shard_id=1, batch_id=1, batch_index=0))
        conflict = self.client.create_reader(stream, unique("reader"), elsewhere, 0)
        await self.refused(conflict, invalid, 901, "ConflictShardReaderOffset")
        await self.refused(self.client.append(stream, []), invalid, 206, "BatchedRecord shouldn't be Nothing", None)
        large = b"x" * (1024 * 1024 + 20)
        # Ours does not even send it.
        message = None if OURS else "Record size exceeds the maximum size limit"
        error = await self.refused(self.client.append(stream, [large]), invalid, 207, message)
        self.assertIn("1048", error.details())
        # Measured after compression.
        self.assertEqual(len(list(await self.client.append(stream, [large], compresstype="gzip"))), 1)

    @single_node("there are others")
    async def test_streams_that_are_not_there_look_unavailable_and_a_single_node_has_no_other(self):
        # Plain text, no JSON; the client takes it for a dead node and gives up on its only one.
        for call in [
            lambda client: client.list_shards("none"),
            lambda client: client.append("none", [b"x"]),
            lambda client: client.create_reader("none", "reader", EARLIEST, 0),
        ]:
            client = await self.connect(self.port)
            if OURS:
                with self.assertRaises(grpc.aio.AioRpcError) as raised:
                    await call(client)
                self.assertEqual(raised.exception.code(), Code.NOT_FOUND)
                continue
            with self.assertRaisesRegex(RuntimeError, "No unavailable targets"):
                await call(client)
        # With known shards it is the append itself that says so.
        stream = await self.stream()
        await self.client.append(stream, [b"x"])
        await self.client.delete_stream(stream)
        await self.refused(self.client.append(stream, [b"x"]), Code.UNAVAILABLE)

    async def test_aborted_when_the_subscription_is_deleted_under_a_consumer(self):
        stream = await self.stream()
        await self.client.append(stream, [b"x"])
        subscription = await self.subscription(stream)
        attached = asyncio.Event()

        async def process(ack, stop, received):
            attached.set()

        running = asyncio.ensure_future(self.client.new_consumer("c", subscription, process).start())
        await attached.wait()
        await self.client.delete_subscription(subscription, force=True)
        await self.refused(running, Code.ABORTED, 0, "SubscriptionIsDeleting")
        self.assertFalse(await self.client.does_subscription_exist(subscription))

    async def test_stop_is_a_normal_end(self):
        stream = await self.stream()
        await self.client.append(stream, [b"x"])

        async def process(ack, stop, received):
            await stop()

        await self.client.new_consumer("c", await self.subscription(stream), process).start()


class Outages(PublishedTestCase):
    def setUp(self):
        self.server = Server()
        self.addCleanup(self.server.remove)
        self.port = self.server.port

    async def connect_again(self):
        """gRPC shares the back-off of a dead address among all channels of a process."""
        while True:
            try:
                return await self.connect(self.port)
            except grpc.aio.AioRpcError as error:
                self.assertEqual(error.code(), Code.UNAVAILABLE)
                await asyncio.sleep(0.05)

    @single_node("the client tells a last node that fails from others")
    async def test_a_killed_server_is_unavailable_and_its_successor_has_everything(self):
        stream = await self.stream()
        subscription = await self.subscription(stream)
        acknowledged = []
        for number in range(20):
            acknowledged.extend(await self.client.append(stream, [b"%d" % number]))
        first = await consume(self.client, subscription, 5)
        reader = "reader"
        await self.client.create_reader(stream, reader, EARLIEST, 0)
        self.assertEqual(len(list(await self.client.read_reader(reader, 3))), 3)

        attached = asyncio.Event()

        async def process(ack, stop, received):
            attached.set()

        running = asyncio.ensure_future(self.client.new_consumer("c", subscription, process).start())
        await asyncio.sleep(0)
        self.server.kill()
        if OURS:
            # It connects again, for as long as it takes.
            running.cancel()
            await running
        else:
            await self.refused(running, Code.UNAVAILABLE)
        await self.refused(self.client.append(stream, [b"lost"]), Code.UNAVAILABLE)
        with self.assertRaises(RuntimeError):
            await self.client.list_streams()

        self.server.start()
        client = await self.connect_again()
        self.assertEqual([each.name for each in await client.list_streams()], [stream])
        # Everything acknowledged is there; a reader goes on no later than where it was.
        again = list(await client.read_reader(reader, 100))
        self.assertEqual([record.id for record in again], acknowledged[-len(again) :])
        self.assertGreaterEqual(len(again), 17)
        self.assertEqual(list(await client.append(stream, [b"after"]))[0] > acknowledged[-1], True)
        # What was acknowledged with a clean end does not come again.
        rest = await consume(client, subscription, 21 - len(first))
        self.assertEqual([record.payload for record in first + rest], [b"%d" % n for n in range(20)] + [b"after"])

    async def test_a_producer_with_retries_outlives_a_restart(self):
        stream = await self.stream()

        class Reports(hstreamdb.BufferedProducer.AppendCallback):
            good, bad = [], []

            def on_success(self, stream_name, payloads, stream_keyid):
                self.good.extend(payload.payload for payload in payloads)

            def on_fail(self, stream_name, payloads, stream_keyid, e):
                self.bad.append(e)

        reports = Reports()
        producer = self.client.new_producer(append_callback=reports, retry_count=-1, retry_max_delay=1)
        await producer.append(stream, b"x")
        self.server.kill()
        await producer.flushall()
        await asyncio.sleep(0.1)
        self.server.start()
        while not reports.good:
            self.assertEqual(reports.bad, [])
            await asyncio.sleep(0.05)
        await producer.wait_and_close()
        client = await self.connect_again()
        subscription = unique("sub")
        await client.create_subscription(subscription, stream, offset=hstreamdb.SpecialOffset.EARLIEST)
        self.assertEqual([record.payload for record in await consume(client, subscription, 1)], [b"x"])
