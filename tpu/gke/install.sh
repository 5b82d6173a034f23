#!/usr/bin/env bash
# Installs jaxllm as the image has it, in two steps; run it in the root of the source.
#   bash tpu/gke/install.sh packages VENV        the locked packages, and the TPU runtime
#   bash tpu/gke/install.sh jaxllm VENV COMMIT   jaxllm itself, of exactly this commit
# Needs uv and Python 3.12 on PATH.
set -euo pipefail

usage() {
    sed -n '2,5s/^# \{0,1\}//p' "$0" >&2
    exit 2
}

install_packages() {
    uv venv --quiet --python 3.12 "$1"
    for lock in requirements.lock requirements-aot.lock; do
        VIRTUAL_ENV=$1 uv pip install --quiet --no-cache --require-hashes --no-deps \
            --compile-bytecode -r "$lock"
    done
}

install_jaxllm() {
    # `git archive` writes its commit into this file; whatever else made the folder does not.
    local found
    found=$(cat tpu/gke/commit)
    if [ "$found" != "$2" ]; then
        echo "install: this is not commit '$2' but '$found'; make the source with git archive" >&2
        exit 2
    fi
    VIRTUAL_ENV=$1 uv pip install --quiet --no-cache --no-deps --no-build-isolation \
        --compile-bytecode .
}

case "${1-} $#" in
    "packages 2") install_packages "$2" ;;
    "jaxllm 3") install_jaxllm "$2" "$3" ;;
    *) usage ;;
esac
