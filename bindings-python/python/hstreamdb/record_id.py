"""Identity and position of stored records."""

from typing import NamedTuple

from ._native import _parse_record_id


class RecordId(NamedTuple):
    """Identity and position of a stored record: a tuple of three numbers, ordered within a shard.

    >>> id = RecordId(1, 2, 9)
    >>> str(id)
    '1-2-9'
    >>> RecordId.parse("1-2-9") == id == (1, 2, 9)
    True
    >>> id < RecordId(1, 2, 10)
    True
    """

    shard_id: int
    batch_id: int
    batch_index: int

    @staticmethod
    def parse(text: str) -> "RecordId":
        """The id of its text form `<shard>-<batch>-<index>`.

        Raises `InvalidArgumentError` for text that is none.
        """
        return RecordId(*_parse_record_id(text))

    def __str__(self) -> str:
        return "%d-%d-%d" % self


# Documentation and pickles name the place that programs import it from.
RecordId.__module__ = "hstreamdb"
