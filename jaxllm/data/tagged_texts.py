"""Datasets of texts in words, of which each has a tag: where entities are, and of which type."""

import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
from pydantic import model_validator

from jaxllm.data.batch import Shapes
from jaxllm.data.dataset_error import DatasetError
from jaxllm.data.entity_tags import Entity, check_tags, tags_of
from jaxllm.data.example_frame import frame_of
from jaxllm.data.example_record import ExampleRecord
from jaxllm.data.example_table import ColumnKind, Encoded, Table
from jaxllm.data.examples import ExamplesConfig
from jaxllm.data.tagged_rows import TaggedRows, tagged_shapes
from jaxllm.data.token_places import encode_placed
from jaxllm.data.tokenizer import Tokenizer

TEXT, ENTITIES = "text", "entities"
"""The fields of a record whose entities are told by their places in a text."""
_WORD = re.compile(r"\w+|[^\w\s]")


class Words(NamedTuple):
    """A text as words.

    places: from which character to which each goes. told: by what its place is told in answers:
    the same, or the words' numbers.
    """

    text: str
    places: list[tuple[int, int]]
    told: list[tuple[int, int]]

    @property
    def inner(self) -> str:
        """The text from its first word to its last; white space around is no token of a row."""
        return self.text[self.places[0][0] : self.places[-1][1]]


class TaggedTextsConfig(ExamplesConfig):
    """Texts whose words have tags.

    A record has a list of words and one of their tags. One without such a list of words has a
    `text` and its `entities`, each with `start`, `end` (characters, the end not included) and
    `label`; its words are runs of letters and digits, and each other sign by itself.
    """

    type: Literal["tagged_texts"] = "tagged_texts"
    """Kind of dataset: words with tags."""
    words: str = "words"
    """Field of the list of words."""
    tag: str = "tags"
    """Field of the list of their tags, each by its name or its number in `tags`."""
    tags: tuple[str, ...]
    """Names of the tags, in order: O, and B- and I- with each type of entity."""

    columns: ClassVar[Mapping[str, ColumnKind]] = {
        "tokens": "tokens",
        "starts": "int32",
        "label": "int32",
        "text": "uint8",
        "places": "int32",
    }
    """What is kept: see `TaggedRows`; text and places where there is no label."""

    @model_validator(mode="after")
    def _tags_are_known(self) -> Self:
        check_tags(self.tags)
        return self

    @property
    def class_names(self) -> tuple[str, ...]:
        """The tags, in order."""
        return self.tags

    def texts(self, record: ExampleRecord) -> list[str]:
        return [self._words(record).inner]

    def encode(
        self, record: ExampleRecord, tokenizer: Tokenizer, *, is_labelled: bool = True
    ) -> list[Encoded]:
        words = self._words(record)
        ids, places = encode_placed(tokenizer, words.inner)
        word_places = np.asarray(words.places, np.int64)
        starts = first_tokens(places + words.places[0][0], word_places)
        fields = {"tokens": ids, "starts": starts}
        if not is_labelled:
            both = np.concatenate([word_places, np.asarray(words.told, np.int64)], axis=-1)
            text = np.frombuffer(words.text.encode("utf-8"), np.uint8)
            return [{**fields, "text": text, "places": both.ravel().astype(np.int32)}]
        tags = self._told_tags if self._is_text(record) else self._listed_tags
        fields["label"] = np.asarray(tags(record, words), np.int32)
        return [fields]

    def rows(self, table: Table, length: int, *, tokenizer: Tokenizer) -> TaggedRows:
        return TaggedRows(table, length, frame=frame_of(tokenizer, num_texts=1))

    def shapes(self, rows: int, length: int) -> Shapes:
        return tagged_shapes(rows, length)

    def _is_text(self, record: ExampleRecord) -> bool:
        """Whether a record has a text, and not a list of words."""
        return TEXT in record.fields and self.words not in record.fields

    def _words(self, record: ExampleRecord) -> Words:
        return _found(record) if self._is_text(record) else _joined(record, self.words)

    def _listed_tags(self, record: ExampleRecord, words: Words) -> list[int]:
        given = record.listed(self.tag, key="tag")
        if len(given) != len(words.places):
            raise _error(
                "tag", record, f"{len(given)} {self.tag!r}, but {len(words.places)} {self.words!r}"
            )
        return [self._number(record, number, tag, words) for number, tag in enumerate(given)]

    def _number(self, record: ExampleRecord, number: int, tag: Any, words: Words) -> int:
        """Which tag that is, by its name, or by its number in `tags`."""
        if isinstance(tag, str) and tag in self.tags:
            return self.tags.index(tag)
        if isinstance(tag, int) and not isinstance(tag, bool) and 0 <= tag < len(self.tags):
            return tag
        first, stop = words.places[number]
        raise _error(
            "tag",
            record,
            f"word {number}, {words.text[first:stop]!r}, has the tag {tag!r}, which is not one of "
            f"{', '.join(self.tags)}; add it to `tags`, or repair the record",
        )

    def _told_tags(self, record: ExampleRecord, words: Words) -> list[int]:
        """Of a text with the places of its entities."""
        entities = [
            self._entity(record, number, one, words)
            for number, one in enumerate(record.objects(ENTITIES, key="source"))
        ]
        entities.sort()
        for number, (one, other) in enumerate(pairwise(entities)):
            if other.first < one.stop:
                raise _error(
                    "source",
                    record,
                    f"entities {number} and {number + 1}, in order of their places, overlap",
                )
        numbers = {tag: number for number, tag in enumerate(self.tags)}
        return [numbers[tag] for tag in tags_of(entities, num_words=len(words.places))]

    def _entity(
        self, record: ExampleRecord, number: int, told: Mapping[str, Any], words: Words
    ) -> Entity:
        missing = [name for name in ("start", "end", "label") if name not in told]
        if missing:
            raise _error("source", record, f"{ENTITIES}[{number}] has no {missing[0]!r}")
        start, end, label = told["start"], told["end"], str(told["label"])
        types = {tag[2:] for tag in self.tags if f"I-{tag[2:]}" in self.tags}
        if label not in types:
            raise _error(
                "source",
                record,
                f"{ENTITIES}[{number}] has the label {label!r}, but `tags` has no B-{label} and "
                f"I-{label}; add them, or repair the record",
            )
        first = next((i for i, place in enumerate(words.places) if place[0] == start), None)
        last = next((i for i, place in enumerate(words.places) if place[1] == end), None)
        if first is None or last is None or last < first:
            raise _error(
                "source",
                record,
                f"{ENTITIES}[{number}], from {start} to {end}, does not begin and end where words "
                "do; let it have whole words, without the spaces around them",
            )
        return Entity(first, last + 1, label)


def first_tokens(token_places: np.ndarray, word_places: np.ndarray) -> np.ndarray:
    """Which token each word begins with; as far as where the next word's is, they are its own.

    token_places, word_places: characters of one text, (T, 2) and (W, 2). A token is of the word
    that it begins in; one that is nothing but a space is of the word behind it. A word that no
    token begins in has where the next one begins.
    """
    word_of = np.searchsorted(word_places[:, 0], token_places[:, 0], side="right") - 1
    is_of_word = (token_places[:, 0] < word_places[word_of, 1]) & (word_of >= 0)
    starts = np.full(len(word_places), len(token_places), np.int64)
    tokens = np.flatnonzero(is_of_word)
    np.minimum.at(starts, word_of[tokens], tokens)
    return np.minimum.accumulate(starts[::-1])[::-1].astype(np.int32)


def _joined(record: ExampleRecord, field: str) -> Words:
    """A list of words, as a text with a space between them, as tokenizers know words."""
    words = record.texts(field, key="words")
    if not any(word.strip() for word in words):
        raise _error("words", record, f"{field!r} has no word; leave the record out of the data")
    places, at = [], 0
    for word in words:
        places.append((at, at + len(word)))
        at += len(word) + 1
    return Words(" ".join(words), places, [(n, n + 1) for n in range(len(words))])


def _found(record: ExampleRecord) -> Words:
    """The words of a text."""
    text = record.text(TEXT, key="source")
    places = [match.span() for match in _WORD.finditer(text)]
    return Words(text, places, places)


def _error(key: str, record: ExampleRecord, problem: str) -> DatasetError:
    return DatasetError(key, f"{record.where}: {problem}")
