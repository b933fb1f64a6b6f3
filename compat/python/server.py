"""A real server process and what most tests need around it."""

import asyncio
import atexit
import json
import os
import queue
import re
import shutil
import socket
import subprocess
import tempfile
import threading
import time
import unittest
import uuid

import grpc
import HStream.Server.HStreamApi_pb2 as wire
import HStream.Server.HStreamApi_pb2_grpc as wire_grpc
import hstreamdb

#: Whether our package stands in the place of the published one.
OURS = hasattr(hstreamdb, "connect")
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BINARY = os.environ.get("HSTREAM_SERVER_BINARY", os.path.join(ROOT, "target", "debug", "hstream-server"))
#: Nodes of every server that a test starts; more than one run in one process over one store.
NODES = int(os.environ.get("HSTREAM_SERVER_NODES", "1"))
READY_SECONDS = 60
#: No test waits longer for anything.
TEST_SECONDS = 60


def _store(data):
    """What the servers of tests stand on: `HSTREAM_TEST_STORE` as the Rust tests read it, or their data directory."""
    store = os.environ.get("HSTREAM_TEST_STORE", "embedded")
    if store in ("", "embedded"):
        return ["--data-dir", data]
    if not store.startswith(("nats://", "tls://")):
        raise AssertionError("HSTREAM_TEST_STORE is %r; here it can be embedded or nats://HOST:PORT" % store)
    return ["--store", "%s/%s" % (store.rstrip("/"), os.path.basename(data))]


class Server:
    """Starts on a free port; `start` after `kill` (SIGKILL) starts again on the same data and port."""

    def __init__(self, *flags):
        self.data = tempfile.mkdtemp(prefix="hstream-published-")
        # Ports of several nodes rise in steps of ten, and have to be the same after a restart.
        self.port = 0 if NODES == 1 else _free_ports()
        self.flags = list(flags)
        self.process = None
        self.start()

    @property
    def url(self):
        return "hstream://127.0.0.1:%d" % self.port

    def start(self):
        self.process = subprocess.Popen(
            [BINARY, "--bind-address", "127.0.0.1", "--port", str(self.port), "--internal-port", "0"]
            + _store(self.data)
            + ["--log-with-color", "false"]
            + (["--nodes", str(NODES)] if NODES > 1 else [])
            + self.flags,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        lines = queue.Queue()
        threading.Thread(target=self._read, args=(self.process.stderr, lines), daemon=True).start()
        said, ready, deadline = [], 0, time.monotonic() + READY_SECONDS
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
            if started and NODES == 1:
                self.port = int(started.group(1))
            ready += "Cluster is ready!" in line
            if ready == NODES:
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


def _free_ports():
    """A port such that those ten, twenty, ... higher are free, and the one behind each."""
    for base in range(20000 + os.getpid() % 1000 * 10, 60000, 10 * NODES):
        taken = []
        try:
            for port in (base + 10 * node + more for node in range(NODES) for more in range(2)):
                taken.append(socket.socket())
                taken[-1].bind(("127.0.0.1", port))
            return base
        except OSError:
            pass
        finally:
            for each in taken:
                each.close()
    raise AssertionError("no free ports")


_shared = None


def shared():
    """One server for all tests that do not stop it."""
    global _shared
    if _shared is None:
        _shared = Server()
        atexit.register(_shared.remove)
    return _shared


def single_node(reason):
    """Marks a test of what holds for one node only, whatever the server."""
    return unittest.skipIf(NODES > 1, reason)


def single_node_if_published(reason):
    """The same for what only the published client cannot do."""
    return unittest.skipIf(NODES > 1 and not OURS, reason)


def published_only(reason):
    """Marks a test of what our package does in another way, which the migration guide tells."""
    return unittest.skipIf(OURS, reason)


def unique(noun="stream"):
    return "%s-%s" % (noun, uuid.uuid4().hex[:12])


class PublishedTestCase(unittest.IsolatedAsyncioTestCase):
    """Every test has a client of its own, `self.client`, and ends in bounded time."""

    def setUp(self):
        self.port = shared().port

    async def asyncSetUp(self):
        self.client = await self.connect(self.port)

    async def connect(self, port):
        client = await hstreamdb.insecure_client(port=port)
        self.addAsyncCleanup(client.__aexit__, None, None, None)
        return client

    def _callTestMethod(self, method):
        bounded = method

        async def run():
            await asyncio.wait_for(bounded(), TEST_SECONDS)

        return super()._callTestMethod(run)

    async def stream(self, **options):
        name = unique()
        await self.client.create_stream(name, **options)
        return name

    async def subscription(self, stream, **options):
        name = unique("sub")
        options.setdefault("offset", hstreamdb.SpecialOffset.EARLIEST)
        await self.client.create_subscription(name, stream, **options)
        return name

    def stub(self, port=None):
        """The published stubs, for calls that the client does not offer."""
        channel = grpc.aio.insecure_channel("127.0.0.1:%d" % (port or self.port))
        self.addAsyncCleanup(channel.close)
        return wire_grpc.HStreamApiStub(channel)

    async def owner(self, subscription):
        """Those of the node that serves a subscription."""
        request = wire.LookupSubscriptionRequest(subscriptionId=subscription)
        found = await self.stub().LookupSubscription(request)
        return self.stub(found.serverNode.port)

    async def refused(self, awaitable, status, code=None, message=None, extra=...):
        """How the client raises: the status, and the JSON text it leaves to its user."""
        with self.assertRaises(grpc.aio.AioRpcError) as raised:
            await awaitable
        error = raised.exception
        self.assertEqual(error.code(), status, error.details())
        if code is None:
            with self.assertRaises(ValueError):
                json.loads(error.details())
            return error
        body = json.loads(error.details())
        self.assertEqual(sorted(body), ["error", "extra", "message"])
        self.assertEqual(body["error"], code)
        if message is not None:
            self.assertEqual(body["message"], message)
        if extra is not ...:
            self.assertEqual(body["extra"], extra)
        return error


async def consume(client, subscription, count, name=None, ack=True, compare=None):
    """Records that a consumer receives until there are `count`; it then stops after the server has its acks."""
    records = []

    async def process(ack_records, stop, received):
        if len(records) >= count:
            return
        received = list(received)
        records.extend(received)
        if ack:
            await ack_records([record.id for record in received])
        if len(records) >= count:
            if OURS:
                await stop()
            else:
                # The client's own way to half-close; `stop` cancels and drops what was acknowledged last.
                await consumer._requests.put(None)

    consumer = client.new_consumer(name or unique("consumer"), subscription, process)
    await consumer.start()
    return records


def offset(special=None, record=None, timestamp=None):
    """A ShardOffset, set by field assignment as the client wants it."""
    result = hstreamdb.ShardOffset()
    if special is not None:
        result.specialOffset = special
    if record is not None:
        result.recordOffset.shardId = record.shard_id
        result.recordOffset.batchId = record.batch_id
        result.recordOffset.batchIndex = record.batch_index
    if timestamp is not None:
        result.timestampOffset.timestampInMs = timestamp
        result.timestampOffset.strictAccuracy = True
    return result


def wire_offset(**where):
    """The same as a message of the published stubs."""
    ours, theirs = offset(**where), wire.ShardOffset()
    which = ours.WhichOneof("offset")
    if which == "specialOffset":
        theirs.specialOffset = ours.specialOffset
    elif which == "recordOffset":
        id = ours.recordOffset
        theirs.recordOffset.CopyFrom(wire.RecordId(shardId=id.shardId, batchId=id.batchId, batchIndex=id.batchIndex))
    elif which == "timestampOffset":
        theirs.timestampOffset.timestampInMs = ours.timestampOffset.timestampInMs
        theirs.timestampOffset.strictAccuracy = ours.timestampOffset.strictAccuracy
    return theirs


__all__ = [
    "OURS",
    "PublishedTestCase",
    "Server",
    "consume",
    "offset",
    "published_only",
    "shared",
    "single_node",
    "single_node_if_published",
    "unique",
    "wire",
    "wire_grpc",
    "wire_offset",
]
