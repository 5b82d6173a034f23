#!/usr/bin/env bash
# Shows the log of the run on every host as it grows, each line with its host in front: [2], or [1.2]
# for host 2 of slice 1. It ends with the run; ctrl-C ends it sooner, and the run goes on.
#
#   tpu/logs.sh [--settings FILE] [--dry-run] [--lines N]
#
#   --settings FILE   other settings than tpu/settings.env; variables of the environment win over both
#   --dry-run         shows every command and runs none
#   --lines N         lines of each host from before (20)
#
# Exit code: 0; 75 the slice is not there, or taken away; 1 gcloud cannot say.

# shellcheck source-path=SCRIPTDIR
set -euo pipefail
TPU_FOLDER=$(cd "$(dirname "$0")" && pwd)
source "$TPU_FOLDER/commands.sh"
source "$TPU_FOLDER/settings.sh"
source "$TPU_FOLDER/slice.sh"
source "$TPU_FOLDER/hosts.sh"

lines=20
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
make_scratch
look_at_nodes || exit $?
stream_logs "$lines"
