"""A conversation as token ids, of which those that the assistant says are scored.

T tokens of a conversation.
"""

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from jaxllm.data.chat_template import ChatTemplate
from jaxllm.data.chat_turns import render_turns
from jaxllm.data.conversation import Conversation
from jaxllm.data.huggingface_tokenizer import HuggingFaceTokenizer, first_characters

# Planes of Unicode for private use: no template looks for such a character, or makes one.
_PRIVATE = (0xF0000, 0x100000)


class ChatTokens(NamedTuple):
    """The tokens of a conversation.

    is_scored_T: whether a token is the assistant's, bool. stops: how many tokens there are until
    the end of each of its turns.
    """

    ids_T: np.ndarray
    is_scored_T: np.ndarray
    stops: np.ndarray


def encode_chat(
    conversation: Conversation, tokenizer: HuggingFaceTokenizer, template: ChatTemplate
) -> ChatTokens:
    """The tokens of a conversation.

    The text is `template.render`'s. Special tokens are those that the template writes; what is
    spelled like one in a message stays text, so that no data can end a turn or begin one. Apart
    from that the ids are transformers'. ValueError for a template that refuses the conversation, or
    does not show what the assistant says in it.
    """
    specials = tokenizer.special_spellings
    shield = _shield(conversation, specials)
    if not shield:
        rendered = render_turns(
            template, conversation.messages, tools=conversation.tools, specials=specials
        )
        ids_T, places = tokenizer.encode_located(rendered.text, parses_specials=True)
    else:
        messages = [_shielded(message, shield) for message in conversation.messages]
        tools = _shielded(conversation.tools, shield)
        rendered = render_turns(template, messages, tools=tools, specials=specials)
        text = template.render(conversation.messages, tools=conversation.tools)
        if shield.lifted(rendered.text) != text:
            raise ValueError(
                f"{template.name} treats special tokens that are spelled out in a message in a way "
                f"of its own, so they cannot be told from its own; take them out of the message"
            )
        ids_T, places = _encode_apart(rendered.text, text, tokenizer)
    return _scored(ids_T, places[:, 0], rendered.assistant_spans)


def turn_end(tokenizer: HuggingFaceTokenizer, template: ChatTemplate) -> int | None:
    """The special token that ends what the assistant says, None where the template has none."""
    messages = ({"role": "user", "content": "a"}, {"role": "assistant", "content": "b"})
    chat = encode_chat(Conversation(messages, None, "a probe"), tokenizer, template)
    last = int(chat.ids_T[chat.is_scored_T][-1])
    special_ids = {tokenizer.special_id(special) for special in tokenizer.special_spellings}
    return last if last in special_ids else None


def _scored(
    ids_T: np.ndarray, starts_T: np.ndarray, spans: Sequence[tuple[int, int]]
) -> ChatTokens:
    """A token is the assistant's if it begins in what it says."""
    begins, ends = np.asarray(spans, np.int64).T
    span_T = np.searchsorted(begins, starts_T, side="right") - 1
    is_scored_T = (span_T >= 0) & (starts_T < ends[span_T])
    stops = np.unique(np.searchsorted(starts_T, ends, side="left"))
    if not is_scored_T[1:].any():
        raise ValueError("no token begins in what the assistant says, so there is nothing to learn")
    return ChatTokens(ids_T, is_scored_T, stops)


class _Shield:
    """Puts another character in place of the first one of a special token's spelling."""

    def __init__(self, spellings: Sequence[str], plane: int) -> None:
        firsts = sorted({spelling[0] for spelling in spellings})
        self._pattern = re.compile(first_characters(spellings))
        self._given = {first: chr(plane + i) for i, first in enumerate(firsts)}
        self._lifted = str.maketrans({other: first for first, other in self._given.items()})

    def over(self, text: str) -> str:
        return self._pattern.sub(lambda match: self._given[match[0]], text)

    def lifted(self, text: str) -> str:
        return text.translate(self._lifted)


def _shield(conversation: Conversation, specials: Sequence[str]) -> _Shield | None:
    """What is needed where a message spells a special token; mostly nothing is."""
    texts = list(_texts([*conversation.messages, *(conversation.tools or ())]))
    if not any(special in text for special in specials for text in texts):
        return None
    for plane in _PRIVATE:
        is_free = all(ord(char) >> 16 != plane >> 16 for text in texts for char in text)
        if is_free:
            return _Shield(specials, plane)
    raise ValueError("a message has characters of both planes for private use (U+F0000, U+100000)")


def _texts(value: Any) -> list[str]:
    """All texts of a JSON value."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        return [text for key, one in value.items() for text in (key, *_texts(one))]
    return (
        [text for one in value for text in _texts(one)] if isinstance(value, list | tuple) else []
    )


def _shielded(value: Any, shield: _Shield) -> Any:
    if isinstance(value, str):
        return shield.over(value)
    if isinstance(value, Mapping):
        return {shield.over(key): _shielded(one, shield) for key, one in value.items()}
    return [_shielded(one, shield) for one in value] if isinstance(value, list | tuple) else value


def _encode_apart(
    shielded: str, text: str, tokenizer: HuggingFaceTokenizer
) -> tuple[np.ndarray, np.ndarray]:
    """The tokens of `text`, of which `shielded` shows the special ones.

    What lies between two special tokens, and spells one, is encoded by itself.
    """
    ids_T, places = tokenizer.encode_located(shielded, parses_specials=True)
    specials = frozenset(tokenizer.special_spellings)
    is_special = [shielded[start:stop].strip() in specials for start, stop in places.tolist()]
    edges = [-1, *(i for i, special in enumerate(is_special) if special), len(ids_T)]
    found = []
    for before, behind in pairwise(edges):
        start = int(places[before, 1]) if before >= 0 else 0
        stop = int(places[behind, 0]) if behind < len(ids_T) else len(text)
        if shielded[start:stop] == text[start:stop]:
            found.append((ids_T[before + 1 : behind + 1], places[before + 1 : behind + 1]))
            continue
        ids, own = tokenizer.encode_located(text[start:stop], parses_specials=False)
        found.append((ids, own + start))
        found.append((ids_T[behind : behind + 1], places[behind : behind + 1]))
    return np.concatenate([ids for ids, _ in found]), np.concatenate([own for _, own in found])
