"""The config.json of a case as older versions of transformers wrote it, for hf_reference.py.

Most checkpoints on disk were written before version 5, which moved what concerns rotations into
rope_parameters and the windows of layers into layer_types.
"""

ONLY_IN_5 = (
    "layer_types",
    "rope_parameters",
    "_sliding_window_pattern",
    # T5: follow from feed_forward_proj and tie_word_embeddings.
    "dense_act_fn",
    "is_gated_act",
    "scale_decoder_outputs",
    # DeepSeek: follow from the sizes of the parts of a head.
    "qk_head_dim",
    "rope_interleave",
)
RENAMED = {"dtype": "torch_dtype"}
RENAMED_IN = {"qwen3_moe": {"num_local_experts": "num_experts"}}
# Theta, and the rotated part of a head.
ROPE_NAMES = {"gpt_neox": ("rotary_emb_base", "rotary_pct")}


def legacy_config(config: dict) -> dict | None:
    """The same model in the old form; None for a family whose config did not change."""
    kind, rope = config["model_type"], config.get("rope_parameters")
    if rope is None and kind != "t5":
        return None
    names = RENAMED | RENAMED_IN.get(kind, {})
    old = {names.get(key, key): value for key, value in config.items() if key not in ONLY_IN_5}
    old["transformers_version"] = "4.44.0"
    if old.get("head_dim", 0) is None or kind == "deepseek_v3":
        del old["head_dim"]
    if rope is None:
        return old
    if "full_attention" in rope:
        old["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
        rope = rope["full_attention"]
    rope = dict(rope)
    theta, rotated_part = ROPE_NAMES.get(kind, ("rope_theta", "partial_rotary_factor"))
    old[theta] = rope.pop("rope_theta")
    if "partial_rotary_factor" in rope:
        old[rotated_part] = rope.pop("partial_rotary_factor")
    old["rope_scaling"] = _scaling(rope, config)
    return old


def _scaling(rope: dict, config: dict) -> dict | None:
    """What remains of rope_parameters: None unless it scales."""
    kind = rope.pop("rope_type")
    if kind == "default":
        return None
    if "original_max_position_embeddings" in config:
        rope.pop("original_max_position_embeddings")
    # Llama 3.1 brought the present name of this key, and Gemma 3 came later; before, it was "type".
    is_new_name = kind == "llama3" or config["model_type"] == "gemma3_text"
    return {"rope_type" if is_new_name else "type": kind, **rope}
