"""Helpers of the published API that need nothing of protobuf."""

import hashlib
from typing import Any, Iterable, Optional, Tuple

from ._native import hrecord_encode
from .resources import Shard

__all__ = ["encode_payload", "find_shard_id"]

#: The marks that records carry on the wire.
JSON, RAW = 0, 1


def encode_payload(payload: Any) -> Tuple[bytes, int]:
    """The bytes of a payload as they are sent, and the mark of their kind: 0 for a dict, 1 for bytes and text.

    A tuple of both is given back as it is.
    """
    if isinstance(payload, bytes):
        return payload, RAW
    if isinstance(payload, str):
        return payload.encode("utf-8"), RAW
    if isinstance(payload, dict):
        return hrecord_encode(payload), JSON
    if isinstance(payload, tuple):
        encoded, kind = payload
        return encoded, kind
    raise ValueError("a payload is bytes, str or dict, not %s" % type(payload).__name__)


def find_shard_id(shards: Iterable[Shard], key: Optional[str] = None) -> int:
    """The id of the shard that takes a key; `KeyError` when none does."""
    place = int.from_bytes(hashlib.md5((key or "").encode("utf-8")).digest(), "big")
    for shard in shards:
        if shard.start <= place <= shard.end:
            return shard.id
    raise KeyError("no shard takes the key %r: the list of shards is not complete" % (key,))
