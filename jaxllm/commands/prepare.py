"""`jaxllm prepare`: raw text to tokenised datasets, by itself or as the first act of training."""

from collections.abc import Mapping
from pathlib import Path

from jaxllm.commands.console import Console
from jaxllm.config import RunConfig
from jaxllm.data import Data, MissingData, Tokenizer, describe_dataset
from jaxllm.hardware import quiet_tpu_runtime
from jaxllm.parallel import distributed


def prepare(config: RunConfig) -> None:
    """Make the config's datasets, or find them made, and tell where they are."""
    quiet_tpu_runtime()
    console = Console(is_shown=True)
    data = open_data(config, console)
    for name, folder in data.folders.items():
        card = describe_dataset(folder)
        splits = ", ".join(
            f"{split} {figures['documents']:,} documents, {figures['tokens']:,} tokens"
            for split, figures in card["splits"].items()
        )
        console.say(f"{name}: {folder}\n  {splits}")
    if not data.folders:
        console.say("nothing to prepare: no dataset of this config is made from raw text")


def open_data(
    config: RunConfig,
    console: Console,
    *,
    tokenizer: Tokenizer | None = None,
    folders: Mapping[str, Path] | None = None,
) -> Data:
    """The config's datasets, prepared where they are missing; by the first process alone.

    tokenizer, folders: what a run used before; with them no raw text is needed.
    ValueError for data that is wrong, MissingData for files that are not there.
    """
    if not distributed.is_first():
        distributed.barrier("datasets prepared")
    try:
        data = config.data.build(
            seed=config.seed,
            tokenizer=tokenizer,
            folders=folders,
            on_progress=console.data_progress,
        )
    except MissingData:
        # The other processes find the same, and may go on without the data as well.
        if distributed.is_first():
            distributed.barrier("datasets prepared")
        raise
    finally:
        console.close()
    if distributed.is_first():
        distributed.barrier("datasets prepared")
    return data
