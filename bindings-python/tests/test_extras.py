"""Optional extras: Arrow, pandas, progress. Skipped where their packages are not installed."""

import datetime
import importlib
import unittest

import hstreamdb
import hstreamdb.sync
from hstreamdb import progress
from server_process import ServerTestCase, run


class Extras(ServerTestCase):
    def setUp(self):
        self.client = hstreamdb.sync.connect(self.url)
        self.addCleanup(self.client.close)
        self.stream = self.unique()
        self.client.create_stream(self.stream)

    def batches(self):
        with self.client.single_shard_reader(self.stream, until="latest") as reader:
            return list(reader)

    def extra(self, name):
        try:
            return importlib.import_module("hstreamdb." + name)
        except ImportError as error:
            self.skipTest(str(error))

    def test_arrow_tables_go_in_and_come_out(self):
        arrow = self.extra("arrow")
        import pyarrow as pa

        time = datetime.datetime(2026, 1, 2, 3, 4, 5)
        table = pa.table({"name": ["a", "b"], "n": [1, None], "at": [time, time]})
        with self.client.producer(self.stream) as producer:
            ids = arrow.append(producer, table, key="name")
            with self.assertRaises(KeyError):
                arrow.append(producer, table, key="no such")
            with self.assertRaises(TypeError):
                arrow.append(producer, pa.table({"x": [b"bytes"]}))
            producer.append(b"raw", key="c")
        batches = self.batches()
        rows = arrow.rows_from_batches(batches)
        self.assertEqual(rows.to_pylist()[0], {"at": time.isoformat(), "n": 1.0, "name": "a"})
        self.assertEqual(rows.column("n").to_pylist(), [1.0, None])
        typed = arrow.rows_from_batches(batches, pa.schema([("n", pa.float64())]))
        self.assertEqual(typed.column("n").to_pylist(), [1.0, None])
        records = arrow.from_batches(batches)
        self.assertEqual(records.column("key").to_pylist(), ["a", "b", "c"])
        self.assertEqual(records.column("kind").to_pylist(), ["hrecord", "hrecord", "raw"])
        self.assertEqual(records.column("payload").to_pylist()[2], b"raw")
        self.assertEqual(records.column("batch_id").to_pylist()[:2], [id.batch_id for id in ids])
        self.assertEqual(arrow.from_batches([]).num_rows, 0)

    def test_frames_go_in_and_come_out(self):
        frames = self.extra("frames")
        import pandas as pd

        frame = pd.DataFrame(
            {"name": ["a", None], "n": [1.5, float("nan")], "at": pd.to_datetime(["2026-01-02", None])}
        )
        with self.client.producer(self.stream) as producer:
            ids = frames.append(producer, frame, key="name")
            with self.assertRaises(KeyError):
                frames.append(producer, frame, key="no such")
        records = frames.from_batches(self.batches())
        self.assertEqual(records["id"].tolist(), ids)
        self.assertEqual(records["key"].tolist(), ["a", ""])
        self.assertEqual(records["value"][0], {"name": "a", "n": 1.5, "at": "2026-01-02T00:00:00"})
        self.assertEqual(records["value"][1], {"name": None, "n": None, "at": None})
        self.assertEqual(frames.rows_from_batches(self.batches())["n"].tolist()[0], 1.5)

    def test_progress_counts_records_of_both_apis(self):
        class Bar:
            records = 0

            def update(self, count):
                self.records += count

        self.client.append_many(self.stream, [b"x"] * 250)
        bar = Bar()
        with self.client.single_shard_reader(self.stream, until="latest") as reader:
            self.assertEqual(sum(len(batch) for batch in progress.batches(reader, bar)), 250)
        self.assertEqual(bar.records, 250)

        async def main():
            other = Bar()
            async with await hstreamdb.connect(self.url) as client:
                async with client.single_shard_reader(self.stream, until="latest") as reader:
                    async for batch in progress.batches(reader, other):
                        self.assertGreater(len(batch), 0)
            return other.records

        self.assertEqual(run(main()), 250)


if __name__ == "__main__":
    unittest.main()
