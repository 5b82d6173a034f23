"""`jaxllm import` and `jaxllm export`: published models in, and trained ones out."""

import json
import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import psutil

from jaxllm.checkpoints import CheckpointConfig
from jaxllm.commands.assembly import assemble
from jaxllm.commands.console import Console
from jaxllm.commands.exported_labels import exported_labels
from jaxllm.commands.run_folder import (
    CHECKPOINT_FOLDER,
    CONFIG_FILE,
    DATASETS_FILE,
    PUBLISHED_FILE,
    TOKENIZER_FOLDER,
    TrainedModel,
    open_model,
    place_of,
    read_config,
    read_published_config,
    write_text,
)
from jaxllm.commands.run_place import open_to_read
from jaxllm.commands.saved_state import weights_item
from jaxllm.config import RunConfig, apply_override, dump_yaml, parse_config
from jaxllm.containment import contained
from jaxllm.data.model_tokenizer import ModelTokenizer
from jaxllm.hf.companions import GENERATION_FILE, target_settings, write_generation
from jaxllm.hf.model import check_empty, write_weights
from jaxllm.hf.peft import write_adapter
from jaxllm.hf.published import IDS, Published, kept_keys, open_published, read_weights
from jaxllm.hf.registry import families, family_that_expresses
from jaxllm.hf.start import HfStart
from jaxllm.hf.tokenizer import find_tokenizer, write_tokenizer
from jaxllm.hf.weights import num_bytes_read
from jaxllm.models import DecoderConfig, with_vocabulary
from jaxllm.nn.adapters import LoraConfig, merged
from jaxllm.nn.bottleneck import BottleneckConfig
from jaxllm.nn.param import Nested, spec_dict
from jaxllm.nn.quantised import dequantised
from jaxllm.package_paths import located
from jaxllm.storage import is_remote, text_of


def import_model(source: Path, out: Path, overrides: list[str]) -> None:
    """Make a run folder at step 0 of a published model's weights, config and tokenizer.

    ValueError for a model that is not known here, or a folder that is not empty.
    """
    console = Console(is_shown=True)
    for path in (source, out):
        _check_local(path)
    check_empty(out)
    _remove_partial(out)
    published = open_published(source)
    if not isinstance(published.config, DecoderConfig):
        raise ValueError(
            f"{source} is a {published.family.model_type}, which is no decoder, and runs are of "
            "decoders; open it from Python with jaxllm.hf.load_model"
        )
    tokenizer = find_tokenizer(source, vocab_size=published.config.vocab_size)
    config = _run_config(published, tokenizer, out=out, overrides=overrides)
    vocab_size = published.config.vocab_size
    assert vocab_size is not None  # every config.json says it
    parts = assemble(config, layout=config.parallel.build(), vocab_size=vocab_size)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, parts.state.params)
    _check_memory(source, parts.state.params)
    params = read_weights(
        published,
        config.model,
        specs=spec_dict(parts.model),
        shardings=shardings,
        on_progress=console.weights_progress(num_bytes_read(parts.state.params, shardings)),
    )
    console.close()
    with _complete_or_none(out) as partial:
        meta = {
            "step": 0,
            "vocab_size": vocab_size,
            "config": config.model_dump(mode="json"),
            "jax": jax.__version__,
        }
        with CheckpointConfig().build(partial / CHECKPOINT_FOLDER) as store:
            # Nothing was optimised yet; a checkpoint has the item all the same.
            opt = {"step": jnp.zeros((), jnp.int32)}
            store.save(0, params=weights_item(params, None), opt=opt, data={}, meta=meta)
            store.wait()
        if tokenizer is not None:
            tokenizer.save(partial / TOKENIZER_FOLDER)
        write_text(partial / PUBLISHED_FILE, json.dumps(published.raw, indent=2) + "\n")
        if source.is_dir() and (source / GENERATION_FILE).is_file():
            shutil.copyfile(contained(source, GENERATION_FILE), partial / GENERATION_FILE)
        write_text(partial / DATASETS_FILE, "{}\n")
        write_text(partial / CONFIG_FILE, dump_yaml(config))
    console.say(
        f"{published.family.model_type} with {parts.num_params:,} parameters is in {out}\n"
        f"next: jaxllm generate {out} --prompt '...'"
    )


def _check_memory(source: Path, weights: Nested) -> None:
    """ValueError unless this host can hold the weights, and the copy of them that is being saved.

    On CPU devices, the weights are in the host's memory too.
    """
    needed = 0
    for leaf in jax.tree.leaves(weights):
        devices = leaf.sharding.addressable_devices
        on_host = len([device for device in devices if device.platform == "cpu"])
        part = math.prod(leaf.sharding.shard_shape(leaf.shape))
        needed += (math.prod(leaf.shape) + on_host * part) * leaf.dtype.itemsize
    available = psutil.virtual_memory().available
    if needed > available:
        raise ValueError(
            f"{source}: an import keeps all weights in float32 on one host, which takes "
            f"{needed / 1e9:,.1f} GB of memory, and {available / 1e9:,.1f} GB are available; let a "
            "run start from the model itself (init_from: {type: hf, path: ...}), where each host "
            "reads only its own part"
        )


def _run_config(
    published: Published, tokenizer: ModelTokenizer | None, *, out: Path, overrides: list[str]
) -> RunConfig:
    """A config that the run folder can be trained further with; data is still to be given."""
    model = published.config.model_dump(mode="json")
    length = min(published.config.max_length, 1024)
    raw: dict[str, Any] = {
        "run_dir": str(out.absolute()),
        "model": model,
        "data": {"sequence_length": length, "global_batch_size": 8},
        # Usual for training on: a tenth of what pretraining of this size takes.
        "optim": {
            "type": "adamw",
            "learning_rate": 2e-5,
            "schedule": {"type": "cosine", "warmup_steps": 20},
        },
        "training": {"steps": 1000},
    }
    if tokenizer is not None:
        folder = str((out / TOKENIZER_FOLDER).absolute())
        raw["data"]["tokenizer"] = {
            "type": "hf",
            "path": folder,
            "delimiter": tokenizer.delimiter,
        }
    for override in overrides:
        if override.partition("=")[0].strip() in ("run_dir", "init_from"):
            raise ValueError(f"override {override!r}: the run folder is {out}, with its weights")
        apply_override(raw, override)
    return parse_config(raw, origin="the config of the imported model")


def _check_local(path: Path) -> None:
    """ValueError for a path in a bucket: what is converted is on this machine."""
    if is_remote(path):
        raise ValueError(
            f"{text_of(path)}: an import and an export read and write local folders; give one, and "
            "copy it with `gcloud storage cp -r`"
        )


def _partial(out: Path) -> Path:
    return out.with_name(f".{out.name}.partial")


def _remove_partial(out: Path) -> None:
    """Remove what a call for the same folder left that was killed."""
    shutil.rmtree(_partial(out), ignore_errors=True)


@contextmanager
def _complete_or_none(out: Path) -> Iterator[Path]:
    """A folder to fill, which gets its name when all is in it; of an interruption nothing stays."""
    _remove_partial(out)
    partial = _partial(out)
    partial.mkdir(parents=True)
    try:
        yield partial
        if out.is_dir():
            out.rmdir()  # an empty one, which may be there
        partial.rename(out)
    finally:
        _remove_partial(out)


def export_model(run: str | Path, out: Path, *, step: int | None, dtype: str) -> None:
    """Write a run's weights (the averaged ones, if it has them) as a folder of Hugging Face.

    run: a folder, or gs://. Low-rank adapters are merged into the weights. ValueError for a network
    that no published family has, or an `out` that is not empty or not local.
    """
    with _to_export(run, out) as run_dir:
        _export(run_dir, out, step=step, dtype=dtype)


@contextmanager
def _to_export(run: str | Path, out: Path) -> Iterator[Path]:
    """The folder of a run, to read, once it is sure that `out` may be written."""
    _check_local(out)
    check_empty(out)
    _remove_partial(out)
    with open_to_read(run) as run_dir:
        _check_adapter(run_dir)
        yield run_dir


def _check_adapter(run_dir: Path) -> None:
    """ValueError for a run whose adapters no folder of Hugging Face can have."""
    if isinstance(read_config(run_dir).adapter, BottleneckConfig):
        raise ValueError(
            f"{place_of(run_dir)} has bottleneck adapters, layers of their own that no published "
            "family has, nor PEFT; use the run itself (jaxllm generate, jaxllm evaluate), or train "
            "with adapter.type=lora, which can be exported"
        )


def _export(run_dir: Path, out: Path, *, step: int | None, dtype: str) -> None:
    console = Console(is_shown=True)
    trained = open_model(run_dir, step=step)
    config = _natural_config(trained)
    params = trained.params
    # Pictures are read without one, whatever stands in for it in the run.
    tokenizer = trained.tokenizer if config.vocab_size else None
    if trained.config.adapter is not None:
        model = trained.parts.model
        params = jax.jit(lambda params: merged(model, params))(params)
    raw = read_published_config(run_dir)
    ids = kept_keys(raw, config)
    if not raw and tokenizer is not None:
        # One token opens documents and ends them.
        ids = dict.fromkeys(IDS[:2], tokenizer.delimiter_id)
    with _complete_or_none(out) as partial:
        family = write_weights(
            partial,
            config,
            params,
            family=families().get(raw.get("model_type", "")),
            dtype=dtype,
            extra=ids | exported_labels(trained.config),
            on_progress=console.weights_progress(
                trained.parts.num_params * (4 if dtype == "float32" else 2)
            ),
        )
        console.close()
        if (run_dir / GENERATION_FILE).is_file():
            shutil.copyfile(run_dir / GENERATION_FILE, partial / GENERATION_FILE)
        elif tokenizer is not None:
            settings = ids | target_settings(config)
            write_generation(partial, ids=settings, stop_ids=tokenizer.stop_ids)
        if tokenizer is not None:
            write_tokenizer(tokenizer, partial)
    (named,) = family.write_config(config)["architectures"]
    console.say(f"step {trained.step} as {named} is in {out}")


def export_adapter(run: str | Path, out: Path, *, step: int | None, dtype: str) -> None:
    """Write what a run learned beside the weights of its init_from, as PEFT has it.

    ValueError for a run without adapters, as for `export_model`, and for what PEFT has no form for.
    """
    with _to_export(run, out) as run_dir:
        _export_adapter(run_dir, out, step=step, dtype=dtype)


def _export_adapter(run_dir: Path, out: Path, *, step: int | None, dtype: str) -> None:
    console = Console(is_shown=True)
    run_config = read_config(run_dir)
    adapter, start = run_config.adapter, run_config.init_from
    if not isinstance(adapter, LoraConfig) or start is None:
        raise ValueError(
            f"{place_of(run_dir)} has no adapter; export the whole model, without --adapter"
        )
    if isinstance(start, HfStart) and start.new_tokens is not None:
        raise ValueError(
            f"{place_of(run_dir)} has more tokens than {start.path}, which PEFT would not put the "
            "adapter beside; export the whole model, without --adapter"
        )
    trained = open_model(run_dir, step=step)
    config = _natural_config(trained)
    first = open_published(located(start.path)).family if isinstance(start, HfStart) else None
    family = family_that_expresses(config, first=first)
    with _complete_or_none(out) as partial:
        write_adapter(
            partial,
            config,
            dequantised(trained.params),
            adapter=adapter,
            family=family,
            trained=trained.parts.trained,
            base=str(located(start.path)) if isinstance(start, HfStart) else start.path,
            dtype=dtype,
        )
        if trained.tokenizer is not None:
            write_tokenizer(trained.tokenizer, partial)
    console.say(f"the adapter of step {trained.step}, beside {start.path}, is in {out}")


def _natural_config(trained: TrainedModel) -> Any:
    """The model's config with its size of the vocabulary."""
    return with_vocabulary(trained.config.model, trained.parts.model.vocab_size)
