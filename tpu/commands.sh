# Sourced by the scripts beside it: what they say, and the commands that they run or only show.

# shellcheck shell=bash disable=SC2034,SC2153,SC2154  # its variables are those of who sources it

DRY_RUN=0

say() { # WORDS...: one line about what happens, on stderr; nothing does in a dry run
    local now
    if [ "$DRY_RUN" = 1 ]; then return; fi
    now=$(date '+%Y-%m-%d %H:%M:%S')
    # Where nobody reads any more, what is paid for must still be deleted.
    printf '%s %s: %s\n' "$now" "$(basename "$0" .sh)" "$*" >&2 || true
}

fail() { # CODE WORDS...
    local code=$1
    shift
    printf 'error: %s\n' "$*" >&2
    exit "$code"
}

# The comment at the head of a script is its help.
show_help() {
    sed -n '2,/^$/s/^# \{0,1\}//p' "$0"
}

# Takes an option that all scripts have; CONSUMED: how many words it was.
take_option() {
    CONSUMED=1
    case $1 in
        -h | --help)
            show_help
            exit 0
            ;;
        --dry-run) DRY_RUN=1 ;;
        --settings)
            SETTINGS_FILE=${2:-}
            if [ -z "$SETTINGS_FILE" ]; then fail 2 "--settings needs a file"; fi
            CONSUMED=2
            ;;
        *) fail 2 "there is no '$1' here; --help shows what there is" ;;
    esac
}

# A command line as it could be typed.
quoted() {
    local word line='' quote="'\\''"
    for word in "$@"; do
        if ! [[ $word =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]]; then
            word="'${word//\'/$quote}'"
        fi
        line+="$word "
    done
    printf '%s\n' "${line% }"
}

# Runs a command; a dry run shows it.
call() {
    if [ "$DRY_RUN" = 1 ]; then
        quoted "$@"
    else
        "$@"
    fi
}

# Runs a command that asks for something. ANSWER: its stdout, PROBLEM: its stderr. A dry run shows
# the command and takes the first argument for the answer.
ask() {
    local assumed=$1 code=0
    shift
    if [ "$DRY_RUN" = 1 ]; then
        quoted "$@"
        ANSWER=$assumed PROBLEM=
        return 0
    fi
    # A signal does not wait for an answer: `wait` ends at once, and what was begun is ended. Its
    # files are its own: what is asked after a signal must not read what the other still writes.
    ASKED=$((ASKED + 1))
    local files=$SCRATCH/ask-$ASKED
    begin "$@" >"$files.answer" 2>"$files.errors"
    wait $! || code=$?
    BEGUN=()
    ANSWER=$(cat "$files.answer")
    PROBLEM=$(cat "$files.errors")
    rm -f "$files".*
    return "$code"
}

# A pause that a signal ends almost at once; fractions of a second are for tests.
pause() { # SECONDS
    local end
    if [ "$DRY_RUN" = 1 ]; then return; fi
    if [[ $1 == *.* ]]; then
        sleep "$1"
        return
    fi
    end=$((SECONDS + $1))
    while ((SECONDS < end)); do sleep 0.2; done
}

BEGUN=()
ASKED=0

# Begins a command in a process group of its own, by which it ends with all that it started.
begin() { # COMMAND...
    set -m
    "$@" </dev/null &
    set +m
    BEGUN+=($!)
}

# Waits until all that was begun has ended, and ends what has not after so many seconds; without a
# number it waits for as long as it takes.
await_begun() { # [SECONDS]
    local end=$((SECONDS + ${1:-0})) process
    for process in ${BEGUN[@]+"${BEGUN[@]}"}; do
        while (($#)) && kill -0 "$process" 2>/dev/null && ((SECONDS < end)); do sleep 0.1; done
        if (($#)); then kill -TERM -- "-$process" 2>/dev/null || true; fi
        wait "$process" 2>/dev/null || true
    done
    BEGUN=()
}

make_scratch() {
    SCRATCH=$(mktemp -d)
    trap 'await_begun 0; rm -rf "$SCRATCH"' EXIT
}
