"""How probable given tokens are to a decoder, behind given others: many pairs in few programs.

B rows, T padded length, C scored positions, padded, D embed, V vocabulary.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import batched, groupby
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.kernels.cross_entropy import cross_entropy
from jaxllm.nn.param import Nested, bind
from jaxllm.parallel.layouts import Layout, constrain
from jaxllm.parallel.shard import dealt_out, global_batch, host_rows
from jaxllm.parallel.stages import outside
from jaxllm.parallel.zigzag import natural_order

_LENGTH = 128  # rows are padded to this or a doubling of it, so that few lengths compile
_POSITIONS = 64  # and scored positions to this; logits of as many in the longest rows exist at once


class Pair(NamedTuple):
    """Token ids to score, and the ids before them; neither is empty."""

    context: Sequence[int]
    continuation: Sequence[int]


class Likelihood(NamedTuple):
    """log p of a continuation in nats, and whether each of its tokens is the likeliest there."""

    log_prob: float
    is_greedy: bool


class _Shape(NamedTuple):
    """Of a batch: its rows, their length, and how many positions are scored in each."""

    rows: int
    length: int
    num_positions: int


class Scorer:
    """Scores pairs with a decoder; compiled once per padded length and number of positions."""

    def __init__(
        self, model: Any, *, vocab_size: int, max_length: int, layout: Layout, rows: int
    ) -> None:
        """model: the (abstract) decoder. Ids from `vocab_size` on are padding and have no share.

        max_length: the longest input. rows: of a batch of the longest, over all processes; of
        shorter ones a batch has more, and as many tokens.
        """
        self.max_length = max_length
        self._layout = layout
        self._rows = rows
        self._score = jax.jit(
            partial(_score, model, vocab_size=vocab_size, layout=layout),
            static_argnames=("num_positions", "chunk"),
            out_shardings=layout.sharding(),
        )

    def __call__(
        self,
        params: Nested,
        pairs: Sequence[Pair],
        *,
        on_scored: Callable[[int], Any] = lambda count: None,
    ) -> list[Likelihood]:
        """The likelihood of each continuation, in the order of the pairs, on every process.

        The model sees the last `max_length` inputs of a pair. on_scored: told the number of pairs
        of each batch. ValueError for a continuation of no or more than `max_length` tokens, and
        for no context.
        """
        for pair in pairs:
            _check(pair, self.max_length)
        batches, results = [], []
        for numbers, shape in self._batches(pairs):
            batches.append(numbers)
            results.append(self._start(params, [pairs[number] for number in numbers], shape))
            on_scored(len(numbers))
        found: dict[int, Likelihood] = {}
        # The device is read once, at the end, so that it never waits for the host.
        for numbers, (log_prob_B, is_greedy_B) in zip(
            batches, jax.device_get(results), strict=True
        ):
            for row, number in enumerate(numbers):  # rows behind them are padding
                found[number] = Likelihood(float(log_prob_B[row]), bool(is_greedy_B[row]))
        return [found[number] for number in range(len(pairs))]

    def _batches(self, pairs: Sequence[Pair]) -> Iterator[tuple[tuple[int, ...], _Shape]]:
        """Numbers of pairs of one shape, the longest first: what fits fits from the beginning."""
        shapes = [self._shape(pair) for pair in pairs]
        longest_first = sorted(
            range(len(pairs)),
            key=lambda number: (shapes[number].length, shapes[number].num_positions),
            reverse=True,
        )
        for shape, numbers in groupby(longest_first, key=shapes.__getitem__):
            for batch in batched(numbers, shape.rows):
                yield batch, shape

    def _shape(self, pair: Pair) -> _Shape:
        # What the mesh needs every length to be a multiple of; see `layouts.check_length`.
        context = self._layout.axis_size("context")
        unit = math.lcm(self._layout.degree("residual_length"), 2 * context if context > 1 else 1)
        longest = _rounded(self.max_length, unit)
        num_inputs = min(len(pair.context) + len(pair.continuation) - 1, self.max_length)
        length = min(_rounded(_doubled(_LENGTH, num_inputs), unit), longest)
        # The rows of the config times a power of two: whatever divides those divides these.
        times = 1 << (longest // length).bit_length() - 1
        num_positions = _doubled(_POSITIONS, len(pair.continuation))
        return _Shape(times * self._rows, length, num_positions)

    def _start(self, params: Nested, pairs: Sequence[Pair], shape: _Shape) -> Any:
        """Begin with a batch: (log_prob_B, is_greedy_B) to be."""
        held = list(host_rows(self._layout, shape.rows))
        batch = _batch(pairs, shape, max_length=self.max_length)
        mine = {name: field[held] for name, field in batch.items()}
        return self._score(
            params,
            global_batch(self._layout, mine, rows=shape.rows),
            num_positions=shape.num_positions,
            chunk=max(1, _POSITIONS * self._rows // shape.rows),
        )


def _check(pair: Pair, max_length: int) -> None:
    if not pair.context:
        raise ValueError(
            "a continuation without a token before it cannot be scored: the context is nothing but "
            "spaces, which belong to the continuation; change the task's prompt"
        )
    if not 0 < len(pair.continuation) <= max_length:
        raise ValueError(
            f"a continuation of {len(pair.continuation)} tokens cannot be scored: it takes one at "
            f"least, and at most {max_length} (data.sequence_length, or --max-length)"
        )


def _rounded(size: int, unit: int) -> int:
    return -(-size // unit) * unit


def _doubled(size: int, needed: int) -> int:
    """`size`, doubled until it is enough."""
    while size < needed:
        size *= 2
    return size


def _batch(pairs: Sequence[Pair], shape: _Shape, *, max_length: int) -> dict[str, np.ndarray]:
    """Inputs on the left of their rows, targets on the right of the scored positions.

    Rows without a pair have one input and no target.
    """
    batch = {
        "tokens": np.zeros((shape.rows, shape.length), np.int32),
        "num_inputs": np.ones(shape.rows, np.int32),
        "targets": np.zeros((shape.rows, shape.num_positions), np.int32),
        "num_targets": np.zeros(shape.rows, np.int32),
    }
    for row, (context, continuation) in enumerate(pairs):
        inputs = [*context, *continuation][:-1][-max_length:]
        batch["tokens"][row, : len(inputs)] = inputs
        batch["num_inputs"][row] = len(inputs)
        batch["targets"][row, -len(continuation) :] = continuation
        batch["num_targets"][row] = len(continuation)
    return batch


def _score(
    model: Any,
    params: Nested,
    batch: dict[str, jax.Array],
    *,
    vocab_size: int,
    layout: Layout,
    num_positions: int,
    chunk: int,
) -> tuple[jax.Array, jax.Array]:
    """(log_prob_B, is_greedy_B); logits only of the scored positions, `chunk` of a row at once."""
    decoder = bind(model, params)
    tokens_BT = batch["tokens"]
    length = tokens_BT.shape[1]
    positions_BT = jnp.broadcast_to(jnp.arange(length), tokens_BT.shape)
    x_BTD, _ = decoder.hidden(
        dealt_out(layout, tokens_BT), positions_BT=dealt_out(layout, positions_BT), layout=layout
    )
    before_end_C = jnp.arange(num_positions) - num_positions
    is_scored_BC = before_end_C >= -batch["num_targets"][:, None]
    places_BC = jnp.maximum(batch["num_inputs"][:, None] + before_end_C, 0)
    if layout.is_zigzag:
        places_BC = jnp.asarray(natural_order(length, layout.axis_size("context")))[places_BC]
    x_BCD = jnp.take_along_axis(x_BTD, places_BC[..., None], axis=1)

    def of_chunk(part: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        x_BcD, targets_Bc = part
        x_BcD = constrain(outside(layout), x_BcD, "batch", None, "act_embed")
        logits_BcV = decoder.projection(decoder.output_module, x_BcD).astype(jnp.float32)
        is_token_V = jnp.arange(logits_BcV.shape[-1]) < vocab_size
        logits_BcV = jnp.where(is_token_V, logits_BcV, -jnp.inf)
        logits_BcV = constrain(outside(layout), logits_BcV, "batch", None, "act_vocab")
        nll_Bc, _ = cross_entropy(logits_BcV, targets_Bc)
        return nll_Bc, jnp.argmax(logits_BcV, axis=-1) == targets_Bc

    def chunks(x_BC: jax.Array) -> jax.Array:
        parts = x_BC.reshape(x_BC.shape[0], -1, chunk, *x_BC.shape[2:])
        return jnp.moveaxis(parts, 1, 0)

    results = jax.lax.map(of_chunk, (chunks(x_BCD), chunks(batch["targets"])))
    nll_BC, is_best_BC = (
        jnp.moveaxis(result, 0, 1).reshape(is_scored_BC.shape) for result in results
    )
    log_prob_B = -jnp.sum(jnp.where(is_scored_BC, nll_BC, 0.0), axis=1)
    return log_prob_B, jnp.all(is_best_BC | ~is_scored_BC, axis=1)
