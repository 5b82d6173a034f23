#!/usr/bin/env bash
# Shows how the slice and the run on it are: the state of the request, the nodes, the run on every
# host with the last lines of its log, and the step of the newest checkpoint (-1: none).
#
#   tpu/status.sh [--settings FILE] [--dry-run] [--lines N]
#
#   --settings FILE   other settings than tpu/settings.env; variables of the environment win over both
#   --dry-run         shows every command and runs none
#   --lines N         lines of each host's log (1)
#
# Exit code: 0 everything answered; 75 there is no slice, or it is not ready; 1 a host did not answer.

# shellcheck source-path=SCRIPTDIR
set -euo pipefail
TPU_FOLDER=$(cd "$(dirname "$0")" && pwd)
source "$TPU_FOLDER/commands.sh"
source "$TPU_FOLDER/settings.sh"
source "$TPU_FOLDER/slice.sh"
source "$TPU_FOLDER/hosts.sh"
source "$TPU_FOLDER/checkpoints.sh"

lines=1
while (($#)); do
    case $1 in
        --lines) lines=${2:-} CONSUMED=2 ;;
        *) take_option "$@" ;;
    esac
    shift "$CONSUMED"
done
if ! [[ $lines =~ ^[0-9]+$ ]]; then fail 2 "--lines needs a number"; fi
load_settings
set_names
set_run
make_scratch

row() {
    if [ "$DRY_RUN" = 0 ]; then printf '%-12s%s\n' "$1" "$2"; fi
}

look_at_slice
row slice "$JAXLLM_NAME is $STATE${REASON:+: $REASON}"
look_at_newest
row checkpoint "${NEWEST/#-1/none}"
if [ "$STATE" != ACTIVE ]; then exit 75; fi
look_at_nodes || exit $?
row hosts "$HOSTS in ${#NODES[@]} nodes"
code=0
look_at_run "$lines" || code=$?
if ((code)); then
    say "nothing was set up there yet (tpu/run.sh does that), or not every host answers"
    exit "$code"
fi
while read -r _ host _ words; do row "host $host" "$words"; done <<<"$ANSWERS"
if [ -n "$SAID" ]; then printf '%s\n' "$SAID"; fi
