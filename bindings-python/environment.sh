#!/usr/bin/env bash
# Builds the wheel, installs it into the virtual environment .setup/python and prints the path of its interpreter.
set -euo pipefail
cd "$(dirname "$0")/.."
bindings-python/wheel.sh >&2
rm -rf .setup/python
python3 -m venv .setup/python
.setup/python/bin/pip install -q --disable-pip-version-check --no-index .setup/wheel/hstreamdb-*.whl >&2
echo "$PWD/.setup/python/bin/python"
