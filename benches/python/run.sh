#!/usr/bin/env bash
# Compares this package with the published one. Arguments go to compare.py: records, size, records one by one.
set -euo pipefail
cd "$(dirname "$0")/../.."
published=$(compat/python/environment.sh)
cargo build -q --release --locked -p hstream-server
.setup/py/bin/maturin --version >/dev/null 2>&1 || .setup/py/bin/pip install -q --disable-pip-version-check 'maturin>=1.7,<2'
rm -rf .setup/bench
.setup/py/bin/maturin build -q --release --locked -m bindings-python/Cargo.toml -o .setup/bench/wheel
python3 -m venv .setup/bench/python
.setup/bench/python/bin/pip install -q --disable-pip-version-check --no-index .setup/bench/wheel/hstreamdb-*.whl
python3 benches/python/compare.py target/release/hstream-server "$published" "$PWD/.setup/bench/python/bin/python" "$@"
