"""Raw text to a tokenised dataset: scan, tokenise in parts, cut into shards, publish.

The work folder `NAME-FINGERPRINT.partial` holds what is finished, so that a run that was killed
goes on where it was; a refused one leaves it only where a rerun could find it again. Parts and
shards depend on the corpus alone, so the bytes are the same whatever the number of workers, and
whether these are processes here or those of a Beam pipeline. The dataset appears by one rename,
complete or not at all. For a root in a bucket, processes here work in the cache folder and send the
result; a Beam pipeline works in the bucket.
"""

import hashlib
import importlib.util
import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from jaxllm.data.content import content_hashes
from jaxllm.data.corpus import NOT_CONTENT, CorpusConfig
from jaxllm.data.dataset_error import DatasetError, of_dataset
from jaxllm.data.dataset_folder import FORMAT_VERSION, SIDECAR, SourceCard, read_card
from jaxllm.data.parts import any_finished
from jaxllm.data.preparation import BUDGET_KEY, LocalMakers, Makers, Preparation, Progress
from jaxllm.data.remote_files import exists, file_sizes, send_folder
from jaxllm.data.shard_cache import adopt
from jaxllm.data.tokenizer import Tokenizer, TokenizerConfig
from jaxllm.data.tokenizer_training import local_root, prepare_tokenizer
from jaxllm.data.work_folder import remote_work_folder, work_folder
from jaxllm.data.workers import default_workers
from jaxllm.storage import as_path, is_remote

PARTS, DATASET = "parts", "dataset"  # the folders in the work folder
WORKER_BYTES = 16 << 20  # text that takes a worker longer than the second it needs to start

__all__ = ["Progress", "prepare_dataset", "tokenise_corpus"]


def prepare_dataset(
    corpus: CorpusConfig,
    *,
    tokenizer: TokenizerConfig,
    root: Path | str,
    name: str,
    validation_every: int = 20,
    seed: int = 0,
    workers: int | None = None,
    beam: Sequence[str] | None = None,
    on_progress: Progress | None = None,
) -> Path:
    """Makes the dataset of one corpus with a tokenizer of its own, and returns its folder.

    Every `validation_every`-th document is held out (0: none). `seed` draws the sample that
    the tokenizer is trained on. `workers` processes work, by default one a core, or fewer for a
    small corpus; with `beam`, the options of an Apache Beam pipeline, that does.
    Raises ValueError for bad input and OSError for a full disk.
    """
    held = {name: (corpus, validation_every)}
    built = prepare_tokenizer(tokenizer, corpora=held, root=root, seed=seed)
    with of_dataset(name):
        return tokenise_corpus(
            corpus,
            tokenizer=built,
            root=as_path(root),
            name=name,
            validation_every=validation_every,
            workers=workers,
            beam=beam,
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
    beam: Sequence[str] | None = None,
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
    if exists(folder / SIDECAR):
        return folder

    def make(makers: Makers, parts: Path, dataset: Path) -> None:
        preparation = Preparation(
            corpus,
            tokenizer,
            name=name,
            validation_every=validation_every,
            parts=parts,
            dataset=dataset,
            on_progress=on_progress,
        )
        results = preparation.encode(makers)
        preparation.write(makers, results)
        preparation.publish(results, fingerprint=fingerprint, sources=sources)

    if beam is not None:
        _make_with_beam(make, folder, beam)
    elif is_remote(folder):
        local = local_root(root) / folder.name
        _make_here(make, local, workers or _worth_starting(corpus))
        send_folder(local, folder, last=SIDECAR)
        adopt(local, read_card(local))
    else:
        _make_here(make, folder, workers or _worth_starting(corpus))
    return folder


Make = Callable[[Makers, Path, Path], None]
"""Makes a dataset: called with who does the work, and the folders for parts and for the dataset."""


def _make_here(make: Make, folder: Path, workers: int) -> None:
    """Makes a dataset with processes of this machine, in a folder of this machine."""
    with _work_folder(folder) as work:
        if not exists(folder / SIDECAR):  # or another process made it meanwhile
            with LocalMakers(workers) as makers:
                make(makers, work / PARTS, work / DATASET)
            (work / DATASET).rename(folder)


def check_beam() -> None:
    """Raises ValueError where Apache Beam is not installed."""
    if importlib.util.find_spec("apache_beam") is None:
        raise ValueError(
            "--runner beam needs Apache Beam, which is not installed: make an environment of its "
            "own, for it wants older packages than training does, and install jaxllm[beam] there"
        )


def _make_with_beam(make: Make, folder: Path, options: Sequence[str]) -> None:
    """Makes a dataset with a Beam pipeline, in a folder that all its workers reach."""
    check_beam()
    from jaxllm.data.beam_makers import BeamMakers

    with _work_folder(folder) as work:
        if not exists(folder / SIDECAR):
            makers = BeamMakers(options, work)
            # A folder of a bucket cannot be renamed: there the sidecar, written last, completes it.
            dataset = folder if is_remote(folder) else work / DATASET
            make(makers, work / PARTS, dataset)
            if dataset != folder:
                dataset.rename(folder)


@contextmanager
def _work_folder(folder: Path) -> Iterator[Path]:
    """The work folder of a dataset."""
    work = folder.with_name(f"{folder.name}.partial")
    opened = remote_work_folder if is_remote(work) else work_folder
    with opened(work, is_worth_keeping=lambda error: _can_go_on(work, error)):
        yield work


def source_cards(corpus: CorpusConfig, root: Path) -> tuple[SourceCard, ...]:
    """The files of a corpus with the hashes of their content."""
    cache = local_root(root) / "content-hashes.json"
    hashes = content_hashes(corpus.build().files(), cache=cache)
    return tuple(SourceCard(file=file, sha256=sha256) for file, sha256 in hashes.items())


def tfds_name(name: str) -> str:
    """The name as TFDS wants it: lower-case letters, digits, underscores; a letter first."""
    clean = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    return clean if clean[:1].isalpha() else f"dataset_{clean}".rstrip("_")


def _can_go_on(work: Path, error: ValueError) -> bool:
    """Whether a rerun that is not refused may find finished parts in the work folder.

    Its name covers the content and all keys but the error budget: whatever else is mended, the
    next run works in another folder.
    """
    is_over_budget = isinstance(error, DatasetError) and error.key == BUDGET_KEY
    return is_over_budget and any_finished(work / PARTS)


def _worth_starting(corpus: CorpusConfig) -> int:
    """One worker a core, but none that would spend most of its life starting up."""
    size = sum(file_sizes(corpus.build().files()))
    return min(default_workers(), 1 + size // WORKER_BYTES)
