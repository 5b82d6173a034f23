"""Text to token ids and back: what a tokenizer is, and the kinds of it.

A tokenizer here is lossless, and text never becomes the delimiter: a document that contains
the delimiter's own spelling is encoded as the characters that it is.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal, Protocol

import numpy as np
from pydantic import Field

from jaxllm.data.chat_template import ChatTemplate
from jaxllm.data.huggingface_tokenizer import HuggingFaceTokenizer
from jaxllm.data.huggingface_tokenizer_config import HuggingFaceTokenizerConfig
from jaxllm.data.marian_tokenizer import MarianTokenizer
from jaxllm.data.sentence_pieces import (
    MODEL_FILE,
    SentencePieceTokenizer,
    SentencePieceTokenizerConfig,
)
from jaxllm.data.token_kinds import TokenKinds
from jaxllm.data.tokenizer_card import CARD, read_card, token_dtype, write_card
from jaxllm.schema import Config

__all__ = [
    "CARD",
    "ByteTokenizer",
    "ByteTokenizerConfig",
    "HuggingFaceTokenizer",
    "HuggingFaceTokenizerConfig",
    "MarianTokenizer",
    "SentencePieceTokenizer",
    "Tokenizer",
    "TokenizerConfig",
    "load_tokenizer",
    "token_dtype",
    "write_card",
]


class Tokenizer(Protocol):
    """Encodes documents; ids are in [0, vocab_size)."""

    vocab_size: int
    delimiter_id: int
    """The token that opens each document; `encode` never returns it."""
    stop_ids: tuple[int, ...]
    """The tokens that end what a model generates; at least one."""
    chat_template: ChatTemplate | None
    """How a conversation is written for the model; None where nothing says."""
    fingerprint: str
    """sha256 of everything that decides which ids a text gets."""

    def encode(self, text: str) -> np.ndarray:
        """The ids of a text, shape (tokens,), of `token_dtype(vocab_size)`."""

    def kinds(self) -> TokenKinds:
        """Which ids are special, which is the mask, and which go on with a word."""

    def decode(self, ids: Iterable[int] | np.ndarray) -> str:
        """The text of ids; delimiters vanish, bytes that are no UTF-8 become U+FFFD."""

    def save(self, folder: Path) -> None:
        """Writes what `load_tokenizer` reads."""


class ByteTokenizerConfig(Config):
    """One token a byte of UTF-8, and the delimiter: a vocabulary of 257."""

    type: Literal["byte"] = "byte"
    """Kind of tokenizer: bytes."""

    def build(self, texts: Iterable[str] = ()) -> "ByteTokenizer":
        """The tokenizer; it learns nothing from `texts`."""
        return ByteTokenizer()


TokenizerConfig = Annotated[
    SentencePieceTokenizerConfig | ByteTokenizerConfig | HuggingFaceTokenizerConfig,
    Field(discriminator="type"),
]


class ByteTokenizer:
    """See `Tokenizer`; ids 0-255 are bytes, 256 is the delimiter."""

    vocab_size = 257
    delimiter_id = 256
    stop_ids: tuple[int, ...] = (256,)
    chat_template: ChatTemplate | None = None
    fingerprint = hashlib.sha256(b"utf-8 bytes, then the delimiter").hexdigest()

    def encode(self, text: str) -> np.ndarray:
        return np.frombuffer(text.encode("utf-8"), np.uint8).astype(np.uint16)

    def kinds(self) -> TokenKinds:
        return TokenKinds((self.delimiter_id,))

    def decode(self, ids: Iterable[int] | np.ndarray) -> str:
        data = bytes(int(token) for token in ids if token != self.delimiter_id)
        return data.decode("utf-8", errors="replace")

    def save(self, folder: Path) -> None:
        write_card(folder, {"type": "byte"})


def load_tokenizer(folder: Path | str) -> Tokenizer:
    """The tokenizer that `save` wrote into a folder. Raises ValueError when there is none."""
    folder = Path(folder)
    card = read_card(folder)
    match card["type"]:
        case "byte":
            return ByteTokenizer()
        case "hf":
            return HuggingFaceTokenizer.load(folder, card)
        case "marian":
            return MarianTokenizer.load(folder, card)
        case "sentencepiece":
            file = folder / MODEL_FILE
            return SentencePieceTokenizer(file.read_bytes(), name=str(file))
        case other:
            raise ValueError(f"{folder / CARD} names an unknown kind of tokenizer: {other!r}")
