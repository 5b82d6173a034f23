#!/usr/bin/env bash
# Makes a virtual environment with Apache Beam and jaxllm in it, apart from the one for training:
# Beam needs an older protobuf. There `jaxllm prepare --runner beam` works, and `make test-beam`.
# Usage: bash scripts/setup_beam.sh VENV PYTHON; PYTHON is 3.12 or newer and has venv, or uv is there.
set -euo pipefail
venv=${1:?usage: bash scripts/setup_beam.sh VENV PYTHON}
python=${2:?usage: bash scripts/setup_beam.sh VENV PYTHON}
cd "$(dirname "$0")/.."

echo "setup_beam: installing the locked packages into $venv (1.3 GB)"
if command -v uv >/dev/null 2>&1; then
    [ -x "$venv/bin/python" ] || uv venv --quiet --python "$python" "$venv"
    case $venv in /*) ;; *) venv=$PWD/$venv ;; esac
    VIRTUAL_ENV=$venv uv pip install --quiet --require-hashes -r requirements-beam.lock
    VIRTUAL_ENV=$venv uv pip install --quiet --no-deps --no-build-isolation -e .
else
    [ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
    pip=("$venv/bin/python" -m pip --quiet --disable-pip-version-check)
    "${pip[@]}" install --require-hashes -r requirements-beam.lock
    "${pip[@]}" install --no-deps --no-build-isolation -e .
fi
"$venv/bin/python" -c 'import apache_beam; print(f"setup_beam: done, Apache Beam {apache_beam.__version__}")'
