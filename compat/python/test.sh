#!/usr/bin/env bash
# Runs the published Python client, unmodified, against this server, and then the same tests with our package in its place. Each
# ends with a line `N passed, N failed`.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1

broken() {
    echo "compat/python/test.sh: $1" >&2
    echo "published python: 0 passed, 1 failed"
    exit 1
}

python=$(compat/python/environment.sh) || broken "the published client could not be installed from the package registry"
cargo build -q --locked -p hstream-server -p hstream-conformance || broken "the server does not build"
export HSTREAM_SERVER_BINARY="$PWD/target/debug/hstream-server" HSTREAM_RUST_ADAPTER="$PWD/target/debug/conformance-rust"
status=0
timeout 600 "$python" -X faulthandler compat/python 2>&1 || status=1
ours=$(compat/python/environment-ours.sh) || broken "our package could not be installed in its place"
HSTREAM_PUBLISHED_PYTHON=$python timeout 600 "$ours" -X faulthandler compat/python 2>&1 || status=1
exit "$status"
