# Sourced by the scripts beside it: what is done on all hosts of the slices, and what they answer.
#
# gcloud's exit code says little of several hosts, so the host scripts answer with lines that begin
# with `jaxllm-host SLICE.WORKER`, and what counts is that every host has answered.

# shellcheck shell=bash disable=SC2034,SC2153,SC2154  # its variables are those of who sources it

# CODE: the folder of the commit on the hosts. Nothing runs that is not in a commit.
resolve_commit() {
    local file
    REPOSITORY=$(dirname "$TPU_FOLDER")
    if [ -z "$JAXLLM_COMMIT" ]; then
        if [ -n "$(git -C "$REPOSITORY" status --porcelain --untracked-files=no)" ]; then
            fail 2 "files differ from the last commit, which is what the hosts would get:" \
                "commit them, or name a commit by JAXLLM_COMMIT (HEAD for the last one)"
        fi
        JAXLLM_COMMIT=HEAD
    fi
    COMMIT=$(git -C "$REPOSITORY" rev-parse --verify --quiet "$JAXLLM_COMMIT^{commit}") ||
        fail 2 "JAXLLM_COMMIT='$JAXLLM_COMMIT' is no commit of this repository"
    file=$JAXLLM_CONFIG
    case $file in
        */* | *.yaml) ;;
        *) file=configs/$file.yaml ;;
    esac
    git -C "$REPOSITORY" cat-file -e "$COMMIT:$file" 2>/dev/null ||
        fail 2 "JAXLLM_CONFIG='$JAXLLM_CONFIG': commit ${COMMIT:0:12} has no $file;" \
            "give a config within the repository and commit it"
    CODE=jaxllm-${COMMIT:0:12}
}

# Puts the commit on every host and installs what it needs; nothing is done twice. 1 if a host failed.
set_up_hosts() {
    local archive=$SCRATCH/$CODE.tar.gz number
    call git -C "$REPOSITORY" archive --format=tar.gz "--prefix=$CODE/" -o "$archive" "$COMMIT"
    say "setting up $HOSTS hosts with commit ${COMMIT:0:12}"
    for number in "${!NODES[@]}"; do
        begin call gcloud compute tpus tpu-vm scp "$archive" "${NODES[number]}:" "${WHERE[@]}" \
            --worker=all --quiet --scp-flag=-oConnectTimeout=15 \
            --scp-flag=-oServerAliveInterval=15 >"$SCRATCH/scp.$number" 2>&1
    done
    await_begun
    if [ "$DRY_RUN" = 1 ]; then cat "$SCRATCH"/scp.*; fi
    if ! on_hosts live "tar -xzf $CODE.tar.gz && bash $CODE/tpu/host_setup.sh $(host_options) \
--apt-wait $JAXLLM_APT_WAIT" || ! all_answered "setup ok"; then
        tail -n 5 "$SCRATCH"/scp.* >&2
        say "not every host could be set up"
        return 1
    fi
}

# Starts the run on every host. 2 if another one is under way there; 1 if a host failed.
start_run() {
    on_hosts "$JAXLLM_ANSWER_WAIT" \
        "bash $CODE/tpu/host_run.sh start $(host_options) -- $(quoted "${RUN[@]}")" || return 1
    if all_answered "run started" "run already"; then
        say "the run goes on by itself on $HOSTS hosts: $(quoted "${RUN[@]}")"
        return 0
    fi
    if [[ $ANSWERS == *"run refused"* ]]; then
        say "end it by tpu/run.sh --stop, or give this run a slice of its own by JAXLLM_NAME"
        return 2
    fi
    return 1
}

# Asks the run on every host to save and end, and waits for that.
stop_run() {
    on_hosts $((JAXLLM_STOP_WAIT + JAXLLM_ANSWER_WAIT)) \
        "bash jaxllm/tpu/host_run.sh stop $(host_options) --wait $JAXLLM_STOP_WAIT" || return 1
    printf '%s\n' "$ANSWERS" >&2
    all_answered stopped
}

# ANSWERS: how the run is on every host. LINES: of the end of its log, each for people on stderr.
look_at_run() { # LINES
    on_hosts "$JAXLLM_ANSWER_WAIT" "bash jaxllm/tpu/host_run.sh status $(host_options) --lines $1"
}

# Shows the log of every host as it grows, until the run ends.
stream_logs() { # LINES
    local number
    for number in "${!NODES[@]}"; do
        ssh_command "$number" "bash jaxllm/tpu/host_run.sh follow $(host_options) --lines $1"
        if [ "$DRY_RUN" = 1 ]; then
            quoted "${SSH[@]}"
        else
            begin "${SSH[@]}" 2>"$SCRATCH/err.$number"
        fi
    done
    await_begun
    if [ "$DRY_RUN" = 0 ]; then grep -h '^ERROR' "$SCRATCH"/err.* >&2 || true; fi
}

# What every host script is told; @SLICE@ is the number of the slice.
host_options() { printf '%s' "--slice @SLICE@ --slices $JAXLLM_SLICES"; }

# SSH: the command that runs another on every host of a node. A host that is gone must not hold it up.
ssh_command() { # NUMBER COMMAND
    SSH=(gcloud compute tpus tpu-vm ssh "${NODES[$1]}" "${WHERE[@]}" --worker=all --quiet
        --ssh-flag=-oConnectTimeout=15 --ssh-flag=-oServerAliveInterval=15
        "--command=${2//@SLICE@/$1}")
}

# Runs a command on every host of all nodes at once. ANSWERS: the last answer of each host. The first
# argument is how many seconds they have, or `live`: as long as it takes, and what else they say is
# shown. 1 if a host gives no answer.
on_hosts() { # live|SECONDS COMMAND
    local number
    ANSWERS='' SAID=''
    rm -f "$SCRATCH"/out.* "$SCRATCH"/err.*
    for number in "${!NODES[@]}"; do
        ssh_command "$number" "$2"
        if [ "$DRY_RUN" = 1 ]; then
            quoted "${SSH[@]}"
        elif [ "$1" = live ]; then
            begin show_lines "$number" 3>&2 2>"$SCRATCH/err.$number"
        else
            begin "${SSH[@]}" >"$SCRATCH/out.$number" 2>"$SCRATCH/err.$number"
        fi
    done
    if [ "$DRY_RUN" = 1 ]; then return 0; fi
    if [ "$1" = live ]; then await_begun; else await_begun "$1"; fi
    gather_answers
}

# Runs the command in SSH and shows what it says, answers aside, on file descriptor 3.
show_lines() { # NUMBER
    local line
    "${SSH[@]}" | while IFS= read -r line; do
        printf '%s\n' "$line" >>"$SCRATCH/out.$1"
        case $line in "jaxllm-host "*) ;; *) printf '%s\n' "$line" >&3 ;; esac
    done
}

gather_answers() {
    local count
    touch "$SCRATCH/out.none"
    ANSWERS=$(awk '/^jaxllm-host / { last[$2] = $0 } END { for (host in last) print last[host] }' \
        "$SCRATCH"/out.* | sort -V)
    SAID=$(grep -hv '^jaxllm-host ' "$SCRATCH"/out.* | sort -s -V -k 1,1) || true
    count=0
    if [ -n "$ANSWERS" ]; then count=$(printf '%s\n' "$ANSWERS" | wc -l); fi
    if ((count < HOSTS)); then
        if [ -n "$ANSWERS" ]; then printf '%s\n' "$ANSWERS" >&2; fi
        tail -qn 5 "$SCRATCH"/err.* >&2
        say "only $((count)) of $HOSTS hosts answered"
        return 1
    fi
}

# Whether each answer is one of these.
all_answered() { # WORDS...
    local answer words known
    if [ "$DRY_RUN" = 1 ]; then return 0; fi
    while IFS= read -r answer; do
        known=0
        for words in "$@"; do
            case $answer in "jaxllm-host "*" $words"*) known=1 ;; esac
        done
        if ((!known)); then
            say "$answer"
            return 1
        fi
    done <<<"$ANSWERS"
}
