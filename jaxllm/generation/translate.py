"""The likeliest targets of sources, token by token: one compiled loop.

B sources, S padded source length, G beams, M new tokens, V vocabulary.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.generation.beam import BeamSearch, Hypothesis, search_beams
from jaxllm.generation.targets import Targets
from jaxllm.nn.param import Nested, bind
from jaxllm.parallel.layouts import Layout

_BUCKET = 32  # sources are padded to a multiple of this, so that few lengths compile


class Translator:
    """Targets of an encoder-decoder; compiled once per batch size and padded length."""

    def __init__(
        self,
        model: Any,
        *,
        vocab_size: int,
        max_tokens: int,
        stop_ids: Sequence[int] = (),
        forbidden_ids: Sequence[int] = (),
        forced_id: int | None = None,
        start_id: int | None = None,
        search: BeamSearch | None = None,
        layout: Layout | None = None,
    ):
        """model: the (abstract) network. Ids from `vocab_size` on are padding, never written.

        max_tokens: longest target, without its start. stop_ids: each of them ends a target; with
        none it has max_tokens. forbidden_ids: never written either, as Marian's padding.
        forced_id: the last of max_tokens, as Marian's end; default the model's choice. start_id:
        what targets begin with; default the model's. search: default the likeliest token each
        time. layout: where the weights lie; sources and targets are the same on every device.
        ValueError if the model has no positions for that many tokens, or all ids are forbidden.
        """
        model.config.check_length(max_tokens, key="max_tokens")
        if set(range(vocab_size)) <= set(forbidden_ids):
            raise ValueError(f"forbidden_ids are all {vocab_size} ids; leave one to be written")
        self.model = model
        self.search = search or BeamSearch()
        self._targets = Targets(
            vocab_size, max_tokens, tuple(stop_ids), tuple(forbidden_ids), forced_id
        )
        start_id = model.config.start_id if start_id is None else start_id
        self._everywhere = None if layout is None else layout.sharding()
        options: dict[str, Any] = {"targets": self._targets, "start_id": start_id}
        compiled = partial(jax.jit, out_shardings=self._everywhere)
        self._greedy = compiled(partial(_greedy, model, **options))
        self._beams = compiled(partial(search_beams, model, search=self.search, **options))

    def __call__(self, params: Nested, sources: Sequence[Sequence[int]]) -> list[list[int]]:
        """Sources of any lengths >= 1 -> their best targets, without the start and stop tokens.

        ValueError if a source is empty or exceeds the model's positions.
        """
        if self.search.num_beams > 1:
            return [found[0].ids if found else [] for found in self.ranked(params, sources)]
        new_BM = jax.device_get(self._greedy(params, *self._padded(sources)))
        return [self._targets.until_stop(row.tolist()) for row in new_BM]

    def ranked(self, params: Nested, sources: Sequence[Sequence[int]]) -> list[list[Hypothesis]]:
        """As `__call__`, up to num_beams targets of each source with their scores, best first.

        There are fewer where fewer were ever possible, at least one; none of logits that are NaN.
        """
        ended = jax.device_get(self._beams(params, *self._padded(sources)))
        return [
            [
                Hypothesis(self._targets.until_stop(ids.tolist()), float(score))
                for ids, score in zip(ids_GM, score_G, strict=True)
                if np.isfinite(score)
            ]
            for ids_GM, score_G in zip(ended.ids_BGM, ended.score_BG, strict=True)
        ]

    def _padded(self, sources: Sequence[Sequence[int]]) -> tuple[jax.Array, jax.Array]:
        """Their ids (B, S) and where those are, on the devices."""
        lengths = [len(source) for source in sources]
        if min(lengths) < 1:
            raise ValueError(f"source {lengths.index(0)} has no token; give it one at least")
        self.model.config.check_length(max(lengths), key="source length")
        padded = -(-max(lengths) // _BUCKET) * _BUCKET
        mask_BS = np.arange(padded) < np.array(lengths)[:, None]
        sources_BS = np.zeros(mask_BS.shape, np.int32)
        sources_BS[mask_BS] = np.concatenate([np.asarray(source) for source in sources])
        return jax.device_put((sources_BS, mask_BS), self._everywhere)


def _greedy(
    model: Any,
    params: Nested,
    sources_BS: jax.Array,
    mask_BS: jax.Array,
    *,
    targets: Targets,
    start_id: int,
) -> jax.Array:
    """(B, M) new ids; after a row's stop token it is filled with that."""
    network = bind(model, params)
    memory = network.encode(sources_BS, mask_BS)
    batch_size, max_tokens = sources_BS.shape[0], targets.max_tokens
    start_B = jnp.full((batch_size,), start_id, jnp.int32)
    is_done_B = jnp.zeros((batch_size,), bool)
    filling = targets.stop_ids[0] if targets.stop_ids else 0
    new_BM = jnp.full((batch_size, max_tokens), filling, jnp.int32)

    def is_going(carry: tuple) -> jax.Array:
        index, _, is_done_B, _, _ = carry
        return (index < max_tokens) & ~jnp.all(is_done_B)

    def step(carry: tuple) -> tuple:
        index, token_B, is_done_B, cache, new_BM = carry
        logits_B1V, cache = network.decode(
            token_B[:, None], memory, positions_T=index[None], cache=cache
        )
        scores_BV = targets.restricted(targets.tokens_only(logits_B1V[:, 0]), index)
        best_B = jnp.argmax(scores_BV, axis=-1).astype(jnp.int32)
        # A start token may end targets too, as in models that begin with padding or with </s>.
        next_B = jnp.where(is_done_B, token_B, best_B)
        is_done_B |= targets.is_stop(next_B)
        return index + 1, next_B, is_done_B, cache, new_BM.at[:, index].set(next_B)

    carry = (jnp.int32(0), start_B, is_done_B, network.empty_cache(memory, max_tokens), new_BM)
    return jax.lax.while_loop(is_going, step, carry)[4]
