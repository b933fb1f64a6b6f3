#!/usr/bin/env bash
# Formatters and linters of every language; changes nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo fmt --all --check
cargo clippy --locked --all-targets -- -D warnings
# The bindings are loaded by their languages and tested from there; as Rust test targets they would be empty.
cargo clippy --locked -p hstreamdb-python -p hstreamdb-nif -p hstreamdb-node -- -D warnings

# Python.
.setup/py/bin/ruff format -q --check bindings-python compat conformance dev demo
.setup/py/bin/ruff check -q bindings-python compat conformance dev demo

# JavaScript and TypeScript.
(
    cd bindings-node
    [ -x node_modules/.bin/prettier ] || npm ci --no-audit --no-fund --loglevel=error
    node_modules/.bin/prettier --check --log-level=warn --config .prettierrc.json \
        ts test build.mjs options-source.mjs ../conformance/adapters/node.mjs ../demo/workers/worker.mjs
)

# Erlang: no formatter is to be had from Debian; the compiler's warnings are errors, and calls are cross-checked.
(cd bindings-erlang && rebar3 xref)

# Shell.
shellcheck dev/*.sh bindings-*/*.sh compat/*/*.sh bindings-erlang/native/build.sh .ci/run
shfmt -i 4 -d dev/*.sh bindings-*/*.sh compat/*/*.sh bindings-erlang/native/build.sh .ci/run
