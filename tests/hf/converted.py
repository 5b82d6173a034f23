"""Models as llama.cpp's converter writes them: its names, its order of rows, its metadata."""

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type

NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    **{f"self_attn.{part}_proj": f"attn_{part}" for part in "qkv"},
    **{f"self_attn.{part}_norm": f"attn_{part}_norm" for part in "qk"},
    "self_attn.o_proj": "attn_output",
    **{f"mlp.{part}_proj": f"ffn_{part}" for part in ("gate", "up", "down")},
}
# Every size differs from others; rows are as long as blocks.
TINY = {
    "model_type": "llama",
    "vocab_size": 70,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 24,
    "intermediate_size": 256,
    "max_position_embeddings": 32,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_theta": 500.0, "rope_type": "default"},
}


def shapes():
    """The tensors of TINY, untied."""
    found = {"model.embed_tokens": (70, 64), "model.norm": (64,), "lm_head": (70, 64)}
    for layer in (0, 1):
        block = {"input_layernorm": (64,), "post_attention_layernorm": (64,)}
        block |= {"self_attn.q_proj": (96, 64), "self_attn.o_proj": (64, 96)}
        block |= {"self_attn.k_proj": (48, 64), "self_attn.v_proj": (48, 64)}
        block |= {"mlp.gate_proj": (256, 64), "mlp.up_proj": (256, 64), "mlp.down_proj": (64, 256)}
        found |= {f"model.layers.{layer}.{part}": shape for part, shape in block.items()}
    return {f"{name}.weight": shape for name, shape in found.items()}


def tiny():
    random = np.random.default_rng(0)
    return {name: random.normal(0, 0.3, s).astype(np.float32) for name, s in shapes().items()}


def keys(raw, **changes):
    """The metadata that the converter writes for a config.json; None leaves a key out."""
    heads, width = raw["num_attention_heads"], raw["hidden_size"]
    found = {
        "block_count": raw["num_hidden_layers"],
        "embedding_length": width,
        "feed_forward_length": raw["intermediate_size"],
        "context_length": raw["max_position_embeddings"],
        "attention.head_count": heads,
        "attention.head_count_kv": raw["num_key_value_heads"],
        "attention.layer_norm_rms_epsilon": raw["rms_norm_eps"],
        "rope.freq_base": raw["rope_parameters"]["rope_theta"],
        "rope.dimension_count": raw.get("head_dim", width // heads),
        "vocab_size": raw["vocab_size"],
    }
    if raw.get("head_dim", width // heads) * heads != width:
        found |= {
            "attention.key_length": raw["head_dim"],
            "attention.value_length": raw["head_dim"],
        }
    found |= {key.replace("__", "."): value for key, value in changes.items()}
    return {f"{raw['model_type']}.{key}": v for key, v in found.items() if v is not None}


def name_of(theirs):
    """What llama.cpp calls a tensor."""
    part, _, kind = theirs.rpartition(".")
    block = ""
    if part.startswith("model.layers."):
        _, _, layer, part = part.split(".", 3)
        block = f"blk.{layer}."
    return f"{block}{NAMES[part]}.{kind}"


def converted(tensors, raw):
    """The tensors by llama.cpp's names, and for Llama with the rows in its order."""
    found = {}
    for name, values in tensors.items():
        heads = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}
        if raw["model_type"] == "llama" and (key := heads.get(name.split(".")[-2])):
            halves = values.reshape(raw[key], 2, -1, *values.shape[1:])
            values = halves.swapaxes(1, 2).reshape(values.shape)
        found[name_of(name)] = values
    return found


def quantised(values, kind):
    """(type, blocks). Vectors stay float32, as in every file, and so does what has other rows."""
    length, size = gguf.GGML_QUANT_SIZES[kind]
    if values.ndim == 1 or values.shape[-1] % length:
        return Type.F32, values
    if kind != Type.Q6_K:
        return kind, gguf.quantize(values, kind)
    # The package cannot write these: any bytes are a block, and the last two of it its scale.
    random = np.random.default_rng(values.size)
    blocks = random.integers(0, 256, (values.size // length, size)).astype(np.uint8)
    blocks[:, -2:] = random.uniform(1e-5, 1e-4, (len(blocks), 1)).astype("<f2").view(np.uint8)
    return kind, blocks.reshape(values.shape[0], -1)


def write(path, raw, tensors, *, metadata=None, kind="F32"):
    """A file, and its tensors by llama.cpp's names: (type, blocks)."""
    writer = gguf.GGUFWriter(path, raw["model_type"])
    adders = {str: writer.add_string, int: writer.add_uint32, float: writer.add_float32}
    adders |= {bool: writer.add_bool, list: writer.add_array}
    for key, value in (keys(raw) if metadata is None else metadata).items():
        adders[type(value)](key, value)
    blocks = {name: quantised(values, Type[kind]) for name, values in tensors.items()}
    for name, (type_, array) in blocks.items():
        writer.add_tensor(name, array, raw_dtype=type_)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return blocks
