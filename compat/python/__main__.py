"""Runs all tests of this folder; the last line says how many passed."""

import logging
import os
import sys
import unittest

import hstreamdb

HERE = os.path.dirname(os.path.abspath(__file__))


def main():
    sys.path.insert(0, HERE)
    # The client logs every switch of nodes and every empty flush.
    logging.disable(logging.ERROR)
    names = sys.argv[1:]
    loader = unittest.defaultTestLoader
    suite = loader.loadTestsFromNames(names) if names else loader.discover(HERE)
    result = unittest.TextTestRunner(verbosity=1).run(suite)
    bad = len(result.failures) + len(result.errors) + len(result.unexpectedSuccesses)
    good = max(0, result.testsRun - bad - len(result.skipped))
    for test, reason in result.skipped:
        print("skipped: %s: %s" % (test, reason))
    which = "our package in its place" if hasattr(hstreamdb, "connect") else "published python"
    print("%s: %d passed, %d failed" % (which, good, bad), flush=True)
    return 0 if good and not bad else 1


if __name__ == "__main__":
    sys.exit(main())
