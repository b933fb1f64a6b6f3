#!/usr/bin/env bash
# Formatters and linters of every language; changes nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo fmt --all --check
cargo clippy --locked --all-targets -- -D warnings
# The bindings are loaded by their languages and tested from there; as Rust test targets they would be empty.
cargo clippy --locked -p hstreamdb-python -p hstreamdb-nif -p hstreamdb-node -- -D warnings
