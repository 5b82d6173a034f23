"""Text to token ids and back: what a tokenizer is, and the three kinds of it.

A tokenizer here is lossless, and text never becomes the delimiter: a document that contains
the delimiter's own spelling is encoded as the characters that it is.
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import numpy as np
from pydantic import Field

from jaxllm.data.content import write_atomically
from jaxllm.data.sentence_pieces import (
    MODEL_FILE,
    SentencePieceTokenizer,
    SentencePieceTokenizerConfig,
)
from jaxllm.schema import Config

CARD = "card.json"
"""The file in a tokenizer's folder that says of which kind it is."""


class Tokenizer(Protocol):
    """Encodes documents; ids are in [0, vocab_size)."""

    vocab_size: int
    delimiter_id: int
    """The token that opens each document; `encode` never returns it."""
    fingerprint: str
    """sha256 of everything that decides which ids a text gets."""

    def encode(self, text: str) -> np.ndarray:
        """The ids of a text, shape (tokens,), of `token_dtype(vocab_size)`."""

    def decode(self, ids: Iterable[int] | np.ndarray) -> str:
        """The text of ids; delimiters vanish, bytes that are no UTF-8 become U+FFFD."""

    def save(self, folder: Path) -> None:
        """Writes what `load_tokenizer` reads."""


def token_dtype(vocab_size: int) -> np.dtype:
    """The smallest dtype that holds every id: uint16, or uint32 above 65,536 tokens."""
    return np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.uint32)


class ByteTokenizerConfig(Config):
    """One token a byte of UTF-8, and the delimiter: a vocabulary of 257."""

    type: Literal["byte"] = "byte"
    """Kind of tokenizer: bytes."""

    def build(self, texts: Iterable[str] = ()) -> "ByteTokenizer":
        """The tokenizer; it learns nothing from `texts`."""
        return ByteTokenizer()


class HuggingFaceTokenizerConfig(Config):
    """A `tokenizer.json` of the Hugging Face tokenizers library."""

    type: Literal["hf"] = "hf"
    """Kind of tokenizer: a Hugging Face tokenizer.json."""
    path: str
    """The tokenizer.json, or the folder that holds it."""
    delimiter: str = "<|endoftext|>"
    """The special token that opens each document."""

    def build(self, texts: Iterable[str] = ()) -> "HuggingFaceTokenizer":
        """The tokenizer as it is; it learns nothing from `texts`."""
        path = Path(self.path).expanduser()
        path = path / "tokenizer.json" if path.is_dir() else path
        if not path.is_file():
            raise ValueError(f"there is no tokenizer at {path}; change `data.tokenizer.path`")
        return HuggingFaceTokenizer(
            path.read_bytes(), delimiter=self.delimiter, name=f"data.tokenizer.path: {path}"
        )


TokenizerConfig = Annotated[
    SentencePieceTokenizerConfig | ByteTokenizerConfig | HuggingFaceTokenizerConfig,
    Field(discriminator="type"),
]


class ByteTokenizer:
    """See `Tokenizer`; ids 0-255 are bytes, 256 is the delimiter."""

    vocab_size = 257
    delimiter_id = 256
    fingerprint = hashlib.sha256(b"utf-8 bytes, then the delimiter").hexdigest()

    def encode(self, text: str) -> np.ndarray:
        return np.frombuffer(text.encode("utf-8"), np.uint8).astype(np.uint16)

    def decode(self, ids: Iterable[int] | np.ndarray) -> str:
        data = bytes(int(token) for token in ids if token != self.delimiter_id)
        return data.decode("utf-8", errors="replace")

    def save(self, folder: Path) -> None:
        write_card(folder, {"type": "byte"})


class HuggingFaceTokenizer:
    """See `Tokenizer`; the ids are those of the tokenizers library, without special tokens.

    model: the bytes of a tokenizer.json. name: what an error calls it.
    """

    def __init__(self, model: bytes, *, delimiter: str, name: str) -> None:
        import tokenizers

        self._model = model
        self._delimiter = delimiter
        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(model.decode("utf-8"))
        except Exception as error:  # the library raises no kind of its own, just Exception
            raise ValueError(f"{name} is not a Hugging Face tokenizer.json: {error}") from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        # Special tokens that are spelled out in a text are text.
        self._tokenizer.encode_special_tokens = True
        self.vocab_size = 1 + max(self._tokenizer.get_vocab(with_added_tokens=True).values())
        self.delimiter_id = self._special_id(delimiter)
        self.fingerprint = hashlib.sha256(f"{delimiter}\n".encode() + model).hexdigest()
        self._dtype = token_dtype(self.vocab_size)

    def encode(self, text: str) -> np.ndarray:
        ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        return np.asarray(ids, self._dtype)

    def decode(self, ids: Iterable[int] | np.ndarray) -> str:
        text = [int(token) for token in ids if token != self.delimiter_id]
        return self._tokenizer.decode(text, skip_special_tokens=False)

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "tokenizer.json").write_bytes(self._model)
        write_card(folder, {"type": "hf", "delimiter": self._delimiter})

    def _special_id(self, delimiter: str) -> int:
        """The id of the delimiter, which must be a special token: text cannot produce those."""
        added = self._tokenizer.get_added_tokens_decoder()
        special = {token.content: id_ for id_, token in added.items() if token.special}
        if delimiter not in special:
            raise ValueError(
                f"the tokenizer has no special token {delimiter!r}; it has "
                f"{', '.join(sorted(special)) or 'none'}; change `data.tokenizer.delimiter`"
            )
        return special[delimiter]


def write_card(folder: Path, card: dict[str, Any]) -> None:
    """Writes a tokenizer's card, the last of its files: a folder that has it is complete."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / CARD, json.dumps(card))


def load_tokenizer(folder: Path | str) -> Tokenizer:
    """The tokenizer that `save` wrote into a folder. Raises ValueError when there is none."""
    folder = Path(folder)
    if not (folder / CARD).is_file():
        raise ValueError(f"{folder} holds no tokenizer: it has no {CARD}")
    card = json.loads((folder / CARD).read_text(encoding="utf-8"))
    match card["type"]:
        case "byte":
            return ByteTokenizer()
        case "hf":
            file = folder / "tokenizer.json"
            return HuggingFaceTokenizer(
                file.read_bytes(), delimiter=card["delimiter"], name=str(file)
            )
        case "sentencepiece":
            file = folder / MODEL_FILE
            return SentencePieceTokenizer(file.read_bytes(), name=str(file))
        case other:
            raise ValueError(f"{folder / CARD} names an unknown kind of tokenizer: {other!r}")
