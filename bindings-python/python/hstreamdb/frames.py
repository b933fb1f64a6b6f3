"""Batches to and from pandas: `pip install 'hstreamdb[pandas]'`."""

from typing import Any, Dict, Iterable, List, Optional, Union

import pandas as pd

from ._native import Producer, ReceivedBatch, SyncProducer
from .record_id import RecordId

__all__ = ["append", "from_batches", "rows_from_batches"]


def from_batches(batches: Union[ReceivedBatch, Iterable[ReceivedBatch]]) -> "pd.DataFrame":
    """A frame with a row per record: `id` (a `RecordId`), `publish_time`, `key`, `kind` and `value`, which is
    bytes, or the dict of a structured record.

    Raises `CodecError` for a batch that cannot be decoded.
    """
    ids: List[RecordId] = []
    times: List[int] = []
    keys: List[str] = []
    kinds: List[str] = []
    values: List[Union[bytes, Dict[str, Any]]] = []
    for batch in _each(batches):
        ids.extend(batch.ids)
        times.extend([batch.publish_time_ms] * len(batch))
        keys.extend(batch.keys)
        kinds.extend(batch.kinds)
        values.extend(batch.values())
    return pd.DataFrame(
        {
            "id": pd.Series(ids, dtype=object),
            "publish_time": pd.to_datetime(pd.Series(times, dtype="int64"), unit="ms", utc=True),
            "key": keys,
            "kind": kinds,
            "value": pd.Series(values, dtype=object),
        }
    )


def rows_from_batches(batches: Union[ReceivedBatch, Iterable[ReceivedBatch]]) -> "pd.DataFrame":
    """A frame of what structured records hold, a column for each of their members. Raw records are left out.

    Raises `CodecError` for a batch that cannot be decoded.
    """
    rows = [value for batch in _each(batches) for value in batch.values() if isinstance(value, dict)]
    return pd.DataFrame.from_records(rows)


def append(producer: Union[Producer, SyncProducer], frame: "pd.DataFrame", *, key: Optional[str] = None) -> Any:
    """Appends every row of a frame as a structured record, with `producer.append_many`, whose result this gives.

    `key` names the column that is the partition key; it stays in the record. What is missing is null, numbers
    become floats, times text. The index is left out.

    Raises as `append_many`, `KeyError` for a column that is none.
    """
    keys = None if key is None else [None if missing else str(value) for value, missing in _with_missing(frame[key])]
    columns = {
        str(name): [None if missing else _plain(value) for value, missing in _with_missing(frame[name])]
        for name in frame.columns
    }
    rows = [dict(zip(columns, row)) for row in zip(*columns.values())]
    return producer.append_many(rows, keys)


def _with_missing(series: Any) -> Iterable[Any]:
    return zip(series.tolist(), series.isna().tolist())


def _each(batches: Union[ReceivedBatch, Iterable[ReceivedBatch]]) -> Iterable[ReceivedBatch]:
    return [batches] if isinstance(batches, ReceivedBatch) else batches


def _plain(value: Any) -> Any:
    """What JSON can say."""
    if isinstance(value, (bool, int, float, str, dict, list)):
        return value
    return value.isoformat() if hasattr(value, "isoformat") else str(value)
