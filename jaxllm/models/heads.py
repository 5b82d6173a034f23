"""What makes results of the states of an encoder.

B batch, T length, D embed, P projection, V vocabulary, C classes.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from jaxllm.models.block_config import BlockConfig
from jaxllm.nn.embed import Embedding
from jaxllm.nn.linear import Linear
from jaxllm.nn.mlp import ACTIVATIONS, Activation
from jaxllm.nn.norm import Norm
from jaxllm.nn.param import declare, zeros
from jaxllm.parallel.axes import WeightAxis, WeightSpec


class Encoded(NamedTuple):
    """What an encoder makes of a batch.

    hidden_BTD: its states behind the last norm. pooled_BP: one vector a row, where the head makes
    one. logits: of the head, (B, T, V or C) or (B, C); both of a head with two; None without one.
    """

    hidden_BTD: jax.Array
    pooled_BP: jax.Array | None
    logits: "jax.Array | PretrainingLogits | None"


class PretrainingLogits(NamedTuple):
    """Scores of the tokens that were masked, and of the second text being the next one or not.

    next_B2: the first is that it follows.
    """

    tokens_BTV: jax.Array
    next_B2: jax.Array


class Pooler(nnx.Module):
    """tanh of a linear layer, made for the first state of a row (arXiv:1810.04805)."""

    def __init__(self, key: jax.Array, config: BlockConfig):
        self.dense = projection(key, config, size=config.embed_dim, use_bias=config.use_bias)

    def __call__(self, x_BD: jax.Array) -> jax.Array:
        """(B, D) -> (B, P), of the same width."""
        return jnp.tanh(self.dense(x_BD))


class VocabularyHead(nnx.Module):
    """The likelihood of every token: a layer, its norm, and products with the embedding."""

    def __init__(
        self, key: jax.Array, config: BlockConfig, *, activation: Activation, vocab_size: int
    ):
        dense_key, norm_key, bias_key = jax.random.split(key, 3)
        self.activation = activation
        self.dense = projection(dense_key, config, size=config.embed_dim, use_bias=config.use_bias)
        self.norm = Norm(
            norm_key,
            axis="projection",
            size=config.embed_dim,
            norm_type=config.norm,
            epsilon=config.norm_epsilon,
            use_bias=config.use_bias and config.norm == "layer",
            has_centered_scale=config.has_centered_scale,
        )
        bias = WeightSpec((vocab_size,), ("vocab",), "bias", output_dims=(0,))
        self.bias = declare(bias_key, bias, zeros) if config.use_bias else None

    def __call__(self, x_BTD: jax.Array, embed: Embedding) -> jax.Array:
        """(B, T, D) -> logits (B, T, V)."""
        h_BTP = self.norm(ACTIVATIONS[self.activation](self.dense(x_BTD)))
        logits_BTV = embed.attend(h_BTP)
        return logits_BTV if self.bias is None else logits_BTV + self.bias[...].astype(x_BTD.dtype)


def projection(key: jax.Array, config: BlockConfig, *, size: int, use_bias: bool) -> Linear:
    """A linear layer from the residual stream to a vector of `size`."""
    return Linear(
        key,
        inputs={"embed": config.embed_dim},
        outputs={"projection": size},
        use_bias=use_bias,
        init=config.hidden_init,
    )


def label_head(key: jax.Array, config: BlockConfig, *, axis: WeightAxis, num_labels: int) -> Linear:
    """A linear layer to classes, of states (axis embed) or of pooled vectors (projection)."""
    return Linear(
        key,
        inputs={axis: config.embed_dim},
        outputs={"labels": num_labels},
        use_bias=config.use_bias,
        init=config.hidden_init,
        role="output",
    )


def check_labels(head: str, num_labels: int | None, *, labelled: tuple[str, ...]) -> None:
    """ValueError unless num_labels is given with the heads that need it, and with no other."""
    if head in labelled and num_labels is None:
        raise ValueError(f"head={head} needs num_labels, the number of classes")
    if head not in labelled and num_labels is not None:
        raise ValueError(
            f"num_labels={num_labels} is given, but head={head} has no classes; leave it out, or "
            f"choose {' or '.join(labelled)}"
        )
