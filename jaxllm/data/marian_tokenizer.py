"""Marian's tokenizer (https://aclanthology.org/P18-4020): two SentencePiece models, one vocabulary.

A text is cut by the model of its side, and the pieces get the ids of vocab.json, in which either
side's may be missing. A run of characters that the model does not know is looked up as a whole.
`>>fra<<` at the beginning of a text is one token: the language to translate into.
"""

import functools
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from jaxllm.data.chat_template import ChatTemplate
from jaxllm.data.huggingface_tokenizer import EncodedText, read_originals, write_originals
from jaxllm.data.sentence_pieces import SPACE
from jaxllm.data.token_kinds import TokenKinds, kinds_of
from jaxllm.data.tokenizer_card import token_dtype, write_card

SOURCE, TARGET, VOCABULARY = "source.spm", "target.spm", "vocab.json"
LANGUAGE = re.compile(r">>.*?<<", re.DOTALL)


class MarianTokenizer:
    """See `Tokenizer`; the ids are those of transformers. It encodes texts of the source's side.

    source, target: the bytes of the `.spm` files. vocabulary: id by token, added ones included.
    added: the tokens that are found in a text before it is cut, and whether they are special.
    special_tokens: by role; there are eos_token and unk_token. delimiter: the special token that
    opens each document. stop_ids: the tokens that end an answer; by default the delimiter. name:
    what an error calls it. originals: the files that an export writes back, by name.
    """

    chat_template: ChatTemplate | None = None

    def __init__(
        self,
        source: bytes,
        target: bytes,
        vocabulary: Mapping[str, int],
        *,
        added: Mapping[str, bool],
        special_tokens: Mapping[str, str],
        delimiter: str,
        stop_ids: Sequence[int] = (),
        name: str,
        originals: Mapping[str, bytes] | None = None,
    ) -> None:
        import sentencepiece

        try:
            self._pieces = sentencepiece.SentencePieceProcessor(model_proto=source)
            sentencepiece.SentencePieceProcessor(model_proto=target)
        except RuntimeError as error:
            raise ValueError(f"{name} is not two SentencePiece models") from error
        self.name, self._source, self._target = name, source, target
        self._vocabulary, self._added = dict(vocabulary), dict(added)
        self._tokens = {id_: token for token, id_ in vocabulary.items()}
        self.special_tokens = dict(special_tokens)
        self.originals = dict(originals or {})
        self.vocab_size = 1 + max(self._tokens)
        self._dtype = token_dtype(self.vocab_size)
        self.delimiter = delimiter
        self.delimiter_id = self._delimiter_id()
        self._end_id = self._vocabulary[self.special_tokens["eos_token"]]
        self._unknown_id = self._vocabulary[self.special_tokens["unk_token"]]
        self.stop_ids = tuple(stop_ids) or (self.delimiter_id,)
        longest_first = sorted(map(re.escape, self._added), key=len, reverse=True)
        self._cut = re.compile(f"({'|'.join(longest_first)})")
        ids = json.dumps([delimiter, self._vocabulary, self._added]).encode()
        parts = (source, target, ids)
        digests = [hashlib.sha256(part).hexdigest() for part in parts]
        self.fingerprint = hashlib.sha256(" ".join(digests).encode()).hexdigest()

    def kinds(self) -> TokenKinds:
        special = [id_ for token, id_ in self._vocabulary.items() if self._added.get(token)]
        return kinds_of(self._tokens, size=self.vocab_size, special_ids=special)

    @functools.cached_property
    def target(self) -> "MarianTokenizer":
        """The same for texts of the target's side: what the decoder gets."""
        return MarianTokenizer(
            self._target,
            self._target,
            self._vocabulary,
            added=self._added,
            special_tokens=self.special_tokens,
            delimiter=self.delimiter,
            stop_ids=self.stop_ids,
            name=self.name,
        )

    @classmethod
    def load(cls, folder: Path, card: Mapping[str, Any]) -> Self:
        """The tokenizer that `save` wrote into a folder with this card."""
        return cls(
            (folder / SOURCE).read_bytes(),
            (folder / TARGET).read_bytes(),
            json.loads((folder / VOCABULARY).read_text(encoding="utf-8")),
            added=card["added"],
            special_tokens=card["special_tokens"],
            delimiter=card["delimiter"],
            stop_ids=card["stop_ids"],
            name=str(folder),
            originals=read_originals(folder),
        )

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / SOURCE).write_bytes(self._source)
        (folder / TARGET).write_bytes(self._target)
        (folder / VOCABULARY).write_text(json.dumps(self._vocabulary), encoding="utf-8")
        write_originals(folder, self.originals)
        card = {
            "type": "marian",
            "added": self._added,
            "special_tokens": self.special_tokens,
            "delimiter": self.delimiter,
            "stop_ids": list(self.stop_ids),
        }
        write_card(folder, card)

    def encode(self, text: str) -> np.ndarray:
        ids = self._encode(text)
        # A run of unknown characters may spell a special token.
        special = [id_ for token in self._added if (id_ := self.special_id(token)) is not None]
        return np.where(np.isin(ids, special), self._dtype.type(self._unknown_id), ids)

    def encode_with_specials(
        self, text: str, pair: str | None = None, *, add: bool = True
    ) -> EncodedText:
        """What transformers gives for `tokenizer(text, pair)`: special tokens in a text are parsed.

        add: put the end behind the text. A pair is the two texts, one end behind both.
        """
        first = self._parse(text)
        second = self._parse(pair) if pair else first[:0]
        end = np.asarray([self._end_id] if add else [], self._dtype)
        ids = np.concatenate([first, second, end])
        # As in transformers, which counts an end behind the first text too.
        type_ids = (np.arange(len(ids)) >= len(first) + len(end)).astype(np.uint8)
        return EncodedText(ids, type_ids)

    def decode(self, ids: Iterable[int] | np.ndarray) -> str:
        text, run = "", list[str]()
        for id_ in map(int, ids):
            token = self._tokens.get(id_)
            if token is None:
                raise ValueError(f"{self.name} has no token {id_}")
            if self.special_id(token) is None:
                run.append(token)
            elif id_ != self.delimiter_id:
                text, run = f"{text}{self._pieces.decode_pieces(run)}{token} ", []
        return (text + self._pieces.decode_pieces(run)).replace(SPACE, " ").strip()

    def special_id(self, token: str) -> int | None:
        """The id of a special token, None when there is no such."""
        return self._vocabulary[token] if self._added.get(token) else None

    def _delimiter_id(self) -> int:
        id_ = self.special_id(self.delimiter)
        if id_ is None:
            raise ValueError(
                f"{self.name} has no special token {self.delimiter!r}; it has "
                f"{', '.join(token for token in self._added if self._added[token])}; change "
                f"`data.tokenizer.delimiter`"
            )
        return id_

    def _parse(self, text: str) -> np.ndarray:
        """The ids of a text whose added tokens are taken for what they are."""
        none = np.zeros(0, self._dtype)
        parts = [
            np.asarray([self._vocabulary[part]], self._dtype)
            if part in self._added
            else self._encode(part)
            for part in self._cut.split(text)
            if part
        ]
        return np.concatenate([none, *parts])

    def _encode(self, text: str) -> np.ndarray:
        language = LANGUAGE.match(text)
        code = [language[0]] if language else []
        pieces = self._pieces.encode(text[language.end() :] if language else text, out_type=str)
        ids = [self._vocabulary.get(piece, self._unknown_id) for piece in (*code, *pieces)]
        return np.asarray(ids, self._dtype)
