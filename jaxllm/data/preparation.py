"""One preparation of a dataset: plan the parts, tokenise them, write the shards, publish."""

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from pathlib import Path
from typing import Protocol

from jaxllm.data.corpus import CorpusConfig, Part, SplitName, gather_parts, part_bytes
from jaxllm.data.dataset_error import DatasetError
from jaxllm.data.dataset_folder import (
    TOKENIZER_FOLDER,
    DatasetCard,
    SourceCard,
    split_card,
    write_metadata,
)
from jaxllm.data.documents import Span
from jaxllm.data.parts import (
    SPLITS,
    PartResult,
    PartTask,
    ScanTask,
    ShardTask,
    SplitCounts,
    encode_part,
    finished_parts,
    plan_shards,
    scan_source,
    write_shard_of_parts,
)
from jaxllm.data.tokenizer import Tokenizer, token_dtype
from jaxllm.data.whole_files import filled
from jaxllm.data.workers import Workers
from jaxllm.storage import is_remote

logger = logging.getLogger(__name__)

BUDGET_KEY = "corpus.error_budget"

Progress = Callable[[str, int, int], None]
"""Called with (phase, done, total); phases are scan, tokenise (bytes) and write (shards)."""


class Makers(Protocol):
    """Who does the work: processes of this machine, or those of a cluster."""

    def run[Task, Result](
        self, function: Callable[[Task], Result], tasks: Sequence[Task]
    ) -> Iterator[tuple[int, Result]]:
        """Yields (index of the task, result) as they are done, in any order."""

    def write_shards(self, tasks: Sequence[ShardTask]) -> Iterator[int]:
        """Writes every shard, and yields the index of each that is done."""


class LocalMakers(Workers):
    """See `Makers`: worker processes, which leave shards that are there as they are."""

    def write_shards(self, tasks: Sequence[ShardTask]) -> Iterator[int]:
        return (index for index, _ in self.run(write_shard_of_parts, tasks))


class Preparation:
    """The work of one dataset, from its documents to its folder."""

    def __init__(
        self,
        corpus: CorpusConfig,
        tokenizer: Tokenizer,
        *,
        name: str,
        validation_every: int,
        parts: Path,
        dataset: Path,
        on_progress: Progress | None,
    ) -> None:
        """parts: the folder for what is tokenised. dataset: the one for the shards."""
        self._corpus = corpus
        self._tokenizer = tokenizer
        self._name = name
        self._every = validation_every
        self._parts = parts
        self._dataset = dataset
        self._tell = on_progress or (lambda phase, done, total: None)
        for folder in (parts, dataset):
            if not is_remote(folder):
                folder.mkdir(exist_ok=True)
        with filled(dataset / TOKENIZER_FOLDER) as folder:
            tokenizer.save(folder)

    def encode(self, makers: Makers) -> list[PartResult]:
        """Tokenises every part that is not finished yet."""
        parts = self._plan(makers)
        known = finished_parts(self._parts)
        results = [known.get(index) for index in range(len(parts))]
        total = sum(part.size for part in parts)
        done = sum(part.size for part, result in zip(parts, results, strict=True) if result)
        missing = [index for index, result in enumerate(results) if result is None]
        tasks = [self._task(index, parts[index]) for index in missing]
        self._tell("tokenise", done, total)
        finished = [result for result in results if result]
        self._check_budget(finished)
        for index, result in makers.run(encode_part, tasks):
            results[missing[index]] = result
            finished.append(result)
            self._check_budget(finished)
            done += parts[missing[index]].size
            self._tell("tokenise", done, total)
        complete = [result for result in results if result]
        assert len(complete) == len(parts)
        self._check_splits(complete)
        return complete

    def write(self, makers: Makers, results: list[PartResult]) -> None:
        """Writes every shard that is not there yet."""
        tasks = plan_shards(
            results,
            parts=self._parts,
            folder=self._dataset,
            name=self._name,
            tokenizer=self._tokenizer,
        )
        for done, _ in enumerate(makers.write_shards(tasks)):
            self._tell("write", done + 1, len(tasks))

    def publish(
        self,
        results: list[PartResult],
        *,
        fingerprint: str,
        sources: tuple[SourceCard, ...],
    ) -> None:
        """Writes the metadata, and last the sidecar, with which the dataset is complete."""
        skipped = tuple(where for result in results for where in result.skipped)
        for record in skipped:
            logger.warning("skipped %s", record)
        if empty := sum(result.empty for result in results):
            logger.warning("left out %d documents without text", empty)
        card = DatasetCard(
            name=self._name,
            fingerprint=fingerprint,
            vocab_size=self._tokenizer.vocab_size,
            delimiter_id=self._tokenizer.delimiter_id,
            tokenizer=self._tokenizer.fingerprint,
            dtype="uint16" if token_dtype(self._tokenizer.vocab_size).itemsize == 2 else "uint32",
            validation_every=self._every,
            skipped=skipped,
            sources=sources,
            splits={
                split: split_card(
                    self._name,
                    split,
                    documents=counts.documents,
                    tokens=counts.tokens + 1,  # the closing delimiter
                    raw_bytes=counts.raw_bytes,
                    folder=self._dataset,
                )
                for split in SPLITS
                if (counts := _total(results, split)).documents
            },
        )
        write_metadata(self._dataset, card)

    def _plan(self, makers: Makers) -> list[Part]:
        """The parts of the corpus, the same on every run."""
        corpus = self._corpus.build()
        size = part_bytes(corpus)
        tasks = [ScanTask(self._corpus, source, size) for source in corpus.sources()]
        spans: list[list[Span]] = [[] for _ in tasks]
        # Text files are scanned by a glance at their size, which no process need be started for.
        is_cheap = self._corpus.type != "jsonl" and not any(map(is_remote, corpus.files()))
        is_here = isinstance(makers, LocalMakers)
        scanners = LocalMakers(1) if is_here and is_cheap else makers
        for done, (index, found) in enumerate(scanners.run(scan_source, tasks)):
            spans[index] = found
            self._tell("scan", done + 1, len(tasks))
        return gather_parts((span for source in spans for span in source), size)

    def _task(self, index: int, part: Part) -> PartTask:
        tokenizer = str(self._dataset / TOKENIZER_FOLDER)
        return PartTask(self._corpus, part, index, self._every, tokenizer, str(self._parts))

    def _check_budget(self, results: Sequence[PartResult]) -> None:
        """Raises when more records are bad than may be skipped."""
        bad = [where for result in results for where in result.skipped]
        budget = self._corpus.error_budget
        if len(bad) > budget:
            shown = "\n  ".join(sorted(bad)[:10])
            raise DatasetError(
                BUDGET_KEY,
                f"the corpus has records that are no documents, more than the error budget of "
                f"{budget}:\n  {shown}\nrepair them, or raise the budget to skip as many",
            )

    def _check_splits(self, results: Sequence[PartResult]) -> None:
        """Raises when there is nothing to train on, or nothing to validate with."""
        train = _total(results, "train").documents
        validation = _total(results, "validation").documents
        if not train and not validation:
            raise DatasetError(
                "corpus", "the corpus is empty or missing: it has no document with text"
            )
        if not train and self._every != 1:
            raise DatasetError(
                "validation_every",
                f"none of the corpus's {validation} documents with text is left to train on; "
                f"raise it, or give more text",
            )
        if self._every and not validation:
            raise DatasetError(
                "validation_every",
                f"no document is held out: the corpus has {train} documents with text, and every "
                f"{self._every}th is for validation; lower it, or set it to 0",
            )


def _total(results: Sequence[PartResult], split: SplitName) -> SplitCounts:
    return reduce(SplitCounts.plus, (result.splits[split] for result in results), SplitCounts())
