"""What every objective shares: the model as it sees it, and sums that add up over devices."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, Protocol

import jax
import numpy as np

from jaxllm.parallel.layouts import Layout
from jaxllm.schema import Config

Batch = dict[str, Any]
HostBatch = dict[str, np.ndarray]
Arrange = Callable[[HostBatch], HostBatch]
"""Makes of rows of a text what an objective reads, on the host; see `jaxllm.data.batch`."""


class Vocabulary(NamedTuple):
    """What the tokens of the data are, as far as an objective needs it.

    size: how many ids there are. special_ids: those that are no text, the delimiter among them.
    mask_id: the one that stands for a hidden token, where the tokenizer has one.
    continues_word_V: of each id, whether it goes on with the word of the id before; None where the
    tokenizer does not say. sentinel_ids: those that stand for hidden spans, the first span's
    first, where the tokenizer has some. delimiter_id: the one that opens documents, None where
    only the data would tell.
    """

    size: int
    special_ids: tuple[int, ...]
    mask_id: int | None = None
    continues_word_V: np.ndarray | None = None
    sentinel_ids: tuple[int, ...] = ()
    delimiter_id: int | None = None


def row_generators(batch: HostBatch, seed: int) -> list[np.random.Generator]:
    """A generator of random numbers for each row of a batch, from the seed and its number alone.

    It depends neither on the host that reads the row nor on what was run before.
    """
    return [
        np.random.Generator(np.random.Philox(key=[seed, int(number)]))
        for number in batch["example_index"]
    ]


class Model(Protocol):
    """A network in two parts, as only the logits' part is large in the vocabulary."""

    def hidden(
        self,
        tokens_BT: jax.Array,
        *,
        segment_ids_BT: jax.Array | None,
        positions_BT: jax.Array | None,
        keys_B: jax.Array | None,
        layout: Layout | None,
    ) -> tuple[jax.Array, Any]:
        """x_BTD, and what routers did: sums over the batch, None without any."""

    def logits(self, x_BTD: jax.Array, *, layout: Layout | None) -> jax.Array:
        """logits_BTV."""

    @property
    def output_module(self) -> Any:
        """The weights behind the logits, a tree."""

    def projection(self, output: Any, x_BTD: jax.Array) -> jax.Array:
        """`logits` of these weights, each position for itself, wherever they lie."""


class LossSums(NamedTuple):
    """Sums, not means, so that microbatches and devices add up to exactly the large batch.

    loss: what is minimised. nll: -log p of the scored targets, in nats. Both float32 scalars.
    num_tokens: how many targets were scored, float32. router: the sums of the model's routers,
    whose loss is a mean over all positions and is not in `loss`; None without routers.
    """

    loss: jax.Array
    nll: jax.Array
    num_tokens: jax.Array
    router: Any = None


class Objective(Config):
    """A model and a batch -> a loss."""

    batch_fields: ClassVar[tuple[str, ...]]
    """The fields of a batch that the objective reads."""
    is_likelihood_of_text: ClassVar[bool] = False
    """Whether the sum over a text is its likelihood."""
    texts_per_row: ClassVar[int] = 1
    """Texts of a row that the network reads, each of data.sequence_length tokens."""
    loss_unit: ClassVar[str] = "nats per token"
    """What the loss that is shown counts, and of what it is the mean."""

    def num_ids(self, vocabulary: Vocabulary) -> int:
        """Ids that the model must know."""
        return vocabulary.size

    def arrangement(self, vocabulary: Vocabulary, *, seed: int) -> Arrange | None:
        """What is made of rows on the host; None where they are read as the data has them."""
        return None

    @abstractmethod
    def __call__(
        self,
        model: Any,
        batch: Batch,
        *,
        keys_B: jax.Array | None = None,
        layout: Layout | None = None,
    ) -> LossSums:
        """Sums over what loss_mask turns on. keys_B: of dropout in each row, None without."""
