#!/usr/bin/env bash
# Makes a virtual environment with exactly the versions of requirements.lock, and jaxllm in it.
# Usage: bash scripts/setup.sh VENV [LOCK]; with LOCK, only what that file lists is added.
# Needs one of: Python 3.12 or newer on PATH, pyenv with such a version, or uv.
set -euo pipefail
venv=${1:?usage: bash scripts/setup.sh VENV [LOCK]}
cd "$(dirname "$0")/.."

is_new_enough() {
    "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 12))' >/dev/null 2>&1
}

find_python() {
    local candidate root
    for candidate in python3.12 python3.13 python3.14 python3 python; do
        candidate=$(command -v "$candidate" 2>/dev/null) || continue
        if is_new_enough "$candidate"; then echo "$candidate"; return; fi
    done
    # A pyenv shim answers only for the version that is active; the versions themselves always do.
    if command -v pyenv >/dev/null 2>&1; then
        root=$(pyenv root)
        for candidate in "$root"/versions/3.1[2-9]*/bin/python; do
            if is_new_enough "$candidate"; then echo "$candidate"; return; fi
        done
    fi
    return 1
}

if [ $# -gt 1 ]; then
    echo "setup: adding $2 to $venv"
    if command -v uv >/dev/null 2>&1; then
        VIRTUAL_ENV=$PWD/$venv uv pip install --quiet --require-hashes --no-deps -r "$2"
    else
        "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r "$2"
    fi
    exit
fi

if [ -x "$venv/bin/python" ] && ! "$venv/bin/python" -c 'import sys; sys.exit(sys.version_info < (3, 12))'; then
    echo "setup: $venv holds an older Python; making it anew"
    rm -rf "$venv"
fi

if command -v uv >/dev/null 2>&1; then
    [ -x "$venv/bin/python" ] || uv venv --quiet --python '>=3.12' "$venv"
    echo "setup: installing the locked packages into $venv with uv"
    VIRTUAL_ENV=$PWD/$venv uv pip install --quiet --require-hashes -r requirements.lock
    VIRTUAL_ENV=$PWD/$venv uv pip install --quiet --no-deps --no-build-isolation -e .
else
    if [ ! -x "$venv/bin/python" ]; then
        python=$(find_python) || {
            echo "setup: needs Python 3.12 or newer (with venv), pyenv with one, or uv; found none" >&2
            exit 2
        }
        "$python" -m venv "$venv"
    fi
    echo "setup: installing the locked packages into $venv with pip (a few minutes the first time)"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
fi

# Without bytecode, importing jax alone costs more than two seconds.
"$venv/bin/python" -m compileall -q -j 0 "$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" jaxllm >/dev/null || true
echo "setup: done"
