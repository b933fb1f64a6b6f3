"""The client: resources, options, closing, errors."""

import asyncio
import inspect
import pickle
import socket
import time
import unittest

import hstreamdb
from hstreamdb import _native, errors
from server_process import ServerProcess, ServerTestCase, connect, run


class Resources(ServerTestCase):
    def test_streams_and_subscriptions_are_created_listed_and_deleted(self):
        async def main():
            async with await hstreamdb.connect(self.url) as client:
                stream, subscription = self.unique(), self.unique("sub")
                created = await client.create_stream(stream, shard_count=3, backlog_duration_secs=60)
                self.assertEqual((created.name, created.shard_count), (stream, 3))
                self.assertIn(stream, [each.name for each in await client.list_streams()])
                self.assertTrue(await client.stream_exists(stream))
                shards = await client.list_shards(stream)
                self.assertEqual(len(shards), 3)
                self.assertEqual((shards[0].start, shards[-1].end), (0, 2**128 - 1))
                await client.create_subscription(subscription, stream, ack_timeout_secs=5)
                listed = {each.subscription_id: each for each in await client.list_subscriptions()}
                self.assertEqual(listed[subscription].stream_name, stream)
                self.assertEqual(listed[subscription].ack_timeout, 5)
                await client.delete_subscription(subscription, force=True)
                self.assertFalse(await client.subscription_exists(subscription))
                await client.delete_stream(stream)
                self.assertFalse(await client.stream_exists(stream))
                await client.delete_stream(stream, ignore_missing=True)

        run(main())

    def test_refusals_of_the_server_are_typed(self):
        async def main():
            async with await hstreamdb.connect(self.url) as client:
                stream = self.unique()
                await client.create_stream(stream)
                with self.assertRaises(hstreamdb.AlreadyExistsError) as caught:
                    await client.create_stream(stream)
                self.assertEqual(caught.exception.kind, "already_exists")
                self.assertEqual(caught.exception.status, 6)
                self.assertIn(stream, str(caught.exception))
                self.assertFalse(caught.exception.may_have_been_applied)
                missing = self.unique()
                with self.assertRaises(hstreamdb.NotFoundError) as caught:
                    await client.delete_stream(missing)
                self.assertIsInstance(caught.exception, hstreamdb.HStreamError)
                with self.assertRaises(hstreamdb.NotFoundError):
                    await client.producer(missing)

        run(main())

    def test_two_event_loops_share_a_client(self):
        client = run(connect(self.url))

        async def echo(text):
            return await client.echo(text)

        self.assertEqual(run(echo("one")), "one")
        self.assertEqual(run(echo("two")), "two")

        async def close():
            await client.close()

        run(close())


class Options(ServerTestCase):
    def test_unknown_and_wrong_options_are_refused_where_they_are_written(self):
        async def main():
            with self.assertRaises(hstreamdb.InvalidArgumentError) as caught:
                hstreamdb.connect(self.url, no_such_option=1)
            self.assertIn("request_timeout_ms", str(caught.exception))
            async with await hstreamdb.connect(self.url, request_timeout_ms=4000) as client:
                for make in (client.producer, client.consumer, client.stream_reader):
                    with self.assertRaises(hstreamdb.InvalidArgumentError) as caught:
                        make("x", no_such_option=1)
                    self.assertIn("no_such_option", str(caught.exception))
                with self.assertRaises(hstreamdb.InvalidArgumentError):
                    client.producer("x", batch_max_records="many")
                with self.assertRaises(TypeError):
                    client.producer("x", batch_max_records=object())
                with self.assertRaises(hstreamdb.InvalidArgumentError):
                    client.create_stream("x", no_such_option=1)
                client.producer("x", batch_max_records=None)

        run(main())

    def test_the_stub_names_every_option_of_streams_and_subscriptions(self):
        import os

        stub = os.path.join(os.path.dirname(hstreamdb.__file__), "_native.pyi")
        with open(stub, encoding="utf-8") as file:
            text = file.read()
        table = hstreamdb.option_table()
        self.assertGreater(len(table), 20)
        for option in table:
            self.assertTrue(option["doc"])
            if option["scope"] in ("stream", "subscription"):
                self.assertIn("%s: " % option["name"], text)
        for name, member in vars(_native).items():
            if inspect.isclass(member) and not name.startswith("_"):
                self.assertIn("class %s" % name, text)


class Errors(unittest.TestCase):
    def test_every_kind_of_the_core_is_exported_below_one_base(self):
        self.assertGreaterEqual(len(_native.ERROR_CLASSES), 16)
        for each in _native.ERROR_CLASSES:
            self.assertTrue(issubclass(each, hstreamdb.HStreamError))
            self.assertIs(getattr(errors, each.__name__), each)
            self.assertIn(each.__name__, errors.__all__)
            self.assertEqual(each.__module__, "hstreamdb.errors")
            self.assertTrue(each.kind and each.__doc__)

    def test_an_unreachable_server_is_an_error_in_time(self):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]

        async def main():
            await hstreamdb.connect("hstream://127.0.0.1:%d" % port, connect_timeout_ms=1000)

        began = time.monotonic()
        with self.assertRaises(hstreamdb.HStreamError) as caught:
            run(main())
        self.assertLess(time.monotonic() - began, 15)
        self.assertIn(caught.exception.kind, ("unavailable", "timeout"))
        self.assertIn(str(port), str(caught.exception))

    def test_a_wrong_url_is_an_invalid_argument(self):
        async def main(url):
            await hstreamdb.connect(url)

        for url in ("", "ftp://127.0.0.1", "hstream://", "hstream://127.0.0.1:notaport"):
            with self.assertRaises(hstreamdb.InvalidArgumentError, msg=url):
                run(main(url))

    def test_errors_survive_pickling_with_all_they_say(self):
        async def main():
            await hstreamdb.connect("ftp://x")

        with self.assertRaises(hstreamdb.InvalidArgumentError) as caught:
            run(main())
        error = caught.exception
        error.extra = {"a": [1]}
        error.ids = [hstreamdb.RecordId(1, 2, 3), None]
        copy = pickle.loads(pickle.dumps(error))
        self.assertIs(type(copy), type(error))
        self.assertEqual(str(copy), str(error))
        self.assertEqual(vars(copy), vars(error))
        self.assertEqual(copy.kind, "invalid_argument")
        for each in _native.ERROR_CLASSES:
            self.assertIs(type(pickle.loads(pickle.dumps(each("x")))), each)

    def test_a_call_outside_of_an_event_loop_says_so(self):
        with self.assertRaises(RuntimeError):
            hstreamdb.connect("hstream://127.0.0.1:1")


class Closing(ServerTestCase):
    def test_closing_twice_is_harmless_and_use_after_it_is_a_closed_error(self):
        async def main():
            client = await hstreamdb.connect(self.url)
            stream, subscription = self.unique(), self.unique("sub")
            await client.create_stream(stream)
            await client.create_subscription(subscription, stream)

            producer = await client.producer(stream)
            await producer.append(b"x")
            report = await producer.close()
            self.assertEqual((report.failed, report.unresolved), (0, 0))
            await producer.close(timeout=1)
            with self.assertRaises(hstreamdb.ClosedError):
                await producer.append(b"y")

            consumer = await client.consumer(subscription)
            await consumer.stop()
            await consumer.stop(timeout=1)

            reader = await client.stream_reader(stream, from_="earliest")
            await reader.close()
            await reader.close()

            await client.close()
            await client.close(timeout=1)
            with self.assertRaises(hstreamdb.ClosedError):
                await client.list_streams()
            self.assertTrue(client.is_closed)
            with self.assertRaises(ValueError):
                client.close(timeout=-1)

        run(main())

    def test_a_handle_that_is_not_open_says_how_to_open_it(self):
        async def main():
            async with await hstreamdb.connect(self.url) as client:
                producer = client.producer("x")
                with self.assertRaises(hstreamdb.ClosedError) as caught:
                    producer.append(b"x")
                self.assertIn("async with", str(caught.exception))
                await producer.close()
                with self.assertRaises(hstreamdb.ClosedError):
                    await producer

        run(main())

    def test_leaving_the_block_waits_for_what_is_in_flight(self):
        async def main():
            async with await hstreamdb.connect(self.url) as client:
                stream = self.unique()
                await client.create_stream(stream)
                async with client.producer(stream, batch_max_age_ms=2000) as producer:
                    futures = [producer.append(b"%d" % n) for n in range(10)]
                await asyncio.gather(*futures)
                # An error inside the block comes out of it.
                with self.assertRaises(KeyError):
                    async with client.producer(stream):
                        raise KeyError

        run(main())

    def test_flush_does_not_wait_for_the_age_of_a_batch(self):
        async def main():
            async with await hstreamdb.connect(self.url) as client:
                stream = self.unique()
                await client.create_stream(stream)
                async with client.producer(stream, batch_max_age_ms=60000) as producer:
                    future = producer.append(b"x")
                    await asyncio.wait_for(producer.flush(), 20)
                    await asyncio.wait_for(future, 5)

        run(main())


class Restart(unittest.TestCase):
    def test_what_was_stored_before_a_kill_is_read_after_it(self):
        server = ServerProcess()
        self.addCleanup(server.remove)

        async def main():
            async with await hstreamdb.connect(server.url) as client:
                await client.create_stream("s")
                await client.create_subscription("sub", "s", offset="earliest")
                async with client.producer("s") as producer:
                    ids = await producer.append_many([b"%d" % n for n in range(100)])
            server.kill()
            server.start()
            async with await hstreamdb.connect(server.url) as client:
                got = []
                async with client.consumer("sub") as consumer:
                    while len(got) < 100:
                        batch = await asyncio.wait_for(consumer.next_batch(), 30)
                        got.extend(batch.ids)
                        batch.ack()
            self.assertEqual(got, ids)

        run(main())

    def test_calls_to_a_killed_server_fail_in_time(self):
        server = ServerProcess()
        self.addCleanup(server.remove)

        async def main():
            client = await hstreamdb.connect(server.url, request_timeout_ms=1000, retry_max_attempts=2)
            await client.create_stream("s")
            producer = await client.producer("s", delivery_timeout_ms=2000)
            await producer.append(b"x")
            server.kill()
            with self.assertRaises(hstreamdb.HStreamError):
                await client.list_streams()
            with self.assertRaises(hstreamdb.HStreamError):
                await producer.append(b"y")
            await producer.close(timeout=2)
            await client.close(timeout=2)

        run(main())
