#!/usr/bin/env bash
# Runs on a host of a slice, in the unpacked folder of a commit: installs Python and the locked
# packages there. Done already, it takes a second. Nothing is rebooted.
#
#   host_setup.sh --slice I --slices N [--apt-wait SECONDS]
#
# Its answer is one line: jaxllm-host SLICE.WORKER setup ok | setup failed

# shellcheck source-path=SCRIPTDIR/..
set -euo pipefail
CODE_FOLDER=$(cd "$(dirname "$0")/.." && pwd)
source "$CODE_FOLDER/tpu/host.sh"

APT_WAIT=600
read_host_options "$@"
as_root=()
if [ "$(id -u)" != 0 ]; then as_root=(sudo -n); fi

# A new host updates itself, and what it replaces meanwhile should not be in use.
wait_for_apt() {
    local end=$((SECONDS + APT_WAIT)) told=0
    local locks=(/var/lib/dpkg/lock-frontend /var/lib/dpkg/lock /var/lib/apt/lists/lock)
    command -v fuser >/dev/null || return 0
    while "${as_root[@]}" fuser "${locks[@]}" >/dev/null 2>&1; do
        if ((!told)); then echo "apt's lock is held; waiting for at most $APT_WAIT s"; fi
        told=1
        if ((SECONDS >= end)); then
            echo "apt's lock is still held after $APT_WAIT s (JAXLLM_APT_WAIT), by:"
            "${as_root[@]}" fuser -v "${locks[@]}" 2>&1 || true
            return 1
        fi
        sleep 1
    done
}

# uv in the version of its lock file, if need be by the image's own pip. UV: its path.
install_uv() {
    local lock=$CODE_FOLDER/tpu/requirements-uv.lock wanted
    wanted=$(sed -n 's/^uv==\([0-9.]*\).*/\1/p' "$lock")
    for UV in "$(command -v uv || true)" "$HOME/.local/bin/uv"; do
        if [ -x "$UV" ] && [[ "$("$UV" --version)" == "uv $wanted"* ]]; then return; fi
    done
    if ! python3 -m pip --version >/dev/null 2>&1; then
        "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=l \
            apt-get -o "DPkg::Lock::Timeout=$APT_WAIT" -qq install -y python3-pip
    fi
    PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --quiet --user --no-deps --require-hashes \
        -r "$lock"
}

set_up() {
    cd "$CODE_FOLDER"
    if [ -e .venv/.set-up ]; then
        echo "set up already"
        return
    fi
    wait_for_apt
    install_uv
    PATH=$(dirname "$UV"):$PATH
    [ -x .venv/bin/python ] || uv venv --quiet --python "$(cat .python-version)" .venv
    bash scripts/setup.sh .venv
    bash scripts/setup.sh .venv requirements-aot.lock # libtpu
    touch .venv/.set-up
}

(
    flock 9
    set +e
    (
        set -e
        set_up
    ) 2>&1 9>&- | prefixed
    code=${PIPESTATUS[0]}
    set -e
    if ((code)); then
        answer "setup failed"
        exit 1
    fi
    ln -sfn "$(basename "$CODE_FOLDER")" "$HOME/jaxllm"
    answer "setup ok"
) 9>"$HOME/.jaxllm-setup.lock"
