#!/usr/bin/env bash
# Builds the wheel, installs it into a clean environment of every CPython found (PATH and pyenv, 3.7 and newer) and
# runs the tests there against a real server; checks the types with the first one. Ends with `python: N passed, N failed`.
# PYTHONS="python3 /path/python3.9" chooses the interpreters.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

broken() {
    echo "bindings-python/test.sh: $1" >&2
    echo "python: 0 passed, 1 failed"
    exit 1
}

cargo build -q --locked -p hstream-server || broken "the server does not build"
bindings-python/wheel.sh || broken "the wheel does not build"

# One interpreter per version, the default one first.
interpreters() {
    local candidate
    if [ -n "${PYTHONS:-}" ]; then
        # shellcheck disable=SC2086
        printf '%s\n' $PYTHONS
        return
    fi
    echo python3
    for minor in 7 8 9 10 11 12 13; do
        for candidate in "python3.$minor" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3."$minor".*/bin/python3; do
            if "$candidate" -c 'import ensurepip, venv' 2>/dev/null; then
                echo "$candidate"
                break
            fi
        done
    done
}

passed=0
failed=0
seen=" "
while read -r python; do
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])') || broken "$python does not run"
    case "$seen" in *" $version "*) continue ;; esac
    seen="$seen$version "
    environment=".setup/python-$version"
    rm -rf "$environment"
    "$python" -m venv "$environment" || broken "$python cannot make a virtual environment"
    "$environment/bin/python" -m pip install -q --disable-pip-version-check --no-index .setup/wheel/hstreamdb-*.whl ||
        broken "the wheel does not install on Python $version"
    # What some tests are about, where it can be had for this version; they are skipped without.
    extras="uvloop"
    [ -n "${first:-}" ] || extras="uvloop pandas pyarrow"
    for extra in $extras; do
        "$environment/bin/python" -m pip install -q --disable-pip-version-check --only-binary :all: "$extra" 2>/dev/null ||
            echo "== Python $version: no $extra"
    done
    echo "== Python $version"
    output=$(HSTREAM_SERVER_BINARY="$PWD/target/debug/hstream-server" timeout 600 \
        "$environment/bin/python" -X faulthandler bindings-python/tests 2>&1)
    status=$?
    printf '%s\n' "$output"
    counts=$(printf '%s\n' "$output" | sed -nE 's/^tests: ([0-9]+) good, ([0-9]+) bad$/\1 \2/p' | tail -1)
    read -r good bad <<<"${counts:-0 1}"
    [ "$status" = 0 ] || [ "$bad" -gt 0 ] || bad=1
    passed=$((passed + good))
    failed=$((failed + bad))
    if [ -z "${first:-}" ]; then
        first=$environment/bin/python
        output=$(bindings-python/types.sh "$first" 2>&1)
        # Its own count would be added up twice.
        printf '%s\n' "$output" | sed '/^typing: /d'
        read -r good bad <<<"$(printf '%s\n' "$output" | sed -nE 's/^typing: ([0-9]+) passed, ([0-9]+) failed$/\1 \2/p' | grep . || echo 0 1)"
        passed=$((passed + good))
        failed=$((failed + bad))
    fi
done < <(interpreters)

[ "$((passed + failed))" -gt 0 ] || failed=1
echo "python: $passed passed, $failed failed"
[ "$failed" = 0 ]
