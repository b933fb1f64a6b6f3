"""Life at the edge: processes, loops, threads, signals, interpreters, and what is left behind."""

import asyncio
import gc
import logging
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import unittest

import hstreamdb
import hstreamdb.sync
from recording_proxy import RecordingProxy
from server_process import ServerProcess, ServerTestCase, run
from soak import resident_bytes, slope

SCRIPT_SECONDS = 60


class Scripts(ServerTestCase):
    def script(self, text, *arguments, file=False):
        """Runs a program of its own; from a file where it has to be imported by its children."""
        text = textwrap.dedent(text)
        command = ["-c", text]
        if file:
            folder = tempfile.TemporaryDirectory()
            self.addCleanup(folder.cleanup)
            path = os.path.join(folder.name, "program.py")
            with open(path, "w", encoding="utf-8") as program:
                program.write(text)
            command = [path]
        return subprocess.run(
            [sys.executable, "-X", "faulthandler"] + command + [self.url] + list(arguments),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            universal_newlines=True,
            timeout=SCRIPT_SECONDS,
        )

    def assert_prints(self, done, expected):
        self.assertEqual((done.stdout, done.returncode), (expected, 0), done.stderr)
        self.assertNotIn("Fatal", done.stderr)


class Processes(Scripts):
    def test_multiprocessing_by_fork_while_everything_is_in_use(self):
        done = self.script(
            """
            import gc, multiprocessing, sys
            import hstreamdb, hstreamdb.sync

            url = sys.argv[1]
            stream = sys.argv[2]
            client = hstreamdb.sync.connect(url)
            client.create_stream(stream)
            client.create_subscription(stream, stream, offset="earliest")
            producer = client.producer(stream, on_batch=lambda report: None).open()
            consumer = client.consumer(stream, on_event=lambda event: None).start()
            reader = client.stream_reader(stream).open()
            receipt = producer.submit(b"before")
            receipt.result()

            def child(queue):
                global client, producer, consumer, reader, receipt
                for call in (client.list_streams, lambda: producer.append(b"x"), consumer.next_batch,
                             reader.next_batch, lambda: consumer.ack([]), client.close, producer.close):
                    try:
                        call()
                    except hstreamdb.ClosedError as error:
                        assert "fork" in str(error), error
                    else:
                        raise AssertionError(call)
                # Dropped in the child, which must neither wait for the parent's threads nor touch its connections.
                del client, producer, consumer, reader
                gc.collect()
                with hstreamdb.sync.connect(url) as own:
                    own.append(stream, b"child")
                queue.put("child")

            context = multiprocessing.get_context("fork")
            for _ in range(3):
                queue = context.Queue()
                process = context.Process(target=child, args=(queue,))
                process.start()
                print(queue.get(timeout=30))
                process.join(30)
                print(process.exitcode)
            producer.append(b"after")
            got = []
            while len(got) < 5:
                batch = consumer.next_batch()
                got += batch.payloads
                batch.ack()
            print(sorted(got))
            print(consumer.stop().clean)
            client.close()
            """,
            self.unique(),
        )
        self.assert_prints(done, "child\n0\n" * 3 + "[b'after', b'before', b'child', b'child', b'child']\nTrue\n")

    def test_multiprocessing_by_spawn(self):
        done = self.script(
            """
            import multiprocessing, sys
            import hstreamdb.sync

            def child(url, queue):
                with hstreamdb.sync.connect(url) as client:
                    queue.put(client.echo("child"))

            if __name__ == "__main__":
                with hstreamdb.sync.connect(sys.argv[1]) as client:
                    context = multiprocessing.get_context("spawn")
                    queue = context.Queue()
                    process = context.Process(target=child, args=(sys.argv[1], queue))
                    process.start()
                    print(queue.get(timeout=30), client.echo("parent"))
                    process.join(30)
                    print(process.exitcode)
            """,
            file=True,
        )
        self.assert_prints(done, "child parent\n0\n")

    def test_exit_with_threads_that_wait_is_clean(self):
        script = """
            import sys, threading, time
            import hstreamdb, hstreamdb.sync

            client = hstreamdb.sync.connect(sys.argv[1])
            stream = sys.argv[2]
            client.create_stream(stream)
            client.create_subscription(stream, stream)
            consumer = client.consumer(stream).start()
            reader = client.stream_reader(stream, from_="latest").open()
            producer = client.producer(stream, batch_max_age_ms=60000).open()

            def echo():
                while True:
                    client.echo("x")

            for wait in (consumer.next_batch, reader.next_batch, client.events().next, echo, echo,
                         lambda: producer.append(b"x"), lambda: consumer.run(print)):
                threading.Thread(target=wait, daemon=True).start()
            time.sleep(0.2)
            print("end")
            """
        for _ in range(5):
            self.assert_prints(self.script(script, self.unique()), "end\n")

    def test_ctrl_c_ends_a_program_of_asyncio(self):
        done = self.script(
            """
            import asyncio, os, signal, sys, threading
            import hstreamdb

            async def main():
                async with await hstreamdb.connect(sys.argv[1]) as client:
                    await client.create_stream(sys.argv[2])
                    reader = await client.stream_reader(sys.argv[2], from_="latest")
                    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
                    await reader.next_batch()

            try:
                asyncio.run(main())
            except KeyboardInterrupt:
                print("interrupted")
            """,
            self.unique(),
        )
        self.assert_prints(done, "interrupted\n")

    def test_a_subinterpreter_is_refused_with_words(self):
        done = self.script(
            """
            import os
            try:
                import _interpreters as interpreters
            except ImportError:
                try:
                    import _xxsubinterpreters as interpreters
                except ImportError:
                    # Python 3.7 cannot make one from Python.
                    print("True\\nTrue")
                    raise SystemExit

            code = "\\n".join([
                "import os",
                "try:",
                "    import hstreamdb",
                "except ImportError as error:",
                "    text = str(error)",
                "else:",
                "    text = 'it was imported'",
                "os.write(%d, text.encode())",
            ])
            reader, writer = os.pipe()
            first = interpreters.create()
            # Before the main interpreter has imported it, and after that.
            interpreters.run_string(first, code % writer)
            print("main interpreter only" in os.read(reader, 1000).decode())
            import hstreamdb
            interpreters.run_string(interpreters.create(), code % writer)
            print("main interpreter only" in os.read(reader, 1000).decode())
            """
        )
        self.assert_prints(done, "True\nTrue\n")


class Loops(ServerTestCase):
    def test_several_loops_in_several_threads_share_a_client(self):
        async def connect():
            return await hstreamdb.connect(self.url)

        client, results = run(connect()), []

        async def work(number):
            for turn in range(20):
                text = "%d-%d" % (number, turn)
                answers = await asyncio.gather(*(client.echo(text) for _ in range(5)))
                assert answers == [text] * 5, answers
            results.append(number)

        threads = [threading.Thread(target=run, args=(work(number),)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        self.assertEqual(sorted(results), list(range(6)))

        async def close():
            await client.close()

        run(close())

    def test_uvloop(self):
        try:
            import uvloop
        except ImportError:
            self.skipTest("uvloop is not installed")

        async def main():
            async with await hstreamdb.connect(self.url) as client:
                stream = self.unique()
                await client.create_stream(stream)
                async with client.producer(stream) as producer:
                    ids = await asyncio.gather(*[producer.append(b"%d" % n) for n in range(500)])
                got = []
                async with client.single_shard_reader(stream, until="latest") as reader:
                    async for batch in reader:
                        got.extend(batch.ids)
                assert got == ids
                try:
                    await asyncio.wait_for((await client.stream_reader(stream, from_="latest")).next_batch(), 0.05)
                except asyncio.TimeoutError:
                    return "timeout"

        loop = uvloop.new_event_loop()
        try:
            self.assertEqual(loop.run_until_complete(asyncio.wait_for(main(), 60)), "timeout")
        finally:
            loop.close()

    def test_a_loop_that_is_closed_while_batches_are_on_their_way_loses_none(self):
        client = hstreamdb.sync.connect(self.url)
        stream, subscription = self.unique(), self.unique("sub")
        client.create_stream(stream)
        client.create_subscription(subscription, stream, offset="earliest")
        client.append(stream, b"1")

        async def start():
            own = await hstreamdb.connect(self.url)
            return own, await own.consumer(subscription)

        loop = asyncio.new_event_loop()
        own, consumer = loop.run_until_complete(start())
        left = consumer._pull.__self__ is consumer and loop.create_task(consumer.next_batch())
        loop.call_soon(loop.stop)
        loop.run_forever()
        left.cancel()
        loop.run_until_complete(asyncio.wait([left]))
        loop.close()
        # The loop is still there: what was on its way to it comes back with the first call on another one.

        async def go_on():
            batch = await asyncio.wait_for(consumer.next_batch(), 20)
            batch.ack()
            await own.close()
            return batch.payloads

        self.assertEqual(run(go_on()), [b"1"])
        client.close()


class Wire(unittest.TestCase):
    """What a server sees of a call that the caller gives up."""

    def setUp(self):
        self.server = ServerProcess()
        self.addCleanup(self.server.remove)
        self.proxy = RecordingProxy(self.server.port)
        self.addCleanup(self.proxy.close)
        # No other call is to disturb.
        self.options = {"silence_timeout_ms": 0, "node_check_interval_ms": 0, "discovery_interval_ms": 600000}
        self.options["host_mapping"] = {"127.0.0.1:%d" % self.server.port: "127.0.0.1:%d" % self.proxy.port}

    def test_cancelled_calls_are_reset_on_the_wire(self):
        async def main():
            async with await hstreamdb.connect(self.proxy.url, **self.options) as client:
                await client.echo("x")
                self.proxy.hold_answers()
                resets = self.proxy.resets
                with self.assertRaises(asyncio.TimeoutError):
                    await asyncio.wait_for(client.echo("y"), 0.2)
                await self.until(lambda: self.proxy.resets == resets + 1)
                task = asyncio.ensure_future(client.list_streams())
                await asyncio.sleep(0.1)
                task.cancel()
                await self.until(lambda: self.proxy.resets == resets + 2)
                if hasattr(asyncio, "timeout"):
                    with self.assertRaises(TimeoutError):
                        async with asyncio.timeout(0.2):
                            await client.echo("z")
                    await self.until(lambda: self.proxy.resets == resets + 3)
                self.proxy.let_answers_go()
                self.assertEqual(await client.echo("again"), "again")

        run(main())

    async def until(self, condition):
        deadline = time.monotonic() + 20
        while not condition():
            self.assertLess(time.monotonic(), deadline)
            await asyncio.sleep(0.005)

    def test_an_interrupted_call_is_reset_on_the_wire(self):
        if threading.current_thread() is not threading.main_thread():
            self.skipTest("signals go to the main thread")
        client = hstreamdb.sync.connect(self.proxy.url, **self.options)
        client.echo("x")
        self.proxy.hold_answers()
        resets = self.proxy.resets
        timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        with self.assertRaises(KeyboardInterrupt):
            client.echo("y")
        timer.join()
        deadline = time.monotonic() + 20
        while self.proxy.resets == resets:
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.005)
        self.proxy.let_answers_go()
        self.assertEqual(client.echo("again"), "again")
        client.close()


class Logs(unittest.TestCase):
    class Slow(logging.Handler):
        """Holds the thread that hands log lines over."""

        def __init__(self):
            super().__init__()
            self.lines, self.entered, self.let_go = [], threading.Event(), threading.Event()

        def emit(self, record):
            self.lines.append((record.name, record.getMessage()))
            self.entered.set()
            self.let_go.wait(30)

    def test_log_lines_of_the_client_arrive_and_a_slow_handler_holds_up_nothing(self):
        server = ServerProcess()
        self.addCleanup(server.remove)
        handler, logger = self.Slow(), logging.getLogger("hstreamdb")
        self.addCleanup(handler.let_go.set)
        logger.addHandler(handler)
        self.addCleanup(logger.removeHandler, handler)
        client = hstreamdb.sync.connect(server.url, request_timeout_ms=300, retry_max_attempts=1)
        client.create_stream("s")
        client.create_subscription("s", "s")
        handled = threading.Event()

        def handle(batch):
            handled.set()
            raise ValueError("on purpose")

        consumer = client.consumer("s").start()
        runner = threading.Thread(target=consumer.run, args=(handle,), daemon=True)
        runner.start()
        client.append("s", b"x")
        # "left unacknowledged" is a warning of the core.
        self.assertTrue(handler.entered.wait(20))
        self.assertTrue(handler.lines[0][0].startswith("hstreamdb."), handler.lines)
        for number in range(20):
            self.assertEqual(client.echo(str(number)), str(number))
        handler.let_go.set()
        consumer.stop()
        runner.join(20)
        client.close()


class Leaks(ServerTestCase):
    def test_opening_and_closing_leaves_nothing_behind(self):
        from soak import cycle

        stream = self.unique()
        with hstreamdb.sync.connect(self.url) as client:
            client.create_stream(stream)
            client.create_subscription(stream, stream)
        samples = []
        for number in range(240):
            cycle(self.url, stream)
            if number % 20 == 19:
                gc.collect()
                samples.append((number, resident_bytes()))
        # The first third is for caches to fill. A leaked client is far more than that.
        self.assertLess(slope(samples[4:]), 4096, samples)
