"""Polled readers, all offsets."""

import asyncio

import hstreamdb
from server import PublishedTestCase, offset, unique, wire

EARLIEST = hstreamdb.SpecialOffset.EARLIEST
LATEST = hstreamdb.SpecialOffset.LATEST


class Readers(PublishedTestCase):
    async def filled(self, count=4, **options):
        stream = await self.stream(**options)
        ids = [id for n in range(count) for id in await self.client.append(stream, [b"%d" % n])]
        return stream, ids

    async def read(self, stream, start, **target):
        records = []
        async with self.client.with_reader(stream, unique("reader"), start, 0, **target) as reader:
            while True:
                read = list(await reader.read(2))
                if not read:
                    return records
                self.assertLessEqual(len(read), 2)
                records.extend(read)

    async def test_every_offset_starts_where_it_should(self):
        stream, ids = await self.filled()
        all_records = await self.read(stream, offset(special=EARLIEST))
        self.assertEqual([record.payload for record in all_records], [b"0", b"1", b"2", b"3"])
        self.assertEqual([record.id for record in all_records], ids)
        self.assertEqual(await self.read(stream, offset(special=LATEST)), [])
        self.assertEqual(await self.read(stream, offset(record=ids[2])), all_records[2:])
        for record in all_records:
            time = record.header.publish_time
            ms = time.seconds * 1000 + time.nanos // 1_000_000
            expected = [r for r in all_records if r.header.publish_time >= time]
            self.assertEqual(await self.read(stream, offset(timestamp=ms)), expected)

    async def test_latest_sees_what_comes_later_and_a_poll_waits_for_it(self):
        stream, _ = await self.filled()
        reader = unique("reader")
        response = await self.client.create_reader(stream, reader, offset(special=LATEST), 20_000)
        self.assertEqual((response.readerId, response.timeout), (reader, 20_000))
        waiting = asyncio.ensure_future(self.client.read_reader(reader, 10))
        await self.client.append(stream, [b"later", b"too"])
        self.assertEqual([record.payload for record in await waiting], [b"later", b"too"])
        await self.client.delete_reader(reader)

    async def test_shards_are_chosen_by_id_or_by_key(self):
        stream = await self.stream(shard_count=4)
        shards = await self.client.list_shards(stream)
        for key in ["a", "b", "c", "d", "e"]:
            await self.client.append(stream, [key], key=key)
        found = []
        for shard in shards:
            found.extend(await self.read(stream, offset(special=EARLIEST), shard_id=shard.id))
        self.assertEqual(sorted(record.payload for record in found), [b"a", b"b", b"c", b"d", b"e"])
        by_key = await self.read(stream, offset(special=EARLIEST), stream_key="a")
        self.assertIn(b"a", [record.payload for record in by_key])

    async def test_readers_are_there_until_they_are_deleted(self):
        stream, _ = await self.filled()
        reader = unique("reader")
        await self.client.create_reader(stream, reader, offset(special=EARLIEST), 0)
        listed = (await self.stub().ListShardReaders(wire.ListShardReadersRequest())).readerId
        self.assertIn(reader, listed)
        self.assertEqual([record.payload for record in await self.client.read_reader(reader, 1)], [b"0"])
        self.assertEqual([record.payload for record in await self.client.read_reader(reader, 2)], [b"1", b"2"])
        await self.client.delete_reader(reader)
        listed = (await self.stub().ListShardReaders(wire.ListShardReadersRequest())).readerId
        self.assertNotIn(reader, listed)

    async def test_limits_count_batches(self):
        stream = await self.stream()
        for number in range(3):
            await self.client.append(stream, ["%d%d" % (number, index) for index in range(5)])
        reader = unique("reader")
        await self.client.create_reader(stream, reader, offset(special=EARLIEST), 0)
        self.assertEqual(len(list(await self.client.read_reader(reader, 2))), 10)
        self.assertEqual(len(list(await self.client.read_reader(reader, 2))), 5)

    async def test_answers_fit_into_what_the_client_takes(self):
        # It stops at 4 MiB, eight of these are more.
        stream = await self.stream()
        for _ in range(8):
            await self.client.append(stream, [b"x" * 1_000_000])
        self.assertEqual(len(await self.read_many(stream, 8)), 8)

    async def read_many(self, stream, count):
        records, reader = [], unique("reader")
        await self.client.create_reader(stream, reader, offset(special=EARLIEST), 0)
        while len(records) < count:
            records.extend(await self.client.read_reader(reader, 100))
        return records
