#!/usr/bin/env bash
# Asks for the slice of tpu/settings.env and waits until it is there. Asked again, it goes on waiting.
#
#   tpu/create.sh [--settings FILE] [--dry-run]
#
#   --settings FILE   other settings than tpu/settings.env; variables of the environment win over both
#   --dry-run         shows every command and runs none
#
# Exit code: 0 the slice is there; 2 a setting must change, such as the zone, or there is no quota;
# 75 the request failed or ran out of time, and may be made again; 1 anything else.
# What it made stays, and costs, until tpu/delete.sh; after ctrl-C too.

# shellcheck source-path=SCRIPTDIR
set -euo pipefail
TPU_FOLDER=$(cd "$(dirname "$0")" && pwd)
source "$TPU_FOLDER/commands.sh"
source "$TPU_FOLDER/settings.sh"
source "$TPU_FOLDER/slice.sh"

while (($#)); do
    take_option "$@"
    shift "$CONSUMED"
done
load_settings
set_names
make_scratch

code=0
request_slice || code=$?
if ((code == 0)); then wait_for_slice || code=$?; fi
if ((code == 0)); then
    patiently look_at_nodes || code=$?
fi
if ((code == 0)); then
    say "$JAXLLM_NAME has ${#NODES[@]} nodes with $HOSTS hosts; next: tpu/run.sh"
elif ((code == 75)); then
    say "delete the request with tpu/delete.sh before you make it again"
fi
exit "$code"
