"""The encoder-only transformer.

B batch, T length, D embed, P projection, V vocabulary, C classes.
"""

import jax
import jax.numpy as jnp

from jaxllm.models.block import Rows
from jaxllm.models.encoder_config import EncoderConfig
from jaxllm.models.heads import Encoded, Pooler, PretrainingLogits, VocabularyHead, label_head
from jaxllm.models.tower import Tower
from jaxllm.nn.dropout import dropout, fold_in
from jaxllm.nn.embed import Embedding
from jaxllm.nn.linear import Linear
from jaxllm.parallel.axes import WeightAxis
from jaxllm.parallel.layouts import Layout, constrain
from jaxllm.parallel.stages import outside


class Encoder(Tower):
    """Token ids -> states that have seen the whole text, and what its head makes of them."""

    def __init__(self, key: jax.Array, config: EncoderConfig, vocab_size: int):
        keys = jax.random.split(key, 5)
        super().__init__(
            keys[0], config, scores=config.scores, has_input_norm=config.has_input_norm
        )
        self.config = config
        self.vocab_size = vocab_size
        self.embed = _table(keys[1], config, "vocab", vocab_size)
        self.position_embed = _table(keys[2], config, "positions", config.max_length)
        num_types = config.num_token_types
        self.type_embed = _table(keys[3], config, "token_types", num_types) if num_types else None
        has_pooler = config.head in ("pooler", "pretraining", "sequence")
        # Of one head the layers have the same key, as they always had.
        pooler_key = jax.random.fold_in(keys[4], 2) if config.head == "pretraining" else keys[4]
        self.pooler = Pooler(pooler_key, config) if has_pooler else None
        self.vocabulary_head = (
            VocabularyHead(
                keys[4],
                config,
                activation=config.head_activation or config.activation,
                vocab_size=vocab_size,
            )
            if config.head in ("masked_lm", "pretraining")
            else None
        )
        self.label_head = _label_head(jax.random.fold_in(keys[4], 1), config)

    def __call__(
        self,
        tokens_BT: jax.Array,
        *,
        segment_ids_BT: jax.Array | None = None,
        token_types_BT: jax.Array | None = None,
        positions_BT: jax.Array | None = None,
        keys_B: jax.Array | None = None,
        layout: Layout | None = None,
    ) -> Encoded:
        """(B, T) ids -> states (B, T, D), pooled (B, P) and logits, by the head.

        Logits: masked_lm (B, T, V), token (B, T, C), sequence (B, C), span (B, T, 2), the scores
        of beginning and end; pretraining both of (B, T, V) and (B, 2).

        segment_ids_BT: tokens see those of their own segment only, packed texts or, with 1 and 0,
        a text and its padding; None is one text a row. A row is pooled at its first token.
        token_types_BT: which text of a pair; default the first. positions_BT: within each text,
        from 0; default within the row, where padding_id is not counted. keys_B: one random key an
        example for dropout; None is off. ValueError for rows longer than the position table, or
        types without their table.
        """
        layout = None if layout is None else outside(layout)
        if token_types_BT is not None and self.type_embed is None:
            raise ValueError("token types are given, but the model has num_token_types=0")
        if positions_BT is None:
            self.config.check_length(tokens_BT.shape[1], key="the length of the rows")
            positions_BT = self._count(tokens_BT)
        platform = jax.default_backend() if layout is None else layout.platform
        dtype = self.config.compute_dtype(platform)
        x_BTD = self.embed(tokens_BT, dtype=dtype, layout=layout)
        if self.type_embed is not None:
            types_BT = jnp.zeros_like(tokens_BT) if token_types_BT is None else token_types_BT
            x_BTD = x_BTD + self.type_embed(types_BT, dtype=dtype, layout=layout)
        place_BT = positions_BT + self.config.first_position
        x_BTD = x_BTD + self.position_embed(place_BT, dtype=dtype, layout=layout)
        rows = Rows(positions_BT, segment_ids_BT, keys_B)
        x_BTD = self.encode(x_BTD, rows, rate=self.config.dropout, layout=layout)
        return self._answer(x_BTD, keys_B, layout)

    def _count(self, tokens_BT: jax.Array) -> jax.Array:
        """The positions of a row's tokens; of padding that is not counted, -1."""
        if self.config.padding_id is None:
            return jnp.broadcast_to(jnp.arange(tokens_BT.shape[1]), tokens_BT.shape)
        is_counted_BT = tokens_BT != self.config.padding_id
        return jnp.where(is_counted_BT, jnp.cumsum(is_counted_BT, axis=1) - 1, -1)

    def _answer(self, x_BTD: jax.Array, keys_B: jax.Array | None, layout: Layout | None) -> Encoded:
        """The states and what the head makes of them."""
        pooled_BP = None if self.pooler is None else self.pooler(x_BTD[:, 0])
        if self.vocabulary_head is not None:
            logits_BTV = self.vocabulary_head(x_BTD, self.embed)
            logits_BTV = constrain(layout, logits_BTV, "batch", "length", "act_vocab")
            if self.label_head is None:
                return Encoded(x_BTD, pooled_BP, logits_BTV)
            assert pooled_BP is not None
            logits = PretrainingLogits(logits_BTV, self.label_head(pooled_BP))
            return Encoded(x_BTD, pooled_BP, logits)
        if self.label_head is None:
            return Encoded(x_BTD, pooled_BP, None)
        h = x_BTD if pooled_BP is None else pooled_BP
        # The layers have the keys below num_layers, and the embedding has that one.
        keys_B = fold_in(keys_B, self.config.num_layers + 1)
        return Encoded(x_BTD, pooled_BP, self.label_head(dropout(h, self.config.dropout, keys_B)))


def _table(key: jax.Array, config: EncoderConfig, axis: WeightAxis, rows: int) -> Embedding:
    return Embedding(
        key, axis=axis, rows=rows, embed_dim=config.embed_dim, std=config.embed_init_std
    )


def _label_head(key: jax.Array, config: EncoderConfig) -> Linear | None:
    """Scores of classes, of beginning and end, or of the next text; None without such a head."""
    num_labels = 2 if config.head in ("span", "pretraining") else config.num_labels
    if num_labels is None:
        return None
    axis: WeightAxis = "projection" if config.head in ("sequence", "pretraining") else "embed"
    return label_head(key, config, axis=axis, num_labels=num_labels)
