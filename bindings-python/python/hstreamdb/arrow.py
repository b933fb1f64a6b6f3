"""Batches to and from Apache Arrow: `pip install 'hstreamdb[arrow]'`.

Whole columns cross, never a record at a time.
"""

from typing import Any, Dict, Iterable, List, Optional, Union

import pyarrow as pa

from ._native import Producer, ReceivedBatch, SyncProducer

__all__ = ["append", "from_batches", "rows_from_batches"]

#: Columns of `from_batches`.
SCHEMA = pa.schema(
    [
        pa.field("shard_id", pa.uint64(), nullable=False),
        pa.field("batch_id", pa.uint64(), nullable=False),
        pa.field("batch_index", pa.uint32(), nullable=False),
        pa.field("publish_time", pa.timestamp("ms", tz="UTC"), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("payload", pa.binary(), nullable=False),
    ]
)


def from_batches(batches: Union[ReceivedBatch, Iterable[ReceivedBatch]]) -> "pa.Table":
    """A table with a row per record: where it is stored, when, key, kind and payload, as `SCHEMA` says.

    Raises `CodecError` for a batch that cannot be decoded.
    """
    parts = []
    for batch in _each(batches):
        ids = batch.ids
        columns = [
            pa.array([id[0] for id in ids], pa.uint64()),
            pa.array([id[1] for id in ids], pa.uint64()),
            pa.array([id[2] for id in ids], pa.uint32()),
            pa.array([batch.publish_time_ms] * len(ids), pa.timestamp("ms", tz="UTC")),
            pa.array(batch.keys, pa.string()),
            pa.array(batch.kinds, pa.string()),
            pa.array(batch.payloads, pa.binary()),
        ]
        parts.append(pa.RecordBatch.from_arrays(columns, schema=SCHEMA))
    return pa.Table.from_batches(parts, SCHEMA)


def rows_from_batches(
    batches: Union[ReceivedBatch, Iterable[ReceivedBatch]], schema: Optional["pa.Schema"] = None
) -> "pa.Table":
    """A table of what structured records hold, a column for each of their members. Raw records are left out.

    The types are found from the values unless `schema` says them; numbers of structured records are floats. A
    member that a record does not have is null.

    Raises `CodecError` for a batch that cannot be decoded.
    """
    rows: List[Dict[str, Any]] = []
    for batch in _each(batches):
        rows.extend(value for value in batch.values() if isinstance(value, dict))
    if schema is not None:
        return pa.Table.from_pylist(rows, schema=schema)
    names = list(dict.fromkeys(name for row in rows for name in row))
    return pa.table({name: pa.array([row.get(name) for row in rows]) for name in names})


def append(producer: Union[Producer, SyncProducer], table: Any, *, key: Optional[str] = None) -> Any:
    """Appends every row of a table or record batch as a structured record, with `producer.append_many`, whose
    result this gives.

    `key` names the column that is the partition key; it stays in the record. Numbers become floats, times and
    decimals text.

    Raises as `append_many`, `KeyError` for a column that is none.
    """
    if key is not None and key not in table.schema.names:
        raise KeyError(key)
    rows = [{name: _plain(value) for name, value in row.items()} for row in table.to_pylist()]
    keys = None if key is None else [None if row[key] is None else str(row[key]) for row in rows]
    return producer.append_many(rows, keys)


def _each(batches: Union[ReceivedBatch, Iterable[ReceivedBatch]]) -> Iterable[ReceivedBatch]:
    return [batches] if isinstance(batches, ReceivedBatch) else batches


def _plain(value: Any) -> Any:
    """What JSON can say."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, dict):
        return {name: _plain(member) for name, member in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(member) for member in value]
    if isinstance(value, bytes):
        raise TypeError(
            "bytes have no place in a structured record; encode them as text, or append them as raw records"
        )
    return value.isoformat() if hasattr(value, "isoformat") else str(value)
