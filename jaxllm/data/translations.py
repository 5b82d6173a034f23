"""Datasets of sources and their targets: sentences and translations, texts and summaries.

B rows of a read, S = T = sequence length. The fields of a batch, beside those of `numbered`:

    encoder_tokens  int32   (B, S)  the source with its special tokens, filled up
    encoder_mask    float32 (B, S)  1 where there is source, 0 where there is filling
    targets         int32   (B, T)  the target and the token that ends it, filled up
    loss_mask       float32 (B, T)  1 where there is target, 0 where there is filling
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np

from jaxllm.data.batch import Batch, Shapes, field_shape
from jaxllm.data.example_frame import Frame, frame_of
from jaxllm.data.example_record import ExampleRecord
from jaxllm.data.example_table import ColumnKind, Encoded, Table
from jaxllm.data.examples import ExamplesConfig
from jaxllm.data.tokenizer import Tokenizer


class TranslationsConfig(ExamplesConfig):
    """Sources, each with its target."""

    type: Literal["translations"] = "translations"
    """Kind of dataset: sources and targets."""
    text: str = "source"
    """Field of the source."""
    target: str = "target"
    """Field of the target."""
    prefix: str = ""
    """Written in front of each source, as a model like T5 is told what to do."""

    columns: ClassVar[Mapping[str, ColumnKind]] = {"source": "tokens", "target": "tokens"}

    def texts(self, record: ExampleRecord) -> list[str]:
        source = record.text(self.text, key="text")
        return [source, record.text(self.target, key="target")]

    def encode(
        self, record: ExampleRecord, tokenizer: Tokenizer, *, is_labelled: bool = True
    ) -> list[Encoded]:
        source = self.prefix + record.text(self.text, key="text")
        fields = {"source": tokenizer.encode(source)}
        if is_labelled:
            target = record.text(self.target, key="target")
            fields["target"] = target_tokenizer(tokenizer).encode(target)
        return [fields]

    def rows(self, table: Table, length: int, *, tokenizer: Tokenizer) -> "TranslationRows":
        frame = frame_of(tokenizer, num_texts=1)
        return TranslationRows(table, length, frame=frame, stop_id=tokenizer.stop_ids[0])

    def shapes(self, rows: int, length: int) -> Shapes:
        dtypes = {
            "encoder_tokens": np.int32,
            "encoder_mask": np.float32,
            "targets": np.int32,
            "loss_mask": np.float32,
        }
        whole = {name: field_shape((rows, length), kind) for name, kind in dtypes.items()}
        return whole | {"example_index": field_shape((rows,), np.uint32)}


def target_tokenizer(tokenizer: Tokenizer) -> Tokenizer:
    """What writes targets: of a tokenizer for two languages the second one's, else itself."""
    return getattr(tokenizer, "target", tokenizer)


class TranslationRows:
    """See `ExampleRows`: a row an example, in their order."""

    def __init__(self, table: Table, length: int, *, frame: Frame, stop_id: int) -> None:
        """stop_id: what ends a target. ValueError for rows that are too short for any text."""
        self._table, self._length, self._frame, self._stop_id = table, length, frame, stop_id
        self._room = length - frame.num_special
        if self._room < 1 or length < 2:
            raise ValueError(
                f"data.sequence_length={length} leaves no place for text beside "
                f"{frame.num_special} special tokens; raise it"
            )
        self.num_examples = self.num_rows = table.num_examples
        around = [piece.ids.tolist() for piece in frame.pieces]
        identity = [table.fingerprint, around, frame.padding_id, stop_id]
        self.fingerprint = hashlib.sha256(json.dumps(identity).encode()).hexdigest()

    @property
    def sizes(self) -> np.ndarray:
        """How many positions of each source are no filling, (num_rows,)."""
        return np.minimum(self._table["source"].sizes, self._room) + self._frame.num_special

    @property
    def truncated(self) -> tuple[int, int]:
        """How many examples lose tokens of their source or target, and how many tokens."""
        lost = np.maximum(self._table["source"].sizes - self._room, 0)
        if "target" in self._table:
            lost = lost + np.maximum(self._table["target"].sizes - (self._length - 1), 0)
        return int((lost > 0).sum()), int(lost.sum())

    def example_of(self, row: int) -> int:
        """The number of the example that a row is of."""
        return row

    def read(self, rows: Sequence[int]) -> Batch:
        sources = [self._source(row) for row in rows]
        tokens_BS, mask_BS = _filled(sources, self._length, self._frame.padding_id)
        batch = {"encoder_tokens": tokens_BS, "encoder_mask": mask_BS}
        if "target" in self._table:
            targets = [self._target(row) for row in rows]
            tokens_BT, mask_BT = _filled(targets, self._length, self._frame.padding_id)
            return {**batch, "targets": tokens_BT, "loss_mask": mask_BT}
        return {**batch, "loss_mask": np.ones((len(rows), 1), np.float32)}

    def target(self, row: int) -> np.ndarray:
        """The whole target of a row, however long, without what ends it."""
        return self._table["target"][row]

    def source(self, row: int) -> np.ndarray:
        """The source of a row without its special tokens, as far as the model sees it."""
        return self._table["source"][row][: self._room]

    def _source(self, row: int) -> np.ndarray:
        ids, _ = self._frame.around([self.source(row)])
        return ids

    def _target(self, row: int) -> np.ndarray:
        # One that is too long has no end.
        ids = self._table["target"][row].astype(np.int32)
        return np.append(ids, np.int32(self._stop_id))[: self._length]


def _filled(
    rows: Sequence[np.ndarray], length: int, padding_id: int
) -> tuple[np.ndarray, np.ndarray]:
    """Ids of any lengths as (B, length), and where they are, 1.0 or 0.0."""
    tokens = np.full((len(rows), length), padding_id, np.int32)
    mask = np.zeros((len(rows), length), np.float32)
    for place, ids in enumerate(rows):
        tokens[place, : len(ids)] = ids
        mask[place, : len(ids)] = 1.0
    return tokens, mask
