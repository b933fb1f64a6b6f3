"""A real server process, and the base class of the tests that use it."""

import asyncio
import atexit
import os
import queue
import re
import shutil
import subprocess
import tempfile
import threading
import time
import unittest
import uuid

import hstreamdb

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BINARY = os.environ.get("HSTREAM_SERVER_BINARY", os.path.join(ROOT, "target", "debug", "hstream-server"))
READY_SECONDS = 30
#: No test waits longer for anything.
TEST_SECONDS = 60


class ServerProcess:
    """Starts on a free port; `kill` is SIGKILL, `start` starts again on the same data and port."""

    def __init__(self, *flags):
        self.flags = list(flags)
        self.data = tempfile.mkdtemp(prefix="hstream-py-")
        self.port = 0
        self.process = None
        self.start()

    @property
    def url(self):
        return "hstream://127.0.0.1:%d" % self.port

    def start(self):
        self.process = subprocess.Popen(
            [BINARY, "--bind-address", "127.0.0.1", "--port", str(self.port)]
            + ["--internal-port", "0", "--data-dir", self.data, "--log-with-color", "false"]
            + self.flags,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        lines = queue.Queue()
        reader = threading.Thread(target=self._read, args=(self.process.stderr, lines), daemon=True)
        reader.start()
        said, deadline = [], time.monotonic() + READY_SECONDS
        while True:
            try:
                line = lines.get(timeout=max(0.01, deadline - time.monotonic()))
            except queue.Empty:
                line = None
            if line is None:
                self.kill()
                raise AssertionError("the server did not get ready; it said:\n" + "".join(said))
            said.append(line)
            started = re.search(r"Server is started on port (\d+)", line)
            if started:
                self.port = int(started.group(1))
            if "Cluster is ready!" in line:
                return

    @staticmethod
    def _read(pipe, lines):
        # Reads to the end, so that the server never waits for room in the pipe.
        with pipe:
            for line in pipe:
                lines.put(line.decode("utf-8", "replace"))
        lines.put(None)

    def kill(self):
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def remove(self):
        self.kill()
        shutil.rmtree(self.data, ignore_errors=True)


_shared = None


def shared_server():
    """One server for all tests that do not stop it."""
    global _shared
    if _shared is None:
        _shared = ServerProcess()
        atexit.register(_shared.remove)
    return _shared


def run(coroutine, seconds=TEST_SECONDS):
    """Runs a coroutine on a loop of its own, bounded in time."""

    async def bounded():
        return await asyncio.wait_for(coroutine, seconds)

    return asyncio.run(bounded())


async def connect(url, **options):
    """A client, for `run`."""
    return await hstreamdb.connect(url, **options)


class ServerTestCase(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.url = shared_server().url

    def unique(self, noun="stream"):
        return "%s-%s" % (noun, uuid.uuid4().hex[:12])


async def receive(consumer, count, seconds=30, ack=True):
    """Records of a consumer until there are `count`."""
    records = []
    deadline = time.monotonic() + seconds
    while len(records) < count:
        batch = await asyncio.wait_for(consumer.next_batch(), max(0.01, deadline - time.monotonic()))
        if batch is None:
            break
        records.extend(batch.records)
        if ack:
            batch.ack()
    return records
