"""Which characters of a text its tokens stand for.

T tokens.
"""

from itertools import accumulate

import numpy as np

from jaxllm.data.huggingface_tokenizer import HuggingFaceTokenizer
from jaxllm.data.sentence_pieces import SentencePieceTokenizer
from jaxllm.data.tokenizer import ByteTokenizer, Tokenizer

_SPACES = np.array([code for code in range(0x3001) if chr(code).isspace()], np.uint32)


def encode_placed(tokenizer: Tokenizer, text: str) -> tuple[np.ndarray, np.ndarray]:
    """The ids of a text, and from where to where in it each token's characters go, (T, 2).

    White space around them is not counted; a token of nothing else is empty, its end its begin.
    Tokens that share a character have the same one. ValueError for a tokenizer that does not tell.
    """
    match tokenizer:
        case HuggingFaceTokenizer():
            ids, places = tokenizer.encode_located(text, parses_specials=False)
        case ByteTokenizer():
            ids = tokenizer.encode(text)
            places = _of_bytes(text, np.arange(len(ids) + 1))
        case SentencePieceTokenizer():
            ids = tokenizer.encode(text)
            places = _of_pieces(tokenizer, ids, text)
        case _:
            raise ValueError(
                f"a {type(tokenizer).__name__} does not tell which characters a token stands for; "
                "give a `data.tokenizer` of type sentencepiece or byte, or a model with a "
                "tokenizer.json"
            )
    return ids, _without_spaces(places, text)


def _of_pieces(tokenizer: SentencePieceTokenizer, ids: np.ndarray, text: str) -> np.ndarray:
    """By what the pieces spell, which has to be the text."""
    spelled = tokenizer.spelled(ids)
    stops = np.asarray(list(accumulate(map(len, spelled), initial=0)), np.int64)
    whole, given = b"".join(spelled), text.encode("utf-8")
    if whole == b" " + given:  # some models write a space before each text
        stops = np.maximum(stops - 1, 0)
    elif whole != given:
        raise ValueError(
            "this SentencePiece model changes the text that it encodes, so the place of an answer "
            "or of a word in it is not known; choose another `data.tokenizer`"
        )
    return _of_bytes(text, stops)


def _of_bytes(text: str, stops: np.ndarray) -> np.ndarray:
    """Places of tokens that each go from one of these bytes of UTF-8 to the next; (T, 2)."""
    units = np.frombuffer(text.encode("utf-8"), np.uint8)
    begins = (units & 0xC0) != 0x80  # the others go on with a character
    char_of_unit = np.cumsum(begins) - 1
    char_of_unit = np.append(char_of_unit, len(text))
    first, stop = char_of_unit[stops[:-1]], char_of_unit[np.maximum(stops[1:] - 1, 0)] + 1
    return np.stack([first, np.where(stops[1:] > stops[:-1], stop, first)], axis=-1)


def _without_spaces(places: np.ndarray, text: str) -> np.ndarray:
    codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    is_space = np.isin(codes, _SPACES)
    # Where the next character stands that is no space, and behind which the last one.
    inked = np.append(np.flatnonzero(~is_space), len(text))
    first = inked[np.searchsorted(inked[:-1], places[:, 0])]
    last = np.searchsorted(inked[:-1], places[:, 1]) - 1
    stop = np.where(last >= 0, inked[np.maximum(last, 0)] + 1, 0)
    is_empty = first >= stop
    first, stop = (np.where(is_empty, places[:, 1], one) for one in (first, stop))
    return np.stack([first, stop], axis=-1)
