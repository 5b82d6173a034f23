"""What stands around the texts of a row: the special tokens that a model expects there."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxllm.data.tokenizer import Tokenizer

_PROBES = ("a", "b")  # texts whose tokens are found again among the special ones


class Piece(NamedTuple):
    """Special tokens, and of each which text of a pair it belongs to."""

    ids: np.ndarray
    types: np.ndarray


class Frame(NamedTuple):
    """The special tokens before, between and behind the texts of a row, and what fills it up.

    types: of each text, which one of a pair its tokens are told to be.
    """

    pieces: tuple[Piece, ...]
    types: tuple[int, ...]
    padding_id: int

    @property
    def num_special(self) -> int:
        """How many tokens of a row are no text."""
        return sum(len(piece.ids) for piece in self.pieces)

    def around(self, texts: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """The tokens of a row without its filling, and which text of a pair each is of."""
        ids, types = [self.pieces[0].ids], [self.pieces[0].types]
        for text, type_, piece in zip(texts, self.types, self.pieces[1:], strict=True):
            ids += [text, piece.ids]
            types += [np.full(len(text), type_), piece.types]
        return np.concatenate(ids), np.concatenate(types)


def frame_of(tokenizer: Tokenizer, *, num_texts: int) -> Frame:
    """The frame of one text or of a pair.

    As the tokenizer has it; one that puts nothing around a text opens each with the delimiter, as
    documents are.
    """
    probes = [tokenizer.encode(probe) for probe in _PROBES[:num_texts]]
    with_specials: Any = getattr(tokenizer, "encode_with_specials", None)
    if with_specials is not None:
        encoded = with_specials(*_PROBES[:num_texts])
        if len(encoded.ids) > sum(map(len, probes)):
            return _around(probes, encoded.ids, encoded.type_ids, _padding_id(tokenizer))
    opening = [
        Piece(np.asarray([tokenizer.delimiter_id]), np.asarray([i])) for i in range(num_texts)
    ]
    end = Piece(np.zeros(0, np.int64), np.zeros(0, np.int64))
    return Frame((*opening, end), tuple(range(num_texts)), _padding_id(tokenizer))


def _around(
    probes: list[np.ndarray], ids: np.ndarray, type_ids: np.ndarray, padding_id: int
) -> Frame:
    pieces, types, at = [], [], 0
    for probe in probes:
        places = range(at, len(ids) - len(probe) + 1)
        found = (n for n in places if np.array_equal(ids[n : n + len(probe)], probe))
        start = next(found, None)
        if start is None:
            raise ValueError(
                "the tokenizer encodes a text that stands between special tokens in another way "
                "than the text alone, so rows cannot be made of it; choose another `data.tokenizer`"
            )
        pieces.append(Piece(ids[at:start], type_ids[at:start]))
        types.append(int(type_ids[start]))
        at = start + len(probe)
    pieces.append(Piece(ids[at:], type_ids[at:]))
    return Frame(tuple(pieces), tuple(types), padding_id)


def _padding_id(tokenizer: Tokenizer) -> int:
    """The tokenizer's own, where it has one; nothing sees it."""
    named = getattr(tokenizer, "special_tokens", {}).get("pad_token")
    found = None if named is None else getattr(tokenizer, "special_id", lambda _: None)(named)
    return tokenizer.delimiter_id if found is None else found
