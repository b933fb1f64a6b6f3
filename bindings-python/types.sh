#!/usr/bin/env bash
# Checks the types of the package: mypy --strict and pyright over its sources, stubtest against the built module, which must be
# installed in the environment of the given interpreter (3.9 or newer). Ends with `typing: N passed, N failed`.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
python=${1:-.setup/python/bin/python}
if [ ! -x .setup/types/bin/mypy ] || [ ! -x .setup/types/bin/pyright ]; then
    python3 -m venv .setup/types
    .setup/types/bin/pip install -q --disable-pip-version-check 'mypy>=1.20,<2' 'pyright>=1.1.400,<2' || exit 1
fi
passed=0
failed=0
check() {
    if "$@"; then passed=$((passed + 1)); else failed=$((failed + 1)); fi
}

site=$("$python" -c 'import os, hstreamdb; print(os.path.dirname(os.path.dirname(hstreamdb.__file__)))') || exit 1
config=$PWD/bindings-python/pyproject.toml
sources=$PWD/bindings-python/python
types=$PWD/.setup/types/bin
check env MYPYPATH="$sources" "$types/mypy" --config-file "$config" -p hstreamdb
check "$types/pyright" --project "$config" "$sources/hstreamdb"
# From elsewhere: the package that is installed is meant, not its sources.
check env -C / PYTHONPATH="$site" MYPYPATH="$site" "$types/stubtest" hstreamdb --mypy-config-file "$config" \
    --allowlist "$PWD/bindings-python/tests/stubtest-allowed.txt"
echo "typing: $passed passed, $failed failed"
[ "$failed" = 0 ]
