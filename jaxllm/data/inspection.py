"""What a person looks at: the card of a dataset, and the rows of a batch as text."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxllm.data.batch import Batch
from jaxllm.data.dataset_folder import read_card
from jaxllm.data.example_folder import CARD, open_examples, read_examples_card
from jaxllm.data.label_counts import label_counts
from jaxllm.data.tokenizer import Tokenizer


@dataclass(frozen=True)
class RowSegment:
    """One document, or the part of one, inside a row: tokens [start, stop)."""

    segment_id: int
    start: int
    stop: int
    text: str
    """The decoded tokens; characters cut by the row's ends are U+FFFD."""
    scored: int
    """Number of tokens whose target counts in the loss; 0 where a row has one for all of it."""


def decode_row(batch: Batch, row: int, tokenizer: Tokenizer) -> list[RowSegment]:
    """The segments of one row of a batch, in order; a pair of texts that has one is two."""
    segments_T = batch["segment_ids"][row]
    types_T = batch["token_types"][row] if "token_types" in batch else np.zeros_like(segments_T)
    is_other_T = np.diff(segments_T, prepend=-1) | np.diff(types_T, prepend=0)
    starts = np.flatnonzero(is_other_T)
    stops = [*starts[1:], len(segments_T)]
    return [
        RowSegment(
            segment_id=int(segments_T[start]),
            start=int(start),
            stop=int(stop),
            text=tokenizer.decode(batch["tokens"][row, start:stop]),
            scored=_scored(batch["loss_mask"][row], int(start), int(stop)),
        )
        for start, stop in zip(starts, stops, strict=True)
    ]


def _scored(mask: np.ndarray, start: int, stop: int) -> int:
    """Targets of a stretch of tokens; where a row has one for all of it, none is of a token."""
    return int(mask[start:stop].sum()) if mask.ndim else 0


def describe_dataset(folder: Path | str) -> dict[str, Any]:
    """The card of a tokenised dataset as plain values: what it holds and what made it."""
    folder = Path(folder)
    if (folder / CARD).is_file():
        return _describe_examples(folder)
    card = read_card(folder)
    return {
        "name": card.name,
        "folder": str(folder),
        "fingerprint": card.fingerprint,
        "tokenizer": card.tokenizer,
        "vocab_size": card.vocab_size,
        "delimiter_id": card.delimiter_id,
        "dtype": card.dtype,
        "source_files": len(card.sources),
        "skipped_records": list(card.skipped),
        "splits": {
            name: {
                "documents": split.documents,
                "tokens": split.tokens,
                "raw_bytes": split.raw_bytes,
                "bytes_per_token": split.raw_bytes / split.tokens,
                "tokens_per_document": split.tokens / split.documents,
                "shards": len(split.shards),
                "bytes_on_disk": sum(split.shard_bytes),
            }
            for name, split in card.splits.items()
        },
    }


def _describe_examples(folder: Path) -> dict[str, Any]:
    card = read_examples_card(folder)
    return {
        "name": card.name,
        "folder": str(folder),
        "fingerprint": card.fingerprint,
        "tokenizer": card.tokenizer,
        "source_files": len(card.sources),
        "splits": {
            split: {
                "examples": table.num_examples,
                **{
                    f"{name} {figure}": int(getattr(column.sizes, what)())
                    for name, column in table.columns.items()
                    for figure, what in (("values", "sum"), ("longest", "max"))
                    if column.sizes.max() > 1 and "label" not in name
                },
                **label_counts(table, card.options),
            }
            for split, table in open_examples(folder).items()
        },
    }
