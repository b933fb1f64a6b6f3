#!/usr/bin/env bash
# Builds the wheel for tests and the demo: .setup/wheel/hstreamdb-*.whl, debug profile, this machine only.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ ! -x .setup/py/bin/maturin ]; then
    python3 -m venv .setup/py
    .setup/py/bin/pip install -q --disable-pip-version-check 'maturin>=1.7,<2'
fi
rm -rf .setup/wheel
.setup/py/bin/maturin build -q --profile dev --locked -m bindings-python/Cargo.toml -o .setup/wheel
