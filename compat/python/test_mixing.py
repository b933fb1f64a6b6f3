"""Old and new parts on one server: what one client writes, the other one reads."""

import unittest

import hstreamdb
from adapter import Adapter, commands
from server import PublishedTestCase, consume, offset, published_only, shared

RECORDS = [("", b"keyless"), ("a", b"1"), ("a", b"2"), ("中文", "ü".encode()), ("b", bytes(range(256)) * 40)]


def text(id):
    return "%d-%d-%d" % id


class Mixing(PublishedTestCase):
    async def test_there_is_a_client_to_mix_with(self):
        self.assertIn("rust", commands())
        if "python" not in commands():
            raise unittest.SkipTest("HSTREAM_CONFORMANCE_PYTHON names no interpreter with our package")

    async def test_what_ours_write_the_published_client_reads_in_the_compressions_it_knows(self):
        for language, command in commands().items():
            for compression in ["none", "gzip"]:
                with self.subTest(language=language, compression=compression):
                    stream = await self.stream(shard_count=3)
                    async with Adapter(command) as ours:
                        await ours.do("connect", url=shared().url)
                        await ours.do("producer", stream=stream, options={"compression": compression})
                        ids = await ours.append(RECORDS)
                        await ours.do("close")
                    records = await consume(self.client, await self.subscription(stream), len(RECORDS))
                    written = sorted((id, key or None, payload) for id, (key, payload) in zip(ids, RECORDS))
                    read = sorted((text(record.id), record.header.key, record.payload) for record in records)
                    self.assertEqual(read, written)
                    # Both find the shard of a key, so an append of the published client lands behind ours.
                    (id,) = await self.client.append(stream, [b"3"], key="a")
                    self.assertEqual(str(id.shard_id), ids[1].split("-")[0])

    @published_only("it reads zstd")
    async def test_zstd_of_ours_is_delivered_as_written_and_the_published_client_says_it_cannot(self):
        for language, command in commands().items():
            with self.subTest(language=language):
                stream = await self.stream()
                async with Adapter(command) as ours:
                    await ours.do("connect", url=shared().url)
                    await ours.do("producer", stream=stream, options={"compression": "zstd"})
                    await ours.append(RECORDS)
                    await ours.do("close")
                start = offset(special=hstreamdb.SpecialOffset.EARLIEST)
                async with self.client.with_reader(stream, "zstd-" + stream, start, 0) as reader:
                    with self.assertRaisesRegex(NotImplementedError, "Unsupported CompressionType: 2"):
                        list(await reader.read(10))

    async def test_what_the_published_client_writes_ours_read(self):
        for language, command in commands().items():
            for compression in [None, "gzip"]:
                with self.subTest(language=language, compression=compression):
                    stream = await self.stream(shard_count=3)
                    written = []
                    for key, payload in RECORDS:
                        ids = await self.client.append(
                            stream, [payload, payload], key=key or None, compresstype=compression
                        )
                        written.extend((text(id), key, payload) for id in ids)
                    subscription = await self.subscription(stream)
                    async with Adapter(command) as ours:
                        await ours.do("connect", url=shared().url)
                        await ours.attach(subscription)
                        read = await ours.receive(len(written))
                        self.assertTrue(await ours.detach())
                        await ours.do("close")
                    self.assertEqual(sorted(read), sorted(written))
                    # Acknowledged by ours: the published consumer gets only what is new.
                    await self.client.append(stream, [b"new"])
                    (record,) = await consume(self.client, subscription, 1)
                    self.assertEqual(record.payload, b"new")

    async def test_two_clients_share_one_subscription(self):
        stream = await self.stream(shard_count=4)
        # What one received and left unacknowledged comes to the other soon.
        subscription = await self.subscription(stream, ack_timeout=1)
        for number in range(40):
            await self.client.append(stream, [b"%d" % number], key=str(number))
        first = await consume(self.client, subscription, 10)
        seen = {record.payload for record in first}
        async with Adapter(commands()["rust"]) as ours:
            await ours.do("connect", url=shared().url)
            await ours.attach(subscription)
            seen.update(payload for _, _, payload in await ours.receive(40 - len(seen)))
            await ours.detach()
        self.assertEqual(seen, {b"%d" % number for number in range(40)})
