"""Runs all tests of this folder; the last line says how many were good."""

import os
import sys
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))


def main():
    sys.path.insert(0, HERE)
    suite = unittest.defaultTestLoader.discover(HERE)
    result = unittest.TextTestRunner(verbosity=1).run(suite)
    bad = len(result.failures) + len(result.errors) + len(result.unexpectedSuccesses)
    good = max(0, result.testsRun - bad - len(result.skipped))
    print("tests: %d good, %d bad" % (good, bad), flush=True)
    return 0 if good and not bad else 1


if __name__ == "__main__":
    sys.exit(main())
