#!/usr/bin/env bash
# Makes the virtual environment .setup/published/ours: our wheel in the place of the published client, with the published
# stubs and grpcio beside it, as a program that used both has them. Prints its interpreter.
set -euo pipefail
cd "$(dirname "$0")/../.."
compat/python/environment.sh >/dev/null
compgen -G '.setup/wheel/hstreamdb-*.whl' >/dev/null || bindings-python/wheel.sh >&2
ours=.setup/published/ours
rm -rf "$ours"
python3 -m venv "$ours" >&2
"$ours/bin/python" -m pip install -q --disable-pip-version-check --no-index --find-links .setup/published/wheels \
    hstreamdb-api grpcio protobuf >&2
"$ours/bin/python" -m pip install -q --disable-pip-version-check --no-index .setup/wheel/hstreamdb-*.whl >&2
echo "$PWD/$ours/bin/python"
