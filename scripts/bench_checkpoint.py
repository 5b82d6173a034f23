"""Times checkpoints of a state of a given size against a plain synced `np.save`.

    .venv/bin/python scripts/bench_checkpoint.py [--megabytes 500] [--repeat 5] [--json FILE]

Prints medians of: how long training stands still in `save`, the time until the checkpoint is on
disk, the time to restore it, and the peak memory beyond the state; beside them the time to write
the same arrays with `np.save` and fsync, and to load them.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import tempfile
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import psutil

from jaxllm.checkpoints import CheckpointConfig

_LEAVES = 12  # arrays in the state; like the stacked weights of a decoder


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--megabytes", type=int, default=500, help="size of the state")
    arguments.add_argument("--repeat", type=int, default=5, help="how often each is timed")
    arguments.add_argument("--folder", type=Path, help="where to write; default a temporary one")
    arguments.add_argument("--json", type=Path, help="also write the figures here")
    given = arguments.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="bench-checkpoint-", dir=given.folder))
    try:
        figures = measure(folder, make_state(given.megabytes), repeat=given.repeat)
    finally:
        shutil.rmtree(folder)
    figures["megabytes"] = given.megabytes
    for name, value in figures.items():
        print(f"{name:28} {value:10.3f}")
    if given.json:
        given.json.write_text(json.dumps(figures, indent=2) + "\n")


def make_state(megabytes: int) -> dict[str, jax.Array]:
    """Arrays of random numbers, so that no compressor has it easy."""
    size = megabytes * 1_000_000 // 4 // _LEAVES
    keys = jax.random.split(jax.random.key(0), _LEAVES)
    return {f"leaf_{i}": jax.random.normal(key, (size // 1000, 1000)) for i, key in enumerate(keys)}


def measure(folder: Path, state: dict[str, jax.Array], *, repeat: int) -> dict[str, float]:
    """Medians in seconds, memory in MB."""
    stalls, saves, restores, plain_saves, plain_loads = [], [], [], [], []
    peak = 0.0
    trainer = Trainer(state)
    abstract = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state
    )
    with CheckpointConfig(keep_latest=1).build(folder / "checkpoints") as store:
        for number in range(1, repeat + 1):
            step_seconds = statistics.median(trainer.step() for _ in range(5))
            with PeakMemory() as memory:
                begin = time.perf_counter()
                store.save(
                    number, params=trainer.state, opt={"step": jnp.zeros(())}, data={}, meta={}
                )
                # The next step counts too: it may have to wait for the arrays being saved.
                trainer.step()
                stalls.append(time.perf_counter() - begin - step_seconds)
                store.wait()
                os.sync()
                saves.append(time.perf_counter() - begin)
            peak = max(peak, memory.megabytes)
            begin = time.perf_counter()
            jax.block_until_ready(store.restore(number, "params", abstract))
            restores.append(time.perf_counter() - begin)

            arrays = {name: np.asarray(leaf) for name, leaf in trainer.state.items()}
            begin = time.perf_counter()
            for name, array in arrays.items():
                with (folder / f"{name}.npy").open("wb") as file:
                    np.save(file, array)
                    file.flush()
                    os.fsync(file.fileno())
            plain_saves.append(time.perf_counter() - begin)
            begin = time.perf_counter()
            for name in arrays:
                np.load(folder / f"{name}.npy")
            plain_loads.append(time.perf_counter() - begin)
            del arrays
    return {
        "training stands still (s)": statistics.median(stalls),
        "first stall (s)": stalls[0],
        "save until on disk (s)": statistics.median(saves),
        "restore (s)": statistics.median(restores),
        "np.save with fsync (s)": statistics.median(plain_saves),
        "np.load (s)": statistics.median(plain_loads),
        "save / np.save": statistics.median(saves) / statistics.median(plain_saves),
        "memory beyond the state (MB)": peak,
        "peak memory of process (MB)": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000,
    }


class Trainer:
    """The smallest training step: adds one to a donated state."""

    def __init__(self, state: dict[str, jax.Array]):
        self.state = state
        self._step = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)

    def step(self) -> float:
        """Seconds that a step took."""
        begin = time.perf_counter()
        self.state = jax.block_until_ready(self._step(self.state))
        return time.perf_counter() - begin


class PeakMemory:
    """The largest growth of resident memory inside the block, in MB, sampled every 5 ms."""

    def __enter__(self) -> "PeakMemory":
        self._process = psutil.Process()
        self._base = self._process.memory_info().rss
        self._top = self._base
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._done.wait(0.005):
            self._top = max(self._top, self._process.memory_info().rss)

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    @property
    def megabytes(self) -> float:
        """Largest growth since the block began."""
        return (self._top - self._base) / 1e6


if __name__ == "__main__":
    main()
