"""DeepSeek-V3 and R1: latent attention, many small experts (arXiv:2412.19437)."""

from typing import Any

from jaxllm.hf.base import Family, Field, Rows
from jaxllm.hf.decoder_names import (
    EXPERTS,
    FIELDS,
    MLP,
    NORMS,
    PREFIX,
    Names,
    decoder_rows,
    ignored_tensors,
)
from jaxllm.hf.rope_keys import read_rope, write_rope
from jaxllm.hf.theirs import Theirs
from jaxllm.models.decoder_config import DecoderConfig


def _rows(config: DecoderConfig) -> Rows:
    latent = config.latent
    assert latent is not None
    plain, rope, value = latent.plain_dim, latent.rope_dim, latent.value_dim
    query = "q_proj" if latent.query_rank is None else "q_b_proj"
    both, rank = plain + rope, latent.kv_rank
    # Theirs rotates neighbours, ours the two halves of a head.
    pairs, halves = "(p c2)", "(c2 p)"
    block: Names = (
        *NORMS,
        ("attention.query_down.kernel", "self_attn.q_a_proj.weight", "Q D -> D Q"),
        ("attention.query_norm.scale", "self_attn.q_a_layernorm.weight", "Q -> Q"),
        ("attention.query.kernel", f"self_attn.{query}.weight", f"(N H@0/{both}) Q -> Q N H"),
        (
            "attention.query_rope.kernel",
            f"self_attn.{query}.weight",
            f"(N {pairs}@{plain}/{both}) Q -> Q N {halves}",
        ),
        (
            "attention.down.kernel",
            "self_attn.kv_a_proj_with_mqa.weight",
            f"R@0/{rank + rope} D -> D R",
        ),
        (
            "attention.key_rope.kernel",
            "self_attn.kv_a_proj_with_mqa.weight",
            f"{pairs}@{rank}/{rank + rope} D -> D {halves}",
        ),
        ("attention.norm.scale", "self_attn.kv_a_layernorm.weight", "R -> R"),
        (
            "attention.key.kernel",
            "self_attn.kv_b_proj.weight",
            f"(N H@0/{plain + value}) R -> R N H",
        ),
        (
            "attention.value.kernel",
            "self_attn.kv_b_proj.weight",
            f"(N H@{plain}/{plain + value}) R -> R N H",
        ),
        ("attention.out.kernel", "self_attn.o_proj.weight", "D (N H) -> N H D"),
        *MLP,
        *EXPERTS,
        ("moe.router.bias", "mlp.gate.e_score_correction_bias", "E -> E"),
        ("moe.shared.gate.kernel", "mlp.shared_experts.gate_proj.weight", "F D -> D F"),
        ("moe.shared.up.kernel", "mlp.shared_experts.up_proj.weight", "F D -> D F"),
        ("moe.shared.down.kernel", "mlp.shared_experts.down_proj.weight", "D F -> F D"),
    )
    return decoder_rows(config, block)


def _read(theirs: Theirs) -> dict[str, Any]:
    theirs.expect("attention_bias", False)
    theirs.expect("rope_interleave", True)
    theirs.expect("scoring_func", "sigmoid", default="sigmoid")
    theirs.expect("topk_method", "noaux_tc", default="noaux_tc")
    theirs.expect("moe_layer_freq", 1)
    theirs.expect("num_key_value_heads", theirs.get("num_attention_heads"), None)
    count = theirs.given("n_routed_experts", "num_local_experts")
    return {**read_rope(theirs), "moe.num_experts": count}


def _write(config: DecoderConfig) -> dict[str, Any]:
    latent = config.latent
    assert latent is not None
    assert config.moe is not None
    return {
        **write_rope(config),
        "n_routed_experts": config.moe.num_experts,
        "num_key_value_heads": config.num_heads,
        "qk_head_dim": latent.plain_dim + latent.rope_dim,
        "head_dim": latent.rope_dim,
        "rope_interleave": True,
        "num_nextn_predict_layers": 0,
    }


def _ignored(config: DecoderConfig) -> tuple[str, ...]:
    """Also the layer behind the last, which predicts one token further and is not for this."""
    return (*ignored_tensors(config), rf"model\.layers\.{config.num_layers}\..*")


FAMILY = Family(
    model_type="deepseek_v3",
    architecture="DeepseekV3ForCausalLM",
    config_type=DecoderConfig,
    fields=(
        *FIELDS,
        Field("is_tied", "tie_word_embeddings", False),
        Field("latent.query_rank", "q_lora_rank", 1536),
        Field("latent.kv_rank", "kv_lora_rank", 512),
        Field("latent.plain_dim", "qk_nope_head_dim", 128),
        Field("latent.rope_dim", "qk_rope_head_dim", 64),
        Field("latent.value_dim", "v_head_dim", 128),
        Field("moe.num_shared_experts", "n_shared_experts", 1),
        Field("moe.num_dense_layers", "first_k_dense_replace", 3),
        Field("moe.expert_dim", "moe_intermediate_size", 2048),
        Field("moe.top_k", "num_experts_per_tok", 8),
        Field("moe.num_groups", "n_group", 8),
        Field("moe.top_groups", "topk_group", 4),
        Field("moe.is_normalized", "norm_topk_prob", True),
        Field("moe.score_scale", "routed_scaling_factor", 2.5),
    ),
    fixed={
        "norm": "rms",
        "moe.scoring": "sigmoid",
        # The bias is there and stays; set a rate to go on balancing by it.
        "moe.bias_rate": 0.0,
    },
    read=_read,
    write=_write,
    rows=_rows,
    inert=frozenset(
        {"ep_size", "head_dim", "num_nextn_predict_layers", "num_mtp_layers", "qk_head_dim"}
        | {"aux_loss_alpha", "seq_aux", "mscale"}
    ),
    ignored=_ignored,
    prefix=PREFIX,
)
