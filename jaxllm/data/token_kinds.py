"""What kinds of tokens a vocabulary has: special ones, the mask, sentinels, and parts of words.

V vocabulary.
"""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from jaxllm.data.sentence_pieces import SPACE

_BYTE_SPACE = "\u0120"  # how byte-level vocabularies write a space
_MASKS = ("[MASK]", "<mask>")  # of BERT and of RoBERTa, where nothing names the role
_SENTINEL = re.compile(r"<extra_id_(\d+)>")  # of T5, the first span's with the number 0


class TokenKinds(NamedTuple):
    """Of a vocabulary's ids.

    special_ids: those that are no text. mask_id: the one that stands for a hidden token, if any.
    continues_word_V: whether each goes on with the word of the token before it; None where tokens
    are not parts of words. sentinel_ids: those that stand for hidden spans, the first span's first.
    """

    special_ids: tuple[int, ...]
    mask_id: int | None = None
    continues_word_V: np.ndarray | None = None
    sentinel_ids: tuple[int, ...] = ()


def kinds_of(
    pieces: Mapping[int, str],
    *,
    size: int,
    special_ids: Iterable[int],
    roles: Mapping[str, str] | None = None,
    prefix: str | None = None,
) -> TokenKinds:
    """The kinds of a vocabulary's spellings by id.

    prefix: of a piece that goes on with a word, as BERT's ##; None where those that begin one are
    marked, by a space. roles: special tokens by role, as mask_token.
    """
    special = tuple(sorted(special_ids))
    ids = {pieces[id_]: id_ for id_ in special if id_ in pieces}
    named = (roles or {}).get("mask_token")
    masks = [ids[name] for name in ([named] if named else _MASKS) if name in ids]
    continues_V = np.zeros(size, bool)
    for id_, piece in pieces.items():
        is_first = not piece.startswith(prefix) if prefix else piece[:1] in (SPACE, _BYTE_SPACE)
        continues_V[id_] = not is_first
    continues_V[list(special)] = False
    numbered = [(_SENTINEL.fullmatch(name), id_) for name, id_ in ids.items()]
    sentinels = sorted((int(found[1]), id_) for found, id_ in numbered if found)
    return TokenKinds(
        special,
        masks[0] if masks else None,
        continues_V,
        sentinel_ids=tuple(id_ for _, id_ in sentinels),
    )
