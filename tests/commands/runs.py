"""Tiny runs: their configs, how they are started, and what they leave behind."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from jaxllm.commands.train import train
from jaxllm.config import load_config

ROWS = 8

IDS_CONFIG = """
run_dir: {folder}/run
model: {{num_layers: 2, embed_dim: 32, num_heads: 2, mlp_dim: 32, dropout: 0.1}}
data:
  sequence_length: 16
  global_batch_size: 8
  root: {folder}/root
  datasets:
    ids: {{type: bin, train: {folder}/train.bin, vocab_size: 60, delimiter_id: 0}}
optim: {{type: adamw, learning_rate: 0.01, schedule: {{type: constant, warmup_steps: 2}}}}
training: {{steps: 8, ema: {{decay: 0.5}}}}
checkpoints: {{every: 3, keep_latest: 2}}
compilation_cache: {folder}/compiled
"""

TEXT_CONFIG = """
run_dir: {folder}/run
model: {{num_layers: 2, embed_dim: 32, num_heads: 2, mlp_dim: 32}}
data:
  sequence_length: 32
  global_batch_size: 8
  root: {folder}/root
  tokenizer: {{type: byte}}
  datasets:
    plain: {{type: corpus, validation_every: 4, corpus: {{type: text, paths: ["{folder}/a/*"]}}}}
    other: {{type: corpus, validation_every: 2, corpus: {{type: text, paths: ["{folder}/b/*"]}},
             weight: 0}}
optim: {{type: adamw, learning_rate: 0.01, schedule: {{type: cosine, warmup_steps: 2}}}}
training: {{steps: 6, ema: {{decay: 0.5}}}}
checkpoints: {{every: 2, keep_latest: 2}}
evaluation: {{every: 3}}
samples: {{every: 3, prompts: ["the ", "war"], sampling: {{max_tokens: 4, temperature: 0}}}}
profile: {{start: 3, steps: 1}}
compilation_cache: {folder}/compiled
"""


def write_ids(folder, *, num_ids=4096):
    """A file of random ids below 60, about one in twenty of them the delimiter."""
    rng = np.random.default_rng(0)
    ids = rng.integers(1, 60, num_ids).astype(np.uint16)
    ids[rng.random(num_ids) < 0.05] = 0
    ids[0] = 0
    ids.tofile(folder / "train.bin")


def start(config: Path, run_dir: Path, *overrides: str, requested: Sequence[str] = ()) -> int:
    """Train in this process; the exit code."""
    return train(load_config(config, [f"run_dir={run_dir}", *overrides]), requested=requested)


def command(*arguments: object) -> list[str]:
    """The command line that runs jaxllm in a process of its own."""
    return [sys.executable, "-m", "jaxllm.cli", *map(str, arguments)]


def environment(*, devices: int = 8, **more: str) -> dict[str, str]:
    """The variables of such a process; with 8 devices it computes what this process does."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    return {
        **kept,
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        **more,
    }


def run_script(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a Python script in a process of its own, to its end."""
    return subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )


def records(run_dir: Path) -> list[dict]:
    """Every record of metrics.jsonl."""
    lines = (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def losses(run_dir: Path) -> list[tuple[int, float]]:
    """(step, loss) of every training record in the order of the file."""
    return [(record["step"], record["loss"]) for record in records(run_dir) if "loss" in record]


def computed(run_dir: Path) -> list[dict]:
    """The training records without what a clock or a memory meter says."""
    keys = ("step", "loss", "objective", "gradient_norm", "learning_rate", "num_tokens")
    return [{key: record[key] for key in keys} for record in records(run_dir) if "loss" in record]


def computed_fully(run_dir: Path) -> list[dict]:
    """The training records."""
    return [record for record in records(run_dir) if "loss" in record]


def tensorboard_steps(run_dir: Path, tag: str = "loss") -> list[int]:
    """The steps at which the event files hold `tag`, in the order of the files."""
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

    return [
        event.step
        for path in sorted((run_dir / "tensorboard").iterdir())
        for event in LegacyEventFileLoader(str(path)).Load()
        for value in event.summary.value
        if value.tag == tag
    ]


def checkpoints(run_dir: Path) -> list[int]:
    """The steps whose checkpoints are complete, oldest first."""
    folder = run_dir / "checkpoints"
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())


def arrays(run_dir: Path, step: int) -> dict[str, np.ndarray]:
    """Every array of a checkpoint (weights, their average, optimizer state) by its path."""
    import orbax.checkpoint as ocp

    found = {}
    for item in ("params", "opt"):
        folder = (run_dir / "checkpoints" / str(step) / item).absolute()
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            leaves = checkpointer.metadata(folder).item_metadata.tree
            # Whatever devices and processes it is of.
            as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), leaves)
            tree = checkpointer.restore(folder, restore_args=as_numpy)
        for path, leaf in jax.tree.flatten_with_path(tree)[0]:
            found[item + jax.tree_util.keystr(path)] = np.asarray(leaf)
    return found


def data_position(run_dir: Path, step: int) -> dict:
    """The `data` item of a checkpoint."""
    path = run_dir / "checkpoints" / str(step) / "data" / "metadata"
    return json.loads(path.read_text(encoding="utf-8"))


def assert_same_run(run_dir: Path, other: Path, *, step: int) -> None:
    """Both runs computed the same, bit for bit, each step once, and saved the same at `step`."""
    assert computed(run_dir) == computed(other)
    assert [at for at, _ in losses(run_dir)] == list(range(1, step + 1))
    assert tensorboard_steps(run_dir) == list(range(1, step + 1))
    assert data_position(run_dir, step) == data_position(other, step)
    saved, expected = arrays(run_dir, step), arrays(other, step)
    assert saved.keys() == expected.keys()
    for path, array in expected.items():
        assert array.dtype == saved[path].dtype, path
        assert array.tobytes() == saved[path].tobytes(), path


def contents(folder: Path) -> dict[str, bytes]:
    """Every file under a folder with what is in it."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}
