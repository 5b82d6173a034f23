"""Tokenizers of the Hugging Face tokenizers library, with what comes along in a model's folder."""

import functools
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from jaxllm.data.chat_template import ChatTemplate
from jaxllm.data.token_kinds import TokenKinds, kinds_of
from jaxllm.data.tokenizer_card import CARD, token_dtype, write_card
from jaxllm.package_paths import located
from jaxllm.schema import Config

if TYPE_CHECKING:
    import tokenizers

    from jaxllm.data.marian_tokenizer import MarianTokenizer

MODEL_FILE = "tokenizer.json"
DELIMITER = "<|endoftext|>"
ORIGINAL_FOLDER = "original"
"""Where a saved tokenizer keeps the files that it was made of, as they were."""


class HuggingFaceTokenizerConfig(Config):
    """The tokenizer of a published model."""

    type: Literal["hf"] = "hf"
    """Kind of tokenizer: a published model's."""
    path: str
    """The model's folder, with a tokenizer of any kind that `jaxllm import` reads, the tokenizer's
    folder of a run, or a `tokenizer.json`; `package://NAME/FOLDER` is one of an installed
    package."""
    delimiter: str | None = None
    """The special token that opens each document; by default what the folder says, of a file
    `<|endoftext|>`."""

    def build(self, texts: Iterable[str] = ()) -> "HuggingFaceTokenizer | MarianTokenizer":
        """The tokenizer as it is; it learns nothing from `texts`."""
        try:
            path = located(self.path)
        except ValueError as error:
            raise ValueError(f"data.tokenizer.path: {error}") from error
        if path.is_dir():
            return self._of_folder(path)
        if not path.is_file():
            raise ValueError(f"there is no tokenizer at {path}; change `data.tokenizer.path`")
        if path.suffix != ".json":
            raise ValueError(
                f"data.tokenizer.path: {path} is no tokenizer.json; give the model's folder, which "
                f"may have a tokenizer of another kind. That of a .gguf file, and of a model that "
                f"runs its own code, has to be converted first, the former by `jaxllm import`"
            )
        return HuggingFaceTokenizer(
            path.read_bytes(),
            delimiter=self.delimiter or DELIMITER,
            name=f"data.tokenizer.path: {path}",
        )

    def _of_folder(self, path: Path) -> "HuggingFaceTokenizer | MarianTokenizer":
        # These modules build what this one describes, so that they stand on it.
        from jaxllm.data.model_tokenizer import load_model_tokenizer, read_model_tokenizer
        from jaxllm.data.tokenizer_folder import TokenizerFolder

        try:
            if (path / CARD).is_file():
                return load_model_tokenizer(path, delimiter=self.delimiter)
            tokenizer = read_model_tokenizer(TokenizerFolder(path), delimiter=self.delimiter)
        except ValueError as error:
            raise ValueError(f"data.tokenizer.path: {error}") from error
        if tokenizer is None:
            raise ValueError(f"there is no tokenizer at {path}; change `data.tokenizer.path`")
        return tokenizer


@dataclass(frozen=True)
class EncodedText:
    """A text, or a pair of texts, with the special tokens that its model expects around it."""

    ids: np.ndarray
    """Shape (tokens,), of the tokenizer's dtype."""
    type_ids: np.ndarray
    """0 for the first text and 1 for the second, shape (tokens,), uint8."""


class HuggingFaceTokenizer:
    """See `Tokenizer`; the ids are those of the tokenizers library.

    model: the bytes of a tokenizer.json. delimiter: the special token that opens each document.
    name: what an error calls it. stop_ids: the tokens that end an answer; by default the delimiter.
    special_tokens: what a chat template finds under `bos_token` and the like. chat_templates:
    sources by name. originals: the files that an export writes back, by name.
    """

    def __init__(
        self,
        model: bytes,
        *,
        delimiter: str,
        name: str,
        stop_ids: Sequence[int] = (),
        special_tokens: Mapping[str, str] | None = None,
        chat_templates: Mapping[str, str] | None = None,
        originals: Mapping[str, bytes] | None = None,
    ) -> None:
        self.name = name
        self.model, self.delimiter = model, delimiter
        self._tokenizer = self._load()
        # Special tokens that are spelled out in a text are text.
        self._tokenizer.encode_special_tokens = True
        self.vocab_size = 1 + max(self._tokenizer.get_vocab(with_added_tokens=True).values())
        self._dtype = token_dtype(self.vocab_size)
        added = self._tokenizer.get_added_tokens_decoder()
        self._special_ids = {token.content: id_ for id_, token in added.items() if token.special}
        self.delimiter_id = self._special_id(delimiter)
        self.stop_ids = tuple(stop_ids) or (self.delimiter_id,)
        self.fingerprint = hashlib.sha256(f"{delimiter}\n".encode() + model).hexdigest()
        self.special_tokens = dict(special_tokens or {})
        self.originals = dict(originals or {})
        self.chat_template = (
            ChatTemplate(
                chat_templates,
                special_tokens=self.special_tokens,
                name=f"the chat template of {name}",
            )
            if chat_templates
            else None
        )
        # What text must not become. The unknown token is no such: text that it stands for does.
        own = getattr(self._tokenizer.model, "unk_token", None)
        unknown = {own, self.special_tokens.get("unk_token")}
        forbidden = [id_ for token, id_ in self._special_ids.items() if token not in unknown]
        self._is_forbidden = np.zeros(self.vocab_size, bool)
        self._is_forbidden[[*forbidden, self.delimiter_id]] = True

    @classmethod
    def load(cls, folder: Path, card: Mapping[str, Any]) -> Self:
        """The tokenizer that `save` wrote into a folder with this card."""
        file = folder / MODEL_FILE
        return cls(
            file.read_bytes(),
            delimiter=card["delimiter"],
            name=str(file),
            stop_ids=card.get("stop_ids", ()),
            special_tokens=card.get("special_tokens"),
            chat_templates=card.get("chat_templates"),
            originals=read_originals(folder),
        )

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MODEL_FILE).write_bytes(self.model)
        write_originals(folder, self.originals)
        card = {
            "type": "hf",
            "delimiter": self.delimiter,
            "stop_ids": list(self.stop_ids),
            "special_tokens": self.special_tokens,
            "chat_templates": self.chat_template.templates if self.chat_template else {},
        }
        write_card(folder, card)

    def encode(self, text: str) -> np.ndarray:
        ids = self._encode(self._tokenizer, text)
        if self._is_forbidden[ids].any():
            ids = self._encode(self._guarded, text)
            if (ids == self.delimiter_id).any():
                raise ValueError(
                    f"{self.name} makes its delimiter {self.delimiter!r} of the text "
                    f"{text[:60]!r}; choose another `data.tokenizer.delimiter`"
                )
        return ids

    def encode_with_specials(
        self, text: str, pair: str | None = None, *, add: bool = True
    ) -> EncodedText:
        """What transformers gives for `tokenizer(text, pair)`: special tokens in a text are parsed.

        add: put around the text what the model expects there; False is for a rendered chat, which
        has it already. An empty `pair` is none, as in transformers.
        """
        if pair:
            encoding = self._parsing.encode(text, pair, add_special_tokens=add)
        else:
            encoding = self._parsing.encode(text, add_special_tokens=add)
        return EncodedText(
            np.asarray(encoding.ids, self._dtype), np.asarray(encoding.type_ids, np.uint8)
        )

    def decode(self, ids: Iterable[int] | np.ndarray) -> str:
        text = [int(token) for token in ids if token != self.delimiter_id]
        return self._tokenizer.decode(text, skip_special_tokens=False)

    def kinds(self) -> TokenKinds:
        vocabulary = self._tokenizer.get_vocab(with_added_tokens=True)
        return kinds_of(
            {id_: token for token, id_ in vocabulary.items()},
            size=self.vocab_size,
            special_ids=self._special_ids.values(),
            roles=self.special_tokens,
            prefix=getattr(self._tokenizer.model, "continuing_subword_prefix", None),
        )

    def special_id(self, token: str) -> int | None:
        """The id of a special token, None when there is no such."""
        return self._special_ids.get(token)

    def _encode(self, tokenizer: "tokenizers.Tokenizer", text: str) -> np.ndarray:
        return np.asarray(tokenizer.encode(text, add_special_tokens=False).ids, self._dtype)

    def _load(self) -> "tokenizers.Tokenizer":
        import tokenizers

        try:
            tokenizer = tokenizers.Tokenizer.from_str(self.model.decode("utf-8"))
        except Exception as error:  # the library raises no kind of its own, just Exception
            raise ValueError(
                f"{self.name} is not a Hugging Face tokenizer.json: {error}"
            ) from error
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer

    @functools.cached_property
    def _parsing(self) -> "tokenizers.Tokenizer":
        """The tokenizer that takes special tokens in a text for what they are."""
        return self._load()

    @functools.cached_property
    def _guarded(self) -> "tokenizers.Tokenizer":
        """The tokenizer that cannot spell a special token, though its vocabulary has it.

        A unigram model, or merges without a split before, may put together the characters of
        `</s>`. Cut off the first of them, they stay apart.
        """
        import tokenizers
        from tokenizers import pre_tokenizers

        tokenizer = self._load()
        tokenizer.encode_special_tokens = True
        cut = pre_tokenizers.Split(
            tokenizers.Regex(first_characters(self._special_ids)), behavior="isolated"
        )
        before = [tokenizer.pre_tokenizer] if tokenizer.pre_tokenizer is not None else []
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*before, cut])
        return tokenizer

    def _special_id(self, delimiter: str) -> int:
        """The id of the delimiter, which must be a special token: text cannot produce those."""
        if delimiter not in self._special_ids:
            raise ValueError(
                f"the tokenizer has no special token {delimiter!r}; it has "
                f"{', '.join(sorted(self._special_ids)) or 'none'}; change "
                f"`data.tokenizer.delimiter`"
            )
        return self._special_ids[delimiter]


def read_originals(folder: Path) -> dict[str, bytes]:
    """The files that a saved tokenizer was made of, by name."""
    root = folder / ORIGINAL_FOLDER
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


def write_originals(folder: Path, originals: Mapping[str, bytes]) -> None:
    """Keeps what `read_originals` reads."""
    for name, content in originals.items():
        path = folder / ORIGINAL_FOLDER / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def first_characters(spellings: Iterable[str]) -> str:
    """A pattern of the first character of each spelling, where the rest of it follows."""
    alternatives = [f"{re.escape(s[0])}(?={re.escape(s[1:])})" for s in sorted(spellings) if s]
    return "|".join(alternatives)
