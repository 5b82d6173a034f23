"""Global batches as a pure function of the step.

A global row number is sent through mixing, repetition and shuffling to (dataset, row); a host reads
only the rows of its own slice of each batch.
"""

import hashlib
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from jaxllm.data.batch import Arrange, Batch, make_batch, numbered, unchanged
from jaxllm.data.rows import RowSource, joined
from jaxllm.data.streams import TokenStream


class TrainLoader:
    """Batches of mixed, shuffled and repeated streams, by random access."""

    def __init__(
        self,
        sources: Mapping[str, tuple[RowSource, float]],
        *,
        sequence_length: int,
        global_batch_size: int,
        seed: int,
        rows: Sequence[int] | None = None,
        shuffle: bool = True,
        prefetch: int = 2,
        skipped: Sequence[int] = (),
        arrange: Arrange = unchanged,
    ) -> None:
        """`sources` gives each dataset's rows and its weight, the share of its rows.

        `rows` are this host's of the global batch, ascending; all of them by default. Weights are
        kept to 1% of the smallest. `prefetch` is how many batches `iterate`
        reads ahead, each in a thread. `skipped` are batches, by number, that no step reads.
        `arrange` makes of each batch what the objective reads.
        """
        assert sources
        assert prefetch >= 1
        self._names = list(sources)
        self._skipped = sorted(set(skipped))
        # How many batches are read before each of those that are not.
        self._read_before = [number - index for index, number in enumerate(self._skipped)]
        named = sources.items()
        self._sources = [source for _, (source, _) in named]
        self._batch_size = global_batch_size
        self._prefetch = prefetch
        self._arrange = arrange
        self._rows = np.asarray(range(global_batch_size) if rows is None else rows, np.int64)
        counts = [source.num_rows for source in self._sources]
        self._first_rows = np.cumsum([0, *counts])
        weights = [weight for _, (_, weight) in named]
        self._order = _row_order(self._names, counts, weights, seed=seed, shuffle=shuffle)
        # Nested as the config is, so that a difference is shown under its key.
        datasets = {
            name: {"fingerprint": source.fingerprint, "weight": weight}
            for name, (source, weight) in named
        }
        data = {"sequence_length": sequence_length, "shuffle": shuffle, "datasets": datasets}
        self._fingerprint = {"seed": seed, "data": data}

    def batch_number(self, step: int) -> int:
        """Which batch step `step`, from 0, reads: the same one unless some are skipped."""
        return step + bisect_right(self._read_before, step)

    def batch(self, step: int) -> Batch:
        """This host's rows of the global batch of step `step`, from 0; see `jaxllm.data.batch`.

        example_index counts the rows of skipped batches too, so that no two rows share theirs.
        """
        numbers = self.batch_number(step) * self._batch_size + self._rows
        datasets, rows = self._located(numbers)
        return self._arrange(numbered(self._read(datasets, rows), numbers))

    def rows_of(self, step: int) -> list[tuple[str, int]]:
        """Every row of the global batch of step `step`, from 0, on all hosts: (dataset, row).

        Row i of a dataset is its training tokens [i * T, i * T + T + 1).
        """
        first = self.batch_number(step) * self._batch_size
        datasets, rows = self._located(np.arange(first, first + self._batch_size))
        return [
            (self._names[dataset], row)
            for dataset, row in zip(datasets.tolist(), rows.tolist(), strict=True)
        ]

    def iterate(self, start_step: int = 0) -> Generator[Batch]:
        """Batches from `start_step` on, endlessly, read ahead in threads.

        Close the iterator to end its threads. A batch that cannot be read raises here.
        """
        step = start_step
        pending: deque[Future[Batch]] = deque()
        executor = ThreadPoolExecutor(self._prefetch, thread_name_prefix="batches")
        try:
            while True:
                while len(pending) < self._prefetch:
                    pending.append(executor.submit(self.batch, step))
                    step += 1
                yield pending.popleft().result()
        finally:
            executor.shutdown(wait=True, cancel_futures=True)

    def state(self, step: int) -> dict[str, Any]:
        """The position in front of a step, as JSON; the same on every host."""
        number = self.batch_number(step - 1) + 1 if step else 0
        state = {"next_row": number * self._batch_size, "fingerprint": self._fingerprint}
        skipped = self._skipped_before(number)
        return state | ({"skipped": skipped} if skipped else {})

    def check_state(self, state: Mapping[str, Any]) -> None:
        """Raises ValueError, showing the difference, when a state is of other batches."""
        saved = state["fingerprint"]
        differences = list(_differences("", saved, self._fingerprint))
        # A mixture is drawn in the order of its names, which JSON keeps.
        names = list(saved["data"]["datasets"])
        if names != self._names and set(names) == set(self._names):
            differences.append(
                f"data.datasets: in the order {', '.join(names)} in the checkpoint, "
                f"{', '.join(self._names)} now"
            )
        if state["next_row"] % self._batch_size:
            differences.append(
                f"data.global_batch_size: row {state['next_row']} is not where a batch of "
                f"{self._batch_size} begins"
            )
        number = state["next_row"] // self._batch_size
        differences += _differences(
            "skipped batches", state.get("skipped", []), self._skipped_before(number)
        )
        if differences:
            raise ValueError(
                "the data differs from what the checkpoint was trained on:\n  "
                + "\n  ".join(differences)
                + "\nrestore these settings, or start a new run folder"
            )

    def _skipped_before(self, number: int) -> list[int]:
        return self._skipped[: bisect_left(self._skipped, number)]

    def _located(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Global row numbers -> indices of their datasets, and their rows in these."""
        keys = np.fromiter(
            (self._order[number] for number in numbers.tolist()), np.int64, len(numbers)
        )
        datasets = np.searchsorted(self._first_rows, keys, side="right") - 1
        return datasets, keys - self._first_rows[datasets]

    def _read(self, datasets: np.ndarray, rows: np.ndarray) -> Batch:
        """The rows, each from its dataset."""
        parts = []
        for index in np.unique(datasets):
            places = np.flatnonzero(datasets == index)
            parts.append((places, self._sources[index].read(rows[places].tolist())))
        return joined(parts, len(rows))


class ValidationLoader:
    """Every token of a stream once, in order; the last rows are filled up and not scored.

    Every host has the same number of batches.
    """

    def __init__(
        self,
        stream: TokenStream,
        *,
        name: str,
        sequence_length: int,
        global_batch_size: int,
        rows: Sequence[int] | None = None,
        arrange: Arrange | None = None,
    ) -> None:
        """`arrange` makes of each batch what the objective reads, if that is not its likelihood."""
        if stream.num_tokens < 2:
            raise ValueError(f"validation set {name!r} has no token to predict")
        self.name = name
        self._arrange = arrange or unchanged
        # Only a likelihood of the text says how many bits its bytes need.
        self.raw_bytes = stream.raw_bytes if arrange is None else None
        self.num_targets = stream.num_tokens - 1
        self._stream = stream
        self._length = sequence_length
        self._batch_size = global_batch_size
        self._rows = np.asarray(range(global_batch_size) if rows is None else rows, np.int64)
        self._num_rows = -(-self.num_targets // sequence_length)

    def __len__(self) -> int:
        return -(-self._num_rows // self._batch_size)

    def __iter__(self) -> Iterator[Batch]:
        return map(self.batch, range(len(self)))

    def batch(self, index: int) -> Batch:
        """This host's rows of global batch `index`."""
        first = index * self._batch_size
        numbers = first + self._rows
        scored_B = np.clip(self.num_targets - numbers * self._length, 0, self._length)
        # Filling is delimiters: ids of the vocabulary, each a document of its own.
        shape = (len(numbers), self._length + 1)
        rows_BS = np.full(shape, self._stream.delimiter_id, np.int32)
        full = int((scored_B == self._length).sum())
        starts = (numbers[:full] * self._length).tolist()
        rows_BS[:full] = self._stream.read_rows(starts, self._length + 1)
        if full < len(numbers) and scored_B[full]:
            start, ids = int(numbers[full]) * self._length, int(scored_B[full]) + 1
            rows_BS[full, :ids] = self._stream.read_rows([start], ids)[0]
        batch = make_batch(
            rows_BS,
            delimiter_id=self._stream.delimiter_id,
            example_index=numbers,
            scored_B=scored_B,
        )
        return self._arrange(batch)


def _row_order(
    names: list[str], counts: list[int], weights: list[float], *, seed: int, shuffle: bool
) -> Any:
    """Global row number -> key, where keys count through the rows of all datasets in turn."""
    import grain

    orders = []
    first = 0
    for name, count in zip(names, counts, strict=True):
        order = grain.MapDataset.range(first, first + count)
        if shuffle:
            # A seed of its own for each dataset; grain counts it up with each epoch.
            digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
            order = order.shuffle(seed=int.from_bytes(digest[:4]))
        orders.append(order.repeat())
        first += count
    return orders[0] if len(orders) == 1 else grain.MapDataset.mix(orders, weights=weights)


def _differences(path: str, saved: Any, here: Any) -> Iterator[str]:
    """What differs between two trees of JSON, a line each."""
    if isinstance(saved, dict) and isinstance(here, dict):
        for key in sorted({*saved, *here}):
            yield from _differences(f"{path}.{key}".lstrip("."), saved.get(key), here.get(key))
    elif saved != here:
        yield f"{path}: {saved!r} in the checkpoint, {here!r} now"
