"""Beam search: the likeliest targets of sources, found in one compiled loop.

B sources, S padded source length, G beams of a source, C candidates to go on with, M new tokens,
V vocabulary. Caches of the decoder have L layers, K heads of keys, H numbers a head.

What is searched, and when the search ends, is as transformers 5 has it with early_stopping=False.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from pydantic import PositiveInt

from jaxllm.generation.targets import Targets
from jaxllm.nn.attention import Cache
from jaxllm.nn.param import Nested, bind
from jaxllm.schema import Config


class BeamSearch(Config):
    """Search for the targets of the highest score: sum of log p / length ** length_penalty."""

    num_beams: PositiveInt = 1
    """Targets of a source that are followed at once; 1 takes the likeliest token each time."""
    length_penalty: float = 1.0
    """Power of the length in tokens, with the stop token, that the sum of log p is divided by;
    above 0 longer targets win more often, below 0 shorter ones."""

    def score(self, sum_log_p: jax.Array, length: jax.Array) -> jax.Array:
        """What targets of `length` tokens, the stop token among them, are ranked by."""
        return sum_log_p / length.astype(jnp.float32) ** self.length_penalty


class Hypothesis(NamedTuple):
    """A target without its start and stop tokens, and what it is ranked by."""

    ids: list[int]
    score: float


class Ended(NamedTuple):
    """The best targets so far that have ended, the best first; a score of -inf is none yet."""

    ids_BGM: jax.Array
    score_BG: jax.Array


class _Running(NamedTuple):
    """What is still written: targets, likeliest first, sums of log p, and keys and values.

    Rows of the cache are beam by beam, (L, G, B, M, K, H). token_BG: the last of each target.
    """

    token_BG: jax.Array
    ids_BGM: jax.Array
    sum_BG: jax.Array
    cache: Cache


class _Candidates(NamedTuple):
    """The likeliest continuations by a token, likeliest first; beam_BC: of which beams they are."""

    token_BC: jax.Array
    beam_BC: jax.Array
    sum_BC: jax.Array


def search_beams(
    model: Any,
    params: Nested,
    sources_BS: jax.Array,
    mask_BS: jax.Array,
    *,
    search: BeamSearch,
    targets: Targets,
    start_id: int,
) -> Ended:
    """The num_beams best targets of each source; behind a stop token anything follows.

    A source's search ends with max_tokens, or when it has num_beams targets of which the worst is
    at least as good as the best unfinished one would be, did it end now. With a positive
    length_penalty that one may yet improve: a heuristic, which transformers has by default.
    """
    network = bind(model, params)
    memory = network.encode(sources_BS, mask_BS)
    beginning = network.empty_cache(memory, targets.max_tokens)

    def decode(token_B: jax.Array, cache: Cache, index: jax.Array) -> tuple[jax.Array, Cache]:
        logits_B1V, made = network.decode(
            token_B[:, None],
            memory,
            positions_T=index[None],
            cache=beginning._replace(own=cache),
        )
        return logits_B1V[:, 0], made.own

    # The source's keys and values have no axis of beams: all beams read the same ones, and
    # reordering moves only those of the targets.
    decode_beams = jax.vmap(decode, in_axes=(1, 1, None), out_axes=1)

    def is_going(carry: tuple) -> jax.Array:
        index, is_open_B, _, _ = carry
        return (index < targets.max_tokens) & jnp.any(is_open_B)

    def step(carry: tuple) -> tuple:
        index, is_open_B, running, ended = carry
        logits_BGV, cache = decode_beams(running.token_BG, running.cache, index)
        log_p_BGV = jax.nn.log_softmax(targets.tokens_only(logits_BGV))
        sums_BGV = running.sum_BG[..., None] + targets.restricted(log_p_BGV, index)
        found = _likeliest(sums_BGV, (1 + max(1, len(targets.stop_ids))) * search.num_beams)
        is_end_BC = targets.is_stop(found.token_BC) | (index == targets.max_tokens - 1)
        ids_BCM = _taken(running.ids_BGM, found.beam_BC).at[:, :, index].set(found.token_BC)
        # Only as many candidates as there are beams may end: the others are there to go on.
        may_end_BC = is_end_BC & is_open_B[:, None] & (jnp.arange(is_end_BC.shape[1]) < num_beams)
        score_BC = jnp.where(may_end_BC, search.score(found.sum_BC, index + 1), -jnp.inf)
        ended = _best(ended, Ended(ids_BCM, score_BC))
        running = _going_on(running._replace(cache=cache), found, is_end_BC, ids_BCM)
        best_B = search.score(running.sum_BG[:, 0], index + 1)
        # The worst of targets that are not there yet is -inf.
        is_open_B &= best_B > ended.score_BG[:, -1]
        return index + 1, is_open_B, running, ended

    num_beams, batch_size = search.num_beams, sources_BS.shape[0]
    ids_BGM = jnp.zeros((batch_size, num_beams, targets.max_tokens), jnp.int32)
    none_BG = jnp.full((batch_size, num_beams), -jnp.inf)
    running = _Running(
        token_BG=jnp.full((batch_size, num_beams), start_id, jnp.int32),
        ids_BGM=ids_BGM,
        sum_BG=none_BG.at[:, 0].set(0.0),  # all beams begin alike: only one may go on
        cache=jax.tree.map(lambda x: jnp.repeat(x[:, None], num_beams, axis=1), beginning.own),
    )
    carry = (jnp.int32(0), jnp.ones((batch_size,), bool), running, Ended(ids_BGM, none_BG))
    return jax.lax.while_loop(is_going, step, carry)[3]


def _likeliest(sums_BGV: jax.Array, count: int) -> _Candidates:
    """The best `count` of all beams' continuations, or all there are."""
    num_ids = sums_BGV.shape[-1]
    flat = sums_BGV.reshape(sums_BGV.shape[0], -1)
    sum_BC, place_BC = jax.lax.top_k(flat, min(count, flat.shape[1]))
    return _Candidates(place_BC % num_ids, place_BC // num_ids, sum_BC)


def _going_on(
    running: _Running, found: _Candidates, is_end_BC: jax.Array, ids_BCM: jax.Array
) -> _Running:
    """The likeliest candidates that have not ended, with the caches of the beams they come from."""
    sum_BC = jnp.where(is_end_BC, -jnp.inf, found.sum_BC)
    sum_BG, which_BG = jax.lax.top_k(sum_BC, running.sum_BG.shape[1])
    beam_GB = _taken(found.beam_BC, which_BG).T
    rows_B = jnp.arange(beam_GB.shape[1])
    return _Running(
        token_BG=_taken(found.token_BC, which_BG),
        ids_BGM=_taken(ids_BCM, which_BG),
        sum_BG=sum_BG,
        cache=jax.tree.map(lambda x_LGBMKH: x_LGBMKH[:, beam_GB, rows_B], running.cache),
    )


def _best(ended: Ended, found: Ended) -> Ended:
    """The best targets of both, as many as there were of the first."""
    score_BC = jnp.concatenate([ended.score_BG, found.score_BG], axis=1)
    ids_BCM = jnp.concatenate([ended.ids_BGM, found.ids_BGM], axis=1)
    score_BG, which_BG = jax.lax.top_k(score_BC, ended.score_BG.shape[1])
    return Ended(_taken(ids_BCM, which_BG), score_BG)


def _taken(x_BC: jax.Array, which_BG: jax.Array) -> jax.Array:
    """Of each source those of these numbers; axes behind the second come along."""
    return jax.vmap(lambda x_C, which_G: x_C[which_G])(x_BC, which_BG)
