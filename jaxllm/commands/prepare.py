"""`jaxllm prepare`: raw text to tokenised datasets, by itself or as the first act of training."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from jaxllm.commands.console import Console
from jaxllm.config import RunConfig
from jaxllm.data import Data, MissingData, Tokenizer, describe_dataset, load_tokenizer
from jaxllm.data.examples import ExamplesConfig
from jaxllm.data.prepare import check_beam
from jaxllm.hardware import quiet_tpu_runtime
from jaxllm.hf.start import HfStart
from jaxllm.parallel import distributed
from jaxllm.storage import as_path


def prepare(config: RunConfig, *, beam: Sequence[str] | None = None) -> None:
    """Make the config's datasets, or find them made, and tell where they are.

    beam: the options of an Apache Beam pipeline that tokenises in place of processes here.
    """
    if beam is not None:
        check_beam()
    quiet_tpu_runtime()
    console = Console(is_shown=True)
    data = open_data(config, console, beam=beam)
    for name, folder in data.folders.items():
        card = describe_dataset(folder)
        splits = ", ".join(
            f"{split} {', '.join(f'{figures[key]:,} {key}' for key in _TOLD if key in figures)}"
            for split, figures in card["splits"].items()
        )
        console.say(f"{name}: {folder}\n  {splits}")
    if not data.folders:
        console.say("nothing to prepare: no dataset of this config is made from raw text")


_TOLD = ("examples", "documents", "tokens")


def beam_options(
    arguments: Sequence[str], *, runner: str | None
) -> tuple[list[str], list[str] | None]:
    """The overrides among a command's arguments, and Beam's options, which begin with a dash.

    None for the latter without that runner. Raises ValueError for such options then.
    """
    first = next((i for i, item in enumerate(arguments) if item.startswith("-")), len(arguments))
    overrides, options = list(arguments[:first]), list(arguments[first:])
    if runner is None and options:
        raise ValueError(f"{options[0]} is an option of Beam's: give --runner beam before CONFIG")
    return overrides, options if runner is not None else None


def open_data(
    config: RunConfig,
    console: Console,
    *,
    tokenizer: Tokenizer | None = None,
    folders: Mapping[str, Path] | None = None,
    beam: Sequence[str] | None = None,
) -> Data:
    """The config's datasets, prepared where they are missing; by the first process alone.

    tokenizer, folders: what a run used before; with them no raw text is needed. beam: as `prepare`.
    ValueError for data that is wrong, MissingData for files that are not there.
    """
    if not distributed.is_first():
        distributed.barrier("datasets prepared")
    tokenizer = tokenizer or _tokenizer_of_start(config)
    try:
        data = config.data.build(
            seed=config.seed,
            tokenizer=tokenizer,
            folders=folders,
            beam=beam,
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


def _tokenizer_of_start(config: RunConfig) -> Tokenizer | None:
    """That of the model or the run that training starts from, where texts have no other."""
    start, data = config.init_from, config.data
    has_texts = any(
        dataset.type == "corpus" or (isinstance(dataset, ExamplesConfig) and dataset.has_text)
        for dataset in data.datasets.values()
    )
    if data.tokenizer is not None or not has_texts or start is None:
        return None
    if isinstance(start, HfStart):
        return start.tokenizer()
    folder = as_path(start.path).expanduser() / "tokenizer"
    return load_tokenizer(folder) if folder.is_dir() else None
