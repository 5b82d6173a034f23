"""A GGUF file as if it were a folder of Hugging Face: config, tensors by their names, tokenizer.

Its metadata and names are llama.cpp's. For Llama, llama.cpp rotates neighbours where Hugging Face
rotates the two halves of a head, so the rows of queries and keys lie in another order, which is
undone here. Source: convert_hf_to_gguf.py and docs/ of https://github.com/ggml-org/llama.cpp.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxllm.data.huggingface_tokenizer import HuggingFaceTokenizer
from jaxllm.hf.gguf_file import GgufFile, StoredTensor, read_gguf
from jaxllm.hf.gguf_tokenizer import PREFIX, read_tokenizer
from jaxllm.hf.theirs import Theirs


class _Architecture(NamedTuple):
    """Models of one `general.architecture`, which is also their model_type.

    is_interleaved: whether llama.cpp rotates neighbours. biases: keys of their config.json by a
    tensor that the model has if they hold.
    """

    is_interleaved: bool = False
    biases: Mapping[str, str] = {}


ARCHITECTURES = {
    "llama": _Architecture(
        is_interleaved=True,
        biases={"attention_bias": "blk.0.attn_q.bias", "mlp_bias": "blk.0.ffn_up.bias"},
    ),
    "qwen2": _Architecture(),
    "qwen3": _Architecture(biases={"attention_bias": "blk.0.attn_q.bias"}),
}

ROPE_FACTORS = "rope_freqs.weight"
NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
BLOCK_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}

# Keys of an architecture that say nothing about what the network computes.
INERT = frozenset(("vocab_size", "expert_used_count", "tensor_data_layout"))
# What every published Llama has whose frequencies are divided as in Llama 3.1.
LOW_FREQUENCY, HIGH_FREQUENCY, ORIGINAL_LENGTH = 1.0, 4.0, 8192


@dataclass(frozen=True)
class GgufEntry:
    """A tensor of a model. num_heads: of a tensor whose rows are pairs of neighbours, else None."""

    stored: StoredTensor
    num_heads: int | None = None
    problem: None = None  # types that cannot be decoded are refused with the file

    @property
    def shape(self) -> tuple[int, ...]:
        return self.stored.shape

    def array(self) -> np.ndarray:
        """The tensor, float32, as Hugging Face has it."""
        return self.read((slice(None),) * len(self.shape))

    def read(self, box: tuple[slice, ...]) -> np.ndarray:
        """A part of it: one slice for each dimension. Of heads whole ones are decoded."""
        if self.num_heads is None:
            return self.stored.read(box)
        first, last, _ = box[0].indices(self.shape[0])
        size = self.shape[0] // self.num_heads
        begin = first // size * size
        heads = self.stored.read((slice(begin, -(-last // size) * size), *box[1:]))
        halves = heads.reshape(len(heads) // size, size // 2, 2, *heads.shape[1:]).swapaxes(1, 2)
        return halves.reshape(heads.shape)[first - begin : last - begin]


@dataclass(frozen=True)
class GgufModel:
    """What a folder of Hugging Face would have. config: as in its config.json."""

    file: GgufFile
    config: Mapping[str, Any]

    @cached_property
    def tensors(self) -> dict[str, GgufEntry]:
        """The tensors by Hugging Face's names; names that are not known here stay as they are."""
        stored = {key: value for key, value in self.file.tensors.items() if key != ROPE_FACTORS}
        return {_name(key): GgufEntry(value, self._heads(key)) for key, value in stored.items()}

    def tokenizer(self) -> HuggingFaceTokenizer | None:
        """The tokenizer that the file describes, if it does. ValueError if it is not known, or too
        large."""
        if not any(key.startswith(PREFIX) for key in self.file.metadata):
            return None
        return read_tokenizer(
            self.file.metadata, name=str(self.file.path), vocab_size=self.config["vocab_size"]
        )

    def _heads(self, name: str) -> int | None:
        if not ARCHITECTURES[self.config["model_type"]].is_interleaved:
            return None
        if re.fullmatch(r"blk\.\d+\.attn_q\.(weight|bias)", name):
            return self.config["num_attention_heads"]
        if re.fullmatch(r"blk\.\d+\.attn_k\.(weight|bias)", name):
            return self.config["num_key_value_heads"]
        return None


def open_gguf(path: Path) -> GgufModel:
    """The model of a GGUF file, of a known architecture, its tensors not read yet.

    ValueError for a broken file, an architecture, an option or a type of numbers that is not known
    here, and for quantised tensors without the package gguf.
    """
    file = read_gguf(path)
    name = file.metadata.get("general.architecture")
    if name not in ARCHITECTURES:
        raise ValueError(
            f"{path}: general.architecture={name!r} is not known here; known are "
            f"{', '.join(ARCHITECTURES)}; get the model as safetensors"
        )
    return GgufModel(file, _read_config(file, name))


def _name(name: str) -> str:
    """What Hugging Face calls a tensor."""
    if found := re.fullmatch(r"blk\.(\d+)\.(\w+)\.(weight|bias)", name):
        layer, part, kind = found.groups()
        if part in BLOCK_NAMES:
            return f"model.layers.{layer}.{BLOCK_NAMES[part]}.{kind}"
    part, _, kind = name.rpartition(".")
    return f"{NAMES[part]}.{kind}" if part in NAMES else name


def _read_config(file: GgufFile, name: str) -> dict[str, Any]:
    """The keys of a config.json."""
    prefix = f"{name}."
    keys = {k.removeprefix(prefix): v for k, v in file.metadata.items() if k.startswith(prefix)}
    theirs = Theirs(keys, name=f"{file.path}: the metadata of {name}")
    theirs.expect("expert_count", 0)
    num_heads = _count(theirs, "attention.head_count")
    width = _count(theirs, "embedding_length")
    head_dim = _count(theirs, "attention.key_length", width // num_heads)
    theirs.expect("attention.value_length", head_dim)
    theirs.expect("rope.dimension_count", head_dim)
    if "token_embd.weight" not in file.tensors:
        theirs.refuse("the file has no token_embd.weight, the embedding of every model")
    config = {
        "model_type": name,
        "vocab_size": file.tensors["token_embd.weight"].shape[0],
        "hidden_size": width,
        "num_hidden_layers": _count(theirs, "block_count"),
        "num_attention_heads": num_heads,
        "num_key_value_heads": _count(theirs, "attention.head_count_kv", num_heads),
        "head_dim": head_dim,
        "intermediate_size": _count(theirs, "feed_forward_length"),
        "max_position_embeddings": _count(theirs, "context_length"),
        "rms_norm_eps": theirs.get("attention.layer_norm_rms_epsilon"),
        "hidden_act": "silu",
        "tie_word_embeddings": "output.weight" not in file.tensors,
        **_read_rope(theirs, head_dim, file.tensors.get(ROPE_FACTORS)),
    }
    config |= {key: bias in file.tensors for key, bias in ARCHITECTURES[name].biases.items()}
    theirs.check_all_read(INERT)
    return config | _ids(file.metadata)


def _count(theirs: Theirs, key: str, default: int | None = None) -> int:
    """A positive number. ValueError for a list, which gives each layer one of its own."""
    value = theirs.get(key) if default is None else theirs.get(key, default)
    if not isinstance(value, int) or value < 1:
        theirs.refuse(f"{key} is {value!r}; only one number for all layers can be expressed here")
    return value


def _ids(metadata: Mapping[str, Any]) -> dict[str, int]:
    """The ids of special tokens that a config.json has."""
    roles = {"bos": "bos", "eos": "eos", "unknown": "unk", "padding": "pad"}
    ids = {r: metadata.get(f"tokenizer.ggml.{role}_token_id") for role, r in roles.items()}
    return {f"{role}_token_id": id_ for role, id_ in ids.items() if id_ is not None}


def _read_rope(theirs: Theirs, head_dim: int, factors: StoredTensor | None) -> dict[str, Any]:
    """rope_theta and rope_scaling."""
    theta = theirs.get("rope.freq_base", 10_000.0)
    kind = theirs.get("rope.scaling.type", "linear")
    factor = theirs.given("rope.scaling.factor", "rope.scale_linear", default=0.0) or 1.0
    length = theirs.get("rope.scaling.original_context_length", None)
    theirs.get("rope.scaling.finetuned", None)
    if kind not in ("none", "linear", "yarn"):
        theirs.refuse(f"rope.scaling.type={kind!r} is not known here, only none, linear, yarn")
    is_scaled = kind == "yarn" or (kind == "linear" and factor != 1.0)
    scaling: dict[str, Any] | None = None
    if factors is not None:
        if is_scaled:
            theirs.refuse(f"rope.scaling.type={kind!r} together with {ROPE_FACTORS}")
        scaling = _divided(theirs, theta, head_dim, factors.array())
    elif is_scaled:
        scaling = {"rope_type": kind, "factor": factor}
    if kind == "yarn" and scaling and length:
        scaling["original_max_position_embeddings"] = length
    return {"rope_theta": theta, "rope_scaling": scaling}


def _divided(
    theirs: Theirs, theta: float, head_dim: int, factors: np.ndarray
) -> dict[str, Any] | None:
    """The rope_scaling that divides each frequency by its factor.

    It is named llama3 where its formula, whose numbers the file does not have, gives these factors
    to the precision of float32; longrope says any factors.
    """
    if factors.shape != (head_dim // 2,) or not (factors > 0).all():
        theirs.refuse(f"{ROPE_FACTORS} is not {head_dim // 2} positive numbers")
    if (factors == 1).all():
        return None
    factor = float(str(factors.max()))
    turns = ORIGINAL_LENGTH * theta ** (-np.arange(0, head_dim, 2) / head_dim) / (2 * math.pi)
    kept = np.clip((turns - LOW_FREQUENCY) / (HIGH_FREQUENCY - LOW_FREQUENCY), 0, 1)
    if np.allclose(factors, 1 / ((1 - kept) / factor + kept), rtol=1e-5, atol=0):
        return {
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": LOW_FREQUENCY,
            "high_freq_factor": HIGH_FREQUENCY,
            "original_max_position_embeddings": ORIGINAL_LENGTH,
        }
    return {
        "rope_type": "longrope",
        "short_factor": factors.tolist(),
        "long_factor": factors.tolist(),
        "original_max_position_embeddings": theirs.get("context_length"),
        "attention_factor": 1.0,
    }
