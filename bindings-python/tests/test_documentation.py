"""What the documentation shows is run: docstrings, and the README of the package."""

import asyncio
import doctest
import inspect
import os
import re
import textwrap

import hstreamdb
import hstreamdb.progress
import hstreamdb.record_id
import hstreamdb.resources
import hstreamdb.sync
from hstreamdb import _native
from server_process import ROOT, ServerTestCase

README = os.path.join(ROOT, "bindings-python", "README.md")


class Docstrings(ServerTestCase):
    def documented(self):
        """Every docstring with examples, by name."""
        for module in (
            hstreamdb,
            hstreamdb.progress,
            hstreamdb.record_id,
            hstreamdb.resources,
            hstreamdb.sync,
            _native,
        ):
            yield module.__name__, module.__doc__
            for name, member in vars(module).items():
                if name.startswith("_") or getattr(member, "__doc__", None) is None:
                    continue
                yield "%s.%s" % (module.__name__, name), member.__doc__
                if inspect.isclass(member):
                    for method, value in vars(member).items():
                        if getattr(value, "__doc__", None):
                            yield "%s.%s.%s" % (module.__name__, name, method), value.__doc__

    def test_every_example_holds(self):
        parser, seen = doctest.DocTestParser(), set()
        runner = doctest.DocTestRunner(verbose=False, optionflags=doctest.NORMALIZE_WHITESPACE)
        for name, text in self.documented():
            if not isinstance(text, str) or ">>>" not in text or text in seen:
                continue
            seen.add(text)
            names = {"hstreamdb": hstreamdb, "url": self.url}
            names.update({each: getattr(hstreamdb.resources, each) for each in hstreamdb.resources.__all__})
            names["RecordId"] = hstreamdb.RecordId
            test = parser.get_doctest(textwrap.dedent(text), names, name, None, None)
            runner.run(test, clear_globs=False)
        self.assertGreaterEqual(len(seen), 6, seen)
        self.assertEqual(runner.summarize(verbose=False).failed, 0)


class Readme(ServerTestCase):
    def test_every_program_in_it_runs(self):
        if not os.path.exists(README):
            self.skipTest("not in a checkout")
        with open(README, encoding="utf-8") as file:
            blocks = re.findall(r"^```python\n(.*?)^```", file.read(), re.M | re.S)
        self.assertGreaterEqual(len(blocks), 2)
        for block in blocks:
            # Names are taken once in a server.
            suffix = self.unique("")
            for name in ("orders", "billing", "readings"):
                block = block.replace('"%s"' % name, '"%s%s"' % (name, suffix))
            block = block.replace("hstream://127.0.0.1:6570", self.url)
            names = {"__name__": "__main__"}
            try:
                exec(compile(block, README, "exec"), names)
            finally:
                asyncio.set_event_loop(None)
