#!/usr/bin/env bash
# Ships one commit to every host of the slice, installs what it needs, and starts the run there in a
# session of its own: the connection may end. Where the run goes on already, nothing is started.
#
#   tpu/run.sh [--settings FILE] [--dry-run] [--stop] [key.path=value ...]
#
#   --settings FILE   other settings than tpu/settings.env; variables of the environment win over both
#   --dry-run         shows every command and runs none
#   --stop            asks the run that goes on to save and end, in place of all this
#   key.path=value    overrides of the config, behind those of JAXLLM_OVERRIDES
#
# Exit code: 0 the run goes on (with --stop: it has ended); 2 a setting must change, or another run
# goes on there; 75 the slice is not there, or taken away; 1 a host failed.

# shellcheck source-path=SCRIPTDIR
set -euo pipefail
TPU_FOLDER=$(cd "$(dirname "$0")" && pwd)
source "$TPU_FOLDER/commands.sh"
source "$TPU_FOLDER/settings.sh"
source "$TPU_FOLDER/slice.sh"
source "$TPU_FOLDER/hosts.sh"

stop=0
while (($#)); do
    case $1 in
        --stop) stop=1 CONSUMED=1 ;;
        -*) take_option "$@" ;;
        *) EXTRA_OVERRIDES+=("$1") CONSUMED=1 ;;
    esac
    shift "$CONSUMED"
done
load_settings
set_names
set_run
make_scratch

if ((!stop)); then resolve_commit; fi
code=0
look_at_nodes || code=$?
if ((code)); then
    say "make the slice first: tpu/create.sh; if it was taken away: tpu/delete.sh before"
    exit "$code"
fi
if ((stop)); then
    stop_run
else
    set_up_hosts
    start_run
    say "its log: tpu/logs.sh; how it is: tpu/status.sh; its end: tpu/run.sh --stop, tpu/delete.sh"
fi
