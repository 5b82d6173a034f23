#!/usr/bin/env bash
# Makes the slice, runs on it, watches, and where the slice is taken away or the run fails, deletes it
# and makes it again, until the run is done. At its end it deletes the slice, however it ends.
#
#   tpu/babysit.sh [--settings FILE] [--dry-run] [--keep] [key.path=value ...]
#
#   --settings FILE   other settings than tpu/settings.env; variables of the environment win over both
#   --dry-run         shows the commands of a run that goes well, and runs none
#   --keep            leaves the last slice, which costs until tpu/delete.sh
#   key.path=value    overrides of the config, behind those of JAXLLM_OVERRIDES
#
# ctrl-C and SIGTERM ask the run to save, and delete the slice. Started again, it takes over a slice
# that was left. Run it where it lives as long as the run: a small machine, tmux; it sleeps mostly.
#
# Exit code: that of the run. 0 done; 2 a setting or the config must change; 75 gave up or was told to
# end, and goes on when started again; 130 ctrl-C; 1 gave up after failures, or could not delete.

# shellcheck source-path=SCRIPTDIR
set -euo pipefail
TPU_FOLDER=$(cd "$(dirname "$0")" && pwd)
source "$TPU_FOLDER/commands.sh"
source "$TPU_FOLDER/settings.sh"
source "$TPU_FOLDER/slice.sh"
source "$TPU_FOLDER/hosts.sh"
source "$TPU_FOLDER/checkpoints.sh"
source "$TPU_FOLDER/restarts.sh"

main() {
    KEEP=0
    while (($#)); do
        case $1 in
            --keep) KEEP=1 CONSUMED=1 ;;
            -*) take_option "$@" ;;
            *) EXTRA_OVERRIDES+=("$1") CONSUMED=1 ;;
        esac
        shift "$CONSUMED"
    done
    load_settings
    set_names
    set_run
    resolve_commit
    if [[ $JAXLLM_RUN_DIR != gs://* ]]; then
        say "run_dir=$JAXLLM_RUN_DIR is on the hosts' own disks: it ends with the slice"
    fi
    SCRATCH=$(mktemp -d)
    IS_OURS=0 IS_RUNNING=0
    trap clean_up EXIT
    trap 'end_by INT 130' INT
    trap 'end_by TERM 75' TERM
    trap 'end_by HUP 75' HUP
    look_at_newest
    NEWEST_SEEN=$NEWEST
    keep_running
}

# Tries until the verdict is an exit code.
keep_running() {
    while :; do
        CODES=()
        try_once
        IS_RUNNING=0
        look_at_newest
        judge "$NEWEST" "${CODES[@]}"
        say "$WORDS"
        if [ "$VERDICT" != again ]; then exit "$VERDICT"; fi
        delete_ours || exit 1
        IS_OURS=0
        pause "$PAUSE"
    done
}

# One slice from its request to the end of the run there. CODES: how that ended, as exit codes of
# hosts; 75 stands for a slice that was not to be had, or was taken away.
try_once() {
    local code=0
    IS_ANSWERED=0
    IS_OURS=1
    request_slice || code=$?
    if ((IS_STRANGER)); then IS_OURS=0; fi
    if ((code == 0)); then wait_for_slice || code=$?; fi
    if ((code == 0)); then patiently start_on_slice || code=$?; fi
    if ((code)); then
        CODES=("$code")
    else
        watch_run
    fi
}

start_on_slice() {
    look_at_nodes || return $?
    set_up_hosts || return $?
    IS_RUNNING=1
    start_run
}

# Looks until the run has ended on all hosts, has failed on one, or the slice is lost.
watch_run() {
    local lost=0 seen='' now code
    while :; do
        look_at_slice
        case $STATE in
            ACTIVE | UNKNOWN) ;;
            *)
                say "$JAXLLM_NAME is $STATE${REASON:+: $REASON}"
                CODES=(75)
                return
                ;;
        esac
        code=0
        look_at_nodes || code=$?
        if ((code == 75)); then
            CODES=(75)
            return
        fi
        if ((code == 0)) && look_at_run 0; then
            lost=0
            now=$(cut -d ' ' -f 4- <<<"$ANSWERS" | sort | uniq -c |
                sed 's/^ *\([0-9]*\) /\1 x /' | paste -s -d , -)
            if [ "$now" != "$seen" ]; then say "hosts: $now"; fi
            seen=$now
            if has_ended; then return; fi
        else
            lost=$((lost + 1))
            if ((lost >= JAXLLM_LOST_LOOKS)); then
                say "not every host answered, $lost times in a row: the slice is taken for lost"
                CODES=(75)
                return
            fi
        fi
        pause "$JAXLLM_POLL"
    done
}

# Whether the ANSWERS end the try: a host failed, or all are done. CODES: those of the hosts that ended.
has_ended() {
    local host state code running=0 failed=0
    if [ "$DRY_RUN" = 1 ]; then
        CODES=(0)
        return
    fi
    CODES=()
    while read -r _ host _ state code; do
        case $state in
            running) running=1 ;;
            ended) CODES+=("$code") ;;
            *) CODES+=(1) ;;
        esac
        if [ "$state" != running ] && [ "${code:-1}" != 0 ]; then
            failed=1
            say "host $host: $state ${code:-}"
        fi
    done <<<"$ANSWERS"
    if ((failed)); then
        # The slice is deleted soon, and with it the logs.
        if look_at_run 30; then printf '%s\n' "$SAID" >&2; fi
        return 0
    fi
    ((!running))
}

end_by() { # NAME CODE
    trap '' INT TERM HUP
    say "$1: ending"
    await_begun 0
    if ((IS_RUNNING)); then
        stop_run || say "the run could not be asked to save on every host"
    fi
    exit "$2"
}

# Nothing that costs stays behind, whatever ended this script.
clean_up() {
    local code=$?
    trap '' INT TERM HUP
    await_begun 0
    if ((IS_OURS && KEEP)); then
        say "$JAXLLM_NAME stays, and costs, until tpu/delete.sh"
    elif ((IS_OURS)); then
        delete_ours || code=1
    fi
    rm -rf "$SCRATCH"
    exit "$code"
}

main "$@"
