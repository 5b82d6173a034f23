"""Tiny networks of every family with adapters: their weights, and what they make of some rows."""

import jax
import jax.numpy as jnp
import numpy as np
import tiny

from jaxllm.models.decoder import Decoder
from jaxllm.models.encoder_decoder import EncoderDecoder
from jaxllm.models.encoder_decoder_config import EncoderDecoderConfig
from jaxllm.models.vision import Vision
from jaxllm.models.vision_config import VisionConfig
from jaxllm.nn.adapters import is_adapter
from jaxllm.nn.param import bind, spec_dict

SIZES = {"num_layers": 1, "embed_dim": 32, "num_heads": 4, "mlp_dim": 48}
MOE = {"num_experts": 4, "expert_dim": 24, "num_shared_experts": 1}
NETWORKS = {
    "llama": tiny.config(num_layers=2, qk_norm="head"),
    "unscanned": tiny.gpt2(num_layers=2, is_scanned=False),
    "latent": tiny.deepseek(num_layers=2),
    "experts": tiny.config(num_layers=1, moe=MOE),
    "encoder": tiny.bert(),
    "translation": EncoderDecoderConfig(**SIZES, is_gated=True),
    "images": VisionConfig(**SIZES, image_size=8, patch_size=4),
}
POSITIONS_BT = np.broadcast_to(np.arange(tiny.LENGTH), (4, tiny.LENGTH))


def adapted(config, adapter):
    """A tiny abstract network with adapters."""

    def make(key):
        model = config.build(key, tiny.VOCAB)
        adapter.attach(key, model)
        return model

    return jax.eval_shape(make, jax.random.key(0))


def weights(model, *, is_new):
    """Random weights; those of adapters as they begin, or as training may leave them."""
    rng = np.random.default_rng(0)

    def start(path, spec):
        values = rng.normal(size=spec.shape)
        names = [key.key for key in path]
        if not is_adapter(".".join(names)):
            by_role = {"scale": 1 + 0.1 * values, "bias": 0.1 * values}
            values = by_role.get(spec.role, spec.fan_in**-0.5 * values)
        elif is_new and names[-1] != "a" and "down" not in names[-2:]:
            values = 0 * values
        else:
            values = 0.2 * values
        return np.float32(values)

    return jax.tree.map_with_path(start, spec_dict(model))


ROWS = tiny.batch(0, rows=4)


def hidden(model):
    """The network's states of four rows: of (its weights), or also (keys, an order of the rows)."""

    def run(params, keys_B=None, order=slice(None)):
        network = bind(model, params)
        tokens_BT = jnp.asarray(ROWS["tokens"])[order]
        fields = {"keys_B": None if keys_B is None else keys_B[order]}
        if isinstance(network, EncoderDecoder):
            return network.hidden(tokens_BT, tokens_BT[:, ::-1], **fields)
        if isinstance(network, Vision):
            pixels_BHWC = jax.random.normal(jax.random.key(0), (4, 8, 8, 3))
            return network(pixels_BHWC[order], **fields).hidden_BTD
        fields["positions_BT"] = POSITIONS_BT
        if isinstance(network, Decoder):
            return network.hidden(tokens_BT, **fields)[0]
        return network(tokens_BT, **fields).hidden_BTD

    return tiny.fast(run)
