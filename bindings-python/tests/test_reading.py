"""Readers that know where they are, polled readers, and batches column by column."""

import asyncio
import datetime
import pickle
import unittest

import hstreamdb
from server_process import ServerTestCase, run


class Positions(ServerTestCase):
    def test_a_reader_goes_on_where_another_one_was(self):
        async def main():
            async with await hstreamdb.connect(self.url) as client:
                stream = self.unique()
                await client.create_stream(stream, shard_count=3)
                sent = []
                for start in range(0, 300, 10):
                    keys = ["k%d" % (n % 7) for n in range(start, start + 10)]
                    sent += await client.append_many(stream, [b"x"] * 10, keys)
                got = []
                async with client.stream_reader(stream) as reader:
                    while len(got) < 100:
                        got.extend((await reader.next_batch()).ids)
                    kept = pickle.dumps(reader.position)
                position = pickle.loads(kept)
                self.assertEqual(len(position.shards), 3)
                async with client.stream_reader(stream, from_=position, until="latest") as reader:
                    async for batch in reader:
                        got.extend(batch.ids)
                    self.assertEqual((reader.gaps, reader.gap_count), ([], 0))
                self.assertEqual(sorted(got), sorted(sent))
                self.assertEqual(len(got), len(sent))

        run(main())

    def test_a_position_is_not_ahead_of_what_the_application_has(self):
        async def main():
            async with await hstreamdb.connect(self.url) as client:
                stream = self.unique()
                await client.create_stream(stream)
                first = await client.append(stream, b"1")
                second = await client.append(stream, b"2")
                async with client.single_shard_reader(stream) as reader:
                    at_first = reader.position
                    # It has arrived, and whoever waited for it is gone.
                    lost = reader._pull(False)
                    await asyncio.wait([lost])
                    self.assertEqual(reader.position, at_first)
                    reader._put_back(lost.result())
                    self.assertEqual(reader.position, at_first)
                    batch = await reader.next_batch()
                    self.assertEqual(batch.ids, (first,))
                    self.assertEqual(reader.position.last_read(first.shard_id), first)
                    self.assertEqual((await reader.next_batch()).ids, (second,))
                    self.assertEqual(reader.position.last_read(first.shard_id), second)

        run(main())

    def test_what_was_trimmed_is_told(self):
        async def main():
            async with await hstreamdb.connect(self.url) as client:
                stream = self.unique()
                await client.create_stream(stream)
                ids = [await client.append(stream, b"%d" % n) for n in range(5)]
                await client.trim_shard(stream, ids[0].shard_id, ids[2])
                async with client.single_shard_reader(stream, from_=ids[0]) as reader:
                    batch = await reader.next_batch()
                    self.assertEqual(batch.ids, (ids[3],))
                    (gap,) = reader.gaps
                    self.assertEqual((gap.shard_id, gap.kind), (ids[0].shard_id, "trimmed"))
                    self.assertEqual((gap.first_batch, gap.last_batch), (ids[0].batch_id, ids[2].batch_id))

        run(main())

    def test_times_are_places_too(self):
        async def main():
            async with await hstreamdb.connect(self.url) as client:
                stream = self.unique()
                await client.create_stream(stream, backlog_duration_secs=datetime.timedelta(hours=1))
                self.assertEqual((await client.get_stream(stream)).backlog_duration_secs, 3600)
                before = await client.append(stream, b"1")
                await asyncio.sleep(0.02)
                time = datetime.datetime.now(datetime.timezone.utc)
                after = await client.append(stream, b"2")
                for place in (time, int(time.timestamp() * 1000)):
                    async with client.single_shard_reader(stream, from_=place, until="latest") as reader:
                        self.assertEqual([batch.ids async for batch in reader], [(after,)])
                self.assertLess(before, after)

        run(main())


class Polled(ServerTestCase):
    def test_a_polled_reader_gives_everything_once(self):
        async def main():
            async with await hstreamdb.connect(self.url) as client:
                stream = self.unique()
                await client.create_stream(stream)
                ids = [await client.append(stream, b"%d" % n) for n in range(10)]
                reader_id = self.unique("reader")
                async with client.polled_reader(stream, ids[0].shard_id, reader_id=reader_id) as reader:
                    self.assertEqual(reader.reader_id, reader_id)
                    self.assertEqual([batch.ids[0] for batch in await reader.read(4)], ids[:4])
                    # Lost on the way to a caller who is gone.
                    lost = reader._pull(3)
                    await asyncio.wait([lost])
                    reader._put_back(lost.result())
                    self.assertEqual(reader.position.last_read(ids[0].shard_id), ids[3])
                    self.assertEqual([batch.ids[0] for batch in await reader.read(2)], ids[4:6])
                    got = []
                    while len(got) < 4:
                        got += [batch.ids[0] for batch in await reader.read(10)]
                    self.assertEqual(got, ids[6:])
                    self.assertEqual(await reader.read(), [])
                    with self.assertRaises(hstreamdb.InvalidArgumentError):
                        await reader.read(0)
                self.assertNotIn(reader_id, await client.list_shard_readers())

        run(main())

    def test_a_reader_left_on_the_server_is_read_by_its_id(self):
        async def main():
            async with await hstreamdb.connect(self.url) as client:
                stream = self.unique()
                await client.create_stream(stream)
                id = await client.append(stream, b"1")
                reader_id = await client.create_shard_reader(stream, id.shard_id, from_="earliest")
                (batch,) = await client.read_shard_reader(reader_id, 10)
                self.assertEqual((batch.ids, batch.payloads), ((id,), [b"1"]))
                await client.delete_shard_reader(reader_id)
                with self.assertRaises(hstreamdb.NotFoundError):
                    await client.read_shard_reader(reader_id)

        run(main())


class Columns(ServerTestCase):
    def test_a_batch_is_read_column_by_column(self):
        async def main():
            async with await hstreamdb.connect(self.url) as client:
                stream = self.unique()
                await client.create_stream(stream)
                encoded = hstreamdb.HRecord({"b": None})
                payloads = [b"raw", {"a": [1, "x"]}, encoded, memoryview(b"view")]
                attributes = [{"n": "1"}, None, {"n": "3"}, {}]
                await client.append_many(stream, payloads, ["k", "k", None, "k"], attributes, compression="zstd")
                async with client.single_shard_reader(stream) as reader:
                    batch = await reader.next_batch()
                self.assertEqual(batch.keys, ["k", "k", "", "k"])
                self.assertEqual(batch.kinds, ["raw", "hrecord", "hrecord", "raw"])
                self.assertEqual(batch.values(), [b"raw", {"a": [1, "x"]}, {"b": None}, b"view"])
                self.assertEqual(batch.attributes, [{"n": "1"}, {}, {"n": "3"}, {}])
                self.assertEqual(batch.payloads[2], bytes(encoded))
                self.assertEqual(hstreamdb.hrecord_decode(batch.payloads[1]), {"a": [1, "x"]})
                self.assertEqual([record.id for record in batch], list(batch.ids))
                self.assertFalse(batch.is_redelivered)

        run(main())

    def test_attributes_must_match_payloads(self):
        async def main():
            async with await hstreamdb.connect(self.url) as client:
                for attributes in ([{}], [{}, {}, {}]):
                    with self.assertRaises(hstreamdb.InvalidArgumentError):
                        client.append_many("s", [b"1", b"2"], None, attributes)
                for wrong in (["text"], {"a": 1}, 7):
                    with self.assertRaises(TypeError):
                        client.append_many("s", [b"1"], None, wrong)

        run(main())


class Resources(unittest.TestCase):
    def test_streams_and_subscriptions_are_the_published_tuples_with_more(self):
        stream = hstreamdb.Stream("s", 3, 60, 4, 1000)
        name, factor = stream
        self.assertEqual((name, factor), ("s", 3))
        self.assertEqual(stream, ("s", 3))
        self.assertEqual(pickle.loads(pickle.dumps(stream)).as_dict(), stream.as_dict())
        self.assertEqual(stream._asdict(), {"name": "s", "replication_factor": 3})
        self.assertEqual(stream.shard_count, 4)
        subscription = hstreamdb.Subscription("sub", "s", 5, 10, offset="latest")
        self.assertEqual(tuple(subscription), ("sub", "s", 5, 10))
        self.assertEqual(pickle.loads(pickle.dumps(subscription)).offset, "latest")
        self.assertEqual(hstreamdb.Stream("s", 1), hstreamdb.Stream("s", 1))


class Managing(ServerTestCase):
    def test_what_the_server_does_not_have_says_so(self):
        async def main():
            async with await hstreamdb.connect(self.url) as client:
                schema = hstreamdb.Schema("s", [hstreamdb.Column(0, "a", "INTEGER", True, False)])
                calls = [
                    client.create_query("q", "select"),
                    client.create_query("q", "select", namespace="n"),
                    client.list_queries(),
                    client.get_query("q"),
                    client.terminate_query("q"),
                    client.pause_query("q"),
                    client.resume_query("q"),
                    client.delete_query("q"),
                    client.execute_query("select"),
                    client.parse_sql("select"),
                    client.list_views(),
                    client.get_view("v"),
                    client.delete_view("v"),
                    client.execute_view_query("select"),
                    client.execute_view_query("select", namespace="n"),
                    client.create_connector("c", "source", "mysql", "{}"),
                    client.list_connectors(),
                    client.get_connector("c"),
                    client.connector_spec("sink", "mysql"),
                    client.connector_logs("c"),
                    client.alter_connector_config("c", "{}"),
                    client.pause_connector("c"),
                    client.resume_connector("c"),
                    client.delete_connector("c"),
                    client.register_schema(schema),
                    client.get_schema("s"),
                    client.unregister_schema("s"),
                ]
                for number, result in enumerate(await asyncio.gather(*calls, return_exceptions=True)):
                    self.assertIsInstance(result, hstreamdb.UnimplementedError, number)
                with self.assertRaises(hstreamdb.InvalidArgumentError):
                    client.create_connector("c", "sideways", "mysql", "{}")

        run(main())

    def test_statistics_lookups_and_commands(self):
        async def main():
            async with await hstreamdb.connect(self.url) as client:
                stream, subscription = self.unique(), self.unique("sub")
                await client.create_stream(stream)
                await client.create_subscription(subscription, stream)
                id = await client.append(stream, b"12345", key="k")
                names = [row["name"] for row in hstreamdb.stat_table() if row["subject"] == "stream"]
                stats = await client.get_stats_all_nodes(names)
                self.assertTrue(stats.is_complete)
                self.assertEqual(stats.totals["stream.append_in_records"][stream], 1)
                node = client.nodes[0]
                for each in (node, node.address):
                    one = await client.get_stats(each, ["stream.append_total"])
                    self.assertEqual((one.node, one.values["stream.append_total"][stream]), (node.address, 1))
                with self.assertRaises(hstreamdb.InvalidArgumentError):
                    client.get_stats(node, ["no.such"])
                rates = await client.stream_time_series(node, "append_in_records", stream, [60, 1.5])
                self.assertEqual(len(rates), 2)
                self.assertIn(stream, await client.stream_time_series_all(node, "append_in_bytes", [60]))
                everywhere = await client.stream_time_series_all_nodes("append_in_bytes", [60])
                self.assertEqual(everywhere.nodes, [node.address])
                with self.assertRaises(hstreamdb.InvalidArgumentError):
                    client.stream_time_series(node, "no_such_rate", stream, [1])
                for lookup in (
                    client.lookup_shard(id.shard_id),
                    client.lookup_subscription(subscription),
                    client.lookup_key("k"),
                    client.lookup_resource("stream", stream),
                ):
                    self.assertEqual((await lookup).address, node.address)
                with self.assertRaises(hstreamdb.InvalidArgumentError):
                    client.lookup_resource("planet", "x")
                self.assertEqual((await client.shard_for_key(stream, "k")).id, id.shard_id)
                self.assertEqual(await client.subscription_offsets(subscription), {})
                self.assertIn("type", await client.admin_command("server status", node=node))
                self.assertEqual(await client.refresh_nodes(), client.nodes)
                await client.reconnect()
                metrics = client.metrics()
                self.assertEqual(set(metrics), {row["name"] for row in hstreamdb.metric_table()})
                self.assertEqual(metrics["append_records"], 1)
                self.assertEqual(len(metrics["call_duration"]), 3)

        run(main())
