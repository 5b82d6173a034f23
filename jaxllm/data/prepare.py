"""Raw text to a tokenised dataset: scan, tokenise in parts, cut into shards, publish.

The work folder `NAME-FINGERPRINT.partial` holds what is finished, so that a run that was killed
goes on where it was; a refused one leaves it only where a rerun could find it again. Parts and
shards depend on the corpus alone, so the bytes are the same whatever the number of workers. The
dataset appears by one rename, complete or not at all.
"""

import hashlib
import json
import logging
import re
from collections.abc import Callable, Sequence
from functools import reduce
from pathlib import Path

from jaxllm.data.content import content_hashes
from jaxllm.data.corpus import (
    NOT_CONTENT,
    CorpusConfig,
    Part,
    SplitName,
    gather_parts,
    part_bytes,
)
from jaxllm.data.dataset_error import DatasetError, of_dataset
from jaxllm.data.dataset_folder import (
    FORMAT_VERSION,
    SIDECAR,
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
    SplitCounts,
    any_finished,
    encode_part,
    finished_part,
    plan_shards,
    scan_source,
    write_shard_of_parts,
)
from jaxllm.data.tokenizer import Tokenizer, TokenizerConfig, token_dtype
from jaxllm.data.tokenizer_training import prepare_tokenizer
from jaxllm.data.work_folder import work_folder
from jaxllm.data.workers import Workers, default_workers

logger = logging.getLogger(__name__)

PARTS = "parts"  # the folder of the parts, in the work folder
BUDGET_KEY = "corpus.error_budget"
WORKER_BYTES = 16 << 20  # text that takes a worker longer than the second it needs to start

Progress = Callable[[str, int, int], None]
"""Called with (phase, done, total); phases are scan, tokenise (bytes) and write (shards)."""


def prepare_dataset(
    corpus: CorpusConfig,
    *,
    tokenizer: TokenizerConfig,
    root: Path | str,
    name: str,
    validation_every: int = 20,
    seed: int = 0,
    workers: int | None = None,
    on_progress: Progress | None = None,
) -> Path:
    """Makes the dataset of one corpus with a tokenizer of its own, and returns its folder.

    Every `validation_every`-th document is held out (0: none). `seed` draws the sample that
    the tokenizer is trained on. `workers` processes work, by default one a core, or fewer for a
    small corpus.
    Raises ValueError for bad input and OSError for a full disk.
    """
    root = Path(root)
    held = {name: (corpus, validation_every)}
    built = prepare_tokenizer(tokenizer, corpora=held, root=root, seed=seed)
    with of_dataset(name):
        return tokenise_corpus(
            corpus,
            tokenizer=built,
            root=root,
            name=name,
            validation_every=validation_every,
            workers=workers,
            on_progress=on_progress,
        )


def tokenise_corpus(
    corpus: CorpusConfig,
    *,
    tokenizer: Tokenizer,
    root: Path,
    name: str,
    validation_every: int,
    workers: int | None = None,
    on_progress: Progress | None = None,
) -> Path:
    """Makes the dataset of one corpus with a given tokenizer, or finds it already made."""
    sources = source_cards(corpus, root)
    name = tfds_name(name)
    identity = {
        "format": FORMAT_VERSION,
        "content": [source.sha256 for source in sources],
        "corpus": corpus.model_dump(mode="json", exclude=NOT_CONTENT),
        "tokenizer": tokenizer.fingerprint,
        "delimiter_id": tokenizer.delimiter_id,
        "validation_every": validation_every,
    }
    fingerprint = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    folder = root / f"{name}-{fingerprint[:12]}"
    if (folder / SIDECAR).exists():
        return folder
    work = folder.with_name(f"{folder.name}.partial")
    with work_folder(work, is_worth_keeping=lambda error: _can_go_on(work, error)):
        if (folder / SIDECAR).exists():  # another process made it meanwhile
            return folder
        job = _Job(corpus, tokenizer, name, validation_every, work, on_progress)
        with Workers(workers or _worth_starting(corpus)) as pool:
            results = job.encode(pool)
            job.write(pool, results)
        job.publish(folder, results, fingerprint=fingerprint, sources=sources)
    return folder


def source_cards(corpus: CorpusConfig, root: Path) -> tuple[SourceCard, ...]:
    """The files of a corpus with the hashes of their content."""
    hashes = content_hashes(corpus.build().files(), cache=root / "content-hashes.json")
    return tuple(SourceCard(file=file, sha256=sha256) for file, sha256 in hashes.items())


def tfds_name(name: str) -> str:
    """The name as TFDS wants it: lower-case letters, digits, underscores; a letter first."""
    clean = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    return clean if clean[:1].isalpha() else f"dataset_{clean}".rstrip("_")


class _Job:
    """One preparation in its work folder."""

    def __init__(
        self,
        corpus: CorpusConfig,
        tokenizer: Tokenizer,
        name: str,
        validation_every: int,
        work: Path,
        on_progress: Progress | None,
    ) -> None:
        self._corpus = corpus
        self._tokenizer = tokenizer
        self._name = name
        self._every = validation_every
        self._parts = work / PARTS
        self._dataset = work / "dataset"
        self._tell = on_progress or (lambda phase, done, total: None)
        self._parts.mkdir(exist_ok=True)
        self._dataset.mkdir(exist_ok=True)
        tokenizer.save(self._dataset / TOKENIZER_FOLDER)

    def encode(self, pool: Workers) -> list[PartResult]:
        """Tokenises every part that is not finished yet."""
        parts = self._plan(pool)
        results = [finished_part(self._parts, index) for index in range(len(parts))]
        total = sum(part.size for part in parts)
        done = sum(part.size for part, result in zip(parts, results, strict=True) if result)
        missing = [index for index, result in enumerate(results) if result is None]
        tasks = [self._task(index, parts[index]) for index in missing]
        self._tell("tokenise", done, total)
        finished = [result for result in results if result]
        self._check_budget(finished)
        for index, result in pool.run(encode_part, tasks):
            results[missing[index]] = result
            finished.append(result)
            self._check_budget(finished)
            done += parts[missing[index]].size
            self._tell("tokenise", done, total)
        complete = [result for result in results if result]
        assert len(complete) == len(parts)
        self._check_splits(complete)
        return complete

    def write(self, pool: Workers, results: list[PartResult]) -> None:
        """Writes every shard that is not there yet."""
        tasks = plan_shards(
            results,
            parts=self._parts,
            folder=self._dataset,
            name=self._name,
            tokenizer=self._tokenizer,
        )
        for done, _ in enumerate(pool.run(write_shard_of_parts, tasks)):
            self._tell("write", done + 1, len(tasks))

    def publish(
        self,
        folder: Path,
        results: list[PartResult],
        *,
        fingerprint: str,
        sources: tuple[SourceCard, ...],
    ) -> None:
        """Writes the metadata and gives the dataset its name."""
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
        self._dataset.rename(folder)

    def _plan(self, pool: Workers) -> list[Part]:
        """The parts of the corpus, the same on every run."""
        corpus = self._corpus.build()
        size = part_bytes(corpus)
        tasks = [ScanTask(self._corpus, source, size) for source in corpus.sources()]
        spans: list[list[Span]] = [[] for _ in tasks]
        # Text files are scanned by a glance at their size, which no process need be started for.
        cheap = Workers(1) if self._corpus.type != "jsonl" else pool
        for done, (index, found) in enumerate(cheap.run(scan_source, tasks)):
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


def _can_go_on(work: Path, error: ValueError) -> bool:
    """Whether a rerun that is not refused may find finished parts in the work folder.

    Its name covers the content and all keys but the error budget: whatever else is mended, the
    next run works in another folder.
    """
    is_over_budget = isinstance(error, DatasetError) and error.key == BUDGET_KEY
    return is_over_budget and any_finished(work / PARTS)


def _worth_starting(corpus: CorpusConfig) -> int:
    """One worker a core, but none that would spend most of its life starting up."""
    size = sum(path.stat().st_size for path in corpus.build().files())
    return min(default_workers(), 1 + size // WORKER_BYTES)


def _total(results: Sequence[PartResult], split: SplitName) -> SplitCounts:
    return reduce(SplitCounts.plus, (result.splits[split] for result in results), SplitCounts())
