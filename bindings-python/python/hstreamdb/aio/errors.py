"""Errors of the published API: those of this package, which are also what programs written for the published one catch.

That one let the exceptions of grpcio through. Where a program has imported grpcio, an error is an
`grpc.aio.AioRpcError` besides, with `code()` and `details()`. Nothing here imports grpcio: whoever catches its classes
has.
"""

import functools
import json
import sys
from typing import Any, Awaitable, Callable, Dict, Tuple, Type, TypeVar, cast

from ..errors import HStreamError, InvalidArgumentError, UnavailableError

_Call = TypeVar("_Call", bound=Callable[..., Awaitable[Any]])

#: Names of gRPC's states by number.
_STATUS = (
    "OK CANCELLED UNKNOWN INVALID_ARGUMENT DEADLINE_EXCEEDED NOT_FOUND ALREADY_EXISTS PERMISSION_DENIED "
    "RESOURCE_EXHAUSTED FAILED_PRECONDITION ABORTED OUT_OF_RANGE UNIMPLEMENTED INTERNAL UNAVAILABLE DATA_LOSS "
    "UNAUTHENTICATED"
).split()

#: The state of errors that no server sent.
_STATUS_OF_KIND = {
    "unavailable": "UNAVAILABLE",
    "routing": "UNAVAILABLE",
    "not_found": "NOT_FOUND",
    "already_exists": "ALREADY_EXISTS",
    "invalid_argument": "INVALID_ARGUMENT",
    "failed_precondition": "FAILED_PRECONDITION",
    "unauthenticated": "UNAUTHENTICATED",
    "permission_denied": "PERMISSION_DENIED",
    "timeout": "DEADLINE_EXCEEDED",
    "outcome_unknown": "UNAVAILABLE",
    "overloaded": "RESOURCE_EXHAUSTED",
    "closed": "CANCELLED",
    "cancelled": "CANCELLED",
    "unimplemented": "UNIMPLEMENTED",
}


def status_name(error: HStreamError) -> str:
    """gRPC's name of the state that an error stands for."""
    if error.status is not None and 0 < error.status < len(_STATUS):
        return _STATUS[error.status]
    return _STATUS_OF_KIND.get(error.kind or "", "UNKNOWN")


def details(error: HStreamError) -> str:
    """The text that the server sent: the JSON object of an error with a code, plain text otherwise."""
    code = vars(error).get("_server_code", error.code)
    if code is None:
        return error.message or str(error)
    body = {"error": int(code), "extra": error.extra, "message": error.message}
    return json.dumps(body, separators=(",", ":"), ensure_ascii=False)


class _Code(int):
    """The code of the server as a number, and gRPC's `code()` when it is called."""

    status: Any

    def __call__(self) -> Any:
        return self.status


class _Published:
    """What errors of grpcio answer, on an error of ours."""

    status_code: Any

    # A method of its own and not an attribute: it is not known until somebody asks.
    def details(self) -> str:
        """The text that the server sent."""
        return details(cast(HStreamError, self))

    def initial_metadata(self) -> Tuple[Any, ...]:
        """Nothing: the headers of the answer are not kept."""
        return ()

    def trailing_metadata(self) -> Tuple[Any, ...]:
        """Nothing: the trailers of the answer are not kept."""
        return ()

    def debug_error_string(self) -> str:
        """The error in one line."""
        return str(self)

    def __str__(self) -> str:
        return Exception.__str__(cast(Exception, self))

    def __repr__(self) -> str:
        return Exception.__repr__(cast(Exception, self))

    def __reduce__(self) -> Any:
        return _restore, (type(self).__mro__[2], cast(Exception, self).args, _state(cast(HStreamError, self)))


def _state(error: HStreamError) -> Dict[str, Any]:
    state = dict(vars(error))
    if isinstance(state.get("code"), _Code):
        state["code"] = state.pop("_server_code", None)
    return state


def _restore(kind: Type[HStreamError], args: Tuple[Any, ...], state: Dict[str, Any]) -> HStreamError:
    error = kind(*args)
    vars(error).update(state)
    return as_published(error)


#: The classes made so far: few, one for each kind of error.
_classes: Dict[Any, Type[HStreamError]] = {}


def _class(kind: Type[HStreamError], rpc_error: Any) -> Type[HStreamError]:
    made = _classes.get((kind, rpc_error))
    if made is not None:
        return made
    bases: Tuple[Any, ...] = (kind,)
    if rpc_error is not None:
        bases = (_Published, kind, rpc_error)
    if issubclass(kind, UnavailableError):
        bases += (RuntimeError,)
    members = {"__module__": kind.__module__, "__doc__": kind.__doc__, "_is_published": True}
    made = type(kind.__name__, bases, members)
    _classes[kind, rpc_error] = made
    return made


def as_published(error: HStreamError) -> HStreamError:
    """The same error as programs written for the published client catch it.

    `UnavailableError` is a `RuntimeError`, too: that is what calls ended with when no node was left.
    """
    grpc = sys.modules.get("grpc")
    rpc_error = getattr(getattr(grpc, "aio", None), "AioRpcError", None)
    if getattr(error, "_is_published", False) or (rpc_error is None and not isinstance(error, UnavailableError)):
        return error
    kind = _class(type(error), rpc_error)
    published = kind.__new__(kind, *error.args)
    published.args = error.args
    vars(published).update(vars(error))
    if rpc_error is not None:
        code = _Code(error.code or 0)
        code.status = getattr(cast(Any, grpc).StatusCode, status_name(error))
        vars(published).update(code=code, _server_code=error.code)
    published.__cause__ = error.__cause__
    return published


def invalid(code: int, message: str) -> HStreamError:
    """An argument that a server would refuse with that code and message."""
    error = InvalidArgumentError(message)
    vars(error).update(status=3, code=code, message=message)
    return error


def published(call: _Call) -> _Call:
    """Lets a coroutine function of the published API raise what programs written for it catch."""

    @functools.wraps(call)
    async def calling(*args: Any, **options: Any) -> Any:
        try:
            return await call(*args, **options)
        except HStreamError as error:
            raise as_published(error) from error.__cause__

    return cast(_Call, calling)
