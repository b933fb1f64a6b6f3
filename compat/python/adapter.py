"""Our own clients behind JSON lines: the conformance adapters, driven from here."""

import asyncio
import base64
import json
import os

from server import ROOT

RUST = os.environ.get("HSTREAM_RUST_ADAPTER", os.path.join(ROOT, "target", "debug", "conformance-rust"))
#: Interpreter that has our Python package; without it only the Rust client is mixed in.
PYTHON = os.environ.get("HSTREAM_CONFORMANCE_PYTHON")


def commands():
    """Name and command line of every adapter that can run."""
    found = {"rust": [RUST]} if os.path.exists(RUST) else {}
    if PYTHON:
        found["python"] = [PYTHON, os.path.join(ROOT, "conformance", "adapters", "python.py")]
    return found


class Adapter:
    """One process of one of our clients."""

    def __init__(self, command):
        self.command = command

    async def __aenter__(self):
        self.process = await asyncio.create_subprocess_exec(
            *self.command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=64 * 1024 * 1024
        )
        return self

    async def __aexit__(self, *_):
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()

    async def do(self, name, **arguments):
        self.process.stdin.write(json.dumps({"do": name, **arguments}).encode() + b"\n")
        await self.process.stdin.drain()
        line = await self.process.stdout.readline()
        if not line:
            raise AssertionError("%s ended in %s, see its words above" % (self.command[-1], name))
        answer = json.loads(line)
        if "ok" not in answer:
            raise AssertionError("%s of %s: %s" % (name, self.command[-1], answer))
        return answer["ok"]

    async def append(self, records):
        encoded = [[key, base64.b64encode(payload).decode()] for key, payload in records]
        return (await self.do("append", records=encoded))["ids"]

    async def attach(self, subscription):
        await self.do("attach", subscription=subscription, consumer="main", options={})

    async def detach(self):
        """True if the server has every acknowledgement."""
        return (await self.do("detach", consumer="main"))["clean"]

    async def receive(self, count):
        """Records as (id, key, payload) until there are `count`, acknowledged."""
        records = []
        while len(records) < count:
            answer = await self.do("receive", consumer="main", timeout_ms=20_000, ack=True)
            if not answer["records"]:
                break
            records.extend((r["id"], r["key"], base64.b64decode(r["payload"])) for r in answer["records"])
        return records
