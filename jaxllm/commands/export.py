"""`jaxllm export`: trained models out, as folders of Hugging Face."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax

from jaxllm.commands.console import Console
from jaxllm.commands.exported_labels import exported_labels
from jaxllm.commands.partial_folder import check_local, complete_or_none, remove_partial
from jaxllm.commands.run_folder import (
    TrainedModel,
    open_model,
    place_of,
    read_config,
    read_published_config,
)
from jaxllm.commands.run_place import open_to_read
from jaxllm.hf.companions import GENERATION_FILE, target_settings, write_generation
from jaxllm.hf.model import check_empty, write_weights
from jaxllm.hf.peft import write_adapter
from jaxllm.hf.published import IDS, kept_keys, open_published
from jaxllm.hf.registry import families, family_that_expresses
from jaxllm.hf.start import HfStart
from jaxllm.hf.tokenizer import write_tokenizer
from jaxllm.models import with_vocabulary
from jaxllm.nn.adapters import LoraConfig, merged
from jaxllm.nn.bottleneck import BottleneckConfig
from jaxllm.nn.quantised import dequantised
from jaxllm.package_paths import located


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
    check_local(out)
    check_empty(out)
    remove_partial(out)
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
    with complete_or_none(out) as partial:
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
    with complete_or_none(out) as partial:
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
