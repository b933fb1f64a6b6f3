#!/usr/bin/env bash
# Formatters and linters of every language; changes nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo fmt --all --check
cargo clippy --locked --workspace --all-targets -- -D warnings
