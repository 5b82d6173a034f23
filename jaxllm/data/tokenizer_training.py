"""The tokenizer of a run: built once from the train documents, then found again."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from jaxllm.data.content import content_hashes
from jaxllm.data.corpus import NOT_CONTENT, CorpusConfig, read_documents
from jaxllm.data.dataset_error import DatasetError, of_dataset
from jaxllm.data.example_sources import read_of_paths
from jaxllm.data.examples import ExamplesConfig, options_of
from jaxllm.data.remote_files import exists, fetch_folder, send_folder
from jaxllm.data.sentence_pieces import SentencePieceTokenizerConfig, first_bytes
from jaxllm.data.tokenizer import CARD, Tokenizer, TokenizerConfig, load_tokenizer
from jaxllm.data.whole_files import replaced_folder
from jaxllm.storage import as_path, is_remote, text_of
from jaxllm.storage.cache import cache_folder

Held = tuple[CorpusConfig | ExamplesConfig, int]
"""A corpus or examples, and every how many documents or groups of them one is held out."""


def prepare_tokenizer(
    config: TokenizerConfig, *, corpora: Mapping[str, Held], root: Path | str, seed: int
) -> Tokenizer:
    """The tokenizer of a config, trained on the corpora where it is one that is trained.

    A trained tokenizer is kept in `ROOT/tokenizers` under a name that the config, the content
    of the corpora and the seed decide. Held-out documents are not trained on. The corpora are
    given by the names of their datasets, for errors.
    """
    if not isinstance(config, SentencePieceTokenizerConfig) or config.model_path is not None:
        return config.build()
    if all(validation_every == 1 for _, validation_every in corpora.values()):
        raise ValueError(
            "there is no corpus to train the tokenizer on; set `data.tokenizer.model_path`, or "
            "leave `data.tokenizer` out to use the one of the prepared dataset"
        )
    here = local_root(root)
    name = f"tokenizers/sentencepiece-{_key(config, corpora, here, seed)[:12]}"
    folder, shared = here / name, as_path(root) / name
    if folder != shared and exists(shared / CARD) and not folder.is_dir():
        with replaced_folder(folder) as fetched:
            fetch_folder(shared, fetched)
    if not (folder / CARD).exists():
        share = config.training_bytes // len(corpora)
        samples = [_sample(name, *held, seed=seed) for name, held in corpora.items()]
        texts = chain.from_iterable(first_bytes(sample, share) for sample in samples)
        config.build(texts).save(folder)
    if folder != shared and not exists(shared / CARD):
        send_folder(folder, shared, last=CARD)
    return load_tokenizer(folder)


def local_root(root: Path | str) -> Path:
    """The folder of this machine for what is kept in `root`: itself, or one that stands for it."""
    if not is_remote(root):
        return Path(root)
    return cache_folder() / "roots" / text_of(root).removeprefix("gs://")


def _sample(
    name: str, corpus: CorpusConfig | ExamplesConfig, validation_every: int, *, seed: int
) -> Iterable[str]:
    """Train documents from all over the corpus. Raises DatasetError when none has text."""
    texts = _texts(name, corpus, validation_every, seed)
    first = next(texts, None)
    if first is not None:
        return chain([first], texts)
    if validation_every == 1:  # held out whole, for scoring only
        return []
    with of_dataset(name):
        if isinstance(corpus, ExamplesConfig):
            raise DatasetError("source", "it has no record with text to train a tokenizer on")
        raise DatasetError(
            "corpus",
            "the corpus is empty or missing: it has no document with text to train a tokenizer on",
        )


def _texts(
    name: str, corpus: CorpusConfig | ExamplesConfig, validation_every: int, seed: int
) -> Iterator[str]:
    with of_dataset(name):
        if isinstance(corpus, ExamplesConfig):
            for record in corpus.records_of_training():
                yield from corpus.texts(record)
            return
        documents = read_documents(
            corpus, split="train", validation_every=validation_every, seed=seed
        )
        yield from (document.text for document in documents if document.text)


def _key(
    config: SentencePieceTokenizerConfig, corpora: Mapping[str, Held], root: Path, seed: int
) -> str:
    """sha256 of everything that decides the trained model."""
    identity = {
        "config": config.model_dump(mode="json"),
        "seed": seed,
        "corpora": [_identity(name, *held, root=root) for name, held in corpora.items()],
    }
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def _identity(
    name: str, corpus: CorpusConfig | ExamplesConfig, validation_every: int, *, root: Path
) -> list[Any]:
    """What decides the documents of a corpus: its content, and how it is read."""
    with of_dataset(name):
        if isinstance(corpus, ExamplesConfig):
            hashes = content_hashes(corpus.source.all_files(), cache=root / "content-hashes.json")
            of_paths = read_of_paths(corpus.source)
            identity = [list(hashes.values()), options_of(corpus)]
            return [*identity, of_paths] if of_paths else identity
        hashes = content_hashes(corpus.build().files(), cache=root / "content-hashes.json")
    return [
        list(hashes.values()),
        corpus.model_dump(mode="json", exclude=NOT_CONTENT),
        validation_every,
    ]
