"""The decoder families that hf_reference.py records, with small sizes off every default.

Key/value heads are fewer than query heads, head sizes differ from width / heads where a family
allows it, windows are shorter than the batch's 24 positions, and rope scaling starts early enough
to matter.
"""

from hf_reference_case import Case

COMMON = {"vocab_size": 97, "max_position_embeddings": 64, "eos_token_id": None}
LLAMA = COMMON | {
    "hidden_size": 36,
    "intermediate_size": 52,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "rms_norm_eps": 3e-5,
    "bos_token_id": 1,
}


def rope(theta: float, kind: str = "default", **settings: object) -> dict:
    """A config's rope_parameters."""
    return {"rope_parameters": {"rope_theta": theta, "rope_type": kind, **settings}}


def decoder(architecture: str, config: dict, **settings: object) -> Case:
    """A causal language model."""
    return Case(architecture, "decoder", config, **settings)


# The ramp ends behind the fourth of six frequencies, behind the third of five.
YARN = {
    "kind": "yarn",
    "factor": 4.0,
    "original_max_position_embeddings": 16,
    "beta_fast": 2.0,
    "beta_slow": 0.25,
}

LLAMAS = {
    "llama1": decoder("LlamaForCausalLM", LLAMA | {"num_key_value_heads": 6} | rope(5000.0)),
    "llama3": decoder(
        "LlamaForCausalLM",
        LLAMA
        | {"hidden_size": 48, "head_dim": 10, "tie_word_embeddings": True}
        | {"max_position_embeddings": 128}
        # The five wavelengths are 6.3 to 906: one is kept, one is blended, three are stretched.
        | rope(
            500.0,
            "llama3",
            factor=4.0,
            low_freq_factor=1.0,
            high_freq_factor=4.0,
            original_max_position_embeddings=32,
        ),
    ),
    "llama_yarn": decoder("LlamaForCausalLM", LLAMA | {"head_dim": 12} | rope(100.0, **YARN)),
    "llama_linear": decoder("LlamaForCausalLM", LLAMA | rope(3000.0, "linear", factor=2.5)),
    "llama_bias": decoder(
        "LlamaForCausalLM",
        LLAMA | {"attention_bias": True, "mlp_bias": True} | rope(20000.0),
    ),
    "mistral": decoder(
        "MistralForCausalLM",
        LLAMA | {"hidden_size": 40, "head_dim": 12, "sliding_window": 7} | rope(7000.0),
    ),
    "mixtral": decoder(
        "MixtralForCausalLM",
        LLAMA
        | {"num_key_value_heads": 3, "num_local_experts": 5, "num_experts_per_tok": 2}
        | {"sliding_window": 6}
        | rope(20000.0),
    ),
}

QWENS = {
    "qwen2": decoder(
        "Qwen2ForCausalLM",
        LLAMA
        | {"hidden_size": 48, "num_hidden_layers": 5, "tie_word_embeddings": True}
        | {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 2}
        | rope(40000.0),
    ),
    "qwen3": decoder(
        "Qwen3ForCausalLM",
        LLAMA
        | {"head_dim": 10, "num_key_value_heads": 3}
        | {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1}
        | rope(100.0, **YARN, truncate=False, attention_factor=0.8),
    ),
}
QWEN3_MOE = LLAMA | {
    "head_dim": 12,
    "num_experts": 6,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 20,
    "norm_topk_prob": True,
}
QWENS |= {
    "qwen3_moe": decoder(
        "Qwen3MoeForCausalLM", QWEN3_MOE | rope(100.0, **YARN, mscale=0.7, mscale_all_dim=1.5)
    ),
    "qwen3_moe_unnormalized": decoder(
        "Qwen3MoeForCausalLM",
        QWEN3_MOE
        | {"norm_topk_prob": False, "tie_word_embeddings": True}
        | {"use_sliding_window": True, "sliding_window": 8}
        # Of the two weights, one alone counts for nothing.
        | rope(100.0, **YARN, mscale=0.7),
    ),
}

GEMMA = LLAMA | {"head_dim": 10, "bos_token_id": 2}
GEMMAS = {
    "gemma": decoder(
        "GemmaForCausalLM",
        GEMMA
        | {"num_key_value_heads": 1, "hidden_act": "gelu_pytorch_tanh", "attention_bias": True}
        | rope(5000.0),
    ),
    "gemma2": decoder(
        "Gemma2ForCausalLM",
        GEMMA
        | {"head_dim": 12, "num_hidden_layers": 4, "sliding_window": 6}
        | {"query_pre_attn_scalar": 20, "hidden_activation": "gelu_pytorch_tanh"}
        | {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}
        | rope(5000.0),
    ),
    "gemma3_text": decoder(
        "Gemma3ForCausalLM",
        GEMMA
        | {"num_hidden_layers": 7, "sliding_window": 5, "sliding_window_pattern": 3}
        | {"attention_bias": True}
        | {"query_pre_attn_scalar": 14, "hidden_activation": "gelu_pytorch_tanh"}
        | {
            "rope_parameters": {
                "full_attention": {"rope_theta": 9000.0, "rope_type": "linear", "factor": 4.0},
                "sliding_attention": {"rope_theta": 500.0, "rope_type": "default"},
            }
        },
    ),
}

LONGROPE = {
    "short_factor": [1.1, 1.3, 1.7],
    "long_factor": [1.4, 2.5, 6.0],
    "partial_rotary_factor": 0.5,
}
PHI3 = LLAMA | {"hidden_size": 48, "sliding_window": None, "pad_token_id": 0}
PHI3_LONGROPE = PHI3 | {"num_attention_heads": 4} | rope(5000.0, "longrope", **LONGROPE)
OTHERS = {
    "gpt2": decoder(
        "GPT2LMHeadModel",
        {"vocab_size": 97, "n_positions": 40, "n_embd": 36, "n_layer": 3, "n_head": 6}
        | {"n_inner": 80, "layer_norm_epsilon": 3e-4, "bos_token_id": 1, "eos_token_id": None},
    ),
    "phi3": decoder("Phi3ForCausalLM", PHI3 | {"sliding_window": 7} | rope(5000.0)),
    # transformers takes the long factors for a whole batch once any row is longer than the
    # original length, and its cache would mix both: every prompt is long here, and short below.
    "phi3_longrope": decoder(
        "Phi3ForCausalLM",
        PHI3_LONGROPE | {"original_max_position_embeddings": 16},
        prompt_lengths=(17, 19, 22),
    ),
    "phi3_longrope_short": decoder(
        "Phi3ForCausalLM", PHI3_LONGROPE | {"original_max_position_embeddings": 32}
    ),
    "gpt_neox": decoder(
        "GPTNeoXForCausalLM",
        COMMON
        | {"hidden_size": 48, "num_attention_heads": 3, "num_hidden_layers": 3}
        | {"intermediate_size": 80, "layer_norm_eps": 3e-4}
        | {"use_parallel_residual": True}
        | rope(5000.0, partial_rotary_factor=0.25),
    ),
    "gpt_neox_sequential": decoder(
        "GPTNeoXForCausalLM",
        COMMON
        | {"hidden_size": 36, "num_attention_heads": 3, "num_hidden_layers": 3}
        | {"intermediate_size": 80, "layer_norm_eps": 3e-4}
        | {"use_parallel_residual": False, "hidden_act": "gelu_new"}
        | rope(700.0, partial_rotary_factor=0.5),
    ),
    "olmo2": decoder(
        "Olmo2ForCausalLM",
        LLAMA | {"num_key_value_heads": 3, "pad_token_id": 0} | rope(50000.0),
    ),
}

DEEPSEEK = LLAMA | {
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "kv_lora_rank": 12,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 6,
    "v_head_dim": 10,
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 20,
    "first_k_dense_replace": 1,
    "num_mtp_layers": 0,
}
DEEPSEEKS = {
    "deepseek_v3": decoder(
        "DeepseekV3ForCausalLM",
        DEEPSEEK
        | {"q_lora_rank": 20, "n_group": 4, "topk_group": 2, "n_shared_experts": 1}
        | {"routed_scaling_factor": 1.7, "norm_topk_prob": True, "rope_interleave": True}
        | rope(100.0, **YARN, mscale=0.7, mscale_all_dim=1.0),
    ),
    "deepseek_v3_plain": decoder(
        "DeepseekV3ForCausalLM",
        DEEPSEEK
        | {"q_lora_rank": None, "n_group": 1, "topk_group": 1, "n_shared_experts": 2}
        | {"routed_scaling_factor": 1.3, "norm_topk_prob": False}
        | rope(5000.0),
    ),
}

DECODERS = LLAMAS | QWENS | GEMMAS | OTHERS | DEEPSEEKS
