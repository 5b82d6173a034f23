"""The end of a run: summary.json, and what a person is shown."""

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from jaxllm.commands import run_folder, run_records
from jaxllm.commands.console import Console
from jaxllm.config import RunConfig
from jaxllm.data import DataConfig, read_documents
from jaxllm.data.corpus import SplitName
from jaxllm.evaluation import Score
from jaxllm.evaluation.compression import xz_bits_per_byte
from jaxllm.parallel import distributed
from jaxllm.training.goodput_records import Kind


def is_complete(run_dir: Path, start: int, steps: int) -> bool:
    """Whether a run at step `start` of `steps` has its summary too."""
    summary = run_records.read_summary(run_dir)
    return start == steps and summary is not None and summary["steps"] == steps


def write_ending(
    run_dir: Path,
    config: RunConfig,
    *,
    score: Score | None,
    sample: str,
    task: Mapping[str, Any] = MappingProxyType({}),
    training_seconds: float,
    wall_seconds: float,
    goodput: Mapping[Kind, float] = MappingProxyType({}),
) -> None:
    """Write summary.json, on the first process.

    task: what is told of one. training_seconds: in steps alone; wall_seconds: in all; both
    over all starts of the run, up to what they saved. goodput: all wall time since the first start
    in seconds by kind, lost steps and dead time included.
    """
    if not distributed.is_first():
        return
    tokens_per_step = config.data.global_batch_size * config.data.sequence_length
    summary: dict[str, Any] = {
        "steps": config.training.steps,
        "tokens": config.training.steps * tokens_per_step,
        "validation_loss": None if score is None else score.loss,
        "validation_perplexity": None if score is None or task else score.perplexity,
        "validation_bits_per_byte": None if score is None else score.bits_per_byte,
        "tokens_per_second": config.training.steps * tokens_per_step / training_seconds,
        "wall_seconds": wall_seconds,
        "sample": sample,
        **task,
    }
    if goodput:
        summary["goodput"] = {kind: round(seconds, 3) for kind, seconds in goodput.items()}
    if config.evaluation.compare_xz:
        summary["xz_bits_per_byte"] = xz_bits_per_byte(*_raw_texts(config.data))
    run_records.write_summary(run_dir, summary)


def show_ending(run_dir: Path, console: Console) -> None:
    """Tell what came out, and the one next command to try."""
    summary = run_records.read_summary(run_dir)
    if summary is None:  # another process writes it
        return
    console.close()
    if summary["sample"]:
        console.say(f"\nsample      {' '.join(summary['sample'].split())}\n")
    console.say(
        f"done        {summary['steps']:,} steps, {summary['tokens']:,} tokens, "
        f"{summary['tokens_per_second']:,.0f} tokens/s, {summary['wall_seconds']:.0f} s in all"
    )
    if summary.get("goodput"):
        console.say(f"goodput     {_goodput(summary['goodput'])}")
    if summary["validation_loss"] is not None:
        console.say(f"validation  loss {float(summary['validation_loss']):.4f}")
    for line in summary.get("told", ()):
        console.say(line)
    if summary["validation_bits_per_byte"] is not None:
        line = f"            {float(summary['validation_bits_per_byte']):.4f} bits per byte"
        if "xz_bits_per_byte" in summary:
            line += f" (xz -9e on the same text: {summary['xz_bits_per_byte']:.4f})"
        console.say(line)
    place = run_folder.place_of(run_dir)
    console.say(f"run folder  {place}")
    console.say(f"next        {_command()} report {place}")


def _goodput(seconds: Mapping[str, float]) -> str:
    """The share of productive steps, and the largest of the others."""
    total = max(sum(seconds.values()), 1e-9)
    others = sorted((spent, kind) for kind, spent in seconds.items() if kind != "step")[::-1]
    shown = ", ".join(f"{kind} {spent / total:.1%}" for spent, kind in others[:3] if spent > 0)
    return f"{seconds['step'] / total:.1%} of {total:.0f} s in steps" + (shown and f"; {shown}")


def _command() -> str:
    """How this user calls jaxllm: by its name, or by its path where that is not on PATH."""
    if shutil.which("jaxllm"):
        return "jaxllm"
    return os.path.relpath(Path(sys.executable).with_name("jaxllm"))


def _raw_texts(data: DataConfig) -> tuple[bytes, bytes]:
    """The training and the validation text of all corpora, as UTF-8."""
    corpora = [dataset for dataset in data.datasets.values() if dataset.type == "corpus"]

    def text(split: SplitName) -> bytes:
        return b"".join(
            document.text.encode()
            for dataset in corpora
            for document in read_documents(
                dataset.corpus, split=split, validation_every=dataset.validation_every
            )
        )

    return text("train"), text("validation")
