"""Refuses interpreters that this package cannot serve, before it is half loaded."""

from typing import Any

for _name in ("_interpreters", "_xxsubinterpreters"):
    try:
        _interpreters: Any = __import__(_name)
        _current, _main = _interpreters.get_current(), _interpreters.get_main()
    except (ImportError, AttributeError):
        continue
    if _current != _main:
        raise ImportError(
            "hstreamdb works in the main interpreter only: its threads serve one interpreter of a process. "
            "Use a process of its own (multiprocessing, spawn) instead of a subinterpreter"
        )
    break
