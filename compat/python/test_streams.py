"""Connecting, streams and shards."""

import hashlib
import inspect

import hstreamdb
from server import OURS, PublishedTestCase, consume, published_only, shared, single_node, unique, wire


class Connecting(PublishedTestCase):
    async def test_host_and_port_or_an_url_find_the_server(self):
        for arguments in [
            {"host": "127.0.0.1", "port": self.port},
            {"host": "localhost", "port": self.port},
            {"url": shared().url, "host": "ignored", "port": 1},
        ]:
            client = await hstreamdb.insecure_client(**arguments)
            async with client:
                await client.list_streams()

    async def test_schemes_are_checked_by_the_client(self):
        with self.assertRaises(KeyError):
            await hstreamdb.insecure_client(url="http://127.0.0.1:%d" % self.port)
        with self.assertRaises(KeyError):
            await hstreamdb.secure_client(url="hstream://127.0.0.1:%d" % self.port)

    @published_only("its channels are the core's")
    @single_node("there are more addresses")
    async def test_discovery_names_the_address_that_was_used(self):
        # One node, one channel: a second one would mean that another address was advertised.
        self.assertEqual(list(self.client._channels), ["127.0.0.1:%d" % self.port])

    async def test_no_public_name_of_the_client_is_forgotten_here(self):
        methods = {name for name, _ in inspect.getmembers(hstreamdb.HStreamDBClient) if not name.startswith("_")}
        if OURS:
            methods -= {"client", "close", "over"}
        self.assertEqual(
            methods,
            {"append", "create_reader", "create_stream", "create_subscription", "delete_reader", "delete_stream"}
            | {"delete_subscription", "does_subscription_exist", "init_cluster_info", "list_shards", "list_streams"}
            | {"list_subscriptions", "new_consumer", "new_producer", "read_reader", "with_reader"},
        )
        methods = {name for name, _ in inspect.getmembers(hstreamdb.BufferedProducer) if not name.startswith("_")}
        self.assertEqual(
            methods - {"AppendCallback", "GroupKeyTy", "StreamKeyId"},
            {"append", "close", "flush", "flush_by_key", "flushall", "wait", "wait_and_close"},
        )


class Streams(PublishedTestCase):
    async def test_streams_are_created_listed_and_deleted(self):
        name = unique()
        await self.client.create_stream(name, replication_factor=3, backlog=60, shard_count=2)
        listed = {stream.name: stream for stream in await self.client.list_streams()}
        self.assertEqual(listed[name], hstreamdb.Stream(name=name, replication_factor=3))
        stored = (await self.stub().GetStream(wire.GetStreamRequest(name=name))).stream
        self.assertEqual((stored.backlogDuration, stored.shardCount), (60, 2))
        await self.client.delete_stream(name)
        self.assertNotIn(name, [stream.name for stream in await self.client.list_streams()])
        await self.client.delete_stream(name, ignore_non_exist=True)

    async def test_defaults_make_one_shard_that_keeps_everything(self):
        name = await self.stream()
        stored = (await self.stub().GetStream(wire.GetStreamRequest(name=name))).stream
        self.assertEqual((stored.replicationFactor, stored.backlogDuration, stored.shardCount), (1, 0, 1))

    async def test_names_of_any_script(self):
        name = "流-Ünïcode-" + unique()
        await self.client.create_stream(name)
        (id,) = await self.client.append(name, [b"x"])
        self.assertGreater(id.batch_id, 0)
        await self.client.delete_stream(name)

    async def test_shards_cover_the_key_space_and_keys_find_theirs(self):
        name = await self.stream(shard_count=7)
        shards = await self.client.list_shards(name)
        by_start = sorted(shards, key=lambda shard: shard.start)
        width = (2**128 - 1) // 7
        self.assertEqual([shard.start for shard in by_start], [i * width for i in range(7)])
        self.assertEqual(by_start[-1].end, 2**128 - 1)
        for left, right in zip(by_start, by_start[1:]):
            self.assertEqual(left.end + 1, right.start)
        self.assertTrue(all(shard.epoch == 7 and shard.stream_name == name for shard in shards))
        for key in [None, "a", "中文", "key1"]:
            digest = int(hashlib.md5((key or "").encode()).hexdigest(), 16)
            (id,) = await self.client.append(name, [b"x"], key=key)
            expected = [shard.id for shard in by_start if shard.start <= digest <= shard.end]
            self.assertEqual([id.shard_id], expected)

    async def test_a_stream_with_subscriptions_goes_by_force_and_they_read_on(self):
        name = await self.stream()
        await self.client.append(name, [b"kept"])
        subscription = await self.subscription(name)
        await self.client.delete_stream(name, force=True)
        listed = {each.subscription_id: each for each in await self.client.list_subscriptions()}
        self.assertEqual(listed[subscription].stream_name, "__deleted_stream__")
        self.assertEqual([r.payload for r in await consume(self.client, subscription, 1)], [b"kept"])
