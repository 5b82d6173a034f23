# Sourced by the scripts that run on a host of a slice: which host this is, and how it answers.

# shellcheck shell=bash disable=SC2034,SC2153,SC2154  # its variables are those of who sources it

# Reads --slice and --slices, and what the scripts have besides. WORDS: what stands behind --.
read_host_options() {
    SLICE=0 SLICES=1 WORDS=()
    while (($#)); do
        case $1 in
            --slice) SLICE=$2 ;;
            --slices) SLICES=$2 ;;
            --apt-wait) APT_WAIT=$2 ;;
            --lines) LINES_BEFORE=$2 ;;
            --wait) STOP_WAIT=$2 ;;
            --)
                shift
                WORDS=("$@")
                break
                ;;
            *)
                echo "error: there is no '$1' here" >&2
                exit 2
                ;;
        esac
        shift 2
    done
    WORKER=$(ask_metadata agent-worker-number)
    PREFIX="[$WORKER] "
    if ((SLICES > 1)); then PREFIX="[$SLICE.$WORKER] "; fi
}

# An attribute of this virtual machine.
ask_metadata() { # KEY
    curl --silent --show-error --fail --max-time 10 --retry 3 -H "Metadata-Flavor: Google" \
        "http://${GCE_METADATA_IP:-metadata.google.internal}/computeMetadata/v1/instance/attributes/$1"
}

# A line for the script that asked; the last one counts.
answer() { # WORDS...
    printf 'jaxllm-host %s.%s %s\n' "$SLICE" "$WORKER" "$*"
}

# Puts the host in front of each line.
prefixed() {
    sed -u "s/^/$PREFIX/"
}
