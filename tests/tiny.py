"""A tiny decoder, batches of packed documents for it, and programs that compile quickly.

B rows, T length.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.data.batch import make_batch
from jaxllm.models import DecoderConfig, EncoderConfig, EncoderDecoderConfig, VisionConfig
from jaxllm.nn.param import bind, spec_dict

VOCAB = 64
DELIMITER = 0
ROWS, LENGTH = 8, 16


def config(**changes):
    """Three layers, four query heads over two key/value heads: every size differs from others."""
    sizes = {"num_layers": 3, "embed_dim": 32, "num_heads": 4, "num_kv_heads": 2, "mlp_dim": 48}
    return DecoderConfig.model_validate(sizes | changes)


def gpt2(**changes):
    """Every option that GPT-2 needs."""
    options = {
        "num_kv_heads": None,
        "norm": "layer",
        "norm_epsilon": 1e-5,
        "positions": "learned",
        "max_length": 32,
        "is_gated": False,
        "activation": "gelu",
        "is_tied": True,
        "use_bias": True,
        "init_std": 0.02,
        "residual_init": "depth_scaled",
    }
    return config(**(options | changes))


def gemma(**changes):
    """Windows in two of three layers, with their own positions; norms on both sides, and caps."""
    options = {
        "window": 5,
        "window_pattern": (True, True, False),
        "window_rope_theta": 50.0,
        "rope_fraction": 0.5,
        "norm_position": "both",
        "has_centered_scale": True,
        "is_embed_scaled": True,
        "qk_norm": "projection",
        "query_scale": 0.3,
        "attention_soft_cap": 3.0,
        "attention_bias": "qkv",
    }
    return config(**(options | changes))


def deepseek(**changes):
    """Latent attention, with a longer context than it was made for."""
    options = {
        "num_kv_heads": None,
        "latent": {
            "query_rank": 12,
            "kv_rank": 16,
            "plain_dim": 6,
            "rope_dim": 4,
            "value_dim": 10,
        },
        "rope_theta": 100.0,
        "rope_scaling": {"type": "yarn", "factor": 4.0, "original_length": 8, "score_weight": 1.0},
    }
    return config(**(options | changes))


def bert(**changes):
    """An encoder with two token types and the head of masked tokens."""
    sizes = {"num_layers": 2, "embed_dim": 32, "num_heads": 4, "mlp_dim": 48, "max_length": 40}
    return EncoderConfig.model_validate(sizes | changes)


def vit(**changes):
    """An encoder of pictures of four patches, with five classes."""
    sizes = {"num_layers": 2, "embed_dim": 32, "num_heads": 4, "mlp_dim": 48}
    sizes |= {"image_size": 8, "patch_size": 4, "head": "image", "num_labels": 5}
    return VisionConfig.model_validate(sizes | changes)


def t5(**changes):
    """An encoder-decoder as T5 1.1 has it, the decoder deeper and with other heads."""
    sizes = {"num_layers": 1, "embed_dim": 32, "num_heads": 4, "mlp_dim": 48, "head_dim": 8}
    sizes |= {"num_decoder_layers": 2, "num_decoder_heads": 2, "num_buckets": 8}
    options = {"activation": "gelu", "max_distance": 12}
    return EncoderDecoderConfig.model_validate(sizes | options | changes)


def abstract(model_config):
    """The decoder's shapes; nothing is allocated."""
    return jax.eval_shape(lambda: model_config.build(jax.random.key(0), VOCAB))


def decoder(model_config, seed=0):
    """A decoder with weights of which none is idle: random biases, scales around one."""
    model = abstract(model_config)
    rng = np.random.default_rng(seed)

    def start(spec):
        values = rng.normal(size=spec.shape)
        by_role = {"scale": 1 + 0.1 * values, "bias": 0.1 * values}
        values = by_role.get(spec.role, spec.fan_in**-0.5 * values)
        return jnp.asarray(values, jnp.float32)

    return bind(model, jax.tree.map(start, spec_dict(model)))


def fast(function, **jit_arguments):
    """`jax.jit` without XLA's slow optimisations: a test runs a program once or twice."""
    options = {"xla_backend_optimization_level": 0}
    return jax.jit(function, compiler_options=options, **jit_arguments)


def batch(seed=0, *, rows=ROWS, length=LENGTH, documents=3, scored=None):
    """Rows of about `documents` random documents each; `scored` targets of each row count."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(1, VOCAB, (rows, length + 1))
    ids[rng.random(ids.shape) < documents / length] = DELIMITER
    return make_batch(
        ids.astype(np.int32),
        delimiter_id=DELIMITER,
        example_index=np.arange(rows) + 1000 * seed,
        scored_B=None if scored is None else np.asarray(scored),
    )
