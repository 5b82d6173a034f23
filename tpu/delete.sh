#!/usr/bin/env bash
# Deletes the slice of tpu/settings.env with all its nodes, and looks that it is gone. Only what bears
# its name and our label is deleted; the bucket stays as it is.
#
#   tpu/delete.sh [--settings FILE] [--dry-run] [--force]
#
#   --settings FILE   other settings than tpu/settings.env; variables of the environment win over both
#   --dry-run         shows every command and runs none
#   --force           deletes what bears the name, whoever made it
#
# Exit code: 0 nothing of that name is left; 2 it was not made by these scripts; 1 it is still there.

# shellcheck source-path=SCRIPTDIR
set -euo pipefail
TPU_FOLDER=$(cd "$(dirname "$0")" && pwd)
source "$TPU_FOLDER/commands.sh"
source "$TPU_FOLDER/settings.sh"
source "$TPU_FOLDER/slice.sh"

force=0
while (($#)); do
    case $1 in
        --force) force=1 CONSUMED=1 ;;
        *) take_option "$@" ;;
    esac
    shift "$CONSUMED"
done
load_settings
set_names
make_scratch

look_at_slice
if [ "$STATE" = NONE ]; then
    say "there is no $JAXLLM_NAME in $JAXLLM_ZONE"
    exit 0
fi
if ((!force)) && ! is_ours; then
    fail 2 "$JAXLLM_NAME in $JAXLLM_ZONE does not have the label jaxllm=$JAXLLM_NAME:" \
        "set JAXLLM_NAME, or delete it all the same with --force. $PROBLEM"
fi
delete_slice
