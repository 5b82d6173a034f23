# Sourced by the scripts beside it: the settings of a slice and a run, read and checked.

# shellcheck shell=bash disable=SC2034,SC2153,SC2154  # its variables are those of who sources it

SETTINGS=(
    JAXLLM_PROJECT JAXLLM_ZONE JAXLLM_BUCKET JAXLLM_NAME JAXLLM_ACCELERATOR JAXLLM_SLICES
    JAXLLM_RUNTIME JAXLLM_CAPACITY JAXLLM_VALID_FOR JAXLLM_SERVICE_ACCOUNT JAXLLM_LABELS
    JAXLLM_CONFIG JAXLLM_OVERRIDES JAXLLM_COMMIT JAXLLM_RUN_DIR JAXLLM_CACHE
    JAXLLM_MAX_RESTARTS JAXLLM_MAX_BACKOFF JAXLLM_POLL JAXLLM_LOST_LOOKS JAXLLM_ANSWER_WAIT
    JAXLLM_STOP_WAIT JAXLLM_DELETE_TRIES JAXLLM_APT_WAIT
)
SETTINGS_FILE=
EXTRA_OVERRIDES=() # those of the command line

# Reads the settings file, the environment and the defaults, in this order of rank: environment first.
load_settings() {
    local name kept=()
    for name in "${SETTINGS[@]}"; do
        if [ -n "${!name+set}" ]; then kept+=("$(printf '%s=%q' "$name" "${!name}")"); fi
    done
    if [ -n "$SETTINGS_FILE" ] && [ ! -f "$SETTINGS_FILE" ]; then
        fail 2 "no settings file '$SETTINGS_FILE'; copy tpu/settings.env.example and change it"
    fi
    : "${SETTINGS_FILE:=$TPU_FOLDER/settings.env}"
    if [ -f "$SETTINGS_FILE" ]; then
        check_setting_names
        # shellcheck source=tpu/settings.env.example
        source "$SETTINGS_FILE"
    fi
    for name in ${kept[@]+"${kept[@]}"}; do eval "$name"; done
    set_defaults
    check_settings
}

# A misspelt setting would otherwise be the default, unnoticed.
check_setting_names() {
    local name
    while IFS= read -r name; do
        case " ${SETTINGS[*]} " in
            *" $name "*) ;;
            *) fail 2 "$SETTINGS_FILE: there is no setting $name; there are: ${SETTINGS[*]}" ;;
        esac
    done < <(sed -n 's/^ *\(export  *\)\{0,1\}\(JAXLLM_[A-Za-z0-9_]*\)=.*/\2/p' "$SETTINGS_FILE")
}

set_defaults() {
    : "${JAXLLM_PROJECT:=}" "${JAXLLM_ZONE:=}" "${JAXLLM_BUCKET:=}" "${JAXLLM_CONFIG:=}"
    : "${JAXLLM_NAME:=jaxllm}" "${JAXLLM_ACCELERATOR:=}" "${JAXLLM_SLICES:=1}"
    : "${JAXLLM_RUNTIME:=}" "${JAXLLM_CAPACITY:=spot}" "${JAXLLM_VALID_FOR:=}"
    : "${JAXLLM_SERVICE_ACCOUNT:=}" "${JAXLLM_LABELS:=}"
    : "${JAXLLM_OVERRIDES:=}" "${JAXLLM_COMMIT:=}"
    JAXLLM_BUCKET=${JAXLLM_BUCKET%/}
    : "${JAXLLM_RUN_DIR:=$JAXLLM_BUCKET/runs/$JAXLLM_NAME}" "${JAXLLM_CACHE:=$JAXLLM_BUCKET/compiled}"
    : "${JAXLLM_MAX_RESTARTS:=10}" "${JAXLLM_MAX_BACKOFF:=60}" "${JAXLLM_POLL:=30}"
    : "${JAXLLM_LOST_LOOKS:=3}" "${JAXLLM_ANSWER_WAIT:=120}" "${JAXLLM_STOP_WAIT:=120}"
    : "${JAXLLM_DELETE_TRIES:=30}" "${JAXLLM_APT_WAIT:=600}"
}

check_settings() {
    local name
    for name in JAXLLM_PROJECT JAXLLM_ZONE JAXLLM_BUCKET JAXLLM_ACCELERATOR JAXLLM_CONFIG; do
        if [ -z "${!name}" ]; then
            fail 2 "$name is not set; set it in $SETTINGS_FILE (tpu/settings.env.example explains it)"
        fi
    done
    must_match JAXLLM_NAME '^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$' \
        "small letters, digits and hyphens, at most 40, a letter first"
    must_match JAXLLM_ZONE '^[a-z]+-[a-z]+[0-9]+-[a-z0-9]+$' "a zone such as us-west4-a"
    must_match JAXLLM_CAPACITY '^(spot|on-demand|reserved)$' "spot, on-demand or reserved"
    must_match JAXLLM_VALID_FOR '^([0-9]+[smhd])?$' "a time such as 90m, 6h or 2d, or nothing"
    must_match JAXLLM_LABELS '^([a-z][a-z0-9_-]*=[a-z0-9_-]*(,[a-z][a-z0-9_-]*=[a-z0-9_-]*)*)?$' \
        "key=value,key=value in small letters, digits, _ and -"
    for name in JAXLLM_BUCKET JAXLLM_RUN_DIR JAXLLM_CACHE; do
        must_match "$name" '^gs://[a-z0-9][a-z0-9._-]+(/[^ ]+)?$' \
            "gs://BUCKET or gs://BUCKET/FOLDER; the disks of a slice end with it"
    done
    for name in JAXLLM_SLICES JAXLLM_LOST_LOOKS JAXLLM_DELETE_TRIES; do
        must_match "$name" '^[1-9][0-9]*$' "a whole number from 1"
    done
    for name in JAXLLM_MAX_RESTARTS JAXLLM_MAX_BACKOFF JAXLLM_ANSWER_WAIT JAXLLM_STOP_WAIT \
        JAXLLM_APT_WAIT; do
        must_match "$name" '^(0|[1-9][0-9]*)$' "a whole number from 0"
    done
    must_match JAXLLM_POLL '^[0-9]+([.][0-9]+)?$' "seconds"
    check_accelerator
}

must_match() { # NAME PATTERN ALLOWED
    if ! [[ "${!1}" =~ $2 ]]; then
        fail 2 "$1='${!1}': give $3 (in $SETTINGS_FILE or the environment)"
    fi
}

# Puts gcloud's name for v5e in place, and the image that fits the generation.
check_accelerator() {
    local given=$JAXLLM_ACCELERATOR image
    case $given in
        v5e-*) JAXLLM_ACCELERATOR=v5litepod-${given#v5e-} ;;
        tpu7x* | v7x*)
            fail 2 "JAXLLM_ACCELERATOR='$given': tpu7x is made by GKE only; see tpu/gke"
            ;;
    esac
    case $JAXLLM_ACCELERATOR in
        v4-*) image=tpu-ubuntu2204-base ;;
        v5litepod-*) image=v2-alpha-tpuv5-lite ;;
        v5p-*) image=v2-alpha-tpuv5 ;;
        v6e-*) image=v2-alpha-tpuv6e ;;
        *) fail 2 "JAXLLM_ACCELERATOR='$given': give v4-N, v5litepod-N, v5p-N or v6e-N" ;;
    esac
    must_match JAXLLM_ACCELERATOR '^[a-z0-9]+-[1-9][0-9]*$' "a kind and a size, such as v5litepod-16"
    : "${JAXLLM_RUNTIME:=$image}"
}

# RUN: config and overrides as the hosts get them; the command line's come last, and so win.
set_run() {
    local words word
    words=$(printf '%s\n' "$JAXLLM_OVERRIDES" | xargs -n 1 printf '%s\n') ||
        fail 2 "JAXLLM_OVERRIDES='$JAXLLM_OVERRIDES': a quote that is not closed"
    RUN=("$JAXLLM_CONFIG" "run_dir=$JAXLLM_RUN_DIR" "compilation_cache=$JAXLLM_CACHE")
    while IFS= read -r word; do
        if [ -n "$word" ]; then RUN+=("$word"); fi
    done <<<"$words"
    RUN+=(${EXTRA_OVERRIDES[@]+"${EXTRA_OVERRIDES[@]}"})
    for word in "${RUN[@]:1}"; do
        case $word in
            run_dir=*) JAXLLM_RUN_DIR=${word#run_dir=} ;;
            *=*) ;;
            *) fail 2 "'$word' is no override; give key.path=value" ;;
        esac
    done
}
