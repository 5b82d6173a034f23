"""Every kind of corpus, the parts that workers take, and the split of each document."""

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from jaxllm.data.documents import BadRecord, Corpus, Document, Span
from jaxllm.data.jsonl_corpus import JsonlCorpusConfig
from jaxllm.data.parquet_corpus import ParquetCorpusConfig
from jaxllm.data.remote_files import file_sizes
from jaxllm.data.text_corpus import TextCorpusConfig
from jaxllm.data.tfds_corpus import TfdsCorpusConfig

CorpusConfig = Annotated[
    TextCorpusConfig | JsonlCorpusConfig | ParquetCorpusConfig | TfdsCorpusConfig,
    Field(discriminator="type"),
]

# Where a corpus lies and how many bad records it may have do not change its documents.
NOT_CONTENT = {"paths", "data_dir", "name", "error_budget"}

SplitName = Literal["train", "validation"]

# Parts must not depend on the number of workers, or the bytes would: they depend on the corpus.
MIN_PART_BYTES = 1 << 20
MAX_PART_BYTES = 64 << 20
PARTS_WANTED = 64
MAX_PART_SPANS = 4096


@dataclass(frozen=True)
class Part:
    """Consecutive spans that one worker tokenises into one file for each split."""

    spans: tuple[Span, ...]
    first: int
    """Index of the first record within the whole corpus."""

    @property
    def size(self) -> int:
        """Bytes of text, approximately."""
        return sum(span.size for span in self.spans)


def split_of(record: int, validation_every: int) -> SplitName:
    """The split of a record: every n-th one is held out, none when `validation_every` is 0."""
    held_out = validation_every and record % validation_every == validation_every - 1
    return "validation" if held_out else "train"


def part_bytes(corpus: Corpus) -> int:
    """The size of a part: a 64th of the corpus, within bounds that keep memory and files few."""
    total = sum(file_sizes(corpus.files()))
    return min(MAX_PART_BYTES, max(MIN_PART_BYTES, total // PARTS_WANTED))


def gather_parts(spans: Iterable[Span], size: int) -> list[Part]:
    """Groups consecutive spans; a part is closed as soon as it holds `size` bytes."""
    parts: list[Part] = []
    group: list[Span] = []
    first = next_record = held = 0
    for span in spans:
        group.append(span)
        next_record += span.records
        held += span.size
        if held >= size or len(group) == MAX_PART_SPANS:
            parts.append(Part(tuple(group), first))
            group, first, held = [], next_record, 0
    if group:
        parts.append(Part(tuple(group), first))
    return parts


def read_part(
    corpus: Corpus, part: Part, *, validation_every: int
) -> Iterator[tuple[SplitName, Document | BadRecord]]:
    """The documents and bad records of a part, each with its split."""
    index = part.first
    for span in part.spans:
        stop = index + span.records
        for record in corpus.read(span):
            if record is not None:
                yield split_of(index, validation_every), record
            index += 1
        if index != stop:
            raise ValueError(f"{span.source} changed while it was read; run again")


def read_documents(
    config: CorpusConfig, *, split: SplitName, validation_every: int, seed: int | None = None
) -> Iterator[Document]:
    """The documents of a split: in the order of the corpus, or parts shuffled by `seed`.

    Bad records are left out: `prepare_dataset` counts them against the budget.
    """
    corpus = config.build()
    size = part_bytes(corpus)
    spans = (span for source in corpus.sources() for span in corpus.scan(source, size))
    parts = gather_parts(spans, size)
    if seed is not None:
        random.Random(seed).shuffle(parts)
    for part in parts:
        for found, record in read_part(corpus, part, validation_every=validation_every):
            if found == split and isinstance(record, Document):
                yield record
