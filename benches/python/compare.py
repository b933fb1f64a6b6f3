"""Runs the programs in turns on one server and prints medians and ratios.

Usage: compare.py SERVER PUBLISHED OURS [records [size [singles]]]
"""

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
ROUNDS = 5


def main(server, published, ours, count="50000", size="200", singles="500"):
    with tempfile.TemporaryDirectory(prefix="hstream-bench-") as data:
        flags = ["--bind-address", "127.0.0.1", "--port", "0", "--internal-port", "0", "--data-dir", data]
        process = subprocess.Popen(
            [server, *flags, "--log-with-color", "false"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        try:
            port = None
            for line in process.stderr:
                found = re.search(rb"Server is started on port (\d+)", line)
                port = found.group(1).decode() if found else port
                if b"Cluster is ready!" in line:
                    break
            ways = {
                "published": [published, "published_api.py"],
                "ours, published API": [ours, "published_api.py"],
                "ours, new API": [ours, "new_api.py"],
            }
            rates = {way: {} for way in ways}
            for _ in range(ROUNDS):
                for way, (python, program) in ways.items():
                    arguments = [python, os.path.join(HERE, program), port, count, size, singles]
                    for name, rate in json.loads(subprocess.check_output(arguments)).items():
                        rates[way].setdefault(name, []).append(rate)
        finally:
            process.kill()
            process.wait()
    print("%s records of %s bytes, %s one by one, records per second, median of %d" % (count, size, singles, ROUNDS))
    base = {name: statistics.median(each) for name, each in rates["published"].items()}
    for way, found in rates.items():
        for name, each in sorted(found.items()):
            median = statistics.median(each)
            print("%-20s %-18s %9d  %5.1f x" % (way, name, median, median / base[name]))


main(*sys.argv[1:])
