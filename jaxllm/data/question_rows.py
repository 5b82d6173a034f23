"""Rows of questions: each a question and its context, or a window of this.

B rows of a read, T = sequence length. The fields of a batch, beside those of `numbered`:

    tokens       int32   (B, T)  question and context with their special tokens, filled up
    segment_ids  int32   (B, T)  1 where there is text, 0 where there is filling
    token_types  int32   (B, T)  0 of the question, 1 of the context, as the tokenizer has it
    positions    int32   (B, T)  offset in the row; 0 in filling
    label        int32   (B, 2)  where the answer has its first and its last token, where it is
                                 known; the row's first token twice where the row has no answer
    loss_mask    float32 (B,)    1 where the row is scored, 0 where it fills up a batch
"""

import hashlib
import json
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxllm.data.batch import Batch, Shapes, field_shape
from jaxllm.data.example_frame import Frame
from jaxllm.data.example_table import Table

NO_ANSWER = (-1, -1)
"""First and last token of an answer that the context does not have."""


def question_shapes(rows: int, length: int) -> Shapes:
    """Shapes and dtypes of the fields of a batch."""
    names = ("tokens", "segment_ids", "positions", "token_types")
    whole = {name: field_shape((rows, length), np.int32) for name in names}
    return whole | {
        "label": field_shape((rows, 2), np.int32),
        "loss_mask": field_shape((rows,), np.float32),
        "example_index": field_shape((rows,), np.uint32),
    }


class Window(NamedTuple):
    """Tokens of a context, from one up to before another, and where in the row they begin."""

    first: int
    stop: int
    place: int


class QuestionRows:
    """See `ExampleRows`: the rows of a table, in the order of its examples.

    Its columns: `question`; `tokens` of the context; `places`, from which character to which each
    of these goes; the context itself as `text`, in UTF-8. Where answers are known `label`, the
    first and the last token of one, and `label_texts`, a JSON list of all.
    """

    def __init__(self, table: Table, length: int, *, frame: Frame, overlap: int) -> None:
        """overlap: see `QuestionsConfig`. ValueError for rows too short for any question."""
        room = length - frame.num_special
        if room < 2:
            raise ValueError(
                f"data.sequence_length={length} leaves no place for a question and its context "
                f"beside {frame.num_special} special tokens; raise it"
            )
        self._table, self._frame, self._length = table, frame, length
        questions, contexts = table["question"].sizes, table["tokens"].sizes
        self._kept = np.minimum(questions, room // 2)
        lost = questions - self._kept
        self.truncated = int((lost > 0).sum()), int(lost.sum())
        self._window = room - self._kept
        self._step = self._window - np.minimum(overlap, self._window // 2)
        beyond = np.maximum(contexts - self._window, 0)
        windows = 1 - (-beyond // self._step)
        self._stops = np.cumsum(windows)
        self._starts = self._stops - windows
        self.num_examples = table.num_examples
        self.num_rows = int(self._stops[-1])
        around = [[piece.ids.tolist(), piece.types.tolist()] for piece in frame.pieces]
        identity = [table.fingerprint, overlap, around, *frame[1:]]
        self.fingerprint = hashlib.sha256(json.dumps(identity).encode()).hexdigest()

    @property
    def sizes(self) -> np.ndarray:
        """How many positions of each row are no filling, (num_rows,)."""
        of_row = np.repeat(np.arange(self.num_examples), self._stops - self._starts)
        first = (np.arange(self.num_rows) - self._starts[of_row]) * self._step[of_row]
        contexts = np.minimum(self._table["tokens"].sizes[of_row] - first, self._window[of_row])
        return contexts + self._kept[of_row] + self._frame.num_special

    def example_of(self, row: int) -> int:
        """The number of the example that a row is of."""
        return int(np.searchsorted(self._stops, row, side="right"))

    def window(self, row: int) -> Window:
        """What a row has of its context."""
        number = self.example_of(row)
        first = (row - int(self._starts[number])) * int(self._step[number])
        stop = min(first + int(self._window[number]), int(self._table["tokens"].sizes[number]))
        before = sum(len(piece.ids) for piece in self._frame.pieces[:2])
        return Window(first, stop, before + int(self._kept[number]))

    def read(self, rows: Sequence[int]) -> Batch:
        shape = (len(rows), self._length)
        tokens_BT = np.full(shape, self._frame.padding_id, np.int32)
        segments_BT, types_BT = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
        for place, row in enumerate(rows):
            number, window = self.example_of(row), self.window(row)
            question = self._table["question"][number][: self._kept[number]]
            context = self._table["tokens"][number][window.first : window.stop]
            ids, types = self._frame.around([question, context])
            tokens_BT[place, : len(ids)] = ids
            types_BT[place, : len(ids)] = types
            segments_BT[place, : len(ids)] = 1
        batch = {
            "tokens": tokens_BT,
            "segment_ids": segments_BT,
            "token_types": types_BT,
            "positions": np.arange(self._length, dtype=np.int32) * segments_BT,
            "loss_mask": np.ones(len(rows), np.float32),
        }
        if "label" not in self._table:
            return batch
        return {**batch, "label": np.asarray([self._label(row) for row in rows], np.int32)}

    def text(self, number: int) -> tuple[str, np.ndarray]:
        """The context of an example, and from which of its characters to which each token goes."""
        text = self._table["text"][number].tobytes().decode("utf-8")
        return text, self._table["places"][number].reshape(-1, 2)

    def answers(self, number: int) -> list[str]:
        """The right answers of an example, which must be known; none where there is none."""
        return json.loads(self._table["label_texts"][number].tobytes())

    def _label(self, row: int) -> tuple[int, int]:
        first, last = self._table["label"][self.example_of(row)].tolist()
        window = self.window(row)
        if not window.first <= first <= last < window.stop:
            return 0, 0
        return tuple(window.place + token - window.first for token in (first, last))
