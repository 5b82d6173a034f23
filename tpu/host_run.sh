#!/usr/bin/env bash
# Runs on a host of a slice: this host's process of the run, in a session that outlives the connection.
#
#   host_run.sh start   --slice I --slices N -- CONFIG [key.path=value ...]
#   host_run.sh status  --slice I --slices N [--lines N]
#   host_run.sh follow  --slice I --slices N [--lines N]
#   host_run.sh stop    --slice I --slices N [--wait SECONDS]
#
# ~/jaxllm-run has the run's `command`, `log`, the launcher's `pid`, `exit_code` once it has ended, and
# `lock`, which is held as long as it goes on. `jaxllm launch` restarts the process; what it gives up
# is for tpu/babysit.sh. Answers, as jaxllm-host SLICE.WORKER ...:
#   start: run started | run already | run refused ...; status: status none | running | ended CODE |
#   died; stop: stopped | stop failed

# shellcheck source-path=SCRIPTDIR/..
set -euo pipefail
CODE_FOLDER=$(cd "$(dirname "$0")/.." && pwd)
FOLDER=$HOME/jaxllm-run
source "$CODE_FOLDER/tpu/host.sh"

is_running() {
    [ -e "$FOLDER/lock" ] && ! flock --nonblock "$FOLDER/lock" true
}

# Two starts at once start one run, and so do two one after the other.
start() {
    local wanted
    printf -v wanted '%q ' "$CODE_FOLDER" "${WORDS[@]}"
    mkdir -p "$FOLDER"
    exec 8>"$FOLDER/starting"
    flock 8
    if is_running; then
        if [ "$wanted" = "$(cat "$FOLDER/command")" ]; then
            answer "run already"
        else
            answer "run refused: another one goes on here: $(cat "$FOLDER/command")"
        fi
        return
    fi
    rm -f "$FOLDER/exit_code" "$FOLDER/pid"
    printf '%s' "$wanted" >"$FOLDER/command"
    # What an earlier run over several slices left there makes libtpu wait for them.
    if ((SLICES == 1)); then unset "${!MEGASCALE_@}"; fi
    setsid bash "$0" hold --slice "$SLICE" --slices "$SLICES" -- "${WORDS[@]}" \
        >>"$FOLDER/log" 2>&1 </dev/null 8>&- &
    while [ ! -e "$FOLDER/pid" ] && kill -0 $! 2>/dev/null; do sleep 0.05; done
    answer "run started"
}

# The session itself. Its launcher inherits the lock, so that it is held even if this script dies.
hold() {
    local launcher code=0 again
    exec 9>"$FOLDER/lock"
    flock --nonblock 9
    # They reach the launcher too, and its exit code must still be written down.
    IS_SIGNALLED=0
    trap 'IS_SIGNALLED=1' INT TERM HUP
    cd "$CODE_FOLDER"
    PYTHONUNBUFFERED=1 .venv/bin/jaxllm launch "${WORDS[@]}" &
    launcher=$!
    write pid "$launcher"
    wait "$launcher" || code=$?
    while ((IS_SIGNALLED)); do # and so that code may be the signal's
        IS_SIGNALLED=0 again=0
        wait "$launcher" 2>/dev/null || again=$?
        if ((again != 127)); then code=$again; fi # 127: it was not
    done
    write exit_code "$code"
}

write() { # FILE TEXT, as a whole
    printf '%s\n' "$2" >"$FOLDER/$1.new"
    mv "$FOLDER/$1.new" "$FOLDER/$1"
}

status() {
    if [ -e "$FOLDER/log" ]; then tail -n "$LINES_BEFORE" "$FOLDER/log" | prefixed; fi
    if is_running; then
        answer "status running"
    elif [ -e "$FOLDER/exit_code" ]; then
        answer "status ended $(cat "$FOLDER/exit_code")"
    elif [ -e "$FOLDER/pid" ]; then
        answer "status died"
    else
        answer "status none"
    fi
}

follow() {
    if [ ! -e "$FOLDER/log" ]; then
        echo "no run has been started here" | prefixed
    elif is_running; then
        tail -n "$LINES_BEFORE" -F "--pid=$(cat "$FOLDER/pid")" "$FOLDER/log" | prefixed
    else
        tail -n "$LINES_BEFORE" "$FOLDER/log" | prefixed
    fi
}

stop() {
    local end=$((SECONDS + STOP_WAIT))
    if is_running; then kill -TERM "$(cat "$FOLDER/pid")" || true; fi
    while is_running; do
        if ((SECONDS >= end)); then
            answer "stop failed: still saving after $STOP_WAIT s (JAXLLM_STOP_WAIT)"
            return 1
        fi
        sleep 0.1
    done
    answer "stopped"
}

LINES_BEFORE=0 STOP_WAIT=120
case ${1:-} in
    start | hold | status | follow | stop)
        verb=$1
        shift
        read_host_options "$@"
        "$verb"
        ;;
    *)
        sed -n '2,/^$/s/^# \{0,1\}//p' "$0"
        exit 2
        ;;
esac
