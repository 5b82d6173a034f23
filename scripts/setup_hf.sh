#!/usr/bin/env bash
# Makes a virtual environment with Hugging Face transformers and torch, apart from jaxllm's: the
# scripts/hf_*.py run in it and say what our own models, tokenizers and checkpoints must agree with.
# Usage: bash scripts/setup_hf.sh VENV
# Needs Python 3.11: as python3.11 on PATH, in pyenv, or through uv.
#
# torch needs about 1 GB where pip finds its CPU build (say, by PIP_EXTRA_INDEX_URL or
# PIP_FIND_LINKS), and several with CUDA's libraries where it finds only the default one.
set -euo pipefail
venv=${1:?usage: bash scripts/setup_hf.sh VENV}
cd "$(dirname "$0")/.."
torch=2.13.0

is_311() {
    "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info[:2] != (3, 11))' >/dev/null 2>&1
}

find_python() {
    local candidate
    candidate=$(command -v python3.11 2>/dev/null) || candidate=
    if [ -n "$candidate" ] && is_311 "$candidate"; then echo "$candidate"; return; fi
    # A pyenv shim answers only for the version that is active; the versions themselves always do.
    if command -v pyenv >/dev/null 2>&1; then
        for candidate in "$(pyenv root)"/versions/3.11*/bin/python; do
            if is_311 "$candidate"; then echo "$candidate"; return; fi
        done
    fi
    return 1
}

if [ -x "$venv/bin/python" ] && ! is_311 "$venv/bin/python"; then
    echo "setup_hf: $venv holds another Python; making it anew"
    rm -rf "$venv"
fi

if [ ! -x "$venv/bin/python" ]; then
    if python=$(find_python); then
        "$python" -m venv "$venv"
    elif command -v uv >/dev/null 2>&1; then
        uv venv --quiet --seed --python 3.11 "$venv"
    else
        echo "setup_hf: needs Python 3.11 (with venv) on PATH or in pyenv, or uv; found none" >&2
        exit 2
    fi
fi

pip=("$venv/bin/python" -m pip --quiet --disable-pip-version-check)
echo "setup_hf: installing the locked packages into $venv (a few minutes the first time)"
"${pip[@]}" install --require-hashes --no-deps -r requirements-hf.lock
echo "setup_hf: installing torch $torch"
"${pip[@]}" install "torch==$torch"
"$venv/bin/python" -c 'import torch, transformers; print(f"setup_hf: done, transformers {transformers.__version__}, torch {torch.__version__}")'
