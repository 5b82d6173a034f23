# Sourced by babysit.sh: whether a slice whose run ended is made again. The rule is that of
# jaxllm/commands/restarts.py, and a test compares the two.

# shellcheck shell=bash disable=SC2034,SC2153,SC2154  # its variables are those of who sources it

TRIES=0        # in a row without a newer checkpoint
NEWEST_SEEN=-1 # step of the newest checkpoint so far

# judge NEWEST CODE...: the verdict on hosts that ended with these codes; NEWEST: step of the newest
# checkpoint, -1 if there is none. VERDICT: the exit code of the whole, or `again`; PAUSE: seconds
# before that; WORDS: for a person.
judge() {
    local newest=$1 code worst=75 failed=0
    shift
    PAUSE=0
    for code in "$@"; do
        if ((code == 2)); then
            VERDICT=2 WORDS="it cannot work as it was given; ending"
            return
        fi
    done
    for code in "$@"; do
        if ((code == 130)); then
            VERDICT=130 WORDS="interrupted by ctrl-C; ending"
            return
        fi
        if ((code != 0)); then failed=1; fi
        if ((code != 0 && code != 75)); then worst=1; fi
    done
    if ((!failed)); then
        VERDICT=0 WORDS="the run is done"
        return
    fi
    if ((newest > NEWEST_SEEN)); then
        NEWEST_SEEN=$newest TRIES=0
    fi
    if ((TRIES >= JAXLLM_MAX_RESTARTS)); then
        VERDICT=$worst WORDS="giving up: $TRIES slices in a row without a newer checkpoint"
        return
    fi
    PAUSE=$((1 << (TRIES < 40 ? TRIES : 40))) # more bits would overflow in the end
    if ((PAUSE > JAXLLM_MAX_BACKOFF)); then PAUSE=$JAXLLM_MAX_BACKOFF; fi
    TRIES=$((TRIES + 1))
    VERDICT=again WORDS="again in $PAUSE s (try $TRIES of $JAXLLM_MAX_RESTARTS)"
}
