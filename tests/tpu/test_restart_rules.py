"""The babysitter's rule for the end of a slice is the launcher's for the end of its processes."""

import random
import subprocess

from jaxllm.commands.restarts import Restarts

from .cloud import ROOT

_SHELL = """
JAXLLM_MAX_RESTARTS=$1 JAXLLM_MAX_BACKOFF=$2
source tpu/restarts.sh
NEWEST_SEEN=$3
while read -r newest codes; do
    judge "$newest" $codes
    echo "$VERDICT $PAUSE"
done
"""
CODES = [0, 0, 75, 75, 75, 1, -9, 137, 255, 3, 2, 130]


def test_the_rules_are_equal():
    """For any ends of any slices: the exit code, whether it goes on, and the pause before that."""
    rng = random.Random(0)
    for _ in range(40):
        restarts, backoff = rng.choice([0, 1, 2, 10, 40]), rng.choice([0, 1, 5, 60, 10**7])
        first = rng.choice([None, 0, 7])
        ends, newest = [], first
        for _ in range(rng.choice([5, 50])):
            if rng.random() < 0.3:
                newest = rng.choice([newest, (newest or 0) + rng.randrange(3)])
            codes = [
                rng.choice(CODES[:-2] if rng.random() < 0.95 else CODES)
                for _ in range(rng.choice([1, 2, 4]))
            ]
            ends.append((newest, codes))
        rule = Restarts(max_restarts=restarts, max_backoff=backoff, newest_step=first)
        verdicts = [rule.after(codes, newest_step=newest) for newest, codes in ends]
        expected = [
            f"{'again' if verdict.exit_code is None else verdict.exit_code} {verdict.pause:g}"
            for verdict in verdicts
        ]
        assert judged(ends, restarts, backoff, first) == [
            words.replace("1e+07", "10000000") for words in expected
        ]


def judged(ends, restarts, backoff, first):
    """What the shell says of each end, in turn."""
    lines = "".join(
        f"{number(newest)} {' '.join(map(shell_code, codes))}\n" for newest, codes in ends
    )
    ended = subprocess.run(
        ["bash", "-uc", _SHELL, "bash", str(restarts), str(backoff), str(number(first))],
        cwd=ROOT,
        input=lines,
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stderr == ""
    return ended.stdout.splitlines()


def number(step):
    """A step as the shell has it, which knows no None."""
    return -1 if step is None else step


def shell_code(code):
    """An exit code as a shell has it: 128 and the signal's number for a signal."""
    return str(128 - code if code < 0 else code)
