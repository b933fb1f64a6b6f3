"""Take the protobuf descriptor out of the published package `hstreamdb-api` and write it to a file.

Usage: published_descriptor.py WHEEL OUTPUT

The generated module is parsed, not imported, so no protobuf runtime is needed.
"""

import ast
import sys
import zipfile

MODULE = "HStream/Server/HStreamApi_pb2.py"


def descriptor(source):
    """Return the bytes handed to `AddSerializedFile` in a generated module."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "AddSerializedFile":
            return ast.literal_eval(node.args[0])
    raise SystemExit("no descriptor in " + MODULE)


def main(wheel, output):
    with zipfile.ZipFile(wheel) as archive:
        content = descriptor(archive.read(MODULE).decode())
    with open(output, "wb") as out:
        out.write(content)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    main(sys.argv[1], sys.argv[2])
