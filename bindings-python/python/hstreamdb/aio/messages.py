"""Messages with the shape of the published client's, which were protobuf's: fields are assigned, one of several is set.

Only what programs build and look at, without protobuf.
"""

from typing import Any, Dict, List, Optional, Tuple

from ..record_id import RecordId


class _Enum:
    """Values of an enumeration by their names."""

    def __init__(self, name: str, **numbers: int) -> None:
        self._name = name
        self._numbers = numbers

    def Value(self, name: str) -> int:
        """The number of a name."""
        if name not in self._numbers:
            raise ValueError("%s has no value %r; it has %s" % (self._name, name, ", ".join(self._numbers)))
        return self._numbers[name]

    def Name(self, number: int) -> str:
        """The name of a number."""
        for name, each in self._numbers.items():
            if each == number:
                return name
        raise ValueError("%s has no name for %r; it has %s" % (self._name, number, ", ".join(self._numbers)))

    def keys(self) -> List[str]:
        """All names."""
        return list(self._numbers)

    def values(self) -> List[int]:
        """All numbers."""
        return list(self._numbers.values())

    def items(self) -> List[Tuple[str, int]]:
        """All names with their numbers."""
        return list(self._numbers.items())

    def __repr__(self) -> str:
        return self._name


class SpecialOffsetEnum(_Enum):
    """The two ends of a stream."""

    #: The oldest record there is.
    EARLIEST = 0
    #: Behind the newest.
    LATEST = 1


#: Where a subscription or a reader starts: `SpecialOffset.EARLIEST` or `SpecialOffset.LATEST`, which are numbers.
SpecialOffset = SpecialOffsetEnum("SpecialOffset", EARLIEST=0, LATEST=1)


class _Message:
    """Fields with defaults, of which some may be messages and some exclude each other."""

    #: Name of each field, with its default or the class of its message.
    _FIELDS: Dict[str, Any] = {}
    #: Bits of those fields that are whole numbers; negative ones are signed.
    _BITS: Dict[str, int] = {}
    #: Name of the group of which one field is set.
    _ONE_OF: Optional[str] = None

    _values: Dict[str, Any]
    _parent: Optional[Tuple["_Message", str]]

    def __init__(self, **fields: Any) -> None:
        object.__setattr__(self, "_values", {})
        object.__setattr__(self, "_parent", None)
        for name, value in fields.items():
            if value is None:
                continue
            if isinstance(self._default(name), type):
                self._message(name)._assign(value)
            else:
                setattr(self, name, value)

    def _default(self, name: str) -> Any:
        if name not in self._FIELDS:
            known = ", ".join(self._FIELDS)
            raise AttributeError("%s has no field %r; it has %s" % (type(self).__name__, name, known))
        return self._FIELDS[name]

    def _assign(self, value: Any) -> None:
        """Takes over the fields of a dict, of such a message, or of the message of protobuf of that name."""
        self.SetInParent()
        for name in self._FIELDS:
            if isinstance(value, dict):
                if name in value:
                    setattr(self, name, value[name])
            else:
                setattr(self, name, getattr(value, name))

    def _message(self, name: str) -> "_Message":
        """The message in a field; its own assignments make it the one that is set."""
        if name not in self._values:
            message: _Message = self._FIELDS[name]()
            object.__setattr__(message, "_parent", (self, name))
            return message
        found: _Message = self._values[name]
        return found

    def _set(self, name: str, value: Any) -> None:
        if self._ONE_OF is not None:
            self._values.clear()
        self._values[name] = value
        self.SetInParent()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        default = self._default(name)
        if isinstance(default, type):
            return self._message(name)
        return self._values.get(name, default)

    def __setattr__(self, name: str, value: Any) -> None:
        default = self._default(name)
        if isinstance(default, type):
            raise AttributeError("%s.%s is a message: assign its fields" % (type(self).__name__, name))
        self._set(name, self._checked(name, value, default))

    def _checked(self, name: str, value: Any, default: Any) -> Any:
        where = "%s.%s" % (type(self).__name__, name)
        if isinstance(default, bool):
            return bool(value)
        if not isinstance(value, int):
            raise TypeError("%s: a whole number is expected, %r was given" % (where, value))
        bits = self._BITS[name]
        low, high = (-(1 << -bits - 1), 1 << -bits - 1) if bits < 0 else (0, 1 << bits)
        if not low <= value < high:
            raise ValueError("%s: %d is outside %d to %d" % (where, value, low, high - 1))
        return int(value)

    def SetInParent(self) -> None:
        """Makes this message the one that is set in the message around it."""
        if self._parent is not None:
            parent, name = self._parent
            if parent._values.get(name) is not self:
                parent._set(name, self)

    def WhichOneof(self, group: str) -> Optional[str]:
        """The field that is set, or None."""
        if group != self._ONE_OF:
            raise ValueError("%s has no group %r" % (type(self).__name__, group))
        return next(iter(self._values), None)

    def HasField(self, name: str) -> bool:
        """Whether the field is set."""
        if name == self._ONE_OF:
            return bool(self._values)
        if name not in self._FIELDS:
            raise ValueError("%s has no field %r" % (type(self).__name__, name))
        return name in self._values

    def ClearField(self, name: str) -> None:
        """Sets the field, or the group of that name, back."""
        if name == self._ONE_OF:
            self._values.clear()
        elif name not in self._FIELDS:
            raise ValueError("%s has no field %r" % (type(self).__name__, name))
        self._values.pop(name, None)

    def Clear(self) -> None:
        """Sets everything back."""
        self._values.clear()

    def CopyFrom(self, other: "_Message") -> None:
        """Becomes like another message of this kind."""
        if other is not self:
            self.Clear()
            self.MergeFrom(other)

    def MergeFrom(self, other: "_Message") -> None:
        """Takes over what is set in another message of this kind."""
        if not isinstance(other, type(self)):
            raise TypeError("expected a %s, got %r" % (type(self).__name__, other))
        for name, value in list(other._values.items()):
            if isinstance(value, _Message):
                mine = self._message(name)
                mine.SetInParent()
                mine.MergeFrom(value)
            else:
                self._set(name, value)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Message) or type(other) is not type(self):
            return NotImplemented
        # Outside of a group a field with its default is as good as one that is not set.
        if self._ONE_OF is None:
            return all(getattr(self, name) == getattr(other, name) for name in self._FIELDS)
        return self._values == other._values

    # Like lists, messages change.
    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        fields = ", ".join("%s=%r" % each for each in self._values.items())
        return "%s(%s)" % (type(self).__name__, fields)


class RecordIdMessage(_Message):
    """A record id inside of an offset."""

    _FIELDS = {"shardId": 0, "batchId": 0, "batchIndex": 0}
    _BITS = {"shardId": 64, "batchId": 64, "batchIndex": 32}

    shardId: int
    batchId: int
    batchIndex: int


class TimestampOffset(_Message):
    """A time inside of an offset: milliseconds since 1970."""

    _FIELDS = {"timestampInMs": 0, "strictAccuracy": False}
    _BITS = {"timestampInMs": -64}

    timestampInMs: int
    strictAccuracy: bool


class ShardOffset(_Message):
    """A place in a shard. One of the three is set: `offset.specialOffset = SpecialOffset.EARLIEST`,
    `offset.recordOffset.batchId = 1`, `offset.timestampOffset.timestampInMs = 1`.
    """

    _FIELDS = {"specialOffset": 0, "recordOffset": RecordIdMessage, "timestampOffset": TimestampOffset}
    _BITS = {"specialOffset": -32}
    _ONE_OF = "offset"

    specialOffset: int
    recordOffset: RecordIdMessage
    timestampOffset: TimestampOffset

    def _checked(self, name: str, value: Any, default: Any) -> Any:
        if isinstance(value, str):
            value = SpecialOffset.Value(value)
        return super()._checked(name, value, default)


def start_of(offset: Any) -> "str | int | RecordId | None":
    """What the new API calls that place; None when nothing is set. Takes protobuf's own message, too."""
    which = offset.WhichOneof("offset")
    if which == "specialOffset":
        return {0: "earliest", 1: "latest"}.get(offset.specialOffset)
    if which == "recordOffset":
        record = offset.recordOffset
        return RecordId(record.shardId, record.batchId, record.batchIndex)
    if which == "timestampOffset":
        return int(offset.timestampOffset.timestampInMs)
    return None
