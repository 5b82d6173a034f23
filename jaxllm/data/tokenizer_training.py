"""The tokenizer of a run: built once from the train documents, then found again."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

from jaxllm.data.content import content_hashes
from jaxllm.data.corpus import NOT_CONTENT, CorpusConfig, read_documents
from jaxllm.data.sentence_pieces import SentencePieceTokenizerConfig, first_bytes
from jaxllm.data.tokenizer import CARD, Tokenizer, TokenizerConfig, load_tokenizer

Held = tuple[CorpusConfig, int]
"""A corpus, and every how many documents one is held out of it."""


def prepare_tokenizer(
    config: TokenizerConfig, *, corpora: Sequence[Held], root: Path | str, seed: int
) -> Tokenizer:
    """The tokenizer of a config, trained on the corpora where it is one that is trained.

    A trained tokenizer is kept in `ROOT/tokenizers` under a name that the config, the content
    of the corpora and the seed decide. Held-out documents are not trained on.
    """
    if not isinstance(config, SentencePieceTokenizerConfig) or config.model_path is not None:
        return config.build()
    root = Path(root)
    root.mkdir(parents=True, exist_ok=True)
    if not corpora:
        raise ValueError(
            "there is no corpus to train the tokenizer on; set `tokenizer.model_path`, or leave "
            "`tokenizer` out to use the one of the prepared dataset"
        )
    folder = root / "tokenizers" / f"sentencepiece-{_key(config, corpora, root, seed)[:12]}"
    if not (folder / CARD).exists():
        share = config.training_bytes // len(corpora)
        texts = chain.from_iterable(_sample(*held, seed=seed, limit=share) for held in corpora)
        config.build(texts).save(folder)
    return load_tokenizer(folder)


def _sample(corpus: CorpusConfig, validation_every: int, *, seed: int, limit: int) -> Iterator[str]:
    """Train documents up to `limit` bytes, from all over the corpus."""
    documents = read_documents(corpus, split="train", validation_every=validation_every, seed=seed)
    return first_bytes((document.text for document in documents), limit)


def _key(
    config: SentencePieceTokenizerConfig, corpora: Sequence[Held], root: Path, seed: int
) -> str:
    """sha256 of everything that decides the trained model."""
    cache = root / "content-hashes.json"
    identity = {
        "config": config.model_dump(mode="json"),
        "seed": seed,
        "corpora": [
            [
                list(content_hashes(corpus.build().files(), cache=cache).values()),
                corpus.model_dump(mode="json", exclude=NOT_CONTENT),
                validation_every,
            ]
            for corpus, validation_every in corpora
        ],
    }
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
