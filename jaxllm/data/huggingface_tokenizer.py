"""Tokenizers of the Hugging Face tokenizers library, with what comes along in a model's folder."""

import functools
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from jaxllm.data.chat_template import DEFAULT, TEMPLATE_FILE, ChatTemplate
from jaxllm.data.token_kinds import TokenKinds, kinds_of
from jaxllm.data.tokenizer_card import token_dtype, write_card

if TYPE_CHECKING:
    import tokenizers

MODEL_FILE = "tokenizer.json"
ORIGINAL_FOLDER = "original"
"""Where a saved tokenizer keeps the files that it was made of, as they were."""


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
        self.chat_template: ChatTemplate | None = None
        if chat_templates:
            self._set_templates(chat_templates, name=f"the chat template of {name}")
        # What text must not become. The unknown token is no such: text that it stands for does.
        own = getattr(self._tokenizer.model, "unk_token", None)
        unknown = {own, self.special_tokens.get("unk_token")}
        forbidden = [id_ for token, id_ in self._special_ids.items() if token not in unknown]
        self._is_forbidden = np.zeros(self.vocab_size, bool)
        self._is_forbidden[[*forbidden, self.delimiter_id]] = True

    def replace_chat_template(self, source: bytes, *, name: str) -> None:
        """Takes another chat template in place of its own. ValueError for one that is no UTF-8."""
        try:
            self._set_templates({DEFAULT: source.decode("utf-8")}, name=name)
        except UnicodeDecodeError as error:
            raise ValueError(f"{name} is not UTF-8: byte {error.start}") from error
        if self.originals:  # written back, and read there before any other
            self.originals[TEMPLATE_FILE] = source

    def _set_templates(self, templates: Mapping[str, str], *, name: str) -> None:
        self.chat_template = ChatTemplate(templates, special_tokens=self.special_tokens, name=name)

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

    def encode_located(self, text: str, *, parses_specials: bool) -> tuple[np.ndarray, np.ndarray]:
        """The ids of a text alone, and the characters that each stands for, (tokens, 2).

        parses_specials: whether special tokens in the text are such, or characters.
        """
        tokenizer = self._parsing if parses_specials else self._tokenizer
        encoding = tokenizer.encode(text, add_special_tokens=False)
        if not parses_specials and self._is_forbidden[encoding.ids].any():
            encoding = self._guarded.encode(text, add_special_tokens=False)
        places = np.asarray(encoding.offsets, np.int64).reshape(-1, 2)
        return np.asarray(encoding.ids, self._dtype), places

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

    @functools.cached_property
    def special_spellings(self) -> tuple[str, ...]:
        """All special tokens as they are spelled, in the order of their ids."""
        return tuple(sorted(self._special_ids, key=self._special_ids.__getitem__))

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
