"""SentencePiece: training one that loses nothing, and encoding fast.

Lossless means: no normalisation, every space kept, digits one by one, and bytes for what the
vocabulary lacks (Kudo and Richardson 2018, https://arxiv.org/abs/1808.06226).
"""

import hashlib
import io
import logging
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from jaxllm.data.chat_template import ChatTemplate
from jaxllm.data.sentence_model import parse_model
from jaxllm.data.tokenizer_card import token_dtype, write_card
from jaxllm.schema import Config

if TYPE_CHECKING:
    from jaxllm.data.token_kinds import TokenKinds

logger = logging.getLogger(__name__)

SPACE = "\u2581"  # how SentencePiece writes a space; in a text, a character like any other
DELIMITER_PIECE = "<|document|>"
MODEL_FILE = "sentencepiece.model"
BPE = 2  # the value of trainer_spec.model_type

# Runs of spaces belong to the word behind them; see `WordCache`.
WORD = re.compile(r" *[^ ]+| +")
CACHED_WORDS = 1 << 20
CACHED_WORD_LENGTH = 64
PIECE_OF_TEXT = 1 << 16  # characters given to the trainer at a time


class SentencePieceTokenizerConfig(Config):
    """A SentencePiece model, trained on the train documents or loaded from a file."""

    type: Literal["sentencepiece"] = "sentencepiece"
    """Kind of tokenizer: SentencePiece."""
    vocab_size: int | None = Field(default=None, ge=300, le=1 << 20)
    """Number of tokens of the model to train, 256 bytes and 2 special ones included."""
    algorithm: Literal["bpe", "unigram"] = "bpe"
    """How the vocabulary is learned: byte-pair merges or a unigram language model."""
    training_bytes: int = Field(default=64 << 20, gt=0)
    """Bytes of text to train on at most, drawn from the train documents."""
    model_path: str | None = None
    """A `.model` file to load instead of training one."""

    @model_validator(mode="after")
    def _train_or_load(self) -> Self:
        if (self.vocab_size is None) == (self.model_path is None):
            raise ValueError("give either vocab_size, to train a model, or model_path, to load one")
        return self

    def build(self, texts: Iterable[str] = ()) -> "SentencePieceTokenizer":
        """Loads the model, or trains it on `texts`, of which it takes `training_bytes`."""
        if self.model_path is not None:
            path = Path(self.model_path).expanduser()
            if not path.is_file():
                raise ValueError(f"there is no model at {path}; change `data.tokenizer.model_path`")
            return SentencePieceTokenizer(
                path.read_bytes(), name=f"data.tokenizer.model_path: {path}"
            )
        assert self.vocab_size is not None
        sample = first_bytes(texts, self.training_bytes)
        return SentencePieceTokenizer(
            train_model(sample, vocab_size=self.vocab_size, algorithm=self.algorithm),
            name="the trained model",
        )


class SentencePieceTokenizer:
    """See `Tokenizer`; the delimiter is the model's bos piece, or its eos piece.

    model: the bytes of a `.model` file. name: what an error calls it.
    """

    chat_template: ChatTemplate | None = None

    def __init__(self, model: bytes, *, name: str) -> None:
        import sentencepiece

        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        except RuntimeError as error:
            raise ValueError(f"{name} is not a SentencePiece model") from error
        self.model = model
        self.vocab_size: int = self._processor.get_piece_size()
        self.delimiter_id = self._control_id()
        self.stop_ids: tuple[int, ...] = (self.delimiter_id,)
        self.fingerprint = hashlib.sha256(model).hexdigest()
        self._dtype = token_dtype(self.vocab_size)
        self._space_ids = self._encode([f"<0x{byte:02X}>" for byte in SPACE.encode()])
        self._words = WordCache(self._encode_plain) if _words_are_independent(model) else None
        self._check_lossless()

    def encode(self, text: str) -> np.ndarray:
        if SPACE not in text:
            return self._encode_spaces(text)
        # The library would take this character for a space; its bytes say what it is.
        pieces: list[np.ndarray] = []
        for part in text.split(SPACE):
            pieces += [self._space_ids, self._encode_spaces(part)]
        return np.concatenate(pieces[1:])

    def decode(self, ids: Iterable[int] | np.ndarray) -> str:
        return self._processor.decode([int(id_) for id_ in ids if id_ != self.delimiter_id])

    def spelled(self, ids: Iterable[int] | np.ndarray) -> list[bytes]:
        """The UTF-8 that each of the ids of a text stands for."""
        pieces = [(int(id_), self._processor.id_to_piece(int(id_))) for id_ in ids]
        return [
            bytes([int(piece[1:-1], 16)])
            if self._processor.is_byte(id_)
            else piece.replace(SPACE, " ").encode()
            for id_, piece in pieces
        ]

    def kinds(self) -> "TokenKinds":
        from jaxllm.data.token_kinds import kinds_of  # it knows how this library writes a space

        ids = range(self.vocab_size)
        return kinds_of(
            {id_: self._processor.id_to_piece(id_) for id_ in ids},
            size=self.vocab_size,
            special_ids=[
                id_
                for id_ in ids
                if self._processor.is_control(id_) or self._processor.is_unknown(id_)
            ],
        )

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MODEL_FILE).write_bytes(self.model)
        write_card(folder, {"type": "sentencepiece"})

    def encode_plain(self, text: str) -> np.ndarray:
        """What `encode` returns, computed by the library alone; without `SPACE` in the text."""
        return np.frombuffer(self._encode_plain(text), self._dtype)

    def _encode_spaces(self, text: str) -> np.ndarray:
        if self._words is None:
            return self.encode_plain(text)
        return np.frombuffer(self._words.encode(text), self._dtype)

    def _encode_plain(self, text: str) -> bytes:
        return self._processor.encode(text, out_type="numpy").astype(self._dtype).tobytes()

    def _encode(self, pieces: list[str]) -> np.ndarray:
        return np.asarray([self._processor.piece_to_id(piece) for piece in pieces], self._dtype)

    def _control_id(self) -> int:
        """A control piece, which the library never produces from text."""
        for id_ in (self._processor.bos_id(), self._processor.eos_id()):
            if id_ >= 0 and self._processor.is_control(id_):
                return id_
        raise ValueError(
            "the SentencePiece model has no bos or eos control piece to open documents with; "
            "train it with one, or choose another `data.tokenizer.model_path`"
        )

    def _check_lossless(self) -> None:
        probe = "  two spaces, a\ttab,\nlines\n\nand \ufb01 \u00e9 e\u0301 \U0001f600 "
        if self.decode(self.encode(probe)) != probe:
            logger.warning(
                "this SentencePiece model changes the text it encodes (its normaliser does, or it "
                "has no byte fallback): bits per byte will count bytes that it does not score"
            )


class WordCache:
    """Remembers the ids of words, several times faster than the plain encoder.

    Exact where no merge joins a non-space with a space behind it: byte-pair merges on the two
    sides of such a boundary then never meet, so each word has the ids that it has alone.
    """

    def __init__(self, encode: Callable[[str], bytes]) -> None:
        self._encode = encode
        self._ids = _Remembered(encode)
        self._checked = False

    def encode(self, text: str) -> bytes:
        """The ids of a text as bytes. Asserts on its first text that they are the plain ones."""
        if len(self._ids) > CACHED_WORDS:
            self._ids.clear()
        ids = b"".join(map(self._ids.__getitem__, WORD.findall(text)))
        if not self._checked and text:
            assert ids == self._encode(text), "the word cache differs from the plain encoder"
            self._checked = True
        return ids


class _Remembered(dict[str, bytes]):
    """Word to ids, computed when first asked for; long words are not kept."""

    def __init__(self, encode: Callable[[str], bytes]) -> None:
        super().__init__()
        self._encode = encode

    def __missing__(self, word: str) -> bytes:
        ids = self._encode(word)
        if len(word) <= CACHED_WORD_LENGTH:
            self[word] = ids
        return ids


def _words_are_independent(model: bytes) -> bool:
    """Whether `WordCache` is exact: BPE, text taken as it is, no piece across a word boundary."""
    proto = parse_model(model)
    spec = proto.normalizer_spec
    as_it_is = not (
        spec.add_dummy_prefix or spec.remove_extra_whitespaces or spec.precompiled_charsmap
    )
    crossing = re.compile(f"[^{SPACE}]{SPACE}")
    return (
        proto.trainer_spec.model_type == BPE
        and as_it_is
        and not any(crossing.search(piece.piece) for piece in proto.pieces)
    )


def train_model(texts: Iterable[str], *, vocab_size: int, algorithm: str) -> bytes:
    """Trains a lossless model; the same texts give the same bytes.

    Raises ValueError when the texts are too few for the vocabulary; an error of reading them is
    raised as it is.
    """
    import sentencepiece

    model = io.BytesIO()
    read = _Reading(texts)
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_pieces(read),
            model_writer=model,
            model_type=algorithm,
            vocab_size=vocab_size,
            byte_fallback=True,
            split_digits=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=False,
            character_coverage=0.9999,  # rarer characters are left to the bytes
            max_sentence_length=8 * PIECE_OF_TEXT,
            unk_id=0,
            bos_id=1,
            eos_id=-1,
            pad_id=-1,
            bos_piece=DELIMITER_PIECE,
            num_threads=8,  # unigram sums by thread: a constant, so that machines agree
            minloglevel=2,
        )
    except (RuntimeError, ValueError) as error:
        if read.error is not None:
            raise read.error from None
        raise ValueError(
            f"SentencePiece cannot train {vocab_size} tokens on this corpus: {error}; change "
            f"`data.tokenizer.vocab_size`, or give it more text"
        ) from error
    return model.getvalue()


class _Reading:
    """Texts that remember why they ended early: the trainer makes an error of its own of it."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts = texts
        self.error: ValueError | OSError | None = None

    def __iter__(self) -> Iterator[str]:
        try:
            yield from self._texts
        except (ValueError, OSError) as error:
            self.error = error
            raise


def first_bytes(texts: Iterable[str], limit: int) -> Iterator[str]:
    """Texts up to a number of bytes; the last one is cut."""
    for text in texts:
        size = len(text.encode("utf-8"))
        if size >= limit:
            yield text.encode("utf-8")[:limit].decode("utf-8", errors="ignore")
            return
        limit -= size
        yield text


def _pieces(texts: Iterable[str]) -> Iterator[str]:
    """The texts in pieces that the trainer takes, cut before a space, where words end."""
    for text in texts:
        start = 0
        while start < len(text):
            stop = start + PIECE_OF_TEXT
            if stop < len(text):
                stop = max(text.rfind(" ", start + 1, stop), start) or stop
                stop = start + PIECE_OF_TEXT if stop == start else stop
            yield text[start:stop].replace("\0", "")
            start = stop
