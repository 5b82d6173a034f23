"""What the rows of a batch say to a person: their texts, and what they are labelled with.

T = sequence length, C classes.
"""

from typing import Any

import numpy as np

from jaxllm.data.batch import Batch
from jaxllm.data.example_frame import frame_of
from jaxllm.data.examples import ExamplesConfig
from jaxllm.data.inspection import decode_row
from jaxllm.data.questions import QuestionsConfig
from jaxllm.data.tagged_texts import TaggedTextsConfig
from jaxllm.data.tokenizer import Tokenizer
from jaxllm.data.translations import target_tokenizer

Shown = tuple[str, str]
"""A heading, and the text below it."""


def shown_texts(
    batch: Batch, row: int, *, tokenizer: Tokenizer, dataset: ExamplesConfig | None
) -> list[Shown]:
    """The texts of one row, in order: none of a picture alone.

    dataset: which examples the rows are of; None for those of a text.
    """
    if "encoder_tokens" in batch:
        return _source_and_target(batch, row, tokenizer)
    if "tokens" not in batch:
        return []
    has_filling = dataset is not None
    found = _segments(batch, row, tokenizer, has_filling=has_filling)
    if "other_tokens" in batch:  # of a pair of texts, each in a row of its own
        others = {name.removeprefix("other_"): field for name, field in batch.items()}
        found += _segments(others, row, tokenizer, has_filling=has_filling)
    if isinstance(dataset, TaggedTextsConfig):
        found.append(("  tags", _tagged_words(batch, row, tokenizer, dataset.tags)))
    return found


def shown_label(
    batch: Batch, row: int, *, tokenizer: Tokenizer | None, dataset: ExamplesConfig | None
) -> str:
    """What a row as a whole is labelled with; empty where that is nothing, or not known."""
    if "label" not in batch or isinstance(dataset, TaggedTextsConfig):
        return ""
    label: Any = batch["label"][row]
    names = getattr(dataset, "class_names", None)
    if isinstance(dataset, QuestionsConfig):
        assert tokenizer is not None
        first, last = label.tolist()
        answer = tokenizer.decode(batch["tokens"][row, first : last + 1])
        return f"answer {answer.strip()!r}" if last else "no answer in this row"
    if names is None:
        return str(label)
    if label.ndim:  # a flag for each class
        return ", ".join(names[number] for number in np.flatnonzero(label)) or "none of the classes"
    return names[int(label)]


def _source_and_target(batch: Batch, row: int, tokenizer: Tokenizer) -> list[Shown]:
    source = batch["encoder_tokens"][row][batch["encoder_mask"][row] > 0]
    is_target_T = batch["loss_mask"][row] > 0
    target = batch["targets"][row][is_target_T]
    return [
        (f"  source: {len(source)} tokens", tokenizer.decode(source)),
        (
            f"  target: {len(target)} tokens, all of them in the loss",
            target_tokenizer(tokenizer).decode(target),
        ),
    ]


def _segments(batch: Batch, row: int, tokenizer: Tokenizer, *, has_filling: bool) -> list[Shown]:
    """has_filling: whether a segment 0 without targets is what fills up a row."""
    has_targets = batch["loss_mask"].ndim > 1  # else the row is scored as a whole
    found = []
    for segment in decode_row(batch, row, tokenizer):
        if has_filling and not segment.segment_id and not segment.scored:
            continue
        heading = f"  segment {segment.segment_id}: tokens {segment.start} to {segment.stop - 1}"
        if has_targets:
            tokens = segment.stop - segment.start
            heading += f", {segment.scored} of {tokens} targets in the loss"
        found.append((heading, segment.text))
    return found


def _tagged_words(batch: Batch, row: int, tokenizer: Tokenizer, tags: tuple[str, ...]) -> str:
    """Each word with its tag behind it, as they stand in the row."""
    tokens_T, starts = batch["tokens"][row], np.flatnonzero(batch["loss_mask"][row])
    behind = len(frame_of(tokenizer, num_texts=1).pieces[-1].ids)
    end = int(batch["segment_ids"][row].sum()) - behind
    words = [
        tokenizer.decode(tokens_T[start:stop]).strip()
        for start, stop in zip(starts, [*starts[1:], end], strict=True)
    ]
    labels = batch["label"][row][starts].tolist()
    return " ".join(f"{word} ({tags[label]})" for word, label in zip(words, labels, strict=True))
