"""A published model opened from its folder, called as it is, and saved as one again.

B rows, T length, C channels, H height, W width.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from jaxllm.hf.base import Family
from jaxllm.hf.companions import copy_companions, write_generation
from jaxllm.hf.published import abstract_module, kept_keys, open_published, read_weights
from jaxllm.hf.registry import family_that_expresses
from jaxllm.hf.tensor_writer import write_folder
from jaxllm.hf.tokenizer import find_tokenizer, write_tokenizer
from jaxllm.hf.weights import Progress, tensors
from jaxllm.models.block_config import BlockConfig
from jaxllm.nn.param import Nested, bind, spec_dict
from jaxllm.parallel.layouts import Layout, check_weights, weight_shardings

Dtype = Literal["float32", "bfloat16"]
DTYPES: dict[str, np.dtype] = {
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
}


class Model:
    """A network of any family with its weights.

    config: ours. params: the weights, a nested dict. family: whose names they have there.
    published: the config.json that it was read from, or {}. folder: where it was read from.
    """

    def __init__(
        self,
        config: Any,
        params: Nested,
        *,
        family: Family,
        published: Mapping[str, Any] | None = None,
        folder: Path | None = None,
        layout: Layout | None = None,
    ):
        self.config = config
        self.params = params
        self.family = family
        self.published = dict(published or {})
        self.folder = folder
        self.layout = layout
        self.module = abstract_module(config)
        self._run = jax.jit(self.apply)

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        """What the network makes of its inputs; texts are tokens (B, T), images (B, C, H, W).

        Decoders: logits of (tokens, segment_ids=None, positions=None). Encoders: hidden states,
        pooled ones and a head's logits of (tokens, attention_mask=None, token_type_ids=None).
        Encoder-decoders: logits of (encoder_tokens, decoder_tokens, encoder_mask=None). Vision:
        logits of (pixel_values), or what an encoder gives where there is no head. Two towers: both
        embeddings and the similarities of (tokens, pixel_values, attention_mask=None).
        """
        return self._run(self.params, *inputs, **options)

    def apply(self, params: Nested, *inputs: Any, **options: Any) -> Any:
        """As a call, with other weights: a pure function, to be differentiated or compiled."""
        return _CALLS[self.config.type](bind(self.module, params), self.layout, *inputs, **options)


def load_model(
    folder: str | Path,
    *,
    dtype: Dtype = "float32",
    layout: Layout | None = None,
    on_progress: Progress | None = None,
) -> Model:
    """The model of a Hugging Face folder: config.json and safetensors, of any known family.

    A .gguf file of a Llama kind is decoded.

    dtype: of its weights and activations. layout: where the weights are read to, each device its
    part; None is one device. on_progress: called with the bytes read. ValueError for an unknown
    family, an option that cannot be expressed, or tensors that are not as config.json says.
    """
    if dtype not in ("float32", "bfloat16"):
        raise ValueError(f"dtype={dtype!r} is not known; give float32 or bfloat16")
    if layout is not None and layout.is_zigzag:
        raise ValueError(
            "a layout with parallel.context above 1 deals positions out in zigzag, which a call "
            "does not; take parallel.context=1, or parallel.context_attention=ulysses"
        )
    published = open_published(Path(folder))
    config = _in_precision(published.config, dtype)
    specs = spec_dict(abstract_module(config))
    if layout is not None:
        check_weights(layout, specs)
    params = read_weights(
        published,
        config,
        specs=specs,
        shardings=None if layout is None else weight_shardings(layout, specs),
        dtype=DTYPES[dtype],
        on_progress=on_progress,
    )
    return Model(
        config,
        params,
        family=published.family,
        published=published.raw,
        folder=published.path,
        layout=layout,
    )


def _in_precision(config: Any, dtype: Dtype) -> Any:
    """The config with this precision, in every network of it."""
    if "dtype" in type(config).model_fields:
        return config.model_copy(update={"dtype": dtype})
    parts = {
        name: _in_precision(part, dtype) for name, part in config if isinstance(part, BlockConfig)
    }
    return config.model_copy(update=parts)


def save_model(
    model: Model,
    folder: str | Path,
    *,
    dtype: str = "float32",
    max_shard_bytes: int = 5 * 10**9,
    on_progress: Progress | None = None,
) -> None:
    """Write a folder that `transformers` opens: config.json and safetensors, in shards.

    What lies beside the weights in the folder that it was loaded from, tokenizer and settings of
    generation, is copied as it is; of a .gguf file both are made of its metadata. ValueError for a
    folder that has something in it.
    """
    folder, kept = Path(folder), kept_keys(model.published, model.config)
    check_empty(folder)
    source, tokenizer = model.folder, None
    if source is not None and source.is_file():  # before anything is written, as it may fail
        tokenizer = find_tokenizer(source, vocab_size=None)
    write_weights(
        folder,
        model.config,
        model.params,
        family=model.family,
        dtype=dtype,
        extra=kept,
        max_shard_bytes=max_shard_bytes,
        on_progress=on_progress,
    )
    if tokenizer is not None:
        write_tokenizer(tokenizer, folder)
        write_generation(folder, ids=kept, stop_ids=tokenizer.stop_ids)
    elif source is not None and source.is_dir():
        copy_companions(source, folder)


def check_empty(folder: Path) -> None:
    """ValueError for a folder that has something in it, which nothing overwrites."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} exists and is not empty; give another folder")


def write_weights(
    folder: Path,
    config: Any,
    params: Nested,
    *,
    family: Family | None = None,
    dtype: str = "float32",
    extra: Mapping[str, Any] | None = None,
    max_shard_bytes: int = 5 * 10**9,
    on_progress: Progress | None = None,
) -> Family:
    """Write config.json and safetensors; returns the family whose names they have.

    family: by default the first that expresses the config. extra: further keys of config.json.
    ValueError where none does.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype {dtype!r} is not known; take {', '.join(DTYPES)}")
    if jax.process_count() > 1:
        raise ValueError("an export runs in one process; start it on one host")
    family = family_that_expresses(config, first=family)
    specs = spec_dict(abstract_module(config))
    found = tensors(params, specs=specs, rows=family.rows(config))
    folder.mkdir(parents=True, exist_ok=True)
    write_folder(
        folder,
        found,
        dtype=DTYPES[dtype],
        max_shard_bytes=max_shard_bytes,
        on_progress=on_progress,
    )
    # Last, as what makes the folder a model.
    theirs = {**family.write_config(config), "torch_dtype": dtype, **(extra or {})}
    text = json.dumps(theirs, indent=2, sort_keys=True) + "\n"
    (folder / "config.json").write_text(text, encoding="utf-8")
    return family


def _decoder(
    module: Any,
    layout: Layout | None,
    tokens: jax.Array,
    *,
    segment_ids: jax.Array | None = None,
    positions: jax.Array | None = None,
) -> jax.Array:
    module.config.check_length(tokens.shape[1], key="the length of tokens")
    return module(tokens, segment_ids_BT=segment_ids, positions_BT=positions, layout=layout)


def _encoder(
    module: Any,
    layout: Layout | None,
    tokens: jax.Array,
    *,
    attention_mask: jax.Array | None = None,
    token_type_ids: jax.Array | None = None,
    positions: jax.Array | None = None,
) -> Any:
    return module(
        tokens,
        segment_ids_BT=attention_mask,
        token_types_BT=token_type_ids,
        positions_BT=positions,
        layout=layout,
    )


def _vision(module: Any, layout: Layout | None, pixel_values: jax.Array) -> Any:
    encoded = module(jnp.moveaxis(pixel_values, 1, 3), layout=layout)
    return encoded if encoded.logits is None else encoded.logits


def _two_towers(
    module: Any,
    layout: Layout | None,
    tokens: jax.Array,
    pixel_values: jax.Array,
    *,
    attention_mask: jax.Array | None = None,
) -> Any:
    pixels_IHWC = jnp.moveaxis(pixel_values, 1, 3)
    return module(tokens, pixels_IHWC, segment_ids_BT=attention_mask, layout=layout)


def _encoder_decoder(
    module: Any,
    layout: Layout | None,
    encoder_tokens: jax.Array,
    decoder_tokens: jax.Array,
    *,
    encoder_mask: jax.Array | None = None,
    decoder_segment_ids: jax.Array | None = None,
) -> jax.Array:
    return module(
        encoder_tokens,
        decoder_tokens,
        encoder_mask_BS=encoder_mask,
        decoder_segment_ids_BT=decoder_segment_ids,
        layout=layout,
    )


_CALLS: dict[str, Callable[..., Any]] = {
    "decoder": _decoder,
    "encoder": _encoder,
    "vision": _vision,
    "two_towers": _two_towers,
    "encoder_decoder": _encoder_decoder,
}
