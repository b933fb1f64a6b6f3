"""Subscriptions and consumers."""

import asyncio

import grpc
import hstreamdb
from server import OURS, PublishedTestCase, consume, unique, wire


class Subscriptions(PublishedTestCase):
    async def test_subscriptions_are_created_listed_and_deleted(self):
        stream = await self.stream()
        name = unique("sub")
        self.assertFalse(await self.client.does_subscription_exist(name))
        await self.client.create_subscription(name, stream)
        self.assertTrue(await self.client.does_subscription_exist(name))
        listed = {each.subscription_id: each for each in await self.client.list_subscriptions()}
        self.assertEqual(listed[name], hstreamdb.Subscription(name, stream, 600, 10000))
        stored = await (await self.owner(name)).GetSubscription(wire.GetSubscriptionRequest(id=name))
        self.assertEqual(stored.subscription.offset, hstreamdb.SpecialOffset.LATEST)
        await self.client.delete_subscription(name)
        self.assertFalse(await self.client.does_subscription_exist(name))

    async def test_earliest_sees_everything_and_latest_what_came_after_it(self):
        stream = await self.stream()
        await self.client.append(stream, [b"before"])
        earliest = await self.subscription(stream)
        latest = await self.subscription(stream, offset=hstreamdb.SpecialOffset.LATEST)
        await self.client.append(stream, [b"after"])
        records = await consume(self.client, earliest, 2)
        self.assertEqual([record.payload for record in records], [b"before", b"after"])
        self.assertEqual([record.payload for record in await consume(self.client, latest, 1)], [b"after"])


class Consumers(PublishedTestCase):
    async def test_what_is_acknowledged_does_not_come_again(self):
        stream = await self.stream(shard_count=3)
        for number in range(30):
            await self.client.append(stream, [b"%d" % number], key=str(number))
        subscription = await self.subscription(stream)
        first = await consume(self.client, subscription, 30)
        self.assertEqual({record.payload for record in first}, {b"%d" % number for number in range(30)})
        await self.client.append(stream, [b"new"])
        self.assertEqual([record.payload for record in await consume(self.client, subscription, 1)], [b"new"])

    async def test_only_what_is_open_comes_again_after_the_ack_timeout_in_every_compression(self):
        for compression in [None, "gzip"]:
            stream = await self.stream()
            ids = list(await self.client.append(stream, ["0", "1", "2", "3"], compresstype=compression))
            subscription = await self.subscription(stream, ack_timeout=1)
            deliveries = []

            async def process(ack, stop, received, deliveries=deliveries):
                received = list(received)
                deliveries.append(received)
                if len(deliveries) == 1:
                    await ack([received[0].id, received[2].id])
                else:
                    await ack([record.id for record in received])
                    await stop()

            consumer = self.client.new_consumer("c", subscription, process)
            await consumer.start()
            self.assertEqual([record.id for record in deliveries[0]], ids)
            self.assertEqual([record.id for record in deliveries[1]], [ids[1], ids[3]])
            self.assertEqual([record.payload for record in deliveries[1]], [b"1", b"3"])
            self.assertEqual(deliveries[1][0].header, deliveries[0][1].header)

    async def test_a_window_holds_delivery_back_until_acks_arrive(self):
        stream = await self.stream()
        for number in range(6):
            await self.client.append(stream, [b"%d" % number])
        subscription = await self.subscription(stream, max_unacks=2)
        held, most = [], 0

        async def process(ack, stop, received):
            nonlocal most
            held.extend(record.id for record in received)
            most = max(most, len(held))
            if len(held) == 2:
                await ack([held.pop(0)])
                process.done += 1
                if process.done == 4:
                    await stop()

        process.done = 0
        await self.client.new_consumer("c", subscription, process).start()
        self.assertEqual(most, 2)

    async def test_consumers_share_shards(self):
        stream = await self.stream(shard_count=2)
        shards = [shard.id for shard in await self.client.list_shards(stream)]
        subscription = await self.subscription(stream)
        seen = {"a": set(), "b": set()}
        calls = {}

        def consumer(name):
            async def process(ack, stop, received):
                received = list(received)
                seen[name].update(record.id.shard_id for record in received)
                await ack([record.id for record in received])

            calls[name] = self.client.new_consumer(name, subscription, process)
            return asyncio.ensure_future(calls[name].start())

        tasks = [consumer("a"), consumer("b")]
        stub = await self.owner(subscription)
        while True:
            attached = await stub.ListConsumers(wire.ListConsumersRequest(subscriptionId=subscription))
            if len(attached.consumers) == 2:
                break
            await asyncio.sleep(0.01)
        for each in attached.consumers:
            self.assertRegex(each.uri, r"^ipv4:127\.0\.0\.1:\d+$")
            agent = "hstreamdb-python/" if OURS else "grpc-python-asyncio/"
            self.assertTrue(each.userAgent.startswith(agent), each.userAgent)
        keys = {}
        for number in range(1000):
            keys.setdefault(await self.client._find_shard_id(stream, str(number)), str(number))
            if len(keys) == 2:
                break
        for key in keys.values():
            await self.client.append(stream, [b"x"], key=key)
        while not (seen["a"] and seen["b"]):
            await asyncio.sleep(0.01)
        self.assertEqual(seen["a"] | seen["b"], set(shards))
        self.assertFalse(seen["a"] & seen["b"])
        for call in calls.values():
            await call._stop()
        await asyncio.gather(*tasks)

    async def test_a_half_closed_consumer_ends_normally_and_its_acks_count(self):
        stream = await self.stream()
        await self.client.append(stream, [b"x"])
        subscription = await self.subscription(stream)
        (record,) = await consume(self.client, subscription, 1)
        stored = await (await self.owner(subscription)).GetSubscription(wire.GetSubscriptionRequest(id=subscription))
        self.assertEqual(
            [(each.shardId, each.batchId) for each in stored.offsets], [(record.id.shard_id, record.id.batch_id)]
        )

    async def test_the_name_is_free_again_after_stop(self):
        stream = await self.stream()
        subscription = await self.subscription(stream)
        for number in range(3):
            await self.client.append(stream, [b"%d" % number])

            async def process(ack, stop, received):
                await ack([record.id for record in received])
                await stop()

            while True:
                try:
                    await self.client.new_consumer("same", subscription, process).start()
                    break
                except grpc.aio.AioRpcError as error:
                    # The call before is gone a moment after it was cancelled.
                    self.assertEqual(error.code(), grpc.StatusCode.ALREADY_EXISTS)
                    await asyncio.sleep(0.01)

    async def test_json_records_and_keys_arrive_as_they_were(self):
        stream = await self.stream()
        await self.client.append(stream, [{"n": 1, "text": "ü"}], key="中文")
        (record,) = await consume(self.client, await self.subscription(stream), 1)
        self.assertEqual(record.payload, {"n": 1.0, "text": "ü"})
        self.assertEqual(record.header.key, "中文")
        self.assertEqual(dict(record.header.attributes), {})
