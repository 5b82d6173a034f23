"""What an encoder-only transformer can be: BERT and what came of it."""

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import jax
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from jaxllm.models.block_config import BlockConfig, NormPosition, padded_vocab_size
from jaxllm.models.heads import check_labels
from jaxllm.nn.attention import Scores
from jaxllm.nn.mlp import Activation
from jaxllm.nn.norm import NormType

if TYPE_CHECKING:
    from jaxllm.models.encoder import Encoder

EncoderHead = Literal["none", "pooler", "masked_lm", "pretraining", "sequence", "token", "span"]


class EncoderConfig(BlockConfig):
    """An encoder of texts, every token of which sees all others. The defaults are a small BERT."""

    type: Literal["encoder"] = "encoder"
    """Kind of network: an encoder."""
    vocab_size: PositiveInt | None = None
    """Rows of the embedding; null is the size that it is built with."""
    max_length: PositiveInt = 512
    """Rows of the learned position table."""
    padding_id: NonNegativeInt | None = None
    """Token without a position of its own: those of the others begin at padding_id + 1, as in
    RoBERTa; null counts every token from 0."""
    num_token_types: NonNegativeInt = 2
    """Rows of the table that tells the texts of a pair apart; 0 has no table."""
    has_input_norm: bool = True
    """Whether the sum of the embeddings is normalised."""
    norm: NormType = "layer"
    """Normalisation of embeddings, attention and feed-forward: rms or layer."""
    norm_epsilon: PositiveFloat = 1e-12
    """Added to the variance in every norm."""
    norm_position: NormPosition = "post"
    """Where a block normalises: its branches' inputs (pre), their results (branch), both, or the
    residual stream behind each (post)."""
    is_gated: bool = False
    """Whether the feed-forward layer has a gate (SwiGLU, GeGLU)."""
    activation: Activation = "gelu_exact"
    """Nonlinearity of the feed-forward layer: silu, gelu, gelu_exact, gelu_sigmoid, relu or
    relu_squared."""
    use_bias: bool = True
    """Whether linear layers and layer norms have biases."""
    init_std: PositiveFloat | None = 0.02
    """Standard deviation of hidden matrices at the start; null is 1 / sqrt(fan-in)."""
    head: EncoderHead = "masked_lm"
    """What is made of the states: none, one vector of each row's first (pooler), or scores: of
    the tokens that were masked (masked_lm), these and whether the second text of a row follows
    the first (pretraining), classes of each row (sequence) or of each token (token), beginning
    and end of an answer (span)."""
    head_activation: Activation | None = None
    """Nonlinearity of the heads masked_lm and pretraining; null is as activation."""
    num_labels: PositiveInt | None = None
    """Number of classes, of the heads sequence and token alone."""

    @model_validator(mode="after")
    def _head_fits(self) -> "EncoderConfig":
        check_labels(self.head, self.num_labels, labelled=("sequence", "token"))
        if self.num_positions < 1:
            raise ValueError(
                f"max_length={self.max_length} leaves no position behind padding_id="
                f"{self.padding_id}; raise max_length"
            )
        return self

    @property
    def scores(self) -> Scores:
        """How attention scores are made."""
        return replace(super().scores, is_causal=False)

    @property
    def first_position(self) -> int:
        """The row of the position table that a text begins with."""
        return 0 if self.padding_id is None else self.padding_id + 1

    @property
    def num_positions(self) -> int:
        """The longest text, in tokens."""
        return self.max_length - self.first_position

    def padded_vocab_size(self, num_ids: int) -> int:
        """Rows of the embedding. ValueError if fewer than the ids that are used."""
        return padded_vocab_size(self.vocab_size, num_ids)

    def check_length(self, length: int, *, key: str) -> None:
        """ValueError, naming what is too long, if there is no position for `length` tokens."""
        if length > self.num_positions:
            raise ValueError(
                f"{key} is {length}, but the model has {self.num_positions} learned positions; "
                "raise model.max_length"
            )

    def build(self, key: jax.Array, vocab_size: int) -> "Encoder":
        """A new encoder over `vocab_size` tokens; call under eval_shape for its shapes only."""
        from jaxllm.models.encoder import Encoder  # it is built of what reads this config

        return Encoder(key, self, vocab_size)
