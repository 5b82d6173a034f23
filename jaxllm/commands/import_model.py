"""`jaxllm import`: published models in, as run folders."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import psutil

from jaxllm.checkpoints import CheckpointConfig
from jaxllm.commands.assembly import assemble
from jaxllm.commands.console import Console
from jaxllm.commands.partial_folder import check_local, complete_or_none, remove_partial
from jaxllm.commands.run_folder import (
    CHECKPOINT_FOLDER,
    CONFIG_FILE,
    DATASETS_FILE,
    PUBLISHED_FILE,
    TOKENIZER_FOLDER,
    write_text,
)
from jaxllm.commands.saved_state import weights_item
from jaxllm.commands.start_classes import check_imported_classes
from jaxllm.config import RunConfig, apply_override, dump_yaml, parse_config
from jaxllm.containment import contained
from jaxllm.data.model_tokenizer import ModelTokenizer
from jaxllm.hf.companions import GENERATION_FILE
from jaxllm.hf.model import check_empty
from jaxllm.hf.published import Published, open_published, read_weights
from jaxllm.hf.tokenizer import find_tokenizer
from jaxllm.hf.weights import num_bytes_read
from jaxllm.models import DecoderConfig, EncoderConfig, TwoTowersConfig, VisionConfig
from jaxllm.nn.param import Nested, spec_dict
from jaxllm.objectives.predicting import PredictingObjective


def import_model(source: Path, out: Path, overrides: list[str]) -> None:
    """Make a run folder at step 0 of a published model's weights, config and tokenizer.

    ValueError for a model that is not known here, or a folder that is not empty.
    """
    console = Console(is_shown=True)
    for path in (source, out):
        check_local(path)
    check_empty(out)
    remove_partial(out)
    published = open_published(source)
    vocab_size = published.config.vocab_size
    tokenizer = find_tokenizer(source, vocab_size=vocab_size) if vocab_size else None
    config = _run_config(published, tokenizer, out=out, overrides=overrides)
    check_imported_classes(published.raw, config)
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
    with complete_or_none(out) as partial:
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
        f"next: {_next(config, out)}"
    )


def _next(config: RunConfig, out: Path) -> str:
    """A command that shows what the model can."""
    if isinstance(config.model, DecoderConfig):
        return f"jaxllm generate {out} --prompt '...'"
    if isinstance(config.objective, PredictingObjective):
        return f"jaxllm predict {out} --input FILE --output FILE"
    return f"jaxllm evaluate {out} --data FILE"


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
    """A config that the run folder can be trained further with; data is still to be given.

    ValueError for a model that neither learns from texts alone nor is told its objective.
    """
    raw: dict[str, Any] = {
        "run_dir": str(out.absolute()),
        "model": published.config.model_dump(mode="json"),
        "data": {"sequence_length": _row_length(published.config), "global_batch_size": 8},
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
    if "objective" not in raw:
        raw["objective"] = _objective(published)
    return parse_config(raw, origin="the config of the imported model")


def _row_length(model: Any) -> int:
    """Positions of a row: of an image all that there are, of a text at most 1,024."""
    if isinstance(model, VisionConfig):
        return model.num_positions
    reader = model.text if isinstance(model, TwoTowersConfig) else model
    return min(getattr(reader, "num_positions", reader.max_length), 1024)


def _objective(published: Published) -> dict[str, Any]:
    """What a network that reads texts alone was trained with. ValueError for any other."""
    model = published.config
    if isinstance(model, DecoderConfig):
        return {"type": "causal_lm"}
    if isinstance(model, EncoderConfig) and model.head == "masked_lm":
        return {"type": "masked_lm"}
    head = f" with model.head={model.head}" if hasattr(model, "head") else ""
    raise ValueError(
        f"{published.path} is a {published.family.model_type}{head}, and only data tells what that "
        "learns and answers; let a run with data of its own start from it "
        f"(init_from: {{type: hf, path: {published.path}}}), or give objective and data.datasets "
        "behind the import"
    )
