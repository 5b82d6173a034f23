# Sourced by the scripts beside it: what the bucket says of a run.

# shellcheck shell=bash disable=SC2034,SC2153,SC2154  # its variables are those of who sources it

# NEWEST: the step of the newest complete checkpoint of the run, -1 if there is none or the bucket
# does not answer. Orbax marks in a bucket which are complete.
look_at_newest() {
    NEWEST=-1
    if ask "" gcloud storage ls "$JAXLLM_RUN_DIR/checkpoints/*/commit_success.txt"; then
        NEWEST=$(sed -n 's|.*/checkpoints/\([0-9][0-9]*\)/commit_success.txt$|\1|p' \
            <<<"$ANSWER" | sort -n | tail -n 1)
        : "${NEWEST:=-1}"
        return
    fi
    case $PROBLEM in
        *"matched no objects"*) ;;
        *) say "cannot see whether a checkpoint is newer: $PROBLEM" ;;
    esac
}
