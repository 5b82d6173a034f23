"""`jaxllm evaluate`: loss, perplexity and bits per byte of a run, by source."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from jaxllm.commands.console import Console
from jaxllm.commands.run_folder import dataset_folders, open_model
from jaxllm.data import DataConfig
from jaxllm.evaluation import Score, make_eval_step, score_sets, total
from jaxllm.parallel import distributed
from jaxllm.parallel.shard import host_rows


def evaluate(
    run_dir: Path, *, data: Sequence[str] = (), step: int | None = None
) -> dict[str, Score]:
    """Score the run's validation sets, or dataset folders and text files given; print a table.

    ValueError for a folder that is no run, or for data made with another tokenizer.
    """
    trained = open_model(run_dir, step=step)
    console = Console(is_shown=distributed.is_first())
    config = trained.config.data
    if data:
        datasets = {name: _dataset(name) for name in data}
        config = DataConfig.model_validate({**config.model_dump(), "datasets": datasets})
    layout = trained.parts.layout
    # The batch it was trained with need not divide over the devices at hand.
    devices = layout.degree("batch")
    rows = -(-config.global_batch_size // devices) * devices
    config = config.model_copy(update={"global_batch_size": rows})
    opened = config.build(
        tokenizer=trained.tokenizer,
        folders={} if data else dataset_folders(run_dir),
        on_progress=console.data_progress,
    )
    console.close()
    scores = score_sets(
        make_eval_step(trained.parts.loss, layout),
        trained.params,
        opened.validation_loaders(rows=host_rows(layout, rows)),
        layout=layout,
        rows=rows,
    )
    if not scores:
        given = f"--data {' '.join(data)}" if data else str(run_dir)
        raise ValueError(f"{given} has no validation split; give text or a dataset with --data")
    console.show(_table(f"{run_dir}, step {trained.step}", scores))
    return scores


def _dataset(path: str) -> dict[str, Any]:
    """The dataset config of a --data argument: a folder of tokens, or text to hold out whole."""
    if Path(path).is_dir():
        return {"type": "prepared", "path": path}
    name = path.removesuffix(".gz").removesuffix(".zst")
    kind = {".jsonl": "jsonl", ".parquet": "parquet", ".txt": "text"}.get(Path(name).suffix)
    if kind is None:
        raise ValueError(
            f"--data {path}: give a dataset folder, or files that end in .txt, .jsonl "
            "(.gz, .zst) or .parquet"
        )
    corpus = {"type": kind, "paths": [path]}
    return {"type": "corpus", "corpus": corpus, "validation_every": 1}


def _table(title: str, scores: dict[str, Score]) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("source")
    for heading in ("tokens", "bytes", "loss", "perplexity", "bits per byte"):
        table.add_column(heading, justify="right")
    rows = dict(scores)
    if len(scores) > 1:
        rows["all"] = total(scores.values())
    for name, part in rows.items():
        table.add_row(
            name,
            f"{part.num_tokens:,}",
            "" if part.raw_bytes is None else f"{part.raw_bytes:,}",
            f"{part.loss:.4f}",
            f"{part.perplexity:.2f}",
            "" if part.bits_per_byte is None else f"{part.bits_per_byte:.4f}",
        )
    return table
