"""Leaving the interpreter and forking: run in processes of their own."""

import asyncio
import os
import subprocess
import sys
import textwrap
import unittest

import hstreamdb
from server_process import ServerTestCase, connect, run

SCRIPT_SECONDS = 60


class Process(ServerTestCase):
    def script(self, text, *arguments):
        return subprocess.run(
            [sys.executable, "-X", "faulthandler", "-c", textwrap.dedent(text)] + list(arguments),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            universal_newlines=True,
            timeout=SCRIPT_SECONDS,
        )

    def stream(self):
        stream = self.unique()

        async def main():
            async with await hstreamdb.connect(self.url) as client:
                await client.create_stream(stream)
                await client.create_subscription(stream, stream, offset="earliest")

        run(main())
        return stream

    def test_exit_with_calls_in_flight_is_clean(self):
        script = """
            import asyncio, sys
            import hstreamdb

            async def main(url, stream):
                client = await hstreamdb.connect(url)
                producer = await client.producer(stream, batch_max_age_ms=0)
                consumer = await client.consumer(stream)
                kept.extend([client, producer, consumer])
                kept.extend(producer.append(b"x" * 100) for _ in range(200))
                kept.extend(client.echo("x") for _ in range(50))
                kept.append(consumer.next_batch())
                await asyncio.sleep(0.01)

            kept = []
            loop = asyncio.new_event_loop()
            loop.run_until_complete(main(*sys.argv[1:3]))
            if sys.argv[3] == "close":
                loop.close()
            print("end")
            """
        stream = self.stream()
        for number in range(4):
            done = self.script(script, self.url, stream, "close" if number % 2 else "leave")
            self.assertEqual((done.returncode, done.stdout), (0, "end\n"), done.stderr)
            self.assertNotIn("Fatal", done.stderr)

    def test_an_exit_by_exception_is_clean(self):
        done = self.script(
            """
            import asyncio, sys
            import hstreamdb

            async def main():
                client = await hstreamdb.connect(sys.argv[1])
                calls = [asyncio.ensure_future(client.echo("x")) for _ in range(20)]
                raise SystemExit(7)

            asyncio.run(main())
            """,
            self.url,
        )
        self.assertEqual(done.returncode, 7, done.stderr)
        self.assertNotIn("Fatal", done.stderr)

    @unittest.skipUnless(hasattr(os, "fork"), "there is no fork here")
    def test_a_forked_child_gets_an_error_for_the_old_client_and_may_connect_anew(self):
        done = self.script(
            """
            import asyncio, os, sys
            import hstreamdb

            url = sys.argv[1]
            async def connect():
                return await hstreamdb.connect(url)
            client = asyncio.run(connect())

            async def old():
                try:
                    await client.echo("x")
                except hstreamdb.ClosedError as error:
                    return "fork" in str(error)
            async def new():
                return await (await hstreamdb.connect(url)).echo("new")

            child = os.fork()
            if child == 0:
                ok = asyncio.run(old()) and asyncio.run(new()) == "new"
                sys.stdout.flush()
                sys.exit(0 if ok else 3)
            status = os.waitpid(child, 0)[1]
            async def parent():
                return await client.echo("parent")
            print(status, asyncio.run(parent()))
            """,
            self.url,
        )
        self.assertEqual(done.stdout, "0 parent\n", done.stderr)
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_a_closed_loop_does_not_disturb_the_next_one(self):
        client = run(connect(self.url))
        abandoned = asyncio.new_event_loop()

        async def leave():
            return [client.echo("x") for _ in range(20)]

        futures = abandoned.run_until_complete(leave())
        abandoned.close()

        async def main():
            self.assertEqual(await client.echo("y"), "y")
            await client.close()

        run(main())
        del futures

    def test_cancelled_calls_leave_the_client_usable(self):
        async def main():
            async with await hstreamdb.connect(self.url) as client:
                calls = [asyncio.ensure_future(client.echo("x")) for _ in range(50)]
                for call in calls:
                    call.cancel()
                results = await asyncio.gather(*calls, return_exceptions=True)
                for result in results:
                    self.assertIsInstance(result, asyncio.CancelledError)
                self.assertEqual(await client.echo("y"), "y")

        run(main())
