"""Corrupt checkpoints are found, moved aside and kept; the newest sound one is what a run has."""

import os
from collections.abc import Callable
from pathlib import Path

import jax

from jaxllm.checkpoints.agreement import gathered
from jaxllm.checkpoints.commit import TEMPORARY, remove_temporary
from jaxllm.checkpoints.corrupt import CheckpointCorrupt
from jaxllm.checkpoints.faults import read_with_patience
from jaxllm.checkpoints.manifest import Damage, find_damage

QUARANTINE = "quarantine"  # beside the checkpoints; no step has such a name


def step_folders(folder: Path) -> list[int]:
    """The steps that have a folder, sound or not, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())


def shared_damage(folder: Path, step: int, *, sleep: Callable[[float], None]) -> Damage | None:
    """What is wrong with a checkpoint, each process reading its share of the files.

    All processes call it and get the same answer: one that was restored on some of them alone
    would be two runs in one. OSError on all of them if one cannot read.
    """
    own, refusal = None, None
    try:
        own = read_with_patience(
            lambda: find_damage(
                folder / str(step), share=jax.process_index(), shares=jax.process_count()
            ),
            folder,
            sleep=sleep,
        )
    except OSError as error:
        refusal = error
    told = gathered("\n".join(own) if own else "" if refusal is None else f"\n{refusal}")
    if refusal is not None:
        raise refusal
    found = [Damage(*text.split("\n", 1)) for text in told if text]
    refused = [damage.problem for damage in found if not damage.file]
    if refused:
        raise OSError(f"another process says: {refused[0]}")
    return found[0] if found else None


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
        remove_temporary(folder)
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
            moved = _set_aside(folder, step)
            say(f"checkpoint {step} is corrupt: {damage}; moved to {moved}")
        if damages:
            say(f"checkpoint {newest} is the newest sound one")
    gathered("")  # nobody reads the folder before the first process is done with it
    return newest


def discard(folder: Path, steps: list[int]) -> None:
    """Delete checkpoints, the newest first; a kill leaves each whole or none by its name.

    All processes call it together.
    """
    if jax.process_index() == 0:
        for step in sorted(steps, reverse=True):
            (folder / str(step)).rename(folder / f"{step}{TEMPORARY}")
            remove_temporary(folder, step)
    gathered("")


def _damages_at_a_glance(
    folder: Path, *, below: int, sleep: Callable[[float], None]
) -> dict[int, Damage]:
    steps = [step for step in step_folders(folder) if step < below]

    def look() -> dict[int, Damage | None]:
        return {step: find_damage(folder / str(step), is_deep=False) for step in steps}

    found = read_with_patience(look, folder, sleep=sleep)
    return {step: damage for step, damage in found.items() if damage is not None}


def _agreed_steps(folder: Path) -> list[int]:
    newest = " ".join(map(str, step_folders(folder)[-100:]))
    # As the first process sees them: a network file system may show others something older.
    return [int(step) for step in gathered(newest)[0].split()]


def _set_aside(folder: Path, step: int) -> Path:
    quarantine = folder / QUARANTINE
    quarantine.mkdir(exist_ok=True)
    taken = set(os.listdir(quarantine))
    names = (str(step) if n == 0 else f"{step}-{n}" for n in range(len(taken) + 1))
    target = quarantine / next(name for name in names if name not in taken)
    (folder / str(step)).rename(target)
    return target
