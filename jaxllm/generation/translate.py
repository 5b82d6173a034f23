"""The likeliest targets of sources, token by token: one compiled loop.

B sources, S padded source length, M new tokens, V vocabulary.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.nn.param import Nested, bind
from jaxllm.parallel.layouts import Layout

_BUCKET = 32  # sources are padded to a multiple of this, so that few lengths compile


class Translator:
    """Greedy targets of an encoder-decoder; compiled once per batch size and padded length."""

    def __init__(
        self,
        model: Any,
        *,
        vocab_size: int,
        max_tokens: int,
        stop_ids: Sequence[int] = (),
        start_id: int | None = None,
        layout: Layout | None = None,
    ):
        """model: the (abstract) network. Ids from `vocab_size` on are padding, never written.

        max_tokens: longest target, without its start. stop_ids: each of them ends a target; with
        none it has max_tokens. start_id: what targets begin with; default the model's. layout:
        where the weights lie; sources and targets are the same on every device. ValueError if the
        model has no positions for that many tokens.
        """
        model.config.check_length(max_tokens, key="max_tokens")
        self.model = model
        self._stop_ids = tuple(stop_ids)
        self._everywhere = None if layout is None else layout.sharding()
        self._translate = jax.jit(
            partial(
                _translate,
                model,
                vocab_size=vocab_size,
                max_tokens=max_tokens,
                stop_ids=self._stop_ids,
                start_id=model.config.start_id if start_id is None else start_id,
            ),
            out_shardings=self._everywhere,
        )

    def __call__(self, params: Nested, sources: Sequence[Sequence[int]]) -> list[list[int]]:
        """Sources of any lengths >= 1 -> their targets, without the start and stop tokens.

        ValueError if a source is empty or exceeds the model's positions.
        """
        lengths = [len(source) for source in sources]
        if min(lengths) < 1:
            raise ValueError(f"source {lengths.index(0)} has no token; give it one at least")
        self.model.config.check_length(max(lengths), key="source length")
        padded = -(-max(lengths) // _BUCKET) * _BUCKET
        mask_BS = np.arange(padded) < np.array(lengths)[:, None]
        sources_BS = np.zeros(mask_BS.shape, np.int32)
        sources_BS[mask_BS] = np.concatenate([np.asarray(source) for source in sources])
        inputs = jax.device_put((sources_BS, mask_BS), self._everywhere)
        new_BM = jax.device_get(self._translate(params, *inputs))
        return [_until(row.tolist(), self._stop_ids) for row in new_BM]


def _until(ids: list[int], stop_ids: Sequence[int]) -> list[int]:
    end = next((place for place, token in enumerate(ids) if token in stop_ids), len(ids))
    return ids[:end]


def _translate(
    model: Any,
    params: Nested,
    sources_BS: jax.Array,
    mask_BS: jax.Array,
    *,
    vocab_size: int,
    max_tokens: int,
    stop_ids: tuple[int, ...],
    start_id: int,
) -> jax.Array:
    """(B, M) new ids; after a row's stop token it is filled with that."""
    network = bind(model, params)
    memory = network.encode(sources_BS, mask_BS)
    batch_size = sources_BS.shape[0]
    start_B = jnp.full((batch_size,), start_id, jnp.int32)
    is_done_B = jnp.zeros((batch_size,), bool)
    new_BM = jnp.full((batch_size, max_tokens), stop_ids[0] if stop_ids else 0, jnp.int32)

    def is_going(carry: tuple) -> jax.Array:
        index, _, is_done_B, _, _ = carry
        return (index < max_tokens) & ~jnp.all(is_done_B)

    def step(carry: tuple) -> tuple:
        index, token_B, is_done_B, cache, new_BM = carry
        logits_B1V, cache = network.decode(
            token_B[:, None], memory, positions_T=index[None], cache=cache
        )
        is_token_V = jnp.arange(logits_B1V.shape[-1]) < vocab_size
        best_B = jnp.argmax(jnp.where(is_token_V, logits_B1V[:, 0], -jnp.inf), axis=-1)
        # A start token may end targets too, as in models that begin with padding or with </s>.
        next_B = jnp.where(is_done_B, token_B, best_B.astype(jnp.int32))
        if stop_ids:
            is_done_B = jnp.any(next_B[:, None] == jnp.array(stop_ids), axis=-1)
        return index + 1, next_B, is_done_B, cache, new_BM.at[:, index].set(next_B)

    carry = (jnp.int32(0), start_B, is_done_B, network.empty_cache(memory, max_tokens), new_BM)
    return jax.lax.while_loop(is_going, step, carry)[4]
