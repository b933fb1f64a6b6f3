#!/bin/sh
# Builds the NIF and puts it into priv/; run by rebar3 before it compiles. HSTREAMDB_PROFILE picks the cargo profile.
set -eu
cd "$(dirname "$0")"
profile=${HSTREAMDB_PROFILE:-dev}
folder=$profile
[ "$profile" = dev ] && folder=debug
cargo build --quiet --profile "$profile" -p hstreamdb-nif
target=$(cargo metadata --format-version 1 --no-deps | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')
mkdir -p ../priv
# By rename: a library that a running VM has mapped must never be overwritten in place.
cp "$target/$folder/libhstreamdb_nif.so" ../priv/libhstreamdb_nif.so.new
mv ../priv/libhstreamdb_nif.so.new ../priv/libhstreamdb_nif.so
