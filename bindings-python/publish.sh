#!/usr/bin/env bash
# Builds what is published, into dist/: the wheel of one target, or the source package (`sdist`). Wheels are linked by zig, so that
# they run on old systems and other machines: publish.sh {x86_64,aarch64}-unknown-linux-{gnu,musl}
set -euo pipefail
cd "$(dirname "$0")/.."
maturin=${MATURIN:-maturin}
case "${1:-}" in
sdist) exec "$maturin" sdist -m bindings-python/Cargo.toml -o dist ;;
*-linux-gnu) compatibility=manylinux2014 ;;
*-linux-musl) compatibility=musllinux_1_2 ;;
*)
    echo "publish.sh: name a target, such as x86_64-unknown-linux-gnu or aarch64-unknown-linux-musl, or sdist" >&2
    exit 2
    ;;
esac
exec "$maturin" build --profile dist --locked --zig --compatibility "$compatibility" --target "$1" \
    -m bindings-python/Cargo.toml -o dist
