# Sourced by the scripts beside it: the queued resource with its nodes, from its request to its end.
#
# States: https://cloud.google.com/tpu/docs/queued-resources

# shellcheck shell=bash disable=SC2034,SC2153,SC2154  # its variables are those of who sources it

set_names() {
    local number
    WHERE=("--project=$JAXLLM_PROJECT" "--zone=$JAXLLM_ZONE")
    NODES=("$JAXLLM_NAME")
    if ((JAXLLM_SLICES > 1)); then
        NODES=()
        for ((number = 0; number < JAXLLM_SLICES; number++)); do
            NODES+=("$JAXLLM_NAME-$number")
        done
    fi
}

# Asks for the slices. 0: asked for, or asked for before; 2: what a setting must change; 1: else.
# IS_STRANGER: whether the name is that of another's, which must not be deleted.
request_slice() {
    local command=(gcloud compute tpus queued-resources create "$JAXLLM_NAME" "${WHERE[@]}"
        "--accelerator-type=$JAXLLM_ACCELERATOR" "--runtime-version=$JAXLLM_RUNTIME")
    if ((JAXLLM_SLICES > 1)); then
        command+=("--node-count=$JAXLLM_SLICES" "--node-prefix=$JAXLLM_NAME")
    else
        command+=("--node-id=$JAXLLM_NAME")
    fi
    case $JAXLLM_CAPACITY in
        spot) command+=(--spot) ;;
        reserved) command+=(--reserved) ;;
    esac
    if [ -n "$JAXLLM_SERVICE_ACCOUNT" ]; then
        command+=("--service-account=$JAXLLM_SERVICE_ACCOUNT")
    fi
    command+=("--labels=jaxllm=$JAXLLM_NAME${JAXLLM_LABELS:+,$JAXLLM_LABELS}")
    if [ -n "$JAXLLM_VALID_FOR" ]; then command+=("--valid-until-duration=$JAXLLM_VALID_FOR"); fi
    IS_STRANGER=0
    say "asking for $JAXLLM_SLICES x $JAXLLM_ACCELERATOR ($JAXLLM_CAPACITY) in $JAXLLM_ZONE"
    if ask "" "${command[@]}" --quiet; then
        IS_ANSWERED=1
        return 0
    fi
    explain_refusal
}

# Says which setting the refusal in PROBLEM is about; the code as of request_slice.
explain_refusal() {
    local setting
    printf '%s\n' "$PROBLEM" >&2
    case $PROBLEM in
        *ALREADY_EXISTS* | *"already exists"*)
            if is_ours; then return 0; fi
            say "$JAXLLM_NAME exists in $JAXLLM_ZONE and was not made by these scripts:" \
                "change JAXLLM_NAME"
            IS_STRANGER=1
            return 2
            ;;
        *[Qq]uota* | *RESOURCE_EXHAUSTED*)
            say "no quota for JAXLLM_ACCELERATOR=$JAXLLM_ACCELERATOR" \
                "JAXLLM_CAPACITY=$JAXLLM_CAPACITY in JAXLLM_ZONE=$JAXLLM_ZONE: ask for more at" \
                "console.cloud.google.com/iam-admin/quotas (service tpu.googleapis.com), or change" \
                "one of the three; spot and on-demand have quota of their own"
            return 2
            ;;
        *PERMISSION_DENIED* | *UNAUTHENTICATED* | *"not have permission"* | *"auth login"*)
            setting="JAXLLM_PROJECT=$JAXLLM_PROJECT: log in with gcloud auth login, enable"
            setting+=" tpu.googleapis.com, and have roles/tpu.admin"
            ;;
        *ccelerator* | *INVALID_ARGUMENT* | *NOT_FOUND* | *"not found"* | *"not available"*)
            setting="JAXLLM_ACCELERATOR=$JAXLLM_ACCELERATOR, JAXLLM_RUNTIME=$JAXLLM_RUNTIME and"
            setting+=" JAXLLM_ZONE=$JAXLLM_ZONE: what this zone has is shown by gcloud compute tpus"
            setting+=" accelerator-types list --zone=$JAXLLM_ZONE (and versions list for the runtime)"
            ;;
        *) return 1 ;;
    esac
    say "look at $setting"
    return 2
}

# Whether the queued resource of this name carries our label.
is_ours() {
    ask "$JAXLLM_NAME" gcloud compute tpus queued-resources describe "$JAXLLM_NAME" "${WHERE[@]}" \
        "--format=value(tpu.nodeSpec[0].node.labels.jaxllm)" || return 1
    [ "$ANSWER" = "$JAXLLM_NAME" ]
}

# STATE: that of the queued resource, NONE if there is none, UNKNOWN if gcloud could not say.
# REASON: what is told of a failure.
look_at_slice() {
    REASON=
    if ask "${1:-ACTIVE}" gcloud compute tpus queued-resources describe "$JAXLLM_NAME" \
        "${WHERE[@]}" "--format=value(state.state,state.failedData.error.message)"; then
        STATE=${ANSWER%%$'\t'*}
        if [[ $ANSWER == *$'\t'* ]]; then REASON=${ANSWER#*$'\t'}; fi
        : "${STATE:=UNKNOWN}"
    else
        STATE=UNKNOWN REASON=$PROBLEM
        case $PROBLEM in
            *NOT_FOUND* | *"not found"*) STATE=NONE ;;
        esac
    fi
}

# Waits until the slices are there. 0: they are; 75: they will not be, another request may help.
wait_for_slice() {
    local seen=
    while :; do
        look_at_slice
        if [ "$STATE" != "$seen" ]; then say "$JAXLLM_NAME is $STATE${REASON:+: $REASON}"; fi
        seen=$STATE
        case $STATE in
            ACTIVE) return 0 ;;
            NONE | FAILED | SUSPENDING | SUSPENDED | DELETING) return 75 ;;
        esac
        pause "$JAXLLM_POLL"
    done
}

# Runs a command again while it fails with 1: a new host, and gcloud, may need a moment.
patiently() { # COMMAND...
    local look code
    for ((look = 1; ; look++)); do
        code=0
        "$@" || code=$?
        if ((code != 1 || look >= JAXLLM_LOST_LOOKS)); then return "$code"; fi
        pause "$JAXLLM_POLL"
    done
}

# HOSTS: how many hosts all nodes have. 75 and a line if a node was taken away; 1 if one is not ready,
# or gcloud does not say.
look_at_nodes() {
    local node state
    HOSTS=0
    for node in "${NODES[@]}"; do
        if ! ask $'READY\t1' gcloud compute tpus tpu-vm describe "$node" "${WHERE[@]}" \
            "--format=value(state,networkEndpoints.len())"; then
            case $PROBLEM in
                *NOT_FOUND* | *"not found"*) ANSWER=GONE ;;
                *)
                    say "gcloud does not say how $node is: $PROBLEM"
                    return 1
                    ;;
            esac
        fi
        state=${ANSWER%%$'\t'*}
        case $state in
            READY) ;;
            GONE | PREEMPTED | TERMINATED | STOPPING | STOPPED | DELETING)
                say "$node is $state"
                return 75
                ;;
            *)
                say "$node is $state, not READY"
                return 1
                ;;
        esac
        HOSTS=$((HOSTS + ${ANSWER##*$'\t'}))
    done
}

# Deletes the queued resource with its nodes, and looks that it is gone. 1 if it is still there.
delete_slice() {
    local try
    for ((try = 0; try < JAXLLM_DELETE_TRIES; try++)); do
        if ((try)); then pause "$JAXLLM_POLL"; fi
        ask "" gcloud compute tpus queued-resources delete "$JAXLLM_NAME" "${WHERE[@]}" \
            --force --quiet || true
        look_at_slice NONE
        if [ "$STATE" = NONE ]; then
            say "$JAXLLM_NAME is deleted"
            return 0
        fi
        say "$JAXLLM_NAME is still $STATE${REASON:+: $REASON}"
    done
    say "$JAXLLM_NAME COULD NOT BE DELETED and may cost money: run tpu/delete.sh"
    return 1
}

# The same for what this script asked for. As long as no request was answered, what bears the name
# may be somebody else's, and the label says whose it is. 1 if it may still be there, and be ours.
delete_ours() {
    if ((!IS_ANSWERED)); then
        look_at_slice NONE
        if [ "$STATE" = NONE ]; then return 0; fi
        if ! is_ours; then
            if [ -z "$PROBLEM" ]; then return 0; fi
            say "$JAXLLM_NAME may be there, and cost: run tpu/delete.sh. $PROBLEM"
            return 1
        fi
    fi
    delete_slice
}
