"""Handlers, callbacks and other functions of the application that the client calls."""

import asyncio
import threading
import time
import unittest

import hstreamdb
import hstreamdb.sync
from server_process import ServerProcess, ServerTestCase, run


class Handlers(ServerTestCase):
    async def prepared(self, client, payloads, **options):
        stream, subscription = self.unique(), self.unique("sub")
        await client.create_stream(stream)
        options.setdefault("ack_timeout_secs", 600)
        await client.create_subscription(subscription, stream, offset="earliest", **options)
        for payload in payloads:
            # A batch each.
            await client.append(stream, payload)
        return subscription

    def test_batches_are_handled_and_acknowledged_until_the_consumer_stops(self):
        async def main():
            async with await hstreamdb.connect(self.url) as client:
                subscription = await self.prepared(client, [b"%d" % n for n in range(20)])
                seen = []

                async def handle(batch, context):
                    self.assertEqual(context.tries, 1)
                    self.assertFalse(context.is_stopping)
                    await asyncio.sleep(0)
                    seen.extend(batch.payloads)
                    if len(seen) == 20:
                        stopped.append(asyncio.ensure_future(consumer.stop()))

                stopped = []
                consumer = await client.consumer(subscription)
                await consumer.run(handle, with_context=True, concurrency=4)
                self.assertTrue((await stopped[0]).clean)
                self.assertEqual(seen, [b"%d" % n for n in range(20)])
                async with client.consumer(subscription) as again:
                    with self.assertRaises(asyncio.TimeoutError):
                        await asyncio.wait_for(again.next_batch(), 0.3)

        run(main())

    def test_a_failure_can_stop_and_its_exception_comes_out_as_the_cause(self):
        async def main():
            async with await hstreamdb.connect(self.url) as client:
                subscription = await self.prepared(client, [b"bad"])
                tries = []

                def handle(record):
                    tries.append(record.payload)
                    raise KeyError("no such customer")

                consumer = await client.consumer(subscription)
                with self.assertRaises(hstreamdb.ClosedError) as caught:
                    await consumer.run_records(handle, retries=2, retry_base_ms=1, on_error="stop")
                self.assertEqual(tries, [b"bad"] * 3)
                self.assertIsInstance(caught.exception.__cause__, KeyError)
                self.assertIn("no such customer", str(caught.exception))

        run(main())

    def test_the_application_decides_about_failures(self):
        async def main():
            async with await hstreamdb.connect(self.url) as client:
                subscription = await self.prepared(client, [b"1", b"2", b"3"])
                failures = []

                def decide(failure):
                    failures.append((failure.work.payloads[0], failure.tries))
                    if failure.tries < 2:
                        return 0.001
                    return "stop" if failure.work.payloads == [b"3"] else "acknowledge"

                async def handle(batch):
                    raise ValueError(batch.payloads)

                consumer = await client.consumer(subscription)
                with self.assertRaises(hstreamdb.ClosedError):
                    await consumer.run(handle, on_failure=decide)
                self.assertEqual(failures, [(payload, tries) for payload in (b"1", b"2", b"3") for tries in (1, 2)])

        run(main())

    def test_a_wrong_decision_stops_and_says_so(self):
        async def main():
            async with await hstreamdb.connect(self.url) as client:
                subscription = await self.prepared(client, [b"1"])

                def handle(batch):
                    raise ValueError("bad record")

                consumer = await client.consumer(subscription)
                with self.assertRaises(hstreamdb.ClosedError) as caught:
                    await consumer.run(handle, on_failure=lambda failure: "whatever")
                self.assertIn("whatever", str(caught.exception))

        run(main())

    def test_cancelling_a_run_cancels_its_handlers(self):
        async def main():
            async with await hstreamdb.connect(self.url) as client:
                subscription = await self.prepared(client, [b"1"])
                began, ended = asyncio.Event(), []

                async def handle(batch):
                    began.set()
                    try:
                        await asyncio.sleep(60)
                    except asyncio.CancelledError:
                        ended.append("cancelled")
                        raise

                consumer = await client.consumer(subscription)
                running = asyncio.ensure_future(consumer.run(handle))
                await asyncio.wait_for(began.wait(), 20)
                running.cancel()
                with self.assertRaises(asyncio.CancelledError):
                    await running
                self.assertEqual(ended, ["cancelled"])

        run(main())

    def test_a_handler_that_does_not_end_is_given_up_when_the_consumer_stops(self):
        async def main():
            async with await hstreamdb.connect(self.url) as client:
                subscription = await self.prepared(client, [b"1"])
                began, ended = asyncio.Event(), asyncio.Event()

                async def handle(batch):
                    began.set()
                    try:
                        await asyncio.sleep(60)
                    finally:
                        ended.set()

                consumer = await client.consumer(subscription)
                running = asyncio.ensure_future(consumer.run(handle))
                await asyncio.wait_for(began.wait(), 20)
                report = await consumer.stop(timeout=0.4)
                self.assertEqual(report.unfinished_handlers, 1)
                await asyncio.wait_for(running, 20)
                await asyncio.wait_for(ended.wait(), 20)

        run(main())

    def test_unknown_options_of_a_run_are_refused_at_once(self):
        async def main():
            async with await hstreamdb.connect(self.url) as client:
                subscription = await self.prepared(client, [])
                async with client.consumer(subscription) as consumer:
                    with self.assertRaises(hstreamdb.InvalidArgumentError) as caught:
                        consumer.run(print, threads=3)
                    self.assertIn("concurrency", str(caught.exception))

        run(main())

    def test_plain_functions_run_in_as_many_threads_as_wanted(self):
        client = hstreamdb.sync.connect(self.url)
        stream, subscription = self.unique(), self.unique("sub")
        client.create_stream(stream, shard_count=4)
        client.create_subscription(subscription, stream, offset="earliest")
        client.append_many(stream, [b"x"] * 16, ["k%d" % n for n in range(16)])
        seen, lock, consumer = [], threading.Lock(), client.consumer(subscription).start()

        def handle(record):
            with lock:
                seen.append((record.id, threading.current_thread().name))
                if len(seen) == 16:
                    threading.Thread(target=consumer.stop).start()

        consumer.run_records(handle, concurrency=4)
        self.assertEqual(len({record_id for record_id, _ in seen}), 16)
        self.assertTrue(all(name.startswith("hstreamdb-handler") for _, name in seen))

        async def coroutine(record):
            pass

        again = client.consumer(subscription).start()
        client.append(stream, b"one more")
        with self.assertRaises(hstreamdb.ClosedError) as caught:
            again.run(coroutine, on_error="stop")
        self.assertIn("plain function", str(caught.exception))
        client.close()


class Callbacks(ServerTestCase):
    def test_batches_and_consumers_tell_what_happens_on_the_event_loop(self):
        async def main():
            async with await hstreamdb.connect(self.url) as client:
                stream, subscription = self.unique(), self.unique("sub")
                await client.create_stream(stream)
                await client.create_subscription(subscription, stream, offset="earliest")
                reports, events, threads = [], [], set()

                def on_batch(report):
                    threads.add(threading.get_ident())
                    reports.append(report)

                async with client.producer(stream, on_batch=on_batch, batch_max_records=2) as producer:
                    await producer.post([b"1", b"2", b"3"], keys="k", tag=7)
                    await producer.post([b"x" * (2 << 20)], tag=8)
                    await producer.flush_shard((await client.list_shards(stream))[0].id)
                while len(reports) < 3:
                    await asyncio.sleep(0.001)
                self.assertEqual(threads, {threading.get_ident()})
                stored = [report for report in reports if report.error is None]
                self.assertEqual([part for report in stored for part in report.parts], [(7, 0, 2), (7, 2, 3)])
                self.assertEqual(sum(len(report.ids) for report in stored), 3)
                refused = [report for report in reports if report.error is not None]
                self.assertEqual([report.parts for report in refused], [[(8, 0, 1)]])
                self.assertIsInstance(refused[0].error, hstreamdb.InvalidArgumentError)

                consumer = await client.consumer(subscription, on_event=events.append)
                await consumer.stop()
                while len(events) < 2:
                    await asyncio.sleep(0.001)
                self.assertEqual([event.kind for event in events], ["connected", "closed"])
                self.assertTrue(events[1].report.clean)

        run(main())

    def test_an_exception_in_a_callback_is_logged_and_harms_nothing(self):
        async def main():
            async with await hstreamdb.connect(self.url) as client:
                stream = self.unique()
                await client.create_stream(stream)
                called = []

                def on_batch(report):
                    called.append(report)
                    raise ValueError("in the callback")

                with self.assertLogs("hstreamdb", "ERROR") as logged:
                    async with client.producer(stream, on_batch=on_batch) as producer:
                        await producer.append(b"1")
                        await producer.append(b"2")
                    while len(called) < 2:
                        await asyncio.sleep(0.001)
                self.assertIn("on_batch failed", "\n".join(logged.output))
                self.assertIn("in the callback", "\n".join(logged.output))

        run(main())

    def test_without_a_loop_callbacks_have_a_thread_of_their_own(self):
        client = hstreamdb.sync.connect(self.url)
        stream = self.unique()
        client.create_stream(stream)
        arrived, names = threading.Event(), []

        def on_batch(report):
            names.append(threading.current_thread().ident)
            arrived.set()

        with client.producer(stream, on_batch=on_batch) as producer:
            producer.append(b"1")
            self.assertTrue(arrived.wait(20))
        self.assertNotIn(threading.get_ident(), names)
        client.close()

    def test_a_slow_callback_drops_calls_and_delays_nothing(self):
        client = hstreamdb.sync.connect(self.url)
        stream = self.unique()
        client.create_stream(stream)
        release, calls = threading.Event(), []

        def on_batch(report):
            calls.append(report)
            release.wait(30)

        with self.assertLogs("hstreamdb", "WARNING") as logged:
            with client.producer(stream, on_batch=on_batch, batch_max_records=1) as producer:
                producer.append_many([b"x"] * 1500)
            release.set()
            deadline = time.monotonic() + 20
            while len(calls) < 1024 and time.monotonic() < deadline:
                time.sleep(0.01)
            self.assertGreaterEqual(len(calls), 1024)
            self.assertLess(len(calls), 1500)
        self.assertIn("too slow", "\n".join(logged.output))
        client.close()


class Events(unittest.TestCase):
    def test_a_client_tells_about_its_nodes(self):
        server = ServerProcess()
        self.addCleanup(server.remove)

        async def main():
            options = {"request_timeout_ms": 500, "retry_max_attempts": 1, "discovery_interval_ms": 100}
            async with await hstreamdb.connect(server.url, **options) as client:
                self.assertEqual([node.state for node in client.nodes], ["running"])
                cluster = await client.describe_cluster()
                self.assertEqual(cluster.nodes[0].address, client.nodes[0].address)
                events = client.events()
                server.kill()
                with self.assertRaises(hstreamdb.HStreamError):
                    await client.list_streams()
                kinds = set()
                async for event in events:
                    kinds.add(event.kind)
                    if event.kind == "node_suspect":
                        self.assertEqual(event.address, cluster.nodes[0].address)
                        self.assertIsInstance(event.error, hstreamdb.HStreamError)
                    if {"node_suspect", "disconnected", "discovery_failed"} <= kinds:
                        break
                self.assertEqual(events.dropped, 0)

        run(main())


class Providers(unittest.TestCase):
    def test_tokens_come_from_functions_of_every_kind(self):
        server = ServerProcess("--token", "secret")
        self.addCleanup(server.remove)
        threads = []

        async def from_coroutine():
            threads.append(threading.get_ident())
            await asyncio.sleep(0)
            return "secret", 3600

        def from_function():
            threads.append(threading.get_ident())
            return "secret"

        async def main():
            with self.assertRaises(hstreamdb.UnauthenticatedError):
                await hstreamdb.connect(server.url)
            async with await hstreamdb.connect(server.url, auth_token="secret") as client:
                await client.list_streams()
            async with await hstreamdb.connect(server.url, token_provider=from_coroutine) as client:
                await client.list_streams()
            async with await hstreamdb.connect(server.url, token_provider=from_function) as client:
                await client.list_streams()

        run(main())
        self.assertEqual(threads[0], threading.get_ident())
        self.assertNotEqual(threads[-1], threading.get_ident())
        for provider in (from_function, from_coroutine):
            client = hstreamdb.sync.connect(server.url, token_provider=provider)
            self.assertEqual(client.list_streams(), [])
            client.close()

    def test_a_provider_that_fails_ends_the_call_and_is_its_cause(self):
        server = ServerProcess("--token", "secret")
        self.addCleanup(server.remove)

        def provider():
            raise OSError("the vault is sealed")

        with self.assertRaises(hstreamdb.HStreamError) as caught:
            hstreamdb.sync.connect(server.url, token_provider=provider)
        self.assertIn("the vault is sealed", str(caught.exception))
        with self.assertRaises(hstreamdb.HStreamError) as caught:
            hstreamdb.sync.connect(server.url, token_provider=lambda: 7)
        self.assertIn("token_provider", str(caught.exception))
        with self.assertRaises(TypeError):
            hstreamdb.sync.connect(server.url, token_provider="secret")

    def test_names_are_resolved_by_the_application(self):
        server = ServerProcess()
        self.addCleanup(server.remove)
        asked = []

        async def main():
            async def resolve(host):
                asked.append(host)
                return ["127.0.0.1"]

            url = "hstream://nowhere.invalid:%d" % server.port
            async with await hstreamdb.connect(url, name_resolver=resolve) as client:
                self.assertEqual(await client.echo("x"), "x")

        run(main())
        self.assertEqual(asked[0], "nowhere.invalid")
