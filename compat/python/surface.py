"""Prints the public surface of the installed `hstreamdb` as JSON: what programs see of it, nothing of how it works."""

import importlib
import inspect
import json
import sys

#: Modules whose names programs import, with those names that are not theirs but somebody else's.
MODULES = ["hstreamdb", "hstreamdb.aio.client", "hstreamdb.aio.consumer", "hstreamdb.aio.producer"]
MODULES += ["hstreamdb.types", "hstreamdb.utils"]
FOREIGN = ("abc", "asyncio", "builtins", "collections", "contextlib", "functools", "grpc", "HStream", "google")
FOREIGN += ("itertools", "logging", "typing", "types", "urllib", "gzip", "hashlib")


def parameters(function):
    """Name, kind and default of every parameter of a function."""
    found = []
    for parameter in inspect.signature(function).parameters.values():
        default = "required" if parameter.default is parameter.empty else repr(parameter.default)
        found.append([parameter.name, parameter.kind.name, default])
    return found


def describe(value):
    """What can be said about a public value."""
    if inspect.isclass(value):
        return describe_class(value)
    if inspect.isfunction(value):
        return {
            "is": "coroutine function" if inspect.iscoroutinefunction(value) else "function",
            "parameters": parameters(value),
        }
    return {"is": "value"}


def describe_class(value):
    found = {"is": "class", "exception": issubclass(value, Exception), "members": {}}
    if issubclass(value, tuple) and hasattr(value, "_fields"):
        found["tuple"] = list(value._fields)
        return found
    if "__init__" in vars(value) and inspect.isfunction(value.__init__):
        found["parameters"] = parameters(value.__init__)
    found["abstract"] = sorted(getattr(value, "__abstractmethods__", ()))
    for name in dir(value):
        dunder = name in ("__aenter__", "__aexit__", "__len__")
        if name.startswith("_") and not dunder:
            continue
        member = inspect.getattr_static(value, name)
        if isinstance(member, (staticmethod, classmethod)):
            member = member.__func__
        found["members"][name] = describe(member)
    return found


def protobuf_fields():
    """How an offset behaves to those who fill it in."""
    import hstreamdb

    offset, special = hstreamdb.ShardOffset(), hstreamdb.SpecialOffset
    offset.recordOffset.shardId = 1
    before = offset.WhichOneof("offset")
    offset.timestampOffset.timestampInMs = 2
    between = offset.WhichOneof("offset")
    offset.specialOffset = special.LATEST
    return [before, between, offset.WhichOneof("offset"), offset.specialOffset, special.items(), special.Name(0)]


def main():
    found = {}
    for name in MODULES:
        module = importlib.import_module(name)
        public = getattr(module, "__all__", None) or [each for each in dir(module) if not each.startswith("_")]
        for each in public:
            value = getattr(module, each)
            home = getattr(value, "__module__", None) or ""
            if inspect.ismodule(value) or home.split(".")[0] in FOREIGN and each not in ("ShardOffset",):
                continue
            found["%s.%s" % (name, each)] = describe(value)
    found["hstreamdb.ShardOffset"] = {"is": "message", "behaviour": protobuf_fields()}
    json.dump(found, sys.stdout, indent=1, sort_keys=True)


if __name__ == "__main__":
    main()
