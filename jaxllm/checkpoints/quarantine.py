"""Corrupt checkpoints are found, moved aside and kept; the newest sound one is what a run has."""

from collections.abc import Callable
from pathlib import Path

import jax

from jaxllm.checkpoints.agreement import gathered, together
from jaxllm.checkpoints.corrupt import CheckpointCorrupt
from jaxllm.checkpoints.faults import read_with_patience
from jaxllm.checkpoints.folders import folder_of
from jaxllm.checkpoints.manifest import Damage, find_damage

# Seconds between looks at files that are missing. Clients of a network file system hold on to what
# they know of a directory, for up to a minute.
LATE_VIEW = (1.0, 10.0, 50.0)


def shared_damage(folder: Path, step: int, *, sleep: Callable[[float], None]) -> Damage | None:
    """What is wrong with a checkpoint, each process reading its share of the files.

    All processes call it and get the same answer: one that was restored on some of them alone
    would be two runs in one. OSError on all of them if one cannot read.
    """
    share, shares = jax.process_index(), jax.process_count()

    def look() -> list[Damage]:
        damage = find_damage(folder / str(step), share=share, shares=shares)
        return [] if damage is None else [damage]

    own = together(lambda: _sure_of(look, folder, sleep=sleep))
    told = gathered("\n".join(own[0]) if own else "")
    return next((Damage(*text.split("\n", 1)) for text in told if text), None)


def _sure_of(
    look: Callable[[], list[Damage]], folder: Path, *, sleep: Callable[[float], None]
) -> list[Damage]:
    """What `look` finds. Where it is that something is missing, which another process may have
    written, it looks again after pauses."""
    pauses = LATE_VIEW if jax.process_count() > 1 else ()
    for pause in (*pauses, None):
        found = read_with_patience(look, folder, sleep=sleep)
        if pause is None or not any(damage.is_missing for damage in found):
            return found
        sleep(pause)
    raise AssertionError("unreachable")


def keep_sound(
    folder: Path, *, say: Callable[[str], None], sleep: Callable[[float], None]
) -> int | None:
    """Move aside what is corrupt, remove what is incomplete, and give the newest sound checkpoint.

    None if there are no checkpoints. Of those older than the sound one only small files are read:
    enough to know that they are whole. CheckpointCorrupt if there are checkpoints and none is
    sound; then nothing is moved, so that the next start does not take the run for a new one.
    All processes call it together.
    """
    if jax.process_index() == 0:
        folder_of(folder).remove_incomplete()
    steps = _agreed_steps(folder)
    damages: dict[int, Damage] = {}
    newest = None
    while steps and newest is None:
        step = steps.pop()
        damage = shared_damage(folder, step, sleep=sleep)
        if damage is None:
            newest = step
        else:
            damages[step] = damage
    if newest is None and damages:
        raise CheckpointCorrupt(
            folder,
            damages,
            "No checkpoint is left to go on from and nothing was changed: bring one back, or "
            "start anew with another run_dir",
        )
    if jax.process_index() == 0:
        damages |= _damages_at_a_glance(folder, below=newest or 0, sleep=sleep)
        for step, damage in sorted(damages.items()):
            moved = folder_of(folder).set_aside(step)
            say(f"checkpoint {step} is corrupt: {damage}; moved to {moved}")
        if damages:
            say(f"checkpoint {newest} is the newest sound one")
    gathered("")  # nobody reads the folder before the first process is done with it
    return newest


def discard(folder: Path, steps: list[int]) -> None:
    """Delete what there is of checkpoints, the newest first; a kill leaves each whole or none.

    All processes call it together; OSError on all of them.
    """

    def remove() -> None:
        there = folder_of(folder).steps() if jax.process_index() == 0 else []
        for step in sorted({*steps} & {*there}, reverse=True):
            folder_of(folder).discard(step)

    together(remove)


def _damages_at_a_glance(
    folder: Path, *, below: int, sleep: Callable[[float], None]
) -> dict[int, Damage]:
    found: dict[int, Damage] = {}

    def look() -> list[Damage]:
        steps = [step for step in folder_of(folder).steps() if step < below]
        looked = {step: find_damage(folder / str(step), is_deep=False) for step in steps}
        found.clear()
        found.update((step, damage) for step, damage in looked.items() if damage is not None)
        return list(found.values())

    _sure_of(look, folder, sleep=sleep)
    return found


def _agreed_steps(folder: Path) -> list[int]:
    newest = " ".join(map(str, folder_of(folder).steps()[-100:]))
    # As the first process sees them: a network file system may show others something older.
    return [int(step) for step in gathered(newest)[0].split()]
