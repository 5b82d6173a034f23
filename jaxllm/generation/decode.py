"""Batched generation: one compiled prefill, one compiled decoding loop.

B prompts, P padded prompt length, M new tokens, S = P + M cache slots, V vocabulary.
Prompts are padded on the right; the slots of the padding are overwritten by new tokens, and a
token never looks at a slot above its own, so padding is never seen.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.generation.sampling import Sampling
from jaxllm.nn.param import Nested, bind, spec_dict
from jaxllm.nn.rope_scaling import LongScaling
from jaxllm.parallel.axes import WeightSpec
from jaxllm.parallel.layouts import Layout, constrain

_BUCKET = 32  # prompts are padded to a multiple of this, so that few lengths compile


class Generator:
    """Continues prompts with a decoder; compiled once per batch size and padded length."""

    def __init__(
        self,
        model: Any,
        *,
        vocab_size: int,
        stop_ids: Sequence[int],
        sampling: Sampling,
        has_prefix: bool = False,
        layout: Layout | None = None,
    ):
        """model: the (abstract) decoder. Ids from `vocab_size` on are padding, never drawn.

        stop_ids: each of them ends a text; at least one. has_prefix: whether every token of a
        prompt sees all of it, as decoders trained on prefixes do.
        layout: where the weights lie; prompts and texts are the same on every device.
        """
        self.model = model
        self.sampling = sampling
        self._everywhere = None if layout is None else layout.sharding()
        self._generate = jax.jit(
            partial(
                _generate,
                model,
                layout=layout,
                sampling=sampling,
                vocab_size=vocab_size,
                stop_ids=tuple(stop_ids),
                has_prefix=has_prefix,
            ),
            out_shardings=self._everywhere,
        )
        self._stop_ids = tuple(stop_ids)

    def __call__(self, params: Nested, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
        """Prompts of any lengths >= 1 -> their continuations, without the stop token.

        ValueError if a prompt with its continuation exceeds the model's positions.
        """
        lengths_B = np.array([len(prompt) for prompt in prompts], np.int32)
        assert lengths_B.min() >= 1, "a prompt starts with the delimiter at least"
        self.model.config.check_length(
            int(lengths_B.max()) + self.sampling.max_tokens,
            key="prompt length + max_tokens",
        )
        padded = -(-int(lengths_B.max()) // _BUCKET) * _BUCKET
        padded = self._within_short(lengths_B, padded)
        prompts_BP = np.full((len(prompts), padded), self._stop_ids[0], np.int32)
        for row, prompt in enumerate(prompts):
            prompts_BP[row, : len(prompt)] = prompt
        inputs = jax.device_put((prompts_BP, lengths_B), self._everywhere)
        new_BM = jax.device_get(self._generate(params, *inputs))
        return [_until(row.tolist(), self._stop_ids) for row in new_BM]

    def _within_short(self, lengths_B: np.ndarray, padded: int) -> int:
        """Padding that stays on the prompts' side of a change of rotary frequencies.

        ValueError for texts that would cross it: keys in the cache are turned by the old ones.
        """
        scaling = getattr(self.model.config, "rope_scaling", None)
        if not isinstance(scaling, LongScaling):
            return padded
        limit, longest = scaling.original_length, int(lengths_B.max())
        if lengths_B.min() <= limit < longest + self.sampling.max_tokens:
            raise ValueError(
                f"prompts of {lengths_B.min()} to {longest} tokens with max_tokens="
                f"{self.sampling.max_tokens} cross the {limit} tokens at which this model changes "
                "its rotary frequencies (rope_scaling.original_length); give all prompts more, or "
                "fewer new tokens"
            )
        return min(padded, limit) if longest <= limit else padded


def _until(ids: list[int], stop_ids: Sequence[int]) -> list[int]:
    end = next((index for index, token in enumerate(ids) if token in stop_ids), len(ids))
    return ids[:end]


def _generate(
    model: Any,
    params: Nested,
    prompts_BP: jax.Array,
    lengths_B: jax.Array,
    *,
    layout: Layout | None,
    sampling: Sampling,
    vocab_size: int,
    stop_ids: tuple[int, ...],
    has_prefix: bool,
) -> jax.Array:
    """(B, M) new ids; after a row's stop token it is filled with that."""
    if layout is not None and layout.pipeline is not None:
        params = _without_stages(params, spec_dict(model), layout.for_decoding())
    decoder = bind(model, params)
    batch_size, padded = prompts_BP.shape
    max_tokens = sampling.max_tokens
    seed_key = jax.random.key(sampling.seed)
    row_keys_B = jax.vmap(lambda row: jax.random.fold_in(seed_key, row))(jnp.arange(batch_size))

    def draw(logits_BV: jax.Array, index: jax.Array | int) -> jax.Array:
        keys_B = jax.vmap(lambda key: jax.random.fold_in(key, index))(row_keys_B)
        is_token_V = jnp.arange(logits_BV.shape[-1]) < vocab_size
        return sampling.draw(keys_B, jnp.where(is_token_V, logits_BV, -jnp.inf))

    def is_stop(token_B: jax.Array) -> jax.Array:
        return jnp.any(token_B[:, None] == jnp.array(stop_ids), axis=-1)

    cache = decoder.empty_cache(batch_size, padded + max_tokens)
    is_prompt_BS = jnp.arange(padded + max_tokens) < lengths_B[:, None]
    prefix_BS = is_prompt_BS if has_prefix else None
    logits_BPV, cache = decoder.forward(prompts_BP, prefix_BS=prefix_BS, cache=cache)
    last_BV = jnp.take_along_axis(logits_BPV, (lengths_B - 1)[:, None, None], axis=1)[:, 0]
    first_B = draw(last_BV, 0)
    new_BM = jnp.full((batch_size, max_tokens), stop_ids[0], jnp.int32).at[:, 0].set(first_B)

    def is_going(carry: tuple) -> jax.Array:
        index, token_B, _, _ = carry
        return (index < max_tokens) & ~jnp.all(is_stop(token_B))

    def step(carry: tuple) -> tuple:
        index, token_B, cache, new_BM = carry
        logits_B1V, cache = decoder.forward(
            token_B[:, None],
            positions_BT=(lengths_B + index - 1)[:, None],
            cache=cache,
        )
        next_B = jnp.where(is_stop(token_B), token_B, draw(logits_B1V[:, 0], index))
        return index + 1, next_B, cache, new_BM.at[:, index].set(next_B)

    return jax.lax.while_loop(is_going, step, (1, first_B, cache, new_BM))[3]


def _without_stages(params: Nested, specs: Nested, layout: Layout) -> Nested:
    """A pipeline's weights, folded or not, where `layout` says; whole where it does not divide."""

    def place(value: jax.Array, spec: WeightSpec) -> jax.Array:
        axes = (
            axis if size % layout.degree(axis) == 0 else None
            for axis, size in zip(spec.axes, spec.shape, strict=True)
        )
        return constrain(layout, value.reshape(spec.shape), *axes)

    return jax.tree.map(place, params, specs)
