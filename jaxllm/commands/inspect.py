"""`jaxllm inspect`: what a config feeds and holds, what a dataset is, what a run did."""

from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
from rich import box
from rich.table import Table
from rich.text import Text

from jaxllm.aot.memory import local_bytes
from jaxllm.commands import run_folder, run_records
from jaxllm.commands.assembly import Assembly, assemble, check_devices
from jaxllm.commands.batches import num_ids
from jaxllm.commands.console import Console, run_summary
from jaxllm.commands.prepare import open_data
from jaxllm.commands.run_place import open_to_read
from jaxllm.commands.without_data import vocab_size_without_data
from jaxllm.config import RunConfig, load_config
from jaxllm.config_files import find_config
from jaxllm.data import (
    Data,
    DataConfig,
    MissingData,
    describe_dataset,
)
from jaxllm.data.dataset_folder import SIDECAR
from jaxllm.data.examples import ExamplesConfig
from jaxllm.data.shown_rows import shown_label, shown_texts
from jaxllm.nn.param import num_bytes
from jaxllm.nn.parts import joined
from jaxllm.parallel.layouts import weight_items
from jaxllm.storage import as_path, is_remote

_SHOWN_TOKENS = 256  # of a row of a dataset by itself
_SHOWN_CHARACTERS = 400  # of the text of one document in a row


def inspect(target: str, overrides: Sequence[str] = (), *, rows: int = 2) -> None:
    """Show a dataset's card, or the parameters and decoded batches of a config or a run.

    Without batches where the data is missing. ValueError for a target that is none of these.
    """
    console = Console(is_shown=True)
    place = as_path(target)
    if overrides and (is_remote(target) or place.is_dir()):
        raise ValueError("overrides go with a CONFIG; a dataset and a run are what they are")
    if (place / SIDECAR).is_file():
        show_card(console, place)
        show_rows(console, open_dataset(place), seed=0, rows=rows)
        return
    with open_to_read(target) as path:
        _inspect(console, path, target, overrides, rows=rows)


def _inspect(
    console: Console, path: Path, target: str, overrides: Sequence[str], *, rows: int
) -> None:
    """Show a config, or the run in a folder."""
    is_run = path.is_dir()
    if is_run and not (path / run_folder.CONFIG_FILE).is_file():
        raise ValueError(_nothing_known(target))
    config = (
        run_folder.config_for_reading(path)
        if is_run
        else load_config(find_config(target), overrides)
    )
    data, vocab_size = _data(config, console, run_dir=path if is_run else None)
    # A run is looked at with the devices at hand, which need not divide its batch.
    layout = config.parallel.build() if is_run else check_devices(config)
    parts = assemble(config, layout=layout, vocab_size=vocab_size)
    console.say(run_summary(config, parts, data))
    console.show(parameter_table(parts))
    if data is not None:
        show_rows(console, data, seed=config.seed, rows=rows)
        for folder in data.folders.values():
            show_card(console, folder)
    if is_run:
        show_run(console, path)


def _nothing_known(folder: str) -> str:
    return (
        f"{folder} is a folder, but nothing that can be inspected:\n"
        f"  it is not a run folder, for it has no {run_folder.CONFIG_FILE} (jaxllm train makes "
        f"one, at run_dir)\n"
        f"  it is not a dataset, for it has no {SIDECAR} (jaxllm prepare makes one, in data.root)\n"
        f"  it is not a config, which is a YAML file or the name of a shipped one (jaxllm configs "
        f"lists these)"
    )


def _data(config: RunConfig, console: Console, *, run_dir: Path | None) -> tuple[Data | None, int]:
    """The data and its number of ids; None where it is missing, which is said."""
    known = {} if run_dir is None else run_folder.known_data(run_dir)
    try:
        data = open_data(config, console, **known)
    except MissingData as missing:
        return None, vocab_size_without_data(config, missing, console)
    return data, num_ids(config, data)


def open_dataset(folder: Path) -> Data:
    """A tokenised dataset by itself, in rows of a length that fits a screen."""
    datasets = {"dataset": {"type": "prepared", "path": str(folder)}}
    config = DataConfig.model_validate(
        {
            "sequence_length": _SHOWN_TOKENS,
            "global_batch_size": 1,
            "datasets": datasets,
            "shuffle": False,
        }
    )
    return config.build()


def parameter_table(parts: Assembly) -> Table:
    """Every weight: its shape by logical axis, how it is cut, bytes whole and on one device."""
    table = Table(
        title="parameters (float32, or as said)",
        title_justify="left",
        box=box.SIMPLE_HEAD,
    )
    table.add_column("weight", no_wrap=True)
    table.add_column("size of each axis / the mesh axes it is cut over")
    table.add_column("bytes", justify="right", no_wrap=True)
    table.add_column("a device", justify="right", no_wrap=True)
    whole = local = 0
    leaves = jax.tree.leaves(joined(parts.state.params, parts.state.frozen))
    for (path, spec), leaf in zip(weight_items(parts.specs), leaves, strict=True):
        size, local_size = num_bytes(leaf.shape, leaf.dtype), local_bytes(leaf)
        whole, local = whole + size, local + local_size
        dims = [
            " / ".join([f"{axis} {length}", *parts.layout.mesh_axes(axis)])
            for axis, length in zip(spec.axes, spec.shape, strict=True)
        ]
        name = path if leaf.dtype == jnp.float32 else f"{path} ({leaf.dtype})"
        table.add_row(name, ", ".join(dims), f"{size:,}", f"{local_size:,}")
    table.add_section()
    table.add_row("all", "", f"{whole:,}", f"{local:,}")
    return table


def show_rows(console: Console, data: Data, *, seed: int, rows: int) -> None:
    """The first rows of training as text, one block a document; without a tokenizer as ids."""
    loader = data.train_loader(seed=seed)
    rows_a_batch = data.config.global_batch_size
    datasets = data.config.datasets.values()
    # Those of examples are all alike.
    dataset = next((one for one in datasets if isinstance(one, ExamplesConfig)), None)
    for number in range(rows):
        batch, row = loader.batch(number // rows_a_batch), number % rows_a_batch
        label = shown_label(batch, row, tokenizer=data.tokenizer, dataset=dataset)
        heading = f"\nrow {row} of batch {number // rows_a_batch}"
        console.say(f"{heading}: {label}" if label else heading)
        if "pixels" in batch:
            pixels_HWC = batch["pixels"][row]
            sides = " x ".join(map(str, pixels_HWC.shape))
            console.say(f"  picture of {sides}, {pixels_HWC.mean():.0f} of 255 bright on average")
        if data.tokenizer is None:
            console.say(f"  tokens      {batch['tokens'][row]}")
            console.say(f"  segment_ids {batch['segment_ids'][row]}")
            continue
        for title, text in shown_texts(batch, row, tokenizer=data.tokenizer, dataset=dataset):
            _show_text(console, title, text)


def _show_text(console: Console, title: str, text: str) -> None:
    if len(text) > _SHOWN_CHARACTERS:
        text = f"{text[:_SHOWN_CHARACTERS]} [... {len(text) - _SHOWN_CHARACTERS} characters]"
    console.show(Text(title, style="bold"))
    console.show(Text("    " + text.replace("\n", "\n    ")))


def show_card(console: Console, folder: Path) -> None:
    """What a tokenised dataset holds and what made it."""
    card = describe_dataset(folder)
    splits = card.pop("splits")
    table = Table(title=f"dataset {folder}", title_justify="left", show_header=False)
    for key, value in card.items():
        table.add_row(key, str(value))
    for split, figures in splits.items():
        table.add_section()
        for key, value in figures.items():
            shown = f"{value:,.2f}" if isinstance(value, float) else f"{value:,}"
            table.add_row(f"{split} {key}", shown)
    console.show(table)


def show_run(console: Console, run_dir: Path) -> None:
    """How far a run came."""
    summary = run_records.read_summary(run_dir)
    if summary is None:
        place = run_folder.place_of(run_dir)
        console.say(f"\n{place} is not complete; the command that began it goes on with it")
        return
    table = Table(
        title=f"run {run_folder.place_of(run_dir)}", title_justify="left", show_header=False
    )
    for key, value in summary.items():
        table.add_row(key, str(value))
    console.show(table)
