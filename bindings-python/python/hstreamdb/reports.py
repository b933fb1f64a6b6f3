"""What closing and stopping report."""

from typing import NamedTuple


class CloseReport(NamedTuple):
    """What became of the records of a producer that was closed."""

    #: Records stored.
    acknowledged: int
    #: Records that failed; their futures say why.
    failed: int
    #: Records whose fate was unknown when the time was up.
    unresolved: int


class StopReport(NamedTuple):
    """How a consumer stopped."""

    #: Acks that could not be sent; these records will be delivered again.
    unsent_acks: int
    #: Whether the server confirmed the end in time.
    clean: bool


class Pending(NamedTuple):
    """What a producer holds that is neither stored nor failed yet."""

    records: int
    #: Payload bytes.
    bytes: int
