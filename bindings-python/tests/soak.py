"""Opens, appends and closes again and again, and says how resident memory grows.

python bindings-python/tests/soak.py --cycles 100000
"""

import argparse
import gc
import os
import sys

import hstreamdb.sync


def resident_bytes():
    """Memory of this process that is in RAM."""
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def slope(samples):
    """Bytes per cycle: the line through (cycle, bytes) with the least squares."""
    count = len(samples)
    mean_x = sum(x for x, _ in samples) / count
    mean_y = sum(y for _, y in samples) / count
    spread = sum((x - mean_x) ** 2 for x, _ in samples)
    return sum((x - mean_x) * (y - mean_y) for x, y in samples) / spread


def cycle(url, stream):
    """Everything there is, once: a client, a producer, a consumer, a reader."""
    with hstreamdb.sync.connect(url) as client:
        with client.producer(stream, batch_max_age_ms=0, on_batch=_nothing) as producer:
            producer.append(b"x" * 100, key="k")
            producer.submit(b"y")
        with client.consumer(stream, on_event=_nothing):
            pass
        with client.single_shard_reader(stream, from_="latest"):
            pass
        client.events()


def _nothing(_):
    pass


def main():
    from server_process import ServerProcess

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cycles", type=int, default=100000)
    parser.add_argument("--limit", type=float, default=64.0, help="bytes per cycle that are allowed")
    arguments = parser.parse_args()
    server = ServerProcess()
    try:
        with hstreamdb.sync.connect(server.url) as client:
            client.create_stream("soak", backlog_duration_secs=60)
            client.create_subscription("soak", "soak")
        samples, every = [], max(1, arguments.cycles // 50)
        for number in range(arguments.cycles):
            cycle(server.url, "soak")
            if number % every == every - 1:
                gc.collect()
                samples.append((number + 1, resident_bytes()))
                print("%d cycles, %.1f MiB" % (number + 1, samples[-1][1] / (1 << 20)), flush=True)
        grown = slope(samples[len(samples) // 5 :])
        print("%.1f bytes per cycle" % grown)
        return 0 if grown <= arguments.limit else 1
    finally:
        server.remove()


if __name__ == "__main__":
    sys.exit(main())
