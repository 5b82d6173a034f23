"""A run folder: what `train` writes and every other command opens.

config.yaml (resolved), datasets.json (where its tokens are), tokenizer/, metrics.jsonl,
checkpoints/, tensorboard/, and at the end summary.json. One that was imported also has
published.json, the config.json of the model that it comes from.
"""

import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from jaxllm.checkpoints import CheckpointStore
from jaxllm.checkpoints.folders import folder_of
from jaxllm.commands.assembly import Assembly, assemble
from jaxllm.commands.batches import num_ids
from jaxllm.commands.console import Console
from jaxllm.commands.first_state import frozen_weights, origin
from jaxllm.commands.lease import is_of_lease
from jaxllm.commands.resumption import check_resumable
from jaxllm.commands.saved_state import SavedState, frozen_changed, weights_item
from jaxllm.commands.start_classes import check_imported_classes
from jaxllm.config import RunConfig, dump_yaml, load_config
from jaxllm.data import Data, Tokenizer, TrainLoader, load_tokenizer
from jaxllm.nn.param import Nested
from jaxllm.nn.parts import joined
from jaxllm.parallel import distributed
from jaxllm.parallel.mesh import ParallelConfig
from jaxllm.storage import as_path, is_remote, text_of
from jaxllm.storage.mirror import ORIGIN_FILE, read_origin
from jaxllm.training.fingerprint import fingerprint
from jaxllm.training.logfile import replace_file

CONFIG_FILE, DATASETS_FILE, SUMMARY_FILE = "config.yaml", "datasets.json", "summary.json"
TOKENIZER_FOLDER, CHECKPOINT_FOLDER = "tokenizer", "checkpoints"
PUBLISHED_FILE, METRICS_FILE = "published.json", "metrics.jsonl"


def place_of(run_dir: Path) -> str:
    """A run folder as the user knows it: of a mirror, the URL."""
    return read_origin(run_dir) or str(run_dir)


def checkpoint_folder(run_dir: Path) -> Path:
    """Where a run's checkpoints are: in its folder, or, of a mirror, in the bucket."""
    origin = read_origin(run_dir)
    return (run_dir if origin is None else as_path(origin)) / CHECKPOINT_FOLDER


class TrainedModel(NamedTuple):
    """A run opened for reading, its weights (the averaged ones, if it has them) on the devices."""

    config: RunConfig
    tokenizer: Tokenizer | None
    parts: Assembly
    params: Nested
    step: int


def open_model(run_dir: Path, *, step: int | None = None) -> TrainedModel:
    """The model of a run at a checkpoint (default the newest), laid out on this machine.

    ValueError for a folder that is no run or has no such checkpoint.
    """
    config = config_for_reading(run_dir)
    enable_compilation_cache(config.compilation_cache)
    if not checkpoint_folder(run_dir).is_dir():
        raise ValueError(f"{place_of(run_dir)} has no checkpoint yet; train it first")
    with CheckpointStore(checkpoint_folder(run_dir)) as store:
        steps = store.steps()
        if not steps or (step is not None and step not in steps):
            which = "" if step is None else f" of step {step}"
            raise ValueError(
                f"{place_of(run_dir)} has no checkpoint{which}; it has {steps or 'none yet'}"
            )
        step = steps[-1] if step is None else step
        meta = store.restore_json("meta", step)
        parts = assemble(config, layout=config.parallel.build(), vocab_size=meta["vocab_size"])
        frozen = frozen_weights(config, parts, Console(is_shown=distributed.is_first()))
        if frozen is not None and fingerprint(frozen) != meta["frozen"]:
            raise ValueError(frozen_changed(origin(config)))
        saved = store.restore(step, "params", weights_item(parts.state.params, parts.state.ema))
    params = joined(saved.get("ema", saved["weights"]), frozen)
    return TrainedModel(config, _tokenizer(run_dir), parts, params, step)


def read_config(run_dir: Path) -> RunConfig:
    """The resolved config of a run folder; ValueError if it is none."""
    path = run_dir / CONFIG_FILE
    if not path.is_file():
        raise ValueError(
            f"{place_of(run_dir)} is not a run folder: it has no {CONFIG_FILE} (jaxllm train makes "
            "one)"
        )
    return load_config(path)


def config_for_reading(run_dir: Path) -> RunConfig:
    """A run's config with its layout on the devices at hand, which need not be those it had."""
    distributed.initialize()
    config = read_config(run_dir)
    # Read in pieces what zero1 kept whole: there may be fewer axes to cut it over than there were.
    layout = "fsdp" if config.parallel.layout == "zero1" else config.parallel.layout
    parallel = ParallelConfig(layout=layout)
    return config.model_copy(update={"parallel": parallel})


def check_config(run_dir: Path, config: RunConfig, *, requested: Sequence[str] = ()) -> None:
    """ValueError if the folder belongs to a run that this config would not continue, or cannot be.

    Makes nothing. requested: keys whose values may differ from the run's.
    """
    there = next(path for path in (run_dir, *run_dir.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        problem = "is not writable" if there.is_dir() else "is not a folder"
        raise ValueError(
            f"run_dir {run_dir} cannot be made: {there} {problem}; give another run_dir"
        )
    if (run_dir / CONFIG_FILE).is_file():
        is_new = is_untrained_import(run_dir)
        check_resumable(
            read_config(run_dir),
            config,
            run_dir=place_of(run_dir),
            has_only_weights=is_new,
            requested=requested,
        )
        if is_new:
            check_imported_classes(read_published_config(run_dir), config)
    elif run_dir.is_dir() and not all(_is_half_made(path) for path in run_dir.iterdir()):
        raise ValueError(
            f"run_dir {run_dir} is a folder with other things in it and no {CONFIG_FILE}; "
            "give another run_dir"
        )


def _is_half_made(path: Path) -> bool:
    """Whether a file may be of a start that was killed before it wrote the config, as the last."""
    name = path.name.removeprefix(".").removesuffix(".tmp").removesuffix(".partial")
    return is_of_lease(path) or name in (
        *(TOKENIZER_FOLDER, DATASETS_FILE, CONFIG_FILE),
        ORIGIN_FILE,
    )


def has_checkpoint(run_dir: Path) -> bool:
    """Whether the folder holds weights that the run goes on from."""
    return bool(folder_of(checkpoint_folder(run_dir)).steps())


def is_imported(run_dir: Path) -> bool:
    """Whether the run began with a model that was imported into the folder."""
    return (run_dir / PUBLISHED_FILE).is_file()


def is_untrained_import(run_dir: Path) -> bool:
    """Whether the folder holds an imported model that no step was trained of yet."""
    return is_imported(run_dir) and not (run_dir / METRICS_FILE).is_file()


def read_published_config(run_dir: Path) -> dict[str, Any]:
    """The config.json of the model that was imported into the folder; {} if none was."""
    path = run_dir / PUBLISHED_FILE
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def make_folder(run_dir: Path, config: RunConfig, data: Data) -> None:
    """Make the folder a run unless it is one, on the first process."""
    if distributed.is_first() and not (run_dir / CONFIG_FILE).is_file():
        run_dir.mkdir(parents=True, exist_ok=True)
        if data.tokenizer is not None:
            partial = run_dir / f".{TOKENIZER_FOLDER}.partial"
            for folder in (partial, run_dir / TOKENIZER_FOLDER):
                shutil.rmtree(folder, ignore_errors=True)  # of a start that was killed here
            data.tokenizer.save(partial)
            os.replace(partial, run_dir / TOKENIZER_FOLDER)
        write_config(run_dir, config, data)
    distributed.barrier("run folder")


def write_config(run_dir: Path, config: RunConfig, data: Data) -> None:
    """Write where the datasets are, and last the config, on the first process.

    Of a run that goes on, once nothing can be refused any more.
    """
    if distributed.is_first():
        folders = {
            name: text_of(folder) if is_remote(folder) else str(folder.absolute())
            for name, folder in data.folders.items()
        }
        write_text(run_dir / DATASETS_FILE, json.dumps(folders, indent=2) + "\n")
        write_text(run_dir / CONFIG_FILE, dump_yaml(config))


def dataset_folders(run_dir: Path) -> dict[str, Path]:
    """The tokenised datasets that the run used so far, by name; none for a new run."""
    path = run_dir / DATASETS_FILE
    if not path.is_file():
        return {}
    folders = json.loads(path.read_text(encoding="utf-8"))
    return {name: as_path(folder) for name, folder in folders.items()}


def known_data(run_dir: Path) -> dict[str, Any]:
    """The tokenizer and the datasets that the run used so far, as `open_data` takes them.

    An imported model that was not trained yet may be given other data at any start.
    """
    folders = {} if is_untrained_import(run_dir) else dataset_folders(run_dir)
    return {"tokenizer": _tokenizer(run_dir), "folders": folders}


def _tokenizer(run_dir: Path) -> Tokenizer | None:
    folder = run_dir / TOKENIZER_FOLDER
    return load_tokenizer(folder) if folder.is_dir() else None


def open_saved_state(
    run_dir: Path,
    config: RunConfig,
    data: Data,
    loader: TrainLoader,
    *,
    before_save: Callable[[], None] = lambda: None,
    on_message: Callable[[str], None] = print,
) -> SavedState:
    """The run's checkpoints. ValueError if they are of other data or beyond the config's end.

    before_save: called before each save begins, on every process. on_message: told, on the first
    process, what happens to checkpoints, a line at a time.
    """
    saved = SavedState(
        checkpoint_folder(run_dir),
        config.checkpoints,
        loader,
        vocab_size=num_ids(config, data),
        run_config=config.model_dump(mode="json"),
        before_save=before_save,
        on_message=on_message,
    )
    if saved.start > config.training.steps:
        saved.__exit__()
        raise ValueError(
            f"training.steps is {config.training.steps}, but {place_of(run_dir)} is at step "
            f"{saved.start} already; give more steps to go on, or another run_dir"
        )
    return saved


def write_text(path: Path, text: str) -> None:
    """Replace a file at once: a reader or a crash sees the old or the new one."""
    replace_file(path, text.encode())


def enable_compilation_cache(folder: str | None) -> None:
    """Keep compiled programs in `folder`, or gs://, so that a restart does not compile again."""
    if folder is not None:
        place = as_path(os.path.expanduser(folder))  # JAX itself reads and writes in a bucket
        jax.config.update("jax_compilation_cache_dir", str(place))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
