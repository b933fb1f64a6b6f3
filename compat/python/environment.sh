#!/usr/bin/env bash
# Makes the virtual environment .setup/published/python with the published client and prints its interpreter.
# The packages are sdist only and need an older setuptools; the wheels built from them are kept.
set -euo pipefail
cd "$(dirname "$0")/../.."
client=hstreamdb==0.5.0
published=.setup/published
wheels=$published/wheels
python=$published/python/bin/python
mkdir -p "$published"
if [ ! -f "$wheels/complete" ]; then
    rm -rf "$wheels"
    echo 'setuptools<81' >"$published/constraints.txt"
    [ -x .setup/py/bin/pip ] || python3 -m venv .setup/py >&2
    PIP_CONSTRAINT="$PWD/$published/constraints.txt" .setup/py/bin/pip wheel -q --disable-pip-version-check \
        -w "$wheels" "$client" >&2
    touch "$wheels/complete"
fi
if ! "$python" -c 'import hstreamdb, sys; sys.exit(hstreamdb.__version__ != "0.5.0")' 2>/dev/null; then
    rm -rf "$published/python"
    python3 -m venv "$published/python" >&2
    "$python" -m pip install -q --disable-pip-version-check --no-index --find-links "$wheels" "$client" >&2
fi
echo "$PWD/$python"
