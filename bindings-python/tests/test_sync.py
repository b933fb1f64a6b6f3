"""The API without asyncio: the same calls, waits that let others run and that Ctrl-C ends."""

import inspect
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import unittest

import hstreamdb
import hstreamdb.sync
from hstreamdb import _native
from server_process import ServerProcess, ServerTestCase


class Sync(ServerTestCase):
    def setUp(self):
        self.client = hstreamdb.sync.connect(self.url)
        self.addCleanup(self.client.close)

    def stream(self, **options):
        stream, subscription = self.unique(), self.unique("sub")
        self.client.create_stream(stream, **options)
        self.client.create_subscription(subscription, stream, offset="earliest")
        return stream, subscription


class Calls(Sync):
    def test_what_is_appended_is_received_and_acknowledged(self):
        stream, subscription = self.stream(shard_count=2)
        with self.client.producer(stream) as producer:
            first = producer.append(b"1", key="k", attributes={"unit": "m"})
            ids = producer.append_many([b"2", {"n": 3}], "k")
            producer.flush_key("k")
            self.assertEqual(tuple(producer.pending), (0, 0))
        got = []
        with self.client.consumer(subscription) as consumer:
            for batch in consumer:
                got.extend(zip(batch.ids, batch.keys, batch.values(), batch.attributes))
                batch.ack()
                if len(got) == 3:
                    break
            consumer.flush_acks()
            self.assertEqual(consumer.state, "connected")
            self.assertEqual(consumer.stats.unsent_acks, 0)
        self.assertEqual([each[0] for each in got], [first] + ids)
        self.assertEqual([each[1:3] for each in got], [("k", b"1"), ("k", b"2"), ("k", {"n": 3})])
        self.assertEqual([each[3] for each in got], [{"unit": "m"}, {}, {}])
        _, checkpoints = self.client.get_subscription(subscription)
        self.assertEqual(checkpoints[first.shard_id], ids[-1].batch_id)

    def test_receipts_are_resolved_without_being_waited_for_one_by_one(self):
        stream, _ = self.stream()
        with self.client.producer(stream, flow_control_records=20, batch_max_records=7) as producer:
            receipts = [producer.submit(b"%d" % n, key="k") for n in range(200)]
            many = producer.submit_many([b"x"] * 5)
            ids = [receipt.result(30) for receipt in receipts]
            self.assertEqual(ids, sorted(set(ids)))
            self.assertEqual(len(many.result()), 5)
            self.assertTrue(many.done())
            self.assertIsNone(many.exception())
        too_large = {"batch_max_age_ms": 60000}
        producer = self.client.producer(stream, **too_large).open()
        waiting = producer.append_nowait(b"x")
        self.assertFalse(waiting.done())
        with self.assertRaises(TimeoutError):
            waiting.result(0.05)
        producer.close()
        self.assertIsInstance(waiting.result(), hstreamdb.RecordId)

    def test_append_nowait_refuses_what_has_no_room(self):
        stream, _ = self.stream()
        with self.client.producer(stream, flow_control_records=1, batch_max_age_ms=60000) as producer:
            producer.append_nowait(b"x")
            with self.assertRaises(hstreamdb.OverloadedError):
                producer.append_nowait(b"y")

    def test_failures_are_raised_where_they_are_waited_for(self):
        with self.assertRaises(hstreamdb.NotFoundError):
            self.client.producer(self.unique()).open()
        stream, _ = self.stream()
        with self.client.producer(stream) as producer:
            with self.assertRaises(hstreamdb.InvalidArgumentError) as caught:
                producer.append_many([b"small", b"x" * (2 << 20)])
            self.assertEqual(len(caught.exception.ids), 2)
            self.assertIsNone(caught.exception.ids[1])
            self.assertEqual(caught.exception.errors[0][:2], (1, 2))
            receipt = producer.submit(b"x" * (2 << 20))
            self.assertIsInstance(receipt.exception(), hstreamdb.InvalidArgumentError)
            with self.assertRaises(hstreamdb.InvalidArgumentError):
                receipt.result()

    def test_readers_iterate_and_know_where_they_are(self):
        stream, _ = self.stream()
        ids = self.client.append_many(stream, [b"%d" % n for n in range(50)], compression="gzip")
        with self.client.single_shard_reader(stream, from_="earliest", until="latest") as reader:
            got = [record_id for batch in reader for record_id in batch.ids]
            self.assertIsNone(reader.next_batch())
            self.assertEqual(reader.position.last_read(ids[0].shard_id), ids[-1])
        self.assertEqual(got, ids)
        with self.client.polled_reader(stream, ids[0].shard_id) as reader:
            self.assertEqual([each for batch in reader.read(10) for each in batch.ids], ids)
            self.assertIn(reader.reader_id, self.client.list_shard_readers())
        self.assertEqual(self.client.list_shard_readers(), [])

    def test_reads_with_a_timeout_raise_it(self):
        stream, _ = self.stream()
        with self.client.stream_reader(stream, timeout_ms=50) as reader:
            with self.assertRaises(hstreamdb.TimeoutError):
                reader.next_batch()

    def test_events_iterate_until_the_client_is_closed(self):
        client = hstreamdb.sync.connect(self.url)
        events = client.events()
        client.close()
        self.assertEqual([event.kind for event in events][-1], "closed")
        self.assertIsNone(events.next())

    def test_closing_twice_is_harmless_and_use_after_it_is_a_closed_error(self):
        client = hstreamdb.sync.connect(self.url)
        client.close()
        client.close(None)
        for call in (client.list_streams, lambda: client.append("s", b"x"), client.producer("s").open):
            with self.assertRaises(hstreamdb.ClosedError):
                call()


class Threads(Sync):
    def test_a_waiting_thread_lets_others_run(self):
        stream, subscription = self.stream()
        reader = self.client.stream_reader(stream, from_="latest").open()
        producer = self.client.producer(stream, batch_max_age_ms=60000).open()
        receipt = producer.append_nowait(b"held back")
        waits = [
            self.client.consumer(self.empty_subscription(stream)).start().next_batch,
            reader.next_batch,
            self.client.events().next,
            receipt.result,
        ]
        threads = [threading.Thread(target=self.swallow, args=(wait,), daemon=True) for wait in waits]
        for thread in threads:
            thread.start()
        # Would take for ever if one of them kept the interpreter.
        began, turns = time.monotonic(), 0
        while time.monotonic() - began < 0.3:
            time.sleep(0.001)
            turns += 1
        self.assertGreater(turns, 30)
        for thread in threads[:3]:
            self.assertTrue(thread.is_alive())
        producer.close()
        self.client.close()
        for thread in threads:
            thread.join(20)
            self.assertFalse(thread.is_alive())

    def empty_subscription(self, stream):
        subscription = self.unique("sub")
        self.client.create_subscription(subscription, stream, offset="latest")
        return subscription

    @staticmethod
    def swallow(wait):
        try:
            wait()
        except hstreamdb.HStreamError:
            pass

    def test_many_threads_share_a_client_and_a_producer(self):
        stream, subscription = self.stream(shard_count=3)
        problems = []

        def work(number):
            try:
                for turn in range(20):
                    producer.append(b"%d-%d" % (number, turn), key="k%d" % number)
            except BaseException as error:
                problems.append(error)

        with self.client.producer(stream, batch_max_age_ms=1) as producer:
            threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)
        self.assertEqual(problems, [])
        got = []
        with self.client.consumer(subscription) as consumer:
            while len(got) < 160:
                batch = consumer.next_batch()
                got.extend(batch.payloads)
                batch.ack()
        self.assertEqual(len(set(got)), 160)


class Interrupt(Sync):
    def test_ctrl_c_ends_every_wait_and_the_client_goes_on(self):
        script = """
            import os, signal, sys, threading, time
            import hstreamdb, hstreamdb.sync

            client = hstreamdb.sync.connect(sys.argv[1])
            stream = sys.argv[2]
            client.create_stream(stream)
            client.create_subscription(stream, stream, offset="latest")
            consumer = client.consumer(stream).start()
            reader = client.stream_reader(stream, from_="latest").open()
            producer = client.producer(stream, batch_max_age_ms=60000).open()
            waits = {
                "consumer": consumer.next_batch,
                "iteration": lambda: next(iter(reader)),
                "append": lambda: producer.append(b"x"),
                "receipt": producer.append_nowait(b"x").result,
                "run": lambda: consumer.run(print),
            }
            for name, wait in waits.items():
                timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
                timer.start()
                began = time.monotonic()
                try:
                    wait()
                except KeyboardInterrupt:
                    took = time.monotonic() - began
                    print(name, "in time" if took < 5 else took)
                timer.join()
            print(client.echo("still here"))
            client.close()
            """
        done = subprocess.run(
            [sys.executable, "-X", "faulthandler", "-c", textwrap.dedent(script), self.url, self.unique()],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            universal_newlines=True,
            timeout=60,
        )
        expected = ["consumer", "iteration", "append", "receipt", "run"]
        self.assertEqual(
            done.stdout.splitlines(), ["%s in time" % name for name in expected] + ["still here"], done.stderr
        )

    def test_a_batch_is_not_lost_when_a_wait_is_interrupted(self):
        if threading.current_thread() is not threading.main_thread():
            self.skipTest("signals go to the main thread")
        stream, subscription = self.stream()
        before = signal.signal(signal.SIGALRM, self.interrupt)
        self.addCleanup(signal.signal, signal.SIGALRM, before)
        with self.client.producer(stream, batch_max_age_ms=0) as producer:
            with self.client.consumer(subscription) as consumer:
                for number in range(10):
                    with self.assertRaises(KeyboardInterrupt):
                        signal.setitimer(signal.ITIMER_REAL, 0.01)
                        consumer.next_batch()
                    # The wait that was given up must not have taken it.
                    producer.append(b"%d" % number)
                    self.assertEqual(consumer.next_batch().payloads, [b"%d" % number])

    @staticmethod
    def interrupt(*_):
        raise KeyboardInterrupt


class Parity(unittest.TestCase):
    """What one API can do the other can: both are the same code, and their stubs say the same."""

    PAIRS = ("Client", "Producer", "Consumer", "Reader", "PolledReader", "Events")

    def test_both_have_the_same_methods(self):
        for name in self.PAIRS:
            here, there = getattr(_native, name), getattr(_native, "Sync" + name)
            public = [set(dir(each)) - set(dir(object)) for each in (here, there)]
            public = [{each for each in names if not each.startswith("_")} for names in public]
            only = {"submit", "submit_many"} if name == "Producer" else set()
            self.assertEqual(public[1] - public[0], only)
            self.assertEqual(public[0] - public[1], set())
            self.assertIs(here.__mro__[1], there.__mro__[1])
            self.assertEqual(there.__module__, "hstreamdb.sync")
            self.assertIs(getattr(hstreamdb.sync, "Sync" + name), there)

    def test_stubs_differ_in_what_is_awaited_only(self):
        stub = os.path.join(os.path.dirname(hstreamdb.__file__), "_native.pyi")
        classes = self.classes_of(stub)
        for name in self.PAIRS:
            here, there = classes[name], classes["Sync" + name]
            for method in set(here) & set(there):
                if method == "append_nowait":
                    continue
                wanted = here[method].replace("Awaitable[", "").replace("async ", "")
                if "Awaitable[" in here[method]:
                    wanted = self.without_last_bracket(wanted)
                for handle in self.PAIRS:
                    wanted = wanted.replace('"%s"' % handle, '"Sync%s"' % handle)
                self.assertEqual(wanted, there[method], (name, method))

    @staticmethod
    def without_last_bracket(text):
        head, _, tail = text.rpartition("]")
        return head + tail

    @staticmethod
    def classes_of(path):
        classes, current, name = {}, None, None
        with open(path, encoding="utf-8") as file:
            text = file.read()
        for block in text.split("\nclass ")[1:]:
            name = block.split(":")[0].split("(")[0]
            current = classes.setdefault(name, {})
            for definition in block.split("\n    ")[1:]:
                head = definition.split("(")[0].split()
                if len(head) >= 2 and head[-2] == "def" and not head[-1].startswith("_"):
                    key = head[-1]
                    current[key] = definition
                elif current and definition.startswith((" ", ")")):
                    current[key] += " " + definition.strip()
        for methods in classes.values():
            for key, definition in methods.items():
                # However long lines are broken.
                methods[key] = definition.replace("( ", "(").replace(", )", ")")
        return classes

    def test_every_method_is_documented(self):
        for name, member in vars(_native).items():
            if not inspect.isclass(member) or name.startswith("_"):
                continue
            self.assertTrue(member.__doc__, name)
            for method in dir(member):
                if not method.startswith("_") and method not in dir(Exception):
                    self.assertTrue(getattr(member, method).__doc__ or issubclass(member, Exception), (name, method))


class Killed(unittest.TestCase):
    def test_calls_to_a_killed_server_fail_in_time(self):
        server = ServerProcess()
        self.addCleanup(server.remove)
        client = hstreamdb.sync.connect(server.url, request_timeout_ms=500, retry_max_attempts=2)
        client.create_stream("s")
        producer = client.producer("s", delivery_timeout_ms=1000).open()
        receipt = producer.append_nowait(b"x")
        receipt.result()
        server.kill()
        with self.assertRaises(hstreamdb.HStreamError):
            client.list_streams()
        with self.assertRaises(hstreamdb.HStreamError):
            producer.append(b"y")
        report = producer.close(2)
        self.assertEqual((report.acknowledged, report.unresolved), (1, 0))
        client.close(2)
